//! Wycheproof's test vectors for signatures and key sets, which were made to break verifiers.
//!
//! They are not access tokens, so only what comes before the claims is tested: the form, the header, the key, the
//! signature.

use std::{collections::BTreeSet, time::Duration};

use serde::Deserialize;
use serde_json::{Value, json};

use super::{jwt, keys::KeySet};
use crate::config::{Algorithm, Issuer, KeySource, TokenType};

#[derive(Deserialize)]
struct Vectors {
    signatures: Vec<Group>,
    keys: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    keys: Vec<Value>,
    /// Number, whether it is to be accepted, and the token.
    tests: Vec<(u32, bool, String)>,
}

fn issuer() -> Issuer {
    use Algorithm::{EdDsa, Es256, Es384, Ps256, Ps384, Ps512, Rs256, Rs384, Rs512};
    Issuer {
        name: "vectors".to_owned(),
        issuer: "https://vectors.test".to_owned(),
        audiences: BTreeSet::new(),
        algorithms: BTreeSet::from([Rs256, Rs384, Rs512, Ps256, Ps384, Ps512, Es256, Es384, EdDsa]),
        keys: KeySource::Set("https://vectors.test/keys".parse().unwrap()),
        token_types: BTreeSet::from([TokenType::Jwt, TokenType::AccessToken]),
        jwks_ttl: Duration::ZERO,
        jwks_refresh_min: Duration::ZERO,
        leeway: Duration::ZERO,
    }
}

/// How many invalid vectors were refused, how many valid ones were accepted, and which valid ones were refused.
fn judged(groups: &[Group]) -> (usize, usize, BTreeSet<u32>) {
    let (mut refused, mut accepted, mut strict) = (0_usize, 0_usize, BTreeSet::new());
    for Group { keys, tests } in groups {
        let document = json!({ "keys": keys }).to_string();
        let set = KeySet::read(document.as_bytes(), "https://vectors.test").unwrap();
        for (number, valid, token) in tests {
            match (jwt::is_signed(token, &issuer(), &set), *valid) {
                (true, true) => accepted = accepted.saturating_add(1),
                (false, false) => refused = refused.saturating_add(1),
                (false, true) => drop(strict.insert(*number)),
                (true, false) => panic!("the invalid vector {number} is accepted"),
            }
        }
    }
    (refused, accepted, strict)
}

/// Valid vectors that are refused all the same: shared keys, the empty payload (no access token has one), a key that states
/// another algorithm, and an algorithm that this version does not know (ES512, which is also misspelt).
const STRICT: [(&str, &[u32]); 4] = [
    ("shared keys", &[1, 348, 352, 357, 358, 359, 372, 373, 376, 377]),
    ("an empty payload", &[259, 264, 268, 272, 320, 325]),
    ("a key for another algorithm", &[346, 350]),
    ("an unknown algorithm", &[347, 351]),
];

#[test]
fn wycheproofs_forgeries_are_refused() {
    let text = include_str!("../../tests/vectors/wycheproof.json");
    let Vectors { signatures, keys } = serde_json::from_str(text).unwrap();
    let (refused, accepted, strict) = judged(&signatures);
    assert_eq!((refused, accepted), (355, 26));
    assert_eq!(strict, STRICT.iter().flat_map(|(_, numbers)| *numbers).copied().collect());
    // All sets with good keys but one have shared keys.
    let (refused, accepted, strict) = judged(&keys);
    assert_eq!((refused, accepted, strict), (21, 1, BTreeSet::from([2, 13, 14, 15])));
}
