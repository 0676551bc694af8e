//! Exporting the trail: to a file, to a collector with outages; checkpoints; denials that come too fast.

use std::{
    fs,
    net::TcpListener,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use actix_web::{App, HttpResponse, HttpServer, dev::ServerHandle, web};
use postern::{
    audit::{ExportFormat, PublicKey, Signer, Verifier},
    store::Sqlite,
};
use serde_json::{Value, json};

use crate::world::{ASSIGNMENTS, Setup, World, add, group};

const KEY: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";
const OTHER_KEY: &str = "-----BEGIN PRIVATE KEY-----\n\
     MC4CAQAwBQYDK2VwBCIEICiFHmxB1qZOxj0ZSTA5NdNXsE3EFcEqrJds1QXty5Ap\n\
     -----END PRIVATE KEY-----\n";

/// With its own section for the audit trail.
fn with(audit: &str) -> Setup {
    let section = format!("[audit]\n{audit}\n\n[graph]\n");
    Setup { edits: vec![("[graph]\n", section)], ..Setup::default() }
}

/// The texts of all records.
async fn texts(world: &World) -> Vec<String> {
    Sqlite::read_audit(&world.store(), None, 1_000_000).await.unwrap().records
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_holds_the_whole_trail_after_every_stop() {
    let mut world = World::with(with("sinks = [\"file\"]\nfile = \"out/audit.jsonl\"")).await;
    let file = world.config_file().with_file_name("out").join("audit.jsonl");
    for number in [1, 2] {
        world.change(&add("Sales ESP", &group(number))).await.succeeded("changed");
        world.take_gateway().stop().await;
        let streamed = fs::read_to_string(&file).unwrap();
        assert_eq!(streamed.lines().collect::<Vec<_>>(), texts(&world).await);
        let mut verifier = Verifier::default();
        streamed.lines().for_each(|line| verifier.feed(line).unwrap());
        world.start_gateway().await;
    }
    world.end().await;
}

/// A collector that can be down, and the log bodies that it accepted.
#[derive(Default)]
struct Logs {
    down: AtomicBool,
    refused: AtomicBool,
    one_at_a_time: AtomicBool,
    takes_nothing: AtomicBool,
    taken: Mutex<Vec<Value>>,
}

async fn take(logs: web::Data<Arc<Logs>>, body: web::Json<Value>) -> HttpResponse {
    if logs.down.load(Ordering::SeqCst) {
        logs.refused.store(true, Ordering::SeqCst);
        return HttpResponse::ServiceUnavailable().finish();
    }
    let records = body["resourceLogs"][0]["scopeLogs"][0]["logRecords"].as_array().unwrap().clone();
    let takes_nothing = logs.takes_nothing.load(Ordering::SeqCst);
    if takes_nothing || (logs.one_at_a_time.load(Ordering::SeqCst) && records.len() > 1) {
        logs.refused.store(true, Ordering::SeqCst);
        return HttpResponse::PayloadTooLarge().finish();
    }
    logs.taken.lock().unwrap().extend(records);
    HttpResponse::Ok().json(json!({}))
}

/// Starts the collector; returns its URL.
fn collect(logs: &Arc<Logs>) -> (String, ServerHandle) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let state = web::Data::new(Arc::clone(logs));
    let app = move || {
        let size = web::JsonConfig::default().limit(16 * 1024 * 1024);
        App::new().app_data(state.clone()).app_data(size).route("/v1/logs", web::post().to(take))
    };
    let server = HttpServer::new(app).workers(1).disable_signals().listen(listener).unwrap().run();
    let handle = server.handle();
    drop(tokio::spawn(server));
    (url, handle)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_takes_small_bodies_only_gets_everything_in_its_order() {
    let logs = Arc::new(Logs::default());
    logs.one_at_a_time.store(true, Ordering::SeqCst);
    logs.takes_nothing.store(true, Ordering::SeqCst);
    let (url, handle) = collect(&logs);
    let telemetry = format!("\n[telemetry]\notlp_endpoint = \"{url}\"");
    let mut world = World::with(with(&format!("sinks = [\"otlp\"]\n{telemetry}"))).await;
    world.change(&add("Sales ESP", &group(1))).await.succeeded("changed");
    world.take_gateway().stop().await;
    // A collector that never accepted anything counts as not set up, so no records are given up for it.
    assert!(logs.refused.load(Ordering::SeqCst) && logs.taken.lock().unwrap().is_empty());
    logs.takes_nothing.store(false, Ordering::SeqCst);
    world.start_gateway().await;
    world.take_gateway().stop().await;
    let taken = std::mem::take(&mut *logs.taken.lock().unwrap());
    let bodies: Vec<_> = taken.iter().map(|log| log["body"]["stringValue"].as_str().unwrap().to_owned()).collect();
    assert_eq!(bodies, texts(&world).await);
    world.start_gateway().await;
    world.end().await;
    handle.stop(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_was_down_gets_everything_and_nobody_waited_for_it() {
    let logs = Arc::new(Logs::default());
    logs.down.store(true, Ordering::SeqCst);
    let (url, handle) = collect(&logs);
    let telemetry = format!("\n[telemetry]\notlp_endpoint = \"{url}\"");
    let mut world = World::with(with(&format!("sinks = [\"otlp\"]\nformat = \"ecs\"\n{telemetry}"))).await;
    world.change(&add("Sales ESP", &group(1))).await.succeeded("changed");
    world.take_gateway().stop().await;
    assert!(logs.refused.load(Ordering::SeqCst) && logs.taken.lock().unwrap().is_empty());
    logs.down.store(false, Ordering::SeqCst);
    world.start_gateway().await;
    world.take_gateway().stop().await;
    let taken = std::mem::take(&mut *logs.taken.lock().unwrap());
    let bodies: Vec<_> = taken.iter().map(|log| log["body"]["stringValue"].as_str().unwrap().to_owned()).collect();
    let expected: Vec<_> = texts(&world).await.iter().map(|text| ExportFormat::Ecs.line(text)).collect();
    assert_eq!(bodies, expected);
    let accepted = taken.iter().find(|log| log["eventName"] == "postern.audit.accepted").unwrap();
    let record: Value = serde_json::from_str(accepted["body"]["stringValue"].as_str().unwrap()).unwrap();
    assert_eq!((&accepted["severityText"], &accepted["traceId"]), (&json!("INFO"), &record["trace"]["id"]));
    world.start_gateway().await;
    world.end().await;
    handle.stop(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_stops_in_order_leaves_nothing_that_its_key_does_not_vouch_for() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("audit.key");
    fs::write(&key, KEY).unwrap();
    let mut world = World::with(with(&format!("key_file = {key:?}"))).await;
    world.change(&add("Sales ESP", &group(1))).await.succeeded("changed");
    world.restart().await;
    world.take_gateway().stop().await;
    let public = PublicKey::from_pem(&Signer::from_pem(KEY).unwrap().public().to_string()).unwrap();
    let mut verifier = Verifier::with_keys(vec![public]);
    texts(&world).await.iter().for_each(|text| verifier.feed(text).unwrap());
    let report = verifier.finish().unwrap();
    // At each start, and at the end if anything was written since.
    assert_eq!((report.unvouched, report.checkpoints), (Some(0), 3), "{report}");
    assert_eq!(report.by_others, [], "{report}");
    world.start_gateway().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_key_signs_from_the_next_checkpoint_on_and_what_is_none_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("audit.key");
    fs::write(&key, KEY).unwrap();
    let mut world = World::with(with(&format!("key_file = {key:?}"))).await;
    fs::write(&key, OTHER_KEY).unwrap();
    world.change(&add("Sales ESP", &group(1))).await.succeeded("changed");
    world.take_gateway().stop().await;
    let public = |pem: &str| Signer::from_pem(pem).unwrap().public().to_string();
    let keys = [KEY, OTHER_KEY].map(|pem| PublicKey::from_pem(&public(pem)).unwrap());
    let signed = |records: &[String]| {
        let records = records.iter().map(|text| serde_json::from_str::<Value>(text).unwrap());
        let signed = records.filter(|record| record["event"] == "signed-checkpoint");
        signed.map(|record| record["key_id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let first = signed(&texts(&world).await);
    assert!(first.len() == 2 && first[0] != first[1], "{first:?}");
    // A run that started with a key keeps signing with it while the file holds none.
    world.start_gateway().await;
    fs::write(&key, "none").unwrap();
    world.change(&add("Sales ESP", &group(2))).await.succeeded("changed");
    world.take_gateway().stop().await;
    let mut verifier = Verifier::with_keys(keys.to_vec());
    let records = texts(&world).await;
    for text in &records {
        verifier.feed(text).unwrap();
    }
    assert_eq!(verifier.finish().unwrap().unvouched, Some(0));
    assert_eq!(signed(&records)[1..], [first[1].as_str(); 3]);
    fs::write(&key, OTHER_KEY).unwrap();
    world.start_gateway().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn denials_that_come_too_fast_are_counted_and_hold_nothing_of_a_token() {
    let mut world = World::with(with("denied_per_minute = 2")).await;
    for number in 0..5 {
        let request = world.bare("GET", "/v1/operations").bearer_auth(format!("not-a-token-{number}"));
        world.send(request).await.problem(401, "invalid-token");
    }
    world.send(world.bare("GET", "/v1/operations")).await.problem(401, "unauthenticated");
    let expired = world.forge("servicenow", json!({"exp": 1_000_000}), json!({})).await;
    world.send(world.bare("GET", "/v1/operations").bearer_auth(&expired)).await.problem(401, "invalid-token");
    for _ in 0..4 {
        world.post("helpdesk", ASSIGNMENTS, &add("Sales ESP", &group(1)), &[]).await.problem(403, "not-permitted");
    }
    world.take_gateway().stop().await;
    let denied = world.events("denied").await;
    let (counted, single): (Vec<_>, Vec<_>) = denied.iter().partition(|record| record["repeated"].is_object());
    assert_eq!(single.len(), 2 + 1 + 1 + 2, "{single:#?}");
    let count = |action: &str| {
        let found = counted.iter().filter(|record| record["action"] == action);
        found.map(|record| record["repeated"]["count"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!((count("authenticate"), count("add")), (vec![3], vec![2]), "{counted:#?}");
    let add = counted.iter().find(|record| record["action"] == "add").unwrap();
    assert_eq!((&add["caller"], &add["token_id"]), (&json!("helpdesk"), &Value::Null));
    let moment = |key: &str| add["repeated"][key].as_str().unwrap().to_owned();
    assert!(moment("first") <= moment("last"));
    let nobody = single.iter().find(|record| record["action"] == "authenticate").unwrap();
    assert!(nobody.get("subject").is_none() && nobody.get("caller").is_none(), "{nobody}");
    let trail = texts(&world).await.concat();
    assert!(!trail.contains("not-a-token") && !trail.contains("eyJ"), "a part of a token is on record");
    world.start_gateway().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_count_of_denials_names_no_subject_if_there_were_several() {
    let mut world = World::with(with("denied_per_minute = 1")).await;
    let stranger = json!({"azp": "11111111-2222-4333-8444-555555555555", "appid": null, "client_id": null});
    let mut denied = Vec::new();
    for subject in ["first", "mallory", "alice", "alice"] {
        let mut claims = stranger.clone();
        claims["sub"] = json!(subject);
        denied.push(world.forge("helpdesk", claims, json!({})).await);
    }
    for token in &denied {
        world.send(world.bare("GET", "/v1/operations").bearer_auth(token)).await.problem(403, "unknown-caller");
    }
    for subject in ["first", "jane", "jane"] {
        let token = world.forge("helpdesk", json!({"sub": subject}), json!({})).await;
        let request = world.bare("POST", ASSIGNMENTS).bearer_auth(token).json(&add("Sales ESP", &group(1)));
        world.send(request).await.problem(403, "not-permitted");
    }
    world.take_gateway().stop().await;
    let mut counted = world.events("denied").await;
    counted.retain(|record| record["repeated"].is_object());
    let of = |action: &str| counted.iter().find(|record| record["action"] == action).unwrap();
    let (strangers, helpdesk) = (of("authenticate"), of("add"));
    assert_eq!((&strangers["repeated"]["count"], &helpdesk["repeated"]["count"]), (&json!(3), &json!(2)));
    // Mallory came first, and Alice last: the record must not blame either for all.
    assert_eq!((strangers.get("subject"), &strangers["issuer"]), (None, &json!("sandbox")), "{strangers}");
    assert_eq!(strangers["reason"], "no configured caller has the subjects of these tokens");
    assert_eq!((&helpdesk["subject"], &helpdesk["caller"]), (&json!("jane"), &json!("helpdesk")), "{helpdesk}");
    world.start_gateway().await;
    world.end().await;
}
