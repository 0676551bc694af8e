//! A sandbox, a gateway in front of it with its own store, and callers.
//!
//! Every test finishes with [`World::end`]; a world dropped without it fails its test. There the audit chain must
//! verify, every accepted operation must have ended, every write that reached Graph must be on record, and Graph must
//! have seen nothing that a correct client would not send.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Mutex, Once},
};

use postern::{
    app::{self, Running},
    audit::Verifier,
    clock::Clock,
    config::{self, Config},
    sandbox::{self, Options, Sandbox, Seed},
    store::Sqlite,
    telemetry,
};
use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    responses::{Reply, got},
    trail,
};

pub(crate) const SALES_ESP: &str =
    "a0000000-0000-4000-8000-000000000001_Windows10EnrollmentCompletionPageConfiguration";
pub(crate) const KIOSK_ESP: &str =
    "a0000000-0000-4000-8000-000000000002_Windows10EnrollmentCompletionPageConfiguration";
pub(crate) const RESTRICTION: &str = "a0000000-0000-4000-8000-000000000003_SinglePlatformRestriction";
pub(crate) const LIMIT: &str = "a0000000-0000-4000-8000-000000000004_Limit";
pub(crate) const NOTICE: &str = "a0000000-0000-4000-8000-000000000005_EnrollmentNotificationsConfiguration";
pub(crate) const DEFAULT_ESP: &str =
    "a0000000-0000-4000-8000-00000000dddd_DefaultWindows10EnrollmentCompletionPageConfiguration";
pub(crate) const FILTER: &str = "f0000000-0000-4000-8000-000000000001";
/// The gateway's own application in the shipped settings.
pub(crate) const CLIENT: &str = "99999999-8888-4777-8666-555555555555";
pub(crate) const ASSIGNMENTS: &str = "/v1/assignments";
/// How often a condition is polled before it is given up.
pub(crate) const TRIES: usize = 20_000;
/// Permits everything to servicenow, unless another policy forbids it.
pub(crate) const EVERYTHING: (&str, &str) = (
    "everything.cedar",
    "@id(\"everything\")\npermit (principal == Postern::Caller::\"servicenow\", action, resource);",
);

/// Deviations from the shipped settings.
#[derive(Default)]
pub(crate) struct Setup {
    pub(crate) seed: Option<Value>,
    /// Policy files by name; an empty text leaves a shipped one out.
    pub(crate) policies: Vec<(&'static str, &'static str)>,
    /// Settings as environment variables, without the prefix.
    pub(crate) settings: Vec<(&'static str, &'static str)>,
    /// Replacements in the configuration file: text and new text.
    pub(crate) edits: Vec<(&'static str, String)>,
}

pub(crate) struct World {
    pub(crate) sandbox: Sandbox,
    pub(crate) client: Client,
    folder: TempDir,
    gateway: Option<Running>,
    settings: Vec<(String, String)>,
    tokens: Mutex<BTreeMap<String, String>>,
    codes: Mutex<BTreeSet<String>>,
    ended: bool,
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::with(Setup::default()).await
    }

    pub(crate) async fn with(setup: Setup) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let seed = setup.seed.map(|seed| {
            let path = folder.path().join("seed.json");
            std::fs::write(&path, seed.to_string()).unwrap();
            Seed::load(path).unwrap()
        });
        let listen = "127.0.0.1:0".parse().unwrap();
        let sandbox = sandbox::start(Options { listen, seed, clock: Clock::system() }).await.unwrap();
        write_files(&folder, sandbox.url(), &setup.policies, &setup.edits);
        let store = format!("sqlite:{}", folder.path().join("postern.db").display());
        let ours = [
            ("SERVER__LISTEN", "127.0.0.1:0"),
            ("SERVER__ADMIN_LISTEN", "127.0.0.1:0"),
            ("TELEMETRY__LOG_FILTER", "off"),
            ("STORE__URL", &store),
        ];
        let settings = ours.into_iter().chain(setup.settings);
        let settings = settings.map(|(name, value)| (format!("POSTERN__{name}"), value.to_owned())).collect();
        let client = Client::builder().no_proxy().pool_max_idle_per_host(0).build().unwrap();
        let (tokens, codes) = Default::default();
        let mut world = Self { sandbox, client, folder, gateway: None, settings, tokens, codes, ended: false };
        world.start_gateway().await;
        world
    }

    pub(crate) fn config(&self) -> Config {
        config::load_with(&self.config_file(), self.settings.clone()).unwrap()
    }

    pub(crate) fn config_file(&self) -> PathBuf {
        self.folder.path().join("postern.toml")
    }

    /// The settings that are not in the file, as environment variables.
    pub(crate) fn environment(&self) -> &[(String, String)] {
        &self.settings
    }

    /// The policy folder.
    pub(crate) fn policies(&self) -> PathBuf {
        self.folder.path().join("policies")
    }

    /// The store's file.
    pub(crate) fn store(&self) -> PathBuf {
        self.folder.path().join("postern.db")
    }

    pub(crate) async fn start_gateway(&mut self) {
        static TELEMETRY: Once = Once::new();
        let config = self.config();
        // Needed for trace ids; it exports nothing.
        let telemetry = telemetry::Settings { otlp_endpoint: None, ..config.telemetry.clone() };
        TELEMETRY.call_once(|| drop(telemetry::start(&telemetry, "tests").unwrap()));
        self.gateway = Some(app::start(config, Clock::system()).await.unwrap());
    }

    /// Takes the gateway out, to stop it.
    pub(crate) fn take_gateway(&mut self) -> Running {
        self.gateway.take().unwrap()
    }

    pub(crate) async fn restart(&mut self) {
        self.take_gateway().stop().await;
        self.start_gateway().await;
    }

    pub(crate) fn gateway(&self) -> &Running {
        self.gateway.as_ref().unwrap()
    }

    // Callers.

    /// The caller's token, cached.
    pub(crate) async fn token(&self, caller: &str) -> String {
        let known = self.tokens.lock().unwrap().get(caller).cloned();
        if let Some(token) = known {
            return token;
        }
        let token = self.forge(caller, json!({}), json!({})).await;
        self.tokens.lock().unwrap().insert(caller.to_owned(), token.clone());
        token
    }

    /// A token with some claims and header fields changed; null removes one.
    pub(crate) async fn forge(&self, caller: &str, claims: Value, header: Value) -> String {
        let order = json!({"caller": caller, "claims": claims, "header": header});
        let got = self.control("POST", "token", Some(order)).await.expect(200);
        got.body["access_token"].as_str().unwrap().to_owned()
    }

    pub(crate) fn bare(&self, method: &str, path: &str) -> RequestBuilder {
        let url = format!("{}{path}", self.gateway().url());
        self.client.request(Method::from_bytes(method.as_bytes()).unwrap(), url)
    }

    pub(crate) async fn request(&self, caller: &str, method: &str, path: &str) -> RequestBuilder {
        self.bare(method, path).bearer_auth(self.token(caller).await)
    }

    /// Sends a request, and records the code of a problem.
    pub(crate) async fn send(&self, request: RequestBuilder) -> Reply {
        let answer = got(request).await;
        if let Some(code) = answer.body["code"].as_str() {
            self.codes.lock().unwrap().insert(code.to_owned());
        }
        answer
    }

    pub(crate) async fn post(&self, caller: &str, path: &str, body: &Value, headers: &[(&str, &str)]) -> Reply {
        let request = self.request(caller, "POST", path).await.json(body);
        self.send(headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))).await
    }

    pub(crate) async fn get(&self, caller: &str, path: &str) -> Reply {
        self.send(self.request(caller, "GET", path).await).await
    }

    /// Submits a change as servicenow and waits for its end as long as possible.
    pub(crate) async fn change(&self, body: &Value) -> Reply {
        self.post("servicenow", ASSIGNMENTS, body, &[("prefer", "wait=25")]).await
    }

    /// Submits a change without waiting; returns the operation's id.
    pub(crate) async fn begin(&self, body: &Value) -> String {
        self.post("servicenow", ASSIGNMENTS, body, &[("prefer", "respond-async")]).await.expect(202).id()
    }

    pub(crate) async fn operation(&self, id: &str) -> Reply {
        self.get("servicenow", &format!("/v1/operations/{id}")).await.expect(200)
    }

    /// The operation once it has ended.
    pub(crate) async fn end_of(&self, id: &str) -> Reply {
        for _ in 0..4 {
            let request = self.request("servicenow", "GET", &format!("/v1/operations/{id}")).await;
            let answer = self.send(request.header("prefer", "wait=20")).await.expect(200);
            if has_ended(&answer.body) {
                return answer;
            }
        }
        panic!("operation {id} does not end");
    }

    /// Waits until an operation is parked; returns the reason.
    pub(crate) async fn parked(&self, id: &str) -> String {
        for _ in 0..60 {
            let request = self.request("servicenow", "GET", &format!("/v1/operations/{id}")).await;
            let seen = self.send(request.header("prefer", "wait=1")).await;
            if let Some(because) = seen.body["parked"]["because"].as_str() {
                return because.to_owned();
            }
        }
        panic!("{id} is not parked")
    }

    // The sandbox.

    pub(crate) async fn control(&self, method: &str, path: &str, body: Option<Value>) -> Reply {
        let url = format!("{}/_sandbox/{path}", self.sandbox.url());
        let request = self.client.request(Method::from_bytes(method.as_bytes()).unwrap(), url);
        got(match body {
            Some(body) => request.json(&body),
            None => request,
        })
        .await
    }

    pub(crate) async fn switch(&self, name: &str, value: impl Into<Value>) {
        self.control("POST", "switches", Some(json!({ name: value.into() }))).await.expect(200);
    }

    pub(crate) async fn fault(&self, order: Value) {
        self.control("POST", "faults", Some(order)).await.expect(201);
    }

    /// Holds every call whose path ends like this.
    pub(crate) async fn hold(&self, path_ends: &str) {
        self.fault(json!({"path_ends": path_ends, "effect": {"kind": "hold"}})).await;
    }

    pub(crate) async fn clear_faults(&self) {
        self.control("DELETE", "faults", None).await.expect(204);
    }

    /// Waits until the sandbox holds this many calls.
    pub(crate) async fn held(&self, calls: u64) {
        for _ in 0..TRIES {
            if self.control("GET", "faults", None).await.body["held"] == calls {
                return;
            }
            tokio::task::yield_now().await;
        }
        panic!("the sandbox never held {calls} calls");
    }

    pub(crate) async fn journal(&self) -> Vec<Value> {
        self.control("GET", "journal", None).await.expect(200).body["calls"].as_array().unwrap().clone()
    }

    /// The gateway's assign calls.
    pub(crate) async fn assigns(&self) -> Vec<Value> {
        let mut calls = self.journal().await;
        calls.retain(|call| call["path"].as_str().unwrap().ends_with("/assign") && trail::is_ours(call));
        calls
    }

    pub(crate) async fn jwks_fetches(&self) -> u64 {
        self.control("GET", "state", None).await.body["jwks_fetches"].as_u64().unwrap()
    }

    /// A configuration's assignments as Graph holds them.
    pub(crate) async fn assigned(&self, configuration: &str) -> Vec<Value> {
        let state = self.control("GET", "state", None).await.expect(200);
        let all = state.body["configurations"].as_array().unwrap().clone();
        let found = all.into_iter().find(|it| it["id"] == configuration).unwrap();
        found["assignments"].as_array().unwrap().clone()
    }

    /// The directly assigned groups.
    pub(crate) async fn groups(&self, configuration: &str) -> BTreeSet<String> {
        let assigned = self.assigned(configuration).await;
        let direct = assigned.iter().filter(|it| it["source"] == "direct");
        direct.filter_map(|it| it["target"]["groupId"].as_str().map(str::to_owned)).collect()
    }

    /// An administrator's own assign, bypassing the gateway.
    pub(crate) async fn administrator_assigns(&self, configuration: &str, groups: &[String]) {
        let config = self.config().graph;
        let (root, scope) = (self.sandbox.url(), config.scope);
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", CLIENT),
            ("client_secret", "sandbox-client-secret"),
            ("scope", scope.as_str()),
        ];
        let url = format!("{root}/{}/oauth2/v2.0/token", config.tenant_id);
        let token = got(self.client.post(url).form(&form)).await.expect(200);
        let entries: Vec<_> = groups.iter().map(|group| json!({"target": target(group)})).collect();
        let url = format!("{root}/beta/deviceManagement/deviceEnrollmentConfigurations/{configuration}/assign");
        let request = self.client.post(url).bearer_auth(token.body["access_token"].as_str().unwrap());
        got(request.json(&json!({"enrollmentConfigurationAssignments": entries}))).await.expect(204);
    }

    // The end.

    /// The audit trail, verified.
    pub(crate) async fn audit(&self) -> Vec<Value> {
        let page = Sqlite::read_audit(&self.store(), None, 1_000_000).await.unwrap();
        let mut verifier = Verifier::default();
        page.records.iter().for_each(|record| verifier.feed(record).unwrap());
        page.records.iter().map(|record| serde_json::from_str(record).unwrap()).collect()
    }

    /// The audit records with this event.
    pub(crate) async fn events(&self, event: &str) -> Vec<Value> {
        let mut audit = self.audit().await;
        audit.retain(|record| record["event"] == event);
        audit
    }

    /// Checks what must hold after every test, and stops everything.
    pub(crate) async fn end(mut self) {
        let codes = self.codes.lock().unwrap().clone();
        for code in codes {
            let page = got(self.bare("GET", &format!("/problems/{code}"))).await.expect(200);
            assert!(page.text.starts_with(&code), "{}", page.text);
        }
        self.take_gateway().stop().await;
        trail::check(&self.audit().await, &self.journal().await);
        self.ended = true;
    }
}

impl Drop for World {
    fn drop(&mut self) {
        assert!(self.ended || std::thread::panicking(), "a test must end its world");
    }
}

fn write_files(folder: &TempDir, sandbox: &str, policies: &[(&str, &str)], edits: &[(&str, String)]) {
    let shipped = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("config");
    let own = folder.path().join("policies");
    std::fs::create_dir(&own).unwrap();
    for entry in std::fs::read_dir(shipped.join("policies")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), own.join(entry.file_name())).unwrap();
    }
    for (name, text) in policies {
        std::fs::write(own.join(name), text).unwrap();
    }
    std::fs::copy(shipped.join("sandbox.secret"), folder.path().join("sandbox.secret")).unwrap();
    let graph = format!("[graph]\nendpoint = \"{sandbox}\"\nauthority = \"{sandbox}\"\n");
    let text = std::fs::read_to_string(shipped.join("sandbox.toml")).unwrap();
    let text = text.replace("http://127.0.0.1:9400", sandbox).replace("[graph]\n", &graph);
    let text = edits.iter().fold(text, |text, (from, to)| {
        assert!(text.contains(from), "{from} is not in the shipped file");
        text.replace(from, to)
    });
    std::fs::write(folder.path().join("postern.toml"), text).unwrap();
}

pub(crate) fn has_ended(operation: &Value) -> bool {
    ["succeeded", "failed", "cancelled"].contains(&operation["state"].as_str().unwrap())
}

/// The built-in tenant, as a seed to modify.
pub(crate) fn tenant() -> Value {
    serde_json::from_str(include_str!("../../src/sandbox/default_tenant.json")).unwrap()
}

pub(crate) fn group(number: usize) -> String {
    format!("b0000000-0000-4000-8000-{number:012}")
}

pub(crate) fn target(group: &str) -> Value {
    json!({"@odata.type": "#microsoft.graph.groupAssignmentTarget", "groupId": group})
}

/// A change with a ticket that adds one group.
pub(crate) fn add(configuration: &str, group: &str) -> Value {
    json!({"configuration": configuration, "add": [{"group": group}], "ticket": "RITM0000001"})
}

/// A change with a ticket that removes one group.
pub(crate) fn remove(configuration: &str, group: &str) -> Value {
    json!({"configuration": configuration, "remove": [{"group": group}], "ticket": "RITM0000002"})
}
