//! How long a caller waits, and how it is answered when that was not long enough.

use crate::world::{ASSIGNMENTS, SALES_ESP, Setup, World, add, group};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_want_to_wait_gets_a_link_and_can_wait_there() {
    let world = World::start().await;
    world.hold("/assign").await;
    let headers = [("prefer", "respond-async")];
    let answer = world.post("servicenow", ASSIGNMENTS, &add("Sales ESP", &group(1)), &headers).await.expect(202);
    let id = answer.id();
    assert_eq!(answer.header("location"), format!("/v1/operations/{id}"));
    assert_eq!(answer.header("preference-applied"), "respond-async");
    assert!(answer.header("retry-after").parse::<u64>().unwrap() >= 1);
    assert!(["queued", "running"].contains(&answer.body["state"].as_str().unwrap()));
    for absent in ["difference", "effect", "graph", "problem"] {
        assert!(answer.body.get(absent).is_none(), "{absent} before the end: {}", answer.text);
    }
    world.held(1).await;
    let running = world.operation(&id).await;
    assert_eq!(running.body["state"], "running");
    assert!(running.body["started_at"].is_string() && running.body["ended_at"].is_null());
    let waiting = world.request("servicenow", "GET", answer.header("location")).await.header("prefer", "wait=20");
    let (ended, ()) = tokio::join!(world.send(waiting), world.clear_faults());
    ended.succeeded("changed");
    assert_eq!(ended.header("preference-applied"), "wait=20");
    assert!(!ended.headers.contains_key("retry-after"), "{ended:?}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_that_is_too_short_ends_in_202_and_the_change_goes_on() {
    let world = World::start().await;
    world.hold("/assign").await;
    for (number, wait) in [(1, "wait=0"), (2, "wait=1")] {
        let headers = [("prefer", wait)];
        let answer = world.post("servicenow", ASSIGNMENTS, &add("Sales ESP", &group(number)), &headers).await;
        assert_eq!((answer.status, answer.header("preference-applied")), (202, wait), "{}", answer.text);
        assert_eq!(answer.header("location"), format!("/v1/operations/{}", answer.id()));
        let still = world.operation(&answer.id()).await;
        assert_ne!(still.body["state"], "succeeded");
    }
    world.clear_faults().await;
    let page = world.get("servicenow", "/v1/operations").await.expect(200);
    for operation in page.body["operations"].as_array().unwrap() {
        world.end_of(operation["id"].as_str().unwrap()).await.succeeded("changed");
    }
    let groups = world.groups(SALES_ESP).await;
    assert!(groups.contains(&group(1)) && groups.contains(&group(2)));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_says_nothing_waits_the_usual_time_and_nobody_waits_beyond_the_longest() {
    let settings = vec![("OPERATIONS__WAIT_DEFAULT", "1s"), ("OPERATIONS__WAIT_MAX", "2s")];
    let world = World::with(Setup { settings, ..Setup::default() }).await;
    let quick = world.post("servicenow", ASSIGNMENTS, &add("Kiosk ESP", &group(2)), &[]).await;
    quick.succeeded("changed");
    assert!(!quick.headers.contains_key("preference-applied"), "{quick:?}");
    world.hold("/assign").await;
    let answer = world.post("servicenow", ASSIGNMENTS, &add("Sales ESP", &group(1)), &[]).await.expect(202);
    assert!(!answer.headers.contains_key("preference-applied"), "{answer:?}");
    let link = format!("/v1/operations/{}", answer.id());
    let waiting = world.request("servicenow", "GET", &link).await.header("prefer", "wait=3600");
    let bounded = world.send(waiting).await.expect(200);
    assert_eq!((bounded.header("preference-applied"), &bounded.body["state"]), ("wait=2", &"running".into()));
    assert_eq!(bounded.header("location"), link);
    world.clear_faults().await;
    world.end_of(&answer.id()).await.succeeded("changed");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_hangs_up_changes_nothing_about_its_change() {
    let world = World::start().await;
    world.hold("/assign").await;
    let request = world.request("servicenow", "POST", ASSIGNMENTS).await.json(&add("Sales ESP", &group(1)));
    let asking = tokio::spawn(crate::responses::sent(request.header("prefer", "wait=20")));
    world.held(1).await;
    asking.abort();
    assert!(asking.await.unwrap_err().is_cancelled());
    world.clear_faults().await;
    let page = world.get("servicenow", "/v1/operations").await.expect(200);
    let id = page.body["operations"][0]["id"].as_str().unwrap();
    world.end_of(id).await.succeeded("changed");
    world.end().await;
}
