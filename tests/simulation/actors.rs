//! Callers, the administrator in the portal, and replica failures.

use std::{sync::Arc, time::Duration};

use postern::{
    clock,
    domain::{
        Caller, Digest, Filter, FilterMode, Operation, OperationId, State, Target, assignment::UninterpretedJson,
    },
    gateway::{
        Error, KeyedRequest, Submitted,
        request::{ChangeRequest, NamedFilter, NamedTarget, RequestedChange, RevertRequest, TargetRef},
    },
};
use uuid::Uuid;

use crate::{
    chance::Chance,
    reference_merge,
    tenant::{By, Tenant, Version, group},
    world::{RunningReplica, World},
};

/// Attempts before a caller gives up.
const TRIES_MAX: usize = 400;

fn filter(chance: &mut Chance) -> Option<Filter> {
    let mode = chance.pick(&[FilterMode::Include, FilterMode::Exclude]);
    let id = Uuid::from_u128(u128::from(chance.between(1, 2))).to_string().parse().unwrap();
    chance.hits(300).then_some(Filter { id, mode })
}

fn target(chance: &mut Chance) -> Target {
    match chance.below(12) {
        0 => Target::AllDevices,
        1 => Target::AllUsers,
        number => group(u128::try_from(number).unwrap()),
    }
}

fn unread(chance: &mut Chance) -> Option<UninterpretedJson> {
    chance.hits(400).then(|| UninterpretedJson::new(format!("{{\"hint\":\"{}\"}}", chance.below(100))))
}

/// The tenant's initial set.
pub(crate) fn first_set(chance: &mut Chance) -> reference_merge::Held {
    let mut held = reference_merge::Held::new();
    for _ in 0..chance.below(7) {
        held.insert(target(chance), (filter(chance), unread(chance)));
    }
    held
}

/// Edits in the portal, some of which exactly undo the latest version.
pub(crate) async fn administrate(world: Arc<World>, tenant: Arc<Tenant>) {
    for _ in 0..world.parameters.edits {
        let pause = world.parameters.span / u32::try_from(world.parameters.edits).unwrap();
        let pause = pause.mul_f64(f64::from(u32::try_from(world.chance().below(2_000)).unwrap()) / 1_000.0);
        world.clock.sleep(pause).await;
        let lane = world.chance().pick(&world.lanes);
        let mut held = reference_merge::held(&tenant.newest(&lane));
        {
            let mut chance = world.chance();
            match chance.below(10) {
                0..=3 => {
                    held.insert(target(&mut chance), (filter(&mut chance), unread(&mut chance)));
                }
                4..=6 => {
                    let gone = held.keys().nth(chance.below(held.len().max(1))).cloned();
                    held.retain(|target, _| Some(target) != gone.as_ref());
                }
                7 => held.values_mut().for_each(|(filter, _)| *filter = None),
                8 => {
                    let sets = tenant.sets.lock().unwrap();
                    let before = sets[&lane].iter().rev().nth(1);
                    held = before.map_or(held, |version| reference_merge::held(&version.set));
                }
                _ if chance.hits(200) => held.clear(),
                _ => {}
            }
        }
        world.count("edits");
        tenant.put(&lane, Version { set: reference_merge::set(&held), by: By::Administrator });
    }
}

/// Kills and freezes replicas at arbitrary times.
pub(crate) async fn crash_replicas(world: Arc<World>) {
    let mut plugs: Vec<(Duration, bool)> = Vec::new();
    {
        let mut chance = world.chance();
        let span = u64::try_from(world.parameters.span.as_millis()).unwrap();
        plugs.extend((0..world.parameters.kills).map(|_| (chance.millis(0, span), true)));
        plugs.extend((0..world.parameters.freezes).map(|_| (chance.millis(0, span), false)));
    }
    plugs.sort_unstable();
    for (at, kills) in plugs {
        world.clock.sleep(at.saturating_sub(world.now())).await;
        match world.any_replica() {
            Some(replica) if kills => replica.life.kill(&world),
            Some(replica) => replica.life.freeze(&world),
            None => {}
        }
    }
}

/// One change that a caller wants, under its own key.
pub(crate) struct Wanted {
    pub(crate) number: usize,
    pub(crate) world: Arc<World>,
    pub(crate) tenant: Arc<Tenant>,
}

/// A caller's request.
#[derive(Debug)]
enum Ask {
    Change(Box<ChangeRequest>),
    Undo(OperationId),
}

/// Why a caller has no operation.
enum Unanswered {
    /// Retryable.
    Again(String),
    /// There is nothing left to undo.
    Nothing,
    /// A fault in the gateway.
    Wrong(String),
}

impl Wanted {
    /// Submits until accepted, sometimes once more, and waits for the end.
    pub(crate) async fn pursue(self) {
        let world = &self.world;
        let start = world.chance().millis(0, u64::try_from(world.parameters.span.as_millis()).unwrap());
        world.clock.sleep(start).await;
        let request = Ask::Change(Box::new(self.request()));
        let caller = Caller {
            name: format!("caller-{}", self.number % 3),
            issuer: "sandbox".to_owned(),
            subject: "s".to_owned(),
            token_id: None,
            certificate: None,
            roles: Vec::new(),
        };
        let first = if world.fails("asked twice at once", |faults| faults.hang_up) {
            let (one, two) = tokio::join!(self.insist(&caller, &request), self.insist(&caller, &request));
            self.same(one.as_ref(), two.as_ref());
            one
        } else {
            self.insist(&caller, &request).await
        };
        let Some(first) = first else { return };
        if world.chance().hits(300) {
            world.pause(0, 60_000).await;
            let again = self.insist(&caller, &request).await;
            self.same(Some(&first), again.as_ref());
        }
        if world.fails("cancellations", |faults| faults.cancel) {
            self.cancel(&caller, &first).await;
        }
        let id = first.id;
        self.wait(first).await;
        if world.chance().hits(150) {
            world.pause(0, 60_000).await;
            self.undo(&caller, id).await;
        }
    }

    /// Reverts the operation, whatever others have changed since.
    async fn undo(&self, caller: &Caller, id: OperationId) {
        let changed = matches!(
            self.world.checks.lock().unwrap().ended.get(&id),
            Some(State::Succeeded(success)) if !success.difference.is_empty()
        );
        if changed && let Some(undoing) = self.insist(caller, &Ask::Undo(id)).await {
            self.world.count("reversals");
            self.wait(undoing).await;
        }
    }

    /// Cancels the change, if it is not too late and a replica responds.
    async fn cancel(&self, caller: &Caller, operation: &Operation) {
        let world = &self.world;
        let Some(replica) = world.any_replica() else { return };
        let answered = tokio::select! {
            biased;
            () = replica.life.dead.cancelled() => return,
            answered = replica.gateway.cancel(caller, operation.id) => answered,
        };
        match answered {
            Ok(cancelled) => {
                world.count("cancelled");
                self.known(&cancelled);
            }
            Err(Error::TooLate(_) | Error::Store(_)) => {}
            Err(other) => world.judge(Err(format!("{} cannot be cancelled: {other:?}", operation.id))),
        }
    }

    fn same(&self, one: Option<&Operation>, two: Option<&Operation>) {
        let same = one.map(|it| it.id) == two.map(|it| it.id);
        let wrong = || format!("key {} stands for a second operation", self.number);
        self.world.judge(if same { Ok(()) } else { Err(wrong()) });
    }

    fn request(&self) -> ChangeRequest {
        let mut chance = self.world.chance();
        let mut named = |filtered: bool| {
            let target = match target(&mut chance) {
                Target::AllDevices => TargetRef::AllDevices,
                Target::AllUsers => TargetRef::AllUsers,
                Target::Group(id) => TargetRef::Group(id.to_string()),
                other @ (Target::ExcludedGroup(_) | Target::Foreign(_)) => panic!("{other} is nothing to ask for"),
            };
            let filter = filter(&mut chance).filter(|_| filtered);
            let filter = filter.map(|it| NamedFilter { reference: it.id.to_string(), mode: it.mode });
            NamedTarget { target, filter }
        };
        let mut wanted: Vec<NamedTarget> = Vec::new();
        for filtered in [true, true, false, false] {
            let one = named(filtered);
            if wanted.iter().all(|other| other.target != one.target) {
                wanted.push(one);
            }
        }
        let mut remove = wanted.split_off(2.min(wanted.len()));
        for named in &mut remove {
            named.filter = None;
        }
        wanted.truncate(chance.below(3));
        remove.truncate(chance.below(2) + usize::from(wanted.is_empty()));
        let fallback = || vec![NamedTarget { target: TargetRef::AllUsers, filter: None }];
        let requested = match chance.below(12) {
            0 => RequestedChange::Replace(if wanted.is_empty() { fallback() } else { wanted }),
            _ if wanted.is_empty() && remove.is_empty() => RequestedChange::Amend { add: fallback(), remove },
            _ => RequestedChange::Amend { add: wanted, remove },
        };
        let configuration = chance.pick(&self.world.lanes).to_string();
        drop(chance);
        let is_poisoned = self.world.fails("poisoned changes", |faults| faults.poison);
        let requested = if is_poisoned { poisoned(requested) } else { requested };
        let only_on = self.seen(&configuration);
        let until = self.end();
        ChangeRequest {
            configuration,
            change: requested,
            ticket: None,
            requested_for: None,
            comment: None,
            only_on,
            until,
            callback: None,
        }
    }

    /// The change's `until`, if any: in the future by every replica's clock, however wrong.
    fn end(&self) -> Option<jiff::Timestamp> {
        let world = &self.world;
        let mut chance = world.chance();
        if !chance.hits(world.parameters.ends) {
            return None;
        }
        let ahead = chance.millis(1_300_000, 1_600_000);
        drop(chance);
        world.count("ends set");
        Some(clock::after(world.clock.now(), ahead))
    }

    /// The set for `If-Match`, if the caller sends one: usually the newest.
    fn seen(&self, configuration: &str) -> Option<Digest> {
        let mut chance = self.world.chance();
        if !chance.hits(200) {
            return None;
        }
        let sets = self.tenant.sets.lock().unwrap();
        let versions = &sets[&configuration.parse().unwrap()];
        let back = if chance.hits(800) { 0 } else { chance.below(versions.len()) };
        drop(chance);
        self.world.count("conditions");
        versions.iter().rev().nth(back).map(|version| version.set.digest())
    }

    /// Retries the request under its key until it is answered.
    async fn insist(&self, caller: &Caller, request: &Ask) -> Option<Operation> {
        let world = &self.world;
        for _ in 0..TRIES_MAX {
            if let Some(replica) = world.any_replica() {
                match self.ask(&replica, caller, request).await {
                    Ok(Submitted { operation, replayed }) => {
                        let told = if replayed { "again" } else { "first" };
                        world.log(format_args!("key {}: is {}, {told}", self.number, operation.id));
                        self.known(&operation);
                        return Some(operation);
                    }
                    Err(Unanswered::Again(why)) => world.log(format_args!("key {}: {why}", self.number)),
                    Err(Unanswered::Nothing) => {
                        world.count("nothing left to revert");
                        return None;
                    }
                    Err(Unanswered::Wrong(why)) => {
                        world.judge(Err(format!("key {}: {why}", self.number)));
                        return None;
                    }
                }
            }
            world.pause(100, 10_000).await;
        }
        world.judge(Err(format!("nobody answers to key {}", self.number)));
        None
    }

    async fn ask(&self, replica: &RunningReplica, caller: &Caller, request: &Ask) -> Result<Submitted, Unanswered> {
        let fingerprint = Digest::of(format!("{request:?}").as_bytes());
        let key = match request {
            Ask::Change(_) => format!("key-{}", self.number),
            Ask::Undo(_) => format!("undo-{}", self.number),
        };
        let attempt = Some(KeyedRequest { key, fingerprint });
        let asked = async {
            match request {
                Ask::Change(request) => replica.gateway.submit(caller, (**request).clone(), attempt).await,
                Ask::Undo(id) => replica.gateway.revert(caller, *id, RevertRequest::default(), attempt).await,
            }
        };
        let patience = if self.world.fails("callers that hang up", |faults| faults.hang_up) { 300 } else { 120_000 };
        let answered = tokio::select! {
            biased;
            () = replica.life.dead.cancelled() => return Err(Unanswered::Again("the connection is lost".to_owned())),
            answered = asked => answered,
            () = self.world.pause(patience, patience) => return Err(Unanswered::Again("hangs up".to_owned())),
        };
        answered.map_err(|error| {
            let later = matches!(
                error,
                Error::Store(_)
                    | Error::Full
                    | Error::TooManyPending(_)
                    | Error::GraphUnavailable { .. }
                    | Error::GraphNotAuthorised(_)
            );
            let why = format!("{error:?}");
            match (request, error) {
                _ if later => Unanswered::Again(why),
                // Only what changed something is to be undone, so all that it found has been reverted since.
                (Ask::Undo(_), Error::NothingToRevert(_)) => Unanswered::Nothing,
                _ => Unanswered::Wrong(why),
            }
        })
    }

    /// The returned operation must be known to the online checks, and an ended one must stay as it ended.
    fn known(&self, operation: &Operation) {
        let checks = self.world.checks.lock().unwrap();
        let known = checks.accepted.contains_key(&operation.id);
        let ended = checks.ended.get(&operation.id);
        let same = !operation.state.has_ended() || ended == Some(&operation.state);
        drop(checks);
        let wrong = || format!("{operation:?} is answered, and not what is kept");
        self.world.judge(if known && same { Ok(()) } else { Err(wrong()) });
    }

    async fn wait(&self, operation: Operation) {
        let world = &self.world;
        let id: OperationId = operation.id;
        let mut latest = operation;
        for _ in 0..TRIES_MAX {
            if latest.state.has_ended() {
                self.known(&latest);
                return;
            }
            if let Some(replica) = world.any_replica() {
                tokio::select! {
                    biased;
                    () = replica.life.dead.cancelled() => {}
                    standing = replica.gateway.wait(latest.clone(), Duration::from_mins(1)) => latest = standing.operation,
                }
            }
            world.pause(10, 2_000).await;
        }
        world.judge(Err(format!("{id} does not end: {latest:?}")));
    }
}

/// The same change plus a group that Graph refuses.
fn poisoned(change: RequestedChange) -> RequestedChange {
    let poison = NamedTarget { target: TargetRef::Group(Uuid::from_u128(666).to_string()), filter: None };
    match change {
        RequestedChange::Amend { mut add, remove } => {
            add.push(poison);
            RequestedChange::Amend { add, remove }
        }
        RequestedChange::Replace(mut wanted) => {
            wanted.push(poison);
            RequestedChange::Replace(wanted)
        }
    }
}
