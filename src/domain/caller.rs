//! Who makes a request.
//!
//! There is no anonymous caller: `auth` makes a [`Caller`] after authentication, and every verb of the gateway requires one.
//! It deliberately carries no permissions: what a caller may do is policy's decision.

use std::fmt;

use super::Digest;

/// A role or scope granted by the caller's token (`Assignments.Change`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Role(String);

impl Role {
    /// A role, by its name in the token.
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// The name as in the token.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An authenticated caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The caller's name in the settings (`servicenow`).
    pub name: String,
    /// The configured name of the issuer of its token.
    pub issuer: String,
    /// The token's subject.
    pub subject: String,
    /// The token's own id (`jti`, or Entra's `uti`), if it has one.
    pub token_id: Option<String>,
    /// Roles and scopes of the token, sorted, without duplicates.
    pub roles: Vec<Role>,
    /// SHA-256 of the client certificate of its connection, if there was one.
    pub certificate: Option<Digest>,
}
