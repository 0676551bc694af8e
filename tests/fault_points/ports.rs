//! The store and Graph, with the plan's faults injected.

use std::{
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use postern::{
    audit::{Entry, Head},
    domain::{AssignmentSet, Configuration, ConfigurationId, GroupId, Operation, OperationId},
    graph::{self, AssignmentFilter, CurrentAssignments, Group, Receipt, Upstream, WriteGrant},
    store::{
        Acceptance, Accepted, ApprovalOutcome, ApprovalReply, AuditQuery, Backlog, Cancellation, Cancelled, Claim,
        Claimed, DueQuery, Error, FollowUps, IdempotencyKey, Lease, Notices, Parked, Parking, PolicySetsSeen, Purge,
        Query, Settlement, SinkClaim, Store, StoredRecord, UnsettledWrites, UntilSettlement, callbacks,
    },
};

use crate::{
    plan::{Call, Faults},
    tenant::Tenant,
};

#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) faults: Arc<Faults>,
    pub(crate) meanwhile: Meanwhile,
}

/// What somebody else does just before the next cancellation or acceptance reaches the store.
#[derive(Default)]
pub(crate) struct Meanwhile(Mutex<Option<BoxFuture<'static, ()>>>);

impl Meanwhile {
    pub(crate) fn plan(&self, act: impl Future<Output = ()> + Send + 'static) {
        *self.0.lock().unwrap() = Some(Box::pin(act));
    }

    async fn happen(&self) {
        let act = self.0.lock().unwrap().take();
        if let Some(act) = act {
            act.await;
        }
    }
}

impl fmt::Debug for Meanwhile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Meanwhile")
    }
}

impl Kept {
    async fn through<T>(&self, call: Call, made: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        self.faults.through(call, made, || Error::Unavailable("as planned".to_owned())).await
    }
}

#[async_trait]
impl Store for Kept {
    async fn accept(&self, acceptance: Acceptance) -> Result<Accepted, Error> {
        self.meanwhile.happen().await;
        self.through(Call::Accept, self.store.accept(acceptance)).await
    }

    async fn find_by_key(&self, caller: &str, key: &IdempotencyKey) -> Result<Option<Accepted>, Error> {
        self.through(Call::Recall, self.store.find_by_key(caller, key)).await
    }

    async fn cancel(&self, cancellation: Cancellation) -> Result<Cancelled, Error> {
        self.meanwhile.happen().await;
        self.store.cancel(cancellation).await
    }

    async fn settle_without_reversal(&self, settlement: UntilSettlement) -> Result<bool, Error> {
        self.store.settle_without_reversal(settlement).await
    }

    async fn due_untils(&self, due: DueQuery) -> Result<Vec<Operation>, Error> {
        self.store.due_untils(due).await
    }

    async fn claim_callbacks(&self, claim: callbacks::Claim) -> Result<Vec<callbacks::Attempt>, Error> {
        self.store.claim_callbacks(claim).await
    }

    async fn record_attempt(&self, result: callbacks::AttemptResult) -> Result<bool, Error> {
        self.store.record_attempt(result).await
    }

    async fn resend_callback(&self, resending: callbacks::Resending) -> Result<bool, Error> {
        self.store.resend_callback(resending).await
    }

    async fn follow_ups(&self, id: OperationId) -> Result<FollowUps, Error> {
        self.store.follow_ups(id).await
    }

    async fn reverted_since(&self, operation: &Operation) -> Result<Vec<Operation>, Error> {
        self.store.reverted_since(operation).await
    }

    async fn policy_sets_seen(&self, configuration: &ConfigurationId) -> Result<Vec<String>, Error> {
        self.store.policy_sets_seen(configuration).await
    }

    async fn note_policy_sets(&self, seen: PolicySetsSeen) -> Result<(), Error> {
        self.store.note_policy_sets(seen).await
    }

    async fn answer_approval(&self, reply: ApprovalReply) -> Result<ApprovalOutcome, Error> {
        self.store.answer_approval(reply).await
    }

    async fn expired_approvals(&self, at: Timestamp, limit: usize) -> Result<Vec<Operation>, Error> {
        self.store.expired_approvals(at, limit).await
    }

    async fn append_records(&self, entries: Vec<Entry>) -> Result<(), Error> {
        self.through(Call::Record, self.store.append_records(entries)).await
    }

    async fn operation(&self, id: OperationId) -> Result<Option<Operation>, Error> {
        self.through(Call::Operation, self.store.operation(id)).await
    }

    async fn operations(&self, query: &Query) -> Result<Vec<Operation>, Error> {
        self.store.operations(query).await
    }

    async fn parked(&self, configuration: &ConfigurationId) -> Result<Option<Parked>, Error> {
        self.store.parked(configuration).await
    }

    async fn open_lanes(&self, limit: usize) -> Result<Vec<ConfigurationId>, Error> {
        self.through(Call::OpenLanes, self.store.open_lanes(limit)).await
    }

    async fn backlog(&self) -> Result<Backlog, Error> {
        self.store.backlog().await
    }

    async fn claim(&self, claim: Claim) -> Result<Claimed, Error> {
        self.through(Call::Claim, self.store.claim(claim)).await
    }

    async fn begin_write(&self, lease: &mut Lease, announced: &UnsettledWrites, ttl: Duration) -> Result<(), Error> {
        self.through(Call::BeginWrite, self.store.begin_write(lease, announced, ttl)).await
    }

    async fn settle(&self, lease: Lease, settlement: Settlement) -> Result<Option<Lease>, Error> {
        self.through(Call::Settle, self.store.settle(lease, settlement)).await
    }

    async fn park(&self, lease: Lease, parking: Parking) -> Result<(), Error> {
        self.through(Call::Park, self.store.park(lease, parking)).await
    }

    async fn purge(&self, purge: Purge) -> Result<usize, Error> {
        self.store.purge(purge).await
    }

    async fn records(&self, query: &AuditQuery) -> Result<Vec<StoredRecord>, Error> {
        self.store.records(query).await
    }

    async fn claim_sink(&self, claim: SinkClaim) -> Result<Option<i64>, Error> {
        self.store.claim_sink(claim).await
    }

    async fn chain_heads(&self) -> Result<Vec<Head>, Error> {
        self.store.chain_heads().await
    }

    async fn own_chain_head(&self) -> Result<Option<Head>, Error> {
        self.store.own_chain_head().await
    }

    async fn probe(&self) -> Result<(), Error> {
        self.store.probe().await
    }

    fn notices(&self) -> &Notices {
        self.store.notices()
    }

    async fn close(&self) {
        self.store.close().await;
    }
}

#[derive(Debug)]
pub(crate) struct Reached {
    pub(crate) tenant: Arc<Tenant>,
    pub(crate) faults: Arc<Faults>,
}

impl Reached {
    async fn through<T>(
        &self,
        call: Call,
        made: impl Future<Output = Result<T, graph::Error>>,
    ) -> Result<T, graph::Error> {
        // The shortest pause that the executor makes.
        let throttled = || graph::Error::Throttled { pause: Duration::from_millis(1) };
        self.faults.through(call, made, throttled).await
    }
}

#[async_trait]
impl Upstream for Reached {
    async fn configuration(&self, id: &ConfigurationId) -> Result<Configuration, graph::Error> {
        self.through(Call::Configuration, self.tenant.configuration(id)).await
    }

    async fn configurations(&self) -> Result<Vec<Configuration>, graph::Error> {
        self.tenant.configurations().await
    }

    async fn groups(&self, ids: &[GroupId]) -> Result<Vec<Group>, graph::Error> {
        self.through(Call::Groups, self.tenant.groups(ids)).await
    }

    async fn groups_named(&self, name: &str) -> Result<Vec<Group>, graph::Error> {
        self.tenant.groups_named(name).await
    }

    async fn groups_beginning(&self, with: &str) -> Result<Vec<Group>, graph::Error> {
        self.tenant.groups_beginning(with).await
    }

    async fn filters(&self) -> Result<Vec<AssignmentFilter>, graph::Error> {
        self.tenant.filters().await
    }

    async fn read_assignments(&self, id: &ConfigurationId) -> Result<CurrentAssignments, graph::Error> {
        self.through(Call::Read, self.tenant.read_assignments(id)).await
    }

    async fn replace_assignments(
        &self,
        id: &ConfigurationId,
        set: &AssignmentSet,
        grant: &WriteGrant,
    ) -> Result<Receipt, graph::Error> {
        let lost = || graph::Error::Unknown("as planned".to_owned());
        self.faults.through(Call::Replace, self.tenant.replace_assignments(id, set, grant), lost).await
    }
}
