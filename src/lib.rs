//! Postern.
#![forbid(unsafe_code)]
pub mod audit;
pub mod clock;
pub mod config;
pub mod domain;
pub mod outbound;
pub mod telemetry;
