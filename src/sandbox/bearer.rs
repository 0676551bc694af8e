//! What the bearer of a token may do in Graph.
//!
//! [`rights`] accepts a token only if this sandbox signed it, for this Graph, from this tenant's authority, and it is within
//! its validity period; anything else is 401. Reading and writing are then checked separately: 403 if the token lacks the
//! role.
//!
//! It deliberately rejects the tokens of the gateway's callers, which come from `issuer.rs` and are signed with another key.
//! Called by `graph.rs` for every call.

use serde_json::{Map, Value};

use super::errors::Refusal;
use super::login;
use super::wire::Request;
use super::world::State;

/// The roles in a token.
#[derive(Debug, Default)]
pub(crate) struct Rights {
    roles: Vec<String>,
}

impl Rights {
    /// Whether configurations and assignments may be read.
    pub(crate) fn read(&self) -> Result<(), Refusal> {
        self.intune(&["DeviceManagementServiceConfig.Read.All", "DeviceManagementServiceConfig.ReadWrite.All"])
    }

    /// Whether assignments may be written.
    pub(crate) fn write(&self) -> Result<(), Refusal> {
        self.intune(&["DeviceManagementServiceConfig.ReadWrite.All"])
    }

    /// Whether assignment filters may be read.
    pub(crate) fn filters(&self) -> Result<(), Refusal> {
        self.intune(&["DeviceManagementConfiguration.Read.All", "DeviceManagementConfiguration.ReadWrite.All"])
    }

    /// Whether groups may be read.
    pub(crate) fn groups(&self) -> Result<(), Refusal> {
        let message = "Insufficient privileges to complete the operation.";
        if self.any(&["GroupMember.Read.All", "Group.Read.All", "Directory.Read.All"]) {
            Ok(())
        } else {
            Err(Refusal::graph(403, "Authorization_RequestDenied", message))
        }
    }

    fn intune(&self, wanted: &[&str]) -> Result<(), Refusal> {
        if self.any(wanted) {
            return Ok(());
        }
        let message = format!(
            "Application is not authorized to perform this operation. Application must have one of the following \
             scopes: {}",
            wanted.join(", ")
        );
        Err(Refusal::intune(403, "Forbidden", message))
    }

    fn any(&self, wanted: &[&str]) -> bool {
        self.roles.iter().any(|role| wanted.contains(&role.as_str()))
    }
}

/// The rights of the call's bearer, or Graph's refusal of the token.
pub(crate) fn rights(call: &Request, state: &State) -> Result<Rights, Refusal> {
    let sent = call.header("authorization").unwrap_or_default();
    let token =
        sent.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, token)| token.trim());
    let token = token.filter(|token| !token.is_empty()).ok_or_else(|| invalid("Access token is empty."))?;
    let claims = state.graph_key.claims(token);
    let claims = claims.ok_or_else(|| invalid("Access token validation failure. Invalid signature."))?;
    check(&claims, state, call.at.as_second()).map_err(invalid)?;
    let roles = claims.get("roles").and_then(Value::as_array).cloned().unwrap_or_default();
    Ok(Rights { roles: roles.iter().filter_map(Value::as_str).map(str::to_owned).collect() })
}

fn check(claims: &Map<String, Value>, state: &State, now: i64) -> Result<(), &'static str> {
    let text = |name: &str| claims.get(name).and_then(Value::as_str).unwrap_or_default();
    let moment = |name: &str| claims.get(name).and_then(Value::as_i64).unwrap_or_default();
    if text("aud") != state.url {
        return Err("Access token validation failure. Invalid audience.");
    }
    if text("iss") != login::authority(state) {
        return Err("Access token validation failure. Invalid issuer.");
    }
    if now < moment("nbf") || now >= moment("exp") {
        return Err("Lifetime validation failed, the token is expired.");
    }
    Ok(())
}

/// Graph's refusal of a token.
pub(crate) fn invalid(message: &str) -> Refusal {
    Refusal::graph(401, "InvalidAuthenticationToken", message)
}
