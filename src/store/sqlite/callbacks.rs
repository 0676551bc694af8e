//! The SQL of callbacks: claiming attempts, storing their results, sending again, counting what is not delivered.

use jiff::Timestamp;
use rusqlite::{Connection, params, params_from_iter, types::Value};

use super::{
    super::{
        Error,
        audit_batch::AuditBatch,
        callbacks::{Attempt, AttemptResult, Claim, Destinations, Next, Resending, Undelivered},
        rows::{count, micros, progress, to_json},
    },
    rows::{OPERATION, all, change, column, operation, optional_text, text},
};
use crate::clock;

/// The index is named, since SQLite has no statistics to choose it by.
pub(super) fn claim(connection: &Connection, now: Timestamp, claim: &Claim) -> Result<Vec<Attempt>, Error> {
    let mut values: Vec<Value> = vec![micros(clock::after(now, claim.ttl)).into()];
    let mut whose = String::new();
    match &claim.destinations {
        Destinations::Named(name) => {
            whose.push_str(" AND callback_destination = ?");
            values.push(name.clone().into());
        }
        Destinations::Except(names) => {
            for name in names {
                whose.push_str(" AND callback_destination <> ?");
                values.push(name.clone().into());
            }
        }
    }
    values.extend([micros(now).into(), count(claim.limit).into()]);
    let sql = format!(
        "UPDATE operations SET callback_under_way = 1, callback_attempts = callback_attempts + 1, callback_due = ?
         WHERE position IN (SELECT position FROM operations INDEXED BY operations_to_call_back
         WHERE callback_state = 'pending' AND ended_at IS NOT NULL{whose} AND callback_due <= ?
         ORDER BY callback_due, position LIMIT ?) RETURNING {OPERATION}, callback_attempts, callback_progress"
    );
    all(connection, &sql, params_from_iter(values), |row| {
        Ok(Attempt {
            operation: operation(row)?,
            number: column(row, "callback_attempts")?,
            progress: progress(optional_text(row, "callback_progress")?)?,
        })
    })
}

/// Stores the result of an attempt; returns whether it was still under way.
pub(super) fn record_attempt(
    connection: &Connection,
    audit: &mut AuditBatch,
    now: Timestamp,
    result: &AttemptResult,
) -> Result<bool, Error> {
    let due = if let Next::Again(pause) = result.next { Some(micros(clock::after(now, pause))) } else { None };
    let noted = change(
        connection,
        "UPDATE operations SET callback_under_way = 0, callback_state = ?, callback_due = ?, callback_progress = ?
         WHERE id = ? AND callback_attempts = ? AND callback_under_way = 1",
        params![
            result.next.state().name(),
            due,
            to_json("callback_progress", &result.progress)?,
            result.operation.to_string(),
            result.number,
        ],
    )? == 1;
    if let Some(entry) = result.entry.as_ref().filter(|_| noted) {
        audit.add(entry);
    }
    Ok(noted)
}

/// Makes a delivered or parked callback due again; returns whether it was one of these.
pub(super) fn resend(connection: &Connection, audit: &mut AuditBatch, resending: &Resending) -> Result<bool, Error> {
    let resent = change(
        connection,
        "UPDATE operations SET callback_state = 'pending', callback_due = 0, callback_progress = ?
         WHERE id = ? AND callback_state IN ('delivered', 'parked')",
        params![to_json("callback_progress", &resending.progress())?, resending.operation.to_string()],
    )? == 1;
    if resent {
        audit.add(&resending.entry);
    }
    Ok(resent)
}

/// Counts what is not delivered. The index is named here, too.
pub(super) fn undelivered(connection: &Connection) -> Result<Undelivered, Error> {
    Undelivered::from_states(all(
        connection,
        "SELECT callback_state, COUNT(*) AS callbacks, MIN(ended_at) AS oldest FROM operations INDEXED BY operations_undelivered
         WHERE callback_state IN ('pending', 'parked') AND ended_at IS NOT NULL GROUP BY callback_state",
        [],
        |row| Ok((text(row, "callback_state")?.to_owned(), column(row, "callbacks")?, column(row, "oldest")?)),
    )?)
}

/// Voids the attempts of earlier runs, which are over.
pub(super) fn begin_run(connection: &Connection) -> Result<(), Error> {
    let void = "UPDATE operations INDEXED BY operations_to_call_back SET callback_under_way = 0, callback_due = 0
                WHERE callback_state = 'pending' AND ended_at IS NOT NULL AND callback_under_way = 1";
    change(connection, void, []).map(drop)
}
