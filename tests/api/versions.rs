//! Graph's v1.0, for those who choose it.

use serde_json::{Value, json};

use crate::world::{EVERYTHING, FILTER, KIOSK_ESP, NOTICE, SALES_ESP, Setup, World, add};

async fn world() -> World {
    World::with(Setup {
        settings: vec![("GRAPH__API_VERSION", "v1.0")],
        policies: vec![EVERYTHING],
        ..Setup::default()
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_goes_to_the_version_of_the_settings_but_the_reading_of_sets() {
    let world = world().await;
    world.change(&add("Kiosk ESP", "Sales Kiosks")).await.succeeded("changed");
    let calls = world.journal().await;
    let paths: Vec<_> = calls.iter().map(|call| call["path"].as_str().unwrap()).collect();
    let (sets, others): (Vec<&str>, Vec<&str>) = paths.iter().partition(|path| path.ends_with("/assignments"));
    assert!(!sets.is_empty() && sets.iter().all(|path| path.starts_with("/beta/")), "{paths:?}");
    assert!(others.iter().any(|path| path.ends_with("/assign")), "{paths:?}");
    let other = others.iter().find(|path| !path.starts_with("/v1.0/") && !path.ends_with("/oauth2/v2.0/token"));
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_hidden_by_v1_is_not_overwritten() {
    let world = world().await;
    let before = world.assigned(SALES_ESP).await;
    let filtered = |row: &&Value| row["target"]["deviceAndAppManagementAssignmentFilterId"] == FILTER;
    assert!(before.iter().any(|row| filtered(&row)) && before.iter().any(|row| row["source"] == "policySets"));
    let answer = world.change(&add("Sales ESP", "Sales Kiosks")).await.expect(502);
    let detail = answer.body["detail"].as_str().unwrap();
    assert!(detail.contains("v1.0 of Graph does not keep assignment filters"), "{detail}");
    assert_eq!(world.assigns().await.len(), 0);
    assert_eq!(world.assigned(SALES_ESP).await, before);
    // Once the filtered assignment goes, the change is possible, and a policy set's assignment is not made a direct one.
    let direct = before.iter().find(filtered).unwrap()["target"]["groupId"].as_str().unwrap();
    let body = json!({"configuration": "Sales ESP", "remove": [{"group": direct}], "add": [{"group": "Sales Kiosks"}]});
    world.change(&body).await.succeeded("changed");
    let after = world.assigned(SALES_ESP).await;
    let of = |rows: &[Value], source: &str| rows.iter().filter(|row| row["source"] == source).count();
    assert_eq!(of(&after, "policySets"), of(&before, "policySets"));
    assert_eq!(of(&after, "direct"), of(&before, "direct"));
    world.end().await;
}
