//! What to ask about a change: one question for each target that it names.
//!
//! It deliberately answers nothing. Called by `policy` only.

use super::Denied;
use crate::domain::{Change, DesiredAssignment, Target, change::List};

/// A question about a change: the action, the target it is about, and the target as it is wanted.
pub(super) type Question = (&'static str, Option<Denied>, Option<DesiredAssignment>);

pub(super) fn questions(change: &Change) -> Vec<Question> {
    let question = |list, (index, wanted): (usize, DesiredAssignment)| {
        let action = match list {
            List::Add => "add",
            List::Remove => "remove",
            List::Replace => "replace",
        };
        (action, Some(Denied { list, index, target: wanted.target.clone() }), Some(wanted))
    };
    let wanted = change.wanted().iter().cloned().enumerate();
    match change {
        Change::Replace(all) if all.is_empty() => vec![("clear", None, None)],
        Change::Replace(_) => wanted.map(|wanted| question(List::Replace, wanted)).collect(),
        Change::Revert(reversal) => {
            let add = reversal.put_back().iter().map(DesiredAssignment::from);
            let set_back = reversal.set_back().iter();
            let set_back = set_back.map(|it| DesiredAssignment { target: it.target.clone(), filter: it.before });
            let add = add.chain(set_back).enumerate().map(|wanted| question(List::Add, wanted));
            let remove = reversal.taken_out().iter().cloned().enumerate().map(|wanted| question(List::Remove, wanted));
            add.chain(remove).collect()
        }
        Change::Amend(_) => {
            let bare = |target: &Target| DesiredAssignment { target: target.clone(), filter: None };
            let unwanted = change.unwanted().iter().map(bare).enumerate();
            let add = wanted.map(|wanted| question(List::Add, wanted));
            add.chain(unwanted.map(|target| question(List::Remove, target))).collect()
        }
    }
}

/// What to ask about undoing a change that is not made yet. Which targets a replacement will remove is unknown, so no
/// question is asked about those, just as for the replacement itself.
pub(super) fn opposite(change: &Change) -> Vec<Question> {
    let named = |list, index, target: &Target| Some(Denied { list, index, target: target.clone() });
    let remove = change.wanted().iter().cloned().enumerate();
    let remove = remove.map(|(index, it)| ("remove", named(List::Remove, index, &it.target), Some(it)));
    let add = change.unwanted().iter().enumerate();
    let add = add.map(|(index, target)| {
        ("add", named(List::Add, index, target), Some(DesiredAssignment { target: target.clone(), filter: None }))
    });
    remove.chain(add).collect()
}
