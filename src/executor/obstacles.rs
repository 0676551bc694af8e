//! Since when the sets of configurations have been gone: reads show nothing where something was left, or no configuration.
//!
//! Either may be temporary, so the ends of changes wait for a while. That is measured from when it was first seen: an outage
//! before it may have lasted for longer, and Graph may show neither for a moment when it is back.
//!
//! It deliberately stores nothing: after a restart, or on another replica, they wait for a while longer.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;

use crate::domain::ConfigurationId;

/// Since when, by configuration. Those that are not gone are not in it.
#[derive(Debug, Default)]
pub(super) struct Obstacles(Mutex<HashMap<ConfigurationId, Timestamp>>);

impl Obstacles {
    /// Notes that a set is gone.
    pub(super) fn note(&self, configuration: &ConfigurationId, now: Timestamp) {
        self.lock().entry(configuration.clone()).or_insert(now);
    }

    /// Notes that it is there, or that this could not be seen.
    pub(super) fn clear(&self, configuration: &ConfigurationId) {
        self.lock().remove(configuration);
    }

    /// Since when a set has been gone; since now if it is not known to be.
    pub(super) fn since(&self, configuration: &ConfigurationId, now: Timestamp) -> Timestamp {
        self.lock().get(configuration).copied().unwrap_or(now)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ConfigurationId, Timestamp>> {
        // Nothing panics while the lock is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
