//! The audit trail of a store that gateways may be using: for `postern audit`.
//!
//! It deliberately opens no run and writes nothing.

use std::path::PathBuf;

use super::{AuditPage, Error, Sqlite, postgres};
use crate::config;

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

    /// Records after a position, oldest first.
    pub async fn page(&mut self, after: Option<i64>, limit: usize) -> Result<AuditPage, Error> {
        match &mut self.0 {
            Kind::Sqlite(path) => Sqlite::read_audit(path, after, limit).await,
            Kind::Postgres(trail) => trail.page(after, limit).await,
        }
    }
}
