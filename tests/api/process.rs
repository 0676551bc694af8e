//! The real program: its traces, its shutdown by a signal, and its end without one.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::{Child, Command, ExitStatus, Stdio},
    thread::JoinHandle,
};

use postern::clock::Clock;
use serde_json::{Value, json};

use crate::{
    certificate::made,
    collector::{Collector, attribute, hex, spans},
    credentials,
    responses::{Reply, got},
    world::{ASSIGNMENTS, SALES_ESP, TRIES, World, add, group, has_ended},
};

/// `SPAN_KIND_SERVER` of OTLP.
const SERVER: i32 = 2;

/// A gateway in its own process, on the store and settings of a world.
pub(crate) struct Process {
    child: Child,
    pub(crate) url: String,
    pub(crate) admin_url: String,
    log: JoinHandle<String>,
}

impl Process {
    pub(crate) fn start(world: &World, settings: &[(&str, &str)]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_postern"))
            .args(["serve", "--config"])
            .arg(world.config_file())
            .envs(world.environment().iter().cloned())
            .envs([("POSTERN__TELEMETRY__LOG_FILTER", "info"), ("POSTERN__TELEMETRY__LOG_FORMAT", "json")])
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut told = String::new();
        let [address, admin_address] = loop {
            let start = told.len();
            assert!(log.read_line(&mut told).unwrap() > 0, "the program ended: {told}");
            let event: Value = serde_json::from_str(&told[start..]).unwrap_or_default();
            if event["message"] == "the gateway is ready" {
                break ["address", "admin_address"].map(|name| event[name].as_str().unwrap().to_owned());
            }
        };
        let rest = move || {
            log.read_to_string(&mut told).unwrap();
            told
        };
        let url = |address| format!("http://{address}");
        Self { child, url: url(address), admin_url: url(admin_address), log: std::thread::spawn(rest) }
    }

    /// Sends SIGTERM.
    fn terminate(&self) {
        let kill = format!("kill -TERM {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    }

    /// Stops it and waits for it to exit; returns its exit status and everything it logged or printed.
    pub(crate) fn stop(mut self) -> (ExitStatus, String) {
        self.terminate();
        let (ended, mut told) = (self.child.wait().unwrap(), self.log.join().unwrap());
        self.child.stdout.take().unwrap().read_to_string(&mut told).unwrap();
        (ended, told)
    }

    /// Kills it at once, as a power cut would.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        drop(self.log.join().unwrap());
    }

    pub(crate) async fn post(&self, world: &World, body: &Value, traceparent: &str) -> Reply {
        let request =
            world.client.post(format!("{}{ASSIGNMENTS}", self.url)).bearer_auth(world.token("servicenow").await);
        let request = request.header("prefer", "respond-async").header("traceparent", traceparent);
        got(request.json(body)).await
    }

    pub(crate) async fn end_of(&self, world: &World, id: &str) -> Reply {
        let request = world.client.get(format!("{}/v1/operations/{id}", self.url));
        let request = request.bearer_auth(world.token("servicenow").await).header("prefer", "wait=20");
        let ended = got(request).await.expect(200);
        assert!(has_ended(&ended.body), "{}", ended.text);
        ended
    }
}

/// A world whose own gateway has stopped, so that the store is free.
pub(crate) async fn vacant() -> World {
    let mut world = World::start().await;
    world.take_gateway().stop().await;
    world
}

pub(crate) fn traceparent(number: usize) -> String {
    format!("00-{:032x}-{:016x}-01", 0xabc0 + number, 0xdef0 + number)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_one_span_and_a_merge_links_to_the_requests_it_serves() {
    let mut world = vacant().await;
    let collector = Collector::start();
    let process = Process::start(&world, &[("POSTERN__TELEMETRY__OTLP_ENDPOINT", &collector.url)]);
    world.hold("/assign").await;
    let mut ids = Vec::new();
    for number in [1, 2, 6] {
        ids.push(process.post(&world, &add("Sales ESP", &group(number)), &traceparent(number)).await.expect(202).id());
        world.held(1).await;
    }
    process.post(&world, &json!({}), &traceparent(9)).await.problem(422, "invalid-change");
    world.clear_faults().await;
    for id in &ids {
        process.end_of(&world, id).await.succeeded("changed");
    }
    let (status, log) = process.stop();
    assert!(status.success(), "{status}: {log}");
    assert!(!log.contains("eyJ") && !log.contains("sandbox-client-secret"), "a secret in the log");

    let received = collector.end().await;
    let received = received.spans;
    let resource = &received[0].resource.as_ref().unwrap().attributes;
    assert_eq!(attribute(resource, "service.name").as_deref(), Some("postern"));
    assert!(attribute(resource, "service.version").is_some());
    let spans = spans(&received);
    let servers: Vec<_> = spans.iter().filter(|span| span.kind == SERVER).collect();
    let named = |name: &str| servers.iter().filter(|span| span.name == name).count();
    let counts = (named("POST /v1/assignments"), named("GET /v1/operations/{id}"), servers.len());
    assert_eq!(counts, (4, 3, 7), "one span for each request");
    let of = |number: usize| {
        let trace = format!("{:032x}", 0xabc0 + number);
        let mut found = servers.iter().filter(|span| hex(&span.trace_id) == trace);
        (found.next().unwrap(), found.next().is_none())
    };
    for (number, status) in [(1, "202"), (2, "202"), (6, "202"), (9, "422")] {
        let (span, alone) = of(number);
        assert!(alone && hex(&span.parent_span_id) == format!("{:016x}", 0xdef0 + number));
        let attribute = |key| attribute(&span.attributes, key);
        assert_eq!(attribute("http.response.status_code").as_deref(), Some(status));
        assert_eq!(attribute("http.request.method").as_deref(), Some("POST"));
        assert_eq!(attribute("http.route").as_deref(), Some(ASSIGNMENTS));
        assert_ne!(
            span.status.as_ref().map(|status| status.code),
            Some(2),
            "a caller's fault is no error of the server"
        );
    }
    let mut merges: Vec<_> =
        spans.iter().filter(|span| span.name == "merge assignments" && !span.links.is_empty()).collect();
    merges.sort_by_key(|span| span.start_time_unix_nano);
    let linked =
        |place: usize| merges[place].links.iter().map(|link| (&link.trace_id, &link.span_id)).collect::<Vec<_>>();
    let place = |number| (&of(number).0.trace_id, &of(number).0.span_id);
    assert_eq!(merges.len(), 2);
    assert_eq!((linked(0), linked(1)), (vec![place(1)], vec![place(2), place(6)]));
    let calls = world.assigns().await;
    for (merge, call) in merges.iter().zip(&calls) {
        assert!(call["traceparent"].as_str().unwrap().contains(&hex(&merge.trace_id)), "{call}");
    }
    world.start_gateway().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ends_and_drift_are_counted() {
    let mut world = vacant().await;
    let collector = Collector::start();
    let process = Process::start(&world, &[("POSTERN__TELEMETRY__OTLP_ENDPOINT", &collector.url)]);
    let id = process.post(&world, &add("Sales ESP", &group(1)), &traceparent(1)).await.expect(202).id();
    process.end_of(&world, &id).await.succeeded("changed");
    world.administrator_assigns(SALES_ESP, &[group(1), group(7)]).await;
    let id = process.post(&world, &add("Sales ESP", &group(1)), &traceparent(2)).await.expect(202).id();
    process.end_of(&world, &id).await.succeeded("unchanged");
    world.fault(json!({"path_ends": "/assign", "effect": {"kind": "answer", "status": 403}})).await;
    let id = process.post(&world, &add("Sales ESP", &group(2)), &traceparent(3)).await.expect(202).id();
    assert_eq!(process.end_of(&world, &id).await.body["state"], "failed");
    let (status, log) = process.stop();
    assert!(status.success(), "{status}: {log}");

    let received = collector.end().await;
    let ended = |key, value| received.counted("postern.operations.ended", Some((key, value)));
    assert_eq!((ended("postern.operation.state", "succeeded"), ended("error.type", "graph-refused")), (2, 1));
    assert_eq!(received.counted("postern.assignments.drift", None), 1);
    assert_eq!(received.counted("postern.lanes.broken", None), 0);
    world.start_gateway().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prometheus_finds_every_figure_under_its_name() {
    let mut world = vacant().await;
    let process = Process::start(&world, &[]);
    let id = process.post(&world, &add("Sales ESP", &group(1)), &traceparent(1)).await.expect(202).id();
    process.end_of(&world, &id).await.succeeded("changed");
    let everyone = json!({"configuration": "Sales ESP", "add": [{"all": "devices"}], "ticket": "T1"});
    process.post(&world, &everyone, &traceparent(2)).await.problem(403, "not-permitted");
    got(world.client.get(format!("{}/no/such/place", process.url))).await.expect(404);
    let scraped = got(world.client.get(format!("{}/metrics", process.admin_url))).await.expect(200);
    assert_eq!(scraped.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    let version = env!("CARGO_PKG_VERSION");
    for line in [
        "postern_operations_accepted_total{",
        "postern_operations_ended_total{",
        "postern_operations_pending{",
        "postern_operations_oldest_age_seconds{",
        "postern_callbacks_undelivered{postern_callback_state=\"pending\"",
        "postern_callbacks_undelivered{postern_callback_state=\"parked\"",
        "postern_callbacks_oldest_age_seconds{",
        "postern_policy_decisions_total{postern_action=\"add\",postern_decision=\"deny\"",
        "postern_policy_decisions_total{postern_action=\"add\",postern_decision=\"permit\"",
        "postern_writes_operations_bucket{",
        "postern_lanes_running{",
        "postern_graph_token_end_seconds{",
        "postern_store_commit_duration_seconds_bucket{",
        "postern_store_commit_verbs_bucket{",
        "http_server_request_duration_seconds_count{http_request_method=\"POST\",http_response_status_code=\"202\",http_route=\"/v1/assignments\"",
        "http_server_request_duration_seconds_count{http_request_method=\"GET\",http_response_status_code=\"404\",http_route=\"unmatched\"",
        "http_client_request_duration_seconds_count{http_request_method=\"POST\",http_response_status_code=\"204\",server_address=\"127.0.0.1\"",
        &format!("postern_build_info{{version=\"{version}\""),
    ] {
        assert!(scraped.text.lines().any(|it| it.starts_with(line)), "{line} is not in\n{}", scraped.text);
    }
    let (status, log) = process.stop();
    assert!(status.success(), "{status}: {log}");
    world.start_gateway().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_events_are_sent_with_their_trace_and_traces_only_as_many_as_wanted() {
    let mut world = vacant().await;
    let collector = Collector::start();
    let settings =
        [("POSTERN__TELEMETRY__OTLP_ENDPOINT", collector.url.as_str()), ("POSTERN__TELEMETRY__TRACES_PERCENT", "0")];
    let process = Process::start(&world, &settings);
    // A caller's trace is continued.
    let id = process.post(&world, &add("Sales ESP", &group(1)), &traceparent(1)).await.expect(202).id();
    process.end_of(&world, &id).await.succeeded("changed");
    let (status, log) = process.stop();
    assert!(status.success(), "{status}: {log}");
    let received = collector.end().await;
    let trace = format!("{:032x}", 0xabc1);
    let spans = spans(&received.spans);
    assert!(!spans.is_empty() && spans.iter().all(|span| hex(&span.trace_id) == trace), "{spans:?}");
    let accepted = received.logs.iter().find(|event| {
        attribute(&event.attributes, "operation.id").as_deref() == Some(id.as_str()) && hex(&event.trace_id) == trace
    });
    assert!(accepted.is_some(), "{:?}", received.logs);
    world.start_gateway().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_the_gateways_certificate_is_told_ahead_and_measured() {
    let (folder, made) = (tempfile::tempdir().unwrap(), made(10));
    credentials::store(&folder, &made);
    let mut world = credentials::world_with(&credentials::by_certificate(&folder)).await;
    world.take_gateway().stop().await;
    let collector = Collector::start();
    let process = Process::start(&world, &[("POSTERN__TELEMETRY__OTLP_ENDPOINT", &collector.url)]);
    let (status, log) = process.stop();
    assert!(status.success(), "{status}: {log}");
    assert!(log.contains("the gateway's certificate expires soon"), "{log}");
    let ends = collector.end().await.measured("postern.graph.certificate.end").unwrap();
    let days = (ends - Clock::system().now().as_second()) / 86_400;
    assert!((8..=10).contains(&days), "{days}");
    world.start_gateway().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_down_costs_nothing_but_its_traces() {
    let mut world = vacant().await;
    let process = Process::start(&world, &[("POSTERN__TELEMETRY__OTLP_ENDPOINT", "http://127.0.0.1:9")]);
    let id = process.post(&world, &add("Sales ESP", &group(1)), &traceparent(1)).await.expect(202).id();
    process.end_of(&world, &id).await.succeeded("changed");
    let (status, log) = process.stop();
    assert!(status.success(), "{status}: {log}");
    world.start_gateway().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_accepted_is_lost_when_the_process_is_killed() {
    let mut world = vacant().await;
    // A lane with a write in flight stays locked until its owner's lease expires.
    let brief = [("POSTERN__GRAPH__CALL_TIMEOUT", "5s"), ("POSTERN__EXECUTOR__LEASE_TTL", "11s")];
    let process = Process::start(&world, &brief);
    world.hold("/assign").await;
    let mut ids = Vec::new();
    for number in [1, 2, 6, 7] {
        ids.push(process.post(&world, &add("Sales ESP", &group(number)), &traceparent(number)).await.expect(202).id());
        world.held(1).await;
    }
    process.kill();
    world.clear_faults().await;
    // The held write takes effect although its sender is dead; the next process must not read before that.
    let mut applied = false;
    for _ in 0..TRIES {
        applied = world.groups(SALES_ESP).await.contains(&group(1));
        if applied {
            break;
        }
    }
    assert!(applied);
    let verified =
        Command::new(env!("CARGO_BIN_EXE_postern")).args(["audit", "verify", "--store"]).arg(world.store()).output();
    let verified = verified.unwrap();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    assert!(String::from_utf8_lossy(&verified.stdout).contains("every hash fits"));
    world.start_gateway().await;
    for id in &ids {
        world.end_of(id).await.succeeded("changed");
    }
    let groups: Vec<_> = world.groups(SALES_ESP).await.into_iter().collect();
    assert_eq!(groups, (1..=7).map(group).collect::<Vec<_>>());
    assert_eq!(world.assigns().await.len(), 2, "the write that took effect is not repeated");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn until_its_doors_close_a_gateway_that_stops_answers_as_ever_and_keeps_no_connection() {
    let mut world = vacant().await;
    let process = Process::start(&world, &[("POSTERN__SERVER__DRAIN_DELAY", "5m")]);
    let kept = process.post(&world, &add("Sales ESP", &group(1)), &traceparent(1)).await.expect(202);
    assert_eq!(kept.header("connection"), "");
    process.terminate();
    let mut readiness = 200;
    for _ in 0..TRIES {
        readiness = got(world.client.get(format!("{}/readyz", process.admin_url))).await.status;
        if readiness == 503 {
            break;
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(readiness, 503);
    let accepted = process.post(&world, &add("Sales ESP", &group(2)), &traceparent(2)).await.expect(202);
    let refused = process.post(&world, &json!({}), &traceparent(3)).await;
    // Waiting callers are not cut off yet.
    let ended = process.end_of(&world, &accepted.id()).await;
    for last in [&accepted, &refused, &ended] {
        assert_eq!(last.header("connection"), "close", "{last:?}");
    }
    ended.succeeded("changed");
    refused.problem(422, "invalid-change");
    process.kill();
    world.start_gateway().await;
    world.end_of(&kept.id()).await;
    world.end().await;
}
