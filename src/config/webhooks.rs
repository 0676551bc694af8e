//! `[[webhooks]]` and `[[webhooks.rules]]`: who sends events, how messages are authenticated, and what changes are made
//! of an event.
//!
//! Guarantees: sources and rules have unique names; every message is either signed by a scheme that defines the signed
//! bytes, or authenticated by a secret (explicitly configured as the weaker proof) or by a client certificate; a
//! header for an id or timestamp that no signature covers is refused.
//!
//! It deliberately reads no secret and compiles no expression: it keeps where they were written ([`Expression`]), so that
//! `webhooks` can report a fault at that place.

use std::{collections::BTreeSet, time::Duration};

use super::{
    CallbackRights, Fault, SecretRef, callbacks,
    diagnostics::Diagnostics,
    lists::{References, certificates, unique},
    suggestion::nearest,
    table::Table,
    value::{self, Refusal, duration, spell},
};
use crate::{
    domain::{Digest, Role},
    signing::{self, Encoding, Hash, KeyForm, Piece, Scheme, presets},
};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_hours(1);
/// A sender retries for days; a recorded message can be replayed much later.
const YEARS_10: Duration = Duration::from_hours(24 * 3_653);

/// A source of webhooks.
#[derive(Clone, Debug)]
pub struct Webhook {
    /// Its name, the last part of its URL.
    pub source: String,
    /// The caller as which it acts, in policies, audit and API.
    pub caller: String,
    /// The roles of that caller.
    pub roles: Vec<Role>,
    /// How its messages are authenticated.
    pub proof: Proof,
    /// Client certificates, one of which must be presented; if empty, no certificate is required.
    pub certificates: BTreeSet<Digest>,
    /// The secret, and the previous one while both are in use.
    pub secrets: Vec<SecretRef>,
    /// How long messages are remembered.
    pub remember: Duration,
    /// The id of a message, if the scheme does not define it.
    pub message_id: Option<Expression>,
    /// Origins from which the subscription handshake is accepted; `*` accepts all.
    pub origins: BTreeSet<String>,
    /// Where callbacks for its operations may go.
    pub callbacks: CallbackRights,
    /// The rules that make changes of events.
    pub rules: Vec<Rule>,
}

/// What proves that a message comes from its source.
#[derive(Clone, Debug)]
pub enum Proof {
    /// A signature over the message.
    Signature {
        /// What is signed and how.
        scheme: Scheme,
        /// The scheme's name in the settings.
        name: &'static str,
        /// How far its timestamp may be off.
        tolerance: Duration,
        /// The body of a test request that does nothing and needs no signature.
        ping: Option<&'static str>,
    },
    /// A secret in `Authorization: Bearer`. Whoever sees one message can forge others.
    Bearer,
    /// `user:password` in `Authorization: Basic`. As weak as [`Proof::Bearer`].
    Basic,
    /// Only the client certificate of the connection.
    Certificate,
}

/// `[[webhooks.rules]]`: one change for each matching event.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Its name, for logs and problems.
    pub name: String,
    /// Whether it applies to an event.
    pub when: Expression,
    /// A list, if one change is made for each of its entries.
    pub each: Option<Expression>,
    /// The configuration to change.
    pub configuration: Expression,
    /// Targets to add.
    pub add: Vec<Expression>,
    /// Targets to remove.
    pub remove: Vec<Expression>,
    /// The ticket.
    pub ticket: Option<Expression>,
    /// The person for whom the change is requested.
    pub requested_for: Option<Expression>,
    /// The comment.
    pub comment: Option<Expression>,
    /// When the change is to be undone.
    pub until: Option<Expression>,
}

/// An expression and where it was written.
#[derive(Clone, Debug)]
pub struct Expression {
    /// The expression.
    pub text: String,
    at: Fault,
}

impl Expression {
    pub(super) fn new(text: String, at: Fault) -> Self {
        Self { text, at }
    }

    /// A fault of the expression.
    pub fn fault(&self, what: &str, hint: Option<String>) -> Fault {
        Fault { what: format!("{}: {what}", self.at.what), hint, ..self.at.clone() }
    }
}

/// The tables of one source: its own and those of its rules.
#[derive(Debug)]
pub(super) struct Entry<'p> {
    pub(super) table: Table<'p>,
    pub(super) rules: Vec<Table<'p>>,
}

/// Reads `[[webhooks]]`.
pub(super) fn webhooks(entries: Vec<Entry<'_>>, known: &References<'_>, diagnostics: &mut Diagnostics) -> Vec<Webhook> {
    let mut sources = BTreeSet::new();
    let mut webhooks = Vec::new();
    for Entry { mut table, rules } in entries {
        let source = table.required("source", value::name);
        unique(&mut table, "source", source.as_ref(), &mut sources);
        let rules = read_rules(rules, diagnostics);
        let callbacks = callbacks::rights(&mut table, known.destinations);
        let webhook = webhook(&mut table, source, rules, known);
        webhooks.extend(webhook.map(|webhook| Webhook { callbacks, ..webhook }));
        diagnostics.close(table);
    }
    webhooks
}

fn webhook(table: &mut Table<'_>, source: Option<String>, rules: Vec<Rule>, known: &References<'_>) -> Option<Webhook> {
    let caller = table.required("caller", value::name);
    let granted = table.list("roles", Some(&[]), value::filled);
    let proof = proof(table);
    let certificates = certificates(table, known.clients);
    let secrets = ["secret_file", "previous_secret_file"].map(|key| table.secret_file(key));
    needs(table, proof.as_ref());
    let remember = table.setting("remember", "90d", duration(HOUR, YEARS_10));
    let message_id = table.expression("message_id");
    let origins = table.list("origins", Some(&[]), value::filled);
    if let Some(Proof::Signature { scheme, tolerance, .. }) = &proof
        && scheme.timestamp_header.is_some()
        && remember.is_some_and(|remember| remember < tolerance.saturating_mul(2))
    {
        // A message could come again while its time of sending still holds.
        table.refuse("remember", "it is less than twice the tolerance", Some("raise it, or lower tolerance"));
    } else if let (Some(remember), Some((approval_ttl, deadline))) = (remember, known.open_max)
        && remember < approval_ttl.saturating_add(deadline)
    {
        // A message that is repeated while its operation waits for approval or for Graph must not become a second one.
        let (approval, deadline) = (spell(approval_ttl), spell(deadline));
        let what = format!(
            "{} is less than operations.approval_ttl ({approval}) and operations.deadline ({deadline}) together",
            spell(remember)
        );
        table.refuse("remember", &what, Some("raise it, or lower operations.approval_ttl"));
    }
    Some(Webhook {
        source: source?,
        caller: caller?,
        roles: granted.into_iter().map(Role::new).collect(),
        proof: proof?,
        certificates,
        secrets: secrets.into_iter().flatten().collect(),
        remember: remember?,
        message_id,
        origins,
        callbacks: CallbackRights::default(),
        rules,
    })
}

/// Reports a missing secret or certificate, and secrets that would not be used.
fn needs(table: &mut Table<'_>, proof: Option<&Proof>) {
    let (needed, useless): (_, &[_]) = match proof {
        Some(Proof::Certificate) => ("certificate_sha256", &["secret_file", "previous_secret_file"]),
        Some(Proof::Signature { .. } | Proof::Bearer | Proof::Basic) | None => ("secret_file", &[]),
    };
    if !table.given(needed) {
        table.missing(needed);
    }
    for key in useless.iter().filter(|key| table.given(key)).copied().collect::<Vec<_>>() {
        table.refuse(key, "the scheme \"certificate\" uses no secret", Some("leave it out"));
    }
}

/// The keys that describe a custom HMAC scheme.
const OWN: [&str; 7] =
    ["signature_header", "signature_prefix", "encoding", "hash", "signed", "id_header", "timestamp_header"];

fn proof(table: &mut Table<'_>) -> Option<Proof> {
    let names = || {
        ["hmac", "bearer", "basic", "certificate"].into_iter().chain(presets::PRESETS.iter().map(|preset| preset.name))
    };
    let known = |text: &str| {
        names().find(|name| *name == text).ok_or_else(|| {
            let all = || format!("one of {}", names().collect::<Vec<_>>().join(", "));
            let hint = nearest(text, names()).map_or_else(all, |meant| format!("did you mean {meant:?}?"));
            Refusal::new(format!("{text:?} is not a scheme that this version supports")).hint(hint)
        })
    };
    let name = table.required("scheme", known);
    let own = own_scheme(table);
    let tolerance = table.setting("tolerance", "5m", duration(SECOND, HOUR));
    let name = name?;
    if name == "hmac" {
        let scheme = own.filter(|scheme| is_sound(table, scheme))?;
        return Some(Proof::Signature { scheme, name, tolerance: tolerance?, ping: None });
    }
    for key in OWN {
        if table.given(key) {
            table.refuse(
                key,
                &format!("the scheme {name:?} defines this itself"),
                Some("leave it out, or use \"hmac\""),
            );
        }
    }
    match name {
        "bearer" => Some(Proof::Bearer),
        "basic" => Some(Proof::Basic),
        "certificate" => Some(Proof::Certificate),
        _ => {
            let preset = presets::Preset::named(name)?;
            Some(Proof::Signature { scheme: preset.scheme(), name, tolerance: tolerance?, ping: preset.ping })
        }
    }
}

/// The scheme that is described key by key; it is only usable with `signature_header`.
fn own_scheme(table: &mut Table<'_>) -> Option<Scheme> {
    let signature_header = table.optional("signature_header", header);
    let prefix = table.setting("signature_prefix", "", |text| Ok::<_, Refusal>(text.to_owned()));
    let encoding = table.setting("encoding", "hex", |text| match text {
        "hex" => Ok(Encoding::Hex),
        "base64" => Ok(Encoding::Base64),
        _ => Err(Refusal::new(format!("{text:?} is not an encoding")).hint("write hex or base64")),
    });
    let hash = table.setting("hash", "sha256", |text| match text {
        "sha256" => Ok(Hash::Sha256),
        "sha384" => Ok(Hash::Sha384),
        "sha512" => Ok(Hash::Sha512),
        _ => Err(Refusal::new(format!("{text:?} is not a hash function")).hint("write sha256, sha384 or sha512")),
    });
    let signed = table.setting("signed", "{body}", |text| {
        signing::pieces(text).map_err(|why| Refusal::new(why).hint("write it like {timestamp}.{body}"))
    });
    let id_header = table.optional("id_header", header);
    let timestamp_header = table.optional("timestamp_header", header);
    Some(Scheme {
        signature_header: signature_header.unwrap_or_default(),
        prefix: prefix?,
        encoding: encoding?,
        hash: hash?,
        signed: signed?,
        id_header,
        timestamp_header,
        keys: KeyForm::Plain,
    })
}

/// Checks that the id and the timestamp are read from headers exactly if they are signed.
fn is_sound(table: &mut Table<'_>, scheme: &Scheme) -> bool {
    let missing = scheme.signature_header.is_empty();
    if missing && !table.given("signature_header") {
        table.missing("signature_header");
    }
    let pairs = [
        ("id_header", scheme.id_header.is_some(), Piece::Id, "{id}"),
        ("timestamp_header", scheme.timestamp_header.is_some(), Piece::Timestamp, "{timestamp}"),
    ];
    let mut sound = !missing;
    for (key, given, piece, shown) in pairs {
        let signed = scheme.signed.contains(&piece);
        if given && !signed {
            // Whoever sends a message again could put anything there.
            let hint = "leave it out: a header that is not signed proves nothing";
            table.refuse(key, &format!("signed does not contain {shown}"), Some(hint));
        } else if signed && !given && !table.given(key) {
            table.refuse("signed", &format!("{shown} requires {key}"), Some("set that key to the name of the header"));
        }
        sound &= given == signed;
    }
    sound
}

/// A header name, in lower case.
fn header(text: &str) -> Result<String, Refusal> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    if text.is_empty() || !text.bytes().all(fits) {
        return Err(Refusal::new(format!("{text:?} is not the name of a header")).hint("write it like X-Signature"));
    }
    Ok(text.to_ascii_lowercase())
}

fn read_rules(tables: Vec<Table<'_>>, diagnostics: &mut Diagnostics) -> Vec<Rule> {
    let mut names = BTreeSet::new();
    let mut rules = Vec::new();
    for mut table in tables {
        let name = table.required("name", value::name);
        unique(&mut table, "name", name.as_ref(), &mut names);
        rules.extend(rule(&mut table, name));
        diagnostics.close(table);
    }
    rules
}

fn rule(table: &mut Table<'_>, name: Option<String>) -> Option<Rule> {
    let [when, configuration] = ["when", "configuration"].map(|key| {
        let expression = table.expression(key);
        if expression.is_none() && !table.given(key) {
            table.missing(key);
        }
        expression
    });
    let [add, remove] = ["add", "remove"].map(|key| table.expressions(key));
    if add.is_empty() && remove.is_empty() && !table.given("add") && !table.given("remove") {
        let who = name.as_deref().unwrap_or("without a name");
        table.object(format!("rule {who:?} changes nothing"), "give it add or remove, or both");
    }
    let [each, ticket, requested_for, comment, until] =
        ["each", "ticket", "requested_for", "comment", "until"].map(|key| table.expression(key));
    let (name, when, configuration) = (name?, when?, configuration?);
    Some(Rule { name, when, each, configuration, add, remove, ticket, requested_for, comment, until })
}
