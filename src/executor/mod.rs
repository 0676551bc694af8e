//! Carries pending changes to Graph: which configurations have work, and how many are worked on at once.
//!
//! Woken by the store's notices and by its own sweep, it gives each configuration with pending operations a turn
//! (`lane`): one at a time per configuration, at most `lanes_max` in all, first come first served. A lane that another
//! replica holds is tried twice a second until it is free.
//!
//! Guarantees: an operation whose notice was lost is found by the sweep; a lane that panics takes no other with it and is
//! free again when its lease expires; an executor that panics is replaced. After [`Executor::run`] has returned, no write
//! is in flight.
//!
//! It deliberately keeps no work list of its own: what is pending is in the store and nowhere else.

mod batch;
mod lag;
mod lane;
mod obstacles;
mod outcome;
mod policy_sets;

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use self::{
    lane::{Lane, TurnOutcome},
    obstacles::Obstacles,
};
use crate::{
    clock::Clock,
    config,
    domain::ConfigurationId,
    graph::Upstream,
    store::{self, Store},
    telemetry,
};

/// The most lanes that one sweep takes up; the next sweep takes the next ones.
const SWEEP_MAX: usize = 1000;

/// The parts that the executor works with.
#[derive(Clone, Debug)]
pub struct Dependencies {
    /// Where pending operations are stored.
    pub store: Arc<dyn Store>,
    /// Where changes are carried to.
    pub upstream: Arc<dyn Upstream>,
    /// The time.
    pub clock: Clock,
    /// Limits.
    pub settings: config::Executor,
    /// The name of this replica in leases and in the audit trail.
    pub owner: String,
}

/// How long notices are not taken after some were: in a burst, callers wake the executor this often at most.
const DEAF: Duration = Duration::from_millis(5);
/// How long a lane that another replica holds is left alone. Each claim takes some of the store writer's time, and in a
/// burst there would be one every few milliseconds. The holder receives notices of new work as well and goes on until
/// nothing is pending, so trying again is only needed in case it stops before.
const LEFT_ALONE: Duration = Duration::from_millis(500);
/// How soon an executor that panicked is replaced.
const FOLLOWS_AFTER: Duration = Duration::from_secs(1);

/// Runs an executor until `stop`. If it panics, which is a bug of ours, another replaces it; the turns in flight are
/// dropped, and their lanes are free again when their leases expire.
pub async fn run(parts: Dependencies, stop: CancellationToken) {
    loop {
        let executor = Executor::new(parts.clone());
        match AbortOnDropHandle::new(tokio::spawn(executor.run(stop.clone()))).await {
            Err(error) if error.is_panic() => {
                telemetry::count_broken_turn();
                tracing::error!(%error, "the executor panicked; another one replaces it");
                parts.clock.sleep(FOLLOWS_AFTER).await;
            }
            Ok(()) | Err(_) => return,
        }
    }
}

/// How a lane's turn ended.
type TurnResult = Result<TurnOutcome, store::Error>;

/// The executor of one gateway process.
#[derive(Debug)]
pub struct Executor {
    parts: Dependencies,
    lanes: JoinSet<TurnResult>,
    running: HashMap<Id, ConfigurationId>,
    queue: Queue,
    /// Lanes that other replicas hold, and when to try them again.
    elsewhere: HashMap<ConfigurationId, Duration>,
    obstacles: Arc<Obstacles>,
}

/// Configurations waiting for a turn, each once, first come first served.
#[derive(Debug, Default)]
struct Queue {
    order: VecDeque<ConfigurationId>,
    members: HashSet<ConfigurationId>,
}

impl Queue {
    fn push(&mut self, configuration: ConfigurationId) {
        if self.members.insert(configuration.clone()) {
            self.order.push_back(configuration);
        }
    }

    /// The first that is not running; running ones keep their place.
    fn pop(&mut self, running: &HashMap<Id, ConfigurationId>) -> Option<ConfigurationId> {
        let place = self.order.iter().position(|waiting| !running.values().any(|runs| runs == waiting))?;
        let next = self.order.remove(place)?;
        self.members.remove(&next);
        Some(next)
    }

    fn remove(&mut self, configuration: &ConfigurationId) {
        if self.members.remove(configuration) {
            self.order.retain(|waiting| waiting != configuration);
        }
    }
}

impl Executor {
    /// An executor with these parts, not yet running.
    pub fn new(parts: Dependencies) -> Self {
        let (running, queue, elsewhere, obstacles) = Default::default();
        Self { parts, lanes: JoinSet::new(), running, queue, elsewhere, obstacles }
    }

    /// Works until `stop`; then starts nothing more, lets the turns in flight end, and returns.
    pub async fn run(mut self, stop: CancellationToken) {
        let parts = self.parts.clone();
        // A point in time, not a pause: a steady stream of notices must not put off the sweep for ever.
        let mut next_sweep = parts.clock.elapsed();
        let mut deaf_until = next_sweep;
        loop {
            self.start_lanes();
            // Biased, so that a run can be repeated. The sweep is due only once per interval; then ended lanes make room;
            // notices can wait longest, since the sweep finds the same work.
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = parts.clock.sleep(next_sweep.saturating_sub(parts.clock.elapsed())) => {
                    self.sweep().await;
                    next_sweep = parts.clock.elapsed().saturating_add(parts.settings.sweep_interval);
                }
                Some(ended) = self.lanes.join_next_with_id() => self.ended(ended),
                noticed = noticed(&parts, deaf_until) => {
                    for configuration in noticed {
                        self.attend(configuration);
                    }
                    deaf_until = parts.clock.elapsed().saturating_add(DEAF);
                }
            }
        }
        while let Some(ended) = self.lanes.join_next_with_id().await {
            self.ended(ended);
        }
    }

    /// Queues a lane that may have work, unless it is being left alone: then a notice follows when that is over.
    fn attend(&mut self, configuration: ConfigurationId) {
        let now = self.parts.clock.elapsed();
        if self.elsewhere.get(&configuration).is_none_or(|until| *until <= now) {
            self.elsewhere.remove(&configuration);
            self.queue.push(configuration);
        }
    }

    /// Looks for pending work on free lanes, without a notice.
    async fn sweep(&mut self) {
        match self.parts.store.open_lanes(SWEEP_MAX).await {
            Ok(found) => found.into_iter().for_each(|configuration| self.queue.push(configuration)),
            Err(error) => tracing::error!(%error, "cannot look for pending operations"),
        }
    }

    fn start_lanes(&mut self) {
        while self.lanes.len() < self.parts.settings.lanes_max
            && let Some(configuration) = self.queue.pop(&self.running)
        {
            let lane = Lane::new(self.parts.clone(), configuration.clone(), Arc::clone(&self.obstacles));
            let started = self.lanes.spawn(lane.turn());
            self.running.insert(started.id(), configuration);
        }
        telemetry::set_lanes(self.lanes.len());
    }

    fn ended(&mut self, ended: Result<(Id, TurnResult), JoinError>) {
        let id = ended.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        let Some(configuration) = self.running.remove(&id) else { return };
        // What was noted before that turn is outdated.
        self.elsewhere.remove(&configuration);
        match ended {
            Ok((_, Ok(TurnOutcome::Idle))) => {}
            Ok((_, Ok(TurnOutcome::Again))) => self.queue.push(configuration),
            Ok((_, Ok(TurnOutcome::Parked(pause)))) => self.wake_after(configuration, pause),
            Ok((_, Ok(TurnOutcome::Elsewhere))) => {
                // A notice may have queued it again in the meantime.
                self.queue.remove(&configuration);
                let until = self.parts.clock.elapsed().saturating_add(LEFT_ALONE);
                self.elsewhere.insert(configuration.clone(), until);
                self.wake_after(configuration, LEFT_ALONE);
            }
            // The sweep comes back to it; an immediate retry would be a hot loop against a failing store.
            Ok((_, Err(error))) => {
                telemetry::count_broken_turn();
                tracing::error!(%error, configuration.id = %configuration, "a lane's turn broke off");
            }
            Err(error) => {
                telemetry::count_broken_turn();
                tracing::error!(%error, configuration.id = %configuration, "a lane's turn panicked");
            }
        }
    }

    /// Issues a notice for a lane when a pause is over, so that it need not wait for a sweep.
    fn wake_after(&self, configuration: ConfigurationId, pause: Duration) {
        let Dependencies { store, clock, .. } = self.parts.clone();
        tokio::spawn(async move {
            clock.sleep(pause).await;
            store.notices().notify_work(configuration);
        });
    }
}

/// The lanes that may have work; not before `deaf_until`.
async fn noticed(Dependencies { store, clock, .. }: &Dependencies, deaf_until: Duration) -> BTreeSet<ConfigurationId> {
    if let Some(pause) = deaf_until.checked_sub(clock.elapsed()) {
        clock.sleep(pause).await;
    }
    store.notices().wait_for_work().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queue_is_fair_and_holds_each_configuration_once() {
        let id = |number: u8| -> ConfigurationId {
            format!("9f1c6a4e-8a77-4b8e-9d6e-3a54b2f1c0{number:02}_Limit").parse().unwrap()
        };
        let mut queue = Queue::default();
        for number in [3, 1, 3, 2, 1] {
            queue.push(id(number));
        }
        let nothing = HashMap::new();
        queue.remove(&id(3));
        queue.remove(&id(4));
        queue.push(id(3));
        assert_eq!(std::iter::from_fn(|| queue.pop(&nothing)).collect::<Vec<_>>(), [id(1), id(2), id(3)]);
    }
}
