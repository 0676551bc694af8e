//! What durability costs with concurrent callers, compared with one commit per request.
//!
//! Both stores are real: a SQLite file under the target folder, and a private PostgreSQL server with `fsync` on. Cases are
//! measured in turn, several rounds each, so that other load on the machine affects all alike; a figure is the median of its
//! rounds. Commits are counted in separate passes, from the databases themselves ([`commits`]).
//!
//! It deliberately measures neither HTTP nor tokens nor policy nor Graph. `docs/performance.md` says how to read the results.
//!
//! Without `--bench` (as `cargo test --benches` runs it) every case runs briefly, to show that it works.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::arithmetic_side_effects,
    reason = "a measurement that cannot go on ends, and tells what it found"
)]

#[path = "store/commits.rs"]
mod commits;
#[path = "store/load.rs"]
mod load;
#[path = "store/requests.rs"]
mod requests;
#[path = "../tests/support/postgres.rs"]
mod server;

use std::{fs::File, io::Write, path::Path, time::Duration};

use postern::clock::Clock;

use load::{Kind, Place, Rate};

/// Concurrent callers. A single one needs a commit per request, like a store that never shares commits.
const CALLERS: [u32; 4] = [1, 16, 64, 256];
/// Connections in the alternative design for PostgreSQL, in which each commits one request at a time.
const CONNECTIONS: usize = 16;

/// How much is measured.
#[derive(Clone, Copy)]
struct Extent {
    rounds: usize,
    /// Time for accepting, per case and round.
    time: Duration,
    /// Lanes settled per case and round.
    lanes: u32,
    /// Requests per caller when commits are counted; a single caller sends ten times as many.
    counted: u32,
}

const FULL: Extent = Extent { rounds: 5, time: Duration::from_millis(700), lanes: 512, counted: 16 };
const TRIAL: Extent = Extent { rounds: 1, time: Duration::from_millis(20), lanes: 64, counted: 2 };

fn main() {
    let extent = if std::env::args().any(|argument| argument == "--bench") { FULL } else { TRIAL };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let cores = std::thread::available_parallelism().unwrap();
    println!("\n{cores} cores; each figure is the median of {} rounds, the range beside it", extent.rounds);
    for (whose, folder) in [("SQLite", Path::new(env!("CARGO_TARGET_TMPDIR"))), ("PostgreSQL", &std::env::temp_dir())] {
        println!("disk of {whose}: {:.0} times a second 4 KiB appended and fdatasync", flushes(folder, extent.time));
    }
    for kind in [Kind::Sqlite, Kind::Postgres] {
        runtime.block_on(durable(kind, extent));
    }
}

/// How many times a second this disk can make 4 KiB durable: the limit of a store that commits one request at a time.
fn flushes(folder: &Path, time: Duration) -> f64 {
    let path = folder.join("flushes");
    let mut file = File::create(&path).unwrap();
    let (clock, mut count) = (Clock::system(), 0_u32);
    while clock.elapsed() < time {
        file.write_all(&[1; 4_096]).unwrap();
        file.sync_data().unwrap();
        count += 1;
    }
    let rate = f64::from(count) / clock.elapsed().as_secs_f64();
    std::fs::remove_file(path).unwrap();
    rate
}

async fn durable(kind: Kind, extent: Extent) {
    let place = Place::new(kind).await;
    let store = place.open().await;
    let stores = std::slice::from_ref(&store);
    let (mut accepts, mut settles) = (vec![Vec::new(); CALLERS.len()], vec![Vec::new(); CALLERS.len()]);
    let (mut claims, mut apart) = (Vec::new(), Vec::new());
    let others = if kind == Kind::Postgres { place.open_many(CONNECTIONS).await } else { Vec::new() };
    for _ in 0..extent.rounds {
        for (callers, rounds) in CALLERS.into_iter().zip(&mut accepts) {
            rounds.push(load::accept_for(stores, callers, extent.time).await);
            load::settle_accepted(&store).await;
        }
        if !others.is_empty() {
            apart.push(load::accept_for(&others, u32::try_from(CONNECTIONS).unwrap(), extent.time).await);
            load::settle_accepted(&store).await;
        }
        for (callers, rounds) in CALLERS.into_iter().zip(&mut settles) {
            let turns = load::claimed(&store, extent.lanes).await;
            rounds.push(load::settle_all(&store, callers, turns).await);
        }
        claims.push(load::claim_of_500(&store).await);
    }
    for store in others.iter().chain(stores) {
        store.close().await;
    }

    head(kind, "accept");
    for (callers, rounds) in CALLERS.into_iter().zip(&accepts) {
        let counted = commits::per_accept(kind, callers, callers.max(10) * extent.counted).await;
        row(&named(callers), rounds, &accepts, Some(counted));
    }
    if !apart.is_empty() {
        row(&format!("{CONNECTIONS} connections, a commit for each"), &apart, &accepts, None);
    }
    head(kind, "settle, a lane each");
    for (callers, rounds) in CALLERS.into_iter().zip(&settles) {
        let counted = commits::per_settle(kind, callers, extent.lanes).await;
        row(&named(callers), rounds, &settles, Some(counted));
    }
    let (claim, fastest, slowest) = spread(&claims);
    println!("\n{}: a lane with 500 pending is claimed in {claim:.1} ms ({fastest:.1} to {slowest:.1})", name(kind));
}

fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Sqlite => "SQLite",
        Kind::Postgres => "PostgreSQL",
    }
}

fn named(callers: u32) -> String {
    if callers == 1 { "1 caller, a commit for each".to_owned() } else { format!("{callers} callers") }
}

fn head(kind: Kind, verb: &str) {
    let what = format!("{}: {verb}", name(kind));
    println!("\n{what:<34}{:>9}{:>18}{:>8}{:>18}", "a second", "range", "ratio", "commits for each");
}

/// One line: name, rate per second, ratio to a single caller, and commits per request.
fn row(what: &str, rounds: &[Rate], all: &[Vec<Rate>], commits: Option<f64>) {
    let (rate, slowest, fastest) = spread(rounds);
    let alone = spread(all.first().unwrap()).0;
    let range = format!("{slowest:.0} to {fastest:.0}");
    let commits = commits.map_or("1 (as made)".to_owned(), |it| format!("{it:.4}"));
    println!("{what:<34}{rate:>9.0}{range:>18}{:>8.2}{commits:>18}", rate / alone);
}

/// Median, minimum and maximum.
fn spread(figures: &[f64]) -> (f64, f64, f64) {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    (*sorted.get(sorted.len() / 2).unwrap(), *sorted.first().unwrap(), *sorted.last().unwrap())
}
