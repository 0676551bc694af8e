//! What passes between a lane's worker and the store: claim, lease, turn, the announced write, and how a turn ends.
//!
//! Guarantees: a [`Lease`] is made for whoever claims and cannot be copied; the verbs that need one consume it.
//!
//! It deliberately holds no SQL and asks nobody for the time but the clock it is given.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    audit::Entry,
    clock::Clock,
    domain::{ConfigurationId, Difference, Digest, Operation, OperationId, State, operation::Write},
};

/// The right to a lane that is asked for.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Which lane.
    pub configuration: ConfigurationId,
    /// Who wants it.
    pub owner: String,
    /// When it is asked for, for the operations and the audit trail.
    pub at: Timestamp,
    /// For how long it is wanted.
    pub ttl: Duration,
    /// How many operations to take up at most.
    pub batch_max: usize,
    /// The trace of the turn, for the audit trail.
    pub trace_id: Option<String>,
}

/// What a lane saw that comes from policy sets.
#[derive(Clone, Debug)]
pub struct PolicySetsSeen {
    /// Whose lane.
    pub configuration: ConfigurationId,
    /// A text for each assignment; they are compared with those of the next look.
    pub assignments: Vec<String>,
    /// The record of what is gone since the last look, if anything is.
    pub loss: Option<Entry>,
}

/// The right to work on a lane. Cannot be copied: the verbs that need it consume it, and hand it back while it lasts.
#[derive(Debug)]
pub struct Lease {
    pub(super) configuration: ConfigurationId,
    pub(super) owner: String,
    pub(super) fencing: i64,
    /// By [`Clock::elapsed`]; reckoned from before the store was asked, so never later than the store's own end.
    pub(super) until: Duration,
}

impl Lease {
    /// The lease that a store grants to a claim: under a fencing number higher than all before it on this lane, until a
    /// moment by [`Clock::elapsed`] of the owner. For implementations of [`super::Store`], and for them only.
    pub fn granted(claim: &Claim, fencing: i64, until: Duration) -> Self {
        Self { configuration: claim.configuration.clone(), owner: claim.owner.clone(), fencing, until }
    }

    /// Makes it last until another moment, after the store has done so. For implementations of [`super::Store`].
    pub fn extend(&mut self, until: Duration) {
        self.until = until;
    }

    /// The lane's configuration.
    pub fn configuration(&self) -> &ConfigurationId {
        &self.configuration
    }

    /// Who holds it.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// Its number among the leases of this lane.
    pub fn fencing(&self) -> i64 {
        self.fencing
    }

    /// How long the right lasts at least, by the clock with which the store was opened.
    pub fn left(&self, clock: Clock) -> Duration {
        self.until.saturating_sub(clock.elapsed())
    }

    pub(super) fn holder(&self) -> Holder {
        Holder { configuration: self.configuration.clone(), owner: self.owner.clone(), fencing: self.fencing }
    }
}

/// Who holds a lane: what a lease proves, without being one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) configuration: ConfigurationId,
    pub(super) owner: String,
    pub(super) fencing: i64,
}

/// What a claim got.
#[derive(Debug)]
pub enum Claimed {
    /// The lane, with operations that are to be done.
    Turn(Box<Turn>),
    /// Nothing: another replica holds the lane. A store of one process, which works on each lane once at a time, does not say so.
    Held,
    /// Nothing: no operation is pending, or the lane is not free.
    Nothing,
}

impl Claimed {
    /// The turn, if there is one.
    pub fn turn(self) -> Option<Turn> {
        match self {
            Self::Turn(turn) => Some(*turn),
            Self::Held | Self::Nothing => None,
        }
    }
}

/// A lane's turn: what to do, and what is known from before.
#[derive(Debug)]
pub struct Turn {
    /// The right to do it.
    pub lease: Lease,
    /// The operations, running, in the order of their acceptance.
    pub operations: Vec<Operation>,
    /// A write that was announced and never settled: its owner crashed or lost the lane.
    pub intent: Option<Intent>,
    /// Digest of the set as the last settled turn left it.
    pub left: Option<Digest>,
    /// How often the lane was parked since then.
    pub attempts: u32,
}

/// A write that is about to be sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// Digest of the set it was computed from.
    pub before: Digest,
    /// Digest of the set it leaves.
    pub after: Digest,
    /// Our id of the call.
    pub client_request_id: String,
    /// What it does for each operation it carries.
    pub carried: Vec<Carried>,
    /// Whether it is on record as undecided.
    #[serde(default)]
    pub noted: bool,
    /// What became of it, once it is known that it took effect: some of what it carries has been settled by that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write: Option<Write>,
}

impl Intent {
    /// The write, if it took effect.
    pub fn effect(&self) -> Write {
        let (merged_with, client_request_id) = (self.carried.len().saturating_sub(1), self.client_request_id.clone());
        self.write.clone().unwrap_or(Write { merged_with, request_id: None, client_request_id })
    }
}

/// What an announced write does for one operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    /// Which.
    pub operation: OperationId,
    /// What it changes.
    pub difference: Difference,
}

/// The end of operations.
#[derive(Clone, Debug)]
pub struct Settlement {
    /// Operations and the states in which they ended.
    pub ended: Vec<(OperationId, State)>,
    /// Digest of the set as it is left; none if it is not known.
    pub left: Option<Digest>,
    /// Their audit records.
    pub entries: Vec<Entry>,
    /// Keep the lane for so long, for more of this turn; otherwise it becomes free.
    pub keep: Option<Duration>,
    /// Whether that is all that ends by what the turn knows.
    pub part: Part,
}

/// Where a settlement stands among those by which a turn stores what it knows. A lane is kept until the last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// The first of several. For whoever has to go on from there: the announced write as it is known by now, if there is one.
    First(Option<Box<Intent>>),
    /// Neither the first nor the last.
    Further,
    /// The last, or the only one. Nothing is announced any more.
    Last,
}

/// A pause for a lane that cannot go on.
#[derive(Clone, Debug)]
pub struct Parking {
    /// Not to be claimed for so long.
    pub pause: Duration,
    /// Why, in one sentence.
    pub because: String,
    /// The announced write that may have taken effect; any other is announced no longer.
    pub announced: Option<Intent>,
    /// Digest of the set as it was found; none if nothing is known that was not known before.
    pub left: Option<Digest>,
    /// Operations that have waited long enough, and the states in which they end.
    pub ended: Vec<(OperationId, State)>,
    /// Their audit records.
    pub entries: Vec<Entry>,
}
