//! What a call costs the processor, part by part: a body read, a token proven, policy asked, a change accepted and merged,
//! the audit trail written.
//!
//! A part is a [`Case`]: it makes ready whatever so many doings need, and what is measured is the doing alone. So times
//! (`cargo bench --bench hot`) and instructions (`benches/instructions`) are of the same work. Nothing here is a stand-in:
//! tokens are signed and their keys fetched over HTTP, policies are those that are shipped, the store is a SQLite file
//! below the target folder.
//!
//! It deliberately measures no waiting: neither the network nor Graph, nor callers that come together (`benches/store.rs`
//! does). How to read it stands in `docs/performance.md`.
//!
//! Without `--bench` (as `cargo test --benches` runs it) every case is done once, to show that it works.
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

/// Does it once.
type Doing = Box<dyn FnMut()>;

/// Something that is done time and again.
struct Case {
    name: String,
    /// As how many it counts: a commit of 64 changes as 64.
    elements: u64,
    /// How often it is done for its instructions to be counted: often enough that nothing else is seen beside it.
    counted: u64,
    /// Makes ready what so many doings need.
    ready: Box<dyn Fn(u64) -> Doing>,
}

impl Case {
    fn new(name: impl Into<String>, counted: u64, ready: impl Fn(u64) -> Doing + 'static) -> Self {
        Self { name: name.into(), elements: 1, counted, ready: Box::new(ready) }
    }

    /// Ready for so many doings, and warm: what happens at the first time only has happened.
    fn warm(&self, doings: u64) -> Doing {
        let mut doing = (self.ready)(doings + 1);
        doing();
        doing
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
        // Made ready for more than is done, two runs differ by what is done alone.
        Some("--count") => {
            let (name, doings, readied) = (arguments.next().unwrap(), arguments.next(), arguments.next());
            let [doings, readied] = [doings, readied].map(|it| it.unwrap().parse::<u64>().unwrap());
            let case = cases().into_iter().find(|case| case.name == name).unwrap();
            let mut doing = case.warm(readied);
            (0..doings).for_each(|_| doing());
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
            bencher.iter_custom(|doings| {
                let mut doing = case.warm(doings);
                let clock = Clock::system();
                (0..doings).for_each(|_| doing());
                clock.elapsed()
            });
        });
    }
    group.finish();
}
