//! Attacks on the API by somebody who has read the sources, can send anything, and holds the valid token of another
//! caller.
//!
//! Every attack must be refused without effect, and the honest caller's next request must be served; see
//! [`siege::Siege::end`], which prints the number of attacks. `docs/threat-model.md` lists the attacks and the test for
//! each.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::panic,
    clippy::arithmetic_side_effects,
    reason = "a test that cannot go on ends"
)]

#[path = "../api/answers.rs"]
#[expect(dead_code, reason = "the other tests need more of it")]
mod answers;
mod bodies;
mod callers;
#[path = "../support/contract.rs"]
mod contract;
#[path = "../support/document.rs"]
mod document;
mod forgeries;
mod messages;
mod playbook;
#[path = "../api/senders.rs"]
#[expect(dead_code, reason = "the other tests need more of it")]
mod senders;
mod siege;
mod slow;
#[path = "../api/trail.rs"]
mod trail;
mod wire;
#[path = "../api/world.rs"]
#[expect(dead_code, reason = "the other tests need more of it")]
mod world;
