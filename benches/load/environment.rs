//! The measured gateway and its environment: a tenant in a sandbox.

use std::{
    fmt::Write as _,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use postern::clock::Clock;
use reqwest::Client;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    issuer::{AUDIENCE, CALLERS, Issuer},
    process::{self, Process, until},
};

/// Groups that are added and removed.
pub(crate) const GROUPS: u128 = 40;
/// Configurations of the tenant.
pub(crate) const CONFIGURATIONS: u128 = 50;
/// Graph's latency per call: an assign rarely takes less.
const GRAPH_TAKES: Duration = Duration::from_millis(100);
/// Calls and writes that Microsoft allows one application in a tenant in 20 seconds.
const CALLS_MAX: u32 = 1_000;
const WRITES_MAX: u32 = 100;
/// The resulting average limit on writes.
pub(crate) const WRITES_A_SECOND: f64 = 5.0;

/// The measured core.
pub(crate) const MEASURED: &str = "0";

pub(crate) fn id(family: &str, number: u128) -> String {
    format!("{family}0000000-0000-4000-8000-{number:012}")
}

pub(crate) fn configuration(number: u128) -> String {
    format!("{}_Limit", id("a", number))
}

pub(crate) fn group(number: u128) -> String {
    id("b", number)
}

pub(crate) fn folder() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// A port that was free just now.
pub(crate) fn port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The program that is measured.
pub(crate) fn postern(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_postern"));
    command.args(arguments).current_dir(folder);
    command
}

/// How Graph behaves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Upstream {
    /// 100 ms per call, and Microsoft's limits.
    LikeGraph,
    /// No latency and no limits.
    Unbounded,
}

/// A running sandbox.
pub(crate) struct Sandbox {
    pub(crate) url: String,
    client: Client,
    pub(crate) process: Process,
    _folder: TempDir,
}

impl Sandbox {
    pub(crate) async fn start(upstream: Upstream, configurations: u128) -> Self {
        let folder = folder();
        fs::write(folder.path().join("tenant.json"), tenant(upstream, configurations).to_string()).unwrap();
        let address = format!("127.0.0.1:{}", port());
        let command = postern(folder.path(), &["sandbox", "--listen", &address, "--seed", "tenant.json"]);
        let process = Process::start(command, &process::all_but_the_first(), &folder.path().join("log"));
        let sandbox = Self { url: format!("http://{address}"), client: client(1), process, _folder: folder };
        until("the sandbox answers", || async { sandbox.get("switches").await.is_some() }).await;
        if upstream == Upstream::LikeGraph {
            let effect = json!({"kind": "slow", "millis": GRAPH_TAKES.as_millis()});
            sandbox.order(&json!({ "effect": effect })).await;
        }
        sandbox
    }

    async fn get(&self, path: &str) -> Option<Value> {
        let answer = sent(self.client.get(format!("{}/_sandbox/{path}", self.url))).await.ok()?;
        serde_json::from_slice(&answer.bytes().await.ok()?).ok()
    }

    async fn order(&self, order: &Value) {
        let answer = sent(self.client.post(format!("{}/_sandbox/faults", self.url)).json(order)).await.unwrap();
        assert!(answer.status().is_success(), "{answer:?}");
    }

    /// Calls so far by purpose: writes, reads of sets, group lookups, all; and how many were throttled.
    pub(crate) async fn calls(&self) -> Calls {
        let journal = self.get("journal").await.unwrap();
        assert_eq!(journal["dropped"], 0, "the journal holds all calls");
        let mut calls = Calls::default();
        for call in journal["calls"].as_array().unwrap() {
            let path = call["path"].as_str().unwrap();
            calls.all += 1;
            calls.writes += usize::from(path.ends_with("/assign"));
            calls.reads += usize::from(path.ends_with("/assignments"));
            calls.groups += usize::from(path.ends_with("/groups"));
            calls.refused += usize::from(call["status"] == 429);
        }
        calls
    }
}

/// Calls to Graph.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Calls {
    pub(crate) all: usize,
    pub(crate) writes: usize,
    pub(crate) reads: usize,
    pub(crate) groups: usize,
    pub(crate) refused: usize,
}

impl Calls {
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            all: self.all - before.all,
            writes: self.writes - before.writes,
            reads: self.reads - before.reads,
            groups: self.groups - before.groups,
            refused: self.refused - before.refused,
        }
    }
}

fn tenant(upstream: Upstream, configurations: u128) -> Value {
    let target = |number: u128| {
        json!({"target": {"@odata.type": "#microsoft.graph.groupAssignmentTarget", "groupId": group(number),
            "deviceAndAppManagementAssignmentFilterId": null, "deviceAndAppManagementAssignmentFilterType": "none"}})
    };
    let configuration = |number: u128| {
        json!({"id": configuration(number), "@odata.type": "#microsoft.graph.deviceEnrollmentLimitConfiguration",
            "deviceEnrollmentConfigurationType": "limit", "displayName": format!("Limit {number}"), "priority": number,
            "properties": {"limit": 5}, "assignments": (0..GROUPS / 2).map(target).collect::<Vec<_>>()})
    };
    let groups = |number: u128| json!({"id": group(number), "displayName": format!("Group {number}")});
    let switches = match upstream {
        Upstream::LikeGraph => json!({"calls_max": CALLS_MAX, "writes_max": WRITES_MAX, "journal_limit": 1_000_000}),
        Upstream::Unbounded => json!({"journal_limit": 1_000_000}),
    };
    json!({
        "tenant_id": id("1", 1),
        "apps": [{"client_id": id("9", 1), "client_secret": "load", "roles": [
            "DeviceManagementServiceConfig.ReadWrite.All", "GroupMember.Read.All"]}],
        "groups": (0..GROUPS).map(groups).collect::<Vec<_>>(),
        "configurations": (1..=configurations).map(configuration).collect::<Vec<_>>(),
        "switches": switches,
    })
}

/// A running gateway on the shipped settings, except as given.
pub(crate) struct Gateway {
    pub(crate) url: String,
    admin_url: String,
    client: Client,
    pub(crate) process: Process,
    pub(crate) folder: PathBuf,
    /// Name of its settings file there.
    pub(crate) settings: String,
}

/// Where a gateway runs.
pub(crate) struct Place<'a> {
    pub(crate) issuer: &'a Issuer,
    pub(crate) sandbox: &'a Sandbox,
    pub(crate) folder: &'a Path,
    pub(crate) store: String,
    pub(crate) cores: String,
    /// Additional settings, as text of the file.
    pub(crate) settings: &'static str,
}

impl<'a> Place<'a> {
    /// On the measured core, with a store in a file of that folder.
    pub(crate) fn new(issuer: &'a Issuer, sandbox: &'a Sandbox, folder: &'a Path) -> Self {
        let (store, cores) = ("sqlite:postern.db".to_owned(), MEASURED.to_owned());
        Self { issuer, sandbox, folder, store, cores, settings: "" }
    }
}

impl Gateway {
    /// Starts a gateway and waits until it is ready; also returns how long that took.
    pub(crate) async fn start(place: &Place<'_>) -> (Self, Duration) {
        let folder = place.folder.to_owned();
        let (port, admin_port) = (port(), port());
        let file = format!("gateway-{port}.toml");
        fs::write(folder.join(&file), settings(place, port, admin_port)).unwrap();
        fs::write(folder.join("secret"), "load").unwrap();
        policies(&folder.join("policies"));
        let command = postern(&folder, &["serve", "--config", &file]);
        let clock = Clock::system();
        let process = Process::start(command, &place.cores, &folder.join(format!("log-{port}")));
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let gateway =
            Self { url: url(port), admin_url: url(admin_port), client: client(1), process, folder, settings: file };
        until(&format!("the gateway in {} is ready", gateway.folder.display()), || async {
            gateway.admin("readyz").await.is_some()
        })
        .await;
        (gateway, clock.elapsed())
    }

    async fn admin(&self, path: &str) -> Option<String> {
        let answer = sent(self.client.get(format!("{}/{path}", self.admin_url))).await.ok()?;
        if answer.status().is_success() { answer.text().await.ok() } else { None }
    }

    /// The sum of a metric over all its series.
    pub(crate) async fn figure(&self, name: &str) -> f64 {
        self.figure_with(name, &[]).await
    }

    /// The sum of a metric over its series with these labels.
    async fn figure_with(&self, name: &str, labels: &[&str]) -> f64 {
        let text = self.admin("metrics").await.unwrap();
        let of = |line: &&str| {
            let of_name = line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
            of_name && labels.iter().all(|label| line.contains(label))
        };
        text.lines().filter(of).map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }

    /// Changes answered so far, and how many of them within 5 ms, by its own clock.
    pub(crate) async fn answered(&self) -> [f64; 2] {
        let (of, at_once) = (r#"http_route="/v1/assignments""#, r#"le="0.005""#);
        let name = "http_server_request_duration_seconds";
        let all = self.figure_with(&format!("{name}_count"), &[of]).await;
        [all, self.figure_with(&format!("{name}_bucket"), &[of, at_once]).await]
    }

    /// Waits until this many operations have ended in total.
    pub(crate) async fn until_ended(&self, operations: usize) {
        let ended = || async {
            // Polling costs CPU time that would be measured; draining takes seconds.
            Clock::system().sleep(Duration::from_millis(250)).await;
            self.figure("postern_operations_ended_total").await >= operations as f64
        };
        until("all operations have ended", ended).await;
    }
}

fn settings(place: &Place<'_>, port: u16, admin_port: u16) -> String {
    let Place { issuer, sandbox, store, .. } = place;
    let mut text = format!(
        r#"
[server]
listen = "127.0.0.1:{port}"
admin_listen = "127.0.0.1:{admin_port}"
connections_max = 4096
waits_max = 4096
calls_max = 1000000
[operations]
pending_max = 1000000
pending_per_configuration_max = 1000000
[store]
url = "{store}"
[graph]
cloud = "sandbox"
endpoint = "{sandbox}"
authority = "{sandbox}"
tenant_id = "{tenant}"
client_id = "{client}"
credential.secret_file = "secret"
[policy]
dir = "policies"
[[issuers]]
name = "load"
issuer = "{issuer}"
audiences = ["{AUDIENCE}"]
algorithms = ["RS256"]
jwks_url = "{issuer}/jwks"
"#,
        sandbox = sandbox.url,
        issuer = issuer.url,
        tenant = id("1", 1),
        client = id("9", 1),
    );
    for caller in 0..CALLERS {
        let client = id("c", caller);
        write!(text, "[[callers]]\nname = \"caller-{caller}\"\nissuer = \"load\"\nclient_id = \"{client}\"\n").unwrap();
    }
    for number in 1..=CONFIGURATIONS {
        let configuration = configuration(number);
        write!(text, "[catalogue.configurations.\"Limit {number}\"]\nid = \"{configuration}\"\ntags = [\"sales\"]\n")
            .unwrap();
    }
    text + place.settings
}

/// What the shipped policies allow ServiceNow, for any caller.
const POLICY: &str = r#"
@id("load-changes-groups")
permit (
    principal,
    action in [Postern::Action::"add", Postern::Action::"remove"],
    resource
)
when {
    principal in Postern::Role::"Assignments.Change" &&
    context.target.kind == "group" &&
    context has ticket &&
    resource.tags.containsAny(["sales", "kiosk", "restriction"])
};
"#;

/// The shipped policies, and that one.
fn policies(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    for file in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/config/policies")).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), folder.join(file.file_name())).unwrap();
    }
    fs::write(folder.join("load.cedar"), POLICY).unwrap();
}

/// A client with up to this many connections.
pub(crate) fn client(connections: usize) -> Client {
    Client::builder().no_proxy().no_gzip().http1_only().pool_max_idle_per_host(connections).build().unwrap()
}

/// The only place that sends requests.
#[expect(clippy::disallowed_methods, reason = "whoever measures needs none of what outbound adds")]
pub(crate) async fn sent(request: reqwest::RequestBuilder) -> reqwest::Result<reqwest::Response> {
    request.send().await
}
