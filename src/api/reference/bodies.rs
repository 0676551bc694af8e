//! The schemas of what callers send: in JSON Schema what [`crate::api::change`] checks by hand, with the same limits.
//!
//! The black-box tests hold the two together: what is accepted must fit the schema, and what is refused as badly formed
//! must not.

use serde_json::{Map, Value, json};

use super::with;
use crate::api::change::{COMMENT_MAX, CONTEXT_MAX, NAME_MAX, TICKET_MAX, URL_MAX};

/// What makes a text look like another, or like several lines.
pub(super) const UNSEEMLY: &str = r"\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069";
/// The same, but for the end of a line.
const UNSEEMLY_BUT_LINES: &str = r"\u0000-\u0009\u000b-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069";

/// A text that is not empty and holds none of these letters.
fn without(letters: &str, longest: usize, what: &str) -> Value {
    let pattern = format!(r"^[^{letters}]*[^\s{letters}][^{letters}]*$");
    json!({"type": "string", "minLength": 1, "maxLength": longest, "pattern": pattern, "description": what})
}

/// One line of text.
fn line(longest: usize, what: &str) -> Value {
    without(UNSEEMLY, longest, what)
}

/// What goes with any change: for people, and for their systems.
fn remarks() -> [(&'static str, Value); 4] {
    [
        ("callback", json!({"$ref": "#/components/schemas/CallbackRequest"})),
        (
            "ticket",
            line(TICKET_MAX, "The ticket. It goes to the operation and to the audit trail, as the next two do."),
        ),
        ("requested_for", line(NAME_MAX, "The person for whom it is asked.")),
        ("comment", without(UNSEEMLY_BUT_LINES, COMMENT_MAX, "Anything else; may have several lines.")),
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

/// Adds `if`, `then` and `else`, which generators of clients pass over, unlike `oneOf`.
fn either(schema: Value, when: Value, then: Value, otherwise: Value) -> Value {
    with(with(with(schema, "if", when), "then", then), "else", otherwise)
}

fn list(of: &str, what: &str) -> Value {
    json!({"type": "array", "items": {"$ref": format!("#/components/schemas/{of}")}, "description": what})
}

fn change() -> Value {
    let until = "When what the change does is to be undone (RFC 3339). At most five years ahead.";
    let fields = [
        ("configuration", line(NAME_MAX, "Id, alias or display name of the configuration.")),
        ("add", list("Target", "Targets to add. One that is there with another filter is changed.")),
        ("remove", list("RemovedTarget", "Targets to remove, whatever their filter.")),
        ("replace", list("Target", "The whole wanted set, instead of `add` and `remove`. An empty list clears it.")),
        ("until", json!({"type": "string", "format": "date-time", "description": until})),
    ];
    let what = "A change of what one configuration is assigned to: `add` and/or `remove`, or `replace`.";
    let beside = json!({"not": {"anyOf": [{"required": ["add"]}, {"required": ["remove"]}]}});
    let some = |list: &str| json!({"required": [list], "properties": {list: {"minItems": 1}}});
    let change = object(what, &["configuration"], fields.into_iter().chain(remarks()));
    either(change, json!({"required": ["replace"]}), beside, json!({"anyOf": [some("add"), some("remove")]}))
}

/// The ways to say whom a target reaches.
fn whom() -> [(&'static str, Value); 3] {
    let exclude =
        "Leave the group out. No enrollment configuration takes it, since Graph would store it as an inclusion.";
    [
        ("group", line(NAME_MAX, "Object id, alias or display name of a group.")),
        (
            "all",
            json!({"type": "string", "enum": ["devices", "users"], "description": "Everyone, instead of a group."}),
        ),
        ("exclude", json!({"type": "boolean", "description": exclude})),
    ]
}

fn group_or_all(target: Value) -> Value {
    let all = json!({"required": ["all"], "properties": {"exclude": {"const": false}}});
    either(target, json!({"required": ["group"]}), json!({"not": {"required": ["all"]}}), all)
}

fn target() -> Value {
    let filter = json!({"$ref": "#/components/schemas/Filter"});
    let what = "Whom an assignment shall reach: a `group`, or `all` of a sort.";
    group_or_all(object(what, &[], whom().into_iter().chain([("filter", filter)])))
}

fn removed_target() -> Value {
    group_or_all(object("Whom an assignment shall no longer reach: a `group`, or `all` of a sort.", &[], whom()))
}

fn filter() -> Value {
    let mode = "Whether those that it matches are meant, or all others.";
    let fields = [
        ("id", line(NAME_MAX, "The id of an assignment filter.")),
        ("name", line(NAME_MAX, "The display name of an assignment filter, instead of its id.")),
        ("mode", json!({"type": "string", "enum": ["include", "exclude"], "description": mode})),
    ];
    let filter = object("What narrows a target: an assignment filter, by `id` or by `name`.", &["mode"], fields);
    either(filter, json!({"required": ["id"]}), json!({"not": {"required": ["name"]}}), json!({"required": ["name"]}))
}

fn revert() -> Value {
    let what = "What goes with the undoing of an operation. `ticket` and `requested_for` are those of the operation unless given.";
    object(what, &[], remarks())
}

fn word() -> Value {
    let comment = without(UNSEEMLY_BUT_LINES, COMMENT_MAX, "The reason; may have several lines.");
    object("What goes with an approval or a rejection.", &[], [("comment", comment)])
}

fn callback() -> Value {
    let back = format!("What is sent back with the message, as it is: {CONTEXT_MAX} bytes of JSON at most.");
    let url =
        line(URL_MAX, "Where to, within what the gateway's settings allow the caller; left out, it is as they say.");
    let fields = [("url", url), ("context", json!({"description": back}))];
    object("Has the end of the operation told to a system of the caller's, by a signed message.", &[], fields)
}
