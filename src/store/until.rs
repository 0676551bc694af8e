//! Ends that were set for what operations do: which of them are due, and how each is settled.
//!
//! An `until` is ahead from the acceptance of its operation until it is settled, once: by the acceptance of the reversal
//! that carries it out, in the same transaction, or without one. So however many replicas look, there is one reversal.

use jiff::Timestamp;

use super::callbacks;
use crate::{
    audit::Entry,
    domain::{Operation, OperationId, operation::UntilState},
};

/// Which ends to list: those ahead whose time has come, the earliest first.
#[derive(Clone, Copy, Debug)]
pub struct Due {
    /// By when.
    pub by: Timestamp,
    /// Later than that of this operation.
    pub after: Option<(Timestamp, OperationId)>,
    /// At most so many.
    pub limit: usize,
}

/// The settling of an end without a reversal.
#[derive(Clone, Debug)]
pub struct Release {
    /// Whose end.
    pub operation: OperationId,
    /// How it is settled.
    pub state: UntilState,
    /// The audit record of it, stored only if it is settled now.
    pub entry: Option<Entry>,
}

/// What came after an operation.
#[derive(Clone, Debug, Default)]
pub struct Sequel {
    /// How its callback stands; none if it has none.
    pub callback: Option<callbacks::Standing>,
    /// How its end stands; none if it has none.
    pub until: Option<UntilState>,
    /// The operations that undo it, the newest first: as many as one cares to know.
    pub reversals: Vec<Operation>,
}

/// Reversals of one operation that are told at most.
pub(super) const REVERSALS_MAX: usize = 20;
