//! The verbs of the store: one suite for every kind of store.
//!
//! Tests see a `dyn Store` and what [`fixture`] builds, not its kind; what only one kind guarantees is in its own module.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::arithmetic_side_effects,
    reason = "a test that cannot go on ends"
)]

mod accept;
mod approval;
mod bounds;
mod broken_commits;
mod callbacks;
mod cancelling;
mod database;
mod delivering;
mod fixture;
mod lanes;
mod leases;
mod listing;
mod many;
#[path = "../support/model_store.rs"]
mod model_store;
mod notices;
mod postgres;
mod random;
mod reopening;
mod retention;
mod searching;
#[path = "../support/postgres.rs"]
mod server;
mod settling;
mod sqlite;
mod until;
