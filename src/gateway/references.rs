//! What callers mean by their names, and what they learn if a name is unknown or ambiguous.
//!
//! Guarantees: what else exists in the tenant, such as similar names, is revealed only to callers whom policy lets look at the
//! configuration in question. That a name exists shows nevertheless: it is denied, and one that does not is unknown.
//!
//! It deliberately resolves nothing itself: [`super::resolve`] does.

use super::{
    Candidate, Error, Gateway,
    candidates::{ALIKE_MAX, CandidateVisibility, SEVERAL_MAX},
    name_lookup::NameLookup,
    request::{ChangeRequest, Fault},
    resolve::{ConfigurationMatch, Resolved},
};
use crate::{
    domain::{Caller, Configuration},
    graph,
    policy::{Action, Attribute, Denial, Resource},
};

impl Gateway {
    /// The change that a request asks for, or everything that is wrong with its names and targets.
    pub(super) async fn resolve_change(&self, caller: &Caller, request: &ChangeRequest) -> Result<Resolved, Error> {
        self.resolver.bound(&request.change)?;
        let resolve = async {
            // Sequentially: targets of an unknown configuration are not worth a question to Graph.
            let configuration = self.resolve_configuration(caller, &request.configuration, "/configuration").await?;
            let targets = self.resolver.targets(&request.change, &self.quotas.of(caller)).await?;
            // If every name was found, there is nothing to hint at, so policy is not asked.
            let told = !targets.missed.is_empty() && self.may_read_configuration(caller, &configuration);
            let visibility = if told { CandidateVisibility::Given } else { CandidateVisibility::Withheld };
            self.resolver.resolve(configuration, request, targets, visibility)
        };
        self.in_time(resolve).await
    }

    /// Refuses what was decided without the name of a group that Graph does not tell, where policies look at names: a `forbid`
    /// must not lapse.
    pub(super) fn names_suffice(&self, caller: &Caller, unnamed: Option<&String>) -> Result<(), Error> {
        let Some(place) = unnamed else { return Ok(()) };
        let look = |action: &str| self.policies.depends_on(&[Attribute::TargetName], caller, action);
        if !["add", "remove", "replace"].into_iter().any(look) {
            return Ok(());
        }
        let detail = format!(
            "policies look at the names of groups, and Graph does not let the gateway look up one ({place}): it needs \
             the permission {}",
            graph::GROUPS_PERMISSION.least
        );
        Err(Error::GraphPermissionMissing(detail))
    }

    /// The configuration that a reference means; an error lists the candidates that the caller may read.
    pub(super) async fn resolve_configuration(
        &self,
        caller: &Caller,
        reference: &str,
        at: &str,
    ) -> Result<Configuration, Error> {
        let candidates = |them: Vec<(String, Configuration)>, most| {
            let seen = them.into_iter().filter(|(_, configuration)| self.may_read_configuration(caller, configuration));
            seen.take(most).map(|(name, configuration)| Candidate::configuration(at, &name, &configuration)).collect()
        };
        match self.resolver.sought(reference, &self.quotas.of(caller)).await? {
            ConfigurationMatch::One(configuration) => Ok(configuration),
            ConfigurationMatch::Nothing(alike) => {
                let candidates = candidates(alike, ALIKE_MAX);
                Err(Error::UnknownConfiguration { reference: reference.to_owned(), candidates })
            }
            ConfigurationMatch::Several(them) => {
                let them = them.into_iter().map(|configuration| (configuration.name.clone(), configuration)).collect();
                let detail =
                    format!("several configurations are called {reference:?}: give the id of the one that is meant");
                let fault = Fault { pointer: at.to_owned(), detail };
                Err(Error::AmbiguousName(vec![fault], candidates(them, SEVERAL_MAX)))
            }
        }
    }

    pub(super) fn names(&self) -> &NameLookup {
        self.resolver.names()
    }

    pub(super) fn may_read_configuration(&self, caller: &Caller, configuration: &Configuration) -> bool {
        self.check_may_read(caller, configuration).is_ok()
    }

    /// Whether policy lets the caller see a configuration and what is assigned to it.
    pub(super) fn check_may_read(&self, caller: &Caller, configuration: &Configuration) -> Result<(), Denial> {
        let resource = Resource { configuration, tags: &self.resolver.tags(&configuration.id) };
        self.policies.decide(caller, Action::Look, resource).map(drop)
    }
}
