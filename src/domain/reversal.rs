//! Undoing what an operation did, except what somebody has changed since.
//!
//! Guarantees, each tested as a property: undoing an operation restores the set, unknown fields included, if nobody has
//! changed it since; nothing outside its difference is touched; undoing twice is the same as undoing once; undoing a
//! reversal redoes what it undid; undoing several operations that overlap restores the set in any order.
//!
//! Applied, it deliberately looks at the present set only: a target that is again as the operation left it counts as unchanged,
//! no matter who made it so.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{
    assignment::{Assignment, AssignmentSet, Target},
    change::{Changed, DesiredAssignment, Difference, KeptReason, KeptTarget},
    ids::OperationId,
    operation::{Operation, State},
};

/// The reversal of one operation's difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reversal {
    /// The operation that it undoes.
    operation: OperationId,
    /// Why it is undone.
    cause: Cause,
    /// What the operation added: to be removed.
    added: Vec<DesiredAssignment>,
    /// What it removed: to be put back.
    removed: Vec<Assignment>,
    /// Targets whose filter it changed: to be set back.
    changed: Vec<Changed>,
    /// What it removed and cannot be assigned again, with the reasons.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    barred: Vec<KeptTarget>,
}

/// Why an operation is undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// A caller asked for it.
    Asked,
    /// Its own `until` is due.
    Until,
}

impl Cause {
    /// The name, the same in the audit trail and the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Until => "until",
        }
    }
}

impl Reversal {
    /// The reversal of an operation; none if there is nothing to undo, because it did not succeed or changed nothing.
    pub fn of(operation: &Operation, cause: Cause) -> Option<Self> {
        let State::Succeeded(success) = &operation.state else { return None };
        let Difference { added, removed, changed, .. } = success.difference.clone();
        let undoing = Self { operation: operation.id, cause, added, removed, changed, barred: Vec::new() };
        operation.has_changed_something().then_some(undoing)
    }

    /// The same reversal, except that it does not put back assignments for which `why` returns a reason.
    #[must_use]
    pub fn without(mut self, why: impl Fn(&Assignment) -> Option<KeptReason>) -> Self {
        let (mut removed, mut barred) = (Vec::new(), Vec::new());
        for assignment in self.removed {
            match why(&assignment) {
                Some(because) => barred.push(KeptTarget { target: assignment.target, because }),
                None => removed.push(assignment),
            }
        }
        self.removed = removed;
        self.barred.extend(barred);
        self
    }

    /// The same reversal on top of another one: it does not restore what `undone` made, an earlier operation that has been
    /// reverted since, but what was there before that.
    #[must_use]
    pub fn rebased(mut self, undone: &Operation) -> Self {
        let State::Succeeded(success) = &undone.state else { return self };
        for DesiredAssignment { target, filter } in &success.difference.added {
            self.removed.retain(|it| it.target != *target || it.filter != *filter);
            for it in self.changed.extract_if(.., |it| it.target == *target && it.before == *filter) {
                self.added.push(DesiredAssignment { target: it.target, filter: it.after });
            }
        }
        for Changed { target, before, after } in &success.difference.changed {
            let removed = self.removed.iter_mut().filter(|it| it.target == *target).map(|it| &mut it.filter);
            let changed = self.changed.iter_mut().filter(|it| it.target == *target).map(|it| &mut it.before);
            for filter in removed.chain(changed).filter(|filter| *filter == after) {
                *filter = *before;
            }
        }
        for Assignment { target, filter, .. } in &success.difference.removed {
            for it in self.added.extract_if(.., |it| it.target == *target) {
                self.changed.push(Changed { target: it.target, before: *filter, after: it.filter });
            }
        }
        self.changed.retain(|it| it.before != it.after);
        self
    }

    /// The same reversal, which leaves these targets alone; none if there are no others.
    pub fn sparing(mut self, targets: &BTreeSet<Target>) -> Option<Self> {
        self.added.retain(|it| !targets.contains(&it.target));
        self.removed.retain(|it| !targets.contains(&it.target));
        self.changed.retain(|it| !targets.contains(&it.target));
        let rest = [self.added.len(), self.removed.len(), self.changed.len()];
        rest.iter().any(|number| *number > 0).then_some(self)
    }

    /// Which of these operations, reverted since, it depends on: they have changed targets that it affects.
    pub fn depends_on(&self, reverted: &[Operation]) -> Vec<OperationId> {
        let targets = self.targets();
        let shares = |it: &&Operation| {
            let State::Succeeded(success) = &it.state else { return false };
            success.difference.targets().any(|target| targets.contains(target))
        };
        reverted.iter().filter(shares).map(|it| it.id).collect()
    }

    /// The operation that it undoes.
    pub fn operation(&self) -> OperationId {
        self.operation
    }

    /// Why it is undone.
    pub fn cause(&self) -> Cause {
        self.cause
    }

    /// What it removes.
    pub fn taken_out(&self) -> &[DesiredAssignment] {
        &self.added
    }

    /// What it puts back.
    pub fn put_back(&self) -> &[Assignment] {
        &self.removed
    }

    /// What it sets back: each filter from `after` to `before`.
    pub fn set_back(&self) -> &[Changed] {
        &self.changed
    }

    /// All targets that it affects, also those that it cannot put back.
    pub fn targets(&self) -> BTreeSet<&Target> {
        let added = self.added.iter().map(|it| &it.target);
        let removed = self.removed.iter().map(|it| &it.target);
        let changed = self.changed.iter().map(|it| &it.target);
        added.chain(removed).chain(changed).chain(self.barred.iter().map(|it| &it.target)).collect()
    }

    /// Applies it to a set, and adds what that changed to the difference.
    pub(super) fn apply(&self, set: &mut AssignmentSet, difference: &mut Difference) {
        for DesiredAssignment { target, filter } in &self.added {
            match set.of(target).map(|present| present.filter) {
                Some(present) if present == *filter => difference.removed.extend(set.take(target)),
                Some(_) => difference.keep(target, KeptReason::FilterChanged),
                None => {}
            }
        }
        for assignment in &self.removed {
            match set.of(&assignment.target).map(|present| present.filter) {
                None => {
                    difference.added.push(DesiredAssignment::from(assignment));
                    set.restore(assignment.clone());
                }
                Some(present) if present == assignment.filter => {}
                Some(_) => difference.keep(&assignment.target, KeptReason::AssignedAgain),
            }
        }
        for Changed { target, before, after } in &self.changed {
            match set.of(target).map(|present| present.filter) {
                Some(present) if present == *after => {
                    difference.changed.push(Changed { target: target.clone(), before: *after, after: *before });
                    set.put(target.clone(), *before);
                }
                Some(present) if present == *before => {}
                Some(_) => difference.keep(target, KeptReason::FilterChanged),
                None => difference.keep(target, KeptReason::Removed),
            }
        }
        let gone = self.barred.iter().filter(|kept| set.of(&kept.target).is_none());
        difference.kept.extend(gone.cloned());
    }
}
