//! Changes that begin only after a second person approves.

use std::sync::LazyLock;

use serde_json::{Value, json};

use crate::{
    responses::Reply,
    until::{call_off, end_comes, end_is, with_end},
    world::{ASSIGNMENTS, EVERYTHING, SALES_ESP, Setup, World, add, group},
};

/// The shipped example without its exception for the night: these tests run at any hour.
static EXAMPLE: LazyLock<String> = LazyLock::new(|| {
    let night = "(context.time.hour >= 20 || context.time.hour < 5)";
    let example = include_str!("../../config/examples/approval.cedar");
    assert!(example.contains(night));
    example.replace(night, "context.time.hour >= 24")
});

/// The example, without the guard, which would forbid the change outright.
fn policies() -> [(&'static str, &'static str); 2] {
    [("guard.cedar", ""), ("approval.cedar", &EXAMPLE)]
}

fn setup() -> Setup {
    Setup { policies: policies().to_vec(), ..Setup::default() }
}

fn everyone() -> Value {
    json!({"configuration": "Sales ESP", "add": [{"all": "users"}], "ticket": "RITM0000003"})
}

/// Submits a change that needs approval; returns the operation's id.
async fn asked(world: &World) -> String {
    let accepted = world.change(&everyone()).await.expect(202);
    assert_eq!(accepted.body["state"], "awaiting_approval");
    assert_eq!(accepted.header("retry-after"), "60");
    accepted.id()
}

/// A token of somebody who may approve, issued to a caller's own application.
async fn approver(world: &World, caller: &str, subject: &str) -> String {
    let roles = ["Assignments.Read", "Assignments.Approve", "Assignments.Own", "Assignments.Change"];
    world.forge(caller, json!({"roles": roles, "sub": subject}), json!({})).await
}

async fn say(world: &World, token: &str, id: &str, answer: &str) -> Reply {
    let request = world.bare("POST", &format!("/v1/operations/{id}/{answer}")).bearer_auth(token);
    world.send(request).await
}

async fn comment(world: &World, token: &str, (id, answer): (&str, &str), body: &Value) -> Reply {
    let request = world.bare("POST", &format!("/v1/operations/{id}/{answer}")).bearer_auth(token);
    world.send(request.json(body)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_needs_approval_waits_for_it_and_is_applied_then() {
    let world = World::with(setup()).await;
    let planned = world.post("servicenow", "/v1/plan", &everyone(), &[]).await.expect(200);
    assert_eq!(planned.body["permission"]["approvals"], json!(["tenant-wide"]), "{}", planned.text);
    let accepted = world.change(&everyone()).await.expect(202);
    let id = accepted.id();
    assert_eq!(accepted.body["approval"]["names"], json!(["tenant-wide"]));
    assert_eq!(accepted.body["approval"]["asked_at"], accepted.body["accepted_at"]);
    assert_eq!(accepted.body["links"]["approve"], format!("/v1/operations/{id}/approve"));
    assert_eq!(accepted.header("location"), format!("/v1/operations/{id}"));
    // Nobody waits for a person's answer, and changes that need no approval overtake it.
    assert!(!accepted.headers.contains_key("preference-applied"), "{accepted:?}");
    world.change(&add("Sales ESP", &group(1))).await.succeeded("changed");
    let waiting = world.get("helpdesk", "/v1/operations?state=awaiting_approval").await.expect(200);
    assert_eq!(waiting.body["operations"][0]["id"], json!(id));
    let token = approver(&world, "helpdesk", "bob").await;
    let approved = comment(&world, &token, (&id, "approve"), &json!({"comment": "Seen in CAB."})).await.expect(200);
    let answer = &approved.body["approval"]["answer"];
    assert_eq!((&answer["word"], &answer["by"]), (&json!("approved"), &json!("helpdesk")));
    assert_eq!(answer["comment"], "Seen in CAB.");
    assert!(approved.body["links"]["approve"].is_null());
    let ended = world.end_of(&id).await;
    ended.succeeded("changed");
    assert_eq!(ended.body["approval"]["answer"], *answer);
    assert!(world.assigned(SALES_ESP).await.iter().any(|it| it["target"].to_string().contains("allLicensedUsers")));
    let accepted = world.events("accepted").await;
    assert_eq!(accepted[0]["approvals"], json!(["tenant-wide"]));
    let record = world.events("approved").await.pop().unwrap();
    assert_eq!(
        (&record["operation"], &record["configuration"], &record["caller"], &record["subject"]),
        (&json!(id), &json!(SALES_ESP), &json!("helpdesk"), &json!("bob"))
    );
    assert_eq!((&record["policies"], &record["comment"]), (&json!(["approvers-approve"]), &json!("Seen in CAB.")));
    // Once is enough; repeating the same answer is accepted, a different one is not.
    say(&world, &token, &id, "approve").await.expect(200);
    say(&world, &token, &id, "reject").await.problem(409, "not-awaiting-approval");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_rejected_fails_with_the_reason_and_reaches_nothing() {
    let world = World::with(setup()).await;
    let key = [("idempotency-key", "k")];
    let id = world.post("servicenow", ASSIGNMENTS, &everyone(), &key).await.expect(202).id();
    let waiting = world.request("servicenow", "GET", &format!("/v1/operations/{id}")).await;
    let waiting = world.send(waiting.header("prefer", "wait=20"));
    let token = approver(&world, "helpdesk", "bob").await;
    let (told, _) = tokio::join!(waiting, async {
        while world.gateway().store().notices().waiter_count() == 0 {
            tokio::task::yield_now().await;
        }
        comment(&world, &token, (&id, "reject"), &json!({"comment": "Not before Monday."})).await.expect(200)
    });
    assert_eq!((&told.body["state"], &told.body["problem"]["code"]), (&json!("failed"), &json!("approval-rejected")));
    assert!(told.body["started_at"].is_null() && told.body["ended_at"].is_string());
    let again = world.post("servicenow", ASSIGNMENTS, &everyone(), &key).await.problem(403, "approval-rejected");
    assert_eq!(again.body["detail"], "helpdesk rejected the change: Not before Monday.");
    say(&world, &token, &id, "approve").await.problem(409, "not-awaiting-approval");
    assert!(world.assigns().await.is_empty());
    assert_eq!(world.events("rejected").await[0]["comment"], "Not before Monday.");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_approves_its_own_change_whatever_policy_permits() {
    let world = World::with(Setup { policies: [&policies()[..], &[EVERYTHING]].concat(), ..Setup::default() }).await;
    let asker = approver(&world, "servicenow", "alice").await;
    let mut body = everyone();
    body["requested_for"] = json!("Jane@contoso.com");
    let id = world.send(world.bare("POST", ASSIGNMENTS).bearer_auth(&asker).json(&body)).await.expect(202).id();
    for (caller, subject) in [("servicenow", "bob"), ("helpdesk", "alice"), ("helpdesk", "jane@contoso.com")] {
        for word in ["approve", "reject"] {
            let token = approver(&world, caller, subject).await;
            let denied = say(&world, &token, &id, word).await.problem(403, "not-permitted");
            assert!(denied.body["detail"].as_str().unwrap().contains("cannot approve or reject it"), "{}", denied.text);
        }
    }
    let denied = world.events("denied").await;
    assert_eq!(denied.len(), 6);
    assert!(denied.iter().all(|record| record["action"] == "approve" && record["configuration"] == SALES_ESP));
    // The asker can cancel it.
    let request = world.bare("DELETE", &format!("/v1/operations/{id}")).bearer_auth(&asker);
    assert_eq!(world.send(request).await.expect(200).body["state"], "cancelled");
    let token = approver(&world, "helpdesk", "bob").await;
    say(&world, &token, &id, "approve").await.problem(409, "not-awaiting-approval");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whom_policy_does_not_permit_does_not_answer_and_whoever_may_not_read_learns_nothing() {
    let world = World::with(setup()).await;
    let id = asked(&world).await;
    let reader = world.token("helpdesk").await;
    let denied = say(&world, &reader, &id, "approve").await.problem(403, "not-permitted");
    assert!(
        denied.body["detail"].as_str().unwrap().contains("tenant-wide-approval-needs-the-owner"),
        "{}",
        denied.text
    );
    let roles = json!({"roles": ["Assignments.Approve"], "sub": "bob"});
    let no_owner = world.forge("helpdesk", roles, json!({})).await;
    say(&world, &no_owner, &id, "reject").await.problem(403, "not-permitted");
    let stranger = world.token("portal").await;
    say(&world, &stranger, &id, "approve").await.problem(404, "unknown-operation");
    let token = approver(&world, "helpdesk", "bob").await;
    for (body, at) in [(json!({"comment": 1}), "/comment"), (json!({"why": "x"}), "/why"), (json!([]), "")] {
        let problem = comment(&world, &token, (&id, "approve"), &body).await.problem(422, "invalid-change");
        assert_eq!(problem.body["errors"][0]["pointer"], at);
    }
    let none_asked = world.change(&add("Sales ESP", &group(1))).await.succeeded("changed");
    say(&world, &token, &none_asked, "approve").await.problem(409, "not-awaiting-approval");
    comment(&world, &token, (&id, "reject"), &json!({})).await.expect(200);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_answers_ends_by_itself() {
    let settings = vec![("OPERATIONS__APPROVAL_TTL", "1s"), ("EXECUTOR__SWEEP_INTERVAL", "100ms")];
    let world = World::with(Setup { settings, ..setup() }).await;
    let id = asked(&world).await;
    let ended = world.end_of(&id).await;
    assert_eq!((&ended.body["state"], &ended.body["problem"]["code"]), (&json!("failed"), &json!("approval-expired")));
    assert_eq!(ended.body["approval"]["answer"]["word"], "expired");
    assert_eq!(ended.body["approval"]["answer"]["by"], Value::Null);
    let token = approver(&world, "helpdesk", "bob").await;
    say(&world, &token, &id, "approve").await.problem(409, "not-awaiting-approval");
    let records = world.events("approval-expired").await;
    assert_eq!((records.len(), &records[0]["configuration"]), (1, &json!(SALES_ESP)));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_awaits_approval_outlives_a_restart_and_so_does_the_approval() {
    let mut world = World::with(setup()).await;
    let id = asked(&world).await;
    world.restart().await;
    assert_eq!(world.operation(&id).await.body["state"], "awaiting_approval");
    world.hold("/assign").await;
    let token = approver(&world, "helpdesk", "bob").await;
    say(&world, &token, &id, "approve").await.expect(200);
    world.held(1).await;
    let stopping = world.take_gateway();
    tokio::join!(stopping.stop(), world.clear_faults());
    world.start_gateway().await;
    let ended = world.end_of(&id).await;
    ended.succeeded("changed");
    assert_eq!(ended.body["approval"]["answer"]["by"], "helpdesk");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reversal_waits_for_the_approval_that_reverting_asks_for_and_no_other() {
    let asks = "@id(\"reverting-with-approval\") @approval(\"revert\")\n\
                permit (principal, action == Postern::Action::\"revert\", resource);";
    let policies = [&policies()[..], &[("revert.cedar", asks)]].concat();
    let world = World::with(Setup { policies, ..Setup::default() }).await;
    let token = approver(&world, "helpdesk", "bob").await;
    let id = asked(&world).await;
    say(&world, &token, &id, "approve").await.expect(200);
    world.end_of(&id).await.succeeded("changed");
    let path = format!("/v1/operations/{id}/revert");
    let reversal = world.post("servicenow", &path, &json!({}), &[]).await.expect(202);
    assert_eq!(reversal.body["state"], "awaiting_approval");
    // Removing everybody needs approval, too; earlier approvals do not carry over.
    assert_eq!(reversal.body["approval"]["names"], json!(["revert", "tenant-wide"]));
    assert!(reversal.body["approval"]["answer"].is_null());
    say(&world, &token, &reversal.id(), "approve").await.expect(200);
    world.end_of(&reversal.id()).await.succeeded("changed");
    assert!(!world.assigned(SALES_ESP).await.iter().any(|it| it["target"].to_string().contains("allLicensedUsers")));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reversal_that_waits_for_approval_keeps_no_end_from_coming() {
    let asks = "@id(\"reverting-with-approval\") @approval(\"revert\")\n\
                permit (principal, action == Postern::Action::\"revert\", resource);";
    let policies = [&policies()[..], &[("revert.cedar", asks)]].concat();
    let world = World::with(Setup { policies, ..Setup::default() }).await;
    let token = approver(&world, "helpdesk", "bob").await;
    let id = world.change(&with_end(everyone())).await.expect(202).id();
    say(&world, &token, &id, "approve").await.expect(200);
    world.end_of(&id).await.succeeded("changed");
    let waiting = world.post("servicenow", &format!("/v1/operations/{id}/revert"), &json!({}), &[]).await.expect(202);
    assert_eq!(waiting.body["state"], "awaiting_approval");
    end_comes(&world).await;
    let ended = end_is(&world, &id, "reverted").await;
    world.end_of(ended.body["ends"]["operation"].as_str().unwrap()).await.succeeded("changed");
    assert!(!world.assigned(SALES_ESP).await.iter().any(|it| it["target"].to_string().contains("allLicensedUsers")));
    // The pending revert was cancelled, so it cannot undo the change again after somebody repeats it.
    assert_eq!(world.operation(&waiting.id()).await.body["state"], "cancelled");
    say(&world, &token, &waiting.id(), "approve").await.problem(409, "not-awaiting-approval");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_that_was_approved_is_called_off_by_nobody_who_could_not_approve_it() {
    let mut world =
        World::with(Setup { policies: [&policies()[..], &[EVERYTHING]].concat(), ..Setup::default() }).await;
    let token = approver(&world, "helpdesk", "bob").await;
    let devices = json!({"configuration": "Sales ESP", "add": [{"all": "devices"}], "ticket": "RITM0000004"});
    let mut ids = Vec::new();
    for change in [everyone(), devices] {
        let id = world.change(&with_end(change)).await.expect(202).id();
        call_off(&world, "servicenow", &id).await.problem(403, "not-permitted");
        say(&world, &token, &id, "approve").await.expect(200);
        world.end_of(&id).await.succeeded("changed");
        let denied = call_off(&world, "servicenow", &id).await.problem(403, "not-permitted");
        assert!(
            denied.body["detail"].as_str().unwrap().contains("its end is part of what is approved"),
            "{}",
            denied.text
        );
        ids.push(id);
    }
    let records = world.events("denied").await;
    assert!(records.len() == 4 && records.iter().all(|record| record["action"] == "cancel"), "{records:?}");
    // Even by a gateway that has just started, and while Graph does not answer.
    world.restart().await;
    world.hold(SALES_ESP).await;
    let request = world.bare("DELETE", &format!("/v1/operations/{}/until", ids[0])).bearer_auth(&token);
    assert_eq!(world.send(request).await.expect(200).body["ends"]["state"], "called-off");
    world.clear_faults().await;
    let record = world.events("until-called-off").await.pop().unwrap();
    assert_eq!(record["policies"], json!(["approvers-approve"]));
    // Nor can the asker cancel the reversal.
    world.hold("/assign").await;
    let running =
        world.post("servicenow", ASSIGNMENTS, &add("Sales ESP", &group(1)), &[("prefer", "respond-async")]).await;
    world.held(1).await;
    end_comes(&world).await;
    let reverted = end_is(&world, &ids[1], "reverted").await;
    let undoing = reverted.body["ends"]["operation"].as_str().unwrap().to_owned();
    let cancel = world.request("servicenow", "DELETE", &format!("/v1/operations/{undoing}")).await;
    world.send(cancel).await.problem(403, "not-permitted");
    world.clear_faults().await;
    world.end_of(&running.expect(202).id()).await.succeeded("changed");
    world.end_of(&undoing).await.succeeded("changed");
    let left = json!(world.assigned(SALES_ESP).await).to_string();
    assert!(left.contains("allLicensedUsers") && !left.contains("allDevices"), "{left}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_key_finds_the_change_that_waits_and_takes_no_more_room() {
    let settings = vec![("OPERATIONS__PENDING_MAX", "1")];
    let world = World::with(Setup { settings, ..setup() }).await;
    let key = [("idempotency-key", "k")];
    let id = world.post("servicenow", ASSIGNMENTS, &everyone(), &key).await.expect(202).id();
    for _ in 0..3 {
        let again = world.post("servicenow", ASSIGNMENTS, &everyone(), &key).await.expect(202);
        assert_eq!((again.id(), again.header("idempotency-replayed")), (id.clone(), "true"));
    }
    world.change(&add("Sales ESP", &group(1))).await.problem(503, "gateway-full");
    let token = approver(&world, "helpdesk", "bob").await;
    say(&world, &token, &id, "reject").await.expect(200);
    world.change(&add("Sales ESP", &group(1))).await.succeeded("changed");
    world.end().await;
}
