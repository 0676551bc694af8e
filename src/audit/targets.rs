//! What a caller requests of a configuration, by the ids of targets and filters, which stay when names change.

use serde::Serialize;

use crate::domain::{Change, DesiredAssignment, Filter, OperationId, Target};

/// A target as the audit trail names it (`group b0…`), with its filter (`include f0…`).
#[derive(Clone, Debug, Serialize)]
pub struct RecordedTarget {
    /// The target.
    pub target: String,
    /// Its filter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
}

impl RecordedTarget {
    /// A target with its filter.
    pub fn of(target: &Target, filter: Option<Filter>) -> Self {
        Self {
            target: target.to_string(),
            filter: filter.map(|filter| format!("{} {}", filter.mode.name(), filter.id)),
        }
    }
}

impl From<&DesiredAssignment> for RecordedTarget {
    fn from(wanted: &DesiredAssignment) -> Self {
        Self::of(&wanted.target, wanted.filter)
    }
}

/// A change as the audit trail names it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RecordedChange {
    /// Targets added and removed.
    Amend {
        /// Added.
        add: Vec<RecordedTarget>,
        /// Removed, whatever its filter.
        remove: Vec<RecordedTarget>,
    },
    /// The whole wanted set.
    Replace(Vec<RecordedTarget>),
    /// The difference of an operation, undone.
    Revert {
        /// The operation.
        operation: OperationId,
        /// `asked`, or `until` if the operation's own end is due.
        cause: &'static str,
        /// Removed.
        remove: Vec<RecordedTarget>,
        /// Put back.
        add: Vec<RecordedTarget>,
        /// Targets whose filter is set back, with that filter.
        set_back: Vec<RecordedTarget>,
    },
}

impl From<&Change> for RecordedChange {
    fn from(change: &Change) -> Self {
        let wanted = change.wanted().iter().map(RecordedTarget::from).collect();
        match change {
            Change::Amend(_) => {
                let remove = change.unwanted().iter().map(|target| RecordedTarget::of(target, None)).collect();
                Self::Amend { add: wanted, remove }
            }
            Change::Replace(_) => Self::Replace(wanted),
            Change::Revert(reversal) => Self::Revert {
                operation: reversal.operation(),
                cause: reversal.cause().name(),
                remove: reversal.taken_out().iter().map(RecordedTarget::from).collect(),
                add: reversal.put_back().iter().map(|it| RecordedTarget::of(&it.target, it.filter)).collect(),
                set_back: reversal.set_back().iter().map(|it| RecordedTarget::of(&it.target, it.before)).collect(),
            },
        }
    }
}
