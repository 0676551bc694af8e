//! How targets, changes and differences look to callers.
//!
//! These shapes are the API's contract and change only by addition. They are made from the domain, never the other way round;
//! groups and filters have the display names that were known when the change was accepted.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use super::openapi::schemas;
use crate::domain::{
    Change, DesiredAssignment, Difference, Digest, Filter, Target,
    change::{Changed, KeptReason, KeptTarget},
};

/// Display names by id.
pub(super) type Names = BTreeMap<String, String>;

/// A configuration, by id and display name.
#[derive(Serialize, ToSchema)]
#[schema(as = NamedConfiguration)]
pub(super) struct ConfigurationView {
    /// Its id in Graph.
    pub(super) id: String,
    /// Its display name.
    pub(super) name: String,
}

/// An assignment filter that narrows a target.
#[derive(Serialize, ToSchema)]
#[schema(as = AssignmentFilter)]
struct FilterView {
    /// Its id in Intune.
    id: String,
    /// Its display name, if it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// Whether only the devices that it matches are included, or whether they are excluded.
    #[schema(value_type = schemas::FilterMode)]
    mode: &'static str,
}

/// Whom an assignment reaches, in the same form as in a change.
#[derive(Default, Serialize, ToSchema)]
#[schema(as = AssignmentTarget)]
pub(super) struct TargetView {
    /// The group's object id.
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    /// The group's display name, if it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// All devices or all users, instead of a group.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schemas::Everyone>)]
    all: Option<&'static str>,
    /// True if the group is excluded.
    #[serde(skip_serializing_if = "Option::is_none")]
    exclude: Option<bool>,
    /// A target of a type that this version does not know, as Graph returned it.
    #[serde(skip_serializing_if = "Option::is_none")]
    other: Option<String>,
    /// The filter that narrows it, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    filter: Option<FilterView>,
}

impl TargetView {
    pub(super) fn of(target: &Target, filter: Option<Filter>, names: &Names) -> Self {
        let filter = filter.map(|Filter { id, mode }| {
            let id = id.to_string();
            FilterView { name: names.get(&id).cloned(), id, mode: mode.name() }
        });
        let group = |id: &crate::domain::GroupId| {
            let id = id.to_string();
            Self { name: names.get(&id).cloned(), group: Some(id), ..Self::default() }
        };
        let view = match target {
            Target::Group(id) => group(id),
            Target::ExcludedGroup(id) => Self { exclude: Some(true), ..group(id) },
            Target::AllDevices => Self { all: Some("devices"), ..Self::default() },
            Target::AllUsers => Self { all: Some("users"), ..Self::default() },
            Target::Foreign(unread) => Self { other: Some(unread.as_str().to_owned()), ..Self::default() },
        };
        Self { filter, ..view }
    }

    fn all_of(wanted: &[DesiredAssignment], names: &Names) -> Vec<Self> {
        wanted.iter().map(|wanted| Self::of(&wanted.target, wanted.filter, names)).collect()
    }
}

/// A target whose filter changed.
#[derive(Serialize, ToSchema)]
#[schema(as = ChangedTarget)]
struct ChangedView {
    /// The target, with its filter afterwards.
    target: TargetView,
    /// Its filter before; null if there was none.
    #[schema(required)]
    filter_before: Option<FilterView>,
}

/// A target that a reversal leaves as it is.
#[derive(Serialize, ToSchema)]
#[schema(as = KeptTarget)]
struct KeptView {
    /// The target.
    target: TargetView,
    /// The reason, as a stable code.
    #[schema(value_type = schemas::KeptBecause)]
    because: &'static str,
    /// The reason, as a sentence.
    detail: &'static str,
}

fn sentence(why: KeptReason) -> &'static str {
    match why {
        KeptReason::FilterChanged => "Its filter has been changed since.",
        KeptReason::AssignedAgain => "It has been assigned again since, with another filter.",
        KeptReason::Removed => "It has been removed since.",
        KeptReason::GroupGone => "The group no longer exists in the directory.",
        KeptReason::NotAssignable => "The configuration does not accept it.",
    }
}

/// What a change does or did to the set of direct assignments.
#[derive(Serialize, ToSchema)]
#[schema(as = Difference)]
pub(super) struct DifferenceView {
    /// Targets that were not there before.
    added: Vec<TargetView>,
    /// Targets that are no longer there.
    removed: Vec<TargetView>,
    /// Targets whose filter changed.
    changed: Vec<ChangedView>,
    /// Targets that a reversal leaves as they are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    kept: Vec<KeptView>,
    /// How many targets there were before.
    before: usize,
    /// How many there are afterwards.
    after: usize,
}

impl DifferenceView {
    pub(super) fn of(difference: &Difference, names: &Names) -> Self {
        let changed = |Changed { target, before, after }: &Changed| ChangedView {
            target: TargetView::of(target, *after, names),
            filter_before: TargetView::of(target, *before, names).filter,
        };
        let kept = |KeptTarget { target, because }: &KeptTarget| KeptView {
            target: TargetView::of(target, None, names),
            because: because.name(),
            detail: sentence(*because),
        };
        Self {
            added: TargetView::all_of(&difference.added, names),
            removed: difference.removed.iter().map(|it| TargetView::of(&it.target, it.filter, names)).collect(),
            changed: difference.changed.iter().map(changed).collect(),
            kept: difference.kept.iter().map(kept).collect(),
            before: difference.before,
            after: difference.after,
        }
    }
}

/// The `ETag` of a set, as `If-Match` takes it.
pub(super) fn etag(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

/// Whether a difference changes anything.
pub(super) fn effect(difference: &Difference) -> &'static str {
    if difference.is_empty() { "unchanged" } else { "changed" }
}

/// A change, with all names resolved: `add` and `remove`, or `replace`, or the fields of a reversal.
#[derive(Default, Serialize, ToSchema)]
#[schema(as = ResolvedChange)]
pub(super) struct ChangeView {
    /// The operation that it undoes, if it is a reversal.
    #[serde(skip_serializing_if = "Option::is_none")]
    revert: Option<String>,
    /// Targets to add; in a reversal, those to put back.
    #[serde(skip_serializing_if = "Option::is_none")]
    add: Option<Vec<TargetView>>,
    /// Targets to remove.
    #[serde(skip_serializing_if = "Option::is_none")]
    remove: Option<Vec<TargetView>>,
    /// Targets whose former filter a reversal restores.
    #[serde(skip_serializing_if = "Option::is_none")]
    set_back: Option<Vec<TargetView>>,
    /// The complete wanted set.
    #[serde(skip_serializing_if = "Option::is_none")]
    replace: Option<Vec<TargetView>>,
}

impl ChangeView {
    pub(super) fn of(change: &Change, names: &Names) -> Self {
        let wanted = TargetView::all_of(change.wanted(), names);
        match change {
            Change::Amend(_) => {
                let remove = change.unwanted().iter().map(|target| TargetView::of(target, None, names)).collect();
                Self { add: Some(wanted), remove: Some(remove), ..Self::default() }
            }
            Change::Replace(_) => Self { replace: Some(wanted), ..Self::default() },
            Change::Revert(reversal) => {
                let add = reversal.put_back().iter().map(|it| TargetView::of(&it.target, it.filter, names));
                let set_back = reversal.set_back().iter().map(|it| TargetView::of(&it.target, it.before, names));
                Self {
                    revert: Some(reversal.operation().to_string()),
                    add: Some(add.collect()),
                    remove: Some(TargetView::all_of(reversal.taken_out(), names)),
                    set_back: Some(set_back.collect()),
                    replace: None,
                }
            }
        }
    }
}
