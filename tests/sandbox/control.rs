//! Inspecting and configuring the sandbox.

use std::io::Write as _;

use postern::clock::Clock;
use postern::sandbox::{self, Options, Seed};
use serde_json::{Value, json};

use crate::world::{CONFIGURATIONS, KIOSK_ESP, SALES_ESP, SECRET, World, got, group, group_target};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_state_shows_what_the_tenant_holds() {
    let world = World::start().await;
    let state = world.control("GET", "state", None).await.expect(200).body;
    let sales = &state["configurations"][0];
    assert_eq!((&sales["id"], &sales["displayName"]), (&json!(SALES_ESP), &json!("Sales ESP")));
    assert_eq!(sales["assignments"], json!(world.assignments(SALES_ESP).await));
    assert_eq!(state["groups"][0]["displayName"], "Sales Laptops");
    assert_eq!(state["groups"][6]["id"], group(7));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_journal_tells_each_call_and_no_secret() {
    let world = World::start().await;
    let path = format!("{CONFIGURATIONS}/{KIOSK_ESP}/assign");
    let body = json!({"enrollmentConfigurationAssignments": [{"target": group_target(1)}]});
    let traced = world.authorized("POST", &path).header("client-request-id", "mine").header("traceparent", "00-1-2-01");
    let answer = got(traced.header("user-agent", "test/1").json(&body)).await.expect(204);
    world.login(&[("client_secret", "guess")]).await.expect(401);
    let json_form = format!("/{}/oauth2/v2.0/token?client_secret={SECRET}", crate::world::TENANT);
    got(world.request("POST", &json_form).body(format!("{{\"client_secret\": \"{SECRET}\""))).await.expect(400);
    let journal = world.control("GET", "journal", None).await.expect(200);
    assert!(!journal.text.contains(SECRET) && !journal.text.contains("guess") && !journal.text.contains(&world.token));
    assert_eq!(journal.body["dropped"], 0);
    let call = &journal.body["calls"][1];
    assert_eq!((&call["method"], &call["path"], &call["status"]), (&json!("POST"), &json!(path), &json!(204)));
    assert_eq!((&call["request"], &call["answer"]), (&body, &Value::Null));
    assert_eq!(call["request-id"], answer.headers["request-id"]);
    assert_eq!((&call["client-request-id"], &call["traceparent"]), (&json!("mine"), &json!("00-1-2-01")));
    assert_eq!(call["user_agent"], "test/1");
    assert!(call["time"].as_str().unwrap().ends_with('Z'));
    assert_eq!(journal.body["calls"][0]["request"]["grant_type"], "client_credentials");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_journal_is_bounded_and_says_what_it_dropped() {
    let world = World::start().await;
    world.switch("journal_limit", 3).await;
    for _ in 0..5 {
        world.get("/beta/groups").await.expect(200);
    }
    let journal = world.control("GET", "journal", None).await.body;
    assert_eq!((journal["calls"].as_array().unwrap().len(), &journal["dropped"]), (3, &json!(3)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_goes_back_to_the_seed() {
    let world = World::start().await;
    let before = world.control("GET", "state", None).await.body;
    world.assign(SALES_ESP, &[]).await.expect(204);
    world.control("DELETE", &format!("groups/{}", group(1)), None).await.expect(204);
    world.switch("page_size", 1).await;
    world.fault(json!({"effect": {"kind": "answer", "status": 500}})).await;
    world.control("POST", "reset", None).await.expect(204);
    assert!(world.journal().await.is_empty());
    assert_eq!(world.control("GET", "state", None).await.body, before);
    assert_eq!(world.get(CONFIGURATIONS).await.expect(200).rows().len(), 9);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn switches_are_shown_and_wrong_ones_refused() {
    let world = World::start().await;
    let shown = world.control("GET", "switches", None).await.expect(200).body;
    assert_eq!((&shown["assign_answer"], &shown["page_size"]), (&json!("no_content"), &Value::Null));
    for (wrong, told) in [
        (json!({"asign_answer": "ok_json"}), "asign_answer"),
        (json!({"assign_answer": "maybe"}), "ok_json"),
        (json!({"page_size": 0}), "page_size"),
        (json!({"page_size": -1}), "page_size"),
        (json!([]), "body"),
    ] {
        let answer = world.control("POST", "switches", Some(wrong)).await.expect(400);
        assert!(answer.body["error"].as_str().unwrap().contains(told), "{}", answer.text);
    }
    assert_eq!(world.control("GET", "switches", None).await.body, shown);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_to_the_controls_is_answered_with_a_sentence() {
    let world = World::start().await;
    for (method, path, body, status) in [
        ("POST", "token", Some(json!({"caler": "portal"})), 400),
        ("POST", "issuer/rotate", Some(json!({"keep": true})), 400),
        ("DELETE", "groups/x", None, 400),
        ("DELETE", "groups/00000000-0000-4000-8000-000000000001", None, 404),
        ("PUT", "state", None, 404),
    ] {
        let answer = world.control(method, path, body).await.expect(status);
        assert!(answer.body["error"].as_str().unwrap().len() > 10, "{}", answer.text);
    }
}

fn load(text: &str) -> Result<Seed, sandbox::Error> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    Seed::load(file.path())
}

#[test]
fn a_bad_seed_says_what_is_wrong_and_where() {
    let built_in = include_str!("../../src/sandbox/default_tenant.json");
    load(built_in).unwrap();
    for (from, to, told) in [
        ("\"tenant_id\"", "\"tenantId\"", "unknown field `tenantId`"),
        ("\"displayName\": \"Sales Staff\"", "\"displayName\": 5", "line"),
        ("000000000002_Win", "000000000001_Win", "configurations[1]"),
        ("#microsoft.graph.allLicensedUsers", "#microsoft.graph.someUsers", "configurations[3].assignments[0].target"),
        ("0001-01-01T", "0001-13-01T", "createdDateTime"),
        ("_Limit\"", "\"", "configurations[3].id"),
    ] {
        let error = load(&built_in.replace(from, to)).unwrap_err().to_string();
        assert!(error.contains(told) && error.contains("docs/sandbox.md"), "{error}");
    }
    let missing = Seed::load("/nowhere/seed.json").unwrap_err().to_string();
    assert!(missing.contains("/nowhere/seed.json"), "{missing}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_port_is_refused_and_a_stopped_sandbox_frees_it() {
    let world = World::start().await;
    let listen = world.sandbox.url().strip_prefix("http://").unwrap().parse().unwrap();
    let options = || Options { listen, seed: None, clock: Clock::system() };
    let error = sandbox::start(options()).await.unwrap_err();
    assert!(error.to_string().contains(&listen.to_string()), "{error}");
    world.sandbox.stop().await;
    sandbox::start(options()).await.unwrap().stop().await;
}
