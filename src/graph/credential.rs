//! The request for the gateway's own token, by the kind of its credential.
//!
//! Guarantees: secrets, keys and federated tokens are read anew for every request, so that replaced files are taken up;
//! they travel in the body or in a header marked as sensitive, never in the URL, and appear in no error text.
//!
//! It deliberately sends nothing: `token` does, and judges the answer.

use secrecy::ExposeSecret;
use url::form_urlencoded::Serializer;

use super::{Error, assertion};
use crate::{
    clock::Clock,
    config::{self, Credential, IdentityHost, Proof, SecretSource},
    domain::ids::Cloud,
    outbound::{HeaderName, HeaderValue, Method, Request},
};

/// Where virtual machines and nodes get the tokens of their identity. The address is the same on each, and reachable from
/// nowhere else.
const MACHINE: &str = "http://169.254.169.254";
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// The request, and where it goes.
#[derive(Debug)]
pub(super) struct TokenRequest {
    pub(super) method: Method,
    pub(super) url: String,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) body: Option<(&'static str, Vec<u8>)>,
    pub(super) provider: TokenProvider,
}

/// Who answers the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenProvider {
    /// The login service, through a proxy if there is one.
    LoginService,
    /// The platform that the gateway runs on, never through a proxy.
    Platform,
}

impl TokenRequest {
    /// The call, with this timeout and this limit in bytes for the answer.
    pub(super) fn call(self, timeout: std::time::Duration, answer_max: usize) -> Request {
        let Self { method, url, headers, body, .. } = self;
        Request { method, url, headers, body, timeout, end_by: None, response_max: answer_max }
    }
}

/// The token request for these settings.
pub(super) fn token_request(settings: &config::Graph, clock: Clock) -> Result<TokenRequest, Error> {
    match &settings.credential {
        Credential::Application { client_id, proof } => of_application(settings, client_id, proof, clock),
        Credential::ManagedIdentity { client_id, host } => of_identity(settings, client_id.as_deref(), host),
    }
}

fn of_application(
    settings: &config::Graph,
    client_id: &str,
    proof: &Proof,
    clock: Clock,
) -> Result<TokenRequest, Error> {
    let config::Graph { authority, tenant_id, scope, .. } = settings;
    let url = format!("{authority}/{tenant_id}/oauth2/v2.0/token");
    let mut form = Serializer::new(String::new());
    form.append_pair("grant_type", "client_credentials").append_pair("client_id", client_id);
    form.append_pair("scope", scope);
    match proof {
        Proof::Secret(source) => {
            form.append_pair("client_secret", read(source)?.expose_secret());
        }
        Proof::Certificate(certificate) => {
            let assertion = assertion::sign(certificate, client_id, &url, clock);
            let assertion = assertion.map_err(|error| Error::Unauthorised(error.to_string()))?;
            form.append_pair("client_assertion_type", ASSERTION_TYPE).append_pair("client_assertion", &assertion);
        }
        Proof::FederatedToken(source) => {
            let token = read(source)?;
            form.append_pair("client_assertion_type", ASSERTION_TYPE);
            form.append_pair("client_assertion", token.expose_secret());
        }
    }
    let body = Some(("application/x-www-form-urlencoded", form.finish().into_bytes()));
    Ok(TokenRequest { method: Method::POST, url, headers: Vec::new(), body, provider: TokenProvider::LoginService })
}

fn of_identity(settings: &config::Graph, client_id: Option<&str>, host: &IdentityHost) -> Result<TokenRequest, Error> {
    // Unlike the login service, the platform takes the resource without the suffix that makes it a scope.
    let resource = settings.scope.trim_end_matches("/.default");
    let mut query = Serializer::new(String::new());
    let (endpoint, header) = match host {
        IdentityHost::Machine => {
            query.append_pair("api-version", "2018-02-01");
            let root = if settings.cloud == Cloud::Sandbox { &settings.endpoint } else { MACHINE };
            let proof = (HeaderName::from_static("metadata"), HeaderValue::from_static("true"));
            (format!("{root}/metadata/identity/oauth2/token"), proof)
        }
        IdentityHost::AppService { endpoint, header } => {
            query.append_pair("api-version", "2019-08-01");
            let mut value = HeaderValue::from_str(read(header)?.expose_secret())
                .map_err(|_quoting| Error::Unauthorised(format!("{header} is not a header's text")))?;
            value.set_sensitive(true);
            (endpoint.to_string(), (HeaderName::from_static("x-identity-header"), value))
        }
    };
    query.append_pair("resource", resource);
    if let Some(client_id) = client_id {
        query.append_pair("client_id", client_id);
    }
    let url = format!("{endpoint}?{}", query.finish());
    Ok(TokenRequest { method: Method::GET, url, headers: vec![header], body: None, provider: TokenProvider::Platform })
}

fn read(source: &SecretSource) -> Result<secrecy::SecretString, Error> {
    source.read().map_err(|error| {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        Error::Unauthorised(format!("{error}{cause}"))
    })
}
