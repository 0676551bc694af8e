//! Fault points: the gateway stops before or after any call of the store or of Graph, or any such call fails; still
//! every accepted operation ends, the set is the merge of the operations, and the audit trail verifies.
//!
//! Gateway and executor are the real ones; wrappers around the store's verbs and the calls to Graph inject the faults.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::arithmetic_side_effects,
    reason = "a test that cannot go on ends"
)]

mod cases;
mod meanwhile;
#[path = "../support/model_store.rs"]
mod model_store;
mod plan;
mod ports;
#[path = "../support/postgres.rs"]
mod postgres;
mod scenario;
mod tenant;
