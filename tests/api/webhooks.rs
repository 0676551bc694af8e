//! `POST /v1/webhooks/{source}`: signed events become changes, exactly once; unproven ones become nothing.

use aws_lc_rs::hmac;
use reqwest::RequestBuilder;
use serde_json::{Value, json};

use crate::{
    responses::Reply,
    webhook_senders::{HIRED, JOINER, SECRET, STANDARD_SECRET, WebhookSenders, base64, hex, now, standard_signature},
    world::{KIOSK_ESP, SALES_ESP, Setup, World, group},
};

/// The ids of the operations in a response.
fn ids(got: &Reply) -> Vec<String> {
    let operations = got.body["operations"].as_array().unwrap_or_else(|| panic!("{got:?}"));
    operations.iter().map(|operation| operation["id"].as_str().unwrap().to_owned()).collect()
}

/// Sends a message; returns the accepted operations.
async fn accepted(world: &World, request: RequestBuilder) -> Vec<String> {
    let got = world.send(request.header("prefer", "wait=20")).await.expect(200);
    assert_eq!(got.body["result"], "accepted", "{got:?}");
    ids(&got)
}

async fn refused(world: &World, request: RequestBuilder, status: u16, code: &str) -> Reply {
    world.send(request).await.problem(status, code)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signed_event_becomes_a_change_of_its_source() {
    let senders = WebhookSenders::start("standard-webhooks", STANDARD_SECRET, "", JOINER).await;
    let world = &senders.world;
    let got = world.send(senders.standard("msg_1", now(), HIRED)).await.expect(202);
    let [id] = ids(&got).try_into().unwrap();
    assert_eq!(got.header("location"), format!("/v1/operations/{id}"));
    assert!(got.headers.contains_key("retry-after"), "{got:?}");
    let operation = world.end_of(&id).await.body;
    assert_eq!(operation["state"], "succeeded");
    let fields = ["ticket", "requested_for", "comment", "caller"].map(|field| operation[field].as_str().unwrap());
    assert_eq!(fields, ["HR-7", "jane@contoso.com", "New in Sales", "servicenow"]);
    assert!(world.groups(SALES_ESP).await.contains(&group(1)));
    let event = world.events("accepted").await.pop().unwrap();
    let actor = ["caller", "issuer", "subject", "token_id"].map(|field| event[field].as_str().unwrap());
    assert_eq!(actor, ["servicenow", "webhook:hr", "standard-webhooks", "msg_1"]);
    senders.world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_preset_takes_what_its_vendor_signs_and_nothing_else() {
    let date = "2026-03-01T08:00:00Z";
    for (scheme, header, signature, timestamp) in [
        ("github", "X-Hub-Signature-256", format!("sha256={}", hex(HIRED)), None),
        ("jira", "X-Hub-Signature", format!("sha256={}", hex(HIRED)), None),
        ("greenhouse", "Signature", format!("sha256 {}", hex(HIRED)), None),
        ("deel", "x-deel-signature", hex(&format!("POST{HIRED}")).to_uppercase(), None),
        ("hibob", "Bob-Signature", base64(hmac::HMAC_SHA512, HIRED), None),
        ("servicenow-hmac", "x-sn-hmac-signature-256", base64(hmac::HMAC_SHA256, HIRED), None),
        (
            "zendesk",
            "X-Zendesk-Webhook-Signature",
            base64(hmac::HMAC_SHA256, &format!("{date}{HIRED}")),
            Some(("X-Zendesk-Webhook-Signature-Timestamp", date)),
        ),
        (
            "bamboohr",
            "X-BambooHR-Signature",
            hex(&format!("{HIRED}1772352000")),
            Some(("X-BambooHR-Timestamp", "1772352000")),
        ),
    ] {
        let senders = WebhookSenders::start(scheme, SECRET, "", JOINER).await;
        let world = &senders.world;
        let signed = |signature: &str, body: &str| {
            let request = senders.to_source(body.to_owned()).header(header, signature);
            timestamp.iter().fold(request, |request, (name, value)| request.header(*name, *value))
        };
        if timestamp.is_some() {
            // The vector has a fixed time, which is old by now: the signature is valid, the time is not.
            refused(world, signed(&signature, HIRED), 401, "stale-message").await;
        } else {
            assert_eq!(accepted(world, signed(&signature, HIRED)).await.len(), 1, "{scheme}");
            let again = world.send(signed(&signature, HIRED)).await.expect(200);
            assert_eq!(again.header("idempotency-replayed"), "true", "{scheme}");
            assert_eq!(world.events("accepted").await.len(), 1, "{scheme}");
        }
        refused(world, signed(&signature, &HIRED.replace("jane", "june")), 401, "invalid-signature").await;
        refused(world, signed("", HIRED), 401, "invalid-signature").await;
        refused(world, senders.to_source(HIRED), 401, "invalid-signature").await;
        senders.world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_timestamp_without_a_separator_is_signed_on_either_side() {
    let time = now().to_string();
    for (scheme, header, signature, timestamp) in [
        (
            "zendesk",
            "X-Zendesk-Webhook-Signature",
            base64(hmac::HMAC_SHA256, &format!("{time}{HIRED}")),
            "X-Zendesk-Webhook-Signature-Timestamp",
        ),
        ("bamboohr", "X-BambooHR-Signature", hex(&format!("{HIRED}{time}")), "X-BambooHR-Timestamp"),
    ] {
        let senders = WebhookSenders::start(scheme, SECRET, "", JOINER).await;
        let request =
            |signature: &str| senders.to_source(HIRED).header(header, signature).header(timestamp, time.as_str());
        // The opposite order, which some public code uses, is rejected.
        let wrong = [base64(hmac::HMAC_SHA256, &format!("{HIRED}{time}")), hex(&format!("{time}.{HIRED}"))];
        for wrong in wrong {
            refused(&senders.world, request(&wrong), 401, "invalid-signature").await;
        }
        assert_eq!(accepted(&senders.world, request(&signature)).await.len(), 1, "{scheme}");
        senders.world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_proven_is_refused_and_on_record() {
    let senders = WebhookSenders::start("standard-webhooks", STANDARD_SECRET, "", JOINER).await;
    let world = &senders.world;
    let (time, good) = (now(), now().to_string());
    let signature = standard_signature(STANDARD_SECRET, "m", &good, HIRED);
    let with = |id: &str, timestamp: &str, signature: &str| {
        let request = senders.to_source(HIRED).header("webhook-id", id).header("webhook-timestamp", timestamp);
        request.header("webhook-signature", signature)
    };
    let other = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    for request in [
        senders.to_source(HIRED),
        with("m", &good, &standard_signature(other, "m", &good, HIRED)),
        with("n", &good, &signature),
        with("m", &(time + 1).to_string(), &signature),
        with("m", &good, &signature[..signature.len() - 2]),
        with("m", &good, signature.trim_start_matches("v1,")),
        with("m", &good, &format!("v1a,{}", &signature[3..])),
        with("m", &good, &signature).header("webhook-signature", signature.clone()),
        with("m", &good, &signature).header("webhook-id", "m"),
        with("m", &good, "v1,\u{e9}"),
        with(&"m".repeat(300), &good, &signature),
    ] {
        let problem = refused(world, request, 401, "invalid-signature").await;
        assert_eq!(problem.header("www-authenticate"), "Signature realm=\"postern\"");
    }
    for stale in [time - 301, time + 330, 0] {
        refused(world, senders.standard("m", stale, HIRED), 401, "stale-message").await;
    }
    let soon = standard_signature(STANDARD_SECRET, "m", "soon", HIRED);
    refused(world, with("m", "soon", &soon), 401, "stale-message").await;
    let nowhere = world.bare("POST", "/v1/webhooks/nobody").body(HIRED);
    refused(world, nowhere, 404, "not-found").await;
    assert_eq!(
        world.send(world.bare("GET", "/v1/webhooks/hr")).await.problem(405, "method-not-allowed").header("allow"),
        "POST, OPTIONS"
    );
    let denied = world.events("denied").await;
    assert!(world.events("accepted").await.is_empty() && denied.len() == 15, "{denied:?}");
    for record in denied {
        assert_eq!((&record["action"], &record["subject"]), (&"authenticate".into(), &Value::Null));
        let reason = record["reason"].as_str().unwrap();
        assert!(reason.starts_with("webhooks hr: ") && !reason.contains("v1"), "{reason}");
    }
    senders.world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_sent_again_finds_its_operations_and_an_altered_one_is_refused() {
    let mut senders = WebhookSenders::start("standard-webhooks", STANDARD_SECRET, "", JOINER).await;
    let first = accepted(&senders.world, senders.standard("msg_1", now(), HIRED)).await;
    senders.world.restart().await;
    // A vendor's retry: the same id and body, signed at another time.
    let again = senders.world.send(senders.standard("msg_1", now() - 7, HIRED)).await.expect(200);
    assert_eq!((ids(&again), again.header("idempotency-replayed")), (first.clone(), "true"));
    let altered = HIRED
        .replace("Sales", "Kiosk")
        .replace("hired", "moved")
        .replace("\"id\"", "\"configurations\":[\"Kiosk ESP\"],\"groups\":\"Sales Kiosks\",\"id\"");
    for altered in [HIRED.replace("jane", "june"), altered] {
        let problem =
            refused(&senders.world, senders.standard("msg_1", now(), &altered), 422, "idempotency-key-reused").await;
        assert_eq!(problem.body["operation"]["id"], first[0].as_str());
    }
    // The key belongs to the source, apart from the caller's own keys.
    let body = crate::world::add("Sales ESP", "Sales Laptops");
    senders
        .world
        .post("servicenow", "/v1/assignments", &body, &[("idempotency-key", "msg_1")])
        .await
        .succeeded("unchanged");
    assert_eq!(senders.world.assigns().await.len(), 1);
    senders.world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_secrets_hold_during_a_rotation_and_files_are_read_again() {
    let new = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    let other = tempfile::tempdir().unwrap();
    let previous = other.path().join("previous");
    std::fs::write(&previous, STANDARD_SECRET).unwrap();
    let more = format!("previous_secret_file = \"{}\"", previous.display());
    let senders = WebhookSenders::start("standard-webhooks", new, &more, JOINER).await;
    let time = now().to_string();
    let by = |secret: &str, id: &str| {
        let request = senders.to_source(HIRED).header("webhook-id", id).header("webhook-timestamp", time.as_str());
        request.header("webhook-signature", standard_signature(secret, id, &time, HIRED))
    };
    accepted(&senders.world, by(new, "1")).await;
    accepted(&senders.world, by(STANDARD_SECRET, "2")).await;
    std::fs::remove_file(&previous).unwrap();
    refused(&senders.world, by(STANDARD_SECRET, "3"), 401, "invalid-signature").await;
    accepted(&senders.world, by(new, "4")).await;
    std::fs::write(senders.secrets.path().join("hr"), STANDARD_SECRET).unwrap();
    refused(&senders.world, by(new, "5"), 401, "invalid-signature").await;
    accepted(&senders.world, by(STANDARD_SECRET, "6")).await;
    std::fs::remove_file(senders.secrets.path().join("hr")).unwrap();
    let problem = refused(&senders.world, by(STANDARD_SECRET, "7"), 503, "keys-unavailable").await;
    assert_eq!(problem.body["retryable"], true);
    senders.world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_makes_several_changes_or_none() {
    let senders = WebhookSenders::start("standard-webhooks", STANDARD_SECRET, "", JOINER).await;
    let world = &senders.world;
    let moved = |configurations: Value| {
        let groups = ["Sales Laptops", "Sales Kiosks"];
        json!({"type": "employee.moved", "data": {"id": 8, "configurations": configurations, "groups": groups}})
            .to_string()
    };
    let both = accepted(world, senders.standard("m", now(), &moved(json!(["Sales ESP", "Kiosk ESP"])))).await;
    assert_eq!(both.len(), 2);
    for configuration in [SALES_ESP, KIOSK_ESP] {
        assert!(world.groups(configuration).await.is_superset(&[group(1), group(2)].into()), "{configuration}");
    }
    assert_eq!(world.operation(&both[1]).await.body["ticket"], "8");
    for nothing in [moved(json!([])), HIRED.replace("Sales", "Finance"), json!({"type": "other"}).to_string()] {
        let got = world.send(senders.standard("n", now(), &nothing)).await.expect(200);
        assert_eq!(got.body, json!({"result": "ignored", "operations": []}));
    }
    // One of them does not exist, so none is accepted.
    let one_unknown = moved(json!(["Sales ESP", "Nowhere ESP"]));
    let problem = refused(world, senders.standard("o", now(), &one_unknown), 404, "unknown-configuration").await;
    assert!(problem.body["detail"].as_str().unwrap().contains("rule mover"), "{problem:?}");
    assert_eq!(world.events("refused").await.pop().unwrap()["asked"], "Nowhere ESP");
    let again = moved(json!(["Sales ESP", "Kiosk ESP"]));
    assert_eq!(
        accepted(world, senders.standard("o", now(), &again)).await.len(),
        2,
        "a refused message is not used up"
    );
    senders.world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_rule_cannot_make_of_an_event_is_told_and_recorded() {
    let senders = WebhookSenders::start("standard-webhooks", STANDARD_SECRET, "", JOINER).await;
    let world = &senders.world;
    let lacks = json!({"type": "employee.hired", "data": {"department": "Sales", "id": 7}}).to_string();
    let problem = refused(world, senders.standard("1", now(), &lacks), 422, "event-not-mapped").await;
    let detail = problem.body["detail"].as_str().unwrap();
    assert!(detail.contains("rule joiner, requested_for") && problem.body["retryable"] == false, "{problem:?}");
    let past = HIRED.replace("\"id\":7", "\"id\":7,\"until\":\"2020-01-01T00:00:00Z\"");
    let problem = refused(world, senders.standard("5", now(), &past), 422, "invalid-change").await;
    assert_eq!(problem.pointers(), ["/until"]);
    let wrong = HIRED.replace("jane@", "jane\\n@");
    let problem = refused(world, senders.standard("2", now(), &wrong), 422, "event-not-mapped").await;
    assert_eq!(problem.body["errors"][0]["pointer"], "/requested_for");
    assert!(problem.body["errors"][0]["detail"].as_str().unwrap().contains("(rule joiner)"), "{problem:?}");
    let many: Vec<_> = (0..30).map(|_| "Sales ESP").collect();
    let many = json!({"type": "employee.moved", "data": {"id": 8, "configurations": many, "groups": "Sales Kiosks"}})
        .to_string();
    refused(world, senders.standard("3", now(), &many), 422, "event-not-mapped").await;
    for body in ["{", "{\"type\":1,\"type\":2}", &"[".repeat(500)] {
        refused(world, senders.standard("4", now(), body), 400, "malformed-json").await;
    }
    let recorded = world.events("denied").await;
    assert_eq!(recorded.len(), 3);
    assert!(recorded.iter().all(|event| event["action"] == "map" && event["issuer"] == "webhook:hr"), "{recorded:?}");
    assert!(world.events("accepted").await.is_empty());
    senders.world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policy_names_and_graph_are_asked_as_for_any_other_caller() {
    let senders = WebhookSenders::with("standard-webhooks", STANDARD_SECRET, "", JOINER, Setup::default()).await;
    let world = &senders.world;
    let moved = |configuration: &str, group: &str| {
        json!({"type": "employee.moved", "data": {"id": "R1", "configurations": [configuration], "groups": group}})
            .to_string()
    };
    // The shipped policy lets this caller change sales, kiosk and restriction only.
    let denied =
        refused(world, senders.standard("1", now(), &moved("Five devices", "Sales Kiosks")), 403, "not-permitted")
            .await;
    assert!(denied.body["detail"].as_str().unwrap().contains("rule mover"), "{denied:?}");
    assert_eq!(world.events("denied").await.len(), 1);
    let everyone = json!({"type": "employee.moved", "data": {"id": "R1", "configurations": ["Sales ESP"], "groups": [{"all": "users"}]}}).to_string();
    let denied = refused(world, senders.standard("2", now(), &everyone), 403, "not-permitted").await;
    assert!(denied.body["detail"].as_str().unwrap().contains("no-tenant-wide-targets"), "{denied:?}");
    refused(world, senders.standard("3", now(), &moved("Sales ESP", &group(99))), 422, "unknown-target").await;
    world.fault(json!({"path_ends": "/assign", "effect": {"kind": "answer", "status": 403}})).await;
    let failed = world.send(senders.standard("4", now(), HIRED).header("prefer", "wait=20")).await.expect(200);
    assert_eq!(failed.body["operations"][0]["state"], "failed", "sending it again would do nothing more");
    world.clear_faults().await;
    world.fault(json!({"path_ends": "", "effect": {"kind": "answer", "status": 503}})).await;
    let kiosk = moved(crate::world::NOTICE, "Sales Kiosks");
    let down = refused(world, senders.standard("5", now(), &kiosk), 503, "graph-unavailable").await;
    assert!(down.headers.contains_key("retry-after"));
    world.clear_faults().await;
    senders.world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn senders_that_cannot_sign_are_known_by_their_secret() {
    let senders = WebhookSenders::start("bearer", SECRET, "", JOINER).await;
    let world = &senders.world;
    let bearer = |secret: &str| senders.to_source(HIRED).header("authorization", format!("Bearer {secret}"));
    let problem = refused(world, bearer("a shared secret of 32 character"), 401, "invalid-signature").await;
    assert_eq!(problem.header("www-authenticate"), "Bearer realm=\"postern\"");
    refused(world, senders.to_source(HIRED), 401, "invalid-signature").await;
    refused(world, senders.to_source(HIRED).basic_auth("a", Some(SECRET)), 401, "invalid-signature").await;
    let first = accepted(world, bearer(SECRET).header("idempotency-key", "k")).await;
    assert_eq!(accepted(world, bearer(SECRET).header("idempotency-key", "k")).await, first);
    assert_ne!(accepted(world, bearer(SECRET)).await, first, "without a name it is another message");
    // In binary mode half of a CloudEvent is in headers; the holder of the secret vouches for them.
    let cloud = bearer(SECRET).header("ce-specversion", "1.0").header("ce-id", "7").header("ce-type", "employee.hired");
    let cloud = cloud.body(r#"{"id":7,"department":"Sales","mail":"jane@contoso.com"}"#);
    refused(world, cloud.try_clone().unwrap(), 400, "malformed-json").await;
    let cloud = cloud.header("ce-source", "/hr");
    let first = accepted(world, cloud.try_clone().unwrap()).await;
    assert_eq!(accepted(world, cloud).await, first, "source and id name a CloudEvent");
    senders.world.end().await;

    let basic = WebhookSenders::start("basic", "hr:a password of some length", "", JOINER).await;
    let by = |password: &str| basic.to_source(HIRED).basic_auth("hr", Some(password));
    let problem = refused(&basic.world, by("another password"), 401, "invalid-signature").await;
    assert_eq!(problem.header("www-authenticate"), "Basic realm=\"postern\"");
    accepted(&basic.world, by("a password of some length")).await;
    basic.world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forms_cloud_events_and_texts_are_events_too() {
    let rules = r#"
[[webhooks.rules]]
name = "any"
when = "event is mapping and event.kind is defined or data is defined and data.kind is defined"
configuration = "'Sales ESP'"
add = ["event.group if event.group is defined else data.group"]
"#;
    let senders = WebhookSenders::start("github", SECRET, "", rules).await;
    let world = &senders.world;
    let sent = |media: &str, body: &str| {
        let request = world.bare("POST", "/v1/webhooks/hr").header("content-type", media).body(body.to_owned());
        request.header("x-hub-signature-256", format!("sha256={}", hex(body)))
    };
    accepted(world, sent("application/x-www-form-urlencoded; charset=utf-8", "kind=move&group=Sales+Laptops")).await;
    accepted(world, sent("application/x-www-form-urlencoded", "kind=a&group=Sales+Laptops&group=Sales+Kiosks")).await;
    let envelope = |data: Value| {
        let mut event = json!({"specversion": "1.0", "id": "1", "source": "/hr", "type": "t"});
        event.as_object_mut().unwrap().extend(data.as_object().unwrap().clone());
        event.to_string()
    };
    let data = json!({"kind": "x", "group": "Sales Kiosks"});
    let structured = "application/cloudevents+json; charset=utf-8";
    accepted(world, sent(structured, &envelope(json!({"data": data})))).await;
    let packed = "eyJraW5kIjoieCIsImdyb3VwIjoiU2FsZXMgTGFwdG9wcyJ9";
    accepted(world, sent(structured, &envelope(json!({"data_base64": packed})))).await;
    for broken in [json!({"data_base64": "%"}), json!({"type": ""}), json!({"specversion": "2.0"})] {
        refused(world, sent(structured, &envelope(broken)), 400, "malformed-json").await;
    }
    // Nobody signed these headers.
    let binary = sent("application/json", &data.to_string()).header("ce-specversion", "1.0");
    refused(world, binary, 415, "unsupported-media-type").await;
    for media in ["application/cloudevents-batch+json", "application/xml", "multipart/form-data"] {
        refused(world, sent(media, "[]"), 415, "unsupported-media-type").await;
    }
    let got = world.send(sent("text/plain", "Ping test")).await.expect(200);
    assert_eq!(got.body["result"], "ignored");
    senders.world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_address_can_be_tried_out_before_there_is_a_secret() {
    let senders = WebhookSenders::start("hibob", SECRET, "origins = [\"eventgrid.azure.net\"]", JOINER).await;
    let world = &senders.world;
    for ping in ["Ping test", "\"Ping test\""] {
        assert_eq!(world.send(senders.to_source(ping)).await.expect(200).body["result"], "ignored");
    }
    refused(world, senders.to_source("Ping test!"), 401, "invalid-signature").await;
    let ask = |origin: &str| world.bare("OPTIONS", "/v1/webhooks/hr").header("webhook-request-origin", origin);
    let got = world.send(ask("eventgrid.azure.net").header("webhook-request-rate", "120")).await.expect(200);
    assert_eq!(
        (got.header("webhook-allowed-origin"), got.header("webhook-allowed-rate")),
        ("eventgrid.azure.net", "120")
    );
    let got = world.send(ask("elsewhere.test").header("webhook-request-rate", "120")).await.expect(200);
    assert!(!got.headers.contains_key("webhook-allowed-origin") && !got.headers.contains_key("webhook-allowed-rate"));
    assert_eq!(got.header("allow"), "POST, OPTIONS");
    refused(world, world.bare("OPTIONS", "/v1/webhooks/nobody"), 404, "not-found").await;
    senders.world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scheme_of_ones_own_and_a_message_id_from_the_body() {
    let more = "signature_header = \"X-Sig\"\nsignature_prefix = \"v0=\"\nsigned = \"v0:{timestamp}:{body}\"\ntimestamp_header = \"X-Time\"\nmessage_id = \"data.id\"\ntolerance = \"10m\"";
    let senders = WebhookSenders::start("hmac", SECRET, more, JOINER).await;
    let sent = |time: i64, body: &str| {
        let signature = format!("v0={}", hex(&format!("v0:{time}:{body}")));
        senders.to_source(body.to_owned()).header("X-Sig", signature).header("X-Time", time.to_string())
    };
    let first = accepted(&senders.world, sent(now() - 500, HIRED)).await;
    assert_eq!(accepted(&senders.world, sent(now(), HIRED)).await, first, "the body says which message it is");
    refused(&senders.world, sent(now(), &HIRED.replace("jane", "june")), 422, "idempotency-key-reused").await;
    refused(&senders.world, sent(now() - 700, HIRED), 401, "stale-message").await;
    let nameless = HIRED.replace("\"id\":7,", "");
    refused(&senders.world, sent(now(), &nameless), 422, "event-not-mapped").await;
    senders.world.end().await;
}

/// Signs a message with a language's published library; returns its output.
fn signed_by(program: &str, script: &str, message: [&str; 4]) -> String {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = if program.contains('/') { root.join(program) } else { program.into() };
    let mut command = std::process::Command::new(program);
    let ran = command.arg(root.join(script)).args(message).output().ok().filter(|ran| ran.status.success());
    let ran = ran.unwrap_or_else(|| panic!("{script} cannot be run: tests/webhooks/run installs what it needs"));
    String::from_utf8(ran.stdout).unwrap().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_published_libraries_sign_is_accepted() {
    let senders = WebhookSenders::start("standard-webhooks", STANDARD_SECRET, "", JOINER).await;
    let body = HIRED.replace("jane", "j\u{fc}rgen");
    for (program, script) in
        [("target/webhooks/python/bin/python", "tests/webhooks/sign.py"), ("node", "target/webhooks/node/sign.mjs")]
    {
        let (id, time) = (format!("msg_{program}"), now().to_string());
        let signature = signed_by(program, script, [STANDARD_SECRET, &id, &time, &body]);
        let request = senders.to_source(body.clone()).header("webhook-id", &id).header("webhook-timestamp", time);
        let request = request.header("webhook-signature", signature);
        assert_eq!(accepted(&senders.world, request).await.len(), 1, "{program}");
    }
    senders.world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_has_the_limits_of_the_caller_that_it_is() {
    let setup = Setup { settings: vec![("SERVER__CALLS_MAX", "2")], ..Setup::default() };
    let senders = WebhookSenders::with("standard-webhooks", STANDARD_SECRET, "", JOINER, setup).await;
    let nothing = r#"{"type":"other"}"#;
    for id in ["1", "2"] {
        let got = senders.world.send(senders.standard(id, now(), nothing)).await.expect(200);
        assert!(got.headers.contains_key("ratelimit"), "{got:?}");
        // An unproven event has no name to count it by.
        refused(&senders.world, senders.to_source(nothing), 401, "invalid-signature").await;
    }
    refused(&senders.world, senders.standard("3", now(), nothing), 429, "rate-limited").await;
    senders.world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_was_taken_in_part_is_taken_up_where_it_broke_off() {
    let setup = Setup {
        settings: vec![("OPERATIONS__PENDING_MAX", "1")],
        policies: vec![crate::world::EVERYTHING],
        ..Setup::default()
    };
    let senders = WebhookSenders::with("standard-webhooks", STANDARD_SECRET, "", JOINER, setup).await;
    let world = &senders.world;
    let configurations = ["Sales ESP", "Kiosk ESP"];
    let both = json!({"type": "employee.moved", "data": {"id": 8, "configurations": configurations, "groups": "Sales Kiosks"}});
    let both = both.to_string();
    world.hold("/assign").await;
    let full = refused(world, senders.standard("m", now(), &both), 503, "gateway-full").await;
    let event = world.events("accepted").await.pop().unwrap();
    let first = event["operation"].as_str().unwrap();
    let detail = full.body["detail"].as_str().unwrap();
    assert!(
        detail.contains(first) && detail.contains("rule mover") && detail.contains("takes up the rest"),
        "{detail}"
    );
    world.clear_faults().await;
    world.end_of(first).await;
    let ids = accepted(world, senders.standard("m", now(), &both)).await;
    assert_eq!((ids.len(), ids[0].as_str()), (2, first));
    assert_eq!(world.events("accepted").await.len(), 2);
    let again = world.send(senders.standard("m", now(), &both)).await.expect(200);
    assert_eq!(again.header("idempotency-replayed"), "true");
    senders.world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recorded_message_does_nothing_more_when_other_rules_are_in_force() {
    let mut senders = WebhookSenders::start("github", SECRET, "", JOINER).await;
    let recorded = |senders: &WebhookSenders| {
        senders.to_source(HIRED).header("x-hub-signature-256", format!("sha256={}", hex(HIRED)))
    };
    let first = accepted(&senders.world, recorded(&senders)).await;
    senders.world.change(&crate::world::remove("Sales ESP", &group(1))).await.succeeded("changed");
    // The operator writes another rule before the one that made the change.
    let file = senders.world.config_file();
    let settings = std::fs::read_to_string(&file).unwrap();
    let joiner = "[[webhooks.rules]]\nname = \"joiner\"";
    let another = "[[webhooks.rules]]\nname = \"kiosk\"\nwhen = \"event.type == 'employee.hired'\"\n\
                   configuration = \"'Kiosk ESP'\"\nadd = [\"'Sales Kiosks'\"]\nticket = \"data.id\"\n";
    std::fs::write(&file, settings.replace(joiner, &format!("{another}{joiner}"))).unwrap();
    senders.world.restart().await;
    let problem = refused(&senders.world, recorded(&senders), 422, "idempotency-key-reused").await;
    assert_eq!(problem.body["operation"]["id"], first[0].as_str());
    assert_eq!(senders.world.events("accepted").await.len(), 2);
    assert!(!senders.world.groups(SALES_ESP).await.contains(&group(1)), "it stays removed");
    senders.world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_that_nobody_signed_does_not_make_another_event_of_a_body() {
    let rules = r#"
[[webhooks.rules]]
name = "approved"
when = "event is mapping and event.state is defined and event.state == 'approved'"
configuration = "'Sales ESP'"
add = ["event.group"]
"#;
    let senders = WebhookSenders::start("github", SECRET, "", rules).await;
    let world = &senders.world;
    // Whoever wrote the title had no say in the state, until somebody sends the message again as a form.
    let opened = r#"{"state":"opened","title":"x&state=approved&group=Sales+Laptops&y="}"#;
    let sent = |media: &str, body: &str| {
        let request = world.bare("POST", "/v1/webhooks/hr").header("content-type", media).body(body.to_owned());
        request.header("x-hub-signature-256", format!("sha256={}", hex(body)))
    };
    let got = world.send(sent("application/json", opened)).await.expect(200);
    assert_eq!(got.body["result"], "ignored");
    for media in ["application/x-www-form-urlencoded", "text/plain"] {
        for body in [opened.to_owned(), format!(" \n{opened}"), format!("[{opened}]")] {
            let problem = refused(world, sent(media, &body), 415, "unsupported-media-type").await;
            assert!(problem.body["detail"].as_str().unwrap().contains("application/json"), "{problem:?}");
        }
    }
    assert!(world.events("accepted").await.is_empty());
    senders.world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_key_of_a_caller_takes_the_place_of_a_message() {
    let senders = WebhookSenders::start("standard-webhooks", STANDARD_SECRET, "", JOINER).await;
    let world = &senders.world;
    // Ids of messages can be foreseen, for instance if they are the numbers of tickets.
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, b"msg_1");
    let digest = digest.as_ref().iter().fold(String::new(), |written, byte| format!("{written}{byte:02x}"));
    let key = format!("webhook:hr:{digest}#0");
    let body = crate::world::add("Kiosk ESP", "Sales Kiosks");
    for key in [key.clone(), format!("\"{key}\"")] {
        let taken = world.post("servicenow", "/v1/assignments", &body, &[("idempotency-key", &key)]).await;
        taken.problem(400, "invalid-header");
    }
    let own = [("idempotency-key", "webhook:7"), ("prefer", "wait=25")];
    world.post("servicenow", "/v1/assignments", &body, &own).await.succeeded("changed");
    assert_eq!(accepted(world, senders.standard("msg_1", now(), HIRED)).await.len(), 1);
    senders.world.end().await;
}
