//! CORS: only web pages of `server.cors_origins` may call from a browser, whatever origin others claim.

use reqwest::RequestBuilder;

use crate::{
    responses::Reply,
    world::{ASSIGNMENTS, SALES_ESP, Setup, World, add, group},
};

const PORTAL: &str = "https://portal.contoso.com";

async fn world(origins: &str) -> World {
    let server = format!("[server]\ncors_origins = [{origins}]\n\n[store]\n");
    World::with(Setup { edits: vec![("[store]\n", server)], ..Setup::default() }).await
}

/// A browser's preflight request.
fn question(world: &World, origin: &str) -> RequestBuilder {
    let request = world.bare("OPTIONS", ASSIGNMENTS).header("origin", origin);
    request.header("access-control-request-method", "POST")
}

fn list(got: &Reply, header: &str) -> Vec<String> {
    got.header(header).split(", ").map(str::to_lowercase).collect()
}

fn shares_nothing(got: &Reply) {
    let named = got.headers.keys().find(|name| name.starts_with("access-control"));
    assert_eq!(named, None, "{got:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_an_allowed_origin_asks_first_and_then_changes() {
    let world = world(&format!("\"https://other.contoso.com\", \"{PORTAL}\"")).await;
    let asked = question(&world, PORTAL).header("access-control-request-headers", "authorization,content-type");
    let got = world.send(asked).await.expect(204);
    assert_eq!(got.header("access-control-allow-origin"), PORTAL);
    assert_eq!(list(&got, "access-control-allow-methods"), ["get", "post", "delete"]);
    let may_say = list(&got, "access-control-allow-headers");
    for header in ["authorization", "content-type", "idempotency-key", "if-match", "if-none-match", "prefer"] {
        assert!(may_say.iter().any(|it| it == header), "{header}: {may_say:?}");
    }
    assert_eq!(got.header("access-control-max-age"), "600");
    assert!(list(&got, "vary").contains(&"origin".to_owned()), "{got:?}");
    assert!(!got.headers.contains_key("access-control-allow-credentials"));

    let headers = [("origin", PORTAL), ("prefer", "wait=25")];
    let got = world.post("servicenow", ASSIGNMENTS, &add("Sales ESP", "Sales Laptops"), &headers).await;
    got.succeeded("changed");
    assert_eq!(got.header("access-control-allow-origin"), PORTAL);
    let may_read = list(&got, "access-control-expose-headers");
    for header in ["location", "retry-after", "etag", "idempotency-replayed", "ratelimit"] {
        assert!(may_read.iter().any(|it| it == header), "{header}: {may_read:?}");
    }
    assert!(!got.headers.contains_key("access-control-allow-credentials"));
    // Error responses must be readable by the page, too.
    let problem = world.send(world.bare("GET", "/v1/operations").header("origin", PORTAL)).await;
    let problem = problem.problem(401, "unauthenticated");
    assert_eq!(problem.header("access-control-allow-origin"), PORTAL);
    assert!(world.groups(SALES_ESP).await.contains(&group(1)));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_shared_with_another_origin_however_it_is_spelt() {
    let world = world(&format!("\"{PORTAL}\"")).await;
    for origin in [
        "null",
        "*",
        "",
        "https://evil.example",
        "https://portal.contoso.com.evil.example",
        "https://evilportal.contoso.com",
        "https://evil.portal.contoso.com",
        "https://portal.contoso.com:8443",
        "https://portal.contoso.com:443",
        "https://portal.contoso.com/",
        "https://PORTAL.contoso.com",
        "http://portal.contoso.com",
        "https://portal.contoso.com https://evil.example",
        "https://portal.contoso.com, https://evil.example",
        "https://evil.example#https://portal.contoso.com",
        "https://portal.contoso.com@evil.example",
    ] {
        let got = world.send(question(&world, origin)).await.problem(405, "method-not-allowed");
        shares_nothing(&got);
        assert!(list(&got, "vary").contains(&"origin".to_owned()), "{got:?}");
        let request = world.request("servicenow", "GET", "/v1/operations").await.header("origin", origin);
        shares_nothing(&world.send(request).await.expect(200));
    }
    // Two origins count as none.
    let twice = question(&world, PORTAL).header("origin", "https://evil.example");
    shares_nothing(&world.send(twice).await.problem(405, "method-not-allowed"));
    // An OPTIONS request without a preflight's headers is answered as usual.
    let no_question = world.bare("OPTIONS", ASSIGNMENTS).header("origin", PORTAL);
    world.send(no_question).await.problem(405, "method-not-allowed");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_shared_without_the_setting_nor_by_the_internal_address() {
    let without = World::start().await;
    let got = without.send(question(&without, PORTAL)).await.problem(405, "method-not-allowed");
    shares_nothing(&got);
    assert!(!list(&got, "vary").contains(&"origin".to_owned()), "{got:?}");
    without.end().await;

    let world = world(&format!("\"{PORTAL}\"")).await;
    let url = format!("{}/metrics", world.gateway().admin_url());
    let got = crate::responses::got(world.client.get(url).header("origin", PORTAL)).await.expect(200);
    shares_nothing(&got);
    world.end().await;
}
