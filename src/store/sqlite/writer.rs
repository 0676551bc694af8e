//! The one writer of the SQLite store: concurrent verbs share a commit.
//!
//! Whatever has arrived while a commit was under way goes into the next one, in one transaction. So a verb that comes
//! alone waits for its own commit only, and a thousand that come together cost a few commits, not a thousand.
//!
//! Guarantees: nobody is told of success before the commit; if a shared transaction fails, its verbs are tried one by
//! one, so a bad one harms only itself. The end of the audit chain moves on with the commit, never before it.
//!
//! It deliberately holds no rules about operations or lanes; the SQL in `verbs` does.

use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use sqlx::{Connection, SqliteConnection};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use super::{
    super::{Acceptance, Accepted, Claim, Error, Intent, Parking, Settlement, Turn},
    unavailable, verbs,
};
use crate::{
    audit::{Entry, Head},
    store::Holder,
};

/// Verbs in one transaction at most: bounds its memory and how long the first of them waits.
const BATCH_MAX: usize = 256;
/// Verbs that wait for the writer; more wait at the door.
const QUEUE_MAX: usize = 4096;

/// Something to write.
#[derive(Debug)]
pub(super) enum Verb {
    Accept(Box<Acceptance>),
    Record(Vec<Entry>),
    Claim(Claim),
    BeginWrite(Holder, Intent, Timestamp),
    Settle(Holder, Settlement),
    Park(Holder, Parking),
    Probe(Timestamp),
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Done {
    Accepted(Accepted),
    Claimed(Option<Box<Turn>>),
    Written,
}

/// The result of one verb: a refusal concerns it alone.
pub(super) type Outcome = Result<Done, Error>;

struct Asked {
    verb: Verb,
    reply: oneshot::Sender<Outcome>,
}

/// The way to the writer.
#[derive(Debug)]
pub(super) struct Writer {
    asked: Mutex<Option<mpsc::Sender<Asked>>>,
    task: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    /// Starts the writer on its connection; the chain goes on from `head`.
    pub(super) fn start(connection: SqliteConnection, head: Head) -> Self {
        let (asked, queue) = mpsc::channel(QUEUE_MAX);
        let task = tokio::spawn(Desk { connection, head }.work(queue));
        Self { asked: Mutex::new(Some(asked)), task: tokio::sync::Mutex::new(Some(task)) }
    }

    /// Has one verb done; returns after its commit.
    pub(super) async fn run(&self, verb: Verb) -> Outcome {
        let closed = || Error::Unavailable("the store is closed".to_owned());
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or_else(closed)?;
        let (reply, outcome) = oneshot::channel();
        asked.send(Asked { verb, reply }).await.map_err(|_closed| closed())?;
        outcome.await.map_err(|_gone| closed())?
    }

    /// Takes no more verbs, finishes those that are waiting, and closes the connection.
    pub(super) async fn stop(&self) {
        drop(self.asked.lock().unwrap_or_else(PoisonError::into_inner).take());
        if let Some(task) = self.task.lock().await.take()
            && let Err(error) = task.await
        {
            tracing::error!(%error, "the store's writer ended badly");
        }
    }
}

/// Where the writing is done.
struct Desk {
    connection: SqliteConnection,
    head: Head,
}

impl Desk {
    async fn work(mut self, mut queue: mpsc::Receiver<Asked>) {
        let mut asked = Vec::with_capacity(BATCH_MAX);
        while queue.recv_many(&mut asked, BATCH_MAX).await > 0 {
            let (verbs, replies): (Vec<_>, Vec<_>) = asked.drain(..).map(|it| (it.verb, it.reply)).unzip();
            let outcomes = self.write(&verbs).await;
            for (reply, outcome) in replies.into_iter().zip(outcomes) {
                // Whoever asked may be gone (a caller hung up); what was written stays written.
                drop(reply.send(outcome));
            }
        }
        if let Err(error) = self.connection.close().await {
            tracing::error!(%error, "cannot close the store");
        }
    }

    /// Writes verbs together; if that fails, one by one.
    async fn write(&mut self, verbs: &[Verb]) -> Vec<Outcome> {
        match self.commit(verbs).await {
            Ok(outcomes) => return outcomes,
            Err(error) if verbs.len() == 1 => return vec![Err(error)],
            Err(error) => {
                tracing::warn!(%error, verbs = verbs.len(), "a shared commit failed; its verbs are tried alone");
            }
        }
        let mut outcomes = Vec::with_capacity(verbs.len());
        for verb in verbs {
            let alone = self.commit(std::slice::from_ref(verb)).await;
            outcomes.push(alone.map_or_else(Err, |mut outcomes| outcomes.pop().unwrap_or(Ok(Done::Written))));
        }
        outcomes
    }

    /// One transaction. An error means that nothing of it happened.
    async fn commit(&mut self, verbs: &[Verb]) -> Result<Vec<Outcome>, Error> {
        let mut transaction = self.connection.begin_with("BEGIN IMMEDIATE").await.map_err(unavailable)?;
        let mut ledger = verbs::Ledger::new(self.head.clone());
        let outcomes = verbs::apply(&mut transaction, &mut ledger, verbs).await?;
        let head = ledger.write(&mut transaction).await?;
        transaction.commit().await.map_err(unavailable)?;
        self.head = head;
        Ok(outcomes)
    }
}
