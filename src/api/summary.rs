//! One sentence about a difference, for a ticket.
//!
//! Guarantees: it is short, however many targets there are; those that it does not name are counted. Programs read the
//! structured difference instead.

use super::view::Names;
use crate::domain::{Difference, Filter, Target};

/// Targets named in one part of the sentence at most.
const NAMED_MAX: usize = 5;

/// Whether it is about something that has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tense {
    /// It would happen.
    Present,
    /// It has happened.
    Past,
}

/// The sentence, without a full stop: `adds group Sales Laptops; removes group Kiosks; 3 -> 3 assignments`.
pub(super) fn of(difference: &Difference, names: &Names, tense: Tense) -> String {
    let [adding, removing, changing, leaving, nothing] = match tense {
        Tense::Present => ["adds", "removes", "changes the filter of", "leaves", "changes nothing"],
        Tense::Past => ["added", "removed", "changed the filter of", "left", "changed nothing"],
    };
    let added = listed(adding, difference.added.iter().map(|it| called(&it.target, it.filter, names)));
    let removed = listed(removing, difference.removed.iter().map(|it| called(&it.target, it.filter, names)));
    let changed = listed(changing, difference.changed.iter().map(|it| called(&it.target, it.after, names)));
    let mut parts: Vec<_> = [added, removed, changed].into_iter().flatten().collect();
    if parts.is_empty() {
        parts.push(nothing.to_owned());
    }
    let kept = difference.kept.iter().map(|it| called(&it.target, None, names));
    parts.extend(listed(leaving, kept).map(|kept| kept + " as it is"));
    parts.push(format!("{} -> {} assignments", difference.before, difference.after));
    parts.join("; ")
}

fn listed(verb: &str, targets: impl ExactSizeIterator<Item = String>) -> Option<String> {
    let more = targets.len().saturating_sub(NAMED_MAX);
    let named: Vec<_> = targets.take(NAMED_MAX).collect();
    let rest = if more == 0 { String::new() } else { format!(" and {more} more") };
    (!named.is_empty()).then(|| format!("{verb} {}{rest}", named.join(", ")))
}

fn called(target: &Target, filter: Option<Filter>, names: &Names) -> String {
    let name = |id: String| names.get(&id).cloned().unwrap_or(id);
    let target = match target {
        Target::Group(id) => format!("group {}", name(id.to_string())),
        Target::ExcludedGroup(id) => format!("excluded group {}", name(id.to_string())),
        Target::AllDevices => "all devices".to_owned(),
        Target::AllUsers => "all users".to_owned(),
        Target::Foreign(_) => "a target of unknown type".to_owned(),
    };
    let filtered = |Filter { id, mode }: Filter| format!(" ({} {})", mode.name(), name(id.to_string()));
    target + &filter.map(filtered).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        Assignment, DesiredAssignment, FilterMode,
        change::{Changed, KeptReason, KeptTarget},
    };

    fn group(number: usize) -> Target {
        Target::Group(format!("b0000000-0000-4000-8000-{number:012}").parse().unwrap())
    }

    fn plain(number: usize) -> DesiredAssignment {
        DesiredAssignment { target: group(number), filter: None }
    }

    #[test]
    fn a_ticket_reads_names_and_numbers() {
        let filter = Filter { id: "f0000000-0000-4000-8000-000000000001".parse().unwrap(), mode: FilterMode::Include };
        let names = [(group(1), "Sales Laptops"), (group(2), "Kiosks")];
        let mut names: Names =
            names.map(|(target, name)| (target.to_string().replace("group ", ""), name.to_owned())).into();
        names.insert(filter.id.to_string(), "Corporate Windows".to_owned());
        let changed = Changed { target: group(2), before: None, after: Some(filter) };
        let difference = Difference {
            added: vec![plain(1), DesiredAssignment { target: Target::AllUsers, filter: None }],
            removed: vec![Assignment { target: group(3), filter: None, unread: None }],
            changed: vec![changed],
            kept: vec![KeptTarget { target: group(1), because: KeptReason::FilterChanged }],
            before: 3,
            after: 4,
        };
        assert_eq!(
            of(&difference, &names, Tense::Present),
            "adds group Sales Laptops, all users; removes group b0000000-0000-4000-8000-000000000003; changes the filter of \
             group Kiosks (include Corporate Windows); leaves group Sales Laptops as it is; 3 -> 4 assignments"
        );
        let nothing = Difference { before: 3, after: 3, ..Difference::default() };
        assert_eq!(of(&nothing, &names, Tense::Past), "changed nothing; 3 -> 3 assignments");
    }

    #[test]
    fn it_stays_short() {
        let difference = Difference { added: (1..=1_000).map(plain).collect(), after: 1_000, ..Difference::default() };
        let text = of(&difference, &Names::new(), Tense::Past);
        assert!(text.ends_with(" and 995 more; 0 -> 1000 assignments") && text.len() < 300, "{text}");
    }
}
