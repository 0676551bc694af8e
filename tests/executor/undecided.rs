//! Writes of which nobody knows whether they took effect.

use std::time::Duration;

use postern::{
    domain::{AssignmentSet, Change, Difference, Digest, Failure, FailureCode, State, Wanted, operation::Ending},
    store::{Carried, Intent, Parking, Part, Settlement, Turn},
};
use serde_json::Value;

use crate::{
    upstream::Tenant,
    work::{World, group, id, lane},
};

/// The lane was left full, a write for operation 2 was announced, and it was parked so often.
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
        entries: Vec::new(),
        keep: None,
        part: Part::Last,
    };
    world.store.settle(lease, settlement).await.unwrap();
    world.accept(2, &lane(1)).await;
    let carried = vec![Carried { operation: id(2), difference: Difference::default() }];
    let client_request_id = "call-1".to_owned();
    let intent = Intent {
        before: digest("full"),
        after: digest("fuller"),
        client_request_id,
        carried,
        noted: false,
        write: None,
    };
    for _ in 0..attempts {
        let Turn { mut lease, .. } = world.taken_by_another(Duration::from_mins(1)).await;
        world.store.begin_write(&mut lease, &intent, Duration::from_mins(1)).await.unwrap();
        let parking = Parking {
            pause: Duration::ZERO,
            because: "no answer".to_owned(),
            announced: Some(intent.clone()),
            left: None,
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
    // The set reads as empty, which nothing of ours explains.
    let world = World::simulated(Tenant::new());
    let intent = announced(&world, 3).await;
    let _running = world.run();
    let end = world.end_of(2).await;
    let State::Failed { failure, .. } = end else { panic!("{end:?}") };
    assert!(failure.detail.contains("may have taken effect"), "{failure:?}");
    assert_eq!(written(&world).await, [(intent.client_request_id, "undecided".to_owned())]);
}

/// Two changes were carried by a write that was answered; the first has ended by it, and its owner is gone. Reads lag behind: they show
/// the set as it was before.
#[tokio::test(start_paused = true)]
async fn what_is_known_of_a_write_ends_the_rest_of_what_it_carried_whatever_is_read() {
    let world = World::simulated(Tenant::new());
    let (before, after) = (AssignmentSet::default().digest(), Digest::of(b"fuller"));
    world.accept(1, &lane(1)).await;
    world.accept(2, &lane(1)).await;
    let Turn { mut lease, operations, .. } = world.taken_by_another(Duration::from_mins(1)).await;
    let carried = operations.iter().map(|it| Carried { operation: it.id, difference: Difference::default() }).collect();
    let client_request_id = "call-1".to_owned();
    let intent =
        Intent { before: before.clone(), after: after.clone(), client_request_id, carried, noted: false, write: None };
    world.store.begin_write(&mut lease, &intent, Duration::from_mins(1)).await.unwrap();
    let known = Intent { write: Some(intent.effect()), ..intent };
    let at = world.clock.now();
    let ending = Ending {
        at,
        difference: Difference::default(),
        before: before.clone(),
        after: after.clone(),
        write: known.write.clone(),
    };
    let settlement = Settlement {
        ended: vec![(id(1), operations[0].state.clone().succeed(ending).unwrap())],
        left: Some(after.clone()),
        entries: Vec::new(),
        keep: Some(Duration::from_secs(5)),
        part: Part::First(Some(Box::new(known))),
    };
    drop(world.store.settle(lease, settlement).await.unwrap());
    let _running = world.run();
    let end = world.end_of(2).await;
    let State::Succeeded(success) = end else { panic!("{end:?}") };
    assert_eq!((success.before, success.after), (before, after));
    assert_eq!((world.tenant.written(), written(&world).await), (0, vec![]));
}

/// A write that was to add group 3 for this operation was announced and lost, and the set is neither the one before nor the one after.
async fn undecided(world: &World, carried: u128) {
    let Turn { mut lease, .. } = world.taken_by_another(Duration::from_mins(1)).await;
    let wanted = Wanted { target: group(3), filter: None };
    let difference = Difference { added: vec![wanted], after: 1, ..Difference::default() };
    let intent = Intent {
        before: Digest::of(b"full"),
        after: Digest::of(b"fuller"),
        client_request_id: "call-1".to_owned(),
        carried: vec![Carried { operation: id(carried), difference }],
        noted: false,
        write: None,
    };
    world.store.begin_write(&mut lease, &intent, Duration::from_mins(1)).await.unwrap();
    let parking = Parking {
        pause: Duration::ZERO,
        because: "no answer".to_owned(),
        announced: Some(intent),
        left: None,
        ended: vec![],
        entries: vec![],
    };
    world.store.park(lease, parking).await.unwrap();
}

/// Of three changes the third was carried by a write of which nobody knows what became. The second is for another set, which what the
/// first makes of it is not, so nothing can be said yet of what comes after it.
#[tokio::test(start_paused = true)]
async fn a_change_that_is_for_any_set_does_not_fail_for_one_that_is_not() {
    let world = World::simulated(Tenant::new());
    world.accept(1, &lane(1)).await;
    world.accept_on(2, &lane(1), world.clock.now(), Some(Digest::of(b"another"))).await;
    world.accept(3, &lane(1)).await;
    undecided(&world, 3).await;
    let _running = world.run();
    let State::Failed { failure, .. } = world.end_of(2).await else { panic!("it is for another set") };
    assert_eq!(failure.code, FailureCode::PreconditionFailed);
    for number in [1, 3] {
        let end = world.end_of(number).await;
        assert!(matches!(end, State::Succeeded(_)), "{number}: {end:?}");
    }
    assert_eq!(world.tenant.set(&lane(1)).len(), 2);
}

/// The first of two changes does now what the write did that is lost, if it did.
#[tokio::test(start_paused = true)]
async fn what_another_change_does_now_is_not_put_down_to_a_lost_write() {
    let world = World::simulated(Tenant::new());
    for number in [1, 2] {
        let change = Change::amend(vec![Wanted { target: group(3), filter: None }], vec![], 1).unwrap();
        world.accept_change(number, &lane(1), world.clock.now(), (change, None)).await;
    }
    undecided(&world, 2).await;
    let _running = world.run();
    for (number, added) in [(1, 1), (2, 0)] {
        let State::Succeeded(success) = world.end_of(number).await else { panic!("{number} succeeds") };
        assert_eq!(success.difference.added.len(), added, "{number}: {success:?}");
    }
}
