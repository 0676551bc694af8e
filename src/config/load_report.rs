//! Settings as far as they could be read, whether or not they are valid.
//!
//! The files and expressions that settings refer to can be checked even if other settings have faults, so that all
//! faults are reported at once.

use std::net::SocketAddr;

use super::{Audit, Catalogue, Config, Destination, Fault, Graph, Outbound, Policy, SecretRef, Store, Tls, Webhook};

/// Settings as far as they could be read, and all their faults.
#[derive(Debug, Default)]
pub struct LoadReport {
    /// All settings, if every section could be read.
    pub config: Option<Config>,
    /// Address of the probes, if it could be read.
    pub admin_listen: Option<SocketAddr>,
    /// The store, if it could be read.
    pub store: Option<Store>,
    /// Where policies are, if that could be read.
    pub policy: Option<Policy>,
    /// The secrets that settings refer to, as far as they could be read.
    pub secrets: Vec<SecretRef>,
    /// Other settings that refer to something outside the settings.
    pub references: ExternalReferences,
    /// All faults; settings with faults must not be used.
    pub faults: Vec<Fault>,
}

/// Settings that refer to files, certificates or expressions. Each as far as it could be read.
#[derive(Debug, Default)]
pub struct ExternalReferences {
    /// The API's certificate.
    pub tls: Option<Tls>,
    /// Access to Graph.
    pub graph: Option<Graph>,
    /// Outgoing connections.
    pub outbound: Option<Outbound>,
    /// The key that signs checkpoints.
    pub audit: Option<Audit>,
    /// Sources of webhooks.
    pub webhooks: Vec<Webhook>,
    /// Destinations of callbacks.
    pub destinations: Vec<Destination>,
    /// The catalogue, which expressions can use.
    pub catalogue: Catalogue,
}
