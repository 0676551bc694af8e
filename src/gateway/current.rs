//! The gateway in force: policies and catalogue change while it runs, together or not at all.
//!
//! Guarantees: whoever asks for it holds one version for as long as it likes, so a call is resolved and decided by the same
//! policies and the same names from its beginning to its end; the next call sees the next version. There is no moment
//! without one.
//!
//! It deliberately does not judge what it is given; the root has checked it.

use std::sync::{Arc, PoisonError, RwLock};

use super::{Gateway, resolve::Directory};
use crate::{config::Catalogue, policy::Policies};

/// Where the gateway in force is.
#[derive(Debug)]
pub struct Current(RwLock<Arc<Gateway>>);

impl Current {
    /// The first version.
    pub fn new(gateway: Arc<Gateway>) -> Self {
        Self(RwLock::new(gateway))
    }

    /// The version in force now.
    pub fn gateway(&self) -> Arc<Gateway> {
        // Nothing can fail while the lock is held, so what is behind it is whole.
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts others in force. Calls under way go on as they began, and what was accepted keeps its permit.
    pub fn take_up(&self, policies: Policies, catalogue: Catalogue) {
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        // What Graph said is remembered.
        let names = current.directory.names().clone();
        let directory = Directory::new(catalogue, names, current.settings.targets_max);
        *current = Arc::new(Gateway { policies, directory, ..Gateway::clone(&current) });
    }
}
