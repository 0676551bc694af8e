//! Signing keys, generated at startup: knowing this repository gives nobody a key.
//!
//! A [`Key`] signs JSON web tokens with RS256 and verifies its own signatures. It signs whatever header and claims it is
//! given, so that tests can get tokens that no honest issuer would make.
//!
//! It deliberately does not check claims: `bearer.rs` does for Graph's tokens, the gateway for its callers'. Called by
//! `login.rs`, `bearer.rs` and `issuer.rs`.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::{Map, Value, json};
use tokio::sync::OnceCell;
use tokio::task;

use super::Error;
use crate::clock::Clock;

/// An RSA key pair with its key id.
pub(crate) struct Key {
    pair: KeyPair,
    public: DecodingKey,
    jwk: Value,
    kid: String,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("kid", &self.kid).finish_non_exhaustive()
    }
}

impl Key {
    /// Generates a key.
    pub(crate) async fn generate(clock: Clock) -> Result<Arc<Self>, Error> {
        let kid = clock.new_id().simple().to_string();
        // This computes for a quarter of a second: too long for a thread that serves calls.
        let made = task::spawn_blocking(move || Self::compute(kid)).await;
        made.unwrap_or(Err(Error::Key)).map(Arc::new)
    }

    fn compute(kid: String) -> Result<Self, Error> {
        let pair = KeyPair::generate(KeySize::Rsa2048).map_err(|_unspecified| Error::Key)?;
        let public = DecodingKey::from_rsa_der(pair.public_key().as_ref());
        let jwk = Jwk::from_decoding_key(&public, None).map_err(|_unreadable| Error::Key)?;
        Ok(Self { pair, public, jwk: json!(jwk), kid })
    }

    /// The first keys of every sandbox in this process: for Graph's tokens, and for callers'.
    ///
    /// Generated once, because tests start many sandboxes. Tokens of one are still invalid in another: their URLs differ.
    pub(crate) async fn first(clock: Clock) -> Result<[Arc<Self>; 2], Error> {
        static FIRST: OnceCell<[Arc<Key>; 2]> = OnceCell::const_new();
        let make = async || tokio::try_join!(Self::generate(clock), Self::generate(clock)).map(<[Arc<Self>; 2]>::from);
        FIRST.get_or_try_init(make).await.cloned()
    }

    /// The id under which the key is published.
    pub(crate) fn kid(&self) -> &str {
        &self.kid
    }

    /// A token with this header and these claims.
    pub(crate) fn sign(&self, header: &Map<String, Value>, claims: &Map<String, Value>) -> Result<String, Error> {
        let part = |fields: &Map<String, Value>| URL_SAFE_NO_PAD.encode(json!(fields).to_string());
        let signed = format!("{}.{}", part(header), part(claims));
        let mut signature = vec![0; self.pair.public_modulus_len()];
        self.pair
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature)
            .map_err(|_unspecified| Error::Key)?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// The claims of a token signed with this key; none for any other token. Expiry and audience are not checked.
    pub(crate) fn claims(&self, token: &str) -> Option<Map<String, Value>> {
        let mut signature_only = Validation::new(Algorithm::RS256);
        signature_only.validate_exp = false;
        signature_only.validate_aud = false;
        signature_only.required_spec_claims.clear();
        jsonwebtoken::decode(token, &self.public, &signature_only).ok().map(|token| token.claims)
    }

    /// The public half as Entra publishes it: without `alg`, but with the issuer that uses it.
    pub(crate) fn published(&self, issuer: &str) -> Value {
        let mut jwk = self.jwk.clone();
        if let Value::Object(fields) = &mut jwk {
            fields.insert("use".to_owned(), json!("sig"));
            fields.insert("kid".to_owned(), json!(self.kid));
            fields.insert("issuer".to_owned(), json!(issuer));
        }
        jwk
    }
}
