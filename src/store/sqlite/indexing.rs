//! What operations and audit records are looked for by: tables that stand beside theirs, and are filled in steps.
//!
//! An index would be written to by each commit, wherever what comes in it belongs: by its caller here, by its ticket there. What is put
//! in order first, hundreds at a time, changes far fewer pages.
//!
//! Guarantees: what was committed is found at once, since a search looks through what does not stand there yet, which is little; a step
//! is done as a whole or not at all, and one that fails harms nobody's verb and is done again later.
//!
//! It deliberately has no transaction of its own, whose flush others would wait for: a step is a part of a commit that comes anyway
//! ([0034](../../../docs/adr/0034-searches-have-tables-that-are-filled-in-steps.md)).

use rusqlite::{Connection, Transaction, TransactionBehavior, params};

use super::{
    super::Error,
    rows::{change, column, one},
    unavailable,
};

/// A step is due for so many audit records. It is of one kind, and takes the writer half a millisecond or so, for which others wait.
const STEP: usize = 64;
/// Records in which each kind has had its turn, and so about what a search looks through; more where single commits have more than a step.
const ROUND: usize = STEP.saturating_mul(KINDS.len());
/// Rows that an earlier run may have left to this one's steps.
const LEFT_MAX: usize = 1_024;
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
#[derive(Debug, Default)]
pub(super) struct Indexing {
    next: usize,
    /// Audit records since the last step, about.
    waiting: usize,
    /// Records to let pass before the next step, after one has failed.
    pause: usize,
    /// A step has taken the whole transaction with it.
    lost: bool,
}

impl Indexing {
    /// Puts what earlier runs, or an earlier version, have left in its place, where that is more than a search should look through.
    pub(super) fn begin(connection: &mut Connection) -> Self {
        for kind in KINDS {
            if let Err(error) = catch_up(connection, kind) {
                tell(&error, kind);
            }
        }
        Self::default()
    }

    /// Does a step within a transaction of the writer that writes so many audit records, if it is time for one. An error if the whole
    /// transaction is lost, as SQLite has it after some faults of the disk.
    pub(super) fn attend(&mut self, transaction: &mut Transaction<'_>, records: usize) -> Result<(), Error> {
        if self.pause > 0 {
            self.pause = self.pause.saturating_sub(records);
            return Ok(());
        }
        self.waiting = self.waiting.saturating_add(records);
        let due = KINDS.get(self.next).filter(|_| self.waiting >= STEP);
        let Some(kind) = due else { return Ok(()) };
        // Whatever becomes of it, the next one is another's.
        (self.waiting, self.next) = (0, self.next.saturating_add(1).checked_rem(KINDS.len()).unwrap_or(0));
        let mut step = transaction.savepoint().map_err(unavailable)?;
        let Err(error) = kind.fill(&step) else { return step.commit().map_err(unavailable) };
        tell(&error, *kind);
        self.pause = ROUND;
        let rolled_back = step.rollback().map_err(unavailable);
        self.lost = rolled_back.is_err();
        rolled_back
    }

    /// Whether a step has taken a whole transaction with it since this was last asked. There is none in the transaction after it.
    pub(super) fn has_lost(&mut self) -> bool {
        std::mem::take(&mut self.lost)
    }
}

/// Puts all rows of a kind in their place, if they are many. What was done of one kind is not done again.
fn catch_up(connection: &mut Connection, kind: Kind) -> Result<(), Error> {
    let (table, _) = kind.place();
    let sql = format!("SELECT coalesce(max(position), 0) - {} AS behind FROM {table}", kind.through());
    let behind: Option<i64> = one(connection, &sql, [], |row| column(row, "behind"))?;
    if behind.and_then(|rows| usize::try_from(rows).ok()).unwrap_or(0) <= LEFT_MAX {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(unavailable)?;
    kind.fill(&transaction)?;
    transaction.commit().map_err(unavailable)
}

fn tell(error: &Error, kind: Kind) {
    tracing::error!(%error, ?kind, "cannot fill the store's tables for searches, which take longer until that is possible");
}
