//! Connections to the SQLite file, and its migrations.

use std::{path::Path, time::Duration};

use rusqlite::{Connection, ErrorCode, OpenFlags};
use sqlx::{
    Connection as _, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};
use url::Url;

use super::{super::Error, unavailable};

/// The writer's page cache, mostly for pages of indexes: 8 MiB, in negative KiB as SQLite expects it.
const CACHE: i64 = -8_192;
/// The same for each reader; there are several, and the operating system caches what they read as well.
const CACHE_OF_READERS: i64 = -512;
/// How long a statement waits for another process (a backup, `postern audit verify`) to release the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Prepared statements kept per connection; there are fewer, apart from searches, which vary.
const STATEMENTS: usize = 64;

/// Creates the file, or migrates its tables to this version. This is done by sqlx, as for PostgreSQL; nothing else is, since
/// each of its statements costs a round trip to another thread. Close its connection only after ours is open: the last one to
/// close removes the log, which the next would have to create again.
pub(super) async fn migrate(path: &Path) -> Result<SqliteConnection, Error> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(BUSY_TIMEOUT)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        // What it writes becomes durable with the writer's next commit, which follows in the same log.
        .synchronous(SqliteSynchronous::Normal);
    let failed = |error: &dyn std::fmt::Display| Error::Unavailable(error.to_string());
    let mut connection = SqliteConnection::connect_with(&options).await.map_err(|error| failed(&error))?;
    sqlx::migrate!("migrations/sqlite").run(&mut connection).await.map_err(|error| failed(&error))?;
    Ok(connection)
}

/// The connection that writes. It sets the journal mode, since a copy that SQLite made may have another, and a read-only
/// connection could not change it.
pub(super) fn writing(path: &Path) -> Result<Connection, Error> {
    let connection = open(path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(unavailable)?;
    let mode = connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0));
    if mode.map_err(unavailable)? != "wal" {
        return Err(Error::Unavailable("a write-ahead log cannot be kept in this folder".to_owned()));
    }
    connection.pragma_update(None, "synchronous", "FULL").map_err(unavailable)?;
    // `wal` does the checkpointing, beside the writer.
    for (name, value) in [("cache_size", CACHE), ("wal_autocheckpoint", 0)] {
        connection.pragma_update(None, name, value).map_err(unavailable)?;
    }
    Ok(connection)
}

/// Keeps temporary data in memory: statements that serve callers need little of it, and would otherwise use a file.
pub(super) fn note_in_memory(connection: &Connection) -> Result<(), Error> {
    connection.pragma_update(None, "temp_store", "MEMORY").map_err(unavailable)
}

/// A connection that moves the log into the file (checkpointing).
pub(super) fn open_for_checkpoint(path: &Path) -> rusqlite::Result<Connection> {
    let connection = open(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    Ok(connection)
}

/// A read-only connection to a file that a gateway may be using, or that is on a read-only medium.
pub(super) fn read_only(path: &Path) -> Result<Connection, Error> {
    if !path.exists() {
        return Err(Error::Unusable(format!("there is no store at {}", path.display())));
    }
    let connection = reading(path, OpenFlags::SQLITE_OPEN_READ_ONLY).or_else(|error| match unchanging(path) {
        Some(url) if cannot_be_written(&error) => {
            reading(Path::new(url.as_str()), OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI)
        }
        _ => Err(error),
    });
    connection.map_err(unavailable)
}

/// A connection that has read from the file: what keeps it from being read shows only then.
fn reading(path: &Path, access: OpenFlags) -> rusqlite::Result<Connection> {
    let connection = open(path, access)?;
    connection.pragma_query_value(None, "schema_version", |_| Ok(()))?;
    connection.pragma_update(None, "cache_size", CACHE_OF_READERS)?;
    Ok(connection)
}

/// Even a reader creates the log if there is none.
fn cannot_be_written(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen))
}

/// How SQLite names a file that nobody writes and that needs no log; none if it has a log, as while a gateway uses it.
fn unchanging(path: &Path) -> Option<Url> {
    let path = path.canonicalize().ok()?;
    let mut log = path.clone().into_os_string();
    log.push("-wal");
    if Path::new(&log).exists() {
        return None;
    }
    let mut url = Url::from_file_path(path).ok()?;
    url.set_query(Some("mode=ro&immutable=1"));
    Some(url)
}

/// The tables of this version, in memory, for tests.
#[cfg(test)]
pub(super) fn in_memory() -> Connection {
    let connection = Connection::open_in_memory().unwrap();
    for migration in sqlx::migrate!("migrations/sqlite").migrations.iter() {
        connection.execute_batch(migration.sql.as_str()).unwrap();
    }
    connection
}

fn open(path: &Path, access: OpenFlags) -> rusqlite::Result<Connection> {
    // Each connection is used by one thread at a time, so SQLite need not lock it.
    let connection = Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(connection)
}
