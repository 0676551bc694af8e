//! The settings of a gateway, checked: one struct per part of the house.
//!
//! Guarantees: whoever holds a [`Config`] holds settings that were all checked together; [`load`] reports every fault
//! of the file and the environment at once, each with its place and a hint, and hands out nothing otherwise.
//!
//! It deliberately keeps no secret and reads no policy: it knows where they are ([`SecretSource`], [`Policy::dir`]); those
//! who use them read them when they need them, so that a rotated secret is taken up. This is the only module that reads
//! the environment.

mod audit;
mod callbacks;
mod credential;
mod examined;
mod expressions;
mod file;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod issuer;
mod ledger;
mod lists;
mod nearest;
#[cfg(test)]
mod page;
mod place;
mod secret;
mod sections;
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
    examined::{Examined, Pointers},
    file::{Origin, examine_process, load, load_from_process, load_with},
    issuer::{Algorithm, Issuer, KeySource, TokenType},
    secret::SecretError,
    webhooks::{Proof as WebhookProof, Rule as WebhookRule, Webhook, Written},
};
use crate::domain::{
    ConfigurationId, Digest, FilterId, GroupId, TenantId,
    ids::{ApiVersion, Cloud},
};
pub use crate::telemetry::{LogFormat, Settings as Telemetry};

/// All settings of one gateway.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where and how to listen.
    pub server: Server,
    /// Where operations and the audit trail are kept.
    pub store: Store,
    /// The way to Graph.
    pub graph: Graph,
    /// The way out of the house: proxy, certification authorities.
    pub outbound: Outbound,
    /// What callers may ask for and how long they may wait.
    pub operations: Operations,
    /// How pending changes are carried to Graph.
    pub executor: Executor,
    /// How the ends of operations are told.
    pub callbacks: Callbacks,
    /// Where policies are.
    pub policy: Policy,
    /// What is told to whom about what happens.
    pub telemetry: Telemetry,
    /// What becomes of the audit trail beside the store.
    pub audit: Audit,
    /// Who may vouch for callers.
    pub issuers: Vec<Issuer>,
    /// Which tokens are which callers.
    pub callers: Vec<CallerRule>,
    /// Who sends events, and what becomes of them.
    pub webhooks: Vec<Webhook>,
    /// Whom the ends of operations may be told to.
    pub destinations: Vec<Destination>,
    /// Names that the operator gives to configurations, groups and filters.
    pub catalogue: Catalogue,
    /// Where all of it was read.
    pub origin: Origin,
}

/// `server.*`
#[derive(Clone, Debug)]
pub struct Server {
    /// Address of the API.
    pub listen: SocketAddr,
    /// Internal address of the probes.
    pub admin_listen: SocketAddr,
    /// Largest accepted body, in bytes.
    pub body_max: usize,
    /// How long a client may take to send a request's head, and as long again for its body.
    pub request_timeout: Duration,
    /// Connections at once.
    pub connections_max: usize,
    /// Calls that one caller may make in a minute, unless its entry says otherwise.
    pub calls_max: NonZeroU32,
    /// Calls of one caller that may wait for an end at once.
    pub waits_max: usize,
    /// Origins of web pages that may call it.
    pub cors_origins: BTreeSet<String>,
    /// The API's certificate; without one it speaks plain HTTP.
    pub tls: Option<Tls>,
    /// How long calls are still taken after the gateway has said that it is not ready any more.
    pub drain_delay: Duration,
    /// How long a stop may take after that before what is left is dropped (the store has it).
    pub stop_deadline: Duration,
}

/// `server.tls.*`
#[derive(Clone, Debug)]
pub struct Tls {
    /// The certificate and those that lead from it to an authority, in PEM; read again when it changes.
    pub certificate: PathBuf,
    /// Its private key, not encrypted, in PEM; in one file with the certificate if that is the same path.
    pub key: PathBuf,
    /// Whether clients show certificates of their own.
    pub clients: Option<Clients>,
}

/// `server.tls.client_*`
#[derive(Clone, Debug)]
pub struct Clients {
    /// The authorities whose certificates clients may show, in PEM; read at start.
    pub authorities: PathBuf,
    /// Whether nobody is heard without one.
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
    /// The password, if the server asks for one; read for each connection.
    pub password: Option<SecretSource>,
}

/// `graph.*`
#[derive(Clone, Debug)]
pub struct Graph {
    /// Which cloud.
    pub cloud: Cloud,
    /// Root of Graph's URLs, without a slash at its end: the cloud's, or an explicit override.
    pub endpoint: String,
    /// Root of the login service's URLs, without a slash at its end: the cloud's, or an explicit override.
    pub authority: String,
    /// What the token is asked for: the cloud's Graph root (the endpoint, for the sandbox) and `/.default`.
    pub scope: String,
    /// Which version of Graph.
    pub api_version: ApiVersion,
    /// The tenant to change.
    pub tenant_id: TenantId,
    /// Who the gateway is in that tenant, and what proves it.
    pub credential: Credential,
    /// How long one call may take, answer included.
    pub call_timeout: Duration,
    /// How often one call is tried before its failure is told.
    pub attempts_max: u32,
    /// How fast it is asked.
    pub pace: Pace,
    /// How long a configuration or group that Graph described is taken as known.
    pub names_ttl: Duration,
}

/// How fast Graph is asked at most.
#[derive(Clone, Debug)]
pub struct Pace {
    /// Writes in 20 seconds.
    pub writes_max: NonZeroU32,
    /// Calls in 20 seconds, writes among them.
    pub calls_max: NonZeroU32,
    /// Calls under way at once, when all goes well.
    pub calls_at_once_max: usize,
}

/// `graph.credential.*` and `graph.client_id`
#[derive(Clone, Debug)]
pub enum Credential {
    /// An application that proves itself to the login service.
    Application {
        /// The gateway's own application.
        client_id: String,
        /// What proves that the gateway is that application.
        proof: Proof,
    },
    /// An identity that Azure gives to what the gateway runs on.
    ManagedIdentity {
        /// Which one, if several were given.
        client_id: Option<String>,
        /// Who hands out its tokens.
        host: IdentityHost,
    },
}

/// What proves that the gateway is its application. What is named here is read for each token.
#[derive(Clone, Debug)]
pub enum Proof {
    /// A client secret.
    Secret(SecretSource),
    /// A certificate whose key signs a client assertion.
    Certificate(Certificate),
    /// A token of another issuer that Entra trusts for this application: on Kubernetes, of its service account.
    FederatedToken(SecretSource),
}

/// Files in PEM; both may be one.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The certificate.
    pub certificate: SecretSource,
    /// Its private key, not encrypted.
    pub key: SecretSource,
}

/// Who hands out the tokens of a managed identity.
#[derive(Clone, Debug)]
pub enum IdentityHost {
    /// The metadata endpoint of a virtual machine or node.
    Machine,
    /// App Service and Container Apps.
    AppService {
        /// From `IDENTITY_ENDPOINT`.
        endpoint: Url,
        /// Where the header is that proves the call to come from this app.
        header: SecretSource,
    },
}

/// Where a secret is; never the secret itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// The content of a file, without the line break at its end; read at each use.
    File(PathBuf),
    /// An environment variable.
    Environment(String),
}

/// `outbound.*`
#[derive(Clone, Debug)]
pub struct Outbound {
    /// A proxy instead of those that the system's variables name.
    pub proxy: Option<Url>,
    /// A file of certification authorities in PEM that are trusted besides the system's.
    pub ca_file: Option<PathBuf>,
}

/// `operations.*`
#[derive(Clone, Debug)]
pub struct Operations {
    /// How long a caller waits who does not say how long.
    pub wait_default: Duration,
    /// How long a caller may wait at most.
    pub wait_max: Duration,
    /// How long an idempotency key is remembered.
    pub idempotency_ttl: Duration,
    /// How long an approval is awaited.
    pub approval_ttl: Duration,
    /// How long an operation is kept after its end.
    pub retention: Duration,
    /// How many targets one change may name.
    pub targets_max: usize,
    /// How many changes may be pending.
    pub pending_max: usize,
    /// How many changes of one configuration may be pending.
    pub pending_per_configuration_max: usize,
}

/// `executor.*`
#[derive(Clone, Debug)]
pub struct Executor {
    /// How many configurations are worked on at once.
    pub lanes_max: usize,
    /// How many changes are merged into one write at most.
    pub batch_max: usize,
    /// How long a lane is owned before others may take it.
    pub lease_ttl: Duration,
    /// How often pending work is looked for without being told of it.
    pub sweep_interval: Duration,
    /// `operations.deadline`: how long Graph may keep an operation from being applied.
    pub deadline: Duration,
}

/// `policy.*`
#[derive(Clone, Debug)]
pub struct Policy {
    /// Folder of `*.cedar` and `schema.cedarschema`.
    pub dir: PathBuf,
    /// How often it is looked for changes of policies and catalogue.
    pub reload_interval: Duration,
}

/// `[[callers]]`: which tokens of which issuer are this caller. At least one of `client_id` and `subject` is given.
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
    /// A role or scope without which the token is not this caller.
    pub required_role: Option<String>,
    /// Client certificates of which one must be shown together with the token; any or none will do if there are none.
    pub certificates: BTreeSet<Digest>,
    /// Calls that it may make in a minute, instead of the usual number.
    pub calls_max: Option<NonZeroU32>,
    /// Where the ends of its operations may be told.
    pub callbacks: CallbackRights,
}

/// `[catalogue]`
#[derive(Clone, Debug, Default)]
pub struct Catalogue {
    /// `[catalogue.configurations."ALIAS"]`
    pub configurations: BTreeMap<String, Catalogued>,
    /// `[catalogue.groups]`: alias = id.
    pub groups: BTreeMap<String, GroupId>,
    /// `[catalogue.filters]`: alias = id.
    pub filters: BTreeMap<String, FilterId>,
}

/// A configuration in the catalogue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Catalogued {
    /// Which configuration.
    pub id: ConfigurationId,
    /// Words that policies can ask for.
    pub tags: BTreeSet<String>,
}

/// A secret and the place that names it.
#[derive(Clone, Debug)]
pub struct Named {
    /// Where it is.
    pub source: SecretSource,
    /// Place, line and key, for a fault of what it names.
    at: Fault,
}

/// One thing wrong with the settings, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The file, or `environment`.
    pub place: String,
    /// Line in the file, counted from one; none if the fault is in no line (a missing key).
    pub line: Option<usize>,
    /// What is wrong, with the key or name it is about.
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
