//! Which policies can apply to whom and what: found once by their scopes, because Cedar evaluates every policy it is given.
//!
//! Guarantees: a policy is left out only if its scope names another action or another caller. Cedar would find that it does
//! not apply, and without an error, because it evaluates conditions only after scopes.
//!
//! It deliberately evaluates nothing. Called by `policy` only.

use std::collections::HashMap;

use cedar_policy::{ActionConstraint, EntityUid, PolicySet, PrincipalConstraint, Schema};

use super::attribute_use::AttributeUse;

/// The policies by action.
#[derive(Clone, Debug)]
pub(super) struct Slices(HashMap<EntityUid, Slice>);

/// The policies that can apply to one action. Those that name a caller are kept apart, so that those for anybody are not
/// stored once for each caller.
#[derive(Clone, Debug, Default)]
struct Slice {
    anybody: Part,
    named: HashMap<EntityUid, Part>,
}

/// Policies, and what they look at.
#[derive(Clone, Debug, Default)]
pub(super) struct Part {
    pub(super) policies: PolicySet,
    pub(super) attribute_use: AttributeUse,
}

impl Slices {
    pub(super) fn new(set: &PolicySet, schema: &Schema) -> Result<Self, String> {
        let known = schema.action_entities().map_err(|why| why.to_string())?;
        let mut slices = HashMap::<_, Slice>::new();
        for action in schema.actions() {
            let slice = slices.entry(action.clone()).or_default();
            for policy in set.policies() {
                let about = |named: &EntityUid| named == action || known.is_ancestor_of(named, action);
                let fits = match policy.action_constraint() {
                    ActionConstraint::Any => true,
                    ActionConstraint::In(named) => named.iter().any(about),
                    ActionConstraint::Eq(named) => named == *action,
                };
                if !fits {
                    continue;
                }
                let whose = match policy.principal_constraint() {
                    PrincipalConstraint::Eq(caller) => slice.named.entry(caller).or_default(),
                    PrincipalConstraint::Any
                    | PrincipalConstraint::In(_)
                    | PrincipalConstraint::Is(_)
                    | PrincipalConstraint::IsIn(..) => &mut slice.anybody,
                };
                whose.policies.add(policy.clone()).map_err(|why| why.to_string())?;
                whose.attribute_use.extend(&AttributeUse::of(policy));
            }
        }
        Ok(Self(slices))
    }

    /// The policies that can apply: those for anybody, and the caller's own.
    pub(super) fn of(&self, action: &EntityUid, caller: &EntityUid) -> impl Iterator<Item = &Part> + Clone {
        let slice = self.0.get(action);
        let own = slice.and_then(|slice| slice.named.get(caller));
        slice.map(|slice| &slice.anybody).into_iter().chain(own)
    }
}
