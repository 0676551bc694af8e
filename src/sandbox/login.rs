//! Entra's token endpoint, for apps.
//!
//! It issues signed tokens for this sandbox's Graph and for nothing else: asked for a real cloud's, it says that this is the
//! sandbox. Refusals have Entra's format and error codes; clients should branch on the codes.
//!
//! It deliberately knows no users. `proof.rs` authenticates apps. Called by `world.rs`; `bearer.rs` checks the tokens.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::proof::{self, ProofContext};
use super::seed::App;
use super::wire::{Request, Response};
use super::world::State;

/// Why Entra issues no token.
#[derive(Debug)]
pub(crate) struct Denial {
    status: u16,
    error: &'static str,
    code: u32,
    description: String,
}

/// A refusal with Entra's code.
pub(crate) fn denial(status: u16, error: &'static str, code: u32, description: impl Into<String>) -> Denial {
    Denial { status, error, code, description: description.into() }
}

/// The token endpoint's response to a call for this tenant.
pub(crate) fn answer(call: &Request, state: &mut State, tenant: &str) -> Response {
    let answer = token(call, state, tenant).unwrap_or_else(|denial| denial.answer(call));
    answer
        .with("x-ms-request-id", call.id.clone())
        .with("client-request-id", call.client_request_id().to_owned())
        .with("Cache-Control", "no-store, no-cache".to_owned())
}

/// An ordered refusal in Entra's format, for faults.
pub(crate) fn ordered(call: &Request, status: u16) -> Response {
    let denial = match status {
        400 => denial(status, "invalid_request", 900_144, "The request body is not as it must be."),
        401 => denial(status, "invalid_client", 7_000_215, "Invalid client secret provided."),
        429 => denial(
            status,
            "temporarily_unavailable",
            90_055,
            "The server has terminated the request: too many requests.",
        ),
        _ => denial(status, "temporarily_unavailable", 90_033, "A transient error has occurred. Please try again."),
    };
    denial.answer(call)
}

/// A code, its status, its error, and the beginning of its description.
type Known = (u32, u16, &'static str, &'static str);

/// Entra's codes that can be ordered.
const CODES: [Known; 28] = [
    (7_000_215, 401, "invalid_client", "Invalid client secret provided."),
    (7_000_222, 401, "invalid_client", "The provided client secret keys are expired."),
    (7_000_218, 401, "invalid_client", "The request body must contain 'client_assertion' or 'client_secret'."),
    (
        700_027,
        401,
        "invalid_client",
        "The certificate with identifier used to sign the client assertion is not registered.",
    ),
    (700_024, 401, "invalid_client", "Client assertion is not within its valid time range."),
    (70_021, 400, "invalid_request", "No matching federated identity record found for presented assertion."),
    (700_211, 400, "invalid_request", "No matching federated identity record found for presented assertion issuer."),
    (700_212, 400, "invalid_request", "No matching federated identity record found for presented assertion audience."),
    (700_213, 400, "invalid_request", "No matching federated identity record found for presented assertion subject."),
    (700_016, 400, "unauthorized_client", "The application was not found in the directory."),
    (7_000_112, 400, "unauthorized_client", "The application is disabled."),
    (90_002, 400, "invalid_request", "The tenant was not found."),
    (900_023, 400, "invalid_request", "The specified tenant identifier is not valid."),
    (70_011, 400, "invalid_scope", "The provided value for the input parameter 'scope' is not valid."),
    (1_002_012, 400, "invalid_scope", "The provided value for scope is not valid."),
    (500_011, 400, "invalid_resource", "The resource principal was not found in the tenant."),
    (53_003, 400, "invalid_grant", "Access has been blocked by conditional access policies."),
    (530_032, 400, "invalid_grant", "The request was blocked by a security policy of the tenant."),
    (90_038, 400, "invalid_request", "The tenant resides in another national cloud."),
    (65_001, 400, "invalid_grant", "Nobody has consented to use the application."),
    (50_196, 400, "invalid_request", "A client request loop has been detected."),
    (90_055, 429, "temporarily_unavailable", "The server has terminated the request: too many requests."),
    (90_006, 500, "temporarily_unavailable", "A transient error has occurred. Please try again."),
    (90_012, 504, "temporarily_unavailable", "The request has timed out."),
    (90_024, 503, "temporarily_unavailable", "The request took longer than it may."),
    (90_033, 503, "temporarily_unavailable", "A transient error has occurred. Please try again."),
    (90_090, 500, "temporarily_unavailable", "A transient error has occurred. Please try again."),
    (900_144, 400, "invalid_request", "The request body is not as it must be."),
];

/// What is wrong with an ordered code; none if it is known.
pub(crate) fn unknown_code(code: u32) -> Option<String> {
    let known = CODES.iter().any(|row| row.0 == code);
    (!known).then(|| format!("`effect.code`: {code} is no code of Entra that is known here"))
}

/// The refusal with an ordered code.
pub(crate) fn with_code(call: &Request, code: u32) -> Response {
    let row = CODES.into_iter().find(|row| row.0 == code).unwrap_or(CODES[27]);
    denial(row.1, row.2, row.0, row.3).answer(call)
}

/// The issuer of this tenant's tokens, as in `iss`.
pub(crate) fn authority(state: &State) -> String {
    format!("{}/{}/", state.url, state.seed.tenant_id)
}

fn token(call: &Request, state: &mut State, tenant: &str) -> Result<Response, Denial> {
    if call.method != "POST" {
        return Err(denial(400, "invalid_request", 900_561, "The endpoint only accepts POST requests."));
    }
    check_tenant(state, tenant)?;
    if !call.carries("application/x-www-form-urlencoded") {
        return Err(denial(400, "invalid_request", 900_144, "The request body must be a form."));
    }
    let form = call.form();
    let app = app(&form, state)?.clone();
    check_scope(field(&form, "scope")?, &state.url)?;
    let mut context = ProofContext {
        endpoint: format!("{}{}", state.url, call.path),
        now: call.at.as_second(),
        issuer: &state.issuer,
        register: &mut state.register,
    };
    let proven = proof::check(&form, &app, &mut context)?;
    issued(call, state, &app, proven)
        .ok_or_else(|| denial(500, "server_error", 90_033, "A transient error has occurred."))
}

fn check_tenant(state: &State, tenant: &str) -> Result<(), Denial> {
    match Uuid::try_parse(tenant) {
        Ok(id) if id == state.seed.tenant_id => Ok(()),
        Ok(_) => Err(denial(
            400,
            "invalid_request",
            90_002,
            format!("Tenant '{tenant}' not found. Check to make sure you have the correct tenant ID."),
        )),
        Err(_) => Err(denial(
            400,
            "invalid_request",
            900_023,
            format!("Specified tenant identifier '{tenant}' is neither a valid DNS name, nor a valid external domain."),
        )),
    }
}

fn field<'f>(form: &'f BTreeMap<String, String>, name: &str) -> Result<&'f str, Denial> {
    let missing = || format!("The request body must contain the following parameter: '{name}'.");
    form.get(name).map(String::as_str).ok_or_else(|| denial(400, "invalid_request", 900_144, missing()))
}

fn app<'s>(form: &BTreeMap<String, String>, state: &'s State) -> Result<&'s App, Denial> {
    let grant = field(form, "grant_type")?;
    if grant != "client_credentials" {
        let description = format!("The app requested an unsupported grant type '{grant}'.");
        return Err(denial(400, "unsupported_grant_type", 70_003, description));
    }
    let client = field(form, "client_id")?;
    let id = Uuid::try_parse(client).ok();
    state.seed.apps.iter().find(|app| Some(app.client_id) == id).ok_or_else(|| {
        let description = format!(
            "Application with identifier '{client}' was not found in the directory '{}'.",
            state.seed.tenant_id
        );
        denial(400, "unauthorized_client", 700_016, description)
    })
}

fn check_scope(scope: &str, url: &str) -> Result<(), Denial> {
    if scope == format!("{url}/.default") {
        return Ok(());
    }
    let Some(resource) = scope.strip_suffix("/.default") else {
        let with_resource = scope.contains("://") && !scope.contains(' ');
        let (code, told) = if with_resource {
            (1_002_012, "must have a scope value with /.default suffixed to the resource identifier")
        } else {
            (70_011, "is not valid")
        };
        return Err(denial(
            400,
            "invalid_scope",
            code,
            format!("The provided value for scope '{scope}' is refused: it {told}."),
        ));
    };
    let description = format!(
        "The resource principal named {resource} was not found in the tenant. This is Postern's sandbox, not Microsoft \
         Entra: it gives tokens for {url}/.default only and must not be used with a real cloud's settings. Set the \
         gateway's Graph endpoint to {url}."
    );
    Err(denial(400, "invalid_resource", 500_011, description))
}

fn issued(call: &Request, state: &State, app: &App, proven: &str) -> Option<Response> {
    let lifetime = state.switches.token_lifetime_seconds;
    let token = signed(call, state, app, proven)?;
    Some(Response::json(
        200,
        json!({"token_type": "Bearer", "expires_in": lifetime, "ext_expires_in": lifetime, "access_token": token}),
    ))
}

/// A token for this sandbox's Graph, for an app that authenticated in this way.
pub(crate) fn signed(call: &Request, state: &State, app: &App, proven: &str) -> Option<String> {
    let lifetime = state.switches.token_lifetime_seconds;
    let now = call.at.as_second();
    let claims = json!({
        "aud": state.url, "iss": authority(state), "iat": now, "nbf": now,
        "exp": now.saturating_add(i64::from(lifetime)),
        "appid": app.client_id, "appidacr": proven, "idtyp": "app", "oid": app.client_id, "sub": app.client_id,
        "tid": state.seed.tenant_id, "roles": app.roles, "uti": call.id, "ver": "1.0",
    });
    let header = json!({"typ": "JWT", "alg": "RS256", "kid": state.graph_key.kid()});
    state.graph_key.sign(&object(header), &object(claims)).ok()
}

/// The fields of a value known to be an object.
pub(crate) fn object(value: Value) -> Map<String, Value> {
    if let Value::Object(fields) = value { fields } else { Map::new() }
}

impl Denial {
    fn answer(&self, call: &Request) -> Response {
        let moment = call.at.strftime("%Y-%m-%d %H:%M:%SZ").to_string();
        let (trace, correlation) = (&call.id, call.client_request_id());
        Response::json(
            self.status,
            json!({
                "error": self.error,
                "error_description": format!(
                    "AADSTS{}: {} Trace ID: {trace} Correlation ID: {correlation} Timestamp: {moment}",
                    self.code, self.description
                ),
                "error_codes": [self.code],
                "timestamp": moment,
                "trace_id": trace,
                "correlation_id": correlation,
                "error_uri": format!("https://login.microsoftonline.com/error?code={}", self.code),
            }),
        )
    }
}
