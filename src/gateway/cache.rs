//! The cache of Graph's answers: for how long, and collections that are cached whole.
//!
//! Guarantees: one lookup at a time for one key; memory is bounded; a unique match is cached for as long as the settings
//! say, anything else only briefly, since somebody may be about to correct it.
//!
//! It deliberately knows nothing of Graph: lookups are passed in. Called by [`super::name_lookup`].

use std::{
    fmt,
    future::Future,
    hash::Hash,
    sync::Arc,
    time::{Duration, Instant},
};

use moka::{Expiry, future::Cache};

use super::candidates::{ALIKE_MAX, SEVERAL_MAX, alike};
use crate::graph;

/// How long unknown and ambiguous names are cached, and how long a whole collection is.
pub(super) const SHORT_TTL: Duration = Duration::from_secs(15);
/// Names of one collection that are cached.
const CALLED_MAX: u64 = 10_000;

/// What has a certain name.
#[derive(Debug)]
pub(super) struct NameMatches<T> {
    /// Those with exactly this name, up to `SEVERAL_MAX`.
    pub(super) exact: Vec<T>,
    /// If there is none: some that could be meant.
    pub(super) near: Vec<T>,
}

/// A unique match is cached for the full time; none, or several, only briefly.
#[derive(Clone, Copy, Debug)]
pub(super) struct MatchExpiry {
    pub(super) ttl: Duration,
}

impl MatchExpiry {
    pub(super) fn of(self, found: usize) -> Duration {
        if found == 1 { self.ttl } else { SHORT_TTL.min(self.ttl) }
    }
}

impl<K: Hash, V> Expiry<K, Option<V>> for MatchExpiry {
    fn expire_after_create(&self, _key: &K, value: &Option<V>, _created_at: Instant) -> Option<Duration> {
        Some(self.of(value.iter().len()))
    }
}

impl<K: Hash, V> Expiry<K, Arc<NameMatches<V>>> for MatchExpiry {
    fn expire_after_create(&self, _key: &K, value: &Arc<NameMatches<V>>, _created_at: Instant) -> Option<Duration> {
        Some(self.of(value.exact.len()))
    }
}

/// Names, and what has them.
pub(super) type NameCache<T> = Cache<String, Arc<NameMatches<T>>>;

/// A cache of names.
pub(super) fn by_name<T: Send + Sync + 'static>(ttl: Duration) -> NameCache<T> {
    Cache::builder().max_capacity(CALLED_MAX).expire_after(MatchExpiry { ttl }).build()
}

/// A collection that is read whole.
#[derive(Clone)]
pub(super) struct CollectionCache<T> {
    whole: Cache<(), Arc<[T]>>,
    find_by_name: NameCache<T>,
    name: fn(&T) -> &str,
}

impl<T> fmt::Debug for CollectionCache<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listing").finish_non_exhaustive()
    }
}

impl<T: Clone + Send + Sync + 'static> CollectionCache<T> {
    /// A cache for a collection whose rows have names.
    pub(super) fn new(ttl: Duration, name: fn(&T) -> &str) -> Self {
        let whole = Cache::builder().max_capacity(1).time_to_live(SHORT_TTL.min(ttl)).build();
        Self { whole, find_by_name: by_name(ttl), name }
    }

    /// All of it; read by `read` if it is not cached.
    pub(super) async fn all<F>(&self, read: F) -> Result<Arc<[T]>, graph::Error>
    where
        F: Future<Output = Result<Vec<T>, graph::Error>>,
    {
        let ask = async { read.await.map(Arc::from) };
        self.whole.try_get_with((), ask).await.map_err(|error| graph::Error::clone(&error))
    }

    /// What has this name in the collection.
    pub(super) async fn called<F>(&self, name: &str, read: F) -> Result<Arc<NameMatches<T>>, graph::Error>
    where
        F: Future<Output = Result<Vec<T>, graph::Error>>,
    {
        let ask = async {
            let all = self.all(read).await?;
            let exact: Vec<_> = all.iter().filter(|row| (self.name)(row) == name).take(SEVERAL_MAX).cloned().collect();
            let near = all.iter().filter(|row| exact.is_empty() && alike(name, (self.name)(row)));
            let near = near.take(ALIKE_MAX).cloned().collect();
            Ok(Arc::new(NameMatches { exact, near }))
        };
        self.find_by_name
            .try_get_with(name.to_owned(), ask)
            .await
            .map_err(|error: Arc<graph::Error>| graph::Error::clone(&error))
    }

    /// What has this name, if that is cached.
    pub(super) async fn cached(&self, name: &str) -> Option<Arc<NameMatches<T>>> {
        self.find_by_name.get(name).await
    }

    /// Drops the whole collection, so that it is read anew next time.
    pub(super) async fn invalidate(&self) {
        self.whole.invalidate(&()).await;
    }
}
