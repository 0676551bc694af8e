//! Runs many stories in parallel, one per seed, and sums up their results.

use std::{
    ops::{Add, Range},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Mutex,
    thread,
};

use tokio::runtime::Builder;

/// Stories at once; they mostly wait for the disk or for a lease to expire.
const AT_ONCE: usize = 4;

/// Sums over the stories.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) stories: usize,
    pub(crate) kills: usize,
    pub(crate) operations: usize,
    /// Writes that a later process found to have taken effect by reading back.
    pub(crate) read_back: usize,
}

impl Add for Tally {
    type Output = Self;

    fn add(self, rhs: Self) -> Self {
        Self {
            stories: self.stories + rhs.stories,
            kills: self.kills + rhs.kills,
            operations: self.operations + rhs.operations,
            read_back: self.read_back + rhs.read_back,
        }
    }
}

/// Seeds set in the environment: `POSTERN_FAULTS_SEEDS=100..400`.
fn asked_for() -> Option<Range<u64>> {
    let text = std::env::var_os("POSTERN_FAULTS_SEEDS")?.into_string().unwrap();
    let (first, end) = text.split_once("..").unwrap_or_else(|| panic!("POSTERN_FAULTS_SEEDS is not like 100..400"));
    Some(first.parse().unwrap()..end.parse().unwrap())
}

/// Runs the story of each seed. A failure stops none of the others; the seeds that failed are reported at the end.
pub(crate) fn all<Story: Future<Output = Tally>>(usual: Range<u64>, tell: impl Fn(u64) -> Story + Sync) {
    let seeds = Mutex::new(asked_for().unwrap_or(usual));
    let outcomes = Mutex::new(Vec::new());
    let next = || seeds.lock().unwrap().next();
    let told = |seed| Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(tell(seed));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(seed) = next() {
                    let outcome = catch_unwind(AssertUnwindSafe(|| told(seed)));
                    outcomes.lock().unwrap().push((seed, outcome.ok()));
                }
            });
        }
    });
    let outcomes = outcomes.into_inner().unwrap();
    let failed: Vec<_> = outcomes.iter().filter(|(_, tally)| tally.is_none()).map(|(seed, _)| *seed).collect();
    let tally = outcomes.into_iter().filter_map(|(_, tally)| tally).fold(Tally::default(), Tally::add);
    eprintln!("{tally:?}");
    assert!(
        failed.is_empty(),
        "the stories of the seeds {failed:?} failed: POSTERN_FAULTS_SEEDS=N..N+1 tells one again"
    );
    assert!(tally.stories > 0, "no story was told");
}
