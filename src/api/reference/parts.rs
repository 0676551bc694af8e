//! Parameters, headers and ways of proof, each described once.

use serde_json::{Map, Value, json};

use super::bodies::UNSEEMLY;
use crate::{
    api::{configurations, problem::Code, query},
    domain::State,
};

/// One digest, as `ETag` and `If-Match` write it.
const TAG: &str = r#""[0-9a-f]{64}""#;
/// The id of an operation.
const OPERATION: &str = "^op_[0-7][0-9a-hjkmnp-tv-z]{25}$";
/// An idempotency key, quoted or bare.
const KEY: &str = r#"^("[ !#-\[\]-~]{1,255}"|[!#-\[\]-~]([ !#-\[\]-~]{0,253}[!#-\[\]-~])?)$"#;

/// All parameters by the names by which calls refer to them.
pub(super) fn parameters() -> Value {
    let all = in_path().into_iter().chain(in_query()).chain(in_header());
    all.map(|(name, parameter)| (name.to_owned(), parameter)).collect::<Map<_, _>>().into()
}

type Part = (&'static str, Value);

fn parameter(place: &str, name: &str, text: &str, schema: &Value) -> Value {
    json!({"name": name, "in": place, "required": place == "path", "description": text, "schema": schema})
}

fn in_path() -> [Part; 5] {
    let part = |name, text: &str, schema: Value| parameter("path", name, text, &schema);
    let id = json!({"type": "string", "pattern": OPERATION, "examples": ["op_01m84fmd8beaevqw474vkcvq8d"]});
    let configuration = "The configuration's id, its alias in the gateway's catalogue, or its display name.";
    let group = "The group's object id, its alias in the gateway's catalogue, or its display name.";
    let named = |example: &str| json!({"type": "string", "minLength": 1, "examples": [example]});
    let codes: Vec<_> = Code::ALL.iter().map(|code| code.name()).collect();
    [
        ("id", part("id", "The operation's id.", id)),
        ("configuration-ref", part("ref", configuration, named("Sales ESP"))),
        ("group-ref", part("ref", group, named("Sales Laptops"))),
        ("source", part("source", "The name of the source in the gateway's settings.", named("servicenow"))),
        ("code", part("code", "The problem's code.", json!({"type": "string", "enum": codes}))),
    ]
}

fn in_query() -> [Part; 11] {
    let part = |name: &'static str, text: &str, schema: Value| (name, parameter("query", name, text, &schema));
    let (most, default) = (query::LIMIT_MAX, query::LIMIT_DEFAULT);
    let limit = json!({"type": "integer", "minimum": 1, "maximum": most, "default": default});
    let id = json!({"type": "string", "pattern": OPERATION});
    let search = json!({"type": "string", "maxLength": configurations::SEARCH_MAX});
    let moment = || json!({"type": "string", "format": "date-time"});
    let line = |shortest: u8| json!({"type": "string", "minLength": shortest, "pattern": format!("^[^{UNSEEMLY}]*$")});
    let cursor = "After this place in the trail: `cursor`, or what `next` of the page before has.";
    let configuration = "On the configuration of this id, alias or display name.";
    [
        part("ticket", "Of this ticket.", line(0)),
        part("configuration", configuration, line(1)),
        part("caller", "Of the caller of this configured name.", line(0)),
        part("state", "In this state.", json!({"type": "string", "enum": State::NAMES})),
        part("after", "Older than this operation: what `next` of the page before has.", id.clone()),
        part("limit", "At most so many on a page.", limit),
        ("audit-operation", parameter("query", "operation", "Of this operation.", &id)),
        part("from", "Not older than this (RFC 3339).", moment()),
        part("to", "Older than this (RFC 3339).", moment()),
        ("audit-after", parameter("query", "after", cursor, &json!({"type": "string"}))),
        part("search", "Only those whose names contain this, whatever its case.", search),
    ]
}

fn in_header() -> [Part; 6] {
    let part = |name: &'static str, text: &str, schema: Value| (name, parameter("header", name, text, &schema));
    let key = "Makes a repetition safe: the same key with the same body is the same operation, for as long as the gateway keeps \
               keys (7 days unless set otherwise). A new change needs a new key. Quoted or bare.";
    let prefer = "`wait=N` waits up to N seconds for the operation's end, within the gateway's limit; `respond-async` does not \
                  wait. Other preferences are ignored (RFC 7240).";
    let only_on = "The `ETag` of the assignments on which alone the change shall have effect; `*` is any.";
    let known = "An `ETag` that is known, or several. If the assignments are still those, the answer has no body.";
    let tag = json!({"anyOf": [{"type": "string", "pattern": format!("^{TAG}$")}, {"type": "string", "enum": ["*"]}]});
    [
        part("Idempotency-Key", key, json!({"type": "string", "pattern": KEY, "examples": ["RITM0010023-1"]})),
        part("If-Match", only_on, tag),
        part("If-None-Match", known, json!({"type": "string"})),
        part("Prefer", prefer, json!({"type": "string", "examples": ["wait=20", "respond-async"]})),
        part("WebHook-Request-Origin", "Who asks whether it may send.", json!({"type": "string"})),
        part("WebHook-Request-Rate", "How many messages a minute it would send.", json!({"type": "string"})),
    ]
}

/// All headers of answers.
pub(super) fn headers() -> Value {
    let text = |text: &str| json!({"description": text, "schema": {"type": "string"}});
    let always = |text: &str, pattern: &str| json!({"description": text, "required": true, "schema": {"type": "string", "pattern": pattern}});
    let seconds = "How many seconds to leave the gateway alone before asking again.";
    let headers = [
        ("Allow", text("The methods that the path has.")),
        ("Cache-Control", text("That the answer is for its caller only, and must be asked for anew.")),
        ("ETag", always("The present direct assignments, for `If-Match` and `If-None-Match`.", &format!("^{TAG}$"))),
        ("Idempotency-Replayed", text("`true` if an earlier call under the same key made the operation.")),
        ("Location", text("Where the operation is, if it has not ended.")),
        ("Preference-Applied", text("What of `Prefer` was heeded.")),
        ("RateLimit", text("How many calls are left to the caller (`r`) and when there are more, in seconds (`t`).")),
        ("RateLimit-Policy", text("How many calls the caller may make (`q`) in how many seconds (`w`).")),
        ("Retry-After", json!({"description": seconds, "schema": {"type": "integer", "minimum": 1}})),
        (
            "WWW-Authenticate",
            always("By what to prove oneself (RFC 6750).", "^(Bearer|Basic|Certificate|Signature) realm=\"postern\""),
        ),
        ("WebHook-Allowed-Origin", text("Whose events are taken.")),
        ("WebHook-Allowed-Rate", text("How many messages a minute are taken.")),
    ];
    headers.map(|(name, header)| (name.to_owned(), header)).into_iter().collect::<Map<_, _>>().into()
}

/// How callers prove themselves.
pub(super) fn proofs() -> Value {
    json!({"token": {
        "type": "http", "scheme": "bearer", "bearerFormat": "JWT",
        "description": "A token of one of the issuers that the gateway's settings name, made out for the gateway. With the \
                        sandbox: `postern token --caller servicenow`.",
    }})
}
