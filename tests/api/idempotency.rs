//! `Idempotency-Key`: a retry is the same operation, whatever interrupted the first attempt.

use std::fs;

use futures_util::future::join_all;
use serde_json::json;

use crate::world::{ASSIGNMENTS, KIOSK_ESP, SALES_ESP, Setup, World, add, group};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_key_returns_the_first_operation() {
    let world = World::start().await;
    let body = add("Sales ESP", "Sales Laptops");
    let ask = |key| {
        let (world, body) = (&world, &body);
        async move { world.post("servicenow", ASSIGNMENTS, body, &[("idempotency-key", key)]).await }
    };
    let first = ask("\"8e03978e-40d5\"").await;
    let id = first.succeeded("changed");
    assert!(!first.headers.contains_key("idempotency-replayed"), "{first:?}");
    for key in ["\"8e03978e-40d5\"", "8e03978e-40d5"] {
        let again = ask(key).await;
        assert_eq!((again.succeeded("changed"), again.header("idempotency-replayed")), (id.clone(), "true"));
        assert_eq!(again.body, first.body);
    }
    let other = ask("8e03978e-40d6").await;
    assert_ne!(other.succeeded("unchanged"), id);
    assert_eq!(world.assigns().await.len(), 1);
    assert_eq!(world.events("accepted").await.len(), 2);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_body_is_the_same_however_it_is_written() {
    let world = World::start().await;
    let texts = [
        r#"{"configuration":"Sales ESP","add":[{"group":"Sales Laptops"}],"ticket":"R"}"#,
        "{\n \"ticket\": \"\\u0052\",\n \"add\": [ {\"group\": \"Sales Laptops\"} ], \"configuration\": \"Sales ESP\" }",
    ];
    let mut ids = Vec::new();
    for text in texts {
        let request = world.request("servicenow", "POST", ASSIGNMENTS).await.body(text);
        let request = request.header("content-type", "application/json; charset=utf-8");
        ids.push(world.send(request.header("idempotency-key", "k")).await.succeeded("changed"));
    }
    assert_eq!(ids[0], ids[1]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_used_for_another_body_is_refused_and_names_the_operation() {
    let world = World::start().await;
    let headers = [("idempotency-key", "k")];
    let first = world.post("servicenow", ASSIGNMENTS, &add("Sales ESP", "Sales Laptops"), &headers).await;
    let id = first.succeeded("changed");
    let other = world.post("servicenow", ASSIGNMENTS, &add("Sales ESP", "Sales Kiosks"), &headers).await;
    let problem = other.problem(422, "idempotency-key-reused");
    assert_eq!(problem.body["operation"], json!({"id": id, "href": format!("/v1/operations/{id}")}));
    assert_eq!(problem.body["retryable"], false);
    assert!(!world.groups(SALES_ESP).await.contains(&group(2)));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_belongs_to_its_caller() {
    let world = World::start().await;
    let headers = [("idempotency-key", "k")];
    let one = world.post("servicenow", ASSIGNMENTS, &add("Sales ESP", "Sales Laptops"), &headers).await;
    let other = world.post("portal", ASSIGNMENTS, &add("Kiosk ESP", "Sales Kiosks"), &headers).await;
    assert_ne!(one.succeeded("changed"), other.succeeded("changed"));
    assert_eq!(world.groups(KIOSK_ESP).await.len(), 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_outlives_the_process() {
    let mut world = World::start().await;
    let (body, headers) = (add("Sales ESP", "Sales Laptops"), [("idempotency-key", "k")]);
    let id = world.post("servicenow", ASSIGNMENTS, &body, &headers).await.succeeded("changed");
    world.restart().await;
    let again = world.post("servicenow", ASSIGNMENTS, &body, &headers).await;
    assert_eq!((again.succeeded("changed"), again.header("idempotency-replayed")), (id, "true"));
    world.post("servicenow", ASSIGNMENTS, &add("Sales ESP", "Sales Kiosks"), &headers).await.expect(422);
    assert_eq!(world.assigns().await.len(), 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_holds_though_policies_names_and_graph_have_changed() {
    let patient = vec![("OPERATIONS__WAIT_MAX", "5m")];
    let mut world = World::with(Setup { settings: patient, ..Setup::default() }).await;
    let (body, headers) = (add("Sales ESP", &group(2)), [("idempotency-key", "k")]);
    let id = world.post("servicenow", ASSIGNMENTS, &body, &headers).await.succeeded("changed");

    let freeze = world.policies().join("freeze.cedar");
    fs::write(&freeze, "@id(\"freeze\")\nforbid (principal, action == Postern::Action::\"add\", resource);\n").unwrap();
    world.restart().await;
    world.post("servicenow", ASSIGNMENTS, &body, &[]).await.problem(403, "not-permitted");
    let again = world.post("servicenow", ASSIGNMENTS, &body, &headers).await;
    assert_eq!((again.succeeded("changed"), again.header("idempotency-replayed")), (id.clone(), "true"));
    assert_eq!(world.events("denied").await.len(), 1, "whoever repeats a request is not denied");
    fs::remove_file(&freeze).unwrap();

    world.control("DELETE", &format!("groups/{}", group(2)), None).await.expect(204);
    world.restart().await;
    world.post("servicenow", ASSIGNMENTS, &body, &[]).await.problem(422, "unknown-target");
    assert_eq!(world.post("servicenow", ASSIGNMENTS, &body, &headers).await.succeeded("changed"), id);

    world.restart().await;
    world.fault(json!({"method": "GET", "effect": {"kind": "hold"}})).await;
    assert_eq!(world.post("servicenow", ASSIGNMENTS, &body, &headers).await.succeeded("changed"), id);
    world.clear_faults().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_first_uses_of_a_key_are_one_operation() {
    let world = World::start().await;
    world.hold("/assign").await;
    let (body, headers) = (add("Sales ESP", "Sales Laptops"), [("idempotency-key", "k"), ("prefer", "wait=20")]);
    world.token("servicenow").await;
    let asking = join_all((0..10).map(|_| world.post("servicenow", ASSIGNMENTS, &body, &headers)));
    let release = async {
        world.held(1).await;
        world.clear_faults().await;
    };
    let (answers, ()) = tokio::join!(asking, release);
    let id = answers[0].id();
    assert!(answers.iter().all(|answer| answer.succeeded("changed") == id));
    assert_eq!(answers.iter().filter(|it| it.header("idempotency-replayed") == "true").count(), 9);
    assert_eq!(world.events("accepted").await.len(), 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_concurrent_first_uses_of_a_key_for_different_bodies_one_wins() {
    let world = World::start().await;
    world.token("servicenow").await;
    let bodies: Vec<_> = [1, 2, 6].map(|number| add("Sales ESP", &group(number))).into();
    let headers = [("idempotency-key", "k"), ("prefer", "wait=20")];
    let answers = join_all(bodies.iter().map(|body| world.post("servicenow", ASSIGNMENTS, body, &headers))).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 1);
    assert_eq!(answers.iter().filter(|answer| answer.status == 422).count(), 2);
    assert_eq!(world.groups(SALES_ESP).await.len(), 4);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_waits_too_and_tells_of_failure_as_the_first_call_did() {
    let world = World::start().await;
    world.fault(json!({"path_ends": "/assign", "effect": {"kind": "answer", "status": 403}})).await;
    let (body, headers) = (add("Sales ESP", "Sales Laptops"), [("idempotency-key", "k"), ("prefer", "wait=20")]);
    let first = world.post("servicenow", ASSIGNMENTS, &body, &headers).await.problem(502, "graph-refused");
    world.clear_faults().await;
    let again = world.post("servicenow", ASSIGNMENTS, &body, &headers).await.problem(502, "graph-refused");
    assert_eq!(again.body["operation"], first.body["operation"]);
    assert_eq!(again.header("idempotency-replayed"), "true");
    assert!(!world.groups(SALES_ESP).await.contains(&group(1)), "a replay is no second attempt");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_change_leaves_its_key_free() {
    let world = World::with(Setup::default()).await;
    let headers = [("idempotency-key", "k")];
    let nobody = add("Sales ESP", &group(99));
    world.post("servicenow", ASSIGNMENTS, &nobody, &headers).await.problem(422, "unknown-target");
    let answer = world.post("servicenow", ASSIGNMENTS, &add("Sales ESP", &group(1)), &headers).await;
    answer.succeeded("changed");
    assert!(!answer.headers.contains_key("idempotency-replayed"), "{answer:?}");
    world.end().await;
}
