//! Certificates generated for tests, so that no real key material lies in the repository.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::{ToSpan as _, tz::TimeZone};
use postern::clock::Clock;
use rcgen::{CertificateParams, KeyPair, PKCS_RSA_SHA256};

/// A certificate and its key, in PEM.
pub(crate) struct Made {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// A self-signed certificate with an RSA key, valid for this many days from now.
pub(crate) fn made(days: i64) -> Made {
    let pair = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
    let mut params = CertificateParams::new(vec!["postern.test".to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    let day = (Clock::system().now() + (24 * days).hours()).to_zoned(TimeZone::UTC).date();
    let part = |number: i8| u8::try_from(number).unwrap();
    params.not_after = rcgen::date_time_ymd(day.year().into(), part(day.month()), part(day.day()));
    let certificate = params.self_signed(&pair).unwrap();
    Made { certificate: pem("CERTIFICATE", certificate.der()), key: pem("PRIVATE KEY", pair.serialized_der()) }
}

/// DER encoded as PEM.
pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}
