//! What records of several events have in common: who made the call, and what was left alone.

use serde::Serialize;

/// Who made a call, as the audit trail names them.
#[derive(Clone, Debug, Serialize)]
pub struct Actor {
    /// The caller's configured name; none if the token matches no configured caller.
    pub caller: Option<String>,
    /// The configured name of the issuer; empty if the record stands for calls with tokens of several.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub issuer: String,
    /// The token's subject; empty if the record stands for calls of several.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub subject: String,
    /// The token's own id.
    pub token_id: Option<String>,
}

impl Actor {
    /// Who made this call and another, as far as it was the same: nobody is named for what somebody else did, too.
    #[must_use]
    pub fn in_common(self, other: &Self) -> Self {
        let same = |one: String, other: &String| if one == *other { one } else { String::new() };
        Self {
            caller: self.caller.filter(|caller| other.caller.as_ref() == Some(caller)),
            issuer: same(self.issuer, &other.issuer),
            subject: same(self.subject, &other.subject),
            token_id: self.token_id.filter(|id| other.token_id.as_ref() == Some(id)),
        }
    }
}

/// A target that a reversal left alone.
#[derive(Clone, Debug, Serialize)]
pub struct UntouchedTarget {
    /// The target.
    pub target: String,
    /// Why.
    pub because: &'static str,
}
