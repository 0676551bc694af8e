//! Notices between replicas, by `LISTEN` and `NOTIFY`.
//!
//! Notices of a commit are sent after it, outside its transaction: PostgreSQL lets one notifying transaction commit at a
//! time, and commits must not wait for mere hints. A listener feeds the notices of other replicas into [`Notices`]; while it
//! has no connection, the notices say so, and waiters read the store themselves.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use sqlx::{Executor, PgConnection, postgres::PgListener};

use super::{
    super::{
        Accepted, ApprovalOutcome, Cancelled, Error, Notices, Parking, Settlement,
        commands::{CommandOutput, CommandResult, WriteCommand},
    },
    access::Access,
    unavailable,
};
use crate::clock::{Backoff, Clock};

/// The channel for lanes that may have work.
const WORK: &str = "postern_work";
/// The channel for operations that have ended.
const ENDED: &str = "postern_ended";
/// PostgreSQL accepts payloads below 8,000 bytes.
const PAYLOAD_MAX: usize = 7_900;
/// Pauses between attempts to listen.
const PAUSES: Backoff = Backoff { first: Duration::from_millis(200), longest: Duration::from_secs(10) };
/// How long nothing may arrive before the connection is checked.
const SILENCE: Duration = Duration::from_secs(5);
/// How long that check may take.
const ANSWER_MAX: Duration = Duration::from_secs(3);

/// What other replicas are to be notified of.
#[derive(Debug, Default)]
pub(super) struct OutgoingNotices {
    work: BTreeSet<String>,
    ended: BTreeSet<String>,
}

impl OutgoingNotices {
    /// Collects the notices of a commit.
    pub(super) fn collect(&mut self, commands: &[WriteCommand], outcomes: &[CommandResult]) {
        for pair in commands.iter().zip(outcomes) {
            match pair {
                (WriteCommand::Accept(acceptance), Ok(CommandOutput::Accepted(Accepted::New))) => {
                    self.work.insert(acceptance.operation.submission.configuration.to_string());
                }
                (WriteCommand::Cancel(_), Ok(CommandOutput::Cancelled(Cancelled::Done(operation)))) => {
                    self.ended.insert(operation.id.to_string());
                }
                (WriteCommand::AnswerApproval(_), Ok(CommandOutput::Answered(ApprovalOutcome::Done(operation)))) => {
                    if operation.state.has_ended() {
                        self.ended.insert(operation.id.to_string());
                    } else {
                        self.work.insert(operation.submission.configuration.to_string());
                    }
                }
                (
                    WriteCommand::Settle(_, Settlement { ended, .. }) | WriteCommand::Park(_, Parking { ended, .. }),
                    Ok(_),
                ) => {
                    self.ended.extend(ended.iter().map(|(id, _)| id.to_string()));
                }
                _ => {}
            }
        }
    }

    /// Sends it, and forgets it whether that works or not.
    pub(super) async fn send(&mut self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let Self { work, ended } = std::mem::take(self);
        let (work, ended) = (payloads(work), payloads(ended));
        let channels: Vec<_> = work.iter().map(|_| WORK).chain(ended.iter().map(|_| ENDED)).collect();
        if channels.is_empty() {
            return Ok(());
        }
        let payloads: Vec<_> = work.into_iter().chain(ended).collect();
        let sql = "SELECT pg_notify(channel, payload) FROM unnest($1::TEXT[], $2::TEXT[]) AS news (channel, payload)";
        sqlx::query(sql).bind(channels).bind(payloads).execute(connection).await.map(drop)
    }
}

/// Joins names with commas, into payloads that are short enough.
fn payloads(names: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut payloads: Vec<String> = Vec::new();
    for name in names {
        match payloads.last_mut() {
            Some(last) if last.len().saturating_add(name.len()) < PAYLOAD_MAX => {
                last.push(',');
                last.push_str(&name);
            }
            Some(_) | None => payloads.push(name),
        }
    }
    payloads
}

/// Receives the notices of other replicas.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) access: Access,
    pub(super) notices: Arc<Notices>,
    pub(super) clock: Clock,
    /// The server's process id for our own writing connection, whose notifications are ignored.
    pub(super) backend_pid: Arc<AtomicU32>,
}

impl Listener {
    /// Listens, and reconnects whenever that ends, until the store is closed.
    pub(super) async fn listen(self) {
        let mut failed = 0_u32;
        while !self.access.is_closed() {
            let error = match self.connect().await {
                Ok(listener) => {
                    failed = 0;
                    self.notices.mark_connected();
                    let error = self.receive(listener).await;
                    self.notices.mark_disconnected();
                    unavailable(error)
                }
                Err(error) => error,
            };
            failed = failed.saturating_add(1);
            tracing::warn!(%error, "no news from other replicas; their work is looked for instead");
            self.clock.sleep(PAUSES.pause(failed, self.clock.random_fraction())).await;
        }
    }

    async fn connect(&self) -> Result<PgListener, Error> {
        let ears = self.access.listener_pool()?;
        let listening = async {
            let mut listener = PgListener::connect_with(&ears).await?;
            listener.eager_reconnect(false);
            listener.listen_all([WORK, ENDED]).await?;
            Ok(listener)
        };
        self.access.in_time(Box::pin(async { listening.await.map_err(unavailable) })).await
    }

    /// Feeds the notices for as long as the connection lasts; returns why it ended.
    async fn receive(&self, mut listener: PgListener) -> sqlx::Error {
        loop {
            match tokio::time::timeout(SILENCE, listener.try_recv()).await {
                Ok(Ok(Some(news))) if news.process_id() == self.backend_pid.load(Ordering::Relaxed) => {}
                Ok(Ok(Some(news))) => self.dispatch(news.channel(), news.payload()),
                Ok(Ok(None)) => return sqlx::Error::WorkerCrashed,
                Ok(Err(error)) => return error,
                Err(_silence) => match tokio::time::timeout(ANSWER_MAX, listener.execute("SELECT 1")).await {
                    Ok(Ok(_)) => {}
                    Ok(Err(error)) => return error,
                    Err(_elapsed) => return sqlx::Error::PoolTimedOut,
                },
            }
        }
    }

    /// Names that cannot be parsed are ignored.
    fn dispatch(&self, channel: &str, payload: &str) {
        if channel == WORK {
            payload.split(',').filter_map(|name| name.parse().ok()).for_each(|lane| self.notices.notify_work(lane));
        } else {
            self.notices.notify_ended(payload.split(',').filter_map(|name| name.parse().ok()));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_name_is_told_once_and_no_payload_is_too_long(lengths in prop::collection::vec(1..140_usize, 0..2_000)) {
            let names: Vec<_> = lengths.iter().map(|length| "n".repeat(*length)).collect();
            let payloads = payloads(names.clone());
            prop_assert!(payloads.iter().all(|payload| payload.len() < 8_000));
            prop_assert_eq!(payloads.iter().flat_map(|payload| payload.split(',')).collect::<Vec<_>>(), names);
        }
    }
}
