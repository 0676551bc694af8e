//! What handlers take out of a request: the authenticated caller, a checked body, the caller's preferences.
//!
//! Guarantees: a handler that takes an [`AuthenticatedCaller`] cannot run without one; no body is read before the caller is
//! authenticated, and none beyond the limit. Every refusal is a [`Problem`].

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use actix_web::{FromRequest, HttpMessage as _, HttpRequest, dev, http::header::HeaderMap, web};
use serde_json::{Map, Value};

use super::{
    State, json,
    problem::{Code, Problem},
    tls::Shown,
};
use crate::{
    auth::Rejection,
    canonical, config,
    domain::{Caller, Digest},
    gateway::{self, Gateway, KeyedRequest, UnknownIdentity, message::is_key_of_message},
};

/// The longest idempotency key, in bytes.
const KEY_MAX: usize = 255;

/// The authenticated caller of a request.
#[derive(Debug)]
pub(super) struct AuthenticatedCaller(pub(super) Caller);

impl FromRequest for AuthenticatedCaller {
    type Error = Problem;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Problem>>>>;

    fn from_request(req: &HttpRequest, _payload: &mut dev::Payload) -> Self::Future {
        let request = req.clone();
        Box::pin(async move { authenticate(&request).await.map(Self) })
    }
}

/// The fingerprint of the client certificate that the connection presented, if it did.
pub(super) fn certificate(request: &HttpRequest) -> Option<&Digest> {
    request.conn_data::<Shown>().map(|shown| &shown.0)
}

async fn authenticate(request: &HttpRequest) -> Result<Caller, Problem> {
    let state = state(request)?;
    let mut headers = request.headers().get_all("authorization");
    // Which characters a token may have is checked where it is parsed; here it only must be text.
    let authorization = headers.next().map(|value| str::from_utf8(value.as_bytes()).unwrap_or_default());
    if headers.next().is_some() {
        let why = "There is more than one Authorization header.";
        state.gateway.gateway().record_failed_authentication("", "malformed", why.to_owned()).await?;
        return Err(Problem::new(Code::InvalidToken, why));
    }
    match state.authenticator.authenticate(authorization, certificate(request)).await {
        Ok(caller) => {
            count(state, request, &caller)?;
            Ok(caller)
        }
        Err(rejection) => {
            note(&state.gateway.gateway(), &rejection).await?;
            Err(rejection.into())
        }
    }
}

/// Counts the call against its caller's limit, and keeps what is left for the headers of the response.
pub(super) fn count(state: &State, request: &HttpRequest, caller: &Caller) -> Result<(), Problem> {
    let (left, outcome) = match state.limits.count(&caller.name) {
        Ok(left) => (left, Ok(())),
        Err((left, problem)) => (Some(left), Err(problem)),
    };
    if let Some(left) = left {
        request.extensions_mut().insert(left);
    }
    outcome
}

/// The gateway for one request: one version of policies and catalogue, whatever changes meanwhile. Taken once the body is
/// there, which may arrive slowly: what has been withdrawn by then must not decide.
pub(super) fn gateway(request: &HttpRequest) -> Result<Arc<Gateway>, Problem> {
    Ok(state(request)?.gateway.gateway())
}

/// Records a call that is not authenticated, unless keys cannot be fetched: that is not the caller's fault.
async fn note(gateway: &Gateway, rejection: &Rejection) -> Result<(), gateway::Error> {
    let why = rejection.to_string();
    match rejection {
        Rejection::Missing => gateway.record_failed_authentication("", "missing", why).await,
        Rejection::Malformed(_) => gateway.record_failed_authentication("", "malformed", why).await,
        Rejection::Invalid(_) => gateway.record_failed_authentication("", "invalid", why).await,
        Rejection::UnknownCaller { issuer, subject, token_id, detail, .. } => {
            let (issuer, subject) = (issuer.clone(), subject.clone());
            let identity = UnknownIdentity { issuer, subject, token_id: token_id.clone(), reason: detail.clone() };
            gateway.record_unknown_caller(identity).await
        }
        Rejection::KeysUnavailable { .. } => Ok(()),
    }
}

pub(super) fn state(request: &HttpRequest) -> Result<&web::Data<State>, Problem> {
    request.app_data::<web::Data<State>>().ok_or_else(|| Problem::new(Code::Internal, "The gateway is not set up."))
}

/// Reads a JSON body up to the limit.
pub(super) async fn body(request: &HttpRequest, payload: web::Payload) -> Result<Value, Problem> {
    if !is_json(request.headers()) {
        return Err(not_json());
    }
    json::parse_exactly(&bytes(request, payload).await?)
}

/// Reads an optional JSON body; a missing one counts as an empty object.
pub(super) async fn body_if_any(request: &HttpRequest, payload: web::Payload) -> Result<Value, Problem> {
    let bytes = bytes(request, payload).await?;
    match bytes.as_ref() {
        [] => Ok(Value::Object(Map::new())),
        _ if !is_json(request.headers()) => Err(not_json()),
        bytes => json::parse_exactly(bytes),
    }
}

fn not_json() -> Problem {
    Problem::new(Code::UnsupportedMediaType, "Send the body with Content-Type: application/json.")
}

/// Reads a body of any kind up to the limit.
pub(super) async fn bytes(request: &HttpRequest, payload: web::Payload) -> Result<web::Bytes, Problem> {
    let config::Server { body_max: limit, request_timeout, .. } = state(request)?.settings;
    let Ok(read) = tokio::time::timeout(request_timeout, payload.to_bytes_limited(limit)).await else {
        let detail = format!("The body did not arrive within {} s.", request_timeout.as_secs());
        return Err(Problem::new(Code::RequestTimeout, detail));
    };
    match read {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) => Err(Problem::new(Code::MalformedJson, format!("The body is incomplete: {error}."))),
        Err(_exceeded) => {
            Err(Problem::new(Code::BodyTooLarge, format!("The body is larger than the limit of {limit} bytes.")))
        }
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let content_type = text(headers, "content-type").unwrap_or_default();
    content_type.split(';').next().is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// The set that a change is bound to, from `If-Match` (RFC 9110): the `ETag` of the assignments, or only its first part, which
/// identifies the set. `*` matches any set, and every configuration has one.
pub(super) fn only_on(headers: &HeaderMap) -> Result<Option<Digest>, Problem> {
    let mut values = headers.get_all("if-match");
    let Some(value) = values.next() else { return Ok(None) };
    let value = value.to_str().unwrap_or_default().trim();
    let unquoted = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let set = unquoted.and_then(|tag| match tag.split_once('.') {
        Some((set, rest)) => Digest::parse(rest).and(Digest::parse(set)),
        None => Digest::parse(tag),
    });
    match set {
        _ if values.next().is_some() => Err(Problem::new(Code::InvalidHeader, "If-Match is sent more than once.")),
        None if value == "*" => Ok(None),
        Some(digest) => Ok(Some(digest)),
        None => {
            let detail = "If-Match must be one ETag of the configuration's assignments, including its quotes, or *. Weak \
                          ETags and lists of ETags are not accepted.";
            Err(Problem::new(Code::InvalidHeader, detail))
        }
    }
}

/// The idempotency key of a request, with a fingerprint of what is requested under it: the body, and in `beside` whatever
/// else distinguishes one request from another.
pub(super) fn keyed_request(
    headers: &HeaderMap,
    body: &Value,
    beside: &[&str],
) -> Result<Option<KeyedRequest>, Problem> {
    let asked = beside.iter().fold(canonical::text(body), |asked, more| format!("{asked}\n{more}"));
    let fingerprint = Digest::of(asked.as_bytes());
    let key = key(headers)?;
    if key.as_deref().is_some_and(is_key_of_message) {
        let detail = "Idempotency-Key must not be like webhook:…#…, which is kept for the messages of webhooks.";
        return Err(Problem::new(Code::InvalidHeader, detail));
    }
    Ok(key.map(|key| KeyedRequest { key, fingerprint }))
}

/// The idempotency key of a request, quoted (as the draft has it) or bare (as most clients send it).
pub(super) fn key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let invalid = |what: &str| Problem::new(Code::InvalidHeader, format!("Idempotency-Key {what}."));
    let mut values = headers.get_all("idempotency-key");
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(invalid("is sent more than once"));
    }
    let value = value.to_str().map_err(|_opaque| invalid("contains characters other than visible ASCII"))?.trim();
    let key = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value);
    if key.is_empty() || key.len() > KEY_MAX || key.contains(['"', '\\', '\t']) {
        return Err(invalid("must have 1 to 255 characters, and no quotes, backslashes or tabs inside"));
    }
    Ok(Some(key.to_owned()))
}

/// How long a caller wants to wait, from `Prefer` (RFC 7240).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Preference {
    /// Respond at once.
    RespondAsync,
    /// Wait for up to this long.
    Wait(Duration),
    /// No preference.
    Unsaid,
}

/// Reads `Prefer`. Unknown preferences are ignored, as the RFC requires; `respond-async` takes precedence over `wait`.
pub(super) fn preference(headers: &HeaderMap) -> Preference {
    let preferences = headers.get_all("prefer").filter_map(|value| value.to_str().ok());
    let mut wait = Preference::Unsaid;
    for preference in preferences.flat_map(|value| value.split(',')) {
        let essence = preference.split(';').next().unwrap_or_default().trim();
        if essence.eq_ignore_ascii_case("respond-async") {
            return Preference::RespondAsync;
        }
        let (name, value) = essence.split_once('=').unwrap_or_default();
        if name.trim().eq_ignore_ascii_case("wait")
            && let Ok(seconds) = value.trim().trim_matches('"').parse()
        {
            wait = match wait {
                // The first one counts.
                Preference::Unsaid => Preference::Wait(Duration::from_secs(seconds)),
                Preference::Wait(_) | Preference::RespondAsync => wait,
            };
        }
    }
    wait
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;
    use serde_json::json;

    use super::*;

    fn prefer(value: &str) -> Preference {
        preference(TestRequest::default().insert_header(("prefer", value)).to_http_request().headers())
    }

    #[test]
    fn preferences_are_read_as_the_rfc_writes_them() {
        assert_eq!(prefer("wait=5"), Preference::Wait(Duration::from_secs(5)));
        assert_eq!(prefer("Respond-Async, wait=5"), Preference::RespondAsync);
        assert_eq!(prefer("handling=lenient; x, wait = \"7\""), Preference::Wait(Duration::from_secs(7)));
        for ignored in ["", "wait", "wait=-1", "wait=soon", "return=minimal"] {
            assert_eq!(prefer(ignored), Preference::Unsaid, "{ignored}");
        }
    }

    #[test]
    fn a_key_is_the_same_quoted_and_bare() {
        let key = |value: &str| {
            let request = TestRequest::default().insert_header(("idempotency-key", value)).to_http_request();
            keyed_request(request.headers(), &json!({}), &[]).map(|attempt| attempt.unwrap().key)
        };
        assert_eq!(key("\"a b\"").unwrap(), key("a b").unwrap());
        for refused in ["", "\"\"", "a\"b", "a\\b", "a\tb", &"x".repeat(256)] {
            assert!(key(refused).is_err(), "{refused}");
        }
    }
}
