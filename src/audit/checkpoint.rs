//! Checkpoints: a key vouches for the trail as it was.
//!
//! A checkpoint names the ends of chains and is signed (Ed25519) with a key that is in no store: those who can write the
//! store can cut off the trail or rewrite it with matching hashes, but cannot sign the result. A checkpoint that is kept
//! elsewhere also shows whether the records that it names are still there.
//!
//! Guarantees: each checkpoint has exactly one text that is signed, and nothing else that the key might sign has that form.
//! The private key appears in no debug output and no message.
//!
//! It deliberately reads no file and does not decide when to sign. [`super::Verifier`] checks what is made here.

use std::fmt;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Event, chain::End, chain::Head};
use crate::{canonical, domain::Digest};

/// What precedes the 32 bytes of an Ed25519 public key in DER (RFC 8410).
const PUBLIC_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// How many digits of its digest identify a key.
const KEY_ID_DIGITS: usize = 16;
/// Base64 characters per line in PEM.
const PEM_LINE: usize = 64;

/// Why a text is not a usable key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The text has no such section.
    #[error("there is no line -----BEGIN {0}-----, or no end to what follows it")]
    NoKey(&'static str),
    /// The key is of another kind, or damaged.
    #[error("it is not an Ed25519 key: make one by `openssl genpkey -algorithm ed25519`")]
    NotEd25519,
}

/// Signs checkpoints.
pub struct Signer {
    pair: Ed25519KeyPair,
    public: PublicKey,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("public", &self.public).finish_non_exhaustive()
    }
}

impl Signer {
    /// The key in a PEM text: PKCS#8, not encrypted.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        let der = section(text, "PRIVATE KEY")?;
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).map_err(|_why| KeyError::NotEd25519)?;
        let public = PublicKey::new(pair.public_key().as_ref()).ok_or(KeyError::NotEd25519)?;
        Ok(Self { pair, public })
    }

    /// The public half of the key.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// A checkpoint of these ends; it must be recorded with the same time.
    pub fn checkpoint(&self, ends: &[Head], at: Timestamp) -> Event {
        let mut ends: Vec<_> = ends.iter().map(End::from).collect();
        ends.sort();
        let key_id = self.public.id.clone();
        let statement = statement(&json!(ends), &key_id, &at.to_string());
        let signature = STANDARD.encode(self.pair.sign(statement.as_bytes()));
        Event::SignedCheckpoint { ends, key_id, signature }
    }
}

/// A key that verifies checkpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    point: [u8; 32],
    id: String,
}

impl PublicKey {
    /// The key in a PEM text.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        let der = section(text, "PUBLIC KEY")?;
        der.strip_prefix(&PUBLIC_PREFIX).and_then(Self::new).ok_or(KeyError::NotEd25519)
    }

    fn new(point: &[u8]) -> Option<Self> {
        let id = Digest::of(point).as_str().chars().take(KEY_ID_DIGITS).collect();
        Some(Self { point: point.try_into().ok()?, id })
    }

    /// The id by which checkpoints name it: the beginning of its SHA-256.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether this key signed a checkpoint. `record` has all of its fields.
    pub(super) fn vouches(&self, record: &Value) -> bool {
        let text = |key: &str| record.get(key).and_then(Value::as_str).unwrap_or_default();
        let signature = STANDARD.decode(text("signature")).unwrap_or_default();
        let statement = statement(record.get("ends").unwrap_or(&Value::Null), &self.id, text("at"));
        UnparsedPublicKey::new(&ED25519, self.point).verify(statement.as_bytes(), &signature).is_ok()
    }
}

/// In PEM.
impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = STANDARD.encode([PUBLIC_PREFIX.as_slice(), &self.point].concat());
        writeln!(f, "-----BEGIN PUBLIC KEY-----")?;
        let mut rest = text.as_str();
        while let Some((line, after)) = rest.split_at_checked(PEM_LINE) {
            writeln!(f, "{line}")?;
            rest = after;
        }
        if !rest.is_empty() {
            writeln!(f, "{rest}")?;
        }
        write!(f, "-----END PUBLIC KEY-----")
    }
}

/// The text that is signed.
fn statement(ends: &Value, key_id: &str, at: &str) -> String {
    canonical::text(&json!({"postern": "audit checkpoint", "at": at, "ends": ends, "key_id": key_id}))
}

/// The bytes of a section in a PEM text.
fn section(text: &str, label: &'static str) -> Result<Vec<u8>, KeyError> {
    let (begin, end) = (format!("-----BEGIN {label}-----"), format!("-----END {label}-----"));
    let inside = text.split_once(&begin).and_then(|(_, rest)| rest.split_once(&end)).map(|(inside, _)| inside);
    let letters: String = inside.ok_or(KeyError::NoKey(label))?.split_whitespace().collect();
    STANDARD.decode(letters).map_err(|_damaged| KeyError::NotEd25519)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The key of RFC 8410, appendix 10.3, and its public half.
    pub(in crate::audit) const PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";
    const PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----";

    #[test]
    fn a_key_is_read_as_openssl_writes_it_and_its_public_half_is_written_so() {
        let signer = Signer::from_pem(PRIVATE).unwrap();
        assert_eq!(signer.public().to_string(), PUBLIC);
        assert_eq!(PublicKey::from_pem(PUBLIC).unwrap(), *signer.public());
        assert_eq!(signer.public().id().len(), KEY_ID_DIGITS);
        assert!(!format!("{signer:?}").contains("1O5y"), "{signer:?}");
    }

    #[test]
    fn what_is_no_ed25519_key_is_refused() {
        for (text, why) in [
            ("", KeyError::NoKey("PRIVATE KEY")),
            (PUBLIC, KeyError::NoKey("PRIVATE KEY")),
            ("-----BEGIN PRIVATE KEY-----\nMC4=\n", KeyError::NoKey("PRIVATE KEY")),
            ("-----BEGIN PRIVATE KEY-----\nMC4=\n-----END PRIVATE KEY-----", KeyError::NotEd25519),
            ("-----BEGIN PRIVATE KEY-----\n?\n-----END PRIVATE KEY-----", KeyError::NotEd25519),
        ] {
            assert_eq!(Signer::from_pem(text).unwrap_err(), why, "{text}");
        }
        assert_eq!(PublicKey::from_pem(PRIVATE).unwrap_err(), KeyError::NoKey("PUBLIC KEY"));
    }
}
