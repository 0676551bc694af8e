//! The SQL of ends and approvals, which need no lane, and of retention.

use rusqlite::{Connection, params};

use super::{
    super::{
        ApprovalOutcome, ApprovalReply, Cancellation, Cancelled, Error, Purge, UntilSettlement,
        audit_batch::AuditBatch,
        rows::{count, ended_at, micros, to_json},
    },
    read,
    rows::change,
};
use crate::domain::{Operation, OperationId, operation::UntilState};

pub(super) fn cancel(
    connection: &Connection,
    audit: &mut AuditBatch,
    cancellation: &Cancellation,
) -> Result<Cancelled, Error> {
    // Nobody else writes during this transaction, so an operation that has not begun cannot begin before it is cancelled.
    let Some(operation) = read::operation(connection, cancellation.operation)? else {
        return Ok(Cancelled::Unknown);
    };
    let Ok(state) = operation.state.clone().cancel(cancellation.at) else {
        return Ok(Cancelled::TooLate(Box::new(operation)));
    };
    let operation = Operation { state, ..operation };
    update(connection, &operation)?;
    audit.add(&cancellation.entry);
    Ok(Cancelled::Done(Box::new(operation)))
}

pub(super) fn answer_approval(
    connection: &Connection,
    audit: &mut AuditBatch,
    reply: &ApprovalReply,
) -> Result<ApprovalOutcome, Error> {
    let Some(operation) = read::operation(connection, reply.operation)? else { return Ok(ApprovalOutcome::Unknown) };
    let Ok(answered) = operation.clone().answer(reply.answer.clone()) else {
        return Ok(ApprovalOutcome::TooLate(Box::new(operation)));
    };
    update(connection, &answered)?;
    audit.add(&reply.entry);
    Ok(ApprovalOutcome::Done(Box::new(answered)))
}

fn update(connection: &Connection, Operation { id, submission, state }: &Operation) -> Result<(), Error> {
    change(
        connection,
        "UPDATE operations SET state = ?1, fate = ?2, submission = ?3, ended_at = ?4, room = iif(?4 IS NULL, room, NULL)
         WHERE id = ?5",
        params![
            state.name(),
            to_json("fate", state)?,
            to_json("submission", submission)?,
            ended_at(state),
            id.to_string()
        ],
    )
    .map(drop)
}

pub(super) fn settle_without_reversal(
    connection: &Connection,
    audit: &mut AuditBatch,
    settlement: &UntilSettlement,
) -> Result<bool, Error> {
    let was_ahead = settle_until(connection, settlement.operation, settlement.state)?;
    if let Some(entry) = settlement.entry.as_ref().filter(|_| was_ahead) {
        audit.add(entry);
    }
    Ok(was_ahead)
}

/// Settles an operation's end if it is still ahead; returns whether it was.
pub(super) fn settle_until(connection: &Connection, operation: OperationId, state: UntilState) -> Result<bool, Error> {
    let settled = change(
        connection,
        "UPDATE operations SET until_at = NULL, until_state = ? WHERE id = ? AND until_at IS NOT NULL",
        params![to_json("until_state", &state)?, operation.to_string()],
    )?;
    Ok(settled == 1)
}

/// Removes operations that ended long ago. The first conditions are those of the index `operations_to_forget`, so that what
/// is kept for longer is not searched. A reversal is kept while the end of what it reverts is ahead, as are a reversal of
/// that and so on, and what is reverted until that is done.
const PURGE: &str = "DELETE FROM operations WHERE position IN (
         SELECT position FROM operations
         WHERE ended_at < ? AND until_at IS NULL AND callback_state IS NOT 'pending'
             AND (key_expires_at IS NULL OR key_expires_at <= ?)
             AND (reverts IS NULL OR NOT EXISTS (
                 WITH RECURSIVE undone AS (
                     SELECT first.reverts, first.until_at FROM operations AS first WHERE first.id = operations.reverts
                     UNION ALL
                     SELECT earlier.reverts, earlier.until_at
                     FROM undone JOIN operations AS earlier ON earlier.id = undone.reverts)
                 SELECT 1 FROM undone WHERE until_at IS NOT NULL))
             AND NOT EXISTS (
                 SELECT 1 FROM operations AS undoing WHERE undoing.reverts = operations.id AND undoing.ended_at IS NULL)
         ORDER BY ended_at LIMIT ?)";

/// Keys go first: an operation that one stands for is still needed.
pub(super) fn purge(connection: &Connection, purge: &Purge) -> Result<usize, Error> {
    let keys = change(
        connection,
        "DELETE FROM idempotency_keys WHERE (caller, key) IN (
             SELECT caller, key FROM idempotency_keys WHERE expires_at <= ? ORDER BY expires_at LIMIT ?)",
        params![micros(purge.keys_expired_by), count(purge.limit)],
    )?;
    let operations = change(
        connection,
        PURGE,
        params![micros(purge.ended_before), micros(purge.keys_expired_by), count(purge.limit.saturating_sub(keys))],
    )?;
    Ok(keys.saturating_add(operations))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use rusqlite::StatementStatus;

    use super::{super::connect, *};

    const KEPT: i64 = 20_000;

    #[test]
    fn purging_scans_few_rows_however_many_are_kept() {
        let connection = connect::in_memory();
        // Some have an end ahead, some a callback to deliver; the last five are not kept.
        let sql = "WITH RECURSIVE n(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM n WHERE n < ?1 + 4)
             INSERT INTO operations (id, configuration, caller, state, submission, fate, ended_at, until_at, callback_state)
             SELECT 'op_' || n, 'c', 'caller', 'succeeded', '', '', n, iif(n < ?1 AND n % 2, 9, NULL),
                 iif(n < ?1 AND n % 2 = 0, 'pending', 'delivered') FROM n";
        connection.execute(sql, [KEPT]).unwrap();
        let all = Purge { ended_before: Timestamp::MAX, keys_expired_by: Timestamp::UNIX_EPOCH, limit: 100 };
        assert_eq!(purge(&connection, &all).unwrap(), 5);
        let steps = connection.prepare_cached(PURGE).unwrap().get_status(StatementStatus::VmStep);
        // Each operation that is looked at takes some.
        assert!(i64::from(steps) < KEPT / 2, "it takes {steps} steps");
        // As soon as nothing keeps them, they are removed.
        connection.execute("UPDATE operations SET until_at = NULL WHERE ended_at = 1", []).unwrap();
        connection.execute("UPDATE operations SET callback_state = 'parked' WHERE ended_at = 2", []).unwrap();
        assert_eq!(purge(&connection, &all).unwrap(), 2);
    }
}
