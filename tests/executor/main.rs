//! The executor, between a real store and a Graph that does as it is told.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on ends")]

mod turns;
mod upstream;
mod work;
