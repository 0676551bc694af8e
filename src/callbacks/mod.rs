//! Reports to callers' systems that their operations have ended.
//!
//! The outbox is in the store: the transaction that ends an operation also makes its callback due. For each destination
//! one worker claims what is due and sends it, so a slow destination delays only itself.
//!
//! Guarantees: every callback is sent until its destination has it, wants no more, or its time is over, whatever fails or
//! restarts; at least once, always as the same message, and never twice at the same moment, since an attempt is claimed
//! for longer than sending can take. What is sent is signed, and goes nowhere that the settings do not name. A shutdown
//! waits for the attempts in flight.
//!
//! It deliberately keeps no list of its own, and does not know what messages say. Started by the root.

mod destination;
mod proof;
mod retry;

use std::{
    collections::BTreeSet,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

pub use self::{destination::unproxied, proof::examine};
use self::{
    destination::{DeliveryError, DestinationClient},
    retry::AttemptOutcome,
};
use crate::{
    audit::{Entry, Event},
    clock::Clock,
    config,
    domain::{Callback, Operation},
    outbound::{self, Outbound},
    store::{
        Store,
        callbacks::{Attempt, AttemptResult, Claim, Destinations, Next},
    },
    telemetry,
};

/// How often to look for due callbacks without a notice, on average; jitter keeps replicas apart.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// How often to look for callbacks whose destination no longer exists.
const ORPHAN_POLL_INTERVAL: Duration = Duration::from_secs(30);
/// The most of these that are claimed at once.
const STRAYS_MAX: usize = 100;
/// How long an attempt takes at most before its calls, and after them.
const MARGIN: Duration = Duration::from_secs(5);

/// What is needed to send callbacks.
#[derive(Clone, Debug)]
pub struct Dependencies {
    /// Where callbacks wait.
    pub store: Arc<dyn Store>,
    /// Makes the calls.
    pub outbound: Outbound,
    /// The time.
    pub clock: Clock,
    /// Timeouts and pauses.
    pub settings: config::Callbacks,
    /// Where callbacks may go.
    pub destinations: Vec<config::Destination>,
    /// The message about an operation's end; takes the name under which the gateway sends it.
    pub message: fn(&Operation, &str) -> Vec<u8>,
}

/// The sender of callbacks.
#[derive(Debug)]
pub struct Callbacks {
    workers: Vec<Arc<DestinationWorker>>,
}

impl Callbacks {
    /// A worker for each destination, and one for those that are gone. Fails if there is no way to reach a destination.
    pub fn new(parts: &Dependencies) -> Result<Self, outbound::Error> {
        let names: BTreeSet<_> = parts.destinations.iter().map(|destination| destination.name.clone()).collect();
        let mut workers = vec![DestinationWorker::new(parts, Destinations::Except(names), None)];
        for destination in &parts.destinations {
            let destinations = Destinations::Named(destination.name.clone());
            workers.push(DestinationWorker::new(
                parts,
                destinations,
                Some(DestinationClient::new(destination.clone(), parts)?),
            ));
        }
        Ok(Self { workers })
    }

    /// Sends callbacks until it is stopped and the attempts in flight have ended.
    pub async fn run(self, stop: CancellationToken) {
        let mut working: JoinSet<_> = self.workers.into_iter().map(|worker| worker.work(stop.clone())).collect();
        while let Some(ended) = working.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "callbacks of a destination are no longer sent by this process");
            }
        }
    }
}

/// Attempts the callbacks of one destination or, without a client, those whose destination is gone: these fail until parked.
#[derive(Debug)]
struct DestinationWorker {
    parts: Dependencies,
    destinations: Destinations,
    client: Option<DestinationClient>,
    at_once: usize,
    /// By [`Clock::elapsed`]: until when the destination wants to be left alone.
    closed_until: Mutex<Duration>,
}

impl DestinationWorker {
    fn new(parts: &Dependencies, destinations: Destinations, client: Option<DestinationClient>) -> Arc<Self> {
        let at_once = client.as_ref().map_or(STRAYS_MAX, DestinationClient::calls_at_once_max);
        Arc::new(Self { parts: parts.clone(), destinations, client, at_once, closed_until: Mutex::default() })
    }

    async fn work(self: Arc<Self>, stop: CancellationToken) {
        let look = if self.client.is_some() { POLL_INTERVAL } else { ORPHAN_POLL_INTERVAL };
        let Dependencies { store, clock, .. } = self.parts.clone();
        let mut news = store.notices().subscribe_callbacks();
        let mut under_way = JoinSet::new();
        loop {
            let room = if self.is_closed() { 0 } else { self.at_once.saturating_sub(under_way.len()) };
            // Counted from before the claim, so it is never later than the end of the claim in the store.
            let end_by = clock.elapsed().saturating_add(self.ttl()).saturating_sub(MARGIN);
            for attempt in self.claim(room).await {
                under_way.spawn(Arc::clone(&self).attempt(attempt, end_by));
            }
            // Biased, so that a shutdown is noticed even in a flood of notices.
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(ended) = under_way.join_next() => note(ended),
                Ok(()) = news.changed(), if self.client.is_some() && under_way.len() < self.at_once => {}
                () = clock.sleep(look.mul_f64(0.5 + clock.random_fraction())) => {}
            }
        }
        while let Some(ended) = under_way.join_next().await {
            note(ended);
        }
    }

    async fn claim(&self, limit: usize) -> Vec<Attempt> {
        if limit == 0 {
            return Vec::new();
        }
        let claim = Claim { destinations: self.destinations.clone(), ttl: self.ttl(), limit };
        self.parts.store.claim_callbacks(claim).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot look for due callbacks at present");
            Vec::new()
        })
    }

    /// How long an attempt is claimed: for a token request and a message, each with its own timeout.
    fn ttl(&self) -> Duration {
        self.parts.settings.timeout.saturating_mul(2).saturating_add(MARGIN).saturating_add(MARGIN)
    }

    /// One attempt, in a span that is linked to the request that asked for the change.
    fn attempt(self: Arc<Self>, attempt: Attempt, end_by: Duration) -> impl Future<Output = ()> {
        let submission = &attempt.operation.submission;
        let span = tracing::info_span!(
            "callback",
            operation.id = %attempt.operation.id,
            destination = submission.callback.as_ref().map(|callback| callback.destination.as_str()),
            attempt = attempt.number,
            trace_id = tracing::field::Empty,
        );
        telemetry::link(&span, submission.traceparent.as_deref());
        telemetry::note_trace_id(&span);
        async move { self.make(attempt, end_by).await }.instrument(span)
    }

    async fn make(&self, attempt: Attempt, end_by: Duration) {
        let Dependencies { store, clock, settings, .. } = &self.parts;
        let Attempt { operation, number, progress } = attempt;
        let Some(callback) = &operation.submission.callback else { return };
        let outcome = match &self.client {
            Some(client) => client.send(&operation, callback, end_by).await,
            None => Err(DeliveryError::failed(None, "its destination is no longer set up".to_owned())),
        };
        if let Err(DeliveryError { closed: Some(pause), .. }) = &outcome {
            self.close_for(*pause);
        }
        let judged = retry::next_step(&outcome, progress, operation.state.ended_at(), settings, *clock);
        let AttemptOutcome { progress, next } = judged;
        let entry = self.entry(&operation, callback, (number, &progress), next);
        let result = match next {
            Next::Delivered => "delivered",
            Next::Again(_) => "failed",
            Next::Parked => "parked",
        };
        telemetry::count_callback(result);
        match &progress.last_error {
            None => tracing::info!(status = progress.last_status, "callback delivered"),
            Some(error) => tracing::warn!(error, status = progress.last_status, result, "callback not delivered"),
        }
        let attempted = AttemptResult { operation: operation.id, number, progress, next, entry };
        match store.record_attempt(attempted).await {
            Ok(true) => {}
            Ok(false) => tracing::warn!("the attempt took too long; another one has begun"),
            Err(error) => tracing::warn!(%error, "the attempt's result cannot be stored; the callback is sent again"),
        }
    }

    /// The audit record of a final attempt; none if another follows.
    fn entry(
        &self,
        operation: &Operation,
        callback: &Callback,
        (attempts, progress): (i64, &crate::domain::callback::Progress),
        next: Next,
    ) -> Option<Entry> {
        let (configuration, operation) = (operation.submission.configuration.to_string(), operation.id);
        let (url, destination) = (callback.shown_url(), callback.destination.clone());
        let event = match next {
            Next::Again(_) => return None,
            Next::Delivered => {
                let status = progress.last_status.unwrap_or_default();
                Event::CallbackDelivered { operation, configuration, destination, url, attempts, status }
            }
            Next::Parked => {
                let reason = progress.last_error.clone().unwrap_or_default();
                let status = progress.last_status;
                Event::CallbackParked { operation, configuration, destination, url, attempts, status, reason }
            }
        };
        Some(Entry { at: self.parts.clock.now(), trace_id: telemetry::trace_id(), event })
    }

    fn close_for(&self, pause: Duration) {
        let until = self.parts.clock.elapsed().saturating_add(pause);
        let mut closed = self.closed_until.lock().unwrap_or_else(PoisonError::into_inner);
        *closed = until.max(*closed);
    }

    fn is_closed(&self) -> bool {
        self.parts.clock.elapsed() < *self.closed_until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An attempt that panicked, which is a bug of ours, is repeated when its claim expires.
fn note(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        telemetry::count_callback("broken");
        tracing::error!(%error, "an attempt to send a callback panicked");
    }
}
