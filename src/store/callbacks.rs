//! What passes between the sender of callbacks and the store.
//!
//! There is no separate queue: an operation's row says where its end is to be reported, so the transaction that ends it, by
//! whichever verb, also makes its callback due. An attempt is claimed for a time and has a number; its result is stored only
//! while that number is the latest.

use std::{collections::BTreeSet, time::Duration};

use jiff::Timestamp;

use super::{
    Error,
    rows::{moment, unreadable},
};
use crate::{
    audit::Entry,
    domain::{
        Operation, OperationId,
        callback::{CallbackState, Progress},
    },
};

/// A claim to callbacks that are due.
#[derive(Clone, Debug)]
pub struct Claim {
    /// For which destinations.
    pub destinations: Destinations,
    /// How long the claim lasts.
    pub ttl: Duration,
    /// At most this many.
    pub limit: usize,
}

/// Names of destinations.
#[derive(Clone, Debug)]
pub enum Destinations {
    /// This one.
    Named(String),
    /// All but these.
    Except(BTreeSet<String>),
}

/// An attempt to deliver a callback.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The operation, ended.
    pub operation: Operation,
    /// Its number among all attempts of this callback, from one.
    pub number: i64,
    /// The results of those before.
    pub progress: Progress,
}

/// The result of an attempt.
#[derive(Clone, Debug)]
pub struct AttemptResult {
    /// Of which operation.
    pub operation: OperationId,
    /// Its number.
    pub number: i64,
    /// The results so far, this one included.
    pub progress: Progress,
    /// What comes next.
    pub next: Next,
    /// The audit record, if this is the last attempt.
    pub entry: Option<Entry>,
}

/// What comes after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It was the last: the callback is delivered.
    Delivered,
    /// It was the last: delivery is given up.
    Parked,
    /// Another attempt, after this pause.
    Again(Duration),
}

impl Next {
    pub(super) fn state(self) -> CallbackState {
        match self {
            Self::Delivered => CallbackState::Delivered,
            Self::Parked => CallbackState::Parked,
            Self::Again(_) => CallbackState::Pending,
        }
    }
}

/// Sends a callback again.
#[derive(Clone, Debug)]
pub struct Resending {
    /// Of which operation.
    pub operation: OperationId,
    /// When that was requested.
    pub at: Timestamp,
    /// The audit record, stored only if there is something to send again.
    pub entry: Entry,
}

impl Resending {
    /// The progress of a callback that is sent again: no results yet.
    pub fn progress(&self) -> Progress {
        Progress { resent_at: Some(self.at), ..Progress::default() }
    }
}

/// The present state of a callback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Its state.
    pub state: CallbackState,
    /// Attempts so far, including one under way.
    pub attempts: i64,
    /// Their results.
    pub progress: Progress,
    /// When the next one is due, by the clock that the store was opened with; none if there will be none, if one is under way,
    /// or if it is the first.
    pub next_attempt_at: Option<Timestamp>,
}

/// Undelivered callbacks of operations that have ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Undelivered {
    /// How many are still to be delivered.
    pub pending: u64,
    /// When the operation of the longest pending one ended.
    pub oldest: Option<Timestamp>,
    /// How many were given up.
    pub parked: u64,
}

impl Undelivered {
    /// From the store's counts: state, number of callbacks, and when the first of their operations ended.
    pub(super) fn from_states(states: Vec<(String, i64, i64)>) -> Result<Self, Error> {
        let mut undelivered = Self::default();
        for (state, callbacks, oldest) in states {
            let callbacks = u64::try_from(callbacks).unwrap_or(0);
            if state == CallbackState::Pending.name() {
                (undelivered.pending, undelivered.oldest) = (callbacks, Some(moment(oldest)?));
            } else if state == CallbackState::Parked.name() {
                undelivered.parked = callbacks;
            } else {
                return Err(unreadable("operations.callback_state", &state));
            }
        }
        Ok(undelivered)
    }
}
