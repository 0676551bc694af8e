//! Postern.
#![forbid(unsafe_code)]
pub mod audit;
pub mod auth;
pub mod canonical;
pub mod clock;
pub mod config;
pub mod domain;
pub mod executor;
pub mod graph;
pub mod outbound;
pub mod sandbox;
pub mod store;
pub mod telemetry;
