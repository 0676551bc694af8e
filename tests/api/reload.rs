//! Policies and catalogue that change while the gateway runs.

use std::fs;

use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _, SqliteConnection};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    process::{Process, vacant},
    responses::{Reply, got},
    webhook_senders::{HIRED, JOINER, SECRET, WebhookSenders},
    world::{ASSIGNMENTS, EVERYTHING, Setup, TRIES, World, add, group},
};

/// Reloads as often as the settings allow.
fn setup() -> Setup {
    Setup { settings: vec![("POLICY__RELOAD_INTERVAL", "100ms")], ..Setup::default() }
}

const FREEZE: &str = "@id(\"freeze\")\nforbid (principal, action == Postern::Action::\"plan\", resource);\n";

async fn plan(world: &World, reference: &str) -> Reply {
    world.post("servicenow", "/v1/plan", &add(reference, "Sales Laptops"), &[]).await
}

/// Polls until the response has the second status; until then it must have the first, with nothing in between.
async fn until(world: &World, reference: &str, (before, after): (u16, u16)) -> Reply {
    for _ in 0..TRIES {
        let answer = plan(world, reference).await;
        if answer.status == after {
            return answer;
        }
        assert_eq!(answer.status, before, "{}", answer.text);
    }
    panic!("the answer is still {before}");
}

/// Waits for that many records of an event.
async fn recorded(world: &World, event: &str, number: usize) -> Vec<Value> {
    for _ in 0..TRIES {
        let records = world.events(event).await;
        if records.len() >= number {
            assert_eq!(records.len(), number, "{records:?}");
            return records;
        }
        tokio::task::yield_now().await;
    }
    panic!("there are no {number} records of {event}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn decisions_follow_the_files_of_policies_without_a_restart() {
    let world = World::with(setup()).await;
    plan(&world, "Sales ESP").await.expect(200);
    let file = world.policies().join("freeze.cedar");
    fs::write(&file, FREEZE).unwrap();
    let denied = until(&world, "Sales ESP", (200, 403)).await;
    assert!(denied.body["detail"].as_str().unwrap().contains("forbidden by policy freeze"), "{}", denied.text);
    fs::remove_file(&file).unwrap();
    until(&world, "Sales ESP", (403, 200)).await;
    let loaded = recorded(&world, "configuration-loaded", 3).await;
    let digests: Vec<_> = loaded.iter().map(|record| record["policies"].clone()).collect();
    assert!(digests[0] == digests[2] && digests[0] != digests[1], "{digests:?}");
    assert_eq!(loaded[1]["callers"], json!(["servicenow", "helpdesk", "portal"]));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_faulty_file_is_refused_once_and_what_is_in_force_stays() {
    let world = World::with(setup()).await;
    let file = world.policies().join("freeze.cedar");
    fs::write(&file, "@id(\"freeze\")\nforbid (principal, action, resource) when { context.own };\n").unwrap();
    let refused = recorded(&world, "configuration-refused", 1).await;
    assert!(refused[0]["faults"][0].as_str().unwrap().contains("freeze.cedar:2: "), "{refused:?}");
    for _ in 0..20 {
        plan(&world, "Sales ESP").await.expect(200);
    }
    // A faulty settings file holds back valid policies, too: all or nothing.
    fs::write(&file, FREEZE).unwrap();
    let settings = fs::read_to_string(world.config_file()).unwrap();
    fs::write(world.config_file(), format!("{settings}\n[servr]\n")).unwrap();
    world.gateway().reload();
    let refused = recorded(&world, "configuration-refused", 2).await;
    assert!(refused[1]["faults"].to_string().contains("servr"), "{refused:?}");
    plan(&world, "Sales ESP").await.expect(200);
    assert_eq!(world.events("configuration-loaded").await.len(), 1);
    fs::write(world.config_file(), settings).unwrap();
    until(&world, "Sales ESP", (200, 403)).await;
    recorded(&world, "configuration-refused", 2).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_that_cannot_be_recorded_at_once_is_recorded_when_the_store_writes_again() {
    let mut world = vacant().await;
    let process = Process::start(&world, &[("POSTERN__POLICY__RELOAD_INTERVAL", "100ms")]);
    let mut other = SqliteConnection::connect(&format!("sqlite://{}", world.store().display())).await.unwrap();
    let broken = "CREATE TRIGGER broken BEFORE INSERT ON audit WHEN new.text LIKE '%configuration-refused%'
                  BEGIN SELECT RAISE(ABORT, 'the disk is full'); END";
    other.execute(broken).await.unwrap();
    let file = world.policies().join("freeze.cedar");
    fs::write(&file, "forbid (principal, action, resource) when { context.own };\n").unwrap();
    let counted = || async {
        let metrics = got(world.client.get(format!("{}/metrics", process.admin_url))).await.expect(200).text;
        let mut loads = metrics.lines().filter(|line| line.starts_with("postern_configuration_loads_total{"));
        loads.any(|line| line.contains("\"refused\"") && line.ends_with(" 1"))
    };
    for left in (0..TRIES).rev() {
        if counted().await {
            break;
        }
        assert!(left > 0, "the file is not refused");
    }
    other.execute("DROP TRIGGER broken").await.unwrap();
    other.close().await.unwrap();
    let refused = recorded(&world, "configuration-refused", 1).await;
    assert!(refused[0]["faults"][0].as_str().unwrap().contains("freeze.cedar:1: "), "{refused:?}");
    let (status, log) = process.stop();
    assert!(status.success(), "{status}: {log}");
    assert!(log.contains("the refusal cannot be recorded in the audit trail yet"), "{log}");
    assert_eq!(world.events("configuration-refused").await.len(), 1);
    fs::remove_file(&file).unwrap();
    world.start_gateway().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_catalogue_is_taken_up_with_its_tags() {
    let world = World::with(setup()).await;
    plan(&world, "Sellers ESP").await.problem(404, "unknown-configuration");
    let settings = fs::read_to_string(world.config_file()).unwrap();
    fs::write(world.config_file(), settings.replace("\"Sales ESP\"", "\"Sellers ESP\"")).unwrap();
    until(&world, "Sellers ESP", (404, 200)).await;
    let settings = settings.replace("tags = [\"sales\"]", "tags = []");
    fs::write(world.config_file(), settings).unwrap();
    until(&world, "Sales ESP", (200, 403)).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_of_webhooks_look_things_up_in_the_catalogue_in_force() {
    let setup = Setup { policies: vec![EVERYTHING], ..setup() };
    let rule = JOINER.replace("\"data.department ~ ' Laptops'\"", "\"catalogue.groups['Joiners']\"");
    let senders = WebhookSenders::with("bearer", SECRET, "", &rule, setup).await;
    let world = &senders.world;
    let sent =
        || senders.to_source(HIRED).header("authorization", format!("Bearer {SECRET}")).header("prefer", "wait=25");
    world.send(sent()).await.problem(422, "event-not-mapped");
    let settings = fs::read_to_string(world.config_file()).unwrap();
    let aliased = format!("[catalogue.groups]\n\"Joiners\" = \"{}\"\n", group(1));
    fs::write(world.config_file(), settings.replace("[catalogue.groups]\n", &aliased)).unwrap();
    let mut answer = world.send(sent()).await;
    for _ in 0..TRIES {
        if answer.status == 200 {
            break;
        }
        answer.problem(422, "event-not-mapped");
        answer = world.send(sent()).await;
    }
    assert_eq!(answer.expect(200).body["operations"][0]["change"]["add"][0]["group"], group(1).as_str());
    senders.world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_whose_body_takes_its_time_is_decided_by_what_is_in_force_when_it_is_there() {
    let setup = Setup { policies: vec![EVERYTHING], ..setup() };
    let senders = WebhookSenders::with("bearer", SECRET, "", JOINER, setup).await;
    let world = &senders.world;
    let token = world.token("servicenow").await;
    let change = add("Sales ESP", &group(1)).to_string();
    let mut calls = Vec::new();
    for (path, credential, body) in
        [("/v1/webhooks/hr", SECRET, HIRED), ("/v1/assignments", &token, &change), ("/v1/plan", &token, &change)]
    {
        let mut stream = TcpStream::connect(world.gateway().url().strip_prefix("http://").unwrap()).await.unwrap();
        let (first, rest) = body.split_at(20);
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: postern\r\ncontent-type: application/json\r\nconnection: close\r\n\
             authorization: Bearer {credential}\r\ncontent-length: {}\r\n\r\n{first}",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        calls.push((stream, rest.to_owned()));
    }
    let nothing = "@id(\"nothing\")\nforbid (principal, action == Postern::Action::\"add\", resource);\n";
    fs::write(world.policies().join("freeze.cedar"), format!("{FREEZE}{nothing}")).unwrap();
    until(world, "Sales ESP", (200, 403)).await;
    for (mut stream, rest) in calls {
        stream.write_all(rest.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("forbidden by policy"), "{answer}");
    }
    senders.world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_is_swapped_by_a_link_is_seen() {
    let world = World::with(setup()).await;
    let (link, one, two) =
        (world.policies(), world.policies().with_file_name("1"), world.policies().with_file_name("2"));
    fs::rename(&link, &one).unwrap();
    std::os::unix::fs::symlink(&one, &link).unwrap();
    fs::create_dir(&two).unwrap();
    for entry in fs::read_dir(&one).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), two.join(entry.file_name())).unwrap();
    }
    fs::write(two.join("freeze.cedar"), FREEZE).unwrap();
    let new = link.with_file_name("new");
    std::os::unix::fs::symlink(&two, &new).unwrap();
    fs::rename(&new, &link).unwrap();
    until(&world, "Sales ESP", (200, 403)).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_accepted_keeps_its_permit() {
    let world = World::with(setup()).await;
    world.hold("/assign").await;
    let running = world.begin(&add("Sales ESP", &group(1))).await;
    world.held(1).await;
    let queued = world.begin(&add("Sales ESP", &group(2))).await;
    let forbid = "@id(\"nothing\")\nforbid (principal, action == Postern::Action::\"add\", resource);\n";
    fs::write(world.policies().join("nothing.cedar"), forbid).unwrap();
    recorded(&world, "configuration-loaded", 2).await;
    world.post("servicenow", ASSIGNMENTS, &add("Sales ESP", &group(6)), &[]).await.problem(403, "not-permitted");
    world.clear_faults().await;
    for id in [running, queued] {
        world.end_of(&id).await.succeeded("changed");
    }
    world.end().await;
}
