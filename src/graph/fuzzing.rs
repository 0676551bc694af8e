//! What must hold for any bytes that Graph answers with.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{CurrentAssignments, model};
use crate::{canonical, domain::ConfigurationId};

/// The fields of a target that this version knows; all others are kept as they came.
const KNOWN: [&str; 4] = [
    "@odata.type",
    "groupId",
    "deviceAndAppManagementAssignmentFilterId",
    "deviceAndAppManagementAssignmentFilterType",
];

/// No answer makes a reader panic; what is kept of an error is short; and a set that is written back reads as the same
/// set, with every unknown field.
pub(crate) fn answers(input: &[u8]) {
    let id: Option<ConfigurationId> = "9f1c6a4e-8a77-4b8e-9d6e-3a54b2f1c0aa_Limit".parse().ok();
    if let Some(id) = id
        && let Ok(found) = model::configuration(&id, input)
    {
        assert!(found.id.as_str().eq_ignore_ascii_case(id.as_str()));
    }
    drop(model::configurations(input));
    drop(model::first_name(input));
    drop(model::groups(input));
    drop(model::filters(input));
    let refusal = model::refusal(400, None, input);
    assert!(refusal.code.len() <= 100 && refusal.message.len() <= 1_000);
    if let Ok(Ok(present)) = model::assignments(input).map(|page| model::present(page.value)) {
        written_back(input, &present);
    }
}

fn written_back(input: &[u8], present: &CurrentAssignments) {
    let posted = model::assign_body(&present.direct);
    let posted: Value = posted.ok().and_then(|body| serde_json::from_slice(&body).ok()).unwrap_or_default();
    let rows = posted.get("enrollmentConfigurationAssignments").cloned().unwrap_or_default();
    let again = json!({ "value": rows }).to_string();
    let again = model::assignments(again.as_bytes()).and_then(|page| model::present(page.value)).ok();
    assert_eq!(again.as_ref().map(|again| &again.direct), Some(&present.direct), "written back, the set is another");
    // Parts that the model does not read need not even be text.
    let Ok(before) = serde_json::from_slice::<Value>(input) else { return };
    assert_eq!(unknown(&before), unknown(&json!({ "value": rows })), "unknown fields were lost or altered");
}

/// The unknown fields of each target that came from no policy set, by their canonical text.
fn unknown(page: &Value) -> BTreeMap<String, Map<String, Value>> {
    let rows = page.get("value").and_then(Value::as_array).into_iter().flatten();
    let direct = rows.filter(|row| row.get("source").and_then(Value::as_str).is_none_or(|source| source == "direct"));
    let mut found = BTreeMap::new();
    for target in direct.filter_map(|row| row.get("target")?.as_object()) {
        let mut fields = target.clone();
        fields.retain(|name, _| !KNOWN.contains(&name.as_str()));
        found.insert(canonical::text(&Value::Object(fields.clone())), fields);
    }
    found
}
