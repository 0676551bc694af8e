//! The audit trail in PostgreSQL: writing it, searching it, and how far it was delivered.

use std::time::Duration;

use sqlx::{PgConnection, Postgres, QueryBuilder};

use super::{
    super::{
        AuditQuery, Error, SinkClaim, StoredRecord,
        audit_batch::{AuditBatch, head_after},
        rows::{count, micros as moment},
        trail::ends_operation_sql,
        writer::TransactionError,
    },
    failed,
    rows::{self, micros},
    unavailable,
};
use crate::{
    audit::{Head, RecordId},
    clock::Clock,
};

/// How often to check whether writing transactions have ended.
const RECHECK_INTERVAL: Duration = Duration::from_millis(2);

/// Writes the records of a transaction.
pub(super) async fn write(connection: &mut PgConnection, audit: &AuditBatch) -> Result<(), TransactionError> {
    if audit.records.is_empty() {
        return Ok(());
    }
    let records = &audit.records;
    sqlx::query(
        "INSERT INTO audit (chain, sequence, text, at, ticket, operation, caller, configuration)
         SELECT $1, new.*
         FROM unnest($2::BIGINT[], $3::TEXT[], $4::BIGINT[], $5::TEXT[], $6::TEXT[], $7::TEXT[], $8::TEXT[])
             AS new (sequence, text, at, ticket, operation, caller, configuration)
         ORDER BY sequence",
    )
    .bind(&audit.head.chain)
    .bind(records.iter().map(|record| number(record.sequence)).collect::<Vec<_>>())
    .bind(records.iter().map(|record| record.text.as_str()).collect::<Vec<_>>())
    .bind(records.iter().map(|record| moment(record.index_fields.at)).collect::<Vec<_>>())
    .bind(records.iter().map(|record| record.index_fields.ticket.as_deref()).collect::<Vec<_>>())
    .bind(records.iter().map(|record| record.index_fields.operation.as_deref()).collect::<Vec<_>>())
    .bind(records.iter().map(|record| record.index_fields.caller.as_deref()).collect::<Vec<_>>())
    .bind(records.iter().map(|record| record.index_fields.configuration.as_deref()).collect::<Vec<_>>())
    .execute(connection)
    .await
    .map(drop)
    .map_err(|error| if is_taken(&error) { TransactionError::Environment(unavailable(error)) } else { failed(error) })
}

/// Whether our place in the chain is taken: by an earlier commit of ours that took place after it was given up, or by somebody
/// else. The connection must begin again by comparing the chain's end with what we wrote.
fn is_taken(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(sqlx::error::DatabaseError::is_unique_violation)
}

fn number(sequence: u64) -> i64 {
    i64::try_from(sequence).unwrap_or(i64::MAX)
}

/// The ends of all chains that no opening has named, the newest record's first. This looks at every chain there ever was.
pub(super) async fn chain_heads(connection: &mut PgConnection) -> Result<Vec<Head>, Error> {
    newest(connection, None).await
}

/// The end of one chain, if no opening has named it. This looks at no other.
pub(super) async fn chain_head(connection: &mut PgConnection, chain: &str) -> Result<Option<Head>, Error> {
    Ok(newest(connection, Some(chain)).await?.pop())
}

async fn newest(connection: &mut PgConnection, chain: Option<&str>) -> Result<Vec<Head>, Error> {
    let mut sql = QueryBuilder::new(
        "SELECT newest.text FROM chains CROSS JOIN LATERAL (
             SELECT position, sequence, text FROM audit WHERE audit.chain = chains.chain ORDER BY sequence DESC LIMIT 1
         ) AS newest
         WHERE newest.sequence > chains.named",
    );
    if let Some(chain) = chain {
        sql.push(" AND chains.chain = ").push_bind(chain);
    }
    sql.push(" ORDER BY newest.position DESC");
    let newest: Vec<String> = sql.build_query_scalar().fetch_all(connection).await.map_err(unavailable)?;
    newest.iter().map(|text| head_after(text)).collect()
}

/// The position of a record; none if it is not there.
pub(super) async fn position(connection: &mut PgConnection, place: &RecordId) -> Result<Option<i64>, Error> {
    sqlx::query_scalar("SELECT position FROM audit WHERE chain = $1 AND sequence = $2")
        .bind(&place.chain)
        .bind(number(place.sequence))
        .fetch_optional(connection)
        .await
        .map_err(unavailable)
}

/// Matching records, oldest first. Positions are assigned before the commit, so a record can become visible after one with a
/// higher position; a reader that went on from there would miss it. So nothing is returned from the first undecided one on.
pub(super) async fn records(
    connection: &mut PgConnection,
    clock: Clock,
    query: &AuditQuery,
) -> Result<Vec<StoredRecord>, Error> {
    let decided = decided(connection, clock).await?;
    let mut sql = QueryBuilder::new("SELECT position, text FROM audit WHERE position > ");
    sql.push_bind(query.after.unwrap_or(0)).push(" AND position <= ").push_bind(decided);
    narrow(&mut sql, query);
    sql.push(" ORDER BY position LIMIT ").push_bind(count(query.limit));
    let found = sql.build().fetch_all(connection).await.map_err(unavailable)?;
    let kept = |row| Ok(StoredRecord { position: rows::column(row, "position")?, text: rows::column(row, "text")? });
    found.iter().map(kept).collect()
}

/// The conditions of a search. A turn's record names many operations, so it is found by configuration, among the records
/// between the operation's first one and that of its end.
fn narrow(sql: &mut QueryBuilder<Postgres>, query: &AuditQuery) {
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
    let (from, to) = (query.from.map(moment), query.to.map(moment));
    within(sql, from, to);
    // Where tickets or operations do not say which records to read, the index on times says between which positions to look.
    let scans = query.ticket.is_none() && query.operation.is_none();
    if let Some(from) = from.filter(|_| scans && query.after.is_none()) {
        sql.push(" AND position >= ");
        bound(sql, "min", (Some(from), to));
    }
    if scans && to.is_some() {
        sql.push(" AND position <= ");
        bound(sql, "max", (from, to));
    }
}

fn within(sql: &mut QueryBuilder<Postgres>, from: Option<i64>, to: Option<i64>) {
    if let Some(from) = from {
        sql.push(" AND at >= ").push_bind(from);
    }
    if let Some(to) = to {
        sql.push(" AND at < ").push_bind(to);
    }
}

/// The first or last position within a period. The planner takes its records to be scattered and scans the trail from an end
/// until it meets one: right for a period of much of the trail. A shorter one is looked up by time, separately (`OFFSET 0`).
fn bound(sql: &mut QueryBuilder<Postgres>, which: &str, (from, to): (Option<i64>, Option<i64>)) {
    sql.push("(SELECT CASE WHEN (SELECT count(*) FROM (SELECT FROM audit WHERE true");
    within(sql, from, to);
    sql.push(" LIMIT ").push_bind(SHORT.saturating_add(1)).push(") AS those) <= ").push_bind(SHORT);
    sql.push(" THEN (SELECT ").push(which).push("(position) FROM (SELECT position FROM audit WHERE true");
    within(sql, from, to);
    sql.push(" OFFSET 0) AS those) ELSE (SELECT ").push(which).push("(position) FROM audit WHERE true");
    within(sql, from, to);
    sql.push(") END)");
}

/// A period of up to this many records is short: they are counted and compared in some ten milliseconds.
const SHORT: i64 = 100_000;

fn turns_of(sql: &mut QueryBuilder<Postgres>, operation: &str) {
    let own = |sql: &mut QueryBuilder<Postgres>, select: &str| {
        sql.push(select).push(" FROM audit WHERE operation = ").push_bind(operation.to_owned());
    };
    own(sql, " AND position IN (SELECT position");
    own(
        sql,
        " UNION SELECT position FROM audit WHERE operation IS NULL AND configuration = (SELECT max(configuration)",
    );
    own(sql, ") AND position > (SELECT min(position)");
    own(sql, ") AND position < (SELECT coalesce(min(position), 9223372036854775807)");
    sql.push(" AND (").push(ends_operation_sql()).push("))");
    sql.push(" AND strpos(text, ").push_bind(operation.to_owned()).push(") > 0)");
}

/// The highest position up to which every record is committed or never will be: the last one assigned, once all transactions
/// that were writing records at that moment have ended. This holds up nobody, and does not wait for new ones.
async fn decided(connection: &mut PgConnection, clock: Clock) -> Result<i64, Error> {
    let last = "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM audit_position_seq";
    let last: i64 = sqlx::query_scalar(last).fetch_one(&mut *connection).await.map_err(unavailable)?;
    let writing = "SELECT virtualtransaction FROM pg_locks
         WHERE relation = 'audit'::regclass AND mode = 'RowExclusiveLock' AND granted
           AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let mut awaited: Vec<String> =
        sqlx::query_scalar(writing).fetch_all(&mut *connection).await.map_err(unavailable)?;
    while !awaited.is_empty() {
        clock.sleep(RECHECK_INTERVAL).await;
        let still: Vec<String> = sqlx::query_scalar(writing).fetch_all(&mut *connection).await.map_err(unavailable)?;
        awaited.retain(|transaction| still.contains(transaction));
    }
    Ok(last)
}

/// Takes or keeps a sink's turn. Waits for no lock: changes written in the same commit must not wait for a replica that
/// stalls.
pub(super) async fn claim_sink(
    connection: &mut PgConnection,
    claim: &SinkClaim,
) -> Result<Option<i64>, TransactionError> {
    let SinkClaim { sink, owner, ttl, delivered } = claim;
    let made = "INSERT INTO deliveries (sink, position)
         SELECT $1, 0 WHERE NOT EXISTS (SELECT FROM deliveries WHERE sink = $1) ON CONFLICT DO NOTHING";
    sqlx::query(made).bind(sink).execute(&mut *connection).await.map_err(failed)?;
    sqlx::query_scalar(
        "WITH mine AS MATERIALIZED (
             SELECT sink FROM deliveries
             WHERE sink = $1 AND (owner = $2 OR lease_until IS NULL OR lease_until <= clock_timestamp())
             FOR UPDATE SKIP LOCKED
         )
         UPDATE deliveries SET owner = $2, lease_until = clock_timestamp() + $3 * INTERVAL '1 microsecond',
             position = GREATEST(position, $4)
         FROM mine WHERE deliveries.sink = mine.sink
         RETURNING position",
    )
    .bind(sink)
    .bind(owner)
    .bind(micros(*ttl))
    .bind(delivered.unwrap_or(0))
    .fetch_optional(connection)
    .await
    .map_err(failed)
}
