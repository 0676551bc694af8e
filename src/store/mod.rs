//! What is kept: operations, idempotency keys, lanes and the audit trail; the one place where gateway and executor meet.
//!
//! [`Store`] has verbs; what each writes is one whole transaction. When a verb that writes returns, what it wrote survives the loss of
//! power; when it fails, nothing of it happened. Concurrent verbs share a commit.
//!
//! A lane is owned through a [`Lease`] with a fencing number: whoever lost it can neither announce a write nor settle.
//! No transaction is open between two verbs, so none is open while Graph is called.
//!
//! Leases and pauses are asked for as durations and end by the store's own time, so that replicas whose clocks differ
//! agree on who owns a lane. What is told about operations (when they were accepted, began, ended) is the caller's time.
//!
//! It deliberately knows neither callers' rights nor Graph: it stores what it is given.

pub mod callbacks;
mod lane;
mod ledger;
pub mod notices;
pub mod postgres;
mod room;
mod rows;
pub mod sqlite;
mod trail;
mod until;
mod verbs;
mod writer;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;

use self::lane::Holder;
pub use self::{
    lane::{Announced, Carried, Claim, Claimed, Doubt, Intent, Lease, Parking, Part, PolicySetsSeen, Settlement, Turn},
    notices::Notices,
    postgres::Postgres,
    sqlite::Sqlite,
    trail::{AuditPage, AuditQuery, Filed, Following, Trail},
    until::{Due, Release, Sequel},
};
use crate::{
    audit::{Entry, Head},
    clock::Clock,
    config,
    domain::{ConfigurationId, Digest, Operation, OperationId, approval::Answer},
};

/// Why a verb did not happen.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The database cannot be reached or cannot write; try again later.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// Another owner holds the lane by now.
    #[error("the lease on the lane of {0} is lost")]
    LeaseLost(ConfigurationId),
    /// What is stored is not what this version wrote.
    #[error("the store holds something unreadable: {0}")]
    Unreadable(String),
    /// The store cannot be opened as it is.
    #[error("{0}")]
    Unusable(String),
}

impl Error {
    /// Its class, for figures.
    fn class(&self) -> &'static str {
        match self {
            Self::Unavailable(_) => "unavailable",
            Self::LeaseLost(_) => "lease-lost",
            Self::Unreadable(_) => "unreadable",
            Self::Unusable(_) => "unusable",
        }
    }
}

/// Who opens a store.
#[derive(Clone, Debug)]
pub struct Run {
    /// A new name for the audit chain of this run.
    pub chain: String,
    /// The time, where it is not the store's own.
    pub clock: Clock,
}

/// Opens the store that the settings name, and begins a run.
pub async fn open(settings: &config::Store, run: Run) -> Result<Arc<dyn Store>, Error> {
    Ok(match settings {
        config::Store::Sqlite(path) => Arc::new(Sqlite::open(path, run).await?),
        config::Store::Postgres(settings) => Arc::new(Postgres::open(settings, run).await?),
    })
}

/// A change to accept.
#[derive(Clone, Debug)]
pub struct Acceptance {
    /// Its operation, queued or awaiting approval.
    pub operation: Operation,
    /// The caller's idempotency key.
    pub key: Option<IdempotencyKey>,
    /// The audit record of the acceptance.
    pub entry: Entry,
    /// How much may be pending, this operation included.
    pub bounds: Bounds,
    /// Whose end it carries out, if it is a reversal that nobody asks for now: accepted only if that is still ahead, and
    /// settled with it.
    pub ends: Option<OperationId>,
}

/// How many operations may be pending at once. They hold for what other replicas have committed: what these commit at the
/// same moment is not counted, so each replica can go over them by what it accepts in one commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Of one configuration.
    pub of_configuration: usize,
    /// Of all.
    pub in_all: usize,
}

/// A caller's name for one attempt to have something done.
#[derive(Clone, Debug)]
pub struct IdempotencyKey {
    /// The key, as the caller gave it.
    pub key: String,
    /// Digest of what was asked under it.
    pub fingerprint: Digest,
    /// When it was used.
    pub used_at: Timestamp,
    /// Until when it is remembered.
    pub expires_at: Timestamp,
}

/// What became of an acceptance.
#[derive(Clone, Debug)]
pub enum Accepted {
    /// It is stored.
    New,
    /// The key was used before for the same; this is the operation of that time. Nothing was stored.
    Replayed(Box<Operation>),
    /// The key was used before for something else. Nothing was stored.
    KeyReused(OperationId),
    /// As much is pending as may be. Nothing was stored, and the key is free.
    Full(Full),
    /// The end that it was to carry out is settled already. Nothing was stored.
    Over,
}

/// Which bound is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// That of the configuration.
    Configuration,
    /// That of all together.
    Everything,
}

/// An operation to take back.
#[derive(Clone, Debug)]
pub struct Cancellation {
    /// Which.
    pub operation: OperationId,
    /// When.
    pub at: Timestamp,
    /// The audit record of it, stored only if it is cancelled now.
    pub entry: Entry,
}

/// What became of a cancellation.
#[derive(Clone, Debug)]
pub enum Cancelled {
    /// The operation had not begun and is cancelled; this is how it ended.
    Done(Box<Operation>),
    /// A lane has taken it up, or it has ended, cancelled maybe: this is how it stands. Nothing was stored.
    TooLate(Box<Operation>),
    /// There is no such operation.
    Unknown,
}

/// An answer to the approval that an operation awaits.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Which operation.
    pub operation: OperationId,
    /// The answer.
    pub answer: Answer,
    /// The audit record of it, stored only if it counts.
    pub entry: Entry,
}

/// What became of an answer.
#[derive(Clone, Debug)]
pub enum Answered {
    /// It counts; this is how the operation stands now: queued, or ended.
    Done(Box<Operation>),
    /// The operation awaits no such answer, any longer or yet: this is how it stands. Nothing was stored.
    TooLate(Box<Operation>),
    /// There is no such operation.
    Unknown,
}

/// Which operations to list: those that fit everything given, newest first.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// Of this ticket.
    pub ticket: Option<String>,
    /// On this configuration.
    pub configuration: Option<ConfigurationId>,
    /// Of this caller.
    pub caller: Option<String>,
    /// In the state of this name.
    pub state: Option<String>,
    /// Older than this one.
    pub after: Option<OperationId>,
    /// At most so many.
    pub limit: usize,
}

/// What need not be kept any longer.
#[derive(Clone, Copy, Debug)]
pub struct Forgetting {
    /// Operations that ended before this.
    pub ended_before: Timestamp,
    /// Idempotency keys that are remembered until then and no longer.
    pub keys_expired_by: Timestamp,
    /// At most so many of both together.
    pub limit: usize,
}

/// Why and how long an operation that has not ended waits for Graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parked {
    /// In one sentence.
    pub because: String,
    /// When its lane tries again, by the clock with which the store was opened.
    pub until: Timestamp,
    /// How often it has tried in vain.
    pub attempts: u32,
}

/// What has not ended, and what has, but was not told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// How many operations are in which state; states that nothing is in are left out.
    pub states: BTreeMap<String, u64>,
    /// How many lanes have operations, and could not go on when they were last tried.
    pub parked: u64,
    /// Since when the oldest waits of those that may begin.
    pub oldest: Option<Timestamp>,
    /// Ends that were not told.
    pub callbacks: callbacks::Undelivered,
}

/// The verbs. What each writes is one whole transaction.
#[async_trait]
pub trait Store: Send + Sync + std::fmt::Debug {
    /// Stores an operation, its idempotency key and its audit record, or finds what the key stands for. A key that stands
    /// for something is found even if the bounds are reached.
    async fn accept(&self, acceptance: Acceptance) -> Result<Accepted, Error>;

    /// What a caller's key stands for, without storing anything. `fingerprint` and times count as in [`Store::accept`].
    async fn recall(&self, caller: &str, key: &IdempotencyKey) -> Result<Option<Accepted>, Error>;

    /// Ends an operation that no lane has taken up. What is cancelled is never in a turn, and what is in a turn is never
    /// cancelled, however close the two come.
    async fn cancel(&self, cancellation: Cancellation) -> Result<Cancelled, Error>;

    /// Settles an end without a reversal, and says whether it was still ahead. Otherwise nothing is stored.
    async fn release(&self, release: Release) -> Result<bool, Error>;

    /// Operations whose end is due, whatever has become of them so far.
    async fn due(&self, due: Due) -> Result<Vec<Operation>, Error>;

    /// Claims attempts to deliver callbacks of operations that have ended: those that are due, the longest due first. Nobody
    /// else gets them before the time for which they are claimed is over.
    async fn claim_callbacks(&self, claim: callbacks::Claim) -> Result<Vec<callbacks::Attempt>, Error>;

    /// Notes what came of an attempt, and says whether it was still the one under way. Otherwise nothing is stored.
    async fn note_attempt(&self, attempted: callbacks::Attempted) -> Result<bool, Error>;

    /// Makes a callback that is delivered or parked due again, and says whether it was one. Otherwise nothing is stored.
    async fn resend_callback(&self, resending: callbacks::Resending) -> Result<bool, Error>;

    /// What came after an operation.
    async fn sequel(&self, id: OperationId) -> Result<Sequel, Error>;

    /// What came from policy sets when a lane of this configuration last looked, as it was noted then.
    async fn policy_sets_seen(&self, configuration: &ConfigurationId) -> Result<Vec<String>, Error>;

    /// Notes what comes from policy sets now.
    async fn note_policy_sets(&self, seen: PolicySetsSeen) -> Result<(), Error>;

    /// Answers the approval that an operation awaits: it is queued, or it ends. Of several answers the first counts.
    async fn answer(&self, reply: Reply) -> Result<Answered, Error>;

    /// Operations whose approval can no longer be given at this moment, in any order.
    async fn unanswered(&self, at: Timestamp, limit: usize) -> Result<Vec<Operation>, Error>;

    /// Stores audit records that belong to no other verb.
    async fn record(&self, entries: Vec<Entry>) -> Result<(), Error>;

    /// One operation.
    async fn operation(&self, id: OperationId) -> Result<Option<Operation>, Error>;

    /// Operations, newest first.
    async fn operations(&self, query: &Query) -> Result<Vec<Operation>, Error>;

    /// Whether the lane of this configuration is parked.
    async fn parked(&self, configuration: &ConfigurationId) -> Result<Option<Parked>, Error>;

    /// Configurations with pending operations whose lane is free and not parked.
    async fn open_lanes(&self, limit: usize) -> Result<Vec<ConfigurationId>, Error>;

    /// How much has not ended, or was not told.
    async fn backlog(&self) -> Result<Backlog, Error>;

    /// Takes a free lane and marks its pending operations running. After an error the lane is as it was, parked, or held until the
    /// lease that was asked for would have ended.
    async fn claim(&self, claim: Claim) -> Result<Claimed, Error>;

    /// Announces a write, so that a successor can tell whether it took effect, and makes the lease last for
    /// `ttl` from now.
    async fn begin_write(&self, lease: &mut Lease, announced: &Announced, ttl: Duration) -> Result<(), Error>;

    /// Ends operations; the lane becomes free unless the settlement keeps it.
    async fn settle(&self, lease: Lease, settlement: Settlement) -> Result<Option<Lease>, Error>;

    /// Frees the lane and keeps it from being claimed for a while. Operations that the parking does not end stay running.
    async fn park(&self, lease: Lease, parking: Parking) -> Result<(), Error>;

    /// Removes operations that ended long ago and idempotency keys that are over, the oldest first, and says how many it
    /// removed: fewer than its limit if nothing is left, or if another replica is removing the rest. An operation is not
    /// removed while a key stands for it, while its end is ahead, or while its callback is pending. Pending operations and audit records stay.
    async fn forget(&self, forgetting: Forgetting) -> Result<usize, Error>;

    /// Audit records, oldest first. No record is committed later at a position before one that was read.
    async fn records(&self, query: &AuditQuery) -> Result<Vec<Filed>, Error>;

    /// Audit records after a position, oldest first.
    async fn audit(&self, after: Option<i64>, limit: usize) -> Result<AuditPage, Error> {
        let query = AuditQuery { after, limit, ..AuditQuery::default() };
        Ok(AuditPage::of(self.records(&query).await?, limit))
    }

    /// Takes or keeps a sink's turn, notes how far it was delivered to, and tells that position. None if somebody else has
    /// the turn. The position never goes back.
    async fn follow(&self, following: Following) -> Result<Option<i64>, Error>;

    /// The ends of all chains that went on since an opening named them: with what openings name, the whole trail.
    async fn ends(&self) -> Result<Vec<Head>, Error>;

    /// Proves that writing works.
    async fn probe(&self) -> Result<(), Error>;

    /// Where news of this store come in.
    fn notices(&self) -> &Notices;

    /// Finishes what was begun and closes the store.
    async fn close(&self);
}
