//! Reads that lag behind our own writes.
//!
//! For some seconds after a write, Graph may still show the set from before it. Whoever merges into that set undoes the write,
//! although its changes have been reported as done. Such a read can be recognised: it shows exactly a set that this process
//! has replaced a moment ago.
//!
//! It deliberately knows only this process's writes: a read that lags in another replica, or after a restart, must be the same
//! twice and then passes for an edit. An administrator who restores exactly that set within that time is believed when it is over.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::domain::{ConfigurationId, Digest};

/// For how long after a write the set from before it is not believed.
const LAG_MAX: Duration = Duration::from_secs(10);

/// Sets that were replaced, each with the time of its write by the clock's `elapsed`.
type Sets = Vec<(Digest, Duration)>;

/// The sets that were replaced lately.
#[derive(Debug, Default)]
pub(super) struct Replaced(Mutex<HashMap<ConfigurationId, Sets>>);

impl Replaced {
    /// Notes that a write took effect on this set.
    pub(super) fn note(&self, configuration: &ConfigurationId, before: &Digest, now: Duration) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, sets| {
            sets.retain(|(_, at)| is_recent(*at, now));
            !sets.is_empty()
        });
        all.entry(configuration.clone()).or_default().push((before.clone(), now));
    }

    /// Whether this is a set that was replaced a moment ago.
    pub(super) fn includes(&self, configuration: &ConfigurationId, found: &Digest, now: Duration) -> bool {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(configuration).is_some_and(|sets| sets.iter().any(|(set, at)| set == found && is_recent(*at, now)))
    }
}

fn is_recent(at: Duration, now: Duration) -> bool {
    now.saturating_sub(at) < LAG_MAX
}
