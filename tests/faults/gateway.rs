//! The gateway as its callers and its operators see it: a process, an API, a store.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use reqwest::Client;
use serde_json::Value;

use crate::{
    program::{Program, postern},
    tenant::{Tenant, sent},
};

/// An idempotency key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key(pub(crate) String);

/// A change to ask for, under its key.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) key: Key,
    pub(crate) body: Value,
}

pub(crate) struct Gateway {
    pub(crate) program: Program,
    pub(crate) url: String,
    pub(crate) client: Client,
    pub(crate) token: String,
    folder: PathBuf,
}

fn shipped(name: &str) -> String {
    format!("{}/config/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// The shipped settings, with this sandbox's address in them.
fn command(tenant: &Tenant) -> Command {
    let text = std::fs::read_to_string(shipped("sandbox.toml")).unwrap();
    let address = tenant.url().trim_start_matches("http://");
    let path = tenant.folder.path().join("gateway.toml");
    std::fs::write(&path, text.replace("127.0.0.1:9400", address)).unwrap();
    let mut command = postern(tenant.folder.path(), &["serve", "--config", "gateway.toml"]);
    command
        .env("POSTERN__SERVER__LISTEN", "127.0.0.1:0")
        .env("POSTERN__SERVER__ADMIN_LISTEN", "127.0.0.1:0")
        .env("POSTERN__STORE__URL", "sqlite:postern.db")
        .env("POSTERN__GRAPH__ENDPOINT", tenant.url())
        .env("POSTERN__GRAPH__AUTHORITY", tenant.url())
        .env("POSTERN__GRAPH__CREDENTIAL__SECRET_FILE", shipped("sandbox.secret"))
        .env("POSTERN__POLICY__DIR", shipped("policies"))
        // After a write under way at its owner's end, a lane is left alone for as long as its lease lasts.
        .env("POSTERN__GRAPH__CALL_TIMEOUT", "1s")
        .env("POSTERN__EXECUTOR__LEASE_TTL", "3s")
        .env("POSTERN__EXECUTOR__SWEEP_INTERVAL", "100ms");
    command
}

/// A new process, and where it is.
fn started(tenant: &Tenant) -> (Program, String) {
    let program = Program::start(command(tenant));
    let ready: Value = serde_json::from_str(&program.err.until("the gateway is ready")).unwrap();
    let url = format!("http://{}", ready["address"].as_str().unwrap());
    (program, url)
}

/// Asks for a change, not waiting for its end. The operation's id, or none if nobody answered.
pub(crate) async fn submit(client: &Client, url: &str, token: &str, change: &Change) -> (Key, Option<String>) {
    let request = client
        .post(format!("{url}/v1/assignments"))
        .bearer_auth(token)
        .header("idempotency-key", &change.key.0)
        .header("prefer", "respond-async")
        .json(&change.body);
    let Ok(response) = sent(request).await else { return (change.key.clone(), None) };
    let status = response.status();
    // An answer that broke off says nothing that a caller could rely on.
    let Ok(text) = response.text().await else { return (change.key.clone(), None) };
    assert!(status.is_success(), "{status}: {text}");
    let operation: Value = serde_json::from_str(&text).unwrap();
    (change.key.clone(), Some(operation["id"].as_str().unwrap().to_owned()))
}

impl Gateway {
    pub(crate) async fn start(tenant: &Tenant) -> Self {
        let (program, url) = started(tenant);
        let client = Client::builder().no_proxy().build().unwrap();
        Self { program, url, client, token: tenant.token().await, folder: tenant.folder.path().to_owned() }
    }

    /// The next process on the same store.
    pub(crate) async fn restart(&mut self, tenant: &Tenant) {
        (self.program, self.url) = started(tenant);
        self.token = tenant.token().await;
    }

    async fn get(&self, path: &str, prefer: &str) -> Value {
        let request = self.client.get(format!("{}{path}", self.url)).bearer_auth(&self.token).header("prefer", prefer);
        let response = sent(request).await.unwrap();
        let (status, text) = (response.status(), response.text().await.unwrap());
        assert!(status.is_success(), "{status}: {text}");
        serde_json::from_str(&text).unwrap()
    }

    /// Waits until an operation has ended, and well.
    pub(crate) async fn success_of(&self, operation: &str) {
        // A parked lane tries again within seconds; four waits are more than any plan asks for.
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

    /// Waits for the process's end and tells its exit code.
    pub(crate) fn ended(self) -> (Option<i32>, PathBuf) {
        (self.program.ended().code, self.folder)
    }
}

/// Has the program itself verify the trail, and counts in it what was accepted and settled. The records of writes.
pub(crate) fn verify(folder: &Path, operations: usize) -> Vec<Value> {
    let audit = |verb: &str| {
        let ended = Program::start(postern(folder, &["audit", verb, "--store", "postern.db"])).ended();
        assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""));
        ended.out
    };
    let chains = format!(" records in {} chains, every hash fits", crate::DEATHS + 1);
    assert!(audit("verify").contains(&chains));
    let records: Vec<Value> = audit("export").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for event in ["accepted", "settled"] {
        let count = records.iter().filter(|record| record["event"] == event).count();
        assert_eq!(count, operations, "each operation is {event} once");
    }
    records.into_iter().filter(|record| record["event"] == "written").collect()
}
