//! Many changes of one configuration at once: none is lost, and Graph is called rarely.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::{
    responses::Reply,
    trail::is_ours,
    world::{ASSIGNMENTS, SALES_ESP, Setup, TRIES, World, add, group, remove, tenant},
};

/// Calls (set reads and writes, token, configuration) that two hundred queued changes may cost. Group lookups come on
/// top, at most one per group: how many share a call depends on how fast they arrive.
const CALLS_MAX: usize = 8;

/// The built-in tenant with groups up to this number; from 101 on, the first `assigned` of them are assigned.
fn seed(groups: usize, assigned: usize) -> Value {
    let mut seed = tenant();
    let more = (101..=groups).map(|number| json!({"id": group(number), "displayName": format!("Group {number}")}));
    seed["groups"].as_array_mut().unwrap().extend(more);
    let rows = (101..101 + assigned).map(|number| json!({"target": crate::world::target(&group(number))}));
    seed["configurations"][0]["assignments"].as_array_mut().unwrap().extend(rows);
    seed
}

/// Submits all changes at once and waits for their ends; the n-th with the n-th key, if there are keys.
async fn all(world: &World, changes: &[Value], keys: &[String]) -> Vec<Reply> {
    world.token("servicenow").await;
    let ask = |(index, change)| async move {
        let key = keys.get(index).map(|key: &String| ("idempotency-key", key.as_str()));
        let headers: Vec<_> = key.into_iter().collect();
        world.post("servicenow", ASSIGNMENTS, change, &headers).await
    };
    join_all(changes.iter().enumerate().map(ask)).await
}

/// The same, with reads held until all are accepted, so that merging does not depend on the machine's speed.
async fn all_queued(world: &World, changes: &[Value], keys: &[String]) -> Vec<Reply> {
    world.hold("/assignments").await;
    let released = async {
        for _ in 0..TRIES {
            if world.events("accepted").await.len() == changes.len() {
                break;
            }
        }
        world.clear_faults().await;
    };
    tokio::join!(all(world, changes, keys), released).0
}

/// The built-in tenant with more groups, long timeouts for slow machines, and room for all callers to wait.
async fn crowded(groups: usize, assigned: usize) -> World {
    let settings = vec![
        ("OPERATIONS__WAIT_MAX", "5m"),
        ("OPERATIONS__WAIT_DEFAULT", "5m"),
        ("SERVER__WAITS_MAX", "1000"),
        ("SERVER__CONNECTIONS_MAX", "1000"),
    ];
    World::with(Setup { seed: Some(seed(groups, assigned)), settings, ..Setup::default() }).await
}

/// Number of calls to Graph and its login service, without group lookups; prints all counts.
#[expect(clippy::print_stderr, reason = "the measured number is worth seeing")]
async fn calls(world: &World, what: &str) -> usize {
    let journal = world.journal().await;
    let count = |end: &str| journal.iter().filter(|call| call["path"].as_str().unwrap().ends_with(end)).count();
    let (all, assigns, groups) =
        (journal.iter().filter(|call| is_ours(call)).count(), count("/assign"), count("/groups"));
    eprintln!("{what}: {all} calls to Graph, {assigns} of them assign, {groups} group look-ups");
    assert!(all < 400, "one read and one write for each would be 400");
    all.saturating_sub(groups)
}

fn merged(answers: &[Reply]) -> u64 {
    answers.iter().filter_map(|answer| answer.body["graph"]["merged_with"].as_u64()).max().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_concurrent_changes_are_merged_and_none_is_lost() {
    let world = crowded(300, 0).await;
    let before = world.groups(SALES_ESP).await;
    let changes: Vec<_> = (101..=300).map(|number| add("Sales ESP", &group(number))).collect();
    let answers = all_queued(&world, &changes, &[]).await;
    let ids: BTreeSet<_> = answers.iter().map(|answer| answer.succeeded("changed")).collect();
    assert_eq!(ids.len(), 200);
    let expected: BTreeSet<_> = (101..=300).map(group).chain(before).collect();
    assert_eq!(world.groups(SALES_ESP).await, expected);
    assert!(calls(&world, "200 adds").await <= CALLS_MAX);
    assert!(merged(&answers) >= 99, "the changes were not merged");
    for (answer, number) in answers.iter().zip(101..) {
        let added = &answer.body["difference"]["added"];
        assert_eq!(added, &json!([{"group": group(number), "name": format!("Group {number}")}]));
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_adds_and_a_hundred_removes_at_once_leave_exactly_the_right_set() {
    let world = crowded(300, 100).await;
    let changes: Vec<_> = (101..=200)
        .flat_map(|number| [remove("Sales ESP", &group(number)), add("Sales ESP", &group(number + 100))])
        .collect();
    let answers = all_queued(&world, &changes, &[]).await;
    for answer in &answers {
        answer.succeeded("changed");
    }
    let expected: BTreeSet<_> = (201..=300).chain(3..=5).map(group).collect();
    assert_eq!(world.groups(SALES_ESP).await, expected);
    assert!(calls(&world, "100 adds and 100 removes").await <= CALLS_MAX);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_two_hundred_changes_sent_twice_at_once_are_two_hundred_operations() {
    let world = crowded(300, 0).await;
    let changes: Vec<_> = (101..=300).map(|number| add("Sales ESP", &group(number))).collect();
    let keys: Vec<_> = (101..=300).map(|number| format!("key-{number}")).collect();
    let (first, second) = tokio::join!(all_queued(&world, &changes, &keys), all(&world, &changes, &keys));
    let replayed = |answers: &[Reply]| answers.iter().filter(|it| it.header("idempotency-replayed") == "true").count();
    for (one, other) in first.iter().zip(&second) {
        assert_eq!(one.succeeded("changed"), other.succeeded("changed"));
    }
    assert_eq!(replayed(&first) + replayed(&second), 200);
    assert_eq!(world.events("accepted").await.len(), 200);
    assert_eq!(world.groups(SALES_ESP).await.len(), 203);
    assert!(calls(&world, "200 adds sent twice").await <= CALLS_MAX);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_changes_of_one_group_end_in_the_order_of_their_acceptance() {
    let world = World::start().await;
    world.hold("/assign").await;
    let first = world.begin(&add("Sales ESP", &group(1))).await;
    world.held(1).await;
    let mut ids = vec![first];
    for round in 0..10 {
        let change = if round % 2 == 0 { remove("Sales ESP", &group(1)) } else { add("Sales ESP", &group(1)) };
        ids.push(world.begin(&change).await);
    }
    world.clear_faults().await;
    for id in &ids {
        world.end_of(id).await.succeeded("changed");
    }
    assert!(world.groups(SALES_ESP).await.contains(&group(1)));
    assert_eq!(world.assigns().await.len(), 1, "ten changes that cancel out need no second write");
    world.end().await;
}
