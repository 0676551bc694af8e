//! Moves the write-ahead log into the database file (checkpointing), beside the writer: writing thousands of pages to their
//! places and flushing the file takes many times as long as a commit, and callers would wait for it.
//!
//! Guarantees: what is only in the log is as durable as what was moved. A move that fails is logged and tried again when the
//! log has grown by as much again.
//!
//! It deliberately does not hold up the writer for what comes meanwhile: SQLite restarts the log once all of it was moved, for
//! which a moment without writes is enough. If there is none, the log grows, and at last the writer waits for the rest.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
};

use rusqlite::{Connection, Row};

use super::{super::Error, connect, rows};

/// Growth of the log, in pages, after which it is moved: 32 MiB. A page that changed often is moved once.
const PAGES: i64 = 8_000;
/// Size of the log, in pages, at which the writer waits while the rest is moved: 128 MiB.
const PAGES_MAX: i64 = 32_000;
/// Passes over the log beside the writer; each has less to move than the one before.
const PASSES: u8 = 6;

/// The niceness of the thread that moves: a tenth of the CPU share of one that serves callers.
#[cfg(target_os = "linux")]
const NICE: i32 = 10;

/// The state of the log, as SQLite reports it.
#[derive(Clone, Copy)]
struct Log {
    /// Pages in it since it was last restarted.
    pages: i64,
    /// How many of them have been moved into the file.
    moved: i64,
}

/// Moves the log.
#[derive(Debug)]
pub(super) struct WalCheckpointer {
    connection: Arc<Mutex<Connection>>,
    under_way: Option<JoinHandle<()>>,
    /// Pages in the log when it was last moved.
    pages: i64,
}

impl WalCheckpointer {
    /// For a file that is open for writing.
    pub(super) fn new(path: &Path) -> rusqlite::Result<Self> {
        Ok(Self { connection: Arc::new(Mutex::new(connect::open_for_checkpoint(path)?)), under_way: None, pages: 0 })
    }

    /// Starts or completes a move if one is due; called between two transactions of the writer.
    pub(super) fn run_if_due(&mut self, writer: &Connection) {
        if let Err(error) = self.try_run(writer) {
            tracing::error!(%error, "cannot move the store's write-ahead log into its file; it grows until that is possible");
        }
    }

    fn try_run(&mut self, writer: &Connection) -> Result<(), Error> {
        if self.under_way.as_ref().is_some_and(|pass| !pass.is_finished()) {
            return Ok(());
        }
        let log = wal_status(writer)?;
        if self.under_way.take().is_some() {
            self.pages = log.pages;
            if log.pages >= PAGES_MAX {
                move_all(writer)?;
            }
        } else if log.pages.saturating_sub(self.pages) >= PAGES {
            self.under_way = Some(self.begin()?);
        } else {
            // The log may have been restarted.
            self.pages = self.pages.min(log.pages);
        }
        Ok(())
    }

    fn begin(&self) -> Result<JoinHandle<()>, Error> {
        let connection = Arc::clone(&self.connection);
        let work = move || {
            lower_priority();
            let connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = checkpoint_fully(&connection) {
                tracing::error!(%error, "cannot move the store's write-ahead log into its file beside the writer");
            }
        };
        let thread = thread::Builder::new().name("store-mover".to_owned()).spawn(work);
        thread.map_err(|error| Error::Unavailable(error.to_string()))
    }

    /// Waits for a move under way, and closes the connection.
    pub(super) fn close(self) {
        if self.under_way.is_some_and(|work| work.join().is_err()) {
            tracing::error!("moving the store's write-ahead log ended badly");
        }
    }
}

/// With few cores, this thread gets the time that no other thread wants, and little more. Only on Linux: elsewhere this would
/// apply to the whole process.
fn lower_priority() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!(%error, "cannot let others go first while the store's write-ahead log is moved");
    }
}

/// Moves until nothing is left, or gives up if the writer is faster.
fn checkpoint_fully(connection: &Connection) -> Result<(), Error> {
    for _ in 0..PASSES {
        move_all(connection)?;
        let left = wal_status(connection)?;
        if left.pages == left.moved {
            break;
        }
    }
    Ok(())
}

fn wal_status(connection: &Connection) -> Result<Log, Error> {
    pragma(connection, "PRAGMA wal_checkpoint(NOOP)")
}

/// Moves everything that readers do not hold back; waits for nobody.
fn move_all(connection: &Connection) -> Result<(), Error> {
    pragma(connection, "PRAGMA wal_checkpoint(PASSIVE)").map(drop)
}

fn pragma(connection: &Connection, sql: &str) -> Result<Log, Error> {
    let log = |row: &Row<'_>| Ok(Log { pages: rows::column(row, "log")?, moved: rows::column(row, "checkpointed")? });
    // SQLite returns one row, whether or not somebody else is moving the log.
    let log = rows::one(connection, sql, [], log)?;
    log.ok_or_else(|| Error::Unavailable("SQLite says nothing of its log".to_owned()))
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    /// The least number of pages that one commit of these tests changes.
    const AT_ONCE: i64 = 64;

    /// A file with a table, a connection that writes to it, and its checkpointer.
    fn fixture() -> (TempDir, Connection, WalCheckpointer) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("store.db");
        drop(Connection::open(&path).expect("a file"));
        let writer = connect::writing(&path).expect("a connection");
        writer.execute_batch("CREATE TABLE things (thing BLOB NOT NULL)").expect("a table");
        let checkpointer = WalCheckpointer::new(&path).expect("a connection");
        (folder, writer, checkpointer)
    }

    fn commit(writer: &Connection) {
        let bytes = AT_ONCE.saturating_mul(4_096);
        writer.execute("INSERT INTO things VALUES (zeroblob(?))", [bytes]).expect("a commit");
    }

    /// Commits until a move begins; returns how many commits that took.
    fn until_moving(writer: &Connection, checkpointer: &mut WalCheckpointer) -> i64 {
        let most = PAGES / AT_ONCE + 1;
        let begun = (1..=most).find(|_| {
            commit(writer);
            checkpointer.run_if_due(writer);
            checkpointer.under_way.is_some()
        });
        begun.expect("moving begins by then")
    }

    fn rest(checkpointer: &WalCheckpointer) {
        while checkpointer.under_way.as_ref().is_some_and(|work| !work.is_finished()) {
            thread::yield_now();
        }
    }

    #[test]
    fn a_log_that_was_moved_begins_anew() {
        let (folder, writer, mut checkpointer) = fixture();
        let commits = until_moving(&writer, &mut checkpointer);
        rest(&checkpointer);
        let log = wal_status(&writer).expect("an account");
        assert!(log.pages >= PAGES && log.moved == log.pages, "{} of {}", log.moved, log.pages);
        commit(&writer);
        checkpointer.run_if_due(&writer);
        assert!(wal_status(&writer).expect("an account").pages < 2 * AT_ONCE);
        checkpointer.close();
        let found: i64 =
            writer.query_row("SELECT count(*) FROM things", [], |row| row.get(0)).expect("what was written");
        assert_eq!(found, commits + 1);
        let file = std::fs::metadata(folder.path().join("store.db")).expect("a file").len();
        assert!(i64::try_from(file).expect("a size") > commits * AT_ONCE * 4_096);
    }

    #[test]
    fn a_reader_holds_up_the_log_and_nobody_else() {
        let (folder, writer, mut checkpointer) = fixture();
        let reader = connect::read_only(&folder.path().join("store.db")).expect("a connection");
        reader.execute_batch("BEGIN; SELECT count(*) FROM things").expect("a look");
        until_moving(&writer, &mut checkpointer);
        rest(&checkpointer);
        // Once per `PAGES`, not again with each commit.
        checkpointer.run_if_due(&writer);
        assert!(until_moving(&writer, &mut checkpointer) > 1);
        rest(&checkpointer);
        checkpointer.run_if_due(&writer);
        assert!(wal_status(&writer).expect("an account").moved < PAGES, "the reader still sees what was");
        reader.execute_batch("COMMIT").expect("an end");
        until_moving(&writer, &mut checkpointer);
        rest(&checkpointer);
        commit(&writer);
        checkpointer.run_if_due(&writer);
        assert!(wal_status(&writer).expect("an account").pages < 2 * AT_ONCE);
    }

    #[test]
    fn a_log_that_is_long_is_moved_while_the_writer_waits() {
        let (folder, writer, mut checkpointer) = fixture();
        let reader = connect::read_only(&folder.path().join("store.db")).expect("a connection");
        reader.execute_batch("BEGIN; SELECT count(*) FROM things").expect("a look");
        while wal_status(&writer).expect("an account").pages < PAGES_MAX {
            until_moving(&writer, &mut checkpointer);
            rest(&checkpointer);
            checkpointer.run_if_due(&writer);
        }
        until_moving(&writer, &mut checkpointer);
        rest(&checkpointer);
        // Like a writer that never rests: it has committed again before the checkpointer looks.
        reader.execute_batch("COMMIT").expect("an end");
        commit(&writer);
        checkpointer.run_if_due(&writer);
        let log = wal_status(&writer).expect("an account");
        assert!(log.pages >= PAGES_MAX && log.moved == log.pages, "{} of {}", log.moved, log.pages);
    }
}
