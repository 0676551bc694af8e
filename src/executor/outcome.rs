//! What a batch came to: the ended operations and the audit records that tell of them, ready to be settled together.
//!
//! Guarantees: an operation that ends has a record of its end, in the trace of the call that asked for it; every end
//! goes through the domain's transitions, so what was not running cannot end.
//!
//! It deliberately stores nothing; the lane settles it in one transaction.

use jiff::Timestamp;

use crate::{
    audit::{Aim, Entry, Event},
    domain::{
        Change, ConfigurationId, Difference, Digest, Failure, FailureCode, Operation, OperationId, State,
        change::Changed,
        operation::{Ending, Write},
    },
    store::Error,
    telemetry,
};

/// What a batch came to.
#[derive(Default)]
pub(super) struct Outcome {
    /// Operations and the states in which they ended.
    pub(super) ended: Vec<(OperationId, State)>,
    /// Their audit records, and those of the write.
    pub(super) entries: Vec<Entry>,
    /// Digest of the set as it is left; none if it is not known.
    pub(super) left: Option<Digest>,
    /// Operations of the batch that are still to do.
    pub(super) rest: Vec<Operation>,
}

/// A merged write that took effect.
pub(super) struct Effect<'a> {
    pub(super) configuration: &'a ConfigurationId,
    pub(super) at: Timestamp,
    /// Digest of the set before.
    pub(super) before: &'a Digest,
    /// Digest of the set after.
    pub(super) after: &'a Digest,
    /// The write; none if none was needed.
    pub(super) write: Option<&'a Write>,
    /// How it is known: `answered`, or `read-back` after a lost answer.
    pub(super) known_by: &'static str,
}

/// An operation that ends well.
pub(super) struct Ended {
    pub(super) operation: Operation,
    pub(super) difference: Difference,
    /// The write that did it, if that was an earlier one than the effect's.
    pub(super) earlier: Option<Write>,
}

impl Outcome {
    /// All these operations end well, each with its difference.
    pub(super) fn of_effect(effect: &Effect<'_>, ended: impl IntoIterator<Item = Ended>) -> Result<Self, Error> {
        let mut outcome = Self { left: Some(effect.after.clone()), ..Self::default() };
        let mut carried = Vec::new();
        for ended in ended {
            if !ended.difference.is_empty() && ended.earlier.is_none() {
                carried.push(ended.operation.id);
            }
            outcome.succeed(effect, ended)?;
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
            outcome.entries.insert(0, Entry { at: effect.at, trace_id: telemetry::trace_id(), event });
        }
        Ok(outcome)
    }

    fn succeed(&mut self, effect: &Effect<'_>, ended: Ended) -> Result<(), Error> {
        let Ended { operation, difference, earlier } = ended;
        self.entries.push(settled(&operation, effect.at, Ok(&difference)));
        let ending = Ending {
            at: effect.at,
            before: effect.before.clone(),
            after: effect.after.clone(),
            // An operation that changed nothing was not carried by the write, though it was merged with others.
            write: earlier.or_else(|| effect.write.filter(|_| !difference.is_empty()).cloned()),
            difference,
        };
        let state = operation.state.succeed(ending).map_err(|error| Error::Unreadable(error.to_string()))?;
        self.ended.push((operation.id, state));
        Ok(())
    }

    /// These operations fail. If the set has vanished, those from the first on that states the whole set do not depend on
    /// it, and are still to do.
    pub(super) fn of_failure(mut batch: Vec<Operation>, at: Timestamp, failure: &Failure) -> Result<Self, Error> {
        let mut outcome = Self::default();
        if failure.code == FailureCode::PresentSetVanished {
            let stated = batch.iter().position(|it| matches!(it.submission.change, Change::Replace(_)));
            outcome.rest = batch.split_off(stated.unwrap_or(batch.len()));
        }
        for operation in batch {
            outcome.entries.push(settled(&operation, at, Err(failure)));
            let state = operation.state.fail(at, failure.clone());
            outcome.ended.push((operation.id, state.map_err(|error| Error::Unreadable(error.to_string()))?));
        }
        Ok(outcome)
    }
}

/// The audit record of an operation's end.
fn settled(operation: &Operation, at: Timestamp, end: Result<&Difference, &Failure>) -> Entry {
    let nothing = Difference::default();
    let difference = end.unwrap_or(&nothing);
    let changed = |Changed { target, after, .. }: &Changed| Aim::of(target, *after);
    let answer = end.err().and_then(|failure| failure.graph.as_ref());
    let event = Event::Settled {
        operation: operation.id,
        state: if end.is_ok() { "succeeded" } else { "failed" },
        effect: end.ok().map(|difference| if difference.is_empty() { "unchanged" } else { "changed" }),
        added: difference.added.iter().map(Aim::from).collect(),
        removed: difference.removed.iter().map(Aim::from).collect(),
        changed: difference.changed.iter().map(changed).collect(),
        failure: end.err().map(|failure| format!("{}: {}", failure.code.name(), failure.detail)),
        request_id: answer.and_then(|answer| answer.request_id.clone()),
        client_request_id: answer.and_then(|answer| answer.client_request_id.clone()),
        graph: answer.map(|answer| format!("{} {}: {}", answer.status, answer.code, answer.message)),
    };
    let trace_id = operation.submission.traceparent.as_deref().and_then(telemetry::trace_id_in);
    Entry { at, trace_id, event }
}
