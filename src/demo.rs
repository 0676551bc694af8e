//! `postern demo`: one real request, shown step by step.
//!
//! Sandbox and gateway run in this process, each behind its own loopback address, and everything goes over HTTP as it
//! would between machines: the caller's token, the request, the gateway's calls to Graph. Each step is checked, not only
//! shown; the first that fails ends the demo with an error.
//!
//! It deliberately uses the shipped `config/sandbox.toml` and policies, copied to a temporary folder, so that what it
//! shows is what a reader can change and run.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, anyhow, bail, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    app::{self, Running},
    audit::Verifier,
    clock::Clock,
    config::{self, Config},
    outbound::{HeaderValue, Method, Outbound, Request, Response, header::AUTHORIZATION},
    sandbox::{self, Sandbox},
    telemetry::{self, Telemetry},
};

/// The shipped files that configure a gateway for the sandbox.
const FILES: [(&str, &str); 7] = [
    ("sandbox.toml", include_str!("../config/sandbox.toml")),
    ("sandbox.secret", include_str!("../config/sandbox.secret")),
    ("policies/schema.cedarschema", include_str!("../config/policies/schema.cedarschema")),
    ("policies/servicenow.cedar", include_str!("../config/policies/servicenow.cedar")),
    ("policies/portal.cedar", include_str!("../config/policies/portal.cedar")),
    ("policies/helpdesk.cedar", include_str!("../config/policies/helpdesk.cedar")),
    ("policies/guard.cedar", include_str!("../config/policies/guard.cedar")),
];
/// The address in the shipped file.
const SANDBOX: &str = "127.0.0.1:9400";
/// Any free port on this machine.
const ANY_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const TIMEOUT: Duration = Duration::from_secs(30);
const RESPONSE_MAX: usize = 16 * 1024 * 1024;
const CONFIGURATION: &str = "Sales ESP";

/// The demo's gateway and sandbox, which keep running after the request.
#[derive(Debug)]
pub struct Staying {
    gateway: Running,
    sandbox: Sandbox,
    telemetry: Telemetry,
    token: String,
    /// Path of the operation that was shown.
    operation: String,
}

/// Where the steps are printed.
struct Stage<'a> {
    out: &'a mut dyn Write,
    pretty: bool,
    step: u32,
}

impl Stage<'_> {
    fn step(&mut self, title: &str) -> io::Result<()> {
        self.step = self.step.saturating_add(1);
        let (bold, plain) = if self.pretty { ("\u{1b}[1;36m", "\u{1b}[0m") } else { ("", "") };
        writeln!(self.out, "\n{bold}{}. {title}{plain}", self.step)
    }

    fn say(&mut self, line: &str) -> io::Result<()> {
        writeln!(self.out, "   {line}")
    }

    fn show(&mut self, value: &Value) -> io::Result<()> {
        let text = serde_json::to_string_pretty(value).unwrap_or_default();
        let (dim, plain) = if self.pretty { ("\u{1b}[2m", "\u{1b}[0m") } else { ("", "") };
        text.lines().try_for_each(|line| writeln!(self.out, "     {dim}{line}{plain}"))
    }
}

/// Starts both, makes one request, and prints what happens.
pub async fn tell(out: &mut dyn Write) -> anyhow::Result<Staying> {
    let mut stage = Stage { out, pretty: io::stdout().is_terminal(), step: 0 };
    let clock = Clock::system();
    let folder = folder(clock)?;
    writeln!(stage.out, "Postern demo: a ticket asks to assign {CONFIGURATION} to the group Sales Laptops.")?;
    writeln!(stage.out, "All files of this demo are in {}", folder.display())?;
    let mut staying = open(&folder, clock).await?;
    stage.step("Sandbox and gateway are up")?;
    stage.say(&format!("sandbox (Entra and Graph, simulated)  {}", staying.sandbox.url()))?;
    stage.say(&format!("gateway                               {}", staying.gateway.url()))?;
    match story(&staying, &mut stage).await {
        Ok(operation) => {
            staying.operation = operation;
            Ok(staying)
        }
        Err(error) => {
            staying.stop().await;
            Err(error)
        }
    }
}

/// Runs and prints the steps; returns the path of the operation.
async fn story(scene: &Staying, stage: &mut Stage<'_>) -> anyhow::Result<String> {
    let before = scene.present().await?;
    stage.step(&format!("What {CONFIGURATION} is assigned to"))?;
    list(stage, &before)?;

    let body = json!({
        "configuration": CONFIGURATION,
        "add": [{ "group": "Sales Laptops" }],
        "ticket": "RITM0010023",
        "comment": "New sales floor",
    });
    stage.step("The caller servicenow requests the change, with its own token: POST /v1/assignments")?;
    stage.show(&body)?;
    let answer = scene.ask("/v1/assignments", &body).await?;
    stage.say(&format!("answer: {}", answer.status))?;
    let operation: Value = serde_json::from_slice(&answer.body).context("the answer is not JSON")?;
    stage.show(&operation)?;
    let ended = field(&operation, "state");
    ensure!(
        answer.status.is_success() && ended == "succeeded",
        "the operation should have succeeded, but is {ended:?}"
    );
    ensure!(field(&operation, "effect") == "changed", "the operation should have changed the assignments");

    stage.step("What reached Graph, with Postern's credential, not the caller's")?;
    graph_calls(stage, &scene.get("/_sandbox/journal").await?)?;

    let after = scene.present().await?;
    stage.step(&format!("What {CONFIGURATION} is assigned to now"))?;
    list(stage, &after)?;
    let added: Vec<_> = after.iter().filter(|line| !before.contains(line)).collect();
    ensure!(before.iter().all(|line| after.contains(line)), "an assignment that the request did not name was lost");
    ensure!(added.len() == 1, "exactly one assignment should have been added, not {}", added.len());

    stage.step("The audit trail")?;
    audit_trail(stage, scene).await?;

    stage.step("The trace")?;
    let trace_id = field(&operation, "trace_id");
    ensure!(!trace_id.is_empty(), "the operation has no trace id");
    stage.say(&format!("trace id {trace_id}, also in the answer and in the audit records"))?;
    stage.say("the merged write has a trace of its own, linked to the trace of each request it combines;")?;
    stage.say("set telemetry.otlp_endpoint to send traces to a collector")?;
    let operation = operation.get("links").map(|links| field(links, "self")).unwrap_or_default();
    Ok(operation.to_owned())
}

fn list(stage: &mut Stage<'_>, lines: &[String]) -> io::Result<()> {
    lines.iter().try_for_each(|line| stage.say(line))
}

/// Shows the calls of the journal, and the body of `assign` in full.
fn graph_calls(stage: &mut Stage<'_>, journal: &Value) -> anyhow::Result<()> {
    let mut assigns = 0_u32;
    for call in items(journal, "calls") {
        let (path, status) = (field(call, "path"), call.get("status").and_then(Value::as_u64).unwrap_or_default());
        stage.say(&format!("{:4} {path} → {status}", field(call, "method")))?;
        if path.ends_with("/assign") {
            assigns = assigns.saturating_add(1);
            stage.show(call.get("request").unwrap_or(&Value::Null))?;
        }
    }
    ensure!(assigns == 1, "exactly one assign should have reached Graph, not {assigns}");
    Ok(())
}

async fn audit_trail(stage: &mut Stage<'_>, scene: &Staying) -> anyhow::Result<()> {
    let mut verifier = Verifier::default();
    let page = scene.gateway.store().audit(None, 1_000).await?;
    for text in &page.records {
        verifier.feed(text)?;
        let record: Value = serde_json::from_str(text)?;
        let sequence = record.get("sequence").and_then(Value::as_u64).unwrap_or_default();
        let mut line = format!("{sequence:>3} {:<20}", field(&record, "event"));
        for key in ["caller", "ticket", "state", "effect", "request_id"] {
            let value = field(&record, key);
            if !value.is_empty() {
                write!(line, " {key}={value}")?;
            }
        }
        let hash = field(&record, "hash");
        stage.say(&format!("{line}  hash {}…", hash.get(..12).unwrap_or(hash)))?;
    }
    let report = verifier.finish()?;
    ensure!(report.records >= 5, "the trail should record start, acceptance, start of work, write and end");
    stage.say(&format!("verified: {report}"))?;
    Ok(())
}

/// A token for this caller from the sandbox's issuer.
pub(crate) async fn token_of(caller: &str, sandbox: &str) -> anyhow::Result<String> {
    #[derive(Deserialize)]
    struct Issued {
        access_token: String,
    }
    let call = Request {
        method: Method::POST,
        url: format!("{}/_sandbox/token", sandbox.trim_end_matches('/')),
        headers: Vec::new(),
        body: Some(("application/json", serde_json::to_vec(&serde_json::json!({ "caller": caller }))?)),
        timeout: TIMEOUT,
        end_by: None,
        response_max: RESPONSE_MAX,
    };
    let answer = Outbound::new(Clock::system())?.send(call).await;
    let answer =
        answer.with_context(|| format!("no sandbox answers at {sandbox}; start one with `postern sandbox`"))?;
    if !answer.status.is_success() {
        let told = serde_json::from_slice::<Value>(&answer.body).unwrap_or_default();
        match field(&told, "error") {
            "" => bail!("{sandbox} answered {} and issued no token; is that a sandbox?", answer.status),
            error if told.get("callers").is_some() => bail!("{error}; choose one of these with --caller"),
            error => bail!("the sandbox issued no token: {error}"),
        }
    }
    Ok(serde_json::from_slice::<Issued>(&answer.body).context("the sandbox's answer is not a token")?.access_token)
}

/// One assignment in words.
fn line(state: &Value, assignment: &Value) -> String {
    let target = assignment.get("target").unwrap_or(&Value::Null);
    let group = items(state, "groups").find(|group| field(group, "id") == field(target, "groupId"));
    let name = group.map_or_else(|| field(target, "@odata.type"), |group| field(group, "displayName"));
    let filter = match field(target, "deviceAndAppManagementAssignmentFilterType") {
        "" | "none" => String::new(),
        mode => format!(", filtered ({mode})"),
    };
    let source = match field(assignment, "source") {
        "" | "direct" => String::new(),
        "policySets" => ", from a policy set: assign does not change it, and it is not counted".to_owned(),
        source => format!(", from {source}"),
    };
    format!("- {name}{filter}{source}")
}

/// A text field, or nothing.
fn field<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// A list, or an empty one.
fn items<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value.get(key).and_then(Value::as_array).into_iter().flatten()
}

/// Creates a folder for this demo, with the shipped files in it.
fn folder(clock: Clock) -> anyhow::Result<PathBuf> {
    let folder = std::env::temp_dir().join(format!("postern-demo-{}", clock.new_id()));
    for (name, text) in FILES {
        let path = folder.join("config").join(name);
        let parent = path.parent().unwrap_or(&folder);
        std::fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(folder)
}

/// Starts the sandbox, then a gateway for it. Uses the default addresses if they are free.
async fn open(folder: &Path, clock: Clock) -> anyhow::Result<Staying> {
    let start = |listen| sandbox::start(sandbox::Options { listen, seed: None, clock });
    // No check beforehand: another process could take the address between check and start.
    let sandbox = match start(SANDBOX.parse()?).await {
        Err(sandbox::Error::Listen { .. }) => start(ANY_PORT).await?,
        started => started?,
    };
    let config = settings(folder, sandbox.url())?;
    let telemetry = telemetry::start(&config.telemetry, "demo")?;
    let gateway = app::start(config, clock).await?;
    let token = token_of("servicenow", sandbox.url()).await?;
    Ok(Staying { gateway, sandbox, telemetry, token, operation: String::new() })
}

/// The address, or any free port on this machine if it is in use.
fn free(address: SocketAddr) -> SocketAddr {
    if TcpListener::bind(address).is_ok() { address } else { ANY_PORT }
}

/// The shipped settings, with this demo's addresses and folder. Environment variables apply here too.
fn settings(folder: &Path, sandbox: &str) -> anyhow::Result<Config> {
    let path = folder.join("config").join("sandbox.toml");
    let address = sandbox.trim_start_matches("http://");
    let mut text = std::fs::read_to_string(&path)?.replace(SANDBOX, address);
    if address != SANDBOX {
        text = text.replace("[graph]\n", &format!("[graph]\nendpoint = \"{sandbox}\"\nauthority = \"{sandbox}\"\n"));
    }
    std::fs::write(&path, text)?;
    let quiet = ("POSTERN__TELEMETRY__LOG_FILTER".to_owned(), "warn".to_owned());
    let store = ("POSTERN__STORE__URL".to_owned(), format!("sqlite:{}", folder.join("postern.db").display()));
    let mut config = config::load_with(&path, [quiet, store]).map_err(|faults| anyhow!(app::listed(&faults)))?;
    config.server.listen = free(config.server.listen);
    config.server.admin_listen = free(config.server.admin_listen);
    Ok(config)
}

impl Staying {
    /// The assignments of the configuration in the sandbox, one line each.
    async fn present(&self) -> anyhow::Result<Vec<String>> {
        let state = self.get("/_sandbox/state").await?;
        let configuration = items(&state, "configurations").find(|it| field(it, "displayName") == CONFIGURATION);
        let configuration = configuration.ok_or_else(|| anyhow!("the sandbox has no {CONFIGURATION}"))?;
        Ok(items(configuration, "assignments").map(|assignment| line(&state, assignment)).collect())
    }

    async fn get(&self, path: &str) -> anyhow::Result<Value> {
        let url = format!("{}{path}", self.sandbox.url());
        let call = Request {
            method: Method::GET,
            url,
            headers: Vec::new(),
            body: None,
            timeout: TIMEOUT,
            end_by: None,
            response_max: RESPONSE_MAX,
        };
        let answer = Outbound::new(Clock::system())?.send(call).await?;
        serde_json::from_slice(&answer.body).context("the sandbox's answer is not JSON")
    }

    async fn ask(&self, path: &str, body: &Value) -> anyhow::Result<Response> {
        let mut bearer = HeaderValue::from_str(&format!("Bearer {}", self.token))?;
        bearer.set_sensitive(true);
        let call = Request {
            method: Method::POST,
            url: format!("{}{path}", self.gateway.url()),
            headers: vec![(AUTHORIZATION, bearer)],
            body: Some(("application/json", serde_json::to_vec(body)?)),
            timeout: TIMEOUT,
            end_by: None,
            response_max: RESPONSE_MAX,
        };
        let answer = Outbound::new(Clock::system())?.send(call).await?;
        if answer.status.is_server_error() {
            bail!("the gateway answered {}: {}", answer.status, String::from_utf8_lossy(&answer.body));
        }
        Ok(answer)
    }

    /// Prints commands to continue with.
    pub fn invite(&self, out: &mut dyn Write) -> anyhow::Result<()> {
        let (gateway, sandbox) = (self.gateway.url(), self.sandbox.url());
        let post = |path: &str, body: &str| {
            format!(
                "curl -sS -w '\\n' {gateway}{path} -H \"Authorization: Bearer $TOKEN\" -H 'Content-Type: application/json' \\\n  -d '{body}'"
            )
        };
        let add = r#"{"configuration":"Kiosk ESP","add":[{"group":"Sales Kiosks"}],"ticket":"RITM0010024"}"#;
        let remove = r#"{"configuration":"Sales ESP","remove":[{"group":"Sales Laptops"}],"ticket":"RITM0010025"}"#;
        let plan = r#"{"configuration":"Sales ESP","add":[{"group":"Sales Kiosks"}],"ticket":"RITM0010026"}"#;
        writeln!(out, "\nGateway and sandbox run until Ctrl-C. To continue, paste this into another terminal:\n")?;
        writeln!(out, "# a token of the caller servicenow, valid for an hour\nTOKEN='{}'\n", self.token)?;
        writeln!(out, "# add a group\n{}\n", post("/v1/assignments", add))?;
        writeln!(out, "# remove a group\n{}\n", post("/v1/assignments", remove))?;
        writeln!(out, "# see what a change would do and whether policy permits it, without making it")?;
        writeln!(out, "{}\n", post("/v1/plan", plan))?;
        let get = |path: &str| format!("curl -sS -w '\\n' '{gateway}{path}' -H \"Authorization: Bearer $TOKEN\"");
        writeln!(out, "# look up the operation of this demo, or all operations of a ticket")?;
        writeln!(out, "{}\n{}\n", get(&self.operation), get("/v1/operations?ticket=RITM0010025"))?;
        writeln!(out, "# the calls that reached Graph, and its present state")?;
        writeln!(out, "curl -sS -w '\\n' {sandbox}/_sandbox/journal\ncurl -sS -w '\\n' {sandbox}/_sandbox/state\n")?;
        writeln!(out, "# the metrics that Prometheus would scrape\ncurl -sS {}/metrics\n", self.gateway.admin_url())?;
        writeln!(out, "# the API's reference, with forms to try it out: {gateway}/docs/")?;
        Ok(())
    }

    /// Ends the demo; its folder is kept.
    pub async fn stop(self) {
        self.gateway.stop().await;
        self.sandbox.stop().await;
        // The flush blocks; a panic in it would be printed by the panic hook.
        drop(tokio::task::spawn_blocking(move || self.telemetry.flush()).await);
    }
}
