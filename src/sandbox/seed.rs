//! What a tenant holds at the start: the built-in tenant, or one from a file in the same format.
//!
//! The format is that of `default_tenant.json`, beside this file: tenant, apps, groups, filters, configurations with their
//! assignments, callers, switches. Rows have Graph's field names; the fields of a single kind of configuration are in its
//! `properties`, and a target may have any field, as in Graph.
//!
//! A [`Seed`] is consistent: ids are unique and every target is one that Graph would store. Loading refuses unknown fields
//! and says where they are. It deliberately cannot be written back. Loaded by `cli`, by `mod.rs` and by tests.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::Error;
use super::switches::Switches;
use super::targets::{self, Version};

/// A tenant's initial state.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seed {
    pub(crate) tenant_id: Uuid,
    pub(crate) apps: Vec<App>,
    #[serde(default)]
    pub(crate) groups: Vec<Group>,
    #[serde(default)]
    pub(crate) filters: Vec<Filter>,
    #[serde(default)]
    pub(crate) configurations: Vec<Row>,
    #[serde(default)]
    pub(crate) callers: Vec<Caller>,
    #[serde(default)]
    pub(crate) switches: Switches,
}

/// An app that can request Graph tokens.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct App {
    pub(crate) client_id: Uuid,
    pub(crate) client_secret: String,
    pub(crate) roles: Vec<String>,
    /// The tokens of the sandbox's own issuer that authenticate the app.
    #[serde(default)]
    pub(crate) federated: Vec<Federated>,
}

/// A federated credential of an app.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Federated {
    pub(crate) subject: String,
    pub(crate) audience: String,
}

/// A group of the directory, as Graph shows it.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[expect(
    clippy::struct_excessive_bools,
    clippy::struct_field_names,
    reason = "Graph's own fields by Graph's own names"
)]
pub(crate) struct Group {
    pub(crate) id: Uuid,
    pub(crate) display_name: String,
    #[serde(default = "yes")]
    security_enabled: bool,
    #[serde(default)]
    mail_enabled: bool,
    #[serde(default)]
    group_types: Vec<String>,
}

/// An assignment filter, as Graph shows it.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Filter {
    pub(crate) id: Uuid,
    pub(crate) display_name: String,
    pub(crate) platform: String,
}

/// A configuration's initial state.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Row {
    pub(crate) id: String,
    #[serde(rename = "@odata.type")]
    pub(crate) odata_type: String,
    pub(crate) device_enrollment_configuration_type: String,
    pub(crate) display_name: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) priority: i32,
    #[serde(default = "first_version")]
    pub(crate) version: i32,
    #[serde(default = "once")]
    pub(crate) created_date_time: String,
    #[serde(default = "once")]
    pub(crate) last_modified_date_time: String,
    #[serde(default)]
    pub(crate) role_scope_tag_ids: Vec<String>,
    #[serde(default)]
    pub(crate) properties: Map<String, Value>,
    #[serde(default)]
    pub(crate) assignments: Vec<Assigned>,
}

/// An initial assignment.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Assigned {
    #[serde(default)]
    pub(crate) source: Source,
    pub(crate) source_id: Option<Uuid>,
    pub(crate) target: Value,
}

/// Where an assignment comes from.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Source {
    #[default]
    Direct,
    PolicySets,
}

/// A caller for whom the issuer makes tokens.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Caller {
    pub(crate) name: String,
    pub(crate) azp: Uuid,
    pub(crate) oid: Uuid,
    #[serde(default)]
    pub(crate) roles: Vec<String>,
}

impl Seed {
    /// The default tenant.
    pub fn built_in() -> Result<Self, Error> {
        Self::parse(include_str!("default_tenant.json"), "default_tenant.json (built in)")
    }

    /// The tenant that a file describes.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, Error> {
        let file = path.as_ref().display().to_string();
        let text = fs::read_to_string(path).map_err(|source| Error::SeedFile { file: file.clone(), source })?;
        Self::parse(&text, &file)
    }

    fn parse(text: &str, file: &str) -> Result<Self, Error> {
        let refused = |fault: String| Error::Seed { file: file.to_owned(), fault };
        let seed: Self = serde_json::from_str(text).map_err(|error| refused(error.to_string()))?;
        seed.check().map_err(refused)?;
        Ok(seed)
    }

    fn check(&self) -> Result<(), String> {
        unique("apps", self.apps.iter().map(|app| app.client_id.to_string()))?;
        unique("groups", self.groups.iter().map(|group| group.id.to_string()))?;
        unique("filters", self.filters.iter().map(|filter| filter.id.to_string()))?;
        unique("callers", self.callers.iter().map(|caller| caller.name.clone()))?;
        unique("configurations", self.configurations.iter().map(|row| row.id.to_ascii_lowercase()))?;
        if self.switches.page_size == Some(0) {
            return Err("switches.page_size: must be at least 1, or null for one page".to_owned());
        }
        self.configurations
            .iter()
            .enumerate()
            .try_for_each(|(index, row)| row.check(&format!("configurations[{index}]")))
    }
}

impl Row {
    /// The GUID before the suffix.
    pub(crate) fn guid(&self) -> &str {
        self.id.split_once('_').map_or(self.id.as_str(), |(guid, _suffix)| guid)
    }

    /// Whether this is one of the tenant's default configurations.
    pub(crate) fn is_default(&self) -> bool {
        self.priority == 0 || self.id.contains("_Default")
    }

    fn check(&self, place: &str) -> Result<(), String> {
        let suffix = self.id.split_once('_').map(|(_guid, suffix)| suffix).unwrap_or_default();
        if Uuid::try_parse(self.guid()).is_err() || suffix.is_empty() {
            return Err(format!("{place}.id: `{}` is not of the form GUID_Suffix, for instance GUID_Limit", self.id));
        }
        if !self.odata_type.starts_with("#microsoft.graph.") {
            return Err(format!("{place}.@odata.type: `{}` does not begin with #microsoft.graph.", self.odata_type));
        }
        for (index, field) in ["createdDateTime", "lastModifiedDateTime"].into_iter().enumerate() {
            let moment = if index == 0 { &self.created_date_time } else { &self.last_modified_date_time };
            moment.parse::<Timestamp>().map_err(|error| format!("{place}.{field}: {error}"))?;
        }
        for (index, assigned) in self.assignments.iter().enumerate() {
            targets::parse(&assigned.target, Version::Beta)
                .map_err(|refusal| format!("{place}.assignments[{index}].target: {}", refusal.message))?;
        }
        Ok(())
    }
}

fn unique(place: &str, ids: impl Iterator<Item = String>) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for (index, id) in ids.enumerate() {
        if seen.contains(&id) {
            return Err(format!("{place}[{index}]: `{id}` is there twice; each needs its own"));
        }
        seen.insert(id);
    }
    Ok(())
}

fn yes() -> bool {
    true
}

fn first_version() -> i32 {
    1
}

fn once() -> String {
    "2026-01-15T08:00:00Z".to_owned()
}
