//! How fast Graph is asked: one pace for all calls of this process, since throttling is the tenant's, not one call's.
//!
//! Four things hold a call back, and each is a rule of [`Regime`] or a budget:
//! - the budget: below Microsoft's published limits per application and tenant, kept ahead of time;
//! - a pause that Graph named (`Retry-After`): nobody asks before it is over;
//! - how many calls may be under way at once: one more for every round that goes well, half as many after a throttling;
//! - the breaker: after several failures in a row only a single call at a time tries whether Graph is back.
//!
//! Guarantees: whoever waits is let through in the order of coming; a call that is given up gives its place back.
//!
//! It deliberately knows nothing of other replicas: each keeps a pace of its own, and Graph's answers even that out.

use std::{
    num::NonZeroU32,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use governor::{
    Quota, RateLimiter,
    middleware::NoOpMiddleware,
    state::{InMemoryState, NotKeyed},
};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::Error;
use crate::{
    clock::{self, Backoff, Clock},
    config, telemetry,
};

/// The time for which Microsoft publishes its limits.
const WINDOW: Duration = Duration::from_secs(20);
/// A longer pause is not waited for here, where somebody waits; it is told.
pub(super) const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Calls at once in the beginning.
const AT_ONCE_FIRST: usize = 4;
/// Pauses after a throttling when Graph names none, which Intune often does not.
const UNNAMED: Backoff = Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(30) };
/// Failures in a row that are an outage.
const OUTAGE: u32 = 5;
/// Pauses between the calls that try whether it is over.
const PROBES: Backoff = Backoff { first: Duration::from_secs(2), longest: Duration::from_secs(30) };
/// No probe sooner than this after the last: full jitter may draw zero.
const PROBE_MIN: Duration = Duration::from_secs(1);

type Budget = RateLimiter<NotKeyed, InMemoryState, Clock, NoOpMiddleware<Duration>>;

/// What a call is about, as the limits tell calls apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Read,
    Write,
}

/// How a call went, as far as the pace is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Went {
    /// Graph answered, with whatever.
    Answered,
    /// Graph throttles, and names this pause or none.
    Throttled(Option<Duration>),
    /// Graph did not answer, or said that it is in trouble.
    Failed,
}

/// The pace of one gateway process.
#[derive(Debug)]
pub(super) struct Pace {
    clock: Clock,
    writes: Budget,
    calls: Budget,
    places: Semaphore,
    regime: Mutex<Regime>,
}

/// Leave to make one call; dropping it gives the place back.
#[derive(Debug)]
pub(super) struct Pass<'a> {
    pace: &'a Pace,
    place: Option<SemaphorePermit<'a>>,
}

/// Whether a call may be made now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Admission {
    Go,
    /// Graph asked for a pause; so much of it is left.
    Pause(Duration),
    /// Graph is out; so long until somebody tries again.
    Out(Duration),
}

/// The rules, without time and waiting of their own.
#[derive(Debug)]
struct Regime {
    at_once: AtOnce,
    /// Nobody asks before this.
    paused_until: Duration,
    /// Throttlings in a row.
    throttled: u32,
    failures: u32,
    /// During an outage: when the next call may try.
    probe_at: Duration,
}

/// How many calls may be under way.
#[derive(Debug)]
struct AtOnce {
    now: usize,
    max: usize,
    /// Calls that went well since the last step up.
    well: usize,
    /// Places to take away as they come back.
    excess: usize,
}

impl Pace {
    pub(super) fn new(settings: &config::Pace, clock: Clock) -> Self {
        let at_once = AT_ONCE_FIRST.min(settings.calls_at_once_max);
        let regime = Regime {
            at_once: AtOnce { now: at_once, max: settings.calls_at_once_max, well: 0, excess: 0 },
            paused_until: Duration::ZERO,
            throttled: 0,
            failures: 0,
            probe_at: Duration::ZERO,
        };
        Self {
            clock,
            writes: budget(settings.writes_max, clock),
            calls: budget(settings.calls_max, clock),
            places: Semaphore::new(at_once),
            regime: Mutex::new(regime),
        }
    }

    /// Waits until a call may be made. If that takes longer than anybody should wait here, it is an error that says so.
    pub(super) async fn pass(&self, effect: Effect) -> Result<Pass<'_>, Error> {
        let place = self.places.acquire().await.map_err(|closed| Error::Unavailable(closed.to_string()))?;
        let pass = Pass { pace: self, place: Some(place) };
        // Taken from the end, each once: writes are scarcer, so none is spent before there is a call for it.
        let mut wanted = match effect {
            Effect::Read => vec![&self.calls],
            Effect::Write => vec![&self.writes, &self.calls],
        };
        loop {
            let admission = self.regime().admit(self.clock.elapsed(), self.clock.chance());
            let pause = match admission {
                Admission::Go => self.within_budget(&mut wanted),
                Admission::Out(pause) => {
                    let words = format!("it has been failing, and is tried again in {} s", pause.as_secs());
                    return Err(Error::Unavailable(words));
                }
                Admission::Pause(pause) => Some(pause),
            };
            match pause {
                None => return Ok(pass),
                Some(pause) if pause > PAUSE_MAX => return Err(Error::Throttled { pause }),
                Some(pause) => self.clock.sleep(pause).await,
            }
        }
    }

    /// Takes a call out of each budget in which it is wanted, or says when there will be one.
    fn within_budget(&self, wanted: &mut Vec<&Budget>) -> Option<Duration> {
        while let Some(budget) = wanted.last() {
            if let Err(not_until) = budget.check() {
                return Some(not_until.wait_time_from(self.clock.elapsed()));
            }
            wanted.pop();
        }
        None
    }

    fn regime(&self) -> MutexGuard<'_, Regime> {
        // Every change of it is a few assignments that cannot panic half way.
        self.regime.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Half of what the window allows at once and the other half spread over it, so that no window ever holds more.
fn budget(per_window: NonZeroU32, clock: Clock) -> Budget {
    let half = NonZeroU32::new(per_window.get() / 2).unwrap_or(NonZeroU32::MIN);
    let each = WINDOW.checked_div(half.get()).unwrap_or(WINDOW);
    let quota = Quota::with_period(each).unwrap_or(Quota::per_second(NonZeroU32::MIN));
    RateLimiter::direct_with_clock(quota.allow_burst(half), clock)
}

impl Pass<'_> {
    /// Says how the call went.
    pub(super) fn went(mut self, went: Went) {
        let Pace { clock, .. } = self.pace;
        let now = clock.elapsed();
        let mut regime = self.pace.regime();
        regime.note(now, clock.chance(), went);
        if matches!(went, Went::Throttled(_)) {
            telemetry::count_throttling(clock::after(clock.now(), regime.paused_until.saturating_sub(now)));
        }
        let AtOnce { now, .. } = regime.at_once;
        tracing::trace!(?went, at_once = now, "a call to Graph has ended");
        if regime.at_once.excess > 0
            && let Some(place) = self.place.take()
        {
            regime.at_once.excess = regime.at_once.excess.saturating_sub(1);
            place.forget();
        } else if went == Went::Answered && regime.at_once.step_up() {
            self.pace.places.add_permits(1);
        }
    }
}

impl Regime {
    fn admit(&mut self, now: Duration, chance: f64) -> Admission {
        if now < self.paused_until {
            return Admission::Pause(self.paused_until.saturating_sub(now));
        }
        if self.failures < OUTAGE {
            return Admission::Go;
        }
        if now < self.probe_at {
            return Admission::Out(self.probe_at.saturating_sub(now));
        }
        // This one tries. The next does if nothing was heard of it by then.
        self.probe_at = self.next_probe(now, chance);
        Admission::Go
    }

    fn note(&mut self, now: Duration, chance: f64, went: Went) {
        match went {
            Went::Answered => (self.failures, self.throttled) = (0, 0),
            Went::Throttled(named) => {
                self.failures = 0;
                // Those under way at the same moment are throttled for the same reason: one step for all of them.
                if now >= self.paused_until {
                    self.at_once.step_down();
                    self.throttled = self.throttled.saturating_add(1);
                }
                let pause = named.unwrap_or_else(|| UNNAMED.pause(self.throttled, chance));
                self.paused_until = self.paused_until.max(now.saturating_add(pause));
            }
            Went::Failed => {
                self.failures = self.failures.saturating_add(1);
                if self.failures >= OUTAGE {
                    self.probe_at = self.next_probe(now, chance);
                }
            }
        }
    }

    fn next_probe(&self, now: Duration, chance: f64) -> Duration {
        let pause = PROBES.pause(self.failures.saturating_sub(OUTAGE).saturating_add(1), chance);
        now.saturating_add(pause.max(PROBE_MIN))
    }
}

impl AtOnce {
    /// One more, once as many calls went well as may be under way. Whether there is one more.
    fn step_up(&mut self) -> bool {
        self.well = self.well.saturating_add(1);
        if self.well < self.now || self.now >= self.max {
            return false;
        }
        self.well = 0;
        self.now = self.now.saturating_add(1);
        true
    }

    fn step_down(&mut self) {
        let half = (self.now / 2).max(1);
        self.excess = self.excess.saturating_add(self.now.saturating_sub(half));
        (self.now, self.well) = (half, 0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn regime() -> Regime {
        Regime {
            at_once: AtOnce { now: 8, max: 16, well: 0, excess: 0 },
            paused_until: Duration::ZERO,
            throttled: 0,
            failures: 0,
            probe_at: Duration::ZERO,
        }
    }

    fn second(number: u64) -> Duration {
        Duration::from_secs(number)
    }

    #[test]
    fn a_named_pause_holds_everybody_and_a_shorter_one_does_not_end_it() {
        let mut regime = regime();
        regime.note(second(1), 0.5, Went::Throttled(Some(second(30))));
        regime.note(second(2), 0.5, Went::Throttled(Some(second(3))));
        // An answer to what was under way before does not end it either.
        regime.note(second(3), 0.5, Went::Answered);
        assert_eq!(regime.admit(second(11), 0.5), Admission::Pause(second(20)));
        assert_eq!(regime.admit(second(31), 0.5), Admission::Go);
        assert_eq!(regime.at_once.now, 4, "one step down for all that were throttled together");
    }

    #[test]
    fn pauses_that_graph_does_not_name_grow() {
        let mut regime = regime();
        let mut now = Duration::ZERO;
        let pauses = [1, 2, 4, 8, 16, 30, 30].map(|expected| {
            regime.note(now, 1.0, Went::Throttled(None));
            let Admission::Pause(pause) = regime.admit(now, 1.0) else { panic!("no pause") };
            now += pause;
            (pause, second(expected))
        });
        assert!(pauses.iter().all(|(pause, expected)| pause == expected), "{pauses:?}");
    }

    #[test]
    fn in_an_outage_one_call_at_a_time_tries_and_its_success_ends_it() {
        let mut regime = regime();
        for _ in 0..OUTAGE {
            assert_eq!(regime.admit(second(1), 1.0), Admission::Go);
            regime.note(second(1), 1.0, Went::Failed);
        }
        assert_eq!(regime.admit(second(2), 1.0), Admission::Out(second(1)));
        assert_eq!(regime.admit(second(3), 1.0), Admission::Go);
        assert!(matches!(regime.admit(second(3), 1.0), Admission::Out(_)), "somebody is trying");
        regime.note(second(4), 1.0, Went::Failed);
        assert_eq!(regime.admit(second(5), 1.0), Admission::Out(second(3)), "pauses grow");
        assert_eq!(regime.admit(second(8), 1.0), Admission::Go);
        regime.note(second(9), 1.0, Went::Answered);
        assert_eq!(regime.admit(second(9), 1.0), Admission::Go);
        assert_eq!(regime.admit(second(9), 1.0), Admission::Go);
    }

    proptest! {
        #[test]
        fn calls_at_once_stay_between_one_and_their_maximum(went in prop::collection::vec(any::<bool>(), 0..300)) {
            let mut at_once = AtOnce { now: 4, max: 16, well: 0, excess: 0 };
            for well in went {
                if well {
                    at_once.step_up();
                } else {
                    at_once.step_down();
                }
                prop_assert!((1..=16).contains(&at_once.now));
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_window_holds_more_calls_than_the_budget() {
        let clock = Clock::simulated("2026-03-01T08:00:00Z".parse().unwrap(), 1);
        let writes = budget(NonZeroU32::new(10).unwrap(), clock);
        let mut made = Vec::new();
        while clock.elapsed() < second(100) {
            match writes.check() {
                Ok(()) => made.push(clock.elapsed()),
                Err(not_until) => clock.sleep(not_until.wait_time_from(clock.elapsed())).await,
            }
        }
        for (place, begins) in made.iter().enumerate() {
            let in_window = made.iter().skip(place).take_while(|it| **it < *begins + WINDOW).count();
            assert!(in_window <= 10, "{in_window} from {begins:?}");
        }
        assert!(made.len() >= 25, "and it is used: {}", made.len());
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_waits_for_a_call_takes_one_write_and_no_more() {
        let clock = Clock::simulated("2026-03-01T08:00:00Z".parse().unwrap(), 1);
        let (writes_max, calls_max) = (NonZeroU32::new(4).unwrap(), NonZeroU32::new(10).unwrap());
        let pace = Pace::new(&config::Pace { writes_max, calls_max, calls_at_once_max: 4 }, clock);
        for _ in 0..5 {
            drop(pace.pass(Effect::Read).await.unwrap());
        }
        drop(pace.pass(Effect::Write).await.unwrap());
        assert_eq!(clock.elapsed(), second(4), "it waited for a call");
        assert!(pace.writes.check().is_ok() && pace.writes.check().is_err());
    }

    #[tokio::test]
    async fn places_follow_the_regime_and_a_call_given_up_gives_its_place_back() {
        let many = NonZeroU32::new(1000).unwrap();
        let settings = config::Pace { writes_max: many, calls_max: many, calls_at_once_max: 4 };
        let pace = Pace::new(&settings, Clock::system());
        for _ in 0..8 {
            drop(pace.pass(Effect::Read).await.unwrap());
        }
        let all = [
            pace.pass(Effect::Read).await.unwrap(),
            pace.pass(Effect::Read).await.unwrap(),
            pace.pass(Effect::Read).await.unwrap(),
            pace.pass(Effect::Write).await.unwrap(),
        ];
        assert_eq!(pace.places.available_permits(), 0);
        for pass in all {
            pass.went(Went::Throttled(Some(second(60))));
        }
        assert_eq!(pace.places.available_permits(), 2);
        assert!(matches!(pace.pass(Effect::Read).await, Err(Error::Throttled { pause }) if pause > second(50)));
        assert_eq!(pace.places.available_permits(), 2);
    }
}
