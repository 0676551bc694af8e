//! The audit trail in SQLite: writing it, looking for records, and how far it was delivered.

use jiff::Timestamp;
use rusqlite::{Connection, params, params_from_iter, types::Value};

use super::{
    super::{
        AuditQuery, Error, Filed, Following,
        ledger::{Ledger, head_after},
        rows::{count, micros},
    },
    rows::{all, change, column, one, text},
};
use crate::{
    audit::{Head, Place},
    clock,
};

/// Writes the records of a transaction.
pub(super) fn write(connection: &Connection, ledger: &Ledger) -> Result<(), Error> {
    for record in &ledger.records {
        let marks = &record.marks;
        change(
            connection,
            "INSERT INTO audit (chain, sequence, text, at, ticket, operation, caller, configuration)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            params![
                record.chain,
                number(record.sequence),
                record.text,
                micros(marks.at),
                marks.ticket,
                marks.operation,
                marks.caller,
                marks.configuration,
            ],
        )?;
    }
    Ok(())
}

fn number(sequence: u64) -> i64 {
    i64::try_from(sequence).unwrap_or(i64::MAX)
}

/// One run after another: the newest record is the end of the one chain that no opening has named.
pub(super) fn ends(connection: &Connection) -> Result<Vec<Head>, Error> {
    let newest = "SELECT text FROM audit ORDER BY position DESC LIMIT 1";
    all(connection, newest, [], |row| head_after(text(row, "text")?))
}

/// The position of a record; none if it is not there.
pub(super) fn position(connection: &Connection, place: &Place) -> Result<Option<i64>, Error> {
    let sql = "SELECT position FROM audit WHERE chain = ? AND sequence = ?";
    one(connection, sql, params![place.chain, number(place.sequence)], |row| column(row, "position"))
}

/// Records that fit, oldest first.
pub(super) fn records(connection: &Connection, query: &AuditQuery) -> Result<Vec<Filed>, Error> {
    let (conditions, mut values) = conditions(query);
    values.push(count(query.limit).into());
    let sql = format!("SELECT position, text FROM audit WHERE {conditions} ORDER BY position LIMIT ?");
    all(connection, &sql, params_from_iter(values), |row| {
        Ok(Filed { position: column(row, "position")?, text: text(row, "text")?.to_owned() })
    })
}

/// The conditions of a search, and their values.
fn conditions(query: &AuditQuery) -> (String, Vec<Value>) {
    let mut sql = "position > ?".to_owned();
    let mut values: Vec<Value> = vec![query.after.unwrap_or(0).into()];
    let mut and = |condition: &str, value: Value, times: usize| {
        sql.push_str(" AND ");
        sql.push_str(condition);
        values.extend(std::iter::repeat_n(value, times));
    };
    if let Some(ticket) = &query.ticket {
        and(OF_TICKET, ticket.clone().into(), 2);
    }
    if let Some(operation) = query.operation {
        and(OF_OPERATION, operation.to_string().into(), 5);
    }
    if let Some(caller) = &query.caller {
        and("caller = ?", caller.clone().into(), 1);
    }
    // By time alone, the index on it says between which positions to look.
    let by_time_alone = query.ticket.is_none() && query.operation.is_none() && query.caller.is_none();
    if let Some(from) = query.from.map(micros) {
        and("at >= ?", from.into(), 1);
        if by_time_alone && query.after.is_none() {
            and("position >= (SELECT min(position) FROM audit WHERE at >= ?)", from.into(), 1);
        }
    }
    if let Some(to) = query.to.map(micros) {
        and("at < ?", to.into(), 1);
        if by_time_alone {
            and("position <= (SELECT max(position) FROM audit WHERE at < ?)", to.into(), 1);
        }
    }
    (sql, values)
}

const OF_TICKET: &str = "position IN (SELECT position FROM audit WHERE ticket = ?
    UNION SELECT position FROM audit WHERE operation IN (SELECT operation FROM audit WHERE ticket = ?))";

/// A turn's record names many operations, and so it is found by the configuration and by what stands between an operation's
/// first record and that of its end.
const OF_OPERATION: &str = r#"position IN (SELECT position FROM audit WHERE operation = ?
    UNION SELECT position FROM audit
        WHERE operation IS NULL AND configuration = (SELECT max(configuration) FROM audit WHERE operation = ?)
        AND position > (SELECT min(position) FROM audit WHERE operation = ?)
        AND position < (SELECT coalesce(min(position), 9223372036854775807) FROM audit WHERE operation = ?
            AND (text LIKE '%"event":"settled"%' OR text LIKE '%"event":"cancelled"%'))
        AND instr(text, ?) > 0)"#;

/// Takes or keeps a sink's turn.
pub(super) fn follow(connection: &Connection, now: Timestamp, following: &Following) -> Result<Option<i64>, Error> {
    let Following { sink, owner, ttl, delivered } = following;
    one(
        connection,
        "INSERT INTO deliveries (sink, position, owner, lease_until) VALUES (?1, ?5, ?2, ?3)
         ON CONFLICT (sink) DO UPDATE SET owner = ?2, lease_until = ?3, position = max(position, ?5)
         WHERE owner = ?2 OR lease_until IS NULL OR lease_until <= ?4
         RETURNING position",
        params![sink, owner, micros(clock::after(now, *ttl)), micros(now), delivered.unwrap_or(0)],
        |row| column(row, "position"),
    )
}
