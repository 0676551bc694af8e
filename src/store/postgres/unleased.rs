//! The SQL of ends and approvals, which need no lane, and of retention.

use std::collections::HashMap;

use sqlx::{AssertSqlSafe, PgConnection};

use super::{
    super::{
        ApprovalOutcome, ApprovalReply, Cancellation, Cancelled, Error, Purge, UntilSettlement,
        audit_batch::AuditBatch,
        commands::WriteCommand,
        rows::{OPERATION, count, ended_at, micros, to_json, unreadable},
        writer::TransactionError,
    },
    failed, rows,
};
use crate::domain::{Operation, OperationId, operation::UntilState};

/// The lane of each operation, and its position in the order of acceptance. Neither ever changes.
pub(super) type Places = HashMap<OperationId, (String, i64)>;

/// The single operation that a command is about.
pub(super) fn single(command: &WriteCommand) -> Option<OperationId> {
    match command {
        WriteCommand::Cancel(cancellation) => Some(cancellation.operation),
        WriteCommand::SettleUntil(settlement) => Some(settlement.operation),
        WriteCommand::AnswerApproval(reply) => Some(reply.operation),
        WriteCommand::RecordAttempt(result) => Some(result.operation),
        WriteCommand::ResendCallback(resending) => Some(resending.operation),
        WriteCommand::Accept(_)
        | WriteCommand::ClaimCallbacks(_)
        | WriteCommand::NotePolicySets(_)
        | WriteCommand::AppendRecords(_)
        | WriteCommand::Claim(..)
        | WriteCommand::BeginWrite(..)
        | WriteCommand::Settle(..)
        | WriteCommand::Park(..)
        | WriteCommand::Purge(_)
        | WriteCommand::ClaimSink(_)
        | WriteCommand::Probe => None,
    }
}

/// Looks up the places of the operations of all commands that are about a single one.
pub(super) async fn places(
    connection: &mut PgConnection,
    commands: &[WriteCommand],
) -> Result<Places, TransactionError> {
    let singled: Vec<_> = commands.iter().filter_map(single).map(|id| id.to_string()).collect();
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
    found.iter().map(place).collect::<Result<_, Error>>().map_err(TransactionError::Content)
}

pub(super) async fn cancel(
    connection: &mut PgConnection,
    audit: &mut AuditBatch,
    cancellation: &Cancellation,
) -> Result<Cancelled, TransactionError> {
    let Some(operation) = locked(connection, cancellation.operation).await? else { return Ok(Cancelled::Unknown) };
    let Ok(state) = operation.state.clone().cancel(cancellation.at) else {
        return Ok(Cancelled::TooLate(Box::new(operation)));
    };
    let operation = Operation { state, ..operation };
    update(connection, &operation).await?;
    audit.add(&cancellation.entry);
    Ok(Cancelled::Done(Box::new(operation)))
}

pub(super) async fn settle_without_reversal(
    connection: &mut PgConnection,
    audit: &mut AuditBatch,
    settlement: &UntilSettlement,
) -> Result<bool, TransactionError> {
    let was_ahead = settle_until(connection, settlement.operation, settlement.state).await?;
    if let Some(entry) = settlement.entry.as_ref().filter(|_| was_ahead) {
        audit.add(entry);
    }
    Ok(was_ahead)
}

/// Settles an operation's end if it is still ahead; returns whether it was. If another replica is settling it just now, this
/// waits for its commit.
pub(super) async fn settle_until(
    connection: &mut PgConnection,
    operation: OperationId,
    state: UntilState,
) -> Result<bool, TransactionError> {
    let settled =
        sqlx::query("UPDATE operations SET until_at = NULL, until_state = $1 WHERE id = $2 AND until_at IS NOT NULL")
            .bind(to_json("until_state", &state).map_err(TransactionError::Content)?)
            .bind(operation.to_string())
            .execute(connection)
            .await
            .map_err(failed)?;
    Ok(settled.rows_affected() == 1)
}

pub(super) async fn answer_approval(
    connection: &mut PgConnection,
    audit: &mut AuditBatch,
    reply: &ApprovalReply,
) -> Result<ApprovalOutcome, TransactionError> {
    let Some(operation) = locked(connection, reply.operation).await? else { return Ok(ApprovalOutcome::Unknown) };
    let Ok(answered) = operation.clone().answer(reply.answer.clone()) else {
        return Ok(ApprovalOutcome::TooLate(Box::new(operation)));
    };
    update(connection, &answered).await?;
    audit.add(&reply.entry);
    Ok(ApprovalOutcome::Done(Box::new(answered)))
}

/// Reads an operation and locks it until this transaction ends. If another replica is taking it up just now, this waits for
/// its commit and then finds it running.
async fn locked(connection: &mut PgConnection, id: OperationId) -> Result<Option<Operation>, TransactionError> {
    let sql = format!("SELECT {OPERATION} FROM operations WHERE id = $1 FOR UPDATE");
    let row = sqlx::query(AssertSqlSafe(sql)).bind(id.to_string()).fetch_optional(connection).await.map_err(failed)?;
    row.as_ref().map(rows::operation).transpose().map_err(TransactionError::Content)
}

async fn update(
    connection: &mut PgConnection,
    Operation { id, submission, state }: &Operation,
) -> Result<(), TransactionError> {
    sqlx::query("UPDATE operations SET state = $1, fate = $2, submission = $3, ended_at = $4 WHERE id = $5")
        .bind(state.name())
        .bind(to_json("fate", state).map_err(TransactionError::Content)?)
        .bind(to_json("submission", submission).map_err(TransactionError::Content)?)
        .bind(ended_at(state))
        .bind(id.to_string())
        .execute(connection)
        .await
        .map(drop)
        .map_err(failed)
}

/// Keys go first: an operation that one stands for is still needed. Rows that another replica has locked are left to it. The
/// first conditions are those of the index `operations_to_forget`, so that what is kept for longer is not searched. A
/// reversal is kept while the end of what it reverts is ahead, as are a reversal of that and so on, and what is reverted until
/// that is done.
pub(super) async fn purge(connection: &mut PgConnection, purge: &Purge) -> Result<usize, TransactionError> {
    let keys = sqlx::query(
        "WITH expired AS (
             SELECT caller, key FROM idempotency_keys WHERE expires_at <= $1
             ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED
         )
         DELETE FROM idempotency_keys AS known USING expired
         WHERE known.caller = expired.caller AND known.key = expired.key",
    )
    .bind(micros(purge.keys_expired_by))
    .bind(count(purge.limit))
    .execute(&mut *connection)
    .await
    .map_err(failed)?;
    let keys = usize::try_from(keys.rows_affected()).unwrap_or(usize::MAX);
    let operations = sqlx::query(
        "WITH ended AS (
             SELECT position FROM operations
             WHERE ended_at < $1 AND until_at IS NULL AND callback_state IS DISTINCT FROM 'pending'
                 AND NOT EXISTS (SELECT FROM idempotency_keys WHERE operation = operations.id)
                 AND (reverts IS NULL OR NOT EXISTS (
                     WITH RECURSIVE undone AS (
                         SELECT first.reverts, first.until_at FROM operations AS first WHERE first.id = operations.reverts
                         UNION ALL
                         SELECT earlier.reverts, earlier.until_at
                         FROM undone JOIN operations AS earlier ON earlier.id = undone.reverts)
                     SELECT FROM undone WHERE until_at IS NOT NULL))
                 AND NOT EXISTS (
                     SELECT FROM operations AS undoing WHERE undoing.reverts = operations.id AND undoing.ended_at IS NULL)
             ORDER BY ended_at LIMIT $2 FOR UPDATE SKIP LOCKED
         )
         DELETE FROM operations USING ended WHERE operations.position = ended.position",
    )
    .bind(micros(purge.ended_before))
    .bind(count(purge.limit.saturating_sub(keys)))
    .execute(connection)
    .await
    .map_err(failed)?;
    Ok(keys.saturating_add(usize::try_from(operations.rows_affected()).unwrap_or(usize::MAX)))
}
