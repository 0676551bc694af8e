//! `graph.credential.*` and `graph.client_id`: how the gateway authenticates as its application.
//!
//! Guarantees: only keys of the chosen kind are accepted, so that no secret is configured that nothing uses. The
//! platform's own variables for a workload or managed identity (`AZURE_…`, `IDENTITY_…`) apply where neither the file
//! nor a `POSTERN__…` variable sets a value.
//!
//! It deliberately opens no file: `graph` checks certificates.

use url::{Host, Url};

use super::{
    Certificate, Credential, IdentityHost, Proof, SecretRef, SecretSource, sections,
    table::Table,
    value::{self, Refusal},
};

const KIND: &str = "graph.credential.kind";
const SECRET_FILE: &str = "graph.credential.secret_file";
const SECRET_VARIABLE: &str = "graph.credential.secret_env";
const CERTIFICATE_FILE: &str = "graph.credential.certificate_file";
const KEY_FILE: &str = "graph.credential.key_file";
const TOKEN_FILE: &str = "graph.credential.token_file";
const CLIENT_ID: &str = "graph.client_id";

/// The kinds of credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Secret,
    Certificate,
    WorkloadIdentity,
    ManagedIdentity,
}

const KINDS: [(Kind, &str); 4] = [
    (Kind::Secret, "secret"),
    (Kind::Certificate, "certificate"),
    (Kind::WorkloadIdentity, "workload-identity"),
    (Kind::ManagedIdentity, "managed-identity"),
];

/// Which kind each key belongs to.
const KEYS: [(&str, Kind); 5] = [
    (SECRET_FILE, Kind::Secret),
    (SECRET_VARIABLE, Kind::Secret),
    (CERTIFICATE_FILE, Kind::Certificate),
    (KEY_FILE, Kind::Certificate),
    (TOKEN_FILE, Kind::WorkloadIdentity),
];

impl Kind {
    fn name(self) -> &'static str {
        KINDS.iter().find(|row| row.0 == self).map_or("", |row| row.1)
    }
}

fn parse_kind(text: &str) -> Result<Kind, Refusal> {
    let known = || KINDS.map(|row| row.1).join(", ");
    let found = KINDS.iter().find(|row| row.1 == text).map(|row| row.0);
    found.ok_or_else(|| {
        Refusal::new(format!("{text:?} is not a kind of credential")).hint(format!("one of {}", known()))
    })
}

/// The gateway's credential as configured.
#[derive(Debug, Default)]
pub(super) struct ParsedCredential {
    pub(super) kind: Option<Kind>,
    pub(super) credential: Option<Credential>,
    /// The files and variables that it refers to.
    pub(super) named: Vec<SecretRef>,
}

/// Reads the credential; the keys of all kinds are known, whatever its kind is.
pub(super) fn read(table: &mut Table<'_>) -> ParsedCredential {
    let kind = table.setting(KIND, "secret", parse_kind);
    if kind == Some(Kind::WorkloadIdentity) {
        table.fall_back(CLIENT_ID, "AZURE_CLIENT_ID");
        table.fall_back(TOKEN_FILE, "AZURE_FEDERATED_TOKEN_FILE");
    }
    let client_id = table.optional(CLIENT_ID, value::application);
    let secret = sections::secret(table, SECRET_FILE, SECRET_VARIABLE);
    let certificate = named_file(table, CERTIFICATE_FILE);
    let key = named_file(table, KEY_FILE);
    let token = named_file(table, TOKEN_FILE);
    let Some(kind) = kind else { return ParsedCredential::default() };
    for (key, of) in KEYS {
        if of != kind && table.given(key) {
            let (kind, of) = (kind.name(), of.name());
            let hint = format!("leave it out, or set graph.credential.kind to {of:?}");
            table.refuse(key, &format!("a credential of kind {kind:?} does not use it"), Some(&hint));
        }
    }
    if kind == Kind::ManagedIdentity {
        let host = identity_host(table);
        let credential = host.map(|host| Credential::ManagedIdentity { client_id, host });
        return ParsedCredential { kind: Some(kind), credential, named: Vec::new() };
    }
    if client_id.is_none() && !table.given(CLIENT_ID) {
        table.missing(CLIENT_ID);
    }
    let proof = match kind {
        Kind::Secret => of_secret(table, secret.as_ref()),
        Kind::Certificate => of_certificate(table, certificate.as_ref(), key.as_ref()),
        Kind::WorkloadIdentity => of_token(table, token.as_ref()),
        Kind::ManagedIdentity => None,
    };
    let credential = client_id.zip(proof).map(|(client_id, proof)| Credential::Application { client_id, proof });
    let named = match kind {
        Kind::Secret => secret.into_iter().collect(),
        Kind::Certificate => certificate.into_iter().chain(key).collect(),
        Kind::WorkloadIdentity => token.into_iter().collect(),
        Kind::ManagedIdentity => Vec::new(),
    };
    ParsedCredential { kind: Some(kind), credential, named }
}

fn named_file(table: &mut Table<'_>, key: &'static str) -> Option<SecretRef> {
    let source = SecretSource::File(table.path(key, None)?);
    Some(SecretRef { source, at: table.fault_at(key) })
}

fn of_secret(table: &mut Table<'_>, secret: Option<&SecretRef>) -> Option<Proof> {
    if !table.given(SECRET_FILE) && !table.given(SECRET_VARIABLE) {
        // The kind by default, so perhaps nobody has chosen it.
        let others = KINDS.iter().filter(|row| row.0 != Kind::Secret).map(|row| row.1).collect::<Vec<_>>().join(", ");
        table.lacking(SECRET_FILE, Some(format!("or set {SECRET_VARIABLE}, or choose another {KIND}: {others}")));
    }
    secret.map(|named| Proof::Secret(named.source.clone()))
}

fn of_certificate(table: &mut Table<'_>, certificate: Option<&SecretRef>, key: Option<&SecretRef>) -> Option<Proof> {
    if !table.given(CERTIFICATE_FILE) {
        table.missing(CERTIFICATE_FILE);
    }
    let certificate = certificate?.source.clone();
    // One file may hold both, as the Azure command line writes it.
    let key = key.map_or_else(|| certificate.clone(), |named| named.source.clone());
    Some(Proof::Certificate(Certificate { certificate, key }))
}

fn of_token(table: &mut Table<'_>, token: Option<&SecretRef>) -> Option<Proof> {
    if !table.given(TOKEN_FILE) {
        table.missing(TOKEN_FILE);
    }
    token.map(|named| Proof::FederatedToken(named.source.clone()))
}

/// App Service and Container Apps locate the identity with two variables; a virtual machine sets none.
fn identity_host(table: &mut Table<'_>) -> Option<IdentityHost> {
    const ENDPOINT: &str = "IDENTITY_ENDPOINT";
    const HEADER: &str = "IDENTITY_HEADER";
    let header = table.platform_has(HEADER);
    if !table.platform_has(ENDPOINT) {
        return Some(IdentityHost::Machine);
    }
    if !header {
        table.refuse_platform(
            ENDPOINT,
            "set without IDENTITY_HEADER, as on Azure Arc and Cloud Shell, whose identities are not supported",
            "App Service and Container Apps set both; elsewhere, use another kind of credential",
        );
        return None;
    }
    let endpoint = table.platform(ENDPOINT, near_url)?;
    Some(IdentityHost::AppService { endpoint, header: SecretSource::Environment(HEADER.to_owned()) })
}

/// A URL on this machine or with a link-local address, where platforms have their identity endpoint, or one with TLS.
fn near_url(text: &str) -> Result<Url, Refusal> {
    let url = value::any_url(text)?;
    let on_link = matches!(url.host(), Some(Host::Ipv4(address)) if address.is_link_local());
    if on_link { Ok(url) } else { value::guarded_url(text) }
}
