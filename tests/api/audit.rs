//! `GET /v1/audit`: what auditors see, what others do not, and continuing where a page ended.

use postern::audit::Verifier;
use serde_json::{Value, json};

use crate::{
    responses::Reply,
    world::{ASSIGNMENTS, KIOSK_ESP, SALES_ESP, Setup, World, add, group},
};

/// A token with the role that the shipped policy requires.
async fn auditor(world: &World) -> String {
    world.forge("helpdesk", json!({"roles": ["Assignments.Audit"]}), json!({})).await
}

async fn ask(world: &World, token: &str, path: &str) -> Reply {
    world.send(world.bare("GET", path).bearer_auth(token)).await
}

fn events(got: &Reply) -> Vec<&str> {
    got.body["records"].as_array().unwrap().iter().map(|record| record["event"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_auditor_reads_what_became_of_a_ticket_and_the_records_verify() {
    let world = World::start().await;
    let token = auditor(&world).await;
    let ticket = json!({"configuration": "Sales ESP", "add": [{"group": "Sales Laptops"}], "ticket": "RITM 7&8"});
    let id = world.change(&ticket).await.succeeded("changed");
    world.change(&add("Kiosk ESP", &group(2))).await.succeeded("changed");
    let all = ask(&world, &token, "/v1/audit").await.expect(200);
    let kinds = ["started-up", "configuration-loaded", "accepted", "started", "written", "settled"];
    assert_eq!(events(&all)[..6], kinds);
    assert_eq!(all.body["next"], Value::Null);
    let mut verifier = Verifier::default();
    for record in all.body["records"].as_array().unwrap() {
        verifier.feed(&record.to_string()).unwrap();
    }
    let of_ticket = ask(&world, &token, "/v1/audit?ticket=RITM%207%268").await.expect(200);
    assert_eq!(events(&of_ticket), ["accepted", "settled"]);
    let of_operation = ask(&world, &token, &format!("/v1/audit?operation={id}")).await.expect(200);
    assert_eq!(events(&of_operation), ["accepted", "started", "written", "settled"]);
    assert_eq!(of_operation.body["records"][2]["configuration"], SALES_ESP);
    let of_caller = ask(&world, &token, "/v1/audit?caller=servicenow").await.expect(200);
    assert_eq!(events(&of_caller), ["accepted", "accepted"]);
    let start = all.body["records"][4]["at"].as_str().unwrap();
    let since = ask(&world, &token, &format!("/v1/audit?from={start}&limit=1")).await.expect(200);
    assert!(since.body["records"][0]["at"].as_str().unwrap() >= start);
    let before = ask(&world, &token, &format!("/v1/audit?to={start}")).await.expect(200);
    assert!(before.body["records"].as_array().unwrap().iter().all(|record| record["at"].as_str().unwrap() < start));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_go_on_where_they_ended_and_a_cursor_waits_for_what_is_written_later() {
    let world = World::start().await;
    let token = auditor(&world).await;
    world.change(&add("Sales ESP", "Sales Laptops")).await.succeeded("changed");
    let all = ask(&world, &token, "/v1/audit").await.expect(200);
    let (mut records, mut path, mut cursor) = (Vec::new(), Some("/v1/audit?limit=2".to_owned()), Value::Null);
    while let Some(next) = path {
        let page = ask(&world, &token, &next).await.expect(200);
        let found = page.body["records"].as_array().unwrap();
        assert!(found.len() <= 2);
        records.extend(found.iter().cloned());
        path = page.body["next"].as_str().map(str::to_owned);
        cursor = page.body["cursor"].clone();
    }
    assert_eq!(json!(records), all.body["records"]);
    assert_eq!(cursor, all.body["cursor"]);
    let later = format!("/v1/audit?after={}", cursor.as_str().unwrap());
    let nothing = ask(&world, &token, &later).await.expect(200);
    assert_eq!((&nothing.body["records"], &nothing.body["cursor"]), (&json!([]), &cursor));
    world.change(&add("Sales ESP", "Sales Kiosks")).await.succeeded("changed");
    assert_eq!(events(&ask(&world, &token, &later).await.expect(200))[0], "accepted");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_cursors_and_invalid_queries_are_refused() {
    let world = World::start().await;
    let token = auditor(&world).await;
    let page = ask(&world, &token, "/v1/audit?limit=1").await.expect(200);
    let cursor = page.body["cursor"].as_str().unwrap().to_owned();
    // An existing position with a wrong hash, and positions that do not exist.
    let forged = |text: &str| {
        use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
        URL_SAFE_NO_PAD.encode(text)
    };
    let moved = forged("2.0123456789abcdef");
    for wrong in [&cursor[1..], "1", &moved, &forged("999.0123456789abcdef"), &forged("-1.0123456789abcdef")] {
        let got = ask(&world, &token, &format!("/v1/audit?after={wrong}")).await.problem(400, "invalid-query");
        assert_eq!(got.body["errors"][0]["pointer"], "/after", "{wrong}");
    }
    let wrong = "/v1/audit?operation=7&from=yesterday&to=2026-03-01&limit=0&state=failed";
    let got = ask(&world, &token, wrong).await.problem(400, "invalid-query");
    assert_eq!(got.body["errors"].as_array().unwrap().len(), 5, "{}", got.text);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_record_is_decided_on_and_the_gateways_own_need_a_permit_of_their_own() {
    const KIOSKS: (&str, &str) = (
        "kiosks.cedar",
        "@id(\"kiosk-auditors\")\npermit (principal == Postern::Caller::\"portal\", action == Postern::Action::\"audit\", \
         resource is Postern::Configuration)\nwhen { resource.tags.contains(\"kiosk\") };",
    );
    let world = World::with(Setup { policies: vec![KIOSKS], ..Setup::default() }).await;
    world.change(&add("Sales ESP", "Sales Laptops")).await.succeeded("changed");
    world.change(&add("Kiosk ESP", &group(2))).await.succeeded("changed");
    world.post("portal", ASSIGNMENTS, &add("Sales ESP", "Sales Laptops"), &[]).await.problem(403, "not-permitted");
    let portal = world.get("portal", "/v1/audit").await.expect(200);
    assert_eq!(events(&portal), ["accepted", "started", "written", "settled"]);
    for record in portal.body["records"].as_array().unwrap() {
        assert_eq!(record["configuration"], KIOSK_ESP);
    }
    for caller in ["servicenow", "helpdesk"] {
        let got = world.get(caller, "/v1/audit").await.expect(200);
        assert_eq!(got.body["records"], json!([]), "{caller}");
    }
    world.send(world.bare("GET", "/v1/audit")).await.problem(401, "unauthenticated");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_may_not_read_records_does_not_learn_that_there_are_any() {
    const KIOSKS: (&str, &str) = (
        "kiosks.cedar",
        "@id(\"kiosk-auditors\")\npermit (principal == Postern::Caller::\"portal\", action == Postern::Action::\"audit\", \
         resource is Postern::Configuration)\nwhen { resource.tags.contains(\"kiosk\") };",
    );
    let world = World::with(Setup { policies: vec![KIOSKS], ..Setup::default() }).await;
    let of_ticket =
        |configuration| json!({"configuration": configuration, "add": [{"group": group(2)}], "ticket": "R"});
    world.change(&of_ticket("Kiosk ESP")).await.succeeded("changed");
    let hidden = world.change(&of_ticket("Sales ESP")).await.succeeded("changed");
    let nothing = json!({"records": [], "next": null, "cursor": null});
    for (there, absent) in [
        (format!("operation={hidden}"), "operation=op_00000000000000000000000001"),
        ("ticket=R&caller=servicenow".to_owned(), "ticket=S"),
    ] {
        for query in [&there, absent] {
            let got = world.get("helpdesk", &format!("/v1/audit?{query}")).await.expect(200);
            assert_eq!(got.body, nothing, "{query}");
        }
    }
    // A caller who may read some records cannot tell that there are others after them.
    let kiosks = world.get("portal", "/v1/audit?ticket=R").await.expect(200);
    assert_eq!(events(&kiosks), ["accepted", "settled"]);
    let full = world.get("portal", "/v1/audit?ticket=R&limit=2").await.expect(200);
    assert_eq!(full.body, kiosks.body);
    assert_eq!(full.body["next"], Value::Null);
    let later = format!("/v1/audit?after={}", full.body["cursor"].as_str().unwrap());
    world
        .change(&json!({"configuration": "Kiosk ESP", "add": [{"group": group(1)}], "ticket": "R"}))
        .await
        .succeeded("changed");
    assert_eq!(events(&world.get("portal", &later).await.expect(200))[0], "accepted");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_are_not_decided_on_by_guesses_while_graph_cannot_tell_of_their_configuration() {
    const FIRST: (&str, &str) = (
        "first.cedar",
        "@id(\"all\")\npermit (principal == Postern::Caller::\"portal\", action == Postern::Action::\"audit\", resource);\n\
         @id(\"none-of-priority\")\nforbid (principal == Postern::Caller::\"portal\", action == Postern::Action::\"audit\", \
         resource is Postern::Configuration)\nwhen { resource.priority > 0 };",
    );
    let settings = vec![("GRAPH__ATTEMPTS_MAX", "1")];
    let mut world = World::with(Setup { settings, policies: vec![FIRST], ..Setup::default() }).await;
    let token = auditor(&world).await;
    world.change(&add("Sales ESP", &group(1))).await.succeeded("changed");
    let before = world.get("portal", "/v1/audit").await.expect(200);
    assert!(!events(&before).is_empty() && !events(&before).contains(&"accepted"));
    world.restart().await;
    world.fault(json!({"path_ends": SALES_ESP, "effect": {"kind": "answer", "status": 503}})).await;
    world.get("portal", "/v1/audit").await.problem(503, "graph-unavailable");
    // A caller whose policies depend on nothing from Graph does not need Graph.
    assert!(events(&ask(&world, &token, "/v1/audit").await.expect(200)).contains(&"accepted"));
    assert_eq!(world.get("servicenow", "/v1/audit").await.expect(200).body["records"], json!([]));
    world.clear_faults().await;
    let after = world.get("portal", "/v1/audit").await.expect(200);
    assert!(!events(&after).contains(&"accepted"), "{}", after.text);
    world.end().await;
}
