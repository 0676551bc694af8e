//! What must hold after anything that was done to the replicas.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::{
    fleet::{Change, Fleet},
    history,
    program::Program,
};

/// An accepted change.
#[derive(Clone, Debug)]
pub(crate) struct Accepted {
    pub(crate) change: Change,
    pub(crate) operation: String,
    /// Who submitted it. Callers submit one after another, so their changes must take effect in that order.
    pub(crate) caller: usize,
}

type Sets = BTreeMap<String, BTreeSet<String>>;

/// Waits until all has ended, stops the fleet, and checks. `start` is what was assigned before.
pub(crate) async fn check(mut fleet: Fleet, start: Vec<(String, BTreeSet<String>)>, accepted: &[Accepted]) {
    fleet
        .until("all operations have ended", async |fleet| {
            fleet.states().await.iter().all(|(_, state)| !["queued", "running"].contains(&state.as_str()))
        })
        .await;
    let (states, lanes, journal) = (fleet.states().await, fleet.history().await, fleet.journal().await);
    let end: Sets = fleet.assigned().await.into_iter().collect();
    let ids: BTreeSet<_> = accepted.iter().map(|it| it.operation.clone()).collect();
    assert_eq!(ids.len(), accepted.len(), "each key is one operation");
    assert_eq!(states.iter().map(|(id, _)| id.clone()).collect::<BTreeSet<_>>(), ids, "and there are no others");
    let failures = fleet.failures().await;
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    let wrong: Vec<_> = journal.iter().filter(|call| !call["violation"].is_null()).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    let faults = [history::faults(&lanes), history::late_writes(&lanes, &journal)].concat();
    assert!(faults.is_empty(), "{}", faults.join("\n"));

    fleet.replicas.iter().for_each(|replica| replica.program.terminate());
    for replica in std::mem::take(&mut fleet.replicas) {
        assert_eq!(replica.program.ended().code, Some(0));
    }
    let records = trail(&fleet);
    for event in ["accepted", "settled"] {
        let count = records.iter().filter(|record| record["event"] == event).count();
        assert_eq!(count, accepted.len(), "each operation is {event} once");
    }
    let settled: Vec<_> = records.iter().filter(|record| record["event"] == "settled").collect();
    assert_eq!(end, folded(start.into_iter().collect(), accepted, &settled), "no update is lost");
}

/// The verified trail. The records of one lane's settlements are in the order in which they were committed.
fn trail(fleet: &Fleet) -> Vec<Value> {
    let audit = |verb: &str| {
        let ended = Program::start(fleet.command(&["audit", verb])).ended();
        assert_eq!(ended.code, Some(0), "{}", ended.err);
        ended.out
    };
    let verified = audit("verify");
    assert!(verified.contains("every hash fits"), "{verified}");
    audit("export").lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The initial sets with the operations applied as they were settled; each must report correctly whether it changed
/// anything, and none may overtake an earlier one of its caller.
fn folded(mut sets: Sets, accepted: &[Accepted], settled: &[&Value]) -> Sets {
    let mut place: BTreeMap<_, _> = accepted.iter().enumerate().map(|(at, it)| (it.operation.as_str(), at)).collect();
    let mut latest: BTreeMap<(usize, &str), usize> = BTreeMap::new();
    for record in settled {
        let at = place.remove(record["operation"].as_str().unwrap()).expect("an operation that is settled once");
        let Accepted { change, caller, .. } = &accepted[at];
        let earlier = latest.insert((*caller, &change.configuration), at);
        assert!(earlier.is_none_or(|earlier| earlier < at), "{record} was overtaken by a later one of its caller");
        let set = sets.get_mut(&change.configuration).unwrap();
        let changed = if change.list == "add" { set.insert(change.group.clone()) } else { set.remove(&change.group) };
        assert_eq!(record["effect"], if changed { "changed" } else { "unchanged" }, "{record}");
    }
    assert!(place.is_empty());
    sets
}
