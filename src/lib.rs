//! Postern: a guarded gateway in front of Microsoft Graph's Intune `assign` action.
//!
//! These are the modules; `docs/ARCHITECTURE.md` has walkthroughs, invariants and the rules on who may import whom.
//!
//! - ground: [`domain`] (the terms, pure), [`clock`], [`canonical`], [`signing`] (webhook signatures, pure), [`telemetry`]
//! - [`audit`] (the hash-chained trail, pure), [`config`] (validated settings), [`outbound`] (the one way to make a call)
//! - adapters: [`store`], [`graph`], [`auth`], [`policy`], [`webhooks`]
//! - work: [`gateway`] (the verbs that callers have), [`executor`] (applies changes to Graph), [`callbacks`] (reports ends
//!   to callers' systems), [`retention`] (removes what ended long ago), [`backlog_metrics`] (counts what has not ended),
//!   [`checkpoints`] (signs checkpoints of the trail), [`delivery`] (streams the trail to sinks)
//! - edge: [`api`]
//! - root: [`app`] (composition root), [`cli`] (the commands), [`demo`]
//! - for fuzzing and tests only: `fuzzing` (entry points to the parsers)
//! - apart: [`sandbox`] (a simulator of Entra and Graph that shares no code with [`graph`])
//!
//! The crate is the program `postern`; it is a library only so that tests can reach its parts.

pub mod api;
pub mod app;
pub mod audit;
pub mod auth;
pub mod backlog_metrics;
pub mod callbacks;
pub mod canonical;
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
