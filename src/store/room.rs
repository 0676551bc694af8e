//! Whether there is room for more pending operations: counted once for many acceptances.

use std::collections::HashMap;

use super::{Acceptance, Full};

/// How many operations are pending: the last count, plus what was accepted since.
#[derive(Debug, Default)]
pub(super) struct Room {
    of_configuration: HashMap<String, usize>,
    in_all: usize,
}

impl Room {
    /// From a count of pending operations by configuration; a configuration may occur more than once.
    pub(super) fn new(pending: impl IntoIterator<Item = (String, i64)>) -> Self {
        let mut of_configuration: HashMap<String, usize> = HashMap::new();
        for (lane, number) in pending {
            let counted = of_configuration.entry(lane).or_default();
            *counted = counted.saturating_add(usize::try_from(number).unwrap_or(0));
        }
        let in_all = of_configuration.values().copied().fold(0, usize::saturating_add);
        Self { of_configuration, in_all }
    }

    /// Takes a place for an operation, or returns the bound that is reached.
    pub(super) fn take(&mut self, acceptance: &Acceptance) -> Option<Full> {
        let Acceptance { operation, bounds, .. } = acceptance;
        let of_configuration = self.of_configuration.get(operation.submission.configuration.as_str()).copied();
        if of_configuration.unwrap_or(0) >= bounds.of_configuration {
            return Some(Full::Configuration);
        }
        if self.in_all >= bounds.in_all {
            return Some(Full::Everything);
        }
        self.add(acceptance);
        None
    }

    /// Counts an operation that already has its place.
    pub(super) fn add(&mut self, Acceptance { operation, .. }: &Acceptance) {
        let of_configuration = self.of_configuration.entry(operation.submission.configuration.to_string()).or_default();
        *of_configuration = of_configuration.saturating_add(1);
        self.in_all = self.in_all.saturating_add(1);
    }
}
