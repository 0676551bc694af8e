//! What became of the house's errors as callers see it: to each its problem.
//!
//! Guarantees: every way to fail has an answer, since no match has an arm that catches the rest; what is for operators only
//! goes to the log, once, here.
//!
//! It deliberately knows neither statuses nor titles; the catalogue in `problem` does.

use std::time::Duration;

use super::problem::{Code, Problem};
use crate::{
    auth::Rejection,
    domain::{Failure, FailureCode, Operation, OperationId, State},
    gateway::{self, request::Fault},
};

/// How long a caller should leave the gateway alone where changes must end first: several turns of a lane.
const RETRY_AFTER_FULL: Duration = Duration::from_secs(30);

impl From<FailureCode> for Code {
    fn from(code: FailureCode) -> Self {
        match code {
            FailureCode::GraphRefused => Self::GraphRefused,
            FailureCode::GraphRoleMissing => Self::GraphRoleMissing,
            FailureCode::IntuneApprovalRequired => Self::IntuneApprovalRequired,
            FailureCode::InvalidGroup => Self::InvalidGroup,
            FailureCode::ConfigurationGone => Self::ConfigurationGone,
            FailureCode::PresentSetUnreadable => Self::PresentSetUnreadable,
            FailureCode::PresentSetVanished => Self::PresentSetVanished,
            FailureCode::DeadlinePassed => Self::DeadlinePassed,
            FailureCode::PreconditionFailed => Self::PreconditionFailed,
            FailureCode::ApprovalRejected => Self::ApprovalRejected,
            FailureCode::ApprovalExpired => Self::ApprovalExpired,
        }
    }
}

impl From<&Failure> for Problem {
    fn from(Failure { code, detail, graph }: &Failure) -> Self {
        Self::new(Code::from(*code), detail).with_words(graph.as_ref())
    }
}

fn no_such_page() -> Problem {
    let detail = "is not the end of a page of this audit trail".to_owned();
    let fault = Fault { pointer: "/after".to_owned(), detail };
    Problem::with_errors(Code::InvalidQuery, "The query cannot be used", vec![fault])
}

impl From<gateway::Error> for Problem {
    fn from(error: gateway::Error) -> Self {
        use gateway::Error;
        match error {
            Error::UnknownConfiguration { reference, candidates } => {
                let detail = format!("There is no configuration {reference:?} in the catalogue or in Graph.");
                Self::new(Code::UnknownConfiguration, detail).candidates(candidates)
            }
            Error::UnknownTarget(faults, candidates) => {
                Self::with_errors(Code::UnknownTarget, "Nothing was changed", faults).candidates(candidates)
            }
            Error::UnknownGroup(detail, candidates) => Self::new(Code::UnknownGroup, detail).candidates(candidates),
            Error::AmbiguousName(faults, candidates) => Self::ambiguous(faults).candidates(candidates),
            Error::NotAssignable(faults) => Self::with_errors(Code::NotAssignable, "Nothing was changed", faults),
            Error::InvalidChange(faults) => Self::with_errors(Code::InvalidChange, "Nothing was changed", faults),
            Error::Denied(reason) => Self::new(Code::NotPermitted, reason),
            Error::KeyReused(operation) => key_reused(operation),
            Error::TooManyPending(configuration) => {
                let detail = format!(
                    "Nothing was changed: too many changes of {configuration:?} are waiting already. Ask again later."
                );
                Self::new(Code::TooManyPending, detail).retry_after(RETRY_AFTER_FULL)
            }
            Error::Full => {
                let detail = "Nothing was changed: too many changes are waiting already. Ask again later.";
                Self::new(Code::GatewayFull, detail).retry_after(RETRY_AFTER_FULL)
            }
            Error::UnknownCursor => no_such_page(),
            Error::UnknownOperation => {
                Self::new(Code::UnknownOperation, "There is no such operation, or you may not see it.")
            }
            Error::TooLate(operation) => too_late(&operation),
            Error::UntilOver(operation) => until_over(&operation),
            Error::NothingToResend(operation) => nothing_to_resend(&operation),
            Error::NothingToRevert(operation) => nothing_to_revert(&operation),
            Error::PreconditionFailed { found } => {
                let detail = format!("The assignments are not those that If-Match names: their ETag is \"{found}\".");
                Self::new(Code::PreconditionFailed, detail)
            }
            Error::NotAwaiting(operation) => not_awaiting(&operation),
            Error::GraphUnavailable { detail, pause } => {
                tracing::warn!(error = detail, "Graph is not available");
                match pause {
                    Some(pause) => {
                        let detail = "Graph or its login service asks for a pause. Ask again after it.";
                        Self::new(Code::GraphThrottled, detail).retry_after(pause)
                    }
                    None => Self::new(Code::GraphUnavailable, "Graph cannot be asked at present. Ask again later."),
                }
            }
            Error::GraphNotAuthorised(detail) => {
                tracing::error!(error = detail, "Graph or its login service refuses the gateway");
                let detail = "Graph does not let the gateway do this. Its operators find the reason in the log.";
                Self::new(Code::GraphNotAuthorised, detail)
            }
            Error::GraphPermissionMissing(detail) => {
                tracing::error!(error = detail, "the gateway lacks a permission");
                Self::new(Code::GraphPermissionMissing, detail)
            }
            Error::GraphRefused(failure) => Self::from(&*failure),
            Error::GraphUnusable(detail) => Self::new(Code::PresentSetUnreadable, detail),
            Error::Store(error) => {
                tracing::error!(%error, "the store failed");
                Self::new(
                    Code::StoreUnavailable,
                    "The gateway cannot use its store at present. Ask again; under the same Idempotency-Key nothing is done twice.",
                )
            }
        }
    }
}

fn too_late(Operation { id, state, .. }: &Operation) -> Problem {
    let how = if state.has_ended() { "has already ended: it" } else { "has begun: it is" };
    let detail = format!("The operation {how} {}. When it has ended, revert it to undo what it did.", state.name());
    Problem::new(Code::TooLateToCancel, detail).about(*id)
}

fn until_over(Operation { id, submission, .. }: &Operation) -> Problem {
    let detail = match submission.until {
        Some(_) => "The operation's end has come already, or there was nothing to undo.",
        None => "No end is set for what the operation does.",
    };
    Problem::new(Code::NoUntilAhead, detail).about(*id)
}

fn key_reused(operation: OperationId) -> Problem {
    let detail = "This Idempotency-Key was used before for a different body. Use a new key for a new change.";
    Problem::new(Code::KeyReused, detail).about(operation)
}

fn nothing_to_resend(Operation { id, submission, .. }: &Operation) -> Problem {
    let detail = match submission.callback {
        Some(_) => "The operation's callback is still to be delivered: it is sent without being asked for.",
        None => "Nobody is to be told of the operation's end: it has no callback.",
    };
    Problem::new(Code::NothingToResend, detail).about(*id)
}

fn nothing_to_revert(Operation { id, state, .. }: &Operation) -> Problem {
    let name = state.name();
    let (code, detail) = match state {
        State::AwaitingApproval | State::Queued | State::Running { .. } => {
            (Code::NotEnded, format!("The operation has not ended: it is {name}. Ask again after its end."))
        }
        State::Succeeded(_) => {
            (Code::NothingToRevert, "The operation changed nothing, so there is nothing to undo.".to_owned())
        }
        State::Failed { .. } | State::Cancelled { .. } => {
            (Code::NothingToRevert, format!("The operation had no effect, so there is nothing to undo: it is {name}."))
        }
    };
    Problem::new(code, detail).about(*id)
}

fn not_awaiting(Operation { id, state, .. }: &Operation) -> Problem {
    let detail = if *state == State::AwaitingApproval {
        "The time to approve the operation is over.".to_owned()
    } else {
        format!("The operation awaits no approval: it is {}.", state.name())
    };
    Problem::new(Code::NotAwaitingApproval, detail).about(*id)
}

impl From<Rejection> for Problem {
    fn from(rejection: Rejection) -> Self {
        let detail = rejection.to_string();
        let code = match rejection {
            Rejection::Missing => Code::Unauthenticated,
            Rejection::Malformed(_) | Rejection::Invalid(_) => Code::InvalidToken,
            Rejection::UnknownCaller { .. } => Code::UnknownCaller,
            Rejection::KeysUnavailable { .. } => Code::KeysUnavailable,
        };
        Self::new(code, detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_login_service_says_of_the_gateway_is_for_the_log() {
        let said = "AADSTS7000215: Invalid client secret for app 5f0c";
        let errors = [
            gateway::Error::GraphNotAuthorised(said.to_owned()),
            gateway::Error::GraphUnavailable { detail: said.to_owned(), pause: None },
        ];
        for error in errors {
            assert!(!Problem::from(error).to_value().to_string().contains("AADSTS"));
        }
    }
}
