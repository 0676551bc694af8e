//! The effect of changes on a set, computed independently from the definition, without any code of the gateway's `merge`.

use std::collections::BTreeMap;

use postern::domain::{
    Assignment, AssignmentSet, Change, DesiredAssignment, Difference, Filter, Reversal, Target,
    assignment::UninterpretedJson, change::Changed,
};

/// The filter, and the fields that the gateway does not know.
type Rest = (Option<Filter>, Option<UninterpretedJson>);

/// A set, by target.
pub(crate) type Held = BTreeMap<Target, Rest>;

pub(crate) fn held(set: &AssignmentSet) -> Held {
    let parts = set.iter().cloned();
    parts.map(|Assignment { target, filter, unread }| (target, (filter, unread))).collect()
}

pub(crate) fn set(held: &Held) -> AssignmentSet {
    let parts = held.clone().into_iter();
    AssignmentSet::from_parts(parts.map(|(target, (filter, unread))| Assignment { target, filter, unread })).unwrap()
}

pub(crate) fn apply(held: &mut Held, change: &Change) {
    match change {
        Change::Amend(_) => held.retain(|target, _| !change.unwanted().contains(target)),
        Change::Replace(wanted) => held.retain(|target, _| wanted.iter().any(|it| it.target == *target)),
        Change::Revert(reversal) => return undo(held, reversal),
    }
    for DesiredAssignment { target, filter } in change.wanted() {
        held.entry(target.clone()).or_default().0 = *filter;
    }
}

/// Target by target: what is still as the operation left it goes back to what it was before; anything else stays.
fn undo(held: &mut Held, reversal: &Reversal) {
    for target in reversal.targets() {
        let filter = held.get(target).map(|(filter, _)| *filter);
        let added = reversal.taken_out().iter().find(|it| it.target == *target);
        let removed = reversal.put_back().iter().find(|it| it.target == *target);
        let changed = reversal.set_back().iter().find(|it| it.target == *target);
        match (added, removed, changed) {
            (Some(added), None, None) if filter == Some(added.filter) => drop(held.remove(target)),
            (None, Some(removed), None) if filter.is_none() => {
                held.insert(target.clone(), (removed.filter, removed.unread.clone()));
            }
            (None, None, Some(changed)) if filter == Some(changed.after) => {
                held.entry(target.clone()).or_default().0 = changed.before;
            }
            _ => {}
        }
    }
}

/// Whether `told` is exactly the difference between two sets.
pub(crate) fn is_between(before: &Held, after: &Held, told: &Difference) -> bool {
    let wanted =
        |(target, (filter, _)): (&Target, &Rest)| DesiredAssignment { target: target.clone(), filter: *filter };
    let only = |one: &Held, other: &Held| -> Vec<DesiredAssignment> {
        one.iter().filter(|(target, _)| !other.contains_key(target)).map(wanted).collect()
    };
    let changed = |(target, (filter, _)): (&Target, &Rest)| {
        let (new, _) = after.get(target)?;
        let changed = Changed { target: target.clone(), before: *filter, after: *new };
        (new != filter).then_some(changed)
    };
    let sorted = |list: &[DesiredAssignment]| {
        let mut list = list.to_vec();
        list.sort();
        list
    };
    let mut found = told.changed.clone();
    found.sort_by(|one, other| one.target.cmp(&other.target));
    let removed: Vec<_> = told.removed.iter().map(DesiredAssignment::from).collect();
    only(after, before) == sorted(&told.added)
        && only(before, after) == sorted(&removed)
        && before.iter().filter_map(changed).collect::<Vec<_>>() == found
}

/// Whether one difference is contained in another.
pub(crate) fn is_part(part: &Difference, whole: &Difference) -> bool {
    part.added.iter().all(|it| whole.added.contains(it))
        && part.removed.iter().all(|it| whole.removed.contains(it))
        && part.changed.iter().all(|it| whole.changed.contains(it))
}

/// Splits a difference into one per target.
pub(crate) fn parts(whole: &Difference) -> Vec<Difference> {
    let added = whole.added.iter().map(|it| Difference { added: vec![it.clone()], ..Difference::default() });
    let removed = whole.removed.iter().map(|it| Difference { removed: vec![it.clone()], ..Difference::default() });
    let changed = whole.changed.iter().map(|it| Difference { changed: vec![it.clone()], ..Difference::default() });
    added.chain(removed).chain(changed).collect()
}
