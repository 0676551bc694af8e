//! Changes that carry out an `until`, which no caller would retry: what they wait for, and for how long.

use std::time::Duration;

use postern::{
    clock,
    domain::{Change, FailureCode, Reversal, State, reversal::Cause},
};

use crate::{
    upstream::{Read, Tenant},
    work::{World, has_succeeded, id, lane},
};

/// The change that undoes what operation 1 did.
async fn end_of_one(world: &World) -> Change {
    world.accept(1, &lane(1)).await;
    has_succeeded(&world.end_of(1).await);
    let done = world.store.operation(id(1)).await.unwrap().unwrap();
    Change::Revert(Reversal::of(&done, Cause::Until).unwrap())
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_change_waits_until_the_set_can_be_read_and_other_changes_do_not() {
    let world = World::simulated(Tenant::new());
    let _running = world.run();
    let end = end_of_one(&world).await;
    world.tenant.told(&lane(1), Read::Garbled);
    world.accept_change(2, &lane(1), world.clock.now(), (end, None)).await;
    for (number, read) in [(3, Read::Garbled), (5, Read::Refused)] {
        world.tenant.told(&lane(1), read);
        world.accept(number, &lane(1)).await;
        let State::Failed { failure, .. } = world.late_end_of(number).await else { panic!("the set cannot be read") };
        assert_eq!(failure.code, FailureCode::PresentSetUnreadable);
    }
    // In virtual time; the lane retries again and again.
    world.clock.sleep(Duration::from_mins(5)).await;
    assert!(!world.state(2).await.has_ended());
    assert!(world.store.parked(&lane(1)).await.unwrap().is_some());
    // Nor does it end when the set can be read but everything the lane left has vanished.
    let left = world.tenant.sets.lock().unwrap().remove(&lane(1)).unwrap();
    world.tenant.recovers(&lane(1));
    world.accept(4, &lane(1)).await;
    let State::Failed { failure, .. } = world.late_end_of(4).await else { panic!("the set has vanished") };
    assert_eq!(failure.code, FailureCode::PresentSetVanished);
    assert!(!world.state(2).await.has_ended());
    world.tenant.sets.lock().unwrap().insert(lane(1), left);
    has_succeeded(&world.late_end_of(2).await);
    assert!(world.tenant.set(&lane(1)).is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_change_does_not_wait_for_ever_for_what_was_cleared() {
    let world = World::simulated(Tenant::new());
    let _running = world.run();
    let end = end_of_one(&world).await;
    world.tenant.sets.lock().unwrap().remove(&lane(1));
    let due = world.clock.now();
    world.accept_change(2, &lane(1), due, (end, None)).await;
    let State::Failed { failure, .. } = world.late_end_of(2).await else { panic!("nothing is there") };
    assert!(clock::until(due, world.clock.now()) >= Duration::from_hours(1));
    assert_eq!(failure.code, FailureCode::PresentSetVanished);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_change_waits_for_a_configuration_that_is_not_there_just_now() {
    let world = World::simulated(Tenant::new());
    let _running = world.run();
    let end = end_of_one(&world).await;
    world.tenant.told(&lane(1), Read::Missing);
    world.accept_change(2, &lane(1), world.clock.now(), (end, None)).await;
    world.accept(3, &lane(1)).await;
    let State::Failed { failure, .. } = world.end_of(3).await else { panic!("there is no such configuration") };
    assert_eq!(failure.code, FailureCode::ConfigurationGone);
    world.tenant.recovers(&lane(1));
    has_succeeded(&world.late_end_of(2).await);
}

/// Graph was down for longer than an end waits for a set or a configuration to come back, and shows neither at first.
#[tokio::test(start_paused = true)]
async fn for_how_long_the_end_of_a_change_waits_does_not_count_the_outage_before() {
    for (number, back) in [(1, None), (2, Some(Read::Missing))] {
        let world = World::simulated(Tenant::new());
        let _running = world.run();
        let end = end_of_one(&world).await;
        world.tenant.told(&lane(1), Read::Unavailable);
        world.accept_change(2, &lane(1), world.clock.now(), (end, None)).await;
        world.clock.sleep(Duration::from_hours(2)).await;
        let left = world.tenant.sets.lock().unwrap().remove(&lane(1)).unwrap();
        world.tenant.recovers(&lane(1));
        if let Some(read) = back {
            world.tenant.told(&lane(1), read);
        }
        world.clock.sleep(Duration::from_mins(10)).await;
        world.tenant.sets.lock().unwrap().insert(lane(1), left);
        world.tenant.recovers(&lane(1));
        let end = world.late_end_of(2).await;
        assert!(matches!(end, State::Succeeded(_)), "{number}: {end:?}");
        assert!(world.tenant.set(&lane(1)).is_empty());
    }
}
