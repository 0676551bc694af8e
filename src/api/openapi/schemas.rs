//! Response schemas, from the types that are returned, and the enumerations that they use.
//!
//! Guarantees: a field that can be absent is never null, and one that can be null is never absent. So callers need only one
//! check for each.

use std::borrow::Cow;

use serde_json::{Map, Value};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        RefOr,
        schema::{ObjectBuilder, Schema, Type},
    },
};

use crate::{
    api::{
        assignments, audit, configurations, groups, operation_view, operations, problem::Code, problem_view, webhooks,
    },
    domain::{self, State},
};

/// Generates types for enumerations of strings: they have a schema and no values.
macro_rules! words {
    ($($(#[doc = $doc:literal])+ $name:ident = $words:expr;)+) => { $(
        $(#[doc = $doc])+
        pub(in crate::api) enum $name {}

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                let words = ObjectBuilder::new().schema_type(Type::String).enum_values(Some($words));
                words.description(Some(concat!($($doc,)+).trim())).build().into()
            }
        }

        impl ToSchema for $name {}
    )+ };
}

words! {
    /// The state of an operation.
    OperationState = State::NAMES;
    /// The stable code of a problem; each has a page at `/problems/{code}`.
    ProblemCode = Code::ALL.iter().map(|code| code.name());
    /// Whether something changes.
    Effect = ["changed", "unchanged"];
    /// Whether only the devices that a filter matches are included, or whether they are excluded.
    FilterMode = ["include", "exclude"];
    /// All devices or all users.
    Everyone = ["devices", "users"];
    /// Why a reversal leaves a target as it is.
    KeptBecause = ["filter-changed", "assigned-again", "removed", "group-gone", "not-assignable"];
    /// Whether an end is still to come, was carried out, was called off, or is moot because there was nothing to undo.
    EndState = ["ahead", "called-off", "reverted", "moot"];
    /// Whether a required approval was given or refused, or expired.
    ApprovalWord = ["approved", "rejected", "expired"];
    /// Whether a message is still to be delivered, was delivered, or was given up until somebody requests it again.
    CallbackState = ["pending", "delivered", "parked"];
    /// Why an operation undoes another one although nobody requested that.
    Cause = ["until"];
    /// Whether an assignment is direct, so that changes can affect it, or comes from a policy set.
    Source = ["direct", "policy-set"];
    /// Whether changes were accepted, or the event was ignored because no rule matches it.
    WebhookResult = ["accepted", "ignored"];
    /// What configurations can be assigned to.
    Taken = ["groups", "all-users", "all-devices", "filters"];
}

/// The kind of a configuration. The list is not closed: Microsoft adds to it.
pub(in crate::api) enum Kind {}

impl PartialSchema for Kind {
    fn schema() -> RefOr<Schema> {
        let known = domain::Kind::names().collect::<Vec<_>>().join("`, `");
        let text = format!("The kind of a configuration. Known kinds are `{known}`; more may be added.");
        ObjectBuilder::new().schema_type(Type::String).description(Some(text)).build().into()
    }
}

impl ToSchema for Kind {
    fn name() -> Cow<'static, str> {
        "ConfigurationKind".into()
    }
}

/// All response schemas, by name.
pub(super) fn of_answers() -> Map<String, Value> {
    let mut found = Vec::new();
    collect::<operation_view::OperationView>(&mut found);
    collect::<operations::PageView>(&mut found);
    collect::<audit::PageView>(&mut found);
    collect::<assignments::PlanView>(&mut found);
    collect::<configurations::ManyView>(&mut found);
    collect::<configurations::AssignedView>(&mut found);
    collect::<groups::ReachView>(&mut found);
    collect::<webhooks::Answer>(&mut found);
    collect::<problem_view::Document<'static>>(&mut found);
    let value = |schema| {
        let mut value = serde_json::to_value(schema).unwrap_or_default();
        without_null(&mut value);
        value
    };
    found.into_iter().map(|(name, schema)| (name, value(schema))).collect()
}

fn collect<T: ToSchema>(found: &mut Vec<(String, RefOr<Schema>)>) {
    found.push((T::name().into_owned(), <T as PartialSchema>::schema()));
    T::schemas(found);
}

/// Removes null from the schema of every field that is absent instead.
fn without_null(schema: &mut Value) {
    let required = schema.get("required").cloned().unwrap_or_default();
    let is_required = |name: &str| required.as_array().is_some_and(|all| all.iter().any(|it| it == name));
    let Some(object) = schema.as_object_mut() else { return };
    if let Some(Value::Array(parts)) = object.get_mut("allOf") {
        parts.iter_mut().for_each(without_null);
    }
    let Some(Value::Object(fields)) = object.get_mut("properties") else { return };
    for (_, field) in fields.iter_mut().filter(|(name, _)| !is_required(name)) {
        not_null(field);
    }
}

fn not_null(field: &mut Value) {
    let Some(object) = field.as_object_mut() else { return };
    if let Some(Value::Array(types)) = object.get_mut("type") {
        types.retain(|it| it != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            object.insert("type".to_owned(), only);
        }
    }
    if let Some(Value::Array(mut choices)) = object.remove("oneOf") {
        choices.retain(|it| it != &serde_json::json!({"type": "null"}));
        match <[Value; 1]>::try_from(choices) {
            Ok([Value::Object(only)]) => object.extend(only),
            Ok([other]) => drop(object.insert("allOf".to_owned(), Value::from(vec![other]))),
            Err(several) => drop(object.insert("oneOf".to_owned(), Value::from(several))),
        }
    }
}
