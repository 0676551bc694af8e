//! What is removed after retention, and what is kept.

use std::{borrow::Cow, time::Duration};

use futures_util::future::join_all;
use jiff::SignedDuration;
use postern::{
    domain::{ConfigurationId, Failure, FailureCode, Operation, State},
    retention::Retention,
    store::{Accepted, Claim, Purge, Store},
};
use sqlx::{Connection, migrate::Migrator};
use tokio_util::sync::CancellationToken;

use crate::fixture::{
    Fixture, Kind, accept, acceptance, all, at, cancellation, claim, each, id, ids, keyed, lane, operation, settlement,
    state, succeeded, trail, turn, used,
};

/// Far longer than anything here takes.
const LONG: Duration = Duration::from_mins(1);

/// Removes operations that ended before one time, and keys that expired by another.
fn purge(ended_before: i64, keys_expired_by: i64) -> Purge {
    Purge { ended_before: at(ended_before), keys_expired_by: at(keys_expired_by), limit: 100 }
}

/// Ends everything that is pending on a lane, at this time.
async fn end(store: &dyn Store, lane: &ConfigurationId, now: i64) {
    let held = turn(store, Claim { batch_max: 10_000, ..claim(lane, "a", 0) }).await;
    store.settle(held.lease, settlement(&held.operations, now)).await.unwrap();
}

async fn ids_of(store: &dyn Store) -> Vec<postern::domain::OperationId> {
    let mut found = ids(&all(store).await);
    found.sort();
    found
}

#[tokio::test]
async fn a_purge_removes_what_ended_before_and_nothing_else() {
    each(async |fixture| {
        let store = fixture.open().await;
        accept(&*store, &lane(1), [1, 2]).await;
        end(&*store, &lane(1), 100).await;
        accept(&*store, &lane(1), [3]).await;
        end(&*store, &lane(1), 200).await;
        accept(&*store, &lane(1), [4, 5]).await;
        store.cancel(cancellation(4, 99)).await.unwrap();
        accept(&*store, &lane(2), [6]).await;
        let running = turn(&*store, claim(&lane(2), "a", 0)).await;
        let before = trail(&*store).await;
        assert_eq!(store.purge(purge(99, 0)).await.unwrap(), 0);
        assert_eq!(store.purge(purge(100, 0)).await.unwrap(), 1);
        assert_eq!(ids_of(&*store).await, [1, 2, 3, 5, 6].map(id));
        assert_eq!(store.purge(purge(200, 0)).await.unwrap(), 2);
        assert_eq!(ids_of(&*store).await, [3, 5, 6].map(id));
        // However old: queued and running operations have not ended.
        assert_eq!(store.purge(purge(1_000_000, 0)).await.unwrap(), 1);
        assert_eq!(store.purge(purge(1_000_000, 0)).await.unwrap(), 0);
        assert_eq!((state(&*store, 5).await, state(&*store, 6).await), ("queued", "running"));
        assert_eq!(trail(&*store).await, before);
        // The lane still knows what it left.
        assert!(turn(&*store, claim(&lane(1), "a", 0)).await.left.is_some());
        store.settle(running.lease, settlement(&running.operations, 300)).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn an_operation_stays_as_long_as_its_key_is_remembered() {
    each(async |fixture| {
        let store = fixture.open().await;
        // The key expires at 3600, as does that of the pending operation.
        store.accept(keyed(operation(1, &lane(1)), "k", "body", 0)).await.unwrap();
        end(&*store, &lane(1), 100).await;
        store.accept(keyed(operation(2, &lane(2)), "pending", "body", 0)).await.unwrap();
        assert_eq!(store.purge(purge(1_000, 3_599)).await.unwrap(), 0);
        let known = store.find_by_key("servicenow", &used("k", "body", 3_599)).await.unwrap();
        assert!(matches!(known, Some(Accepted::Replayed(operation)) if operation.id == id(1)));
        // Two keys and one operation.
        assert_eq!(store.purge(purge(1_000, 3_600)).await.unwrap(), 3);
        assert_eq!(ids_of(&*store).await, [id(2)]);
        // Even as of a time before their expiry: they are gone.
        for key in ["k", "pending"] {
            assert!(store.find_by_key("servicenow", &used(key, "body", 1)).await.unwrap().is_none());
        }
        assert!(matches!(store.accept(keyed(operation(3, &lane(1)), "k", "else", 1)).await.unwrap(), Accepted::New));
    })
    .await;
}

#[tokio::test]
async fn a_step_removes_no_more_than_its_limit_and_the_oldest_first() {
    each(async |fixture| {
        let store = fixture.open().await;
        for number in 1..=4_u8 {
            let (place, seconds) = (lane(number), i64::from(number));
            let key = number.to_string();
            store.accept(keyed(operation(u128::from(number), &place), &key, "body", seconds)).await.unwrap();
            end(&*store, &place, 100 - seconds).await;
        }
        let step = Purge { limit: 3, ..purge(1_000, 10_000) };
        let mut left = Vec::new();
        for expected in [3, 3, 2, 0] {
            assert_eq!(store.purge(step).await.unwrap(), expected);
            left.push(ids_of(&*store).await);
        }
        let all: Vec<_> = (1..=4).map(id).collect();
        // Three keys; then the fourth and the two operations that ended first; then the rest.
        assert_eq!(left, [all.clone(), all[..2].to_vec(), vec![], vec![]]);
    })
    .await;
}

#[tokio::test]
async fn operations_that_ended_under_an_earlier_schema_are_purged_too() {
    for kind in [Kind::Sqlite, Kind::Postgres] {
        let fixture = Fixture::new(kind).await;
        let ended = |number: u128, state: State| Operation { state, ..operation(number, &lane(1)) };
        let running = || State::Running { started_at: at(1) };
        let failure = Failure { code: FailureCode::GraphRefused, detail: "no".to_owned(), graph: None };
        let moment = at(100) + SignedDuration::from_micros(123_456);
        let operations = [
            ended(1, succeeded(&ended(1, running()), 100).1),
            ended(2, running().fail(moment, failure).unwrap()),
            ended(3, State::Queued.cancel(moment).unwrap()),
            ended(4, running()),
            ended(5, State::Queued),
        ];
        begin_with_the_first_schema(&fixture, &operations).await;
        let store = fixture.open().await;
        assert_eq!(store.purge(purge(100, 0)).await.unwrap(), 0, "{kind:?}");
        let kept: Vec<_> = all(&*store).await.into_iter().rev().collect();
        assert_eq!(kept, operations, "{kind:?}");
        assert_eq!(store.purge(purge(101, 0)).await.unwrap(), 3, "{kind:?}");
        assert_eq!(ids_of(&*store).await, [id(4), id(5)]);
        let taken_up = Operation { state: State::Running { started_at: at(2) }, ..operation(5, &lane(1)) };
        let turn = turn(&*store, claim(&lane(1), "a", 2)).await;
        assert_eq!(turn.operations, [operations[3].clone(), taken_up], "{kind:?}");
    }
}

/// Creates the tables of the first schema version, with these operations in them.
async fn begin_with_the_first_schema(fixture: &Fixture, operations: &[Operation]) {
    let first = |all: Migrator| {
        let first: Vec<_> = all.migrations.iter().filter(|it| it.version == 1).cloned().collect();
        assert_eq!(first.len(), 1);
        Migrator { migrations: Cow::Owned(first), ..all }
    };
    let columns = |it: &Operation| {
        let json = (serde_json::to_string(&it.submission).unwrap(), serde_json::to_string(&it.state).unwrap());
        (it.id.to_string(), it.submission.configuration.to_string(), it.state.name(), json.0, json.1)
    };
    let sql = "INSERT INTO operations (id, configuration, caller, state, submission, fate)
         VALUES ($1, $2, 'servicenow', $3, $4, $5)";
    macro_rules! insert {
        ($connection:ident) => {
            for (id, configuration, state, submission, fate) in operations.iter().map(columns) {
                let row = sqlx::query(sql).bind(id).bind(configuration).bind(state).bind(submission).bind(fate);
                row.execute(&mut $connection).await.unwrap();
            }
            $connection.close().await.unwrap();
        };
    }
    match fixture.kind {
        Kind::Sqlite => {
            let url = format!("sqlite:{}?mode=rwc", fixture.path().display());
            let mut connection = sqlx::SqliteConnection::connect(&url).await.unwrap();
            first(sqlx::migrate!("migrations/sqlite")).run(&mut connection).await.unwrap();
            insert!(connection);
        }
        Kind::Postgres => {
            let mut connection = fixture.connection().await;
            first(sqlx::migrate!("migrations/postgres")).run(&mut connection).await.unwrap();
            insert!(connection);
        }
        Kind::Model => panic!("the model has no schema"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_purge_at_once_share_the_work() {
    let fixture = Fixture::new(Kind::Postgres).await;
    let (a, b) = (fixture.open().await, fixture.open().await);
    let used = |number: u128, key: u128, now| keyed(operation(number, &lane(1)), &key.to_string(), "body", now);
    join_all((1..=600).map(|number| a.accept(used(number, number, 0)))).await;
    end(&*a, &lane(1), 100).await;
    let step = Purge { limit: 10, ..purge(1_000, 4_000) };
    let forget = async |store: &dyn Store, from: u128| {
        let (mut removed, mut new) = (0, 0);
        for round in 0..150 {
            removed += store.purge(step).await.unwrap();
            // Both reuse the same expired keys while they are being removed.
            let again = store.accept(used(from + round, 600 - 4 * round, 5_000)).await.unwrap();
            assert!(matches!(again, Accepted::New | Accepted::Replayed(_)), "{again:?}");
            new += usize::from(matches!(again, Accepted::New));
        }
        (removed, new)
    };
    let ((of_a, new_a), (of_b, new_b)) = tokio::join!(forget(&*a, 1_000), forget(&*b, 2_000));
    assert_eq!(new_a + new_b, 150, "each key was used once");
    let left = ids_of(&*a).await;
    assert_eq!(left.len(), 150);
    assert!(left.iter().all(|it| *it >= id(1_000)));
    // A key that was reused before its removal may survive it.
    assert!((1_050..=1_200).contains(&(of_a + of_b)), "{of_a} + {of_b}");
}

#[tokio::test]
async fn the_loop_removes_step_after_step_and_stops_when_told() {
    each(async |fixture| {
        let store = fixture.open().await;
        join_all((1..=1_201).map(|number| store.accept(acceptance(operation(number, &lane(1)))))).await;
        end(&*store, &lane(1), 100).await;
        accept(&*store, &lane(1), [2_000]).await;
        let stop = CancellationToken::new();
        let retention =
            Retention { store: std::sync::Arc::clone(&store), clock: fixture.clock, operations: Duration::ZERO };
        let running = tokio::spawn(retention.run(stop.clone()));
        let began = fixture.clock.elapsed();
        while all(&*store).await.len() > 1 {
            assert!(fixture.clock.elapsed().saturating_sub(began) < LONG, "old operations are not removed");
            tokio::task::yield_now().await;
        }
        assert_eq!(ids_of(&*store).await, [id(2_000)]);
        stop.cancel();
        tokio::time::timeout(LONG, running).await.unwrap().unwrap();
    })
    .await;
}
