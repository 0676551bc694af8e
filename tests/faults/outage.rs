//! The database loses power in the middle of a story: callers are told to retry, and work resumes by itself.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use postern::clock::Clock;

use crate::{
    Asked, CALLERS,
    gateway::{self, Change, Gateway, Reply},
    plan::{Chance, Cycle, Trouble},
    postgres::Server,
    tenant::{Store, Tenant},
};

/// Far longer than anything takes here.
const PATIENCE: Duration = Duration::from_mins(1);

/// When the power fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    /// While callers submit changes.
    Asking,
    /// While Graph holds a write, which takes effect before power returns.
    Writing,
    /// The same, and the gateway loses power too, as on one machine.
    WritingOnOneMachine,
}

/// A story of power cuts.
struct Story {
    server: Server,
    tenant: Tenant,
    gateway: Gateway,
    asked: Asked,
}

impl Story {
    /// Waits until `/readyz` returns this status; returns its body.
    async fn until_ready_is(&self, status: u16) -> String {
        let clock = Clock::system();
        loop {
            let (now, words) = self.gateway.readiness().await;
            if now == status {
                return words;
            }
            assert!(clock.elapsed() < PATIENCE, "{now}: {words}");
            clock.sleep(Duration::from_millis(10)).await;
        }
    }

    /// Every change submitted meanwhile is answered with 503, and readiness says why.
    async fn is_put_off(&self, changes: &[Change]) {
        let words = self.until_ready_is(503).await;
        assert!(words.starts_with("not ready: the store is unavailable"), "{words}");
        let replies = stream::iter(changes).map(|change| self.gateway.door.submit(change)).buffer_unordered(CALLERS);
        let replies: Vec<_> = replies.collect().await;
        assert!(replies.iter().all(|(_, reply)| *reply == Reply::NotNow), "{replies:?}");
    }

    /// One power cut; `changes` are submitted around it, `later` while it lasts.
    async fn survive(mut self, moment: Moment, changes: &[Change], later: &[Change]) -> Self {
        self.asked.note(changes);
        self.asked.note(later);
        if moment != Moment::Asking {
            self.tenant.order(Trouble::Hold).await;
        }
        let mut replies =
            stream::iter(changes).map(|change| self.gateway.door.submit(change)).buffer_unordered(CALLERS);
        let mut accepted = 0;
        while let Some((key, reply)) = replies.next().await {
            if let Reply::Accepted(operation) = reply {
                self.asked.accepted(key, &operation);
                accepted += 1;
                if moment == Moment::Asking && accepted == changes.len() / 2 {
                    self.server.stop();
                }
            }
        }
        drop(replies);
        if moment == Moment::Asking {
            self.is_put_off(later).await;
        } else {
            self.tenant.until_held().await;
            self.server.stop();
            if moment == Moment::WritingOnOneMachine {
                self.gateway.program.kill();
            } else {
                self.is_put_off(later).await;
            }
            self.tenant.release_held().await;
        }
        self.server.start();
        if moment == Moment::WritingOnOneMachine {
            self.gateway = Gateway::start(&self.tenant).await;
        }
        self.until_ready_is(200).await;
        let repeated: Vec<_> = changes.iter().chain(later).cloned().collect();
        self.asked.brought_to_an_end(&self.gateway.door, &repeated).await;
        self
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_database_that_loses_power_puts_callers_off_and_loses_nothing() {
    let server = Server::begin();
    let tenant = Tenant::start(Store::Postgres(server.database().await)).await;
    let gateway = Gateway::start(&tenant).await;
    let mut story = Story { server, tenant, gateway, asked: Asked::default() };
    let mut chance = Chance::seeded(0);
    let moments = [Moment::Asking, Moment::Writing, Moment::WritingOnOneMachine, Moment::Writing, Moment::Asking];
    for (number, moment) in moments.into_iter().enumerate() {
        let start = story.tenant.assigned().await;
        let mut cycle = Cycle::planned(&mut chance, number, &start);
        let later = cycle.changes.split_off(cycle.changes.len() - 2);
        story = story.survive(moment, &cycle.changes, &later).await;
    }
    let Story { server, tenant, gateway, asked } = story;
    asked.check(&tenant, &gateway.door).await;
    gateway.stop();
    let trail = gateway::verify(&tenant, asked.0.len());
    assert_eq!(trail.chains, 2, "one for each process");
    let read_back = trail.written.iter().filter(|record| record["known_by"] == "read-back").count();
    assert!(read_back >= 3, "{:?}", trail.written);
    drop(server);
}
