//! One destination: the call that delivers a message, and what its answer means.
//!
//! Guarantees: where a URL leads is checked for each attempt, against the settings now in force; redirects are not
//! followed, no cookie is kept, and of an answer only its status and `Retry-After` count. A call is started only if it
//! can end within the time for which the attempt was claimed. A token endpoint that gave no token is left alone for as
//! long as it asks for, an hour at most, or for the first pause, however many messages are due.
//!
//! It deliberately does not decide when to retry; `retry` does.

use std::{sync::Arc, time::Duration};

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::sync::Mutex;
use url::{Url, form_urlencoded};

use super::{Dependencies, proof, retry::PAUSE_MAX};
use crate::{
    clock::Clock,
    config::{self, Authentication, Network},
    domain::{Callback, Operation, callback::message_id},
    outbound::{
        self, AddressScope, Error, HeaderMap, HeaderName, HeaderValue, Method, Outbound, Request, Response,
        header::{AUTHORIZATION, RETRY_AFTER},
    },
    signing::Message,
};

/// The content type of CloudEvents in JSON.
const CONTENT_TYPE: &str = "application/cloudevents+json";
/// The longest time for which the answer to one message can hold back all others.
const CLOSED_MAX: Duration = Duration::from_hours(1);
/// The largest answer that is read.
const RESPONSE_MAX: usize = 16 * 1024;
/// A token is not used this shortly before its end.
const TOKEN_MARGIN: Duration = Duration::from_secs(30);
/// How long a token is used whose answer does not say when it expires.
const TOKEN_TTL: Duration = Duration::from_mins(5);

/// A header of a call.
type Header = (HeaderName, HeaderValue);

/// The destination has the message.
#[derive(Debug)]
pub(super) struct Delivered {
    pub(super) status: u16,
}

/// It does not have it, or that is unknown.
#[derive(Clone, Debug)]
pub(super) struct DeliveryError {
    /// The status of the answer: of the destination, or of its token endpoint.
    pub(super) status: Option<u16>,
    /// What happened.
    pub(super) why: String,
    /// Whether the destination wants no further attempt.
    pub(super) is_final: bool,
    /// The pause that it names.
    pub(super) pause: Option<Duration>,
    /// How long no messages at all are sent to it.
    pub(super) closed: Option<Duration>,
}

impl DeliveryError {
    pub(super) fn failed(status: Option<u16>, why: String) -> Self {
        Self { status, why, is_final: false, pause: None, closed: None }
    }
}

/// How to call a destination.
#[derive(Debug)]
pub(super) struct DestinationClient {
    settings: config::Destination,
    outbound: Outbound,
    clock: Clock,
    source: String,
    timeout: Duration,
    /// How long the token endpoint is left alone at least after it gave no token.
    pause_first: Duration,
    message: fn(&Operation, &str) -> Vec<u8>,
    tokens: Mutex<Tokens>,
}

/// What is known of the token endpoint.
#[derive(Debug, Default)]
struct Tokens {
    present: Option<Arc<Token>>,
    /// Why it gave no token, and until when it is left alone, by [`Clock::elapsed`].
    rest: Option<(DeliveryError, Duration)>,
}

#[derive(Debug)]
struct Token {
    value: SecretString,
    /// Until when it is used, by [`Clock::elapsed`].
    until: Duration,
}

impl DestinationClient {
    pub(super) fn new(settings: config::Destination, parts: &Dependencies) -> Result<Self, Error> {
        let Dependencies { outbound, clock, settings: times, message, .. } = parts;
        // What callers write into a URL may be a secret of theirs.
        let outbound = outbound.hiding_queries();
        let outbound = match settings.network {
            Network::Public => outbound.limited_to(AddressScope::Public)?,
            Network::Private => outbound.limited_to(AddressScope::Private)?,
            Network::Loopback => outbound.limited_to(AddressScope::Loopback)?,
            Network::Proxy => outbound.proxied(&settings.url)?,
        };
        Ok(Self {
            settings,
            outbound,
            clock: *clock,
            source: times.source.clone(),
            timeout: times.timeout,
            pause_first: times.pauses.0,
            message: *message,
            tokens: Mutex::default(),
        })
    }

    pub(super) fn calls_at_once_max(&self) -> usize {
        self.settings.calls_at_once_max
    }

    /// Sends the message about an operation's end. Starts nothing that may not be over by `end_by`.
    pub(super) async fn send(
        &self,
        operation: &Operation,
        callback: &Callback,
        end_by: Duration,
    ) -> Result<Delivered, DeliveryError> {
        let failed = |why: String| DeliveryError::failed(None, why);
        let url = self.settings.admits(&callback.url);
        let url = url.ok_or_else(|| failed("its URL no longer lies under its destination".to_owned()))?;
        let body = (self.message)(operation, &self.source);
        let mut headers = self.signed(&message_id(operation.id), &body).map_err(failed)?;
        let token = self.token(end_by).await?;
        headers.extend(self.authorised(&body, token.as_deref()).map_err(failed)?);
        let call = Request {
            method: Method::POST,
            url: url.to_string(),
            headers,
            body: Some((CONTENT_TYPE, body)),
            timeout: self.timeout,
            end_by: Some(end_by),
            response_max: RESPONSE_MAX,
        };
        let (status, headers) = match self.outbound.send(call).await {
            // What it says at length does not matter.
            Ok(Response { status, headers, .. }) | Err(Error::TooLarge { status, headers, .. }) => {
                (status.as_u16(), headers)
            }
            Err(error) => return Err(failed(error.to_string())),
        };
        if self.settings.is_delivered(status) {
            return Ok(Delivered { status });
        }
        if let Some(token) = token.filter(|_| status == 401) {
            // The next attempt requests a new one, unless another attempt did so meanwhile.
            self.tokens.lock().await.present.take_if(|present| Arc::ptr_eq(present, &token));
        }
        let pause = self.requested_pause(&headers);
        let closed = pause.filter(|_| matches!(status, 429 | 503)).map(|pause| pause.min(CLOSED_MAX));
        let why = describe_status(status);
        Err(DeliveryError { status: Some(status), why, is_final: status == 410, pause, closed })
    }

    /// The pause that an answer asks for.
    fn requested_pause(&self, headers: &HeaderMap) -> Option<Duration> {
        let text = headers.get(RETRY_AFTER)?.to_str().ok()?;
        outbound::retry_after(text, self.clock.now()).map(|pause| pause.min(PAUSE_MAX))
    }

    /// The headers of Standard Webhooks: the time is that of the attempt, the id that of the message.
    fn signed(&self, id: &str, body: &[u8]) -> Result<Vec<Header>, String> {
        let timestamp = self.clock.now().as_second().to_string();
        let signature = proof::signatures(&self.settings, Message { id, timestamp: &timestamp, body })?;
        let texts = [("webhook-id", id), ("webhook-timestamp", &timestamp), ("webhook-signature", &signature)];
        let header = |(name, text): (&'static str, &str)| {
            let value = HeaderValue::from_str(text).map_err(|error| error.to_string())?;
            Ok((HeaderName::from_static(name), value))
        };
        texts.into_iter().map(header).collect()
    }

    /// The header by which the gateway authenticates, if the destination requires one besides the signature.
    fn authorised(&self, body: &[u8], token: Option<&Token>) -> Result<Option<Header>, String> {
        let value = match (&self.settings.authentication, token) {
            (Authentication::None, _) => return Ok(None),
            (Authentication::ServiceNowHmac(secret), _) => {
                let value =
                    HeaderValue::from_str(&proof::servicenow(secret, body)?).map_err(|error| error.to_string())?;
                return Ok(Some((HeaderName::from_static("x-sn-hmac-signature-256"), value)));
            }
            (Authentication::Bearer(secret), _) => proof::bearer(&proof::read(secret)?)?,
            (Authentication::Basic(secret), _) => proof::basic(&proof::read(secret)?)?,
            (Authentication::OAuth { .. }, Some(token)) => proof::bearer(&token.value)?,
            (Authentication::OAuth { .. }, None) => return Err("there is no token".to_owned()),
        };
        Ok(Some((AUTHORIZATION, value)))
    }

    /// A token, if the destination requires one: the current one, or a new one. Other attempts wait for it meanwhile.
    async fn token(&self, end_by: Duration) -> Result<Option<Arc<Token>>, DeliveryError> {
        let Authentication::OAuth { token_url, client_id, secret, scope } = &self.settings.authentication else {
            return Ok(None);
        };
        let mut tokens = self.tokens.lock().await;
        let now = self.clock.elapsed();
        if let Some(token) = tokens.present.as_ref().filter(|token| now < token.until) {
            return Ok(Some(Arc::clone(token)));
        }
        if let Some((refusal, until)) = tokens.rest.as_ref().filter(|(_, until)| now < *until) {
            let left = Some(until.saturating_sub(now));
            return Err(DeliveryError { pause: left, closed: left, ..refusal.clone() });
        }
        let secret = proof::read(secret).map_err(|why| DeliveryError::failed(None, why))?;
        let form = client_credentials(client_id, &secret, scope.as_deref());
        let token = self.request_token(token_url, form, end_by).await.inspect_err(|refusal| {
            let until = refusal.closed.map(|pause| self.clock.elapsed().saturating_add(pause));
            tokens.rest = until.map(|until| (refusal.clone(), until));
        })?;
        Ok(Some(Arc::clone(tokens.present.insert(Arc::new(token)))))
    }

    async fn request_token(&self, url: &Url, form: String, end_by: Duration) -> Result<Token, DeliveryError> {
        let begun = self.clock.elapsed();
        let call = Request {
            method: Method::POST,
            url: url.to_string(),
            headers: Vec::new(),
            body: Some(("application/x-www-form-urlencoded", form.into_bytes())),
            timeout: self.timeout,
            // Afterwards, there must be time left for the message.
            end_by: Some(end_by.saturating_sub(self.timeout)),
            response_max: RESPONSE_MAX,
        };
        let (status, headers, body) = match self.outbound.send(call).await {
            Ok(Response { status, headers, body }) => (status, headers, body),
            Err(Error::TooLarge { status, headers, .. }) => (status, headers, Vec::new()),
            // The endpoint was not called.
            Err(Error::Late) => {
                return Err(DeliveryError::failed(None, format!("the token endpoint: {}", Error::Late)));
            }
            Err(error) => return Err(self.no_token(None, format!("the token endpoint: {error}"), None)),
        };
        let why = match serde_json::from_slice::<TokenResponse>(&body) {
            Ok(given) if status.is_success() => {
                let ttl = given.expires_in.map_or(TOKEN_TTL, Duration::from_secs);
                let until = begun.saturating_add(ttl.saturating_sub(TOKEN_MARGIN));
                return Ok(Token { value: given.access_token, until });
            }
            // The text of an error could quote the answer.
            Err(_quoting) if status.is_success() => "the token endpoint's answer holds no token".to_owned(),
            _refused => format!("the token endpoint answered {}", status.as_u16()),
        };
        Err(self.no_token(Some(status.as_u16()), why, self.requested_pause(&headers)))
    }

    /// No token was given. Nothing can be delivered without one, so no message is sent until the endpoint is asked again.
    fn no_token(&self, status: Option<u16>, why: String, named: Option<Duration>) -> DeliveryError {
        let pause = named.unwrap_or_default().max(self.pause_first);
        DeliveryError { status, why, is_final: false, pause: Some(pause), closed: Some(pause.min(CLOSED_MAX)) }
    }
}

/// A fault for each destination that may be reached only through a proxy, if there is no proxy for it.
pub fn unproxied(destinations: &[config::Destination], outbound: &Outbound) -> Vec<config::Fault> {
    let proxied = destinations.iter().filter(|destination| destination.network == Network::Proxy);
    let fault = |destination: &config::Destination| {
        let error = outbound.proxied(&destination.url).err()?;
        Some(config::Fault {
            place: "destinations".to_owned(),
            line: None,
            what: format!("{:?}: network is \"proxy\": {error}", destination.name),
            hint: Some("set outbound.proxy, or HTTPS_PROXY without a NO_PROXY that excepts it".to_owned()),
        })
    };
    proxied.filter_map(fault).collect()
}

/// The body of a token request (RFC 6749, section 4.4).
fn client_credentials(client_id: &str, secret: &SecretString, scope: Option<&str>) -> String {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("grant_type", "client_credentials").append_pair("client_id", client_id);
    form.append_pair("client_secret", secret.expose_secret());
    form.extend_pairs(scope.map(|scope| ("scope", scope)));
    form.finish()
}

/// The answer of a token endpoint (RFC 6749, section 5.1).
#[derive(Deserialize)]
struct TokenResponse {
    access_token: SecretString,
    expires_in: Option<u64>,
}

/// A sentence for a status that is no success, for readers of the operation.
fn describe_status(status: u16) -> String {
    match status {
        300..400 => format!("it answered {status}; redirects are not followed"),
        410 => "it answered 410: it wants no more".to_owned(),
        200..300 => format!("it answered {status}, which does not mean there that it has the message"),
        _ => format!("it answered {status}"),
    }
}
