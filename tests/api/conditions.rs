//! `If-Match`: changes to one set and no other.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::{
    responses::Reply,
    world::{ASSIGNMENTS, EVERYTHING, SALES_ESP, Setup, World, add, group, remove},
};

/// The `ETag` of the present set, as a plan returns it.
async fn etag(world: &World) -> String {
    let plan = world.post("servicenow", "/v1/plan", &add("Sales ESP", &group(1)), &[]).await.expect(200);
    assert_eq!(plan.body["etag"], plan.header("etag"));
    assert_eq!(plan.header("etag"), format!("\"{}\"", plan.body["digest_before"].as_str().unwrap()));
    plan.header("etag").to_owned()
}

async fn change_if(world: &World, body: &Value, etag: &str) -> Reply {
    world.post("servicenow", ASSIGNMENTS, body, &[("if-match", etag), ("prefer", "wait=25")]).await
}

async fn begin_if(world: &World, body: &Value, etag: &str) -> String {
    let headers = [("if-match", etag), ("prefer", "respond-async")];
    world.post("servicenow", ASSIGNMENTS, body, &headers).await.expect(202).id()
}

#[track_caller]
fn is_unmet(operation: &Value) {
    assert_eq!((&operation["state"], &operation["problem"]["code"]), (&json!("failed"), &json!("precondition-failed")));
    assert_eq!(operation["problem"]["status"], 412);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_has_effect_on_the_set_that_its_caller_saw_and_on_no_other() {
    let world = World::start().await;
    let seen = etag(&world).await;
    let first = change_if(&world, &add("Sales ESP", &group(1)), &seen).await;
    first.succeeded("changed");
    assert_eq!(first.body["if_match"], seen);
    let late = change_if(&world, &add("Sales ESP", &group(2)), &seen).await.problem(412, "precondition-failed");
    let id = late.body["operation"]["id"].as_str().unwrap();
    assert!(late.body["detail"].as_str().unwrap().starts_with("Nothing was changed: the assignments"), "{}", late.text);
    assert!(late.body["detail"].as_str().unwrap().contains(&seen) && late.body["retryable"] == false, "{}", late.text);
    is_unmet(&world.operation(id).await.body);
    let plan = world.post("servicenow", "/v1/plan", &add("Sales ESP", &group(2)), &[("if-match", &seen)]).await;
    let now = etag(&world).await;
    assert!(plan.problem(412, "precondition-failed").body["detail"].as_str().unwrap().contains(&now));
    change_if(&world, &add("Sales ESP", &group(2)), "*").await.succeeded("changed");
    assert_eq!(world.groups(SALES_ESP).await.len(), 5);
    let accepted = world.events("accepted").await;
    let bound: Vec<_> = accepted.iter().map(|record| record["only_on"].is_string()).collect();
    assert_eq!(bound, [true, true, false]);
    let settled = world.events("settled").await;
    assert!(settled[1]["failure"].as_str().unwrap().starts_with("precondition-failed: "), "{}", settled[1]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tag_of_what_was_shown_binds_a_change_to_the_set_only() {
    let world = World::start().await;
    let path = format!("/v1/configurations/{SALES_ESP}/assignments");
    let shown = world.get("helpdesk", &path).await.expect(200).header("etag").to_owned();
    let (set, _) = shown.split_once('.').unwrap();
    let others = format!("{set}.{}\"", "0".repeat(64));
    let first = change_if(&world, &add("Sales ESP", &group(1)), &others).await;
    first.succeeded("changed");
    assert_eq!(first.body["if_match"], format!("{set}\""));
    for tag in [shown.clone(), others, format!("{set}\"")] {
        change_if(&world, &add("Sales ESP", &group(2)), &tag).await.problem(412, "precondition-failed");
    }
    let shown = world.get("helpdesk", &path).await.expect(200).header("etag").to_owned();
    change_if(&world, &add("Sales ESP", &group(2)), &shown).await.succeeded("changed");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_who_saw_the_same_set_one_wins_and_those_without_a_condition_go_on() {
    let world = World::start().await;
    // Queued operations are merged while the first is being written.
    world.hold("/assign").await;
    let running = world.begin(&add("Sales ESP", &group(1))).await;
    world.held(1).await;
    let before = etag(&world).await;
    world.clear_faults().await;
    world.end_of(&running).await.succeeded("changed");
    let seen = etag(&world).await;
    world.hold("/assign").await;
    let other = world.begin(&add("Sales ESP", &group(2))).await;
    world.held(1).await;
    let (stale, wins, loses) = (
        begin_if(&world, &add("Sales ESP", &group(6)), &before).await,
        world.begin(&remove("Sales ESP", &group(2))).await,
        world.begin(&add("Sales ESP", &group(7))).await,
    );
    let bound = begin_if(&world, &remove("Sales ESP", &group(1)), &seen).await;
    world.clear_faults().await;
    for id in [&other, &wins, &loses] {
        world.end_of(id).await.succeeded("changed");
    }
    for id in [&stale, &bound] {
        is_unmet(&world.end_of(id).await.body);
    }
    let groups: Vec<_> = world.groups(SALES_ESP).await.into_iter().collect();
    assert_eq!(groups, [1, 3, 4, 5, 7].map(group));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_who_saw_the_same_set_exactly_one_changes_it() {
    let world = World::start().await;
    let seen = etag(&world).await;
    let bodies: Vec<_> = [1, 2, 6, 7].map(|number| add("Sales ESP", &group(number))).into();
    let answers = join_all(bodies.iter().map(|body| change_if(&world, body, &seen))).await;
    let statuses: Vec<_> = answers.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 412).count(), 3, "{statuses:?}");
    assert_eq!((world.groups(SALES_ESP).await.len(), world.assigns().await.len()), (4, 1));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_condition_that_held_does_not_fail_for_our_own_write() {
    let world = World::start().await;
    let seen = etag(&world).await;
    world.fault(json!({"path_ends": "/assign", "times": 1, "effect": {"kind": "cut_after"}})).await;
    change_if(&world, &add("Sales ESP", &group(1)), &seen).await.succeeded("changed");
    assert_eq!(world.assigns().await.len(), 1);
    assert_eq!(world.events("written").await[0]["known_by"], "read-back");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_condition_is_a_part_of_what_is_asked_under_a_key() {
    let world = World::start().await;
    let (seen, body) = (etag(&world).await, add("Sales ESP", &group(1)));
    let ask = async |etag: &str| {
        let headers = [("if-match", etag), ("idempotency-key", "k"), ("prefer", "wait=25")];
        world.post("servicenow", ASSIGNMENTS, &body, &headers).await
    };
    let id = ask(&seen).await.succeeded("changed");
    assert_eq!(ask(&seen).await.succeeded("changed"), id, "though the set is another one now");
    ask(&etag(&world).await).await.problem(422, "idempotency-key-reused");
    ask("*").await.problem(422, "idempotency-key-reused");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replace_with_a_stale_if_match_does_not_confirm_a_vanished_set() {
    let world = World::with(Setup { policies: vec![EVERYTHING], ..Setup::default() }).await;
    world.change(&add("Sales ESP", &group(1))).await.succeeded("changed");
    let seen = etag(&world).await;
    world.administrator_assigns(SALES_ESP, &[]).await;
    let replace = json!({"configuration": "Sales ESP", "replace": [{"group": group(2)}], "ticket": "R"});
    change_if(&world, &replace, &seen).await.problem(502, "present-set-vanished");
    // The failed replacement did not confirm the empty set.
    world.change(&add("Sales ESP", &group(2))).await.problem(502, "present-set-vanished");
    change_if(&world, &replace, &etag(&world).await).await.succeeded("changed");
    world.end().await;
}
