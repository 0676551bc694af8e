//! What must hold for any text presented as a token, and for any token that the issuer's key has signed.

use std::{collections::BTreeSet, time::Duration};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    jwt::{UnverifiedToken, VerifiedToken},
    keys::KeySet,
};
use crate::config::{Algorithm, Issuer, KeySource, TokenType};

const ISSUER: &str = "https://issuer.test";
const AUDIENCE: &str = "api://postern";
const NOW: i64 = 1_800_000_000;

/// As a token, the input is refused, since nobody has signed it. As header and claims, one per line, it is signed here:
/// then it is accepted only if it says what it must, and its signature fits no other claims.
pub(crate) fn tokens(input: &[u8]) {
    let (Some(key), Ok(text)) = (Ed25519KeyPair::from_seed_unchecked(&[7; 32]).ok(), std::str::from_utf8(input)) else {
        return;
    };
    let x = URL_SAFE_NO_PAD.encode(key.public_key());
    let published = json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "kid": "a", "x": x }] }).to_string();
    let keys = KeySet::read(published.as_bytes(), ISSUER).unwrap_or_default();
    drop(KeySet::read(input, ISSUER));
    assert!(proven(text, &keys).is_none(), "a token that nobody signed is accepted");
    let Some((header, claims)) = text.split_once('\n') else { return };
    let unsigned = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let signature = URL_SAFE_NO_PAD.encode(key.sign(unsigned.as_bytes()));
    let Some(proven) = proven(&format!("{unsigned}.{signature}"), &keys) else { return };
    says_what_it_must(header, claims, &proven);
    let altered = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(format!("{claims} ")));
    assert!(self::proven(&format!("{altered}.{signature}"), &keys).is_none(), "a signature fits other claims");
}

fn says_what_it_must(header: &str, claims: &str, proven: &VerifiedToken) {
    let [header, claims] = [header, claims].map(|text| serde_json::from_str::<Value>(text).unwrap_or_default());
    let is = |name: &str, value: &str| claims.get(name).and_then(Value::as_str) == Some(value);
    assert!(header.get("alg").and_then(Value::as_str) == Some("EdDSA") && header.get("crit").is_none());
    assert!(is("iss", ISSUER) && is("sub", &proven.subject) && !proven.subject.is_empty());
    let audiences = claims.get("aud").and_then(Value::as_array).into_iter().flatten();
    assert!(is("aud", AUDIENCE) || audiences.into_iter().any(|audience| audience == AUDIENCE));
    let late = claims.get("exp").and_then(Value::as_f64);
    assert!(late.is_some_and(|seconds| seconds > Duration::from_secs(NOW.unsigned_abs()).as_secs_f64()));
}

/// What a token proves, by the same steps as in a request.
fn proven(token: &str, keys: &KeySet) -> Option<VerifiedToken> {
    let claimed = UnverifiedToken::read(token).ok()?;
    if claimed.issuer().ok()? != ISSUER {
        return None;
    }
    let key = keys.find(claimed.key_id().ok()?)?.ok()?.clone();
    claimed.verify(&issuer()?, &key, Timestamp::from_second(NOW).ok()?).ok()
}

fn issuer() -> Option<Issuer> {
    Some(Issuer {
        name: "fuzzing".to_owned(),
        issuer: ISSUER.to_owned(),
        audiences: BTreeSet::from([AUDIENCE.to_owned()]),
        algorithms: BTreeSet::from([Algorithm::EdDsa]),
        keys: KeySource::Set(format!("{ISSUER}/keys").parse().ok()?),
        token_types: BTreeSet::from([TokenType::Jwt, TokenType::AccessToken]),
        jwks_ttl: Duration::ZERO,
        jwks_refresh_min: Duration::ZERO,
        leeway: Duration::ZERO,
    })
}
