//! How many lookups in Graph, and how many searches of the store, each caller may have in flight.
//!
//! Guarantees: lookups that wait for Graph are let through in the order in which they came, so none waits behind more than
//! a few of each other caller, however many unknown names one of them sends. The same holds for searches, each of which may
//! read two thousand rows, though its caller may see none of them. Memory does not grow, since callers come from the settings.
//!
//! It deliberately does not count what is cached: that is answered whatever else waits.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{domain::Caller, graph::GROUPS_MAX};

/// Fewer than the calls to Graph that may be in flight when a process starts, so one caller never takes them all then.
const LOOKUPS_MAX: usize = 3;

/// Fewer than either store has connections that read operations.
const SEARCHES_MAX: usize = 2;

/// The quotas of all callers.
#[derive(Clone, Debug, Default)]
pub(super) struct LookupQuotas(Arc<Mutex<BTreeMap<String, LookupQuota>>>);

/// What one caller may have in flight.
#[derive(Clone, Debug)]
pub(super) struct LookupQuota(Arc<Permits>);

#[derive(Debug)]
struct Permits {
    lookups: Arc<Semaphore>,
    /// Of groups by id, of which one call takes many.
    groups: Semaphore,
    searches: Semaphore,
}

impl LookupQuotas {
    /// The quota of a caller.
    pub(super) fn of(&self, caller: &Caller) -> LookupQuota {
        let mut shares = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let places = || Permits {
            lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)),
            groups: Semaphore::new(GROUPS_MAX),
            searches: Semaphore::new(SEARCHES_MAX),
        };
        shares.entry(caller.name.clone()).or_insert_with(|| LookupQuota(Arc::new(places()))).clone()
    }
}

impl LookupQuota {
    /// Waits until fewer lookups than the caller's quota are in flight. The permit is held until it is dropped.
    pub(super) async fn acquire(&self) -> Option<OwnedSemaphorePermit> {
        // Nobody closes the semaphore; if somebody did, there would be no limit, but still answers.
        Arc::clone(&self.0.lookups).acquire_owned().await.ok()
    }

    /// Runs a lookup as soon as there is a permit for it.
    pub(super) async fn run<T>(&self, lookup: impl Future<Output = T>) -> T {
        let _place = self.acquire().await;
        lookup.await
    }

    /// The same for the lookup of one group by its id: as many at once as one call can take.
    pub(super) async fn run_group_lookup<T>(&self, lookup: impl Future<Output = T>) -> T {
        let _place = self.0.groups.acquire().await;
        lookup.await
    }

    /// Runs a search of the store as soon as there is a place for it.
    pub(super) async fn search<T>(&self, search: impl Future<Output = T>) -> T {
        let _place = self.0.searches.acquire().await;
        search.await
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_caller_searches_twice_at_once_and_keeps_no_other_waiting() {
        let shares = LookupQuotas::default();
        let caller = |name: &str| Caller {
            name: name.to_owned(),
            issuer: String::new(),
            subject: String::new(),
            token_id: None,
            roles: Vec::new(),
            certificate: None,
        };
        let (one, other) = (shares.of(&caller("one")), shares.of(&caller("other")));
        let mut searches: Vec<_> = (0..SEARCHES_MAX).map(|_| Box::pin(one.search(pending::<()>()))).collect();
        assert!(searches.iter_mut().all(|search| search.now_or_never().is_none()));
        let third = shares.of(&caller("one"));
        assert!(third.search(async {}).now_or_never().is_none());
        assert!(other.search(async {}).now_or_never().is_some());
        searches.pop();
        assert!(third.search(async {}).now_or_never().is_some());
    }
}
