//! Cancelling a change.

use serde_json::json;

use crate::{
    responses::Reply,
    world::{ASSIGNMENTS, EVERYTHING, SALES_ESP, Setup, World, add, group},
};

async fn cancel(world: &World, caller: &str, id: &str) -> Reply {
    world.send(world.request(caller, "DELETE", &format!("/v1/operations/{id}")).await).await
}

/// Operations on one configuration: the first is held while being written, the others are queued behind it.
async fn queued(world: &World, count: usize) -> (String, Vec<String>) {
    world.hold("/assign").await;
    let running = world.begin(&add("Sales ESP", &group(1))).await;
    world.held(1).await;
    let mut queued = Vec::new();
    for number in 0..count {
        queued.push(world.begin(&add("Sales ESP", &group(6 + number))).await);
    }
    (running, queued)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queued_change_is_cancelled_and_never_reaches_graph() {
    let world = World::start().await;
    let (running, queued) = queued(&world, 2).await;
    let cancelled = cancel(&world, "servicenow", &queued[0]).await.expect(200);
    assert_eq!((&cancelled.body["id"], &cancelled.body["state"]), (&json!(queued[0]), &json!("cancelled")));
    assert!(cancelled.body["ended_at"].is_string() && cancelled.body["started_at"].is_null(), "{}", cancelled.text);
    let again = cancel(&world, "servicenow", &queued[0]).await.expect(200);
    assert_eq!(again.body, cancelled.body, "cancelling again changes nothing");
    assert_eq!(world.operation(&queued[0]).await.body, cancelled.body);
    world.clear_faults().await;
    world.end_of(&running).await.succeeded("changed");
    world.end_of(&queued[1]).await.succeeded("changed");
    let groups = world.groups(SALES_ESP).await;
    assert!(groups.contains(&group(7)) && !groups.contains(&group(6)), "{groups:?}");
    let records = world.events("cancelled").await;
    assert_eq!((records.len(), &records[0]["operation"]), (1, &json!(queued[0])));
    assert_eq!(records[0]["caller"], "servicenow");
    assert_eq!(records[0]["policies"], json!(["servicenow-cancels-its-own"]));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_running_or_has_ended_is_not_cancelled() {
    let world = World::start().await;
    let (running, _) = queued(&world, 0).await;
    let late = cancel(&world, "servicenow", &running).await.problem(409, "too-late-to-cancel");
    assert_eq!(late.body["operation"], json!({"id": running, "href": format!("/v1/operations/{running}")}));
    assert!(late.body["detail"].as_str().unwrap().contains("running"), "{}", late.text);
    assert_eq!(late.body["retryable"], false);
    world.clear_faults().await;
    world.end_of(&running).await.succeeded("changed");
    let late = cancel(&world, "servicenow", &running).await.problem(409, "too-late-to-cancel");
    assert!(late.body["detail"].as_str().unwrap().contains("succeeded"), "{}", late.text);
    assert!(world.events("cancelled").await.is_empty());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_waits_for_a_change_learns_that_it_was_cancelled() {
    let world = World::start().await;
    let (running, queued) = queued(&world, 1).await;
    let waiting = world.request("servicenow", "GET", &format!("/v1/operations/{}", queued[0])).await;
    let waiting = world.send(waiting.header("prefer", "wait=20"));
    let (answer, _) = tokio::join!(waiting, async {
        while world.gateway().store().notices().waiter_count() == 0 {
            tokio::task::yield_now().await;
        }
        cancel(&world, "servicenow", &queued[0]).await.expect(200)
    });
    assert_eq!(answer.expect(200).body["state"], "cancelled");
    world.clear_faults().await;
    world.end_of(&running).await.succeeded("changed");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_caller_may_not_read_is_unknown_and_what_it_may_read_only_is_denied() {
    let world = World::start().await;
    let (running, queued) = queued(&world, 1).await;
    let id = &queued[0];
    let hidden = cancel(&world, "portal", id).await.problem(404, "unknown-operation");
    let absent = cancel(&world, "portal", "op_00000000000000000000000001").await.problem(404, "unknown-operation");
    assert_eq!(hidden.body["detail"], absent.body["detail"]);
    cancel(&world, "servicenow", "op_x").await.problem(404, "unknown-operation");
    let denied = cancel(&world, "helpdesk", id).await.problem(403, "not-permitted");
    assert!(denied.body["detail"].as_str().unwrap().contains("no policy permits it: cancel"), "{}", denied.text);
    let without_role = world.forge("servicenow", json!({"roles": []}), json!({})).await;
    let request = world.bare("DELETE", &format!("/v1/operations/{id}")).bearer_auth(without_role);
    world.send(request).await.problem(403, "not-permitted");
    world.send(world.bare("DELETE", &format!("/v1/operations/{id}"))).await.problem(401, "unauthenticated");
    let denied = world.events("denied").await;
    let actions: Vec<_> = denied.iter().map(|record| record["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["read", "cancel", "cancel", "authenticate"]);
    assert_eq!(denied[1]["configuration"], SALES_ESP);
    world.clear_faults().await;
    world.end_of(&running).await.succeeded("changed");
    world.end_of(id).await.succeeded("changed");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_can_let_a_caller_cancel_what_others_asked_for() {
    let world = World::with(Setup { policies: vec![EVERYTHING], ..Setup::default() }).await;
    world.hold("/assign").await;
    let begin = async |number| {
        let body = add("Kiosk ESP", &group(number));
        world.post("portal", ASSIGNMENTS, &body, &[("prefer", "respond-async")]).await.expect(202).id()
    };
    let running = begin(1).await;
    world.held(1).await;
    let theirs = begin(6).await;
    cancel(&world, "servicenow", &theirs).await.expect(200);
    let record = world.events("cancelled").await.pop().unwrap();
    assert_eq!((&record["caller"], &record["policies"]), (&json!("servicenow"), &json!(["everything"])));
    world.clear_faults().await;
    world.end_of(&running).await.succeeded("changed");
    world.end().await;
}
