//! Where the SQLite store writes: one connection, one transaction after another.
//!
//! The end of the audit chain advances with the commit, never before it.

use std::thread;

use async_trait::async_trait;
use rusqlite::{Connection, TransactionBehavior};

use super::{
    super::{
        ledger::Ledger,
        room::Room,
        verbs::{Outcome, Verb},
        writer::{self, Failed},
    },
    indexing::Indexing,
    mover::Mover,
    trail, unavailable, verbs,
};
use crate::{audit::Head, clock::Clock};

/// The writing connection, and where the chain ends.
pub(super) struct Desk {
    pub(super) connection: Connection,
    pub(super) mover: Mover,
    pub(super) head: Head,
    pub(super) indexing: Indexing,
    /// An upper bound of what is pending: the last count, plus what was accepted since. Nobody else writes to this file, and a
    /// count is dropped if its transaction fails, so it is never too low.
    pub(super) room: Option<Room>,
    pub(super) clock: Clock,
}

impl Desk {
    fn transact(&mut self, verbs: &[Verb]) -> Result<Vec<Outcome>, Failed> {
        let mut transaction =
            self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(busy)?;
        let mut ledger = Ledger::new(self.head.clone());
        let now = self.clock.now();
        let outcomes =
            verbs::apply(&transaction, &mut self.room, (&mut ledger, now), verbs).map_err(Failed::Content)?;
        trail::write(&transaction, &ledger).map_err(Failed::Content)?;
        self.indexing.attend(&mut transaction, ledger.records.len()).map_err(Failed::Content)?;
        transaction.commit().map_err(|error| Failed::Content(unavailable(error)))?;
        self.head = ledger.head;
        Ok(outcomes)
    }
}

/// It blocks its thread until the data is on disk, and so it has a thread of its own.
#[async_trait]
impl writer::Desk for Desk {
    /// If all cores are busy, some of the threads that wait for one bring verbs; if one is free, this returns at once.
    fn give_way(&self) {
        thread::yield_now();
    }

    async fn commit(&mut self, verbs: &[Verb]) -> Result<Vec<Outcome>, Failed> {
        let mut done = self.transact(verbs);
        if done.is_err() && self.indexing.has_lost() {
            self.room = None;
            done = self.transact(verbs);
        }
        if done.is_err() {
            // Operations that had ended in this transaction when it was counted have not ended.
            self.room = None;
        }
        done
    }

    /// There is no other replica to notify. The callers have their outcomes, so this is the time for work that can wait.
    async fn announce(&mut self) {
        self.mover.attend(&self.connection);
    }

    async fn close(self) {
        self.mover.close();
        if let Err((_, error)) = self.connection.close() {
            tracing::error!(%error, "cannot close the store");
        }
    }
}

/// Nothing can be written now, whatever the verbs.
fn busy(error: rusqlite::Error) -> Failed {
    Failed::Surroundings(unavailable(error))
}
