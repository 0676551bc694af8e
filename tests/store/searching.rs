//! Searching the audit trail, heads of chains, and leases for delivery to a sink.

use std::time::Duration;

use postern::{
    audit::{Entry, Event, IndexFields},
    store::{AuditQuery, SinkClaim, Store, StoredRecord},
};

use crate::fixture::{accept, at, cancellation, claim, each, id, lane, minutes, settle, trail, turn};

async fn found(store: &dyn Store, query: AuditQuery) -> Vec<String> {
    let query = AuditQuery { limit: if query.limit == 0 { 100 } else { query.limit }, ..query };
    let event = |filed: &StoredRecord| {
        let record: serde_json::Value = serde_json::from_str(&filed.text).unwrap();
        record["event"].as_str().unwrap().to_owned()
    };
    store.records(&query).await.unwrap().iter().map(event).collect()
}

#[tokio::test]
async fn an_operation_is_found_with_its_turns_and_its_ticket_leads_to_its_end() {
    each(async |fixture| {
        let store = fixture.open().await;
        accept(&*store, &lane(1), 1..=3).await;
        accept(&*store, &lane(2), [4]).await;
        store.cancel(cancellation(2, 1)).await.unwrap();
        let carried = turn(&*store, claim(&lane(1), "a", 2)).await;
        settle(&*store, carried.lease, &carried.operations).await;
        accept(&*store, &lane(1), [5]).await;
        turn(&*store, claim(&lane(1), "a", 9)).await;
        let of = |number| AuditQuery { operation: Some(id(number)), ..AuditQuery::default() };
        assert_eq!(found(&*store, of(1)).await, ["accepted", "started", "settled"]);
        assert_eq!(found(&*store, of(2)).await, ["accepted", "cancelled"]);
        assert_eq!(found(&*store, of(4)).await, ["accepted"]);
        assert_eq!(found(&*store, of(5)).await, ["accepted", "started"]);
        assert!(found(&*store, of(6)).await.is_empty());
        let under = |ticket: &str| AuditQuery { ticket: Some(ticket.to_owned()), ..AuditQuery::default() };
        assert_eq!(found(&*store, under("RITM3")).await, ["accepted", "settled"]);
        assert!(found(&*store, under("RITM")).await.is_empty());
        let by = |caller: &str| AuditQuery { caller: Some(caller.to_owned()), ..AuditQuery::default() };
        assert_eq!(found(&*store, by("servicenow")).await.len(), 6);
        assert!(found(&*store, by("portal")).await.is_empty());
        let both = AuditQuery { operation: Some(id(1)), ticket: Some("RITM1".to_owned()), ..AuditQuery::default() };
        assert_eq!(found(&*store, both).await, ["accepted", "settled"]);
    })
    .await;
}

#[tokio::test]
async fn records_are_found_by_time_and_read_on_from_a_position() {
    each(async |fixture| {
        let store = fixture.open().await;
        let event = Event::ConfigurationLoaded {
            policies: crate::fixture::digest("p"),
            settings: crate::fixture::digest("s"),
            callers: vec![],
        };
        let entry = |seconds| Entry { at: at(seconds), trace_id: None, event: event.clone() };
        // Not in order of their times, as replicas with differing clocks would write them.
        store.append_records([3, 1, 2, 5, 4].map(entry).into()).await.unwrap();
        let between = AuditQuery { from: Some(at(2)), to: Some(at(5)), limit: 10, ..AuditQuery::default() };
        let times =
            |filed: &[StoredRecord]| filed.iter().map(|it| IndexFields::read(&it.text).unwrap().at).collect::<Vec<_>>();
        let all = store.records(&between).await.unwrap();
        assert_eq!(times(&all), [3, 2, 4].map(at));
        let mut read = Vec::new();
        let mut query = AuditQuery { limit: 1, ..between };
        while let [filed] = store.records(&query).await.unwrap().as_slice() {
            query.after = Some(filed.position);
            read.push(filed.clone());
        }
        assert_eq!(read, all);
        assert!(store.records(&AuditQuery { from: Some(at(9_999_999)), ..query }).await.unwrap().is_empty());
    })
    .await;
}

#[tokio::test]
async fn the_end_of_the_chain_is_told_until_an_opening_names_it() {
    each(async |fixture| {
        let store = fixture.open().await;
        accept(&*store, &lane(1), [1]).await;
        let ends = store.chain_heads().await.unwrap();
        let newest = trail(&*store).await.pop().unwrap();
        assert_eq!((ends.len(), ends[0].sequence), (1, 2));
        assert_eq!(newest["hash"], ends[0].hash);
        assert_eq!(store.own_chain_head().await.unwrap().as_ref(), ends.first());
        let store = fixture.reopen(store).await;
        let ends = store.chain_heads().await.unwrap();
        assert_eq!((ends.len(), ends[0].sequence), (1, 1), "the opening has named the end of the chain before");
        assert_eq!(store.own_chain_head().await.unwrap().as_ref(), ends.first());
    })
    .await;
}

fn sink_claim(owner: &str, delivered: Option<i64>, ttl: Duration) -> SinkClaim {
    SinkClaim { sink: "file".to_owned(), owner: owner.to_owned(), ttl, delivered }
}

#[tokio::test]
async fn one_owner_at_a_time_delivers_to_a_sink_and_the_next_goes_on_where_it_ended() {
    each(async |fixture| {
        let store = fixture.open().await;
        let mine = |delivered| store.claim_sink(sink_claim("a", delivered, minutes(1)));
        assert_eq!(mine(None).await.unwrap(), Some(0));
        assert_eq!(store.claim_sink(sink_claim("b", None, minutes(1))).await.unwrap(), None);
        assert_eq!(mine(Some(7)).await.unwrap(), Some(7));
        assert_eq!(mine(Some(5)).await.unwrap(), Some(7), "it never goes back");
        let other = SinkClaim { sink: "otlp".to_owned(), ..sink_claim("b", Some(2), minutes(1)) };
        assert_eq!(store.claim_sink(other).await.unwrap(), Some(2), "every sink has a turn of its own");
        assert_eq!(store.claim_sink(sink_claim("a", Some(9), Duration::ZERO)).await.unwrap(), Some(9));
        assert_eq!(store.claim_sink(sink_claim("b", None, minutes(1))).await.unwrap(), Some(9));
        assert_eq!(mine(Some(12)).await.unwrap(), None);
        assert_eq!(store.claim_sink(sink_claim("b", None, minutes(1))).await.unwrap(), Some(9));
        let store = fixture.reopen(store).await;
        assert_eq!(store.claim_sink(sink_claim("b", None, Duration::ZERO)).await.unwrap(), Some(9));
    })
    .await;
}
