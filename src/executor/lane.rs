//! One configuration's turn: claim, read, merge, write, settle.
//!
//! Every turn begins with a read, so a turn after a crash is a turn like any other: what took effect makes no difference
//! any more. The intent announced before each write tells a successor whether the present set is that write's work.
//!
//! A write whose answer was lost is decided by reading back. A merged write that Graph refuses is halved until the
//! culprit stands alone: it fails with Graph's reason, the others are applied. Throttling and outages park the lane.
//!
//! The race that remains: an administrator can edit between our read and our write, and Graph has no precondition that
//! would stop us. The window is one call, and a set that we did not leave is recorded as drift at the next turn.

use std::time::Duration;

use jiff::Timestamp;
use tracing::Instrument;

use super::Parts;
use crate::{
    audit::{Aim, Entry, Event},
    clock::{self, Backoff},
    domain::{
        AssignmentSet, ConfigurationId, Difference, Digest, Failure, FailureCode, Operation, OperationId, Plan, State,
        change::Changed,
        merge,
        operation::{Ending, Write},
    },
    graph::{self, Present, Receipt},
    store::{Carried, Claim, Error, Intent, Lease, Parking, Settlement, Turn},
    telemetry,
};

/// Pauses of a lane that Graph keeps from working, when Graph does not say how long.
const PARKING: Backoff = Backoff { first: Duration::from_secs(4), longest: Duration::from_mins(5) };
/// No pause is shorter than this: full jitter may draw zero, and a parked lane has just failed several attempts.
const PARKING_MIN: Duration = Duration::from_secs(1);
/// How often a set that cannot be understood is read before its operations fail.
const READS_MAX: u32 = 3;
/// Pauses between such reads.
const REREAD: Backoff = Backoff { first: Duration::from_millis(200), longest: Duration::from_secs(2) };
/// How often a write is sent whose effect stays unknown, before the lane is parked.
const WRITES_MAX: u32 = 3;
/// What is left of a lease after the write's deadline, to settle in.
const SETTLE_MARGIN: Duration = Duration::from_secs(10);

/// What the executor does with the lane next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum After {
    /// Nothing is pending, or another replica owns the lane.
    Idle,
    /// More may be pending.
    Again,
    /// Nothing to do before then.
    Parked(Timestamp),
}

/// One configuration, about to have its turn.
pub(super) struct Lane {
    parts: Parts,
    configuration: ConfigurationId,
}

/// Where a turn stands between its steps.
struct Course {
    held: Held,
    /// Operations still to do, in batches; the last is the next.
    batches: Vec<Vec<Operation>>,
    /// How often the lane was parked before.
    attempts: u32,
    /// Writes sent in this turn whose effect is still unknown.
    writes_unknown: u32,
}

/// The lease, and what is known about the set while it lasts.
struct Held {
    lease: Lease,
    /// A write that was announced and is not settled.
    intent: Option<Intent>,
    /// Digest of the set as it was left last.
    left: Option<Digest>,
}

/// How a step ended.
enum Stepped {
    On(Course),
    Out(After),
}

/// Why a step did not reach its end.
enum Stop {
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
    pub(super) fn new(parts: Parts, configuration: ConfigurationId) -> Self {
        Self { parts, configuration }
    }

    /// Claims the lane and works on what is pending.
    pub(super) async fn turn(self) -> Result<After, Error> {
        let span = tracing::info_span!(
            "merge assignments",
            otel.kind = "internal",
            configuration.id = %self.configuration,
            lane.operations = tracing::field::Empty,
        );
        let now = self.parts.clock.now();
        let claim = Claim {
            configuration: self.configuration.clone(),
            owner: self.parts.owner.clone(),
            now,
            until: clock::after(now, self.parts.settings.lease_ttl),
            batch_max: self.parts.settings.batch_max,
            trace_id: telemetry::trace_id_of(&span),
        };
        let Some(turn) = self.parts.store.claim(claim).await? else { return Ok(After::Idle) };
        span.record("lane.operations", turn.operations.len());
        for operation in &turn.operations {
            telemetry::link(&span, operation.submission.traceparent.as_deref());
        }
        self.work(turn).instrument(span).await
    }

    async fn work(&self, turn: Turn) -> Result<After, Error> {
        let Turn { lease, operations, intent, left, attempts } = turn;
        let held = Held { lease, intent, left };
        let mut course = Course { held, batches: vec![operations], attempts, writes_unknown: 0 };
        while let Some(batch) = course.batches.pop() {
            match self.step(course, batch).await? {
                Stepped::On(next) => course = next,
                Stepped::Out(after) => return Ok(after),
            }
        }
        Ok(After::Again)
    }

    /// Does one batch, or finds out why it cannot be done as it is.
    async fn step(&self, mut course: Course, batch: Vec<Operation>) -> Result<Stepped, Error> {
        match self.apply(&mut course.held, &batch).await {
            Ok(outcome) => self.settle(course, outcome).await,
            Err(Stop::Store(error)) => Err(error),
            Err(Stop::Park(pause, because)) => self.park(course, pause, because).await,
            Err(Stop::Fail(failure)) => self.fail(course, &batch, &failure).await,
            Err(Stop::Split(failure)) if batch.len() == 1 => self.fail(course, &batch, &failure).await,
            Err(Stop::Split(failure)) => {
                tracing::warn!(
                    reason = failure.detail,
                    operations = batch.len(),
                    "Graph refuses a merged write; it is halved"
                );
                let mut first = batch;
                let second = first.split_off(first.len() / 2);
                course.batches.extend([second, first]);
                Ok(Stepped::On(course))
            }
            Err(Stop::Doubt(because)) => {
                course.writes_unknown = course.writes_unknown.saturating_add(1);
                if course.writes_unknown >= WRITES_MAX {
                    return self.park(course, None, because).await;
                }
                tracing::warn!(because, "the answer to a write was lost; the set is read back");
                course.batches.push(batch);
                Ok(Stepped::On(course))
            }
        }
    }

    /// Read, merge, and write if that makes a difference.
    async fn apply(&self, held: &mut Held, batch: &[Operation]) -> Result<Outcome, Stop> {
        let present = self.read(held).await?.direct;
        let found = present.digest();
        let mut outcome = Outcome::default();
        let done = self.recover(held, batch, &found, &mut outcome)?;
        if done.is_none() {
            self.notice_drift(held, &found).await?;
        }
        let done = done.unwrap_or_default();
        let open: Vec<_> = batch.iter().filter(|operation| !done.contains(&operation.id)).collect();
        let plan = merge(&present, open.iter().map(|operation| &operation.submission.change));
        let digests = (found, plan.desired.digest());
        let write = if plan.desired == present { None } else { Some(self.write(held, &open, &plan, &digests).await?) };
        if let Some(write) = &write {
            outcome.entries.push(self.written(&open, &digests, write, "answered"));
        }
        for (operation, difference) in open.into_iter().zip(plan.differences) {
            // An operation whose effect another of the batch undoes needs no write, and so has none to show.
            let write = write.clone().filter(|_| !difference.is_empty());
            self.succeeded(&mut outcome, operation, (difference, &digests), write)?;
        }
        outcome.left = Some(digests.1);
        Ok(outcome)
    }

    /// Records that somebody else changed the set since it was left. At once, so that no later step can lose it.
    async fn notice_drift(&self, held: &mut Held, found: &Digest) -> Result<(), Error> {
        let Some(left) = held.left.replace(found.clone()).filter(|left| left != found) else { return Ok(()) };
        tracing::warn!(%left, %found, "somebody else changed the assignments since they were left");
        let configuration = self.configuration.to_string();
        let drift = self.entry(Event::DriftSeen { configuration, left, found: found.clone() });
        self.parts.store.record(vec![drift]).await
    }

    /// Reads the present set; one that cannot be built on is read again before it is given up.
    async fn read(&self, held: &Held) -> Result<Present, Stop> {
        let mut failed = 0_u32;
        loop {
            let failure = match self.parts.upstream.read_assignments(&self.configuration).await {
                Ok(present) if vanished(&present, held) => Failure {
                    code: FailureCode::PresentSetVanished,
                    detail: "the assignments read as empty, but were not empty when Postern last saw them; if they \
                             were cleared on purpose, ask again"
                        .to_owned(),
                    request_id: None,
                },
                Ok(present) => return Ok(present),
                Err(graph::Error::Unreadable(why)) => {
                    Failure { code: FailureCode::PresentSetUnreadable, detail: why, request_id: None }
                }
                Err(error) => return Err(refused(error)),
            };
            failed = failed.saturating_add(1);
            if failed >= READS_MAX {
                return Err(Stop::Fail(failure));
            }
            tracing::warn!(
                why = failure.detail,
                attempt = failed,
                "the present set cannot be built on; it is read again"
            );
            self.parts.clock.sleep(REREAD.pause(failed, self.parts.clock.chance())).await;
        }
    }

    /// If an announced write turns out to have taken effect, ends the operations it carried. None if it did not.
    fn recover(
        &self,
        held: &mut Held,
        batch: &[Operation],
        found: &Digest,
        outcome: &mut Outcome,
    ) -> Result<Option<Vec<OperationId>>, Stop> {
        let Some(intent) = held.intent.take().filter(|intent| intent.after == *found && intent.before != *found) else {
            return Ok(None);
        };
        let write = Write {
            merged_with: intent.carried.len().saturating_sub(1),
            request_id: None,
            client_request_id: intent.client_request_id,
        };
        let digests = (intent.before, intent.after);
        let mut done = Vec::new();
        for Carried { operation, difference } in intent.carried {
            // Carried operations that are not in this batch wait in another batch of this turn, or have ended.
            if let Some(operation) = batch.iter().find(|pending| pending.id == operation) {
                let write = Some(write.clone()).filter(|_| !difference.is_empty());
                self.succeeded(outcome, operation, (difference, &digests), write)?;
                done.push(operation.id);
            }
        }
        let carried: Vec<_> = batch.iter().filter(|operation| done.contains(&operation.id)).collect();
        outcome.entries.insert(0, self.written(&carried, &digests, &write, "read-back"));
        Ok(Some(done))
    }

    /// Announces the write, then sends it; both must fit in the lease.
    async fn write(
        &self,
        held: &mut Held,
        open: &[&Operation],
        plan: &Plan,
        digests: &(Digest, Digest),
    ) -> Result<Write, Stop> {
        let Parts { store, upstream, clock, settings, .. } = &self.parts;
        let client_request_id = clock.identifier().to_string();
        let carried = open.iter().zip(&plan.differences);
        let carried =
            carried.map(|(operation, difference)| Carried { operation: operation.id, difference: difference.clone() });
        let intent = Intent {
            before: digests.0.clone(),
            after: digests.1.clone(),
            client_request_id: client_request_id.clone(),
            carried: carried.collect(),
        };
        let until = clock::after(clock.now(), settings.lease_ttl);
        store.begin_write(&mut held.lease, &intent, until).await?;
        let deadline = clock::until(clock.now(), until).saturating_sub(SETTLE_MARGIN);
        let sent = upstream.replace_assignments(&self.configuration, &plan.desired, &client_request_id);
        match tokio::time::timeout(deadline, sent).await {
            Ok(Ok(Receipt { request_id })) => {
                Ok(Write { merged_with: open.len().saturating_sub(1), request_id, client_request_id })
            }
            Ok(Err(error)) => {
                held.intent = Some(intent);
                Err(refused(error))
            }
            Err(_elapsed) => {
                held.intent = Some(intent);
                Err(Stop::Doubt("no answer while the lease lasted".to_owned()))
            }
        }
    }

    async fn settle(&self, course: Course, outcome: Outcome) -> Result<Stepped, Error> {
        let Outcome { ended, entries, left } = outcome;
        let Course { held, batches, .. } = course;
        let now = self.parts.clock.now();
        let keep_until = (!batches.is_empty()).then(|| clock::after(now, self.parts.settings.lease_ttl));
        for (operation, state) in &ended {
            tracing::info!(operation.id = %operation, operation.state = state.name(), "operation ended");
        }
        let left = left.or(held.left);
        let settlement = Settlement { ended, left: left.clone(), entries, keep_until };
        let kept = self.parts.store.settle(held.lease, settlement).await?;
        Ok(kept.map_or(Stepped::Out(After::Again), |lease| {
            let held = Held { lease, intent: None, left };
            Stepped::On(Course { held, batches, attempts: 0, writes_unknown: 0 })
        }))
    }

    async fn park(&self, course: Course, pause: Option<Duration>, because: String) -> Result<Stepped, Error> {
        let Parts { store, clock, .. } = &self.parts;
        let attempts = course.attempts.saturating_add(1);
        let pause = pause.unwrap_or_else(|| PARKING.pause(attempts, clock.chance())).max(PARKING_MIN);
        let until = clock::after(clock.now(), pause);
        tracing::warn!(because, %until, attempts, "the lane is parked");
        store.park(course.held.lease, Parking { until, because }).await?;
        Ok(Stepped::Out(After::Parked(until)))
    }

    async fn fail(&self, course: Course, batch: &[Operation], failure: &Failure) -> Result<Stepped, Error> {
        let mut outcome = Outcome::default();
        let now = self.parts.clock.now();
        for operation in batch {
            let state = operation.state.clone().fail(now, failure.clone());
            outcome.ended.push((operation.id, state.map_err(|error| Error::Unreadable(error.to_string()))?));
            outcome.entries.push(settled(operation, now, Err(failure)));
        }
        // If the set really is empty now, the next change must not fail for it again.
        if failure.code == FailureCode::PresentSetVanished {
            outcome.left = Some(AssignmentSet::default().digest());
        }
        self.settle(course, outcome).await
    }

    fn succeeded(
        &self,
        outcome: &mut Outcome,
        operation: &Operation,
        (difference, (before, after)): (Difference, &(Digest, Digest)),
        write: Option<Write>,
    ) -> Result<(), Stop> {
        outcome.entries.push(settled(operation, self.parts.clock.now(), Ok(&difference)));
        let (before, after) = (before.clone(), after.clone());
        let ending = Ending { at: self.parts.clock.now(), difference, before, after, write };
        let state = operation.state.clone().succeed(ending).map_err(|error| Error::Unreadable(error.to_string()))?;
        outcome.ended.push((operation.id, state));
        Ok(())
    }

    fn written(
        &self,
        carried: &[&Operation],
        (before, after): &(Digest, Digest),
        write: &Write,
        known_by: &'static str,
    ) -> Entry {
        self.entry(Event::Written {
            configuration: self.configuration.to_string(),
            operations: carried.iter().map(|operation| operation.id).collect(),
            before: before.clone(),
            after: after.clone(),
            request_id: write.request_id.clone(),
            client_request_id: write.client_request_id.clone(),
            known_by,
        })
    }

    fn entry(&self, event: Event) -> Entry {
        Entry { at: self.parts.clock.now(), trace_id: telemetry::trace_id(), event }
    }
}

/// What a batch came to, ready to be settled.
#[derive(Default)]
struct Outcome {
    ended: Vec<(OperationId, State)>,
    entries: Vec<Entry>,
    left: Option<Digest>,
}

/// Whether the set reads as empty though it was left full, and no announced write of ours explains that.
fn vanished(present: &Present, held: &Held) -> bool {
    let empty = AssignmentSet::default().digest();
    let explained = held.intent.as_ref().is_some_and(|intent| intent.after == empty);
    present.direct.is_empty() && !explained && held.left.as_ref().is_some_and(|left| *left != empty)
}

fn refused(error: graph::Error) -> Stop {
    let detail = error.to_string();
    let failure =
        |code, refusal: graph::Refusal| Failure { code, detail: detail.clone(), request_id: refusal.request_id };
    match error {
        graph::Error::Throttled { pause } => Stop::Park(Some(pause), detail),
        graph::Error::Unavailable(_) | graph::Error::Unauthorised(_) => Stop::Park(None, detail),
        graph::Error::Unknown(_) => Stop::Doubt(detail),
        graph::Error::Forbidden(refusal) => Stop::Fail(failure(FailureCode::GraphRefused, refusal)),
        graph::Error::Missing(refusal) => Stop::Fail(failure(FailureCode::ConfigurationGone, refusal)),
        graph::Error::Refused(refusal) => Stop::Split(failure(FailureCode::GraphRefused, refusal)),
        graph::Error::Unreadable(_) => {
            Stop::Fail(Failure { code: FailureCode::PresentSetUnreadable, detail, request_id: None })
        }
    }
}

/// The audit record of an operation's end, in the trace of the call that asked for it.
fn settled(operation: &Operation, at: Timestamp, end: Result<&Difference, &Failure>) -> Entry {
    let nothing = Difference::default();
    let difference = end.unwrap_or(&nothing);
    let changed = |Changed { target, after, .. }: &Changed| Aim::of(target, *after);
    let event = Event::Settled {
        operation: operation.id,
        state: if end.is_ok() { "succeeded" } else { "failed" },
        effect: end.ok().map(|difference| if difference.is_empty() { "unchanged" } else { "changed" }),
        added: difference.added.iter().map(Aim::from).collect(),
        removed: difference.removed.iter().map(Aim::from).collect(),
        changed: difference.changed.iter().map(changed).collect(),
        failure: end.err().map(|failure| format!("{}: {}", failure.code.name(), failure.detail)),
        request_id: end.err().and_then(|failure| failure.request_id.clone()),
    };
    let trace_id = operation.submission.traceparent.as_deref().and_then(telemetry::trace_id_in);
    Entry { at, trace_id, event }
}
