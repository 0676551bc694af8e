//! How an operation and its fate look to callers.
//!
//! The shapes here are the API's promise and change only by addition. They are made from the domain, never the other way
//! round.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    callback::CallbackView,
    conditions::{ApprovalView, EndsView},
    document,
    problem::Problem,
    reference::schemas,
    summary::{self, Tense},
    view::{self, ChangeView, ConfigurationView, DifferenceView},
};
use crate::{
    domain::{
        Operation, State,
        operation::{Submission, Success, Write},
        reversal::Cause,
    },
    gateway::{Parked, Sequel},
    telemetry,
};

/// The writes to Graph that carried an operation.
#[derive(Serialize, ToSchema)]
#[schema(as = GraphWrites)]
struct GraphView {
    /// How many there were: none if nothing had to be written.
    writes: u32,
    /// How many other operations the same write carried.
    merged_with: usize,
    /// Graph's id of the write, if it gave one.
    #[schema(required)]
    request_id: Option<String>,
    /// Our id of the write.
    #[schema(required)]
    client_request_id: Option<String>,
}

/// What holds an operation up.
#[derive(Serialize, ToSchema)]
#[schema(as = Parked)]
struct ParkedView {
    /// Why, in a sentence.
    because: String,
    /// When it is tried again.
    until: Timestamp,
    /// How often it was tried.
    attempts: u32,
}

/// Where to go on.
#[derive(Serialize, ToSchema)]
#[schema(as = Links)]
struct LinksView {
    /// Where the operation is.
    #[serde(rename = "self")]
    own: String,
    /// Where what it did can be undone; none if it did nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    revert: Option<String>,
    /// Where it can be approved, while it awaits that.
    #[serde(skip_serializing_if = "Option::is_none")]
    approve: Option<String>,
    /// Where it can be rejected, while it awaits approval.
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

/// An accepted change and its fate.
#[derive(Serialize, ToSchema)]
#[schema(as = Operation)]
pub(super) struct OperationView {
    /// Its id: `op_` and 26 letters and digits, in the order of acceptance.
    id: String,
    /// Where it stands.
    #[schema(value_type = schemas::OperationState)]
    state: &'static str,
    /// Whether it changed anything, once it has succeeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schemas::Effect>)]
    effect: Option<&'static str>,
    /// What it did, as one sentence for a ticket, once it has succeeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    summary: Option<String>,
    /// What it is about.
    configuration: ConfigurationView,
    /// The operation that it undoes.
    #[serde(skip_serializing_if = "Option::is_none")]
    reverts: Option<String>,
    /// `until`, if it undoes that because its end has come.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schemas::Cause>)]
    cause: Option<&'static str>,
    /// The newest operation that undoes it, failures excepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    reverted_by: Option<String>,
    /// When what it does is to be undone.
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<Timestamp>,
    /// How that end stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    ends: Option<EndsView>,
    /// What was asked for.
    change: ChangeView,
    /// What it did, once it has succeeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    difference: Option<DifferenceView>,
    /// The set that the change is bound to, as `If-Match` named it.
    #[serde(skip_serializing_if = "Option::is_none")]
    if_match: Option<String>,
    /// The ticket, as it was sent.
    #[schema(required)]
    ticket: Option<String>,
    /// The person for whom it was asked, as it was sent.
    #[schema(required)]
    requested_for: Option<String>,
    /// The comment, as it was sent.
    #[schema(required)]
    comment: Option<String>,
    /// The caller that asked for it, by its configured name.
    caller: String,
    /// When it was made durable.
    accepted_at: Timestamp,
    /// The consent that it waits or waited for, if policy asked for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    approval: Option<ApprovalView>,
    /// When work on it began; null before.
    #[schema(required)]
    started_at: Option<Timestamp>,
    /// When it ended; null before.
    #[schema(required)]
    ended_at: Option<Timestamp>,
    /// The writes that carried it, once it has succeeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    graph: Option<GraphView>,
    /// Why it failed, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<document::Document<'static>>)]
    problem: Option<Value>,
    /// What holds it up, if anything does.
    #[serde(skip_serializing_if = "Option::is_none")]
    parked: Option<ParkedView>,
    /// Where its end is told, and how far that has got.
    #[serde(skip_serializing_if = "Option::is_none")]
    callback: Option<CallbackView>,
    /// The trace of the call that asked for it.
    #[schema(required)]
    trace_id: Option<String>,
    /// Where to go on.
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
            effect: success.map(|success| view::effect(&success.difference)),
            summary: success.map(|success| summary::of(&success.difference, names, Tense::Past)),
            configuration: ConfigurationView { id: configuration.to_string(), name: configuration_name.clone() },
            reverts: change.reversal().map(|it| it.operation().to_string()),
            cause: submission.is_an_end().then_some(Cause::Until.name()),
            reverted_by: reverted_by(sequel),
            until: submission.until.as_ref().map(|until| until.at),
            ends: sequel.until.map(EndsView::from),
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
