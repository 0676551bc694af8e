//! Well-formed changes that cannot be made: names that match nothing, targets that a configuration does not accept.

use serde_json::{Value, json};

use crate::{
    responses::Reply,
    world::{ASSIGNMENTS, DEFAULT_ESP, EVERYTHING, FILTER, LIMIT, NOTICE, SALES_ESP, Setup, World, add, group, remove},
};

/// Policy permits everything here, so a refusal has another cause.
async fn open() -> World {
    World::with(Setup { policies: vec![EVERYTHING, ("guard.cedar", "")], ..Setup::default() }).await
}

async fn ask(world: &World, body: &Value) -> Reply {
    world.post("servicenow", ASSIGNMENTS, body, &[]).await
}

async fn refused(world: &World, body: &Value, code: &str, pointers: &[&str]) -> Reply {
    let problem = ask(world, body).await.problem(422, code);
    assert_eq!(problem.pointers(), pointers, "{body}: {}", problem.text);
    let planned = world.post("servicenow", "/v1/plan", body, &[]).await.problem(422, code);
    assert_eq!(planned.body["errors"], problem.body["errors"], "a plan says what the change would say");
    problem
}

async fn nothing_happened(world: World) {
    assert!(world.assigns().await.is_empty() && world.events("accepted").await.is_empty());
    let page = world.get("helpdesk", "/v1/operations").await.expect(200);
    assert_eq!(page.body["operations"], json!([]));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_that_does_not_exist_is_told_with_those_that_could_be_meant() {
    let world = open().await;
    for (reference, candidates) in [
        ("sales-esp", vec!["Sales ESP"]),
        ("ESP", vec!["Kiosk ESP", "Sales ESP"]),
        ("Quite different", vec![]),
        ("a0000000-0000-4000-8000-000000000001", vec![]),
        ("a0000000-0000-4000-8000-0000000000ff_Limit", vec![]),
    ] {
        let problem = ask(&world, &add(reference, "Sales Laptops")).await.problem(404, "unknown-configuration");
        let found = problem.body["candidates"].as_array().cloned().unwrap_or_default();
        let names: Vec<_> = found.iter().map(|it| it["name"].as_str().unwrap()).collect();
        assert_eq!(names, candidates, "{reference}");
        assert!(found.iter().all(|it| it["kind"] == "status-page" && it["id"].is_string()), "{found:?}");
    }
    nothing_happened(world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_cannot_be_made_is_on_record() {
    let world = open().await;
    let ask_for = |configuration: &str, target: &str| {
        let mut body = add(configuration, target);
        body["ticket"] = json!("RITM0010023");
        body
    };
    ask(&world, &ask_for("Quite different", "Sales Laptops")).await.problem(404, "unknown-configuration");
    let gone = "a0000000-0000-4000-8000-0000000000ff_Limit";
    ask(&world, &ask_for(gone, "Sales Laptops")).await.problem(404, "unknown-configuration");
    ask(&world, &ask_for("Sales ESP", &group(99))).await.problem(422, "unknown-target");
    ask(&world, &ask_for("Sales ESP", "sales kiosk")).await.problem(422, "unknown-target");
    let key = [("idempotency-key", "k"), ("prefer", "wait=25")];
    let done = world.post("servicenow", ASSIGNMENTS, &ask_for("Sales ESP", "Sales Kiosks"), &key).await;
    let done = done.succeeded("changed");
    let other = world.post("servicenow", ASSIGNMENTS, &ask_for("Sales ESP", &group(2)), &key).await;
    let other = other.problem(422, "idempotency-key-reused");
    // Plans and denied changes are not recorded as refused.
    world.post("servicenow", "/v1/plan", &ask_for("Quite different", "Sales Laptops"), &[]).await.expect(404);
    world.post("helpdesk", ASSIGNMENTS, &ask_for("Sales ESP", &group(2)), &[]).await.problem(403, "not-permitted");
    let records = world.events("refused").await;
    let told = |key: &str| records.iter().map(|record| record[key].as_str().unwrap_or("none")).collect::<Vec<_>>();
    assert_eq!(told("asked"), ["Quite different", gone, "Sales ESP", "Sales ESP", "Sales ESP"]);
    assert_eq!(told("configuration"), ["none", "none", SALES_ESP, SALES_ESP, SALES_ESP]);
    assert_eq!(told("trace_id")[4], other.body["trace_id"]);
    assert!(records.iter().all(|it| it["ticket"] == "RITM0010023" && it["caller"] == "servicenow"), "{records:#?}");
    let reasons = [
        "no configuration \"Quite different\"",
        gone,
        "/add/0/group: ",
        "did you mean \"Sales Kiosks\"?",
        done.as_str(),
    ];
    for (record, reason) in records.iter().zip(reasons) {
        assert!(record["reason"].as_str().unwrap().contains(reason), "{reason} is not in {record:#}");
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_record_of_a_refused_change_names_a_configuration_only_if_it_is_known_to_exist() {
    let settings = vec![("OPERATIONS__TARGETS_MAX", "1")];
    let world = World::with(Setup { settings, policies: vec![EVERYTHING], ..Setup::default() }).await;
    let gone = "a0000000-0000-4000-8000-0000000000ff_Limit";
    // Refused before Graph is asked whether there is such a configuration.
    let two =
        |configuration: &str| json!({"configuration": configuration, "add": [{"all": "users"}, {"all": "devices"}]});
    for configuration in [gone, SALES_ESP] {
        ask(&world, &two(configuration)).await.problem(422, "invalid-change");
    }
    world.change(&add(SALES_ESP, "Sales Kiosks")).await.succeeded("changed");
    ask(&world, &two(SALES_ESP)).await.problem(422, "invalid-change");
    let records = world.events("refused").await;
    let told = |key: &str| records.iter().map(|record| record[key].as_str().unwrap_or("none")).collect::<Vec<_>>();
    assert_eq!(told("asked"), [gone, SALES_ESP, SALES_ESP]);
    assert_eq!(told("configuration"), ["none", "none", SALES_ESP]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_that_cannot_be_made_and_come_too_fast_are_counted() {
    let edits = vec![("[graph]\n", "[audit]\ndenied_per_minute = 2\n\n[graph]\n".to_owned())];
    let mut world = World::with(Setup { edits, policies: vec![EVERYTHING], ..Setup::default() }).await;
    for number in 0..5 {
        ask(&world, &add(&format!("None {number}"), "Sales Laptops")).await.problem(404, "unknown-configuration");
    }
    world.restart().await;
    let records = world.events("refused").await;
    assert_eq!(records.len(), 3, "{records:#?}");
    let counted = &records[2];
    assert_eq!((&counted["repeated"]["count"], &counted["caller"]), (&json!(3), &json!("servicenow")));
    assert!(counted["token_id"].is_null() && counted["reason"].as_str().unwrap().contains("None 4"), "{counted:#}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_and_filters_that_do_not_exist_are_all_told() {
    let world = open().await;
    let filter = |name: &str| json!({"name": name, "mode": "include"});
    let body = json!({
        "configuration": "Sales ESP",
        "add": [
            {"group": "Sales Laptops"},
            {"group": group(99)},
            {"group": "sales kiosk"},
            {"group": "Sales Kiosks", "filter": filter("corporate")},
            {"group": "Nobody", "filter": filter("Nothing")},
        ],
        "remove": [{"group": "Quite different"}],
    });
    let pointers =
        ["/add/1/group", "/add/2/group", "/add/3/filter", "/add/4/filter", "/add/4/group", "/remove/0/group"];
    let problem = refused(&world, &body, "unknown-target", &pointers).await;
    let detail = |pointer: &str| {
        let errors = problem.body["errors"].as_array().unwrap();
        errors.iter().find(|error| error["pointer"] == pointer).unwrap()["detail"].as_str().unwrap()
    };
    assert!(detail("/add/2/group").contains("Sales Kiosks") && detail("/add/3/filter").contains("Corporate Windows"));
    nothing_happened(world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_in_the_form_of_none_is_no_group() {
    let world = open().await;
    let virtual_groups = ["acacacac-9df4-4c7d-9d50-4ef0226f57a9", "adadadad-808e-44e2-905a-0b7873a8a531"];
    let others = ["00000000-0000-0000-0000-000000000000", "b0000000-0000-4000-8000-00000000000", "{b0000000}"];
    for id in virtual_groups.into_iter().chain(others) {
        refused(&world, &add("Sales ESP", id), "unknown-target", &["/add/0/group"]).await;
    }
    for id in virtual_groups {
        refused(&world, &remove("Sales ESP", id), "unknown-target", &["/remove/0/group"]).await;
    }
    nothing_happened(world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_named_twice_or_both_ways_is_refused_whatever_it_is_called() {
    let world = open().await;
    let (alias, id, upper) = ("Sales Laptops", group(1), group(1).to_uppercase());
    for (body, pointers) in [
        (json!({"add": [{"group": alias}, {"group": id}]}), vec!["/add/1"]),
        (json!({"add": [{"group": id}, {"group": upper}]}), vec!["/add/1"]),
        (json!({"remove": [{"group": id}, {"group": "Sales Kiosks"}, {"group": alias}]}), vec!["/remove/2"]),
        (json!({"add": [{"group": alias}], "remove": [{"group": "Sales Kiosks"}, {"group": id}]}), vec!["/remove/1"]),
        (json!({"replace": [{"all": "users"}, {"all": "users"}]}), vec!["/replace/1"]),
        (json!({"add": [], "remove": []}), vec![""]),
        (json!({"add": []}), vec![""]),
    ] {
        let mut body = body;
        body["configuration"] = json!("Sales ESP");
        refused(&world, &body, "invalid-change", &pointers).await;
    }
    nothing_happened(world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_kind_does_not_take_is_refused_with_the_reason() {
    let world = open().await;
    let excluded = json!({"configuration": "Sales ESP", "add": [{"group": "Sales Laptops", "exclude": true}]});
    let problem = refused(&world, &excluded, "not-assignable", &["/add/0"]).await;
    assert!(problem.text.contains("exclusions"), "{}", problem.text);
    let filter = json!({"id": FILTER, "mode": "include"});
    for configuration in [LIMIT, NOTICE] {
        let targets = json!([{"all": "devices"}, {"group": "Sales Laptops", "filter": filter}, {"all": "users"}]);
        let body = json!({"configuration": configuration, "replace": targets});
        refused(&world, &body, "not-assignable", &["/replace/0", "/replace/1"]).await;
    }
    nothing_happened(world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_defaults_of_the_tenant_are_never_assigned() {
    let world = open().await;
    for suffix in ["DefaultLimit", "DefaultPlatformRestrictions", "DefaultWindowsHelloForBusiness"] {
        let id = format!("a0000000-0000-4000-8000-00000000dddd_{suffix}");
        refused(&world, &add(&id, "Sales Laptops"), "not-assignable", &["/configuration"]).await;
    }
    refused(&world, &remove(DEFAULT_ESP, "Sales Laptops"), "not-assignable", &["/configuration"]).await;
    let clear = json!({"configuration": DEFAULT_ESP, "replace": []});
    refused(&world, &clear, "not-assignable", &["/configuration"]).await;
    nothing_happened(world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn graph_that_cannot_be_asked_for_names_refuses_the_change_for_now() {
    for (effect, status, code) in [
        (json!({"kind": "answer", "status": 429, "retry_after": "7"}), 503, "graph-throttled"),
        (json!({"kind": "answer", "status": 401}), 502, "graph-not-authorised"),
        (json!({"kind": "answer", "status": 403}), 502, "graph-not-authorised"),
        (json!({"kind": "answer", "status": 200, "body": {"priority": "first"}}), 502, "present-set-unreadable"),
    ] {
        let world = open().await;
        world.fault(json!({"path_ends": SALES_ESP, "effect": effect})).await;
        let problem = ask(&world, &add("Sales ESP", "Sales Laptops")).await.problem(status, code);
        assert_eq!(problem.body["retryable"], true);
        if status == 503 {
            assert_eq!(problem.header("retry-after"), "7");
        }
        world.clear_faults().await;
        nothing_happened(world).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_may_not_be_read_leaves_ids_as_they_are() {
    let world = open().await;
    world.fault(json!({"path_ends": "/groups", "effect": {"kind": "answer", "status": 403}})).await;
    let answer = world.change(&add("Sales ESP", &group(1))).await;
    answer.succeeded("changed");
    assert_eq!(answer.body["difference"]["added"], json!([{"group": group(1)}]));
    assert!(world.groups(SALES_ESP).await.contains(&group(1)));
    world.end().await;
}
