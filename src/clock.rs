//! Everything that is not deterministic: time, pauses, randomness and new identifiers.
//!
//! Code that needs a [`Clock`] is passed one, so that rules about time can be read and tested as functions of a timestamp.
//! Guarantees: time is read here and nowhere else; clippy rejects direct calls elsewhere.
//!
//! A simulated clock ([`Clock::simulated`]) takes time from its tokio runtime, which tests can pause, and randomness and
//! identifiers from a seed: the same seed gives the same run.
//!
//! It deliberately does not schedule anything: [`Backoff`] computes when to retry, and the caller waits.

use std::{
    sync::atomic::{AtomicI64, AtomicU64, Ordering},
    time::Duration,
};

use aws_lc_rs::rand;
use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

/// The source of time, randomness and new identifiers.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Source);

#[derive(Clone, Copy, Debug)]
enum Source {
    Machine { origin: std::time::Instant },
    Simulated(&'static Simulated),
}

/// The state of a simulated clock.
#[derive(Debug)]
struct Simulated {
    origin: tokio::time::Instant,
    /// The time shown at `origin`.
    start: Timestamp,
    /// By how many microseconds the time shown was set forward since.
    set_forward: AtomicI64,
    /// State of the random number generator (`SplitMix64`).
    seed: AtomicU64,
    /// How many identifiers were made so far.
    made: AtomicU64,
}

impl Simulated {
    /// The next random number.
    fn draw(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let state = self.seed.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Sorts as [`Uuid::now_v7`] does: by time, then by number.
    fn identifier(&self, now: Timestamp) -> Uuid {
        let made = u128::from(self.made.fetch_add(1, Ordering::Relaxed) & 0xffff_ffff);
        let bytes = (made << 24) | u128::from(self.draw() >> 40);
        let millis = u64::try_from(now.as_millisecond()).unwrap_or(0);
        // Ten bytes; version and variant overwrite bits of the first and the third.
        let [_, _, _, _, _, _, rest @ ..] = bytes.to_be_bytes();
        uuid::Builder::from_unix_timestamp_millis(millis, &rest).into_uuid()
    }
}

impl Clock {
    /// The machine's clock.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the machine's clock")]
    pub fn system() -> Self {
        Self(Source::Machine { origin: std::time::Instant::now() })
    }

    /// A clock that shows `start` now and advances with the tokio runtime that it is made and used in; randomness and
    /// identifiers come from `seed`. For simulations: each clock leaks a few bytes.
    pub fn simulated(start: Timestamp, seed: u64) -> Self {
        let origin = tokio::time::Instant::now();
        let (seed, made, set_forward) = (AtomicU64::new(seed), AtomicU64::new(0), AtomicI64::new(0));
        let simulated = Simulated { origin, start, set_forward, seed, made };
        Self(Source::Simulated(Box::leak(Box::new(simulated))))
    }

    /// Sets the time that a simulated clock shows forward, or back, as NTP does with a machine's.
    #[cfg(test)]
    pub(crate) fn set_forward(&self, by: SignedDuration) {
        if let Source::Simulated(simulated) = self.0 {
            simulated.set_forward.fetch_add(i64::try_from(by.as_micros()).unwrap(), Ordering::Relaxed);
        }
    }

    /// The current time in UTC, truncated to the whole microseconds that the stores keep.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the machine's clock")]
    pub fn now(&self) -> Timestamp {
        let now = match self.0 {
            Source::Machine { .. } => Timestamp::now(),
            Source::Simulated(simulated) => {
                let set = SignedDuration::from_micros(simulated.set_forward.load(Ordering::Relaxed));
                after(simulated.start, simulated.origin.elapsed()).saturating_add(set).unwrap_or(Timestamp::MAX)
            }
        };
        Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now)
    }

    /// Time since this clock was made; monotonic, unlike [`Clock::now`].
    pub fn elapsed(&self) -> Duration {
        match self.0 {
            Source::Machine { origin } => origin.elapsed(),
            Source::Simulated(simulated) => simulated.origin.elapsed(),
        }
    }

    /// Pauses the calling task.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that waits for time to pass")]
    pub async fn sleep(&self, pause: Duration) {
        tokio::time::sleep(pause).await;
    }

    /// A new identifier; within a process, later ones sort after earlier ones.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that makes identifiers")]
    pub fn new_id(&self) -> Uuid {
        match self.0 {
            Source::Machine { .. } => Uuid::now_v7(),
            Source::Simulated(simulated) => simulated.identifier(self.now()),
        }
    }

    /// A uniformly distributed number in `0.0..1.0`; 0.5 if the system's random number generator fails.
    pub fn random_fraction(&self) -> f64 {
        let mut bytes = [0_u8; 4];
        match self.0 {
            Source::Machine { .. } if rand::fill(&mut bytes).is_err() => return 0.5,
            Source::Machine { .. } => {}
            Source::Simulated(simulated) => {
                let [a, b, c, d, ..] = simulated.draw().to_le_bytes();
                bytes = [a, b, c, d];
            }
        }
        f64::from(u32::from_le_bytes(bytes)) / (f64::from(u32::MAX) + 1.0)
    }
}

/// The clock of rate limiters.
impl governor::clock::Clock for Clock {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.elapsed()
    }
}

/// `moment` plus `pause`; [`Timestamp::MAX`] on overflow.
pub fn after(moment: Timestamp, pause: Duration) -> Timestamp {
    let pause = SignedDuration::try_from(pause).unwrap_or(SignedDuration::MAX);
    moment.checked_add(pause).unwrap_or(Timestamp::MAX)
}

/// The time from `now` until `then`; zero if `then` has passed.
pub fn until(now: Timestamp, then: Timestamp) -> Duration {
    Duration::try_from(then.duration_since(now)).unwrap_or(Duration::ZERO)
}

/// Exponential backoff with full jitter: the n-th pause is uniform between zero and `first · 2ⁿ⁻¹`, at most `longest`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Upper bound of the first pause.
    pub first: Duration,
    /// Upper bound of every pause.
    pub longest: Duration,
}

impl Backoff {
    /// The pause before the next attempt after `failed` attempts have failed; `chance` lies in `0.0..1.0`.
    pub fn pause(&self, failed: u32, chance: f64) -> Duration {
        let doubled = 2_u32.saturating_pow(failed.saturating_sub(1));
        let bound = self.first.saturating_mul(doubled).min(self.longest);
        bound.mul_f64(chance.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_pause_never_passes_its_bounds(failed in 0_u32..200, chance in 0.0_f64..1.0) {
            let backoff = Backoff { first: Duration::from_millis(100), longest: Duration::from_secs(30) };
            prop_assert!(backoff.pause(failed, chance) <= backoff.longest);
            prop_assert!(backoff.pause(1, chance) <= backoff.first);
        }

        #[test]
        fn chance_lies_between_zero_and_one(_round in 0..100) {
            let chance = Clock::system().random_fraction();
            prop_assert!((0.0..1.0).contains(&chance));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_simulated_clock_repeats_itself() {
        let start = "2026-03-01T08:00:00Z".parse::<Timestamp>().unwrap();
        let (one, same, other) = (Clock::simulated(start, 7), Clock::simulated(start, 7), Clock::simulated(start, 8));
        let long = Duration::from_hours(1);
        one.sleep(long).await;
        assert_eq!((one.now(), one.elapsed()), (after(start, long), long));
        let drawn = |clock: Clock| {
            let made: Vec<_> = std::iter::repeat_with(|| clock.new_id()).take(3).collect();
            (made, std::iter::repeat_with(|| clock.random_fraction()).take(3).collect::<Vec<_>>())
        };
        let (made, chances) = drawn(one);
        assert_eq!(drawn(same), (made.clone(), chances.clone()));
        assert_ne!(drawn(other), (made.clone(), chances));
        assert!(made.is_sorted() && made.iter().all(|id| id.get_version_num() == 7), "{made:?}");
    }

    #[test]
    fn later_and_until_are_inverse() {
        let now = Timestamp::UNIX_EPOCH;
        let pause = Duration::from_millis(1500);
        assert_eq!(until(now, after(now, pause)), pause);
        assert_eq!(until(after(now, pause), now), Duration::ZERO);
    }
}
