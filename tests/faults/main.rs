//! What survives `kill -9` and a database that loses power: the real binary on both kinds of store.
//!
//! Tests promise 1 of the design: every change that was answered with 2xx ends, whatever happens to the process. Each
//! seed is one story with several kills, on SQLite and on PostgreSQL; a failure names its seed, which determines the
//! whole plan. `POSTERN_FAULTS_SEEDS=100..400 cargo test --test faults` runs other seeds than the default.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::arithmetic_side_effects,
    reason = "a test that cannot go on ends"
)]

mod gateway;
mod outage;
mod plan;
#[path = "../support/postgres.rs"]
mod postgres;
#[path = "../support/program.rs"]
mod program;
mod seeds;
mod tenant;

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{StreamExt, stream};
use gateway::{Change, Door, Gateway, Key, Reply};
use plan::{Chance, Cycle, Kill, Trouble};
use seeds::Tally;
use tenant::{Store, Tenant};

/// Requests in flight at once.
const CALLERS: usize = 4;

/// Kills per story, not counting processes killed while starting.
const DEATHS: usize = 3;

/// Every change submitted so far, by key, with its operation once known.
#[derive(Default)]
struct Asked(BTreeMap<Key, Option<String>>);

impl Asked {
    fn note(&mut self, changes: &[Change]) {
        self.0.extend(changes.iter().map(|change| (change.key.clone(), None)));
    }

    fn accepted(&mut self, key: Key, operation: &str) {
        let known = self.0.insert(key, Some(operation.to_owned())).flatten();
        assert!(known.is_none_or(|known| known == operation), "a repeated key is the first operation");
    }

    /// Retries changes until they are accepted, and waits for the end of every change ever submitted.
    async fn brought_to_an_end(&mut self, door: &Door, changes: &[Change]) {
        for change in changes {
            let (key, reply) = door.submit(change).await;
            let Reply::Accepted(operation) = reply else { panic!("{key:?}: a running gateway accepts, not {reply:?}") };
            self.accepted(key, &operation);
        }
        for operation in self.0.values().flatten() {
            door.success_of(operation).await;
        }
    }

    /// Checks the final state: one operation per key, all succeeded, and the tenant's set is the initial one with the
    /// operations applied in order of acceptance.
    async fn check(&self, tenant: &Tenant, door: &Door) {
        let operations = door.operations().await;
        let ids: BTreeSet<_> =
            operations.iter().map(|operation| operation["id"].as_str().unwrap().to_owned()).collect();
        let answered: BTreeSet<_> = self.0.values().flatten().cloned().collect();
        assert_eq!((operations.len(), &ids), (self.0.len(), &answered), "one operation for each key, no more");
        assert!(operations.iter().all(|operation| operation["state"] == "succeeded"));
        assert_eq!(tenant.assigned().await, tenant.folded(&operations), "the set is the fold");
        tenant.no_call_was_wrong().await;
    }
}

/// One story: changes, kills, and the final check.
struct Story {
    tenant: Tenant,
    gateway: Gateway,
    asked: Asked,
    /// Kills while Graph held a write; the next process must find its effect by reading back.
    killed_while_held: usize,
    stillborn: usize,
}

impl Story {
    async fn begin(store: Store) -> Self {
        let tenant = Tenant::start(store).await;
        let gateway = Gateway::start(&tenant).await;
        Self { tenant, gateway, asked: Asked::default(), killed_while_held: 0, stillborn: 0 }
    }

    /// Submits changes until the planned moment, kills the gateway, restarts it, and retries what was not answered.
    async fn cycle(mut self, cycle: Cycle) -> Self {
        let Cycle { trouble, kill, changes, stillborn } = cycle;
        self.tenant.order(trouble).await;
        self.asked.note(&changes);
        let door = self.gateway.door.clone();
        let mut gateway = if let Kill::AtWords(words, times) = kill {
            let (killed, ()) =
                tokio::join!(self.gateway.killed_at(words, times), ask(&mut self.asked, &door, &changes, |_| ()));
            killed
        } else {
            let mut program = self.gateway.program;
            let at = |answered| {
                if kill == Kill::AfterAnswers(answered) {
                    program.kill();
                }
            };
            ask(&mut self.asked, &door, &changes, at).await;
            Gateway { program, ..self.gateway }
        };
        if kill == Kill::WhileHeld {
            self.tenant.until_held().await;
            self.killed_while_held += 1;
        }
        gateway.program.kill();
        // A write in flight takes effect before the next process reads: the race that remains is not tested here.
        if trouble == Trouble::Hold {
            self.tenant.release_held().await;
        }
        for lines in &stillborn {
            gateway::stillborn(&self.tenant, *lines);
        }
        self.stillborn += stillborn.len();
        let gateway = Gateway::start(&self.tenant).await;
        self.tenant.clear().await;
        self.asked.brought_to_an_end(&gateway.door, &changes).await;
        Self { gateway, ..self }
    }

    async fn check(self) -> Tally {
        self.asked.check(&self.tenant, &self.gateway.door).await;
        self.gateway.stop();
        let operations = self.asked.0.len();
        let trail = gateway::verify(&self.tenant, operations);
        let lives = DEATHS + 1;
        assert!((lives..=lives + self.stillborn).contains(&trail.chains), "{} chains", trail.chains);
        let read_back = trail.written.iter().filter(|record| record["known_by"] == "read-back").count();
        assert!(read_back >= self.killed_while_held, "{:?}", trail.written);
        Tally { stories: 1, kills: DEATHS + self.stillborn, operations, read_back }
    }
}

/// Submits changes, several at a time; calls back after each acceptance with the number accepted so far.
async fn ask(asked: &mut Asked, door: &Door, changes: &[Change], mut accepted: impl FnMut(usize)) {
    let mut replies = stream::iter(changes).map(|change| door.submit(change)).buffer_unordered(CALLERS);
    let mut count = 0;
    while let Some((key, reply)) = replies.next().await {
        if let Reply::Accepted(operation) = reply {
            count += 1;
            asked.accepted(key, &operation);
            accepted(count);
        }
    }
}

/// Runs one story.
async fn live_through(seed: u64, kept_in: Store) -> Tally {
    let mut chance = Chance::seeded(seed);
    let mut story = Story::begin(kept_in).await;
    for number in 0..DEATHS {
        let start = story.tenant.assigned().await;
        story = story.cycle(Cycle::planned(&mut chance, number, &start)).await;
    }
    story.check().await
}

#[test]
fn nothing_is_lost_or_doubled_by_kills_on_sqlite() {
    seeds::all(1..15, |seed| live_through(seed, Store::Sqlite));
}

#[test]
fn nothing_is_lost_or_doubled_by_kills_on_postgres() {
    seeds::all(1..11, async |seed| live_through(seed, Store::Postgres(postgres::shared().database().await)).await);
}
