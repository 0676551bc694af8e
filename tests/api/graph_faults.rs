//! Every kind of fault of Graph and of its login service, on every call of a change: each must end in the right set and
//! in the right state of its operation.

use std::time::Duration;

use postern::clock::Clock;
use serde_json::{Value, json};

use crate::world::{SALES_ESP, Setup, World, add, group, remove};

fn answer(status: u16, retry_after: Option<&str>) -> Value {
    json!({"kind": "answer", "status": status, "retry_after": retry_after})
}

/// Transient faults that can hit any call.
fn passing() -> Vec<Value> {
    let mut faults = vec![
        answer(429, Some("1")),
        answer(429, Some("0.25")),
        answer(429, None),
        json!({"kind": "slow", "millis": 250}),
        json!({"kind": "cut_before"}),
        json!({"kind": "cut_after"}),
    ];
    faults.extend([500, 502, 503, 504].map(|status| answer(status, None)));
    faults.push(answer(503, Some("1")));
    faults
}

/// Faults in responses whose body is read.
fn misread() -> Vec<Value> {
    let bodies = [json!({}), json!([]), json!("later"), json!({"value": "none"}), json!({"value": null})];
    bodies.map(|body| json!({"kind": "answer", "status": 200, "body": body})).to_vec()
}

/// Adds or removes a group under this fault; the set and the operation must agree.
async fn toggled(world: &World, there: &mut bool, (path, times, effect): (&str, u32, &Value)) {
    world.fault(json!({"path_ends": path, "times": times, "effect": effect})).await;
    let body = if *there { remove(SALES_ESP, &group(1)) } else { add(SALES_ESP, &group(1)) };
    let changed = world.change(&body).await;
    assert_eq!(changed.status, 200, "{path} {effect}: {}", changed.text);
    changed.succeeded("changed");
    *there = !*there;
    let groups = world.groups(SALES_ESP).await;
    assert_eq!((groups.contains(&group(1)), groups.len()), (*there, 3 + usize::from(*there)), "{path} {effect}");
    world.clear_faults().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_passing_fault_of_a_lanes_calls_ends_in_the_right_set() {
    let world = World::start().await;
    let mut there = false;
    for times in [1, 2] {
        for effect in passing() {
            toggled(&world, &mut there, ("/assign", times, &effect)).await;
        }
        for effect in passing().into_iter().chain(misread()) {
            toggled(&world, &mut there, ("/assignments", times, &effect)).await;
        }
    }
    assert!(world.events("drift-seen").await.is_empty());
    let operations = 2 * (2 * passing().len() + misread().len());
    assert_eq!(world.events("settled").await.len(), operations);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_passing_fault_before_the_acceptance_is_waited_out_or_told_and_leaves_nothing_behind() {
    for path in ["/token", SALES_ESP, "/groups"] {
        for effect in passing().into_iter().chain(misread()) {
            let world = World::start().await;
            world.fault(json!({"path_ends": path, "times": 1, "effect": effect})).await;
            let first = world.change(&add("Sales ESP", "Sales Laptops")).await;
            if first.status == 200 {
                first.succeeded("changed");
            } else {
                assert_eq!(first.body["retryable"], true, "{path} {effect}: {}", first.text);
                assert!(world.events("accepted").await.is_empty(), "{path} {effect}: {}", first.text);
                world.change(&add("Sales ESP", "Sales Laptops")).await.succeeded("changed");
            }
            assert_eq!(world.groups(SALES_ESP).await.len(), 4, "{path} {effect}");
            world.clear_faults().await;
            world.end().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_that_is_too_slow_is_given_up_and_repeated() {
    let world = World::with(Setup { settings: vec![("GRAPH__CALL_TIMEOUT", "1s")], ..Setup::default() }).await;
    let mut there = false;
    toggled(&world, &mut there, ("/assignments", 1, &json!({"kind": "slow", "millis": 60_000}))).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_that_shows_the_set_as_it_was_before_our_write_undoes_nothing() {
    let world = World::start().await;
    // The first read is current; the second is stale.
    world.fault(json!({"method": "GET", "path_ends": "/assignments", "times": 2, "effect": {"kind": "stale"}})).await;
    for number in [1, 2] {
        world.change(&add(SALES_ESP, &group(number))).await.succeeded("changed");
    }
    assert_eq!(world.groups(SALES_ESP).await.len(), 5);
    assert!(world.events("drift-seen").await.is_empty(), "nobody else changed anything");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_that_end_all_the_time_stop_no_change() {
    let world = World::start().await;
    world.switch("token_lifetime_seconds", 1).await;
    let slow = json!({"path_ends": "/assign", "effect": {"kind": "slow", "millis": 300}});
    world.fault(slow).await;
    let mut there = false;
    for _ in 0..6 {
        let body = if there { remove(SALES_ESP, &group(1)) } else { add(SALES_ESP, &group(1)) };
        world.change(&body).await.succeeded("changed");
        there = !there;
    }
    let journal = world.journal().await;
    let tokens = journal.iter().filter(|call| call["path"].as_str().unwrap().ends_with("/token")).count();
    assert!(tokens >= 2, "{tokens}");
    let applied = world.assigns().await.into_iter().filter(|call| call["status"] == 204).count();
    assert_eq!((world.groups(SALES_ESP).await.len(), applied), (3, 6));
    world.clear_faults().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_ends_while_its_write_is_on_the_way_is_replaced() {
    let world = World::start().await;
    world.switch("token_lifetime_seconds", 2).await;
    world.hold("/assign").await;
    let id = world.begin(&add(SALES_ESP, &group(1))).await;
    world.held(1).await;
    Clock::system().sleep(Duration::from_secs(3)).await;
    world.clear_faults().await;
    world.end_of(&id).await.succeeded("changed");
    let statuses: Vec<_> = world.assigns().await.iter().map(|call| call["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [401, 204]);
    world.end().await;
}
