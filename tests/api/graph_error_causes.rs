//! Graph errors whose cause is known: each has its own code and detail, together with Graph's message.

use serde_json::{Value, json};

use crate::{
    responses::{Reply, check_problem},
    world::{CLIENT, EVERYTHING, RESTRICTION, SALES_ESP, Setup, World, add, group},
};

const ASSIGN: &str = "/assign";
const SCOPES: &str = "Application is not authorized to perform this operation. Application must have one of the \
                      following scopes: DeviceManagementServiceConfiguration.ReadWrite.All";

async fn open() -> World {
    World::with(Setup { policies: vec![EVERYTHING, ("guard.cedar", "")], ..Setup::default() }).await
}

/// A tenant that grants its application only these permissions.
async fn permitted(roles: &[&str]) -> World {
    let mut seed: Value = serde_json::from_str(include_str!("../../src/sandbox/default_tenant.json")).unwrap();
    seed["apps"][0]["roles"] = json!(roles);
    World::with(Setup { seed: Some(seed), ..Setup::default() }).await
}

/// A message as Intune wraps it.
fn wrapped(message: &str) -> String {
    let told = format!("{message} - Operation ID (for customer support): 0 - Activity ID: 1 - Url: https://fef");
    json!({"_version": 3, "Message": told}).to_string()
}

/// Intune's error body around a message.
fn intune(code: &str, message: &str) -> Value {
    let inner = json!({"date": "2026-03-01T08:00:00"});
    json!({"error": {"code": code, "message": wrapped(message), "innererror": inner}})
}

/// The same, wrapped twice.
fn doubly(code: &str, message: &str) -> Value {
    let inner = json!({"ErrorCode": code, "Message": wrapped(message)}).to_string();
    json!({"error": {"code": "UnknownError", "message": inner}})
}

/// The waiting caller and later readers get the same problem, with Graph's message; the audit trail has it, too.
async fn told(world: &World, problem: &Reply, status: u64, words: &str) {
    let answer = &problem.body["graph"];
    assert_eq!(answer["status"], status, "{}", problem.text);
    assert!(answer["message"].as_str().unwrap().contains(words), "{}", problem.text);
    assert!(answer["request_id"].is_string() && answer["client_request_id"].is_string(), "{}", problem.text);
    assert!(!problem.text.contains("Operation ID"), "{}", problem.text);
    let operation = world.operation(problem.body["operation"]["id"].as_str().unwrap()).await;
    check_problem(&operation.body["problem"]);
    for field in ["code", "detail", "graph"] {
        assert_eq!(operation.body["problem"][field], problem.body[field], "{field}");
    }
    let settled = world.events("settled").await.pop().unwrap();
    assert!(settled["graph"].as_str().unwrap().contains(words), "{settled}");
    for id in ["request_id", "client_request_id"] {
        assert_eq!(settled[id], answer[id], "{settled}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_permission_to_assign_that_is_missing_parks_the_change_and_names_it() {
    let world = permitted(&["DeviceManagementServiceConfig.Read.All", "GroupMember.Read.All"]).await;
    // A token this short-lived is fetched for each call, and so shows new grants at once.
    world.switch("token_lifetime_seconds", 20).await;
    let id = world.begin(&add(SALES_ESP, &group(1))).await;
    let because = world.parked(&id).await;
    assert!(because.contains("lacks the permission DeviceManagementServiceConfig.ReadWrite.All"), "{because}");
    assert!(world.assigns().await.iter().all(|call| call["status"] == 403));
    let granted = json!({"client_id": CLIENT, "roles": ["DeviceManagementServiceConfig.ReadWrite.All"]});
    world.control("POST", "apps", Some(granted)).await.expect(204);
    world.end_of(&id).await.succeeded("changed");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_permission_to_read_that_is_missing_is_named_before_anything_is_accepted() {
    let world = permitted(&["GroupMember.Read.All"]).await;
    for path in ["/v1/assignments", "/v1/plan"] {
        let answer = world.post("servicenow", path, &add(SALES_ESP, &group(1)), &[]).await;
        let problem = answer.problem(502, "graph-permission-missing");
        let detail = problem.body["detail"].as_str().unwrap();
        assert!(detail.contains("DeviceManagementServiceConfig.Read.All"), "{detail}");
        assert_eq!(problem.body["retryable"], true);
    }
    assert!(world.events("accepted").await.is_empty());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_permission_is_known_in_every_wrapping_that_intune_uses() {
    let (once, twice) = (intune("Forbidden", SCOPES), doubly("Forbidden", SCOPES));
    for (status, body) in [(403, &once), (403, &twice), (401, &twice)] {
        let world = World::start().await;
        let effect = json!({"kind": "answer", "status": status, "body": body});
        world.fault(json!({"path_ends": ASSIGN, "effect": effect})).await;
        let id = world.begin(&add(SALES_ESP, &group(1))).await;
        let because = world.parked(&id).await;
        assert!(because.contains("DeviceManagementServiceConfig.ReadWrite.All"), "{because}");
        world.clear_faults().await;
        world.end_of(&id).await.succeeded("changed");
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_intune_wants_for_restrictions_fails_them_and_nothing_else() {
    let world = open().await;
    world.switch("restriction_kinds", "forbidden").await;
    for shape in ["nested", "doubly_nested"] {
        world.switch("error_shape", shape).await;
        let problem = world.change(&add(RESTRICTION, &group(1))).await.problem(502, "graph-role-missing");
        let detail = problem.body["detail"].as_str().unwrap();
        assert!(detail.contains("Intune Administrator") && detail.contains("not proven"), "{detail}");
        let status = if shape == "nested" { 403 } else { 401 };
        told(&world, &problem, status, "Tenant is not Global Admin or Intune Service Admin").await;
    }
    world.change(&add(SALES_ESP, &group(1))).await.succeeded("changed");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_approval_that_the_tenant_wants_ends_the_operation_whatever_the_status() {
    let world = open().await;
    for (policy, status, words) in [
        ("bad_request", 400, "x-msft-approval-justification"),
        ("forbidden", 403, "x-msft-approval-justification"),
        ("precondition_failed", 412, "approval"),
        ("approval_required", 403, "approval"),
        ("conflict", 409, "active Approval Request"),
    ] {
        world.switch("multi_admin_approval", policy).await;
        let before = world.assigns().await.len();
        let problem = world.change(&add(SALES_ESP, &group(1))).await.problem(502, "intune-approval-required");
        assert_eq!(problem.body["retryable"], false);
        assert!(problem.body["detail"].as_str().unwrap().contains("Intune administrators"), "{}", problem.text);
        told(&world, &problem, status, words).await;
        assert_eq!(world.assigns().await.len(), before + 1, "{policy}: it is not asked again");
    }
    world.switch("multi_admin_approval", "off").await;
    world.change(&add(SALES_ESP, &group(1))).await.succeeded("changed");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_intune_does_not_take_is_told_by_name() {
    let world = World::start().await;
    world.switch("unknown_groups", "refused").await;
    world.post("servicenow", "/v1/plan", &add(SALES_ESP, &group(2)), &[]).await.expect(200);
    world.control("DELETE", &format!("groups/{}", group(2)), None).await.expect(204);
    let problem = world.change(&add(SALES_ESP, &group(2))).await.problem(422, "invalid-group");
    told(&world, &problem, 400, &format!("Invalid GroupId : {}", group(2))).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_that_is_not_there_is_told_so_whether_graph_says_404_or_400() {
    let world = open().await;
    for switch in ["not_found", "bad_request"] {
        world.switch("unknown_configuration", switch).await;
        let unknown =
            format!("a0000000-0000-4000-8000-0000000000{}_Limit", if switch == "not_found" { "f1" } else { "f2" });
        world.change(&add(&unknown, &group(1))).await.problem(404, "unknown-configuration");
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_without_words_is_told_as_one() {
    for shape in ["html", "empty"] {
        let world = World::start().await;
        world.switch("error_shape", shape).await;
        for status in [400, 403] {
            world.fault(json!({"path_ends": ASSIGN, "times": 1, "effect": {"kind": "answer", "status": status}})).await;
            let problem = world.change(&add(SALES_ESP, &group(1))).await.problem(502, "graph-refused");
            assert_eq!(problem.body["detail"], format!("Graph answered {status} and gave no reason"));
            told(&world, &problem, status, "").await;
        }
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endless_reason_is_cut() {
    let world = World::start().await;
    let effect = json!({"kind": "answer", "status": 400, "body": intune("BadRequest", &"why ".repeat(100_000))});
    world.fault(json!({"path_ends": ASSIGN, "times": 1, "effect": effect})).await;
    let problem = world.change(&add(SALES_ESP, &group(1))).await.problem(502, "graph-refused");
    assert!(problem.text.len() < 5_000, "{}", problem.text.len());
    told(&world, &problem, 400, "why why").await;
    world.end().await;
}
