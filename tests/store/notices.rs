//! Notices that the store's verbs send.

use std::{collections::BTreeSet, time::Duration};

use crate::fixture::{accept, claim, each, id, lane, settle, settlement, turn};

/// Far longer than any notice takes.
const LONG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn an_acceptance_gives_notice_of_work_on_its_lane() {
    each(async |fixture| {
        let store = fixture.open().await;
        accept(&*store, &lane(1), [1, 2]).await;
        accept(&*store, &lane(2), [3]).await;
        let noticed = tokio::time::timeout(LONG, store.notices().wait_for_work()).await.unwrap();
        assert_eq!(noticed, BTreeSet::from([lane(1), lane(2)]));
    })
    .await;
}

#[tokio::test]
async fn whoever_registered_before_the_end_is_told_of_it() {
    each(async |fixture| {
        let store = fixture.open().await;
        accept(&*store, &lane(1), [1, 2]).await;
        let mut ends = [
            store.notices().subscribe_end(id(1)),
            store.notices().subscribe_end(id(1)),
            store.notices().subscribe_end(id(2)),
        ];
        let held = turn(&*store, claim(&lane(1), "a", 0)).await;
        settle(&*store, held.lease, &held.operations).await;
        for end in &mut ends {
            tokio::time::timeout(LONG, end.notified()).await.unwrap();
        }
        assert_eq!(store.notices().waiter_count(), 0);
    })
    .await;
}

#[tokio::test]
async fn nobody_is_told_of_an_end_that_was_refused() {
    each(async |fixture| {
        let store = fixture.open().await;
        accept(&*store, &lane(1), [1]).await;
        let end = store.notices().subscribe_end(id(1));
        let lost = turn(&*store, claim(&lane(1), "a", 0)).await;
        fixture.pass(10).await;
        drop(turn(&*store, claim(&lane(1), "b", 10)).await);
        assert!(store.settle(lost.lease, settlement(&lost.operations, 11)).await.is_err());
        assert_eq!(store.notices().waiter_count(), 1);
        drop(end);
        assert_eq!(store.notices().waiter_count(), 0);
    })
    .await;
}
