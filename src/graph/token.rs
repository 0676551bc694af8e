//! The gateway's own token for Graph: app-only, by client credentials.
//!
//! Guarantees: one fetch at a time however many wait; from three quarters of its life on a token is refreshed in the
//! background while the old one still serves, so an outage of the login service is not felt until the token really
//! ends. The secret is read anew for every fetch and is in no error, log or debug text.
//!
//! It deliberately does not retry; its callers know how long they may wait.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use moka::future::Cache;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use url::form_urlencoded;

use super::Error;
use crate::{
    clock::{self, Clock},
    config,
    outbound::{self, Call, Method, Outbound},
};

/// How long the login service may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// An answer of the login service is a few kilobytes.
const ANSWER_MAX: usize = 64 * 1024;
/// A token is not used in its last seconds: it must not end on the way to Graph.
const MARGIN: Duration = Duration::from_secs(30);

/// A token and its times.
#[derive(Debug)]
pub(super) struct Token {
    value: SecretString,
    refresh_at: Timestamp,
    unusable_at: Timestamp,
}

impl Token {
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
}

#[derive(Debug)]
struct Source {
    settings: config::Graph,
    outbound: Outbound,
    clock: Clock,
}

#[derive(Deserialize)]
struct TokenAnswer {
    access_token: SecretString,
    expires_in: u64,
}

#[derive(Deserialize)]
struct TokenRefusal {
    error: String,
    #[serde(default)]
    error_description: String,
}

impl Tokens {
    /// Tokens for the application of these settings.
    pub fn new(settings: config::Graph, outbound: Outbound, clock: Clock) -> Self {
        let source = Arc::new(Source { settings, outbound, clock });
        Self { source, cache: Cache::new(1), refreshing: Arc::default() }
    }

    /// A token that is good now.
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

    /// Drops a token that Graph did not accept, unless another has taken its place already.
    pub(super) async fn forget(&self, token: &Arc<Token>) {
        if self.cache.get(&()).await.is_some_and(|cached| Arc::ptr_eq(&cached, token)) {
            self.cache.invalidate(&()).await;
        }
    }

    /// Fetches the next token in the background, once at a time.
    fn refresh_ahead(&self) {
        if self.refreshing.swap(true, Ordering::AcqRel) {
            return;
        }
        let Self { source, cache, refreshing } = self.clone();
        tokio::spawn(async move {
            match source.fetch().await {
                Ok(token) => cache.insert((), token).await,
                Err(error) => tracing::warn!(%error, "cannot refresh Graph's token yet; the present one still serves"),
            }
            refreshing.store(false, Ordering::Release);
        });
    }
}

impl Source {
    async fn fetch(&self) -> Result<Arc<Token>, Error> {
        let config::Graph { authority, tenant_id, client_id, scope, credential, .. } = &self.settings;
        let config::Credential::Secret(source) = credential;
        let secret = source.read().map_err(|error| Error::Unauthorised(error.to_string()))?;
        let body = form_urlencoded::Serializer::new(String::new())
            .append_pair("grant_type", "client_credentials")
            .append_pair("client_id", client_id)
            .append_pair("scope", scope)
            .append_pair("client_secret", secret.expose_secret())
            .finish();
        let asked_at = self.clock.now();
        let call = Call {
            method: Method::POST,
            url: format!("{authority}/{tenant_id}/oauth2/v2.0/token"),
            headers: Vec::new(),
            body: Some(("application/x-www-form-urlencoded", body.into_bytes())),
            timeout: TIMEOUT,
            end_by: None,
            answer_max: ANSWER_MAX,
        };
        let answer = self.outbound.send(call).await.map_err(|error| unavailable(&error))?;
        if !answer.status.is_success() {
            return Err(refused(&answer));
        }
        let answer: TokenAnswer = serde_json::from_slice(&answer.body)
            // The text of the error could quote the answer, and with it the token.
            .map_err(|_quoting| Error::Unavailable("the login service's answer is not a token".to_owned()))?;
        tracing::info!(expires_in = answer.expires_in, "fetched a token for Graph");
        Ok(Arc::new(Token::new(answer, asked_at)))
    }
}

impl Token {
    fn new(answer: TokenAnswer, asked_at: Timestamp) -> Self {
        let life = Duration::from_secs(answer.expires_in);
        Self {
            value: answer.access_token,
            refresh_at: clock::after(asked_at, life.mul_f32(0.75)),
            unusable_at: clock::after(asked_at, life.saturating_sub(MARGIN)),
        }
    }
}

fn unavailable(error: &outbound::Error) -> Error {
    Error::Unavailable(format!("the login service: {error}"))
}

/// 429 and 5xx pass; everything else is for the operators to mend.
fn refused(answer: &outbound::Answer) -> Error {
    let status = answer.status.as_u16();
    let refusal: Option<TokenRefusal> = serde_json::from_slice(&answer.body).ok();
    let words = refusal.map(|TokenRefusal { error, error_description }| format!("{error}: {error_description}"));
    let words = format!("the login service answered {status} {}", words.unwrap_or_default());
    if status == 429 || status >= 500 { Error::Unavailable(words) } else { Error::Unauthorised(words) }
}
