//! A rolling restart of all three gateways under load, behind a balancer that behaves like Kubernetes.
//!
//! The balancer opens each new connection to a gateway that is ready, and leaves existing connections alone. Callers
//! reuse their connections and never retry: a call that is refused, reset or answered by anything but its operation
//! fails the test.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use postern::clock::Clock;
use reqwest::Client;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use crate::{
    final_checks::{self, Accepted},
    fleet::{Change, Fleet, GROUPS, Replica, configuration, group, sent},
};

const CALLERS: usize = 6;
const CONFIGURATIONS: usize = 10;
/// The drain delay is many times the balancer's probe interval; the budgets are large enough that nobody waits for them.
const SETTINGS: [(&str, &str); 3] = [
    ("POSTERN__SERVER__DRAIN_DELAY", "3s"),
    ("POSTERN__GRAPH__WRITES_MAX", "1000"),
    ("POSTERN__GRAPH__CALLS_MAX", "10000"),
];
/// Calls of each caller that are answered between one step of the restart and the next.
const CALLS_BETWEEN: usize = 5;

/// A gateway as the balancer sees it.
struct Member {
    api: SocketAddr,
    admin: String,
    ready: bool,
}

/// The proxy between callers and gateways.
struct Balancer {
    members: Mutex<Vec<Member>>,
    connections: AtomicUsize,
}

impl Balancer {
    /// Starts one; returns its address.
    async fn start(client: Client) -> (Arc<Self>, SocketAddr) {
        let balancer = Arc::new(Self { members: Mutex::default(), connections: AtomicUsize::new(0) });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(Arc::clone(&balancer).look(client));
        tokio::spawn(Arc::clone(&balancer).accept(listener));
        (balancer, address)
    }

    fn add(&self, replica: &Replica) {
        let api = replica.url.trim_start_matches("http://").parse().unwrap();
        self.members.lock().unwrap().push(Member { api, admin: replica.admin.clone(), ready: false });
    }

    fn remove(&self, replica: &Replica) {
        self.members.lock().unwrap().retain(|member| member.admin != replica.admin);
    }

    fn is_ready(&self, replica: &Replica) -> bool {
        self.members.lock().unwrap().iter().any(|member| member.admin == replica.admin && member.ready)
    }

    /// Probes repeatedly which gateways are ready.
    #[expect(clippy::infinite_loop, reason = "it ends with the test's runtime")]
    async fn look(self: Arc<Self>, client: Client) {
        loop {
            let all: Vec<_> = self.members.lock().unwrap().iter().map(|member| member.admin.clone()).collect();
            for admin in all {
                let answer = sent(client.get(format!("{admin}/readyz"))).await;
                let ready = answer.is_ok_and(|answer| answer.status() == 200);
                let mut members = self.members.lock().unwrap();
                members.iter_mut().filter(|member| member.admin == admin).for_each(|member| member.ready = ready);
            }
            Clock::system().sleep(Duration::from_millis(20)).await;
        }
    }

    async fn accept(self: Arc<Self>, listener: TcpListener) {
        while let Ok((mut near, _)) = listener.accept().await {
            let number = self.connections.fetch_add(1, Ordering::SeqCst);
            let chosen = {
                let members = self.members.lock().unwrap();
                let ready: Vec<_> = members.iter().filter(|member| member.ready).map(|member| member.api).collect();
                ready.get(number % ready.len().max(1)).copied()
            };
            // If there is none, or it refuses, the caller's connection is closed, and its call fails.
            let Some(api) = chosen else { continue };
            tokio::spawn(async move {
                let Ok(mut far) = TcpStream::connect(api).await else { return };
                // A broken connection is for the caller to report.
                drop(tokio::io::copy_bidirectional(&mut near, &mut far).await);
            });
        }
    }
}

/// State shared by the callers.
struct Callers {
    url: String,
    token: String,
    done: AtomicBool,
    answered: [AtomicUsize; CALLERS],
    accepted: Mutex<Vec<Accepted>>,
    failed: Mutex<Vec<String>>,
}

impl Callers {
    /// Submits one change after another until told to stop.
    async fn ask(&self, caller: usize) {
        let client = Client::builder().no_proxy().timeout(Duration::from_mins(1)).build().unwrap();
        for number in 0.. {
            if self.done.load(Ordering::SeqCst) {
                return;
            }
            let chosen = |stride: usize, bound: usize| (number * stride + caller * 7) % bound;
            let change = Change {
                key: format!("caller-{caller}-change-{number}"),
                configuration: configuration(chosen(5, CONFIGURATIONS)),
                list: if chosen(3, 5) < 3 { "add" } else { "remove" },
                group: group(chosen(11, GROUPS)),
            };
            // Some wait for the end, some do not; the first caller pauses longer between calls.
            let prefer = if caller.is_multiple_of(2) { "wait=25" } else { "respond-async" };
            match self.once(&client, &change, prefer).await {
                Ok(operation) => self.accepted.lock().unwrap().push(Accepted { change, operation, caller }),
                Err(why) => self.failed.lock().unwrap().push(format!("{}: {why}", change.key)),
            }
            self.answered[caller].fetch_add(1, Ordering::SeqCst);
            let pause = if caller == 0 { 400 } else { 10 };
            Clock::system().sleep(Duration::from_millis(pause)).await;
        }
    }

    async fn once(&self, client: &Client, change: &Change, prefer: &str) -> Result<String, String> {
        let body = json!({"configuration": change.configuration, change.list: [{"group": change.group}],
            "ticket": change.key});
        let asked = client.post(format!("{}/v1/assignments", self.url)).bearer_auth(&self.token).json(&body);
        let answer = sent(asked.header("prefer", prefer)).await.map_err(|error| format!("{error:?}"))?;
        let status = answer.status();
        let text = answer.text().await.map_err(|error| format!("{error:?}"))?;
        let operation: Value = serde_json::from_str(&text).unwrap_or_default();
        let id = operation["id"].as_str().filter(|_| [200, 202].contains(&status.as_u16()));
        id.map(str::to_owned).ok_or_else(|| format!("{status}: {text}"))
    }

    /// Waits until each caller has had further responses.
    async fn go_on(&self, fleet: &mut Fleet) {
        let before: Vec<_> = self.answered.iter().map(|count| count.load(Ordering::SeqCst)).collect();
        let more = |(count, before): (&AtomicUsize, &usize)| count.load(Ordering::SeqCst) >= before + CALLS_BETWEEN;
        fleet.until("every caller is answered", async |_| self.answered.iter().zip(&before).all(more)).await;
    }
}

/// Starts a new gateway, then stops an old one, as a rollout does.
async fn replace(fleet: &mut Fleet, balancer: &Balancer, place: usize) {
    let new = fleet.replica().await;
    balancer.add(&new);
    fleet.until("the new one is ready", async |_| balancer.is_ready(&new)).await;
    let old = std::mem::replace(&mut fleet.replicas[place], new);
    old.program.terminate();
    fleet.until("the old one is not ready", async |_| !balancer.is_ready(&old)).await;
    let ended = tokio::task::block_in_place(|| {
        balancer.remove(&old);
        old.program.ended()
    });
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert!(!ended.err.contains("the deadline cuts off"), "{}", ended.err);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_rolling_restart_fails_no_call_and_loses_no_change() {
    let mut fleet = Fleet::start_with(CONFIGURATIONS, &SETTINGS).await;
    let start = fleet.assigned().await;
    // Slow enough that callers are waiting whenever a gateway stops.
    fleet.fault(json!({"path_ends": "/assign", "effect": {"kind": "slow", "millis": 60}})).await;
    let (balancer, address) = Balancer::start(fleet.client.clone()).await;
    fleet.replicas.iter().for_each(|replica| balancer.add(replica));
    fleet.until("all are ready", async |fleet| fleet.replicas.iter().all(|one| balancer.is_ready(one))).await;
    let callers = Arc::new(Callers {
        url: format!("http://{address}"),
        token: fleet.token.clone(),
        done: AtomicBool::new(false),
        answered: Default::default(),
        accepted: Mutex::default(),
        failed: Mutex::default(),
    });
    let asking = (0..CALLERS).map(|caller| {
        let callers = Arc::clone(&callers);
        tokio::spawn(async move { callers.ask(caller).await })
    });
    let asking: Vec<_> = asking.collect();
    for place in 0..3 {
        callers.go_on(&mut fleet).await;
        replace(&mut fleet, &balancer, place).await;
    }
    callers.go_on(&mut fleet).await;
    callers.done.store(true, Ordering::SeqCst);
    for asked in join_all(asking).await {
        asked.unwrap();
    }
    let failed = std::mem::take(&mut *callers.failed.lock().unwrap());
    assert!(failed.is_empty(), "{} calls failed:\n{}", failed.len(), failed.join("\n"));
    let accepted = std::mem::take(&mut *callers.accepted.lock().unwrap());
    let connections = balancer.connections.load(Ordering::SeqCst);
    assert!(connections * 2 < accepted.len(), "connections are kept: {connections} for {} calls", accepted.len());
    final_checks::check(fleet, start, &accepted).await;
    eprintln!("calls: {}, connections: {connections}", accepted.len());
}
