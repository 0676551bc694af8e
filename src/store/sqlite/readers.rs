//! The connections of the SQLite store that only read.
//!
//! Guarantees: a read waits for no commit and blocks no async task: it runs on a thread that may block.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rusqlite::Connection;
use tokio::sync::Semaphore;

use super::{super::Error, connect};

/// Concurrent reads for callers; reads are short.
const READERS: u16 = 8;
/// Concurrent reads for lanes, which gain nothing from more.
const OF_LANES: u16 = 2;
/// How long a read waits for its turn: longer than any burst that is let in.
const PATIENCE: Duration = Duration::from_secs(30);

/// Connections that are opened on demand and kept.
#[derive(Debug)]
pub(super) struct Readers {
    path: PathBuf,
    idle: Arc<Mutex<Vec<Connection>>>,
    turns: Arc<Semaphore>,
    most: u16,
}

impl Readers {
    /// Readers of a file that exists.
    pub(super) fn new(path: PathBuf) -> Self {
        Self::at_most(READERS, path)
    }

    /// Readers of a file that exists, for lanes: these wait for no search.
    pub(super) fn of_lanes(path: PathBuf) -> Self {
        Self::at_most(OF_LANES, path)
    }

    fn at_most(most: u16, path: PathBuf) -> Self {
        Self { path, idle: Arc::default(), turns: Arc::new(Semaphore::new(most.into())), most }
    }

    /// Runs `what` on a connection, on a thread that may block.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        what: impl FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let turn = tokio::time::timeout(PATIENCE, Arc::clone(&self.turns).acquire_owned());
        let turn = turn.await.map_err(|_late| Error::Unavailable("too many reads at once".to_owned()))?;
        let turn = turn.map_err(|_closed| Error::Unavailable("the store is closed".to_owned()))?;
        let (path, idle) = (self.path.clone(), Arc::clone(&self.idle));
        let reading = tokio::task::spawn_blocking(move || {
            let kept = lock(&idle).pop();
            let connection = kept.map_or_else(|| connect::read_only(&path), Ok)?;
            let found = what(&connection);
            lock(&idle).push(connection);
            // Held until here, even if the caller is gone: closing waits for it.
            drop(turn);
            found
        });
        reading.await.map_err(|error| Error::Unavailable(format!("a read ended badly: {error}")))?
    }

    /// Waits for reads under way, and closes their connections.
    pub(super) async fn close(&self) {
        // If this fails, they are closed already.
        if let Ok(turns) = self.turns.acquire_many(self.most.into()).await {
            turns.forget();
        }
        self.turns.close();
        lock(&self.idle).clear();
    }
}

fn lock(idle: &Mutex<Vec<Connection>>) -> std::sync::MutexGuard<'_, Vec<Connection>> {
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}
