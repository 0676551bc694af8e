//! Attacks on the API by somebody who has read the sources, can send anything, and holds the valid token of another
//! caller.
//!
//! Every attack must be refused without effect, and the honest caller's next request must be served; see
//! `AttackedGateway::end`, which prints the number of attacks. `docs/threat-model.md` lists the attacks and the test for
//! each.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::panic,
    clippy::arithmetic_side_effects,
    reason = "a test that cannot go on ends"
)]

mod attacked_gateway;
mod bodies;
mod callers;
#[path = "../support/contract.rs"]
mod contract;
mod forgeries;
mod jwt_tool;
mod messages;
#[path = "../support/openapi_check.rs"]
mod openapi_check;
#[path = "../api/responses.rs"]
#[expect(dead_code, reason = "the other tests need more of it")]
mod responses;
mod slow;
#[path = "../api/trail.rs"]
mod trail;
#[path = "../api/webhook_senders.rs"]
#[expect(dead_code, reason = "the other tests need more of it")]
mod webhook_senders;
mod wire;
#[path = "../api/world.rs"]
#[expect(dead_code, reason = "the other tests need more of it")]
mod world;
