//! Microsoft Sentinel's Advanced Security Information Model: Audit Event 0.1.
//!
//! The actor and the acting application are the caller, as authenticated. `Dvc` is the product, as the model requires where
//! no device matters to the reader.

use serde_json::{Value, json};

use super::{EventCategory, Outcome, ParsedRecord, Severity, put};

const VERSION: &str = "0.1";

pub(super) fn event(told: &ParsedRecord) -> Value {
    let (count, first, last) = told.repeated().unwrap_or((1, told.at(), told.at()));
    let (object, object_type) = object(told);
    let mut event = json!({
        "TimeGenerated": told.at(),
        "EventCount": count,
        "EventStartTime": first,
        "EventEndTime": last,
        "EventType": event_type(told.category()),
        "EventResult": result(told.outcome()),
        "EventSeverity": severity(told.severity()),
        "EventMessage": told.message(),
        "EventOriginalType": told.event(),
        "EventOriginalUid": told.place(),
        "EventProduct": "Postern",
        "EventProductVersion": env!("CARGO_PKG_VERSION"),
        "EventVendor": "Postern",
        "EventSchema": "AuditEvent",
        "EventSchemaVersion": VERSION,
        "Dvc": "Postern",
        "Operation": told.text("action").unwrap_or(told.event()),
        "Object": object,
        "ObjectType": object_type,
        "AdditionalFields": told.fields,
    });
    put(&mut event, "ObjectId", told.text("configuration"));
    put(&mut event, "EventOriginalResultDetails", told.reason());
    put(&mut event, "RuleName", told.policies());
    if told.category() == EventCategory::Change {
        let (old, new) = told.values();
        put(&mut event, "OldValue", old);
        put(&mut event, "NewValue", new);
    }
    if told.text("configuration").is_some() {
        put(&mut event, "TargetAppName", Some("Microsoft Intune"));
        put(&mut event, "TargetAppType", Some("SaaS application"));
    }
    if let Some(subject) = told.text("subject") {
        put(&mut event, "ActorUserId", Some(subject));
        put(&mut event, "ActorUserIdType", Some("Other"));
        put(&mut event, "ActorUserType", Some("Application"));
        put(&mut event, "ActorSessionId", told.text("token_id"));
    }
    if let Some(caller) = told.text("caller") {
        put(&mut event, "ActorUsername", Some(caller));
        put(&mut event, "ActorUsernameType", Some("Simple"));
        put(&mut event, "ActingAppName", Some(caller));
        put(&mut event, "ActingAppType", Some("Service"));
    }
    event
}

fn event_type(deed: EventCategory) -> &'static str {
    match deed {
        EventCategory::Change | EventCategory::Configure => "Set",
        EventCategory::Look => "Read",
        EventCategory::Begin => "Start",
        EventCategory::Step => "Execute",
        EventCategory::Prove | EventCategory::Vouch => "Other",
    }
}

fn object(told: &ParsedRecord) -> (&str, &'static str) {
    match (told.text("configuration"), told.category()) {
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
