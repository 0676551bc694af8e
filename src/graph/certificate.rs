//! The gateway's own certificate and key, read from their files.
//!
//! Guarantees: what is read here belongs together: the key is RSA, not encrypted, and matches the certificate. The key
//! appears in no message and no debug text.
//!
//! It deliberately does not check whether anybody trusts the certificate: Entra compares it with the registered one and
//! looks at nothing else.

use std::time::Duration;

use aws_lc_rs::digest;
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, crypto};
use secrecy::ExposeSecret;
use x509_cert::der::Decode;

use crate::{
    clock,
    config::{self, SecretError},
};

/// The signature algorithm that Entra asks for; RS256 is the older one.
pub(super) const ALGORITHM: Algorithm = Algorithm::PS256;

/// Why the files cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum CertificateError {
    #[error("{0}{cause}", cause = cause(.0))]
    File(#[from] SecretError),
    #[error("{0} holds no certificate: a line -----BEGIN CERTIFICATE----- is missing")]
    NoCertificate(String),
    #[error("the certificate in {0} cannot be read: its content is damaged")]
    Damaged(String),
    #[error("{0} holds no private key: a line -----BEGIN PRIVATE KEY----- is missing")]
    NoKey(String),
    #[error("the private key in {0} is encrypted: store it without a passphrase, protected by the file's permissions")]
    Encrypted(String),
    #[error("the private key in {0} is not an RSA key of at least 2048 bits, which Entra asks for")]
    NotRsa(String),
    #[error("the private key in {0} is not the certificate's: give the two that were made together")]
    KeyMismatch(String),
}

fn cause(error: &SecretError) -> String {
    std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default()
}

/// What is used of a certificate.
#[derive(Debug)]
pub(super) struct Certificate {
    /// How Entra finds the registered one: SHA-256 of the whole certificate, in base64url.
    pub(super) thumbprint: String,
    /// When it expires.
    pub(super) ends_at: Timestamp,
    /// The RSA public key in it, as PKCS#1.
    public_key: Vec<u8>,
}

/// A certificate with its key.
pub(super) struct Pair {
    pub(super) certificate: Certificate,
    pub(super) key: EncodingKey,
}

/// Reads both files and checks that they belong together. These are short blocking reads.
pub(super) fn read(settings: &config::Certificate) -> Result<Pair, CertificateError> {
    let certificate = read_certificate(settings)?;
    let place = || settings.key.to_string();
    let text = settings.key.read()?;
    let Some(pem) = section(text.expose_secret(), "PRIVATE KEY") else {
        return Err(CertificateError::NoKey(place()));
    };
    if pem.starts_with("-----BEGIN ENCRYPTED") || pem.contains("Proc-Type: 4,ENCRYPTED") {
        return Err(CertificateError::Encrypted(place()));
    }
    let key = EncodingKey::from_rsa_pem(pem.as_bytes()).map_err(|_could_quote_it| CertificateError::NotRsa(place()))?;
    let signature =
        crypto::sign(b"fits", &key, ALGORITHM).map_err(|_could_quote_it| CertificateError::NotRsa(place()))?;
    let public = DecodingKey::from_rsa_der(&certificate.public_key);
    match crypto::verify(&signature, b"fits", &public, ALGORITHM) {
        Ok(true) => Ok(Pair { certificate, key }),
        Ok(false) | Err(_) => Err(CertificateError::KeyMismatch(place())),
    }
}

/// Reads the certificate alone.
pub(super) fn read_certificate(settings: &config::Certificate) -> Result<Certificate, CertificateError> {
    let text = settings.certificate.read()?;
    let pem = section(text.expose_secret(), "CERTIFICATE")
        .ok_or_else(|| CertificateError::NoCertificate(settings.certificate.to_string()))?;
    decoded(pem).and_then(|der| parsed(&der)).ok_or_else(|| CertificateError::Damaged(settings.certificate.to_string()))
}

/// The first PEM section whose label ends like this, with its markers; a file may hold others around it.
fn section<'t>(text: &'t str, label_ends: &str) -> Option<&'t str> {
    let close = format!("{label_ends}-----");
    let begins = text.match_indices("-----BEGIN ").find_map(|(at, mark)| {
        let label = text.get(at.saturating_add(mark.len())..)?.split('\n').next()?;
        label.trim_end().ends_with(&close).then_some(at)
    })?;
    let from = text.get(begins..)?;
    let end = from.find("-----END ")?;
    let rest = from.get(end..)?.find(&close)?;
    from.get(..end.saturating_add(rest).saturating_add(close.len()))
}

fn decoded(pem: &str) -> Option<Vec<u8>> {
    let lines = pem.lines().map(str::trim).filter(|line| !line.starts_with("-----"));
    STANDARD.decode(lines.collect::<String>()).ok()
}

fn parsed(der: &[u8]) -> Option<Certificate> {
    let certificate = x509_cert::Certificate::from_der(der).ok()?;
    let certificate = certificate.tbs_certificate();
    let ends: Duration = certificate.validity().not_after.to_unix_duration();
    Some(Certificate {
        thumbprint: URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, der)),
        ends_at: clock::after(Timestamp::UNIX_EPOCH, ends),
        public_key: certificate.subject_public_key_info().subject_public_key.raw_bytes().to_vec(),
    })
}
