//! Stopping with work in flight, and resuming it.

use serde_json::json;

use crate::world::{KIOSK_ESP, SALES_ESP, Setup, TRIES, World, add, group};

fn impatient() -> Setup {
    Setup { settings: vec![("SERVER__STOP_DEADLINE", "1s")], ..Setup::default() }
}

/// Releases the held write of group 1 and waits for its effect, so that the next process does not read before it.
async fn release(world: &World) {
    world.clear_faults().await;
    for _ in 0..TRIES {
        if world.groups(SALES_ESP).await.contains(&group(1)) {
            return;
        }
    }
    panic!("the held write never took effect");
}

/// A world without a gateway: it was stopped while it waited for the response to a write, which has taken effect since.
async fn stopped_before_the_answer() -> (World, String) {
    let mut world = World::with(impatient()).await;
    world.hold("/assign").await;
    let id = world.begin(&add("Sales ESP", &group(1))).await;
    world.held(1).await;
    world.take_gateway().stop().await;
    release(&world).await;
    (world, id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_accepted_before_a_stop_ends_after_the_next_start() {
    let mut world = World::with(impatient()).await;
    world.hold("/assign").await;
    let mut ids = vec![world.begin(&add("Sales ESP", &group(1))).await];
    world.held(1).await;
    for number in [2, 6, 7] {
        ids.push(world.begin(&add("Sales ESP", &group(number))).await);
    }
    ids.push(world.begin(&add("Kiosk ESP", &group(2))).await);
    world.held(2).await;
    world.take_gateway().stop().await;
    release(&world).await;
    world.start_gateway().await;
    for id in &ids {
        world.end_of(id).await.succeeded("changed");
    }
    let groups: Vec<_> = world.groups(SALES_ESP).await.into_iter().collect();
    assert_eq!(groups, (1..=7).map(group).collect::<Vec<_>>());
    assert_eq!(world.groups(KIOSK_ESP).await.len(), 1);
    assert_eq!(world.events("started-up").await.len(), 2);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_lets_a_turn_under_way_end_within_its_deadline() {
    let mut world = World::start().await;
    world.hold("/assign").await;
    let id = world.begin(&add("Sales ESP", &group(1))).await;
    world.held(1).await;
    let gateway = world.take_gateway();
    tokio::join!(gateway.stop(), world.clear_faults());
    let settled = world.events("settled").await;
    assert_eq!((settled.len(), &settled[0]["operation"]), (1, &json!(id)));
    world.start_gateway().await;
    world.operation(&id).await.succeeded("changed");
    assert_eq!(world.assigns().await.len(), 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_took_effect_while_nobody_ran_is_recognised_not_repeated() {
    let (mut world, id) = stopped_before_the_answer().await;
    world.start_gateway().await;
    let ended = world.end_of(&id).await;
    ended.succeeded("changed");
    assert_eq!(world.assigns().await.len(), 1);
    assert_eq!(world.events("written").await[0]["known_by"], "read-back");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_read_after_a_restart_does_not_fail_a_possibly_applied_change() {
    let (mut world, id) = stopped_before_the_answer().await;
    let refused = json!({"kind": "answer", "status": 400});
    world.fault(json!({"method": "GET", "path_ends": "/assignments", "times": 1, "effect": refused})).await;
    world.start_gateway().await;
    world.end_of(&id).await.succeeded("changed");
    assert_eq!(world.assigns().await.len(), 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_edited_by_others_while_down_is_recorded_as_undecided() {
    let (mut world, id) = stopped_before_the_answer().await;
    world.administrator_assigns(SALES_ESP, &[1, 3, 6].map(group)).await;
    world.start_gateway().await;
    let ended = world.end_of(&id).await;
    ended.succeeded("changed");
    assert_eq!(ended.body["difference"]["added"][0]["group"], json!(group(1)));
    assert_eq!(world.events("written").await[0]["known_by"], "undecided");
    let groups: Vec<_> = world.groups(SALES_ESP).await.into_iter().collect();
    assert_eq!(groups, [1, 3, 6].map(group));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operations_and_their_trail_outlive_several_processes() {
    let mut world = World::start().await;
    let mut ids = Vec::new();
    for number in [1, 2, 6] {
        ids.push(world.change(&add("Sales ESP", &group(number))).await.succeeded("changed"));
        world.restart().await;
    }
    for id in &ids {
        world.operation(id).await.succeeded("changed");
    }
    assert_eq!(world.events("started-up").await.len(), 4);
    assert_eq!(world.events("configuration-loaded").await.len(), 4);
    assert!(world.events("drift-seen").await.is_empty());
    world.end().await;
}
