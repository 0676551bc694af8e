//! An issuer's published key set (RFC 7517), reduced to the keys that may authenticate callers.
//!
//! Guarantees: a [`Key`] has one kind and one id, is public and is strong enough; a key that falls short of this stays
//! known by its id together with the reason, so that the developer of a caller learns why a token is refused. A key that is
//! not meant for signatures, is symmetric, or belongs to another issuer is treated as absent.
//!
//! It deliberately fetches nothing (`keyring` does) and ignores certificates (`x5c`, `x5u`): an issuer is trusted because
//! the configuration names its address. Called by `keyring`; used by `jwt`.

use std::collections::{BTreeMap, btree_map::Entry};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, de::IgnoredAny};

/// Bits of the smallest RSA modulus, as RFC 7518 section 3.3 requires.
const RSA_BITS_MIN: usize = 2048;
/// Bits of the largest RSA modulus: larger ones make verification slow, and the library cannot verify them.
const RSA_BITS_MAX: usize = 8192;
/// The smallest RSA exponent, 2¹⁶ + 1 (FIPS 186-5).
const RSA_EXPONENT_MIN: u64 = 65_537;

/// The keys of one issuer, by their id.
#[derive(Debug, Default)]
pub(super) struct KeySet(BTreeMap<String, Result<Key, &'static str>>);

/// A public key for signatures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key {
    /// The key itself.
    pub(super) material: Material,
    /// The only algorithm it may be used with, if the issuer says so. Entra does not.
    pub(super) algorithm: Option<String>,
}

/// What a key is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Material {
    /// Modulus and exponent, most significant byte first.
    Rsa { n: Vec<u8>, e: Vec<u8> },
    /// An uncompressed point of P-256.
    P256(Vec<u8>),
    /// An uncompressed point of P-384.
    P384(Vec<u8>),
    /// A compressed point of edwards25519.
    Ed25519(Vec<u8>),
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<serde_json::Value>,
}

/// A key as it is published, without the members that are not used.
#[derive(Deserialize)]
struct Published {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    issuer: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    /// The private part, which nobody should see.
    d: Option<IgnoredAny>,
}

impl KeySet {
    /// The keys of a published document, for the issuer whose tokens name `issuer`.
    pub(super) fn read(document: &[u8], issuer: &str) -> Result<Self, serde_json::Error> {
        let document: Document = serde_json::from_slice(document)?;
        let mut keys = BTreeMap::new();
        // A key that cannot be read is of a kind that this version does not know; RFC 7517 section 5 says to ignore it.
        for key in document.keys.into_iter().filter_map(|key| serde_json::from_value::<Published>(key).ok()) {
            if !key.is_meant_for_signatures_of(issuer) {
                continue;
            }
            match keys.entry(key.kid.clone().unwrap_or_default()) {
                // Which of the two is meant cannot be known, so neither is used.
                Entry::Occupied(mut twice) => {
                    *twice.get_mut() = Err("the issuer publishes two keys with this id");
                }
                Entry::Vacant(free) => {
                    free.insert(key.check());
                }
            }
        }
        keys.remove("");
        Ok(Self(keys))
    }

    /// The key of this id, or why it cannot be used; none if the issuer does not publish it.
    pub(super) fn find(&self, id: &str) -> Option<Result<&Key, &'static str>> {
        self.0.get(id).map(|key| key.as_ref().map_err(|why| *why))
    }
}

impl Published {
    fn is_meant_for_signatures_of(&self, issuer: &str) -> bool {
        let verifies = self.key_ops.as_ref().is_none_or(|ops| ops.iter().any(|op| op == "verify"));
        let signs = self.purpose.as_ref().is_none_or(|purpose| purpose == "sig");
        let ours = self.issuer.as_ref().is_none_or(|stated| fits(stated, issuer));
        self.kty != "oct" && verifies && signs && ours
    }

    fn check(self) -> Result<Key, &'static str> {
        if self.d.is_some() {
            return Err("the issuer publishes its private part, so it proves nothing");
        }
        let material = match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => rsa(number(self.n.as_deref())?, number(self.e.as_deref())?)?,
            ("EC", Some("P-256")) => Material::P256(self.point(32)?),
            ("EC", Some("P-384")) => Material::P384(self.point(48)?),
            ("OKP", Some("Ed25519")) => Material::Ed25519(coordinate(self.x.as_deref(), 32)?),
            _ => return Err("its type or curve is not supported"),
        };
        Ok(Key { material, algorithm: self.alg })
    }

    /// An uncompressed point: a marker and both coordinates. Each use checks that it lies on the curve.
    fn point(&self, length: usize) -> Result<Vec<u8>, &'static str> {
        let (x, y) = (coordinate(self.x.as_deref(), length)?, coordinate(self.y.as_deref(), length)?);
        Ok([vec![4], x, y].concat())
    }
}

/// Whether the issuer that a key names is `issuer`. Entra gives the name or, in documents for many tenants, a template.
fn fits(stated: &str, issuer: &str) -> bool {
    let template = stated.split_once("{tenantid}").or_else(|| stated.split_once("{tenantId}"));
    let Some((before, after)) = template else { return stated == issuer };
    let tenant = issuer.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
    tenant.is_some_and(|tenant| !tenant.is_empty() && !tenant.contains('/'))
}

fn bytes(text: Option<&str>) -> Result<Vec<u8>, &'static str> {
    text.and_then(|text| URL_SAFE_NO_PAD.decode(text).ok()).ok_or("a member is missing or not base64url")
}

/// A whole number, most significant byte first, without leading zeros.
fn number(text: Option<&str>) -> Result<Vec<u8>, &'static str> {
    Ok(bytes(text)?.into_iter().skip_while(|byte| *byte == 0).collect())
}

fn coordinate(text: Option<&str>, length: usize) -> Result<Vec<u8>, &'static str> {
    let bytes = bytes(text)?;
    if bytes.len() == length { Ok(bytes) } else { Err("a coordinate has the wrong length") }
}

fn rsa(n: Vec<u8>, e: Vec<u8>) -> Result<Material, &'static str> {
    let bits = n.first().map_or(0, |first| n.len().saturating_mul(8).saturating_sub(leading_zeros(*first)));
    if bits < RSA_BITS_MIN {
        return Err("its RSA modulus is smaller than 2048 bits");
    }
    if bits > RSA_BITS_MAX {
        return Err("its RSA modulus is larger than 8192 bits");
    }
    let exponent = e.iter().try_fold(0_u64, |value, byte| value.checked_mul(256)?.checked_add(u64::from(*byte)));
    if exponent.is_none_or(|exponent| exponent < RSA_EXPONENT_MIN || exponent.is_multiple_of(2)) {
        return Err("its RSA exponent is not an odd number from 65537 up");
    }
    if is_roca(&n) {
        return Err("its RSA modulus can be factored (ROCA, CVE-2017-15361)");
    }
    Ok(Material::Rsa { n, e })
}

fn leading_zeros(byte: u8) -> usize {
    usize::try_from(byte.leading_zeros()).unwrap_or(8)
}

/// Whether a modulus was made by the faulty generator of CVE-2017-15361: its residues modulo every small prime are then
/// powers of 65537. The primes are those of the discoverers' own detector; the chance of a false alarm is 2⁻²⁷.
fn is_roca(n: &[u8]) -> bool {
    const PRIMES: [u32; 17] = [11, 13, 17, 19, 37, 53, 61, 71, 73, 79, 97, 103, 107, 109, 127, 151, 157];
    PRIMES.iter().all(|prime| {
        let residue = n.iter().fold(0_u32, |value, byte| {
            value.saturating_mul(256).saturating_add(u32::from(*byte)).checked_rem(*prime).unwrap_or(0)
        });
        let power = |power: &u32| power.saturating_mul(65_537).checked_rem(*prime);
        std::iter::successors(Some(1), power).take(157).any(|power| power == residue)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const ISSUER: &str = "https://login.example/11111111-1111-1111-1111-111111111111/v2.0";

    fn sound() -> Value {
        json!({ "kty": "EC", "crv": "P-256", "kid": "a", "x": URL_SAFE_NO_PAD.encode([1; 32]), "y": URL_SAFE_NO_PAD.encode([2; 32]) })
    }

    fn modulus(length: usize) -> String {
        URL_SAFE_NO_PAD.encode(vec![0xc5; length])
    }

    fn with(mut key: Value, members: &Value) -> Value {
        key.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        key
    }

    fn set(keys: &[Value]) -> KeySet {
        KeySet::read(json!({ "keys": keys }).to_string().as_bytes(), ISSUER).unwrap()
    }

    #[test]
    fn what_is_not_meant_for_signatures_of_the_issuer_is_not_there() {
        for members in [
            json!({ "use": "enc" }),
            json!({ "key_ops": ["encrypt"] }),
            json!({ "kty": "oct", "k": "c2VjcmV0" }),
            json!({ "issuer": "https://login.example/22222222-2222-2222-2222-222222222222/v2.0" }),
            json!({ "issuer": "https://sts.example/{tenantid}/" }),
            json!({ "kid": null }),
        ] {
            assert!(set(&[with(sound(), &members)]).find("a").is_none(), "{members}");
        }
    }

    #[test]
    fn a_key_that_names_the_issuer_or_a_template_of_it_is_there() {
        for issuer in [ISSUER, "https://login.example/{tenantid}/v2.0", "https://login.example/{tenantId}/v2.0"] {
            assert!(set(&[with(sound(), &json!({ "issuer": issuer, "use": "sig" }))]).find("a").unwrap().is_ok());
        }
        assert!(!fits("https://login.example/{tenantid}/v2.0", "https://login.example/a/b/v2.0"));
        assert!(!fits("https://login.example/{tenantid}/v2.0", "https://login.example//v2.0"));
    }

    #[test]
    fn of_two_keys_with_one_id_neither_is_used() {
        let set = set(&[sound(), with(sound(), &json!({ "alg": "ES256" })), sound()]);
        assert!(set.find("a").unwrap().is_err());
    }

    #[test]
    fn an_encryption_key_of_the_same_id_does_not_spoil_the_signing_key() {
        assert!(set(&[with(sound(), &json!({ "use": "enc" })), sound()]).find("a").unwrap().is_ok());
    }

    #[test]
    fn a_weak_or_broken_key_is_known_with_its_reason() {
        let weak = |n: String, e: &str| json!({ "kty": "RSA", "kid": "a", "n": n, "e": e });
        for (key, reason) in [
            (weak(modulus(128), "AQAB"), "2048"),
            (weak(modulus(2048), "AQAB"), "8192"),
            (weak(modulus(256), "AQ"), "exponent"),
            (weak(modulus(256), "AQAA"), "exponent"),
            (weak("=".to_owned(), "AQAB"), "base64url"),
            (with(sound(), &json!({ "d": "AQAB" })), "private"),
            (with(sound(), &json!({ "crv": "secp256k1" })), "curve"),
            (with(sound(), &json!({ "x": "AQAB" })), "length"),
            (with(sound(), &json!({ "y": null })), "missing"),
        ] {
            let why = set(std::slice::from_ref(&key)).find("a").unwrap().unwrap_err();
            assert!(why.contains(reason), "{key}: {why}");
        }
    }

    #[test]
    fn a_modulus_of_the_roca_generator_is_told() {
        // One is a power of 65537 modulo anything; two is not modulo eleven.
        assert!(is_roca(&[1]) && !is_roca(&[2]));
    }

    #[test]
    fn leading_zeros_do_not_make_a_modulus_stronger() {
        let n = [vec![0; 200], vec![0xc5; 128]].concat();
        assert!(rsa(number(Some(&URL_SAFE_NO_PAD.encode(n))).unwrap(), vec![1, 0, 1]).is_err());
    }

    #[test]
    fn an_unreadable_key_does_not_hide_the_others() {
        assert!(set(&[json!({ "kty": 7 }), json!("?"), sound()]).find("a").unwrap().is_ok());
        assert!(KeySet::read(b"<html>", ISSUER).is_err() && KeySet::read(b"{}", ISSUER).is_err());
    }
}
