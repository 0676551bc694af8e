//! Audit records in the formats of other systems: OCSF, Elastic ECS, Microsoft Sentinel's ASIM.
//!
//! Guarantees: every record has one line in every format, also for events that this version does not know. Nothing is lost:
//! each format carries the whole record in its place for vendor-specific fields, so the chain can still be verified from
//! there. What was denied, refused or rejected is a failure in all of them, and what was only accepted is no change in any.
//!
//! It deliberately reads the record's text and not the catalogue of events: what is exported is what was hashed.

mod asim;
mod ecs;
mod ocsf;
#[cfg(test)]
mod tests;

use std::{fmt, str::FromStr};

use serde_json::{Map, Value};

/// A format of records, one per line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportFormat {
    /// The record as it was hashed.
    Jsonl,
    /// Open Cybersecurity Schema Framework, Entity Management.
    Ocsf,
    /// Elastic Common Schema.
    Ecs,
    /// Advanced Security Information Model, Audit Event.
    Asim,
}

/// The formats by name.
const FORMS: [(&str, ExportFormat); 4] = [
    ("jsonl", ExportFormat::Jsonl),
    ("ocsf", ExportFormat::Ocsf),
    ("ecs", ExportFormat::Ecs),
    ("asim", ExportFormat::Asim),
];

impl FromStr for ExportFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = FORMS.iter().find(|row| row.0 == text).map(|row| row.1);
        found.ok_or_else(|| format!("one of {}", FORMS.map(|row| row.0).join(", ")))
    }
}

impl fmt::Display for ExportFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(FORMS.iter().find(|row| row.1 == *self).map_or("", |row| row.0))
    }
}

impl ExportFormat {
    /// A record's line, without the line break. A text that is not a record stays as it is, so that verifying detects it.
    pub fn line(self, text: &str) -> String {
        let Some(record) = ParsedRecord::read(text) else { return text.to_owned() };
        match self {
            Self::Jsonl => text.to_owned(),
            Self::Ocsf => ocsf::event(&record).to_string(),
            Self::Ecs => ecs::event(&record).to_string(),
            Self::Asim => asim::event(&record).to_string(),
        }
    }
}

/// Whether a record deserves attention, by its severity in all formats.
pub fn deserves_attention(text: &str) -> bool {
    ParsedRecord::read(text).is_some_and(|record| record.severity() != Severity::Informational)
}

/// The outcome of a record's event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Success,
    Failure,
    /// Not known, or somebody else's doing.
    Unknown,
}

/// How much attention a record deserves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Severity {
    Informational,
    Low,
    Medium,
}

/// What a record's event did, in the coarse terms that all formats have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EventCategory {
    /// Assignments were changed, or were to be.
    Change,
    /// A caller wanted to read something.
    Look,
    /// A caller was to be authenticated.
    Prove,
    /// The gateway started.
    Begin,
    /// The gateway's own settings were changed, or were to be.
    Configure,
    /// Something about the trail itself.
    Vouch,
    /// Any other step of an operation.
    Step,
}

/// The fields of a record.
#[derive(Debug)]
struct ParsedRecord {
    fields: Map<String, Value>,
}

impl ParsedRecord {
    fn read(text: &str) -> Option<Self> {
        match serde_json::from_str(text) {
            Ok(Value::Object(fields)) => Some(Self { fields }),
            Ok(_) | Err(_) => None,
        }
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.fields.get(key).and_then(Value::as_str)
    }

    fn event(&self) -> &str {
        self.text("event").unwrap_or("unknown")
    }

    fn at(&self) -> &str {
        self.text("at").unwrap_or_default()
    }

    fn sequence(&self) -> u64 {
        self.fields.get("sequence").and_then(Value::as_u64).unwrap_or(0)
    }

    /// The record's id: its chain, and its place there.
    fn place(&self) -> String {
        format!("{}/{}", self.text("chain").unwrap_or_default(), self.sequence())
    }

    /// The strings in a list.
    fn texts(&self, key: &str) -> Vec<&str> {
        let list = self.fields.get(key).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_str).collect()
    }

    /// The ids of the policies that permitted it, as one text.
    fn policies(&self) -> Option<String> {
        let policies = self.texts("policies");
        (!policies.is_empty()).then(|| policies.join(", "))
    }

    /// Whether it says who made the call: by subject, or, if it stands for calls of several, by caller.
    fn names_actor(&self) -> bool {
        self.text("subject").or_else(|| self.text("caller")).is_some()
    }

    /// Why it failed.
    fn reason(&self) -> Option<&str> {
        self.text("reason").or_else(|| self.text("failure"))
    }

    /// How many calls it stands for, and the times of the first and the last.
    fn repeated(&self) -> Option<(u64, &str, &str)> {
        let repeated = self.fields.get("repeated")?;
        let moment = |key: &str| repeated.get(key).and_then(Value::as_str);
        Some((repeated.get("count")?.as_u64()?, moment("first")?, moment("last")?))
    }

    fn outcome(&self) -> Outcome {
        match self.event() {
            "denied" | "refused" | "rejected" | "approval-expired" | "configuration-refused" | "callback-parked" => {
                Outcome::Failure
            }
            "settled" if self.text("state") == Some("failed") => Outcome::Failure,
            "drift-seen" => Outcome::Unknown,
            "written" if self.text("known_by") == Some("undecided") => Outcome::Unknown,
            _ => Outcome::Success,
        }
    }

    fn severity(&self) -> Severity {
        match (self.event(), self.outcome()) {
            ("started-up", _) if self.fields.contains_key("expected_end") => Severity::Medium,
            ("drift-seen" | "settled", Outcome::Failure | Outcome::Unknown) => Severity::Medium,
            _ if self.repeated().is_some() => Severity::Medium,
            (_, Outcome::Failure | Outcome::Unknown) => Severity::Low,
            (_, Outcome::Success) => Severity::Informational,
        }
    }

    fn category(&self) -> EventCategory {
        match (self.event(), self.text("action")) {
            ("denied", Some("authenticate")) => EventCategory::Prove,
            ("denied", Some("plan" | "read" | "audit")) => EventCategory::Look,
            ("denied" | "refused" | "written" | "reverted" | "drift-seen", _) => EventCategory::Change,
            ("settled", _) if self.text("effect") != Some("unchanged") => EventCategory::Change,
            ("started-up", _) => EventCategory::Begin,
            ("configuration-loaded" | "configuration-refused", _) => EventCategory::Configure,
            ("signed-checkpoint", _) => EventCategory::Vouch,
            _ => EventCategory::Step,
        }
    }

    /// The values before and after, if the record has them.
    fn values(&self) -> (Option<String>, Option<String>) {
        let text = |key: &str| self.text(key).map(str::to_owned);
        let list = |key: &str| self.fields.get(key).filter(|list| list.as_array().is_some_and(|it| !it.is_empty()));
        match self.event() {
            "written" => (text("before"), text("after")),
            "drift-seen" => (text("left"), text("found")),
            "settled" => {
                let now: Vec<_> = [list("added"), list("changed")].into_iter().flatten().collect();
                let now = now.into_iter().filter_map(Value::as_array).flatten().cloned().collect::<Vec<_>>();
                let now = (!now.is_empty()).then(|| Value::from(now).to_string());
                (list("removed").map(Value::to_string), now)
            }
            _ => (None, self.fields.get("change").filter(|change| !change.is_null()).map(Value::to_string)),
        }
    }

    /// One sentence for people.
    fn message(&self) -> String {
        let event = Some(self.event().replace('-', " "));
        let word = |word: &str, what: Option<&str>| what.map(|what| format!(" {word}{what}"));
        let parts = [
            event,
            word("", self.text("action")),
            word("on ", self.text("configuration")),
            word("by ", self.text("caller")),
            word("for ticket ", self.text("ticket")),
            self.repeated().map(|(count, ..)| format!(", {count} times")),
            self.reason().map(|reason| format!(": {reason}")),
        ];
        parts.into_iter().flatten().collect()
    }
}

/// Inserts a value, if there is one.
fn put(object: &mut Value, key: &str, value: Option<impl Into<Value>>) {
    if let (Some(object), Some(value)) = (object.as_object_mut(), value) {
        object.insert(key.to_owned(), value.into());
    }
}
