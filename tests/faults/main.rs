//! What survives `kill -9`: the real binary on its SQLite store, killed at planned moments and started again.
//!
//! Promise 1 of the design: every change that was answered 2xx ends, whatever happens to the process. Each seed is one
//! test and one story of several deaths; a failure names its seed, which tells the whole plan.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::arithmetic_side_effects,
    reason = "a test that cannot go on ends"
)]

mod gateway;
mod plan;
#[path = "../support/program.rs"]
mod program;
mod tenant;

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{StreamExt, stream};
use gateway::{Gateway, Key};
use plan::{Chance, Cycle, Kill, Trouble};
use tenant::Tenant;

/// Changes under way at once.
const CALLERS: usize = 4;

/// Deaths in one story.
const DEATHS: usize = 3;

/// One story: changes, deaths, and what must be true at the end.
struct Story {
    tenant: Tenant,
    gateway: Gateway,
    /// Every change ever asked, by its key, and its operation once it is known.
    asked: BTreeMap<Key, Option<String>>,
    /// Deaths while a write waited for Graph; the next run must find its effect by reading back.
    killed_while_held: usize,
}

impl Story {
    async fn begin() -> Self {
        let tenant = Tenant::start().await;
        let gateway = Gateway::start(&tenant).await;
        Self { tenant, gateway, asked: BTreeMap::new(), killed_while_held: 0 }
    }

    /// Sends changes until the planned moment, kills the gateway, starts it again, and repeats what was not answered.
    async fn cycle(&mut self, cycle: Cycle) {
        let Cycle { trouble, kill, changes } = cycle;
        self.tenant.order(trouble).await;
        self.asked.extend(changes.iter().map(|change| (change.key.clone(), None)));
        let gateway = &mut self.gateway;
        let (client, url) = (gateway.client.clone(), gateway.url.clone());
        let token = &gateway.token;
        let mut answers = stream::iter(&changes)
            .map(|change| gateway::submit(&client, &url, token, change))
            .buffer_unordered(CALLERS);
        let mut answered = 0;
        while let Some((key, operation)) = answers.next().await {
            let Some(operation) = operation else { continue };
            answered += 1;
            self.asked.insert(key, Some(operation));
            if kill == Kill::AfterAnswers(answered) {
                gateway.program.kill();
            }
        }
        drop(answers);
        if kill == Kill::WhileHeld {
            self.tenant.until_held().await;
            self.killed_while_held += 1;
        }
        gateway.program.kill();
        // A write that was under way takes effect before the next run reads: the race that remains is not tried here.
        if trouble == Trouble::Hold {
            self.tenant.release_held().await;
        }
        self.gateway.restart(&self.tenant).await;
        for change in &changes {
            let (key, operation) =
                gateway::submit(&self.gateway.client, &self.gateway.url, &self.gateway.token, change).await;
            let Some(operation) = operation else { panic!("a running gateway answers, also to {key:?}") };
            let known = self.asked.insert(key, Some(operation.clone())).flatten();
            assert!(known.is_none_or(|known| known == operation), "a repeated key is the first operation");
        }
        self.tenant.clear().await;
        for operation in self.asked.values().flatten() {
            self.gateway.success_of(operation).await;
        }
    }

    /// What the tenant must hold: the accepted changes, in the order of their acceptance, over the start.
    async fn check(self) {
        let operations = self.gateway.operations().await;
        let ids: BTreeSet<_> =
            operations.iter().map(|operation| operation["id"].as_str().unwrap().to_owned()).collect();
        let answered: BTreeSet<_> = self.asked.values().flatten().cloned().collect();
        assert_eq!((operations.len(), &ids), (self.asked.len(), &answered), "one operation for each key, no more");
        assert!(operations.iter().all(|operation| operation["state"] == "succeeded"));
        assert_eq!(self.tenant.assigned().await, self.tenant.folded(&operations), "the set is the fold");
        self.tenant.no_call_was_wrong().await;

        self.gateway.program.terminate();
        let (code, folder) = self.gateway.ended();
        assert_eq!(code, Some(0));
        let written = gateway::verify(&folder, operations.len());
        let read_back = written.iter().filter(|record| record["known_by"] == "read-back").count();
        assert!(read_back >= self.killed_while_held, "{written:?}");
    }
}

/// Tells one story.
async fn live_through(seed: u64) {
    let mut chance = Chance::seeded(seed);
    let mut story = Story::begin().await;
    for number in 0..DEATHS {
        let start = story.tenant.assigned().await;
        story.cycle(Cycle::planned(&mut chance, number, &start)).await;
    }
    story.check().await;
}

/// One test for each seed.
macro_rules! seeds {
    ($($name:ident: $seed:literal)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                live_through($seed).await;
            }
        )*
    };
}

seeds! {
    nothing_is_lost_or_doubled_by_kills_of_seed_1: 1
    nothing_is_lost_or_doubled_by_kills_of_seed_2: 2
    nothing_is_lost_or_doubled_by_kills_of_seed_3: 3
    nothing_is_lost_or_doubled_by_kills_of_seed_4: 4
    nothing_is_lost_or_doubled_by_kills_of_seed_5: 5
    nothing_is_lost_or_doubled_by_kills_of_seed_6: 6
    nothing_is_lost_or_doubled_by_kills_of_seed_7: 7
    nothing_is_lost_or_doubled_by_kills_of_seed_8: 8
    nothing_is_lost_or_doubled_by_kills_of_seed_9: 9
    nothing_is_lost_or_doubled_by_kills_of_seed_10: 10
}
