//! The cases, and their output.

use std::{process::Stdio, time::Duration};

use jiff::ToSpan;
use postern::clock::Clock;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    drive::{Mode, Pace, Plan, drive},
    environment::{self, CONFIGURATIONS, Gateway, Place, Sandbox, Upstream, folder, postern},
    haproxy::HaProxy,
    issuer::Issuer,
    process,
    rows::{Extent, Measured, Row, ask_gateway, median, micros, planned, share_at_once},
    seeded_store::{self, Records},
    server,
};

pub(crate) fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(work)
}

/// Operations removed by retention during the measurement.
const RETAINED: u64 = 200_000;

fn days_ago(days: i64) -> jiff::Timestamp {
    Clock::system().now() - (24 * days).hours()
}

/// CPU time so far of all PostgreSQL server processes.
fn server_cpu() -> Duration {
    process::cpu_of_all("postgres")
}

pub(crate) fn cost(extent: Extent) {
    block_on(async {
        let (issuer, sandbox) = (Issuer::start(), Sandbox::start(Upstream::LikeGraph, CONFIGURATIONS).await);
        let folder = folder();
        let (mut gateway, _) = Gateway::start(&Place::new(&issuer, &sandbox, folder.path())).await;
        let peer = HaProxy::start(&issuer, folder.path()).await;
        let mut beside = [
            Row::new("HAProxy, 32 connections", Mode::Async, Pace::Closed, 32),
            Row::new("HAProxy, 1,000/s", Mode::Async, Pace::Rate(1_000), 32),
        ];
        let mut ours = [
            Row::new("Postern, respond-async, 32 connections", Mode::Async, Pace::Closed, 32),
            Row::new("Postern, respond-async, 1,000/s", Mode::Async, Pace::Rate(1_000), 32),
            Row::new("Postern, waiting, 500/s", Mode::Waiting, Pace::Rate(500), 3_000),
        ];
        if peer.is_none() {
            println!("HAProxy is not installed (Debian: apt-get install haproxy), so there is nothing to compare with");
        }
        let rounds = if extent == Extent::Whole { 3 } else { 1 };
        // Fills the name cache and opens connections.
        let warm = Plan { changes: 400, ..planned(&ours[0], &gateway.url, &issuer, extent) };
        drive(&warm).await.all_accepted();
        gateway.until_ended(400).await;
        for round in 0..=rounds {
            let count = round == rounds;
            for row in beside.iter_mut().filter(|_| !count) {
                let Some(peer) = &peer else { continue };
                let plan = planned(row, &peer.url, &issuer, extent);
                let before = peer.process.cpu();
                let driven = drive(&plan).await;
                driven.all_accepted();
                row.note(&driven, micros(peer.process.cpu().saturating_sub(before), plan.changes));
            }
            for row in &mut ours {
                let plan = planned(row, &gateway.url, &issuer, extent);
                ask_gateway(row, &plan, &mut gateway, &sandbox, if count { Measured::Flushes } else { Measured::Cost })
                    .await;
            }
        }
        if peer.is_some() {
            beside.iter().for_each(Row::print);
        }
        ours.iter().for_each(Row::print);
        let (now, most) = gateway.process.memory();
        println!("memory of the gateway afterwards {now:.1} MiB, at most {most:.1} MiB");
        if let Some(peer) = peer {
            peer.stop().await;
        }
        gateway.process.stop();
        issuer.stop().await;
    });
}

pub(crate) fn start(_extent: Extent) {
    block_on(async {
        let (issuer, sandbox) = (Issuer::start(), Sandbox::start(Upstream::Unbounded, CONFIGURATIONS).await);
        let (mut fresh, mut again, mut idle) = (vec![], vec![], vec![]);
        for _ in 0..11 {
            let folder = folder();
            let place = Place::new(&issuer, &sandbox, folder.path());
            for times in [&mut fresh, &mut again] {
                let (mut gateway, took) = Gateway::start(&place).await;
                times.push(took.as_secs_f64() * 1_000.0);
                idle.push(gateway.process.memory().0);
                gateway.process.stop();
            }
        }
        println!("ready {:.0} ms after the start with no store yet, {:.0} ms with one", median(fresh), median(again));
        println!("memory then {:.1} MiB", median(idle));
        issuer.stop().await;
    });
}

/// Gateway, callers and sandbox share all cores.
pub(crate) fn latency(_extent: Extent) {
    process::use_all_cores();
    block_on(async {
        quiet().await;
        busy().await;
    });
    process::stay_off_the_measured_core();
}

/// With changes only, on an empty store.
async fn quiet() {
    let (issuer, sandbox) = (Issuer::start(), Sandbox::start(Upstream::LikeGraph, CONFIGURATIONS).await);
    sandbox.process.use_all_cores();
    let folder = folder();
    let place = Place { cores: process::all_cores(), ..Place::new(&issuer, &sandbox, folder.path()) };
    let (mut gateway, _) = Gateway::start(&place).await;
    let mut row = Row::new("nothing but changes, 1,000/s", Mode::Async, Pace::Rate(1_000), 32);
    let plan = planned(&row, &gateway.url, &issuer, Extent::Whole);
    drive(&Plan { changes: 400, ..plan.clone() }).await.all_accepted();
    gateway.until_ended(400).await;
    for _ in 0..5 {
        ask_gateway(&mut row, &plan, &mut gateway, &sandbox, Measured::Cost).await;
    }
    row.print();
    gateway.process.stop();
    issuer.stop().await;
}

/// While retention removes old operations, and the trail is delivered and exported.
async fn busy() {
    let (issuer, sandbox) = (Issuer::start(), Sandbox::start(Upstream::LikeGraph, CONFIGURATIONS).await);
    sandbox.process.use_all_cores();
    let folder = folder();
    // They ended longer ago than the retention period, so they are removed while callers send.
    seeded_store::store(&folder.path().join("postern.db"), days_ago(100), RETAINED, Records::Two).await;
    let settings = "[audit]\nsinks = [\"file\"]\nfile = \"audit.jsonl\"\nformat = \"ocsf\"\n";
    let cores = process::all_cores();
    let place = Place { cores, settings, ..Place::new(&issuer, &sandbox, folder.path()) };
    let (mut gateway, _) = Gateway::start(&place).await;
    let row = Row::new("", Mode::Async, Pace::Rate(1_000), 32);
    let plan = Plan { changes: 30_000, ..planned(&row, &gateway.url, &issuer, Extent::Whole) };
    let warm = Plan { changes: 400, ..plan.clone() };
    drive(&warm).await.all_accepted();
    let exporting = Exporting::start(&gateway);
    let answered = gateway.answered().await;
    let driven = drive(&plan).await;
    let exported = exporting.stop().await;
    driven.all_accepted();
    gateway.until_ended(400 + plan.changes as usize).await;
    let [p50, p90, p99, p999, most] = [0.5, 0.9, 0.99, 0.999, 1.0].map(|part| driven.percentile(part));
    let at_once = share_at_once(answered, gateway.answered().await);
    println!("{at_once:.4} of answers within 5 ms by its own clock; waits by its callers':");
    println!("p50 {p50:.2} ms, p90 {p90:.2} ms, p99 {p99:.2} ms, p99.9 {p999:.2} ms, longest {most:.2} ms");
    println!("meanwhile {exported} exports of the whole trail, and delivery to a file in OCSF");
    gateway.process.stop();
    issuer.stop().await;
}

/// Exports the whole trail repeatedly, as a security officer's job would, until stopped.
struct Exporting {
    over: CancellationToken,
    exports: JoinHandle<u32>,
}

impl Exporting {
    fn start(gateway: &Gateway) -> Self {
        let over = CancellationToken::new();
        let (folder, settings, stop) = (gateway.folder.clone(), gateway.settings.clone(), over.clone());
        let exports = tokio::task::spawn_blocking(move || {
            let mut exports = 0;
            while !stop.is_cancelled() {
                let mut export = postern(&folder, &["audit", "export", "--config", &settings]);
                assert!(export.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success());
                exports += 1;
            }
            exports
        });
        Self { over, exports }
    }

    async fn stop(self) -> u32 {
        self.over.cancel();
        self.exports.await.unwrap()
    }
}

pub(crate) fn burst(_extent: Extent) {
    const CHANGES: u64 = 10_000;
    block_on(async {
        let issuer = Issuer::start();
        for configurations in [1, 10, 50] {
            let sandbox = Sandbox::start(Upstream::LikeGraph, CONFIGURATIONS).await;
            let folder = folder();
            let (mut gateway, _) = Gateway::start(&Place::new(&issuer, &sandbox, folder.path())).await;
            let row = Row::new("", Mode::Async, Pace::Closed, 64);
            let plan = Plan { changes: CHANGES, configurations, ..planned(&row, &gateway.url, &issuer, Extent::Whole) };
            let clock = Clock::system();
            let driven = drive(&plan).await;
            driven.all_accepted();
            gateway.until_ended(CHANGES as usize).await;
            let drained = clock.elapsed().as_secs_f64();
            let calls = sandbox.calls().await;
            // One read and one write per change, as each caller's own script would do, at the rate that Graph allows.
            let one_by_one = CHANGES as f64 / environment::WRITES_A_SECOND;
            println!(
                "{configurations:>2} configurations: accepted within {:.1} s, all ended after {drained:.1} s; {} calls to Graph: {} reads, \
                 {} writes, {} look-ups of groups, {} refused; one by one at least {one_by_one:.0} s, {:.0} times as long",
                driven.took.as_secs_f64(),
                calls.all,
                calls.reads,
                calls.writes,
                calls.groups,
                calls.refused,
                one_by_one / drained,
            );
            gateway.process.stop();
        }
        issuer.stop().await;
    });
}

/// The same on an empty store and on one with a history.
pub(crate) fn full(_extent: Extent) {
    const OPERATIONS: u64 = 1_000_000;
    block_on(async {
        let (issuer, sandbox) = (Issuer::start(), Sandbox::start(Upstream::LikeGraph, CONFIGURATIONS).await);
        let (empty, full) = (folder(), folder());
        let clock = Clock::system();
        seeded_store::store(&full.path().join("postern.db"), days_ago(10), OPERATIONS, Records::Three).await;
        println!("{OPERATIONS} operations stored within {:.0} s", clock.elapsed().as_secs_f64());
        let mut rows = [
            Row::new("no past, 1,000/s", Mode::Async, Pace::Rate(1_000), 32),
            Row::new("a million operations, 1,000/s", Mode::Async, Pace::Rate(1_000), 32),
            Row::new("no past, 32 connections", Mode::Async, Pace::Closed, 32),
            Row::new("a million operations, 32 connections", Mode::Async, Pace::Closed, 32),
        ];
        let mut gateways = vec![];
        for folder in [&empty, &full] {
            let (gateway, took) = Gateway::start(&Place::new(&issuer, &sandbox, folder.path())).await;
            println!("ready after {:.0} ms", took.as_secs_f64() * 1_000.0);
            gateways.push(gateway);
        }
        for gateway in &gateways {
            let warm = Plan { changes: 400, ..planned(&rows[0], &gateway.url, &issuer, Extent::Trial) };
            drive(&warm).await.all_accepted();
            gateway.until_ended(400).await;
        }
        for _ in 0..3 {
            for (place, row) in rows.iter_mut().enumerate() {
                let gateway = &mut gateways[place % 2];
                let plan = planned(row, &gateway.url, &issuer, Extent::Whole);
                ask_gateway(row, &plan, gateway, &sandbox, Measured::Cost).await;
            }
        }
        rows.iter().for_each(Row::print);
        for gateway in &mut gateways {
            let (now, most) = gateway.process.memory();
            println!("memory {now:.1} MiB, at most {most:.1} MiB");
            gateway.process.stop();
        }
        issuer.stop().await;
    });
}

/// As many changes as 150 a second make in an hour, in three minutes.
pub(crate) fn soak(_extent: Extent) {
    const RATE: u32 = 3_000;
    block_on(async {
        let (issuer, sandbox) = (Issuer::start(), Sandbox::start(Upstream::LikeGraph, CONFIGURATIONS).await);
        let folder = folder();
        let (mut gateway, _) = Gateway::start(&Place::new(&issuer, &sandbox, folder.path())).await;
        let row = Row::new("", Mode::Async, Pace::Rate(RATE), 64);
        let plan = Plan { changes: 45_000, ..planned(&row, &gateway.url, &issuer, Extent::Whole) };
        for round in 1..=12 {
            let driven = drive(&plan).await;
            driven.all_accepted();
            let (now, most) = gateway.process.memory();
            println!(
                "after {:>7} changes, {:>4.0}/s: memory {now:.1} MiB, at most {most:.1} MiB; p50 {:.2} ms, p99 {:.2} ms",
                plan.changes * round,
                driven.rate(),
                driven.percentile(0.5),
                driven.percentile(0.99),
            );
        }
        gateway.process.stop();
        issuer.stop().await;
    });
}

/// The rate at which changes were accepted, and the cost of each to gateways and database, in microseconds.
type Round = (f64, [f64; 2]);

/// Gateways, their database, callers and sandbox share all cores.
pub(crate) fn replicas(_extent: Extent) {
    const REPLICAS: usize = 3;
    process::use_all_cores();
    block_on(async {
        let issuer = Issuer::start();
        let mut rounds = [vec![], vec![]];
        for _ in 0..3 {
            for (replicas, rounds) in [1, REPLICAS].into_iter().zip(&mut rounds) {
                // A new sandbox each time: earlier rounds would use up what Graph allows in 20 seconds.
                let (folder, sandbox) = (folder(), Sandbox::start(Upstream::LikeGraph, CONFIGURATIONS).await);
                sandbox.process.use_all_cores();
                let store = server::shared().database().await;
                let mut gateways = vec![];
                for _ in 0..replicas {
                    let (store, cores) = (store.clone(), process::all_cores());
                    let place = Place { store, cores, ..Place::new(&issuer, &sandbox, folder.path()) };
                    gateways.push(Gateway::start(&place).await.0);
                }
                let row = Row::new("", Mode::Async, Pace::Closed, 96);
                let urls = gateways.iter().map(|gateway| gateway.url.clone()).collect();
                let plan = Plan { urls, ..planned(&row, "", &issuer, Extent::Whole) };
                let warm = Plan { changes: 1_200, ..plan.clone() };
                drive(&warm).await.all_accepted();
                let cpu = || gateways.iter().map(|gateway| gateway.process.cpu()).sum::<Duration>();
                let (before, database) = (cpu(), server_cpu());
                let driven = drive(&plan).await;
                driven.all_accepted();
                let spent = [cpu().saturating_sub(before), server_cpu().saturating_sub(database)];
                let cost = spent.map(|time| micros(time, plan.changes));
                rounds.push((driven.rate(), cost));
                for gateway in &mut gateways {
                    gateway.process.stop();
                }
            }
        }
        for (replicas, rounds) in [1, REPLICAS].into_iter().zip(&rounds) {
            let of = |figure: fn(&Round) -> f64| median(rounds.iter().map(figure).collect());
            println!(
                "{replicas} gateways: {:.0} changes/s accepted; until then {:.0} us of gateways and {:.0} us of PostgreSQL for each",
                of(|round| round.0),
                of(|round| round.1[0]),
                of(|round| round.1[1]),
            );
        }
        issuer.stop().await;
    });
    process::stay_off_the_measured_core();
}
