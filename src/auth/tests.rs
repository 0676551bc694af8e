//! An authenticator against issuers that answer over HTTP, with time passed in. Tests of issuers' keys are in [`keys`].

mod keys;

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::TcpListener,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use aws_lc_rs::{
    encoding::{AsBigEndian as _, EcPublicKeyUncompressedBin},
    hmac,
    rand::SystemRandom,
    rsa::KeySize,
    signature::{self, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RsaEncoding, RsaKeyPair},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use futures_util::FutureExt as _;
use serde_json::{Value, json};

use super::*;
use crate::config::{Algorithm, KeySource, TokenType};

const NOW: i64 = 1_800_000_000;
const HOUR: Duration = Duration::from_hours(1);
const REFRESH_MIN: Duration = Duration::from_mins(5);
const MINUTE: Duration = Duration::from_mins(1);

fn rsa(which: usize) -> &'static RsaKeyPair {
    static KEYS: OnceLock<[RsaKeyPair; 2]> = OnceLock::new();
    &KEYS.get_or_init(|| [(); 2].map(|()| RsaKeyPair::generate(KeySize::Rsa2048).unwrap()))[which]
}

fn p256() -> &'static EcdsaKeyPair {
    static KEY: OnceLock<EcdsaKeyPair> = OnceLock::new();
    KEY.get_or_init(|| EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
}

/// The public part of an RSA key as Entra publishes it: without `alg`.
fn rsa_jwk(which: usize, kid: &str) -> Value {
    let public = rsa(which).public_key();
    let n = URL_SAFE_NO_PAD.encode(public.modulus().big_endian_without_leading_zero());
    let e = URL_SAFE_NO_PAD.encode(public.exponent().big_endian_without_leading_zero());
    json!({ "kty": "RSA", "use": "sig", "kid": kid, "n": n, "e": e, "x5c": ["AA=="] })
}

fn ec_jwk(kid: &str) -> Value {
    let point: EcPublicKeyUncompressedBin<'_> = p256().public_key().as_be_bytes().unwrap();
    let (x, y) = (&point.as_ref()[1..33], &point.as_ref()[33..]);
    json!({ "kty": "EC", "crv": "P-256", "kid": kid, "alg": "ES256", "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y) })
}

/// The object with these members replaced; those that are `"absent"` are removed.
fn with(mut object: Value, members: Value) -> Value {
    let (Some(object_members), Value::Object(members)) = (object.as_object_mut(), members) else { return object };
    for (name, value) in members {
        object_members.insert(name, value);
    }
    object_members.retain(|_, value| value != "absent");
    object
}

fn header(members: Value) -> Value {
    with(json!({ "alg": "RS256", "typ": "JWT", "kid": "a" }), members)
}

fn claims(members: Value) -> Value {
    let honest = json!({
        "iss": "https://entra.test/v2.0", "aud": "api://postern", "sub": "subject-1", "azp": "app-1", "uti": "token-1",
        "iat": NOW, "nbf": NOW, "exp": NOW + 3600, "roles": ["Assignments.Change"], "scp": "read plan read",
    });
    with(honest, members)
}

fn unsigned(header: &str, payload: &str) -> String {
    format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload))
}

fn signed(which: usize, header: &Value, claims: &Value) -> String {
    rsa_signed(which, &signature::RSA_PKCS1_SHA256, &unsigned(&header.to_string(), &claims.to_string()))
}

fn rsa_signed(which: usize, encoding: &'static dyn RsaEncoding, message: &str) -> String {
    let mut signature = vec![0; rsa(which).public_modulus_len()];
    rsa(which).sign(encoding, &SystemRandom::new(), message.as_bytes(), &mut signature).unwrap();
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn honest() -> String {
    signed(0, &header(json!({})), &claims(json!({})))
}

/// An issuer's HTTP server.
struct Published {
    url: String,
    answer: Arc<Mutex<(u16, String)>>,
    asked: Arc<AtomicUsize>,
    /// Whether it keeps its clients waiting.
    slow: Arc<AtomicBool>,
}

impl Published {
    fn new(keys: &[Value]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        let published = Self { url, answer: Arc::default(), asked: Arc::default(), slow: Arc::default() };
        published.publish(keys);
        let (answer, asked) = (Arc::clone(&published.answer), Arc::clone(&published.asked));
        let slow = Arc::clone(&published.slow);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut request = [0; 4096];
                if stream.read(&mut request).unwrap() == 0 {
                    continue;
                }
                asked.fetch_add(1, Ordering::SeqCst);
                while slow.load(Ordering::SeqCst) {
                    thread::yield_now();
                }
                let (status, body) = answer.lock().unwrap().clone();
                let length = body.len();
                write!(stream, "HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}")
                    .unwrap();
            }
        });
        published
    }

    fn publish(&self, keys: &[Value]) {
        *self.answer.lock().unwrap() = (200, json!({ "keys": keys }).to_string());
    }

    fn fail(&self, status: u16, body: &str) {
        *self.answer.lock().unwrap() = (status, body.to_owned());
    }

    fn stall(&self) {
        self.slow.store(true, Ordering::SeqCst);
    }

    fn go_on(&self) {
        self.slow.store(false, Ordering::SeqCst);
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn issuer(name: &str, published: &Published) -> Issuer {
    Issuer {
        name: name.to_owned(),
        issuer: format!("https://{name}.test/v2.0"),
        audiences: BTreeSet::from(["api://postern".to_owned()]),
        algorithms: BTreeSet::from([Algorithm::Rs256, Algorithm::Es256]),
        keys: KeySource::Set(published.url.parse().unwrap()),
        token_types: BTreeSet::from([TokenType::Jwt, TokenType::AccessToken]),
        jwks_ttl: HOUR,
        jwks_refresh_min: REFRESH_MIN,
        leeway: MINUTE,
    }
}

fn rule(name: &str, issuer: &str, required_role: Option<&str>) -> CallerRule {
    CallerRule {
        name: name.to_owned(),
        issuer: issuer.to_owned(),
        client_id: Some("app-1".to_owned()),
        subject: None,
        required_role: required_role.map(str::to_owned),
        certificates: BTreeSet::new(),
        calls_max: None,
        callbacks: crate::config::CallbackRights::default(),
    }
}

/// A gateway that trusts the issuers `entra` and `other`, and the time, which the test sets.
struct World {
    entra: Published,
    other: Published,
    authenticator: Authenticator,
    elapsed: Duration,
}

impl World {
    fn new() -> Self {
        Self::with(|_| ())
    }

    /// A world with other settings for `entra`.
    fn with(set_up: impl FnOnce(&mut Issuer)) -> Self {
        let published = Published::new(&[rsa_jwk(0, "a"), ec_jwk("ec")]);
        let other = Published::new(&[rsa_jwk(1, "a")]);
        let mut entra = issuer("entra", &published);
        set_up(&mut entra);
        let authenticator = Authenticator::new(
            vec![entra, issuer("other", &other)],
            vec![rule("servicenow", "entra", Some("Assignments.Change")), rule("portal", "other", None)],
            &Outbound::new(Clock::system()).unwrap(),
            Clock::system(),
        );
        Self { entra: published, other, authenticator, elapsed: Duration::ZERO }
    }

    /// Lets an hour pass, and with it the lifetime of the key sets.
    async fn an_hour_later(&mut self) {
        self.elapsed = self.elapsed.saturating_add(HOUR);
        for trusted in &self.authenticator.issuers {
            trusted.keys.expire().await;
        }
    }

    async fn header(&self, value: Option<&str>) -> Result<Caller, Rejection> {
        let now = Timestamp::from_second(NOW).unwrap();
        let verified = self.authenticator.prove(value, now, self.elapsed).await?;
        self.authenticator.recognise(&verified, None)
    }

    async fn token(&self, token: &str) -> Result<Caller, Rejection> {
        self.header(Some(&format!("Bearer {token}"))).await
    }

    /// The token proves nothing, the refusal repeats nothing of it, and it affects no later token.
    async fn refused(&self, token: &str) -> String {
        let rejection = self.token(token).await.unwrap_err();
        let (Rejection::Malformed(detail) | Rejection::Invalid(detail)) = rejection else { panic!("{rejection}") };
        assert!(token.split('.').all(|part| part.len() < 10 || !detail.contains(part)), "{detail}");
        assert_eq!(self.token(&honest()).await.map(|caller| caller.name), Ok("servicenow".to_owned()));
        detail
    }
}

#[tokio::test]
async fn a_valid_token_authenticates_its_caller() {
    let world = World::new();
    let caller = world.token(&honest()).await.unwrap();
    let roles = ["Assignments.Change", "plan", "read"].map(crate::domain::Role::new).to_vec();
    let (name, issuer, subject) = ("servicenow".to_owned(), "entra".to_owned(), "subject-1".to_owned());
    assert_eq!(
        caller,
        Caller { name, issuer, subject, token_id: Some("token-1".to_owned()), roles, certificate: None }
    );
    assert_eq!(world.header(Some(&format!("bEARER   {} ", honest()))).await, Ok(caller));
}

#[tokio::test]
async fn the_forms_of_honest_tokens_are_accepted() {
    let world = World::new();
    for members in [
        json!({ "azp": "absent", "appid": "app-1" }),
        json!({ "azp": "absent", "client_id": "app-1", "jti": "1" }),
        json!({ "aud": ["x", "api://postern"] }),
        json!({ "nbf": "absent", "iat": "absent", "uti": "absent" }),
        json!({ "exp": NOW - 59, "nbf": NOW + 60, "iat": NOW + 59 }),
        json!({ "exp": 1_800_000_000.5 }),
        json!({ "azp": "absent", "cid": "app-1" }),
        json!({ "cid": 7 }),
        json!({ "scp": "" }),
        json!({ "scp": [] }),
        json!({ "roles": "absent", "scp": ["openid", "Assignments.Change"] }),
        json!({ "roles": "absent", "scope": ["Assignments.Change"] }),
    ] {
        assert!(world.token(&signed(0, &header(json!({})), &claims(members.clone()))).await.is_ok(), "{members}");
    }
    for kind in ["at+jwt", "application/at+jwt", "jwt"] {
        assert!(world.token(&signed(0, &header(json!({ "typ": kind })), &claims(json!({})))).await.is_ok(), "{kind}");
    }
    let message = unsigned(
        &header(json!({ "alg": "ES256", "kid": "ec", "typ": "absent" })).to_string(),
        &claims(json!({})).to_string(),
    );
    let signature = p256().sign(&SystemRandom::new(), message.as_bytes()).unwrap();
    assert!(world.token(&format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))).await.is_ok());
}

#[tokio::test]
async fn without_a_bearer_token_no_credentials_were_sent() {
    let world = World::new();
    for value in [None, Some(""), Some("Basic dTpw"), Some("Bearers x"), Some(&*honest())] {
        assert_eq!(world.header(value).await, Err(Rejection::Missing), "{value:?}");
    }
    for value in ["Bearer", "Bearer  "] {
        assert!(matches!(world.header(Some(value)).await, Err(Rejection::Malformed(_))), "{value}");
    }
}

#[tokio::test]
async fn what_is_no_compact_signed_token_is_malformed() {
    let world = World::new();
    let good = honest();
    let (message, signature) = good.rsplit_once('.').unwrap();
    let (head, payload) = message.split_once('.').unwrap();
    let twice = r#"{"iss":"https://entra.test/v2.0","sub":"a","sub":"b"}"#;
    for bad in [
        "x".to_owned(),
        format!("{good}."),
        format!("{good}="),
        format!("{good} {good}"),
        format!("{head}?.{payload}.{signature}"),
        format!("{message}."),
        format!(".{payload}.{signature}"),
        format!("{head}..{signature}"),
        format!("{head}.a.b.c.{signature}"),
        format!("{message}.{}", "A".repeat(16 * 1024)),
        format!("{head}.{payload}+.{signature}"),
        format!("{}.{signature}", unsigned("[]", "{}")),
        format!("{}.{signature}", unsigned("{}", "{} {}")),
        format!("{}.{signature}", unsigned("{}", twice)),
        format!("{}.{signature}", unsigned(r#"{"alg":"none","alg":"RS256"}"#, "{}")),
        format!("{}.{signature}", unsigned("{}", r#"{"exp":1,"\u0065xp":2}"#)),
        format!("{}.{signature}", unsigned("{}", r#"{"exp":1e400}"#)),
        format!("{}.{signature}", unsigned("{}", &format!(r#"{{"x":{}}}"#, "[".repeat(9_000)))),
        format!("{}.{signature}", unsigned("\u{feff}{}", "{}")),
        "a".repeat(1024 * 1024),
        format!("{}.{payload}.{signature}", URL_SAFE_NO_PAD.encode([0xff])),
        json!({ "payload": payload, "protected": head, "signature": signature }).to_string(),
    ] {
        assert!(matches!(world.token(&bad).await, Err(Rejection::Malformed(_))), "{bad}");
        world.refused(&bad).await;
    }
}

#[tokio::test]
async fn a_header_that_asks_for_anything_else_is_refused() {
    let world = World::new();
    for (members, reason) in [
        (json!({ "alg": "rs256" }), "not allowed"),
        (json!({ "alg": "RS384" }), "not allowed"),
        (json!({ "alg": "absent" }), "no alg"),
        (json!({ "alg": ["RS256"] }), "alg"),
        (json!({ "typ": "JOSE" }), "type"),
        (json!({ "typ": "logout+jwt" }), "type"),
        (json!({ "typ": null }), "typ"),
        (json!({ "crit": ["b64"], "b64": false }), "crit"),
        (json!({ "crit": null }), "crit"),
        (json!({ "kid": "absent" }), "no kid"),
        (json!({ "kid": "" }), "empty"),
        (json!({ "kid": 7 }), "kid"),
        (json!({ "kid": "../../dev/null" }), "kid"),
    ] {
        let detail = world.refused(&signed(0, &header(members.clone()), &claims(json!({})))).await;
        assert!(detail.contains(reason), "{members}: {detail}");
    }
}

#[tokio::test]
async fn a_claim_that_does_not_hold_is_refused() {
    let world = World::new();
    for (members, reason) in [
        (json!({ "iss": "absent" }), "no iss"),
        (json!({ "iss": "https://entra.test/v2.0/" }), "issuer"),
        (json!({ "iss": ["https://entra.test/v2.0"] }), "iss"),
        (json!({ "aud": "absent" }), "no aud"),
        (json!({ "aud": "api://other" }), "audience"),
        (json!({ "aud": [] }), "audience"),
        (json!({ "aud": ["api://postern", 7] }), "aud"),
        (json!({ "exp": "absent" }), "no exp"),
        (json!({ "exp": NOW - 60 }), "expired"),
        (json!({ "exp": 0 }), "expired"),
        (json!({ "exp": null }), "exp"),
        (json!({ "exp": "1800003600" }), "exp"),
        (json!({ "exp": 1e300 }), "exp"),
        (json!({ "exp": -1 }), "exp"),
        (json!({ "nbf": NOW + 61 }), "nbf"),
        (json!({ "nbf": true }), "nbf"),
        (json!({ "iat": NOW + 61 }), "iat"),
        (json!({ "sub": "absent" }), "no sub"),
        (json!({ "sub": "" }), "sub"),
        (json!({ "sub": "a\nb" }), "sub"),
        (json!({ "appid": "app-2" }), "different"),
        (json!({ "azp": 0 }), "azp"),
        (json!({ "roles": "Assignments.Change" }), "roles"),
        (json!({ "roles": [1] }), "roles"),
        (json!({ "roles": ["Assignments.Change", "a\u{0}b"] }), "roles"),
        (json!({ "aud": ["api://postern", "a\nb"] }), "aud"),
        (json!({ "azp": "app-1\u{0}" }), "azp"),
        (json!({ "exp": u64::MAX }), "exp"),
        (json!({ "iat": -1e300 }), "iat"),
        (json!({ "at_hash": "x" }), "access token"),
        (json!({ "events": {} }), "access token"),
        (json!({ "azp": "absent", "cid": ["app-1"] }), "cid"),
        (json!({ "scp": 1 }), "scp"),
        (json!({ "scp": { "read": true } }), "scp"),
        (json!({ "scp": ["read", 1] }), "scp"),
        (json!({ "scope": ["read", "a\nb"] }), "scope"),
        (json!({ "scope": [["read"]] }), "scope"),
    ] {
        let detail = world.refused(&signed(0, &header(json!({})), &claims(members.clone()))).await;
        assert!(detail.contains(reason), "{members}: {detail}");
    }
}

#[tokio::test]
async fn no_spelling_of_none_is_an_algorithm() {
    let world = World::new();
    for name in ["none", "None", "NONE", "noNE", "nOnE", "none ", ""] {
        let message = unsigned(&header(json!({ "alg": name })).to_string(), &claims(json!({})).to_string());
        for signature in ["", "AAAA"] {
            world.refused(&format!("{message}.{signature}")).await;
        }
    }
}

#[tokio::test]
async fn a_public_key_is_no_secret_to_sign_with() {
    let world = World::new();
    let public = rsa(0).public_key();
    let jwk = rsa_jwk(0, "a");
    for secret in [public.as_ref().to_vec(), jwk["n"].to_string().into_bytes(), jwk.to_string().into_bytes(), vec![]] {
        for name in ["HS256", "RS256", "ES256"] {
            let message = unsigned(&header(json!({ "alg": name })).to_string(), &claims(json!({})).to_string());
            let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &secret), message.as_bytes());
            world.refused(&format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag))).await;
        }
    }
}

#[tokio::test]
async fn a_key_that_the_token_brings_along_is_not_used_and_no_address_in_it_is_visited() {
    let world = World::new();
    let attacker = Published::new(&[rsa_jwk(1, "a")]);
    for members in [
        json!({ "jwk": rsa_jwk(1, "a") }),
        json!({ "jku": attacker.url, "x5u": attacker.url }),
        json!({ "x5c": ["AA=="], "jwk": rsa_jwk(1, "b"), "kid": "b" }),
    ] {
        world.refused(&signed(1, &header(members), &claims(json!({ "jku": attacker.url })))).await;
    }
    assert_eq!(attacker.asked(), 0);
}

#[tokio::test]
async fn a_signature_must_be_of_this_token_this_key_and_this_algorithm() {
    let world = World::new();
    let good = honest();
    let (message, signature) = good.rsplit_once('.').unwrap();
    let other = unsigned(&header(json!({})).to_string(), &claims(json!({ "sub": "root" })).to_string());
    world.refused(&format!("{other}.{signature}")).await;
    world.refused(&signed(1, &header(json!({})), &claims(json!({})))).await;
    world.refused(&rsa_signed(0, &signature::RSA_PSS_SHA256, message)).await;
    // The key `ec` is a P-256 key, the key `a` an RSA key.
    world.refused(&signed(0, &header(json!({ "kid": "ec" })), &claims(json!({})))).await;
    world.refused(&signed(0, &header(json!({ "alg": "ES256" })), &claims(json!({})))).await;
}

#[tokio::test]
async fn a_key_is_used_with_the_algorithm_that_its_issuer_states() {
    let world = World::new();
    world.entra.publish(&[rsa_jwk(0, "a"), with(rsa_jwk(0, "pss"), json!({ "alg": "PS256" }))]);
    world.refused(&signed(0, &header(json!({ "kid": "pss" })), &claims(json!({})))).await;
}

#[tokio::test]
async fn a_key_of_another_issuer_with_the_same_id_proves_nothing() {
    let world = World::new();
    world.refused(&signed(1, &header(json!({})), &claims(json!({})))).await;
    let theirs = claims(json!({ "iss": "https://other.test/v2.0" }));
    world.refused(&signed(0, &header(json!({})), &theirs)).await;
    assert_eq!(world.token(&signed(1, &header(json!({})), &theirs)).await.unwrap().name, "portal");
    assert_eq!((world.entra.asked(), world.other.asked()), (1, 1));
}

#[tokio::test]
async fn a_valid_token_without_a_configured_caller_is_rejected() {
    let world = World::new();
    for (members, reason) in [
        (
            json!({ "azp": "app-2" }),
            "no configured caller has its application (client id \"app-2\") and its subject \"subject-1\"",
        ),
        (json!({ "azp": "absent" }), "no configured caller has its subject \"subject-1\"; it names no application"),
        (json!({ "roles": "absent" }), "lacks the role \""),
    ] {
        let rejection = world.token(&signed(0, &header(json!({})), &claims(members))).await.unwrap_err();
        let Rejection::UnknownCaller { issuer, subject, token_id, detail, .. } = rejection else {
            panic!("{rejection}")
        };
        assert_eq!((&*issuer, &*subject, token_id.as_deref()), ("entra", "subject-1", Some("token-1")));
        assert!(detail.contains(reason), "{detail}");
    }
}

#[test]
fn a_caller_rule_without_client_and_subject_matches_no_token() {
    let expires = Duration::MAX;
    let token = VerifiedToken { client_id: None, subject: "s".to_owned(), token_id: None, roles: vec![], expires };
    let rule = CallerRule { client_id: None, ..rule("x", "entra", None) };
    assert!(!fits(&rule, &token));
    assert!(fits(&CallerRule { subject: Some("s".to_owned()), ..rule }, &token));
}

#[tokio::test]
async fn a_token_that_was_verified_is_known_by_its_digest_until_it_expires() {
    let world = World::new();
    let token = honest();
    let known = async || world.authenticator.seen(&Digest::of(token.as_bytes()), at(0), world.elapsed).await.is_some();
    assert!(!known().await);
    world.token(&token).await.unwrap();
    assert!(known().await);
    // A token that differs anywhere is another token, and refused ones are not cached.
    let (message, signature) = token.rsplit_once('.').unwrap();
    let forged = format!("{message}.{}", signature.chars().rev().collect::<String>());
    for _ in 0..2 {
        world.refused(&forged).await;
    }
    let header = format!("Bearer {token}");
    for (second, good) in [(3_659, true), (3_660, false), (3_659, true)] {
        let caller = world.authenticator.prove(Some(&header), at(second), world.elapsed).await;
        assert_eq!(caller.is_ok(), good, "{second}");
    }
}

#[tokio::test]
async fn which_of_several_callers_a_known_token_is_depends_on_more_than_the_token() {
    let mut world = World::new();
    let shown = Digest::of(b"a certificate");
    let with_certificate = CallerRule {
        certificates: BTreeSet::from([shown.clone()]),
        ..rule("shown", "entra", Some("Assignments.Change"))
    };
    world.authenticator.callers = vec![
        rule("elsewhere", "other", None),
        rule("lacks-a-role", "entra", Some("Not.Held")),
        with_certificate,
        rule("anyone", "entra", None),
        rule("too-late", "entra", None),
    ];
    let header = format!("Bearer {}", honest());
    for (certificate, name) in [(None, "anyone"), (Some(&shown), "shown"), (None, "anyone")] {
        let verified = world.authenticator.prove(Some(&header), at(0), world.elapsed).await.unwrap();
        assert_eq!(verified.callers, [1, 2, 3, 4]);
        assert_eq!(world.authenticator.recognise(&verified, certificate).unwrap().name, name);
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(NOW.saturating_add(second)).unwrap()
}

#[tokio::test]
async fn an_issuer_of_access_tokens_by_rfc_9068_must_keep_to_it() {
    let world = World::with(|issuer| issuer.token_types = BTreeSet::from([TokenType::AccessToken]));
    let whole = || json!({ "azp": "absent", "client_id": "app-1", "jti": "1" });
    let token = |typ: &str, members: Value| signed(0, &header(json!({ "typ": typ })), &claims(members));
    for typ in ["at+jwt", "application/at+jwt", "AT+JWT"] {
        world.token(&token(typ, whole())).await.unwrap();
    }
    for typ in ["JWT", "absent", "id+jwt"] {
        let Err(Rejection::Invalid(detail)) = world.token(&token(typ, whole())).await else { panic!("{typ}") };
        assert!(detail.contains("type"), "{typ}: {detail}");
    }
    for name in ["iat", "jti", "client_id", "sub", "exp", "aud"] {
        let mut members = whole();
        members[name] = json!("absent");
        let Err(Rejection::Invalid(detail)) = world.token(&token("at+jwt", members)).await else { panic!("{name}") };
        assert!(detail.contains(name), "{name}: {detail}");
    }
    let plain = World::with(|issuer| issuer.token_types = BTreeSet::from([TokenType::Jwt]));
    plain.token(&honest()).await.unwrap();
    assert!(plain.token(&token("at+jwt", whole())).await.is_err());
}
