//! The store: operations, idempotency keys, lanes and the audit trail; the one place where gateway and executor meet.
//!
//! Guarantees: all that a verb of [`Store`] writes is one transaction. When a writing verb returns, what it wrote survives a
//! power failure; when it fails, nothing was stored, unless a connection to PostgreSQL broke in the commit. Concurrent verbs
//! share a commit.
//!
//! A lane is owned through a [`Lease`] with a fencing number: an owner that has lost it can neither announce a write nor
//! settle. No transaction is open between two verbs, so none is open while Graph is called.
//!
//! Leases and pauses are given as durations and expire by the store's own time, so replicas whose clocks differ agree on who
//! owns a lane. The times recorded in operations (accepted, started, ended) are by the caller's clock.
//!
//! It deliberately knows neither callers' rights nor Graph: it stores what it is given.

mod audit_batch;
pub mod callbacks;
mod capacity;
mod commands;
mod lane;
pub mod notices;
pub mod postgres;
mod rows;
pub mod sqlite;
mod trail;
mod until;
mod writer;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;

use self::lane::Holder;
pub use self::{
    lane::{
        Carried, Claim, Claimed, Doubt, Intent, Lease, Parking, Part, PolicySetsSeen, ReplacedSet, Settlement, Turn,
        UnsettledWrites,
    },
    notices::Notices,
    postgres::Postgres,
    sqlite::Sqlite,
    trail::{AuditPage, AuditQuery, SinkClaim, StoredRecord, Trail},
    until::{DueQuery, FollowUps, UntilSettlement},
};
use crate::{
    audit::{Entry, Head},
    clock::Clock,
    config,
    domain::{ConfigurationId, Digest, Operation, OperationId, approval::Answer},
};

/// Why a verb failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The database cannot be reached or cannot write; try again later.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// The owner no longer holds the lane.
    #[error("the lease on the lane of {0} is lost")]
    LeaseLost(ConfigurationId),
    /// Something stored cannot be read by this version.
    #[error("the store holds something unreadable: {0}")]
    Unreadable(String),
    /// The store cannot be opened.
    #[error("{0}")]
    Unusable(String),
}

impl Error {
    /// Its class, for metrics.
    fn class(&self) -> &'static str {
        match self {
            Self::Unavailable(_) => "unavailable",
            Self::LeaseLost(_) => "lease-lost",
            Self::Unreadable(_) => "unreadable",
            Self::Unusable(_) => "unusable",
        }
    }
}

/// The run that opens a store.
#[derive(Clone, Debug)]
pub struct Run {
    /// A new, unique name for the audit chain with which this run begins.
    pub chain: String,
    /// The process's clock, for times that are not by the store's own.
    pub clock: Clock,
}

/// Opens the store that the settings name, and begins a run.
pub async fn open(settings: &config::Store, run: Run) -> Result<Arc<dyn Store>, Error> {
    Ok(match settings {
        config::Store::Sqlite(path) => Arc::new(Sqlite::open(path, run).await?),
        config::Store::Postgres(settings) => Arc::new(Postgres::open(settings, run).await?),
    })
}

/// Where the store that the settings name is, for the log: without users and parameters.
pub fn place(settings: &config::Store) -> String {
    match settings {
        // The path may be relative to a working directory that is not the one that was meant.
        config::Store::Sqlite(path) => {
            format!("sqlite:{}", std::path::absolute(path).unwrap_or_else(|_| path.clone()).display())
        }
        config::Store::Postgres(config::Postgres { url, .. }) => {
            let named =
                |name: &str| url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned());
            let host = named("host").or_else(|| url.host_str().map(str::to_owned)).unwrap_or_default();
            let port = named("port").or_else(|| url.port().map(|port| port.to_string()));
            let port = port.map(|port| format!(":{port}")).unwrap_or_default();
            let database = named("dbname").unwrap_or_else(|| url.path().trim_start_matches('/').to_owned());
            format!("postgres://{host}{port}/{database}")
        }
    }
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
    /// How many operations may be pending, this one included.
    pub limits: PendingLimits,
    /// The operation whose `until` this reversal carries out, if any: accepted only if that is still ahead, and settles it.
    pub carries_out_until_of: Option<OperationId>,
    /// For a reversal: what it depends on ([`Reversal::depends_on`](crate::domain::Reversal::depends_on)) of what
    /// [`Store::reverted_since`] returned when it was made. Accepted only if that is still so.
    pub reverted_since: Option<Vec<OperationId>>,
}

/// How many operations may be pending at once. What other replicas accept may be counted up to a second late, so together they
/// can exceed these bounds by that much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PendingLimits {
    /// For one configuration.
    pub per_configuration: usize,
    /// In total.
    pub total: usize,
}

/// A caller's name for one request and its retries.
#[derive(Clone, Debug)]
pub struct IdempotencyKey {
    /// The key, as the caller sent it.
    pub key: String,
    /// Digest of the request that it was used for.
    pub fingerprint: Digest,
    /// When it was used.
    pub used_at: Timestamp,
    /// When it expires.
    pub expires_at: Timestamp,
}

/// The result of an acceptance.
#[derive(Clone, Debug)]
pub enum Accepted {
    /// It is stored.
    New,
    /// The key was used before for the same request; this is the operation accepted then. Nothing was stored.
    Replayed(Box<Operation>),
    /// The key was used before for a different request. Nothing was stored.
    KeyReused(OperationId),
    /// A bound is reached. Nothing was stored, and the key is free.
    LimitReached(LimitReached),
    /// The end that it was to carry out is already settled. Nothing was stored.
    EndAlreadySettled,
    /// Something else has been reverted since the reversal was made. Nothing was stored, and the key is free.
    Outdated,
}

/// Which bound is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitReached {
    /// The configuration's.
    Configuration,
    /// The total.
    Total,
}

/// An operation to cancel.
#[derive(Clone, Debug)]
pub struct Cancellation {
    /// Which operation.
    pub operation: OperationId,
    /// When.
    pub at: Timestamp,
    /// The audit record, stored only if the operation is cancelled now.
    pub entry: Entry,
}

/// The result of a cancellation.
#[derive(Clone, Debug)]
pub enum Cancelled {
    /// The operation had not begun and is cancelled now; this is how it ended.
    Done(Box<Operation>),
    /// A lane has taken it up, or it has ended (perhaps cancelled before): this is its present state. Nothing was stored.
    TooLate(Box<Operation>),
    /// There is no such operation.
    Unknown,
}

/// An answer to the approval that an operation awaits.
#[derive(Clone, Debug)]
pub struct ApprovalReply {
    /// Which operation.
    pub operation: OperationId,
    /// The answer.
    pub answer: Answer,
    /// The audit record, stored only if the answer counts.
    pub entry: Entry,
}

/// The result of an answer.
#[derive(Clone, Debug)]
pub enum ApprovalOutcome {
    /// The answer counts; this is the operation now: queued, or ended.
    Done(Box<Operation>),
    /// The operation does not await this answer (any more, or yet): this is its present state. Nothing was stored.
    TooLate(Box<Operation>),
    /// There is no such operation.
    Unknown,
}

/// Which operations to list: those that match every given field, newest first.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// With this ticket.
    pub ticket: Option<String>,
    /// On this configuration.
    pub configuration: Option<ConfigurationId>,
    /// From this caller.
    pub caller: Option<String>,
    /// In the state with this name.
    pub state: Option<String>,
    /// Older than this one.
    pub after: Option<OperationId>,
    /// At most this many.
    pub limit: usize,
}

/// What may be removed.
#[derive(Clone, Copy, Debug)]
pub struct Purge {
    /// Operations that ended before this.
    pub ended_before: Timestamp,
    /// Idempotency keys that have expired by then.
    pub keys_expired_by: Timestamp,
    /// At most this many of both together.
    pub limit: usize,
}

/// Why a lane is parked, and until when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parked {
    /// The reason, in one sentence.
    pub because: String,
    /// When the lane tries again, by the clock that the store was opened with.
    pub until: Timestamp,
    /// How many attempts have failed since it last settled.
    pub attempts: u32,
}

/// Counts of operations that have not ended, and of callbacks not delivered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Number of operations in each state; states without any are left out.
    pub states: BTreeMap<String, u64>,
    /// Number of lanes that have operations and were parked by their last attempt.
    pub parked: u64,
    /// Since when the oldest operation that may begin, or has begun, has been waiting.
    pub oldest: Option<Timestamp>,
    /// Callbacks not delivered.
    pub callbacks: callbacks::Undelivered,
}

/// The verbs. Everything that a verb writes is one transaction.
#[async_trait]
pub trait Store: Send + Sync + std::fmt::Debug {
    /// Stores an operation, its idempotency key and its audit record, or returns what a known key stands for, even if the
    /// bounds are reached.
    async fn accept(&self, acceptance: Acceptance) -> Result<Accepted, Error>;

    /// Looks up what a caller's key stands for; stores nothing. `fingerprint` and times are used as in [`Store::accept`].
    async fn find_by_key(&self, caller: &str, key: &IdempotencyKey) -> Result<Option<Accepted>, Error>;

    /// Cancels an operation that no lane has taken up. A cancelled operation is never in a turn and one in a turn is never
    /// cancelled, even if both happen at the same moment.
    async fn cancel(&self, cancellation: Cancellation) -> Result<Cancelled, Error>;

    /// Settles an end without a reversal. Returns whether it was still ahead; if not, nothing is stored.
    async fn settle_without_reversal(&self, settlement: UntilSettlement) -> Result<bool, Error>;

    /// Operations whose `until` is due, whatever their state.
    async fn due_untils(&self, due: DueQuery) -> Result<Vec<Operation>, Error>;

    /// Claims attempts to deliver callbacks of operations that have ended: those due, longest due first. Nobody else gets them
    /// until the claim expires.
    async fn claim_callbacks(&self, claim: callbacks::Claim) -> Result<Vec<callbacks::Attempt>, Error>;

    /// Stores the result of an attempt. Returns whether that attempt was still the current one; if not, nothing is stored.
    async fn record_attempt(&self, result: callbacks::AttemptResult) -> Result<bool, Error>;

    /// Makes a delivered or parked callback due again. Returns whether it was one of these; if not, nothing is stored.
    async fn resend_callback(&self, resending: callbacks::Resending) -> Result<bool, Error>;

    /// What followed an operation: its callback, its end, its reversals.
    async fn follow_ups(&self, id: OperationId) -> Result<FollowUps, Error>;

    /// Operations of the same configuration that took effect before this one and have been reverted since, newest first, up to
    /// a fixed number; not those whose reversal has been reverted, unless that was reverted in turn, and so on for a few.
    /// Reversals that are pending count. What waited for approval takes effect later than what was accepted after it.
    async fn reverted_since(&self, operation: &Operation) -> Result<Vec<Operation>, Error>;

    /// The assignments from policy sets, as the lane of this configuration last noted them.
    async fn policy_sets_seen(&self, configuration: &ConfigurationId) -> Result<Vec<String>, Error>;

    /// Notes the assignments that come from policy sets now.
    async fn note_policy_sets(&self, seen: PolicySetsSeen) -> Result<(), Error>;

    /// Answers the approval that an operation awaits, which is then queued or ends. Of several answers, the first counts.
    async fn answer_approval(&self, reply: ApprovalReply) -> Result<ApprovalOutcome, Error>;

    /// Operations still awaiting an approval that has expired by this time, in any order.
    async fn expired_approvals(&self, at: Timestamp, limit: usize) -> Result<Vec<Operation>, Error>;

    /// Stores audit records that belong to no other verb.
    async fn append_records(&self, entries: Vec<Entry>) -> Result<(), Error>;

    /// One operation, if it exists.
    async fn operation(&self, id: OperationId) -> Result<Option<Operation>, Error>;

    /// Operations, newest first.
    async fn operations(&self, query: &Query) -> Result<Vec<Operation>, Error>;

    /// Why and until when the lane of this configuration is parked, if it is.
    async fn parked(&self, configuration: &ConfigurationId) -> Result<Option<Parked>, Error>;

    /// Configurations with pending operations whose lane is free and not parked.
    async fn open_lanes(&self, limit: usize) -> Result<Vec<ConfigurationId>, Error>;

    /// Counts what has not ended and what is not delivered.
    async fn backlog(&self) -> Result<Backlog, Error>;

    /// Takes a free lane and marks its pending operations running. After an error the lane is as it was, parked, or held until
    /// the requested lease would have expired.
    async fn claim(&self, claim: Claim) -> Result<Claimed, Error>;

    /// Announces a write, so that a successor can find out whether it took effect, and extends the lease to `ttl` from now.
    async fn begin_write(&self, lease: &mut Lease, announced: &UnsettledWrites, ttl: Duration) -> Result<(), Error>;

    /// Ends operations. Frees the lane, or returns the extended lease if the settlement keeps it.
    async fn settle(&self, lease: Lease, settlement: Settlement) -> Result<Option<Lease>, Error>;

    /// Frees the lane and prevents it from being claimed for a while. Operations that the parking does not end stay running.
    async fn park(&self, lease: Lease, parking: Parking) -> Result<(), Error>;

    /// Removes operations that ended long ago and expired idempotency keys, oldest first. Returns how many: fewer than the
    /// limit if nothing is left or another replica is removing the rest. An operation stays while a key stands for it, its
    /// callback is pending, or its end or that of an operation it reverts, through however many reversals, is ahead. Audit
    /// records stay.
    async fn purge(&self, purge: Purge) -> Result<usize, Error>;

    /// Matching audit records, oldest first. No record is committed later at a position before one that was returned.
    async fn records(&self, query: &AuditQuery) -> Result<Vec<StoredRecord>, Error>;

    /// Audit records after a position, oldest first.
    async fn audit(&self, after: Option<i64>, limit: usize) -> Result<AuditPage, Error> {
        let query = AuditQuery { after, limit, ..AuditQuery::default() };
        Ok(AuditPage::of(self.records(&query).await?, limit))
    }

    /// Takes or keeps a sink's turn, stores how far it was delivered to, and returns that position; none if somebody else has
    /// the turn. The position never goes back.
    async fn claim_sink(&self, claim: SinkClaim) -> Result<Option<i64>, Error>;

    /// The ends of all chains that have grown since an opening named them: with those that openings name, the whole trail.
    async fn chain_heads(&self) -> Result<Vec<Head>, Error>;

    /// The end of the chain that this run writes, if it has grown since an opening named it.
    async fn own_chain_head(&self) -> Result<Option<Head>, Error>;

    /// Checks that the store can be written to.
    async fn probe(&self) -> Result<(), Error>;

    /// The notice board of this store.
    fn notices(&self) -> &Notices;

    /// Finishes what has begun and closes the store.
    async fn close(&self);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_of_a_database_is_told_without_users_and_parameters() {
        let place =
            |url: &str| place(&config::Store::Postgres(config::Postgres { url: url.parse().unwrap(), password: None }));
        assert_eq!(
            place("postgres://me@db.test:5433/postern?sslmode=require&user=you"),
            "postgres://db.test:5433/postern"
        );
        assert_eq!(place("postgres:///x?host=/run/postgresql&port=1&dbname=y"), "postgres:///run/postgresql:1/y");
    }
}
