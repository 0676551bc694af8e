//! The key set of one issuer: fetched when it is needed, kept, refreshed, and kept on when the issuer is down.
//!
//! Guarantees: the set comes from the configured address and nowhere else, however a token asks; one fetch at a time; a
//! token whose key is unknown causes a fetch at most once in `jwks_refresh_min`, so nobody can make the gateway hammer
//! an issuer; the last good set stays in force for [`GRACE`] when it cannot be renewed, and no longer.
//!
//! When to fetch is decided by [`State::need`], a function of the time. That is why the set is not in a cache that
//! expires by a clock of its own; it also lets callers go on with the set at hand while one of them renews it.
//!
//! It deliberately judges no key (`keys` does) and no token (`jwt` does). Called by `auth` for every token.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use super::keys::KeySet;
use crate::{
    config::Issuer,
    outbound::{Call, Method, Outbound, StatusCode},
};

/// How long the last good set is used beyond its time when it cannot be renewed. A day outlasts an issuer's bad night;
/// a key withdrawn meanwhile is not trusted for longer.
const GRACE: Duration = Duration::from_hours(24);
/// How long a failed fetch is not repeated, so that callers of a dead issuer get their answer at once.
const RETRY_MIN: Duration = Duration::from_secs(5);
/// How long a fetch may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The largest key set that is read, in bytes. Entra's has about 20 KiB.
const DOCUMENT_MAX: usize = 256 * 1024;

/// The keys of one issuer, as far as they are known.
#[derive(Debug)]
pub(super) struct Keyring {
    outbound: Outbound,
    state: RwLock<State>,
    /// Held by whoever fetches.
    flight: tokio::sync::Mutex<()>,
}

/// The issuer's keys cannot be had, and none that were had before may be used any longer.
#[derive(Debug)]
pub(super) struct Unavailable;

/// What is known, and what was tried. All times are since the clock was made.
#[derive(Clone, Debug, Default)]
struct State {
    /// The last good set, and when it was fetched.
    good: Option<(Duration, Arc<KeySet>)>,
    /// When a fetch failed after the last good one.
    failed: Option<Duration>,
    /// When a fetch was last made for the sake of an unknown key.
    forced: Option<Duration>,
}

/// What a token's key needs.
#[derive(Clone, Debug)]
enum Need {
    /// Nothing: look in this set.
    Ready(Arc<KeySet>),
    /// A newer set. If it cannot be had at once, this one will do.
    Renewal(Arc<KeySet>),
    /// A newer set, because the key is not in this one.
    Key,
    /// Any set.
    Set,
    /// What cannot be had now.
    Nothing,
}

impl State {
    fn need(&self, key: &str, issuer: &Issuer, now: Duration) -> Need {
        let paused = |since: Option<Duration>, pause| since.is_some_and(|since| now.saturating_sub(since) < pause);
        let resting = paused(self.failed, RETRY_MIN);
        let Some((fetched, set)) = &self.good else { return if resting { Need::Nothing } else { Need::Set } };
        let age = now.saturating_sub(*fetched);
        if age >= issuer.jwks_ttl.saturating_add(GRACE) {
            return if resting { Need::Nothing } else { Need::Set };
        }
        if age >= issuer.jwks_ttl && !resting {
            return if set.find(key).is_some() { Need::Renewal(Arc::clone(set)) } else { Need::Set };
        }
        if set.find(key).is_some() {
            return Need::Ready(Arc::clone(set));
        }
        match (self.failed, paused(self.forced, issuer.jwks_refresh_min)) {
            (_, false) if !resting => Need::Key,
            (None, _) => Need::Ready(Arc::clone(set)),
            // The key may well be in the set that could not be fetched.
            (Some(_), _) => Need::Nothing,
        }
    }
}

impl Keyring {
    pub(super) fn new(outbound: Outbound) -> Self {
        Self { outbound, state: RwLock::default(), flight: tokio::sync::Mutex::default() }
    }

    /// The set in which to look for `key`. That it is not there then means that the issuer does not publish it.
    pub(super) async fn set_for(&self, key: &str, issuer: &Issuer, now: Duration) -> Result<Arc<KeySet>, Unavailable> {
        let flight = match self.need(key, issuer, now) {
            Need::Ready(set) => return Ok(set),
            Need::Nothing => return Err(Unavailable),
            Need::Renewal(set) => match self.flight.try_lock() {
                Ok(flight) => flight,
                Err(_) => return Ok(set),
            },
            Need::Key | Need::Set => self.flight.lock().await,
        };
        // Another may have landed while this one waited for its turn.
        let fallback = match self.need(key, issuer, now) {
            Need::Ready(set) => return Ok(set),
            Need::Nothing => return Err(Unavailable),
            Need::Renewal(set) => Some(set),
            Need::Set => None,
            Need::Key => {
                // Before the fetch, because a caller who hangs up ends it half way.
                self.change(|state| state.forced = Some(now));
                None
            }
        };
        let fetched = self.fetch(issuer).await;
        drop(flight);
        match fetched {
            Ok(set) => {
                let set = Arc::new(set);
                self.change(|state| (state.good, state.failed) = (Some((now, Arc::clone(&set))), None));
                Ok(set)
            }
            Err(why) => {
                tracing::warn!(issuer.name = %issuer.name, error = %why, "cannot fetch the issuer's keys");
                self.change(|state| state.failed = Some(now));
                fallback.ok_or(Unavailable)
            }
        }
    }

    fn need(&self, key: &str, issuer: &Issuer, now: Duration) -> Need {
        self.state.read().unwrap_or_else(PoisonError::into_inner).need(key, issuer, now)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.write().unwrap_or_else(PoisonError::into_inner));
    }

    async fn fetch(&self, issuer: &Issuer) -> Result<KeySet, String> {
        let call = Call {
            method: Method::GET,
            url: issuer.jwks_url.to_string(),
            headers: Vec::new(),
            body: None,
            timeout: TIMEOUT,
            answer_max: DOCUMENT_MAX,
        };
        let answer = self.outbound.send(call).await.map_err(|error| error.to_string())?;
        if answer.status != StatusCode::OK {
            return Err(format!("the answer is {}", answer.status));
        }
        KeySet::read(&answer.body, &issuer.issuer).map_err(|error| format!("the answer is no key set: {error}"))
    }
}
