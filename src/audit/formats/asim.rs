//! Microsoft Sentinel's Advanced Security Information Model: Audit Event 0.1.
//!
//! The actor and the acting application are the caller, as authenticated. `Dvc` is the product, as the model requires where
//! no device matters to the reader.

use serde_json::{Value, json};

use super::{EventCategory, Outcome, ParsedRecord, Severity, put};

const VERSION: &str = "0.1";

pub(super) fn event(record: &ParsedRecord) -> Value {
    let (count, first, last) = record.repeated().unwrap_or((1, record.at(), record.at()));
    let (object, object_type) = object(record);
    let mut event = json!({
        "TimeGenerated": record.at(),
        "EventCount": count,
        "EventStartTime": first,
        "EventEndTime": last,
        "EventType": event_type(record.category()),
        "EventResult": result(record.outcome()),
        "EventSeverity": severity(record.severity()),
        "EventMessage": record.message(),
        "EventOriginalType": record.event(),
        "EventOriginalUid": record.place(),
        "EventProduct": "Postern",
        "EventProductVersion": env!("CARGO_PKG_VERSION"),
        "EventVendor": "Postern",
        "EventSchema": "AuditEvent",
        "EventSchemaVersion": VERSION,
        "Dvc": "Postern",
        "Operation": record.text("action").unwrap_or(record.event()),
        "Object": object,
        "ObjectType": object_type,
        "AdditionalFields": record.fields,
    });
    put(&mut event, "ObjectId", record.text("configuration"));
    put(&mut event, "EventOriginalResultDetails", record.reason());
    put(&mut event, "RuleName", record.policies());
    if record.category() == EventCategory::Change {
        let (old, new) = record.values();
        put(&mut event, "OldValue", old);
        put(&mut event, "NewValue", new);
    }
    if record.text("configuration").is_some() {
        put(&mut event, "TargetAppName", Some("Microsoft Intune"));
        put(&mut event, "TargetAppType", Some("SaaS application"));
    }
    if let Some(subject) = record.text("subject") {
        put(&mut event, "ActorUserId", Some(subject));
        put(&mut event, "ActorUserIdType", Some("Other"));
        put(&mut event, "ActorUserType", Some("Application"));
        put(&mut event, "ActorSessionId", record.text("token_id"));
    }
    if let Some(caller) = record.text("caller") {
        put(&mut event, "ActorUsername", Some(caller));
        put(&mut event, "ActorUsernameType", Some("Simple"));
        put(&mut event, "ActingAppName", Some(caller));
        put(&mut event, "ActingAppType", Some("Service"));
    }
    event
}

fn event_type(category: EventCategory) -> &'static str {
    match category {
        EventCategory::Change | EventCategory::Configure => "Set",
        EventCategory::Look => "Read",
        EventCategory::Begin => "Start",
        EventCategory::Step => "Execute",
        EventCategory::Prove | EventCategory::Vouch => "Other",
    }
}

fn object(record: &ParsedRecord) -> (&str, &'static str) {
    match (record.text("configuration"), record.category()) {
        (Some(configuration), _) => (configuration, "Configuration Atom"),
        (None, EventCategory::Vouch) => ("audit trail", "Event Log"),
        (None, EventCategory::Configure) => ("policies and callers", "Policy Rule"),
        (None, _) => ("postern", "Service"),
    }
}

fn result(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Success => "Success",
        Outcome::Failure => "Failure",
        Outcome::Unknown => "NA",
    }
}

fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Informational => "Informational",
        Severity::Low => "Low",
        Severity::Medium => "Medium",
    }
}
