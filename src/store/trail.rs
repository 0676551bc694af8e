//! The audit trail of a store that gateways may be using: for `postern audit`.
//!
//! It deliberately opens no run and writes nothing.

use std::{path::PathBuf, time::Duration};

use jiff::Timestamp;

use super::{Error, Sqlite, postgres};
use crate::{audit::Place, config, domain::OperationId};

/// A page of the audit trail, oldest first.
#[derive(Clone, Debug, Default)]
pub struct AuditPage {
    /// The records' texts.
    pub records: Vec<String>,
    /// Where the next page begins; none if this is the last.
    pub next: Option<i64>,
}

/// Which records to look for: those that fit everything given, oldest first.
#[derive(Clone, Debug, Default)]
pub struct AuditQuery {
    /// Of this ticket, or of the operations that were asked for under it.
    pub ticket: Option<String>,
    /// Of this operation, with the turns in which it was carried.
    pub operation: Option<OperationId>,
    /// Of what this caller asked for.
    pub caller: Option<String>,
    /// Of this time or later.
    pub from: Option<Timestamp>,
    /// Of before this time.
    pub to: Option<Timestamp>,
    /// After this position.
    pub after: Option<i64>,
    /// At most so many.
    pub limit: usize,
}

/// A record as it stands in a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filed {
    /// Its position, by which the store's records are ordered.
    pub position: i64,
    /// Its text.
    pub text: String,
}

impl AuditPage {
    /// The page that these records make, of which at most `limit` were asked for.
    pub(super) fn of(kept: Vec<Filed>, limit: usize) -> Self {
        let next = kept.last().filter(|_| kept.len() >= limit).map(|last| last.position);
        Self { records: kept.into_iter().map(|kept| kept.text).collect(), next }
    }
}

/// A sink's turn to be delivered to: asked for, gone on with, and given back.
#[derive(Clone, Debug)]
pub struct Following {
    /// Which sink.
    pub sink: String,
    /// Who delivers.
    pub owner: String,
    /// For how long nobody else shall; no time gives it back.
    pub ttl: Duration,
    /// The position up to which everything was delivered, if that is known to have grown.
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
    pub async fn position(&mut self, place: &Place) -> Result<Option<i64>, Error> {
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
