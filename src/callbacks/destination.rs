//! One destination: the call that delivers a message, and what its answer means.
//!
//! Guarantees: where a URL leads is checked for each attempt, against the settings now in force; redirects are not
//! followed, no cookie is kept, and of an answer only its status and `Retry-After` count. A call is started only if it
//! can end within the time for which the attempt was claimed.
//!
//! It deliberately does not decide when to retry; `verdict` does.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::sync::Mutex;
use url::form_urlencoded;

use super::{Parts, proof, verdict::PAUSE_MAX};
use crate::{
    clock::Clock,
    config::{self, Authentication, Network},
    domain::{Callback, Operation, callback::message_id},
    outbound::{self, Call, Error, HeaderName, HeaderValue, Method, Outbound, Reach, header::AUTHORIZATION},
    signing::Message,
};

/// The content type of CloudEvents in JSON.
const CONTENT_TYPE: &str = "application/cloudevents+json";
/// The longest time for which the answer to one message can hold back all others.
const CLOSED_MAX: Duration = Duration::from_hours(1);
/// The largest answer that is read.
const ANSWER_MAX: usize = 16 * 1024;
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
#[derive(Debug)]
pub(super) struct Refusal {
    /// The status of the answer.
    pub(super) status: Option<u16>,
    /// What happened.
    pub(super) why: String,
    /// Whether the destination wants no further attempt.
    pub(super) is_final: bool,
    /// The pause that it names.
    pub(super) pause: Option<Duration>,
    /// How long it wants no messages at all.
    pub(super) closed: Option<Duration>,
}

impl Refusal {
    pub(super) fn failed(status: Option<u16>, why: String) -> Self {
        Self { status, why, is_final: false, pause: None, closed: None }
    }
}

/// How to call a destination.
#[derive(Debug)]
pub(super) struct Way {
    settings: config::Destination,
    outbound: Outbound,
    clock: Clock,
    source: String,
    timeout: Duration,
    message: fn(&Operation, &str) -> Vec<u8>,
    /// The current token, and until when it is used, by [`Clock::elapsed`].
    token: Mutex<Option<(SecretString, Duration)>>,
}

impl Way {
    pub(super) fn new(settings: config::Destination, parts: &Parts) -> Result<Self, Error> {
        let Parts { outbound, clock, settings: times, message, .. } = parts;
        // What callers write into a URL may be a secret of theirs.
        let outbound = outbound.discreet();
        let outbound = match settings.network {
            Network::Public => outbound.within(Reach::Public)?,
            Network::Private => outbound.within(Reach::Private)?,
            Network::Loopback => outbound.within(Reach::Loopback)?,
            Network::Proxy => outbound.proxied(&settings.url)?,
        };
        let (source, timeout) = (times.source.clone(), times.timeout);
        Ok(Self { settings, outbound, clock: *clock, source, timeout, message: *message, token: Mutex::default() })
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
    ) -> Result<Delivered, Refusal> {
        let failed = |why: String| Refusal::failed(None, why);
        let url = self.settings.admits(&callback.url);
        let url = url.ok_or_else(|| failed("its URL no longer lies under its destination".to_owned()))?;
        let body = (self.message)(operation, &self.source);
        let mut headers = self.signed(&message_id(operation.id), &body).map_err(failed)?;
        headers.extend(self.authorised(&body, end_by).await.map_err(failed)?);
        let call = Call {
            method: Method::POST,
            url: url.to_string(),
            headers,
            body: Some((CONTENT_TYPE, body)),
            timeout: self.timeout,
            end_by: Some(end_by),
            answer_max: ANSWER_MAX,
        };
        let (status, pause) = match self.outbound.send(call).await {
            Ok(answer) => {
                let pause = answer.header("retry-after");
                let pause = pause.and_then(|text| outbound::retry_after(text, self.clock.now()));
                (answer.status.as_u16(), pause.map(|pause| pause.min(PAUSE_MAX)))
            }
            // Only its status matters.
            Err(Error::TooLarge { status, .. }) => (status.as_u16(), None),
            Err(error) => return Err(failed(error.to_string())),
        };
        if self.settings.is_delivered(status) {
            return Ok(Delivered { status });
        }
        if status == 401 {
            // The next attempt requests a new one.
            *self.token.lock().await = None;
        }
        let closed = pause.filter(|_| matches!(status, 429 | 503)).map(|pause| pause.min(CLOSED_MAX));
        let why = told(status);
        Err(Refusal { status: Some(status), why, is_final: status == 410, pause, closed })
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
    async fn authorised(&self, body: &[u8], end_by: Duration) -> Result<Option<Header>, String> {
        let value = match &self.settings.authentication {
            Authentication::None => return Ok(None),
            Authentication::ServiceNowHmac(secret) => {
                let value =
                    HeaderValue::from_str(&proof::servicenow(secret, body)?).map_err(|error| error.to_string())?;
                return Ok(Some((HeaderName::from_static("x-sn-hmac-signature-256"), value)));
            }
            Authentication::Bearer(secret) => proof::bearer(&proof::read(secret)?)?,
            Authentication::Basic(secret) => proof::basic(&proof::read(secret)?)?,
            Authentication::OAuth { .. } => proof::bearer(&self.token(end_by).await?)?,
        };
        Ok(Some((AUTHORIZATION, value)))
    }

    /// A token by client credentials: the current one, or a new one. Other attempts wait for it meanwhile.
    async fn token(&self, end_by: Duration) -> Result<SecretString, String> {
        let Authentication::OAuth { token_url, client_id, secret, scope } = &self.settings.authentication else {
            return Err("no token is used here".to_owned());
        };
        let mut known = self.token.lock().await;
        if let Some((token, _)) = known.as_ref().filter(|(_, until)| self.clock.elapsed() < *until) {
            return Ok(token.clone());
        }
        let form = client_credentials(client_id, &proof::read(secret)?, scope.as_deref());
        let begun = self.clock.elapsed();
        let call = Call {
            method: Method::POST,
            url: token_url.to_string(),
            headers: Vec::new(),
            body: Some(("application/x-www-form-urlencoded", form.into_bytes())),
            timeout: self.timeout,
            // Afterwards, there must be time left for the message.
            end_by: Some(end_by.saturating_sub(self.timeout)),
            answer_max: ANSWER_MAX,
        };
        let answer = self.outbound.send(call).await.map_err(|error| format!("the token endpoint: {error}"))?;
        if !answer.status.is_success() {
            return Err(format!("the token endpoint answered {}", answer.status.as_u16()));
        }
        let given: Given = serde_json::from_slice(&answer.body)
            .map_err(|_not_a_token| "the token endpoint's answer holds no token".to_owned())?;
        let ttl = given.expires_in.map_or(TOKEN_TTL, Duration::from_secs);
        let until = begun.saturating_add(ttl.saturating_sub(TOKEN_MARGIN));
        *known = Some((given.access_token.clone(), until));
        Ok(given.access_token)
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
struct Given {
    access_token: SecretString,
    expires_in: Option<u64>,
}

/// A sentence for a status that is no success, for readers of the operation.
fn told(status: u16) -> String {
    match status {
        300..400 => format!("it answered {status}; redirects are not followed"),
        410 => "it answered 410: it wants no more".to_owned(),
        200..300 => format!("it answered {status}, which does not mean there that it has the message"),
        _ => format!("it answered {status}"),
    }
}
