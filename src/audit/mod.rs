//! The audit trail: the catalogue of events, their bytes, the hash chain and its verification. Pure.
//!
//! Every run of a gateway writes one chain ([`chain`]). A record names its chain and sequence, repeats the hash of the
//! record before it and carries its own: SHA-256 over the record's canonical JSON without `hash`. The first record of a
//! chain repeats the hash of the newest record there was, and names the ends of all other chains that went on since the
//! chain before it began: so runs hang together too, one after another or side by side.
//!
//! Guarantees: [`Verifier`] finds any record that was altered, dropped from the middle, put in or reordered, and names
//! the first bad one. No event has a field that could hold a token or a secret.
//!
//! It deliberately cannot tell by itself that the newest records were cut off, or that all of them were written anew: a
//! key that the store does not hold must vouch for them ([`checkpoint`]), or a copy be kept elsewhere. The store persists
//! what is sealed here, in the same transaction as the state it tells of.

mod aims;
pub mod chain;
pub mod checkpoint;
pub mod forms;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
pub mod verify;
mod words;

use jiff::Timestamp;
use serde::Serialize;

pub use self::{
    aims::{Aim, Aims},
    chain::{End, Head, Marks, Place, Record},
    checkpoint::{PublicKey, Signer},
    forms::Form,
    verify::{Broken, Lacking, Report, Verifier},
    words::{Actor, Left},
};
use crate::domain::{Digest, OperationId};

/// Something that happened, not yet in a chain.
#[derive(Clone, Debug)]
pub struct Entry {
    /// When.
    pub at: Timestamp,
    /// The trace in which it happened.
    pub trace_id: Option<String>,
    /// What.
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
    /// A run began, and with it a chain. It names what was there, so that nothing of that can be taken away unnoticed.
    StartedUp {
        /// Version of the program.
        version: String,
        /// The chain before this one.
        previous_chain: Option<String>,
        /// Its last sequence number; 0 if there was none.
        previous_sequence: u64,
        /// The ends of other chains that no opening has named yet: of replicas that ran beside that one.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        other_ends: Vec<End>,
    },
    /// The settings and policies that hold from now on.
    ConfigurationLoaded {
        /// Digest of the policies' text.
        policies: Digest,
        /// Digest of the settings file.
        settings: Digest,
        /// Names of the callers that are known.
        callers: Vec<String>,
    },
    /// Settings or policies were changed and are not fit to be used; those in force stay.
    ConfigurationRefused {
        /// Digest of the policies' text.
        policies: Digest,
        /// Digest of the settings file.
        settings: Digest,
        /// What is wrong, as far as it is not too much.
        faults: Vec<String>,
    },
    /// A key vouches for what stands in the trail up to these ends.
    SignedCheckpoint {
        /// The ends of all chains that no opening has named yet; of all others, openings tell.
        ends: Vec<End>,
        /// Which key.
        key_id: String,
        /// Its signature over ends, key and time.
        signature: String,
    },
    /// A change was accepted and is durable.
    Accepted {
        /// Its operation.
        operation: OperationId,
        /// Who asked.
        #[serde(flatten)]
        actor: Actor,
        /// Id of the configuration.
        configuration: String,
        /// What is asked.
        change: Aims,
        /// The ticket.
        ticket: Option<String>,
        /// The person for whom it was asked.
        requested_for: Option<String>,
        /// Why it was asked.
        comment: Option<String>,
        /// Digest of the only set on which it shall have effect.
        #[serde(skip_serializing_if = "Option::is_none")]
        only_on: Option<Digest>,
        /// When what it does is to be undone.
        #[serde(skip_serializing_if = "Option::is_none")]
        until: Option<Timestamp>,
        /// The policies that permitted it.
        policies: Vec<String>,
        /// The names of the approvals without which it does not begin.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        approvals: Vec<String>,
    },
    /// Somebody else agreed to a change that waited for it; it is queued.
    Approved {
        /// Its operation.
        operation: OperationId,
        /// The configuration it is about.
        configuration: String,
        /// Who agreed.
        #[serde(flatten)]
        actor: Actor,
        /// Why.
        comment: Option<String>,
        /// The policies that permitted it.
        policies: Vec<String>,
    },
    /// Somebody else did not agree to a change that waited for it, and it ended so.
    Rejected {
        /// Its operation.
        operation: OperationId,
        /// The configuration it was about.
        configuration: String,
        /// Who did not agree.
        #[serde(flatten)]
        actor: Actor,
        /// Why.
        comment: Option<String>,
        /// The policies that permitted it.
        policies: Vec<String>,
    },
    /// Nobody agreed to a change in time, and it ended so.
    ApprovalExpired {
        /// Its operation.
        operation: OperationId,
        /// The configuration it was about.
        configuration: String,
    },
    /// A call was not permitted; nothing was changed.
    Denied {
        /// Who asked; nothing if nobody was proven.
        #[serde(flatten)]
        actor: Option<Actor>,
        /// What for (`add`, `plan`, `read`, `cancel`, `approve`, `authenticate`, `map`).
        action: String,
        /// The configuration it was about, where that far was got.
        configuration: Option<String>,
        /// What was asked, where it was a change.
        change: Option<Aims>,
        /// The ticket.
        ticket: Option<String>,
        /// Why not, or the latest reason if there were several.
        reason: String,
        /// Set if this stands for many calls that were alike.
        #[serde(skip_serializing_if = "Option::is_none")]
        repeated: Option<Repeated>,
    },
    /// A change that a proven caller asked for cannot be made as it was asked; nothing was changed.
    Refused {
        /// Who asked.
        #[serde(flatten)]
        actor: Option<Actor>,
        /// The configuration that was meant, where it could be told.
        configuration: Option<String>,
        /// The configuration as the caller named it, or the operation that was to be reverted.
        #[serde(skip_serializing_if = "Option::is_none")]
        asked: Option<String>,
        /// The ticket.
        ticket: Option<String>,
        /// Why not, or the latest reason if there were several.
        reason: String,
        /// Set if this stands for many calls that were alike.
        #[serde(skip_serializing_if = "Option::is_none")]
        repeated: Option<Repeated>,
    },
    /// A lane took up operations.
    Started {
        /// The configuration.
        configuration: String,
        /// The operations, in the order in which they are merged.
        operations: Vec<OperationId>,
        /// Fencing number of the lane's lease.
        lease: i64,
    },
    /// Graph was brought from one set to another.
    Written {
        /// The configuration.
        configuration: String,
        /// The operations carried.
        operations: Vec<OperationId>,
        /// Digest of the set before.
        before: Digest,
        /// Digest of the set after.
        after: Digest,
        /// Graph's id of the call; none if its answer was lost.
        request_id: Option<String>,
        /// Our id of the call.
        client_request_id: String,
        /// How it is known: `answered`, `read-back` after a lost answer, or `undecided` if the set that was found then is
        /// neither the one before nor the one after.
        known_by: &'static str,
    },
    /// An operation ended.
    Settled {
        /// Which.
        operation: OperationId,
        /// The configuration it was about.
        configuration: String,
        /// `succeeded` or `failed`.
        state: &'static str,
        /// `changed` or `unchanged`, if it succeeded.
        effect: Option<&'static str>,
        /// What it added.
        added: Vec<Aim>,
        /// What it removed.
        removed: Vec<Aim>,
        /// Whose filter it changed, with the new one.
        changed: Vec<Aim>,
        /// Why, if it failed.
        failure: Option<String>,
        /// Graph's id of the call that failed.
        request_id: Option<String>,
        /// Our id of that call.
        client_request_id: Option<String>,
        /// What Graph answered to it, in its own words.
        graph: Option<String>,
    },
    /// What an operation did was undone, as far as nobody had touched it since. What that changed is in the record of the end of
    /// the operation that did it.
    Reverted {
        /// Whose difference.
        operation: OperationId,
        /// The configuration it was about.
        configuration: String,
        /// The operation that undid it.
        by: OperationId,
        /// Targets that were left alone, and why.
        kept: Vec<Left>,
    },
    /// An operation was taken back before it began, and ended so.
    Cancelled {
        /// Which.
        operation: OperationId,
        /// The configuration it was about.
        configuration: String,
        /// Who took it back.
        #[serde(flatten)]
        actor: Actor,
        /// The policies that permitted it.
        policies: Vec<String>,
    },
    /// The end that was set for what an operation does was called off, and what it did stays.
    UntilCalledOff {
        /// Which operation.
        operation: OperationId,
        /// The configuration it was about.
        configuration: String,
        /// Who called it off.
        #[serde(flatten)]
        actor: Actor,
        /// The policies that permitted it.
        policies: Vec<String>,
    },
    /// The end of an operation was told to its caller's system.
    CallbackDelivered {
        /// Which operation.
        operation: OperationId,
        /// Its configuration.
        configuration: String,
        /// The configured name of the destination.
        destination: String,
        /// The URL.
        url: String,
        /// Attempts so far.
        attempts: i64,
        /// The status of the answer.
        status: u16,
    },
    /// The end of an operation could not be told, and is not tried any more.
    CallbackParked {
        /// Which operation.
        operation: OperationId,
        /// Its configuration.
        configuration: String,
        /// The configured name of the destination.
        destination: String,
        /// The URL.
        url: String,
        /// Attempts so far.
        attempts: i64,
        /// The status of the last answer, if there was one.
        status: Option<u16>,
        /// Why the last attempt came to nothing.
        reason: String,
    },
    /// Somebody had the end of an operation told again.
    CallbackResent {
        /// Which operation.
        operation: OperationId,
        /// Its configuration.
        configuration: String,
        /// Who.
        #[serde(flatten)]
        actor: Actor,
        /// The policies that permitted it.
        policies: Vec<String>,
    },
    /// Graph's set is not the one we left: somebody else changed it.
    DriftSeen {
        /// The configuration.
        configuration: String,
        /// `policy-sets` if it is what came from policy sets that is gone; else it is about the direct assignments.
        #[serde(skip_serializing_if = "Option::is_none")]
        source: Option<&'static str>,
        /// Digest of the set we left.
        left: Digest,
        /// Digest of the set we found.
        found: Digest,
    },
}
