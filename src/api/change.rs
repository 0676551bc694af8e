//! The body of a change, checked for form: from JSON to a [`ChangeRequest`], or all its faults at once.
//!
//! Guarantees: every wrong, missing or unknown field is reported in one response, each with its JSON pointer. Texts are
//! bounded and contain no control characters, so they are safe in logs and tickets.
//!
//! It deliberately looks nothing up: whether names exist and targets are accepted is checked by the gateway.

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::{
    domain::FilterMode,
    gateway::request::{
        CallbackRequest, ChangeRequest, Fault, NamedFilter, NamedTarget, RequestedChange, RevertRequest, TargetRef,
    },
};

/// Names of configurations, groups and filters: Entra allows 256 characters.
pub(super) const NAME_MAX: usize = 256;
/// A ticket's number.
pub(super) const TICKET_MAX: usize = 128;
/// A comment.
pub(super) const COMMENT_MAX: usize = 1_000;
/// A timestamp, with offset and fractions of a second.
const MOMENT_MAX: usize = 64;
/// A URL to call back.
pub(super) const URL_MAX: usize = 2_048;
/// What is sent back with a callback, in bytes.
pub(super) const CONTEXT_MAX: usize = 4_096;
/// Faults reported at once: a body full of them would otherwise make a response many times its size.
const FAULTS_MAX: usize = 100;

const FIELDS: [&str; 9] =
    ["configuration", "add", "remove", "replace", "ticket", "requested_for", "comment", "until", "callback"];

/// Reads a change.
pub(super) fn read(body: &Value) -> Result<ChangeRequest, Vec<Fault>> {
    let mut faults = Faults::default();
    let request = faults.change(body);
    match request {
        Some(request) if faults.0.is_empty() => Ok(request),
        _ => Err(faults.0),
    }
}

/// Reads the body of a reversal.
pub(super) fn read_revert(body: &Value) -> Result<RevertRequest, Vec<Fault>> {
    let mut faults = Faults::default();
    let request = faults.revert(body);
    match request {
        Some(request) if faults.0.is_empty() => Ok(request),
        _ => Err(faults.0),
    }
}

/// Reads the body of an approval or a rejection: at most a comment.
pub(super) fn read_comment(body: &Value) -> Result<Option<String>, Vec<Fault>> {
    let mut faults = Faults::default();
    let comment =
        faults.object(body, "", &["comment"]).and_then(|fields| faults.text(fields, "", "comment", COMMENT_MAX));
    if faults.0.is_empty() { Ok(comment) } else { Err(faults.0) }
}

/// The faults found so far. Each reader returns what it could read and notes what it could not.
#[derive(Default)]
struct Faults(Vec<Fault>);

impl Faults {
    fn note(&mut self, at: &str, detail: impl Into<String>) {
        if self.0.len() < FAULTS_MAX {
            self.0.push(Fault { pointer: at.to_owned(), detail: detail.into() });
        }
    }

    fn change(&mut self, body: &Value) -> Option<ChangeRequest> {
        let fields = self.object(body, "", &FIELDS)?;
        let configuration = self.text(fields, "", "configuration", NAME_MAX);
        if configuration.is_none() && !fields.contains_key("configuration") {
            self.note("/configuration", "is missing: give the id, alias or display name of a configuration");
        }
        let change = self.requested_change(fields);
        Some(ChangeRequest {
            ticket: self.text(fields, "", "ticket", TICKET_MAX),
            requested_for: self.text(fields, "", "requested_for", NAME_MAX),
            comment: self.text(fields, "", "comment", COMMENT_MAX),
            until: self.moment(fields, "until"),
            callback: self.callback(fields),
            configuration: configuration?,
            change: change?,
            only_on: None,
        })
    }

    /// An optional timestamp, to the microsecond.
    fn moment(&mut self, fields: &Map<String, Value>, key: &str) -> Option<Timestamp> {
        let moment = timestamp(&self.text(fields, "", key, MOMENT_MAX)?);
        if moment.is_none() {
            self.note(&format!("/{key}"), "must be a timestamp like 2026-12-24T18:00:00Z (RFC 3339)");
        }
        Timestamp::from_microsecond(moment?.as_microsecond()).ok()
    }

    /// Where the end is to be reported. What the caller wants to get back is not interpreted, only bounded.
    fn callback(&mut self, fields: &Map<String, Value>) -> Option<CallbackRequest> {
        const AT: &str = "/callback";
        let fields = self.object(fields.get("callback")?, AT, &["url", "context"])?;
        let context = fields.get("context").map(Value::to_string);
        if context.as_ref().is_some_and(|context| context.len() > CONTEXT_MAX) {
            self.note("/callback/context", format!("is longer than {CONTEXT_MAX} bytes"));
        }
        Some(CallbackRequest { url: self.text(fields, AT, "url", URL_MAX), context })
    }

    fn revert(&mut self, body: &Value) -> Option<RevertRequest> {
        let fields = self.object(body, "", &["ticket", "requested_for", "comment", "callback"])?;
        Some(RevertRequest {
            ticket: self.text(fields, "", "ticket", TICKET_MAX),
            requested_for: self.text(fields, "", "requested_for", NAME_MAX),
            comment: self.text(fields, "", "comment", COMMENT_MAX),
            only_on: None,
            callback: self.callback(fields),
        })
    }

    fn requested_change(&mut self, fields: &Map<String, Value>) -> Option<RequestedChange> {
        let [add, remove, replace] =
            ["add", "remove", "replace"].map(|key| fields.get(key).map(|list| self.targets(list, key)));
        match (add, remove, replace) {
            (None, None, Some(replace)) => replace.map(RequestedChange::Replace),
            (None, None, None) => {
                self.note("", "the change is empty: give add and/or remove, or replace with the whole set");
                None
            }
            (add, remove, None) => {
                let (add, remove) =
                    (add.unwrap_or_else(|| Some(Vec::new()))?, remove.unwrap_or_else(|| Some(Vec::new()))?);
                Some(RequestedChange::Amend { add, remove })
            }
            (_, _, Some(_)) => {
                self.note("/replace", "cannot be combined with add or remove: it states the whole set");
                None
            }
        }
    }

    fn targets(&mut self, list: &Value, key: &str) -> Option<Vec<NamedTarget>> {
        let at = format!("/{key}");
        let Value::Array(items) = list else {
            self.note(&at, format!("must be a list of targets, not {}", kind_of(list)));
            return None;
        };
        let read: Vec<_> =
            items.iter().enumerate().map(|(index, item)| self.target(item, &format!("{at}/{index}"), key)).collect();
        read.into_iter().collect()
    }

    fn target(&mut self, item: &Value, at: &str, list: &str) -> Option<NamedTarget> {
        let fields = self.object(item, at, &["group", "all", "filter", "exclude"])?;
        let filter = fields.get("filter").map(|filter| self.filter(filter, &format!("{at}/filter")));
        if filter.is_some() && list == "remove" {
            self.note(&format!("{at}/filter"), "is not allowed here: a target is removed whatever its filter");
        }
        let excluded = match fields.get("exclude") {
            None => false,
            Some(Value::Bool(excluded)) => *excluded,
            Some(other) => {
                self.note(&format!("{at}/exclude"), format!("must be true or false, not {}", kind_of(other)));
                false
            }
        };
        let target = match self.target_ref(fields, at)? {
            TargetRef::Group(group) if excluded => TargetRef::ExcludedGroup(group),
            TargetRef::AllDevices | TargetRef::AllUsers if excluded => {
                self.note(&format!("{at}/exclude"), "only groups can be excluded");
                return None;
            }
            target @ (TargetRef::Group(_)
            | TargetRef::ExcludedGroup(_)
            | TargetRef::AllDevices
            | TargetRef::AllUsers) => target,
        };
        Some(NamedTarget { target, filter: filter.map_or(Some(None), |filter| filter.map(Some))? })
    }

    fn target_ref(&mut self, fields: &Map<String, Value>, at: &str) -> Option<TargetRef> {
        match (fields.get("group"), fields.get("all")) {
            (Some(_), None) => self.text(fields, at, "group", NAME_MAX).map(TargetRef::Group),
            (None, Some(Value::String(all))) if all == "devices" => Some(TargetRef::AllDevices),
            (None, Some(Value::String(all))) if all == "users" => Some(TargetRef::AllUsers),
            (None, Some(_)) => {
                self.note(&format!("{at}/all"), "must be \"devices\" or \"users\"");
                None
            }
            (None, None) => {
                self.note(
                    at,
                    "names no target: give {\"group\": \"…\"} or {\"all\": \"devices\"} or {\"all\": \"users\"}",
                );
                None
            }
            (Some(_), Some(_)) => {
                self.note(at, "has both group and all: give one of them");
                None
            }
        }
    }

    fn filter(&mut self, filter: &Value, at: &str) -> Option<NamedFilter> {
        let fields = self.object(filter, at, &["id", "name", "mode"])?;
        let (id, name) = (self.text(fields, at, "id", NAME_MAX), self.text(fields, at, "name", NAME_MAX));
        if fields.contains_key("id") == fields.contains_key("name") {
            self.note(at, "must have either id or name");
        }
        let mode = fields.get("mode").and_then(Value::as_str).and_then(FilterMode::named);
        if mode.is_none() {
            self.note(&format!("{at}/mode"), "must be \"include\" or \"exclude\"");
        }
        Some(NamedFilter { reference: id.or(name)?, mode: mode? })
    }

    /// An object, with its unknown fields noted.
    fn object<'a>(&mut self, value: &'a Value, at: &str, known: &[&str]) -> Option<&'a Map<String, Value>> {
        let Value::Object(fields) = value else {
            let what = if at.is_empty() { "the body must" } else { "must" };
            self.note(at, format!("{what} be an object, not {}", kind_of(value)));
            return None;
        };
        for key in fields.keys().filter(|key| !known.contains(&key.as_str())) {
            let pointer = format!("{at}/{}", key.replace('~', "~0").replace('/', "~1"));
            self.note(&pointer, format!("is not a known field; known fields: {}", known.join(", ")));
        }
        Some(fields)
    }

    /// An optional text field.
    fn text(&mut self, fields: &Map<String, Value>, at: &str, key: &str, longest: usize) -> Option<String> {
        let at = format!("{at}/{key}");
        match fields.get(key)? {
            Value::String(text) if text.trim().is_empty() => self.note(&at, "is empty"),
            Value::String(text) if text.chars().count() > longest => {
                self.note(&at, format!("is longer than {longest} characters"));
            }
            Value::String(text)
                if text.chars().any(|letter| is_forbidden_char(letter) && !(key == "comment" && letter == '\n')) =>
            {
                self.note(&at, "contains control characters");
            }
            Value::String(text) => return Some(text.clone()),
            other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
                self.note(&at, format!("must be a string, not {}", kind_of(other)));
            }
        }
        None
    }
}

/// A timestamp with its offset. A time zone in brackets after it could contradict the offset, so it is refused.
pub(super) fn timestamp(text: &str) -> Option<Timestamp> {
    text.parse().ok().filter(|_| !text.contains('['))
}

/// Whether a character can make a text look like another one, or like several lines: control characters, line and paragraph
/// separators, and characters that change the direction of writing.
pub(super) fn is_forbidden_char(letter: char) -> bool {
    letter.is_control() || matches!(letter, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn pointers(body: &Value) -> Vec<String> {
        read(body).unwrap_err().into_iter().map(|fault| fault.pointer).collect()
    }

    #[test]
    fn all_faults_are_told_at_once_with_their_places() {
        let body = json!({
            "add": [{"group": 7}, {"grup": "x"}, {"all": "things"}, {"group": "x", "all": "users"}, "x",
                    {"group": "x", "filter": {"mode": "maybe"}}],
            "remove": [{"group": "x", "filter": {"id": "f", "mode": "include"}}],
            "ticket": "", "comment": "a\u{7}", "until": "tomorrow", "a/b~c": 1,
        });
        let mut found = pointers(&body);
        found.sort();
        let expected = [
            "/add/0/group",
            "/add/1",
            "/add/1/grup",
            "/add/2/all",
            "/add/3",
            "/add/4",
            "/add/5/filter",
            "/add/5/filter/mode",
            "/a~1b~0c",
            "/comment",
            "/configuration",
            "/remove/0/filter",
            "/ticket",
            "/until",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_change_is_either_add_and_remove_or_replace_and_not_empty() {
        assert_eq!(pointers(&json!({"configuration": "x"})), [""]);
        assert_eq!(pointers(&json!({"configuration": "x", "add": [], "replace": []})), ["/replace"]);
        assert_eq!(pointers(&json!([])), [""]);
    }

    #[test]
    fn text_fields_reject_line_breaks_and_bidi_characters() {
        for letter in ["\n", "\r", "\0", "\u{85}", "\u{2028}", "\u{202e}", "\u{2067}"] {
            let body = json!({"configuration": "x", "add": [{"all": "users"}], "ticket": format!("RITM1{letter}2")});
            assert_eq!(pointers(&body), ["/ticket"], "{letter:?}");
        }
        let body = json!({"configuration": "x", "add": [{"group": "a\nb"}], "comment": "a\u{202e}b"});
        assert_eq!(pointers(&body), ["/add/0/group", "/comment"]);
        assert!(
            read(&json!({"configuration": "a\u{e9}\u{200d}b", "add": [{"all": "users"}], "comment": "1\n2"})).is_ok()
        );
    }

    #[test]
    fn an_end_has_an_offset_and_no_time_zone_that_could_contradict_it() {
        let faults = |until: &str| {
            let body = json!({"configuration": "x", "add": [{"all": "users"}], "until": until});
            read(&body).err().map(|faults| faults.into_iter().map(|fault| fault.pointer).collect::<Vec<_>>())
        };
        for until in ["2027-12-24T18:00:00Z", "2027-12-24T19:00:00.5+01:00", "2027-12-24t18:00:00z"] {
            assert_eq!(faults(until), None, "{until}");
        }
        for until in ["2027-12-24T18:00:00", "2027-12-24T18:00:00+01:00[America/New_York]", "2027-12-24T18:00Z[UTC]"] {
            assert_eq!(faults(until), Some(vec!["/until".to_owned()]), "{until}");
        }
    }

    #[test]
    fn reported_faults_are_capped() {
        let empty = vec![json!({}); 50_000];
        assert_eq!(pointers(&json!({"configuration": "x", "add": empty})).len(), FAULTS_MAX);
    }

    #[test]
    fn a_whole_change_is_read() {
        let body = json!({
            "configuration": "Sales ESP",
            "add": [{"group": "Sales Laptops"}, {"all": "users"}, {"group": "x", "exclude": true},
                    {"all": "devices", "filter": {"name": "Corporate", "mode": "exclude"}}],
            "remove": [{"group": "y"}], "ticket": "RITM1", "requested_for": "jane", "comment": "two\nlines",
        });
        let request = read(&body).unwrap();
        assert_eq!(request.ticket.as_deref(), Some("RITM1"));
        let targets: Vec<_> = request.change.targets().map(|(.., named)| named.target.clone()).collect();
        let group = |name: &str| TargetRef::Group(name.to_owned());
        assert_eq!(
            targets,
            [
                group("Sales Laptops"),
                TargetRef::AllUsers,
                TargetRef::ExcludedGroup("x".to_owned()),
                TargetRef::AllDevices,
                group("y")
            ]
        );
    }

    fn anything() -> impl Strategy<Value = Value> {
        let word = prop_oneof![
            Just("configuration"),
            Just("add"),
            Just("remove"),
            Just("replace"),
            Just("group"),
            Just("all"),
            Just("filter"),
            Just("mode"),
            Just("include"),
            Just("id"),
            Just("exclude"),
            Just("devices"),
            Just("x"),
        ];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            word.clone().prop_map(Value::from)
        ];
        leaf.prop_recursive(4, 40, 5, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(word.clone().prop_map(str::to_owned), inner, 0..5)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_value_makes_the_reader_panic_or_refuse_without_a_reason(body in anything()) {
            if let Err(faults) = read(&body) {
                prop_assert!(!faults.is_empty());
            }
        }
    }
}
