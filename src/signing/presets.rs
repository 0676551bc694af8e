//! The schemes of vendors, as they document them; sources are in docs/webhooks.md.
//!
//! Guarantees: only a scheme that the vendor documents or independent clients confirm is named here. Any other can be
//! described piece by piece in the settings.

use super::{Encoding, Hash, KeyForm, Scheme, pieces};

/// A vendor's scheme.
#[derive(Clone, Copy, Debug)]
pub struct Preset {
    /// Its name in the settings.
    pub name: &'static str,
    /// The body of the vendor's test call, accepted without a signature since there is no secret yet. It requests nothing.
    pub ping: Option<&'static str>,
    signature_header: &'static str,
    prefix: &'static str,
    encoding: Encoding,
    hash: Hash,
    signed: &'static str,
    id_header: Option<&'static str>,
    timestamp_header: Option<&'static str>,
    keys: KeyForm,
}

/// HMAC-SHA256 in hex over the body: the base of the others.
const PLAIN: Preset = Preset {
    name: "",
    ping: None,
    signature_header: "",
    prefix: "",
    encoding: Encoding::Hex,
    hash: Hash::Sha256,
    signed: "{body}",
    id_header: None,
    timestamp_header: None,
    keys: KeyForm::Plain,
};

/// Standard Webhooks, which also signs callbacks.
pub const STANDARD_WEBHOOKS: Preset = Preset {
    name: "standard-webhooks",
    signature_header: "webhook-signature",
    encoding: Encoding::Base64,
    signed: "{id}.{timestamp}.{body}",
    id_header: Some("webhook-id"),
    timestamp_header: Some("webhook-timestamp"),
    keys: KeyForm::Standard,
    ..PLAIN
};

/// What ServiceNow requires of its callers.
pub const SERVICENOW_HMAC: Preset = Preset {
    name: "servicenow-hmac",
    signature_header: "x-sn-hmac-signature-256",
    encoding: Encoding::Base64,
    ..PLAIN
};

/// All presets.
pub const PRESETS: [Preset; 9] = [
    STANDARD_WEBHOOKS,
    Preset { name: "github", signature_header: "x-hub-signature-256", prefix: "sha256=", ..PLAIN },
    Preset { name: "jira", signature_header: "x-hub-signature", prefix: "sha256=", ..PLAIN },
    Preset {
        name: "zendesk",
        signature_header: "x-zendesk-webhook-signature",
        encoding: Encoding::Base64,
        signed: "{timestamp}{body}",
        timestamp_header: Some("x-zendesk-webhook-signature-timestamp"),
        ..PLAIN
    },
    Preset {
        name: "bamboohr",
        signature_header: "x-bamboohr-signature",
        signed: "{body}{timestamp}",
        timestamp_header: Some("x-bamboohr-timestamp"),
        ..PLAIN
    },
    Preset {
        name: "hibob",
        ping: Some("Ping test"),
        signature_header: "bob-signature",
        encoding: Encoding::Base64,
        hash: Hash::Sha512,
        ..PLAIN
    },
    Preset { name: "deel", signature_header: "x-deel-signature", signed: "POST{body}", ..PLAIN },
    Preset { name: "greenhouse", signature_header: "signature", prefix: "sha256 ", ..PLAIN },
    SERVICENOW_HMAC,
];

impl Preset {
    /// The preset of that name.
    pub fn named(name: &str) -> Option<&'static Self> {
        PRESETS.iter().find(|preset| preset.name == name)
    }

    /// What is signed and how.
    pub fn scheme(&self) -> Scheme {
        let header = |name: Option<&str>| name.map(str::to_owned);
        Scheme {
            signature_header: self.signature_header.to_owned(),
            prefix: self.prefix.to_owned(),
            encoding: self.encoding,
            hash: self.hash,
            // A template that cannot be parsed would sign nothing and verify nothing; the tests parse all of them.
            signed: pieces(self.signed).unwrap_or_default(),
            id_header: header(self.id_header),
            timestamp_header: header(self.timestamp_header),
            keys: self.keys,
        }
    }
}
