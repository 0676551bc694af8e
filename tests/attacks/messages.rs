//! Messages to sources of webhooks: forged, altered, with another time, sent to another source, replayed.

use std::io::Write as _;

use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use reqwest::{RequestBuilder, header::HeaderValue};
use serde_json::Value;

use crate::{
    attacked_gateway::AttackedGateway,
    webhook_senders::{HIRED, JOINER, STANDARD_SECRET, WebhookSenders, now, standard_signature},
    world::World,
};

const GITHUB_SECRET: &str = "another secret of 32 characters!";

/// Two sources: one signs its message's id and time, the other only its body.
fn sources(folder: &std::path::Path) -> String {
    let source = |(name, scheme, secret): (&str, &str, &str)| {
        let path = folder.join(name);
        std::fs::write(&path, secret).unwrap();
        format!(
            "[[webhooks]]\nsource = \"{name}\"\ncaller = \"servicenow\"\nscheme = \"{scheme}\"\nsecret_file = \"{}\"\n{JOINER}\n",
            path.display()
        )
    };
    let all = [("hr", "standard-webhooks", STANDARD_SECRET), ("forge", "github", GITHUB_SECRET)];
    all.map(source).concat() + "[catalogue.groups]\n"
}

fn hub(secret: &[u8], body: &str) -> String {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), body.as_bytes());
    format!("sha256={}", digits(tag.as_ref()))
}

fn digits(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// A source, headers, and a body.
type Attack = (&'static str, Vec<(&'static str, String)>, String);

/// A message with these headers; none if no client could send them.
fn message(world: &World, source: &str, headers: &[(&str, String)], body: String) -> Option<RequestBuilder> {
    let request = world.bare("POST", &format!("/v1/webhooks/{source}")).header("content-type", "application/json");
    headers.iter().try_fold(request.body(body), |request, (name, value)| {
        Some(request.header(*name, HeaderValue::from_bytes(value.as_bytes()).ok()?))
    })
}

/// Near misses of a valid signature: another alphabet, length, case or scheme, or empty.
fn near(good: &str) -> Vec<String> {
    let (scheme, value) = good.split_once([',', '=']).unwrap();
    let raw = STANDARD.decode(value).unwrap_or_default();
    let flipped = |at: usize| {
        let mut bytes = value.as_bytes().to_vec();
        bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
        good.replace(value, &String::from_utf8(bytes).unwrap())
    };
    let mut all: Vec<_> = (0..value.len() - 2).step_by(3).map(flipped).collect();
    all.extend((0..value.len()).step_by(5).map(|length| good[..scheme.len() + 1 + length].to_owned()));
    all.extend(
        [
            value.to_owned(),
            format!("{scheme}:{value}"),
            format!("{scheme}, {value}"),
            format!("{}{}", scheme.to_uppercase(), &good[scheme.len()..]),
            format!("{good}{value}"),
            format!("{good}=="),
            format!("{good}\t{good}x"),
            good.replace(value, &value.to_uppercase().replace('A', "a ")),
            good.replace(value, &STANDARD.encode(value)),
            good.replace(value, &digits(&raw)),
            good.replace(scheme, "v0"),
            good.replace(scheme, "v1a"),
            good.replace(scheme, "sha1"),
            good.replace(scheme, "none"),
            good.replace(value, &"0".repeat(64)),
            good.replace(value, &"A".repeat(44)),
            good.replace(value, ""),
            String::new(),
            "null".to_owned(),
            "*".to_owned(),
            "' OR '1'='1".to_owned(),
        ]
        .into_iter()
        .filter(|text| text != good),
    );
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_its_source_did_not_sign_for_now_and_here_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let attacked = AttackedGateway::before(vec![], vec![("[catalogue.groups]\n", sources(folder.path()))]).await;
    let time = now();
    let signed = |secret: &str, id: &str, time: i64, body: &str| {
        let time = time.to_string();
        let signature = standard_signature(secret, id, &time, body);
        vec![("webhook-id", id.to_owned()), ("webhook-timestamp", time), ("webhook-signature", signature)]
    };
    let with = |mut headers: Vec<(&'static str, String)>, name: &'static str, value: &str| {
        headers.retain(|(known, _)| *known != name);
        headers.push((name, value.to_owned()));
        headers
    };
    let honest = signed(STANDARD_SECRET, "m", time, HIRED);
    let altered = HIRED.replace("Sales", "Kiosk");
    let hub = |secret: &[u8], body: &str| vec![("x-hub-signature-256", hub(secret, body))];
    let mut attacks: Vec<Attack> = Vec::new();
    for text in near(&honest[2].1) {
        attacks.push(("hr", with(honest.clone(), "webhook-signature", &text), HIRED.to_owned()));
    }
    for text in near(&hub(GITHUB_SECRET.as_bytes(), HIRED)[0].1) {
        attacks.push(("forge", vec![("x-hub-signature-256", text)], HIRED.to_owned()));
    }
    for secret in ["whsec_", "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"] {
        attacks.push(("hr", signed(secret, "m", time, HIRED), HIRED.to_owned()));
    }
    for secret in [&b""[..], b"secret", STANDARD_SECRET.as_bytes(), &[0; 32]] {
        attacks.push(("forge", hub(secret, HIRED), HIRED.to_owned()));
    }
    for body in [altered.clone(), format!("{HIRED} "), format!(" {HIRED}"), HIRED.replace(':', ": "), String::new()] {
        attacks.push(("hr", honest.clone(), body.clone()));
        attacks.push(("forge", hub(GITHUB_SECRET.as_bytes(), HIRED), body));
    }
    // The signed parts are joined by dots: text moved from one part to the next must make another message.
    for (id, moved) in
        [("m.", time.to_string()), ("", format!("m.{time}")), ("m", format!("{time}.")), ("M", time.to_string())]
    {
        let headers = with(with(honest.clone(), "webhook-id", id), "webhook-timestamp", &moved);
        attacks.push(("hr", headers, HIRED.to_owned()));
    }
    for moment in [0, 1, time - 86_400, time - 310, time + 400, time + 86_400, i64::MAX, i64::MIN, -time] {
        attacks.push(("hr", signed(STANDARD_SECRET, "m", moment, HIRED), HIRED.to_owned()));
    }
    for name in ["webhook-id", "webhook-timestamp", "webhook-signature"] {
        let (mut missing, mut twice) = (honest.clone(), honest.clone());
        missing.retain(|(known, _)| *known != name);
        twice.extend(honest.iter().find(|(known, _)| *known == name).cloned());
        attacks.extend([missing, twice].map(|headers| ("hr", headers, HIRED.to_owned())));
    }
    // One source's signature and a caller's token prove nothing to another source.
    let token = attacked.world.token("servicenow").await;
    attacks.push(("forge", honest.clone(), HIRED.to_owned()));
    attacks.push(("hr", hub(GITHUB_SECRET.as_bytes(), HIRED), HIRED.to_owned()));
    attacks.push(("hr", vec![("authorization", format!("Bearer {token}"))], HIRED.to_owned()));
    attacks.push(("hr", vec![("authorization", format!("Bearer {STANDARD_SECRET}"))], HIRED.to_owned()));
    for (source, headers, body) in attacks {
        let Some(request) = message(&attacked.world, source, &headers, body) else { continue };
        let answer = attacked.sent(request).await;
        assert_eq!(answer.status, 401, "{headers:?}: {}", answer.text);
        attacked.is_still_serving().await;
    }
    for source in ["nobody", "HR", "hr%2f", "hr%00", "..%2fhr", "hr%20", "hr;x=1"] {
        let answer = attacked.sent(message(&attacked.world, source, &honest, HIRED.to_owned()).unwrap()).await;
        assert_eq!(answer.status, 404, "{source}: {}", answer.text);
        attacked.is_still_serving().await;
    }
    attacked.end("messages that prove nothing").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recorded_message_does_nothing_twice_even_after_a_restart() {
    let mut senders = WebhookSenders::start("standard-webhooks", STANDARD_SECRET, "", JOINER).await;
    let time = now();
    let sent = |senders: &WebhookSenders, time| senders.standard("m", time, HIRED).header("prefer", "wait=25");
    let first = senders.world.send(sent(&senders, time)).await.expect(200);
    let operation = first.body["operations"][0]["id"].clone();
    let mut tried = 0;
    for restart in [false, true] {
        if restart {
            senders.world.restart().await;
        }
        for moment in [time, time - 100, now(), time + 60] {
            // The attacker has only recorded the first; signing it again does not make it another message.
            let again = senders.world.send(sent(&senders, moment)).await.expect(200);
            assert_eq!(
                (&again.body["operations"][0]["id"], again.header("idempotency-replayed")),
                (&operation, "true")
            );
            tried += 1;
        }
        let altered = HIRED.replace("jane", "john");
        senders.world.send(senders.standard("m", time, &altered)).await.problem(422, "idempotency-key-reused");
        tried += 1;
    }
    let accepted: Vec<Value> = senders.world.events("accepted").await;
    assert_eq!((accepted.len(), senders.world.assigns().await.len()), (1, 1));
    senders.world.end().await;
    let told = format!("attacks: messages that were recorded: {tried} tried, 0 accepted\n");
    std::io::stderr().write_all(told.as_bytes()).unwrap();
}
