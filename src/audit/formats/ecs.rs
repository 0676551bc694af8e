//! The Elastic Common Schema 9.4. Fields that it does not have are under `postern`.

use serde_json::{Value, json};

use super::{EventCategory, Outcome, ParsedRecord, Severity, put};

const VERSION: &str = "9.4.0";

pub(super) fn event(told: &ParsedRecord) -> Value {
    let mut event = json!({
        "@timestamp": told.at(),
        "ecs": {"version": VERSION},
        "message": told.message(),
        "event": about(told),
        "service": {"name": "postern", "version": env!("CARGO_PKG_VERSION")},
        "postern": told.fields,
    });
    put(&mut event, "trace", told.text("trace_id").map(|id| json!({"id": id})));
    put(&mut event, "rule", told.policies().map(|policies| json!({"name": policies})));
    if let Some(subject) = told.text("subject") {
        let mut user = json!({"id": subject});
        put(&mut user, "name", told.text("caller"));
        put(&mut event, "user", Some(user));
    }
    let people: Vec<_> = ["caller", "subject", "requested_for"].iter().filter_map(|key| told.text(key)).collect();
    put(&mut event, "related", (!people.is_empty()).then(|| json!({"user": people})));
    event
}

fn about(told: &ParsedRecord) -> Value {
    let (categories, types) = classes(told);
    let action = match told.text("action") {
        Some(action) => format!("{}-{action}", told.event()),
        None => told.event().to_owned(),
    };
    let mut about = json!({
        "kind": "event",
        "category": categories,
        "type": types,
        "action": action,
        "outcome": outcome(told.outcome()),
        "severity": severity(told.severity()),
        "id": told.place(),
        "sequence": told.sequence(),
        "module": "postern",
        "dataset": "postern.audit",
        "provider": "postern",
    });
    put(&mut about, "hash", told.text("hash"));
    put(&mut about, "reason", told.reason());
    if let Some((_, first, last)) = told.repeated() {
        put(&mut about, "start", Some(first));
        put(&mut about, "end", Some(last));
    }
    about
}

/// Categories, and the types that are expected with them.
fn classes(told: &ParsedRecord) -> (Vec<&'static str>, Vec<&'static str>) {
    let denied = matches!(told.event(), "denied" | "refused");
    match told.category() {
        EventCategory::Prove => (vec!["authentication"], vec!["start"]),
        EventCategory::Change | EventCategory::Look if denied => (vec!["api"], vec!["denied"]),
        EventCategory::Change | EventCategory::Configure => (vec!["configuration"], vec!["change"]),
        EventCategory::Look => (vec!["api"], vec!["access"]),
        EventCategory::Step if told.event() == "accepted" => (vec!["api"], vec!["allowed"]),
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
