//! The store in a PostgreSQL database, for several gateway processes.
//!
//! Guarantees: what a verb wrote is committed when it returns; leases and pauses expire by the database's time, so replicas
//! whose clocks differ agree on who owns a lane. Each run has its own audit chain. When the database is unreachable, verbs
//! fail soon and nothing hangs; when it is back, they work again. If it then has another end of this run's chain than was
//! committed, the run continues in a new chain, which names both ends. A verb that failed as `Unavailable` may have been
//! committed all the same, if the connection broke during its commit (see `backend`).
//!
//! Each process has one connection that writes (`backend`), a few that read, some of them the audit trail only, and one that
//! listens (`notify`). Opening leaves other owners' leases to expire.
//!
//! It deliberately decides nothing differently from the SQLite store: one suite tests both.

mod accept;
mod access;
mod backend;
mod callbacks;
mod commands;
mod notify;
mod read;
mod rows;
mod startup;
mod trail;
mod unleased;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::{PgConnection, Postgres as Database, error::DatabaseError, pool::PoolConnection};
use tokio::{
    sync::{Mutex, watch},
    task::JoinHandle,
};

use self::{access::Access, backend::PostgresBackend, notify::Listener};
use super::{
    Acceptance, Accepted, ApprovalOutcome, ApprovalReply, AuditPage, AuditQuery, Backlog, Cancellation, Cancelled,
    Claim, Claimed, DueQuery, Error, FollowUps, IdempotencyKey, Lease, Notices, Parked, Parking, PolicySetsSeen, Purge,
    Query, Run, Settlement, SinkClaim, Store, StoredRecord, UnsettledWrites, UntilSettlement,
    commands::WriterClient,
    writer::{TransactionError, Writer},
};
use crate::{
    audit::{Entry, Head, RecordId},
    clock::Clock,
    config,
    domain::{ConfigurationId, Operation, OperationId},
};

/// A store in a database.
#[derive(Debug)]
pub struct Postgres {
    client: WriterClient,
    access: Access,
    /// The chain that this run writes.
    chain: watch::Receiver<String>,
    listening: Mutex<Option<JoinHandle<()>>>,
}

impl Postgres {
    /// Connects, creates or migrates the tables, and begins this run's chain.
    pub async fn open(settings: &config::Postgres, run: Run) -> Result<Self, Error> {
        let unusable = |error: Error| Error::Unusable(format!("cannot open {}: {error}", settings.url));
        let access = Access::new(settings.clone()).map_err(unusable)?;
        let backend = PostgresBackend::open(access.clone(), &run).await.map_err(unusable)?;
        let notices = Arc::new(Notices::default());
        notices.mark_disconnected();
        let clock = run.clock;
        let listener = Listener {
            access: access.clone(),
            notices: Arc::clone(&notices),
            clock,
            backend_pid: backend.backend_pid(),
        };
        let listening = Mutex::new(Some(tokio::spawn(listener.listen())));
        let chain = backend.chain();
        let client = WriterClient { writer: Writer::start(backend, clock), notices, clock };
        Ok(Self { client, access, chain, listening })
    }

    async fn reader(&self) -> Result<PoolConnection<Database>, Error> {
        self.access.reader().await
    }
}

/// The audit trail of a database that gateways may be using, without disturbing them.
#[derive(Debug)]
pub(super) struct Trail {
    access: Access,
    connection: PgConnection,
    clock: Clock,
}

impl Trail {
    pub(super) async fn open(settings: &config::Postgres) -> Result<Self, Error> {
        let unusable = |error: Error| Error::Unusable(format!("cannot open {}: {error}", settings.url));
        let access = Access::new(settings.clone()).map_err(unusable)?;
        let connection = access.connect().await.map_err(unusable)?;
        Ok(Self { access, connection, clock: Clock::system() })
    }

    pub(super) async fn position(&mut self, place: &RecordId) -> Result<Option<i64>, Error> {
        self.access.in_time(trail::position(&mut self.connection, place)).await
    }

    pub(super) async fn page(&mut self, after: Option<i64>, limit: usize) -> Result<AuditPage, Error> {
        let query = AuditQuery { after, limit, ..AuditQuery::default() };
        let kept = trail::records(&mut self.connection, self.clock, &query);
        Ok(AuditPage::of(self.access.in_time(kept).await?, limit))
    }
}

#[expect(clippy::needless_pass_by_value, reason = "its one use is in map_err")]
fn unavailable(error: sqlx::Error) -> Error {
    Error::Unavailable(if matches!(error, sqlx::Error::PoolTimedOut) {
        "the database cannot be reached".to_owned()
    } else {
        error.to_string()
    })
}

/// Classifies an error by whether the commands, tried one by one, could do better.
fn failed(error: sqlx::Error) -> TransactionError {
    if error.as_database_error().is_some_and(is_about_content) {
        TransactionError::Content(unavailable(error))
    } else {
        TransactionError::Environment(unavailable(error))
    }
}

/// Whether an error is about what is in the transaction. Not so are: the connection (08), a read-only database, such as a
/// former primary (25), lack of resources (53), a server that is being stopped or started (57P), and waits that took too long
/// (55P03, 57014): tried one by one, each command would wait as long. Source: PostgreSQL's appendix on error codes.
fn is_about_content(error: &(dyn DatabaseError + 'static)) -> bool {
    let code = error.code().unwrap_or_default();
    !["08", "25", "53", "57P", "55P03", "57014"].iter().any(|class| code.starts_with(class))
}

#[async_trait]
impl Store for Postgres {
    async fn accept(&self, acceptance: Acceptance) -> Result<Accepted, Error> {
        self.client.accept(acceptance).await
    }

    async fn find_by_key(&self, caller: &str, key: &IdempotencyKey) -> Result<Option<Accepted>, Error> {
        self.access.in_time(async { read::find_by_key(&mut *self.reader().await?, caller, key).await }).await
    }

    async fn cancel(&self, cancellation: Cancellation) -> Result<Cancelled, Error> {
        self.client.cancel(cancellation).await
    }

    async fn settle_without_reversal(&self, settlement: UntilSettlement) -> Result<bool, Error> {
        self.client.settle_without_reversal(settlement).await
    }

    async fn due_untils(&self, due: DueQuery) -> Result<Vec<Operation>, Error> {
        self.access.in_time(async { read::due_untils(&mut *self.reader().await?, &due).await }).await
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
        let clock = self.client.clock;
        self.access.in_time(async { read::follow_ups(&mut *self.reader().await?, id, clock).await }).await
    }

    async fn reverted_since(&self, operation: &Operation) -> Result<Vec<Operation>, Error> {
        let configuration = &operation.submission.configuration;
        let found = async { read::reverted_since(&mut *self.reader().await?, operation.id, configuration).await };
        self.access.in_time(found).await
    }

    async fn policy_sets_seen(&self, configuration: &ConfigurationId) -> Result<Vec<String>, Error> {
        self.access.in_time(async { read::policy_sets_seen(&mut *self.reader().await?, configuration).await }).await
    }

    async fn note_policy_sets(&self, seen: PolicySetsSeen) -> Result<(), Error> {
        self.client.note_policy_sets(seen).await
    }

    async fn answer_approval(&self, reply: ApprovalReply) -> Result<ApprovalOutcome, Error> {
        self.client.answer_approval(reply).await
    }

    async fn expired_approvals(&self, at: Timestamp, limit: usize) -> Result<Vec<Operation>, Error> {
        self.access.in_time(async { read::expired_approvals(&mut *self.reader().await?, at, limit).await }).await
    }

    async fn append_records(&self, entries: Vec<Entry>) -> Result<(), Error> {
        self.client.append_records(entries).await
    }

    async fn operation(&self, id: OperationId) -> Result<Option<Operation>, Error> {
        self.access.in_time(async { read::operation(&mut *self.reader().await?, id).await }).await
    }

    async fn operations(&self, query: &Query) -> Result<Vec<Operation>, Error> {
        self.access.in_time(async { read::operations(&mut *self.reader().await?, query).await }).await
    }

    async fn parked(&self, configuration: &ConfigurationId) -> Result<Option<Parked>, Error> {
        let clock = self.client.clock;
        self.access.in_time(async { read::parked(&mut *self.reader().await?, configuration, clock).await }).await
    }

    async fn open_lanes(&self, limit: usize) -> Result<Vec<ConfigurationId>, Error> {
        self.access.in_time(async { read::open_lanes(&mut *self.reader().await?, limit).await }).await
    }

    async fn backlog(&self) -> Result<Backlog, Error> {
        self.access.in_time(async { read::backlog(&mut *self.reader().await?).await }).await
    }

    async fn claim(&self, claim: Claim) -> Result<Claimed, Error> {
        self.client.claim(claim).await
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
        let clock = self.client.clock;
        self.access.in_time(async { trail::records(&mut *self.access.trail_reader().await?, clock, query).await }).await
    }

    async fn claim_sink(&self, claim: SinkClaim) -> Result<Option<i64>, Error> {
        self.client.claim_sink(claim).await
    }

    async fn chain_heads(&self) -> Result<Vec<Head>, Error> {
        self.access.in_time(async { trail::chain_heads(&mut *self.reader().await?).await }).await
    }

    async fn own_chain_head(&self) -> Result<Option<Head>, Error> {
        let chain = self.chain.borrow().clone();
        self.access.in_time(async { trail::chain_head(&mut *self.reader().await?, &chain).await }).await
    }

    async fn probe(&self) -> Result<(), Error> {
        self.client.probe().await
    }

    fn notices(&self) -> &Notices {
        &self.client.notices
    }

    async fn close(&self) {
        self.client.writer.stop().await;
        if let Some(listening) = self.listening.lock().await.take() {
            listening.abort();
        }
        self.access.close().await;
    }
}
