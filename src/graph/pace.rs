//! How fast Graph is called: one pace for all calls of this process, since the tenant is throttled, not a single call.
//!
//! Four things hold a call back, each a rule of [`PaceState`] or a budget:
//! - the budget: stays below Microsoft's published limits per application and tenant;
//! - a pause that Graph named (`Retry-After`): nobody calls before it is over;
//! - the number of calls in flight: one more for every round that goes well, half as many after throttling;
//! - the breaker: after several failures in a row, only one call at a time tries whether Graph is back.
//!
//! Guarantees: a call that waits for the budget of writes keeps no other from being made; a call that is given up returns
//! its place.
//!
//! It deliberately knows nothing of other replicas: each has a pace of its own, and Graph's answers even that out.

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

/// The period over which Microsoft counts its limits.
const WINDOW: Duration = Duration::from_secs(20);
/// A longer pause is not waited for here, where a caller waits; it is returned as an error.
pub(super) const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Calls in flight at the beginning.
const AT_ONCE_FIRST: usize = 4;
/// Pauses after throttling when Graph names none, which Intune often does not.
const UNNAMED: Backoff = Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(30) };
/// How many failures in a row count as an outage.
const OUTAGE: u32 = 5;
/// Pauses between the calls that try whether an outage is over.
const PROBES: Backoff = Backoff { first: Duration::from_secs(2), longest: Duration::from_secs(30) };
/// No probe follows another sooner than this: full jitter may draw zero.
const PROBE_MIN: Duration = Duration::from_secs(1);

type Budget = RateLimiter<NotKeyed, InMemoryState, Clock, NoOpMiddleware<Duration>>;

/// Which limits a call counts against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CallKind {
    Read,
    Write,
}

/// How a call ended, as far as the pace is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CallOutcome {
    /// Graph answered, whatever the answer.
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
    state: Mutex<PaceState>,
}

/// Permission to make one call; dropping it returns the place.
#[derive(Debug)]
pub(super) struct CallPermit<'a> {
    pace: &'a Pace,
    place: Option<SemaphorePermit<'a>>,
}

/// Whether a call may be made now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Admission {
    Go,
    /// Graph asked for a pause, of which this much is left.
    Pause(Duration),
    /// Graph is down; the next probe is due after this time.
    Out(Duration),
}

/// The rules, without a clock and without waiting.
#[derive(Debug)]
struct PaceState {
    at_once: ConcurrencyLimit,
    /// No call is made before this.
    paused_until: Duration,
    /// How often in a row Graph throttled.
    throttled: u32,
    failures: u32,
    /// During an outage: when the next call may try.
    probe_at: Duration,
}

/// How many calls may be in flight.
#[derive(Debug)]
struct ConcurrencyLimit {
    now: usize,
    max: usize,
    /// Calls that went well since the last step up.
    well: usize,
    /// Places to remove as they are returned.
    excess: usize,
}

impl Pace {
    pub(super) fn new(settings: &config::Pace, clock: Clock) -> Self {
        let at_once = AT_ONCE_FIRST.min(settings.calls_at_once_max);
        let state = PaceState {
            at_once: ConcurrencyLimit { now: at_once, max: settings.calls_at_once_max, well: 0, excess: 0 },
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
            state: Mutex::new(state),
        }
    }

    /// Waits until a call may be made. A pause longer than [`PAUSE_MAX`], one that ends after the call must have begun, and an
    /// outage are errors instead. `begin_by` is a time of the clock's `elapsed`.
    pub(super) async fn acquire(&self, effect: CallKind, begin_by: Option<Duration>) -> Result<CallPermit<'_>, Error> {
        // Taken from the end, each once: writes are scarcer, so none is taken before the call itself is within its budget.
        let mut wanted = match effect {
            CallKind::Read => vec![&self.calls],
            CallKind::Write => vec![&self.writes, &self.calls],
        };
        loop {
            let pass = self.place(begin_by).await?;
            let admission = self.state().admit(self.clock.elapsed(), self.clock.random_fraction());
            let pause = match admission {
                Admission::Go => self.within_budget(&mut wanted),
                Admission::Out(pause) => {
                    let words = format!("it has been failing, and is tried again in {} s", pause.as_secs());
                    return Err(Error::Unavailable(words));
                }
                Admission::Pause(pause) => Some(pause),
            };
            let Some(pause) = pause else { return Ok(pass) };
            let late = begin_by.is_some_and(|by| self.clock.elapsed().saturating_add(pause) > by);
            if pause > PAUSE_MAX || late {
                return Err(Error::Throttled { pause });
            }
            // Others may call meanwhile: reads do not wait for the budget of writes.
            drop(pass);
            self.clock.sleep(pause).await;
        }
    }

    /// Waits for a place among the calls in flight, until the call must have begun.
    async fn place(&self, begin_by: Option<Duration>) -> Result<CallPermit<'_>, Error> {
        let in_time = async {
            match begin_by {
                Some(by) => self.clock.sleep(by.saturating_sub(self.clock.elapsed())).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            place = self.places.acquire() => {
                let place = place.map_err(|closed| Error::Unavailable(closed.to_string()))?;
                Ok(CallPermit { pace: self, place: Some(place) })
            }
            () = in_time => Err(Error::Throttled { pause: PAUSE_MAX }),
        }
    }

    /// Takes one call from each budget still wanted, or returns how long until there is one.
    fn within_budget(&self, wanted: &mut Vec<&Budget>) -> Option<Duration> {
        while let Some(budget) = wanted.last() {
            if let Err(not_until) = budget.check() {
                return Some(not_until.wait_time_from(self.clock.elapsed()));
            }
            wanted.pop();
        }
        None
    }

    /// How many calls have failed in a row.
    #[cfg(test)]
    pub(super) fn failures(&self) -> u32 {
        self.state().failures
    }

    fn state(&self) -> MutexGuard<'_, PaceState> {
        // Each change of it is a few assignments that cannot panic halfway.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Half of the limit at once, the other half spread over the window, so that no window ever holds more than the limit.
fn budget(per_window: NonZeroU32, clock: Clock) -> Budget {
    let half = NonZeroU32::new(per_window.get() / 2).unwrap_or(NonZeroU32::MIN);
    let each = WINDOW.checked_div(half.get()).unwrap_or(WINDOW);
    let quota = Quota::with_period(each).unwrap_or(Quota::per_second(NonZeroU32::MIN));
    RateLimiter::direct_with_clock(quota.allow_burst(half), clock)
}

impl CallPermit<'_> {
    /// Reports how the call ended.
    pub(super) fn finish(mut self, went: CallOutcome) {
        let Pace { clock, .. } = self.pace;
        let now = clock.elapsed();
        let mut state = self.pace.state();
        state.note(now, clock.random_fraction(), went);
        if matches!(went, CallOutcome::Throttled(_)) {
            telemetry::count_throttling(clock::after(clock.now(), state.paused_until.saturating_sub(now)));
        }
        let ConcurrencyLimit { now, .. } = state.at_once;
        tracing::trace!(?went, at_once = now, "a call to Graph has ended");
        if state.at_once.excess > 0
            && let Some(place) = self.place.take()
        {
            state.at_once.excess = state.at_once.excess.saturating_sub(1);
            place.forget();
        } else if went == CallOutcome::Answered && state.at_once.step_up() {
            self.pace.places.add_permits(1);
        }
    }
}

impl PaceState {
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
        // This call probes. If its outcome is not known when the next probe is due, the next call probes.
        self.probe_at = self.next_probe(now, chance);
        Admission::Go
    }

    fn note(&mut self, now: Duration, chance: f64, went: CallOutcome) {
        match went {
            CallOutcome::Answered => (self.failures, self.throttled) = (0, 0),
            CallOutcome::Throttled(named) => {
                self.failures = 0;
                // Calls in flight at the same moment are throttled for the same reason: one step down for all of them.
                if now >= self.paused_until {
                    self.at_once.step_down();
                    self.throttled = self.throttled.saturating_add(1);
                }
                let pause = named.unwrap_or_else(|| UNNAMED.pause(self.throttled, chance));
                self.paused_until = self.paused_until.max(now.saturating_add(pause));
            }
            CallOutcome::Failed => {
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

impl ConcurrencyLimit {
    /// Allows one more once as many calls went well as may be in flight. Returns whether it did.
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

    fn state() -> PaceState {
        PaceState {
            at_once: ConcurrencyLimit { now: 8, max: 16, well: 0, excess: 0 },
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
        let mut state = state();
        state.note(second(1), 0.5, CallOutcome::Throttled(Some(second(30))));
        state.note(second(2), 0.5, CallOutcome::Throttled(Some(second(3))));
        // An answer to an earlier call does not end it either.
        state.note(second(3), 0.5, CallOutcome::Answered);
        assert_eq!(state.admit(second(11), 0.5), Admission::Pause(second(20)));
        assert_eq!(state.admit(second(31), 0.5), Admission::Go);
        assert_eq!(state.at_once.now, 4, "one step down for all that were throttled together");
    }

    #[test]
    fn pauses_that_graph_does_not_name_grow() {
        let mut state = state();
        let mut now = Duration::ZERO;
        let pauses = [1, 2, 4, 8, 16, 30, 30].map(|expected| {
            state.note(now, 1.0, CallOutcome::Throttled(None));
            let Admission::Pause(pause) = state.admit(now, 1.0) else { panic!("no pause") };
            now += pause;
            (pause, second(expected))
        });
        assert!(pauses.iter().all(|(pause, expected)| pause == expected), "{pauses:?}");
    }

    #[test]
    fn in_an_outage_one_call_at_a_time_tries_and_its_success_ends_it() {
        let mut state = state();
        for _ in 0..OUTAGE {
            assert_eq!(state.admit(second(1), 1.0), Admission::Go);
            state.note(second(1), 1.0, CallOutcome::Failed);
        }
        assert_eq!(state.admit(second(2), 1.0), Admission::Out(second(1)));
        assert_eq!(state.admit(second(3), 1.0), Admission::Go);
        assert!(matches!(state.admit(second(3), 1.0), Admission::Out(_)), "somebody is trying");
        state.note(second(4), 1.0, CallOutcome::Failed);
        assert_eq!(state.admit(second(5), 1.0), Admission::Out(second(3)), "pauses grow");
        assert_eq!(state.admit(second(8), 1.0), Admission::Go);
        state.note(second(9), 1.0, CallOutcome::Answered);
        assert_eq!(state.admit(second(9), 1.0), Admission::Go);
        assert_eq!(state.admit(second(9), 1.0), Admission::Go);
    }

    proptest! {
        #[test]
        fn calls_at_once_stay_between_one_and_their_maximum(went in prop::collection::vec(any::<bool>(), 0..300)) {
            let mut at_once = ConcurrencyLimit { now: 4, max: 16, well: 0, excess: 0 };
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
            drop(pace.acquire(CallKind::Read, None).await.unwrap());
        }
        drop(pace.acquire(CallKind::Write, None).await.unwrap());
        assert_eq!(clock.elapsed(), second(4), "it waited for a call");
        assert!(pace.writes.check().is_ok() && pace.writes.check().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_waits_keeps_no_read_waiting_and_is_given_up_before_it_would_be_late() {
        let clock = Clock::simulated("2026-03-01T08:00:00Z".parse().unwrap(), 1);
        let (writes_max, calls_max) = (NonZeroU32::new(10).unwrap(), NonZeroU32::new(1000).unwrap());
        let pace = Pace::new(&config::Pace { writes_max, calls_max, calls_at_once_max: 1 }, clock);
        for _ in 0..5 {
            drop(pace.acquire(CallKind::Write, None).await.unwrap());
        }
        // The next write is within the budget after four seconds.
        let late = pace.acquire(CallKind::Write, Some(second(3))).await;
        assert!(matches!(late, Err(Error::Throttled { pause }) if pause == second(4)), "{late:?}");
        assert_eq!(clock.elapsed(), Duration::ZERO, "it is known at once");
        let write = pace.acquire(CallKind::Write, Some(second(5)));
        let read = async {
            drop(pace.acquire(CallKind::Read, None).await.unwrap());
            clock.elapsed()
        };
        let (write, read) = tokio::join!(write, read);
        assert_eq!((read, clock.elapsed()), (Duration::ZERO, second(4)));
        // While it holds the only place, a write that must begin soon is given up.
        let late = pace.acquire(CallKind::Write, Some(second(5))).await;
        assert!(matches!(late, Err(Error::Throttled { .. })), "{late:?}");
        assert_eq!(clock.elapsed(), second(5));
        drop(write.unwrap());
    }

    #[tokio::test]
    async fn permits_follow_the_concurrency_limit_and_an_aborted_call_returns_its_permit() {
        let many = NonZeroU32::new(1000).unwrap();
        let settings = config::Pace { writes_max: many, calls_max: many, calls_at_once_max: 4 };
        let pace = Pace::new(&settings, Clock::system());
        for _ in 0..8 {
            drop(pace.acquire(CallKind::Read, None).await.unwrap());
        }
        let all = [
            pace.acquire(CallKind::Read, None).await.unwrap(),
            pace.acquire(CallKind::Read, None).await.unwrap(),
            pace.acquire(CallKind::Read, None).await.unwrap(),
            pace.acquire(CallKind::Write, None).await.unwrap(),
        ];
        assert_eq!(pace.places.available_permits(), 0);
        for pass in all {
            pass.finish(CallOutcome::Throttled(Some(second(60))));
        }
        assert_eq!(pace.places.available_permits(), 2);
        assert!(
            matches!(pace.acquire(CallKind::Read, None).await, Err(Error::Throttled { pause }) if pause > second(50))
        );
        assert_eq!(pace.places.available_permits(), 2);
    }
}
