//! Commits per request, counted from the databases' own records.
//!
//! PostgreSQL stores the transaction's number in every row (`xmin`). SQLite marks the last page of each commit in its
//! write-ahead log; an open reader keeps the log from being restarted, which does not affect the counts but would
//! distort times. So commits are counted in separate passes, each on an empty store.

use std::{fs, sync::Arc};

use postern::store::Store;
use sqlx::{Connection, PgConnection, SqliteConnection};

use crate::load::{self, Kind, Place};

/// Commits per accept, with this many callers and changes.
pub(crate) async fn per_accept(kind: Kind, callers: u32, changes: u32) -> f64 {
    let (store, mut count) = begin(kind).await;
    let before = count.commits("queued").await;
    load::accept_so_many(&store, callers, changes).await;
    let commits = count.commits("queued").await - before;
    store.close().await;
    commits / f64::from(changes)
}

/// Commits per settlement, with this many callers and lanes.
pub(crate) async fn per_settle(kind: Kind, callers: u32, lanes: u32) -> f64 {
    let (store, mut count) = begin(kind).await;
    let turns = load::claimed(&store, lanes).await;
    let before = count.commits("succeeded").await;
    load::settle_all(&store, callers, turns).await;
    let commits = count.commits("succeeded").await - before;
    store.close().await;
    commits / f64::from(lanes)
}

async fn begin(kind: Kind) -> (Arc<dyn Store>, Count) {
    let place = Place::new(kind).await;
    let store = place.open().await;
    let count = Count::begin(kind, place).await;
    (store, count)
}

/// Where commits are counted.
struct Count {
    place: Place,
    connection: Connected,
}

enum Connected {
    /// The open reader keeps the log from being restarted.
    Sqlite {
        _reader: SqliteConnection,
    },
    Postgres(PgConnection),
}

impl Count {
    async fn begin(kind: Kind, place: Place) -> Self {
        let connection = match kind {
            Kind::Sqlite => {
                let mut reader = SqliteConnection::connect(&format!("sqlite:{}", place.file.display())).await.unwrap();
                sqlx::raw_sql("BEGIN; SELECT count(*) FROM operations").execute(&mut reader).await.unwrap();
                Connected::Sqlite { _reader: reader }
            }
            Kind::Postgres => Connected::Postgres(PgConnection::connect(&place.url).await.unwrap()),
        };
        Self { place, connection }
    }

    /// Commits so far; in PostgreSQL those that moved operations into this state.
    async fn commits(&mut self, state: &str) -> f64 {
        match &mut self.connection {
            Connected::Sqlite { .. } => {
                let log = self.place.file.with_extension("db-wal");
                f64::from(commits_in(&fs::read(log).unwrap()))
            }
            Connected::Postgres(connection) => {
                let sql = "SELECT count(DISTINCT xmin::TEXT)::FLOAT8 FROM operations WHERE state = $1";
                sqlx::query_scalar(sql).bind(state).fetch_one(connection).await.unwrap()
            }
        }
    }
}

/// The commits in a write-ahead log, by SQLite's file format: a header of 32 bytes, then frames of 24 bytes and a page.
/// The second number of a frame is not zero if the frame ends a commit; frames of an earlier use have another salt.
fn commits_in(log: &[u8]) -> u32 {
    let number = |bytes: &[u8], at: usize| bytes.get(at..at + 4).map(|it| u32::from_be_bytes(it.try_into().unwrap()));
    let page = usize::try_from(number(log, 8).unwrap()).unwrap();
    let salt = log.get(16..24).unwrap();
    let frames = log.get(32..).unwrap().chunks_exact(24 + page);
    let ours = frames.take_while(|frame| frame.get(8..16) == Some(salt));
    u32::try_from(ours.filter(|frame| number(frame, 4) != Some(0)).count()).unwrap()
}
