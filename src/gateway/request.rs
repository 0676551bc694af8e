//! What callers request, as they put it: names are not ids yet.
//!
//! `api` makes these from JSON whose form was checked; `resolve` turns them into the domain's change. A [`Fault`] points to
//! the place in the caller's own body, so every layer can say where something is wrong.

use jiff::Timestamp;

use crate::domain::{Digest, FilterMode, OperationId, change::List};

/// A change, as a caller puts it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeRequest {
    /// Id, alias or display name of the configuration.
    pub configuration: String,
    /// What to do.
    pub change: RequestedChange,
    /// The ticket.
    pub ticket: Option<String>,
    /// The person for whom it is requested.
    pub requested_for: Option<String>,
    /// Why.
    pub comment: Option<String>,
    /// Digest of the only set to which it may be applied; none for any.
    pub only_on: Option<Digest>,
    /// When it is to be undone, if ever.
    pub until: Option<Timestamp>,
    /// Where its end is reported.
    pub callback: Option<CallbackRequest>,
}

/// Where an end is reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallbackRequest {
    /// The URL; none for the caller's usual one.
    pub url: Option<String>,
    /// What is sent back to the caller with it, as JSON.
    pub context: Option<String>,
}

/// Details of a reversal. Ticket and person, if left out, are those of the operation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RevertRequest {
    /// The ticket.
    pub ticket: Option<String>,
    /// The person for whom it is requested.
    pub requested_for: Option<String>,
    /// Why.
    pub comment: Option<String>,
    /// Digest of the only set to which it may be applied; none for any.
    pub only_on: Option<Digest>,
    /// Where its end is reported.
    pub callback: Option<CallbackRequest>,
}

/// What to do to the assignments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestedChange {
    /// Add these, remove those.
    Amend {
        /// To add.
        add: Vec<NamedTarget>,
        /// To remove.
        remove: Vec<NamedTarget>,
    },
    /// Make these the whole set.
    Replace(Vec<NamedTarget>),
}

impl RequestedChange {
    /// All targets, with the list and the index of each.
    pub fn targets(&self) -> impl Iterator<Item = (List, usize, &NamedTarget)> {
        let lists: [(List, &[NamedTarget]); 2] = match self {
            Self::Amend { add, remove } => [(List::Add, add), (List::Remove, remove)],
            Self::Replace(wanted) => [(List::Replace, wanted), (List::Remove, &[])],
        };
        lists
            .into_iter()
            .flat_map(|(list, targets)| targets.iter().enumerate().map(move |(index, named)| (list, index, named)))
    }
}

/// A target, as a caller names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedTarget {
    /// Whom it reaches.
    pub target: TargetRef,
    /// What narrows it.
    pub filter: Option<NamedFilter>,
}

/// Whom a target reaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetRef {
    /// The group of this id, alias or display name.
    Group(String),
    /// Everyone but that group. Parsed only so that its refusal can say why.
    ExcludedGroup(String),
    /// All devices.
    AllDevices,
    /// All users.
    AllUsers,
}

/// A filter, as a caller names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedFilter {
    /// Its id, alias or display name.
    pub reference: String,
    /// Whether it includes or excludes.
    pub mode: FilterMode,
}

/// What the record of a refused change says about the request.
pub(super) struct RefusedRequest {
    pub(super) of: RequestSubject,
    pub(super) ticket: Option<String>,
}

/// What a change was requested of.
pub(super) enum RequestSubject {
    /// A configuration, as it was named.
    Configuration(String),
    /// An operation that was to be reverted.
    Operation(OperationId),
}

impl From<&ChangeRequest> for RefusedRequest {
    fn from(request: &ChangeRequest) -> Self {
        Self { of: RequestSubject::Configuration(request.configuration.clone()), ticket: request.ticket.clone() }
    }
}

/// Something wrong with a request, and where in its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// JSON pointer (RFC 6901) into the body.
    pub pointer: String,
    /// What is wrong and what to do, for people.
    pub detail: String,
}

/// The JSON pointer to an entry in a list of a change.
pub fn pointer(list: List, index: usize) -> String {
    format!("/{}/{index}", list_name(list))
}

fn list_name(list: List) -> &'static str {
    match list {
        List::Add => "add",
        List::Remove => "remove",
        List::Replace => "replace",
    }
}
