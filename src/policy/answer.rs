//! What policy answers: a permit, or a denial that says why.
//!
//! Guarantees: a [`Permit`] cannot be copied, and nothing outside of `policy` can make one.
//!
//! It deliberately decides nothing.

use std::{collections::BTreeSet, fmt};

use crate::domain::{Target, change::List};

/// The proof that policy allowed what is inside.
#[derive(Debug)]
#[must_use = "a permit is asked for to be used"]
pub struct Permit<T> {
    inner: T,
    policies: Vec<String>,
    approvals: Vec<String>,
}

/// What policy decides about one target of a change, or about clearing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The action as policies name it.
    pub action: &'static str,
    /// The target; none if it is not about a target.
    pub target: Option<Target>,
    /// What permits it, or why nothing does.
    pub decision: Result<Allowed, Reason>,
}

/// What permits something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    /// The ids of the policies that permit it.
    pub policies: BTreeSet<String>,
    /// The approvals that these policies require.
    pub approvals: BTreeSet<String>,
}

impl Allowed {
    pub(super) fn extend(&mut self, other: Self) {
        self.policies.extend(other.policies);
        self.approvals.extend(other.approvals);
    }

    pub(super) fn permit<T>(self, inner: T) -> Permit<T> {
        let Self { policies, approvals } = self;
        Permit { inner, policies: policies.into_iter().collect(), approvals: approvals.into_iter().collect() }
    }
}

/// A denial by policy.
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
    /// The list of the change that it is in.
    pub list: List,
    /// Its index in that list.
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
    /// It cannot be decided, which denies; the text is for the gateway's operator.
    Undecided(String),
}

impl<T> Permit<T> {
    /// The ids of the policies that permitted it, sorted.
    pub fn policies(&self) -> &[String] {
        &self.policies
    }

    /// The names of the approvals without which it may not begin, sorted; none if it may begin at once.
    pub fn approvals(&self) -> &[String] {
        &self.approvals
    }

    /// What is permitted.
    pub fn get(&self) -> &T {
        &self.inner
    }

    /// What permits it, and what is permitted.
    pub(super) fn into_parts(self) -> (Allowed, T) {
        let Self { inner, policies, approvals } = self;
        (Allowed { policies: policies.into_iter().collect(), approvals: approvals.into_iter().collect() }, inner)
    }

    /// What is permitted; uses up the permit.
    pub fn into_inner(self) -> T {
        self.inner
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forbidden(policies) => write!(f, "forbidden by policy {}", policies.join(", ")),
            Self::NotPermitted => f.write_str("no policy permits it"),
            Self::Undecided(_) => f.write_str("the policies cannot be evaluated, so it is denied"),
        }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.action)?;
        match &self.target {
            Some(denied) => write!(f, " {}", denied.target),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Denial {}

/// Logs a denial about which its caller can do nothing: the operator must learn of it.
pub(super) fn broken(denial: Denial) -> Denial {
    if let Reason::Undecided(why) = &denial.reason {
        tracing::error!(policy.action = denial.action, error = %why, "policies cannot be evaluated; access is denied");
    }
    denial
}
