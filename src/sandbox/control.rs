//! `/_sandbox/*`: inspects the sandbox and sets it up, for tests and the curious.
//!
//! Invalid input gets 4xx and a sentence that says what is wrong and what would be right. Calls here are neither recorded in
//! the journal nor hit by a fault.
//!
//! It deliberately requires no token: the sandbox holds nothing worth protecting and is not for untrusted networks. Called
//! by `world.rs`.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::faults::Order;
use super::issuer::{self, Rotation};
use super::journal::Journal;
use super::keys::Key;
use super::limits::Limits;
use super::proof::Register;
use super::switches::Switches;
use super::tenant::Tenant;
use super::wire::{Request, Response};
use super::world::{Release, State, World};
use super::{Error, graph};

const ENDPOINTS: [&str; 15] = [
    "GET /_sandbox/state",
    "GET /_sandbox/journal",
    "POST /_sandbox/reset",
    "GET /_sandbox/switches",
    "POST /_sandbox/switches",
    "GET /_sandbox/switches/words",
    "GET /_sandbox/faults",
    "POST /_sandbox/faults",
    "DELETE /_sandbox/faults",
    "POST /_sandbox/token",
    "POST /_sandbox/issuer/rotate",
    "POST /_sandbox/certificates",
    "POST /_sandbox/apps",
    "DELETE /_sandbox/groups/{id}",
    "GET /_sandbox",
];

/// The answer to a call below `/_sandbox`.
pub(crate) async fn answer(call: &Request, world: &World) -> Response {
    let parts = call.parts();
    let answer = match (call.method.as_str(), parts.get(1..).unwrap_or_default()) {
        ("GET", []) => Ok(Response::json(200, json!({ "endpoints": ENDPOINTS }))),
        ("GET", ["state"]) => Ok(Response::json(200, state(world))),
        ("GET", ["journal"]) => Ok(Response::json(200, world.state().journal.shown())),
        ("POST", ["reset"]) => Ok(reset(world)),
        ("GET", ["switches"]) => Ok(Response::json(200, Value::Object(world.state().switches.shown()))),
        ("POST", ["switches"]) => switch(call, world),
        ("GET", ["switches", "words"]) => Ok(Response::json(200, Value::Object(Switches::words()))),
        ("GET", ["faults"]) => Ok(Response::json(200, world.state().faults.shown())),
        ("POST", ["faults"]) => order(call, world),
        ("DELETE", ["faults"]) => {
            world.release(Release::Proceed);
            Ok(Response::empty(204))
        }
        ("POST", ["token"]) => token(call, world),
        ("POST", ["issuer", "rotate"]) => rotate(call, world).await,
        ("POST", ["certificates"]) => register(call, world),
        ("POST", ["apps"]) => amend(call, world),
        ("DELETE", ["groups", id]) => delete_group(world, id),
        (method, _) => {
            let error = format!("nothing answers {method} {}", call.path);
            Ok(Response::json(404, json!({"error": error, "endpoints": ENDPOINTS})))
        }
    };
    answer.unwrap_or_else(|refused| refused)
}

fn refused(status: u16, error: impl Into<String>) -> Response {
    let error: String = error.into();
    Response::json(status, json!({ "error": error }))
}

fn broken(error: &Error) -> Response {
    refused(500, error.to_string())
}

fn body<T: DeserializeOwned>(call: &Request) -> Result<T, Response> {
    serde_json::from_slice(&call.body).map_err(|error| refused(400, format!("the body is not as it must be: {error}")))
}

fn state(world: &World) -> Value {
    let state = world.state();
    let configurations: Vec<Value> = state.tenant.configurations.iter().map(graph::state_of).collect();
    json!({"configurations": configurations, "groups": state.tenant.groups, "jwks_fetches": state.issuer.fetches})
}

fn reset(world: &World) -> Response {
    {
        let mut state = world.state();
        state.tenant = Tenant::new(&state.seed);
        state.switches = state.seed.switches.clone();
        state.journal = Journal::default();
        state.limits = Limits::default();
        state.register = Register::default();
        state.issuer.fetches = 0;
    }
    // Calls held since before the reset must not change the new state.
    world.release(Release::Cut);
    Response::empty(204)
}

fn switch(call: &Request, world: &World) -> Result<Response, Response> {
    let wanted: Map<String, Value> = body(call)?;
    let mut state = world.state();
    let set = state.switches.set(&wanted);
    state.switches =
        set.map_err(|fault| Response::json(400, json!({"error": fault, "switches": state.switches.shown()})))?;
    Ok(Response::json(200, Value::Object(state.switches.shown())))
}

fn order(call: &Request, world: &World) -> Result<Response, Response> {
    let order: Order = body(call)?;
    let mut state = world.state();
    let State { faults, tenant, .. } = &mut *state;
    faults.order(order, tenant).map_err(|fault| refused(400, fault))?;
    Ok(Response::json(201, state.faults.shown()))
}

fn token(call: &Request, world: &World) -> Result<Response, Response> {
    let order: issuer::Order = body(call)?;
    let state = world.state();
    state.issuer.token(&order, call, &state.seed).map_err(|error| broken(&error))
}

async fn rotate(call: &Request, world: &World) -> Result<Response, Response> {
    let rotation = if call.body.is_empty() { Rotation::default() } else { body(call)? };
    let key = Key::generate(world.clock).await.map_err(|error| broken(&error))?;
    let kid = key.kid().to_owned();
    let published = world.state().issuer.rotate(key, &rotation);
    Ok(Response::json(200, json!({"kid": kid, "keys": published})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Registration {
    client_id: Uuid,
    certificate: String,
}

fn register(call: &Request, world: &World) -> Result<Response, Response> {
    let Registration { client_id, certificate } = body(call)?;
    let mut state = world.state();
    if !state.seed.apps.iter().any(|app| app.client_id == client_id) {
        return Err(refused(404, format!("there is no app {client_id}")));
    }
    state.register.add(client_id, &certificate).map_err(|fault| refused(400, fault))?;
    Ok(Response::empty(204))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Amendment {
    client_id: Uuid,
    roles: Option<Vec<String>>,
    client_secret: Option<String>,
}

/// Changes an app's roles or secret, from its next token on.
fn amend(call: &Request, world: &World) -> Result<Response, Response> {
    let Amendment { client_id, roles, client_secret } = body(call)?;
    let mut state = world.state();
    let app = state.seed.apps.iter_mut().find(|app| app.client_id == client_id);
    let app = app.ok_or_else(|| refused(404, format!("there is no app {client_id}")))?;
    if let Some(roles) = roles {
        app.roles = roles;
    }
    if let Some(secret) = client_secret {
        app.client_secret = secret;
    }
    Ok(Response::empty(204))
}

fn delete_group(world: &World, id: &str) -> Result<Response, Response> {
    let wanted = Uuid::try_parse(id).map_err(|_malformed| refused(400, format!("`{id}` is not a group's id")))?;
    let mut state = world.state();
    let before = state.tenant.groups.len();
    state.tenant.groups.retain(|group| group.id != wanted);
    if state.tenant.groups.len() == before {
        Err(refused(404, format!("there is no group {wanted}")))
    } else {
        Ok(Response::empty(204))
    }
}
