//! Operations: accepted changes, and what becomes of them.
//!
//! (`awaiting_approval` →) `queued` → `running` → `succeeded` or `failed`. Until it is running it can be `cancelled`. One
//! that awaits approval fails if that is rejected or expires. Guarantees: each state carries its own evidence, so there is
//! no success without a difference and no failure without a reason. Transitions consume the old state and reject what is not
//! listed above.
//!
//! It deliberately does not say how a failure is shown to a caller; `api::problem` does.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{
    approval::Approval,
    assignment::{AssignmentSet, Digest},
    callback::Callback,
    change::{Change, ConditionalChange, Difference},
    ids::{ConfigurationId, OperationId},
    reversal::Cause,
};

/// What was accepted; immutable except for the answer to its approval.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submission {
    /// The configuration to change.
    pub configuration: ConfigurationId,
    /// Its display name when the change was accepted.
    pub configuration_name: String,
    /// What to do to its assignments.
    pub change: Change,
    /// Display names of groups and filters by their ids, as they were when the change was accepted.
    pub names: BTreeMap<String, String>,
    /// The configured name of the caller.
    pub caller: String,
    /// The ticket under which it was requested.
    pub ticket: Option<String>,
    /// The person for whom it was requested.
    pub requested_for: Option<String>,
    /// The caller's comment.
    pub comment: Option<String>,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// Digest of the only set that the change may be applied to; none for any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only_on: Option<Digest>,
    /// When its effect is to be undone, if ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Until>,
    /// The approval without which it may not begin, if a policy requires one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<Approval>,
    /// Where its end is to be reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub callback: Option<Callback>,
    /// W3C trace context of the request that was accepted, so that the later write can be linked to it.
    pub traceparent: Option<String>,
}

/// How far ahead an end may be: later is as good as never, and keeps its operation from being removed.
const AHEAD_MAX: SignedDuration = SignedDuration::from_hours(24 * 366 * 5);

/// The end that is set for what an operation did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Until {
    /// When it is due.
    pub at: Timestamp,
    /// The policies that permitted it when the change was accepted; they authorise the reversal when it is due.
    pub policies: Vec<String>,
}

impl Until {
    /// Why a change that is requested `now` cannot end at this time, if it cannot.
    pub fn refused(at: Timestamp, now: Timestamp) -> Option<&'static str> {
        let last = now.checked_add(AHEAD_MAX).unwrap_or(Timestamp::MAX);
        if at <= now {
            return Some("is not in the future");
        }
        (at > last).then_some("is more than five years ahead")
    }
}

/// The state of an operation's `until`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UntilState {
    /// Not due yet, or due and not yet carried out.
    Ahead,
    /// Called off: what the operation did stays.
    CalledOff,
    /// Carried out by this operation.
    Reverted(OperationId),
    /// There was nothing to undo when it was due.
    Moot,
}

impl UntilState {
    /// The name, the same in the API and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ahead => "ahead",
            Self::CalledOff => "called-off",
            Self::Reverted(_) => "reverted",
            Self::Moot => "moot",
        }
    }
}

impl Submission {
    /// When it was approved, or else accepted. From then on, once it is queued, only Graph keeps it from being applied.
    pub fn ready_at(&self) -> Timestamp {
        let answer = self.approval.as_ref().and_then(|approval| approval.answer.as_ref());
        answer.map_or(self.accepted_at, |answer| answer.at)
    }

    /// Whether it carries out the `until` of another operation. Nobody would request that again, so it has no deadline.
    pub fn carries_out_until(&self) -> bool {
        self.change.reversal().is_some_and(|reversal| reversal.cause() == Cause::Until)
    }

    /// Whether the change states the whole set and may be applied to an empty one: it is bound to no set or to the empty
    /// one. Then what was read does not matter; with such a change a person confirms that an empty set is really empty.
    pub fn states_the_whole_set(&self) -> bool {
        let empty = || AssignmentSet::default().digest();
        matches!(self.change, Change::Replace(_)) && self.only_on.as_ref().is_none_or(|only_on| *only_on == empty())
    }
}

impl<'a> From<&'a Submission> for ConditionalChange<'a> {
    fn from(Submission { change, only_on, .. }: &'a Submission) -> Self {
        Self { change, only_on: only_on.as_ref() }
    }
}

/// An accepted change and its fate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Its id.
    pub id: OperationId,
    /// What was accepted.
    pub submission: Submission,
    /// What has become of it.
    pub state: State,
}

impl Operation {
    /// Whether it changed something, so that there is something to undo.
    pub fn has_changed_something(&self) -> bool {
        matches!(&self.state, State::Succeeded(success) if !success.difference.is_empty())
    }
}

/// What has become of an operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum State {
    /// Committed; waits for a second person's approval.
    #[serde(rename = "awaiting_approval")]
    AwaitingApproval,
    /// Committed; waits for its lane.
    Queued,
    /// Its lane is working on it.
    Running {
        /// Since when.
        started_at: Timestamp,
    },
    /// Graph's set is as the change wants it.
    Succeeded(Success),
    /// It failed; as far as is known, without effect.
    Failed {
        /// When its lane started it; none if it never began.
        started_at: Option<Timestamp>,
        /// When it ended.
        ended_at: Timestamp,
        /// Why.
        failure: Failure,
    },
    /// Cancelled before it began.
    Cancelled {
        /// When.
        ended_at: Timestamp,
    },
}

/// The evidence of a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Success {
    /// When its lane started it.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Timestamp,
    /// What it changed; empty if everything was already as wanted.
    pub difference: Difference,
    /// Digest of the set before the merged write.
    pub before: Digest,
    /// Digest of the set after it.
    pub after: Digest,
    /// The write that did it; none if none was needed.
    pub write: Option<Write>,
}

/// The merged write that carried an operation to Graph.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    /// How many other operations it carried.
    pub merged_with: usize,
    /// Graph's id of the call; none if the response was lost and the set was read back.
    pub request_id: Option<String>,
    /// Postern's id of the call.
    pub client_request_id: String,
}

/// Why an operation failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The kind of failure.
    pub code: FailureCode,
    /// One sentence for a service desk.
    pub detail: String,
    /// Graph's response to the call that failed, if there was one.
    #[serde(default)]
    pub graph: Option<GraphAnswer>,
}

/// Graph's error response.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GraphAnswer {
    /// The HTTP status.
    pub status: u16,
    /// Graph's code; empty if there was none.
    pub code: String,
    /// Graph's message; empty if there was none.
    pub message: String,
    /// Graph's id of the call.
    pub request_id: Option<String>,
    /// Postern's id of the call.
    pub client_request_id: Option<String>,
}

/// The kinds of failure of an accepted change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureCode {
    /// Graph refused the write.
    GraphRefused,
    /// Intune requires an administrator's role for configurations of this kind.
    GraphRoleMissing,
    /// Intune requires a second administrator's approval.
    IntuneApprovalRequired,
    /// Intune does not accept a group of the change as a group.
    InvalidGroup,
    /// The configuration no longer exists.
    ConfigurationGone,
    /// Graph's response is not understood well enough to write on top of it.
    PresentSetUnreadable,
    /// The set reads as empty although Postern left it non-empty; a write after a faulty read would wipe it.
    PresentSetVanished,
    /// Graph kept it from being applied until its deadline.
    DeadlinePassed,
    /// The set is not the one that the change is bound to.
    PreconditionFailed,
    /// The second person rejected it.
    ApprovalRejected,
    /// Nobody approved it in time.
    ApprovalExpired,
}

impl FailureCode {
    /// The name, the same in the store, the audit trail and the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::GraphRefused => "graph-refused",
            Self::GraphRoleMissing => "graph-role-missing",
            Self::IntuneApprovalRequired => "intune-approval-required",
            Self::InvalidGroup => "invalid-group",
            Self::ConfigurationGone => "configuration-gone",
            Self::PresentSetUnreadable => "present-set-unreadable",
            Self::PresentSetVanished => "present-set-vanished",
            Self::DeadlinePassed => "deadline-passed",
            Self::PreconditionFailed => "precondition-failed",
            Self::ApprovalRejected => "approval-rejected",
            Self::ApprovalExpired => "approval-expired",
        }
    }
}

/// A transition that does not exist.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("an operation that is {from} cannot become {to}")]
pub struct IllegalTransition {
    from: &'static str,
    to: &'static str,
}

impl State {
    /// The names of all states, as in API and store.
    pub const NAMES: [&'static str; 6] = ["awaiting_approval", "queued", "running", "succeeded", "failed", "cancelled"];

    /// The names of the states in which an operation has not ended.
    pub const PENDING: [&'static str; 3] = ["awaiting_approval", "queued", "running"];

    /// The name, the same in the store, the audit trail and the API.
    pub fn name(&self) -> &'static str {
        match self {
            Self::AwaitingApproval => "awaiting_approval",
            Self::Queued => "queued",
            Self::Running { .. } => "running",
            Self::Succeeded(_) => "succeeded",
            Self::Failed { .. } => "failed",
            Self::Cancelled { .. } => "cancelled",
        }
    }

    /// Whether it is in a final state.
    pub fn has_ended(&self) -> bool {
        match self {
            Self::AwaitingApproval | Self::Queued | Self::Running { .. } => false,
            Self::Succeeded(_) | Self::Failed { .. } | Self::Cancelled { .. } => true,
        }
    }

    /// When it ended, if it has.
    pub fn ended_at(&self) -> Option<Timestamp> {
        match self {
            Self::AwaitingApproval | Self::Queued | Self::Running { .. } => None,
            Self::Succeeded(Success { ended_at, .. })
            | Self::Failed { ended_at, .. }
            | Self::Cancelled { ended_at } => Some(*ended_at),
        }
    }

    pub(super) fn illegal(&self, to: &'static str) -> IllegalTransition {
        IllegalTransition { from: self.name(), to }
    }

    /// A lane starts it, or starts it again after a crash; then it keeps its first start.
    pub fn start(self, at: Timestamp) -> Result<Self, IllegalTransition> {
        match self {
            Self::Queued => Ok(Self::Running { started_at: at }),
            running @ Self::Running { .. } => Ok(running),
            other @ (Self::AwaitingApproval | Self::Succeeded(_) | Self::Failed { .. } | Self::Cancelled { .. }) => {
                Err(other.illegal("running"))
            }
        }
    }

    /// It succeeds.
    pub fn succeed(self, end: SuccessEvidence) -> Result<Self, IllegalTransition> {
        match self {
            Self::Running { started_at } => {
                let SuccessEvidence { at: ended_at, difference, before, after, write } = end;
                Ok(Self::Succeeded(Success { started_at, ended_at, difference, before, after, write }))
            }
            other @ (Self::AwaitingApproval
            | Self::Queued
            | Self::Succeeded(_)
            | Self::Failed { .. }
            | Self::Cancelled { .. }) => Err(other.illegal("succeeded")),
        }
    }

    /// A running operation fails.
    pub fn fail(self, at: Timestamp, failure: Failure) -> Result<Self, IllegalTransition> {
        match self {
            Self::Running { started_at } => Ok(Self::Failed { started_at: Some(started_at), ended_at: at, failure }),
            other @ (Self::AwaitingApproval
            | Self::Queued
            | Self::Succeeded(_)
            | Self::Failed { .. }
            | Self::Cancelled { .. }) => Err(other.illegal("failed")),
        }
    }

    /// It is cancelled before it begins.
    pub fn cancel(self, at: Timestamp) -> Result<Self, IllegalTransition> {
        match self {
            Self::AwaitingApproval | Self::Queued => Ok(Self::Cancelled { ended_at: at }),
            other @ (Self::Running { .. } | Self::Succeeded(_) | Self::Failed { .. } | Self::Cancelled { .. }) => {
                Err(other.illegal("cancelled"))
            }
        }
    }
}

/// What a lane records about a success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SuccessEvidence {
    /// When.
    pub at: Timestamp,
    /// What it changed.
    pub difference: Difference,
    /// Digest of the set before the merged write.
    pub before: Digest,
    /// Digest of the set after it.
    pub after: Digest,
    /// The write that did it; none if none was needed.
    pub write: Option<Write>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ending() -> SuccessEvidence {
        let digest = Digest::of(b"");
        SuccessEvidence {
            at: Timestamp::UNIX_EPOCH,
            difference: Difference::default(),
            before: digest.clone(),
            after: digest,
            write: None,
        }
    }

    fn failure() -> Failure {
        Failure { code: FailureCode::GraphRefused, detail: "no".to_owned(), graph: None }
    }

    #[test]
    fn only_the_transitions_on_the_map_are_legal() {
        let at = Timestamp::UNIX_EPOCH;
        let running = State::Queued.start(at).unwrap();
        let ended = [
            running.clone().succeed(ending()).unwrap(),
            running.clone().fail(at, failure()).unwrap(),
            State::Queued.cancel(at).unwrap(),
        ];
        assert!(State::Queued.succeed(ending()).is_err() && State::Queued.fail(at, failure()).is_err());
        assert!(running.clone().cancel(at).is_err());
        assert_eq!(running.clone().start(Timestamp::MAX), Ok(running));
        for state in ended {
            assert!(state.has_ended());
            assert!(state.clone().start(at).is_err() && state.clone().cancel(at).is_err());
            assert!(state.clone().succeed(ending()).is_err() && state.fail(at, failure()).is_err());
        }
    }

    #[test]
    fn what_waits_for_approval_does_not_begin_and_can_be_taken_back() {
        let at = Timestamp::UNIX_EPOCH;
        assert!(State::AwaitingApproval.start(at).is_err());
        assert!(State::AwaitingApproval.succeed(ending()).is_err());
        assert!(State::AwaitingApproval.fail(at, failure()).is_err());
        assert!(State::AwaitingApproval.cancel(at).is_ok());
        assert!(!State::AwaitingApproval.has_ended());
    }

    #[test]
    fn a_state_survives_the_store() {
        let state = State::Queued.start(Timestamp::UNIX_EPOCH).unwrap().succeed(ending()).unwrap();
        let stored = serde_json::to_string(&state).unwrap();
        assert_eq!(serde_json::from_str::<State>(&stored).unwrap(), state);
        assert!(State::NAMES.contains(&state.name()));
    }
}
