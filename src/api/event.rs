//! The event in a message: from its body, and for CloudEvents in binary mode its headers, to one JSON value.
//!
//! Guarantees: JSON is read as strictly as the bodies of changes; a CloudEvents envelope is complete. Called after the
//! message is authenticated, never before.
//!
//! It deliberately takes nothing of an event from headers that the authentication does not cover: a signature covers the body
//! only. The media type is such a header, so it must fit the body: JSON is not read as a form or a text.

use std::collections::BTreeMap;

use actix_web::http::header::HeaderMap;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::de::IgnoredAny;
use serde_json::{Map, Value};
use url::form_urlencoded;

use super::{
    json,
    problem::{Code, Problem},
};
use crate::webhooks::ProofScope;

/// The media type of a structured CloudEvent.
const CLOUD_EVENT: &str = "application/cloudevents+json";
/// That of a form.
const FORM: &str = "application/x-www-form-urlencoded";
/// That of a text.
const TEXT: &str = "text/plain";

/// An event, and its id if it is a CloudEvent.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) value: Value,
    pub(super) id: Option<String>,
}

/// Reads the event of a message; `covered` says which part of the message is authenticated.
pub(super) fn read(headers: &HeaderMap, body: &[u8], covered: ProofScope) -> Result<Event, Problem> {
    let binary = headers.contains_key("ce-specversion");
    if binary && covered == ProofScope::Body {
        let detail = "The signature does not cover the ce- headers: send the CloudEvent in structured mode.";
        return Err(Problem::new(Code::UnsupportedMediaType, detail));
    }
    let essence = essence(headers);
    if matches!(essence.as_str(), FORM | TEXT) && looks_like_json(body) {
        let detail = "The body is JSON: send it as application/json.";
        return Err(Problem::new(Code::UnsupportedMediaType, detail));
    }
    let content = content(&essence, body)?;
    let value = if binary { envelope(headers, content) } else { content };
    if binary || essence == CLOUD_EVENT { cloud_event(value) } else { Ok(Event { value, id: None }) }
}

/// The media type, without its parameters, in lower case; empty if there is none.
fn essence(headers: &HeaderMap) -> String {
    let content_type = headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn content(essence: &str, body: &[u8]) -> Result<Value, Problem> {
    match essence {
        FORM => Ok(form(body)),
        TEXT => text(body),
        // Some senders send no body.
        _ if is_json(essence) && body.trim_ascii().is_empty() => Ok(Value::Null),
        _ if is_json(essence) => json::parse(body),
        _ => {
            let detail = "Send the event as application/json, application/cloudevents+json, \
                          application/x-www-form-urlencoded or text/plain, and one event at a time.";
            Err(Problem::new(Code::UnsupportedMediaType, detail))
        }
    }
}

/// Whether a body is an object or a list in JSON, even one that is refused as an event.
fn looks_like_json(body: &[u8]) -> bool {
    let opens = matches!(body.trim_ascii_start().first(), Some(b'{' | b'['));
    opens && serde_json::from_slice::<IgnoredAny>(body).is_ok()
}

fn is_json(essence: &str) -> bool {
    let several = essence == "application/cloudevents-batch+json";
    essence.is_empty() || essence == "application/json" || (essence.ends_with("+json") && !several)
}

fn text(body: &[u8]) -> Result<Value, Problem> {
    std::str::from_utf8(body)
        .map(Value::from)
        .map_err(|_other| Problem::new(Code::MalformedJson, "The body is not UTF-8 text."))
}

/// The fields of a form; one that occurs more than once becomes a list.
fn form(body: &[u8]) -> Value {
    let mut fields: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for (key, value) in form_urlencoded::parse(body) {
        fields.entry(key.into_owned()).or_default().push(Value::from(value.into_owned()));
    }
    let one = |values: Vec<Value>| match <[Value; 1]>::try_from(values) {
        Ok([value]) => value,
        Err(several) => Value::from(several),
    };
    fields.into_iter().map(|(key, values)| (key, one(values))).collect::<Map<_, _>>().into()
}

/// A CloudEvent in binary mode: attributes in headers, data in the body.
fn envelope(headers: &HeaderMap, data: Value) -> Value {
    let attribute = |(name, value): (&actix_web::http::header::HeaderName, &actix_web::http::header::HeaderValue)| {
        let name = name.as_str().strip_prefix("ce-")?;
        Some((name.to_owned(), Value::from(value.to_str().ok()?)))
    };
    let mut fields: Map<_, _> = headers.iter().filter_map(attribute).collect();
    fields.insert("data".to_owned(), data);
    Value::Object(fields)
}

/// Checks an envelope and decodes data in base64.
fn cloud_event(mut value: Value) -> Result<Event, Problem> {
    let refused =
        |what: &str| Problem::new(Code::MalformedJson, format!("The body is not a valid CloudEvent: {what}."));
    let attribute = |name: &str| {
        let text = value.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        text.map(str::to_owned).ok_or_else(|| refused(&format!("the attribute {name} is missing or not a string")))
    };
    let (version, id, source) = (attribute("specversion")?, attribute("id")?, attribute("source")?);
    attribute("type")?;
    if !version.starts_with("1.") && version != "1" {
        return Err(refused("its specversion is not 1.0"));
    }
    if let Some(packed) = value.get("data_base64") {
        let bytes = packed.as_str().and_then(|text| STANDARD.decode(text).ok());
        let data = json::parse(&bytes.ok_or_else(|| refused("data_base64 is not valid base64"))?)?;
        if let Some(fields) = value.as_object_mut() {
            fields.insert("data".to_owned(), data);
        }
    }
    // By the specification these two together are unique.
    Ok(Event { value, id: Some(format!("{source} {id}")) })
}
