//! The gateway as callers and operators see it: a process, an API, a store.

use std::{collections::BTreeSet, process::Command, time::Duration};

use postern::clock::Clock;
use reqwest::Client;
use serde_json::Value;

use crate::{
    plan::Words,
    program::{Program, postern},
    tenant::{Tenant, sent},
};

/// An idempotency key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key(pub(crate) String);

/// A change to submit, with its key.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) key: Key,
    pub(crate) body: Value,
}

/// A caller's view of the response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// Accepted as the operation with this id.
    Accepted(String),
    /// 503: retry later.
    NotNow,
    /// No response, or an incomplete one.
    Nothing,
}

/// A running process.
pub(crate) struct Gateway {
    pub(crate) program: Program,
    pub(crate) door: Door,
    /// URL of the probes.
    pub(crate) admin_url: String,
}

/// Access to the API.
#[derive(Clone)]
pub(crate) struct Door {
    url: String,
    client: Client,
    token: String,
}

fn shipped(name: &str) -> String {
    format!("{}/config/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// The program on the shipped settings, adapted to this tenant and its store.
fn command(tenant: &Tenant, arguments: &[&str]) -> Command {
    let text = std::fs::read_to_string(shipped("sandbox.toml")).unwrap();
    let address = tenant.url().trim_start_matches("http://");
    let path = tenant.folder.path().join("gateway.toml");
    std::fs::write(&path, text.replace("127.0.0.1:9400", address)).unwrap();
    let mut command = postern(tenant.folder.path(), arguments);
    command
        .args(["--config", "gateway.toml"])
        .env("POSTERN__SERVER__LISTEN", "127.0.0.1:0")
        .env("POSTERN__SERVER__ADMIN_LISTEN", "127.0.0.1:0")
        .env("POSTERN__STORE__URL", tenant.store.url())
        .env("POSTERN__GRAPH__ENDPOINT", tenant.url())
        .env("POSTERN__GRAPH__AUTHORITY", tenant.url())
        .env("POSTERN__GRAPH__CREDENTIAL__SECRET_FILE", shipped("sandbox.secret"))
        .env("POSTERN__POLICY__DIR", shipped("policies"))
        // After its owner died with a write in flight, a lane stays locked until its lease expires.
        .env("POSTERN__GRAPH__CALL_TIMEOUT", "1s")
        .env("POSTERN__EXECUTOR__LEASE_TTL", "3s")
        .env("POSTERN__EXECUTOR__SWEEP_INTERVAL", "100ms")
        // Logs every statement as a line, so that a kill can be planned at any of them.
        .env("POSTERN__TELEMETRY__LOG_FILTER", "info,sqlx::query=debug,postern::store::sqlite=trace");
    command
}

/// A process that is killed at the n-th line it logs, or once it is ready if that is sooner.
pub(crate) fn stillborn(tenant: &Tenant, lines: usize) {
    let mut program = Program::start(command(tenant, &["serve"]));
    for _ in 0..lines {
        if program.err.until("").contains(READY) {
            break;
        }
    }
    program.kill();
}

/// Far longer than anything takes here.
const PATIENCE: Duration = Duration::from_mins(1);

/// Logged once the listeners are open.
const READY: &str = "the gateway is ready";

impl Gateway {
    /// Starts a process on the tenant's store.
    pub(crate) async fn start(tenant: &Tenant) -> Self {
        let program = Program::start(command(tenant, &["serve"]));
        let ready: Value = serde_json::from_str(&program.err.until(READY)).unwrap();
        let url = |address: &str| format!("http://{}", ready[address].as_str().unwrap());
        let client = Client::builder().no_proxy().pool_max_idle_per_host(0).build().unwrap();
        let door = Door { url: url("address"), client, token: tenant.token().await };
        Self { program, door, admin_url: url("admin_address") }
    }

    /// Kills it when one of these texts appears in its log for the n-th time from now on.
    pub(crate) async fn killed_at(mut self, words: Words, times: usize) -> Self {
        let mark = self.door.marked().await;
        let watch = move || {
            self.program.err.until(&mark);
            let clock = Clock::system();
            let mut seen = 0;
            while seen < times {
                assert!(clock.elapsed() < PATIENCE, "the log never says {words:?}");
                // The gateway polls for work, so there is always a next line.
                let line = self.program.err.until("");
                seen += usize::from(words.iter().any(|it| line.contains(it)));
            }
            self.program.kill();
            self
        };
        tokio::task::spawn_blocking(watch).await.unwrap()
    }

    /// Status and body of `/readyz`.
    pub(crate) async fn readiness(&self) -> (u16, String) {
        let answer = sent(self.door.client.get(format!("{}/readyz", self.admin_url))).await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// Stops it as an operator would.
    pub(crate) fn stop(self) {
        self.program.terminate();
        assert_eq!(self.program.ended().code, Some(0));
    }
}

impl Door {
    /// Submits a change without waiting for its end.
    pub(crate) async fn submit(&self, change: &Change) -> (Key, Reply) {
        let request = self
            .client
            .post(format!("{}/v1/assignments", self.url))
            .bearer_auth(&self.token)
            .header("idempotency-key", &change.key.0)
            .header("prefer", "respond-async")
            .json(&change.body);
        let nothing = (change.key.clone(), Reply::Nothing);
        let Ok(response) = sent(request).await else { return nothing };
        let (status, headers) = (response.status(), response.headers().clone());
        // A truncated response tells a caller nothing it could rely on.
        let Ok(text) = response.text().await else { return nothing };
        let answer: Value = serde_json::from_str(&text).unwrap();
        if status == 503 {
            assert_eq!(answer["code"], "store-unavailable", "{text}");
            assert!(headers["retry-after"].to_str().unwrap().parse::<u32>().unwrap() > 0);
            return (change.key.clone(), Reply::NotNow);
        }
        assert!(status.is_success(), "{status}: {text}");
        (change.key.clone(), Reply::Accepted(answer["id"].as_str().unwrap().to_owned()))
    }

    /// Writes a unique mark to the log.
    async fn marked(&self) -> String {
        let mark = format!("/mark-{}", Clock::system().new_id());
        sent(self.client.get(format!("{}{mark}", self.url))).await.unwrap();
        mark
    }

    async fn get(&self, path: &str, prefer: &str) -> Value {
        let request = self.client.get(format!("{}{path}", self.url)).bearer_auth(&self.token).header("prefer", prefer);
        let response = sent(request).await.unwrap();
        let (status, text) = (response.status(), response.text().await.unwrap());
        assert!(status.is_success(), "{status}: {text}");
        serde_json::from_str(&text).unwrap()
    }

    /// Waits until an operation has succeeded.
    pub(crate) async fn success_of(&self, operation: &str) {
        // A parked lane retries within seconds; four waits are more than any plan needs.
        for _ in 0..4 {
            let standing = self.get(&format!("/v1/operations/{operation}"), "wait=20").await;
            match standing["state"].as_str().unwrap() {
                "queued" | "running" => {}
                "succeeded" => return,
                _ => panic!("it should have succeeded: {standing}"),
            }
        }
        panic!("{operation} does not end");
    }

    /// All operations, newest first.
    pub(crate) async fn operations(&self) -> Vec<Value> {
        let page = self.get("/v1/operations?limit=200", "").await;
        assert!(page["next"].is_null());
        page["operations"].as_array().unwrap().clone()
    }
}

/// What the audit trail of a stopped gateway holds.
pub(crate) struct Trail {
    /// One per start of the gateway.
    pub(crate) chains: usize,
    /// Records of the event `written`.
    pub(crate) written: Vec<Value>,
}

/// Has the program verify the trail, and checks that each operation was accepted once and settled once.
pub(crate) fn verify(tenant: &Tenant, operations: usize) -> Trail {
    let audit = |verb: &str| {
        let ended = Program::start(command(tenant, &["audit", verb])).ended();
        assert_eq!(ended.code, Some(0), "{}", ended.err);
        ended.out
    };
    let verified = audit("verify");
    assert!(verified.contains("every hash fits"), "{verified}");
    let records: Vec<Value> = audit("export").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for event in ["accepted", "settled"] {
        let told: BTreeSet<_> = records
            .iter()
            .filter(|record| record["event"] == event)
            .map(|record| record["operation"].as_str().unwrap())
            .collect();
        let count = records.iter().filter(|record| record["event"] == event).count();
        assert_eq!((count, told.len()), (operations, operations), "each operation is {event} once");
    }
    let chains: BTreeSet<_> = records.iter().map(|record| record["chain"].as_str().unwrap()).collect();
    let chains = chains.len();
    assert!(verified.contains(&format!(" in {chains} chain")), "{verified}");
    Trail { chains, written: records.into_iter().filter(|record| record["event"] == "written").collect() }
}
