//! A caller and what it is about, set before Cedar; and what Cedar says.
//!
//! Guarantees: entities were checked against the schema before anything is decided on them. They are remembered by all that they
//! are made of, so whatever changes makes others, and with the policies they are forgotten. No decision is.
//!
//! It deliberately asks what it is told to. Called by `policy` only.

use std::{collections::BTreeSet, sync::Arc};

use cedar_policy::{Context, Decision, Entities, EntityUid, Request};
use moka::sync::Cache;

use super::{
    Action, Allowed, Denial, Denied, Policies, Reason, Resource,
    answer::broken,
    facts::{self, Parties, Told},
    questions::opposite,
};
use crate::{
    domain::{Caller, Change},
    telemetry,
};

/// Callers with a configuration that are remembered: some kilobytes each.
const CASTS_MAX: u64 = 1_000;

/// Those that were set before Cedar of late.
pub(super) type Casts = Cache<Parties, Arc<Cast>>;

/// One caller, and one configuration or the gateway, in Cedar's terms.
#[derive(Debug)]
pub(super) struct Cast {
    entities: Entities,
    principal: EntityUid,
    resource: EntityUid,
}

/// One caller, and one configuration or the gateway, about whom several things are asked.
pub(super) struct Scene<'a> {
    policies: &'a Policies,
    cast: Arc<Cast>,
}

pub(super) fn casts() -> Casts {
    Cache::new(CASTS_MAX)
}

impl<'a> Scene<'a> {
    /// About a configuration; about the gateway where there is none.
    pub(super) fn new(policies: &'a Policies, caller: &Caller, resource: Option<Resource<'_>>) -> Result<Self, String> {
        let parties = Parties::new(caller, resource);
        if let Some(cast) = policies.casts.get(&parties) {
            return Ok(Self { policies, cast });
        }
        let words = &policies.vocabulary;
        let entities = words.entities(&parties, &policies.schema)?;
        let (principal, resource) = (words.caller(&parties), words.resource(&parties));
        let cast = Arc::new(Cast { entities, principal, resource });
        policies.casts.insert(parties, Arc::clone(&cast));
        Ok(Self { policies, cast })
    }

    pub(super) fn request(&self, action: &str, context: Result<Context, String>) -> Result<Request, String> {
        let (principal, resource) = (self.cast.principal.clone(), self.cast.resource.clone());
        let action = self.policies.vocabulary.action(action);
        Request::new(principal, action, resource, context?, Some(&self.policies.schema)).map_err(|why| why.to_string())
    }

    /// What permits what the end of a change implies: that its caller reverts it, and that each target
    /// is removed that it adds, and added that it removes.
    pub(super) fn decide_end(&self, change: &Change, told: &Told<'_>) -> Result<Allowed, Denial> {
        let mut allowed = self.decide("revert", None, facts::of(Action::Revert { own: true }))?;
        for (action, denied, wanted) in opposite(change) {
            allowed.extend(self.decide(action, denied, told.change(wanted.as_ref()))?);
        }
        Ok(allowed)
    }

    /// What permits it. Of the policies that do, each that asks for an approval is heeded: consent without asking by one
    /// does not outweigh the caution of another.
    pub(super) fn decide(
        &self,
        action: &'static str,
        target: Option<Denied>,
        context: Result<Context, String>,
    ) -> Result<Allowed, Denial> {
        let decided = self.evaluate(action, target, context);
        telemetry::count_decision(action, if decided.is_ok() { "permit" } else { "deny" });
        decided
    }

    fn evaluate(
        &self,
        action: &'static str,
        target: Option<Denied>,
        context: Result<Context, String>,
    ) -> Result<Allowed, Denial> {
        let request = match self.request(action, context) {
            Ok(request) => request,
            Err(why) => return Err(broken(Denial { action, target, reason: Reason::Undecided(why) })),
        };
        let (mut permits, mut forbids, mut errors) = (Vec::new(), BTreeSet::new(), Vec::new());
        for policies in self.policies.slices.of(&request) {
            let response = self.policies.authorizer.is_authorized(&request, policies, &self.cast.entities);
            errors.extend(response.diagnostics().errors().map(ToString::to_string));
            let reasons = response.diagnostics().reason();
            match response.decision() {
                Decision::Allow => permits.extend(reasons.cloned()),
                Decision::Deny => forbids.extend(reasons.map(ToString::to_string)),
            }
        }
        // A part of the policies does not know of the others, so what forbids and what errs is looked at before what permits.
        let reason = if !errors.is_empty() {
            Reason::Undecided(errors.join("; "))
        } else if !forbids.is_empty() {
            Reason::Forbidden(forbids.into_iter().collect())
        } else if permits.is_empty() {
            Reason::NotPermitted
        } else {
            let approvals = permits.iter().filter_map(|id| self.policies.approvals.get(id).cloned()).collect();
            return Ok(Allowed { policies: permits.iter().map(ToString::to_string).collect(), approvals });
        };
        Err(broken(Denial { action, target, reason }))
    }
}
