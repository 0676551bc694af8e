//! What records of several events have in common: who made the call, and what was left alone.

use serde::Serialize;

/// Who made a call, as the audit trail names them.
#[derive(Clone, Debug, Serialize)]
pub struct Actor {
    /// The caller's configured name; none if the token matches no configured caller.
    pub caller: Option<String>,
    /// The configured name of the issuer.
    pub issuer: String,
    /// The token's subject.
    pub subject: String,
    /// The token's own id.
    pub token_id: Option<String>,
}

/// A target that a reversal left alone.
#[derive(Clone, Debug, Serialize)]
pub struct UntouchedTarget {
    /// The target.
    pub target: String,
    /// Why.
    pub because: &'static str,
}
