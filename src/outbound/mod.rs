//! The one way to make an HTTP request: to Graph, the login service, an issuer's keys, callback destinations.
//!
//! Guarantees: every call has a deadline, an answer is read up to a limit and no further, redirects are not followed (a
//! token must not travel to a host that the configuration does not name), and the W3C trace context of the current span
//! is sent along. Dropping a call ends it. Connections belong to the runtime in which [`Outbound::new`] was called, so
//! none dies with the server worker that happened to open it. A client bound to an [`AddressScope`] connects to no address
//! outside of it, and uses neither a proxy nor a connection twice.
//!
//! It deliberately does not retry and does not judge a status: the callers know what a retry would do.

mod address_scope;
mod proxied;

use std::{
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use jiff::{Timestamp, fmt::rfc2822};
use reqwest::{Certificate, Client, ClientBuilder, NoProxy, Proxy, redirect};
pub use reqwest::{
    Method, StatusCode,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;
use url::Url;

pub use self::address_scope::AddressScope;
use self::address_scope::Resolver;
use crate::{
    clock::{self, Clock},
    telemetry,
};

/// How long establishing a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long connections are used at least before all are replaced.
const RENEWED_AFTER: Duration = Duration::from_secs(2);

/// A client with its connection pool; clones share the pool.
#[derive(Clone, Debug)]
pub struct Outbound {
    client: Arc<ReplaceableClient>,
    /// Made on first use: few need it, and each client reads the system's certification authorities for itself.
    direct: Arc<OnceLock<Arc<ReplaceableClient>>>,
    runtime: Handle,
    clock: Clock,
    /// Where it may connect to; none for anywhere.
    scope: Option<AddressScope>,
    queries: QueryVisibility,
}

/// Whether the query of a URL may appear in spans and errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum QueryVisibility {
    Shown,
    Hidden,
}

/// A client that can be replaced by an identical one without connections.
#[derive(Debug)]
struct ReplaceableClient {
    route: Route,
    /// The client, and when it was last replaced.
    client: Mutex<(Client, Option<Duration>)>,
}

/// The route that a client takes.
#[derive(Clone, Debug)]
enum Route {
    Usual(ClientOptions),
    /// Through the given proxy, whatever the system exempts from it.
    Proxied(ClientOptions),
    /// Through no proxy.
    Direct,
    /// Through no proxy, and only to these addresses; with the authorities trusted besides the system's.
    Within(AddressScope, Option<Vec<u8>>),
}

/// How calls leave. The default is the system's: its proxies (`HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`) and the
/// certification authorities that it trusts.
#[derive(Clone, Debug, Default)]
pub struct ClientOptions {
    /// A proxy to use instead of the system's.
    pub proxy: Option<Url>,
    /// Certification authorities trusted besides the system's, in PEM.
    pub authorities: Option<Vec<u8>>,
}

/// What to send.
#[derive(Debug)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// The whole URL.
    pub url: String,
    /// Headers, besides those that every call carries.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The body and its content type.
    pub body: Option<(&'static str, Vec<u8>)>,
    /// How long the call may take, up to the last byte of the answer.
    pub timeout: Duration,
    /// By [`Clock::elapsed`]: the call is started only if its whole timeout ends before this.
    pub end_by: Option<Duration>,
    /// The most bytes of an answer that are read.
    pub response_max: usize,
}

/// What came back.
#[derive(Debug)]
pub struct Response {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Response {
    /// A header's value, if it is present and is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The call certainly did not reach anybody.
    #[error("cannot connect: {0}")]
    Unreached(String),
    /// The call was sent, at least in part; whether it was acted on is unknown.
    #[error("no answer: {0}")]
    Unanswered(String),
    /// The answer is larger than allowed. The call was acted on.
    #[error("the answer is larger than {most} bytes")]
    TooLarge {
        /// How many bytes are allowed.
        most: usize,
        /// Its status.
        status: StatusCode,
        /// Its headers.
        headers: HeaderMap,
    },
    /// It was too late to start; nothing was sent.
    #[error("there was no time left to send it")]
    Late,
    /// The client or the call cannot be made from what was given.
    #[error("not a possible call: {0}")]
    Impossible(String),
}

impl Error {
    /// Its class, for metrics.
    fn class(&self) -> &'static str {
        match self {
            Self::Unreached(_) => "unreached",
            Self::Unanswered(_) => "unanswered",
            Self::TooLarge { .. } => "too-large",
            Self::Late => "late",
            Self::Impossible(_) => "impossible",
        }
    }
}

impl Outbound {
    /// A client on the system's route; needs a running runtime, which must outlive all calls.
    pub fn new(clock: Clock) -> Result<Self, Error> {
        Self::with_options(&ClientOptions::default(), clock)
    }

    /// A client with its own proxy and authorities; otherwise as [`Outbound::new`].
    pub fn with_options(options: &ClientOptions, clock: Clock) -> Result<Self, Error> {
        let runtime = Handle::try_current().map_err(|error| Error::Impossible(error.to_string()))?;
        let client = ReplaceableClient::new(Route::Usual(options.clone()))?;
        Ok(Self { client, direct: Arc::default(), runtime, clock, scope: None, queries: QueryVisibility::Shown })
    }

    /// The same without any proxy, for what is on this machine or next to it.
    pub fn direct(&self) -> Result<Self, Error> {
        let made =
            self.direct.get().map_or_else(|| ReplaceableClient::new(Route::Direct), |made| Ok(Arc::clone(made)))?;
        // If two are made at the same time, one of them is kept.
        Ok(Self { client: Arc::clone(self.direct.get_or_init(|| made)), ..self.clone() })
    }

    /// The same, for URLs that others write: whatever follows their `?` appears neither in spans nor in errors.
    #[must_use]
    pub fn hiding_queries(&self) -> Self {
        Self { queries: QueryVisibility::Hidden, ..self.clone() }
    }

    /// A client for addresses that others choose. It uses no proxy: we could not check which address a proxy connects to.
    pub fn limited_to(&self, scope: AddressScope) -> Result<Self, Error> {
        let authorities = if let Route::Usual(usual) = &self.client.route { usual.authorities.clone() } else { None };
        let client = ReplaceableClient::new(Route::Within(scope, authorities))?;
        Ok(Self { direct: Arc::new(Arc::clone(&client).into()), client, scope: Some(scope), ..self.clone() })
    }

    /// Makes later calls use new connections; those in flight keep theirs. At most once every few seconds, however often
    /// it is called.
    pub fn renew(&self) {
        let now = self.clock.elapsed();
        {
            let (_, last) = &mut *self.client.present();
            if last.is_some_and(|last| now.saturating_sub(last) < RENEWED_AFTER) {
                return;
            }
            *last = Some(now);
        }
        // Outside the lock, so that nobody waits while certificates are read.
        match made(&self.client.route) {
            Ok(client) => self.client.present().0 = client,
            Err(error) => tracing::warn!(%error, "cannot open new connections; those in use are kept"),
        }
    }

    /// Sends a call and reads its answer, in a span that follows OpenTelemetry's conventions for HTTP clients. Dropping
    /// the future ends the call.
    pub async fn send(&self, call: Request) -> Result<Response, Error> {
        let (host, port) = server_of(&call.url);
        let span = tracing::info_span!(
            "call",
            otel.name = %call.method,
            otel.kind = "client",
            http.request.method = %call.method,
            url.full = self.shown(&call.url),
            server.address = host,
            server.port = port,
            http.response.status_code = tracing::field::Empty,
            error.type = tracing::field::Empty,
            otel.status_code = tracing::field::Empty,
        );
        let (method, begun) = (call.method.clone(), self.clock.elapsed());
        if let Some(why) = self.scope.and_then(|scope| scope.refusal_of(&call.url)) {
            let error = Error::Unreached(why);
            span.record("otel.status_code", "ERROR").record("error.type", error.class());
            return Err(error);
        }
        // A connection is driven by a task of the runtime in which its first call ran, and later calls share it. Opened
        // by a handler, it would die with the server's worker at shutdown, and with it a lane's write in flight.
        let exchange =
            exchange(self.client.present().0.clone(), call, self.clock, self.queries).instrument(span.clone());
        let exchanged = AbortOnDropHandle::new(self.runtime.spawn(exchange)).await;
        let outcome = exchanged.unwrap_or_else(|ended| Err(Error::Unanswered(ended.to_string())));
        let failed = match &outcome {
            Ok(answer) => {
                span.record("http.response.status_code", answer.status.as_u16());
                (answer.status.as_u16() >= 400).then(|| answer.status.as_str())
            }
            Err(error) => Some(error.class()),
        };
        if let Some(failed) = failed {
            span.record("otel.status_code", "ERROR").record("error.type", failed);
        }
        telemetry::measure_call(telemetry::Call {
            method: method.as_str(),
            host: &host,
            port,
            outcome: outcome.as_ref().map(|answer| answer.status.as_u16()).map_err(Error::class),
            took: self.clock.elapsed().saturating_sub(begun),
        });
        outcome
    }
}

impl Outbound {
    fn shown<'a>(&self, url: &'a str) -> &'a str {
        match self.queries {
            QueryVisibility::Shown => url,
            QueryVisibility::Hidden => url.split_once('?').map_or(url, |(plain, _)| plain),
        }
    }
}

impl ReplaceableClient {
    fn new(route: Route) -> Result<Arc<Self>, Error> {
        let client = Mutex::new((made(&route)?, None));
        Ok(Arc::new(Self { route, client }))
    }

    fn present(&self) -> MutexGuard<'_, (Client, Option<Duration>)> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client for this route.
fn made(route: &Route) -> Result<Client, Error> {
    let impossible = |error: reqwest::Error| Error::Impossible(chain(&error));
    let (mut builder, authorities) = match route {
        Route::Direct => (builder().no_proxy(), &None),
        Route::Within(scope, authorities) => {
            // Reusing a connection would skip the check of where the name leads by now.
            let builder = builder().no_proxy().dns_resolver(Arc::new(Resolver(*scope))).pool_max_idle_per_host(0);
            (builder, authorities)
        }
        Route::Usual(options) | Route::Proxied(options) => (builder(), &options.authorities),
    };
    if let Route::Usual(ClientOptions { proxy: Some(proxy), .. })
    | Route::Proxied(ClientOptions { proxy: Some(proxy), .. }) = route
    {
        // What the system exempts from its own proxies is usually exempt from this one, too.
        let excepted = if matches!(route, Route::Usual(_)) { NoProxy::from_env() } else { None };
        builder = builder.proxy(Proxy::all(proxy.as_str()).map_err(impossible)?.no_proxy(excepted));
    }
    if let Some(pem) = authorities {
        let authorities = Certificate::from_pem_bundle(pem).map_err(impossible)?;
        if authorities.is_empty() {
            return Err(Error::Impossible("there is no certificate among the certification authorities".to_owned()));
        }
        builder = builder.tls_certs_merge(authorities);
    }
    builder.build().map_err(impossible)
}

/// What all clients have in common, whatever their route.
fn builder() -> ClientBuilder {
    Client::builder()
        .redirect(redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .user_agent(concat!("postern/", env!("CARGO_PKG_VERSION")))
}

/// Host and port of a URL, for spans and metrics.
fn server_of(url: &str) -> (String, u16) {
    let url = Url::parse(url).ok();
    let host = url.as_ref().and_then(Url::host_str).unwrap_or_default().to_owned();
    (host, url.and_then(|url| url.port_or_known_default()).unwrap_or_default())
}

#[expect(clippy::disallowed_methods, reason = "this is the one place that sends")]
async fn exchange(client: Client, call: Request, clock: Clock, queries: QueryVisibility) -> Result<Response, Error> {
    let mut request = client.request(call.method, call.url).timeout(call.timeout);
    for (name, value) in call.headers {
        request = request.header(name, value);
    }
    if let Some(traceparent) = telemetry::traceparent() {
        request = request.header("traceparent", traceparent);
    }
    if let Some((content_type, body)) = call.body {
        request = request.header("content-type", content_type).body(body);
    }
    // As late as possible: a process that was suspended in between must not send what it no longer may.
    if call.end_by.is_some_and(|end_by| clock.elapsed().saturating_add(call.timeout) > end_by) {
        return Err(Error::Late);
    }
    let classify = |error: reqwest::Error| match queries {
        QueryVisibility::Shown => classify(&error),
        QueryVisibility::Hidden => classify(&error.without_url()),
    };
    let mut response = request.send().await.map_err(classify)?;
    let (status, headers) = (response.status(), std::mem::take(response.headers_mut()));
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(classify)? {
        if body.len().saturating_add(chunk.len()) > call.response_max {
            return Err(Error::TooLarge { most: call.response_max, status, headers });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Response { status, headers, body })
}

fn classify(error: &reqwest::Error) -> Error {
    if error.is_builder() {
        Error::Impossible(chain(error))
    } else if error.is_connect() {
        Error::Unreached(chain(error))
    } else {
        Error::Unanswered(chain(error))
    }
}

/// The pause in a `Retry-After`: in seconds, whole or not, or until a date (RFC 9110).
pub fn retry_after(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    match value.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        Err(_no_number) => {
            let date = rfc2822::DateTimeParser::new().parse_timestamp(value).ok()?;
            Some(clock::until(now, date))
        }
    }
}

/// The causes, outermost first. reqwest's own text may contain the URL, which holds no secret: our tokens and secrets
/// travel in headers and bodies, and URLs that others write are removed beforehand.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn a_pause_is_read_in_seconds_or_as_a_date_and_nonsense_is_ignored() {
        let now = "1999-12-31T23:59:50Z".parse().unwrap();
        assert_eq!(retry_after("3", now), Some(Duration::from_secs(3)));
        assert_eq!(retry_after(" 2.128 ", now), Some(Duration::from_millis(2128)));
        assert_eq!(retry_after("Fri, 31 Dec 1999 23:59:59 GMT", now), Some(Duration::from_secs(9)));
        assert_eq!(retry_after("Fri, 31 Dec 1999 23:59:00 GMT", now), Some(Duration::ZERO));
        for nonsense in ["", "soon", "-1", "NaN", "inf", "1e400", "Fri, 99 Dec 1999 23:59:59 GMT"] {
            assert_eq!(retry_after(nonsense, now), None, "{nonsense}");
        }
    }

    #[tokio::test]
    async fn a_call_whose_time_does_not_fit_any_more_reaches_nobody() {
        let clock = Clock::system();
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let timeout = Duration::from_secs(20);
        let call = Request {
            method: Method::POST,
            url: format!("http://{}/", server.local_addr().unwrap()),
            headers: Vec::new(),
            body: None,
            timeout,
            end_by: Some(clock.elapsed().saturating_add(timeout)),
            response_max: 1,
        };
        let sent = Outbound::new(clock).unwrap().send(call).await;
        assert!(matches!(sent, Err(Error::Late)), "{sent:?}");
        tokio::select! {
            biased;
            _ = server.accept() => panic!("somebody called"),
            () = std::future::ready(()) => {}
        }
    }
}
