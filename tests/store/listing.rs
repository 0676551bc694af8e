//! Listing: operations by filters and pages, the audit trail by pages.

use postern::{
    domain::{Operation, OperationId},
    store::{Backlog, Query, Store},
};

use crate::fixture::{accept, acceptance, awaiting, claim, each, id, ids, lane, operation, settle, turn};

/// Six operations on two lanes, by two callers, for two tickets; the first has ended, the second is running.
async fn filled(store: &dyn Store) {
    for number in 1..=6 {
        let mut operation = operation(number, &lane(if number <= 2 { 1 } else { 2 }));
        operation.submission.caller = String::from(if number % 2 == 0 { "portal" } else { "servicenow" });
        operation.submission.ticket = (number != 6).then(|| format!("T{}", number % 3));
        store.accept(acceptance(operation)).await.unwrap();
    }
    let first = postern::store::Claim { batch_max: 1, ..claim(&lane(1), "a", 0) };
    let held = turn(store, first.clone()).await;
    settle(store, held.lease, &held.operations).await;
    drop(turn(store, first).await);
}

async fn found(store: &dyn Store, query: Query) -> Vec<OperationId> {
    ids(&store.operations(&query).await.unwrap())
}

fn wide() -> Query {
    Query { limit: 100, ..Query::default() }
}

#[tokio::test]
async fn operations_are_listed_newest_first_and_every_filter_counts() {
    each(async |fixture| {
        let store = fixture.open().await;
        filled(&*store).await;
        let by = [
            (wide(), vec![6, 5, 4, 3, 2, 1]),
            (Query { caller: Some("portal".into()), ..wide() }, vec![6, 4, 2]),
            (Query { ticket: Some("T1".into()), ..wide() }, vec![4, 1]),
            (Query { configuration: Some(lane(1)), ..wide() }, vec![2, 1]),
            (Query { state: Some("queued".into()), ..wide() }, vec![6, 5, 4, 3]),
            (Query { state: Some("running".into()), ..wide() }, vec![2]),
            (Query { state: Some("queued".into()), caller: Some("portal".into()), ..wide() }, vec![6, 4]),
            (Query { state: Some("running".into()), caller: Some("portal".into()), ..wide() }, vec![2]),
            (Query { state: Some("running".into()), ticket: Some("T1".into()), ..wide() }, vec![]),
            (Query { state: Some("running".into()), configuration: Some(lane(2)), ..wide() }, vec![]),
            (Query { state: Some("succeeded".into()), ..wide() }, vec![1]),
            (Query { state: Some("failed".into()), ..wide() }, vec![]),
            (Query { ticket: Some("T1".into()), caller: Some("portal".into()), ..wide() }, vec![4]),
            (Query { ticket: Some("T1' OR '1'='1".into()), ..wide() }, vec![]),
        ];
        for (query, expected) in by {
            let expected: Vec<_> = expected.into_iter().map(id).collect();
            assert_eq!(found(&*store, query.clone()).await, expected, "{query:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn the_backlog_counts_what_has_not_ended_and_dates_the_oldest_of_it() {
    each(async |fixture| {
        let store = fixture.open().await;
        assert_eq!(store.backlog().await.unwrap(), Backlog::default());
        // An operation awaiting approval may be older than any that could start.
        store.accept(acceptance(awaiting(99, &lane(1), 100))).await.unwrap();
        filled(&*store).await;
        let states = [("awaiting_approval", 1), ("queued", 4), ("running", 1)]
            .map(|(state, count)| (state.to_owned(), count))
            .into();
        let oldest = Some(operation(2, &lane(1)).submission.accepted_at);
        assert_eq!(store.backlog().await.unwrap(), Backlog { states, oldest, ..Backlog::default() });
    })
    .await;
}

#[tokio::test]
async fn pages_of_operations_join_without_gap_or_overlap() {
    each(async |fixture| {
        let store = fixture.open().await;
        filled(&*store).await;
        for limit in 1..=7 {
            let mut query = Query { caller: Some("servicenow".into()), limit, ..Query::default() };
            let mut joined: Vec<Operation> = Vec::new();
            loop {
                let page = store.operations(&query).await.unwrap();
                assert!(page.len() <= limit);
                if page.is_empty() {
                    break;
                }
                query.after = page.last().map(|operation| operation.id);
                joined.extend(page);
                // Operations accepted meanwhile are newer than all pages still to come.
                let number = 100 * u128::try_from(limit).unwrap() + u128::try_from(joined.len()).unwrap();
                accept(&*store, &lane(3), [number]).await;
            }
            let joined: Vec<_> = ids(&joined).into_iter().filter(|found| *found <= id(6)).collect();
            assert_eq!(joined, [id(5), id(3), id(1)], "in pages of {limit}");
        }
    })
    .await;
}

#[tokio::test]
async fn after_an_operation_that_is_not_there_any_more_come_those_that_are_older() {
    each(async |fixture| {
        let store = fixture.open().await;
        for number in [1, 2, 4, 5] {
            accept(&*store, &lane(1), [number]).await;
        }
        let after = async |number| found(&*store, Query { after: Some(id(number)), ..wide() }).await;
        assert_eq!(after(4).await, [id(2), id(1)]);
        assert_eq!(after(3).await, [id(2), id(1)]);
        assert!(after(1).await.is_empty() && after(0).await.is_empty());
        assert_eq!(after(99).await, [5, 4, 2, 1].map(id));
    })
    .await;
}

#[tokio::test]
async fn pages_of_the_audit_trail_join_without_gap_or_overlap() {
    each(async |fixture| {
        let store = fixture.open().await;
        filled(&*store).await;
        let whole = store.audit(None, 1_000).await.unwrap();
        assert_eq!((whole.records.len(), whole.next), (10, None));
        for limit in 1..=11 {
            let (mut joined, mut after) = (Vec::new(), None);
            loop {
                let page = store.audit(after, limit).await.unwrap();
                assert!(page.records.len() <= limit);
                joined.extend(page.records);
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            assert_eq!(joined, whole.records, "in pages of {limit}");
        }
    })
    .await;
}
