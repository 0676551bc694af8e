//! From an event to changes, by expressions in the settings.
//!
//! An expression sees `event` (the message), `data` (its field of that name, if it has one), `catalogue` (the operator's
//! names) and, in a rule with `each`, `item`. The result is the body of a change as callers write it, and is checked as
//! theirs are.
//!
//! Guarantees: expressions come from the settings and never from a message; what a message lacks is a fault, not an empty
//! text; each evaluation is limited in work and memory; an event makes a limited number of changes. A fault names rule and
//! field and repeats nothing of the message.
//!
//! It deliberately skips nothing that went wrong: one fault refuses the whole event.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use minijinja::{Environment, ErrorKind, UndefinedBehavior, Value as Term, value::Serde};
use serde_json::{Map, Value, json};

use crate::config::{Catalogue, Expression, Fault, Webhook, WebhookRule as Rule};

/// What one evaluation may cost: about this many steps, or 64 bytes each.
const FUEL: u64 = 20_000;
/// Changes that one event may make.
const CHANGES_MAX: usize = 20;
/// Names that an expression can use.
const NAMES: [&str; 4] = ["event", "data", "item", "catalogue"];
/// Functions of the language that are kept; its others make text for people, or take long.
const FUNCTIONS: [&str; 2] = ["dict", "range"];

/// A change that a rule makes from an event.
#[derive(Clone, Debug, PartialEq)]
pub struct Draft {
    /// The rule.
    pub rule: String,
    /// The body of the change.
    pub body: Value,
}

/// Why an event makes no change although a rule may want it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {detail}")]
pub struct Unmapped {
    /// The rule and its field, such as `rule joiner, add`.
    pub place: String,
    /// What went wrong.
    pub detail: String,
    /// The expression that cannot be evaluated, for the operator who wrote it; none if it is not about one.
    pub expression: Option<String>,
}

/// How expressions are evaluated, and the operator's names that they can look up.
#[derive(Clone, Debug)]
pub(super) struct Language {
    environment: Arc<Environment<'static>>,
    /// One for all rules, so that replacing it takes effect in all of them.
    catalogue: Arc<RwLock<Term>>,
}

impl Language {
    pub(super) fn new(catalogue: &Catalogue) -> Self {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_fuel(Some(FUEL));
        let superfluous: Vec<_> = environment.globals().map(|(name, _)| name.to_owned()).collect();
        for name in superfluous.iter().filter(|name| !FUNCTIONS.contains(&name.as_str())) {
            environment.remove_global(name);
        }
        Self { environment: Arc::new(environment), catalogue: Arc::new(RwLock::new(term(catalogue))) }
    }

    pub(super) fn replace_catalogue(&self, catalogue: &Catalogue) {
        *self.catalogue.write().unwrap_or_else(PoisonError::into_inner) = term(catalogue);
    }

    fn catalogue(&self) -> Term {
        self.catalogue.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn evaluate(&self, expression: &Expression, scope: &Scope) -> Result<Term, String> {
        let compiled =
            self.environment.compile_expression_owned(expression.text.clone()).map_err(|error| told(&error))?;
        let term = compiled.eval(scope.names(self.catalogue())).map_err(|error| told(&error))?;
        if term.is_undefined() {
            Err("it evaluates to something that the event does not have".to_owned())
        } else {
            Ok(term)
        }
    }

    /// What is wrong with an expression, whatever the event.
    fn fault(&self, expression: &Expression) -> Option<Fault> {
        let compiled = match self.environment.compile_expression_owned(expression.text.clone()) {
            Ok(compiled) => compiled,
            Err(error) => {
                let hint = "docs/webhooks.md shows how expressions are written";
                return Some(expression.fault(&format!("invalid expression: {}", told(&error)), Some(hint.to_owned())));
            }
        };
        let known = || NAMES.iter().chain(&FUNCTIONS).copied();
        let mut strangers: Vec<_> =
            compiled.undeclared_variables(false).into_iter().filter(|name| !known().any(|it| it == name)).collect();
        strangers.sort();
        if let Some(name) = strangers.first() {
            let hint = format!("an expression can use {}", known().collect::<Vec<_>>().join(", "));
            return Some(expression.fault(&format!("there is no {name:?}"), Some(hint)));
        }
        // Whether what it calls exists is found by calling it; failing for this empty event is no fault.
        let error = compiled.eval(Scope::new(&Value::Null).names(self.catalogue())).err()?;
        matches!(error.kind(), ErrorKind::UnknownFilter | ErrorKind::UnknownTest | ErrorKind::UnknownFunction)
            .then(|| expression.fault(&told(&error), None))
    }
}

/// The error's own words, without the expression around it, which may contain parts of the event.
fn told(error: &minijinja::Error) -> String {
    match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    }
}

/// The catalogue as expressions see it: ids by alias.
fn term(catalogue: &Catalogue) -> Term {
    let configurations: BTreeMap<_, _> =
        catalogue.configurations.iter().map(|(alias, it)| (alias, it.id.to_string())).collect();
    let groups: BTreeMap<_, _> = catalogue.groups.iter().map(|(alias, id)| (alias, id.to_string())).collect();
    let filters: BTreeMap<_, _> = catalogue.filters.iter().map(|(alias, id)| (alias, id.to_string())).collect();
    Term::from(Serde(json!({"configurations": configurations, "groups": groups, "filters": filters})))
}

/// The values of the names in an expression.
#[derive(Clone)]
struct Scope {
    event: Term,
    data: Term,
    item: Term,
}

impl Scope {
    fn new(event: &Value) -> Self {
        let data = event.get("data").map_or(Term::UNDEFINED, |data| Term::from(Serde(data)));
        Self { event: Term::from(Serde(event)), data, item: Term::UNDEFINED }
    }

    fn names(&self, catalogue: Term) -> Term {
        let Self { event, data, item } = self.clone();
        let all = [("event", event), ("data", data), ("item", item), ("catalogue", catalogue)];
        Term::from(all.into_iter().filter(|(_, term)| !term.is_undefined()).collect::<BTreeMap<_, _>>())
    }
}

/// The rules of one source.
#[derive(Debug)]
pub(super) struct Rules {
    language: Language,
    all: Vec<Rule>,
    message_id: Option<Expression>,
}

/// All faults in the expressions of a source.
pub(super) fn examine(webhook: &Webhook, language: &Language) -> Vec<Fault> {
    let of_rule = |rule: &Rule| {
        let Rule { name: _, when, each, configuration, add, remove, ticket, requested_for, comment, until } = rule;
        let always = [when, configuration].into_iter();
        let some = [each, ticket, requested_for, comment, until].into_iter().flatten();
        let all = always.chain(add).chain(remove).chain(some);
        all.filter_map(|expression| language.fault(expression)).collect::<Vec<_>>()
    };
    let id = webhook.message_id.iter().filter_map(|expression| language.fault(expression));
    id.chain(webhook.rules.iter().flat_map(of_rule)).collect()
}

impl Rules {
    pub(super) fn new(webhook: &Webhook, language: Language) -> Self {
        Self { language, all: webhook.rules.clone(), message_id: webhook.message_id.clone() }
    }

    /// The message's id, if the settings say where it is.
    pub(super) fn message_id(&self, event: &Value) -> Result<Option<String>, Unmapped> {
        let Some(expression) = &self.message_id else { return Ok(None) };
        let failed = |detail| Unmapped { place: "message_id".to_owned(), detail, expression: None };
        let term = self.language.evaluate(expression, &Scope::new(event)).map_err(failed)?;
        let id = text(&term).map_err(failed)?.filter(|id| !id.trim().is_empty());
        id.map(Some).ok_or_else(|| failed("it is empty".to_owned()))
    }

    /// The changes that the event asks for, in the order of the rules.
    pub(super) fn draft(&self, event: &Value) -> Result<Vec<Draft>, Unmapped> {
        let mut drafts = Vec::new();
        for rule in &self.all {
            let turn = Turn { language: &self.language, rule };
            turn.draft(Scope::new(event), &mut drafts)?;
            if drafts.len() > CHANGES_MAX {
                let detail = format!("the event makes more than {CHANGES_MAX} changes");
                return Err(turn.failed("each", detail));
            }
        }
        Ok(drafts)
    }
}

/// One rule, applied to an event.
struct Turn<'a> {
    language: &'a Language,
    rule: &'a Rule,
}

impl Turn<'_> {
    fn failed(&self, field: &str, detail: String) -> Unmapped {
        Unmapped { place: format!("rule {}, {field}", self.rule.name), detail, expression: None }
    }

    fn evaluate(&self, field: &str, expression: &Expression, scope: &Scope) -> Result<Term, Unmapped> {
        self.language
            .evaluate(expression, scope)
            .map_err(|detail| Unmapped { expression: Some(expression.text.clone()), ..self.failed(field, detail) })
    }

    fn draft(&self, mut scope: Scope, drafts: &mut Vec<Draft>) -> Result<(), Unmapped> {
        let wanted = self.evaluate("when", &self.rule.when, &scope)?;
        let Ok(wanted) = bool::try_from(wanted) else {
            return Err(self.failed("when", "it evaluates to neither true nor false".to_owned()));
        };
        if !wanted {
            return Ok(());
        }
        let Some(each) = &self.rule.each else {
            drafts.push(self.change(&scope)?);
            return Ok(());
        };
        let items = self.evaluate("each", each, &scope)?;
        let no_list = || self.failed("each", "it does not evaluate to a list".to_owned());
        if items.as_str().is_some() || items.kind() == minijinja::value::ValueKind::Map {
            return Err(no_list());
        }
        for item in items.try_iter().map_err(|_no_list| no_list())?.take(CHANGES_MAX.saturating_add(1)) {
            scope.item = item;
            drafts.push(self.change(&scope)?);
        }
        Ok(())
    }

    fn change(&self, scope: &Scope) -> Result<Draft, Unmapped> {
        let Rule { name, when: _, each: _, configuration, add, remove, ticket, requested_for, comment, until } =
            self.rule;
        let mut body = Map::new();
        let texts = [
            ("configuration", Some(configuration)),
            ("ticket", ticket.as_ref()),
            ("requested_for", requested_for.as_ref()),
            ("comment", comment.as_ref()),
            ("until", until.as_ref()),
        ];
        for (field, expression) in texts {
            let Some(expression) = expression else { continue };
            let term = self.evaluate(field, expression, scope)?;
            let text = text(&term).map_err(|detail| self.failed(field, detail))?;
            body.extend(text.map(|text| (field.to_owned(), Value::from(text))));
        }
        for (field, expressions) in [("add", add), ("remove", remove)] {
            let mut targets = Vec::new();
            for expression in expressions {
                let term = self.evaluate(field, expression, scope)?;
                self.targets(field, &term, &mut targets)?;
            }
            if !targets.is_empty() {
                body.insert(field.to_owned(), Value::from(targets));
            }
        }
        Ok(Draft { rule: name.clone(), body: Value::Object(body) })
    }

    /// A text is a group; a map is a target as callers write it; a list is several; none adds nothing.
    fn targets(&self, field: &str, term: &Term, targets: &mut Vec<Value>) -> Result<(), Unmapped> {
        let value = serde_json::to_value(term)
            .map_err(|_unwritable| self.failed(field, "it does not evaluate to a target".to_owned()))?;
        let listed = match value {
            Value::Array(listed) => listed,
            other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_)) => {
                vec![other]
            }
        };
        for target in listed {
            match target {
                Value::Null => {}
                Value::String(group) => targets.push(json!({"group": group})),
                target @ Value::Object(_) => targets.push(target),
                Value::Bool(_) | Value::Number(_) | Value::Array(_) => {
                    let what = "it evaluates to something that is neither the name of a group nor a target";
                    return Err(self.failed(field, what.to_owned()));
                }
            }
        }
        Ok(())
    }
}

/// A text; whole numbers count as one, since many systems number their tickets. None stands for nothing.
fn text(term: &Term) -> Result<Option<String>, String> {
    if term.is_none() {
        return Ok(None);
    }
    match term.as_str() {
        Some(text) => Ok(Some(text.to_owned())),
        None if term.is_integer() => Ok(Some(term.to_string())),
        None => Err("it does not evaluate to a text".to_owned()),
    }
}
