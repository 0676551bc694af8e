//! `GET` and `DELETE /v1/operations/{id}`, approving and rejecting, and `GET /v1/operations`.

use std::time::Duration;

use actix_web::{
    HttpRequest, HttpResponse,
    http::header::{HeaderMap, HeaderName, HeaderValue},
    web,
};
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    change,
    extract::{self, AuthenticatedCaller, Preference},
    operation_view::OperationView,
    problem::{self, Code, Problem},
    query,
};
use crate::{
    clock,
    domain::{OperationId, State as Fate},
    gateway::{self, FollowUps, OperationStatus, Page, Say, Search, request::Fault},
};

/// When a caller should look again.
const POLL: Duration = Duration::from_secs(2);
/// The same while a second person has to approve it first, which takes hours or days.
const POLL_APPROVAL: Duration = Duration::from_mins(1);

/// Returns one operation, after its end if the caller prefers to wait.
pub(super) async fn one(
    AuthenticatedCaller(caller): AuthenticatedCaller,
    request: HttpRequest,
    id: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let (gateway, state) = (extract::gateway(&request)?, extract::state(&request)?);
    let mut current = gateway.operation(&caller, named(&id)?).await?;
    let preference = extract::preference(request.headers());
    let wait = match preference {
        Preference::Wait(wait) => wait.min(gateway.wait_max()),
        Preference::RespondAsync | Preference::Unsaid => Duration::ZERO,
    };
    let place = if wait.is_zero() { None } else { state.limits.place(&caller.name) };
    let wait = if place.is_some() { wait } else { Duration::ZERO };
    if place.is_some() && !current.operation.state.has_ended() {
        current = gateway.wait(current.operation, wait).await;
    }
    let mut response = respond(HttpResponse::Ok(), &current, gateway.now());
    if let Some(applied) = applied(preference, wait) {
        header(response.headers_mut(), "preference-applied", &applied);
    }
    Ok(response)
}

/// Cancels one operation that has not begun.
pub(super) async fn cancel(
    AuthenticatedCaller(caller): AuthenticatedCaller,
    request: HttpRequest,
    id: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let gateway = extract::gateway(&request)?;
    let operation = gateway.cancel(&caller, named(&id)?).await?;
    Ok(respond(HttpResponse::Ok(), &gateway.wait(operation, Duration::ZERO).await, gateway.now()))
}

/// Calls off the end that was set for what an operation does.
pub(super) async fn call_off(
    AuthenticatedCaller(caller): AuthenticatedCaller,
    request: HttpRequest,
    id: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let gateway = extract::gateway(&request)?;
    let operation = gateway.call_off(&caller, named(&id)?).await?;
    Ok(respond(HttpResponse::Ok(), &gateway.wait(operation, Duration::ZERO).await, gateway.now()))
}

/// Approves one operation that awaits approval.
pub(super) async fn approve(
    proven: AuthenticatedCaller,
    request: HttpRequest,
    id: web::Path<String>,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    answer(proven, &request, &id, (Say::Approve, payload)).await
}

/// Rejects one operation that awaits approval.
pub(super) async fn reject(
    proven: AuthenticatedCaller,
    request: HttpRequest,
    id: web::Path<String>,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    answer(proven, &request, &id, (Say::Reject, payload)).await
}

async fn answer(
    AuthenticatedCaller(caller): AuthenticatedCaller,
    request: &HttpRequest,
    id: &str,
    (say, payload): (Say, web::Payload),
) -> Result<HttpResponse, Problem> {
    let body = extract::body_if_any(request, payload).await?;
    let gateway = extract::gateway(request)?;
    let comment = change::read_comment(&body)
        .map_err(|faults| Problem::with_errors(Code::InvalidChange, "Nothing was approved or rejected", faults))?;
    let operation = gateway.answer_approval(&caller, named(id)?, (say, comment)).await?;
    Ok(respond(HttpResponse::Ok(), &gateway.wait(operation, Duration::ZERO).await, gateway.now()))
}

/// The id in a path. One that is malformed counts as unknown.
pub(super) fn named(id: &str) -> Result<OperationId, Problem> {
    id.parse().map_err(|_malformed| gateway::Error::UnknownOperation.into())
}

/// A page of operations, newest first.
#[derive(Serialize, ToSchema)]
#[schema(as = OperationPage)]
pub(super) struct PageView {
    /// The operations of this page; it can be empty and still have a next page.
    operations: Vec<OperationView>,
    /// The path of the next page; null if this is the last.
    #[schema(required)]
    next: Option<String>,
}

/// Returns operations, newest first.
pub(super) async fn many(
    AuthenticatedCaller(caller): AuthenticatedCaller,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let gateway = extract::gateway(&request)?;
    let search = search(request.query_string())
        .map_err(|faults| Problem::with_errors(Code::InvalidQuery, "The query is not valid", faults))?;
    let Page { operations, next } = gateway.operations(&caller, search).await?;
    let next = next.map(|after| query::going_on("/v1/operations", request.query_string(), &after));
    let operations =
        operations.iter().map(|operation| OperationView::of(operation, None, &FollowUps::default())).collect();
    Ok(HttpResponse::Ok().json(PageView { operations, next }))
}

/// An operation as a response. If it has not ended, headers say where and when to look again.
pub(super) fn respond(
    mut response: actix_web::HttpResponseBuilder,
    current: &OperationStatus,
    now: Timestamp,
) -> HttpResponse {
    let OperationStatus { operation, parked, follow_ups } = current;
    if !operation.state.has_ended() {
        response.insert_header(("location", format!("/v1/operations/{}", operation.id)));
        response.insert_header(("retry-after", problem::whole_seconds(pause(current, now))));
    }
    response.json(OperationView::of(operation, parked.as_ref(), follow_ups))
}

/// How long a caller should wait before it looks at an operation again.
pub(super) fn pause(current: &OperationStatus, now: Timestamp) -> Duration {
    let least = if current.operation.state == Fate::AwaitingApproval { POLL_APPROVAL } else { POLL };
    current.parked.as_ref().map_or(least, |parked| clock::until(now, parked.until).max(least))
}

/// The part of a preference that was applied.
pub(super) fn applied(preference: Preference, wait: Duration) -> Option<String> {
    match preference {
        Preference::RespondAsync => Some("respond-async".to_owned()),
        Preference::Wait(_) => Some(format!("wait={}", wait.as_secs())),
        Preference::Unsaid => None,
    }
}

/// Sets a header to a text that the gateway made.
pub(super) fn header(headers: &mut HeaderMap, name: &'static str, text: &str) {
    if let Ok(value) = HeaderValue::from_str(text) {
        headers.insert(HeaderName::from_static(name), value);
    }
}

/// Reads the query of a list; all its faults at once.
pub(super) fn search(query: &str) -> Result<Search, Vec<Fault>> {
    let mut search = Search::default();
    let mut limit = None;
    query::read(query, |key, value| match key {
        "ticket" => query::text(&mut search.ticket, value),
        "configuration" => query::text(&mut search.configuration, value),
        "caller" => query::text(&mut search.caller, value),
        "state" if Fate::NAMES.contains(&value.as_str()) => query::once(&mut search.state, value),
        "state" => Err(format!("must be one of {}", Fate::NAMES.join(", "))),
        "after" => query::parsed(&mut search.after, &value),
        "limit" => query::limit(&mut limit, &value),
        _ => Err("is not a known parameter; known: ticket, configuration, caller, state, after, limit".to_owned()),
    })?;
    search.limit = limit.unwrap_or(query::LIMIT_DEFAULT);
    Ok(search)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read_and_its_faults_are_told_at_once() {
        let good = search("ticket=RITM%201&state=failed&limit=7").unwrap();
        assert_eq!((good.ticket.as_deref(), good.state.as_deref(), good.limit), (Some("RITM 1"), Some("failed"), 7));
        let faults = search("state=done&limit=0&after=x&sort=up&ticket=a&ticket=b").unwrap_err();
        let pointers: Vec<_> = faults.iter().map(|fault| fault.pointer.as_str()).collect();
        assert_eq!(pointers, ["/state", "/limit", "/after", "/sort", "/ticket"]);
        assert_eq!(search("limit=1&limit=2").unwrap_err()[0].pointer, "/limit");
        assert_eq!(search("a/b~=1").unwrap_err()[0].pointer, "/a~1b~0");
        assert_eq!(search(&"a&".repeat(9_000)).unwrap_err().len(), query::FAULTS_MAX);
        assert_eq!(search("").unwrap().limit, query::LIMIT_DEFAULT);
    }

    #[test]
    fn the_next_page_keeps_the_query_and_moves_on() {
        let id: OperationId = "op_00000000000000000000000001".parse().unwrap();
        let asked = "ticket=a%26b&after=op_00000000000000000000000002&limit=1";
        let next = query::going_on("/v1/operations", asked, &id);
        assert_eq!(next, "/v1/operations?ticket=a%26b&limit=1&after=op_00000000000000000000000001");
    }
}
