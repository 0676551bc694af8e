//! What operations and audit records are looked for by: tables that stand beside theirs, and are filled in steps.
//!
//! An index would be written to by each commit, wherever what comes in it belongs: by its caller here, by its ticket there. What is put
//! in its own order first, a few hundred at a time, changes far fewer pages.
//!
//! Guarantees: what was committed is found at once, since a search looks through what does not stand there yet, which is little; a step
//! is done as a whole or not at all, and one that fails harms nothing and is done with the next.
//!
//! It deliberately has no transaction of its own, whose flush others would wait for: a step is a part of a commit that comes anyway
//! ([0034](../../../docs/adr/0034-searches-have-tables-that-are-filled-in-steps.md)).

use rusqlite::{Connection, Transaction};

use super::{
    super::Error,
    rows::{change, column, one},
    unavailable,
};

/// Audit records that are put in their places together: a step takes the writer about a millisecond, for which others wait.
const STEP: usize = 128;

/// Through which position operations stand there.
pub(super) const OPERATIONS_THROUGH: &str = "(SELECT through FROM indexed WHERE of = 'operations')";
/// Through which position audit records stand there.
pub(super) const AUDIT_THROUGH: &str = "(SELECT through FROM indexed WHERE of = 'audit')";

const FILLING: [&str; 5] = [
    "INSERT INTO operations_index
     SELECT 'ticket', ticket, position FROM operations_to_index WHERE ticket IS NOT NULL
     UNION ALL SELECT 'configuration', configuration, position FROM operations_to_index
     UNION ALL SELECT 'caller', caller, position FROM operations_to_index
     ORDER BY 1, 2, 3",
    "INSERT INTO audit_index
     SELECT 'ticket', ticket, position FROM audit_to_index WHERE ticket IS NOT NULL
     UNION ALL SELECT 'operation', operation, position FROM audit_to_index WHERE operation IS NOT NULL
     UNION ALL SELECT 'caller', caller, position FROM audit_to_index WHERE caller IS NOT NULL
     UNION ALL SELECT 'turn', configuration, position FROM audit_to_index
         WHERE configuration IS NOT NULL AND operation IS NULL
     ORDER BY 1, 2, 3",
    "INSERT INTO audit_spans
     SELECT max(position), min(position), min(at), max(at) FROM audit_to_index HAVING count(*) > 0",
    "UPDATE indexed SET through = coalesce((SELECT max(position) FROM operations_to_index), through)
     WHERE of = 'operations'",
    "UPDATE indexed SET through = coalesce((SELECT max(position) FROM audit_to_index), through) WHERE of = 'audit'",
];

/// Whoever puts rows in their places, as it stands with a commit.
#[derive(Debug)]
pub(super) struct Indexing {
    /// Audit records that wait for it; there are more of them than of operations.
    waiting: usize,
}

impl Indexing {
    /// Goes on where an earlier run ended.
    pub(super) fn of(connection: &Connection) -> Result<Self, Error> {
        let sql = "SELECT count(*) AS waiting FROM audit_to_index";
        let waiting: Option<i64> = one(connection, sql, [], |row| column(row, "waiting"))?;
        Ok(Self { waiting: waiting.and_then(|waiting| usize::try_from(waiting).ok()).unwrap_or(0) })
    }

    /// Does a step within a transaction of the writer that writes so many audit records, if it is time for one.
    pub(super) fn attend(&self, transaction: &mut Transaction<'_>, records: usize) -> Result<Self, Error> {
        let waiting = self.waiting.saturating_add(records);
        if waiting < STEP {
            return Ok(Self { waiting });
        }
        let mut step = transaction.savepoint().map_err(unavailable)?;
        match fill(&step) {
            Ok(()) => step.commit().map_err(unavailable)?,
            Err(error) => {
                tracing::error!(%error, "cannot fill the store's tables for searches, which will take longer; tried again later");
                step.rollback().map_err(unavailable)?;
            }
        }
        Ok(Self { waiting: 0 })
    }
}

fn fill(connection: &Connection) -> Result<(), Error> {
    for sql in FILLING {
        change(connection, sql, [])?;
    }
    Ok(())
}
