//! The endpoints from which Azure's managed identities get tokens: that of virtual machines, and that of App Service.
//!
//! Every app of the tenant is an identity of this machine; a call that names none gets the first one's token. Numbers are
//! strings, as in the real endpoints, and App Service reports only when the token expires.
//!
//! It deliberately does not simulate Azure Arc, Service Fabric or Cloud Shell. App Service's response to a wrong header is
//! not documented. Called by `world.rs`.

use serde_json::{Value, json};
use uuid::Uuid;

use super::login;
use super::seed::App;
use super::wire::{Request, Response};
use super::world::State;

/// The header value that App Service requires; public, like all secrets here.
const APP_SERVICE_HEADER: &str = "sandbox-identity-header";

/// The response of a virtual machine's endpoint.
pub(crate) fn of_machine(call: &Request, state: &State) -> Response {
    if !call.header("metadata").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return refused(400, "bad_request_102", "Required metadata header not specified");
    }
    token(call, state, "2018-02-01", |token, app, (now, ends)| {
        json!({
            "access_token": token, "client_id": app.client_id, "token_type": "Bearer", "resource": state.url,
            "expires_in": ends.saturating_sub(now).to_string(), "expires_on": ends.to_string(),
            "ext_expires_in": ends.saturating_sub(now).to_string(), "not_before": now.to_string(),
        })
    })
}

/// The response of App Service's endpoint.
pub(crate) fn of_app_service(call: &Request, state: &State) -> Response {
    if call.header("x-identity-header") != Some(APP_SERVICE_HEADER) {
        return refused(401, "unauthorized", "The identity header is missing or wrong");
    }
    token(call, state, "2019-08-01", |token, app, (_now, ends)| {
        json!({
            "access_token": token, "client_id": app.client_id, "token_type": "Bearer", "resource": state.url,
            "expires_on": ends.to_string(),
        })
    })
}

/// An ordered refusal in the format of these endpoints, for faults.
pub(crate) fn ordered(status: u16) -> Response {
    refused(status, "ordered", "An error has occurred")
}

fn refused(status: u16, error: &str, description: &str) -> Response {
    Response::json(status, json!({"error": error, "error_description": description}))
}

fn token(
    call: &Request,
    state: &State,
    version: &str,
    body: impl FnOnce(String, &App, (i64, i64)) -> Value,
) -> Response {
    if call.method != "GET" {
        return refused(405, "method_not_allowed", "The endpoint only accepts GET requests");
    }
    let options = call.options();
    let option = |name: &str| options.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    if option("api-version") != Some(version) {
        return refused(400, "bad_request_103", "Missing or unknown api-version");
    }
    if option("resource") != Some(state.url.as_str()) {
        let description = format!("The resource principal was not found; this is a sandbox, which knows {}", state.url);
        return refused(400, "invalid_resource", &description);
    }
    let wanted = option("client_id").map(|id| Uuid::try_parse(id).ok());
    let app = state.seed.apps.iter().find(|app| wanted.is_none_or(|wanted| wanted == Some(app.client_id)));
    let Some(app) = app else { return refused(400, "invalid_request", "Identity not found") };
    let now = call.at.as_second();
    let ends = now.saturating_add(i64::from(state.switches.token_lifetime_seconds));
    match login::signed(call, state, app, "2") {
        Some(token) => Response::json(200, body(token, app, (now, ends))),
        None => ordered(500),
    }
}
