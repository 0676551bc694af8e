//! What reaches a group: the reverse lookup.

use serde_json::{Value, json};

use crate::{
    responses::Reply,
    world::{DEFAULT_ESP, FILTER, KIOSK_ESP, LIMIT, RESTRICTION, SALES_ESP, Setup, World, add, group, tenant},
};

async fn reach(world: &World, caller: &str, reference: &str) -> Reply {
    world.get(caller, &format!("/v1/groups/{reference}/assignments")).await
}

fn by(id: &str, name: &str, kind: &str, priority: u8) -> Value {
    json!({"id": id, "name": name, "kind": kind, "priority": priority})
}

/// Number of sets that the gateway read.
async fn sets_read(world: &World) -> usize {
    world.journal().await.iter().filter(|call| call["path"].as_str().unwrap().ends_with("/assignments")).count()
}

/// A tenant in which the warehouse's tablets are reached in every way.
fn reached() -> Value {
    let mut seed = tenant();
    let target = |source: &str| {
        let target = json!({"@odata.type": "#microsoft.graph.groupAssignmentTarget", "groupId": group(4)});
        json!({"source": source, "sourceId": "d0000000-0000-4000-8000-000000000001", "target": target})
    };
    seed["configurations"][0]["assignments"].as_array_mut().unwrap().push(target("policySets"));
    seed["configurations"][2]["assignments"].as_array_mut().unwrap().push(target("direct"));
    let future =
        json!({"@odata.type": "#microsoft.graph.configurationManagerCollectionAssignmentTarget", "collectionId": "S1"});
    seed["configurations"][1]["assignments"].as_array_mut().unwrap().push(json!({"target": future}));
    seed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_that_reaches_a_group_is_told_and_how() {
    let world = World::with(Setup { seed: Some(reached()), ..Setup::default() }).await;
    world.switch("page_size", 2).await;
    for reference in ["Warehouse%20Tablets", &group(4)] {
        let answer = reach(&world, "helpdesk", reference).await.expect(200);
        assert_eq!(answer.body["group"], json!({"id": group(4), "name": "Warehouse Tablets"}));
        let filter = json!({"id": FILTER, "name": "Corporate Windows", "mode": "include"});
        let sales = by(SALES_ESP, "Sales ESP", "status-page", 1);
        let (group, name) = (group(4), "Warehouse Tablets");
        let windows = by(RESTRICTION, "Corporate Windows only", "platform-restriction", 1);
        let of_group = json!([
            {"configuration": windows, "group": group, "name": name, "source": "direct"},
            {"configuration": sales, "group": group, "name": name, "filter": filter, "source": "direct"},
            {"configuration": sales, "group": group, "name": name, "source": "policy-set"},
        ]);
        assert_eq!(answer.body["assignments"], of_group);
        let limit = by(LIMIT, "Five devices", "device-limit", 1);
        let default = by(DEFAULT_ESP, "All users and all devices", "status-page", 0);
        let everyone = json!([
            {"configuration": limit, "all": "users", "source": "direct"},
            {"configuration": default, "all": "devices", "source": "direct"},
        ]);
        assert_eq!(answer.body["everyone"], everyone);
        assert_eq!(answer.body["unclear"][0]["configuration"]["id"], KIOSK_ESP);
        assert_eq!((answer.body["unclear"].as_array().unwrap().len(), &answer.body["complete"]), (1, &json!(true)));
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_is_found_by_name_and_a_deleted_one_by_id() {
    let world = World::start().await;
    let answer = reach(&world, "helpdesk", "Berlin%20Staff").await.expect(200);
    assert_eq!(answer.body["group"], json!({"id": group(7), "name": "Berlin Staff"}));
    assert_eq!(answer.body["assignments"][0]["source"], "policy-set");
    world.control("DELETE", &format!("groups/{}", group(3)), None).await.expect(204);
    let answer = reach(&world, "helpdesk", &group(3)).await.expect(200);
    assert_eq!(answer.body["group"], json!({"id": group(3)}));
    assert_eq!(answer.body["assignments"][0]["configuration"]["id"], SALES_ESP);
    assert_eq!(reach(&world, "helpdesk", "Sales%20Laptops").await.expect(200).body["assignments"], json!([]));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_and_ambiguous_groups_list_candidates() {
    let mut seed = tenant();
    let twins = [11, 12].map(|number| json!({"id": group(number), "displayName": "Twins"}));
    seed["groups"].as_array_mut().unwrap().extend(twins);
    let world = World::with(Setup { seed: Some(seed), ..Setup::default() }).await;
    let twins = reach(&world, "helpdesk", "Twins").await.problem(422, "ambiguous-name");
    let all = [11, 12].map(|number| json!({"id": group(number), "name": "Twins", "kind": "group"}));
    assert_eq!((&twins.body["candidates"], twins.body.get("errors")), (&json!(all), None));
    let near = reach(&world, "helpdesk", "berlin%20staff").await.problem(404, "unknown-group");
    assert_eq!(near.body["candidates"], json!([{"id": group(7), "name": "Berlin Staff", "kind": "group"}]));
    let everyone = reach(&world, "helpdesk", "adadadad-808e-44e2-905a-0b7873a8a531").await;
    assert!(everyone.problem(404, "unknown-group").text.contains("all devices"));
    for reference in ["%00", "%ff", "%27%20or%20true", &"x".repeat(3_000)] {
        reach(&world, "helpdesk", reference).await.problem(404, "unknown-group");
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_the_caller_may_read_is_told_and_it_is_said_that_there_may_be_more() {
    let world = World::with(Setup { seed: Some(reached()), ..Setup::default() }).await;
    let answer = reach(&world, "servicenow", "Warehouse%20Tablets").await.expect(200);
    assert_eq!(answer.body["assignments"].as_array().unwrap().len(), 3);
    assert_eq!((&answer.body["everyone"], &answer.body["complete"]), (&json!([]), &json!(false)));
    assert_eq!(sets_read(&world).await, 3, "what may not be told is not read");
    // A caller who may read nothing cannot even tell whether the group exists.
    for reference in ["Warehouse%20Tablets", "No%20such%20group"] {
        reach(&world, "portal", reference).await.problem(403, "not-permitted");
    }
    let records = world.events("denied").await;
    assert_eq!((records.len(), &records[0]["action"], &records[0]["caller"]), (2, &json!("read"), &json!("portal")));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_unreadable_set_fails_the_whole_lookup() {
    let world = World::start().await;
    let path = format!("/{KIOSK_ESP}/assignments");
    for (effect, status, code) in [
        (json!({"kind": "answer", "status": 200, "body": {"value": [{}]}}), 502, "present-set-unreadable"),
        (json!({"kind": "answer", "status": 403}), 502, "graph-not-authorised"),
        (json!({"kind": "answer", "status": 404}), 503, "graph-unavailable"),
        (json!({"kind": "answer", "status": 429, "retry_after": "7"}), 503, "graph-throttled"),
    ] {
        world.fault(json!({"path_ends": path, "effect": effect})).await;
        reach(&world, "helpdesk", &group(4)).await.problem(status, code);
        world.clear_faults().await;
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_who_ask_at_once_share_what_is_read() {
    let world = World::start().await;
    let before = reach(&world, "helpdesk", &group(1)).await.expect(200);
    assert_eq!(sets_read(&world).await, 9);
    let references: Vec<_> = (1..=7).cycle().take(70).map(group).collect();
    let answers = futures_util::future::join_all(references.iter().map(|id| reach(&world, "helpdesk", id))).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert!(sets_read(&world).await <= 18, "each asked for itself");
    // The set of one configuration is still read afresh, and shared reads decide no write.
    world.change(&add("Sales ESP", "Sales Laptops")).await.succeeded("changed");
    let path = format!("/v1/configurations/{SALES_ESP}/assignments");
    let shown = world.get("helpdesk", &path).await.expect(200);
    assert_eq!(shown.body["assignments"][0]["group"], group(1));
    assert_eq!(before.body["assignments"], json!([]));
    world.end().await;
}
