//! The model tenant: Graph's assignments, all their versions, and every way in which a call can fail.
//!
//! Once sent, a write proceeds on its own: neither its sender's death nor its timeout stops it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use postern::{
    clock::Clock,
    domain::{AssignmentSet, Configuration, ConfigurationId, GroupId, Kind, Target},
    graph::{AssignmentFilter, CurrentAssignments, Error, Group, Receipt, Refusal, Upstream, WriteGrant},
};
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::{
    online_checks::Read,
    world::{ReplicaLife, World},
};

/// One version of a configuration's assignments, and its origin.
#[derive(Debug)]
pub(crate) struct Version {
    pub(crate) set: AssignmentSet,
    pub(crate) by: By,
}

#[derive(Debug)]
pub(crate) enum By {
    Start,
    Administrator,
    Write(AppliedWrite),
}

/// A write that took effect.
#[derive(Debug)]
pub(crate) struct AppliedWrite {
    pub(crate) client_request_id: String,
    /// The version it was built on.
    pub(crate) base: usize,
    /// Whether Graph had returned an older version than the newest.
    pub(crate) stale: bool,
    /// When the read that it was built on was asked for, and when the answer arrived.
    pub(crate) read: (Duration, Duration),
    /// When it took effect.
    pub(crate) at: Duration,
    pub(crate) arrival: Arrival,
}

/// Whether the sender still held its lane and still waited for the response when the write took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    InTime,
    Late,
}

impl AppliedWrite {
    pub(crate) fn is_late(&self) -> bool {
        self.arrival == Arrival::Late
    }
}

#[derive(Debug)]
pub(crate) struct Tenant {
    pub(crate) world: Arc<World>,
    pub(crate) sets: Mutex<BTreeMap<ConfigurationId, Vec<Version>>>,
    /// One clone per write that may still take effect, plus this one.
    pub(crate) under_way: Arc<()>,
}

/// A group that exists.
pub(crate) fn group(number: u128) -> Target {
    Target::Group(Uuid::from_u128(number).to_string().parse().unwrap())
}

/// The group whose assignment Graph refuses.
pub(crate) fn poison() -> Target {
    group(666)
}

/// One replica's access to the tenant.
#[derive(Debug)]
pub(crate) struct FaultyUpstream {
    pub(crate) tenant: Arc<Tenant>,
    pub(crate) life: Arc<ReplicaLife>,
    /// The replica's clock.
    pub(crate) clock: Clock,
}

/// A write in flight.
struct Sent {
    lane: ConfigurationId,
    set: AssignmentSet,
    id: String,
    read: Read,
    /// Held while the write may take effect.
    _under_way: Arc<()>,
    clock: Clock,
    /// Deadline of the whole call.
    until: Duration,
}

type Answer = oneshot::Sender<Result<Receipt, Error>>;

impl Tenant {
    pub(crate) fn newest(&self, lane: &ConfigurationId) -> AssignmentSet {
        self.sets.lock().unwrap()[lane].last().unwrap().set.clone()
    }

    pub(crate) fn put(&self, lane: &ConfigurationId, version: Version) {
        let Version { set, by } = &version;
        self.world.log(format_args!("{lane} is {} by {by:?}: {:?}", short(set), fold_lines(set)));
        self.sets.lock().unwrap().get_mut(lane).unwrap().push(version);
    }

    /// Network latency, one way.
    async fn way(&self) {
        let slow = self.world.fails("slow calls", |faults| faults.graph_slow);
        self.world.pause(5, if slow { 15_000 } else { 400 }).await;
    }

    /// A reason for Graph to refuse the call, if any.
    fn refusal(&self, lane: &ConfigurationId) -> Option<Error> {
        let world = &self.world;
        if world.fails("throttled", |faults| faults.throttled) {
            let pause = world.chance().millis(500, 60_000);
            world.checks.lock().unwrap().throttled(lane, pause);
            return Some(Error::Throttled { pause });
        }
        if world.fails("unavailable", |faults| faults.unavailable) {
            return Some(Error::Unavailable("no connection".to_owned()));
        }
        let shut = world.fails("unauthorised", |faults| faults.unauthorised);
        shut.then(|| Error::Unauthorised("the secret has expired".to_owned()))
    }

    fn takes_effect(&self, sent: &Sent, owner: &str, awaited: Arrival) {
        let Sent { lane, set, id, read, .. } = sent;
        let holds = {
            let checks = self.world.checks.lock().unwrap();
            let by = &checks.announced[id].by;
            by.0 == owner && checks.holds(lane, by, self.world.now())
        };
        self.world.count("writes");
        let arrival = if holds { awaited } else { Arrival::Late };
        if arrival == Arrival::Late {
            self.world.count("late writes");
        }
        let applied = AppliedWrite {
            client_request_id: id.clone(),
            base: read.version,
            stale: read.stale,
            read: read.lasted,
            at: self.world.now(),
            arrival,
        };
        self.put(lane, Version { set: set.clone(), by: By::Write(applied) });
    }

    async fn serve(self: Arc<Self>, sent: Sent, life: Arc<ReplicaLife>, answer: Answer) {
        let world = &self.world;
        // A frozen process has not sent it yet, and a dead one never will.
        tokio::select! {
            biased;
            () = life.dead.cancelled() => return,
            () = life.pass(world) => {}
        }
        if sent.clock.elapsed() + world.parameters.call_timeout > sent.until {
            world.count("writes without time left");
            answer.send(Err(Error::Unavailable("no time left to send it".to_owned()))).unwrap_or_default();
            return;
        }
        let (_, until) = world.checks.lock().unwrap().announced[&sent.id].lasts;
        let ends = world.now() + world.parameters.call_timeout;
        world.judge(if ends <= until { Ok(()) } else { Err(format!("{} may outlast its lease", sent.id)) });
        world.judge(world.checks.lock().unwrap().called(&life.owner, &sent.lane, world.now()));
        self.way().await;
        let unknown = || Error::Unknown("the connection is lost".to_owned());
        let result = if let Some(error) = self.refusal(&sent.lane) {
            Err(error)
        } else if world.fails("answers lost before the effect", |faults| faults.lost_before) {
            Err(unknown())
        } else if sent.set.of(&poison()).is_some() {
            world.count("refused writes");
            Err(Error::Refused(Refusal { status: 400, ..Refusal::default() }))
        } else if world.fails("delayed effects", |faults| faults.delayed) {
            answer.send(Err(unknown())).unwrap_or_default();
            world.pause(1_000, 200_000).await;
            self.takes_effect(&sent, &life.owner, Arrival::Late);
            return;
        } else {
            let awaited = if answer.is_closed() { Arrival::Late } else { Arrival::InTime };
            self.takes_effect(&sent, &life.owner, awaited);
            if world.fails("calls that hang", |faults| faults.hung) {
                drop(sent);
                return std::future::pending().await;
            }
            let lost = world.fails("answers lost after the effect", |faults| faults.lost_after);
            if lost { Err(unknown()) } else { Ok(Receipt { request_id: Some(format!("graph's {}", sent.id)) }) }
        };
        self.way().await;
        answer.send(result).unwrap_or_default();
    }
}

/// Enough of the digest to tell sets apart.
fn short(set: &AssignmentSet) -> String {
    set.digest().as_str().chars().take(8).collect()
}

fn fold_lines(set: &AssignmentSet) -> Vec<String> {
    let line = |part: &postern::domain::Assignment| {
        let filter = part.filter.map(|filter| format!(" {} {}", filter.mode.name(), filter.id)).unwrap_or_default();
        format!("{}{filter}{}", part.target, if part.unread.is_some() { " +" } else { "" })
    };
    set.iter().map(line).collect()
}

#[async_trait]
impl Upstream for FaultyUpstream {
    async fn configuration(&self, id: &ConfigurationId) -> Result<Configuration, Error> {
        self.life.pass(&self.tenant.world).await;
        self.tenant.way().await;
        let name = "Sales ESP".to_owned();
        Ok(Configuration { id: id.clone(), name, kind: Kind::StatusPage, priority: 1 })
    }

    async fn configurations(&self) -> Result<Vec<Configuration>, Error> {
        Err(Error::Unreadable("everything is named by id here".to_owned()))
    }

    async fn groups(&self, ids: &[GroupId]) -> Result<Vec<Group>, Error> {
        self.life.pass(&self.tenant.world).await;
        self.tenant.way().await;
        if self.tenant.world.fails("unavailable", |faults| faults.unavailable) {
            return Err(Error::Unavailable("no connection".to_owned()));
        }
        Ok(ids.iter().map(|id| Group { id: *id, name: format!("group {id}"), mail_only: false }).collect())
    }

    async fn groups_named(&self, _name: &str) -> Result<Vec<Group>, Error> {
        Err(Error::Unreadable("everything is named by id here".to_owned()))
    }

    async fn groups_beginning(&self, _with: &str) -> Result<Vec<Group>, Error> {
        Err(Error::Unreadable("everything is named by id here".to_owned()))
    }

    async fn filters(&self) -> Result<Vec<AssignmentFilter>, Error> {
        Err(Error::Unreadable("everything is named by id here".to_owned()))
    }

    async fn read_assignments(&self, id: &ConfigurationId) -> Result<CurrentAssignments, Error> {
        let (Self { tenant, life, .. }, lane) = (self, id);
        let world = &tenant.world;
        life.step(world).await;
        let asked = world.now();
        world.judge(world.checks.lock().unwrap().called(&life.owner, lane, world.now()));
        tenant.way().await;
        if let Some(error) = tenant.refusal(lane) {
            world.log(format_args!("{}: a read of {lane}: {error}", life.owner));
            return Err(error);
        }
        if world.fails("unreadable", |faults| faults.unreadable) {
            return Err(Error::Unreadable("not JSON".to_owned()));
        }
        let newest = tenant.sets.lock().unwrap()[lane].len() - 1;
        let stale = newest > 0 && world.fails("stale reads", |faults| faults.stale_read);
        let version = if stale { newest - 1 - world.chance().below(newest.min(3)) } else { newest };
        let set = tenant.sets.lock().unwrap()[lane][version].set.clone();
        tenant.way().await;
        life.step(world).await;
        world.count("reads");
        world.log(format_args!("{}: reads {lane}, {}{}", life.owner, short(&set), if stale { " (stale)" } else { "" }));
        let read = Read { version, set: set.clone(), stale, lasted: (asked, world.now()) };
        world.checks.lock().unwrap().read(&life.owner, lane, read);
        Ok(CurrentAssignments { direct: set, from_policy_sets: Vec::new() })
    }

    async fn replace_assignments(
        &self,
        id: &ConfigurationId,
        set: &AssignmentSet,
        grant: &WriteGrant,
    ) -> Result<Receipt, Error> {
        let Self { tenant, life, clock } = self;
        let (lane, id) = (id, grant.client_request_id.as_str());
        let world = &tenant.world;
        let written = world.checks.lock().unwrap().written(&life.owner, lane, (set, id));
        let read = match written {
            Ok(read) => read,
            Err(why) => {
                world.judge(Err(why));
                return Err(Error::Unknown("it must not be sent".to_owned()));
            }
        };
        world.log(format_args!("{}: sends {id}, {}", life.owner, short(set)));
        let (answer, answered) = oneshot::channel();
        let write = Sent {
            lane: lane.clone(),
            set: set.clone(),
            id: id.to_owned(),
            read,
            _under_way: Arc::clone(&tenant.under_way),
            clock: *clock,
            until: grant.until,
        };
        tokio::spawn(Arc::clone(tenant).serve(write, Arc::clone(life), answer));
        life.step(world).await;
        let given_up = |_| Ok(Err(Error::Unknown("no answer in time".to_owned())));
        let result = match tokio::time::timeout(world.parameters.call_timeout, answered).await.unwrap_or_else(given_up)
        {
            Ok(result) => result,
            Err(_) => std::future::pending().await,
        };
        life.step(world).await;
        world.log(format_args!("{}: hears of {id}: {result:?}", life.owner));
        result
    }
}
