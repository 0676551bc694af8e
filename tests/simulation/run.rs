//! One run, from seed to final checks.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use postern::{
    domain::{Digest, operation::UntilState},
    policy::Policies,
    store::Run,
};
use tokio::task::JoinSet;

use crate::{
    PANICS, SEED,
    actors::{self, Wanted},
    chance::Chance,
    final_checks::Evidence,
    model_store::Database,
    parameters::RunParameters,
    reference_merge,
    replica::Replica,
    tenant::{By, Tenant, Version},
    world::{Counts, Logging, World},
};

/// Time within which everything must end once nothing goes wrong any more.
const LONG: Duration = Duration::from_hours(4);

/// The result of a run.
#[derive(Debug)]
pub(crate) struct SimulationRun {
    pub(crate) counts: Counts,
    pub(crate) violations: Vec<String>,
    /// Digest of the log of everything that happened.
    pub(crate) digest: Digest,
}

impl SimulationRun {
    pub(crate) fn of(seed: u64, policies: &Policies, logging: Logging) -> Self {
        SEED.store(seed, Ordering::Relaxed);
        let panics = PANICS.load(Ordering::Relaxed);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let mut run = runtime.block_on(live_through(seed, policies.clone(), logging));
        if PANICS.load(Ordering::Relaxed) > panics {
            run.violations.push("something panicked".to_owned());
        }
        run
    }
}

async fn live_through(seed: u64, policies: Policies, logging: Logging) -> SimulationRun {
    let mut chance = Chance::seeded(seed);
    let parameters = RunParameters::drawn(&mut chance);
    let world = Arc::new(World::new(chance, parameters, logging));
    world.log(format_args!("{:?}", world.parameters));
    let database = Database::new(world.clock);
    let first = |_: &_| Version { set: reference_merge::set(&actors::first_set(&mut world.chance())), by: By::Start };
    let sets: BTreeMap<_, _> = world.lanes.iter().map(|lane| (lane.clone(), vec![first(lane)])).collect();
    let tenant = Arc::new(Tenant { world: Arc::clone(&world), sets: Mutex::new(sets), under_way: Arc::default() });
    let mut replicas = JoinSet::new();
    for place in 0..world.parameters.replicas {
        let (world, database, tenant) = (Arc::clone(&world), Arc::clone(&database), Arc::clone(&tenant));
        replicas.spawn(Replica { world, database, tenant, policies: policies.clone(), place }.run());
    }
    let mut people = JoinSet::new();
    for number in 0..world.parameters.changes {
        people.spawn(Wanted { number, world: Arc::clone(&world), tenant: Arc::clone(&tenant) }.pursue());
    }
    people.spawn(actors::administrate(Arc::clone(&world), Arc::clone(&tenant)));
    people.spawn(actors::crash_replicas(Arc::clone(&world)));
    world.clock.sleep(world.parameters.span + Duration::from_secs(30)).await;
    world.stop_faults();
    let ended = async {
        while people.join_next().await.is_some() {}
        // Lets calls in flight arrive.
        while !all_ended(&world) || Arc::strong_count(&tenant.under_way) > 1 {
            world.clock.sleep(Duration::from_secs(1)).await;
        }
    };
    if tokio::time::timeout(LONG, ended).await.is_err() {
        world.judge(Err("it does not come to an end".to_owned()));
    }
    world.over.cancel();
    let stopped = async { while replicas.join_next().await.is_some() {} };
    if tokio::time::timeout(LONG, stopped).await.is_err() {
        world.judge(Err("the replicas do not stop".to_owned()));
    }
    let store = database.open(Run { chain: "auditor".to_owned(), clock: world.clock });
    Evidence { world: &world, tenant: &tenant, store: &store }.examine().await;
    let log = std::mem::take(&mut *world.log.lock().unwrap());
    SimulationRun { counts: log.counts, violations: log.violations, digest: Digest::of(log.text.as_bytes()) }
}

fn all_ended(world: &World) -> bool {
    let checks = world.checks.lock().unwrap();
    let ahead = checks.untils.values().any(|until| *until == UntilState::Ahead);
    checks.accepted.len() == checks.ended.len() && !ahead
}
