//! PostgreSQL as operators run it: it is restarted, locked and backed up, passwords are rotated, tables grow.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use postern::{
    audit::Signer,
    checkpoints::Checkpoints,
    clock::Clock,
    config,
    domain::approval::Decision,
    store::{AuditQuery, Error, Postgres, Purge, Query, Run, Settlement, Store},
};
use sqlx::{Connection, PgConnection};

use crate::{
    fixture::{
        Fixture, Kind, accept, acceptance, all, at, awaiting, cancellation, claim, id, ids, lane, minutes, operation,
        reply, settlement, state, trail, turn,
    },
    postgres::eventually,
    server,
};

const KEY: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";

/// In a young database: statements were planned when it held one, ten or twenty operations, with and without statistics.
#[tokio::test(flavor = "multi_thread")]
async fn ending_a_part_of_what_a_lane_does_looks_at_that_part_only() {
    for (at_first, is_known) in [(10, false), (10, true), (20, true), (1, true)] {
        let fixture = Fixture::new(Kind::Postgres).await;
        let store = fixture.open().await;
        let mut connection = fixture.connection().await;
        let mut all = 0;
        for (number, operations) in [(1, at_first), (2, 300)] {
            let numbers = (1..=operations).map(|place| u128::from(number) * 1_000 + place);
            let lane = lane(number);
            join_all(numbers.map(|operation| accept(&*store, &lane, [operation]))).await;
            if is_known && number == 1 {
                sqlx::raw_sql("ANALYZE operations").execute(&mut connection).await.unwrap();
            }
            let held = turn(&*store, postern::store::Claim { batch_max: 1_000, ..claim(&lane, "a", 0) }).await;
            let mut lease = Some(held.lease);
            for part in held.operations.chunks(if number == 1 { 1 } else { 10 }) {
                let ended = Settlement { keep: Some(minutes(30)), ..settlement(part, 1) };
                lease = store.settle(lease.take().unwrap(), ended).await.unwrap();
            }
            all += i64::try_from(operations).unwrap();
        }
        let mut read = 0;
        eventually("all updates are told", async || {
            // A connection reports its statistics with a statement that comes at least a second later.
            store.probe().await.unwrap();
            let told = sqlx::query_as(
                "SELECT n_tup_upd, seq_tup_read + (SELECT sum(idx_tup_read)::BIGINT FROM pg_stat_user_indexes AS indexes
                                                   WHERE indexes.relname = tables.relname)
                 FROM pg_stat_user_tables AS tables WHERE relname = 'operations'",
            );
            let (updates, reads): (i64, i64) = told.fetch_one(&mut connection).await.unwrap();
            read = reads;
            // Each is marked running, and ended.
            updates >= 2 * all
        })
        .await;
        // A few reads each for claims, keys and counts, not for each of thirty parts.
        assert!(read <= 10 * all, "{read} rows were read, of {all} operations, {at_first} at first");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn verbs_fail_soon_while_the_server_is_away_and_work_when_it_is_back() {
    let mut server = server::Server::begin();
    let url = server.database().await;
    let settings = config::Postgres { url: url.parse().unwrap(), password: None };
    let clock = Clock::system();
    let store = Postgres::open(&settings, Run { chain: "a".to_owned(), clock }).await.unwrap();
    eventually("it hears", async || !store.notices().may_have_missed(store.notices().epoch())).await;
    let (mut accepted, mut number) = (Vec::new(), 0_u128);
    for round in 0..3 {
        // Under load: the server stops while commits are in flight.
        let burst = join_all((1..=200).map(|offset| store.accept(acceptance(operation(number + offset, &lane(1))))));
        let (outcomes, mut gone) = tokio::join!(burst, async {
            clock.sleep(Duration::from_millis(5 * round)).await;
            tokio::task::spawn_blocking(move || {
                server.stop();
                server
            })
            .await
            .unwrap()
        });
        for (offset, outcome) in (1..).zip(outcomes) {
            match outcome {
                Ok(_) => accepted.push(id(number + offset)),
                Err(error) => assert!(matches!(error, Error::Unavailable(_)), "{error:?}"),
            }
        }
        number += 200;
        let began = Clock::system();
        // The wording depends on whether a pooled connection is tried first.
        let why = store.probe().await.unwrap_err();
        assert!(matches!(&why, Error::Unavailable(_)), "{why:?}");
        assert!(matches!(store.accept(acceptance(operation(9_998, &lane(1)))).await, Err(Error::Unavailable(_))));
        let (one, open) = tokio::join!(store.operation(id(1)), store.open_lanes(10));
        assert!(matches!((one, open), (Err(Error::Unavailable(_)), Err(Error::Unavailable(_)))));
        assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
        eventually("it hears nothing", async || store.notices().may_have_missed(store.notices().epoch())).await;
        gone = tokio::task::spawn_blocking(move || {
            gone.start();
            gone
        })
        .await
        .unwrap();
        server = gone;
        eventually("it writes again", async || store.probe().await.is_ok()).await;
        eventually("it hears again", async || !store.notices().may_have_missed(store.notices().epoch())).await;
    }
    let stored = ids(&all(&store).await);
    assert!(accepted.iter().all(|id| stored.contains(id)), "what was accepted is there");
    let recorded = trail(&store).await.len();
    assert_eq!(recorded, stored.len() + 1);
    store.close().await;
}

#[tokio::test]
async fn nothing_hangs_while_somebody_locks_the_tables() {
    let fixture = Fixture::new(Kind::Postgres).await;
    let store = fixture.open().await;
    let mut connection = fixture.connection().await;
    let mut holding = connection.begin().await.unwrap();
    sqlx::raw_sql("LOCK TABLE operations, lanes").execute(&mut *holding).await.unwrap();
    let clock = Clock::system();
    let burst = join_all((1..=50).map(|number| store.accept(acceptance(operation(number, &lane(1))))));
    let (burst, claimed, read) = tokio::join!(burst, store.claim(claim(&lane(1), "a", 0)), store.operation(id(1)));
    assert!(burst.iter().all(|it| matches!(it, Err(Error::Unavailable(_)))), "{burst:?}");
    assert!(matches!((claimed, read), (Err(Error::Unavailable(_)), Err(Error::Unavailable(_)))));
    assert!(clock.elapsed() < Duration::from_secs(20), "{:?}", clock.elapsed());
    holding.rollback().await.unwrap();
    connection.close().await.unwrap();
    accept(&*store, &lane(1), 1..=3).await;
    assert_eq!(trail(&*store).await.len(), 4);
}

#[tokio::test]
async fn a_password_comes_from_its_file_and_is_in_no_message() {
    let fixture = Fixture::new(Kind::Postgres).await;
    let mut connection = fixture.connection().await;
    sqlx::raw_sql("CREATE ROLE keeper LOGIN SUPERUSER PASSWORD 'correct horse'")
        .execute(&mut connection)
        .await
        .unwrap();
    let name: String = sqlx::query_scalar("SELECT current_database()").fetch_one(&mut connection).await.unwrap();
    let url = format!("postgres://keeper@127.0.0.1:{}/{name}?sslmode=disable", server::shared().port);
    let file = fixture.path().with_file_name("password");
    let password = Some(config::SecretSource::File(file.clone()));
    let settings = config::Postgres { url: url.parse().unwrap(), password };
    std::fs::write(&file, "battery staple\n").unwrap();
    let run = || Run { chain: fixture.clock.new_id().to_string(), clock: fixture.clock };
    let refused = Postgres::open(&settings, run()).await.unwrap_err();
    assert!(matches!(&refused, Error::Unusable(why) if why.contains("password authentication failed")), "{refused}");
    assert!(!format!("{refused:?}").contains("staple"));
    std::fs::write(&file, "correct horse\n").unwrap();
    let store = Postgres::open(&settings, run()).await.unwrap();
    assert!(!format!("{store:?}").contains("correct"), "{store:?}");
    // The password changes before anything was read.
    sqlx::raw_sql("ALTER ROLE keeper PASSWORD 'correct zebra'").execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    std::fs::write(&file, "correct zebra\n").unwrap();
    accept(&store, &lane(1), [1]).await;
    assert_eq!(state(&store, 1).await, "queued");
    store.close().await;
}

/// A table is locked for long, as by a backup or VACUUM: a starting process waits for it, running ones do not queue behind that.
#[tokio::test]
async fn a_startup_that_waits_for_table_locks_blocks_nobody() {
    let fixture = Fixture::new(Kind::Postgres).await;
    let store = fixture.open().await;
    let mut connection = fixture.connection().await;
    // As the previous version left them.
    let last = "ALTER TABLE lanes DROP COLUMN doubts; DELETE FROM _sqlx_migrations WHERE version = 10";
    sqlx::raw_sql(last).execute(&mut connection).await.unwrap();
    for held in ["SELECT FROM lanes", "LOCK TABLE audit IN SHARE UPDATE EXCLUSIVE MODE"] {
        let mut holding = connection.begin().await.unwrap();
        sqlx::raw_sql(held).execute(&mut *holding).await.unwrap();
        let waiting = async {
            let sql = "SELECT count(*) FROM pg_stat_activity
                       WHERE datname = current_database() AND wait_event_type = 'Lock' AND pid <> pg_backend_pid()";
            let mut other = fixture.connection().await;
            eventually("it waits", async || sqlx::query_scalar::<_, i64>(sql).fetch_one(&mut other).await.unwrap() > 0)
                .await;
            // Queued behind it in the server.
            let works = async {
                store.probe().await.unwrap();
                store.parked(&lane(1)).await.unwrap();
                store.append_records(vec![cancellation(1, 1).entry]).await.unwrap();
            };
            works.await;
            holding.rollback().await.unwrap();
        };
        let (begun, ()) = tokio::join!(fixture.open(), waiting);
        begun.close().await;
    }
    store.close().await;
}

#[tokio::test]
async fn a_search_by_time_looks_at_that_time_only() {
    let fixture = Fixture::new(Kind::Postgres).await;
    let store = fixture.open().await;
    let mut connection = fixture.connection().await;
    let (all, hour) = (20_000, 3_600);
    // One an hour, for two years.
    let past = "INSERT INTO audit (chain, sequence, text, at, caller)
                SELECT 'past', hour, '{}', $1 + hour * 3600000000, 'a caller' FROM generate_series(1, $2) AS past (hour)";
    let past = sqlx::query(past).bind(at(0).as_microsecond()).bind(all);
    past.execute(&mut connection).await.unwrap();
    sqlx::raw_sql("VACUUM ANALYZE audit").execute(&mut connection).await.unwrap();
    let hours = |from: i64, to: i64| AuditQuery {
        from: Some(at(from * hour)),
        to: (to > 0).then(|| at(to * hour)),
        limit: 100,
        ..AuditQuery::default()
    };
    // Too many for the server to fetch them one by one.
    for query in [hours(all * 15 / 16, 0), hours(all / 16, all / 8)] {
        let of_caller = AuditQuery { caller: Some("a caller".to_owned()), ..query.clone() };
        for query in [query, of_caller] {
            assert_eq!(store.records(&query).await.unwrap().len(), query.limit);
        }
    }
    store.close().await;
    let read = read_of("audit", &mut connection).await;
    assert!(read < all, "{read} entries and rows were read, of {all}");
}

/// How many rows and entries of indexes were read of a table by stores that are closed.
async fn read_of(table: &str, connection: &mut PgConnection) -> i64 {
    // A connection reports its statistics when it closes.
    let gone = "SELECT count(*) FROM pg_stat_activity
                WHERE datname = current_database() AND application_name = 'postern' AND backend_type = 'client backend'";
    eventually("its connections end", async || {
        sqlx::query_scalar::<_, i64>(gone).fetch_one(&mut *connection).await.unwrap() == 0
    })
    .await;
    let told = "SELECT (SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = $1)
                     + (SELECT sum(idx_tup_read)::BIGINT FROM pg_stat_user_indexes WHERE relname = $1)";
    sqlx::query_scalar(told).bind(table).fetch_one(connection).await.unwrap()
}

/// Records of the trail are read up to where all is decided, and somebody writes for long.
#[tokio::test]
async fn reads_of_the_trail_that_wait_keep_no_other_read_waiting() {
    let fixture = Fixture::new(Kind::Postgres).await;
    let store = fixture.open().await;
    accept(&*store, &lane(1), [1]).await;
    let mut connection = fixture.connection().await;
    let mut writing = connection.begin().await.unwrap();
    sqlx::raw_sql("LOCK TABLE audit IN ROW EXCLUSIVE MODE").execute(&mut *writing).await.unwrap();
    let query = AuditQuery { limit: 10, ..AuditQuery::default() };
    // They ask for connections before the others do, and more are not given.
    let searches = join_all((0..8).map(|_| store.records(&query)));
    let others = async {
        for _ in 0..8 {
            assert_eq!(state(&*store, 1).await, "queued");
        }
        writing.rollback().await.unwrap();
    };
    let (found, ()) = tokio::join!(searches, others);
    assert!(found.iter().any(|found| found.as_ref().is_ok_and(|found| found.len() == 2)), "{found:?}");
}

/// Operations of the past, of which the server knows; the end of each is ahead until then.
async fn past(operations: i64, until: Option<i64>, connection: &mut PgConnection) {
    let sql = "INSERT INTO operations (id, configuration, caller, state, submission, fate, ended_at, until_at)
               SELECT 'past-' || past, $1, 'servicenow', 'succeeded', '{}', '{}', $2, $3
               FROM generate_series(1, $4) AS past";
    let sql = sqlx::query(sql).bind(lane(1).to_string()).bind(at(0).as_microsecond()).bind(until).bind(operations);
    sql.execute(&mut *connection).await.unwrap();
    sqlx::raw_sql("VACUUM ANALYZE operations").execute(connection).await.unwrap();
}

#[tokio::test]
async fn a_search_by_state_looks_at_what_is_in_it_only() {
    let fixture = Fixture::new(Kind::Postgres).await;
    let store = fixture.open().await;
    for number in [1, 2] {
        store.accept(acceptance(awaiting(number, &lane(1), 100))).await.unwrap();
    }
    store.answer_approval(reply(2, Decision::Rejected, 1)).await.unwrap();
    accept(&*store, &lane(1), [3, 4]).await;
    store.cancel(cancellation(3, 1)).await.unwrap();
    accept(&*store, &lane(2), [5]).await;
    drop(turn(&*store, claim(&lane(2), "a", 1)).await);
    let (mut connection, all) = (fixture.connection().await, 20_000);
    past(all, None, &mut connection).await;
    for (state, number) in [("awaiting_approval", 1), ("failed", 2), ("cancelled", 3), ("queued", 4), ("running", 5)] {
        let query = Query { state: Some(state.to_owned()), limit: 100, ..Query::default() };
        let of_caller = Query { caller: Some("servicenow".to_owned()), ..query.clone() };
        // The server plans for any values after some times.
        for _ in 0..8 {
            for query in [&query, &of_caller] {
                assert_eq!(ids(&store.operations(query).await.unwrap()), [id(number)], "{query:?}");
            }
        }
    }
    store.close().await;
    let read = read_of("operations", &mut connection).await;
    assert!(read < all / 2, "{read} entries and rows were read, of {all}");
}

#[tokio::test]
async fn purging_scans_few_rows_however_many_are_kept() {
    let fixture = Fixture::new(Kind::Postgres).await;
    let store = fixture.open().await;
    accept(&*store, &lane(1), [1]).await;
    store.cancel(cancellation(1, 1)).await.unwrap();
    let (mut connection, kept) = (fixture.connection().await, 20_000);
    past(kept, Some(at(1_000).as_microsecond()), &mut connection).await;
    let purge = Purge { ended_before: at(10), keys_expired_by: at(0), limit: 100 };
    assert_eq!([store.purge(purge).await.unwrap(), store.purge(purge).await.unwrap()], [1, 0]);
    store.close().await;
    let read = read_of("operations", &mut connection).await;
    assert!(read < kept / 2, "{read} entries and rows were read, while {kept} are kept");
}

/// Nobody removes the chains of earlier runs.
#[tokio::test]
async fn the_checkpoint_check_reads_only_its_own_chain() {
    let fixture = Fixture::new(Kind::Postgres).await;
    let run = Run { chain: "own".to_owned(), clock: fixture.clock };
    let store = postern::store::open(&fixture.settings(), run).await.unwrap();
    // This names the end of the other chain, so there is nothing to vouch for.
    let other = fixture.open().await;
    let (mut connection, runs) = (fixture.connection().await, 20_000);
    let past = "WITH past AS (
                    INSERT INTO chains (chain, named)
                    SELECT 'past-' || run, 1 FROM generate_series(1, $1) AS past (run) RETURNING chain)
                INSERT INTO audit (chain, sequence, text) SELECT chain, 1, '{}' FROM past";
    sqlx::query(past).bind(runs).execute(&mut connection).await.unwrap();
    sqlx::raw_sql("VACUUM ANALYZE audit, chains").execute(&mut connection).await.unwrap();
    let settings = config::Audit {
        key: None,
        checkpoint_every: minutes(5),
        checkpoint_records: 1_000,
        sinks: Vec::new(),
        format: config::AuditFormat::Jsonl,
        denied_per_minute: 1,
    };
    let signer = Signer::from_pem(KEY).unwrap();
    let checkpoints = Checkpoints::new(Arc::clone(&store), fixture.clock, signer, &settings);
    for _ in 0..10 {
        checkpoints.sign().await.unwrap();
    }
    store.close().await;
    other.close().await;
    for table in ["audit", "chains"] {
        let read = read_of(table, &mut connection).await;
        assert!(read < runs / 2, "{read} entries and rows of {table} were read, after {runs} runs");
    }
}

#[tokio::test]
async fn a_search_by_an_operation_looks_at_no_turn_after_its_end() {
    let fixture = Fixture::new(Kind::Postgres).await;
    let store = fixture.open().await;
    for (number, word, now) in [(1, Decision::Rejected, 1), (2, Decision::Expired, 100)] {
        store.accept(acceptance(awaiting(number, &lane(1), 100))).await.unwrap();
        store.answer_approval(reply(number, word, now)).await.unwrap();
    }
    let mut connection = fixture.connection().await;
    let turns: i64 = 20_000;
    let sql = "INSERT INTO audit (chain, sequence, text, at, configuration)
               SELECT 'later', turn, '{}', 0, $1 FROM generate_series(1, $2) AS later (turn)";
    let sql = sqlx::query(sql).bind(lane(1).to_string()).bind(turns);
    sql.execute(&mut connection).await.unwrap();
    sqlx::raw_sql("VACUUM ANALYZE audit").execute(&mut connection).await.unwrap();
    for number in [1, 2] {
        let query = AuditQuery { operation: Some(id(number)), limit: 10, ..AuditQuery::default() };
        assert_eq!(store.records(&query).await.unwrap().len(), 2);
    }
    store.close().await;
    let read = read_of("audit", &mut connection).await;
    assert!(read < turns / 2, "{read} entries and rows were read, of {turns} turns");
}
