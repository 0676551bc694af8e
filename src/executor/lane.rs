//! One configuration's turn: claim, read, merge, write, settle.
//!
//! A turn begins with a read, unless an announced write is already known to have taken effect. So a turn after a crash is
//! like any other: what took effect no longer makes a difference. A merged write that Graph refuses is halved until the
//! operation at fault stands alone: it fails with Graph's reason, the others are applied. Throttling and outages park the
//! lane, visibly. [`super::batch`] applies one batch.
//!
//! The race that remains: an administrator can edit between our read and our write, and Graph has no precondition that
//! would stop us. The window is one call, and a set that is not as we left it is recorded as drift at the next turn.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tracing::Instrument;

use super::{
    Dependencies,
    batch::BatchError,
    lag::RecentlyReplaced,
    obstacles::Obstacles,
    outcome::{self, BatchOutcome, EndedOperation},
};
use crate::{
    audit::Entry,
    clock::{self, Backoff},
    config,
    domain::{ConfigurationId, Digest, Failure, FailureCode, Operation, OperationId, State},
    store::{Claim, Claimed, Error, Lease, Parking, Part, Settlement, Turn, UnsettledWrites},
    telemetry,
};

/// Pauses of a lane that Graph keeps from working, when Graph does not name one.
const PARKING: Backoff = Backoff { first: Duration::from_secs(4), longest: Duration::from_mins(5) };
/// The shortest pause: full jitter may draw zero, and a parked lane has just failed several attempts. No pause is longer
/// than the longest of [`PARKING`] either, whatever Graph says: absurd values have been seen.
const PARKING_MIN: Duration = Duration::from_secs(1);
/// Pauses before a set is read back.
const READ_BACK: Backoff = Backoff { first: Duration::from_millis(500), longest: Duration::from_secs(4) };
/// How many writes of unknown effect are sent before the lane is parked.
const WRITES_MAX: u32 = 3;
/// How many transactions the ends of a full batch are stored in: other work of the store waits for one of them only.
const PARTS: usize = 32;
/// What the executor does with the lane next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum TurnOutcome {
    /// Nothing is pending, or the lane is parked.
    Idle,
    /// Another replica holds the lane.
    Elsewhere,
    /// More may be pending.
    Again,
    /// Nothing to do for this long.
    Parked(Duration),
}

/// One configuration, about to have its turn.
pub(super) struct Lane {
    pub(super) parts: Dependencies,
    pub(super) configuration: ConfigurationId,
    obstacles: Arc<Obstacles>,
}

/// The state of a turn between its steps.
struct TurnState {
    held: HeldLease,
    /// Operations still to do, in batches; the last batch is next.
    batches: Vec<Vec<Operation>>,
    /// Writes sent in this turn whose effect is still unknown.
    writes_unknown: u32,
}

/// The lease, and what is known about the set while it lasts.
pub(super) struct HeldLease {
    pub(super) lease: Lease,
    /// What was announced and is not settled yet.
    pub(super) announced: UnsettledWrites,
    /// Digest of the set as it was last left.
    pub(super) left: Option<Digest>,
    /// Sets that were replaced lately.
    pub(super) replaced: RecentlyReplaced,
    /// Whether drift to an empty set is already on record.
    pub(super) vanishing_told: bool,
    /// How often the lane was parked since it last settled.
    pub(super) attempts: u32,
}

/// How a step ended.
enum StepOutcome {
    Continue(Box<TurnState>),
    Finish(TurnOutcome),
}

impl Lane {
    pub(super) fn new(parts: Dependencies, configuration: ConfigurationId, obstacles: Arc<Obstacles>) -> Self {
        Self { parts, configuration, obstacles }
    }

    /// Claims the lane and works on what is pending.
    pub(super) async fn turn(self) -> Result<TurnOutcome, Error> {
        let span = tracing::info_span!(
            "merge assignments",
            otel.kind = "internal",
            configuration.id = %self.configuration,
            lane.operations = tracing::field::Empty,
            trace_id = tracing::field::Empty,
        );
        telemetry::note_trace_id(&span);
        let claim = Claim {
            configuration: self.configuration.clone(),
            owner: self.parts.owner.clone(),
            at: self.parts.clock.now(),
            ttl: self.parts.settings.lease_ttl,
            batch_max: self.parts.settings.batch_max,
            trace_id: telemetry::trace_id_of(&span),
        };
        let turn = match self.parts.store.claim(claim).await? {
            Claimed::Turn(turn) => *turn,
            Claimed::Held => return Ok(TurnOutcome::Elsewhere),
            Claimed::Nothing => return Ok(TurnOutcome::Idle),
        };
        span.record("lane.operations", turn.operations.len());
        for operation in &turn.operations {
            telemetry::link(&span, operation.submission.traceparent.as_deref());
        }
        self.work(turn).instrument(span).await
    }

    async fn work(&self, turn: Turn) -> Result<TurnOutcome, Error> {
        let Turn { lease, operations, mut announced, left, replaced_sets, attempts } = turn;
        if operations.len() < self.parts.settings.batch_max {
            // These are all that are pending. Doubts about others are left over from an owner that ended them.
            let pending: BTreeSet<_> = operations.iter().map(|it| it.id).collect();
            announced.doubts.retain(|operation, _| pending.contains(operation));
        }
        let replaced = RecentlyReplaced::by_earlier_turns(replaced_sets, self.parts.clock.elapsed());
        let held = HeldLease { lease, announced, left, replaced, vanishing_told: false, attempts };
        let mut state = TurnState { held, batches: vec![operations], writes_unknown: 0 };
        while let Some(batch) = state.batches.pop() {
            match self.step(state, batch).await? {
                StepOutcome::Continue(next) => state = *next,
                StepOutcome::Finish(after) => return Ok(after),
            }
        }
        Ok(TurnOutcome::Again)
    }

    /// Does one batch, or finds out why it cannot be done as it is.
    async fn step(&self, mut state: TurnState, batch: Vec<Operation>) -> Result<StepOutcome, Error> {
        let applied = self.apply(&mut state.held, &batch).await;
        match &applied {
            Err(BatchError::Fail(failure)) if outcome::may_come_back(failure.code) => {
                self.obstacles.note(&self.configuration, self.parts.clock.now());
            }
            Ok(_) | Err(_) => self.obstacles.clear(&self.configuration),
        }
        match applied {
            Ok(outcome) => self.settle(state, outcome).await,
            Err(BatchError::Store(error)) => Err(error),
            Err(BatchError::Park(pause, because)) => self.park(state, batch, pause, because).await,
            Err(BatchError::Fail(failure)) if self.waits(&batch, &failure) => {
                self.park(state, batch, None, failure.detail).await
            }
            Err(BatchError::Fail(failure)) => self.fail(state, batch, &failure).await,
            Err(BatchError::Split(failure)) if batch.len() == 1 => self.fail(state, batch, &failure).await,
            Err(BatchError::Split(failure)) => {
                tracing::warn!(
                    reason = failure.detail,
                    operations = batch.len(),
                    "Graph refuses a merged write; its batch is halved"
                );
                let mut first = batch;
                let second = first.split_off(first.len() / 2);
                state.batches.extend([second, first]);
                Ok(StepOutcome::Continue(Box::new(state)))
            }
            Err(BatchError::EffectUnknown(because)) => {
                state.writes_unknown = state.writes_unknown.saturating_add(1);
                if state.writes_unknown >= WRITES_MAX {
                    return self.park(state, batch, None, because).await;
                }
                tracing::warn!(because, "the answer to a write was lost; the set is read back");
                // Graph may still be carrying it out.
                let Dependencies { clock, .. } = &self.parts;
                clock.sleep(READ_BACK.pause(state.writes_unknown, clock.random_fraction())).await;
                state.batches.push(batch);
                Ok(StepOutcome::Continue(Box::new(state)))
            }
        }
    }

    /// Stores the ends of operations, a limited number per transaction. The write that carried them stays announced, as
    /// one that took effect, until the last has ended, so a successor ends the others by it, whatever it reads.
    async fn settle(&self, state: TurnState, outcome: BatchOutcome) -> Result<StepOutcome, Error> {
        let BatchOutcome { written, mut done, left, rest } = outcome;
        let TurnState { held, mut batches, .. } = state;
        if !rest.is_empty() {
            batches.push(rest);
        }
        let config::Executor { lease_ttl: ttl, batch_max, .. } = self.parts.settings;
        let at_once = batch_max.div_ceil(PARTS);
        let (goes_on, left, vanishing_told) = (!batches.is_empty(), left.or(held.left), held.vanishing_told);
        let (announced, replaced) = (held.announced, held.replaced);
        let to_do = batches.iter().flatten().map(|it| it.id).collect();
        let announced_still = announced.remaining_after(&ids(&done), &to_do);
        let (mut lease, mut written, mut first) = (held.lease, written, Some(announced));
        let kept = loop {
            let later = done.split_off(done.len().min(at_once));
            let more = !later.is_empty();
            let (ends, ended, entries) = EndReport::split(done, written.take());
            let keep = (more || goes_on).then_some(ttl);
            let part = match first.take() {
                _ if !more => Part::Last(announced_still.clone()),
                Some(announced) => Part::First(announced),
                None => Part::Further,
            };
            let replaced_sets = replaced.for_later_turns(self.parts.clock.elapsed());
            let settlement = Settlement { ended, left: left.clone(), replaced_sets, entries, keep, part };
            let kept = self.parts.store.settle(lease, settlement).await?;
            ends.into_iter().for_each(EndReport::emit);
            match kept {
                Some(kept) if more => (lease, done) = (kept, later),
                kept => break kept,
            }
        };
        Ok(kept.map_or(StepOutcome::Finish(TurnOutcome::Again), |lease| {
            let held = HeldLease { lease, announced: announced_still, left, replaced, vanishing_told, attempts: 0 };
            StepOutcome::Continue(Box::new(TurnState { held, batches, writes_unknown: 0 }))
        }))
    }

    /// Leaves the lane for a while. Operations that have been waiting for Graph too long fail.
    async fn park(
        &self,
        state: TurnState,
        batch: Vec<Operation>,
        asked: Option<Duration>,
        because: String,
    ) -> Result<StepOutcome, Error> {
        let Dependencies { store, clock, settings, .. } = &self.parts;
        let TurnState { held, batches, .. } = state;
        let (attempts, now) = (held.attempts.saturating_add(1), clock.now());
        let pause = asked.unwrap_or_else(|| PARKING.pause(attempts, clock.random_fraction()));
        let pause = pause.clamp(PARKING_MIN, PARKING.longest);
        tracing::warn!(because, ?pause, attempts, "the lane is parked");
        telemetry::count_parking();
        let is_late = |Operation { submission, .. }: &Operation| {
            !submission.carries_out_until() && clock::after(submission.ready_at(), settings.deadline) <= now
        };
        let (late, waiting): (Vec<_>, Vec<_>) = batches.into_iter().flatten().chain(batch).partition(is_late);
        // If a whole batch was given up, more may be pending behind it, but Graph is not called sooner than it asked.
        let pause = if waiting.is_empty() && asked.is_none() { PARKING_MIN } else { pause };
        let failure = deadline_passed(settings.deadline, &because);
        let HeldLease { lease, announced, left, replaced, .. } = held;
        let BatchOutcome { done, .. } = BatchOutcome::of_failure(late, (now, now), &failure, &announced)?;
        let announced = announced.remaining_after(&ids(&done), &waiting.iter().map(|it| it.id).collect());
        let (ends, ended, entries) = EndReport::split(done, None);
        let replaced_sets = replaced.for_later_turns(clock.elapsed());
        store.park(lease, Parking { pause, because, announced, left, replaced_sets, ended, entries }).await?;
        ends.into_iter().for_each(EndReport::emit);
        Ok(StepOutcome::Finish(TurnOutcome::Parked(pause)))
    }

    /// Whether every operation of the batch waits.
    fn waits(&self, batch: &[Operation], failure: &Failure) -> bool {
        let now = self.parts.clock.now();
        let since = self.obstacles.since(&self.configuration, now);
        batch.iter().all(|it| outcome::waits(it, failure, (now, since)))
    }

    async fn fail(&self, state: TurnState, batch: Vec<Operation>, failure: &Failure) -> Result<StepOutcome, Error> {
        let now = self.parts.clock.now();
        let since = self.obstacles.since(&self.configuration, now);
        let outcome = BatchOutcome::of_failure(batch, (now, since), failure, &state.held.announced)?;
        self.settle(state, outcome).await
    }
}

fn ids(done: &[EndedOperation]) -> BTreeSet<OperationId> {
    done.iter().map(|it| it.operation).collect()
}

/// What to log and count of an operation's end once it is stored.
struct EndReport {
    operation: OperationId,
    state: &'static str,
    failure: Option<FailureCode>,
    took: Duration,
}

impl EndReport {
    /// Splits ended operations into what to report once they are stored, their states, and their audit records.
    #[expect(clippy::type_complexity, reason = "the parts of a settlement, taken apart where it is made")]
    fn split(done: Vec<EndedOperation>, written: Option<Entry>) -> (Vec<Self>, Vec<(OperationId, State)>, Vec<Entry>) {
        let (mut ends, mut ended, mut entries) = (Vec::new(), Vec::new(), Vec::from_iter(written));
        for EndedOperation { operation, state, took, entries: told } in done {
            let failure = if let State::Failed { failure, .. } = &state { Some(failure.code) } else { None };
            ends.push(Self { operation, state: state.name(), failure, took });
            ended.push((operation, state));
            entries.extend(told);
        }
        (ends, ended, entries)
    }

    fn emit(self) {
        let Self { operation, state, failure, took } = self;
        tracing::info!(operation.id = %operation, operation.state = state, "operation ended");
        telemetry::count_end(state, failure.map(FailureCode::name));
        telemetry::measure_operation(state, took);
    }
}

/// The failure of operations that Graph kept waiting until their deadline.
fn deadline_passed(deadline: Duration, because: &str) -> Failure {
    let hours = deadline.as_secs_f64() / 3600.0;
    let detail = format!("it could not be applied within {hours:.1} hours: {because}");
    Failure { code: FailureCode::DeadlinePassed, detail, graph: None }
}
