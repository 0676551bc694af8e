//! A gateway under attack, and a count of the attempts.

use std::{
    io::{ErrorKind, Write as _},
    net::TcpListener,
    sync::atomic::{AtomicUsize, Ordering},
};

use aws_lc_rs::{
    encoding::AsDer as _,
    rsa::{PublicEncryptingKey, PublicKeyComponents},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use reqwest::RequestBuilder;
use serde_json::{Value, json};

use crate::{
    responses::{Reply, got},
    world::{ASSIGNMENTS, Setup, World, add},
};

/// A request limit that only servicenow has, so that a response reveals whose token was accepted.
const HONEST: &str = "\"caller\";q=777777;w=60";

/// A gateway, the attacker's own server, and counts.
pub(crate) struct AttackedGateway {
    pub(crate) world: World,
    /// The attacker's address, put wherever an address fits. Nobody may ever connect to it.
    trap: TcpListener,
    tried: AtomicUsize,
    served: AtomicUsize,
}

/// A valid token as anybody can see it, and the key that its issuer publishes.
pub(crate) struct Seen {
    pub(crate) header: Value,
    pub(crate) claims: Value,
    /// Header, payload and signature.
    pub(crate) parts: [String; 3],
    pub(crate) jwk: Value,
}

impl AttackedGateway {
    pub(crate) async fn start() -> Self {
        Self::with(vec![]).await
    }

    pub(crate) async fn with(settings: Vec<(&'static str, &'static str)>) -> Self {
        Self::before(settings, vec![]).await
    }

    /// With these settings, and further replacements in the file.
    pub(crate) async fn before(settings: Vec<(&'static str, &'static str)>, more: Vec<(&'static str, String)>) -> Self {
        let name = "name = \"servicenow\"\n";
        let ours = [
            (name, format!("{name}calls_max = 777777\n")),
            // All algorithms are allowed, so that only the keys tell tokens apart.
            (
                "algorithms = [\"RS256\"]",
                "algorithms = [\"RS256\", \"RS384\", \"RS512\", \"PS256\", \"PS384\", \"PS512\", \"ES256\", \"ES384\", \"EdDSA\"]"
                    .to_owned(),
            ),
            // One fetch for all unknown keys together.
            ("/issuer/jwks\"\n", "/issuer/jwks\"\njwks_ttl = \"1d\"\njwks_refresh_min = \"1d\"\n".to_owned()),
        ];
        let edits = ours.into_iter().chain(more).collect();
        let world = World::with(Setup { settings, edits, ..Setup::default() }).await;
        let trap = TcpListener::bind("127.0.0.1:0").unwrap();
        trap.set_nonblocking(true).unwrap();
        Self { world, trap, tried: AtomicUsize::new(0), served: AtomicUsize::new(0) }
    }

    pub(crate) fn trap(&self) -> String {
        format!("http://{}", self.trap.local_addr().unwrap())
    }

    pub(crate) async fn seen(&self) -> Seen {
        let token = self.world.token("servicenow").await;
        let parts: [String; 3] = token.split('.').map(str::to_owned).collect::<Vec<_>>().try_into().unwrap();
        let read = |part: &str| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap();
        let keys = got(self.world.client.get(format!("{}/issuer/jwks", self.world.sandbox.url()))).await;
        let jwk = keys.body["keys"][0].clone();
        Seen { header: read(&parts[0]), claims: read(&parts[1]), parts, jwk }
    }

    /// An attack was refused; now the honest caller must be served.
    pub(crate) async fn is_still_serving(&self) {
        self.tried.fetch_add(1, Ordering::Relaxed);
        let honest = self.world.get("servicenow", "/v1/operations").await.expect(200);
        assert_eq!(honest.header("ratelimit-policy"), HONEST);
        assert_eq!(honest.body["operations"], json!([]), "an attack left an operation");
        self.served.fetch_add(1, Ordering::Relaxed);
    }

    /// Submits a change with a token that must be rejected.
    pub(crate) async fn refused(&self, token: &str) {
        let request = self.change();
        let value = reqwest::header::HeaderValue::from_bytes(format!("Bearer {token}").as_bytes());
        // Header values that no client can send are tried in `wire`.
        let Ok(value) = value else { return };
        let answer = self.sent(request.header("authorization", value)).await;
        assert_eq!(answer.status, 401, "{token}\n{}", answer.text);
        assert!(token.len() < 20 || !answer.text.contains(token), "a problem must not repeat a token");
        self.is_still_serving().await;
    }

    /// Sends a token that its issuer made: it must be taken for servicenow's or rejected.
    pub(crate) async fn nobody_else(&self, token: &str) {
        let answer = self.sent(self.world.bare("GET", "/v1/operations").bearer_auth(token)).await;
        match answer.status {
            200 => assert_eq!(answer.header("ratelimit-policy"), HONEST, "{}", answer.text),
            status => assert!(matches!(status, 401 | 403), "{status}: {}", answer.text),
        }
        self.is_still_serving().await;
    }

    pub(crate) fn change(&self) -> RequestBuilder {
        self.world.bare("POST", ASSIGNMENTS).json(&add("Sales ESP", "Sales Laptops"))
    }

    pub(crate) async fn sent(&self, request: RequestBuilder) -> Reply {
        self.world.send(request).await
    }

    /// Asserts that nothing was done and nobody was called, and prints the counts.
    pub(crate) async fn end(self, what: &str) {
        assert!(self.world.journal().await.is_empty(), "Graph was called");
        self.end_after_lookups(what).await;
    }

    /// The same if a caller was authenticated, so that names may have been looked up.
    pub(crate) async fn end_after_lookups(self, what: &str) {
        assert!(self.world.assigns().await.is_empty(), "an attack was written to Graph");
        assert!(self.world.events("accepted").await.is_empty());
        // One more than the gateway's: that of `seen`.
        assert!(self.world.jwks_fetches().await <= 3, "tokens made the gateway ask for keys");
        let called = self.trap.accept().map_err(|error| error.kind());
        assert!(matches!(called, Err(ErrorKind::WouldBlock)), "the attacker's address was called");
        let (tried, served) = (self.tried.into_inner(), self.served.into_inner());
        assert_eq!(tried, served);
        self.world.end().await;
        // The print macros are captured when a test passes.
        let told = format!("attacks: {what}: {tried} tried, 0 accepted, {served} honest calls served\n");
        std::io::stderr().write_all(told.as_bytes()).unwrap();
    }
}

/// Encodes bytes as base64url.
pub(crate) fn part(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Seen {
    /// The header with these members changed; null removes one.
    pub(crate) fn header_with(&self, members: &Value) -> String {
        part(with(&self.header, members).to_string())
    }

    /// The claims with these members changed.
    pub(crate) fn claims_with(&self, members: &Value) -> String {
        part(with(&self.claims, members).to_string())
    }

    /// The public key in the encodings that might be mistaken for a shared secret.
    pub(crate) fn public(&self) -> Vec<Vec<u8>> {
        let decoded = |field: &str| URL_SAFE_NO_PAD.decode(self.jwk[field].as_str().unwrap()).unwrap();
        let key: PublicEncryptingKey = PublicKeyComponents { n: decoded("n"), e: decoded("e") }.try_into().unwrap();
        let der = key.as_der().unwrap().as_ref().to_vec();
        let pem = crate::forgeries::armoured("PUBLIC KEY", &der);
        let trimmed = pem.trim_end().as_bytes().to_vec();
        let text = |value: &Value| value.as_str().unwrap().as_bytes().to_vec();
        let jwk = self.jwk.to_string().into_bytes();
        vec![pem.into_bytes(), trimmed, der, decoded("n"), text(&self.jwk["n"]), jwk, text(&self.jwk["kid"]), vec![]]
    }
}

pub(crate) fn with(object: &Value, members: &Value) -> Value {
    let mut object = object.as_object().unwrap().clone();
    for (name, value) in members.as_object().unwrap() {
        if value.is_null() {
            object.remove(name);
        } else {
            object.insert(name.clone(), value.clone());
        }
    }
    Value::Object(object)
}
