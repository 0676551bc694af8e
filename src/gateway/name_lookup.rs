//! What Graph says about configurations, groups and filters, by id and by name, cached for a while.
//!
//! Guarantees: one lookup at a time for one key; groups that are looked up by id while a lookup is in flight share the next
//! one, up to Graph's limit. What was not found is looked up again sooner than what was.
//!
//! It deliberately never answers from the cache what decides a write: the present set is always read anew.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use moka::{Expiry, future::Cache};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tracing::Instrument;

use super::{
    cache::{CollectionCache, MatchExpiry, NameCache, NameMatches, SHORT_TTL, by_name},
    candidates::{ALIKE_MAX, SEVERAL_MAX},
    lookup_quota::LookupQuota,
};
use crate::{
    domain::{Configuration, ConfigurationId, FilterId, GroupId},
    graph::{self, AssignmentFilter, GROUPS_MAX, Group, Upstream},
    telemetry,
};

/// Configurations that are cached; a tenant has tens.
const CONFIGURATIONS_MAX: u64 = 1_000;
/// Groups that are cached.
const GROUPS_REMEMBERED_MAX: u64 = 50_000;
/// Lookups that wait for the next call to Graph; any more wait to enter the queue.
const QUEUE_MAX: usize = 1_024;

/// Entra and Intune allow no longer names, so no more than the beginning of a longer one is looked up.
const NAME_MAX: usize = 256;
/// Letters that a name must have before groups are looked up that begin with it: with fewer, any would match.
const BEGINNING_MIN: usize = 3;

/// Filter ids cached as absent.
const ABSENT_FILTERS_MAX: u64 = 10_000;
/// How long an answer waits for names that it can do without.
pub(super) const NAMES_PATIENCE: Duration = Duration::from_secs(5);

/// What is known of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum KnownGroup {
    /// It exists, under this name.
    Named(String),
    /// Graph does not allow the lookup; the id is taken as it is.
    Unchecked,
}

/// How long groups are cached.
#[derive(Clone, Copy, Debug)]
struct OfGroups(MatchExpiry);

/// That a lookup is not allowed can be temporary, and policies may need the name.
impl Expiry<GroupId, Option<KnownGroup>> for OfGroups {
    fn expire_after_create(
        &self,
        _key: &GroupId,
        value: &Option<KnownGroup>,
        _created_at: Instant,
    ) -> Option<Duration> {
        Some(self.0.of(usize::from(matches!(value, Some(KnownGroup::Named(_))))))
    }
}

/// What is known of an assignment filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum KnownFilter {
    /// It exists, under this name.
    Named(String),
    /// Graph cannot be asked, or does not allow it; the id is taken as it is, and a wrong one is refused with the write.
    Unchecked,
}

/// The cached names, and how to look up others.
#[derive(Clone, Debug)]
pub(super) struct NameLookup {
    upstream: Arc<dyn Upstream>,
    configurations: Cache<ConfigurationId, Option<Configuration>>,
    listed: CollectionCache<Configuration>,
    groups: Cache<GroupId, Option<KnownGroup>>,
    groups_called: NameCache<Group>,
    filters: CollectionCache<AssignmentFilter>,
    /// Ids that no filter had a moment ago, though all were read anew.
    absent_filters: Cache<FilterId, ()>,
    /// Present while Graph is not asked for filters again, because it did not list them a moment ago.
    filters_unlisted: Cache<(), ()>,
    questions: mpsc::Sender<Question>,
}

/// A group that a request waits for.
struct Question {
    id: GroupId,
    /// The trace of that request.
    traceparent: Option<String>,
    answer: oneshot::Sender<Result<Option<KnownGroup>, graph::Error>>,
}

impl NameLookup {
    /// A cache of what this Graph says; needs a running Tokio runtime.
    pub(super) fn new(upstream: Arc<dyn Upstream>, ttl: Duration) -> Self {
        let (questions, asked) = mpsc::channel(QUEUE_MAX);
        tokio::spawn(answer(Arc::clone(&upstream), asked));
        let configurations =
            Cache::builder().max_capacity(CONFIGURATIONS_MAX).expire_after(MatchExpiry { ttl }).build();
        let expiry = OfGroups(MatchExpiry { ttl });
        let groups = Cache::builder().max_capacity(GROUPS_REMEMBERED_MAX).expire_after(expiry).build();
        let listed = CollectionCache::new(ttl, |configuration: &Configuration| &configuration.name);
        let filters = CollectionCache::new(ttl, |filter: &AssignmentFilter| &filter.name);
        let absent_filters = Cache::builder().max_capacity(ABSENT_FILTERS_MAX).time_to_live(SHORT_TTL).build();
        let filters_unlisted = Cache::builder().max_capacity(1).time_to_live(SHORT_TTL).build();
        Self {
            upstream,
            configurations,
            listed,
            groups,
            groups_called: by_name(ttl),
            filters,
            absent_filters,
            filters_unlisted,
            questions,
        }
    }

    /// All configurations of the tenant.
    pub(super) async fn configurations(&self) -> Result<Arc<[Configuration]>, graph::Error> {
        self.listed.all(self.upstream.configurations()).await
    }

    /// Drops the list of configurations, which turned out to be stale, so that it is read anew next time.
    pub(super) async fn forget_configurations(&self) {
        self.listed.invalidate().await;
    }

    /// The configurations with this display name.
    pub(super) async fn configurations_called(
        &self,
        name: &str,
    ) -> Result<Arc<NameMatches<Configuration>>, graph::Error> {
        self.listed.called(shortened(name), self.upstream.configurations()).await
    }

    /// The configurations with this display name, if they are cached.
    pub(super) async fn cached(&self, name: &str) -> Option<Arc<NameMatches<Configuration>>> {
        self.listed.cached(shortened(name)).await
    }

    /// This id as Graph spells it, if the configuration is cached.
    pub(super) async fn remembered_id(&self, id: &ConfigurationId) -> Option<ConfigurationId> {
        self.configurations.get(id).await.flatten().map(|configuration| configuration.id)
    }

    /// All assignment filters of the tenant.
    async fn filters(&self) -> Result<Arc<[AssignmentFilter]>, graph::Error> {
        self.filters.all(self.upstream.filters()).await
    }

    /// The assignment filters with this display name.
    pub(super) async fn filters_called(&self, name: &str) -> Result<Arc<NameMatches<AssignmentFilter>>, graph::Error> {
        self.filters.called(shortened(name), self.upstream.filters()).await
    }

    /// The assignment filter of this id; none if Intune has none.
    pub(super) async fn filter(&self, id: FilterId, quota: &LookupQuota) -> Option<KnownFilter> {
        let named = |all: &[AssignmentFilter]| {
            let found = all.iter().find(|filter| filter.id == id)?;
            Some(KnownFilter::Named(found.name.clone()))
        };
        if self.filters_unlisted.contains_key(&()) {
            return Some(KnownFilter::Unchecked);
        }
        let Some(seen) = self.filters_soon().await else {
            self.filters_unlisted.insert((), ()).await;
            return Some(KnownFilter::Unchecked);
        };
        if let Some(known) = named(&seen) {
            return Some(known);
        }
        // It may be newer than what is cached. Whoever waits for the quota finds what was read meanwhile.
        let anew = async {
            let all = self.filters_soon().await?;
            if !Arc::ptr_eq(&all, &seen) || self.absent_filters.contains_key(&id) {
                return Some(all);
            }
            self.filters.invalidate().await;
            let all = self.filters_soon().await?;
            if named(&all).is_none() {
                self.absent_filters.insert(id, ()).await;
            }
            Some(all)
        };
        quota.run(anew).await.map_or(Some(KnownFilter::Unchecked), |all| named(&all))
    }

    /// All assignment filters, if Graph lists them soon.
    pub(super) async fn filters_soon(&self) -> Option<Arc<[AssignmentFilter]>> {
        tokio::time::timeout(NAMES_PATIENCE, self.filters()).await.ok()?.ok()
    }

    /// The groups with this display name.
    pub(super) async fn groups_called(
        &self,
        name: &str,
        quota: &LookupQuota,
    ) -> Result<Arc<NameMatches<Group>>, graph::Error> {
        let name = shortened(name);
        if let Some(known) = self.groups_called.get(name).await {
            return Ok(known);
        }
        // The quota is awaited outside the lookup that others may join, so that they wait only for their own.
        let look_up = self.groups_called.try_get_with(name.to_owned(), self.look_for_groups(name));
        quota.run(look_up).await.map_err(|error| graph::Error::clone(&error))
    }

    async fn look_for_groups(&self, name: &str) -> Result<Arc<NameMatches<Group>>, graph::Error> {
        let found = self.upstream.groups_named(name).await?;
        let (mut exact, mut near): (Vec<_>, Vec<_>) = found.into_iter().partition(|group| group.name == name);
        if exact.is_empty() {
            if name.chars().count() >= BEGINNING_MIN {
                // Only a hint: that no group has this name is known already.
                near.extend(self.upstream.groups_beginning(name).await.unwrap_or_default());
            }
        } else {
            near.clear();
        }
        for groups in [&mut exact, &mut near] {
            groups.sort_by(|one, other| (&one.name, one.id).cmp(&(&other.name, other.id)));
            groups.dedup();
        }
        exact.truncate(SEVERAL_MAX);
        near.truncate(ALIKE_MAX);
        if let [one] = exact.as_slice() {
            self.groups.insert(one.id, Some(KnownGroup::Named(one.name.clone()))).await;
        }
        Ok(Arc::new(NameMatches { exact, near }))
    }

    /// The configuration of this id, looked up within its caller's quota if it is not cached; none if Graph has none.
    pub(super) async fn configuration_for(
        &self,
        id: &ConfigurationId,
        quota: &LookupQuota,
    ) -> Result<Option<Configuration>, graph::Error> {
        match self.configurations.get(id).await {
            Some(known) => Ok(known),
            None => self.look_up_configuration(id, quota.acquire().await).await,
        }
    }

    /// The configuration of this id; none if Graph has none.
    pub(super) async fn configuration(&self, id: &ConfigurationId) -> Result<Option<Configuration>, graph::Error> {
        match self.configurations.get(id).await {
            Some(known) => Ok(known),
            None => self.look_up_configuration(id, None).await,
        }
    }

    /// In a task of its own: a caller who does not wait for as long as Graph takes leaves the answer to the next, and keeps
    /// its place in its quota until then.
    async fn look_up_configuration(
        &self,
        id: &ConfigurationId,
        place: Option<OwnedSemaphorePermit>,
    ) -> Result<Option<Configuration>, graph::Error> {
        let (this, id) = (self.clone(), id.clone());
        let lookup = async move {
            let ask = async {
                match this.upstream.configuration(&id).await {
                    Ok(configuration) => Ok(Some(configuration)),
                    Err(graph::Error::Missing(_)) => Ok(None),
                    Err(error) => Err(error),
                }
            };
            let known = this.configurations.try_get_with(id.clone(), ask).await;
            drop(place);
            known.map_err(|error| graph::Error::clone(&error))
        };
        let broke_off = |_ended| Err(graph::Error::Unavailable("the lookup of a configuration broke off".to_owned()));
        tokio::spawn(lookup.in_current_span()).await.unwrap_or_else(broke_off)
    }

    /// The group of this id, looked up within its caller's quota if it is not cached.
    pub(super) async fn group_for(&self, id: GroupId, quota: &LookupQuota) -> Result<Option<KnownGroup>, graph::Error> {
        match self.groups.get(&id).await {
            Some(known) => Ok(known),
            None => quota.run_group_lookup(self.group(id)).await,
        }
    }

    /// The group of this id; none if the directory has none.
    pub(super) async fn group(&self, id: GroupId) -> Result<Option<KnownGroup>, graph::Error> {
        let gone = || graph::Error::Unavailable("the look-up of groups has stopped".to_owned());
        let ask = async {
            let (answer, answered) = oneshot::channel();
            let question = Question { id, traceparent: telemetry::traceparent(), answer };
            self.questions.send(question).await.map_err(|_closed| gone())?;
            answered.await.map_err(|_closed| gone())?
        };
        self.groups.try_get_with(id, ask).await.map_err(|error| graph::Error::clone(&error))
    }
}

/// A name, cut to one more character than names can have: a longer name matches nothing, and nor does what is left of it.
fn shortened(name: &str) -> &str {
    name.char_indices().nth(NAME_MAX.saturating_add(1)).and_then(|(end, _)| name.get(..end)).unwrap_or(name)
}

/// Looks up groups, all that wait in one call, until no sender is left.
async fn answer(upstream: Arc<dyn Upstream>, mut asked: mpsc::Receiver<Question>) {
    let mut questions = Vec::with_capacity(GROUPS_MAX);
    while asked.recv_many(&mut questions, GROUPS_MAX).await > 0 {
        // Nobody waits for these any more.
        questions.retain(|question| !question.answer.is_closed());
        let ids: Vec<_> = questions.iter().map(|question| question.id).collect();
        if ids.is_empty() {
            continue;
        }
        // One lookup serves several requests, so it belongs to none of their traces and links to all.
        let span = tracing::info_span!("look up groups", otel.kind = "internal", groups = ids.len());
        for question in &questions {
            telemetry::link(&span, question.traceparent.as_deref());
        }
        // In a task of its own: a panic in one lookup must not end all later ones.
        let upstream = Arc::clone(&upstream);
        let look_up = tokio::spawn(async move { upstream.groups(&ids).await }.instrument(span));
        let found = look_up.await.unwrap_or_else(|ended| {
            tracing::error!(error = %ended, "a lookup of groups failed unexpectedly");
            Err(graph::Error::Unavailable("the look-up of groups broke off".to_owned()))
        });
        for Question { id, answer, .. } in questions.drain(..) {
            let known = match &found {
                Ok(groups) => {
                    Ok(groups.iter().find(|group| group.id == id).map(|group| KnownGroup::Named(group.name.clone())))
                }
                Err(graph::Error::Forbidden(_)) => Ok(Some(KnownGroup::Unchecked)),
                Err(error) => Err(error.clone()),
            };
            // The caller may have hung up meanwhile.
            drop(answer.send(known));
        }
    }
}
