//! The store in one SQLite file, for one gateway process.
//!
//! Guarantees: write-ahead log with `synchronous = FULL`, so a commit is on disk when it returns; a lock file keeps a
//! second gateway away, so the leases of an earlier run are void and are taken over at once when the file is opened.
//!
//! Its time is the clock of that process. One connection writes (`desk`), a few read. It deliberately has no connection
//! that does both: readers never wait for a commit, and the writer never waits for a reader.

mod accept;
mod callbacks;
mod desk;
mod ends;
mod read;
mod rows;
mod trail;
mod verbs;

use std::{fs::File, path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::{
    Connection, SqliteConnection, SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use tokio::sync::Mutex;

use self::desk::Desk;
use super::{
    Acceptance, Accepted, Answered, AuditPage, AuditQuery, Backlog, Cancellation, Cancelled, Claim, Due, Error, Filed,
    Following, Forgetting, IdempotencyKey, Intent, Lease, Notices, Parked, Parking, Query, Release, Reply, Run, Sequel,
    Settlement, Store, Turn, verbs::Verbs, writer::Writer,
};
use crate::{
    audit::{Entry, Head, Place},
    domain::{ConfigurationId, Operation, OperationId},
};

/// Readers at once; each is a thread, and reads are short.
const READERS: u32 = 8;
/// How long a read waits for one of them: longer than any burst that the doors let in.
const READER_TIMEOUT: Duration = Duration::from_secs(30);
/// Memory for the pages that the writer needs again and again, those of the indexes above all: 16 MiB, said in negative KiB.
const CACHE: &str = "-16384";
/// Pages in the write-ahead log after which it is moved into the file: 16 MiB. A page that changed often is moved once.
const PAGES_IN_LOG: &str = "4000";
/// How long a statement waits for another process (a backup, `postern audit verify`) to let go of the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// A store in a file.
#[derive(Debug)]
pub struct Sqlite {
    verbs: Verbs,
    readers: SqlitePool,
    /// Held until the store is closed.
    lock: Mutex<Option<File>>,
}

impl Sqlite {
    /// Opens the file, makes or migrates its tables, and begins this run's chain.
    pub async fn open(path: &Path, run: Run) -> Result<Self, Error> {
        let lock = only_gateway(path)?;
        let options = options(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .pragma("cache_size", CACHE)
            .pragma("wal_autocheckpoint", PAGES_IN_LOG);
        let unusable =
            |error: &dyn std::fmt::Display| Error::Unusable(format!("cannot open {}: {error}", path.display()));
        let mut connection = SqliteConnection::connect_with(&options).await.map_err(|error| unusable(&error))?;
        sqlx::migrate!("migrations/sqlite").run(&mut connection).await.map_err(|error| unusable(&error))?;
        let mut transaction = connection.begin().await.map_err(|error| unusable(&error))?;
        let head = verbs::begin_run(&mut transaction, &run).await.map_err(|error| unusable(&error))?;
        transaction.commit().await.map_err(|error| unusable(&error))?;
        let readers = readers(path).await?;
        let writer = Writer::start(Desk { connection, head, room: None, clock: run.clock }, run.clock);
        let verbs = Verbs { writer, notices: Arc::new(Notices::default()), clock: run.clock };
        Ok(Self { verbs, readers, lock: Mutex::new(Some(lock)) })
    }

    /// The audit trail of a file that a gateway may be using, without disturbing it.
    pub async fn read_audit(path: &Path, after: Option<i64>, limit: usize) -> Result<AuditPage, Error> {
        let query = AuditQuery { after, limit, ..AuditQuery::default() };
        Ok(AuditPage::of(trail::records(&mut read_only(path).await?, &query).await?, limit))
    }

    /// The position of a record in such a file.
    pub(super) async fn find_record(path: &Path, place: &Place) -> Result<Option<i64>, Error> {
        trail::position(&mut read_only(path).await?, place).await
    }
}

/// What all connections have in common. How the file is written is said by the one that writes: a copy that SQLite made need
/// not be written so, and whoever only reads could not change it.
fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new().filename(path).busy_timeout(BUSY_TIMEOUT)
}

async fn read_only(path: &Path) -> Result<SqliteConnection, Error> {
    if !path.exists() {
        return Err(Error::Unusable(format!("there is no store at {}", path.display())));
    }
    SqliteConnection::connect_with(&options(path).read_only(true)).await.map_err(unavailable)
}

async fn readers(path: &Path) -> Result<SqlitePool, Error> {
    let pool = SqlitePoolOptions::new().max_connections(READERS).acquire_timeout(READER_TIMEOUT);
    pool.connect_with(options(path).read_only(true)).await.map_err(unavailable)
}

/// Takes the lock that says that a gateway uses this file; makes the folder if it is missing.
fn only_gateway(path: &Path) -> Result<File, Error> {
    let unusable = |what: String| Error::Unusable(format!("cannot open {}: {what}", path.display()));
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(|error| unusable(format!("cannot make its folder: {error}")))?;
    }
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let file = File::create(&name).map_err(|error| unusable(format!("cannot make its lock file: {error}")))?;
    file.try_lock()
        .map_err(|error| unusable(format!("another gateway uses it ({error}); SQLite serves one process only")))?;
    Ok(file)
}

#[expect(clippy::needless_pass_by_value, reason = "its one use is in map_err")]
fn unavailable(error: sqlx::Error) -> Error {
    Error::Unavailable(error.to_string())
}

#[async_trait]
impl Store for Sqlite {
    async fn accept(&self, acceptance: Acceptance) -> Result<Accepted, Error> {
        self.verbs.accept(acceptance).await
    }

    async fn recall(&self, caller: &str, key: &IdempotencyKey) -> Result<Option<Accepted>, Error> {
        let mut connection = self.readers.acquire().await.map_err(unavailable)?;
        accept::recall(&mut connection, caller, key).await
    }

    async fn cancel(&self, cancellation: Cancellation) -> Result<Cancelled, Error> {
        self.verbs.cancel(cancellation).await
    }

    async fn release(&self, release: Release) -> Result<bool, Error> {
        self.verbs.release(release).await
    }

    async fn due(&self, due: Due) -> Result<Vec<Operation>, Error> {
        let mut connection = self.readers.acquire().await.map_err(unavailable)?;
        read::due(&mut connection, &due).await
    }

    async fn claim_callbacks(&self, claim: super::callbacks::Claim) -> Result<Vec<super::callbacks::Attempt>, Error> {
        self.verbs.claim_callbacks(claim).await
    }

    async fn note_attempt(&self, attempted: super::callbacks::Attempted) -> Result<bool, Error> {
        self.verbs.note_attempt(attempted).await
    }

    async fn resend_callback(&self, resending: super::callbacks::Resending) -> Result<bool, Error> {
        self.verbs.resend_callback(resending).await
    }

    async fn sequel(&self, id: OperationId) -> Result<Sequel, Error> {
        let mut connection = self.readers.acquire().await.map_err(unavailable)?;
        read::sequel(&mut connection, id).await
    }

    async fn answer(&self, reply: Reply) -> Result<Answered, Error> {
        self.verbs.answer(reply).await
    }

    async fn unanswered(&self, at: Timestamp, limit: usize) -> Result<Vec<OperationId>, Error> {
        let mut connection = self.readers.acquire().await.map_err(unavailable)?;
        read::unanswered(&mut connection, at, limit).await
    }

    async fn record(&self, entries: Vec<Entry>) -> Result<(), Error> {
        self.verbs.record(entries).await
    }

    async fn operation(&self, id: OperationId) -> Result<Option<Operation>, Error> {
        let mut connection = self.readers.acquire().await.map_err(unavailable)?;
        read::operation(&mut connection, id).await
    }

    async fn operations(&self, query: &Query) -> Result<Vec<Operation>, Error> {
        let mut connection = self.readers.acquire().await.map_err(unavailable)?;
        read::operations(&mut connection, query).await
    }

    async fn parked(&self, configuration: &ConfigurationId) -> Result<Option<Parked>, Error> {
        let mut connection = self.readers.acquire().await.map_err(unavailable)?;
        read::parked(&mut connection, configuration).await
    }

    async fn open_lanes(&self, limit: usize) -> Result<Vec<ConfigurationId>, Error> {
        let mut connection = self.readers.acquire().await.map_err(unavailable)?;
        read::open_lanes(&mut connection, self.verbs.clock.now(), limit).await
    }

    async fn backlog(&self) -> Result<Backlog, Error> {
        let mut connection = self.readers.acquire().await.map_err(unavailable)?;
        read::backlog(&mut connection).await
    }

    async fn claim(&self, claim: Claim) -> Result<Option<Turn>, Error> {
        self.verbs.claim(claim).await
    }

    async fn begin_write(&self, lease: &mut Lease, intent: &Intent, ttl: Duration) -> Result<(), Error> {
        self.verbs.begin_write(lease, intent, ttl).await
    }

    async fn settle(&self, lease: Lease, settlement: Settlement) -> Result<Option<Lease>, Error> {
        self.verbs.settle(lease, settlement).await
    }

    async fn park(&self, lease: Lease, parking: Parking) -> Result<(), Error> {
        self.verbs.park(lease, parking).await
    }

    async fn forget(&self, forgetting: Forgetting) -> Result<usize, Error> {
        self.verbs.forget(forgetting).await
    }

    async fn records(&self, query: &AuditQuery) -> Result<Vec<Filed>, Error> {
        let mut connection = self.readers.acquire().await.map_err(unavailable)?;
        trail::records(&mut connection, query).await
    }

    async fn follow(&self, following: Following) -> Result<Option<i64>, Error> {
        self.verbs.follow(following).await
    }

    async fn ends(&self) -> Result<Vec<Head>, Error> {
        let mut connection = self.readers.acquire().await.map_err(unavailable)?;
        trail::ends(&mut connection).await
    }

    async fn probe(&self) -> Result<(), Error> {
        self.verbs.probe().await
    }

    fn notices(&self) -> &Notices {
        &self.verbs.notices
    }

    async fn close(&self) {
        // The writer's connection closes last: then SQLite moves the write-ahead log into the file, which a connection
        // that only reads cannot do. So a stopped store is one file, and a copy of it is whole.
        self.readers.close().await;
        self.verbs.writer.stop().await;
        // Closing alone leaves the lock to any copy of the handle, as a child that is being started has for a moment.
        if let Some(lock) = self.lock.lock().await.take()
            && let Err(error) = lock.unlock()
        {
            tracing::warn!(%error, "the store's lock is given back when this process ends");
        }
    }
}
