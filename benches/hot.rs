//! The CPU cost of a call, part by part: reading a body, verifying a token, evaluating policy, accepting and merging a
//! change, writing the audit trail.
//!
//! A part is a [`Case`]: it prepares everything that a number of iterations need, and only the iterations are measured.
//! So times (`cargo bench --bench hot`) and instructions (`benches/instructions`) measure the same work. Nothing is
//! mocked: tokens are signed and their keys fetched over HTTP, policies are the shipped ones, the store is a SQLite
//! file under the target folder.
//!
//! It deliberately measures no waiting: neither the network nor Graph, nor concurrent callers (`benches/store.rs`
//! does). `docs/performance.md` says how to read the results.
//!
//! Without `--bench` (as `cargo test --benches` runs it) every case runs once, to show that it works.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::arithmetic_side_effects,
    reason = "a measurement that cannot go on ends, and tells what it found"
)]

#[path = "hot/accept.rs"]
mod accept;
#[path = "hot/change.rs"]
mod change;
#[path = "hot/policy.rs"]
mod policy;
#[expect(dead_code, reason = "lanes are claimed and settled in `benches/store.rs` only")]
#[path = "store/requests.rs"]
mod requests;
#[path = "hot/token.rs"]
mod token;
#[path = "hot/trail.rs"]
mod trail;

use std::time::Duration;

use criterion::{Criterion, SamplingMode, Throughput};
use postern::clock::Clock;

/// Runs one iteration.
type Iteration = Box<dyn FnMut()>;

/// A piece of work that is repeated.
struct Case {
    name: String,
    /// Its weight: a commit of 64 changes counts as 64.
    elements: u64,
    /// Iterations when instructions are counted: enough that everything else is negligible.
    counted: u64,
    /// Prepares this many iterations.
    ready: Box<dyn Fn(u64) -> Iteration>,
}

impl Case {
    fn new(name: impl Into<String>, counted: u64, ready: impl Fn(u64) -> Iteration + 'static) -> Self {
        Self { name: name.into(), elements: 1, counted, ready: Box::new(ready) }
    }

    /// Prepares this many iterations and runs one more, so that one-time work is done.
    fn warm(&self, iterations: u64) -> Iteration {
        let mut iteration = (self.ready)(iterations + 1);
        iteration();
        iteration
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("--cases") => {
            for Case { name, elements, counted, .. } in cases() {
                println!("{name}\t{counted}\t{elements}");
            }
        }
        // Prepared for the same number, two runs differ only by their iterations.
        Some("--count") => {
            let (name, iterations, readied) = (arguments.next().unwrap(), arguments.next(), arguments.next());
            let [iterations, readied] = [iterations, readied].map(|it| it.unwrap().parse::<u64>().unwrap());
            let case = cases().into_iter().find(|case| case.name == name).unwrap();
            let mut iteration = case.warm(readied);
            (0..iterations).for_each(|_| iteration());
        }
        Some(_) | None => measure(),
    }
}

fn cases() -> Vec<Case> {
    [change::cases(), token::cases(), policy::cases(), trail::cases(), accept::cases()].into_iter().flatten().collect()
}

fn measure() {
    let criterion = Criterion::default().without_plots().sample_size(20);
    let mut criterion = criterion
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    let mut group = criterion.benchmark_group("hot");
    group.sampling_mode(SamplingMode::Flat);
    for case in cases() {
        group.throughput(Throughput::Elements(case.elements));
        group.bench_function(&case.name, |bencher| {
            bencher.iter_custom(|iterations| {
                let mut iteration = case.warm(iterations);
                let clock = Clock::system();
                (0..iterations).for_each(|_| iteration());
                clock.elapsed()
            });
        });
    }
    group.finish();
}
