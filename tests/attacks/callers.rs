//! Attacks by somebody with a valid token: another caller's, or a stranger's.

use serde_json::{Value, json};

use crate::{
    attacked_gateway::part,
    responses::Reply,
    world::{ASSIGNMENTS, SALES_ESP, World, add, group},
};

/// A world in which servicenow has made a change with an idempotency key; returns the operation's id.
async fn with_an_operation() -> (World, String) {
    let world = World::start().await;
    let headers = [("idempotency-key", "RITM-1"), ("prefer", "wait=25")];
    let answer = world.post("servicenow", ASSIGNMENTS, &add("Sales ESP", &group(1)), &headers).await;
    let id = answer.succeeded("changed");
    (world, id)
}

async fn ask(world: &World, caller: &str, method: &str, path: &str) -> Reply {
    world.send(world.request(caller, method, path).await).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_operation_of_another_is_neither_seen_nor_cancelled_nor_told_from_none() {
    let (world, id) = with_an_operation().await;
    let absent = ask(&world, "portal", "GET", "/v1/operations/op_00000000000000000000000001").await;
    let encoded = id.bytes().map(|byte| format!("%{byte:02x}")).collect::<Vec<_>>().concat();
    for spelt in [id.clone(), id.to_uppercase(), encoded, format!("{id}%20"), format!("{id}%00"), format!("{id}%2f")] {
        for method in ["GET", "DELETE"] {
            let answer = ask(&world, "portal", method, &format!("/v1/operations/{spelt}")).await;
            assert_eq!(answer.status, 404, "{method} {spelt}: {}", answer.text);
            assert!(!answer.text.contains("RITM0000001") && !answer.text.contains(&group(1)), "{}", answer.text);
        }
    }
    let hidden = ask(&world, "portal", "GET", &format!("/v1/operations/{id}")).await;
    assert_eq!((hidden.status, &hidden.body["detail"]), (absent.status, &absent.body["detail"]));
    ask(&world, "servicenow", "GET", &format!("/v1/operations/{id}")).await.expect(200);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_query_or_cursor_shows_another_callers_operations() {
    let (world, id) = with_an_operation().await;
    let later = "op_7zzzzzzzzzzzzzzzzzzzzzzzzz";
    for query in [
        String::new(),
        "?caller=servicenow".to_owned(),
        "?ticket=RITM0000001".to_owned(),
        format!("?configuration={SALES_ESP}"),
        format!("?after={id}"),
        format!("?after={later}"),
        format!("?after={later}&caller=servicenow&limit=200"),
        "?state=succeeded".to_owned(),
        "?limit=200".to_owned(),
    ] {
        let answer = ask(&world, "portal", "GET", &format!("/v1/operations{query}")).await;
        assert!(!answer.text.contains(&id[3..]), "{query}: {}", answer.text);
        if answer.status == 200 {
            assert_eq!(answer.body["operations"], json!([]), "{query}");
        }
    }
    for query in [
        "?after=%27%20OR%201=1--",
        "?after=",
        "?after=op_",
        "?limit=0",
        "?limit=-1",
        "?limit=999999999999999999999",
        "?limit=1e2",
        "?ticket=a&ticket=b",
        "?caller=a&caller=servicenow",
        "?Caller=servicenow",
        "?sort=caller",
        "?state=succeeded%00",
        "?after=op_zzzzzzzzzzzzzzzzzzzzzzzzzz",
    ] {
        ask(&world, "portal", "GET", &format!("/v1/operations{query}")).await.problem(400, "invalid-query");
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_idempotency_key_of_another_gives_nothing_away() {
    let (world, id) = with_an_operation().await;
    let accepted = world.events("accepted").await.len();
    for body in [add("Sales ESP", &group(1)), add("Kiosk ESP", "Sales Kiosks"), json!({})] {
        let answer = world.post("stranger", ASSIGNMENTS, &body, &[("idempotency-key", "RITM-1")]).await;
        answer.problem(403, "unknown-caller");
        let answer = world.post("portal", ASSIGNMENTS, &body, &[("idempotency-key", "RITM-1")]).await;
        assert!(!answer.text.contains(&id[3..]) && answer.header("idempotency-replayed").is_empty(), "{}", answer.text);
    }
    let denied = world.events("denied").await;
    assert!(denied.iter().any(|record| record["caller"] == "portal"), "what a proven caller may not do is on record");
    assert!(denied.iter().filter(|record| record["caller"] == Value::Null).count() >= 3);
    let own = world.events("accepted").await;
    assert!(own.iter().skip(accepted).all(|record| record["caller"] == "portal"));
    let headers = [("idempotency-key", "RITM-1"), ("prefer", "wait=25")];
    let again = world.post("servicenow", ASSIGNMENTS, &add("Sales ESP", &group(1)), &headers).await;
    assert_eq!((again.id(), again.header("idempotency-replayed")), (id, "true"));
    for accepted in own.iter().skip(accepted) {
        let path = format!("/v1/operations/{}", accepted["operation"].as_str().unwrap());
        world.send(world.request("portal", "GET", &path).await.header("prefer", "wait=25")).await.expect(200);
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_counts_in_its_header_only_and_only_once() {
    let world = World::start().await;
    let token = world.token("servicenow").await;
    let basic = part(format!("servicenow:{token}"));
    for request in [
        world.bare("GET", &format!("/v1/operations?access_token={token}")),
        world.bare("GET", "/v1/operations").header("cookie", format!("Authorization=Bearer {token}; token={token}")),
        world.bare("GET", "/v1/operations").header("x-authorization", format!("Bearer {token}")),
        world.bare("GET", "/v1/operations").header("proxy-authorization", format!("Bearer {token}")),
        world.bare("GET", "/v1/operations").header("x-forwarded-authorization", format!("Bearer {token}")),
        world.bare("GET", "/v1/operations").header("x-ms-client-principal-name", "servicenow"),
        world.bare("GET", "/v1/operations").header("x-forwarded-user", "servicenow"),
        world.bare("GET", "/v1/operations").header("authorization", format!("Basic {basic}")),
        world.bare("GET", "/v1/operations").header("authorization", format!("DPoP {token}")),
        world.bare("GET", "/v1/operations").header("authorization", format!("Bearer{token}")),
        world.bare("GET", "/v1/operations").header("authorization", format!("Bearer\t{token}")),
        world.bare("GET", "/v1/operations").header("authorization", format!("Bearer Bearer {token}")),
        world.bare("GET", "/v1/operations").header("authorization", token.clone()),
        world.bare("GET", "/v1/operations").bearer_auth(&token).bearer_auth(&token),
        world.bare("GET", "/v1/operations").header("authorization", "Basic x").bearer_auth(&token),
        world.bare("POST", ASSIGNMENTS).form(&[("access_token", &token)]),
    ] {
        let answer = world.send(request).await;
        assert_eq!(answer.status, 401, "{}", answer.text);
        assert!(!answer.text.contains(&token));
        world.get("servicenow", "/v1/operations").await.expect(200);
    }
    world.end().await;
}
