//! What the next run finds.

use postern::{
    audit::{Actor, Entry, Event},
    store::{Accepted, Settlement, UnsettledWrites},
};

use crate::fixture::{
    accept, announced, at, claim, digest, each, id, ids, keyed, lane, minutes, operation, parking, settlement, trail,
    turn, used,
};

#[tokio::test]
async fn an_announced_write_comes_back_with_the_next_claim_after_reopening() {
    each(async |fixture| {
        let store = fixture.open().await;
        accept(&*store, &lane(1), [1, 2]).await;
        let mut held = turn(&*store, claim(&lane(1), "a", 0)).await;
        let told = announced(&held.operations);
        store.begin_write(&mut held.lease, &told, minutes(60)).await.unwrap();
        let store = fixture.reopen(store).await;
        // Graph may still be executing that write, though its owner is gone.
        fixture.pass(59).await;
        assert!(store.claim(claim(&lane(1), "b", 1)).await.unwrap().turn().is_none());
        fixture.pass(1).await;
        let next = turn(&*store, claim(&lane(1), "b", 1)).await;
        assert_eq!((next.announced, ids(&next.operations)), (told, vec![id(1), id(2)]));
    })
    .await;
}

#[tokio::test]
async fn the_digest_left_and_the_attempts_survive_reopening() {
    each(async |fixture| {
        let store = fixture.open().await;
        accept(&*store, &lane(1), [1, 2]).await;
        let held = turn(&*store, claim(&lane(1), "a", 0)).await;
        let (first, _) = held.operations.split_at(1);
        let keeping = Settlement { keep: Some(minutes(20)), ..settlement(first, 4) };
        let kept = store.settle(held.lease, keeping).await.unwrap().unwrap();
        store.park(kept, parking(30)).await.unwrap();
        let store = fixture.reopen(store).await;
        let parked = store.parked(&lane(1)).await.unwrap().unwrap();
        assert_eq!(parked.attempts, 1);
        fixture.pass(29).await;
        // A restart is no reason to ignore Graph's pause.
        assert!(store.claim(claim(&lane(1), "b", 29)).await.unwrap().turn().is_none());
        fixture.pass(1).await;
        let next = turn(&*store, claim(&lane(1), "b", 30)).await;
        assert_eq!((next.left, next.attempts, next.announced), (Some(digest("left")), 1, UnsettledWrites::default()));
        assert_eq!(ids(&next.operations), [id(2)]);
    })
    .await;
}

#[tokio::test]
async fn operations_and_keys_survive_reopening() {
    each(async |fixture| {
        let store = fixture.open().await;
        let first = operation(1, &lane(1));
        store.accept(keyed(first.clone(), "k", "body", 0)).await.unwrap();
        let store = fixture.reopen(store).await;
        assert_eq!(store.operation(id(1)).await.unwrap(), Some(first.clone()));
        assert_eq!(store.open_lanes(10).await.unwrap(), [lane(1)]);
        let known = store.find_by_key("servicenow", &used("k", "body", 1)).await.unwrap();
        assert!(matches!(known, Some(Accepted::Replayed(operation)) if *operation == first));
    })
    .await;
}

#[tokio::test]
async fn the_chain_of_a_run_is_tied_to_the_one_before_it() {
    each(async |fixture| {
        let mut store = fixture.open().await;
        for number in 1..=3 {
            accept(&*store, &lane(1), [number]).await;
            store = fixture.reopen(store).await;
        }
        let records = trail(&*store).await;
        let events: Vec<_> = records.iter().map(|record| record["event"].as_str().unwrap()).collect();
        assert_eq!(events, ["started-up", "accepted"].repeat(3).into_iter().chain(["started-up"]).collect::<Vec<_>>());
        for (before, opening) in [(1, 2), (3, 4), (5, 6)] {
            let (before, opening) = (&records[before], &records[opening]);
            assert_eq!(opening["previous_chain"], before["chain"]);
            assert_eq!(opening["previous_hash"], before["hash"]);
            assert_eq!((&opening["previous_sequence"], &opening["sequence"]), (&2.into(), &1.into()));
        }
    })
    .await;
}

#[tokio::test]
async fn records_of_no_other_verb_are_chained_and_durable_too() {
    each(async |fixture| {
        let store = fixture.open().await;
        let actor = Some(Actor { caller: None, issuer: "i".to_owned(), subject: "s".to_owned(), token_id: None });
        let event = Event::Denied {
            actor,
            action: "add".to_owned(),
            configuration: None,
            change: None,
            ticket: None,
            reason: "no policy permits it".to_owned(),
            repeated: None,
        };
        let entry = Entry { at: at(0), trace_id: Some("4bf92f3577b34da6a3ce929d0e0e4736".to_owned()), event };
        store.append_records(vec![entry.clone(), entry]).await.unwrap();
        store.append_records(vec![]).await.unwrap();
        store.probe().await.unwrap();
        let store = fixture.reopen(store).await;
        assert_eq!(trail(&*store).await.iter().filter(|record| record["event"] == "denied").count(), 2);
    })
    .await;
}
