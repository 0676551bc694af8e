//! Which attributes of a question's context and of its resource policies look at: read once from their syntax trees.
//!
//! Guarantees: whatever a policy can read of the context, and of what Graph says of a configuration, is among what it uses.
//! A tree that is not understood uses everything.
//!
//! Testing whether an attribute is present (`context has ticket`) is not looking at its value; its presence is always
//! visible. It deliberately evaluates nothing. Called by `policy` only.

use std::collections::BTreeSet;

use cedar_policy::Policy;
use serde_json::Value;

/// What policies may ignore: in a context, whatever can have many values, and in a configuration, what Graph says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Attribute {
    /// The id of a target.
    TargetId,
    /// Its name.
    TargetName,
    /// Its filter.
    TargetFilter,
    /// Its filter's mode.
    TargetFilterMode,
    /// How many targets there are.
    Targets,
    /// The ticket.
    Ticket,
    /// The time.
    Now,
    /// The hour.
    Hour,
    /// The day of the week.
    Weekday,
    /// The name of the configuration.
    Name,
    /// Its kind.
    Kind,
    /// Its priority.
    Priority,
}

/// The path of each.
const ATTRIBUTES: [(Attribute, &[&str]); 12] = [
    (Attribute::TargetId, &["context", "target", "id"]),
    (Attribute::TargetName, &["context", "target", "name"]),
    (Attribute::TargetFilter, &["context", "target", "filter"]),
    (Attribute::TargetFilterMode, &["context", "target", "filter_mode"]),
    (Attribute::Targets, &["context", "targets"]),
    (Attribute::Ticket, &["context", "ticket"]),
    (Attribute::Now, &["context", "time", "now"]),
    (Attribute::Hour, &["context", "time", "hour"]),
    (Attribute::Weekday, &["context", "time", "weekday"]),
    (Attribute::Name, &["resource", "name"]),
    (Attribute::Kind, &["resource", "kind"]),
    (Attribute::Priority, &["resource", "priority"]),
];

/// What some policies look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct AttributeUse(BTreeSet<Attribute>);

impl AttributeUse {
    pub(super) fn of(policy: &Policy) -> Self {
        let mut used = Self::default();
        match policy.to_json() {
            Ok(tree) => used.visit(&tree),
            Err(_) => used.add_below(&[]),
        }
        used
    }

    pub(super) fn extend(&mut self, other: &Self) {
        self.0.extend(&other.0);
    }

    pub(super) fn uses(&self, attribute: Attribute) -> bool {
        self.0.contains(&attribute)
    }

    /// Adds what is at this path and everything below it.
    fn add_below(&mut self, place: &[&str]) {
        self.0.extend(ATTRIBUTES.iter().filter(|(_, at)| at.starts_with(place)).map(|(attribute, _)| attribute));
    }

    fn visit(&mut self, tree: &Value) {
        if let Some(place) = place(tree) {
            return self.add_below(&place);
        }
        match tree {
            Value::Object(fields) => {
                for (operator, sides) in fields {
                    let asked = sides.get("left").filter(|_| operator == "has");
                    if asked.and_then(place).is_none() {
                        self.visit(sides);
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| self.visit(item)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
}

/// The path in the context or in the resource that an expression names; none if it names none.
fn place(tree: &Value) -> Option<Vec<&str>> {
    if let Some(root @ ("context" | "resource")) = tree.get("Var").and_then(Value::as_str) {
        return Some(vec![root]);
    }
    let access = tree.get(".")?;
    let mut place = place(access.get("left")?)?;
    place.push(access.get("attr")?.as_str()?);
    Some(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(condition: &str) -> Vec<Attribute> {
        let policy = format!("permit (principal, action, resource) when {{ {condition} }};");
        AttributeUse::of(&policy.parse().unwrap()).0.into_iter().collect()
    }

    #[test]
    fn a_policy_sees_what_it_reads() {
        assert_eq!(used("true"), []);
        assert_eq!(used(r#"principal.ticket == "x" && resource.target.name == "x""#), []);
        assert_eq!(used(r#"context.target.kind == "group" && context.own"#), []);
        assert_eq!(used(r#"context.ticket like "RITM*""#), [Attribute::Ticket]);
        assert_eq!(used(r#"!([context["ticket"]].contains("x"))"#), [Attribute::Ticket]);
        assert_eq!(used("context.targets > 3"), [Attribute::Targets]);
        assert_eq!(
            used(r#"context.time.hour < 6 || context.time.weekday == "sunday""#),
            [Attribute::Hour, Attribute::Weekday]
        );
        assert_eq!(used(r#"context.time.now.toDate() == datetime("2027-01-04")"#), [Attribute::Now]);
        let of_target =
            [Attribute::TargetId, Attribute::TargetName, Attribute::TargetFilter, Attribute::TargetFilterMode];
        assert_eq!(used(r#"context.target == {"kind": "group"}"#), of_target);
        assert_eq!(used("(if principal.a then context.target else resource.b).name == resource.c"), of_target);
        assert_eq!(used("context == resource.everything").len(), 9);
        assert_eq!(used(r#"{"a": context}.a.ticket == "x""#).len(), 9);
        assert_eq!(
            used(r#"{"Var": context.ticket, ".": context.targets, "has": {"left": context.target.id}} == resource.a"#),
            [Attribute::TargetId, Attribute::Targets, Attribute::Ticket]
        );
    }

    #[test]
    fn a_policy_sees_what_it_reads_of_a_configuration() {
        assert_eq!(used(r#"resource.tags.contains("x") && principal.name == "x""#), []);
        assert_eq!(
            used(r#"resource.name like "VIP*" || resource["priority"] < 3"#),
            [Attribute::Name, Attribute::Priority]
        );
        assert_eq!(used(r#"context.own && resource.kind == "device-limit""#), [Attribute::Kind]);
        assert_eq!(used("(if context.own then resource else principal).name == principal.name").len(), 3);
    }

    #[test]
    fn has_checks_do_not_count_as_reading_an_attribute() {
        assert_eq!(used("context has ticket && context.target has name"), []);
        assert_eq!(used(r#"context has ticket && context.ticket == "x""#), [Attribute::Ticket]);
        assert_eq!(used("context has target.name"), []);
        assert_eq!(used("(if principal.a then context.target else resource.b) has name").len(), 4);
    }
}
