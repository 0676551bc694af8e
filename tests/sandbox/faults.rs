//! Injected faults.

use std::time::Duration;

use futures_util::future::join_all;
use postern::clock::Clock;
use serde_json::{Value, json};

use crate::world::{CONFIGURATIONS, KIOSK_ESP, World, got, group_target, sent};

const ASSIGN: &str = "/assign";

fn assign_body() -> Value {
    json!({"enrollmentConfigurationAssignments": [{"target": group_target(1)}]})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ordered_answer_is_given_so_many_times_and_nothing_is_applied() {
    let world = World::start().await;
    let effect = json!({"kind": "answer", "status": 429, "retry_after": "2.128"});
    world.fault(json!({"method": "POST", "path_ends": ASSIGN, "times": 2, "effect": effect})).await;
    for _ in 0..2 {
        let answer = world.assign(KIOSK_ESP, &[group_target(1)]).await.expect(429);
        assert_eq!((answer.code(), answer.headers["retry-after"].as_str()), ("TooManyRequests", "2.128"));
        assert!(answer.headers.contains_key("request-id"));
    }
    assert!(world.assignments(KIOSK_ESP).await.is_empty());
    world.assign(KIOSK_ESP, &[group_target(1)]).await.expect(204);
    let faults: Vec<Value> = world.journal().await.iter().map(|call| call["fault"].clone()).collect();
    assert_eq!(faults, [json!(null), json!("answer"), json!("answer"), json!(null), json!(null)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_lets_so_many_calls_pass_that_it_hits_a_later_page() {
    let world = World::start().await;
    world.switch("page_size", 4).await;
    let order = |skip: u8, status: u16| json!({"path_ends": CONFIGURATIONS, "skip": skip, "times": 1, "effect": {"kind": "answer", "status": status}});
    world.fault(order(1, 429)).await;
    world.fault(order(2, 503)).await;
    let mut page = world.get(CONFIGURATIONS).await.expect(200);
    for status in [429, 200, 503, 200] {
        let next = page.body["@odata.nextLink"].as_str().unwrap().to_owned();
        let answer = world.get(&next).await.expect(status);
        page = if status == 200 { answer } else { page };
    }
    assert_eq!((page.rows().len(), page.body.get("@odata.nextLink")), (1, None));
    let shown = world.control("GET", "faults", None).await.expect(200);
    assert!(shown.body["faults"].as_array().unwrap().iter().all(|it| it["skip"] == 0 && it["applied"] == 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_calls_do_not_overrun_an_order() {
    let world = World::start().await;
    world.fault(json!({"times": 5, "effect": {"kind": "answer", "status": 503}})).await;
    let answers = join_all((0..40).map(|_| world.get(CONFIGURATIONS))).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 503).count(), 5);
    assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 35);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ordered_401_is_a_proper_one() {
    let world = World::start().await;
    world.fault(json!({"method": "GET", "effect": {"kind": "answer", "status": 401}})).await;
    let answer = world.get(CONFIGURATIONS).await.expect(401);
    assert_eq!(answer.code(), "InvalidAuthenticationToken");
    world.control("DELETE", "faults", None).await.expect(204);
    world.get(CONFIGURATIONS).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_can_be_ordered_with_an_answer() {
    let world = World::start().await;
    let effect = json!({"kind": "answer", "status": 200, "body": {"value": []}});
    world.fault(json!({"path_ends": "/deviceEnrollmentConfigurations", "effect": effect})).await;
    assert!(world.get(CONFIGURATIONS).await.expect(200).rows().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_before_applies_nothing_and_a_cut_after_applies_all() {
    let world = World::start().await;
    for (kind, applied) in [("cut_before", 0), ("cut_after", 1)] {
        world.fault(json!({"path_ends": ASSIGN, "times": 1, "effect": {"kind": kind}})).await;
        let path = format!("{CONFIGURATIONS}/{KIOSK_ESP}/assign");
        let lost = sent(world.authorized("POST", &path).json(&assign_body())).await;
        assert!(lost.is_err(), "{lost:?}");
        let call = world.journal().await.pop().unwrap();
        assert_eq!((&call["fault"], call["status"].is_null()), (&json!(kind), kind == "cut_before"));
        assert_eq!(world.assignments(KIOSK_ESP).await.len(), applied);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_call_proceeds_when_the_faults_are_cleared() {
    let world = World::start().await;
    world.fault(json!({"path_ends": ASSIGN, "effect": {"kind": "hold"}})).await;
    let path = format!("{CONFIGURATIONS}/{KIOSK_ESP}/assign");
    let call = world.authorized("POST", &path).json(&assign_body());
    let held = tokio::spawn(async move { got(call).await });
    while world.control("GET", "faults", None).await.body["held"] != 1 {
        tokio::task::yield_now().await;
    }
    assert!(world.assignments(KIOSK_ESP).await.is_empty() && !held.is_finished());
    world.control("DELETE", "faults", None).await.expect(204);
    held.await.unwrap().expect(204);
    assert_eq!(world.assignments(KIOSK_ESP).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_call_takes_effect_though_its_client_has_gone() {
    let world = World::start().await;
    world.fault(json!({"path_ends": ASSIGN, "effect": {"kind": "hold"}})).await;
    let path = format!("{CONFIGURATIONS}/{KIOSK_ESP}/assign");
    let call = world.authorized("POST", &path).json(&assign_body());
    let held = tokio::spawn(sent(call));
    while world.control("GET", "faults", None).await.body["held"] != 1 {
        tokio::task::yield_now().await;
    }
    held.abort();
    assert!(held.await.unwrap_err().is_cancelled());
    world.control("DELETE", "faults", None).await.expect(204);
    while world.assignments(KIOSK_ESP).await.is_empty() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_call_takes_its_time_and_then_effect() {
    let world = World::start().await;
    world.fault(json!({"path_ends": ASSIGN, "effect": {"kind": "slow", "millis": 300}})).await;
    let clock = Clock::system();
    got(world.authorized("POST", &format!("{CONFIGURATIONS}/{KIOSK_ESP}/assign")).json(&assign_body()))
        .await
        .expect(204);
    assert!(clock.elapsed() >= Duration::from_millis(300), "{:?}", clock.elapsed());
    assert_eq!(world.assignments(KIOSK_ESP).await.len(), 1);
    assert!(world.journal().await.iter().any(|call| call["fault"] == "slow"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_read_shows_what_was_there_when_it_was_ordered() {
    let world = World::start().await;
    let order = json!({"method": "GET", "path_ends": "/assignments", "times": 1, "effect": {"kind": "stale"}});
    world.fault(order).await;
    world.assign(KIOSK_ESP, &[group_target(1)]).await.expect(204);
    let path = format!("{CONFIGURATIONS}/{KIOSK_ESP}/assignments");
    for count in [0, 1] {
        let read = got(world.authorized("GET", &path)).await.expect(200);
        assert_eq!(read.body["value"].as_array().unwrap().len(), count);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_cuts_held_calls_and_they_change_nothing() {
    let world = World::start().await;
    world.fault(json!({"path_ends": ASSIGN, "effect": {"kind": "hold"}})).await;
    let path = format!("{CONFIGURATIONS}/{KIOSK_ESP}/assign");
    let held = tokio::spawn(sent(world.authorized("POST", &path).json(&assign_body())));
    while world.control("GET", "faults", None).await.body["held"] != 1 {
        tokio::task::yield_now().await;
    }
    world.control("POST", "reset", None).await.expect(204);
    assert!(held.await.unwrap().is_err());
    assert!(world.journal().await.is_empty());
    assert!(world.assignments(KIOSK_ESP).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_token_endpoint_and_the_key_set_can_be_hit_too() {
    let world = World::start().await;
    world.fault(json!({"path_ends": "/token", "times": 1, "effect": {"kind": "answer", "status": 429}})).await;
    assert_eq!(world.login(&[]).await.expect(429).body["error_codes"], json!([90_055]));
    world.fault(json!({"path_ends": "/issuer/jwks", "effect": {"kind": "answer", "status": 500}})).await;
    got(world.request("GET", "/issuer/jwks")).await.expect(500);
    world.control("POST", "reset", None).await.expect(204);
    world.fault(json!({"effect": {"kind": "answer", "status": 500}})).await;
    got(world.request("GET", "/issuer/jwks")).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_order_is_refused_and_leaves_nothing() {
    let world = World::start().await;
    for order in [
        json!({}),
        json!({"effect": {"kind": "explode"}}),
        json!({"effect": {"kind": "answer", "status": 42}}),
        json!({"effect": {"kind": "hold"}, "times": 0}),
        json!({"effect": {"kind": "stale"}, "path_ends": "/assignments"}),
        json!({"effect": {"kind": "hold"}, "path": "/assign"}),
        json!({"effect": {"kind": "answer", "status": 429, "retry_after": "1\r\nx: y"}}),
    ] {
        let answer = world.control("POST", "faults", Some(order)).await.expect(400);
        assert!(answer.body["error"].as_str().unwrap().len() > 10);
    }
    assert_eq!(world.control("GET", "faults", None).await.body, json!({"faults": [], "held": 0}));
}
