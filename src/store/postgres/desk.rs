//! Where the PostgreSQL store writes: one connection, one transaction after another.
//!
//! Guarantees: the end of the chain in memory is what is stored. A broken connection is given up, and the next one begins by
//! reading where the chain ends. If it broke during a commit, that end also shows whether the commit took place, so that an
//! accepted change is not reported as failed. A commit without audit records is reported as failed then.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use async_trait::async_trait;
use sqlx::{Connection, PgConnection};

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
use crate::{audit::Head, clock::Clock};

/// Begins a transaction of verbs. The server makes one plan for all uses of a statement. Made while a table is small, it would
/// scan all of it, and go on so when the table has grown. So sequential scans are the last resort; each of these statements
/// has an index. Servers up to 17 then estimate costs so high that they would compile the plan (JIT), which takes longer.
const BEGIN: &str = "BEGIN; SET LOCAL enable_seqscan = off; SET LOCAL jit = off";

/// A connection that may write, where the chain ends, and what is pending.
struct Line {
    connection: PgConnection,
    head: Head,
    room: Counted,
}

/// The writer's desk.
pub(super) struct Desk {
    access: Access,
    chain: String,
    clock: Clock,
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
        let done = self.access.in_time(async { Ok(line.transact(verbs, &mut pending).await) }).await;
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
                let Line { connection, head, .. } = line;
                drop(connection);
                self.find_out(&head, pending).await.ok_or(Failed::Surroundings(error))?
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
    async fn transact(&mut self, verbs: &[Verb], pending: &mut Pending) -> Result<(), Failed> {
        let mut transaction = self.connection.begin_with(BEGIN).await.map_err(failed)?;
        let mut ledger = Ledger::new(self.head.clone());
        match write(&mut transaction, &mut ledger, &mut self.room, verbs).await {
            Ok(outcomes) => *pending = Some((ledger.head.clone(), outcomes)),
            Err(error) => {
                self.room.forget();
                // Dropping it would roll back only at the connection's next use, and hold its locks until then.
                transaction.rollback().await.map_err(failed)?;
                return Err(error);
            }
        }
        let committed = transaction.commit().await.map_err(failed);
        match &committed {
            Ok(()) => self.head = ledger.head,
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
        let connection = opening::open(&access, run).await?;
        let (chain, own) = (run.chain.clone(), Arc::new(AtomicU32::new(0)));
        let mut desk = Self { access, chain, clock: run.clock, line: None, news: News::default(), own };
        desk.line = Some(desk.take_up(connection).await?);
        Ok(desk)
    }

    pub(super) fn own(&self) -> Arc<AtomicU32> {
        Arc::clone(&self.own)
    }

    async fn connect(&self) -> Result<Line, Error> {
        let mut connection = self.access.connect().await?;
        let taken_up = async {
            self.access.bind(&mut connection).await?;
            self.take_up(connection).await
        };
        self.access.in_time(taken_up).await
    }

    /// Reads where the chain ends.
    async fn take_up(&self, mut connection: PgConnection) -> Result<Line, Error> {
        let newest =
            "SELECT pg_backend_pid() AS own, (SELECT text FROM audit WHERE chain = $1 ORDER BY sequence DESC LIMIT 1)";
        let newest = sqlx::query(newest).bind(&self.chain).fetch_one(&mut connection).await.map_err(unavailable)?;
        let own: i32 = rows::column(&newest, "own")?;
        self.own.store(u32::try_from(own).unwrap_or(0), Ordering::Relaxed);
        let text: Option<&str> = rows::column(&newest, "text")?;
        let gone =
            || Error::Unavailable("the database has lost this run's audit chain; start the gateway again".to_owned());
        Ok(Line { connection, head: head_after(text.ok_or_else(gone)?)?, room: Counted::new(self.clock) })
    }

    /// The outcomes of the commit during which the connection broke, if it took place. None if not, or if that cannot be
    /// determined: a transaction without audit records leaves the chain where it was, whether it was committed or not.
    async fn find_out(&mut self, before: &Head, pending: Pending) -> Option<Vec<Outcome>> {
        let (head, outcomes) = pending?;
        let line = self.connect().await.ok()?;
        let stored = line.head == head && head != *before;
        self.line = Some(line);
        stored.then_some(outcomes)
    }
}
