//! `postern check`.

use crate::{Program, faulty, postern, run, shipped};

#[test]
fn the_shipped_sandbox_settings_have_no_fault() {
    let folder = tempfile::tempdir().unwrap();
    let ended = run(folder.path(), &["check", "--config", &shipped("config/sandbox.toml")]);
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""));
    assert!(ended.out.starts_with("no faults: 1 issuer, 3 callers"), "{}", ended.out);
    let mut by_environment = postern(folder.path(), &["check"]);
    by_environment.env("POSTERN_CONFIG", shipped("config/sandbox.toml"));
    assert_eq!(Program::start(by_environment).ended().code, Some(0));
}

#[test]
fn the_shipped_gateway_settings_lack_nothing_but_their_secret() {
    let folder = tempfile::tempdir().unwrap();
    let ended = run(folder.path(), &["check", "--config", &shipped("config/gateway.toml")]);
    assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""));
    let lines: Vec<_> = ended.err.lines().collect();
    assert_eq!(lines.len(), 3, "{}", ended.err);
    let what = ": graph.credential.secret_file: cannot read the secret in /run/secrets/postern/client-secret: ";
    assert!(ended.err.starts_with(&shipped("config/gateway.toml")) && ended.err.contains(what), "{}", ended.err);
    assert!(ended.err.contains("\n  hint: it must hold the secret"), "{}", ended.err);
    assert!(ended.err.ends_with("1 fault\n"), "{}", ended.err);
}

#[test]
fn all_faults_are_told_at_once_each_with_its_place_and_a_hint() {
    let folder = faulty();
    let ended = run(folder.path(), &["check", "--config", "faulty.toml"]);
    assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""));
    let expected = [
        "faulty.toml:2: server.listen: \"nowhere\"",
        "faulty.toml:3: unknown key \"server.lisen\"",
        "faulty.toml:22: callers.issuer: no issuer is called \"sandboks\"",
        "faulty.toml:26: catalogue.configurations.\"Sales ESP\".id: \"Sales\"",
        "faulty.toml:9: graph.credential.secret_file: cannot read the secret in missing.secret",
        "policies/kiosks.cedar:3: for policy `kiosks`, attribute `tag`",
    ];
    let lines: Vec<_> = ended.err.lines().collect();
    let (told, count) = lines.split_at(expected.len() * 2);
    assert_eq!(count, ["6 faults"], "{}", ended.err);
    for (fault, begins) in told.chunks(2).zip(expected) {
        let [what, hint] = fault else { panic!("{fault:?}") };
        assert!(what.starts_with(begins), "{begins} in\n{}", ended.err);
        assert!(hint.starts_with("  hint: "), "{begins} in\n{}", ended.err);
    }
}

#[test]
fn a_fault_in_the_environment_is_told_as_one_of_the_environment() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = postern(folder.path(), &["check", "--config", &shipped("config/sandbox.toml")]);
    command.env("POSTERN__SERVER__LISTEN", "nowhere").env("POSTERN__SERVER__LISEN", "127.0.0.1:1");
    let ended = Program::start(command).ended();
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("POSTERN__SERVER__LISTEN") && ended.err.contains("2 faults"), "{}", ended.err);
}

#[test]
fn a_page_that_is_served_without_tls_is_warned_of() {
    let folder = tempfile::tempdir().unwrap();
    let shipped_settings = std::fs::read_to_string(shipped("config/sandbox.toml")).unwrap();
    let dir = format!("dir = \"{}\"", shipped("config/policies"));
    let settings = shipped_settings.replace("dir = \"policies\"", &dir);
    let server = "[server]\ncors_origins = [\"https://a.test\", \"http://b.test\"]\n";
    std::fs::write(folder.path().join("p.toml"), format!("{server}{settings}")).unwrap();
    std::fs::copy(shipped("config/sandbox.secret"), folder.path().join("sandbox.secret")).unwrap();
    let ended = run(folder.path(), &["check", "--config", "p.toml"]);
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert!(ended.err.starts_with("warning: server.cors_origins has \"http://b.test\": "), "{}", ended.err);
    assert_eq!(ended.err.lines().count(), 1, "{}", ended.err);
}

#[test]
fn a_file_that_is_no_toml_is_told_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("bad.toml"), "[server]\nlisten = nowhere\n").unwrap();
    let ended = run(folder.path(), &["check", "--config", "bad.toml"]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.starts_with("bad.toml:2: not TOML: "), "{}", ended.err);
}

#[test]
fn a_certificate_that_cannot_be_used_is_told_before_anything_starts() {
    let folder = tempfile::tempdir().unwrap();
    let mut check = postern(folder.path(), &["check", "--config", &shipped("config/sandbox.toml")]);
    check.env("POSTERN__SERVER__TLS__CERTIFICATE_FILE", shipped("config/sandbox.secret"));
    let ended = Program::start(check).ended();
    assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""));
    assert!(ended.err.starts_with("server.tls: server.tls.certificate_file: "), "{}", ended.err);
    assert!(ended.err.contains("hint: certificate, ") && !ended.err.contains("sandbox-client-secret"), "{}", ended.err);
}

#[test]
fn what_settings_name_is_looked_at_whatever_else_is_wrong() {
    let folder = faulty();
    let mut check = postern(folder.path(), &["check", "--config", "faulty.toml"]);
    check.env("POSTERN__SERVER__TLS__CERTIFICATE_FILE", shipped("config/sandbox.secret"));
    let ended = Program::start(check).ended();
    assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""));
    for told in ["unknown key \"server.lisen\"", "server.tls: server.tls.certificate_file: ", "attribute `tag`"] {
        assert!(ended.err.contains(told), "{told} is not in\n{}", ended.err);
    }
    assert_eq!(ended.err.matches("missing.secret").count(), 1, "each fault is told once\n{}", ended.err);
}

/// A folder with the shipped sandbox settings plus a source of webhooks, and an event.
fn with_webhooks(scheme: &str, secret: &str, when: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let settings = std::fs::read_to_string(shipped("config/sandbox.toml")).unwrap();
    let source = format!(
        "[[webhooks]]\nsource = \"hr\"\ncaller = \"hr\"\nscheme = \"{scheme}\"\nsecret_file = \"hr.secret\"\n\
         [[webhooks.rules]]\nname = \"joiner\"\nwhen = \"{when}\"\nconfiguration = \"'Sales ESP'\"\nadd = [\"event.group\"]\n"
    );
    let settings = settings.replace("dir = \"policies\"", &format!("dir = {:?}", shipped("config/policies")));
    std::fs::write(folder.path().join("p.toml"), settings + &source).unwrap();
    std::fs::copy(shipped("config/sandbox.secret"), folder.path().join("sandbox.secret")).unwrap();
    std::fs::write(folder.path().join("hr.secret"), secret).unwrap();
    std::fs::write(folder.path().join("event.json"), r#"{"type": "hired", "group": "Sales Laptops"}"#).unwrap();
    folder
}

#[test]
fn what_becomes_of_an_event_is_explained_without_a_signature() {
    let explained = |when: &str, source: &str| {
        let folder = with_webhooks("github", "a shared secret of 32 characters", when);
        run(folder.path(), &["check", "--config", "p.toml", "--explain-webhook", source, "event.json"])
    };
    let ended = explained("event.type == 'hired'", "hr");
    let change: serde_json::Value = serde_json::from_str(ended.out.strip_prefix("rule joiner: ").unwrap()).unwrap();
    let expected = serde_json::json!({"configuration": "Sales ESP", "add": [{"group": "Sales Laptops"}]});
    assert_eq!((ended.code, change, ended.err.as_str()), (Some(0), expected, ""));
    let ended = explained("event.type == 'left'", "hr");
    assert_eq!((ended.code, ended.out.trim()), (Some(0), "ignored: no rule matches this event"));
    let ended = explained("event.kind.x", "hr");
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.starts_with("postern: rule joiner, when: undefined value"), "{}", ended.err);
    assert!(ended.err.trim_end().ends_with("\n  in event.kind.x"), "{}", ended.err);
    assert_eq!(explained("true", "nobody").code, Some(1));
}

#[test]
fn a_source_with_a_weak_proof_is_warned_of_and_one_with_a_bad_secret_or_rule_is_refused() {
    let checked = |scheme: &str, secret: &str, when: &str| {
        let folder = with_webhooks(scheme, secret, when);
        run(folder.path(), &["check", "--config", "p.toml"])
    };
    let ended = checked("bearer", "a shared secret of 32 characters", "true");
    assert_eq!(ended.code, Some(0));
    assert!(ended.err.starts_with("warning: webhooks of \"hr\" are not signed"), "{}", ended.err);
    let ended = checked("standard-webhooks", "whsec_c2hvcnQ=", "evnt.type == 'x'");
    assert_eq!(ended.code, Some(1));
    for part in ["webhooks.secret_file: its length is wrong", "webhooks.rules.when: there is no \"evnt\"", "2 faults"] {
        assert!(ended.err.contains(part), "{part} in\n{}", ended.err);
    }
    assert!(!ended.err.contains("c2hvcnQ"), "{}", ended.err);
}

#[test]
fn a_destination_of_callbacks_is_checked_with_its_secrets() {
    let checked = |signing: &str, credential: &str, more: &str| {
        let folder = with_webhooks("github", "a shared secret of 32 characters", "true");
        let file = folder.path().join("p.toml");
        let destination = format!(
            "[[destinations]]\nname = \"desk\"\nurl = \"https://desk.contoso.com/postern\"\nsecret_file = \"signing\"\n{more}\n"
        );
        std::fs::write(&file, std::fs::read_to_string(&file).unwrap() + &destination).unwrap();
        std::fs::write(folder.path().join("signing"), signing).unwrap();
        std::fs::write(folder.path().join("credential"), credential).unwrap();
        run(folder.path(), &["check", "--config", "p.toml"])
    };
    let signing = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let basic = "authentication = \"basic\"\ncredential_file = \"credential\"";
    let fine = checked(signing, "user:word", basic);
    assert_eq!((fine.code, fine.err.as_str()), (Some(0), ""));
    for (signing, credential, more, told) in [
        ("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "user:word", basic, "destinations.secret_file: "),
        (signing, "word", basic, "destinations.credential_file: it is not of the form user:password"),
        (signing, "", basic, "destinations.credential_file: the secret in "),
        (signing, "x", "authentication = \"oauth\"", "\"destinations.token_url\" is missing"),
        (signing, "x", "credential_file = \"credential\"", "authentication = \"none\" does not use it"),
        (signing, "x", "delivered = [\"302\"]", "destinations.delivered: \"302\" is not a success status"),
        (signing, "x", "network = \"everywhere\"", "destinations.network: \"everywhere\" is not a network"),
    ] {
        let ended = checked(signing, credential, more);
        assert!(ended.code == Some(1) && ended.err.contains(told), "{told} in\n{}", ended.err);
        assert!(!ended.err.contains("MfKQ9r8"), "{}", ended.err);
    }
}

#[test]
fn a_destination_that_only_a_proxy_may_reach_needs_one() {
    let destination = "[[destinations]]\nname = \"desk\"\nurl = \"https://desk.contoso.com/postern\"\nsecret_file = \"signing\"\n\
                       network = \"proxy\"\n";
    let checked = |variables: &[(&str, &str)]| {
        let folder = with_webhooks("github", "a shared secret of 32 characters", "true");
        let file = folder.path().join("p.toml");
        std::fs::write(&file, std::fs::read_to_string(&file).unwrap() + destination).unwrap();
        std::fs::write(folder.path().join("signing"), "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let mut command = postern(folder.path(), &["check", "--config", "p.toml"]);
        command.envs(variables.iter().copied());
        Program::start(command).ended()
    };
    let (ours, excepted) = (("HTTPS_PROXY", "http://proxy.contoso.com:3128"), ("NO_PROXY", "contoso.com"));
    for good in [&[ours][..], &[("ALL_PROXY", ours.1)], &[("POSTERN__OUTBOUND__PROXY", ours.1), excepted]] {
        let ended = checked(good);
        assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{good:?}");
    }
    for bad in [&[][..], &[ours, excepted], &[("HTTP_PROXY", ours.1)]] {
        let ended = checked(bad);
        let told = "destinations: \"desk\": network is \"proxy\": ";
        assert!(
            ended.code == Some(1) && ended.err.contains(told) && ended.err.contains("HTTPS_PROXY"),
            "{}",
            ended.err
        );
    }
}
