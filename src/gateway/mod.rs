//! The verbs that callers have: submit, plan, cancel, revert, approve, reject, read one operation or many, wait for an end;
//! configurations, the assignments of one, and what reaches a group; audit records.
//!
//! Every verb takes an authenticated [`Caller`] and asks policy first; storing a change takes the [`Permit`] that only
//! policy makes. REST handlers and webhooks both end here.
//!
//! Guarantees: a change is accepted wholly or not at all; a denied or refused call is in the audit trail, or counted for
//! it, before it is answered; acceptance leaves nothing to do that a crash could prevent.
//!
//! It deliberately writes nothing to Graph. It reads from Graph: to resolve names, to plan, and to show assignments.

mod approval;
mod cache;
mod callback;
mod cancel;
mod candidates;
mod configurations;
mod current;
mod denials;
mod error;
mod lookup_quota;
pub mod message;
mod name_lookup;
mod operations;
mod references;
pub mod request;
mod resolve;
mod revert;
mod submit;
mod tags;
mod targets;
#[cfg(test)]
mod tests;
mod trail;
mod until;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use moka::future::Cache;
use tokio_util::sync::CancellationToken;

pub use self::{
    approval::Say,
    callback::CallbackRules,
    candidates::{Candidate, question},
    configurations::{
        ConfigurationAssignments, ConfigurationList, GroupReach, ReachingAssignment, TaggedConfiguration,
    },
    current::Current,
    error::{Error, listed},
    operations::{FollowUps, OperationStatus, Page, Parked, Search, callbacks},
    trail::{AuditSearch, Cursor, Records},
};
use self::{
    configurations::{SharedSets, called},
    denials::Denials,
    lookup_quota::LookupQuotas,
    name_lookup::NameLookup,
    request::{ChangeRequest, RefusedRequest},
    resolve::{NameResolver, Resolved},
    revert::ReversalBasis,
};
use crate::{
    audit::{Actor, Entry, Event, RecordedChange},
    clock::Clock,
    config,
    domain::{
        Caller, Change, Configuration, ConfigurationId, Difference, Digest, MergeOutcome, Operation, OperationId,
        merge,
        operation::{Submission, Until},
    },
    graph::Upstream,
    policy::{Action, Permit, Policies, Resource},
    store::{self, Acceptance, Accepted, IdempotencyKey, LimitReached, PendingLimits, Store},
    telemetry,
};

/// Lanes whose pauses are cached; more than a tenant has configurations.
const PAUSES_MAX: u64 = 1_000;

/// An authenticated identity that is no configured caller.
#[derive(Clone, Debug)]
pub struct UnknownIdentity {
    /// The configured name of its issuer.
    pub issuer: String,
    /// The token's subject.
    pub subject: String,
    /// The token's own id.
    pub token_id: Option<String>,
    /// Why it is no configured caller.
    pub reason: String,
}

/// The caller's key for an attempt, and what it requested under that key.
#[derive(Clone, Debug)]
pub struct KeyedRequest {
    /// The value of `Idempotency-Key`.
    pub key: String,
    /// Digest of the body in canonical form.
    pub fingerprint: Digest,
}

/// An accepted change.
#[derive(Clone, Debug)]
pub struct Submitted {
    /// Its operation, in its current state.
    pub operation: Operation,
    /// Whether it was accepted by an earlier attempt under the same key.
    pub replayed: bool,
}

/// What a change would do to the present set.
#[derive(Clone, Debug)]
pub struct Planned {
    /// The configuration.
    pub configuration: Configuration,
    /// The difference it would make.
    pub difference: Difference,
    /// Display names by id.
    pub names: BTreeMap<String, String>,
    /// Digest of the present set.
    pub before: Digest,
    /// Digest of the set after the change.
    pub after: Digest,
    /// What would permit it, or why policy would deny it.
    pub decision: Result<Permission, String>,
}

/// What would permit a change.
#[derive(Clone, Debug)]
pub struct Permission {
    /// The ids of the policies.
    pub policies: Vec<String>,
    /// The names of the approvals without which it would not begin; none if it would begin at once.
    pub approvals: Vec<String>,
}

/// What the gateway is built from.
#[derive(Debug)]
pub struct Dependencies {
    /// Where operations are stored.
    pub store: Arc<dyn Store>,
    /// Where names and assignment sets are read.
    pub upstream: Arc<dyn Upstream>,
    /// Who may do what.
    pub policies: Policies,
    /// The operator's names and tags.
    pub catalogue: config::Catalogue,
    /// Where the ends of callers' operations may be reported.
    pub callback_rules: CallbackRules,
    /// Limits and durations.
    pub settings: config::Operations,
    /// How long names are cached.
    pub names_ttl: Duration,
    /// How many denied or refused calls of a kind are recorded one by one per minute.
    pub denied_per_minute: u64,
    /// The time.
    pub clock: Clock,
    /// Cancelled when the process is about to stop: from then on no caller is kept waiting.
    pub stopping: CancellationToken,
}

/// The gateway under one version of policies and catalogue; [`Current`] holds the version in force.
#[derive(Clone, Debug)]
pub struct Gateway {
    store: Arc<dyn Store>,
    upstream: Arc<dyn Upstream>,
    policies: Policies,
    resolver: NameResolver,
    shared_sets: SharedSets,
    quotas: LookupQuotas,
    callback_rules: CallbackRules,
    settings: config::Operations,
    denials: Arc<Denials>,
    pauses: Cache<ConfigurationId, Option<Parked>>,
    /// Since when the configurations of due ends cannot be found.
    ends_nowhere: Cache<OperationId, Timestamp>,
    clock: Clock,
    stopping: CancellationToken,
}

/// What a denied call was about.
struct About<'a> {
    configuration: &'a ConfigurationId,
    change: Option<&'a Change>,
    ticket: Option<String>,
}

impl<'a> About<'a> {
    /// A call about an operation that was accepted before.
    fn of(operation: &'a Operation) -> Self {
        let Submission { configuration, ticket, .. } = &operation.submission;
        Self { configuration, change: None, ticket: ticket.clone() }
    }

    /// A call that only looks at a configuration.
    fn looking(configuration: &'a ConfigurationId) -> Self {
        Self { configuration, change: None, ticket: None }
    }
}

impl Gateway {
    /// A gateway built from these parts; needs a running Tokio runtime.
    pub fn new(parts: Dependencies) -> Self {
        let Dependencies { store, upstream, policies, catalogue, callback_rules, settings, .. } = parts;
        let Dependencies { names_ttl, denied_per_minute, clock, stopping, .. } = parts;
        let names = NameLookup::new(Arc::clone(&upstream), names_ttl);
        let resolver = NameResolver::new(catalogue, names, settings.targets_max);
        let (shared_sets, denials) = (SharedSets::new(), Arc::new(Denials::new(denied_per_minute)));
        let pauses = Cache::builder().max_capacity(PAUSES_MAX).time_to_live(operations::PAUSES_KNOWN).build();
        let ends_nowhere = Cache::builder().max_capacity(until::NOWHERE_MAX).build();
        Self {
            store,
            upstream,
            policies,
            resolver,
            shared_sets,
            quotas: LookupQuotas::default(),
            callback_rules,
            settings,
            denials,
            pauses,
            ends_nowhere,
            clock,
            stopping,
        }
    }

    /// What a change would do at present, and what policy would decide about it; nothing is written.
    pub async fn plan(&self, caller: &Caller, request: ChangeRequest) -> Result<Planned, Error> {
        self.check_until(request.until)?;
        let resolved = self.resolve_change(caller, &request).await?;
        let resource = Resource { configuration: &resolved.configuration, tags: &resolved.tags };
        if let Err(denial) = self.policies.decide(caller, Action::Plan, resource) {
            let (id, change) = (&resolved.configuration.id, Some(&resolved.change));
            return Err(self
                .record_denial(caller, About { configuration: id, change, ticket: request.ticket }, &denial)
                .await);
        }
        let asked = RefusedRequest::from(&request);
        let submission = self.submission(caller, request, &resolved)?;
        let quota = self.quotas.of(caller);
        let read = async { Ok(quota.run(self.upstream.read_assignments(&submission.configuration)).await?) };
        let present = self.in_time(read).await?.direct;
        let mut plan = merge(&present, [&submission]);
        let difference = match plan.merged.pop() {
            Some(MergeOutcome::Applied(difference)) => difference,
            Some(MergeOutcome::Unmet { found }) => return Err(Error::PreconditionFailed { found }),
            None => Difference::default(),
        };
        let permit = self.policies.decide_change(caller, resource, submission);
        if permit.is_ok() {
            self.names_suffice(caller, resolved.unnamed.as_ref())?;
        }
        let decision = match &permit {
            Ok(permit) => {
                Ok(Permission { policies: permit.policies().to_vec(), approvals: permit.approvals().to_vec() })
            }
            Err(denial) => Err(submit::told(denial, &resolved.change, &asked)),
        };
        let Resolved { configuration, mut names, .. } = resolved;
        for (id, name) in called(self.names(), difference.affected_targets()).await {
            names.entry(id).or_insert(name);
        }
        let (before, after) = (present.digest(), plan.desired.digest());
        Ok(Planned { configuration, difference, names, before, after, decision })
    }

    /// How long a caller waits if it does not say how long.
    pub fn wait_default(&self) -> Duration {
        self.settings.wait_default
    }

    /// How long a caller may wait at most.
    pub fn wait_max(&self) -> Duration {
        self.settings.wait_max
    }

    /// Whether this gateway can accept changes at present; the error says why not.
    pub async fn ready(&self) -> Result<(), store::Error> {
        self.store.probe().await
    }

    /// The current time, for times in answers.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Limits work on Graph to the longest time that a caller may wait: Graph's retries can add up to more.
    async fn in_time<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let longest = self.settings.wait_max;
        let late = |_elapsed| {
            let detail = format!("Graph did not answer within {} s", longest.as_secs());
            Err(Error::GraphUnavailable { detail, pause: None })
        };
        tokio::time::timeout(longest, work).await.unwrap_or_else(late)
    }

    fn submission(&self, caller: &Caller, request: ChangeRequest, resolved: &Resolved) -> Result<Submission, Error> {
        let Resolved { configuration, change, names, .. } = resolved;
        let ChangeRequest { ticket, requested_for, comment, only_on, until, callback, .. } = request;
        Ok(Submission {
            configuration: configuration.id.clone(),
            configuration_name: configuration.name.clone(),
            change: change.clone(),
            names: names.clone(),
            caller: caller.name.clone(),
            ticket,
            requested_for,
            comment,
            accepted_at: self.clock.now(),
            only_on,
            until: until.map(|at| Until { at, policies: Vec::new() }),
            approval: None,
            callback: self.callback(caller, callback.as_ref())?,
            traceparent: telemetry::traceparent(),
        })
    }

    /// Stores a permitted change. It takes nothing but a permit, so nothing is stored that policy has not decided on.
    async fn accept(
        &self,
        actor: Actor,
        permit: Permit<Submission>,
        key: Option<IdempotencyKey>,
    ) -> Result<Submitted, Error> {
        // Only a reversal can be outdated.
        self.accept_reversal(actor, permit, key, None).await?.ok_or(Error::UnknownOperation)
    }

    /// The same for a reversal; none if something else has been reverted since it was made. One that carries out the end of
    /// another operation is stored however many are pending.
    async fn accept_reversal(
        &self,
        actor: Actor,
        permit: Permit<Submission>,
        key: Option<IdempotencyKey>,
        basis: Option<ReversalBasis>,
    ) -> Result<Option<Submitted>, Error> {
        let (ends, reverted_since) = basis.map_or((None, None), |it| (it.ends, Some(it.reverted_since)));
        let (policies, approvals) = (permit.policies().to_vec(), permit.approvals().to_vec());
        let submission = permit.into_inner();
        let (submission, state) = self.begun(submission, &approvals, &actor);
        let id = OperationId::from(self.clock.new_id());
        let event = Event::Accepted {
            operation: id,
            actor,
            configuration: submission.configuration.to_string(),
            change: RecordedChange::from(&submission.change),
            ticket: submission.ticket.clone(),
            requested_for: submission.requested_for.clone(),
            comment: submission.comment.clone(),
            only_on: submission.only_on.clone(),
            until: submission.until.as_ref().map(|until| until.at),
            policies,
            approvals,
        };
        let operation = Operation { id, submission, state };
        let config::Operations { pending_max: in_all, pending_per_configuration_max: of_configuration, .. } =
            self.settings;
        let bounds = match ends {
            None => PendingLimits { per_configuration: of_configuration, total: in_all },
            Some(_) => PendingLimits { per_configuration: usize::MAX, total: usize::MAX },
        };
        let acceptance = Acceptance {
            operation: operation.clone(),
            key,
            entry: self.entry(event),
            limits: bounds,
            carries_out_until_of: ends,
            reverted_since,
        };
        match self.store.accept(acceptance).await? {
            Accepted::New => {
                telemetry::count_acceptance();
                tracing::info!(operation.id = %id, caller.name = operation.submission.caller, "operation accepted");
                Ok(Some(Submitted { operation, replayed: false }))
            }
            Accepted::Outdated => Ok(None),
            Accepted::LimitReached(LimitReached::Configuration) => {
                Err(Error::TooManyPending(operation.submission.configuration_name))
            }
            Accepted::LimitReached(LimitReached::Total) => Err(Error::Full),
            Accepted::EndAlreadySettled => Err(Error::UntilOver(Box::new(operation))),
            known @ (Accepted::Replayed(_) | Accepted::KeyReused(_)) => self.replayed(known).await.map(Some),
        }
    }

    fn entry(&self, event: Event) -> Entry {
        Entry { at: self.clock.now(), trace_id: telemetry::trace_id(), event }
    }
}

fn actor(caller: &Caller) -> Actor {
    Actor {
        caller: Some(caller.name.clone()),
        issuer: caller.issuer.clone(),
        subject: caller.subject.clone(),
        token_id: caller.token_id.clone(),
    }
}
