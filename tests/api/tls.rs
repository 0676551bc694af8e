//! TLS on the API's address, and clients with certificates of their own.

use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};
use postern::{api::Certificate, config::Tls};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use reqwest::{Client, Identity, RequestBuilder};
use serde_json::json;
use tempfile::TempDir;

use crate::{
    certificate::pem,
    collector::hex,
    responses::sent,
    webhook_senders::{HIRED, JOINER, SECRET},
    world::{ASSIGNMENTS, EVERYTHING, Setup, TRIES, World, add, group},
};

/// A certification authority.
struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, in PEM, and its fingerprint.
struct Pair {
    certificate: String,
    key: String,
    fingerprint: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> String {
        pem("CERTIFICATE", self.0.der())
    }

    fn signs(&self, name: &str) -> Pair {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Pair {
            certificate: pem("CERTIFICATE", certificate.der()),
            key: pem("PRIVATE KEY", key.serialized_der()),
            fingerprint: hex(digest(&SHA256, certificate.der()).as_ref()),
        }
    }

    /// A client that trusts this authority, and presents a certificate if given one.
    fn client(&self, own: Option<&Pair>) -> Client {
        let root = reqwest::Certificate::from_pem(self.pem().as_bytes()).unwrap();
        let builder = Client::builder().no_proxy().pool_max_idle_per_host(0).tls_certs_only([root]);
        let own = own.map(|own| Identity::from_pem(format!("{}{}", own.key, own.certificate).as_bytes()).unwrap());
        own.into_iter().fold(builder, reqwest::ClientBuilder::identity).build().unwrap()
    }
}

impl Pair {
    fn write(&self, folder: &Path) {
        std::fs::write(folder.join("server.pem"), &self.certificate).unwrap();
        std::fs::write(folder.join("server.key"), &self.key).unwrap();
    }
}

/// A gateway with this certificate, client settings, and settings of its caller servicenow.
async fn world(folder: &TempDir, server: &Pair, clients: &str, caller: &str) -> World {
    let name = "name = \"servicenow\"\n";
    let edits = vec![(name, format!("{name}{caller}\n"))];
    world_with(folder, server, clients, Setup { edits, ..Setup::default() }).await
}

async fn world_with(folder: &TempDir, server: &Pair, clients: &str, mut setup: Setup) -> World {
    server.write(folder.path());
    let at = |name: &str| folder.path().join(name).display().to_string();
    let tls = format!(
        "[server.tls]\ncertificate_file = \"{}\"\nkey_file = \"{}\"\n{}\n[store]\n",
        at("server.pem"),
        at("server.key"),
        clients.replace("FOLDER", &folder.path().display().to_string()),
    );
    setup.edits.push(("[store]\n", tls));
    World::with(setup).await
}

async fn is_heard(request: RequestBuilder) -> bool {
    sent(request).await.is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_api_speaks_tls_and_takes_up_a_new_certificate_without_a_restart() {
    let (folder, old, new) = (tempfile::tempdir().unwrap(), Authority::new(), Authority::new());
    let mut world = world(&folder, &old.signs("127.0.0.1"), "", "").await;
    assert!(world.gateway().url().starts_with("https://"));
    world.client = old.client(None);
    world.change(&add("Sales ESP", &group(1))).await.succeeded("changed");
    assert!(!is_heard(new.client(None).get(world.gateway().url())).await);
    let plain = Client::builder().no_proxy().build().unwrap();
    assert!(!is_heard(plain.get(world.gateway().url().replace("https", "http"))).await);
    // A certificate with the key of another is not loaded.
    let next = new.signs("127.0.0.1");
    std::fs::write(folder.path().join("server.pem"), &next.certificate).unwrap();
    assert!(is_heard(old.client(None).get(world.gateway().url())).await);
    next.write(folder.path());
    world.client = new.client(None);
    let mut heard = false;
    for _ in 0..TRIES {
        heard = is_heard(world.client.get(world.gateway().url())).await;
        if heard {
            break;
        }
    }
    assert!(heard && !is_heard(old.client(None).get(world.gateway().url())).await);
    world.get("servicenow", "/v1/operations").await.expect(200);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_bound_caller_is_rejected_without_its_certificate() {
    let (folder, ours, theirs) = (tempfile::tempdir().unwrap(), Authority::new(), Authority::new());
    let (own, other) = (theirs.signs("servicenow.test"), theirs.signs("portal.test"));
    std::fs::write(folder.path().join("clients.pem"), theirs.pem()).unwrap();
    let clients = "client_ca_file = \"FOLDER/clients.pem\"\nclient_certificates = \"optional\"";
    // As openssl prints it.
    let printed: Vec<_> = own.fingerprint.to_uppercase().as_bytes().chunks(2).map(<[u8]>::to_vec).collect();
    let printed = String::from_utf8(printed.join(&b':')).unwrap();
    let caller = format!("certificate_sha256 = [\"{printed}\"]");
    let mut world = world(&folder, &ours.signs("127.0.0.1"), clients, &caller).await;
    for shown in [None, Some(&other)] {
        world.client = ours.client(shown);
        let refused = world.change(&add("Sales ESP", &group(1))).await.problem(403, "unknown-caller");
        assert!(refused.body["detail"].as_str().unwrap().contains("client certificate"), "{}", refused.text);
        world.get("portal", "/v1/operations").await.expect(200);
    }
    assert_eq!((world.events("denied").await.len(), world.journal().await.len()), (2, 0));
    // A certificate from another authority ends the connection, even where none is required.
    world.client = ours.client(Some(&ours.signs("servicenow.test")));
    assert!(!is_heard(world.bare("GET", "/v1/operations")).await);
    world.client = ours.client(Some(&own));
    world.change(&add("Sales ESP", &group(1))).await.succeeded("changed");
    world.send(world.bare("POST", ASSIGNMENTS).json(&json!({}))).await.problem(401, "unauthenticated");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_can_ask_for_a_certificate() {
    let (folder, ours, theirs) = (tempfile::tempdir().unwrap(), Authority::new(), Authority::new());
    let (one, two) = (theirs.signs("one.test"), theirs.signs("two.test"));
    std::fs::write(folder.path().join("clients.pem"), theirs.pem()).unwrap();
    let text = format!(
        "@id(\"second-factor\")\nforbid (principal, action == Postern::Action::\"add\", resource) unless {{ principal has certificate }};\n\
         @id(\"not-this-one\")\nforbid (principal, action, resource) when {{ principal has certificate && principal.certificate == \"{}\" }};",
        two.fingerprint
    );
    let setup = Setup { policies: vec![("factor.cedar", text.leak())], ..Setup::default() };
    let clients = "client_ca_file = \"FOLDER/clients.pem\"\nclient_certificates = \"optional\"";
    let mut world = world_with(&folder, &ours.signs("127.0.0.1"), clients, setup).await;
    for (shown, policy) in [(None, "second-factor"), (Some(&two), "not-this-one")] {
        world.client = ours.client(shown);
        let denied = world.change(&add("Sales ESP", &group(1))).await.problem(403, "not-permitted");
        assert!(denied.body["detail"].as_str().unwrap().contains(policy), "{}", denied.text);
    }
    world.client = ours.client(Some(&one));
    world.change(&add("Sales ESP", &group(1))).await.succeeded("changed");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_proves_the_messages_of_a_source_or_is_asked_for_besides() {
    let (folder, ours, theirs) = (tempfile::tempdir().unwrap(), Authority::new(), Authority::new());
    let (own, other) = (theirs.signs("hr.test"), theirs.signs("portal.test"));
    std::fs::write(folder.path().join("clients.pem"), theirs.pem()).unwrap();
    std::fs::write(folder.path().join("secret"), SECRET).unwrap();
    let source = |name: &str, proof: &str| {
        format!(
            "[[webhooks]]\nsource = \"{name}\"\ncaller = \"servicenow\"\nroles = [\"Assignments.Change\"]\n{proof}\n\
             certificate_sha256 = [\"{}\"]\n{JOINER}\n",
            own.fingerprint
        )
    };
    let secret = format!("scheme = \"bearer\"\nsecret_file = \"{}\"", folder.path().join("secret").display());
    let sources = source("hr", "scheme = \"certificate\"") + &source("both", &secret) + "[catalogue.groups]\n";
    let edits = vec![("[catalogue.groups]\n", sources)];
    let clients = "client_ca_file = \"FOLDER/clients.pem\"\nclient_certificates = \"optional\"";
    let setup = Setup { policies: vec![EVERYTHING], edits, ..Setup::default() };
    let mut world = world_with(&folder, &ours.signs("127.0.0.1"), clients, setup).await;
    let message = |world: &World, source: &str, secret: &str| {
        let request = world.bare("POST", &format!("/v1/webhooks/{source}")).header("content-type", "application/json");
        request
            .header("authorization", format!("Bearer {secret}"))
            .header("idempotency-key", source)
            .header("prefer", "wait=25")
            .body(HIRED)
    };
    for shown in [None, Some(&other)] {
        world.client = ours.client(shown);
        for source in ["hr", "both"] {
            let refused = world.send(message(&world, source, SECRET)).await.problem(401, "invalid-signature");
            assert!(refused.body["detail"].as_str().unwrap().contains("client certificate"), "{}", refused.text);
        }
    }
    world.client = ours.client(Some(&own));
    world.send(message(&world, "both", "another secret of 32 characters.")).await.problem(401, "invalid-signature");
    for source in ["hr", "both"] {
        assert_eq!(world.send(message(&world, source, SECRET)).await.expect(200).body["result"], "accepted");
    }
    assert_eq!((world.events("denied").await.len(), world.events("accepted").await.len()), (5, 2));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_without_a_required_client_certificate_are_refused() {
    let (folder, ours, theirs) = (tempfile::tempdir().unwrap(), Authority::new(), Authority::new());
    std::fs::write(folder.path().join("clients.pem"), theirs.pem()).unwrap();
    let mut world = world(&folder, &ours.signs("127.0.0.1"), "client_ca_file = \"FOLDER/clients.pem\"", "").await;
    for shown in [None, Some(&ours.signs("servicenow.test"))] {
        world.client = ours.client(shown);
        assert!(!is_heard(world.bare("GET", "/v1/operations")).await);
    }
    world.client = ours.client(Some(&theirs.signs("servicenow.test")));
    world.get("servicenow", "/v1/operations").await.expect(200);
    world.end().await;
}

#[test]
fn unusable_certificates_are_reported_by_setting_without_their_content() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let (one, other) = (authority.signs("a.test"), authority.signs("b.test"));
    let at = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let (certificate, key) = (at("one.pem", &one.certificate), at("one.key", &one.key));
    let open = |certificate: &Path, key: &Path| {
        Certificate::open(Tls { certificate: certificate.into(), key: key.into(), clients: None })
    };
    open(&certificate, &key).unwrap();
    let both = at("both.pem", &format!("{}{}", one.key, one.certificate));
    open(&both, &both).unwrap();
    for (certificate, key, setting) in [
        (&certificate, &at("other.key", &other.key), "key_file"),
        (&certificate, &certificate, "key_file"),
        (&key, &key, "certificate_file"),
        (&at("broken.pem", "-----BEGIN CERTIFICATE-----\nsecret"), &key, "certificate_file"),
        (&folder.path().join("nowhere"), &key, "certificate_file"),
    ] {
        let error = open(certificate, key).unwrap_err().to_string();
        assert!(error.contains(setting) && error.contains(folder.path().to_str().unwrap()), "{error}");
        assert!(!error.contains("secret") && !error.contains(one.key.lines().nth(1).unwrap()), "{error}");
    }
}
