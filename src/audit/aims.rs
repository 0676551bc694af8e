//! What a caller requests of a configuration, by the ids of targets and filters, which stay when names change.

use serde::Serialize;

use crate::domain::{Change, Filter, OperationId, Target, Wanted};

/// A target as the audit trail names it (`group b0…`), with its filter (`include f0…`).
#[derive(Clone, Debug, Serialize)]
pub struct Aim {
    /// The target.
    pub target: String,
    /// Its filter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
}

impl Aim {
    /// A target with its filter.
    pub fn of(target: &Target, filter: Option<Filter>) -> Self {
        Self {
            target: target.to_string(),
            filter: filter.map(|filter| format!("{} {}", filter.mode.name(), filter.id)),
        }
    }
}

impl From<&Wanted> for Aim {
    fn from(wanted: &Wanted) -> Self {
        Self::of(&wanted.target, wanted.filter)
    }
}

/// A change as the audit trail names it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Aims {
    /// Targets added and removed.
    Amend {
        /// Added.
        add: Vec<Aim>,
        /// Removed, whatever its filter.
        remove: Vec<Aim>,
    },
    /// The whole wanted set.
    Replace(Vec<Aim>),
    /// The difference of an operation, undone.
    Revert {
        /// The operation.
        operation: OperationId,
        /// `asked`, or `until` if the operation's own end is due.
        cause: &'static str,
        /// Removed.
        remove: Vec<Aim>,
        /// Put back.
        add: Vec<Aim>,
        /// Targets whose filter is set back, with that filter.
        set_back: Vec<Aim>,
    },
}

impl From<&Change> for Aims {
    fn from(change: &Change) -> Self {
        let wanted = change.wanted().iter().map(Aim::from).collect();
        match change {
            Change::Amend(_) => {
                let remove = change.unwanted().iter().map(|target| Aim::of(target, None)).collect();
                Self::Amend { add: wanted, remove }
            }
            Change::Replace(_) => Self::Replace(wanted),
            Change::Revert(reversal) => Self::Revert {
                operation: reversal.operation(),
                cause: reversal.cause().name(),
                remove: reversal.taken_out().iter().map(Aim::from).collect(),
                add: reversal.put_back().iter().map(|it| Aim::of(&it.target, it.filter)).collect(),
                set_back: reversal.set_back().iter().map(|it| Aim::of(&it.target, it.before)).collect(),
            },
        }
    }
}
