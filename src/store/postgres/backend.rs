//! Where the PostgreSQL store writes: one connection, one transaction after another.
//!
//! Guarantees: a record is written only after the one that this process wrote before it. A broken connection is given up, and
//! the next one begins by reading where the chain ends. If it broke during a commit, that end also shows whether the commit
//! took place, so that an accepted change is not reported as failed. A commit without audit records is reported as failed
//! then. If the chain has any other end, the database lost records or somebody wrote to it: a new chain begins, whose opening
//! names the end that was found and the one that was expected ([0041](../../../docs/adr/0041-a-lost-end-begins-a-new-chain.md)).

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use async_trait::async_trait;
use sqlx::{Connection, PgConnection};
use tokio::sync::watch;

use super::{
    super::{
        Error, Run,
        audit_batch::{AuditBatch, head_after},
        commands::{CommandResult, WriteCommand},
        writer::{self, TransactionError},
    },
    accept::CapacityCache,
    access::Access,
    commands, failed,
    notify::OutgoingNotices,
    rows, startup, trail, unavailable,
};
use crate::{audit::Head, clock::Clock, telemetry};

/// Begins a transaction of commands. The server makes one plan for all uses of a statement. Made while a table is small, it
/// would scan all of it, and go on so when the table has grown. So sequential scans are the last resort; each of these
/// statements has an index. Servers up to 17 then estimate costs so high that they would compile the plan (JIT), which takes
/// longer.
const BEGIN: &str = "BEGIN; SET LOCAL enable_seqscan = off; SET LOCAL jit = off";

/// A connection that may write, and what is pending.
struct WriteConnection {
    connection: PgConnection,
    capacity: CapacityCache,
}

/// What this process knows of the end of its chain, whatever becomes of connections.
struct ExpectedHead {
    /// The end after the last commit that took place.
    committed: Head,
    /// The end after the newest commit of which that is unknown. There is at most one: a later one has inserted a record at
    /// the same place, which the database allows only if the one before was rolled back.
    undecided: Option<Head>,
}

impl ExpectedHead {
    /// To be called before a commit after which the chain ends here.
    fn attempt(&mut self, head: &Head) {
        if *head != self.committed {
            self.undecided = Some(head.clone());
        }
    }

    /// The commit after which the chain ends here took place.
    fn confirm(&mut self, head: Head) {
        if head != self.committed {
            *self = Self { committed: head, undecided: None };
        }
    }

    /// Whether the end that was found in the database is one that this process wrote. If it is that of before an undecided
    /// commit, the commit can still take place: the server may be busy with it.
    fn recognises(&mut self, found: Option<&Head>) -> bool {
        if found.is_some() && found == self.undecided.as_ref() {
            self.undecided.take().into_iter().for_each(|head| self.committed = head);
        }
        found == Some(&self.committed)
    }
}

/// What the writer of this store writes with.
pub(super) struct PostgresBackend {
    access: Access,
    clock: Clock,
    written: ExpectedHead,
    /// Tells the rest of the store which chain is being written.
    chain: watch::Sender<String>,
    line: Option<WriteConnection>,
    outgoing: OutgoingNotices,
    /// The server's process id for our connection.
    backend_pid: Arc<AtomicU32>,
}

/// What a commit brings about, if it takes place: the new end of the chain, and the outcomes.
type Pending = Option<(Head, Vec<CommandResult>)>;

#[async_trait]
impl writer::WriteBackend for PostgresBackend {
    /// Nothing to do: while the server works on a commit, others have the processor.
    fn yield_before_commit(&self) {}

    async fn commit(&mut self, commands: &[WriteCommand]) -> Result<Vec<CommandResult>, TransactionError> {
        let mut line = match self.line.take() {
            Some(line) => line,
            None => self.connect().await.map_err(TransactionError::Environment)?,
        };
        let mut pending = None;
        let done =
            self.access.in_time(async { Ok(line.transact(commands, &mut self.written, &mut pending).await) }).await;
        let outcomes = match done.unwrap_or_else(|late| Err(TransactionError::Environment(late))) {
            Ok(()) => {
                self.line = Some(line);
                pending.map(|(_, outcomes)| outcomes).unwrap_or_default()
            }
            Err(TransactionError::Content(error)) => {
                self.line = Some(line);
                return Err(TransactionError::Content(error));
            }
            Err(TransactionError::Environment(error)) => {
                tracing::warn!(%error, "the connection to the database is lost");
                drop(line);
                self.outcomes_if_committed(pending).await.ok_or(TransactionError::Environment(error))?
            }
        };
        self.outgoing.collect(commands, &outcomes);
        Ok(outcomes)
    }

    async fn after_commit(&mut self) {
        let Some(mut line) = self.line.take() else { return };
        let told = async { self.outgoing.send(&mut line.connection).await.map_err(unavailable) };
        match self.access.in_time(told).await {
            Ok(()) => self.line = Some(line),
            Err(error) => tracing::warn!(%error, "other replicas are not told; they look for themselves"),
        }
    }

    async fn close(self) {
        let Some(line) = self.line else { return };
        let closed = self.access.in_time(async { line.connection.close().await.map_err(unavailable) }).await;
        if let Err(error) = closed {
            tracing::warn!(%error, "the database does not say goodbye");
        }
    }
}

impl WriteConnection {
    /// One transaction. `pending` is set before the commit, which may have taken place even if it returns an error.
    async fn transact(
        &mut self,
        commands: &[WriteCommand],
        written: &mut ExpectedHead,
        pending: &mut Pending,
    ) -> Result<(), TransactionError> {
        let mut transaction = self.connection.begin_with(BEGIN).await.map_err(failed)?;
        let mut audit = AuditBatch::new(written.committed.clone());
        match write(&mut transaction, &mut audit, &mut self.capacity, commands).await {
            Ok(outcomes) => {
                written.attempt(&audit.head);
                *pending = Some((audit.head.clone(), outcomes));
            }
            Err(error) => {
                self.capacity.invalidate();
                // Dropping it would roll back only at the connection's next use, and hold its locks until then.
                transaction.rollback().await.map_err(failed)?;
                return Err(error);
            }
        }
        let committed = transaction.commit().await.map_err(failed);
        match &committed {
            Ok(()) => written.confirm(audit.head),
            Err(_) => self.capacity.invalidate(),
        }
        committed
    }
}

async fn write(
    connection: &mut PgConnection,
    audit: &mut AuditBatch,
    capacity: &mut CapacityCache,
    commands: &[WriteCommand],
) -> Result<Vec<CommandResult>, TransactionError> {
    let outcomes = commands::apply(connection, audit, capacity, commands).await?;
    trail::write(connection, audit).await?;
    Ok(outcomes)
}

impl PostgresBackend {
    /// Creates or migrates the tables and begins this run's chain.
    pub(super) async fn open(access: Access, run: &Run) -> Result<Self, Error> {
        let (connection, head) = startup::open(&access, run).await?;
        let written = ExpectedHead { committed: head, undecided: None };
        let (chain, own) = (watch::Sender::new(run.chain.clone()), Arc::new(AtomicU32::new(0)));
        let mut backend = Self {
            access,
            clock: run.clock,
            written,
            chain,
            line: None,
            outgoing: OutgoingNotices::default(),
            backend_pid: own,
        };
        backend.line = Some(backend.resume_chain(connection).await?);
        Ok(backend)
    }

    pub(super) fn backend_pid(&self) -> Arc<AtomicU32> {
        Arc::clone(&self.backend_pid)
    }

    /// The chain that is being written.
    pub(super) fn chain(&self) -> watch::Receiver<String> {
        self.chain.subscribe()
    }

    async fn connect(&mut self) -> Result<WriteConnection, Error> {
        let mut connection = self.access.connect().await?;
        let access = self.access.clone();
        let taken_up = async {
            access.apply_limits(&mut connection).await?;
            self.resume_chain(connection).await
        };
        access.in_time(taken_up).await
    }

    /// Reads where the chain ends, and begins a new one if that is not where this process ended it.
    async fn resume_chain(&mut self, mut connection: PgConnection) -> Result<WriteConnection, Error> {
        let newest =
            "SELECT pg_backend_pid() AS own, (SELECT text FROM audit WHERE chain = $1 ORDER BY sequence DESC LIMIT 1)";
        let newest = sqlx::query(newest)
            .bind(&self.written.committed.chain)
            .fetch_one(&mut connection)
            .await
            .map_err(unavailable)?;
        let own: i32 = rows::column(&newest, "own")?;
        self.backend_pid.store(u32::try_from(own).unwrap_or(0), Ordering::Relaxed);
        let text: Option<&str> = rows::column(&newest, "text")?;
        let found = text.map(head_after).transpose()?;
        if !self.written.recognises(found.as_ref()) {
            self.begin_anew(&mut connection, found).await?;
        }
        Ok(WriteConnection { connection, capacity: CapacityCache::new(self.clock) })
    }

    async fn begin_anew(&mut self, connection: &mut PgConnection, found: Option<Head>) -> Result<(), Error> {
        let run = Run { chain: self.clock.new_id().to_string(), clock: self.clock };
        let expected = &self.written.committed;
        let committed = startup::reopen(connection, &run, expected).await?;
        telemetry::count_audit_break();
        tracing::error!(
            chain = expected.chain,
            expected = expected.sequence,
            found = found.map_or(0, |found| found.sequence),
            new_chain = run.chain,
            "the database lost audit records of this process, or somebody else wrote to its chain: a new chain has begun"
        );
        self.written = ExpectedHead { committed, undecided: None };
        self.chain.send_replace(run.chain);
        Ok(())
    }

    /// The outcomes of the commit during which the connection broke, if it took place. None if not, or if that cannot be
    /// determined: a transaction without audit records leaves the chain where it was, whether it was committed or not.
    async fn outcomes_if_committed(&mut self, pending: Pending) -> Option<Vec<CommandResult>> {
        let (head, outcomes) = pending?;
        let before = self.written.committed.clone();
        let line = self.connect().await.ok()?;
        let stored = self.written.committed == head && head != before;
        self.line = Some(line);
        stored.then_some(outcomes)
    }
}
