//! Request schemas: in JSON Schema what [`crate::api::change`] checks by hand, with the same limits.
//!
//! The black-box tests check that the two agree: what is accepted must fit the schema, and what is refused as malformed must
//! not.

use serde_json::{Map, Value, json};

use super::with;
use crate::api::change::{COMMENT_MAX, CONTEXT_MAX, NAME_MAX, TICKET_MAX, URL_MAX};

/// Characters that can make a text look like another, or like several lines.
pub(super) const UNSEEMLY: &str = r"\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069";
/// The same, except the line feed.
const UNSEEMLY_BUT_LINES: &str = r"\u0000-\u0009\u000b-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069";

/// A text that is not empty and contains none of these characters.
fn without(letters: &str, longest: usize, what: &str) -> Value {
    let pattern = format!(r"^[^{letters}]*[^\s{letters}][^{letters}]*$");
    json!({"type": "string", "minLength": 1, "maxLength": longest, "pattern": pattern, "description": what})
}

/// One line of text.
fn line(longest: usize, what: &str) -> Value {
    without(UNSEEMLY, longest, what)
}

/// The fields that accompany any change: for people, and for their systems.
fn remarks() -> [(&'static str, Value); 4] {
    [
        ("callback", json!({"$ref": "#/components/schemas/CallbackRequest"})),
        ("ticket", line(TICKET_MAX, "The ticket. It is kept with the operation and in the audit trail.")),
        ("requested_for", line(NAME_MAX, "The person for whom the change is requested; kept like the ticket.")),
        ("comment", without(UNSEEMLY_BUT_LINES, COMMENT_MAX, "A comment, of one or more lines; kept like the ticket.")),
    ]
}

/// All schemas of bodies, by name.
pub(super) fn all() -> Map<String, Value> {
    let all = [
        ("Change", change()),
        ("Target", target()),
        ("RemovedTarget", removed_target()),
        ("Filter", filter()),
        ("Revert", revert()),
        ("Word", word()),
        ("CallbackRequest", callback()),
    ];
    all.map(|(name, schema)| (name.to_owned(), schema)).into_iter().collect()
}

fn object(what: &str, required: &[&str], fields: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    let fields: Map<_, _> = fields.into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect();
    let object = json!({"type": "object", "description": what, "properties": fields, "additionalProperties": false});
    if required.is_empty() { object } else { with(object, "required", json!(required)) }
}

/// Adds `if`, `then` and `else`, which client generators ignore, unlike `oneOf`.
fn either(schema: Value, when: Value, then: Value, otherwise: Value) -> Value {
    with(with(with(schema, "if", when), "then", then), "else", otherwise)
}

fn list(of: &str, what: &str) -> Value {
    json!({"type": "array", "items": {"$ref": format!("#/components/schemas/{of}")}, "description": what})
}

fn change() -> Value {
    let until = "When what the change does is to be undone (RFC 3339); at most five years ahead.";
    let fields = [
        ("configuration", line(NAME_MAX, "Id, alias or display name of the configuration.")),
        ("add", list("Target", "Targets to add. If one is assigned with another filter, its filter is changed.")),
        ("remove", list("RemovedTarget", "Targets to remove, whatever their filter.")),
        ("replace", list("Target", "The complete wanted set, instead of `add` and `remove`; empty removes all.")),
        ("until", json!({"type": "string", "format": "date-time", "description": until})),
    ];
    let what = "A change of the assignments of one configuration: `add` and/or `remove`, or `replace`.";
    let beside = json!({"not": {"anyOf": [{"required": ["add"]}, {"required": ["remove"]}]}});
    let some = |list: &str| json!({"required": [list], "properties": {list: {"minItems": 1}}});
    let change = object(what, &["configuration"], fields.into_iter().chain(remarks()));
    either(change, json!({"required": ["replace"]}), beside, json!({"anyOf": [some("add"), some("remove")]}))
}

/// The ways to say whom a target reaches.
fn whom() -> [(&'static str, Value); 3] {
    let exclude =
        "Exclude the group. No enrollment configuration accepts that, since Graph would store it as an inclusion.";
    [
        ("group", line(NAME_MAX, "Object id, alias or display name of a group.")),
        ("all", json!({"type": "string", "enum": ["devices", "users"], "description": "All devices or all users."})),
        ("exclude", json!({"type": "boolean", "description": exclude})),
    ]
}

fn group_or_all(target: Value) -> Value {
    let all = json!({"required": ["all"], "properties": {"exclude": {"const": false}}});
    either(target, json!({"required": ["group"]}), json!({"not": {"required": ["all"]}}), all)
}

fn target() -> Value {
    let filter = json!({"$ref": "#/components/schemas/Filter"});
    let what = "Whom an assignment is to reach: a `group`, or `all` devices or users.";
    group_or_all(object(what, &[], whom().into_iter().chain([("filter", filter)])))
}

fn removed_target() -> Value {
    group_or_all(object("Whom an assignment is no longer to reach: a `group`, or `all` devices or users.", &[], whom()))
}

fn filter() -> Value {
    let mode = "Whether only the devices that it matches are included, or whether they are excluded.";
    let fields = [
        ("id", line(NAME_MAX, "The id of an assignment filter.")),
        ("name", line(NAME_MAX, "The display name of an assignment filter, instead of its id.")),
        ("mode", json!({"type": "string", "enum": ["include", "exclude"], "description": mode})),
    ];
    let filter = object("An assignment filter that narrows a target, by `id` or by `name`.", &["mode"], fields);
    either(filter, json!({"required": ["id"]}), json!({"not": {"required": ["name"]}}), json!({"required": ["name"]}))
}

fn revert() -> Value {
    let what = "Details of a reversal, all optional. `ticket` and `requested_for` default to those of the operation.";
    object(what, &[], remarks())
}

fn word() -> Value {
    let comment = without(UNSEEMLY_BUT_LINES, COMMENT_MAX, "The reason; may have several lines.");
    object("Details of an approval or a rejection.", &[], [("comment", comment)])
}

fn callback() -> Value {
    let back = format!("JSON that is sent back unchanged with the message: at most {CONTEXT_MAX} bytes.");
    let url = line(URL_MAX, "Where to send the message, as the gateway's settings allow; by default, where they say.");
    let fields = [("url", url), ("context", json!({"description": back}))];
    object("Requests a signed message to the caller's system when the operation ends.", &[], fields)
}
