//! Who may do what: Cedar policies, deny by default, a `forbid` wins.
//!
//! Guarantees: a [`Permit`] is made here and nowhere else, only for what every target of it was decided on, and it
//! cannot be copied, so whatever wants one was authorised. Cedar skips a policy that errs, which would turn an erring
//! `forbid` into consent; here any error denies. Nothing panics.
//!
//! It deliberately keeps nothing between decisions and does not look anything up: names and tags are handed in. Cedar
//! needs about 100 KB of stack and denies if it has less, so decide on threads whose stack is known. Called by
//! `gateway`; the folder is loaded by the root and by `postern check`.

mod answer;
mod facts;
mod literals;
mod load;
mod questions;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use cedar_policy::{Authorizer, Context, Decision, Entities, EntityUid, PolicyId, PolicySet, Request, Schema};
use jiff::Timestamp;

use crate::{
    config::Fault,
    domain::{
        Caller, Operation, Reversal,
        operation::{Submission, Until},
        reversal::Cause,
    },
    telemetry,
};

use self::{
    answer::broken,
    facts::Vocabulary,
    load::Loaded,
    questions::{Question, opposite, questions},
};
pub use self::{
    answer::{Allowed, Denial, Denied, Permit, Reason, Verdict},
    facts::Resource,
    literals::Known,
};

/// The policies of a folder, checked against their schema.
#[derive(Clone, Debug)]
pub struct Policies {
    set: PolicySet,
    schema: Schema,
    /// The file and the line of each.
    places: BTreeMap<PolicyId, (String, Option<usize>)>,
    /// Read once: Cedar takes longer to find an annotation than to decide.
    approvals: BTreeMap<PolicyId, String>,
    vocabulary: Vocabulary,
    authorizer: Authorizer,
}

/// What a caller wants to do that is not a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// See what a change would do.
    Plan,
    /// See a configuration and what is assigned at present: a kind of reading.
    Look,
    /// See operations.
    Read {
        /// Whether it is an operation that the caller asked for itself.
        own: bool,
    },
    /// Take an operation back before it begins.
    Cancel {
        /// Whether the caller asked for it itself.
        own: bool,
    },
    /// Ask for the opposite of an operation.
    Revert {
        /// Whether the caller asked for it itself.
        own: bool,
    },
    /// Read the audit trail.
    Audit,
}

impl Policies {
    /// Loads `schema.cedarschema` and `*.cedar` of a folder, or tells every fault of them.
    ///
    /// # Errors
    /// Faults are: a file that cannot be read or parsed, no policy at all, a policy without `@id` or with the `@id` of
    /// another, a template, and whatever Cedar's strict validation complains or warns of.
    pub fn load(dir: &Path) -> Result<Self, Vec<Fault>> {
        Self::new(load::load(dir)?).map_err(|what| {
            let hint = Some("take the schema.cedarschema of this version of the gateway".to_owned());
            vec![Fault { place: load::schema_path(dir).display().to_string(), line: None, what, hint }]
        })
    }

    fn new(Loaded { schema, set, places, approvals }: Loaded) -> Result<Self, String> {
        let vocabulary = Vocabulary::new()?;
        let policies = Self { set, schema, places, approvals, vocabulary, authorizer: Authorizer::new() };
        policies.rehearse()?;
        Ok(policies)
    }

    /// What the policies name and nothing is called, each with its place: they are good, but there they never apply.
    pub fn unknown(&self, known: &Known) -> Vec<Fault> {
        let mut faults = Vec::new();
        for policy in self.set.policies() {
            let Some((place, line)) = self.places.get(policy.id()) else { continue };
            let fault = |what: String| {
                let what = format!("policy {}: {what}", policy.id());
                Fault { place: place.clone(), line: *line, what, hint: None }
            };
            faults.extend(literals::unknown(policy, known).into_iter().map(fault));
        }
        faults.sort_by(|a, b| (&a.place, a.line, &a.what).cmp(&(&b.place, b.line, &b.what)));
        faults
    }

    /// Decides on each target of a change that is about to be accepted.
    ///
    /// What is decided on is taken from the submission alone, so the permit cannot be for another change.
    pub fn decide_change(
        &self,
        caller: &Caller,
        resource: Resource<'_>,
        submission: Submission,
    ) -> Result<Permit<Submission>, Denial> {
        if submission.change.reversal().is_some() {
            let reason = Reason::Undecided("a reversal is not decided as other changes are".to_owned());
            return Err(broken(Denial { action: "revert", target: None, reason }));
        }
        self.decide_targets(caller, resource, submission)
    }

    /// The permit for carrying out an end that was set: it rests on what permitted the change whose end it is, and is for the
    /// undoing of that and nothing else.
    pub fn permit_end(&self, original: &Operation, submission: Submission) -> Result<Permit<Submission>, Denial> {
        let asked = &original.submission;
        let same = asked.caller == submission.caller && asked.configuration == submission.configuration;
        let undoes = |it: &Reversal| it.operation() == original.id && it.cause() == Cause::Until;
        match &asked.until {
            Some(Until { policies, .. }) if same && submission.change.reversal().is_some_and(undoes) => {
                let policies = policies.iter().cloned().collect();
                // Whoever approved the change approved its end.
                Ok(Allowed { policies, approvals: BTreeSet::new() }.permit(submission))
            }
            Some(_) | None => {
                let reason = Reason::Undecided("no end was set for this".to_owned());
                Err(broken(Denial { action: "revert", target: None, reason }))
            }
        }
    }

    /// Decides on a reversal: on the right to revert the original, and on each target as on one that is added or removed.
    /// So nobody does by reverting what it may not do otherwise.
    pub fn decide_reversal(
        &self,
        caller: &Caller,
        resource: Resource<'_>,
        submission: Submission,
        original: &Operation,
    ) -> Result<Permit<Submission>, Denial> {
        let of = submission.change.reversal().map(Reversal::operation);
        if of != Some(original.id) || original.submission.configuration != submission.configuration {
            let reason = Reason::Undecided("the submission reverts another operation".to_owned());
            return Err(broken(Denial { action: "revert", target: None, reason }));
        }
        let own = original.submission.caller == caller.name;
        let (revert, ()) = self.decide(caller, Action::Revert { own }, resource)?.into_parts();
        let (mut allowed, submission) = self.decide_targets(caller, resource, submission)?.into_parts();
        allowed.extend(revert);
        Ok(allowed.permit(submission))
    }

    fn decide_targets(
        &self,
        caller: &Caller,
        resource: Resource<'_>,
        submission: Submission,
    ) -> Result<Permit<Submission>, Denial> {
        let questions = questions(&submission.change);
        let action = questions.first().map_or("add", |question| question.0);
        let undecided = |why: String| broken(Denial { action, target: None, reason: Reason::Undecided(why) });
        if submission.caller != caller.name || submission.configuration != resource.configuration.id {
            return Err(undecided("the submission is of another caller or about another configuration".to_owned()));
        }
        // A reversal may be about nothing but groups that are gone; then it has been decided on as a whole.
        if questions.is_empty() && submission.change.reversal().is_none() {
            return Err(undecided("the change is empty, so there is nothing to decide on".to_owned()));
        }
        let scene = Scene::new(self, caller, resource).map_err(undecided)?;
        let mut allowed = Allowed::default();
        for (action, denied, wanted) in questions {
            let context = facts::change(&submission, wanted.as_ref());
            allowed.extend(scene.decide(action, denied, context)?);
        }
        let mut inner = submission;
        if inner.until.is_some() {
            let ends = scene.decide_end(&inner)?;
            inner.until = inner.until.map(|until| Until { policies: ends.policies.iter().cloned().collect(), ..until });
            allowed.extend(ends);
        }
        Ok(allowed.permit(inner))
    }

    /// Decides whether a caller may give its word, for or against, on a change that waits for approvals of these names: on
    /// each target and each name. That nobody does so on a change of its own is not policy's to permit, and not asked here.
    pub fn decide_word(
        &self,
        caller: &Caller,
        resource: Resource<'_>,
        submission: &Submission,
        (names, now): (&[String], Timestamp),
    ) -> Result<Permit<()>, Denial> {
        const APPROVE: &str = "approve";
        let undecided = |why: String| broken(Denial { action: APPROVE, target: None, reason: Reason::Undecided(why) });
        let mut questions = questions(&submission.change);
        if questions.is_empty() && submission.change.reversal().is_some() {
            // All that it is about is gone by now.
            questions.push(("revert", None, None));
        }
        if questions.is_empty() || names.is_empty() || submission.configuration != resource.configuration.id {
            return Err(undecided("there is nothing to decide on, or it is about another configuration".to_owned()));
        }
        let scene = Scene::new(self, caller, resource).map_err(undecided)?;
        let mut allowed = Allowed::default();
        for (action, denied, wanted) in questions {
            for name in names {
                let context = facts::approval(submission, (action, wanted.as_ref()), name, now);
                allowed.extend(scene.decide(APPROVE, denied.clone(), context)?);
            }
        }
        Ok(Allowed { approvals: BTreeSet::new(), ..allowed }.permit(()))
    }

    /// What would be decided about each target of a change, those of its end included, and by which policies; for those who write policies.
    pub fn explain(
        &self,
        caller: &Caller,
        resource: Resource<'_>,
        submission: &Submission,
    ) -> Result<Vec<Verdict>, String> {
        let scene = Scene::new(self, caller, resource)?;
        let verdict = |(action, denied, wanted): Question, context: Option<Result<Context, String>>| {
            let target = denied.as_ref().map(|denied| denied.target.clone());
            let context = context.unwrap_or_else(|| facts::change(submission, wanted.as_ref()));
            Verdict { action, target, decision: scene.decide(action, denied, context).map_err(|denial| denial.reason) }
        };
        let mut verdicts: Vec<_> =
            questions(&submission.change).into_iter().map(|question| verdict(question, None)).collect();
        if submission.until.is_some() {
            verdicts.push(verdict(("revert", None, None), Some(facts::of(Action::Revert { own: true }))));
            verdicts.extend(opposite(&submission.change).into_iter().map(|question| verdict(question, None)));
        }
        Ok(verdicts)
    }

    /// Decides on what is not a change.
    pub fn decide(&self, caller: &Caller, action: Action, resource: Resource<'_>) -> Result<Permit<()>, Denial> {
        let name = action.name();
        let scene = Scene::new(self, caller, resource)
            .map_err(|why| broken(Denial { action: name, target: None, reason: Reason::Undecided(why) }))?;
        scene.decide(name, None, facts::of(action)).map(|allowed| allowed.permit(()))
    }

    /// Decides on reading those records of the audit trail that are about the gateway itself.
    pub fn decide_audit_of_gateway(&self, caller: &Caller) -> Result<Permit<()>, Denial> {
        let action = Action::Audit;
        let undecided =
            |why: String| broken(Denial { action: action.name(), target: None, reason: Reason::Undecided(why) });
        let scene = Scene::of_gateway(self, caller).map_err(undecided)?;
        scene.decide(action.name(), None, facts::of(action)).map(|allowed| allowed.permit(()))
    }

    /// Asks everything the gateway can ask, to see that the schema knows it all.
    fn rehearse(&self) -> Result<(), String> {
        let (caller, configuration, tags, submissions) = facts::rehearsal()?;
        let scene = Scene::new(self, &caller, Resource { configuration: &configuration, tags: &tags })?;
        let changes = submissions.iter().flat_map(|submission| {
            let asked = questions(&submission.change).into_iter();
            asked.flat_map(|(action, _, wanted)| {
                let about = (action, wanted.as_ref());
                let approval = facts::approval(submission, about, "approval", submission.accepted_at);
                [(action, facts::change(submission, wanted.as_ref())), ("approve", approval)]
            })
        });
        let own = true;
        let others = [
            Action::Plan,
            Action::Look,
            Action::Read { own },
            Action::Cancel { own },
            Action::Revert { own },
            Action::Audit,
        ];
        for (action, context) in changes.chain(others.map(|action| (action.name(), facts::of(action)))) {
            scene.request(action, context).map_err(|why| format!("it does not fit this version: {why}"))?;
        }
        let scene = Scene::of_gateway(self, &caller)?;
        let asked = scene.request(Action::Audit.name(), facts::of(Action::Audit));
        asked.map(drop).map_err(|why| format!("it does not fit this version: {why}"))
    }
}

impl Action {
    /// The name in policies and in audit records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plan => "plan",
            Self::Look | Self::Read { .. } => "read",
            Self::Cancel { .. } => "cancel",
            Self::Revert { .. } => "revert",
            Self::Audit => "audit",
        }
    }
}

/// One caller, and one configuration or the gateway, about whom several things are asked.
struct Scene<'a> {
    policies: &'a Policies,
    entities: Entities,
    principal: EntityUid,
    resource: EntityUid,
}

impl<'a> Scene<'a> {
    fn new(policies: &'a Policies, caller: &Caller, resource: Resource<'_>) -> Result<Self, String> {
        let words = &policies.vocabulary;
        let entities = words.entities(caller, resource, &policies.schema)?;
        let (principal, resource) = (words.caller(caller), words.configuration(resource));
        Ok(Self { policies, entities, principal, resource })
    }

    fn of_gateway(policies: &'a Policies, caller: &Caller) -> Result<Self, String> {
        let words = &policies.vocabulary;
        let entities = words.entities_of_gateway(caller, &policies.schema)?;
        Ok(Self { policies, entities, principal: words.caller(caller), resource: words.gateway() })
    }

    fn request(&self, action: &str, context: Result<Context, String>) -> Result<Request, String> {
        let (principal, resource) = (self.principal.clone(), self.resource.clone());
        let action = self.policies.vocabulary.action(action);
        Request::new(principal, action, resource, context?, Some(&self.policies.schema)).map_err(|why| why.to_string())
    }

    /// What permits what the end of a change implies: that its caller reverts it, and that each target
    /// is removed that it adds, and added that it removes.
    fn decide_end(&self, submission: &Submission) -> Result<Allowed, Denial> {
        let mut allowed = self.decide("revert", None, facts::of(Action::Revert { own: true }))?;
        for (action, denied, wanted) in opposite(&submission.change) {
            allowed.extend(self.decide(action, denied, facts::change(submission, wanted.as_ref()))?);
        }
        Ok(allowed)
    }

    /// What permits it. Of the policies that do, each that asks for an approval is heeded: consent without asking by one
    /// does not outweigh the caution of another.
    fn decide(
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
        let response = self.policies.authorizer.is_authorized(&request, &self.policies.set, &self.entities);
        let errors: Vec<_> = response.diagnostics().errors().map(ToString::to_string).collect();
        if !errors.is_empty() {
            return Err(broken(Denial { action, target, reason: Reason::Undecided(errors.join("; ")) }));
        }
        let policies: BTreeSet<_> = response.diagnostics().reason().map(ToString::to_string).collect();
        match response.decision() {
            Decision::Allow => {
                let asks = |id| self.policies.approvals.get(id).cloned();
                let approvals = response.diagnostics().reason().filter_map(asks).collect();
                Ok(Allowed { policies, approvals })
            }
            Decision::Deny if policies.is_empty() => Err(Denial { action, target, reason: Reason::NotPermitted }),
            Decision::Deny => Err(Denial { action, target, reason: Reason::Forbidden(policies.into_iter().collect()) }),
        }
    }
}
