//! Counts, now and then, what has not ended and what ends were not told, so that a growing backlog is seen before callers
//! complain, and tries whether the store can be written to.
//!
//! Guarantees: the store is asked for counts only, and a store in trouble costs nothing but the figures.
//!
//! It deliberately tells what the whole store holds: every replica tells the same, so take the highest, not the sum.
//! Started by the root.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::{
    clock::{self, Clock},
    domain::{CallbackState, State},
    store::{Backlog, Store},
    telemetry,
};

/// Shorter than the intervals in which collectors and Prometheus usually ask.
const INTERVAL: Duration = Duration::from_secs(10);

/// What is counted, and by which clock.
#[derive(Clone, Debug)]
pub struct Census {
    /// Where.
    pub store: Arc<dyn Store>,
    /// The time.
    pub clock: Clock,
}

impl Census {
    /// Counts until it is stopped.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            // Trying it also shows how long a commit takes where nobody asks for one.
            telemetry::note_store(&self.store.probe().await);
            match self.store.backlog().await {
                Ok(backlog) => self.tell(&backlog),
                Err(error) => tracing::debug!(%error, "the backlog cannot be counted at present"),
            }
            tokio::select! {
                () = self.clock.sleep(INTERVAL) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    fn tell(&self, Backlog { states, parked, oldest, callbacks }: &Backlog) {
        // A state that nothing is in any more must be told, too.
        let pending: Vec<_> =
            State::PENDING.iter().map(|state| (*state, states.get(*state).copied().unwrap_or(0))).collect();
        let oldest_age = self.age(*oldest);
        telemetry::note_pending(telemetry::Pending { states: &pending, parked: *parked, oldest_age });
        let undelivered = [(CallbackState::Pending, callbacks.pending), (CallbackState::Parked, callbacks.parked)];
        telemetry::note_undelivered(
            &undelivered.map(|(state, count)| (state.name(), count)),
            self.age(callbacks.oldest),
        );
    }

    fn age(&self, oldest: Option<Timestamp>) -> Duration {
        oldest.map_or(Duration::ZERO, |since| clock::until(since, self.clock.now()))
    }
}
