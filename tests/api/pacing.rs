//! One pace for all calls to Graph: throttling and outages are the tenant's, not one configuration's.

use std::time::Duration;

use serde_json::{Value, json};

use crate::world::{KIOSK_ESP, SALES_ESP, Setup, World, add, group};

fn time(call: &Value) -> jiff::Timestamp {
    call["time"].as_str().unwrap().parse().unwrap()
}

/// Fills the memory of names, so that what follows reaches the lanes.
async fn warm(world: &World) {
    for configuration in [SALES_ESP, KIOSK_ESP] {
        world.post("servicenow", "/v1/plan", &add(configuration, &group(1)), &[]).await.expect(200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_that_graph_names_holds_every_configuration() {
    let world = World::start().await;
    warm(&world).await;
    let path = format!("{SALES_ESP}/assign");
    let effect = json!({"kind": "answer", "status": 429, "retry_after": "6"});
    world.fault(json!({"path_ends": path, "times": 1, "effect": effect})).await;
    let first = world.begin(&add(SALES_ESP, &group(1))).await;
    assert!(world.parked(&first).await.contains("throttling"));
    let second = world.begin(&add(KIOSK_ESP, &group(1))).await;
    for id in [&first, &second] {
        world.end_of(id).await.succeeded("changed");
    }
    let calls = world.journal().await;
    let throttled = calls.iter().position(|call| call["status"] == 429).unwrap();
    let (throttled, later) = (&calls[throttled], &calls[throttled + 1..]);
    assert!(later.len() >= 4, "each read and wrote");
    let pause = later.iter().map(|call| time(call).duration_since(time(throttled))).min().unwrap();
    assert!(pause.unsigned_abs() >= Duration::from_secs(6), "somebody asked after {pause:?}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_are_accepted_through_an_outage_and_carried_when_it_is_over() {
    let world = World::with(Setup { settings: vec![("GRAPH__ATTEMPTS_MAX", "10")], ..Setup::default() }).await;
    warm(&world).await;
    world.fault(json!({"path_ends": "/assignments", "effect": {"kind": "answer", "status": 502}})).await;
    let first = world.begin(&add(SALES_ESP, &group(1))).await;
    assert_eq!(world.parked(&first).await, "Graph is not available");
    let failed = world.journal().await.iter().filter(|call| call["status"] == 502).count();
    assert!(failed < 10, "after a few failures in a row Graph is left alone, not asked {failed} times");
    let second = world.begin(&add(KIOSK_ESP, &group(1))).await;
    assert_eq!(world.parked(&second).await, "Graph is not available");
    world.clear_faults().await;
    for id in [&first, &second] {
        world.end_of(id).await.succeeded("changed");
    }
    world.end().await;
}
