//! Ends that are set for operations: which are due, and how each is settled.
//!
//! An `until` is ahead from the acceptance of its operation until it is settled, once: by accepting the reversal that carries
//! it out, in the same transaction, or without one. So it leads to one reversal at most, however many replicas look.

use jiff::Timestamp;

use super::callbacks;
use crate::{
    audit::Entry,
    domain::{Operation, OperationId, operation::UntilState},
};

/// Which ends to list: those ahead that are due, earliest first.
#[derive(Clone, Copy, Debug)]
pub struct DueQuery {
    /// Due by this time.
    pub by: Timestamp,
    /// After the end of this operation, given with its time.
    pub after: Option<(Timestamp, OperationId)>,
    /// At most this many.
    pub limit: usize,
}

/// Settles an end without a reversal.
#[derive(Clone, Debug)]
pub struct UntilSettlement {
    /// The operation whose end it is.
    pub operation: OperationId,
    /// How it is settled.
    pub state: UntilState,
    /// The audit record, stored only if the end is settled now.
    pub entry: Option<Entry>,
}

/// What followed an operation.
#[derive(Clone, Debug, Default)]
pub struct FollowUps {
    /// The state of its callback; none if it has none.
    pub callback: Option<callbacks::Status>,
    /// The state of its `until`; none if it has none.
    pub until: Option<UntilState>,
    /// The operations that revert it, newest first, up to a fixed number.
    pub reversals: Vec<Operation>,
}

/// How many reversals of one operation are returned at most.
pub(super) const REVERSALS_MAX: usize = 20;
/// How many reverted operations are returned at most.
pub(super) const REVERTED_MAX: usize = 1_000;
