//! Graph's JSON, to and from the domain. Nothing else in Postern knows Graph's field names.
//!
//! Guarantees: what is read and not changed is written back with the same meaning, including fields and target types that
//! this version does not know. Known fields that make no sense are an error, because a write based on them would lose
//! something.
//!
//! Sources: Microsoft's reference for `deviceEnrollmentConfiguration: assign` (beta), its CSDL, and recorded answers; see
//! `docs/graph.md`.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{AssignmentFilter, CurrentAssignments, Error, Group, Refusal};
use crate::{
    canonical,
    domain::{
        Assignment, AssignmentSet, Configuration, ConfigurationId, Filter, FilterMode, GroupId, Kind, Target,
        assignment::UninterpretedJson,
    },
};

const TYPE: &str = "@odata.type";
const GROUP_ID: &str = "groupId";
const FILTER_ID: &str = "deviceAndAppManagementAssignmentFilterId";
const FILTER_TYPE: &str = "deviceAndAppManagementAssignmentFilterType";
const NAMESPACE: &str = "#microsoft.graph.";

const GROUP: &str = "groupAssignmentTarget";
const EXCLUDED_GROUP: &str = "exclusionGroupAssignmentTarget";
const ALL_DEVICES: &str = "allDevicesAssignmentTarget";
const ALL_USERS: &str = "allLicensedUsersAssignmentTarget";

/// Kinds by their type in Graph, and by the suffix of their ids for answers without a type.
const KINDS: [(Kind, &str, &str); 8] = [
    (
        Kind::StatusPage,
        "windows10EnrollmentCompletionPageConfiguration",
        "Windows10EnrollmentCompletionPageConfiguration",
    ),
    (Kind::PlatformRestriction, "deviceEnrollmentPlatformRestrictionConfiguration", "SinglePlatformRestriction"),
    (Kind::PlatformRestrictions, "deviceEnrollmentPlatformRestrictionsConfiguration", "PlatformRestrictions"),
    (Kind::DeviceLimit, "deviceEnrollmentLimitConfiguration", "Limit"),
    (Kind::WindowsHello, "deviceEnrollmentWindowsHelloForBusinessConfiguration", "WindowsHelloForBusiness"),
    (Kind::CoManagement, "deviceComanagementAuthorityConfiguration", "DeviceComanagementAuthorityConfiguration"),
    (Kind::Notification, "deviceEnrollmentNotificationConfiguration", "EnrollmentNotificationsConfiguration"),
    (Kind::WindowsRestore, "windowsRestoreDeviceEnrollmentConfiguration", "WindowsRestore"),
];

fn read<'a, T: Deserialize<'a>>(what: &str, body: &'a [u8]) -> Result<T, Error> {
    serde_json::from_slice(body).map_err(|error| Error::Unreadable(format!("{what}: {error}")))
}

#[derive(Deserialize)]
struct ConfigurationBody {
    id: Option<String>,
    #[serde(rename = "@odata.type")]
    odata_type: Option<String>,
    #[serde(rename = "displayName")]
    display_name: Option<String>,
    priority: Option<i64>,
}

/// The configuration requested by `id`, under the id as Graph spells it: Graph ignores the case of ids, and one
/// configuration must not have two.
pub(super) fn configuration(id: &ConfigurationId, body: &[u8]) -> Result<Configuration, Error> {
    let body: ConfigurationBody = read("the configuration", body)?;
    let own = body.id.map_or_else(|| Ok(id.clone()), |own| own.parse()).ok();
    let id = own
        .filter(|own: &ConfigurationId| own.as_str().eq_ignore_ascii_case(id.as_str()))
        .ok_or_else(|| Error::Unreadable(format!("another configuration than {id}, which was asked for")))?;
    Ok(described(id, body.odata_type.as_deref(), body.display_name, body.priority))
}

fn described(
    id: ConfigurationId,
    odata_type: Option<&str>,
    name: Option<String>,
    priority: Option<i64>,
) -> Configuration {
    let kind = match odata_type.map(short_type) {
        Some(name) => KINDS.iter().find(|row| row.1 == name).map_or(Kind::Unknown, |row| row.0),
        None => kind_of(&id),
    };
    // Without a priority, only the id can still identify a default configuration.
    Configuration { id, name: name.unwrap_or_default(), kind, priority: priority.unwrap_or(-1) }
}

/// One page of configurations. One invalid id makes the whole page an error: a list with an omission would look complete.
pub(super) fn configurations(body: &[u8]) -> Result<Page<Configuration>, Error> {
    let page: Page<ConfigurationBody> = read("the configurations", body)?;
    page.map(|row| {
        let id = named("a configuration's id", row.id.as_deref().unwrap_or_default())?;
        Ok(described(id, row.odata_type.as_deref(), row.display_name, row.priority))
    })
}

/// Parses an id from a list.
fn named<T>(what: &str, id: &str) -> Result<T, Error>
where
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    id.parse().map_err(|error| Error::Unreadable(format!("{what}, {id:?}: {error}")))
}

/// The kind that an id's suffix names.
pub(crate) fn kind_of(id: &ConfigurationId) -> Kind {
    let suffix = id.as_str().split_once('_').map_or("", |(_, suffix)| suffix);
    let suffix = suffix.strip_prefix("Default").unwrap_or(suffix);
    KINDS.iter().find(|row| row.2 == suffix).map_or(Kind::Unknown, |row| row.0)
}

/// The name of the first configuration of a list, if there is any.
pub(super) fn first_name(body: &[u8]) -> Result<Option<String>, Error> {
    let page: Page<ConfigurationBody> = read("the configurations", body)?;
    Ok(page.value.into_iter().next().map(|first| first.display_name.unwrap_or_default()))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct GroupBody {
    id: String,
    display_name: Option<String>,
    security_enabled: Option<bool>,
    mail_enabled: Option<bool>,
}

/// One page of a collection.
#[derive(Deserialize)]
pub(super) struct Page<T> {
    pub(super) value: Vec<T>,
    #[serde(rename = "@odata.nextLink")]
    pub(super) next: Option<String>,
}

impl<T> Page<T> {
    fn map<U>(self, row: impl FnMut(T) -> Result<U, Error>) -> Result<Page<U>, Error> {
        Ok(Page { value: self.value.into_iter().map(row).collect::<Result<_, _>>()?, next: self.next })
    }
}

pub(super) fn groups(body: &[u8]) -> Result<Page<Group>, Error> {
    let page: Page<GroupBody> = read("the groups", body)?;
    page.map(|row| {
        let mail_only = row.security_enabled == Some(false) && row.mail_enabled == Some(true);
        Ok(Group { id: named("a group's id", &row.id)?, name: row.display_name.unwrap_or_default(), mail_only })
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FilterBody {
    id: String,
    display_name: Option<String>,
}

pub(super) fn filters(body: &[u8]) -> Result<Page<AssignmentFilter>, Error> {
    let page: Page<FilterBody> = read("the assignment filters", body)?;
    page.map(|row| {
        Ok(AssignmentFilter { id: named("a filter's id", &row.id)?, name: row.display_name.unwrap_or_default() })
    })
}

/// An assignment as Graph returns it. `id` is not read: Graph assigns a new one with every write.
#[derive(Deserialize)]
pub(super) struct Row {
    source: Option<String>,
    target: Map<String, Value>,
}

/// One page of assignments.
pub(super) fn assignments(body: &[u8]) -> Result<Page<Row>, Error> {
    read("the assignments", body)
}

/// The set that these rows form, once all pages are read.
pub(super) fn present(rows: Vec<Row>) -> Result<CurrentAssignments, Error> {
    let is_direct = |row: &Row| row.source.as_deref().is_none_or(|source| source == "direct");
    let (direct, others): (Vec<_>, Vec<_>) = rows.into_iter().partition(is_direct);
    let direct = direct.into_iter().map(|row| assignment(row.target)).collect::<Result<Vec<_>, _>>()?;
    let direct = AssignmentSet::from_parts(direct).map_err(|error| Error::Unreadable(error.to_string()))?;
    Ok(CurrentAssignments { direct, from_policy_sets: others.into_iter().map(shown).collect() })
}

/// An assignment that is only shown and never posted, so one that makes no sense must not keep the others from being changed.
fn shown(row: Row) -> Assignment {
    let kept = UninterpretedJson::new(canonical::text(&Value::Object(row.target.clone())));
    let unclear = |_nonsense| Assignment { target: Target::Foreign(kept), filter: None, unread: None };
    assignment(row.target).unwrap_or_else(unclear)
}

fn assignment(mut fields: Map<String, Value>) -> Result<Assignment, Error> {
    let filter = filter(fields.remove(FILTER_ID), fields.remove(FILTER_TYPE))?;
    let name = fields.get(TYPE).and_then(Value::as_str).map(|name| short_type(name).to_owned());
    let name = name.ok_or_else(|| Error::Unreadable("a target without @odata.type".to_owned()))?;
    let target = match name.as_str() {
        GROUP => Target::Group(group_id(&mut fields)?),
        EXCLUDED_GROUP => Target::ExcludedGroup(group_id(&mut fields)?),
        ALL_DEVICES => Target::AllDevices,
        ALL_USERS => Target::AllUsers,
        _ => {
            let unread = UninterpretedJson::new(canonical::text(&Value::Object(fields)));
            return Ok(Assignment { target: Target::Foreign(unread), filter, unread: None });
        }
    };
    fields.remove(TYPE);
    let unread = (!fields.is_empty()).then(|| UninterpretedJson::new(canonical::text(&Value::Object(fields))));
    Ok(Assignment { target, filter, unread })
}

/// The last part of a type's name; Graph writes it with and without `#`.
fn short_type(name: &str) -> &str {
    name.trim_start_matches('#').trim_start_matches("microsoft.graph.")
}

fn group_id<T>(fields: &mut Map<String, Value>) -> Result<T, Error>
where
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    let id = fields.remove(GROUP_ID);
    let id = id
        .as_ref()
        .and_then(Value::as_str)
        .ok_or_else(|| Error::Unreadable("a group target without groupId".to_owned()))?;
    id.parse().map_err(|error| Error::Unreadable(format!("a target's groupId {id:?}: {error}")))
}

/// "No filter" is written as an absent or null id, with type `none` or no type.
fn filter(id: Option<Value>, mode: Option<Value>) -> Result<Option<Filter>, Error> {
    let (id, mode) = (id.unwrap_or_default(), mode.unwrap_or_default());
    let odd = || Error::Unreadable(format!("a target's filter: id {id}, type {mode}"));
    match (id.as_str(), mode.as_str()) {
        (None | Some(""), None | Some("none")) => Ok(None),
        (Some(id), Some(mode)) => {
            let (Ok(id), Some(mode)) = (id.parse(), FilterMode::named(mode)) else { return Err(odd()) };
            Ok(Some(Filter { id, mode }))
        }
        (None, Some(_)) | (Some(_), None) => Err(odd()),
    }
}

/// The body of `assign` for a whole set.
pub(super) fn assign_body(set: &AssignmentSet) -> Result<Vec<u8>, Error> {
    let assignments = set.iter().map(entry).collect::<Result<Vec<_>, _>>()?;
    let body = json!({ "enrollmentConfigurationAssignments": assignments });
    serde_json::to_vec(&body).map_err(|error| Error::Unreadable(error.to_string()))
}

fn entry(assignment: &Assignment) -> Result<Value, Error> {
    // The type comes first, as in Microsoft's examples: OData lets a reader depend on that.
    let mut target = Map::new();
    let typed = |name: &str, group: Option<&GroupId>| {
        let group = group.map(|id| (GROUP_ID.to_owned(), Value::from(id.to_string())));
        [(TYPE.to_owned(), Value::from(format!("{NAMESPACE}{name}")))].into_iter().chain(group)
    };
    match &assignment.target {
        Target::Group(id) => target.extend(typed(GROUP, Some(id))),
        Target::ExcludedGroup(id) => target.extend(typed(EXCLUDED_GROUP, Some(id))),
        Target::AllDevices => target.extend(typed(ALL_DEVICES, None)),
        Target::AllUsers => target.extend(typed(ALL_USERS, None)),
        Target::Foreign(foreign) => target.extend(unread(Some(foreign))?),
    }
    target.extend(unread(assignment.unread.as_ref())?);
    if let Some(filter) = assignment.filter {
        target.insert(FILTER_ID.to_owned(), filter.id.to_string().into());
        target.insert(FILTER_TYPE.to_owned(), filter.mode.name().into());
    }
    Ok(json!({ TYPE: format!("{NAMESPACE}enrollmentConfigurationAssignment"), "target": target }))
}

fn unread(unread: Option<&UninterpretedJson>) -> Result<Map<String, Value>, Error> {
    unread.map_or_else(|| Ok(Map::new()), |unread| read("a kept target", unread.as_str().as_bytes()))
}

/// How many bytes of Graph's message are kept: they go to the store, the audit trail and callers.
const MESSAGE_MAX: usize = 1_000;
/// The same for its codes.
const CODE_MAX: usize = 100;

/// Graph's words in an error body. Intune puts JSON inside `message`, sometimes twice, and appends ids that are of no use
/// to a reader.
pub(super) fn refusal(status: u16, request_id: Option<String>, body: &[u8]) -> Refusal {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    let error = body.get("error").unwrap_or(&Value::Null);
    let mut code = text(error.get("code"));
    let mut message = text(error.get("message"));
    for _ in 0..3 {
        let Ok(Value::Object(inner)) = serde_json::from_str(&message) else { break };
        if let Some(inner_code) = inner.get("ErrorCode").and_then(Value::as_str) {
            inner_code.clone_into(&mut code);
        }
        let Some(inner) = inner.get("Message").and_then(Value::as_str) else { break };
        inner.clone_into(&mut message);
    }
    let mut message = message.split(" - Operation ID").next().unwrap_or_default().trim().to_owned();
    for (text, most) in [(&mut code, CODE_MAX), (&mut message, MESSAGE_MAX)] {
        text.truncate(text.floor_char_boundary(most));
    }
    Refusal { status, code, message, request_id, ..Refusal::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn present_of(json: &Value) -> Result<CurrentAssignments, Error> {
        present(assignments(json.to_string().as_bytes())?.value)
    }

    fn posted(present: &CurrentAssignments) -> Value {
        serde_json::from_slice(&assign_body(&present.direct).unwrap()).unwrap()
    }

    fn group(number: u8) -> String {
        format!("b0000000-0000-4000-8000-0000000000{number:02}")
    }

    #[test]
    fn what_is_read_is_posted_with_the_same_meaning() {
        let targets = [
            json!({ TYPE: "#microsoft.graph.groupAssignmentTarget", GROUP_ID: group(1), "ownerHint": {"b": 1, "a": null} }),
            json!({ TYPE: "#microsoft.graph.exclusionGroupAssignmentTarget", GROUP_ID: group(1) }),
            json!({ TYPE: "#microsoft.graph.allDevicesAssignmentTarget", FILTER_ID: group(9), FILTER_TYPE: "exclude" }),
            json!({ TYPE: "#microsoft.graph.allLicensedUsersAssignmentTarget" }),
            json!({ TYPE: "#microsoft.graph.configurationManagerCollectionAssignmentTarget", "collectionId": "SMS0001" }),
            json!({ TYPE: "#microsoft.graph.targetOfTheFuture", "x": [1, 2], FILTER_ID: group(9), FILTER_TYPE: "include" }),
        ];
        let rows: Vec<_> =
            targets.iter().map(|target| json!({ "id": "x_y_z", "source": "direct", "target": target })).collect();
        let present = present_of(&json!({ "value": rows })).unwrap();
        assert_eq!(present.direct.len(), targets.len());
        let posted = posted(&present);
        let posted = posted["enrollmentConfigurationAssignments"].as_array().unwrap().clone();
        for target in &targets {
            let expected = json!({ TYPE: "#microsoft.graph.enrollmentConfigurationAssignment", "target": target });
            assert!(posted.contains(&expected), "{expected}\nis not in {posted:?}");
        }
        assert_eq!(posted.len(), targets.len());
    }

    #[test]
    fn a_number_in_an_unknown_field_is_posted_to_its_last_digit() {
        let target =
            format!(r##"{{"{TYPE}":"#microsoft.graph.allDevicesAssignmentTarget","x":4.4073700773700737e+39}}"##);
        let body = format!(r#"{{"value":[{{"target":{target}}}]}}"#);
        let present = present(assignments(body.as_bytes()).unwrap().value).unwrap();
        let posted = String::from_utf8(assign_body(&present.direct).unwrap()).unwrap();
        assert!(posted.contains(r#""x":4.4073700773700737e+39"#), "{posted}");
    }

    #[test]
    fn null_and_none_are_no_filter_and_are_not_posted() {
        let target = json!({ TYPE: "microsoft.graph.groupAssignmentTarget", GROUP_ID: group(1), FILTER_ID: null, FILTER_TYPE: "none" });
        let present = present_of(&json!({ "value": [{ "target": target }] })).unwrap();
        let expected = json!({ TYPE: "#microsoft.graph.groupAssignmentTarget", GROUP_ID: group(1) });
        assert_eq!(posted(&present)["enrollmentConfigurationAssignments"][0]["target"], expected);
    }

    #[test]
    fn assignments_of_policy_sets_are_counted_and_not_posted() {
        let target = json!({ TYPE: "#microsoft.graph.groupAssignmentTarget", GROUP_ID: group(1) });
        let rows = json!([{ "source": "direct", "target": target }, { "source": "policySets", "target": target }]);
        let present = present_of(&json!({ "value": rows })).unwrap();
        assert_eq!((present.direct.len(), present.from_policy_sets.len()), (1, 1));
    }

    #[test]
    fn an_answer_that_makes_no_sense_is_an_error() {
        let filtered = |id: Value, mode: Value| json!({ TYPE: "#microsoft.graph.groupAssignmentTarget", GROUP_ID: group(1), FILTER_ID: id, FILTER_TYPE: mode });
        let target = |target: Value| json!({ "value": [{ "target": target }] });
        let twice = [filtered(json!(group(8)), json!("include")), filtered(json!(group(9)), json!("include"))];
        for body in [
            json!({}),
            json!({ "value": [{}] }),
            target(json!({})),
            target(json!({ TYPE: "#microsoft.graph.groupAssignmentTarget" })),
            target(json!({ TYPE: "#microsoft.graph.groupAssignmentTarget", GROUP_ID: "Sales" })),
            target(filtered(json!(group(9)), json!("none"))),
            target(filtered(json!(null), json!("include"))),
            target(filtered(json!(group(9)), json!("sometimes"))),
            json!({ "value": twice.map(|target| json!({ "target": target })) }),
        ] {
            assert!(matches!(present_of(&body), Err(Error::Unreadable(_))), "{body}");
        }
    }

    #[test]
    fn a_configuration_goes_by_the_id_that_graph_gives_it() {
        let asked: ConfigurationId = "9f1c6a4e-8a77-4b8e-9d6e-3a54b2f1c0aa_defaultLIMIT".parse().unwrap();
        let found = configuration(&asked, br#"{"id":"9F1C6A4E-8a77-4b8e-9d6e-3a54b2f1c0aa_DefaultLimit"}"#).unwrap();
        assert_eq!(found.id.as_str(), "9f1c6a4e-8a77-4b8e-9d6e-3a54b2f1c0aa_DefaultLimit");
        assert!(found.is_default() && found.kind == Kind::DeviceLimit);
        for other in ["", "x", "9f1c6a4e-8a77-4b8e-9d6e-3a54b2f1c0aa_Limit"] {
            let body = json!({ "id": other }).to_string();
            assert!(matches!(configuration(&asked, body.as_bytes()), Err(Error::Unreadable(_))), "{other}");
        }
    }

    #[test]
    fn a_kind_is_told_by_type_or_by_the_ids_suffix() {
        let id: ConfigurationId = "9f1c6a4e-8a77-4b8e-9d6e-3a54b2f1c0aa_DefaultLimit".parse().unwrap();
        let bare = configuration(&id, br#"{"displayName":null,"priority":0}"#).unwrap();
        assert_eq!((bare.kind, bare.name.as_str(), bare.is_default()), (Kind::DeviceLimit, "", true));
        let typed = br##"{"@odata.type":"#microsoft.graph.deviceEnrollmentNotificationConfiguration","priority":2}"##;
        assert_eq!(configuration(&id, typed).unwrap().kind, Kind::Notification);
        let future = br##"{"@odata.type":"#microsoft.graph.somethingNew"}"##;
        assert_eq!(configuration(&id, future).unwrap().kind, Kind::Unknown);
    }

    #[test]
    fn intunes_nested_messages_are_unwrapped() {
        let inner = json!({ "_version": 3, "Message": "Invalid GroupId : x - Operation ID (for customer support): 0 - Url: y" });
        let body = json!({ "error": { "code": "BadRequest", "message": inner.to_string() } });
        let refusal = refusal(400, None, body.to_string().as_bytes());
        assert_eq!((refusal.code.as_str(), refusal.message.as_str()), ("BadRequest", "Invalid GroupId : x"));
        let doubly = json!({ "ErrorCode": "Forbidden", "Message": inner.to_string() }).to_string();
        let body = json!({ "error": { "code": "UnknownError", "message": doubly } });
        let refusal = super::refusal(401, None, body.to_string().as_bytes());
        assert_eq!((refusal.code.as_str(), refusal.message.as_str()), ("Forbidden", "Invalid GroupId : x"));
        assert_eq!(super::refusal(502, None, b"<html>").message, "");
    }
}
