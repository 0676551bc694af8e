//! Entra's token endpoint, and what a token permits.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use postern::sandbox::Seed;
use serde_json::{Value, json};

use crate::world::{CLIENT, CONFIGURATIONS, Got, KIOSK_ESP, TENANT, World, got, group};

fn claims(token: &str) -> Value {
    let part = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_right_secret_gives_a_token_for_this_graph() {
    let world = World::start().await;
    let answer = world.login(&[]).await.expect(200);
    assert_eq!((&answer.body["token_type"], &answer.body["expires_in"]), (&json!("Bearer"), &json!(3599)));
    assert_eq!(answer.body["ext_expires_in"], 3599);
    let claims = claims(answer.body["access_token"].as_str().unwrap());
    assert_eq!(claims["aud"], world.sandbox.url());
    assert_eq!((&claims["tid"], &claims["appid"]), (&json!(TENANT), &json!(CLIENT)));
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 3599);
    assert!(claims["roles"].as_array().unwrap().contains(&json!("DeviceManagementServiceConfig.ReadWrite.All")));
}

#[track_caller]
fn denied(answer: Got, status: u16, error: &str, code: u32) -> Got {
    let answer = answer.expect(status);
    assert_eq!(answer.body["error"], error);
    assert_eq!(answer.body["error_codes"], json!([code]));
    assert!(answer.body["error_description"].as_str().unwrap().starts_with(&format!("AADSTS{code}: ")));
    for field in ["timestamp", "trace_id", "correlation_id", "error_uri"] {
        assert!(answer.body[field].is_string(), "{field}");
    }
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_refusal_has_its_code() {
    let world = World::start().await;
    let own = world.sandbox.url();
    denied(world.login(&[("client_secret", "guess")]).await, 401, "invalid_client", 7_000_215);
    denied(world.login(&[("client_secret", "")]).await, 401, "invalid_client", 7_000_218);
    denied(world.login(&[("client_id", TENANT)]).await, 400, "unauthorized_client", 700_016);
    denied(world.login(&[("grant_type", "password")]).await, 400, "unsupported_grant_type", 70_003);
    denied(world.login(&[("scope", "openid profile")]).await, 400, "invalid_scope", 70_011);
    denied(world.login(&[("scope", &format!("{own}/User.Read"))]).await, 400, "invalid_scope", 1_002_012);
    denied(world.login(&[("scope", "")]).await, 400, "invalid_request", 900_144);
    for (tenant, code) in [(CLIENT, 90_002), ("common", 900_023)] {
        let path = format!("/{tenant}/oauth2/v2.0/token");
        denied(got(world.request("POST", &path).form(&[("a", "b")])).await, 400, "invalid_request", code);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_clouds_scope_is_told_that_this_is_the_sandbox() {
    let world = World::start().await;
    for root in ["https://graph.microsoft.com", "https://graph.microsoft.us", "https://microsoftgraph.chinacloudapi.cn"]
    {
        let answer =
            denied(world.login(&[("scope", &format!("{root}/.default"))]).await, 400, "invalid_resource", 500_011);
        let told = answer.body["error_description"].as_str().unwrap();
        assert!(told.contains("sandbox") && told.contains("real cloud"), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn absent_expired_and_foreign_tokens_are_401() {
    let mut world = World::start().await;
    let other = World::start().await;
    let caller = world.control("POST", "token", Some(json!({"caller": "portal"}))).await.expect(200);
    world.switch("token_lifetime_seconds", 0).await;
    let expired = world.fresh_token().await;
    let (head, _signature) = world.token.rsplit_once('.').unwrap();
    let unsigned = format!("{head}.");
    let foreign = other.token.clone();
    let of_caller = caller.body["access_token"].as_str().unwrap().to_owned();
    for token in [String::new(), "x.y.z".to_owned(), expired, unsigned, foreign, of_caller] {
        world.token = token;
        for path in [CONFIGURATIONS, "/beta/groups", "/beta/nowhere"] {
            let answer = world.get(path).await.expect(401);
            assert_eq!(answer.code(), "InvalidAuthenticationToken");
            assert!(answer.headers["www-authenticate"].starts_with("Bearer"));
        }
    }
    got(world.request("GET", CONFIGURATIONS)).await.expect(401);
}

async fn world_of(roles: &[&str]) -> World {
    let seed = json!({
        "tenant_id": TENANT,
        "apps": [{"client_id": CLIENT, "client_secret": "sandbox-client-secret", "roles": roles}],
        "groups": [{"id": group(1), "displayName": "Sales Laptops"}],
        "configurations": [{
            "id": KIOSK_ESP, "displayName": "Kiosk ESP", "priority": 1,
            "@odata.type": "#microsoft.graph.windows10EnrollmentCompletionPageConfiguration",
            "deviceEnrollmentConfigurationType": "windows10EnrollmentCompletionPageConfiguration",
        }],
    });
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(seed.to_string().as_bytes()).unwrap();
    World::seeded(Some(Seed::load(file.path()).unwrap())).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reading_writing_and_groups_ask_for_their_own_roles() {
    let statuses = async |roles: &[&str]| {
        let world = world_of(roles).await;
        let read = world.get(CONFIGURATIONS).await.status;
        let write = world.assign(KIOSK_ESP, &[]).await.status;
        let groups = world.get("/beta/groups").await.status;
        let filters = world.get("/beta/deviceManagement/assignmentFilters").await.status;
        [read, write, groups, filters]
    };
    assert_eq!(statuses(&[]).await, [403; 4]);
    assert_eq!(statuses(&["DeviceManagementServiceConfig.Read.All"]).await, [200, 403, 403, 403]);
    assert_eq!(statuses(&["DeviceManagementServiceConfig.ReadWrite.All"]).await, [200, 204, 403, 403]);
    assert_eq!(statuses(&["Group.Read.All", "DeviceManagementConfiguration.Read.All"]).await, [403, 403, 200, 200]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_role_is_named_inside_the_nested_message() {
    let world = world_of(&["DeviceManagementServiceConfig.Read.All"]).await;
    let answer = world.assign(KIOSK_ESP, &[]).await.expect(403);
    assert_eq!(answer.code(), "Forbidden");
    let nested: Value = serde_json::from_str(answer.message()).unwrap();
    let told = nested["Message"].as_str().unwrap();
    assert!(
        told.contains("Application must have one of the following scopes: DeviceManagementServiceConfig.ReadWrite.All")
    );
}
