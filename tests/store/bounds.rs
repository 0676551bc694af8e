//! Limits on pending operations.

use futures_util::future::join_all;
use postern::store::{Acceptance, Accepted, LimitReached, PendingLimits};

use crate::fixture::{
    acceptance, all, cancellation, claim, each, id, ids, keyed, lane, operation, records_of, settle, trail, turn, used,
};

const BOUNDS: PendingLimits = PendingLimits { per_configuration: 3, total: 5 };

fn bounded(acceptance: Acceptance) -> Acceptance {
    Acceptance { limits: BOUNDS, ..acceptance }
}

fn plain(number: u128, place: u8) -> Acceptance {
    bounded(acceptance(operation(number, &lane(place))))
}

#[tokio::test]
async fn no_more_than_the_bound_of_a_configuration_is_pending_until_something_ends() {
    each(async |fixture| {
        let store = fixture.open().await;
        for number in 1..=3 {
            assert!(matches!(store.accept(plain(number, 1)).await.unwrap(), Accepted::New));
        }
        let before = trail(&*store).await;
        assert!(matches!(
            store.accept(plain(4, 1)).await.unwrap(),
            Accepted::LimitReached(LimitReached::Configuration)
        ));
        assert_eq!((all(&*store).await.len(), trail(&*store).await), (3, before));
        assert!(matches!(store.accept(plain(5, 2)).await.unwrap(), Accepted::New));
        // A running operation is pending, too; one that was cancelled or has ended is not.
        let held = turn(&*store, postern::store::Claim { batch_max: 2, ..claim(&lane(1), "a", 0) }).await;
        assert!(matches!(
            store.accept(plain(4, 1)).await.unwrap(),
            Accepted::LimitReached(LimitReached::Configuration)
        ));
        store.cancel(cancellation(3, 1)).await.unwrap();
        assert!(matches!(store.accept(plain(4, 1)).await.unwrap(), Accepted::New));
        settle(&*store, held.lease, &held.operations).await;
        for number in [6, 7] {
            assert!(matches!(store.accept(plain(number, 1)).await.unwrap(), Accepted::New));
        }
        assert!(matches!(
            store.accept(plain(8, 1)).await.unwrap(),
            Accepted::LimitReached(LimitReached::Configuration)
        ));
    })
    .await;
}

#[tokio::test]
async fn no_more_than_the_bound_of_all_is_pending() {
    each(async |fixture| {
        let store = fixture.open().await;
        for number in 1..=5_u8 {
            assert!(matches!(store.accept(plain(u128::from(number), number)).await.unwrap(), Accepted::New));
        }
        for place in [1, 6] {
            assert!(matches!(
                store.accept(plain(9, place)).await.unwrap(),
                Accepted::LimitReached(LimitReached::Total)
            ));
        }
        store.cancel(cancellation(2, 1)).await.unwrap();
        assert!(matches!(store.accept(plain(9, 6)).await.unwrap(), Accepted::New));
    })
    .await;
}

#[tokio::test]
async fn acceptances_that_share_a_commit_count_each_other() {
    each(async |fixture| {
        let store = fixture.open().await;
        let burst = join_all((0..40_u8).map(|number| store.accept(plain(u128::from(number), number % 2)))).await;
        let outcomes: Vec<_> = burst.into_iter().map(Result::unwrap).collect();
        let new = outcomes.iter().filter(|it| matches!(it, Accepted::New)).count();
        let full = outcomes.iter().filter(|it| matches!(it, Accepted::LimitReached(_))).count();
        assert_eq!((new, full, all(&*store).await.len()), (5, 35, 5));
        // In the order in which they came.
        let mut stored = ids(&all(&*store).await);
        stored.reverse();
        assert_eq!(stored, [0, 1, 2, 3, 4].map(id));
        assert_eq!(records_of(&*store, "accepted").await.len(), 5);
    })
    .await;
}

#[tokio::test]
async fn a_refused_change_leaves_its_key_free_and_a_known_key_is_answered_all_the_same() {
    each(async |fixture| {
        let store = fixture.open().await;
        let ask = |number: u128, key: &str, body: &str| bounded(keyed(operation(number, &lane(1)), key, body, 0));
        for number in 1..=3 {
            store.accept(ask(number, &number.to_string(), "body")).await.unwrap();
        }
        // Alone, and together with others that share its commit.
        assert!(matches!(
            store.accept(ask(4, "k", "body")).await.unwrap(),
            Accepted::LimitReached(LimitReached::Configuration)
        ));
        let burst =
            [ask(5, "k", "body"), ask(6, "2", "body"), ask(7, "k", "body"), ask(8, "3", "another"), plain(9, 2)];
        let outcomes = join_all(burst.into_iter().map(|it| store.accept(it))).await;
        let outcomes: Vec<_> = outcomes.into_iter().map(Result::unwrap).collect();
        let [first, known, again, reused, elsewhere] = outcomes.as_slice() else { panic!() };
        assert!(matches!((first, again), (Accepted::LimitReached(_), Accepted::LimitReached(_))), "{outcomes:?}");
        assert!(matches!(known, Accepted::Replayed(operation) if operation.id == id(2)), "{known:?}");
        assert!(matches!(reused, Accepted::KeyReused(first) if *first == id(3)), "{reused:?}");
        assert!(matches!(elsewhere, Accepted::New));
        assert!(store.find_by_key("servicenow", &used("k", "body", 0)).await.unwrap().is_none());
        store.cancel(cancellation(1, 1)).await.unwrap();
        // Even with another body: nothing about it was stored.
        assert!(matches!(store.accept(ask(10, "k", "another")).await.unwrap(), Accepted::New));
        assert!(matches!(store.accept(ask(11, "k", "another")).await.unwrap(), Accepted::Replayed(_)));
    })
    .await;
}

#[tokio::test]
async fn an_expired_key_stays_expired_when_its_reuse_is_refused() {
    each(async |fixture| {
        let store = fixture.open().await;
        for number in 1..=3 {
            store.accept(bounded(keyed(operation(number, &lane(1)), &number.to_string(), "body", 0))).await.unwrap();
        }
        // The first use is kept for an hour.
        let later = || bounded(keyed(operation(4, &lane(1)), "1", "another", 3_600));
        assert!(matches!(store.accept(later()).await.unwrap(), Accepted::LimitReached(LimitReached::Configuration)));
        assert!(store.find_by_key("servicenow", &used("1", "another", 3_600)).await.unwrap().is_none());
        store.cancel(cancellation(2, 1)).await.unwrap();
        assert!(matches!(store.accept(later()).await.unwrap(), Accepted::New));
    })
    .await;
}
