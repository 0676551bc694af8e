//! Paths, methods and bodies that are not what they seem.

use serde_json::json;

use crate::{
    attacked_gateway::AttackedGateway,
    world::{ASSIGNMENTS, add},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_spelling_of_a_path_leads_past_the_token() {
    let attacked = AttackedGateway::start().await;
    let portal = attacked.world.token("portal").await;
    for path in [
        "/v1/assignments",
        "/v1/assignments/",
        "//v1/assignments",
        "/v1//assignments",
        "/V1/assignments",
        "/v1/Assignments",
        "/v1/%61ssignments",
        "/%76%31/assignments",
        "/v1%2fassignments",
        "/v1/assignments%2f",
        "/v1/./assignments",
        "/v1/%2e/assignments",
        "/v1/x/../assignments",
        "/v1/x/%2e%2e/assignments",
        "/v1/operations/..%2fassignments",
        "/v1/operations/%2e%2e%2fassignments",
        "/problems/..%2f..%2fv1%2fassignments",
        "/problems/%2e%2e/%2e%2e/v1/assignments",
        "/v1/assignments;x=1",
        "/v1/assignments%3bx",
        "/v1/assignments%00",
        "/v1/assignments%20",
        "/v1/assignments?x=1",
        "/v1/assignments.json",
        "/v1/assignments%ff",
        "/v1/plan",
        "/v1/plan/",
        "/v1/plan%2f..%2fassignments",
        "/livez",
        "/readyz",
        "/metrics",
        "/admin",
        "/_sandbox/state",
        "/.well-known/openid-configuration",
        "/v1",
        "/v1/",
        "/",
        "/%",
        "/%zz",
    ] {
        for token in ["", "x.y.z", &portal] {
            let request = attacked.world.bare("POST", path).bearer_auth(token);
            let answer = attacked.sent(request.json(&add("Sales ESP", "Sales Laptops"))).await;
            // The portal is authenticated, but no policy lets it touch this configuration.
            assert!((400..=405).contains(&answer.status), "{path} {}: {}", answer.status, answer.text);
        }
        attacked.is_still_serving().await;
    }
    attacked.end_after_lookups("spellings of paths").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_method_in_a_header_or_out_of_place_changes_nothing() {
    let attacked = AttackedGateway::start().await;
    let token = attacked.world.token("servicenow").await;
    for method in ["PUT", "PATCH", "DELETE", "TRACE", "OPTIONS", "HEAD", "CONNECT", "PROPFIND", "post", "GET", "X"] {
        let request = attacked.world.bare(method, ASSIGNMENTS).bearer_auth(&token);
        let answer = attacked.sent(request.json(&add("Sales ESP", "Sales Laptops"))).await;
        assert!((400..=405).contains(&answer.status), "{method}: {}", answer.status);
        assert!(!answer.text.contains(&token), "{method} gives the token back");
        attacked.is_still_serving().await;
    }
    for header in ["x-http-method-override", "x-http-method", "x-method-override", "x-original-url", "x-rewrite-url"] {
        let request = attacked.world.bare("GET", "/v1/operations").bearer_auth(&token);
        let request = request.header(header, if header.contains("url") { ASSIGNMENTS } else { "DELETE" });
        let answer = attacked.sent(request.json(&add("Sales ESP", "Sales Laptops"))).await.expect(200);
        assert_eq!(answer.body["operations"], json!([]));
        attacked.is_still_serving().await;
    }
    attacked.end("methods").await;
}

/// Bodies from a caller who may make changes, none of which is a valid change.
fn bodies() -> Vec<Vec<u8>> {
    let good = add("Sales ESP", "Sales Laptops").to_string();
    let inner = &good[1..good.len() - 1];
    let utf16: Vec<u8> = good.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let texts = [
        String::new(),
        " ".to_owned(),
        "null".to_owned(),
        "[]".to_owned(),
        format!("[{good}]"),
        format!("{good}{good}"),
        format!("{good} //"),
        format!("\u{feff}{good}"),
        format!("{{{inner},}}"),
        format!("{{{inner},{inner}}}"),
        format!("{{{inner},\"\\u0061dd\":[]}}"),
        format!("{{{inner},\"Add\":[]}}"),
        format!("{{{inner},\"add \":[]}}"),
        format!("{{{inner},\"__proto__\":{{\"add\":[]}}}}"),
        format!("{{{inner},\"caller\":\"helpdesk\"}}"),
        format!("{{{inner},\"replace\":[]}}"),
        format!("{{{inner},\"x\":NaN}}"),
        format!("{{{inner},\"x\":1e999}}"),
        format!("{{{inner},\"x\":{}}}", "[".repeat(100_000)),
        format!("{{{inner},\"x\":\"\u{0}\"}}"),
        good.replace("Sales ESP", "../../groups"),
        good.replace("Sales ESP", "Sales ESP\\u0000"),
        good.replace("Sales ESP", "' OR displayName ne '"),
        good.replace("Sales Laptops", "x' or startswith(displayName,'"),
        good.replace("Sales Laptops", "\\ud800"),
        good.replace("RITM0000001", &"9".repeat(100_000)),
        "configuration=Sales+ESP&add=Sales+Laptops".to_owned(),
        json!({"configuration": "Sales ESP", "add": vec![json!({"group": "Sales Laptops"}); 3_000]}).to_string(),
        json!({"configuration": "Sales ESP", "add": [{"group": {"$ne": null}}]}).to_string(),
        json!({"configuration": ["Sales ESP"], "add": [{"group": "Sales Laptops"}]}).to_string(),
        json!({"configuration": "Sales ESP", "add": [{"group": "Sales Laptops", "all": "users"}]}).to_string(),
        json!({"configuration": "Sales ESP", "add": [{"@odata.type": "#microsoft.graph.allDevicesAssignmentTarget"}]})
            .to_string(),
    ];
    let gzip = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 1, 2, 3];
    texts
        .into_iter()
        .map(String::into_bytes)
        .chain([utf16, gzip, vec![0xff; 100], vec![0; 1_000], vec![b'x'; 300_000]])
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_body_is_taken_for_a_change_that_is_none() {
    let attacked = AttackedGateway::start().await;
    let token = attacked.world.token("servicenow").await;
    for body in bodies() {
        let shown = String::from_utf8_lossy(&body[..body.len().min(120)]).into_owned();
        let request = attacked.world.bare("POST", ASSIGNMENTS).bearer_auth(&token);
        let answer = attacked.sent(request.header("content-type", "application/json").body(body)).await;
        assert!((400..=422).contains(&answer.status), "{shown}: {} {}", answer.status, answer.text);
        assert!(answer.text.len() < 20_000, "{shown}");
        attacked.is_still_serving().await;
    }
    for content_type in [
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/jsonx",
        "application/json-patch+json",
        "application/merge-patch+json",
        "text/json",
        "*/*",
        "application/problem+json",
    ] {
        let request = attacked.world.bare("POST", ASSIGNMENTS).bearer_auth(&token).header("content-type", content_type);
        let answer = attacked.sent(request.body(add("Sales ESP", "Sales Laptops").to_string())).await;
        answer.problem(415, "unsupported-media-type");
        attacked.is_still_serving().await;
    }
    attacked.end_after_lookups("bodies").await;
}
