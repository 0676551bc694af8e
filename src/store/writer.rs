//! The one writer of a store: concurrent verbs share a commit.
//!
//! Verbs that arrive during a commit share the next one, in one transaction. So a lone verb waits only for its own commit, and
//! a thousand concurrent ones cost a few commits, not a thousand.
//!
//! Guarantees: no verb returns success before its commit; if a shared transaction fails because of its content, its verbs are
//! tried one by one, so a bad one fails alone.
//!
//! It deliberately contains no SQL and no rules about operations or lanes: these are in the [`WriteBackend`] of each kind of
//! store.

use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
};

use super::{
    Error,
    commands::{CommandOutput, CommandResult, WriteCommand},
};
use crate::{clock::Clock, telemetry};

/// Commands per transaction: bounds its memory and how long the first of them waits.
const BATCH_MAX: usize = 256;
/// How often the writer yields before a commit: each time, a thread that brings no command may take milliseconds.
const YIELDS_MAX: u32 = 2;
/// Commands queued for the writer; callers with more wait for a place.
const QUEUE_MAX: usize = 4096;

/// Why a transaction failed.
#[derive(Debug)]
pub(super) enum TransactionError {
    /// Because of its content: one of its commands may be the cause.
    Content(Error),
    /// Because of something outside it: no command would do better alone.
    Environment(Error),
}

impl TransactionError {
    pub(super) fn into_error(self) -> Error {
        match self {
            Self::Content(error) | Self::Environment(error) => error,
        }
    }
}

/// Where a kind of store writes.
#[async_trait]
pub(super) trait WriteBackend: Send + 'static {
    /// Yields, before a commit, to threads that may be about to submit a command.
    fn yield_before_commit(&self);

    /// Carries out commands in one transaction; returns an outcome for each, in order.
    async fn commit(&mut self, commands: &[WriteCommand]) -> Result<Vec<CommandResult>, TransactionError>;

    /// Does what follows a commit, such as notifying other replicas. The callers already have their outcomes.
    async fn after_commit(&mut self);

    /// Closes the connection.
    async fn close(self);
}

#[derive(Debug)]
struct QueuedCommand {
    command: WriteCommand,
    reply: oneshot::Sender<CommandResult>,
}

/// A handle to the writer.
#[derive(Debug)]
pub(super) struct Writer {
    queue: Mutex<Option<mpsc::Sender<QueuedCommand>>>,
    ended: tokio::sync::Mutex<Option<oneshot::Receiver<()>>>,
}

impl Writer {
    /// Starts the writer as a task.
    pub(super) fn start(backend: impl WriteBackend, clock: Clock) -> Self {
        let (writer, work) = Self::at(backend, clock);
        tokio::spawn(work);
        writer
    }

    /// Starts the writer on a thread of its own, for a backend that blocks.
    pub(super) fn start_blocking(backend: impl WriteBackend, clock: Clock) -> std::io::Result<Self> {
        let (writer, work) = Self::at(backend, clock);
        let runtime = Handle::current();
        std::thread::Builder::new().name("store-writer".to_owned()).spawn(move || runtime.block_on(work))?;
        Ok(writer)
    }

    fn at(backend: impl WriteBackend, clock: Clock) -> (Self, impl Future<Output = ()> + Send) {
        let (queued, queue) = mpsc::channel(QUEUE_MAX);
        let (over, ended) = oneshot::channel();
        let work = async move {
            work(backend, queue, clock).await;
            if over.send(()).is_err() {
                tracing::debug!("nobody waits for the end of the store's writer");
            }
        };
        (Self { queue: Mutex::new(Some(queued)), ended: tokio::sync::Mutex::new(Some(ended)) }, work)
    }

    /// Runs one command; returns after its commit.
    pub(super) async fn run(&self, command: WriteCommand) -> CommandResult {
        let closed = || Error::Unavailable("the store is closed".to_owned());
        let queued = self.queue.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or_else(closed)?;
        let (reply, outcome) = oneshot::channel();
        queued.send(QueuedCommand { command, reply }).await.map_err(|_closed| closed())?;
        outcome.await.map_err(|_gone| closed())?
    }

    /// Accepts no more commands, finishes those that are waiting, and closes the connection.
    pub(super) async fn stop(&self) {
        drop(self.queue.lock().unwrap_or_else(PoisonError::into_inner).take());
        if let Some(ended) = self.ended.lock().await.take()
            && ended.await.is_err()
        {
            tracing::error!("the store's writer ended badly");
        }
    }
}

async fn work(mut backend: impl WriteBackend, mut queue: mpsc::Receiver<QueuedCommand>, clock: Clock) {
    let mut queued = Vec::with_capacity(BATCH_MAX);
    while queue.recv_many(&mut queued, BATCH_MAX).await > 0 {
        gather(&backend, &mut queue, &mut queued);
        let (commands, replies): (Vec<_>, Vec<_>) = queued.drain(..).map(|it| (it.command, it.reply)).unzip();
        let begun = clock.elapsed();
        let outcomes = write(&mut backend, &commands).await;
        telemetry::measure_commit(commands.len(), clock.elapsed().saturating_sub(begun));
        for (reply, outcome) in replies.into_iter().zip(outcomes) {
            if let Err(error) = &outcome {
                telemetry::count_store_failure(error.class());
            }
            // The caller may be gone (a client hung up); what was written stays written.
            drop(reply.send(outcome));
        }
        backend.after_commit().await;
    }
    backend.close().await;
}

/// Takes more commands that arrive while it yields to other threads, as long as any do.
fn gather(backend: &impl WriteBackend, queue: &mut mpsc::Receiver<QueuedCommand>, queued: &mut Vec<QueuedCommand>) {
    for _ in 0..YIELDS_MAX {
        let before = queued.len();
        if before == BATCH_MAX {
            break;
        }
        backend.yield_before_commit();
        while queued.len() < BATCH_MAX
            && let Ok(more) = queue.try_recv()
        {
            queued.push(more);
        }
        if queued.len() == before {
            break;
        }
    }
}

/// Writes commands together; if that fails because of their content, one by one.
async fn write(backend: &mut impl WriteBackend, commands: &[WriteCommand]) -> Vec<CommandResult> {
    match backend.commit(commands).await {
        Ok(outcomes) => return outcomes,
        Err(TransactionError::Environment(error)) => return commands.iter().map(|_| Err(error.clone())).collect(),
        Err(TransactionError::Content(error)) if commands.len() == 1 => return vec![Err(error)],
        Err(TransactionError::Content(error)) => {
            tracing::warn!(%error, verbs = commands.len(), "a shared commit failed; its verbs are tried alone");
        }
    }
    let mut outcomes = Vec::with_capacity(commands.len());
    for command in commands {
        outcomes.push(match backend.commit(std::slice::from_ref(command)).await {
            Ok(mut outcomes) => outcomes.pop().unwrap_or(Ok(CommandOutput::Written)),
            Err(failed) => Err(failed.into_error()),
        });
    }
    outcomes
}
