//! Who is authenticated, and how everyone else is answered.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::world::{ASSIGNMENTS, KIOSK_ESP, Setup, World, add, group};

const INVALID: &str = "Bearer realm=\"postern\", error=\"invalid_token\"";

async fn ask(world: &World, token: &str) -> crate::responses::Reply {
    world.send(world.bare("GET", "/v1/operations").bearer_auth(token)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_credentials_the_challenge_has_no_error_code() {
    let world = World::start().await;
    let basic = world.bare("GET", "/v1/operations").basic_auth("servicenow", Some("secret"));
    for request in [world.bare("GET", "/v1/operations"), basic, world.bare("POST", ASSIGNMENTS).body("{")] {
        let answer = world.send(request).await.problem(401, "unauthenticated");
        assert_eq!(answer.header("www-authenticate"), "Bearer realm=\"postern\"");
    }
    for (method, path) in [("POST", "/v1/assignments"), ("POST", "/v1/plan"), ("GET", "/v1/operations/op_x")] {
        world.send(world.bare(method, path)).await.problem(401, "unauthenticated");
    }
    assert_eq!(world.jwks_fetches().await, 0);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_token_is_refused_without_asking_the_issuer() {
    let world = World::start().await;
    let long = "a".repeat(20_000);
    let ask = async |header: &[u8]| {
        let value = reqwest::header::HeaderValue::from_bytes(header).unwrap();
        world.send(world.bare("GET", "/v1/operations").header("authorization", value)).await
    };
    for token in ["", "x", "a.b", "a.b.c", "a.b.c.d", "e30.e30.e30", "....", "ä", "ä.ä.ä", &long] {
        let answer = ask(format!("Bearer {token}").as_bytes()).await.problem(401, "invalid-token");
        assert!(answer.headers.contains_key("www-authenticate"), "{token:.10}");
    }
    // A header that is not text counts as missing.
    let answer = ask(b"Bearer \xe4.b.c").await.problem(401, "unauthenticated");
    assert!(answer.headers.contains_key("www-authenticate"));
    assert_eq!(world.jwks_fetches().await, 0);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_not_for_us_or_not_for_now_is_refused() {
    let world = World::start().await;
    let year = 365 * 24 * 3600_i64;
    for claims in [
        json!({"exp": 1_600_000_000}),
        json!({"exp": null}),
        json!({"exp": "tomorrow"}),
        json!({"exp": 1_600_000_000 + 100 * year, "nbf": 1_600_000_000 + 99 * year}),
        json!({"aud": "api://somebody-else"}),
        json!({"aud": ["api://a", "api://b"]}),
        json!({"aud": null}),
        json!({"aud": "API://POSTERN"}),
        json!({"iss": "https://login.example.com/v2.0"}),
        json!({"iss": format!("{}/issuer/", world.sandbox.url())}),
        json!({"iss": null}),
        json!({"sub": null}),
    ] {
        let token = world.forge("servicenow", claims.clone(), json!({})).await;
        let answer = ask(&world, &token).await;
        assert_eq!((answer.status, answer.header("www-authenticate")), (401, INVALID), "{claims}: {}", answer.text);
        answer.problem(401, "invalid-token");
    }
    for header in [json!({"kid": null}), json!({"kid": 7}), json!({"crit": ["x"], "x": 1}), json!({"typ": "dpop+jwt"})]
    {
        let token = world.forge("servicenow", json!({}), header).await;
        ask(&world, &token).await.problem(401, "invalid-token");
    }
    let several = world.forge("servicenow", json!({"aud": ["api://a", "api://postern"]}), json!({})).await;
    ask(&world, &several).await.expect(200);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_authorization_headers_are_one_too_many() {
    let world = World::start().await;
    let token = world.token("servicenow").await;
    let request = world.bare("GET", "/v1/operations").bearer_auth(&token).bearer_auth(&token);
    let answer = world.send(request).await.problem(401, "invalid-token");
    assert_eq!(answer.header("www-authenticate"), INVALID);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_left_the_set_ends_its_tokens_and_the_new_one_costs_one_fetch() {
    let world = World::start().await;
    let old = world.token("servicenow").await;
    ask(&world, &old).await.expect(200);
    assert_eq!(world.jwks_fetches().await, 1);
    world.control("POST", "issuer/rotate", Some(json!({}))).await.expect(200);
    let new = world.forge("servicenow", json!({}), json!({})).await;
    for answer in join_all((0..20).map(|_| ask(&world, &new))).await {
        answer.expect(200);
    }
    assert_eq!(world.jwks_fetches().await, 2);
    let answer = ask(&world, &old).await.problem(401, "invalid-token");
    assert_eq!(answer.header("www-authenticate"), INVALID);
    assert_eq!(world.jwks_fetches().await, 2);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_stays_published_keeps_its_tokens() {
    let world = World::start().await;
    let old = world.token("servicenow").await;
    world.control("POST", "issuer/rotate", Some(json!({"keep_old": true}))).await.expect(200);
    let new = world.forge("servicenow", json!({}), json!({})).await;
    ask(&world, &old).await.expect(200);
    ask(&world, &new).await.expect(200);
    assert_eq!(world.jwks_fetches().await, 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_keys_do_not_hammer_the_issuer() {
    let world = World::start().await;
    let good = world.token("servicenow").await;
    ask(&world, &good).await.expect(200);
    let token_of = |number: usize| {
        let world = &world;
        async move { world.forge("servicenow", json!({}), json!({"kid": format!("unknown-{number}")})).await }
    };
    let tokens = join_all((0..50).map(token_of)).await;
    for answer in join_all(tokens.iter().map(|token| ask(&world, token))).await {
        answer.problem(401, "invalid-token");
    }
    assert_eq!(world.jwks_fetches().await, 2);
    ask(&world, &good).await.expect(200);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_issuer_that_is_down_is_felt_only_by_those_whose_key_is_unknown() {
    let world = World::start().await;
    let token = world.token("servicenow").await;
    ask(&world, &token).await.expect(200);
    world.fault(json!({"path_ends": "/issuer/jwks", "effect": {"kind": "answer", "status": 500}})).await;
    let unknown = world.forge("servicenow", json!({}), json!({"kid": "unknown"})).await;
    let answer = ask(&world, &unknown).await.problem(503, "keys-unavailable");
    assert_eq!(answer.body["retryable"], true);
    ask(&world, &token).await.expect(200);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_never_saw_a_key_says_so_and_asks_again_later() {
    let world = World::start().await;
    let token = world.token("servicenow").await;
    let broken = json!({"kind": "answer", "status": 200, "body": {"keys": "none"}});
    world.fault(json!({"path_ends": "/issuer/jwks", "effect": broken})).await;
    ask(&world, &token).await.problem(503, "keys-unavailable");
    ask(&world, &token).await.problem(503, "keys-unavailable");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proven_stranger_is_refused_and_recorded() {
    let edits = vec![(
        "client_id = \"c0000000-0000-4000-8000-000000000003\"",
        "client_id = \"c0000000-0000-4000-8000-000000000003\"\nrequired_role = \"Assignments.Special\"".to_owned(),
    )];
    let world = World::with(Setup { edits, ..Setup::default() }).await;
    for (caller, subject) in [("stranger", 14), ("portal", 13)] {
        let answer = world.post(caller, ASSIGNMENTS, &add("Kiosk ESP", "Sales Kiosks"), &[]).await;
        let problem = answer.problem(403, "unknown-caller");
        assert!(!problem.headers.contains_key("www-authenticate"), "{problem:?}");
        let denied = world.events("denied").await.pop().unwrap();
        assert_eq!((&denied["action"], &denied["caller"]), (&json!("authenticate"), &Value::Null));
        assert_eq!(denied["subject"], format!("c0000000-0000-4000-8000-0000000000{subject}"));
        assert_eq!((&denied["issuer"], &denied["trace_id"]), (&json!("sandbox"), &problem.body["trace_id"]));
        assert!(denied["token_id"].is_string());
    }
    assert_eq!(world.events("denied").await.len(), 2);
    assert!(world.journal().await.is_empty());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_reads_the_operations_of_another_caller() {
    let world = World::start().await;
    let id = world.change(&add("Kiosk ESP", &group(1))).await.succeeded("changed");
    let path = format!("/v1/operations/{id}");
    let hidden = world.get("portal", &path).await.problem(404, "unknown-operation");
    let absent = world.get("portal", "/v1/operations/op_00000000000000000000000001").await;
    assert_eq!(hidden.body["detail"], absent.problem(404, "unknown-operation").body["detail"]);
    let page = world.get("portal", "/v1/operations").await.expect(200);
    assert_eq!(page.body, json!({"operations": [], "next": null}));
    let by_name = world.get("portal", "/v1/operations?caller=servicenow").await.expect(200);
    assert_eq!(by_name.body["operations"], json!([]));
    assert_eq!(world.get("helpdesk", &path).await.expect(200).id(), id);
    let waiting = world.request("portal", "GET", &path).await.header("prefer", "wait=1");
    world.send(waiting).await.problem(404, "unknown-operation");
    assert_eq!(world.groups(KIOSK_ESP).await.len(), 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_tokens_nor_secrets_are_in_the_trail_or_in_answers() {
    let world = World::start().await;
    let token = world.token("servicenow").await;
    let answer = world.change(&add("Kiosk ESP", &group(1))).await;
    answer.succeeded("changed");
    let trail = json!(world.audit().await).to_string();
    for hidden in [token.as_str(), "sandbox-client-secret", "eyJ"] {
        assert!(!trail.contains(hidden) && !answer.text.contains(hidden), "{hidden:.10}");
    }
    world.end().await;
}
