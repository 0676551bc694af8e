//! Senders of webhooks: settings of sources, their secrets, and signatures made without the gateway's own code.

use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use reqwest::RequestBuilder;
use tempfile::TempDir;

use crate::world::{EVERYTHING, Setup, World};

pub(crate) const SECRET: &str = "a shared secret of 32 characters";
pub(crate) const STANDARD_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
/// An event for a new employee, as the rule of [`JOINER`] expects it.
pub(crate) const HIRED: &str =
    r#"{"type":"employee.hired","data":{"id":7,"department":"Sales","mail":"jane@contoso.com"}}"#;
/// One change for a joiner, and one per group of a leaver.
pub(crate) const JOINER: &str = r#"
[[webhooks.rules]]
name = "joiner"
when = "event.type == 'employee.hired' and data.department == 'Sales'"
configuration = "data.department ~ ' ESP'"
add = ["data.department ~ ' Laptops'"]
ticket = "'HR-' ~ data.id"
requested_for = "data.mail"
comment = "'New in ' ~ data.department"
until = "data.until if data.until is defined else none"
[[webhooks.rules]]
name = "mover"
when = "event.type == 'employee.moved'"
each = "data.configurations"
configuration = "item"
add = ["data.groups"]
ticket = "data.id"
"#;

/// A world with one source, and the folder of its secrets.
pub(crate) struct WebhookSenders {
    pub(crate) world: World,
    pub(crate) secrets: TempDir,
}

impl WebhookSenders {
    /// A source called `hr` with this scheme, secret, further settings and rules.
    pub(crate) async fn start(scheme: &str, secret: &str, more: &str, rules: &str) -> Self {
        Self::with(scheme, secret, more, rules, Setup { policies: vec![EVERYTHING], ..Setup::default() }).await
    }

    pub(crate) async fn with(scheme: &str, secret: &str, more: &str, rules: &str, mut setup: Setup) -> Self {
        let secrets = tempfile::tempdir().unwrap();
        let path = secrets.path().join("hr");
        std::fs::write(&path, format!("{secret}\n")).unwrap();
        let source = format!(
            "[[webhooks]]\nsource = \"hr\"\ncaller = \"servicenow\"\nroles = [\"Assignments.Change\"]\nscheme = \"{scheme}\"\nsecret_file = \"{}\"\n{more}\n{rules}\n[catalogue.groups]\n",
            path.display()
        );
        setup.edits.push(("[catalogue.groups]\n", source));
        Self { world: World::with(setup).await, secrets }
    }

    pub(crate) fn to_source(&self, body: impl Into<reqwest::Body>) -> RequestBuilder {
        self.world.bare("POST", "/v1/webhooks/hr").header("content-type", "application/json").body(body)
    }

    /// A message signed by Standard Webhooks.
    pub(crate) fn standard(&self, id: &str, timestamp: i64, body: &str) -> RequestBuilder {
        let (id, timestamp) = (id.to_owned(), timestamp.to_string());
        let signature = standard_signature(STANDARD_SECRET, &id, &timestamp, body);
        let request = self.to_source(body.to_owned()).header("webhook-id", id).header("webhook-timestamp", timestamp);
        request.header("webhook-signature", signature)
    }
}

pub(crate) fn now() -> i64 {
    postern::clock::Clock::system().now().as_second()
}

pub(crate) fn standard_signature(secret: &str, id: &str, timestamp: &str, body: &str) -> String {
    let secret = STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
    let content = format!("{id}.{timestamp}.{body}");
    format!("v1,{}", STANDARD.encode(mac(hmac::HMAC_SHA256, &secret, content.as_bytes())))
}

pub(crate) fn hex(content: &str) -> String {
    let bytes = mac(hmac::HMAC_SHA256, SECRET.as_bytes(), content.as_bytes());
    bytes.iter().fold(String::new(), |written, byte| format!("{written}{byte:02x}"))
}

pub(crate) fn base64(algorithm: hmac::Algorithm, content: &str) -> String {
    STANDARD.encode(mac(algorithm, SECRET.as_bytes(), content.as_bytes()))
}

fn mac(algorithm: hmac::Algorithm, secret: &[u8], content: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(algorithm, secret), content).as_ref().to_vec()
}
