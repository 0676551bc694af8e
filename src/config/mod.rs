//! The checked settings of a gateway: one struct per section.
//!
//! Guarantees: the settings in a [`Config`] have all been checked together; if there are faults in the file or the
//! environment, [`load`] returns no settings and reports all faults at once, each with its place and a hint.
//!
//! It deliberately stores no secret and reads no policy, only where they are ([`SecretSource`], [`Policy::dir`]); they
//! are read where and when they are used, so that a rotated secret takes effect. This is the only module that reads the
//! environment.

mod audit;
mod callbacks;
mod credential;
mod diagnostics;
#[cfg(test)]
mod docs_page;
mod expressions;
mod file;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod issuer;
mod lists;
mod load_report;
mod secret;
mod sections;
mod source_file;
mod suggestion;
mod table;
#[cfg(test)]
mod tests;
mod value;
mod webhooks;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::SocketAddr,
    num::NonZeroU32,
    path::PathBuf,
    time::Duration,
};

use url::Url;

pub use self::{
    audit::{Audit, AuditFile, AuditFormat, Sink},
    callbacks::{Authentication, CallbackRights, Callbacks, Destination, Network},
    file::{Origin, examine_process, load, load_with},
    issuer::{Algorithm, Issuer, KeySource, TokenType},
    load_report::{ExternalReferences, LoadReport},
    secret::SecretError,
    webhooks::{Expression, Proof as WebhookProof, Rule as WebhookRule, Webhook},
};
use crate::domain::{
    ConfigurationId, Digest, FilterId, GroupId, TenantId,
    ids::{ApiVersion, Cloud},
};
pub use crate::telemetry::{LogFormat, Settings as Telemetry};

/// All settings of one gateway.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where and how the gateway listens.
    pub server: Server,
    /// Where operations and the audit trail are kept.
    pub store: Store,
    /// Access to Graph.
    pub graph: Graph,
    /// Outgoing connections: proxy, certification authorities.
    pub outbound: Outbound,
    /// Limits of changes and operations, and how long callers can wait.
    pub operations: Operations,
    /// How pending changes are applied to Graph.
    pub executor: Executor,
    /// How callbacks are delivered.
    pub callbacks: Callbacks,
    /// Where policies are.
    pub policy: Policy,
    /// Logs, metrics and traces.
    pub telemetry: Telemetry,
    /// Checkpoints and streaming of the audit trail.
    pub audit: Audit,
    /// The issuers of callers' tokens.
    pub issuers: Vec<Issuer>,
    /// Which tokens belong to which caller.
    pub callers: Vec<CallerRule>,
    /// Who sends events, and the changes that are made of them.
    pub webhooks: Vec<Webhook>,
    /// Where callbacks may go.
    pub destinations: Vec<Destination>,
    /// The operator's aliases for configurations, groups and filters.
    pub catalogue: Catalogue,
    /// Where the settings came from.
    pub origin: Origin,
}

/// `server.*`
#[derive(Clone, Debug)]
pub struct Server {
    /// Address of the API.
    pub listen: SocketAddr,
    /// Internal address of the probes and metrics.
    pub admin_listen: SocketAddr,
    /// Maximum size of a request body, in bytes.
    pub body_max: usize,
    /// How long a client may take to send the head of a request, and as long again for its body.
    pub request_timeout: Duration,
    /// Maximum number of open connections.
    pub connections_max: usize,
    /// Requests that one caller may make per minute, unless its entry sets another number.
    pub calls_max: NonZeroU32,
    /// Requests of one caller that may wait for the end of an operation at the same time.
    pub waits_max: usize,
    /// Origins of web pages that may call the API (CORS).
    pub cors_origins: BTreeSet<String>,
    /// The API's certificate; without one it speaks plain HTTP.
    pub tls: Option<Tls>,
    /// How long requests are still accepted after a shutdown was requested and `/readyz` fails.
    pub drain_delay: Duration,
    /// How long the shutdown may take after that before unfinished work is dropped (it is safe in the store).
    pub stop_deadline: Duration,
}

/// `server.tls.*`
#[derive(Clone, Debug)]
pub struct Tls {
    /// The certificate and its chain, in PEM; read again when it changes.
    pub certificate: PathBuf,
    /// Its private key, unencrypted, in PEM; the same path if it is in one file with the certificate.
    pub key: PathBuf,
    /// Client certificates, if clients are asked for them.
    pub clients: Option<Clients>,
}

/// `server.tls.client_*`
#[derive(Clone, Debug)]
pub struct Clients {
    /// The certification authorities of client certificates, in PEM; read at startup.
    pub authorities: PathBuf,
    /// Whether clients must present one.
    pub required: bool,
}

/// `store.*`
#[derive(Clone, Debug)]
pub enum Store {
    /// The file of a SQLite database, from `store.url = "sqlite:PATH"`.
    Sqlite(PathBuf),
    /// A PostgreSQL database, from `store.url = "postgres://…"`.
    Postgres(Postgres),
}

/// How to reach a PostgreSQL database.
#[derive(Clone, Debug)]
pub struct Postgres {
    /// Host or socket, port, database, user and TLS; no password.
    pub url: Url,
    /// The password, if the server requires one; read for each connection.
    pub password: Option<SecretSource>,
}

/// `graph.*`
#[derive(Clone, Debug)]
pub struct Graph {
    /// The cloud.
    pub cloud: Cloud,
    /// Base URL of Graph, without a slash at its end: the cloud's, or an explicit override.
    pub endpoint: String,
    /// Base URL of the login service, without a slash at its end: the cloud's, or an explicit override.
    pub authority: String,
    /// The requested scope: the cloud's Graph URL (for the sandbox, the endpoint) and `/.default`.
    pub scope: String,
    /// The version of Graph.
    pub api_version: ApiVersion,
    /// The tenant.
    pub tenant_id: TenantId,
    /// How the gateway authenticates in that tenant.
    pub credential: Credential,
    /// Timeout of one call, including the response.
    pub call_timeout: Duration,
    /// How often one call is attempted in total before it counts as failed.
    pub attempts_max: u32,
    /// The limits on calls.
    pub pace: Pace,
    /// How long a name or id that Graph resolved stays cached.
    pub names_ttl: Duration,
}

/// The limits on calls to Graph.
#[derive(Clone, Debug)]
pub struct Pace {
    /// Maximum number of writes in 20 seconds.
    pub writes_max: NonZeroU32,
    /// Maximum number of calls in 20 seconds, writes included.
    pub calls_max: NonZeroU32,
    /// Maximum number of concurrent calls.
    pub calls_at_once_max: usize,
}

/// `graph.credential.*` and `graph.client_id`
#[derive(Clone, Debug)]
pub enum Credential {
    /// An application that authenticates to the login service.
    Application {
        /// The gateway's own application.
        client_id: String,
        /// The credential of the application.
        proof: Proof,
    },
    /// A managed identity of the Azure resource that the gateway runs on.
    ManagedIdentity {
        /// Which identity, if there are several.
        client_id: Option<String>,
        /// Where its tokens come from.
        host: IdentityHost,
    },
}

/// How the application authenticates. The files and variables are read again for each token.
#[derive(Clone, Debug)]
pub enum Proof {
    /// A client secret.
    Secret(SecretSource),
    /// A certificate whose key signs a client assertion.
    Certificate(Certificate),
    /// A token of another issuer that Entra trusts for this application; on Kubernetes, that of the service account.
    FederatedToken(SecretSource),
}

/// Files in PEM; they may be the same file.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The certificate.
    pub certificate: SecretSource,
    /// Its private key, unencrypted.
    pub key: SecretSource,
}

/// Where the tokens of a managed identity come from.
#[derive(Clone, Debug)]
pub enum IdentityHost {
    /// The metadata endpoint of a virtual machine or node.
    Machine,
    /// App Service and Container Apps.
    AppService {
        /// From `IDENTITY_ENDPOINT`.
        endpoint: Url,
        /// Where the header is that authenticates the app to that endpoint.
        header: SecretSource,
    },
}

/// Where a secret is; never the secret itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// A file, without the line break at its end; read at each use.
    File(PathBuf),
    /// An environment variable.
    Environment(String),
}

/// `outbound.*`
#[derive(Clone, Debug)]
pub struct Outbound {
    /// The proxy, instead of the one in the system's variables.
    pub proxy: Option<Url>,
    /// File of certification authorities in PEM, trusted in addition to the system's.
    pub ca_file: Option<PathBuf>,
}

/// `operations.*`
#[derive(Clone, Debug)]
pub struct Operations {
    /// How long a request waits if the caller does not say how long.
    pub wait_default: Duration,
    /// The longest time that a caller can wait.
    pub wait_max: Duration,
    /// How long an idempotency key is remembered.
    pub idempotency_ttl: Duration,
    /// How long a change waits for an approval.
    pub approval_ttl: Duration,
    /// How long an operation is kept after its end.
    pub retention: Duration,
    /// Maximum number of targets in one change.
    pub targets_max: usize,
    /// Maximum number of pending changes.
    pub pending_max: usize,
    /// Maximum number of pending changes to one configuration.
    pub pending_per_configuration_max: usize,
}

/// `executor.*`
#[derive(Clone, Debug)]
pub struct Executor {
    /// How many configurations are worked on concurrently.
    pub lanes_max: usize,
    /// Maximum number of changes that are merged into one write.
    pub batch_max: usize,
    /// How long the lease on a lane lasts before others may take the lane over.
    pub lease_ttl: Duration,
    /// How often the store is polled for pending work, in addition to being notified of it.
    pub sweep_interval: Duration,
    /// `operations.deadline`: how long an operation is retried while Graph prevents it from being applied.
    pub deadline: Duration,
}

/// `policy.*`
#[derive(Clone, Debug)]
pub struct Policy {
    /// Folder of `*.cedar` and `schema.cedarschema`.
    pub dir: PathBuf,
    /// How often policies, catalogue and log filter are checked for changes.
    pub reload_interval: Duration,
}

/// `[[callers]]`: which tokens of which issuer belong to this caller. At least one of `client_id` and `subject` is set.
#[derive(Clone, Debug)]
pub struct CallerRule {
    /// The caller's name in policies, audit and API.
    pub name: String,
    /// Name of its issuer in `[[issuers]]`.
    pub issuer: String,
    /// The token's `azp`, `appid` or `client_id`.
    pub client_id: Option<String>,
    /// The token's `sub`.
    pub subject: Option<String>,
    /// A role or scope that a token must have to belong to this caller.
    pub required_role: Option<String>,
    /// Client certificates, one of which must be presented together with the token; if empty, none is required.
    pub certificates: BTreeSet<Digest>,
    /// Requests that it may make per minute, instead of `server.calls_max`.
    pub calls_max: Option<NonZeroU32>,
    /// Where callbacks for its operations may go.
    pub callbacks: CallbackRights,
}

/// `[catalogue]`
#[derive(Clone, Debug, Default)]
pub struct Catalogue {
    /// `[catalogue.configurations."ALIAS"]`
    pub configurations: BTreeMap<String, CatalogueEntry>,
    /// `[catalogue.groups]`: alias = id.
    pub groups: BTreeMap<String, GroupId>,
    /// `[catalogue.filters]`: alias = id.
    pub filters: BTreeMap<String, FilterId>,
}

/// A configuration in the catalogue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogueEntry {
    /// The id of the configuration.
    pub id: ConfigurationId,
    /// Words for use in policies.
    pub tags: BTreeSet<String>,
}

/// A secret, and the setting that refers to it.
#[derive(Clone, Debug)]
pub struct SecretRef {
    /// Where it is.
    pub source: SecretSource,
    /// Place, line and key of the setting, for faults of the secret.
    at: Fault,
}

/// One fault in the settings, and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The file, or `environment`.
    pub place: String,
    /// Line in the file, counted from one; none if the fault has no line (a missing key).
    pub line: Option<usize>,
    /// What is wrong, including the key or name.
    pub what: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {}", self.what)?;
        match &self.hint {
            Some(hint) => write!(f, "\n  hint: {hint}"),
            None => Ok(()),
        }
    }
}
