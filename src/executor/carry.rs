//! From the present set to the wanted one: read, recover, merge, write.
//!
//! Guarantees: no write follows a read that makes no sense, or that came back empty where the set was left full; a write
//! is announced before it is sent, and both fit in the lease; a write whose answer was lost is decided by the next read.
//!
//! It deliberately ends nothing: it says what became of a batch ([`Outcome`]) or why it cannot go on ([`Stop`]), and
//! [`super::lane`] settles, parks or halves.

use std::{collections::BTreeMap, time::Duration};

use super::{
    Parts,
    lane::{Held, Lane},
    outcome::{self, Effect, End, Ended, Outcome},
    policy_sets::{self, Loss},
};
use crate::{
    audit::{Entry, Event},
    clock::Backoff,
    domain::{Assignment, AssignmentSet, Digest, Failure, FailureCode, Operation, Plan, merge, operation::Write},
    graph::{self, Clearance, Present, Reason, Receipt},
    store::{Announced, Carried, Error, Intent, PolicySetsSeen},
    telemetry,
};

/// How often a set that cannot be built on is read before its operations fail.
const READS_MAX: u32 = 3;
/// Pauses between such reads.
const REREAD: Backoff = Backoff { first: Duration::from_millis(200), longest: Duration::from_secs(2) };
/// How often a lane is parked because the outcome of its write cannot be told, before that is told instead.
const UNDECIDED_MAX: u32 = 3;
/// What is left of a lease after the write's deadline, to settle in; of a short lease, its last quarter. A lease is longer
/// than two calls may take, so one call fits before it in any case.
const SETTLE_MARGIN: Duration = Duration::from_secs(10);

/// Why a batch did not reach its end.
pub(super) enum Stop {
    /// The store failed or the lease is lost; whoever claims next goes on.
    Store(Error),
    /// Graph keeps the lane from working for now.
    Park(Option<Duration>, String),
    /// All operations of the batch fail.
    Fail(Failure),
    /// Graph refuses the merged write; one of its operations may be the reason.
    Split(Failure),
    /// It is unknown whether the write took effect.
    Doubt(String),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

impl Lane {
    /// Read, merge, and write if that makes a difference.
    pub(super) async fn apply(&self, held: &mut Held, batch: &[Operation]) -> Result<Outcome, Stop> {
        if let Some(intent) = held.announced.intent.as_mut().filter(|intent| intent.write.is_some()) {
            // What is known need not be read back, and a read that lags behind must not undo it.
            return Ok(self.recovered(intent, batch)?);
        }
        let Present { direct: present, from_policy_sets } = self.read(held, batch).await?;
        if let Err(error) = self.notice_loss(&from_policy_sets).await {
            // The next turn compares with what was noted last. This one has a lease, and changes to do.
            tracing::warn!(%error, "what came from policy sets cannot be compared at present");
        }
        let found = present.digest();
        match &mut held.announced.intent {
            Some(intent) if intent.after == found => return Ok(self.recovered(intent, batch)?),
            Some(intent) if intent.before != found => self.give_up(&mut held.announced).await?,
            // What looks unsent may still be on its way.
            Some(_) | None => {}
        }
        self.notice_drift(held, &present).await?;
        let Plan { desired, merged } = merge(&present, batch.iter().map(|operation| &operation.submission));
        // What is left waits for the next step: whether it may be done depends on what becomes of these.
        let (batch, rest) = batch.split_at(merged.len().min(batch.len()));
        let merged = batch.iter().cloned().zip(merged);
        let ends: Vec<_> = merged.map(|it| outcome::end_of(it, &present, &held.announced)).collect();
        let (after, mut write, rest) = (desired.digest(), None, rest.to_vec());
        let effect = |after, write| Effect {
            configuration: &self.configuration,
            at: self.parts.clock.now(),
            before: &found,
            after,
            write,
            known_by: "answered",
        };
        if desired != present {
            match self.write(held, &ends, &desired, (&found, &after)).await {
                Ok(done) => write = Some(done),
                // Nobody is refused what is there already. What comes to nothing confirms no set either, see `notice_drift`.
                Err(Stop::Fail(failure)) if failure.code != FailureCode::PresentSetUnreadable => {
                    let ends = batch.iter().map(|it| outcome::end_without(&failure, it, &present, &held.announced));
                    return Ok(Outcome { rest, left: None, ..Outcome::of_effect(&effect(&found, None), ends)? });
                }
                Err(stop) => return Err(stop),
            }
        }
        Ok(Outcome { rest, ..Outcome::of_effect(&effect(&after, write.as_ref()), ends)? })
    }

    /// Of an announced write the set that was found does not tell whether it took effect. That is recorded; what it may have done is in
    /// doubt from now on.
    async fn give_up(&self, announced: &mut Announced) -> Result<(), Error> {
        let Some(intent) = &announced.intent else { return Ok(()) };
        tracing::warn!(
            client_request_id = intent.client_request_id,
            "whether an announced write took effect cannot be told"
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
        self.parts.store.record(vec![written]).await?;
        announced.give_up();
        Ok(())
    }

    /// Records that somebody else changed the set since it was left. At once, so that no later step can lose it.
    async fn notice_drift(&self, held: &mut Held, present: &AssignmentSet) -> Result<(), Error> {
        let found = present.digest();
        // What seems to have been emptied counts as left so by a change only that stated the whole set and succeeded: should that one
        // fail, others must not build on it.
        let vanished = vanished(present, held);
        let left = if vanished { held.left.clone() } else { held.left.replace(found.clone()) };
        let Some(left) = left.filter(|left| *left != found) else { return Ok(()) };
        if vanished && std::mem::replace(&mut held.vanishing_told, true) {
            return Ok(());
        }
        telemetry::count_drift();
        tracing::warn!(%left, %found, "somebody else changed the assignments since they were left");
        let configuration = self.configuration.to_string();
        let event = Event::DriftSeen { configuration, source: None, left, found };
        let drift = Entry { at: self.parts.clock.now(), trace_id: telemetry::trace_id(), event };
        self.parts.store.record(vec![drift]).await
    }

    /// Records that assignments of policy sets are gone, whoever took them out.
    async fn notice_loss(&self, now: &[Assignment]) -> Result<(), Error> {
        let Parts { store, clock, .. } = &self.parts;
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

    /// Reads the present set; one that cannot be built on is read again before it is given up. One that nobody left so is
    /// read again too, until two reads agree: a read that lags behind our last write would undo it.
    async fn read(&self, held: &mut Held, batch: &[Operation]) -> Result<Present, Stop> {
        let (mut failed, mut seen) = (0_u32, None);
        loop {
            let failure = match self.parts.upstream.read_assignments(&self.configuration).await {
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
                Err(error) => return Err(self.without_set(held, batch, unsplit(refused(error))).await),
            };
            failed = failed.saturating_add(1);
            if failed >= READS_MAX {
                return Err(self.without_set(held, batch, Stop::Fail(failure)).await);
            }
            tracing::warn!(
                why = failure.detail,
                attempt = failed,
                "the present set cannot be built on; it is read again"
            );
            self.parts.clock.sleep(REREAD.pause(failed, self.parts.clock.chance())).await;
        }
    }

    /// What there is to do when the set cannot be read. While something may have been done for an operation, it does not fail at once:
    /// the next read may tell. If that lasts, it fails all the same, since every operation ends; then the announced write is given up.
    async fn without_set(&self, held: &mut Held, batch: &[Operation], stop: Stop) -> Stop {
        match stop {
            Stop::Fail(failure) => {
                let in_doubt = batch.iter().any(|operation| held.announced.may_have_done(operation.id));
                let may_tell = failure.code != FailureCode::ConfigurationGone && held.attempts < UNDECIDED_MAX;
                if in_doubt && may_tell {
                    return Stop::Park(None, failure.detail);
                }
                let given_up = self.give_up(&mut held.announced).await;
                given_up.map_or_else(Stop::Store, |()| Stop::Fail(failure))
            }
            stop @ (Stop::Store(_) | Stop::Park(..) | Stop::Split(_) | Stop::Doubt(_)) => stop,
        }
    }

    /// An announced write took effect: the set is as it leaves it, or that was known before. Its operations end now, before anything
    /// else is written, so that no later fault can make them look undone.
    fn recovered(&self, intent: &mut Intent, batch: &[Operation]) -> Result<Outcome, Error> {
        let known = intent.write.is_some();
        intent.write = Some(intent.effect());
        let carried: BTreeMap<_, _> = intent.carried.iter().map(|carried| (carried.operation, carried)).collect();
        let (mut done, mut rest) = (Vec::new(), Vec::new());
        for operation in batch.iter().cloned() {
            if let Some(Carried { difference, done: before, .. }) = carried.get(&operation.id) {
                let (difference, before) = (difference.clone(), before.clone());
                done.push(End::Well(Ended { operation, difference, done: before }));
            } else {
                rest.push(operation);
            }
        }
        let effect = Effect {
            configuration: &self.configuration,
            at: self.parts.clock.now(),
            before: &intent.before,
            after: &intent.after,
            write: intent.write.as_ref(),
            known_by: "read-back",
        };
        let mut outcome = Outcome::of_effect(&effect, done)?;
        // What was known before is on record.
        outcome.written.take_if(|_| known);
        Ok(Outcome { rest, ..outcome })
    }

    /// Announces the write, then sends it; both must fit in the lease. It stays announced unless it certainly had no effect.
    async fn write(
        &self,
        held: &mut Held,
        ends: &[End],
        desired: &AssignmentSet,
        (before, after): (&Digest, &Digest),
    ) -> Result<Write, Stop> {
        let Parts { store, upstream, clock, settings, .. } = &self.parts;
        let client_request_id = clock.identifier().to_string();
        let carried = ends.iter().filter_map(|end| match end {
            End::Well(Ended { operation, difference, done }) => {
                Some(Carried { operation: operation.id, difference: difference.clone(), done: done.clone() })
            }
            End::Badly(..) => None,
        });
        let carried: Vec<_> = carried.collect();
        let merged_with = carried.len().saturating_sub(1);
        let before_it = held.announced.clone();
        held.announced.give_up();
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
        let clearance = Clearance { client_request_id, until: clock.elapsed().saturating_add(left) };
        let sent = upstream.replace_assignments(&self.configuration, desired, &clearance);
        match tokio::time::timeout(left, sent).await {
            Ok(Ok(Receipt { request_id })) => {
                telemetry::measure_write(merged_with.saturating_add(1));
                let Clearance { client_request_id, .. } = clearance;
                let write = Write { merged_with, request_id, client_request_id };
                if let Some(intent) = &mut held.announced.intent {
                    intent.write = Some(write.clone());
                }
                Ok(write)
            }
            Ok(Err(error)) => {
                if !matches!(error, graph::Error::Unknown(_)) {
                    // What looked unsent may still be on its way.
                    held.announced = before_it;
                }
                Err(if let graph::Error::Missing(refusal) = error {
                    // The configuration was there a moment ago, so it is rather something that one of the changes names.
                    Stop::Split(refusal.failure(FailureCode::GraphRefused))
                } else {
                    refused(error)
                })
            }
            Err(_elapsed) => Err(Stop::Doubt("no answer while the lease lasted".to_owned())),
        }
    }
}

/// Whether the set is neither as it was left nor as an announced write of ours found or leaves it, and the read before
/// this one did not say the same.
fn surprising(present: &Present, held: &Held, seen: &mut Option<Digest>) -> bool {
    let found = present.direct.digest();
    let announced =
        held.announced.intent.as_ref().is_some_and(|intent| [&intent.before, &intent.after].contains(&&found));
    let left = held.left.as_ref().is_none_or(|left| *left == found);
    !announced && !left && seen.replace(found.clone()) != Some(found)
}

/// Whether the set reads as empty though it was left full, and no announced write of ours explains that.
fn vanished(present: &AssignmentSet, held: &Held) -> bool {
    let empty = AssignmentSet::default().digest();
    let explained = held.announced.intent.as_ref().is_some_and(|intent| intent.after == empty);
    present.is_empty() && !explained && held.left.as_ref().is_some_and(|left| *left != empty)
}

/// Whether the first operation confirms that the set may be empty.
fn is_confirmed(batch: &[Operation]) -> bool {
    batch.first().is_some_and(outcome::takes_any_set)
}

/// A read that is refused is refused for all: halving the batch would ask the same again and again.
fn unsplit(stop: Stop) -> Stop {
    match stop {
        Stop::Split(failure) => Stop::Fail(failure),
        stop @ (Stop::Store(_) | Stop::Park(..) | Stop::Fail(_) | Stop::Doubt(_)) => stop,
    }
}

fn refused(error: graph::Error) -> Stop {
    let detail = error.to_string();
    match error {
        graph::Error::Throttled { pause } => Stop::Park(Some(pause), detail),
        // The words name hosts, the tenant and the gateway's application; callers read why a lane is parked.
        graph::Error::Unavailable(words) => {
            tracing::warn!(error = words, "Graph is not available");
            Stop::Park(None, "Graph is not available".to_owned())
        }
        graph::Error::Unauthorised(words) => {
            tracing::error!(error = words, "Graph or its login service refuses the gateway");
            Stop::Park(None, "Graph does not accept the gateway's credentials; its operators must act".to_owned())
        }
        graph::Error::Unknown(words) => {
            tracing::warn!(error = words, "the answer to a write was lost");
            Stop::Doubt("the answer to a write was lost".to_owned())
        }
        // As with credentials, the change is not at fault, and every change there is would fail.
        graph::Error::Forbidden(refusal) if matches!(refusal.reason, Reason::Permission(_)) => {
            tracing::error!(error = detail, "the gateway lacks a permission");
            Stop::Park(None, refusal.failure(FailureCode::GraphRefused).detail)
        }
        graph::Error::Forbidden(refusal) => Stop::Fail(refusal.failure(FailureCode::GraphRefused)),
        graph::Error::Missing(refusal) => Stop::Fail(refusal.failure(FailureCode::ConfigurationGone)),
        graph::Error::Refused(refusal) => Stop::Split(refusal.failure(FailureCode::GraphRefused)),
        graph::Error::Unreadable(_) => {
            Stop::Fail(Failure { code: FailureCode::PresentSetUnreadable, detail, graph: None })
        }
    }
}
