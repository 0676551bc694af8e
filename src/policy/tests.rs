//! What the shipped policies decide, and what is reported about folders with faults.

use std::{fs, path::PathBuf};

use cedar_policy::Decision;
use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::domain::{
    AssignmentSet, Change, Configuration, DesiredAssignment, Filter, FilterMode, Kind, MergeOutcome, OperationId, Role,
    State, Target, assignment::UninterpretedJson, change::List, merge, operation::SuccessEvidence,
};

const GROUP: &str = "b0000000-0000-4000-8000-000000000001";

fn shipped() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("config/policies")
}

/// A folder with the shipped schema and these files.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::copy(shipped().join("schema.cedarschema"), dir.path().join("schema.cedarschema")).unwrap();
    for (name, text) in files {
        fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

fn policies(text: &str) -> Policies {
    Policies::load(folder(&[("a.cedar", text)]).path()).unwrap()
}

fn caller(name: &str, roles: &[&str]) -> Caller {
    Caller {
        name: name.to_owned(),
        issuer: "sandbox".to_owned(),
        subject: "subject".to_owned(),
        token_id: None,
        certificate: None,
        roles: roles.iter().map(|role| Role::new(*role)).collect(),
    }
}

fn servicenow() -> Caller {
    caller("servicenow", &["Assignments.Change"])
}

fn configuration() -> Configuration {
    let id = "a0000000-0000-4000-8000-000000000001_Limit".parse().unwrap();
    Configuration { id, name: "Five devices".to_owned(), kind: Kind::DeviceLimit, priority: 3 }
}

fn group() -> Target {
    Target::Group(GROUP.parse().unwrap())
}

fn wanted(target: Target) -> DesiredAssignment {
    DesiredAssignment { target, filter: None }
}

fn adding(targets: &[Target]) -> Change {
    Change::amend(targets.iter().cloned().map(wanted).collect(), vec![], 100).unwrap()
}

fn removing(target: Target) -> Change {
    Change::amend(vec![], vec![target], 100).unwrap()
}

fn submission(caller: &Caller, change: Change, ticket: Option<&str>) -> Submission {
    Submission {
        configuration: configuration().id,
        configuration_name: configuration().name,
        change,
        names: [(GROUP.to_owned(), "Sales Laptops".to_owned())].into(),
        caller: caller.name.clone(),
        ticket: ticket.map(str::to_owned),
        requested_for: None,
        comment: None,
        only_on: None,
        accepted_at: Timestamp::UNIX_EPOCH,
        until: None,
        approval: None,
        callback: None,
        traceparent: None,
    }
}

/// The ids of the policies that permit a change with a ticket, or why it is denied.
fn change(policies: &Policies, caller: &Caller, tag: &str, change: Change) -> Result<Vec<String>, Denial> {
    with_ticket(policies, caller, tag, &submission(caller, change, Some("RITM0012345")))
}

fn with_ticket(policies: &Policies, caller: &Caller, tag: &str, asked: &Submission) -> Result<Vec<String>, Denial> {
    let (configuration, tags) = (configuration(), BTreeSet::from([tag.to_owned()]));
    let permit =
        policies.decide_change(caller, Resource { configuration: &configuration, tags: &tags }, asked.clone())?;
    assert_eq!(permit.get(), asked);
    let ids = permit.policies().to_vec();
    assert_eq!(permit.into_inner(), *asked);
    Ok(ids)
}

fn ask(policies: &Policies, caller: &Caller, tag: &str, action: Action) -> Result<Vec<String>, Denial> {
    let (configuration, tags) = (configuration(), BTreeSet::from([tag.to_owned()]));
    let permit = policies.decide(caller, action, Resource { configuration: &configuration, tags: &tags })?;
    Ok(permit.policies().to_vec())
}

fn reason(denial: Result<Vec<String>, Denial>) -> Reason {
    denial.unwrap_err().reason
}

#[test]
fn servicenow_changes_groups_of_what_the_desk_is_responsible_for() {
    let policies = Policies::load(&shipped()).unwrap();
    for tag in ["sales", "kiosk", "restriction"] {
        for asked in [adding(&[group()]), removing(group())] {
            assert_eq!(change(&policies, &servicenow(), tag, asked).unwrap(), ["servicenow-changes-groups"]);
        }
    }
    assert_eq!(reason(change(&policies, &servicenow(), "finance", adding(&[group()]))), Reason::NotPermitted);
    let replaced = Change::replace(vec![wanted(group())], 9).unwrap();
    assert_eq!(reason(change(&policies, &servicenow(), "sales", replaced)), Reason::NotPermitted);
}

#[test]
fn servicenow_needs_a_ticket_and_its_role() {
    let policies = Policies::load(&shipped()).unwrap();
    let caller = servicenow();
    let without = submission(&caller, adding(&[group()]), None);
    assert_eq!(reason(with_ticket(&policies, &caller, "sales", &without)), Reason::NotPermitted);
    let bare = self::caller("servicenow", &["Assignments.Else"]);
    assert_eq!(reason(change(&policies, &bare, "sales", adding(&[group()]))), Reason::NotPermitted);
}

#[test]
fn servicenow_plans_and_reads_its_own() {
    let policies = Policies::load(&shipped()).unwrap();
    assert!(ask(&policies, &servicenow(), "sales", Action::Plan).is_ok());
    assert!(ask(&policies, &servicenow(), "finance", Action::Plan).is_err());
    assert!(ask(&policies, &servicenow(), "finance", Action::Read { own: true }).is_ok());
    assert!(ask(&policies, &servicenow(), "sales", Action::Read { own: false }).is_err());
}

#[test]
fn callers_that_change_cancel_and_revert_their_own_and_no_others() {
    let policies = Policies::load(&shipped()).unwrap();
    let both = |own| [Action::Cancel { own }, Action::Revert { own }];
    for caller in [servicenow(), caller("portal", &[])] {
        for (action, does) in both(true).into_iter().zip(["cancels", "reverts"]) {
            let policy = format!("{}-{does}-its-own", caller.name);
            assert_eq!(ask(&policies, &caller, "sales", action).unwrap(), [policy]);
        }
        for action in both(false) {
            assert_eq!(reason(ask(&policies, &caller, "sales", action)), Reason::NotPermitted);
        }
    }
    for caller in [caller("servicenow", &[]), caller("helpdesk", &["Assignments.Read"])] {
        for action in both(true) {
            assert_eq!(reason(ask(&policies, &caller, "sales", action)), Reason::NotPermitted);
        }
    }
}

#[test]
fn a_reversal_takes_the_right_to_revert_and_that_to_each_target() {
    let original = |caller: &Caller, added: Target, removed: Target| {
        let present = Change::amend(vec![wanted(removed.clone())], vec![], 1).unwrap();
        let present = merge(&AssignmentSet::default(), [&present]).desired;
        let asked = Change::amend(vec![wanted(added)], vec![removed], 2).unwrap();
        let Some(MergeOutcome::Applied(difference)) = merge(&present, [&asked]).merged.pop() else { panic!() };
        let (at, digest) = (Timestamp::UNIX_EPOCH, present.digest());
        let ending = SuccessEvidence { at, difference, before: digest.clone(), after: digest, write: None };
        let state = State::Queued.start(at).unwrap().succeed(ending).unwrap();
        let id = OperationId::from(uuid::Uuid::from_u128(1));
        Operation { id, submission: submission(caller, asked, None), state }
    };
    let decided = |policies: &Policies, caller: &Caller, original: &Operation| {
        let change = Change::Revert(Reversal::of(original, Cause::Asked).unwrap());
        let asked = submission(caller, change, Some("RITM0012345"));
        let (configuration, tags) = (configuration(), BTreeSet::from(["sales".to_owned()]));
        let resource = Resource { configuration: &configuration, tags: &tags };
        assert!(policies.decide_change(caller, resource, asked.clone()).is_err(), "only with the right to revert");
        policies.decide_reversal(caller, resource, asked, original).map(|permit| permit.policies().to_vec())
    };
    let policies = Policies::load(&shipped()).unwrap();
    let own = original(&servicenow(), group(), group_of(2));
    let permitted = ["servicenow-changes-groups", "servicenow-reverts-its-own"];
    assert_eq!(decided(&policies, &servicenow(), &own).unwrap(), permitted);
    let others = original(&caller("portal", &[]), group(), group_of(2));
    assert_eq!(decided(&policies, &servicenow(), &others).unwrap_err().action, "revert");
    // Whoever made the original: the whole tenant can be neither put back nor taken out.
    let forbidden = Reason::Forbidden(vec!["no-tenant-wide-targets".to_owned()]);
    for (added, removed, action) in [(group(), Target::AllUsers, "add"), (Target::AllDevices, group(), "remove")] {
        let denied = decided(&policies, &servicenow(), &original(&servicenow(), added, removed)).unwrap_err();
        assert_eq!((denied.action, denied.reason), (action, forbidden.clone()));
    }
}

fn group_of(number: u128) -> Target {
    Target::Group(uuid::Uuid::from_u128(number).to_string().parse().unwrap())
}

#[test]
fn the_portal_changes_kiosks_only() {
    let (policies, portal) = (Policies::load(&shipped()).unwrap(), caller("portal", &[]));
    let without = submission(&portal, adding(&[group()]), None);
    assert_eq!(with_ticket(&policies, &portal, "kiosk", &without).unwrap(), ["portal-changes-kiosk-groups"]);
    assert!(change(&policies, &portal, "kiosk", removing(group())).is_ok());
    assert_eq!(reason(change(&policies, &portal, "sales", adding(&[group()]))), Reason::NotPermitted);
    assert!(ask(&policies, &portal, "sales", Action::Read { own: true }).is_ok());
}

#[test]
fn the_help_desk_reads_and_plans_everything_and_changes_nothing() {
    let (policies, helpdesk) = (Policies::load(&shipped()).unwrap(), caller("helpdesk", &["Assignments.Read"]));
    for action in [Action::Plan, Action::Read { own: false }, Action::Read { own: true }] {
        assert_eq!(ask(&policies, &helpdesk, "finance", action).unwrap(), ["helpdesk-reads-everything"]);
    }
    assert_eq!(reason(change(&policies, &helpdesk, "sales", adding(&[group()]))), Reason::NotPermitted);
}

#[test]
fn what_no_shipped_policy_mentions_is_denied() {
    let policies = Policies::load(&shipped()).unwrap();
    for action in [Action::Cancel { own: false }, Action::Revert { own: false }, Action::Audit] {
        assert_eq!(reason(ask(&policies, &servicenow(), "sales", action)), Reason::NotPermitted);
    }
    assert_eq!(reason(change(&policies, &caller("stranger", &[]), "sales", adding(&[group()]))), Reason::NotPermitted);
}

#[test]
fn nobody_reaches_the_whole_tenant_or_clears() {
    let open = r#"@id("anything") permit (principal, action, resource);"#;
    let guard = fs::read_to_string(shipped().join("guard.cedar")).unwrap();
    let policies = policies(&format!("{open}\n{guard}"));
    let forbidden = |id: &str| Reason::Forbidden(vec![id.to_owned()]);
    for target in [Target::AllDevices, Target::AllUsers] {
        let replaced = Change::replace(vec![wanted(target.clone())], 9).unwrap();
        for asked in [adding(std::slice::from_ref(&target)), removing(target), replaced] {
            let denied = reason(change(&policies, &servicenow(), "sales", asked));
            assert_eq!(denied, forbidden("no-tenant-wide-targets"));
        }
    }
    let cleared = Change::replace(vec![], 9).unwrap();
    assert_eq!(reason(change(&policies, &servicenow(), "sales", cleared)), forbidden("no-clearing"));
    let replaced = Change::replace(vec![wanted(group())], 9).unwrap();
    assert_eq!(change(&policies, &servicenow(), "sales", replaced).unwrap(), ["anything"]);
}

#[test]
fn one_denied_target_denies_the_change_and_is_named() {
    let policies = Policies::load(&shipped()).unwrap();
    let denial = change(&policies, &servicenow(), "sales", adding(&[group(), Target::AllDevices])).unwrap_err();
    let target = Some(Denied { list: List::Add, index: 1, target: Target::AllDevices });
    let reason = Reason::Forbidden(vec!["no-tenant-wide-targets".to_owned()]);
    assert_eq!(denial, Denial { action: "add", target, reason });
    assert_eq!(denial.to_string(), "forbidden by policy no-tenant-wide-targets: add all devices");
    let both = Change::amend(vec![wanted(group())], vec![Target::AllUsers], 9).unwrap();
    let denial = change(&policies, &servicenow(), "sales", both).unwrap_err();
    assert_eq!(denial.target.map(|denied| (denied.list, denied.index)), Some((List::Remove, 0)));
}

#[test]
fn policies_see_name_id_filter_and_number_of_targets() {
    let policies = policies(
        r#"@id("all") permit (principal, action == Postern::Action::"add", resource) when {
            context.targets == 2 && context.target has id && context.target has name && context.target has filter &&
            context.target has filter_mode && context.target.filter_mode == "include" &&
            context.target.name like "Sales *" && resource.priority == 3 && resource.kind == "device-limit" &&
            resource.configurationId like "*_Limit" && resource.name == "Five devices" && principal.issuer == "sandbox" &&
            principal.roles.contains("Assignments.Change") };
        @id("remove") permit (principal, action == Postern::Action::"remove", resource)
            when { context.target.kind == "foreign" };"#,
    );
    let filter = Filter { id: GROUP.parse().unwrap(), mode: FilterMode::Include };
    let asked = |mode| {
        let add = vec![DesiredAssignment { target: group(), filter: Some(Filter { mode, ..filter }) }];
        Change::amend(add, vec![Target::Foreign(UninterpretedJson::new("{}".to_owned()))], 9).unwrap()
    };
    let decided = |mode| change(&policies, &servicenow(), "sales", asked(mode));
    assert_eq!(decided(FilterMode::Include).unwrap(), ["all", "remove"]);
    assert!(decided(FilterMode::Exclude).is_err(), "who may spare some devices may not reach them instead");
}

#[test]
fn a_policy_that_errs_denies_even_if_another_permits() {
    let policies = policies(
        r#"@id("open") permit (principal, action, resource);
        @id("errs") forbid (principal, action == Postern::Action::"add", resource)
            when { context.targets * 9223372036854775807 == 0 };"#,
    );
    assert!(change(&policies, &servicenow(), "sales", adding(&[group()])).is_ok());
    let denial = change(&policies, &servicenow(), "sales", adding(&[group(), Target::AllUsers])).unwrap_err();
    assert!(matches!(&denial.reason, Reason::Undecided(why) if why.contains("errs")), "{denial:?}");
}

#[test]
fn a_caller_or_configuration_that_differs_is_not_taken_for_one_that_is_remembered() {
    let policies = policies(
        r#"@id("one") permit (principal in Postern::Role::"Assignments.Change", action, resource) when {
            principal.issuer == "sandbox" && !(principal has certificate) && resource.tags.contains("sales") &&
            resource.name == "Five devices" && resource.kind == "device-limit" && resource.priority == 3 };"#,
    );
    let asked = |caller: &Caller, configuration: &Configuration, tag: &str| {
        let tags = BTreeSet::from([tag.to_owned()]);
        policies.decide(caller, Action::Plan, Resource { configuration, tags: &tags }).is_ok()
    };
    let (caller, configuration) = (servicenow(), configuration());
    for _ in 0..2 {
        assert!(asked(&caller, &configuration, "sales"));
        assert!(!asked(&caller, &configuration, "finance"));
        assert!(policies.decide_audit_of_gateway(&caller).is_err());
        let digest = serde_json::from_value(format!("{:064}", 0).into()).unwrap();
        for other in [
            Caller { issuer: "else".to_owned(), ..caller.clone() },
            Caller { roles: vec![Role::new("Assignments.Else")], ..caller.clone() },
            Caller { certificate: Some(digest), ..caller.clone() },
        ] {
            assert!(!asked(&other, &configuration, "sales"), "{other:?}");
        }
        for other in [
            Configuration { name: "Six devices".to_owned(), ..configuration.clone() },
            Configuration { kind: Kind::Unknown, ..configuration.clone() },
            Configuration { priority: 4, ..configuration.clone() },
        ] {
            assert!(!asked(&caller, &other, "sales"), "{other:?}");
        }
    }
}

/// Policies of every scope that permit, forbid or fail, whatever they look at.
fn any_policy() -> impl Strategy<Value = String> {
    let callers = [
        "principal",
        r#"principal == Postern::Caller::"servicenow""#,
        r#"principal == Postern::Caller::"portal""#,
        r#"principal in Postern::Caller::"portal""#,
        r#"principal in Postern::Role::"Assignments.Change""#,
        r#"principal is Postern::Caller in Postern::Role::"Assignments.Else""#,
    ];
    let about_changes = [
        r#"action == Postern::Action::"add""#,
        r#"action in [Postern::Action::"remove", Postern::Action::"add"]"#,
        r#"action in Postern::Action::"changes""#,
    ];
    let about_anything = ["action", r#"action in [Postern::Action::"plan", Postern::Action::"changes"]"#];
    let of_changes = [
        r#"context has ticket && context.ticket like "RITM*""#,
        "context has ticket",
        r#"["RITM1"].contains(if context has ticket then context.ticket else "")"#,
        "[context.target].contains(context.target)",
        r#"context.target has name && context["target"].name == "Sales""#,
        r#"context.target has id && context.target.id == "00000000-0000-0000-0000-000000000001""#,
        "context.target has filter",
        "context.targets > 1",
        "context.targets * 9223372036854775807 > 0",
        "context.time.hour < 6",
        r#"["sunday", "thursday"].contains(context.time.weekday)"#,
        r#"context.time.now >= datetime("1970-01-01T06:00:00Z")"#,
        r#"(if resource.priority == 3 then context.time else {"now": datetime("1970-01-01"), "hour": 0, "weekday": ""}).hour < 6"#,
    ];
    let of_anything = ["true", "resource.priority * 9223372036854775807 == 0", r#"resource.tags.contains("sales")"#];
    let of = |those: &[&'static str]| prop::sample::select(those.to_vec());
    let scope = prop_oneof![
        (of(&about_changes), of(&of_changes)),
        (of(&about_changes), of(&of_anything)),
        (of(&about_anything), of(&of_anything))
    ];
    (of(&["permit", "forbid"]), of(&callers), scope).prop_map(|(effect, caller, (action, when))| {
        format!("{effect} ({caller}, {action}, resource) when {{ {when} }};")
    })
}

/// Changes that differ in everything that policies can look at.
fn any_submission() -> impl Strategy<Value = Submission> {
    let ticket = prop::sample::select(vec![None, Some("RITM1"), Some("RITM2"), Some("INC1")]);
    let name = prop::sample::select(vec![None, Some("Sales"), Some("Else")]);
    let filter = Filter { id: GROUP.parse().unwrap(), mode: FilterMode::Include };
    (ticket, name, 1_u128..3, 1_usize..3, 0_i64..600_000, any::<bool>()).prop_map(
        move |(ticket, name, number, targets, second, narrowed)| {
            let group = |number| DesiredAssignment { target: group_of(number), filter: narrowed.then_some(filter) };
            let wanted = (number..).take(targets).map(group).collect();
            let named = name.map(|name| (uuid::Uuid::from_u128(number).to_string(), name.to_owned()));
            Submission {
                names: named.into_iter().collect(),
                accepted_at: Timestamp::from_second(second).unwrap(),
                ..submission(&servicenow(), Change::amend(wanted, vec![], 100).unwrap(), ticket)
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn neither_policies_that_are_left_out_nor_decisions_that_are_remembered_change_one(
        those in prop::collection::vec(any_policy(), 1..6),
        submissions in prop::collection::vec(any_submission(), 1..12),
    ) {
        let text: Vec<_> = those.iter().enumerate().map(|(id, policy)| format!("@id(\"{id}\") {policy}")).collect();
        let dir = folder(&[("a.cedar", &text.join("\n"))]);
        let schema = dir.path().join("schema.cedarschema");
        let grouped = fs::read_to_string(&schema).unwrap();
        let grouped = grouped.replace("add, remove, replace applies", "changes; action add, remove, replace in [changes] applies");
        fs::write(schema, grouped).unwrap();
        let policies = Policies::load(dir.path()).unwrap();
        let (configuration, tags) = (configuration(), BTreeSet::from(["sales".to_owned()]));
        let resource = Some(Resource { configuration: &configuration, tags: &tags });
        for caller in [servicenow(), caller("portal", &["Assignments.Else"]), caller("else", &[])] {
            let evaluation = Evaluation::new(&policies, &caller, resource).unwrap();
            let entities = policies.vocabulary.entities(&facts::Parties::new(&caller, resource), &policies.schema).unwrap();
            let about = |submission: &Submission| {
                QuestionContext::of_change(submission, submission.accepted_at, submission.change.wanted().first())
            };
            let of_changes = ["add", "remove", "replace"].map(|action| submissions.iter().map(move |it| (action, about(it))));
            for (action, context) in of_changes.into_iter().flatten().chain([("plan", QuestionContext::of(Action::Plan))]) {
                let request = evaluation.request(action, &context).unwrap();
                let all = policies.authorizer.is_authorized(&request, &policies.set, &entities);
                let ids: BTreeSet<_> = all.diagnostics().reason().map(ToString::to_string).collect();
                match evaluation.decide(action, None, context) {
                    Ok(allowed) => prop_assert!(all.decision() == Decision::Allow && allowed.policies == ids),
                    Err(Denial { reason: Reason::Undecided(_), .. }) => {
                        prop_assert!(all.diagnostics().errors().next().is_some());
                        continue;
                    }
                    Err(Denial { reason: Reason::Forbidden(by), .. }) => {
                        prop_assert!(all.decision() == Decision::Deny && by.into_iter().collect::<BTreeSet<_>>() == ids);
                    }
                    Err(_) => prop_assert!(all.decision() == Decision::Deny && ids.is_empty()),
                }
                prop_assert!(all.diagnostics().errors().next().is_none());
            }
        }
    }
}

#[test]
fn a_submission_that_is_empty_or_of_another_caller_or_configuration_is_denied() {
    let policies = policies(r#"@id("open") permit (principal, action, resource);"#);
    let theirs = submission(&caller("portal", &[]), adding(&[group()]), None);
    let mut elsewhere = submission(&servicenow(), adding(&[group()]), None);
    elsewhere.configuration = "a0000000-0000-4000-8000-000000000009_Limit".parse().unwrap();
    // Nobody can make an empty amendment, but the store could be made to hold one.
    let empty = serde_json::from_str(r#"{"amend":{"add":[],"remove":[]}}"#).unwrap();
    for asked in [theirs, elsewhere, submission(&servicenow(), empty, None)] {
        assert!(matches!(reason(with_ticket(&policies, &servicenow(), "sales", &asked)), Reason::Undecided(_)));
    }
}

#[test]
fn every_fault_of_a_folder_is_told_at_once_with_its_line() {
    let dir = folder(&[
        ("a.cedar", "// Why.\npermit (principal, action, resource);\n"),
        ("b.cedar", "@id(\"b\")\npermit (principal, action, resource)\nwhen { resource.tag.contains(\"x\") };\n"),
        (
            "c.cedar",
            "@id(\"b\") permit (principal, action, resource);\n@id(\"\") permit (principal, action, resource);\n",
        ),
        ("d.cedar", "@id(\"d\")\npermit (principal, action, resource\n"),
        ("e.cedar", "\n@id(\"e\") permit (principal == ?principal, action, resource);\n"),
        ("f.cedar", "@id(\"f\")\nforbid (principal, action == Postern::Action::\"ad\", resource);\n"),
        ("g.cedar", "@id(\"g\")\nforbid (principal, action, resource) when { context.own };\n"),
        ("h.cedar", "@id(\"h\")\nforbid (principal, action, resource)\nwhen { principal.issuer == 1 };\n"),
        ("README.md", "not a policy"),
    ]);
    fs::write(dir.path().join("i.cedar"), [0xff, 0xfe]).unwrap();
    let faults = Policies::load(dir.path()).unwrap_err();
    let found: BTreeSet<_> = faults
        .iter()
        .map(|fault| (fault.place.rsplit('/').next().unwrap().trim_end_matches(".cedar"), fault.line))
        .collect();
    for expected in [
        ("a", Some(2)),
        ("b", Some(3)),
        ("c", Some(1)),
        ("c", Some(2)),
        ("d", Some(2)),
        ("e", Some(2)),
        ("f", Some(2)),
        ("g", Some(2)),
        ("h", Some(3)),
        ("i", None),
    ] {
        assert!(found.contains(&expected), "{expected:?} is not in {faults:#?}");
    }
    let misspelt = faults.iter().find(|fault| fault.place.ends_with("b.cedar")).unwrap();
    assert!(misspelt.to_string().contains("tags"), "{misspelt}");
}

#[test]
fn a_policy_that_can_never_apply_is_a_fault() {
    let dir = folder(&[("a.cedar", "@id(\"a\")\nforbid (principal, action, resource) when { false };")]);
    assert!(Policies::load(dir.path()).is_err());
}

#[test]
fn a_folder_without_policies_or_schema_or_at_all_is_a_fault() {
    let empty = folder(&[("a.cedar", "// Nothing yet.")]);
    assert!(Policies::load(empty.path()).unwrap_err()[0].what.contains("no policy"));
    fs::remove_file(empty.path().join("schema.cedarschema")).unwrap();
    assert!(Policies::load(empty.path()).unwrap_err()[0].place.ends_with("schema.cedarschema"));
    assert!(Policies::load(&empty.path().join("absent")).is_err());
}

#[test]
fn a_schema_of_another_version_is_a_fault_when_it_is_loaded() {
    let schema = fs::read_to_string(shipped().join("schema.cedarschema")).unwrap();
    let dir = folder(&[("a.cedar", r#"@id("a") permit (principal, action == Postern::Action::"add", resource);"#)]);
    for (from, to) in [
        ("own: Bool", "own: Long"),
        ("issuer: String,", ""),
        ("name?: String,", ""),
        ("action plan", "action planning"),
        ("[Configuration, Gateway]", "[Configuration]"),
    ] {
        fs::write(dir.path().join("schema.cedarschema"), schema.replace(from, to)).unwrap();
        let faults = Policies::load(dir.path()).unwrap_err();
        assert!(faults[0].place.ends_with("schema.cedarschema"), "{from}: {faults:?}");
    }
    fs::write(dir.path().join("schema.cedarschema"), schema.replace("entity Role;", "entity Role")).unwrap();
    assert!(Policies::load(dir.path()).unwrap_err()[0].line.is_some());
}

#[test]
fn caller_and_role_names_match_exactly_and_are_never_interpreted() {
    let policies = Policies::load(&shipped()).unwrap();
    for name in [
        "servicenow\"",
        "servicenow\0",
        " servicenow",
        "ServiceNow",
        "s\u{435}rvicenow",
        "Postern::Caller::\"servicenow\"",
        "*",
    ] {
        let denied = change(&policies, &caller(name, &["Assignments.Change"]), "sales", adding(&[group()]));
        assert_eq!(reason(denied), Reason::NotPermitted, "{name:?}");
    }
    for role in ["assignments.change", "Assignments.Change\0", "*", "", "servicenow"] {
        let denied = change(&policies, &caller("servicenow", &[role]), "sales", adding(&[group()]));
        assert_eq!(reason(denied), Reason::NotPermitted, "{role:?}");
    }
}

/// The shipped policies without the guard, and one of the examples.
fn example(name: &str) -> Policies {
    let dir = folder(&[]);
    let examples = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("config/examples");
    let files = ["servicenow.cedar", "helpdesk.cedar"].map(|name| shipped().join(name));
    for file in files.into_iter().chain([examples.join(name)]) {
        fs::copy(&file, dir.path().join(file.file_name().unwrap())).unwrap();
    }
    Policies::load(dir.path()).unwrap_or_else(|faults| panic!("{name}: {faults:#?}"))
}

fn groups(number: u128) -> Vec<Target> {
    let id = |number| Target::Group(uuid::Uuid::from_u128(number).to_string().parse().unwrap());
    (1..=number).map(id).collect()
}

/// Policies, and the approvals that they require.
type Answer = (Vec<String>, Vec<String>);

/// The answer to servicenow at a moment, on a sales configuration: the policies and the approvals that they require.
fn at(policies: &Policies, moment: &str, change: Change) -> Result<Answer, Reason> {
    let (configuration, tags) = (configuration(), BTreeSet::from(["sales".to_owned()]));
    let mut asked = submission(&servicenow(), change, Some("RITM0012345"));
    asked.accepted_at = moment.parse().unwrap();
    let resource = Resource { configuration: &configuration, tags: &tags };
    let permit = policies.decide_change(&servicenow(), resource, asked).map_err(|denial| denial.reason)?;
    Ok((permit.policies().to_vec(), permit.approvals().to_vec()))
}

const TUESDAY: &str = "2026-11-24T12:00:00Z";

#[test]
fn every_shipped_example_can_be_used_and_all_of_them_together() {
    let examples = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("config/examples");
    let together = folder(&[]);
    for entry in fs::read_dir(examples).unwrap() {
        let file = entry.unwrap();
        fs::copy(file.path(), together.path().join(file.file_name())).unwrap();
        drop(example(file.file_name().to_str().unwrap()));
    }
    Policies::load(together.path()).unwrap();
}

#[test]
fn every_snippet_of_the_documentation_can_be_used() {
    let pages = [("policies.md", 3), ("webhooks.md", 1), ("integrations/jira.md", 1), ("integrations/hr.md", 1)];
    for (page, number) in pages {
        let text = fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs").join(page)).unwrap();
        let snippets: Vec<_> = text.split("```cedar\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
        assert_eq!(snippets.len(), number, "{page}");
        for snippet in snippets {
            drop(policies(snippet));
        }
    }
}

#[test]
fn tickets_change_groups_whose_name_begins_as_it_should() {
    let dir = folder(&[]);
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("config/examples/tickets.cedar");
    fs::copy(file, dir.path().join("tickets.cedar")).unwrap();
    let policies = Policies::load(dir.path()).unwrap();
    for asked in [adding(&[group()]), removing(group())] {
        assert_eq!(change(&policies, &servicenow(), "sales", asked).unwrap(), ["tickets-change-sales-groups"]);
    }
    // No known name that begins with Sales, or not a sales configuration.
    assert_eq!(reason(change(&policies, &servicenow(), "sales", adding(&groups(1)))), Reason::NotPermitted);
    assert_eq!(reason(change(&policies, &servicenow(), "kiosk", adding(&[group()]))), Reason::NotPermitted);
    let other = submission(&servicenow(), adding(&[group()]), Some("INC1"));
    assert_eq!(reason(with_ticket(&policies, &servicenow(), "sales", &other)), Reason::NotPermitted);
    let many = reason(change(&policies, &servicenow(), "sales", adding(&groups(21))));
    assert_eq!(many, Reason::Forbidden(vec!["tickets-name-few-targets".to_owned()]));
}

#[test]
fn a_freeze_begins_and_ends_at_its_moments() {
    let policies = example("freeze.cedar");
    let frozen = |id: &str| Err(Reason::Forbidden(vec![id.to_owned()]));
    let free = Ok((vec!["servicenow-changes-groups".to_owned()], vec![]));
    for (moment, expected) in [
        (TUESDAY, free.clone()),
        ("2026-12-23T15:59:59.999Z", free.clone()),
        ("2026-12-23T16:00:00Z", frozen("freeze-over-new-year")),
        ("2027-01-01T12:00:00Z", frozen("freeze-over-new-year")),
        ("2027-01-05T06:00:00Z", free.clone()),
        ("2026-11-27T15:59:59Z", free.clone()),
        ("2026-11-27T16:00:00Z", frozen("freeze-at-weekends")),
        ("2026-11-28T12:00:00Z", frozen("freeze-at-weekends")),
        ("2026-11-30T05:59:59.999999Z", frozen("freeze-at-weekends")),
        ("2026-11-30T06:00:00Z", free.clone()),
    ] {
        assert_eq!(at(&policies, moment, adding(&[group()])), expected, "{moment}");
    }
    assert_eq!(at(&policies, "2026-11-28T12:00:00Z", removing(group())), free);
}

#[test]
fn what_policies_ask_an_approval_for_is_permitted_with_it_and_not_without() {
    let policies = example("approval.cedar");
    let asked = |moment, change| at(&policies, moment, change).unwrap().1;
    assert_eq!(asked(TUESDAY, adding(&[Target::AllDevices])), ["tenant-wide"]);
    assert_eq!(asked(TUESDAY, adding(&[group(), Target::AllUsers])), ["tenant-wide"]);
    assert_eq!(asked(TUESDAY, Change::replace(vec![], 9).unwrap()), ["clearing"]);
    // A permit that requires no approval does not override one that does.
    assert_eq!(asked(TUESDAY, adding(&groups(10))), [""; 0]);
    let (permitted, approvals) = at(&policies, TUESDAY, adding(&groups(11))).unwrap();
    assert_eq!(permitted, ["many-targets-with-approval", "servicenow-changes-groups"]);
    assert_eq!(approvals, ["wide"]);
    assert_eq!(asked("2026-11-24T20:00:00Z", adding(&groups(11))), ["night", "wide"]);
    assert_eq!(asked("2026-11-24T04:59:59Z", removing(group())), ["night"]);
    assert_eq!(asked("2026-11-24T05:00:00Z", removing(group())), [""; 0]);
}

#[test]
fn whoever_policy_permits_approves_and_for_all_that_was_asked_for() {
    let policies = example("approval.cedar");
    let (configuration, tags) = (configuration(), BTreeSet::new());
    let resource = Resource { configuration: &configuration, tags: &tags };
    let asked = submission(&servicenow(), adding(&groups(11)), Some("RITM0012345"));
    let word = |caller: &Caller, names: &[&str]| {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let permit = policies.decide_approval(caller, resource, &asked, (&names, TUESDAY.parse().unwrap()));
        permit.map(|permit| permit.policies().to_vec()).map_err(|denial| denial.reason)
    };
    let approver = caller("approvers", &["Assignments.Approve"]);
    let owner = caller("owner", &["Assignments.Approve", "Assignments.Own"]);
    assert_eq!(word(&approver, &["wide", "night"]).unwrap(), ["approvers-approve"]);
    assert_eq!(word(&owner, &["tenant-wide"]).unwrap(), ["approvers-approve"]);
    let forbidden = Reason::Forbidden(vec!["tenant-wide-approval-needs-the-owner".to_owned()]);
    assert_eq!(word(&approver, &["wide", "tenant-wide"]), Err(forbidden));
    assert_eq!(word(&caller("helpdesk", &["Assignments.Read"]), &["wide"]), Err(Reason::NotPermitted));
    assert!(matches!(word(&owner, &[]), Err(Reason::Undecided(_))));
}

#[test]
fn an_approval_without_a_name_or_before_a_forbid_is_a_fault() {
    for text in [
        r#"@id("a") @approval("") permit (principal, action, resource);"#,
        r#"@id("a") @approval permit (principal, action, resource);"#,
        r#"@id("a") @approval("a") forbid (principal, action, resource);"#,
    ] {
        let faults = Policies::load(folder(&[("a.cedar", text)]).path()).unwrap_err();
        assert!(faults.len() == 1 && faults[0].what.contains("@approval"), "{faults:#?}");
    }
}

#[test]
fn what_policies_name_and_nothing_is_called_is_told_with_its_place() {
    let text = r#"// Why.
@id("one") permit (principal == Postern::Caller::"servicenou", action, resource == Postern::Configuration::"Sales ESP")
when { resource.tags.contains("slaes") && resource.kind == "status-page" && principal.issuer != "sandbox" };
@id("two") permit (principal in Postern::Caller::"portal", action == Postern::Action::"add", resource)
when { ["limit", "device-limit"].contains(resource.kind) || resource.tags.containsAny(["sales", "Sales"]) }
unless { !(context.target.kind == "devices") || context.time.weekday == "Friday" || "issuer" == principal.issuer };
@id("three") permit (principal in Postern::Role::"nobody", action == Postern::Action::"approve", resource)
when { context.change == "clears" && context.asker == "portal" && context.asker != "nobody" };"#;
    let dir = folder(&[("a.cedar", text)]);
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    let known = KnownNames {
        callers: names(&["servicenow", "portal"]),
        issuers: names(&["sandbox"]),
        tags: names(&["sales", "kiosk"]),
    };
    let found = Policies::load(dir.path()).unwrap().unknown(&known);
    let found: Vec<_> = found
        .iter()
        .map(|fault| {
            (fault.line, fault.what.strip_prefix("policy ").unwrap().split(" is not ").next().unwrap().to_owned())
        })
        .collect();
    let expected = [
        (Some(2), r#"one: "Sales ESP""#),
        (Some(2), r#"one: "servicenou""#),
        (Some(2), r#"one: "slaes""#),
        (Some(4), r#"two: "Friday""#),
        (Some(4), r#"two: "Sales""#),
        (Some(4), r#"two: "devices""#),
        (Some(4), r#"two: "issuer""#),
        (Some(4), r#"two: "limit""#),
        (Some(7), r#"three: "clears""#),
        (Some(7), r#"three: "nobody""#),
    ];
    assert_eq!(found, expected.map(|(line, what)| (line, what.to_owned())));
}

#[test]
fn the_shipped_policies_and_examples_name_nothing_unknown() {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    let known = KnownNames {
        callers: names(&["servicenow", "portal", "helpdesk"]),
        issuers: names(&["sandbox"]),
        tags: names(&["sales", "kiosk", "restriction"]),
    };
    for policies in ["tickets.cedar", "freeze.cedar", "approval.cedar"].map(example) {
        assert_eq!(policies.unknown(&known), []);
    }
    assert_eq!(Policies::load(&shipped()).unwrap().unknown(&known), []);
}

fn any_target() -> impl Strategy<Value = Target> {
    prop_oneof![
        Just(group()),
        Just(Target::AllDevices),
        Just(Target::AllUsers),
        Just(Target::ExcludedGroup(GROUP.parse().unwrap())),
        ".*".prop_map(|text| Target::Foreign(UninterpretedJson::new(text))),
    ]
}

fn any_change() -> impl Strategy<Value = Change> {
    let targets = || prop::collection::btree_set(any_target(), 0..4);
    (targets(), targets(), prop::bool::ANY).prop_filter_map("a possible change", |(add, remove, replace)| {
        let wanted = add.into_iter().map(wanted).collect();
        let change =
            if replace { Change::replace(wanted, 9) } else { Change::amend(wanted, remove.into_iter().collect(), 9) };
        change.ok()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn without_a_policy_that_permits_nothing_is_permitted(
        name in ".*", roles in prop::collection::vec(".*", 0..3), tag in ".*", asked in any_change(), own in prop::bool::ANY,
    ) {
        let policies = policies(r#"@id("never") forbid (principal, action == Postern::Action::"audit", resource);"#);
        let roles: Vec<_> = roles.iter().map(String::as_str).collect();
        let caller = caller(&name, &roles);
        prop_assert_eq!(reason(change(&policies, &caller, &tag, asked)), Reason::NotPermitted);
        for action in [Action::Plan, Action::Read { own }, Action::Cancel { own }, Action::Revert { own }, Action::Audit] {
            prop_assert!(ask(&policies, &caller, &tag, action).is_err());
        }
    }
}
