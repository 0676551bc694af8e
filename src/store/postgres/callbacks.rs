//! The SQL of callbacks: claiming attempts, storing their results, sending again, counting what is not delivered.
//!
//! When an attempt is due, and when its claim expires, is decided by the database's time.

use sqlx::{PgConnection, Postgres, QueryBuilder};

use super::{
    super::{
        Error,
        audit_batch::AuditBatch,
        callbacks::{Attempt, AttemptResult, Claim, Destinations, Next, Resending, Undelivered},
        rows::{OPERATION, count, progress, to_json},
        writer::TransactionError,
    },
    failed,
    rows::{self, micros},
    unavailable,
};

/// Rows that another replica has locked are left to it.
pub(super) async fn claim(connection: &mut PgConnection, claim: &Claim) -> Result<Vec<Attempt>, TransactionError> {
    let mut sql: QueryBuilder<Postgres> = QueryBuilder::new(
        "WITH due AS (SELECT position AS place FROM operations WHERE callback_state = 'pending' AND ended_at IS NOT NULL",
    );
    match &claim.destinations {
        Destinations::Named(name) => drop(sql.push(" AND callback_destination = ").push_bind(name)),
        Destinations::Except(names) => {
            let names: Vec<_> = names.iter().cloned().collect();
            sql.push(" AND callback_destination <> ALL(").push_bind(names).push(")");
        }
    }
    sql.push(" AND callback_due <= clock_timestamp() ORDER BY callback_due, position LIMIT ");
    sql.push_bind(count(claim.limit)).push(
        " FOR UPDATE SKIP LOCKED)
         UPDATE operations SET callback_under_way = true, callback_attempts = callback_attempts + 1,
             callback_due = clock_timestamp() + INTERVAL '1 microsecond' * ",
    );
    sql.push_bind(micros(claim.ttl));
    sql.push(format!(" FROM due WHERE position = place RETURNING {OPERATION}, callback_attempts, callback_progress"));
    let claimed = sql.build().fetch_all(connection).await.map_err(failed)?;
    let attempt = |row| {
        Ok(Attempt {
            operation: rows::operation(row)?,
            number: rows::column(row, "callback_attempts")?,
            progress: progress(rows::column(row, "callback_progress")?)?,
        })
    };
    claimed.iter().map(attempt).collect::<Result<_, Error>>().map_err(TransactionError::Content)
}

/// Stores the result of an attempt; returns whether it was still under way.
pub(super) async fn record_attempt(
    connection: &mut PgConnection,
    audit: &mut AuditBatch,
    result: &AttemptResult,
) -> Result<bool, TransactionError> {
    let pause = if let Next::Again(pause) = result.next { Some(micros(pause)) } else { None };
    let noted = sqlx::query(
        "UPDATE operations SET callback_under_way = false, callback_state = $1, callback_progress = $2,
             callback_due = clock_timestamp() + $3 * INTERVAL '1 microsecond'
         WHERE id = $4 AND callback_attempts = $5 AND callback_under_way",
    )
    .bind(result.next.state().name())
    .bind(to_json("callback_progress", &result.progress).map_err(TransactionError::Content)?)
    .bind(pause)
    .bind(result.operation.to_string())
    .bind(result.number)
    .execute(connection)
    .await
    .map_err(failed)?
    .rows_affected()
        == 1;
    if let Some(entry) = result.entry.as_ref().filter(|_| noted) {
        audit.add(entry);
    }
    Ok(noted)
}

/// Makes a delivered or parked callback due again; returns whether it was one of these.
pub(super) async fn resend(
    connection: &mut PgConnection,
    audit: &mut AuditBatch,
    resending: &Resending,
) -> Result<bool, TransactionError> {
    let resent = sqlx::query(
        "UPDATE operations SET callback_state = 'pending', callback_due = to_timestamp(0), callback_progress = $1
         WHERE id = $2 AND callback_state IN ('delivered', 'parked')",
    )
    .bind(to_json("callback_progress", &resending.progress()).map_err(TransactionError::Content)?)
    .bind(resending.operation.to_string())
    .execute(connection)
    .await
    .map_err(failed)?
    .rows_affected()
        == 1;
    if resent {
        audit.add(&resending.entry);
    }
    Ok(resent)
}

/// Counts what is not delivered.
pub(super) async fn undelivered(connection: &mut PgConnection) -> Result<Undelivered, Error> {
    let states = sqlx::query_as(
        "SELECT callback_state, COUNT(*), MIN(ended_at) FROM operations
         WHERE callback_state IN ('pending', 'parked') AND ended_at IS NOT NULL GROUP BY callback_state",
    );
    Undelivered::from_states(states.fetch_all(connection).await.map_err(unavailable)?)
}
