//! What a name could have meant: shown to a caller whose name is unknown or ambiguous.
//!
//! Guarantees: no more are shown than a person can choose from, in a stable order.
//!
//! It deliberately does not decide who may see them: policy does, asked by the gateway.

use crate::{
    domain::Configuration,
    graph::{AssignmentFilter, Group},
};

/// The most candidates with the same name.
pub(super) const SEVERAL_MAX: usize = 20;
/// The most candidates with a similar name.
pub(super) const ALIKE_MAX: usize = 5;

/// Something that a name could mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// JSON pointer to the name in the caller's body; empty if it was not in the body.
    pub pointer: String,
    /// The id to give instead.
    pub id: String,
    /// The name or alias that matches.
    pub name: String,
    /// A kind of configuration, `group`, `mail-only-group` or `filter`.
    pub kind: &'static str,
}

/// Whether a caller may see candidates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CandidateVisibility {
    Given,
    Withheld,
}

impl Candidate {
    pub(super) fn configuration(pointer: &str, name: &str, configuration: &Configuration) -> Self {
        let (id, kind) = (configuration.id.to_string(), configuration.kind.name());
        Self { pointer: pointer.to_owned(), id, name: name.to_owned(), kind }
    }

    pub(super) fn group(pointer: &str, group: &Group) -> Self {
        let kind = if group.mail_only { "mail-only-group" } else { "group" };
        Self { pointer: pointer.to_owned(), id: group.id.to_string(), name: group.name.clone(), kind }
    }

    pub(super) fn filter(pointer: &str, filter: &AssignmentFilter) -> Self {
        Self { pointer: pointer.to_owned(), id: filter.id.to_string(), name: filter.name.clone(), kind: "filter" }
    }
}

/// Whether one name could be meant by the other: ignoring case, spaces, hyphens and underscores, one contains the other.
pub(super) fn alike(wanted: &str, name: &str) -> bool {
    let plain = |text: &str| text.to_lowercase().replace([' ', '-', '_'], "");
    let (wanted, name) = (plain(wanted), plain(name));
    !wanted.is_empty() && !name.is_empty() && (name.contains(&wanted) || wanted.contains(&name))
}

/// The aliases that could be meant, as a question to the caller.
pub(super) fn suggestion<'a>(wanted: &str, aliases: impl Iterator<Item = &'a String>) -> String {
    question(aliases.filter(|alias| alike(wanted, alias)))
}

/// Names that could be meant, as a question to the caller; nothing if there are none.
pub fn question<'a>(names: impl Iterator<Item = &'a String>) -> String {
    let mut meant: Vec<_> = names.take(ALIKE_MAX).map(|name| format!("{name:?}")).collect();
    meant.dedup();
    if meant.is_empty() { String::new() } else { format!(" (did you mean {}?)", meant.join(" or ")) }
}
