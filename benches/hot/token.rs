//! Authenticating a caller, with a new token and with one seen before.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    thread,
    time::Duration,
};

use aws_lc_rs::{
    encoding::{AsBigEndian as _, EcPublicKeyUncompressedBin},
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaEncoding,
        RsaKeyPair,
    },
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use futures_util::FutureExt as _;
use postern::{
    auth::Authenticator,
    clock::Clock,
    config::{Algorithm, CallbackRights, CallerRule, Issuer, KeySource, TokenType},
    outbound::Outbound,
};
use serde_json::{Value, json};
use tokio::runtime::Builder;

use crate::{Case, Iteration};

/// Test keys that protect nothing. They are files because generating a key costs a varying number of instructions.
const RSA: &[u8] = include_bytes!("rsa.p8");
const P256: &[u8] = include_bytes!("ec.p8");

const ISSUER: &str = "https://issuer.test/v2.0";

/// How tokens are signed.
#[derive(Clone, Copy)]
enum Signing {
    Rs256,
    Ps256,
    Es256,
}

pub(crate) fn cases() -> Vec<Case> {
    let named = [("RS256", Signing::Rs256), ("PS256", Signing::Ps256), ("ES256", Signing::Es256)];
    let new = named.map(|(name, signing)| {
        Case::new(format!("prove a new token, {name}"), 100, move |iterations| proving(signing, iterations))
    });
    let seen = Case::new("prove a token that was seen, RS256", 1_000, |_| proving(Signing::Rs256, 1));
    new.into_iter().chain([seen]).collect()
}

/// This many tokens, each verified in turn, repeatedly.
fn proving(signing: Signing, tokens: u64) -> Iteration {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let signer = Signer::new(signing);
    let tokens: Vec<_> = (0..=tokens).map(|number| format!("Bearer {}", signer.token(number))).collect();
    let authenticator = {
        let _inside = runtime.enter();
        let (clock, keys) = (Clock::system(), KeySource::Set(published(&signer.public()).parse().unwrap()));
        Authenticator::new(vec![issuer(keys)], vec![rule()], &Outbound::new(clock).unwrap().direct().unwrap(), clock)
    };
    let (first, tokens) = tokens.split_first().unwrap();
    // The first token makes it fetch the keys.
    runtime.block_on(authenticator.authenticate(Some(first), None)).unwrap();
    let (tokens, mut next) = (tokens.to_vec(), 0);
    Box::new(move || {
        let _alive = &runtime;
        let token = tokens.get(next % tokens.len()).unwrap();
        next += 1;
        // Nothing waits once the keys are cached.
        drop(authenticator.authenticate(Some(token), None).now_or_never().unwrap().unwrap());
    })
}

struct Signer {
    signing: Signing,
    rsa: RsaKeyPair,
    p256: EcdsaKeyPair,
}

impl Signer {
    fn new(signing: Signing) -> Self {
        let rsa = RsaKeyPair::from_pkcs8(RSA).unwrap();
        let p256 = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, P256).unwrap();
        Self { signing, rsa, p256 }
    }

    fn public(&self) -> Value {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        if let Signing::Es256 = self.signing {
            let point: EcPublicKeyUncompressedBin<'_> = self.p256.public_key().as_be_bytes().unwrap();
            let (_, halves) = point.as_ref().split_first().unwrap();
            let (x, y) = halves.split_at(32);
            return json!({ "kty": "EC", "crv": "P-256", "use": "sig", "kid": "key", "x": text(x), "y": text(y) });
        }
        let key = self.rsa.public_key();
        let (n, e) = (key.modulus(), key.exponent());
        let [n, e] = [n.big_endian_without_leading_zero(), e.big_endian_without_leading_zero()].map(text);
        json!({ "kty": "RSA", "use": "sig", "kid": "key", "n": n, "e": e })
    }

    /// An application's token as Entra issues them (v2).
    fn token(&self, number: u64) -> String {
        let alg = match self.signing {
            Signing::Rs256 => "RS256",
            Signing::Ps256 => "PS256",
            Signing::Es256 => "ES256",
        };
        let header = json!({ "typ": "JWT", "alg": alg, "kid": "key" });
        let payload = json!({
            "aud": "8f1c6a4e-8a77-4b8e-9d6e-3a54b2f1c0aa", "iss": ISSUER, "iat": 1_750_000_000, "nbf": 1_750_000_000,
            "exp": 250_000_000_000_u64, "aio": "k2RgYNj4d+ekE5tnbzhpN3ej8PSpVQA=", "azp": "app-1", "azpacr": "2",
            "oid": "3f9f8a3e-54e1-4a0f-a2a5-5ba5e1d6a8b1", "rh": "0.AXkAY2F0cw.", "roles": ["Assignments.Change"],
            "sub": "3f9f8a3e-54e1-4a0f-a2a5-5ba5e1d6a8b1", "tid": "7c9d4c1e-0a6f-4a53-8d1e-6b0a4f2f7f10",
            "uti": format!("token-{number:012}"), "ver": "2.0",
        });
        let [header, payload] = [header, payload].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
        let signed = format!("{header}.{payload}");
        let signature = match self.signing {
            Signing::Rs256 => self.by_rsa(&RSA_PKCS1_SHA256, &signed),
            Signing::Ps256 => self.by_rsa(&RSA_PSS_SHA256, &signed),
            Signing::Es256 => self.p256.sign(&SystemRandom::new(), signed.as_bytes()).unwrap().as_ref().to_vec(),
        };
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn by_rsa(&self, encoding: &'static dyn RsaEncoding, text: &str) -> Vec<u8> {
        let mut signature = vec![0; self.rsa.public_modulus_len()];
        self.rsa.sign(encoding, &SystemRandom::new(), text.as_bytes(), &mut signature).unwrap();
        signature
    }
}

/// URL of this key set, served once: it is fetched when the first token comes.
fn published(key: &Value) -> String {
    let body = json!({ "keys": [key] }).to_string();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        // One read is enough for so small a request; the response does not depend on it.
        let _read = stream.read(&mut [0; 4096]).unwrap();
        let length = body.len();
        write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}").unwrap();
    });
    format!("http://{address}/keys")
}

fn issuer(keys: KeySource) -> Issuer {
    Issuer {
        name: "entra".to_owned(),
        issuer: ISSUER.to_owned(),
        audiences: ["8f1c6a4e-8a77-4b8e-9d6e-3a54b2f1c0aa".to_owned()].into(),
        algorithms: [Algorithm::Rs256, Algorithm::Ps256, Algorithm::Es256].into(),
        keys,
        token_types: [TokenType::Jwt].into(),
        jwks_ttl: Duration::from_hours(1),
        jwks_refresh_min: Duration::from_mins(5),
        leeway: Duration::from_mins(1),
    }
}

fn rule() -> CallerRule {
    CallerRule {
        name: "servicenow".to_owned(),
        issuer: "entra".to_owned(),
        client_id: Some("app-1".to_owned()),
        subject: None,
        required_role: None,
        certificates: [].into(),
        calls_max: None,
        callbacks: CallbackRights::default(),
    }
}
