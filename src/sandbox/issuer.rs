//! The issuer of callers' tokens: what Entra is to a gateway's callers.
//!
//! Tokens look like Entra's v2 tokens for apps and are signed with RS256. Keys can be rotated while it runs; the key set
//! shows those in force, and counts how often it was fetched.
//!
//! It deliberately authenticates nobody: anyone who can reach the sandbox can get a token of any caller, with any claim
//! changed. Called by `world.rs` (discovery, key set) and `control.rs` (tokens, rotation).

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Error;
use super::keys::Key;
use super::login::object;
use super::seed::Seed;
use super::wire::{Request, Response};

/// How long a caller's token is valid unless its claims say otherwise.
const LIFETIME_SECONDS: i64 = 3600;

/// The issuer's keys, and how often they were fetched.
#[derive(Debug)]
pub(crate) struct Issuer {
    pub(crate) name: String,
    pub(crate) fetches: u64,
    current: Arc<Key>,
    older: Vec<Arc<Key>>,
}

/// An order for a token: whose, and which claims and header fields to change.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Order {
    caller: String,
    #[serde(default)]
    claims: Map<String, Value>,
    #[serde(default)]
    header: Map<String, Value>,
}

/// An order for a new key.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Rotation {
    /// Whether the old keys remain published.
    keep_old: bool,
}

impl Issuer {
    /// The issuer of the sandbox at this URL.
    pub(crate) fn new(url: &str, key: Arc<Key>) -> Self {
        Self { name: format!("{url}/issuer"), fetches: 0, current: key, older: Vec::new() }
    }

    /// The response to a call below `/issuer`.
    pub(crate) fn answer(&mut self, call: &Request) -> Response {
        match (call.method.as_str(), call.parts().get(1..).unwrap_or_default()) {
            ("GET", [".well-known", "openid-configuration"]) => Response::json(200, self.discovery()),
            ("GET", ["jwks"]) => {
                self.fetches = self.fetches.saturating_add(1);
                let keys = std::iter::once(&self.current).chain(&self.older);
                Response::json(200, json!({"keys": keys.map(|key| key.published(&self.name)).collect::<Vec<_>>()}))
            }
            (method, _) => Response::json(404, json!({"error": format!("nothing answers {method} {}", call.path)})),
        }
    }

    /// Whether a published key signed this token.
    pub(crate) fn signed(&self, token: &str) -> bool {
        std::iter::once(&self.current).chain(&self.older).any(|key| key.claims(token).is_some())
    }

    fn discovery(&self) -> Value {
        json!({
            "issuer": self.name,
            "jwks_uri": format!("{}/jwks", self.name),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["pairwise"],
            "id_token_signing_alg_values_supported": ["RS256"],
        })
    }

    /// Starts using a new key, and returns how many are published.
    pub(crate) fn rotate(&mut self, key: Arc<Key>, rotation: &Rotation) -> usize {
        let old = std::mem::replace(&mut self.current, key);
        if rotation.keep_old {
            self.older.push(old);
        } else {
            self.older.clear();
        }
        self.older.len().saturating_add(1)
    }

    /// The ordered token.
    pub(crate) fn token(&self, order: &Order, call: &Request, seed: &Seed) -> Result<Response, Error> {
        let Some(caller) = seed.callers.iter().find(|caller| caller.name == order.caller) else {
            let known: Vec<&str> = seed.callers.iter().map(|caller| caller.name.as_str()).collect();
            let error = format!("there is no caller `{}`; known: {}", order.caller, known.join(", "));
            return Ok(Response::json(404, json!({"error": error, "callers": known})));
        };
        let now = call.at.as_second();
        let mut claims = object(json!({
            "aud": "api://postern", "iss": self.name,
            "iat": now, "nbf": now, "exp": now.saturating_add(LIFETIME_SECONDS),
            "azp": caller.azp, "azpacr": "1", "oid": caller.oid, "sub": caller.oid,
            "roles": caller.roles, "tid": seed.tenant_id, "uti": call.id, "ver": "2.0",
        }));
        overlay(&mut claims, &order.claims);
        let mut header = object(json!({"typ": "JWT", "alg": "RS256", "kid": self.current.kid()}));
        overlay(&mut header, &order.header);
        let until = claims.get("exp").and_then(Value::as_i64);
        let lifetime = until.map_or(LIFETIME_SECONDS, |until| until.saturating_sub(now));
        let token = self.current.sign(&header, &claims)?;
        Ok(Response::json(200, json!({"access_token": token, "expires_in": lifetime})))
    }
}

/// Sets the given fields and removes those given as null.
fn overlay(fields: &mut Map<String, Value>, changes: &Map<String, Value>) {
    for (name, value) in changes {
        if value.is_null() {
            fields.remove(name);
        } else {
            fields.insert(name.clone(), value.clone());
        }
    }
}
