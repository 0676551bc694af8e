//! What came from policy sets when this process last read a set, to tell when it is gone.
//!
//! Nobody outside Microsoft knows whether `assign` leaves assignments of policy sets alone. They are not ours to post, so
//! all there is to do is to notice: a loss is on record once, and nothing repairs it.
//!
//! It deliberately lives in memory only: a loss while no gateway runs goes unnoticed, and each replica tells what it saw
//! itself.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use crate::domain::{Assignment, ConfigurationId, Digest};

type Seen = HashMap<ConfigurationId, Vec<Assignment>>;

/// Assignments of policy sets by configuration, as they were seen last.
#[derive(Clone, Debug, Default)]
pub(super) struct PolicySets(Arc<Mutex<Seen>>);

/// That some are gone.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Loss {
    /// Digest of those that were seen before.
    pub(super) left: Digest,
    /// Digest of those that are there now.
    pub(super) found: Digest,
}

impl PolicySets {
    /// Notes what is there now, and tells whether something is gone that was there before.
    pub(super) fn note(&self, configuration: &ConfigurationId, now: &[Assignment]) -> Option<Loss> {
        // A panic cannot leave it half changed: each change of it is one call.
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before =
            if now.is_empty() { seen.remove(configuration) } else { seen.insert(configuration.clone(), now.to_vec()) };
        let before = before.unwrap_or_default();
        let gone = before.iter().any(|assignment| !now.contains(assignment));
        gone.then(|| Loss { left: digest(&before), found: digest(now) })
    }
}

/// A fingerprint of assignments, whatever their order.
fn digest(assignments: &[Assignment]) -> Digest {
    let line = |assignment: &Assignment| format!("{} {:?}\n", assignment.target, assignment.filter);
    let mut lines: Vec<_> = assignments.iter().map(line).collect();
    lines.sort_unstable();
    Digest::of(lines.concat().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Target;

    #[test]
    fn a_loss_is_told_once_and_an_addition_is_none() {
        let id: ConfigurationId = "9f1c6a4e-8a77-4b8e-9d6e-3a54b2f1c0aa_Limit".parse().unwrap();
        let all = |target| Assignment { target, filter: None, unread: None };
        let users = [all(Target::AllUsers)];
        let [both, reversed] = [[Target::AllDevices, Target::AllUsers], [Target::AllUsers, Target::AllDevices]];
        let (both, reversed) = (both.map(all), reversed.map(all));
        let seen = PolicySets::default();
        assert_eq!(seen.note(&id, &[]), None);
        assert_eq!(seen.note(&id, &users), None);
        assert_eq!(seen.note(&id, &both), None);
        assert_eq!(seen.note(&id, &reversed), None);
        assert_eq!(seen.note(&id, &users), Some(Loss { left: digest(&both), found: digest(&users) }));
        assert_eq!(seen.note(&id, &users), None);
        assert!(seen.note(&id, &[]).is_some());
        assert_eq!(seen.note(&id, &[]), None);
    }
}
