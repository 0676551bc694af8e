//! The terms of the domain, as values: what an assignment set is, what a change does to it, what becomes of an operation.
//!
//! A caller's *change* names *targets* to add to or remove from the *assignment set* of one *configuration*. Once accepted,
//! it is an *operation*. [`change::merge`] turns the present set and the pending changes into a *plan*: the set to write
//! and, for each operation, the difference it makes.
//!
//! Guarantees: everything here is pure. Nothing waits, reads a clock, draws a random number or does I/O, so the same input
//! gives the same result, and properties can be stated and tested.
//!
//! It deliberately knows no wire format: Graph's JSON belongs to `graph::model`, the callers' JSON to `api`. The `serde`
//! derives define the store's format, nothing else.

pub mod approval;
pub mod assignment;
pub mod callback;
pub mod caller;
pub mod change;
pub mod configuration;
pub mod ids;
pub mod operation;
pub mod reversal;
#[cfg(test)]
mod tests;

pub use assignment::{Assignment, AssignmentSet, Digest, Filter, FilterMode, Target};
pub use callback::{Callback, CallbackState};
pub use caller::{Caller, Role};
pub use change::{Change, DesiredAssignment, Difference, MergeOutcome, Plan, merge};
pub use configuration::{Configuration, Kind};
pub use ids::{ConfigurationId, FilterId, GroupId, OperationId, TenantId};
pub use operation::{Failure, FailureCode, Operation, State};
pub use reversal::Reversal;
