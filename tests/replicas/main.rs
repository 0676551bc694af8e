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
mod final_checks;
mod fleet;
mod history;
mod kill_and_pause;
mod pair;
mod pauses;
#[path = "../support/postgres.rs"]
mod postgres;
#[path = "../support/program.rs"]
mod program;
mod rolling;
#[path = "../support/runbook.rs"]
mod runbook;
