//! Settings that have been looked at, whether or not they are fit to be used.
//!
//! What settings point at can be looked at though other settings are at fault, so that all faults are told at once.

use std::net::SocketAddr;

use super::{Audit, Catalogue, Config, Destination, Fault, Graph, Named, Outbound, Policy, Tls, Webhook};

/// Settings as far as they could be read, and all that is wrong with them.
#[derive(Debug, Default)]
pub struct Examined {
    /// All of them, if every section could be read.
    pub config: Option<Config>,
    /// Where the probes are, if that much could be read.
    pub admin_listen: Option<SocketAddr>,
    /// Where policies are, if that much could be read.
    pub policy: Option<Policy>,
    /// The secrets that settings name, as far as they could be read.
    pub secrets: Vec<Named>,
    /// What else points elsewhere.
    pub pointers: Pointers,
    /// All faults; settings with faults are not to be used.
    pub faults: Vec<Fault>,
}

/// Settings that point elsewhere: at files, certificates, expressions. Each as far as it could be read.
#[derive(Debug, Default)]
pub struct Pointers {
    /// The API's certificate.
    pub tls: Option<Tls>,
    /// The way to Graph.
    pub graph: Option<Graph>,
    /// The way out.
    pub outbound: Option<Outbound>,
    /// The key of checkpoints.
    pub audit: Option<Audit>,
    /// Sources of webhooks.
    pub webhooks: Vec<Webhook>,
    /// Destinations of callbacks.
    pub destinations: Vec<Destination>,
    /// What expressions look things up in.
    pub catalogue: Catalogue,
}
