//! Telemetry as a team uses it: a third-party collector, Prometheus' own checks, and a collector that fails.
//!
//! The collector is rotel, which forwards what it receives; promtool is Prometheus'. `tests/telemetry/run` installs both.

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use opentelemetry_proto::tonic::{common::v1::KeyValue, trace::v1::Span};
use postern::clock::Clock;
use serde_json::json;

use crate::{
    certificate::made,
    collector::{Collector, Telemetry, attribute, hex, spans},
    credentials,
    process::{Process, traceparent, vacant},
    responses::got,
    world::{ASSIGNMENTS, SALES_ESP, TRIES, World, add, group},
};

/// `SPAN_KIND_SERVER` and `SPAN_KIND_CLIENT` of OTLP.
const KINDS: (i32, i32) = (2, 3);
/// The groups of the changes in [`Told`], which also number their traces.
const ALONE_AND_MERGED: [usize; 3] = [1, 2, 6];
/// `STATUS_CODE_ERROR` of OTLP.
const ERROR: i32 = 2;

pub(crate) fn tool(name: &str) -> PathBuf {
    let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/telemetry").join(name);
    assert!(tool.exists(), "{} is missing: tests/telemetry/run installs it", tool.display());
    tool
}

/// A third-party OpenTelemetry collector; dropping it kills it.
struct Rotel {
    child: Child,
    url: String,
}

impl Rotel {
    /// Starts one that forwards everything to another collector.
    fn start(passes_on_to: &str) -> Self {
        let free = || {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap().to_string()
        };
        let (http, grpc) = (free(), free());
        let child = Command::new(tool("rotel-agent"))
            .args(["start", "--otlp-http-endpoint", &http, "--otlp-grpc-endpoint", &grpc])
            .args(["--exporter", "otlp", "--otlp-exporter-endpoint", passes_on_to, "--otlp-exporter-protocol", "http"])
            .args(["--batch-timeout", "100ms"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let listens = (0..TRIES).any(|_| {
            std::thread::yield_now();
            std::net::TcpStream::connect(&http).is_ok()
        });
        assert!(listens, "rotel does not listen");
        Self { child, url: format!("http://{http}") }
    }

    /// Sends SIGTERM, on which it forwards the rest.
    fn stop(&mut self) {
        let sent = Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        assert!(sent.success() && self.child.wait().is_ok());
    }
}

impl Drop for Rotel {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

fn of(span: &Span, key: &str) -> String {
    attribute(&span.attributes, key).unwrap_or_else(|| panic!("no {key} in {span:?}"))
}

#[track_caller]
fn has(span: &Span, attributes: &[(&str, &str)]) {
    for (key, value) in attributes {
        assert_eq!(of(span, key), *value, "{key}");
    }
}

/// What a collector received of four changes: one alone, two that were merged, one that Graph refused.
struct Told {
    received: Telemetry,
    spans: Vec<Span>,
    /// Operations of the first three changes.
    ids: Vec<String>,
    /// Of the API.
    port: String,
    sandbox: String,
}

impl Told {
    async fn through_rotel() -> Self {
        let mut world = vacant().await;
        let collector = Collector::start();
        let mut rotel = Rotel::start(&collector.url);
        let process = Process::start(&world, &[("POSTERN__TELEMETRY__OTLP_ENDPOINT", &rotel.url)]);
        let port = process.url.rsplit(':').next().unwrap().to_owned();
        world.hold("/assign").await;
        let mut ids = Vec::new();
        for number in ALONE_AND_MERGED {
            let accepted = process.post(&world, &add("Sales ESP", &group(number)), &traceparent(number)).await;
            ids.push(accepted.expect(202).id());
            world.held(1).await;
        }
        world.clear_faults().await;
        for id in &ids {
            process.end_of(&world, id).await.succeeded("changed");
        }
        world.fault(json!({"path_ends": "/assign", "effect": {"kind": "answer", "status": 403}})).await;
        let refused = process.post(&world, &add("Sales ESP", &group(7)), &traceparent(7)).await.expect(202).id();
        assert_eq!(process.end_of(&world, &refused).await.body["state"], "failed");
        let (status, log) = process.stop();
        assert!(status.success(), "{status}: {log}");
        rotel.stop();
        let received = collector.end().await;
        let (spans, sandbox) = (spans(&received.spans), world.sandbox.url().to_owned());
        world.clear_faults().await;
        world.start_gateway().await;
        world.end().await;
        Self { received, spans, ids, port, sandbox }
    }

    /// The span of this kind in the trace that a caller started.
    fn in_trace(&self, number: usize, kind: i32) -> &Span {
        let trace = format!("{:032x}", 0xabc0 + number);
        self.spans.iter().find(|span| hex(&span.trace_id) == trace && span.kind == kind).unwrap()
    }

    /// The last call that a merge made.
    fn last_call(&self, merge: &Span) -> &Span {
        let mut calls = self.spans.iter().filter(|it| it.kind == KINDS.1 && it.parent_span_id == merge.span_id);
        calls.next_back().unwrap()
    }

    fn requests_go_on_with_their_callers_traces(&self) {
        for number in ALONE_AND_MERGED {
            let request = self.in_trace(number, KINDS.0);
            assert_eq!(request.name, "POST /v1/assignments");
            assert_eq!(hex(&request.parent_span_id), format!("{:016x}", 0xdef0 + number));
            has(
                request,
                &[
                    ("http.request.method", "POST"),
                    ("http.route", ASSIGNMENTS),
                    ("http.response.status_code", "202"),
                    ("url.path", ASSIGNMENTS),
                    ("url.scheme", "http"),
                    ("server.address", "127.0.0.1"),
                    ("server.port", &self.port),
                    ("network.protocol.version", "1.1"),
                ],
            );
        }
        // The configuration's lookup is part of the first request, in its trace.
        assert_eq!(self.in_trace(1, KINDS.1).parent_span_id, self.in_trace(1, KINDS.0).span_id);
    }

    fn writes_are_linked_to_every_request_in_them(&self) {
        let merge = |span: &&Span| span.name == "merge assignments" && !span.links.is_empty();
        let mut merges: Vec<_> = self.spans.iter().filter(merge).collect();
        merges.sort_by_key(|span| span.start_time_unix_nano);
        let linked: Vec<Vec<_>> = merges.iter().map(|it| it.links.iter().map(|link| &link.span_id).collect()).collect();
        let [first, second, third] = ALONE_AND_MERGED.map(|number| &self.in_trace(number, KINDS.0).span_id);
        assert_eq!(linked[..2], [vec![first], vec![second, third]]);
        let write = self.last_call(merges[1]);
        let port = self.sandbox.rsplit(':').next().unwrap();
        let attributes = [("http.request.method", "POST"), ("http.response.status_code", "204"), ("server.port", port)];
        has(write, &attributes);
        has(write, &[("server.address", "127.0.0.1")]);
        assert!(of(write, "url.full").starts_with(&self.sandbox) && of(write, "url.full").ends_with("/assign"));
        let refused = self.last_call(merges[2]);
        assert_eq!((of(refused, "error.type"), refused.status.as_ref().unwrap().code), ("403".to_owned(), ERROR));
    }

    fn figures_have_their_names_and_attributes(&self) {
        let figures = self.received.figures();
        for name in [
            "http.server.request.duration",
            "http.client.request.duration",
            "postern.build.info",
            "postern.graph.token.end",
            "postern.graph.token.fetches",
            "postern.lanes.parked",
            "postern.operations.accepted",
            "postern.operations.duration",
            "postern.operations.ended",
            "postern.operations.pending",
            "postern.policy.decisions",
            "postern.store.commit.duration",
            "postern.store.works",
            "postern.writes.operations",
        ] {
            assert!(figures.contains(name), "{name} is not among {figures:?}");
        }
        let has = |name: &str, wanted: &[(&str, &str)]| {
            let fits = |series: &Vec<KeyValue>| {
                wanted.iter().all(|(key, value)| attribute(series, key).as_deref() == Some(*value))
            };
            self.received.series(name).iter().any(fits)
        };
        let server = [("http.route", ASSIGNMENTS), ("http.request.method", "POST"), ("url.scheme", "http")];
        assert!(has("http.server.request.duration", &server));
        let client = [("server.address", "127.0.0.1"), ("error.type", "403"), ("http.response.status_code", "403")];
        assert!(has("http.client.request.duration", &client));
    }

    fn log_events_belong_to_their_spans(&self) {
        let accepted = self.received.logs.iter().find(|event| {
            attribute(&event.attributes, "operation.id").as_deref() == Some(self.ids[1].as_str())
                && hex(&event.trace_id) == format!("{:032x}", 0xabc2)
        });
        assert_eq!(accepted.unwrap().span_id, self.in_trace(2, KINDS.0).span_id);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_not_ours_gets_traces_figures_and_logs_that_belong_together() {
    let told = Told::through_rotel().await;
    let resource = &told.received.spans[0].resource.as_ref().unwrap().attributes;
    assert_eq!(attribute(resource, "service.name").as_deref(), Some("postern"));
    assert_eq!(attribute(resource, "service.version").as_deref(), Some(env!("CARGO_PKG_VERSION")));
    assert_eq!(attribute(resource, "service.instance.id").unwrap().len(), 36);
    told.requests_go_on_with_their_callers_traces();
    told.writes_are_linked_to_every_request_in_them();
    told.figures_have_their_names_and_attributes();
    told.log_events_belong_to_their_spans();
    assert!(!told.received.shown().contains("eyJ"), "a token was sent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_takes_connections_and_never_answers_holds_up_neither_work_nor_stop() {
    let mut world = vacant().await;
    // Nobody accepts: the kernel takes the connections, and nothing ever comes back on them.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let process = Process::start(&world, &[("POSTERN__TELEMETRY__OTLP_ENDPOINT", &url)]);
    for number in [1, 2, 6] {
        let id = process.post(&world, &add("Sales ESP", &group(number)), &traceparent(number)).await.expect(202).id();
        process.end_of(&world, &id).await.succeeded("changed");
    }
    let clock = Clock::system();
    let (status, log) = process.stop();
    assert!(status.success(), "{status}: {log}");
    assert!(log.contains("some telemetry may not have been sent"), "{log}");
    // A flush may take three seconds; one attempt to send would take ten, and each is retried.
    assert!(clock.elapsed().as_secs() < 30, "{:?}", clock.elapsed());
    world.start_gateway().await;
    world.end().await;
}

/// The metrics that Prometheus would scrape after some work.
async fn exposition(world: &World, process: &Process) -> String {
    let id = process.post(world, &add("Sales ESP", &group(1)), &traceparent(1)).await.expect(202).id();
    process.end_of(world, &id).await.succeeded("changed");
    let everyone = json!({"configuration": "Sales ESP", "add": [{"all": "devices"}], "ticket": "T1"});
    process.post(world, &everyone, &traceparent(2)).await.problem(403, "not-permitted");
    got(world.client.get(format!("{}/metrics", process.admin_url))).await.expect(200).text
}

/// The words of a text that could name a metric or one of its attributes.
fn words(text: &str) -> BTreeSet<&str> {
    let letter = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let ours = |word: &&str| word.starts_with("postern_") || word.starts_with("http_");
    text.split(|c| !letter(c)).filter(ours).collect()
}

/// What an exposition can be queried for: names of series, and their labels.
fn known(exposition: &str) -> BTreeSet<&str> {
    exposition.lines().filter(|line| !line.starts_with('#')).flat_map(words).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alerts_and_dashboard_ask_for_figures_that_there_are() {
    let (folder, made) = (tempfile::tempdir().unwrap(), made(400));
    credentials::store(&folder, &made);
    // A certificate's expiry is only exported if there is one, and a sink's lag likewise.
    let settings = format!("{}\n\n[audit]\nsinks = [\"stdout\"]", credentials::by_certificate(&folder));
    let mut world = credentials::world_with(&settings).await;
    credentials::register(&world, &made).await;
    world.take_gateway().stop().await;
    let process = Process::start(&world, &[]);
    let mut shown = exposition(&world, &process).await;
    for _ in 0..TRIES {
        if shown.contains("postern_audit_lag_seconds") {
            break;
        }
        shown = got(world.client.get(format!("{}/metrics", process.admin_url))).await.expect(200).text;
    }
    let known = known(&shown);
    let (status, log) = process.stop();
    assert!(status.success(), "{status}: {log}");
    let read = |path: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/k8s/components").join(path);
        std::fs::read_to_string(path).unwrap()
    };
    for (asking, least) in [("alerts/rules.yaml", 15), ("dashboard/postern.json", 30)] {
        let text = read(asking);
        let asked = words(&text);
        assert!(asked.len() >= least, "{asked:?}");
        let unknown: Vec<_> = asked.difference(&known).collect();
        assert!(unknown.is_empty(), "{asking} asks for {unknown:?}, which is not in\n{shown}");
    }
    // An alert on problem codes that do not exist would never fire.
    let rules = read("alerts/rules.yaml");
    let lists = rules.split("postern_problem_code=~\"").skip(1).map(|rest| rest.split('"').next().unwrap());
    let codes: BTreeSet<_> = lists.flat_map(|codes| codes.split('|')).collect();
    assert!(codes.len() > 5, "{codes:?}");
    world.start_gateway().await;
    for code in codes {
        world.get("servicenow", &format!("/problems/{code}")).await.expect(200);
    }
    world.end().await;
}

/// Runs promtool; returns whether it succeeded, and its output.
pub(crate) fn promtool(arguments: &[&str], input: &str) -> (bool, String) {
    let mut child = Command::new(tool("promtool"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let (mut told, mut errors) = (String::new(), String::new());
    child.stdout.take().unwrap().read_to_string(&mut told).unwrap();
    child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    (child.wait().unwrap().success(), told + &errors)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prometheus_finds_nothing_wrong_with_the_figures() {
    let mut world = vacant().await;
    let process = Process::start(&world, &[]);
    let shown = exposition(&world, &process).await;
    let (content, told) = promtool(&["check", "metrics"], &shown);
    assert!(content && told.is_empty(), "{told}\n{shown}");
    let groups = world.groups(SALES_ESP).await;
    assert!(groups.contains(&group(1)));
    let (status, log) = process.stop();
    assert!(status.success(), "{status}: {log}");
    world.start_gateway().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disabled_log_levels_are_not_evaluated() {
    let world = World::start().await;
    // By the shipped filter; beyond this level, events are not even created.
    assert_eq!(tracing::level_filters::LevelFilter::current(), tracing::level_filters::LevelFilter::INFO);
    assert!(!tracing::enabled!(tracing::Level::DEBUG));
    world.end().await;
}
