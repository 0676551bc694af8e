//! Lanes on which other replicas work, and when they are looked at again.
//!
//! Each look at a lane that is not free takes the store's writer and its database some of their time, and while callers come in
//! crowds there is a notice every few milliseconds. The owner of the lane hears of new work as well and goes on until nothing is
//! pending, so looking now and then is for owners that stop in between.
//!
//! It deliberately knows no store: whether a lane is elsewhere is said by whoever has looked.

use std::{collections::HashMap, time::Duration};

use crate::domain::ConfigurationId;

/// How long a lane that another replica owns is left alone.
pub(super) const LEFT_ALONE: Duration = Duration::from_millis(500);

/// The lanes that were found elsewhere of late. Times are those that have passed on the process's clock.
#[derive(Debug, Default)]
pub(super) struct Elsewhere(HashMap<ConfigurationId, Away>);

#[derive(Debug)]
struct Away {
    until: Duration,
    /// Whether it is to be looked at then.
    awaited: bool,
}

/// What is to be done about a lane that may have work.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Look {
    Now,
    /// After so long; and nothing until then.
    Later(Duration),
    /// Nothing: it will be looked at anyway.
    Awaited,
}

impl Elsewhere {
    /// Takes down that another replica owned a lane just now.
    pub(super) fn note(&mut self, lane: ConfigurationId, now: Duration) {
        self.0.insert(lane, Away { until: now.saturating_add(LEFT_ALONE), awaited: false });
    }

    /// When to look at a lane that may have work. A lane is to be looked at later once only, however often it is asked for.
    pub(super) fn look(&mut self, lane: &ConfigurationId, now: Duration) -> Look {
        let left = self.0.get(lane).map_or(Duration::ZERO, |away| away.until.saturating_sub(now));
        match self.0.get_mut(lane) {
            Some(away) if !left.is_zero() && away.awaited => Look::Awaited,
            Some(away) if !left.is_zero() => {
                away.awaited = true;
                Look::Later(left)
            }
            Some(_) | None => {
                self.0.remove(lane);
                Look::Now
            }
        }
    }

    /// Forgets lanes that may be looked at again.
    pub(super) fn tidy(&mut self, now: Duration) {
        self.0.retain(|_, away| away.until > now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_that_is_elsewhere_is_left_alone_for_a_while_and_then_looked_at_once_if_it_was_asked_for() {
        let lane: ConfigurationId = "9f1c6a4e-8a77-4b8e-9d6e-3a54b2f1c001_Limit".parse().unwrap();
        let other: ConfigurationId = "9f1c6a4e-8a77-4b8e-9d6e-3a54b2f1c002_Limit".parse().unwrap();
        let at = Duration::from_millis;
        let mut elsewhere = Elsewhere::default();
        assert_eq!(elsewhere.look(&lane, at(0)), Look::Now);
        elsewhere.note(lane.clone(), at(10));
        assert_eq!(elsewhere.look(&lane, at(110)), Look::Later(at(400)));
        assert_eq!(elsewhere.look(&lane, at(509)), Look::Awaited);
        assert_eq!(elsewhere.look(&other, at(509)), Look::Now);
        assert_eq!(elsewhere.look(&lane, at(510)), Look::Now, "its time has come");
        assert_eq!(elsewhere.look(&lane, at(511)), Look::Now, "and nothing is known of it since");
        elsewhere.note(lane.clone(), at(600));
        elsewhere.tidy(at(1_099));
        assert_eq!(elsewhere.look(&lane, at(1_099)), Look::Later(at(1)));
        elsewhere.tidy(at(1_100));
        assert!(elsewhere.0.is_empty());
    }
}
