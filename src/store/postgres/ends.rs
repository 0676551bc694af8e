//! Operations that end without a lane, and what is forgotten of those that ended.

use std::collections::HashMap;

use sqlx::PgConnection;

use super::{
    super::{
        Cancellation, Cancelled, Error, Forgetting, Release,
        ledger::Ledger,
        rows::{count, ended_at, micros, to_json, unreadable},
        verbs::Verb,
        writer::Failed,
    },
    failed, read, rows,
};
use crate::domain::{Operation, OperationId, State, operation::UntilState};

/// Where operations stand: their lane, and their place in the order of acceptance. Neither ever changes.
pub(super) type Places = HashMap<OperationId, (String, i64)>;

/// The single operation that a verb is about.
pub(super) fn single(verb: &Verb) -> Option<OperationId> {
    if let Verb::Cancel(Cancellation { operation, .. }) | Verb::Release(Release { operation, .. }) = verb {
        Some(*operation)
    } else {
        None
    }
}

/// The places of the operations that verbs are about singly.
pub(super) async fn places(connection: &mut PgConnection, verbs: &[Verb]) -> Result<Places, Failed> {
    let singled: Vec<_> = verbs.iter().filter_map(single).map(|id| id.to_string()).collect();
    if singled.is_empty() {
        return Ok(Places::new());
    }
    let found = sqlx::query("SELECT id, configuration, position FROM operations WHERE id = ANY($1)")
        .bind(singled)
        .fetch_all(connection)
        .await
        .map_err(failed)?;
    let place = |row| {
        let id = rows::column::<&str>(row, "id")?.parse().map_err(|error| unreadable("operations.id", &error))?;
        Ok((id, (rows::column(row, "configuration")?, rows::column(row, "position")?)))
    };
    found.iter().map(place).collect::<Result<_, Error>>().map_err(Failed::Content)
}

pub(super) async fn cancel(
    connection: &mut PgConnection,
    ledger: &mut Ledger,
    cancellation: &Cancellation,
) -> Result<Cancelled, Failed> {
    let cancelled =
        State::Queued.cancel(cancellation.at).map_err(|error| Failed::Content(unreadable("fate", &error)))?;
    // If another replica is taking it up just now, this waits for its commit and then finds it running.
    let changed =
        sqlx::query("UPDATE operations SET state = $1, fate = $2, ended_at = $3 WHERE id = $4 AND state = 'queued'")
            .bind(cancelled.name())
            .bind(to_json("fate", &cancelled).map_err(Failed::Content)?)
            .bind(ended_at(&cancelled))
            .bind(cancellation.operation.to_string())
            .execute(&mut *connection)
            .await
            .map_err(failed)?;
    let operation = read::operation(connection, cancellation.operation).await.map_err(Failed::Content)?;
    let Some(operation): Option<Operation> = operation else { return Ok(Cancelled::Unknown) };
    if changed.rows_affected() == 0 {
        return Ok(Cancelled::TooLate(Box::new(operation)));
    }
    ledger.add(&cancellation.entry);
    Ok(Cancelled::Done(Box::new(operation)))
}

pub(super) async fn release(
    connection: &mut PgConnection,
    ledger: &mut Ledger,
    release: &Release,
) -> Result<bool, Failed> {
    let was_ahead = settle_until(connection, release.operation, release.state).await?;
    if let Some(entry) = release.entry.as_ref().filter(|_| was_ahead) {
        ledger.add(entry);
    }
    Ok(was_ahead)
}

/// Settles an operation's end if it is still ahead, and says whether it was. If another replica is settling it just now,
/// this waits for its commit.
pub(super) async fn settle_until(
    connection: &mut PgConnection,
    operation: OperationId,
    state: UntilState,
) -> Result<bool, Failed> {
    let settled =
        sqlx::query("UPDATE operations SET until_at = NULL, until_state = $1 WHERE id = $2 AND until_at IS NOT NULL")
            .bind(to_json("until_state", &state).map_err(Failed::Content)?)
            .bind(operation.to_string())
            .execute(connection)
            .await
            .map_err(failed)?;
    Ok(settled.rows_affected() == 1)
}

/// Keys go first: an operation that one stands for is still needed. What another replica has locked is left to it.
pub(super) async fn forget(connection: &mut PgConnection, forgetting: &Forgetting) -> Result<usize, Failed> {
    let keys = sqlx::query(
        "WITH expired AS (
             SELECT caller, key FROM idempotency_keys WHERE expires_at <= $1
             ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED
         )
         DELETE FROM idempotency_keys AS known USING expired
         WHERE known.caller = expired.caller AND known.key = expired.key",
    )
    .bind(micros(forgetting.keys_expired_by))
    .bind(count(forgetting.limit))
    .execute(&mut *connection)
    .await
    .map_err(failed)?;
    let keys = usize::try_from(keys.rows_affected()).unwrap_or(usize::MAX);
    let operations = sqlx::query(
        "WITH ended AS (
             SELECT position FROM operations
             WHERE ended_at < $1 AND until_at IS NULL AND NOT EXISTS (SELECT FROM idempotency_keys WHERE operation = operations.id)
             ORDER BY ended_at LIMIT $2 FOR UPDATE SKIP LOCKED
         )
         DELETE FROM operations USING ended WHERE operations.position = ended.position",
    )
    .bind(micros(forgetting.ended_before))
    .bind(count(forgetting.limit.saturating_sub(keys)))
    .execute(connection)
    .await
    .map_err(failed)?;
    Ok(keys.saturating_add(usize::try_from(operations.rows_affected()).unwrap_or(usize::MAX)))
}
