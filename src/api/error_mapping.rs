//! Maps internal errors to the problems that callers see.
//!
//! Guarantees: every error has a problem, since no match has a catch-all arm; what is for operators only is logged, once,
//! here.
//!
//! It deliberately knows neither statuses nor titles; the catalogue in `problem` does.

use std::time::Duration;

use super::problem::{Code, Problem};
use crate::{
    auth::Rejection,
    domain::{Failure, FailureCode, Operation, OperationId, State},
    gateway::{self, request::Fault},
};

/// `Retry-After` where pending changes must end first: several turns of a lane.
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
        Self::new(Code::from(*code), detail).with_graph_answer(graph.as_ref())
    }
}

fn no_such_page() -> Problem {
    let detail = "is not a cursor of this audit trail".to_owned();
    let fault = Fault { pointer: "/after".to_owned(), detail };
    Problem::with_errors(Code::InvalidQuery, "The query is not valid", vec![fault])
}

impl From<gateway::Error> for Problem {
    fn from(error: gateway::Error) -> Self {
        use gateway::Error;
        match error {
            Error::UnknownConfiguration { reference, candidates } => {
                let question = gateway::question(candidates.iter().map(|candidate| &candidate.name));
                let detail = format!("There is no configuration {reference:?} in the catalogue or in Graph{question}.");
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
                    "Nothing was changed: too many changes of {configuration:?} are pending already. Retry later."
                );
                Self::new(Code::TooManyPending, detail).retry_after(RETRY_AFTER_FULL)
            }
            Error::Full => {
                let detail = "Nothing was changed: too many changes are pending already. Retry later.";
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
                let detail =
                    format!("Nothing was changed: the assignments do not match If-Match: their ETag is \"{found}\".");
                Self::new(Code::PreconditionFailed, detail)
            }
            Error::NotAwaiting(operation) => not_awaiting(&operation),
            Error::GraphUnavailable { detail, pause } => {
                tracing::warn!(error = detail, "Graph is not available");
                match pause {
                    Some(pause) => {
                        let detail = "Graph or its login service throttles requests. Retry as Retry-After says.";
                        Self::new(Code::GraphThrottled, detail).retry_after(pause)
                    }
                    None => Self::new(Code::GraphUnavailable, "Graph is not available at present. Retry later."),
                }
            }
            Error::GraphNotAuthorised(detail) => {
                tracing::error!(error = detail, "Graph or its login service refuses the gateway");
                let detail = "Graph does not authorise the gateway for this. Ask the gateway's operators.";
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
                    "The gateway cannot use its store at present. Retry; with the same Idempotency-Key nothing is done twice.",
                )
            }
        }
    }
}

fn too_late(Operation { id, state, .. }: &Operation) -> Problem {
    let (how, then) = match state {
        State::Succeeded(_) => ("ended", " It can be reverted."),
        state if state.has_ended() => ("ended", ""),
        State::AwaitingApproval
        | State::Queued
        | State::Running { .. }
        | State::Failed { .. }
        | State::Cancelled { .. } => ("begun", " Once it has ended, it can be reverted."),
    };
    let detail = format!("The operation has already {how}: its state is {}.{then}", state.name());
    Problem::new(Code::TooLateToCancel, detail).about(*id)
}

fn until_over(Operation { id, submission, .. }: &Operation) -> Problem {
    let detail = match submission.until {
        Some(_) => "The end that was set for the operation has already come, or there was nothing to undo.",
        None => "No end is set for the operation.",
    };
    Problem::new(Code::NoUntilAhead, detail).about(*id)
}

fn key_reused(operation: OperationId) -> Problem {
    let detail = "This Idempotency-Key was used before for a different request. Use a new key for a new change.";
    Problem::new(Code::KeyReused, detail).about(operation)
}

fn nothing_to_resend(Operation { id, submission, .. }: &Operation) -> Problem {
    let detail = match submission.callback {
        Some(_) => "The operation's callback is still pending: the gateway sends it by itself.",
        None => "The operation has no callback.",
    };
    Problem::new(Code::NothingToResend, detail).about(*id)
}

fn nothing_to_revert(operation: &Operation) -> Problem {
    let Operation { id, state, .. } = operation;
    let name = state.name();
    let (code, detail) = match state {
        State::AwaitingApproval | State::Queued | State::Running { .. } => {
            (Code::NotEnded, format!("The operation has not ended: its state is {name}. Retry once it has ended."))
        }
        State::Succeeded(_) if operation.has_changed_something() => {
            let detail = "What the operation found had been made by operations that have been reverted since, so there is \
                          nothing left to restore.";
            (Code::NothingToRevert, detail.to_owned())
        }
        State::Succeeded(_) => {
            (Code::NothingToRevert, "The operation changed nothing, so there is nothing to undo.".to_owned())
        }
        State::Failed { .. } | State::Cancelled { .. } => {
            (Code::NothingToRevert, format!("The operation is in state {name}, so there is nothing to undo."))
        }
    };
    Problem::new(code, detail).about(*id)
}

fn not_awaiting(Operation { id, state, .. }: &Operation) -> Problem {
    let detail = if *state == State::AwaitingApproval {
        "The time to approve or reject the operation has passed.".to_owned()
    } else {
        format!("The operation is not awaiting approval: its state is {}.", state.name())
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
