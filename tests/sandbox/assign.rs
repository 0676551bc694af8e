//! The assign action: replacement, validation, and what the switches decide.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::world::{
    ALL_USERS, CONFIGURATIONS, DEFAULT_LIMIT, FILTER, Got, KIOSK_ESP, RESTRICTION, SALES_ESP, World, got, group,
    group_target, groups_of,
};

const LIST: &str = "enrollmentConfigurationAssignments";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_assign_replaces_the_direct_assignments_as_a_whole() {
    let world = World::start().await;
    assert_eq!(world.assignments(SALES_ESP).await.len(), 4);
    let answer = world.assign(SALES_ESP, &[group_target(1), group_target(2)]).await.expect(204);
    assert!(answer.text.is_empty());
    let rows = world.assignments(SALES_ESP).await;
    assert_eq!(groups_of(&rows), [group(1), group(2), group(7)]);
    assert_eq!(rows[2]["source"], "policySets");
    assert_eq!(rows[0]["sourceId"], "a0000000-0000-4000-8000-000000000001");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successful_assign_answers_as_the_switch_says() {
    let world = World::start().await;
    world.switch("assign_answer", "ok_empty").await;
    assert!(world.assign(KIOSK_ESP, &[group_target(1)]).await.expect(200).text.is_empty());
    world.switch("assign_answer", "ok_json").await;
    assert_eq!(world.assign(KIOSK_ESP, &[group_target(1)]).await.expect(200).rows().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_assigns_at_once_the_last_in_the_journal_stands() {
    let world = World::start().await;
    let targets: Vec<Value> = (1..=7).map(group_target).collect();
    let answers = join_all(targets.iter().map(|target| world.assign(KIOSK_ESP, std::slice::from_ref(target)))).await;
    assert!(answers.iter().all(|answer| answer.status == 204));
    let journal = world.journal().await;
    let bodies: Vec<&Value> =
        journal.iter().filter(|call| call["method"] == "POST").map(|call| &call["request"]).collect();
    let last = &bodies.last().unwrap()[LIST][0]["target"]["groupId"];
    assert_eq!((bodies.len(), &json!(groups_of(&world.assignments(KIOSK_ESP).await))), (8, &json!([last])));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_list_clears_and_a_missing_one_changes_nothing() {
    let world = World::start().await;
    let before = world.assignments(SALES_ESP).await;
    for body in [json!({}), json!({LIST: null}), json!({"assignments": []}), json!({LIST: {}}), json!([])] {
        refused(world.assign_body(SALES_ESP, &body).await, 400, "BadRequest");
    }
    let torn = world.authorized("POST", &format!("{CONFIGURATIONS}/{SALES_ESP}/assign"));
    got(torn.header("content-type", "application/json").body("{\"enroll")).await.expect(400);
    assert_eq!(world.assignments(SALES_ESP).await, before);
    world.assign(SALES_ESP, &[]).await.expect(204);
    assert_eq!(groups_of(&world.assignments(SALES_ESP).await), [group(7)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_list_clears_by_switch_but_a_wrong_name_never_does() {
    let world = World::start().await;
    world.switch("missing_assignments", "clears").await;
    world.assign_body(SALES_ESP, &json!({"assignments": []})).await.expect(400);
    world.assign_body(SALES_ESP, &json!({LIST: null})).await.expect(204);
    assert_eq!(world.assignments(SALES_ESP).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sent_id_is_ignored_and_ids_are_made_of_three_parts() {
    let world = World::start().await;
    let all = json!({"@odata.type": "#microsoft.graph.allLicensedUsersAssignmentTarget"});
    let body = json!({LIST: [{"id": "mine", "target": all}, {"id": "mine", "target": group_target(1)}]});
    world.assign_body(KIOSK_ESP, &body).await.expect(204);
    let rows = world.assignments(KIOSK_ESP).await;
    let own = "a0000000-0000-4000-8000-000000000002";
    assert_eq!(rows[0]["id"], format!("{own}_{ALL_USERS}_{own}"));
    assert_eq!(rows[1]["id"], format!("{own}_{}_{own}", group(1)));
    let one = format!("{CONFIGURATIONS}/{KIOSK_ESP}/assignments/{}", rows[1]["id"].as_str().unwrap());
    assert_eq!(world.get(&one).await.expect(200).body, rows[1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exclusion_is_stored_as_an_inclusion() {
    let world = World::start().await;
    let spared = json!({"@odata.type": "#microsoft.graph.exclusionGroupAssignmentTarget", "groupId": group(1)});
    world.assign(KIOSK_ESP, std::slice::from_ref(&spared)).await.expect(204);
    let rows = world.assignments(KIOSK_ESP).await;
    assert_eq!(rows[0]["target"]["@odata.type"], "#microsoft.graph.groupAssignmentTarget");
    world.switch("exclusion_targets", "refused").await;
    world.assign(KIOSK_ESP, &[spared]).await.expect(400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_of_two_equal_targets_wins() {
    let world = World::start().await;
    let mut filtered = group_target(1);
    filtered["deviceAndAppManagementAssignmentFilterId"] = json!(FILTER);
    filtered["deviceAndAppManagementAssignmentFilterType"] = json!("include");
    let twice = [group_target(1), filtered];
    world.assign(KIOSK_ESP, &twice).await.expect(204);
    let rows = world.assignments(KIOSK_ESP).await;
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0]["target"]["deviceAndAppManagementAssignmentFilterType"], "none");
    world.switch("duplicate_targets", "refused").await;
    world.assign(KIOSK_ESP, &twice).await.expect(400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_needs_a_concrete_type_with_or_without_its_hash() {
    let world = World::start().await;
    let typed = |name: &str| json!({"@odata.type": name, "groupId": group(1), "collectionId": "C1"});
    for name in
        ["microsoft.graph.groupAssignmentTarget", "#microsoft.graph.configurationManagerCollectionAssignmentTarget"]
    {
        world.assign(KIOSK_ESP, &[typed(name)]).await.expect(204);
        assert_eq!(world.assignments(KIOSK_ESP).await.len(), 1);
    }
    for name in [
        "#microsoft.graph.deviceAndAppManagementAssignmentTarget",
        "#microsoft.graph.userTarget",
        "groupAssignmentTarget",
    ] {
        refused(world.assign(KIOSK_ESP, &[group_target(2), typed(name)]).await, 400, "BadRequest");
    }
    world.assign(KIOSK_ESP, &[json!({"groupId": group(1)})]).await.expect(400);
    let kept = world.assignments(KIOSK_ESP).await;
    assert_eq!((kept.len(), &kept[0]["target"]["collectionId"]), (1, &json!("C1")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_id_must_be_a_guid_and_need_not_be_known() {
    let world = World::start().await;
    let of = |id: &str| json!({"@odata.type": "#microsoft.graph.groupAssignmentTarget", "groupId": id});
    for id in ["Sales Laptops", "", ALL_USERS] {
        let answer = refused(world.assign(KIOSK_ESP, &[of(id)]).await, 400, "BadRequest");
        assert!(answer.message().contains("Invalid GroupId"), "{answer:?}");
    }
    let nobody = of("00000000-0000-4000-8000-000000000001");
    world.assign(KIOSK_ESP, std::slice::from_ref(&nobody)).await.expect(204);
    world.switch("unknown_groups", "refused").await;
    world.assign(KIOSK_ESP, &[nobody]).await.expect(400);
    assert_eq!(world.assignments(KIOSK_ESP).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_assignment_of_a_deleted_group_stays() {
    let world = World::start().await;
    world.control("DELETE", &format!("groups/{}", group(3)), None).await.expect(204);
    world.get(&format!("/beta/groups/{}", group(3))).await.expect(404);
    assert!(groups_of(&world.assignments(SALES_ESP).await).contains(&group(3).as_str()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_fields_of_a_target_are_kept_and_given_back() {
    let world = World::start().await;
    let mut target = group_target(1);
    target["ownerHint"] = json!({"team": ["sales"], "since": null});
    world.assign(KIOSK_ESP, std::slice::from_ref(&target)).await.expect(204);
    assert_eq!(world.assignments(KIOSK_ESP).await[0]["target"]["ownerHint"], target["ownerHint"]);
    let seeded = world.assignments(SALES_ESP).await;
    assert!(seeded.iter().any(|row| row["target"]["ownerHint"] == "kept"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policy_set_assignments_survive_or_vanish_by_switch() {
    let world = World::start().await;
    world.assign(SALES_ESP, &[group_target(7)]).await.expect(204);
    assert_eq!(groups_of(&world.assignments(SALES_ESP).await), [group(7), group(7)]);
    world.switch("policy_set_assignments", "dropped").await;
    world.assign(SALES_ESP, &[group_target(1)]).await.expect(204);
    assert_eq!(groups_of(&world.assignments(SALES_ESP).await), [group(1)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn v1_neither_shows_nor_keeps_filters() {
    let world = World::start().await;
    let path = format!("/v1.0/deviceManagement/deviceEnrollmentConfigurations/{SALES_ESP}");
    let shown = world.get(&format!("{path}/assignments")).await.expect(200);
    assert!(!shown.text.contains("Filter") && !shown.text.contains("source"), "{}", shown.text);
    let body = json!({LIST: [{"target": group_target(4)}]});
    world.switch("v1_filters", "kept").await;
    got(world.authorized("POST", &format!("{path}/assign")).json(&body)).await.expect(204);
    let filter = |rows: &[Value]| rows[0]["target"]["deviceAndAppManagementAssignmentFilterId"].clone();
    assert_eq!(filter(&world.assignments(SALES_ESP).await), FILTER);
    world.switch("v1_filters", "dropped").await;
    got(world.authorized("POST", &format!("{path}/assign")).json(&body)).await.expect(204);
    assert_eq!(filter(&world.assignments(SALES_ESP).await), Value::Null);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn default_configurations_are_refused_and_the_attempt_is_marked() {
    let world = World::start().await;
    refused(world.assign(DEFAULT_LIMIT, &[group_target(1)]).await, 403, "Forbidden");
    let marked = world.journal().await.pop().unwrap();
    assert_eq!(marked["violation"], "assign on a default configuration");
    world.switch("default_configurations", "bad_request").await;
    refused(world.assign(DEFAULT_LIMIT, &[]).await, 400, "BadRequest");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restrictions_can_be_closed_to_apps_by_switch() {
    let world = World::start().await;
    world.assign(RESTRICTION, &[group_target(6)]).await.expect(204);
    world.switch("restriction_kinds", "forbidden").await;
    let answer = refused(world.assign(RESTRICTION, &[]).await, 403, "Forbidden");
    assert!(answer.message().contains("Tenant is not Global Admin or Intune Service Admin"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filter_comes_with_its_type_or_not_at_all() {
    let world = World::start().await;
    let of = |id: Value, mode: Value| {
        let mut target = group_target(1);
        target["deviceAndAppManagementAssignmentFilterId"] = id;
        target["deviceAndAppManagementAssignmentFilterType"] = mode;
        target
    };
    for wrong in [of(json!("x"), json!("include")), of(json!(null), json!("exclude")), of(json!(FILTER), json!("some"))]
    {
        world.assign(KIOSK_ESP, &[wrong]).await.expect(400);
    }
    for right in [of(json!(FILTER), json!("exclude")), of(json!(null), json!("none")), of(json!(null), json!(null))] {
        world.assign(KIOSK_ESP, &[right]).await.expect(204);
        world.assignments(KIOSK_ESP).await;
    }
}

#[track_caller]
fn refused(answer: Got, status: u16, code: &str) -> Got {
    let answer = answer.expect(status);
    assert_eq!(answer.code(), code, "{}", answer.text);
    answer
}
