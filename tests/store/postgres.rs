//! What the PostgreSQL store guarantees beyond the verbs: several replicas at once.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use postern::{
    audit::Verifier,
    clock::Clock,
    store::{Acceptance, Accepted, Cancelled, Claimed, Error, LimitReached, PendingLimits, Store, Trail},
};
use sqlx::Connection;

use crate::{
    cancelling,
    fixture::{
        Fixture, Kind, accept, acceptance, all, announced, cancellation, claim, id, ids, keyed, lane, minutes,
        operation, settlement, state, trail, turn,
    },
};

/// Far longer than any notice takes.
const LONG: Duration = Duration::from_secs(20);

async fn replicas() -> (Fixture, Arc<dyn Store>, Arc<dyn Store>) {
    let fixture = Fixture::new(Kind::Postgres).await;
    let (a, b) = (fixture.open().await, fixture.open().await);
    for store in [&a, &b] {
        eventually("it hears of others", async || !store.notices().may_have_missed(store.notices().epoch())).await;
    }
    (fixture, a, b)
}

/// Waits until the condition holds.
pub(crate) async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let clock = Clock::system();
    while !is_so().await {
        assert!(clock.elapsed() < LONG, "not in time: {what}");
        clock.sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_lane_belongs_to_one_replica_until_its_lease_ends() {
    let (fixture, a, b) = replicas().await;
    accept(&*a, &lane(1), [1, 2]).await;
    let mut lost = turn(&*a, claim(&lane(1), "a", 0)).await;
    fixture.pass(9).await;
    assert!(matches!(b.claim(claim(&lane(1), "b", 0)).await.unwrap(), Claimed::Held));
    assert!(b.open_lanes(10).await.unwrap().is_empty());
    a.begin_write(&mut lost.lease, &announced(&lost.operations), minutes(30)).await.unwrap();
    fixture.pass(30).await;
    let held = turn(&*b, claim(&lane(1), "b", 0)).await;
    assert_eq!((held.announced, ids(&held.operations)), (announced(&lost.operations), vec![id(1), id(2)]));
    let refused = a.begin_write(&mut lost.lease, &announced(&lost.operations), minutes(30)).await;
    assert!(matches!(refused, Err(Error::LeaseLost(_))), "{refused:?}");
    let refused = a.settle(lost.lease, settlement(&lost.operations, 1)).await;
    assert!(matches!(refused, Err(Error::LeaseLost(_))), "{refused:?}");
    assert_eq!(state(&*a, 1).await, "running");
    b.settle(held.lease, settlement(&held.operations, 1)).await.unwrap();
    assert!(matches!(a.claim(claim(&lane(1), "a", 0)).await.unwrap(), Claimed::Nothing));
    assert_eq!((state(&*a, 1).await, state(&*a, 2).await), ("succeeded", "succeeded"));
    assert_eq!(trail(&*a).await, trail(&*b).await);
}

#[tokio::test]
async fn of_replicas_that_claim_at_once_one_gets_each_lane() {
    let (_fixture, a, b) = replicas().await;
    for number in 1..=20 {
        accept(&*a, &lane(number), [u128::from(number)]).await;
    }
    // In opposite orders, so that rows are locked crosswise.
    let of_a = join_all((1..=20).map(|number| a.claim(claim(&lane(number), "a", 0))));
    let of_b = join_all((1..=20).rev().map(|number| b.claim(claim(&lane(number), "b", 0))));
    let (of_a, of_b) = tokio::join!(of_a, of_b);
    let granted = of_a.into_iter().chain(of_b).filter_map(|it| it.unwrap().turn()).count();
    assert_eq!(granted, 20);
}

#[tokio::test]
async fn whoever_waits_at_one_replica_is_told_of_an_end_at_another() {
    let (_fixture, a, b) = replicas().await;
    accept(&*a, &lane(1), 1..=700).await;
    let noticed = tokio::time::timeout(LONG, b.notices().wait_for_work()).await.unwrap();
    assert!(noticed.contains(&lane(1)));
    let mut ends: Vec<_> = (1..=700).map(|number| a.notices().subscribe_end(id(number))).collect();
    let held = turn(&*b, postern::store::Claim { batch_max: 1_000, ..claim(&lane(1), "b", 0) }).await;
    b.settle(held.lease, settlement(&held.operations, 1)).await.unwrap();
    // More than one notice can hold.
    for end in &mut ends {
        tokio::time::timeout(LONG, end.notified()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_is_cancelled_at_one_replica_or_in_a_turn_of_another_and_never_both() {
    let (_fixture, a, b) = replicas().await;
    for round in 0..10 {
        cancelling::race([&*a, &*b], round).await;
    }
    cancelling::check(&*a).await;
}

/// Waits until this many of our statements wait for a row lock.
async fn waiting_for_rows(connection: &mut sqlx::PgConnection, statements: i64) {
    let waiting = "SELECT count(*) FROM pg_stat_activity
         WHERE datname = current_database() AND application_name = 'postern' AND wait_event_type = 'Lock'";
    let clock = Clock::system();
    loop {
        let found: i64 = sqlx::query_scalar(waiting).fetch_one(&mut *connection).await.unwrap();
        if found == statements {
            return;
        }
        assert!(clock.elapsed() < LONG, "{found} statements wait, not {statements}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_cancellation_and_a_claim_that_meet_at_one_operation_the_first_has_it() {
    let (fixture, a, b) = replicas().await;
    let mut looking = fixture.connection().await;
    for (number, cancel_is_first) in [(1, true), (2, false)] {
        let lane = lane(number);
        let (met, other) = (u128::from(10 * number), u128::from(10 * number + 1));
        accept(&*a, &lane, [met, other]).await;
        let mut connection = fixture.connection().await;
        let mut holding = connection.begin().await.unwrap();
        let row = sqlx::query("SELECT FROM operations WHERE id = $1 FOR UPDATE").bind(id(met).to_string());
        row.execute(&mut *holding).await.unwrap();
        let (claiming, cancelling) = (Arc::clone(&a), Arc::clone(&b));
        let claimed = async move { claiming.claim(claim(&lane, "a", 1)).await.unwrap().turn().unwrap() };
        let cancelled = async move { cancelling.cancel(cancellation(met, 1)).await.unwrap() };
        // Row locks are granted in the order in which they were requested.
        let (cancelled, claimed) = if cancel_is_first {
            let cancelled = tokio::spawn(cancelled);
            waiting_for_rows(&mut looking, 1).await;
            (cancelled, tokio::spawn(claimed))
        } else {
            let claimed = tokio::spawn(claimed);
            waiting_for_rows(&mut looking, 1).await;
            (tokio::spawn(cancelled), claimed)
        };
        waiting_for_rows(&mut looking, 2).await;
        holding.rollback().await.unwrap();
        connection.close().await.unwrap();
        let (cancelled, turn) = (cancelled.await.unwrap(), claimed.await.unwrap());
        assert_eq!(matches!(cancelled, Cancelled::Done(_)), cancel_is_first, "{cancelled:?}");
        let expected = if cancel_is_first { vec![id(other)] } else { vec![id(met), id(other)] };
        assert_eq!(ids(&turn.operations), expected);
    }
    looking.close().await.unwrap();
}

#[tokio::test]
async fn whoever_waits_at_one_replica_is_told_of_a_cancellation_at_another() {
    let (_fixture, a, b) = replicas().await;
    accept(&*a, &lane(1), [1]).await;
    let mut end = a.notices().subscribe_end(id(1));
    b.cancel(cancellation(1, 1)).await.unwrap();
    tokio::time::timeout(LONG, end.notified()).await.unwrap();
}

#[tokio::test]
async fn a_key_used_at_two_replicas_at_once_is_one_operation() {
    let (_fixture, a, b) = replicas().await;
    for round in 0..20 {
        let key = |number: u128| keyed(operation(2 * round + number, &lane(1)), &round.to_string(), "body", 0);
        let (of_a, of_b) = tokio::join!(a.accept(key(1)), b.accept(key(2)));
        let outcomes = [of_a.unwrap(), of_b.unwrap()];
        assert_eq!(outcomes.iter().filter(|it| matches!(it, Accepted::New)).count(), 1, "{outcomes:?}");
        assert_eq!(outcomes.iter().filter(|it| matches!(it, Accepted::Replayed(_))).count(), 1, "{outcomes:?}");
    }
    assert_eq!(all(&*a).await.len(), 20);
}

#[tokio::test]
async fn what_one_replica_accepts_fills_the_bound_of_another_before_long() {
    const BOUND: u128 = 300;
    let (_fixture, a, b) = replicas().await;
    let limits = PendingLimits { per_configuration: usize::try_from(BOUND).unwrap(), total: usize::MAX };
    let bounded = |number| Acceptance { limits, ..acceptance(operation(number, &lane(1))) };
    // It has counted once, and keeps its own count from there.
    assert!(matches!(a.accept(bounded(1)).await.unwrap(), Accepted::New));
    let others = join_all((2..=BOUND).map(|number| b.accept(bounded(number)))).await;
    assert!(others.into_iter().all(|accepted| matches!(accepted.unwrap(), Accepted::New)));
    assert!(matches!(b.accept(bounded(BOUND + 1)).await.unwrap(), Accepted::LimitReached(LimitReached::Configuration)));
    let mut number = BOUND;
    eventually("a replica counts what another has accepted", async || {
        number += 1;
        matches!(a.accept(bounded(number)).await.unwrap(), Accepted::LimitReached(LimitReached::Configuration))
    })
    .await;
    assert!(number < 2 * BOUND, "its own count had not filled the bound");
}

#[tokio::test]
async fn concurrent_acceptances_share_commits() {
    let fixture = Fixture::new(Kind::Postgres).await;
    let store = fixture.open().await;
    let burst = join_all((1..=500).map(|number| store.accept(acceptance(operation(number, &lane(1)))))).await;
    assert!(burst.iter().all(|it| matches!(it, Ok(Accepted::New))));
    let mut connection = fixture.connection().await;
    let transactions = sqlx::query_scalar("SELECT count(DISTINCT xmin::TEXT) FROM operations");
    let transactions: i64 = transactions.fetch_one(&mut connection).await.unwrap();
    assert!((2..=10).contains(&transactions), "500 acceptances took {transactions} commits");
    connection.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trail_of_replicas_that_come_and_go_verifies_at_every_moment() {
    let fixture = Fixture::new(Kind::Postgres).await;
    let busy = |from: u128| {
        let fixture = &fixture;
        async move {
            for run in 0..3 {
                let store = fixture.open().await;
                let burst = (0..100).map(|number| acceptance(operation(from + 100 * run + number, &lane(1))));
                for accepted in join_all(burst.map(|it| store.accept(it))).await {
                    accepted.unwrap();
                }
                store.close().await;
            }
        }
    };
    let looking = async {
        let mut whole = 0;
        while whole < 909 {
            let mut opened = Trail::open(&fixture.settings()).await.unwrap();
            let (mut verifier, mut after) = (Verifier::default(), None);
            loop {
                // Small pages, so that others write between them.
                let Ok(page) = opened.page(after, 7).await else { break };
                page.records
                    .iter()
                    .for_each(|record| verifier.feed(record).unwrap_or_else(|broken| panic!("{broken}")));
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            whole = verifier.finish().unwrap().records;
        }
        whole
    };
    let (.., whole) = tokio::join!(busy(1), busy(1_001), busy(2_001), looking);
    assert_eq!(whole, 909);
}

#[tokio::test]
async fn a_record_taken_from_a_replica_that_ended_is_found() {
    let (fixture, a, b) = replicas().await;
    accept(&*a, &lane(1), [1]).await;
    accept(&*b, &lane(1), [2]).await;
    accept(&*a, &lane(1), [3]).await;
    a.close().await;
    b.close().await;
    let c = fixture.open().await;
    assert_eq!(trail(&*c).await.len(), 6);
    let mut connection = fixture.connection().await;
    // The last record of b, whose chain no other record refers to.
    let cut = sqlx::query("DELETE FROM audit WHERE position = 4").execute(&mut connection).await.unwrap();
    assert_eq!(cut.rows_affected(), 1);
    connection.close().await.unwrap();
    let mut verifier = Verifier::default();
    let records = c.audit(None, 100).await.unwrap().records;
    let broken = records.iter().find_map(|record| verifier.feed(record).err()).unwrap();
    assert!(broken.to_string().contains("the other chains do not end where it says"), "{broken}");
}

#[tokio::test]
async fn a_closed_store_refuses_every_verb_and_finishes_what_was_begun() {
    let fixture = Fixture::new(Kind::Postgres).await;
    let store = fixture.open().await;
    let burst = join_all((1..=50).map(|number| store.accept(acceptance(operation(number, &lane(1))))));
    let (accepted, ()) = tokio::join!(burst, store.close());
    assert!(accepted.iter().all(|it| matches!(it, Ok(Accepted::New))));
    assert!(matches!(store.probe().await, Err(Error::Unavailable(_))));
    assert!(matches!(store.operation(id(1)).await, Err(Error::Unavailable(_))));
    assert_eq!(all(&*fixture.open().await).await.len(), 50);
}
