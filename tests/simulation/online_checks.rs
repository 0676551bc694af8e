//! The oracles that check during a run: leases, pauses, announcements, writes and ends.
//!
//! They see every replica's commits as they happen, by the database's time, and keep their own account; they trust neither
//! the store nor the executor.

use std::{collections::BTreeMap, time::Duration};

use postern::{
    domain::{
        AssignmentSet, Change, ConfigurationId, Difference, Digest, FailureCode, Operation, OperationId, State, Target,
        operation::{Submission, Success, UntilState},
        reversal::Cause,
    },
    store::{Carried, Claim, Intent, Parking, Part, Settlement, Turn},
};

use crate::reference_merge::{self, Held};

/// An oracle's result: an error says what went wrong.
pub(crate) type Verdict = Result<(), String>;

/// A lease's owner and fencing number.
pub(crate) type Holder = (String, i64);

#[derive(Debug, Default)]
pub(crate) struct OnlineChecks {
    pub(crate) accepted: BTreeMap<OperationId, AcceptedOperation>,
    pub(crate) ended: BTreeMap<OperationId, State>,
    /// State of each operation's `until`, if it has one.
    pub(crate) untils: BTreeMap<OperationId, UntilState>,
    pub(crate) announced: BTreeMap<String, Announced>,
    /// By the database's time, when each write was first stored as the cause of an operation's end.
    pub(crate) settled_at: BTreeMap<String, Duration>,
    lanes: BTreeMap<ConfigurationId, Watch>,
    reads: BTreeMap<(String, ConfigurationId), Read>,
}

/// An accepted operation, and its place in the order of acceptance.
#[derive(Debug)]
pub(crate) struct AcceptedOperation {
    place: usize,
    pub(crate) lane: ConfigurationId,
    pub(crate) change: Change,
    /// The set that `If-Match` requires.
    only_on: Option<Digest>,
}

impl AcceptedOperation {
    fn may_meet(&self, held: &Held) -> bool {
        self.only_on.as_ref().is_none_or(|only_on| reference_merge::set(held).digest() == *only_on)
    }
}

/// An announced write.
#[derive(Debug)]
pub(crate) struct Announced {
    pub(crate) lane: ConfigurationId,
    pub(crate) by: Holder,
    pub(crate) intent: Intent,
    /// By the database's time: when it was announced, and when the lease granted with it expires.
    pub(crate) lasts: (Duration, Duration),
    /// What it was built on; none if nothing was read for it.
    pub(crate) built_on: Option<Source>,
    /// Whether it was handed to Graph.
    sent: bool,
}

/// What a write was built on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Newest,
    Stale,
}

/// A replica's latest read, on which no write has been built yet.
#[derive(Clone, Debug)]
pub(crate) struct Read {
    /// The version of the set, counted from zero.
    pub(crate) version: usize,
    pub(crate) set: AssignmentSet,
    /// Whether Graph returned an older version than the newest.
    pub(crate) stale: bool,
    /// When it was asked for, and when the answer arrived.
    pub(crate) lasted: (Duration, Duration),
}

#[derive(Debug, Default)]
struct Watch {
    holder: Option<(Holder, Duration)>,
    fencing: i64,
    /// The newest fencing number of each owner.
    grants: BTreeMap<String, i64>,
    /// Operations ended so far in a settlement of several parts.
    settling: Vec<(OperationId, State)>,
    parked_until: Option<Duration>,
    /// The pause that Graph last asked for.
    asked_pause: Option<Duration>,
}

/// Asserts a condition; the message is used if it fails.
macro_rules! must {
    ($so:expr, $($why:tt)+) => {
        if $so { Ok(()) } else { Err(format!($($why)+)) }
    };
}
pub(crate) use must;

impl OnlineChecks {
    fn lane(&mut self, lane: &ConfigurationId) -> &mut Watch {
        self.lanes.entry(lane.clone()).or_default()
    }

    /// An `until` is settled at most once.
    pub(crate) fn settled_until(&mut self, id: OperationId, state: UntilState) -> Verdict {
        let before = self.untils.insert(id, state);
        must!(before == Some(UntilState::Ahead), "the end of {id} is {before:?} and settled as {state:?}")
    }

    /// A reversal that no caller asked for carries out an `until`, once.
    fn carries_out(&mut self, by: OperationId, submission: &Submission) -> Verdict {
        if submission.until.is_some() {
            self.untils.insert(by, UntilState::Ahead);
        }
        match submission.change.reversal() {
            Some(reversal) if reversal.cause() == Cause::Until => {
                let original = reversal.operation();
                let changed = |it: &State| matches!(it, State::Succeeded(success) if !success.difference.is_empty());
                must!(self.ended.get(&original).is_some_and(changed), "{by} undoes {original}, which did nothing")?;
                self.settled_until(original, UntilState::Reverted(by))
            }
            Some(_) | None => Ok(()),
        }
    }

    pub(crate) fn accepted(&mut self, operation: Operation) -> Verdict {
        let Operation { id, submission, .. } = operation;
        self.carries_out(id, &submission)?;
        let place = self.accepted.len();
        let asked = AcceptedOperation {
            place,
            lane: submission.configuration,
            change: submission.change,
            only_on: submission.only_on,
        };
        must!(self.accepted.insert(id, asked).is_none(), "{id} is accepted twice")
    }

    pub(crate) fn claimed(&mut self, claim: &Claim, turn: &Turn, now: Duration) -> Verdict {
        let lane = self.lane(&claim.configuration);
        let number = turn.lease.fencing();
        if let Some((holder, until)) = &lane.holder {
            must!(*until <= now, "{claim:?} at {now:?} while {holder:?} holds the lane until {until:?}")?;
        }
        must!(lane.parked_until.is_none_or(|until| until <= now), "{claim:?} while the lane is parked")?;
        must!(number > lane.fencing, "fencing number {number} after {}", lane.fencing)?;
        lane.holder = Some(((claim.owner.clone(), number), now + claim.ttl));
        (lane.fencing, lane.parked_until) = (number, None);
        lane.grants.insert(claim.owner.clone(), number);
        // Earlier reads no longer count.
        self.reads.remove(&(claim.owner.clone(), claim.configuration.clone()));
        self.lane(&claim.configuration).settling.clear();
        let pending =
            self.accepted.iter().filter(|(id, it)| it.lane == claim.configuration && !self.ended.contains_key(id));
        let mut pending: Vec<_> = pending.map(|(id, it)| (it.place, *id)).collect();
        pending.sort_unstable();
        let due: Vec<_> = pending.into_iter().map(|(_, id)| id).take(claim.batch_max).collect();
        let given: Vec<_> = turn.operations.iter().map(|operation| operation.id).collect();
        must!(given == due, "a turn with {given:?} where {due:?} are pending")
    }

    /// Whether this is the lane's newest lease and has not been released.
    fn held(&self, lane: &ConfigurationId, by: &Holder) -> Verdict {
        let holder = self.lanes.get(lane).and_then(|watch| watch.holder.as_ref()).map(|(holder, _)| holder);
        must!(holder == Some(by), "{by:?} acts on {lane}, which {holder:?} holds")
    }

    /// Whether this holder's lease has not expired.
    pub(crate) fn holds(&self, lane: &ConfigurationId, by: &Holder, now: Duration) -> bool {
        let watch = self.lanes.get(lane).and_then(|watch| watch.holder.as_ref());
        watch.is_some_and(|(holder, until)| holder == by && *until > now)
    }

    pub(crate) fn announced(
        &mut self,
        lane: &ConfigurationId,
        by: &Holder,
        intent: &Intent,
        lasts: (Duration, Duration),
    ) -> Verdict {
        self.held(lane, by)?;
        self.lane(lane).holder = Some((by.clone(), lasts.1));
        for Carried { operation, .. } in &intent.carried {
            let known = self.accepted.get(operation).is_some_and(|asked| asked.lane == *lane);
            must!(known, "a write for {operation}, which nobody accepted on {lane}")?;
            must!(!self.ended.contains_key(operation), "a write for {operation}, which has ended")?;
        }
        let read = self.reads.get(&(by.0.clone(), lane.clone()));
        let built_on = read.map(|read| if read.stale { Source::Stale } else { Source::Newest });
        let (lane, by) = (lane.clone(), by.clone());
        let announced = Announced { lane, by, intent: intent.clone(), lasts, built_on, sent: false };
        let id = intent.client_request_id.clone();
        must!(self.announced.insert(id, announced).is_none(), "a second {}", intent.client_request_id)
    }

    pub(crate) fn parked(&mut self, lane: &ConfigurationId, by: &Holder, parking: &Parking, now: Duration) -> Verdict {
        self.held(lane, by)?;
        for (id, state) in &parking.ended {
            must!(matches!(state, State::Failed { .. }), "{id} ends while {lane} is parked: {state:?}")?;
            self.ends(*id, state, lane)?;
        }
        let watch = self.lane(lane);
        watch.holder = None;
        watch.parked_until = Some(now + parking.pause);
        let asked = watch.asked_pause.take().unwrap_or_default();
        let heard = !parking.because.contains("throttling") || parking.pause >= asked;
        must!(heard, "{lane} is parked for {:?} where Graph asks for {asked:?}", parking.pause)
    }

    /// Graph throttles the lane.
    pub(crate) fn throttled(&mut self, lane: &ConfigurationId, pause: Duration) {
        self.lane(lane).asked_pause = Some(pause);
    }

    /// Checks a call of the lane to Graph. A former owner that has not noticed its loss may still call, as it cannot
    /// know its successor's pause.
    pub(crate) fn called(&self, owner: &str, lane: &ConfigurationId, now: Duration) -> Verdict {
        let Some(watch) = self.lanes.get(lane) else {
            return Err(format!("{lane} is called, and nobody has claimed it"));
        };
        let former = watch.grants.get(owner).is_some_and(|number| *number < watch.fencing);
        let until = watch.parked_until;
        must!(former || until.is_none_or(|until| until <= now), "{lane} is called at {now:?}, parked until {until:?}")
    }

    pub(crate) fn read(&mut self, owner: &str, lane: &ConfigurationId, read: Read) {
        self.reads.insert((owner.to_owned(), lane.clone()), read);
    }

    /// Checks a write as it is handed to Graph: it must be announced, not sent before, and be the merge of the changes
    /// it carries over the set read for it in this turn.
    pub(crate) fn written(
        &mut self,
        owner: &str,
        lane: &ConfigurationId,
        (set, id): (&AssignmentSet, &str),
    ) -> Result<Read, String> {
        let read = self.reads.remove(&(owner.to_owned(), lane.clone()));
        let read = read.ok_or_else(|| format!("{id} writes on {lane} what nobody has read"))?;
        let announced = self.announced.get_mut(id).ok_or_else(|| format!("{id} is written without announcement"))?;
        let same = announced.lane == *lane && announced.by.0 == owner && !announced.sent;
        must!(same, "{id} is written by {owner} on {lane}, announced as {announced:?}")?;
        announced.sent = true;
        let intent = announced.intent.clone();
        let mut held = reference_merge::held(&read.set);
        let start = held.clone();
        let mut before = None;
        for Carried { operation, difference, done } in &intent.carried {
            let asked = &self.accepted[operation];
            must!(before < Some(asked.place), "{id} carries {operation} out of order")?;
            before = Some(asked.place);
            // Changes that were already done are not checked again; they only accompany the others.
            if done.is_some() && difference.is_empty() && !asked.may_meet(&held) {
                continue;
            }
            let earlier = held.clone();
            must!(asked.may_meet(&held), "{id} carries {operation}, which is for another set than {held:?}")?;
            reference_merge::apply(&mut held, &asked.change);
            must!(
                reference_merge::is_between(&earlier, &held, difference),
                "{id}: {operation} does not make the difference that is told: {difference:?}"
            )?;
        }
        must!(*set == reference_merge::set(&held), "{id} writes {set:?}, not the fold {held:?} over {:?}", read.set)?;
        self.untouched(&intent, &start, &reference_merge::held(set))?;
        let digests = (read.set.digest(), set.digest());
        must!(digests == (intent.before.clone(), intent.after.clone()), "{id} is announced as another")?;
        Ok(read)
    }

    /// Everything that no carried change names must be preserved in full.
    fn untouched(&self, intent: &Intent, before: &Held, after: &Held) -> Verdict {
        let changes: Vec<_> = intent.carried.iter().map(|it| &self.accepted[&it.operation].change).collect();
        if changes.iter().any(|change| matches!(change, Change::Replace(_))) {
            return Ok(());
        }
        let named = |target: &Target| {
            let in_one = |change: &&Change| {
                change.unwanted().contains(target)
                    || change.wanted().iter().any(|it| it.target == *target)
                    || change.reversal().is_some_and(|reversal| reversal.targets().contains(target))
            };
            changes.iter().any(in_one)
        };
        let rest = |held: &Held| -> Held {
            held.iter().filter(|(target, _)| !named(target)).map(|(a, b)| (a.clone(), b.clone())).collect()
        };
        must!(rest(before) == rest(after), "{intent:?} touches what no change names: {before:?} {after:?}")
    }

    pub(crate) fn settled(
        &mut self,
        lane: &ConfigurationId,
        by: &Holder,
        settlement: &Settlement,
        now: Duration,
    ) -> Verdict {
        self.held(lane, by)?;
        self.lane(lane).holder = settlement.keep.map(|ttl| (by.clone(), now + ttl));
        let read = self.reads.get(&(by.0.clone(), lane.clone())).cloned();
        for (id, state) in &settlement.ended {
            self.ends(*id, state, lane)?;
            self.put_down(*id, state)?;
            if let State::Succeeded(Success { write: Some(write), .. }) = state {
                self.settled_at.entry(write.client_request_id.clone()).or_insert(now);
            }
            self.unmet(*id, state, by, read.as_ref())?;
        }
        self.lane(lane).settling.extend(settlement.ended.clone());
        if !matches!(settlement.part, Part::Last(_)) {
            return Ok(());
        }
        let whole = std::mem::take(&mut self.lane(lane).settling);
        match self.reads.remove(&(by.0.clone(), lane.clone())) {
            Some(read) => self.looked(&whole, &read.set),
            None => self.carried(&whole),
        }
    }

    fn ends(&mut self, id: OperationId, state: &State, lane: &ConfigurationId) -> Verdict {
        let known = self.accepted.get(&id).is_some_and(|asked| asked.lane == *lane);
        must!(known, "{id} ends on {lane}, where nobody accepted it")?;
        must!(self.ended.insert(id, state.clone()).is_none(), "{id} ends twice")
    }

    pub(crate) fn cancelled(&mut self, operation: &Operation) -> Verdict {
        self.ends(operation.id, &operation.state, &operation.submission.configuration)
    }

    /// An operation whose `If-Match` fails must fail on a set that was read, not merely planned: the latest read, or
    /// one that a write of this turn was built on.
    fn unmet(&self, id: OperationId, state: &State, by: &Holder, read: Option<&Read>) -> Verdict {
        let State::Failed { failure, .. } = state else { return Ok(()) };
        if failure.code != FailureCode::PreconditionFailed {
            return Ok(());
        }
        let only_on = self.accepted[&id].only_on.as_ref();
        let written = self.announced.values().filter(|it| it.by == *by).map(|it| it.intent.before.clone());
        let mut found = read.map(|read| read.set.digest()).into_iter().chain(written);
        let told = |found: &Digest| failure.detail.contains(&format!("ETag is \"{found}\""));
        must!(
            only_on.is_some() && found.any(|found| Some(&found) != only_on && told(&found)),
            "{id} is for {only_on:?} and fails over another set than was read: {failure:?}"
        )
    }

    /// An operation must report exactly what was announced for its write, plus what earlier writes announced for it.
    fn put_down(&self, id: OperationId, state: &State) -> Verdict {
        let State::Succeeded(success) = state else { return Ok(()) };
        let Some(write) = &success.write else { return Ok(()) };
        let told = self.announced.get(&write.client_request_id).and_then(|it| carried_by(&it.intent, id));
        let pieces = reference_merge::parts(&success.difference);
        let same =
            told.is_some_and(|told| pieces.iter().any(|piece| reference_merge::is_part(piece, &told.difference)));
        let announced: Vec<_> = self.announced.values().filter_map(|it| carried_by(&it.intent, id)).collect();
        let told = |piece: &Difference| announced.iter().any(|it| reference_merge::is_part(piece, &it.difference));
        // What the changes of one merge undo in each other cancels out and is announced nowhere.
        let all = success.before == success.after || pieces.iter().all(told);
        must!(same && all && !success.difference.is_empty(), "{id} is put down to another write: {success:?}")
    }

    /// Operations that end after a read without a write: the read must show that there was nothing to write.
    fn looked(&self, ended: &[(OperationId, State)], set: &AssignmentSet) -> Verdict {
        let (start, found) = (reference_merge::held(set), set.digest());
        let successes = || ended.iter().filter(|(_, state)| matches!(state, State::Succeeded(_)));
        let read_back =
            |intent: &Intent| intent.after == found && successes().all(|(id, _)| carried_by(intent, *id).is_some());
        if self.announced.values().any(|it| read_back(&it.intent)) {
            return Ok(());
        }
        let mut held = start.clone();
        for (id, state) in successes() {
            let State::Succeeded(success) = state else { continue };
            let before = held.clone();
            let met = success.write.is_some() || self.accepted[id].may_meet(&held);
            must!(met, "{id} succeeds, and is for another set than {held:?}")?;
            reference_merge::apply(&mut held, &self.accepted[id].change);
            let told = success.write.is_some() || reference_merge::is_between(&before, &held, &success.difference);
            must!(told, "{id} ends over {set:?} with another difference: {success:?}")?;
        }
        must!(held == start, "{ended:?} ends what has no effect on {set:?}")
    }

    /// Operations that end with a write: those it changed nothing for must have been merged with others.
    fn carried(&self, ended: &[(OperationId, State)]) -> Verdict {
        for (id, state) in ended {
            let State::Succeeded(success) = state else { continue };
            let intents = self.announced.values().map(|it| &it.intent).filter(|it| it.after == success.after);
            let told = intents
                .filter_map(|intent| carried_by(intent, *id))
                .any(|it| reference_merge::is_part(&it.difference, &success.difference));
            must!(told || success.write.is_some(), "{id} ends, and nobody looked: {success:?}")?;
        }
        Ok(())
    }

    /// Whether the operation's failure says that it may have taken effect.
    pub(crate) fn may_have_taken_effect(&self, id: OperationId) -> bool {
        let Some(State::Failed { failure, .. }) = self.ended.get(&id) else { return false };
        failure.detail.contains("may have taken effect")
    }
}

fn carried_by(intent: &Intent, id: OperationId) -> Option<&Carried> {
    intent.carried.iter().find(|carried| carried.operation == id)
}
