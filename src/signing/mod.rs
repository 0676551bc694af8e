//! What is signed and how: one declarative description of webhook signatures, by which they are made and verified. Pure.
//!
//! A [`Scheme`] says which header holds the signature, how it is encoded there, and over which bytes it is made: a template
//! of `{id}`, `{timestamp}`, `{body}` and fixed text. [`presets`] holds those of vendors whose scheme is documented.
//!
//! Guarantees: the raw body is verified, never a parsed one; signatures are compared in constant time and in full length; a
//! key's `Debug` shows nothing of it.
//!
//! It deliberately keeps no state, so it does not detect replays. It reads no file and no clock.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod key;
pub mod presets;
#[cfg(test)]
mod tests;

use std::time::Duration;

use aws_lc_rs::{constant_time, digest};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use jiff::Timestamp;

pub use self::key::{Key, KeyFault, KeyForm};

/// How many signatures in one header are checked; a sender that rotates its key sends two.
const SIGNATURES_MAX: usize = 8;
/// Whole numbers from here on are milliseconds: as seconds they would be after the year 5000.
const MILLISECONDS_FROM: i64 = 100_000_000_000;

/// The hash function of an HMAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hash {
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

/// How the bytes of a signature are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Hexadecimal, in either case.
    Hex,
    /// Base64 with padding.
    Base64,
}

/// A part of what is signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// The message's id, as in its header.
    Id,
    /// The time of sending, as in its header.
    Timestamp,
    /// The raw body.
    Body,
    /// Fixed text.
    Text(String),
}

/// What is signed and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scheme {
    /// The header that holds the signature.
    pub signature_header: String,
    /// What precedes the signature there.
    pub prefix: String,
    /// How the signature is encoded.
    pub encoding: Encoding,
    /// The hash function.
    pub hash: Hash,
    /// The signed bytes, part by part.
    pub signed: Vec<Piece>,
    /// The header that holds the message's id, if it is signed.
    pub id_header: Option<String>,
    /// The header that holds the time of sending, if it is signed.
    pub timestamp_header: Option<String>,
    /// How secrets are written.
    pub keys: KeyForm,
}

/// The parts of a message that can be signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// Its id; empty where the scheme has none.
    pub id: &'a str,
    /// Its time of sending; empty where the scheme has none.
    pub timestamp: &'a str,
    /// Its body.
    pub body: &'a [u8],
}

impl Scheme {
    /// Whether the value of the signature header holds a signature made with one of these keys.
    pub fn verify(&self, keys: &[Key], message: Message<'_>, header: &str) -> bool {
        let content = self.content(message);
        keys.iter().any(|key| self.signatures(key, header).any(|signature| key.verifies(&content, &signature)))
    }

    /// The value of the signature header for a message; none if the key can only verify.
    pub fn sign(&self, key: &Key, message: Message<'_>) -> Option<String> {
        let signature = key.sign(&self.content(message))?;
        let mut written = format!("{}{}", self.keys.version(key), self.prefix);
        match self.encoding {
            Encoding::Hex => HEXLOWER.encode_append(&signature, &mut written),
            Encoding::Base64 => STANDARD.encode_string(signature, &mut written),
        }
        Some(written)
    }

    /// The bytes that are signed.
    pub fn content(&self, message: Message<'_>) -> Vec<u8> {
        let mut content = Vec::with_capacity(message.body.len().saturating_add(128));
        for piece in &self.signed {
            content.extend_from_slice(match piece {
                Piece::Id => message.id.as_bytes(),
                Piece::Timestamp => message.timestamp.as_bytes(),
                Piece::Body => message.body,
                Piece::Text(text) => text.as_bytes(),
            });
        }
        content
    }

    /// The signatures in a header that are of the key's version.
    fn signatures(&self, key: &Key, header: &str) -> impl Iterator<Item = Vec<u8>> {
        let version = self.keys.version(key);
        let listed = header.split(self.keys.separator()).take(SIGNATURES_MAX);
        listed.filter_map(move |one| self.decoded(one.trim().strip_prefix(version)?))
    }

    fn decoded(&self, written: &str) -> Option<Vec<u8>> {
        let written = written.strip_prefix(&self.prefix)?;
        match self.encoding {
            Encoding::Hex => HEXLOWER_PERMISSIVE.decode(written.as_bytes()).ok(),
            Encoding::Base64 => STANDARD.decode(written).ok(),
        }
    }
}

/// Parses a template like `{timestamp}.{body}`; the error says what is wrong with it.
pub fn pieces(template: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut rest = template;
    while let Some((text, tail)) = rest.split_once('{') {
        let Some((name, tail)) = tail.split_once('}') else {
            return Err("a { has no }".to_owned());
        };
        if !text.is_empty() {
            pieces.push(Piece::Text(text.to_owned()));
        }
        pieces.push(match name {
            "id" => Piece::Id,
            "timestamp" => Piece::Timestamp,
            "body" => Piece::Body,
            other => return Err(format!("{{{other}}} is none of {{id}}, {{timestamp}}, {{body}}")),
        });
        rest = tail;
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest.to_owned()));
    }
    for piece in [Piece::Id, Piece::Timestamp, Piece::Body] {
        let times = pieces.iter().filter(|other| **other == piece).count();
        if times > 1 || (times == 0 && piece == Piece::Body) {
            return Err("it has {body} once, and {id} and {timestamp} at most once".to_owned());
        }
    }
    Ok(pieces)
}

/// Parses a timestamp header: seconds or milliseconds since 1970, or a date and time in RFC 3339.
pub fn moment(text: &str) -> Option<Timestamp> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        let number: i64 = text.parse().ok()?;
        let read = if number < MILLISECONDS_FROM { Timestamp::from_second } else { Timestamp::from_millisecond };
        return read(number).ok();
    }
    text.parse().ok()
}

/// Whether a moment is within the tolerance of now, before or after it.
pub fn is_fresh(moment: Timestamp, now: Timestamp, tolerance: Duration) -> bool {
    moment.duration_since(now).unsigned_abs() <= tolerance
}

/// Whether two secrets are equal, in a time that reveals nothing about them or their lengths.
pub fn constant_time_eq(one: &[u8], other: &[u8]) -> bool {
    let digest = |secret: &[u8]| digest::digest(&digest::SHA256, secret);
    constant_time::verify_slices_are_equal(digest(one).as_ref(), digest(other).as_ref()).is_ok()
}
