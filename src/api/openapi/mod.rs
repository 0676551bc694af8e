//! The API's document in `OpenAPI` 3.1: built from the table of calls, the catalogue of problems, the types that are returned,
//! and what bodies are checked for.
//!
//! Guarantees: it is built once and never changes while the process runs. The black-box tests check every call and every
//! response of theirs against it, so it says what the gateway does.
//!
//! It deliberately knows nothing of the framework: it is a text, which `pages` serves.

mod bodies;
mod call;
mod calls;
mod parts;
pub(super) mod schemas;

use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use self::call::{Body, Content, ENDED, EndpointSpec, Proof, ResponseSpec};
use super::problem::{Code, Problem};

/// Examples of requests and responses, by the names by which calls refer to them.
const EXAMPLES: &str = include_str!("examples.json");

/// The document.
pub fn document() -> &'static str {
    static DOCUMENT: LazyLock<String> = LazyLock::new(|| written().to_string());
    &DOCUMENT
}

fn written() -> Value {
    let schemas: Map<_, _> = bodies::all().into_iter().chain(schemas::of_answers()).collect();
    let tags = calls::TAGS.map(|(name, text)| json!({"name": name, "description": text}));
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Postern",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": env!("CARGO_PKG_DESCRIPTION"),
            "description": about(),
            "license": {"name": env!("CARGO_PKG_LICENSE")},
        },
        "servers": [{"url": "/", "description": "The gateway that serves this document."}],
        "security": [{"token": []}],
        "tags": tags,
        "paths": paths(),
        "components": {
            "schemas": schemas,
            "parameters": parts::parameters(),
            "headers": parts::headers(),
            "examples": examples(),
            "securitySchemes": parts::proofs(),
        },
    })
}

fn about() -> String {
    let codes =
        Code::ALL.iter().map(|code| format!("[`{0}`](/problems/{0})", code.name())).collect::<Vec<_>>().join(", ");
    format!(
        "A gateway in front of Microsoft Graph's Intune `assign` action. Callers request changes to the assignments of a \
         configuration; each accepted change is an operation, which is guaranteed to end.\n\nCallers authenticate with a \
         bearer token. Every failure is a problem document (RFC 9457) with a stable `code`, one sentence in `detail`, and \
         `retryable`. A path or method that does not exist is answered with the problem `not-found` (404) or \
         `method-not-allowed` (405). The codes, each with a page of its own: {codes}."
    )
}

fn paths() -> Value {
    let mut paths = Map::new();
    for call in calls::ALL {
        let methods = paths.entry(call.path).or_insert_with(|| json!({})).take();
        paths.insert(call.path.to_owned(), with(methods, call.method, described(call)));
    }
    paths.into()
}

fn described(call: &EndpointSpec) -> Value {
    let parameters: Vec<_> = call.parameters.iter().map(|name| reference("parameters", name)).collect();
    let described = json!({
        "operationId": call.id,
        "tags": [call.tag],
        "summary": call.summary,
        "description": call.text,
        "parameters": parameters,
        "responses": answers(call),
    });
    let described = match body(call) {
        Some(body) => with(described, "requestBody", body),
        None => described,
    };
    if call.proof == Proof::Token { described } else { with(described, "security", json!([])) }
}

/// An object with one more field.
fn with(mut object: Value, name: &str, field: Value) -> Value {
    if let Some(fields) = object.as_object_mut() {
        fields.insert(name.to_owned(), field);
    }
    object
}

fn reference(kind: &str, name: &str) -> Value {
    json!({"$ref": format!("#/components/{kind}/{name}")})
}

fn shown<'a>(names: impl IntoIterator<Item = &'a &'static str>) -> Map<String, Value> {
    names.into_iter().map(|name| ((*name).to_owned(), reference("examples", name))).collect()
}

fn body(call: &EndpointSpec) -> Option<Value> {
    let json = |schema: &str| json!({"application/json": {"schema": reference("schemas", schema), "examples": shown(call.examples)}});
    match call.body {
        Body::None => None,
        Body::Json(schema) => Some(json!({"required": true, "content": json(schema)})),
        Body::Optional(schema) => Some(json!({"required": false, "content": json(schema)})),
        Body::Event => {
            let any = json!({"schema": {}});
            let kinds =
                ["application/json", "application/cloudevents+json", "application/x-www-form-urlencoded", "text/plain"];
            let content: Map<_, _> = kinds.into_iter().map(|kind| (kind.to_owned(), any.clone())).collect();
            Some(json!({"required": false, "content": content}))
        }
    }
}

fn answers(call: &EndpointSpec) -> Value {
    let own = call.answers.iter().map(|answer| (answer.status.to_string(), answered(call, answer)));
    let mut answers: Map<_, _> = own.collect();
    let mut codes: Vec<_> = call.codes().collect();
    codes.sort_by_key(|code| code.status().as_u16());
    for same in codes.chunk_by(|one, next| one.status() == next.status()) {
        let status = same.first().map(|code| code.status().as_u16()).unwrap_or_default();
        answers.insert(status.to_string(), failed(call, status, same));
    }
    answers.into()
}

fn answered(call: &EndpointSpec, ResponseSpec { text, content, headers, examples, .. }: &ResponseSpec) -> Value {
    let content = match content {
        Content::None => json!({}),
        Content::Json(schema) => {
            json!({"application/json": {"schema": reference("schemas", schema), "examples": shown(*examples)}})
        }
        Content::Document => json!({"application/json": {"schema": {"type": "object"}}}),
        Content::Text => json!({"text/plain": {"schema": {"type": "string"}}}),
    };
    json!({"description": text, "headers": told(call, headers), "content": content})
}

/// The headers of a response, and those that every authenticated caller gets.
fn told(call: &EndpointSpec, own: &[&'static str]) -> Value {
    let rationed: &[&'static str] = if call.proof == Proof::None { &[] } else { &["RateLimit", "RateLimit-Policy"] };
    let all = own.iter().chain(rationed).map(|name| ((*name).to_owned(), reference("headers", name)));
    all.collect::<Map<_, _>>().into()
}

/// The response for all problems of one status, each with an example of its own.
fn failed(call: &EndpointSpec, status: u16, codes: &[Code]) -> Value {
    let names: Vec<_> = codes.iter().map(|code| code.name()).collect();
    let listed =
        codes.iter().map(|code| format!("- [`{0}`](/problems/{0}): {1}.", code.name(), code.title_and_meaning().0));
    let mut headers: Vec<&'static str> = match status {
        401 => vec!["WWW-Authenticate"],
        429 | 503 => vec!["Retry-After"],
        _ => Vec::new(),
    };
    if call.problems.contains(&&ENDED[..]) && codes.iter().any(|code| ENDED.contains(code)) {
        // It may be the end of an operation that was waited for.
        headers.extend(["Preference-Applied", "Idempotency-Replayed"]);
    }
    json!({
        "description": listed.collect::<Vec<_>>().join("\n"),
        "headers": told(call, &headers),
        "content": {"application/problem+json": {"schema": reference("schemas", "Problem"), "examples": shown(&names)}},
    })
}

/// The examples of the file, and one of each problem.
fn examples() -> Value {
    let written: Map<String, Value> = serde_json::from_str(EXAMPLES).unwrap_or_default();
    let written = written.into_iter().map(|(name, value)| (name, json!({"value": value})));
    let problem = |code: &Code| {
        let (title, meaning) = code.title_and_meaning();
        let value = Problem::new(*code, format!("{title}.")).to_value();
        let value = with(value, "trace_id", json!("0f61ed05d10aafa52bc1cdcd78044b12"));
        (code.name().to_owned(), json!({"summary": title, "description": meaning, "value": value}))
    };
    written.chain(Code::ALL.iter().map(problem)).collect::<Map<_, _>>().into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Every reference in a value.
    fn references<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str));
                fields.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    #[test]
    fn every_reference_leads_somewhere_and_every_part_is_referred_to() {
        let document = written();
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        for reference in &found {
            assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
        }
        for kind in ["schemas", "parameters", "headers", "examples"] {
            for name in document["components"][kind].as_object().unwrap().keys() {
                let referred = found.contains(format!("#/components/{kind}/{name}").as_str());
                // No call has these: they answer calls that do not exist.
                assert!(referred || ["method-not-allowed"].contains(&name.as_str()), "{kind}/{name}");
            }
        }
    }

    #[test]
    fn every_code_is_a_problem_of_some_call() {
        let told: BTreeSet<_> = calls::ALL.iter().flat_map(|call| call.codes().map(Code::name)).collect();
        let all: BTreeSet<_> = Code::ALL.iter().map(|code| code.name()).collect();
        assert_eq!(all.difference(&told).collect::<Vec<_>>(), [&"method-not-allowed"]);
    }
}
