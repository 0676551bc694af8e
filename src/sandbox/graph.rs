//! Graph's enrollment configurations over HTTP: paths, versions, and what a row looks like.
//!
//! Every call needs a token that `bearer.rs` accepts, with the role for its endpoint. What is not routed is refused with
//! 400, as Graph does, and not with 405. Every response carries the ids and diagnostics that Graph sends.
//!
//! It deliberately decides nothing about assignments: `tenant.rs` does. Called by `world.rs` for every path that begins with
//! a version; groups and filters are in `directory.rs`.

use serde_json::{Map, Value, json};

use super::bearer::{self, Rights};
use super::directory;
use super::errors::{Refusal, no_route};
use super::odata::{Clause, Query, Test, unsupported};
use super::seed::{Row, Source};
use super::switches::{
    AssignAnswer, AssignmentPatch, ConfigurationTypes, ExpandedAssignments, FutureMembers, MultiAdminApproval,
    NextLinkHost,
};
use super::targets::Version;
use super::tenant::{AssignOptions, Assignment, Configuration};
use super::wire::{Request, Response};
use super::world::State;

const DIAGNOSTIC: &str =
    r#"{"ServerInfo":{"DataCenter":"Sandbox","Slice":"E","Ring":"0","ScaleUnit":"001","RoleInstance":"SANDBOX"}}"#;

/// Graph's response to a call.
pub(crate) fn answer(call: &Request, state: &mut State) -> Response {
    let admitted = state.limits.admit(call, &state.switches);
    let answer = admitted.map_or_else(
        |refused| *refused,
        |()| served(call, state).unwrap_or_else(|refusal| refusal.answer(call, &state.switches)),
    );
    let of_groups = call.parts().get(1) == Some(&"groups");
    let answer = if of_groups { state.limits.told(answer, &state.switches) } else { answer };
    identified(answer, call)
}

/// Adds the headers that Graph puts on every response.
pub(crate) fn identified(answer: Response, call: &Request) -> Response {
    answer
        .with("request-id", call.id.clone())
        .with("client-request-id", call.client_request_id().to_owned())
        .with("x-ms-ags-diagnostic", DIAGNOSTIC.to_owned())
}

/// The kind-specific properties that v1.0 shows.
const IN_V1: [&str; 19] = [
    "allowNonBlockingAppInstallation",
    "androidRestriction",
    "enhancedBiometricsState",
    "iosRestriction",
    "limit",
    "macOSRestriction",
    "pinExpirationInDays",
    "pinLowercaseCharactersUsage",
    "pinMaximumLength",
    "pinMinimumLength",
    "pinPreviousBlockCount",
    "pinSpecialCharactersUsage",
    "pinUppercaseCharactersUsage",
    "remotePassportEnabled",
    "securityDeviceRequired",
    "state",
    "unlockWithBiometricsEnabled",
    "windowsMobileRestriction",
    "windowsRestriction",
];

/// The context of a call to an endpoint.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Visit<'a> {
    pub(crate) call: &'a Request,
    pub(crate) version: Version,
    pub(crate) rights: &'a Rights,
    pub(crate) state: &'a State,
}

fn served(call: &Request, state: &mut State) -> Result<Response, Refusal> {
    let parts = keys_split(call);
    let version = match parts.first().map(String::as_str) {
        Some("beta") => Version::Beta,
        Some("v1.0") => Version::V1,
        other => {
            let named = other.unwrap_or_default().to_lowercase();
            return Err(Refusal::graph(404, "ResourceNotFound", format!("Invalid version: {named}")));
        }
    };
    let rights = bearer::rights(call, state)?;
    let path: Vec<&str> = parts.iter().skip(1).map(|part| canonical(part)).collect();
    if let ("POST", ["deviceManagement", CONFIGURATIONS, id, "assign"]) = (call.method.as_str(), path.as_slice()) {
        rights.write()?;
        return assign(call, state, version, id);
    }
    if let ("POST", ["deviceManagement", CONFIGURATIONS, id, "setPriority"]) = (call.method.as_str(), path.as_slice()) {
        rights.write()?;
        return set_priority(call, state, version, id);
    }
    if let ("GET", ["deviceManagement", CONFIGURATIONS, id, "assignments"]) = (call.method.as_str(), path.as_slice()) {
        state.tenant.look(id);
    }
    let visit = Visit { call, version, rights: &rights, state };
    match (call.method.as_str(), path.as_slice()) {
        ("GET", ["deviceManagement", CONFIGURATIONS, rest @ ..]) => configurations(visit, rest),
        ("GET", ["deviceManagement", "assignmentFilters", rest @ ..]) => directory::filters(visit, rest),
        ("GET", ["groups", rest @ ..]) => directory::groups(visit, rest),
        ("PATCH", ["deviceManagement", CONFIGURATIONS, _]) => {
            rights.write()?;
            let body: Map<String, Value> = serde_json::from_slice(&call.body).unwrap_or_default();
            if body.contains_key("priority") {
                return Err(Refusal::bad_request("The priority of a policy is set by its setPriority action."));
            }
            Err(no_route(call))
        }
        ("PATCH", ["deviceManagement", CONFIGURATIONS, _, "assignments", _])
            if state.switches.assignment_patch == AssignmentPatch::NotAllowed =>
        {
            Err(Refusal::graph(405, "MethodNotAllowed", "The method is not allowed."))
        }
        _ => Err(no_route(call)),
    }
}

const CONFIGURATIONS: &str = "deviceEnrollmentConfigurations";

/// The known spelling of a path segment, whatever its case; an unknown segment as it is.
fn canonical(part: &str) -> &str {
    const NAMES: [&str; 7] =
        ["deviceManagement", CONFIGURATIONS, "assignments", "assign", "setPriority", "assignmentFilters", "groups"];
    NAMES.into_iter().find(|name| name.eq_ignore_ascii_case(part)).unwrap_or(part)
}

/// The segments of the path, with `name('key')` split into name and key.
fn keys_split(call: &Request) -> Vec<String> {
    let split = |part: &String| match part.split_once("('") {
        Some((name, key)) => vec![name.to_owned(), key.trim_end_matches("')").to_owned()],
        None => vec![part.clone()],
    };
    call.segments.iter().flat_map(split).collect()
}

fn assign(call: &Request, state: &mut State, version: Version, id: &str) -> Result<Response, Refusal> {
    if !call.carries("application/json") {
        return Err(Refusal::graph(400, "BadRequest", "Write requests must be of type application/json."));
    }
    let body: Value = serde_json::from_slice(&call.body)
        .map_err(|error| Refusal::graph(400, "BadRequest", format!("Unable to read JSON request payload: {error}")))?;
    approved(call, state.switches.multi_admin_approval)?;
    state.tenant.assign(id, &body, AssignOptions { version, switches: &state.switches })?;
    Ok(match state.switches.assign_answer {
        AssignAnswer::NoContent => Response::empty(204),
        AssignAnswer::OkEmpty => Response::empty(200),
        AssignAnswer::OkJson => {
            let visit = Visit { call, version, rights: &Rights::default(), state };
            let rows = visit.configuration(id)?.assignments.iter().map(|row| visit.assignment(row)).collect();
            Response::json(200, visit.collection(rows, &Query::default(), "assignments"))
        }
    })
}

fn set_priority(call: &Request, state: &mut State, version: Version, id: &str) -> Result<Response, Refusal> {
    let body: Value = serde_json::from_slice(&call.body).unwrap_or_default();
    let wanted = body.get("priority").and_then(Value::as_i64).and_then(|number| usize::try_from(number).ok());
    let wanted = wanted.filter(|number| *number > 0);
    let wanted = wanted.ok_or_else(|| Refusal::bad_request("priority must be a number from 1 on."))?;
    state.tenant.configuration(id, version, &state.switches)?;
    state.tenant.rank(id, wanted)?;
    Ok(Response::empty(204))
}

/// Whether the tenant's access policy lets a change through; no approval is ever given here.
fn approved(call: &Request, policy: MultiAdminApproval) -> Result<(), Refusal> {
    let wanted = "Header 'x-msft-approval-justification' is required to request approval";
    let filed = format!("The change needs the approval of another administrator; the approval code is {}.", call.id);
    let pending = "An active Approval Request already exists for this entity";
    Err(match policy {
        MultiAdminApproval::Off => return Ok(()),
        MultiAdminApproval::BadRequest => Refusal::intune(400, "BadRequest", wanted),
        MultiAdminApproval::Forbidden => Refusal::intune(403, "Forbidden", wanted),
        MultiAdminApproval::PreconditionFailed => Refusal::intune(412, "PreconditionFailed", filed).filed_as(&call.id),
        MultiAdminApproval::ApprovalRequired => Refusal::intune(403, "ApprovalRequired", filed).filed_as(&call.id),
        MultiAdminApproval::Conflict => Refusal::intune(409, "Conflict", pending),
    })
}

fn configurations(visit: Visit<'_>, path: &[&str]) -> Result<Response, Refusal> {
    visit.rights.read()?;
    match path {
        [] => list(visit),
        [id] => {
            let query = Query::of(visit.call, &["$select", "$expand"])?;
            let mut row = visit.shown(visit.configuration(id)?, &query)?;
            row.insert("@odata.context".to_owned(), json!(visit.context("deviceEnrollmentConfigurations/$entity")));
            Ok(Response::json(200, query.selected(row)))
        }
        [id, "assignments"] => {
            let query = Query::of(visit.call, &["$top", "$skiptoken"])?;
            let rows = visit.configuration(id)?.seen().iter().map(|row| visit.assignment(row)).collect();
            Ok(Response::json(200, visit.collection(rows, &query, &format!("{CONFIGURATIONS}('{id}')/assignments"))))
        }
        [id, "assignments", assignment] => {
            let found = visit.configuration(id)?.assignments.iter().find(|row| row.id.eq_ignore_ascii_case(assignment));
            let found =
                found.ok_or_else(|| Refusal::intune(404, "ResourceNotFound", "The assignment was not found."))?;
            Ok(Response::json(200, visit.assignment(found)))
        }
        _ => Err(no_route(visit.call)),
    }
}

fn list(visit: Visit<'_>) -> Result<Response, Refusal> {
    // Seen in the real service: this function fails instead of being refused.
    if visit.call.options().iter().any(|(name, value)| name == "$filter" && value.to_lowercase().contains("endswith("))
    {
        return Err(Refusal::intune(500, "InternalServerError", "An error has occurred"));
    }
    let query = Query::of(visit.call, &["$filter", "$select", "$top", "$skiptoken", "$expand", "$orderby"])?;
    let mut found = Vec::new();
    for configuration in visit.state.tenant.configurations.iter().filter(|row| row.is_in(visit.version)) {
        if passes(query.clause.as_ref(), &configuration.row)? {
            found.push(configuration);
        }
    }
    match query.order.as_deref() {
        None => {}
        Some("priority") => found.sort_by_key(|configuration| configuration.row.priority),
        Some(other) => return Err(unsupported(format!("$orderby={other} is not supported here."))),
    }
    let mut rows = Vec::new();
    for configuration in found {
        rows.push(query.selected(visit.shown(configuration, &query)?));
    }
    Ok(Response::json(200, visit.collection(rows, &query, CONFIGURATIONS)))
}

fn passes(clause: Option<&Clause>, row: &Row) -> Result<bool, Refusal> {
    let Some(clause) = clause else { return Ok(true) };
    match (clause.field.as_str(), clause.test) {
        ("displayName", Test::Equal) => Ok(clause.passes(row.display_name.as_deref().unwrap_or_default())),
        ("deviceEnrollmentConfigurationType", Test::Equal) => {
            Ok(clause.passes(&row.device_enrollment_configuration_type))
        }
        ("priority", Test::Equal) => Ok(clause.passes(&row.priority.to_string())),
        _ => Err(Refusal::intune(500, "InternalServerError", "An error has occurred")),
    }
}

impl<'a> Visit<'a> {
    fn configuration(self, id: &str) -> Result<&'a Configuration, Refusal> {
        self.state.tenant.configuration(id, self.version, &self.state.switches)
    }

    fn segment(self) -> &'static str {
        match self.version {
            Version::Beta => "beta",
            Version::V1 => "v1.0",
        }
    }

    /// The `@odata.context` of something below `deviceManagement`.
    fn context(self, of: &str) -> String {
        format!("{}/{}/$metadata#deviceManagement/{of}", self.state.url, self.segment())
    }

    /// One page of rows below `deviceManagement`.
    pub(crate) fn collection(self, rows: Vec<Value>, query: &Query, of: &str) -> Value {
        let origin = match self.state.switches.next_link_host {
            NextLinkHost::Own => self.state.url.as_str(),
            NextLinkHost::Foreign => "http://graph.example.net",
        };
        let mut page = query.page(rows, self.state.switches.page_size, origin, self.call);
        page.insert("@odata.context".to_owned(), json!(self.context(of)));
        Value::Object(page)
    }

    fn wants_everything(self) -> bool {
        self.call.header("accept").is_some_and(|accept| accept.contains("odata.metadata=full"))
    }

    fn shown(self, configuration: &Configuration, query: &Query) -> Result<Map<String, Value>, Refusal> {
        let row = &configuration.row;
        let mut shown = Map::new();
        if self.wants_everything() || self.state.switches.configuration_types == ConfigurationTypes::Present {
            shown.insert("@odata.type".to_owned(), json!(row.odata_type));
        }
        shown.insert("id".to_owned(), json!(row.id));
        shown.insert("displayName".to_owned(), json!(row.display_name));
        shown.insert("description".to_owned(), json!(row.description));
        shown.insert("priority".to_owned(), json!(row.priority));
        shown.insert("createdDateTime".to_owned(), json!(row.created_date_time));
        shown.insert("lastModifiedDateTime".to_owned(), json!(row.last_modified_date_time));
        shown.insert("version".to_owned(), json!(row.version));
        if self.version == Version::Beta {
            shown.insert("roleScopeTagIds".to_owned(), json!(row.role_scope_tag_ids));
            shown.insert("deviceEnrollmentConfigurationType".to_owned(), json!(self.member(row)));
        }
        let visible = |name: &str| self.version == Version::Beta || IN_V1.contains(&name);
        shown.extend(row.properties.clone().into_iter().filter(|(name, _)| visible(name)));
        match query.expand.as_deref() {
            None => {}
            Some("assignments") if self.state.switches.expanded_assignments == ExpandedAssignments::Empty => {
                shown.insert("assignments".to_owned(), json!([]));
            }
            Some("assignments") => {
                let rows: Vec<Value> = configuration.assignments.iter().map(|row| self.assignment(row)).collect();
                shown.insert("assignments".to_owned(), json!(rows));
            }
            Some(other) => return Err(unsupported(format!("$expand={other} is not supported here."))),
        }
        Ok(shown)
    }

    /// The configuration's type, or the sentinel `unknownFutureValue` in its place.
    fn member(self, row: &Row) -> &str {
        const BEFORE_SENTINEL: [&str; 11] = [
            "unknown",
            "limit",
            "platformRestrictions",
            "windowsHelloForBusiness",
            "defaultLimit",
            "defaultPlatformRestrictions",
            "defaultWindowsHelloForBusiness",
            "defaultWindows10EnrollmentCompletionPageConfiguration",
            "windows10EnrollmentCompletionPageConfiguration",
            "deviceComanagementAuthorityConfiguration",
            "singlePlatformRestriction",
        ];
        let member = row.device_enrollment_configuration_type.as_str();
        let prefer = self.call.header("prefer").unwrap_or_default();
        let named = self.state.switches.future_members == FutureMembers::ByName
            || prefer.contains("include-unknown-enum-members")
            || BEFORE_SENTINEL.contains(&member);
        if named { member } else { "unknownFutureValue" }
    }

    fn assignment(self, assignment: &Assignment) -> Value {
        let mut shown = Map::new();
        if self.wants_everything() {
            shown.insert("@odata.type".to_owned(), json!("#microsoft.graph.enrollmentConfigurationAssignment"));
        }
        shown.insert("id".to_owned(), json!(assignment.id));
        if self.version == Version::Beta {
            shown.insert("source".to_owned(), json!(source_name(assignment.source)));
            shown.insert("sourceId".to_owned(), json!(assignment.source_id));
        }
        shown.insert("target".to_owned(), assignment.target.shown(self.version));
        Value::Object(shown)
    }
}

fn source_name(source: Source) -> &'static str {
    match source {
        Source::Direct => "direct",
        Source::PolicySets => "policySets",
    }
}

/// The assignments of a configuration, as `GET /_sandbox/state` shows them.
pub(crate) fn state_of(configuration: &Configuration) -> Value {
    let row = |assignment: &Assignment| {
        json!({
            "id": assignment.id,
            "source": source_name(assignment.source),
            "sourceId": assignment.source_id,
            "target": assignment.target.shown(Version::Beta),
        })
    };
    let assignments: Vec<Value> = configuration.assignments.iter().map(row).collect();
    json!({"id": configuration.row.id, "displayName": configuration.row.display_name, "assignments": assignments})
}
