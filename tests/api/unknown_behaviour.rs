//! Graph behaviour that nobody outside Microsoft can know: changes come out right either way.

use serde_json::{Value, json};

use crate::world::{EVERYTHING, FILTER, RESTRICTION, SALES_ESP, Setup, World, add, group, remove};

/// A world with pages of two rows, in which policy permits everything.
async fn world() -> World {
    let world = World::with(Setup { policies: vec![EVERYTHING, ("guard.cedar", "")], ..Setup::default() }).await;
    world.switch("page_size", 2).await;
    world
}

/// The problem that the first change ends with if it cannot succeed; no behaviour may make it do the wrong thing.
fn refused(switch: &str, word: &str) -> Option<&'static str> {
    match (switch, word) {
        ("multi_admin_approval", "off") => None,
        ("multi_admin_approval", _) => Some("intune-approval-required"),
        ("restriction_kinds", "forbidden") => Some("graph-role-missing"),
        ("next_link_host", "foreign") => Some("present-set-unreadable"),
        _ => None,
    }
}

/// A filtered add, a plain one, a removal and a replacement of the whole set; the same on a restriction.
async fn changed(world: &World) {
    let filter = json!({"id": FILTER, "mode": "exclude"});
    let mut filtered = add(SALES_ESP, &group(1));
    filtered["add"][0]["filter"] = filter;
    world.change(&filtered).await.succeeded("changed");
    world.change(&add(SALES_ESP, &group(2))).await.succeeded("changed");
    world.change(&remove(SALES_ESP, &group(3))).await.succeeded("changed");
    let groups: Vec<_> = world.groups(SALES_ESP).await.into_iter().collect();
    assert_eq!(groups, [1, 2, 4, 5].map(group));
    let assigned = world.assigned(SALES_ESP).await;
    let of = |number: usize| assigned.iter().find(|row| row["target"]["groupId"] == group(number)).unwrap();
    let mode = |number: usize| &of(number)["target"]["deviceAndAppManagementAssignmentFilterType"];
    assert_eq!((mode(1), mode(4)), (&json!("exclude"), &json!("include")), "filters stay with their targets");
    assert_eq!(of(5)["target"]["ownerHint"], "kept");
    let stated = json!({"configuration": SALES_ESP, "replace": [{"group": group(6)}], "ticket": "R"});
    world.change(&stated).await.succeeded("changed");
    world.change(&add(RESTRICTION, &group(1))).await.succeeded("changed");
    let groups = [world.groups(SALES_ESP).await, world.groups(RESTRICTION).await];
    assert!(groups[0].contains(&group(6)) && groups[0].len() == 1 && groups[1].contains(&group(1)), "{groups:?}");
}

async fn under(switch: &str, word: &Value) {
    let open = world().await;
    open.switch(switch, word.clone()).await;
    match refused(switch, word.as_str().unwrap()) {
        None => changed(&open).await,
        Some(code) => {
            let configuration = if switch == "restriction_kinds" { RESTRICTION } else { SALES_ESP };
            let before = open.assigned(configuration).await;
            let problem = open.change(&add(configuration, &group(1))).await;
            assert_eq!(problem.body["code"], code, "{switch} {word}: {}", problem.text);
            assert_eq!(open.assigned(configuration).await, before);
        }
    }
    open.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_are_right_under_every_value_of_every_switch() {
    let known = world().await;
    let words = known.control("GET", "switches/words", None).await.expect(200).body;
    known.end().await;
    for (switch, words) in words.as_object().unwrap() {
        for word in words.as_array().unwrap() {
            under(switch, word).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_that_lags_behind_each_write_undoes_nothing() {
    let world = world().await;
    // Each read lags one write behind; if two lag, the read cannot be told from somebody's edit.
    world.switch("reads_behind", 1).await;
    for number in [1, 2, 6, 7] {
        world.change(&add(SALES_ESP, &group(number))).await.succeeded("changed");
    }
    let groups: Vec<_> = world.groups(SALES_ESP).await.into_iter().collect();
    assert_eq!(groups, [1, 2, 3, 4, 5, 6, 7].map(group));
    assert!(world.events("drift-seen").await.is_empty());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_fails_in_the_middle_is_read_again_and_none_is_left_out() {
    let world = world().await;
    for effect in [
        json!({"kind": "answer", "status": 429, "retry_after": "1"}),
        json!({"kind": "answer", "status": 503}),
        json!({"kind": "truncate"}),
    ] {
        let order = json!({"path_ends": "/assignments", "query_has": "$skiptoken=", "times": 1, "effect": effect});
        world.fault(order).await;
        world.change(&add(SALES_ESP, &group(1))).await.succeeded("changed");
        assert_eq!(world.groups(SALES_ESP).await.len(), 4, "{effect}");
        world.change(&remove(SALES_ESP, &group(1))).await.succeeded("changed");
    }
    let failed = world.journal().await.into_iter().filter(|call| !call["fault"].is_null());
    assert_eq!(failed.filter(|call| call["query"].as_str().unwrap().contains("skiptoken")).count(), 3);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_is_applied_and_answered_with_504_is_not_repeated() {
    let world = world().await;
    world.fault(json!({"path_ends": "/assign", "times": 1, "effect": {"kind": "answer_after", "status": 504}})).await;
    world.change(&add(SALES_ESP, &group(1))).await.succeeded("changed");
    assert_eq!(world.assigns().await.len(), 1);
    assert_eq!(world.events("written").await[0]["known_by"], "read-back");
    world.end().await;
}
