//! What must never leave the gateway: tokens, signatures and secrets, whether valid or not.

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::{
    collector::Collector,
    process::{Process, traceparent, vacant},
    responses::got,
    world::{ASSIGNMENTS, SALES_ESP, World, add, group},
};

/// Texts that must not appear in anything that leaves the process.
struct Hidden(Vec<String>);

impl Hidden {
    /// The gateway's secret, and the payloads and signatures of these tokens.
    fn of(tokens: &[String]) -> Self {
        let parts = tokens.iter().flat_map(|token| token.split('.').skip(1)).filter(|part| part.len() > 8);
        let fixed = ["sandbox-client-secret", "client_assertion", "eyJ"].map(str::to_owned);
        Self(parts.map(str::to_owned).chain(fixed).collect())
    }

    #[track_caller]
    fn is_not_in(&self, where_from: &str, text: &str) {
        for hidden in &self.0 {
            if let Some(at) = text.find(hidden.as_str()) {
                let around = text.floor_char_boundary(at.saturating_sub(300));
                panic!("{where_from} holds {hidden:.20}: …{}…", &text[around..at]);
            }
        }
    }
}

/// Tokens, most of them invalid.
async fn tokens(world: &World) -> Vec<String> {
    let good = world.token("servicenow").await;
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let reversed: String = signature.chars().rev().collect();
    vec![
        format!("{signed}.{reversed}"),
        format!("{good}x"),
        format!("{signed}.{signature}.{signature}"),
        world.forge("servicenow", json!({"exp": 1_600_000_000}), json!({})).await,
        world.forge("servicenow", json!({"aud": "api://other"}), json!({})).await,
        world.forge("servicenow", json!({"roles": "x"}), json!({})).await,
        world.forge("servicenow", json!({}), json!({"kid": "unknown"})).await,
        world.forge("stranger", json!({}), json!({})).await,
        "no.token.Zm9yZ2VkLXNpZ25hdHVyZQ".to_owned(),
        good,
    ]
}

/// Every way in which a token reaches the gateway, correct or not.
fn requests(world: &World, root: &str, token: &str) -> Vec<RequestBuilder> {
    let url = |path: &str| format!("{root}{path}");
    let get = |path: &str| world.client.get(url(path));
    vec![
        get("/v1/operations").bearer_auth(token),
        get("/v1/operations").header("authorization", format!("Basic {token}")),
        get("/v1/operations").header("x-authorization", format!("Bearer {token}")).header("cookie", token),
        get("/v1/operations").bearer_auth(token).bearer_auth(token),
        get(&format!("/v1/operations?access_token={token}")),
        get(&format!("/v1/operations?access_token={token}")).bearer_auth(token),
        get(&format!("/v1/operations/{token}")).bearer_auth(token),
        get(&format!("/{token}")),
        world.client.post(url(&format!("/v1/webhooks/{token}"))).body("{}"),
        world.client.request(Method::OPTIONS, url(&format!("/v1/webhooks/{token}"))),
        world.client.post(url(ASSIGNMENTS)).bearer_auth(token).json(&add("Sales ESP", "Nobody")),
        world.client.post(url(ASSIGNMENTS)).bearer_auth(token).body("{"),
        world.client.post(url("/v1/plan")).bearer_auth(token).json(&add("Sales ESP", &group(1))),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_tokens_nor_secrets_nor_signatures_leave_the_process() {
    let mut world = vacant().await;
    let collector = Collector::start();
    let settings =
        [("POSTERN__TELEMETRY__OTLP_ENDPOINT", collector.url.as_str()), ("POSTERN__TELEMETRY__LOG_FILTER", "trace")];
    let process = Process::start(&world, &settings);
    let tokens = tokens(&world).await;
    let hidden = Hidden::of(&tokens);
    let mut answers = Vec::new();
    for token in &tokens {
        for request in requests(&world, &process.url, token) {
            let got = got(request).await;
            answers.extend([got.text, format!("{:?}", got.headers)]);
        }
    }
    let id = process.post(&world, &add("Sales ESP", &group(1)), &traceparent(1)).await.expect(202).id();
    answers.push(process.end_of(&world, &id).await.text);
    // The login service rejects the gateway, and says why.
    world.fault(json!({"path_ends": "/assign", "times": 1, "effect": {"kind": "answer", "status": 401}})).await;
    let id = process.post(&world, &add("Sales ESP", &group(2)), &traceparent(2)).await.expect(202).id();
    answers.push(process.end_of(&world, &id).await.text);
    let figures = got(world.client.get(format!("{}/metrics", process.admin_url))).await.expect(200).text;
    let (status, log) = process.stop();
    assert!(status.success(), "{status}");
    hidden.is_not_in("an answer", &answers.join("\n"));
    hidden.is_not_in("the log", &log);
    hidden.is_not_in("what Prometheus gets", &figures);
    let received = collector.end().await.shown();
    hidden.is_not_in("what the collector got", &received);
    hidden.is_not_in("the audit trail", &Value::from(world.audit().await).to_string());
    // The search would have found them: text that is not secret is there.
    assert!(log.contains("\"level\":\"TRACE\"") && log.contains(SALES_ESP) && received.contains("/v1/plan"));
    world.start_gateway().await;
    world.end().await;
}
