//! How a problem looks to callers (RFC 9457): the members of its document.
//!
//! The shapes here are the API's promise and change only by addition. It deliberately decides nothing; `problem` fills them.

use serde::Serialize;

use crate::domain::operation::GraphAnswer;

/// The members of a problem: those of the RFC, then ours.
#[derive(Serialize)]
pub(super) struct Document<'a> {
    pub(super) r#type: String,
    pub(super) title: &'static str,
    pub(super) status: u16,
    pub(super) detail: &'a str,
    pub(super) code: &'static str,
    pub(super) trace_id: Option<String>,
    pub(super) retryable: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) errors: Vec<ErrorView<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) candidates: Vec<CandidateView<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) operation: Option<OperationView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) graph: Option<&'a GraphAnswer>,
}

/// A place in the body or the query, and what is wrong there.
#[derive(Serialize)]
pub(super) struct ErrorView<'a> {
    pub(super) pointer: &'a str,
    pub(super) detail: &'a str,
}

/// What a name could have meant.
#[derive(Serialize)]
pub(super) struct CandidateView<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(super) pointer: &'a str,
    pub(super) id: &'a str,
    pub(super) name: &'a str,
    pub(super) kind: &'static str,
}

/// The operation that it is about.
#[derive(Serialize)]
pub(super) struct OperationView {
    pub(super) id: String,
    pub(super) href: String,
}
