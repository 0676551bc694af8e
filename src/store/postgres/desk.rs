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
        ledger::{Ledger, head_after},
        verbs::{Outcome, Verb},
        writer::{self, Failed},
    },
    accept::Counted,
    access::Access,
    failed,
    news::News,
    opening, rows, trail, unavailable, verbs,
};
use crate::{audit::Head, clock::Clock, telemetry};

/// Begins a transaction of verbs. The server makes one plan for all uses of a statement. Made while a table is small, it would
/// scan all of it, and go on so when the table has grown. So sequential scans are the last resort; each of these statements
/// has an index. Servers up to 17 then estimate costs so high that they would compile the plan (JIT), which takes longer.
const BEGIN: &str = "BEGIN; SET LOCAL enable_seqscan = off; SET LOCAL jit = off";

/// A connection that may write, and what is pending.
struct Line {
    connection: PgConnection,
    room: Counted,
}

/// What this process knows of the end of its chain, whatever becomes of connections.
struct Written {
    /// The end after the last commit that took place.
    committed: Head,
    /// The end after the newest commit of which that is unknown. There is at most one: a later one has inserted a record at
    /// the same place, which the database allows only if the one before was rolled back.
    undecided: Option<Head>,
}

impl Written {
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

/// The writer's desk.
pub(super) struct Desk {
    access: Access,
    clock: Clock,
    written: Written,
    /// Tells the rest of the store which chain is being written.
    chain: watch::Sender<String>,
    line: Option<Line>,
    news: News,
    /// The server's process id for our connection.
    own: Arc<AtomicU32>,
}

/// What a commit brings about, if it takes place: the new end of the chain, and the outcomes.
type Pending = Option<(Head, Vec<Outcome>)>;

#[async_trait]
impl writer::Desk for Desk {
    /// Nothing to do: while the server works on a commit, others have the processor.
    fn give_way(&self) {}

    async fn commit(&mut self, verbs: &[Verb]) -> Result<Vec<Outcome>, Failed> {
        let mut line = match self.line.take() {
            Some(line) => line,
            None => self.connect().await.map_err(Failed::Surroundings)?,
        };
        let mut pending = None;
        let done = self.access.in_time(async { Ok(line.transact(verbs, &mut self.written, &mut pending).await) }).await;
        let outcomes = match done.unwrap_or_else(|late| Err(Failed::Surroundings(late))) {
            Ok(()) => {
                self.line = Some(line);
                pending.map(|(_, outcomes)| outcomes).unwrap_or_default()
            }
            Err(Failed::Content(error)) => {
                self.line = Some(line);
                return Err(Failed::Content(error));
            }
            Err(Failed::Surroundings(error)) => {
                tracing::warn!(%error, "the connection to the database is lost");
                drop(line);
                self.find_out(pending).await.ok_or(Failed::Surroundings(error))?
            }
        };
        self.news.note(verbs, &outcomes);
        Ok(outcomes)
    }

    async fn announce(&mut self) {
        let Some(mut line) = self.line.take() else { return };
        let told = async { self.news.tell(&mut line.connection).await.map_err(unavailable) };
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

impl Line {
    /// One transaction. `pending` is set before the commit, which may have taken place even if it returns an error.
    async fn transact(&mut self, verbs: &[Verb], written: &mut Written, pending: &mut Pending) -> Result<(), Failed> {
        let mut transaction = self.connection.begin_with(BEGIN).await.map_err(failed)?;
        let mut ledger = Ledger::new(written.committed.clone());
        match write(&mut transaction, &mut ledger, &mut self.room, verbs).await {
            Ok(outcomes) => {
                written.attempt(&ledger.head);
                *pending = Some((ledger.head.clone(), outcomes));
            }
            Err(error) => {
                self.room.forget();
                // Dropping it would roll back only at the connection's next use, and hold its locks until then.
                transaction.rollback().await.map_err(failed)?;
                return Err(error);
            }
        }
        let committed = transaction.commit().await.map_err(failed);
        match &committed {
            Ok(()) => written.confirm(ledger.head),
            Err(_) => self.room.forget(),
        }
        committed
    }
}

async fn write(
    connection: &mut PgConnection,
    ledger: &mut Ledger,
    room: &mut Counted,
    verbs: &[Verb],
) -> Result<Vec<Outcome>, Failed> {
    let outcomes = verbs::apply(connection, ledger, room, verbs).await?;
    trail::write(connection, ledger).await?;
    Ok(outcomes)
}

impl Desk {
    /// Creates or migrates the tables and begins this run's chain.
    pub(super) async fn open(access: Access, run: &Run) -> Result<Self, Error> {
        let (connection, head) = opening::open(&access, run).await?;
        let written = Written { committed: head, undecided: None };
        let (chain, own) = (watch::Sender::new(run.chain.clone()), Arc::new(AtomicU32::new(0)));
        let mut desk = Self { access, clock: run.clock, written, chain, line: None, news: News::default(), own };
        desk.line = Some(desk.take_up(connection).await?);
        Ok(desk)
    }

    pub(super) fn own(&self) -> Arc<AtomicU32> {
        Arc::clone(&self.own)
    }

    /// The chain that is being written.
    pub(super) fn chain(&self) -> watch::Receiver<String> {
        self.chain.subscribe()
    }

    async fn connect(&mut self) -> Result<Line, Error> {
        let mut connection = self.access.connect().await?;
        let access = self.access.clone();
        let taken_up = async {
            access.bind(&mut connection).await?;
            self.take_up(connection).await
        };
        access.in_time(taken_up).await
    }

    /// Reads where the chain ends, and begins a new one if that is not where this process ended it.
    async fn take_up(&mut self, mut connection: PgConnection) -> Result<Line, Error> {
        let newest =
            "SELECT pg_backend_pid() AS own, (SELECT text FROM audit WHERE chain = $1 ORDER BY sequence DESC LIMIT 1)";
        let newest = sqlx::query(newest)
            .bind(&self.written.committed.chain)
            .fetch_one(&mut connection)
            .await
            .map_err(unavailable)?;
        let own: i32 = rows::column(&newest, "own")?;
        self.own.store(u32::try_from(own).unwrap_or(0), Ordering::Relaxed);
        let text: Option<&str> = rows::column(&newest, "text")?;
        let found = text.map(head_after).transpose()?;
        if !self.written.recognises(found.as_ref()) {
            self.begin_anew(&mut connection, found).await?;
        }
        Ok(Line { connection, room: Counted::new(self.clock) })
    }

    async fn begin_anew(&mut self, connection: &mut PgConnection, found: Option<Head>) -> Result<(), Error> {
        let run = Run { chain: self.clock.identifier().to_string(), clock: self.clock };
        let expected = &self.written.committed;
        let committed = opening::reopen(connection, &run, expected).await?;
        telemetry::count_audit_break();
        tracing::error!(
            chain = expected.chain,
            expected = expected.sequence,
            found = found.map_or(0, |found| found.sequence),
            new_chain = run.chain,
            "the database lost audit records of this process, or somebody else wrote to its chain: a new chain has begun"
        );
        self.written = Written { committed, undecided: None };
        self.chain.send_replace(run.chain);
        Ok(())
    }

    /// The outcomes of the commit during which the connection broke, if it took place. None if not, or if that cannot be
    /// determined: a transaction without audit records leaves the chain where it was, whether it was committed or not.
    async fn find_out(&mut self, pending: Pending) -> Option<Vec<Outcome>> {
        let (head, outcomes) = pending?;
        let before = self.written.committed.clone();
        let line = self.connect().await.ok()?;
        let stored = self.written.committed == head && head != before;
        self.line = Some(line);
        stored.then_some(outcomes)
    }
}
