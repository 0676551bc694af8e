//! Operations awaiting approval: they are in no turn, the first answer counts, and without one they expire.

use futures_util::future::join_all;
use postern::{
    domain::{FailureCode, Operation, State, approval::Decision},
    store::{Acceptance, Accepted, ApprovalOutcome, Cancelled, LimitReached, PendingLimits, Store},
};

use crate::fixture::{
    accept, acceptance, all, at, awaiting, cancellation, claim, each, id, ids, lane, records_of, reply, settle, state,
    trail, turn,
};

async fn ask(store: &dyn Store, place: u8, numbers: impl IntoIterator<Item = u128>) {
    for number in numbers {
        store.accept(acceptance(awaiting(number, &lane(place), 100))).await.unwrap();
    }
}

async fn done(store: &dyn Store, number: u128, word: Decision, now: i64) -> Operation {
    match store.answer_approval(reply(number, word, now)).await.unwrap() {
        ApprovalOutcome::Done(operation) => {
            assert_eq!(store.operation(id(number)).await.unwrap().as_ref(), Some(&*operation));
            *operation
        }
        other @ (ApprovalOutcome::TooLate(_) | ApprovalOutcome::Unknown) => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_awaits_approval_is_in_no_turn_until_it_is_approved() {
    each(async |fixture| {
        let store = fixture.open().await;
        ask(&*store, 1, [1]).await;
        assert!(store.open_lanes(10).await.unwrap().is_empty());
        assert!(store.claim(claim(&lane(1), "a", 0)).await.unwrap().turn().is_none());
        accept(&*store, &lane(1), [2]).await;
        let held = turn(&*store, claim(&lane(1), "a", 1)).await;
        assert_eq!(ids(&held.operations), [id(2)]);
        settle(&*store, held.lease, &held.operations).await;
        let store = fixture.reopen(store).await;
        assert_eq!(state(&*store, 1).await, "awaiting_approval");
        let approved = done(&*store, 1, Decision::Approved, 7).await;
        assert_eq!(approved.state, State::Queued);
        let answer = approved.submission.approval.unwrap().answer.unwrap();
        assert_eq!((answer.word, answer.at, answer.by.as_deref()), (Decision::Approved, at(7), Some("approvers")));
        assert_eq!(store.open_lanes(10).await.unwrap(), [lane(1)]);
        let held = turn(&*store, claim(&lane(1), "a", 8)).await;
        assert_eq!(ids(&held.operations), [id(1)]);
        settle(&*store, held.lease, &held.operations).await;
        let ended = store.operation(id(1)).await.unwrap().unwrap();
        assert_eq!(ended.submission.approval.unwrap().answer.unwrap().word, Decision::Approved);
        assert_eq!(records_of(&*store, "approved").await.len(), 1);
    })
    .await;
}

#[tokio::test]
async fn of_several_answers_the_first_counts_and_no_other_is_recorded() {
    each(async |fixture| {
        let store = fixture.open().await;
        ask(&*store, 1, 1..=20).await;
        for number in 1..=20_u128 {
            let replies = [Decision::Approved, Decision::Rejected, Decision::Approved]
                .map(|word| store.answer_approval(reply(number, word, 5)));
            let (answers, taken_back) = tokio::join!(join_all(replies), store.cancel(cancellation(number, 5)));
            let answered = answers.iter().filter(|it| matches!(it, Ok(ApprovalOutcome::Done(_)))).count();
            // An approved operation can still be cancelled.
            let approved =
                answers.iter().any(|it| matches!(it, Ok(ApprovalOutcome::Done(it)) if it.state == State::Queued));
            let taken_back = usize::from(matches!(taken_back, Ok(Cancelled::Done(_))));
            assert!(answered == 1 || (answered, taken_back) == (0, 1), "{answers:?}");
            assert!(approved || answered + taken_back == 1, "{answers:?}");
        }
        let ends = ["rejected", "cancelled"].map(|event| records_of(&*store, event));
        let ends: usize = join_all(ends).await.iter().map(Vec::len).sum();
        assert_eq!(all(&*store).await.iter().filter(|it| it.state.has_ended()).count(), ends);
    })
    .await;
}

#[tokio::test]
async fn what_is_rejected_or_unanswered_fails_and_whoever_waits_is_told() {
    each(async |fixture| {
        let store = fixture.open().await;
        ask(&*store, 1, [1, 2, 3]).await;
        let mut end = store.notices().subscribe_end(id(1));
        let rejected = done(&*store, 1, Decision::Rejected, 99).await;
        tokio::time::timeout(std::time::Duration::from_secs(20), end.notified()).await.unwrap();
        assert!(store.expired_approvals(at(99), 10).await.unwrap().is_empty());
        let late = store.expired_approvals(at(100), 10).await.unwrap();
        let mut late: Vec<_> = late.iter().map(|operation| operation.id).collect();
        late.sort();
        assert_eq!(late, [id(2), id(3)]);
        assert_eq!(store.expired_approvals(at(100), 1).await.unwrap().len(), 1);
        // An answer that comes too late does not count, whether or not the expiry was noticed.
        let before = trail(&*store).await;
        assert!(matches!(
            store.answer_approval(reply(2, Decision::Approved, 100)).await.unwrap(),
            ApprovalOutcome::TooLate(_)
        ));
        assert!(matches!(
            store.answer_approval(reply(2, Decision::Expired, 99)).await.unwrap(),
            ApprovalOutcome::TooLate(_)
        ));
        assert!(matches!(
            store.answer_approval(reply(9, Decision::Approved, 1)).await.unwrap(),
            ApprovalOutcome::Unknown
        ));
        assert_eq!(trail(&*store).await, before);
        let expired = done(&*store, 2, Decision::Expired, 100).await;
        assert!(matches!(
            store.answer_approval(reply(2, Decision::Expired, 100)).await.unwrap(),
            ApprovalOutcome::TooLate(_)
        ));
        for (ended, code) in [(rejected, FailureCode::ApprovalRejected), (expired, FailureCode::ApprovalExpired)] {
            let State::Failed { started_at: None, failure, .. } = ended.state else { panic!("{ended:?}") };
            assert_eq!(failure.code, code);
        }
        assert!(matches!(store.cancel(cancellation(3, 101)).await.unwrap(), Cancelled::Done(_)));
        assert!(store.expired_approvals(at(200), 10).await.unwrap().is_empty());
        assert!(store.claim(claim(&lane(1), "a", 200)).await.unwrap().turn().is_none());
        let events = ["rejected", "approval-expired", "cancelled"].map(|event| records_of(&*store, event));
        assert!(join_all(events).await.iter().all(|records| records.len() == 1));
    })
    .await;
}

#[tokio::test]
async fn what_awaits_approval_takes_up_room() {
    each(async |fixture| {
        let store = fixture.open().await;
        let limits = PendingLimits { per_configuration: 2, total: 3 };
        let accepted = async |operation| {
            let acceptance = Acceptance { limits, ..acceptance(operation) };
            store.accept(acceptance).await.unwrap()
        };
        assert!(matches!(accepted(awaiting(1, &lane(1), 9)).await, Accepted::New));
        assert!(matches!(accepted(crate::fixture::operation(2, &lane(1))).await, Accepted::New));
        for operation in [awaiting(3, &lane(1), 9), crate::fixture::operation(3, &lane(1))] {
            assert!(matches!(accepted(operation).await, Accepted::LimitReached(LimitReached::Configuration)));
        }
        assert!(matches!(accepted(awaiting(3, &lane(2), 9)).await, Accepted::New));
        assert!(matches!(accepted(awaiting(4, &lane(3), 9)).await, Accepted::LimitReached(LimitReached::Total)));
        done(&*store, 1, Decision::Rejected, 1).await;
        assert!(matches!(accepted(awaiting(4, &lane(1), 9)).await, Accepted::New));
    })
    .await;
}

#[tokio::test]
async fn what_awaits_approval_leaves_half_of_the_room_to_what_does_not() {
    each(async |fixture| {
        let store = fixture.open().await;
        let limits = PendingLimits { per_configuration: 4, total: 6 };
        let plain = crate::fixture::operation;
        for (operation, full) in [
            (awaiting(1, &lane(1), 9), None),
            (awaiting(2, &lane(1), 9), None),
            (awaiting(3, &lane(1), 9), Some(LimitReached::Configuration)),
            (plain(3, &lane(1)), None),
            (plain(4, &lane(1)), None),
            (plain(5, &lane(1)), Some(LimitReached::Configuration)),
            (awaiting(5, &lane(2), 9), None),
            (awaiting(6, &lane(3), 9), Some(LimitReached::Total)),
            (plain(6, &lane(3)), None),
        ] {
            let id = operation.id;
            let accepted = store.accept(Acceptance { limits, ..acceptance(operation) }).await.unwrap();
            match (accepted, full) {
                (Accepted::New, None) => {}
                (Accepted::LimitReached(found), Some(full)) if found == full => {}
                (found, _) => panic!("{id}: {found:?}"),
            }
        }
    })
    .await;
}
