//! The open connections; closes idle ones.
//!
//! Guarantees: a connection that has no request in flight is closed after [`KEEP_ALIVE`] plus the time that a request may take
//! to arrive, whatever it sends or leaves unread meanwhile. The web server enforces that for a connection's first head only.
//! Once the gateway is no longer ready, each response is the last on its connection and says so.
//!
//! It deliberately leaves requests in flight alone: each has a timeout of its own.

use std::{
    any::Any,
    net::{Shutdown, TcpStream},
    os::fd::AsFd as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use actix_tls::accept::rustls_0_23::TlsStream;
use actix_web::{
    Error,
    body::MessageBody,
    dev::{Extensions, ServiceRequest, ServiceResponse},
    http::ConnectionType,
    middleware::Next,
    rt::net,
    web::Data,
};
use tokio_util::sync::CancellationToken;

use super::State;
use crate::clock::Clock;

/// How long a connection is kept open for the next request.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// How often connections are checked.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// All open connections.
#[derive(Debug)]
pub(super) struct Connections {
    open: Mutex<Vec<Weak<Connection>>>,
    idle_max: Duration,
    clock: Clock,
}

/// One of them; it lives as long as the server keeps it.
#[derive(Debug)]
struct Connection {
    /// A second handle of its socket, by which it can be closed.
    socket: TcpStream,
    activity: Mutex<Activity>,
    clock: Clock,
}

#[derive(Debug)]
struct Activity {
    /// Requests in flight.
    calls: usize,
    /// When that number last changed, by the clock's `elapsed`.
    since: Duration,
}

/// A request in flight.
struct Call(Arc<Connection>);

impl Connections {
    pub(super) fn new(request_timeout: Duration, clock: Clock) -> Arc<Self> {
        let idle_max = KEEP_ALIVE.saturating_add(request_timeout);
        Arc::new(Self { open: Mutex::default(), idle_max, clock })
    }

    /// Registers a new connection.
    pub(super) fn note(&self, connection: &dyn Any, notes: &mut Extensions) {
        let secured = connection.downcast_ref::<TlsStream<net::TcpStream>>().map(|stream| stream.get_ref().0);
        let Some(stream) = secured.or_else(|| connection.downcast_ref()) else { return };
        match stream.as_fd().try_clone_to_owned() {
            Ok(socket) => {
                let activity = Mutex::new(Activity { calls: 0, since: self.clock.elapsed() });
                let connection = Arc::new(Connection { socket: socket.into(), activity, clock: self.clock });
                lock(&self.open).push(Arc::downgrade(&connection));
                notes.insert(connection);
            }
            Err(error) => tracing::warn!(%error, "a connection cannot be watched"),
        }
    }

    /// Closes idle connections, until the process stops.
    pub(super) async fn close_idle(self: Arc<Self>, stopping: CancellationToken) {
        while stopping.run_until_cancelled(self.clock.sleep(POLL_INTERVAL)).await.is_some() {
            let now = self.clock.elapsed();
            lock(&self.open).retain(|connection| {
                let Some(connection) = connection.upgrade() else { return false };
                let idle = connection.is_idle(self.idle_max, now);
                if idle && let Err(error) = connection.socket.shutdown(Shutdown::Both) {
                    tracing::debug!(%error, "an idle connection has ended by itself");
                }
                !idle
            });
        }
    }
}

impl Connection {
    fn is_idle(&self, idle_max: Duration, now: Duration) -> bool {
        let activity = lock(&self.activity);
        activity.calls == 0 && now.saturating_sub(activity.since) >= idle_max
    }

    fn count(&self, count: impl FnOnce(usize) -> usize) {
        let mut activity = lock(&self.activity);
        *activity = Activity { calls: count(activity.calls), since: self.clock.elapsed() };
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.0.count(|calls| calls.saturating_sub(1));
    }
}

/// Counts a request as in flight until it is answered.
pub(super) async fn track_request(
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let connection = request.conn_data::<Arc<Connection>>().map(Arc::clone);
    let call = connection.map(|connection| {
        connection.count(|calls| calls.saturating_add(1));
        Call(connection)
    });
    let leaving = request.app_data::<Data<State>>().map(|state| state.leaving.clone());
    let mut answered = next.call(request).await?;
    drop(call);
    if leaving.is_some_and(|leaving| leaving.is_cancelled()) {
        // So the client sends its next request elsewhere, before this server stops.
        answered.response_mut().head_mut().set_connection_type(ConnectionType::Close);
    }
    Ok(answered)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
