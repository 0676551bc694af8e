//! Callers and configurations in Cedar's terms; with [`context`](super::context), all that `schema.cedarschema` describes.
//!
//! Guarantees: what is built here is checked against the schema before anything is decided on it, so a mismatch on either
//! side denies, and is reported as early as when the policies are loaded ([`schema_sample`]).
//!
//! It deliberately decides nothing. Called by `policy` only.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use cedar_policy::{Entities, Entity, EntityId, EntityTypeName, EntityUid, RestrictedExpression as Value, Schema};
use jiff::Timestamp;

use crate::domain::{
    Caller, Change, Configuration, DesiredAssignment, Digest, Filter, FilterMode, Kind, Role, Target,
    operation::Submission,
};

/// A configuration with its tags from the catalogue.
#[derive(Clone, Copy, Debug)]
pub struct Resource<'a> {
    /// The configuration.
    pub configuration: &'a Configuration,
    /// Its tags.
    pub tags: &'a BTreeSet<String>,
}

/// Everything that policies can ask about a caller and a resource. Entities are made from this and nothing else, so equal
/// parties have the same entities.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Parties {
    caller: String,
    issuer: String,
    roles: Vec<Role>,
    certificate: Option<Digest>,
    /// The configuration and its tags; none for the gateway itself.
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

/// The entity types of the schema.
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

/// The attributes of a resource.
fn described((id, name): (&str, &str), kind: &str, priority: i64, tags: &BTreeSet<String>) -> HashMap<String, Value> {
    HashMap::from([
        ("configurationId".to_owned(), text(id)),
        ("name".to_owned(), text(name)),
        ("kind".to_owned(), text(kind)),
        ("priority".to_owned(), Value::new_long(priority)),
        ("tags".to_owned(), Value::new_set(tags.iter().map(|tag| text(tag)))),
    ])
}

fn uid(kind: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id))
}

pub(super) fn text(text: &str) -> Value {
    Value::new_string(text.to_owned())
}

/// A caller, a configuration and changes that together use every name of the schema.
#[expect(clippy::type_complexity, reason = "the parts of one rehearsal, taken apart where it is asked for")]
pub(super) fn schema_sample() -> Result<(Caller, Configuration, BTreeSet<String>, Vec<Submission>), String> {
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
    let wanted = || vec![DesiredAssignment { target: group.clone(), filter: Some(filter) }];
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
