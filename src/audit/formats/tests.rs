//! Every event in every format, against tables of what the published schemas require and allow.
//!
//! The tables are taken from OCSF 1.8 (`events/iam/entity_management.json` and what it extends), ECS 9.4 (`fields.csv` and
//! the allowed values of `event.*`) and the tester of Azure Sentinel (`ASimTester.csv`, `AuditEvent`), as far as used here.

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::*;
use crate::{
    audit::{Actor, End, Entry, Event, Head, RecordedChange, RecordedTarget, Repeated, UntouchedTarget},
    canonical,
    domain::{Digest, OperationId},
};

const CONFIGURATION: &str = "9f1c6a4e-8a77-4b8e-9d6e-3a54b2f1c0aa_Limit";

fn actor() -> Actor {
    let (issuer, subject) = ("entra".to_owned(), "s-1".to_owned());
    Actor { caller: Some("servicenow".to_owned()), issuer, subject, token_id: Some("t-1".to_owned()) }
}

/// One caller whose calls had tokens of several subjects.
fn of_several() -> Actor {
    actor().in_common(&Actor { subject: "s-2".to_owned(), token_id: None, ..actor() })
}

fn aims() -> RecordedChange {
    let aim = |target: &str| RecordedTarget { target: target.to_owned(), filter: Some("include f0".to_owned()) };
    RecordedChange::Amend { add: vec![aim("group b0")], remove: vec![aim("group b1")] }
}

fn denied(action: &str, actor: Option<Actor>, repeated: Option<Repeated>) -> Event {
    Event::Denied {
        actor,
        action: action.to_owned(),
        configuration: (action != "authenticate").then(|| CONFIGURATION.to_owned()),
        change: Some(aims()),
        ticket: Some("RITM1".to_owned()),
        reason: "no policy permits it".to_owned(),
        repeated,
    }
}

fn refused(ticket: Option<&str>, repeated: Option<Repeated>) -> Event {
    Event::Refused {
        actor: Some(actor()),
        configuration: ticket.map(|_| configuration()),
        asked: ticket.map(|_| "Sales ESP".to_owned()),
        ticket: ticket.map(str::to_owned),
        reason: "/add/0/group: there is no such group".to_owned(),
        repeated,
    }
}

fn settled(state: &'static str, effect: Option<&'static str>) -> Event {
    let aim = RecordedTarget { target: "group b0".to_owned(), filter: None };
    Event::Settled {
        operation: operation(),
        configuration: CONFIGURATION.to_owned(),
        state,
        effect,
        added: vec![aim.clone()],
        removed: vec![aim],
        changed: vec![],
        failure: effect.is_none().then(|| "graph-refused: no".to_owned()),
        request_id: None,
        client_request_id: None,
        graph: None,
    }
}

fn operation() -> OperationId {
    "op_00000000000000000000000001".parse().unwrap()
}

fn digest(text: &str) -> Digest {
    Digest::of(text.as_bytes())
}

/// At least one of every event.
fn events() -> Vec<Event> {
    [of_the_gateway(), of_asking(), of_carrying(), of_telling()].concat()
}

fn configuration() -> String {
    CONFIGURATION.to_owned()
}

fn of_the_gateway() -> Vec<Event> {
    vec![
        Event::StartedUp {
            version: "1".to_owned(),
            previous_chain: None,
            previous_sequence: 0,
            other_ends: vec![End { chain: "c".to_owned(), sequence: 1, hash: "h".to_owned() }],
            expected_end: Some(End { chain: "c".to_owned(), sequence: 2, hash: "i".to_owned() }),
        },
        Event::ConfigurationLoaded {
            policies: digest("p"),
            settings: digest("s"),
            callers: vec!["servicenow".to_owned()],
        },
        Event::ConfigurationRefused {
            policies: digest("p"),
            settings: digest("s"),
            faults: vec!["gateway.toml:3: no such key".to_owned()],
        },
        Event::SignedCheckpoint { ends: vec![], key_id: "k".to_owned(), signature: "s".to_owned() },
    ]
}

fn of_asking() -> Vec<Event> {
    let at = Timestamp::UNIX_EPOCH;
    vec![
        Event::Accepted {
            operation: operation(),
            actor: actor(),
            configuration: configuration(),
            change: aims(),
            ticket: Some("RITM1".to_owned()),
            requested_for: Some("jane.doe@contoso.com".to_owned()),
            comment: Some("New sales floor".to_owned()),
            only_on: None,
            until: Some(at),
            policies: vec!["a".to_owned(), "b".to_owned()],
            approvals: vec!["wide".to_owned()],
        },
        Event::Approved {
            operation: operation(),
            configuration: configuration(),
            actor: actor(),
            comment: Some("agreed on the phone".to_owned()),
            policies: vec!["a".to_owned()],
        },
        Event::Rejected {
            operation: operation(),
            configuration: configuration(),
            actor: actor(),
            comment: None,
            policies: vec!["a".to_owned()],
        },
        Event::ApprovalExpired { operation: operation(), configuration: configuration() },
        refused(Some("RITM1"), None),
        refused(None, Some(Repeated { count: 7, first: at, last: Timestamp::MAX })),
        denied("add", Some(actor()), None),
        denied("read", Some(actor()), None),
        denied("add", Some(of_several()), Some(Repeated { count: 2, first: at, last: at })),
        denied("authenticate", None, None),
        denied("authenticate", None, Some(Repeated { count: 7, first: at, last: Timestamp::MAX })),
    ]
}

fn of_carrying() -> Vec<Event> {
    vec![
        Event::Started { configuration: configuration(), operations: vec![operation()], lease: 1 },
        Event::Written {
            configuration: configuration(),
            operations: vec![operation()],
            before: digest("b"),
            after: digest("a"),
            request_id: None,
            client_request_id: "call".to_owned(),
            known_by: "answered",
        },
        settled("succeeded", Some("changed")),
        settled("succeeded", Some("unchanged")),
        settled("failed", None),
        Event::Cancelled {
            operation: operation(),
            configuration: configuration(),
            actor: actor(),
            policies: vec!["a".to_owned()],
        },
        Event::Reverted {
            operation: operation(),
            configuration: configuration(),
            by: operation(),
            kept: vec![UntouchedTarget { target: "group b0".to_owned(), because: "changed since" }],
        },
        Event::UntilCalledOff {
            operation: operation(),
            configuration: configuration(),
            actor: actor(),
            policies: vec!["a".to_owned()],
        },
        Event::UntilMoot { operation: operation(), configuration: configuration(), because: "nothing-left" },
        Event::DriftSeen { configuration: configuration(), source: None, left: digest("l"), found: digest("f") },
    ]
}

fn of_telling() -> Vec<Event> {
    let (destination, url) = ("desk".to_owned(), "https://desk.contoso.com/told".to_owned());
    vec![
        Event::CallbackDelivered {
            operation: operation(),
            configuration: configuration(),
            destination: destination.clone(),
            url: url.clone(),
            attempts: 2,
            status: 204,
        },
        Event::CallbackParked {
            operation: operation(),
            configuration: configuration(),
            destination,
            url,
            attempts: 9,
            status: None,
            reason: "no answer".to_owned(),
        },
        Event::CallbackResent {
            operation: operation(),
            configuration: configuration(),
            actor: actor(),
            policies: vec!["a".to_owned()],
        },
    ]
}

/// A new event does not compile until it is added here.
fn look_at_all(all: &[Event]) {
    for event in all {
        match event {
            Event::StartedUp { .. }
            | Event::ConfigurationLoaded { .. }
            | Event::ConfigurationRefused { .. }
            | Event::SignedCheckpoint { .. }
            | Event::Accepted { .. }
            | Event::Approved { .. }
            | Event::Rejected { .. }
            | Event::ApprovalExpired { .. }
            | Event::Denied { .. }
            | Event::Refused { .. }
            | Event::Started { .. }
            | Event::Written { .. }
            | Event::Settled { .. }
            | Event::Reverted { .. }
            | Event::Cancelled { .. }
            | Event::UntilCalledOff { .. }
            | Event::UntilMoot { .. }
            | Event::CallbackDelivered { .. }
            | Event::CallbackParked { .. }
            | Event::CallbackResent { .. }
            | Event::DriftSeen { .. } => {}
        }
    }
}

/// The records of all events, and one of an event that this version does not know.
fn records() -> Vec<String> {
    let mut head = Head { chain: "run-1".to_owned(), sequence: 0, hash: "0".repeat(64) };
    let entry = |event| Entry {
        at: "2026-03-01T08:00:00.25Z".parse().unwrap(),
        trace_id: Some("4bf92f3577b34da6a3ce929d0e0e4736".to_owned()),
        event,
    };
    look_at_all(&events());
    let mut records: Vec<_> = events().into_iter().map(|event| head.append(&entry(event)).text).collect();
    let unknown = records[0].replace("started-up", "something-new");
    records.push(unknown);
    records
}

#[test]
fn every_record_is_canonical_and_each_of_its_fields_stands_there_once() {
    for text in records() {
        let record: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(canonical::text(&record), text);
    }
}

fn in_form(form: ExportFormat) -> Vec<(Value, Value)> {
    let of = |text: &String| {
        let line = form.line(text);
        assert!(!line.contains('\n'), "{line}");
        (serde_json::from_str(text).unwrap(), serde_json::from_str(&line).unwrap())
    };
    records().iter().map(of).collect()
}

/// The record that `fits`, in this format.
fn one(form: ExportFormat, fits: impl Fn(&Value) -> bool) -> Value {
    in_form(form).into_iter().find(|(record, _)| fits(record)).unwrap().1
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().map(Map::keys).into_iter().flatten().map(String::as_str).collect()
}

#[track_caller]
fn only(value: &Value, allowed: &[&str], required: &[&str]) {
    for key in keys(value) {
        assert!(allowed.contains(&key), "{key} is not in the schema: {value}");
    }
    for key in required {
        assert!(!value[key].is_null(), "{key} is missing: {value}");
    }
}

const OCSF_REQUIRED: [&str; 8] =
    ["activity_id", "category_uid", "class_uid", "entity", "metadata", "severity_id", "time", "type_uid"];
const OCSF_ALLOWED: [&str; 22] = [
    "activity_id",
    "activity_name",
    "actor",
    "category_name",
    "category_uid",
    "class_name",
    "class_uid",
    "comment",
    "count",
    "end_time",
    "entity",
    "entity_result",
    "message",
    "metadata",
    "severity",
    "severity_id",
    "start_time",
    "status",
    "status_detail",
    "status_id",
    "time",
    "type_uid",
];
const OCSF_ENTITY: [&str; 6] = ["data", "name", "type", "type_id", "uid", "version"];
const OCSF_METADATA: [&str; 8] =
    ["correlation_uid", "event_code", "log_name", "original_time", "product", "sequence", "uid", "version"];

#[test]
fn every_event_fits_ocsf() {
    for (record, event) in in_form(ExportFormat::Ocsf) {
        let mut schema = event.clone();
        assert_eq!(schema.as_object_mut().unwrap().remove("unmapped").as_ref(), Some(&record), "nothing is lost");
        only(&schema, &OCSF_ALLOWED, &OCSF_REQUIRED);
        assert_eq!((&event["class_uid"], &event["category_uid"]), (&Value::from(3004), &Value::from(3)));
        let activity = event["activity_id"].as_u64().unwrap();
        // Entity Management has 0 to 13, and 99 for anything else.
        assert!(activity <= 13 || activity == 99, "{activity}");
        assert_eq!(event["type_uid"], 3004 * 100 + activity);
        assert!((0..=6).contains(&event["severity_id"].as_u64().unwrap()));
        assert!((0..=2).contains(&event["status_id"].as_u64().unwrap()));
        only(&event["metadata"], &OCSF_METADATA, &["product", "version"]);
        assert_eq!(event["metadata"]["version"], "1.8.0");
        for entity in [&event["entity"], &event["entity_result"]].into_iter().filter(|entity| !entity.is_null()) {
            only(entity, &OCSF_ENTITY, &["type_id", "uid"]);
        }
        if let Some(actor) = event.get("actor") {
            only(actor, &["app_name", "authorizations", "session", "user"], &["user"]);
            only(&actor["user"], &["name", "type", "type_id", "uid"], &["name"]);
            only(&actor["session"], &["issuer", "uid"], &[]);
        }
    }
    let accepted = one(ExportFormat::Ocsf, |record| record["event"] == "accepted");
    assert_eq!((&accepted["activity_id"], &accepted["activity_name"]), (&99.into(), &"accepted".into()));
    assert_eq!(accepted["status"], "Success");
    assert_eq!((&accepted["time"], &accepted["comment"]), (&1_772_352_000_250_i64.into(), &"New sales floor".into()));
    assert_eq!(accepted["actor"]["authorizations"][1]["policy"]["name"], "b");
    let written = one(ExportFormat::Ocsf, |record| record["event"] == "written");
    assert_eq!(written["entity_result"]["version"], digest("a").as_str());
    let repeated = one(ExportFormat::Ocsf, |record| !record["repeated"].is_null());
    assert_eq!((&repeated["count"], &repeated["time"], &repeated["start_time"]), (&7.into(), &0.into(), &0.into()));
    assert_eq!((&repeated["status_id"], &repeated["severity_id"]), (&2.into(), &3.into()));
}

/// The types that ECS expects with each category used here.
const ECS_EXPECTED: [(&str, &[&str]); 4] = [
    (
        "api",
        &["access", "admin", "allowed", "change", "creation", "deletion", "denied", "end", "info", "start", "user"],
    ),
    ("authentication", &["start", "end", "info"]),
    ("configuration", &["access", "change", "creation", "deletion", "info"]),
    ("process", &["access", "change", "end", "info", "start"]),
];
const ECS_EVENT: [&str; 15] = [
    "action", "category", "dataset", "end", "hash", "id", "kind", "module", "outcome", "provider", "reason",
    "sequence", "severity", "start", "type",
];

#[test]
fn every_event_fits_ecs() {
    for (record, event) in in_form(ExportFormat::Ecs) {
        let allowed =
            ["@timestamp", "ecs", "event", "message", "postern", "related", "rule", "service", "trace", "user"];
        only(&event, &allowed, &["@timestamp", "ecs", "event", "message"]);
        assert_eq!(event["postern"], record, "nothing is lost");
        assert_eq!((&event["ecs"]["version"], &event["event"]["kind"]), (&"9.4.0".into(), &"event".into()));
        only(&event["event"], &ECS_EVENT, &["action", "category", "kind", "outcome", "type"]);
        let texts = |key: &str| event["event"][key].as_array().unwrap().clone();
        let categories: Vec<_> = ECS_EXPECTED.iter().filter(|row| texts("category").contains(&row.0.into())).collect();
        assert_eq!(categories.len(), texts("category").len(), "{event}");
        for kind in texts("type") {
            assert!(categories.iter().any(|row| row.1.contains(&kind.as_str().unwrap())), "{kind} of {event}");
        }
        assert!(["success", "failure", "unknown"].contains(&event["event"]["outcome"].as_str().unwrap()));
    }
    let denied = one(ExportFormat::Ecs, |record| record["action"] == "add");
    assert_eq!((&denied["event"]["action"], &denied["event"]["outcome"]), (&"denied-add".into(), &"failure".into()));
    assert_eq!((&denied["user"]["name"], &denied["user"]["id"]), (&"servicenow".into(), &"s-1".into()));
    assert_eq!(denied["trace"]["id"], "4bf92f3577b34da6a3ce929d0e0e4736");
    let several = one(ExportFormat::Ecs, |record| record["action"] == "add" && !record["repeated"].is_null());
    assert_eq!(several["user"], serde_json::json!({"name": "servicenow"}));
    let accepted = one(ExportFormat::Ecs, |record| record["event"] == "accepted");
    assert_eq!(accepted["related"]["user"], serde_json::json!(["servicenow", "s-1", "jane.doe@contoso.com"]));
    let stranger = one(ExportFormat::Ecs, |record| record["action"] == "authenticate");
    assert!(stranger.get("user").is_none() && stranger.get("related").is_none(), "{stranger}");
}

const ASIM_REQUIRED: [&str; 11] = [
    "Dvc",
    "EventEndTime",
    "EventProduct",
    "EventResult",
    "EventSchema",
    "EventSchemaVersion",
    "EventStartTime",
    "EventType",
    "EventVendor",
    "Operation",
    "TimeGenerated",
];
const ASIM_OPTIONAL: [&str; 24] = [
    "ActingAppName",
    "ActingAppType",
    "ActorSessionId",
    "ActorUserId",
    "ActorUserIdType",
    "ActorUserType",
    "ActorUsername",
    "ActorUsernameType",
    "AdditionalFields",
    "EventCount",
    "EventMessage",
    "EventOriginalResultDetails",
    "EventOriginalType",
    "EventOriginalUid",
    "EventProductVersion",
    "EventSeverity",
    "NewValue",
    "Object",
    "ObjectId",
    "ObjectType",
    "OldValue",
    "RuleName",
    "TargetAppName",
    "TargetAppType",
];
const ASIM_VALUES: [(&str, &[&str]); 9] = [
    ("ActingAppType", &["Process", "Service", "Resource", "URL", "SaaS application", "CSP", "Other"]),
    ("ActorUserIdType", &["SID", "UID", "AADID", "OktaId", "AWSId", "PUID", "SalesforceId", "Other"]),
    ("ActorUserType", &["Regular", "Guest", "Machine", "Admin", "System", "Application", "Service", "Other"]),
    ("ActorUsernameType", &["UPN", "Windows", "DN", "Simple"]),
    ("EventResult", &["Success", "Failure", "Partial", "NA"]),
    ("EventSeverity", &["Informational", "Low", "Medium", "High"]),
    (
        "EventType",
        &[
            "Set", "Read", "Create", "Delete", "Execute", "Install", "Clear", "Enable", "Disable", "Start", "Stop",
            "Other",
        ],
    ),
    (
        "ObjectType",
        &[
            "Configuration Atom",
            "Policy Rule",
            "Event Log",
            "Scheduled Task",
            "Service",
            "Directory Service Object",
            "Other",
        ],
    ),
    ("TargetAppType", &["Process", "Service", "Resource", "URL", "SaaS application", "Other"]),
];

#[test]
fn every_event_fits_asim() {
    let allowed = [ASIM_REQUIRED.as_slice(), &ASIM_OPTIONAL].concat();
    for (record, event) in in_form(ExportFormat::Asim) {
        only(&event, &allowed, &ASIM_REQUIRED);
        assert_eq!(event["AdditionalFields"], record, "nothing is lost");
        for (key, values) in ASIM_VALUES {
            let value = event.get(key).and_then(Value::as_str);
            assert!(value.is_none_or(|value| values.contains(&value)), "{key} of {event}");
        }
    }
    let written = one(ExportFormat::Asim, |record| record["event"] == "written");
    let values = (written["OldValue"].as_str().unwrap(), written["NewValue"].as_str().unwrap());
    assert_eq!(values, (digest("b").as_str(), digest("a").as_str()));
    assert_eq!((&written["Object"], &written["EventType"]), (&CONFIGURATION.into(), &"Set".into()));
    let denied = one(ExportFormat::Asim, |record| record["action"] == "read");
    assert_eq!((&denied["EventResult"], &denied["EventType"]), (&"Failure".into(), &"Read".into()));
    assert_eq!((&denied["Operation"], &denied["ActorUsername"]), (&"read".into(), &"servicenow".into()));
}

/// What each event says it did, in each format: activity in OCSF, categories and types in ECS, and type and result in ASIM.
#[test]
fn only_what_was_carried_out_is_a_change_and_what_was_turned_down_is_a_failure() {
    let told = |event: &str| {
        let of = |form| one(form, |record| record["event"] == event);
        let (ocsf, ecs, asim) = (of(ExportFormat::Ocsf), of(ExportFormat::Ecs), of(ExportFormat::Asim));
        assert_eq!(ocsf["status"], asim["EventResult"], "{event}");
        assert_eq!(asim["EventResult"].as_str().unwrap().to_lowercase(), ecs["event"]["outcome"], "{event}");
        let classes = format!("{} {}", ecs["event"]["category"], ecs["event"]["type"]);
        let values = asim.get("NewValue").is_some();
        (ocsf["activity_id"].clone(), classes, asim["EventType"].clone(), asim["EventResult"].clone(), values)
    };
    let step = |classes: &str, result: &str| (99.into(), classes.to_owned(), "Execute".into(), result.into(), false);
    let info = r#"["configuration"] ["info"]"#;
    assert_eq!(told("accepted"), step(r#"["api"] ["allowed"]"#, "Success"));
    assert_eq!(told("approved"), step(info, "Success"));
    assert_eq!(told("rejected"), step(info, "Failure"));
    assert_eq!(told("approval-expired"), step(info, "Failure"));
    let change = r#"["configuration"] ["change"]"#.to_owned();
    assert_eq!(told("written"), (3.into(), change, "Set".into(), "Success".into(), true));
}

#[test]
fn what_is_no_record_stays_as_it_is_and_jsonl_is_what_was_hashed() {
    for form in [ExportFormat::Jsonl, ExportFormat::Ocsf, ExportFormat::Ecs, ExportFormat::Asim] {
        assert_eq!(form.line("no record"), "no record");
        assert_eq!(form.to_string().parse(), Ok(form));
    }
    for record in records() {
        assert_eq!(ExportFormat::Jsonl.line(&record), record);
    }
    assert!("csv".parse::<ExportFormat>().is_err());
}
