//! The oracles that check a finished run: every version of every set, every operation, the whole trail.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use postern::{
    audit::Verifier,
    domain::{
        AssignmentSet, ConfigurationId, FailureCode, OperationId, Reversal, State, Target,
        operation::{Success, UntilState},
    },
    store::Store,
};
use serde_json::Value;

use crate::{
    online_checks::{AcceptedOperation, Announced, OnlineChecks, Source, Verdict, must},
    reference_merge,
    tenant::{AppliedWrite, By, Tenant, Version, poison},
    world::World,
};

/// Everything that the oracles check.
pub(crate) struct Evidence<'a> {
    pub(crate) world: &'a World,
    pub(crate) tenant: &'a Tenant,
    pub(crate) store: &'a dyn Store,
}

/// Counts and writes read from the trail.
#[derive(Default)]
struct Trail {
    accepted: BTreeMap<OperationId, usize>,
    settled: BTreeMap<OperationId, usize>,
    cancelled: BTreeMap<OperationId, usize>,
    /// How each write's effect became known (`known_by`), by client request id.
    written: BTreeMap<String, BTreeSet<String>>,
}

impl Evidence<'_> {
    pub(crate) async fn examine(&self) {
        let trail = match self.trail().await {
            Ok(trail) => trail,
            Err(why) => return self.world.judge(Err(why)),
        };
        for verdict in self.verdicts(&trail) {
            self.world.judge(verdict);
        }
        self.kept().await;
    }

    fn verdicts(&self, trail: &Trail) -> Vec<Verdict> {
        let checks = self.world.checks.lock().unwrap();
        let mut verdicts = Vec::new();
        for (lane, versions) in self.tenant.sets.lock().unwrap().iter() {
            let history = History { checks: &checks, lane, versions, trail };
            verdicts.extend((1..versions.len()).map(|number| history.step(number, self.world)));
            let asked = checks.accepted.iter().filter(|(_, asked)| asked.lane == *lane);
            for (id, asked) in asked {
                verdicts.push(history.operation(*id, asked, self.world));
                verdicts.push(history.has_ended(*id, self.world));
            }
        }
        verdicts
    }

    /// The store must hold exactly the ends that were seen to be committed.
    async fn kept(&self) {
        let (accepted, ended): (Vec<_>, BTreeMap<_, _>) = {
            let checks = self.world.checks.lock().unwrap();
            (checks.accepted.keys().copied().collect(), checks.ended.clone())
        };
        for id in accepted {
            self.world.count("operations");
            let kept = self.store.operation(id).await.unwrap().map(|operation| operation.state);
            let same = kept.is_some() && kept.as_ref() == ended.get(&id);
            self.world.judge(must!(same, "{id} ended as {:?} and is kept as {kept:?}", ended.get(&id)));
        }
    }

    async fn trail(&self) -> Result<Trail, String> {
        let (mut trail, mut verifier) = (Trail::default(), Verifier::default());
        let page = self.store.audit(None, usize::MAX).await.map_err(|error| error.to_string())?;
        for text in &page.records {
            verifier.feed(text).map_err(|broken| format!("the trail: {broken}"))?;
            let record: Value = serde_json::from_str(text).unwrap();
            let operation = || record["operation"].as_str().unwrap().parse().unwrap();
            match record["event"].as_str().unwrap() {
                "accepted" => *trail.accepted.entry(operation()).or_default() += 1,
                "settled" => *trail.settled.entry(operation()).or_default() += 1,
                "cancelled" => *trail.cancelled.entry(operation()).or_default() += 1,
                "written" => {
                    let id = record["client_request_id"].as_str().unwrap().to_owned();
                    let known_by = record["known_by"].as_str().unwrap().to_owned();
                    trail.written.entry(id).or_default().insert(known_by);
                }
                _ => {}
            }
        }
        Ok(trail)
    }
}

/// For how long after a write a read of the set that it replaced is not believed.
const NOT_BELIEVED: Duration = Duration::from_secs(10);

/// All versions of one configuration's set.
struct History<'a> {
    checks: &'a OnlineChecks,
    lane: &'a ConfigurationId,
    versions: &'a [Version],
    trail: &'a Trail,
}

impl<'a> History<'a> {
    fn applied(&self) -> impl Iterator<Item = (usize, &'a AppliedWrite)> {
        self.versions.iter().enumerate().filter_map(|(number, version)| match &version.by {
            By::Write(applied) => Some((number, applied)),
            By::Start | By::Administrator => None,
        })
    }

    fn announced(&self, applied: &AppliedWrite) -> &'a Announced {
        &self.checks.announced[&applied.client_request_id]
    }

    fn set(&self, number: usize) -> &'a AssignmentSet {
        &self.versions[number].set
    }

    /// Checks one version: a write must be the merge of the changes that it carried, except those that failed, over the
    /// version it was built on. Versions that it overwrites unseen must be excused by a documented race.
    fn step(&self, number: usize, world: &World) -> Verdict {
        let By::Write(applied) = &self.versions[number].by else { return Ok(()) };
        let announced = self.announced(applied);
        let mut held = reference_merge::held(self.set(applied.base));
        for carried in &announced.intent.carried {
            let id = carried.operation;
            let failed = matches!(self.checks.ended.get(&id), Some(State::Failed { .. }));
            let excused = applied.is_late() || applied.stale || self.checks.may_have_taken_effect(id);
            if !failed || excused || carried.difference.is_empty() {
                reference_merge::apply(&mut held, &self.checks.accepted[&id].change);
            }
        }
        let set = self.set(number);
        must!(
            reference_merge::set(&held) == *set,
            "version {number} of {} is not the fold of what succeeded: {set:?}, not {held:?}",
            self.lane
        )?;
        let replaced = self.known_to_have_replaced(number, applied);
        must!(replaced.is_none(), "version {number} of {} undoes {replaced:?}: {applied:?}", self.lane)?;
        for unseen in applied.base + 1..number {
            self.may_overwrite(applied, unseen, world).map_err(|why| format!("version {number}: {why}"))?;
        }
        self.named(number, applied)
    }

    /// Allows the documented races, and no others.
    fn may_overwrite(&self, applied: &AppliedWrite, unseen: usize, world: &World) -> Verdict {
        match &self.versions[unseen].by {
            By::Administrator => world.count("edits overwritten"),
            By::Write(_) if applied.is_late() => world.count("writes overwritten by late ones"),
            By::Write(other) if other.is_late() => world.count("late writes overwritten"),
            By::Start | By::Write(_) if applied.stale => world.count("writes overwritten after a stale read"),
            By::Start | By::Write(_) => {
                return Err(format!("it overwrites version {unseen} of {} unseen: {applied:?}", self.lane));
            }
        }
        Ok(())
    }

    /// The write, if any, because of which the read that another was built on must not have been believed: operations had
    /// ended by it before that read began, and not long before the answer it had replaced just the set that was read.
    fn known_to_have_replaced(&self, number: usize, applied: &AppliedWrite) -> Option<&'a AppliedWrite> {
        if !applied.stale || applied.is_late() {
            return None;
        }
        let found = self.set(applied.base).digest();
        let (asked, answered) = applied.read;
        let replaced = |other: &AppliedWrite| {
            let written = self.trail.written.get(&other.client_request_id);
            written.is_some_and(|known_by| known_by.iter().any(|it| it != "undecided"))
                && self.announced(other).intent.before == found
                && self.checks.settled_at.get(&other.client_request_id).is_some_and(|at| *at <= asked)
                && answered < other.at + NOT_BELIEVED
        };
        let mut unseen = self.applied().filter(|(unseen, _)| (applied.base + 1..number).contains(unseen));
        let (at, known) = unseen.find(|(_, other)| replaced(other))?;
        // Unless somebody has restored that set since.
        let restored = self.versions[at + 1..number].iter().any(|version| version.set.digest() == found);
        (!restored).then_some(known)
    }

    /// A write that took effect must be in the trail, unless it looked unsent to every later read.
    fn named(&self, number: usize, applied: &AppliedWrite) -> Verdict {
        let named = self.trail.written.contains_key(&applied.client_request_id);
        let carried = &self.announced(applied).intent.carried;
        let told = carried.iter().any(|it| self.checks.may_have_taken_effect(it.operation));
        let looked_unsent = || self.versions[number + 1..].iter().any(|later| later.set == *self.set(applied.base));
        must!(
            named || told || applied.is_late() || looked_unsent() || self.was_hidden(applied),
            "version {number} of {} stands in no record: {applied:?}",
            self.lane
        )
    }

    /// Whether Graph returned an older version after this write and something was built on that: the write then looked
    /// unsent, and a later announcement, which may never have been sent, replaced its own.
    fn was_hidden(&self, applied: &AppliedWrite) -> bool {
        let from = self.announced(applied).lasts.0;
        let later = |it: &&Announced| it.lane == *self.lane && it.lasts.0 > from && it.built_on == Some(Source::Stale);
        self.checks.announced.values().any(|it| later(&it))
    }

    fn operation(&self, id: OperationId, asked: &AcceptedOperation, world: &World) -> Verdict {
        let count = |of: &BTreeMap<OperationId, usize>| of.get(&id).copied().unwrap_or_default();
        let told = (count(&self.trail.accepted), count(&self.trail.settled), count(&self.trail.cancelled));
        let cancelled = matches!(self.checks.ended.get(&id), Some(State::Cancelled { .. }));
        let due = if cancelled { (1, 0, 1) } else { (1, 1, 0) };
        must!(told == due, "{id} is accepted, settled and cancelled {told:?} times in the trail, not {due:?}")?;
        self.once(id)?;
        let writes: Vec<_> = self.applied().filter(|(_, applied)| self.changes(applied, id)).collect();
        match self.checks.ended.get(&id) {
            Some(State::Succeeded(success)) => {
                world.count("succeeded");
                let Some(write) = &success.write else { return self.unnoticed(id, success, &writes) };
                let did = writes.iter().any(|(_, applied)| applied.client_request_id == write.client_request_id);
                let undecided =
                    self.trail.written.get(&write.client_request_id).is_some_and(|it| it.contains("undecided"));
                let seen = self.versions.iter().any(|version| version.set.digest() == success.after);
                must!(did || undecided || seen, "{id} is put down to a write that never was: {success:?}")
            }
            Some(State::Failed { failure, .. }) => {
                world.count("failed");
                let told = failure.code == FailureCode::GraphRefused;
                // If one batch both adds and replaces it, it never reaches Graph, and a reversal may put it back.
                let put_back = |reversal: &Reversal| reversal.put_back().iter().any(|it| it.target == poison());
                let culprit = asked.change.wanted().iter().any(|wanted| wanted.target == poison())
                    || asked.change.reversal().is_some_and(put_back);
                must!(!told || culprit, "{id} fails for another's fault: {failure:?}")?;
                let excused = self.checks.may_have_taken_effect(id);
                let effect =
                    writes.iter().find(|(_, applied)| !applied.is_late() && !self.was_hidden(applied) && !excused);
                must!(effect.is_none(), "{id} failed and took effect: {effect:?}")
            }
            Some(State::Cancelled { .. }) => {
                let carried = |it: &Announced| it.intent.carried.iter().any(|it| it.operation == id);
                let carried = self.checks.announced.values().find(|it| carried(it));
                must!(carried.is_none(), "{id} is cancelled and carried: {carried:?}")
            }
            other @ (None | Some(State::AwaitingApproval | State::Queued | State::Running { .. })) => {
                Err(format!("{id} has not ended: {other:?}"))
            }
        }
    }

    /// If an operation ends as if none of its writes took effect, the set that it ended on must show no trace of one.
    fn unnoticed(&self, id: OperationId, success: &Success, writes: &[(usize, &AppliedWrite)]) -> Verdict {
        for (number, applied) in writes {
            let (own, others): (Vec<_>, Vec<_>) =
                self.announced(applied).intent.carried.iter().partition(|it| it.operation == id);
            // What several changes did in one write belongs to all of them.
            let shared = others.iter().flat_map(|it| it.difference.targets()).collect();
            let shown = |version: &&Version| {
                let still = own.iter().any(|it| !it.difference.without(&shared).still_in(&version.set).is_empty());
                version.set.digest() == success.before && still
            };
            let seen = self.versions[*number..].iter().find(shown);
            let race = applied.is_late() || applied.stale || self.was_hidden(applied);
            must!(race || seen.is_none(), "{id} ends as if it had not been written: {applied:?}, {seen:?}")?;
        }
        Ok(())
    }

    /// An operation with an `until` must have been undone by then, by anyone, or have left nothing to undo.
    fn has_ended(&self, id: OperationId, world: &World) -> Verdict {
        let Some(until) = self.checks.untils.get(&id) else { return Ok(()) };
        match until {
            UntilState::Reverted(_) => world.count("ends carried out"),
            UntilState::Moot => world.count("ends moot"),
            UntilState::Ahead | UntilState::CalledOff => return Err(format!("the end of {id} is {until:?}")),
        }
        let mut did = self.touched(id);
        // Where it came on top of another change that somebody has asked to revert, or whose end has come, nothing of that is
        // restored, even if that reversal has failed.
        let others =
            self.checks.accepted.keys().filter(|other| **other != id && self.reversals(**other).next().is_some());
        let overlap: BTreeSet<_> = others.flat_map(|other| self.touched(*other)).collect();
        let undone = self.undone(id);
        did.retain(|target| !undone.contains(target) && !overlap.contains(target));
        must!(did.is_empty() || *until != UntilState::Moot, "{id} outlasts its end, and nothing has undone {did:?}")
    }

    /// The targets of what an operation has changed.
    fn touched(&self, id: OperationId) -> BTreeSet<&Target> {
        match self.checks.ended.get(&id) {
            Some(State::Succeeded(success)) => success.difference.targets().collect(),
            _ => BTreeSet::new(),
        }
    }

    /// The targets of what reversals of an operation have changed.
    fn undone(&self, id: OperationId) -> BTreeSet<&Target> {
        self.reversals(id).flat_map(|by| self.touched(by)).collect()
    }

    /// The reversals of an operation.
    fn reversals(&self, id: OperationId) -> impl Iterator<Item = OperationId> {
        let of = move |asked: &AcceptedOperation| asked.change.reversal().map(Reversal::operation) == Some(id);
        self.checks.accepted.iter().filter(move |(_, asked)| of(asked)).map(|(by, _)| *by)
    }

    fn changes(&self, applied: &AppliedWrite, id: OperationId) -> bool {
        let carried = &self.announced(applied).intent.carried;
        carried.iter().any(|it| it.operation == id && !it.difference.is_empty())
    }

    /// An operation's effect is written twice only if the first write was not visible.
    fn once(&self, id: OperationId) -> Verdict {
        let writes: Vec<_> = self.applied().filter(|(_, applied)| self.changes(applied, id)).collect();
        for pair in writes.windows(2) {
            let [(first, one), (_, two)] = pair else { continue };
            let race = one.is_late() || two.is_late() || self.was_hidden(one);
            // An exact match, so the write looked unsent to whoever read it then.
            let between = self.versions.get(*first..=two.base).unwrap_or_default();
            let undone = between.iter().any(|it| it.set.digest() == self.announced(one).intent.before);
            let told = self.trail.written.get(&one.client_request_id).is_some_and(|it| it.contains("undecided"));
            must!(race || undone || told, "{id} is written twice: {one:?}, {two:?}")?;
        }
        Ok(())
    }
}
