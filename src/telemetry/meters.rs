//! What is counted and measured, called where it happens.
//!
//! Guarantees: counters whose attributes have few values start at zero for each of them, so that the first event is visible
//! as an increase.
//!
//! It deliberately counts nothing by single configuration, operation or caller: attributes have few values, so that the
//! number of series stays small. For details see logs, traces and the audit trail. Names and units are in `instruments`.

use std::time::Duration;

use jiff::Timestamp;
use opentelemetry::{KeyValue, metrics::Counter};

use super::instruments::METERS;

/// A request that the gateway answered.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Its method; one unknown to HTTP is counted as `_OTHER`.
    pub method: &'a str,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// Its route, as a pattern.
    pub route: &'a str,
    /// The status of the response.
    pub status: u16,
    /// How long it took.
    pub took: Duration,
}

/// A call that the gateway made.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// Its method.
    pub method: &'a str,
    /// The host that was called.
    pub host: &'a str,
    /// Its port.
    pub port: u16,
    /// The status of the response, or why there was none.
    pub outcome: Result<u16, &'static str>,
    /// How long it took.
    pub took: Duration,
}

/// The outcome of a fetch of the gateway's own token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fetch {
    /// It succeeded.
    Fetched,
    /// The login service or the platform refused the gateway's credential, or the credential cannot be read: somebody must
    /// act.
    Refused,
    /// No usable response, or one that said to retry later.
    Unavailable,
}

/// The operations in the store that have not ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pending<'a> {
    /// How many there are in each state.
    pub states: &'a [(&'static str, u64)],
    /// How many lanes hold operations that Graph keeps from being applied.
    pub parked: u64,
    /// How long ago the oldest was accepted; zero if there is none.
    pub oldest_age: Duration,
}

const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

/// A method as it appears in metrics and spans; callers could invent any number.
pub fn known_method(method: &str) -> &'static str {
    METHODS.iter().find(|known| **known == method).copied().unwrap_or("_OTHER")
}

/// The gateway answered a request.
pub fn measure_request(Request { method, scheme, route, status, took }: Request<'_>) {
    let mut attributes = vec![
        KeyValue::new("http.request.method", known_method(method)),
        KeyValue::new("url.scheme", scheme.to_owned()),
        KeyValue::new("http.route", route.to_owned()),
        KeyValue::new("http.response.status_code", i64::from(status)),
    ];
    // The conventions require it only for errors of the server.
    attributes.extend((status >= 500).then(|| KeyValue::new("error.type", status.to_string())));
    METERS.requests.record(took.as_secs_f64(), &attributes);
}

/// The gateway made a call.
pub fn measure_call(Call { method, host, port, outcome, took }: Call<'_>) {
    let mut attributes = vec![
        KeyValue::new("http.request.method", method.to_owned()),
        KeyValue::new("server.address", host.to_owned()),
        KeyValue::new("server.port", i64::from(port)),
    ];
    match outcome {
        Ok(status) => {
            attributes.push(KeyValue::new("http.response.status_code", i64::from(status)));
            attributes.extend((status >= 400).then(|| KeyValue::new("error.type", status.to_string())));
        }
        Err(why) => attributes.push(KeyValue::new("error.type", why)),
    }
    METERS.calls.record(took.as_secs_f64(), &attributes);
}

/// Policy decided on an action: `permit` or `deny`.
pub fn count_decision(action: &'static str, decision: &'static str) {
    let attributes = [KeyValue::new("postern.action", action), KeyValue::new("postern.decision", decision)];
    METERS.decisions.add(1, &attributes);
}

/// Changed policies or a changed catalogue were `loaded` or `refused`.
pub fn count_load(outcome: &'static str) {
    METERS.loads.add(1, &[KeyValue::new("postern.outcome", outcome)]);
}

/// An operation was accepted.
pub fn count_acceptance() {
    METERS.operations_accepted.add(1, &[]);
}

/// Sets how many operations have not ended.
pub fn set_pending(Pending { states, parked, oldest_age }: Pending<'_>) {
    for (state, count) in states {
        METERS.operations_pending.record(*count, &[KeyValue::new("postern.operation.state", *state)]);
    }
    METERS.lanes_parked.record(parked, &[]);
    METERS.oldest_age.record(oldest_age.as_secs_f64(), &[]);
}

/// Sets how many callbacks of ended operations are undelivered, and how long the oldest pending one has waited.
pub fn set_undelivered(states: &[(&'static str, u64)], oldest_age: Duration) {
    for (state, count) in states {
        METERS.callbacks_undelivered.record(*count, &[KeyValue::new("postern.callback.state", *state)]);
    }
    METERS.callbacks_oldest_age.record(oldest_age.as_secs_f64(), &[]);
}

/// A set was found changed by somebody else.
pub fn count_drift() {
    METERS.drift_seen.add(1, &[]);
}

/// An operation ended in this state; if it failed, for this reason.
pub fn count_end(state: &'static str, failure: Option<&'static str>) {
    let mut attributes = vec![KeyValue::new("postern.operation.state", state)];
    // The name that the semantic conventions have for a class of errors.
    attributes.extend(failure.map(|code| KeyValue::new("error.type", code)));
    METERS.operations_ended.add(1, &attributes);
}

/// A lane ended an operation, this long after it was accepted.
pub fn measure_operation(state: &'static str, took: Duration) {
    METERS.operation_life.record(took.as_secs_f64(), &[KeyValue::new("postern.operation.state", state)]);
}

/// One write to Graph carried this many operations.
pub fn measure_write(operations: usize) {
    METERS.writes.record(whole(operations), &[]);
}

/// Sets how many lanes this replica is working on.
pub fn set_lanes(running: usize) {
    METERS.lanes_running.record(whole(running), &[]);
}

/// The `until` of an operation was settled: `reverted`, `called-off` or `moot`.
pub fn count_until(state: &'static str) {
    METERS.untils_settled.add(1, &[KeyValue::new("postern.until.state", state)]);
}

/// A lane was parked.
pub fn count_parking() {
    METERS.parkings.add(1, &[]);
}

/// A lane's turn was aborted.
pub fn count_broken_turn() {
    METERS.turns_broken.add(1, &[]);
}

/// Graph requested a pause, which ends at this moment.
pub fn count_throttling(pause_end: Timestamp) {
    METERS.throttlings.add(1, &[]);
    METERS.pause_end.record(seconds_since_1970(pause_end), &[]);
}

/// The gateway tried to fetch its own token for Graph.
pub fn count_token_fetch(fetch: Fetch) {
    let outcome = match fetch {
        Fetch::Fetched => "fetched",
        Fetch::Refused => "refused",
        Fetch::Unavailable => "unavailable",
    };
    METERS.token_fetches.add(1, &[KeyValue::new("postern.outcome", outcome)]);
}

/// A problem with this code was returned.
pub fn count_problem(code: &'static str) {
    METERS.problems.add(1, &[KeyValue::new("postern.problem.code", code)]);
}

/// A webhook message was `accepted`, `ignored`, or answered with the problem of this code.
pub fn count_webhook(result: &'static str) {
    METERS.webhooks.add(1, &[KeyValue::new("postern.webhook.result", result)]);
}

/// A callback was `delivered`, `failed` for now or `parked`; its attempt was `broken`; or it was `resent` on request.
pub fn count_callback(result: &'static str) {
    METERS.callbacks.add(1, &[KeyValue::new("postern.callback.result", result)]);
}

/// Sets when the gateway's token for Graph expires.
pub fn set_token_end(moment: Timestamp) {
    METERS.token_end.record(seconds_since_1970(moment), &[]);
}

/// Sets when the gateway's certificate expires.
pub fn set_certificate_end(moment: Timestamp) {
    METERS.certificate_end.record(seconds_since_1970(moment), &[]);
}

/// The store committed this many verbs together.
pub fn measure_commit(verbs: usize, took: Duration) {
    METERS.commits.record(took.as_secs_f64(), &[]);
    METERS.commit_verbs.record(whole(verbs), &[]);
}

/// A verb of the store failed, with an error of this class.
pub fn count_store_failure(class: &'static str) {
    METERS.store_failures.add(1, &[KeyValue::new("error.type", class)]);
}

/// Sets whether the store could be written to when last tried.
pub fn set_store_available<E>(tried: &Result<(), E>) {
    METERS.store_works.record(u64::from(tried.is_ok()), &[]);
}

/// A sink took this many audit records.
pub fn count_delivered(sink: &'static str, records: usize) {
    METERS.audit_delivered.add(whole(records), &[KeyValue::new("postern.audit.sink", sink)]);
}

/// Sets how long the oldest audit record that a sink has not taken has waited.
pub fn set_audit_lag(sink: &'static str, lag: Duration) {
    METERS.audit_lag.record(lag.as_secs_f64(), &[KeyValue::new("postern.audit.sink", sink)]);
}

/// The store no longer had the end of this run's audit chain.
pub fn count_audit_break() {
    METERS.audit_breaks.add(1, &[]);
}

/// Reports the version, and zero for what has not happened yet, so that the first event is visible as an increase. To be
/// called once metrics are counted.
pub(super) fn begin() {
    METERS.build.record(1, &[KeyValue::new("version", env!("CARGO_PKG_VERSION"))]);
    METERS.pause_end.record(0, &[]);
    for counter in [
        &METERS.operations_accepted,
        &METERS.drift_seen,
        &METERS.parkings,
        &METERS.turns_broken,
        &METERS.throttlings,
        &METERS.audit_breaks,
    ] {
        counter.add(0, &[]);
    }
    zero(&METERS.loads, "postern.outcome", &["loaded", "refused"]);
    zero(&METERS.operations_ended, "postern.operation.state", &["succeeded", "failed", "cancelled"]);
    zero(&METERS.untils_settled, "postern.until.state", &["reverted", "called-off", "moot"]);
    zero(&METERS.token_fetches, "postern.outcome", &["fetched", "refused", "unavailable"]);
    zero(&METERS.store_failures, "error.type", &["unavailable", "unreadable", "lease-lost"]);
    zero(&METERS.webhooks, "postern.webhook.result", &["accepted", "ignored"]);
    zero(&METERS.callbacks, "postern.callback.result", &["delivered", "failed", "parked", "resent", "broken"]);
}

fn zero(counter: &Counter<u64>, key: &'static str, values: &[&'static str]) {
    for value in values {
        counter.add(0, &[KeyValue::new(key, *value)]);
    }
}

fn whole(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

fn seconds_since_1970(moment: Timestamp) -> u64 {
    u64::try_from(moment.as_second()).unwrap_or(0)
}
