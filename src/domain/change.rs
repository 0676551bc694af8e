//! Changes, and what they do to an assignment set: the heart of the house.
//!
//! A [`Change`] is never empty, names each target once and contradicts itself nowhere. [`merge`] applies pending changes
//! to the present set, in the order in which they were accepted, and tells for each the difference it made. A change may
//! be bound to the set that its caller saw; on another one it has no effect.
//!
//! Guarantees, each stated as a property below: merging twice is merging once; what no change names stays as it is;
//! changes of different targets may come in any order; adding what was absent and removing it restores the set; no
//! condition is judged by what is not written yet and may never be.
//!
//! It deliberately decides nothing: whether a kind takes a target is the table's business, whether a caller may,
//! policy's.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{
    assignment::{Assignment, AssignmentSet, Digest, Filter, Target},
    reversal::Reversal,
};

/// An assignment that a caller wants.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Wanted {
    /// Whom it shall reach.
    pub target: Target,
    /// What shall narrow it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<Filter>,
}

impl From<&Assignment> for Wanted {
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
    Replace(Vec<Wanted>),
    /// Undo what an operation did, as far as it is untouched.
    Revert(Reversal),
}

/// Targets to add and to remove. Not empty, and no target stands in it twice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amendment {
    add: Vec<Wanted>,
    remove: Vec<Target>,
}

/// Which list of a change a fault is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    /// The targets to add.
    Add,
    /// The targets to remove.
    Remove,
    /// The whole wanted set.
    Replace,
}

/// Why a change cannot be meant.
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
    /// A target stands in it twice.
    #[error("{target} is named twice; name each target once")]
    Repeated {
        /// The list in which it stands for the second time.
        list: List,
        /// Its place there, counted from zero.
        index: usize,
        /// The target.
        target: Target,
    },
    /// A target is to be both added and removed.
    #[error("{target} is to be both added and removed; name it in one of the lists")]
    Contradictory {
        /// Its place in the list of targets to remove, counted from zero.
        index: usize,
        /// The target.
        target: Target,
    },
}

impl Change {
    /// The change that adds and removes these targets, at most `allowed` of them.
    pub fn amend(add: Vec<Wanted>, remove: Vec<Target>, allowed: usize) -> Result<Self, Vec<Fault>> {
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

    /// The change that makes these the whole set; an empty list clears it.
    pub fn replace(wanted: Vec<Wanted>, allowed: usize) -> Result<Self, Vec<Fault>> {
        let mut faults = bounds(wanted.len(), allowed);
        faults.extend(repeated(List::Replace, wanted.iter().map(|wanted| &wanted.target)));
        if faults.is_empty() { Ok(Self::Replace(wanted)) } else { Err(faults) }
    }

    /// The assignments to add, or the whole set wanted. A reversal wants nothing of itself: what it does depends on the set.
    pub fn wanted(&self) -> &[Wanted] {
        match self {
            Self::Amend(Amendment { add, .. }) => add,
            Self::Replace(wanted) => wanted,
            Self::Revert(_) => &[],
        }
    }

    /// The targets to remove by name.
    pub fn unwanted(&self) -> &[Target] {
        match self {
            Self::Amend(Amendment { remove, .. }) => remove,
            Self::Replace(_) | Self::Revert(_) => &[],
        }
    }

    /// What it undoes, if it is a reversal.
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

/// A filter that was changed on a target that stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// The target.
    pub target: Target,
    /// Its filter before.
    pub before: Option<Filter>,
    /// Its filter after.
    pub after: Option<Filter>,
}

/// What one change does to the set it meets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Targets that were absent.
    pub added: Vec<Wanted>,
    /// Targets that were there, with all that stood in them.
    pub removed: Vec<Assignment>,
    /// Targets that were there with another filter.
    pub changed: Vec<Changed>,
    /// Of a reversal: targets that were left alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<Kept>,
    /// Size of the set before.
    pub before: usize,
    /// Size of the set after.
    pub after: usize,
}

/// A target that a reversal left alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The target.
    pub target: Target,
    /// Why.
    pub because: Why,
}

/// Why a reversal leaves a target alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// Its filter is not as the operation left it.
    FilterChanged,
    /// The operation removed it, and somebody has assigned it again, with another filter.
    AssignedAgain,
    /// The operation changed its filter, and somebody has removed it since.
    Removed,
    /// The directory has no such group any more.
    GroupGone,
    /// The configuration does not take it.
    NotAssignable,
}

impl Why {
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
    /// All targets it is about, with their filters before and after.
    pub fn aims(&self) -> impl Iterator<Item = (&Target, Option<Filter>)> {
        let Self { added, removed, changed, .. } = self;
        let added = added.iter().map(|it| (&it.target, it.filter));
        let removed = removed.iter().map(|it| (&it.target, it.filter));
        let changed = changed.iter().flat_map(|it| [(&it.target, it.before), (&it.target, it.after)]);
        added.chain(removed).chain(changed)
    }

    /// All targets it is about, once each.
    pub fn targets(&self) -> impl Iterator<Item = &Target> {
        let Self { added, removed, changed, .. } = self;
        let added = added.iter().map(|it| &it.target);
        added.chain(removed.iter().map(|it| &it.target)).chain(changed.iter().map(|it| &it.target))
    }

    /// The same without what it does with these targets.
    #[must_use]
    pub fn without(&self, targets: &BTreeSet<&Target>) -> Self {
        let mut rest = self.clone();
        rest.added.retain(|it| !targets.contains(&it.target));
        rest.removed.retain(|it| !targets.contains(&it.target));
        rest.changed.retain(|it| !targets.contains(&it.target));
        rest
    }

    pub(super) fn keep(&mut self, target: &Target, because: Why) {
        self.kept.push(Kept { target: target.clone(), because });
    }

    /// What a set still shows of it.
    #[must_use]
    pub fn still_in(&self, set: &AssignmentSet) -> Self {
        let filter_of = |target: &Target| set.of(target).map(|present| present.filter);
        let mut rest = self.clone();
        rest.added.retain(|it| filter_of(&it.target) == Some(it.filter));
        rest.removed.retain(|it| filter_of(&it.target).is_none());
        rest.changed.retain(|it| filter_of(&it.target) == Some(it.after));
        rest
    }

    /// What a change came to that was done twice: what it did the second time counts, and of the first time what it did not do again.
    #[must_use]
    pub fn and_then(&self, second: Self) -> Self {
        let first = self.without(&second.targets().collect());
        let mut both = Self { before: first.before, ..second };
        both.added.extend(first.added);
        both.removed.extend(first.removed);
        both.changed.extend(first.changed);
        both
    }

    /// Whether the change finds everything as it wants it.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }
}

/// A change, and the set that it is bound to.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// What to do.
    pub change: &'a Change,
    /// Digest of the only set to do it to; none for any.
    pub only_on: Option<&'a Digest>,
}

impl<'a> From<&'a Change> for Step<'a> {
    fn from(change: &'a Change) -> Self {
        Self { change, only_on: None }
    }
}

/// What became of one change in a merge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Merged {
    /// It makes this difference, maybe none.
    Applied(Difference),
    /// The set is not the one that it is bound to; nothing is done for it.
    Unmet {
        /// Digest of the set.
        found: Digest,
    },
}

/// What pending changes make of the present set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The set to bring Graph to.
    pub desired: AssignmentSet,
    /// What becomes of each change, in their order, up to the first that cannot be judged yet. At least one, if there is
    /// a change.
    pub merged: Vec<Merged>,
}

/// Applies changes, oldest first, to the present set.
///
/// A change that is bound to another set than the present one fails. If the set it meets is only planned, because a change
/// before it makes a difference, the merge ends before it: whether those changes take effect is not known yet.
pub fn merge<'a, S: Into<Step<'a>>>(present: &AssignmentSet, steps: impl IntoIterator<Item = S>) -> Plan {
    let (mut desired, mut merged) = (present.clone(), Vec::new());
    for step in steps {
        let Step { change, only_on } = step.into();
        if let Some(only_on) = only_on {
            let found = desired.digest();
            if found != *only_on && desired == *present {
                merged.push(Merged::Unmet { found });
                continue;
            }
            if found != *only_on {
                break;
            }
        }
        merged.push(Merged::Applied(apply(&mut desired, change)));
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
    for Wanted { target, filter } in change.wanted() {
        match set.of(target).map(|present| present.filter) {
            Some(before) if before == *filter => continue,
            Some(before) => {
                difference.changed.push(Changed { target: target.clone(), before, after: *filter });
            }
            None => difference.added.push(Wanted { target: target.clone(), filter: *filter }),
        }
        set.put(target.clone(), *filter);
    }
    difference.after = set.len();
    difference
}
