//! Who is calling: from the `Authorization` header to a [`Caller`].
//!
//! Guarantees: a caller is somebody for whom a configured issuer vouched with a token meant for this gateway, and whom
//! `[[callers]]` names; a valid token alone identifies nobody, since Entra gives one to any application of a tenant. A
//! refusal says what its reader can do, and never repeats the token.
//!
//! It deliberately decides no permission (`policy` does), and reads tokens from nowhere but that header. Called by
//! `api::extract` for every request under `/v1`.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod jwt;
mod keyring;
mod keys;
#[cfg(test)]
mod tests;
mod token_cache;
#[cfg(test)]
mod vectors;

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock,
    config::{CallerRule, Issuer},
    domain::{Caller, Digest},
    outbound::Outbound,
};

use self::{
    jwt::{UnverifiedToken, VerifiedToken},
    keyring::Keyring,
    token_cache::{CachedToken, TokenCache},
};

/// The longest claim in a sentence, in characters: ids are shorter.
const CLAIM_SHOWN: usize = 128;

/// Authenticates callers.
#[derive(Debug)]
pub struct Authenticator {
    issuers: Vec<Trusted>,
    callers: Vec<CallerRule>,
    known: TokenCache,
    clock: Clock,
}

/// An issuer and its keys.
#[derive(Debug)]
struct Trusted {
    issuer: Arc<Issuer>,
    keys: Keyring,
}

/// Why nobody is authenticated, by what the reader can do about it. The sentences are for developers of callers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// There is no token: get one.
    #[error("the request has no bearer token")]
    Missing,
    /// What was sent is not a token: correct the program that sends it.
    #[error("{0}")]
    Malformed(String),
    /// The token is not valid here: get another.
    #[error("{0}")]
    Invalid(String),
    /// The token is valid, but no caller is configured for it: ask the operator, or the issuer for the missing role.
    #[error("{detail}")]
    UnknownCaller {
        /// The configured name of the issuer.
        issuer: String,
        /// The application that got the token.
        client_id: Option<String>,
        /// The token's subject.
        subject: String,
        /// The token's own id.
        token_id: Option<String>,
        /// What does not match.
        detail: String,
    },
    /// The token cannot be verified now: retry.
    #[error("the keys of issuer {issuer} cannot be fetched at present, so its tokens cannot be checked")]
    KeysUnavailable {
        /// The configured name of the issuer.
        issuer: String,
    },
}

impl Authenticator {
    /// An authenticator that trusts these issuers and knows these callers. Keys are fetched when the first token arrives.
    pub fn new(issuers: Vec<Issuer>, callers: Vec<CallerRule>, outbound: &Outbound, clock: Clock) -> Self {
        let trusted = |issuer: Arc<Issuer>| {
            let keys = Keyring::new(Arc::clone(&issuer), outbound.clone());
            Trusted { issuer, keys }
        };
        let issuers = issuers.into_iter().map(Arc::new).map(trusted).collect();
        Self { issuers, callers, known: TokenCache::new(), clock }
    }

    /// Renews key sets before they expire, until the process stops.
    pub fn keep_keys_fresh(&self, stopping: &CancellationToken) -> impl Future<Output = ()> + Send + use<> {
        let fresh = |trusted: &Trusted| trusted.keys.clone().keep_fresh(self.clock, stopping.clone());
        let rings = self.issuers.iter().map(fresh);
        let all = join_all(rings.collect::<Vec<_>>());
        async move { drop(all.await) }
    }

    /// The caller that an `Authorization` header and the client certificate of the connection, if any, identify.
    pub async fn authenticate(
        &self,
        authorization: Option<&str>,
        certificate: Option<&Digest>,
    ) -> Result<Caller, Rejection> {
        let verified = self.prove(authorization, self.clock.now(), self.clock.elapsed()).await?;
        self.recognise(&verified, certificate)
    }

    /// What the token in a header says, which issuer vouches for it, and which callers it may identify.
    async fn prove(
        &self,
        authorization: Option<&str>,
        now: Timestamp,
        elapsed: Duration,
    ) -> Result<Arc<CachedToken>, Rejection> {
        let token = credentials(authorization)?;
        let digest = Digest::of(token.as_bytes());
        if let Some(seen) = self.seen(&digest, now, elapsed).await {
            return Ok(seen);
        }
        let verified = Arc::new(self.verify(token, now, elapsed).await?);
        self.known.keep(digest, Arc::clone(&verified)).await;
        Ok(verified)
    }

    /// What a token that was verified before says, if it has not expired and its issuer still publishes the very key that
    /// verified it.
    async fn seen(&self, digest: &Digest, now: Timestamp, elapsed: Duration) -> Option<Arc<CachedToken>> {
        let known = self.known.find(digest).await?;
        let Trusted { issuer, keys } = self.issuers.get(known.issuer)?;
        let set = keys.set_for(&known.key_id, elapsed).await.ok();
        let published = set.is_some_and(|set| set.find(&known.key_id) == Some(Ok(&known.key)));
        if published && !known.proven.has_expired(issuer.leeway, now) {
            return Some(known);
        }
        self.known.forget(digest).await;
        None
    }

    /// Verifies a token with the keys of the issuer that it names.
    async fn verify(&self, token: &str, now: Timestamp, elapsed: Duration) -> Result<CachedToken, Rejection> {
        let length = token.len();
        let token = UnverifiedToken::read(token)?;
        let claimed = token.issuer()?;
        let place = self.issuers.iter().position(|trusted| trusted.issuer.issuer == claimed).ok_or_else(distrusted)?;
        let Trusted { issuer, keys } = self.issuers.get(place).ok_or_else(distrusted)?;
        // A token that is refused anyway must not cause a fetch.
        token.algorithm(issuer)?;
        let key_id = token.key_id()?.to_owned();
        let Ok(set) = keys.set_for(&key_id, elapsed).await else {
            return Err(Rejection::KeysUnavailable { issuer: issuer.name.clone() });
        };
        match set.find(&key_id) {
            Some(Ok(key)) => {
                let proven = token.verify(issuer, key, now)?;
                let rules = self.callers.iter().enumerate();
                let fitting = rules.filter(|(_, rule)| rule.issuer == issuer.name && fits(rule, &proven));
                let callers = fitting.map(|(place, _)| place).collect();
                Ok(CachedToken { issuer: place, key_id, key: key.clone(), proven, callers, length })
            }
            Some(Err(why)) => Err(Rejection::Invalid(format!("the token's key (kid) cannot be used: {why}"))),
            None => Err(Rejection::Invalid(format!(
                "issuer {} does not publish the token's key (kid), or withdrew it: get a new token",
                issuer.name
            ))),
        }
    }

    /// The configured caller that a verified token identifies, together with a certificate.
    fn recognise(&self, token: &CachedToken, certificate: Option<&Digest>) -> Result<Caller, Rejection> {
        let issuer = self.issuers.get(token.issuer).ok_or_else(distrusted)?.issuer.name.clone();
        let mut fitting = token.callers.iter().filter_map(|place| self.callers.get(*place));
        let VerifiedToken { client_id, subject, token_id, roles, expires: _ } = &token.proven;
        let (subject, token_id) = (subject.clone(), token_id.clone());
        let holds = |role: &String| roles.iter().any(|held| held.as_str() == role);
        let granted = |rule: &CallerRule| rule.required_role.as_ref().is_none_or(holds);
        let shown = |rule: &CallerRule| {
            rule.certificates.is_empty() || certificate.is_some_and(|it| rule.certificates.contains(it))
        };
        if let Some(rule) = fitting.clone().find(|rule| granted(rule) && shown(rule)) {
            let (name, roles, certificate) = (rule.name.clone(), roles.clone(), certificate.cloned());
            return Ok(Caller { name, issuer, subject, token_id, roles, certificate });
        }
        let detail = match fitting.next() {
            Some(rule) if granted(rule) => {
                format!("the token is valid, but came without the client certificate of caller {}", rule.name)
            }
            Some(rule) => {
                let CallerRule { name, required_role, .. } = rule;
                let wanted = required_role.as_deref().unwrap_or_default();
                format!("the token is valid, but lacks the role {wanted:?} that caller {name} requires")
            }
            None => {
                format!("the token is valid, but no configured caller has {}", whose(client_id.as_deref(), &subject))
            }
        };
        Err(Rejection::UnknownCaller { issuer, client_id: client_id.clone(), subject, token_id, detail })
    }
}

/// Whom a token that identifies nobody was issued to, so that the operators know whom to add. It is told to whoever presented
/// that token.
fn whose(client_id: Option<&str>, subject: &str) -> String {
    let shown = |claim: &str| format!("{:?}", claim.chars().take(CLAIM_SHOWN).collect::<String>());
    let subject = shown(subject);
    match client_id {
        Some(client_id) => format!("its application (client id {}) and its subject {subject}", shown(client_id)),
        None => format!("its subject {subject}; it names no application"),
    }
}

fn distrusted() -> Rejection {
    Rejection::Invalid("the token's issuer (iss) is not one that this gateway trusts".to_owned())
}

/// The token in the value of an `Authorization` header.
fn credentials(authorization: Option<&str>) -> Result<&str, Rejection> {
    let value = authorization.ok_or(Rejection::Missing)?.trim_matches(' ');
    let (scheme, token) = value.split_once(' ').unwrap_or((value, ""));
    // RFC 6750 section 3.1: an unsupported scheme counts as no credentials.
    if !scheme.eq_ignore_ascii_case("Bearer") {
        return Err(Rejection::Missing);
    }
    Ok(token.trim_start_matches(' '))
}

/// Whether a rule matches the token's application and subject. One that names neither matches nobody.
fn fits(rule: &CallerRule, token: &VerifiedToken) -> bool {
    let client_id = rule.client_id.as_ref().is_none_or(|id| token.client_id.as_ref() == Some(id));
    let subject = rule.subject.as_ref().is_none_or(|subject| *subject == token.subject);
    client_id && subject && (rule.client_id.is_some() || rule.subject.is_some())
}
