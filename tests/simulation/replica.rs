//! Replicas: real gateways and executors, through many lives.

use std::sync::Arc;

use postern::{
    clock::Clock,
    config,
    executor::{self, Executor},
    gateway::{self, Gateway},
    policy::Policies,
    store::{Notices, Run},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    faulty_store::FaultyStore,
    model_store::Database,
    tenant::{FaultyUpstream, Tenant},
    world::{ReplicaLife, RunningReplica, World},
};

/// The parts of a replica.
#[derive(Clone)]
pub(crate) struct Replica {
    pub(crate) world: Arc<World>,
    pub(crate) database: Arc<Database>,
    pub(crate) tenant: Arc<Tenant>,
    pub(crate) policies: Policies,
    pub(crate) place: usize,
}

impl Replica {
    /// Starts, dies or stops, and restarts, until the run is over.
    pub(crate) async fn run(self) {
        let world = Arc::clone(&self.world);
        world.pause(0, 2_000).await;
        while !world.over.is_cancelled() {
            self.live().await;
            self.world.pause(100, 20_000).await;
        }
    }

    async fn live(&self) {
        let Self { world, database, tenant, policies, place } = self;
        let clock = self.clock();
        let chain = clock.new_id().to_string();
        let owner = format!("{}-{chain}", self.place);
        let life = Arc::new(ReplicaLife::new(owner.clone()));
        let board = Arc::new(Notices::default());
        let model = database.open(Run { chain, clock });
        let store =
            FaultyStore { world: Arc::clone(world), model, board: Arc::clone(&board), life: Arc::clone(&life), clock };
        let (store, upstream) =
            (Arc::new(store), Arc::new(FaultyUpstream { tenant: Arc::clone(tenant), life: Arc::clone(&life), clock }));
        let (stopping, working) = (CancellationToken::new(), CancellationToken::new());
        let executor = Executor::new(executor::Dependencies {
            store: Arc::<FaultyStore>::clone(&store),
            upstream: Arc::<FaultyUpstream>::clone(&upstream),
            clock,
            settings: world.parameters.settings.clone(),
            owner,
        });
        let mut executor = tokio::spawn(executor.run(working.clone()));
        let gateway = Arc::new(Gateway::new(gateway::Dependencies {
            store,
            upstream,
            policies: policies.clone(),
            catalogue: config::Catalogue::default(),
            callback_rules: gateway::CallbackRules::default(),
            settings: operations(world.parameters.pending_max),
            names_ttl: std::time::Duration::from_hours(24),
            denied_per_minute: 1_000,
            clock,
            stopping: stopping.clone(),
        }));
        let (keeper, told) = (Arc::clone(&gateway), stopping.clone());
        let keeper = AbortOnDropHandle::new(tokio::spawn(async move { keeper.run_until_sweep(told).await }));
        world.log(format_args!("{} starts", life.owner));
        let replica = RunningReplica { life: Arc::clone(&life), gateway, board };
        world.replicas.lock().unwrap()[*place] = Some(Arc::new(replica));
        let stop = tokio::select! {
            biased;
            () = life.dead.cancelled() => false,
            () = self.told_to_stop() => true,
        };
        world.replicas.lock().unwrap()[*place] = None;
        if stop {
            world.log(format_args!("{} stops", life.owner));
            stopping.cancel();
            working.cancel();
        }
        tokio::select! {
            biased;
            () = life.dead.cancelled() => {
                executor.abort();
                drop(executor.await);
            }
            ended = &mut executor => world.judge(ended.map_err(|error| format!("an executor ended badly: {error}"))),
        }
        drop(keeper);
        life.dead.cancel();
    }

    /// The replica's own clock, whose time of day may be wrong.
    fn clock(&self) -> Clock {
        let mut chance = self.world.chance();
        let wrong = jiff::SignedDuration::from_millis(i64::try_from(chance.below(1_200_000)).unwrap() - 600_000);
        Clock::simulated(self.world.clock.now() + wrong, chance.draw())
    }

    async fn told_to_stop(&self) {
        let world = &self.world;
        let Some(stop) = world.next_stop() else { return world.over.cancelled().await };
        tokio::select! {
            biased;
            () = world.over.cancelled() => {}
            () = world.clock.sleep(stop) => world.count("stops"),
        }
    }
}

fn operations(pending_max: usize) -> config::Operations {
    config::Operations {
        wait_default: std::time::Duration::from_secs(10),
        wait_max: std::time::Duration::from_mins(1),
        idempotency_ttl: std::time::Duration::from_hours(24 * 7),
        approval_ttl: std::time::Duration::from_hours(24 * 3),
        retention: std::time::Duration::from_hours(24 * 90),
        pending_max,
        pending_per_configuration_max: pending_max,
        targets_max: 50,
    }
}
