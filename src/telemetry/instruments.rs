//! The catalogue of metrics: names, units, descriptions, boundaries.
//!
//! Names and attributes for HTTP follow OpenTelemetry's semantic conventions (1.44); all others begin with `postern`.
//! Prometheus shows them with underscores and units (`postern_operations_ended_total`). Dashboard and alerts in `deploy` use
//! these names; a test compares them with what is exposed.
//!
//! It deliberately counts nothing: `meters` does.

use std::sync::LazyLock;

use opentelemetry::{
    global,
    metrics::{Counter, Gauge, Histogram},
};

use super::SERVICE;

/// The boundaries that the conventions recommend for HTTP calls, in seconds.
const CALL_SECONDS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
/// In seconds: a commit takes a fraction of a millisecond on a good disk, and seconds on a failing one.
const COMMIT_SECONDS: [f64; 12] = [0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0];
/// In seconds: callers wait for seconds; an operation that Graph holds up ends after at most `operations.deadline`.
const LIFE_SECONDS: [f64; 12] = [0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3_600.0, 21_600.0, 86_400.0];
/// Counts of what is done together: a write carries up to `executor.batch_max` operations.
const TOGETHER: [f64; 12] = [1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 10_000.0];

/// The instruments.
pub(super) struct Meters {
    pub(super) requests: Histogram<f64>,
    pub(super) calls: Histogram<f64>,
    pub(super) decisions: Counter<u64>,
    pub(super) loads: Counter<u64>,
    pub(super) operations_accepted: Counter<u64>,
    pub(super) operations_ended: Counter<u64>,
    pub(super) operation_life: Histogram<f64>,
    pub(super) operations_pending: Gauge<u64>,
    pub(super) oldest_age: Gauge<f64>,
    pub(super) drift_seen: Counter<u64>,
    pub(super) writes: Histogram<u64>,
    pub(super) lanes_running: Gauge<u64>,
    pub(super) untils_settled: Counter<u64>,
    pub(super) parkings: Counter<u64>,
    pub(super) lanes_parked: Gauge<u64>,
    pub(super) turns_broken: Counter<u64>,
    pub(super) throttlings: Counter<u64>,
    pub(super) pause_end: Gauge<u64>,
    pub(super) token_fetches: Counter<u64>,
    pub(super) token_end: Gauge<u64>,
    pub(super) webhooks: Counter<u64>,
    pub(super) callbacks: Counter<u64>,
    pub(super) callbacks_undelivered: Gauge<u64>,
    pub(super) callbacks_oldest_age: Gauge<f64>,
    pub(super) certificate_end: Gauge<u64>,
    pub(super) commits: Histogram<f64>,
    pub(super) commit_verbs: Histogram<u64>,
    pub(super) audit_delivered: Counter<u64>,
    pub(super) audit_lag: Gauge<f64>,
    pub(super) audit_breaks: Counter<u64>,
    pub(super) store_failures: Counter<u64>,
    pub(super) store_works: Gauge<u64>,
    pub(super) problems: Counter<u64>,
    pub(super) build: Gauge<u64>,
}

/// All instruments.
pub(super) static METERS: LazyLock<Meters> = LazyLock::new(|| {
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
        operation_life: seconds(
            "postern.operations.duration",
            &LIFE_SECONDS,
            "Time from the acceptance of operations to the end that a lane brought them to.",
        ),
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
        parkings: counter(
            "postern.lanes.parkings",
            "{parking}",
            "How often lanes were left for a while because they could not go on.",
        ),
        lanes_parked: gauge(
            "postern.lanes.parked",
            "{lane}",
            "Lanes of the store whose operations wait because Graph keeps them from being applied; the same from every replica.",
        ),
        turns_broken: counter(
            "postern.lanes.broken",
            "{turn}",
            "Turns of lanes that broke off: store trouble or a panic.",
        ),
        throttlings: counter("postern.graph.throttled", "{answer}", "Answers by which Graph asked for a pause."),
        pause_end: gauge(
            "postern.graph.pause.end",
            "s",
            "When the pause ends that Graph asked for last, in seconds since 1970.",
        ),
        token_fetches: counter(
            "postern.graph.token.fetches",
            "{fetch}",
            "Attempts to fetch the gateway's own token for Graph, by how they went.",
        ),
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
        audit_delivered: counter("postern.audit.delivered", "{record}", "Audit records that a sink has taken."),
        audit_lag: meter
            .f64_gauge("postern.audit.lag")
            .with_unit("s")
            .with_description("How long the oldest audit record that a sink has not taken has waited; 0 if it has all.")
            .build(),
        audit_breaks: counter(
            "postern.audit.breaks",
            "{break}",
            "Times that the store no longer had the end of the audit chain that was committed.",
        ),
        store_failures: counter("postern.store.failures", "{verb}", "Verbs of the store that failed, by why."),
        // No unit: Prometheus would get a name ending in `_ratio` for the unit of a plain number.
        store_works: gauge(
            "postern.store.works",
            "",
            "Whether the store could be written to when it was last tried: 1 or 0.",
        ),
        problems: counter("postern.problems", "{problem}", "Problems that were answered, by code."),
        build: gauge("postern.build.info", "", "Always 1; its attributes tell what is running."),
        webhooks: counter("postern.webhooks.received", "{message}", "Messages of webhooks, by what became of them."),
        callbacks: counter(
            "postern.callbacks.attempts",
            "{attempt}",
            "Attempts to deliver callbacks, by what came of them.",
        ),
        callbacks_undelivered: gauge(
            "postern.callbacks.undelivered",
            "{callback}",
            "Callbacks of the store whose operations have ended, still to be delivered or parked; the same from every replica.",
        ),
        callbacks_oldest_age: meter
            .f64_gauge("postern.callbacks.oldest_age")
            .with_unit("s")
            .with_description(
                "How long ago the first operation ended whose callback is still to be delivered; 0 if none is.",
            )
            .build(),
    }
});
