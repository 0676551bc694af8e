//! Removes what need not be kept any longer: operations that ended long ago, and expired idempotency keys.
//!
//! Guarantees: it works in small steps with pauses in between, so callers do not notice it; a shutdown waits at most for the
//! step under way. Several replicas may do it at once.
//!
//! It deliberately touches neither pending operations nor the audit trail, and does not retry what failed: the next round
//! will. Started by the root.

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock,
    store::{Error, Purge, Store},
};

/// The average time between rounds, which varies at random so that replicas do not coincide.
const INTERVAL: Duration = Duration::from_mins(10);
/// Rows removed per transaction: takes some milliseconds, since each is in several indexes.
const STEP_MAX: usize = 100;
/// The pause after a step, in which others can write.
const PAUSE: Duration = Duration::from_millis(40);

/// What is removed, from where, and by which clock.
#[derive(Clone, Debug)]
pub struct Retention {
    /// The store to remove from.
    pub store: Arc<dyn Store>,
    /// The time.
    pub clock: Clock,
    /// How long an operation is kept after its end.
    pub operations: Duration,
}

impl Retention {
    /// Runs round after round until stopped. The first round is at once.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            match self.round(&stop).await {
                Ok(0) => {}
                Ok(removed) => tracing::info!(removed, "old operations and idempotency keys are removed"),
                Err(error) => tracing::warn!(%error, "old operations cannot be removed at present"),
            }
            if self.pauses(INTERVAL.mul_f64(0.5 + self.clock.random_fraction()), &stop).await == PauseOutcome::Stopped {
                return;
            }
        }
    }

    /// Removes step after step until nothing is left to remove.
    async fn round(&self, stop: &CancellationToken) -> Result<usize, Error> {
        let now = self.clock.now();
        let purge = Purge { ended_before: before(now, self.operations), keys_expired_by: now, limit: STEP_MAX };
        let mut removed = 0_usize;
        loop {
            let rows = self.store.purge(purge).await?;
            removed = removed.saturating_add(rows);
            if rows < STEP_MAX || self.pauses(PAUSE, stop).await == PauseOutcome::Stopped {
                return Ok(removed);
            }
        }
    }

    async fn pauses(&self, pause: Duration, stop: &CancellationToken) -> PauseOutcome {
        tokio::select! {
            () = self.clock.sleep(pause) => PauseOutcome::Over,
            () = stop.cancelled() => PauseOutcome::Stopped,
        }
    }
}

/// How a pause ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PauseOutcome {
    Over,
    Stopped,
}

/// `moment` minus `pause`; the earliest possible time if that is out of range.
fn before(moment: Timestamp, pause: Duration) -> Timestamp {
    let pause = SignedDuration::try_from(pause).unwrap_or(SignedDuration::MAX);
    moment.checked_sub(pause).unwrap_or(Timestamp::MIN)
}
