//! Assignments that come from policy sets, as stored with a configuration, to detect when they are gone.
//!
//! Nobody outside Microsoft knows whether `assign` leaves them alone. They are not ours to post, so all we can do is
//! detect a loss: it is recorded once, whichever replica sees it, and nothing repairs it.
//!
//! It deliberately only compares: the store keeps what was seen last, so a restart forgets nothing.

use crate::{
    audit::RecordedTarget,
    domain::{Assignment, Digest},
};

/// Some are gone.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Loss {
    /// Digest of those seen before.
    pub(super) left: Digest,
    /// Digest of those present now.
    pub(super) found: Digest,
}

/// One line per assignment, sorted. They are stored, so the line for a given assignment must never change.
pub(super) fn lines(assignments: &[Assignment]) -> Vec<String> {
    let line = |assignment: &Assignment| {
        let RecordedTarget { target, filter } = RecordedTarget::of(&assignment.target, assignment.filter);
        format!("{target} {}\n", filter.unwrap_or_default())
    };
    let mut lines: Vec<_> = assignments.iter().map(line).collect();
    lines.sort_unstable();
    lines
}

/// The loss, if an assignment that was there before is gone.
pub(super) fn loss(before: &[String], now: &[String]) -> Option<Loss> {
    let digest = |lines: &[String]| Digest::of(lines.concat().as_bytes());
    let gone = before.iter().any(|line| !now.contains(line));
    gone.then(|| Loss { left: digest(before), found: digest(now) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Filter, FilterMode, Target};

    #[test]
    fn what_is_stored_of_an_assignment_stays_as_it_is() {
        let id = "00000000-0000-0000-0000-000000000001";
        let filter = Some(Filter { id: id.parse().unwrap(), mode: FilterMode::Exclude });
        let of = |filter| Assignment { target: Target::AllUsers, filter, unread: None };
        assert_eq!(lines(&[of(filter)]), [format!("all users exclude {id}\n")]);
        assert_eq!(lines(&[of(None)]), ["all users \n"]);
    }

    #[test]
    fn what_is_gone_is_a_loss_and_what_is_added_or_in_another_order_is_none() {
        let all = |targets: &[Target]| {
            let of = |target: &Target| Assignment { target: target.clone(), filter: None, unread: None };
            lines(&targets.iter().map(of).collect::<Vec<_>>())
        };
        let (none, users) = (all(&[]), all(&[Target::AllUsers]));
        let both = all(&[Target::AllDevices, Target::AllUsers]);
        assert_eq!(all(&[Target::AllUsers, Target::AllDevices]), both);
        for (before, now) in [(&none, &none), (&none, &users), (&users, &both), (&both, &both)] {
            assert_eq!(loss(before, now), None);
        }
        let digest = |lines: &[String]| Digest::of(lines.concat().as_bytes());
        for (before, now) in [(&both, &users), (&users, &none), (&both, &none)] {
            assert_eq!(loss(before, now), Some(Loss { left: digest(before), found: digest(now) }));
        }
    }
}
