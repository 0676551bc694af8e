//! `POST /v1/assignments` and `POST /v1/plan`.

use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, http::header::HeaderMap, web};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    Limits, change,
    extract::{self, AuthenticatedCaller, Preference},
    openapi::schemas,
    operations,
    problem::{Code, Problem},
    summary::{self, Tense},
    view::{self, ConfigurationView, DifferenceView},
};
use crate::{
    clock,
    domain::{Digest, State as Fate},
    gateway::{Gateway, OperationStatus, Permission, Planned, Submitted, request::ChangeRequest},
};

/// Accepts a change and, unless the caller prefers otherwise, waits for it to end.
pub(super) async fn submit(
    AuthenticatedCaller(caller): AuthenticatedCaller,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    let state = extract::state(&request)?;
    let begun = state.clock.now();
    let body = extract::body(&request, payload).await?;
    let gateway = extract::gateway(&request)?;
    let asked = read(&request, &body)?;
    let only_on: Vec<_> = asked.only_on.iter().map(Digest::as_str).collect();
    let attempt = extract::keyed_request(request.headers(), &body, &only_on)?;
    // Its end can be long in coming, and neither the body nor what accepting takes is needed until then.
    drop(body);
    let submitted = Box::pin(gateway.submit(&caller, asked, attempt)).await?;
    Ok(wait_and_respond((&gateway, &state.limits), &caller.name, request.headers(), begun, submitted).await)
}

/// Waits for the accepted operation to end, for as long as the caller prefers, and makes the response.
pub(super) async fn wait_and_respond(
    (gateway, limits): (&Gateway, &Limits),
    caller: &str,
    headers: &HeaderMap,
    begun: jiff::Timestamp,
    submitted: Submitted,
) -> HttpResponse {
    let Submitted { operation, replayed } = submitted;
    let preference = extract::preference(headers);
    let wait = match preference {
        Preference::RespondAsync => Duration::ZERO,
        Preference::Wait(wait) => wait.min(gateway.wait_max()),
        Preference::Unsaid => gateway.wait_default(),
    };
    // An approval is not waited for: it can take days.
    let waits = operation.state != Fate::AwaitingApproval;
    let place = if wait.is_zero() || !waits { None } else { limits.place(caller) };
    let wait = if place.is_some() { wait } else { Duration::ZERO };
    // The time to wait counts from when the request arrived.
    let left = wait.saturating_sub(clock::until(begun, gateway.now()));
    let current = gateway.wait(operation, left).await;
    let mut response = answer(&current, gateway.now());
    let headers = response.headers_mut();
    if replayed {
        operations::header(headers, "idempotency-replayed", "true");
    }
    if let Some(applied) = operations::applied(preference, wait).filter(|_| waits) {
        operations::header(headers, "preference-applied", &applied);
    }
    response
}

/// The response after waiting: the ended operation, the problem that it failed with, or its current state.
fn answer(current: &OperationStatus, now: jiff::Timestamp) -> HttpResponse {
    let operation = &current.operation;
    if let Fate::Failed { failure, .. } = &operation.state {
        let problem = Problem::of_failure(failure, operation.id);
        return actix_web::ResponseError::error_response(&problem);
    }
    let status = if operation.state.has_ended() { HttpResponse::Ok() } else { HttpResponse::Accepted() };
    operations::respond(status, current, now)
}

/// What a change would do to the present assignments.
#[derive(Serialize, ToSchema)]
#[schema(as = Plan)]
pub(super) struct PlanView {
    /// The configuration that it is about.
    configuration: ConfigurationView,
    /// Whether it would change anything.
    #[schema(value_type = schemas::Effect)]
    effect: &'static str,
    /// What it would do, as one sentence for a ticket.
    summary: String,
    /// What it would do.
    difference: DifferenceView,
    /// The `ETag` of the present assignments, for `If-Match`.
    etag: String,
    /// Digest of the present set.
    digest_before: String,
    /// Digest of the set after the change.
    digest_after: String,
    /// Whether policy would permit it as it was sent.
    permission: PermissionView,
}

/// Whether policy would permit the change as it was sent, and why.
#[derive(Serialize, ToSchema)]
#[schema(as = Permission)]
struct PermissionView {
    /// Whether it would be permitted.
    permitted: bool,
    /// The policies that would permit it.
    #[serde(skip_serializing_if = "Option::is_none")]
    policies: Option<Vec<String>>,
    /// The approvals that it would await before it begins; absent if it would begin at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    approvals: Option<Vec<String>>,
    /// Why it would not be permitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    because: Option<String>,
}

impl From<Result<Permission, String>> for PermissionView {
    fn from(decision: Result<Permission, String>) -> Self {
        match decision {
            Ok(Permission { policies, approvals }) => {
                let approvals = Some(approvals).filter(|approvals| !approvals.is_empty());
                Self { permitted: true, policies: Some(policies), approvals, because: None }
            }
            Err(because) => Self { permitted: false, policies: None, approvals: None, because: Some(because) },
        }
    }
}

/// Returns what a change would do.
pub(super) async fn plan(
    AuthenticatedCaller(caller): AuthenticatedCaller,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    let body = extract::body(&request, payload).await?;
    let gateway = extract::gateway(&request)?;
    let asked = read(&request, &body)?;
    let Planned { configuration, difference, names, before, after, decision } = gateway.plan(&caller, asked).await?;
    let etag = view::etag(&before);
    Ok(HttpResponse::Ok().insert_header(("etag", etag.as_str())).json(PlanView {
        configuration: ConfigurationView { id: configuration.id.to_string(), name: configuration.name },
        effect: view::effect(&difference),
        summary: summary::of(&difference, &names, Tense::Present),
        difference: DifferenceView::of(&difference, &names),
        etag,
        digest_before: before.to_string(),
        digest_after: after.to_string(),
        permission: decision.into(),
    }))
}

fn read(request: &HttpRequest, body: &serde_json::Value) -> Result<ChangeRequest, Problem> {
    let only_on = extract::only_on(request.headers())?;
    let invalid = |faults| Problem::with_errors(Code::InvalidChange, "Nothing was changed", faults);
    Ok(ChangeRequest { only_on, ..change::read(body).map_err(invalid)? })
}
