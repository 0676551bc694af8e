//! What the executor guarantees whatever store and Graph do.

use std::{collections::BTreeSet, sync::atomic::Ordering, time::Duration};

use postern::{
    domain::{Change, DesiredAssignment, Digest, Failure, FailureCode, State},
    store::{Parking, Part, Settlement, Turn, UnsettledWrites},
};
use tokio::sync::Semaphore;

use crate::{
    upstream::{Read, Tenant},
    work::{World, group, has_succeeded, id, lane},
};

#[tokio::test]
async fn changes_that_wait_together_cost_one_write() {
    let world = World::with(Tenant::new()).await;
    for number in 1..=100 {
        world.accept(number, &lane(1)).await;
    }
    let running = world.run();
    for number in 1..=100 {
        has_succeeded(&world.end_of(number).await);
    }
    assert_eq!((world.tenant.written(), world.tenant.set(&lane(1)).len()), (1, 100));
    running.tell_to_stop();
    running.ended().await;
}

#[tokio::test]
async fn the_sweep_finds_work_though_notices_never_cease() {
    let world = World::with(Tenant::new()).await;
    world.accept(1, &lane(1)).await;
    // Another replica that will not come back: nobody gives notice when its lease expires.
    drop(world.taken_by_another(Duration::from_millis(300)).await);
    drop(world.store.notices().wait_for_work().await);
    let _running = world.run();
    // Notices for another lane come more often than the sweep interval.
    let drummed = async {
        let mut drum = tokio::time::interval(Duration::from_millis(20));
        loop {
            drum.tick().await;
            world.store.notices().notify_work(lane(2));
        }
    };
    tokio::select! {
        end = world.end_of(1) => has_succeeded(&end),
        () = drummed => {}
    }
}

/// How a replica that shuts down parks its lane.
fn unfinished() -> Parking {
    Parking {
        pause: Duration::ZERO,
        because: "stopped".to_owned(),
        announced: UnsettledWrites::default(),
        left: None,
        replaced_sets: Vec::new(),
        ended: vec![],
        entries: vec![],
    }
}

#[tokio::test(start_paused = true)]
async fn a_lane_freed_by_another_replica_is_claimed_soon_after_a_single_notice() {
    let mut world = World::simulated(Tenant::new());
    world.settings.sweep_interval = Duration::from_hours(1);
    world.accept(1, &lane(1)).await;
    let turn = world.taken_by_another(Duration::from_mins(10)).await;
    let _running = world.run();
    // Longer than the executor ignores a busy lane at a time.
    world.clock.sleep(Duration::from_secs(2)).await;
    world.store.park(turn.lease, unfinished()).await.unwrap();
    let given_up = world.clock.elapsed();
    has_succeeded(&world.end_of(1).await);
    let taken = world.clock.elapsed().saturating_sub(given_up);
    assert!(taken < Duration::from_secs(1), "{taken:?}");
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_was_taken_up_since_is_left_alone_no_longer() {
    let mut world = World::simulated(Tenant::new());
    world.settings.sweep_interval = Duration::from_millis(300);
    world.accept(1, &lane(1)).await;
    let turn = world.taken_by_another(Duration::from_mins(10)).await;
    let _running = world.run();
    world.clock.sleep(Duration::from_millis(100)).await;
    world.store.park(turn.lease, unfinished()).await.unwrap();
    // By a sweep, before the lane's own wait is over.
    has_succeeded(&world.end_of(1).await);
    let accepted = world.clock.elapsed();
    world.accept(2, &lane(1)).await;
    has_succeeded(&world.end_of(2).await);
    let taken = world.clock.elapsed().saturating_sub(accepted);
    assert!(taken < Duration::from_millis(100), "{taken:?}");
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_another_replica_holds_is_asked_for_twice_a_second_however_often_it_is_told_of() {
    let (mut world, database) = World::beside_database(Tenant::new());
    world.settings.sweep_interval = Duration::from_hours(1);
    world.accept(1, &lane(1)).await;
    drop(world.taken_by_another(Duration::from_mins(10)).await);
    let _running = world.run();
    let before = database.claims.load(Ordering::SeqCst);
    for _ in 0..1_000 {
        world.store.notices().notify_work(lane(1));
        world.clock.sleep(Duration::from_millis(10)).await;
    }
    let asked = database.claims.load(Ordering::SeqCst) - before;
    assert!((18..=22).contains(&asked), "{asked} times in ten seconds");
}

#[tokio::test]
async fn a_short_lease_leaves_time_to_write() {
    let mut tenant = Tenant::new();
    tenant.gate = Semaphore::new(0);
    let mut world = World::with(tenant).await;
    // The shortest TTL that the settings allow; it leaves one call two seconds.
    world.settings.lease_ttl = Duration::from_secs(5);
    world.accept(1, &lane(1)).await;
    let _running = world.run();
    world.until(async || world.tenant.under_way_max.load(Ordering::SeqCst) == 1).await;
    // Graph takes its time, as it does.
    world.clock.sleep(Duration::from_millis(200)).await;
    world.tenant.gate.add_permits(1);
    has_succeeded(&world.end_of(1).await);
    // Abandoned writes would stay counted as in flight.
    assert_eq!((world.tenant.written(), world.tenant.under_way_max.load(Ordering::SeqCst)), (1, 1));
}

#[tokio::test]
async fn one_change_that_graph_refuses_fails_alone() {
    let mut tenant = Tenant::new();
    tenant.refused = BTreeSet::from([group(5)]);
    tenant.missing = BTreeSet::from([group(7)]);
    let world = World::with(tenant).await;
    for number in 1..=9 {
        world.accept(number, &lane(1)).await;
    }
    let _running = world.run();
    for number in 1..=9 {
        let end = world.end_of(number).await;
        let code = if let State::Failed { failure, .. } = &end { Some(failure.code) } else { None };
        assert_eq!(code, [5, 7].contains(&number).then_some(FailureCode::GraphRefused), "{number}: {end:?}");
    }
    assert_eq!(world.tenant.set(&lane(1)).len(), 7);
}

#[tokio::test]
async fn a_condition_is_not_broken_by_a_change_that_graph_refuses() {
    let mut tenant = Tenant::new();
    tenant.refused = BTreeSet::from([group(1)]);
    let world = World::with(tenant).await;
    let (now, seen) = (world.clock.now(), world.tenant.set(&lane(1)).digest());
    world.accept(1, &lane(1)).await;
    // All require the initial set: merged with the first none of them finds it; without the first, only operation 2 does.
    for number in 2..=4 {
        world.accept_on(number, &lane(1), now, Some(seen.clone())).await;
    }
    let running = world.run();
    let State::Failed { failure, .. } = world.end_of(1).await else { panic!("it is refused") };
    assert_eq!(failure.code, FailureCode::GraphRefused);
    has_succeeded(&world.end_of(2).await);
    for number in 3..=4 {
        let State::Failed { failure, .. } = world.end_of(number).await else { panic!("{number} is for another set") };
        assert_eq!(failure.code, FailureCode::PreconditionFailed);
    }
    assert_eq!((world.tenant.written(), world.tenant.set(&lane(1)).len()), (1, 1));
    running.tell_to_stop();
    running.ended().await;
}

#[tokio::test]
async fn a_lane_that_panics_harms_no_other_and_is_worked_on_when_its_lease_ends() {
    let mut world = World::with(Tenant::new()).await;
    world.settings.lease_ttl = Duration::from_secs(1);
    world.tenant.told(&lane(1), Read::Panics);
    world.accept(1, &lane(1)).await;
    world.accept(2, &lane(2)).await;
    let _running = world.run();
    has_succeeded(&world.end_of(2).await);
    has_succeeded(&world.end_of(1).await);
}

#[tokio::test]
async fn while_graph_is_down_the_lane_is_parked_in_plain_sight_and_others_go_on() {
    let world = World::with(Tenant::new()).await;
    world.tenant.told(&lane(1), Read::Unavailable);
    world.accept(1, &lane(1)).await;
    world.accept(2, &lane(2)).await;
    let _running = world.run();
    has_succeeded(&world.end_of(2).await);
    world.until(async || world.store.parked(&lane(1)).await.unwrap().is_some()).await;
    let parked = world.store.parked(&lane(1)).await.unwrap().unwrap();
    assert!(parked.because.contains("not available") && parked.attempts == 1, "{parked:?}");
    assert!(matches!(world.state(1).await, State::Running { .. }));
}

#[tokio::test]
async fn no_more_lanes_run_at_once_than_are_allowed() {
    let mut tenant = Tenant::new();
    tenant.gate = Semaphore::new(0);
    let mut world = World::with(tenant).await;
    world.settings.lanes_max = 3;
    for number in 1..=10_u8 {
        world.accept(number.into(), &lane(number)).await;
    }
    let _running = world.run();
    world.until(async || world.tenant.under_way_max.load(Ordering::SeqCst) == 3).await;
    world.tenant.gate.add_permits(10);
    for number in 1..=10 {
        has_succeeded(&world.end_of(number).await);
    }
    assert_eq!(world.tenant.under_way_max.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn the_store_is_usable_while_a_write_is_under_way_and_a_stop_waits_for_it() {
    let mut tenant = Tenant::new();
    tenant.gate = Semaphore::new(0);
    let world = World::with(tenant).await;
    world.accept(1, &lane(1)).await;
    let running = world.run();
    world.until(async || world.tenant.under_way_max.load(Ordering::SeqCst) == 1).await;
    // The one connection that writes is not waiting for Graph.
    world.accept(2, &lane(1)).await;
    world.store.probe().await.unwrap();
    running.tell_to_stop();
    world.tenant.gate.add_permits(1);
    running.ended().await;
    has_succeeded(&world.state(1).await);
    assert_eq!((world.state(2).await, world.tenant.written()), (State::Queued, 1));
    assert_eq!(world.store.operation(id(2)).await.unwrap().unwrap().id, id(2));
}

#[tokio::test]
async fn what_graph_keeps_waiting_past_the_deadline_fails_by_name_and_the_rest_waits_on() {
    let mut world = World::with(Tenant::new()).await;
    world.tenant.told(&lane(1), Read::Unavailable);
    world.settings.deadline = Duration::from_hours(1);
    world.accept_at(1, &lane(1), world.clock.now().checked_sub(Duration::from_mins(61)).unwrap()).await;
    world.accept(2, &lane(1)).await;
    let _running = world.run();
    let State::Failed { failure, .. } = world.end_of(1).await else { panic!("it should have failed") };
    assert_eq!(failure.code, FailureCode::DeadlinePassed);
    assert_eq!(failure.detail, "it could not be applied within 1.0 hours: Graph is not available");
    assert_eq!(world.state(2).await.name(), "running");
    let parked = world.store.parked(&lane(1)).await.unwrap().unwrap();
    assert_eq!((parked.because.as_str(), parked.attempts), ("Graph is not available", 1));
}

#[tokio::test(start_paused = true)]
async fn graph_is_left_alone_for_as_long_as_it_asks_though_nothing_waits_any_more() {
    let mut world = World::simulated(Tenant::new());
    world.settings.deadline = Duration::ZERO;
    world.tenant.told(&lane(1), Read::Throttled);
    world.accept(1, &lane(1)).await;
    let _running = world.run();
    let end = world.end_of(1).await;
    assert!(matches!(end, State::Failed { .. }), "{end:?}");
    let parked = world.store.parked(&lane(1)).await.unwrap().unwrap();
    assert!(parked.until >= world.clock.now() + Duration::from_secs(55), "{parked:?}");
}

/// Number of audit records with this event.
async fn records_of(world: &World, event: &str) -> usize {
    let page = world.store.audit(None, 1_000).await.unwrap();
    page.records.iter().filter(|record| record.contains(&format!("\"event\":\"{event}\""))).count()
}

#[tokio::test(start_paused = true)]
async fn an_outside_edit_during_throttling_is_not_credited_to_the_throttled_write() {
    let tenant = Tenant::new();
    tenant.throttled.store(1, Ordering::SeqCst);
    let world = World::simulated(tenant);
    world.accept(1, &lane(1)).await;
    let _running = world.run();
    while world.store.parked(&lane(1)).await.unwrap().is_none() {
        world.clock.sleep(Duration::from_millis(100)).await;
    }
    world.tenant.edited(&lane(1), group(1));
    let State::Succeeded(success) = world.late_end_of(1).await else { panic!("{:?}", world.state(1).await) };
    assert!(success.difference.is_empty() && success.write.is_none(), "{success:?}");
    assert_eq!((records_of(&world, "written").await, world.tenant.written()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn one_drift_is_recorded_once_however_often_the_lane_is_parked() {
    let world = World::simulated(Tenant::new());
    let _running = world.run();
    world.accept(1, &lane(1)).await;
    has_succeeded(&world.end_of(1).await);
    world.tenant.edited(&lane(1), group(9));
    world.tenant.throttled.store(3, Ordering::SeqCst);
    world.accept(2, &lane(1)).await;
    has_succeeded(&world.late_end_of(2).await);
    assert_eq!(records_of(&world, "drift-seen").await, 1);
}

/// Whoever has the next turn: the same executor, or another after a restart.
#[tokio::test(start_paused = true)]
async fn a_read_that_lags_behind_a_write_does_not_undo_it() {
    for restarts in [false, true] {
        let world = World::simulated(Tenant::new());
        world.tenant.edited(&lane(1), group(9));
        let before = world.tenant.set(&lane(1));
        let mut running = world.run();
        world.accept(1, &lane(1)).await;
        has_succeeded(&world.end_of(1).await);
        if restarts {
            running.tell_to_stop();
            running.ended().await;
            running = world.run();
        }
        world.tenant.stale.lock().unwrap().insert(lane(1), (before.clone(), 4));
        world.accept(2, &lane(1)).await;
        has_succeeded(&world.late_end_of(2).await);
        let all: Vec<_> = world.tenant.set(&lane(1)).iter().map(|it| it.target.clone()).collect();
        assert_eq!(all, [1, 2, 9].map(group));
        // What an administrator restores is believed a few seconds later.
        world.tenant.sets.lock().unwrap().insert(lane(1), before);
        world.accept(3, &lane(1)).await;
        has_succeeded(&world.late_end_of(3).await);
        let all: Vec<_> = world.tenant.set(&lane(1)).iter().map(|it| it.target.clone()).collect();
        assert_eq!(all, [3, 9].map(group));
        running.tell_to_stop();
    }
}

/// The lane left a full set, which now reads as empty. A replace confirms that, but this one fails, so later changes
/// must not rely on it.
#[tokio::test(start_paused = true)]
async fn a_failed_replace_does_not_confirm_an_empty_set() {
    let left = Digest::of(b"full");
    for (only_on, forbids) in [(None, false), (None, true), (Some(left.clone()), false)] {
        let mut tenant = Tenant::new();
        let unwelcome = if forbids { &mut tenant.forbidden } else { &mut tenant.refused };
        unwelcome.insert(group(2));
        let world = World::simulated(tenant);
        world.accept(1, &lane(1)).await;
        let Turn { lease, operations, .. } = world.taken_by_another(Duration::from_mins(1)).await;
        let failure = Failure { code: FailureCode::GraphRefused, detail: String::new(), graph: None };
        let failed = operations[0].state.clone().fail(world.clock.now(), failure).unwrap();
        let ended = vec![(id(1), failed)];
        let settlement = Settlement {
            ended,
            left: Some(left.clone()),
            replaced_sets: Vec::new(),
            entries: vec![],
            keep: None,
            part: Part::Last(UnsettledWrites::default()),
        };
        world.store.settle(lease, settlement).await.unwrap();
        let stated = Change::replace(vec![DesiredAssignment { target: group(2), filter: None }], 1).unwrap();
        world.accept_change(2, &lane(1), world.clock.now(), (stated, only_on)).await;
        world.accept(3, &lane(1)).await;
        let _running = world.run();
        for number in [2, 3] {
            let end = world.end_of(number).await;
            assert!(matches!(end, State::Failed { .. }), "{number}: {end:?}");
        }
        world.accept(4, &lane(1)).await;
        let State::Failed { failure, .. } = world.end_of(4).await else { panic!("it fails") };
        assert_eq!(failure.code, FailureCode::PresentSetVanished);
        assert_eq!(world.tenant.written(), 0, "what was left is not written over");
    }
}

/// Graph forbids the first of two changes; the second finds its group already assigned.
#[tokio::test(start_paused = true)]
async fn a_change_without_effect_succeeds_although_graph_forbids_the_write() {
    let mut tenant = Tenant::new();
    tenant.forbidden = BTreeSet::from([group(1)]);
    let world = World::simulated(tenant);
    world.tenant.edited(&lane(1), group(2));
    world.accept(1, &lane(1)).await;
    world.accept(2, &lane(1)).await;
    let _running = world.run();
    let State::Failed { failure, .. } = world.end_of(1).await else { panic!("it is forbidden") };
    assert_eq!(failure.code, FailureCode::GraphRefused);
    has_succeeded(&world.end_of(2).await);
}
