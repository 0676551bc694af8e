//! Ending operations.

use futures_util::future::join_all;
use postern::store::{Error, Intent, Part, PolicySetsSeen, Settlement, UnsettledWrites};

use crate::fixture::{
    accept, acceptance, all, announced, cancellation, claim, each, id, ids, is_about, lane, minutes, operation,
    records_of, settlement, state, succeeded, trail, turn,
};

#[tokio::test]
async fn a_settlement_ends_operations_with_their_evidence_and_frees_the_lane() {
    each(async |fixture| {
        let store = fixture.open().await;
        accept(&*store, &lane(1), [1, 2]).await;
        let held = turn(&*store, claim(&lane(1), "a", 0)).await;
        accept(&*store, &lane(1), [3]).await;
        let kept = store.settle(held.lease, settlement(&held.operations, 4)).await.unwrap();
        assert!(kept.is_none());
        for operation in &held.operations {
            let ended = store.operation(operation.id).await.unwrap().unwrap();
            assert_eq!(ended.state, succeeded(operation, 4).1);
            assert_eq!(ended.submission, operation.submission);
        }
        assert_eq!(records_of(&*store, "settled").await.len(), 2);
        // Long before the lease would have expired.
        assert_eq!(store.open_lanes(10).await.unwrap(), [lane(1)]);
        assert_eq!(ids(&turn(&*store, claim(&lane(1), "b", 4)).await.operations), [id(3)]);
    })
    .await;
}

#[tokio::test]
async fn a_settlement_may_keep_the_lane_for_more_of_the_turn() {
    each(async |fixture| {
        let store = fixture.open().await;
        accept(&*store, &lane(1), [1, 2]).await;
        let mut held = turn(&*store, claim(&lane(1), "a", 0)).await;
        store.begin_write(&mut held.lease, &announced(&held.operations), minutes(20)).await.unwrap();
        let (first, second) = held.operations.split_at(1);
        let keeping = Settlement { keep: Some(minutes(50)), ..settlement(first, 4) };
        let kept = store.settle(held.lease, keeping).await.unwrap().unwrap();
        assert!(is_about(kept.left(fixture.clock), minutes(50)));
        assert_eq!((state(&*store, 1).await, state(&*store, 2).await), ("succeeded", "running"));
        fixture.pass(49).await;
        assert!(store.claim(claim(&lane(1), "b", 49)).await.unwrap().turn().is_none());
        assert!(store.open_lanes(10).await.unwrap().is_empty());
        assert!(store.settle(kept, settlement(second, 5)).await.unwrap().is_none());
        assert_eq!(state(&*store, 2).await, "succeeded");
    })
    .await;
}

#[tokio::test]
async fn policy_set_assignments_and_the_record_of_their_loss_are_stored_together() {
    each(async |fixture| {
        let store = fixture.open().await;
        let lines = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
        let note = async |number, assignments: &[&str], loss| {
            let configuration = lane(number);
            store
                .note_policy_sets(PolicySetsSeen { configuration, assignments: lines(assignments), loss })
                .await
                .unwrap();
        };
        let noted = async |number| store.policy_sets_seen(&lane(number)).await.unwrap();
        assert!(noted(1).await.is_empty());
        note(1, &["a", "b"], None).await;
        note(2, &["c"], None).await;
        let cancelled = cancellation(1, 1).entry;
        note(1, &["b"], Some(cancelled)).await;
        assert_eq!((noted(1).await, noted(2).await), (lines(&["b"]), lines(&["c"])));
        note(1, &[], None).await;
        assert_eq!((noted(1).await, noted(2).await), (lines(&[]), lines(&["c"])));
        assert_eq!(records_of(&*store, "cancelled").await.len(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_write_stays_announced_as_it_is_known_until_the_last_part_of_its_settlement() {
    each(async |fixture| {
        let store = fixture.open().await;
        accept(&*store, &lane(1), [1, 2, 3]).await;
        let mut held = turn(&*store, claim(&lane(1), "a", 0)).await;
        let told = announced(&held.operations);
        store.begin_write(&mut held.lease, &told, minutes(20)).await.unwrap();
        let (first, second) = held.operations.split_at(1);
        let (second, third) = second.split_at(1);
        let intent = told.intent.unwrap();
        let known = UnsettledWrites { intent: Some(Intent { write: Some(intent.effect()), ..intent }), ..told };
        let part = Settlement { keep: Some(minutes(50)), part: Part::First(known.clone()), ..settlement(first, 4) };
        let kept = store.settle(held.lease, part).await.unwrap().unwrap();
        let further = Settlement { keep: Some(minutes(50)), part: Part::Further, ..settlement(second, 5) };
        drop(store.settle(kept, further).await.unwrap().unwrap());
        // Its owner dies before the last part.
        fixture.pass(51).await;
        let next = turn(&*store, claim(&lane(1), "b", 51)).await;
        assert_eq!((ids(&next.operations), next.announced), (ids(third), known));
        assert!(store.settle(next.lease, settlement(third, 52)).await.unwrap().is_none());
        accept(&*store, &lane(1), [4]).await;
        assert_eq!(turn(&*store, claim(&lane(1), "c", 53)).await.announced, UnsettledWrites::default());
    })
    .await;
}

#[tokio::test]
async fn settling_what_is_not_running_undoes_the_whole_settlement() {
    each(async |fixture| {
        let store = fixture.open().await;
        accept(&*store, &lane(1), [1, 2]).await;
        let held = turn(&*store, claim(&lane(1), "a", 0)).await;
        accept(&*store, &lane(1), [3]).await;
        let mut wrong = settlement(&held.operations, 4);
        wrong.ended.push((id(3), wrong.ended[0].1.clone()));
        let before = trail(&*store).await;
        let refused = store.settle(held.lease, wrong).await;
        assert!(matches!(refused, Err(Error::Unreadable(_))), "{refused:?}");
        assert_eq!((state(&*store, 1).await, state(&*store, 3).await), ("running", "queued"));
        assert_eq!(trail(&*store).await, before);
        // The lane is as before: leased, and free when the lease expires.
        fixture.pass(9).await;
        assert!(store.claim(claim(&lane(1), "b", 9)).await.unwrap().turn().is_none());
        fixture.pass(1).await;
        let next = turn(&*store, claim(&lane(1), "b", 10)).await;
        assert_eq!((ids(&next.operations), next.left), (vec![id(1), id(2), id(3)], None));
    })
    .await;
}

#[tokio::test]
async fn a_bad_settlement_harms_no_verb_that_shares_its_commit() {
    each(async |fixture| {
        let store = fixture.open().await;
        accept(&*store, &lane(1), [1]).await;
        accept(&*store, &lane(2), [2]).await;
        accept(&*store, &lane(3), [3]).await;
        let bad = turn(&*store, claim(&lane(1), "a", 0)).await;
        let good = turn(&*store, claim(&lane(2), "a", 0)).await;
        let mut wrong = settlement(&bad.operations, 4);
        wrong.ended.push((id(999), wrong.ended[0].1.clone()));
        let burst = (10..20).map(|number| store.accept(acceptance(operation(number, &lane(4)))));
        let (accepted, refused, settled, claimed) = tokio::join!(
            join_all(burst),
            store.settle(bad.lease, wrong),
            store.settle(good.lease, settlement(&good.operations, 4)),
            store.claim(claim(&lane(3), "a", 4)),
        );
        assert!(refused.is_err());
        assert!(accepted.iter().all(Result::is_ok) && settled.unwrap().is_none() && claimed.unwrap().turn().is_some());
        assert_eq!(all(&*store).await.len(), 13);
        assert_eq!(
            [state(&*store, 1).await, state(&*store, 2).await, state(&*store, 3).await],
            ["running", "succeeded", "running"]
        );
        // Once each, though the writer tried twice.
        assert_eq!(records_of(&*store, "accepted").await.len(), 13);
        assert_eq!(records_of(&*store, "settled").await.len(), 1);
        assert_eq!(records_of(&*store, "started").await.len(), 3);
    })
    .await;
}

#[tokio::test]
async fn a_lease_ends_no_operation_of_another_lane() {
    each(async |fixture| {
        let store = fixture.open().await;
        accept(&*store, &lane(1), [1]).await;
        accept(&*store, &lane(2), [2]).await;
        let own = turn(&*store, claim(&lane(1), "a", 0)).await;
        let others = turn(&*store, claim(&lane(2), "b", 0)).await;
        assert!(store.settle(own.lease, settlement(&others.operations, 4)).await.is_err());
        assert_eq!(state(&*store, 2).await, "running");
        store.settle(others.lease, settlement(&others.operations, 4)).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn more_operations_than_one_statement_takes_are_claimed_and_settled_at_once() {
    each(async |fixture| {
        let store = fixture.open().await;
        join_all((0..1_201).map(|number| store.accept(acceptance(operation(number, &lane(1)))))).await;
        let held = turn(&*store, postern::store::Claim { batch_max: 10_000, ..claim(&lane(1), "a", 0) }).await;
        assert_eq!(held.operations.len(), 1_201);
        store.settle(held.lease, settlement(&held.operations, 4)).await.unwrap();
        assert!(all(&*store).await.iter().all(|operation| operation.state.has_ended()));
        assert_eq!(records_of(&*store, "settled").await.len(), 1_201);
    })
    .await;
}
