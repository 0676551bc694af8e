//! Callbacks: due when their operation ends, claimed by one process, recorded only by the latest claimant.

use std::{collections::BTreeSet, time::Duration};

use postern::{
    domain::{Callback, CallbackState, Operation, callback::Progress, operation::Submission},
    store::{
        Parking, Purge, Store,
        callbacks::{Attempt, AttemptResult, Claim, Destinations, Next, Resending, Status, Undelivered},
    },
};

use crate::fixture::{
    Fixture, Kind, accept, acceptance, at, cancellation, claim, each, id, is_about, lane, minutes, operation, parking,
    records_of, settle, succeeded, turn,
};

/// The operation of this number, with a callback to this destination.
fn told(number: u128, destination: &str) -> Operation {
    let operation = operation(number, &lane(1));
    let callback = Some(Callback {
        url: format!("https://{destination}.example/{number}"),
        destination: destination.to_owned(),
        context: Some("{\"a\":1}".to_owned()),
    });
    Operation { submission: Submission { callback, ..operation.submission }, ..operation }
}

/// Accepts operations of these numbers and ends them.
async fn ended(store: &dyn Store, destination: &str, numbers: impl IntoIterator<Item = u128>) {
    for number in numbers {
        store.accept(acceptance(told(number, destination))).await.unwrap();
    }
    let turn = turn(store, claim(&lane(1), "a", 1)).await;
    settle(store, turn.lease, &turn.operations).await;
}

fn of(destination: &str, limit: usize) -> Claim {
    Claim { destinations: Destinations::Named(destination.to_owned()), ttl: minutes(5), limit }
}

async fn claimed(store: &dyn Store, claim: Claim) -> Vec<u128> {
    let attempts = store.claim_callbacks(claim).await.unwrap();
    let mut numbers: Vec<_> = attempts.iter().map(number_of).collect();
    numbers.sort_unstable();
    numbers
}

fn number_of(attempt: &Attempt) -> u128 {
    (1..100).find(|number| id(*number) == attempt.operation.id).unwrap()
}

async fn one(store: &dyn Store, destination: &str) -> Attempt {
    store.claim_callbacks(of(destination, 1)).await.unwrap().pop().unwrap()
}

fn noted(attempt: &Attempt, next: Next) -> AttemptResult {
    let failures = attempt.progress.failures + u32::from(next != Next::Delivered);
    let delivered_at = (next == Next::Delivered).then(|| at(9));
    let progress = Progress { failures, last_status: Some(500), delivered_at, ..attempt.progress.clone() };
    let entry = (!matches!(next, Next::Again(_))).then(|| cancellation(1, 9).entry);
    AttemptResult { operation: attempt.operation.id, number: attempt.number, progress, next, entry }
}

async fn standing(store: &dyn Store, number: u128) -> Status {
    store.follow_ups(id(number)).await.unwrap().callback.unwrap()
}

fn resending(number: u128) -> Resending {
    Resending { operation: id(number), at: at(11), entry: cancellation(number, 11).entry }
}

#[tokio::test]
async fn a_callback_is_due_as_soon_as_its_operation_has_ended_and_not_before() {
    each(async |fixture| {
        let store = fixture.open().await;
        for number in 1..=4 {
            store.accept(acceptance(told(number, "desk"))).await.unwrap();
        }
        accept(&*store, &lane(1), [5]).await;
        assert!(claimed(&*store, of("desk", 9)).await.is_empty());
        // By each verb that ends operations.
        store.cancel(cancellation(4, 1)).await.unwrap();
        let first = turn(&*store, claim(&lane(1), "a", 1)).await;
        assert_eq!(claimed(&*store, of("desk", 9)).await, [4]);
        let parked = vec![succeeded(&first.operations[0], 3)];
        store.park(first.lease, Parking { ended: parked, ..parking(1) }).await.unwrap();
        assert_eq!(claimed(&*store, of("desk", 9)).await, [1]);
        fixture.pass(2).await;
        let rest = turn(&*store, claim(&lane(1), "a", 4)).await;
        settle(&*store, rest.lease, &rest.operations).await;
        let attempts = store.claim_callbacks(of("desk", 9)).await.unwrap();
        assert_eq!(
            attempts.iter().map(|it| (number_of(it), it.number)).collect::<BTreeSet<_>>(),
            [(2, 1), (3, 1)].into()
        );
        let stored = store.operation(id(2)).await.unwrap();
        assert_eq!(attempts.iter().find(|it| number_of(it) == 2).map(|it| it.operation.clone()), stored);
        assert!(store.follow_ups(id(5)).await.unwrap().callback.is_none());
    })
    .await;
}

#[tokio::test]
async fn what_is_claimed_is_nobody_elses_until_its_time_is_over() {
    each(async |fixture| {
        let store = fixture.open().await;
        ended(&*store, "desk", 1..=3).await;
        assert_eq!(claimed(&*store, of("desk", 2)).await, [1, 2], "the oldest first");
        assert_eq!(claimed(&*store, of("desk", 9)).await, [3]);
        assert!(claimed(&*store, of("desk", 9)).await.is_empty());
        fixture.pass(6).await;
        let again = store.claim_callbacks(of("desk", 9)).await.unwrap();
        assert!(again.len() == 3 && again.iter().all(|it| it.number == 2), "{again:?}");
        // The first claimant is too late.
        let late = Attempt { number: 1, ..again[0].clone() };
        assert!(!store.record_attempt(noted(&late, Next::Delivered)).await.unwrap());
        assert!(store.record_attempt(noted(&again[0], Next::Delivered)).await.unwrap());
        assert!(!store.record_attempt(noted(&again[0], Next::Parked)).await.unwrap(), "it is noted once");
        assert_eq!(records_of(&*store, "cancelled").await.len(), 1, "what is not noted leaves no record");
    })
    .await;
}

#[tokio::test]
async fn what_came_of_an_attempt_is_known_and_decides_when_the_next_is_due() {
    each(async |fixture| {
        let store = fixture.open().await;
        ended(&*store, "desk", [1]).await;
        let fresh = standing(&*store, 1).await;
        assert_eq!((fresh.state, fresh.attempts, fresh.next_attempt_at), (CallbackState::Pending, 0, None));
        let attempt = one(&*store, "desk").await;
        assert!(store.record_attempt(noted(&attempt, Next::Again(minutes(10)))).await.unwrap());
        assert!(claimed(&*store, of("desk", 9)).await.is_empty());
        let waiting = standing(&*store, 1).await;
        assert_eq!((waiting.attempts, waiting.progress.failures, waiting.progress.last_status), (1, 1, Some(500)));
        let pause = postern::clock::until(fixture.clock.now(), waiting.next_attempt_at.unwrap());
        assert!(is_about(pause, minutes(10)), "{pause:?}");
        let store = fixture.reopen(store).await;
        assert!(claimed(&*store, of("desk", 9)).await.is_empty(), "a pause outlives a restart");
        fixture.pass(11).await;
        let attempt = one(&*store, "desk").await;
        assert_eq!((attempt.number, attempt.progress.failures), (2, 1));
        assert_eq!(standing(&*store, 1).await.next_attempt_at, None, "one is under way");
        assert!(store.record_attempt(noted(&attempt, Next::Delivered)).await.unwrap());
        fixture.pass(60).await;
        assert!(claimed(&*store, of("desk", 9)).await.is_empty());
        let done = standing(&*store, 1).await;
        assert_eq!((done.state, done.attempts, done.progress.delivered_at), (CallbackState::Delivered, 2, Some(at(9))));
    })
    .await;
}

#[tokio::test]
async fn what_is_delivered_or_parked_is_sent_again_on_demand_and_nothing_else() {
    each(async |fixture| {
        let store = fixture.open().await;
        ended(&*store, "desk", [1]).await;
        accept(&*store, &lane(1), [2]).await;
        for number in [1, 2, 3] {
            assert!(!store.resend_callback(resending(number)).await.unwrap(), "{number}");
        }
        for next in [Next::Parked, Next::Delivered] {
            let attempt = one(&*store, "desk").await;
            assert!(store.record_attempt(noted(&attempt, next)).await.unwrap());
            assert!(store.resend_callback(resending(1)).await.unwrap());
            assert!(!store.resend_callback(resending(1)).await.unwrap());
        }
        let again = one(&*store, "desk").await;
        assert_eq!((again.number, again.progress), (3, Progress { resent_at: Some(at(11)), ..Progress::default() }));
        assert_eq!(records_of(&*store, "cancelled").await.len(), 4);
    })
    .await;
}

#[tokio::test]
async fn the_backlog_counts_undelivered_callbacks_and_dates_the_oldest_pending() {
    each(async |fixture| {
        let store = fixture.open().await;
        let undelivered = async || store.backlog().await.unwrap().callbacks;
        accept(&*store, &lane(1), [9]).await;
        for number in 1..=4 {
            store.accept(acceptance(told(number, "desk"))).await.unwrap();
        }
        assert_eq!(undelivered().await, Undelivered::default(), "nothing has ended yet");
        let turn = turn(&*store, claim(&lane(1), "a", 1)).await;
        // The fourth is still running.
        let ends = [(0, 3), (1, 7), (2, 5), (3, 6)];
        let ended = ends.map(|(place, minute)| succeeded(&turn.operations[place], minute)).into();
        store.park(turn.lease, Parking { ended, ..parking(1) }).await.unwrap();
        let ended_at = async |number| store.operation(id(number)).await.unwrap().unwrap().state.ended_at();
        let expected = Undelivered { pending: 3, oldest: ended_at(2).await, parked: 0 };
        assert_eq!(undelivered().await, expected, "the one that ended first has no callback");

        let attempts = store.claim_callbacks(of("desk", 3)).await.unwrap();
        let attempt = |number| attempts.iter().find(|it| number_of(it) == number).unwrap();
        assert_eq!(undelivered().await, expected, "an attempt under way is no delivery");
        assert!(store.record_attempt(noted(attempt(1), Next::Again(minutes(9)))).await.unwrap());
        assert!(store.record_attempt(noted(attempt(2), Next::Parked)).await.unwrap());
        assert_eq!(undelivered().await, Undelivered { pending: 2, oldest: ended_at(3).await, parked: 1 });
        assert!(store.record_attempt(noted(attempt(3), Next::Delivered)).await.unwrap());
        assert_eq!(undelivered().await, Undelivered { pending: 1, oldest: ended_at(1).await, parked: 1 });
        assert!(store.resend_callback(resending(2)).await.unwrap());
        assert_eq!(undelivered().await, Undelivered { pending: 2, oldest: ended_at(2).await, parked: 0 });
    })
    .await;
}

#[tokio::test]
async fn destinations_are_asked_for_one_by_one_or_all_but_some() {
    each(async |fixture| {
        let store = fixture.open().await;
        ended(&*store, "desk", [1]).await;
        ended(&*store, "hr", [2]).await;
        ended(&*store, "gone", [3]).await;
        let except = |names: &[&str]| Claim {
            destinations: Destinations::Except(names.iter().map(|name| (*name).to_owned()).collect()),
            ..of("", 9)
        };
        assert_eq!(claimed(&*store, except(&["desk", "hr"])).await, [3]);
        assert_eq!(claimed(&*store, of("hr", 9)).await, [2]);
        assert_eq!(claimed(&*store, except(&[])).await, [1]);
    })
    .await;
}

#[tokio::test]
async fn an_operation_is_kept_while_its_callback_is_pending() {
    each(async |fixture| {
        let store = fixture.open().await;
        ended(&*store, "desk", [1]).await;
        let old = Purge { ended_before: at(1_000_000), keys_expired_by: at(0), limit: 100 };
        assert_eq!(store.purge(old).await.unwrap(), 0);
        let attempt = one(&*store, "desk").await;
        assert!(store.record_attempt(noted(&attempt, Next::Again(Duration::ZERO))).await.unwrap());
        assert_eq!(store.purge(old).await.unwrap(), 0);
        let attempt = one(&*store, "desk").await;
        assert!(store.record_attempt(noted(&attempt, Next::Parked)).await.unwrap());
        assert_eq!(store.purge(old).await.unwrap(), 1);
        assert!(!store.resend_callback(resending(1)).await.unwrap());
    })
    .await;
}

#[tokio::test]
async fn a_restart_gives_back_what_the_run_before_had_claimed() {
    // With several processes nobody knows which of them is dead, so time decides.
    let fixture = Fixture::new(Kind::Sqlite).await;
    let store = fixture.open().await;
    ended(&*store, "desk", [1]).await;
    assert_eq!(one(&*store, "desk").await.number, 1);
    let store = fixture.reopen(store).await;
    assert_eq!(one(&*store, "desk").await.number, 2);
}

#[tokio::test]
async fn ended_operations_wake_callback_subscribers() {
    each(async |fixture| {
        let store = fixture.open().await;
        let mut news = store.notices().subscribe_callbacks();
        assert!(!news.has_changed().unwrap());
        ended(&*store, "desk", [1]).await;
        news.changed().await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_all_who_claim_at_once_each_callback_has_one() {
    for kind in [Kind::Sqlite, Kind::Postgres, Kind::Model] {
        let fixture = Fixture::new(kind).await;
        let stores = [fixture.open().await];
        // SQLite serves one process.
        let second = if kind == Kind::Sqlite { std::sync::Arc::clone(&stores[0]) } else { fixture.open().await };
        ended(&*stores[0], "desk", 1..=40).await;
        let rounds = (0..20).flat_map(|_| [&stores[0], &second]).map(|store| store.claim_callbacks(of("desk", 3)));
        let mut seen = BTreeSet::new();
        for attempts in futures_util::future::join_all(rounds).await {
            for attempt in attempts.unwrap() {
                assert!(seen.insert(number_of(&attempt)) && attempt.number == 1, "{kind:?} {attempt:?}");
            }
        }
        assert_eq!(seen.len(), 40, "{kind:?}");
    }
}
