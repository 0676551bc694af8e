//! A record of every Graph and token call, for tests and the curious.
//!
//! Calls are in the order in which they took effect: an entry is written under the same lock as the change that it
//! describes. The journal is bounded and counts the calls that it has dropped. It never holds a secret or a token.
//!
//! It deliberately leaves out the sandbox's own endpoints and the issuer. Written by `world.rs`, shown by `control.rs`.

use std::collections::VecDeque;

use serde_json::{Map, Value, json};
use url::form_urlencoded;

use super::wire::{Body, Request, Response};

/// The calls so far.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    calls: VecDeque<Value>,
    dropped: u64,
}

impl Journal {
    /// Records a call and its response, if there was one; `fault` names the fault that was applied.
    pub(crate) fn add(&mut self, call: &Request, answer: Option<&Response>, fault: Option<&'static str>, limit: usize) {
        self.calls.push_back(entry(call, answer, fault));
        while self.calls.len() > limit {
            self.calls.pop_front();
            self.dropped = self.dropped.saturating_add(1);
        }
    }

    /// The whole journal.
    pub(crate) fn shown(&self) -> Value {
        json!({"calls": self.calls, "dropped": self.dropped})
    }
}

fn entry(call: &Request, answer: Option<&Response>, fault: Option<&'static str>) -> Value {
    json!({
        "time": call.at.to_string(),
        "method": call.method,
        "path": call.path,
        "query": masked_form(&call.query),
        "status": answer.map(|answer| answer.status),
        "fault": fault,
        "violation": answer.and_then(|answer| answer.violation),
        "request": request(call),
        "answer": answer.map(given),
        "request-id": call.id,
        "client-request-id": call.header("client-request-id"),
        "connection": call.peer,
        "traceparent": call.header("traceparent"),
        "user_agent": call.header("user-agent"),
        "prefer": call.header("prefer"),
    })
}

fn request(call: &Request) -> Value {
    if call.body.is_empty() {
        return Value::Null;
    }
    if call.carries("application/x-www-form-urlencoded") {
        let fields = call.form().into_iter().map(|(name, value)| (name, Value::String(value)));
        return masked(Value::Object(fields.collect()));
    }
    match serde_json::from_slice(&call.body) {
        Ok(body) => masked(body),
        // What cannot be parsed cannot be masked, and a token request may contain the secret.
        Err(_) if call.path.ends_with("/token") => json!("(unreadable, not kept)"),
        Err(_) => json!(String::from_utf8_lossy(&call.body)),
    }
}

fn given(answer: &Response) -> Value {
    match &answer.body {
        Body::Empty => Value::Null,
        Body::Json(body) => masked(body.clone()),
        Body::Html(text) => json!(text),
    }
}

const MASK: &str = "(masked)";

fn is_secret(name: &str) -> bool {
    ["client_secret", "client_assertion", "access_token", "refresh_token", "password"]
        .iter()
        .any(|secret| name.eq_ignore_ascii_case(secret))
}

fn masked(value: Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(fields.into_iter().map(masked_field).collect::<Map<_, _>>()),
        Value::Array(items) => items.into_iter().map(masked).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value,
    }
}

fn masked_field((name, value): (String, Value)) -> (String, Value) {
    let value = if is_secret(&name) { json!(MASK) } else { masked(value) };
    (name, value)
}

fn masked_form(text: &str) -> String {
    if !form_urlencoded::parse(text.as_bytes()).any(|(name, _)| is_secret(&name)) {
        return text.to_owned();
    }
    let mut kept = form_urlencoded::Serializer::new(String::new());
    for (name, value) in form_urlencoded::parse(text.as_bytes()) {
        kept.append_pair(&name, if is_secret(&name) { MASK } else { &value });
    }
    kept.finish()
}
