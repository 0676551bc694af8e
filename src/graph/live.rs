//! Tries out the connection to Graph, for `postern check --live`: a token, what it permits, one configuration read.
//!
//! Guarantees: nothing is written; each fault is one sentence, with what to do about it.
//!
//! It deliberately looks into Graph's token, whose content is private to Graph: only to report a missing permission
//! before an operation fails for it. Nothing else depends on its content.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;

use super::{
    CONFIGURATIONS, Error, Graph, Upstream, model,
    permission::{self, GIVEN, Permission},
};
use crate::{
    config::{Credential, Fault},
    domain::{ConfigurationId, TenantId},
};

/// What was found.
#[derive(Debug, Default)]
pub struct Trial {
    /// What works.
    pub fine: Vec<String>,
    /// What works less well than it could.
    pub notes: Vec<String>,
    /// What does not work.
    pub faults: Vec<Fault>,
}

/// What to do if a configuration can be read but its assignments cannot.
const SETS: &str = "assignments are read through beta, whatever graph.api_version says: look whether what stands in between lets these \
                    calls pass";

/// What is read from the token.
#[derive(Default, Deserialize)]
struct Claims {
    tid: Option<TenantId>,
    #[serde(default)]
    roles: Vec<String>,
}

impl Graph {
    /// Tries out everything that a first change would need: reads `configuration` and its assignments, or, without one,
    /// any configuration.
    pub async fn try_out(&self, configuration: Option<&ConfigurationId>) -> Trial {
        let mut trial = Trial::default();
        match self.transport.token().await {
            Ok(token) => {
                trial.fine.push("the login service gives a token".to_owned());
                self.judge(token.value(), &mut trial);
            }
            Err(error) => {
                trial.faults.push(self.fault(&error));
                return trial;
            }
        }
        match self.read_one(configuration).await {
            Ok(Some(name)) => {
                trial.fine.push(format!("Graph shows the configuration {name:?}"));
                if let Some(id) = configuration
                    && let Err(error) = self.read_assignments(id).await
                {
                    let what = format!("what is assigned to it cannot be read: {error}");
                    trial.faults.push(fault(what, SETS));
                }
            }
            Ok(None) => trial.notes.push("Graph shows no enrollment configuration at all".to_owned()),
            Err(error) => trial.faults.push(self.fault(&error)),
        }
        trial
    }

    fn judge(&self, token: &str, trial: &mut Trial) {
        let Some(Claims { tid, roles }) = claims(token) else {
            trial
                .notes
                .push("the token cannot be looked into; whether a permission is missing shows in use".to_owned());
            return;
        };
        let settings = self.transport.settings();
        if let Some(tid) = tid.filter(|tid| *tid != settings.tenant_id) {
            let what = format!("the token is for the tenant {tid}, not for {}", settings.tenant_id);
            trial.faults.push(fault(what, "the managed identity lives in another tenant: compare graph.tenant_id"));
        }
        let has = |wanted: &str| roles.iter().any(|role| role == wanted);
        let missing: Vec<_> = GIVEN
            .iter()
            .filter(|permission| !has(permission.least) && !permission.instead.iter().any(|other| has(other)))
            .collect();
        for Permission { least, purpose, otherwise, .. } in &missing {
            let what = format!("the token lacks the application permission {least}, {purpose}");
            match otherwise {
                Some(otherwise) => trial.notes.push(format!("{what}; {otherwise}")),
                None => trial.faults.push(fault(what, self.granting())),
            }
        }
        if missing.is_empty() {
            trial.fine.push("the token carries every permission that is needed".to_owned());
        }
        let known = |role: &str| GIVEN.iter().any(|needed| needed.least == role);
        let more: Vec<_> = roles.iter().filter(|role| !known(role)).map(String::as_str).collect();
        if !more.is_empty() {
            trial.notes.push(format!("the token carries more than the gateway needs: {}", more.join(", ")));
        }
    }

    fn granting(&self) -> &'static str {
        match self.transport.settings().credential {
            Credential::Application { .. } => {
                "add it to the application's API permissions (type Application), grant admin consent, and try again in a \
                 minute: it is in the next token"
            }
            Credential::ManagedIdentity { .. } => {
                "assign the app role of Microsoft Graph to the identity; Azure may keep the old token for hours"
            }
        }
    }

    async fn read_one(&self, configuration: Option<&ConfigurationId>) -> Result<Option<String>, Error> {
        if let Some(id) = configuration {
            return self.configuration(id).await.map(|found| Some(found.name));
        }
        let answer = self.transport.read(&format!("{CONFIGURATIONS}?$top=1"), &permission::READING).await?;
        model::first_name(&answer.body)
    }

    fn fault(&self, error: &Error) -> Fault {
        let hint = match error {
            Error::Unauthorised(_) => "docs/setup-entra.md shows how the application and its credential are set up",
            Error::Unavailable(_) | Error::Unknown(_) | Error::Throttled { .. } => {
                "look at name resolution, firewall and proxy (HTTPS_PROXY or outbound.proxy), and, if a proxy opens TLS, at \
                 outbound.ca_file; or try again later"
            }
            Error::Forbidden(_) => self.granting(),
            Error::Missing(_) => "the catalogue names a configuration that this tenant does not have: compare its id",
            Error::Refused(_) | Error::Unreadable(_) => {
                "compare graph.endpoint and graph.api_version with what answers there"
            }
        };
        fault(error.to_string(), hint)
    }
}

fn fault(what: String, hint: &str) -> Fault {
    Fault { place: "live".to_owned(), line: None, what, hint: Some(hint.to_owned()) }
}

fn claims(token: &str) -> Option<Claims> {
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?.trim_end_matches('=')).ok()?;
    serde_json::from_slice(&payload).ok()
}
