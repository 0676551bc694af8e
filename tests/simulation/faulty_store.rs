//! A replica's access to the model store: adds latency, fails before or after the commit, and reports commits to the online
//! checks.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use postern::{
    audit::{Entry, Head},
    clock::Clock,
    domain::{ConfigurationId, Operation, OperationId},
    store::{
        Acceptance, Accepted, ApprovalOutcome, ApprovalReply, AuditQuery, Backlog, Cancellation, Cancelled, Claim,
        Claimed, DueQuery, Error, FollowUps, IdempotencyKey, Lease, Notices, Parked, Parking, PolicySetsSeen, Purge,
        Query, Settlement, SinkClaim, Store, StoredRecord, UnsettledWrites, UntilSettlement, callbacks,
    },
};

use crate::{
    model_store::Model,
    online_checks::OnlineChecks,
    world::{ReplicaLife, World},
};

#[derive(Debug)]
pub(crate) struct FaultyStore {
    pub(crate) world: Arc<World>,
    pub(crate) model: Model,
    pub(crate) board: Arc<Notices>,
    pub(crate) life: Arc<ReplicaLife>,
    /// The replica's clock.
    pub(crate) clock: Clock,
}

impl FaultyStore {
    /// Runs one verb; `seen` receives the result of the commit, even if the replica never does.
    async fn verb<T>(
        &self,
        name: &'static str,
        run: impl Future<Output = Result<T, Error>> + Send,
        seen: impl FnOnce(&Result<T, Error>) -> Result<(), String> + Send,
    ) -> Result<T, Error> {
        let Self { world, life, .. } = self;
        life.step(world).await;
        self.way().await;
        if world.fails("verbs failed before their commit", |faults| faults.store_before) {
            world.log(format_args!("{}: {name} fails before its commit", life.owner));
            return Err(Error::Unavailable("no connection".to_owned()));
        }
        life.pass(world).await;
        let result = run.await;
        world.judge(seen(&result));
        life.step(world).await;
        self.way().await;
        if world.fails("verbs failed after their commit", |faults| faults.store_after) {
            world.log(format_args!("{}: {name} fails after its commit", life.owner));
            return Err(Error::Unavailable("the connection is lost".to_owned()));
        }
        life.pass(world).await;
        result
    }

    async fn read<T>(
        &self,
        name: &'static str,
        run: impl Future<Output = Result<T, Error>> + Send,
    ) -> Result<T, Error> {
        self.verb(name, run, |_| Ok(())).await
    }

    async fn way(&self) {
        let slow = self.world.fails("slow verbs", |faults| faults.store_slow);
        self.world.pause(0, if slow { 4_000 } else { 8 }).await;
    }

    fn checks(&self) -> std::sync::MutexGuard<'_, OnlineChecks> {
        self.world.checks.lock().unwrap()
    }
}

#[async_trait]
impl Store for FaultyStore {
    async fn accept(&self, acceptance: Acceptance) -> Result<Accepted, Error> {
        let operation = acceptance.operation.clone();
        let seen = |accepted: &Result<Accepted, Error>| {
            let Ok(Accepted::New) = accepted else { return Ok(()) };
            let lane = operation.submission.configuration.clone();
            self.world
                .log(format_args!("{}: accepts {} {:?}", self.life.owner, operation.id, operation.submission.change));
            self.world.notify_all(&self.life.owner, |board| board.notify_work(lane.clone()));
            self.checks().accepted(operation)
        };
        self.verb("accept", self.model.accept(acceptance), seen).await
    }

    async fn find_by_key(&self, caller: &str, key: &IdempotencyKey) -> Result<Option<Accepted>, Error> {
        self.read("recall", self.model.find_by_key(caller, key)).await
    }

    async fn cancel(&self, cancellation: Cancellation) -> Result<Cancelled, Error> {
        let id = cancellation.operation;
        let seen = |cancelled: &Result<Cancelled, Error>| {
            let Ok(Cancelled::Done(operation)) = cancelled else { return Ok(()) };
            self.world.log(format_args!("{}: cancels {id}", self.life.owner));
            self.world.notify_all(&self.life.owner, |board| board.notify_ended([id]));
            self.checks().cancelled(operation)
        };
        self.verb("cancel", self.model.cancel(cancellation), seen).await
    }

    async fn settle_without_reversal(&self, settlement: UntilSettlement) -> Result<bool, Error> {
        let UntilSettlement { operation, state, .. } = settlement;
        let told = format!("{operation} is {}", state.name());
        let seen = |released: &Result<bool, Error>| {
            self.world.log(format_args!("{}: the end of {told}: {released:?}", self.life.owner));
            if matches!(released, Ok(true)) { self.checks().settled_until(operation, state) } else { Ok(()) }
        };
        self.verb("release", self.model.settle_without_reversal(settlement), seen).await
    }

    async fn due_untils(&self, due: DueQuery) -> Result<Vec<Operation>, Error> {
        self.read("due", self.model.due_untils(due)).await
    }

    async fn claim_callbacks(&self, claim: callbacks::Claim) -> Result<Vec<callbacks::Attempt>, Error> {
        self.read("claim callbacks", self.model.claim_callbacks(claim)).await
    }

    async fn record_attempt(&self, result: callbacks::AttemptResult) -> Result<bool, Error> {
        self.read("note attempt", self.model.record_attempt(result)).await
    }

    async fn resend_callback(&self, resending: callbacks::Resending) -> Result<bool, Error> {
        self.read("resend callback", self.model.resend_callback(resending)).await
    }

    async fn follow_ups(&self, id: OperationId) -> Result<FollowUps, Error> {
        self.read("sequel", self.model.follow_ups(id)).await
    }

    async fn reverted_since(&self, operation: &Operation) -> Result<Vec<Operation>, Error> {
        self.read("reverted since", self.model.reverted_since(operation)).await
    }

    async fn policy_sets_seen(&self, configuration: &ConfigurationId) -> Result<Vec<String>, Error> {
        self.read("policy sets", self.model.policy_sets_seen(configuration)).await
    }

    async fn note_policy_sets(&self, seen: PolicySetsSeen) -> Result<(), Error> {
        self.model.note_policy_sets(seen).await
    }

    /// No policy in the simulation requires approval.
    async fn answer_approval(&self, reply: ApprovalReply) -> Result<ApprovalOutcome, Error> {
        self.model.answer_approval(reply).await
    }

    async fn expired_approvals(&self, at: Timestamp, limit: usize) -> Result<Vec<Operation>, Error> {
        self.model.expired_approvals(at, limit).await
    }

    async fn append_records(&self, entries: Vec<Entry>) -> Result<(), Error> {
        let told = format!("{:?}", entries.iter().map(|entry| &entry.event).collect::<Vec<_>>());
        let seen = |_: &_| {
            self.world.log(format_args!("{}: records {told}", self.life.owner));
            Ok(())
        };
        self.verb("record", self.model.append_records(entries), seen).await
    }

    async fn operation(&self, id: OperationId) -> Result<Option<Operation>, Error> {
        self.read("operation", self.model.operation(id)).await
    }

    async fn operations(&self, query: &Query) -> Result<Vec<Operation>, Error> {
        self.read("operations", self.model.operations(query)).await
    }

    async fn parked(&self, configuration: &ConfigurationId) -> Result<Option<Parked>, Error> {
        self.read("parked", self.model.parked(configuration)).await
    }

    async fn open_lanes(&self, limit: usize) -> Result<Vec<ConfigurationId>, Error> {
        self.read("open lanes", self.model.open_lanes(limit)).await
    }

    async fn backlog(&self) -> Result<Backlog, Error> {
        self.read("backlog", self.model.backlog()).await
    }

    async fn claim(&self, claim: Claim) -> Result<Claimed, Error> {
        let (asked, wanted) = (self.clock.elapsed(), claim.clone());
        let seen = |claimed: &Result<Claimed, Error>| {
            let Ok(Claimed::Turn(turn)) = claimed else { return Ok(()) };
            self.world.log(format_args!(
                "{}: claims {} as {} for {:?}: {:?}",
                self.life.owner,
                wanted.configuration,
                turn.lease.fencing(),
                wanted.ttl,
                turn.operations.iter().map(|it| it.id).collect::<Vec<_>>(),
            ));
            self.checks().claimed(&wanted, turn, self.world.now())
        };
        let ttl = claim.ttl;
        let mut claimed = self.verb("claim", self.model.claim(claim), seen).await?;
        // A store counts the lease from before the call.
        if let Claimed::Turn(turn) = &mut claimed {
            turn.lease.extend(asked + ttl);
        }
        Ok(claimed)
    }

    async fn begin_write(&self, lease: &mut Lease, announced: &UnsettledWrites, ttl: Duration) -> Result<(), Error> {
        let asked = self.clock.elapsed();
        let (lane, held) = (lease.configuration().clone(), (lease.owner().to_owned(), lease.fencing()));
        let seen = |begun: &Result<(), Error>| {
            let Some(intent) = &announced.intent else { return Err(format!("nothing is announced on {lane}")) };
            self.world.log(format_args!("{}: announces {}: {begun:?}", held.0, intent.client_request_id));
            let now = self.world.now();
            if begun.is_ok() { self.checks().announced(&lane, &held, intent, (now, now + ttl)) } else { Ok(()) }
        };
        self.verb("begin write", self.model.begin_write(lease, announced, ttl), seen).await?;
        lease.extend(asked + ttl);
        Ok(())
    }

    async fn settle(&self, lease: Lease, settlement: Settlement) -> Result<Option<Lease>, Error> {
        let asked = self.clock.elapsed();
        let (lane, held) = (lease.configuration().clone(), (lease.owner().to_owned(), lease.fencing()));
        let (told, keep) = (settlement.clone(), settlement.keep);
        let seen = |settled: &Result<Option<Lease>, Error>| {
            let ended: Vec<_> = told.ended.iter().map(|(id, state)| (*id, state.name())).collect();
            let outcome = settled.as_ref().map(|_| ended);
            self.world.log(format_args!("{}: settles {lane} as {}: {outcome:?}", held.0, held.1));
            if settled.is_err() {
                return Ok(());
            }
            self.world.notify_all(&self.life.owner, |board| board.notify_ended(told.ended.iter().map(|(id, _)| *id)));
            self.checks().settled(&lane, &held, &told, self.world.now())
        };
        let mut kept = self.verb("settle", self.model.settle(lease, settlement), seen).await?;
        if let (Some(lease), Some(ttl)) = (&mut kept, keep) {
            lease.extend(asked + ttl);
        }
        Ok(kept)
    }

    async fn park(&self, lease: Lease, parking: Parking) -> Result<(), Error> {
        let (lane, held) = (lease.configuration().clone(), (lease.owner().to_owned(), lease.fencing()));
        let told = parking.clone();
        let seen = |parked: &Result<(), Error>| {
            let ended: Vec<_> = told.ended.iter().map(|(id, state)| (*id, state.name())).collect();
            let (pause, because) = (told.pause, &told.because);
            self.world.log(format_args!("{}: parks {lane} for {pause:?}: {because} {parked:?} {ended:?}", held.0));
            self.world.notify_all(&self.life.owner, |board| board.notify_ended(told.ended.iter().map(|(id, _)| *id)));
            if parked.is_ok() { self.checks().parked(&lane, &held, &told, self.world.now()) } else { Ok(()) }
        };
        self.verb("park", self.model.park(lease, parking), seen).await
    }

    async fn purge(&self, purge: Purge) -> Result<usize, Error> {
        self.read("forget", self.model.purge(purge)).await
    }

    async fn records(&self, query: &AuditQuery) -> Result<Vec<StoredRecord>, Error> {
        self.read("records", self.model.records(query)).await
    }

    async fn claim_sink(&self, claim: SinkClaim) -> Result<Option<i64>, Error> {
        self.verb("follow", self.model.claim_sink(claim), |_| Ok(())).await
    }

    async fn chain_heads(&self) -> Result<Vec<Head>, Error> {
        self.read("ends", self.model.chain_heads()).await
    }

    async fn own_chain_head(&self) -> Result<Option<Head>, Error> {
        self.read("own_end", self.model.own_chain_head()).await
    }

    async fn probe(&self) -> Result<(), Error> {
        self.read("probe", self.model.probe()).await
    }

    fn notices(&self) -> &Notices {
        &self.board
    }

    async fn close(&self) {}
}
