//! `POST /v1/operations/{id}/revert`.

use actix_web::{HttpRequest, HttpResponse, web};

use super::{
    assignments, change,
    extract::{self, AuthenticatedCaller},
    operations,
    problem::{Code, Problem},
};
use crate::{domain::Digest, gateway::request::RevertRequest};

/// Accepts the reversal of an operation and, unless the caller prefers otherwise, waits for it to end.
pub(super) async fn revert(
    AuthenticatedCaller(caller): AuthenticatedCaller,
    request: HttpRequest,
    id: web::Path<String>,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    let state = extract::state(&request)?;
    let begun = state.clock.now();
    let id = operations::named(&id)?;
    let body = extract::body_if_any(&request, payload).await?;
    let gateway = extract::gateway(&request)?;
    let invalid = |faults| Problem::with_errors(Code::InvalidChange, "Nothing was changed", faults);
    let only_on = extract::only_on(request.headers())?;
    let asked = RevertRequest { only_on, ..change::read_revert(&body).map_err(invalid)? };
    let reverted = id.to_string();
    let beside = ["revert", reverted.as_str()].into_iter().chain(asked.only_on.as_ref().map(Digest::as_str));
    let attempt = extract::keyed_request(request.headers(), &body, &beside.collect::<Vec<_>>())?;
    let submitted = gateway.revert(&caller, id, asked, attempt).await?;
    Ok(assignments::wait_and_respond((&gateway, &state.limits), &caller.name, request.headers(), begun, submitted)
        .await)
}
