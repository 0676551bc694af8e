//! A scripted Graph in memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use postern::{
    domain::{AssignmentSet, Change, Configuration, ConfigurationId, DesiredAssignment, GroupId, Target, merge},
    graph::{AssignmentFilter, CurrentAssignments, Error, Group, Receipt, Refusal, Upstream, WriteGrant},
};
use tokio::sync::Semaphore;

/// How reading one configuration fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    Unavailable,
    /// For a minute.
    Throttled,
    /// With a malformed response.
    Garbled,
    /// With "no such configuration".
    Missing,
    /// With a refusal that says nothing of permissions.
    Refused,
    /// Once; later reads succeed.
    Panics,
}

/// A set of the past, and how many reads show it.
type Stale = (AssignmentSet, usize);

#[derive(Debug)]
pub(crate) struct Tenant {
    pub(crate) sets: Mutex<BTreeMap<ConfigurationId, AssignmentSet>>,
    pub(crate) reads: Mutex<BTreeMap<ConfigurationId, Read>>,
    /// The set that reads show, this many times.
    pub(crate) stale: Mutex<BTreeMap<ConfigurationId, Stale>>,
    /// A write that assigns one of these groups is refused.
    pub(crate) refused: BTreeSet<Target>,
    /// These groups do not exist: a write that assigns one is refused.
    pub(crate) missing: BTreeSet<Target>,
    /// A write that assigns one of these groups is forbidden.
    pub(crate) forbidden: BTreeSet<Target>,
    /// How many writes are lost, without effect or response, before one is accepted.
    pub(crate) lost: AtomicUsize,
    /// How many writes are throttled before one is accepted.
    pub(crate) throttled: AtomicUsize,
    /// Each write takes one permit.
    pub(crate) gate: Semaphore,
    pub(crate) writes: AtomicUsize,
    under_way: AtomicUsize,
    pub(crate) under_way_max: AtomicUsize,
}

impl Tenant {
    pub(crate) fn new() -> Self {
        Self {
            sets: Mutex::default(),
            reads: Mutex::default(),
            stale: Mutex::default(),
            refused: BTreeSet::new(),
            missing: BTreeSet::new(),
            forbidden: BTreeSet::new(),
            lost: AtomicUsize::new(0),
            throttled: AtomicUsize::new(0),
            gate: Semaphore::new(Semaphore::MAX_PERMITS),
            writes: AtomicUsize::new(0),
            under_way: AtomicUsize::new(0),
            under_way_max: AtomicUsize::new(0),
        }
    }

    pub(crate) fn set(&self, id: &ConfigurationId) -> AssignmentSet {
        self.sets.lock().unwrap().get(id).cloned().unwrap_or_default()
    }

    /// Somebody else adds this target.
    pub(crate) fn edited(&self, id: &ConfigurationId, target: Target) {
        let change = Change::amend(vec![DesiredAssignment { target, filter: None }], vec![], 1).unwrap();
        let mut sets = self.sets.lock().unwrap();
        let set = sets.entry(id.clone()).or_default();
        *set = merge(set, [&change]).desired;
    }

    pub(crate) fn written(&self) -> usize {
        self.writes.load(Ordering::SeqCst)
    }

    /// Ends the failure of reads.
    pub(crate) fn recovers(&self, id: &ConfigurationId) {
        self.reads.lock().unwrap().remove(id);
    }

    pub(crate) fn told(&self, id: &ConfigurationId, read: Read) {
        self.reads.lock().unwrap().insert(id.clone(), read);
    }
}

#[async_trait]
impl Upstream for Tenant {
    async fn configuration(&self, _id: &ConfigurationId) -> Result<Configuration, Error> {
        Err(Error::Unreadable("nobody asks for it here".to_owned()))
    }

    async fn configurations(&self) -> Result<Vec<Configuration>, Error> {
        Err(Error::Unreadable("nobody asks for them here".to_owned()))
    }

    async fn groups(&self, _ids: &[GroupId]) -> Result<Vec<Group>, Error> {
        Err(Error::Unreadable("nobody asks for them here".to_owned()))
    }

    async fn groups_named(&self, _name: &str) -> Result<Vec<Group>, Error> {
        Err(Error::Unreadable("nobody asks for them here".to_owned()))
    }

    async fn groups_beginning(&self, _with: &str) -> Result<Vec<Group>, Error> {
        Err(Error::Unreadable("nobody asks for them here".to_owned()))
    }

    async fn filters(&self) -> Result<Vec<AssignmentFilter>, Error> {
        Err(Error::Unreadable("nobody asks for them here".to_owned()))
    }

    async fn read_assignments(&self, id: &ConfigurationId) -> Result<CurrentAssignments, Error> {
        if let Some((past, times)) = self.stale.lock().unwrap().get_mut(id).filter(|(_, times)| *times > 0) {
            *times -= 1;
            return Ok(CurrentAssignments { direct: past.clone(), from_policy_sets: Vec::new() });
        }
        let told = self.reads.lock().unwrap().get(id).copied();
        match told {
            None => Ok(CurrentAssignments { direct: self.set(id), from_policy_sets: Vec::new() }),
            Some(Read::Unavailable) => Err(Error::Unavailable("it is down".to_owned())),
            Some(Read::Garbled) => Err(Error::Unreadable("it makes no sense".to_owned())),
            Some(Read::Missing) => Err(Error::Missing(Refusal { status: 404, ..Refusal::default() })),
            Some(Read::Refused) => Err(Error::Forbidden(Refusal { status: 403, ..Refusal::default() })),
            Some(Read::Throttled) => Err(Error::Throttled { pause: std::time::Duration::from_mins(1) }),
            Some(Read::Panics) => {
                self.reads.lock().unwrap().remove(id);
                panic!("a fault of ours, as planned")
            }
        }
    }

    async fn replace_assignments(
        &self,
        id: &ConfigurationId,
        set: &AssignmentSet,
        _grant: &WriteGrant,
    ) -> Result<Receipt, Error> {
        let now = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        self.under_way_max.fetch_max(now, Ordering::SeqCst);
        // A real call never returns at once.
        tokio::task::yield_now().await;
        self.gate.acquire().await.unwrap().forget();
        self.under_way.fetch_sub(1, Ordering::SeqCst);
        if self.lost.load(Ordering::SeqCst) > 0 {
            self.lost.fetch_sub(1, Ordering::SeqCst);
            return Err(Error::Unknown("no answer".to_owned()));
        }
        if self.throttled.load(Ordering::SeqCst) > 0 {
            self.throttled.fetch_sub(1, Ordering::SeqCst);
            return Err(Error::Throttled { pause: std::time::Duration::from_mins(1) });
        }
        let has = |targets: &BTreeSet<Target>| set.iter().any(|assignment| targets.contains(&assignment.target));
        if has(&self.refused) {
            return Err(Error::Refused(Refusal { status: 400, ..Refusal::default() }));
        }
        if has(&self.forbidden) {
            return Err(Error::Forbidden(Refusal { status: 403, ..Refusal::default() }));
        }
        if has(&self.missing) {
            return Err(Error::Missing(Refusal { status: 404, ..Refusal::default() }));
        }
        self.writes.fetch_add(1, Ordering::SeqCst);
        self.sets.lock().unwrap().insert(id.clone(), set.clone());
        Ok(Receipt::default())
    }
}
