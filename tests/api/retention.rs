//! Operations that ended long ago are removed, and their audit records stay.

use serde_json::json;
use sqlx::{Connection, SqliteConnection};

use crate::world::{ASSIGNMENTS, TRIES, World, add, group};

/// Moves the ends of operations and the expiry of keys back by this many days.
async fn pass(world: &World, days: i64) {
    let url = format!("sqlite:{}", world.store().display());
    let mut connection = SqliteConnection::connect(&url).await.unwrap();
    let micros = days * 24 * 3_600 * 1_000_000;
    for sql in [
        "UPDATE operations SET ended_at = ended_at - ?1, key_expires_at = key_expires_at - ?1",
        "UPDATE idempotency_keys SET expires_at = expires_at - ?1",
    ] {
        sqlx::query(sql).bind(micros).execute(&mut connection).await.unwrap();
    }
    connection.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_operation_is_removed_with_its_key_and_its_records_stay() {
    let mut world = World::start().await;
    let ask = [("idempotency-key", "k"), ("prefer", "wait=25")];
    let body = add("Sales ESP", &group(1));
    let old = world.post("servicenow", ASSIGNMENTS, &body, &ask).await.succeeded("changed");
    world.take_gateway().stop().await;
    pass(&world, 89).await;
    world.start_gateway().await;
    let young = world.change(&add("Sales ESP", &group(2))).await.succeeded("changed");
    world.operation(&old).await.succeeded("changed");
    world.take_gateway().stop().await;
    pass(&world, 2).await;
    world.start_gateway().await;
    let path = format!("/v1/operations/{old}");
    let mut found = world.get("servicenow", &path).await;
    for _ in 0..TRIES {
        if found.status == 404 {
            break;
        }
        found = world.get("servicenow", &path).await;
    }
    found.problem(404, "unknown-operation");
    world.operation(&young).await.succeeded("changed");
    let page = world.get("servicenow", "/v1/operations").await.expect(200);
    assert_eq!(page.body["operations"].as_array().unwrap().len(), 1);
    // Its key is free: the same request is a new change, and finds nothing to do.
    let again = world.post("servicenow", ASSIGNMENTS, &body, &ask).await;
    assert_ne!(again.succeeded("unchanged"), old);
    assert_eq!(again.header("idempotency-replayed"), "");
    let accepted = world.events("accepted").await;
    assert_eq!((accepted.len(), &accepted[0]["operation"]), (3, &json!(old)));
    world.end().await;
}
