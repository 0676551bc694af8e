//! Events from other systems: what proves where an event comes from, which message it is, and what becomes of it.
//!
//! A [`Source`] is a caller like any other. [`Source::prove`] verifies the proof of a message, and [`Source::draft`] turns
//! its event into changes, by the rules in the settings.
//!
//! Guarantees: nothing in a message is interpreted before it is proven; the id of a message can only have come from its
//! sender, so that sent again, by anybody, it is the same message; secrets are read anew for each message, so that a
//! rotated one takes effect.
//!
//! It deliberately remembers no message: the id is the idempotency key under which the gateway stores what was requested,
//! and that survives a crash. It decides no permission and resolves no name.

mod mapping;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;

pub use self::mapping::{Draft, Unmapped};
use self::mapping::{Language, Rules};
use crate::{
    config::{Catalogue, Fault, SecretRef, Webhook, WebhookProof},
    domain::{Caller, Digest},
    signing::{self, Key, KeyForm, Message, Piece, Scheme},
};

/// The longest id, in bytes: a longer one is refused in a header, and replaced by its digest elsewhere.
const ID_MAX: usize = 256;

/// All sources, by name.
#[derive(Debug)]
pub struct Webhooks {
    sources: BTreeMap<String, Source>,
    language: Language,
}

/// A source of events.
#[derive(Debug)]
pub struct Source {
    settings: Webhook,
    rules: Rules,
}

/// What the headers of a message say, before anything is proven.
#[derive(Clone, Copy, Debug)]
pub struct UnverifiedMessage<'a> {
    /// The signature, or the credentials.
    proof: &'a str,
    id: &'a str,
    timestamp: &'a str,
}

/// A message whose proof was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedMessage {
    /// Its id, if the proof covers one; none if anybody with the proof could give it any id.
    id: Option<String>,
}

/// Why a message is not accepted, by what its sender can do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// Send what is missing.
    #[error("the header {header} {what}")]
    Header {
        /// Which header.
        header: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Compare the secret, and sign the body exactly as it is sent.
    #[error("the signature or credentials do not match: compare the secret, and send the body as it was signed")]
    Unproven,
    /// Connect with the client certificate that the settings name.
    #[error("the connection did not present a client certificate of this source")]
    NoCertificate,
    /// Correct the clock.
    #[error("its timestamp {0} is too far from the present time")]
    Stale(String),
    /// Contact the gateway's operators.
    #[error("the secret of this source cannot be read at present")]
    KeysUnavailable,
}

/// How much of a message its proof covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProofScope {
    /// The body; anybody could have put the headers there.
    Body,
    /// All of it: it comes from whoever holds the secret.
    Everything,
}

/// A header of a request: its value, or what is wrong with it.
pub type Header<'a> = Result<&'a str, &'static str>;

impl Webhooks {
    /// The sources that the settings name; rules can look things up in the catalogue.
    pub fn new(settings: Vec<Webhook>, catalogue: &Catalogue) -> Self {
        let language = Language::new(catalogue);
        let source = |settings: Webhook| {
            let rules = Rules::new(&settings, language.clone());
            (settings.source.clone(), Source { settings, rules })
        };
        Self { sources: settings.into_iter().map(source).collect(), language }
    }

    /// From now on, rules look things up in this catalogue.
    pub fn replace_catalogue(&self, catalogue: &Catalogue) {
        self.language.replace_catalogue(catalogue);
    }

    /// The source with this name.
    pub fn source(&self, name: &str) -> Option<&Source> {
        self.sources.get(name)
    }
}

/// The issuer that stands for a source. Issuers' names have no colon, so a policy that names one never matches a source.
pub fn issuer(source: &str) -> String {
    format!("webhook:{source}")
}

/// All faults in the secrets and expressions of the settings.
pub fn examine(settings: &[Webhook], catalogue: &Catalogue) -> Vec<Fault> {
    let language = Language::new(catalogue);
    let of_one = |webhook: &Webhook| {
        let secrets: Vec<_> = webhook.secrets.iter().filter_map(|named| secret_fault(&webhook.proof, named)).collect();
        secrets.into_iter().chain(mapping::examine(webhook, &language)).collect::<Vec<_>>()
    };
    settings.iter().flat_map(of_one).collect()
}

/// Warnings about settings that are weaker than they could be.
pub fn warnings(settings: &[Webhook]) -> impl Iterator<Item = String> {
    let weak = settings.iter().filter(|webhook| !matches!(webhook.proof, WebhookProof::Signature { .. }));
    weak.map(|webhook| {
        format!(
            "warning: webhooks of {:?} are not signed: anyone who sees the secret of one can send any other, and its \
             content can be altered on the way. Have the sender sign them, if it can.",
            webhook.source
        )
    })
}

/// What is wrong with a secret that can be read; one that cannot is reported elsewhere.
fn secret_fault(proof: &WebhookProof, named: &SecretRef) -> Option<Fault> {
    let secret = named.source.read().ok()?;
    let fault = match proof {
        WebhookProof::Signature { scheme, .. } => match key(scheme, &secret) {
            Ok(key) => key.is_private().then(|| "it is the sender's private key: use whpk_ instead".to_owned()),
            Err(fault) => Some(fault.to_string()),
        },
        WebhookProof::Bearer => {
            Key::read(secret.expose_secret(), KeyForm::Plain, signing::Hash::Sha256).err().map(|it| it.to_string())
        }
        WebhookProof::Basic => {
            let written = secret.expose_secret().split_once(':').is_some_and(|(user, _)| !user.is_empty());
            (!written || secret.expose_secret().len() < 16)
                .then(|| "it must be user:password, 16 characters or more in all".to_owned())
        }
        WebhookProof::Certificate => None,
    }?;
    Some(named.fault(&fault, "write the secret into the file as the sender has it, and nothing else"))
}

fn key(scheme: &Scheme, secret: &SecretString) -> Result<Key, signing::KeyFault> {
    Key::read(secret.expose_secret(), scheme.keys, scheme.hash)
}

impl Source {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.settings.source
    }

    /// How long its messages are recognised when they are sent again.
    pub fn remember(&self) -> std::time::Duration {
        self.settings.remember
    }

    /// How much of a message its proof covers.
    pub fn covered(&self) -> ProofScope {
        match self.settings.proof {
            WebhookProof::Signature { .. } => ProofScope::Body,
            WebhookProof::Bearer | WebhookProof::Basic | WebhookProof::Certificate => ProofScope::Everything,
        }
    }

    /// The origin, if a subscription handshake may consent to it.
    pub fn consents<'a>(&self, origin: &'a str) -> Option<&'a str> {
        let origins = &self.settings.origins;
        (origins.contains("*") || origins.iter().any(|known| known.eq_ignore_ascii_case(origin))).then_some(origin)
    }

    /// Whether its vendor tests the address with a call without proof.
    pub fn has_ping(&self) -> bool {
        matches!(self.settings.proof, WebhookProof::Signature { ping: Some(_), .. })
    }

    /// Whether a body is only its vendor's test of the address. It asks for nothing and needs no proof.
    pub fn is_ping(&self, body: &[u8]) -> bool {
        let WebhookProof::Signature { ping: Some(ping), .. } = &self.settings.proof else { return false };
        body.trim_ascii() == ping.as_bytes() || body.trim_ascii() == format!("{ping:?}").as_bytes()
    }

    /// The challenge (`WWW-Authenticate`) for a message that lacks proof.
    pub fn challenge(&self) -> &'static str {
        match self.settings.proof {
            WebhookProof::Signature { .. } => "Signature realm=\"postern\"",
            WebhookProof::Bearer => "Bearer realm=\"postern\"",
            WebhookProof::Basic => "Basic realm=\"postern\"",
            WebhookProof::Certificate => "Certificate realm=\"postern\"",
        }
    }

    /// The headers that its proof consists of. This costs next to nothing, and so does a call without them.
    pub fn present<'a>(&self, header: impl Fn(&str) -> Header<'a>) -> Result<UnverifiedMessage<'a>, Rejection> {
        let named = |name: &str| header(name).map_err(|what| Rejection::Header { header: name.to_owned(), what });
        let scheme = match &self.settings.proof {
            WebhookProof::Signature { scheme, .. } => scheme,
            WebhookProof::Bearer | WebhookProof::Basic => {
                return Ok(UnverifiedMessage { proof: named("authorization")?, id: "", timestamp: "" });
            }
            WebhookProof::Certificate => return Ok(UnverifiedMessage { proof: "", id: "", timestamp: "" }),
        };
        let if_any = |name: &Option<String>| name.as_deref().map_or(Ok(""), named);
        let (id, timestamp) = (if_any(&scheme.id_header)?, if_any(&scheme.timestamp_header)?);
        if id.len() > ID_MAX {
            let header = scheme.id_header.clone().unwrap_or_default();
            return Err(Rejection::Header { header, what: "is longer than 256 characters" });
        }
        Ok(UnverifiedMessage { proof: named(&scheme.signature_header)?, id, timestamp })
    }

    /// Whether a connection with this client certificate, or with none, may carry its messages.
    pub fn admits(&self, certificate: Option<&Digest>) -> Result<(), Rejection> {
        let asked_for = &self.settings.certificates;
        // Where a certificate is the only proof, none that is asked for admits nobody.
        let optional = asked_for.is_empty() && !matches!(self.settings.proof, WebhookProof::Certificate);
        let shown = optional || certificate.is_some_and(|it| asked_for.contains(it));
        if shown { Ok(()) } else { Err(Rejection::NoCertificate) }
    }

    /// Verifies the proof of a body. Reads the secrets, which is a short blocking read.
    pub fn prove(
        &self,
        presented: UnverifiedMessage<'_>,
        body: &[u8],
        now: Timestamp,
    ) -> Result<VerifiedMessage, Rejection> {
        let secrets: Vec<_> = self.settings.secrets.iter().filter_map(|named| self.secret(named)).collect();
        match &self.settings.proof {
            WebhookProof::Certificate => Ok(VerifiedMessage { id: None }),
            _ if secrets.is_empty() => Err(Rejection::KeysUnavailable),
            WebhookProof::Signature { scheme, tolerance, .. } => {
                let UnverifiedMessage { proof, id, timestamp } = presented;
                let keys: Vec<_> = secrets.iter().filter_map(|secret| key(scheme, secret).ok()).collect();
                let message = Message { id, timestamp, body };
                if !scheme.verify(&keys, message, proof) {
                    return Err(Rejection::Unproven);
                }
                // Only now, so that only holders of a key learn anything about the clock.
                let sent = scheme.timestamp_header.is_some().then(|| signing::moment(timestamp));
                if sent.is_some_and(|sent| sent.is_none_or(|sent| !signing::is_fresh(sent, now, *tolerance))) {
                    return Err(Rejection::Stale(timestamp.to_owned()));
                }
                let named = scheme.signed.contains(&Piece::Id);
                let id = if named { id.to_owned() } else { Digest::of(&scheme.content(message)).to_string() };
                Ok(VerifiedMessage { id: Some(id) })
            }
            WebhookProof::Bearer => Self::fits(&secrets, "Bearer", presented.proof, str::to_owned),
            WebhookProof::Basic => Self::fits(&secrets, "Basic", presented.proof, |secret| STANDARD.encode(secret)),
        }
    }

    fn fits(
        secrets: &[SecretString],
        scheme: &str,
        presented: &str,
        written: impl Fn(&str) -> String,
    ) -> Result<VerifiedMessage, Rejection> {
        let (given, credentials) = presented.trim().split_once(' ').ok_or(Rejection::Unproven)?;
        let same = |secret: &SecretString| {
            signing::constant_time_eq(written(secret.expose_secret()).as_bytes(), credentials.trim_start().as_bytes())
        };
        let fits = given.eq_ignore_ascii_case(scheme) && secrets.iter().any(same);
        if fits { Ok(VerifiedMessage { id: None }) } else { Err(Rejection::Unproven) }
    }

    /// A secret; none if it cannot be read: the other one may do.
    fn secret(&self, named: &SecretRef) -> Option<SecretString> {
        named
            .source
            .read()
            .inspect_err(|error| tracing::error!(webhook.source = self.name(), %error, "a secret cannot be read"))
            .ok()
    }

    /// The id of a proven message: by the rule in the settings, by its proof, or as given by whoever holds the proof.
    pub fn message_id(
        &self,
        proven: VerifiedMessage,
        event: &Value,
        called: Option<String>,
    ) -> Result<Option<String>, Unmapped> {
        let id = self.rules.message_id(event)?.or(proven.id).or(called);
        // Some of these come from a body, and all go to the audit trail, so long ones are shortened.
        Ok(id.map(|id| if id.len() > ID_MAX { Digest::of(id.as_bytes()).to_string() } else { id }))
    }

    /// The caller of a proven message.
    pub fn caller(&self, message_id: Option<String>, certificate: Option<&Digest>) -> Caller {
        let Webhook { source, caller, roles, proof, .. } = &self.settings;
        let proof = match proof {
            WebhookProof::Signature { name, .. } => name,
            WebhookProof::Bearer => "bearer",
            WebhookProof::Basic => "basic",
            WebhookProof::Certificate => "certificate",
        };
        Caller {
            name: caller.clone(),
            issuer: issuer(source),
            subject: proof.to_owned(),
            token_id: message_id,
            roles: roles.clone(),
            certificate: certificate.cloned(),
        }
    }

    /// The changes that an event asks for, each as the body of a change; none if no rule wants it.
    pub fn draft(&self, event: &Value) -> Result<Vec<Draft>, Unmapped> {
        self.rules.draft(event)
    }
}
