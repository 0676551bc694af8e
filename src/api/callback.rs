//! Callbacks: the message that reports the end of an operation to a caller's system, a CloudEvents 1.0 event in JSON; how
//! operations show the state of their callback; and `POST /v1/operations/{id}/callback`.
//!
//! Guarantees: a message contains only what does not change after the end, so every attempt sends the same bytes.
//!
//! It deliberately neither signs nor sends; `callbacks` does.

use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    extract::{self, AuthenticatedCaller},
    openapi::schemas,
    operation_view::OperationView,
    operations,
    problem::Problem,
};
use crate::{
    domain::{Callback, Operation, callback::message_id},
    gateway::{FollowUps, callbacks},
};

/// The type of the event.
const ENDED: &str = "postern.operation.ended";

#[derive(Serialize)]
struct Event<'a> {
    specversion: &'static str,
    id: String,
    source: &'a str,
    r#type: &'static str,
    subject: String,
    time: Option<Timestamp>,
    datacontenttype: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<&'a str>,
    data: Ended,
}

#[derive(Serialize)]
struct Ended {
    /// The operation as `GET /v1/operations/{id}` shows it, without what can still change.
    operation: OperationView,
    /// What the caller wanted to get back.
    context: Option<Value>,
}

/// The message about an operation's end; `source` is what the gateway calls itself.
pub(crate) fn message(operation: &Operation, source: &str) -> Vec<u8> {
    let submission = &operation.submission;
    let event = Event {
        specversion: "1.0",
        id: message_id(operation.id),
        source,
        r#type: ENDED,
        subject: operation.id.to_string(),
        time: operation.state.ended_at(),
        datacontenttype: "application/json",
        traceparent: submission.traceparent.as_deref(),
        data: Ended {
            operation: OperationView::of(operation, None, &FollowUps::default()),
            context: submission.callback.as_ref().and_then(context),
        },
    };
    // It cannot fail: all keys are strings.
    serde_json::to_vec(&event).unwrap_or_default()
}

/// Where an operation's end is reported, and the state of that.
#[derive(Serialize, ToSchema)]
#[schema(as = Callback)]
pub(super) struct CallbackView {
    /// The URL, without its query, which may contain secrets.
    url: String,
    /// What is sent back to the caller.
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Value>,
    /// Its state, once the operation has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schemas::CallbackState>)]
    state: Option<&'static str>,
    /// The number of attempts so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts: Option<i64>,
    /// When the last attempt was made, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_attempt_at: Option<Timestamp>,
    /// The HTTP status of the last response, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_status: Option<u16>,
    /// Why the last attempt failed, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<String>,
    /// When the next attempt is due, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_attempt_at: Option<Timestamp>,
    /// When it was delivered, if it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    delivered_at: Option<Timestamp>,
}

impl CallbackView {
    pub(super) fn of(callback: &Callback, status: Option<&callbacks::Status>) -> Self {
        let progress = status.map(|status| &status.progress);
        Self {
            url: callback.shown_url(),
            context: context(callback),
            state: status.map(|status| status.state.name()),
            attempts: status.map(|status| status.attempts),
            last_attempt_at: progress.and_then(|progress| progress.last_at),
            last_status: progress.and_then(|progress| progress.last_status),
            last_error: progress.and_then(|progress| progress.last_error.clone()),
            next_attempt_at: status.and_then(|status| status.next_attempt_at),
            delivered_at: progress.and_then(|progress| progress.delivered_at),
        }
    }
}

/// What the caller wanted to get back.
fn context(callback: &Callback) -> Option<Value> {
    serde_json::from_str(callback.context.as_deref()?).ok()
}

/// Sends the callback of an operation again.
pub(super) async fn resend(
    AuthenticatedCaller(caller): AuthenticatedCaller,
    request: HttpRequest,
    id: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let gateway = extract::gateway(&request)?;
    let operation = gateway.resend_callback(&caller, operations::named(&id)?).await?;
    Ok(operations::respond(HttpResponse::Accepted(), &gateway.wait(operation, Duration::ZERO).await, gateway.now()))
}
