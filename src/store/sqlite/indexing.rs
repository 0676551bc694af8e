//! Search tables for operations and audit records, kept beside the main tables and filled in steps.
//!
//! Each commit would have to write to an ordinary index at scattered places: here for a caller, there for a ticket. Rows that
//! are first sorted, hundreds at a time, change far fewer pages.
//!
//! Guarantees: what was committed is found at once, since a search also scans the few rows that are not indexed yet; a step is
//! done completely or not at all, and one that fails does not affect any verb and is retried later.
//!
//! It deliberately has no transaction of its own while the gateway runs, since others would wait for its flush: a step is part
//! of a commit that happens anyway ([0034](../../../docs/adr/0034-searches-have-tables-that-are-filled-in-steps.md)).

use rusqlite::{Connection, Transaction, TransactionBehavior, params};

use super::{
    super::Error,
    rows::{change, column, one},
    unavailable,
};

/// A step is due after this many audit records. It indexes one kind and keeps the writer busy for about half a millisecond.
const STEP: usize = 64;
/// Records after which every kind has had its turn, so about what a search scans; more where single commits exceed a step.
const ROUND: usize = STEP.saturating_mul(KINDS.len());
/// Unindexed rows that are left to the steps; if an earlier run left more, they are indexed on opening.
const LEFT_MAX: usize = 1_024;
/// Records per span, of which the earliest and the latest time are stored.
const SPAN: i64 = 500;

/// What rows are searched by.
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

/// They take turns: a step indexes one kind, for all rows that have come since that kind's last step.
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
    /// The position up to which rows are indexed, in SQL.
    pub(super) fn through(self) -> String {
        let (table, what) = self.place();
        format!("coalesce((SELECT through FROM indexed WHERE of = '{table}.{what}'), 0)")
    }

    /// The table of the rows, and what they are searched by: mostly a column.
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

/// Which kind is next, and when.
#[derive(Debug, Default)]
pub(super) struct Indexing {
    next: usize,
    /// Audit records since the last step, roughly.
    waiting: usize,
    /// Records to let pass before the next step, after one has failed.
    pause: usize,
    /// Whether a failed step has rolled back the whole transaction.
    lost: bool,
}

impl Indexing {
    /// Indexes what earlier runs, or an earlier version, have left, where that is more than a search should scan.
    pub(super) fn begin(connection: &mut Connection) -> Self {
        for kind in KINDS {
            if let Err(error) = catch_up(connection, kind) {
                log_failure(&error, kind);
            }
        }
        Self::default()
    }

    /// Does a step, if one is due, within a transaction of the writer that writes this many audit records. Fails if the whole
    /// transaction is lost, since SQLite rolls it back after some disk errors.
    pub(super) fn run_step_if_due(&mut self, transaction: &mut Transaction<'_>, records: usize) -> Result<(), Error> {
        if self.pause > 0 {
            self.pause = self.pause.saturating_sub(records);
            return Ok(());
        }
        self.waiting = self.waiting.saturating_add(records);
        let due = KINDS.get(self.next).filter(|_| self.waiting >= STEP);
        let Some(kind) = due else { return Ok(()) };
        // Whether it succeeds or not, the next step is for another kind.
        (self.waiting, self.next) = (0, self.next.saturating_add(1).checked_rem(KINDS.len()).unwrap_or(0));
        let mut step = transaction.savepoint().map_err(unavailable)?;
        let Err(error) = kind.fill(&step) else { return step.commit().map_err(unavailable) };
        log_failure(&error, *kind);
        self.pause = ROUND;
        let rolled_back = step.rollback().map_err(unavailable);
        self.lost = rolled_back.is_err();
        rolled_back
    }

    /// Whether a step has rolled back a whole transaction since this was last called. The transaction after that has no step.
    pub(super) fn take_rolled_back(&mut self) -> bool {
        std::mem::take(&mut self.lost)
    }
}

/// Indexes all rows of a kind, if there are many left. Each kind has its own transaction, so what is done for one stays done.
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

fn log_failure(error: &Error, kind: Kind) {
    tracing::error!(%error, ?kind, "cannot fill the store's tables for searches, which take longer until that is possible");
}
