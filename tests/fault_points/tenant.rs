//! A Graph in memory that remembers every write.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Mutex,
    time::Duration,
};

use async_trait::async_trait;
use postern::{
    domain::{AssignmentSet, Change, Configuration, ConfigurationId, GroupId, Kind, merge},
    graph::{AssignmentFilter, CurrentAssignments, Error, Group, Receipt, Upstream, WriteGrant},
};

/// Its sets, and what was done to them.
#[derive(Debug, Default)]
pub(crate) struct Tenant {
    sets: Mutex<BTreeMap<ConfigurationId, AssignmentSet>>,
    /// Writes of the gateway that left a set as it was.
    idle: Mutex<Vec<String>>,
    /// Number of reads to throttle.
    pub(crate) busy: Mutex<usize>,
}

impl Tenant {
    /// Somebody else changes a set.
    pub(crate) fn edited(&self, id: &ConfigurationId, change: &Change) {
        let mut sets = self.sets.lock().unwrap();
        let set = sets.entry(id.clone()).or_default();
        *set = merge(set, [change]).desired;
    }

    pub(crate) fn targets(&self, id: &ConfigurationId) -> BTreeSet<String> {
        let sets = self.sets.lock().unwrap();
        sets.get(id).into_iter().flat_map(AssignmentSet::iter).map(|it| it.target.to_string()).collect()
    }

    pub(crate) fn idle_writes(&self) -> Vec<String> {
        self.idle.lock().unwrap().clone()
    }
}

#[async_trait]
impl Upstream for Tenant {
    async fn configuration(&self, id: &ConfigurationId) -> Result<Configuration, Error> {
        Ok(Configuration { id: id.clone(), name: "Sales ESP".to_owned(), kind: Kind::StatusPage, priority: 1 })
    }

    async fn configurations(&self) -> Result<Vec<Configuration>, Error> {
        Err(Error::Unreadable("everything is named by id here".to_owned()))
    }

    async fn groups(&self, ids: &[GroupId]) -> Result<Vec<Group>, Error> {
        Ok(ids.iter().map(|id| Group { id: *id, name: "Sales Laptops".to_owned(), mail_only: false }).collect())
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
        let mut busy = self.busy.lock().unwrap();
        if *busy > 0 {
            *busy -= 1;
            return Err(Error::Throttled { pause: Duration::from_millis(1) });
        }
        let direct = self.sets.lock().unwrap().get(id).cloned().unwrap_or_default();
        Ok(CurrentAssignments { direct, from_policy_sets: Vec::new() })
    }

    async fn replace_assignments(
        &self,
        id: &ConfigurationId,
        set: &AssignmentSet,
        grant: &WriteGrant,
    ) -> Result<Receipt, Error> {
        // A real call never returns at once.
        tokio::task::yield_now().await;
        let before = self.sets.lock().unwrap().insert(id.clone(), set.clone());
        if before.is_some_and(|before| before == *set) {
            self.idle.lock().unwrap().push(grant.client_request_id.clone());
        }
        Ok(Receipt::default())
    }
}
