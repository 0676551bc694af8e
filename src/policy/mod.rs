//! Who may do what: Cedar policies, deny by default, a `forbid` wins.
//!
//! Guarantees: a [`Permit`] is made here and nowhere else, only for what every target of it was decided on, and it
//! cannot be copied, so whatever wants one was authorised. Cedar skips a policy that errs, which would turn an erring
//! `forbid` into consent; here any error denies. Nothing panics.
//!
//! It deliberately keeps nothing between decisions and does not look anything up: names and tags are handed in. Cedar
//! needs about 100 KB of stack and denies if it has less, so decide on threads whose stack is known. Called by
//! `gateway`; the folder is loaded by the root and by `postern check`.

mod facts;
mod load;
mod questions;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, fmt, path::Path};

use cedar_policy::{Authorizer, Context, Decision, Entities, EntityUid, PolicySet, Request, Schema};

use crate::{
    config::Fault,
    domain::{
        Caller, Operation, Reversal, Target,
        change::List,
        operation::{Submission, Until},
        reversal::Cause,
    },
    telemetry,
};

pub use self::facts::Resource;
use self::{
    facts::Vocabulary,
    questions::{opposite, questions},
};

/// The policies of a folder, checked against their schema.
#[derive(Clone, Debug)]
pub struct Policies {
    set: PolicySet,
    schema: Schema,
    vocabulary: Vocabulary,
    authorizer: Authorizer,
}

/// The proof that policy allowed what is inside.
#[derive(Debug)]
#[must_use = "a permit is asked for to be used"]
pub struct Permit<T> {
    inner: T,
    policies: Vec<String>,
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

/// Policy does not allow it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// The action as policies name it.
    pub action: &'static str,
    /// Which target of the change was denied; none if it was not about a target.
    pub target: Option<Denied>,
    /// Why.
    pub reason: Reason,
}

/// The target that was denied; others may be denied, too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// The list of the change in which it stands.
    pub list: List,
    /// Its place there, counted from zero.
    pub index: usize,
    /// The target.
    pub target: Target,
}

/// Why policy does not allow something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The policies of these ids forbid it.
    Forbidden(Vec<String>),
    /// No policy permits it.
    NotPermitted,
    /// It cannot be decided, which denies; the text is for the operator of the gateway.
    Undecided(String),
}

impl Policies {
    /// Loads `schema.cedarschema` and `*.cedar` of a folder, or tells every fault of them.
    ///
    /// # Errors
    /// Faults are: a file that cannot be read or parsed, no policy at all, a policy without `@id` or with the `@id` of
    /// another, a template, and whatever Cedar's strict validation complains or warns of.
    pub fn load(dir: &Path) -> Result<Self, Vec<Fault>> {
        let (schema, set) = load::load(dir)?;
        Self::new(schema, set).map_err(|what| {
            let hint = Some("take the schema.cedarschema of this version of the gateway".to_owned());
            vec![Fault { place: load::schema_path(dir).display().to_string(), line: None, what, hint }]
        })
    }

    fn new(schema: Schema, set: PolicySet) -> Result<Self, String> {
        let vocabulary = Vocabulary::new()?;
        let policies = Self { set, schema, vocabulary, authorizer: Authorizer::new() };
        policies.rehearse()?;
        Ok(policies)
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
                Ok(Permit { policies: policies.clone(), inner: submission })
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
        let Permit { policies, .. } = self.decide(caller, Action::Revert { own }, resource)?;
        let mut permit = self.decide_targets(caller, resource, submission)?;
        permit.policies.extend(policies);
        permit.policies.sort_unstable();
        permit.policies.dedup();
        Ok(permit)
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
        let mut policies = BTreeSet::new();
        for (action, denied, wanted) in questions {
            let context = facts::change(&submission, wanted.as_ref());
            policies.extend(scene.decide(action, denied, context)?);
        }
        let mut inner = submission;
        if inner.until.is_some() {
            let ends = scene.decide_end(&inner)?;
            policies.extend(ends.clone());
            inner.until = inner.until.map(|until| Until { policies: ends, ..until });
        }
        Ok(Permit { inner, policies: policies.into_iter().collect() })
    }

    /// Decides on what is not a change.
    pub fn decide(&self, caller: &Caller, action: Action, resource: Resource<'_>) -> Result<Permit<()>, Denial> {
        let name = action.name();
        let scene = Scene::new(self, caller, resource)
            .map_err(|why| broken(Denial { action: name, target: None, reason: Reason::Undecided(why) }))?;
        let policies = scene.decide(name, None, facts::of(action))?;
        Ok(Permit { inner: (), policies })
    }

    /// Asks everything the gateway can ask, to see that the schema knows it all.
    fn rehearse(&self) -> Result<(), String> {
        let (caller, configuration, tags, submissions) = facts::rehearsal()?;
        let scene = Scene::new(self, &caller, Resource { configuration: &configuration, tags: &tags })?;
        let changes = submissions.iter().flat_map(|submission| {
            let asked = questions(&submission.change).into_iter();
            asked.map(|(action, _, wanted)| (action, facts::change(submission, wanted.as_ref())))
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
        Ok(())
    }
}

impl<T> Permit<T> {
    /// The ids of the policies that permitted it, sorted.
    pub fn policies(&self) -> &[String] {
        &self.policies
    }

    /// What is permitted.
    pub fn get(&self) -> &T {
        &self.inner
    }

    /// What is permitted. The permit is used up.
    pub fn into_inner(self) -> T {
        self.inner
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

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.reason {
            Reason::Forbidden(policies) => write!(f, "forbidden by policy {}: ", policies.join(", "))?,
            Reason::NotPermitted => f.write_str("no policy permits it: ")?,
            Reason::Undecided(_) => f.write_str("the policies cannot be evaluated, which denies: ")?,
        }
        f.write_str(self.action)?;
        match &self.target {
            Some(denied) => write!(f, " {}", denied.target),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Denial {}

/// One caller and one configuration, about whom several things are asked.
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

    fn request(&self, action: &str, context: Result<Context, String>) -> Result<Request, String> {
        let (principal, resource) = (self.principal.clone(), self.resource.clone());
        let action = self.policies.vocabulary.action(action);
        Request::new(principal, action, resource, context?, Some(&self.policies.schema)).map_err(|why| why.to_string())
    }

    /// The ids of the policies that permit what the end of a change implies: that its caller reverts it, and that each target
    /// is removed that it adds, and added that it removes.
    fn decide_end(&self, submission: &Submission) -> Result<Vec<String>, Denial> {
        let revert = self.decide("revert", None, facts::of(Action::Revert { own: true }))?;
        let mut policies: BTreeSet<_> = revert.into_iter().collect();
        for (action, denied, wanted) in opposite(&submission.change) {
            policies.extend(self.decide(action, denied, facts::change(submission, wanted.as_ref()))?);
        }
        Ok(policies.into_iter().collect())
    }

    /// The ids of the policies that permit it.
    fn decide(
        &self,
        action: &'static str,
        target: Option<Denied>,
        context: Result<Context, String>,
    ) -> Result<Vec<String>, Denial> {
        let decided = self.evaluate(action, target, context);
        telemetry::count_decision(action, if decided.is_ok() { "permit" } else { "deny" });
        decided
    }

    fn evaluate(
        &self,
        action: &'static str,
        target: Option<Denied>,
        context: Result<Context, String>,
    ) -> Result<Vec<String>, Denial> {
        let request = match self.request(action, context) {
            Ok(request) => request,
            Err(why) => return Err(broken(Denial { action, target, reason: Reason::Undecided(why) })),
        };
        let response = self.policies.authorizer.is_authorized(&request, &self.policies.set, &self.entities);
        let errors: Vec<_> = response.diagnostics().errors().map(ToString::to_string).collect();
        if !errors.is_empty() {
            return Err(broken(Denial { action, target, reason: Reason::Undecided(errors.join("; ")) }));
        }
        let mut policies: Vec<_> = response.diagnostics().reason().map(ToString::to_string).collect();
        policies.sort_unstable();
        match response.decision() {
            Decision::Allow => Ok(policies),
            Decision::Deny if policies.is_empty() => Err(Denial { action, target, reason: Reason::NotPermitted }),
            Decision::Deny => Err(Denial { action, target, reason: Reason::Forbidden(policies) }),
        }
    }
}

/// A denial that its caller cannot help: the operator must learn of it.
fn broken(denial: Denial) -> Denial {
    if let Reason::Undecided(why) = &denial.reason {
        tracing::error!(policy.action = denial.action, error = %why, "policies cannot be evaluated, so it is denied");
    }
    denial
}
