//! Changes, and what they do to an assignment set: the heart of the house.
//!
//! A [`Change`] is never empty, names each target once and contradicts itself nowhere. [`merge`] applies pending changes
//! to the present set, in the order in which they were accepted, and tells for each the difference it made.
//!
//! Guarantees, each stated as a property below: merging twice is merging once; what no change names stays as it is;
//! changes of different targets may come in any order; adding what was absent and removing it restores the set.
//!
//! It deliberately decides nothing: whether a kind takes a target is the table's business, whether a caller may,
//! policy's.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::assignment::{Assignment, AssignmentSet, Filter, Target};

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

/// What a caller wants done to one configuration's assignments. Made by [`Change::amend`] or [`Change::replace`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// Add these, remove those; everything else stays.
    Amend(Amendment),
    /// Make these the whole set.
    Replace(Vec<Wanted>),
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

    /// The assignments to add, or the whole set wanted.
    pub fn wanted(&self) -> &[Wanted] {
        match self {
            Self::Amend(Amendment { add, .. }) => add,
            Self::Replace(wanted) => wanted,
        }
    }

    /// The targets to remove by name.
    pub fn unwanted(&self) -> &[Target] {
        match self {
            Self::Amend(Amendment { remove, .. }) => remove,
            Self::Replace(_) => &[],
        }
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
    /// Targets that were there.
    pub removed: Vec<Wanted>,
    /// Targets that were there with another filter.
    pub changed: Vec<Changed>,
    /// Size of the set before.
    pub before: usize,
    /// Size of the set after.
    pub after: usize,
}

impl Difference {
    /// Whether the change finds everything as it wants it.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }
}

/// What pending changes make of the present set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The set to bring Graph to.
    pub desired: AssignmentSet,
    /// The difference that each change makes, in the order of the changes.
    pub differences: Vec<Difference>,
}

/// Applies changes, oldest first, to the present set.
pub fn merge<'a>(present: &AssignmentSet, changes: impl IntoIterator<Item = &'a Change>) -> Plan {
    let mut desired = present.clone();
    let differences = changes.into_iter().map(|change| apply(&mut desired, change)).collect();
    Plan { desired, differences }
}

fn apply(set: &mut AssignmentSet, change: &Change) -> Difference {
    let mut difference = Difference { before: set.len(), ..Difference::default() };
    let unwanted: Vec<Target> = match change {
        Change::Amend(Amendment { remove, .. }) => remove.clone(),
        Change::Replace(wanted) => {
            let kept: BTreeSet<_> = wanted.iter().map(|wanted| &wanted.target).collect();
            set.iter().map(|present| &present.target).filter(|target| !kept.contains(target)).cloned().collect()
        }
    };
    difference.removed =
        unwanted.iter().filter_map(|target| set.take(target)).map(|gone| Wanted::from(&gone)).collect();
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::domain::{FilterMode, assignment::Unread};

    /// Few targets, so that sets and changes meet.
    fn target() -> impl Strategy<Value = Target> {
        let group = |number: u128| Uuid::from_u128(number).to_string().parse().unwrap();
        prop_oneof![
            6 => (1..8_u128).prop_map(move |number| Target::Group(group(number))),
            1 => Just(Target::AllDevices),
            1 => Just(Target::AllUsers),
            1 => (1..3_u128).prop_map(move |number| Target::ExcludedGroup(group(number))),
            1 => "[ab]".prop_map(|name| Target::Foreign(Unread::new(format!("{{\"@odata.type\":\"{name}\"}}")))),
        ]
    }

    fn filter() -> impl Strategy<Value = Option<Filter>> {
        let id = |number: u128| Uuid::from_u128(number).to_string().parse().unwrap();
        prop_oneof![
            Just(None),
            (1..3_u128, prop_oneof![Just(FilterMode::Include), Just(FilterMode::Exclude)])
                .prop_map(move |(number, mode)| Some(Filter { id: id(number), mode })),
        ]
    }

    fn set() -> impl Strategy<Value = AssignmentSet> {
        let unread = prop_oneof![Just(None), "[xy]".prop_map(|v| Some(Unread::new(format!("{{\"hint\":\"{v}\"}}"))))];
        prop::collection::btree_map(target(), (filter(), unread), 0..8).prop_map(|parts| {
            let parts = parts.into_iter();
            let assignment = |(target, (filter, unread))| Assignment { target, filter, unread };
            AssignmentSet::from_parts(parts.map(assignment)).unwrap()
        })
    }

    fn change() -> impl Strategy<Value = Change> {
        let wanted = || prop::collection::btree_map(target(), filter(), 0..5);
        let as_wanted = |map: std::collections::BTreeMap<Target, Option<Filter>>| {
            map.into_iter().map(|(target, filter)| Wanted { target, filter }).collect::<Vec<_>>()
        };
        let amend = (wanted(), prop::collection::btree_set(target(), 0..5)).prop_filter_map(
            "not empty",
            move |(add, remove)| {
                let remove = remove.into_iter().filter(|target| !add.contains_key(target)).collect();
                Change::amend(as_wanted(add), remove, 100).ok()
            },
        );
        prop_oneof![
            4 => amend,
            1 => wanted().prop_map(move |wanted| Change::replace(as_wanted(wanted), 100).unwrap()),
        ]
    }

    fn named(change: &Change) -> BTreeSet<Target> {
        change.wanted().iter().map(|wanted| &wanted.target).chain(change.unwanted()).cloned().collect()
    }

    proptest! {
        #[test]
        fn merging_twice_is_merging_once(present in set(), changes in prop::collection::vec(change(), 1..5)) {
            let once = merge(&present, &changes);
            let last = changes.last().unwrap();
            let twice = merge(&once.desired, [last]);
            prop_assert_eq!(&twice.desired, &once.desired);
            prop_assert!(twice.differences[0].is_empty());
        }

        #[test]
        fn merging_together_is_merging_one_after_another(present in set(), changes in prop::collection::vec(change(), 0..6)) {
            let together = merge(&present, &changes);
            let mut one_by_one = present;
            for (change, difference) in changes.iter().zip(&together.differences) {
                let plan = merge(&one_by_one, [change]);
                prop_assert_eq!(&plan.differences[0], difference);
                one_by_one = plan.desired;
            }
            prop_assert_eq!(one_by_one, together.desired);
        }

        #[test]
        fn what_no_change_names_stays_as_it_is(present in set(), change in change()) {
            prop_assume!(matches!(change, Change::Amend(_)));
            let named = named(&change);
            let plan = merge(&present, [&change]);
            let outside = |set: &AssignmentSet| {
                set.iter().filter(|assignment| !named.contains(&assignment.target)).cloned().collect::<Vec<_>>()
            };
            prop_assert_eq!(outside(&plan.desired), outside(&present));
        }

        #[test]
        fn unknown_fields_of_a_target_that_stays_are_kept(present in set(), change in change()) {
            let plan = merge(&present, [&change]);
            for assignment in plan.desired.iter() {
                if let Some(before) = present.of(&assignment.target) {
                    prop_assert_eq!(&assignment.unread, &before.unread);
                }
            }
        }

        #[test]
        fn changes_of_different_targets_may_come_in_any_order(present in set(), a in change(), b in change()) {
            prop_assume!(matches!((&a, &b), (Change::Amend(_), Change::Amend(_))));
            let taken = named(&a);
            let add = b.wanted().iter().filter(|wanted| !taken.contains(&wanted.target)).cloned().collect();
            let remove = b.unwanted().iter().filter(|target| !taken.contains(target)).cloned().collect();
            let Ok(b) = Change::amend(add, remove, 100) else { return Ok(()) };
            prop_assert_eq!(merge(&present, [&a, &b]).desired, merge(&present, [&b, &a]).desired);
        }

        #[test]
        fn adding_an_absent_target_and_removing_it_restores_the_set(present in set(), target in target(), filter in filter()) {
            prop_assume!(present.of(&target).is_none());
            let add = Change::amend(vec![Wanted { target: target.clone(), filter }], vec![], 1).unwrap();
            let remove = Change::amend(vec![], vec![target], 1).unwrap();
            prop_assert_eq!(merge(&present, [&add, &remove]).desired, present);
        }

        #[test]
        fn what_is_wanted_is_there_afterwards_and_what_is_not_is_gone(present in set(), change in change()) {
            let desired = merge(&present, [&change]).desired;
            for wanted in change.wanted() {
                prop_assert_eq!(desired.of(&wanted.target).unwrap().filter, wanted.filter);
            }
            prop_assert!(change.unwanted().iter().all(|target| desired.of(target).is_none()));
            if matches!(change, Change::Replace(_)) {
                prop_assert_eq!(desired.len(), change.wanted().len());
            }
        }

        #[test]
        fn the_difference_says_exactly_what_happened(present in set(), change in change()) {
            let plan = merge(&present, [&change]);
            let difference = &plan.differences[0];
            prop_assert_eq!(difference.is_empty(), plan.desired == present);
            prop_assert_eq!(difference.before, present.len());
            prop_assert_eq!(difference.after, plan.desired.len());
            prop_assert_eq!(
                difference.before.saturating_add(difference.added.len()),
                difference.after.saturating_add(difference.removed.len())
            );
        }

        #[test]
        fn digests_are_equal_for_equal_sets_only(a in set(), b in set()) {
            prop_assert_eq!(a.digest() == b.digest(), a == b);
        }
    }

    fn group(number: u128) -> Target {
        Target::Group(Uuid::from_u128(number).to_string().parse().unwrap())
    }

    fn plain(target: Target) -> Wanted {
        Wanted { target, filter: None }
    }

    #[test]
    fn all_faults_of_a_change_are_told_at_once() {
        let faults = Change::amend(
            vec![plain(group(1)), plain(group(2)), plain(group(1))],
            vec![group(3), group(2), group(3)],
            5,
        )
        .unwrap_err();
        assert_eq!(
            faults,
            vec![
                Fault::TooMany { found: 6, allowed: 5 },
                Fault::Repeated { list: List::Add, index: 2, target: group(1) },
                Fault::Repeated { list: List::Remove, index: 2, target: group(3) },
                Fault::Contradictory { index: 1, target: group(2) },
            ]
        );
    }

    #[test]
    fn an_empty_change_is_refused_and_an_empty_replacement_is_not() {
        assert_eq!(Change::amend(vec![], vec![], 5), Err(vec![Fault::Empty]));
        assert!(Change::replace(vec![], 5).is_ok());
    }
}
