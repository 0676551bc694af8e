//! Forged tokens: made by hand from public information.

use aws_lc_rs::{
    encoding::AsDer as _,
    hmac,
    rand::SystemRandom,
    rsa::{KeyPair, KeySize, PublicKeyComponents},
    signature::{KeyPair as _, RSA_PKCS1_SHA256},
};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde_json::{Value, json};

use crate::{
    responses::got,
    world::{ASSIGNMENTS, World, add},
};

fn encoded(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

/// Header, payload and signature of a valid token.
async fn taken(world: &World) -> [String; 3] {
    let token = world.token("servicenow").await;
    let parts: Vec<_> = token.split('.').map(str::to_owned).collect();
    parts.try_into().unwrap()
}

async fn key(world: &World) -> Value {
    let url = format!("{}/issuer/jwks", world.sandbox.url());
    got(world.client.get(url)).await.expect(200).body["keys"][0].clone()
}

async fn refused(world: &World, token: &str) {
    let request = world.bare("POST", ASSIGNMENTS).bearer_auth(token).json(&add("Sales ESP", "Sales Laptops"));
    let answer = world.send(request).await.problem(401, "invalid-token");
    assert_eq!(answer.header("www-authenticate"), "Bearer realm=\"postern\", error=\"invalid_token\"");
    assert!(!answer.text.contains(token), "a problem must not repeat a token");
}

async fn nothing_happened(world: World) {
    assert!(world.journal().await.is_empty() && world.events("accepted").await.is_empty());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_without_a_signature_is_refused_however_none_is_spelt() {
    let world = World::start().await;
    let [_, payload, signature] = taken(&world).await;
    let kid = key(&world).await["kid"].clone();
    for name in ["none", "None", "NONE", "nOnE", "", "null"] {
        let header = encoded(&json!({"alg": name, "typ": "JWT", "kid": kid}));
        for signature in ["", "AA", &signature] {
            refused(&world, &format!("{header}.{payload}.{signature}")).await;
        }
        refused(&world, &format!("{header}.{payload}")).await;
    }
    let header = encoded(&json!({"typ": "JWT", "kid": kid}));
    refused(&world, &format!("{header}.{payload}.{signature}")).await;
    nothing_happened(world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_public_key_is_no_shared_secret() {
    let world = World::start().await;
    let [_, payload, _] = taken(&world).await;
    let jwk = key(&world).await;
    let decoded = |field: &str| URL_SAFE_NO_PAD.decode(jwk[field].as_str().unwrap()).unwrap();
    let public = PublicKeyComponents { n: decoded("n"), e: decoded("e") };
    let public: aws_lc_rs::rsa::PublicEncryptingKey = public.try_into().unwrap();
    let der = public.as_der().unwrap().as_ref().to_vec();
    let lines: Vec<_> = STANDARD.encode(&der).as_bytes().chunks(64).map(<[u8]>::to_vec).collect();
    let pem = [b"-----BEGIN PUBLIC KEY-----\n", lines.join(&b'\n').as_slice(), b"\n-----END PUBLIC KEY-----"].concat();
    let with_newline = [pem.as_slice(), b"\n"].concat();
    for secret in
        [pem, with_newline, der, decoded("n"), jwk["n"].as_str().unwrap().into(), jwk.to_string().into(), b"x".to_vec()]
    {
        for name in ["HS256", "hs256"] {
            let signed = format!("{}.{payload}", encoded(&json!({"alg": name, "typ": "JWT", "kid": jwk["kid"]})));
            let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &secret), signed.as_bytes());
            refused(&world, &format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag))).await;
        }
    }
    nothing_happened(world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_the_token_brings_along_is_not_used() {
    let world = World::start().await;
    let [_, payload, _] = taken(&world).await;
    let kid = key(&world).await["kid"].clone();
    let own = KeyPair::generate(KeySize::Rsa2048).unwrap();
    let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let public = own.public_key();
    let jwk = json!({"kty": "RSA", "use": "sig", "alg": "RS256", "kid": kid,
        "n": part(public.modulus().big_endian_without_leading_zero()),
        "e": part(public.exponent().big_endian_without_leading_zero())});
    for mut header in [json!({}), json!({"jwk": jwk}), json!({"jku": format!("{}/x", world.sandbox.url())})] {
        for (name, value) in [("alg", json!("RS256")), ("typ", json!("JWT")), ("kid", kid.clone())] {
            header[name] = value;
        }
        let signed = format!("{}.{payload}", encoded(&header));
        let mut signature = vec![0; own.public_modulus_len()];
        own.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature).unwrap();
        refused(&world, &format!("{signed}.{}", part(&signature))).await;
    }
    nothing_happened(world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_good_signature_fits_no_other_payload() {
    let world = World::start().await;
    let [header, payload, signature] = taken(&world).await;
    let mut claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(&payload).unwrap()).unwrap();
    claims["azp"] = json!("c0000000-0000-4000-8000-000000000003");
    refused(&world, &format!("{header}.{}.{signature}", encoded(&claims))).await;
    refused(&world, &format!("{header}.{payload}.{signature}=")).await;
    refused(&world, &format!("{header}.{payload}.{signature}.")).await;
    refused(&world, &format!("{header}.{payload}.{}", signature.chars().rev().collect::<String>())).await;
    nothing_happened(world).await;
}
