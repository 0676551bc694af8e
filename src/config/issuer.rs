//! An issuer of callers' tokens: what is believed of it, and where its keys are.
//!
//! It deliberately reads nothing of the file: `lists` does.

use std::{collections::BTreeSet, time::Duration};

use url::Url;

use super::value;

/// A signature algorithm that a caller's token may use. Asymmetric ones only: whoever can verify must not be able to sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Algorithm {
    /// RSA PKCS#1 v1.5 with SHA-256.
    Rs256,
    /// RSA PKCS#1 v1.5 with SHA-384.
    Rs384,
    /// RSA PKCS#1 v1.5 with SHA-512.
    Rs512,
    /// RSA PSS with SHA-256.
    Ps256,
    /// RSA PSS with SHA-384.
    Ps384,
    /// RSA PSS with SHA-512.
    Ps512,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// Ed25519.
    EdDsa,
}

/// `[[issuers]]`
#[derive(Clone, Debug)]
pub struct Issuer {
    /// Our name for it.
    pub name: String,
    /// The exact `iss` of its tokens.
    pub issuer: String,
    /// The accepted `aud` values.
    pub audiences: BTreeSet<String>,
    /// The accepted signature algorithms.
    pub algorithms: BTreeSet<Algorithm>,
    /// Where its public keys are.
    pub keys: KeySource,
    /// What its access tokens call themselves (`typ`).
    pub token_types: BTreeSet<TokenType>,
    /// How long fetched keys are used before they are fetched again.
    pub jwks_ttl: Duration,
    /// At most one fetch in this time because of a token whose key is unknown.
    pub jwks_refresh_min: Duration,
    /// How far its clock may be off.
    pub leeway: Duration,
}

impl Issuer {
    /// Whether its tokens keep to RFC 9068: all of them say that they are access tokens.
    pub fn keeps_rfc_9068(&self) -> bool {
        self.token_types.iter().eq([&TokenType::AccessToken])
    }
}

/// Where an issuer's public keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// The key set itself, at `jwks_url`.
    Set(Url),
    /// The issuer's metadata, at `metadata_url`, which name the key set.
    Metadata(Url),
}

impl KeySource {
    /// Where metadata say that the key set is, if it may be asked there: over TLS, or on this machine, where the
    /// metadata must be as well.
    pub fn named_by_metadata(metadata: &Url, named: &str) -> Option<Url> {
        value::guarded_url(named).ok().filter(|url| url.scheme() == "https" || metadata.scheme() == "http")
    }
}

/// What a token says it is, in `typ`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TokenType {
    /// `JWT`, or nothing.
    Jwt,
    /// `at+jwt`, an access token by RFC 9068.
    AccessToken,
}
