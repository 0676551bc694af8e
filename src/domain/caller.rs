//! Who asks.
//!
//! There is no anonymous caller: a [`Caller`] is made by `auth` after a proof was checked, and everything the gateway
//! offers wants one. It deliberately carries no permission; what a caller may do is policy's decision.

use std::fmt;

use super::Digest;

/// A role or scope that the caller's token grants (`Assignments.Change`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Role(String);

impl Role {
    /// A role by its name in the token.
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// The name as the token has it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A proven caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The name that the configuration gives this caller (`servicenow`).
    pub name: String,
    /// The configured name of the issuer that vouched for it.
    pub issuer: String,
    /// The token's subject.
    pub subject: String,
    /// The token's own id (`jti`, or Entra's `uti`), where it has one.
    pub token_id: Option<String>,
    /// Roles and scopes of the token, sorted, each once.
    pub roles: Vec<Role>,
    /// SHA-256 of the certificate that its connection showed, if it showed one.
    pub certificate: Option<Digest>,
}
