//! Connections to the SQLite file.

use std::{path::Path, time::Duration};

use rusqlite::{Connection, OpenFlags};
use sqlx::{
    Connection as _, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

use super::{super::Error, unavailable};

/// Memory for the pages that the writer needs again and again, those of the indexes above all: 8 MiB, said in negative KiB.
const CACHE: i64 = -8_192;
/// The same for each of those who read, of whom there are several: the system keeps what they read as well.
const CACHE_OF_READERS: i64 = -512;
/// How long a statement waits for another process (a backup, `postern audit verify`) to let go of the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Statements that are kept prepared; there are fewer, but for searches, which differ.
const STATEMENTS: usize = 64;

/// Makes the file, or brings its tables to this version. It is done by sqlx, as for PostgreSQL; nothing else is, since each
/// of its statements costs a way to another thread and back. Its connection is to be closed after ours is open, for the last
/// one that closes clears the log away, which the next would only begin anew.
pub(super) async fn migrate(path: &Path) -> Result<SqliteConnection, Error> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(BUSY_TIMEOUT)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        // What it writes is on disk with the next commit of the one that writes, which follows in the same log.
        .synchronous(SqliteSynchronous::Normal);
    let failed = |error: &dyn std::fmt::Display| Error::Unavailable(error.to_string());
    let mut connection = SqliteConnection::connect_with(&options).await.map_err(|error| failed(&error))?;
    sqlx::migrate!("migrations/sqlite").run(&mut connection).await.map_err(|error| failed(&error))?;
    Ok(connection)
}

/// The connection that writes. How the file is written is said by it: a copy that SQLite made need not be written so, and
/// whoever only reads could not change it.
pub(super) fn writing(path: &Path) -> Result<Connection, Error> {
    let connection = open(path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(unavailable)?;
    let mode = connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0));
    if mode.map_err(unavailable)? != "wal" {
        return Err(Error::Unavailable("a write-ahead log cannot be kept in this folder".to_owned()));
    }
    connection.pragma_update(None, "synchronous", "FULL").map_err(unavailable)?;
    // Somebody else moves the log into the file.
    for (name, value) in [("cache_size", CACHE), ("wal_autocheckpoint", 0)] {
        connection.pragma_update(None, name, value).map_err(unavailable)?;
    }
    Ok(connection)
}

/// Has what statements note for themselves kept in memory: those that serve callers note little, and would write it to a file.
pub(super) fn note_in_memory(connection: &Connection) -> Result<(), Error> {
    connection.pragma_update(None, "temp_store", "MEMORY").map_err(unavailable)
}

/// A connection that moves the log into the file.
pub(super) fn moving(path: &Path) -> rusqlite::Result<Connection> {
    let connection = open(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    Ok(connection)
}

/// A connection that only reads a file, which a gateway may be using.
pub(super) fn read_only(path: &Path) -> Result<Connection, Error> {
    if !path.exists() {
        return Err(Error::Unusable(format!("there is no store at {}", path.display())));
    }
    let connection = open(path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(unavailable)?;
    connection.pragma_update(None, "cache_size", CACHE_OF_READERS).map_err(unavailable)?;
    Ok(connection)
}

fn open(path: &Path, access: OpenFlags) -> rusqlite::Result<Connection> {
    // Whoever has a connection has it alone, so SQLite need not lock it.
    let connection = Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(connection)
}
