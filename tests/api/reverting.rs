//! Undoing what an operation did.

use serde_json::{Value, json};

use crate::{
    responses::Reply,
    world::{ASSIGNMENTS, EVERYTHING, FILTER, KIOSK_ESP, SALES_ESP, Setup, World, add, group, remove},
};

async fn revert(world: &World, caller: &str, id: &str, body: &Value) -> Reply {
    world.post(caller, &format!("/v1/operations/{id}/revert"), body, &[("prefer", "wait=25")]).await
}

async fn open() -> World {
    World::with(Setup { policies: vec![EVERYTHING], ..Setup::default() }).await
}

/// A change that adds one group, removes another and gives a third a different filter.
fn mixed() -> Value {
    json!({
        "configuration": "Sales ESP",
        "add": [{"group": group(1)}, {"group": group(4)}],
        "remove": [{"group": group(5)}],
        "ticket": "RITM0010023", "requested_for": "jane.doe@contoso.com", "comment": "New sales floor",
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reverting_undoes_exactly_what_the_operation_did() {
    let world = World::start().await;
    let before = world.assigned(SALES_ESP).await;
    let done = world.change(&mixed()).await;
    let id = done.succeeded("changed");
    assert_eq!(done.body["links"]["revert"], format!("/v1/operations/{id}/revert"));
    world.change(&add("Sales ESP", &group(6))).await.succeeded("changed");
    let undone = revert(&world, "servicenow", &id, &json!({"comment": "the wrong floor"})).await;
    let by = undone.succeeded("changed");
    assert_eq!((&undone.body["reverts"], &undone.body["change"]["revert"]), (&json!(id), &json!(id)));
    for prefer in ["wait=0", "wait=5"] {
        let looked = world.request("servicenow", "GET", &format!("/v1/operations/{id}")).await;
        let looked = world.send(looked.header("prefer", prefer)).await.expect(200);
        assert_eq!(looked.body["reverted_by"], json!(by), "{prefer}: {}", looked.text);
    }
    for (field, value) in
        [("ticket", "RITM0010023"), ("requested_for", "jane.doe@contoso.com"), ("comment", "the wrong floor")]
    {
        assert_eq!(undone.body[field], value, "{field}");
    }
    let summary = "added group Finance Laptops; removed group Sales Laptops; changed the filter of group Warehouse Tablets \
                   (include f0000000-0000-4000-8000-000000000001); 4 -> 4 assignments";
    assert_eq!(undone.body["summary"], summary);
    assert!(undone.body["difference"]["kept"].is_null(), "{}", undone.text);
    let mut after = world.assigned(SALES_ESP).await;
    after.retain(|it| it["target"]["groupId"] != group(6));
    let targets = |assigned: &[Value]| {
        let mut targets: Vec<_> = assigned.iter().map(|it| it["target"].to_string()).collect();
        targets.sort();
        targets
    };
    assert_eq!(targets(&after), targets(&before));
    let accepted = world.events("accepted").await;
    assert_eq!(accepted[2]["change"]["revert"]["operation"], id);
    assert_eq!(accepted[2]["policies"], json!(["servicenow-changes-groups", "servicenow-reverts-its-own"]));
    let reverted = world.events("reverted").await;
    assert_eq!((&reverted[0]["operation"], &reverted[0]["by"]), (&json!(id), &json!(by)));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_somebody_has_changed_since_is_left_alone_and_told() {
    let world = World::start().await;
    let id = world.change(&mixed()).await.succeeded("changed");
    let narrowed = json!({"group": group(1), "filter": {"id": FILTER, "mode": "exclude"}});
    let later =
        json!({"configuration": "Sales ESP", "add": [narrowed], "remove": [{"group": group(4)}], "ticket": "R"});
    world.change(&later).await.succeeded("changed");
    let plan_of = world.assigned(SALES_ESP).await.len();
    let undone = revert(&world, "servicenow", &id, &json!({})).await;
    undone.succeeded("changed");
    let kept = undone.body["difference"]["kept"].as_array().unwrap();
    let told: Vec<_> = kept.iter().map(|it| (&it["target"]["name"], it["because"].as_str().unwrap())).collect();
    assert_eq!(told, [(&json!("Sales Laptops"), "filter-changed"), (&json!("Warehouse Tablets"), "removed")]);
    assert!(kept.iter().all(|it| it["detail"].as_str().unwrap().ends_with("since.")), "{}", undone.text);
    assert!(
        undone.body["summary"].as_str().unwrap().contains("left group Sales Laptops, group Warehouse Tablets as it is")
    );
    let left = world.events("reverted").await[0]["kept"].clone();
    assert_eq!(left[0], json!({"target": format!("group {}", group(1)), "because": "filter-changed"}));
    assert_eq!(world.assigned(SALES_ESP).await.len(), plan_of + 1, "only what it removed is back");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reverting_twice_changes_nothing_and_reverting_the_reversal_does_it_again() {
    let world = World::start().await;
    let id = world.change(&mixed()).await.succeeded("changed");
    let done = world.groups(SALES_ESP).await;
    let undoing = revert(&world, "servicenow", &id, &json!({})).await.succeeded("changed");
    let again = revert(&world, "servicenow", &id, &json!({})).await;
    again.succeeded("unchanged");
    assert!(again.body["links"]["revert"].is_null(), "{}", again.text);
    let redone = revert(&world, "servicenow", &undoing, &json!({"ticket": "RITM2"})).await;
    redone.succeeded("changed");
    assert_eq!((&redone.body["reverts"], &redone.body["ticket"]), (&json!(undoing), &json!("RITM2")));
    assert_eq!(world.groups(SALES_ESP).await, done);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changed_nothing_or_has_not_ended_is_not_reverted() {
    let world = World::start().await;
    let nothing = world.change(&add("Sales ESP", &group(3))).await;
    let id = nothing.succeeded("unchanged");
    assert!(nothing.body["links"]["revert"].is_null(), "{}", nothing.text);
    let refused = revert(&world, "servicenow", &id, &json!({})).await.problem(409, "nothing-to-revert");
    assert_eq!(refused.body["operation"]["id"], id);
    world.hold("/assign").await;
    let running = world.begin(&add("Sales ESP", &group(1))).await;
    world.held(1).await;
    let early = revert(&world, "servicenow", &running, &json!({})).await.problem(409, "operation-not-ended");
    assert!(
        early.body["detail"].as_str().unwrap().contains("running") && early.body["retryable"] == true,
        "{}",
        early.text
    );
    world.clear_faults().await;
    world.end_of(&running).await.succeeded("changed");
    world.fault(json!({"path_ends": "/assign", "effect": {"kind": "answer", "status": 403}})).await;
    let failed = world.change(&add("Sales ESP", &group(2))).await;
    let failed = failed.body["operation"]["id"].as_str().unwrap().to_owned();
    world.clear_faults().await;
    revert(&world, "servicenow", &failed, &json!({})).await.problem(409, "nothing-to-revert");
    revert(&world, "servicenow", "op_x", &json!({})).await.problem(404, "unknown-operation");
    revert(&world, "portal", &running, &json!({})).await.problem(404, "unknown-operation");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_reverts_what_it_may_not_add_or_remove() {
    // It may do everything except add groups back.
    let no_adding = "@id(\"no-adding\") forbid (principal, action == Postern::Action::\"add\", resource);";
    let mut world = World::with(Setup { policies: vec![("no-adding.cedar", no_adding)], ..Setup::default() }).await;
    let id = world.change(&remove("Sales ESP", &group(5))).await.succeeded("changed");
    let denied = revert(&world, "servicenow", &id, &json!({})).await.problem(403, "not-permitted");
    assert!(denied.body["detail"].as_str().unwrap().contains("forbidden by policy no-adding: add"), "{}", denied.text);
    assert!(!world.groups(SALES_ESP).await.contains(&group(5)));
    // It may read, but not revert.
    revert(&world, "helpdesk", &id, &json!({})).await.problem(403, "not-permitted");
    let actions: Vec<_> = world.events("denied").await.iter().map(|it| it["action"].clone()).collect();
    assert_eq!(actions, ["add", "revert"]);
    world.restart().await;
    // A caller that lost its role may do neither.
    let without_role = world.forge("servicenow", json!({"roles": []}), json!({})).await;
    let request = world.bare("POST", &format!("/v1/operations/{id}/revert")).bearer_auth(without_role);
    world.send(request).await.problem(403, "not-permitted");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_is_gone_is_not_assigned_again() {
    let world = open().await;
    // The directory has no such group, but its assignment may still be removed.
    let gone = group(99);
    world.administrator_assigns(KIOSK_ESP, &[group(1), gone.clone()]).await;
    let body = json!({"configuration": "Kiosk ESP", "remove": [{"group": gone}, {"group": group(1)}], "ticket": "R"});
    let id = world.change(&body).await.succeeded("changed");
    let undone = revert(&world, "servicenow", &id, &json!({})).await;
    undone.succeeded("changed");
    let kept = &undone.body["difference"]["kept"];
    assert_eq!((&kept[0]["target"]["group"], &kept[0]["because"]), (&json!(gone), &json!("group-gone")));
    assert_eq!(world.groups(KIOSK_ESP).await.into_iter().collect::<Vec<_>>(), [group(1)]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reversal_is_asked_for_as_changes_are() {
    let world = World::start().await;
    let first = world.change(&add("Sales ESP", &group(1))).await;
    let (one, two) =
        (first.succeeded("changed"), world.change(&add("Sales ESP", &group(2))).await.succeeded("changed"));
    let path = format!("/v1/operations/{one}/revert");
    // Without any body.
    let bare = world.request("servicenow", "POST", &path).await.header("idempotency-key", "k");
    let accepted = world.send(bare.header("prefer", "respond-async")).await.expect(202);
    let id = accepted.id();
    assert_eq!(accepted.header("location"), format!("/v1/operations/{id}"));
    world.end_of(&id).await.succeeded("changed");
    let again = world.post("servicenow", &path, &json!({}), &[("idempotency-key", "k")]).await;
    assert_eq!((again.succeeded("changed"), again.header("idempotency-replayed")), (id, "true"));
    let other = format!("/v1/operations/{two}/revert");
    world
        .post("servicenow", &other, &json!({}), &[("idempotency-key", "k")])
        .await
        .problem(422, "idempotency-key-reused");
    let record = world.events("refused").await.pop().unwrap();
    assert_eq!((&record["asked"], &record["configuration"]), (&json!(two), &json!(SALES_ESP)));
    let wrong = json!({"ticket": 7, "until": "x"});
    let faults = world.post("servicenow", &other, &wrong, &[]).await.problem(422, "invalid-change");
    assert_eq!(faults.pointers(), ["/ticket", "/until"]);
    let text = world.request("servicenow", "POST", &other).await.body("{}").header("content-type", "text/plain");
    world.send(text).await.problem(415, "unsupported-media-type");
    let seen = format!("\"{}\"", "0".repeat(64));
    world.post("servicenow", &other, &json!({}), &[("if-match", &seen)]).await.problem(412, "precondition-failed");
    world.send(world.bare("POST", &other)).await.problem(401, "unauthenticated");
    world.post("servicenow", ASSIGNMENTS, &add("Sales ESP", &group(2)), &[]).await.succeeded("unchanged");
    world.end().await;
}
