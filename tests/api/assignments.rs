//! Adding, removing, replacing and filtering, and what is sent to Graph for it.

use serde_json::{Value, json};

use crate::{
    responses::is_trace_id,
    world::{
        EVERYTHING, FILTER, KIOSK_ESP, LIMIT, NOTICE, RESTRICTION, SALES_ESP, Setup, World, add, group, remove, target,
    },
};

/// The entries of the only assign call.
async fn posted(world: &World) -> Vec<Value> {
    let calls = world.assigns().await;
    assert_eq!(calls.len(), 1, "{calls:?}");
    let body = calls[0]["request"].as_object().unwrap();
    assert_eq!(body.keys().collect::<Vec<_>>(), ["enrollmentConfigurationAssignments"]);
    body["enrollmentConfigurationAssignments"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn adding_a_group_answers_the_whole_operation() {
    let world = World::start().await;
    let body = json!({
        "configuration": "Sales ESP",
        "add": [{"group": "Sales Laptops"}, {"group": "Sales Kiosks", "filter": {"name": "Corporate Windows", "mode": "include"}}],
        "ticket": "RITM0010023", "requested_for": "jane.doe@contoso.com", "comment": "New sales floor",
    });
    let answer = world.change(&body).await;
    let id = answer.succeeded("changed");
    let operation = &answer.body;
    assert!(id.starts_with("op_") && id.len() == 29, "{id}");
    assert_eq!(operation["configuration"], json!({"id": SALES_ESP, "name": "Sales ESP"}));
    let laptops = json!({"group": group(1), "name": "Sales Laptops"});
    let filter = json!({"id": FILTER, "name": "Corporate Windows", "mode": "include"});
    let kiosks = json!({"group": group(2), "name": "Sales Kiosks", "filter": filter});
    assert_eq!(operation["change"], json!({"add": [laptops, kiosks], "remove": []}));
    let difference = json!({"added": [laptops, kiosks], "removed": [], "changed": [], "before": 3, "after": 5});
    assert_eq!(operation["difference"], difference);
    for (field, value) in [
        ("ticket", "RITM0010023"),
        ("requested_for", "jane.doe@contoso.com"),
        ("comment", "New sales floor"),
        ("caller", "servicenow"),
    ] {
        assert_eq!(operation[field], value, "{field}");
    }
    let times = ["accepted_at", "started_at", "ended_at"].map(|field| operation[field].as_str().unwrap());
    assert!(times.is_sorted() && times.iter().all(|time| time.ends_with('Z')), "{times:?}");
    let graph = &operation["graph"];
    assert_eq!((&graph["writes"], &graph["merged_with"]), (&json!(1), &json!(0)));
    let call = &world.assigns().await[0];
    assert_eq!(graph["request_id"], call["request-id"]);
    assert_eq!(graph["client_request_id"], call["client-request-id"]);
    assert!(is_trace_id(&operation["trace_id"]));
    assert_eq!(operation["links"]["self"], format!("/v1/operations/{id}"));
    assert_eq!(&world.operation(&id).await.body, operation);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn graph_receives_the_whole_set_in_the_form_of_its_documentation() {
    let world = World::start().await;
    let before = world.assigned(SALES_ESP).await;
    world.change(&add("Sales ESP", "Sales Laptops")).await.succeeded("changed");
    let entries = posted(&world).await;
    assert_eq!(entries.len(), 4, "the three direct ones and the new one, not that of the policy set");
    for entry in &entries {
        let keys: Vec<_> = entry.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["@odata.type", "target"]);
        assert_eq!(entry["@odata.type"], "#microsoft.graph.enrollmentConfigurationAssignment");
        assert_eq!(entry["target"]["@odata.type"], "#microsoft.graph.groupAssignmentTarget");
    }
    let of = |number| {
        let target = entries.iter().map(|it| &it["target"]).find(|target| target["groupId"] == group(number));
        target.unwrap_or_else(|| panic!("group {number} is not in {entries:?}"))
    };
    assert_eq!(of(1), &target(&group(1)));
    assert_eq!(of(3), &target(&group(3)));
    assert_eq!(of(4)["deviceAndAppManagementAssignmentFilterId"], FILTER);
    assert_eq!(of(4)["deviceAndAppManagementAssignmentFilterType"], "include");
    assert_eq!(of(5)["ownerHint"], "kept");
    let after = world.assigned(SALES_ESP).await;
    let targets = |rows: &[Value]| rows.iter().map(|it| it["target"].clone()).collect::<Vec<_>>();
    let (before, after) = (targets(&before), targets(&after));
    assert_eq!(after.len(), before.len() + 1);
    assert!(before.iter().all(|target| after.contains(target)), "{after:?}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removing_a_group_leaves_the_others_as_they_are() {
    let world = World::start().await;
    let answer = world.change(&remove("Sales ESP", "Head Office Laptops")).await;
    answer.succeeded("changed");
    let removed = json!({"group": group(3), "name": "Head Office Laptops"});
    let difference = json!({"added": [], "removed": [removed], "changed": [], "before": 3, "after": 2});
    assert_eq!(answer.body["difference"], difference);
    assert_eq!(answer.body["change"], json!({"add": [], "remove": [removed]}));
    let left: Vec<_> = world.groups(SALES_ESP).await.into_iter().collect();
    assert_eq!(left, [group(4), group(5)]);
    assert_eq!(world.assigned(SALES_ESP).await.len(), 3, "that of the policy set stays");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replacement_names_the_whole_set() {
    let world = World::with(Setup { policies: vec![EVERYTHING], ..Setup::default() }).await;
    let body = json!({"configuration": "Sales ESP", "replace": [{"group": "Sales Laptops"}, {"group": group(5)}]});
    let answer = world.change(&body).await;
    answer.succeeded("changed");
    assert_eq!((&answer.body["difference"]["before"], &answer.body["difference"]["after"]), (&json!(3), &json!(2)));
    assert_eq!(answer.body["change"]["replace"].as_array().unwrap().len(), 2);
    let left: Vec<_> = world.groups(SALES_ESP).await.into_iter().collect();
    assert_eq!(left, [group(1), group(5)]);
    let kept = posted(&world).await.into_iter().find(|it| it["target"]["groupId"] == group(5)).unwrap();
    assert_eq!(kept["target"]["ownerHint"], "kept", "what stays keeps the fields that nobody named");
    world.change(&body).await.succeeded("unchanged");
    assert_eq!(world.assigns().await.len(), 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_replacement_clears_if_policy_permits_it() {
    let world = World::with(Setup { policies: vec![EVERYTHING, ("guard.cedar", "")], ..Setup::default() }).await;
    let answer = world.change(&json!({"configuration": "Sales ESP", "replace": []})).await;
    answer.succeeded("changed");
    assert!(posted(&world).await.is_empty() && world.groups(SALES_ESP).await.is_empty());
    world.change(&add("Sales ESP", "Sales Laptops")).await.succeeded("changed");
    assert_eq!(world.groups(SALES_ESP).await.len(), 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn adding_what_is_there_with_another_filter_changes_the_filter() {
    let world = World::start().await;
    let filtered = |mode: &str| {
        let target = json!({"group": "Warehouse Tablets", "filter": {"id": FILTER, "mode": mode}});
        json!({"configuration": "Sales ESP", "add": [target], "ticket": "RITM1"})
    };
    let answer = world.change(&filtered("exclude")).await;
    answer.succeeded("changed");
    let changed = &answer.body["difference"]["changed"];
    assert_eq!(changed[0]["target"]["filter"]["mode"], "exclude");
    assert_eq!(changed[0]["filter_before"]["mode"], "include");
    assert_eq!(changed.as_array().unwrap().len(), 1);
    let answer = world.change(&add("Sales ESP", "Warehouse Tablets")).await;
    answer.succeeded("changed");
    let row = world.assigned(SALES_ESP).await.into_iter().find(|it| it["target"]["groupId"] == group(4)).unwrap();
    assert_eq!(row["target"]["deviceAndAppManagementAssignmentFilterType"], "none");
    assert!(row["target"]["deviceAndAppManagementAssignmentFilterId"].is_null());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_makes_no_difference_writes_nothing() {
    let world = World::start().await;
    let there = world.change(&add("Sales ESP", "Head Office Laptops")).await;
    there.succeeded("unchanged");
    assert_eq!(there.body["graph"]["writes"], 0);
    assert!(there.body["graph"]["request_id"].is_null());
    world.change(&remove("Sales ESP", "Sales Laptops")).await.succeeded("unchanged");
    assert!(world.assigns().await.is_empty());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_was_deleted_can_still_be_removed_by_its_id() {
    let world = World::start().await;
    world.control("DELETE", &format!("groups/{}", group(3)), None).await.expect(204);
    let answer = world.change(&remove("Sales ESP", &group(3))).await;
    answer.succeeded("changed");
    assert_eq!(answer.body["difference"]["removed"], json!([{"group": group(3)}]));
    assert!(!world.groups(SALES_ESP).await.contains(&group(3)));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_is_named_by_alias_or_by_id() {
    let world = World::start().await;
    let upper = SALES_ESP.replace("a0000000", "A0000000");
    for (reference, number) in [("Sales ESP", 1), (SALES_ESP, 2), (&upper, 6)] {
        let answer = world.change(&add(reference, &group(number))).await;
        answer.succeeded("changed");
        assert_eq!(answer.body["configuration"]["id"], SALES_ESP);
    }
    assert_eq!(world.groups(SALES_ESP).await.len(), 6);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_of_several_configurations_do_not_meet() {
    let world = World::with(Setup { policies: vec![EVERYTHING], ..Setup::default() }).await;
    let wanted = [(SALES_ESP, 1, 4), (KIOSK_ESP, 2, 1), (RESTRICTION, 1, 2), (LIMIT, 1, 1), (NOTICE, 1, 1)];
    let changes = wanted.map(|(configuration, number, _)| add(configuration, &group(number)));
    let answers = futures_util::future::join_all(changes.iter().map(|change| world.change(change))).await;
    for (answer, (configuration, number, after)) in answers.iter().zip(wanted) {
        answer.succeeded("changed");
        let groups = world.groups(configuration).await;
        assert!(groups.contains(&group(number)) && groups.len() == after, "{configuration}: {groups:?}");
    }
    assert_eq!(world.assigns().await.len(), 5);
    let everyone = world.assigned(LIMIT).await;
    let all_users = "#microsoft.graph.allLicensedUsersAssignmentTarget";
    assert!(everyone.iter().any(|it| it["target"]["@odata.type"] == all_users), "{everyone:?}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everyone_can_be_a_target_where_policy_permits_it() {
    let world = World::with(Setup { policies: vec![EVERYTHING, ("guard.cedar", "")], ..Setup::default() }).await;
    let filter = json!({"name": "Corporate Windows", "mode": "exclude"});
    let body = json!({"configuration": "Kiosk ESP", "add": [{"all": "devices", "filter": filter}, {"all": "users"}]});
    world.change(&body).await.succeeded("changed");
    let types: Vec<_> = posted(&world).await.iter().map(|it| it["target"]["@odata.type"].clone()).collect();
    assert_eq!(types.len(), 2);
    for name in ["allDevicesAssignmentTarget", "allLicensedUsersAssignmentTarget"] {
        assert!(types.contains(&json!(format!("#microsoft.graph.{name}"))), "{types:?}");
    }
    let body = json!({"configuration": "Kiosk ESP", "remove": [{"all": "users"}]});
    world.change(&body).await.succeeded("changed");
    assert_eq!(world.assigned(KIOSK_ESP).await.len(), 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_set_that_comes_in_pages_is_read_to_the_last_and_every_form_of_answer_is_taken() {
    let world = World::start().await;
    world.switch("page_size", 1).await;
    for (number, form) in [(1, "no_content"), (2, "ok_empty"), (6, "ok_json")] {
        world.switch("assign_answer", form).await;
        world.change(&add("Sales ESP", &group(number))).await.succeeded("changed");
    }
    assert_eq!(world.groups(SALES_ESP).await.len(), 6);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_next_page_at_a_foreign_host_is_not_followed_and_nothing_is_written() {
    let world = World::start().await;
    world.switch("page_size", 1).await;
    world.switch("next_link_host", "foreign").await;
    let answer = world.change(&add("Sales ESP", "Sales Laptops")).await.problem(502, "present-set-unreadable");
    assert!(world.assigns().await.is_empty(), "{}", answer.text);
    assert_eq!(world.groups(SALES_ESP).await.len(), 3);
    world.end().await;
}
