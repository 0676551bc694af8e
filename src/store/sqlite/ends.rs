//! Operations that end or may begin without a lane, and what is forgotten of those that ended.

use sqlx::SqliteConnection;

use super::{
    super::{
        Answered, Cancellation, Cancelled, Error, Forgetting, Release, Reply,
        ledger::Ledger,
        rows::{count, ended_at, micros, to_json},
    },
    read, unavailable,
};
use crate::domain::{Operation, OperationId, operation::UntilState};

pub(super) async fn cancel(
    connection: &mut SqliteConnection,
    ledger: &mut Ledger,
    cancellation: &Cancellation,
) -> Result<Cancelled, Error> {
    // Nobody else writes during this transaction, so what has not begun here has not until it is cancelled.
    let Some(operation) = read::operation(connection, cancellation.operation).await? else {
        return Ok(Cancelled::Unknown);
    };
    let Ok(state) = operation.state.clone().cancel(cancellation.at) else {
        return Ok(Cancelled::TooLate(Box::new(operation)));
    };
    let operation = Operation { state, ..operation };
    update(connection, &operation).await?;
    ledger.add(&cancellation.entry);
    Ok(Cancelled::Done(Box::new(operation)))
}

pub(super) async fn answer(
    connection: &mut SqliteConnection,
    ledger: &mut Ledger,
    reply: &Reply,
) -> Result<Answered, Error> {
    let Some(operation) = read::operation(connection, reply.operation).await? else { return Ok(Answered::Unknown) };
    let Ok(answered) = operation.clone().answer(reply.answer.clone()) else {
        return Ok(Answered::TooLate(Box::new(operation)));
    };
    update(connection, &answered).await?;
    ledger.add(&reply.entry);
    Ok(Answered::Done(Box::new(answered)))
}

async fn update(
    connection: &mut SqliteConnection,
    Operation { id, submission, state }: &Operation,
) -> Result<(), Error> {
    sqlx::query("UPDATE operations SET state = ?, fate = ?, submission = ?, ended_at = ? WHERE id = ?")
        .bind(state.name())
        .bind(to_json("fate", state)?)
        .bind(to_json("submission", submission)?)
        .bind(ended_at(state))
        .bind(id.to_string())
        .execute(connection)
        .await
        .map_err(unavailable)
        .map(drop)
}

pub(super) async fn release(
    connection: &mut SqliteConnection,
    ledger: &mut Ledger,
    release: &Release,
) -> Result<bool, Error> {
    let was_ahead = settle_until(connection, release.operation, release.state).await?;
    if let Some(entry) = release.entry.as_ref().filter(|_| was_ahead) {
        ledger.add(entry);
    }
    Ok(was_ahead)
}

/// Settles an operation's end if it is still ahead, and says whether it was.
pub(super) async fn settle_until(
    connection: &mut SqliteConnection,
    operation: OperationId,
    state: UntilState,
) -> Result<bool, Error> {
    let settled =
        sqlx::query("UPDATE operations SET until_at = NULL, until_state = ? WHERE id = ? AND until_at IS NOT NULL")
            .bind(to_json("until_state", &state)?)
            .bind(operation.to_string())
            .execute(connection)
            .await
            .map_err(unavailable)?;
    Ok(settled.rows_affected() == 1)
}

/// Keys go first: an operation that one stands for is still needed.
pub(super) async fn forget(connection: &mut SqliteConnection, forgetting: &Forgetting) -> Result<usize, Error> {
    let keys = sqlx::query(
        "DELETE FROM idempotency_keys WHERE (caller, key) IN (
             SELECT caller, key FROM idempotency_keys WHERE expires_at <= ? ORDER BY expires_at LIMIT ?)",
    )
    .bind(micros(forgetting.keys_expired_by))
    .bind(count(forgetting.limit))
    .execute(&mut *connection)
    .await
    .map_err(unavailable)?;
    let keys = usize::try_from(keys.rows_affected()).unwrap_or(usize::MAX);
    let operations = sqlx::query(
        "DELETE FROM operations WHERE position IN (
             SELECT position FROM operations
             WHERE ended_at < ? AND until_at IS NULL AND callback_state IS NOT 'pending' AND NOT EXISTS (SELECT 1 FROM idempotency_keys WHERE operation = operations.id)
             ORDER BY ended_at LIMIT ?)",
    )
    .bind(micros(forgetting.ended_before))
    .bind(count(forgetting.limit.saturating_sub(keys)))
    .execute(connection)
    .await
    .map_err(unavailable)?;
    Ok(keys.saturating_add(usize::try_from(operations.rows_affected()).unwrap_or(usize::MAX)))
}
