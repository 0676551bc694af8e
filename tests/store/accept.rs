//! Accepting changes, and what idempotency keys do.

use futures_util::future::join_all;
use postern::store::{Accepted, IdempotencyKey};

use crate::fixture::{acceptance, all, at, each, id, ids, keyed, lane, operation, records_of, trail, used};

#[tokio::test]
async fn an_accepted_operation_reads_back_as_it_was_in_every_field() {
    each(async |fixture| {
        let store = fixture.open().await;
        let full = operation(1, &lane(1));
        let mut bare = operation(2, &lane(1));
        bare.submission.ticket = None;
        bare.submission.requested_for = None;
        bare.submission.comment = None;
        bare.submission.traceparent = None;
        bare.submission.names.clear();
        for operation in [full, bare] {
            assert!(matches!(store.accept(acceptance(operation.clone())).await.unwrap(), Accepted::New));
            assert_eq!(store.operation(operation.id).await.unwrap(), Some(operation));
        }
        assert_eq!(store.operation(id(3)).await.unwrap(), None);
        let records = records_of(&*store, "accepted").await;
        assert_eq!(records.len(), 2);
        assert_eq!(records[0]["operation"], id(1).to_string());
    })
    .await;
}

#[tokio::test]
async fn a_key_used_again_for_the_same_gives_the_first_operation_as_it_stands() {
    each(async |fixture| {
        let store = fixture.open().await;
        let first = operation(1, &lane(1));
        store.accept(keyed(first.clone(), "k", "body", 0)).await.unwrap();
        let again = store.accept(keyed(operation(2, &lane(1)), "k", "body", 5)).await.unwrap();
        assert!(matches!(again, Accepted::Replayed(operation) if *operation == first));
        let recalled = store.find_by_key("servicenow", &used("k", "body", 6)).await.unwrap();
        assert!(matches!(recalled, Some(Accepted::Replayed(operation)) if *operation == first));
        assert_eq!((all(&*store).await.len(), records_of(&*store, "accepted").await.len()), (1, 1));
    })
    .await;
}

#[tokio::test]
async fn a_key_used_again_for_something_else_is_refused_and_stores_nothing() {
    each(async |fixture| {
        let store = fixture.open().await;
        store.accept(keyed(operation(1, &lane(1)), "k", "body", 0)).await.unwrap();
        let other = store.accept(keyed(operation(2, &lane(1)), "k", "another", 5)).await.unwrap();
        assert!(matches!(other, Accepted::KeyReused(first) if first == id(1)));
        let recalled = store.find_by_key("servicenow", &used("k", "another", 5)).await.unwrap();
        assert!(matches!(recalled, Some(Accepted::KeyReused(first)) if first == id(1)));
        assert_eq!((all(&*store).await.len(), records_of(&*store, "accepted").await.len()), (1, 1));
    })
    .await;
}

#[tokio::test]
async fn the_same_key_of_another_caller_is_another_key() {
    each(async |fixture| {
        let store = fixture.open().await;
        store.accept(keyed(operation(1, &lane(1)), "k", "body", 0)).await.unwrap();
        assert!(store.find_by_key("portal", &used("k", "body", 0)).await.unwrap().is_none());
        let mut of_portal = operation(2, &lane(1));
        of_portal.submission.caller = "portal".to_owned();
        let accepted = store.accept(keyed(of_portal, "k", "another", 0)).await.unwrap();
        assert!(matches!(accepted, Accepted::New));
    })
    .await;
}

#[tokio::test]
async fn a_key_is_free_again_when_its_time_is_over() {
    each(async |fixture| {
        let store = fixture.open().await;
        let short = IdempotencyKey { expires_at: at(60), ..used("k", "body", 0) };
        let first = postern::store::Acceptance { key: Some(short), ..acceptance(operation(1, &lane(1))) };
        store.accept(first).await.unwrap();
        assert!(store.find_by_key("servicenow", &used("k", "body", 59)).await.unwrap().is_some());
        assert!(store.find_by_key("servicenow", &used("k", "body", 60)).await.unwrap().is_none());
        let next = store.accept(keyed(operation(2, &lane(1)), "k", "another", 60)).await.unwrap();
        assert!(matches!(next, Accepted::New));
        let now = store.find_by_key("servicenow", &used("k", "another", 61)).await.unwrap();
        assert!(matches!(now, Some(Accepted::Replayed(operation)) if operation.id == id(2)));
    })
    .await;
}

#[tokio::test]
async fn of_a_burst_under_one_key_one_is_new_and_the_others_get_it() {
    each(async |fixture| {
        let store = fixture.open().await;
        let burst = (1..=20).map(|number| {
            let asked = if number == 20 { "another" } else { "body" };
            store.accept(keyed(operation(number, &lane(1)), "k", asked, 0))
        });
        let outcomes: Vec<_> = join_all(burst).await.into_iter().map(Result::unwrap).collect();
        assert_eq!(outcomes.iter().filter(|it| matches!(it, Accepted::New)).count(), 1);
        let stored = all(&*store).await;
        assert_eq!(stored.len(), 1);
        let got = |it: &&Accepted| matches!(it, Accepted::Replayed(operation) if **operation == stored[0]);
        assert_eq!(outcomes.iter().filter(got).count(), 18);
        assert!(matches!(outcomes[19], Accepted::KeyReused(first) if first == stored[0].id));
        assert_eq!(records_of(&*store, "accepted").await.len(), 1);
    })
    .await;
}

#[tokio::test]
async fn in_a_burst_of_old_and_new_keys_each_gets_what_its_own_key_stands_for() {
    each(async |fixture| {
        let store = fixture.open().await;
        for number in (1..=20).step_by(2) {
            store.accept(keyed(operation(number, &lane(1)), &number.to_string(), "body", 0)).await.unwrap();
        }
        let burst = (1..=20).map(|number| {
            let asked = if number == 7 { "another" } else { "body" };
            store.accept(keyed(operation(100 + number, &lane(1)), &number.to_string(), asked, 1))
        });
        for (number, accepted) in (1..=20).zip(join_all(burst).await) {
            match accepted.unwrap() {
                Accepted::New => assert_eq!(number % 2, 0),
                Accepted::Replayed(operation) => assert_eq!((number % 2, operation.id), (1, id(number))),
                Accepted::KeyReused(first) => assert_eq!((number, first), (7, id(7))),
                other @ (Accepted::LimitReached(_) | Accepted::EndAlreadySettled | Accepted::Outdated) => {
                    panic!("{other:?}")
                }
            }
        }
        assert_eq!((all(&*store).await.len(), records_of(&*store, "accepted").await.len()), (20, 20));
    })
    .await;
}

#[tokio::test]
async fn five_hundred_at_once_are_all_durable_and_recorded_in_their_order() {
    each(async |fixture| {
        let store = fixture.open().await;
        let burst =
            (1..=500).map(|number| store.accept(keyed(operation(number, &lane(1)), &number.to_string(), "", 0)));
        for accepted in join_all(burst).await {
            assert!(matches!(accepted.unwrap(), Accepted::New));
        }
        let store = fixture.reopen(store).await;
        let mut stored = ids(&all(&*store).await);
        stored.reverse();
        assert_eq!(stored.len(), 500);
        let recorded = records_of(&*store, "accepted").await;
        let recorded: Vec<_> = recorded.iter().map(|record| record["operation"].as_str().unwrap()).collect();
        assert_eq!(recorded, stored.iter().map(ToString::to_string).collect::<Vec<_>>());
        for number in 1..=500_u128 {
            let known = store.find_by_key("servicenow", &used(&number.to_string(), "", 1)).await.unwrap();
            assert!(matches!(known, Some(Accepted::Replayed(operation)) if operation.id == id(number)));
        }
    })
    .await;
}

#[tokio::test]
async fn an_operation_that_is_there_already_is_refused_and_harms_none_beside_it() {
    each(async |fixture| {
        let store = fixture.open().await;
        store.accept(acceptance(operation(1, &lane(1)))).await.unwrap();
        let before = trail(&*store).await.len();
        let (good, twice, other) = tokio::join!(
            store.accept(acceptance(operation(2, &lane(1)))),
            store.accept(acceptance(operation(1, &lane(2)))),
            store.accept(acceptance(operation(3, &lane(1)))),
        );
        assert!(matches!((good, other), (Ok(Accepted::New), Ok(Accepted::New))));
        assert!(twice.is_err());
        assert_eq!(ids(&all(&*store).await).len(), 3);
        assert_eq!(trail(&*store).await.len(), before + 2);
    })
    .await;
}
