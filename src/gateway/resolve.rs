//! From the caller's names to the domain's ids: a request becomes a change, or a list of its faults.
//!
//! Guarantees: nothing is skipped. A configuration, group or filter that cannot be resolved refuses the whole request, as
//! does a target that the configuration's kind does not accept. All faults of one kind are reported at once.
//!
//! It deliberately decides no permission; policy does, about what comes out here. Nor does it decide whether a caller may
//! see what else exists: that is passed in ([`CandidateVisibility`]).

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Error,
    candidates::{CandidateVisibility, alike},
    lookup_quota::LookupQuota,
    name_lookup::NameLookup,
    request::{ChangeRequest, Fault, RequestedChange, pointer},
    tags::Tags,
    targets::{ResolvedTarget, Targets, UnresolvedName},
};
use crate::{
    config,
    domain::{
        Change, Configuration, ConfigurationId,
        change::{self, List},
    },
    graph,
};

/// A request whose names were resolved to ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Resolved {
    /// The configuration, as Graph describes it.
    pub configuration: Configuration,
    /// Its tags in the catalogue.
    pub tags: BTreeSet<String>,
    /// What to do to it.
    pub change: Change,
    /// Display names by id.
    pub names: BTreeMap<String, String>,
    /// The place of a group whose name Graph does not allow to look up, if there is one.
    pub unnamed: Option<String>,
}

/// The operator's names and Graph's.
#[derive(Clone, Debug)]
pub(super) struct NameResolver {
    pub(super) catalogue: config::Catalogue,
    tags: Tags,
    names: NameLookup,
    targets_max: usize,
}

/// What a reference to a configuration means.
pub(super) enum ConfigurationMatch {
    One(Configuration),
    /// All have this name.
    Several(Vec<Configuration>),
    /// None has it; these could be meant, each with the name that is similar.
    Nothing(Vec<(String, Configuration)>),
}

impl NameResolver {
    pub(super) fn new(catalogue: config::Catalogue, names: NameLookup, targets_max: usize) -> Self {
        Self { tags: Tags::of(&catalogue), catalogue, names, targets_max }
    }

    /// The names that Graph knows.
    pub(super) fn names(&self) -> &NameLookup {
        &self.names
    }

    /// Refuses a request that is too large before Graph is asked anything.
    pub(super) fn bound(&self, change: &RequestedChange) -> Result<(), Error> {
        let found = change.targets().count();
        if found > self.targets_max {
            let too_many = change::Fault::TooMany { found, allowed: self.targets_max };
            return Err(Error::InvalidChange(vec![placed(&too_many)]));
        }
        Ok(())
    }

    /// The change that a request makes to this configuration, with its targets resolved to these.
    pub(super) fn resolve(
        &self,
        configuration: Configuration,
        request: &ChangeRequest,
        targets: Targets,
        visibility: CandidateVisibility,
    ) -> Result<Resolved, Error> {
        if !targets.missed.is_empty() {
            return Err(missed(targets.missed, visibility));
        }
        let refused = not_assignable(&configuration, &targets.known);
        if !refused.is_empty() {
            return Err(Error::NotAssignable(refused));
        }
        let change = self.change(&request.change, &targets.known)?;
        let tags = self.tags(&configuration.id);
        Ok(Resolved { configuration, tags, change, names: targets.names, unnamed: targets.unnamed })
    }

    /// The id that a reference is, or is an alias for.
    pub(super) fn configuration_id(&self, reference: &str) -> Option<ConfigurationId> {
        let catalogued = self.catalogue.configurations.get(reference).map(|catalogued| catalogued.id.clone());
        catalogued.or_else(|| reference.parse().ok())
    }

    /// The id of the configuration that a reference means, if it is known without asking Graph that there is one.
    pub(super) async fn cached_id(&self, reference: &str) -> Option<ConfigurationId> {
        match self.configuration_id(reference) {
            Some(id) => self.names.remembered_id(&id).await,
            None => match self.names.cached(reference).await?.exact.as_slice() {
                [one] => Some(one.id.clone()),
                _ => None,
            },
        }
    }

    /// The configuration that a reference means: by alias, by id, or by display name. Alias and id come before names.
    pub(super) async fn sought(
        &self,
        reference: &str,
        quota: &LookupQuota,
    ) -> Result<ConfigurationMatch, graph::Error> {
        if let Some(id) = self.configuration_id(reference) {
            let known = self.names.configuration_for(&id, quota).await?;
            return Ok(known.map_or(ConfigurationMatch::Nothing(Vec::new()), ConfigurationMatch::One));
        }
        let called = self.names.configurations_called(reference).await?;
        Ok(match called.exact.as_slice() {
            [one] => ConfigurationMatch::One(one.clone()),
            [] => ConfigurationMatch::Nothing(self.alike(reference).await?),
            several => ConfigurationMatch::Several(several.to_vec()),
        })
    }

    /// Configurations whose alias or display name is similar.
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

    /// The configuration as Graph describes it, for deciding who may read about it; none if it does not exist.
    pub(super) async fn configuration(&self, id: &ConfigurationId) -> Result<Option<Configuration>, graph::Error> {
        self.names.configuration(id).await
    }

    pub(super) fn tags(&self, id: &ConfigurationId) -> BTreeSet<String> {
        self.tags.get(id)
    }

    fn change(&self, requested: &RequestedChange, known: &[ResolvedTarget]) -> Result<Change, Error> {
        let of = |list| known.iter().filter(move |placed| placed.list == list).map(|placed| placed.wanted.clone());
        let change = match requested {
            RequestedChange::Amend { .. } => {
                let unwanted = of(List::Remove).map(|wanted| wanted.target).collect();
                Change::amend(of(List::Add).collect(), unwanted, self.targets_max)
            }
            RequestedChange::Replace(_) => Change::replace(of(List::Replace).collect(), self.targets_max),
        };
        change.map_err(|faults| Error::InvalidChange(faults.iter().map(placed).collect()))
    }
}

/// The refusal of a request with names that are unknown or ambiguous.
fn missed(missed: Vec<UnresolvedName>, visibility: CandidateVisibility) -> Error {
    let several = missed.iter().all(|miss| miss.several);
    let (mut faults, mut candidates) = (Vec::new(), Vec::new());
    for mut miss in missed {
        if visibility == CandidateVisibility::Given {
            let question = miss.question();
            miss.fault.detail.push_str(&question);
            candidates.append(&mut miss.candidates);
        }
        faults.push(miss.fault);
    }
    if several { Error::AmbiguousName(faults, candidates) } else { Error::UnknownTarget(faults, candidates) }
}

/// Targets that cannot be assigned to the configuration, because of its kind or because it is a default one.
fn not_assignable(configuration: &Configuration, targets: &[ResolvedTarget]) -> Vec<Fault> {
    if configuration.is_default() {
        let detail = format!(
            "{:?} is a default configuration of the tenant; it applies to everyone and its assignments cannot be changed",
            configuration.name
        );
        return vec![Fault { pointer: "/configuration".to_owned(), detail }];
    }
    // An assignment that should not be there may always be removed.
    let wanted = targets.iter().filter(|placed| placed.list != List::Remove);
    let fault = |ResolvedTarget { list, index, wanted }: &ResolvedTarget| {
        let detail = configuration.kind.check_accepts(wanted).err()?;
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
