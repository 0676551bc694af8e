//! The endpoints of managed identities.

use serde_json::json;

use crate::world::{CLIENT, CONFIGURATIONS, Got, TENANT, World, got};

async fn asked(world: &World, path: &str, header: (&str, &str), changed: &[(&str, &str)]) -> Got {
    let version = if path.starts_with("/metadata") { "2018-02-01" } else { "2019-08-01" };
    let mut query = std::collections::BTreeMap::from([("api-version", version), ("resource", world.sandbox.url())]);
    query.extend(changed.iter().copied());
    got(world.request("GET", path).query(&query).header(header.0, header.1)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_endpoints_give_tokens_with_numbers_as_texts() {
    let mut world = World::start().await;
    let machine = asked(&world, "/metadata/identity/oauth2/token", ("Metadata", "true"), &[]).await.expect(200);
    assert_eq!((&machine.body["expires_in"], &machine.body["client_id"]), (&json!("3599"), &json!(CLIENT)));
    let header = ("X-IDENTITY-HEADER", "sandbox-identity-header");
    let app = asked(&world, "/msi/token", header, &[("client_id", CLIENT)]).await.expect(200);
    assert!(app.body["expires_on"].as_str().unwrap().parse::<i64>().is_ok());
    assert!(app.body["expires_in"].is_null());
    for answer in [machine, app] {
        answer.body["access_token"].as_str().unwrap().clone_into(&mut world.token);
        world.get(CONFIGURATIONS).await.expect(200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_not_as_it_must_be_is_refused() {
    let world = World::start().await;
    let path = "/metadata/identity/oauth2/token";
    let told = asked(&world, path, ("Accept", "*/*"), &[]).await.expect(400);
    assert_eq!(told.body["error"], "bad_request_102");
    let proven = ("Metadata", "true");
    asked(&world, path, proven, &[("resource", "https://graph.microsoft.com")]).await.expect(400);
    asked(&world, path, proven, &[("api-version", "2017-01-01")]).await.expect(400);
    asked(&world, path, proven, &[("client_id", TENANT)]).await.expect(400);
    asked(&world, "/msi/token", ("X-IDENTITY-HEADER", "guess"), &[]).await.expect(401);
}
