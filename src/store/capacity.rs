//! Whether there is room for more pending operations: counted once for many acceptances.
//!
//! Operations that wait for approval can do so for days, and take half of each bound at most: changes that nobody has approved
//! never keep others out.

use std::collections::HashMap;

use super::{Acceptance, LimitReached};
use crate::domain::State;

/// How many operations are pending: the last count, plus what was accepted since.
#[derive(Debug, Default)]
pub(super) struct PendingCapacity {
    of_configuration: HashMap<String, Count>,
    in_all: Count,
}

/// Pending operations.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    all: usize,
    /// Those of them that wait for approval.
    awaiting: usize,
}

/// So many operations of a configuration wait for this.
pub(super) struct Pending {
    pub(super) configuration: String,
    pub(super) number: i64,
    pub(super) wait: Wait,
}

/// What a pending operation waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// A person's approval.
    Approval,
    /// A turn of its lane, or the end of that turn.
    Turn,
}

impl Wait {
    fn of(Acceptance { operation, .. }: &Acceptance) -> Self {
        if operation.state == State::AwaitingApproval { Self::Approval } else { Self::Turn }
    }
}

impl PendingCapacity {
    /// From a count of pending operations by configuration and state.
    pub(super) fn new(pending: impl IntoIterator<Item = Pending>) -> Self {
        let mut capacity = Self::default();
        for Pending { configuration, number, wait } in pending {
            capacity.count(&configuration, usize::try_from(number).unwrap_or(0), wait);
        }
        capacity
    }

    /// Takes a place for an operation, or returns the bound that is reached.
    pub(super) fn reserve(&mut self, acceptance: &Acceptance) -> Option<LimitReached> {
        let Acceptance { operation, limits: bounds, .. } = acceptance;
        let wait = Wait::of(acceptance);
        let of_configuration = self.of_configuration.get(operation.submission.configuration.as_str()).copied();
        if of_configuration.unwrap_or_default().is_exhausted(bounds.per_configuration, wait) {
            return Some(LimitReached::Configuration);
        }
        if self.in_all.is_exhausted(bounds.total, wait) {
            return Some(LimitReached::Total);
        }
        self.add(acceptance);
        None
    }

    /// Counts an operation that already has its place.
    pub(super) fn add(&mut self, acceptance: &Acceptance) {
        self.count(acceptance.operation.submission.configuration.as_str(), 1, Wait::of(acceptance));
    }

    fn count(&mut self, configuration: &str, number: usize, wait: Wait) {
        for count in [self.of_configuration.entry(configuration.to_owned()).or_default(), &mut self.in_all] {
            count.all = count.all.saturating_add(number);
            if wait == Wait::Approval {
                count.awaiting = count.awaiting.saturating_add(number);
            }
        }
    }
}

impl Count {
    /// Whether there is no room under this bound for one more.
    fn is_exhausted(self, bound: usize, wait: Wait) -> bool {
        self.all >= bound || (wait == Wait::Approval && self.awaiting >= bound.div_ceil(2))
    }
}
