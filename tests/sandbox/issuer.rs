//! The issuer of callers' tokens.

use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, TokenData, Validation};
use serde_json::{Value, json};

use crate::world::{TENANT, World, got};

async fn keys(world: &World) -> JwkSet {
    let answer = got(world.request("GET", "/issuer/jwks")).await.expect(200);
    serde_json::from_value(answer.body).unwrap()
}

async fn token(world: &World, order: Value) -> String {
    let answer = world.control("POST", "token", Some(order)).await.expect(200);
    answer.body["access_token"].as_str().unwrap().to_owned()
}

/// Verifies a token as a careful gateway would; none if its key is not published.
fn verified(world: &World, token: &str, keys: &JwkSet) -> Option<TokenData<Value>> {
    let kid = jsonwebtoken::decode_header(token).unwrap().kid.unwrap();
    let key = DecodingKey::from_jwk(keys.find(&kid)?).unwrap();
    let mut validation = Validation::new(Algorithm::RS256);
    validation.validate_nbf = true;
    validation.set_audience(&["api://postern"]);
    validation.set_issuer(&[format!("{}/issuer", world.sandbox.url())]);
    Some(jsonwebtoken::decode(token, &key, &validation).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_callers_token_looks_like_entras_and_verifies_by_discovery() {
    let world = World::start().await;
    let discovery = got(world.request("GET", "/issuer/.well-known/openid-configuration")).await.expect(200);
    assert_eq!(discovery.body["issuer"], format!("{}/issuer", world.sandbox.url()));
    assert_eq!(discovery.body["jwks_uri"], format!("{}/issuer/jwks", world.sandbox.url()));
    let token = token(&world, json!({"caller": "servicenow"})).await;
    let data = verified(&world, &token, &keys(&world).await).unwrap();
    assert_eq!(data.header.typ.as_deref(), Some("JWT"));
    assert_eq!(data.claims["azp"], "c0000000-0000-4000-8000-000000000001");
    assert_eq!(data.claims["roles"], json!(["Assignments.Change"]));
    assert_eq!((&data.claims["tid"], &data.claims["ver"]), (&json!(TENANT), &json!("2.0")));
    assert_eq!(data.claims["oid"], data.claims["sub"]);
    assert!(data.claims["uti"].is_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_and_header_can_be_changed_and_removed() {
    let world = World::start().await;
    let order = json!({
        "caller": "portal",
        "claims": {"roles": ["Other"], "tid": null, "extra": 1},
        "header": {"typ": "at+jwt", "kid": "nobody"},
    });
    let token = token(&world, order).await;
    let header = jsonwebtoken::decode_header(&token).unwrap();
    assert_eq!((header.typ.as_deref(), header.kid.as_deref()), (Some("at+jwt"), Some("nobody")));
    let data = jsonwebtoken::dangerous::insecure_decode::<Value>(&token).unwrap();
    assert_eq!((&data.claims["roles"], &data.claims["extra"]), (&json!(["Other"]), &json!(1)));
    assert!(data.claims.get("tid").is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_caller_is_told_the_known_ones() {
    let world = World::start().await;
    let answer = world.control("POST", "token", Some(json!({"caller": "nobody"}))).await.expect(404);
    assert_eq!(answer.body["callers"], json!(["servicenow", "helpdesk", "portal", "stranger"]));
    let known = world.control("POST", "token", Some(json!({"caller": "stranger"}))).await.expect(200);
    assert_eq!(known.body["expires_in"], 3600);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_removes_the_old_key_unless_it_is_kept() {
    let world = World::start().await;
    let first = token(&world, json!({"caller": "portal"})).await;
    let kept = world.control("POST", "issuer/rotate", Some(json!({"keep_old": true}))).await.expect(200);
    assert_eq!(kept.body["keys"], 2);
    assert!(verified(&world, &first, &keys(&world).await).is_some());
    let second = token(&world, json!({"caller": "portal"})).await;
    let bare = world.control("POST", "issuer/rotate", None).await.expect(200);
    let published = keys(&world).await;
    assert_eq!((published.keys.len(), &bare.body["keys"]), (1, &json!(1)));
    assert!(verified(&world, &first, &published).is_none() && verified(&world, &second, &published).is_none());
    let third = token(&world, json!({"caller": "portal"})).await;
    assert!(verified(&world, &third, &published).is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fetches_of_the_key_set_are_counted() {
    let world = World::start().await;
    keys(&world).await;
    keys(&world).await;
    assert_eq!(world.control("GET", "state", None).await.body["jwks_fetches"], 2);
    assert!(world.journal().await.iter().all(|call| !call["path"].as_str().unwrap().starts_with("/issuer")));
}
