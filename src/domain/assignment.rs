//! Targets, filters and the assignment set of one configuration.
//!
//! Guarantees: a set holds each target once, in an order that does not depend on Graph's, so two sets with the same content
//! are equal and have the same digest. What this version does not understand is preserved: unknown fields of a known target
//! as [`UninterpretedJson`] text beside it, a target of unknown type as [`Target::Foreign`].
//!
//! It deliberately holds direct assignments only. Those that come from policy sets are read, but never posted.

use std::{collections::BTreeMap, fmt};

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use super::ids::{FilterId, GroupId};

/// JSON text from Graph that is preserved uninterpreted (with keys sorted).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct UninterpretedJson(String);

impl UninterpretedJson {
    /// Wraps the canonical text of a JSON object.
    pub fn new(canonical_json: String) -> Self {
        Self(canonical_json)
    }

    /// The JSON text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whom an assignment reaches. Order: groups first, then everyone, then unknown types.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// The members of a group.
    Group(GroupId),
    /// Excludes the members of a group; takes no filter.
    ExcludedGroup(GroupId),
    /// All devices of the tenant.
    AllDevices,
    /// All licensed users of the tenant.
    AllUsers,
    /// A target of a type that this version does not know, as Graph returned it, without its filter.
    Foreign(UninterpretedJson),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Group(id) => write!(f, "group {id}"),
            Self::ExcludedGroup(id) => write!(f, "excluded group {id}"),
            Self::AllDevices => f.write_str("all devices"),
            Self::AllUsers => f.write_str("all users"),
            Self::Foreign(unread) => write!(f, "a target of unknown type {}", unread.as_str()),
        }
    }
}

/// How a filter narrows its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FilterMode {
    /// Only devices that match.
    Include,
    /// Only devices that do not match.
    Exclude,
}

impl FilterMode {
    /// The name, the same in Postern's API and in Graph's.
    pub fn name(self) -> &'static str {
        match self {
            Self::Include => "include",
            Self::Exclude => "exclude",
        }
    }

    /// The mode of that name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Include, Self::Exclude].into_iter().find(|mode| mode.name() == name)
    }
}

/// An assignment filter, as applied to a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Filter {
    /// Which filter.
    pub id: FilterId,
    /// How it narrows the target.
    pub mode: FilterMode,
}

/// One assignment of a configuration.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Assignment {
    /// Whom it reaches.
    pub target: Target,
    /// The filter that narrows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<Filter>,
    /// Fields of the target that this version does not know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unread: Option<UninterpretedJson>,
}

/// The direct assignments of one configuration, one per target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AssignmentSet(BTreeMap<Target, Assignment>);

/// Graph returned one target twice, with different filters or fields; which of the two is in force cannot be known.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is assigned twice, with different filters or fields")]
pub struct DuplicateTarget(pub Target);

impl AssignmentSet {
    /// The set of these assignments. Identical assignments count once.
    pub fn from_parts(parts: impl IntoIterator<Item = Assignment>) -> Result<Self, DuplicateTarget> {
        let mut set = BTreeMap::new();
        for part in parts {
            if let Some(other) = set.insert(part.target.clone(), part.clone())
                && other != part
            {
                return Err(DuplicateTarget(part.target));
            }
        }
        Ok(Self(set))
    }

    /// The assignments, in the set's order.
    pub fn iter(&self) -> impl Iterator<Item = &Assignment> {
        self.0.values()
    }

    /// The assignment of this target, if there is one.
    pub fn of(&self, target: &Target) -> Option<&Assignment> {
        self.0.get(target)
    }

    /// How many targets are assigned.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is assigned.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Assigns a target, or changes the filter of one that is already assigned; its unknown fields stay.
    pub(super) fn put(&mut self, target: Target, filter: Option<Filter>) {
        let unread = self.0.get(&target).and_then(|assignment| assignment.unread.clone());
        self.0.insert(target.clone(), Assignment { target, filter, unread });
    }

    /// Assigns a target exactly as it was before, unknown fields included.
    pub(super) fn restore(&mut self, assignment: Assignment) {
        self.0.insert(assignment.target.clone(), assignment);
    }

    /// Removes a target.
    pub(super) fn take(&mut self, target: &Target) -> Option<Assignment> {
        self.0.remove(target)
    }

    /// A fingerprint of the content: equal for equal sets, and only for them.
    pub fn digest(&self) -> Digest {
        let line = |Assignment { target, filter, unread }: &Assignment| {
            let filter = filter.map(|filter| format!("{} {}", filter.mode.name(), filter.id));
            // The debug format quotes and escapes, so no field can run into the next.
            format!("{:?} {filter:?} {:?}\n", target.to_string(), unread.as_ref().map(UninterpretedJson::as_str))
        };
        let text: String = self.iter().map(line).collect();
        Digest::of(text.as_bytes())
    }
}

/// A SHA-256 digest, in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Digest(String);

impl Digest {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(HEXLOWER.encode(digest(&SHA256, bytes).as_ref()))
    }

    /// A digest that was computed earlier and stored as text; not checked.
    pub fn from_stored(hex: &str) -> Self {
        Self(hex.to_owned())
    }

    /// Parses 64 lower-case hexadecimal digits; none for anything else.
    pub fn parse(hex: &str) -> Option<Self> {
        let spelt = hex.len() == 64 && hex.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        spelt.then(|| Self(hex.to_owned()))
    }

    /// The 64 hexadecimal digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
