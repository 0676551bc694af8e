//! Where the SQLite store writes: one connection, one transaction after another.
//!
//! The end of the audit chain moves on with the commit, never before it.

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
    /// What is pending at most: counted when it was last needed, and what was accepted since. Nobody else writes to this file, and a
    /// count in a transaction that failed is forgotten, so it never errs towards too few.
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

/// It blocks its thread until the disk has what is written, and so it has one of its own.
#[async_trait]
impl writer::Desk for Desk {
    /// Where all cores are busy, some of those who wait for one bring verbs; where one is free, this is over at once.
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
            // What had ended in it when it was counted has not ended.
            self.room = None;
        }
        done
    }

    /// One process uses the file, and it has been told. Those who asked have their answers, so it is the time for what nobody should wait for.
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

/// Nobody may write now, whatever it is.
fn busy(error: rusqlite::Error) -> Failed {
    Failed::Surroundings(unavailable(error))
}
