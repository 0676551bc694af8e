//! The approval of an operation by a second person: what is asked, and the one answer that counts.
//!
//! It deliberately does not say who may answer; policy and gateway do.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::operation::{Failure, FailureCode, IllegalTransition, Operation, State};

/// The consent of a second person, required by policies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// The names of the approvals that policies require, at least one; the second person must be permitted for all of them.
    pub names: Vec<String>,
    /// The subject of the token that requested the change; it may not answer.
    pub asker: String,
    /// From then on it is too late to answer.
    pub expires_at: Timestamp,
    /// The answer; none while it is awaited.
    pub answer: Option<Answer>,
}

/// The answer to an approval.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Approved, rejected or expired.
    pub word: Decision,
    /// When.
    pub at: Timestamp,
    /// The configured name of the caller who answered; none if it expired.
    pub by: Option<String>,
    /// Why.
    pub comment: Option<String>,
}

/// The possible answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decision {
    /// The operation may begin.
    Approved,
    /// It may not.
    Rejected,
    /// Nobody answered in time.
    Expired,
}

impl Decision {
    /// The name, the same in the store, the audit trail and the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Approved => "approved",
            Self::Rejected => "rejected",
            Self::Expired => "expired",
        }
    }
}

impl Operation {
    /// Records the answer: the operation may begin, or it fails. A person's answer is refused once the approval has expired,
    /// and expiry is refused before that.
    pub fn answer(mut self, answer: Answer) -> Result<Self, IllegalTransition> {
        let to = match answer.word {
            Decision::Approved => "queued",
            Decision::Rejected | Decision::Expired => "failed",
        };
        let Some(approval) = self.submission.approval.as_mut().filter(|_| self.state == State::AwaitingApproval) else {
            return Err(self.state.illegal(to));
        };
        let is_over = approval.expires_at <= answer.at;
        if is_over != (answer.word == Decision::Expired) {
            return Err(self.state.illegal(to));
        }
        self.state = match failure_of(&answer) {
            None => State::Queued,
            Some(failure) => State::Failed { started_at: None, ended_at: answer.at, failure },
        };
        approval.answer = Some(answer);
        Ok(self)
    }
}

/// The failure that follows from an answer; none if it is an approval.
fn failure_of(answer: &Answer) -> Option<Failure> {
    let because = answer.comment.as_ref().map(|comment| format!(": {comment}")).unwrap_or_default();
    let (code, detail) = match answer.word {
        Decision::Approved => return None,
        Decision::Rejected => {
            let by = answer.by.as_deref().unwrap_or("nobody");
            (FailureCode::ApprovalRejected, format!("{by} rejected the change{because}"))
        }
        Decision::Expired => (FailureCode::ApprovalExpired, "nobody approved the change in time".to_owned()),
    };
    Some(Failure { code, detail, graph: None })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::domain::{Change, ConfigurationId, operation::Submission};

    fn awaiting() -> Operation {
        let configuration: ConfigurationId = "9f1c6a4e-8a77-4b8e-9d6e-3a54b2f1c0aa_Limit".parse().unwrap();
        let approval = Approval {
            names: vec!["wide".to_owned()],
            asker: "asker".to_owned(),
            expires_at: Timestamp::from_second(60).unwrap(),
            answer: None,
        };
        let submission = Submission {
            configuration,
            configuration_name: String::new(),
            change: Change::replace(Vec::new(), 1).unwrap(),
            names: BTreeMap::new(),
            caller: "servicenow".to_owned(),
            ticket: None,
            requested_for: None,
            comment: None,
            accepted_at: Timestamp::UNIX_EPOCH,
            only_on: None,
            until: None,
            approval: Some(approval),
            callback: None,
            traceparent: None,
        };
        Operation { id: uuid::Uuid::from_u128(1).into(), submission, state: State::AwaitingApproval }
    }

    fn said(word: Decision, second: i64) -> Answer {
        let at = Timestamp::from_second(second).unwrap();
        Answer { word, at, by: Some("approvers".to_owned()), comment: Some("not now".to_owned()) }
    }

    #[test]
    fn an_approval_is_decided_once_before_expiry_and_expires_only_after() {
        let approved = awaiting().answer(said(Decision::Approved, 59)).unwrap();
        assert_eq!((&approved.state, approved.submission.ready_at().as_second()), (&State::Queued, 59));
        let rejected = awaiting().answer(said(Decision::Rejected, 59)).unwrap();
        let expired = awaiting().answer(said(Decision::Expired, 60)).unwrap();
        for (operation, code) in [(&rejected, FailureCode::ApprovalRejected), (&expired, FailureCode::ApprovalExpired)]
        {
            let State::Failed { started_at: None, failure, .. } = &operation.state else { panic!("{operation:?}") };
            assert_eq!(failure.code, code);
        }
        for (word, second) in [(Decision::Approved, 60), (Decision::Rejected, 60), (Decision::Expired, 59)] {
            assert!(awaiting().answer(said(word, second)).is_err(), "{word:?} at {second}");
        }
        for answered in [approved, rejected, expired] {
            assert!(answered.clone().answer(said(Decision::Approved, 1)).is_err());
            assert!(answered.answer(said(Decision::Expired, 90)).is_err());
        }
    }

    #[test]
    fn what_was_stored_before_there_were_approvals_is_read() {
        let mut stored = serde_json::to_value(awaiting().submission).unwrap();
        stored.as_object_mut().unwrap().remove("approval");
        assert_eq!(serde_json::from_value::<Submission>(stored).unwrap().approval, None);
        let failed = State::Queued
            .start(Timestamp::UNIX_EPOCH)
            .unwrap()
            .fail(Timestamp::UNIX_EPOCH, failure_of(&said(Decision::Rejected, 1)).unwrap())
            .unwrap();
        assert_eq!(serde_json::from_str::<State>(&serde_json::to_string(&failed).unwrap()).unwrap(), failed);
        let waiting = serde_json::to_value(State::AwaitingApproval).unwrap();
        assert_eq!(waiting["state"], State::AwaitingApproval.name());
    }
}
