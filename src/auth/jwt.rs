//! The checks of one token (RFC 7519, RFC 8725, RFC 9068; Entra's v1 and v2 access tokens).
//!
//! Guarantees: nothing in a token is believed before its signature was verified, with a key of the very issuer it names and
//! an algorithm that the configuration allows for that issuer and that fits the key. An [`UnverifiedToken`] was only read;
//! there is one way to make a [`VerifiedToken`] from it. Where to find a key is never taken from the token: `jku`, `x5u`,
//! `jwk` and `x5c` are not even read. Details of a refusal never repeat what the token says.
//!
//! The library verifies signatures. Claims are checked here, since the library reads the system clock and by default
//! requires nothing but `exp`.
//!
//! It deliberately does not know callers: `auth`, which calls this, decides whom a verified token identifies.

use std::{collections::BTreeMap, fmt, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use jsonwebtoken::{Algorithm as Signature, DecodingKey, crypto};
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor},
};
use serde_json::Value;

use super::{
    Rejection,
    keys::{Key, Material},
};
use crate::{
    config::{Algorithm, Issuer, TokenType},
    domain::Role,
};

/// The largest token that is read, in bytes. Larger ones do not fit into the headers that proxies pass on either.
const TOKEN_MAX: usize = 16 * 1024;
/// The last second that a claim may name: the end of the year 9999, the latest that RFC 3339 can express.
const MOMENT_MAX: f64 = 253_402_300_799.0;

/// Claims of ID tokens (`at_hash`, `c_hash`) and of logout tokens and other events (`events`). `nonce` is not among
/// them: some issuers put it into access tokens.
const FOREIGN: [&str; 3] = ["at_hash", "c_hash", "events"];

/// What an RFC 9068 token has besides what every token must have.
const RFC_9068: [&str; 3] = ["iat", "jti", "client_id"];

/// The name in `alg`, and what verifies it. What is not in this table cannot be configured, least of all `none`.
const ALGORITHMS: [(Algorithm, &str, Signature); 9] = [
    (Algorithm::Rs256, "RS256", Signature::RS256),
    (Algorithm::Rs384, "RS384", Signature::RS384),
    (Algorithm::Rs512, "RS512", Signature::RS512),
    (Algorithm::Ps256, "PS256", Signature::PS256),
    (Algorithm::Ps384, "PS384", Signature::PS384),
    (Algorithm::Ps512, "PS512", Signature::PS512),
    (Algorithm::Es256, "ES256", Signature::ES256),
    (Algorithm::Es384, "ES384", Signature::ES384),
    (Algorithm::EdDsa, "EdDSA", Signature::EdDSA),
];

/// A token that was read but not verified: whatever it says may be a lie.
#[derive(Debug)]
pub(super) struct UnverifiedToken<'a> {
    header: Object,
    payload: Object,
    parts: Parts<'a>,
}

/// The three parts of a token in compact form, not decoded.
#[derive(Clone, Copy, Debug)]
struct Parts<'a> {
    header: &'a str,
    payload: &'a str,
    /// Header and payload as they were signed.
    signed: &'a str,
    signature: &'a str,
}

/// What a verified token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct VerifiedToken {
    pub(super) client_id: Option<String>,
    pub(super) subject: String,
    pub(super) token_id: Option<String>,
    /// Roles and scopes, sorted, without duplicates.
    pub(super) roles: Vec<Role>,
    /// When it expires, since 1970.
    pub(super) expires: Duration,
}

impl VerifiedToken {
    pub(super) fn has_expired(&self, leeway: Duration, now: Timestamp) -> bool {
        Duration::try_from(now.as_duration()).unwrap_or_default() >= self.expires.saturating_add(leeway)
    }
}

/// A JSON object in which no name occurs twice: of two values, one reader would take the first, another the last.
#[derive(Debug)]
struct Object(BTreeMap<String, Value>);

impl<'a> Parts<'a> {
    fn of(token: &'a str) -> Result<Self, Rejection> {
        if token.len() > TOKEN_MAX {
            return Err(malformed("the token is larger than 16 KiB"));
        }
        // RFC 8725bis: anything else must be rejected. Decoders differ in what they skip, for example padding.
        if !token.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')) {
            return Err(malformed("a token consists of A-Z, a-z, 0-9, '-', '_' and '.' only"));
        }
        let (signed, signature) = token.rsplit_once('.').ok_or_else(|| malformed(NOT_COMPACT))?;
        let (header, payload) = signed.split_once('.').ok_or_else(|| malformed(NOT_COMPACT))?;
        if payload.contains('.') || [header, payload, signature].contains(&"") {
            return Err(malformed(NOT_COMPACT));
        }
        Ok(Self { header, payload, signed, signature })
    }

    /// Whether the signature was made over exactly this text, with this key and algorithm.
    fn is_signed_by(&self, key: &Key, algorithm: Algorithm) -> bool {
        key.verifier(algorithm).is_some_and(|(verifier, signature)| {
            crypto::verify(self.signature, self.signed.as_bytes(), &verifier, signature).unwrap_or(false)
        })
    }
}

impl<'a> UnverifiedToken<'a> {
    /// Reads a token in compact form.
    pub(super) fn read(token: &'a str) -> Result<Self, Rejection> {
        let parts = Parts::of(token)?;
        let header = Object::read("header", parts.header)?;
        Ok(Self { header, payload: Object::read("payload", parts.payload)?, parts })
    }

    /// The issuer that the token claims to be from.
    pub(super) fn issuer(&self) -> Result<&str, Rejection> {
        self.payload.required("iss")
    }

    /// The id of the key that the token claims to be signed with.
    pub(super) fn key_id(&self) -> Result<&str, Rejection> {
        self.header.required("kid")
    }

    /// Verifies the token with a key from the set of `issuer`.
    pub(super) fn verify(self, issuer: &Issuer, key: &Key, now: Timestamp) -> Result<VerifiedToken, Rejection> {
        let algorithm = self.algorithm(issuer)?;
        if !self.parts.is_signed_by(key, algorithm) {
            return Err(invalid("the token's signature does not match its content, algorithm and key"));
        }
        self.check_purpose()?;
        self.check_start(issuer.leeway, now)?;
        self.check_audience(issuer)?;
        self.check_profile(issuer)?;
        let proven = VerifiedToken {
            client_id: self.client_id()?,
            subject: self.payload.required("sub")?.to_owned(),
            token_id: self.payload.text("jti")?.or(self.payload.text("uti")?).map(str::to_owned),
            roles: self.roles()?,
            expires: self.expires()?,
        };
        if proven.has_expired(issuer.leeway, now) {
            return Err(invalid("the token has expired: get a new one"));
        }
        Ok(proven)
    }

    /// The header's algorithm, if it is allowed for the issuer and the header requires nothing that is not supported.
    pub(super) fn algorithm(&self, issuer: &Issuer) -> Result<Algorithm, Rejection> {
        self.header.algorithm(issuer)
    }

    /// Most issuers call every token `JWT`, so other kinds are recognised by claims that no access token has.
    fn check_purpose(&self) -> Result<(), Rejection> {
        match FOREIGN.iter().find(|name| self.payload.0.contains_key(**name)) {
            Some(name) => Err(invalid(format!("the token is not an access token, since it has {name}"))),
            None => Ok(()),
        }
    }

    /// What RFC 9068 requires, for issuers that follow it.
    fn check_profile(&self, issuer: &Issuer) -> Result<(), Rejection> {
        let missing = RFC_9068.iter().find(|name| issuer.keeps_rfc_9068() && !self.payload.0.contains_key(**name));
        missing.map_or(Ok(()), |name| Err(invalid(format!("the token has no {name}, which RFC 9068 requires"))))
    }

    fn expires(&self) -> Result<Duration, Rejection> {
        let expires = self.payload.moment("exp")?;
        let expires = expires.ok_or_else(|| invalid("the token has no exp: it would never expire"))?;
        Ok(Duration::try_from_secs_f64(expires).unwrap_or_default())
    }

    fn check_start(&self, leeway: Duration, now: Timestamp) -> Result<(), Rejection> {
        let (now, leeway) = (now.as_duration().as_secs_f64(), leeway.as_secs_f64());
        if self.payload.moment("nbf")?.is_some_and(|start| start > now + leeway) {
            return Err(invalid("the token is not valid yet (nbf): compare the clocks"));
        }
        if self.payload.moment("iat")?.is_some_and(|issued| issued > now + leeway) {
            return Err(invalid("the token was issued in the future (iat): compare the clocks"));
        }
        Ok(())
    }

    fn check_audience(&self, issuer: &Issuer) -> Result<(), Rejection> {
        let audiences = match self.payload.0.get("aud") {
            Some(Value::Array(_)) => self.payload.texts("aud")?,
            _ => vec![self.payload.required("aud")?],
        };
        if audiences.iter().any(|audience| issuer.audiences.contains(*audience)) {
            Ok(())
        } else {
            Err(invalid("the token is for another audience than this gateway: ask the issuer for the right scope"))
        }
    }

    /// The application to which the token was issued: `azp` in Entra's v2 tokens, `appid` in v1, `client_id` by RFC 9068. Where
    /// there is none of these, `cid`, by which Okta names it; elsewhere that can be something else.
    fn client_id(&self) -> Result<Option<String>, Rejection> {
        let mut found = None;
        for name in ["azp", "appid", "client_id"] {
            let Some(id) = self.payload.text(name)? else { continue };
            if found.is_some_and(|other| other != id) {
                return Err(invalid("azp, appid and client_id of the token name different applications"));
            }
            found = Some(id);
        }
        let found = if found.is_none() { self.payload.text("cid")? } else { found };
        Ok(found.map(str::to_owned))
    }

    fn roles(&self) -> Result<Vec<Role>, Rejection> {
        let mut names = self.payload.texts("roles")?;
        for scopes in ["scp", "scope"] {
            match self.payload.0.get(scopes) {
                // As Okta writes it.
                Some(Value::Array(_)) => names.extend(self.payload.texts(scopes)?),
                _ => names.extend(self.payload.string(scopes)?.unwrap_or_default().split_ascii_whitespace()),
            }
        }
        names.sort_unstable();
        names.dedup();
        Ok(names.into_iter().map(Role::new).collect())
    }
}

impl Key {
    /// What verifies signatures of this algorithm with this key; none if the key is for other algorithms.
    fn verifier(&self, algorithm: Algorithm) -> Option<(DecodingKey, Signature)> {
        if self.algorithm.as_ref().is_some_and(|stated| stated != spelling(algorithm)) {
            return None;
        }
        let verifier = match (algorithm, &self.material) {
            (
                Algorithm::Rs256
                | Algorithm::Rs384
                | Algorithm::Rs512
                | Algorithm::Ps256
                | Algorithm::Ps384
                | Algorithm::Ps512,
                Material::Rsa { n, e },
            ) => DecodingKey::from_rsa_raw_components(n, e),
            (Algorithm::Es256, Material::P256(point)) | (Algorithm::Es384, Material::P384(point)) => {
                DecodingKey::from_ec_der(point)
            }
            (Algorithm::EdDsa, Material::Ed25519(point)) => DecodingKey::from_ed_der(point),
            _ => return None,
        };
        let signature = ALGORITHMS.iter().find(|row| row.0 == algorithm)?.2;
        Some((verifier, signature))
    }
}

fn spelling(algorithm: Algorithm) -> &'static str {
    ALGORITHMS.iter().find(|row| row.0 == algorithm).map_or("", |row| row.1)
}

impl Object {
    fn read(part: &str, encoded: &str) -> Result<Self, Rejection> {
        let json = URL_SAFE_NO_PAD.decode(encoded).ok();
        json.and_then(|json| serde_json::from_slice(&json).ok()).ok_or_else(|| {
            malformed(format!("the token's {part} is not a JSON object in base64url that has each name once"))
        })
    }

    /// The algorithm of a header, if it is allowed for the issuer and the header requires nothing that is not supported.
    fn algorithm(&self, issuer: &Issuer) -> Result<Algorithm, Rejection> {
        let name = self.required("alg")?;
        let known = ALGORITHMS.iter().map(|row| row.0).find(|algorithm| spelling(*algorithm) == name);
        let Some(algorithm) = known.filter(|algorithm| issuer.algorithms.contains(algorithm)) else {
            let allowed: Vec<_> = issuer.algorithms.iter().map(|algorithm| spelling(*algorithm)).collect();
            return Err(invalid(format!("the token's algorithm is not allowed; allowed: {}", allowed.join(", "))));
        };
        let kind = self.text("typ")?.unwrap_or("JWT");
        let is_one_of = |spellings: &[&str]| spellings.iter().any(|ours| ours.eq_ignore_ascii_case(kind));
        let plain = issuer.token_types.contains(&TokenType::Jwt) && is_one_of(&["JWT"]);
        let access =
            issuer.token_types.contains(&TokenType::AccessToken) && is_one_of(&["at+jwt", "application/at+jwt"]);
        if !plain && !access {
            return Err(invalid("the token's type (typ) is not that of this issuer's access tokens"));
        }
        if self.0.contains_key("crit") {
            return Err(invalid("the token requires extensions (crit) that are not supported"));
        }
        Ok(algorithm)
    }

    /// A member that is a string, possibly empty.
    fn string(&self, name: &str) -> Result<Option<&str>, Rejection> {
        match self.0.get(name) {
            Some(value) if printable(value).is_none() => {
                Err(invalid(format!("{name} is not a string of printable characters")))
            }
            value => Ok(value.and_then(Value::as_str)),
        }
    }

    /// A member that is a string and not empty.
    fn text(&self, name: &str) -> Result<Option<&str>, Rejection> {
        match self.string(name)? {
            Some("") => Err(invalid(format!("{name} is empty"))),
            text => Ok(text),
        }
    }

    fn required(&self, name: &str) -> Result<&str, Rejection> {
        self.text(name)?.ok_or_else(|| invalid(format!("the token has no {name}")))
    }

    /// A member that is a list of strings; empty if it is absent.
    fn texts(&self, name: &str) -> Result<Vec<&str>, Rejection> {
        let Some(value) = self.0.get(name) else { return Ok(Vec::new()) };
        let texts = value.as_array().and_then(|list| list.iter().map(printable).collect::<Option<Vec<_>>>());
        texts.ok_or_else(|| invalid(format!("{name} is not a list of strings of printable characters")))
    }

    /// A member that is a number of seconds since 1970, possibly with a fraction.
    fn moment(&self, name: &str) -> Result<Option<f64>, Rejection> {
        let Some(value) = self.0.get(name) else { return Ok(None) };
        let seconds = value.as_f64().filter(|seconds| (0.0..=MOMENT_MAX).contains(seconds));
        seconds.map(Some).ok_or_else(|| invalid(format!("{name} is not a number of seconds since 1970")))
    }
}

fn printable(value: &Value) -> Option<&str> {
    value.as_str().filter(|text| !text.contains(char::is_control))
}

/// Whether a token, not necessarily a valid access token, was signed by the key of the set that its header names.
#[cfg(test)]
pub(super) fn is_signed(token: &str, issuer: &Issuer, set: &super::keys::KeySet) -> bool {
    let signed = |parts: Parts<'_>| {
        let header = Object::read("header", parts.header)?;
        let algorithm = header.algorithm(issuer)?;
        let key = set.find(header.required("kid")?).and_then(Result::ok);
        Ok::<_, Rejection>(key.is_some_and(|key| parts.is_signed_by(key, algorithm)))
    };
    Parts::of(token).and_then(signed).unwrap_or(false)
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Object;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut members = BTreeMap::new();
                while let Some((name, value)) = map.next_entry()? {
                    if members.insert(name, value).is_some() {
                        return Err(A::Error::custom("a name stands twice"));
                    }
                }
                Ok(Object(members))
            }
        }

        deserializer.deserialize_map(Members)
    }
}

const NOT_COMPACT: &str = "a token has three parts with two dots between them (a signed JWT in compact form)";

fn malformed(detail: impl Into<String>) -> Rejection {
    Rejection::Malformed(detail.into())
}

fn invalid(detail: impl Into<String>) -> Rejection {
    Rejection::Invalid(detail.into())
}
