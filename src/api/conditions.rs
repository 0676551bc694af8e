//! How what an operation waits for looks to callers: the consent of a second person, and the end that was set for it.

use jiff::Timestamp;
use serde::Serialize;

use crate::domain::{
    approval::{Answer, Approval},
    operation::UntilState,
};

/// How its end stands.
#[derive(Serialize)]
pub(super) struct EndsView {
    state: &'static str,
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
#[derive(Serialize)]
pub(super) struct ApprovalView {
    names: Vec<String>,
    asked_at: Timestamp,
    expires_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<AnswerView>,
}

#[derive(Serialize)]
struct AnswerView {
    word: &'static str,
    at: Timestamp,
    by: Option<String>,
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
