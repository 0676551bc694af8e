//! Random sequences of verbs by two owners, checked against a model of the lanes.

use std::collections::{BTreeMap, BTreeSet};

use postern::{
    domain::{OperationId, State, approval::Decision},
    store::{ApprovalOutcome, Cancelled, Claim, Error, Lease, Query, Settlement, Store, Turn},
};
use proptest::prelude::*;

use crate::fixture::{
    Fixture, KINDS, Kind, acceptance, all, announced, awaiting, cancellation, claim, id, ids, lane, minutes, operation,
    parking, records_of, reply, settlement, trail,
};

#[derive(Clone, Debug)]
enum Step {
    Accept(u8),
    /// Accepts an operation that awaits approval.
    Ask(u8),
    /// Answers for one of the operations accepted so far.
    Answer(prop::sample::Index, bool),
    Claim {
        owner: u8,
        lane: u8,
        batch_max: usize,
    },
    /// Cancels one of the operations accepted so far.
    Cancel(prop::sample::Index),
    Announce(prop::sample::Index),
    /// Ends all operations of a turn.
    Settle(prop::sample::Index),
    /// Ends the first, and keeps the lane for the others if there are any.
    SettleFirst(prop::sample::Index),
    Park {
        turn: prop::sample::Index,
        pause: i64,
    },
    Pass(i64),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let turn = any::<prop::sample::Index>;
    prop_oneof![
        4 => (0..3_u8).prop_map(Step::Accept),
        2 => (0..3_u8).prop_map(Step::Ask),
        3 => (turn(), any::<bool>()).prop_map(|(number, yes)| Step::Answer(number, yes)),
        5 => (0..2_u8, 0..3_u8, 1..4_usize).prop_map(|(owner, lane, batch_max)| Step::Claim { owner, lane, batch_max }),
        2 => turn().prop_map(Step::Cancel),
        2 => turn().prop_map(Step::Announce),
        2 => turn().prop_map(Step::Settle),
        2 => turn().prop_map(Step::SettleFirst),
        2 => (turn(), 1..15_i64).prop_map(|(turn, pause)| Step::Park { turn, pause }),
        3 => (1..12_i64).prop_map(Step::Pass),
        1 => Just(Step::Reopen),
    ]
}

/// The expected state of a lane.
#[derive(Default)]
struct Lane {
    pending: Vec<OperationId>,
    awaiting: BTreeSet<OperationId>,
    /// Pending operations that were in a turn.
    begun: BTreeSet<OperationId>,
    /// Grants so far, and when the latest expires; none if it was released.
    granted: u32,
    leased_until: Option<i64>,
    parked_until: Option<i64>,
    announced: bool,
    attempts: u32,
}

/// The expected validity of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Worth {
    Good,
    Lost,
}

/// A turn that an owner believes it holds, and the number of its grant.
struct Believed {
    turn: Turn,
    lane: u8,
    grant: u32,
}

struct World {
    fixture: Fixture,
    store: std::sync::Arc<dyn Store>,
    lanes: BTreeMap<u8, Lane>,
    believed: Vec<Believed>,
    accepted: u128,
    now: i64,
}

impl World {
    async fn new(kind: Kind) -> Self {
        let fixture = Fixture::new(kind).await;
        let store = fixture.open().await;
        let lanes = (0..3).map(|number| (number, Lane::default())).collect();
        Self { fixture, store, lanes, believed: Vec::new(), accepted: 0, now: 0 }
    }

    fn lane(&mut self, number: u8) -> &mut Lane {
        self.lanes.get_mut(&number).unwrap()
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Accept(number) => {
                self.accepted += 1;
                self.store.accept(acceptance(operation(self.accepted, &lane(number)))).await.unwrap();
                let accepted = id(self.accepted);
                self.lane(number).pending.push(accepted);
            }
            Step::Ask(number) => {
                self.accepted += 1;
                self.store.accept(acceptance(awaiting(self.accepted, &lane(number), 1_000_000))).await.unwrap();
                let accepted = id(self.accepted);
                self.lane(number).awaiting.insert(accepted);
            }
            Step::Answer(number, yes) => {
                let decision = if yes { Decision::Approved } else { Decision::Rejected };
                self.answer(number, decision).await;
            }
            Step::Claim { owner, lane, batch_max } => self.claim(owner, lane, batch_max).await,
            Step::Cancel(number) => self.cancel(number).await,
            Step::Announce(turn) => self.announce(turn).await,
            Step::Settle(turn) => self.settle(turn, usize::MAX).await,
            Step::SettleFirst(turn) => self.settle(turn, 1).await,
            Step::Park { turn, pause } => self.park(turn, pause).await,
            Step::Pass(minutes) => {
                self.fixture.pass(minutes).await;
                self.now += minutes;
            }
            Step::Reopen => {
                self.store.close().await;
                self.store = self.fixture.open().await;
                if self.fixture.kind == Kind::Sqlite {
                    // One process uses the file: leases of the previous run no longer count, unless a write was in flight.
                    for lane in self.lanes.values_mut().filter(|lane| !lane.announced) {
                        lane.leased_until = None;
                        lane.granted += 1;
                    }
                }
            }
        }
    }

    async fn claim(&mut self, owner: u8, number: u8, batch_max: usize) {
        let owner = format!("owner {owner}");
        let wanted = Claim { batch_max, ..claim(&lane(number), &owner, self.now) };
        let turn = self.store.claim(wanted).await.unwrap().turn();
        let now = self.now;
        let model = self.lane(number);
        let leased = model.leased_until.is_some_and(|until| until > now);
        let parked = model.parked_until.is_some_and(|until| until > now);
        assert_eq!(turn.is_some(), !model.pending.is_empty() && !leased && !parked, "a turn on {number} at {now}");
        let Some(turn) = turn else { return };
        let expected: Vec<_> = model.pending.iter().copied().take(batch_max).collect();
        assert_eq!(ids(&turn.operations), expected);
        assert!(turn.operations.iter().all(|operation| matches!(operation.state, State::Running { .. })));
        assert_eq!((turn.announced.intent.is_some(), turn.attempts), (model.announced, model.attempts));
        model.begun.extend(expected);
        model.granted += 1;
        model.leased_until = Some(now + 10);
        model.parked_until = None;
        let grant = model.granted;
        self.believed.push(Believed { turn, lane: number, grant });
    }

    /// Removes one of the believed turns and returns it with the validity of its lease.
    fn take(&mut self, at: prop::sample::Index) -> Option<(Believed, Worth)> {
        if self.believed.is_empty() {
            return None;
        }
        let believed = self.believed.remove(at.index(self.believed.len()));
        let lane = self.lane(believed.lane);
        let good = lane.leased_until.is_some() && lane.granted == believed.grant;
        Some((believed, if good { Worth::Good } else { Worth::Lost }))
    }

    async fn answer(&mut self, of: prop::sample::Index, word: Decision) {
        if self.accepted == 0 {
            return;
        }
        let number = 1 + u128::try_from(of.index(usize::try_from(self.accepted).unwrap())).unwrap();
        let lane = self.lanes.values_mut().find(|lane| lane.awaiting.contains(&id(number)));
        let outcome = self.store.answer_approval(reply(number, word, self.now)).await.unwrap();
        assert_eq!(matches!(outcome, ApprovalOutcome::Done(_)), lane.is_some(), "{outcome:?}");
        assert_eq!(matches!(outcome, ApprovalOutcome::TooLate(_)), lane.is_none(), "{outcome:?}");
        if let Some(lane) = lane {
            lane.awaiting.remove(&id(number));
            if word == Decision::Approved {
                // Its place is by acceptance, not by approval.
                lane.pending.push(id(number));
                lane.pending.sort();
            }
        }
    }

    async fn cancel(&mut self, of: prop::sample::Index) {
        if self.accepted == 0 {
            return;
        }
        let number = 1 + u128::try_from(of.index(usize::try_from(self.accepted).unwrap())).unwrap();
        let queued = |lane: &&mut Lane| {
            let waits = lane.pending.contains(&id(number)) || lane.awaiting.contains(&id(number));
            waits && !lane.begun.contains(&id(number))
        };
        let lane = self.lanes.values_mut().find(queued);
        let outcome = self.store.cancel(cancellation(number, self.now)).await.unwrap();
        assert_eq!(matches!(outcome, Cancelled::Done(_)), lane.is_some(), "{outcome:?}");
        assert_eq!(matches!(outcome, Cancelled::TooLate(_)), lane.is_none(), "{outcome:?}");
        if let Some(lane) = lane {
            lane.pending.retain(|pending| *pending != id(number));
            lane.awaiting.remove(&id(number));
        }
    }

    async fn announce(&mut self, at_turn: prop::sample::Index) {
        let Some((mut believed, worth)) = self.take(at_turn) else { return };
        let until = self.now + 20;
        let told = announced(&believed.turn.operations);
        let outcome = self.store.begin_write(&mut believed.turn.lease, &told, minutes(20)).await;
        check(&outcome, worth);
        if worth == Worth::Good {
            let lane = self.lane(believed.lane);
            lane.announced = true;
            lane.leased_until = Some(until);
            self.believed.push(believed);
        }
    }

    async fn settle(&mut self, at_turn: prop::sample::Index, ends_max: usize) {
        let Some((Believed { turn, lane, grant }, worth)) = self.take(at_turn) else { return };
        let Turn { lease, mut operations, announced, left, replaced_sets, attempts } = turn;
        let done: Vec<_> = operations.drain(..operations.len().min(ends_max)).collect();
        let kept_until = (!operations.is_empty()).then_some(self.now + 10);
        let settlement = Settlement { keep: kept_until.map(|_| minutes(10)), ..settlement(&done, self.now) };
        let outcome = self.store.settle(lease, settlement).await;
        check(&outcome, worth);
        if worth == Worth::Lost {
            return;
        }
        let model = self.lane(lane);
        model.pending.retain(|pending| !ids(&done).contains(pending));
        (model.announced, model.attempts, model.leased_until) = (false, 0, kept_until);
        let lease: Option<Lease> = outcome.unwrap();
        assert_eq!(lease.is_some(), kept_until.is_some());
        if let Some(lease) = lease {
            let turn = Turn { lease, operations, announced, left, replaced_sets, attempts };
            self.believed.push(Believed { turn, lane, grant });
        }
    }

    async fn park(&mut self, at_turn: prop::sample::Index, pause: i64) {
        let Some((Believed { turn, lane, .. }, worth)) = self.take(at_turn) else { return };
        let until = self.now + pause;
        let parking = parking(pause.unsigned_abs());
        let outcome = self.store.park(turn.lease, parking).await;
        check(&outcome, worth);
        if worth == Worth::Good {
            let lane = self.lane(lane);
            lane.leased_until = None;
            lane.parked_until = Some(until);
            lane.announced = false;
            lane.attempts += 1;
        }
    }

    /// Every accepted operation is in exactly one state, and the lanes match the model.
    async fn agree(&self) {
        let everything = all(&*self.store).await;
        assert_eq!(u128::try_from(everything.len()).unwrap(), self.accepted);
        let mut by_state = Vec::new();
        for name in State::NAMES {
            let query = Query { state: Some(name.to_owned()), limit: 10_000, ..Query::default() };
            let found = self.store.operations(&query).await.unwrap();
            assert!(found.iter().all(|operation| operation.state.name() == name));
            by_state.extend(ids(&found));
        }
        by_state.sort();
        assert_eq!(by_state, (1..=self.accepted).map(id).collect::<Vec<_>>());
        let pending: usize = self.lanes.values().map(|lane| lane.pending.len() + lane.awaiting.len()).sum();
        assert_eq!(everything.iter().filter(|operation| !operation.state.has_ended()).count(), pending);
        let now = self.now;
        let busy = |until: Option<i64>| until.is_some_and(|until| until > now);
        let open = self.lanes.iter().filter(|(_, it)| !it.pending.is_empty() && !busy(it.leased_until));
        let open: Vec<_> = open.filter(|(_, it)| !busy(it.parked_until)).map(|(number, _)| lane(*number)).collect();
        let mut found = self.store.open_lanes(10).await.unwrap();
        found.sort();
        assert_eq!(found, open);
    }
}

#[track_caller]
fn check<T: std::fmt::Debug>(outcome: &Result<T, Error>, worth: Worth) {
    let expected = match worth {
        Worth::Good => outcome.is_ok(),
        Worth::Lost => matches!(outcome, Err(Error::LeaseLost(_))),
    };
    assert!(expected, "a lease that is {worth:?}: {outcome:?}");
}

async fn walk(kind: Kind, steps: Vec<Step>) {
    let mut world = World::new(kind).await;
    for step in steps {
        world.step(step).await;
        world.agree().await;
    }
    trail(&*world.store).await;
    let settled = records_of(&*world.store, "settled").await.len();
    let cancelled = records_of(&*world.store, "cancelled").await.len();
    let rejected = records_of(&*world.store, "rejected").await.len();
    let ended = all(&*world.store).await.iter().filter(|operation| operation.state.has_ended()).count();
    assert_eq!(settled + cancelled + rejected, ended, "every end is recorded once");
    world.store.close().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_two_owners_do_no_operation_is_lost_and_no_lane_has_two_leases(
        steps in prop::collection::vec(step(), 10..60)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            for kind in KINDS {
                walk(kind, steps.clone()).await;
            }
        });
    }
}
