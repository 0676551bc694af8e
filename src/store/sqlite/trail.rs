//! The audit trail in SQLite: writing it, looking for records, and how far it was delivered.

use jiff::Timestamp;
use sqlx::{QueryBuilder, Sqlite, SqliteConnection};

use super::{
    super::{
        AuditQuery, Error, Filed, Following,
        ledger::{Ledger, head_after},
        rows::{count, micros},
    },
    rows, unavailable,
    verbs::ROWS_MAX,
};
use crate::{
    audit::{Head, Place},
    clock,
};

/// Writes the records of a transaction.
pub(super) async fn write(connection: &mut SqliteConnection, ledger: &Ledger) -> Result<(), Error> {
    for records in ledger.records.chunks(ROWS_MAX) {
        let mut sql: QueryBuilder<Sqlite> = QueryBuilder::new(
            "INSERT INTO audit (chain, sequence, text, at, ticket, operation, caller, configuration) ",
        );
        sql.push_values(records, |mut row, record| {
            row.push_bind(&record.chain).push_bind(number(record.sequence)).push_bind(&record.text);
            let marks = &record.marks;
            row.push_bind(micros(marks.at)).push_bind(&marks.ticket).push_bind(&marks.operation);
            row.push_bind(&marks.caller).push_bind(&marks.configuration);
        });
        sql.build().execute(&mut *connection).await.map_err(unavailable)?;
    }
    Ok(())
}

fn number(sequence: u64) -> i64 {
    i64::try_from(sequence).unwrap_or(i64::MAX)
}

/// One run after another: the newest record is the end of the one chain that no opening has named.
pub(super) async fn ends(connection: &mut SqliteConnection) -> Result<Vec<Head>, Error> {
    let newest = sqlx::query("SELECT text FROM audit ORDER BY position DESC LIMIT 1");
    let newest = newest.fetch_optional(connection).await.map_err(unavailable)?;
    newest.iter().map(|row| head_after(&rows::text(row, "text")?)).collect()
}

/// The position of a record; none if it is not there.
pub(super) async fn position(connection: &mut SqliteConnection, place: &Place) -> Result<Option<i64>, Error> {
    sqlx::query_scalar("SELECT position FROM audit WHERE chain = ? AND sequence = ?")
        .bind(&place.chain)
        .bind(number(place.sequence))
        .fetch_optional(connection)
        .await
        .map_err(unavailable)
}

/// Records that fit, oldest first.
pub(super) async fn records(connection: &mut SqliteConnection, query: &AuditQuery) -> Result<Vec<Filed>, Error> {
    let mut sql = QueryBuilder::new("SELECT position, text FROM audit WHERE position > ");
    sql.push_bind(query.after.unwrap_or(0));
    narrow(&mut sql, query);
    sql.push(" ORDER BY position LIMIT ").push_bind(count(query.limit));
    let found = sql.build().fetch_all(connection).await.map_err(unavailable)?;
    let kept = |row| Ok(Filed { position: rows::column(row, "position")?, text: rows::text(row, "text")? });
    found.iter().map(kept).collect()
}

/// The conditions of a search. A turn's record names many operations, and so it is found by the configuration and by what
/// stands between an operation's first record and that of its end.
fn narrow(sql: &mut QueryBuilder<Sqlite>, query: &AuditQuery) {
    if let Some(ticket) = &query.ticket {
        sql.push(" AND position IN (SELECT position FROM audit WHERE ticket = ").push_bind(ticket.clone());
        sql.push(" UNION SELECT position FROM audit WHERE operation IN (SELECT operation FROM audit WHERE ticket = ");
        sql.push_bind(ticket.clone()).push("))");
    }
    if let Some(operation) = query.operation {
        turns_of(sql, &operation.to_string());
    }
    if let Some(caller) = &query.caller {
        sql.push(" AND caller = ").push_bind(caller.clone());
    }
    // By time alone, the index on it says between which positions to look.
    let by_time_alone = query.ticket.is_none() && query.operation.is_none() && query.caller.is_none();
    if let Some(from) = query.from.map(micros) {
        sql.push(" AND at >= ").push_bind(from);
        if by_time_alone && query.after.is_none() {
            sql.push(" AND position >= (SELECT min(position) FROM audit WHERE at >= ").push_bind(from).push(")");
        }
    }
    if let Some(to) = query.to.map(micros) {
        sql.push(" AND at < ").push_bind(to);
        if by_time_alone {
            sql.push(" AND position <= (SELECT max(position) FROM audit WHERE at < ").push_bind(to).push(")");
        }
    }
}

fn turns_of(sql: &mut QueryBuilder<Sqlite>, operation: &str) {
    let own = |sql: &mut QueryBuilder<Sqlite>, select: &str| {
        sql.push(select).push(" FROM audit WHERE operation = ").push_bind(operation.to_owned());
    };
    own(sql, " AND position IN (SELECT position");
    own(sql, " UNION SELECT position FROM audit WHERE configuration = (SELECT max(configuration)");
    own(sql, ") AND position > (SELECT min(position)");
    own(sql, ") AND position < (SELECT coalesce(min(position), 9223372036854775807)");
    sql.push(" AND (text LIKE '%\"event\":\"settled\"%' OR text LIKE '%\"event\":\"cancelled\"%'))");
    sql.push(" AND instr(text, ").push_bind(operation.to_owned()).push(") > 0)");
}

/// Takes or keeps a sink's turn.
pub(super) async fn follow(
    connection: &mut SqliteConnection,
    now: Timestamp,
    following: &Following,
) -> Result<Option<i64>, Error> {
    let Following { sink, owner, ttl, delivered } = following;
    sqlx::query_scalar(
        "INSERT INTO deliveries (sink, position, owner, lease_until) VALUES (?1, ?5, ?2, ?3)
         ON CONFLICT (sink) DO UPDATE SET owner = ?2, lease_until = ?3, position = max(position, ?5)
         WHERE owner = ?2 OR lease_until IS NULL OR lease_until <= ?4
         RETURNING position",
    )
    .bind(sink)
    .bind(owner)
    .bind(micros(clock::after(now, *ttl)))
    .bind(micros(now))
    .bind(delivered.unwrap_or(0))
    .fetch_optional(connection)
    .await
    .map_err(unavailable)
}
