//! One call to Graph: token, identifying headers, retries, and what its answer means.
//!
//! Guarantees: a read is retried where that can help; a write is retried only if it certainly had no effect (it never
//! reached Graph, was throttled, met a conflict or a lock, or its token was refused). The bearer token goes to the
//! configured Graph host and to no other, next links included.
//!
//! It deliberately knows no path and no field; `graph::mod` and `graph::model` do.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;

use super::{
    Error, Refusal, Tokens, WriteGrant, model,
    pace::{CallKind, CallOutcome, PAUSE_MAX, Pace},
    permission::{self, Permission},
    reason::{APPROVAL_CODE, Reason},
    token::Token,
    token_error::TokenError,
};
use crate::{
    clock::{Backoff, Clock},
    config,
    domain::ids::ApiVersion,
    outbound::{
        self, HeaderName, HeaderValue, Method, Outbound, Request, Response,
        header::{ACCEPT, AUTHORIZATION},
    },
};

/// The largest answer that is read: a page of assignments is some hundred kilobytes at most.
const RESPONSE_MAX: usize = 8 * 1024 * 1024;
/// Pauses between attempts when Graph names none.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(500), longest: Duration::from_secs(10) };
/// The pause reported when Graph throttles without naming one, which Intune often does.
const THROTTLED_UNSAID: Duration = Duration::from_secs(10);

/// The longest pause that is honoured: absurd ones have been seen, and during a pause nothing checks whether it is over.
const ASKED_MAX: Duration = Duration::from_mins(5);

/// The pause that a `Retry-After` asks for, as far as it is honoured; none if it asks for none.
pub(super) fn heeded(retry_after: &str, now: Timestamp) -> Option<Duration> {
    outbound::retry_after(retry_after, now).filter(|pause| !pause.is_zero()).map(|pause| pause.min(ASKED_MAX))
}

#[derive(Debug)]
pub(super) struct Transport {
    settings: config::Graph,
    tokens: Tokens,
    pace: Pace,
    outbound: Outbound,
    clock: Clock,
}

/// A call that can be made several times.
struct PreparedCall<'a> {
    effect: CallKind,
    url: &'a str,
    body: Option<Vec<u8>>,
    client_request_id: &'a str,
    permission: &'static Permission,
    end_by: Option<Duration>,
}

/// What to do after an attempt that did not succeed.
enum Next {
    /// Get a new token and try again at once.
    Renew,
    /// Retry, after this pause if Graph named one; if no attempt is left, this is the error.
    Retry(Option<Duration>, Error),
    /// Give up.
    Fail(Error),
}

impl Transport {
    pub(super) fn new(settings: config::Graph, outbound: Outbound, clock: Clock) -> Self {
        let tokens = Tokens::new(settings.clone(), outbound.clone(), clock);
        let pace = Pace::new(&settings.pace, clock);
        Self { settings, tokens, pace, outbound, clock }
    }

    /// The settings that this was made from.
    pub(super) fn settings(&self) -> &config::Graph {
        &self.settings
    }

    /// A token that is valid now; retried as often as a call is.
    pub(super) async fn token(&self) -> Result<Arc<Token>, Error> {
        let mut failed = 0_u32;
        loop {
            let none = match self.tokens.token().await {
                Ok(token) => return Ok(token),
                Err(none) => none,
            };
            failed = failed.saturating_add(1);
            if !none.is_transient() || failed >= self.settings.attempts_max || none.rest > PAUSE_MAX {
                return Err(none.error);
            }
            self.clock.sleep(none.rest).await;
        }
    }

    /// Reads a path below the API version.
    pub(super) async fn read(&self, path: &str, permission: &'static Permission) -> Result<Response, Error> {
        self.read_through(self.settings.api_version, path, permission).await
    }

    /// Reads a path below this API version, whatever the settings say.
    pub(super) async fn read_through(
        &self,
        version: ApiVersion,
        path: &str,
        permission: &'static Permission,
    ) -> Result<Response, Error> {
        self.read_at(&self.url(version, path), permission).await
    }

    /// Reads the next page, if its link leads to the same Graph.
    pub(super) async fn read_next(&self, link: &str, permission: &'static Permission) -> Result<Response, Error> {
        match self.next(link) {
            Some(url) => self.read_at(&url, permission).await,
            None => Err(Error::Unreadable("the link to the next page leads to another host".to_owned())),
        }
    }

    /// The URL of a next page, always at the configured endpoint: Graph names its own host in links, even if it is called
    /// through a proxy.
    fn next(&self, link: &str) -> Option<String> {
        let (endpoint, graph) = (self.settings.endpoint.as_str(), self.settings.cloud.graph());
        let below = |root: &str| link.strip_prefix(root).filter(|path| path.starts_with('/'));
        below(endpoint).or_else(|| below(graph)).map(|path| format!("{endpoint}{path}"))
    }

    /// Posts a body to a path below the API version.
    pub(super) async fn write(&self, path: &str, body: Vec<u8>, grant: &WriteGrant) -> Result<Response, Error> {
        let WriteGrant { client_request_id, until } = grant;
        let (url, end_by) = (self.url(self.settings.api_version, path), Some(*until));
        let permission = &permission::ASSIGNING;
        self.ask(PreparedCall {
            effect: CallKind::Write,
            url: &url,
            body: Some(body),
            client_request_id,
            permission,
            end_by,
        })
        .await
    }

    async fn read_at(&self, url: &str, permission: &'static Permission) -> Result<Response, Error> {
        let client_request_id = self.clock.new_id().to_string();
        let client_request_id = &client_request_id;
        self.ask(PreparedCall { effect: CallKind::Read, url, body: None, client_request_id, permission, end_by: None })
            .await
    }

    fn url(&self, version: ApiVersion, path: &str) -> String {
        format!("{}/{}/{path}", self.settings.endpoint, version.name())
    }

    async fn ask(&self, asked: PreparedCall<'_>) -> Result<Response, Error> {
        let mut renewed = false;
        let mut failed = 0_u32;
        loop {
            let next = match self.attempt(&asked).await {
                Ok(answer) => return Ok(answer),
                Err(Next::Renew) if renewed => {
                    Next::Fail(Error::Unauthorised("Graph does not accept the token of the login service".to_owned()))
                }
                Err(next) => next,
            };
            match next {
                Next::Renew => renewed = true,
                Next::Fail(error) => return Err(error),
                Next::Retry(named, error) => {
                    failed = failed.saturating_add(1);
                    let pause = named.unwrap_or_else(|| BACKOFF.pause(failed, self.clock.random_fraction()));
                    if failed >= self.settings.attempts_max || pause > PAUSE_MAX {
                        return Err(error);
                    }
                    tracing::info!(%error, attempt = failed, pause_ms = pause.as_millis(), "a call to Graph is retried");
                    self.clock.sleep(pause).await;
                }
            }
        }
    }

    async fn attempt(&self, asked: &PreparedCall<'_>) -> Result<Response, Next> {
        let token = self.tokens.token().await.map_err(tokenless)?;
        let call = self.call(asked, &token.bearer()).map_err(Next::Fail)?;
        let begin_by = asked.end_by.map(|end_by| end_by.saturating_sub(self.settings.call_timeout));
        let pass = self.pace.acquire(asked.effect, begin_by).await.map_err(Next::Fail)?;
        let answer = match self.outbound.send(call).await {
            Ok(answer) => answer,
            Err(error) => {
                match error {
                    outbound::Error::Unreached(_) | outbound::Error::Unanswered(_) => pass.finish(CallOutcome::Failed),
                    outbound::Error::TooLarge { .. } => pass.finish(CallOutcome::Answered),
                    // Nothing was sent, which says nothing about Graph.
                    outbound::Error::Late | outbound::Error::Impossible(_) => drop(pass),
                }
                return Err(unanswered(asked.effect, &error));
            }
        };
        let named = answer.header("retry-after").and_then(|text| heeded(text, self.clock.now()));
        pass.finish(went(&answer, named));
        tracing::debug!(
            graph.status = answer.status.as_u16(),
            graph.request_id = answer.header("request-id"),
            graph.client_request_id = asked.client_request_id,
            graph.url = asked.url,
            "Graph answered"
        );
        if answer.status.is_success() {
            return Ok(answer);
        }
        if answer.status.as_u16() == 503 {
            // Microsoft's advice: the same connection may lead to the same failing machine.
            self.outbound.renew();
        }
        let refusal = refusal(asked, &answer);
        let lacking = matches!(refusal.reason, Reason::Permission(missing) if missing.is_needed());
        let next = judge(asked.effect, refusal, named);
        if matches!(next, Next::Renew) {
            self.tokens.refuse(&token).await;
        } else if lacking {
            // A permission granted since is only in the next token.
            self.tokens.outgrow(&token).await;
        }
        Err(next)
    }

    fn call(&self, asked: &PreparedCall<'_>, bearer: &str) -> Result<Request, Error> {
        let mut bearer = HeaderValue::from_str(bearer)
            .map_err(|_invalid| Error::Unauthorised("the login service's token is not a header's text".to_owned()))?;
        bearer.set_sensitive(true);
        let id = HeaderValue::from_str(asked.client_request_id)
            .map_err(|_invalid| Error::Unreadable("our id of the call is not a header's text".to_owned()))?;
        let headers = vec![
            (AUTHORIZATION, bearer),
            (ACCEPT, HeaderValue::from_static("application/json")),
            (HeaderName::from_static("client-request-id"), id),
            (HeaderName::from_static("return-client-request-id"), HeaderValue::from_static("true")),
            // Without it, members that were added to an enumeration later read as "unknownFutureValue".
            (HeaderName::from_static("prefer"), HeaderValue::from_static("include-unknown-enum-members")),
        ];
        Ok(Request {
            method: if asked.effect == CallKind::Read { Method::GET } else { Method::POST },
            url: asked.url.to_owned(),
            headers,
            body: asked.body.clone().map(|body| ("application/json", body)),
            timeout: self.settings.call_timeout,
            end_by: asked.end_by,
            response_max: RESPONSE_MAX,
        })
    }
}

/// What to do about a call that was not made for lack of a token. Before the rest is over, there would be none either.
fn tokenless(none: TokenError) -> Next {
    if none.is_transient() { Next::Retry(Some(none.rest), none.error) } else { Next::Fail(none.error) }
}

/// What to do about a call without an answer.
fn unanswered(effect: CallKind, error: &outbound::Error) -> Next {
    let words = error.to_string();
    match (error, effect) {
        (outbound::Error::Unreached(_), _) | (outbound::Error::Unanswered(_), CallKind::Read) => {
            Next::Retry(None, Error::Unavailable(words))
        }
        (outbound::Error::Unanswered(_) | outbound::Error::TooLarge { .. }, CallKind::Write) => {
            Next::Fail(Error::Unknown(words))
        }
        (outbound::Error::Late, _) => Next::Fail(Error::Unavailable(words)),
        (outbound::Error::TooLarge { .. }, CallKind::Read) | (outbound::Error::Impossible(_), _) => {
            Next::Fail(Error::Unreadable(words))
        }
    }
}

/// The refusal in an answer that is not a success.
fn refusal(asked: &PreparedCall<'_>, answer: &Response) -> Refusal {
    let request_id = answer.header("request-id").map(str::to_owned);
    let said = model::refusal(answer.status.as_u16(), request_id, &answer.body);
    let reason = Reason::of(&said, answer.header(APPROVAL_CODE), asked.permission);
    Refusal { client_request_id: Some(asked.client_request_id.to_owned()), reason, ..said }
}

/// What to do about a refusal.
fn judge(effect: CallKind, refusal: Refusal, named: Option<Duration>) -> Next {
    let words = refusal.to_string();
    match refusal.status {
        _ if refusal.reason == Reason::Approval => Next::Fail(Error::Forbidden(refusal)),
        // Intune answers 401 for a missing permission too, with the true code inside.
        401 if refusal.code == "Forbidden" => Next::Fail(Error::Forbidden(refusal)),
        401 => Next::Renew,
        403 => Next::Fail(Error::Forbidden(refusal)),
        404 => Next::Fail(Error::Missing(refusal)),
        429 => Next::Retry(named, Error::Throttled { pause: named.unwrap_or(THROTTLED_UNSAID) }),
        408 | 500.. if effect == CallKind::Write => Next::Fail(Error::Unknown(words)),
        // Conflicts and locks are transient, and nothing was changed.
        408 | 409 | 423 | 500.. => Next::Retry(named, Error::Unavailable(words)),
        _ => Next::Fail(Error::Refused(refusal)),
    }
}

/// What an answer says about Graph's condition. A 503 that names a pause counts as throttling.
fn went(answer: &Response, named: Option<Duration>) -> CallOutcome {
    match answer.status.as_u16() {
        429 => CallOutcome::Throttled(named),
        503 if named.is_some() => CallOutcome::Throttled(named),
        500.. => CallOutcome::Failed,
        _ => CallOutcome::Answered,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::fixture, *};
    use crate::domain::ids::Cloud;

    #[tokio::test]
    async fn next_pages_are_read_at_the_configured_endpoint_and_nowhere_else() {
        let clock = Clock::system();
        let settings = config::Graph {
            cloud: Cloud::Global,
            endpoint: "https://proxy.test/graph".to_owned(),
            ..fixture::settings("none".as_ref())
        };
        let transport = Transport::new(settings, Outbound::new(clock).unwrap(), clock);
        let ours = Some("https://proxy.test/graph/beta/groups?$skiptoken=a%2Fb".to_owned());
        for root in ["https://proxy.test/graph", "https://graph.microsoft.com"] {
            assert_eq!(transport.next(&format!("{root}/beta/groups?$skiptoken=a%2Fb")), ours, "{root}");
        }
        for foreign in [
            "https://graph.microsoft.com.evil.test/beta/groups",
            "https://graph.microsoft.com@evil.test/beta/groups",
            "https://graph.microsoft.com",
            "http://graph.microsoft.com/beta/groups",
            "https://graph.microsoft.us/beta/groups",
            "https://proxy.test/other",
            "https://proxy.test/graphs/beta",
            "//graph.microsoft.com/beta",
            "/beta/groups",
            "",
        ] {
            assert_eq!(transport.next(foreign), None, "{foreign}");
        }
    }

    #[tokio::test]
    async fn a_call_that_was_not_sent_does_not_end_an_outage() {
        let clock = Clock::system();
        let transport = Transport::new(fixture::settings("none".as_ref()), Outbound::new(clock).unwrap(), clock);
        transport.tokens.hold("t").await;
        for failures in 1..=3 {
            assert!(transport.read("x", &permission::READING).await.is_err());
            assert_eq!(transport.pace.failures(), failures);
        }
        let late = WriteGrant { client_request_id: "id".to_owned(), until: Duration::ZERO };
        let error = transport.write("x", Vec::new(), &late).await.unwrap_err();
        assert!(error.to_string().contains("no time left"), "{error}");
        assert_eq!(transport.pace.failures(), 3);
        assert!(transport.read_at("no URL", &permission::READING).await.is_err());
        assert_eq!(transport.pace.failures(), 3);
    }
}
