//! Refusals, and how Graph and Intune format them.
//!
//! An endpoint returns a [`Refusal`]; only [`Refusal::answer`] knows the wire format: Graph's plain error object, or
//! Intune's, with JSON inside the message. Dates have no time zone, as in captured responses.
//!
//! It deliberately does not format Entra's errors (`login.rs`) or the sandbox's own (`control.rs`). Called by `graph.rs`,
//! `directory.rs`, `bearer.rs` and `faults.rs`.

use serde_json::{Value, json};

use super::switches::{ErrorShape, InnerError, Switches};
use super::wire::{Body, Request, Response};

/// Why a Graph call is refused.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) code: String,
    pub(crate) message: String,
    pub(crate) origin: Origin,
    pub(crate) violation: Option<&'static str>,
    /// The code of a filed approval, for its header.
    approval: Option<String>,
}

/// Which service refuses, and hence the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Graph's front end, or the directory.
    Graph,
    /// Intune behind it.
    Intune,
}

impl Refusal {
    /// A refusal in Graph's plain shape.
    pub(crate) fn graph(status: u16, code: &str, message: impl Into<String>) -> Self {
        let (origin, violation, approval) = (Origin::Graph, None, None);
        Self { status, code: code.to_owned(), message: message.into(), origin, violation, approval }
    }

    /// A refusal in Intune's nested shape.
    pub(crate) fn intune(status: u16, code: &str, message: impl Into<String>) -> Self {
        Self { origin: Origin::Intune, ..Self::graph(status, code, message) }
    }

    /// Intune's refusal of a body or parameter.
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::intune(400, "BadRequest", message)
    }

    /// The same refusal, with the code of an approval that was filed.
    #[must_use]
    pub(crate) fn filed_as(mut self, code: &str) -> Self {
        self.approval = Some(code.to_owned());
        self
    }

    /// The same refusal, marked in the journal as something no correct client does.
    #[must_use]
    pub(crate) fn violating(mut self, violation: &'static str) -> Self {
        self.violation = Some(violation);
        self
    }

    /// The response on the wire.
    pub(crate) fn answer(&self, call: &Request, switches: &Switches) -> Response {
        let shape = if self.origin == Origin::Intune { switches.error_shape } else { ErrorShape::Nested };
        let mut answer = match shape {
            ErrorShape::Nested => self.in_json(call, switches, &self.code, &self.message_of(call)),
            ErrorShape::DoublyNested => {
                let inner = json!({"ErrorCode": self.code, "Message": self.message_of(call), "Target": null});
                self.in_json(call, switches, "UnknownError", &inner.to_string())
            }
            ErrorShape::Html => Response { body: Body::Html(HTML), ..Response::empty(self.status) },
            ErrorShape::Empty => Response::empty(self.status),
        };
        if shape == ErrorShape::DoublyNested && self.status == 403 {
            answer.status = 401; // As captured: the outer status contradicts the inner code.
        }
        if self.status == 401 {
            answer = answer.with("WWW-Authenticate", "Bearer realm=\"\"".to_owned());
        }
        if let Some(code) = &self.approval {
            answer = answer.with("x-msft-approval-code", code.clone());
        }
        answer.violation = self.violation;
        answer
    }

    fn message_of(&self, call: &Request) -> String {
        match self.origin {
            Origin::Graph => self.message.clone(),
            Origin::Intune => nested(&self.message, call),
        }
    }

    fn in_json(&self, call: &Request, switches: &Switches, code: &str, message: &str) -> Response {
        let mut error = json!({"code": code, "message": message});
        let inner = match switches.inner_error {
            InnerError::InnerError => "innerError",
            InnerError::Lowercase => "innererror",
        };
        if let Value::Object(fields) = &mut error {
            if self.status == 429 {
                fields.insert("details".to_owned(), json!([]));
            }
            fields.insert(inner.to_owned(), inner_error(call));
        }
        Response::json(self.status, json!({ "error": error }))
    }
}

const HTML: &str = "<!DOCTYPE html><html><head><title>Service unavailable</title></head><body><h2>Our services aren't \
available right now</h2></body></html>";

fn inner_error(call: &Request) -> Value {
    json!({
        "date": call.at.strftime("%Y-%m-%dT%H:%M:%S").to_string(),
        "request-id": call.id,
        "client-request-id": call.client_request_id(),
    })
}

fn nested(message: &str, call: &Request) -> String {
    let told = format!(
        "{message} - Operation ID (for customer support): 00000000-0000-0000-0000-000000000000 - Activity ID: {} - Url: \
         https://fef.sandbox01.manage.microsoft.com/StatelessOnboardingService{}?api-version=5023-03-29",
        call.id, call.path
    );
    format!(
        "{{\r\n  \"_version\": 3,\r\n  \"Message\": {},\r\n  \"CustomApiErrorPhrase\": \"\",\r\n  \"RetryAfter\": \
         null,\r\n  \"ErrorSourceService\": \"\",\r\n  \"HttpHeaders\": \"{{}}\"\r\n}}",
        Value::String(told)
    )
}

/// Graph's refusal of a path or method that it does not route.
pub(crate) fn no_route(call: &Request) -> Refusal {
    let names = call.segments.iter().skip(1);
    let template: Vec<&str> = names.enumerate().map(|(depth, name)| segment_kind(depth, name)).collect();
    let rest = call.path.splitn(3, '/').nth(2).unwrap_or_default();
    let message = format!(
        "No OData route exists that match template ~/{} with http verb {} for request /StatelessOnboardingService/{rest}.",
        template.join("/"),
        call.method
    );
    Refusal::graph(400, "No method match route template", message)
}

fn segment_kind(depth: usize, name: &str) -> &'static str {
    match (depth, name) {
        (0, _) => "singleton",
        (_, "assign" | "setPriority") => "action",
        (2 | 4, _) => "key",
        _ => "navigation",
    }
}
