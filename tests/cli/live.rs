//! `postern check --live`: against a sandbox, and through a proxy to a server with a certificate of its own authority.

use std::{fs, path::Path, process::Command};

use serde_json::{Value, json};

use crate::{
    Ended, Program,
    certificate::{Made, made},
    postern, shipped,
    tunnel::{HOST, Tunnel},
};

const CLIENT: &str = "99999999-8888-4777-8666-555555555555";

/// A running sandbox and a folder with settings for it.
struct Stage {
    folder: tempfile::TempDir,
    sandbox: Program,
    url: String,
}

impl Stage {
    fn with(seed: Option<Value>, credential: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut arguments = vec!["sandbox", "--listen", "127.0.0.1:0"];
        if let Some(seed) = seed {
            fs::write(folder.path().join("seed.json"), seed.to_string()).unwrap();
            arguments.extend(["--seed", "seed.json"]);
        }
        let sandbox = Program::start(postern(folder.path(), &arguments));
        let line = sandbox.out.until("the sandbox listens on ");
        let url = line.split_whitespace().find_map(|word| word.strip_suffix(';')).unwrap().to_owned();
        fs::copy(shipped("config/sandbox.secret"), folder.path().join("sandbox.secret")).unwrap();
        let graph = format!("[graph]\nendpoint = \"{url}\"\nauthority = \"{url}\"\n");
        let text = fs::read_to_string(shipped("config/sandbox.toml")).unwrap();
        let text = text.replace("[graph]\n", &graph).replace("credential.secret_file = \"sandbox.secret\"", credential);
        let text = text.replace("dir = \"policies\"", &format!("dir = {:?}", shipped("config/policies")));
        fs::write(folder.path().join("gateway.toml"), text).unwrap();
        Self { folder, sandbox, url }
    }

    fn start(credential: &str) -> Self {
        Self::with(None, credential)
    }

    fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn command(&self) -> Command {
        postern(self.folder(), &["check", "--live", "--config", "gateway.toml"])
    }

    fn checked(&self) -> Ended {
        Program::start(self.command()).ended()
    }

    fn post(&self, path: &str, body: &Value) -> String {
        let url = format!("{}/_sandbox/{path}", self.url);
        let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().unwrap();
        let request = client.post(url).json(body);
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            #[expect(clippy::disallowed_methods, reason = "a test's client needs none of what outbound adds")]
            let answer = request.send().await.unwrap().error_for_status().unwrap();
            answer.text().await.unwrap()
        })
    }
}

const SECRET: &str = "credential.secret_file = \"sandbox.secret\"";
const WORKS: [&str; 3] = [
    "the login service gives a token",
    "the token carries every permission that is needed",
    "Graph shows the configuration \"Corporate Windows only\"",
];

#[track_caller]
fn works(ended: &Ended) {
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{}", ended.out);
    for line in WORKS {
        assert!(ended.out.lines().any(|told| told == line), "{line} in\n{}", ended.out);
    }
}

#[track_caller]
fn fails(ended: &Ended, what: &str, hint: &str) {
    assert_eq!(ended.code, Some(1), "{}", ended.out);
    assert!(ended.err.contains(what) && ended.err.contains(hint), "{what} and {hint} in\n{}", ended.err);
    assert!(ended.err.ends_with("1 fault\n"), "{}", ended.err);
}

#[test]
fn a_secret_that_works_is_proven_and_one_that_does_not_is_explained() {
    let stage = Stage::start(SECRET);
    // Once in vain is not for good.
    let effect = json!({"kind": "answer", "status": 503});
    stage.post("faults", &json!({"path_ends": "/token", "times": 1, "effect": effect}));
    works(&stage.checked());
    fs::write(stage.folder().join("sandbox.secret"), "guess").unwrap();
    fails(
        &stage.checked(),
        "live: the gateway is not authorised: the login service answered AADSTS7000215: the client",
        "docs/setup-entra.md",
    );
    stage.sandbox.terminate();
}

#[test]
fn assignments_that_cannot_be_read_are_told_though_the_configuration_can() {
    let stage = Stage::start(SECRET);
    let effect = json!({"kind": "answer", "status": 404});
    stage.post("faults", &json!({"path_ends": "/assignments", "effect": effect}));
    let ended = stage.checked();
    fails(
        &ended,
        "what is assigned to it cannot be read: Graph answered 404",
        "read through beta, whatever graph.api_version says",
    );
    assert!(ended.out.contains(WORKS[2]), "{}", ended.out);
    stage.sandbox.terminate();
}

#[test]
fn a_certificate_is_examined_before_and_proven_after_it_is_registered() {
    let stage = Stage::start("credential.kind = \"certificate\"\ncredential.certificate_file = \"both.pem\"");
    let (own, other) = (made(90), made(90));
    let store = |Made { certificate, key }: &Made| {
        fs::write(stage.folder().join("both.pem"), format!("{key}{certificate}")).unwrap();
    };
    store(&Made { certificate: own.certificate.clone(), key: other.key });
    fails(&stage.checked(), "graph.credential: the private key in ", "is not the certificate's");
    store(&Made { certificate: own.certificate.clone(), key: String::new() });
    fails(&stage.checked(), "both.pem holds no private key", "-----BEGIN PRIVATE KEY-----");
    let encrypted = own.key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    store(&Made { certificate: own.certificate.clone(), key: encrypted });
    fails(&stage.checked(), "both.pem is encrypted", "store it without a passphrase");
    store(&Made { certificate: own.certificate.replace("MII", "XII"), key: own.key.clone() });
    fails(&stage.checked(), "the certificate in ", "cannot be read");
    store(&own);
    fails(&stage.checked(), "AADSTS700027: the certificate is not registered", "docs/setup-entra.md");
    stage.post("certificates", &json!({"client_id": CLIENT, "certificate": own.certificate}));
    works(&stage.checked());
}

#[test]
fn a_workload_identity_needs_nothing_but_what_the_cluster_says() {
    let stage = Stage::start("credential.kind = \"workload-identity\"");
    let claims = json!({"sub": "system:serviceaccount:postern:postern", "aud": "api://AzureADTokenExchange"});
    let issued: Value =
        serde_json::from_str(&stage.post("token", &json!({"caller": "portal", "claims": claims}))).unwrap();
    fs::write(stage.folder().join("token"), issued["access_token"].as_str().unwrap()).unwrap();
    let mut command = stage.command();
    command.env("AZURE_FEDERATED_TOKEN_FILE", "token").env("AZURE_AUTHORITY_HOST", format!("{}/", stage.url));
    works(&Program::start(command).ended());
}

#[test]
fn an_identity_of_app_service_is_asked_with_its_header() {
    let stage = Stage::start("credential.kind = \"managed-identity\"");
    let asked = |header: &str| {
        let mut command = stage.command();
        command.env("IDENTITY_ENDPOINT", format!("{}/msi/token", stage.url)).env("IDENTITY_HEADER", header);
        // Nothing listens there: a call through this proxy would fail.
        command.env("HTTP_PROXY", "http://127.0.0.1:1").env("NO_PROXY", "elsewhere.test");
        Program::start(command).ended()
    };
    let graph_only = asked("sandbox-identity-header");
    fails(&graph_only, "live: Graph is unavailable: cannot connect", "HTTPS_PROXY");
    assert!(graph_only.out.contains(WORKS[0]), "the identity was asked through the proxy:\n{}", graph_only.out);
    fails(&asked("guess"), "is a managed identity assigned", "docs/setup-entra.md");
}

#[test]
fn a_permission_that_is_missing_or_too_much_is_named() {
    let seed = |roles: &[&str]| {
        let id = "a0000000-0000-4000-8000-000000000003_SinglePlatformRestriction";
        json!({
            "tenant_id": "11111111-2222-4333-8444-555555555555",
            "apps": [{"client_id": CLIENT, "client_secret": "sandbox-client-secret", "roles": roles}],
            "configurations": [{
                "id": id, "displayName": "Corporate Windows only", "priority": 1,
                "@odata.type": "#microsoft.graph.deviceEnrollmentPlatformRestrictionConfiguration",
                "deviceEnrollmentConfigurationType": "singlePlatformRestriction",
            }],
        })
    };
    let reads = Stage::with(Some(seed(&["DeviceManagementServiceConfig.Read.All", "Group.Read.All"])), SECRET);
    fails(
        &reads.checked(),
        "lacks the application permission DeviceManagementServiceConfig.ReadWrite.All",
        "grant admin consent",
    );
    let nothing = Stage::with(Some(seed(&[])), SECRET).checked();
    assert_eq!(nothing.code, Some(1));
    assert!(
        nothing.err.contains("Graph answered 403 Forbidden") && nothing.err.ends_with("2 faults\n"),
        "{}",
        nothing.err
    );
    let blind =
        Stage::with(Some(seed(&["DeviceManagementServiceConfig.ReadWrite.All", "Mail.Read"])), SECRET).checked();
    assert_eq!(blind.code, Some(0), "{}", blind.err);
    for note in [
        "note: the token lacks the application permission GroupMember.Read.All, to look groups up before they are",
        "note: the token lacks the application permission DeviceManagementConfiguration.Read.All, to find assignment filters",
        "more than the gateway needs: Mail.Read",
    ] {
        assert!(blind.out.contains(note), "{}", blind.out);
    }
}

#[test]
fn a_configuration_that_the_tenant_lacks_is_told_with_the_catalogue() {
    let stage = Stage::start(SECRET);
    let path = stage.folder().join("gateway.toml");
    let text = fs::read_to_string(&path).unwrap().replace("000000000003_Single", "00000000000f_Single");
    fs::write(&path, text).unwrap();
    fails(&stage.checked(), "live: Graph answered 404", "compare its id");
}

#[test]
fn a_login_service_that_is_not_there_is_told_with_what_to_look_at() {
    let stage = Stage::start(SECRET);
    let mut command = stage.command();
    // Port 1 of this machine: nothing listens there.
    command.env("POSTERN__GRAPH__AUTHORITY", "http://127.0.0.1:1");
    fails(
        &Program::start(command).ended(),
        "live: Graph is unavailable: the login service: cannot connect",
        "outbound.proxy",
    );
}

/// Settings for a Graph behind the tunnel.
fn behind(folder: &Path, more: &str) {
    let text = format!(
        "[graph]\ncloud = \"global\"\nendpoint = \"https://{HOST}\"\nauthority = \"https://{HOST}\"\n\
         tenant_id = \"11111111-2222-4333-8444-555555555555\"\nclient_id = \"{CLIENT}\"\n\
         credential.secret_file = \"secret\"\nattempts_max = 1\n[policy]\ndir = {:?}\n[outbound]\n{more}\n",
        shipped("config/policies")
    );
    fs::write(folder.join("gateway.toml"), text).unwrap();
    fs::write(folder.join("secret"), "s").unwrap();
}

#[test]
fn graph_is_reached_through_a_proxy_and_by_an_authority_of_ones_own() {
    let (folder, tunnel) = (tempfile::tempdir().unwrap(), Tunnel::start());
    fs::write(folder.path().join("ca.pem"), &tunnel.authority).unwrap();
    let checked = |more: &str, variables: &[(&str, &str)]| {
        behind(folder.path(), more);
        let mut command = postern(folder.path(), &["check", "--live", "--config", "gateway.toml"]);
        command.envs(variables.iter().copied());
        Program::start(command).ended()
    };
    let proxy = format!("proxy = \"{}\"", tunnel.url);
    let trusting = checked(&format!("{proxy}\nca_file = \"ca.pem\""), &[]);
    assert_eq!(trusting.code, Some(0), "{}", trusting.err);
    assert!(trusting.out.contains("Graph shows the configuration \"Behind the tunnel\""), "{}", trusting.out);
    let connected = tunnel.connected();
    assert!(
        !connected.is_empty() && connected.iter().all(|line| line == &format!("CONNECT {HOST}:443 HTTP/1.1")),
        "{connected:?}"
    );

    let by_variable = checked("ca_file = \"ca.pem\"", &[("HTTPS_PROXY", &tunnel.url)]);
    assert_eq!(by_variable.code, Some(0), "{}", by_variable.err);
    assert!(tunnel.connected().len() > connected.len());

    fails(&checked(&proxy, &[]), "live: Graph is unavailable: the login service: cannot connect", "outbound.ca_file");
    fails(
        &checked("ca_file = \"ca.pem\"", &[]),
        "live: Graph is unavailable: the login service: cannot connect",
        "outbound.proxy",
    );
    fs::write(folder.path().join("ca.pem"), "no certificate").unwrap();
    fails(&checked("ca_file = \"ca.pem\"", &[]), "there is no certificate among", "outbound.ca_file");
}
