//! What passes between the store and whoever delivers callbacks.
//!
//! The end of an operation is the order to tell it: the row of the operation says where, so the transaction that ends it
//! makes its callback due, whichever verb that is. An attempt is claimed for a time and has a number; what came of it is
//! noted only under that number.

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

/// Callbacks that are asked for.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Of which destinations.
    pub destinations: Destinations,
    /// For how long they are wanted.
    pub ttl: Duration,
    /// At most so many.
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
    /// What came of those before.
    pub progress: Progress,
}

/// What came of an attempt.
#[derive(Clone, Debug)]
pub struct Attempted {
    /// Of which operation.
    pub operation: OperationId,
    /// Its number.
    pub number: i64,
    /// What is known now.
    pub progress: Progress,
    /// What comes next.
    pub next: Next,
    /// The audit record of it, if it is the last one.
    pub entry: Option<Entry>,
}

/// What comes after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It was the last: the callback is delivered.
    Delivered,
    /// It was the last: nobody is to be called any more.
    Parked,
    /// Another one, after this pause.
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

/// The order to tell an end again.
#[derive(Clone, Debug)]
pub struct Resending {
    /// Of which operation.
    pub operation: OperationId,
    /// When it was asked for.
    pub at: Timestamp,
    /// The audit record of it, stored only if there is something to send again.
    pub entry: Entry,
}

impl Resending {
    /// What is known of a callback that is sent again.
    pub fn progress(&self) -> Progress {
        Progress { resent_at: Some(self.at), ..Progress::default() }
    }
}

/// How a callback stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its state.
    pub state: CallbackState,
    /// Attempts so far, one that is under way included.
    pub attempts: i64,
    /// What came of them.
    pub progress: Progress,
    /// When the next one is due, by the clock with which the store was opened; none if there is none to come, if one is
    /// under way, or if it is the first.
    pub next_attempt_at: Option<Timestamp>,
}

/// Callbacks of operations that have ended, and were not delivered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Undelivered {
    /// How many are still to be delivered.
    pub pending: u64,
    /// When the operation ended that has waited longest for that.
    pub oldest: Option<Timestamp>,
    /// How many were given up.
    pub parked: u64,
}

impl Undelivered {
    /// From what stands in the store: states, how many are in each, and when the first of their operations ended.
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
