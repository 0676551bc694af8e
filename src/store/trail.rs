//! The audit trail: queries and their results; and reading the trail of a store in use, for `postern audit`.
//!
//! It deliberately opens no run and writes nothing.

use std::{path::PathBuf, time::Duration};

use jiff::Timestamp;

use super::{Error, Sqlite, postgres};
use crate::{audit::RecordId, config, domain::OperationId};

/// A page of the audit trail, oldest first.
#[derive(Clone, Debug, Default)]
pub struct AuditPage {
    /// The records' texts.
    pub records: Vec<String>,
    /// The position after which the next page begins; none if this is the last.
    pub next: Option<i64>,
}

/// Which records to find: those that match every given field, oldest first.
#[derive(Clone, Debug, Default)]
pub struct AuditQuery {
    /// Of this ticket, or of the operations that were requested under it.
    pub ticket: Option<String>,
    /// Of this operation, including the turns that carried it.
    pub operation: Option<OperationId>,
    /// Of what this caller requested.
    pub caller: Option<String>,
    /// At this time or later.
    pub from: Option<Timestamp>,
    /// Before this time.
    pub to: Option<Timestamp>,
    /// After this position.
    pub after: Option<i64>,
    /// At most this many.
    pub limit: usize,
}

/// A record as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRecord {
    /// Its position, by which the store's records are ordered.
    pub position: i64,
    /// Its text.
    pub text: String,
}

impl AuditPage {
    /// The page that these records make, which were queried with this `limit`.
    pub(super) fn of(kept: Vec<StoredRecord>, limit: usize) -> Self {
        let next = kept.last().filter(|_| kept.len() >= limit).map(|last| last.position);
        Self { records: kept.into_iter().map(|kept| kept.text).collect(), next }
    }
}

/// The events with which operations end: none of them is in a turn after that.
const ENDS: [&str; 4] = ["settled", "cancelled", "rejected", "approval-expired"];

/// The condition, in SQL, that a record is that of an operation's end.
pub(super) fn ends_operation_sql() -> String {
    ENDS.map(|event| format!(r#"text LIKE '%"event":"{event}"%'"#)).join(" OR ")
}

/// A sink's turn: taken, kept, or given back.
#[derive(Clone, Debug)]
pub struct SinkClaim {
    /// Which sink.
    pub sink: String,
    /// Who delivers.
    pub owner: String,
    /// How long nobody else may; zero gives it back.
    pub ttl: Duration,
    /// The position up to which everything was delivered, if known to have advanced.
    pub delivered: Option<i64>,
}

/// A trail, to be read in pages.
#[derive(Debug)]
pub struct Trail(Kind);

#[derive(Debug)]
enum Kind {
    Sqlite(PathBuf),
    Postgres(Box<postgres::Trail>),
}

impl Trail {
    /// The trail of the store that the settings name.
    pub async fn open(settings: &config::Store) -> Result<Self, Error> {
        Ok(Self(match settings {
            config::Store::Sqlite(path) => Kind::Sqlite(path.clone()),
            config::Store::Postgres(settings) => Kind::Postgres(Box::new(postgres::Trail::open(settings).await?)),
        }))
    }

    /// The position of a record; none if it is not there.
    pub async fn position(&mut self, place: &RecordId) -> Result<Option<i64>, Error> {
        match &mut self.0 {
            Kind::Sqlite(path) => Sqlite::find_record(path, place).await,
            Kind::Postgres(trail) => trail.position(place).await,
        }
    }

    /// Records after a position, oldest first.
    pub async fn page(&mut self, after: Option<i64>, limit: usize) -> Result<AuditPage, Error> {
        match &mut self.0 {
            Kind::Sqlite(path) => Sqlite::read_audit(path, after, limit).await,
            Kind::Postgres(trail) => trail.page(after, limit).await,
        }
    }
}
