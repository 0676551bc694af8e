//! The client assertion: a short-lived token that proves to the login service that the gateway holds the key of its
//! registered certificate.
//!
//! Guarantees: every assertion is freshly signed under an id of its own, lives for minutes, and names the one token
//! endpoint that it is for.
//!
//! It deliberately leaves the chain out (`x5c`): Entra knows the certificate and finds it by its thumbprint.

use std::time::Duration;

use jsonwebtoken::{EncodingKey, Header};
use serde::Serialize;

use super::certificate::{self, ALGORITHM, CertificateError, Pair};
use crate::{
    clock::{self, Clock},
    config, telemetry,
};

/// How long an assertion is valid; Entra accepts 10 minutes at most.
const LIFE: Duration = Duration::from_mins(5);

#[derive(Serialize)]
struct Claims<'a> {
    aud: &'a str,
    iss: &'a str,
    sub: &'a str,
    jti: String,
    iat: i64,
    nbf: i64,
    exp: i64,
}

/// A new assertion of this application for this token endpoint. Reads certificate and key from their files.
pub(super) fn sign(
    settings: &config::Certificate,
    client_id: &str,
    endpoint: &str,
    clock: Clock,
) -> Result<String, CertificateError> {
    let Pair { certificate, key } = certificate::read(settings)?;
    telemetry::set_certificate_end(certificate.ends_at);
    let mut header = Header::new(ALGORITHM);
    header.x5t_s256 = Some(certificate.thumbprint);
    let now = clock.now();
    let claims = Claims {
        aud: endpoint,
        iss: client_id,
        sub: client_id,
        jti: clock.new_id().to_string(),
        iat: now.as_second(),
        nbf: now.as_second(),
        exp: clock::after(now, LIFE).as_second(),
    };
    encode(&header, &claims, &key).ok_or_else(|| CertificateError::NotRsa(settings.key.to_string()))
}

/// Drops the error's text, which could quote its input.
fn encode(header: &Header, claims: &Claims<'_>, key: &EncodingKey) -> Option<String> {
    jsonwebtoken::encode(header, claims, key).ok()
}
