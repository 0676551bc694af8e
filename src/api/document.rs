//! How a problem looks to callers (RFC 9457): the members of its document.
//!
//! The shapes here are the API's promise and change only by addition. It deliberately decides nothing; `problem` fills them.

use serde::Serialize;
use utoipa::ToSchema;

use super::reference::schemas;
use crate::domain::operation::GraphAnswer;

/// Why something was not done: a document by RFC 9457.
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct Document<'a> {
    /// The page that says what the code means, relative to the gateway.
    pub(super) r#type: String,
    /// The code's meaning in a few words; always the same for one code.
    pub(super) title: &'static str,
    /// The HTTP status.
    pub(super) status: u16,
    /// What happened, as one sentence for a ticket.
    pub(super) detail: &'a str,
    /// The stable code.
    #[schema(value_type = schemas::ProblemCode)]
    pub(super) code: &'static str,
    /// The trace of the call; null if there is none.
    #[schema(required)]
    pub(super) trace_id: Option<String>,
    /// Whether the same call may succeed later.
    pub(super) retryable: bool,
    /// All faults of the body or the query at once.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) errors: Vec<ErrorView<'a>>,
    /// What a name could have meant, as far as the caller may see it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) candidates: Vec<CandidateView<'a>>,
    /// The operation that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) operation: Option<OperationView>,
    /// Graph's own words, for whoever asks Microsoft about them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) graph: Option<GraphView<'a>>,
}

/// A place in the body or the query, and what is wrong there.
#[derive(Serialize, ToSchema)]
#[schema(as = Fault)]
pub(super) struct ErrorView<'a> {
    /// A JSON pointer into the body, or the parameter of the query after a slash; empty for the whole.
    pub(super) pointer: &'a str,
    /// What is wrong with it.
    pub(super) detail: &'a str,
}

/// What a name could have meant.
#[derive(Serialize, ToSchema)]
#[schema(as = Candidate)]
pub(super) struct CandidateView<'a> {
    /// The name in the body that it could stand for.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(super) pointer: &'a str,
    /// The id to give instead.
    pub(super) id: &'a str,
    /// The name that it has.
    pub(super) name: &'a str,
    /// A kind of configuration, `group`, `mail-only-group` or `filter`.
    pub(super) kind: &'static str,
}

/// The operation that a problem is about.
#[derive(Serialize, ToSchema)]
#[schema(as = OperationLink)]
pub(super) struct OperationView {
    /// Its id.
    pub(super) id: String,
    /// Where it is.
    pub(super) href: String,
}

/// What Graph answered.
#[derive(Serialize, ToSchema)]
#[schema(as = GraphAnswer)]
pub(super) struct GraphView<'a> {
    /// The HTTP status.
    status: u16,
    /// Graph's code; empty if it gave none.
    code: &'a str,
    /// Graph's message; empty if it gave none.
    message: &'a str,
    /// Graph's id of the call.
    #[schema(required)]
    request_id: Option<&'a str>,
    /// Our id of the call.
    #[schema(required)]
    client_request_id: Option<&'a str>,
}

impl<'a> From<&'a GraphAnswer> for GraphView<'a> {
    fn from(answer: &'a GraphAnswer) -> Self {
        let GraphAnswer { status, code, message, request_id, client_request_id } = answer;
        let (request_id, client_request_id) = (request_id.as_deref(), client_request_id.as_deref());
        Self { status: *status, code, message, request_id, client_request_id }
    }
}
