//! An owner that is paused in the middle of a turn, and continues after another gateway has done its work.
//!
//! Where it pauses is not left to chance: the sandbox holds the call that it waits for. The narrow race that remains
//! (paused after the last look at the clock, before the bytes leave) cannot be produced from outside.

use serde_json::{Value, json};

use crate::{
    final_checks::{self, Accepted},
    fleet::{Change, Fleet, configuration, group},
};

/// Where the owner is when it is paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// It is reading the present set and has announced nothing.
    Reading,
    /// It has announced its write and needs a new token to send it.
    Announced,
}

impl Place {
    /// Faults that hold an owner there, and no other.
    fn orders(self) -> Vec<Value> {
        let hold = |end: &str| json!({"path_ends": end, "times": 1, "effect": {"kind": "hold"}});
        match self {
            Self::Reading => vec![hold("/assignments")],
            Self::Announced => {
                let refused = json!({"kind": "answer", "status": 401});
                vec![json!({"path_ends": "/assign", "times": 1, "effect": refused}), hold("/token")]
            }
        }
    }
}

async fn accepted(fleet: &Fleet, replica: usize, (key, list, member): (&str, &'static str, usize)) -> Accepted {
    let change = Change { key: key.to_owned(), configuration: configuration(0), list, group: group(member) };
    let operation = Fleet::submit(&fleet.client, &fleet.replicas[replica].url, &fleet.token, &change).await.unwrap();
    Accepted { change, operation, caller: 0 }
}

async fn has_succeeded(fleet: &mut Fleet, operation: &str) {
    let success = (operation.to_owned(), "succeeded".to_owned());
    fleet.until("an operation succeeds", async |fleet| fleet.states().await.contains(&success)).await;
}

/// Pauses an owner there, has others do its work and undo it, and lets it continue.
async fn stop_and_go(place: Place, rounds: usize) {
    let mut fleet = Fleet::start(1).await;
    let start = fleet.assigned().await;
    let mut all = Vec::new();
    for round in 0..rounds {
        // Also fills every gateway's caches, so that only the turn's call is held.
        for (replica, list) in [(0, "add"), (1, "remove"), (2, "add"), (0, "remove")] {
            let known = accepted(&fleet, replica, (&format!("{round}-{replica}-{list}"), list, 0)).await;
            has_succeeded(&mut fleet, &known.operation).await;
            all.push(known);
        }
        for order in place.orders() {
            fleet.fault(order).await;
        }
        let late = accepted(&fleet, round % 3, (&format!("{round}-late"), "add", 1)).await;
        fleet.until("the owner is held", async |fleet| fleet.control("GET", "faults", None).await["held"] == 1).await;
        let owner = fleet.held().await.remove(0).owner;
        let stopped = fleet.place_of(&owner).unwrap();
        fleet.signal(stopped, "STOP");
        has_succeeded(&mut fleet, &late.operation).await;
        all.push(late);
        // If the paused one sends its write now, it undoes this.
        let undone = accepted(&fleet, (stopped + 1) % 3, (&format!("{round}-undo"), "remove", 1)).await;
        has_succeeded(&mut fleet, &undone.operation).await;
        all.push(undone);
        fleet.control("DELETE", "faults", None).await;
        fleet.signal(stopped, "CONT");
        // It notices before anything else is submitted to it.
        tokio::task::block_in_place(|| fleet.replicas[stopped].program.err.until("a lane's turn broke off"));
    }
    final_checks::check(fleet, start, &all).await;
    eprintln!("{place:?}: pauses: {rounds}, operations: {}", all.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn an_owner_stopped_between_its_announcement_and_its_write_sends_nothing_when_it_goes_on() {
    stop_and_go(Place::Announced, 5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn an_owner_stopped_while_it_reads_sends_nothing_when_it_goes_on() {
    stop_and_go(Place::Reading, 2).await;
}
