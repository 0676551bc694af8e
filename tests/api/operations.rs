//! Listing operations page by page, and the pages that describe problems.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::{
    responses::got,
    world::{ASSIGNMENTS, KIOSK_ESP, SALES_ESP, World, add, group},
};

async fn list(world: &World, caller: &str, query: &str) -> (Vec<String>, Value) {
    let page = world.get(caller, &format!("/v1/operations{query}")).await.expect(200);
    let ids = page.body["operations"].as_array().unwrap().iter().map(|it| it["id"].as_str().unwrap().to_owned());
    (ids.collect(), page.body["next"].clone())
}

/// Ends seven operations: five of servicenow on Sales ESP, and one each of servicenow and the portal on Kiosk ESP.
async fn seven(world: &World) -> Vec<String> {
    let mut ids = Vec::new();
    for number in 1..=5 {
        let mut body = add("Sales ESP", &group(number));
        body["ticket"] = json!(format!("RITM {}", number % 2));
        ids.push(world.change(&body).await.expect(200).id());
    }
    ids.push(world.change(&add("Kiosk ESP", &group(1))).await.expect(200).id());
    ids.push(world.post("portal", ASSIGNMENTS, &add("Kiosk ESP", &group(2)), &[]).await.expect(200).id());
    ids.reverse();
    ids
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operations_are_listed_newest_first_page_after_page() {
    let world = World::start().await;
    let ids = seven(&world).await;
    assert_eq!(list(&world, "helpdesk", "").await, (ids.clone(), Value::Null));
    for limit in [1, 2, 3, 6, 7, 8] {
        let (mut found, mut pages) = (Vec::new(), 0);
        let mut next = json!(format!("/v1/operations?limit={limit}"));
        while let Some(path) = next.as_str() {
            let (page, after) = list(&world, "helpdesk", path.strip_prefix("/v1/operations").unwrap()).await;
            assert!(page.len() <= limit && (after.is_null() || page.len() == limit));
            found.extend(page);
            next = after;
            pages += 1;
            assert!(pages <= 8, "the pages never end");
        }
        assert_eq!((found, pages), (ids.clone(), ids.len().div_ceil(limit)), "limit {limit}");
    }
    let own: Vec<_> = ids.iter().skip(1).cloned().collect();
    assert_eq!(list(&world, "servicenow", "?limit=200").await.0, own, "a caller that reads its own sees its own");
    let only = (ids[..1].to_vec(), Value::Null);
    assert_eq!(list(&world, "portal", "?limit=1").await, only, "whoever sees one does not learn that there are others");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operation_that_comes_meanwhile_does_not_shift_the_pages() {
    let world = World::start().await;
    let ids = seven(&world).await;
    let (page, next) = list(&world, "helpdesk", "?limit=3").await;
    assert_eq!(page, ids[..3]);
    world.change(&add("Kiosk ESP", &group(3))).await.succeeded("changed");
    let (page, _) = list(&world, "helpdesk", next.as_str().unwrap().strip_prefix("/v1/operations").unwrap()).await;
    assert_eq!(page, ids[3..6]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listing_can_be_narrowed() {
    let world = World::start().await;
    let ids = seven(&world).await;
    let of = |places: &[usize]| places.iter().map(|place| ids[*place].clone()).collect::<Vec<_>>();
    world.fault(json!({"path_ends": "/assign", "effect": {"kind": "answer", "status": 403}})).await;
    let failed = world.change(&add("Kiosk ESP", &group(3))).await.problem(502, "graph-refused");
    let failed = failed.body["operation"]["id"].as_str().unwrap().to_owned();
    world.clear_faults().await;
    let kiosk = format!("?configuration={KIOSK_ESP}&state=succeeded");
    for (query, expected) in [
        ("?ticket=RITM%201", of(&[2, 4, 6])),
        ("?ticket=RITM+0", of(&[3, 5])),
        ("?ticket=RITM", vec![]),
        ("?caller=portal", of(&[0])),
        ("?configuration=Kiosk%20ESP&caller=servicenow&state=succeeded", of(&[1])),
        (&kiosk, of(&[0, 1])),
        ("?state=failed", vec![failed]),
        ("?state=queued", vec![]),
        ("?ticket=RITM%201&limit=2", of(&[2, 4])),
    ] {
        assert_eq!(list(&world, "helpdesk", query).await.0, expected, "{query}");
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_states_of_operations_under_way_are_listed_too() {
    let world = World::start().await;
    world.hold("/assign").await;
    let running = world.begin(&add("Sales ESP", &group(1))).await;
    world.held(1).await;
    let queued = world.begin(&add("Sales ESP", &group(2))).await;
    assert_eq!(list(&world, "servicenow", "?state=running").await.0, [running.as_str()]);
    assert_eq!(list(&world, "servicenow", "?state=queued").await.0, [queued.as_str()]);
    world.clear_faults().await;
    for id in [&running, &queued] {
        world.end_of(id).await.succeeded("changed");
    }
    assert_eq!(list(&world, "servicenow", "?state=succeeded").await.0, [queued, running]);
    assert_eq!(world.groups(SALES_ESP).await.len(), 5);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cursor_of_somebody_elses_operation_shows_nothing_of_theirs() {
    let world = World::start().await;
    let ids = seven(&world).await;
    let (page, _) = list(&world, "portal", &format!("?after={}", ids[0])).await;
    assert!(page.is_empty());
    let (page, _) = list(&world, "servicenow", &format!("?after={}&limit=2", ids[0])).await;
    assert_eq!(page, ids[1..3]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_code_has_a_page_that_anybody_can_read() {
    let world = World::start().await;
    let codes = "malformed-json invalid-header invalid-query unauthenticated invalid-token unknown-caller not-permitted \
                 not-found unknown-configuration unknown-group unknown-operation ambiguous-name method-not-allowed body-too-large \
                 unsupported-media-type invalid-change unknown-target not-assignable idempotency-key-reused internal \
                 graph-refused configuration-gone present-set-unreadable present-set-vanished deadline-passed \
                 graph-not-authorised graph-permission-missing graph-role-missing intune-approval-required invalid-group \
                 graph-throttled graph-unavailable store-unavailable keys-unavailable";
    let mut pages = BTreeSet::new();
    for code in codes.split_whitespace() {
        let page = got(world.bare("GET", &format!("/problems/{code}"))).await.expect(200);
        assert_eq!(page.header("content-type"), "text/plain; charset=utf-8");
        assert!(page.text.starts_with(&format!("{code} (HTTP ")) && page.text.lines().count() >= 4, "{}", page.text);
        pages.insert(page.text);
    }
    assert_eq!(pages.len(), codes.split_whitespace().count());
    world.end().await;
}
