//! Who may do what: the shipped policies, denials, and their audit records.

use serde_json::{Value, json};

use crate::{
    responses::Reply,
    world::{ASSIGNMENTS, EVERYTHING, KIOSK_ESP, NOTICE, SALES_ESP, Setup, World, add, group, remove},
};

/// Submits a change, and checks that only a denial results.
async fn denied(world: &World, caller: &str, body: &Value, words: &str) -> Reply {
    let before = world.events("denied").await.len();
    let problem = world.post(caller, ASSIGNMENTS, body, &[]).await.problem(403, "not-permitted");
    let detail = problem.body["detail"].as_str().unwrap();
    assert!(detail.contains(words), "{words} is not in {detail}");
    assert_eq!(problem.body["retryable"], false);
    let records = world.events("denied").await;
    assert_eq!(records.len(), before + 1);
    let record = &records[before];
    // The record has the id of the target, its caller the place in the request and the name of the configuration.
    let lacking = if body["ticket"].is_null() { ", without a ticket" } else { "" };
    assert!(detail.ends_with(&format!(" on {}{lacking}. Nothing was changed.", body["configuration"])), "{detail}");
    let bare = detail.split_once(" (/").or_else(|| detail.split_once(" on \"")).unwrap().0;
    assert!(record["caller"] == caller && record["reason"].as_str().unwrap().starts_with(bare), "{record:#}");
    assert_eq!((&record["trace_id"], &record["ticket"]), (&problem.body["trace_id"], &body["ticket"]));
    assert!(record["configuration"].is_string() && record["change"].is_object());
    assert!(world.assigns().await.is_empty() && world.events("accepted").await.is_empty());
    problem
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servicenow_changes_groups_of_its_configurations_with_a_ticket_and_nothing_else() {
    let world = World::start().await;
    let without_ticket = json!({"configuration": "Sales ESP", "add": [{"group": "Sales Laptops"}]});
    denied(&world, "servicenow", &without_ticket, "no policy permits it: add group (/add/0)").await;
    denied(&world, "servicenow", &add("Five devices", "Sales Laptops"), "no policy permits it").await;
    denied(&world, "servicenow", &remove("Five devices", "Sales Laptops"), "no policy permits it: remove").await;
    denied(&world, "servicenow", &add(NOTICE, "Sales Laptops"), "no policy permits it").await;
    let replace = json!({"configuration": "Sales ESP", "replace": [{"group": "Sales Laptops"}], "ticket": "R"});
    denied(&world, "servicenow", &replace, "no policy permits it: replace group (/replace/0)").await;
    let without_role = world.forge("servicenow", json!({"roles": []}), json!({})).await;
    let request = world.bare("POST", ASSIGNMENTS).bearer_auth(without_role).json(&add("Sales ESP", "Sales Laptops"));
    world.send(request).await.problem(403, "not-permitted");
    for reference in ["Sales ESP", "Kiosk ESP", "Corporate Windows only"] {
        world.change(&add(reference, "Sales Laptops")).await.succeeded("changed");
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denial_names_the_policy_that_forbids() {
    let world = World::with(Setup { policies: vec![EVERYTHING], ..Setup::default() }).await;
    for target in [json!({"all": "devices"}), json!({"all": "users"})] {
        for list in ["add", "remove", "replace"] {
            let body = json!({"configuration": "Kiosk ESP", list: [target], "ticket": "R"});
            denied(&world, "servicenow", &body, "forbidden by policy no-tenant-wide-targets").await;
        }
    }
    let clearing = json!({"configuration": "Kiosk ESP", "replace": [], "ticket": "R"});
    denied(&world, "servicenow", &clearing, "forbidden by policy no-clearing").await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_refused_target_refuses_the_whole_change() {
    let world = World::start().await;
    let targets = json!([{"group": "Sales Laptops"}, {"all": "users"}, {"group": "Sales Kiosks"}]);
    let body = json!({"configuration": "Sales ESP", "add": targets, "ticket": "R"});
    denied(&world, "servicenow", &body, "no-tenant-wide-targets: add all users (/add/1)").await;
    assert_eq!(world.groups(SALES_ESP).await.len(), 3);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_denied_does_not_learn_which_group_a_name_stands_for() {
    let world = World::start().await;
    let named = json!({"group": "Sales Laptops"});
    let (target, other) = (json!([named]), json!([{"group": "Sales Kiosks"}, named]));
    for (list, targets, place) in [("add", &target, "/add/0"), ("remove", &other, "/remove/0")] {
        let body = json!({"configuration": "Sales ESP", list: targets, "ticket": "R"});
        let problem = denied(&world, "portal", &body, &format!("no policy permits it: {list} group ({place})")).await;
        assert!(!problem.text.contains("b0000000-"), "{}", problem.text);
        let record = world.events("denied").await.pop().unwrap();
        assert!(record["reason"].as_str().unwrap().contains("group b0000000-"), "{record:#}");
    }
    for body in [
        json!({"configuration": "Sales ESP", "add": [named, named]}),
        json!({"configuration": "Sales ESP", "add": target, "remove": target}),
    ] {
        let problem = world.post("portal", ASSIGNMENTS, &body, &[]).await.problem(422, "invalid-change");
        assert!(!problem.text.contains("b0000000-"), "{}", problem.text);
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_portal_changes_kiosks_only_and_reads_its_own() {
    let world = World::start().await;
    denied(&world, "portal", &add("Sales ESP", "Sales Laptops"), "no policy permits it").await;
    world.post("portal", "/v1/plan", &add("Kiosk ESP", "Sales Kiosks"), &[]).await.problem(403, "not-permitted");
    let body = json!({"configuration": "Kiosk ESP", "add": [{"group": "Sales Kiosks"}]});
    let id = world.post("portal", ASSIGNMENTS, &body, &[]).await.succeeded("changed");
    world.get("portal", &format!("/v1/operations/{id}")).await.expect(200);
    world.get("servicenow", &format!("/v1/operations/{id}")).await.problem(404, "unknown-operation");
    let accepted = world.events("accepted").await.pop().unwrap();
    assert_eq!(accepted["policies"], json!(["portal-changes-kiosk-groups"]));
    assert_eq!(world.groups(KIOSK_ESP).await.len(), 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_helpdesk_sees_everything_and_changes_nothing() {
    let world = World::start().await;
    for body in [add("Sales ESP", "Sales Laptops"), add("Kiosk ESP", "Sales Kiosks")] {
        denied(&world, "helpdesk", &body, "no policy permits it").await;
        world.post("helpdesk", "/v1/plan", &body, &[]).await.expect(200);
    }
    let id = world.change(&add("Sales ESP", "Sales Laptops")).await.succeeded("changed");
    world.get("helpdesk", &format!("/v1/operations/{id}")).await.expect(200);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_tells_the_difference_and_writes_nothing() {
    let world = World::start().await;
    let body = json!({
        "configuration": "Sales ESP",
        "add": [{"group": "Sales Laptops"}, {"group": "Warehouse Tablets"}],
        "remove": [{"group": "Finance Laptops"}],
    });
    let plan = world.post("servicenow", "/v1/plan", &body, &[]).await.expect(200);
    assert_eq!(plan.body["configuration"], json!({"id": SALES_ESP, "name": "Sales ESP"}));
    assert_eq!(plan.body["effect"], "changed");
    let difference = &plan.body["difference"];
    assert_eq!(difference["added"], json!([{"group": group(1), "name": "Sales Laptops"}]));
    assert_eq!(difference["removed"], json!([{"group": group(5), "name": "Finance Laptops"}]));
    assert_eq!(difference["changed"][0]["target"], json!({"group": group(4), "name": "Warehouse Tablets"}));
    assert_eq!((&difference["before"], &difference["after"]), (&json!(3), &json!(3)));
    assert_ne!(plan.body["digest_before"], plan.body["digest_after"]);
    let summary = "adds group Sales Laptops; removes group Finance Laptops; changes the filter of group Warehouse Tablets; \
                   3 -> 3 assignments";
    assert_eq!(plan.body["summary"], summary);
    let because = "no policy permits it: add group (/add/0) on \"Sales ESP\", without a ticket";
    assert_eq!(plan.body["permission"], json!({"permitted": false, "because": because}), "it has no ticket");
    let ticketed = world.post("servicenow", "/v1/plan", &add("Sales ESP", "Sales Laptops"), &[]).await.expect(200);
    assert_eq!(ticketed.body["permission"], json!({"permitted": true, "policies": ["servicenow-changes-groups"]}));
    let nothing = json!({"configuration": "Sales ESP", "add": [{"group": "Head Office Laptops"}]});
    let nothing = world.post("servicenow", "/v1/plan", &nothing, &[]).await.expect(200);
    assert_eq!(nothing.body["effect"], "unchanged");
    assert_eq!(nothing.body["digest_before"], nothing.body["digest_after"]);
    assert_eq!(nothing.body["digest_before"], plan.body["digest_before"]);
    assert!(world.assigns().await.is_empty() && world.events("accepted").await.is_empty());
    world
        .post("servicenow", "/v1/plan", &add("Five devices", "Sales Laptops"), &[])
        .await
        .problem(403, "not-permitted");
    assert_eq!(world.events("denied").await[0]["action"], "plan");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_names_what_a_replacement_would_remove() {
    let world = World::with(Setup { policies: vec![EVERYTHING], ..Setup::default() }).await;
    let body = json!({"configuration": "Sales ESP", "replace": [{"group": group(1)}]});
    let plan = world.post("servicenow", "/v1/plan", &body, &[]).await.expect(200);
    let removed = plan.body["difference"]["removed"].as_array().unwrap();
    let names: Vec<_> = removed.iter().map(|target| target["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["Head Office Laptops", "Warehouse Tablets", "Finance Laptops"]);
    assert_eq!(removed[1]["filter"]["name"], "Corporate Windows");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_policy_that_permits_it_nobody_may_do_anything() {
    let policies = ["helpdesk.cedar", "portal.cedar", "servicenow.cedar"].map(|name| (name, "")).into();
    let world = World::with(Setup { policies, ..Setup::default() }).await;
    denied(&world, "servicenow", &add("Sales ESP", "Sales Laptops"), "no policy permits it").await;
    denied(&world, "portal", &add("Kiosk ESP", "Sales Kiosks"), "no policy permits it").await;
    world.post("helpdesk", "/v1/plan", &add("Sales ESP", "Sales Laptops"), &[]).await.problem(403, "not-permitted");
    let page = world.get("helpdesk", "/v1/operations").await.expect(200);
    assert_eq!(page.body["operations"], json!([]));
    world.end().await;
}
