//! What proves a callback to its destination: the signature, and any credential that the destination requires besides.
//!
//! Guarantees: secrets are read for each attempt, so a rotated one is taken up; no error text contains any part of one.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use secrecy::{ExposeSecret, SecretString};

use crate::{
    config::{Authentication, Destination, Fault, SecretRef},
    outbound::HeaderValue,
    signing::{
        Key, Message,
        presets::{Preset, SERVICENOW_HMAC, STANDARD_WEBHOOKS},
    },
};

/// The value of the signature header: one signature for each secret that can be read.
pub(super) fn signatures(destination: &Destination, message: Message<'_>) -> Result<String, String> {
    let made = destination.secrets.iter().map(|named| sign(&STANDARD_WEBHOOKS, named, message));
    let (made, faults): (Vec<_>, Vec<_>) = made.partition(Result::is_ok);
    if made.is_empty() {
        return Err(faults.into_iter().find_map(Result::err).unwrap_or_default());
    }
    Ok(made.into_iter().flatten().collect::<Vec<_>>().join(" "))
}

/// ServiceNow's own signature.
pub(super) fn servicenow(secret: &SecretRef, body: &[u8]) -> Result<String, String> {
    sign(&SERVICENOW_HMAC, secret, Message { id: "", timestamp: "", body })
}

fn sign(preset: &Preset, named: &SecretRef, message: Message<'_>) -> Result<String, String> {
    let scheme = preset.scheme();
    let secret = read(named)?;
    let unfit = |why: &dyn std::fmt::Display| format!("the gateway's secret cannot sign: {why}");
    let key = Key::read(secret.expose_secret(), scheme.keys, scheme.hash).map_err(|fault| unfit(&fault))?;
    scheme.sign(&key, message).ok_or_else(|| unfit(&"it is the half of a key that only verifies"))
}

/// Reads a secret. Where it should be concerns only operators, so that goes to the log.
pub(super) fn read(named: &SecretRef) -> Result<SecretString, String> {
    named.source.read().map_err(|error| {
        tracing::error!(%error, "a destination's secret cannot be read");
        "the gateway cannot read the secret that is needed".to_owned()
    })
}

/// The value of `Authorization` for a token.
pub(super) fn bearer(token: &SecretString) -> Result<HeaderValue, String> {
    secret_header(&format!("Bearer {}", token.expose_secret()))
}

/// The value of `Authorization` for `user:password`.
pub(super) fn basic(credentials: &SecretString) -> Result<HeaderValue, String> {
    secret_header(&format!("Basic {}", STANDARD.encode(credentials.expose_secret())))
}

fn secret_header(text: &str) -> Result<HeaderValue, String> {
    let mut value = HeaderValue::from_str(text)
        .map_err(|_not_a_header| "the credential holds letters that no header takes".to_owned())?;
    value.set_sensitive(true);
    Ok(value)
}

/// What is wrong with the secrets of destinations.
pub fn examine(destinations: &[Destination]) -> Vec<Fault> {
    destinations.iter().flat_map(faults).collect()
}

fn faults(destination: &Destination) -> Vec<Fault> {
    let message = Message { id: "msg", timestamp: "0", body: b"" };
    let fault = |named: &SecretRef, made: Result<(), String>| {
        let hint = "write into the file what the destination's side has, and nothing else";
        made.err().map(|why| named.fault(&why, hint))
    };
    let signing = destination.secrets.iter();
    let signing = signing.filter_map(|named| fault(named, sign(&STANDARD_WEBHOOKS, named, message).map(drop)));
    let tried = |named: &SecretRef| match &destination.authentication {
        Authentication::ServiceNowHmac(_) => servicenow(named, b"").map(drop),
        Authentication::Basic(_) => read(named).and_then(|secret| {
            let whole = secret.expose_secret().contains(':');
            whole.then_some(()).ok_or_else(|| "it is not of the form user:password".to_owned())
        }),
        Authentication::Bearer(_) => read(named).and_then(|secret| bearer(&secret)).map(drop),
        Authentication::None | Authentication::OAuth { .. } => read(named).map(drop),
    };
    let credential = destination.authentication.secret();
    signing.chain(credential.and_then(|named| fault(named, tried(named)))).collect()
}
