//! The verbs that look at Graph: which configurations there are, what is assigned to one, and what reaches a group.
//!
//! Guarantees: a caller sees the configurations that policy lets it read, and no other; what is shown was read to its last
//! page, or nothing is shown. What is assigned to one configuration is read anew for every question.
//!
//! It deliberately follows no membership: whether a group is reached through another that it belongs to, only Entra can
//! tell. Names are shown where they can be had; ids always.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt as _, TryStreamExt as _, future, stream};
use moka::future::Cache;

use super::{
    About, Error, Gateway,
    names::{KnownGroup, Names},
    targets::{Miss, Presence},
};
use crate::{
    domain::{Assignment, AssignmentSet, Caller, Configuration, ConfigurationId, Filter, GroupId, Target},
    graph::{self, Present},
    policy::Denial,
};

/// Configurations that are listed at most. A tenant has tens.
const LISTED_MAX: usize = 1_000;
/// Sets that one reverse look-up reads at once.
const READS_AT_ONCE: usize = 8;
/// How long reverse look-ups share what they read: whoever repeats one without pause must not use up the calls that
/// changes need.
const SHARED: Duration = Duration::from_secs(5);
/// How long an answer waits for names that it can do without.
const NAMES_PATIENCE: Duration = Duration::from_secs(5);

/// A configuration with what the catalogue says of it.
#[derive(Clone, Debug)]
pub struct Described {
    /// The configuration.
    pub configuration: Configuration,
    /// Its tags in the catalogue.
    pub tags: BTreeSet<String>,
}

/// Configurations, by kind and priority.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Those that were looked for.
    pub configurations: Vec<Described>,
    /// Whether there are more than are listed.
    pub more: bool,
}

/// What is assigned to a configuration at present.
#[derive(Clone, Debug)]
pub struct Assigned {
    /// The configuration.
    pub configuration: Configuration,
    /// What a change can change.
    pub direct: AssignmentSet,
    /// What comes from policy sets.
    pub from_policy_sets: Vec<Assignment>,
    /// Display names by ids, where they are known.
    pub names: BTreeMap<String, String>,
}

/// An assignment of some configuration.
#[derive(Clone, Debug)]
pub struct Reaching {
    /// What it assigns.
    pub configuration: Configuration,
    /// Whom it reaches, and what narrows it.
    pub assignment: Assignment,
    /// Whether it is direct, or else comes from a policy set.
    pub direct: bool,
}

/// What reaches a group.
#[derive(Clone, Debug)]
pub struct Reach {
    /// The group.
    pub group: GroupId,
    /// Assignments that name the group.
    pub of_group: Vec<Reaching>,
    /// Assignments to all users or all devices, its members among them.
    pub of_everyone: Vec<Reaching>,
    /// Assignments of which this version cannot tell whom they reach.
    pub unclear: Vec<Reaching>,
    /// Whether the caller may read all configurations of the tenant; if not, more may reach the group.
    pub complete: bool,
    /// Display names by ids, where they are known.
    pub names: BTreeMap<String, String>,
}

/// Sets that reverse look-ups share for moments. Nothing else may: they can be old.
#[derive(Clone, Debug)]
pub(super) struct SharedSets(Cache<ConfigurationId, Arc<Present>>);

impl SharedSets {
    pub(super) fn new() -> Self {
        let most = u64::try_from(LISTED_MAX).unwrap_or(u64::MAX);
        Self(Cache::builder().max_capacity(most).time_to_live(SHARED).build())
    }
}

impl Gateway {
    /// The configurations that the caller may read and whose names contain this, whatever their case.
    pub async fn configurations(&self, caller: &Caller, search: Option<&str>) -> Result<Listed, Error> {
        let all = self.in_time(async { Ok(self.names().configurations().await?) }).await?;
        let search = search.map(str::to_lowercase).unwrap_or_default();
        let found = all.iter().filter(|configuration| configuration.name.to_lowercase().contains(&search));
        let mut found: Vec<_> = found.filter(|configuration| self.may_look(caller, configuration)).collect();
        found.sort_by_key(|configuration| rank(configuration));
        let more = found.len() > LISTED_MAX;
        let described = |configuration: &Configuration| {
            let tags = self.directory.tags(&configuration.id);
            Described { configuration: configuration.clone(), tags }
        };
        Ok(Listed { configurations: found.into_iter().take(LISTED_MAX).map(described).collect(), more })
    }

    /// What is assigned to a configuration at present.
    pub async fn assigned(&self, caller: &Caller, reference: &str) -> Result<Assigned, Error> {
        let configuration = self.in_time(self.named(caller, reference, "")).await?;
        if let Err(denial) = self.look(caller, &configuration) {
            return Err(self.denied(caller, About::looking(&configuration.id), &denial).await);
        }
        let share = self.shares.of(caller);
        let read = async {
            let present = share.ask(self.upstream.read_assignments(&configuration.id)).await?;
            let Present { direct, from_policy_sets } = present;
            let names = called(self.names(), direct.iter().chain(&from_policy_sets).map(parts)).await;
            Ok((direct, from_policy_sets, names))
        };
        let (direct, from_policy_sets, names) = self.in_time(read).await?;
        Ok(Assigned { configuration, direct, from_policy_sets, names })
    }

    /// What reaches a group: of all configurations that the caller may read, or an error.
    pub async fn reach(&self, caller: &Caller, reference: &str) -> Result<Reach, Error> {
        match self.in_time(self.look_for_reach(caller, reference)).await? {
            Ok(reach) => Ok(reach),
            Err((id, denial)) => Err(self.denied(caller, About::looking(&id), &denial).await),
        }
    }

    async fn look_for_reach(
        &self,
        caller: &Caller,
        reference: &str,
    ) -> Result<Result<Reach, (ConfigurationId, Denial)>, Error> {
        let all = self.names().configurations().await?;
        let (mut readable, mut denied) = (Vec::new(), None);
        for configuration in &*all {
            match self.look(caller, configuration) {
                Ok(()) => readable.push(configuration.clone()),
                Err(denial) => denied = Some((configuration.id.clone(), denial)),
            }
        }
        let complete = denied.is_none();
        if let Some(denied) = denied.filter(|_| readable.is_empty()) {
            // Not even whether there is such a group.
            return Ok(Err(denied));
        }
        let (group, name) =
            match self.directory.group(reference, Presence::NotRequired, "", &self.shares.of(caller)).await? {
                Ok(found) => found,
                Err(Miss { fault, candidates, several: true }) => {
                    return Err(Error::AmbiguousName(vec![fault], candidates));
                }
                Err(Miss { fault, candidates, .. }) => return Err(Error::UnknownGroup(fault.detail, candidates)),
            };
        readable.sort_by_key(rank);
        let sets = stream::iter(readable).map(|configuration| async move {
            let set = self.shared_set(&configuration.id).await?;
            Ok::<_, graph::Error>((configuration, set))
        });
        let sets: Vec<_> = sets.buffered(READS_AT_ONCE).try_collect().await?;
        let mut reach = Reach { complete, ..sorted(group, &sets) };
        let shown = reach.of_group.iter().chain(&reach.of_everyone).chain(&reach.unclear);
        let names = called(self.names(), shown.map(|reaching| parts(&reaching.assignment))).await;
        reach.names = names.into_iter().chain(name).collect();
        Ok(Ok(reach))
    }

    async fn shared_set(&self, id: &ConfigurationId) -> Result<Arc<Present>, graph::Error> {
        let read = async { self.upstream.read_assignments(id).await.map(Arc::new) };
        match self.shared_sets.0.try_get_with(id.clone(), read).await.map_err(|error| graph::Error::clone(&error)) {
            Err(graph::Error::Missing(refusal)) => {
                // It was deleted since the list was read. Asked again, the list will say so.
                self.names().forget_configurations().await;
                Err(graph::Error::Unavailable(refusal.to_string()))
            }
            known => known,
        }
    }
}

/// The order of a listing: by kind, there by priority.
fn rank(configuration: &Configuration) -> (&'static str, i64, ConfigurationId) {
    (configuration.kind.name(), configuration.priority, configuration.id.clone())
}

/// Assignments by what they have to do with a group.
fn sorted(group: GroupId, sets: &[(Configuration, Arc<Present>)]) -> Reach {
    let (of_group, of_everyone, unclear, names) = Default::default();
    let mut reach = Reach { group, of_group, of_everyone, unclear, complete: true, names };
    for (configuration, present) in sets {
        let direct = present.direct.iter().map(|assignment| (assignment, true));
        for (assignment, direct) in direct.chain(present.from_policy_sets.iter().map(|assignment| (assignment, false)))
        {
            let list = match assignment.target {
                Target::Group(id) | Target::ExcludedGroup(id) if id == group => &mut reach.of_group,
                Target::Group(_) | Target::ExcludedGroup(_) => continue,
                Target::AllDevices | Target::AllUsers => &mut reach.of_everyone,
                Target::Foreign(_) => &mut reach.unclear,
            };
            let (configuration, assignment) = (configuration.clone(), assignment.clone());
            list.push(Reaching { configuration, assignment, direct });
        }
    }
    reach
}

/// Display names of what these targets and filters are, as far as they can be had soon. They are for people: what cannot be told
/// now goes without.
pub(super) async fn called<'a>(
    names: &Names,
    targets: impl Iterator<Item = (&'a Target, Option<Filter>)>,
) -> BTreeMap<String, String> {
    let (mut groups, mut filters) = (BTreeSet::new(), BTreeSet::new());
    for (target, filter) in targets {
        filters.extend(filter.map(|filter| filter.id));
        if let Target::Group(id) | Target::ExcludedGroup(id) = target {
            groups.insert(*id);
        }
    }
    let groups = groups.into_iter().map(|id| async move {
        let known = tokio::time::timeout(NAMES_PATIENCE, names.group(id)).await;
        let Some(KnownGroup::Named(name)) = known.ok()?.ok()? else { return None };
        Some((id.to_string(), name))
    });
    let filters = async {
        if filters.is_empty() {
            return Vec::new();
        }
        let known = tokio::time::timeout(NAMES_PATIENCE, names.filters()).await;
        let known = known.ok().and_then(Result::ok);
        let known = known.iter().flat_map(|all| all.iter()).filter(|filter| filters.contains(&filter.id));
        known.map(|filter| (filter.id.to_string(), filter.name.clone())).collect()
    };
    let (groups, filters) = future::join(future::join_all(groups), filters).await;
    groups.into_iter().flatten().chain(filters).collect()
}

fn parts(assignment: &Assignment) -> (&Target, Option<Filter>) {
    (&assignment.target, assignment.filter)
}
