//! Cancelling operations, and races with lanes that claim them.

use std::{collections::BTreeSet, time::Duration};

use futures_util::future::join_all;
use postern::{
    domain::{OperationId, State},
    store::{Cancelled, Claim, Store, Turn},
};

use crate::fixture::{
    accept, all, at, cancellation, claim, each, id, ids, lane, operation, records_of, settle, state, trail, turn,
};

/// Far longer than any notice takes.
const LONG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_queued_operation_is_cancelled_with_a_record_and_never_taken_up() {
    each(async |fixture| {
        let store = fixture.open().await;
        accept(&*store, &lane(1), [1, 2]).await;
        accept(&*store, &lane(2), [3]).await;
        let Cancelled::Done(cancelled) = store.cancel(cancellation(1, 7)).await.unwrap() else { panic!() };
        assert_eq!(cancelled.submission, operation(1, &lane(1)).submission);
        assert_eq!(cancelled.state, State::Cancelled { ended_at: at(7) });
        assert_eq!(store.operation(id(1)).await.unwrap(), Some(*cancelled));
        let records = records_of(&*store, "cancelled").await;
        assert_eq!((records.len(), &records[0]["operation"]), (1, &id(1).to_string().into()));
        assert_eq!(records[0]["caller"], "servicenow");
        assert_eq!(ids(&turn(&*store, claim(&lane(1), "a", 8)).await.operations), [id(2)]);
        // Nothing else is pending there.
        store.cancel(cancellation(3, 8)).await.unwrap();
        assert!(store.open_lanes(10).await.unwrap().is_empty());
        assert!(store.claim(claim(&lane(2), "a", 9)).await.unwrap().turn().is_none());
        let store = fixture.reopen(store).await;
        assert_eq!((state(&*store, 1).await, state(&*store, 3).await), ("cancelled", "cancelled"));
    })
    .await;
}

#[tokio::test]
async fn what_has_begun_or_ended_is_told_as_it_stands_and_nothing_is_stored() {
    each(async |fixture| {
        let store = fixture.open().await;
        accept(&*store, &lane(1), [1]).await;
        accept(&*store, &lane(2), [2]).await;
        accept(&*store, &lane(3), [3]).await;
        let held = turn(&*store, claim(&lane(1), "a", 0)).await;
        let done = turn(&*store, claim(&lane(2), "a", 0)).await;
        settle(&*store, done.lease, &done.operations).await;
        store.cancel(cancellation(3, 1)).await.unwrap();
        let before = trail(&*store).await;
        for number in [1, 2, 3] {
            let as_it_stands = store.operation(id(number)).await.unwrap().unwrap();
            let late = store.cancel(cancellation(number, 9)).await.unwrap();
            assert!(matches!(late, Cancelled::TooLate(found) if *found == as_it_stands), "{number}");
            assert_eq!(store.operation(id(number)).await.unwrap(), Some(as_it_stands));
        }
        assert!(matches!(store.cancel(cancellation(4, 9)).await.unwrap(), Cancelled::Unknown));
        assert_eq!(trail(&*store).await, before);
        // Its lane still holds it.
        settle(&*store, held.lease, &held.operations).await;
        assert_eq!(state(&*store, 1).await, "succeeded");
    })
    .await;
}

#[tokio::test]
async fn whoever_waits_for_an_operation_is_told_that_it_is_cancelled() {
    each(async |fixture| {
        let store = fixture.open().await;
        accept(&*store, &lane(1), [1, 2]).await;
        let (mut end, still) = (store.notices().subscribe_end(id(1)), store.notices().subscribe_end(id(2)));
        store.cancel(cancellation(1, 1)).await.unwrap();
        tokio::time::timeout(LONG, end.notified()).await.unwrap();
        drop(turn(&*store, claim(&lane(1), "a", 1)).await);
        store.cancel(cancellation(2, 1)).await.unwrap();
        // Only the registration that was never notified is left.
        drop(end);
        assert_eq!(store.notices().waiter_count(), 1);
        drop(still);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_is_cancelled_or_in_a_turn_and_never_both() {
    each(async |fixture| {
        let store = fixture.open().await;
        for round in 0..10 {
            race([&*store, &*store], round).await;
        }
        check(&*store).await;
    })
    .await;
}

/// Operations on four lanes, all cancelled through one store while both claim them, a few at a time.
pub(crate) async fn race(stores: [&dyn Store; 2], round: u128) {
    let numbers = || (1..=80_u128).map(move |number| 1_000 * round + number);
    let lanes: Vec<_> = (0..4).map(lane).collect();
    let lane_of = |number: u128| &lanes[usize::try_from(number % 4).unwrap()];
    join_all(numbers().map(|number| accept(stores[0], lane_of(number), [number]))).await;
    // In a different order from that of acceptance and of claims.
    let cancels = numbers().rev().map(|number| async move {
        yield_for(number % 7).await;
        (id(number), stores[0].cancel(cancellation(number, 1)).await.unwrap())
    });
    let turns = (0..8_u8).map(|place| async move {
        yield_for(u128::from(place)).await;
        let wanted = Claim { batch_max: 5, ..claim(&lane(place % 4), &format!("owner {place}"), 1) };
        stores[usize::from(place % 2)].claim(wanted).await.unwrap().turn()
    });
    let (cancels, turns) = tokio::join!(join_all(cancels), join_all(turns));
    let mut taken: Vec<OperationId> = Vec::new();
    for Turn { lease, operations, .. } in turns.into_iter().flatten() {
        assert!(operations.iter().all(|it| matches!(it.state, State::Running { .. })), "{operations:?}");
        taken.extend(ids(&operations));
        settle(stores[0], lease, &operations).await;
    }
    let is_done = |cancelled: &Cancelled| matches!(cancelled, Cancelled::Done(_));
    let cancelled: BTreeSet<_> = cancels.iter().filter(|(_, it)| is_done(it)).map(|(id, _)| *id).collect();
    let both: Vec<_> = taken.iter().filter(|id| cancelled.contains(id)).collect();
    assert!(both.is_empty(), "cancelled and in a turn: {both:?}");
    assert_eq!(taken.len() + cancelled.len(), 80, "each is one or the other");
    for (id, outcome) in &cancels {
        assert!(!matches!(outcome, Cancelled::Unknown), "{id}");
    }
}

/// What must hold after any number of races.
pub(crate) async fn check(store: &dyn Store) {
    let ended = all(store).await;
    let of = |name: &str| ended.iter().filter(|it| it.state.name() == name).count();
    assert_eq!(of("cancelled") + of("succeeded"), ended.len());
    assert!(of("succeeded") > 0, "no lane was ever in time, so there was no race");
    assert!(of("cancelled") > 0, "no cancellation was ever in time, so there was no race");
    assert_eq!(records_of(store, "cancelled").await.len(), of("cancelled"));
    assert_eq!(records_of(store, "settled").await.len(), of("succeeded"));
}

async fn yield_for(turns: u128) {
    for _ in 0..turns {
        tokio::task::yield_now().await;
    }
}
