//! An issuer of callers' tokens: which tokens are accepted from it, and where its keys are.
//!
//! It deliberately does not read the file: `lists` does.

use std::{collections::BTreeSet, time::Duration};

use url::Url;

use super::value;

/// A signature algorithm of callers' tokens. Only asymmetric ones: whoever can verify must not be able to sign.
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
    /// Its name in the settings.
    pub name: String,
    /// The exact `iss` of its tokens.
    pub issuer: String,
    /// The accepted `aud` values.
    pub audiences: BTreeSet<String>,
    /// The accepted signature algorithms.
    pub algorithms: BTreeSet<Algorithm>,
    /// Where its public keys are.
    pub keys: KeySource,
    /// The accepted `typ` values of its access tokens.
    pub token_types: BTreeSet<TokenType>,
    /// How long fetched keys are used.
    pub jwks_ttl: Duration,
    /// Minimum interval between key fetches triggered by tokens with an unknown key.
    pub jwks_refresh_min: Duration,
    /// How far its clock may be off.
    pub leeway: Duration,
}

impl Issuer {
    /// Whether its tokens conform to RFC 9068: all of them must have the `typ` of an access token.
    pub fn keeps_rfc_9068(&self) -> bool {
        self.token_types.iter().eq([&TokenType::AccessToken])
    }
}

/// Where an issuer's public keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// The key set itself, at `jwks_url`.
    Set(Url),
    /// The issuer's metadata, at `metadata_url`, which contain the URL of the key set.
    Metadata(Url),
}

impl KeySource {
    /// The URL of the key set that the metadata name, if it may be called: over TLS, or on this machine if the metadata
    /// are there as well.
    pub fn named_by_metadata(metadata: &Url, named: &str) -> Option<Url> {
        value::guarded_url(named).ok().filter(|url| url.scheme() == "https" || metadata.scheme() == "http")
    }
}

/// The type of a token, from `typ`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TokenType {
    /// `JWT`, or no `typ`.
    Jwt,
    /// `at+jwt`, an access token according to RFC 9068.
    AccessToken,
}
