//! Who may do what: Cedar policies; deny by default, and a `forbid` wins.
//!
//! Guarantees: a [`Permit`] is made here and nowhere else, only after every target in it was decided on, and it cannot be
//! copied, so code that takes one runs only for what was authorised. Cedar skips a policy whose evaluation fails, which
//! would turn a failing `forbid` into consent; here any error denies. Nothing panics.
//!
//! It deliberately does not look anything up: names and tags are passed in. Cedar needs about 100 KB of stack and denies if
//! it has less, so decide on threads whose stack size is known. Called by `gateway`; the folder is loaded by the root and
//! by `postern check`.

mod answer;
mod attribute_use;
mod context;
mod evaluation;
mod facts;
mod literals;
mod load;
mod questions;
mod slices;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use cedar_policy::{Authorizer, PolicyId, PolicySet, Schema};
use jiff::Timestamp;

use crate::{
    config::Fault,
    domain::{
        Caller, Operation, Reversal,
        operation::{Submission, Until},
        reversal::Cause,
    },
};

use self::{
    answer::broken,
    context::QuestionContext,
    evaluation::{EntityCache, Evaluation},
    facts::Vocabulary,
    load::Loaded,
    questions::{Question, opposite, questions},
    slices::Slices,
};
pub use self::{
    answer::{Allowed, Denial, Denied, Permit, Reason, Verdict},
    attribute_use::Attribute,
    facts::Resource,
    literals::KnownNames,
};

/// The policies of a folder, checked against their schema.
#[derive(Clone, Debug)]
pub struct Policies {
    set: PolicySet,
    slices: Slices,
    schema: Schema,
    /// The file and line of each policy.
    places: BTreeMap<PolicyId, (String, Option<usize>)>,
    /// The approvals that policies require, read once: Cedar takes longer to find an annotation than to decide.
    approvals: BTreeMap<PolicyId, String>,
    vocabulary: Vocabulary,
    authorizer: Authorizer,
    entity_cache: EntityCache,
}

/// What a caller wants to do other than a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// See what a change would do.
    Plan,
    /// See a configuration and its present assignments: a kind of reading.
    Look,
    /// See operations.
    Read {
        /// Whether the caller requested the operation itself.
        own: bool,
    },
    /// Cancel an operation before it begins.
    Cancel {
        /// Whether the caller requested it itself.
        own: bool,
    },
    /// Revert an operation.
    Revert {
        /// Whether the caller requested it itself.
        own: bool,
    },
    /// Read the audit trail.
    Audit,
}

impl Policies {
    /// Loads `schema.cedarschema` and `*.cedar` of a folder.
    ///
    /// # Errors
    /// All faults at once: a file that cannot be read or parsed, no policy at all, no `@id` or that of another, a misplaced
    /// `@approval`, a template, an error or warning of Cedar's strict validation, a schema that does not fit.
    pub fn load(dir: &Path) -> Result<Self, Vec<Fault>> {
        Self::new(load::load(dir)?).map_err(|what| {
            let hint = Some("take the schema.cedarschema of this version of the gateway".to_owned());
            vec![Fault { place: load::schema_path(dir).display().to_string(), line: None, what, hint }]
        })
    }

    fn new(Loaded { schema, set, places, approvals }: Loaded) -> Result<Self, String> {
        let vocabulary = Vocabulary::new()?;
        let (slices, authorizer, entity_cache) =
            (Slices::new(&set, &schema)?, Authorizer::new(), evaluation::entity_cache());
        let policies = Self { set, slices, schema, places, approvals, vocabulary, authorizer, entity_cache };
        policies.check_schema_fit()?;
        Ok(policies)
    }

    /// What policies name that does not exist, each with its place: such policies are valid, but there they never apply.
    pub fn unknown(&self, known: &KnownNames) -> Vec<Fault> {
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
    /// The decision is about the submission alone, so the permit cannot be for another change.
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

    /// The permit for carrying out an end that was set: it rests on what permitted the change that is undone, and covers
    /// undoing that change and nothing else.
    pub fn permit_until_reversal(
        &self,
        original: &Operation,
        submission: Submission,
    ) -> Result<Permit<Submission>, Denial> {
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

    /// Decides on a reversal: on the right to revert the original, and on each target as if it were added or removed. So
    /// reverting allows nothing that the caller may not do otherwise.
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
        let evaluation = Evaluation::new(self, caller, Some(resource)).map_err(undecided)?;
        let now = submission.accepted_at;
        let mut allowed = Allowed::default();
        for (action, denied, wanted) in questions {
            allowed.extend(evaluation.decide(
                action,
                denied,
                QuestionContext::of_change(&submission, now, wanted.as_ref()),
            )?);
        }
        let mut ends = None;
        if let Some(until) = &submission.until {
            let allows = evaluation.decide_until(&submission, now)?;
            ends = Some(Until { policies: allows.policies.iter().cloned().collect(), ..until.clone() });
            allowed.extend(allows);
        }
        Ok(allowed.permit(Submission { until: ends, ..submission }))
    }

    /// Decides whether a caller may answer, for or against, a change that awaits approvals of these names: on each target
    /// and each name. That nobody answers for their own change is not up to policy, and not checked here.
    pub fn decide_approval(
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
            // Everything that it is about is gone by now.
            questions.push(("revert", None, None));
        }
        if questions.is_empty() || names.is_empty() || submission.configuration != resource.configuration.id {
            return Err(undecided("there is nothing to decide on, or it is about another configuration".to_owned()));
        }
        let evaluation = Evaluation::new(self, caller, Some(resource)).map_err(undecided)?;
        let mut allowed = Allowed::default();
        for (action, denied, wanted) in questions {
            for name in names {
                let context = QuestionContext::of_approval(submission, now, (action, wanted.as_ref()), name);
                allowed.extend(evaluation.decide(APPROVE, denied.clone(), context)?);
            }
        }
        Ok(Allowed { approvals: BTreeSet::new(), ..allowed }.permit(()))
    }

    /// What would be decided about each target of a change and of its end, and by which policies; for authors of policies.
    pub fn explain(
        &self,
        caller: &Caller,
        resource: Resource<'_>,
        submission: &Submission,
    ) -> Result<Vec<Verdict>, String> {
        let evaluation = Evaluation::new(self, caller, Some(resource))?;
        let now = submission.accepted_at;
        let verdict = |(action, denied, wanted): Question, context: Option<QuestionContext>| {
            let target = denied.as_ref().map(|denied| denied.target.clone());
            let context = context.unwrap_or_else(|| QuestionContext::of_change(submission, now, wanted.as_ref()));
            Verdict {
                action,
                target,
                decision: evaluation.decide(action, denied, context).map_err(|denial| denial.reason),
            }
        };
        let mut verdicts: Vec<_> =
            questions(&submission.change).into_iter().map(|question| verdict(question, None)).collect();
        if submission.until.is_some() {
            verdicts.push(verdict(("revert", None, None), Some(QuestionContext::of(Action::Revert { own: true }))));
            verdicts.extend(opposite(&submission.change).into_iter().map(|question| verdict(question, None)));
        }
        Ok(verdicts)
    }

    /// Decides on an action that is not a change.
    pub fn decide(&self, caller: &Caller, action: Action, resource: Resource<'_>) -> Result<Permit<()>, Denial> {
        self.decide_on(caller, action, Some(resource))
    }

    /// Whether a decision for this caller can depend on one of these: policies that may apply look at it.
    pub fn depends_on(&self, attributes: &[Attribute], caller: &Caller, action: &str) -> bool {
        let caller = self.vocabulary.caller(&facts::Parties::new(caller, None));
        let action = self.vocabulary.action(action);
        let mut parts = self.slices.of(&action, &caller);
        parts.any(|part| attributes.iter().any(|attribute| part.attribute_use.uses(*attribute)))
    }

    /// Decides on reading the audit records that are about the gateway itself.
    pub fn decide_audit_of_gateway(&self, caller: &Caller) -> Result<Permit<()>, Denial> {
        self.decide_on(caller, Action::Audit, None)
    }

    fn decide_on(&self, caller: &Caller, of: Action, resource: Option<Resource<'_>>) -> Result<Permit<()>, Denial> {
        let action = of.name();
        let evaluation = Evaluation::new(self, caller, resource)
            .map_err(|why| broken(Denial { action, target: None, reason: Reason::Undecided(why) }))?;
        evaluation.decide(action, None, QuestionContext::of(of)).map(|allowed| allowed.permit(()))
    }

    /// Builds every question that the gateway can ask, to check that the schema knows it.
    fn check_schema_fit(&self) -> Result<(), String> {
        let (caller, configuration, tags, submissions) = facts::schema_sample()?;
        let evaluation = Evaluation::new(self, &caller, Some(Resource { configuration: &configuration, tags: &tags }))?;
        let mut asked = Vec::new();
        for submission in &submissions {
            let now = submission.accepted_at;
            for (action, _, wanted) in questions(&submission.change) {
                let approval = QuestionContext::of_approval(submission, now, (action, wanted.as_ref()), "approval");
                asked.extend([
                    (action, QuestionContext::of_change(submission, now, wanted.as_ref())),
                    ("approve", approval),
                ]);
            }
        }
        let own = true;
        let others = [
            Action::Plan,
            Action::Look,
            Action::Read { own },
            Action::Cancel { own },
            Action::Revert { own },
            Action::Audit,
        ];
        asked.extend(others.map(|action| (action.name(), QuestionContext::of(action))));
        for (action, context) in asked {
            evaluation.request(action, &context).map_err(|why| format!("it does not fit this version: {why}"))?;
        }
        let evaluation = Evaluation::new(self, &caller, None)?;
        let asked = evaluation.request(Action::Audit.name(), &QuestionContext::of(Action::Audit));
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
