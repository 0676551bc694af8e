//! What a lease permits, and that a lost one permits nothing.

use std::sync::Arc;

use postern::{
    domain::Operation,
    store::{Error, Lease, Parked, Store, UnsettledWrites},
};
use serde_json::Value;

use crate::fixture::{
    Fixture, accept, all, announced, claim, each, ids, is_about, lane, minutes, parking, settlement, trail, turn,
};

/// Everything that a verb could have changed.
async fn picture(store: &dyn Store) -> (Vec<Operation>, Vec<Value>, Option<Parked>) {
    (all(store).await, trail(store).await, store.parked(&lane(1)).await.unwrap())
}

/// A store, a lease that another owner has superseded, and that owner's lease.
async fn taken_over(fixture: &Fixture) -> (Arc<dyn Store>, Lease, Lease) {
    let store = fixture.open().await;
    accept(&*store, &lane(1), [1, 2]).await;
    let lost = turn(&*store, claim(&lane(1), "a", 0)).await.lease;
    fixture.pass(10).await;
    let held = turn(&*store, claim(&lane(1), "b", 10)).await.lease;
    (store, lost, held)
}

#[track_caller]
fn is_lost<T: std::fmt::Debug>(outcome: &Result<T, Error>) {
    assert!(matches!(outcome, Err(Error::LeaseLost(configuration)) if *configuration == lane(1)), "{outcome:?}");
}

#[tokio::test]
async fn whoever_lost_a_lane_cannot_announce_a_write() {
    each(async |fixture| {
        let (store, mut lost, held) = taken_over(&fixture).await;
        let before = picture(&*store).await;
        is_lost(&store.begin_write(&mut lost, &announced(&before.0), minutes(100)).await);
        assert!(lost.left(fixture.clock) <= minutes(10));
        assert_eq!(picture(&*store).await, before);
        drop(held);
        fixture.pass(10).await;
        // Neither the intent nor the lease's extension was stored.
        let next = turn(&*store, claim(&lane(1), "c", 20)).await;
        assert_eq!(next.announced, UnsettledWrites::default());
    })
    .await;
}

#[tokio::test]
async fn whoever_lost_a_lane_can_neither_settle_nor_park() {
    each(async |fixture| {
        let (store, lost, held) = taken_over(&fixture).await;
        let before = picture(&*store).await;
        is_lost(&store.settle(lost, settlement(&before.0, 12)).await);
        assert_eq!(picture(&*store).await, before);
        // The successor loses its lease in turn: only the holder of the lane can park it.
        fixture.pass(10).await;
        let newest = turn(&*store, claim(&lane(1), "a", 20)).await;
        let before = picture(&*store).await;
        is_lost(&store.park(held, parking(100)).await);
        assert_eq!(picture(&*store).await, before);
        store.settle(newest.lease, settlement(&newest.operations, 21)).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_lease_of_an_owner_that_took_the_lane_again_is_lost_too() {
    each(async |fixture| {
        let store = fixture.open().await;
        accept(&*store, &lane(1), [1]).await;
        let lost = turn(&*store, claim(&lane(1), "a", 0)).await;
        fixture.pass(10).await;
        let held = turn(&*store, claim(&lane(1), "a", 10)).await;
        is_lost(&store.settle(lost.lease, settlement(&lost.operations, 11)).await);
        store.settle(held.lease, settlement(&held.operations, 11)).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn an_expired_lease_stays_valid_until_another_owner_claims_the_lane() {
    each(async |fixture| {
        let store = fixture.open().await;
        accept(&*store, &lane(1), [1]).await;
        let late = turn(&*store, claim(&lane(1), "a", 0)).await;
        fixture.pass(1_000).await;
        // Nobody else held the lane since, so its knowledge is still valid.
        store.settle(late.lease, settlement(&late.operations, 1_000)).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn announcing_a_write_extends_the_lease() {
    each(async |fixture| {
        let store = fixture.open().await;
        accept(&*store, &lane(1), [1]).await;
        let mut held = turn(&*store, claim(&lane(1), "a", 0)).await;
        store.begin_write(&mut held.lease, &announced(&held.operations), minutes(100)).await.unwrap();
        assert!(is_about(held.lease.left(fixture.clock), minutes(100)));
        fixture.pass(99).await;
        assert!(store.claim(claim(&lane(1), "b", 99)).await.unwrap().turn().is_none());
        fixture.pass(1).await;
        let next = turn(&*store, claim(&lane(1), "b", 100)).await;
        assert_eq!(next.announced, announced(&held.operations));
        assert_eq!(ids(&next.operations), ids(&held.operations));
    })
    .await;
}

#[tokio::test]
async fn of_two_who_claim_at_once_one_gets_the_lane() {
    each(async |fixture| {
        let store = fixture.open().await;
        accept(&*store, &lane(1), [1]).await;
        let (a, b) = tokio::join!(store.claim(claim(&lane(1), "a", 0)), store.claim(claim(&lane(1), "b", 0)));
        assert_eq!([a.unwrap().turn(), b.unwrap().turn()].iter().flatten().count(), 1);
    })
    .await;
}
