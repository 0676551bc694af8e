//! What the gateway costs and how fast it responds, as its users run it: the real program behind real HTTP, in front of
//! a sandbox with Graph's latency and limits.
//!
//! ```sh
//! cargo bench --bench load                  # every case
//! cargo bench --bench load -- cost latency  # some
//! ```
//!
//! The measured program has one core to itself, everything else (callers, sandbox, the server behind a proxy) the
//! others; for `latency` and `replicas` all share all cores. Requests are sent on schedule, not when the previous
//! response has arrived; latency counts from the time a request was due. `docs/performance.md` says how to read the
//! results.
//!
//! Without `--bench` (as `cargo test --benches` runs it) a short case shows that it works.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "a measurement that cannot go on ends, and tells what it found"
)]

#[path = "load/cases.rs"]
mod cases;
#[path = "load/drive.rs"]
mod drive;
#[path = "load/environment.rs"]
mod environment;
#[path = "load/haproxy.rs"]
mod haproxy;
#[path = "load/issuer.rs"]
mod issuer;
#[path = "load/process.rs"]
mod process;
#[path = "store/requests.rs"]
mod requests;
#[path = "load/rows.rs"]
mod rows;
#[path = "load/seeded_store.rs"]
mod seeded_store;
#[path = "../tests/support/postgres.rs"]
mod server;

use std::process::ExitCode;

/// A case's name, what it measures, and its function.
type Case = (&'static str, &'static str, fn(rows::Extent));

const CASES: [Case; 7] = [
    ("start", "from the start of the process to ready, and memory at rest", cases::start),
    ("cost", "processor time for each change, beside HAProxy that checks the same token and forwards", cases::cost),
    (
        "latency",
        "how long callers wait at 1,000 changes a second, without and with retention and export running",
        cases::latency,
    ),
    ("burst", "10,000 changes at once on 1, 10 and 50 configurations", cases::burst),
    ("full", "a million ended operations and three million audit records in the store", cases::full),
    ("soak", "memory while half a million changes come at 3,000 a second", cases::soak),
    ("replicas", "one and three gateways on PostgreSQL", cases::replicas),
];

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let whole = arguments.iter().any(|argument| argument == "--bench");
    let wanted: Vec<_> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    if let Some(unknown) = wanted.iter().find(|name| CASES.iter().all(|case| case.0 != name.as_str())) {
        println!("there is no case {unknown}; there are:");
        for (name, what, _) in CASES {
            println!("  {name:<9} {what}");
        }
        return ExitCode::from(2);
    }
    process::stay_off_the_measured_core();
    if !whole {
        cases::cost(rows::Extent::Trial);
        return ExitCode::SUCCESS;
    }
    for (name, what, measure) in CASES {
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted.as_str() == name) {
            println!("\n== {name}: {what}");
            measure(rows::Extent::Whole);
        }
    }
    ExitCode::SUCCESS
}
