//! Periodically counts operations that have not ended and callbacks not delivered, so that a growing backlog is seen before
//! callers complain, and checks that the store can be written to.
//!
//! Guarantees: each round only counts and makes one trial write; if the store fails, only the metrics suffer.
//!
//! It deliberately does not count by replica: each reports the whole store, so take the maximum, not the sum. Started by the
//! root.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::{
    clock::{self, Clock},
    domain::{CallbackState, State},
    store::{Backlog, Store},
    telemetry,
};

/// Shorter than the usual intervals of collectors and Prometheus.
const INTERVAL: Duration = Duration::from_secs(10);

/// What is counted, and the clock for ages.
#[derive(Clone, Debug)]
pub struct BacklogMetrics {
    /// The store to count in.
    pub store: Arc<dyn Store>,
    /// The time.
    pub clock: Clock,
}

impl BacklogMetrics {
    /// Counts until stopped.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            // The trial write also shows how long a commit takes when there are no others.
            telemetry::set_store_available(&self.store.probe().await);
            match self.store.backlog().await {
                Ok(backlog) => self.report(&backlog),
                Err(error) => tracing::debug!(%error, "the backlog cannot be counted at present"),
            }
            tokio::select! {
                () = self.clock.sleep(INTERVAL) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    fn report(&self, Backlog { states, parked, oldest, callbacks }: &Backlog) {
        // Zero must be reported, too, once a state is empty.
        let pending: Vec<_> =
            State::PENDING.iter().map(|state| (*state, states.get(*state).copied().unwrap_or(0))).collect();
        let oldest_age = self.age(*oldest);
        telemetry::set_pending(telemetry::Pending { states: &pending, parked: *parked, oldest_age });
        let undelivered = [(CallbackState::Pending, callbacks.pending), (CallbackState::Parked, callbacks.parked)];
        telemetry::set_undelivered(
            &undelivered.map(|(state, count)| (state.name(), count)),
            self.age(callbacks.oldest),
        );
    }

    fn age(&self, oldest: Option<Timestamp>) -> Duration {
        oldest.map_or(Duration::ZERO, |since| clock::until(since, self.clock.now()))
    }
}
