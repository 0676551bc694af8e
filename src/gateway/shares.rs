//! How many questions to Graph each caller may have under way at once.
//!
//! Guarantees: whoever waits for Graph is let through in the order of coming, so nobody waits behind more than so many
//! questions of each other caller, however many names one of them sends that nothing bears. Memory does not grow, since
//! callers are those of the settings.
//!
//! It deliberately does not count what is remembered: that is answered whatever else waits.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::Semaphore;

use crate::domain::Caller;

/// Fewer than the calls that may be under way to Graph when a process starts, so one caller never has them all then.
const QUESTIONS_AT_ONCE: usize = 3;

/// The shares of all callers.
#[derive(Clone, Debug, Default)]
pub(super) struct Shares(Arc<Mutex<BTreeMap<String, Share>>>);

/// What one caller may ask at once.
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
    /// Asks when fewer of the caller's questions are under way.
    pub(super) async fn ask<T>(&self, question: impl Future<Output = T>) -> T {
        // Nobody closes it; if somebody did, there would be no bound, and answers all the same.
        let _place = self.0.acquire().await;
        question.await
    }
}
