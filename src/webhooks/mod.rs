//! Events from other systems: what proves where one comes from, which message it is, and what becomes of it.
//!
//! A [`Source`] is a caller like any other. [`Source::prove`] makes one of a message that its proof fits, and
//! [`Source::draft`] makes changes of the event, by the rules in the settings.
//!
//! Guarantees: nothing of a message is interpreted before it is proven; a message has an id that only its sender could
//! have given it, so that sent again, by whomever, it is the same message; secrets are read anew for each message, so that
//! a rotated one is taken up.
//!
//! It deliberately remembers no message: the id is the idempotency key under which the gateway stores what was asked, and
//! that outlives a crash. It decides no permission and resolves no name.

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
    config::{Catalogue, Fault, Named, Webhook, WebhookProof},
    domain::{Caller, Digest},
    signing::{self, Key, KeyForm, Message, Piece, Scheme},
};

/// An id longer than this is none in a header, and goes by its digest elsewhere.
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

/// What the headers of a message say, before anything of it is proven.
#[derive(Clone, Copy, Debug)]
pub struct Presented<'a> {
    /// The signature, or the credentials.
    proof: &'a str,
    id: &'a str,
    timestamp: &'a str,
}

/// A message that its source's proof fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proven {
    /// What names it, as far as its proof covers that; none if anybody with the proof could give it any name.
    id: Option<String>,
}

/// Why a message is not taken, by what its sender can do about it.
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
    /// Compare the secret, and sign the body as it is sent.
    #[error("the proof does not fit: compare the secret, and that the body is sent as it was signed")]
    Unproven,
    /// Use the connection that shows the certificate which the settings name.
    #[error("it did not come with a client certificate of this source")]
    NoCertificate,
    /// Set the clock.
    #[error("the message says that it was sent at {0}, which is too far from now")]
    Stale(String),
    /// Tell the gateway's operators.
    #[error("the secret of this source cannot be read at present")]
    KeysUnavailable,
}

/// What of a message a proof covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Covered {
    /// The body; headers could have been put there by anybody.
    Body,
    /// The whole: it comes from whoever holds the secret.
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

    /// Rules look things up in this catalogue from now on.
    pub fn take_up(&self, catalogue: &Catalogue) {
        self.language.take_up(catalogue);
    }

    /// The source of that name.
    pub fn source(&self, name: &str) -> Option<&Source> {
        self.sources.get(name)
    }
}

/// A source where issuers are named. No issuer's name has a colon: a policy that asks for one is never answered by a source.
pub fn issuer(source: &str) -> String {
    format!("webhook:{source}")
}

/// All that is wrong with secrets and expressions of the settings.
pub fn examine(settings: &[Webhook], catalogue: &Catalogue) -> Vec<Fault> {
    let language = Language::new(catalogue);
    let of_one = |webhook: &Webhook| {
        let secrets: Vec<_> = webhook.secrets.iter().filter_map(|named| secret_fault(&webhook.proof, named)).collect();
        secrets.into_iter().chain(mapping::examine(webhook, &language)).collect::<Vec<_>>()
    };
    settings.iter().flat_map(of_one).collect()
}

/// What is weaker than it could be, for those who set it up.
pub fn warnings(settings: &[Webhook]) -> impl Iterator<Item = String> {
    let weak = settings.iter().filter(|webhook| !matches!(webhook.proof, WebhookProof::Signature { .. }));
    weak.map(|webhook| {
        format!(
            "warning: webhooks of {:?} are not signed: whoever sees the secret of one can send any other, and its \
             content can be altered on the way. Let the sender sign, if it can.",
            webhook.source
        )
    })
}

/// What is wrong with a secret that can be read; one that cannot is told by whoever looks at secrets.
fn secret_fault(proof: &WebhookProof, named: &Named) -> Option<Fault> {
    let secret = named.source.read().ok()?;
    let fault = match proof {
        WebhookProof::Signature { scheme, .. } => match key(scheme, &secret) {
            Ok(key) => key.is_private().then(|| "it is the sender's private key: whpk_ is what verifies".to_owned()),
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

    /// For how long its messages are known again.
    pub fn remember(&self) -> std::time::Duration {
        self.settings.remember
    }

    /// What of a message its proof covers.
    pub fn covered(&self) -> Covered {
        match self.settings.proof {
            WebhookProof::Signature { .. } => Covered::Body,
            WebhookProof::Bearer | WebhookProof::Basic | WebhookProof::Certificate => Covered::Everything,
        }
    }

    /// The origin to which a subscription handshake consents, if it does.
    pub fn consents<'a>(&self, origin: &'a str) -> Option<&'a str> {
        let origins = &self.settings.origins;
        (origins.contains("*") || origins.iter().any(|known| known.eq_ignore_ascii_case(origin))).then_some(origin)
    }

    /// Whether its vendor tries out the address by a call without proof.
    pub fn has_ping(&self) -> bool {
        matches!(self.settings.proof, WebhookProof::Signature { ping: Some(_), .. })
    }

    /// Whether a body is only its vendor's way to try out the address. It asks for nothing and needs no proof.
    pub fn is_ping(&self, body: &[u8]) -> bool {
        let WebhookProof::Signature { ping: Some(ping), .. } = &self.settings.proof else { return false };
        body.trim_ascii() == ping.as_bytes() || body.trim_ascii() == format!("{ping:?}").as_bytes()
    }

    /// How a caller that lacks its proof is told what is wanted.
    pub fn challenge(&self) -> &'static str {
        match self.settings.proof {
            WebhookProof::Signature { .. } => "Signature realm=\"postern\"",
            WebhookProof::Bearer => "Bearer realm=\"postern\"",
            WebhookProof::Basic => "Basic realm=\"postern\"",
            WebhookProof::Certificate => "Certificate realm=\"postern\"",
        }
    }

    /// The headers that its proof is made of. This costs next to nothing, so that a call without them does, too.
    pub fn present<'a>(&self, header: impl Fn(&str) -> Header<'a>) -> Result<Presented<'a>, Rejection> {
        let named = |name: &str| header(name).map_err(|what| Rejection::Header { header: name.to_owned(), what });
        let scheme = match &self.settings.proof {
            WebhookProof::Signature { scheme, .. } => scheme,
            WebhookProof::Bearer | WebhookProof::Basic => {
                return Ok(Presented { proof: named("authorization")?, id: "", timestamp: "" });
            }
            WebhookProof::Certificate => return Ok(Presented { proof: "", id: "", timestamp: "" }),
        };
        let if_any = |name: &Option<String>| name.as_deref().map_or(Ok(""), named);
        let (id, timestamp) = (if_any(&scheme.id_header)?, if_any(&scheme.timestamp_header)?);
        if id.len() > ID_MAX {
            let header = scheme.id_header.clone().unwrap_or_default();
            return Err(Rejection::Header { header, what: "is longer than 256 characters" });
        }
        Ok(Presented { proof: named(&scheme.signature_header)?, id, timestamp })
    }

    /// Whether a connection that showed this certificate, or none, may bring its messages.
    pub fn admits(&self, certificate: Option<&Digest>) -> Result<(), Rejection> {
        let asked_for = &self.settings.certificates;
        // Where a certificate is the only proof, none that is asked for admits nobody.
        let optional = asked_for.is_empty() && !matches!(self.settings.proof, WebhookProof::Certificate);
        let shown = optional || certificate.is_some_and(|it| asked_for.contains(it));
        if shown { Ok(()) } else { Err(Rejection::NoCertificate) }
    }

    /// Whether the proof fits the body. Reads the secrets, which is a short blocking read.
    pub fn prove(&self, presented: Presented<'_>, body: &[u8], now: Timestamp) -> Result<Proven, Rejection> {
        let secrets: Vec<_> = self.settings.secrets.iter().filter_map(|named| self.secret(named)).collect();
        match &self.settings.proof {
            WebhookProof::Certificate => Ok(Proven { id: None }),
            _ if secrets.is_empty() => Err(Rejection::KeysUnavailable),
            WebhookProof::Signature { scheme, tolerance, .. } => {
                let Presented { proof, id, timestamp } = presented;
                let keys: Vec<_> = secrets.iter().filter_map(|secret| key(scheme, secret).ok()).collect();
                let message = Message { id, timestamp, body };
                if !scheme.verify(&keys, message, proof) {
                    return Err(Rejection::Unproven);
                }
                // Only now, so that nobody learns of the clock who holds no key.
                let sent = scheme.timestamp_header.is_some().then(|| signing::moment(timestamp));
                if sent.is_some_and(|sent| sent.is_none_or(|sent| !signing::is_fresh(sent, now, *tolerance))) {
                    return Err(Rejection::Stale(timestamp.to_owned()));
                }
                let named = scheme.signed.contains(&Piece::Id);
                let id = if named { id.to_owned() } else { Digest::of(&scheme.content(message)).to_string() };
                Ok(Proven { id: Some(id) })
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
    ) -> Result<Proven, Rejection> {
        let (given, credentials) = presented.trim().split_once(' ').ok_or(Rejection::Unproven)?;
        let same = |secret: &SecretString| {
            signing::same(written(secret.expose_secret()).as_bytes(), credentials.trim_start().as_bytes())
        };
        let fits = given.eq_ignore_ascii_case(scheme) && secrets.iter().any(same);
        if fits { Ok(Proven { id: None }) } else { Err(Rejection::Unproven) }
    }

    /// A secret, or none if it cannot be read: the other one may do.
    fn secret(&self, named: &Named) -> Option<SecretString> {
        named
            .source
            .read()
            .inspect_err(|error| tracing::error!(webhook.source = self.name(), %error, "a secret cannot be read"))
            .ok()
    }

    /// What names a proven message: by the rule that the settings have for it, by its proof, or by what whoever holds the
    /// proof calls it.
    pub fn message_id(
        &self,
        proven: Proven,
        event: &Value,
        called: Option<String>,
    ) -> Result<Option<String>, Unmapped> {
        let id = self.rules.message_id(event)?.or(proven.id).or(called);
        // Some of these come from a body, and all go to the audit trail.
        Ok(id.map(|id| if id.len() > ID_MAX { Digest::of(id.as_bytes()).to_string() } else { id }))
    }

    /// The caller that a proven message makes of its source.
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

    /// The changes that an event asks for, each as the body of a change. None if no rule wants it.
    pub fn draft(&self, event: &Value) -> Result<Vec<Draft>, Unmapped> {
        self.rules.draft(event)
    }
}
