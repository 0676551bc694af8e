//! The loader as a whole: files with faults, variables, and the shipped files.

use std::{collections::BTreeMap, fs, path::Path};

use proptest::prelude::*;
use secrecy::ExposeSecret as _;
use toml::Value;

use super::{
    Algorithm, Config, Credential, Fault, IdentityHost, KeySource, Postgres, Proof, SecretRef, SecretSource, Store,
    examine_process, file::interpret, load, source_file::SourceFile, table::variable,
};
use crate::domain::ids::{ApiVersion, Cloud};

const CLIENT: &str = "8b0a7c52-1f6e-4f0e-a9a4-2d9c5e7f3b20";

/// The smallest settings that load.
fn least() -> String {
    format!(
        "[graph]\ncloud = \"global\"\ntenant_id = \"{CLIENT}\"\nclient_id = \"{CLIENT}\"\ncredential.secret_file = \"s\"\n"
    )
}

fn issuer(name: &str, iss: &str) -> String {
    format!(
        "[[issuers]]\nname = \"{name}\"\nissuer = \"{iss}\"\naudiences = [\"a\"]\njwks_url = \"https://issuer.test/keys\"\n"
    )
}

fn with(environment: &[(&str, &str)], text: &str) -> Result<Config, Vec<Fault>> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.toml");
    fs::write(&path, text).unwrap();
    let variables = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    load(Some(&path), variables).map_err(|mut faults| {
        for fault in &mut faults {
            fault.place = fault.place.replace(&path.display().to_string(), "t.toml");
        }
        faults
    })
}

fn loaded(text: &str) -> Config {
    with(&[], text).unwrap_or_else(|faults| panic!("{}", told(&faults)))
}

fn told(faults: &[Fault]) -> String {
    faults.iter().map(Fault::to_string).collect::<Vec<_>>().join("\n")
}

/// The faults of the secrets that the settings in this file refer to.
fn unreadable_secrets(path: &Path) -> String {
    told(&examine_process(Some(path)).secrets.iter().filter_map(SecretRef::check).collect::<Vec<_>>())
}

/// The faults of a text, one per paragraph.
fn faults(text: &str) -> String {
    told(&with(&[], text).expect_err("a fault"))
}

/// The faults of the smallest settings and `more`, which begins in line 6.
fn faults_of(more: &str) -> String {
    faults(&(least() + more))
}

#[test]
fn every_fault_is_told_at_once_with_its_line() {
    let text = r#"[server]
listen = "localhost"
body_max = 4096
stop_deadline = "20 s"
[grahp]
cloud = "global"
[graph]
cloud = "mars"
clent_id = "x"
attempts_max = "4"
api_version = "v2.0"
credential.secret_env = "s3cr3t~value"
[store]
url = "postgres://postern:hunter2@db/postern"
[[issuers]]
name = "entra"
issuer = "i"
audiences = [
  "a",
  7,
]
algorithms = ["HS256"]
jwks_url = "http://issuer.test/keys"
[[callers]]
name = "helpdesk"
issuer = "entro"
[catalogue.groups]
"Everyone" = "acacacac-9df4-4c7d-9d50-4ef0226f57a9"
"#;
    let expected = r#"t.toml:2: server.listen: "localhost" is not an address and port
  hint: write it like 127.0.0.1:8080, 0.0.0.0:8080 or [::]:8080; names are not looked up
t.toml:3: server.body_max: takes a string, not a number
  hint: the default is "256KiB"
t.toml:4: server.stop_deadline: "20 s" is not a duration
  hint: write a number and its unit: 500ms, 20s, 5m, 1h, 7d
t.toml:5: unknown section "grahp"
  hint: did you mean "graph"?
t.toml:7: "graph.client_id" is missing
t.toml:7: "graph.tenant_id" is missing
t.toml:8: graph.cloud: "mars" is not valid
  hint: a cloud is one of global, us-gov, us-gov-dod, china, sandbox
t.toml:9: unknown key "graph.clent_id"
  hint: did you mean "graph.client_id"?
t.toml:10: graph.attempts_max: takes a whole number, not a string
  hint: the default is 4
t.toml:11: graph.api_version: "v2.0" is not valid
  hint: a version of Graph is one of beta, v1.0
t.toml:12: graph.credential.secret_env: not the name of an environment variable
  hint: name the variable that holds the secret; never write the secret itself here
t.toml:14: store.url: a password in the URL would end up in logs and tickets
  hint: remove it, and set store.password_file or store.password_env
t.toml:20: issuers.audiences: takes a list of strings, not a number
t.toml:22: issuers.algorithms: "HS256" is refused: whoever can check a shared-key signature can also forge one
  hint: one of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA
t.toml:23: issuers.jwks_url: http:// to another machine sends tokens and keys unprotected
  hint: write https://
t.toml:24: caller "helpdesk" has neither client_id nor subject
  hint: every token of the issuer would be this caller: give one of them, or both
t.toml:26: callers.issuer: no issuer is called "entro"
  hint: one of entra
t.toml:28: catalogue.groups."Everyone": "acacacac-9df4-4c7d-9d50-4ef0226f57a9" is not valid
  hint: this is Intune's stand-in for all users, not a group: write {"all": "users"}"#;
    assert_eq!(faults(text), expected);
}

#[test]
fn a_part_of_tls_without_the_rest_is_no_plain_http() {
    let tls = |lines: &str| format!("{}[server.tls]\n{lines}\n", least());
    for (lines, missing) in [
        ("key_file = \"k\"", "certificate_file"),
        ("client_ca_file = \"c\"", "certificate_file"),
        ("certificate_file = \"s\"\nclient_certificates = \"optional\"", "client_ca_file"),
    ] {
        let told = faults(&tls(lines));
        assert!(told.contains(&format!("given without server.tls.{missing}")), "{told}");
    }
    assert!(faults(&tls("client_certificates = \"maybe\"")).contains("one of required, optional"));
    assert!(loaded(&least()).server.tls.is_none());
    let one = loaded(&tls("certificate_file = \"s\"")).server.tls.unwrap();
    assert!(one.certificate == one.key && one.clients.is_none());
    let both = tls("certificate_file = \"s\"\nkey_file = \"k\"\nclient_ca_file = \"c\"");
    assert!(loaded(&both).server.tls.unwrap().clients.unwrap().required);
}

#[test]
fn a_caller_is_tied_to_a_certificate_only_where_clients_show_them() {
    let fingerprint = "AB:".repeat(31) + "ab";
    let caller = |print: &str| {
        let issuer = issuer("a", "i");
        format!(
            "{issuer}[[callers]]\nname = \"b\"\nissuer = \"a\"\nclient_id = \"c\"\ncertificate_sha256 = [\"{print}\"]\n"
        )
    };
    let tls = "[server.tls]\ncertificate_file = \"s\"\nclient_ca_file = \"c\"\n";
    let told = faults(&format!("{}{}", least(), caller(&fingerprint)));
    assert!(told.contains("no client can present a certificate"), "{told}");
    let config = loaded(&format!("{}{tls}{}", least(), caller(&fingerprint)));
    assert_eq!(config.callers[0].certificates.first().unwrap().as_str(), "ab".repeat(32));
    for print in ["", "ab", &"g".repeat(64), &"a".repeat(65)] {
        assert!(
            faults(&format!("{}{tls}{}", least(), caller(print))).contains("is not a SHA-256 fingerprint"),
            "{print}"
        );
    }
    // Whoever takes the last one away must not admit everybody.
    let none = format!("{}{tls}{}", least(), caller("").replace("\"\"", ""));
    assert!(faults(&none).contains("certificate_sha256: the list is empty"), "{}", faults(&none));
}

#[test]
fn an_issuers_keys_are_named_in_one_way() {
    let keys = "jwks_url = \"https://issuer.test/keys\"\n";
    let metadata = "metadata_url = \"https://issuer.test/.well-known/openid-configuration\"\n";
    let text = |keys: &str| least() + &issuer("a", "i").replace("jwks_url = \"https://issuer.test/keys\"\n", keys);
    let issuers = |text: &str| loaded(text).issuers;
    assert!(matches!(&issuers(&text(keys))[0].keys, KeySource::Set(_)));
    assert!(matches!(&issuers(&text(metadata))[0].keys, KeySource::Metadata(_)));
    assert!(faults(&text("")).contains("\"issuers.jwks_url\" is missing"));
    assert!(faults(&text(&format!("{keys}{metadata}"))).contains("given together with jwks_url"));
    assert!(faults(&text("metadata_url = \"http://issuer.test/m\"\n")).contains("http:// to another machine"));
    assert!(faults(&text(&format!("{keys}token_types = [\"id+jwt\"]\n"))).contains("one of JWT, at+jwt"));
    assert!(issuers(&text(&format!("{keys}token_types = [\"at+jwt\"]\n")))[0].keeps_rfc_9068());
}

#[test]
fn messages_are_remembered_for_as_long_as_their_operations_can_wait() {
    let text = |operations: &str, remember: &str| {
        let secret = "secret_file = \"desk.secret\"";
        let source = "[[webhooks]]\nsource = \"desk\"\ncaller = \"desk\"\nscheme = \"github\"\n";
        format!("{}[operations]\n{operations}\n{source}{secret}\nremember = {remember:?}\n", least())
    };
    let short = faults(&text("", "95h"));
    let told = "webhooks.remember: 95h is less than operations.approval_ttl (3d) and operations.deadline (1d) together";
    assert!(short.contains(told) && short.contains("hint: raise it, or lower operations.approval_ttl"), "{short}");
    assert_eq!(loaded(&text("", "4d")).webhooks[0].remember.as_secs(), 4 * 86_400);
    assert_eq!(loaded(&text("approval_ttl = \"1h\"", "25h")).webhooks[0].remember.as_secs(), 25 * 3_600);
    assert!(faults(&text("deadline = \"30h\"", "4d")).contains("operations.deadline (30h) together"));
}

#[test]
fn a_text_that_is_no_toml_is_told_with_its_line_and_without_its_content() {
    let told = faults("[server]\nlisten = hunter2\n");
    assert!(told.starts_with("t.toml:2: not TOML: "), "{told}");
    assert!(!told.contains("hunter2"), "{told}");
}

#[test]
fn a_missing_file_is_told_by_its_path() {
    let told = told(&load(Some(Path::new("/nowhere/g.toml")), std::iter::empty()).unwrap_err());
    assert!(told.starts_with("/nowhere/g.toml: cannot be read: "), "{told}");
}

#[test]
fn the_least_settings_get_the_defaults() {
    let config = loaded(&least());
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.server.body_max, 262_144);
    assert_eq!(config.graph.endpoint, "https://graph.microsoft.com");
    assert_eq!(config.graph.authority, "https://login.microsoftonline.com");
    assert_eq!(config.graph.scope, "https://graph.microsoft.com/.default");
    assert_eq!(config.graph.api_version, ApiVersion::Beta);
    assert_eq!((config.outbound.proxy, config.outbound.ca_file), (None, None));
    assert_eq!(config.operations.idempotency_ttl.as_secs(), 7 * 86_400);
    assert_eq!((config.executor.lanes_max, config.executor.batch_max), (8, 500));
    assert_eq!(loaded(&(least() + &issuer("i", "iss"))).issuers[0].algorithms, [Algorithm::Rs256].into());
}

#[test]
fn a_fault_of_one_setting_is_told_in_its_own_words() {
    for (more, told) in [
        ("[store]\nurl = \"sqlite::memory:\"\n", "t.toml:7: store.url: a database in memory"),
        ("[store]\npassword_file = \"p\"\n", "t.toml:7: store.password_file: a SQLite store has no password"),
        ("[store]\nurl = \"postgres://db\"\n", "t.toml:7: store.url: it names no database"),
        ("[store]\nurl = \"postgres://db/p?password=x\"\n", "t.toml:7: store.url: a password in the URL"),
        ("[store]\nurl = \"postgres://db/p?sslmod=require\"\n", "t.toml:7: store.url: unknown parameter \"sslmod\""),
        ("[store]\nurl = \"postgres://db/p?sslmode=on\"\n", "t.toml:7: store.url: \"on\" is not an sslmode"),
        ("call_timeout = \"30s\"\n", "t.toml: executor.lease_ttl: 1m is too short"),
        ("[executor]\nlease_ttl = \"40s\"\n", "t.toml:7: executor.lease_ttl: 40s is too short"),
        ("[executor]\nlanes_max = 0\n", "t.toml:7: executor.lanes_max: out of range"),
        ("[executor]\nlanes_max = -99999999999999999999\n", "t.toml:7: executor.lanes_max: out of range"),
        ("[executor]\nlease_ttl = 60\n", "t.toml:7: executor.lease_ttl: takes a string, not a number"),
        ("[operations]\nwait_max = \"5s\"\n", "t.toml:7: operations.wait_max: 5s is less than"),
        ("[operations]\nretention = \"6d\"\n", "t.toml:7: operations.retention: 6d is less than"),
        ("[operations]\nidempotency_ttl = \"23h\"\n", "t.toml:7: operations.idempotency_ttl: 23h is less than"),
        ("[operations]\nwait_max = \"1000h\"\n", "t.toml:7: operations.wait_max: \"1000h\" is out of range"),
        ("[server]\nlisten = \"127.0.0.1:9090\"\n", "t.toml:6: server.admin_listen: server.listen is the same"),
        ("[server]\ncors_origins = [\"*\"]\n", "t.toml:7: server.cors_origins: not a URL"),
        ("[server]\ncors_origins = [\"null\"]\n", "t.toml:7: server.cors_origins: not a URL"),
        (
            "[server]\ncors_origins = [\"https://A.test:443/\"]\n",
            "t.toml:7: server.cors_origins: not an origin as browsers send it\n  hint: write \"https://a.test\"",
        ),
        ("endpoint = \"https://a.test\"\n", "t.toml:6: graph.endpoint: given without graph.authority"),
        ("authority = \"https://a.test\"\n", "t.toml:6: graph.authority: given without graph.endpoint"),
        ("endpoint = \"http://a.test\"\nauthority = \"https://a.test\"\n", "t.toml:6: graph.endpoint: http://"),
        ("endpoint = \"https://u:p@a.test\"\nauthority = \"https://a.test\"\n", "t.toml:6: graph.endpoint: a URL"),
        ("[outbound]\nproxy = \"proxy:3128\"\n", "t.toml:7: outbound.proxy: not an http or https URL"),
        (
            "[outbound]\nproxy = \"http://u:p@proxy:3128\"\n",
            "t.toml:7: outbound.proxy: a URL in the settings must not contain a user",
        ),
        ("credential.kind = \"token\"\n", "t.toml:6: graph.credential.kind: \"token\" is not a kind of credential"),
        ("credential.kind = \"certificate\"\n", "\"graph.credential.certificate_file\" is missing"),
        (
            "credential.kind = \"certificate\"\n",
            "t.toml:5: graph.credential.secret_file: a credential of kind \"certificate\" does not use it",
        ),
        (
            "credential.key_file = \"k\"\n",
            "t.toml:6: graph.credential.key_file: a credential of kind \"secret\" does not use it",
        ),
        ("credential.kind = \"workload-identity\"\n", "\"graph.credential.token_file\" is missing"),
        ("credential.secret_env = \"S\"\n", "t.toml:6: graph.credential.secret_env: given together with"),
        ("[telemetry]\nlog_format = \"xml\"\n", "t.toml:7: telemetry.log_format: \"xml\""),
        ("[telemetry]\nlog_filter = \"a=b=c\"\n", "t.toml:7: telemetry.log_filter: \"a=b=c\""),
        ("[telemetry]\notlp_endpoint = \"collector:4318\"\n", "t.toml:7: telemetry.otlp_endpoint: not"),
        ("[server.listen]\n", "t.toml:6: server.listen: takes a value, not a table"),
        ("[[server]]\n", "t.toml:6: server: takes a table, not a list"),
        ("[server]\n\"listen.x\" = 1\n", "t.toml:7: unknown key \"server.\\\"listen.x\\\"\""),
        ("listen = \"[::]:80\"\n", "t.toml:6: unknown key \"graph.listen\"\n  hint: did you mean \"server.listen\"?"),
        ("[catalogue]\ngroup = {}\n", "t.toml:7: unknown section \"catalogue.group\""),
        ("[catalogue.groups]\nA = 1\n", "t.toml:7: catalogue.groups.\"A\": takes a string, not a number"),
        (
            "[catalogue.configurations.A]\nid = \"x\"\n",
            "t.toml:7: catalogue.configurations.\"A\".id: \"x\" is not valid",
        ),
        ("[catalogue.configurations.A]\n", "t.toml:6: \"catalogue.configurations.\\\"A\\\".id\" is missing"),
        ("[catalogue]\nconfigurations.A = 1\n", "t.toml:7: catalogue.configurations.\"A\": takes a table"),
        ("[issuers]\n", "t.toml:6: issuers: takes a list of tables"),
        ("[[callers]]\nname = \"a\"\nissuer = \"i\"\nrole = \"x\"\n", "t.toml:9: unknown key \"callers.role\""),
        ("[[callers]]\nname = \"a b\"\n", "t.toml:7: callers.name: \"a b\" is not a name"),
    ] {
        let all = faults_of(more);
        assert!(all.contains(told), "{more}\nshould tell\n{told}\nbut tells\n{all}");
    }
}

#[test]
fn a_fault_of_one_setting_brings_no_others() {
    for more in [
        "listen = 1\n",
        "attempts_max = 0\n",
        "credential.kind = \"x\"\n",
        "[server]\nlisten = 1\n",
        "[operations]\nwait_max = \"5s\"\n",
        "[executor]\nlease_ttl = 60\n",
        "[grphics]\na = 1\nb.c = 2\n[grphics.d]\ne = 1\n",
    ] {
        let all = with(&[], &(least() + more)).unwrap_err();
        assert_eq!(all.len(), 1, "{more}: {}", told(&all));
    }
}

#[test]
fn names_and_issuers_are_given_once() {
    let callers = "[[callers]]\nname = \"a\"\nissuer = \"i\"\nclient_id = \"1\"\n[[callers]]\nname = \"a\"\nissuer = \"i\"\nclient_id = \"2\"\n";
    let all = faults_of(&(issuer("i", "x") + &issuer("i", "x") + callers));
    for place in ["t.toml:12: issuers.name", "t.toml:13: issuers.issuer", "t.toml:21: callers.name"] {
        assert!(all.contains(&format!("{place}: an earlier entry has the same value")), "{all}");
    }
}

#[test]
fn two_callers_that_could_match_one_token_are_refused() {
    let overlaps = |a: &str, b: &str| {
        let rules = [("a", a), ("b", b)]
            .map(|(name, rule)| format!("[[callers]]\nname = \"{name}\"\nissuer = \"i\"\n{rule}\n"))
            .concat();
        match with(&[], &(least() + &issuer("i", "x") + &rules)) {
            Ok(_) => false,
            Err(all) => {
                assert_eq!(told(&all).matches("could both match one token").count(), 1, "{}", told(&all));
                true
            }
        }
    };
    assert!(!overlaps("client_id = \"1\"", "client_id = \"2\""));
    assert!(!overlaps("client_id = \"1\"\nsubject = \"s\"", "client_id = \"1\"\nsubject = \"t\""));
    assert!(overlaps("client_id = \"1\"", "client_id = \"1\"\nsubject = \"s\""));
    assert!(overlaps("client_id = \"1\"", "subject = \"s\""));
    assert!(overlaps("client_id = \"1\"\nrequired_role = \"r\"", "client_id = \"1\"\nrequired_role = \"q\""));
}

#[test]
fn the_catalogue_gives_a_configuration_one_entry_and_no_alias_that_is_an_id() {
    let id = format!("{CLIENT}_Limit");
    let entry = |alias: &str| format!("[catalogue.configurations.\"{alias}\"]\nid = \"{id}\"\n");
    assert!(faults_of(&(entry("A") + &entry("B"))).contains("t.toml:9: catalogue.configurations.\"B\".id: an earlier"));
    assert!(faults_of(&entry(&id)).contains("cannot be an alias"));
    assert!(faults_of(&format!("[catalogue.groups]\n{CLIENT} = \"{CLIENT}\"\n")).contains("cannot be an alias"));
}

#[test]
fn the_environment_lies_over_the_file() {
    let config = with(
        &[
            ("POSTERN__SERVER__LISTEN", "0.0.0.0:80"),
            ("POSTERN__EXECUTOR__LANES_MAX", "3"),
            ("POSTERN__GRAPH__CREDENTIAL__SECRET_ENV", "THE_SECRET"),
            ("POSTERN__POLICY__DIR", "here"),
            ("POSTERN_CONFIG", "elsewhere"),
            ("PATH", "/bin"),
        ],
        &(least() + "[server]\nlisten = \"127.0.0.1:1\"\n"),
    )
    .unwrap();
    assert_eq!(config.server.listen.port(), 80);
    assert_eq!(config.executor.lanes_max, 3);
    assert_eq!(config.policy.dir, Path::new("here"));
    let Credential::Application { proof: Proof::Secret(source), .. } = config.graph.credential else { panic!() };
    assert_eq!(source, SecretSource::Environment("THE_SECRET".to_owned()));
}

/// Settings with this credential instead of the secret, and these platform variables.
fn on_platform(credential: &str, variables: &[(&str, &str)]) -> Result<Config, Vec<Fault>> {
    with(variables, &least().replace("credential.secret_file = \"s\"", credential))
}

#[test]
fn what_the_cluster_says_of_a_workload_identity_stands_for_what_the_file_leaves_out() {
    const OTHER: &str = "c41f7e0a-93b2-4d6c-8f57-1e2a3b4c5d01";
    let variables = [
        ("AZURE_CLIENT_ID", OTHER),
        ("AZURE_TENANT_ID", OTHER),
        ("AZURE_FEDERATED_TOKEN_FILE", "/run/token"),
        ("AZURE_AUTHORITY_HOST", "https://login.microsoftonline.com/"),
    ];
    let file = "[graph]\ncloud = \"global\"\ncredential.kind = \"workload-identity\"\n";
    let graph = with(&variables, file).unwrap_or_else(|faults| panic!("{}", told(&faults))).graph;
    assert_eq!(
        (graph.tenant_id.to_string().as_str(), graph.authority.as_str()),
        (OTHER, "https://login.microsoftonline.com")
    );
    let Credential::Application { client_id, proof: Proof::FederatedToken(source) } = graph.credential else {
        panic!()
    };
    assert_eq!((client_id.as_str(), source), (OTHER, SecretSource::File("/run/token".into())));

    let kept = on_platform("credential.kind = \"workload-identity\"", &variables).unwrap().graph;
    assert_eq!(kept.tenant_id.to_string(), CLIENT);
    assert!(matches!(kept.credential, Credential::Application { client_id, .. } if client_id == CLIENT));
    // Another kind does not look at them.
    assert!(
        told(&with(&variables, "[graph]\ncloud = \"global\"\n").unwrap_err()).contains("graph.client_id\" is missing")
    );
}

#[test]
fn the_login_service_of_another_cloud_is_refused() {
    let variables =
        [("AZURE_FEDERATED_TOKEN_FILE", "/run/token"), ("AZURE_AUTHORITY_HOST", "https://login.microsoftonline.us/")];
    let all = told(&on_platform("credential.kind = \"workload-identity\"", &variables).unwrap_err());
    assert!(
        all.starts_with("environment: AZURE_AUTHORITY_HOST: this is the login service of the cloud us-gov,"),
        "{all}"
    );
    let own = [variables[0], ("AZURE_AUTHORITY_HOST", "http://login.test")];
    let all = told(&on_platform("credential.kind = \"workload-identity\"", &own).unwrap_err());
    assert!(all.starts_with("environment: AZURE_AUTHORITY_HOST: http:// to another machine"), "{all}");
}

#[test]
fn a_managed_identity_is_found_where_the_platform_says() {
    let host = |variables: &[(&str, &str)]| {
        let config = on_platform("credential.kind = \"managed-identity\"", variables)?;
        let Credential::ManagedIdentity { host, .. } = config.graph.credential else { panic!() };
        Ok::<_, Vec<Fault>>(host)
    };
    assert!(matches!(host(&[]), Ok(IdentityHost::Machine)));
    for endpoint in ["http://127.0.0.1:41741/msi/token", "http://169.254.129.2:8081/msi/token"] {
        let found = host(&[("IDENTITY_ENDPOINT", endpoint), ("IDENTITY_HEADER", "h")]).unwrap();
        let IdentityHost::AppService { endpoint: found, header } = found else { panic!() };
        assert_eq!((found.as_str(), header), (endpoint, SecretSource::Environment("IDENTITY_HEADER".to_owned())));
    }
    for (variables, part) in [
        (vec![("IDENTITY_ENDPOINT", "http://127.0.0.1:1/")], "set without IDENTITY_HEADER"),
        (vec![("IDENTITY_ENDPOINT", "http://10.0.0.1/"), ("IDENTITY_HEADER", "h")], "http:// to another machine"),
    ] {
        let all = told(&host(&variables).unwrap_err());
        assert!(all.starts_with("environment: IDENTITY_ENDPOINT: ") && all.contains(part), "{all}");
    }
    let nameless = "[graph]\ncloud = \"global\"\ncredential.kind = \"managed-identity\"\n";
    let all = told(&with(&[], nameless).unwrap_err());
    assert!(!all.contains("client_id") && all.contains("tenant_id\" is missing"), "{all}");
}

#[test]
fn faults_of_variables_are_told_by_their_names() {
    let faults = with(
        &[
            ("POSTERN__SERVER__LISTEN", "nowhere"),
            ("POSTERN__SERVER__LITSEN", "x"),
            ("POSTERN__ISSUERS__0__NAME", "x"),
            ("POSTERN__EXECUTOR__LANES_MAX", "many"),
            ("POSTERN_POLICY__DIR", "x"),
            ("POSTERN_SERVER_BODY_MAX", "x"),
            // What Kubernetes sets for a service of this name, and what a shell may have.
            ("POSTERN_SERVICE_HOST", "10.0.0.1"),
            ("POSTERN_PORT_443_TCP", "tcp://10.0.0.1:443"),
            ("POSTERN_HOME", "x"),
        ],
        &least(),
    )
    .unwrap_err();
    assert!(faults.iter().all(|fault| fault.place == "environment" && fault.line.is_none()));
    let all = told(&faults);
    for part in [
        "environment: POSTERN__SERVER__LISTEN: \"nowhere\" is not an address",
        "POSTERN__SERVER__LITSEN: no setting has this name\n  hint: did you mean POSTERN__SERVER__LISTEN?",
        "POSTERN__ISSUERS__0__NAME: no setting has this name\n  hint: issuers, callers, webhooks, destinations and the catalogue",
        "POSTERN__EXECUTOR__LANES_MAX: out of range",
        "POSTERN_POLICY__DIR: no setting has this name\n  hint: did you mean POSTERN__POLICY__DIR?",
        "POSTERN_SERVER_BODY_MAX: no setting has this name\n  hint: did you mean POSTERN__SERVER__BODY_MAX?",
    ] {
        assert!(all.contains(part), "{all}");
    }
    assert_eq!(faults.len(), 6, "{all}");
}

#[test]
fn without_a_file_the_environment_can_say_everything_that_is_required() {
    let variables = [
        ("graph.cloud", "china"),
        ("graph.tenant_id", CLIENT),
        ("graph.client_id", CLIENT),
        ("graph.credential.secret_env", "S"),
    ];
    let config = load(None, variables.iter().map(|(key, value)| (variable(key), (*value).to_owned()))).unwrap();
    assert_eq!(config.graph.cloud, Cloud::China);
    let told = told(&load(None, std::iter::empty()).unwrap_err());
    assert!(told.contains("environment: \"graph.cloud\" is missing"), "{told}");
    let secret = "environment: \"graph.credential.secret_file\" is missing\n  hint: or set graph.credential.secret_env, or \
                  choose another graph.credential.kind: certificate, workload-identity, managed-identity";
    assert!(told.contains(secret), "{told}");
}

#[test]
fn every_cloud_has_its_hosts_and_its_audience() {
    for (cloud, graph, login) in [
        ("global", "https://graph.microsoft.com", "https://login.microsoftonline.com"),
        ("us-gov", "https://graph.microsoft.us", "https://login.microsoftonline.us"),
        ("us-gov-dod", "https://dod-graph.microsoft.us", "https://login.microsoftonline.us"),
        ("china", "https://microsoftgraph.chinacloudapi.cn", "https://login.partner.microsoftonline.cn"),
    ] {
        let found = loaded(&least().replace("global", cloud)).graph;
        assert_eq!((found.endpoint.as_str(), found.authority.as_str()), (graph, login), "{cloud}");
        assert_eq!(found.scope, format!("{graph}/.default"));
    }
}

#[test]
fn an_override_keeps_the_audience_of_the_cloud_except_for_the_sandbox() {
    let roots = "endpoint = \"http://127.0.0.1:9500/\"\nauthority = \"https://login.test/x/\"\n";
    let real = loaded(&(least() + roots)).graph;
    assert_eq!((real.endpoint.as_str(), real.authority.as_str()), ("http://127.0.0.1:9500", "https://login.test/x"));
    assert_eq!(real.scope, "https://graph.microsoft.com/.default");
    let sandbox = loaded(&(least().replace("global", "sandbox") + roots)).graph;
    assert_eq!(sandbox.scope, "http://127.0.0.1:9500/.default");
}

#[test]
fn a_secret_is_read_without_its_line_break_and_an_empty_one_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway.toml");
    fs::write(&path, least()).unwrap();
    let secret = path.with_file_name("s");
    let check = || unreadable_secrets(&path);
    let expected = format!("{}:5: graph.credential.secret_file: cannot read the secret in", path.display());
    assert!(check().starts_with(&expected), "{}", check());
    fs::write(&secret, "\r\n").unwrap();
    assert!(check().contains("is empty"));
    fs::write(&secret, "a b \r\n").unwrap();
    assert_eq!(check(), "");
    assert_eq!(SecretSource::File(secret).read().unwrap().expose_secret(), "a b ");
    let nowhere = SecretSource::Environment("POSTERN_NO_SUCH_SECRET".to_owned()).read().unwrap_err();
    assert!(nowhere.to_string().contains("the environment variable POSTERN_NO_SUCH_SECRET is not"));
}

#[test]
fn the_sandbox_file_loads_and_finds_its_secret() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/sandbox.toml");
    let config = load(Some(&path), std::iter::empty()).unwrap_or_else(|faults| panic!("{}", told(&faults)));
    assert_eq!(unreadable_secrets(&path), "");
    let Credential::Application { proof: Proof::Secret(source), .. } = &config.graph.credential else { panic!() };
    assert_eq!(source.read().unwrap().expose_secret(), "sandbox-client-secret");
    assert_eq!(config.graph.scope, "http://127.0.0.1:9400/.default");
    assert_eq!(config.policy.dir, path.with_file_name("policies"));
    assert!(matches!(&config.store, Store::Sqlite(path) if path == Path::new("var/sandbox.db")));
    assert_eq!((config.callers.len(), config.catalogue.configurations.len()), (3, 4));
}

#[test]
fn a_database_is_reached_by_host_or_socket_and_its_password_is_elsewhere() {
    let store = |url: &str, more: &str| loaded(&(least() + &format!("[store]\nurl = \"{url}\"\n{more}"))).store;
    for url in ["postgres://u@db:5433/postern?sslmode=verify-full&sslrootcert=/ca.pem", "postgresql:///p?host=/run/pg"]
    {
        let Store::Postgres(Postgres { url: found, password: None }) = store(url, "") else { panic!("{url}") };
        assert_eq!(found.as_str(), url);
    }
    let store = store("postgres://u@db/postern", "password_file = \"missing\"\n");
    assert!(matches!(&store, Store::Postgres(Postgres { password: Some(SecretSource::File(_)), .. })));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway.toml");
    fs::write(folder.path().join("s"), "secret").unwrap();
    fs::write(&path, least() + "[store]\nurl = \"postgres://u@db/postern\"\npassword_file = \"missing\"\n").unwrap();
    let told = unreadable_secrets(&path);
    assert!(told.contains("store.password_file: cannot read the secret in"), "{told}");
}

#[test]
fn the_settings_for_the_cluster_load() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/k8s/base/gateway.toml");
    let credential = ("POSTERN__GRAPH__CREDENTIAL__SECRET_FILE".to_owned(), "client-secret".to_owned());
    load(Some(&path), std::iter::once(credential)).unwrap();
}

#[test]
fn the_reference_file_loads() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/gateway.toml");
    load(Some(&path), std::iter::empty()).unwrap_or_else(|faults| panic!("{}", told(&faults)));
}

/// The reference with every setting enabled that it shows behind a `#`.
fn reference() -> String {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config/gateway.toml")).unwrap();
    let shown = |line: &str| {
        line.strip_prefix('#')
            .filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '['))
            .map(str::to_owned)
    };
    text.lines().map(|line| shown(line).unwrap_or_else(|| line.to_owned()) + "\n").collect()
}

/// Every value of a document, by key; the entries of a list are merged, and the operator's aliases left out of the
/// keys.
fn flat(above: &str, value: &Value, into: &mut BTreeMap<String, Vec<Value>>) {
    if let Value::Table(table) = value {
        for (key, value) in table {
            let path = if above == "catalogue.configurations." { above.to_owned() } else { format!("{above}{key}.") };
            // One level below the aliases, keys are ours again.
            let path = if path == above { "catalogue.configurations.." } else { &path };
            flat(path, value, into);
        }
        return;
    }
    let tables = value.as_array().filter(|items| items.first().is_some_and(Value::is_table));
    for item in tables.into_iter().flatten() {
        flat(above, item, into);
    }
    if tables.is_none() {
        let key = above.trim_end_matches('.').replace("..", ".");
        into.entry(key).or_default().push(value.clone());
    }
}

#[test]
fn the_reference_file_shows_every_key_with_its_default_and_no_other() {
    let text = reference();
    let place = SourceFile::new(None, &text);
    let (_, diagnostics) = interpret(&place, &text, std::iter::empty());
    let told = told(&diagnostics.faults);
    // Two sources of one secret exclude each other, and the store shown first has no password.
    // So do the kinds of credential, and the two ways to an issuer's keys.
    let excluded = [
        "secret_env: given together with",
        "password_env: given together with",
        "a SQLite store has no password",
        ": a credential of kind",
        "metadata_url: given together with",
        // A file is shown, but no sink is named by default.
        "is not among audit.sinks",
    ];
    let expected = |fault: &Fault| excluded.iter().any(|part| fault.what.contains(part));
    assert!(diagnostics.faults.len() == 9 && diagnostics.faults.iter().all(expected), "{told}");
    let mut written = BTreeMap::new();
    flat("", &Value::Table(text.parse().unwrap()), &mut written);
    for (key, default) in &diagnostics.known {
        let values = written.get(key).unwrap_or_else(|| panic!("{key} is not in the reference"));
        if let Some(default) = default {
            let default: toml::Table = format!("it = {default}").parse().unwrap();
            assert!(values.contains(&default["it"]), "{key} is shown as {values:?}, not as {default}");
        }
    }
    assert!(diagnostics.known.len() > 40, "{:?}", diagnostics.known.keys());
}

/// Lines that look almost like settings, in any order.
fn nearly_settings() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        Just("server"),
        Just("graph"),
        Just("issuers"),
        Just("callers"),
        Just("catalogue"),
        Just("configurations"),
        Just("groups"),
        Just("listen"),
        Just("name"),
        Just("issuer"),
        Just("audiences"),
        Just("\"a.b\""),
        Just("é"),
    ];
    let value = prop_oneof![
        Just("\"20s\""),
        Just("4"),
        Just("-0x7"),
        Just("[]"),
        Just("[[1], {}]"),
        Just("{ a.b = 1 }"),
        Just("nan"),
        Just("true"),
        Just("1979-05-27"),
        Just("\"18446744073709551616d\""),
        Just("\"http://[::1\""),
    ];
    let line = (0..3_u8, proptest::collection::vec(word, 1..4), value).prop_map(|(form, words, value)| {
        let path = words.join(".");
        match form {
            0 => format!("[{path}]"),
            1 => format!("[[{path}]]"),
            _ => format!("{path} = {value}"),
        }
    });
    proptest::collection::vec(line, 0..12).prop_map(|lines| lines.join("\n"))
}

proptest! {
    #[test]
    fn no_text_makes_the_loader_panic(text in prop_oneof![nearly_settings(), ".{0,200}", "[a-z\\[\\]{}=\".#\n 0-9]{0,120}"]) {
        let place = SourceFile::new(None, &text);
        let lines = text.split('\n').count();
        let (_, diagnostics) = interpret(&place, &text, std::iter::empty());
        for fault in diagnostics.faults {
            prop_assert!(fault.line.is_none_or(|line| (1..=lines).contains(&line)), "{fault}");
        }
    }

    #[test]
    fn no_variable_makes_the_loader_panic(name in "[A-Z_]{0,20}", value in ".{0,40}") {
        let variables = [(format!("POSTERN__{name}"), value.clone()), ("POSTERN__GRAPH__ENDPOINT".to_owned(), value.clone()),
            ("POSTERN__TELEMETRY__LOG_FILTER".to_owned(), value.clone()), ("POSTERN__SERVER__BODY_MAX".to_owned(), value)];
        prop_assert!(load(None, variables.into_iter()).is_err());
    }
}
