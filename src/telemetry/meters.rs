//! What is counted and measured: the catalogue of instruments, by name, unit and attributes.
//!
//! Figures go to a collector by OTLP over HTTP when one is configured, and are always there for Prometheus to fetch
//! ([`exposition`]). Names and attributes of HTTP calls are those of OpenTelemetry's semantic conventions (1.44); the
//! others begin with `postern`. Prometheus shows them with underscores and units (`postern_operations_ended_total`).
//!
//! It deliberately counts no single configuration, operation or caller: attributes have few values, so that the number of
//! series stays small. Which one it was, logs, traces and the audit trail tell.

use std::{sync::LazyLock, time::Duration};

use jiff::Timestamp;
use opentelemetry::{
    KeyValue, global,
    metrics::{Counter, Gauge, Histogram},
};
use opentelemetry_otlp::{Protocol, WithExportConfig};
use opentelemetry_sdk::{Resource, metrics::SdkMeterProvider};
use prometheus::{Registry, TextEncoder};

use super::{Error, SERVICE, Settings};

/// What Prometheus fetches is kept here.
static REGISTRY: LazyLock<Registry> = LazyLock::new(Registry::new);

/// The boundaries that the conventions advise for calls, in seconds.
const CALL_SECONDS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
/// A commit takes a fraction of a millisecond on a good disk, and seconds on a sick one.
const COMMIT_SECONDS: [f64; 12] = [0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0];
/// Things done together: writes carry up to `executor.batch_max` operations.
const TOGETHER: [f64; 12] = [1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 10_000.0];

struct Meters {
    requests: Histogram<f64>,
    calls: Histogram<f64>,
    decisions: Counter<u64>,
    loads: Counter<u64>,
    operations_accepted: Counter<u64>,
    operations_ended: Counter<u64>,
    operations_pending: Gauge<u64>,
    oldest_age: Gauge<f64>,
    drift_seen: Counter<u64>,
    writes: Histogram<u64>,
    lanes_running: Gauge<u64>,
    untils_settled: Counter<u64>,
    lanes_parked: Counter<u64>,
    turns_broken: Counter<u64>,
    throttlings: Counter<u64>,
    token_end: Gauge<u64>,
    webhooks: Counter<u64>,
    certificate_end: Gauge<u64>,
    commits: Histogram<f64>,
    commit_verbs: Histogram<u64>,
    audit_delivered: Counter<u64>,
    audit_lag: Gauge<f64>,
}

static METERS: LazyLock<Meters> = LazyLock::new(|| {
    let meter = global::meter(SERVICE);
    let counter = |name: &'static str, unit: &'static str, description: &'static str| {
        meter.u64_counter(name).with_unit(unit).with_description(description).build()
    };
    let gauge = |name: &'static str, unit: &'static str, description: &'static str| {
        meter.u64_gauge(name).with_unit(unit).with_description(description).build()
    };
    let seconds = |name: &'static str, boundaries: &[f64], description: &'static str| {
        let histogram = meter.f64_histogram(name).with_unit("s").with_description(description);
        histogram.with_boundaries(boundaries.to_vec()).build()
    };
    let together = |name: &'static str, unit: &'static str, description: &'static str| {
        let histogram = meter.u64_histogram(name).with_unit(unit).with_description(description);
        histogram.with_boundaries(TOGETHER.to_vec()).build()
    };
    Meters {
        requests: seconds("http.server.request.duration", &CALL_SECONDS, "Duration of the requests answered."),
        calls: seconds(
            "http.client.request.duration",
            &CALL_SECONDS,
            "Duration of the calls made to Graph, the login service and issuers.",
        ),
        loads: counter(
            "postern.configuration.loads",
            "{load}",
            "Changed policies and catalogues, taken up or refused.",
        ),
        decisions: counter("postern.policy.decisions", "{decision}", "Decisions of policy."),
        operations_accepted: counter("postern.operations.accepted", "{operation}", "Operations accepted."),
        operations_ended: counter("postern.operations.ended", "{operation}", "Operations that have ended."),
        operations_pending: gauge(
            "postern.operations.pending",
            "{operation}",
            "Operations of the store that have not ended, by state; the same from every replica.",
        ),
        oldest_age: meter
            .f64_gauge("postern.operations.oldest_age")
            .with_unit("s")
            .with_description("How long ago the oldest operation that has not ended was accepted; 0 if there is none.")
            .build(),
        drift_seen: counter(
            "postern.assignments.drift",
            "{drift}",
            "Assignment sets found that were not as they had been left.",
        ),
        writes: together("postern.writes.operations", "{operation}", "Operations carried by one write to Graph."),
        lanes_running: gauge("postern.lanes.running", "{lane}", "Lanes that this replica is working on."),
        untils_settled: counter(
            "postern.operations.until.settled",
            "{until}",
            "Ends of operations that were carried out, called off, or had nothing to undo.",
        ),
        lanes_parked: counter(
            "postern.lanes.parked",
            "{parking}",
            "Lanes left for a while because they could not go on.",
        ),
        turns_broken: counter(
            "postern.lanes.broken",
            "{turn}",
            "Turns of lanes that broke off: store trouble or a panic.",
        ),
        throttlings: counter("postern.graph.throttled", "{answer}", "Answers by which Graph asked for a pause."),
        token_end: gauge(
            "postern.graph.token.end",
            "s",
            "When the gateway's own token for Graph ends, in seconds since 1970.",
        ),
        certificate_end: gauge(
            "postern.graph.certificate.end",
            "s",
            "When the certificate ends by which the gateway proves itself, in seconds since 1970.",
        ),
        commits: seconds("postern.store.commit.duration", &COMMIT_SECONDS, "Duration of the store's commits."),
        commit_verbs: together("postern.store.commit.verbs", "{verb}", "Verbs of the store that shared a commit."),
        webhooks: counter("postern.webhooks.received", "{message}", "Messages of webhooks, by what became of them."),
        audit_delivered: counter("postern.audit.delivered", "{record}", "Audit records that a sink has taken."),
        audit_lag: meter
            .f64_gauge("postern.audit.lag")
            .with_unit("s")
            .with_description("How long the oldest audit record that a sink has not taken has waited; 0 if it has all.")
            .build(),
    }
});

/// How a request to the gateway went.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Its method; what HTTP does not know is counted as `_OTHER`.
    pub method: &'a str,
    /// The pattern of its path.
    pub route: &'a str,
    /// The status it was answered with.
    pub status: u16,
    /// How long that took.
    pub took: Duration,
}

/// How a call of the gateway went.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// Its method.
    pub method: &'a str,
    /// The host that was called.
    pub host: &'a str,
    /// The status of the answer, or what kept it from coming.
    pub outcome: Result<u16, &'static str>,
    /// How long it took.
    pub took: Duration,
}

/// Operations of a store that have not ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pending<'a> {
    /// How many are in which state.
    pub states: &'a [(&'static str, u64)],
    /// How long ago the oldest was accepted.
    pub oldest_age: Duration,
}

const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

/// The gateway has answered a request.
pub fn measure_request(Request { method, route, status, took }: Request<'_>) {
    let method = METHODS.iter().find(|known| **known == method).copied().unwrap_or("_OTHER");
    let mut attributes = vec![
        KeyValue::new("http.request.method", method),
        KeyValue::new("http.route", route.to_owned()),
        KeyValue::new("http.response.status_code", i64::from(status)),
    ];
    // The conventions ask for it where the server is at fault, and only there.
    attributes.extend((status >= 500).then(|| KeyValue::new("error.type", status.to_string())));
    METERS.requests.record(took.as_secs_f64(), &attributes);
}

/// The gateway has made a call.
pub fn measure_call(Call { method, host, outcome, took }: Call<'_>) {
    let mut attributes =
        vec![KeyValue::new("http.request.method", method.to_owned()), KeyValue::new("server.address", host.to_owned())];
    match outcome {
        Ok(status) => {
            attributes.push(KeyValue::new("http.response.status_code", i64::from(status)));
            attributes.extend((status >= 400).then(|| KeyValue::new("error.type", status.to_string())));
        }
        Err(why) => attributes.push(KeyValue::new("error.type", why)),
    }
    METERS.calls.record(took.as_secs_f64(), &attributes);
}

/// Policy has decided about an action: `permit` or `deny`.
pub fn count_decision(action: &'static str, decision: &'static str) {
    let attributes = [KeyValue::new("postern.action", action), KeyValue::new("postern.decision", decision)];
    METERS.decisions.add(1, &attributes);
}

/// Changed policies or catalogue were `loaded` or `refused`.
pub fn count_load(outcome: &'static str) {
    METERS.loads.add(1, &[KeyValue::new("postern.outcome", outcome)]);
}

/// An operation was accepted.
pub fn count_acceptance() {
    METERS.operations_accepted.add(1, &[]);
}

/// So many operations have not ended.
pub fn note_pending(Pending { states, oldest_age }: Pending<'_>) {
    for (state, count) in states {
        METERS.operations_pending.record(*count, &[KeyValue::new("postern.operation.state", *state)]);
    }
    METERS.oldest_age.record(oldest_age.as_secs_f64(), &[]);
}

/// Somebody else changed a set since it was left.
pub fn count_drift() {
    METERS.drift_seen.add(1, &[]);
}

/// An operation has ended: in this state, and if it failed, for this reason.
pub fn count_end(state: &'static str, failure: Option<&'static str>) {
    let mut attributes = vec![KeyValue::new("postern.operation.state", state)];
    // The name that semantic conventions have for the class of an error.
    attributes.extend(failure.map(|code| KeyValue::new("error.type", code)));
    METERS.operations_ended.add(1, &attributes);
}

/// One write to Graph has carried so many operations.
pub fn measure_write(operations: usize) {
    METERS.writes.record(whole(operations), &[]);
}

/// So many lanes are being worked on.
pub fn note_lanes(running: usize) {
    METERS.lanes_running.record(whole(running), &[]);
}

/// An operation's end was settled so: `reverted`, `called-off` or `moot`.
pub fn count_until(state: &'static str) {
    METERS.untils_settled.add(1, &[KeyValue::new("postern.until.state", state)]);
}

/// A lane was parked.
pub fn count_parking() {
    METERS.lanes_parked.add(1, &[]);
}

/// A lane's turn broke off.
pub fn count_broken_turn() {
    METERS.turns_broken.add(1, &[]);
}

/// Graph asked for a pause.
pub fn count_throttling() {
    METERS.throttlings.add(1, &[]);
}

/// A message of a webhook was answered: `accepted`, `ignored`, or with the problem of this code.
pub fn count_webhook(result: &'static str) {
    METERS.webhooks.add(1, &[KeyValue::new("postern.webhook.result", result)]);
}

/// The gateway's token for Graph ends at this moment.
pub fn note_token_end(moment: Timestamp) {
    METERS.token_end.record(seconds_since_1970(moment), &[]);
}

/// The gateway's certificate ends at this moment.
pub fn note_certificate_end(moment: Timestamp) {
    METERS.certificate_end.record(seconds_since_1970(moment), &[]);
}

/// The store has committed so many verbs together.
pub fn measure_commit(verbs: usize, took: Duration) {
    METERS.commits.record(took.as_secs_f64(), &[]);
    METERS.commit_verbs.record(whole(verbs), &[]);
}

fn whole(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

fn seconds_since_1970(moment: Timestamp) -> u64 {
    u64::try_from(moment.as_second()).unwrap_or(0)
}

/// All figures in Prometheus' text format, version 0.0.4.
pub fn exposition() -> Result<String, String> {
    TextEncoder::new().encode_to_string(&REGISTRY.gather()).map_err(|error| error.to_string())
}

/// A sink has taken so many audit records.
pub fn count_delivered(sink: &'static str, records: usize) {
    METERS.audit_delivered.add(whole(records), &[KeyValue::new("postern.audit.sink", sink)]);
}

/// The oldest audit record that a sink has not taken has waited so long.
pub fn note_audit_lag(sink: &'static str, lag: Duration) {
    METERS.audit_lag.record(lag.as_secs_f64(), &[KeyValue::new("postern.audit.sink", sink)]);
}

/// Where figures go. From here on they are counted, so it comes first.
pub(super) fn provider(settings: &Settings, resource: Resource) -> Result<SdkMeterProvider, Error> {
    let failed = |error: &dyn std::fmt::Display| Error::Exporter(error.to_string());
    let reader = opentelemetry_prometheus::exporter().with_registry(REGISTRY.clone()).build();
    let builder =
        SdkMeterProvider::builder().with_resource(resource).with_reader(reader.map_err(|error| failed(&error))?);
    let provider = match &settings.otlp_endpoint {
        None => builder.build(),
        Some(endpoint) => {
            let endpoint = format!("{}/v1/metrics", endpoint.as_str().trim_end_matches('/'));
            let exporter = opentelemetry_otlp::MetricExporter::builder()
                .with_http()
                .with_protocol(Protocol::HttpBinary)
                .with_endpoint(endpoint)
                .build()
                .map_err(|error| failed(&error))?;
            builder.with_periodic_exporter(exporter).build()
        }
    };
    global::set_meter_provider(provider.clone());
    Ok(provider)
}
