//! What is counted and measured, by those who see it happen.
//!
//! Guarantees: what has not happened yet is told as zero where its attributes have few values, so that the first of its
//! kind can be seen as an increase.
//!
//! It deliberately counts no single configuration, operation or caller: attributes have few values, so that the number of
//! series stays small. Which one it was, logs, traces and the audit trail tell. Names and units stand in `instruments`.

use std::time::Duration;

use jiff::Timestamp;
use opentelemetry::{KeyValue, metrics::Counter};

use super::instruments::METERS;

/// How a request to the gateway went.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Its method; what HTTP does not know is counted as `_OTHER`.
    pub method: &'a str,
    /// `http` or `https`.
    pub scheme: &'a str,
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
    /// Its port.
    pub port: u16,
    /// The status of the answer, or what kept it from coming.
    pub outcome: Result<u16, &'static str>,
    /// How long it took.
    pub took: Duration,
}

/// How a fetch of the gateway's own token went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fetch {
    /// It came.
    Fetched,
    /// The login service or the platform refuses the gateway's proof, or the proof cannot be read: somebody must act.
    Refused,
    /// There was no useful answer, or a request to come later.
    Unavailable,
}

/// Operations of a store that have not ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pending<'a> {
    /// How many are in which state.
    pub states: &'a [(&'static str, u64)],
    /// How many lanes have some that Graph keeps from being applied.
    pub parked: u64,
    /// How long ago the oldest was accepted.
    pub oldest_age: Duration,
}

const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

/// A method as figures and spans tell it: callers can invent any number.
pub fn known_method(method: &str) -> &'static str {
    METHODS.iter().find(|known| **known == method).copied().unwrap_or("_OTHER")
}

/// The gateway has answered a request.
pub fn measure_request(Request { method, scheme, route, status, took }: Request<'_>) {
    let mut attributes = vec![
        KeyValue::new("http.request.method", known_method(method)),
        KeyValue::new("url.scheme", scheme.to_owned()),
        KeyValue::new("http.route", route.to_owned()),
        KeyValue::new("http.response.status_code", i64::from(status)),
    ];
    // The conventions ask for it where the server is at fault, and only there.
    attributes.extend((status >= 500).then(|| KeyValue::new("error.type", status.to_string())));
    METERS.requests.record(took.as_secs_f64(), &attributes);
}

/// The gateway has made a call.
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
pub fn note_pending(Pending { states, parked, oldest_age }: Pending<'_>) {
    for (state, count) in states {
        METERS.operations_pending.record(*count, &[KeyValue::new("postern.operation.state", *state)]);
    }
    METERS.lanes_parked.record(parked, &[]);
    METERS.oldest_age.record(oldest_age.as_secs_f64(), &[]);
}

/// So many callbacks of operations that have ended were not delivered; the oldest of those that are still to be has waited so
/// long.
pub fn note_undelivered(states: &[(&'static str, u64)], oldest_age: Duration) {
    for (state, count) in states {
        METERS.callbacks_undelivered.record(*count, &[KeyValue::new("postern.callback.state", *state)]);
    }
    METERS.callbacks_oldest_age.record(oldest_age.as_secs_f64(), &[]);
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

/// A lane has brought an operation to its end, so long after its acceptance.
pub fn measure_operation(state: &'static str, took: Duration) {
    METERS.operation_life.record(took.as_secs_f64(), &[KeyValue::new("postern.operation.state", state)]);
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
    METERS.parkings.add(1, &[]);
}

/// A lane's turn broke off.
pub fn count_broken_turn() {
    METERS.turns_broken.add(1, &[]);
}

/// Graph asked for a pause, which ends at this moment.
pub fn count_throttling(pause_end: Timestamp) {
    METERS.throttlings.add(1, &[]);
    METERS.pause_end.record(seconds_since_1970(pause_end), &[]);
}

/// The gateway has tried to fetch its own token for Graph.
pub fn count_token_fetch(fetch: Fetch) {
    let outcome = match fetch {
        Fetch::Fetched => "fetched",
        Fetch::Refused => "refused",
        Fetch::Unavailable => "unavailable",
    };
    METERS.token_fetches.add(1, &[KeyValue::new("postern.outcome", outcome)]);
}

/// A problem of this code was answered.
pub fn count_problem(code: &'static str) {
    METERS.problems.add(1, &[KeyValue::new("postern.problem.code", code)]);
}

/// A message of a webhook was answered: `accepted`, `ignored`, or with the problem of this code.
pub fn count_webhook(result: &'static str) {
    METERS.webhooks.add(1, &[KeyValue::new("postern.webhook.result", result)]);
}

/// A callback was `delivered`, `failed` for now or `parked`; its attempt was `broken`; or it was `resent` on demand.
pub fn count_callback(result: &'static str) {
    METERS.callbacks.add(1, &[KeyValue::new("postern.callback.result", result)]);
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

/// A verb of the store failed, for a reason of this class.
pub fn count_store_failure(class: &'static str) {
    METERS.store_failures.add(1, &[KeyValue::new("error.type", class)]);
}

/// The store was tried.
pub fn note_store<E>(tried: &Result<(), E>) {
    METERS.store_works.record(u64::from(tried.is_ok()), &[]);
}

/// A sink has taken so many audit records.
pub fn count_delivered(sink: &'static str, records: usize) {
    METERS.audit_delivered.add(whole(records), &[KeyValue::new("postern.audit.sink", sink)]);
}

/// The oldest audit record that a sink has not taken has waited so long.
pub fn note_audit_lag(sink: &'static str, lag: Duration) {
    METERS.audit_lag.record(lag.as_secs_f64(), &[KeyValue::new("postern.audit.sink", sink)]);
}

/// Tells what is running, and zero of what has not happened yet: the first of its kind could not be seen as an increase
/// otherwise. To be called once figures are counted.
pub(super) fn begin() {
    METERS.build.record(1, &[KeyValue::new("version", env!("CARGO_PKG_VERSION"))]);
    METERS.pause_end.record(0, &[]);
    for counter in
        [&METERS.operations_accepted, &METERS.drift_seen, &METERS.parkings, &METERS.turns_broken, &METERS.throttlings]
    {
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
