//! The sandbox: a simulator of Entra's token endpoint, of managed identities, of Graph's enrollment configurations, and of
//! an issuer of callers' tokens, in one HTTP server.
//!
//! It is for the demo, for development and for tests. It is written from Microsoft's documents and shares no code with the
//! client that it is used to test; where the documents are silent, its behaviour is a named switch. All state is in memory
//! and starts from a [`Seed`]; it touches nothing on disk or on the internet.
//!
//! It deliberately does not protect itself: its secrets are public, and `/_sandbox/*` gives anybody a token of any caller.
//! `docs/sandbox.md` lists endpoints, switches and faults. Started by `cli`, by `demo` and by tests.

mod bearer;
mod control;
mod directory;
mod errors;
mod faults;
mod graph;
mod identity;
mod issuer;
mod journal;
mod keys;
mod limits;
mod login;
mod odata;
mod proof;
mod seed;
mod switches;
mod targets;
mod tenant;
mod wire;
mod world;

use std::any::Any;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::{Extensions, Server, ServerHandle};
use actix_web::http::StatusCode;
use actix_web::http::header::ContentEncoding;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, middleware, rt, web};
use futures_util::{StreamExt as _, stream};
use tokio::task::JoinHandle;

use self::keys::Key;
pub use self::seed::Seed;
use self::wire::{Body, Manner, Request, Response};
use self::world::{Outcome, Release, State, World};
use crate::clock::Clock;

/// How to start a sandbox.
#[derive(Debug)]
pub struct Options {
    /// Where to listen; port 0 picks a free port.
    pub listen: SocketAddr,
    /// What the tenant holds; none for the built-in tenant.
    pub seed: Option<Seed>,
    /// The clock by which tokens expire.
    pub clock: Clock,
}

/// Why a sandbox does not start, or has stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot listen on the address.
    #[error("the sandbox cannot listen on {address}: is another one running there?")]
    Listen {
        /// The requested address.
        address: SocketAddr,
        /// The system's error.
        source: io::Error,
    },
    /// The seed's file cannot be read.
    #[error("the seed {file} cannot be read: give the path of a readable JSON file")]
    SeedFile {
        /// The requested path.
        file: String,
        /// The system's error.
        source: io::Error,
    },
    /// The seed is invalid.
    #[error("the seed {file} cannot be used: {fault}; docs/sandbox.md describes the format")]
    Seed {
        /// Where the seed was read from.
        file: String,
        /// What is wrong with it, and where.
        fault: String,
    },
    /// No signing key could be generated or used.
    #[error("the system's cryptography made no signing key or signature")]
    Key,
    /// The server has stopped by itself.
    #[error("the sandbox's server has ended")]
    Server(#[source] io::Error),
}

/// A running sandbox. It serves until [`Sandbox::stop`] or the end of the runtime.
#[derive(Debug)]
pub struct Sandbox {
    url: String,
    world: web::Data<World>,
    handle: ServerHandle,
    /// None once it has been awaited.
    serving: Option<JoinHandle<io::Result<()>>>,
}

/// Starts a sandbox that serves in the background; needs a multi-threaded tokio runtime.
pub async fn start(options: Options) -> Result<Sandbox, Error> {
    let seed = options.seed.map_or_else(Seed::built_in, Ok)?;
    let address = options.listen;
    let unable = |source| Error::Listen { address, source };
    let listener = TcpListener::bind(address).map_err(unable)?;
    let url = url_of(listener.local_addr().map_err(unable)?);
    let [graph_key, caller_key] = Key::first(options.clock).await?;
    let world = web::Data::new(World::new(options.clock, State::new(url.clone(), seed, graph_key, caller_key)));
    let server = server(listener, world.clone()).map_err(unable)?;
    let handle = server.handle();
    tracing::debug!(url, "the sandbox is listening");
    Ok(Sandbox { url, world, handle, serving: Some(tokio::spawn(server)) })
}

impl Sandbox {
    /// Its URL, with which all URLs in its responses begin: `http://127.0.0.1:PORT`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Cuts all connections, also of held calls, and frees the port.
    pub async fn stop(mut self) {
        self.world.release(Release::Cut);
        self.handle.stop(false).await;
        if let Err(error) = self.stopped().await {
            tracing::debug!(%error, "the sandbox's server ended with an error");
        }
    }

    /// Waits until the server has stopped.
    pub async fn stopped(&mut self) -> Result<(), Error> {
        let Some(serving) = &mut self.serving else { return Ok(()) };
        let ended = serving.await;
        self.serving = None;
        ended.map_err(io::Error::other).and_then(|outcome| outcome).map_err(Error::Server)
    }
}

/// The URL under which the address is reached from this machine.
fn url_of(bound: SocketAddr) -> String {
    let everywhere = bound.ip().is_unspecified();
    let reached = if everywhere { SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), bound.port()) } else { bound };
    format!("http://{reached}")
}

/// The largest body accepted, in bytes; Graph's limit is 4 MB.
const BODY_MAX: usize = 4 << 20;
/// Worker threads; few, since the sandbox shares the machine with what it is used to test.
const WORKERS: usize = 2;

fn server(listener: TcpListener, world: web::Data<World>) -> io::Result<Server> {
    let server = HttpServer::new(move || {
        App::new()
            .app_data(world.clone())
            .app_data(web::PayloadConfig::new(BODY_MAX))
            .wrap(middleware::Compress::default())
            .default_service(web::to(receive))
    });
    Ok(server.workers(WORKERS).disable_signals().on_connect(keep_socket).listen(listener)?.run())
}

/// The connection's socket, kept so that it can be cut without a response.
struct Socket(TcpStream);

fn keep_socket(connection: &dyn Any, kept: &mut Extensions) {
    let stream = connection.downcast_ref::<rt::net::TcpStream>();
    if let Some(Ok(own)) = stream.map(|stream| stream.as_fd().try_clone_to_owned()) {
        kept.insert(Socket(TcpStream::from(own)));
    }
}

async fn receive(request: HttpRequest, body: web::Bytes, world: web::Data<World>) -> HttpResponse {
    let clock = world.clock;
    let call = call(&request, &body, clock);
    let world = Arc::clone(&world);
    // In a task of its own: as with the real service, a client that disconnects does not cancel its call.
    let taken = rt::spawn(async move { world.exchange(call).await }).await;
    match taken {
        Ok(Outcome::Answered(answer)) => response(answer, Manner::Whole, clock),
        Ok(Outcome::Sent(answer, manner)) => response(answer, manner, clock),
        Ok(Outcome::Cut) | Err(_) => cut(&request),
    }
}

fn cut(request: &HttpRequest) -> HttpResponse {
    if let Some(Err(error)) = request.conn_data::<Socket>().map(|socket| socket.0.shutdown(Shutdown::Both)) {
        tracing::debug!(%error, "the connection was already closed");
    }
    HttpResponse::InternalServerError().finish()
}

fn call(request: &HttpRequest, body: &[u8], clock: Clock) -> Request {
    let text = |value: &actix_web::http::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers: BTreeMap<_, _> =
        request.headers().iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect();
    Request {
        at: clock.now(),
        method: request.method().as_str().to_owned(),
        path: request.uri().path().to_owned(),
        segments: wire::segments(request.uri().path()),
        query: request.query_string().to_owned(),
        headers,
        body: body.to_vec(),
        id: clock.new_id().to_string(),
        peer: request.peer_addr().map(|peer| peer.to_string()).unwrap_or_default(),
    }
}

fn response(answer: Response, manner: Manner, clock: Clock) -> HttpResponse {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = HttpResponse::build(status);
    for header in answer.headers {
        response.insert_header(header);
    }
    let (kind, text) = match answer.body {
        Body::Empty => return response.finish(),
        Body::Json(body) => ("application/json; charset=utf-8", body.to_string()),
        Body::Html(text) => ("text/html; charset=utf-8", text.to_owned()),
    };
    response.content_type(kind);
    let (first, second) = text.split_at(text.floor_char_boundary(text.len() / 2));
    match manner {
        Manner::Whole => response.body(text),
        Manner::Truncated => response.body(first.to_owned()),
        Manner::Swollen(bytes) => response.body(text + &" ".repeat(usize::try_from(bytes).unwrap_or_default())),
        Manner::Halting(millis) => {
            let pause = Duration::from_millis(u64::from(millis));
            let halves = [(Duration::ZERO, first.to_owned()), (pause, second.to_owned())];
            let halves = stream::iter(halves).then(move |(pause, half)| async move {
                clock.sleep(pause).await;
                Ok::<_, io::Error>(web::Bytes::from(half))
            });
            // With compression, nothing would be sent before the end.
            response.insert_header(ContentEncoding::Identity).streaming(Box::pin(halves))
        }
    }
}
