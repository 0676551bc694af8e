//! How a client proves to be an app: with a secret, with an assertion signed by a registered certificate's key, or with
//! another issuer's token that the app trusts.
//!
//! Everything that the documents name is checked: of an assertion the algorithm, thumbprint, signature, audience, issuer,
//! subject, times, and that its id was not used before; of a federated token the issuer, audience, subject, times and
//! signature. The only other issuer is this sandbox's own, `issuer.rs`.
//!
//! It deliberately shares no code with what signs assertions. Codes 50013, 50027, 700021 and 700023 are not in the documents
//! at hand. Called by `login.rs`; certificates are registered by `control.rs`.

use std::collections::{BTreeMap, BTreeSet};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA256, RsaParameters, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Map, Value};
use uuid::Uuid;
use x509_cert::der::Decode as _;

use super::issuer::Issuer;
use super::login::{Denial, denial};
use super::seed::App;

/// An assertion with a longer life than this is refused.
const LIFE_MAX_SECONDS: i64 = 600;
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// Certificates registered while the sandbox runs, and assertions that were used.
#[derive(Debug, Default)]
pub(crate) struct Register {
    certificates: Vec<Registered>,
    /// Ids of assertions that were accepted.
    used: BTreeSet<String>,
}

#[derive(Debug)]
struct Registered {
    client_id: Uuid,
    /// By SHA-256 and by SHA-1, as in the two header fields.
    thumbprints: [String; 2],
    public_key: Vec<u8>,
}

impl Register {
    /// Registers a certificate in PEM, or says what is wrong with it.
    pub(crate) fn add(&mut self, client_id: Uuid, pem: &str) -> Result<(), String> {
        let lines = pem.lines().map(str::trim).filter(|line| !line.starts_with("-----"));
        let der = STANDARD.decode(lines.collect::<String>()).map_err(|error| format!("`certificate`: {error}"))?;
        let certificate = x509_cert::Certificate::from_der(&der).map_err(|error| format!("`certificate`: {error}"))?;
        let key = &certificate.tbs_certificate().subject_public_key_info().subject_public_key;
        let thumbprints = [&SHA256, &SHA1_FOR_LEGACY_USE_ONLY].map(|by| URL_SAFE_NO_PAD.encode(digest(by, &der)));
        self.certificates.push(Registered { client_id, thumbprints, public_key: key.raw_bytes().to_vec() });
        Ok(())
    }
}

/// What is needed to check a proof: the endpoint that was called, the time, the issuer, the register.
pub(crate) struct ProofContext<'a> {
    pub(crate) endpoint: String,
    pub(crate) now: i64,
    pub(crate) issuer: &'a Issuer,
    pub(crate) register: &'a mut Register,
}

/// Checks the proof; returns its kind as in the token's `appidacr`.
pub(crate) fn check(
    form: &BTreeMap<String, String>,
    app: &App,
    context: &mut ProofContext<'_>,
) -> Result<&'static str, Denial> {
    if let Some(secret) = form.get("client_secret") {
        return check_secret(secret, app).map(|()| "1");
    }
    let Some(assertion) = form.get("client_assertion") else {
        let description =
            "The request body must contain the following parameter: 'client_assertion' or 'client_secret'.";
        return Err(refused(7_000_218, description));
    };
    if form.get("client_assertion_type").is_none_or(|kind| kind != ASSERTION_TYPE) {
        let description = "The request body must contain the parameter 'client_assertion_type' with its one value.";
        return Err(denial(400, "invalid_request", 900_144, description));
    }
    let assertion = Assertion::parse(assertion)
        .ok_or_else(|| refused(50_027, "JWT token is invalid or malformed: the client assertion is no token."))?;
    let by_certificate = assertion.header.contains_key("x5t#S256") || assertion.header.contains_key("x5t");
    if by_certificate { by_own_key(&assertion, app, context) } else { by_issuer(&assertion, app, context) }
        .map(|()| "2")
}

fn refused(code: u32, description: impl Into<String>) -> Denial {
    denial(401, "invalid_client", code, description)
}

fn check_secret(secret: &str, app: &App) -> Result<(), Denial> {
    // Digests have one length, so the comparison reveals nothing about the secret's.
    let (sent, known) = (digest(&SHA256, secret.as_bytes()), digest(&SHA256, app.client_secret.as_bytes()));
    verify_slices_are_equal(sent.as_ref(), known.as_ref()).map_err(|_different| {
        let description = format!(
            "Invalid client secret provided. Ensure the secret being sent in the request is the client secret value, not \
             the client secret ID, for a secret added to app '{}'.",
            app.client_id
        );
        refused(7_000_215, description)
    })
}

/// A JSON web token, parsed but not verified.
struct Assertion {
    text: String,
    header: Map<String, Value>,
    claims: Map<String, Value>,
    signed: String,
    signature: Vec<u8>,
}

impl Assertion {
    fn parse(text: &str) -> Option<Self> {
        let (signed, signature) = text.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let fields = |part: &str| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok();
        Some(Self {
            header: fields(header)?,
            claims: fields(claims)?,
            signature: URL_SAFE_NO_PAD.decode(signature).ok()?,
            signed: signed.to_owned(),
            text: text.to_owned(),
        })
    }

    fn head(&self, name: &str) -> &str {
        self.header.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    fn claim(&self, name: &str) -> &str {
        self.claims.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    fn moment(&self, name: &str) -> i64 {
        self.claims.get(name).and_then(Value::as_i64).unwrap_or_default()
    }

    fn check_times(&self, now: i64, life_max: i64) -> Result<(), Denial> {
        let (begins, ends) = (self.moment("nbf"), self.moment("exp"));
        if (begins..ends).contains(&now) && ends.saturating_sub(now) <= life_max {
            return Ok(());
        }
        let description =
            format!("Client assertion is not within its valid time range: now {now}, {begins} to {ends}.");
        Err(refused(700_024, description))
    }
}

fn by_own_key(assertion: &Assertion, app: &App, context: &mut ProofContext<'_>) -> Result<(), Denial> {
    let [full, short] = ["x5t#S256", "x5t"].map(|name| assertion.head(name));
    let held =
        context.register.certificates.iter().find(|held| {
            held.client_id == app.client_id && (held.thumbprints[0] == full || held.thumbprints[1] == short)
        });
    let Some(held) = held else {
        let description = format!(
            "The certificate with identifier used to sign the client assertion is not registered on application. \
             [Reason - The key was not found., Thumbprint of key used by client: '{full}{short}']"
        );
        return Err(refused(700_027, description));
    };
    let algorithm: &RsaParameters = match assertion.head("alg") {
        "PS256" => &RSA_PSS_2048_8192_SHA256,
        "RS256" => &RSA_PKCS1_2048_8192_SHA256,
        other => {
            return Err(refused(700_027, format!("Client assertion has an algorithm that is not accepted: {other}")));
        }
    };
    let key = UnparsedPublicKey::new(algorithm, &held.public_key);
    key.verify(assertion.signed.as_bytes(), &assertion.signature).map_err(|_unspecified| {
        refused(700_027, "Client assertion failed signature validation. [Reason - The key used is another.]")
    })?;
    if assertion.claim("aud") != context.endpoint {
        return Err(refused(700_023, "Client assertion audience claim does not match Realm issuer."));
    }
    let own = app.client_id.to_string();
    if assertion.claim("iss") != own || assertion.claim("sub") != own {
        let description = "Client assertion application identifier doesn't match 'client_id' parameter.";
        return Err(refused(700_021, description));
    }
    assertion.check_times(context.now, LIFE_MAX_SECONDS)?;
    let id = assertion.claim("jti");
    if id.is_empty() || !context.register.used.insert(id.to_owned()) {
        return Err(refused(50_013, "Assertion is invalid: its 'jti' is missing or was used before."));
    }
    Ok(())
}

fn by_issuer(assertion: &Assertion, app: &App, context: &ProofContext<'_>) -> Result<(), Denial> {
    let trusted = &app.federated;
    let told = |code, what: &str, claim: &str| {
        let value = assertion.claim(claim);
        refused(code, format!("No matching federated identity record found for presented assertion {what} '{value}'."))
    };
    if trusted.is_empty() {
        return Err(told(70_021, "of application, issuer", "iss"));
    }
    if assertion.claim("iss") != context.issuer.name {
        return Err(told(700_211, "issuer", "iss"));
    }
    if !trusted.iter().any(|row| row.audience == assertion.claim("aud")) {
        return Err(told(700_212, "audience", "aud"));
    }
    if !trusted.iter().any(|row| row.subject == assertion.claim("sub")) {
        return Err(told(700_213, "subject", "sub"));
    }
    assertion.check_times(context.now, i64::MAX)?;
    if context.issuer.signed(&assertion.text) {
        Ok(())
    } else {
        Err(refused(50_013, "Assertion failed signature validation."))
    }
}
