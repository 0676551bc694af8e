//! Graph's v1.0, for those who chose it.

use serde_json::json;

use crate::world::{EVERYTHING, FILTER, KIOSK_ESP, NOTICE, Setup, World, add};

async fn world() -> World {
    World::with(Setup {
        settings: vec![("GRAPH__API_VERSION", "v1.0")],
        policies: vec![EVERYTHING],
        ..Setup::default()
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_goes_to_the_version_of_the_settings() {
    let world = world().await;
    world.change(&add("Kiosk ESP", "Sales Kiosks")).await.succeeded("changed");
    let calls = world.journal().await;
    let paths: Vec<_> = calls.iter().map(|call| call["path"].as_str().unwrap()).collect();
    assert!(paths.iter().any(|path| path.ends_with("/assign")), "{paths:?}");
    let other = paths.iter().find(|path| !path.starts_with("/v1.0/") && !path.ends_with("/oauth2/v2.0/token"));
    assert_eq!(other, None);
    assert_eq!(world.groups(KIOSK_ESP).await.len(), 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_v1_does_not_know_or_keep_is_refused_unwritten() {
    let world = world().await;
    for configuration in ["Corporate Windows only", NOTICE] {
        let answer = world.change(&add(configuration, "Sales Kiosks")).await;
        assert!(answer.status >= 400, "{}", answer.text);
        let detail = answer.body["detail"].as_str().unwrap();
        assert!(detail.contains("v1.0 of Graph does not know configurations of the kind"), "{detail}");
    }
    let filter = json!({"id": FILTER, "mode": "include"});
    let body = json!({"configuration": "Kiosk ESP", "add": [{"group": "Sales Kiosks", "filter": filter}]});
    let answer = world.change(&body).await.expect(502);
    let detail = answer.body["detail"].as_str().unwrap();
    assert!(detail.contains("v1.0 of Graph does not keep assignment filters"), "{detail}");
    assert_eq!(world.assigns().await.len(), 0);
    world.end().await;
}
