//! The model store: the store's verbs in memory, short enough to be checked by reading.
//!
//! Any number of stores share one [`Database`], as replicas share a PostgreSQL: leases and pauses end by its time
//! alone, a restart voids no lease, and every store is notified of every commit. Each verb is one atomic step. It
//! passes the same suite as the real stores (`tests/store`), so what is tested against it is tested against their
//! contract.
//!
//! It deliberately never fails and takes no time; the simulation adds both.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use postern::{
    audit::{Entry, Event, Head, IndexFields},
    clock::{self, Clock},
    domain::{
        CallbackState, ConfigurationId, Digest, Operation, OperationId, State, callback::Progress,
        operation::UntilState,
    },
    store::{
        Acceptance, Accepted, ApprovalOutcome, ApprovalReply, AuditQuery, Backlog, Cancellation, Cancelled, Claim,
        Claimed, DueQuery, Error, FollowUps, IdempotencyKey, Lease, LimitReached, Notices, Parked, Parking,
        PendingLimits, PolicySetsSeen, Purge, Query, ReplacedSet, Run, Settlement, SinkClaim, Store, StoredRecord,
        Turn, UnsettledWrites, UntilSettlement,
        callbacks::{self, Destinations, Next},
    },
};

/// The state shared by all stores on it.
#[derive(Debug)]
pub(crate) struct Database {
    clock: Clock,
    /// Time that a test adds to the clock's.
    pub(crate) passed: Mutex<Duration>,
    /// Number of claims so far.
    pub(crate) claims: AtomicUsize,
    tables: Mutex<Tables>,
}

#[derive(Debug, Default)]
struct Tables {
    /// In order of acceptance.
    operations: Vec<Operation>,
    keys: BTreeMap<(String, String), Key>,
    /// State of each operation's `until`, if it has one.
    untils: BTreeMap<OperationId, UntilState>,
    /// Callbacks, by operation.
    callbacks: BTreeMap<OperationId, Outgoing>,
    lanes: BTreeMap<ConfigurationId, Lane>,
    trail: Vec<String>,
    ends: BTreeMap<String, Head>,
    /// Chains with records written since an opening last recorded their heads.
    unnamed: BTreeSet<String>,
    policy_sets: BTreeMap<ConfigurationId, Vec<String>>,
    deliveries: BTreeMap<String, Delivery>,
    boards: Vec<Weak<Notices>>,
}

/// How far the trail was delivered to a sink, and who holds the delivery until when.
#[derive(Debug, Default)]
struct Delivery {
    position: i64,
    owner: Option<String>,
    leased_until: Duration,
}

#[derive(Debug)]
struct Key {
    fingerprint: Digest,
    operation: OperationId,
    expires_at: Timestamp,
}

#[derive(Debug)]
struct Outgoing {
    state: CallbackState,
    attempts: i64,
    under_way: bool,
    /// By the database's time: when the next attempt is due, or while one is in flight, when its claim expires.
    due: Duration,
    progress: Progress,
}

#[derive(Debug, Default)]
struct Lane {
    owner: Option<String>,
    fencing: i64,
    /// By the database's time.
    leased_until: Option<Duration>,
    parked_until: Option<Duration>,
    parked_because: Option<String>,
    announced: UnsettledWrites,
    left: Option<Digest>,
    /// Each until a time, by the database's.
    replaced_sets: Vec<(Digest, Duration)>,
    attempts: u32,
}

impl Lane {
    fn is_free(&self, now: Duration) -> bool {
        let busy = |until: Option<Duration>| until.is_some_and(|until| until > now);
        !busy(self.leased_until) && !busy(self.parked_until)
    }
}

/// One replica's store on the database.
#[derive(Debug)]
pub(crate) struct Model {
    database: Arc<Database>,
    notices: Arc<Notices>,
    clock: Clock,
    chain: String,
}

impl Database {
    /// An empty database that reads the time from this clock.
    pub(crate) fn new(clock: Clock) -> Arc<Self> {
        Arc::new(Self { clock, passed: Mutex::default(), claims: AtomicUsize::default(), tables: Mutex::default() })
    }

    /// Starts a run.
    pub(crate) fn open(self: &Arc<Self>, run: Run) -> Model {
        let Run { chain, clock } = run;
        let notices = Arc::new(Notices::default());
        let mut tables = self.lock();
        tables.begin_run(&chain, clock.now());
        tables.boards.retain(|board| board.strong_count() > 0);
        tables.boards.push(Arc::downgrade(&notices));
        drop(tables);
        Model { database: Arc::clone(self), notices, clock, chain }
    }

    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap()
    }

    fn now(&self) -> Duration {
        self.clock.elapsed() + *self.passed.lock().unwrap()
    }
}

impl Tables {
    /// Opens a chain: records the heads of all chains that have grown since the last opening, the newest record's first.
    fn begin_run(&mut self, chain: &str, at: Timestamp) {
        let newest = self.trail.last().and_then(|text| Head::after(text)).map(|head| head.chain);
        let others = self.unnamed.iter().filter(|name| Some(*name) != newest.as_ref());
        let ends: Vec<_> = newest.iter().chain(others).map(|name| self.ends[name].clone()).collect();
        let (head, event) = Head::open(chain.to_owned(), &ends, "model");
        self.unnamed.clear();
        self.ends.insert(chain.to_owned(), head);
        self.record(chain, [&Entry { at, trace_id: None, event }]);
    }

    fn record<'a>(&mut self, chain: &str, entries: impl IntoIterator<Item = &'a Entry>) {
        let head = self.ends.get_mut(chain).unwrap();
        for entry in entries {
            self.trail.push(head.append(entry).text);
            self.unnamed.insert(chain.to_owned());
        }
    }

    fn tell(&self, tell: impl Fn(&Notices)) {
        self.boards.iter().filter_map(Weak::upgrade).for_each(|board| tell(&board));
    }

    fn operation(&self, id: OperationId) -> Option<&Operation> {
        self.operations.iter().find(|operation| operation.id == id)
    }

    /// Operations that have not ended, including those awaiting approval.
    fn open<'a>(&'a self, lane: &'a ConfigurationId) -> impl Iterator<Item = &'a Operation> {
        let of_lane = self.operations.iter().filter(move |operation| operation.submission.configuration == *lane);
        of_lane.filter(|operation| !operation.state.has_ended())
    }

    /// Operations that a lane may start.
    fn pending<'a>(&'a self, lane: &'a ConfigurationId) -> impl Iterator<Item = &'a Operation> {
        self.open(lane).filter(|operation| operation.state != State::AwaitingApproval)
    }

    /// Whether a record matches the query.
    fn fits(&self, text: &str, query: &AuditQuery) -> bool {
        let AuditQuery { ticket, operation, caller, from, to, .. } = query;
        let marks = IndexFields::read(text).unwrap();
        let under = |ticket: &String| {
            let asked = self.trail.iter().filter_map(|text| IndexFields::read(text));
            asked.filter(|it| it.ticket.as_ref() == Some(ticket)).filter_map(|it| it.operation).collect::<BTreeSet<_>>()
        };
        ticket.as_ref().is_none_or(|it| {
            marks.ticket.as_ref() == Some(it) || marks.operation.as_ref().is_some_and(|its| under(it).contains(its))
        }) && operation.is_none_or(|it| text.contains(&it.to_string()))
            && caller.as_ref().is_none_or(|it| marks.caller.as_ref() == Some(it))
            && from.is_none_or(|it| marks.at >= it)
            && to.is_none_or(|it| marks.at < it)
    }

    /// The bound that one more operation would exceed, if any.
    fn full(&self, new: &Operation, limits: PendingLimits) -> Option<LimitReached> {
        let fills = |open: &[&Operation], bound: usize| {
            let awaiting = open.iter().filter(|operation| operation.state == State::AwaitingApproval).count();
            open.len() >= bound || (new.state == State::AwaitingApproval && awaiting >= bound.div_ceil(2))
        };
        if fills(&self.open(&new.submission.configuration).collect::<Vec<_>>(), limits.per_configuration) {
            return Some(LimitReached::Configuration);
        }
        let all: Vec<_> = self.operations.iter().filter(|operation| !operation.state.has_ended()).collect();
        fills(&all, limits.total).then_some(LimitReached::Total)
    }

    /// Ends running operations of this lane and writes their records; all or nothing.
    fn end(&mut self, lane: &ConfigurationId, ended: &[(OperationId, State)]) -> Result<(), Error> {
        let running: BTreeSet<_> = self.pending(lane).map(|it| (it.id, it.state.name())).collect();
        if ended.iter().any(|(id, _)| !running.contains(&(*id, "running"))) {
            return Err(Error::Unreadable("an operation to end is not running on this lane".to_owned()));
        }
        for operation in &mut self.operations {
            if let Some((_, end)) = ended.iter().find(|(id, _)| *id == operation.id) {
                operation.state = end.clone();
            }
        }
        self.tell(|board| board.notify_ended(ended.iter().map(|(id, _)| *id)));
        Ok(())
    }

    fn recall(&self, caller: &str, key: &IdempotencyKey) -> Option<Accepted> {
        let known = self.keys.get(&(caller.to_owned(), key.key.clone()))?;
        let operation = self.operation(known.operation).filter(|_| known.expires_at > key.used_at)?;
        let same = known.fingerprint == key.fingerprint;
        Some(if same { Accepted::Replayed(Box::new(operation.clone())) } else { Accepted::KeyReused(operation.id) })
    }

    /// Whether a reversal has undone something, or is about to, and no reversal of it stands.
    fn stands(&self, by: &Operation) -> bool {
        let reverts = |it: &Operation| it.submission.change.reversal().is_some_and(|it| it.operation() == by.id);
        matches!(by.state, State::Queued | State::Running { .. } | State::Succeeded(_))
            && !self.operations.iter().any(|it| reverts(it) && self.stands(it))
    }

    /// Operations that took effect before this one and have been reverted since, newest first.
    fn reverted_since(&self, operation: OperationId) -> Vec<Operation> {
        let reverts = |by: &Operation, id| by.submission.change.reversal().is_some_and(|it| it.operation() == id);
        let all: Vec<_> = self.operations.iter().enumerate().collect();
        let effect = |(place, it): (usize, &Operation)| Some((ended_at(&it.state)?, place));
        let original = all.iter().find(|(_, it)| it.id == operation);
        let Some((lane, own)) = original.and_then(|it| Some((&it.1.submission.configuration, effect(*it)?))) else {
            return Vec::new();
        };
        let since = |by: &(usize, &Operation)| self.stands(by.1) && effect(*by).is_none_or(|at| at > own);
        let undoing: Vec<_> = all.iter().copied().filter(since).collect();
        let mut found: Vec<_> = all.iter().filter_map(|it| Some((effect(*it).filter(|at| *at < own)?, it.1))).collect();
        found.retain(|(_, it)| it.submission.configuration == *lane);
        found.retain(|(_, it)| undoing.iter().any(|(_, by)| reverts(by, it.id)));
        found.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
        found.into_iter().map(|(_, it)| it.clone()).collect()
    }

    /// Settles an `until` that is still ahead; returns whether it was.
    fn settle_until(&mut self, operation: OperationId, state: UntilState) -> bool {
        let ahead = self.untils.get_mut(&operation).filter(|state| **state == UntilState::Ahead);
        ahead.map(|ahead| *ahead = state).is_some()
    }

    /// The lane, if this lease is still its newest and has not been released.
    fn held(&mut self, lease: &Lease) -> Result<&mut Lane, Error> {
        let lost = || Error::LeaseLost(lease.configuration().clone());
        let lane = self.lanes.get_mut(lease.configuration()).ok_or_else(lost)?;
        let same = lane.owner.as_deref() == Some(lease.owner()) && lane.fencing == lease.fencing();
        if same { Ok(lane) } else { Err(lost()) }
    }
}

fn ended_at(state: &State) -> Option<Timestamp> {
    match state {
        State::AwaitingApproval | State::Queued | State::Running { .. } => None,
        State::Succeeded(success) => Some(success.ended_at),
        State::Failed { ended_at, .. } | State::Cancelled { ended_at } => Some(*ended_at),
    }
}

#[async_trait]
impl Store for Model {
    async fn accept(&self, acceptance: Acceptance) -> Result<Accepted, Error> {
        let Acceptance { operation, key, entry, limits, carries_out_until_of, reverted_since } = acceptance;
        let mut tables = self.database.lock();
        let caller = operation.submission.caller.clone();
        if let Some(known) = key.as_ref().and_then(|key| tables.recall(&caller, key)) {
            return Ok(known);
        }
        if tables.operation(operation.id).is_some() {
            return Err(Error::Unavailable("this operation is there already".to_owned()));
        }
        if let Some((reversal, known)) = operation.submission.change.reversal().zip(reverted_since)
            && reversal.depends_on(&tables.reverted_since(reversal.operation())) != known
        {
            return Ok(Accepted::Outdated);
        }
        if let Some(full) = tables.full(&operation, limits) {
            return Ok(Accepted::LimitReached(full));
        }
        if carries_out_until_of.is_some_and(|ended| !tables.settle_until(ended, UntilState::Reverted(operation.id))) {
            return Ok(Accepted::EndAlreadySettled);
        }
        if operation.submission.until.is_some() {
            tables.untils.insert(operation.id, UntilState::Ahead);
        }
        if operation.submission.callback.is_some() {
            let (attempts, under_way, due, progress) = Default::default();
            let outgoing = Outgoing { state: CallbackState::Pending, attempts, under_way, due, progress };
            tables.callbacks.insert(operation.id, outgoing);
        }
        if let Some(IdempotencyKey { key, fingerprint, expires_at, .. }) = key {
            tables.keys.insert((caller, key), Key { fingerprint, operation: operation.id, expires_at });
        }
        tables.record(&self.chain, [&entry]);
        let configuration = operation.submission.configuration.clone();
        tables.operations.push(operation);
        tables.tell(|board| board.notify_work(configuration.clone()));
        Ok(Accepted::New)
    }

    async fn find_by_key(&self, caller: &str, key: &IdempotencyKey) -> Result<Option<Accepted>, Error> {
        Ok(self.database.lock().recall(caller, key))
    }

    async fn cancel(&self, cancellation: Cancellation) -> Result<Cancelled, Error> {
        let Cancellation { operation: id, at, entry } = cancellation;
        let mut tables = self.database.lock();
        let Some(operation) = tables.operations.iter_mut().find(|operation| operation.id == id) else {
            return Ok(Cancelled::Unknown);
        };
        let Ok(cancelled) = operation.state.clone().cancel(at) else {
            return Ok(Cancelled::TooLate(Box::new(operation.clone())));
        };
        operation.state = cancelled;
        let operation = operation.clone();
        tables.record(&self.chain, [&entry]);
        tables.tell(|board| board.notify_ended([id]));
        Ok(Cancelled::Done(Box::new(operation)))
    }

    async fn settle_without_reversal(&self, settlement: UntilSettlement) -> Result<bool, Error> {
        let UntilSettlement { operation, state, entry } = settlement;
        let mut tables = self.database.lock();
        let was_ahead = tables.settle_until(operation, state);
        if was_ahead {
            tables.record(&self.chain, entry.iter());
        }
        Ok(was_ahead)
    }

    async fn due_untils(&self, due: DueQuery) -> Result<Vec<Operation>, Error> {
        let tables = self.database.lock();
        let ahead = |it: &&Operation| tables.untils.get(&it.id) == Some(&UntilState::Ahead);
        let place = |it: &Operation| (it.submission.until.as_ref().unwrap().at, it.id);
        let mut found: Vec<_> = tables.operations.iter().filter(ahead).cloned().collect();
        found.retain(|it| place(it).0 <= due.by && due.after.is_none_or(|after| place(it) > after));
        found.sort_by_key(place);
        found.truncate(due.limit);
        Ok(found)
    }

    async fn claim_callbacks(&self, claim: callbacks::Claim) -> Result<Vec<callbacks::Attempt>, Error> {
        let mut tables = self.database.lock();
        let now = self.database.now();
        let Tables { operations, callbacks, .. } = &mut *tables;
        let wanted = |name: &String| match &claim.destinations {
            Destinations::Named(wanted) => name == wanted,
            Destinations::Except(others) => !others.contains(name),
        };
        let fits = |operation: &&Operation| {
            let destination = operation.submission.callback.as_ref().map(|callback| &callback.destination);
            let outgoing = callbacks.get(&operation.id);
            let due = outgoing.is_some_and(|it| it.state == CallbackState::Pending && it.due <= now);
            operation.state.has_ended() && destination.is_some_and(wanted) && due
        };
        let mut due: Vec<_> = operations.iter().filter(fits).cloned().collect();
        due.sort_by_key(|operation| callbacks[&operation.id].due);
        due.truncate(claim.limit);
        let attempt = |operation: Operation| {
            let outgoing = callbacks.get_mut(&operation.id).unwrap();
            (outgoing.under_way, outgoing.due) = (true, now + claim.ttl);
            outgoing.attempts += 1;
            callbacks::Attempt { operation, number: outgoing.attempts, progress: outgoing.progress.clone() }
        };
        Ok(due.into_iter().map(attempt).collect())
    }

    async fn record_attempt(&self, result: callbacks::AttemptResult) -> Result<bool, Error> {
        let mut tables = self.database.lock();
        let now = self.database.now();
        let callbacks::AttemptResult { operation, number, progress, next, entry } = result;
        let outgoing = tables.callbacks.get_mut(&operation).filter(|it| it.under_way && it.attempts == number);
        let Some(outgoing) = outgoing else { return Ok(false) };
        (outgoing.under_way, outgoing.progress) = (false, progress);
        match next {
            Next::Delivered => outgoing.state = CallbackState::Delivered,
            Next::Parked => outgoing.state = CallbackState::Parked,
            Next::Again(pause) => outgoing.due = now + pause,
        }
        tables.record(&self.chain, entry.iter());
        Ok(true)
    }

    async fn resend_callback(&self, resending: callbacks::Resending) -> Result<bool, Error> {
        let mut tables = self.database.lock();
        let outgoing = tables.callbacks.get_mut(&resending.operation);
        let Some(outgoing) = outgoing.filter(|it| it.state != CallbackState::Pending) else { return Ok(false) };
        (outgoing.state, outgoing.due) = (CallbackState::Pending, Duration::ZERO);
        outgoing.progress = resending.progress();
        tables.record(&self.chain, [&resending.entry]);
        tables.tell(Notices::notify_callbacks_due);
        Ok(true)
    }

    async fn follow_ups(&self, id: OperationId) -> Result<FollowUps, Error> {
        let tables = self.database.lock();
        let reverts = |it: &&Operation| it.submission.change.reversal().is_some_and(|it| it.operation() == id);
        let reversals = tables.operations.iter().rev().filter(reverts).take(20).cloned().collect();
        let now = self.database.now();
        let callback = tables.callbacks.get(&id).map(|it| {
            let has_next = it.state == CallbackState::Pending && !it.under_way && it.progress.failures > 0;
            let next = clock::after(self.clock.now(), it.due.saturating_sub(now));
            let (attempts, progress) = (it.attempts, it.progress.clone());
            callbacks::Status { state: it.state, attempts, progress, next_attempt_at: has_next.then_some(next) }
        });
        Ok(FollowUps { callback, until: tables.untils.get(&id).copied(), reversals })
    }

    async fn reverted_since(&self, operation: &Operation) -> Result<Vec<Operation>, Error> {
        Ok(self.database.lock().reverted_since(operation.id))
    }

    async fn answer_approval(&self, reply: ApprovalReply) -> Result<ApprovalOutcome, Error> {
        let ApprovalReply { operation: id, answer, entry } = reply;
        let mut tables = self.database.lock();
        let Some(operation) = tables.operations.iter_mut().find(|operation| operation.id == id) else {
            return Ok(ApprovalOutcome::Unknown);
        };
        let Ok(answered) = operation.clone().answer(answer) else {
            return Ok(ApprovalOutcome::TooLate(Box::new(operation.clone())));
        };
        *operation = answered.clone();
        tables.record(&self.chain, [&entry]);
        tables.tell(|board| {
            if answered.state.has_ended() {
                board.notify_ended([id]);
            } else {
                board.notify_work(answered.submission.configuration.clone());
            }
        });
        Ok(ApprovalOutcome::Done(Box::new(answered)))
    }

    async fn policy_sets_seen(&self, configuration: &ConfigurationId) -> Result<Vec<String>, Error> {
        Ok(self.database.lock().policy_sets.get(configuration).cloned().unwrap_or_default())
    }

    async fn note_policy_sets(&self, seen: PolicySetsSeen) -> Result<(), Error> {
        let mut tables = self.database.lock();
        tables.policy_sets.insert(seen.configuration, seen.assignments);
        tables.record(&self.chain, seen.loss.iter());
        Ok(())
    }

    async fn expired_approvals(&self, at: Timestamp, limit: usize) -> Result<Vec<Operation>, Error> {
        let tables = self.database.lock();
        let awaiting = tables.operations.iter().filter(|operation| operation.state == State::AwaitingApproval);
        let late = awaiting.filter(|it| it.submission.approval.as_ref().is_some_and(|it| it.expires_at <= at));
        Ok(late.take(limit).cloned().collect())
    }

    async fn append_records(&self, entries: Vec<Entry>) -> Result<(), Error> {
        self.database.lock().record(&self.chain, &entries);
        Ok(())
    }

    async fn operation(&self, id: OperationId) -> Result<Option<Operation>, Error> {
        Ok(self.database.lock().operation(id).cloned())
    }

    async fn operations(&self, query: &Query) -> Result<Vec<Operation>, Error> {
        let Query { ticket, configuration, caller, state, after, limit } = query;
        let tables = self.database.lock();
        let all = || tables.operations.iter().enumerate();
        let place = |id: OperationId| {
            let found = all().find(|(_, operation)| operation.id == id).map(|(place, _)| place);
            let next_older =
                || all().filter(|(_, it)| it.id < id).max_by_key(|(_, it)| it.id).map(|(place, _)| place + 1);
            found.or_else(next_older).unwrap_or(0)
        };
        let older = after.map_or(tables.operations.len(), place);
        let fits = |Operation { submission, state: fate, .. }: &&Operation| {
            ticket.as_ref().is_none_or(|it| submission.ticket.as_ref() == Some(it))
                && configuration.as_ref().is_none_or(|it| submission.configuration == *it)
                && caller.as_ref().is_none_or(|it| submission.caller == *it)
                && state.as_ref().is_none_or(|it| fate.name() == it)
        };
        Ok(tables.operations[..older].iter().rev().filter(fits).take(*limit).cloned().collect())
    }

    async fn parked(&self, configuration: &ConfigurationId) -> Result<Option<Parked>, Error> {
        let tables = self.database.lock();
        let now = self.database.now();
        Ok(tables.lanes.get(configuration).and_then(|lane| {
            let pause = lane.parked_until?.saturating_sub(now);
            let until = clock::after(self.clock.now(), pause);
            Some(Parked { because: lane.parked_because.clone()?, until, attempts: lane.attempts })
        }))
    }

    async fn open_lanes(&self, limit: usize) -> Result<Vec<ConfigurationId>, Error> {
        let tables = self.database.lock();
        let now = self.database.now();
        let open = tables.operations.iter().filter(|operation| !operation.state.has_ended());
        let pending = open.filter(|operation| operation.state != State::AwaitingApproval);
        let lanes: BTreeSet<_> = pending.map(|operation| &operation.submission.configuration).collect();
        let free = |lane: &&ConfigurationId| tables.lanes.get(*lane).is_none_or(|lane| lane.is_free(now));
        Ok(lanes.into_iter().filter(free).take(limit).cloned().collect())
    }

    async fn backlog(&self) -> Result<Backlog, Error> {
        let tables = self.database.lock();
        let mut backlog = Backlog::default();
        for operation in tables.operations.iter().filter(|operation| !operation.state.has_ended()) {
            *backlog.states.entry(operation.state.name().to_owned()).or_default() += 1;
            if operation.state != State::AwaitingApproval {
                backlog.oldest.get_or_insert(operation.submission.ready_at());
            }
        }
        let parked = tables
            .lanes
            .iter()
            .filter(|(id, lane)| lane.parked_because.is_some() && tables.pending(id).next().is_some());
        backlog.parked = u64::try_from(parked.count()).unwrap();
        for operation in &tables.operations {
            let (Some(ended), Some(outgoing)) = (ended_at(&operation.state), tables.callbacks.get(&operation.id))
            else {
                continue;
            };
            let undelivered = &mut backlog.callbacks;
            match outgoing.state {
                CallbackState::Pending => {
                    undelivered.pending += 1;
                    undelivered.oldest = undelivered.oldest.into_iter().chain([ended]).min();
                }
                CallbackState::Parked => undelivered.parked += 1,
                CallbackState::Delivered => {}
            }
        }
        Ok(backlog)
    }

    async fn claim(&self, claim: Claim) -> Result<Claimed, Error> {
        self.database.claims.fetch_add(1, Ordering::SeqCst);
        let until = self.clock.elapsed() + claim.ttl;
        let mut tables = self.database.lock();
        let now = self.database.now();
        let ids: Vec<_> = tables.pending(&claim.configuration).map(|it| it.id).take(claim.batch_max).collect();
        let known = tables.lanes.get(&claim.configuration);
        if known.is_some_and(|lane| lane.leased_until > Some(now)) {
            return Ok(Claimed::Held);
        }
        if ids.is_empty() || known.is_some_and(|lane| !lane.is_free(now)) {
            return Ok(Claimed::Nothing);
        }
        let lane = tables.lanes.entry(claim.configuration.clone()).or_default();
        (lane.owner, lane.fencing) = (Some(claim.owner.clone()), lane.fencing + 1);
        (lane.leased_until, lane.parked_until) = (Some(now + claim.ttl), None);
        let lease = Lease::granted(&claim, lane.fencing, until);
        let (announced, left, attempts) = (lane.announced.clone(), lane.left.clone(), lane.attempts);
        let still =
            |(set, until): &(Digest, Duration)| Some(ReplacedSet { set: set.clone(), ttl: until.checked_sub(now)? });
        let replaced_sets = lane.replaced_sets.iter().filter_map(still).collect();
        let event = Event::Started {
            configuration: claim.configuration.to_string(),
            operations: ids.clone(),
            lease: lease.fencing(),
        };
        tables.record(&self.chain, [&Entry { at: claim.at, trace_id: claim.trace_id, event }]);
        let mut operations = Vec::new();
        for operation in tables.operations.iter_mut().filter(|operation| ids.contains(&operation.id)) {
            operation.state = operation.state.clone().start(claim.at).unwrap();
            operations.push(operation.clone());
        }
        Ok(Claimed::Turn(Box::new(Turn { lease, operations, announced, left, replaced_sets, attempts })))
    }

    async fn begin_write(&self, lease: &mut Lease, announced: &UnsettledWrites, ttl: Duration) -> Result<(), Error> {
        let until = self.clock.elapsed() + ttl;
        let mut tables = self.database.lock();
        let now = self.database.now();
        let lane = tables.held(lease)?;
        (lane.announced, lane.leased_until) = (announced.clone(), Some(now + ttl));
        lease.extend(until);
        Ok(())
    }

    async fn settle(&self, mut lease: Lease, settlement: Settlement) -> Result<Option<Lease>, Error> {
        let Settlement { ended, left, replaced_sets, entries, keep, part } = settlement;
        let mut tables = self.database.lock();
        let now = self.database.now();
        tables.held(&lease)?;
        tables.end(lease.configuration(), &ended)?;
        let lane = tables.held(&lease)?;
        (lane.attempts, lane.parked_because) = (0, None);
        if let Some(announced) = part.announced() {
            lane.announced = announced.clone();
        }
        lane.left = left.or_else(|| lane.left.clone());
        lane.replaced_sets = replaced_sets.into_iter().map(|it| (it.set, now + it.ttl)).collect();
        lane.leased_until = keep.map(|ttl| now + ttl);
        lane.owner = keep.and(lane.owner.take());
        tables.record(&self.chain, &entries);
        Ok(keep.map(|ttl| {
            lease.extend(self.clock.elapsed() + ttl);
            lease
        }))
    }

    async fn park(&self, lease: Lease, parking: Parking) -> Result<(), Error> {
        let mut tables = self.database.lock();
        let now = self.database.now();
        let Parking { pause, because, announced, left, replaced_sets, ended, entries } = parking;
        tables.held(&lease)?;
        tables.end(lease.configuration(), &ended)?;
        let lane = tables.held(&lease)?;
        (lane.owner, lane.leased_until) = (None, None);
        (lane.parked_until, lane.parked_because) = (Some(now + pause), Some(because));
        (lane.announced, lane.left) = (announced, left.or_else(|| lane.left.take()));
        lane.replaced_sets = replaced_sets.into_iter().map(|it| (it.set, now + it.ttl)).collect();
        lane.attempts += 1;
        tables.record(&self.chain, &entries);
        Ok(())
    }

    async fn purge(&self, purge: Purge) -> Result<usize, Error> {
        let Purge { ended_before, keys_expired_by, limit } = purge;
        let mut tables = self.database.lock();
        let expired = tables.keys.iter().filter(|(_, key)| key.expires_at <= keys_expired_by);
        let mut keys: Vec<_> = expired.map(|(name, key)| (key.expires_at, name.clone())).collect();
        keys.sort();
        keys.truncate(limit);
        for (_, name) in &keys {
            tables.keys.remove(name);
        }
        let needed: BTreeSet<_> = tables.keys.values().map(|key| key.operation).collect();
        let ended = tables.operations.iter().filter_map(|it| Some((ended_at(&it.state)?, it.id)));
        let ahead = |id: &OperationId| tables.untils.get(id) == Some(&UntilState::Ahead);
        let untold = |id: &OperationId| tables.callbacks.get(id).is_some_and(|it| it.state == CallbackState::Pending);
        let reverts = |id: OperationId| {
            let own = tables.operations.iter().find(|it| it.id == id);
            own.and_then(|it| it.submission.change.reversal()).map(postern::domain::Reversal::operation)
        };
        let undoes =
            |id: &OperationId| std::iter::successors(reverts(*id), |undone| reverts(*undone)).any(|it| ahead(&it));
        let open = tables.operations.iter().filter(|it| !it.state.has_ended());
        let undone: BTreeSet<_> = open.filter_map(|it| Some(it.submission.change.reversal()?.operation())).collect();
        let is_old = |(at, id): &(Timestamp, OperationId)| {
            let kept = needed.contains(id) || ahead(id) || undoes(id) || undone.contains(id) || untold(id);
            *at < ended_before && !kept
        };
        let mut old: Vec<_> = ended.filter(is_old).collect();
        old.sort_by_key(|(at, _)| *at);
        old.truncate(limit - keys.len());
        tables.callbacks.retain(|operation, _| old.iter().all(|(_, id)| id != operation));
        tables.untils.retain(|operation, _| old.iter().all(|(_, id)| id != operation));
        tables.operations.retain(|operation| old.iter().all(|(_, id)| *id != operation.id));
        Ok(keys.len() + old.len())
    }

    async fn records(&self, query: &AuditQuery) -> Result<Vec<StoredRecord>, Error> {
        let tables = self.database.lock();
        let kept = (1..).zip(&tables.trail).map(|(position, text)| StoredRecord { position, text: text.clone() });
        let newer = kept.filter(|kept| query.after.is_none_or(|after| kept.position > after));
        Ok(newer.filter(|kept| tables.fits(&kept.text, query)).take(query.limit).collect())
    }

    async fn claim_sink(&self, claim: SinkClaim) -> Result<Option<i64>, Error> {
        let SinkClaim { sink, owner, ttl, delivered } = claim;
        let mut tables = self.database.lock();
        let now = self.database.now();
        let turn = tables.deliveries.entry(sink).or_default();
        if turn.owner.as_ref() != Some(&owner) && turn.leased_until > now {
            return Ok(None);
        }
        turn.position = turn.position.max(delivered.unwrap_or(0));
        (turn.owner, turn.leased_until) = (Some(owner), now + ttl);
        Ok(Some(turn.position))
    }

    async fn chain_heads(&self) -> Result<Vec<Head>, Error> {
        let tables = self.database.lock();
        Ok(tables.unnamed.iter().map(|chain| tables.ends[chain].clone()).collect())
    }

    async fn own_chain_head(&self) -> Result<Option<Head>, Error> {
        Ok(self.chain_heads().await?.into_iter().find(|end| end.chain == self.chain))
    }

    async fn probe(&self) -> Result<(), Error> {
        Ok(())
    }

    fn notices(&self) -> &Notices {
        &self.notices
    }

    async fn close(&self) {}
}
