//! The verbs that callers have: submit, plan, one operation, many operations, wait.
//!
//! Every verb takes a proven [`Caller`] and asks policy before it does anything; storing a change takes the [`Permit`]
//! that only policy makes. REST handlers end here, and so will webhooks.
//!
//! Guarantees: a change is accepted wholly or not at all; what was denied is in the audit trail before it is answered;
//! after acceptance nothing is left to do that a crash could undo.
//!
//! It deliberately writes nothing to Graph. It reads there, to resolve names and to plan.

mod names;
pub mod request;
mod resolve;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use self::{
    names::Names,
    request::{ChangeRequest, Fault},
    resolve::{Directory, Resolved, Unresolved},
};
use crate::{
    audit::{Actor, Aims, Entry, Event},
    clock::{self, Clock},
    config,
    domain::{
        Caller, Change, Configuration, Difference, Digest, Operation, OperationId, State, merge, operation::Submission,
    },
    graph::{self, Upstream},
    policy::{Action, Denial, Permit, Policies, Resource},
    store::{self, Acceptance, Accepted, IdempotencyKey, Query, Store},
    telemetry,
};

pub use crate::store::Parked;

/// Why a verb did not do what was asked, by what the caller can do about it.
#[derive(Debug)]
pub enum Error {
    /// Name another configuration.
    UnknownConfiguration {
        /// What was named.
        reference: String,
        /// What could be meant.
        candidates: Vec<String>,
    },
    /// Name other groups or filters.
    UnknownTarget(Vec<Fault>),
    /// Ask for other targets.
    NotAssignable(Vec<Fault>),
    /// Mend the change.
    InvalidChange(Vec<Fault>),
    /// Ask the security officer; the sentence names the policy.
    Denied(String),
    /// Use another idempotency key.
    KeyReused(OperationId),
    /// Name another operation.
    UnknownOperation,
    /// Ask again later.
    GraphUnavailable {
        /// What happened.
        detail: String,
        /// When, if Graph said so.
        pause: Option<Duration>,
    },
    /// Tell the gateway's operators.
    GraphNotAuthorised(String),
    /// Graph's answer makes no sense.
    GraphUnusable(String),
    /// Ask again later; nothing was recorded.
    Store(store::Error),
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        Self::Store(error)
    }
}

impl From<graph::Error> for Error {
    fn from(error: graph::Error) -> Self {
        let detail = error.to_string();
        match error {
            graph::Error::Throttled { pause } => Self::GraphUnavailable { detail, pause: Some(pause) },
            graph::Error::Unavailable(_) | graph::Error::Unknown(_) => Self::GraphUnavailable { detail, pause: None },
            graph::Error::Unauthorised(_) | graph::Error::Forbidden(_) => Self::GraphNotAuthorised(detail),
            graph::Error::Missing(_) | graph::Error::Refused(_) | graph::Error::Unreadable(_) => {
                Self::GraphUnusable(detail)
            }
        }
    }
}

impl From<Unresolved> for Error {
    fn from(unresolved: Unresolved) -> Self {
        match unresolved {
            Unresolved::Configuration { reference, candidates } => Self::UnknownConfiguration { reference, candidates },
            Unresolved::Unknown(faults) => Self::UnknownTarget(faults),
            Unresolved::NotAssignable(faults) => Self::NotAssignable(faults),
            Unresolved::Invalid(faults) => Self::InvalidChange(faults),
            Unresolved::Graph(error) => error.into(),
        }
    }
}

/// A proven identity that is no known caller.
#[derive(Clone, Debug)]
pub struct Stranger {
    /// The configured name of its issuer.
    pub issuer: String,
    /// The token's subject.
    pub subject: String,
    /// The token's own id.
    pub token_id: Option<String>,
    /// Why it is no known caller.
    pub reason: String,
}

/// The caller's name for this attempt, and what it asked under it.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The value of `Idempotency-Key`.
    pub key: String,
    /// Digest of the body in canonical form.
    pub fingerprint: Digest,
}

/// An accepted change.
#[derive(Clone, Debug)]
pub struct Submitted {
    /// Its operation, as it stands.
    pub operation: Operation,
    /// Whether an earlier attempt under the same key made it.
    pub replayed: bool,
}

/// An operation and, if it has not ended, what holds it up.
#[derive(Clone, Debug)]
pub struct Standing {
    /// The operation.
    pub operation: Operation,
    /// Its lane's pause, if it is parked.
    pub parked: Option<Parked>,
}

/// What a change would do to the present set.
#[derive(Clone, Debug)]
pub struct Planned {
    /// The configuration.
    pub configuration: Configuration,
    /// The difference it would make.
    pub difference: Difference,
    /// Display names by ids.
    pub names: BTreeMap<String, String>,
    /// Digest of the present set.
    pub before: Digest,
    /// Digest of the set it would leave.
    pub after: Digest,
}

/// Which operations a caller looks for: those that fit everything given, newest first.
#[derive(Clone, Debug, Default)]
pub struct Search {
    /// Of this ticket.
    pub ticket: Option<String>,
    /// On the configuration of this id or alias.
    pub configuration: Option<String>,
    /// Of the caller of this name.
    pub caller: Option<String>,
    /// In the state of this name.
    pub state: Option<String>,
    /// Older than this one.
    pub after: Option<OperationId>,
    /// At most so many.
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

/// What the gateway is made of.
#[derive(Debug)]
pub struct Parts {
    /// Where operations are kept.
    pub store: Arc<dyn Store>,
    /// Where names and sets are read.
    pub upstream: Arc<dyn Upstream>,
    /// Who may do what.
    pub policies: Policies,
    /// The operator's names.
    pub catalogue: config::Catalogue,
    /// Limits and times.
    pub settings: config::Operations,
    /// How long names are remembered.
    pub names_ttl: Duration,
    /// The time.
    pub clock: Clock,
    /// Cancelled when the process is about to stop: then nobody is kept waiting.
    pub stopping: CancellationToken,
}

/// The gate.
#[derive(Debug)]
pub struct Gateway {
    store: Arc<dyn Store>,
    upstream: Arc<dyn Upstream>,
    policies: Policies,
    directory: Directory,
    settings: config::Operations,
    clock: Clock,
    stopping: CancellationToken,
}

/// What a denied call was about.
struct About<'a> {
    configuration: &'a Configuration,
    change: &'a Change,
    ticket: Option<String>,
}

impl Gateway {
    /// A gateway of these parts; needs a running runtime.
    pub fn new(parts: Parts) -> Self {
        let Parts { store, upstream, policies, catalogue, settings, names_ttl, clock, stopping } = parts;
        let names = Names::new(Arc::clone(&upstream), names_ttl);
        let directory = Directory::new(catalogue, names, settings.targets_max);
        Self { store, upstream, policies, directory, settings, clock, stopping }
    }

    /// Accepts a change: when this returns, it is durable.
    pub async fn submit(
        &self,
        caller: &Caller,
        request: ChangeRequest,
        attempt: Option<Attempt>,
    ) -> Result<Submitted, Error> {
        let key = attempt.map(|attempt| self.key(attempt));
        if let Some(key) = &key
            && let Some(known) = self.store.recall(&caller.name, key).await?
        {
            // What an earlier attempt was answered holds, even if a name has since gone or a policy has changed.
            return self.remembered(known).await;
        }
        let resolved = self.directory.resolve(&request).await?;
        let permit = self.permit(caller, request, resolved).await?;
        self.accept(caller, permit, key).await
    }

    /// What a change would do at present; nothing is written.
    pub async fn plan(&self, caller: &Caller, request: ChangeRequest) -> Result<Planned, Error> {
        let Resolved { configuration, tags, change, names } = self.directory.resolve(&request).await?;
        let resource = Resource { configuration: &configuration, tags: &tags };
        if let Err(denial) = self.policies.decide(caller, Action::Plan, resource) {
            let about = About { configuration: &configuration, change: &change, ticket: request.ticket };
            return Err(self.denied(caller, about, &denial).await);
        }
        let present = self.upstream.read_assignments(&configuration.id).await?.direct;
        let mut plan = merge(&present, [&change]);
        let difference = plan.differences.pop().unwrap_or_default();
        Ok(Planned { configuration, difference, names, before: present.digest(), after: plan.desired.digest() })
    }

    /// One operation, if the caller may read it.
    pub async fn operation(&self, caller: &Caller, id: OperationId) -> Result<Standing, Error> {
        let operation = self.store.operation(id).await?.ok_or(Error::UnknownOperation)?;
        if !self.may_read(caller, &operation).await? {
            return Err(Error::UnknownOperation);
        }
        self.standing(operation).await
    }

    /// Waits for the end of an operation that was submitted or read before, for so long at most.
    pub async fn wait(&self, operation: Operation, up_to: Duration) -> Result<Standing, Error> {
        let up_to = up_to.min(self.settings.wait_max);
        if operation.state.has_ended() || up_to.is_zero() {
            return self.standing(operation).await;
        }
        let mut end = self.store.notices().end_of(operation.id);
        // It may have ended before we registered; from here on no end goes unnoticed.
        let mut latest = self.reread(operation.id).await?;
        if !latest.state.has_ended() {
            tokio::select! {
                () = end.notice() => {}
                () = self.clock.sleep(up_to) => {}
                () = self.stopping.cancelled() => {}
            }
            latest = self.reread(operation.id).await?;
        }
        self.standing(latest).await
    }

    /// Operations that fit a search and that the caller may read.
    pub async fn operations(&self, caller: &Caller, search: Search) -> Result<Page, Error> {
        let Search { ticket, configuration, caller: of_caller, state, after, limit: wanted } = search;
        let configuration = configuration.map(|reference| self.directory.configuration_id(&reference)).transpose()?;
        let mut query = Query { ticket, configuration, caller: of_caller, state, after, limit: wanted };
        let mut operations = Vec::new();
        loop {
            let found = self.store.operations(&query).await?;
            let last_page = found.len() < query.limit;
            query.after = found.last().map(|operation| operation.id);
            for operation in found {
                if self.may_read(caller, &operation).await? {
                    operations.push(operation);
                }
                if operations.len() == wanted {
                    return Ok(Page { next: operations.last().map(|operation| operation.id), operations });
                }
            }
            if last_page {
                return Ok(Page { operations, next: None });
            }
        }
    }

    /// Puts a call on record that proved an identity which is no known caller.
    pub async fn unknown_caller(&self, stranger: Stranger) -> Result<(), Error> {
        let Stranger { issuer, subject, token_id, reason } = stranger;
        let actor = Actor { caller: None, issuer, subject, token_id };
        let action = "authenticate".to_owned();
        let event = Event::Denied { actor, action, configuration: None, change: None, ticket: None, reason };
        Ok(self.store.record(vec![self.entry(event)]).await?)
    }

    /// How long a caller waits who does not say how long.
    pub fn wait_default(&self) -> Duration {
        self.settings.wait_default
    }

    /// How long a caller may wait at most.
    pub fn wait_max(&self) -> Duration {
        self.settings.wait_max
    }

    /// Why this gateway cannot accept changes at present, if it cannot.
    pub async fn ready(&self) -> Result<(), store::Error> {
        self.store.probe(self.clock.now()).await
    }

    /// The present moment, for times in answers.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn key(&self, Attempt { key, fingerprint }: Attempt) -> IdempotencyKey {
        let used_at = self.clock.now();
        IdempotencyKey { key, fingerprint, used_at, expires_at: clock::after(used_at, self.settings.idempotency_ttl) }
    }

    async fn remembered(&self, known: Accepted) -> Result<Submitted, Error> {
        match known {
            Accepted::Replayed(operation) => {
                let operation = self.reread(operation.id).await?;
                Ok(Submitted { operation, replayed: true })
            }
            Accepted::KeyReused(operation) => Err(Error::KeyReused(operation)),
            Accepted::New => Err(Error::UnknownOperation),
        }
    }

    /// Has policy decide every target of a change.
    async fn permit(
        &self,
        caller: &Caller,
        request: ChangeRequest,
        resolved: Resolved,
    ) -> Result<Permit<Submission>, Error> {
        let Resolved { configuration, tags, change, names } = resolved;
        let ChangeRequest { ticket, requested_for, comment, .. } = request;
        let submission = Submission {
            configuration: configuration.id.clone(),
            configuration_name: configuration.name.clone(),
            change: change.clone(),
            names,
            caller: caller.name.clone(),
            ticket: ticket.clone(),
            requested_for,
            comment,
            accepted_at: self.clock.now(),
            traceparent: telemetry::traceparent(),
        };
        let resource = Resource { configuration: &configuration, tags: &tags };
        match self.policies.decide_change(caller, resource, submission) {
            Ok(permit) => Ok(permit),
            Err(denial) => {
                let about = About { configuration: &configuration, change: &change, ticket };
                Err(self.denied(caller, about, &denial).await)
            }
        }
    }

    /// Stores a permitted change. Takes nothing but a permit, so nothing is stored that policy has not seen.
    async fn accept(
        &self,
        caller: &Caller,
        permit: Permit<Submission>,
        key: Option<IdempotencyKey>,
    ) -> Result<Submitted, Error> {
        let policies = permit.policies().to_vec();
        let submission = permit.into_inner();
        let id = OperationId::from(self.clock.identifier());
        let event = Event::Accepted {
            operation: id,
            actor: actor(caller),
            configuration: submission.configuration.to_string(),
            change: Aims::from(&submission.change),
            ticket: submission.ticket.clone(),
            requested_for: submission.requested_for.clone(),
            comment: submission.comment.clone(),
            policies,
        };
        let operation = Operation { id, submission, state: State::Queued };
        let acceptance = Acceptance { operation: operation.clone(), key, entry: self.entry(event) };
        match self.store.accept(acceptance).await? {
            Accepted::New => {
                tracing::info!(operation.id = %id, caller.name = caller.name, "operation accepted");
                Ok(Submitted { operation, replayed: false })
            }
            known @ (Accepted::Replayed(_) | Accepted::KeyReused(_)) => self.remembered(known).await,
        }
    }

    /// Puts a denial on record, and is the error that tells of it.
    async fn denied(&self, caller: &Caller, about: About<'_>, denial: &Denial) -> Error {
        let reason = denial.to_string();
        let event = Event::Denied {
            actor: actor(caller),
            action: denial.action.to_owned(),
            configuration: Some(about.configuration.id.to_string()),
            change: Some(Aims::from(about.change)),
            ticket: about.ticket,
            reason: reason.clone(),
        };
        match self.store.record(vec![self.entry(event)]).await {
            Ok(()) => Error::Denied(reason),
            Err(error) => Error::Store(error),
        }
    }

    /// Whether policy lets the caller read about this operation.
    async fn may_read(&self, caller: &Caller, operation: &Operation) -> Result<bool, Error> {
        let id = &operation.submission.configuration;
        // A configuration that is gone, or that Graph cannot tell of now, is judged by what the operation knows of it.
        let known = self.directory.configuration(id).await.ok().flatten();
        let configuration = known.unwrap_or_else(|| Configuration {
            id: id.clone(),
            name: operation.submission.configuration_name.clone(),
            kind: crate::domain::Kind::Unknown,
            priority: -1,
        });
        let resource = Resource { configuration: &configuration, tags: &self.directory.tags(id) };
        let own = operation.submission.caller == caller.name;
        Ok(self.policies.decide(caller, Action::Read { own }, resource).is_ok())
    }

    async fn reread(&self, id: OperationId) -> Result<Operation, Error> {
        self.store.operation(id).await?.ok_or(Error::UnknownOperation)
    }

    async fn standing(&self, operation: Operation) -> Result<Standing, Error> {
        let parked = if operation.state.has_ended() {
            None
        } else {
            self.store.parked(&operation.submission.configuration).await?
        };
        Ok(Standing { operation, parked })
    }

    fn entry(&self, event: Event) -> Entry {
        Entry { at: self.clock.now(), trace_id: telemetry::trace_id(), event }
    }
}

fn actor(caller: &Caller) -> Actor {
    Actor {
        caller: Some(caller.name.clone()),
        issuer: caller.issuer.clone(),
        subject: caller.subject.clone(),
        token_id: caller.token_id.clone(),
    }
}
