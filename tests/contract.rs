//! Tests of the contract that calls to Graph are checked against: it must match an extract of Microsoft's `OpenAPI`
//! document where one is available, and find fault with wrong calls.
//!
//! The extract is expected in `shared/graph-contract/`, next to this checkout or further up. It is not part of this
//! project; without it the test says so, and passes.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test that cannot go on ends")]

use std::{collections::BTreeSet, fs, path::Path};

use contract::{Contract, Ours, faults};
use serde_json::{Value, json};

#[path = "support/contract.rs"]
mod contract;

const PREFIX: &str = "microsoft.graph.";

/// Microsoft's document of one version, if available.
fn extract(version: &str) -> Option<Value> {
    let file = format!("shared/graph-contract/openapi-{version}.json");
    let above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().skip(1);
    let found = above.map(|folder| folder.join(&file)).find(|path| path.exists())?;
    Some(serde_json::from_str(&fs::read_to_string(found).unwrap()).unwrap())
}

/// The facts in our table, one per line.
fn ours(contract: &Contract) -> BTreeSet<String> {
    let mut facts = BTreeSet::new();
    for call in
        contract.calls.iter().filter(|call| !contract.outside.contains(&format!("{} {}", call.method, call.path)))
    {
        let mut options = call.options.clone();
        options.sort_unstable();
        let takes = call.takes.as_deref().unwrap_or("nothing");
        facts.insert(format!("{} {} {options:?} takes {takes} gives {}", call.method, call.path, call.gives));
    }
    for (name, members) in contract.enums.iter().filter(|(name, _)| !contract.outside.contains(*name)) {
        facts.insert(format!("{name} {} {:?}", members.flags, members.names));
    }
    for (name, of) in contract.types.iter().filter(|(name, _)| !contract.outside.contains(*name)) {
        facts.insert(format!("{name} : {:?}", of.base));
        facts.extend(of.properties.iter().map(|(property, kind)| format!("{name}.{property} {kind}")));
    }
    facts
}

/// The facts in Microsoft's document, in the same form.
fn theirs(document: &Value) -> BTreeSet<String> {
    let mut facts = BTreeSet::new();
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        let name = name.trim_start_matches(PREFIX);
        if name.ends_with("CollectionResponse") || name.ends_with("CountResponse") {
            continue;
        }
        if let Some(members) = schema["enum"].as_array() {
            let members: Vec<_> = members.iter().map(|member| member.as_str().unwrap()).collect();
            let flags = if schema["x-ms-enum-flags"].is_null() { "" } else { "of flags" };
            facts.insert(format!("{name} {flags} {members:?}"));
            continue;
        }
        let (base, own) = match schema["allOf"].as_array() {
            Some(parts) => (Some(reference(&parts[0])), &parts[1]),
            None => (None, schema),
        };
        facts.insert(format!("{name} : {base:?}"));
        facts.extend(properties(name, own));
    }
    for (path, methods) in document["paths"].as_object().unwrap() {
        let plain: Vec<_> = path.split('/').map(|part| if part.starts_with('{') { "{id}" } else { part }).collect();
        for (method, call) in methods.as_object().unwrap().iter().filter(|(_, call)| call["responses"].is_object()) {
            facts.extend(described(document, &method.to_uppercase(), &plain.join("/"), call));
        }
    }
    facts
}

/// The facts about one call, including its own parameters.
fn described(document: &Value, method: &str, path: &str, call: &Value) -> Vec<String> {
    let mut facts = Vec::new();
    let parameters = call["parameters"].as_array().cloned().unwrap_or_default();
    let resolved = parameters.iter().map(|it| match it["$ref"].as_str() {
        Some(name) => &document["components"]["parameters"][name.rsplit('/').next().unwrap()],
        None => it,
    });
    let query = resolved.filter(|it| it["in"] == "query");
    let mut options: Vec<_> = query.map(|it| it["name"].as_str().unwrap().to_owned()).collect();
    options.sort_unstable();
    let content = |holder: &Value| holder["content"]["application/json"]["schema"].clone();
    let body = content(&call["requestBody"]);
    let takes = match (&body["$ref"], &body["properties"]) {
        (Value::String(_), _) => reference(&body),
        (_, Value::Object(_)) => {
            let name = format!("{}Parameters", path.rsplit('/').next().unwrap());
            facts.push(format!("{name} : None"));
            facts.extend(properties(&name, &body));
            name
        }
        _ => "nothing".to_owned(),
    };
    let answer = &call["responses"]["2XX"];
    let gives = match (answer["$ref"].as_str(), answer.is_null()) {
        (Some(list), _) => format!("[{}]", name_of(list).trim_end_matches("CollectionResponse")),
        (None, false) => reference(&content(answer)),
        (None, true) => "nothing".to_owned(),
    };
    facts.push(format!("{method} {path} {options:?} takes {takes} gives {gives}"));
    facts
}

fn properties(of: &str, schema: &Value) -> Vec<String> {
    let own = schema["properties"].as_object().cloned().unwrap_or_default();
    let own = own.iter().filter(|(name, _)| *name != "@odata.type");
    let required = schema["required"].as_array().cloned().unwrap_or_default();
    let mark = |name: &str| if required.iter().any(|it| it == name) { "!" } else { "" };
    own.map(|(name, schema)| format!("{of}.{name} {}{}", kind(schema), mark(name))).collect()
}

fn kind(schema: &Value) -> String {
    let nullable = if schema["nullable"] == true { "?" } else { "" };
    if schema["$ref"].is_string() {
        return reference(schema);
    }
    if let Some(either) = schema["anyOf"].as_array() {
        assert!(either.len() == 2 && either[1]["nullable"] == true, "{schema}");
        return format!("{}?", reference(&either[0]));
    }
    let word = match (schema["type"].as_str().unwrap(), schema["format"].as_str()) {
        ("array", _) => format!("[{}]", kind(&schema["items"])),
        ("number" | "integer", Some(format)) => format.to_owned(),
        ("string", Some("date-time")) => "date".to_owned(),
        ("string", Some("uuid")) => "guid".to_owned(),
        ("string" | "boolean", None) => schema["type"].as_str().unwrap().to_owned(),
        other => panic!("{other:?} in {schema}"),
    };
    word + nullable
}

fn reference(schema: &Value) -> String {
    name_of(schema["$ref"].as_str().unwrap_or_else(|| panic!("no reference: {schema}")))
}

fn name_of(reference: &str) -> String {
    reference.rsplit('/').next().unwrap().trim_start_matches(PREFIX).to_owned()
}

#[test]
fn the_table_says_what_microsofts_openapi_says() {
    for version in ["beta", "v1.0"] {
        let Some(document) = extract(version) else {
            eprintln!("no extract of Microsoft's OpenAPI at hand: {version} is not compared");
            continue;
        };
        let (ours, theirs) = (ours(&Contract::of(version)), theirs(&document));
        let only_ours: Vec<_> = ours.difference(&theirs).collect();
        let only_theirs: Vec<_> = theirs.difference(&ours).collect();
        assert!(
            only_ours.is_empty() && only_theirs.is_empty(),
            "{version}\nonly in our table: {only_ours:#?}\nonly in Microsoft's document: {only_theirs:#?}"
        );
        assert!(theirs.len() > 100, "{version}: {} facts are too few to be all", theirs.len());
    }
}

/// A valid `assign` call with its target changed.
fn assign(version: &str, change: impl FnOnce(&mut Value)) -> Value {
    let target = json!({"@odata.type": "#microsoft.graph.groupAssignmentTarget",
        "groupId": "b0000000-0000-4000-8000-000000000001"});
    let row = json!({"@odata.type": "#microsoft.graph.enrollmentConfigurationAssignment", "target": target});
    let mut call = json!({
        "method": "POST", "path": format!("/{version}/deviceManagement/deviceEnrollmentConfigurations/a_Limit/assign"),
        "query": "", "status": 204, "answer": null, "fault": null, "client-request-id": "1", "user_agent": "postern/1",
        "prefer": "include-unknown-enum-members",
        "request": {"enrollmentConfigurationAssignments": [row]},
    });
    change(&mut call);
    call
}

#[test]
fn a_right_assign_has_no_faults_and_each_wrong_one_has() {
    assert_eq!(faults(&assign("beta", |_| ()), Ours::Yes), Vec::<String>::new());
    assert_eq!(faults(&assign("v1.0", |_| ()), Ours::Yes), Vec::<String>::new());
    let target = |call: &mut Value, field: &str, value: Value| {
        call["request"]["enrollmentConfigurationAssignments"][0]["target"][field] = value;
    };
    let filter = "deviceAndAppManagementAssignmentFilterType";
    for wrong in [
        assign("beta", |call| target(call, "zzz", json!(1))),
        assign("beta", |call| target(call, "collectionId", json!("C"))),
        assign("beta", |call| target(call, "groupId", json!(7))),
        assign("beta", |call| target(call, filter, json!("sometimes"))),
        assign("beta", |call| target(call, "@odata.type", Value::Null)),
        assign("beta", |call| target(call, "@odata.type", json!("#microsoft.graph.userTarget"))),
        assign("beta", |call| target(call, "@odata.type", json!("microsoft.graph.groupAssignmentTarget"))),
        assign("beta", |call| {
            target(call, "@odata.type", json!("#microsoft.graph.deviceAndAppManagementAssignmentTarget"));
        }),
        assign("v1.0", |call| target(call, filter, json!("include"))),
        assign("beta", |call| call["request"] = json!({"assignments": []})),
        assign("beta", |call| call["request"] = json!({"enrollmentConfigurationAssignments": null})),
        assign("beta", |call| call["request"] = json!({"enrollmentConfigurationAssignments": [{"target": {}}]})),
        assign("beta", |call| call["request"] = Value::Null),
        assign("beta", |call| call["prefer"] = Value::Null),
        assign("beta", |call| call["query"] = json!("$top=1")),
        assign("beta", |call| {
            call["path"] = json!("/beta/deviceManagement/deviceEnrollmentConfiguration/a_Limit/assign");
        }),
        assign("beta", |call| call["status"] = json!(302)),
    ] {
        assert!(!faults(&wrong, Ours::Yes).is_empty(), "{wrong}");
    }
}

#[test]
fn answers_are_judged_by_the_type_they_name_and_captured_errors_pass() {
    let answered = |path: &str, status: u16, answer: Value| {
        let path = format!("/beta/deviceManagement/deviceEnrollmentConfigurations{path}");
        let call =
            json!({"method": "GET", "path": path, "query": "", "status": status, "answer": answer, "fault": null});
        faults(&call, Ours::No)
    };
    let nobody = Vec::<String>::new();
    let limit = |field: &str, value: Value| {
        let mut row = json!({"@odata.type": "#microsoft.graph.deviceEnrollmentLimitConfiguration", "id": "a_Limit",
            "displayName": null, "createdDateTime": "0001-01-01T00:00:00Z", "limit": 5});
        row[field] = value;
        row
    };
    assert_eq!(answered("/a_Limit", 200, limit("priority", json!(1))), nobody);
    for (field, value) in [("platformType", json!("ios")), ("limit", json!("5")), ("priority", Value::Null)] {
        assert_eq!(answered("/a_Limit", 200, limit(field, value)).len(), 1, "{field}");
    }
    let error = json!({"error": {"code": "Forbidden", "message": "no",
        "innererror": {"date": "2025-01-22T19:17:04", "request-id": "1", "client-request-id": "2"}}});
    assert_eq!(answered("/a_Limit", 403, error), nobody);
    assert_eq!(answered("/a_Limit", 503, json!("<html>")), nobody);
    for wrong in [json!({"error": {"code": 403, "message": "no"}}), json!({"fault": "no"}), json!([])] {
        assert!(!answered("/a_Limit", 403, wrong).is_empty());
    }
    let page = |row: Value| json!({"@odata.context": "c", "value": [row]});
    let target = json!({"@odata.type": "#microsoft.graph.allDevicesAssignmentTarget"});
    assert_eq!(
        answered("/a_Limit/assignments", 200, page(json!({"id": "1", "source": "direct", "target": target}))),
        nobody
    );
    assert!(!answered("/a_Limit/assignments", 200, page(json!({"id": "1", "target": {"groupId": "1"}}))).is_empty());
    assert!(!answered("/a_Limit/assignments", 200, json!({"value": null})).is_empty());
    assert!(!answered("/a_Limit", 404, json!({"error": {"code": "x"}})).is_empty());
}
