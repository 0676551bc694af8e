//! What passes between a lane's worker and the store: claim, lease, turn, the announced write, and how a turn ends.
//!
//! Guarantees: a [`Lease`] is made for whoever claims and cannot be copied; the verbs that need one consume it.
//!
//! It deliberately holds no SQL and asks nobody for the time but the clock it is given.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

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
    /// What was announced and never settled: its owner crashed, lost the lane, or parked it.
    pub announced: Announced,
    /// Digest of the set as the last settled turn left it.
    pub left: Option<Digest>,
    /// How often the lane was parked since then.
    pub attempts: u32,
}

/// What was announced on a lane and is not settled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Announced {
    /// The last write.
    pub intent: Option<Intent>,
    /// What writes that cannot be told of any more may have done for operations that have not ended. An operation that finds all as it
    /// wants it is put down to that. That is likely, not proven: somebody else may have done the same. The audit records of such writes
    /// say `undecided`, or there is none, as another took the place of one that looked unsent.
    pub doubts: BTreeMap<OperationId, Doubt>,
}

impl Announced {
    /// Whether the last write is known to have taken effect.
    pub fn is_known(&self) -> bool {
        self.intent.as_ref().is_some_and(|intent| intent.write.is_some())
    }

    /// Whether something may have been done for an operation, of which that is not known.
    pub fn may_have_done(&self, operation: OperationId) -> bool {
        let carries =
            |intent: &Intent| intent.carried.iter().any(|it| it.operation == operation && !it.difference.is_empty());
        self.doubts.contains_key(&operation) || self.intent.as_ref().is_some_and(carries)
    }

    /// What the last write may have done is put to the doubts.
    pub fn give_up(&mut self) {
        if let Some(intent) = self.intent.take() {
            self.doubts.extend(intent.doubts());
        }
    }

    /// What is left of it when some have ended, and others are still to do. The last write stays if it is not known and carries one of
    /// these; else what it did for others than the ended is in doubt from then on.
    #[must_use]
    pub fn after(&self, ended: &BTreeSet<OperationId>, to_do: &BTreeSet<OperationId>) -> Self {
        let carries = |so: &dyn Fn(&OperationId) -> bool| {
            self.intent.as_ref().filter(|intent| intent.carried.iter().any(|it| so(&it.operation)))
        };
        let stays = carries(&|it| to_do.contains(it)).filter(|_| !self.is_known());
        let mut doubts = self.doubts.clone();
        // As a rule all have ended.
        if let Some(intent) = carries(&|it| !ended.contains(it)).filter(|_| stays.is_none()) {
            doubts.extend(intent.doubts());
        }
        doubts.retain(|operation, _| !ended.contains(operation));
        Self { intent: stays.cloned(), doubts }
    }
}

/// What a write may have done for one operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doubt {
    /// What it changed.
    pub difference: Difference,
    /// The write.
    pub write: Write,
}

impl Doubt {
    /// What an operation came to: what seems to have been done for it, with the write that did that, and what is done now.
    pub fn and_then(done: Option<Self>, now: Difference) -> (Difference, Option<Write>) {
        match done {
            Some(Self { difference, write }) => (difference.and_then(now), Some(write)),
            None => (now, None),
        }
    }
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
    /// What became of it, once it is known that it took effect: some of what it carries has been settled by that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write: Option<Write>,
}

impl Intent {
    /// What it may have done, for each operation that it did something for; without targets that several of them changed: what it did with
    /// these is the work of them all, of which some may come to nothing.
    fn doubts(&self) -> impl Iterator<Item = (OperationId, Doubt)> {
        let (mut once, mut more) = (BTreeSet::new(), BTreeSet::new());
        for target in self.carried.iter().flat_map(|it| it.difference.targets()) {
            if !once.insert(target) {
                more.insert(target);
            }
        }
        let effect = self.effect();
        let carried = self.carried.iter().filter(|it| !it.difference.is_empty());
        carried.map(move |Carried { operation, difference, done }| {
            let (difference, _) = Doubt::and_then(done.clone(), difference.without(&more));
            (*operation, Doubt { difference, write: effect.clone() })
        })
    }

    /// The write, if it took effect.
    pub fn effect(&self) -> Write {
        let (merged_with, client_request_id) = (self.carried.len().saturating_sub(1), self.client_request_id.clone());
        self.write.clone().unwrap_or(Write { merged_with, request_id: None, client_request_id })
    }
}

/// What is done for one operation when an announced write takes effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    /// Which.
    pub operation: OperationId,
    /// What it changes.
    pub difference: Difference,
    /// What an earlier write seems to have done for it: the set showed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done: Option<Doubt>,
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

/// Where a settlement stands among those by which a turn stores what it knows, and what is announced from then on, for whoever has to go
/// on from there. A lane is kept until the last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// The first of several. What is announced is as it is known by now.
    First(Announced),
    /// Neither the first nor the last. What is announced stays.
    Further,
    /// The last, or the only one. What may have been done for others is announced still.
    Last(Announced),
}

impl Part {
    /// What is announced from then on; none if that stays as it is.
    pub fn announced(&self) -> Option<&Announced> {
        match self {
            Self::First(announced) | Self::Last(announced) => Some(announced),
            Self::Further => None,
        }
    }
}

/// A pause for a lane that cannot go on.
#[derive(Clone, Debug)]
pub struct Parking {
    /// Not to be claimed for so long.
    pub pause: Duration,
    /// Why, in one sentence.
    pub because: String,
    /// What may have taken effect; nothing else is announced any longer.
    pub announced: Announced,
    /// Digest of the set as it was found; none if nothing is known that was not known before.
    pub left: Option<Digest>,
    /// Operations that have waited long enough, and the states in which they end.
    pub ended: Vec<(OperationId, State)>,
    /// Their audit records.
    pub entries: Vec<Entry>,
}
