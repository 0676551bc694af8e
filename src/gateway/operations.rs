//! The verbs that read: one operation, many, and waiting for an end.
//!
//! Guarantees: a caller sees what policy lets it read and cannot distinguish the rest from what does not exist. Waiting
//! holds neither a connection of the store nor a lock; a caller that hangs up changes nothing.

use std::{collections::BTreeMap, time::Duration};

use super::{About, Error, Gateway};
pub use crate::store::{FollowUps, Parked, callbacks};
use crate::{
    domain::{Caller, Configuration, ConfigurationId, Kind, Operation, OperationId, operation::Submission},
    graph,
    policy::{Action, Attribute, Denial, Permit, Resource},
    store::{Query, notices::NoticeEpoch},
};

/// How long reading an operation waits for Graph to describe its configuration.
pub(super) const LOOK_UP_MAX: Duration = Duration::from_secs(1);
/// The same for all lookups of one search.
const LOOK_UPS_MAX: Duration = Duration::from_secs(2);
/// Operations that a search reads from the store at once.
pub(super) const SEEN_AT_ONCE: usize = 200;
/// The most such reads of one search, so that a caller who may read few of many does not have the whole store read.
pub(super) const SEARCH_ROUNDS: usize = 10;
/// How old the pauses of lanes may be when they are reported.
pub(super) const PAUSES_KNOWN: Duration = Duration::from_secs(1);
/// How often a waiting call checks whether notices may have been missed.
const RECHECK_INTERVAL: Duration = Duration::from_secs(2);

/// An operation; what holds it up if it has not ended, and what came after it if it has.
#[derive(Clone, Debug)]
pub struct OperationStatus {
    /// The operation.
    pub operation: Operation,
    /// The pause of its lane, if the lane is parked.
    pub parked: Option<Parked>,
    /// What came after it, where that was looked up.
    pub follow_ups: FollowUps,
}

/// Which operations a caller searches for: those that match everything given, newest first.
#[derive(Clone, Debug, Default)]
pub struct Search {
    /// With this ticket.
    pub ticket: Option<String>,
    /// On the configuration of this id, alias or display name.
    pub configuration: Option<String>,
    /// Requested by the caller of this name.
    pub caller: Option<String>,
    /// In the state of this name.
    pub state: Option<String>,
    /// Older than this one.
    pub after: Option<OperationId>,
    /// At most this many.
    pub limit: usize,
}

/// A page of operations, newest first.
#[derive(Clone, Debug)]
pub struct Page {
    /// Those that the caller may read.
    pub operations: Vec<Operation>,
    /// Where the next page begins; none if this is the last.
    pub next: Option<OperationId>,
}

impl Gateway {
    /// One operation, if the caller may read it. One that it may not read is as unknown as one that does not exist.
    pub async fn operation(&self, caller: &Caller, id: OperationId) -> Result<OperationStatus, Error> {
        let operation = self.readable_operation(caller, id).await?;
        let mut status = self.status(operation).await?;
        if !has_follow_ups(&status.operation) && status.operation.has_changed_something() {
            status.follow_ups = self.store.follow_ups(id).await?;
        }
        Ok(status)
    }

    /// One operation, found as by [`Gateway::operation`].
    pub(super) async fn readable_operation(&self, caller: &Caller, id: OperationId) -> Result<Operation, Error> {
        let operation = self.store.operation(id).await?.ok_or(Error::UnknownOperation)?;
        match self.may_read(caller, &operation, LOOK_UP_MAX).await {
            Ok(()) => Ok(operation),
            Err(denial) => {
                let recorded = self.record_denial(caller, About::of(&operation), &denial).await;
                Err(if matches!(recorded, Error::Denied(_)) { Error::UnknownOperation } else { recorded })
            }
        }
    }

    /// Waits for the end of an operation that was submitted or read before, for no longer than `up_to`. If the store cannot
    /// be read meanwhile, the operation is returned as it was known: it was accepted, and no later failure may deny that.
    pub async fn wait(&self, operation: Operation, up_to: Duration) -> OperationStatus {
        let up_to = up_to.min(self.settings.wait_max);
        if operation.state.has_ended() && !has_follow_ups(&operation) {
            return OperationStatus { operation, parked: None, follow_ups: FollowUps::default() };
        }
        // Most calls that do not wait end here: what they show of the lane is cached.
        if up_to.is_zero()
            && !has_follow_ups(&operation)
            && let Some(parked) = self.pauses.get(&operation.submission.configuration).await
        {
            return OperationStatus { operation, parked, follow_ups: FollowUps::default() };
        }
        match self.latest(&operation, up_to).await {
            Ok(status) => status,
            Err(error) => {
                tracing::warn!(?error, operation.id = %operation.id, "an accepted operation cannot be read at present");
                OperationStatus { operation, parked: None, follow_ups: FollowUps::default() }
            }
        }
    }

    /// Thousands may be waiting here, so whatever is needed only before or after the wait is on the heap meanwhile, or gone.
    async fn latest(&self, operation: &Operation, up_to: Duration) -> Result<OperationStatus, Error> {
        if up_to.is_zero() {
            return Box::pin(self.status(operation.clone())).await;
        }
        let deadline = self.clock.elapsed().saturating_add(up_to);
        loop {
            let notices = self.store.notices();
            // It may have ended before this registration; from here on no end is missed while notices arrive.
            let (heard, mut end) = (notices.epoch(), notices.subscribe_end(operation.id));
            let latest = self.reload_operation(operation.id).await?;
            if latest.state.has_ended() || self.clock.elapsed() >= deadline || self.stopping.is_cancelled() {
                return Box::pin(self.status(latest)).await;
            }
            drop(latest);
            // In a fixed order, so that a run can be repeated exactly; every branch leads to the same next read.
            tokio::select! {
                biased;
                () = end.notified() => {}
                () = self.wait_for_gap_or_deadline(heard, deadline) => {}
                () = self.stopping.cancelled() => {}
            }
        }
    }

    /// Waits until notices may have been missed, or for the deadline.
    async fn wait_for_gap_or_deadline(&self, heard: NoticeEpoch, deadline: Duration) {
        loop {
            let left = deadline.saturating_sub(self.clock.elapsed());
            self.clock.sleep(left.min(RECHECK_INTERVAL)).await;
            if left <= RECHECK_INTERVAL || self.store.notices().may_have_missed(heard) {
                return;
            }
        }
    }

    /// Operations that match a search and that the caller may read. A page can be short, even empty, and still have a next
    /// one: one call examines a limited number of operations.
    pub async fn operations(&self, caller: &Caller, search: Search) -> Result<Page, Error> {
        self.quotas.of(caller).search(Box::pin(self.found(caller, search))).await
    }

    async fn found(&self, caller: &Caller, search: Search) -> Result<Page, Error> {
        let Search { ticket, configuration, caller: of_caller, state, after, limit: wanted } = search;
        let configuration = match configuration {
            Some(reference) => Some(self.in_time(self.searched_configuration(caller, &reference)).await?),
            None => None,
        };
        let mut query = Query { ticket, configuration, caller: of_caller, state, after, limit: SEEN_AT_ONCE };
        // A page continues after the last operation that its reader has seen, and only if there is another that it may
        // read: how many others exist is not revealed.
        let (mut operations, mut end) = (Vec::new(), None);
        // Policy decides by these three values, so one decision and one lookup serve all operations that share them.
        let mut decided = BTreeMap::new();
        let deadline = self.clock.elapsed().saturating_add(LOOK_UPS_MAX);
        for _ in 0..SEARCH_ROUNDS {
            let found = self.store.operations(&query).await?;
            let last_page = found.len() < query.limit;
            for operation in found {
                query.after = Some(operation.id);
                let Submission { configuration, configuration_name, caller: theirs, .. } = &operation.submission;
                let alike = (configuration.clone(), configuration_name.clone(), *theirs == caller.name);
                let readable = if let Some(readable) = decided.get(&alike) {
                    *readable
                } else {
                    let left = deadline.saturating_sub(self.clock.elapsed());
                    *decided.entry(alike).or_insert(self.may_read(caller, &operation, left).await.is_ok())
                };
                if !readable {
                    continue;
                }
                if operations.len() == wanted {
                    return Ok(Page { operations, next: end });
                }
                end = Some(operation.id);
                operations.push(operation);
            }
            if last_page {
                return Ok(Page { operations, next: None });
            }
        }
        Ok(Page { operations, next: query.after })
    }

    /// The id of the configuration that a search means, as Graph spells it. One that is deleted, or that Graph does not
    /// describe soon, can still be searched for by its exact id or by its alias.
    async fn searched_configuration(&self, caller: &Caller, reference: &str) -> Result<ConfigurationId, Error> {
        let Some(id) = self.resolver.configuration_id(reference) else {
            return Ok(self.resolve_configuration(caller, reference, "").await?.id);
        };
        let quota = self.quotas.of(caller);
        let known = tokio::time::timeout(LOOK_UP_MAX, self.names().configuration_for(&id, &quota)).await;
        Ok(known.ok().and_then(Result::ok).flatten().map_or(id, |configuration| configuration.id))
    }

    /// Whether policy lets the caller read this operation.
    async fn may_read(&self, caller: &Caller, operation: &Operation, up_to: Duration) -> Result<(), Denial> {
        let own = operation.submission.caller == caller.name;
        let Submission { configuration: id, configuration_name: name, .. } = &operation.submission;
        // A configuration that is gone, or that Graph cannot describe now, is judged by what the operation says of it.
        let (configuration, _) = self.known_facts(id, Some(name), up_to).await;
        self.decide(caller, Action::Read { own }, &configuration).map(drop)
    }

    /// The permit for an action on an operation; a denial is recorded. Unlike reading, this is not decided on incomplete
    /// facts: if Graph cannot provide now what policies look at, the action can be retried later.
    pub(super) async fn permitted(
        &self,
        caller: &Caller,
        action: Action,
        operation: &Operation,
    ) -> Result<Permit<()>, Error> {
        let Submission { configuration: id, configuration_name: name, .. } = &operation.submission;
        let (configuration, missing) = self.known_facts(id, Some(name), LOOK_UP_MAX).await;
        self.check_decidable(caller, action.name(), &missing)?;
        match self.decide(caller, action, &configuration) {
            Ok(permit) => Ok(permit),
            Err(denial) => Err(self.record_denial(caller, About::of(operation), &denial).await),
        }
    }

    /// What policy decides about an action on a configuration.
    pub(super) fn decide(
        &self,
        caller: &Caller,
        action: Action,
        configuration: &Configuration,
    ) -> Result<Permit<()>, Denial> {
        let resource = Resource { configuration, tags: &self.resolver.tags(&configuration.id) };
        self.policies.decide(caller, action, resource)
    }

    /// What is known of a configuration, and which of that is a guess because Graph cannot answer now. A deleted
    /// configuration is described by what is still known of it here.
    pub(super) async fn known_facts(
        &self,
        id: &ConfigurationId,
        name: Option<&str>,
        up_to: Duration,
    ) -> (Configuration, Vec<Attribute>) {
        let known = tokio::time::timeout(up_to, self.resolver.configuration(id)).await;
        let (kind, missing) = match known {
            Ok(Ok(Some(configuration))) => return (configuration, Vec::new()),
            Ok(Ok(None)) => (graph::kind_of(id), Vec::new()),
            Ok(Err(_)) | Err(_) => {
                let kind = graph::kind_of(id);
                let guessed =
                    [(Attribute::Name, true), (Attribute::Kind, kind == Kind::Unknown), (Attribute::Priority, true)];
                (kind, guessed.into_iter().filter_map(|(attribute, guessed)| guessed.then_some(attribute)).collect())
            }
        };
        (Configuration { id: id.clone(), name: name.unwrap_or_default().to_owned(), kind, priority: -1 }, missing)
    }

    /// Refuses to decide where policies look at missing facts: a `forbid` must not lapse during an outage of Graph.
    pub(super) fn check_decidable(&self, caller: &Caller, action: &str, missing: &[Attribute]) -> Result<(), Error> {
        if self.policies.depends_on(missing, caller, action) {
            let detail = "Graph does not tell at present what policies look at in the configuration".to_owned();
            return Err(Error::GraphUnavailable { detail, pause: None });
        }
        Ok(())
    }

    pub(super) async fn reload_operation(&self, id: OperationId) -> Result<Operation, Error> {
        self.store.operation(id).await?.ok_or(Error::UnknownOperation)
    }

    /// Why and until when a lane is parked, as of a moment ago: most are not, which must not cost a query each time.
    async fn parked(&self, configuration: &ConfigurationId) -> Result<Option<Parked>, Error> {
        let known = self.pauses.try_get_with_by_ref(configuration, self.store.parked(configuration)).await;
        known.map_err(|error| error.as_ref().clone().into())
    }

    async fn status(&self, mut operation: Operation) -> Result<OperationStatus, Error> {
        let follow_ups =
            if has_follow_ups(&operation) { self.store.follow_ups(operation.id).await? } else { FollowUps::default() };
        if (follow_ups.until.is_some() || follow_ups.callback.is_some()) && !operation.state.has_ended() {
            // Ends and callbacks are settled by the operation's state, so the operation is read again after them.
            operation = self.reload_operation(operation.id).await?;
        }
        let parked =
            if operation.state.has_ended() { None } else { self.parked(&operation.submission.configuration).await? };
        Ok(OperationStatus { operation, parked, follow_ups })
    }
}

/// Whether the change was submitted with an `until` or a callback.
fn has_follow_ups(operation: &Operation) -> bool {
    operation.submission.until.is_some() || operation.submission.callback.is_some()
}
