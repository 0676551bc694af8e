//! Reading configurations and assignments.

use serde_json::{Value, json};

use crate::world::{CONFIGURATIONS, DEFAULT_LIMIT, NOTICE, SALES_ESP, World, got};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_forms_of_a_key_and_encoded_ones_find_a_configuration() {
    let world = World::start().await;
    let encoded = SALES_ESP.replace('_', "%5F");
    for path in
        [format!("/{SALES_ESP}"), format!("('{SALES_ESP}')"), format!("(%27{SALES_ESP}%27)"), format!("/{encoded}")]
    {
        let found = world.get(&format!("{CONFIGURATIONS}{path}")).await.expect(200);
        assert_eq!(found.body["displayName"], "Sales ESP");
        assert_eq!(world.get(&format!("{CONFIGURATIONS}{path}/assignments")).await.rows().len(), 4);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_or_truncated_id_is_not_found() {
    let world = World::start().await;
    for id in ["a0000000-0000-4000-8000-000000000001", "a0000000-0000-4000-8000-000000000009_Limit"] {
        let answer = world.get(&format!("{CONFIGURATIONS}/{id}/assignments")).await.expect(404);
        assert_eq!(answer.code(), "ResourceNotFound");
        assert!(answer.message().starts_with("{\r\n  \"_version\": 3"), "{}", answer.message());
        world.assign(id, &[]).await.expect(404);
    }
    world.switch("unknown_configuration", "bad_request").await;
    assert_eq!(world.assign("x_Limit", &[]).await.expect(400).code(), "BadRequest");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_default_rows_share_one_guid_and_name() {
    let world = World::start().await;
    let answer = world.get(CONFIGURATIONS).await.expect(200);
    let defaults: Vec<&Value> = answer.rows().iter().filter(|row| row["priority"] == 0).collect();
    assert_eq!(defaults.len(), 4);
    for row in &defaults {
        assert!(row["id"].as_str().unwrap().starts_with("a0000000-0000-4000-8000-00000000dddd_Default"));
        assert_eq!(row["displayName"], "All users and all devices");
        assert_eq!((&row["version"], &row["roleScopeTagIds"]), (&json!(0), &json!([])));
        assert_eq!(row["createdDateTime"], "0001-01-01T00:00:00Z");
        assert!(!row["deviceEnrollmentConfigurationType"].as_str().unwrap().starts_with("default"));
    }
    assert!(world.assignments(DEFAULT_LIMIT).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn v1_lists_its_four_kinds_only_and_hides_the_type() {
    let world = World::start().await;
    let answer = world.get("/v1.0/deviceManagement/deviceEnrollmentConfigurations").await.expect(200);
    assert_eq!(answer.rows().len(), 7);
    assert!(answer.rows().iter().all(|row| row.get("deviceEnrollmentConfigurationType").is_none()));
    world.get(&format!("/v1.0/deviceManagement/deviceEnrollmentConfigurations/{NOTICE}")).await.expect(404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_after_the_sentinel_are_named_on_preference() {
    let world = World::start().await;
    let path = format!("{CONFIGURATIONS}/{NOTICE}");
    let kind = |body: &Value| body["deviceEnrollmentConfigurationType"].clone();
    assert_eq!(kind(&world.get(&path).await.body), "unknownFutureValue");
    let asked = world.authorized("GET", &path).header("prefer", "include-unknown-enum-members");
    assert_eq!(kind(&got(asked).await.body), "enrollmentNotificationsConfiguration");
    world.switch("future_members", "by_name").await;
    assert_eq!(kind(&world.get(&path).await.body), "enrollmentNotificationsConfiguration");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn types_stand_on_configurations_and_targets_and_on_assignments_only_when_asked() {
    let world = World::start().await;
    let path = format!("{CONFIGURATIONS}/{SALES_ESP}");
    let odata_type = "#microsoft.graph.windows10EnrollmentCompletionPageConfiguration";
    assert_eq!(world.get(&path).await.body["@odata.type"], odata_type);
    world.switch("configuration_types", "absent").await;
    assert_eq!(world.get(&path).await.body.get("@odata.type"), None);
    let full = |path: &str| world.authorized("GET", path).header("accept", "application/json;odata.metadata=full");
    assert_eq!(got(full(&path)).await.body["@odata.type"], odata_type);
    let assignments = got(full(&format!("{path}/assignments"))).await;
    assert_eq!(assignments.rows()[0]["@odata.type"], "#microsoft.graph.enrollmentConfigurationAssignment");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_are_linked_by_absolute_opaque_links() {
    let world = World::start().await;
    world.switch("page_size", 3).await;
    let assignments = format!("{CONFIGURATIONS}/{SALES_ESP}/assignments");
    for (path, rows) in [(format!("{CONFIGURATIONS}?$select=id"), 9), (assignments.clone(), 4)] {
        let mut seen = Vec::new();
        let mut next = Some(path);
        while let Some(path) = next {
            let page = world.get(&path).await.expect(200);
            assert!(page.rows().len() <= 3);
            seen.extend(page.rows().iter().map(|row| row["id"].as_str().unwrap().to_owned()));
            next = page.body["@odata.nextLink"].as_str().map(str::to_owned);
            assert!(next.iter().all(|link| link.starts_with(world.sandbox.url()) && link.contains("skiptoken=")));
        }
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), rows);
    }
    world.get(&format!("{assignments}?$skiptoken=3")).await.expect(400);
    world.switch("next_link_host", "foreign").await;
    let link = world.get(&assignments).await.body["@odata.nextLink"].as_str().unwrap().to_owned();
    assert!(link.starts_with("http://graph.example.net/beta/"), "{link}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_list_can_be_filtered_expanded_ordered_and_cut() {
    let world = World::start().await;
    let ids = async |query: &str| world.get(&format!("{CONFIGURATIONS}?{query}")).await.expect(200).rows().len();
    assert_eq!(ids("$filter=displayName eq 'Sales ESP'").await, 1);
    assert_eq!(ids("$filter=priority eq 0").await, 4);
    assert_eq!(ids("$filter=deviceEnrollmentConfigurationType eq 'LIMIT'").await, 2);
    assert_eq!(ids("$top=2&$orderby=priority").await, 2);
    let expanded = world.get(&format!("{CONFIGURATIONS}/{SALES_ESP}?$expand=assignments&$select=id,assignments")).await;
    assert_eq!(expanded.body["assignments"].as_array().unwrap().len(), 4);
    assert!(expanded.body.get("displayName").is_none());
    world.get(&format!("{CONFIGURATIONS}?$filter=endsWith(id,'Limit')")).await.expect(500);
    world.get(&format!("{CONFIGURATIONS}?$filter=version eq 1")).await.expect(500);
    world.get(&format!("{CONFIGURATIONS}?$search=Sales")).await.expect(400);
}
