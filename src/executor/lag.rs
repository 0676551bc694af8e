//! Reads that lag behind our own writes.
//!
//! For some seconds after a write, Graph may still show the set from before it. Whoever merges into that set undoes the write,
//! although its changes have been reported as done. Such a read can be recognised: it shows exactly a set that was replaced a
//! moment ago. These are stored with the lane, so every replica knows them, also after a restart.
//!
//! It deliberately does not tell a read that lags from an administrator who restores exactly such a set: that is believed a few
//! seconds later.

use std::time::Duration;

use crate::{domain::Digest, store::ReplacedSet};

/// For how long after a write the set from before it is not believed.
const LAG_MAX: Duration = Duration::from_secs(10);

/// The sets that a lane has replaced lately; each with the time, by the clock's `elapsed`, until which it is not believed.
#[derive(Debug)]
pub(super) struct RecentlyReplaced(Vec<(Digest, Duration)>);

impl RecentlyReplaced {
    /// What earlier turns have replaced.
    pub(super) fn by_earlier_turns(sets: Vec<ReplacedSet>, now: Duration) -> Self {
        Self(sets.into_iter().map(|ReplacedSet { set, ttl }| (set, now.saturating_add(ttl))).collect())
    }

    /// Notes that a write took effect on this set.
    pub(super) fn note(&mut self, set: &Digest, now: Duration) {
        self.0.retain(|(other, _)| other != set);
        self.0.push((set.clone(), now.saturating_add(LAG_MAX)));
    }

    /// Whether this is a set that was replaced a moment ago.
    pub(super) fn includes(&self, found: &Digest, now: Duration) -> bool {
        self.0.iter().any(|(set, until)| set == found && now < *until)
    }

    /// What later turns should know.
    pub(super) fn for_later_turns(&self, now: Duration) -> Vec<ReplacedSet> {
        let lasting = |(set, until): &(Digest, Duration)| {
            let ttl = until.checked_sub(now)?;
            Some(ReplacedSet { set: set.clone(), ttl })
        };
        self.0.iter().filter_map(lasting).collect()
    }
}
