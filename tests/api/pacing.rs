//! One pace for all calls to Graph: throttling and outages concern the tenant, not one configuration.

use std::{collections::BTreeSet, time::Duration};

use postern::clock::Clock;
use serde_json::{Value, json};

use crate::{
    responses::got,
    world::{ASSIGNMENTS, EVERYTHING, KIOSK_ESP, SALES_ESP, Setup, TRIES, World, add, group, remove},
};

fn time(call: &Value) -> jiff::Timestamp {
    call["time"].as_str().unwrap().parse().unwrap()
}

/// Fills the name cache, so that what follows reaches the lanes.
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
    let waiting = world.post("servicenow", ASSIGNMENTS, &remove(KIOSK_ESP, &group(1)), &[("prefer", "wait=1")]).await;
    let third = waiting.expect(202).id();
    let ready = got(world.client.get(format!("{}/readyz", world.gateway().admin_url()))).await;
    assert_eq!(ready.expect(200).text, "ready\n");
    world.clear_faults().await;
    for id in [&first, &second, &third] {
        world.end_of(id).await.succeeded("changed");
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_is_heeded_in_every_form_in_which_it_is_written() {
    for retry_after in ["2", "2.128", "date"] {
        let world = World::start().await;
        warm(&world).await;
        // An HTTP date has whole seconds: of four, more than two remain when it arrives.
        let date = (Clock::system().now() + Duration::from_secs(4)).strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        let written = if retry_after == "date" { date.as_str() } else { retry_after };
        let effect = json!({"kind": "answer", "status": 429, "retry_after": written});
        world.fault(json!({"path_ends": format!("{SALES_ESP}/assign"), "times": 1, "effect": effect})).await;
        let ids = [world.begin(&add(SALES_ESP, &group(1))).await, world.begin(&add(KIOSK_ESP, &group(1))).await];
        for id in &ids {
            world.end_of(id).await.succeeded("changed");
        }
        let calls = world.journal().await;
        let throttled = calls.iter().position(|call| call["status"] == 429).unwrap();
        let again =
            calls[throttled..].iter().rev().find(|call| call["path"].as_str().unwrap().contains(SALES_ESP)).unwrap();
        let pause = time(again).duration_since(time(&calls[throttled])).unsigned_abs();
        assert!(pause >= Duration::from_secs(2), "{retry_after}: asked again after {pause:?}");
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_calls_are_under_way_at_once_than_the_settings_allow() {
    let settings = vec![("GRAPH__CALLS_AT_ONCE_MAX", "2"), ("EXECUTOR__LANES_MAX", "10")];
    let world =
        World::with(Setup { seed: Some(many(10)), settings, policies: vec![EVERYTHING], ..Setup::default() }).await;
    for number in 1..=10 {
        world.post("servicenow", "/v1/plan", &add(&configuration(number), &group(1)), &[]).await.expect(200);
    }
    world.hold("/assignments").await;
    let mut ids = Vec::new();
    for number in 1..=10 {
        ids.push(world.begin(&add(&configuration(number), &group(1))).await);
    }
    world.held(2).await;
    // Once all lanes have started, all of them would call.
    for id in &ids {
        for _ in 0..TRIES {
            if world.operation(id).await.body["state"] == "running" {
                break;
            }
        }
        assert_eq!(world.operation(id).await.body["state"], "running");
    }
    world.held(2).await;
    world.clear_faults().await;
    for id in &ids {
        world.end_of(id).await.succeeded("changed");
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_that_always_has_more_to_do_does_not_keep_others_waiting() {
    let settings = vec![
        ("EXECUTOR__LANES_MAX", "1"),
        ("EXECUTOR__BATCH_MAX", "1"),
        ("GRAPH__WRITES_MAX", "80"),
        ("OPERATIONS__WAIT_MAX", "2m"),
    ];
    let world =
        World::with(Setup { seed: Some(many(10)), settings, policies: vec![EVERYTHING], ..Setup::default() }).await;
    for number in 1..=10 {
        world.post("servicenow", "/v1/plan", &add(&configuration(number), &group(1)), &[]).await.expect(200);
    }
    warm(&world).await;
    world.hold("/assign").await;
    let mut ids = vec![world.begin(&add(SALES_ESP, &group(1))).await];
    world.held(1).await;
    for round in 0..20 {
        let change = if round % 2 == 0 { remove(SALES_ESP, &group(1)) } else { add(SALES_ESP, &group(1)) };
        ids.push(world.begin(&change).await);
    }
    for number in 1..=10 {
        ids.push(world.begin(&add(&configuration(number), &group(1))).await);
    }
    world.clear_faults().await;
    for id in &ids {
        world.end_of(id).await.succeeded("changed");
    }
    let assigns = world.assigns().await;
    let order: Vec<_> = assigns.iter().map(|call| call["path"].as_str().unwrap().contains(SALES_ESP)).collect();
    assert_eq!((order.len(), order.iter().filter(|busy| **busy).count()), (31, 21));
    let last_other = order.iter().rposition(|busy| !busy).unwrap();
    let before = order[..last_other].iter().filter(|busy| **busy).count();
    assert!(before <= 3, "{before} writes of the busy configuration before the last of the others: {order:?}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_halts_in_its_middle_is_given_up_and_asked_for_again() {
    let world = World::with(Setup { settings: vec![("GRAPH__CALL_TIMEOUT", "1s")], ..Setup::default() }).await;
    warm(&world).await;
    let effect = json!({"kind": "halt", "millis": 60_000});
    world.fault(json!({"path_ends": "/assignments", "times": 1, "effect": effect})).await;
    let clock = Clock::system();
    world.change(&add(SALES_ESP, &group(1))).await.succeeded("changed");
    assert!(clock.elapsed() < Duration::from_secs(50), "it was waited for to its end");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_too_large_is_not_read_to_its_end() {
    let swell = json!({"kind": "swell", "bytes": 9 << 20});
    let world = World::start().await;
    warm(&world).await;
    world.fault(json!({"path_ends": "/assignments", "effect": swell})).await;
    let problem = world.change(&add(SALES_ESP, &group(1))).await.problem(502, "present-set-unreadable");
    assert!(problem.body["detail"].as_str().unwrap().contains("larger than"), "{}", problem.text);
    assert!(world.assigns().await.is_empty());
    world.clear_faults().await;
    world.end().await;

    let world = World::start().await;
    world.fault(json!({"path_ends": "/token", "effect": swell})).await;
    world.change(&add(SALES_ESP, &group(1))).await.problem(503, "graph-unavailable");
    world.clear_faults().await;
    world.change(&add(SALES_ESP, &group(1))).await.succeeded("changed");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_503_calls_go_by_a_new_connection() {
    for (status, anew) in [(502, false), (503, true)] {
        let world = World::start().await;
        warm(&world).await;
        world
            .fault(json!({"path_ends": "/assignments", "times": 1, "effect": {"kind": "answer", "status": status}}))
            .await;
        world.change(&add(SALES_ESP, &group(1))).await.succeeded("changed");
        let calls = world.journal().await;
        let failed = calls.iter().position(|call| call["status"] == status).unwrap();
        let peers = |calls: &[Value]| calls.iter().map(|call| call["connection"].to_string()).collect::<BTreeSet<_>>();
        let (before, after) = (peers(&calls[..=failed]), peers(&calls[failed + 1..]));
        assert_eq!(before.is_disjoint(&after), anew, "{status}: {before:?} {after:?}");
        world.end().await;
    }
}

/// The n-th of many configurations.
fn configuration(number: usize) -> String {
    format!("c0000000-0000-4000-8000-{number:012}_Windows10EnrollmentCompletionPageConfiguration")
}

/// The built-in tenant with this many more configurations.
fn many(configurations: usize) -> Value {
    let mut seed: Value = serde_json::from_str(include_str!("../../src/sandbox/default_tenant.json")).unwrap();
    let rows = seed["configurations"].as_array_mut().unwrap();
    for number in 1..=configurations {
        let mut row = rows[1].clone();
        row["id"] = json!(configuration(number));
        row["displayName"] = json!(format!("Page {number}"));
        row["priority"] = json!(number + 10);
        rows.push(row);
    }
    seed
}

/// Nobody calls meanwhile, so a pause taken literally would last until a restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_absurd_pause_is_not_believed() {
    let world = World::start().await;
    let effect = json!({"kind": "answer", "status": 429, "retry_after": "86400000"});
    world.fault(json!({"path_ends": SALES_ESP, "times": 1, "effect": effect})).await;
    let change = add(SALES_ESP, &group(1));
    let refused = world.post("servicenow", ASSIGNMENTS, &change, &[]).await.problem(503, "graph-throttled");
    let pause: u64 = refused.header("retry-after").parse().unwrap();
    assert!((1..=300).contains(&pause), "{pause}");
    world.end().await;
}
