//! What passes between a lane's worker and the store: claim, lease, turn, the announced write, and how a turn ends.
//!
//! Guarantees: a [`Lease`] is made only for a claim and cannot be copied; settling and parking consume it.
//!
//! It deliberately contains no SQL and takes the time only from the clock it is given.

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

/// A claim to a lane.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Which lane.
    pub configuration: ConfigurationId,
    /// Who claims it.
    pub owner: String,
    /// When it is claimed, for the operations and the audit trail.
    pub at: Timestamp,
    /// How long the lease is to last.
    pub ttl: Duration,
    /// At most this many operations are taken up.
    pub batch_max: usize,
    /// The trace id of the turn, for the audit trail.
    pub trace_id: Option<String>,
}

/// The assignments from policy sets that a lane saw.
#[derive(Clone, Debug)]
pub struct PolicySetsSeen {
    /// The lane's configuration.
    pub configuration: ConfigurationId,
    /// One text per assignment, to be compared with those of the next look.
    pub assignments: Vec<String>,
    /// The audit record of assignments that are gone since the last look, if any.
    pub loss: Option<Entry>,
}

/// The right to work on a lane for a time. Cannot be copied: settling and parking consume it; settling returns it if kept.
#[derive(Debug)]
pub struct Lease {
    pub(super) configuration: ConfigurationId,
    pub(super) owner: String,
    pub(super) fencing: i64,
    /// By [`Clock::elapsed`]. Counted from before the store was called, so it is never later than the store's own expiry.
    pub(super) until: Duration,
}

impl Lease {
    /// The lease that a store grants to a claim: with a fencing number higher than all before it on this lane, until a time by
    /// the owner's [`Clock::elapsed`]. Only for implementations of [`super::Store`].
    pub fn granted(claim: &Claim, fencing: i64, until: Duration) -> Self {
        Self { configuration: claim.configuration.clone(), owner: claim.owner.clone(), fencing, until }
    }

    /// Sets when it expires, after the store has done so. Only for implementations of [`super::Store`].
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

    /// Its fencing number among the leases of this lane.
    pub fn fencing(&self) -> i64 {
        self.fencing
    }

    /// How long it still lasts at least, by the clock that the store was opened with.
    pub fn left(&self, clock: Clock) -> Duration {
        self.until.saturating_sub(clock.elapsed())
    }

    pub(super) fn holder(&self) -> Holder {
        Holder { configuration: self.configuration.clone(), owner: self.owner.clone(), fencing: self.fencing }
    }
}

/// Who holds a lane: what the store checks of a lease. It can be cloned and is no lease itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) configuration: ConfigurationId,
    pub(super) owner: String,
    pub(super) fencing: i64,
}

/// The result of a claim.
#[derive(Debug)]
pub enum Claimed {
    /// The lane, with the operations to carry out.
    Turn(Box<Turn>),
    /// Nothing: another replica holds the lane. A store for one process never returns this.
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

/// A lane's turn: what to do, and what is known from earlier turns.
#[derive(Debug)]
pub struct Turn {
    /// The right to do it, for a time.
    pub lease: Lease,
    /// The operations, all running, in order of acceptance.
    pub operations: Vec<Operation>,
    /// What was announced and never settled: the owner crashed, lost the lane, or parked it.
    pub announced: UnsettledWrites,
    /// Digest of the set as a turn last left it, or found it before parking; none if that is unknown.
    pub left: Option<Digest>,
    /// Sets that writes of this lane have replaced lately.
    pub replaced_sets: Vec<ReplacedSet>,
    /// How often the lane has been parked since it last settled.
    pub attempts: u32,
}

/// A set that a write has replaced: for a while, a read that shows it is not believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplacedSet {
    /// Its digest.
    pub set: Digest,
    /// How much longer it is not believed.
    pub ttl: Duration,
}

/// What was announced on a lane and is not settled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnsettledWrites {
    /// The last announced write.
    pub intent: Option<Intent>,
    /// What earlier writes of unknown effect may have done for operations that have not ended. An operation that finds the set
    /// as it wants it is attributed to one: likely, not proven, as others may have done the same. The audit records of such
    /// writes say `undecided`; one that looked unsent and was replaced by another has none.
    pub doubts: BTreeMap<OperationId, Doubt>,
}

impl UnsettledWrites {
    /// Whether the last write is known to have taken effect.
    pub fn is_known(&self) -> bool {
        self.intent.as_ref().is_some_and(|intent| intent.write.is_some())
    }

    /// Whether something may have been done for an operation without this being certain.
    pub fn may_have_done(&self, operation: OperationId) -> bool {
        let carries =
            |intent: &Intent| intent.carried.iter().any(|it| it.operation == operation && !it.difference.is_empty());
        self.doubts.contains_key(&operation) || self.intent.as_ref().is_some_and(carries)
    }

    /// Moves what the last write may have done to the doubts.
    pub fn demote_intent(&mut self) {
        if let Some(intent) = self.intent.take() {
            add_doubts(&mut self.doubts, &intent);
        }
    }

    /// What stays announced once some operations have ended and others are still to do. The last write stays if it is not
    /// known to have taken effect and carries one of the latter; else what it did for those that have not ended is in doubt.
    #[must_use]
    pub fn remaining_after(&self, ended: &BTreeSet<OperationId>, to_do: &BTreeSet<OperationId>) -> Self {
        let carries = |so: &dyn Fn(&OperationId) -> bool| {
            self.intent.as_ref().filter(|intent| intent.carried.iter().any(|it| so(&it.operation)))
        };
        let stays = carries(&|it| to_do.contains(it)).filter(|_| !self.is_known());
        let mut doubts = self.doubts.clone();
        // Usually all have ended.
        if let Some(intent) = carries(&|it| !ended.contains(it)).filter(|_| stays.is_none()) {
            add_doubts(&mut doubts, intent);
        }
        doubts.retain(|operation, _| !ended.contains(operation));
        Self { intent: stays.cloned(), doubts }
    }
}

/// Adds what a write may have done. Where that is nothing of one operation alone, what an earlier write may have done for it
/// stays.
fn add_doubts(doubts: &mut BTreeMap<OperationId, Doubt>, intent: &Intent) {
    for (operation, doubt) in intent.doubts() {
        if !doubt.difference.is_empty() || !doubts.contains_key(&operation) {
            doubts.insert(operation, doubt);
        }
    }
}

/// What a write may have done for one operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doubt {
    /// What it would have changed.
    pub difference: Difference,
    /// The write.
    pub write: Write,
}

impl Doubt {
    /// The total of an operation: what seems to have been done for it, with the write that did that, and what is done now.
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
    /// Our own id for the call.
    pub client_request_id: String,
    /// What it does for each operation it carries.
    pub carried: Vec<Carried>,
    /// The write as recorded, once it is known to have taken effect: some of what it carries has been settled by that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write: Option<Write>,
}

impl Intent {
    /// What it may have done for each operation that it changes something for. Targets that several operations changed are
    /// left out: what the write did with these is the work of all of them, and some of them may come to nothing.
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

    /// The write as recorded if it took effect.
    pub fn effect(&self) -> Write {
        let (merged_with, client_request_id) = (self.carried.len().saturating_sub(1), self.client_request_id.clone());
        self.write.clone().unwrap_or(Write { merged_with, request_id: None, client_request_id })
    }
}

/// What is done for one operation when an announced write takes effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    /// Which operation.
    pub operation: OperationId,
    /// What it changes.
    pub difference: Difference,
    /// What an earlier write seems to have done for it, by what the set showed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done: Option<Doubt>,
}

/// How operations of a turn end.
#[derive(Clone, Debug)]
pub struct Settlement {
    /// Operations and the states in which they ended.
    pub ended: Vec<(OperationId, State)>,
    /// Digest of the set as it is left; none if unknown.
    pub left: Option<Digest>,
    /// Sets that were replaced lately; they take the place of those stored.
    pub replaced_sets: Vec<ReplacedSet>,
    /// Their audit records.
    pub entries: Vec<Entry>,
    /// How long to keep the lane, to continue this turn; none frees it.
    pub keep: Option<Duration>,
    /// Where it stands among the settlements of its turn.
    pub part: Part,
}

/// Where a settlement stands among those by which a turn stores its results, and what is announced from then on, for a
/// possible successor. The lane is kept until the last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// The first of several. Announces what is known by now.
    First(UnsettledWrites),
    /// Neither the first nor the last. What is announced stays as it is.
    Further,
    /// The last, or the only one. What may have been done for other operations stays announced.
    Last(UnsettledWrites),
}

impl Part {
    /// What is announced from then on; none if that stays as it is.
    pub fn announced(&self) -> Option<&UnsettledWrites> {
        match self {
            Self::First(announced) | Self::Last(announced) => Some(announced),
            Self::Further => None,
        }
    }
}

/// A pause for a lane that cannot continue.
#[derive(Clone, Debug)]
pub struct Parking {
    /// How long it must not be claimed.
    pub pause: Duration,
    /// Why, in one sentence.
    pub because: String,
    /// What may have taken effect; replaces what was announced before.
    pub announced: UnsettledWrites,
    /// Digest of the set as it was found; none if nothing new is known.
    pub left: Option<Digest>,
    /// Sets that were replaced lately; they take the place of those stored.
    pub replaced_sets: Vec<ReplacedSet>,
    /// Operations that have waited for too long, and the states in which they end.
    pub ended: Vec<(OperationId, State)>,
    /// Their audit records.
    pub entries: Vec<Entry>,
}
