//! The sandbox's tenant: injected faults, actual and expected assignments, and the store of its gateways.

use std::collections::BTreeMap;

use postern::{
    clock::Clock,
    sandbox::{self, Options, Sandbox},
};
use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::plan::Trouble;

/// The configurations that the caller may change.
pub(crate) const CONFIGURATIONS: [&str; 3] = [
    "a0000000-0000-4000-8000-000000000001_Windows10EnrollmentCompletionPageConfiguration",
    "a0000000-0000-4000-8000-000000000002_Windows10EnrollmentCompletionPageConfiguration",
    "a0000000-0000-4000-8000-000000000003_SinglePlatformRestriction",
];

/// By configuration and group: the target as Graph shows it, and its source.
pub(crate) type Assigned = BTreeMap<String, BTreeMap<String, Value>>;

pub(crate) fn group(number: u8) -> String {
    format!("b0000000-0000-4000-8000-0000000000{number:02}")
}

/// The only place that sends requests.
#[expect(clippy::disallowed_methods, reason = "a test's client needs none of what outbound adds")]
pub(crate) async fn sent(request: RequestBuilder) -> reqwest::Result<reqwest::Response> {
    request.send().await
}

/// The gateways' store.
#[derive(Clone, Debug)]
pub(crate) enum Store {
    Sqlite,
    /// At this URL.
    Postgres(String),
}

impl Store {
    pub(crate) fn url(&self) -> &str {
        match self {
            Self::Sqlite => "sqlite:postern.db",
            Self::Postgres(url) => url,
        }
    }
}

pub(crate) struct Tenant {
    sandbox: Sandbox,
    client: Client,
    start: Assigned,
    /// The gateway's files.
    pub(crate) folder: TempDir,
    pub(crate) store: Store,
}

impl Tenant {
    pub(crate) async fn start(store: Store) -> Self {
        let listen = "127.0.0.1:0".parse().unwrap();
        let sandbox = sandbox::start(Options { listen, seed: None, clock: Clock::system() }).await.unwrap();
        let client = Client::builder().no_proxy().pool_max_idle_per_host(0).build().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut tenant = Self { sandbox, client, start: Assigned::new(), folder, store };
        tenant.start = tenant.assigned().await;
        tenant
    }

    pub(crate) fn url(&self) -> &str {
        self.sandbox.url()
    }

    async fn control(&self, method: Method, path: &str, body: Option<&Value>) -> Value {
        let request = self.client.request(method, format!("{}/_sandbox/{path}", self.url()));
        let request = if let Some(body) = body { request.json(body) } else { request };
        let response = sent(request).await.unwrap();
        assert!(response.status().is_success(), "{path}: {}", response.status());
        serde_json::from_slice(&response.bytes().await.unwrap()).unwrap_or_default()
    }

    pub(crate) async fn token(&self) -> String {
        let issued = self.control(Method::POST, "token", Some(&json!({"caller": "servicenow"}))).await;
        issued["access_token"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn order(&self, trouble: Trouble) {
        if let Some(order) = trouble.order() {
            self.control(Method::POST, "faults", Some(&order)).await;
        }
    }

    pub(crate) async fn clear(&self) {
        self.control(Method::DELETE, "faults", None).await;
    }

    async fn held(&self) -> u64 {
        self.control(Method::GET, "faults", None).await["held"].as_u64().unwrap()
    }

    pub(crate) async fn until_held(&self) {
        while self.held().await == 0 {
            tokio::task::yield_now().await;
        }
    }

    /// Releases held writes, and waits until they have taken effect.
    pub(crate) async fn release_held(&self) {
        let held = self.held().await + self.released().await;
        self.clear().await;
        while self.released().await < held {
            tokio::task::yield_now().await;
        }
    }

    /// Calls that were held and have taken effect since.
    async fn released(&self) -> u64 {
        let calls = self.journal().await;
        u64::try_from(calls.iter().filter(|call| call["fault"] == "hold").count()).unwrap()
    }

    async fn journal(&self) -> Vec<Value> {
        self.control(Method::GET, "journal", None).await["calls"].as_array().unwrap().clone()
    }

    /// No call broke Graph's rules, and none was refused.
    pub(crate) async fn no_call_was_wrong(&self) {
        for call in self.journal().await {
            assert!(call["violation"].is_null(), "{call}");
            let refused = call["status"].as_u64().is_some_and(|status| (400..500).contains(&status));
            assert!(!refused, "{call}");
        }
    }

    pub(crate) async fn assigned(&self) -> Assigned {
        let state = self.control(Method::GET, "state", None).await;
        let of = |id: &&str| {
            let configuration = state["configurations"].as_array().unwrap().iter().find(|it| it["id"] == **id).unwrap();
            let rows = configuration["assignments"].as_array().unwrap().iter();
            let by_group = rows.map(|row| {
                let key = row["target"]["groupId"].as_str().unwrap().to_owned();
                (key, json!({"source": row["source"], "target": row["target"]}))
            });
            ((**id).to_owned(), by_group.collect())
        };
        CONFIGURATIONS.iter().map(of).collect()
    }

    /// The initial assignments with these operations (newest first, as the API lists them) applied. Each must report
    /// correctly whether it changed anything, even if the response to its write was lost with the gateway.
    pub(crate) fn folded(&self, operations: &[Value]) -> Assigned {
        let mut folded = self.start.clone();
        for operation in operations.iter().rev() {
            let before = folded.clone();
            let set = folded.get_mut(operation["configuration"]["id"].as_str().unwrap()).unwrap();
            let groups = |list: &str| {
                let items = operation["change"][list].as_array().unwrap().clone();
                items.into_iter().map(|item| item["group"].as_str().unwrap().to_owned())
            };
            groups("remove").for_each(|group| drop(set.remove(&group)));
            for group in groups("add") {
                let plain = json!({"source": "direct", "target": {
                    "@odata.type": "#microsoft.graph.groupAssignmentTarget",
                    "groupId": group,
                    "deviceAndAppManagementAssignmentFilterId": null,
                    "deviceAndAppManagementAssignmentFilterType": "none",
                }});
                // An existing assignment stays as it is, unknown fields included.
                set.entry(group).or_insert(plain);
            }
            let effect = if folded == before { "unchanged" } else { "changed" };
            assert_eq!(operation["effect"], effect, "{operation}");
        }
        folded
    }
}
