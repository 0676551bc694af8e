//! From the present set to the desired one: read, recover, merge, write.
//!
//! Guarantees: no write follows a read that makes no sense, or one that is empty although the set was not left empty; a write
//! is announced before it is sent, and both fit in the lease; a write whose answer was lost is decided by the next read.
//!
//! It deliberately ends no operation: it returns a [`BatchOutcome`] or why the batch cannot go on ([`BatchError`]), and
//! [`super::lane`] settles, parks or halves.

use std::{collections::BTreeMap, time::Duration};

use super::{
    Dependencies,
    lane::{HeldLease, Lane},
    outcome::{self, AppliedWrite, BatchOutcome, OperationResult, SucceededOperation},
    policy_sets::{self, Loss},
};
use crate::{
    audit::{Entry, Event},
    clock::Backoff,
    domain::{Assignment, AssignmentSet, Digest, Failure, FailureCode, Operation, Plan, merge, operation::Write},
    graph::{self, CurrentAssignments, Reason, Receipt, WriteGrant},
    store::{Carried, Error, Intent, PolicySetsSeen, UnsettledWrites},
    telemetry,
};

/// How often a set that cannot be used is read before its operations fail.
const READS_MAX: u32 = 3;
/// Pauses between such reads.
const REREAD: Backoff = Backoff { first: Duration::from_millis(200), longest: Duration::from_secs(2) };
/// How often a lane is parked because the effect of its write is unknown, before its operations fail saying so.
const UNDECIDED_MAX: u32 = 3;
/// The part of a lease kept after the write's deadline, for settling; of a short lease, its last quarter. A lease is
/// longer than two calls may take, so one call always fits before this part.
const SETTLE_MARGIN: Duration = Duration::from_secs(10);

/// Why a batch did not come to its end.
pub(super) enum BatchError {
    /// The store failed or the lease is lost; the lane's next owner continues.
    Store(Error),
    /// Graph keeps the lane from working for now; with the pause, if known, and the reason.
    Park(Option<Duration>, String),
    /// All operations of the batch fail.
    Fail(Failure),
    /// Graph refuses the merged write; one of its operations may be the cause.
    Split(Failure),
    /// It is unknown whether the write took effect.
    EffectUnknown(String),
}

impl From<Error> for BatchError {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

impl Lane {
    /// Reads, merges, and writes if that makes a difference.
    pub(super) async fn apply(&self, held: &mut HeldLease, batch: &[Operation]) -> Result<BatchOutcome, BatchError> {
        if let Some(intent) = held.announced.intent.as_mut().filter(|intent| intent.write.is_some()) {
            // A write known to have taken effect is not read back: a stale read must not cast doubt on it.
            return Ok(self.recovered(intent, batch)?);
        }
        let CurrentAssignments { direct: present, from_policy_sets } = self.read(held, batch).await?;
        if let Err(error) = self.notice_loss(&from_policy_sets).await {
            // Not worth stopping for: there is a lease, and changes to apply. The next turn compares again.
            tracing::warn!(%error, "cannot compare the assignments from policy sets at present");
        }
        let found = present.digest();
        match &mut held.announced.intent {
            // A write that leaves the set as it was cannot be seen; it looks unsent.
            Some(intent) if intent.after == found && intent.before != found => {
                held.replaced.note(&intent.before, self.parts.clock.elapsed());
                return Ok(self.recovered(intent, batch)?);
            }
            Some(intent) if intent.before != found => self.record_undecided(&mut held.announced).await?,
            // An intent whose write looks unsent: it may still take effect, so it stays.
            Some(_) | None => {}
        }
        self.notice_drift(held, &present).await?;
        let Plan { desired, merged } = merge(&present, batch.iter().map(|operation| &operation.submission));
        // The remaining operations wait for the next step: whether they may be done depends on what becomes of these.
        let (batch, rest) = batch.split_at(merged.len().min(batch.len()));
        let merged = batch.iter().cloned().zip(merged);
        let ends: Vec<_> = merged.map(|it| outcome::end_of(it, &present, &held.announced)).collect();
        let (after, mut write, rest) = (desired.digest(), None, rest.to_vec());
        let effect = |after, write| AppliedWrite {
            configuration: &self.configuration,
            at: self.parts.clock.now(),
            before: &found,
            after,
            write,
            known_by: "answered",
        };
        // A write that looked unsent may have taken effect all the same; changes that come to nothing together are written then.
        let takes_back = held.announced.intent.is_some() && outcome::changes_something(&ends);
        if desired != present || takes_back {
            match self.write(held, &ends, &desired, (&found, &after)).await {
                Ok(done) => write = Some(done),
                // What finds the set as it wants it does not fail. Nor does a failed write confirm a set: see `notice_drift`.
                Err(BatchError::Fail(failure)) if failure.code != FailureCode::PresentSetUnreadable => {
                    let ends = batch.iter().map(|it| outcome::end_without(&failure, it, &present, &held.announced));
                    return Ok(BatchOutcome {
                        rest,
                        left: None,
                        ..BatchOutcome::of_effect(&effect(&found, None), ends)?
                    });
                }
                Err(stop) => return Err(stop),
            }
        }
        Ok(BatchOutcome { rest, ..BatchOutcome::of_effect(&effect(&after, write.as_ref()), ends)? })
    }

    /// The set that was read does not show whether the announced write took effect. This is recorded; from now on, what
    /// the write may have done is in doubt.
    async fn record_undecided(&self, announced: &mut UnsettledWrites) -> Result<(), Error> {
        let Some(intent) = &announced.intent else { return Ok(()) };
        tracing::warn!(
            client_request_id = intent.client_request_id,
            "it is unknown whether an announced write took effect"
        );
        let event = Event::Written {
            configuration: self.configuration.to_string(),
            operations: intent.carried.iter().map(|carried| carried.operation).collect(),
            before: intent.before.clone(),
            after: intent.after.clone(),
            request_id: None,
            client_request_id: intent.client_request_id.clone(),
            known_by: "undecided",
        };
        let written = Entry { at: self.parts.clock.now(), trace_id: telemetry::trace_id(), event };
        self.parts.store.append_records(vec![written]).await?;
        announced.demote_intent();
        Ok(())
    }

    /// Records that somebody else changed the set since it was left; immediately, so that no later step can lose it.
    async fn notice_drift(&self, held: &mut HeldLease, present: &AssignmentSet) -> Result<(), Error> {
        let found = present.digest();
        // An apparently emptied set counts as left that way only once a change that states the whole set has succeeded:
        // if that change fails, others must not build on the empty set.
        let vanished = vanished(present, held);
        let left = if vanished { held.left.clone() } else { held.left.replace(found.clone()) };
        let Some(left) = left.filter(|left| *left != found) else { return Ok(()) };
        if vanished && std::mem::replace(&mut held.vanishing_told, true) {
            return Ok(());
        }
        telemetry::count_drift();
        tracing::warn!(%left, %found, "somebody else changed the assignments since Postern last left them");
        let configuration = self.configuration.to_string();
        let event = Event::DriftSeen { configuration, source: None, left, found };
        let drift = Entry { at: self.parts.clock.now(), trace_id: telemetry::trace_id(), event };
        self.parts.store.append_records(vec![drift]).await
    }

    /// Records that assignments of policy sets are gone, whoever removed them.
    async fn notice_loss(&self, now: &[Assignment]) -> Result<(), Error> {
        let Dependencies { store, clock, .. } = &self.parts;
        let (before, now) = (store.policy_sets_seen(&self.configuration).await?, policy_sets::lines(now));
        if before == now {
            return Ok(());
        }
        let loss = policy_sets::loss(&before, &now).map(|Loss { left, found }| {
            telemetry::count_drift();
            tracing::warn!(%left, %found, "assignments that came from policy sets are gone");
            let configuration = self.configuration.to_string();
            let event = Event::DriftSeen { configuration, source: Some("policy-sets"), left, found };
            Entry { at: clock.now(), trace_id: telemetry::trace_id(), event }
        });
        let configuration = self.configuration.clone();
        store.note_policy_sets(PolicySetsSeen { configuration, assignments: now, loss }).await
    }

    /// Reads the present set. One that cannot be used is read again before giving up. So is one that a write of ours has just
    /// replaced, for a few seconds, and one that nobody is known to have left that way, until two reads agree: a merge based on
    /// a stale read would undo our last write.
    async fn read(&self, held: &mut HeldLease, batch: &[Operation]) -> Result<CurrentAssignments, BatchError> {
        let (mut failed, mut lagging, mut seen) = (0_u32, 0_u32, None);
        loop {
            let failure = match self.parts.upstream.read_assignments(&self.configuration).await {
                Ok(present) if self.lags(&present, held) => {
                    tracing::warn!("Graph still shows the assignments from before the last write; they are read again");
                    if held.lease.left(self.parts.clock) < self.parts.settings.lease_ttl.mul_f64(0.5) {
                        let because = "Graph still shows the assignments from before the last write".to_owned();
                        return Err(BatchError::Park(None, because));
                    }
                    lagging = lagging.saturating_add(1);
                    self.parts.clock.sleep(REREAD.pause(lagging, self.parts.clock.random_fraction())).await;
                    continue;
                }
                Ok(present) if vanished(&present.direct, held) && !is_confirmed(batch) => Failure {
                    code: FailureCode::PresentSetVanished,
                    detail: "the assignments read as empty, but were not empty when Postern last saw them; if they \
                             were cleared on purpose, say so by replacing the whole set once"
                        .to_owned(),
                    graph: None,
                },
                Ok(present) if failed.saturating_add(1) < READS_MAX && surprising(&present, held, &mut seen) => {
                    Failure {
                        code: FailureCode::PresentSetUnreadable,
                        detail: "the assignments are not as they were left".to_owned(),
                        graph: None,
                    }
                }
                Ok(present) => return Ok(present),
                Err(graph::Error::Unreadable(why)) => {
                    Failure { code: FailureCode::PresentSetUnreadable, detail: why, graph: None }
                }
                // Right after a configuration was created, Graph may not know it everywhere yet.
                Err(graph::Error::Missing(refusal)) => refusal.failure(FailureCode::ConfigurationGone),
                // No change was judged: what is refused is to read.
                Err(graph::Error::Refused(refusal)) => refusal.failure(FailureCode::PresentSetUnreadable),
                Err(graph::Error::Forbidden(refusal)) if !matches!(refusal.reason, Reason::Permission(_)) => {
                    refusal.failure(FailureCode::PresentSetUnreadable)
                }
                Err(error) => return Err(self.without_set(held, batch, refused(error)).await),
            };
            failed = failed.saturating_add(1);
            if failed >= READS_MAX {
                return Err(self.without_set(held, batch, BatchError::Fail(failure)).await);
            }
            tracing::warn!(
                why = failure.detail,
                attempt = failed,
                "the present set cannot be used yet; it is read again"
            );
            self.parts.clock.sleep(REREAD.pause(failed, self.parts.clock.random_fraction())).await;
        }
    }

    /// Whether the set is one that a write of ours has just replaced, and not as it was left.
    fn lags(&self, present: &CurrentAssignments, held: &HeldLease) -> bool {
        let found = present.direct.digest();
        held.left.as_ref() != Some(&found) && held.replaced.includes(&found, self.parts.clock.elapsed())
    }

    /// What to do when the set cannot be read. Operations for which a write may have done something do not fail at once: the
    /// next read may show it. If this lasts, they fail all the same, since every operation ends; then the write is given up.
    async fn without_set(&self, held: &mut HeldLease, batch: &[Operation], stop: BatchError) -> BatchError {
        match stop {
            BatchError::Fail(failure) => {
                let in_doubt = batch.iter().any(|operation| held.announced.may_have_done(operation.id));
                if in_doubt && held.attempts < UNDECIDED_MAX {
                    return BatchError::Park(None, failure.detail);
                }
                let given_up = self.record_undecided(&mut held.announced).await;
                given_up.map_or_else(BatchError::Store, |()| BatchError::Fail(failure))
            }
            stop @ (BatchError::Store(_)
            | BatchError::Park(..)
            | BatchError::Split(_)
            | BatchError::EffectUnknown(_)) => stop,
        }
    }

    /// An announced write took effect: the set is as it leaves it, or this was known already. Its operations end now,
    /// before anything else is written, so that no later fault can make them look undone.
    fn recovered(&self, intent: &mut Intent, batch: &[Operation]) -> Result<BatchOutcome, Error> {
        let known = intent.write.is_some();
        intent.write = Some(intent.effect());
        let carried: BTreeMap<_, _> = intent.carried.iter().map(|carried| (carried.operation, carried)).collect();
        let (mut done, mut rest) = (Vec::new(), Vec::new());
        for operation in batch.iter().cloned() {
            if let Some(Carried { difference, done: before, .. }) = carried.get(&operation.id) {
                let (difference, before) = (difference.clone(), before.clone());
                done.push(OperationResult::Succeeds(SucceededOperation { operation, difference, done: before }));
            } else {
                rest.push(operation);
            }
        }
        let effect = AppliedWrite {
            configuration: &self.configuration,
            at: self.parts.clock.now(),
            before: &intent.before,
            after: &intent.after,
            write: intent.write.as_ref(),
            known_by: "read-back",
        };
        let mut outcome = BatchOutcome::of_effect(&effect, done)?;
        // If the effect was known already, the write is on record.
        outcome.written.take_if(|_| known);
        Ok(BatchOutcome { rest, ..outcome })
    }

    /// Announces the write, then sends it; both must fit in the lease. It stays announced unless it certainly had no effect.
    async fn write(
        &self,
        held: &mut HeldLease,
        ends: &[OperationResult],
        desired: &AssignmentSet,
        (before, after): (&Digest, &Digest),
    ) -> Result<Write, BatchError> {
        let Dependencies { store, upstream, clock, settings, .. } = &self.parts;
        let client_request_id = clock.new_id().to_string();
        let carried = ends.iter().filter_map(|end| match end {
            OperationResult::Succeeds(SucceededOperation { operation, difference, done }) => {
                Some(Carried { operation: operation.id, difference: difference.clone(), done: done.clone() })
            }
            OperationResult::Fails(..) => None,
        });
        let carried: Vec<_> = carried.collect();
        let merged_with = carried.len().saturating_sub(1);
        let before_it = held.announced.clone();
        held.announced.demote_intent();
        held.announced.intent = Some(Intent {
            before: before.clone(),
            after: after.clone(),
            client_request_id: client_request_id.clone(),
            carried,
            write: None,
        });
        store.begin_write(&mut held.lease, &held.announced, settings.lease_ttl).await?;
        let margin = SETTLE_MARGIN.min(settings.lease_ttl.mul_f64(0.25));
        let left = held.lease.left(*clock).saturating_sub(margin);
        let grant = WriteGrant { client_request_id, until: clock.elapsed().saturating_add(left) };
        let sent = upstream.replace_assignments(&self.configuration, desired, &grant);
        match tokio::time::timeout(left, sent).await {
            Ok(Ok(Receipt { request_id })) => {
                telemetry::measure_write(merged_with.saturating_add(1));
                held.replaced.note(before, clock.elapsed());
                let WriteGrant { client_request_id, .. } = grant;
                let write = Write { merged_with, request_id, client_request_id };
                if let Some(intent) = &mut held.announced.intent {
                    intent.write = Some(write.clone());
                }
                Ok(write)
            }
            Ok(Err(error)) => {
                if !matches!(error, graph::Error::Unknown(_)) {
                    // Back to the write announced before, if any: it looked unsent, but may still take effect.
                    held.announced = before_it;
                }
                Err(if let graph::Error::Missing(refusal) = error {
                    // The configuration was there a moment ago, so it is probably something that a change names.
                    BatchError::Split(refusal.failure(FailureCode::GraphRefused))
                } else {
                    refused(error)
                })
            }
            Err(_elapsed) => Err(BatchError::EffectUnknown("no answer while the lease lasted".to_owned())),
        }
    }
}

/// Whether the set is neither as it was left, nor as before or after an announced write of ours, and the previous read
/// did not return the same.
fn surprising(present: &CurrentAssignments, held: &HeldLease, seen: &mut Option<Digest>) -> bool {
    let found = present.direct.digest();
    let announced =
        held.announced.intent.as_ref().is_some_and(|intent| [&intent.before, &intent.after].contains(&&found));
    let left = held.left.as_ref().is_none_or(|left| *left == found);
    !announced && !left && seen.replace(found.clone()) != Some(found)
}

/// Whether the set reads as empty although it was not left empty, and no announced write of ours explains that.
fn vanished(present: &AssignmentSet, held: &HeldLease) -> bool {
    let empty = AssignmentSet::default().digest();
    let explained = held.announced.intent.as_ref().is_some_and(|intent| intent.after == empty);
    present.is_empty() && !explained && held.left.as_ref().is_some_and(|left| *left != empty)
}

/// Whether the first operation accepts an empty set as it is.
fn is_confirmed(batch: &[Operation]) -> bool {
    batch.first().is_some_and(outcome::takes_any_set)
}

fn refused(error: graph::Error) -> BatchError {
    let detail = error.to_string();
    match error {
        graph::Error::Throttled { pause } => BatchError::Park(Some(pause), detail),
        // Only logged, since callers can read why a lane is parked: the text names hosts, tenant and application.
        graph::Error::Unavailable(words) => {
            tracing::warn!(error = words, "Graph is not available");
            BatchError::Park(None, "Graph is not available".to_owned())
        }
        graph::Error::Unauthorised(words) => {
            tracing::error!(error = words, "Graph or its login service refuses the gateway");
            BatchError::Park(None, "Graph does not accept the gateway's credentials; its operators must act".to_owned())
        }
        graph::Error::Unknown(words) => {
            tracing::warn!(error = words, "the answer to a write was lost");
            let because = "Graph did not say whether it carried out a write; the assignments are read again before anything \
                           else is sent";
            BatchError::EffectUnknown(because.to_owned())
        }
        // As with credentials, the change is not at fault: every change would fail.
        graph::Error::Forbidden(refusal) if matches!(refusal.reason, Reason::Permission(_)) => {
            tracing::error!(error = detail, "the gateway lacks a permission");
            BatchError::Park(None, refusal.failure(FailureCode::GraphRefused).detail)
        }
        graph::Error::Forbidden(refusal) => BatchError::Fail(refusal.failure(FailureCode::GraphRefused)),
        graph::Error::Missing(refusal) => BatchError::Fail(refusal.failure(FailureCode::ConfigurationGone)),
        graph::Error::Refused(refusal) => BatchError::Split(refusal.failure(FailureCode::GraphRefused)),
        graph::Error::Unreadable(_) => {
            BatchError::Fail(Failure { code: FailureCode::PresentSetUnreadable, detail, graph: None })
        }
    }
}
