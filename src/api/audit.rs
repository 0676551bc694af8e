//! `GET /v1/audit`.

use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    change,
    extract::{self, AuthenticatedCaller},
    problem::{Code, Problem},
    query,
};
use crate::gateway::{AuditSearch, Records, request::Fault};

/// A page of the audit trail, oldest first.
#[derive(Serialize, ToSchema)]
#[schema(as = AuditPage)]
pub(super) struct PageView {
    /// The records of this page that the caller may read, as they are in the trail.
    #[schema(value_type = Vec<Object>)]
    records: Vec<Value>,
    /// The path of the next page, if there are more records already; otherwise null.
    #[schema(required)]
    next: Option<String>,
    /// The value of `after` with which to continue later, when there are more records; null if nothing was found so far.
    #[schema(required)]
    cursor: Option<String>,
}

/// Returns records of the audit trail, oldest first.
pub(super) async fn many(
    AuthenticatedCaller(caller): AuthenticatedCaller,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let gateway = extract::gateway(&request)?;
    let asked = request.query_string();
    let search =
        search(asked).map_err(|faults| Problem::with_errors(Code::InvalidQuery, "The query is not valid", faults))?;
    let Records { texts, end, more } = gateway.records(&caller, search).await?;
    let next = end.as_ref().filter(|_| more).map(|end| query::going_on("/v1/audit", asked, end));
    // Records are canonical JSON, and what is written here keeps their form.
    let records = texts.iter().filter_map(|text| serde_json::from_str(text).ok()).collect();
    Ok(HttpResponse::Ok().json(PageView { records, next, cursor: end.map(|end| end.to_string()) }))
}

/// Reads the query; all its faults at once.
pub(super) fn search(query: &str) -> Result<AuditSearch, Vec<Fault>> {
    let mut search = AuditSearch::default();
    let mut limit = None;
    query::read(query, |key, value| match key {
        "ticket" => query::text(&mut search.ticket, value),
        "operation" => query::parsed(&mut search.operation, &value),
        "caller" => query::text(&mut search.caller, value),
        "from" => moment(&mut search.from, &value),
        "to" => moment(&mut search.to, &value),
        "after" => query::parsed(&mut search.after, &value),
        "limit" => query::limit(&mut limit, &value),
        _ => Err("is not a known parameter; known: ticket, operation, caller, from, to, after, limit".to_owned()),
    })?;
    search.limit = limit.unwrap_or(query::LIMIT_DEFAULT);
    Ok(search)
}

fn moment(place: &mut Option<jiff::Timestamp>, value: &str) -> Result<(), String> {
    let moment = change::timestamp(value).ok_or("must be a timestamp like 2026-03-01T08:00:00Z")?;
    query::once(place, moment)
}
