//! Callers of a third-party issuer: oidc-provider, in a process of its own, found by its metadata.
//!
//! `tests/run` installs it into `target/issuer`.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test that cannot go on ends")]

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

#[path = "../support/contract.rs"]
mod contract;
#[path = "../support/openapi_check.rs"]
mod openapi_check;
#[path = "../api/responses.rs"]
#[expect(dead_code, reason = "the other tests need more of it")]
mod responses;
#[path = "../api/trail.rs"]
mod trail;
#[path = "../api/world.rs"]
#[expect(dead_code, reason = "the other tests need more of it")]
mod world;

use responses::{Reply, got};
use world::{ASSIGNMENTS, Setup, World, add, group};

/// The audience of tokens: the gateway, as this issuer knows it.
const AUDIENCE: &str = "https://postern.test/";
const POLICY: &str = "@id(\"hr\")\npermit (principal == Postern::Caller::\"hr\", action, resource);";

/// The issuer's process; dropping it kills it.
struct Issuer {
    child: Child,
    url: String,
    _out: BufReader<ChildStdout>,
}

impl Issuer {
    /// Starts one whose key has this id, on this port, or on a free one if that is 0.
    fn start(port: u16, key: &str) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let home = root.join("target/issuer");
        assert!(home.join("node_modules/oidc-provider").exists(), "tests/run installs the issuer into target/issuer");
        // Next to the modules that it imports.
        fs::copy(root.join("tests/issuer/issuer.mjs"), home.join("issuer.mjs")).unwrap();
        let mut command = Command::new("node");
        let command = command.arg("issuer.mjs").args([&port.to_string(), key]).current_dir(home);
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("Node.js is needed: {error}"));
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut url = String::new();
        assert!(out.read_line(&mut url).unwrap() > 0, "the issuer does not start");
        Self { child, url: url.trim().to_owned(), _out: out }
    }

    fn port(&self) -> u16 {
        self.url.rsplit_once(':').unwrap().1.parse().unwrap()
    }

    /// A token of one of its clients, for a resource or for none.
    async fn token(&self, world: &World, client: &str, resource: Option<&str>) -> String {
        let mut form = vec![("grant_type", "client_credentials"), ("scope", "Assignments.Change")];
        form.extend(resource.map(|resource| ("resource", resource)));
        let request = world.client.post(format!("{}/token", self.url)).basic_auth(client, Some("issuer-client-secret"));
        got(request.form(&form)).await.expect(200).body["access_token"].as_str().unwrap().to_owned()
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A gateway that trusts this issuer besides the sandbox's.
async fn world(issuer: &Issuer) -> World {
    let url = &issuer.url;
    let believed = format!(
        "[[issuers]]\nname = \"other\"\nissuer = \"{url}\"\naudiences = [\"{AUDIENCE}\"]\ntoken_types = [\"at+jwt\"]\n\
         metadata_url = \"{url}/.well-known/openid-configuration\"\njwks_refresh_min = \"1s\"\n\n\
         [[callers]]\nname = \"hr\"\nissuer = \"other\"\nclient_id = \"hr\"\nrequired_role = \"Assignments.Change\"\n\n"
    );
    let mark = "[[callers]]\nname = \"servicenow\"\n";
    let edits = vec![(mark, format!("{believed}{mark}"))];
    World::with(Setup { edits, policies: vec![("hr.cedar", POLICY)], ..Setup::default() }).await
}

async fn ask(world: &World, token: &str, number: usize) -> Reply {
    let request = world.bare("POST", ASSIGNMENTS).bearer_auth(token).header("prefer", "wait=25");
    world.send(request.json(&add("Sales ESP", &group(number)))).await
}

fn part(token: &str, place: usize) -> Value {
    let part = token.split('.').nth(place).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_configured_caller_of_another_issuer_is_accepted() {
    let issuer = Issuer::start(0, "first");
    let world = world(&issuer).await;
    let token = issuer.token(&world, "hr", Some(AUDIENCE)).await;
    assert_eq!((&part(&token, 0)["typ"], &part(&token, 0)["alg"]), (&json!("at+jwt"), &json!("RS256")));
    ask(&world, &token, 1).await.succeeded("changed");
    let accepted = world.events("accepted").await;
    assert_eq!(accepted.last().unwrap()["caller"], "hr");
    assert_eq!(accepted.last().unwrap()["token_id"], part(&token, 1)["jti"], "{accepted:?}");
    let stranger = issuer.token(&world, "stranger", Some(AUDIENCE)).await;
    ask(&world, &stranger, 2).await.problem(403, "unknown-caller");
    let elsewhere = issuer.token(&world, "hr", Some("https://elsewhere.test/")).await;
    ask(&world, &elsewhere, 2).await.problem(401, "invalid-token");
    // Without a resource the issuer gives an opaque token, which only it can read.
    let opaque = issuer.token(&world, "hr", None).await;
    ask(&world, &opaque, 2).await.problem(401, "invalid-token");
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let reversed: String = signature.chars().rev().collect();
    ask(&world, &format!("{signed}.{reversed}"), 2).await.problem(401, "invalid-token");
    // The sandbox's issuer vouches for its own callers only.
    let ours = json!({"client_id": "hr", "azp": null, "iss": issuer.url, "aud": AUDIENCE, "jti": "1"});
    let forged = world.forge("servicenow", ours, json!({"typ": "at+jwt", "kid": "first"})).await;
    ask(&world, &forged, 2).await.problem(401, "invalid-token");
    assert_eq!(world.events("accepted").await.len(), 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_issuer_changes_its_keys_and_goes_away() {
    let issuer = Issuer::start(0, "first");
    let world = world(&issuer).await;
    let old = issuer.token(&world, "hr", Some(AUDIENCE)).await;
    ask(&world, &old, 1).await.succeeded("changed");
    let port = issuer.port();
    drop(issuer);
    // While it is down, tokens with a cached key are still accepted.
    ask(&world, &old, 2).await.succeeded("changed");
    let issuer = Issuer::start(port, "second");
    let new = issuer.token(&world, "hr", Some(AUDIENCE)).await;
    ask(&world, &new, 6).await.succeeded("changed");
    ask(&world, &old, 7).await.problem(401, "invalid-token");
    drop(issuer);
    ask(&world, &new, 7).await.succeeded("changed");
    world.end().await;
}
