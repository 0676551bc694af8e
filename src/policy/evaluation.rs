//! A caller and a resource, prepared for Cedar; and Cedar's decisions about them.
//!
//! Guarantees: entities are checked against the schema before anything is decided on them. They are cached by everything
//! that they are made from, so a difference makes new ones. Decisions are cached with them, by everything that Cedar was
//! given, so a cached decision is what Cedar would decide again. When the policies are replaced, all of it is dropped.
//!
//! It deliberately does not choose what to ask. Called by `policy` only.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use cedar_policy::{Decision, Entities, EntityUid, Request};
use jiff::Timestamp;
use moka::sync::Cache;

use super::{
    Action, Allowed, Denial, Denied, Policies, Reason, Resource, answer::broken, attribute_use::AttributeUse,
    context::QuestionContext, facts::Parties, questions::opposite, slices::Part,
};
use crate::{
    domain::{Caller, operation::Submission},
    telemetry,
};

/// Callers with a resource that are cached: some kilobytes each, and as much again for the decisions about them.
const ENTITIES_MAX: u64 = 1_000;
/// Decisions that are cached for each of them. Where policies look at tickets or ids, no number would be enough.
const DECIDED_MAX: usize = 16;

/// Those that were used lately.
pub(super) type EntityCache = Cache<Parties, Arc<CachedEntities>>;

/// One caller, and one configuration or the gateway, in Cedar's terms.
#[derive(Debug)]
pub(super) struct CachedEntities {
    entities: Entities,
    principal: EntityUid,
    resource: EntityUid,
    decided: Mutex<HashMap<DecisionKey, CachedDecision>>,
}

/// A question about them: the action, and the values of its context.
type DecisionKey = (&'static str, QuestionContext);
/// Cedar's answer to it.
type CachedDecision = Result<Allowed, Reason>;

/// One caller, and one configuration or the gateway, for several questions.
pub(super) struct Evaluation<'a> {
    policies: &'a Policies,
    cached: Arc<CachedEntities>,
}

pub(super) fn entity_cache() -> EntityCache {
    Cache::new(ENTITIES_MAX)
}

impl<'a> Evaluation<'a> {
    /// For a configuration; for the gateway if there is none.
    pub(super) fn new(policies: &'a Policies, caller: &Caller, resource: Option<Resource<'_>>) -> Result<Self, String> {
        let parties = Parties::new(caller, resource);
        if let Some(cached) = policies.entity_cache.get(&parties) {
            return Ok(Self { policies, cached });
        }
        let words = &policies.vocabulary;
        let entities = words.entities(&parties, &policies.schema)?;
        let (principal, resource) = (words.caller(&parties), words.resource(&parties));
        let cached = Arc::new(CachedEntities { entities, principal, resource, decided: Mutex::default() });
        policies.entity_cache.insert(parties, Arc::clone(&cached));
        Ok(Self { policies, cached })
    }

    pub(super) fn request(&self, action: &str, context: &QuestionContext) -> Result<Request, String> {
        self.put(self.policies.vocabulary.action(action), context)
    }

    fn put(&self, action: EntityUid, context: &QuestionContext) -> Result<Request, String> {
        let (principal, resource) = (self.cached.principal.clone(), self.cached.resource.clone());
        let schema = Some(&self.policies.schema);
        Request::new(principal, action, resource, context.context()?, schema).map_err(|why| why.to_string())
    }

    /// What permits what the end of a change implies: that its caller reverts it, that the targets it adds are removed, and
    /// that those it removes are added.
    pub(super) fn decide_until(&self, submission: &Submission, now: Timestamp) -> Result<Allowed, Denial> {
        let mut allowed = self.decide("revert", None, QuestionContext::of(Action::Revert { own: true }))?;
        for (action, denied, wanted) in opposite(&submission.change) {
            allowed.extend(self.decide(
                action,
                denied,
                QuestionContext::of_change(submission, now, wanted.as_ref()),
            )?);
        }
        Ok(allowed)
    }

    /// What permits an action. If several policies do, every approval that one of them requires is required: consent by one
    /// that requires none does not override another.
    pub(super) fn decide(
        &self,
        action: &'static str,
        target: Option<Denied>,
        context: QuestionContext,
    ) -> Result<Allowed, Denial> {
        let decided = self.decided(action, context).map_err(|reason| broken(Denial { action, target, reason }));
        telemetry::count_decision(action, if decided.is_ok() { "permit" } else { "deny" });
        decided
    }

    /// What Cedar decides, or has decided about the same question.
    fn decided(&self, name: &'static str, context: QuestionContext) -> CachedDecision {
        let action = self.policies.vocabulary.action(name);
        let parts = self.policies.slices.of(&action, &self.cached.principal);
        let mut attribute_use = AttributeUse::default();
        parts.clone().for_each(|part| attribute_use.extend(&part.attribute_use));
        let question = (name, context.without_unused(&attribute_use));
        let decided = || self.cached.decided.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = decided().get(&question) {
            return known.clone();
        }
        let put = self.put(action.clone(), &question.1).map_err(Reason::Undecided);
        let answer = put.and_then(|put| self.evaluate(&put, parts));
        // What cannot be decided now, for lack of stack, may be decidable the next time.
        if !matches!(answer, Err(Reason::Undecided(_))) {
            let mut decided = decided();
            if decided.len() >= DECIDED_MAX {
                decided.clear();
            }
            decided.insert(question, answer.clone());
        }
        answer
    }

    fn evaluate<'p>(&self, request: &Request, parts: impl Iterator<Item = &'p Part>) -> CachedDecision {
        let (mut permits, mut forbids, mut errors) = (Vec::new(), BTreeSet::new(), Vec::new());
        for part in parts {
            let response = self.policies.authorizer.is_authorized(request, &part.policies, &self.cached.entities);
            errors.extend(response.diagnostics().errors().map(ToString::to_string));
            let reasons = response.diagnostics().reason();
            match response.decision() {
                Decision::Allow => permits.extend(reasons.cloned()),
                Decision::Deny => forbids.extend(reasons.map(ToString::to_string)),
            }
        }
        // One part of the policies does not know the others, so what forbids or fails is looked at before what permits.
        if !errors.is_empty() {
            Err(Reason::Undecided(errors.join("; ")))
        } else if !forbids.is_empty() {
            Err(Reason::Forbidden(forbids.into_iter().collect()))
        } else if permits.is_empty() {
            Err(Reason::NotPermitted)
        } else {
            let approvals = permits.iter().filter_map(|id| self.policies.approvals.get(id).cloned()).collect();
            Ok(Allowed { policies: permits.iter().map(ToString::to_string).collect(), approvals })
        }
    }
}
