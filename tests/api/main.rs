//! Postern as its callers see it: a real gateway in front of a real sandbox, reached over HTTP only.
//!
//! The store's content is checked through the audit trail, which must verify at the end of every test; see
//! [`world::World::end`]. Nothing sleeps: tests wait by `Prefer: wait`, by calls that the sandbox holds, or by polling
//! a bounded number of times.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::panic,
    clippy::arithmetic_side_effects,
    reason = "a test that cannot go on ends"
)]

mod approval;
mod assignments;
mod audit;
mod auth;
mod backup;
mod bounds;
mod callback_receivers;
mod callbacks;
mod cancelling;
#[path = "../support/certificate.rs"]
mod certificate;
mod collector;
mod conditions;
mod configurations;
#[path = "../support/contract.rs"]
mod contract;
mod cors;
mod credentials;
mod forged_tokens;
mod graph_error_causes;
mod graph_faults;
mod graph_trouble;
mod groups;
mod idempotency;
mod input;
mod integrations;
mod limits;
mod load;
mod names;
#[path = "../support/openapi_check.rs"]
mod openapi_check;
mod operations;
mod pacing;
mod policy;
mod policy_sets;
mod probes;
mod process;
#[expect(dead_code, reason = "examples end by themselves or are killed")]
#[path = "../support/program.rs"]
mod program;
mod reference;
mod refusals;
mod reload;
mod responses;
mod restart;
mod retention;
mod reverting;
#[path = "../support/runbook.rs"]
mod runbook;
mod secrets;
mod streaming;
mod telemetry;
mod tls;
mod tracing;
mod trail;
mod unknown_behaviour;
mod until;
mod versions;
mod waiting;
mod webhook_senders;
mod webhooks;
mod world;
