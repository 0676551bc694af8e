//! The sandbox as its clients see it: over HTTP, checked against Microsoft's documents and captured responses.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::arithmetic_side_effects,
    reason = "a test that cannot go on ends"
)]

mod assign;
#[path = "../support/certificate.rs"]
mod certificate;
#[path = "../support/contract.rs"]
mod contract;
mod control;
mod directory;
mod faults;
mod identity;
mod issuer;
mod limits;
mod login;
mod proof;
mod reads;
mod sweep;
mod wire;
mod world;
