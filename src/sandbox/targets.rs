//! Targets of assignments: what a posted one must be, and how it is stored.
//!
//! A [`Target`] has a known concrete type, written with `#`, both filter fields, and whatever other fields it was posted
//! with: unknown ones are stored and returned. Two targets with equal keys reach the same devices or people.
//!
//! It deliberately does not know which groups exist or what the switches say about exclusions: `tenant.rs` does, which calls
//! this for every assign; `seed.rs` calls it for every row.

use serde_json::{Map, Value};
use uuid::Uuid;

use super::errors::Refusal;

/// The version segment of a Graph path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    Beta,
    V1,
}

/// Stands for all users in assignment ids; not a group of the directory.
pub(crate) const ALL_USERS: &str = "acacacac-9df4-4c7d-9d50-4ef0226f57a9";
/// Stands for all devices in assignment ids; not a group of the directory.
pub(crate) const ALL_DEVICES: &str = "adadadad-808e-44e2-905a-0b7873a8a531";

const FILTER_ID: &str = "deviceAndAppManagementAssignmentFilterId";
const FILTER_TYPE: &str = "deviceAndAppManagementAssignmentFilterType";
const NAMESPACE: &str = "microsoft.graph.";

/// The concrete types of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Group,
    ExcludedGroup,
    AllUsers,
    AllDevices,
    Collection,
}

/// A target as it is stored.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) kind: Kind,
    /// Whom it reaches: the id of a group or collection, or the stand-in for all users or devices.
    pub(crate) key: String,
    fields: Map<String, Value>,
}

impl Target {
    /// The same target as an inclusion: Graph stores an exclusion so on enrollment configurations.
    #[must_use]
    pub(crate) fn included(mut self) -> Self {
        if self.kind == Kind::ExcludedGroup {
            self.kind = Kind::Group;
            self.fields.insert("@odata.type".to_owned(), type_name(Kind::Group));
        }
        self
    }

    /// The same target with the other's filter.
    #[must_use]
    pub(crate) fn filtered_as(mut self, other: &Self) -> Self {
        for name in [FILTER_ID, FILTER_TYPE] {
            self.fields.insert(name.to_owned(), other.fields.get(name).cloned().unwrap_or_default());
        }
        self
    }

    /// The target as a version of Graph shows it.
    pub(crate) fn shown(&self, version: Version) -> Value {
        let visible = |name: &str| version == Version::Beta || (name != FILTER_ID && name != FILTER_TYPE);
        let fields = self.fields.iter().filter(|(name, _)| visible(name));
        Value::Object(fields.map(|(name, value)| (name.clone(), value.clone())).collect())
    }
}

/// Parses a posted target, or says why Graph refuses it.
pub(crate) fn parse(posted: &Value, version: Version) -> Result<Target, Refusal> {
    let Value::Object(posted) = posted else {
        return Err(Refusal::bad_request("A target must be an object."));
    };
    let kind = kind(posted)?;
    let key = key(kind, posted)?;
    let mut fields = Map::new();
    fields.insert("@odata.type".to_owned(), type_name(kind));
    let (filter_id, filter_type) = if version == Version::Beta { filter(posted)? } else { no_filter() };
    fields.insert(FILTER_ID.to_owned(), filter_id);
    fields.insert(FILTER_TYPE.to_owned(), filter_type);
    for (name, value) in posted {
        if !fields.contains_key(name) {
            fields.insert(name.clone(), value.clone());
        }
    }
    Ok(Target { kind, key, fields })
}

fn type_name(kind: Kind) -> Value {
    let name = match kind {
        Kind::Group => "#microsoft.graph.groupAssignmentTarget",
        Kind::ExcludedGroup => "#microsoft.graph.exclusionGroupAssignmentTarget",
        Kind::AllUsers => "#microsoft.graph.allLicensedUsersAssignmentTarget",
        Kind::AllDevices => "#microsoft.graph.allDevicesAssignmentTarget",
        Kind::Collection => "#microsoft.graph.configurationManagerCollectionAssignmentTarget",
    };
    Value::from(name)
}

fn kind(posted: &Map<String, Value>) -> Result<Kind, Refusal> {
    let Some(Value::String(written)) = posted.get("@odata.type") else {
        return Err(Refusal::bad_request("A target must name its type in @odata.type; the base type is abstract."));
    };
    match written.trim_start_matches('#').strip_prefix(NAMESPACE).unwrap_or_default() {
        "groupAssignmentTarget" => Ok(Kind::Group),
        "exclusionGroupAssignmentTarget" => Ok(Kind::ExcludedGroup),
        "allLicensedUsersAssignmentTarget" => Ok(Kind::AllUsers),
        "allDevicesAssignmentTarget" => Ok(Kind::AllDevices),
        "configurationManagerCollectionAssignmentTarget" => Ok(Kind::Collection),
        "deviceAndAppManagementAssignmentTarget" => {
            Err(Refusal::bad_request(format!("'{written}' is abstract: an instance of it cannot be made.")))
        }
        _ => Err(Refusal::bad_request(format!(
            "A type named '{written}' could not be resolved by the model. When a model is available, each type name must \
             resolve to a valid type."
        ))),
    }
}

fn key(kind: Kind, posted: &Map<String, Value>) -> Result<String, Refusal> {
    match kind {
        Kind::AllUsers => Ok(ALL_USERS.to_owned()),
        Kind::AllDevices => Ok(ALL_DEVICES.to_owned()),
        Kind::Group | Kind::ExcludedGroup => {
            let written = posted.get("groupId").and_then(Value::as_str).unwrap_or_default();
            let group = Uuid::try_parse(written).map_err(|_malformed| invalid_group(written))?.to_string();
            let virtual_group = group == ALL_USERS || group == ALL_DEVICES;
            if virtual_group { Err(invalid_group(written)) } else { Ok(group) }
        }
        Kind::Collection => match posted.get("collectionId") {
            Some(Value::String(id)) if !id.is_empty() => Ok(id.clone()),
            _ => Err(Refusal::bad_request("A collection target needs its collectionId.")),
        },
    }
}

/// Intune's refusal of a group id, in its own words.
pub(crate) fn invalid_group(written: &str) -> Refusal {
    Refusal::bad_request(format!("Invalid GroupId : {written} provided, a valid AADGroupId is expected"))
}

fn filter(posted: &Map<String, Value>) -> Result<(Value, Value), Refusal> {
    let id = posted.get(FILTER_ID).cloned().unwrap_or_default();
    let mode = posted.get(FILTER_TYPE).cloned().unwrap_or_default();
    match (&id, mode.as_str().unwrap_or("none")) {
        (_, "none") if mode.is_string() || mode.is_null() => Ok(no_filter()),
        (Value::String(filter), "include" | "exclude") if Uuid::try_parse(filter).is_ok() => Ok((id, mode)),
        (_, "include" | "exclude") => {
            Err(Refusal::bad_request(format!("Invalid AssignmentFilterId : {id} provided, a GUID is expected")))
        }
        _ => Err(Refusal::bad_request(format!("{FILTER_TYPE} must be none, include or exclude, not {mode}."))),
    }
}

fn no_filter() -> (Value, Value) {
    (Value::Null, Value::from("none"))
}
