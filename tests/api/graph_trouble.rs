//! Graph in trouble: throttling, outages, lost responses, refusals, and sets that somebody else changes.

use serde_json::{Value, json};

use crate::{
    responses::check_problem,
    world::{ASSIGNMENTS, FILTER, SALES_ESP, Setup, World, add, group, remove},
};

const ASSIGN: &str = "/assign";

/// Injects this many faults into calls whose path ends like this.
async fn answers(world: &World, path_ends: &str, times: Option<u32>, effect: Value) {
    let mut order = json!({"path_ends": path_ends, "effect": effect});
    if let Some(times) = times {
        order["times"] = json!(times);
    }
    world.fault(order).await;
}

fn status(status: u16) -> Value {
    json!({"kind": "answer", "status": status})
}

/// Fills the name cache, so that what follows reaches the lane.
async fn warm(world: &World, groups: &[usize]) {
    let targets: Vec<_> = groups.iter().map(|number| json!({"group": group(*number)})).collect();
    let body = json!({"configuration": "Sales ESP", "add": targets});
    world.post("servicenow", "/v1/plan", &body, &[]).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_throttled_assign_is_repeated_when_graph_says() {
    let world = World::start().await;
    answers(&world, ASSIGN, Some(1), json!({"kind": "answer", "status": 429, "retry_after": "1"})).await;
    world.change(&add("Sales ESP", "Sales Laptops")).await.succeeded("changed");
    let calls = world.assigns().await;
    let time = |call: &Value| call["time"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    assert_eq!(calls.len(), 2);
    assert!(time(&calls[1]).duration_since(time(&calls[0])).as_millis() >= 1000, "Retry-After was not heeded");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_that_fail_are_repeated() {
    let world = World::start().await;
    for path in [SALES_ESP, "/groups", "/assignments", "/token"] {
        answers(&world, path, Some(1), status(503)).await;
    }
    answers(&world, "/assignments", Some(1), json!({"kind": "cut_before"})).await;
    world.change(&add("Sales ESP", "Sales Laptops")).await.succeeded("changed");
    assert_eq!(world.assigns().await.len(), 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_was_lost_on_its_way_is_sent_again() {
    let world = World::start().await;
    answers(&world, ASSIGN, Some(1), json!({"kind": "cut_before"})).await;
    let answer = world.change(&add("Sales ESP", "Sales Laptops")).await;
    answer.succeeded("changed");
    assert_eq!(world.assigns().await.len(), 2);
    assert_eq!(world.events("written").await[0]["known_by"], "answered");
    assert!(world.groups(SALES_ESP).await.contains(&group(1)));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_whose_answer_was_lost_is_not_sent_again() {
    let world = World::start().await;
    answers(&world, ASSIGN, Some(1), json!({"kind": "cut_after"})).await;
    let body = json!({"configuration": "Sales ESP", "add": [{"group": "Sales Laptops"}],
            "remove": [{"group": "Finance Laptops"}], "ticket": "R"});
    let answer = world.change(&body).await;
    answer.succeeded("changed");
    let calls = world.assigns().await;
    assert_eq!(calls.len(), 1);
    assert_eq!(answer.body["graph"]["client_request_id"], calls[0]["client-request-id"]);
    assert_eq!(answer.body["graph"]["writes"], 1);
    let written = world.events("written").await;
    assert_eq!((written.len(), &written[0]["known_by"]), (1, &json!("read-back")));
    assert_eq!((&answer.body["difference"]["before"], &answer.body["difference"]["after"]), (&json!(3), &json!(3)));
    assert!(world.events("drift-seen").await.is_empty(), "our own write is no drift");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_of_500_to_a_write_is_decided_by_reading_back() {
    let world = World::start().await;
    answers(&world, ASSIGN, Some(2), status(500)).await;
    world.change(&add("Sales ESP", "Sales Laptops")).await.succeeded("changed");
    assert_eq!(world.assigns().await.len(), 3);
    assert_eq!(world.groups(SALES_ESP).await.len(), 4);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_graph_refuses_once_is_replaced_once() {
    let world = World::start().await;
    warm(&world, &[1]).await;
    answers(&world, ASSIGN, Some(1), status(401)).await;
    world.change(&add("Sales ESP", "Sales Laptops")).await.succeeded("changed");
    let journal = world.journal().await;
    let tokens = journal.iter().filter(|call| call["path"].as_str().unwrap().ends_with("/token")).count();
    assert_eq!((tokens, world.assigns().await.len()), (2, 2));
    world.end().await;
}

/// To the login service, repeating the same request looks like a loop.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_that_are_not_accepted_are_not_fetched_anew_each_time() {
    let world = World::start().await;
    answers(&world, SALES_ESP, None, status(401)).await;
    for _ in 0..10 {
        world.change(&add(SALES_ESP, "Sales Laptops")).await.problem(502, "graph-not-authorised");
    }
    let journal = world.journal().await;
    let tokens = journal.iter().filter(|call| call["path"].as_str().unwrap().ends_with("/token")).count();
    assert!(tokens <= 8, "{tokens}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operation_that_graph_keeps_from_working_is_parked_in_sight_and_goes_on_later() {
    for (path, effect, words) in [
        ("/assignments", status(401), "credentials"),
        (ASSIGN, status(401), "credentials"),
        ("/assignments", status(503), "not available"),
        (ASSIGN, json!({"kind": "answer", "status": 429, "retry_after": "6"}), "throttling"),
    ] {
        let world = World::with(Setup { settings: vec![("GRAPH__ATTEMPTS_MAX", "1")], ..Setup::default() }).await;
        warm(&world, &[1]).await;
        answers(&world, path, None, effect.clone()).await;
        let id = world.begin(&add("Sales ESP", "Sales Laptops")).await;
        let mut seen = world.operation(&id).await;
        for _ in 0..60 {
            if seen.body.get("parked").is_some() {
                break;
            }
            let request = world.request("servicenow", "GET", &format!("/v1/operations/{id}")).await;
            seen = world.send(request.header("prefer", "wait=1")).await;
        }
        let parked = &seen.body["parked"];
        assert!(parked["because"].as_str().unwrap().contains(words), "{effect}: {parked}");
        assert!(parked["attempts"].as_u64().unwrap() >= 1 && parked["until"].is_string());
        assert!(seen.header("retry-after").parse::<u64>().unwrap() >= 1);
        // Read again: a response reads the operation first and its lane second, which may have started in between.
        assert_eq!(world.operation(&id).await.body["state"], "running");
        world.clear_faults().await;
        let ended = world.end_of(&id).await;
        ended.succeeded("changed");
        assert!(ended.body.get("parked").is_none(), "{}", ended.text);
        world.end().await;
    }
}

/// Four changes in one merged write; the second names a group that Graph refuses.
async fn one_of_four(effects: &[&str]) -> World {
    let world = World::start().await;
    world.switch("unknown_groups", "refused").await;
    warm(&world, &[1, 2, 6, 7]).await;
    world.hold(ASSIGN).await;
    let first = world.begin(&remove("Sales ESP", &group(5))).await;
    world.held(1).await;
    let mut ids = Vec::new();
    for number in [1, 2, 6, 7] {
        ids.push(world.begin(&add("Sales ESP", &group(number))).await);
    }
    world.control("DELETE", &format!("groups/{}", group(2)), None).await.expect(204);
    world.clear_faults().await;
    world.end_of(&first).await.succeeded("changed");
    for (id, effect) in ids.iter().zip(effects) {
        let ended = world.end_of(id).await;
        if *effect == "failed" {
            let problem = &ended.body["problem"];
            assert_eq!((&ended.body["state"], &problem["code"]), (&json!("failed"), &json!("invalid-group")));
            check_problem(problem);
            assert_eq!(problem["graph"]["status"], 400, "{problem}");
            assert_eq!(problem["trace_id"], ended.body["trace_id"]);
            assert!(ended.body.get("difference").is_none() && ended.body["ended_at"].is_string());
        } else {
            ended.succeeded(effect);
        }
    }
    world
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_graph_refuses_fails_its_own_operation_only() {
    let world = one_of_four(&["changed", "failed", "changed", "changed"]).await;
    let groups: Vec<_> = world.groups(SALES_ESP).await.into_iter().collect();
    assert_eq!(groups, [1, 3, 4, 6, 7].map(group));
    let failed: Vec<_> = world.events("settled").await.into_iter().filter(|it| it["state"] == "failed").collect();
    assert_eq!(failed.len(), 1);
    assert!(failed[0]["failure"].as_str().unwrap().starts_with("invalid-group"), "{}", failed[0]);
    assert!(failed[0]["request_id"].is_string());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_write_is_told_to_who_waits_and_to_who_asks_later() {
    let world = World::start().await;
    answers(&world, ASSIGN, None, status(403)).await;
    let problem = world.change(&add("Sales ESP", "Sales Laptops")).await.problem(502, "graph-refused");
    assert_eq!(problem.body["retryable"], false);
    let link = problem.body["operation"]["href"].as_str().unwrap();
    let id = problem.body["operation"]["id"].as_str().unwrap();
    assert_eq!(link, format!("/v1/operations/{id}"));
    let operation = world.get("servicenow", link).await.expect(200);
    assert_eq!(operation.body["state"], "failed");
    let inside = &operation.body["problem"];
    check_problem(inside);
    for field in ["type", "title", "status", "detail", "code", "retryable", "trace_id"] {
        assert_eq!(inside[field], problem.body[field], "{field}");
    }
    assert_eq!(world.groups(SALES_ESP).await.len(), 3);
    world.clear_faults().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn intunes_words_of_refusal_arrive_unwrapped() {
    for shape in ["nested", "doubly_nested", "html", "empty"] {
        let world = World::start().await;
        world.switch("error_shape", shape).await;
        answers(&world, ASSIGN, None, status(400)).await;
        let problem = world.change(&add("Sales ESP", "Sales Laptops")).await.problem(502, "graph-refused");
        let detail = problem.body["detail"].as_str().unwrap();
        assert!(detail.contains("400") && !detail.contains('{') && !detail.contains('<'), "{shape}: {detail}");
        if shape.contains("nested") {
            assert!(detail.contains("An error has occurred"), "{shape}: {detail}");
        }
        world.clear_faults().await;
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_deleted_meanwhile_fails_the_operation() {
    let world = World::start().await;
    warm(&world, &[1]).await;
    // Once, which is no proof.
    answers(&world, "/assignments", Some(1), status(404)).await;
    world.change(&add("Sales ESP", "Sales Kiosks")).await.succeeded("changed");
    let written = world.assigns().await.len();
    answers(&world, "/assignments", None, status(404)).await;
    let problem = world.change(&add("Sales ESP", "Sales Laptops")).await.problem(502, "configuration-gone");
    assert_eq!(world.assigns().await.len(), written, "{}", problem.text);
    world.clear_faults().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_written_on_top_of_a_set_that_makes_no_sense() {
    let group_target = json!({"@odata.type": "#microsoft.graph.groupAssignmentTarget", "groupId": group(3)});
    let filtered = json!({"@odata.type": "#microsoft.graph.groupAssignmentTarget", "groupId": group(3),
        "deviceAndAppManagementAssignmentFilterId": FILTER, "deviceAndAppManagementAssignmentFilterType": "include"});
    let row = |target: Value| json!({"id": "x", "source": "direct", "sourceId": "x", "target": target});
    for body in [
        json!([]),
        json!({}),
        json!({"value": null}),
        json!({"value": "none"}),
        json!({"value": [{"id": "x"}]}),
        json!({"value": [row(json!({"groupId": group(3)}))]}),
        json!({"value": [row(json!({"@odata.type": "#microsoft.graph.groupAssignmentTarget"}))]}),
        json!({"value": [row(group_target), row(filtered)]}),
        json!({"value": [], "@odata.nextLink": "https://example.com/next"}),
    ] {
        let world = World::start().await;
        let effect = json!({"kind": "answer", "status": 200, "body": body});
        answers(&world, "/assignments", None, effect).await;
        let problem = world.change(&add("Sales ESP", "Sales Laptops")).await.problem(502, "present-set-unreadable");
        assert!(world.assigns().await.is_empty(), "{body}");
        assert_eq!(problem.body["retryable"], true);
        world.clear_faults().await;
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_set_that_reads_wrong_once_is_read_again() {
    let world = World::start().await;
    let effect = json!({"kind": "answer", "status": 200, "body": {"value": "later"}});
    answers(&world, "/assignments", Some(2), effect).await;
    world.change(&add("Sales ESP", "Sales Laptops")).await.succeeded("changed");
    assert_eq!(world.groups(SALES_ESP).await.len(), 4);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_set_that_reads_empty_though_it_was_left_full_is_not_written_upon_however_often_it_is_asked() {
    let world = World::start().await;
    world.change(&add("Sales ESP", "Sales Laptops")).await.succeeded("changed");
    let effect = json!({"kind": "answer", "status": 200, "body": {"value": []}});
    answers(&world, "/assignments", None, effect).await;
    for _ in 0..2 {
        let answer = world.change(&add("Sales ESP", "Sales Kiosks")).await.problem(502, "present-set-vanished");
        assert_eq!(answer.body["retryable"], json!(false));
        assert_eq!((world.assigns().await.len(), world.groups(SALES_ESP).await.len()), (1, 4));
    }
    world.clear_faults().await;
    world.change(&add("Sales ESP", "Sales Kiosks")).await.succeeded("changed");
    assert_eq!(world.groups(SALES_ESP).await.len(), 5);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_set_that_somebody_emptied_on_purpose_can_be_filled_after_a_replacement_says_so() {
    let permit = r#"@id("may-replace") permit (principal == Postern::Caller::"servicenow",
        action == Postern::Action::"replace", resource);"#;
    let world = World::with(Setup { policies: vec![("replace.cedar", permit)], ..Setup::default() }).await;
    world.change(&add("Sales ESP", "Sales Laptops")).await.succeeded("changed");
    world.administrator_assigns(SALES_ESP, &[]).await;
    let problem = world.change(&add("Sales ESP", "Sales Kiosks")).await.problem(502, "present-set-vanished");
    assert!(problem.body["detail"].as_str().unwrap().contains("replacing the whole set"), "{}", problem.text);
    let stated = json!({"configuration": "Sales ESP", "replace": [{"group": "Sales Kiosks"}], "ticket": "RITM1"});
    world.change(&stated).await.succeeded("changed");
    world.change(&add("Sales ESP", "Sales Laptops")).await.succeeded("changed");
    let groups: Vec<_> = world.groups(SALES_ESP).await.into_iter().collect();
    assert_eq!(groups, [1, 2].map(group));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_somebody_else_changed_is_kept_and_recorded_as_drift() {
    let world = World::start().await;
    world.change(&add("Sales ESP", "Sales Laptops")).await.succeeded("changed");
    world.change(&add("Sales ESP", "Sales Kiosks")).await.succeeded("changed");
    assert!(world.events("drift-seen").await.is_empty());
    world.administrator_assigns(SALES_ESP, &[group(3), group(6)]).await;
    world.change(&add("Sales ESP", "Warehouse Tablets")).await.succeeded("changed");
    let groups: Vec<_> = world.groups(SALES_ESP).await.into_iter().collect();
    assert_eq!(groups, [3, 4, 6].map(group));
    let drift = world.events("drift-seen").await;
    assert_eq!((drift.len(), &drift[0]["configuration"]), (1, &json!(SALES_ESP)));
    let written = world.events("written").await;
    assert_eq!((&drift[0]["left"], &drift[0]["found"]), (&written[1]["after"], &written[2]["before"]));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_wait_is_accepted_while_graph_is_down() {
    let world = World::start().await;
    warm(&world, &[1, 2]).await;
    answers(&world, "/assignments", None, status(503)).await;
    let headers = [("prefer", "respond-async")];
    let body = json!({"configuration": "Sales ESP", "add": [{"group": group(1)}, {"group": group(2)}], "ticket": "R"});
    let id = world.post("servicenow", ASSIGNMENTS, &body, &headers).await.expect(202).id();
    world.clear_faults().await;
    world.end_of(&id).await.succeeded("changed");
    world.end().await;
}
