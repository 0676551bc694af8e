//! Properties of merging, for any set and any changes.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use proptest::prelude::*;
use uuid::Uuid;

use super::{
    Assignment, AssignmentSet, Change, DesiredAssignment, Difference, Digest, Filter, FilterMode, Operation,
    OperationId, Plan, Reversal, State, Target,
    assignment::UninterpretedJson,
    change::{ConditionalChange, Fault, List, MergeOutcome, merge},
    operation::{Submission, SuccessEvidence},
    reversal::Cause,
};

/// The differences of the changes that were applied.
fn made(plan: &Plan) -> Vec<&Difference> {
    let made =
        plan.merged.iter().map(|it| if let MergeOutcome::Applied(difference) = it { Some(difference) } else { None });
    made.flatten().collect()
}

/// The reversal of what a plan did for one of its changes.
fn undoing(plan: &Plan, place: usize) -> Option<Change> {
    Reversal::of(&done(plan, place), Cause::Asked).map(Change::Revert)
}

/// One of a plan's changes as an operation that has succeeded.
fn done(plan: &Plan, place: usize) -> Operation {
    let submission = Submission {
        configuration: "9f1c6a4e-8a77-4b8e-9d6e-3a54b2f1c0aa_Limit".parse().unwrap(),
        configuration_name: String::new(),
        change: Change::replace(vec![], 1).unwrap(),
        names: BTreeMap::new(),
        caller: String::new(),
        ticket: None,
        requested_for: None,
        comment: None,
        accepted_at: Timestamp::UNIX_EPOCH,
        only_on: None,
        until: None,
        approval: None,
        callback: None,
        traceparent: None,
    };
    let (digest, at) = (plan.desired.digest(), Timestamp::UNIX_EPOCH);
    let difference = made(plan)[place].clone();
    let ending = SuccessEvidence { at, difference, before: digest.clone(), after: digest, write: None };
    let state = State::Queued.start(at).unwrap().succeed(ending).unwrap();
    let operation = Operation { id: OperationId::from(Uuid::from_u128(1)), submission, state };
    // Through the store's format.
    let text = serde_json::to_string(&operation.state).unwrap();
    Operation { state: serde_json::from_str(&text).unwrap(), ..operation }
}

/// Few targets, so that sets and changes overlap.
fn target() -> impl Strategy<Value = Target> {
    let group = |number: u128| Uuid::from_u128(number).to_string().parse().unwrap();
    prop_oneof![
        6 => (1..8_u128).prop_map(move |number| Target::Group(group(number))),
        1 => Just(Target::AllDevices),
        1 => Just(Target::AllUsers),
        1 => (1..3_u128).prop_map(move |number| Target::ExcludedGroup(group(number))),
        1 => "[ab]".prop_map(|name| Target::Foreign(UninterpretedJson::new(format!("{{\"@odata.type\":\"{name}\"}}")))),
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
    let unread =
        prop_oneof![Just(None), "[xy]".prop_map(|v| Some(UninterpretedJson::new(format!("{{\"hint\":\"{v}\"}}"))))];
    prop::collection::btree_map(target(), (filter(), unread), 0..8).prop_map(|parts| {
        let parts = parts.into_iter();
        let assignment = |(target, (filter, unread))| Assignment { target, filter, unread };
        AssignmentSet::from_parts(parts.map(assignment)).unwrap()
    })
}

fn change() -> impl Strategy<Value = Change> {
    let wanted = || prop::collection::btree_map(target(), filter(), 0..5);
    let as_wanted = |map: BTreeMap<Target, Option<Filter>>| {
        map.into_iter().map(|(target, filter)| DesiredAssignment { target, filter }).collect::<Vec<_>>()
    };
    let amend =
        (wanted(), prop::collection::btree_set(target(), 0..5)).prop_filter_map("not empty", move |(add, remove)| {
            let remove = remove.into_iter().filter(|target| !add.contains_key(target)).collect();
            Change::amend(as_wanted(add), remove, 100).ok()
        });
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
        prop_assert!(made(&twice)[0].is_empty());
    }

    #[test]
    fn merging_together_is_merging_one_after_another(present in set(), changes in prop::collection::vec(change(), 0..6)) {
        let together = merge(&present, &changes);
        let mut one_by_one = present;
        for (change, difference) in changes.iter().zip(made(&together)) {
            let plan = merge(&one_by_one, [change]);
            prop_assert_eq!(made(&plan)[0], difference);
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
        let add = Change::amend(vec![DesiredAssignment { target: target.clone(), filter }], vec![], 1).unwrap();
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
        let difference = made(&plan)[0];
        prop_assert_eq!(difference.is_empty(), plan.desired == present);
        prop_assert_eq!(difference.before, present.len());
        prop_assert_eq!(difference.after, plan.desired.len());
        prop_assert_eq!(
            difference.before.saturating_add(difference.added.len()),
            difference.after.saturating_add(difference.removed.len())
        );
    }

    #[test]
    fn a_change_has_effect_on_the_set_it_is_bound_to_and_on_no_other(present in set(), other in set(), change in change()) {
        let bound = |only_on| ConditionalChange { change: &change, only_on: Some(only_on) };
        let free = merge(&present, [&change]);
        let (found, seen) = (present.digest(), other.digest());
        prop_assert_eq!(merge(&present, [bound(&found)]), free);
        prop_assume!(other != present);
        let unmet = merge(&present, [bound(&seen)]);
        prop_assert_eq!(unmet, Plan { desired: present, merged: vec![MergeOutcome::Unmet { found }] });
    }

    #[test]
    fn conditions_are_judged_only_against_written_sets(
        present in set(),
        steps in prop::collection::vec((change(), prop_oneof![Just(None), set().prop_map(Some)]), 1..6),
    ) {
        let steps: Vec<_> = steps.into_iter().map(|(change, on)| (change, on.map(|set| set.digest()))).collect();
        let step = |(change, on): &'_ (Change, Option<Digest>)| (change.clone(), on.clone());
        let mut rest: Vec<_> = steps.iter().map(step).collect();
        // Round after round, each on what the one before has written: the outcome must be as if each change had come alone.
        let (mut written, mut rounds) = (present.clone(), Vec::new());
        while !rest.is_empty() {
            let plan = merge(&written, rest.iter().map(|(change, on)| ConditionalChange { change, only_on: on.as_ref() }));
            prop_assert!(!plan.merged.is_empty(), "a round gets on");
            rest.drain(..plan.merged.len());
            written = plan.desired;
            rounds.extend(plan.merged);
        }
        let (mut alone, mut singly) = (present, Vec::new());
        for (change, on) in &steps {
            let mut plan = merge(&alone, [ConditionalChange { change, only_on: on.as_ref() }]);
            alone = plan.desired;
            singly.append(&mut plan.merged);
        }
        prop_assert_eq!((written, rounds), (alone, singly));
    }

    #[test]
    fn of_changes_bound_to_one_set_the_first_that_changes_it_wins(present in set(), changes in prop::collection::vec(change(), 1..6)) {
        let seen = present.digest();
        let first = merge(&present, changes.iter().map(|change| ConditionalChange { change, only_on: Some(&seen) }));
        let rest = &changes[first.merged.len()..];
        prop_assert_eq!(made(&first).iter().filter(|difference| !difference.is_empty()).count(), usize::from(first.desired != present));
        let second = merge(&first.desired, rest.iter().map(|change| ConditionalChange { change, only_on: Some(&seen) }));
        prop_assert_eq!((made(&second).len(), second.merged.len()), (0, rest.len()));
    }

    /// The first write may have been lost, or somebody may have changed what it did.
    #[test]
    fn applying_twice_totals_what_remains_of_the_first_plus_the_second(
        present in set(), change in change(), others in prop::collection::vec(change(), 0..4), was_lost in any::<bool>()
    ) {
        let first = merge(&present, [&change]);
        let found = merge(if was_lost { &present } else { &first.desired }, &others).desired;
        let second = merge(&found, [&change]);
        let shown = made(&first)[0].still_in(&found);
        let both = shown.clone().and_then(made(&second)[0].clone());
        let named = |difference: &Difference| -> BTreeSet<Target> { difference.targets().cloned().collect() };
        prop_assert_eq!(named(&both), &named(&shown) | &named(made(&second)[0]));
        for target in both.targets() {
            let before = if named(made(&second)[0]).contains(target) { &found } else { &present };
            let was = before.of(target).map(|it| it.filter);
            let is = second.desired.of(target).map(|it| it.filter);
            let told = |from, to| {
                prop_assert!(from == was && to == is, "{:?} of {:?}: {:?} {:?}", both, target, was, is);
                Ok(())
            };
            if let Some(added) = both.added.iter().find(|it| it.target == *target) { told(None, Some(added.filter))?; }
            if let Some(removed) = both.removed.iter().find(|it| it.target == *target) { told(Some(removed.filter), None)?; }
            if let Some(changed) = both.changed.iter().find(|it| it.target == *target) {
                told(Some(changed.before), Some(changed.after))?;
            }
        }
        let told = [both.added.len(), both.removed.len(), both.changed.len()];
        prop_assert_eq!(named(&both).len(), told.iter().sum::<usize>());
    }

    #[test]
    fn undoing_restores_a_set_that_nobody_touched(present in set(), change in change()) {
        let done = merge(&present, [&change]);
        let Some(undo) = undoing(&done, 0) else { return Ok(()) };
        let undone = merge(&done.desired, [&undo]);
        prop_assert_eq!(&undone.desired, &present);
        let (did, undid) = (made(&done)[0], made(&undone)[0]);
        prop_assert!(undid.kept.is_empty());
        prop_assert_eq!((did.before, did.after), (undid.after, undid.before));
    }

    #[test]
    fn undoing_touches_nothing_outside_of_what_was_done(
        present in set(),
        change in change(),
        others in prop::collection::vec(change(), 0..4),
    ) {
        let done = merge(&present, [&change]);
        let Some(undo) = undoing(&done, 0) else { return Ok(()) };
        let later = merge(&done.desired, &others).desired;
        let undone = merge(&later, [&undo]).desired;
        let about = undo.reversal().unwrap().targets();
        let rest = |set: &AssignmentSet| -> Vec<Assignment> {
            set.iter().filter(|it| !about.contains(&it.target)).cloned().collect()
        };
        prop_assert_eq!(rest(&later), rest(&undone));
    }

    #[test]
    fn a_reversal_undoes_each_target_or_reports_it_as_kept(
        present in set(),
        change in change(),
        others in prop::collection::vec(change(), 0..4),
    ) {
        let done = merge(&present, [&change]);
        let Some(undo) = undoing(&done, 0) else { return Ok(()) };
        let later = merge(&done.desired, &others).desired;
        let undone = merge(&later, [&undo]);
        let kept: BTreeSet<_> = made(&undone)[0].kept.iter().map(|kept| &kept.target).collect();
        for target in undo.reversal().unwrap().targets() {
            let filter = |set: &AssignmentSet| set.of(target).map(|it| it.filter);
            let as_before = filter(&undone.desired) == filter(&present);
            prop_assert!(as_before != kept.contains(target), "{}", target);
            if kept.contains(target) {
                prop_assert_eq!(undone.desired.of(target), later.of(target));
                prop_assert!(filter(&later) != filter(&done.desired), "somebody touched it");
            }
        }
    }

    #[test]
    fn undoing_twice_is_undoing_once(present in set(), change in change(), others in prop::collection::vec(change(), 0..4)) {
        let done = merge(&present, [&change]);
        let Some(undo) = undoing(&done, 0) else { return Ok(()) };
        let undone = merge(&merge(&done.desired, &others).desired, [&undo]);
        let again = merge(&undone.desired, [&undo]);
        prop_assert!(made(&again)[0].is_empty());
        prop_assert_eq!(again.desired, undone.desired);
    }

    #[test]
    fn undoing_the_undoing_does_it_again(present in set(), change in change(), others in prop::collection::vec(change(), 0..4)) {
        let done = merge(&present, [&change]);
        let Some(undo) = undoing(&done, 0) else { return Ok(()) };
        let later = merge(&done.desired, &others).desired;
        let undone = merge(&later, [&undo]);
        let redo = undoing(&undone, 0);
        prop_assert_eq!(merge(&undone.desired, redo.as_ref()).desired, later);
    }

    #[test]
    fn undoing_changes_that_overlap_restores_all_targets_in_any_order(
        present in set(),
        (changes, order) in prop::collection::vec(change(), 2..5).prop_flat_map(|changes| {
            let order = (0..changes.len()).collect::<Vec<_>>();
            (Just(changes), Just(order).prop_shuffle())
        }),
    ) {
        let plan = merge(&present, &changes);
        let operations: Vec<_> = (0..changes.len()).map(|place| done(&plan, place)).collect();
        let (mut set, mut undone) = (plan.desired, BTreeSet::new());
        for place in order {
            if let Some(reversal) = Reversal::of(&operations[place], Cause::Asked) {
                let earlier = undone.range(..place).rev().map(|place: &usize| &operations[*place]);
                set = merge(&set, [&Change::Revert(earlier.fold(reversal, Reversal::rebased))]).desired;
            }
            undone.insert(place);
        }
        let wanted = |set: &AssignmentSet| set.iter().map(DesiredAssignment::from).collect::<Vec<_>>();
        prop_assert_eq!(wanted(&set), wanted(&present));
    }

    #[test]
    fn digests_are_equal_for_equal_sets_only(a in set(), b in set()) {
        prop_assert_eq!(a.digest() == b.digest(), a == b);
    }
}

fn group(number: u128) -> Target {
    Target::Group(Uuid::from_u128(number).to_string().parse().unwrap())
}

fn plain(target: Target) -> DesiredAssignment {
    DesiredAssignment { target, filter: None }
}

#[test]
fn all_faults_of_a_change_are_told_at_once() {
    let faults =
        Change::amend(vec![plain(group(1)), plain(group(2)), plain(group(1))], vec![group(3), group(2), group(3)], 5)
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
