//! A store, a scripted Graph, and an executor between them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use postern::{
    audit::{Actor, Entry, Event, RecordedChange},
    clock::Clock,
    config,
    domain::{
        Change, ConfigurationId, DesiredAssignment, Digest, Operation, OperationId, State, Target,
        operation::Submission,
    },
    executor::{Dependencies, Executor},
    store::{Acceptance, Accepted, Claim, PendingLimits, Run, Sqlite, Store, Turn},
};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{model_store::Database, upstream::Tenant};

/// Longer than anything takes here.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct World {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) tenant: Arc<Tenant>,
    pub(crate) clock: Clock,
    pub(crate) settings: config::Executor,
    _folder: Option<TempDir>,
}

pub(crate) struct Running {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    pub(crate) fn tell_to_stop(&self) {
        self.stop.cancel();
    }

    pub(crate) async fn ended(self) {
        tokio::time::timeout(PATIENCE, self.task).await.unwrap().unwrap();
    }
}

fn settings() -> config::Executor {
    config::Executor {
        lanes_max: 8,
        batch_max: 500,
        lease_ttl: Duration::from_mins(1),
        sweep_interval: Duration::from_millis(100),
        deadline: Duration::from_hours(24),
    }
}

pub(crate) fn lane(number: u8) -> ConfigurationId {
    format!("9f1c6a4e-8a77-4b8e-9d6e-3a54b2f1c0{number:02}_Limit").parse().unwrap()
}

pub(crate) fn group(number: u128) -> Target {
    Target::Group(Uuid::from_u128(number).to_string().parse().unwrap())
}

pub(crate) fn id(number: u128) -> OperationId {
    OperationId::from(Uuid::from_u128(number))
}

#[track_caller]
pub(crate) fn has_succeeded(state: &State) {
    assert!(matches!(state, State::Succeeded(_)), "{state:?}");
}

impl World {
    pub(crate) async fn with(tenant: Tenant) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::system();
        let run = Run { chain: "run".to_owned(), clock };
        let store = Sqlite::open(&folder.path().join("postern.db"), run).await.unwrap();
        Self { store: Arc::new(store), tenant: Arc::new(tenant), clock, settings: settings(), _folder: Some(folder) }
    }

    /// On the model store, in the runtime's virtual time.
    pub(crate) fn simulated(tenant: Tenant) -> Self {
        Self::beside_database(tenant).0
    }

    pub(crate) fn beside_database(tenant: Tenant) -> (Self, Arc<Database>) {
        let clock = Clock::simulated("2026-03-01T08:00:00Z".parse().unwrap(), 1);
        let database = Database::new(clock);
        let store = database.open(Run { chain: "run".to_owned(), clock });
        let (store, tenant) = (Arc::new(store), Arc::new(tenant));
        (Self { store, tenant, clock, settings: settings(), _folder: None }, database)
    }

    /// Another replica claims the first lane for this long.
    pub(crate) async fn taken_by_another(&self, ttl: Duration) -> Turn {
        let claim = Claim {
            configuration: lane(1),
            owner: "another replica".to_owned(),
            at: self.clock.now(),
            ttl,
            batch_max: 10,
            trace_id: None,
        };
        self.store.claim(claim).await.unwrap().turn().unwrap()
    }

    /// Starts the executor.
    pub(crate) fn run(&self) -> Running {
        let executor = Executor::new(Dependencies {
            store: Arc::clone(&self.store),
            upstream: Arc::<Tenant>::clone(&self.tenant),
            clock: self.clock,
            settings: self.settings.clone(),
            owner: "a replica".to_owned(),
        });
        let stop = CancellationToken::new();
        Running { task: tokio::spawn(executor.run(stop.clone())), stop }
    }

    /// Accepts change `number`, which adds group `number`.
    pub(crate) async fn accept(&self, number: u128, lane: &ConfigurationId) {
        self.accept_at(number, lane, self.clock.now()).await;
    }

    pub(crate) async fn accept_at(&self, number: u128, lane: &ConfigurationId, accepted_at: Timestamp) {
        self.accept_on(number, lane, accepted_at, None).await;
    }

    /// The same, bound to one set if one is given.
    pub(crate) async fn accept_on(
        &self,
        number: u128,
        lane: &ConfigurationId,
        accepted_at: Timestamp,
        only_on: Option<Digest>,
    ) {
        let wanted = vec![DesiredAssignment { target: group(number), filter: None }];
        self.accept_change(number, lane, accepted_at, (Change::amend(wanted, vec![], 1).unwrap(), only_on)).await;
    }

    /// Accepts a change, bound to one set if one is given.
    pub(crate) async fn accept_change(
        &self,
        number: u128,
        lane: &ConfigurationId,
        accepted_at: Timestamp,
        (change, only_on): (Change, Option<Digest>),
    ) {
        let submission = Submission {
            configuration: lane.clone(),
            configuration_name: "Five devices".to_owned(),
            change,
            names: BTreeMap::new(),
            caller: "servicenow".to_owned(),
            ticket: None,
            requested_for: None,
            comment: None,
            accepted_at,
            only_on,
            until: None,
            approval: None,
            callback: None,
            traceparent: None,
        };
        let actor = Actor { caller: None, issuer: "i".to_owned(), subject: "s".to_owned(), token_id: None };
        let event = Event::Accepted {
            operation: id(number),
            actor,
            configuration: lane.to_string(),
            change: RecordedChange::from(&submission.change),
            ticket: None,
            requested_for: None,
            comment: None,
            only_on: None,
            until: None,
            policies: vec![],
            approvals: vec![],
        };
        let entry = Entry { at: self.clock.now(), trace_id: None, event };
        let operation = Operation { id: id(number), submission, state: State::Queued };
        let bounds = PendingLimits { per_configuration: 100, total: 100 };
        let accepted = self
            .store
            .accept(Acceptance {
                operation,
                key: None,
                entry,
                limits: bounds,
                carries_out_until_of: None,
                reverted_since: None,
            })
            .await
            .unwrap();
        assert!(matches!(accepted, Accepted::New));
    }

    pub(crate) async fn state(&self, number: u128) -> State {
        self.store.operation(id(number)).await.unwrap().unwrap().state
    }

    /// The state in which an operation ends.
    pub(crate) async fn end_of(&self, number: u128) -> State {
        let mut end = self.store.notices().subscribe_end(id(number));
        let state = self.state(number).await;
        if state.has_ended() {
            return state;
        }
        let ended = tokio::time::timeout(PATIENCE, end.notified()).await;
        assert!(ended.is_ok(), "operation {number} does not end: it is {:?}", self.state(number).await);
        self.state(number).await
    }

    /// The same, in virtual time, however long it takes.
    pub(crate) async fn late_end_of(&self, number: u128) -> State {
        while !self.state(number).await.has_ended() {
            self.clock.sleep(Duration::from_secs(1)).await;
        }
        self.state(number).await
    }

    /// Polls until the condition holds.
    pub(crate) async fn until(&self, so: impl AsyncFn() -> bool) {
        let looked = async {
            while !so().await {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, looked).await.unwrap();
    }
}
