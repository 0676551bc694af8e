//! Why a verb failed, by what the caller can do about it.
//!
//! One enum for all verbs; `api` turns it into problems without a catch-all arm, so a new way to fail must be given an
//! answer.

use std::time::Duration;

use super::{candidates::Candidate, request::Fault};
use crate::{
    domain::{Digest, Failure, FailureCode, Operation, OperationId},
    graph::{self, Reason},
    store,
};

/// Why a verb failed. Each variant says what the caller can do about it.
#[derive(Debug)]
pub enum Error {
    /// Name another configuration.
    UnknownConfiguration {
        /// The name that was given.
        reference: String,
        /// What could be meant.
        candidates: Vec<Candidate>,
    },
    /// Name other groups or filters; with what could be meant.
    UnknownTarget(Vec<Fault>, Vec<Candidate>),
    /// Name another group; with what could be meant.
    UnknownGroup(String, Vec<Candidate>),
    /// Give the id of the one that is meant; with the candidates.
    AmbiguousName(Vec<Fault>, Vec<Candidate>),
    /// Request other targets.
    NotAssignable(Vec<Fault>),
    /// Correct the change.
    InvalidChange(Vec<Fault>),
    /// Ask the security officer; the sentence names the policy.
    Denied(String),
    /// Use another idempotency key; this one belongs to another request, for this operation.
    KeyReused(OperationId),
    /// Retry when some of the configuration's changes have ended; this is its name.
    TooManyPending(String),
    /// Retry when some changes have ended.
    Full,
    /// Continue from the end of a page of this trail.
    UnknownCursor,
    /// Name another operation.
    UnknownOperation,
    /// Revert it after its end: the operation, in its current state, can no longer be cancelled.
    TooLate(Box<Operation>),
    /// Revert the operation, or leave it as it is: it has no end that is still ahead.
    UntilOver(Box<Operation>),
    /// Do nothing, or wait for its end: the operation, in its current state, has done nothing that could be undone.
    NothingToRevert(Box<Operation>),
    /// Wait for the end of the operation, or of the attempts to report it; or it has no callback.
    NothingToResend(Box<Operation>),
    /// Read the set again, and make the change conditional on the present one.
    PreconditionFailed {
        /// Digest of the present set.
        found: Digest,
    },
    /// Read the operation: it does not await approval, or no longer.
    NotAwaiting(Box<Operation>),
    /// Retry later.
    GraphUnavailable {
        /// What happened.
        detail: String,
        /// How long to wait, if Graph said so.
        pause: Option<Duration>,
    },
    /// Contact the gateway's operators.
    GraphNotAuthorised(String),
    /// Contact the administrators of the tenant; the sentence names the permission.
    GraphPermissionMissing(String),
    /// Read in the failure what Graph refuses, and why.
    GraphRefused(Box<Failure>),
    /// Contact the gateway's operators: Graph's answer cannot be understood.
    GraphUnusable(String),
    /// Retry later; nothing was stored.
    Store(store::Error),
}

/// Faults of one change that its record and the sentence for its caller list.
const FAULTS_TOLD: usize = 10;

impl Error {
    /// Why a change is refused, for its record; none if undecided, or if denied by policy, which has a record of its own.
    pub(super) fn refusal(&self) -> Option<String> {
        Some(match self {
            Self::UnknownConfiguration { reference, .. } => format!("there is no configuration {reference:?}"),
            Self::UnknownTarget(faults, _)
            | Self::AmbiguousName(faults, _)
            | Self::NotAssignable(faults)
            | Self::InvalidChange(faults) => listed(faults),
            Self::NothingToRevert(_) => "it did nothing that could be undone, or has not ended".to_owned(),
            Self::KeyReused(operation) => format!("its idempotency key stands for another change: {operation}"),
            Self::TooManyPending(name) => format!("too many changes of {name:?} are waiting"),
            Self::Full => "too many changes are waiting".to_owned(),
            Self::GraphRefused(failure) => failure.detail.clone(),
            Self::UnknownGroup(..)
            | Self::Denied(_)
            | Self::UnknownCursor
            | Self::UnknownOperation
            | Self::TooLate(_)
            | Self::UntilOver(_)
            | Self::NothingToResend(_)
            | Self::PreconditionFailed { .. }
            | Self::NotAwaiting(_)
            | Self::GraphUnavailable { .. }
            | Self::GraphNotAuthorised(_)
            | Self::GraphPermissionMissing(_)
            | Self::GraphUnusable(_)
            | Self::Store(_) => return None,
        })
    }

    fn refused(failure: Failure) -> Self {
        Self::GraphRefused(Box::new(failure))
    }
}

/// Faults as one sentence.
pub fn listed(faults: &[Fault]) -> String {
    let mut told: Vec<_> = faults
        .iter()
        .take(FAULTS_TOLD)
        .map(
            |Fault { pointer, detail }| {
                if pointer.is_empty() { detail.clone() } else { format!("{pointer}: {detail}") }
            },
        )
        .collect();
    let more = faults.len().saturating_sub(FAULTS_TOLD);
    if more > 0 {
        told.push(format!("and {more} more"));
    }
    told.join("; ")
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        Self::Store(error)
    }
}

impl From<graph::Error> for Error {
    fn from(error: graph::Error) -> Self {
        let detail = error.to_string();
        match error {
            graph::Error::Throttled { pause } => Self::GraphUnavailable { detail, pause: Some(pause) },
            graph::Error::Unavailable(_) | graph::Error::Unknown(_) => Self::GraphUnavailable { detail, pause: None },
            graph::Error::Forbidden(refusal) if matches!(refusal.reason, Reason::Permission(_)) => {
                Self::GraphPermissionMissing(refusal.failure(FailureCode::GraphRefused).detail)
            }
            graph::Error::Unauthorised(_) | graph::Error::Forbidden(_) => Self::GraphNotAuthorised(detail),
            graph::Error::Missing(refusal) => Self::refused(refusal.failure(FailureCode::ConfigurationGone)),
            graph::Error::Refused(refusal) => Self::refused(refusal.failure(FailureCode::GraphRefused)),
            graph::Error::Unreadable(_) => Self::GraphUnusable(detail),
        }
    }
}
