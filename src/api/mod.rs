//! The REST API: routes, middleware, and the two HTTP servers.
//!
//! Guarantees: every route of `/v1` takes an authenticated caller, because its handler cannot be written without one, or,
//! for webhooks, authenticates the message itself; every failure, the framework's own included, is a problem document; each
//! request has one span, which continues its caller's `traceparent`.
//!
//! It deliberately reaches neither store nor Graph: a handler can do what [`Gateway`](crate::gateway::Gateway) offers and no
//! more.

mod assignments;
mod audit;
mod callback;
mod change;
mod codings;
mod configurations;
mod connections;
mod cors;
mod error_mapping;
mod event;
mod extract;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod groups;
mod json;
mod limits;
mod openapi;
mod operation_view;
mod operations;
mod pages;
mod probes;
mod problem;
mod problem_view;
mod query;
mod revert;
mod summary;
mod terms_view;
mod tls;
mod view;
mod webhooks;

use std::{io, net::TcpListener, num::NonZeroUsize, sync::Arc, thread};

use actix_web::{
    App, HttpRequest, HttpResponse, HttpServer, ResponseError, Route,
    body::MessageBody,
    dev::{Server, ServiceRequest, ServiceResponse},
    guard,
    http::{Method, StatusCode, Version},
    middleware::{Compress, Next, from_fn},
    web,
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span};

pub(crate) use self::{callback::message, cors::warnings, webhooks::dry_run};
use self::{
    connections::Connections,
    problem::{Code, Problem},
};
pub use self::{limits::Limits, openapi::document as openapi, tls::Certificate};
use crate::{
    auth::Authenticator,
    clock::Clock,
    config,
    gateway::{
        Current,
        request::{ChangeRequest, Fault},
    },
    telemetry,
    webhooks::Webhooks,
};

/// What handlers share.
#[derive(Debug)]
pub struct State {
    /// The verbs.
    pub gateway: Arc<Current>,
    /// Authenticates callers.
    pub authenticator: Authenticator,
    /// The sources of events.
    pub webhooks: Arc<Webhooks>,
    /// The limits of each of them.
    pub limits: Limits,
    /// The server's settings: sizes, timeouts, origins.
    pub settings: config::Server,
    /// Cancelled when the gateway is no longer ready: each connection is closed after its next response.
    pub leaving: CancellationToken,
    /// Cancelled when the servers stop.
    pub stopping: CancellationToken,
    /// The time.
    pub clock: Clock,
}

/// The API's server, on its listener, with TLS if there is a certificate.
pub fn server(
    listener: TcpListener,
    state: web::Data<State>,
    certificate: Option<&Arc<Certificate>>,
) -> io::Result<Server> {
    let settings = state.settings.clone();
    let open = Connections::new(settings.request_timeout, state.clock);
    tokio::spawn(Arc::clone(&open).close_idle(state.stopping.clone()));
    let app = move || {
        App::new()
            .app_data(state.clone())
            .wrap(from_fn(limits::add_limit_headers))
            .wrap(from_fn(connections::track_request))
            .wrap(from_fn(codings::always_acceptable))
            .wrap(from_fn(cors::share))
            // The last is the outermost: the span must see everything.
            .wrap(from_fn(observe))
            .configure(routes)
    };
    // Each worker counts its own connections.
    let workers = thread::available_parallelism().map_or(1, NonZeroUsize::get).min(settings.connections_max);
    let server = HttpServer::new(app)
        .disable_signals()
        .workers(workers)
        .max_connections(settings.connections_max.checked_div(workers).unwrap_or(1))
        .client_request_timeout(settings.request_timeout)
        .keep_alive(connections::KEEP_ALIVE)
        .shutdown_timeout(settings.stop_deadline.as_secs())
        .on_connect(move |connection, notes| {
            open.note(connection, notes);
            tls::note(connection, notes);
        });
    let server = match certificate {
        Some(certificate) => server.listen_rustls_0_23(listener, certificate.server()?)?,
        None => server.listen(listener)?,
    };
    Ok(server.run())
}

/// The internal server with the probes.
pub fn admin_server(listener: TcpListener, state: web::Data<State>) -> io::Result<Server> {
    let app = move || {
        App::new()
            .app_data(state.clone())
            .route("/livez", read().to(probes::livez))
            .route("/readyz", read().to(probes::readyz))
            .route("/metrics", read().to(probes::metrics))
    };
    Ok(HttpServer::new(app).disable_signals().workers(1).shutdown_timeout(0).listen(listener)?.run())
}

/// Reads a change from the contents of a file, as the body of `POST /v1/assignments` is read.
pub fn read_change(body: &[u8]) -> Result<ChangeRequest, Vec<Fault>> {
    let whole = |problem: Problem| vec![Fault { pointer: String::new(), detail: problem.to_string() }];
    change::read(&json::parse_exactly(body).map_err(whole)?)
}

/// All routes. Responses that may be long are compressed if the client accepts that; compressing a short one costs more than
/// it saves.
fn routes(config: &mut web::ServiceConfig) {
    let resource = |path: &str, allowed: &'static str| {
        let wrong = move |request: HttpRequest| std::future::ready(wrong_method(&request, allowed));
        web::resource(path.to_owned()).default_service(web::to(wrong))
    };
    config
        .service(resource("/v1/assignments", "POST").route(web::post().to(assignments::submit)))
        .service(resource("/v1/plan", "POST").route(web::post().to(assignments::plan)))
        .service(resource("/v1/operations", "GET, HEAD").route(read().to(operations::many)).wrap(Compress::default()))
        .service(
            resource("/v1/operations/{id}", "GET, HEAD, DELETE")
                .route(read().to(operations::one))
                .route(web::delete().to(operations::cancel)),
        )
        .service(resource("/v1/operations/{id}/approve", "POST").route(web::post().to(operations::approve)))
        .service(resource("/v1/operations/{id}/reject", "POST").route(web::post().to(operations::reject)))
        .service(
            resource("/v1/configurations", "GET, HEAD")
                .route(read().to(configurations::many))
                .wrap(Compress::default()),
        )
        .service(
            resource("/v1/configurations/{ref}/assignments", "GET, HEAD")
                .route(read().to(configurations::assignments))
                .wrap(Compress::default()),
        )
        .service(
            resource("/v1/groups/{ref}/assignments", "GET, HEAD")
                .route(read().to(groups::assignments))
                .wrap(Compress::default()),
        )
        .service(resource("/v1/operations/{id}/revert", "POST").route(web::post().to(revert::revert)))
        .service(resource("/v1/operations/{id}/callback", "POST").route(web::post().to(callback::resend)))
        .service(resource("/v1/operations/{id}/until", "DELETE").route(web::delete().to(operations::call_off)))
        .service(
            resource("/v1/webhooks/{source}", "POST, OPTIONS")
                .route(web::post().to(webhooks::receive))
                .route(web::method(Method::OPTIONS).to(webhooks::handshake)),
        )
        .service(resource("/v1/audit", "GET, HEAD").route(read().to(audit::many)).wrap(Compress::default()))
        .service(resource("/problems/{code}", "GET, HEAD").route(read().to(pages::problem)))
        .service(resource("/openapi.json", "GET, HEAD").route(read().to(pages::document)).wrap(Compress::default()))
        .service(resource("/docs", "GET, HEAD").route(read().to(pages::redirect_to_docs)))
        .service(resource("/docs/{file:[^/]*}", "GET, HEAD").route(read().to(pages::docs)))
        .default_service(web::to(nothing_here));
}

/// A route for reading: `HEAD` is answered like `GET`, and the server leaves out the body.
fn read() -> Route {
    web::route().guard(guard::Any(guard::Get()).or(guard::Head()))
}

async fn nothing_here(request: HttpRequest) -> Result<HttpResponse, Problem> {
    Err(Problem::new(Code::NotFound, format!("There is nothing at {}.", shown(request.path()))))
}

fn wrong_method(request: &HttpRequest, allowed: &str) -> HttpResponse {
    let detail = format!("{} is not supported at {}; supported: {allowed}.", request.method(), shown(request.path()));
    let mut response = Problem::new(Code::MethodNotAllowed, detail).error_response();
    operations::header(response.headers_mut(), "allow", allowed);
    response
}

/// Handles a request in a span of its own, and measures how long that takes, whatever the outcome.
async fn observe<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<B>, actix_web::Error> {
    let Some(clock) = request.app_data::<web::Data<State>>().map(|state| state.clock) else {
        return next.call(request).await;
    };
    let (method, begun) = (request.method().clone(), clock.elapsed());
    // Each unknown path would otherwise be a time series of its own.
    let route = request.match_pattern().unwrap_or_else(|| UNMATCHED.to_owned());
    let (scheme, span) = (scheme_of(&request), span_of(&request, &route));
    let outcome = async { next.call(request).await }.instrument(span.clone()).await;
    let status = status_of(&outcome);
    end(&span, status);
    telemetry::measure_request(telemetry::Request {
        method: method.as_str(),
        scheme,
        route: &route,
        status: status.as_u16(),
        took: clock.elapsed().saturating_sub(begun),
    });
    outcome
}

/// The scheme by which the request reached this process, whatever a proxy says.
fn scheme_of(request: &ServiceRequest) -> &'static str {
    if request.app_config().secure() { "https" } else { "http" }
}

fn status_of<B>(outcome: &Result<ServiceResponse<B>, actix_web::Error>) -> StatusCode {
    match outcome {
        Ok(response) => response.status(),
        Err(error) => error.as_response_error().status_code(),
    }
}

/// The HTTP version, as OpenTelemetry's conventions write it.
fn version_of(request: &ServiceRequest) -> &'static str {
    match request.version() {
        Version::HTTP_2 => "2",
        Version::HTTP_3 => "3",
        Version::HTTP_10 => "1.0",
        Version::HTTP_09 => "0.9",
        _ => "1.1",
    }
}

/// The route of a request for which there is none.
const UNMATCHED: &str = "unmatched";

/// A path as it may be shown and logged: without segments that could be a token, since they are longer or have more dots than
/// the gateway's own paths.
fn shown(path: &str) -> String {
    const SEGMENT_MAX: usize = 48;
    let hidden = |segment: &str| segment.len() > SEGMENT_MAX || segment.matches('.').count() >= 2;
    let segments = path.split('/').map(|segment| if hidden(segment) { "\u{2026}" } else { segment });
    segments.collect::<Vec<_>>().join("/")
}

/// The span of a request, by OpenTelemetry's conventions for HTTP servers, as part of its caller's trace.
fn span_of(request: &ServiceRequest, route: &str) -> Span {
    let method = telemetry::known_method(request.method().as_str());
    let local = request.app_config().local_addr();
    let span = tracing::info_span!(
        "request",
        otel.name = format!("{method} {route}"),
        otel.kind = "server",
        http.request.method = method,
        http.route = route,
        url.path = shown(request.path()),
        url.scheme = scheme_of(request),
        server.address = %local.ip(),
        server.port = local.port(),
        network.protocol.version = version_of(request),
        http.response.status_code = tracing::field::Empty,
        error.type = tracing::field::Empty,
        otel.status_code = tracing::field::Empty,
        trace_id = tracing::field::Empty,
    );
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    telemetry::set_parent(&span, header("traceparent"), header("tracestate"));
    telemetry::note_trace_id(&span);
    span
}

/// Records how a request was answered.
fn end(span: &Span, status: StatusCode) {
    span.record("http.response.status_code", status.as_u16());
    if status.is_server_error() {
        span.record("otel.status_code", "ERROR");
        span.record("error.type", status.as_str());
    }
    span.in_scope(|| tracing::info!(http.response.status_code = status.as_u16(), "request answered"));
}
