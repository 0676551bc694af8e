//! How an operation and its state look to callers.
//!
//! These shapes are the API's contract and change only by addition. They are made from the domain, never the other way round.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    callback::CallbackView,
    openapi::schemas,
    problem::Problem,
    problem_view,
    summary::{self, Tense},
    terms_view::{ApprovalView, EndsView},
    view::{self, ChangeView, ConfigurationView, DifferenceView},
};
use crate::{
    domain::{
        Operation, State,
        operation::{Submission, Success, Write},
        reversal::Cause,
    },
    gateway::{FollowUps, Parked},
    telemetry,
};

/// How an operation was written to Graph.
#[derive(Serialize, ToSchema)]
#[schema(as = GraphWrites)]
struct GraphView {
    /// The number of writes: 0 if nothing had to be written.
    writes: u32,
    /// How many other operations the same write included.
    merged_with: usize,
    /// Graph's id of the write, if it gave one.
    #[schema(required)]
    request_id: Option<String>,
    /// The gateway's id of the write.
    #[schema(required)]
    client_request_id: Option<String>,
}

/// Why an operation cannot go on at present.
#[derive(Serialize, ToSchema)]
#[schema(as = Parked)]
struct ParkedView {
    /// The reason, in a sentence.
    because: String,
    /// When the gateway tries again.
    until: Timestamp,
    /// The number of attempts so far.
    attempts: u32,
}

/// The paths of further calls.
#[derive(Serialize, ToSchema)]
#[schema(as = Links)]
struct LinksView {
    /// The operation itself.
    #[serde(rename = "self")]
    own: String,
    /// Reverts what it did; absent if it changed nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    revert: Option<String>,
    /// Approves it; present while it awaits approval.
    #[serde(skip_serializing_if = "Option::is_none")]
    approve: Option<String>,
    /// Rejects it; present while it awaits approval.
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

/// An accepted change and its state.
#[derive(Serialize, ToSchema)]
#[schema(as = Operation)]
pub(super) struct OperationView {
    /// Its id: `op_` and 26 letters and digits. Ids sort in the order of acceptance.
    id: String,
    /// Its state.
    #[schema(value_type = schemas::OperationState)]
    state: &'static str,
    /// Whether it changed anything, once it has succeeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schemas::Effect>)]
    effect: Option<&'static str>,
    /// What it did, as one sentence for a ticket, once it has succeeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    summary: Option<String>,
    /// The configuration that it changes.
    configuration: ConfigurationView,
    /// The operation that it undoes, if it is a reversal.
    #[serde(skip_serializing_if = "Option::is_none")]
    reverts: Option<String>,
    /// `until` if it is a reversal that nobody requested, because the end of the other operation has come.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schemas::Cause>)]
    cause: Option<&'static str>,
    /// The newest reversal of it that was not cancelled and has not failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    reverted_by: Option<String>,
    /// When what it does is to be undone, if an end is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<Timestamp>,
    /// The state of that end.
    #[serde(skip_serializing_if = "Option::is_none")]
    ends: Option<EndsView>,
    /// What was requested.
    change: ChangeView,
    /// What it did, once it has succeeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    difference: Option<DifferenceView>,
    /// The `ETag` of the set that the change is bound to, from `If-Match`; only the part that identifies the set.
    #[serde(skip_serializing_if = "Option::is_none")]
    if_match: Option<String>,
    /// The ticket, as it was sent.
    #[schema(required)]
    ticket: Option<String>,
    /// The person for whom it was requested, as it was sent.
    #[schema(required)]
    requested_for: Option<String>,
    /// The comment, as it was sent.
    #[schema(required)]
    comment: Option<String>,
    /// The configured name of the caller that requested it.
    caller: String,
    /// When it was accepted and stored.
    accepted_at: Timestamp,
    /// The approval that it waits or waited for, if policy requires one.
    #[serde(skip_serializing_if = "Option::is_none")]
    approval: Option<ApprovalView>,
    /// When work on it began; null before.
    #[schema(required)]
    started_at: Option<Timestamp>,
    /// When it ended; null before.
    #[schema(required)]
    ended_at: Option<Timestamp>,
    /// How it was written to Graph, once it has succeeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    graph: Option<GraphView>,
    /// Why it failed, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<problem_view::Document<'static>>)]
    problem: Option<Value>,
    /// Why it cannot go on at present, if that is so.
    #[serde(skip_serializing_if = "Option::is_none")]
    parked: Option<ParkedView>,
    /// Where its end is reported, and the state of that.
    #[serde(skip_serializing_if = "Option::is_none")]
    callback: Option<CallbackView>,
    /// The trace id of the request that created it.
    #[schema(required)]
    trace_id: Option<String>,
    /// The paths of further calls.
    links: LinksView,
}

impl OperationView {
    pub(super) fn of(operation: &Operation, parked: Option<&Parked>, follow_ups: &FollowUps) -> Self {
        let Operation { id, submission, state } = operation;
        let Submission { configuration, configuration_name, change, names, .. } = submission;
        let success = if let State::Succeeded(success) = state { Some(success) } else { None };
        let (started_at, ended_at) = times(state);
        Self {
            id: id.to_string(),
            state: state.name(),
            effect: success.map(|success| view::effect(&success.difference)),
            summary: success.map(|success| summary::of(&success.difference, names, Tense::Past)),
            configuration: ConfigurationView { id: configuration.to_string(), name: configuration_name.clone() },
            reverts: change.reversal().map(|it| it.operation().to_string()),
            cause: submission.carries_out_until().then_some(Cause::Until.name()),
            reverted_by: reverted_by(follow_ups),
            until: submission.until.as_ref().map(|until| until.at),
            ends: follow_ups.until.map(EndsView::from),
            change: ChangeView::of(change, names),
            difference: success.map(|success| DifferenceView::of(&success.difference, names)),
            if_match: submission.only_on.as_ref().map(view::etag),
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
            callback: submission.callback.as_ref().map(|it| CallbackView::of(it, follow_ups.callback.as_ref())),
            trace_id: submission.traceparent.as_deref().and_then(telemetry::trace_id_in),
            links: LinksView::of(operation),
        }
    }
}

fn reverted_by(follow_ups: &FollowUps) -> Option<String> {
    let undoes = |it: &&Operation| !matches!(it.state, State::Failed { .. } | State::Cancelled { .. });
    follow_ups.reversals.iter().find(undoes).map(|it| it.id.to_string())
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

/// Why an operation failed. The trace id is that of the request that created it, not of the one that reads it.
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
