//! How approvals and ends that were set for operations look to callers.

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::openapi::schemas;
use crate::domain::{
    approval::{Answer, Approval},
    operation::UntilState,
};

/// The state of the end that was set for an operation.
#[derive(Serialize, ToSchema)]
#[schema(as = Ends)]
pub(super) struct EndsView {
    /// Still to come, carried out, called off, or moot since there was nothing to undo.
    #[schema(value_type = schemas::EndState)]
    state: &'static str,
    /// The reversal, if the end was carried out.
    #[serde(skip_serializing_if = "Option::is_none")]
    operation: Option<String>,
}

impl From<UntilState> for EndsView {
    fn from(state: UntilState) -> Self {
        let by = if let UntilState::Reverted(by) = state { Some(by.to_string()) } else { None };
        Self { state: state.name(), operation: by }
    }
}

/// The approval that an operation waits or waited for.
#[derive(Serialize, ToSchema)]
#[schema(as = Approval)]
pub(super) struct ApprovalView {
    /// The names that the policies that require it give it.
    names: Vec<String>,
    /// When it was requested.
    asked_at: Timestamp,
    /// When it expires.
    expires_at: Timestamp,
    /// The answer, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<AnswerView>,
}

/// The answer to a required approval.
#[derive(Serialize, ToSchema)]
#[schema(as = ApprovalAnswer)]
struct AnswerView {
    /// Whether it was approved or rejected, or expired.
    #[schema(value_type = schemas::ApprovalWord)]
    word: &'static str,
    /// When it was answered or expired.
    at: Timestamp,
    /// The caller that answered; null if it expired.
    #[schema(required)]
    by: Option<String>,
    /// The comment of that caller.
    #[schema(required)]
    comment: Option<String>,
}

impl ApprovalView {
    pub(super) fn of(approval: &Approval, asked_at: Timestamp) -> Self {
        let Approval { names, expires_at, answer, .. } = approval;
        let answer = answer.as_ref().map(|Answer { word, at, by, comment }| AnswerView {
            word: word.name(),
            at: *at,
            by: by.clone(),
            comment: comment.clone(),
        });
        Self { names: names.clone(), asked_at, expires_at: *expires_at, answer }
    }
}
