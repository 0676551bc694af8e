//! Searching: matching entries are found however many others there are, and whether they are old or new.

use std::{borrow::Cow, collections::BTreeSet};

use postern::{
    audit::{Entry, Event, Head},
    domain::{Operation, OperationId},
    store::{Acceptance, Accepted, AuditQuery, Claim, Purge, Query, Store, StoredRecord},
};
use serde_json::Value;
use sqlx::{Connection, SqliteConnection, migrate::Migrator};

use crate::fixture::{
    Fixture, Kind, acceptance, all, at, claim, digest, each, id, ids, lane, operation, settlement, trail, turn,
};

/// Caller, ticket and lane are derived from the operation's number.
fn asked(number: u128) -> Acceptance {
    let mut operation = operation(number, &lane(u8::try_from(number % 3).unwrap()));
    operation.submission.caller = format!("caller-{}", number % 2);
    operation.submission.ticket = (!number.is_multiple_of(5)).then(|| format!("T{}", number % 40));
    let mut acceptance = acceptance(operation);
    acceptance.entry.at = at(i64::try_from(number).unwrap());
    acceptance
}

/// Ends all pending operations of a lane at this time.
async fn end(store: &dyn Store, number: u8, now: i64) {
    let held = turn(store, Claim { batch_max: 10_000, at: at(now), ..claim(&lane(number), "a", 0) }).await;
    store.settle(held.lease, settlement(&held.operations, now)).await.unwrap();
}

/// Every way to search operations returns exactly the matching ones, newest first, whatever the page size.
async fn operations_are_found(store: &dyn Store) {
    let all = all(store).await;
    let some = |text: &str| Some(text.to_owned());
    let queries = [
        Query::default(),
        Query { caller: some("caller-1"), ..Query::default() },
        Query { ticket: some("T7"), ..Query::default() },
        Query { ticket: some("T12"), caller: some("caller-1"), ..Query::default() },
        Query { configuration: Some(lane(2)), ..Query::default() },
        Query { configuration: Some(lane(2)), state: some("queued"), ..Query::default() },
        Query { configuration: Some(lane(2)), caller: some("caller-0"), state: some("succeeded"), ..Query::default() },
    ];
    for query in queries {
        let fits = |it: &&Operation| {
            let submission = &it.submission;
            query.caller.as_ref().is_none_or(|caller| submission.caller == *caller)
                && query.ticket.as_ref().is_none_or(|ticket| submission.ticket.as_ref() == Some(ticket))
                && query.configuration.as_ref().is_none_or(|lane| submission.configuration == *lane)
                && query.state.as_ref().is_none_or(|state| it.state.name() == state)
        };
        let expected: Vec<_> = all.iter().filter(fits).map(|it| it.id).collect();
        for limit in [60, 1_000] {
            let mut page = Query { limit, ..query.clone() };
            let mut found: Vec<OperationId> = Vec::new();
            loop {
                let operations = store.operations(&page).await.unwrap();
                found.extend(ids(&operations));
                page.after = found.last().copied();
                if operations.len() < limit {
                    break;
                }
            }
            assert_eq!(found, expected, "{page:?} of {}", all.len());
        }
    }
}

/// Every way to search records returns exactly the matching ones, oldest first, whatever the page size.
async fn records_are_found(store: &dyn Store, sample: &[u128]) {
    let everything = AuditQuery { limit: 10_000, ..AuditQuery::default() };
    let all = store.records(&everything).await.unwrap();
    let all: Vec<(StoredRecord, Value)> =
        all.into_iter().map(|filed| (filed.clone(), serde_json::from_str(&filed.text).unwrap())).collect();
    let under = |ticket: &str| -> BTreeSet<String> {
        let named = all.iter().filter(|(_, record)| record["ticket"] == ticket);
        named.filter_map(|(_, record)| record["operation"].as_str().map(str::to_owned)).collect()
    };
    let time = |record: &Value| record["at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    let mut queries = vec![
        AuditQuery { caller: Some("caller-1".to_owned()), ..everything.clone() },
        AuditQuery { caller: Some("caller-1".to_owned()), from: Some(at(30)), to: Some(at(90)), ..everything.clone() },
        AuditQuery { from: Some(at(100)), ..everything.clone() },
        AuditQuery { to: Some(at(20)), ..everything.clone() },
        AuditQuery { from: Some(at(40)), to: Some(at(160)), ..everything.clone() },
        AuditQuery { from: Some(at(1_000_000)), ..everything.clone() },
        AuditQuery { ticket: Some("T7".to_owned()), ..everything.clone() },
        AuditQuery { ticket: Some("T12".to_owned()), caller: Some("caller-0".to_owned()), ..everything.clone() },
        AuditQuery { ticket: Some("T12".to_owned()), from: Some(at(50)), ..everything.clone() },
    ];
    queries.extend(sample.iter().map(|number| AuditQuery { operation: Some(id(*number)), ..everything.clone() }));
    for query in queries {
        let of_ticket = query.ticket.as_deref().map(|ticket| (ticket, under(ticket)));
        let fits = |(_, record): &&(StoredRecord, Value)| {
            let operation = record["operation"].as_str();
            let names = |wanted: &str| {
                let turn = record["operations"].as_array();
                operation == Some(wanted) || turn.is_some_and(|turn| turn.iter().any(|it| it == wanted))
            };
            query.caller.as_ref().is_none_or(|caller| record["caller"] == *caller)
                && query.operation.is_none_or(|id| names(&id.to_string()))
                && query.from.is_none_or(|from| time(record) >= from)
                && query.to.is_none_or(|to| time(record) < to)
                && of_ticket.as_ref().is_none_or(|(ticket, operations)| {
                    record["ticket"] == *ticket || operation.is_some_and(|it| operations.contains(it))
                })
        };
        let expected: Vec<_> = all.iter().filter(fits).map(|(filed, _)| filed.position).collect();
        for limit in [400, 10_000] {
            let mut page = AuditQuery { limit, ..query.clone() };
            let mut found = Vec::new();
            loop {
                let records = store.records(&page).await.unwrap();
                found.extend(records.iter().map(|filed| filed.position));
                page.after = found.last().copied();
                if records.len() < limit {
                    break;
                }
            }
            assert_eq!(found, expected, "{page:?} of {}", all.len());
        }
    }
}

#[tokio::test]
async fn searches_find_every_match_among_few_and_many_rows() {
    each(async |fixture| {
        let store = fixture.open().await;
        for number in 1..=160 {
            store.accept(asked(number)).await.unwrap();
            if number.is_multiple_of(31) {
                end(&*store, u8::try_from(number % 3).unwrap(), i64::try_from(number).unwrap()).await;
            }
            if number == 60 && matches!(fixture.kind, Kind::Sqlite) {
                others(&*store).await;
            }
            // Some came after the last indexing step.
            if [70, 160].contains(&number) {
                operations_are_found(&*store).await;
                records_are_found(&*store, &[1, 31, number / 2, number, 9_999]).await;
            }
        }
        let store = fixture.reopen(store).await;
        operations_are_found(&*store).await;
        records_are_found(&*store, &[2, 159]).await;
    })
    .await;
}

/// Enough other records that indexing steps cover everything that came before.
async fn others(store: &dyn Store) {
    let digest = digest("d");
    let event = Event::ConfigurationLoaded { policies: digest.clone(), settings: digest, callers: vec![] };
    for number in 0..9 {
        let entry = Entry { at: at(number), trace_id: None, event: event.clone() };
        store.append_records(vec![entry; 150]).await.unwrap();
    }
}

async fn count(connection: &mut SqliteConnection, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(connection).await.unwrap()
}

#[tokio::test]
async fn purged_operations_leave_no_index_rows() {
    let fixture = Fixture::new(Kind::Sqlite).await;
    let store = fixture.open().await;
    for number in 1..=150 {
        store.accept(asked(number)).await.unwrap();
    }
    for lane in 0..3 {
        end(&*store, lane, if lane == 0 { 500 } else { 10 }).await;
    }
    others(&*store).await;
    let marks = "SELECT count(*) FROM operations_index";
    let stray = "SELECT count(*) FROM operations_index WHERE position NOT IN (SELECT position FROM operations)";
    let mut connection = SqliteConnection::connect(&format!("sqlite:{}", fixture.path().display())).await.unwrap();
    let before = count(&mut connection, marks).await;
    let purge = Purge { ended_before: at(100), keys_expired_by: at(0), limit: 1_000 };
    assert_eq!(store.purge(purge).await.unwrap(), 100);
    assert_eq!(count(&mut connection, stray).await, 0);
    // Two thirds were removed; one operation in five has no ticket.
    assert_eq!((before, count(&mut connection, marks).await), (120 + 150 + 150, 40 + 50 + 50));
    connection.close().await.unwrap();
    operations_are_found(&*store).await;
    records_are_found(&*store, &[3, 4]).await;
}

#[tokio::test]
async fn failed_indexing_hides_no_row_and_blocks_no_acceptance() {
    // The latter rolls back the whole transaction, as some disk errors do.
    for fault in ["ABORT", "ROLLBACK"] {
        let fixture = Fixture::new(Kind::Sqlite).await;
        let store = fixture.open().await;
        let mut connection = SqliteConnection::connect(&format!("sqlite:{}", fixture.path().display())).await.unwrap();
        for table in ["operations_index", "audit_index", "audit_spans"] {
            let broken = format!(
                "CREATE TRIGGER broken_{table} BEFORE INSERT ON {table} BEGIN SELECT RAISE({fault}, 'broken'); END"
            );
            sqlx::raw_sql(sqlx::AssertSqlSafe(broken)).execute(&mut connection).await.unwrap();
        }
        for number in 1..=140 {
            assert!(matches!(store.accept(asked(number)).await, Ok(Accepted::New)), "{number}, {fault}");
        }
        others(&*store).await;
        let indexed = "SELECT (SELECT count(*) FROM operations_index) + (SELECT count(*) FROM audit_index)";
        assert_eq!(count(&mut connection, indexed).await, 0);
        operations_are_found(&*store).await;
        let store = fixture.reopen(store).await;
        records_are_found(&*store, &[1, 140]).await;
        for table in ["operations_index", "audit_index", "audit_spans"] {
            let repaired = format!("DROP TRIGGER broken_{table}");
            sqlx::raw_sql(sqlx::AssertSqlSafe(repaired)).execute(&mut connection).await.unwrap();
        }
        others(&*store).await;
        assert_eq!(count(&mut connection, indexed).await, 112 + 140 + 140 + 112 + 140 + 140);
        assert_eq!(trail(&*store).await.len(), 2 + 140 + 2 * 9 * 150);
        connection.close().await.unwrap();
    }
}

#[tokio::test]
async fn what_an_earlier_version_left_is_found() {
    let fixture = Fixture::new(Kind::Sqlite).await;
    let mut connection =
        SqliteConnection::connect(&format!("sqlite:{}?mode=rwc", fixture.path().display())).await.unwrap();
    let all = sqlx::migrate!("migrations/sqlite");
    let earlier: Vec<_> = all.migrations.iter().filter(|it| it.version <= 8).cloned().collect();
    Migrator { migrations: Cow::Owned(earlier), ..all }.run(&mut connection).await.unwrap();
    let (mut head, opening) = Head::open("earlier".to_owned(), &[], "0.1.0");
    let opening = head.append(&Entry { at: at(0), trace_id: None, event: opening });
    let mut records = vec![opening];
    // More records than are processed in one batch.
    for number in 1..=1_100 {
        let Acceptance { operation, entry, .. } = asked(number);
        records.push(head.append(&entry));
        let (submission, state) = (&operation.submission, &operation.state);
        let row = sqlx::query(
            "INSERT INTO operations (id, configuration, caller, ticket, state, submission, fate) VALUES (?, ?, ?, ?, ?, ?, ?)",
        );
        let row = row.bind(operation.id.to_string()).bind(submission.configuration.as_str()).bind(&submission.caller);
        let row = row.bind(&submission.ticket).bind(state.name()).bind(serde_json::to_string(submission).unwrap());
        row.bind(serde_json::to_string(state).unwrap()).execute(&mut connection).await.unwrap();
    }
    for record in &records {
        let row = sqlx::query(
            "INSERT INTO audit (chain, sequence, text, at, ticket, operation, caller, configuration)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        );
        let index_fields = &record.index_fields;
        let row = row.bind(&record.chain).bind(i64::try_from(record.sequence).unwrap()).bind(&record.text);
        let row = row.bind(index_fields.at.as_microsecond()).bind(&index_fields.ticket).bind(&index_fields.operation);
        row.bind(&index_fields.caller).bind(&index_fields.configuration).execute(&mut connection).await.unwrap();
    }
    connection.close().await.unwrap();
    let store = fixture.open().await;
    operations_are_found(&*store).await;
    records_are_found(&*store, &[1, 499, 500, 501, 1_100]).await;
    store.accept(asked(1_101)).await.unwrap();
    operations_are_found(&*store).await;
    records_are_found(&*store, &[1_101]).await;
}
