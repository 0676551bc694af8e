//! Everything that is not deterministic: the time, pauses, chance and new identifiers.
//!
//! A [`Clock`] is handed to whoever needs one, so that rules about time can be read (and tested) as functions of a
//! timestamp. It guarantees that time is read in one place only; clippy refuses the direct calls elsewhere.
//!
//! It deliberately does not schedule anything: when to try again is computed by [`Backoff`] and waited for by the caller.

use std::time::Duration;

use aws_lc_rs::rand;
use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

/// The source of time, chance and new identifiers.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: std::time::Instant,
}

impl Clock {
    /// The clock of the machine.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the machine's clock")]
    pub fn system() -> Self {
        Self { origin: std::time::Instant::now() }
    }

    /// The present moment, in UTC, in whole microseconds, as the stores keep it.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the machine's clock")]
    pub fn now(&self) -> Timestamp {
        let now = Timestamp::now();
        Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now)
    }

    /// Time since this clock was made; never goes back, unlike [`Clock::now`].
    pub fn elapsed(&self) -> Duration {
        self.origin.elapsed()
    }

    /// Pauses the calling task.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that waits for time to pass")]
    pub async fn sleep(&self, pause: Duration) {
        tokio::time::sleep(pause).await;
    }

    /// A new identifier; later ones of a process sort after earlier ones.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that makes identifiers")]
    pub fn identifier(&self) -> Uuid {
        Uuid::now_v7()
    }

    /// A number in `0.0..1.0`, evenly spread. If the system has no randomness to give, 0.5.
    pub fn chance(&self) -> f64 {
        let mut bytes = [0_u8; 4];
        match rand::fill(&mut bytes) {
            Ok(()) => f64::from(u32::from_le_bytes(bytes)) / (f64::from(u32::MAX) + 1.0),
            Err(_) => 0.5,
        }
    }
}

/// `moment` later by `pause`; the end of time if that cannot be written.
pub fn after(moment: Timestamp, pause: Duration) -> Timestamp {
    let pause = SignedDuration::try_from(pause).unwrap_or(SignedDuration::MAX);
    moment.checked_add(pause).unwrap_or(Timestamp::MAX)
}

/// How long it is from `now` until `then`; zero if it has passed.
pub fn until(now: Timestamp, then: Timestamp) -> Duration {
    Duration::try_from(then.duration_since(now)).unwrap_or(Duration::ZERO)
}

/// Exponential pauses with full jitter: the n-th pause lies evenly between zero and `first · 2ⁿ`, at most `longest`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Upper bound of the first pause.
    pub first: Duration,
    /// Upper bound of every pause.
    pub longest: Duration,
}

impl Backoff {
    /// The pause before attempt `failed + 1`, after `failed` attempts have failed; `chance` lies in `0.0..1.0`.
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
            let chance = Clock::system().chance();
            prop_assert!((0.0..1.0).contains(&chance));
        }
    }

    #[test]
    fn later_and_until_are_inverse() {
        let now = Timestamp::UNIX_EPOCH;
        let pause = Duration::from_millis(1500);
        assert_eq!(until(now, after(now, pause)), pause);
        assert_eq!(until(after(now, pause), now), Duration::ZERO);
    }
}
