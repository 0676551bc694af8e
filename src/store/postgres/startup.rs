//! How a run begins: its tables are created or migrated, then its audit chain begins. Also how it continues in a new chain.
//!
//! Guarantees: while an opening waits for locks, nobody who uses the tables waits behind it longer than the lock timeouts
//! below. A migration then holds its locks for as long as it takes, so one that reads a whole table, such as an index on
//! records, has to do that without locking out writers (`-- no-transaction`, `CREATE INDEX CONCURRENTLY`).

use std::time::Duration;

use sqlx::{Connection, PgConnection, error::DatabaseError, migrate::MigrateError};

use super::{
    super::{Error, Run, audit_batch::AuditBatch},
    access::Access,
    trail, unavailable,
};
use crate::{
    audit::{Entry, Head},
    clock::{Backoff, Clock},
};

/// How long an opening waits for a lock in the server: longer than its `deadlock_timeout`, after which it cancels an
/// autovacuum that is in the way, and no longer than others may wait behind this.
const BRIEF: &str = "SET lock_timeout = '1500ms'";
/// The same for one transaction.
const BRIEF_HERE: &str = "SET LOCAL lock_timeout = '1500ms'";
/// How often a lock is tried, and the pauses in between: a minute or two in all.
const LOCK_TRIES: u32 = 15;
const LOCK_PAUSES: Backoff = Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(10) };

/// Begins a run, and returns the writer's connection and the end of the run's chain.
pub(super) async fn open(access: &Access, run: &Run) -> Result<(PgConnection, Head), Error> {
    let mut connection = retry_while_locked(run.clock, async || migrated(access).await).await?;
    access.apply_limits(&mut connection).await?;
    let head = retry_while_locked(run.clock, async || begin_chain(&mut connection, run, None).await).await?;
    Ok((connection, head))
}

/// Continues a run in a new chain, because the database no longer has the `expected` end of the one before. Returns the new
/// chain's end. If the tables are locked, it fails instead of retrying: the next verb will.
pub(super) async fn reopen(connection: &mut PgConnection, run: &Run, expected: &Head) -> Result<Head, Error> {
    begin_chain(connection, run, Some(expected)).await.map_err(|hindered| match hindered {
        LockError::Locked => Error::Unavailable("the audit trail is locked, so no new chain can begin".to_owned()),
        LockError::Other(error) => error,
    })
}

/// Retries what has waited too long for a lock, while something long holds it, such as a backup or a VACUUM. It does not wait
/// in the server, where all later requests for the lock, other gateways' too, would queue behind it.
async fn retry_while_locked<T>(clock: Clock, mut work: impl AsyncFnMut() -> Result<T, LockError>) -> Result<T, Error> {
    let mut tries = 0_u32;
    loop {
        tries = tries.saturating_add(1);
        match work().await {
            Ok(done) => return Ok(done),
            Err(LockError::Other(error)) => return Err(error),
            Err(LockError::Locked) if tries >= LOCK_TRIES => {
                let why = "something that takes long keeps its tables locked: a backup, a VACUUM, another gateway that changes them".to_owned();
                return Err(Error::Unavailable(why));
            }
            Err(LockError::Locked) => {
                tracing::warn!(tries, "the tables are locked by somebody else; they are asked for again");
                clock.sleep(LOCK_PAUSES.pause(tries, clock.random_fraction())).await;
            }
        }
    }
}

/// Why something that locks whole tables was not done.
enum LockError {
    Locked,
    Other(Error),
}

impl From<sqlx::Error> for LockError {
    fn from(error: sqlx::Error) -> Self {
        let mut inner = &error;
        if let sqlx::Error::Migrate(migrating) = &error
            && let MigrateError::Execute(cause) | MigrateError::ExecuteMigration(cause, _) = &**migrating
        {
            inner = cause;
        }
        let is_locked = inner.as_database_error().and_then(DatabaseError::code).is_some_and(|code| code == "55P03");
        if is_locked { Self::Locked } else { Self::Other(unavailable(error)) }
    }
}

/// A connection to tables that are migrated to this version. A new one each time: one whose migration has failed still holds
/// the lock that excludes other migrations.
async fn migrated(access: &Access) -> Result<PgConnection, LockError> {
    let mut connection = access.connect().await.map_err(LockError::Other)?;
    sqlx::raw_sql(BRIEF).execute(&mut connection).await?;
    sqlx::migrate!("migrations/postgres").run(&mut connection).await.map_err(sqlx::Error::from)?;
    Ok(connection)
}

/// Begins a chain: its opening names the ends of all chains that have grown since they were last named. Nobody writes records
/// meanwhile, so these are the ends at this point of the trail, and the verifier can demand exactly them.
async fn begin_chain(connection: &mut PgConnection, run: &Run, expected: Option<&Head>) -> Result<Head, LockError> {
    let mut transaction = connection.begin().await?;
    sqlx::raw_sql(BRIEF_HERE).execute(&mut *transaction).await?;
    if let Err(locked) = sqlx::raw_sql("LOCK TABLE audit IN SHARE ROW EXCLUSIVE MODE").execute(&mut *transaction).await
    {
        // Dropping it would roll back only at the connection's next use.
        transaction.rollback().await?;
        return Err(locked.into());
    }
    let ends = trail::chain_heads(&mut transaction).await.map_err(LockError::Other)?;
    let (chain, version) = (run.chain.clone(), env!("CARGO_PKG_VERSION"));
    let (head, opening) = match expected {
        None => Head::open(chain, &ends, version),
        Some(expected) => Head::reopen(chain, &ends, expected, version),
    };
    let mut audit = AuditBatch::new(head);
    audit.add(&Entry { at: run.clock.now(), trace_id: None, event: opening });
    sqlx::query(
        "UPDATE chains SET named = ends.sequence FROM unnest($1::TEXT[], $2::BIGINT[]) AS ends (chain, sequence)
         WHERE chains.chain = ends.chain",
    )
    .bind(ends.iter().map(|end| end.chain.as_str()).collect::<Vec<_>>())
    .bind(ends.iter().map(|end| i64::try_from(end.sequence).unwrap_or(i64::MAX)).collect::<Vec<_>>())
    .execute(&mut *transaction)
    .await?;
    let opened = sqlx::query("INSERT INTO chains (chain) VALUES ($1)").bind(&run.chain);
    opened.execute(&mut *transaction).await?;
    let written = trail::write(&mut transaction, &audit).await;
    written.map_err(|error| LockError::Other(error.into_error()))?;
    transaction.commit().await?;
    Ok(audit.head)
}
