//! The store in one SQLite file, for one gateway process.
//!
//! Guarantees: write-ahead log with `synchronous = FULL`, so a commit is on disk when it returns; a lock file keeps out a
//! second gateway, so opening the file voids the leases of earlier runs at once, except where a write was announced.
//!
//! The store's time is that process's clock. One connection writes (`backend`), a few read (`readers`). It deliberately has
//! no connection that does both: readers never wait for a commit, and the writer never waits for a reader. Once the store is
//! open, SQLite is called directly on threads that may block ([0030](../../../docs/adr/0030-sqlite-is-called-in-place.md)).

mod accept;
mod backend;
mod callbacks;
mod commands;
mod connect;
mod indexing;
mod read;
mod readers;
mod rows;
mod trail;
mod unleased;
mod wal;

use std::{fs::File, path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::TransactionBehavior;
use sqlx::Connection as _;
use tokio::sync::Mutex;

use self::{backend::SqliteBackend, indexing::Indexing, readers::Readers, wal::WalCheckpointer};
use super::{
    Acceptance, Accepted, ApprovalOutcome, ApprovalReply, AuditPage, AuditQuery, Backlog, Cancellation, Cancelled,
    Claim, Claimed, DueQuery, Error, FollowUps, IdempotencyKey, Lease, Notices, Parked, Parking, PolicySetsSeen, Purge,
    Query, Run, Settlement, SinkClaim, Store, StoredRecord, Turn, UnsettledWrites, UntilSettlement,
    commands::WriterClient, writer::Writer,
};
use crate::{
    audit::{Entry, Head, RecordId},
    domain::{ConfigurationId, Operation, OperationId},
};

/// How long a lane is parked if its operations cannot be read.
const UNREAD: Duration = Duration::from_mins(1);

/// A store in a file.
#[derive(Debug)]
pub struct Sqlite {
    client: WriterClient,
    readers: Readers,
    lanes: Readers,
    /// Held until the store is closed.
    lock: Mutex<Option<File>>,
}

impl Sqlite {
    /// Opens the file, creates or migrates its tables, and begins this run's chain.
    pub async fn open(path: &Path, run: Run) -> Result<Self, Error> {
        let is_new = !path.exists();
        let lock = only_gateway(path)?;
        let unusable =
            |error: &dyn std::fmt::Display| Error::Unusable(format!("cannot open {}: {error}", path.display()));
        let migrating = connect::migrate(path).await.map_err(|error| unusable(&error))?;
        let mut connection = connect::writing(path).map_err(|error| unusable(&error))?;
        migrating.close().await.map_err(|error| unusable(&error))?;
        let head = begin_run(&mut connection, &run).map_err(|error| unusable(&error))?;
        let indexing = Indexing::begin(&mut connection);
        // That may have sorted a whole table, which needs a temporary file; what follows does not.
        connect::note_in_memory(&connection).map_err(|error| unusable(&error))?;
        let checkpointer = WalCheckpointer::new(path).map_err(|error| unusable(&error))?;
        let backend = SqliteBackend { connection, checkpointer, head, indexing, capacity: None, clock: run.clock };
        let writer = Writer::start_blocking(backend, run.clock).map_err(|error| unusable(&error))?;
        let client = WriterClient { writer, notices: Arc::new(Notices::default()), clock: run.clock };
        let (readers, lanes) = (Readers::new(path.to_owned()), Readers::of_lanes(path.to_owned()));
        // Opening is to fail if the file cannot be read.
        readers.read(|_| Ok(())).await?;
        if is_new {
            let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
            tracing::info!(path = %path.display(), "there was no store here; a new, empty one is created");
        }
        Ok(Self { client, readers, lanes, lock: Mutex::new(Some(lock)) })
    }

    /// A page of the audit trail of a file that a gateway may be using, without disturbing it.
    pub async fn read_audit(path: &Path, after: Option<i64>, limit: usize) -> Result<AuditPage, Error> {
        let query = AuditQuery { after, limit, ..AuditQuery::default() };
        let readers = Readers::new(path.to_owned());
        let records = readers.read(move |connection| trail::records(connection, &query)).await?;
        Ok(AuditPage::of(records, limit))
    }

    /// The position of a record in such a file.
    pub(super) async fn find_record(path: &Path, place: &RecordId) -> Result<Option<i64>, Error> {
        let place = place.clone();
        Readers::new(path.to_owned()).read(move |connection| trail::position(connection, &place)).await
    }
}

fn begin_run(connection: &mut rusqlite::Connection, run: &Run) -> Result<Head, Error> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(unavailable)?;
    let head = commands::begin_run(&transaction, run)?;
    transaction.commit().map_err(unavailable)?;
    Ok(head)
}

/// Takes the lock that keeps other gateways from using this file; creates the folder if it is missing.
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

/// Parks a lane whose operations cannot be read: for a while, showing the reason, and otherwise as it was found.
fn unread(error: &Error, Turn { lease, announced, replaced_sets, .. }: Turn) -> (Lease, Parking) {
    let because = format!("the operations cannot be read: {error}");
    let (left, ended, entries) = Default::default();
    (lease, Parking { pause: UNREAD, because, announced, left, replaced_sets, ended, entries })
}

#[expect(clippy::needless_pass_by_value, reason = "its one use is in map_err")]
fn unavailable(error: rusqlite::Error) -> Error {
    Error::Unavailable(error.to_string())
}

#[async_trait]
impl Store for Sqlite {
    async fn accept(&self, acceptance: Acceptance) -> Result<Accepted, Error> {
        self.client.accept(acceptance).await
    }

    async fn find_by_key(&self, caller: &str, key: &IdempotencyKey) -> Result<Option<Accepted>, Error> {
        let (caller, key) = (caller.to_owned(), key.clone());
        self.readers.read(move |connection| accept::find_by_key(connection, &caller, &key)).await
    }

    async fn cancel(&self, cancellation: Cancellation) -> Result<Cancelled, Error> {
        self.client.cancel(cancellation).await
    }

    async fn settle_without_reversal(&self, settlement: UntilSettlement) -> Result<bool, Error> {
        self.client.settle_without_reversal(settlement).await
    }

    async fn due_untils(&self, due: DueQuery) -> Result<Vec<Operation>, Error> {
        self.readers.read(move |connection| read::due_untils(connection, &due)).await
    }

    async fn claim_callbacks(&self, claim: super::callbacks::Claim) -> Result<Vec<super::callbacks::Attempt>, Error> {
        self.client.claim_callbacks(claim).await
    }

    async fn record_attempt(&self, result: super::callbacks::AttemptResult) -> Result<bool, Error> {
        self.client.record_attempt(result).await
    }

    async fn resend_callback(&self, resending: super::callbacks::Resending) -> Result<bool, Error> {
        self.client.resend_callback(resending).await
    }

    async fn follow_ups(&self, id: OperationId) -> Result<FollowUps, Error> {
        self.readers.read(move |connection| read::follow_ups(connection, id)).await
    }

    async fn reverted_since(&self, operation: &Operation) -> Result<Vec<Operation>, Error> {
        let (id, configuration) = (operation.id, operation.submission.configuration.clone());
        self.readers.read(move |connection| read::reverted_since(connection, id, &configuration)).await
    }

    async fn policy_sets_seen(&self, configuration: &ConfigurationId) -> Result<Vec<String>, Error> {
        let configuration = configuration.clone();
        self.readers.read(move |connection| read::policy_sets_seen(connection, &configuration)).await
    }

    async fn note_policy_sets(&self, seen: PolicySetsSeen) -> Result<(), Error> {
        self.client.note_policy_sets(seen).await
    }

    async fn answer_approval(&self, reply: ApprovalReply) -> Result<ApprovalOutcome, Error> {
        self.client.answer_approval(reply).await
    }

    async fn expired_approvals(&self, at: Timestamp, limit: usize) -> Result<Vec<Operation>, Error> {
        self.readers.read(move |connection| read::expired_approvals(connection, at, limit)).await
    }

    async fn append_records(&self, entries: Vec<Entry>) -> Result<(), Error> {
        self.client.append_records(entries).await
    }

    async fn operation(&self, id: OperationId) -> Result<Option<Operation>, Error> {
        self.readers.read(move |connection| read::operation(connection, id)).await
    }

    async fn operations(&self, query: &Query) -> Result<Vec<Operation>, Error> {
        let query = query.clone();
        self.readers.read(move |connection| read::operations(connection, &query)).await
    }

    async fn parked(&self, configuration: &ConfigurationId) -> Result<Option<Parked>, Error> {
        let configuration = configuration.clone();
        self.readers.read(move |connection| read::parked(connection, &configuration)).await
    }

    async fn open_lanes(&self, limit: usize) -> Result<Vec<ConfigurationId>, Error> {
        let now = self.client.clock.now();
        self.readers.read(move |connection| read::open_lanes(connection, now, limit)).await
    }

    async fn backlog(&self) -> Result<Backlog, Error> {
        self.readers.read(read::backlog).await
    }

    async fn claim(&self, claim: Claim) -> Result<Claimed, Error> {
        let (configuration, batch_max) = (claim.configuration.clone(), claim.batch_max);
        let Claimed::Turn(turn) = self.client.claim(claim).await? else { return Ok(Claimed::Nothing) };
        match self.lanes.read(move |connection| read::running(connection, &configuration, batch_max)).await {
            Ok(operations) => Ok(Claimed::Turn(Box::new(Turn { operations, ..*turn }))),
            Err(error) => {
                let (lease, parking) = unread(&error, *turn);
                self.client.park(lease, parking).await?;
                Err(error)
            }
        }
    }

    async fn begin_write(&self, lease: &mut Lease, announced: &UnsettledWrites, ttl: Duration) -> Result<(), Error> {
        self.client.begin_write(lease, announced, ttl).await
    }

    async fn settle(&self, lease: Lease, settlement: Settlement) -> Result<Option<Lease>, Error> {
        self.client.settle(lease, settlement).await
    }

    async fn park(&self, lease: Lease, parking: Parking) -> Result<(), Error> {
        self.client.park(lease, parking).await
    }

    async fn purge(&self, purge: Purge) -> Result<usize, Error> {
        self.client.purge(purge).await
    }

    async fn records(&self, query: &AuditQuery) -> Result<Vec<StoredRecord>, Error> {
        let query = query.clone();
        self.readers.read(move |connection| trail::records(connection, &query)).await
    }

    async fn claim_sink(&self, claim: SinkClaim) -> Result<Option<i64>, Error> {
        self.client.claim_sink(claim).await
    }

    async fn chain_heads(&self) -> Result<Vec<Head>, Error> {
        self.readers.read(trail::chain_heads).await
    }

    /// Only this run writes here, so the newest record is its own.
    async fn own_chain_head(&self) -> Result<Option<Head>, Error> {
        Ok(self.chain_heads().await?.pop())
    }

    async fn probe(&self) -> Result<(), Error> {
        self.client.probe().await
    }

    fn notices(&self) -> &Notices {
        &self.client.notices
    }

    async fn close(&self) {
        // The writer's connection closes last: then SQLite moves the write-ahead log into the file, which a read-only
        // connection cannot do. So a closed store is one file, and a copy of it is complete.
        self.readers.close().await;
        self.lanes.close().await;
        self.client.writer.stop().await;
        // Closing alone leaves the lock with any copy of the handle, such as the one of a child process that is being started.
        if let Some(lock) = self.lock.lock().await.take()
            && let Err(error) = lock.unlock()
        {
            tracing::warn!(%error, "the store's lock is given back when this process ends");
        }
    }
}
