//! The key set of one issuer: fetched when it is needed, cached, refreshed, and kept in use while the issuer is down.
//!
//! Guarantees: the set comes from the configured address and nowhere else, whatever a token says. It is cached for
//! `jwks_ttl` and renewed before that, so that nobody waits for it; one fetch is in flight at a time, shared by all who
//! need it, and a caller that hangs up does not end it. If metadata name the set, they must be those of the very issuer. A
//! token whose key is unknown causes a fetch at most once in `jwks_refresh_min`, so nobody can make the gateway flood an
//! issuer, and nobody whose key is known waits for it. If renewal fails, the last good set stays in use for [`GRACE`] and
//! no longer.
//!
//! moka does the caching; [`Past`] is what a cache cannot know. It deliberately judges no key (`keys` does) and no token
//! (`jwt` does). Called by `auth` for every token.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use moka::future::Cache;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use url::Url;

use super::keys::KeySet;
use crate::{
    clock::Clock,
    config::{Issuer, KeySource},
    outbound::{Method, Outbound, Request, StatusCode},
};

/// Parts of a set's lifetime: after each, it is checked whether the set is to be renewed. The last ones are for retries.
const LOOKS: u32 = 8;
/// After how many parts the set is to be renewed.
const RENEWED_AFTER: u32 = 6;

/// How long the last good set is used beyond its lifetime if it cannot be renewed. A day outlasts a bad night of an issuer;
/// a key withdrawn meanwhile is not trusted for longer.
const GRACE: Duration = Duration::from_hours(24);
/// How long a fetch may take, including that of the metadata before it.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long after the start of a failed fetch none is started, so that callers of a dead issuer get their answer at once.
/// Twice [`TIMEOUT`]: otherwise an issuer that causes timeouts would be asked without a pause.
const RETRY_MIN: Duration = Duration::from_secs(10);
/// The largest key set that is read, and the largest metadata, in bytes. Entra's set has about 20 KiB.
const DOCUMENT_MAX: usize = 256 * 1024;

/// The keys of one issuer, as far as they are known. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Keyring {
    issuer: Arc<Issuer>,
    outbound: Outbound,
    /// The set in force.
    current: Cache<(), Arc<KeySet>>,
    /// Stores nothing: it lets all who need a fetch share the one in flight.
    flight: Cache<(), Arc<KeySet>>,
    past: Arc<Mutex<Past>>,
}

/// The issuer's keys cannot be fetched, and none that were fetched before may be used any longer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unavailable;

/// What metadata say, as far as it is used here.
#[derive(Debug, Deserialize)]
struct Metadata {
    issuer: String,
    jwks_uri: String,
}

/// What was fetched and tried. All times are by the clock's `elapsed`.
#[derive(Debug, Default)]
struct Past {
    /// The last good set, and when it was requested.
    good: Option<(Duration, Arc<KeySet>)>,
    /// When the fetch began that is in flight, or that failed after the last good one.
    tried: Option<Duration>,
    /// When a fetch last began because of an unknown key.
    forced: Option<Duration>,
}

impl Past {
    fn is_resting(&self, now: Duration) -> bool {
        is_recent(self.tried, RETRY_MIN, now)
    }

    /// The last good set, if it has the key and is younger than `age_max`.
    fn bridge(&self, key: &str, age_max: Duration, now: Duration) -> Option<Arc<KeySet>> {
        let (asked, set) = self.good.as_ref()?;
        let usable = is_recent(Some(*asked), age_max, now) && set.find(key).is_some();
        usable.then(|| Arc::clone(set))
    }

    /// Notes that a fetch begins, unless it is too soon. `pause` is the time between fetches because of unknown keys.
    fn begins(&mut self, pause: Option<Duration>, now: Duration) -> bool {
        if self.is_resting(now) || pause.is_some_and(|pause| is_recent(self.forced, pause, now)) {
            return false;
        }
        self.tried = Some(now);
        self.forced = pause.map(|_| now).or(self.forced);
        true
    }
}

fn is_recent(moment: Option<Duration>, span: Duration, now: Duration) -> bool {
    moment.is_some_and(|moment| now.saturating_sub(moment) < span)
}

impl Keyring {
    pub(super) fn new(issuer: Arc<Issuer>, outbound: Outbound) -> Self {
        let lasting = |ttl| Cache::builder().max_capacity(1).time_to_live(ttl).build();
        let (current, flight) = (lasting(issuer.jwks_ttl), lasting(Duration::ZERO));
        Self { issuer, outbound, current, flight, past: Arc::default() }
    }

    /// The set in which to look for `key`. If it is not there, the issuer does not publish it.
    pub(super) async fn set_for(&self, key: &str, now: Duration) -> Result<Arc<KeySet>, Unavailable> {
        if let Some(set) = self.current.get(&()).await.filter(|set| set.find(key).is_some()) {
            return Ok(set);
        }
        let bridge = self.past().bridge(key, self.issuer.jwks_ttl.saturating_add(GRACE), now);
        match bridge {
            // Another request is renewing it, or tried in vain.
            Some(set) if self.past().is_resting(now) => Ok(set),
            bridge => self.newer(key.to_owned(), now).await.or(bridge.ok_or(Unavailable)),
        }
    }

    /// Renews the set before it expires, again and again, once it has been needed.
    pub(super) async fn keep_fresh(self, clock: Clock, stopping: CancellationToken) {
        while stopping.run_until_cancelled(clock.sleep(self.part())).await.is_some() {
            self.renew(clock.elapsed()).await;
        }
    }

    /// Renews the set if it is old enough.
    pub(super) async fn renew(&self, now: Duration) {
        let young = self.part().saturating_mul(RENEWED_AFTER);
        let due = self.past().good.as_ref().is_some_and(|(asked, _)| !is_recent(Some(*asked), young, now));
        if due {
            let renewal = async {
                let begins = self.past().begins(None, now);
                if begins { self.bring(now).await } else { Err(Unavailable) }
            };
            // The failure is logged; the next check tries again, or the next token after the set has expired.
            drop(self.flight.try_get_with((), renewal).await);
        }
    }

    fn part(&self) -> Duration {
        self.issuer.jwks_ttl.checked_div(LOOKS).unwrap_or_default()
    }

    /// The set after the fetch that is in flight, or after one that begins now if it may.
    async fn newer(&self, key: String, now: Duration) -> Result<Arc<KeySet>, Unavailable> {
        let ring = self.clone();
        // In a task of its own: otherwise a caller that hangs up would end the fetch for all who share it.
        let flight = async move { ring.flight.try_get_with((), ring.land(&key, now)).await };
        match tokio::spawn(flight.in_current_span()).await {
            Ok(Ok(set)) => Ok(set),
            Ok(Err(_)) | Err(_) => Err(Unavailable),
        }
    }

    async fn land(&self, key: &str, now: Duration) -> Result<Arc<KeySet>, Unavailable> {
        let current = self.current.get(&()).await;
        // Another fetch may have succeeded while this one was on its way.
        if let Some(set) = current.clone().filter(|set| set.find(key).is_some()) {
            return Ok(set);
        }
        if !self.past().begins(current.as_ref().map(|_| self.issuer.jwks_refresh_min), now) {
            // If the last fetch failed, the key may well be in the set that could not be fetched.
            return current.filter(|_| self.past().tried.is_none()).ok_or(Unavailable);
        }
        self.bring(now).await
    }

    /// Fetches the set and puts it in force.
    async fn bring(&self, now: Duration) -> Result<Arc<KeySet>, Unavailable> {
        let set = self.fetch().await.map(Arc::new).map_err(|why| {
            tracing::warn!(issuer.name = %self.issuer.name, error = %why, "cannot fetch the issuer's keys");
            Unavailable
        })?;
        self.current.insert((), Arc::clone(&set)).await;
        let mut past = self.past();
        (past.good, past.tried) = (Some((now, Arc::clone(&set))), None);
        Ok(set)
    }

    async fn fetch(&self) -> Result<KeySet, String> {
        let half = TIMEOUT.checked_div(2).unwrap_or_default();
        let document = match &self.issuer.keys {
            KeySource::Set(url) => self.document(url, TIMEOUT).await?,
            KeySource::Metadata(url) => self.document(&self.discover(url, half).await?, half).await?,
        };
        KeySet::read(&document, &self.issuer.issuer).map_err(|error| format!("the answer is no key set: {error}"))
    }

    /// The address of the set, by the metadata.
    async fn discover(&self, url: &Url, timeout: Duration) -> Result<Url, String> {
        let document = self.document(url, timeout).await.map_err(|why| format!("of the metadata: {why}"))?;
        let metadata: Metadata =
            serde_json::from_slice(&document).map_err(|error| format!("the answer is no metadata: {error}"))?;
        // Otherwise anybody who can publish something at that host could pass off their keys as this issuer's.
        if metadata.issuer != self.issuer.issuer {
            return Err("the metadata are of another issuer than the configured one".to_owned());
        }
        KeySource::named_by_metadata(url, &metadata.jwks_uri)
            .ok_or_else(|| "the metadata name a key set (jwks_uri) without https://".to_owned())
    }

    async fn document(&self, url: &Url, timeout: Duration) -> Result<Vec<u8>, String> {
        let call = Request {
            method: Method::GET,
            url: url.to_string(),
            headers: Vec::new(),
            body: None,
            timeout,
            end_by: None,
            response_max: DOCUMENT_MAX,
        };
        let answer = self.outbound.send(call).await.map_err(|error| error.to_string())?;
        if answer.status != StatusCode::OK {
            return Err(format!("the answer is {}", answer.status));
        }
        Ok(answer.body)
    }

    fn past(&self) -> MutexGuard<'_, Past> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Acts as if `jwks_ttl` had passed.
    #[cfg(test)]
    pub(super) async fn expire(&self) {
        self.current.invalidate(&()).await;
    }
}
