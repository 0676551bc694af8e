//! Limits per caller, and what is left for the others.

use futures_util::future::{Either, select};
use serde_json::json;

use crate::world::{ASSIGNMENTS, Setup, World, add, group};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_asks_too_often_is_told_when_to_come_back_and_others_are_served() {
    let name = "name = \"servicenow\"\n";
    let edits = vec![(name, format!("{name}calls_max = 3\n"))];
    let world = World::with(Setup { edits, ..Setup::default() }).await;
    let ask = async || world.post("servicenow", ASSIGNMENTS, &json!({}), &[]).await;
    let first = ask().await.problem(422, "invalid-change");
    assert_eq!(first.header("ratelimit-policy"), "\"caller\";q=3;w=60");
    assert_eq!(first.header("ratelimit"), "\"caller\";r=2;t=20");
    let mut refused = None;
    for _ in 0..20 {
        let answer = ask().await;
        if answer.status == 429 {
            refused = Some(answer.problem(429, "rate-limited"));
            break;
        }
    }
    let refused = refused.unwrap();
    let pause: u64 = refused.header("retry-after").parse().unwrap();
    assert!((1..=20).contains(&pause), "{pause}");
    assert_eq!(refused.header("ratelimit"), format!("\"caller\";r=0;t={pause}"));
    assert_eq!(refused.body["retryable"], true);
    let portal = world.get("portal", "/v1/operations").await.expect(200);
    assert_eq!(portal.header("ratelimit-policy"), "\"caller\";q=6000;w=60");
    let nobody = world.send(world.bare("GET", "/v1/operations")).await.problem(401, "unauthenticated");
    assert_eq!(nobody.header("ratelimit"), "");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_beyond_those_that_may_wait_are_answered_at_once() {
    let world = World::with(Setup { settings: vec![("SERVER__WAITS_MAX", "1")], ..Setup::default() }).await;
    world.hold("/assign").await;
    world.token("servicenow").await;
    let wait = async |number| world.change(&add("Sales ESP", &group(number))).await;
    let (one, two) = (Box::pin(wait(1)), Box::pin(wait(2)));
    let (answered, waiting) = match select(one, two).await {
        Either::Left((answered, waiting)) | Either::Right((answered, waiting)) => (answered.expect(202), waiting),
    };
    assert_eq!((answered.header("preference-applied"), answered.header("retry-after")), ("wait=0", "2"));
    // Reading an operation counts as waiting, too, and a caller who does not wait is answered as usual.
    let path = format!("/v1/operations/{}", answered.id());
    let request = world.request("servicenow", "GET", &path).await.header("prefer", "wait=25");
    let looked = world.send(request).await.expect(200);
    assert_eq!(looked.header("preference-applied"), "wait=0");
    world.clear_faults().await;
    waiting.await.succeeded("changed");
    world.end_of(&answered.id()).await.succeeded("changed");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_whose_names_have_to_be_looked_up_keeps_nobody_elses_waiting() {
    let world = World::start().await;
    let held = json!({"path_ends": "/groups", "query_has": "Nothing", "effect": {"kind": "hold"}});
    world.fault(held).await;
    let names: Vec<_> = (0..10).map(|number| json!({"group": format!("Nothing {number}")})).collect();
    let many = json!({"configuration": "Sales ESP", "add": names});
    let (many, other) = (Box::pin(world.change(&many)), async {
        world.held(3).await;
        world.post("portal", ASSIGNMENTS, &add("Kiosk ESP", "Warehouse Tablets"), &[]).await.succeeded("changed");
        // As many as before: the other lookups wait for these.
        world.held(3).await;
    });
    match select(many, Box::pin(other)).await {
        Either::Left((answered, _)) => panic!("what is held is answered: {}", answered.text),
        Either::Right(((), many)) => {
            world.clear_faults().await;
            let refused = many.await.problem(422, "unknown-target");
            assert_eq!(refused.body["errors"].as_array().unwrap().len(), 10);
        }
    }
    world.end().await;
}
