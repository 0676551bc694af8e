//! Every endpoint of Graph, in both versions and with every value of every switch, checked against Microsoft's contract.

use serde_json::{Value, json};

use crate::{
    contract::{self, Ours},
    world::{DEFAULT_LIMIT, FILTER, KIOSK_ESP, SALES_ESP, World, got, group_target},
};

/// Valid calls and calls that are refused, under one version.
async fn called(world: &World, version: &str) {
    let rows = format!("/{version}/deviceManagement/deviceEnrollmentConfigurations");
    let assigned = got(world.authorized("GET", &format!("{rows}/{SALES_ESP}/assignments"))).await;
    let first = assigned.body["value"][0]["id"].as_str().unwrap_or("none").to_owned();
    let filters = format!("/{version}/deviceManagement/assignmentFilters");
    for path in [
        rows.clone(),
        format!("{rows}?$expand=assignments&$orderby=priority&$top=3"),
        format!("{rows}?$select=id,displayName&$filter=priority eq 0"),
        format!("{rows}?$filter=endswith(id,'x')"),
        format!("{rows}/{SALES_ESP}"),
        format!("{rows}('{SALES_ESP}')?$expand=assignments"),
        format!("{rows}/{DEFAULT_LIMIT}/assignments"),
        format!("{rows}/{SALES_ESP}/assignments/{first}"),
        format!("{rows}/a0000000-0000-4000-8000-000000000009_Limit"),
        format!("/{version}/groups?$top=3"),
        format!("/{version}/groups?$filter=startswith(displayName,'Sales')"),
        format!("/{version}/groups/b0000000-0000-4000-8000-000000000001"),
        format!("/{version}/groups/b0000000-0000-4000-8000-0000000000ff"),
        filters.clone(),
        format!("{filters}/{FILTER}"),
        format!("/{version}/devices"),
    ] {
        got(world.authorized("GET", &path)).await;
        got(world.request("GET", &path)).await.expect(401);
    }
    let everyone = json!({"@odata.type": "#microsoft.graph.allDevicesAssignmentTarget"});
    let excluded = json!({"@odata.type": "#microsoft.graph.exclusionGroupAssignmentTarget",
        "groupId": "b0000000-0000-4000-8000-000000000002"});
    for targets in [vec![], vec![json!({})], vec![everyone, group_target(1)], vec![excluded], vec![group_target(3)]] {
        let entries: Vec<_> = targets.iter().map(|target| json!({"target": target})).collect();
        let body = json!({"enrollmentConfigurationAssignments": entries});
        for id in [KIOSK_ESP, DEFAULT_LIMIT] {
            got(world.authorized("POST", &format!("{rows}/{id}/assign")).json(&body)).await;
        }
        got(world.authorized("GET", &format!("{rows}/{KIOSK_ESP}/assignments"))).await;
    }
    for (method, path) in [
        ("POST", format!("{rows}/{KIOSK_ESP}/assignments")),
        ("PATCH", format!("{rows}/{SALES_ESP}/assignments/{first}")),
        ("DELETE", format!("{rows}/{SALES_ESP}/assignments/{first}")),
        ("PATCH", format!("{rows}/{KIOSK_ESP}")),
        ("POST", format!("{rows}/{KIOSK_ESP}/setPriority")),
    ] {
        got(world.authorized(method, &path).json(&json!({"priority": 1}))).await;
    }
}

fn check(journal: &[Value]) {
    for call in journal {
        let faults = contract::faults(call, Ours::No);
        assert!(faults.is_empty(), "{faults:?} in {call}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_of_every_endpoint_is_as_microsoft_describes_it() {
    let world = World::start().await;
    for version in ["beta", "v1.0"] {
        called(&world, version).await;
    }
    let journal = world.journal().await;
    assert!(journal.len() > 80, "{}", journal.len());
    check(&journal);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_value_of_every_switch_gives_answers_as_microsoft_describes_them() {
    let world = World::start().await;
    let words = world.control("GET", "switches/words", None).await.expect(200).body;
    for (name, values) in words.as_object().unwrap() {
        for value in values.as_array().unwrap() {
            world.control("POST", "reset", None).await.expect(204);
            world.switch(name, value.clone()).await;
            for version in ["beta", "v1.0"] {
                called(&world, version).await;
            }
            let journal = world.journal().await;
            assert!(journal.len() > 80, "{name} {value}: {}", journal.len());
            check(&journal);
        }
    }
}
