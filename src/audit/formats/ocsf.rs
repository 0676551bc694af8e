//! The Open Cybersecurity Schema Framework 1.8: class Entity Management (3004).
//!
//! The actor is the authenticated caller. The person that a ticket names is not authenticated and only appears among
//! the record's own fields. The policies that permitted it are in the actor's authorisations.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{EventCategory, Outcome, ParsedRecord, Severity, put};

const VERSION: &str = "1.8.0";
const CATEGORY: u64 = 3;
const CLASS: u64 = 3004;
/// OCSF's number for whatever has none of its own.
const OTHER: u64 = 99;

pub(super) fn event(record: &ParsedRecord) -> Value {
    let (activity_id, activity) = activity(record);
    let (severity_id, severity) = severity(record.severity());
    let (status_id, status) = status(record.outcome());
    let mut event = json!({
        "activity_id": activity_id,
        "activity_name": activity,
        "category_name": "Identity & Access Management",
        "category_uid": CATEGORY,
        "class_name": "Entity Management",
        "class_uid": CLASS,
        "type_uid": CLASS.saturating_mul(100).saturating_add(activity_id),
        "severity": severity,
        "severity_id": severity_id,
        "status": status,
        "status_id": status_id,
        "time": millis(record.at()),
        "message": record.message(),
        "metadata": metadata(record),
        "entity": entity(record),
        "unmapped": record.fields,
    });
    put(&mut event, "status_detail", record.reason());
    put(&mut event, "comment", record.text("comment"));
    put(&mut event, "actor", actor(record));
    put(&mut event, "entity_result", entity_result(record));
    if let Some((count, first, last)) = record.repeated() {
        put(&mut event, "count", Some(count));
        // The time of an aggregate is that of its first event.
        put(&mut event, "time", Some(millis(first)));
        put(&mut event, "start_time", Some(millis(first)));
        put(&mut event, "end_time", Some(millis(last)));
    }
    event
}

fn activity(record: &ParsedRecord) -> (u64, String) {
    match record.category() {
        EventCategory::Look => (2, "Read".to_owned()),
        EventCategory::Change | EventCategory::Configure => (3, "Update".to_owned()),
        EventCategory::Prove | EventCategory::Begin | EventCategory::Vouch | EventCategory::Step => {
            (OTHER, record.event().to_owned())
        }
    }
}

fn severity(severity: Severity) -> (u64, &'static str) {
    match severity {
        Severity::Informational => (1, "Informational"),
        Severity::Low => (2, "Low"),
        Severity::Medium => (3, "Medium"),
    }
}

fn status(outcome: Outcome) -> (u64, &'static str) {
    match outcome {
        Outcome::Unknown => (0, "Unknown"),
        Outcome::Success => (1, "Success"),
        Outcome::Failure => (2, "Failure"),
    }
}

fn metadata(record: &ParsedRecord) -> Value {
    let product = json!({"name": "Postern", "vendor_name": "Postern", "version": env!("CARGO_PKG_VERSION")});
    let mut metadata = json!({
        "version": VERSION,
        "product": product,
        "uid": record.place(),
        "sequence": record.sequence(),
        "log_name": "audit",
        "event_code": record.event(),
        "original_time": record.at(),
    });
    put(&mut metadata, "correlation_uid", record.text("trace_id"));
    metadata
}

fn actor(record: &ParsedRecord) -> Option<Value> {
    if !record.names_actor() {
        return None;
    }
    let mut user = json!({"type_id": 4, "type": "Service"});
    put(&mut user, "uid", record.text("subject"));
    put(&mut user, "name", record.text("caller"));
    let mut session = json!({});
    put(&mut session, "uid", record.text("token_id"));
    put(&mut session, "issuer", record.text("issuer"));
    let mut actor = json!({"user": user, "session": session});
    put(&mut actor, "app_name", record.text("caller"));
    let allowed = |policy: &str| json!({"decision": "allowed", "policy": {"name": policy}});
    let policies: Vec<_> = record.texts("policies").into_iter().map(allowed).collect();
    put(&mut actor, "authorizations", (!policies.is_empty()).then_some(policies));
    Some(actor)
}

fn entity(record: &ParsedRecord) -> Value {
    let Some(configuration) = record.text("configuration") else {
        return json!({"name": "postern", "uid": record.text("chain"), "type": "Gateway", "type_id": OTHER});
    };
    let mut entity = named(configuration);
    let (before, after) = record.values();
    put(&mut entity, "version", before.filter(|_| record.event() != "settled"));
    let wanted = after.filter(|_| matches!(record.event(), "accepted" | "denied"));
    put(&mut entity, "data", wanted.map(|_| record.fields.get("change").cloned().unwrap_or_default()));
    entity
}

/// The state afterwards; a set's version is its digest.
fn entity_result(record: &ParsedRecord) -> Option<Value> {
    let configuration = record.text("configuration")?;
    let (_, after) = record.values();
    let after = after.filter(|_| matches!(record.event(), "written" | "drift-seen"))?;
    let mut entity = named(configuration);
    put(&mut entity, "version", Some(after));
    Some(entity)
}

fn named(configuration: &str) -> Value {
    json!({"uid": configuration, "type": "Intune enrollment configuration", "type_id": OTHER})
}

fn millis(at: &str) -> i64 {
    at.parse::<Timestamp>().map_or(0, Timestamp::as_millisecond)
}
