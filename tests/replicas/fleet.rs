//! Three gateways as processes, one sandbox, and one database that logs the history of its lanes.

use std::{collections::BTreeSet, fs, path::Path, process::Command, time::Duration};

use postern::{
    clock::Clock,
    sandbox::{self, Options, Sandbox, Seed},
};
use reqwest::{Client, RequestBuilder};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection, Row};
use tempfile::TempDir;

use crate::{
    history::{self, Entry},
    postgres,
    program::{Program, postern},
};

/// Far longer than anything takes here.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);
/// How long a caller waits for one gateway before it tries another.
const CALLER_PATIENCE: Duration = Duration::from_secs(2);
/// Groups that the changes touch.
pub(crate) const GROUPS: usize = 8;

/// The only place that sends requests.
#[expect(clippy::disallowed_methods, reason = "callers and the sandbox's control are no part of the gateway")]
pub(crate) async fn sent(request: RequestBuilder) -> reqwest::Result<reqwest::Response> {
    request.send().await
}

pub(crate) fn configuration(number: usize) -> String {
    format!("a1000000-0000-4000-8000-{number:012}_Windows10EnrollmentCompletionPageConfiguration")
}

pub(crate) fn group(number: usize) -> String {
    format!("b1000000-0000-4000-8000-{number:012}")
}

/// A lane as its owner holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) configuration: String,
    pub(crate) owner: String,
    pub(crate) fencing: i64,
}

/// One gateway.
pub(crate) struct Replica {
    pub(crate) program: Program,
    pub(crate) url: String,
    /// URL of its probes.
    pub(crate) admin: String,
    /// Its name in leases and in the audit trail.
    pub(crate) owner: String,
}

pub(crate) struct Fleet {
    pub(crate) client: Client,
    pub(crate) token: String,
    pub(crate) replicas: Vec<Replica>,
    sandbox: Sandbox,
    database: PgConnection,
    store_url: String,
    variables: &'static [(&'static str, &'static str)],
    folder: TempDir,
}

impl Fleet {
    /// Three gateways in front of a tenant with this many configurations.
    pub(crate) async fn start(configurations: usize) -> Self {
        Self::made(configurations, &[], |_| {}).await
    }

    /// The same, with an edit of their settings folder first.
    pub(crate) async fn with(configurations: usize, edit: impl FnOnce(&Path)) -> Self {
        Self::made(configurations, &[], edit).await
    }

    /// The same, with settings of their own as environment variables.
    pub(crate) async fn start_with(configurations: usize, variables: &'static [(&'static str, &'static str)]) -> Self {
        Self::made(configurations, variables, |_| {}).await
    }

    async fn made(
        configurations: usize,
        variables: &'static [(&'static str, &'static str)],
        edit: impl FnOnce(&Path),
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let seed = folder.path().join("seed.json");
        fs::write(&seed, tenant(configurations).to_string()).unwrap();
        let (listen, clock) = ("127.0.0.1:0".parse().unwrap(), Clock::system());
        let sandbox = sandbox::start(Options { listen, seed: Some(Seed::load(seed).unwrap()), clock }).await.unwrap();
        settings(folder.path(), sandbox.url(), configurations);
        edit(folder.path());
        let client = Client::builder().no_proxy().pool_max_idle_per_host(0).timeout(CALLER_PATIENCE).build().unwrap();
        let asked = client.post(format!("{}/_sandbox/token", sandbox.url())).json(&json!({"caller": "servicenow"}));
        let issued: Value = sent(asked).await.unwrap().json().await.unwrap();
        let token = issued["access_token"].as_str().unwrap().to_owned();
        let store_url = postgres::shared().database().await;
        let database = PgConnection::connect(&store_url).await.unwrap();
        let mut fleet = Self { client, token, replicas: Vec::new(), sandbox, database, store_url, variables, folder };
        fleet.control("POST", "switches", Some(json!({"journal_limit": 1_000_000}))).await;
        for number in 0..3 {
            let replica = fleet.replica().await;
            fleet.replicas.push(replica);
            if number == 0 {
                history::begin(&mut fleet.database).await;
            }
        }
        fleet
    }

    /// The program on this fleet's settings.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = postern(self.folder.path(), arguments);
        command
            .args(["--config", "gateway.toml"])
            .env("POSTERN__STORE__URL", &self.store_url)
            .env("POSTERN__SERVER__LISTEN", "127.0.0.1:0")
            .env("POSTERN__SERVER__ADMIN_LISTEN", "127.0.0.1:0")
            .env("POSTERN__EXECUTOR__LEASE_TTL", "2500ms")
            .env("POSTERN__EXECUTOR__SWEEP_INTERVAL", "100ms")
            .env("POSTERN__GRAPH__CALL_TIMEOUT", "1s")
            .envs(self.variables.iter().copied());
        command
    }

    /// Starts another gateway.
    pub(crate) async fn replica(&mut self) -> Replica {
        let before = self.owners().await;
        let program = Program::start(self.command(&["serve"]));
        let ready: Value = serde_json::from_str(&program.err.until("the gateway is ready")).unwrap();
        let at = |key: &str| format!("http://{}", ready[key].as_str().unwrap());
        let (url, admin) = (at("address"), at("admin_address"));
        let owner = self.owners().await.difference(&before).next().unwrap().clone();
        Replica { program, url, admin, owner }
    }

    /// Everyone who ever wrote to the database.
    async fn owners(&mut self) -> BTreeSet<String> {
        let found = sqlx::query_scalar("SELECT chain FROM chains").fetch_all(&mut self.database).await;
        // Before the first gateway there is no table.
        found.unwrap_or_default().into_iter().collect()
    }

    pub(crate) fn place_of(&self, owner: &str) -> Option<usize> {
        self.replicas.iter().position(|replica| replica.owner == owner)
    }

    /// Sends a signal to one of them.
    pub(crate) fn signal(&self, place: usize, signal: &str) {
        self.replicas[place].program.signal(signal);
    }

    /// The lanes that are held, with leases that last a while longer.
    pub(crate) async fn held(&mut self) -> Vec<Held> {
        let sql = "SELECT configuration, owner, fencing FROM lanes
                   WHERE owner IS NOT NULL AND lease_until > clock_timestamp() + INTERVAL '300 milliseconds'";
        let rows = sqlx::query(sql).fetch_all(&mut self.database).await.unwrap();
        let held = |row: &sqlx::postgres::PgRow| Held {
            configuration: row.get("configuration"),
            owner: row.get("owner"),
            fencing: row.get("fencing"),
        };
        rows.iter().map(held).collect()
    }

    /// The highest fencing number of a lane.
    pub(crate) async fn fencing(&mut self, configuration: &str) -> i64 {
        let sql = "SELECT fencing FROM lanes WHERE configuration = $1";
        sqlx::query_scalar(sql).bind(configuration).fetch_one(&mut self.database).await.unwrap()
    }

    /// The client request id of a lane's announced write that is not known to have been answered.
    pub(crate) async fn announced(&mut self, configuration: &str) -> Option<String> {
        let sql = "SELECT intent FROM lanes WHERE configuration = $1";
        let intent: Option<String> =
            sqlx::query_scalar(sql).bind(configuration).fetch_one(&mut self.database).await.unwrap();
        let intent: Value = serde_json::from_str(&intent?).unwrap();
        intent["write"].is_null().then(|| intent["client_request_id"].as_str().unwrap().to_owned())
    }

    /// The states of all operations, with their ids.
    pub(crate) async fn states(&mut self) -> Vec<(String, String)> {
        sqlx::query_as("SELECT id, state FROM operations").fetch_all(&mut self.database).await.unwrap()
    }

    /// Operations that ended without success, one text each.
    pub(crate) async fn failures(&mut self) -> Vec<String> {
        let sql = "SELECT id || ' ' || fate FROM operations WHERE state NOT IN ('queued', 'running', 'succeeded')";
        sqlx::query_scalar(sql).fetch_all(&mut self.database).await.unwrap()
    }

    pub(crate) async fn history(&mut self) -> Vec<Entry> {
        history::read(&mut self.database).await
    }

    pub(crate) async fn control(&self, method: &str, path: &str, body: Option<Value>) -> Value {
        let asked = self.client.request(method.parse().unwrap(), format!("{}/_sandbox/{path}", self.sandbox.url()));
        let asked = if let Some(body) = body { asked.json(&body) } else { asked };
        let answer = sent(asked).await.unwrap();
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
        answer.json().await.unwrap_or_default()
    }

    pub(crate) async fn fault(&self, order: Value) {
        self.control("POST", "faults", Some(order)).await;
    }

    /// The calls that reached Graph, in order of effect.
    pub(crate) async fn journal(&self) -> Vec<Value> {
        let journal = self.control("GET", "journal", None).await;
        assert_eq!(journal["dropped"], 0);
        journal["calls"].as_array().unwrap().clone()
    }

    /// The groups that each configuration is assigned to.
    pub(crate) async fn assigned(&self) -> Vec<(String, BTreeSet<String>)> {
        let state = self.control("GET", "state", None).await;
        let of = |configuration: &Value| {
            let rows = configuration["assignments"].as_array().unwrap().iter();
            let groups = rows.map(|row| row["target"]["groupId"].as_str().unwrap().to_owned()).collect();
            (configuration["id"].as_str().unwrap().to_owned(), groups)
        };
        state["configurations"].as_array().unwrap().iter().map(of).collect()
    }

    /// Submits a change to one gateway without waiting for its end; none if it is not accepted.
    pub(crate) async fn submit(client: &Client, url: &str, token: &str, change: &Change) -> Option<String> {
        let body = json!({"configuration": change.configuration, change.list: [{"group": change.group}],
            "ticket": change.key});
        let asked = client.post(format!("{url}/v1/assignments")).bearer_auth(token).json(&body);
        let asked = asked.header("idempotency-key", &change.key).header("prefer", "respond-async");
        let answer = sent(asked).await.ok()?;
        let (status, text) = (answer.status(), answer.text().await.ok()?);
        if status == 503 {
            return None;
        }
        assert!(status.is_success(), "{status}: {text}");
        let operation: Value = serde_json::from_str(&text).unwrap();
        Some(operation["id"].as_str().unwrap().to_owned())
    }

    /// Polls until the condition holds.
    pub(crate) async fn until(&mut self, what: &str, mut so: impl AsyncFnMut(&mut Self) -> bool) {
        let clock = Clock::system();
        while !so(self).await {
            assert!(clock.elapsed() < PATIENCE, "not in time: {what}");
            clock.sleep(Duration::from_millis(5)).await;
        }
    }
}

/// A change to submit, with its key.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) key: String,
    pub(crate) configuration: String,
    pub(crate) list: &'static str,
    pub(crate) group: String,
}

/// The built-in tenant with other configurations, copies of its first, and other groups.
fn tenant(configurations: usize) -> Value {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/sandbox/default_tenant.json");
    let mut tenant: Value = serde_json::from_str(&fs::read_to_string(shipped).unwrap()).unwrap();
    let first = tenant["configurations"][0].clone();
    let copy = |number| {
        let mut copy = first.clone();
        copy["id"] = json!(configuration(number));
        copy["displayName"] = json!(format!("Configuration {number}"));
        copy["priority"] = json!(number + 1);
        copy
    };
    tenant["configurations"] = (0..configurations).map(copy).collect();
    let groups = tenant["groups"].as_array_mut().unwrap();
    groups.extend((0..GROUPS).map(|number| json!({"id": group(number), "displayName": format!("Group {number}")})));
    tenant
}

/// The shipped settings, for a sandbox at another address and with other configurations.
fn settings(folder: &Path, sandbox: &str, configurations: usize) {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let text = fs::read_to_string(shipped.join("sandbox.toml")).unwrap();
    let text = text
        .replace("127.0.0.1:9400", sandbox.trim_start_matches("http://"))
        .replace("[graph]\n", &format!("[graph]\nendpoint = \"{sandbox}\"\nauthority = \"{sandbox}\"\n"))
        .replace("dir = \"policies\"", &format!("dir = \"{}\"", shipped.join("policies").display()));
    let alias = |number| {
        let id = configuration(number);
        format!("\n[catalogue.configurations.\"Configuration {number}\"]\nid = \"{id}\"\ntags = [\"sales\"]\n")
    };
    let text = text + &(0..configurations).map(alias).collect::<String>();
    fs::write(folder.join("gateway.toml"), text).unwrap();
    fs::copy(shipped.join("sandbox.secret"), folder.join("sandbox.secret")).unwrap();
}
