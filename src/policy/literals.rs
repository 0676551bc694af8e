//! Names in policies that do not exist: callers, issuers and tags that the settings lack, unknown kinds and words.
//!
//! Cedar's validation checks types, not values: it accepts `resource.tags.contains("slaes")` like any other text, and a
//! policy with it never applies. Guarantees: each unknown name is reported once per policy, with what it was taken for.
//!
//! It deliberately does not check what only others know: roles are the issuer's, ids and names Graph's; of an id it checks
//! only the spelling. And it only reports: such a policy still decides as it is written. Called by `policy`, for
//! `postern check`.

use std::{collections::BTreeSet, str::FromStr};

use cedar_policy::Policy;
use serde_json::Value;

use crate::domain::{ConfigurationId, FilterId, FilterMode, GroupId, Kind};

/// The names in the settings.
#[derive(Clone, Debug, Default)]
pub struct KnownNames {
    /// Of callers, including webhook sources.
    pub callers: BTreeSet<String>,
    /// Of issuers, and of webhook sources as policies name them.
    pub issuers: BTreeSet<String>,
    /// Tags in the catalogue.
    pub tags: BTreeSet<String>,
}

/// What policies compare with the gateway's own words: the attribute, by its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compared {
    Tags,
    Kind,
    Issuer,
    Asker,
    Targets,
    GroupId,
    FilterId,
    Mode,
    ConfigurationId,
    Changes,
    Weekday,
}

const WEEKDAYS: [&str; 7] = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];
const TARGETS: [&str; 5] = ["group", "all-devices", "all-users", "excluded-group", "foreign"];
/// The kind of the gateway itself, for policies about who may read its records.
const GATEWAY: &str = "gateway";
const CHANGES: [&str; 5] = ["add", "remove", "replace", "clear", "revert"];
/// Operators whose two sides are compared.
const OPERATORS: [&str; 5] = ["==", "!=", "contains", "containsAny", "containsAll"];

/// What a policy names that is not known, each with what it was taken for.
pub(super) fn unknown(policy: &Policy, known: &KnownNames) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for literal in policy.entity_literals() {
        let (kind, id) = (literal.type_name().basename().to_owned(), literal.id().unescaped().to_owned());
        let what = match kind.as_str() {
            "Caller" if !known.callers.contains(&id) => "a caller: no [[callers]] or [[webhooks]] entry has that name",
            "Configuration" => match spelt::<ConfigurationId>(&id) {
                Some(Spelling::NoId) => "the id of a configuration in Graph",
                Some(Spelling::Other(ours)) => {
                    found.insert(misspelt(&id, &ours));
                    continue;
                }
                None => continue,
            },
            _ => continue,
        };
        found.insert(format!("{id:?} is not {what}"));
    }
    if let Ok(tree) = policy.to_json() {
        walk(&tree, known, &mut found);
    }
    found
}

/// What keeps an id from ever being equal to one that the gateway has.
enum Spelling {
    NoId,
    /// The gateway writes it so.
    Other(String),
}

/// Cedar compares texts letter by letter, and the gateway has one spelling for each id.
fn spelt<T: FromStr + ToString>(id: &str) -> Option<Spelling> {
    match id.parse::<T>().map(|parsed| parsed.to_string()) {
        Err(_) => Some(Spelling::NoId),
        Ok(ours) => (ours != id).then_some(Spelling::Other(ours)),
    }
}

fn misspelt(id: &str, ours: &str) -> String {
    format!("{id:?} is never equal to an id: write {ours:?}")
}

/// Looks at every comparison in a policy's syntax tree.
fn walk(tree: &Value, known: &KnownNames, found: &mut BTreeSet<String>) {
    match tree {
        Value::Object(fields) => {
            for (operator, sides) in fields {
                if OPERATORS.contains(&operator.as_str())
                    && let (Some(left), Some(right)) = (sides.get("left"), sides.get("right"))
                {
                    compare(left, right, known, found);
                    compare(right, left, known, found);
                }
                walk(sides, known, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| walk(item, known, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn compare(attribute: &Value, words: &Value, known: &KnownNames, found: &mut BTreeSet<String>) {
    let Some(compared) = compared(&path(attribute)) else { return };
    let mut named = Vec::new();
    texts(words, &mut named);
    for word in named {
        let spelling = match compared {
            Compared::GroupId => spelt::<GroupId>(word),
            Compared::FilterId => spelt::<FilterId>(word),
            Compared::ConfigurationId => spelt::<ConfigurationId>(word),
            Compared::Tags
            | Compared::Kind
            | Compared::Issuer
            | Compared::Asker
            | Compared::Targets
            | Compared::Mode
            | Compared::Changes
            | Compared::Weekday => None,
        };
        if let Some(Spelling::Other(ours)) = &spelling {
            found.insert(misspelt(word, ours));
            continue;
        }
        let what = match compared {
            Compared::GroupId if spelling.is_some() => "the object id of a group".to_owned(),
            Compared::FilterId if spelling.is_some() => "the id of a filter".to_owned(),
            Compared::ConfigurationId if spelling.is_some() => "the id of a configuration".to_owned(),
            Compared::Tags if !known.tags.contains(word) => "a tag in the catalogue".to_owned(),
            Compared::Kind if word != GATEWAY && Kind::named(word).is_none() => {
                one_of("a kind", &Kind::names().chain([GATEWAY]).collect::<Vec<_>>())
            }
            Compared::Issuer if !known.issuers.contains(word) => {
                "an issuer: no [[issuers]] entry has that name, and no [[webhooks]] entry that source".to_owned()
            }
            Compared::Asker if !known.callers.contains(word) => {
                "a caller: no [[callers]] or [[webhooks]] entry has that name".to_owned()
            }
            Compared::Targets if !TARGETS.contains(&word) => one_of("a kind of target", &TARGETS),
            Compared::Changes if !CHANGES.contains(&word) => one_of("a kind of change", &CHANGES),
            Compared::Mode if FilterMode::named(word).is_none() => one_of("a filter mode", &["include", "exclude"]),
            Compared::Weekday if !WEEKDAYS.contains(&word) => one_of("a weekday", &WEEKDAYS),
            Compared::GroupId
            | Compared::FilterId
            | Compared::ConfigurationId
            | Compared::Mode
            | Compared::Tags
            | Compared::Kind
            | Compared::Issuer
            | Compared::Asker
            | Compared::Targets
            | Compared::Changes
            | Compared::Weekday => continue,
        };
        found.insert(format!("{word:?} is not {what}"));
    }
}

fn one_of(what: &str, words: &[&str]) -> String {
    format!("{what}: use one of {}", words.join(", "))
}

fn compared(path: &str) -> Option<Compared> {
    Some(match path {
        "resource.tags" => Compared::Tags,
        "resource.kind" => Compared::Kind,
        "principal.issuer" => Compared::Issuer,
        "context.asker" => Compared::Asker,
        "resource.configurationId" => Compared::ConfigurationId,
        "context.target.kind" => Compared::Targets,
        "context.target.id" => Compared::GroupId,
        "context.target.filter" => Compared::FilterId,
        "context.target.filter_mode" => Compared::Mode,
        "context.change" => Compared::Changes,
        "context.time.weekday" => Compared::Weekday,
        _ => return None,
    })
}

/// An attribute's path as policies write it; empty if it is something else.
fn path(tree: &Value) -> String {
    if let Some(variable) = tree.get("Var").and_then(Value::as_str) {
        return variable.to_owned();
    }
    let access = tree.get(".");
    let of = access.and_then(|access| access.get("left")).map(path).unwrap_or_default();
    let attribute = access.and_then(|access| access.get("attr")).and_then(Value::as_str).unwrap_or_default();
    if of.is_empty() { String::new() } else { format!("{of}.{attribute}") }
}

/// The text literals in an expression.
fn texts<'a>(tree: &'a Value, found: &mut Vec<&'a str>) {
    if let Some(text) = tree.get("Value").and_then(Value::as_str) {
        found.push(text);
    }
    tree.get("Value").or_else(|| tree.get("Set")).and_then(Value::as_array).into_iter().flatten().for_each(|item| {
        match item.as_str() {
            Some(text) => found.push(text),
            None => texts(item, found),
        }
    });
}
