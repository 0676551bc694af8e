//! Two gateways on one PostgreSQL database and one sandbox, from outside: nothing is lost between them, and it makes no
//! difference which one is called.

use std::{collections::BTreeSet, fs, path::Path, process::Command, time::Duration};

use futures_util::future::join_all;
use postern::{
    app::{self, Running},
    clock::Clock,
    config,
    sandbox::{self, Options, Sandbox},
};
use reqwest::{Client, RequestBuilder, Response};
use serde_json::{Value, json};
use sqlx::Connection;
use tempfile::TempDir;

use crate::{postgres, runbook::run_block};

/// Far longer than anything takes here.
const PATIENCE: Duration = Duration::from_mins(1);
const GROUPS: [&str; 6] =
    ["Sales Laptops", "Sales Kiosks", "Head Office Laptops", "Warehouse Tablets", "Finance Laptops", "Sales Staff"];

struct World {
    client: Client,
    sandbox: Sandbox,
    gateways: [Running; 2],
    token: String,
    folder: TempDir,
    store_url: String,
}

impl World {
    async fn start() -> Self {
        let clock = Clock::system();
        let options = Options { listen: "127.0.0.1:0".parse().unwrap(), seed: None, clock };
        let sandbox = sandbox::start(options).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let store_url = postgres::shared().database().await;
        settings(folder.path(), sandbox.url());
        let gateways = [
            gateway(folder.path(), &store_url, clock).await,
            // The second starts while the first is running, as replicas do.
            gateway(folder.path(), &store_url, clock).await,
        ];
        let client = Client::builder().no_proxy().pool_max_idle_per_host(0).timeout(PATIENCE).build().unwrap();
        let asked = client.post(format!("{}/_sandbox/token", sandbox.url())).json(&json!({"caller": "servicenow"}));
        let issued: Value = sent(asked).await.json().await.unwrap();
        let token = issued["access_token"].as_str().unwrap().to_owned();
        Self { client, sandbox, gateways, token, folder, store_url }
    }

    /// Submits a change to one of the gateways, and waits for its end unless `prefer` says otherwise.
    async fn change(&self, gateway: usize, body: &Value, prefer: &str) -> (u16, Value) {
        let url = format!("{}/v1/assignments", self.gateways[gateway].url());
        let asked = self.client.post(url).bearer_auth(&self.token).header("prefer", prefer).json(body);
        let answer = sent(asked).await;
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    async fn control(&self, method: &str, path: &str, body: Option<Value>) -> Value {
        let url = format!("{}/_sandbox/{path}", self.sandbox.url());
        let asked = self.client.request(method.parse().unwrap(), url);
        let asked = match body {
            Some(body) => asked.json(&body),
            None => asked,
        };
        sent(asked).await.json().await.unwrap_or_default()
    }

    /// The groups that the configuration is assigned to, by name.
    async fn assigned(&self) -> BTreeSet<String> {
        let state = self.control("GET", "state", None).await;
        let all = |key: &str, of: &Value| of[key].as_array().unwrap().clone();
        let configurations = all("configurations", &state);
        let configuration = configurations.iter().find(|it| it["displayName"] == "Sales ESP").unwrap();
        let groups = all("groups", &state);
        let name = |assignment: &Value| {
            let group = groups.iter().find(|group| group["id"] == assignment["target"]["groupId"]);
            group.map_or_else(|| assignment["target"].to_string(), |it| it["displayName"].as_str().unwrap().to_owned())
        };
        all("assignments", configuration).iter().map(name).collect()
    }

    /// The whole trail, as read through the first gateway's store.
    async fn records(&self) -> Vec<Value> {
        let page = self.gateways[0].store().audit(None, 10_000).await.unwrap();
        page.records.iter().map(|text| serde_json::from_str(text).unwrap()).collect()
    }

    async fn stop(self) -> (TempDir, String) {
        let [a, b] = self.gateways;
        tokio::join!(a.stop(), b.stop());
        self.sandbox.stop().await;
        (self.folder, self.store_url)
    }
}

#[expect(clippy::disallowed_methods, reason = "callers and the sandbox's control are no part of the gateway")]
async fn sent(request: RequestBuilder) -> Response {
    request.send().await.unwrap()
}

/// The shipped settings, for a sandbox at another address.
fn settings(folder: &Path, sandbox: &str) {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let text = fs::read_to_string(shipped.join("sandbox.toml")).unwrap();
    let text = text
        .replace("127.0.0.1:9400", sandbox.trim_start_matches("http://"))
        .replace("[graph]\n", &format!("[graph]\nendpoint = \"{sandbox}\"\nauthority = \"{sandbox}\"\n"))
        .replace("dir = \"policies\"", &format!("dir = \"{}\"", shipped.join("policies").display()));
    fs::write(folder.join("gateway.toml"), text).unwrap();
    fs::copy(shipped.join("sandbox.secret"), folder.join("sandbox.secret")).unwrap();
}

async fn gateway(folder: &Path, store_url: &str, clock: Clock) -> Running {
    let variables = [
        ("POSTERN__STORE__URL", store_url),
        ("POSTERN__SERVER__LISTEN", "127.0.0.1:0"),
        ("POSTERN__SERVER__ADMIN_LISTEN", "127.0.0.1:0"),
        // Only notices bring work: no gateway finds another's work by chance.
        ("POSTERN__EXECUTOR__SWEEP_INTERVAL", "5m"),
    ];
    let variables = variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
    app::start(config::load(Some(&folder.join("gateway.toml")), variables).unwrap(), clock).await.unwrap()
}

/// Waits until the condition holds.
async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let clock = Clock::system();
    while !is_so().await {
        assert!(clock.elapsed() < PATIENCE, "not in time: {what}");
        clock.sleep(Duration::from_millis(10)).await;
    }
}

fn add(group: &str) -> Value {
    json!({"configuration": "Sales ESP", "add": [{"group": group}], "ticket": "RITM0010023"})
}

fn remove(group: &str) -> Value {
    json!({"configuration": "Sales ESP", "remove": [{"group": group}], "ticket": "RITM0010023"})
}

/// The chain that holds an event's record for an operation.
fn chain_of<'a>(records: &'a [Value], event: &str, operation: &Value) -> &'a Value {
    &records.iter().find(|it| it["event"] == event && it["operation"] == *operation).expect("a record")["chain"]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_waits_at_one_gateway_is_answered_though_the_other_did_the_work() {
    let world = World::start().await;
    let hold = json!({"method": "POST", "path_ends": "/assign", "times": 1, "effect": {"kind": "hold"}});
    world.control("POST", "faults", Some(hold)).await;
    let (status, first) = world.change(1, &add("Sales Laptops"), "respond-async").await;
    assert_eq!(status, 202);
    eventually("a gateway is writing", async || world.control("GET", "faults", None).await["held"] == 1).await;
    // The lane belongs to one gateway by now, usually the one that was called, so the other cannot do this itself.
    let records = world.records().await;
    let started = &records.iter().find(|it| it["event"] == "started").expect("a record")["chain"];
    let other = usize::from(started != chain_of(&records, "accepted", &first["id"]));
    let body = add("Sales Kiosks");
    let asked = world.change(other, &body, "wait=25");
    let released = async {
        eventually("the change is accepted", async || {
            world.records().await.iter().filter(|record| record["event"] == "accepted").count() == 2
        })
        .await;
        world.control("DELETE", "faults", None).await;
    };
    let clock = Clock::system();
    let ((status, operation), ()) = tokio::join!(asked, released);
    assert_eq!((status, &operation["state"]), (200, &json!("succeeded")), "{operation}");
    assert!(clock.elapsed() < Duration::from_secs(20), "{:?}", clock.elapsed());
    let records = world.records().await;
    let (accepted, settled) =
        (chain_of(&records, "accepted", &operation["id"]), chain_of(&records, "settled", &operation["id"]));
    assert_ne!(accepted, settled);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_sent_to_both_gateways_all_end_and_none_undoes_another() {
    let world = World::start().await;
    let before = world.assigned().await;
    let others: BTreeSet<_> = before.iter().filter(|name| !GROUPS.contains(&name.as_str())).cloned().collect();
    for round in 0..4 {
        let (bodies, expected): (Vec<_>, BTreeSet<String>) = if round % 2 == 0 {
            (GROUPS.map(add).into(), others.iter().cloned().chain(GROUPS.map(str::to_owned)).collect())
        } else {
            (GROUPS.map(remove).into(), others.clone())
        };
        // Each change goes to one gateway, and again to the other, which finds nothing to do.
        let asked = bodies.iter().enumerate().flat_map(|(place, body)| [(place % 2, body), ((place + 1) % 2, body)]);
        let answers = join_all(asked.map(|(gateway, body)| world.change(gateway, body, "wait=25"))).await;
        for (status, operation) in answers {
            assert_eq!((status, &operation["state"]), (200, &json!("succeeded")), "{operation}");
        }
        assert_eq!(world.assigned().await, expected);
    }
    let records = world.records().await;
    let settled = records.iter().filter(|record| record["event"] == "settled");
    assert_eq!(settled.count(), 4 * 2 * GROUPS.len());
    let drifts = records.iter().filter(|record| record["event"] == "drift-seen").count();
    assert_eq!(drifts, 0, "each found what the other left");
    let (folder, store_url) = world.stop().await;
    let verified = Command::new(env!("CARGO_BIN_EXE_postern"))
        .args(["audit", "verify", "--config", "gateway.toml"])
        .env("POSTERN__STORE__URL", store_url)
        .current_dir(folder.path())
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&verified.stdout), String::from_utf8_lossy(&verified.stderr));
    assert!(out.contains("records in 2 chains, every hash fits"), "{out}{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_is_backed_up_while_in_use_and_restored_into_another_as_the_handbook_says() {
    let world = World::start().await;
    let before = world.change(0, &add("Sales Laptops"), "wait=25").await.1;
    let (verifying, restoring) = (postgres::shared().database().await, postgres::shared().database().await);
    let backup = world.folder.path().join("backup").display().to_string();
    let variables = [("BACKUP", backup.as_str()), ("DATABASE", world.store_url.as_str()), ("CONFIG", "gateway.toml")];
    let into = |database| [&variables[..], &[("NEW_DATABASE", database)]].concat();
    let verified = run_block("backup-postgres", world.folder.path(), &into(&verifying));
    assert!(verified.contains("every hash fits"), "{verified}");
    let after = world.change(1, &add("Sales Kiosks"), "wait=25").await.1;
    let World { client, sandbox, gateways: [a, b], token, folder, .. } = world;
    tokio::join!(a.stop(), b.stop());

    let restored = run_block("restore-postgres", folder.path(), &into(&restoring));
    assert_eq!(restored, verified, "the same records, the same newest hash");
    let gateway = gateway(folder.path(), &restoring, Clock::system()).await;
    let look = async |operation: &Value| {
        let url = format!("{}/v1/operations/{}", gateway.url(), operation["id"].as_str().unwrap());
        sent(client.get(url).bearer_auth(&token)).await.status().as_u16()
    };
    assert_eq!((look(&before).await, look(&after).await), (200, 404));
    gateway.stop().await;
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_comes_is_carried_out_once_though_both_gateways_look() {
    let world = World::start().await;
    let (before, mut changed) = (world.assigned().await, 0);
    for (place, group) in GROUPS.into_iter().enumerate() {
        let mut body = add(group);
        body["until"] = json!("2029-12-24T18:00:00Z");
        let (status, operation) = world.change(place % 2, &body, "wait=25").await;
        assert_eq!((status, &operation["state"]), (200, &json!("succeeded")), "{operation}");
        changed += i64::from(operation["effect"] == "changed");
    }
    let mut database = sqlx::PgConnection::connect(&world.store_url).await.unwrap();
    sqlx::query("UPDATE operations SET until_at = 1").execute(&mut database).await.unwrap();
    eventually("everything is as it was", async || world.assigned().await == before).await;
    let ahead = "SELECT count(*) FROM operations WHERE until_at IS NOT NULL";
    eventually("every end is settled", async || {
        sqlx::query_scalar::<_, i64>(ahead).fetch_one(&mut database).await.unwrap() == 0
    })
    .await;
    let reversals = "SELECT count(*), count(DISTINCT reverts) FROM operations WHERE reverts IS NOT NULL";
    let found: (i64, i64) = sqlx::query_as(reversals).fetch_one(&mut database).await.unwrap();
    assert!(changed > 2, "{changed}");
    assert_eq!(found, (changed, changed));
    world.stop().await;
}
