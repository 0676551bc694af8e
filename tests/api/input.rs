//! Malformed bodies, headers, paths and queries: rejected before Graph is asked.

use serde_json::json;

use crate::{
    responses::Reply,
    world::{ASSIGNMENTS, SALES_ESP, Setup, World, add},
};

async fn raw(world: &World, content_type: Option<&str>, body: impl Into<Vec<u8>>) -> Reply {
    let request = world.request("servicenow", "POST", ASSIGNMENTS).await.body(body.into());
    world.send(content_type.into_iter().fold(request, |request, value| request.header("content-type", value))).await
}

/// Asserts that none of it had any effect.
async fn nothing_happened(world: World) {
    assert!(world.journal().await.is_empty(), "Graph was asked");
    let page = world.get("helpdesk", "/v1/operations").await.expect(200);
    assert_eq!(page.body, json!({"operations": [], "next": null}));
    assert!(world.events("accepted").await.is_empty());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_strict_json_is_refused() {
    let world = World::start().await;
    let deep = "[".repeat(5_000);
    for body in [
        b"".as_slice(),
        b"configuration=Sales+ESP",
        b"{",
        b"{\"configuration\":\"Sales ESP\",}",
        b"{} {}",
        b"{\"configuration\":\"a\",\"configuration\":\"b\"}",
        b"{\"add\":[{\"group\":\"a\",\"\\u0067roup\":\"b\"}]}",
        b"{\"ticket\": 1e999}",
        b"{\"ticket\": NaN}",
        b"{\"ticket\": \"\xff\"}",
        b"{\"ticket\": \"\\ud800\"}",
        b"\xef\xbb\xbf{}",
        deep.as_bytes(),
    ] {
        raw(&world, Some("application/json"), body).await.problem(400, "malformed-json");
    }
    nothing_happened(world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_is_sent_as_json_or_not_at_all() {
    let world = World::start().await;
    let body = add("Sales ESP", "Sales Laptops").to_string();
    for content_type in
        [None, Some("text/plain"), Some("application/x-www-form-urlencoded"), Some("application/jsonp"), Some("")]
    {
        raw(&world, content_type, body.clone()).await.problem(415, "unsupported-media-type");
    }
    nothing_happened(world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_beyond_the_limit_is_refused_and_one_at_it_is_read() {
    let world = World::with(Setup { settings: vec![("SERVER__BODY_MAX", "1KiB")], ..Setup::default() }).await;
    let padded = |size: usize| format!("[{}]", " ".repeat(size - 2));
    raw(&world, Some("application/json"), padded(1024)).await.problem(422, "invalid-change");
    for size in [1025, 100_000, 3_000_000] {
        raw(&world, Some("application/json"), padded(size)).await.problem(413, "body-too-large");
    }
    nothing_happened(world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_with_wrong_fields_lists_all_of_them() {
    let world = World::start().await;
    let group = json!([{"group": "Sales Laptops"}]);
    for (body, pointers) in [
        (json!([]), vec![""]),
        (json!("Sales ESP"), vec![""]),
        (json!({}), vec!["", "/configuration"]),
        (json!({"configuration": "Sales ESP"}), vec![""]),
        (json!({"configuration": null, "add": group}), vec!["/configuration"]),
        (json!({"configuration": 7, "add": group}), vec!["/configuration"]),
        (json!({"configuration": "", "add": group}), vec!["/configuration"]),
        (json!({"configuration": "x".repeat(257), "add": group}), vec!["/configuration"]),
        (json!({"configuration": "x", "add": group, "replace": group}), vec!["/replace"]),
        (json!({"configuration": "x", "remove": group, "replace": []}), vec!["/replace"]),
        (json!({"configuration": "x", "add": {"group": "a"}}), vec!["/add"]),
        (json!({"configuration": "x", "add": null}), vec!["/add"]),
        (json!({"configuration": "x", "add": ["a"]}), vec!["/add/0"]),
        (json!({"configuration": "x", "add": [{}]}), vec!["/add/0"]),
        (json!({"configuration": "x", "add": [{"all": "everybody"}]}), vec!["/add/0/all"]),
        (json!({"configuration": "x", "add": [{"all": "users", "group": "a"}]}), vec!["/add/0"]),
        (json!({"configuration": "x", "add": [{"all": "users", "exclude": true}]}), vec!["/add/0/exclude"]),
        (json!({"configuration": "x", "add": group, "tickets": "R"}), vec!["/tickets"]),
        (json!({"configuration": "x", "add": group, "a/b~c": 1}), vec!["/a~1b~0c"]),
        (json!({"configuration": "x", "add": group, "until": 7}), vec!["/until"]),
        (json!({"configuration": "x", "add": group, "callback": 7}), vec!["/callback"]),
        (json!({"configuration": "x", "add": group, "ticket": "a\u{0}b"}), vec!["/ticket"]),
        (json!({"configuration": "x", "add": group, "comment": "x".repeat(1001)}), vec!["/comment"]),
        (
            json!({"configuration": 1, "ticket": {}, "add": [{"group": 7}, {"group": "a", "filter": {"mode": "maybe"}}],
                   "remove": [{"group": "a", "filter": {"id": "f", "mode": "include"}}], "surprise": true}),
            vec![
                "/add/0/group",
                "/add/1/filter",
                "/add/1/filter/mode",
                "/configuration",
                "/remove/0/filter",
                "/surprise",
                "/ticket",
            ],
        ),
    ] {
        for path in [ASSIGNMENTS, "/v1/plan"] {
            let problem = world.post("servicenow", path, &body, &[]).await.problem(422, "invalid-change");
            assert_eq!(problem.pointers(), pointers, "{body}");
        }
    }
    nothing_happened(world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_targets_ask_nothing_of_graph() {
    let world = World::with(Setup { settings: vec![("OPERATIONS__TARGETS_MAX", "3")], ..Setup::default() }).await;
    let targets = |count: usize| (0..count).map(|_| json!({"group": "Sales Laptops"})).collect::<Vec<_>>();
    for body in [
        json!({"configuration": "Sales ESP", "add": targets(4)}),
        json!({"configuration": "Sales ESP", "add": targets(2), "remove": targets(2)}),
        json!({"configuration": "Sales ESP", "replace": targets(4)}),
    ] {
        let problem = world.post("servicenow", ASSIGNMENTS, &body, &[]).await.problem(422, "invalid-change");
        assert_eq!(problem.pointers(), [""]);
    }
    nothing_happened(world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_that_cannot_be_used_are_named() {
    let world = World::start().await;
    let body = add("Sales ESP", "Sales Laptops");
    let long = "k".repeat(256);
    for value in ["", "\"\"", "a\"b", "a\\b", "\"a", &long] {
        let answer = world.post("servicenow", ASSIGNMENTS, &body, &[("idempotency-key", value)]).await;
        let problem = answer.problem(400, "invalid-header");
        assert!(problem.body["detail"].as_str().unwrap().contains("Idempotency-Key"), "{}", problem.text);
    }
    let twice = [("idempotency-key", "a"), ("idempotency-key", "a")];
    world.post("servicenow", ASSIGNMENTS, &body, &twice).await.problem(400, "invalid-header");
    let opaque = reqwest::header::HeaderValue::from_bytes("schlüssel".as_bytes()).unwrap();
    let request = world.request("servicenow", "POST", ASSIGNMENTS).await.json(&body).header("idempotency-key", opaque);
    world.send(request).await.problem(400, "invalid-header");
    let tag = "a".repeat(64);
    let weak = format!("W/\"{tag}\"");
    let halves =
        [format!("\"{tag}.\""), format!("\".{tag}\""), format!("\"{tag}.etag\""), format!("\"{tag}.{tag}.{tag}\"")];
    let others = ["\"etag\"", "", &tag, &weak, &format!("\"{tag}\", \"{tag}\"")];
    for value in halves.iter().map(String::as_str).chain(others) {
        let answer = world.post("servicenow", ASSIGNMENTS, &body, &[("if-match", value)]).await;
        let problem = answer.problem(400, "invalid-header");
        assert!(problem.body["detail"].as_str().unwrap().contains("If-Match"), "{}", problem.text);
    }
    nothing_happened(world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paths_that_lead_nowhere_and_methods_that_do_not_fit_are_told() {
    let world = World::start().await;
    for path in
        ["/", "/v1", "/v1/", "/v1/assignments/", "/v2/assignments", "/v1/assignment", "/livez", "/readyz", "/metrics"]
    {
        for method in ["GET", "POST", "DELETE"] {
            world.send(world.request("servicenow", method, path).await).await.problem(404, "not-found");
        }
    }
    for (path, allowed) in [
        ("/v1/assignments", "POST"),
        ("/v1/plan", "POST"),
        ("/v1/operations", "GET, HEAD"),
        ("/v1/operations/op_00000000000000000000000001", "GET, HEAD, DELETE"),
        ("/v1/configurations", "GET, HEAD"),
        ("/v1/configurations/x/assignments", "GET, HEAD"),
        ("/v1/groups/x/assignments", "GET, HEAD"),
        ("/v1/operations/op_00000000000000000000000001/revert", "POST"),
        ("/v1/operations/op_00000000000000000000000001/until", "DELETE"),
        ("/problems/not-found", "GET, HEAD"),
    ] {
        for method in
            ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"].into_iter().filter(|it| !allowed.contains(it))
        {
            let problem = world.send(world.request("servicenow", method, path).await).await;
            assert_eq!(problem.problem(405, "method-not-allowed").header("allow"), allowed);
        }
    }
    world.send(world.bare("GET", "/problems/no-such-code")).await.problem(404, "not-found");
    nothing_happened(world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_of_no_operation_are_told() {
    let world = World::start().await;
    let long = "0".repeat(3000);
    for id in
        ["x", "op_", "op_0000000000000000000000000u", "op_00000000000000000000000001", "%ff", "%00", "a%2Fb", &long]
    {
        world.get("servicenow", &format!("/v1/operations/{id}")).await.problem(404, "unknown-operation");
    }
    nothing_happened(world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_wrong_query_parameter_is_told() {
    let world = World::start().await;
    for (query, pointers) in [
        ("sort=up", vec!["/sort"]),
        ("limit=0", vec!["/limit"]),
        ("limit=201", vec!["/limit"]),
        ("limit=ten", vec!["/limit"]),
        ("limit=-1", vec!["/limit"]),
        ("state=done", vec!["/state"]),
        ("after=x", vec!["/after"]),
        ("ticket=a&ticket=b", vec!["/ticket"]),
        ("ticket=a%00&caller=%00&configuration=a%0ab", vec!["/caller", "/configuration", "/ticket"]),
        ("state=done&limit=0&after=x&sort=up", vec!["/after", "/limit", "/sort", "/state"]),
    ] {
        let problem = world.get("servicenow", &format!("/v1/operations?{query}")).await.problem(400, "invalid-query");
        assert_eq!(problem.pointers(), pointers, "{query}");
    }
    let problem = world.get("helpdesk", "/v1/audit?ticket=a%00&caller=%7f").await.problem(400, "invalid-query");
    assert_eq!(problem.pointers(), ["/caller", "/ticket"]);
    for (query, pointers) in
        [("search=a&search=b&sort=up", vec!["/search", "/sort"]), ("configuration=x", vec!["/configuration"])]
    {
        let problem = world.get("helpdesk", &format!("/v1/configurations?{query}")).await.problem(400, "invalid-query");
        assert_eq!(problem.pointers(), pointers, "{query}");
    }
    nothing_happened(world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_search_of_operations_on_a_configuration_that_is_none_is_told() {
    let world = World::start().await;
    let unknown = world.get("servicenow", "/v1/operations?configuration=Sale").await;
    let unknown = unknown.problem(404, "unknown-configuration").body;
    assert_eq!(unknown["candidates"], json!([{"id": SALES_ESP, "name": "Sales ESP", "kind": "status-page"}]));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_accept_encoding_keeps_a_response_from_its_reader() {
    let world = World::start().await;
    for coding in ["identity;q=0", "compress, *;q=0", "*;q=0", "gzip;q=0, identity;q=0", "br", "", ";;"] {
        for (path, status) in [("/v1/configurations", 200), ("/v1/operations", 200), ("/openapi.json", 200)] {
            let request = world.request("helpdesk", "GET", path).await.header("accept-encoding", coding);
            assert_eq!(world.send(request).await.status, status, "{coding} {path}");
        }
        let nobody = world.bare("GET", "/v1/configurations").header("accept-encoding", coding);
        world.send(nobody).await.problem(401, "unauthenticated");
    }
    world.end().await;
}
