//! From the caller's names to the domain's ids: a request becomes a change, or a list of all that is wrong with it.
//!
//! Guarantees: nothing is skipped. A configuration, group or filter that cannot be resolved refuses the whole request,
//! as does a target that the configuration's kind does not take. All faults are told at once.
//!
//! It deliberately decides no permission; policy does, over what comes out here. Nor whether a caller may see what else is
//! there: it is told so ([`Hints`]).

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Error,
    candidates::{Candidate, Hints, alike, suggestion},
    names::{KnownGroup, Names},
    request::{ChangeRequest, Fault, Named, NamedFilter, Whom, Wish, pointer},
    tags::Tags,
};
use crate::{
    config,
    domain::{
        Change, Configuration, ConfigurationId, Filter, GroupId, Target, Wanted,
        change::{self, List},
    },
    graph,
};

/// A request whose names are ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Resolved {
    /// The configuration, as Graph describes it.
    pub configuration: Configuration,
    /// Its tags in the catalogue.
    pub tags: BTreeSet<String>,
    /// What to do to it.
    pub change: Change,
    /// Display names by ids.
    pub names: BTreeMap<String, String>,
}

/// The operator's names and Graph's.
#[derive(Clone, Debug)]
pub(super) struct Directory {
    catalogue: config::Catalogue,
    tags: Tags,
    names: Names,
    targets_max: usize,
}

/// What a reference to a configuration means.
pub(super) enum Sought {
    One(Configuration),
    /// All bear the name.
    Several(Vec<Configuration>),
    /// Nothing does; these could be meant, by these names.
    Nothing(Vec<(String, Configuration)>),
}

/// Whether a group must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    /// To be assigned it must exist in the directory: Graph would store an id of no group.
    Required,
    /// A group that was deleted leaves its assignments behind.
    NotRequired,
}

/// A name that means nothing, or several things.
#[derive(Debug)]
pub(super) struct Miss {
    pub(super) fault: Fault,
    pub(super) candidates: Vec<Candidate>,
    /// Whether it means several things.
    pub(super) several: bool,
}

/// A resolved target and its place in the request.
struct Placed {
    list: List,
    index: usize,
    wanted: Wanted,
}

/// The targets of a request, as far as they could be resolved.
#[derive(Default)]
pub(super) struct Targets {
    known: Vec<Placed>,
    names: BTreeMap<String, String>,
    pub(super) missed: Vec<Miss>,
}

impl Miss {
    fn nothing(pointer: &str, detail: String, candidates: Vec<Candidate>) -> Self {
        Self { fault: Fault { pointer: pointer.to_owned(), detail }, candidates, several: false }
    }

    fn several(pointer: &str, detail: String, candidates: Vec<Candidate>) -> Self {
        Self { several: true, ..Self::nothing(pointer, detail, candidates) }
    }
}

impl Directory {
    pub(super) fn new(catalogue: config::Catalogue, names: Names, targets_max: usize) -> Self {
        Self { tags: Tags::of(&catalogue), catalogue, names, targets_max }
    }

    /// What Graph says.
    pub(super) fn names(&self) -> &Names {
        &self.names
    }

    /// Refuses a request that is too large before anything is asked of Graph.
    pub(super) fn bound(&self, wish: &Wish) -> Result<(), Error> {
        let found = wish.targets().count();
        if found > self.targets_max {
            let too_many = change::Fault::TooMany { found, allowed: self.targets_max };
            return Err(Error::InvalidChange(vec![placed(&too_many)]));
        }
        Ok(())
    }

    /// The change that a request asks of this configuration, its targets being these.
    pub(super) fn resolve(
        &self,
        configuration: Configuration,
        request: &ChangeRequest,
        targets: Targets,
        hints: Hints,
    ) -> Result<Resolved, Error> {
        if !targets.missed.is_empty() {
            return Err(missed(targets.missed, hints));
        }
        let refused = not_assignable(&configuration, &targets.known);
        if !refused.is_empty() {
            return Err(Error::NotAssignable(refused));
        }
        let change = self.change(&request.wish, &targets.known)?;
        let tags = self.tags(&configuration.id);
        Ok(Resolved { configuration, tags, change, names: targets.names })
    }

    /// The id that a reference is, or is an alias of.
    pub(super) fn configuration_id(&self, reference: &str) -> Option<ConfigurationId> {
        let catalogued = self.catalogue.configurations.get(reference).map(|catalogued| catalogued.id.clone());
        catalogued.or_else(|| reference.parse().ok())
    }

    /// The configuration that a reference means, as far as it can be told without asking Graph.
    pub(super) async fn remembered(&self, reference: &str) -> Option<ConfigurationId> {
        match self.configuration_id(reference) {
            Some(id) => Some(id),
            None => match self.names.remembered(reference).await?.exact.as_slice() {
                [one] => Some(one.id.clone()),
                _ => None,
            },
        }
    }

    /// The configuration that a reference means: by alias, by id, or by display name. A name never wins over the others.
    pub(super) async fn sought(&self, reference: &str) -> Result<Sought, graph::Error> {
        if let Some(id) = self.configuration_id(reference) {
            let known = self.names.configuration(&id).await?;
            return Ok(known.map_or(Sought::Nothing(Vec::new()), Sought::One));
        }
        let called = self.names.configurations_called(reference).await?;
        Ok(match called.exact.as_slice() {
            [one] => Sought::One(one.clone()),
            [] => Sought::Nothing(self.alike(reference).await?),
            several => Sought::Several(several.to_vec()),
        })
    }

    /// Configurations whose alias or display name is like this.
    async fn alike(&self, reference: &str) -> Result<Vec<(String, Configuration)>, graph::Error> {
        let mut found = BTreeMap::new();
        let all = self.names.configurations().await?;
        for configuration in all.iter().filter(|configuration| alike(reference, &configuration.name)) {
            found.insert(configuration.id.clone(), (configuration.name.clone(), configuration.clone()));
        }
        for (alias, catalogued) in self.catalogue.configurations.iter().filter(|(alias, _)| alike(reference, alias)) {
            if let Some(configuration) = all.iter().find(|configuration| configuration.id == catalogued.id) {
                found.insert(configuration.id.clone(), (alias.clone(), configuration.clone()));
            }
        }
        let mut found: Vec<_> = found.into_values().collect();
        found.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(found)
    }

    /// What the catalogue and Graph say of a configuration, for deciding who may read about it.
    pub(super) async fn configuration(&self, id: &ConfigurationId) -> Result<Option<Configuration>, graph::Error> {
        self.names.configuration(id).await
    }

    pub(super) fn tags(&self, id: &ConfigurationId) -> BTreeSet<String> {
        self.tags.get(id)
    }

    /// What the targets of a request mean.
    pub(super) async fn targets(&self, wish: &Wish) -> Result<Targets, graph::Error> {
        let resolved = wish.targets().map(|(list, index, named)| async move {
            let target = self.target(named, list, &pointer(list, index)).await?;
            Ok::<_, graph::Error>((list, index, target))
        });
        let mut targets = Targets::default();
        for (list, index, target) in futures_util::future::try_join_all(resolved).await? {
            match target {
                Ok((wanted, names)) => {
                    targets.known.push(Placed { list, index, wanted });
                    targets.names.extend(names);
                }
                Err(missed) => targets.missed.extend(missed),
            }
        }
        Ok(targets)
    }

    /// One target with the names of what it refers to, or all that is missed in it.
    async fn target(&self, named: &Named, list: List, at: &str) -> Result<Result<Found, Vec<Miss>>, graph::Error> {
        let presence = if list == List::Remove { Presence::NotRequired } else { Presence::Required };
        let group = async |reference| self.group(reference, presence, &format!("{at}/group")).await;
        let target = match &named.whom {
            Whom::Group(reference) => group(reference).await?.map(|(id, name)| (Target::Group(id), name)),
            Whom::ExcludedGroup(reference) => {
                group(reference).await?.map(|(id, name)| (Target::ExcludedGroup(id), name))
            }
            Whom::AllDevices => Ok((Target::AllDevices, None)),
            Whom::AllUsers => Ok((Target::AllUsers, None)),
        };
        let filter = match &named.filter {
            Some(filter) => self.filter(filter, &format!("{at}/filter")).await?.map(Some),
            None => Ok(None),
        };
        Ok(match (target, filter) {
            (Ok((target, group)), Ok(filter)) => {
                let (filter, filter_name) = filter.unzip();
                let called = group.into_iter().chain(filter_name.flatten()).collect();
                Ok((Wanted { target, filter }, called))
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
    ) -> Result<Result<(GroupId, Name), Miss>, graph::Error> {
        let miss = |detail| Miss::nothing(at, detail, Vec::new());
        let id = match self.catalogue.groups.get(reference) {
            Some(id) => *id,
            None => match reference.parse() {
                Ok(id) => id,
                Err(why) if looks_like_a_guid(reference) => return Ok(Err(miss(format!("{reference:?}: {why}")))),
                Err(_) => return self.group_called(reference, at).await,
            },
        };
        Ok(match self.names.group(id).await? {
            Some(KnownGroup::Named(name)) => Ok((id, Some((id.to_string(), name)))),
            Some(KnownGroup::Unchecked) => Ok((id, None)),
            None if presence == Presence::NotRequired => Ok((id, None)),
            None => Err(miss(format!("the directory has no group {reference:?}; check its id"))),
        })
    }

    async fn group_called(&self, name: &str, at: &str) -> Result<Result<(GroupId, Name), Miss>, graph::Error> {
        let meant = || suggestion(name, self.catalogue.groups.keys());
        let called = match self.names.groups_called(name).await {
            Ok(called) => called,
            Err(graph::Error::Forbidden(refusal)) => {
                tracing::warn!(error = %refusal, "Graph does not let the gateway look for groups by name");
                let detail = format!(
                    "{name:?} is neither an object id nor an alias, and without the permission {} the gateway cannot \
                     look it up as a name: give the group's object id{}",
                    graph::GROUPS_PERMISSION.least,
                    meant()
                );
                return Ok(Err(Miss::nothing(at, detail, Vec::new())));
            }
            Err(error) => return Err(error),
        };
        let candidates = |groups: &[graph::Group]| groups.iter().map(|group| Candidate::group(at, group)).collect();
        Ok(match called.exact.as_slice() {
            [one] => Ok((one.id, Some((one.id.to_string(), one.name.clone())))),
            [] => {
                let detail =
                    format!("no group is called {name:?}, neither in the catalogue nor in the directory{}", meant());
                Err(Miss::nothing(at, detail, candidates(&called.near)))
            }
            several => {
                let detail = format!("several groups are called {name:?}: give the object id of the one that is meant");
                Err(Miss::several(at, detail, candidates(several)))
            }
        })
    }

    /// A filter by alias, id or display name.
    async fn filter(&self, named: &NamedFilter, at: &str) -> Result<Result<(Filter, Name), Miss>, graph::Error> {
        let NamedFilter { reference, mode } = named;
        let alias = self.catalogue.filters.get(reference).copied();
        if let Some(id) = alias.or_else(|| reference.parse().ok()) {
            let name = alias.map(|id| (id.to_string(), reference.clone()));
            return Ok(Ok((Filter { id, mode: *mode }, name)));
        }
        let meant = || suggestion(reference, self.catalogue.filters.keys());
        let closed = |why: &str| {
            let detail =
                format!("{reference:?} is neither an id nor an alias, and {why}: give the filter's id{}", meant());
            Miss::nothing(at, detail, Vec::new())
        };
        let called = match self.names.filters_called(reference).await {
            Ok(called) => called,
            Err(graph::Error::Forbidden(refusal)) => {
                tracing::warn!(error = %refusal, "Graph does not let the gateway look for filters by name");
                let permission = graph::FILTERS_PERMISSION.least;
                let why = format!("without the permission {permission} the gateway cannot look it up as a name");
                return Ok(Err(closed(&why)));
            }
            // This version of Graph has none.
            Err(graph::Error::Refused(refusal)) => return Ok(Err(closed(&refusal.to_string()))),
            Err(error) => return Err(error),
        };
        let candidates =
            |filters: &[graph::AssignmentFilter]| filters.iter().map(|it| Candidate::filter(at, it)).collect();
        Ok(match called.exact.as_slice() {
            [one] => Ok((Filter { id: one.id, mode: *mode }, Some((one.id.to_string(), one.name.clone())))),
            [] => {
                let detail =
                    format!("no filter is called {reference:?}, neither in the catalogue nor in Intune{}", meant());
                Err(Miss::nothing(at, detail, candidates(&called.near)))
            }
            several => {
                let detail = format!("several filters are called {reference:?}: give the id of the one that is meant");
                Err(Miss::several(at, detail, candidates(several)))
            }
        })
    }

    fn change(&self, wish: &Wish, known: &[Placed]) -> Result<Change, Error> {
        let of = |list| known.iter().filter(move |placed| placed.list == list).map(|placed| placed.wanted.clone());
        let change = match wish {
            Wish::Amend { .. } => {
                let unwanted = of(List::Remove).map(|wanted| wanted.target).collect();
                Change::amend(of(List::Add).collect(), unwanted, self.targets_max)
            }
            Wish::Replace(_) => Change::replace(of(List::Replace).collect(), self.targets_max),
        };
        change.map_err(|faults| Error::InvalidChange(faults.iter().map(placed).collect()))
    }
}

/// An id and the display name that goes with it.
pub(super) type Name = Option<(String, String)>;
/// A target and the names of what it refers to.
type Found = (Wanted, Vec<(String, String)>);

/// The refusal of a request some of whose names mean nothing, or several things.
fn missed(missed: Vec<Miss>, hints: Hints) -> Error {
    let several = missed.iter().all(|miss| miss.several);
    let (mut faults, mut candidates) = (Vec::new(), Vec::new());
    for Miss { fault, candidates: meant, .. } in missed {
        faults.push(fault);
        candidates.extend(meant.into_iter().filter(|_| hints == Hints::Given));
    }
    if several { Error::AmbiguousName(faults, candidates) } else { Error::UnknownTarget(faults, candidates) }
}

/// What the configuration's kind does not take.
fn not_assignable(configuration: &Configuration, targets: &[Placed]) -> Vec<Fault> {
    if configuration.is_default() {
        let detail = format!(
            "{:?} is a default configuration of the tenant; it applies to everyone and its assignments cannot be changed",
            configuration.name
        );
        return vec![Fault { pointer: "/configuration".to_owned(), detail }];
    }
    // What stands there wrongly may always be removed.
    let wanted = targets.iter().filter(|placed| placed.list != List::Remove);
    let fault = |Placed { list, index, wanted }: &Placed| {
        let detail = configuration.kind.takes(wanted).err()?;
        Some(Fault { pointer: pointer(*list, *index), detail })
    };
    wanted.filter_map(fault).collect()
}

/// A fault of the change itself, with its place in the body.
fn placed(fault: &change::Fault) -> Fault {
    let at = match fault {
        change::Fault::Empty | change::Fault::TooMany { .. } => String::new(),
        change::Fault::Repeated { list, index, .. } => pointer(*list, *index),
        change::Fault::Contradictory { index, .. } => pointer(List::Remove, *index),
    };
    Fault { pointer: at, detail: fault.to_string() }
}

fn looks_like_a_guid(text: &str) -> bool {
    text.len() == 36 && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
}
