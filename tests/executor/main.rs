//! The executor, between a real store and a scripted Graph.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::arithmetic_side_effects,
    reason = "a test that cannot go on ends"
)]

mod ends;
#[path = "../support/model_store.rs"]
mod model_store;
mod turns;
mod undecided;
mod upstream;
mod work;
