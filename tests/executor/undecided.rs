//! Writes of which it is unknown whether they took effect.

use std::{collections::BTreeSet, sync::atomic::Ordering, time::Duration};

use postern::{
    domain::{
        Assignment, AssignmentSet, Change, DesiredAssignment, Difference, Digest, Failure, FailureCode, State, Target,
        operation::SuccessEvidence,
    },
    store::{Carried, Intent, Parking, Part, Settlement, Turn, UnsettledWrites},
};
use serde_json::Value;

use crate::{
    upstream::{Read, Tenant},
    work::{World, group, has_succeeded, id, lane},
};

/// The lane left a full set, announced a write for operation 2, and was then parked this many times.
async fn announced(world: &World, attempts: u32) -> Intent {
    let digest = |text: &str| Digest::of(text.as_bytes());
    world.accept(1, &lane(1)).await;
    let Turn { lease, operations, .. } = world.taken_by_another(Duration::from_mins(1)).await;
    let failed = operations[0]
        .state
        .clone()
        .fail(world.clock.now(), Failure { code: FailureCode::GraphRefused, detail: String::new(), graph: None });
    let settlement = Settlement {
        ended: vec![(id(1), failed.unwrap())],
        left: Some(digest("full")),
        replaced_sets: Vec::new(),
        entries: Vec::new(),
        keep: None,
        part: Part::Last(UnsettledWrites::default()),
    };
    world.store.settle(lease, settlement).await.unwrap();
    world.accept(2, &lane(1)).await;
    let carried = vec![Carried { operation: id(2), difference: adding(&[2]), done: None }];
    let client_request_id = "call-1".to_owned();
    let intent = Intent { before: digest("full"), after: digest("fuller"), client_request_id, carried, write: None };
    for _ in 0..attempts {
        let Turn { mut lease, .. } = world.taken_by_another(Duration::from_mins(1)).await;
        let announced = UnsettledWrites { intent: Some(intent.clone()), ..UnsettledWrites::default() };
        world.store.begin_write(&mut lease, &announced, Duration::from_mins(1)).await.unwrap();
        let parking = Parking {
            pause: Duration::ZERO,
            because: "no answer".to_owned(),
            announced,
            left: None,
            replaced_sets: Vec::new(),
            ended: vec![],
            entries: vec![],
        };
        world.store.park(lease, parking).await.unwrap();
    }
    intent
}

async fn written(world: &World) -> Vec<(String, String)> {
    let page = world.store.audit(None, 1_000).await.unwrap();
    let records = page.records.iter().map(|text| serde_json::from_str::<Value>(text).unwrap());
    let written = records.filter(|record| record["event"] == "written");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    written.map(|record| (text(&record["client_request_id"]), text(&record["known_by"]))).collect()
}

#[tokio::test(start_paused = true)]
async fn a_write_that_is_given_up_undecided_stands_in_the_trail() {
    // The set reads as empty, which neither digest of the write explains.
    let world = World::simulated(Tenant::new());
    let intent = announced(&world, 3).await;
    let _running = world.run();
    let end = world.end_of(2).await;
    let State::Failed { failure, .. } = end else { panic!("{end:?}") };
    assert!(failure.detail.contains("may have taken effect"), "{failure:?}");
    assert_eq!(written(&world).await, [(intent.client_request_id, "undecided".to_owned())]);
}

/// An answered write carried two changes; the first has ended by it, and the lane's owner is gone. Reads are stale:
/// they still show the set before the write.
#[tokio::test(start_paused = true)]
async fn what_is_known_of_a_write_ends_the_rest_of_what_it_carried_whatever_is_read() {
    let world = World::simulated(Tenant::new());
    let (before, after) = (AssignmentSet::default().digest(), Digest::of(b"fuller"));
    world.accept(1, &lane(1)).await;
    world.accept(2, &lane(1)).await;
    let Turn { mut lease, operations, .. } = world.taken_by_another(Duration::from_mins(1)).await;
    let carried = operations
        .iter()
        .map(|it| Carried { operation: it.id, difference: Difference::default(), done: None })
        .collect();
    let client_request_id = "call-1".to_owned();
    let intent = Intent { before: before.clone(), after: after.clone(), client_request_id, carried, write: None };
    let announced = UnsettledWrites { intent: Some(intent.clone()), ..UnsettledWrites::default() };
    world.store.begin_write(&mut lease, &announced, Duration::from_mins(1)).await.unwrap();
    let known = Intent { write: Some(intent.effect()), ..intent };
    let at = world.clock.now();
    let ending = SuccessEvidence {
        at,
        difference: Difference::default(),
        before: before.clone(),
        after: after.clone(),
        write: known.write.clone(),
    };
    let settlement = Settlement {
        ended: vec![(id(1), operations[0].state.clone().succeed(ending).unwrap())],
        left: Some(after.clone()),
        replaced_sets: Vec::new(),
        entries: Vec::new(),
        keep: Some(Duration::from_secs(5)),
        part: Part::First(UnsettledWrites { intent: Some(known), ..announced }),
    };
    drop(world.store.settle(lease, settlement).await.unwrap());
    let _running = world.run();
    let end = world.end_of(2).await;
    let State::Succeeded(success) = end else { panic!("{end:?}") };
    assert_eq!((success.before, success.after), (before, after));
    assert_eq!((world.tenant.written(), written(&world).await), (0, vec![]));
}

/// A write with these differences was announced and lost, and the set matches neither its before nor its after.
async fn undecided(world: &World, carried: &[(u128, Difference)]) {
    announce(world, (Digest::of(b"full"), Digest::of(b"fuller")), carried).await;
}

/// A write with these differences was announced, between these sets, and its answer was lost.
async fn announce(world: &World, (before, after): (Digest, Digest), carried: &[(u128, Difference)]) {
    let Turn { mut lease, .. } = world.taken_by_another(Duration::from_mins(1)).await;
    let carried = carried.iter().map(|(number, difference)| Carried {
        operation: id(*number),
        difference: difference.clone(),
        done: None,
    });
    let intent =
        Intent { before, after, client_request_id: "call-1".to_owned(), carried: carried.collect(), write: None };
    let announced = UnsettledWrites { intent: Some(intent), ..UnsettledWrites::default() };
    world.store.begin_write(&mut lease, &announced, Duration::from_mins(1)).await.unwrap();
    let parking = Parking {
        pause: Duration::ZERO,
        because: "no answer".to_owned(),
        announced,
        left: None,
        replaced_sets: Vec::new(),
        ended: vec![],
        entries: vec![],
    };
    world.store.park(lease, parking).await.unwrap();
}

/// The difference made by adding these groups.
fn adding(groups: &[u128]) -> Difference {
    let added: Vec<_> =
        groups.iter().map(|number| DesiredAssignment { target: group(*number), filter: None }).collect();
    Difference { after: added.len(), added, ..Difference::default() }
}

/// The third of three changes was carried by a write with unknown outcome. The second requires a set that the first
/// does not lead to, so nothing can be decided yet about the one after it.
#[tokio::test(start_paused = true)]
async fn an_unmet_if_match_does_not_fail_the_unconditional_change_after_it() {
    let world = World::simulated(Tenant::new());
    world.accept(1, &lane(1)).await;
    world.accept_on(2, &lane(1), world.clock.now(), Some(Digest::of(b"another"))).await;
    world.accept(3, &lane(1)).await;
    undecided(&world, &[(3, adding(&[3]))]).await;
    let _running = world.run();
    let State::Failed { failure, .. } = world.end_of(2).await else { panic!("it is for another set") };
    assert_eq!(failure.code, FailureCode::PreconditionFailed);
    for number in [1, 3] {
        let end = world.end_of(number).await;
        assert!(matches!(end, State::Succeeded(_)), "{number}: {end:?}");
    }
    assert_eq!(world.tenant.set(&lane(1)).len(), 2);
}

/// The first of two changes now does what the lost write may have done for the second.
#[tokio::test(start_paused = true)]
async fn an_effect_produced_now_is_not_credited_to_a_lost_write() {
    let world = World::simulated(Tenant::new());
    for number in [1, 2] {
        let change = Change::amend(vec![DesiredAssignment { target: group(3), filter: None }], vec![], 1).unwrap();
        world.accept_change(number, &lane(1), world.clock.now(), (change, None)).await;
    }
    undecided(&world, &[(2, adding(&[3]))]).await;
    let _running = world.run();
    for (number, added) in [(1, 1), (2, 0)] {
        let State::Succeeded(success) = world.end_of(number).await else { panic!("{number} succeeds") };
        assert_eq!(success.difference.added.len(), added, "{number}: {success:?}");
    }
}

/// The groups that an operation added.
async fn added(world: &World, number: u128) -> BTreeSet<Target> {
    let State::Succeeded(success) = world.end_of(number).await else { panic!("{number} succeeds") };
    success.difference.added.into_iter().map(|it| it.target).collect()
}

/// A lost write carried the second and third of three changes, and took effect. Graph refuses the first, so they end
/// after it.
#[tokio::test(start_paused = true)]
async fn what_a_lost_write_did_is_known_after_others_have_ended() {
    let mut tenant = Tenant::new();
    tenant.refused = BTreeSet::from([group(1)]);
    let world = World::simulated(tenant);
    for number in [1, 2, 3] {
        world.accept(number, &lane(1)).await;
    }
    for number in [2, 3, 9] {
        world.tenant.edited(&lane(1), group(number));
    }
    undecided(&world, &[(2, adding(&[2])), (3, adding(&[3]))]).await;
    let _running = world.run();
    for number in [2, 3] {
        assert_eq!(added(&world, number).await, BTreeSet::from([group(number)]));
    }
    assert_eq!(world.tenant.written(), 0);
}

/// A lost write added two groups; somebody has since removed one of them.
#[tokio::test(start_paused = true)]
async fn what_a_lost_write_did_counts_beside_what_is_done_again() {
    let world = World::simulated(Tenant::new());
    let wanted = [3, 4].map(|number| DesiredAssignment { target: group(number), filter: None });
    let change = Change::amend(wanted.to_vec(), vec![], 2).unwrap();
    world.accept_change(1, &lane(1), world.clock.now(), (change, None)).await;
    world.tenant.edited(&lane(1), group(3));
    undecided(&world, &[(1, adding(&[3, 4]))]).await;
    let _running = world.run();
    assert_eq!(added(&world, 1).await, BTreeSet::from([group(3), group(4)]));
    let State::Succeeded(success) = world.state(1).await else { panic!("it has succeeded") };
    assert_ne!(success.write.unwrap().client_request_id, "call-1", "it was written again");
}

/// A lost write carried the first of two changes, and took effect. The write of the second is lost as well.
#[tokio::test(start_paused = true)]
async fn what_a_lost_write_did_is_known_after_another_was_lost() {
    let world = World::simulated(Tenant::new());
    world.accept(1, &lane(1)).await;
    world.accept(2, &lane(1)).await;
    world.tenant.edited(&lane(1), group(1));
    undecided(&world, &[(1, adding(&[1]))]).await;
    world.tenant.lost.store(1, Ordering::SeqCst);
    let _running = world.run();
    for number in [1, 2] {
        assert_eq!(added(&world, number).await, BTreeSet::from([group(number)]));
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_that_is_refused_after_its_write_was_lost_says_what_is_in_doubt() {
    let mut tenant = Tenant::new();
    tenant.refused = BTreeSet::from([group(1)]);
    let world = World::simulated(tenant);
    world.accept(1, &lane(1)).await;
    world.accept(2, &lane(1)).await;
    undecided(&world, &[(1, adding(&[1]))]).await;
    let _running = world.run();
    let State::Failed { failure, .. } = world.end_of(1).await else { panic!("it is refused") };
    assert!(failure.detail.ends_with("; a write that was sent before may have taken effect"), "{failure:?}");
    assert_eq!(added(&world, 2).await, BTreeSet::from([group(2)]));
}

/// The first of two changes removes a group and the second adds it again: together they changed nothing. The first is refused.
#[tokio::test(start_paused = true)]
async fn targets_shared_by_changes_of_a_lost_write_are_credited_to_none_of_them() {
    let mut tenant = Tenant::new();
    tenant.refused = BTreeSet::from([group(9)]);
    let world = World::simulated(tenant);
    world.tenant.edited(&lane(1), group(2));
    let wanted = vec![DesiredAssignment { target: group(9), filter: None }];
    let change = Change::amend(wanted, vec![group(2)], 2).unwrap();
    world.accept_change(1, &lane(1), world.clock.now(), (change, None)).await;
    world.accept(2, &lane(1)).await;
    let removed = vec![Assignment { target: group(2), filter: None, unread: None }];
    undecided(&world, &[(1, Difference { removed, ..adding(&[9]) }), (2, adding(&[2]))]).await;
    let _running = world.run();
    assert!(matches!(world.end_of(1).await, State::Failed { .. }));
    assert_eq!(added(&world, 2).await, BTreeSet::new());
}

/// A write that emptied the set was lost, and was still in flight when the next one could not be sent.
#[tokio::test(start_paused = true)]
async fn a_lost_write_that_takes_effect_after_the_next_was_throttled_is_read_back() {
    let world = World::simulated(Tenant::new());
    world.accept(1, &lane(1)).await;
    let _running = world.run();
    assert_eq!(added(&world, 1).await, BTreeSet::from([group(1)]));
    let change = Change::amend(vec![], vec![group(1)], 1).unwrap();
    world.tenant.lost.store(1, Ordering::SeqCst);
    world.tenant.throttled.store(1, Ordering::SeqCst);
    world.accept_change(2, &lane(1), world.clock.now(), (change, None)).await;
    while world.store.parked(&lane(1)).await.unwrap().is_none() {
        world.clock.sleep(Duration::from_millis(100)).await;
    }
    world.tenant.sets.lock().unwrap().remove(&lane(1));
    let end = world.late_end_of(2).await;
    assert!(matches!(end, State::Succeeded(_)), "{end:?}");
    let known = written(&world).await.into_iter().map(|(_, known_by)| known_by);
    assert_eq!(known.collect::<Vec<_>>(), ["answered", "read-back"]);
}

/// A change bound to a set that no longer exists was done by a lost write; it reports the sizes of the sets that were read.
#[tokio::test(start_paused = true)]
async fn what_a_lost_write_did_for_a_change_that_is_bound_to_a_set_tells_its_sizes() {
    let world = World::simulated(Tenant::new());
    world.accept_on(1, &lane(1), world.clock.now(), Some(AssignmentSet::default().digest())).await;
    for number in [1, 9] {
        world.tenant.edited(&lane(1), group(number));
    }
    undecided(&world, &[(1, adding(&[1]))]).await;
    let _running = world.run();
    let State::Succeeded(success) = world.end_of(1).await else { panic!("it was done") };
    assert_eq!((success.difference.before, success.difference.after), (0, 2));
}

/// What two changes of a lost write did to each other is attributed to neither, yet may have been done.
#[tokio::test(start_paused = true)]
async fn a_change_that_fails_says_that_a_lost_write_carried_it_whatever_else_that_did() {
    let world = World::simulated(Tenant::new());
    world.accept(1, &lane(1)).await;
    let change = Change::amend(vec![], vec![group(1)], 1).unwrap();
    world.accept_change(2, &lane(1), world.clock.now(), (change, None)).await;
    world.tenant.edited(&lane(1), group(9));
    let removed = vec![Assignment { target: group(1), filter: None, unread: None }];
    undecided(&world, &[(1, adding(&[1])), (2, Difference { removed, ..Difference::default() })]).await;
    world.tenant.told(&lane(1), Read::Garbled);
    let _running = world.run();
    for number in [1, 2] {
        let State::Failed { failure, .. } = world.late_end_of(number).await else { panic!("it cannot be read") };
        assert!(failure.detail.ends_with("; a write that was sent before may have taken effect"), "{failure:?}");
    }
}

/// A lost write looked unsent, and its changes failed. Later somebody makes by hand the set that it would have made.
#[tokio::test(start_paused = true)]
async fn what_somebody_does_later_is_not_put_down_to_a_lost_write_whose_changes_have_ended() {
    let mut tenant = Tenant::new();
    tenant.refused = BTreeSet::from([group(1)]);
    let world = World::simulated(tenant);
    world.tenant.edited(&lane(1), group(9));
    world.tenant.lost.store(1, Ordering::SeqCst);
    world.accept(1, &lane(1)).await;
    let _running = world.run();
    assert!(matches!(world.end_of(1).await, State::Failed { .. }));
    world.tenant.edited(&lane(1), group(1));
    let change = Change::amend(vec![], vec![group(1)], 1).unwrap();
    world.accept_change(2, &lane(1), world.clock.now(), (change, None)).await;
    assert!(matches!(world.end_of(2).await, State::Succeeded(_)));
    let known = written(&world).await.into_iter().map(|(_, known_by)| known_by);
    assert_eq!(known.collect::<Vec<_>>(), ["answered"]);
}

/// A write added a group and took effect, but its answer was lost and the next read lags behind it. By then another change
/// is to remove that group: over the set that is read, the two come to nothing.
#[tokio::test(start_paused = true)]
async fn changes_that_take_back_what_a_lost_write_may_have_done_are_written() {
    // Their own write may be lost as well, and the read after that lag, too.
    for lost in [0, 1] {
        let world = World::simulated(Tenant::new());
        let before = world.tenant.set(&lane(1));
        world.accept(1, &lane(1)).await;
        world.tenant.edited(&lane(1), group(1));
        let after = world.tenant.set(&lane(1)).digest();
        announce(&world, (before.digest(), after), &[(1, adding(&[1]))]).await;
        world.tenant.stale.lock().unwrap().insert(lane(1), (before, 1 + lost));
        world.tenant.lost.store(lost, Ordering::SeqCst);
        let change = Change::amend(vec![], vec![group(1)], 1).unwrap();
        world.accept_change(2, &lane(1), world.clock.now(), (change, None)).await;
        let _running = world.run();
        for number in [1, 2] {
            has_succeeded(&world.end_of(number).await);
        }
        assert_eq!(world.tenant.set(&lane(1)), AssignmentSet::default(), "the second change removed it, {lost} lost");
    }
}
