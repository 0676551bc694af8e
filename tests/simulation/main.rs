//! The deterministic simulation: replicas, callers, an administrator and every kind of fault, in one thread and in
//! virtual time, determined by a seed.
//!
//! ```text
//! cargo test --test simulation                          the seeds that every commit is tested with
//! cargo test --test simulation -- --seeds 5000 --from 1 as many as you like
//! cargo test --test simulation -- --seed 42             one seed, logging every step
//! ```
//!
//! Gateways and executors are the real ones; store and tenant are models. The model store passes the real stores'
//! suite. The invariants are in `online_checks` (checked during a run) and `final_checks` (checked at the end).
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::arithmetic_side_effects,
    reason = "a test that cannot go on ends"
)]

mod actors;
mod chance;
mod faulty_store;
mod final_checks;
#[path = "../support/model_store.rs"]
mod model_store;
mod online_checks;
mod parameters;
mod reference_merge;
mod replica;
mod run;
mod tenant;
mod world;

use std::{
    fs,
    path::Path,
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering},
};

use postern::policy::Policies;

use crate::{
    run::SimulationRun,
    world::{Counts, Logging},
};

/// Seeds run by default.
const SEEDS: u64 = 300;
/// How many of them are run twice, to check that runs are reproducible.
const REPEATED: u64 = 10;

static PANICS: AtomicU64 = AtomicU64::new(0);
/// The seed being run.
static SEED: AtomicU64 = AtomicU64::new(0);

/// The command line.
enum CliCommand {
    Seeds {
        from: u64,
        count: u64,
    },
    /// One seed, logging every step.
    Seed(u64),
    List,
    /// A filter for other tests: nothing to run.
    Nothing,
}

/// Permits everything: policy is tested elsewhere.
fn policies() -> Policies {
    let folder = tempfile::tempdir().unwrap();
    let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/policies/schema.cedarschema");
    fs::copy(schema, folder.path().join("schema.cedarschema")).unwrap();
    fs::write(folder.path().join("all.cedar"), "@id(\"all\") permit (principal, action, resource);").unwrap();
    Policies::load(folder.path()).unwrap()
}

/// Parses our own options and those that `cargo test` passes to every test binary.
fn asked() -> Result<CliCommand, String> {
    let (mut from, mut count, mut other) = (1, SEEDS, None);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number = || -> Result<u64, String> {
            let text = words.next().ok_or(format!("{word} wants a number"))?;
            text.parse().map_err(|error| format!("{word} wants a number, not {text:?}: {error}"))
        };
        match word.as_str() {
            "--seeds" => count = number()?,
            "--from" => from = number()?,
            "--seed" => other = Some(CliCommand::Seed(number()?)),
            "--list" => other = Some(CliCommand::List),
            "--ignored" => other = Some(CliCommand::Nothing),
            // Options of the test harness that have no meaning here, some with a value.
            "--test-threads" | "--format" | "--color" | "--skip" | "-Z" => drop(words.next()),
            flag if flag.starts_with('-') => {}
            filter if "simulation".contains(filter) => {}
            _ => other = Some(CliCommand::Nothing),
        }
    }
    Ok(other.unwrap_or(CliCommand::Seeds { from, count }))
}

#[expect(clippy::print_stdout, reason = "it tells how it went")]
fn main() -> ExitCode {
    // The executor survives a lane's panic; here a panic must fail the run.
    std::panic::set_hook(Box::new(|panic| {
        println!("{panic}\nreplay: cargo test --test simulation -- --seed {}", SEED.load(Ordering::Relaxed));
        PANICS.fetch_add(1, Ordering::Relaxed);
    }));
    match asked() {
        Ok(CliCommand::Seeds { from, count }) => try_seeds(from, count),
        Ok(CliCommand::Seed(seed)) => tell(seed),
        Ok(CliCommand::List) => {
            println!("simulation: test");
            ExitCode::SUCCESS
        }
        Ok(CliCommand::Nothing) => ExitCode::SUCCESS,
        Err(why) => {
            println!("{why}");
            ExitCode::from(2)
        }
    }
}

#[expect(clippy::print_stdout, reason = "it tells how it went")]
fn tell(seed: u64) -> ExitCode {
    let run = SimulationRun::of(seed, &policies(), Logging::Aloud);
    println!("seed {seed}: {:?}\n{}", run.counts, run.violations.join("\n"));
    if run.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[expect(clippy::print_stdout, reason = "it tells how it went")]
fn try_seeds(from: u64, count: u64) -> ExitCode {
    let policies = policies();
    let mut counts = Counts::new();
    for seed in from..from.saturating_add(count) {
        let run = SimulationRun::of(seed, &policies, Logging::Silent);
        let repeats = || SimulationRun::of(seed, &policies, Logging::Silent).digest == run.digest;
        let mut violations = run.violations.join("\n");
        if seed < from.saturating_add(REPEATED) && !repeats() {
            violations.push_str("\nit does not repeat itself");
        }
        if !violations.is_empty() {
            println!("seed {seed}, the first that fails after {} that do not:\n{violations}", seed - from);
            println!("replay: cargo test --test simulation -- --seed {seed}");
            return ExitCode::FAILURE;
        }
        for (name, count) in run.counts {
            *counts.entry(name).or_default() += count;
        }
    }
    let told: Vec<_> = counts.iter().map(|(name, count)| format!("{count} {name}")).collect();
    println!("simulation: {count} seeds held; {}", told.join(", "));
    ExitCode::SUCCESS
}
