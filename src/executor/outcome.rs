//! The outcome of a batch: the ended operations and their audit records, ready to be settled.
//!
//! Guarantees: an operation that ends has a record of its end, in the trace of the request that asked for it; every end
//! goes through the domain's transitions, so an operation that was not running cannot end.
//!
//! It deliberately stores nothing; the lane settles it.

use std::time::Duration;

use jiff::Timestamp;

use crate::{
    audit::{Entry, Event, RecordedTarget, UntouchedTarget},
    clock,
    domain::{
        AssignmentSet, ConfigurationId, Difference, Digest, Failure, FailureCode, MergeOutcome, Operation, OperationId,
        State,
        change::{Changed, KeptTarget},
        merge,
        operation::{SuccessEvidence, Write},
    },
    store::{Doubt, Error, UnsettledWrites},
    telemetry,
};

/// What became of a batch.
#[derive(Default)]
pub(super) struct BatchOutcome {
    /// The audit record of the write, if there was one.
    pub(super) written: Option<Entry>,
    /// The operations that ended.
    pub(super) done: Vec<EndedOperation>,
    /// Digest of the set as it is left; none if nothing new is known about it.
    pub(super) left: Option<Digest>,
    /// Operations of the batch that are still to do.
    pub(super) rest: Vec<Operation>,
}

/// An operation that has ended.
pub(super) struct EndedOperation {
    pub(super) operation: OperationId,
    /// The state in which it ended.
    pub(super) state: State,
    /// Time since it was accepted.
    pub(super) took: Duration,
    /// The audit records of its end.
    pub(super) entries: Vec<Entry>,
}

/// A merged write that took effect.
pub(super) struct AppliedWrite<'a> {
    pub(super) configuration: &'a ConfigurationId,
    pub(super) at: Timestamp,
    /// Digest of the set before.
    pub(super) before: &'a Digest,
    /// Digest of the set after.
    pub(super) after: &'a Digest,
    /// The write; none if none was needed.
    pub(super) write: Option<&'a Write>,
    /// How the effect is known: `answered`, or `read-back` after a lost answer.
    pub(super) known_by: &'static str,
}

/// An operation that succeeds.
pub(super) struct SucceededOperation {
    pub(super) operation: Operation,
    pub(super) difference: Difference,
    /// What an earlier write seems to have done for it.
    pub(super) done: Option<Doubt>,
}

/// How an operation ends whose set could be read.
pub(super) enum OperationResult {
    Succeeds(SucceededOperation),
    /// Its condition does not hold, or the write that it needs is refused.
    Fails(Failure, Operation),
}

impl BatchOutcome {
    /// Ends these operations, each with its difference or its failure.
    pub(super) fn of_effect(
        effect: &AppliedWrite<'_>,
        ends: impl IntoIterator<Item = OperationResult>,
    ) -> Result<Self, Error> {
        let mut outcome = Self { left: Some(effect.after.clone()), ..Self::default() };
        let mut carried = Vec::new();
        for end in ends {
            match end {
                OperationResult::Succeeds(ended) => {
                    if !ended.difference.is_empty() {
                        carried.push(ended.operation.id);
                    }
                    outcome.succeed(effect, ended)?;
                }
                OperationResult::Fails(failure, operation) => outcome.fail(operation, effect.at, &failure)?,
            }
        }
        if let Some(write) = effect.write {
            let event = Event::Written {
                configuration: effect.configuration.to_string(),
                operations: carried,
                before: effect.before.clone(),
                after: effect.after.clone(),
                request_id: write.request_id.clone(),
                client_request_id: write.client_request_id.clone(),
                known_by: effect.known_by,
            };
            outcome.written = Some(Entry { at: effect.at, trace_id: telemetry::trace_id(), event });
        }
        Ok(outcome)
    }

    fn succeed(&mut self, effect: &AppliedWrite<'_>, ended: SucceededOperation) -> Result<(), Error> {
        let SucceededOperation { operation, difference, done } = ended;
        // An operation that changed nothing was not carried by the write, although it was merged with others.
        let write = effect.write.filter(|_| !difference.is_empty()).cloned();
        let (difference, earlier) = Doubt::and_then(done, difference);
        let mut entries = vec![settled(&operation, effect.at, Ok(&difference))];
        entries.extend(reverted(&operation, effect.at, &difference));
        let took = clock::until(operation.submission.accepted_at, effect.at);
        let ending = SuccessEvidence {
            at: effect.at,
            before: effect.before.clone(),
            after: effect.after.clone(),
            write: write.or(earlier),
            difference,
        };
        let state = operation.state.succeed(ending).map_err(|error| Error::Unreadable(error.to_string()))?;
        self.done.push(EndedOperation { operation: operation.id, state, took, entries });
        Ok(())
    }

    /// Fails these operations, because of an obstacle that has been there since then. If the set has vanished, those from the
    /// first one that states the whole set onwards do not depend on it and are still to do; otherwise, those that wait are still
    /// to do.
    pub(super) fn of_failure(
        mut batch: Vec<Operation>,
        (at, since): (Timestamp, Timestamp),
        failure: &Failure,
        announced: &UnsettledWrites,
    ) -> Result<Self, Error> {
        let mut outcome = Self::default();
        if failure.code == FailureCode::PresentSetVanished {
            let stated = batch.iter().position(takes_any_set);
            outcome.rest = batch.split_off(stated.unwrap_or(batch.len()));
        }
        if outcome.rest.is_empty() {
            (outcome.rest, batch) = batch.into_iter().partition(|it| waits(it, failure, (at, since)));
        }
        for operation in batch {
            let failure = in_doubt(failure.clone(), &operation, announced);
            outcome.fail(operation, at, &failure)?;
        }
        Ok(outcome)
    }

    fn fail(&mut self, operation: Operation, at: Timestamp, failure: &Failure) -> Result<(), Error> {
        let entries = vec![settled(&operation, at, Err(failure))];
        let took = clock::until(operation.submission.accepted_at, at);
        let state = operation.state.fail(at, failure.clone());
        let state = state.map_err(|error| Error::Unreadable(error.to_string()))?;
        self.done.push(EndedOperation { operation: operation.id, state, took, entries });
        Ok(())
    }
}

/// How an operation of a merge ends if the merge takes effect on the set that was read. What an earlier write may have
/// done for it counts as done by that write, as far as the set shows it; who really did it is unknown.
pub(super) fn end_of(
    (operation, merged): (Operation, MergeOutcome),
    present: &AssignmentSet,
    announced: &UnsettledWrites,
) -> OperationResult {
    let doubt = announced.doubts.get(&operation.id);
    let done = doubt.map(|it| Doubt { difference: it.difference.still_in(present), write: it.write.clone() });
    let done = done.filter(|doubt| !doubt.difference.is_empty());
    match merged {
        MergeOutcome::Applied(difference) => {
            OperationResult::Succeeds(SucceededOperation { operation, difference, done })
        }
        // If an earlier write seems to have done it, what others have made of the set since does not count against it.
        MergeOutcome::Unmet { found } => match done.is_some().then(|| fulfilled(&operation, present)).flatten() {
            Some(difference) => OperationResult::Succeeds(SucceededOperation { operation, difference, done }),
            None => OperationResult::Fails(unmet(&operation, &found, announced), operation),
        },
    }
}

/// Whether one of these changes something, though others may take it back.
pub(super) fn changes_something(ends: &[OperationResult]) -> bool {
    ends.iter().any(|end| matches!(end, OperationResult::Succeeds(it) if !it.difference.is_empty()))
}

/// How an operation ends if the merged write is refused for all: with that failure, unless it needs no write.
pub(super) fn end_without(
    failure: &Failure,
    operation: &Operation,
    present: &AssignmentSet,
    announced: &UnsettledWrites,
) -> OperationResult {
    match merge(present, [&operation.submission]).merged.pop() {
        Some(merged) if !matches!(&merged, MergeOutcome::Applied(difference) if !difference.is_empty()) => {
            end_of((operation.clone(), merged), present, announced)
        }
        Some(_) | None => OperationResult::Fails(in_doubt(failure.clone(), operation, announced), operation.clone()),
    }
}

/// The empty difference of an operation that finds everything as it wants it; otherwise none.
fn fulfilled(operation: &Operation, present: &AssignmentSet) -> Option<Difference> {
    let alone = merge(present, [&operation.submission.change]).merged.pop();
    if let Some(MergeOutcome::Applied(difference)) = alone {
        Some(difference).filter(Difference::is_empty)
    } else {
        None
    }
}

/// The failure of an operation; it says so if a write may have done something for it all the same.
fn in_doubt(failure: Failure, operation: &Operation, announced: &UnsettledWrites) -> Failure {
    if !announced.may_have_done(operation.id) {
        return failure;
    }
    let detail = format!("{}; a write that was sent before may have taken effect", failure.detail);
    Failure { detail, ..failure }
}

/// How long the end of a change waits for a set that reads as empty though it was not left empty, and for a configuration
/// that Graph does not know: either may be temporary.
const GONE_MAX: Duration = Duration::from_hours(1);

/// Whether what is gone may come back.
pub(super) fn may_come_back(code: FailureCode) -> bool {
    matches!(code, FailureCode::PresentSetVanished | FailureCode::ConfigurationGone)
}

/// Whether an operation waits until the obstacle, there since then, has passed. Ends of changes do: nobody would request them
/// again.
pub(super) fn waits(operation: &Operation, failure: &Failure, (now, since): (Timestamp, Timestamp)) -> bool {
    let Operation { submission, .. } = operation;
    let is_recent = clock::until(submission.accepted_at.max(since), now) < GONE_MAX;
    let may_pass = match failure.code {
        FailureCode::PresentSetUnreadable => true,
        FailureCode::PresentSetVanished | FailureCode::ConfigurationGone => is_recent,
        FailureCode::GraphRefused
        | FailureCode::GraphRoleMissing
        | FailureCode::IntuneApprovalRequired
        | FailureCode::InvalidGroup
        | FailureCode::DeadlinePassed
        | FailureCode::PreconditionFailed
        | FailureCode::ApprovalRejected
        | FailureCode::ApprovalExpired => false,
    };
    may_pass && submission.carries_out_until()
}

/// Whether an operation states the whole set and is not bound to a non-empty one: then it does not matter what it finds.
pub(super) fn takes_any_set(Operation { submission, .. }: &Operation) -> bool {
    let empty = || AssignmentSet::default().digest();
    submission.states_the_whole_set() && submission.only_on.as_ref().is_none_or(|only_on| *only_on == empty())
}

/// The failure of an operation that is bound to another set.
fn unmet(operation: &Operation, found: &Digest, announced: &UnsettledWrites) -> Failure {
    let only_on = operation.submission.only_on.as_ref().map_or("", Digest::as_str);
    let why = format!("the assignments do not match If-Match: their ETag is \"{found}\", not \"{only_on}\"");
    let certain = !announced.may_have_done(operation.id);
    let detail = if certain { format!("Nothing was changed: {why}") } else { why };
    in_doubt(Failure { code: FailureCode::PreconditionFailed, detail, graph: None }, operation, announced)
}

/// The audit record of an operation's end.
fn settled(operation: &Operation, at: Timestamp, end: Result<&Difference, &Failure>) -> Entry {
    let nothing = Difference::default();
    let difference = end.unwrap_or(&nothing);
    let changed = |Changed { target, after, .. }: &Changed| RecordedTarget::of(target, *after);
    let answer = end.err().and_then(|failure| failure.graph.as_ref());
    let event = Event::Settled {
        operation: operation.id,
        configuration: operation.submission.configuration.to_string(),
        state: if end.is_ok() { "succeeded" } else { "failed" },
        effect: end.ok().map(|difference| if difference.is_empty() { "unchanged" } else { "changed" }),
        added: difference.added.iter().map(RecordedTarget::from).collect(),
        removed: difference.removed.iter().map(|it| RecordedTarget::of(&it.target, it.filter)).collect(),
        changed: difference.changed.iter().map(changed).collect(),
        failure: end.err().map(|failure| format!("{}: {}", failure.code.name(), failure.detail)),
        request_id: answer.and_then(|answer| answer.request_id.clone()),
        client_request_id: answer.and_then(|answer| answer.client_request_id.clone()),
        graph: answer.map(|answer| format!("{} {}: {}", answer.status, answer.code, answer.message)),
    };
    let trace_id = operation.submission.traceparent.as_deref().and_then(telemetry::trace_id_in);
    Entry { at, trace_id, event }
}

/// The audit record of what was undone, if the operation is a reversal.
fn reverted(operation: &Operation, at: Timestamp, difference: &Difference) -> Option<Entry> {
    let reversal = operation.submission.change.reversal()?;
    let left = |kept: &KeptTarget| UntouchedTarget { target: kept.target.to_string(), because: kept.because.name() };
    let kept = difference.kept.iter().map(left).collect();
    let event = Event::Reverted {
        operation: reversal.operation(),
        configuration: operation.submission.configuration.to_string(),
        by: operation.id,
        kept,
    };
    let trace_id = operation.submission.traceparent.as_deref().and_then(telemetry::trace_id_in);
    Some(Entry { at, trace_id, event })
}
