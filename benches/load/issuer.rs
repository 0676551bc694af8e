//! The callers' issuer: a key, published over HTTP, and a token for each caller.

use std::fmt::Write as _;

use actix_web::{App, HttpResponse, HttpServer, dev::ServerHandle, web};
use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der},
    rsa::{KeyPair, KeySize},
    signature::KeyPair as _,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use jsonwebtoken::{Algorithm, EncodingKey, Header, jwk::Jwk};
use postern::clock::Clock;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::environment::id;

/// Callers, each with a token of its own.
pub(crate) const CALLERS: u128 = 200;
/// The audience of tokens.
pub(crate) const AUDIENCE: &str = "api://postern";
const KEY_ID: &str = "load";

fn pem(label: &str, der: &[u8]) -> String {
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in STANDARD.encode(der).as_bytes().chunks(64) {
        writeln!(text, "{}", std::str::from_utf8(line).unwrap()).unwrap();
    }
    text + &format!("-----END {label}-----\n")
}

/// The issuer, and the callers' tokens.
pub(crate) struct Issuer {
    pub(crate) url: String,
    /// The public half of its key.
    pub(crate) public: String,
    /// One per caller, valid for an hour.
    pub(crate) tokens: Vec<String>,
    server: ServerHandle,
}

impl Issuer {
    pub(crate) fn start() -> Self {
        let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
        let private: Pkcs8V1Der<'_> = pair.as_der().unwrap();
        let public: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
        let key = EncodingKey::from_rsa_pem(pem("PRIVATE KEY", private.as_ref()).as_bytes()).unwrap();
        let mut jwk = json!(Jwk::from_encoding_key(&key, Algorithm::RS256).unwrap());
        jwk["kid"] = json!(KEY_ID);
        jwk["use"] = json!("sig");
        let keys = web::Data::new(json!({ "keys": [jwk] }));
        let app = move || App::new().app_data(keys.clone()).route("/jwks", web::get().to(jwks));
        let server = HttpServer::new(app).disable_signals().workers(1).bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", server.addrs()[0]);
        let server = server.run();
        let handle = server.handle();
        tokio::spawn(server);
        let now = Clock::system().now().as_second();
        let tokens = (0..CALLERS).map(|caller| token(&key, &url, caller, now)).collect();
        Self { url, public: pem("PUBLIC KEY", public.as_ref()), tokens, server: handle }
    }

    pub(crate) async fn stop(self) {
        self.server.stop(false).await;
    }
}

async fn jwks(keys: web::Data<Value>) -> HttpResponse {
    HttpResponse::Ok().json(keys.get_ref())
}

/// A token of the size and shape of Entra's.
fn token(key: &EncodingKey, issuer: &str, caller: u128, now: i64) -> String {
    let claims = json!({
        "iss": issuer, "aud": AUDIENCE, "iat": now, "nbf": now, "exp": now + 3_600, "ver": "2.0",
        "azp": id("c", caller), "azpacr": "1", "sub": id("d", caller), "oid": id("d", caller),
        "roles": ["Assignments.Change"], "tid": id("e", 1), "uti": Uuid::from_u128(caller).simple().to_string(),
        "rh": "1.AXkAERERESIiMzNEVVVVVVVVVcCbn1sDbB5KjlUNT0oXm8MBAAA.",
    });
    let header = Header { kid: Some(KEY_ID.to_owned()), ..Header::new(Algorithm::RS256) };
    jsonwebtoken::encode(&header, &claims, key).unwrap()
}
