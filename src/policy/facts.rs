//! Callers, configurations and targets in Cedar's terms: the one place that knows the words of `schema.cedarschema`.
//!
//! Guarantees: what is built here is checked against the schema before anything is decided on it, so a slip on either
//! side denies and is told, when the policies are loaded already ([`rehearsal`]).
//!
//! It deliberately decides nothing. Called by `policy` only.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use cedar_policy::{
    Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, RestrictedExpression as Value, Schema,
};
use jiff::{Timestamp, civil::Weekday, tz::TimeZone};

use super::Action;
use crate::domain::{
    Caller, Change, Configuration, Digest, Filter, FilterMode, Kind, Role, Target, Wanted, operation::Submission,
};

/// A configuration and what the catalogue says of it.
#[derive(Clone, Copy, Debug)]
pub struct Resource<'a> {
    /// The configuration.
    pub configuration: &'a Configuration,
    /// Its tags.
    pub tags: &'a BTreeSet<String>,
}

/// All that policies can ask of a caller and of a resource. Entities are made of this and of nothing else, so those of its
/// equal are the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Parties {
    caller: String,
    issuer: String,
    roles: Vec<Role>,
    certificate: Option<Digest>,
    /// The configuration and its tags; none of the gateway itself.
    configuration: Option<(Configuration, BTreeSet<String>)>,
}

impl Parties {
    pub(super) fn new(caller: &Caller, resource: Option<Resource<'_>>) -> Self {
        let Caller { name, issuer, roles, certificate, subject: _, token_id: _ } = caller;
        let configuration = resource.map(|of| (of.configuration.clone(), of.tags.clone()));
        let (caller, issuer) = (name.clone(), issuer.clone());
        Self { caller, issuer, roles: roles.clone(), certificate: certificate.clone(), configuration }
    }
}

/// The types of the schema.
#[derive(Clone, Debug)]
pub(super) struct Vocabulary {
    caller: EntityTypeName,
    role: EntityTypeName,
    configuration: EntityTypeName,
    gateway: EntityTypeName,
    action: EntityTypeName,
}

impl Vocabulary {
    pub(super) fn new() -> Result<Self, String> {
        let named = |name: &str| name.parse::<EntityTypeName>().map_err(|why| why.to_string());
        Ok(Self {
            caller: named("Postern::Caller")?,
            role: named("Postern::Role")?,
            configuration: named("Postern::Configuration")?,
            gateway: named("Postern::Gateway")?,
            action: named("Postern::Action")?,
        })
    }

    pub(super) fn action(&self, name: &str) -> EntityUid {
        uid(&self.action, name)
    }

    pub(super) fn caller(&self, parties: &Parties) -> EntityUid {
        uid(&self.caller, &parties.caller)
    }

    pub(super) fn resource(&self, parties: &Parties) -> EntityUid {
        match &parties.configuration {
            Some((configuration, _)) => uid(&self.configuration, configuration.id.as_str()),
            None => uid(&self.gateway, "postern"),
        }
    }

    /// The caller, its roles and the resource.
    pub(super) fn entities(&self, parties: &Parties, schema: &Schema) -> Result<Entities, String> {
        let roles: HashSet<_> = parties.roles.iter().map(|role| uid(&self.role, role.as_str())).collect();
        let mut principal = HashMap::from([
            ("issuer".to_owned(), text(&parties.issuer)),
            ("roles".to_owned(), Value::new_set(parties.roles.iter().map(|role| text(role.as_str())))),
        ]);
        if let Some(certificate) = &parties.certificate {
            principal.insert("certificate".to_owned(), text(certificate.as_str()));
        }
        let resource = match &parties.configuration {
            Some((Configuration { id, name, kind, priority }, tags)) => {
                described((id.as_str(), name), kind.name(), *priority, tags)
            }
            None => described(("", "postern"), "gateway", -1, &BTreeSet::new()),
        };
        let parents = roles.iter().cloned().map(|role| Entity::new_no_attrs(role, HashSet::new()));
        let caller = Entity::new(self.caller(parties), principal, roles.clone()).map_err(|why| why.to_string())?;
        let resource = Entity::new(self.resource(parties), resource, HashSet::new()).map_err(|why| why.to_string())?;
        Entities::from_entities(parents.chain([caller, resource]), Some(schema)).map_err(|why| why.to_string())
    }
}

/// What policies can ask of a resource.
fn described((id, name): (&str, &str), kind: &str, priority: i64, tags: &BTreeSet<String>) -> HashMap<String, Value> {
    HashMap::from([
        ("configurationId".to_owned(), text(id)),
        ("name".to_owned(), text(name)),
        ("kind".to_owned(), text(kind)),
        ("priority".to_owned(), Value::new_long(priority)),
        ("tags".to_owned(), Value::new_set(tags.iter().map(|tag| text(tag)))),
    ])
}

/// What is told of a change at one moment, whichever of its targets is asked about.
pub(super) struct Told<'a> {
    submission: &'a Submission,
    time: Value,
}

impl<'a> Told<'a> {
    pub(super) fn new(submission: &'a Submission, now: Timestamp) -> Result<Self, String> {
        Ok(Self { submission, time: time(now)? })
    }

    /// The context of a question about one target, or about clearing.
    pub(super) fn change(&self, wanted: Option<&Wanted>) -> Result<Context, String> {
        let targets = wanted.map(|_| ("targets", count(self.submission)));
        self.context(wanted, targets)
    }

    /// The context of a question about the word that one target waits for.
    pub(super) fn approval(&self, action: &str, wanted: Option<&Wanted>, approval: &str) -> Result<Context, String> {
        let asker = text(&self.submission.caller);
        let targets = count(self.submission);
        let others = [("targets", targets), ("change", text(action)), ("approval", text(approval)), ("asker", asker)];
        self.context(wanted, others)
    }

    /// What every question tells, and others: the target if it is about one, the ticket, the time.
    fn context(
        &self,
        wanted: Option<&Wanted>,
        others: impl IntoIterator<Item = (&'static str, Value)>,
    ) -> Result<Context, String> {
        let target = wanted.map(|wanted| target(wanted, &self.submission.names)).transpose()?;
        let ticket = self.submission.ticket.as_deref().map(text);
        let told = [("target", target), ("ticket", ticket), ("time", Some(self.time.clone()))];
        let told = told.into_iter().filter_map(|(name, value)| Some((name, value?))).chain(others);
        Context::from_pairs(told.map(|(name, value)| (name.to_owned(), value))).map_err(|why| why.to_string())
    }
}

/// How many targets a change names.
fn count(Submission { change, .. }: &Submission) -> Value {
    let named = change.wanted().len().saturating_add(change.unwanted().len());
    let count = change.reversal().map_or(named, |reversal| reversal.targets().len());
    Value::new_long(i64::try_from(count).unwrap_or(i64::MAX))
}

/// A moment, in UTC: what an hour is elsewhere changes twice a year.
fn time(now: Timestamp) -> Result<Value, String> {
    let here = now.to_zoned(TimeZone::UTC);
    let weekday = match here.weekday() {
        Weekday::Monday => "monday",
        Weekday::Tuesday => "tuesday",
        Weekday::Wednesday => "wednesday",
        Weekday::Thursday => "thursday",
        Weekday::Friday => "friday",
        Weekday::Saturday => "saturday",
        Weekday::Sunday => "sunday",
    };
    let fields = [
        // Cedar takes milliseconds and no more.
        ("now", Value::new_datetime(here.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string())),
        ("hour", Value::new_long(here.hour().into())),
        ("weekday", text(weekday)),
    ];
    Value::new_record(fields.map(|(name, value)| (name.to_owned(), value))).map_err(|why| why.to_string())
}

/// The context of a question that is not about a change.
pub(super) fn of(action: Action) -> Result<Context, String> {
    let (own, about) = match action {
        Action::Plan | Action::Audit => (None, None),
        Action::Look => (Some(false), Some("assignments")),
        Action::Read { own } => (Some(own), Some("operation")),
        Action::Cancel { own } | Action::Revert { own } => (Some(own), None),
    };
    let own = own.map(|own| ("own".to_owned(), Value::new_bool(own)));
    let about = about.map(|about| ("about".to_owned(), text(about)));
    Context::from_pairs(own.into_iter().chain(about)).map_err(|why| why.to_string())
}

fn target(wanted: &Wanted, names: &BTreeMap<String, String>) -> Result<Value, String> {
    let (kind, group) = match &wanted.target {
        Target::Group(id) => ("group", Some(id.to_string())),
        Target::ExcludedGroup(id) => ("excluded-group", Some(id.to_string())),
        Target::AllDevices => ("all-devices", None),
        Target::AllUsers => ("all-users", None),
        Target::Foreign(_) => ("foreign", None),
    };
    let known = [
        Some(("kind", kind.to_owned())),
        group.as_ref().and_then(|id| names.get(id)).map(|name| ("name", name.clone())),
        group.map(|id| ("id", id)),
        wanted.filter.map(|filter| ("filter", filter.id.to_string())),
    ];
    let fields = known.into_iter().flatten().map(|(name, value)| (name.to_owned(), Value::new_string(value)));
    Value::new_record(fields).map_err(|why| why.to_string())
}

fn uid(kind: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id))
}

fn text(text: &str) -> Value {
    Value::new_string(text.to_owned())
}

/// Somebody, something and changes of which every word of the schema is needed to speak.
#[expect(clippy::type_complexity, reason = "the parts of one rehearsal, taken apart where it is asked for")]
pub(super) fn rehearsal() -> Result<(Caller, Configuration, BTreeSet<String>, Vec<Submission>), String> {
    const ID: &str = "00000000-0000-4000-8000-000000000001";
    let caller = Caller {
        name: "somebody".to_owned(),
        issuer: "issuer".to_owned(),
        subject: String::new(),
        token_id: None,
        certificate: None,
        roles: vec![Role::new("role")],
    };
    let configuration = Configuration {
        id: format!("{ID}_Limit").parse().map_err(|why| format!("{why}"))?,
        name: String::new(),
        kind: Kind::Unknown,
        priority: 1,
    };
    let filter = Filter { id: ID.parse().map_err(|why| format!("{why}"))?, mode: FilterMode::Include };
    let group = Target::Group(ID.parse().map_err(|why| format!("{why}"))?);
    let wanted = || vec![Wanted { target: group.clone(), filter: Some(filter) }];
    let changes = [
        Change::amend(wanted(), vec![Target::AllUsers], 2),
        Change::replace(wanted(), 1),
        Change::replace(Vec::new(), 1),
    ];
    let submission = |change| Submission {
        configuration: configuration.id.clone(),
        configuration_name: String::new(),
        change,
        names: BTreeMap::from([(ID.to_owned(), "group".to_owned())]),
        caller: caller.name.clone(),
        ticket: Some("ticket".to_owned()),
        requested_for: None,
        comment: None,
        accepted_at: Timestamp::UNIX_EPOCH,
        only_on: None,
        until: None,
        approval: None,
        callback: None,
        traceparent: None,
    };
    let submissions = changes.into_iter().filter_map(Result::ok).map(submission).collect();
    Ok((caller, configuration, BTreeSet::from(["tag".to_owned()]), submissions))
}
