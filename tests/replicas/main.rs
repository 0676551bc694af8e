//! Several gateways on one PostgreSQL database: two in this process, then three as processes that are killed, paused
//! and restarted one by one.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test that cannot go on ends"
)]

mod callbacks;
mod fleet;
#[path = "../support/handbook.rs"]
mod handbook;
mod history;
mod pair;
mod pauses;
#[path = "../support/postgres.rs"]
mod postgres;
#[path = "../support/program.rs"]
mod program;
mod rolling;
mod storms;
mod verdict;
