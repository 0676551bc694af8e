//! Parameters, headers and security schemes, each described once.

use serde_json::{Map, Value, json};

use super::bodies::UNSEEMLY;
use crate::{
    api::{configurations, problem::Code, query},
    domain::State,
};

/// The digest of a set, and perhaps that of all that is shown with it, as `ETag` and `If-Match` write them.
const TAG: &str = r#""[0-9a-f]{64}(\.[0-9a-f]{64})?""#;
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
    let cursor = "Only records after this place in the trail: the `cursor` of an earlier page.";
    let configuration = "Only operations on the configuration with this id, alias or display name.";
    [
        part("ticket", "Only those with this ticket.", line(0)),
        part("configuration", configuration, line(1)),
        part("caller", "Only those of the caller with this configured name.", line(0)),
        part("state", "Only operations in this state.", json!({"type": "string", "enum": State::NAMES})),
        part("after", "Only operations older than this one; `next` of the previous page contains it.", id.clone()),
        part("limit", "The maximum number of entries per page.", limit),
        ("audit-operation", parameter("query", "operation", "Only records of this operation.", &id)),
        part("from", "Only records of this time or later (RFC 3339).", moment()),
        part("to", "Only records before this time (RFC 3339).", moment()),
        ("audit-after", parameter("query", "after", cursor, &json!({"type": "string"}))),
        part("search", "Only configurations whose names contain this, ignoring case.", search),
    ]
}

fn in_header() -> [Part; 6] {
    let part = |name: &'static str, text: &str, schema: Value| (name, parameter("header", name, text, &schema));
    let key = "Makes retries safe: the same key with the same body returns the same operation, for as long as the gateway \
               keeps keys (7 days by default). A new change needs a new key. With or without quotes.";
    let prefer = "`wait=N` waits up to N seconds for the operation to end, within the gateway's limit; `respond-async` does not \
                  wait. Other preferences are ignored (RFC 7240).";
    let only_on = "Applies the change only to the set of direct assignments that this `ETag` identifies by its first part; \
                   `*` matches any.";
    let known = "One or more known `ETag`s. If the response would still have one of them, it is 304 without a body.";
    let tag = json!({"anyOf": [{"type": "string", "pattern": format!("^{TAG}$")}, {"type": "string", "enum": ["*"]}]});
    [
        part("Idempotency-Key", key, json!({"type": "string", "pattern": KEY, "examples": ["RITM0010023-1"]})),
        part("If-Match", only_on, tag),
        part("If-None-Match", known, json!({"type": "string"})),
        part("Prefer", prefer, json!({"type": "string", "examples": ["wait=20", "respond-async"]})),
        part("WebHook-Request-Origin", "The origin that asks whether it may send events.", json!({"type": "string"})),
        part("WebHook-Request-Rate", "How many messages per minute it would send.", json!({"type": "string"})),
    ]
}

/// All headers of responses.
pub(super) fn headers() -> Value {
    let text = |text: &str| json!({"description": text, "schema": {"type": "string"}});
    let always = |text: &str, pattern: &str| json!({"description": text, "required": true, "schema": {"type": "string", "pattern": pattern}});
    let seconds = "How many seconds to wait before trying again; 60 or more while an operation is `awaiting_approval`.";
    let headers = [
        ("Allow", text("The methods that the path supports.")),
        (
            "Cache-Control",
            text("The response is for its caller only, and must be revalidated before it is used again."),
        ),
        (
            "ETag",
            always(
                "Identifies the present direct assignments, for `If-Match`. Reading them adds a second part for what else the \
                 response shows, for `If-None-Match`.",
                &format!("^{TAG}$"),
            ),
        ),
        ("Idempotency-Replayed", text("`true` if an earlier request with the same key created the operation.")),
        ("Location", text("The path of the operation, if it has not ended.")),
        ("Preference-Applied", text("The part of `Prefer` that was applied.")),
        ("RateLimit", text("How many calls the caller has left (`r`), and in how many seconds there are more (`t`).")),
        ("RateLimit-Policy", text("How many calls the caller may make (`q`) in how many seconds (`w`).")),
        ("Retry-After", json!({"description": seconds, "schema": {"type": "integer", "minimum": 1}})),
        (
            "WWW-Authenticate",
            always("How to authenticate (RFC 6750).", "^(Bearer|Basic|Certificate|Signature) realm=\"postern\""),
        ),
        ("WebHook-Allowed-Origin", text("The origin whose events are accepted.")),
        ("WebHook-Allowed-Rate", text("How many messages per minute are accepted.")),
    ];
    headers.map(|(name, header)| (name.to_owned(), header)).into_iter().collect::<Map<_, _>>().into()
}

/// How callers authenticate.
pub(super) fn proofs() -> Value {
    json!({"token": {
        "type": "http", "scheme": "bearer", "bearerFormat": "JWT",
        "description": "A token for the gateway, issued by one of the issuers in its settings. With the sandbox: \
                        `postern token --caller servicenow`.",
    }})
}
