//! Where the SQLite store writes: one connection, one transaction after another.
//!
//! The end of the audit chain advances with the commit, never before it.

use std::thread;

use async_trait::async_trait;
use rusqlite::{Connection, TransactionBehavior};

use super::{
    super::{
        audit_batch::AuditBatch,
        capacity::PendingCapacity,
        commands::{CommandResult, WriteCommand},
        writer::{self, TransactionError},
    },
    commands,
    indexing::Indexing,
    trail, unavailable,
    wal::WalCheckpointer,
};
use crate::{audit::Head, clock::Clock};

/// The writing connection, and where the chain ends.
pub(super) struct SqliteBackend {
    pub(super) connection: Connection,
    pub(super) checkpointer: WalCheckpointer,
    pub(super) head: Head,
    pub(super) indexing: Indexing,
    /// An upper bound of what is pending: the last count, plus what was accepted since. Nobody else writes to this file, and a
    /// count is dropped if its transaction fails, so it is never too low.
    pub(super) capacity: Option<PendingCapacity>,
    pub(super) clock: Clock,
}

impl SqliteBackend {
    fn transact(&mut self, commands: &[WriteCommand]) -> Result<Vec<CommandResult>, TransactionError> {
        let mut transaction =
            self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(busy)?;
        let mut audit = AuditBatch::new(self.head.clone());
        let now = self.clock.now();
        let outcomes = commands::apply(&transaction, &mut self.capacity, (&mut audit, now), commands)
            .map_err(TransactionError::Content)?;
        trail::write(&transaction, &audit).map_err(TransactionError::Content)?;
        self.indexing.run_step_if_due(&mut transaction, audit.records.len()).map_err(TransactionError::Content)?;
        transaction.commit().map_err(|error| TransactionError::Content(unavailable(error)))?;
        self.head = audit.head;
        Ok(outcomes)
    }
}

/// It blocks its thread until the data is on disk, and so it has a thread of its own.
#[async_trait]
impl writer::WriteBackend for SqliteBackend {
    /// If all cores are busy, some of the threads that wait for one bring commands; if one is free, this returns at once.
    fn yield_before_commit(&self) {
        thread::yield_now();
    }

    async fn commit(&mut self, commands: &[WriteCommand]) -> Result<Vec<CommandResult>, TransactionError> {
        let mut done = self.transact(commands);
        if done.is_err() && self.indexing.take_rolled_back() {
            self.capacity = None;
            done = self.transact(commands);
        }
        if done.is_err() {
            // Operations that had ended in this transaction when it was counted have not ended.
            self.capacity = None;
        }
        done
    }

    /// There is no other replica to notify. The callers have their outcomes, so this is the time for work that can wait.
    async fn after_commit(&mut self) {
        self.checkpointer.run_if_due(&self.connection);
    }

    async fn close(self) {
        self.checkpointer.close();
        if let Err((_, error)) = self.connection.close() {
            tracing::error!(%error, "cannot close the store");
        }
    }
}

/// Nothing can be written now, whatever the commands.
fn busy(error: rusqlite::Error) -> TransactionError {
    TransactionError::Environment(unavailable(error))
}
