//! The simulated tenant: what it holds, and what an assign does to it.
//!
//! [`Tenant::assign`] replaces all direct assignments of a configuration or changes nothing: every entry is checked before
//! the first is stored. Where Microsoft's documents are silent, [`Switches`] decide.
//!
//! It deliberately knows no HTTP, paging, permissions or faults. `graph.rs` and `directory.rs` read it, `control.rs` shows
//! and resets it.

use serde_json::{Map, Value};
use uuid::Uuid;

use super::errors::Refusal;
use super::seed::{Assigned, Filter, Group, Row, Seed, Source};
use super::switches::{
    DuplicateTargets, ExclusionTargets, MissingAssignments, PolicySetAssignments, Refused, RestrictionKinds, Switches,
    UnknownConfiguration, UnknownGroups, V1Filters,
};
use super::targets::{self, Kind, Target, Version};

/// Everything the tenant holds.
#[derive(Clone, Debug)]
pub(crate) struct Tenant {
    pub(crate) groups: Vec<Group>,
    pub(crate) filters: Vec<Filter>,
    pub(crate) configurations: Vec<Configuration>,
}

/// A configuration with its present assignments.
#[derive(Clone, Debug)]
pub(crate) struct Configuration {
    pub(crate) row: Row,
    /// Sorted by id, whatever the order in which they were posted.
    pub(crate) assignments: Vec<Assignment>,
    /// The assignments before the last assign.
    past: Vec<Assignment>,
    /// How many more reads will show `past`.
    behind: u32,
    /// Whether the current read shows `past`.
    shows_past: bool,
}

/// One assignment.
#[derive(Clone, Debug)]
pub(crate) struct Assignment {
    pub(crate) id: String,
    pub(crate) source: Source,
    pub(crate) source_id: String,
    pub(crate) target: Target,
}

impl Tenant {
    /// The tenant at the start.
    pub(crate) fn new(seed: &Seed) -> Self {
        Self {
            groups: seed.groups.clone(),
            filters: seed.filters.clone(),
            configurations: seed.configurations.iter().map(Configuration::new).collect(),
        }
    }

    /// The group with this id.
    pub(crate) fn group(&self, id: &str) -> Option<&Group> {
        let id = Uuid::try_parse(id).ok()?;
        self.groups.iter().find(|group| group.id == id)
    }

    /// The configuration with this full id, if this version of Graph shows its kind.
    pub(crate) fn configuration(
        &self,
        id: &str,
        version: Version,
        switches: &Switches,
    ) -> Result<&Configuration, Refusal> {
        let found = self.configurations.iter().find(|configuration| configuration.is(id, version));
        found.ok_or_else(|| unknown_configuration(id, switches))
    }

    /// Replaces the direct assignments of a configuration with those of the body.
    pub(crate) fn assign(&mut self, id: &str, body: &Value, asked: AssignOptions<'_>) -> Result<(), Refusal> {
        let present = self.configuration(id, asked.version, asked.switches)?;
        present.check_assignable(asked.switches)?;
        let wanted = self.wanted(entries(body, asked.switches)?, present, asked)?;
        if let Some(configuration) = self.configurations.iter_mut().find(|found| found.is(id, asked.version)) {
            configuration.replace(wanted, asked.switches);
        }
        Ok(())
    }

    /// Begins a read of a configuration's assignments, and decides whether it lags.
    pub(crate) fn look(&mut self, id: &str) {
        if let Some(found) = self.configurations.iter_mut().find(|found| found.is(id, Version::Beta)) {
            found.shows_past = found.behind > 0;
            found.behind = found.behind.saturating_sub(1);
        }
    }

    /// Moves a configuration to this rank among its kind, and renumbers them.
    pub(crate) fn rank(&mut self, id: &str, place: usize) -> Result<(), Refusal> {
        let kind = self.configurations.iter().find(|found| found.is(id, Version::Beta));
        let kind = kind.filter(|found| !found.row.is_default()).map(|found| found.row.odata_type.clone());
        let kind = kind.ok_or_else(|| Refusal::bad_request("The priority of a default policy cannot be set."))?;
        let of_kind = |found: &&mut Configuration| found.row.odata_type == kind && !found.row.is_default();
        let mut ranked: Vec<_> = self.configurations.iter_mut().filter(of_kind).collect();
        ranked.sort_by_key(|found| found.row.priority);
        if let Some(from) = ranked.iter().position(|found| found.is(id, Version::Beta)) {
            let moved = ranked.remove(from);
            ranked.insert(place.saturating_sub(1).min(ranked.len()), moved);
        }
        for (number, found) in (1..).zip(ranked) {
            found.row.priority = number;
        }
        Ok(())
    }

    fn wanted(
        &self,
        entries: &[Value],
        present: &Configuration,
        asked: AssignOptions<'_>,
    ) -> Result<Vec<Target>, Refusal> {
        let mut wanted: Vec<Target> = Vec::new();
        for entry in entries {
            let target = self.accepted(entry, asked)?;
            let repeated = wanted.iter().any(|earlier| earlier.key == target.key);
            match (repeated, asked.switches.duplicate_targets) {
                (true, DuplicateTargets::FirstWins) => {}
                (true, DuplicateTargets::Refused) => {
                    return Err(Refusal::bad_request("The assignments name the same target more than once."));
                }
                (false, _) => wanted.push(present.with_stored_filter(target, asked)),
            }
        }
        Ok(wanted)
    }

    fn accepted(&self, entry: &Value, asked: AssignOptions<'_>) -> Result<Target, Refusal> {
        let target = targets::parse(target_of(entry)?, asked.version)?;
        if target.kind == Kind::ExcludedGroup && asked.switches.exclusion_targets == ExclusionTargets::Refused {
            return Err(Refusal::bad_request("Exclusion assignments are not supported for this policy type."));
        }
        let of_group = matches!(target.kind, Kind::Group | Kind::ExcludedGroup);
        let unknown = of_group && self.group(&target.key).is_none();
        if unknown && asked.switches.unknown_groups == UnknownGroups::Refused {
            return Err(targets::invalid_group(&target.key));
        }
        Ok(target.included())
    }
}

/// The version and the switches under which an assign is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AssignOptions<'a> {
    pub(crate) version: Version,
    pub(crate) switches: &'a Switches,
}

impl Configuration {
    fn new(row: &Row) -> Self {
        let mut configuration =
            Self { row: row.clone(), assignments: Vec::new(), past: Vec::new(), behind: 0, shows_past: false };
        for Assigned { source, source_id, target } in &row.assignments {
            // All targets of a seed parse: loading has checked them.
            if let Ok(target) = targets::parse(target, Version::Beta) {
                let source_id = source_id.map_or_else(|| row.guid().to_owned(), |id| id.to_string());
                configuration.add(target, *source, source_id);
            }
        }
        configuration.sort();
        configuration
    }

    /// Whether this version of Graph shows configurations of this kind.
    pub(crate) fn is_in(&self, version: Version) -> bool {
        const IN_V1: [&str; 4] = [
            "#microsoft.graph.deviceEnrollmentLimitConfiguration",
            "#microsoft.graph.deviceEnrollmentPlatformRestrictionsConfiguration",
            "#microsoft.graph.deviceEnrollmentWindowsHelloForBusinessConfiguration",
            "#microsoft.graph.windows10EnrollmentCompletionPageConfiguration",
        ];
        version == Version::Beta || IN_V1.contains(&self.row.odata_type.as_str())
    }

    fn is(&self, id: &str, version: Version) -> bool {
        self.row.id.eq_ignore_ascii_case(id) && self.is_in(version)
    }

    fn check_assignable(&self, switches: &Switches) -> Result<(), Refusal> {
        let restriction = self.row.odata_type.contains("PlatformRestriction");
        if self.row.is_default() {
            let (status, code) = match switches.default_configurations {
                Refused::Forbidden => (403, "Forbidden"),
                Refused::BadRequest => (400, "BadRequest"),
            };
            let refusal = Refusal::intune(status, code, "The assignments of a default policy cannot be changed.");
            return Err(refusal.violating("assign on a default configuration"));
        }
        if restriction && switches.restriction_kinds == RestrictionKinds::Forbidden {
            let message = "Tenant is not Global Admin or Intune Service Admin. Operation is restricted.";
            return Err(Refusal::intune(403, "Forbidden", message));
        }
        Ok(())
    }

    fn with_stored_filter(&self, target: Target, asked: AssignOptions<'_>) -> Target {
        let keeps = asked.version == Version::V1 && asked.switches.v1_filters == V1Filters::Kept;
        let direct = |old: &&Assignment| old.source == Source::Direct && old.target.key == target.key;
        match self.assignments.iter().find(direct) {
            Some(stored) if keeps => target.filtered_as(&stored.target),
            _ => target,
        }
    }

    /// The assignments that the current read shows.
    pub(crate) fn seen(&self) -> &[Assignment] {
        if self.shows_past { &self.past } else { &self.assignments }
    }

    fn replace(&mut self, wanted: Vec<Target>, switches: &Switches) {
        self.past.clone_from(&self.assignments);
        self.behind = switches.reads_behind;
        match switches.policy_set_assignments {
            PolicySetAssignments::Kept => self.assignments.retain(|old| old.source == Source::PolicySets),
            PolicySetAssignments::Dropped => self.assignments.clear(),
        }
        for target in wanted {
            self.add(target, Source::Direct, self.row.guid().to_owned());
        }
        self.sort();
    }

    fn add(&mut self, target: Target, source: Source, source_id: String) {
        let id = format!("{}_{}_{source_id}", self.row.guid(), target.key);
        self.assignments.push(Assignment { id, source, source_id, target });
    }

    fn sort(&mut self) {
        self.assignments.sort_by(|one, other| one.id.cmp(&other.id));
    }
}

fn unknown_configuration(id: &str, switches: &Switches) -> Refusal {
    let message = format!("No enrollment configuration with the id {id} was found.");
    match switches.unknown_configuration {
        UnknownConfiguration::NotFound => Refusal::intune(404, "ResourceNotFound", message),
        UnknownConfiguration::BadRequest => Refusal::intune(400, "BadRequest", message),
    }
}

const LIST: &str = "enrollmentConfigurationAssignments";

fn entries<'a>(body: &'a Value, switches: &Switches) -> Result<&'a [Value], Refusal> {
    let Value::Object(fields) = body else {
        return Err(Refusal::bad_request("The body of an action must be an object."));
    };
    only(fields, &[LIST])?;
    match (fields.get(LIST), switches.missing_assignments) {
        (Some(Value::Array(entries)), _) => Ok(entries),
        (None | Some(Value::Null), MissingAssignments::Clears) => Ok(&[]),
        (None | Some(_), _) => Err(Refusal::bad_request(format!("{LIST} must be an array."))),
    }
}

fn target_of(entry: &Value) -> Result<&Value, Refusal> {
    let Value::Object(fields) = entry else {
        return Err(Refusal::bad_request("An assignment must be an object."));
    };
    only(fields, &["id", "target", "source", "sourceId"])?;
    fields.get("target").ok_or_else(|| Refusal::bad_request("An assignment needs its target."))
}

fn only(fields: &Map<String, Value>, known: &[&str]) -> Result<(), Refusal> {
    match fields.keys().find(|name| !name.starts_with('@') && !known.contains(&name.as_str())) {
        None => Ok(()),
        Some(name) => Err(Refusal::bad_request(format!("The property '{name}' does not exist on this type."))),
    }
}
