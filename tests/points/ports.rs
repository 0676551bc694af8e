//! The store and Graph, with the plan's faults injected.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use postern::{
    audit::{Entry, Head},
    domain::{AssignmentSet, Configuration, ConfigurationId, GroupId, Operation, OperationId},
    graph::{self, AssignmentFilter, Clearance, Group, Present, Receipt, Upstream},
    store::{
        Acceptance, Accepted, Announced, Answered, AuditQuery, Backlog, Cancellation, Cancelled, Claim, Claimed, Due,
        Error, Filed, Following, Forgetting, IdempotencyKey, Lease, Notices, Parked, Parking, PolicySetsSeen, Query,
        Release, Reply, Sequel, Settlement, Store, callbacks,
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
}

impl Kept {
    async fn through<T>(&self, call: Call, made: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        self.faults.through(call, made, || Error::Unavailable("as planned".to_owned())).await
    }
}

#[async_trait]
impl Store for Kept {
    async fn accept(&self, acceptance: Acceptance) -> Result<Accepted, Error> {
        self.through(Call::Accept, self.store.accept(acceptance)).await
    }

    async fn recall(&self, caller: &str, key: &IdempotencyKey) -> Result<Option<Accepted>, Error> {
        self.through(Call::Recall, self.store.recall(caller, key)).await
    }

    async fn cancel(&self, cancellation: Cancellation) -> Result<Cancelled, Error> {
        self.store.cancel(cancellation).await
    }

    async fn release(&self, release: Release) -> Result<bool, Error> {
        self.store.release(release).await
    }

    async fn due(&self, due: Due) -> Result<Vec<Operation>, Error> {
        self.store.due(due).await
    }

    async fn claim_callbacks(&self, claim: callbacks::Claim) -> Result<Vec<callbacks::Attempt>, Error> {
        self.store.claim_callbacks(claim).await
    }

    async fn note_attempt(&self, attempted: callbacks::Attempted) -> Result<bool, Error> {
        self.store.note_attempt(attempted).await
    }

    async fn resend_callback(&self, resending: callbacks::Resending) -> Result<bool, Error> {
        self.store.resend_callback(resending).await
    }

    async fn sequel(&self, id: OperationId) -> Result<Sequel, Error> {
        self.store.sequel(id).await
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

    async fn answer(&self, reply: Reply) -> Result<Answered, Error> {
        self.store.answer(reply).await
    }

    async fn unanswered(&self, at: Timestamp, limit: usize) -> Result<Vec<Operation>, Error> {
        self.store.unanswered(at, limit).await
    }

    async fn record(&self, entries: Vec<Entry>) -> Result<(), Error> {
        self.through(Call::Record, self.store.record(entries)).await
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

    async fn begin_write(&self, lease: &mut Lease, announced: &Announced, ttl: Duration) -> Result<(), Error> {
        self.through(Call::BeginWrite, self.store.begin_write(lease, announced, ttl)).await
    }

    async fn settle(&self, lease: Lease, settlement: Settlement) -> Result<Option<Lease>, Error> {
        self.through(Call::Settle, self.store.settle(lease, settlement)).await
    }

    async fn park(&self, lease: Lease, parking: Parking) -> Result<(), Error> {
        self.through(Call::Park, self.store.park(lease, parking)).await
    }

    async fn forget(&self, forgetting: Forgetting) -> Result<usize, Error> {
        self.store.forget(forgetting).await
    }

    async fn records(&self, query: &AuditQuery) -> Result<Vec<Filed>, Error> {
        self.store.records(query).await
    }

    async fn follow(&self, following: Following) -> Result<Option<i64>, Error> {
        self.store.follow(following).await
    }

    async fn ends(&self) -> Result<Vec<Head>, Error> {
        self.store.ends().await
    }

    async fn own_end(&self) -> Result<Option<Head>, Error> {
        self.store.own_end().await
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

    async fn read_assignments(&self, id: &ConfigurationId) -> Result<Present, graph::Error> {
        self.through(Call::Read, self.tenant.read_assignments(id)).await
    }

    async fn replace_assignments(
        &self,
        id: &ConfigurationId,
        set: &AssignmentSet,
        clearance: &Clearance,
    ) -> Result<Receipt, graph::Error> {
        let lost = || graph::Error::Unknown("as planned".to_owned());
        self.faults.through(Call::Replace, self.tenant.replace_assignments(id, set, clearance), lost).await
    }
}
