//! The SQL of callbacks: claiming attempts, noting what came of them, sending again, counting what is not delivered.

use jiff::Timestamp;
use sqlx::{QueryBuilder, Sqlite, SqliteConnection};

use super::{
    super::{
        Error,
        callbacks::{Attempt, Attempted, Claim, Destinations, Next, Resending, Undelivered},
        ledger::Ledger,
        rows::{OPERATION, count, micros, progress, to_json},
    },
    rows, unavailable,
};
use crate::clock;

/// The index is named, since without statistics SQLite takes the one of all that ever ended.
pub(super) async fn claim(
    connection: &mut SqliteConnection,
    now: Timestamp,
    claim: &Claim,
) -> Result<Vec<Attempt>, Error> {
    let mut sql: QueryBuilder<Sqlite> = QueryBuilder::new(
        "UPDATE operations SET callback_under_way = 1, callback_attempts = callback_attempts + 1, callback_due = ",
    );
    sql.push_bind(micros(clock::after(now, claim.ttl)));
    sql.push(
        " WHERE position IN (SELECT position FROM operations INDEXED BY operations_to_call_back
         WHERE callback_state = 'pending' AND ended_at IS NOT NULL",
    );
    match &claim.destinations {
        Destinations::Named(name) => drop(sql.push(" AND callback_destination = ").push_bind(name)),
        Destinations::Except(names) => {
            for name in names {
                sql.push(" AND callback_destination <> ").push_bind(name);
            }
        }
    }
    sql.push(" AND callback_due <= ").push_bind(micros(now));
    sql.push(" ORDER BY callback_due, position LIMIT ").push_bind(count(claim.limit));
    sql.push(format!(") RETURNING {OPERATION}, callback_attempts, callback_progress"));
    let claimed = sql.build().fetch_all(connection).await.map_err(unavailable)?;
    let attempt = |row| {
        Ok(Attempt {
            operation: rows::operation(row)?,
            number: rows::column(row, "callback_attempts")?,
            progress: progress(rows::column(row, "callback_progress")?)?,
        })
    };
    claimed.iter().map(attempt).collect()
}

/// Notes what came of an attempt, and says whether it was still under way.
pub(super) async fn attempted(
    connection: &mut SqliteConnection,
    ledger: &mut Ledger,
    now: Timestamp,
    attempted: &Attempted,
) -> Result<bool, Error> {
    let due = if let Next::Again(pause) = attempted.next { Some(micros(clock::after(now, pause))) } else { None };
    let noted = sqlx::query(
        "UPDATE operations SET callback_under_way = 0, callback_state = ?, callback_due = ?, callback_progress = ?
         WHERE id = ? AND callback_attempts = ? AND callback_under_way = 1",
    )
    .bind(attempted.next.state().name())
    .bind(due)
    .bind(to_json("callback_progress", &attempted.progress)?)
    .bind(attempted.operation.to_string())
    .bind(attempted.number)
    .execute(connection)
    .await
    .map_err(unavailable)?
    .rows_affected()
        == 1;
    if let Some(entry) = attempted.entry.as_ref().filter(|_| noted) {
        ledger.add(entry);
    }
    Ok(noted)
}

/// Makes a callback due again that was delivered or parked, and says whether it was.
pub(super) async fn resend(
    connection: &mut SqliteConnection,
    ledger: &mut Ledger,
    resending: &Resending,
) -> Result<bool, Error> {
    let resent = sqlx::query(
        "UPDATE operations SET callback_state = 'pending', callback_due = 0, callback_progress = ?
         WHERE id = ? AND callback_state IN ('delivered', 'parked')",
    )
    .bind(to_json("callback_progress", &resending.progress())?)
    .bind(resending.operation.to_string())
    .execute(connection)
    .await
    .map_err(unavailable)?
    .rows_affected()
        == 1;
    if resent {
        ledger.add(&resending.entry);
    }
    Ok(resent)
}

/// Counts what is not delivered. Its index is named, too.
pub(super) async fn undelivered(connection: &mut SqliteConnection) -> Result<Undelivered, Error> {
    let states = sqlx::query_as(
        "SELECT callback_state, COUNT(*), MIN(ended_at) FROM operations INDEXED BY operations_undelivered
         WHERE callback_state IN ('pending', 'parked') AND ended_at IS NOT NULL GROUP BY callback_state",
    );
    Undelivered::from_states(states.fetch_all(connection).await.map_err(unavailable)?)
}

/// Voids the attempts of earlier runs, which are over.
pub(super) async fn begin_run(connection: &mut SqliteConnection) -> Result<(), Error> {
    let void = "UPDATE operations INDEXED BY operations_to_call_back SET callback_under_way = 0, callback_due = 0
                WHERE callback_state = 'pending' AND ended_at IS NOT NULL AND callback_under_way = 1";
    sqlx::query(void).execute(connection).await.map_err(unavailable).map(drop)
}
