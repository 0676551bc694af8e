//! The gateway in force: policies and catalogue change while it runs, together or not at all.
//!
//! Guarantees: a version that was handed out does not change, so a call is resolved and decided by the same policies and
//! the same names from beginning to end; the next call sees the next version. There is always one in force.
//!
//! It deliberately does not check the versions that it is given; `reload` has done so.

use std::sync::{Arc, PoisonError, RwLock};

use super::{Gateway, resolve::NameResolver};
use crate::{config::Catalogue, policy::Policies};

/// Holds the gateway in force.
#[derive(Debug)]
pub struct Current(RwLock<Arc<Gateway>>);

impl Current {
    /// Starts with this version.
    pub fn new(gateway: Arc<Gateway>) -> Self {
        Self(RwLock::new(gateway))
    }

    /// The version in force now.
    pub fn gateway(&self) -> Arc<Gateway> {
        // Nothing panics while the lock is held, so the value behind it is intact.
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts another version in force. Calls in flight keep theirs, and accepted changes keep their permits.
    pub fn replace(&self, policies: Policies, catalogue: Catalogue) {
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        // What Graph said stays cached.
        let names = current.resolver.names().clone();
        let directory = NameResolver::new(catalogue, names, current.settings.targets_max);
        *current = Arc::new(Gateway { policies, resolver: directory, ..Gateway::clone(&current) });
    }
}
