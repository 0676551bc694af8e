//! How the gateway authenticates to Entra, with each kind of credential, and what it reports when it cannot.

use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    certificate::{Made, made},
    world::{CLIENT, Setup, TRIES, World, add},
};

/// A world whose gateway uses this credential instead of the secret.
pub(crate) async fn world_with(credential: &str) -> World {
    let edits = vec![("credential.secret_file = \"sandbox.secret\"", credential.to_owned())];
    World::with(Setup { edits, ..Setup::default() }).await
}

pub(crate) async fn register(world: &World, made: &Made) {
    let order = json!({"client_id": CLIENT, "certificate": made.certificate});
    world.control("POST", "certificates", Some(order)).await.expect(204);
}

/// Stores certificate and key where [`by_certificate`] looks for them.
pub(crate) fn store(folder: &TempDir, made: &Made) {
    std::fs::write(folder.path().join("gateway.pem"), &made.certificate).unwrap();
    std::fs::write(folder.path().join("gateway.key"), &made.key).unwrap();
}

pub(crate) fn by_certificate(folder: &TempDir) -> String {
    let path = folder.path().display();
    format!(
        "credential.kind = \"certificate\"\ncredential.certificate_file = \"{path}/gateway.pem\"\n\
         credential.key_file = \"{path}/gateway.key\""
    )
}

/// The login service's response statuses, call by call.
async fn logins(world: &World) -> Vec<Value> {
    let calls = world.journal().await;
    let of_login = |call: &&Value| call["path"].as_str().unwrap().ends_with("/token");
    calls.iter().filter(of_login).map(|call| call["status"].clone()).collect()
}

/// Plans until one succeeds: a rejected credential is not retried at once.
async fn plan_in_the_end(world: &World) {
    for _ in 0..TRIES {
        let answer = world.post("servicenow", "/v1/plan", &add("Sales ESP", "Sales Laptops"), &[]).await;
        if answer.status == 200 {
            return;
        }
        assert_eq!(answer.body["code"], "graph-not-authorised", "{}", answer.text);
    }
    panic!("the gateway never proves itself");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_proves_the_gateway() {
    let (folder, made) = (tempfile::tempdir().unwrap(), made(90));
    store(&folder, &made);
    let world = world_with(&by_certificate(&folder)).await;
    register(&world, &made).await;
    world.change(&add("Sales ESP", "Sales Laptops")).await.succeeded("changed");
    assert_eq!(logins(&world).await, [200]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_file_may_hold_the_key_before_the_certificate() {
    let (folder, made) = (tempfile::tempdir().unwrap(), made(90));
    let both = folder.path().join("both.pem");
    std::fs::write(&both, format!("Bag Attributes\n{}{}", made.key, made.certificate)).unwrap();
    let both = both.display();
    let world =
        world_with(&format!("credential.kind = \"certificate\"\ncredential.certificate_file = \"{both}\"")).await;
    register(&world, &made).await;
    world.change(&add("Sales ESP", "Sales Laptops")).await.succeeded("changed");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_is_replaced_is_taken_up() {
    let (folder, old, new) = (tempfile::tempdir().unwrap(), made(90), made(90));
    store(&folder, &old);
    let world = world_with(&by_certificate(&folder)).await;
    register(&world, &new).await;
    let answer = world.post("servicenow", "/v1/plan", &add("Sales ESP", "Sales Laptops"), &[]).await;
    assert_eq!(answer.body["code"], "graph-not-authorised", "{}", answer.text);
    assert_eq!(logins(&world).await, [401]);
    // A caller's requests do not each cause a call to the login service.
    world.post("servicenow", "/v1/plan", &add("Sales ESP", "Sales Laptops"), &[]).await;
    assert_eq!(logins(&world).await, [401]);
    store(&folder, &new);
    plan_in_the_end(&world).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_service_that_sees_a_loop_is_left_alone_though_callers_go_on() {
    let world = World::start().await;
    let refusal = json!({"error": "invalid_request", "error_codes": [50_196], "trace_id": "t-1"});
    let effect = json!({"kind": "answer", "status": 400, "body": refusal});
    world.fault(json!({"path_ends": "/token", "effect": effect})).await;
    for _ in 0..3 {
        let answer = world.post("servicenow", "/v1/plan", &add("Sales ESP", "Sales Laptops"), &[]).await;
        assert_eq!(answer.body["code"], "graph-throttled", "{}", answer.text);
    }
    assert_eq!(logins(&world).await, [400]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_service_that_is_down_is_asked_once_a_second_though_callers_go_on() {
    let settings = vec![("GRAPH__ATTEMPTS_MAX", "1"), ("SERVER__CALLS_MAX", "100000")];
    let world = World::with(Setup { settings, ..Setup::default() }).await;
    world.fault(json!({"path_ends": "/token", "effect": {"kind": "answer", "status": 503}})).await;
    while logins(&world).await.len() < 3 {
        let answer = world.post("servicenow", "/v1/plan", &add("Sales ESP", "Sales Laptops"), &[]).await;
        assert_eq!(answer.body["code"], "graph-unavailable", "{}", answer.text);
    }
    let calls = world.journal().await;
    let of_login = calls.iter().filter(|call| call["path"].as_str().unwrap().ends_with("/token"));
    let times: Vec<jiff::Timestamp> = of_login.map(|call| call["time"].as_str().unwrap().parse().unwrap()).collect();
    for pair in times.windows(2) {
        let pause = pair[1].duration_since(pair[0]);
        assert!(pause.as_millis() > 900, "asked again after {pause:?}");
    }
    // A call outlasts the rest, if it may be repeated.
    world.end().await;
    let world = World::with(Setup { settings: vec![("GRAPH__ATTEMPTS_MAX", "2")], ..Setup::default() }).await;
    world.fault(json!({"path_ends": "/token", "times": 1, "effect": {"kind": "answer", "status": 503}})).await;
    world.change(&add("Sales ESP", "Sales Laptops")).await.succeeded("changed");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_federated_token_is_read_for_each_token() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let credential = format!("credential.kind = \"workload-identity\"\ncredential.token_file = \"{}\"", file.display());
    let world = world_with(&credential).await;
    store_federated(&world, &file, json!({"sub": "system:serviceaccount:default:default"})).await;
    let answer = world.post("servicenow", "/v1/plan", &add("Sales ESP", "Sales Laptops"), &[]).await;
    assert_eq!(answer.body["code"], "graph-not-authorised", "{}", answer.text);
    store_federated(&world, &file, json!({})).await;
    plan_in_the_end(&world).await;
    world.end().await;
}

async fn store_federated(world: &World, file: &Path, changed: Value) {
    let mut claims = json!({"sub": "system:serviceaccount:postern:postern", "aud": "api://AzureADTokenExchange"});
    for (name, value) in changed.as_object().unwrap() {
        claims[name] = value.clone();
    }
    std::fs::write(file, world.forge("portal", claims, json!({})).await).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_managed_identity_proves_the_gateway_with_and_without_its_name() {
    for id in ["", CLIENT] {
        let line = if id.is_empty() { "" } else { "client_id = \"99999999-8888-4777-8666-555555555555\"" };
        let edits = vec![
            ("credential.secret_file = \"sandbox.secret\"", "credential.kind = \"managed-identity\"".to_owned()),
            ("client_id = \"99999999-8888-4777-8666-555555555555\"", line.to_owned()),
        ];
        let world = World::with(Setup { edits, ..Setup::default() }).await;
        world.change(&add("Sales ESP", "Sales Laptops")).await.succeeded("changed");
        let calls = world.journal().await;
        let asked = calls.iter().find(|call| call["path"] == "/metadata/identity/oauth2/token").unwrap();
        assert_eq!(asked["query"].as_str().unwrap().contains("client_id"), !id.is_empty());
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_metadata_endpoint_that_is_being_updated_is_asked_again() {
    let edits =
        vec![("credential.secret_file = \"sandbox.secret\"", "credential.kind = \"managed-identity\"".to_owned())];
    let world = World::with(Setup { edits, ..Setup::default() }).await;
    world.fault(json!({"path_ends": "/oauth2/token", "times": 1, "effect": {"kind": "answer", "status": 410}})).await;
    world.change(&add("Sales ESP", "Sales Laptops")).await.succeeded("changed");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_refusal_of_the_login_service_is_told_by_what_can_be_done() {
    let mend = [
        7_000_215, 7_000_222, 7_000_218, 700_027, 700_024, 70_021, 700_211, 700_212, 700_213, 700_016, 7_000_112,
        90_002, 900_023, 70_011, 1_002_012, 500_011, 53_003, 530_032, 90_038, 65_001,
    ];
    let again = [90_006, 90_012, 90_024, 90_033, 90_090];
    let told = |codes: &[u32], told: &'static str| codes.iter().map(|code| (*code, told)).collect::<Vec<_>>();
    let all = [
        told(&mend, "graph-not-authorised"),
        told(&again, "graph-unavailable"),
        told(&[50_196, 90_055], "graph-throttled"),
    ];
    for (code, told) in all.concat() {
        let world = World::with(Setup { settings: vec![("GRAPH__ATTEMPTS_MAX", "1")], ..Setup::default() }).await;
        world.fault(json!({"path_ends": "/token", "effect": {"kind": "refuse", "code": code}})).await;
        let answer = world.post("servicenow", "/v1/plan", &add("Sales ESP", "Sales Laptops"), &[]).await;
        assert_eq!(answer.body["code"], told, "{code}: {}", answer.text);
        assert!(!answer.text.contains("AADSTS"), "{}", answer.text);
        world.end().await;
    }
}
