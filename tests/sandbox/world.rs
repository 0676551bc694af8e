//! A sandbox on a free port, a client for it, and the built-in ids.

use std::collections::BTreeMap;

use postern::clock::Clock;
use postern::sandbox::{self, Options, Sandbox, Seed};
use reqwest::{Client, Method, RequestBuilder, Response};
use serde_json::{Value, json};

pub(crate) const TENANT: &str = "11111111-2222-4333-8444-555555555555";
pub(crate) const CLIENT: &str = "99999999-8888-4777-8666-555555555555";
pub(crate) const SECRET: &str = "sandbox-client-secret";
pub(crate) const SALES_ESP: &str =
    "a0000000-0000-4000-8000-000000000001_Windows10EnrollmentCompletionPageConfiguration";
pub(crate) const KIOSK_ESP: &str =
    "a0000000-0000-4000-8000-000000000002_Windows10EnrollmentCompletionPageConfiguration";
pub(crate) const RESTRICTION: &str = "a0000000-0000-4000-8000-000000000003_SinglePlatformRestriction";
pub(crate) const NOTICE: &str = "a0000000-0000-4000-8000-000000000005_EnrollmentNotificationsConfiguration";
pub(crate) const DEFAULT_LIMIT: &str = "a0000000-0000-4000-8000-00000000dddd_DefaultLimit";
pub(crate) const FILTER: &str = "f0000000-0000-4000-8000-000000000001";
pub(crate) const ALL_USERS: &str = "acacacac-9df4-4c7d-9d50-4ef0226f57a9";
pub(crate) const CONFIGURATIONS: &str = "/beta/deviceManagement/deviceEnrollmentConfigurations";

/// A response with its whole body.
#[derive(Debug)]
pub(crate) struct Got {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) text: String,
    pub(crate) body: Value,
}

impl Got {
    pub(crate) fn code(&self) -> &str {
        self.body["error"]["code"].as_str().unwrap_or_default()
    }

    pub(crate) fn message(&self) -> &str {
        self.body["error"]["message"].as_str().unwrap_or_default()
    }

    pub(crate) fn rows(&self) -> &[Value] {
        self.body["value"].as_array().unwrap_or_else(|| panic!("no rows in {self:?}"))
    }

    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text);
        self
    }
}

pub(crate) struct World {
    pub(crate) sandbox: Sandbox,
    pub(crate) client: Client,
    pub(crate) token: String,
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::seeded(None).await
    }

    pub(crate) async fn seeded(seed: Option<Seed>) -> Self {
        let listen = "127.0.0.1:0".parse().unwrap();
        let sandbox = sandbox::start(Options { listen, seed, clock: Clock::system() }).await.unwrap();
        let client = Client::builder().no_proxy().pool_max_idle_per_host(0).build().unwrap();
        let mut world = Self { sandbox, client, token: String::new() };
        world.token = world.fresh_token().await;
        world
    }

    pub(crate) fn url(&self, path: &str) -> String {
        if path.starts_with("http") { path.to_owned() } else { format!("{}{path}", self.sandbox.url()) }
    }

    pub(crate) async fn fresh_token(&self) -> String {
        let got = self.login(&[]).await.expect(200);
        got.body["access_token"].as_str().unwrap().to_owned()
    }

    /// Requests a Graph token with a valid form, with some fields changed or, if empty, left out.
    pub(crate) async fn login(&self, changed: &[(&str, &str)]) -> Got {
        let scope = format!("{}/.default", self.sandbox.url());
        let mut form = BTreeMap::from([
            ("grant_type", "client_credentials"),
            ("client_id", CLIENT),
            ("client_secret", SECRET),
            ("scope", scope.as_str()),
        ]);
        form.extend(changed.iter().copied());
        form.retain(|_, value| !value.is_empty());
        let request = self.client.post(self.url(&format!("/{TENANT}/oauth2/v2.0/token"))).form(&form);
        got(request).await
    }

    pub(crate) fn request(&self, method: &str, path: &str) -> RequestBuilder {
        self.client.request(Method::from_bytes(method.as_bytes()).unwrap(), self.url(path))
    }

    pub(crate) fn authorized(&self, method: &str, path: &str) -> RequestBuilder {
        self.request(method, path).bearer_auth(&self.token)
    }

    pub(crate) async fn get(&self, path: &str) -> Got {
        got(self.authorized("GET", path)).await
    }

    pub(crate) async fn assignments(&self, id: &str) -> Vec<Value> {
        let rows = self.get(&format!("{CONFIGURATIONS}/{id}/assignments")).await.expect(200).rows().to_vec();
        rows.iter().for_each(check_assignment);
        rows
    }

    pub(crate) async fn assign_body(&self, id: &str, body: &Value) -> Got {
        got(self.authorized("POST", &format!("{CONFIGURATIONS}/{id}/assign")).json(body)).await
    }

    pub(crate) async fn assign(&self, id: &str, targets: &[Value]) -> Got {
        let entries: Vec<Value> = targets.iter().map(|target| json!({ "target": target })).collect();
        self.assign_body(id, &json!({"enrollmentConfigurationAssignments": entries})).await
    }

    pub(crate) async fn control(&self, method: &str, path: &str, body: Option<Value>) -> Got {
        let request = self.request(method, &format!("/_sandbox/{path}"));
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

    pub(crate) async fn journal(&self) -> Vec<Value> {
        self.control("GET", "journal", None).await.expect(200).body["calls"].as_array().unwrap().clone()
    }
}

pub(crate) fn group(number: u8) -> String {
    format!("b0000000-0000-4000-8000-0000000000{number:02}")
}

pub(crate) fn group_target(number: u8) -> Value {
    json!({"@odata.type": "#microsoft.graph.groupAssignmentTarget", "groupId": group(number)})
}

pub(crate) fn groups_of(rows: &[Value]) -> Vec<&str> {
    rows.iter().filter_map(|row| row["target"]["groupId"].as_str()).collect()
}

/// The only place that sends requests.
#[expect(clippy::disallowed_methods, reason = "a test's client needs none of what outbound adds")]
pub(crate) async fn sent(request: RequestBuilder) -> reqwest::Result<Response> {
    request.send().await
}

pub(crate) async fn got(request: RequestBuilder) -> Got {
    let response = sent(request).await.unwrap();
    let status = response.status().as_u16();
    let text_of = |value: &reqwest::header::HeaderValue| value.to_str().unwrap().to_owned();
    let headers = response.headers().iter().map(|(name, value)| (name.to_string(), text_of(value))).collect();
    let text = response.text().await.unwrap();
    let body = serde_json::from_str(&text).unwrap_or_default();
    Got { status, headers, text, body }
}

/// What Microsoft's beta documents say of an assignment, written by hand.
pub(crate) fn check_assignment(row: &Value) {
    let names: Vec<&String> = row.as_object().unwrap().keys().collect();
    assert_eq!(names, ["id", "source", "sourceId", "target"], "{row}");
    assert!(["direct", "policySets"].contains(&row["source"].as_str().unwrap()));
    let target = &row["target"];
    let odata_type = target["@odata.type"].as_str().unwrap();
    let group = target["groupId"].as_str();
    match odata_type.strip_prefix("#microsoft.graph.").unwrap() {
        "groupAssignmentTarget" | "exclusionGroupAssignmentTarget" => assert_eq!(group.unwrap().len(), 36),
        "allLicensedUsersAssignmentTarget" | "allDevicesAssignmentTarget" => assert!(group.is_none()),
        "configurationManagerCollectionAssignmentTarget" => assert!(target["collectionId"].is_string()),
        other => panic!("{other} is not a target"),
    }
    let filter = &target["deviceAndAppManagementAssignmentFilterId"];
    match target["deviceAndAppManagementAssignmentFilterType"].as_str().unwrap() {
        "none" => assert!(filter.is_null()),
        "include" | "exclude" => assert_eq!(filter.as_str().unwrap().len(), 36),
        other => panic!("{other} is not a filter type"),
    }
}
