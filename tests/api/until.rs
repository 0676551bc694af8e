//! Changes with an `until`: undone by the gateway itself when it comes.
//!
//! It is set far ahead and moved back in the store, so that no test waits or depends on its own speed.

use serde_json::{Value, json};
use sqlx::{Connection, SqliteConnection};

use crate::{
    responses::Reply,
    world::{ASSIGNMENTS, EVERYTHING, FILTER, SALES_ESP, Setup, TRIES, World, add, group, remove},
};

const FAR: &str = "2029-12-24T18:00:00Z";

pub(crate) fn with_end(body: Value) -> Value {
    let mut body = body;
    body["until"] = json!(FAR);
    body
}

/// Makes the `until` of every operation due.
pub(crate) async fn end_comes(world: &World) {
    let url = format!("sqlite:{}", world.store().display());
    let mut connection = SqliteConnection::connect(&url).await.unwrap();
    sqlx::query("UPDATE operations SET until_at = 1 WHERE until_at IS NOT NULL")
        .execute(&mut connection)
        .await
        .unwrap();
    connection.close().await.unwrap();
}

/// Makes the `until` of one operation due, and waits until it is settled. Returns the reversal, or the operation if there is
/// none.
async fn end_of_one(world: &World, id: &str) -> Reply {
    let url = format!("sqlite:{}", world.store().display());
    let mut connection = SqliteConnection::connect(&url).await.unwrap();
    let due = sqlx::query("UPDATE operations SET until_at = 1 WHERE until_at IS NOT NULL AND id = ?").bind(id);
    assert_eq!(due.execute(&mut connection).await.unwrap().rows_affected(), 1);
    connection.close().await.unwrap();
    for _ in 0..TRIES {
        let found = world.operation(id).await;
        match (found.body["ends"]["state"].as_str(), found.body["ends"]["operation"].as_str()) {
            (Some("ahead"), _) => {}
            (_, Some(by)) => return world.end_of(by).await,
            (_, None) => return found,
        }
    }
    panic!("the end of {id} is never settled");
}

/// The operation, as soon as its `until` is in this state.
pub(crate) async fn end_is(world: &World, id: &str, state: &str) -> Reply {
    for _ in 0..TRIES {
        let found = world.operation(id).await;
        if found.body["ends"]["state"] == state {
            return found;
        }
    }
    panic!("the end of {id} is never {state}: {}", world.operation(id).await.text);
}

pub(crate) async fn call_off(world: &World, caller: &str, id: &str) -> Reply {
    world.send(world.request(caller, "DELETE", &format!("/v1/operations/{id}/until")).await).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_an_end_is_undone_when_it_comes_though_nobody_ran_then() {
    let mut world = World::start().await;
    let body = with_end(json!({
        "configuration": "Sales ESP", "add": [{"group": group(1)}, {"group": group(4)}], "remove": [{"group": group(5)}],
        "ticket": "RITM0010023", "requested_for": "jane.doe@contoso.com", "comment": "For the fair",
    }));
    let before = world.groups(SALES_ESP).await;
    let done = world.change(&body).await;
    let id = done.succeeded("changed");
    assert_eq!((&done.body["until"], &done.body["ends"]), (&json!(FAR), &json!({"state": "ahead"})));
    assert_ne!(world.groups(SALES_ESP).await, before);
    world.take_gateway().stop().await;
    end_comes(&world).await;
    world.start_gateway().await;
    let ended = end_is(&world, &id, "reverted").await;
    let by = ended.body["ends"]["operation"].as_str().unwrap();
    assert_eq!(ended.body["reverted_by"], by);
    let undone = world.end_of(by).await;
    undone.succeeded("changed");
    assert_eq!(world.groups(SALES_ESP).await, before);
    for (field, value) in [
        ("reverts", json!(id)),
        ("cause", json!("until")),
        ("caller", json!("servicenow")),
        ("ticket", json!("RITM0010023")),
        ("requested_for", json!("jane.doe@contoso.com")),
        ("comment", Value::Null),
        ("until", Value::Null),
    ] {
        assert_eq!(undone.body[field], value, "{field}");
    }
    let accepted = world.events("accepted").await;
    assert_eq!(accepted[0]["until"], FAR);
    assert_eq!(accepted[1]["change"]["revert"]["cause"], "until");
    assert_eq!((&accepted[1]["caller"], &accepted[1]["issuer"]), (&json!("servicenow"), &json!("postern")));
    assert_eq!(accepted[1]["policies"], json!(["servicenow-changes-groups", "servicenow-reverts-its-own"]));
    assert_eq!(world.events("reverted").await[0]["operation"], id);
    // However often it is checked again.
    world.restart().await;
    world.operation(&id).await;
    assert_eq!(world.events("accepted").await.len(), 2);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_somebody_has_changed_since_outlasts_the_end() {
    let world = World::start().await;
    let body = with_end(json!({
        "configuration": "Sales ESP", "add": [{"group": group(1)}, {"group": group(2)}], "ticket": "R",
    }));
    let id = world.change(&body).await.succeeded("changed");
    let narrowed = json!([{"group": group(1), "filter": {"id": FILTER, "mode": "include"}}]);
    world.change(&json!({"configuration": "Sales ESP", "add": narrowed, "ticket": "R"})).await.succeeded("changed");
    end_comes(&world).await;
    let ended = end_is(&world, &id, "reverted").await;
    let undone = world.end_of(ended.body["ends"]["operation"].as_str().unwrap()).await;
    undone.succeeded("changed");
    assert_eq!(undone.body["difference"]["kept"][0]["because"], "filter-changed");
    let groups = world.groups(SALES_ESP).await;
    assert!(groups.contains(&group(1)) && !groups.contains(&group(2)), "{groups:?}");
    world.end().await;
}

fn narrowed(number: usize) -> Value {
    json!({"configuration": "Sales ESP", "ticket": "R",
        "add": [{"group": group(number), "filter": {"id": FILTER, "mode": "include"}}]})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ends_that_overlap_leave_nothing_behind() {
    let world = World::start().await;
    let before = world.groups(SALES_ESP).await;
    // Added until a first end, and narrowed or taken away until a second.
    for second in [narrowed(1), remove("Sales ESP", &group(1))] {
        let first = world.change(&with_end(add("Sales ESP", &group(1)))).await.succeeded("changed");
        let second = world.change(&with_end(second)).await.succeeded("changed");
        end_of_one(&world, &first).await.succeeded("unchanged");
        let both = end_of_one(&world, &second).await;
        assert_eq!(world.groups(SALES_ESP).await, before, "{}", both.text);
    }
    // Both at once.
    let first = world.change(&with_end(add("Sales ESP", &group(1)))).await.succeeded("changed");
    let second = world.change(&with_end(narrowed(1))).await.succeeded("changed");
    end_comes(&world).await;
    for id in [first, second] {
        let by = end_is(&world, &id, "reverted").await.body["ends"]["operation"].as_str().unwrap().to_owned();
        world.end_of(&by).await;
    }
    assert_eq!(world.groups(SALES_ESP).await, before);
    // What is reverted by hand is not brought back by an end either.
    let first = world.change(&add("Sales ESP", &group(1))).await.succeeded("changed");
    let second = world.change(&with_end(narrowed(1))).await.succeeded("changed");
    world.post("servicenow", &format!("/v1/operations/{first}/revert"), &json!({}), &[("prefer", "wait=25")]).await;
    end_of_one(&world, &second).await.succeeded("changed");
    assert_eq!(world.groups(SALES_ESP).await, before);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_undoes_what_a_reversal_before_it_could_not() {
    let world = World::start().await;
    let before: Vec<_> = world.groups(SALES_ESP).await.into_iter().collect();
    let id = world.change(&with_end(add("Sales ESP", &group(1)))).await.succeeded("changed");
    let after: Vec<_> = world.groups(SALES_ESP).await.into_iter().collect();
    let revert = async |id: &str| {
        world.post("servicenow", &format!("/v1/operations/{id}/revert"), &json!({}), &[("prefer", "wait=25")]).await
    };
    // An administrator takes it away for a while, and somebody reverts it in between: that finds nothing to undo.
    world.administrator_assigns(SALES_ESP, &before).await;
    revert(&id).await.succeeded("unchanged");
    world.administrator_assigns(SALES_ESP, &after).await;
    end_of_one(&world, &id).await.succeeded("changed");
    assert!(!world.groups(SALES_ESP).await.contains(&group(1)));
    // A reversal that was reverted itself has undone nothing that lasts, however often that went on.
    for reversals in [2, 4] {
        let id = world.change(&with_end(add("Sales ESP", &group(1)))).await.succeeded("changed");
        let mut last = id.clone();
        for _ in 0..reversals {
            last = revert(&last).await.succeeded("changed");
        }
        end_of_one(&world, &id).await.succeeded("changed");
        assert!(!world.groups(SALES_ESP).await.contains(&group(1)));
    }
    // One that stands has: what somebody wants since then is not undone.
    let id = world.change(&with_end(add("Sales ESP", &group(1)))).await.succeeded("changed");
    let mut last = id.clone();
    for _ in 0..3 {
        last = revert(&last).await.succeeded("changed");
    }
    world.change(&add("Sales ESP", &group(1))).await.succeeded("changed");
    assert_eq!(end_of_one(&world, &id).await.body["ends"]["state"], "moot");
    assert!(world.groups(SALES_ESP).await.contains(&group(1)));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_can_be_called_off() {
    let world = World::start().await;
    let id = world.change(&with_end(add("Sales ESP", &group(1)))).await.succeeded("changed");
    call_off(&world, "helpdesk", &id).await.problem(403, "not-permitted");
    call_off(&world, "portal", &id).await.problem(404, "unknown-operation");
    let off = call_off(&world, "servicenow", &id).await.expect(200);
    assert_eq!((&off.body["until"], &off.body["ends"]["state"]), (&json!(FAR), &json!("called-off")));
    call_off(&world, "servicenow", &id).await.expect(200);
    let records = world.events("until-called-off").await;
    assert_eq!((records.len(), &records[0]["operation"], &records[0]["caller"]), (1, &json!(id), &json!("servicenow")));
    assert_eq!(records[0]["policies"], json!(["servicenow-cancels-its-own"]));
    let without = world.change(&add("Sales ESP", &group(2))).await.succeeded("changed");
    let none = call_off(&world, "servicenow", &without).await.problem(409, "no-until-ahead");
    assert!(none.body["detail"].as_str().unwrap().contains("No end is set"), "{}", none.text);
    assert!(world.groups(SALES_ESP).await.contains(&group(1)));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_is_moot_where_nothing_is_left_to_undo() {
    let world = World::start().await;
    let unchanged = world.change(&with_end(add("Sales ESP", &group(3)))).await.succeeded("unchanged");
    let reverted = world.change(&with_end(add("Sales ESP", &group(1)))).await.succeeded("changed");
    let path = format!("/v1/operations/{reverted}/revert");
    let by = world.post("servicenow", &path, &json!({}), &[("prefer", "wait=25")]).await.succeeded("changed");
    // Repeating a reverted change repeats it without the old `until`.
    world.change(&add("Sales ESP", &group(1))).await.succeeded("changed");
    world.fault(json!({"path_ends": "/assign", "times": 1, "effect": {"kind": "answer", "status": 403}})).await;
    let failed = world.change(&with_end(add("Sales ESP", &group(2)))).await.problem(502, "graph-refused");
    let failed = failed.body["operation"]["id"].as_str().unwrap().to_owned();
    end_comes(&world).await;
    end_is(&world, &unchanged, "moot").await;
    end_is(&world, &failed, "moot").await;
    assert_eq!(end_is(&world, &reverted, "moot").await.body["reverted_by"], by);
    let moot = world.events("until-moot").await;
    let because = |id: &str| moot.iter().find(|it| it["operation"] == id).unwrap()["because"].clone();
    assert_eq!([&unchanged, &reverted, &failed].map(|id| because(id)), ["nothing-left", "nothing-left", "not-done"]);
    let late = call_off(&world, "servicenow", &reverted).await.problem(409, "no-until-ahead");
    assert!(late.body["detail"].as_str().unwrap().contains("already"), "{}", late.text);
    assert!(world.groups(SALES_ESP).await.contains(&group(1)));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_not_begun_at_its_end_is_cancelled_and_what_runs_is_undone_after_it() {
    let world = World::start().await;
    world.hold("/assign").await;
    let running = world.begin(&with_end(add("Sales ESP", &group(1)))).await;
    world.held(1).await;
    let queued = world.begin(&with_end(add("Sales ESP", &group(2)))).await;
    end_comes(&world).await;
    let cancelled = end_is(&world, &queued, "moot").await;
    assert_eq!(cancelled.body["state"], "cancelled");
    let record = world.events("cancelled").await.pop().unwrap();
    assert_eq!((&record["issuer"], &record["subject"]), (&json!("postern"), &json!("until")));
    assert_eq!(world.operation(&running).await.body["ends"]["state"], "ahead");
    world.clear_faults().await;
    world.end_of(&running).await.succeeded("changed");
    let ended = end_is(&world, &running, "reverted").await;
    world.end_of(ended.body["ends"]["operation"].as_str().unwrap()).await.succeeded("changed");
    let groups = world.groups(SALES_ESP).await;
    assert!(!groups.contains(&group(1)) && !groups.contains(&group(2)), "{groups:?}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_due_until_survives_full_limits_outages_and_a_stray_404() {
    let bound = ("OPERATIONS__PENDING_MAX", "1");
    let mut world = World::with(Setup { settings: vec![bound], ..Setup::default() }).await;
    let id = world.change(&with_end(add("Sales ESP", &group(1)))).await.succeeded("changed");
    world.hold("/assign").await;
    let other = world.begin(&add("Kiosk ESP", &group(2))).await;
    world.held(1).await;
    world.post("servicenow", ASSIGNMENTS, &add("Sales ESP", &group(2)), &[]).await.problem(503, "gateway-full");
    end_comes(&world).await;
    let ended = end_is(&world, &id, "reverted").await;
    let by = ended.body["ends"]["operation"].as_str().unwrap().to_owned();
    world.clear_faults().await;
    world.end_of(&other).await.succeeded("changed");
    world.end_of(&by).await.succeeded("changed");
    // If Graph cannot be asked about the group that is to be added back, it is asked again later.
    let body = with_end(json!({"configuration": "Sales ESP", "remove": [{"group": group(5)}], "ticket": "R"}));
    let id = world.change(&body).await.succeeded("changed");
    world.restart().await;
    world.fault(json!({"times": 4, "effect": {"kind": "answer", "status": 503}})).await;
    end_comes(&world).await;
    let ended = end_is(&world, &id, "reverted").await;
    world.end_of(ended.body["ends"]["operation"].as_str().unwrap()).await.succeeded("changed");
    assert!(world.groups(SALES_ESP).await.contains(&group(5)));
    // Nor is a single response believed that says there is no such configuration.
    let id = world.change(&with_end(add("Sales ESP", &group(1)))).await.succeeded("changed");
    world.restart().await;
    world.fault(json!({"path_ends": SALES_ESP, "times": 1, "effect": {"kind": "answer", "status": 404}})).await;
    end_comes(&world).await;
    let ended = end_is(&world, &id, "reverted").await;
    world.end_of(ended.body["ends"]["operation"].as_str().unwrap()).await.succeeded("changed");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_lies_ahead_and_not_too_far() {
    let world = World::start().await;
    for until in ["2020-01-01T00:00:00Z", "2999-01-01T00:00:00Z", "tomorrow", "2029-12-24", "", "2029-12-24T18:00:00"] {
        let mut body = add("Sales ESP", &group(1));
        body["until"] = json!(until);
        for path in [ASSIGNMENTS, "/v1/plan"] {
            let refused = world.post("servicenow", path, &body, &[]).await.problem(422, "invalid-change");
            assert_eq!(refused.pointers(), ["/until"], "{until}");
        }
    }
    let mut body = add("Sales ESP", &group(1));
    body["until"] = json!("2029-12-24T19:00:00.1234567+01:00");
    let headers = [("idempotency-key", "k"), ("prefer", "wait=25")];
    let done = world.post("servicenow", ASSIGNMENTS, &body, &headers).await;
    let id = done.succeeded("changed");
    assert_eq!(done.body["until"], "2029-12-24T18:00:00.123456Z");
    body["until"] = json!("2029-12-24T18:00:01Z");
    world.post("servicenow", ASSIGNMENTS, &body, &headers).await.problem(422, "idempotency-key-reused");
    call_off(&world, "servicenow", &id).await.expect(200);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_undo_a_change_may_set_no_end_for_it() {
    let no_removing = "@id(\"no-removing\") forbid (principal, action == Postern::Action::\"remove\", resource);";
    let policies = vec![EVERYTHING, ("no-removing.cedar", no_removing)];
    let world = World::with(Setup { policies, ..Setup::default() }).await;
    let denied = world.change(&with_end(add("Sales ESP", &group(1)))).await.problem(403, "not-permitted");
    assert!(
        denied.body["detail"].as_str().unwrap().contains("forbidden by policy no-removing: remove group (/add/0)"),
        "{}",
        denied.text
    );
    let plan = world.post("servicenow", "/v1/plan", &with_end(add("Sales ESP", &group(1))), &[]).await.expect(200);
    assert_eq!(plan.body["permission"]["permitted"], false);
    world.change(&add("Sales ESP", &group(1))).await.succeeded("changed");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_policies_forbid_stays_forbidden_while_graph_cannot_tell_of_the_configuration() {
    const KIND: &str = "@id(\"locked\")\nforbid (principal, action == Postern::Action::\"cancel\", resource)\n\
                        when { resource.kind == \"status-page\" };";
    const NAME: &str = "@id(\"locked\")\nforbid (principal, action == Postern::Action::\"cancel\", resource)\n\
                        when { resource.name != \"\" };";
    const PRIORITY: &str = "@id(\"locked\")\nforbid (principal, action == Postern::Action::\"cancel\", resource)\n\
                            when { resource.priority > 0 };";
    const TAGS: &str = "@id(\"locked\")\nforbid (principal, action == Postern::Action::\"cancel\", resource)\n\
                        when { resource.tags.contains(\"locked\") };";
    for (policy, in_outage, after) in [(KIND, 403, 403), (NAME, 503, 403), (PRIORITY, 503, 403), (TAGS, 200, 200)] {
        let settings = vec![("GRAPH__ATTEMPTS_MAX", "1")];
        let policies = vec![("locked.cedar", policy)];
        let mut world = World::with(Setup { policies, settings, ..Setup::default() }).await;
        let id = world.change(&with_end(add("Sales ESP", &group(1)))).await.succeeded("changed");
        // Nothing is cached, and Graph cannot be asked.
        world.restart().await;
        world.fault(json!({"path_ends": SALES_ESP, "effect": {"kind": "answer", "status": 503}})).await;
        let got = call_off(&world, "servicenow", &id).await;
        assert_eq!(got.status, in_outage, "{policy}: {}", got.text);
        if in_outage == 503 {
            assert_eq!((&got.body["code"], &got.body["retryable"]), (&json!("graph-unavailable"), &json!(true)));
        }
        world.clear_faults().await;
        let got = call_off(&world, "servicenow", &id).await;
        assert_eq!(got.status, after, "{policy}: {}", got.text);
        world.end().await;
    }
}
