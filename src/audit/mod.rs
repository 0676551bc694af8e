//! The audit trail: the catalogue of events, their bytes, the hash chain and its verification. Pure.
//!
//! Every run of a gateway writes one chain ([`chain`]), or several if its store loses the end of one. A record names its chain
//! and sequence, repeats the hash of the record before it, and carries its own: SHA-256 over the record's canonical JSON
//! without `hash`. The first record of a chain repeats the hash of the newest record then in the trail, and names the ends of
//! all other chains, except ends that an earlier opening has named: so runs are linked too, one after another or side by side.
//!
//! Guarantees: [`Verifier`] detects any record that was altered, dropped from the middle, inserted or reordered, and names
//! the first bad one. No event has a field for a token or a secret.
//!
//! It deliberately cannot detect by itself that the newest records were cut off, or that all were rewritten: that takes a
//! key that is not in the store ([`checkpoint`]), or a copy kept elsewhere. The store writes these records in the same
//! transaction as the state change that they describe.

mod actor;
pub mod chain;
pub mod checkpoint;
pub mod formats;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
pub mod report;
mod targets;
pub mod verify;

use jiff::Timestamp;
use serde::Serialize;

pub use self::{
    actor::{Actor, UntouchedTarget},
    chain::{End, Head, IndexFields, Record, RecordId},
    checkpoint::{PublicKey, Signer},
    formats::ExportFormat,
    report::{BrokenRecord, ChainBreak, Report, VerificationFailure, counted},
    targets::{RecordedChange, RecordedTarget},
    verify::Verifier,
};
use crate::domain::{Digest, OperationId};

/// Something that happened, not yet in a chain.
#[derive(Clone, Debug)]
pub struct Entry {
    /// When it happened.
    pub at: Timestamp,
    /// The trace in which it happened.
    pub trace_id: Option<String>,
    /// What happened.
    pub event: Event,
}

/// Calls that came too fast to be recorded one by one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Repeated {
    /// How many.
    pub count: u64,
    /// When the first of them came.
    pub first: Timestamp,
    /// When the last of them came.
    pub last: Timestamp,
}

/// The catalogue of events.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A run began, and with it a chain; or it continues in a new one, because its store no longer had the end of the one
    /// before (`expected_end`). It names the ends of earlier chains, so that none can lose a record unnoticed.
    StartedUp {
        /// Version of the program.
        version: String,
        /// The chain before this one.
        previous_chain: Option<String>,
        /// Sequence number of that chain's last record; 0 if there was none.
        previous_sequence: u64,
        /// The ends of all other chains that no opening has named yet: of replicas that ran at the same time.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        other_ends: Vec<End>,
        /// The end to which this run had written its chain before this one, if its store then had another end of it.
        #[serde(skip_serializing_if = "Option::is_none")]
        expected_end: Option<End>,
    },
    /// Settings and policies took effect.
    ConfigurationLoaded {
        /// Digest of the policies' text.
        policies: Digest,
        /// Digest of the settings file.
        settings: Digest,
        /// Names of the configured callers.
        callers: Vec<String>,
    },
    /// Changed settings or policies were rejected; those in force stay.
    ConfigurationRefused {
        /// Digest of the policies' text.
        policies: Digest,
        /// Digest of the settings file.
        settings: Digest,
        /// The first faults found.
        faults: Vec<String>,
    },
    /// A key vouches for the trail up to these ends.
    SignedCheckpoint {
        /// The ends of all chains that no opening has named yet; openings name all others.
        ends: Vec<End>,
        /// The id of the key.
        key_id: String,
        /// Its signature over ends, key and time.
        signature: String,
    },
    /// A change was accepted and committed.
    Accepted {
        /// Its operation.
        operation: OperationId,
        /// Who requested it.
        #[serde(flatten)]
        actor: Actor,
        /// Id of the configuration.
        configuration: String,
        /// What is requested.
        change: RecordedChange,
        /// The ticket.
        ticket: Option<String>,
        /// The person for whom it was requested.
        requested_for: Option<String>,
        /// The caller's comment.
        comment: Option<String>,
        /// Digest of the only set that it may be applied to.
        #[serde(skip_serializing_if = "Option::is_none")]
        only_on: Option<Digest>,
        /// When its effect is to be undone.
        #[serde(skip_serializing_if = "Option::is_none")]
        until: Option<Timestamp>,
        /// The policies that permitted it.
        policies: Vec<String>,
        /// The names of the approvals without which it may not begin.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        approvals: Vec<String>,
    },
    /// A second person approved a change that waited for it; it is queued.
    Approved {
        /// Its operation.
        operation: OperationId,
        /// The configuration it is about.
        configuration: String,
        /// Who approved it.
        #[serde(flatten)]
        actor: Actor,
        /// The comment.
        comment: Option<String>,
        /// The policies that permitted it.
        policies: Vec<String>,
    },
    /// A second person rejected a change that waited for approval; it failed.
    Rejected {
        /// Its operation.
        operation: OperationId,
        /// The configuration it was about.
        configuration: String,
        /// Who rejected it.
        #[serde(flatten)]
        actor: Actor,
        /// The comment.
        comment: Option<String>,
        /// The policies that permitted it.
        policies: Vec<String>,
    },
    /// Nobody approved a change in time; it failed.
    ApprovalExpired {
        /// Its operation.
        operation: OperationId,
        /// The configuration it was about.
        configuration: String,
    },
    /// A call was denied; nothing was changed.
    Denied {
        /// Who made it; none if authentication failed.
        #[serde(flatten)]
        actor: Option<Actor>,
        /// What was denied: an action of policy (`add`, `read`, …), `authenticate`, or `map` (an event to changes).
        action: String,
        /// The configuration, if the call got far enough to name one.
        configuration: Option<String>,
        /// What was requested, if it was a change.
        change: Option<RecordedChange>,
        /// The ticket.
        ticket: Option<String>,
        /// Why, or the latest reason if there were several.
        reason: String,
        /// Set if this record stands for many similar calls.
        #[serde(skip_serializing_if = "Option::is_none")]
        repeated: Option<Repeated>,
    },
    /// An authenticated caller requested a change that cannot be made as requested; nothing was changed.
    Refused {
        /// Who requested it.
        #[serde(flatten)]
        actor: Option<Actor>,
        /// The configuration that was meant, if it was known to exist.
        configuration: Option<String>,
        /// The configuration as the caller named it, or the operation that was to be reverted.
        #[serde(skip_serializing_if = "Option::is_none")]
        asked: Option<String>,
        /// The ticket.
        ticket: Option<String>,
        /// Why, or the latest reason if there were several.
        reason: String,
        /// Set if this record stands for many similar calls.
        #[serde(skip_serializing_if = "Option::is_none")]
        repeated: Option<Repeated>,
    },
    /// A lane started operations.
    Started {
        /// The configuration.
        configuration: String,
        /// The operations, in the order in which they are merged.
        operations: Vec<OperationId>,
        /// Fencing number of the lane's lease.
        lease: i64,
    },
    /// Graph's set was replaced, as far as is known.
    Written {
        /// The configuration.
        configuration: String,
        /// The operations that the write carried.
        operations: Vec<OperationId>,
        /// Digest of the set before.
        before: Digest,
        /// Digest of the set after.
        after: Digest,
        /// Graph's id of the call; none if its response was lost.
        request_id: Option<String>,
        /// Postern's id of the call.
        client_request_id: String,
        /// How the outcome is known: `answered`, `read-back` after a lost response, or `undecided` if the set that was then
        /// found is neither the one before nor the one after.
        known_by: &'static str,
    },
    /// An operation ended.
    Settled {
        /// The operation.
        operation: OperationId,
        /// The configuration it was about.
        configuration: String,
        /// `succeeded` or `failed`.
        state: &'static str,
        /// `changed` or `unchanged`, if it succeeded.
        effect: Option<&'static str>,
        /// What it added.
        added: Vec<RecordedTarget>,
        /// What it removed.
        removed: Vec<RecordedTarget>,
        /// Targets whose filter it changed, with the new one.
        changed: Vec<RecordedTarget>,
        /// Why, if it failed.
        failure: Option<String>,
        /// Graph's id of the call that failed.
        request_id: Option<String>,
        /// Postern's id of that call.
        client_request_id: Option<String>,
        /// Graph's response to it, in Graph's words.
        graph: Option<String>,
    },
    /// An operation was undone, except what somebody had changed since. What that changed is in the settlement of the
    /// reversal.
    Reverted {
        /// The operation that was undone.
        operation: OperationId,
        /// The configuration it was about.
        configuration: String,
        /// The operation that undid it.
        by: OperationId,
        /// Targets that were left alone, and why.
        kept: Vec<UntouchedTarget>,
    },
    /// An operation was cancelled before it began.
    Cancelled {
        /// The operation.
        operation: OperationId,
        /// The configuration it was about.
        configuration: String,
        /// Who cancelled it.
        #[serde(flatten)]
        actor: Actor,
        /// The policies that permitted it.
        policies: Vec<String>,
    },
    /// The end that was set for an operation was called off; what it did stays.
    UntilCalledOff {
        /// The operation.
        operation: OperationId,
        /// The configuration it was about.
        configuration: String,
        /// Who called it off.
        #[serde(flatten)]
        actor: Actor,
        /// The policies that permitted it.
        policies: Vec<String>,
    },
    /// The end that was set for an operation came, and there was nothing to undo.
    UntilMoot {
        /// The operation.
        operation: OperationId,
        /// The configuration it was about.
        configuration: String,
        /// Why: `not-done`, `nothing-left` or `configuration-gone`.
        because: &'static str,
    },
    /// The end of an operation was reported to its caller's system.
    CallbackDelivered {
        /// The operation.
        operation: OperationId,
        /// Its configuration.
        configuration: String,
        /// The configured name of the destination.
        destination: String,
        /// The URL.
        url: String,
        /// Attempts so far.
        attempts: i64,
        /// The status of the response.
        status: u16,
    },
    /// The end of an operation could not be reported; delivery was given up.
    CallbackParked {
        /// The operation.
        operation: OperationId,
        /// Its configuration.
        configuration: String,
        /// The configured name of the destination.
        destination: String,
        /// The URL.
        url: String,
        /// Attempts so far.
        attempts: i64,
        /// The status of the last response, if there was one.
        status: Option<u16>,
        /// Why the last attempt failed.
        reason: String,
    },
    /// Somebody requested that a callback be sent again.
    CallbackResent {
        /// The operation.
        operation: OperationId,
        /// Its configuration.
        configuration: String,
        /// Who requested it.
        #[serde(flatten)]
        actor: Actor,
        /// The policies that permitted it.
        policies: Vec<String>,
    },
    /// Graph's set is not as Postern left it: somebody else changed it.
    DriftSeen {
        /// The configuration.
        configuration: String,
        /// `policy-sets` if assignments from policy sets are gone; none if it is about the direct assignments.
        #[serde(skip_serializing_if = "Option::is_none")]
        source: Option<&'static str>,
        /// Digest of the set that Postern left.
        left: Digest,
        /// Digest of the set that was found.
        found: Digest,
    },
}
