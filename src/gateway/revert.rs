//! Undoing what an operation did.
//!
//! A reversal is an operation like any other: accepted durably, merged with others, applied to the set that its lane then
//! finds. What it can undo is decided there, target by target; here it is only checked whether there is anything to undo,
//! and whether the caller may.

use std::collections::BTreeSet;

use futures_util::future::try_join_all;

use super::{
    About, Error, Gateway, KeyedRequest, Submitted, actor,
    name_lookup::KnownGroup,
    request::{RefusedRequest, RequestSubject, RevertRequest},
    resolve::{NameResolver, Resolved},
};
use crate::{
    domain::{
        Caller, Change, DesiredAssignment, Operation, OperationId, Reversal, Target, change::KeptReason,
        operation::Submission, reversal::Cause,
    },
    graph,
    policy::Resource,
    store::{self, IdempotencyKey},
    telemetry,
};

/// How often a reversal is made anew because something else was reverted meanwhile.
const ATTEMPTS_MAX: u32 = 100;

/// What a reversal was made for and on top of.
pub(super) struct ReversalBasis {
    /// The operation whose end it carries out, if it does.
    pub(super) ends: Option<OperationId>,
    /// What it depends on of what had been reverted by then, since the operation that it undoes took effect.
    pub(super) reverted_since: Vec<OperationId>,
}

impl Gateway {
    /// Accepts the reversal of an operation. One that the caller may not read is as unknown as one that does not exist.
    pub async fn revert(
        &self,
        caller: &Caller,
        id: OperationId,
        request: RevertRequest,
        attempt: Option<KeyedRequest>,
    ) -> Result<Submitted, Error> {
        let asked = RefusedRequest { of: RequestSubject::Operation(id), ticket: request.ticket.clone() };
        match self.revert_or_refuse(caller, id, request, attempt).await {
            Err(error) => Err(self.record_refused_change(caller, asked, error).await),
            submitted @ Ok(_) => submitted,
        }
    }

    async fn revert_or_refuse(
        &self,
        caller: &Caller,
        id: OperationId,
        request: RevertRequest,
        attempt: Option<KeyedRequest>,
    ) -> Result<Submitted, Error> {
        let key = attempt.map(|attempt| self.key(attempt));
        if let Some(key) = &key
            && let Some(known) = self.store.find_by_key(&caller.name, key).await?
        {
            return self.replayed(known).await;
        }
        let original = self.readable_operation(caller, id).await?;
        for _ in 0..ATTEMPTS_MAX {
            if let Some(submitted) =
                self.revert_unless_outdated(caller, &original, request.clone(), key.clone()).await?
            {
                return Ok(submitted);
            }
        }
        let detail = "other operations of the configuration are being reverted, again and again".to_owned();
        Err(Error::Store(store::Error::Unavailable(detail)))
    }

    /// Accepts the reversal, unless something else was reverted while it was made.
    async fn revert_unless_outdated(
        &self,
        caller: &Caller,
        original: &Operation,
        request: RevertRequest,
        key: Option<IdempotencyKey>,
    ) -> Result<Option<Submitted>, Error> {
        let (reversal, reverted_since) = self.reversal(original, Cause::Asked, &BTreeSet::new()).await?;
        let Some(reversal) = reversal else { return Err(Error::NothingToRevert(Box::new(original.clone()))) };
        let resolved = self.in_time(self.resolver.resolve_reversal(original, reversal)).await?;
        let RevertRequest { ticket, requested_for, comment, only_on, callback } = request;
        let callback = self.callback(caller, callback.as_ref())?;
        let undoing = self.undoing(original, &resolved);
        let submission = Submission {
            caller: caller.name.clone(),
            ticket: ticket.or(undoing.ticket),
            requested_for: requested_for.or(undoing.requested_for),
            comment,
            only_on,
            callback,
            traceparent: telemetry::traceparent(),
            ..undoing
        };
        let ticket = submission.ticket.clone();
        let resource = Resource { configuration: &resolved.configuration, tags: &resolved.tags };
        match self.policies.decide_reversal(caller, resource, submission, original) {
            Ok(permit) => {
                self.names_suffice(caller, resolved.unnamed.as_ref())?;
                let basis = ReversalBasis { ends: None, reverted_since };
                self.accept_reversal(actor(caller), permit, key, Some(basis)).await
            }
            Err(denial) => {
                let (configuration, change) = (&resolved.configuration.id, Some(&resolved.change));
                let recorded = self.record_denial(caller, About { configuration, change, ticket }, &denial).await;
                // Whoever may read the operation may know what it is about.
                let reason = format!("{denial} on {:?}. Nothing was changed.", original.submission.configuration_name);
                Err(if matches!(recorded, Error::Denied(_)) { Error::Denied(reason) } else { recorded })
            }
        }
    }

    /// What undoes an operation now, except on these targets; none if that is nothing. Also what has been reverted since, on which
    /// that is based: what an earlier operation had made is then not restored, as it would stay though somebody or its own end has
    /// undone it. Whoever reverts a reversal does want to restore what that one has undone.
    pub(super) async fn reversal(
        &self,
        operation: &Operation,
        cause: Cause,
        except: &BTreeSet<Target>,
    ) -> Result<(Option<Reversal>, Vec<OperationId>), Error> {
        let Some(reversal) = Reversal::of(operation, cause) else { return Ok((None, Vec::new())) };
        let redone = operation.submission.change.reversal().map(Reversal::operation);
        let since = self.store.reverted_since(operation).await?;
        let undone = since.iter().filter(|undone| Some(undone.id) != redone);
        let reversal = undone.fold(reversal, Reversal::rebased).sparing(except);
        let depends_on = reversal.as_ref().map_or_else(Vec::new, |it| it.depends_on(&since));
        Ok((reversal, depends_on))
    }

    /// The submission that undoes an operation; it inherits the rest, since it is about the same matter.
    pub(super) fn undoing(&self, original: &Operation, resolved: &Resolved) -> Submission {
        let Resolved { configuration, change, names, .. } = resolved;
        Submission {
            configuration: configuration.id.clone(),
            configuration_name: configuration.name.clone(),
            change: change.clone(),
            names: names.clone(),
            accepted_at: self.clock.now(),
            only_on: None,
            until: None,
            approval: None,
            ..original.submission.clone()
        }
    }
}

impl NameResolver {
    /// What a reversal may still do: a group that no longer exists in the directory is not assigned again, nor is a target
    /// that the configuration does not accept.
    pub(super) async fn resolve_reversal(&self, operation: &Operation, reversal: Reversal) -> Result<Resolved, Error> {
        let Submission { configuration, configuration_name, names, .. } = &operation.submission;
        let gone = || {
            let (reference, candidates) = (configuration_name.clone(), Vec::new());
            Error::UnknownConfiguration { reference, candidates }
        };
        let configuration = self.names().configuration(configuration).await?.ok_or_else(gone)?;
        let mut names = names.clone();
        let mut gone = BTreeSet::new();
        // Those that are put back must exist; of the others only the name is of interest, which policies may look at.
        let put_back: BTreeSet<_> = reversal.put_back().iter().map(|it| &it.target).collect();
        let to_look_up = |target: &&Target| match target {
            Target::Group(id) => put_back.contains(target) || !names.contains_key(&id.to_string()),
            Target::ExcludedGroup(_) | Target::AllDevices | Target::AllUsers | Target::Foreign(_) => false,
        };
        // All at once, because lookups that are waiting at the same time share calls to Graph.
        let groups = reversal.targets().into_iter().filter(to_look_up).filter_map(|target| match target {
            Target::Group(id) => {
                Some(async move { Ok::<_, graph::Error>((target, id, self.names().group(*id).await?)) })
            }
            Target::ExcludedGroup(_) | Target::AllDevices | Target::AllUsers | Target::Foreign(_) => None,
        });
        let mut unnamed = None;
        for (target, id, known) in try_join_all(groups.collect::<Vec<_>>()).await? {
            match known {
                Some(KnownGroup::Named(name)) => drop(names.insert(id.to_string(), name)),
                Some(KnownGroup::Unchecked) if !names.contains_key(&id.to_string()) => {
                    unnamed = Some(id.to_string());
                }
                Some(KnownGroup::Unchecked) => {}
                None => drop(gone.insert(target.clone())),
            }
        }
        let reversal = reversal.without(|assignment| {
            let assignable = configuration.kind.check_accepts(&DesiredAssignment::from(assignment)).is_ok();
            let gone = gone.contains(&assignment.target).then_some(KeptReason::GroupGone);
            gone.or_else(|| (!assignable).then_some(KeptReason::NotAssignable))
        });
        let tags = self.tags(&configuration.id);
        Ok(Resolved { configuration, tags, change: Change::Revert(reversal), names, unnamed })
    }
}
