//! Signing keys, and how secrets are written.
//!
//! Guarantees: a secret that is too short to be safe, damaged, or of another kind is rejected when it is read, with a
//! sentence that contains no part of it.
//!
//! It deliberately reads no file; its users read secrets and make a key for each use.

use std::fmt;

use aws_lc_rs::{
    hmac,
    signature::{ED25519, Ed25519KeyPair, UnparsedPublicKey},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::Hash;

/// A shorter shared secret could be guessed.
const PLAIN_MIN: usize = 16;
/// The lengths that Standard Webhooks allows for shared secrets, in bytes.
const STANDARD_LENGTHS: std::ops::RangeInclusive<usize> = 24..=64;

/// How secrets are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyForm {
    /// The text itself is the secret; a header holds one signature.
    Plain,
    /// Standard Webhooks: `whsec_`, `whsk_` or `whpk_` and base64; a header holds a list of signatures, each prefixed by its
    /// version.
    Standard,
}

impl KeyForm {
    /// What precedes a signature made with this key.
    pub(super) fn version(self, key: &Key) -> &'static str {
        match (self, &key.0) {
            (Self::Plain, _) => "",
            (Self::Standard, Kind::Shared(_)) => "v1,",
            (Self::Standard, Kind::Verifying(_) | Kind::Signing(_)) => "v1a,",
        }
    }

    /// What separates the signatures in one header.
    pub(super) fn separator(self) -> fn(char) -> bool {
        match self {
            Self::Plain => |_| false,
            Self::Standard => |letter| letter == ' ',
        }
    }
}

/// Why a secret is not a usable key. The messages address the author of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    /// Too short.
    #[error("it is too short: a shared secret has at least 16 characters")]
    Short,
    /// Not in the form of Standard Webhooks, or damaged.
    #[error("it is no key of Standard Webhooks: whsec_ (or whpk_ for Ed25519) and base64, as the sender shows it")]
    Form,
    /// Not of the length that its kind requires.
    #[error("its length is wrong: behind whsec_ stand 24 to 64 bytes in base64, behind whpk_ 32, behind whsk_ 64")]
    Length,
}

/// A key, for one use.
pub struct Key(Kind);

enum Kind {
    Shared(Box<hmac::Key>),
    Verifying(Vec<u8>),
    Signing(Ed25519KeyPair),
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Kind::Shared(_) => "Key(shared)",
            Kind::Verifying(_) => "Key(verifying)",
            Kind::Signing(_) => "Key(signing)",
        })
    }
}

impl Key {
    /// Makes a key from a secret.
    pub fn read(secret: &str, form: KeyForm, hash: Hash) -> Result<Self, KeyFault> {
        match form {
            KeyForm::Plain if secret.len() < PLAIN_MIN => Err(KeyFault::Short),
            KeyForm::Plain => Ok(Self::shared(secret.as_bytes(), hash)),
            KeyForm::Standard => standard(secret, hash),
        }
    }

    fn shared(secret: &[u8], hash: Hash) -> Self {
        let algorithm = match hash {
            Hash::Sha256 => hmac::HMAC_SHA256,
            Hash::Sha384 => hmac::HMAC_SHA384,
            Hash::Sha512 => hmac::HMAC_SHA512,
        };
        Self(Kind::Shared(Box::new(hmac::Key::new(algorithm, secret))))
    }

    /// Whether it is the private half of a pair, which nobody but the sender should hold.
    pub fn is_private(&self) -> bool {
        matches!(self.0, Kind::Signing(_))
    }

    /// Whether the signature is this key's over the content.
    pub(super) fn verifies(&self, content: &[u8], signature: &[u8]) -> bool {
        match &self.0 {
            Kind::Shared(key) => hmac::verify(key, content, signature).is_ok(),
            Kind::Verifying(key) => UnparsedPublicKey::new(&ED25519, key).verify(content, signature).is_ok(),
            // Only the public half verifies.
            Kind::Signing(_) => false,
        }
    }

    /// The signature over the content; none if the key can only verify.
    pub(super) fn sign(&self, content: &[u8]) -> Option<Vec<u8>> {
        match &self.0 {
            Kind::Shared(key) => Some(hmac::sign(key, content).as_ref().to_vec()),
            Kind::Verifying(_) => None,
            Kind::Signing(pair) => Some(pair.sign(content).as_ref().to_vec()),
        }
    }
}

fn standard(secret: &str, hash: Hash) -> Result<Key, KeyFault> {
    let (kind, written) = secret.split_once('_').ok_or(KeyFault::Form)?;
    let bytes = STANDARD.decode(written).map_err(|_not_base64| KeyFault::Form)?;
    match kind {
        "whsec" if STANDARD_LENGTHS.contains(&bytes.len()) => Ok(Key::shared(&bytes, hash)),
        "whpk" if bytes.len() == 32 => Ok(Key(Kind::Verifying(bytes))),
        // The seed, followed by the public key.
        "whsk" if bytes.len() == 64 => {
            let (seed, public) = bytes.split_at_checked(32).ok_or(KeyFault::Length)?;
            let pair = Ed25519KeyPair::from_seed_and_public_key(seed, public).map_err(|_rejected| KeyFault::Form)?;
            Ok(Key(Kind::Signing(pair)))
        }
        "whsec" | "whpk" | "whsk" => Err(KeyFault::Length),
        _ => Err(KeyFault::Form),
    }
}
