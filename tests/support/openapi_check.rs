//! Checks calls and responses against the API's document.
//!
//! [`faults`] runs on every call that a test makes. It is stricter than callers have to be: a response may contain nothing
//! undescribed, since an omission from the document would otherwise go unnoticed; callers must tolerate additions.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock, Mutex},
};

use jsonschema::Validator;
use reqwest::Request;
use serde_json::{Map, Value, json};

use crate::responses::Reply;

/// Transport and content headers, which need no description.
const PLAIN: [&str; 7] =
    ["connection", "content-length", "content-type", "content-encoding", "date", "vary", "transfer-encoding"];
/// Faults in a change that no schema can express: they depend on the time, the settings, or names with the same meaning.
const BEYOND_FORM: [&str; 8] = [
    "no default URL is configured",
    "is not under a destination",
    "is longer than 4096 bytes",
    "is not in the future",
    "is more than five years ahead",
    "allowed at once",
    "is named twice",
    "is to be both added and removed",
];

/// The API's document as served.
pub(crate) static DOCUMENT: LazyLock<Value> = LazyLock::new(|| serde_json::from_str(postern::api::openapi()).unwrap());
/// Its schemas, closed: no properties beyond those described.
static SCHEMAS: LazyLock<Value> = LazyLock::new(|| {
    let open = DOCUMENT["components"]["schemas"].as_object().unwrap();
    open.iter().map(|(name, schema)| (name.clone(), closed(schema, open))).collect::<Map<_, _>>().into()
});
/// Compiled validators, one per schema.
static READ: Mutex<BTreeMap<String, Arc<Validator>>> = Mutex::new(BTreeMap::new());

/// Flattens a schema's `allOf` into one schema that allows no further properties.
fn closed(schema: &Value, all: &Map<String, Value>) -> Value {
    let mut whole = schema.clone();
    for part in schema["allOf"].as_array().into_iter().flatten() {
        let part = match part["$ref"].as_str() {
            Some(reference) => &all[reference.rsplit('/').next().unwrap()],
            None => part,
        };
        let part = closed(part, all);
        for (name, field) in part["properties"].as_object().unwrap() {
            whole["properties"][name] = field.clone();
        }
        let required = part["required"].as_array().cloned().unwrap_or_default();
        let known = whole["required"].as_array().cloned().unwrap_or_default();
        whole["required"] = known.into_iter().chain(required).collect();
    }
    let fields = whole.as_object_mut().unwrap();
    fields.remove("allOf");
    if fields.contains_key("properties") {
        fields.insert("additionalProperties".to_owned(), json!(false));
    }
    whole
}

/// Violations of a schema by a value.
pub(crate) fn misfits(schema: &Value, value: &Value) -> Vec<String> {
    let known = READ.lock().unwrap().get(&schema.to_string()).cloned();
    let validator = known.unwrap_or_else(|| {
        let mut whole = schema.clone();
        whole["components"] = json!({"schemas": *SCHEMAS});
        let options = jsonschema::draft202012::options().should_validate_formats(true);
        let validator = Arc::new(options.build(&whole).unwrap_or_else(|error| panic!("{schema}: {error}")));
        READ.lock().unwrap().insert(schema.to_string(), Arc::clone(&validator));
        validator
    });
    validator.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path())).collect()
}

/// A part of the document, with a `$ref` resolved.
pub(crate) fn meant(part: &Value) -> &Value {
    match part["$ref"].as_str() {
        Some(reference) => DOCUMENT.pointer(reference.trim_start_matches('#')).unwrap(),
        None => part,
    }
}

/// Values of a path's parameters, by name.
type Places = BTreeMap<&'static str, String>;

/// A request as sent.
#[derive(Debug)]
pub(crate) struct Asked {
    method: String,
    path: String,
    query: Vec<(String, String)>,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Asked {
    /// Captures a request to the API; none if it goes elsewhere or its body cannot be read.
    pub(crate) fn of(request: &Request) -> Option<Self> {
        let url = request.url();
        if !["/v1/", "/problems/", "/openapi.json"].iter().any(|begin| url.path().starts_with(begin)) {
            return None;
        }
        let text = |value: &reqwest::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let body = request.body().map_or(Some(&[][..]), reqwest::Body::as_bytes)?;
        Some(Self {
            method: request.method().as_str().to_owned(),
            path: url.path().to_owned(),
            query: url.query_pairs().into_owned().collect(),
            headers: request.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect(),
            body: body.to_vec(),
        })
    }

    /// The documented path that this request matches, with the values of its parameters.
    fn route(&self) -> Option<(&'static Value, Places)> {
        let found: Vec<_> = self.path.split('/').collect();
        DOCUMENT["paths"].as_object().unwrap().iter().find_map(|(path, methods)| {
            let wanted: Vec<_> = path.split('/').collect();
            let places = wanted.iter().zip(&found).map(|(part, found)| match part.strip_prefix('{') {
                Some(place) if !found.is_empty() => Some(Some((place.trim_end_matches('}'), decoded(found)))),
                Some(_) => None,
                None => (*part == decoded(found)).then_some(None),
            });
            let places: Option<Vec<_>> = places.collect();
            (wanted.len() == found.len()).then_some(())?;
            Some((methods, places?.into_iter().flatten().collect()))
        })
    }
}

fn decoded(segment: &str) -> String {
    let escaped = segment.replace('+', "%2B");
    url::form_urlencoded::parse(escaped.as_bytes()).next().map(|(key, _)| key.into_owned()).unwrap_or_default()
}

/// Everything about a call and its response that the document does not allow.
pub(crate) fn faults(asked: &Asked, answer: &Reply) -> Vec<String> {
    let code = answer.body["code"].as_str().unwrap_or_default();
    let Some((methods, places)) = asked.route() else {
        return if code == "not-found" { Vec::new() } else { vec![format!("{} is not described", asked.path)] };
    };
    // HTTP methods are upper case; the document's names for them are lower case.
    let listed = asked.method.chars().all(|letter| letter.is_ascii_uppercase());
    let call = if listed { &methods[asked.method.to_lowercase()] } else { &Value::Null };
    if call.is_null() {
        // A response to HEAD, which is that to GET, has no body to inspect, and CONNECT has a host instead of a path.
        let refused = match asked.method.as_str() {
            "HEAD" => answer.status == 405 || !methods["get"].is_null(),
            "CONNECT" => code == "not-found",
            // A CORS preflight; API clients send none.
            "OPTIONS" if asked.headers.contains_key("access-control-request-method") => {
                answer.status == 204 || code == "method-not-allowed"
            }
            _ => code == "method-not-allowed",
        };
        return if refused { Vec::new() } else { vec![format!("no {} is described", asked.method)] };
    }
    let described = &call["responses"][answer.status.to_string()];
    if described.is_null() {
        return vec![format!("{} is not described", answer.status)];
    }
    let mut faults = answer_faults(described, answer);
    let body = body_faults(call, asked);
    if answer.status < 300 {
        faults.extend(parameter_faults(call, &places, asked));
        faults.extend(body);
    } else if code == "invalid-change" && body.is_empty() && !is_beyond_form(answer) {
        faults.push(format!("the schema takes what is refused: {}", answer.text));
    }
    faults
}

fn is_beyond_form(answer: &Reply) -> bool {
    let mut errors = answer.body["errors"].as_array().into_iter().flatten();
    errors.all(|error| BEYOND_FORM.iter().any(|known| error["detail"].as_str().unwrap().contains(known)))
}

fn answer_faults(described: &Value, answer: &Reply) -> Vec<String> {
    let mut faults = Vec::new();
    let kind = answer.header("content-type").split(';').next().unwrap_or_default();
    let content = &described["content"];
    match (content.as_object().is_some_and(Map::is_empty), &content[kind]) {
        (true, _) if answer.text.is_empty() => {}
        (true, _) | (false, Value::Null) => faults.push(format!("the content {kind:?} is not described")),
        (false, content) if kind.ends_with("json") => {
            faults.extend(misfits(&content["schema"], &answer.body));
            if let Some(code) = answer.body["code"].as_str()
                && content["examples"][code].is_null()
            {
                faults.push(format!("the problem {code} is not described"));
            }
        }
        (false, _) => {}
    }
    let headers = described["headers"].as_object().unwrap();
    for (name, header) in headers {
        let header = meant(header);
        match answer.headers.get(&name.to_lowercase()) {
            Some(value) => {
                let misfits = misfits(&header["schema"], &spelt(value, &header["schema"]));
                faults.extend(misfits.into_iter().map(|misfit| format!("{name}: {misfit}")));
            }
            None if header["required"] == true => faults.push(format!("{name} is missing")),
            None => {}
        }
    }
    // CORS headers come from middleware, for any call.
    let plain = |name: &str| PLAIN.contains(&name) || name.starts_with("access-control-");
    let known = |name: &str| plain(name) || headers.keys().any(|known| known.eq_ignore_ascii_case(name));
    faults.extend(answer.headers.keys().filter(|name| !known(name)).map(|name| format!("{name} is not described")));
    faults
}

/// Converts a header or parameter to the JSON type that its schema expects.
fn spelt(text: &str, schema: &Value) -> Value {
    let number = (schema["type"] == "integer").then(|| text.parse::<i64>().ok()).flatten();
    number.map_or_else(|| text.into(), Value::from)
}

fn parameter_faults(call: &Value, places: &Places, asked: &Asked) -> Vec<String> {
    let mut faults = Vec::new();
    let mut known = Vec::new();
    for parameter in call["parameters"].as_array().unwrap().iter().map(meant) {
        let name = parameter["name"].as_str().unwrap();
        let given = match parameter["in"].as_str().unwrap() {
            "path" => places.get(name),
            "query" => {
                known.push(name);
                asked.query.iter().find(|(key, _)| key == name).map(|(_, value)| value)
            }
            _ => asked.headers.get(&name.to_lowercase()),
        };
        if let Some(given) = given {
            let misfits = misfits(&parameter["schema"], &spelt(given, &parameter["schema"]));
            faults.extend(misfits.into_iter().map(|misfit| format!("{name}: {misfit}")));
        }
    }
    let unknown = asked.query.iter().filter(|(key, _)| !known.contains(&key.as_str()));
    faults.extend(unknown.map(|(key, _)| format!("the parameter {key} is not described")));
    faults
}

fn body_faults(call: &Value, asked: &Asked) -> Vec<String> {
    let body = &call["requestBody"];
    if body.is_null() {
        // A body sent although none is described is ignored.
        return Vec::new();
    }
    if asked.body.is_empty() {
        let wanted = body["required"] == true;
        return if wanted { vec!["the body is missing".to_owned()] } else { Vec::new() };
    }
    let kind = asked.headers.get("content-type").map_or("application/json", String::as_str);
    let kind = kind.split(';').next().unwrap_or_default().trim().to_lowercase();
    let schema = &body["content"][&kind]["schema"];
    if schema.is_null() {
        return vec![format!("the body {kind:?} is not described")];
    }
    misfits(schema, &serde_json::from_slice(&asked.body).unwrap_or_default())
}
