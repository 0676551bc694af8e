//! Groups and filters.

use serde_json::Value;

use crate::world::{ALL_USERS, FILTER, World, group};

async fn names(world: &World, query: &str) -> Vec<String> {
    let answer = world.get(&format!("/beta/groups?{query}")).await.expect(200);
    answer.rows().iter().map(|row| row["displayName"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_are_found_by_id_by_ids_and_by_name() {
    let world = World::start().await;
    let one = world.get(&format!("/v1.0/groups/{}", group(1))).await.expect(200);
    assert_eq!(one.body["displayName"], "Sales Laptops");
    for field in ["securityEnabled", "mailEnabled", "groupTypes"] {
        assert!(one.body.get(field).is_some(), "{field}");
    }
    assert_eq!(names(&world, &format!("$filter=id eq '{}'", group(2))).await, ["Sales Kiosks"]);
    let two = format!("$filter=id in ('{}', '{}')", group(6), group(7));
    assert_eq!(names(&world, &two).await, ["Sales Staff", "Berlin Staff"]);
    assert_eq!(names(&world, "$filter=displayName eq 'sales staff'").await, ["Sales Staff"]);
    assert_eq!(names(&world, "$filter=startswith(displayName,'Sales')").await.len(), 3);
    assert!(names(&world, "$filter=displayName eq 'O''Neill'").await.is_empty());
    assert_eq!(names(&world, "").await.len(), 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_in_may_list_fifteen_values() {
    let world = World::start().await;
    let list = |count: u8| (1..=count).map(|n| format!("'{}'", group(n))).collect::<Vec<_>>().join(",");
    assert_eq!(names(&world, &format!("$filter=id in ({})", list(15))).await.len(), 7);
    world.get(&format!("/beta/groups?$filter=id in ({})", list(16))).await.expect(400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn selected_fields_and_pages_are_honoured_and_other_options_refused() {
    let world = World::start().await;
    let page = world.get("/beta/groups?$select=id,displayName&$top=5").await.expect(200);
    let fields: Vec<&String> = page.rows()[0].as_object().unwrap().keys().collect();
    assert_eq!((page.rows().len(), fields), (5, vec![&"id".to_owned(), &"displayName".to_owned()]));
    let rest = world.get(page.body["@odata.nextLink"].as_str().unwrap()).await.expect(200);
    assert_eq!((rest.rows().len(), rest.body.get("@odata.nextLink")), (2, None));
    for query in
        ["$skip=1", "$count=true", "$search=x", "$top=1000", "$filter=displayName ne 'x'", "$filter=mail eq 'x'"]
    {
        world.get(&format!("/beta/groups?{query}")).await.expect(400);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_and_virtual_groups_do_not_exist() {
    let world = World::start().await;
    for id in [ALL_USERS, "00000000-0000-4000-8000-000000000001"] {
        let answer = world.get(&format!("/beta/groups/{id}")).await.expect(404);
        assert_eq!(answer.code(), "Request_ResourceNotFound");
    }
    world.get("/beta/groups/Sales").await.expect(400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_are_listed_in_beta() {
    let world = World::start().await;
    let path = "/beta/deviceManagement/assignmentFilters";
    let listed: Vec<Value> = world.get(path).await.expect(200).rows().to_vec();
    assert_eq!((listed.len(), &listed[0]["displayName"]), (1, &Value::from("Corporate Windows")));
    assert_eq!(world.get(&format!("{path}/{FILTER}")).await.expect(200).body, listed[0]);
    world.get("/v1.0/deviceManagement/assignmentFilters").await.expect(400);
}
