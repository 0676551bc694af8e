//! The sandbox as its clients see it: over HTTP, against what Microsoft's documents and captured answers say.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test that cannot go on ends")]

mod assign;
mod control;
mod directory;
mod faults;
mod issuer;
mod login;
mod reads;
mod wire;
mod world;
