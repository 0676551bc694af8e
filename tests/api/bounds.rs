//! The limits on pending operations.

use serde_json::json;

use crate::{
    responses::Reply,
    world::{ASSIGNMENTS, Setup, World, add, group},
};

async fn ask(world: &World, configuration: &str, number: usize, key: &str) -> Reply {
    let headers = [("prefer", "respond-async"), ("idempotency-key", key)];
    world.post("servicenow", ASSIGNMENTS, &add(configuration, &group(number)), &headers).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_beyond_the_bounds_is_refused_for_now_and_not_stored() {
    let settings = vec![("OPERATIONS__PENDING_MAX", "3"), ("OPERATIONS__PENDING_PER_CONFIGURATION_MAX", "2")];
    let world = World::with(Setup { settings, ..Setup::default() }).await;
    world.hold("/assign").await;
    let mut ids = vec![ask(&world, "Sales ESP", 1, "a").await.expect(202).id()];
    world.held(1).await;
    ids.push(ask(&world, "Sales ESP", 2, "b").await.expect(202).id());
    let refused = ask(&world, "Sales ESP", 6, "c").await.problem(429, "too-many-pending");
    assert_eq!((refused.header("retry-after"), &refused.body["retryable"]), ("30", &json!(true)));
    assert!(refused.body["detail"].as_str().unwrap().contains("Sales ESP"), "{}", refused.text);
    ids.push(ask(&world, "Kiosk ESP", 1, "d").await.expect(202).id());
    let refused = ask(&world, "Corporate Windows only", 1, "e").await.problem(503, "gateway-full");
    assert_eq!((refused.header("retry-after"), &refused.body["retryable"]), ("30", &json!(true)));
    // Operations accepted before are still found by their key.
    let again = ask(&world, "Sales ESP", 2, "b").await.expect(202);
    assert_eq!((again.id(), again.header("idempotency-replayed")), (ids[1].clone(), "true"));
    assert_eq!(world.events("accepted").await.len(), 3);
    world.clear_faults().await;
    for id in &ids {
        world.end_of(id).await.succeeded("changed");
    }
    for (configuration, number, key) in [("Sales ESP", 6, "c"), ("Corporate Windows only", 1, "e")] {
        let accepted = ask(&world, configuration, number, key).await;
        assert_eq!(accepted.header("idempotency-replayed"), "");
        world.end_of(&accepted.id()).await.succeeded("changed");
    }
    world.end().await;
}
