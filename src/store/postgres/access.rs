//! The ways into the database: the writing connection, the readers, the listener's.
//!
//! Guarantees: nothing waits for a server for longer than the bounds below; a connection keeps them in the server too,
//! so that a replica that stalls inside a transaction does not hold up others for long. The password is read anew for
//! each connection of the writer and of the listener, and for readers when the one they have is refused, so a rotated one is taken up.

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

/// Readers at once.
const READERS: u32 = 4;
/// How long a connection may take to be made or to become free.
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// How long one verb's statements may take, connection included.
const VERB_MAX: Duration = Duration::from_secs(10);
/// The same bounds, kept by the server: a statement, a wait for a lock, a transaction in which nothing happens. The last is
/// shorter than the wait for a lock, so that a replica that stalls fails no verb of another.
const BOUNDS: &str =
    "SET statement_timeout = '8s'; SET lock_timeout = '5s'; SET idle_in_transaction_session_timeout = '3s'";

/// How to reach one database.
#[derive(Clone, Debug)]
pub(super) struct Access {
    settings: config::Postgres,
    readers: PgPool,
}

impl Access {
    /// Makes no connection yet.
    pub(super) fn new(settings: config::Postgres) -> Result<Self, Error> {
        let readers = pool(READERS, options(&settings)?);
        Ok(Self { settings, readers })
    }

    /// A connection that reads.
    pub(super) async fn reader(&self) -> Result<PoolConnection<sqlx::Postgres>, Error> {
        let acquired = match self.readers.acquire().await {
            Err(error) if is_refused(&error) => {
                self.renewed()?;
                self.readers.acquire().await
            }
            acquired => acquired,
        };
        acquired.map_err(unavailable)
    }

    /// One connection, on which news are awaited. A new pool each time: one whose connection has fallen silent waits for it.
    pub(super) fn ears(&self) -> Result<PgPool, Error> {
        Ok(pool(1, self.renewed()?))
    }

    /// What connections are made by from now on.
    fn renewed(&self) -> Result<PgConnectOptions, Error> {
        let options = options(&self.settings)?;
        self.readers.set_connect_options(options.clone());
        Ok(options)
    }

    /// A connection without bounds, for changes of the schema.
    pub(super) async fn connect(&self) -> Result<PgConnection, Error> {
        let options = self.renewed()?;
        let connected = tokio::time::timeout(CONNECT_MAX, PgConnection::connect_with(&options)).await;
        connected.map_err(|_elapsed| late())?.map_err(unavailable)
    }

    /// Makes a connection keep the bounds.
    pub(super) async fn bind(&self, connection: &mut PgConnection) -> Result<(), Error> {
        sqlx::raw_sql(BOUNDS).execute(connection).await.map(drop).map_err(unavailable)
    }

    /// Does something within the time that a verb may take.
    pub(super) async fn in_time<T>(&self, work: impl Future<Output = Result<T, Error>> + Send) -> Result<T, Error> {
        tokio::time::timeout(VERB_MAX, work).await.map_err(|_elapsed| late())?
    }

    pub(super) fn is_closed(&self) -> bool {
        self.readers.is_closed()
    }

    pub(super) async fn close(&self) {
        // A connection whose server is gone must not keep a stop waiting.
        if tokio::time::timeout(CONNECT_MAX, self.readers.close()).await.is_err() {
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

/// Whether the server does not accept who we say that we are: class 28 of PostgreSQL's error codes.
fn is_refused(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(DatabaseError::code).is_some_and(|code| code.starts_with("28"))
}

fn late() -> Error {
    Error::Unavailable("the database does not answer in time".to_owned())
}

fn options(settings: &config::Postgres) -> Result<PgConnectOptions, Error> {
    let options: PgConnectOptions = settings.url.as_str().parse().map_err(unavailable)?;
    let options = options.application_name("postern");
    let Some(source) = &settings.password else { return Ok(options) };
    let password = source.read().map_err(|error| Error::Unavailable(format!("the database's password: {error}")))?;
    Ok(options.password(password.expose_secret()))
}
