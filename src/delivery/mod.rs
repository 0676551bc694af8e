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

pub use self::sink::Outlet;
use self::sink::SEND_MAX;
use crate::{
    audit::{Form, Marks},
    clock::{Backoff, Clock, until},
    store::{AuditQuery, Error, Filed, Following, Store},
    telemetry,
};

/// The most records sent together.
const BATCH_MAX: usize = 200;
/// How often to look for new records.
const LOOK: Duration = Duration::from_secs(1);
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
    pub form: Form,
    /// Where they go.
    pub outlet: Outlet,
}

/// A sink's turn that this run holds.
#[derive(Clone, Copy, Debug)]
struct Turn {
    /// Everything up to here was delivered.
    position: i64,
    /// When to renew the turn, by [`Clock::elapsed`].
    keep_at: Duration,
}

/// The outcome of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Round {
    /// There may be more.
    Delivered,
    /// Everything is delivered.
    Nothing,
    /// Another run has the turn.
    Elsewhere,
}

/// Why a round failed.
#[derive(Debug, thiserror::Error)]
enum Failed {
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
                Ok(Round::Delivered) => {
                    failures = 0;
                    continue;
                }
                Ok(Round::Nothing) => LOOK,
                Ok(Round::Elsewhere) => KEEP_AFTER,
                Err(error) => {
                    failures = failures.saturating_add(1);
                    tracing::warn!(%error, sink = self.outlet.name(), "audit records cannot be delivered at present");
                    PAUSES.pause(failures, 0.5 + self.clock.chance() / 2.0)
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
            && let Err(error) = self.follow(Duration::ZERO, Some(turn.position)).await
        {
            tracing::warn!(%error, sink = self.outlet.name(), "cannot give back a sink's turn; it expires by itself");
        }
    }

    /// Delivers the next records.
    async fn round(&self, turn: &mut Option<Turn>) -> Result<Round, Failed> {
        if turn.is_none_or(|turn| self.clock.elapsed() >= turn.keep_at) {
            *turn = self.take(turn.map(|turn| turn.position)).await?;
        }
        let Some(Turn { position, .. }) = *turn else {
            // The replica that has the turn shows how late the sink is.
            telemetry::note_audit_lag(self.outlet.name(), Duration::ZERO);
            return Ok(Round::Elsewhere);
        };
        let query = AuditQuery { after: Some(position), limit: BATCH_MAX, ..AuditQuery::default() };
        let batch = self.store.records(&query).await?;
        telemetry::note_audit_lag(self.outlet.name(), self.lag(&batch));
        if batch.is_empty() {
            return Ok(Round::Nothing);
        }
        let taken = self.send(&batch).await.map_err(Failed::Sink)?;
        let Some(last) = batch.get(..taken).and_then(<[_]>::last) else { return Ok(Round::Nothing) };
        telemetry::count_delivered(self.outlet.name(), taken);
        // Until this is stored, a crash causes the batch to be sent again.
        *turn = self.take(Some(last.position)).await?;
        Ok(Round::Delivered)
    }

    /// Sends a batch, however long the sink takes for it, and shows meanwhile how late the sink is.
    async fn send(&self, batch: &[Filed]) -> Result<usize, String> {
        let mut sending = pin!(self.outlet.send(batch, self.form));
        let (sink, begun) = (self.outlet.name(), self.clock.elapsed());
        let (mut warn_at, mut ask_at) = (Some(begun.saturating_add(SEND_MAX)), begun.saturating_add(LAPSED));
        let mut elsewhere = false;
        loop {
            tokio::select! {
                biased;
                sent = &mut sending => return sent,
                () = self.clock.sleep(LOOK) => {}
            }
            let now = self.clock.elapsed();
            if warn_at.take_if(|at| now >= *at).is_some() {
                tracing::warn!(sink, "the sink does not finish taking audit records; those after them wait");
            }
            if now >= ask_at {
                ask_at = now.saturating_add(LAPSED);
                elsewhere = matches!(self.take(None).await, Ok(None));
            }
            telemetry::note_audit_lag(sink, if elsewhere { Duration::ZERO } else { self.lag(batch) });
        }
    }

    /// How long the first of these has been waiting.
    fn lag(&self, batch: &[Filed]) -> Duration {
        let first = batch.first().and_then(|filed| Marks::read(&filed.text));
        first.map_or(Duration::ZERO, |first| until(first.at, self.clock.now()))
    }

    async fn take(&self, delivered: Option<i64>) -> Result<Option<Turn>, Error> {
        let keep_at = self.clock.elapsed().saturating_add(KEEP_AFTER);
        Ok(self.follow(TURN, delivered).await?.map(|position| Turn { position, keep_at }))
    }

    async fn follow(&self, ttl: Duration, delivered: Option<i64>) -> Result<Option<i64>, Error> {
        let (sink, owner) = (self.outlet.name().to_owned(), self.owner.clone());
        self.store.follow(Following { sink, owner, ttl, delivered }).await
    }
}
