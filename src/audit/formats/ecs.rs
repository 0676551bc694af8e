//! The Elastic Common Schema 9.4. Fields that it does not have are under `postern`.

use serde_json::{Value, json};

use super::{EventCategory, Outcome, ParsedRecord, Severity, put};

const VERSION: &str = "9.4.0";

pub(super) fn event(record: &ParsedRecord) -> Value {
    let mut event = json!({
        "@timestamp": record.at(),
        "ecs": {"version": VERSION},
        "message": record.message(),
        "event": about(record),
        "service": {"name": "postern", "version": env!("CARGO_PKG_VERSION")},
        "postern": record.fields,
    });
    put(&mut event, "trace", record.text("trace_id").map(|id| json!({"id": id})));
    put(&mut event, "rule", record.policies().map(|policies| json!({"name": policies})));
    if record.names_actor() {
        let mut user = json!({});
        put(&mut user, "id", record.text("subject"));
        put(&mut user, "name", record.text("caller"));
        put(&mut event, "user", Some(user));
    }
    let people: Vec<_> = ["caller", "subject", "requested_for"].iter().filter_map(|key| record.text(key)).collect();
    put(&mut event, "related", (!people.is_empty()).then(|| json!({"user": people})));
    event
}

fn about(record: &ParsedRecord) -> Value {
    let (categories, types) = classes(record);
    let action = match record.text("action") {
        Some(action) => format!("{}-{action}", record.event()),
        None => record.event().to_owned(),
    };
    let mut about = json!({
        "kind": "event",
        "category": categories,
        "type": types,
        "action": action,
        "outcome": outcome(record.outcome()),
        "severity": severity(record.severity()),
        "id": record.place(),
        "sequence": record.sequence(),
        "module": "postern",
        "dataset": "postern.audit",
        "provider": "postern",
    });
    put(&mut about, "hash", record.text("hash"));
    put(&mut about, "reason", record.reason());
    if let Some((_, first, last)) = record.repeated() {
        put(&mut about, "start", Some(first));
        put(&mut about, "end", Some(last));
    }
    about
}

/// Categories, and the types that are expected with them.
fn classes(record: &ParsedRecord) -> (Vec<&'static str>, Vec<&'static str>) {
    let denied = matches!(record.event(), "denied" | "refused");
    match record.category() {
        EventCategory::Prove => (vec!["authentication"], vec!["start"]),
        EventCategory::Change | EventCategory::Look if denied => (vec!["api"], vec!["denied"]),
        EventCategory::Change | EventCategory::Configure => (vec!["configuration"], vec!["change"]),
        EventCategory::Look => (vec!["api"], vec!["access"]),
        EventCategory::Step if record.event() == "accepted" => (vec!["api"], vec!["allowed"]),
        EventCategory::Begin => (vec!["process"], vec!["start"]),
        EventCategory::Vouch | EventCategory::Step => (vec!["configuration"], vec!["info"]),
    }
}

fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Success => "success",
        Outcome::Failure => "failure",
        Outcome::Unknown => "unknown",
    }
}

/// On OCSF's scale, so that both formats agree.
fn severity(severity: Severity) -> u64 {
    match severity {
        Severity::Informational => 1,
        Severity::Low => 2,
        Severity::Medium => 3,
    }
}
