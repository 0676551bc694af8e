//! Access to the database: connections for the writer, the readers and the listener.
//!
//! Guarantees: nothing waits for the server longer than the bounds below; the server enforces bounds, too, so that a replica
//! that stalls inside a transaction does not hold up others for long. The password is read anew for each connection of the
//! writer and the listener, and for readers when theirs is refused, so a rotated password is picked up.

use std::time::Duration;

use secrecy::ExposeSecret;
use sqlx::{
    Connection, PgConnection, PgPool,
    error::DatabaseError,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use super::{super::Error, unavailable};
use crate::config;

/// Concurrent readers.
const READERS: u32 = 4;
/// Concurrent readers of the audit trail. They wait for writing transactions, so nobody else must wait for them; more than one
/// caller may have, since delivery is among them.
const OF_TRAIL: u32 = 3;
/// How long opening a connection, or waiting for a free one, may take.
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// How long one verb's statements may take, connection included.
const VERB_MAX: Duration = Duration::from_secs(10);
/// Bounds that the server enforces: on a statement, a wait for a lock, an idle transaction. The last is shorter than the wait
/// for a lock, so that a stalled replica does not make another's verbs fail.
const BOUNDS: &str =
    "SET statement_timeout = '8s'; SET lock_timeout = '5s'; SET idle_in_transaction_session_timeout = '3s'";

/// How to reach one database.
#[derive(Clone, Debug)]
pub(super) struct Access {
    settings: config::Postgres,
    readers: PgPool,
    of_trail: PgPool,
}

impl Access {
    /// Opens no connection yet.
    pub(super) fn new(settings: config::Postgres) -> Result<Self, Error> {
        let options = options(&settings)?;
        let (readers, of_trail) = (pool(READERS, options.clone()), pool(OF_TRAIL, options));
        Ok(Self { settings, readers, of_trail })
    }

    /// A connection that reads.
    pub(super) async fn reader(&self) -> Result<PoolConnection<sqlx::Postgres>, Error> {
        self.acquire(&self.readers).await
    }

    /// A connection that reads the audit trail.
    pub(super) async fn trail_reader(&self) -> Result<PoolConnection<sqlx::Postgres>, Error> {
        self.acquire(&self.of_trail).await
    }

    async fn acquire(&self, pool: &PgPool) -> Result<PoolConnection<sqlx::Postgres>, Error> {
        let acquired = match pool.acquire().await {
            Err(error) if is_refused(&error) => {
                self.current_options()?;
                pool.acquire().await
            }
            acquired => acquired,
        };
        acquired.map_err(unavailable)
    }

    /// A pool of one connection, for the listener. A new one each time: an old pool would wait for its silent connection.
    pub(super) fn listener_pool(&self) -> Result<PgPool, Error> {
        Ok(pool(1, self.current_options()?))
    }

    /// Reads the password anew, for all connections opened from now on.
    fn current_options(&self) -> Result<PgConnectOptions, Error> {
        let options = options(&self.settings)?;
        for pool in [&self.readers, &self.of_trail] {
            pool.set_connect_options(options.clone());
        }
        Ok(options)
    }

    /// A connection on which the server enforces no bounds yet, as for migrations.
    pub(super) async fn connect(&self) -> Result<PgConnection, Error> {
        let options = self.current_options()?;
        let connected = tokio::time::timeout(CONNECT_MAX, PgConnection::connect_with(&options)).await;
        connected.map_err(|_elapsed| timed_out())?.map_err(unavailable)
    }

    /// Has the server enforce the bounds on a connection.
    pub(super) async fn apply_limits(&self, connection: &mut PgConnection) -> Result<(), Error> {
        sqlx::raw_sql(BOUNDS).execute(connection).await.map(drop).map_err(unavailable)
    }

    /// Does something, or fails as [`Error::Unavailable`] after the time that a verb may take.
    pub(super) async fn in_time<T>(&self, work: impl Future<Output = Result<T, Error>> + Send) -> Result<T, Error> {
        tokio::time::timeout(VERB_MAX, work).await.map_err(|_elapsed| timed_out())?
    }

    pub(super) fn is_closed(&self) -> bool {
        self.readers.is_closed()
    }

    pub(super) async fn close(&self) {
        // A connection whose server is gone must not hold up a shutdown.
        let closing = async { tokio::join!(self.readers.close(), self.of_trail.close()) };
        if tokio::time::timeout(CONNECT_MAX, closing).await.is_err() {
            tracing::warn!("the database does not say goodbye");
        }
    }
}

fn pool(connections: u32, options: PgConnectOptions) -> PgPool {
    let bounded = PgPoolOptions::new().max_connections(connections).acquire_timeout(CONNECT_MAX).after_connect(
        |connection, _| Box::pin(async move { sqlx::raw_sql(BOUNDS).execute(connection).await.map(drop) }),
    );
    bounded.connect_lazy_with(options)
}

/// Whether the server refuses our authentication: class 28 of PostgreSQL's error codes.
fn is_refused(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(DatabaseError::code).is_some_and(|code| code.starts_with("28"))
}

fn timed_out() -> Error {
    Error::Unavailable("the database does not answer in time".to_owned())
}

fn options(settings: &config::Postgres) -> Result<PgConnectOptions, Error> {
    let options: PgConnectOptions = settings.url.as_str().parse().map_err(unavailable)?;
    let options = options.application_name("postern");
    let Some(source) = &settings.password else { return Ok(options) };
    let password = source.read().map_err(|error| Error::Unavailable(format!("the database's password: {error}")))?;
    Ok(options.password(password.expose_secret()))
}
