//! `postern check` on names in policies, and `postern check --explain`.

use std::{fs, path::Path};

use crate::{Ended, run, shipped};

const CHANGE: &str = r#"{"configuration": "Sales ESP", "ticket": "RITM0010023",
    "add": [{"group": "Sales Laptops"}, {"all": "devices"}], "remove": [{"group": "b0000000-0000-4000-8000-000000000002"}]}"#;

/// Explains a change; the line that `check` begins with is left out.
fn explain(folder: &Path, change: &str, arguments: &[&str]) -> Ended {
    fs::write(folder.join("request.json"), change).unwrap();
    let config = shipped("config/sandbox.toml");
    let asked = ["check", "--config", &config, "--explain", "request.json", "--at", "2026-11-24T12:00:00Z"];
    let mut ended = run(folder, &[&asked, arguments].concat());
    if let Some((first, rest)) = ended.out.split_once('\n') {
        assert!(first.starts_with("no faults"), "{first}");
        ended.out = rest.to_owned();
    }
    ended
}

#[test]
fn each_target_is_told_with_the_policies_that_decide_on_it() {
    let folder = tempfile::tempdir().unwrap();
    let servicenow = ["--caller", "servicenow", "--role", "Assignments.Change", "--kind", "status-page"];
    let ended = explain(folder.path(), CHANGE, &servicenow);
    let expected = "caller servicenow (issuer: sandbox, roles: Assignments.Change), configuration \"Sales ESP\" \
                    (kind: status-page, priority: 1, tags: sales), ticket RITM0010023, at 2026-11-24T12:00:00Z\n\
                    add group b0000000-0000-4000-8000-000000000001 \"Sales Laptops\": \
                    permitted by servicenow-changes-groups\n\
                    add all devices: forbidden by policy no-tenant-wide-targets\n\
                    remove group b0000000-0000-4000-8000-000000000002 \"Sales Kiosks\": \
                    permitted by servicenow-changes-groups\n\
                    the change would be refused\n";
    assert_eq!((ended.code, ended.out.as_str(), ended.err.as_str()), (Some(1), expected, ""));
    let fine = CHANGE.replace(r#", {"all": "devices"}"#, "");
    let ended = explain(folder.path(), &fine, &servicenow);
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""));
    assert!(
        ended.out.ends_with("\nthe change would be accepted, if configuration, groups and filters exist\n"),
        "{}",
        ended.out
    );
    // A change that no policy decides is still refused.
    let ended = explain(folder.path(), &fine, &[&servicenow[..], &["--priority", "0"]].concat());
    assert_eq!(ended.code, Some(1));
    assert!(ended.out.contains("\nnot assignable: the assignments of a default configuration"), "{}", ended.out);
    let narrowed = fine.replace(
        "\"Sales Laptops\"",
        "\"Sales Laptops\", \"filter\": {\"name\": \"Corporate Windows\", \"mode\": \"include\"}",
    );
    let limit = ["--caller", "servicenow", "--role", "Assignments.Change", "--kind", "device-limit"];
    let ended = explain(folder.path(), &narrowed, &limit);
    assert_eq!(ended.code, Some(1), "{}{}", ended.out, ended.err);
    assert!(ended.out.ends_with("the change would be refused\n"), "{}", ended.out);
    let ended = explain(folder.path(), &fine, &["--caller", "servicenow"]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.out.contains("roles: none)") && ended.out.contains("\"Sales Laptops\": no policy permits it"));
    let ending = fine.replace("\"ticket\"", "\"until\": \"2027-01-01T00:00:00Z\", \"ticket\"");
    let ended = explain(folder.path(), &ending, &servicenow);
    assert!(
        ended.code == Some(0) && ended.out.contains("\nrevert: permitted by servicenow-reverts-its-own\n"),
        "{}",
        ended.out
    );
    assert!(ended.out.contains("\nremove group b0000000-0000-4000-8000-000000000001 \"Sales Laptops\": permitted"));
    let clearing = r#"{"configuration": "Sales ESP", "replace": []}"#;
    let ended = explain(folder.path(), clearing, &servicenow);
    assert!(ended.out.contains("\nclear: forbidden by policy no-clearing\n"), "{}", ended.out);
}

#[test]
fn whatever_is_wrong_with_the_request_is_told_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let caller = ["--caller", "servicenow"];
    let unknown = r#"{"configuration": "Sale ESP", "add": [{"group": "Nobody"}, {"group": "Sales Laptops",
        "filter": {"name": "none", "mode": "include"}}]}"#;
    let ended = explain(folder.path(), unknown, &caller);
    assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""));
    for told in
        ["\"/configuration\": \"Sale ESP\"", "\"/add/0\": group \"Nobody\"", "\"/add/1\": filter \"none\"", "3 faults"]
    {
        assert!(ended.err.contains(told), "{told} is not in {}", ended.err);
    }
    let ended = explain(folder.path(), r#"{"configuration": "Sales ESP", "adds": []}"#, &caller);
    assert!(ended.err.contains("request.json: \"/adds\": is not a known field"), "{}", ended.err);
    let ended = explain(folder.path(), "{", &caller);
    assert!(ended.code == Some(1) && ended.err.contains("request.json: malformed-json: "), "{}", ended.err);
    for (until, why) in
        [("2026-11-24T12:00:00Z", "is not in the future"), ("2032-01-01T00:00:00Z", "is more than five")]
    {
        let ending = CHANGE.replace("\"ticket\"", &format!("\"until\": {until:?}, \"ticket\""));
        let ended = explain(folder.path(), &ending, &caller);
        assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""));
        assert!(ended.err.starts_with(&format!("request.json: \"/until\": {why}")), "{}", ended.err);
    }
    let ended = explain(folder.path(), CHANGE, &["--caller", "nobody"]);
    assert!(
        ended.err.contains("no caller is called \"nobody\"; the callers are helpdesk, portal, servicenow"),
        "{}",
        ended.err
    );
    for wrong in [&["--caller", "servicenow", "--kind", "esp"][..], &["--caller", "servicenow", "--live"]] {
        assert_eq!(explain(folder.path(), CHANGE, wrong).code, Some(2), "{wrong:?}");
    }
}

#[test]
fn without_the_caller_option_every_caller_is_explained() {
    let folder = tempfile::tempdir().unwrap();
    let fine = CHANGE.replace(r#", {"all": "devices"}"#, "");
    let ended = explain(folder.path(), &fine, &["--role", "Assignments.Change"]);
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "one of them may: {}", ended.out);
    let callers: Vec<_> =
        ended.out.lines().filter_map(|line| line.strip_prefix("caller ")?.split(' ').next()).collect();
    assert_eq!(callers, ["servicenow", "helpdesk", "portal"]);
    let told = ", if configuration, groups and filters exist and the configuration's kind accepts the targets (--kind)\n\n\
                caller helpdesk";
    assert!(ended.out.contains(told) && ended.out.ends_with("refused\n"), "{}", ended.out);
    let ended = explain(folder.path(), &fine, &[]);
    assert_eq!(ended.code, Some(1), "nobody may without that role");
    let told = "refused\n\nnote: roles come from tokens, and none was given: repeat with --role ROLE\n";
    assert!(ended.out.ends_with(told), "{}", ended.out);
}

#[test]
fn a_caller_has_the_role_without_which_no_token_is_its() {
    let folder = with_policy(
        "@id(\"changes\")\npermit (principal in Postern::Role::\"Changers\", action, resource);\n\
         @id(\"not-twice\")\nforbid (principal in Postern::Role::\"Outsiders\", action, resource);\n",
    );
    let settings = fs::read_to_string(folder.path().join("sandbox.toml")).unwrap();
    let settings = settings.replace("name = \"portal\"", "name = \"portal\"\nrequired_role = \"Changers\"");
    fs::write(folder.path().join("sandbox.toml"), settings).unwrap();
    let body = r#"{"configuration": "Sales ESP", "remove": [{"group": "Sales Laptops"}]}"#;
    fs::write(folder.path().join("request.json"), body).unwrap();
    let asked = ["check", "--config", "sandbox.toml", "--explain", "request.json", "--caller", "portal"];
    for (more, roles) in [(&[][..], "Changers"), (&["--role", "Changers", "--role", "Own"], "Changers, Own")] {
        let ended = run(folder.path(), &[&asked, more].concat());
        assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{}", ended.out);
        assert!(ended.out.contains(&format!("(issuer: sandbox, roles: {roles})")), "{}", ended.out);
        // Nothing is added, so it does not matter which targets the kind accepts.
        assert!(ended.out.ends_with("accepted, if configuration, groups and filters exist\n"), "{}", ended.out);
    }
    let ended = run(folder.path(), &[&asked[..], &["--role", "Outsiders"]].concat());
    assert!(ended.code == Some(1) && ended.out.ends_with("the change would be refused\n"), "{}", ended.out);
}

#[test]
fn a_source_of_webhooks_is_a_caller_as_others_are() {
    let folder = with_policy(
        "@id(\"hr\")\npermit (principal == Postern::Caller::\"people\", action, resource)\n\
         when { principal.issuer == \"webhook:hr\" && principal in Postern::Role::\"Joiners\" };\n\
         @id(\"gateway\")\nforbid (principal, action, resource)\nwhen { resource.kind == \"gateway\" };\n",
    );
    let settings = fs::read_to_string(folder.path().join("sandbox.toml")).unwrap();
    let source = "[[webhooks]]\nsource = \"hr\"\ncaller = \"people\"\nroles = [\"Joiners\"]\nscheme = \"bamboohr\"\n\
                  secret_file = \"hr.secret\"\n[[webhooks.rules]]\nname = \"joiner\"\nwhen = \"true\"\n\
                  configuration = \"'Sales ESP'\"\nadd = [\"'Sales Laptops'\"]\n";
    fs::write(folder.path().join("sandbox.toml"), format!("{settings}\n{source}")).unwrap();
    fs::write(folder.path().join("hr.secret"), "0123456789abcdef0123456789abcdef").unwrap();
    let body = r#"{"configuration": "Sales ESP", "add": [{"group": "Sales Laptops"}]}"#;
    fs::write(folder.path().join("request.json"), body).unwrap();
    let asked = ["check", "--config", "sandbox.toml", "--explain", "request.json", "--caller", "people"];
    let ended = run(folder.path(), &asked);
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{}", ended.out);
    assert!(
        ended.out.contains("caller people (issuer: webhook:hr, roles: Joiners)")
            && ended.out.contains("permitted by hr\n"),
        "{}",
        ended.out
    );
}

/// The shipped sandbox settings in a folder of their own, with another policy.
fn with_policy(text: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("policies")).unwrap();
    for name in ["sandbox.toml", "sandbox.secret", "policies/schema.cedarschema", "policies/guard.cedar"] {
        fs::copy(shipped(&format!("config/{name}")), folder.path().join(name)).unwrap();
    }
    fs::write(folder.path().join("policies/own.cedar"), text).unwrap();
    folder
}

#[test]
fn what_policies_name_and_the_settings_do_not_have_is_a_warning() {
    let folder = with_policy(
        "@id(\"own\")\npermit (principal == Postern::Caller::\"servicenou\", action, resource)\n\
         when { resource.tags.contains(\"slaes\") };\n\
         @id(\"spelt\")\nforbid (principal, action == Postern::Action::\"add\",\n\
         resource == Postern::Configuration::\"A0000000-0000-4000-8000-000000000001_Limit\")\n\
         when { context.target has id && context.target.id == \"B0000000-0000-4000-8000-000000000001\" &&\n\
         context.target has filter_mode && context.target.filter_mode == \"includes\" };\n",
    );
    let ended = run(folder.path(), &["check", "--config", "sandbox.toml"]);
    assert_eq!(ended.code, Some(0));
    let expected = "warning: policies/own.cedar:1: policy own: \"servicenou\" is not a caller: no [[callers]] or [[webhooks]] entry has that name\n\
                    warning: policies/own.cedar:1: policy own: \"slaes\" is not a tag in the catalogue\n\
                    warning: policies/own.cedar:4: policy spelt: \
                    \"A0000000-0000-4000-8000-000000000001_Limit\" is never equal to an id: \
                    write \"a0000000-0000-4000-8000-000000000001_Limit\"\n\
                    warning: policies/own.cedar:4: policy spelt: \
                    \"B0000000-0000-4000-8000-000000000001\" is never equal to an id: \
                    write \"b0000000-0000-4000-8000-000000000001\"\n\
                    warning: policies/own.cedar:4: policy spelt: \
                    \"includes\" is not a filter mode: use one of include, exclude\n";
    assert_eq!(ended.err, expected);
}

#[test]
fn a_change_that_would_wait_for_approval_is_told_as_one() {
    let folder = with_policy(&fs::read_to_string(shipped("config/examples/approval.cedar")).unwrap());
    fs::remove_file(folder.path().join("policies/guard.cedar")).unwrap();
    let body = r#"{"configuration": "Sales ESP", "add": [{"all": "users"}], "ticket": "R"}"#;
    fs::write(folder.path().join("request.json"), body).unwrap();
    let asked = ["check", "--config", "sandbox.toml", "--explain", "request.json", "--caller", "servicenow"];
    let ended = run(folder.path(), &asked);
    assert_eq!(ended.code, Some(0));
    let told = "\nadd all users: permitted by tenant-wide-targets-with-approval, with approval: tenant-wide\n\
                the change would be accepted and wait for approval (tenant-wide), if configuration, groups and filters \
                exist and the configuration's kind accepts the targets (--kind)\n";
    assert!(ended.out.ends_with(told), "{}", ended.out);
}
