//! What follows an attempt. Pure, except for the clock that it is given.

use std::time::Duration;

use jiff::Timestamp;

use super::destination::{Delivered, DeliveryError};
use crate::{
    clock::{self, Backoff, Clock},
    config,
    domain::callback::Progress,
    store::callbacks::Next,
};

/// What is known after an attempt, and what comes next.
#[derive(Debug)]
pub(super) struct AttemptOutcome {
    pub(super) progress: Progress,
    pub(super) next: Next,
}

/// What follows an attempt to deliver the callback of an operation that ended at `ended_at`.
pub(super) fn next_step(
    outcome: &Result<Delivered, DeliveryError>,
    progress: Progress,
    ended_at: Option<Timestamp>,
    settings: &config::Callbacks,
    clock: Clock,
) -> AttemptOutcome {
    let now = clock.now();
    let progress = Progress { last_at: Some(now), ..progress };
    let DeliveryError { status, why, is_final, pause, .. } = match outcome {
        Ok(Delivered { status }) => {
            let progress =
                Progress { last_status: Some(*status), last_error: None, delivered_at: Some(now), ..progress };
            return AttemptOutcome { progress, next: Next::Delivered };
        }
        Err(refusal) => refusal,
    };
    let failures = progress.failures.saturating_add(1);
    let (first, longest) = settings.pauses;
    let own = Backoff { first, longest }.pause(failures, 0.5 + clock.random_fraction() / 2.0);
    let pause = pause.map_or(own, |named| named.max(own));
    let begun = progress.resent_at.or(ended_at).unwrap_or(now);
    let over = clock::after(now, pause) > clock::after(begun, settings.give_up_after);
    let next = if *is_final || over { Next::Parked } else { Next::Again(pause) };
    let progress = Progress { failures, last_status: *status, last_error: Some(why.clone()), ..progress };
    AttemptOutcome { progress, next }
}

/// The longest pause that a destination can ask for.
pub(super) const PAUSE_MAX: Duration = Duration::from_hours(24);

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: config::Callbacks = config::Callbacks {
        source: String::new(),
        timeout: Duration::from_secs(1),
        pauses: (Duration::from_secs(10), Duration::from_mins(10)),
        give_up_after: Duration::from_hours(1),
    };

    fn refused(pause: Option<u64>) -> Result<Delivered, DeliveryError> {
        let pause = pause.map(Duration::from_secs);
        Err(DeliveryError { pause, ..DeliveryError::failed(Some(503), "it answered 503".to_owned()) })
    }

    fn judged(outcome: &Result<Delivered, DeliveryError>, failures: u32, minutes_ago: u64) -> AttemptOutcome {
        let clock = Clock::system();
        let ended = clock.now().checked_sub(jiff::SignedDuration::from_mins(i64::try_from(minutes_ago).unwrap()));
        next_step(outcome, Progress { failures, ..Progress::default() }, ended.ok(), &SETTINGS, clock)
    }

    fn pause(outcome: &AttemptOutcome) -> Duration {
        if let Next::Again(pause) = outcome.next { pause } else { panic!("{outcome:?}") }
    }

    #[test]
    fn pauses_grow_and_spread_and_are_not_shorter_than_asked_for() {
        let (early, late) = (judged(&refused(None), 0, 0), judged(&refused(None), 20, 0));
        assert!(pause(&early) >= Duration::from_secs(5) && pause(&early) <= Duration::from_secs(20), "{early:?}");
        assert!(pause(&late) >= Duration::from_mins(5) && pause(&late) <= Duration::from_mins(10), "{late:?}");
        assert_eq!(pause(&judged(&refused(Some(1_800)), 0, 0)), Duration::from_mins(30));
        assert_eq!((early.progress.failures, early.progress.last_status), (1, Some(503)));
    }

    #[test]
    fn it_is_given_up_when_its_time_is_over_or_the_destination_wants_no_more() {
        assert_eq!(judged(&refused(None), 3, 61).next, Next::Parked);
        assert_eq!(judged(&refused(Some(7_200)), 0, 0).next, Next::Parked);
        let gone = Err(DeliveryError { is_final: true, ..DeliveryError::failed(Some(410), "gone".to_owned()) });
        assert_eq!(judged(&gone, 0, 0).next, Next::Parked);
    }

    #[test]
    fn a_resent_callback_gets_a_fresh_deadline() {
        let clock = Clock::system();
        let progress = Progress { resent_at: Some(clock.now()), ..Progress::default() };
        let long_ago = Some(Timestamp::UNIX_EPOCH);
        let outcome = next_step(&refused(None), progress.clone(), long_ago, &SETTINGS, clock);
        assert!(matches!(outcome.next, Next::Again(_)), "{outcome:?}");
        let delivered = next_step(&Ok(Delivered { status: 204 }), progress, long_ago, &SETTINGS, clock);
        assert_eq!((delivered.next, delivered.progress.last_error), (Next::Delivered, None));
        assert!(delivered.progress.delivered_at.is_some());
    }
}
