//! Listing configurations, and what is assigned to one at present.

use serde_json::{Value, json};

use crate::{
    responses::Reply,
    world::{
        DEFAULT_ESP, EVERYTHING, FILTER, KIOSK_ESP, LIMIT, NOTICE, RESTRICTION, SALES_ESP, Setup, World, add, group,
        tenant,
    },
};

const CONFIGURATIONS: &str = "/v1/configurations";

fn names(page: &Reply) -> Vec<&str> {
    page.body["configurations"].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap()).collect()
}

async fn assignments(world: &World, caller: &str, reference: &str) -> Reply {
    world.get(caller, &format!("{CONFIGURATIONS}/{reference}/assignments")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn configurations_are_listed_by_kind_and_priority_with_what_they_take() {
    let world = World::start().await;
    world.switch("page_size", 4).await;
    let all = world.get("helpdesk", CONFIGURATIONS).await.expect(200);
    let default = "All users and all devices";
    let by_kind = [
        default,
        "Five devices",
        "Welcome notice",
        "Corporate Windows only",
        default,
        default,
        "Sales ESP",
        "Kiosk ESP",
        default,
    ];
    assert_eq!((names(&all), &all.body["more"]), (by_kind.to_vec(), &json!(false)));
    let of = |id: &str| {
        let all = all.body["configurations"].as_array().unwrap();
        all.iter().find(|it| it["id"] == id).unwrap_or_else(|| panic!("no {id}")).clone()
    };
    let sales = json!({"id": SALES_ESP, "name": "Sales ESP", "kind": "status-page", "priority": 1, "tags": ["sales"],
        "default": false, "takes": ["groups", "all-users", "all-devices", "filters"]});
    assert_eq!(of(SALES_ESP), sales);
    assert_eq!((&of(LIMIT)["takes"], &of(LIMIT)["tags"]), (&json!(["groups", "all-users"]), &json!([])));
    assert_eq!((&of(DEFAULT_ESP)["default"], &of(DEFAULT_ESP)["takes"]), (&json!(true), &json!([])));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listing_is_searched_by_any_part_of_the_name() {
    let world = World::start().await;
    for (search, found) in [
        ("esp", vec!["Sales ESP", "Kiosk ESP"]),
        ("ALES%20e", vec!["Sales ESP"]),
        ("Corporate+W", vec!["Corporate Windows only"]),
        ("no%20such", vec![]),
        ("%25", vec![]),
    ] {
        let page = world.get("helpdesk", &format!("{CONFIGURATIONS}?search={search}")).await.expect(200);
        assert_eq!(names(&page), found, "{search}");
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_sees_the_configurations_that_policy_lets_it_read() {
    let world = World::start().await;
    let all = world.get("servicenow", CONFIGURATIONS).await.expect(200);
    assert_eq!(names(&all), ["Corporate Windows only", "Sales ESP", "Kiosk ESP"]);
    let none = world.get("portal", CONFIGURATIONS).await.expect(200);
    assert_eq!(none.body, json!({"configurations": [], "more": false}));
    let roleless = world.forge("servicenow", json!({"roles": []}), json!({})).await;
    let none = world.send(world.bare("GET", CONFIGURATIONS).bearer_auth(roleless)).await.expect(200);
    assert_eq!(names(&none), Vec::<&str>::new());
    world.send(world.bare("GET", CONFIGURATIONS)).await.problem(401, "unauthenticated");
    let denied = world.events("denied").await;
    assert!(denied.len() == 1 && denied[0]["action"] == "authenticate", "{denied:#?}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_present_set_is_shown_in_the_words_of_a_change_with_its_digest_as_tag() {
    let world = World::start().await;
    let shown = assignments(&world, "helpdesk", "Sales%20ESP").await.expect(200);
    let filter = json!({"id": FILTER, "name": "Corporate Windows", "mode": "include"});
    let direct = json!([
        {"group": group(3), "name": "Head Office Laptops", "source": "direct"},
        {"group": group(4), "name": "Warehouse Tablets", "filter": filter, "source": "direct"},
        {"group": group(5), "name": "Finance Laptops", "source": "direct"},
        {"group": group(7), "name": "Berlin Staff", "source": "policy-set"},
    ]);
    assert_eq!(shown.body["assignments"], direct);
    assert_eq!(shown.body["configuration"], json!({"id": SALES_ESP, "name": "Sales ESP"}));
    let plan = world.post("helpdesk", "/v1/plan", &add("Sales ESP", "Sales Laptops"), &[]).await.expect(200);
    let digest = plan.body["digest_before"].as_str().unwrap();
    assert_eq!(shown.body["digest"], digest);
    assert!(shown.header("etag").starts_with(&format!("\"{digest}.")), "{}", shown.header("etag"));
    assert_eq!(shown.header("cache-control"), "private, no-cache");
    let everyone = assignments(&world, "helpdesk", "Five%20devices").await.expect(200);
    assert_eq!(everyone.body["assignments"], json!([{"all": "users", "source": "direct"}]));
    let empty = assignments(&world, "helpdesk", "Kiosk%20ESP").await.expect(200);
    assert_eq!(empty.body["assignments"], json!([]));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_set_is_read_anew_each_time_and_only_sent_if_it_is_not_known() {
    let world = World::start().await;
    let path = format!("{CONFIGURATIONS}/{SALES_ESP}/assignments");
    let tag = world.get("helpdesk", &path).await.expect(200).header("etag").to_owned();
    let ask = async |tags: String| {
        world.send(world.request("helpdesk", "GET", &path).await.header("if-none-match", tags)).await
    };
    for tags in [tag.clone(), format!("\"x\", W/{tag}"), "*".to_owned()] {
        let known = ask(tags).await.expect(304);
        assert_eq!((known.header("etag"), known.text.as_str()), (tag.as_str(), ""));
    }
    world.administrator_assigns(SALES_ESP, &[group(1)]).await;
    let changed = ask(tag.clone()).await.expect(200);
    assert_ne!(changed.header("etag"), tag);
    assert_eq!(changed.body["assignments"][0], json!({"group": group(1), "name": "Sales Laptops", "source": "direct"}));
    world.administrator_assigns(SALES_ESP, &[group(5), group(4), group(3)]).await;
    let unfiltered = ask(changed.header("etag").to_owned()).await.expect(200);
    assert_ne!(unfiltered.header("etag"), tag, "the filter is gone");
    // The same direct set, without what came from a policy set.
    world.switch("policy_set_assignments", "dropped").await;
    world.administrator_assigns(SALES_ESP, &[group(5), group(4), group(3)]).await;
    let dropped = ask(unfiltered.header("etag").to_owned()).await.expect(200);
    assert_eq!(dropped.body["digest"], unfiltered.body["digest"]);
    assert_ne!((&dropped.body, dropped.header("etag")), (&unfiltered.body, unfiltered.header("etag")));
    assert_eq!(ask(dropped.header("etag").to_owned()).await.expect(304).text, "");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_graph_holds_is_shown_and_names_are_left_out_where_they_cannot_be_had() {
    let mut seed = tenant();
    seed["apps"][0]["roles"] = json!(["DeviceManagementServiceConfig.ReadWrite.All"]);
    let collection = json!({"@odata.type": "#microsoft.graph.configurationManagerCollectionAssignmentTarget",
        "collectionId": "SMS00001"});
    seed["configurations"][0]["assignments"].as_array_mut().unwrap().push(json!({"target": collection}));
    let world = World::with(Setup { seed: Some(seed), ..Setup::default() }).await;
    world.switch("page_size", 2).await;
    let shown = assignments(&world, "helpdesk", SALES_ESP).await.expect(200);
    let rows = shown.body["assignments"].as_array().unwrap();
    assert_eq!(rows.len(), 5);
    assert_eq!(rows[0], json!({"group": group(3), "source": "direct"}));
    assert_eq!(rows[1]["filter"], json!({"id": FILTER, "mode": "include"}));
    assert!(rows[3]["other"].as_str().unwrap().contains("SMS00001"), "{rows:?}");
    assert_eq!(rows[4], json!({"group": group(7), "source": "policy-set"}));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_group_is_still_shown_by_its_id() {
    let world = World::start().await;
    world.control("DELETE", &format!("groups/{}", group(3)), None).await.expect(204);
    let shown = assignments(&world, "helpdesk", SALES_ESP).await.expect(200);
    assert_eq!(shown.body["assignments"][0], json!({"group": group(3), "source": "direct"}));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_in_a_path_is_decoded_once_and_found_by_id_alias_or_name() {
    let mut seed = tenant();
    seed["configurations"][4]["displayName"] = json!("100%25 a/b+c?d#e é");
    let world = World::with(Setup { seed: Some(seed), ..Setup::default() }).await;
    let encoded = "100%2525%20a%2Fb%2Bc%3Fd%23e%20%C3%A9";
    for (reference, id) in [
        (SALES_ESP, SALES_ESP),
        (&SALES_ESP.replace("a0", "A0"), SALES_ESP),
        (&SALES_ESP.replace('_', "%5F"), SALES_ESP),
        ("Corporate%20Windows%20only", RESTRICTION),
        (encoded, NOTICE),
        (&encoded.replace("%2B", "+"), NOTICE),
        (NOTICE, NOTICE),
    ] {
        let shown = assignments(&world, "helpdesk", reference).await.expect(200);
        assert_eq!(shown.body["configuration"]["id"], id, "{reference}");
    }
    let long = "x".repeat(3_000);
    for reference in ["Sales%2BESP", "Sales+ESP", "Sales%2520ESP", "%00", "%ff", "..%2F..", "sales%20esp", &long] {
        assignments(&world, "helpdesk", reference).await.problem(404, "unknown-configuration");
    }
    let defaults = assignments(&world, "helpdesk", "All%20users%20and%20all%20devices").await;
    let defaults = defaults.problem(422, "ambiguous-name");
    assert_eq!(defaults.body["candidates"].as_array().unwrap().len(), 4);
    assert!(defaults.body.get("errors").is_none());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_read_a_configuration_is_denied_on_record() {
    let world = World::start().await;
    for (caller, reference) in [("servicenow", "Five%20devices"), ("portal", "Kiosk%20ESP"), ("servicenow", NOTICE)] {
        let before = world.events("denied").await.len();
        let problem = assignments(&world, caller, reference).await.problem(403, "not-permitted");
        let records = world.events("denied").await;
        assert_eq!(records.len(), before + 1);
        let record = &records[before];
        assert_eq!(
            (&record["caller"], &record["action"], &record["change"]),
            (&json!(caller), &json!("read"), &Value::Null)
        );
        assert_eq!((&record["reason"], &record["trace_id"]), (&problem.body["detail"], &problem.body["trace_id"]));
        assert!(record["configuration"].is_string());
    }
    let sets = world.journal().await.iter().filter(|it| it["path"].as_str().unwrap().ends_with("/assignments")).count();
    assert_eq!(sets, 0, "what is denied is not read either");
    assignments(&world, "servicenow", "Kiosk%20ESP").await.expect(200);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn to_read_what_is_assigned_is_not_to_read_what_others_asked_for() {
    let world = World::start().await;
    let body = json!({"configuration": "Kiosk ESP", "add": [{"group": "Sales Kiosks"}]});
    let id = world.post("portal", crate::world::ASSIGNMENTS, &body, &[]).await.succeeded("changed");
    assert_eq!(
        assignments(&world, "servicenow", KIOSK_ESP).await.expect(200).body["assignments"][0]["group"],
        group(2)
    );
    world.get("servicenow", &format!("/v1/operations/{id}")).await.problem(404, "unknown-operation");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn graph_that_cannot_be_read_is_a_problem_and_never_a_short_answer() {
    let world = World::with(Setup { policies: vec![EVERYTHING], ..Setup::default() }).await;
    world
        .fault(json!({"path_ends": "/deviceEnrollmentConfigurations", "effect": {"kind": "answer", "status": 403}}))
        .await;
    world.get("servicenow", CONFIGURATIONS).await.problem(502, "graph-not-authorised");
    world.clear_faults().await;
    world.switch("page_size", 3).await;
    for (effect, status, code) in [
        (json!({"kind": "answer", "status": 200, "body": {"value": [{}]}}), 502, "present-set-unreadable"),
        (json!({"kind": "answer", "status": 429, "retry_after": "7"}), 503, "graph-throttled"),
    ] {
        world.fault(json!({"path_ends": "/assignments", "skip": 1, "effect": effect})).await;
        assignments(&world, "servicenow", SALES_ESP).await.problem(status, code);
        world.clear_faults().await;
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_whose_next_page_is_at_a_foreign_host_is_none() {
    let world = World::start().await;
    world.switch("page_size", 4).await;
    world.switch("next_link_host", "foreign").await;
    world.get("helpdesk", CONFIGURATIONS).await.problem(502, "present-set-unreadable");
    world.end().await;
}
