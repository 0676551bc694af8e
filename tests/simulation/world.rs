//! State shared by all parts of a run: time, chance, faults, and the log.

use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use postern::{clock::Clock, domain::ConfigurationId, gateway::Gateway, store::Notices};
use tokio_util::sync::CancellationToken;

use crate::{
    chance::Chance,
    online_checks::{OnlineChecks, Verdict},
    parameters::{Faults, RunParameters},
};

/// How often each thing happened.
pub(crate) type Counts = BTreeMap<&'static str, u64>;

#[derive(Debug)]
pub(crate) struct World {
    chance: Mutex<Chance>,
    /// The database's time, which only the oracles read.
    pub(crate) clock: Clock,
    pub(crate) parameters: RunParameters,
    pub(crate) lanes: Vec<ConfigurationId>,
    pub(crate) log: Mutex<Log>,
    pub(crate) checks: Mutex<OnlineChecks>,
    pub(crate) replicas: Mutex<Vec<Option<Arc<RunningReplica>>>>,
    /// Orderly shutdowns still to come.
    stops: Mutex<usize>,
    /// Set once nothing goes wrong any more.
    calm: AtomicBool,
    pub(crate) over: CancellationToken,
}

/// Whether the log is printed as it is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Logging {
    #[default]
    Silent,
    Aloud,
}

#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) text: String,
    pub(crate) counts: Counts,
    pub(crate) violations: Vec<String>,
    logging: Logging,
}

/// A running replica.
#[derive(Debug)]
pub(crate) struct RunningReplica {
    pub(crate) life: Arc<ReplicaLife>,
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) board: Arc<Notices>,
}

impl World {
    pub(crate) fn new(chance: Chance, parameters: RunParameters, logging: Logging) -> Self {
        let mut chance = chance;
        let start = "2026-03-01T08:00:00Z".parse().unwrap();
        let clock = Clock::simulated(start, chance.draw());
        let lane = |number| {
            format!("9f1c6a4e-8a77-4b8e-9d6e-3a54b2f1c0{number:02}_Windows10EnrollmentCompletionPageConfiguration")
        };
        let lanes = (1..=parameters.lanes).map(|number| lane(number).parse().unwrap()).collect();
        let replicas = Mutex::new(vec![None; parameters.replicas]);
        Self {
            chance: Mutex::new(chance),
            clock,
            stops: Mutex::new(parameters.stops),
            parameters,
            lanes,
            log: Mutex::new(Log { logging, ..Log::default() }),
            checks: Mutex::default(),
            replicas,
            calm: AtomicBool::new(false),
            over: CancellationToken::new(),
        }
    }

    pub(crate) fn chance(&self) -> MutexGuard<'_, Chance> {
        self.chance.lock().unwrap()
    }

    /// Decides whether this fault occurs now.
    pub(crate) fn fails(&self, name: &'static str, rate: impl Fn(&Faults) -> u64) -> bool {
        let fails = !self.calm.load(Ordering::Relaxed) && self.chance().hits(rate(&self.parameters.faults));
        if fails {
            self.count(name);
            self.count("faults");
        }
        fails
    }

    pub(crate) fn stop_faults(&self) {
        self.calm.store(true, Ordering::Relaxed);
        self.log("from now on nothing goes wrong");
    }

    pub(crate) fn count(&self, name: &'static str) {
        *self.log.lock().unwrap().counts.entry(name).or_default() += 1;
    }

    #[expect(clippy::print_stdout, reason = "a replay tells what happens")]
    pub(crate) fn log(&self, what: impl std::fmt::Display) {
        let mut log = self.log.lock().unwrap();
        let line = format!("{:>12.6} {what}", self.clock.elapsed().as_secs_f64());
        if log.logging == Logging::Aloud {
            println!("{line}");
        }
        writeln!(log.text, "{line}").unwrap();
    }

    /// Records an oracle's verdict.
    pub(crate) fn judge(&self, verdict: Verdict) {
        if let Err(why) = verdict {
            self.log(format_args!("VIOLATION: {why}"));
            self.log.lock().unwrap().violations.push(why);
        }
    }

    pub(crate) fn now(&self) -> Duration {
        self.clock.elapsed()
    }

    /// Sleeps for a random number of milliseconds in this range.
    pub(crate) async fn pause(&self, least: u64, most: u64) {
        let pause = self.chance().millis(least, most);
        self.clock.sleep(pause).await;
    }

    /// When a replica that starts now is to shut down, if at all.
    pub(crate) fn next_stop(&self) -> Option<Duration> {
        let mut left = self.stops.lock().unwrap();
        *left = left.checked_sub(1)?;
        Some(self.chance().millis(1_000, 200_000))
    }

    /// A random running replica, if there is one.
    pub(crate) fn any_replica(&self) -> Option<Arc<RunningReplica>> {
        let replicas: Vec<_> = self.replicas.lock().unwrap().iter().flatten().cloned().collect();
        if replicas.is_empty() { None } else { Some(self.chance().pick(&replicas)) }
    }

    /// Notifies all replicas; some miss it.
    pub(crate) fn notify_all(&self, own: &str, tell: impl Fn(&Notices)) {
        let replicas: Vec<_> = self.replicas.lock().unwrap().iter().flatten().cloned().collect();
        for replica in replicas {
            if replica.life.owner == own || !self.fails("notices lost", |faults| faults.notice_lost) {
                tell(&replica.board);
            }
        }
    }
}

/// One life of a replica, from start to shutdown or death.
#[derive(Debug)]
pub(crate) struct ReplicaLife {
    pub(crate) owner: String,
    pub(crate) dead: CancellationToken,
    frozen_until: Mutex<Duration>,
}

impl ReplicaLife {
    pub(crate) fn new(owner: String) -> Self {
        Self { owner, dead: CancellationToken::new(), frozen_until: Mutex::default() }
    }

    /// Waits out a freeze; never returns if the process is dead.
    pub(crate) async fn pass(&self, world: &World) {
        loop {
            if self.dead.is_cancelled() {
                std::future::pending::<()>().await;
            }
            let left = self.frozen_until.lock().unwrap().saturating_sub(world.now());
            if left.is_zero() {
                return;
            }
            world.clock.sleep(left).await;
        }
    }

    pub(crate) fn freeze(&self, world: &World) {
        let pause = world.chance().millis(1_000, 200_000);
        world.log(format_args!("{} is frozen for {pause:?}", self.owner));
        world.count("freezes");
        let mut until = self.frozen_until.lock().unwrap();
        *until = (*until).max(world.now() + pause);
    }

    pub(crate) fn kill(&self, world: &World) {
        world.log(format_args!("{} is killed", self.owner));
        world.count("kills");
        self.dead.cancel();
    }

    /// A point where the process may die or freeze.
    pub(crate) async fn step(&self, world: &World) {
        if world.fails("kills at a call", |faults| faults.kill_at_call) {
            self.kill(world);
        }
        if world.fails("freezes at a call", |faults| faults.freeze_at_call) {
            self.freeze(world);
        }
        self.pass(world).await;
    }
}
