//! Callers submit to all three gateways, while owners of lanes are killed, and paused past their leases.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use postern::clock::Clock;
use serde_json::json;

use crate::{
    final_checks::{self, Accepted},
    fleet::{Change, Fleet, GROUPS, Held, PATIENCE, configuration, group},
};

const CALLERS: usize = 6;
/// How long the sandbox takes for a write, which it journals afterwards.
const WRITE_TAKES: Duration = Duration::from_millis(120);
/// A write that was sent has reached the sandbox by then. One that has not may still do so: then its owner is let go on.
const ARRIVES_WITHIN: Duration = WRITE_TAKES.saturating_mul(5);
/// Between two polls.
const PAUSE: Duration = Duration::from_millis(20);

/// What happens to an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blow {
    /// Killed, and another gateway started in its place.
    Kill,
    /// Paused until another has taken over, then continued.
    Pause,
}

/// State shared by the callers.
struct Callers {
    configurations: usize,
    /// The gateways' current URLs.
    urls: Mutex<Vec<String>>,
    done: AtomicBool,
    asked: AtomicUsize,
    accepted: Mutex<Vec<Accepted>>,
}

impl Callers {
    /// Submits one change after another until told to stop, each to one gateway after another until it is accepted.
    async fn ask(&self, caller: usize, client: &reqwest::Client, token: &str) {
        let clock = Clock::system();
        for number in 0.. {
            if self.done.load(Ordering::SeqCst) {
                return;
            }
            let chosen = |stride: usize, bound: usize| (number * stride + caller * 7) % bound;
            let change = Change {
                key: format!("caller-{caller}-change-{number}"),
                configuration: configuration(chosen(5, self.configurations)),
                list: if chosen(3, 5) < 3 { "add" } else { "remove" },
                group: group(chosen(11, GROUPS)),
            };
            for attempt in 0.. {
                assert!(clock.elapsed() < 3 * PATIENCE, "nobody accepts {change:?}");
                let url = {
                    let urls = self.urls.lock().unwrap();
                    urls[(caller + number + attempt) % urls.len()].clone()
                };
                self.asked.fetch_add(1, Ordering::SeqCst);
                if let Some(operation) = Fleet::submit(client, &url, token, &change).await {
                    self.accepted.lock().unwrap().push(Accepted { change, operation, caller });
                    break;
                }
                clock.sleep(PAUSE).await;
            }
            // A gateway merges what it gets at once; this test wants several turns.
            clock.sleep(Duration::from_millis(40)).await;
        }
    }
}

/// Waits until somebody owns a lane.
async fn an_owner(fleet: &mut Fleet, turn: usize) -> Held {
    let mut found = None;
    fleet
        .until("somebody owns a lane", async |fleet| {
            let held = fleet.held().await;
            let place = turn % held.len().max(1);
            found = held.into_iter().nth(place).filter(|held| fleet.place_of(&held.owner).is_some());
            found.is_some()
        })
        .await;
    found.unwrap()
}

async fn kill(fleet: &mut Fleet, callers: &Callers, turn: usize) {
    let held = an_owner(fleet, turn).await;
    let place = fleet.place_of(&held.owner).unwrap();
    fleet.replicas[place].program.kill();
    fleet.replicas[place] = fleet.replica().await;
    callers.urls.lock().unwrap()[place].clone_from(&fleet.replicas[place].url);
}

/// Whether a paused owner has announced a write that has not reached Graph. It may be past its last look at the clock,
/// and only Graph could then keep it from writing late; `pauses` tests those that still look.
async fn is_about_to_write(fleet: &mut Fleet, held: &Held) -> bool {
    let Some(id) = fleet.announced(&held.configuration).await else { return false };
    let clock = Clock::system();
    while clock.elapsed() < ARRIVES_WITHIN {
        if fleet.journal().await.iter().any(|call| call["client-request-id"] == id) {
            return false;
        }
        clock.sleep(PAUSE).await;
    }
    true
}

/// Pauses an owner in the middle of a turn until another gateway has taken over the lane.
async fn pause(fleet: &mut Fleet, turn: usize) {
    loop {
        let held = an_owner(fleet, turn).await;
        let place = fleet.place_of(&held.owner).unwrap();
        fleet.signal(place, "STOP");
        // Its turn may have ended before the signal arrived.
        if !fleet.held().await.contains(&held) || is_about_to_write(fleet, &held).await {
            fleet.signal(place, "CONT");
            continue;
        }
        fleet.until("another takes over", async |fleet| fleet.fencing(&held.configuration).await > held.fencing).await;
        fleet.signal(place, "CONT");
        return;
    }
}

async fn storm(configurations: usize, blows: &[Blow]) {
    let mut fleet = Fleet::start(configurations).await;
    let start = fleet.assigned().await;
    // Slow enough that owners are caught in the middle of a turn.
    fleet.fault(json!({"path_ends": "/assign", "effect": {"kind": "slow", "millis": WRITE_TAKES.as_millis()}})).await;
    let callers = Arc::new(Callers {
        configurations,
        urls: Mutex::new(fleet.replicas.iter().map(|replica| replica.url.clone()).collect()),
        done: AtomicBool::new(false),
        asked: AtomicUsize::new(0),
        accepted: Mutex::default(),
    });
    let asking = (0..CALLERS).map(|caller| {
        let (callers, client, token) = (Arc::clone(&callers), fleet.client.clone(), fleet.token.clone());
        tokio::spawn(async move { callers.ask(caller, &client, &token).await })
    });
    let asking: Vec<_> = asking.collect();
    for (turn, blow) in blows.iter().enumerate() {
        match blow {
            Blow::Kill => kill(&mut fleet, &callers, turn).await,
            Blow::Pause => pause(&mut fleet, turn).await,
        }
    }
    callers.done.store(true, Ordering::SeqCst);
    for asked in join_all(asking).await {
        asked.unwrap();
    }
    let accepted = std::mem::take(&mut *callers.accepted.lock().unwrap());
    let (requests, kills) =
        (callers.asked.load(Ordering::SeqCst), blows.iter().filter(|it| **it == Blow::Kill).count());
    final_checks::check(fleet, start, &accepted).await;
    let (operations, pauses) = (accepted.len(), blows.len() - kills);
    eprintln!(
        "configurations: {configurations}, kills: {kills}, pauses: {pauses}, operations: {operations}, requests: {requests}"
    );
}

const BLOWS: [Blow; 6] = [Blow::Kill, Blow::Pause, Blow::Pause, Blow::Kill, Blow::Pause, Blow::Kill];

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn nothing_is_lost_on_one_configuration_while_owners_are_killed_and_paused() {
    storm(1, &BLOWS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn nothing_is_lost_on_fifty_configurations_while_owners_are_killed_and_paused() {
    storm(50, &BLOWS).await;
}
