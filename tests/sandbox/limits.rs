//! Budgets, priorities, stale reads, and truncated responses.

use std::time::Duration;

use postern::clock::Clock;
use serde_json::json;

use crate::world::{CLIENT, CONFIGURATIONS, DEFAULT_LIMIT, KIOSK_ESP, SALES_ESP, World, got, group_target, sent};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_beyond_their_budget_are_throttled_and_reads_are_not() {
    let world = World::start().await;
    world.switch("writes_max", 2).await;
    for status in [204, 204, 429] {
        world.assign(KIOSK_ESP, &[group_target(1)]).await.expect(status);
    }
    world.get(CONFIGURATIONS).await.expect(200);
    for (word, fits) in [
        ("whole", "integer"),
        ("fractional", "decimal"),
        ("date", "date"),
        ("zero", "0"),
        ("absurd", "86400000"),
        ("absent", "none"),
    ] {
        world.switch("retry_after", word).await;
        let answer = world.assign(KIOSK_ESP, &[group_target(1)]).await.expect(429);
        assert_eq!(answer.code(), "TooManyRequests");
        let told = answer.headers.get("retry-after").map_or("none", String::as_str);
        let right = match fits {
            "integer" => told.parse::<u64>().is_ok_and(|seconds| (1..=20).contains(&seconds)),
            "decimal" => told.contains('.') && told.parse::<f64>().is_ok_and(|seconds| seconds <= 20.0),
            "date" => told.ends_with(" GMT"),
            exactly => told == exactly,
        };
        assert!(right, "{word}: {told}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_tell_what_they_cost_and_are_refused_beyond_their_limit() {
    let world = World::start().await;
    let answer = world.get("/v1.0/groups").await.expect(200);
    assert_eq!(answer.headers["x-ms-resource-unit"], "1");
    world.control("POST", "reset", None).await.expect(204);
    world.switch("group_units_max", 5).await;
    let mut told = Vec::new();
    for status in [200, 200, 200, 200, 200, 429] {
        let answer = world.get("/v1.0/groups").await.expect(status);
        told.push(answer.headers.get("x-ms-throttle-limit-percentage").cloned().unwrap_or_default());
    }
    assert_eq!(told, ["", "", "", "0.8", "1.0", "1.2"]);
    world.get(CONFIGURATIONS).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_priority_is_set_by_its_action_only_and_renumbers_the_kind() {
    let world = World::start().await;
    let rank = async |id: &str, priority: i64| {
        let path = format!("{CONFIGURATIONS}/{id}/setPriority");
        got(world.authorized("POST", &path).json(&json!({ "priority": priority }))).await.status
    };
    assert_eq!(rank(KIOSK_ESP, 1).await, 204);
    let priority =
        async |id: &str| world.get(&format!("{CONFIGURATIONS}/{id}")).await.expect(200).body["priority"].clone();
    assert_eq!((priority(KIOSK_ESP).await, priority(SALES_ESP).await), (json!(1), json!(2)));
    assert_eq!(priority(DEFAULT_LIMIT).await, 0);
    for (id, wrong) in [(KIOSK_ESP, 0), (DEFAULT_LIMIT, 1)] {
        assert_eq!(rank(id, wrong).await, 400);
    }
    let patch = world.authorized("PATCH", &format!("{CONFIGURATIONS}/{KIOSK_ESP}")).json(&json!({"priority": 2}));
    assert_eq!(got(patch).await.expect(400).code(), "BadRequest");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_lag_behind_an_assign_as_often_as_they_are_told_to() {
    let world = World::start().await;
    world.switch("reads_behind", 2).await;
    world.assign(KIOSK_ESP, &[group_target(1)]).await.expect(204);
    for seen in [0, 0, 1, 1] {
        assert_eq!(world.assignments(KIOSK_ESP).await.len(), seen);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_can_be_cut_short_swollen_or_halted() {
    let world = World::start().await;
    let whole = world.get(CONFIGURATIONS).await.expect(200).text;
    let order = |effect| json!({"method": "GET", "times": 1, "effect": effect});
    world.fault(order(json!({"kind": "truncate"}))).await;
    let cut = world.get(CONFIGURATIONS).await.expect(200);
    assert!(cut.body.is_null() && whole.starts_with(&cut.text) && !cut.text.is_empty(), "{}", cut.text);
    world.fault(order(json!({"kind": "swell", "bytes": 1_000_000}))).await;
    let swollen = world.get(CONFIGURATIONS).await.expect(200);
    assert_eq!((swollen.text.len(), &swollen.body["value"].is_array()), (whole.len() + 1_000_000, &true));
    world.fault(order(json!({"kind": "halt", "millis": 300}))).await;
    let clock = Clock::system();
    let answer = sent(world.authorized("GET", CONFIGURATIONS)).await.unwrap();
    let headers_after = clock.elapsed();
    assert_eq!(answer.text().await.unwrap(), whole);
    let body_took = clock.elapsed().checked_sub(headers_after).unwrap();
    assert!(body_took >= Duration::from_millis(200), "{body_took:?} for the body alone");
    world.control("POST", "faults", Some(order(json!({"kind": "swell", "bytes": 1_u64 << 40})))).await.expect(400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_can_be_applied_and_answered_as_if_it_were_not() {
    let world = World::start().await;
    world.fault(json!({"path_ends": "/assign", "times": 1, "effect": {"kind": "answer_after", "status": 504}})).await;
    world.assign(KIOSK_ESP, &[group_target(1)]).await.expect(504);
    assert_eq!(world.assignments(KIOSK_ESP).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_code_of_the_login_service_can_be_ordered() {
    let world = World::start().await;
    for code in [7_000_222, 700_027, 70_021, 53_003, 90_038, 50_196, 90_055, 90_033] {
        world.fault(json!({"path_ends": "/token", "times": 1, "effect": {"kind": "refuse", "code": code}})).await;
        let answer = world.login(&[]).await;
        assert!(answer.status >= 400 && answer.body["error_codes"] == json!([code]), "{}", answer.text);
        assert!(answer.body["error_description"].as_str().unwrap().starts_with(&format!("AADSTS{code}: ")));
    }
    let unknown = json!({"effect": {"kind": "refuse", "code": 1}});
    world.control("POST", "faults", Some(unknown)).await.expect(400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_can_be_given_other_roles_and_another_secret() {
    let world = World::start().await;
    let amended = json!({"client_id": CLIENT, "roles": ["GroupMember.Read.All"], "client_secret": "rolled"});
    world.control("POST", "apps", Some(amended)).await.expect(204);
    world.get(CONFIGURATIONS).await.expect(200);
    world.login(&[]).await.expect(401);
    let token = world.login(&[("client_secret", "rolled")]).await.expect(200).body["access_token"].clone();
    got(world.request("GET", CONFIGURATIONS).bearer_auth(token.as_str().unwrap())).await.expect(403);
    let stranger = json!({"client_id": "00000000-0000-4000-8000-000000000000"});
    world.control("POST", "apps", Some(stranger)).await.expect(404);
}
