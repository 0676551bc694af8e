//! How a problem looks to callers (RFC 9457): the members of its document.
//!
//! These shapes are the API's contract and change only by addition. It deliberately decides nothing; `problem` fills them.

use serde::Serialize;
use utoipa::ToSchema;

use super::openapi::schemas;
use crate::domain::operation::GraphAnswer;

/// Why a request or an operation failed: a problem document (RFC 9457).
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct Document<'a> {
    /// The page that says what the code means, relative to the gateway.
    pub(super) r#type: String,
    /// What the code means, in a few words; always the same for one code.
    pub(super) title: &'static str,
    /// The HTTP status.
    pub(super) status: u16,
    /// What happened, as one sentence for a ticket.
    pub(super) detail: &'a str,
    /// The stable code.
    #[schema(value_type = schemas::ProblemCode)]
    pub(super) code: &'static str,
    /// The trace id of the request; null if there is none.
    #[schema(required)]
    pub(super) trace_id: Option<String>,
    /// Whether the same request may succeed later.
    pub(super) retryable: bool,
    /// All faults in the body or the query.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) errors: Vec<ErrorView<'a>>,
    /// What a name could have meant, as far as the caller may see it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) candidates: Vec<CandidateView<'a>>,
    /// The operation that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) operation: Option<OperationView>,
    /// Graph's own answer, for questions to Microsoft.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) graph: Option<GraphView<'a>>,
}

/// A place in the body or the query, and what is wrong there.
#[derive(Serialize, ToSchema)]
#[schema(as = Fault)]
pub(super) struct ErrorView<'a> {
    /// A JSON pointer into the body, or a slash and the name of the query parameter; empty for the whole.
    pub(super) pointer: &'a str,
    /// What is wrong with it.
    pub(super) detail: &'a str,
}

/// What a name could have meant.
#[derive(Serialize, ToSchema)]
#[schema(as = Candidate)]
pub(super) struct CandidateView<'a> {
    /// A JSON pointer to the name in the body that it could replace.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(super) pointer: &'a str,
    /// The id to give instead.
    pub(super) id: &'a str,
    /// Its name.
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
    /// Its path.
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
    /// Graph's id of the request.
    #[schema(required)]
    request_id: Option<&'a str>,
    /// The gateway's id of the request.
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
