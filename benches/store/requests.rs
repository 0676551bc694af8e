//! Typical requests to a store: of the size that the gateway stores for a real change.
//!
//! It deliberately uses nothing from the suite in `tests/store`: that covers kinds of stores and verbs which no bench needs.

use std::time::Duration;

use jiff::Timestamp;
use postern::{
    audit::{Actor, Entry, Event, RecordedChange},
    domain::{
        Change, ConfigurationId, DesiredAssignment, Difference, Digest, Operation, OperationId, State, Target,
        operation::{Submission, SuccessEvidence},
    },
    store::{Acceptance, Claim, IdempotencyKey, Part, PendingLimits, Settlement, UnsettledWrites},
};
use uuid::Uuid;

/// More than is ever pending here.
const AMPLE: PendingLimits = PendingLimits { per_configuration: 1_000_000, total: 1_000_000 };

pub(crate) fn lane(number: u32) -> ConfigurationId {
    format!("9f1c6a4e-8a77-4b8e-9d6e-{number:012x}_Limit").parse().unwrap()
}

/// The change that adds these groups.
pub(crate) fn adding(groups: impl IntoIterator<Item = u128>) -> Change {
    let group = |number: u128| Target::Group(Uuid::from_u128(number).to_string().parse().unwrap());
    let wanted = groups.into_iter().map(|number| DesiredAssignment { target: group(number), filter: None });
    Change::amend(wanted.collect(), vec![], 2_000).unwrap()
}

/// A new change of two targets on a lane, with an idempotency key and an audit record.
pub(crate) fn acceptance(number: u64, lane: &ConfigurationId) -> Acceptance {
    let groups = [u128::from(number), u128::from(number) + 1];
    let submission = Submission {
        configuration: lane.clone(),
        configuration_name: "Sales ESP".to_owned(),
        change: adding(groups),
        names: groups.map(|group| (Uuid::from_u128(group).to_string(), "Sales Laptops".to_owned())).into(),
        caller: "servicenow".to_owned(),
        ticket: Some(format!("RITM{number}")),
        requested_for: Some("jane.doe@contoso.com".to_owned()),
        comment: Some("New sales floor".to_owned()),
        accepted_at: Timestamp::UNIX_EPOCH,
        only_on: None,
        until: None,
        approval: None,
        callback: None,
        traceparent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned()),
    };
    let operation =
        Operation { id: OperationId::from(Uuid::from_u128(number.into())), submission, state: State::Queued };
    let key = IdempotencyKey {
        key: format!("key-{number}"),
        fingerprint: Digest::of(b"asked"),
        used_at: Timestamp::UNIX_EPOCH,
        expires_at: Timestamp::MAX,
    };
    Acceptance {
        entry: entry(accepted(&operation)),
        operation,
        key: Some(key),
        limits: AMPLE,
        carries_out_until_of: None,
        reverted_since: None,
    }
}

fn accepted(operation: &Operation) -> Event {
    let Submission { configuration, change, caller, ticket, requested_for, comment, .. } = &operation.submission;
    Event::Accepted {
        operation: operation.id,
        actor: Actor {
            caller: Some(caller.clone()),
            issuer: "sandbox".to_owned(),
            subject: "servicenow".to_owned(),
            token_id: Some("a token".to_owned()),
        },
        configuration: configuration.to_string(),
        change: RecordedChange::from(change),
        ticket: ticket.clone(),
        requested_for: requested_for.clone(),
        comment: comment.clone(),
        only_on: None,
        until: None,
        policies: vec!["servicenow".to_owned()],
        approvals: vec![],
    }
}

/// A claim of everything pending on a lane.
pub(crate) fn claim(lane: &ConfigurationId) -> Claim {
    Claim {
        configuration: lane.clone(),
        owner: "bench".to_owned(),
        at: Timestamp::UNIX_EPOCH,
        ttl: Duration::from_mins(10),
        batch_max: 1_000_000,
        trace_id: None,
    }
}

/// The end of these operations, with an audit record each; the lane is released.
pub(crate) fn settlement(operations: &[Operation]) -> Settlement {
    let settled = |operation: &Operation| Event::Settled {
        operation: operation.id,
        configuration: operation.submission.configuration.to_string(),
        state: "succeeded",
        effect: Some("changed"),
        added: vec![],
        removed: vec![],
        changed: vec![],
        failure: None,
        request_id: None,
        client_request_id: None,
        graph: None,
    };
    Settlement {
        ended: operations.iter().map(succeeded).collect(),
        left: Some(Digest::of(b"left")),
        replaced_sets: Vec::new(),
        entries: operations.iter().map(|operation| entry(settled(operation))).collect(),
        keep: None,
        part: Part::Last(UnsettledWrites::default()),
    }
}

fn succeeded(operation: &Operation) -> (OperationId, State) {
    let difference = Difference { after: 1, ..Difference::default() };
    let (before, after) = (Digest::of(b"before"), Digest::of(b"after"));
    let ending = SuccessEvidence { at: Timestamp::UNIX_EPOCH, difference, before, after, write: None };
    (operation.id, operation.state.clone().succeed(ending).unwrap())
}

fn entry(event: Event) -> Entry {
    Entry { at: Timestamp::UNIX_EPOCH, trace_id: None, event }
}
