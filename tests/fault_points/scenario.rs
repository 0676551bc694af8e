//! Lives of a gateway on the same store, one after another, and what is submitted to them.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use futures_util::future::join_all;
use postern::{
    audit::Verifier,
    clock::Clock,
    config::{self, Config},
    domain::{Caller, Change, ConfigurationId, DesiredAssignment, Digest, Role, State, Target},
    executor,
    gateway::{
        self, Gateway, KeyedRequest,
        request::{ChangeRequest, NamedTarget, RequestedChange, TargetRef},
    },
    policy::Policies,
    store::{self, Run, Store},
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Builder;
use tokio_util::sync::CancellationToken;

use crate::{
    plan::{Call, Faults, Plan},
    ports::{Kept, Meanwhile, Reached},
    postgres,
    tenant::Tenant,
};

/// Far longer than anything takes here.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long a lane stays with a dead owner.
const LEASE_TTL: Duration = Duration::from_secs(1);

/// A change to submit: its key, the configuration's number, what to do, and the group's number.
type Ask = (&'static str, u8, &'static str, u8);

/// Submitted first, alone; then somebody else edits, and the rest is submitted at once.
const FIRST: [Ask; 1] = [("a", 1, "add", 1)];
const REST: [Ask; 5] =
    [("b", 1, "add", 2), ("c", 2, "add", 1), ("d", 1, "remove", 1), ("e", 1, "add", 3), ("f", 2, "add", 4)];
/// The group that somebody else adds to the first configuration.
const EDIT: u8 = 9;

fn configuration(number: u8) -> ConfigurationId {
    format!("a0000000-0000-4000-8000-0000000000{number:02}_Windows10EnrollmentCompletionPageConfiguration")
        .parse()
        .unwrap()
}

fn group(number: u8) -> String {
    format!("b0000000-0000-4000-8000-0000000000{number:02}")
}

fn request(configuration: String, add: Vec<NamedTarget>, remove: Vec<NamedTarget>) -> ChangeRequest {
    ChangeRequest {
        configuration,
        change: RequestedChange::Amend { add, remove },
        ticket: Some("RITM0000001".to_owned()),
        requested_for: None,
        comment: None,
        only_on: None,
        until: None,
        callback: None,
    }
}

fn attempt(key: &str) -> KeyedRequest {
    KeyedRequest { key: key.to_owned(), fingerprint: Digest::of(key.as_bytes()) }
}

/// The kind of store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disk {
    Sqlite,
    Postgres,
}

/// One gateway after another, on one store and one tenant.
pub(crate) struct Scenario {
    config: Config,
    tenant: Arc<Tenant>,
    /// The operations accepted so far, by key.
    accepted: Mutex<BTreeMap<&'static str, String>>,
    edited: Mutex<bool>,
    _folder: TempDir,
}

impl Scenario {
    pub(crate) fn begin(disk: Disk, plan: Plan) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = match disk {
            Disk::Sqlite => format!("sqlite:{}", folder.path().join("postern.db").display()),
            Disk::Postgres => {
                let runtime = Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(postgres::shared().database())
            }
        };
        let nobody = "http://127.0.0.1:9";
        let variables = [("STORE__URL", url.as_str()), ("GRAPH__ENDPOINT", nobody), ("GRAPH__AUTHORITY", nobody)];
        let variables = variables.map(|(name, value)| (format!("POSTERN__{name}"), value.to_owned()));
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/sandbox.toml");
        let config = config::load(Some(&file), variables.into_iter()).unwrap();
        let tenant = Arc::new(Tenant::default());
        // So that there is something to park for.
        *tenant.busy.lock().unwrap() = if plan.call == Call::Park { plan.nth + plan.times } else { 0 };
        Self { config, tenant, accepted: Mutex::default(), edited: Mutex::default(), _folder: folder }
    }

    /// Runs until all is done or the plan stops it; then drops everything of this life as it is. Returns whether all is
    /// done.
    pub(crate) fn live(&self, faults: &Arc<Faults>) -> bool {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let done = runtime.block_on(async {
            tokio::select! {
                () = faults.stopped.notified() => false,
                () = self.run_to_end(faults) => true,
            }
        });
        runtime.shutdown_timeout(PATIENCE);
        done
    }

    async fn run_to_end(&self, faults: &Arc<Faults>) {
        let clock = Clock::system();
        let run = Run { chain: clock.new_id().to_string(), clock };
        let owner = run.chain.clone();
        let store: Arc<dyn Store> = Arc::new(Kept {
            store: opened(&self.config.store, run).await,
            faults: Arc::clone(faults),
            meanwhile: Meanwhile::default(),
        });
        let upstream = Arc::new(Reached { tenant: Arc::clone(&self.tenant), faults: Arc::clone(faults) });
        let executor = executor::Dependencies {
            store: Arc::clone(&store),
            upstream: Arc::<Reached>::clone(&upstream),
            clock,
            settings: config::Executor {
                lease_ttl: LEASE_TTL,
                sweep_interval: Duration::from_millis(50),
                ..self.config.executor.clone()
            },
            owner,
        };
        let working = CancellationToken::new();
        let working_until_told = tokio::spawn(executor::run(executor, working.clone()));
        let gateway = Gateway::new(gateway::Dependencies {
            store: Arc::clone(&store),
            upstream,
            policies: Policies::load(&self.config.policy.dir).unwrap(),
            catalogue: self.config.catalogue.clone(),
            callback_rules: gateway::CallbackRules::default(),
            settings: self.config.operations.clone(),
            names_ttl: self.config.graph.names_ttl,
            denied_per_minute: 1_000,
            clock,
            stopping: CancellationToken::new(),
        });
        self.asked(&gateway, &FIRST).await;
        if !std::mem::replace(&mut *self.edited.lock().unwrap(), true) {
            let target = Target::Group(group(EDIT).parse().unwrap());
            let change = Change::amend(vec![DesiredAssignment { target, filter: None }], vec![], 1).unwrap();
            self.tenant.edited(&configuration(1), &change);
        }
        self.asked(&gateway, &REST).await;
        // An unknown name makes the gateway look up whether its key was used before; so every scenario makes that call.
        let in_vain = request("nothing".to_owned(), vec![], vec![]);
        assert!(
            gateway.submit(&caller(), in_vain, Some(attempt("g"))).await.is_err(),
            "there is no such configuration"
        );
        working.cancel();
        working_until_told.await.unwrap();
        store.close().await;
    }

    /// Submits these changes all at once, retrying until they are accepted, and waits for their ends.
    async fn asked(&self, gateway: &Gateway, asks: &[Ask]) {
        join_all(asks.iter().map(|ask| self.brought_to_an_end(gateway, *ask))).await;
    }

    async fn brought_to_an_end(&self, gateway: &Gateway, (key, number, list, member): Ask) {
        let clock = Clock::system();
        let named = vec![NamedTarget { target: TargetRef::Group(group(member)), filter: None }];
        let (add, remove) = if list == "add" { (named, vec![]) } else { (vec![], named) };
        loop {
            assert!(clock.elapsed() < PATIENCE, "{key} does not end");
            let request = request(configuration(number).to_string(), add.clone(), remove.clone());
            let Ok(submitted) = gateway.submit(&caller(), request, Some(attempt(key))).await else {
                clock.sleep(Duration::from_millis(10)).await;
                continue;
            };
            let id = submitted.operation.id.to_string();
            let known = self.accepted.lock().unwrap().insert(key, id.clone());
            assert!(known.is_none_or(|known| known == id), "a repeated key is the first operation");
            let standing = gateway.wait(submitted.operation, Duration::from_secs(5)).await;
            match standing.operation.state {
                State::Succeeded(_) => return,
                State::AwaitingApproval | State::Queued | State::Running { .. } => {}
                state @ (State::Failed { .. } | State::Cancelled { .. }) => {
                    panic!("{key} should have succeeded: {state:?}")
                }
            }
        }
    }

    /// What must hold at the end.
    pub(crate) fn check(&self) {
        let targets = |number| self.tenant.targets(&configuration(number));
        let wanted = |groups: &[u8]| {
            let target = |number: &u8| Target::Group(group(*number).parse().unwrap()).to_string();
            groups.iter().map(target).collect()
        };
        assert_eq!((targets(1), targets(2)), (wanted(&[2, 3, EDIT]), wanted(&[1, 4])), "the set is the fold");
        assert_eq!(self.tenant.idle_writes(), Vec::<String>::new(), "no write is done twice");
        let records = Builder::new_current_thread().enable_all().build().unwrap().block_on(self.trail());
        for event in ["accepted", "settled"] {
            let of_event = records.iter().filter(|record| record["event"] == event);
            let mut operations: Vec<_> = of_event.map(|it| it["operation"].as_str().unwrap().to_owned()).collect();
            operations.sort_unstable();
            let mut accepted: Vec<_> = self.accepted.lock().unwrap().values().cloned().collect();
            accepted.sort_unstable();
            assert_eq!(operations, accepted, "each operation is {event} once");
        }
        assert!(records.iter().any(|record| record["event"] == "drift-seen"));
    }

    /// The verified trail.
    async fn trail(&self) -> Vec<Value> {
        let page = store::Trail::open(&self.config.store).await.unwrap().page(None, 10_000).await.unwrap();
        let mut verifier = Verifier::default();
        page.records.iter().for_each(|record| verifier.feed(record).unwrap());
        page.records.iter().map(|record| serde_json::from_str(record).unwrap()).collect()
    }
}

/// Opens the store as soon as the previous life has let go of it.
async fn opened(settings: &config::Store, run: Run) -> Arc<dyn Store> {
    let clock = Clock::system();
    loop {
        match store::open(settings, run.clone()).await {
            Ok(store) => return store,
            Err(error) => assert!(clock.elapsed() < PATIENCE, "{error}"),
        }
        clock.sleep(Duration::from_millis(10)).await;
    }
}

fn caller() -> Caller {
    Caller {
        name: "servicenow".to_owned(),
        issuer: "sandbox".to_owned(),
        subject: "s".to_owned(),
        token_id: None,
        certificate: None,
        roles: vec![Role::new("Assignments.Change")],
    }
}

/// How often the plan struck.
pub(crate) fn strikes(faults: &Faults) -> usize {
    faults.struck.load(Ordering::SeqCst)
}
