//! How many lookups in Graph each caller may have in flight.
//!
//! Guarantees: lookups that wait for Graph are let through in the order in which they came, so none waits behind more than
//! a few of each other caller, however many unknown names one of them sends. Memory does not grow, since callers come from
//! the settings.
//!
//! It deliberately does not count what is cached: that is answered whatever else waits.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::Semaphore;

use crate::domain::Caller;

/// Fewer than the calls to Graph that may be in flight when a process starts, so one caller never takes them all then.
const QUESTIONS_AT_ONCE: usize = 3;

/// The shares of all callers.
#[derive(Clone, Debug, Default)]
pub(super) struct Shares(Arc<Mutex<BTreeMap<String, Share>>>);

/// What one caller may have in flight.
#[derive(Clone, Debug)]
pub(super) struct Share(Arc<Semaphore>);

impl Shares {
    /// The share of a caller.
    pub(super) fn of(&self, caller: &Caller) -> Share {
        let mut shares = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let share =
            shares.entry(caller.name.clone()).or_insert_with(|| Share(Arc::new(Semaphore::new(QUESTIONS_AT_ONCE))));
        share.clone()
    }
}

impl Share {
    /// Runs a lookup as soon as fewer than the caller's share are in flight.
    pub(super) async fn ask<T>(&self, question: impl Future<Output = T>) -> T {
        // Nobody closes the semaphore; if somebody did, there would be no limit, but still answers.
        let _place = self.0.acquire().await;
        question.await
    }
}
