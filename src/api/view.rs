//! How operations, differences and targets look to callers.
//!
//! The shapes here are the API's promise and change only by addition. They are made from the domain, never the other way
//! round; groups and filters carry the display names that were known when the change was accepted.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::{
    callback::CallbackView,
    conditions::{ApprovalView, EndsView},
    problem::Problem,
    summary::{self, Tense},
};
use crate::{
    domain::{
        Change, Difference, Digest, Filter, Operation, State, Target, Wanted,
        change::{Changed, Kept, Why},
        operation::{Submission, Success, Write},
        reversal::Cause,
    },
    gateway::{Parked, Sequel},
    telemetry,
};

/// Display names by ids.
pub(super) type Names = BTreeMap<String, String>;

#[derive(Serialize)]
pub(super) struct ConfigurationView {
    pub(super) id: String,
    pub(super) name: String,
}

#[derive(Serialize)]
struct FilterView {
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    mode: &'static str,
}

/// A target in the words of a change: what is shown can be sent.
#[derive(Default, Serialize)]
pub(super) struct TargetView {
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    all: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exclude: Option<bool>,
    /// A target that this version does not know, as Graph has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    other: Option<String>,
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

    fn all_of(wanted: &[Wanted], names: &Names) -> Vec<Self> {
        wanted.iter().map(|wanted| Self::of(&wanted.target, wanted.filter, names)).collect()
    }
}

#[derive(Serialize)]
struct ChangedView {
    target: TargetView,
    filter_before: Option<FilterView>,
}

/// A target that a reversal leaves alone.
#[derive(Serialize)]
struct KeptView {
    target: TargetView,
    because: &'static str,
    detail: &'static str,
}

fn sentence(why: Why) -> &'static str {
    match why {
        Why::FilterChanged => "Its filter was changed since.",
        Why::AssignedAgain => "It was assigned again since, with another filter.",
        Why::Removed => "It was removed since.",
        Why::GroupGone => "The directory has no such group any more.",
        Why::NotAssignable => "The configuration does not take it.",
    }
}

#[derive(Serialize)]
pub(super) struct DifferenceView {
    added: Vec<TargetView>,
    removed: Vec<TargetView>,
    changed: Vec<ChangedView>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    kept: Vec<KeptView>,
    before: usize,
    after: usize,
}

impl DifferenceView {
    pub(super) fn of(difference: &Difference, names: &Names) -> Self {
        let changed = |Changed { target, before, after }: &Changed| ChangedView {
            target: TargetView::of(target, *after, names),
            filter_before: TargetView::of(target, *before, names).filter,
        };
        let kept = |Kept { target, because }: &Kept| KeptView {
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

/// A set's `ETag`: what `If-Match` takes.
pub(super) fn etag(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

/// Whether a difference is one.
pub(super) fn effect(difference: &Difference) -> &'static str {
    if difference.is_empty() { "unchanged" } else { "changed" }
}

#[derive(Serialize)]
#[serde(untagged)]
enum ChangeView {
    Amend { add: Vec<TargetView>, remove: Vec<TargetView> },
    Replace { replace: Vec<TargetView> },
    Revert { revert: String, add: Vec<TargetView>, remove: Vec<TargetView>, set_back: Vec<TargetView> },
}

impl ChangeView {
    fn of(change: &Change, names: &Names) -> Self {
        let wanted = TargetView::all_of(change.wanted(), names);
        match change {
            Change::Amend(_) => {
                let remove = change.unwanted().iter().map(|target| TargetView::of(target, None, names)).collect();
                Self::Amend { add: wanted, remove }
            }
            Change::Replace(_) => Self::Replace { replace: wanted },
            Change::Revert(reversal) => {
                let add = reversal.put_back().iter().map(|it| TargetView::of(&it.target, it.filter, names));
                let set_back = reversal.set_back().iter().map(|it| TargetView::of(&it.target, it.before, names));
                Self::Revert {
                    revert: reversal.operation().to_string(),
                    add: add.collect(),
                    remove: TargetView::all_of(reversal.taken_out(), names),
                    set_back: set_back.collect(),
                }
            }
        }
    }
}

/// The writes that carried an operation.
#[derive(Serialize)]
struct GraphView {
    writes: u32,
    merged_with: usize,
    request_id: Option<String>,
    client_request_id: Option<String>,
}

#[derive(Serialize)]
struct ParkedView {
    because: String,
    until: Timestamp,
    attempts: u32,
}

#[derive(Serialize)]
struct LinksView {
    #[serde(rename = "self")]
    own: String,
    /// Where what it did can be undone; none if it did nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    revert: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    approve: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reject: Option<String>,
}

impl LinksView {
    fn of(operation: &Operation) -> Self {
        let own = format!("/v1/operations/{}", operation.id);
        let to = |verb| format!("{own}/{verb}");
        let awaits = operation.state == State::AwaitingApproval;
        Self {
            revert: operation.has_changed_something().then(|| to("revert")),
            approve: awaits.then(|| to("approve")),
            reject: awaits.then(|| to("reject")),
            own,
        }
    }
}

/// An operation.
#[derive(Serialize)]
pub(super) struct OperationView {
    id: String,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    effect: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    summary: Option<String>,
    configuration: ConfigurationView,
    /// The operation that it undoes.
    #[serde(skip_serializing_if = "Option::is_none")]
    reverts: Option<String>,
    /// `until`, if it undoes that because its end has come.
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<&'static str>,
    /// The newest operation that undoes it, failures excepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    reverted_by: Option<String>,
    /// When what it does is to be undone.
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ends: Option<EndsView>,
    change: ChangeView,
    #[serde(skip_serializing_if = "Option::is_none")]
    difference: Option<DifferenceView>,
    /// The set that the change is bound to, as `If-Match` named it.
    #[serde(skip_serializing_if = "Option::is_none")]
    if_match: Option<String>,
    ticket: Option<String>,
    requested_for: Option<String>,
    comment: Option<String>,
    caller: String,
    accepted_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    approval: Option<ApprovalView>,
    started_at: Option<Timestamp>,
    ended_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    graph: Option<GraphView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parked: Option<ParkedView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    callback: Option<CallbackView>,
    trace_id: Option<String>,
    links: LinksView,
}

impl OperationView {
    pub(super) fn of(operation: &Operation, parked: Option<&Parked>, sequel: &Sequel) -> Self {
        let Operation { id, submission, state } = operation;
        let Submission { configuration, configuration_name, change, names, .. } = submission;
        let success = if let State::Succeeded(success) = state { Some(success) } else { None };
        let (started_at, ended_at) = times(state);
        Self {
            id: id.to_string(),
            state: state.name(),
            effect: success.map(|success| effect(&success.difference)),
            summary: success.map(|success| summary::of(&success.difference, names, Tense::Past)),
            configuration: ConfigurationView { id: configuration.to_string(), name: configuration_name.clone() },
            reverts: change.reversal().map(|it| it.operation().to_string()),
            cause: submission.is_an_end().then_some(Cause::Until.name()),
            reverted_by: reverted_by(sequel),
            until: submission.until.as_ref().map(|until| until.at),
            ends: sequel.until.map(EndsView::from),
            change: ChangeView::of(change, names),
            difference: success.map(|success| DifferenceView::of(&success.difference, names)),
            if_match: submission.only_on.as_ref().map(etag),
            ticket: submission.ticket.clone(),
            requested_for: submission.requested_for.clone(),
            comment: submission.comment.clone(),
            caller: submission.caller.clone(),
            accepted_at: submission.accepted_at,
            approval: submission.approval.as_ref().map(|it| ApprovalView::of(it, submission.accepted_at)),
            started_at,
            ended_at,
            graph: success.map(graph),
            problem: problem(operation),
            parked: parked.map(|Parked { because, until, attempts }| ParkedView {
                because: because.clone(),
                until: *until,
                attempts: *attempts,
            }),
            callback: submission.callback.as_ref().map(|it| CallbackView::of(it, sequel.callback.as_ref())),
            trace_id: submission.traceparent.as_deref().and_then(telemetry::trace_id_in),
            links: LinksView::of(operation),
        }
    }
}

fn reverted_by(sequel: &Sequel) -> Option<String> {
    let undoes = |it: &&Operation| !matches!(it.state, State::Failed { .. } | State::Cancelled { .. });
    sequel.reversals.iter().find(undoes).map(|it| it.id.to_string())
}

fn times(state: &State) -> (Option<Timestamp>, Option<Timestamp>) {
    match state {
        State::AwaitingApproval | State::Queued => (None, None),
        State::Running { started_at } => (Some(*started_at), None),
        State::Succeeded(Success { started_at, ended_at, .. }) => (Some(*started_at), Some(*ended_at)),
        State::Failed { started_at, ended_at, .. } => (*started_at, Some(*ended_at)),
        State::Cancelled { ended_at } => (None, Some(*ended_at)),
    }
}

fn graph(success: &Success) -> GraphView {
    let write = success.write.as_ref();
    GraphView {
        writes: u32::from(write.is_some()),
        merged_with: write.map_or(0, |write| write.merged_with),
        request_id: write.and_then(|Write { request_id, .. }| request_id.clone()),
        client_request_id: write.map(|Write { client_request_id, .. }| client_request_id.clone()),
    }
}

/// Why an operation failed. Its trace id is that of the call that asked for it, not of the one that looks.
fn problem(operation: &Operation) -> Option<Value> {
    let State::Failed { failure, .. } = &operation.state else { return None };
    let mut problem = Problem::of_failure(failure, operation.id).to_value();
    let trace_id = operation.submission.traceparent.as_deref().and_then(telemetry::trace_id_in);
    if let Some(fields) = problem.as_object_mut() {
        fields.insert("trace_id".to_owned(), trace_id.into());
        fields.remove("operation");
    }
    Some(problem)
}
