//! What operations and audit records are looked for by: tables that stand beside theirs, and are filled in steps.
//!
//! An index would be written to by each commit, wherever what comes in it belongs: by its caller here, by its ticket there. What is put
//! in order first, several hundred at a time, changes far fewer pages.
//!
//! Guarantees: what was committed is found at once, since a search looks through what does not stand there yet, which is little; a step
//! is done as a whole or not at all, and one that fails harms nothing and is done again later.
//!
//! It deliberately has no transaction of its own, whose flush others would wait for: a step is a part of a commit that comes anyway
//! ([0034](../../../docs/adr/0034-searches-have-tables-that-are-filled-in-steps.md)).

use rusqlite::{Connection, Transaction, params};

use super::{super::Error, rows::change, unavailable};

/// One step is due for so many audit records. It takes the writer about a millisecond, for which others wait.
const STEP: usize = 128;
/// Records of which it is noted together between which times they happened.
const SPAN: i64 = 500;

/// What rows are looked for by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    OperationsTicket,
    OperationsConfiguration,
    OperationsCaller,
    AuditTicket,
    AuditOperation,
    AuditCaller,
    /// Records of a lane's turn, which name many operations, by their configuration.
    AuditTurn,
    AuditTime,
}

/// Each has its turn: a step is of one kind, for all that have come since its last one.
const KINDS: [Kind; 8] = [
    Kind::OperationsTicket,
    Kind::OperationsConfiguration,
    Kind::OperationsCaller,
    Kind::AuditTicket,
    Kind::AuditOperation,
    Kind::AuditCaller,
    Kind::AuditTurn,
    Kind::AuditTime,
];

impl Kind {
    /// The position through which rows stand in their place, in SQL.
    pub(super) fn through(self) -> String {
        let (table, what) = self.place();
        format!("coalesce((SELECT through FROM indexed WHERE of = '{table}.{what}'), 0)")
    }

    /// The table of the rows, and what they are looked for by.
    fn place(self) -> (&'static str, &'static str) {
        match self {
            Self::OperationsTicket => ("operations", "ticket"),
            Self::OperationsConfiguration => ("operations", "configuration"),
            Self::OperationsCaller => ("operations", "caller"),
            Self::AuditTicket => ("audit", "ticket"),
            Self::AuditOperation => ("audit", "operation"),
            Self::AuditCaller => ("audit", "caller"),
            Self::AuditTurn => ("audit", "turn"),
            Self::AuditTime => ("audit", "time"),
        }
    }

    fn fill(self, connection: &Connection) -> Result<(), Error> {
        let (table, what) = self.place();
        let through = self.through();
        let sql = match self {
            Self::AuditTime => format!(
                "INSERT INTO audit_spans SELECT max(position), min(position), min(at), max(at) FROM audit
                 WHERE position > {through} GROUP BY position / {SPAN}"
            ),
            Self::AuditTurn => format!(
                "INSERT INTO audit_index SELECT 'turn', configuration, position FROM audit
                 WHERE position > {through} AND configuration IS NOT NULL AND operation IS NULL ORDER BY 2, 3"
            ),
            Self::OperationsTicket
            | Self::OperationsConfiguration
            | Self::OperationsCaller
            | Self::AuditTicket
            | Self::AuditOperation
            | Self::AuditCaller => format!(
                "INSERT INTO {table}_index SELECT '{what}', {what}, position FROM {table}
                 WHERE position > {through} AND {what} IS NOT NULL ORDER BY 2, 3"
            ),
        };
        change(connection, &sql, [])?;
        let sql = format!(
            "INSERT INTO indexed SELECT ?, coalesce(max(position), 0) FROM {table} WHERE 1
             ON CONFLICT (of) DO UPDATE SET through = max(through, excluded.through)"
        );
        change(connection, &sql, params![format!("{table}.{what}")]).map(drop)
    }
}

/// Whose turn it is, and when.
#[derive(Debug)]
pub(super) struct Indexing {
    /// Audit records since the last step.
    waiting: usize,
    next: usize,
}

impl Indexing {
    /// Puts all that an earlier run, or an earlier version, has left in its place.
    pub(super) fn begin(transaction: &Transaction<'_>) -> Result<Self, Error> {
        for kind in KINDS {
            kind.fill(transaction)?;
        }
        Ok(Self { waiting: 0, next: 0 })
    }

    /// Does a step within a transaction of the writer that writes so many audit records, if it is time for one; how it stands with the
    /// commit.
    pub(super) fn attend(&self, transaction: &mut Transaction<'_>, records: usize) -> Result<Self, Error> {
        let waiting = self.waiting.saturating_add(records);
        let due = KINDS.get(self.next).filter(|_| waiting >= STEP);
        let Some(kind) = due else { return Ok(Self { waiting, next: self.next }) };
        let mut step = transaction.savepoint().map_err(unavailable)?;
        match kind.fill(&step) {
            Ok(()) => step.commit().map_err(unavailable)?,
            Err(error) => {
                tracing::error!(%error, ?kind, "cannot fill the store's tables for searches, which take longer until that is possible");
                step.rollback().map_err(unavailable)?;
            }
        }
        Ok(Self { waiting: 0, next: self.next.saturating_add(1).checked_rem(KINDS.len()).unwrap_or(0) })
    }
}
