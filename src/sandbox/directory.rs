//! Groups of the directory and assignment filters of Intune, read only.
//!
//! Groups are found by id, by several ids at once, or by name, in those forms of `$filter` that need no extra header. What
//! the directory would refuse, or the sandbox does not support, is refused with 400.
//!
//! It deliberately has no members, no `$search` and no writes. Called by `graph.rs`.

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::errors::{Refusal, no_route};
use super::graph::Visit;
use super::odata::{Clause, Query, Test, unsupported};
use super::seed::Group;
use super::targets::Version;
use super::wire::Response;

/// `GET /{version}/groups` and below.
pub(crate) fn groups(visit: Visit<'_>, path: &[&str]) -> Result<Response, Refusal> {
    visit.rights.groups()?;
    match path {
        [] => listed(visit),
        [id] => one(visit, id),
        _ => Err(no_route(visit.call)),
    }
}

fn one(visit: Visit<'_>, id: &str) -> Result<Response, Refusal> {
    let query = Query::of(visit.call, &["$select"])?;
    if Uuid::try_parse(id).is_err() {
        return Err(Refusal::graph(400, "Request_BadRequest", format!("Invalid object identifier '{id}'.")));
    }
    let group = visit.state.tenant.group(id).ok_or_else(|| {
        let message =
            format!("Resource '{id}' does not exist or one of its queried reference-property objects are not present.");
        Refusal::graph(404, "Request_ResourceNotFound", message)
    })?;
    let mut row = fields(json!(group));
    row.insert("@odata.context".to_owned(), json!(context(visit, "groups/$entity")));
    Ok(Response::json(200, query.selected(row)))
}

/// Groups per page without `$top`, as in the directory.
const PAGE: usize = 100;
/// The number of values that `in` accepts, as in the directory.
const VALUES_MAX: usize = 15;

fn listed(visit: Visit<'_>) -> Result<Response, Refusal> {
    let query = Query::of(visit.call, &["$filter", "$select", "$top", "$skiptoken"])?;
    let mut rows = Vec::new();
    for group in &visit.state.tenant.groups {
        if passes(query.clause.as_ref(), group)? {
            rows.push(query.selected(fields(json!(group))));
        }
    }
    let mut page = query.page(rows, Some(PAGE), &visit.state.url, visit.call);
    page.insert("@odata.context".to_owned(), json!(context(visit, "groups")));
    Ok(Response::json(200, Value::Object(page)))
}

fn passes(clause: Option<&Clause>, group: &Group) -> Result<bool, Refusal> {
    let Some(clause) = clause else { return Ok(true) };
    match (clause.field.as_str(), clause.test) {
        (_, Test::OneOf) if clause.values.len() > VALUES_MAX => {
            let message =
                format!("Too many child clauses specified in search filter expression: more than {VALUES_MAX}.");
            Err(Refusal::graph(400, "Request_UnsupportedQuery", message))
        }
        ("id", Test::Equal | Test::OneOf) => Ok(clause.passes(&group.id.to_string())),
        ("displayName", Test::Equal | Test::StartsWith) => Ok(clause.passes(&group.display_name)),
        (field, _) => {
            Err(unsupported(format!("Unsupported or invalid query filter clause specified for property '{field}'.")))
        }
    }
}

/// `GET /beta/deviceManagement/assignmentFilters` and below.
pub(crate) fn filters(visit: Visit<'_>, path: &[&str]) -> Result<Response, Refusal> {
    visit.rights.filters()?;
    match (visit.version, path) {
        (Version::Beta, []) => {
            let query = Query::of(visit.call, &["$select", "$top", "$skiptoken"])?;
            let rows = visit.state.tenant.filters.iter().map(|filter| query.selected(fields(json!(filter)))).collect();
            Ok(Response::json(200, visit.collection(rows, &query, "assignmentFilters")))
        }
        (Version::Beta, [id]) => {
            let query = Query::of(visit.call, &["$select"])?;
            let wanted = Uuid::try_parse(id).ok();
            let found = visit.state.tenant.filters.iter().find(|filter| Some(filter.id) == wanted);
            let found = found.ok_or_else(|| Refusal::intune(404, "ResourceNotFound", "The filter was not found."))?;
            Ok(Response::json(200, query.selected(fields(json!(found)))))
        }
        _ => Err(no_route(visit.call)),
    }
}

fn context(visit: Visit<'_>, of: &str) -> String {
    let version = if visit.version == Version::Beta { "beta" } else { "v1.0" };
    format!("{}/{version}/$metadata#{of}", visit.state.url)
}

fn fields(row: Value) -> Map<String, Value> {
    if let Value::Object(fields) = row { fields } else { Map::new() }
}
