//! The acceptances of one transaction; and what idempotency keys stand for.

use rusqlite::{Connection, params};

use super::{
    super::{
        Acceptance, Accepted, Error, IdempotencyKey, LimitReached,
        audit_batch::AuditBatch,
        capacity::{Pending, PendingCapacity, Wait},
        rows::{approval_until, destination, micros, reverts, to_json, unreadable, until_at},
    },
    read,
    rows::{all, change, column, one, text},
    unleased,
};
use crate::domain::{CallbackState, Operation, OperationId, operation::UntilState};

/// Bytes reserved in an operation's row for what its end usually adds, so that the row does not grow.
const ROOM: i64 = 400;

/// What a key stands for, if it is known and has not expired.
pub(super) fn find_by_key(
    connection: &Connection,
    caller: &str,
    key: &IdempotencyKey,
) -> Result<Option<Accepted>, Error> {
    let known = one(
        connection,
        "SELECT fingerprint, operation FROM idempotency_keys WHERE caller = ? AND key = ? AND expires_at > ?",
        params![caller, key.key, micros(key.used_at)],
        |row| {
            let operation = text(row, "operation")?.parse().map_err(|error| unreadable("operation", &error))?;
            Ok((operation, text(row, "fingerprint")? == key.fingerprint.as_str()))
        },
    )?;
    let Some((id, same)): Option<(OperationId, bool)> = known else { return Ok(None) };
    if !same {
        return Ok(Some(Accepted::KeyReused(id)));
    }
    let operation = read::operation(connection, id)?;
    // Both may have been removed between our two reads; then the key is free again.
    Ok(operation.map(|operation| Accepted::Replayed(Box::new(operation))))
}

/// What the acceptances of one transaction share.
pub(super) struct AcceptanceBatch<'a> {
    capacity: &'a mut Option<PendingCapacity>,
    /// Whether pending operations were counted in this transaction.
    counted: bool,
}

impl<'a> AcceptanceBatch<'a> {
    pub(super) fn new(capacity: &'a mut Option<PendingCapacity>) -> Self {
        Self { capacity, counted: false }
    }

    pub(super) fn accept(
        &mut self,
        connection: &Connection,
        audit: &mut AuditBatch,
        acceptance: &Acceptance,
    ) -> Result<Accepted, Error> {
        let Acceptance { operation, key, entry, carries_out_until_of: ends, reverted_since, .. } = acceptance;
        // This also finds keys that were accepted earlier in this transaction.
        if let Some(key) = key
            && let Some(known) = find_by_key(connection, &operation.submission.caller, key)?
        {
            return Ok(known);
        }
        if let Some((reversal, known)) = operation.submission.change.reversal().zip(reverted_since.as_ref()) {
            let since = read::reverted_since(connection, reversal.operation(), &operation.submission.configuration)?;
            if reversal.depends_on(&since) != *known {
                return Ok(Accepted::Outdated);
            }
        }
        if let Some(full) = self.reserve(connection, acceptance)? {
            return Ok(Accepted::LimitReached(full));
        }
        if let Some(ended) = *ends
            && !unleased::settle_until(connection, ended, UntilState::Reverted(operation.id))?
        {
            return Ok(Accepted::EndAlreadySettled);
        }
        insert(connection, operation, key.as_ref())?;
        if let Some(key) = key {
            insert_key(connection, operation, key)?;
        }
        audit.add(entry);
        Ok(Accepted::New)
    }

    fn reserve(&mut self, connection: &Connection, acceptance: &Acceptance) -> Result<Option<LimitReached>, Error> {
        let full = self.capacity.as_mut().map_or(Some(LimitReached::Total), |capacity| capacity.reserve(acceptance));
        if full.is_none() || self.counted {
            return Ok(full);
        }
        // Operations that have ended since the last count may have made room.
        self.counted = true;
        Ok(self.capacity.insert(pending(connection)?).reserve(acceptance))
    }
}

/// Counts what is pending. Each half is served by a partial index on its state.
fn pending(connection: &Connection) -> Result<PendingCapacity, Error> {
    let found = all(
        connection,
        "SELECT configuration, count(*) AS pending, FALSE AS awaiting
         FROM operations WHERE state = 'queued' GROUP BY configuration
         UNION ALL
         SELECT configuration, count(*), TRUE FROM operations WHERE state = 'awaiting_approval' GROUP BY configuration",
        [],
        |row| {
            let wait = if column(row, "awaiting")? { Wait::Approval } else { Wait::Turn };
            Ok(Pending { configuration: text(row, "configuration")?.to_owned(), number: column(row, "pending")?, wait })
        },
    )?;
    Ok(PendingCapacity::new(found))
}

fn insert(connection: &Connection, operation: &Operation, key: Option<&IdempotencyKey>) -> Result<(), Error> {
    let Operation { id, submission, state } = operation;
    let destination = destination(submission);
    change(
        connection,
        "INSERT INTO operations (id, configuration, caller, ticket, state, until_at, reverts, callback_destination,
             callback_state, callback_due, submission, fate, approval_until, key_expires_at, room)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, zeroblob(?))",
        params![
            id.to_string(),
            submission.configuration.as_str(),
            submission.caller,
            submission.ticket,
            state.name(),
            until_at(submission),
            reverts(submission),
            destination,
            destination.map(|_| CallbackState::Pending.name()),
            destination.map(|_| 0_i64),
            to_json("submission", submission)?,
            to_json("fate", state)?,
            approval_until(submission),
            key.map(|key| micros(key.expires_at)),
            ROOM,
        ],
    )
    .map(drop)
}

fn insert_key(connection: &Connection, operation: &Operation, key: &IdempotencyKey) -> Result<(), Error> {
    change(
        connection,
        "INSERT INTO idempotency_keys (caller, key, fingerprint, operation, expires_at) VALUES (?, ?, ?, ?, ?)
         ON CONFLICT (caller, key) DO UPDATE SET fingerprint = excluded.fingerprint, operation = excluded.operation,
             expires_at = excluded.expires_at",
        params![
            operation.submission.caller,
            key.key,
            key.fingerprint.as_str(),
            operation.id.to_string(),
            micros(key.expires_at),
        ],
    )
    .map(drop)
}
