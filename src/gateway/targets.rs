//! What the targets of a request mean: groups and filters by alias, by id, or by display name.
//!
//! Guarantees: nothing is skipped, and all names that are unknown or ambiguous are reported at once.
//!
//! It deliberately does not judge whether a configuration accepts such targets: [`super::resolve`] does.

use std::collections::BTreeMap;

use super::{
    candidates::{Candidate, question, suggestion},
    lookup_quota::LookupQuota,
    name_lookup::{KnownFilter, KnownGroup},
    request::{Fault, NamedFilter, NamedTarget, RequestedChange, TargetRef, pointer},
    resolve::NameResolver,
};
use crate::{
    domain::{DesiredAssignment, Filter, GroupId, Target, change::List},
    graph,
};

/// Whether a group must exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    /// To be assigned, it must exist in the directory: Graph would store the id of a group that does not.
    Required,
    /// A deleted group leaves its assignments behind.
    NotRequired,
}

/// A name that is unknown or ambiguous.
#[derive(Debug)]
pub(super) struct UnresolvedName {
    pub(super) fault: Fault,
    pub(super) candidates: Vec<Candidate>,
    /// Whether it is ambiguous.
    pub(super) several: bool,
    /// The aliases that could be meant, as a question: only for callers who may know them.
    aliases: String,
}

/// A resolved target and its place in the request.
pub(super) struct ResolvedTarget {
    pub(super) list: List,
    pub(super) index: usize,
    pub(super) wanted: DesiredAssignment,
}

/// The targets of a request, as far as they could be resolved.
#[derive(Default)]
pub(super) struct Targets {
    pub(super) known: Vec<ResolvedTarget>,
    pub(super) names: BTreeMap<String, String>,
    pub(super) missed: Vec<UnresolvedName>,
    /// The place of a group whose name Graph does not allow to look up.
    pub(super) unnamed: Option<String>,
}

/// An id and its display name.
type Name = Option<(String, String)>;
/// A group and what is known of it; nothing where it need not exist.
pub(super) type FoundGroup = (GroupId, Option<KnownGroup>);

/// A target and the names of what it refers to.
struct Found {
    wanted: DesiredAssignment,
    names: Vec<(String, String)>,
    /// Whether Graph does not allow to look up the name of its group.
    unnamed: bool,
}

impl UnresolvedName {
    fn nothing(pointer: &str, detail: String, candidates: Vec<Candidate>) -> Self {
        Self {
            fault: Fault { pointer: pointer.to_owned(), detail },
            candidates,
            several: false,
            aliases: String::new(),
        }
    }

    fn several(pointer: &str, detail: String, candidates: Vec<Candidate>) -> Self {
        Self { several: true, ..Self::nothing(pointer, detail, candidates) }
    }

    /// The same, which could mean one of these aliases.
    fn asking<'a>(self, wanted: &str, aliases: impl Iterator<Item = &'a String>) -> Self {
        Self { aliases: suggestion(wanted, aliases), ..self }
    }

    /// What could be meant, as a question: aliases, or else names. Only for callers who may know them. An ambiguous name is
    /// that of all its candidates, so it leaves nothing to ask.
    pub(super) fn question(&self) -> String {
        match self {
            Self { several: true, .. } => String::new(),
            Self { aliases, candidates, .. } if aliases.is_empty() => question(candidates.iter().map(|it| &it.name)),
            Self { aliases, .. } => aliases.clone(),
        }
    }
}

impl NameResolver {
    /// What the targets of a request mean.
    pub(super) async fn targets(&self, change: &RequestedChange, quota: &LookupQuota) -> Result<Targets, graph::Error> {
        let resolved = change.targets().map(|(list, index, named)| async move {
            let target = self.target(named, list, &pointer(list, index), quota).await?;
            Ok::<_, graph::Error>((list, index, target))
        });
        let mut targets = Targets::default();
        for (list, index, target) in futures_util::future::try_join_all(resolved).await? {
            match target {
                Ok(Found { wanted, names, unnamed }) => {
                    targets.known.push(ResolvedTarget { list, index, wanted });
                    targets.names.extend(names);
                    if unnamed {
                        targets.unnamed = Some(pointer(list, index));
                    }
                }
                Err(missed) => targets.missed.extend(missed),
            }
        }
        Ok(targets)
    }

    /// One target with the names of what it refers to, or all misses in it.
    async fn target(
        &self,
        named: &NamedTarget,
        list: List,
        at: &str,
        quota: &LookupQuota,
    ) -> Result<Result<Found, Vec<UnresolvedName>>, graph::Error> {
        let presence = if list == List::Remove { Presence::NotRequired } else { Presence::Required };
        let group = async |reference| self.group(reference, presence, &format!("{at}/group"), quota).await;
        let target = match &named.target {
            TargetRef::Group(reference) => group(reference).await?.map(|found| (Target::Group(found.0), Some(found))),
            TargetRef::ExcludedGroup(reference) => {
                group(reference).await?.map(|found| (Target::ExcludedGroup(found.0), Some(found)))
            }
            TargetRef::AllDevices => Ok((Target::AllDevices, None)),
            TargetRef::AllUsers => Ok((Target::AllUsers, None)),
        };
        let filter = match &named.filter {
            Some(filter) => self.filter(filter, &format!("{at}/filter"), quota).await?.map(Some),
            None => Ok(None),
        };
        Ok(match (target, filter) {
            (Ok((target, group)), Ok(filter)) => {
                let (filter, filter_name) = filter.unzip();
                let (group, unnamed) = match group {
                    Some((id, Some(KnownGroup::Named(name)))) => (Some((id.to_string(), name)), false),
                    Some((_, Some(KnownGroup::Unchecked))) => (None, true),
                    Some((_, None)) | None => (None, false),
                };
                let called = group.into_iter().chain(filter_name.flatten()).collect();
                Ok(Found { wanted: DesiredAssignment { target, filter }, names: called, unnamed })
            }
            (target, filter) => Err(target.err().into_iter().chain(filter.err()).collect()),
        })
    }

    /// A group by alias, id or display name.
    pub(super) async fn group(
        &self,
        reference: &str,
        presence: Presence,
        at: &str,
        quota: &LookupQuota,
    ) -> Result<Result<FoundGroup, UnresolvedName>, graph::Error> {
        let miss = |detail| UnresolvedName::nothing(at, detail, Vec::new());
        let id = match self.catalogue.groups.get(reference) {
            Some(id) => *id,
            None => match reference.parse() {
                Ok(id) => id,
                Err(why) if looks_like_a_guid(reference) => return Ok(Err(miss(format!("{reference:?}: {why}")))),
                Err(_) => return self.group_called(reference, at, quota).await,
            },
        };
        Ok(match self.names().group_for(id, quota).await? {
            known @ Some(_) => Ok((id, known)),
            None if presence == Presence::NotRequired => Ok((id, None)),
            None => Err(miss(format!("the directory has no group {reference:?}; check its id"))),
        })
    }

    async fn group_called(
        &self,
        name: &str,
        at: &str,
        quota: &LookupQuota,
    ) -> Result<Result<FoundGroup, UnresolvedName>, graph::Error> {
        let nothing = |detail, candidates| {
            UnresolvedName::nothing(at, detail, candidates).asking(name, self.catalogue.groups.keys())
        };
        let called = match self.names().groups_called(name, quota).await {
            Ok(called) => called,
            Err(graph::Error::Forbidden(refusal)) => {
                tracing::warn!(error = %refusal, "Graph does not let the gateway look up groups by name");
                let detail = format!(
                    "{name:?} is neither an object id nor an alias, and without the permission {} the gateway cannot \
                     look it up as a name: give the group's object id",
                    graph::GROUPS_PERMISSION.least,
                );
                return Ok(Err(nothing(detail, Vec::new())));
            }
            Err(error) => return Err(error),
        };
        let candidates = |groups: &[graph::Group]| groups.iter().map(|group| Candidate::group(at, group)).collect();
        Ok(match called.exact.as_slice() {
            [one] => Ok((one.id, Some(KnownGroup::Named(one.name.clone())))),
            [] => {
                let detail = format!("no group is called {name:?}, neither in the catalogue nor in the directory");
                Err(nothing(detail, candidates(&called.near)))
            }
            several => {
                let detail = format!("several groups are called {name:?}: give the object id of the one that is meant");
                Err(UnresolvedName::several(at, detail, candidates(several)))
            }
        })
    }

    /// A filter by alias, id or display name.
    async fn filter(
        &self,
        named: &NamedFilter,
        at: &str,
        quota: &LookupQuota,
    ) -> Result<Result<(Filter, Name), UnresolvedName>, graph::Error> {
        let NamedFilter { reference, mode } = named;
        let alias = self.catalogue.filters.get(reference).copied();
        if let Some(id) = alias.or_else(|| reference.parse().ok()) {
            let filter = Filter { id, mode: *mode };
            return Ok(match self.names().filter(id, quota).await {
                Some(KnownFilter::Named(name)) => Ok((filter, Some((id.to_string(), name)))),
                Some(KnownFilter::Unchecked) => Ok((filter, alias.map(|id| (id.to_string(), reference.clone())))),
                None => Err(UnresolvedName::nothing(
                    at,
                    format!("Intune has no filter {reference:?}; check its id"),
                    Vec::new(),
                )),
            });
        }
        let nothing = |detail, candidates| {
            UnresolvedName::nothing(at, detail, candidates).asking(reference, self.catalogue.filters.keys())
        };
        let closed = |why: &str| {
            let detail = format!("{reference:?} is neither an id nor an alias, and {why}: give the filter's id");
            nothing(detail, Vec::new())
        };
        let called = match self.names().filters_called(reference).await {
            Ok(called) => called,
            Err(graph::Error::Forbidden(refusal)) => {
                tracing::warn!(error = %refusal, "Graph does not let the gateway look up filters by name");
                let permission = graph::FILTERS_PERMISSION.least;
                let why = format!("without the permission {permission} the gateway cannot look it up as a name");
                return Ok(Err(closed(&why)));
            }
            // This version of Graph has no filters.
            Err(graph::Error::Refused(refusal)) => return Ok(Err(closed(&refusal.to_string()))),
            Err(error) => return Err(error),
        };
        let candidates =
            |filters: &[graph::AssignmentFilter]| filters.iter().map(|it| Candidate::filter(at, it)).collect();
        Ok(match called.exact.as_slice() {
            [one] => Ok((Filter { id: one.id, mode: *mode }, Some((one.id.to_string(), one.name.clone())))),
            [] => {
                let detail = format!("no filter is called {reference:?}, neither in the catalogue nor in Intune");
                Err(nothing(detail, candidates(&called.near)))
            }
            several => {
                let detail = format!("several filters are called {reference:?}: give the id of the one that is meant");
                Err(UnresolvedName::several(at, detail, candidates(several)))
            }
        })
    }
}

fn looks_like_a_guid(text: &str) -> bool {
    text.len() == 36 && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
}
