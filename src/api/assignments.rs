//! `POST /v1/assignments` and `POST /v1/plan`.

use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;

use super::{
    State, change,
    extract::{self, Preference, Proven},
    operations,
    problem::{Code, Problem},
    view::{self, ConfigurationView, DifferenceView},
};
use crate::{
    clock,
    domain::State as Fate,
    gateway::{Planned, Standing, Submitted, request::ChangeRequest},
};

/// Accepts a change and, unless told otherwise, waits for its end.
pub(super) async fn submit(
    Proven(caller): Proven,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    let State { gateway, limits, .. } = &***extract::state(&request)?;
    let begun = gateway.now();
    let body = extract::body(&request, payload).await?;
    let attempt = extract::attempt(request.headers(), &body)?;
    let asked = read(&request, &body)?;
    let Submitted { operation, replayed } = gateway.submit(&caller, asked, attempt).await?;
    let preference = extract::preference(request.headers());
    let wait = match preference {
        Preference::RespondAsync => Duration::ZERO,
        Preference::Wait(wait) => wait.min(gateway.wait_max()),
        Preference::Unsaid => gateway.wait_default(),
    };
    let place = if wait.is_zero() { None } else { limits.place(&caller.name) };
    let wait = if place.is_some() { wait } else { Duration::ZERO };
    // The caller counts from when it asked.
    let left = wait.saturating_sub(clock::until(begun, gateway.now()));
    let standing = gateway.wait(operation, left).await;
    let mut response = answer(&standing, gateway.now());
    let headers = response.headers_mut();
    if replayed {
        operations::header(headers, "idempotency-replayed", "true");
    }
    if let Some(applied) = operations::applied(preference, wait) {
        operations::header(headers, "preference-applied", &applied);
    }
    Ok(response)
}

/// The answer to a caller who waited: the ended operation, the problem that it ended in, or the operation so far.
fn answer(standing: &Standing, now: jiff::Timestamp) -> HttpResponse {
    let operation = &standing.operation;
    if let Fate::Failed { failure, .. } = &operation.state {
        let problem = Problem::of_failure(failure, operation.id);
        return actix_web::ResponseError::error_response(&problem);
    }
    let status = if operation.state.has_ended() { HttpResponse::Ok() } else { HttpResponse::Accepted() };
    operations::respond(status, standing, now)
}

#[derive(Serialize)]
struct PlanView {
    configuration: ConfigurationView,
    effect: &'static str,
    difference: DifferenceView,
    digest_before: String,
    digest_after: String,
}

/// Answers what a change would do.
pub(super) async fn plan(
    Proven(caller): Proven,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    let State { gateway, .. } = &***extract::state(&request)?;
    let body = extract::body(&request, payload).await?;
    let asked = read(&request, &body)?;
    let Planned { configuration, difference, names, before, after } = gateway.plan(&caller, asked).await?;
    Ok(HttpResponse::Ok().json(PlanView {
        configuration: ConfigurationView { id: configuration.id.to_string(), name: configuration.name },
        effect: view::effect(&difference),
        difference: DifferenceView::of(&difference, &names),
        digest_before: before.to_string(),
        digest_after: after.to_string(),
    }))
}

fn read(request: &HttpRequest, body: &serde_json::Value) -> Result<ChangeRequest, Problem> {
    if request.headers().contains_key("if-match") {
        // To take a conditional change for an unconditional one would be the opposite of what its caller wants.
        let detail = "If-Match is not supported by this version; send the change without it.";
        return Err(Problem::new(Code::InvalidHeader, detail));
    }
    change::read(body).map_err(|faults| Problem::with_errors(Code::InvalidChange, "Nothing was changed", faults))
}
