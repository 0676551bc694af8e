//! `POST /v1/webhooks/{source}`: an authenticated message, turned into changes by the rules of its source; and the handshake
//! by which senders of CloudEvents ask for permission.
//!
//! Senders wait a few seconds and resend what is not answered with 2xx. So the response does not wait for operations to end
//! unless the sender prefers that; an accepted message gets 2xx however its operations ended, since sending it again does
//! nothing more; and an event that no rule matches gets 200.
//!
//! Guarantees: except for a vendor's ping, no body is read without the headers that authenticate it, or used before that.
//!
//! It deliberately stores nothing of messages that are not authenticated but a bounded number of audit records.

use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, http::header::HeaderMap, web};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    State, change,
    event::{self, Event},
    extract::{self, Preference},
    openapi::schemas,
    operation_view::OperationView,
    operations,
    problem::{self, Code, Problem},
};
use crate::{
    canonical, clock,
    domain::{Caller, Digest},
    gateway::{
        Gateway,
        message::{MessageIdentity, PartialFailure},
        request::{ChangeRequest, Fault},
    },
    telemetry,
    webhooks::{Draft, Header, Rejection, Source, Unmapped, VerifiedMessage},
};

/// The response to a message.
#[derive(Serialize, ToSchema)]
#[schema(as = WebhookAnswer)]
pub(super) struct Answer {
    /// Whether changes were accepted, or the event was ignored because no rule matches it.
    #[schema(value_type = schemas::WebhookResult)]
    result: &'static str,
    /// Its operations, in the order of the rules.
    operations: Vec<OperationView>,
}

/// Receives a message.
pub(super) async fn receive(
    request: HttpRequest,
    payload: web::Payload,
    source: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let state = extract::state(&request)?;
    let source = state.webhooks.source(&source).ok_or_else(|| nothing_at(&request))?;
    let outcome = accept_message(&request, payload, source, state).await;
    let counted = match &outcome {
        Ok(None) => "ignored",
        Ok(Some(_)) => "accepted",
        Err(problem) => problem.code().name(),
    };
    telemetry::count_webhook(counted);
    Ok(outcome?.unwrap_or_else(|| HttpResponse::Ok().json(Answer { result: "ignored", operations: Vec::new() })))
}

fn nothing_at(request: &HttpRequest) -> Problem {
    Problem::new(Code::NotFound, format!("There is nothing at {}.", super::shown(request.path())))
}

/// Authenticates a message and has its changes accepted; none if it requests nothing.
async fn accept_message(
    request: &HttpRequest,
    payload: web::Payload,
    source: &Source,
    state: &State,
) -> Result<Option<HttpResponse>, Problem> {
    let begun = state.clock.now();
    let headers = request.headers();
    let certificate = extract::certificate(request);
    if let Err(rejection) = source.admits(certificate) {
        return Err(unauthenticated(&state.gateway.gateway(), source, &rejection).await);
    }
    let presented = source.present(|name| single(headers, name));
    if let Some(rejection) = presented.as_ref().err().filter(|_| !source.has_ping()) {
        return Err(unauthenticated(&state.gateway.gateway(), source, rejection).await);
    }
    let body = extract::bytes(request, payload).await?;
    // Not earlier: a body may arrive slowly, and rules use the catalogue that is in force when they are applied.
    let gateway = &*state.gateway.gateway();
    if source.is_ping(&body) {
        return Ok(None);
    }
    let proven = presented.and_then(|presented| source.prove(presented, &body, begun));
    let proven = match proven {
        Ok(proven) => proven,
        Err(rejection) => return Err(unauthenticated(gateway, source, &rejection).await),
    };
    extract::count(state, request, &source.caller(None, certificate))?;
    let event = event::read(headers, &body, source.covered())?;
    let given = event.id.clone().map_or_else(|| extract::key(headers), |id| Ok(Some(id)))?;
    let (id, outcome) = map(source, proven, &event, given);
    let caller = source.caller(id, certificate);
    let (drafts, name) = match outcome {
        Ok(drafted) => drafted,
        Err(reason) => return Err(unmapped(gateway, &caller, &reason).await),
    };
    if drafts.is_empty() {
        return Ok(None);
    }
    let requests = match requests(&drafts) {
        Ok(requests) => requests,
        Err(faults) => {
            let problem = Problem::with_errors(Code::EventNotMapped, "Nothing was changed", faults);
            gateway.record_unmapped_event(&caller, problem.to_string()).await?;
            return Err(problem);
        }
    };
    let submitted = gateway.submit_all(&caller, requests, name.as_ref()).await;
    let submitted = submitted.map_err(|broken| part(broken, &drafts))?;
    let replayed = submitted.iter().all(|one| one.replayed);
    let mut statuses = Vec::new();
    let wait = wait_limit(headers, gateway);
    let place = if wait.is_zero() { None } else { state.limits.place(&caller.name) };
    let wait = if place.is_some() { wait } else { Duration::ZERO };
    for one in submitted {
        // The time to wait counts from when the message arrived.
        let left = wait.saturating_sub(clock::until(begun, gateway.now()));
        statuses.push(gateway.wait(one.operation, left).await);
    }
    let mut response = answer(&statuses, gateway);
    if replayed {
        operations::header(response.headers_mut(), "idempotency-replayed", "true");
    }
    if let Some(applied) = operations::applied(extract::preference(headers), wait) {
        operations::header(response.headers_mut(), "preference-applied", &applied);
    }
    Ok(Some(response))
}

/// A header that is sent exactly once and is plain text.
fn single<'a>(headers: &'a HeaderMap, name: &str) -> Header<'a> {
    let mut values = headers.get_all(name);
    let value = values.next().ok_or("is missing")?;
    if values.next().is_some() {
        return Err("is sent more than once");
    }
    value.to_str().map_err(|_opaque| "contains characters other than visible ASCII")
}

/// Records that a message is not authenticated, and returns the problem. That secrets cannot be read is not recorded: it is not
/// the sender's fault.
async fn unauthenticated(gateway: &Gateway, source: &Source, rejection: &Rejection) -> Problem {
    if *rejection != Rejection::KeysUnavailable {
        let name = format!("webhooks {}", source.name());
        let reason = format!("{name}: {rejection}");
        if let Err(error) = gateway.record_failed_authentication(&name, "signature", reason).await {
            return error.into();
        }
    }
    let code = match rejection {
        Rejection::Header { .. } | Rejection::NoCertificate | Rejection::Unproven => Code::InvalidSignature,
        Rejection::Stale(_) => Code::StaleMessage,
        Rejection::KeysUnavailable => Code::KeysUnavailable,
    };
    let mut detail = format!("The message is not accepted: {rejection}.");
    detail.truncate(detail.floor_char_boundary(300));
    Problem::new(code, detail).challenging(source.challenge())
}

type Mapped = Result<(Vec<Draft>, Option<MessageIdentity>), Unmapped>;

/// What an authenticated message requests, and the name by which it is recognised when it is sent again.
fn map(source: &Source, proven: VerifiedMessage, event: &Event, given: Option<String>) -> (Option<String>, Mapped) {
    let id = match source.message_id(proven, &event.value, given) {
        Ok(id) => id,
        Err(reason) => return (None, Err(reason)),
    };
    let outcome = source.draft(&event.value).map(|drafts| {
        let name = id.as_ref().map(|id| MessageIdentity {
            name: format!("webhook:{}:{}", source.name(), Digest::of(id.as_bytes()).as_str()),
            fingerprint: fingerprint(event, &drafts),
            remember: source.remember(),
        });
        (drafts, name)
    });
    (id, outcome)
}

/// A digest of an event and of the changes that the rules make from it: changes are known by their number, so under other rules
/// a repeated message could make one of them again, or another.
fn fingerprint(event: &Event, drafts: &[Draft]) -> Digest {
    let changes = drafts.iter().map(|draft| canonical::text(&draft.body));
    let text = changes.fold(canonical::text(&event.value), |text, change| format!("{text}\n{change}"));
    Digest::of(text.as_bytes())
}

/// Records that an event could not be mapped, and returns the problem.
async fn unmapped(gateway: &Gateway, caller: &Caller, reason: &Unmapped) -> Problem {
    // The expression is for the operator, who has it in the settings.
    let Unmapped { place, detail, expression: _ } = reason;
    match gateway.record_unmapped_event(caller, reason.to_string()).await {
        Ok(()) => Problem::new(Code::EventNotMapped, format!("Nothing was changed: {place}: {detail}.")),
        Err(error) => error.into(),
    }
}

/// The changes of drafts, checked like those that callers send themselves; or all their faults.
pub(super) fn requests(drafts: &[Draft]) -> Result<Vec<ChangeRequest>, Vec<Fault>> {
    let (mut requests, mut faults) = (Vec::new(), Vec::new());
    for Draft { rule, body } in drafts {
        match change::read(body) {
            Ok(request) => requests.push(request),
            Err(found) => {
                let of_rule =
                    |fault: Fault| Fault { detail: format!("{} (rule {rule})", fault.detail), pointer: fault.pointer };
                faults.extend(found.into_iter().map(of_rule));
            }
        }
    }
    if faults.is_empty() { Ok(requests) } else { Err(faults) }
}

/// Why not all changes of a message were accepted, and which were.
fn part(broken: PartialFailure, drafts: &[Draft]) -> Problem {
    let PartialFailure { at, error, accepted } = broken;
    let mut context = drafts.get(at).map(|draft| format!(" (rule {})", draft.rule)).unwrap_or_default();
    if !accepted.is_empty() {
        let ids = accepted.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        context = format!(
            "{context}. Of the {} changes of this message, these were accepted: {ids}. Sending it again takes up the rest",
            drafts.len()
        );
    }
    Problem::from(error).of_message(&context)
}

/// How long the response may wait for operations to end: not at all, unless the sender prefers that.
fn wait_limit(headers: &HeaderMap, gateway: &Gateway) -> Duration {
    match extract::preference(headers) {
        Preference::Wait(wait) => wait.min(gateway.wait_max()),
        Preference::RespondAsync | Preference::Unsaid => Duration::ZERO,
    }
}

fn answer(statuses: &[crate::gateway::OperationStatus], gateway: &Gateway) -> HttpResponse {
    let open: Vec<_> = statuses.iter().filter(|current| !current.operation.state.has_ended()).collect();
    let mut response = if open.is_empty() { HttpResponse::Ok() } else { HttpResponse::Accepted() };
    if let [only] = open.as_slice() {
        response.insert_header(("location", format!("/v1/operations/{}", only.operation.id)));
    }
    if let Some(pause) = open.iter().map(|current| operations::pause(current, gateway.now())).max() {
        response.insert_header(("retry-after", problem::whole_seconds(pause)));
    }
    let view =
        |it: &crate::gateway::OperationStatus| OperationView::of(&it.operation, it.parked.as_ref(), &it.follow_ups);
    response.json(Answer { result: "accepted", operations: statuses.iter().map(view).collect() })
}

/// Consents to a subscription (CloudEvents' HTTP webhook, section 4), or does not.
pub(super) async fn handshake(request: HttpRequest, source: web::Path<String>) -> Result<HttpResponse, Problem> {
    let State { webhooks, .. } = &***extract::state(&request)?;
    let source = webhooks.source(&source).ok_or_else(|| nothing_at(&request))?;
    let mut response = HttpResponse::Ok();
    response.insert_header(("allow", "POST, OPTIONS"));
    let asked = |name| single(request.headers(), name).ok();
    if let Some(origin) = asked("webhook-request-origin").and_then(|origin| source.consents(origin)) {
        response.insert_header(("webhook-allowed-origin", origin));
        // Messages have no limits beyond those of every caller, so the requested rate is granted.
        if let Some(rate) = asked("webhook-request-rate").and_then(|rate| rate.parse::<u32>().ok()) {
            response.insert_header(("webhook-allowed-rate", rate.max(1).to_string()));
        }
    }
    Ok(response.finish())
}

/// What the rules would make of an event, as text: the changes, or why there are none.
pub(crate) fn dry_run(source: &Source, event: &[u8]) -> Result<String, String> {
    let value: Value = super::json::parse(event).map_err(|problem| problem.to_string())?;
    let drafts = source.draft(&value).map_err(|unmapped| match &unmapped.expression {
        Some(expression) => format!("{unmapped}\n  in {expression}"),
        None => unmapped.to_string(),
    })?;
    if let Err(faults) = requests(&drafts) {
        let told: Vec<_> = faults.into_iter().map(|Fault { pointer, detail }| format!("{pointer}: {detail}")).collect();
        return Err(told.join("\n"));
    }
    if drafts.is_empty() {
        return Ok("ignored: no rule matches this event".to_owned());
    }
    let told = drafts.iter().map(|Draft { rule, body }| format!("rule {rule}: {body}"));
    Ok(told.collect::<Vec<_>>().join("\n"))
}
