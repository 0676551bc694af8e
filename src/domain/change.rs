//! Changes, and what they do to an assignment set: the core of Postern.
//!
//! A [`Change`] names each target once and never contradicts itself. [`merge`] applies pending changes to the present set,
//! in the order in which they were accepted, and returns the difference that each makes. A change can be bound to the set
//! that its caller saw; on any other it has no effect.
//!
//! Guarantees, each tested as a property: merging twice is the same as merging once; what no change names stays as it is;
//! changes of different targets commute; adding an absent target and removing it restores the set; no condition is judged
//! against a set that is not written yet and may never be.
//!
//! It deliberately decides nothing: whether a kind accepts a target is the table's business; whether a caller may change it,
//! policy's.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{
    assignment::{Assignment, AssignmentSet, Digest, Filter, Target},
    reversal::Reversal,
};

/// An assignment that a caller wants.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DesiredAssignment {
    /// Whom it is to reach.
    pub target: Target,
    /// The filter that is to narrow it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<Filter>,
}

impl From<&Assignment> for DesiredAssignment {
    fn from(assignment: &Assignment) -> Self {
        Self { target: assignment.target.clone(), filter: assignment.filter }
    }
}

/// What a caller wants done to one configuration's assignments. Made by [`Change::amend`], [`Change::replace`] or
/// [`Reversal::of`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// Add these, remove those; everything else stays.
    Amend(Amendment),
    /// Make these the whole set.
    Replace(Vec<DesiredAssignment>),
    /// Undo what an operation did, except what was changed since.
    Revert(Reversal),
}

/// Targets to add and to remove. Not empty; names no target twice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amendment {
    add: Vec<DesiredAssignment>,
    remove: Vec<Target>,
}

/// The list of a change in which a fault is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    /// The targets to add.
    Add,
    /// The targets to remove.
    Remove,
    /// The whole wanted set.
    Replace,
}

/// Why a change is invalid. The texts do not say which group a name stands for: that is not for everybody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It would do nothing.
    #[error("the change is empty: name at least one target to add or to remove")]
    Empty,
    /// It names more targets than are allowed at once.
    #[error("the change names {found} targets, more than the {allowed} allowed at once: split it")]
    TooMany {
        /// How many it names.
        found: usize,
        /// How many it may name.
        allowed: usize,
    },
    /// A target is named twice in one list.
    #[error("the target is named twice; name each target once")]
    Repeated {
        /// The list that names it twice.
        list: List,
        /// Index of the second mention, from zero.
        index: usize,
        /// The target.
        target: Target,
    },
    /// A target is both added and removed.
    #[error("the target is to be both added and removed; name it in one of the lists")]
    Contradictory {
        /// Its index in the list of targets to remove, from zero.
        index: usize,
        /// The target.
        target: Target,
    },
}

impl Change {
    /// The change that adds and removes these targets, at most `allowed` of them. Returns all faults at once.
    pub fn amend(add: Vec<DesiredAssignment>, remove: Vec<Target>, allowed: usize) -> Result<Self, Vec<Fault>> {
        let found = add.len().saturating_add(remove.len());
        let mut faults = bounds(found, allowed);
        if found == 0 {
            faults.push(Fault::Empty);
        }
        faults.extend(repeated(List::Add, add.iter().map(|wanted| &wanted.target)));
        faults.extend(repeated(List::Remove, remove.iter()));
        let added: BTreeSet<_> = add.iter().map(|wanted| &wanted.target).collect();
        let both = remove.iter().enumerate().filter(|(_, target)| added.contains(target));
        faults.extend(both.map(|(index, target)| Fault::Contradictory { index, target: target.clone() }));
        if faults.is_empty() { Ok(Self::Amend(Amendment { add, remove })) } else { Err(faults) }
    }

    /// The change that makes these, at most `allowed`, the whole set; an empty list clears it. Returns all faults at once.
    pub fn replace(wanted: Vec<DesiredAssignment>, allowed: usize) -> Result<Self, Vec<Fault>> {
        let mut faults = bounds(wanted.len(), allowed);
        faults.extend(repeated(List::Replace, wanted.iter().map(|wanted| &wanted.target)));
        if faults.is_empty() { Ok(Self::Replace(wanted)) } else { Err(faults) }
    }

    /// The assignments to add, or the whole wanted set. Empty for a reversal: what it does depends on the set.
    pub fn wanted(&self) -> &[DesiredAssignment] {
        match self {
            Self::Amend(Amendment { add, .. }) => add,
            Self::Replace(wanted) => wanted,
            Self::Revert(_) => &[],
        }
    }

    /// The targets to remove, as the change names them.
    pub fn unwanted(&self) -> &[Target] {
        match self {
            Self::Amend(Amendment { remove, .. }) => remove,
            Self::Replace(_) | Self::Revert(_) => &[],
        }
    }

    /// The reversal, if it is one.
    pub fn reversal(&self) -> Option<&Reversal> {
        if let Self::Revert(reversal) = self { Some(reversal) } else { None }
    }
}

fn bounds(found: usize, allowed: usize) -> Vec<Fault> {
    if found > allowed { vec![Fault::TooMany { found, allowed }] } else { Vec::new() }
}

fn repeated<'a>(list: List, targets: impl Iterator<Item = &'a Target>) -> Vec<Fault> {
    let mut seen = BTreeSet::new();
    targets
        .enumerate()
        .filter(|(_, target)| !seen.insert(*target))
        .map(|(index, target)| Fault::Repeated { list, index, target: target.clone() })
        .collect()
}

/// A change of filter on a target that stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// The target.
    pub target: Target,
    /// Its filter before.
    pub before: Option<Filter>,
    /// Its filter after.
    pub after: Option<Filter>,
}

/// What one change does to the set that it is applied to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Targets that were absent.
    pub added: Vec<DesiredAssignment>,
    /// Targets that were there, with all their fields.
    pub removed: Vec<Assignment>,
    /// Targets that were there with another filter.
    pub changed: Vec<Changed>,
    /// For a reversal: targets that were left alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<KeptTarget>,
    /// Size of the set before.
    pub before: usize,
    /// Size of the set after.
    pub after: usize,
}

/// A target that a reversal left alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptTarget {
    /// The target.
    pub target: Target,
    /// Why.
    pub because: KeptReason,
}

/// Why a reversal leaves a target alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeptReason {
    /// Its filter is no longer as the operation left it.
    FilterChanged,
    /// The operation removed it, and it has been assigned again since, with another filter.
    AssignedAgain,
    /// The operation changed its filter, and it has been removed since.
    Removed,
    /// The group no longer exists in the directory.
    GroupGone,
    /// The configuration does not accept it.
    NotAssignable,
}

impl KeptReason {
    /// The name, the same in the store, the audit trail and the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::FilterChanged => "filter-changed",
            Self::AssignedAgain => "assigned-again",
            Self::Removed => "removed",
            Self::GroupGone => "group-gone",
            Self::NotAssignable => "not-assignable",
        }
    }
}

impl Difference {
    /// All targets that it affects, each with its filter; a changed one twice, with its filters before and after.
    pub fn affected_targets(&self) -> impl Iterator<Item = (&Target, Option<Filter>)> {
        let Self { added, removed, changed, .. } = self;
        let added = added.iter().map(|it| (&it.target, it.filter));
        let removed = removed.iter().map(|it| (&it.target, it.filter));
        let changed = changed.iter().flat_map(|it| [(&it.target, it.before), (&it.target, it.after)]);
        added.chain(removed).chain(changed)
    }

    /// All targets that it affects, once each.
    pub fn targets(&self) -> impl Iterator<Item = &Target> {
        let Self { added, removed, changed, .. } = self;
        let added = added.iter().map(|it| &it.target);
        added.chain(removed.iter().map(|it| &it.target)).chain(changed.iter().map(|it| &it.target))
    }

    /// The same difference without these targets.
    #[must_use]
    pub fn without(&self, targets: &BTreeSet<&Target>) -> Self {
        let mut rest = self.clone();
        rest.added.retain(|it| !targets.contains(&it.target));
        rest.removed.retain(|it| !targets.contains(&it.target));
        rest.changed.retain(|it| !targets.contains(&it.target));
        rest
    }

    pub(super) fn keep(&mut self, target: &Target, because: KeptReason) {
        self.kept.push(KeptTarget { target: target.clone(), because });
    }

    /// The part of it that a set still shows.
    #[must_use]
    pub fn still_in(&self, set: &AssignmentSet) -> Self {
        let filter_of = |target: &Target| set.of(target).map(|present| present.filter);
        let mut rest = self.clone();
        rest.added.retain(|it| filter_of(&it.target) == Some(it.filter));
        rest.removed.retain(|it| filter_of(&it.target).is_none());
        rest.changed.retain(|it| filter_of(&it.target) == Some(it.after));
        rest
    }

    /// The total of a change that was applied twice: all of the second difference, and the part of the first that the second
    /// did not touch.
    #[must_use]
    pub fn and_then(&self, second: Self) -> Self {
        let first = self.without(&second.targets().collect());
        let mut both = Self { before: first.before, ..second };
        both.added.extend(first.added);
        both.removed.extend(first.removed);
        both.changed.extend(first.changed);
        both
    }

    /// Whether the change found everything as it wants it.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }
}

/// A change, and the set that it is bound to, if any.
#[derive(Clone, Copy, Debug)]
pub struct ConditionalChange<'a> {
    /// What to do.
    pub change: &'a Change,
    /// Digest of the only set that it may be applied to; none for any.
    pub only_on: Option<&'a Digest>,
}

impl<'a> From<&'a Change> for ConditionalChange<'a> {
    fn from(change: &'a Change) -> Self {
        Self { change, only_on: None }
    }
}

/// What became of a change in a merge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MergeOutcome {
    /// It makes this difference, which may be empty.
    Applied(Difference),
    /// It is bound to another set; nothing is done for it.
    Unmet {
        /// Digest of the set that was there.
        found: Digest,
    },
}

/// The result of merging pending changes into the present set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The set to bring Graph to.
    pub desired: AssignmentSet,
    /// What becomes of each change, in order, up to the first that cannot be judged yet. Not empty if there is a change.
    pub merged: Vec<MergeOutcome>,
}

/// Applies changes, oldest first, to the present set.
///
/// A change that is bound to a set other than the present one is [`MergeOutcome::Unmet`]. If changes before it make a
/// difference, the set it would meet is only planned: the merge ends before it, because they may yet fail.
pub fn merge<'a, S: Into<ConditionalChange<'a>>>(present: &AssignmentSet, steps: impl IntoIterator<Item = S>) -> Plan {
    let (mut desired, mut merged) = (present.clone(), Vec::new());
    for step in steps {
        let ConditionalChange { change, only_on } = step.into();
        if let Some(only_on) = only_on {
            let found = desired.digest();
            if found != *only_on && desired == *present {
                merged.push(MergeOutcome::Unmet { found });
                continue;
            }
            if found != *only_on {
                break;
            }
        }
        merged.push(MergeOutcome::Applied(apply(&mut desired, change)));
    }
    Plan { desired, merged }
}

fn apply(set: &mut AssignmentSet, change: &Change) -> Difference {
    let mut difference = Difference { before: set.len(), ..Difference::default() };
    let unwanted: Vec<Target> = match change {
        Change::Amend(Amendment { remove, .. }) => remove.clone(),
        Change::Replace(wanted) => {
            let kept: BTreeSet<_> = wanted.iter().map(|wanted| &wanted.target).collect();
            set.iter().map(|present| &present.target).filter(|target| !kept.contains(target)).cloned().collect()
        }
        Change::Revert(reversal) => {
            reversal.apply(set, &mut difference);
            Vec::new()
        }
    };
    difference.removed.extend(unwanted.iter().filter_map(|target| set.take(target)));
    for DesiredAssignment { target, filter } in change.wanted() {
        match set.of(target).map(|present| present.filter) {
            Some(before) if before == *filter => continue,
            Some(before) => {
                difference.changed.push(Changed { target: target.clone(), before, after: *filter });
            }
            None => difference.added.push(DesiredAssignment { target: target.clone(), filter: *filter }),
        }
        set.put(target.clone(), *filter);
    }
    difference.after = set.len();
    difference
}
