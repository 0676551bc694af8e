//! Streams the audit trail to sinks: standard output, a file, a collector.
//!
//! The trail in the store is the outbox: nothing is copied, and the store notes how far each sink has been delivered to.
//! Guarantees: every record is delivered to every sink at least once, in the order of the trail, whatever fails or
//! restarts; as a rule once, since one replica at a time has a sink's turn. After a crash the last batch may be sent
//! again; `chain` and `sequence` identify repeats. A sink that does not accept records delays only itself: accepting and
//! applying changes never waits for it, and it is retried with growing pauses.
//!
//! It deliberately skips nothing, except what a collector refuses for its size or content; that is logged. How late a
//! sink is, the metric `postern.audit.lag` shows. Started by the root, once per sink.

mod sink;

use std::{pin::pin, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use self::sink::SEND_MAX;
pub use self::sink::SinkWriter;
use crate::{
    audit::{ExportFormat, IndexFields},
    clock::{Backoff, Clock, until},
    store::{AuditQuery, Error, SinkClaim, Store, StoredRecord},
    telemetry,
};

/// The most records sent together.
const BATCH_MAX: usize = 200;
/// How often to look for new records.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// How long a turn lasts without being renewed; longer than a sink may take for a batch.
const TURN: Duration = Duration::from_mins(1);
/// How long a turn is held before it is renewed.
const KEEP_AFTER: Duration = Duration::from_secs(20);
/// How long a send must take before its turn is asked for again; until then, the turn has lapsed for long enough that a
/// replica whose own sink accepts records has taken it.
const LAPSED: Duration = TURN.saturating_add(KEEP_AFTER.saturating_mul(2));
/// Pauses while a sink does not accept records.
const PAUSES: Backoff = Backoff { first: Duration::from_secs(1), longest: Duration::from_mins(1) };

/// What is streamed, where, and in what form.
#[derive(Debug)]
pub struct Delivery {
    /// The store that holds the trail.
    pub store: Arc<dyn Store>,
    /// The time.
    pub clock: Clock,
    /// The name of this run, as owner of turns.
    pub owner: String,
    /// The export format of records.
    pub format: ExportFormat,
    /// Where they go.
    pub sink: SinkWriter,
}

/// A sink's turn that this run holds.
#[derive(Clone, Copy, Debug)]
struct SinkHold {
    /// Everything up to here was delivered.
    position: i64,
    /// When to renew the turn, by [`Clock::elapsed`].
    keep_at: Duration,
}

/// The outcome of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RoundOutcome {
    /// There may be more.
    Delivered,
    /// Everything is delivered.
    Nothing,
    /// Another run has the turn.
    Elsewhere,
}

/// Why a round failed.
#[derive(Debug, thiserror::Error)]
enum RoundError {
    #[error(transparent)]
    Store(#[from] Error),
    #[error("{0}")]
    Sink(String),
}

impl Delivery {
    /// Streams until it is stopped; then delivers what is left, unless the sink fails, and gives the turn back.
    pub async fn run(self, stop: CancellationToken) {
        let (mut turn, mut failures) = (None, 0_u32);
        loop {
            let pause = match self.round(&mut turn).await {
                Ok(RoundOutcome::Delivered) => {
                    failures = 0;
                    continue;
                }
                Ok(RoundOutcome::Nothing) => POLL_INTERVAL,
                Ok(RoundOutcome::Elsewhere) => KEEP_AFTER,
                Err(error) => {
                    failures = failures.saturating_add(1);
                    tracing::warn!(%error, sink = self.sink.name(), "audit records cannot be delivered at present");
                    PAUSES.pause(failures, 0.5 + self.clock.random_fraction() / 2.0)
                }
            };
            if stop.is_cancelled() {
                break;
            }
            tokio::select! {
                () = self.clock.sleep(pause) => {}
                () = stop.cancelled() => {}
            }
        }
        if let Some(turn) = turn
            && let Err(error) = self.renew_claim(Duration::ZERO, Some(turn.position)).await
        {
            tracing::warn!(%error, sink = self.sink.name(), "cannot give back a sink's turn; it expires by itself");
        }
    }

    /// Delivers the next records.
    async fn round(&self, turn: &mut Option<SinkHold>) -> Result<RoundOutcome, RoundError> {
        if turn.is_none_or(|turn| self.clock.elapsed() >= turn.keep_at) {
            *turn = self.claim(turn.map(|turn| turn.position)).await?;
        }
        let Some(SinkHold { position, .. }) = *turn else {
            // The replica that has the turn shows how late the sink is.
            telemetry::set_audit_lag(self.sink.name(), Duration::ZERO);
            return Ok(RoundOutcome::Elsewhere);
        };
        let query = AuditQuery { after: Some(position), limit: BATCH_MAX, ..AuditQuery::default() };
        let batch = self.store.records(&query).await?;
        telemetry::set_audit_lag(self.sink.name(), self.lag(&batch));
        if batch.is_empty() {
            return Ok(RoundOutcome::Nothing);
        }
        let taken = self.send(&batch).await.map_err(RoundError::Sink)?;
        let Some(last) = batch.get(..taken).and_then(<[_]>::last) else { return Ok(RoundOutcome::Nothing) };
        telemetry::count_delivered(self.sink.name(), taken);
        // Until this is stored, a crash causes the batch to be sent again.
        *turn = self.claim(Some(last.position)).await?;
        Ok(RoundOutcome::Delivered)
    }

    /// Sends a batch, however long the sink takes for it, and shows meanwhile how late the sink is.
    async fn send(&self, batch: &[StoredRecord]) -> Result<usize, String> {
        let mut sending = pin!(self.sink.send(batch, self.format));
        let (sink, begun) = (self.sink.name(), self.clock.elapsed());
        let (mut warn_at, mut ask_at) = (Some(begun.saturating_add(SEND_MAX)), begun.saturating_add(LAPSED));
        let mut elsewhere = false;
        loop {
            tokio::select! {
                biased;
                sent = &mut sending => return sent,
                () = self.clock.sleep(POLL_INTERVAL) => {}
            }
            let now = self.clock.elapsed();
            if warn_at.take_if(|at| now >= *at).is_some() {
                tracing::warn!(sink, "the sink does not finish taking audit records; those after them wait");
            }
            if now >= ask_at {
                ask_at = now.saturating_add(LAPSED);
                elsewhere = matches!(self.claim(None).await, Ok(None));
            }
            telemetry::set_audit_lag(sink, if elsewhere { Duration::ZERO } else { self.lag(batch) });
        }
    }

    /// How long the first of these has been waiting.
    fn lag(&self, batch: &[StoredRecord]) -> Duration {
        let first = batch.first().and_then(|record| IndexFields::read(&record.text));
        first.map_or(Duration::ZERO, |first| until(first.at, self.clock.now()))
    }

    async fn claim(&self, delivered: Option<i64>) -> Result<Option<SinkHold>, Error> {
        let keep_at = self.clock.elapsed().saturating_add(KEEP_AFTER);
        Ok(self.renew_claim(TURN, delivered).await?.map(|position| SinkHold { position, keep_at }))
    }

    async fn renew_claim(&self, ttl: Duration, delivered: Option<i64>) -> Result<Option<i64>, Error> {
        let (sink, owner) = (self.sink.name().to_owned(), self.owner.clone());
        self.store.claim_sink(SinkClaim { sink, owner, ttl, delivered }).await
    }
}
