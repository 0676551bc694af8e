//! The tags of configurations, from the catalogue.
//!
//! Guarantees: a configuration has the tags of every entry that names its id, whatever its case: the catalogue may spell it
//! differently from Graph, and a `forbid` by tag must apply all the same.
//!
//! It deliberately decides nothing by tags; policy does.

use std::collections::{BTreeMap, BTreeSet};

use crate::{config::Catalogue, domain::ConfigurationId};

/// Tags by id in lower case.
#[derive(Clone, Debug)]
pub(super) struct Tags(BTreeMap<String, BTreeSet<String>>);

impl Tags {
    pub(super) fn of(catalogue: &Catalogue) -> Self {
        let mut tags = BTreeMap::<_, BTreeSet<_>>::new();
        for catalogued in catalogue.configurations.values() {
            tags.entry(known_by(&catalogued.id)).or_default().extend(catalogued.tags.iter().cloned());
        }
        Self(tags)
    }

    /// The tags of one configuration.
    pub(super) fn get(&self, id: &ConfigurationId) -> BTreeSet<String> {
        self.0.get(&known_by(id)).cloned().unwrap_or_default()
    }
}

fn known_by(id: &ConfigurationId) -> String {
    id.as_str().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::CatalogueEntry;

    #[test]
    fn a_configuration_has_the_tags_of_every_entry_for_it_however_its_id_is_spelt() {
        let id = |text: &str| text.parse::<ConfigurationId>().expect("an id");
        let entry = |id, tags: &[&str]| CatalogueEntry { id, tags: tags.iter().map(|tag| (*tag).to_owned()).collect() };
        let small = "9f1c6a4e-8a77-4b8e-9d6e-3a54b2f1c0aa_windows10esp";
        let (large, other) =
            ("9F1C6A4E-8A77-4B8E-9D6E-3A54B2F1C0AA_Windows10ESP", "9f1c6a4e-8a77-4b8e-9d6e-3a54b2f1c0ab_Limit");
        let configurations = [
            ("sales", entry(id(small), &["sales"])),
            ("guarded", entry(id(large), &["guarded", "sales"])),
            ("other", entry(id(other), &[])),
        ];
        let configurations = configurations.map(|(alias, entry)| (alias.to_owned(), entry)).into();
        let tags = Tags::of(&Catalogue { configurations, groups: BTreeMap::new(), filters: BTreeMap::new() });
        let both = BTreeSet::from(["guarded".to_owned(), "sales".to_owned()]);
        assert_eq!((tags.get(&id(small)), tags.get(&id(large))), (both.clone(), both));
        assert!(tags.get(&id(other)).is_empty());
        assert!(tags.get(&id("9f1c6a4e-8a77-4b8e-9d6e-3a54b2f1c0ac_Limit")).is_empty());
    }
}
