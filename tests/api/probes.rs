//! The probes, on their own address.

use serde_json::json;
use sqlx::{Connection as _, Executor as _, SqliteConnection};

use crate::{
    responses::{got, sent},
    world::{TRIES, World, add, group},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_gateway_is_alive_and_ready_whatever_graph_does() {
    let world = World::start().await;
    world.fault(json!({"effect": {"kind": "answer", "status": 503}})).await;
    let admin = world.gateway().admin_url();
    for (path, word) in [("livez", "alive\n"), ("readyz", "ready\n")] {
        assert_eq!(got(world.client.get(format!("{admin}/{path}"))).await.expect(200).text, word);
    }
    for path in ["/", "/v1/operations", "/v1/assignments"] {
        // The internal address does not serve the API.
        assert_eq!(sent(world.client.get(format!("{admin}{path}"))).await.unwrap().status(), 404);
    }
    assert!(world.journal().await.is_empty(), "a probe asks nothing of Graph");
    world.end().await;
}

/// While a call is held, shutdown lasts until its deadline, so that its behaviour can be observed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_stops_is_not_ready_but_alive_and_lets_waiting_callers_go() {
    let mut world = World::start().await;
    world.hold("/assign").await;
    let begun = world.begin(&add("Sales ESP", &group(1))).await;
    world.held(1).await;
    let path = format!("/v1/operations/{begun}");
    let waiting = tokio::spawn(got(world.request("servicenow", "GET", &path).await.header("prefer", "wait=25")));
    let posting = world.request("servicenow", "POST", "/v1/assignments").await.json(&add("Sales ESP", &group(2)));
    let posting = tokio::spawn(got(posting.header("prefer", "wait=25")));
    let mut accepted = 0;
    for _ in 0..TRIES {
        accepted = world.events("accepted").await.len();
        if accepted == 2 {
            break;
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(accepted, 2);
    let gateway = world.take_gateway();
    let (admin, client) = (gateway.admin_url(), world.client.clone());
    let readiness = async {
        let mut seen = None;
        for _ in 0..TRIES {
            match sent(client.get(format!("{admin}/readyz"))).await {
                Ok(answer) if answer.status() == 200 => tokio::task::yield_now().await,
                Ok(answer) => {
                    let status = answer.status().as_u16();
                    let alive = sent(client.get(format!("{admin}/livez"))).await.map(|it| it.status().as_u16());
                    seen = Some((status, answer.text().await.unwrap(), alive.ok()));
                    break;
                }
                Err(_) => break,
            }
        }
        let ended = (waiting.await.unwrap(), posting.await.unwrap());
        world.clear_faults().await;
        (seen, ended)
    };
    let ((seen, (waited, posted)), ()) = tokio::join!(readiness, gateway.stop());
    assert_eq!(waited.expect(200).body["state"], "running", "who waits at a stop gets what there is");
    assert!(posted.clone().expect(202).header("location").starts_with("/v1/operations/op_"));
    assert_eq!(
        seen,
        Some((503, "not ready: stopping\n".to_owned(), Some(200))),
        "not ready must be seen during a stop"
    );
    world.start_gateway().await;
    for id in [begun, posted.id()] {
        world.end_of(&id).await.succeeded("changed");
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_whose_store_does_not_write_is_not_ready_and_accepts_nothing() {
    let world = World::start().await;
    world.change(&add("Sales ESP", &group(1))).await.succeeded("changed");
    // Another writer that keeps its lock, as a misbehaving backup program would.
    let store = format!("sqlite://{}", world.store().display());
    let mut other = SqliteConnection::connect(&store).await.unwrap();
    other.execute("BEGIN EXCLUSIVE").await.unwrap();
    let ready = format!("{}/readyz", world.gateway().admin_url());
    let answer = got(world.client.get(&ready)).await.expect(503);
    assert!(answer.text.starts_with("not ready: "), "{}", answer.text);
    world.change(&add("Sales ESP", &group(2))).await.problem(503, "store-unavailable");
    other.execute("ROLLBACK").await.unwrap();
    other.close().await.unwrap();
    got(world.client.get(&ready)).await.expect(200);
    world.change(&add("Sales ESP", &group(2))).await.succeeded("changed");
    assert_eq!(world.events("accepted").await.len(), 2);
    world.end().await;
}
