//! The one writer of a store: concurrent verbs share a commit.
//!
//! Verbs that arrive during a commit share the next one, in one transaction. So a lone verb waits only for its own commit, and
//! a thousand concurrent ones cost a few commits, not a thousand.
//!
//! Guarantees: no verb returns success before its commit; if a shared transaction fails because of its content, its verbs are
//! tried one by one, so a bad one fails alone.
//!
//! It deliberately contains no SQL and no rules about operations or lanes: these are in the [`Desk`] of each kind of store.

use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
};

use super::{
    Error,
    verbs::{Done, Outcome, Verb},
};
use crate::{clock::Clock, telemetry};

/// Verbs per transaction: bounds its memory and how long the first of them waits.
const BATCH_MAX: usize = 256;
/// How often the writer yields before a commit: each time, a thread that brings no verb may take milliseconds.
const GIVES_WAY_MAX: u32 = 2;
/// Verbs queued for the writer; callers with more wait for a place.
const QUEUE_MAX: usize = 4096;

/// Why a transaction failed.
#[derive(Debug)]
pub(super) enum Failed {
    /// Because of its content: one of its verbs may be the cause.
    Content(Error),
    /// Because of something outside it: no verb would do better alone.
    Surroundings(Error),
}

impl Failed {
    pub(super) fn into_error(self) -> Error {
        match self {
            Self::Content(error) | Self::Surroundings(error) => error,
        }
    }
}

/// Where a kind of store writes.
#[async_trait]
pub(super) trait Desk: Send + 'static {
    /// Yields, before a commit, to threads that may be about to submit a verb.
    fn give_way(&self);

    /// Carries out verbs in one transaction; returns an outcome for each, in order.
    async fn commit(&mut self, verbs: &[Verb]) -> Result<Vec<Outcome>, Failed>;

    /// Does what follows a commit, such as notifying other replicas. The callers already have their outcomes.
    async fn announce(&mut self);

    /// Closes the connection.
    async fn close(self);
}

#[derive(Debug)]
struct Asked {
    verb: Verb,
    reply: oneshot::Sender<Outcome>,
}

/// A handle to the writer.
#[derive(Debug)]
pub(super) struct Writer {
    asked: Mutex<Option<mpsc::Sender<Asked>>>,
    ended: tokio::sync::Mutex<Option<oneshot::Receiver<()>>>,
}

impl Writer {
    /// Starts the writer as a task.
    pub(super) fn start(desk: impl Desk, clock: Clock) -> Self {
        let (writer, work) = Self::at(desk, clock);
        tokio::spawn(work);
        writer
    }

    /// Starts the writer on a thread of its own, for a desk that blocks.
    pub(super) fn start_blocking(desk: impl Desk, clock: Clock) -> std::io::Result<Self> {
        let (writer, work) = Self::at(desk, clock);
        let runtime = Handle::current();
        std::thread::Builder::new().name("store-writer".to_owned()).spawn(move || runtime.block_on(work))?;
        Ok(writer)
    }

    fn at(desk: impl Desk, clock: Clock) -> (Self, impl Future<Output = ()> + Send) {
        let (asked, queue) = mpsc::channel(QUEUE_MAX);
        let (over, ended) = oneshot::channel();
        let work = async move {
            work(desk, queue, clock).await;
            if over.send(()).is_err() {
                tracing::debug!("nobody waits for the end of the store's writer");
            }
        };
        (Self { asked: Mutex::new(Some(asked)), ended: tokio::sync::Mutex::new(Some(ended)) }, work)
    }

    /// Runs one verb; returns after its commit.
    pub(super) async fn run(&self, verb: Verb) -> Outcome {
        let closed = || Error::Unavailable("the store is closed".to_owned());
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or_else(closed)?;
        let (reply, outcome) = oneshot::channel();
        asked.send(Asked { verb, reply }).await.map_err(|_closed| closed())?;
        outcome.await.map_err(|_gone| closed())?
    }

    /// Accepts no more verbs, finishes those that are waiting, and closes the connection.
    pub(super) async fn stop(&self) {
        drop(self.asked.lock().unwrap_or_else(PoisonError::into_inner).take());
        if let Some(ended) = self.ended.lock().await.take()
            && ended.await.is_err()
        {
            tracing::error!("the store's writer ended badly");
        }
    }
}

async fn work(mut desk: impl Desk, mut queue: mpsc::Receiver<Asked>, clock: Clock) {
    let mut asked = Vec::with_capacity(BATCH_MAX);
    while queue.recv_many(&mut asked, BATCH_MAX).await > 0 {
        gather(&desk, &mut queue, &mut asked);
        let (verbs, replies): (Vec<_>, Vec<_>) = asked.drain(..).map(|it| (it.verb, it.reply)).unzip();
        let begun = clock.elapsed();
        let outcomes = write(&mut desk, &verbs).await;
        telemetry::measure_commit(verbs.len(), clock.elapsed().saturating_sub(begun));
        for (reply, outcome) in replies.into_iter().zip(outcomes) {
            if let Err(error) = &outcome {
                telemetry::count_store_failure(error.class());
            }
            // The caller may be gone (a client hung up); what was written stays written.
            drop(reply.send(outcome));
        }
        desk.announce().await;
    }
    desk.close().await;
}

/// Takes more verbs that arrive while it yields to other threads, as long as any do.
fn gather(desk: &impl Desk, queue: &mut mpsc::Receiver<Asked>, asked: &mut Vec<Asked>) {
    for _ in 0..GIVES_WAY_MAX {
        let before = asked.len();
        if before == BATCH_MAX {
            break;
        }
        desk.give_way();
        while asked.len() < BATCH_MAX
            && let Ok(more) = queue.try_recv()
        {
            asked.push(more);
        }
        if asked.len() == before {
            break;
        }
    }
}

/// Writes verbs together; if that fails because of their content, one by one.
async fn write(desk: &mut impl Desk, verbs: &[Verb]) -> Vec<Outcome> {
    match desk.commit(verbs).await {
        Ok(outcomes) => return outcomes,
        Err(Failed::Surroundings(error)) => return verbs.iter().map(|_| Err(error.clone())).collect(),
        Err(Failed::Content(error)) if verbs.len() == 1 => return vec![Err(error)],
        Err(Failed::Content(error)) => {
            tracing::warn!(%error, verbs = verbs.len(), "a shared commit failed; its verbs are tried alone");
        }
    }
    let mut outcomes = Vec::with_capacity(verbs.len());
    for verb in verbs {
        outcomes.push(match desk.commit(std::slice::from_ref(verb)).await {
            Ok(mut outcomes) => outcomes.pop().unwrap_or(Ok(Done::Written)),
            Err(failed) => Err(failed.into_error()),
        });
    }
    outcomes
}
