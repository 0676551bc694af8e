//! From the caller's names to the domain's ids: a request becomes a change, or a list of all that is wrong with it.
//!
//! Guarantees: nothing is skipped. A configuration, group or filter that cannot be resolved refuses the whole request,
//! as does a target that the configuration's kind does not take. All faults are told at once.
//!
//! It deliberately decides no permission; policy does, over what comes out here.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Error,
    names::{KnownGroup, Names},
    request::{ChangeRequest, Fault, Named, NamedFilter, Whom, Wish, pointer},
};
use crate::{
    config,
    domain::{
        Change, Configuration, ConfigurationId, Filter, FilterId, GroupId, Target, Wanted,
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
#[derive(Debug)]
pub(super) struct Directory {
    catalogue: config::Catalogue,
    names: Names,
    targets_max: usize,
}

/// A resolved target and its place in the request.
struct Placed {
    list: List,
    index: usize,
    wanted: Wanted,
}

/// The targets of a request, as far as they could be resolved.
#[derive(Default)]
struct Targets {
    known: Vec<Placed>,
    names: BTreeMap<String, String>,
    unknown: Vec<Fault>,
}

impl Directory {
    pub(super) fn new(catalogue: config::Catalogue, names: Names, targets_max: usize) -> Self {
        Self { catalogue, names, targets_max }
    }

    /// Resolves all names of a request.
    pub(super) async fn resolve(&self, request: &ChangeRequest) -> Result<Resolved, Error> {
        // Cheap checks first: a request that is too large asks nothing of Graph.
        let size = request.wish.targets().count();
        if size > self.targets_max {
            let too_many = change::Fault::TooMany { found: size, allowed: self.targets_max };
            return Err(Error::InvalidChange(vec![placed(&too_many)]));
        }
        let id = self.configuration_id(&request.configuration)?;
        let (configuration, targets) = tokio::join!(self.names.configuration(&id), self.targets(&request.wish));
        let configuration = configuration?.ok_or_else(|| self.no_configuration(&request.configuration))?;
        let targets = targets?;
        if !targets.unknown.is_empty() {
            return Err(Error::UnknownTarget(targets.unknown));
        }
        let refused = not_assignable(&configuration, &targets.known);
        if !refused.is_empty() {
            return Err(Error::NotAssignable(refused));
        }
        let change = self.change(&request.wish, &targets.known)?;
        let tags = self.tags(&configuration.id);
        Ok(Resolved { configuration, tags, change, names: targets.names })
    }

    /// The id that a reference means: an alias, or an id.
    pub(super) fn configuration_id(&self, reference: &str) -> Result<ConfigurationId, Error> {
        let catalogued = self.catalogue.configurations.get(reference).map(|catalogued| catalogued.id.clone());
        catalogued.or_else(|| reference.parse().ok()).ok_or_else(|| self.no_configuration(reference))
    }

    /// What the catalogue and Graph say of a configuration, for deciding who may read about it.
    pub(super) async fn configuration(&self, id: &ConfigurationId) -> Result<Option<Configuration>, graph::Error> {
        self.names.configuration(id).await
    }

    pub(super) fn tags(&self, id: &ConfigurationId) -> BTreeSet<String> {
        // The catalogue may spell the id in another case than Graph; a `forbid` by tag must apply all the same.
        let same = |other: &ConfigurationId| other.as_str().eq_ignore_ascii_case(id.as_str());
        let catalogued = self.catalogue.configurations.values().filter(|catalogued| same(&catalogued.id));
        catalogued.flat_map(|catalogued| catalogued.tags.iter().cloned()).collect()
    }

    fn no_configuration(&self, reference: &str) -> Error {
        let candidates = alike(reference, self.catalogue.configurations.keys());
        Error::UnknownConfiguration { reference: reference.to_owned(), candidates }
    }

    async fn targets(&self, wish: &Wish) -> Result<Targets, graph::Error> {
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
                Err(faults) => targets.unknown.extend(faults),
            }
        }
        Ok(targets)
    }

    /// One target with the names of what it refers to, or all that is unknown in it.
    async fn target(&self, named: &Named, list: List, at: &str) -> Result<Result<Found, Vec<Fault>>, graph::Error> {
        let target = match &named.whom {
            Whom::Group(reference) => {
                self.group(reference, list, at).await?.map(|(id, name)| (Target::Group(id), name))
            }
            Whom::ExcludedGroup(reference) => {
                self.group(reference, list, at).await?.map(|(id, name)| (Target::ExcludedGroup(id), name))
            }
            Whom::AllDevices => Ok((Target::AllDevices, None)),
            Whom::AllUsers => Ok((Target::AllUsers, None)),
        };
        let filter = named.filter.as_ref().map(|filter| self.filter(filter, at)).transpose();
        Ok(match (target, filter) {
            (Ok((target, group)), Ok(filter)) => {
                let (filter, filter_name) = filter.unzip();
                let called = group.into_iter().chain(filter_name.flatten()).collect();
                Ok((Wanted { target, filter }, called))
            }
            (target, filter) => Err(target.err().into_iter().chain(filter.err()).collect()),
        })
    }

    /// A group by alias or id. To be assigned it must exist in the directory: Graph would store an id of no group. A
    /// group that was deleted leaves its assignments behind, so an id may always be removed.
    async fn group(
        &self,
        reference: &str,
        list: List,
        at: &str,
    ) -> Result<Result<(GroupId, Name), Fault>, graph::Error> {
        let fault = |detail| Fault { pointer: format!("{at}/group"), detail };
        let id = match self.catalogue.groups.get(reference) {
            Some(id) => *id,
            None => match reference.parse() {
                Ok(id) => id,
                Err(why) if looks_like_a_guid(reference) => return Ok(Err(fault(format!("{reference:?}: {why}")))),
                Err(_) => {
                    let candidates = suggestion(&alike(reference, self.catalogue.groups.keys()));
                    let detail = format!(
                        "no group is called {reference:?} in the catalogue; give its object id or an alias{candidates}"
                    );
                    return Ok(Err(fault(detail)));
                }
            },
        };
        Ok(match self.names.group(id).await? {
            Some(KnownGroup::Named(name)) => Ok((id, Some((id.to_string(), name)))),
            Some(KnownGroup::Unchecked) => Ok((id, None)),
            None if list == List::Remove => Ok((id, None)),
            None => Err(fault(format!("the directory has no group {reference:?}; check its id"))),
        })
    }

    fn filter(&self, named: &NamedFilter, at: &str) -> Result<(Filter, Name), Fault> {
        let alias = self.catalogue.filters.get(&named.reference).copied();
        let id: Option<FilterId> = alias.or_else(|| named.reference.parse().ok());
        let id = id.ok_or_else(|| {
            let candidates = suggestion(&alike(&named.reference, self.catalogue.filters.keys()));
            let detail = format!(
                "no filter is called {:?} in the catalogue; give its id or an alias{candidates}",
                named.reference
            );
            Fault { pointer: format!("{at}/filter"), detail }
        })?;
        let name = alias.map(|id| (id.to_string(), named.reference.clone()));
        Ok((Filter { id, mode: named.mode }, name))
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
type Name = Option<(String, String)>;
/// A target and the names of what it refers to.
type Found = (Wanted, Vec<(String, String)>);

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

/// Names that could be meant: the same but for case and spaces, or containing one another.
fn alike<'a>(reference: &str, names: impl Iterator<Item = &'a String>) -> Vec<String> {
    let plain = |text: &str| text.to_lowercase().replace([' ', '-', '_'], "");
    let wanted = plain(reference);
    let close = |name: &&String| {
        let name = plain(name);
        !wanted.is_empty() && (name.contains(&wanted) || wanted.contains(&name))
    };
    names.filter(close).take(5).cloned().collect()
}

fn suggestion(candidates: &[String]) -> String {
    if candidates.is_empty() { String::new() } else { format!(" (did you mean {}?)", candidates.join(" or ")) }
}
