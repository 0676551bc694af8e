//! Who asks: from the `Authorization` header to a [`Caller`].
//!
//! Guarantees: a caller is whom a configured issuer vouched for with a token that is meant for this gateway, and whom
//! `[[callers]]` names; a valid token alone is nobody, since Entra hands one to any application of a tenant. A refusal
//! says what its reader can do, and never repeats the token.
//!
//! It deliberately decides no permission (`policy` does), reads no token from anywhere but that header, and keeps no
//! verified token: each is checked anew. Called by `api::extract` for every request under `/v1`.

mod jwt;
mod keyring;
mod keys;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;

use crate::{
    clock::Clock,
    config::{CallerRule, Issuer},
    domain::Caller,
    outbound::Outbound,
};

use self::{
    jwt::{Claimed, Proven},
    keyring::Keyring,
};

/// Proves callers.
#[derive(Debug)]
pub struct Authenticator {
    issuers: Vec<Trusted>,
    callers: Vec<CallerRule>,
    clock: Clock,
}

/// An issuer and its keys.
#[derive(Debug)]
struct Trusted {
    issuer: Arc<Issuer>,
    keys: Keyring,
}

/// Why nobody is proven, by what the reader can do about it. The sentences are for the developer of a caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// There is no token: get one.
    #[error("the request has no bearer token")]
    Missing,
    /// What was sent is not a token: mend the program that sends it.
    #[error("{0}")]
    Malformed(String),
    /// The token proves nothing here: get another.
    #[error("{0}")]
    Invalid(String),
    /// The token is good, and nobody whom this gateway knows: ask its operator, or the issuer for the missing role.
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
        /// What does not fit.
        detail: String,
    },
    /// The token cannot be checked now: try again.
    #[error("the keys of issuer {issuer} cannot be fetched at present, so its tokens cannot be checked")]
    KeysUnavailable {
        /// The configured name of the issuer.
        issuer: String,
    },
}

impl Authenticator {
    /// An authenticator that trusts these issuers and knows these callers. Keys are fetched when the first token comes.
    pub fn new(issuers: Vec<Issuer>, callers: Vec<CallerRule>, outbound: &Outbound, clock: Clock) -> Self {
        let trusted = |issuer: Arc<Issuer>| {
            let keys = Keyring::new(Arc::clone(&issuer), outbound.clone());
            Trusted { issuer, keys }
        };
        Self { issuers: issuers.into_iter().map(Arc::new).map(trusted).collect(), callers, clock }
    }

    /// The caller that the value of an `Authorization` header proves.
    pub async fn authenticate(&self, authorization: Option<&str>) -> Result<Caller, Rejection> {
        self.authenticate_at(authorization, self.clock.now(), self.clock.elapsed()).await
    }

    async fn authenticate_at(
        &self,
        authorization: Option<&str>,
        now: Timestamp,
        elapsed: Duration,
    ) -> Result<Caller, Rejection> {
        let token = Claimed::read(credentials(authorization)?)?;
        let claimed = token.issuer()?;
        let Some(Trusted { issuer, keys }) = self.issuers.iter().find(|trusted| trusted.issuer.issuer == claimed)
        else {
            return Err(Rejection::Invalid("the token's issuer (iss) is not one that this gateway trusts".to_owned()));
        };
        // A token that is refused anyway shall not cause a fetch.
        token.algorithm(issuer)?;
        let key_id = token.key_id()?.to_owned();
        let Ok(set) = keys.set_for(&key_id, elapsed).await else {
            return Err(Rejection::KeysUnavailable { issuer: issuer.name.clone() });
        };
        match set.find(&key_id) {
            Some(Ok(key)) => self.recognise(issuer, token.verify(issuer, key, now)?),
            Some(Err(why)) => Err(Rejection::Invalid(format!("the token's key (kid) cannot be used: {why}"))),
            None => Err(Rejection::Invalid(format!(
                "issuer {} does not publish the token's key (kid), or withdrew it: get a new token",
                issuer.name
            ))),
        }
    }

    /// The configured caller that a proven token is.
    fn recognise(&self, issuer: &Issuer, token: Proven) -> Result<Caller, Rejection> {
        let fitting: Vec<_> =
            self.callers.iter().filter(|rule| rule.issuer == issuer.name && fits(rule, &token)).collect();
        let Proven { client_id, subject, token_id, roles } = token;
        let issuer = issuer.name.clone();
        let holds = |role: &String| roles.iter().any(|held| held.as_str() == role);
        if let Some(rule) = fitting.iter().find(|rule| rule.required_role.as_ref().is_none_or(holds)) {
            return Ok(Caller { name: rule.name.clone(), issuer, subject, token_id, roles });
        }
        let detail = match fitting.first() {
            Some(rule) => {
                format!("the token is valid, but lacks the role without which it is not caller {}", rule.name)
            }
            None => "the token is valid, but its application and subject are no configured caller".to_owned(),
        };
        Err(Rejection::UnknownCaller { issuer, client_id, subject, token_id, detail })
    }
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

/// Whether a rule is about the token's application and subject. One that names neither is about nobody.
fn fits(rule: &CallerRule, token: &Proven) -> bool {
    let client_id = rule.client_id.as_ref().is_none_or(|id| token.client_id.as_ref() == Some(id));
    let subject = rule.subject.as_ref().is_none_or(|subject| *subject == token.subject);
    client_id && subject && (rule.client_id.is_some() || rule.subject.is_some())
}
