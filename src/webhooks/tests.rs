//! What rules make of events, and what is reported when they cannot.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::config;

/// The sources in a file with these webhooks.
fn settings(webhooks: &str) -> Result<Vec<Webhook>, Vec<Fault>> {
    const ID: &str = "8b0a7c52-1f6e-4f0e-a9a4-2d9c5e7f3b20";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.toml");
    let graph = format!("[graph]\ncloud = \"global\"\ntenant_id = \"{ID}\"\nclient_id = \"{ID}\"\n");
    let text = format!("{graph}credential.secret_file = \"s\"\n[catalogue.groups]\n\"Laptops\" = \"{ID}\"\n{webhooks}");
    std::fs::write(&path, text).unwrap();
    config::load(Some(&path), std::iter::empty()).map(|config| config.webhooks)
}

fn catalogue() -> Catalogue {
    let mut catalogue = Catalogue::default();
    catalogue.groups.insert("Laptops".to_owned(), "8b0a7c52-1f6e-4f0e-a9a4-2d9c5e7f3b20".parse().unwrap());
    catalogue
}

fn source_with(rule: &str) -> String {
    format!(
        "[[webhooks]]\nsource = \"s\"\ncaller = \"s\"\nscheme = \"github\"\nsecret_file = \"s\"\n[[webhooks.rules]]\nname = \"r\"\n{rule}\n"
    )
}

fn drafted(rule: &str, event: &Value) -> Result<Vec<Value>, String> {
    let settings = settings(&source_with(rule)).unwrap();
    assert_eq!(examine(&settings, &catalogue()), []);
    let webhooks = Webhooks::new(settings, &catalogue());
    let drafts = webhooks.source("s").unwrap().draft(event).map_err(|unmapped| unmapped.to_string())?;
    Ok(drafts.into_iter().map(|draft| draft.body).collect())
}

/// What is reported about a rule when settings are checked.
fn told(rule: &str) -> String {
    let faults = match settings(&source_with(rule)) {
        Ok(settings) => examine(&settings, &catalogue()),
        Err(faults) => faults,
    };
    faults
        .iter()
        .map(|fault| format!("{}: {}", fault.line.unwrap_or_default(), fault.what))
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn targets_are_names_maps_and_lists_and_none_is_nobody() {
    let event = json!({"groups": ["A", "B"], "extra": null, "n": 7, "all": true});
    let rule = r#"
when = "true"
configuration = "{7: 'Seven'}[event.n]"
add = ["event.groups", "event.extra", "{'all': 'devices'} if event.all else none", "catalogue.groups.Laptops"]
remove = ["'C' if 'Laptops' in catalogue.groups else none"]
ticket = "event.n"
comment = "event.extra"
"#;
    let expected = json!({
        "configuration": "Seven",
        "add": [{"group": "A"}, {"group": "B"}, {"all": "devices"}, {"group": "8b0a7c52-1f6e-4f0e-a9a4-2d9c5e7f3b20"}],
        "remove": [{"group": "C"}], "ticket": "7",
    });
    assert_eq!(drafted(rule, &event).unwrap(), [expected]);
}

#[test]
fn what_an_event_lacks_is_a_fault_and_never_an_empty_text() {
    let event = json!({"type": "x", "list": [1, 2], "map": {"a": 1}, "half": 0.5});
    for (rule, fault) in [
        ("when = \"event.kind.x\"\nconfiguration = \"'c'\"\nadd = [\"'g'\"]", "rule r, when: undefined value"),
        (
            "when = \"event.kind\"\nconfiguration = \"'c'\"\nadd = [\"'g'\"]",
            "rule r, when: it evaluates to something that the event",
        ),
        ("when = \"data.kind == 1\"\nconfiguration = \"'c'\"\nadd = [\"'g'\"]", "rule r, when: undefined value"),
        (
            "when = \"event.list\"\nconfiguration = \"'c'\"\nadd = [\"'g'\"]",
            "rule r, when: it evaluates to neither true nor false",
        ),
        (
            "when = \"true\"\nconfiguration = \"event.name\"\nadd = [\"'g'\"]",
            "rule r, configuration: it evaluates to something that",
        ),
        (
            "when = \"true\"\nconfiguration = \"'a' ~ event.name\"\nadd = [\"'g'\"]",
            "rule r, configuration: undefined value",
        ),
        (
            "when = \"true\"\nconfiguration = \"event.map\"\nadd = [\"'g'\"]",
            "rule r, configuration: it does not evaluate to a text",
        ),
        (
            "when = \"true\"\nconfiguration = \"'c'\"\nadd = [\"event.list\"]",
            "rule r, add: it evaluates to something that is neither",
        ),
        ("when = \"true\"\nconfiguration = \"'c'\"\nadd = [\"'g' if false\"]", "rule r, add: "),
        (
            "when = \"true\"\nconfiguration = \"'c'\"\nadd = [\"'g'\"]\nticket = \"event.half\"",
            "rule r, ticket: it does not evaluate to a text",
        ),
        (
            "when = \"true\"\neach = \"event.type\"\nconfiguration = \"'c'\"\nadd = [\"'g'\"]",
            "rule r, each: it does not evaluate to a list",
        ),
        (
            "when = \"true\"\neach = \"event.map\"\nconfiguration = \"'c'\"\nadd = [\"'g'\"]",
            "rule r, each: it does not evaluate to a list",
        ),
        (
            "when = \"true\"\neach = \"range(21)\"\nconfiguration = \"'c'\"\nadd = [\"'g'\"]",
            "rule r, each: the event makes more than 20",
        ),
    ] {
        let found = drafted(rule, &event).unwrap_err();
        assert!(found.starts_with(fault), "{rule}\nshould tell {fault}\nbut tells {found}");
    }
}

#[test]
fn no_expression_runs_or_grows_without_end() {
    let event = json!({"n": 1_000_000_000, "text": "x".repeat(100_000), "list": vec![0; 50_000]});
    for expression in [
        "event.text * event.n",
        "range(99999) | join('abc')",
        "event.list | map('string') | join(event.text)",
        "(event.text ~ event.text) * 1000",
        "event.list | batch(2) | list | string",
        "event.text | indent(event.n)",
    ] {
        let rule = format!("when = \"true\"\nconfiguration = \"{expression}\"\nadd = [\"'g'\"]");
        let found = drafted(&rule, &event).unwrap_err();
        assert!(found.starts_with("rule r, configuration: ") && found.len() < 300, "{expression}: {found}");
    }
}

#[test]
fn expressions_are_checked_when_settings_are() {
    for (rule, fault) in [
        (
            "when = \"event.type ==\"\nconfiguration = \"'c'\"\nadd = [\"'g'\"]",
            "15: webhooks.rules.when: invalid expression: ",
        ),
        (
            "when = \"true\"\nconfiguration = \"evnt.x\"\nadd = [\"'g'\"]",
            "16: webhooks.rules.configuration: there is no \"evnt\"",
        ),
        (
            "when = \"true\"\nconfiguration = \"'c'\"\nadd = [\n\"'g'\",\n\"x()\"]",
            "19: webhooks.rules.add: there is no \"x\"",
        ),
        (
            "when = \"true\"\nconfiguration = \"'c' | lowr\"\nadd = [\"'g'\"]",
            "16: webhooks.rules.configuration: unknown filter",
        ),
        (
            "when = \"true\"\nconfiguration = \"'{% for x in y %}'\"\nadd = [\"\"]",
            "17: webhooks.rules.add: it is empty",
        ),
        ("when = \"true\"\nconfiguration = \"'c'\"", "13: rule \"r\" changes nothing"),
        ("when = \"true\"\nadd = [\"'g'\"]", "13: \"webhooks.rules.configuration\" is missing"),
        ("when = \"true\"\nconfiguration = \"'c'\"\nadd = \"'g'\"", "17: webhooks.rules.add: takes a list of strings"),
        (
            "when = \"true\"\nconfiguration = \"'c'\"\nadd = [\"'g'\"]\nreplace = \"x\"",
            "18: unknown key \"webhooks.rules.replace\"",
        ),
    ] {
        let found = told(rule);
        assert!(found.contains(fault), "{rule}\nshould tell {fault}\nbut tells {found}");
    }
}

#[test]
fn settings_of_a_source_that_do_not_fit_are_told() {
    const SHOWN: &str = "certificate_sha256 = [\"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\"]";
    let source = |scheme: &str, more: &str| {
        let text = format!(
            "[[webhooks]]\nsource = \"s\"\ncaller = \"s\"\nscheme = \"{scheme}\"\nsecret_file = \"s\"\n{more}\n"
        );
        let faults = settings(&text).unwrap_err();
        faults
            .iter()
            .map(|fault| format!("{}: {}", fault.line.unwrap_or_default(), fault.what))
            .collect::<Vec<_>>()
            .join("\n")
    };
    for (scheme, more, fault) in [
        ("githib", "", "11: webhooks.scheme: \"githib\" is not a scheme"),
        ("github", "hash = \"sha512\"", "13: webhooks.hash: the scheme \"github\" defines this itself"),
        ("bearer", "signature_header = \"x\"", "13: webhooks.signature_header: the scheme \"bearer\" defines this"),
        ("hmac", "", "8: \"webhooks.signature_header\" is missing"),
        ("hmac", "signature_header = \"a b\"", "13: webhooks.signature_header: \"a b\" is not the name of a header"),
        ("hmac", "signature_header = \"x\"\nid_header = \"y\"", "14: webhooks.id_header: signed does not contain {id}"),
        (
            "hmac",
            "signature_header = \"x\"\nsigned = \"{timestamp}{body}\"",
            "14: webhooks.signed: {timestamp} requires",
        ),
        ("hmac", "signature_header = \"x\"\nsigned = \"{time}{body}\"", "14: webhooks.signed: {time} is none of"),
        ("hmac", "signature_header = \"x\"\nhash = \"md5\"", "14: webhooks.hash: \"md5\" is not a hash function"),
        ("zendesk", "tolerance = \"45m\"\nremember = \"1h\"", "14: webhooks.remember: it is less than twice"),
        ("github", "[[webhooks]]\nsource = \"s\"", "14: webhooks.source: an earlier entry has the same value"),
        ("certificate", "", "8: \"webhooks.certificate_sha256\" is missing"),
        ("certificate", SHOWN, "12: webhooks.secret_file: the scheme \"certificate\" uses no secret"),
        ("certificate", "certificate_sha256 = []", "13: webhooks.certificate_sha256: the list is empty"),
        ("bearer", "certificate_sha256 = []", "13: webhooks.certificate_sha256: the list is empty"),
        ("bearer", SHOWN, "13: webhooks.certificate_sha256: no client can present a certificate"),
        ("github", "rules = 7", "13: webhooks.rules: takes a list of tables"),
    ] {
        let found = source(scheme, more);
        assert!(found.contains(fault), "{scheme} {more}\nshould tell {fault}\nbut tells {found}");
    }
}

proptest! {
    #[test]
    fn no_event_makes_a_rule_panic(text in ".{0,40}", number in any::<i64>(), depth in 0..60_usize) {
        let mut event = json!({"type": text, "n": number, "data": {"department": text, "list": [text, number, null]}});
        for _ in 0..depth {
            event = json!({"data": event, "type": [number]});
        }
        let rule = "when = \"event.type == data.department or 'a' in event.type\"\nconfiguration = \"data.department ~ event.n\"\nadd = [\"data.list\"]";
        if let Ok(drafts) = drafted(rule, &event) {
            prop_assert!(drafts.len() <= 1);
        }
    }
}
