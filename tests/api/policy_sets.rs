//! Assignments in a set that are not ours: those of policy sets, and targets of types that this version does not know.

use serde_json::json;

use crate::world::{SALES_ESP, Setup, World, add, group, remove, tenant};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn assignments_of_policy_sets_are_never_posted_and_their_loss_is_recorded_once() {
    let mut world = World::start().await;
    world.change(&add("Sales ESP", "Sales Laptops")).await.succeeded("changed");
    world.change(&add("Sales ESP", "Sales Kiosks")).await.succeeded("changed");
    // The store remembers what was seen, so a loss is noticed even if it happened while no gateway ran.
    world.restart().await;
    assert_eq!(world.assigned(SALES_ESP).await.len(), 6);
    assert!(world.events("drift-seen").await.is_empty());
    world.switch("policy_set_assignments", "dropped").await;
    world.change(&remove("Sales ESP", "Sales Kiosks")).await.succeeded("changed");
    assert_eq!(world.assigned(SALES_ESP).await.len(), 4, "Graph has dropped it");
    for group in ["Sales Kiosks", "Sales Staff"] {
        world.change(&add("Sales ESP", group)).await.succeeded("changed");
    }
    let drift = world.events("drift-seen").await;
    assert_eq!(drift.len(), 1, "{drift:?}");
    assert_eq!((&drift[0]["configuration"], &drift[0]["source"]), (&json!(SALES_ESP), &json!("policy-sets")));
    assert_ne!(drift[0]["left"], drift[0]["found"]);
    let posted = |call: &serde_json::Value| call["request"].to_string().contains(&group(7));
    assert!(!world.assigns().await.iter().any(posted), "it is claimed by nobody");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_of_an_unknown_type_and_unknown_fields_survive_a_merge() {
    let mut seed = tenant();
    let collection = json!({"@odata.type": "#microsoft.graph.configurationManagerCollectionAssignmentTarget",
        "collectionId": "SMS00001", "ownerHint": {"kept": [1, null]}});
    let everyone = json!({"@odata.type": "#microsoft.graph.allDevicesAssignmentTarget", "ownerHint": 2});
    for target in [&collection, &everyone] {
        seed["configurations"][0]["assignments"].as_array_mut().unwrap().push(json!({"target": target}));
    }
    let world = World::with(Setup { seed: Some(seed), ..Setup::default() }).await;
    let before = world.assigned(SALES_ESP).await;
    world.change(&add("Sales ESP", "Sales Laptops")).await.succeeded("changed");
    world.change(&remove("Sales ESP", "Sales Laptops")).await.succeeded("changed");
    let entries = world.assigns().await[0]["request"]["enrollmentConfigurationAssignments"].clone();
    for target in [&collection, &everyone] {
        assert!(entries.as_array().unwrap().iter().any(|it| &it["target"] == target), "{target} in {entries}");
    }
    assert_eq!(world.assigned(SALES_ESP).await, before);
    world.end().await;
}
