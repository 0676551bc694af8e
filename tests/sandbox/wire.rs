//! Headers, error shapes and routes of Graph.

use serde_json::Value;

use crate::world::{CONFIGURATIONS, DEFAULT_LIMIT, KIOSK_ESP, SALES_ESP, World, got, sent};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_is_identified() {
    let world = World::start().await;
    let unknown = format!("{CONFIGURATIONS}/x_Limit");
    for path in [CONFIGURATIONS, "/beta/groups", "/beta/nowhere", "/deviceManagement", &unknown] {
        let answer = got(world.authorized("GET", path).header("client-request-id", "mine")).await;
        assert_eq!(answer.headers["client-request-id"], "mine", "{path}");
        assert!(answer.headers.contains_key("date"));
        let diagnostic: Value = serde_json::from_str(&answer.headers["x-ms-ags-diagnostic"]).unwrap();
        assert!(diagnostic["ServerInfo"]["RoleInstance"].is_string());
        let own = world.get(path).await;
        assert_eq!(own.headers["client-request-id"], own.headers["request-id"]);
        assert_ne!(own.headers["request-id"], answer.headers["request-id"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_compressed_when_asked() {
    let world = World::start().await;
    let plain = got(world.authorized("GET", CONFIGURATIONS).header("accept-encoding", "identity")).await;
    assert!(!plain.headers.contains_key("content-encoding"));
    let literal = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).gzip(false).build().unwrap();
    let asking = literal.get(world.url(CONFIGURATIONS)).bearer_auth(&world.token).header("accept-encoding", "gzip");
    assert_eq!(sent(asking).await.unwrap().headers()["content-encoding"], "gzip");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_have_an_inner_error_whose_date_has_no_zone() {
    let world = World::start().await;
    for path in ["/beta/groups/00000000-0000-4000-8000-000000000001", &format!("{CONFIGURATIONS}/x_Limit")] {
        let answer = world.get(path).await.expect(404);
        let inner = &answer.body["error"]["innerError"];
        let date = inner["date"].as_str().unwrap();
        assert!(date.len() == 19 && !date.ends_with('Z'), "{date}");
        assert_eq!(inner["request-id"], answer.headers["request-id"]);
        assert_eq!(inner["client-request-id"], answer.headers["client-request-id"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_of_intune_hide_json_in_their_message() {
    let world = World::start().await;
    let answer = world.assign(DEFAULT_LIMIT, &[]).await.expect(403);
    let nested: Value = serde_json::from_str(answer.message()).unwrap();
    assert_eq!((&nested["_version"], &nested["RetryAfter"]), (&Value::from(3), &Value::Null));
    let told = nested["Message"].as_str().unwrap();
    assert!(told.contains(" - Operation ID (for customer support): 00000000-0000-0000-0000-000000000000"));
    assert!(told.contains(&format!("Activity ID: {}", answer.headers["request-id"])));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_take_other_shapes_by_switch() {
    let world = World::start().await;
    world.switch("inner_error", "lowercase").await;
    assert!(world.assign(DEFAULT_LIMIT, &[]).await.expect(403).body["error"].get("innererror").is_some());
    world.switch("error_shape", "doubly_nested").await;
    let answer = world.assign(DEFAULT_LIMIT, &[]).await.expect(401);
    assert_eq!(answer.code(), "UnknownError");
    let outer: Value = serde_json::from_str(answer.message()).unwrap();
    let inner: Value = serde_json::from_str(outer["Message"].as_str().unwrap()).unwrap();
    assert_eq!((&outer["ErrorCode"], &inner["_version"]), (&Value::from("Forbidden"), &Value::from(3)));
    world.switch("error_shape", "html").await;
    assert!(world.assign(DEFAULT_LIMIT, &[]).await.expect(403).text.starts_with("<!DOCTYPE html>"));
    world.switch("error_shape", "empty").await;
    assert!(world.assign(DEFAULT_LIMIT, &[]).await.expect(403).text.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_routed_is_400_and_never_405() {
    let world = World::start().await;
    let set = format!("{CONFIGURATIONS}/{SALES_ESP}/assignments");
    let one = format!("{set}/some");
    let assign = format!("{CONFIGURATIONS}/{KIOSK_ESP}/assign");
    let calls = [("POST", &set), ("DELETE", &one), ("PATCH", &one), ("GET", &assign), ("DELETE", &assign)];
    for (method, path) in calls {
        let answer = got(world.authorized(method, path)).await.expect(400);
        assert_eq!(answer.code(), "No method match route template");
        assert!(answer.message().contains(&format!("with http verb {method} for request")), "{}", answer.message());
    }
    let answer = got(world.authorized("POST", &set)).await;
    assert!(answer.message().contains("~/singleton/navigation/key/navigation with"), "{}", answer.message());
    for path in ["/beta/nowhere", "/v1.0/deviceManagement/nothing", "/beta"] {
        world.get(path).await.expect(400);
    }
    assert_eq!(world.assignments(SALES_ESP).await.len(), 4);
    world.switch("assignment_patch", "not_allowed").await;
    got(world.authorized("PATCH", &one)).await.expect(405);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_version_is_said_to_be_invalid() {
    let world = World::start().await;
    let answer = world.get("/deviceManagement/deviceEnrollmentConfigurations").await.expect(404);
    assert_eq!(answer.message(), "Invalid version: devicemanagement");
}
