//! How an app authenticates at the token endpoint, other than by a secret.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use postern::clock::Clock;
use serde_json::{Map, Value, json};

use crate::certificate::{Made, made};
use crate::world::{CLIENT, Got, TENANT, World};

const TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

fn thumbprint(certificate: &str) -> String {
    let lines = certificate.lines().filter(|line| !line.starts_with("-----"));
    URL_SAFE_NO_PAD.encode(digest(&SHA256, &STANDARD.decode(lines.collect::<String>()).unwrap()))
}

/// An assertion as Entra requires it, with some claims changed.
fn signed(world: &World, made: &Made, algorithm: Algorithm, changed: Value) -> String {
    let now = Clock::system().now().as_second();
    let endpoint = format!("{}/{TENANT}/oauth2/v2.0/token", world.sandbox.url());
    let claims = json!({
        "aud": endpoint, "iss": CLIENT, "sub": CLIENT, "jti": Clock::system().new_id().to_string(),
        "iat": now, "nbf": now, "exp": now + 300,
    });
    let mut claims: Map<String, Value> = serde_json::from_value(claims).unwrap();
    claims.extend(serde_json::from_value::<Map<String, Value>>(changed).unwrap());
    let mut header = Header::new(algorithm);
    header.x5t_s256 = Some(thumbprint(&made.certificate));
    jsonwebtoken::encode(&header, &claims, &EncodingKey::from_rsa_pem(made.key.as_bytes()).unwrap()).unwrap()
}

async fn present(world: &World, assertion: &str) -> Got {
    let form = [("client_secret", ""), ("client_assertion_type", TYPE), ("client_assertion", assertion)];
    world.login(&form).await
}

async fn register(world: &World, made: &Made) {
    let order = json!({"client_id": CLIENT, "certificate": made.certificate});
    world.control("POST", "certificates", Some(order)).await.expect(204);
}

#[track_caller]
fn denied(answer: Got, code: u32) {
    let answer = answer.expect(401);
    assert_eq!((&answer.body["error"], &answer.body["error_codes"]), (&json!("invalid_client"), &json!([code])));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_assertion_of_a_registered_certificate_proves_the_app_once() {
    let (world, made) = (World::start().await, made(90));
    let assertion = signed(&world, &made, Algorithm::PS256, json!({}));
    denied(present(&world, &assertion).await, 700_027);
    register(&world, &made).await;
    let answer = present(&world, &assertion).await.expect(200);
    let token = answer.body["access_token"].as_str().unwrap().to_owned();
    let claims: Value =
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap();
    assert_eq!(claims["appidacr"], "2");
    denied(present(&world, &assertion).await, 50_013);
    present(&world, &signed(&world, &made, Algorithm::RS256, json!({}))).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_part_of_an_assertion_is_checked() {
    let (world, own, other) = (World::start().await, made(90), made(90));
    register(&world, &own).await;
    let now = Clock::system().now().as_second();
    for (changed, code) in [
        (json!({"aud": "https://login.microsoftonline.com"}), 700_023),
        (json!({"iss": TENANT}), 700_021),
        (json!({"sub": TENANT}), 700_021),
        (json!({"exp": now - 1}), 700_024),
        (json!({"exp": now + 3600}), 700_024),
        (json!({"nbf": now + 60}), 700_024),
        (json!({"jti": ""}), 50_013),
    ] {
        denied(present(&world, &signed(&world, &own, Algorithm::PS256, changed)).await, code);
    }
    denied(present(&world, &signed(&world, &own, Algorithm::RS512, json!({}))).await, 700_027);
    // Names the registered certificate, but is signed with another's key.
    let mixed = Made { certificate: own.certificate.clone(), key: other.key };
    denied(present(&world, &signed(&world, &mixed, Algorithm::PS256, json!({}))).await, 700_027);
    denied(present(&world, "no token").await, 50_027);
    let untyped = signed(&world, &own, Algorithm::PS256, json!({}));
    world.login(&[("client_secret", ""), ("client_assertion", &untyped)]).await.expect(400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_federated_token_is_checked_against_what_the_app_trusts() {
    let world = World::start().await;
    let forged = async |changed: Value| {
        let mut claims = json!({"sub": "system:serviceaccount:postern:postern", "aud": "api://AzureADTokenExchange"});
        claims.as_object_mut().unwrap().extend(serde_json::from_value::<Map<_, _>>(changed).unwrap());
        let order = json!({"caller": "portal", "claims": claims});
        let got = world.control("POST", "token", Some(order)).await.expect(200);
        got.body["access_token"].as_str().unwrap().to_owned()
    };
    let token = forged(json!({})).await;
    present(&world, &token).await.expect(200);
    // Unlike an app's own assertion, it can be used repeatedly until it expires.
    present(&world, &token).await.expect(200);
    for (changed, code) in [
        (json!({"iss": "https://issuer.test"}), 700_211),
        (json!({"aud": "api://postern"}), 700_212),
        (json!({"sub": "system:serviceaccount:default:default"}), 700_213),
        (json!({"exp": 1}), 700_024),
    ] {
        denied(present(&world, &forged(changed).await).await, code);
    }
    let (head, _signature) = token.rsplit_once('.').unwrap();
    denied(present(&world, &format!("{head}.AAAA")).await, 50_013);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_registered_with_an_app_that_is_there() {
    let world = World::start().await;
    let order = |client: &str, certificate: &str| Some(json!({"client_id": client, "certificate": certificate}));
    world.control("POST", "certificates", order(TENANT, &made(90).certificate)).await.expect(404);
    world.control("POST", "certificates", order(CLIENT, "none")).await.expect(400);
}
