//! The `until` of operations: which are due, and that each is settled once.

use futures_util::future::join_all;
use postern::{
    domain::{
        Change, DesiredAssignment, Difference, Operation, Reversal, State, Target,
        operation::{Submission, SuccessEvidence, Until, UntilState},
        reversal::Cause,
    },
    store::{Acceptance, Accepted, DueQuery, Purge, Settlement, Store, UntilSettlement},
};
use uuid::Uuid;

use crate::fixture::{
    Fixture, Kind, acceptance, all, at, cancellation, claim, digest, each, id, ids, lane, operation, records_of,
    settlement, succeeded, trail, turn, used,
};

/// The operation of this number, with an `until`.
fn ending(number: u128, place: u8, until: i64) -> Operation {
    let operation = operation(number, &lane(place));
    let until = Some(Until { at: at(until), policies: vec!["a".to_owned()] });
    Operation { submission: Submission { until, ..operation.submission }, ..operation }
}

/// The operation, which has added this group.
fn having_added(group: u128, original: &Operation) -> Operation {
    let target = Target::Group(Uuid::from_u128(group).to_string().parse().unwrap());
    let added = vec![DesiredAssignment { target, filter: None }];
    let difference = Difference { added, after: 1, ..Difference::default() };
    let end = SuccessEvidence { at: at(5), difference, before: digest("b"), after: digest("a"), write: None };
    let state = State::Queued.start(at(0)).unwrap().succeed(end).unwrap();
    Operation { state, ..original.clone() }
}

/// The operation of this number, which reverts another, and carries out its `until` if that is the cause.
fn undoing(number: u128, original: &Operation, cause: Cause) -> Acceptance {
    let reversal = Reversal::of(original, cause).or_else(|| Reversal::of(&having_added(1, original), cause));
    let change = Change::Revert(reversal.unwrap());
    let undoing = operation(number, &original.submission.configuration);
    let undoing = Operation { submission: Submission { change, ..undoing.submission }, ..undoing };
    let ends = (cause == Cause::Until).then_some(original.id);
    Acceptance { carries_out_until_of: ends, ..acceptance(undoing) }
}

fn due(by: i64) -> DueQuery {
    DueQuery { by: at(by), after: None, limit: 100 }
}

async fn due_ids(store: &dyn Store, due: DueQuery) -> Vec<postern::domain::OperationId> {
    ids(&store.due_untils(due).await.unwrap())
}

fn until_settlement(number: u128, state: UntilState) -> UntilSettlement {
    let entry = cancellation(number, 7).entry;
    UntilSettlement { operation: id(number), state, entry: (state == UntilState::CalledOff).then_some(entry) }
}

async fn until_of(store: &dyn Store, number: u128) -> Option<UntilState> {
    store.follow_ups(id(number)).await.unwrap().until
}

#[tokio::test]
async fn ends_are_due_in_their_order_and_page_by_page() {
    each(async |fixture| {
        let store = fixture.open().await;
        for (number, until) in [(1, 30), (2, 10), (3, 20), (4, 20), (5, 99)] {
            store.accept(acceptance(ending(number, 1, until))).await.unwrap();
        }
        store.accept(acceptance(operation(6, &lane(1)))).await.unwrap();
        assert!(store.due_untils(due(9)).await.unwrap().is_empty());
        assert_eq!(due_ids(&*store, due(10)).await, [id(2)]);
        assert_eq!(due_ids(&*store, due(30)).await, [2, 3, 4, 1].map(id));
        assert_eq!(due_ids(&*store, DueQuery { limit: 2, ..due(30) }).await, [2, 3].map(id));
        assert_eq!(due_ids(&*store, DueQuery { after: Some((at(20), id(3))), ..due(30) }).await, [4, 1].map(id));
        assert_eq!(store.due_untils(due(10)).await.unwrap()[0], ending(2, 1, 10));
        assert_eq!((until_of(&*store, 1).await, until_of(&*store, 6).await), (Some(UntilState::Ahead), None));
        let store = fixture.reopen(store).await;
        assert_eq!(due_ids(&*store, due(30)).await, [2, 3, 4, 1].map(id));
    })
    .await;
}

#[tokio::test]
async fn an_end_is_settled_once_with_the_acceptance_that_carries_it_out() {
    each(async |fixture| {
        let store = fixture.open().await;
        let original = ending(1, 1, 10);
        store.accept(acceptance(original.clone())).await.unwrap();
        assert!(matches!(store.accept(undoing(2, &original, Cause::Until)).await.unwrap(), Accepted::New));
        let before = trail(&*store).await;
        assert!(matches!(
            store.accept(undoing(3, &original, Cause::Until)).await.unwrap(),
            Accepted::EndAlreadySettled
        ));
        assert!(!store.settle_without_reversal(until_settlement(1, UntilState::CalledOff)).await.unwrap());
        assert_eq!(trail(&*store).await, before, "what comes too late leaves no record");
        assert!(store.operation(id(3)).await.unwrap().is_none());
        assert!(store.due_untils(due(99)).await.unwrap().is_empty());
        // A caller may still revert it.
        assert!(matches!(store.accept(undoing(4, &original, Cause::Asked)).await.unwrap(), Accepted::New));
        let store = fixture.reopen(store).await;
        let sequel = store.follow_ups(id(1)).await.unwrap();
        assert_eq!((sequel.until, ids(&sequel.reversals)), (Some(UntilState::Reverted(id(2))), vec![id(4), id(2)]));
    })
    .await;
}

#[tokio::test]
async fn what_has_been_reverted_since_is_found_unless_that_was_reverted_itself() {
    each(async |fixture| {
        let store = fixture.open().await;
        let operations: Vec<_> = (1..=4).map(|number| ending(number, 1, 9_999)).collect();
        for operation in &operations {
            store.accept(acceptance(operation.clone())).await.unwrap();
        }
        let elsewhere = ending(5, 2, 9_999);
        store.accept(acceptance(elsewhere.clone())).await.unwrap();
        // The second is the last to take effect, as if it had waited for approval.
        let held = turn(&*store, claim(&lane(1), "a", 0)).await;
        let mut first = settlement(&held.operations, 5);
        first.ended[1] = succeeded(&held.operations[1], 6);
        store.settle(held.lease, first).await.unwrap();
        let reverted = async |number: usize| ids(&store.reverted_since(&operations[number - 1]).await.unwrap());
        assert!(reverted(4).await.is_empty());
        for (number, original) in [(6, &operations[0]), (7, &operations[2]), (8, &elsewhere), (9, &operations[3])] {
            store.accept(undoing(number, original, Cause::Asked)).await.unwrap();
        }
        assert_eq!(reverted(4).await, [id(3), id(1)], "newest first");
        assert_eq!(reverted(3).await, [id(1)], "only what took effect before it");
        assert_eq!(reverted(2).await, [id(4), id(3), id(1)], "in the order of their effects");
        assert!(reverted(1).await.is_empty());
        let redoing = store.operation(id(7)).await.unwrap().unwrap();
        store.accept(undoing(10, &redoing, Cause::Asked)).await.unwrap();
        assert_eq!(reverted(4).await, [id(1)], "what was reverted has been done again");
        for (number, undone, expected) in [(12, 10, vec![id(3), id(1)]), (13, 12, vec![id(1)])] {
            let undone = store.operation(id(undone)).await.unwrap().unwrap();
            store.accept(undoing(number, &undone, Cause::Asked)).await.unwrap();
            assert_eq!(reverted(4).await, expected, "undone again, and done again");
        }
        store.cancel(cancellation(6, 9)).await.unwrap();
        assert!(reverted(4).await.is_empty(), "a reversal that was cancelled has undone nothing");
        // What was reverted before it does not count.
        let held = turn(&*store, claim(&lane(1), "a", 10)).await;
        store.settle(held.lease, settlement(&held.operations, 15)).await.unwrap();
        let last = ending(11, 1, 9_999);
        store.accept(acceptance(last.clone())).await.unwrap();
        let held = turn(&*store, claim(&lane(1), "a", 20)).await;
        store.settle(held.lease, settlement(&held.operations, 25)).await.unwrap();
        assert!(store.reverted_since(&last).await.unwrap().is_empty());
    })
    .await;
}

/// Accepts two operations on a lane, each of which adds a group.
async fn two_done(store: &dyn Store, number: u128, groups: [u128; 2], place: u8) -> [Operation; 2] {
    for number in [number, number + 1] {
        store.accept(acceptance(ending(number, place, 9_999))).await.unwrap();
    }
    let held = turn(store, claim(&lane(place), "a", 0)).await;
    let done = [0, 1].map(|place| having_added(groups[place], &held.operations[place]));
    let ended = done.iter().map(|operation| (operation.id, operation.state.clone())).collect();
    store.settle(held.lease, Settlement { ended, ..settlement(&held.operations, 5) }).await.unwrap();
    done
}

#[tokio::test]
async fn a_reversal_made_before_something_else_was_reverted_is_not_accepted() {
    each(async |fixture| {
        let store = fixture.open().await;
        let [first, second] = two_done(&*store, 1, [1, 1], 1).await;
        let knowing = |number, since: &[u128]| Acceptance {
            reverted_since: Some(since.iter().map(|number| id(*number)).collect()),
            key: Some(used("k", "asked", 1)),
            ..undoing(number, &second, Cause::Asked)
        };
        let other = Acceptance { reverted_since: Some(Vec::new()), ..undoing(3, &first, Cause::Asked) };
        assert!(matches!(store.accept(other).await.unwrap(), Accepted::New));
        let before = trail(&*store).await;
        assert!(matches!(store.accept(knowing(4, &[])).await.unwrap(), Accepted::Outdated));
        assert_eq!(trail(&*store).await, before);
        assert!(store.operation(id(4)).await.unwrap().is_none());
        assert!(matches!(store.accept(knowing(5, &[1])).await.unwrap(), Accepted::New), "and the key is free");
        // Whatever has been reverted since, what a key stands for is found.
        assert!(matches!(store.accept(knowing(6, &[])).await.unwrap(), Accepted::Replayed(known) if known.id == id(5)));
    })
    .await;
}

#[tokio::test]
async fn a_reversal_does_not_depend_on_one_of_other_targets() {
    each(async |fixture| {
        let store = fixture.open().await;
        let [first, second] = two_done(&*store, 1, [1, 2], 1).await;
        let made = |number, original| Acceptance {
            reverted_since: Some(Vec::new()),
            ..undoing(number, original, Cause::Asked)
        };
        let (one, two) = tokio::join!(store.accept(made(3, &first)), store.accept(made(4, &second)));
        assert!(matches!((one.unwrap(), two.unwrap()), (Accepted::New, Accepted::New)));
        assert_eq!(ids(&store.reverted_since(&second).await.unwrap()), [id(1)]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_reversals_accepted_at_once_each_knows_those_before_it() {
    for kind in [Kind::Sqlite, Kind::Postgres, Kind::Model] {
        let fixture = Fixture::new(kind).await;
        let one = fixture.open().await;
        // SQLite serves one process.
        let two = if kind == Kind::Sqlite { std::sync::Arc::clone(&one) } else { fixture.open().await };
        for place in 1..=20_u8 {
            let number = u128::from(place) * 10;
            let [first, second] = two_done(&*one, number, [1, 1], place).await;
            let made = |number, original| Acceptance {
                reverted_since: Some(Vec::new()),
                ..undoing(number, original, Cause::Asked)
            };
            let (of_first, of_second) =
                tokio::join!(one.accept(made(number + 2, &first)), two.accept(made(number + 3, &second)));
            assert!(matches!(of_first.unwrap(), Accepted::New), "nothing was done before it");
            let of_second = of_second.unwrap();
            if !matches!(of_second, Accepted::Outdated) {
                assert!(matches!(of_second, Accepted::New), "{of_second:?}");
                let newest = ids(&all(&*one).await)[0];
                assert_eq!(newest, id(number + 2), "{kind:?}: the other came first");
            }
        }
    }
}

#[tokio::test]
async fn an_end_that_is_called_off_is_neither_due_nor_carried_out() {
    each(async |fixture| {
        let store = fixture.open().await;
        let original = ending(1, 1, 10);
        store.accept(acceptance(original.clone())).await.unwrap();
        store.accept(acceptance(operation(2, &lane(1)))).await.unwrap();
        assert!(store.settle_without_reversal(until_settlement(1, UntilState::CalledOff)).await.unwrap());
        assert!(!store.settle_without_reversal(until_settlement(1, UntilState::CalledOff)).await.unwrap());
        for without in [2, 3] {
            assert!(!store.settle_without_reversal(until_settlement(without, UntilState::Moot)).await.unwrap());
        }
        assert_eq!(records_of(&*store, "cancelled").await.len(), 1);
        assert!(store.due_untils(due(99)).await.unwrap().is_empty());
        assert!(matches!(
            store.accept(undoing(4, &original, Cause::Until)).await.unwrap(),
            Accepted::EndAlreadySettled
        ));
        assert_eq!(until_of(&*store, 1).await, Some(UntilState::CalledOff));
        assert_eq!(store.operation(id(1)).await.unwrap(), Some(original), "what was asked stays as it was asked");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_all_who_carry_an_end_out_or_call_it_off_at_once_one_does() {
    for kind in [Kind::Sqlite, Kind::Postgres, Kind::Model] {
        let fixture = Fixture::new(kind).await;
        let one = fixture.open().await;
        // SQLite serves one process.
        let two = if kind == Kind::Sqlite { std::sync::Arc::clone(&one) } else { fixture.open().await };
        for number in 1..=20 {
            one.accept(acceptance(ending(number, 1, 10))).await.unwrap();
        }
        let (one, two) = (&*one, &*two);
        let contest = (1..=20_u128).map(|number| async move {
            let original = ending(number, 1, 10);
            let ends = |number| undoing(number, &original, Cause::Until);
            let (a, b, c) = tokio::join!(
                one.accept(ends(1_000 + number)),
                two.accept(ends(2_000 + number)),
                two.settle_without_reversal(until_settlement(number, UntilState::CalledOff)),
            );
            let accepted = [a.unwrap(), b.unwrap()].iter().filter(|it| matches!(it, Accepted::New)).count();
            assert_eq!(accepted + usize::from(c.unwrap()), 1, "{kind:?} {number}");
        });
        join_all(contest).await;
        let stored = all(one).await.len() - 20;
        assert_eq!(stored + records_of(one, "cancelled").await.len(), 20);
    }
}

#[tokio::test]
async fn an_operation_is_kept_while_its_end_is_ahead() {
    each(async |fixture| {
        let store = fixture.open().await;
        let original = ending(1, 1, 10);
        store.accept(acceptance(original.clone())).await.unwrap();
        let held = turn(&*store, claim(&lane(1), "a", 0)).await;
        let ended: Settlement = settlement(&held.operations, 5);
        store.settle(held.lease, ended).await.unwrap();
        let old = Purge { ended_before: at(1_000_000), keys_expired_by: at(0), limit: 100 };
        assert_eq!(store.purge(old).await.unwrap(), 0);
        assert!(store.settle_without_reversal(until_settlement(1, UntilState::Moot)).await.unwrap());
        assert_eq!(store.purge(old).await.unwrap(), 1);
        assert!(store.follow_ups(id(1)).await.unwrap().until.is_none());
        assert!(matches!(
            store.accept(undoing(2, &original, Cause::Until)).await.unwrap(),
            Accepted::EndAlreadySettled
        ));
    })
    .await;
}

/// Whether an `until` is moot depends on the operation that undid the change, on whether that was reverted, and so on, so all of
/// these are kept while the `until` is ahead.
#[tokio::test]
async fn what_undid_an_operation_whose_end_is_ahead_is_not_removed() {
    each(async |fixture| {
        let store = fixture.open().await;
        store.accept(acceptance(ending(1, 1, 9_999))).await.unwrap();
        for number in 2..=8 {
            let undone = store.operation(id(number - 1)).await.unwrap().unwrap();
            store.accept(undoing(number, &undone, Cause::Asked)).await.unwrap();
        }
        let held = turn(&*store, claim(&lane(1), "a", 0)).await;
        store.settle(held.lease, settlement(&held.operations, 5)).await.unwrap();
        let old = Purge { ended_before: at(1_000), keys_expired_by: at(1_000), limit: 100 };
        assert_eq!(store.purge(old).await.unwrap(), 0);
        for number in 1..=7 {
            assert_eq!(ids(&store.follow_ups(id(number)).await.unwrap().reversals), [id(number + 1)]);
        }
        assert!(store.settle_without_reversal(until_settlement(1, UntilState::Moot)).await.unwrap());
        assert_eq!(store.purge(old).await.unwrap(), 8);
    })
    .await;
}

#[tokio::test]
async fn an_operation_is_kept_until_its_pending_reversal_has_ended() {
    each(async |fixture| {
        let store = fixture.open().await;
        let original = ending(1, 1, 9_999);
        store.accept(acceptance(original.clone())).await.unwrap();
        let held = turn(&*store, claim(&lane(1), "a", 0)).await;
        store.settle(held.lease, settlement(&held.operations, 5)).await.unwrap();
        let reversal = Acceptance { carries_out_until_of: Some(id(1)), ..undoing(2, &original, Cause::Until) };
        assert!(matches!(store.accept(reversal).await.unwrap(), Accepted::New));
        // Whoever wants to stop the reversal may have to be somebody who could have approved the original.
        let old = Purge { ended_before: at(1_000), keys_expired_by: at(1_000), limit: 100 };
        assert_eq!(store.purge(old).await.unwrap(), 0);
        let held = turn(&*store, claim(&lane(1), "a", 10)).await;
        store.settle(held.lease, settlement(&held.operations, 15)).await.unwrap();
        assert_eq!(store.purge(old).await.unwrap(), 2);
    })
    .await;
}
