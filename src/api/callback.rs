//! Callbacks: the message that tells a caller's system of the end of an operation, an event by CloudEvents 1.0 in JSON; what
//! operations tell of theirs; and `POST /v1/operations/{id}/callback`.
//!
//! Guarantees: a message is made of what does not change after the end, so every attempt sends the same bytes.
//!
//! It deliberately neither signs nor sends; `callbacks` does.

use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::{
    extract::{self, Proven},
    operations,
    problem::Problem,
    view::OperationView,
};
use crate::{
    domain::{Callback, Operation, callback::message_id},
    gateway::{Sequel, callbacks},
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
    /// What the caller wanted to have back.
    context: Option<Value>,
}

/// The message about an operation's end, from a gateway that calls itself so.
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
            operation: OperationView::of(operation, None, &Sequel::default()),
            context: submission.callback.as_ref().and_then(context),
        },
    };
    // Nothing in it can fail to be written: names of members are texts.
    serde_json::to_vec(&event).unwrap_or_default()
}

/// Where its end is told, and how far that has got.
#[derive(Serialize)]
pub(super) struct CallbackView {
    url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Value>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    standing: Option<CallbackStandingView>,
}

#[derive(Serialize)]
struct CallbackStandingView {
    state: &'static str,
    attempts: i64,
    last_attempt_at: Option<Timestamp>,
    last_status: Option<u16>,
    last_error: Option<String>,
    next_attempt_at: Option<Timestamp>,
    delivered_at: Option<Timestamp>,
}

impl CallbackView {
    pub(super) fn of(callback: &Callback, standing: Option<&callbacks::Standing>) -> Self {
        let standing = standing.cloned().map(|callbacks::Standing { state, attempts, progress, next_attempt_at }| {
            CallbackStandingView {
                state: state.name(),
                attempts,
                last_attempt_at: progress.last_at,
                last_status: progress.last_status,
                last_error: progress.last_error,
                next_attempt_at,
                delivered_at: progress.delivered_at,
            }
        });
        Self { url: callback.shown_url(), context: context(callback), standing }
    }
}

/// What the caller wanted to have back.
fn context(callback: &Callback) -> Option<Value> {
    serde_json::from_str(callback.context.as_deref()?).ok()
}

/// Has the end of an operation told again.
pub(super) async fn resend(
    Proven(caller): Proven,
    request: HttpRequest,
    id: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let gateway = extract::gateway(&request)?;
    let operation = gateway.resend_callback(&caller, operations::named(&id)?).await?;
    Ok(operations::respond(HttpResponse::Accepted(), &gateway.wait(operation, Duration::ZERO).await, gateway.now()))
}
