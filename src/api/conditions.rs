//! How what an operation waits for looks to callers: the consent of a second person, and the end that was set for it.

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::reference::schemas;
use crate::domain::{
    approval::{Answer, Approval},
    operation::UntilState,
};

/// What became of the end that was set for an operation.
#[derive(Serialize, ToSchema)]
#[schema(as = Ends)]
pub(super) struct EndsView {
    /// Still to come, carried out, called off, or moot since there was nothing to undo.
    #[schema(value_type = schemas::EndState)]
    state: &'static str,
    /// The operation that undoes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    operation: Option<String>,
}

impl From<UntilState> for EndsView {
    fn from(state: UntilState) -> Self {
        let by = if let UntilState::Reverted(by) = state { Some(by.to_string()) } else { None };
        Self { state: state.name(), operation: by }
    }
}

/// The consent that an operation waits or waited for.
#[derive(Serialize, ToSchema)]
#[schema(as = Approval)]
pub(super) struct ApprovalView {
    /// What the policies that ask for it call it.
    names: Vec<String>,
    /// When it was asked for.
    asked_at: Timestamp,
    /// When it is too late to give it.
    expires_at: Timestamp,
    /// What was answered, if anything was.
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<AnswerView>,
}

/// The answer to a question for consent.
#[derive(Serialize, ToSchema)]
#[schema(as = ApprovalAnswer)]
struct AnswerView {
    /// What was said, or that the time passed.
    #[schema(value_type = schemas::ApprovalWord)]
    word: &'static str,
    /// When.
    at: Timestamp,
    /// The caller that said it; null if nobody did.
    #[schema(required)]
    by: Option<String>,
    /// The reason that it gave.
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
