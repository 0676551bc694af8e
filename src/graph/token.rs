//! The gateway's own token for Graph: app-only, by client credentials.
//!
//! Guarantees: one fetch at a time, however many wait; after three quarters of its life a token is refreshed in the background
//! while the old one is still used, so an outage of the login service is not noticed until the token really expires. After a
//! refusal that somebody must act on, or that names a pause, the login service is left alone for a while.
//!
//! It deliberately does not retry; its callers know how long they may wait. `credential` makes the request, and `refusal` says
//! what a refusal means.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use moka::future::Cache;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::{
    Error,
    credential::{self, Way},
    refusal::{self, NoToken},
    transport::heeded,
};
use crate::{
    clock::{self, Clock},
    config,
    outbound::Outbound,
    telemetry,
};

/// How long the login service may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// An answer of the login service is a few kilobytes.
const ANSWER_MAX: usize = 64 * 1024;
/// A token is not used in its last seconds: it must not expire on the way to Graph.
const MARGIN: Duration = Duration::from_secs(30);

/// The least age of a token that is dropped because it may lack a permission granted since: the login service takes
/// frequent identical requests for a loop.
const OUTGROWN_AFTER: Duration = Duration::from_mins(1);
/// How many times within [`REFUSED_WITHIN`] a token is dropped because Graph refuses it: few, for the same reason.
const REFUSED_MAX: u32 = 6;
const REFUSED_WITHIN: Duration = Duration::from_mins(1);
/// How long a failed refresh is not retried while the present token is still used.
const REFRESH_REST: Duration = Duration::from_secs(1);

/// A token and its times.
#[derive(Debug)]
pub(super) struct Token {
    value: SecretString,
    asked_at: Timestamp,
    refresh_at: Timestamp,
    unusable_at: Timestamp,
}

impl Token {
    pub(super) fn value(&self) -> &str {
        self.value.expose_secret()
    }

    pub(super) fn bearer(&self) -> String {
        format!("Bearer {}", self.value.expose_secret())
    }
}

/// Where tokens come from.
#[derive(Clone, Debug)]
pub struct Tokens {
    source: Arc<Source>,
    cache: Cache<(), Arc<Token>>,
    refreshing: Arc<AtomicBool>,
    refused: Arc<Mutex<Refused>>,
}

/// How often Graph refused a token, and since when this is counted.
#[derive(Debug, Default)]
struct Refused {
    since: Timestamp,
    number: u32,
}

#[derive(Debug)]
struct Source {
    settings: config::Graph,
    outbound: Outbound,
    clock: Clock,
    /// Until when the login service is left alone, and why.
    rest: Mutex<Option<(Timestamp, Error)>>,
}

#[derive(Deserialize)]
struct TokenAnswer {
    access_token: SecretString,
    expires_in: Option<Seconds>,
    expires_on: Option<Seconds>,
}

impl Tokens {
    /// Tokens for the application that these settings name.
    pub fn new(settings: config::Graph, outbound: Outbound, clock: Clock) -> Self {
        let source = Arc::new(Source { settings, outbound, clock, rest: Mutex::default() });
        Self { source, cache: Cache::new(1), refreshing: Arc::default(), refused: Arc::default() }
    }

    /// A token that is valid now.
    pub(super) async fn token(&self) -> Result<Arc<Token>, Error> {
        let now = self.source.clock.now();
        match self.cache.get(&()).await {
            Some(token) if now < token.refresh_at => return Ok(token),
            Some(token) if now < token.unusable_at => {
                self.refresh_ahead();
                return Ok(token);
            }
            Some(ended) => self.forget(&ended).await,
            None => {}
        }
        self.cache.try_get_with((), self.source.fetch()).await.map_err(|error| Error::clone(&error))
    }

    /// Drops a token that Graph did not accept, unless many were dropped for that reason just now.
    pub(super) async fn refuse(&self, token: &Arc<Token>) {
        if self.may_refuse() {
            self.forget(token).await;
        }
    }

    fn may_refuse(&self) -> bool {
        let now = self.source.clock.now();
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if clock::after(refused.since, REFUSED_WITHIN) <= now {
            *refused = Refused { since: now, number: 0 };
        }
        refused.number = refused.number.saturating_add(1);
        refused.number <= REFUSED_MAX
    }

    /// Drops a token, unless another has already replaced it.
    async fn forget(&self, token: &Arc<Token>) {
        if self.cache.get(&()).await.is_some_and(|cached| Arc::ptr_eq(&cached, token)) {
            self.cache.invalidate(&()).await;
        }
    }

    /// Drops a token that lacks a permission, unless it was fetched just now.
    pub(super) async fn outgrow(&self, token: &Arc<Token>) {
        if token.is_outgrown(self.source.clock.now()) {
            self.forget(token).await;
        }
    }

    /// Fetches the next token in the background, once at a time.
    fn refresh_ahead(&self) {
        if self.source.resting().is_some() {
            return;
        }
        let Some(flight) = Flight::begin(&self.refreshing) else { return };
        let Self { source, cache, .. } = self.clone();
        tokio::spawn(async move {
            let _flight = flight;
            match source.fetch().await {
                Ok(token) => cache.insert((), token).await,
                Err(error) => {
                    tracing::warn!(%error, "cannot refresh the token for Graph yet; the present one is still used");
                    source.leave_alone(REFRESH_REST, &error);
                }
            }
        });
    }
}

impl Source {
    /// A new token, unless the last refusal asks for more time.
    async fn fetch(&self) -> Result<Arc<Token>, Error> {
        if let Some(error) = self.resting() {
            return Err(error);
        }
        let asked = self.ask().await;
        telemetry::count_token_fetch(match &asked {
            Ok(_token) => telemetry::Fetch::Fetched,
            Err(NoToken { error: Error::Unauthorised(_), .. }) => telemetry::Fetch::Refused,
            Err(_passing) => telemetry::Fetch::Unavailable,
        });
        asked.map_err(|NoToken { error, rest }| {
            if let Some(rest) = rest {
                self.leave_alone(rest, &error);
            }
            error
        })
    }

    /// Asks for no token for a while, unless a longer pause applies already.
    fn leave_alone(&self, pause: Duration, why: &Error) {
        let until = clock::after(self.clock.now(), pause);
        let mut rest = self.rest();
        if rest.as_ref().is_none_or(|(present, _)| *present < until) {
            *rest = Some((until, why.clone()));
        }
    }

    fn rest(&self) -> MutexGuard<'_, Option<(Timestamp, Error)>> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn resting(&self) -> Option<Error> {
        let now = self.clock.now();
        let rest = self.rest();
        let (until, error) = rest.as_ref().filter(|(until, _)| now < *until)?;
        let throttled = matches!(error, Error::Throttled { .. });
        Some(if throttled { Error::Throttled { pause: clock::until(now, *until) } } else { error.clone() })
    }

    async fn ask(&self) -> Result<Arc<Token>, NoToken> {
        let asked = credential::asked(&self.settings, self.clock).map_err(NoToken::unauthorised)?;
        let way = asked.way;
        let (outbound, whom) = match way {
            Way::LoginService => (self.outbound.clone(), "the login service"),
            Way::Platform => {
                let direct = self.outbound.direct().map_err(|error| NoToken::unavailable(error.to_string()))?;
                (direct, "the managed identity's endpoint")
            }
        };
        let asked_at = self.clock.now();
        let answer = outbound.send(asked.call(TIMEOUT, ANSWER_MAX)).await;
        let answer = answer.map_err(|error| NoToken::unavailable(format!("{whom}: {error}")))?;
        if !answer.status.is_success() {
            let pause = answer.header("retry-after").and_then(|value| heeded(value, self.clock.now()));
            return Err(refusal::judged(&answer, way, pause));
        }
        let unusable = || NoToken::unavailable(format!("{whom} answered with something that is not a token"));
        // The text of an error could quote the answer, and with it the token.
        let given: TokenAnswer = serde_json::from_slice(&answer.body).map_err(|_quoting| unusable())?;
        let life = given.life(asked_at).ok_or_else(unusable)?;
        tracing::info!(expires_in = life.as_secs(), "fetched a token for Graph");
        telemetry::note_token_end(clock::after(asked_at, life));
        Ok(Arc::new(Token::new(given.access_token, asked_at, life)))
    }
}

impl Token {
    fn new(value: SecretString, asked_at: Timestamp, life: Duration) -> Self {
        Self {
            value,
            asked_at,
            refresh_at: clock::after(asked_at, life.mul_f32(0.75)),
            unusable_at: clock::after(asked_at, life.saturating_sub(MARGIN)),
        }
    }

    fn is_outgrown(&self, now: Timestamp) -> bool {
        clock::until(self.asked_at, now) >= OUTGROWN_AFTER
    }
}

/// A number of seconds; the platform's endpoints write numbers as strings.
#[derive(Deserialize)]
#[serde(untagged)]
enum Seconds {
    Number(u64),
    Text(String),
}

impl Seconds {
    fn count(&self) -> Option<u64> {
        match self {
            Self::Number(seconds) => Some(*seconds),
            Self::Text(text) => text.parse().ok(),
        }
    }
}

impl TokenAnswer {
    /// The token's lifetime. App Service only gives the time of its end.
    fn life(&self, asked_at: Timestamp) -> Option<Duration> {
        if let Some(seconds) = &self.expires_in {
            return seconds.count().map(Duration::from_secs);
        }
        let ends = i64::try_from(self.expires_on.as_ref()?.count()?).ok()?;
        Some(clock::until(asked_at, Timestamp::from_second(ends).ok()?))
    }
}

/// The one background refresh; over when this is dropped, for whatever reason.
#[derive(Debug)]
struct Flight(Arc<AtomicBool>);

impl Flight {
    /// None while one is running.
    fn begin(flag: &Arc<AtomicBool>) -> Option<Self> {
        (!flag.swap(true, Ordering::AcqRel)).then(|| Self(Arc::clone(flag)))
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_refresh_that_breaks_off_does_not_bar_the_next() {
        let flag = Arc::default();
        let flight = Flight::begin(&flag).unwrap();
        assert!(Flight::begin(&flag).is_none());
        let broken = tokio::spawn(async move {
            let _flight = flight;
            panic!("as a fetch might");
        });
        assert!(broken.await.is_err());
        let flight = Flight::begin(&flag).unwrap();
        let dropped = async move {
            let _flight = flight;
            std::future::pending::<()>().await;
        };
        drop(dropped);
        assert!(Flight::begin(&flag).is_some());
    }

    #[test]
    fn a_token_that_lacks_something_is_given_up_once_it_is_a_minute_old() {
        let second = |number| Timestamp::from_second(number).unwrap();
        let token = Token::new("t".into(), second(1_000), Duration::from_hours(1));
        assert!(!token.is_outgrown(second(1_059)) && token.is_outgrown(second(1_060)));
    }

    #[test]
    fn the_end_of_a_token_is_read_in_every_form() {
        let asked_at = Timestamp::from_second(1_000).unwrap();
        let life = |rest: &str| {
            let answer: TokenAnswer = serde_json::from_str(&format!("{{\"access_token\":\"t\",{rest}}}")).unwrap();
            answer.life(asked_at).map(|life| life.as_secs())
        };
        assert_eq!(life("\"expires_in\":3599"), Some(3599));
        assert_eq!(life("\"expires_in\":\"3599\",\"expires_on\":\"9\""), Some(3599));
        assert_eq!(life("\"expires_on\":\"1060\""), Some(60));
        assert_eq!(life("\"expires_on\":\"900\""), Some(0));
        assert_eq!(life("\"expires_on\":\"soon\""), None);
        assert_eq!(life("\"scope\":\"s\""), None);
    }
}
