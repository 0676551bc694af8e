//! W3C trace context: taken from the caller, shown in the response and the trail, passed on to Graph.

use serde_json::json;

use crate::{
    responses::is_trace_id,
    world::{ASSIGNMENTS, SALES_ESP, World, add, group},
};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_trace_of_the_caller_is_continued() {
    let world = World::start().await;
    let answer = world.post("servicenow", ASSIGNMENTS, &add("Sales ESP", &group(1)), &[("traceparent", PARENT)]).await;
    answer.succeeded("changed");
    assert_eq!(answer.body["trace_id"], TRACE);
    for event in ["accepted", "settled"] {
        assert_eq!(world.events(event).await[0]["trace_id"], TRACE, "{event}");
    }
    let refused = world.post("servicenow", ASSIGNMENTS, &json!({}), &[("traceparent", PARENT)]).await;
    assert_eq!(refused.problem(422, "invalid-change").body["trace_id"], TRACE);
    let denied = world.post("portal", ASSIGNMENTS, &add("Sales ESP", &group(1)), &[("traceparent", PARENT)]).await;
    assert_eq!(denied.problem(403, "not-permitted").body["trace_id"], TRACE);
    assert_eq!(world.events("denied").await[0]["trace_id"], TRACE);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_operation_keeps_the_trace_of_the_call_that_asked_for_it() {
    let world = World::start().await;
    world.fault(json!({"path_ends": "/assign", "effect": {"kind": "answer", "status": 403}})).await;
    let answer = world.post("servicenow", ASSIGNMENTS, &add("Sales ESP", &group(1)), &[("traceparent", PARENT)]).await;
    let problem = answer.problem(502, "graph-refused");
    assert_eq!(problem.body["trace_id"], TRACE);
    let operation = world.operation(problem.body["operation"]["id"].as_str().unwrap()).await;
    assert_eq!(operation.body["problem"]["trace_id"], TRACE);
    world.clear_faults().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_malformed_trace_context_starts_a_new_trace() {
    let world = World::start().await;
    for traceparent in [
        "",
        "x",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01",
    ] {
        let answer = world.post("servicenow", ASSIGNMENTS, &json!({}), &[("traceparent", traceparent)]).await;
        let problem = answer.problem(422, "invalid-change");
        assert!(is_trace_id(&problem.body["trace_id"]) && problem.body["trace_id"] != TRACE, "{traceparent}");
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_to_graph_carries_a_trace_context_and_an_id() {
    let world = World::start().await;
    let answer = world.post("servicenow", ASSIGNMENTS, &add("Sales ESP", &group(1)), &[("traceparent", PARENT)]).await;
    answer.succeeded("changed");
    let journal = world.journal().await;
    let traces: Vec<_> = journal.iter().map(|call| call["traceparent"].as_str().unwrap_or_default()).collect();
    assert!(traces.iter().all(|trace| trace.len() == 55 && trace.starts_with("00-")), "{traces:?}");
    let of = |end: &str| journal.iter().find(|call| call["path"].as_str().unwrap().ends_with(end)).unwrap();
    assert!(of(SALES_ESP)["traceparent"].as_str().unwrap().contains(TRACE), "a look-up belongs to its request");
    assert!(!of("/groups")["traceparent"].as_str().unwrap().contains(TRACE), "that of groups to several");
    let written = world.events("written").await;
    let merge = written[0]["trace_id"].as_str().unwrap();
    assert!(of("/assign")["traceparent"].as_str().unwrap().contains(merge), "a write belongs to its merge");
    for call in journal.iter().filter(|call| !call["path"].as_str().unwrap().ends_with("/token")) {
        assert_eq!(call["client-request-id"].as_str().unwrap().len(), 36, "{call}");
        assert_eq!(call["prefer"], "include-unknown-enum-members");
    }
    world.end().await;
}
