//! The gateway's own token for Graph: app-only, by client credentials.
//!
//! Guarantees: one fetch at a time, however many wait; after three quarters of its life a token is refreshed in the background
//! while the old one is still used, so an outage of the login service is not noticed until the token really expires. After a
//! fetch that failed, the login service is left alone for a while, however many callers come.
//!
//! It deliberately does not retry; its callers know how long they may wait, and learn how long the rest lasts. `credential`
//! makes the request, and `token_error` says what a refusal means.

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
    credential::{self, TokenProvider},
    token_error::{self, TokenError},
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
const RESPONSE_MAX: usize = 64 * 1024;
/// A token is not used in its last seconds: it must not expire on the way to Graph.
const MARGIN: Duration = Duration::from_secs(30);

/// The least age of a token that is dropped because it may lack a permission granted since: the login service takes
/// frequent identical requests for a loop.
const OUTGROWN_AFTER: Duration = Duration::from_mins(1);
/// How many times within [`REFUSED_WITHIN`] a token is dropped because Graph refuses it: few, for the same reason.
const REFUSED_MAX: u32 = 6;
const REFUSED_WITHIN: Duration = Duration::from_mins(1);

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
    refused: Arc<tokio::sync::Mutex<Refused>>,
}

/// How many tokens Graph refused, and since when they are counted, by [`Clock::elapsed`].
#[derive(Debug, Default)]
struct Refused {
    since: Duration,
    number: u32,
}

#[derive(Debug)]
struct Source {
    settings: config::Graph,
    outbound: Outbound,
    clock: Clock,
    /// Until when the login service is left alone, by [`Clock::elapsed`], and why. A machine's clock may be set back, not
    /// least because its wrong time was the reason.
    rest: Mutex<Option<(Duration, Error)>>,
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
    pub(super) async fn token(&self) -> Result<Arc<Token>, TokenError> {
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
        self.cache.try_get_with((), self.source.fetch()).await.map_err(|none| TokenError::clone(&none))
    }

    /// Drops a token that Graph did not accept, unless many were dropped for that reason just now.
    pub(super) async fn refuse(&self, token: &Arc<Token>) {
        // Of several calls that one token was refused to, one counts: held until the token is dropped.
        let mut refused = self.refused.lock().await;
        if self.is_cached(token).await && refused.may_go_on(self.source.clock.elapsed()) {
            self.cache.invalidate(&()).await;
        }
    }

    async fn is_cached(&self, token: &Arc<Token>) -> bool {
        self.cache.get(&()).await.is_some_and(|cached| Arc::ptr_eq(&cached, token))
    }

    /// Drops a token, unless another has already replaced it.
    async fn forget(&self, token: &Arc<Token>) {
        if self.is_cached(token).await {
            self.cache.invalidate(&()).await;
        }
    }

    /// Drops a token that lacks a permission, unless it was fetched just now.
    pub(super) async fn outgrow(&self, token: &Arc<Token>) {
        if token.is_outgrown(self.source.clock.now()) {
            self.forget(token).await;
        }
    }

    /// Keeps a token for an hour as if it had been fetched just now.
    #[cfg(test)]
    pub(super) async fn hold(&self, value: &str) -> Arc<Token> {
        let token = Arc::new(Token::new(value.into(), self.source.clock.now(), Duration::from_hours(1)));
        self.cache.insert((), Arc::clone(&token)).await;
        token
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
                Err(TokenError { error, .. }) => {
                    tracing::warn!(%error, "cannot refresh the token for Graph yet; the present one is still used");
                }
            }
        });
    }
}

impl Refused {
    /// Counts one more, and says whether it is still among the few.
    fn may_go_on(&mut self, now: Duration) -> bool {
        if now.saturating_sub(self.since) >= REFUSED_WITHIN {
            *self = Self { since: now, number: 0 };
        }
        self.number = self.number.saturating_add(1);
        self.number <= REFUSED_MAX
    }
}

impl Source {
    /// A new token, unless the login service is left alone at present.
    async fn fetch(&self) -> Result<Arc<Token>, TokenError> {
        if let Some(none) = self.resting() {
            return Err(none);
        }
        let asked = self.ask().await;
        telemetry::count_token_fetch(match &asked {
            Ok(_token) => telemetry::Fetch::Fetched,
            Err(TokenError { error: Error::Unauthorised(_), .. }) => telemetry::Fetch::Refused,
            Err(_passing) => telemetry::Fetch::Unavailable,
        });
        asked.inspect_err(|TokenError { error, rest }| self.leave_alone(*rest, error))
    }

    /// Asks for no token for a while, unless a longer pause applies already.
    fn leave_alone(&self, pause: Duration, why: &Error) {
        let until = self.clock.elapsed().saturating_add(pause);
        let mut rest = self.rest();
        if rest.as_ref().is_none_or(|(present, _)| *present < until) {
            *rest = Some((until, why.clone()));
        }
    }

    fn rest(&self) -> MutexGuard<'_, Option<(Duration, Error)>> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn resting(&self) -> Option<TokenError> {
        let now = self.clock.elapsed();
        let rest = self.rest();
        let (until, error) = rest.as_ref().filter(|(until, _)| now < *until)?;
        let pause = until.saturating_sub(now);
        let throttled = matches!(error, Error::Throttled { .. });
        let error = if throttled { Error::Throttled { pause } } else { error.clone() };
        Some(TokenError { error, rest: pause })
    }

    async fn ask(&self) -> Result<Arc<Token>, TokenError> {
        let asked = credential::token_request(&self.settings, self.clock).map_err(TokenError::unauthorised)?;
        let provider = asked.provider;
        let (outbound, whom) = match provider {
            TokenProvider::LoginService => (self.outbound.clone(), "the login service"),
            TokenProvider::Platform => {
                let direct = self.outbound.direct().map_err(|error| TokenError::unavailable(error.to_string()))?;
                (direct, "the managed identity's endpoint")
            }
        };
        let asked_at = self.clock.now();
        let answer = outbound.send(asked.call(TIMEOUT, RESPONSE_MAX)).await;
        let answer = answer.map_err(|error| TokenError::unavailable(format!("{whom}: {error}")))?;
        if !answer.status.is_success() {
            let pause = answer.header("retry-after").and_then(|value| heeded(value, self.clock.now()));
            return Err(token_error::classify(&answer, provider, pause));
        }
        let unusable = || TokenError::unavailable(format!("{whom} answered with something that is not a token"));
        // The text of an error could quote the answer, and with it the token.
        let given: TokenAnswer = serde_json::from_slice(&answer.body).map_err(|_quoting| unusable())?;
        let life = given.life(asked_at).ok_or_else(unusable)?;
        tracing::info!(expires_in = life.as_secs(), "fetched a token for Graph");
        telemetry::set_token_end(clock::after(asked_at, life));
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
    use jiff::SignedDuration;

    use super::{super::fixture, *};

    #[tokio::test(start_paused = true)]
    async fn token_backoff_ends_on_time_even_if_the_clock_is_set_back() {
        let clock = Clock::simulated("2026-03-01T11:00:00Z".parse().unwrap(), 1);
        let secret = tempfile::NamedTempFile::new().unwrap();
        let settings = fixture::settings(secret.path());
        let tokens = Tokens::new(settings, Outbound::new(clock).unwrap(), clock);
        let why = async || tokens.token().await.unwrap_err().error.to_string();
        let empty = why().await;
        assert!(empty.contains("is empty"), "{empty}");
        secret.close().unwrap();
        assert_eq!(why().await, empty, "the file is not read again at once");
        clock.set_forward(SignedDuration::from_hours(-3));
        clock.sleep(Duration::from_secs(3)).await;
        assert!(why().await.contains("cannot read the secret"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_that_is_refused_to_many_calls_counts_once() {
        let clock = Clock::simulated("2026-03-01T11:00:00Z".parse().unwrap(), 1);
        let settings = fixture::settings("none".as_ref());
        let tokens = Tokens::new(settings, Outbound::new(clock).unwrap(), clock);
        for number in 1..=REFUSED_MAX + 1 {
            let token = tokens.hold("t").await;
            for _ in 0..10 {
                tokens.refuse(&token).await;
            }
            assert_eq!(tokens.is_cached(&token).await, number > REFUSED_MAX, "{number}");
        }
        clock.sleep(REFUSED_WITHIN).await;
        let token = tokens.hold("t").await;
        tokens.refuse(&token).await;
        assert!(!tokens.is_cached(&token).await);
    }

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
    fn a_token_that_lacks_a_permission_is_dropped_after_a_minute() {
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
