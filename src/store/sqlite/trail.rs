//! The audit trail in SQLite: writing it, searching it, and how far it was delivered.

use jiff::Timestamp;
use rusqlite::{Connection, params, params_from_iter, types::Value};

use super::{
    super::{
        AuditQuery, Error, SinkClaim, StoredRecord,
        audit_batch::{AuditBatch, head_after},
        rows::{count, micros},
        trail::ends_operation_sql,
    },
    indexing::Kind,
    rows::{Search, all, change, column, one, text},
};
use crate::{
    audit::{Head, RecordId},
    clock,
};

/// Writes the records of a transaction.
pub(super) fn write(connection: &Connection, audit: &AuditBatch) -> Result<(), Error> {
    for record in &audit.records {
        let index_fields = &record.index_fields;
        change(
            connection,
            "INSERT INTO audit (chain, sequence, text, at, ticket, operation, caller, configuration)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            params![
                record.chain,
                number(record.sequence),
                record.text,
                micros(index_fields.at),
                index_fields.ticket,
                index_fields.operation,
                index_fields.caller,
                index_fields.configuration,
            ],
        )?;
    }
    Ok(())
}

fn number(sequence: u64) -> i64 {
    i64::try_from(sequence).unwrap_or(i64::MAX)
}

/// Runs follow one another here, so the newest record is the end of the one chain that no opening has named.
pub(super) fn chain_heads(connection: &Connection) -> Result<Vec<Head>, Error> {
    let newest = "SELECT text FROM audit ORDER BY position DESC LIMIT 1";
    all(connection, newest, [], |row| head_after(text(row, "text")?))
}

/// The position of a record; none if it is not there.
pub(super) fn position(connection: &Connection, place: &RecordId) -> Result<Option<i64>, Error> {
    let sql = "SELECT position FROM audit WHERE chain = ? AND sequence = ?";
    one(connection, sql, params![place.chain, number(place.sequence)], |row| column(row, "position"))
}

/// Matching records, oldest first.
pub(super) fn records(connection: &Connection, query: &AuditQuery) -> Result<Vec<StoredRecord>, Error> {
    let (sql, values) = search_for(query);
    all(connection, &sql, params_from_iter(values), |row| {
        Ok(StoredRecord { position: column(row, "position")?, text: text(row, "text")?.to_owned() })
    })
}

/// The search statement, and its values.
fn search_for(query: &AuditQuery) -> (String, Vec<Value>) {
    let mut search = Search::default();
    let mut conditions = String::new();
    let mut and = |condition: &str| {
        conditions.push_str(" AND ");
        conditions.push_str(condition);
    };
    if let Some(ticket) = &query.ticket {
        and(&of_ticket(&search.bind(ticket.clone())));
    }
    if let Some(operation) = query.operation {
        and(&of_operation(&search.bind(operation.to_string())));
    }
    // Where tickets or operations do not say which records to read, the spans say between which positions to look.
    let named = query.ticket.is_some() || query.operation.is_some();
    // SQLite starts a scan at one lower bound only, so there must be only one.
    let mut after = search.bind(query.after.unwrap_or(0));
    if let Some(from) = query.from.map(micros) {
        let from = search.bind(from);
        and(&format!("at >= {from}"));
        if !named && query.after.is_none() {
            after = format!("{} - 1", first_since(&from));
        }
    }
    let mut last = None;
    if let Some(to) = query.to.map(micros) {
        let to = search.bind(to);
        and(&format!("at < {to}"));
        if !named {
            let before = last_before(&to);
            and(&format!("audit.position <= {before}"));
            last = Some(format!(" AND marks.position <= {before}"));
        }
    }
    let found = match &query.caller {
        None => format!("SELECT position, text FROM audit WHERE position > {after}{conditions}"),
        Some(caller) if named => {
            let caller = search.bind(caller.clone());
            format!("SELECT position, text FROM audit WHERE position > {after} AND caller = {caller}{conditions}")
        }
        Some(caller) => {
            let caller = search.bind(caller.clone());
            // Each half comes in order, so no more is read than needed.
            format!(
                "SELECT marks.position AS position, text FROM audit_index AS marks
                 CROSS JOIN audit ON audit.position = marks.position
                 WHERE marks.what = 'caller' AND marks.value = {caller} AND marks.position > {after}{last}{conditions}
                 UNION ALL SELECT position, text FROM audit
                 WHERE position > max({after}, {through}) AND caller = {caller}{conditions}",
                last = last.unwrap_or_default(),
                through = Kind::AuditCaller.through()
            )
        }
    };
    let limit = search.bind(count(query.limit));
    (format!("{found} ORDER BY position LIMIT {limit}"), search.values)
}

/// Records of a ticket, and those of the operations that were requested under it.
fn of_ticket(ticket: &str) -> String {
    let (ticket_through, operation_through) = (Kind::AuditTicket.through(), Kind::AuditOperation.through());
    format!(
        "audit.position IN (
             WITH named(position) AS MATERIALIZED (
                 SELECT position FROM audit_index WHERE what = 'ticket' AND value = {ticket}
                 UNION ALL SELECT position FROM audit WHERE position > {ticket_through} AND ticket = {ticket}),
             asked(operation) AS MATERIALIZED (
                 SELECT operation FROM audit WHERE position IN named AND operation IS NOT NULL)
             SELECT position FROM named
             UNION SELECT position FROM audit_index WHERE what = 'operation' AND value IN asked
             UNION SELECT position FROM audit WHERE position > {operation_through} AND operation IN asked)"
    )
}

/// Records of an operation. A turn's record names many operations, so it is found by configuration, among the records between
/// the operation's first and that of its end. (The plus keeps SQLite from building an index of all records for this search.)
fn of_operation(operation: &str) -> String {
    let (operation_through, turn_through) = (Kind::AuditOperation.through(), Kind::AuditTurn.through());
    let is_an_end = ends_operation_sql();
    format!(
        "audit.position IN (
             WITH own(position) AS MATERIALIZED (
                 SELECT position FROM audit_index WHERE what = 'operation' AND value = {operation}
                 UNION ALL SELECT position FROM audit WHERE position > {operation_through} AND operation = {operation}),
             about(configuration, first, last) AS MATERIALIZED (
                 SELECT max(configuration), min(position),
                     coalesce(min(position) FILTER (WHERE {is_an_end}), 9223372036854775807)
                 FROM audit WHERE position IN own),
             turns(position) AS (
                 SELECT marks.position FROM about CROSS JOIN audit_index AS marks
                 WHERE what = 'turn' AND value = about.configuration AND marks.position > first AND marks.position < last
                 UNION ALL SELECT position FROM about CROSS JOIN audit AS late
                 WHERE position > max(first, {turn_through}) AND position < last
                   AND operation IS NULL AND +late.configuration = about.configuration)
             SELECT position FROM own
             UNION SELECT turns.position FROM turns CROSS JOIN audit ON audit.position = turns.position
             WHERE instr(text, {operation}) > 0)"
    )
}

/// A position before which there is no record at or after a time; exact to one span.
fn first_since(from: &str) -> String {
    format!(
        "(SELECT min(position) FROM (
             SELECT min(first) AS position FROM audit_spans WHERE latest >= {from}
             UNION ALL SELECT min(position) FROM audit WHERE position > {through} AND at >= {from}))",
        through = Kind::AuditTime.through()
    )
}

/// A position after which there is no record before a time; exact to one span.
fn last_before(to: &str) -> String {
    format!(
        "(SELECT max(position) FROM (
             SELECT max(last) AS position FROM audit_spans WHERE earliest < {to}
             UNION ALL SELECT max(position) FROM audit WHERE position > {through} AND at < {to}))",
        through = Kind::AuditTime.through()
    )
}

/// Takes or keeps a sink's turn.
pub(super) fn claim_sink(connection: &Connection, now: Timestamp, claim: &SinkClaim) -> Result<Option<i64>, Error> {
    let SinkClaim { sink, owner, ttl, delivered } = claim;
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

#[cfg(test)]
mod tests {
    use rusqlite::StatementStatus;

    use super::{
        super::{connect, indexing::Indexing},
        *,
    };
    use crate::domain::OperationId;

    const RECORDS: i64 = 20_000;

    fn operation() -> OperationId {
        OperationId::from(uuid::Uuid::from_u128(9_000))
    }

    /// The same, of which turns of its configuration came after its end.
    fn early() -> OperationId {
        OperationId::from(uuid::Uuid::from_u128(50))
    }

    /// A trail of operations, each accepted and ended by this event, and of turns.
    fn trail(end: &str) -> Connection {
        let mut connection = connect::in_memory();
        let sql = r#"WITH RECURSIVE n(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM n WHERE n < ? - 1)
             INSERT INTO audit (chain, sequence, text, at, ticket, operation, caller, configuration)
             SELECT 'c', n, iif(n % 2, '{"event":"' || ? || '"}', '{}'), n, iif(n % 2, NULL, 'T' || (n / 2)),
                 iif(n % 10 = 9, NULL, CASE n / 2 WHEN 50 THEN ? WHEN 9000 THEN ? ELSE 'op_' || (n / 2) END),
                 iif(n % 2, NULL, 'caller-' || (n % 50)), 'configuration-' || iif(n / 2 = 50 OR n % 10 = 9, 9, n % 20) FROM n"#;
        connection.execute(sql, params![RECORDS, end, early().to_string(), operation().to_string()]).unwrap();
        Indexing::begin(&mut connection);
        connection
    }

    #[test]
    fn a_search_looks_through_little_however_much_there_is() {
        let connection = trail("settled");
        let moment = |micros| Timestamp::from_microsecond(micros).unwrap();
        let few = AuditQuery { limit: 10, ..AuditQuery::default() };
        let queries = [
            few.clone(),
            AuditQuery { after: Some(RECORDS - 20), ..few.clone() },
            AuditQuery { ticket: Some("T9000".to_owned()), ..few.clone() },
            AuditQuery { operation: Some(operation()), ..few.clone() },
            AuditQuery { caller: Some("caller-8".to_owned()), after: Some(RECORDS / 2), ..few.clone() },
            AuditQuery { from: Some(moment(RECORDS - 100)), ..few.clone() },
            AuditQuery { from: Some(moment(RECORDS * 2)), ..few.clone() },
            AuditQuery { to: Some(moment(100)), after: Some(90), ..few.clone() },
        ];
        for query in queries {
            takes_little(&connection, &query);
        }
    }

    #[test]
    fn a_search_by_an_operation_looks_at_no_turn_after_its_end() {
        for end in ["settled", "cancelled", "rejected", "approval-expired"] {
            takes_little(&trail(end), &AuditQuery { operation: Some(early()), limit: 10, ..AuditQuery::default() });
        }
    }

    fn takes_little(connection: &Connection, query: &AuditQuery) {
        records(connection, query).unwrap();
        let statement = connection.prepare_cached(&search_for(query).0).unwrap();
        let steps = statement.get_status(StatementStatus::VmStep);
        // Each record that is scanned takes several steps.
        assert!(i64::from(steps) < RECORDS / 2, "{query:?} takes {steps} steps");
    }
}
