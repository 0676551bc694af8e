//! Postern: the small guarded gate in front of Microsoft Graph's Intune `assign` action.
//!
//! This is the map of the house; `docs/ARCHITECTURE.md` has the walkthroughs, the invariants and the rules on who may
//! import whom.
//!
//! - ground: [`domain`] (the terms, pure), [`clock`], [`canonical`], [`signing`] (what is signed and how, pure),
//!   [`telemetry`]
//! - [`audit`] (the chained trail, pure), [`config`] (settings, checked), [`outbound`] (the one way to make a call)
//! - adapters: [`store`], [`graph`], [`auth`], [`policy`], [`webhooks`]
//! - work: [`gateway`] (the verbs that callers have), [`executor`] (carries changes to Graph),
//!   [`callbacks`] (tells callers' systems of ends), [`retention`] (removes what ended long ago), [`census`] (counts what has not ended),
//!   [`checkpoints`] (has a key vouch for the trail), [`delivery`] (streams the trail to sinks)
//! - edge: [`api`]
//! - root: [`app`] (puts the parts together), [`cli`] (the commands), [`demo`]
//! - for fuzzing and tests only: `fuzzing` (doors to the parsers)
//! - apart: [`sandbox`] (a simulator of Entra and Graph that shares no code with [`graph`])
//!
//! The crate is the program `postern`; it is a library only so that tests can reach its parts.

pub mod api;
pub mod app;
pub mod audit;
pub mod auth;
pub mod callbacks;
pub mod canonical;
pub mod census;
pub mod checkpoints;
pub mod cli;
pub mod clock;
pub mod config;
pub mod delivery;
pub mod demo;
pub mod domain;
pub mod executor;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod gateway;
pub mod graph;
pub mod outbound;
pub mod policy;
mod reload;
pub mod retention;
pub mod sandbox;
pub mod signing;
pub mod store;
pub mod telemetry;
pub mod webhooks;
