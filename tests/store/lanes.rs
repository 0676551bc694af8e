//! Claiming lanes, parking them, and listing the open ones.

use postern::{
    clock,
    domain::State,
    store::{Claim, Parking, ReplacedSet, Settlement, Turn, UnsettledWrites},
};

use crate::fixture::{
    accept, announced, at, claim, digest, each, id, ids, is_about, lane, minutes, operation, parking, records_of,
    settle, settlement, state, turn,
};

#[tokio::test]
async fn a_claim_marks_operations_running_and_gives_them_in_the_order_of_their_acceptance() {
    each(async |fixture| {
        let store = fixture.open().await;
        accept(&*store, &lane(1), [3, 1, 2]).await;
        accept(&*store, &lane(2), [4]).await;
        let turn = turn(&*store, claim(&lane(1), "a", 1)).await;
        assert_eq!(ids(&turn.operations), [id(3), id(1), id(2)]);
        assert_eq!(turn.operations[0].submission, operation(3, &lane(1)).submission);
        assert_eq!(turn.lease.configuration(), &lane(1));
        // The lane's idea of its lease is never longer than what the store grants.
        let left = turn.lease.left(fixture.clock);
        assert!(is_about(left, minutes(10)) && left <= minutes(10), "{left:?}");
        assert_eq!((turn.announced, turn.left, turn.attempts), (UnsettledWrites::default(), None, 0));
        for operation in turn.operations {
            assert_eq!(operation.state, State::Running { started_at: at(1) });
            assert_eq!(store.operation(operation.id).await.unwrap(), Some(operation));
        }
        assert_eq!(state(&*store, 4).await, "queued");
        let started = records_of(&*store, "started").await;
        assert_eq!(started.len(), 1);
        assert_eq!(started[0]["operations"], serde_json::json!([id(3), id(1), id(2)]));
    })
    .await;
}

#[tokio::test]
async fn a_claim_takes_up_no_more_operations_than_it_asks_for() {
    each(async |fixture| {
        let store = fixture.open().await;
        accept(&*store, &lane(1), 1..=5).await;
        for expected in [vec![id(1), id(2)], vec![id(3), id(4)], vec![id(5)]] {
            let turn = turn(&*store, Claim { batch_max: 2, ..claim(&lane(1), "a", 1) }).await;
            assert_eq!(ids(&turn.operations), expected);
            let running = [1, 2, 3, 4, 5].map(id);
            for other in running.iter().filter(|other| !expected.contains(other)) {
                assert_ne!(store.operation(*other).await.unwrap().unwrap().state.name(), "running");
            }
            settle(&*store, turn.lease, &turn.operations).await;
        }
        assert!(store.claim(claim(&lane(1), "a", 1)).await.unwrap().turn().is_none());
    })
    .await;
}

#[tokio::test]
async fn a_lane_that_is_leased_is_given_to_nobody_else_and_not_to_its_owner_twice() {
    each(async |fixture| {
        let store = fixture.open().await;
        accept(&*store, &lane(1), [1]).await;
        let held = turn(&*store, claim(&lane(1), "a", 0)).await;
        accept(&*store, &lane(1), [2]).await;
        fixture.pass(9).await;
        for owner in ["a", "b"] {
            assert!(store.claim(claim(&lane(1), owner, 9)).await.unwrap().turn().is_none());
        }
        assert_eq!(state(&*store, 2).await, "queued");
        assert_eq!(records_of(&*store, "started").await.len(), 1);
        drop(held);
    })
    .await;
}

#[tokio::test]
async fn a_claim_after_the_leases_end_gets_a_higher_fencing_number_and_the_same_operations() {
    each(async |fixture| {
        let store = fixture.open().await;
        accept(&*store, &lane(1), [1]).await;
        drop(turn(&*store, claim(&lane(1), "a", 0)).await);
        accept(&*store, &lane(1), [2]).await;
        fixture.pass(10).await;
        let second = turn(&*store, claim(&lane(1), "b", 10)).await;
        assert_eq!(ids(&second.operations), [id(1), id(2)]);
        // Claimed again, it keeps its first start.
        assert_eq!(second.operations[0].state, State::Running { started_at: at(0) });
        assert_eq!(second.operations[1].state, State::Running { started_at: at(10) });
        let started = records_of(&*store, "started").await;
        let fencing: Vec<_> = started.iter().map(|record| record["lease"].as_i64().unwrap()).collect();
        assert!(fencing[1] > fencing[0], "{fencing:?}");
    })
    .await;
}

#[tokio::test]
async fn a_lane_without_pending_operations_cannot_be_claimed() {
    each(async |fixture| {
        let store = fixture.open().await;
        assert!(store.claim(claim(&lane(1), "a", 0)).await.unwrap().turn().is_none());
        accept(&*store, &lane(1), [1]).await;
        let turn = turn(&*store, claim(&lane(1), "a", 0)).await;
        settle(&*store, turn.lease, &turn.operations).await;
        assert!(store.claim(claim(&lane(1), "a", 1)).await.unwrap().turn().is_none());
        assert_eq!(records_of(&*store, "started").await.len(), 1);
    })
    .await;
}

#[tokio::test]
async fn open_lanes_are_those_with_pending_operations_and_nobody_on_them() {
    each(async |fixture| {
        let store = fixture.open().await;
        assert!(store.open_lanes(10).await.unwrap().is_empty());
        accept(&*store, &lane(1), [1, 2]).await;
        accept(&*store, &lane(2), [3]).await;
        accept(&*store, &lane(3), [4]).await;
        let mut open = store.open_lanes(10).await.unwrap();
        open.sort();
        assert_eq!(open, [lane(1), lane(2), lane(3)]);
        assert_eq!(store.open_lanes(2).await.unwrap().len(), 2);
        let settled = turn(&*store, claim(&lane(1), "a", 0)).await;
        settle(&*store, settled.lease, &settled.operations).await;
        drop(turn(&*store, claim(&lane(2), "a", 0)).await);
        fixture.pass(9).await;
        assert_eq!(store.open_lanes(10).await.unwrap(), [lane(3)]);
        // Its owner is gone; the lease has expired.
        fixture.pass(1).await;
        let mut open = store.open_lanes(10).await.unwrap();
        open.sort();
        assert_eq!(open, [lane(2), lane(3)]);
    })
    .await;
}

#[tokio::test]
async fn a_parked_lane_is_neither_open_nor_claimed_before_its_time_and_says_why() {
    each(async |fixture| {
        let store = fixture.open().await;
        accept(&*store, &lane(1), [1]).await;
        assert_eq!(store.parked(&lane(1)).await.unwrap(), None);
        let held = turn(&*store, claim(&lane(1), "a", 0)).await;
        store.park(held.lease, parking(60)).await.unwrap();
        let parked = store.parked(&lane(1)).await.unwrap().unwrap();
        assert_eq!((parked.because.as_str(), parked.attempts), ("Graph is throttling", 1));
        assert_eq!(store.backlog().await.unwrap().parked, 1);
        assert!(is_about(clock::until(fixture.clock.now(), parked.until), minutes(60)), "{parked:?}");
        fixture.pass(59).await;
        assert!(store.open_lanes(10).await.unwrap().is_empty());
        assert!(store.claim(claim(&lane(1), "b", 59)).await.unwrap().turn().is_none());
        assert_eq!(state(&*store, 1).await, "running");

        fixture.pass(1).await;
        assert_eq!(store.open_lanes(10).await.unwrap(), [lane(1)]);
        let again = turn(&*store, claim(&lane(1), "b", 60)).await;
        assert_eq!((again.attempts, store.parked(&lane(1)).await.unwrap()), (1, None));
        assert_eq!(store.backlog().await.unwrap().parked, 1, "it is tried, and has not gone on yet");
        store.park(again.lease, parking(30)).await.unwrap();
        assert_eq!(store.parked(&lane(1)).await.unwrap().unwrap().attempts, 2);
    })
    .await;
}

#[tokio::test]
async fn a_settled_turn_forgets_attempts_and_the_announced_write_and_leaves_its_digest() {
    each(async |fixture| {
        let store = fixture.open().await;
        accept(&*store, &lane(1), [1]).await;
        let first = turn(&*store, claim(&lane(1), "a", 0)).await;
        store.park(first.lease, parking(20)).await.unwrap();
        fixture.pass(20).await;
        let mut second = turn(&*store, claim(&lane(1), "a", 20)).await;
        store.begin_write(&mut second.lease, &announced(&second.operations), minutes(20)).await.unwrap();
        settle(&*store, second.lease, &second.operations).await;
        accept(&*store, &lane(1), [2]).await;
        assert_eq!(store.backlog().await.unwrap().parked, 0);
        let third = turn(&*store, claim(&lane(1), "a", 21)).await;
        assert_eq!(
            (third.attempts, third.announced, third.left),
            (0, UnsettledWrites::default(), Some(digest("left")))
        );
        // A turn that does not know what it leaves keeps what was known before.
        let replaced = |minute| vec![ReplacedSet { set: digest("before"), ttl: minutes(minute) }];
        let unknown = Settlement { left: None, replaced_sets: replaced(20), ..settlement(&third.operations, 22) };
        store.settle(third.lease, unknown).await.unwrap();
        accept(&*store, &lane(1), [3]).await;
        let fourth = turn(&*store, claim(&lane(1), "a", 23)).await;
        assert_eq!(fourth.left, Some(digest("left")));
        // Parking replaces what was stored, and its time passes by the store's own clock.
        let lasts = |turn: &Turn, most: u64| {
            turn.replaced_sets.iter().any(|it| it.ttl > minutes(most - 1) && it.ttl <= minutes(most))
        };
        assert!(lasts(&fourth, 20), "{:?}", fourth.replaced_sets);
        store.park(fourth.lease, Parking { replaced_sets: replaced(10), ..parking(5) }).await.unwrap();
        fixture.pass(5).await;
        let fifth = turn(&*store, claim(&lane(1), "a", 28)).await;
        assert!(lasts(&fifth, 5), "{:?}", fifth.replaced_sets);
        store.park(fifth.lease, Parking { replaced_sets: replaced(5), ..parking(5) }).await.unwrap();
        fixture.pass(6).await;
        assert_eq!(turn(&*store, claim(&lane(1), "a", 34)).await.replaced_sets, []);
    })
    .await;
}

#[tokio::test]
async fn parking_ends_what_has_waited_long_enough_and_keeps_the_rest_and_the_announced_write() {
    each(async |fixture| {
        let store = fixture.open().await;
        accept(&*store, &lane(1), [1, 2]).await;
        let mut held = turn(&*store, claim(&lane(1), "a", 0)).await;
        let told = announced(&held.operations);
        store.begin_write(&mut held.lease, &told, minutes(60)).await.unwrap();
        let ending = settlement(&held.operations[..1], 4);
        let mut noticed = store.notices().subscribe_end(id(1));
        let (doubtful, left) = (told.clone(), Some(digest("found")));
        let ended = (ending.ended, ending.entries);
        let lasting = Parking { announced: doubtful, left, ended: ended.0, entries: ended.1, ..parking(30) };
        store.park(held.lease, lasting).await.unwrap();
        noticed.notified().await;
        assert_eq!((state(&*store, 1).await, state(&*store, 2).await), ("succeeded", "running"));
        assert_eq!(records_of(&*store, "settled").await.len(), 1);
        fixture.pass(30).await;
        let next = turn(&*store, claim(&lane(1), "b", 31)).await;
        assert_eq!((ids(&next.operations), next.announced, next.attempts), (vec![id(2)], told, 1));
        assert_eq!(next.left, Some(digest("found")));
        // If an end cannot be written, the parking is rolled back too.
        let ended = settlement(&held.operations[..1], 32).ended;
        store.park(next.lease, Parking { ended, ..parking(30) }).await.unwrap_err();
        assert_eq!(store.parked(&lane(1)).await.unwrap(), None);
        // A write that certainly had no effect is no longer announced; what was known of the set remains.
        fixture.pass(10).await;
        let third = turn(&*store, claim(&lane(1), "c", 41)).await;
        assert!(third.announced.intent.is_some());
        store.park(third.lease, parking(30)).await.unwrap();
        fixture.pass(30).await;
        let fourth = turn(&*store, claim(&lane(1), "c", 71)).await;
        assert_eq!((fourth.announced, fourth.left), (UnsettledWrites::default(), Some(digest("found"))));
    })
    .await;
}
