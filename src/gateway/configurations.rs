//! The verbs that read from Graph: which configurations exist, what is assigned to one, and what reaches a group.
//!
//! Guarantees: a caller sees the configurations that policy lets it read, and no others; what is shown was read to the last
//! page, or nothing is shown. The assignments of a single configuration are read anew for every request.
//!
//! It deliberately follows no memberships: whether a group is reached through another that it belongs to, only Entra knows.
//! Names are shown where they are available, ids always.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt as _, TryStreamExt as _, future, stream};
use moka::future::Cache;

use super::{
    About, Error, Gateway,
    name_lookup::{KnownGroup, NAMES_PATIENCE, NameLookup},
    targets::{Presence, UnresolvedName},
};
use crate::{
    domain::{Assignment, AssignmentSet, Caller, Configuration, ConfigurationId, Filter, GroupId, Target},
    graph::{self, CurrentAssignments},
    policy::Denial,
};

/// The most configurations that are listed. A tenant has tens.
const LISTED_MAX: usize = 1_000;
/// Sets that one reverse lookup reads concurrently.
const READS_AT_ONCE: usize = 8;
/// How long reverse lookups share what they read: a caller that repeats one without pause must not use up the calls to
/// Graph that changes need.
const SHARED: Duration = Duration::from_secs(5);

/// A configuration with its tags.
#[derive(Clone, Debug)]
pub struct TaggedConfiguration {
    /// The configuration.
    pub configuration: Configuration,
    /// Its tags in the catalogue.
    pub tags: BTreeSet<String>,
}

/// Configurations, by kind and priority.
#[derive(Clone, Debug)]
pub struct ConfigurationList {
    /// Those that match the search.
    pub configurations: Vec<TaggedConfiguration>,
    /// Whether there are more than are listed.
    pub more: bool,
}

/// What is assigned to a configuration at present.
#[derive(Clone, Debug)]
pub struct ConfigurationAssignments {
    /// The configuration.
    pub configuration: Configuration,
    /// Assignments that changes can change.
    pub direct: AssignmentSet,
    /// Assignments that come from policy sets.
    pub from_policy_sets: Vec<Assignment>,
    /// Display names by id, where known.
    pub names: BTreeMap<String, String>,
}

/// An assignment, and its configuration.
#[derive(Clone, Debug)]
pub struct ReachingAssignment {
    /// What it assigns.
    pub configuration: Configuration,
    /// Whom it reaches, and what narrows it.
    pub assignment: Assignment,
    /// Whether it is direct; if not, it comes from a policy set.
    pub direct: bool,
}

/// What reaches a group.
#[derive(Clone, Debug)]
pub struct GroupReach {
    /// The group.
    pub group: GroupId,
    /// Assignments that name the group.
    pub of_group: Vec<ReachingAssignment>,
    /// Assignments to all users or all devices, which include the group's members.
    pub of_everyone: Vec<ReachingAssignment>,
    /// Assignments whose targets this version does not understand.
    pub unclear: Vec<ReachingAssignment>,
    /// Whether the caller may read all configurations of the tenant; if not, there may be more that reach the group.
    pub complete: bool,
    /// Display names by id, where known.
    pub names: BTreeMap<String, String>,
}

/// Sets that reverse lookups share for seconds. Nothing else may use them: they can be stale.
#[derive(Clone, Debug)]
pub(super) struct SharedSets(Cache<ConfigurationId, Arc<CurrentAssignments>>);

impl SharedSets {
    pub(super) fn new() -> Self {
        let most = u64::try_from(LISTED_MAX).unwrap_or(u64::MAX);
        Self(Cache::builder().max_capacity(most).time_to_live(SHARED).build())
    }
}

impl Gateway {
    /// The configurations that the caller may read and whose names contain this text, ignoring case.
    pub async fn configurations(&self, caller: &Caller, search: Option<&str>) -> Result<ConfigurationList, Error> {
        let all = self.in_time(async { Ok(self.names().configurations().await?) }).await?;
        let search = search.map(str::to_lowercase).unwrap_or_default();
        let found = all.iter().filter(|configuration| configuration.name.to_lowercase().contains(&search));
        let mut found: Vec<_> =
            found.filter(|configuration| self.may_read_configuration(caller, configuration)).collect();
        found.sort_by_key(|configuration| rank(configuration));
        let more = found.len() > LISTED_MAX;
        let described = |configuration: &Configuration| {
            let tags = self.resolver.tags(&configuration.id);
            TaggedConfiguration { configuration: configuration.clone(), tags }
        };
        Ok(ConfigurationList { configurations: found.into_iter().take(LISTED_MAX).map(described).collect(), more })
    }

    /// What is assigned to a configuration at present.
    pub async fn assigned(&self, caller: &Caller, reference: &str) -> Result<ConfigurationAssignments, Error> {
        let configuration = self.in_time(self.resolve_configuration(caller, reference, "")).await?;
        if let Err(denial) = self.check_may_read(caller, &configuration) {
            return Err(self.record_denial(caller, About::looking(&configuration.id), &denial).await);
        }
        let quota = self.quotas.of(caller);
        let read = async {
            let present = quota.run(self.upstream.read_assignments(&configuration.id)).await?;
            let CurrentAssignments { direct, from_policy_sets } = present;
            let names = called(self.names(), direct.iter().chain(&from_policy_sets).map(parts)).await;
            Ok((direct, from_policy_sets, names))
        };
        let (direct, from_policy_sets, names) = self.in_time(read).await?;
        Ok(ConfigurationAssignments { configuration, direct, from_policy_sets, names })
    }

    /// What reaches a group, from all configurations that the caller may read; all of them are read, or it is an error.
    pub async fn reach(&self, caller: &Caller, reference: &str) -> Result<GroupReach, Error> {
        // On the heap: it holds several lookups at once.
        match Box::pin(self.in_time(self.look_for_reach(caller, reference))).await? {
            Ok(reach) => Ok(reach),
            Err((id, denial)) => Err(self.record_denial(caller, About::looking(&id), &denial).await),
        }
    }

    async fn look_for_reach(
        &self,
        caller: &Caller,
        reference: &str,
    ) -> Result<Result<GroupReach, (ConfigurationId, Denial)>, Error> {
        let all = self.names().configurations().await?;
        let (mut readable, mut denied) = (Vec::new(), None);
        for configuration in &*all {
            match self.check_may_read(caller, configuration) {
                Ok(()) => readable.push(configuration.clone()),
                Err(denial) => denied = Some((configuration.id.clone(), denial)),
            }
        }
        let complete = denied.is_none();
        if let Some(denied) = denied.filter(|_| readable.is_empty()) {
            // Not even whether such a group exists is revealed.
            return Ok(Err(denied));
        }
        let (group, known) =
            match self.resolver.group(reference, Presence::NotRequired, "", &self.quotas.of(caller)).await? {
                Ok(found) => found,
                Err(UnresolvedName { fault, candidates, several: true, .. }) => {
                    return Err(Error::AmbiguousName(vec![fault], candidates));
                }
                Err(miss) => {
                    let question = miss.question();
                    return Err(Error::UnknownGroup(miss.fault.detail + &question, miss.candidates));
                }
            };
        readable.sort_by_key(rank);
        let sets = stream::iter(readable).map(|configuration| async move {
            let set = self.shared_set(&configuration.id).await?;
            Ok::<_, graph::Error>((configuration, set))
        });
        let sets: Vec<_> = sets.buffered(READS_AT_ONCE).try_collect().await?;
        let mut reach = GroupReach { complete, ..sorted(group, &sets) };
        let shown = reach.of_group.iter().chain(&reach.of_everyone).chain(&reach.unclear);
        let names = called(self.names(), shown.map(|reaching| parts(&reaching.assignment))).await;
        let name = match known {
            Some(KnownGroup::Named(name)) => Some((group.to_string(), name)),
            Some(KnownGroup::Unchecked) | None => None,
        };
        reach.names = names.into_iter().chain(name).collect();
        Ok(Ok(reach))
    }

    async fn shared_set(&self, id: &ConfigurationId) -> Result<Arc<CurrentAssignments>, graph::Error> {
        let read = async { self.upstream.read_assignments(id).await.map(Arc::new) };
        match self.shared_sets.0.try_get_with(id.clone(), read).await.map_err(|error| graph::Error::clone(&error)) {
            Err(graph::Error::Missing(refusal)) => {
                // It was deleted after the list was read. A retry reads the list anew.
                self.names().forget_configurations().await;
                Err(graph::Error::Unavailable(refusal.to_string()))
            }
            known => known,
        }
    }
}

/// The order of a listing: by kind, then by priority.
fn rank(configuration: &Configuration) -> (&'static str, i64, ConfigurationId) {
    (configuration.kind.name(), configuration.priority, configuration.id.clone())
}

/// Sorts assignments by how they concern a group.
fn sorted(group: GroupId, sets: &[(Configuration, Arc<CurrentAssignments>)]) -> GroupReach {
    let (of_group, of_everyone, unclear, names) = Default::default();
    let mut reach = GroupReach { group, of_group, of_everyone, unclear, complete: true, names };
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
            list.push(ReachingAssignment { configuration, assignment, direct });
        }
    }
    reach
}

/// Display names of these targets and filters, as far as they are available soon. They are for people: a name that cannot
/// be looked up now is left out.
pub(super) async fn called<'a>(
    names: &NameLookup,
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
        let known = names.filters_soon().await;
        let known = known.iter().flat_map(|all| all.iter()).filter(|filter| filters.contains(&filter.id));
        known.map(|filter| (filter.id.to_string(), filter.name.clone())).collect()
    };
    let (groups, filters) = future::join(future::join_all(groups), filters).await;
    groups.into_iter().flatten().chain(filters).collect()
}

fn parts(assignment: &Assignment) -> (&Target, Option<Filter>) {
    (&assignment.target, assignment.filter)
}
