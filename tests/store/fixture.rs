//! Stores to run the verbs on, and sample data.
//!
//! To add another kind of store to the suite, add a variant to [`Kind`] and an arm to [`Fixture::try_open`].

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use postern::{
    audit::{Actor, Entry, Event, RecordedChange, Verifier},
    clock::Clock,
    config,
    domain::{
        Change, ConfigurationId, DesiredAssignment, Difference, Digest, Operation, OperationId, State, Target,
        approval::{Answer, Approval, Decision},
        operation::{Submission, SuccessEvidence},
    },
    store::{
        Acceptance, Accepted, ApprovalReply, Cancellation, Carried, Claim, Doubt, Error, IdempotencyKey, Intent, Lease,
        Parking, Part, PendingLimits, Query, Run, Settlement, Store, Turn, UnsettledWrites,
    },
};
use serde_json::Value;
use sqlx::Connection;
use tempfile::TempDir;
use uuid::Uuid;

use crate::{model_store::Database, server};

/// More than any test needs.
pub(crate) const AMPLE: PendingLimits = PendingLimits { per_configuration: 1_000_000, total: 1_000_000 };

/// A kind of store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Sqlite,
    Postgres,
    Model,
}

pub(crate) const KINDS: [Kind; 3] = [Kind::Sqlite, Kind::Postgres, Kind::Model];

/// The place of one store, initially empty, which can be opened repeatedly.
pub(crate) struct Fixture {
    pub(crate) kind: Kind,
    folder: TempDir,
    /// Of the database, if the store is in one.
    url: String,
    /// The model's database.
    model: Arc<Database>,
    /// The clock of every store opened here.
    pub(crate) clock: Clock,
}

/// Runs a test once for every kind of store, each with a new fixture.
pub(crate) async fn each(test: impl AsyncFn(Fixture)) {
    for kind in KINDS {
        test(Fixture::new(kind).await).await;
    }
}

impl Fixture {
    pub(crate) async fn new(kind: Kind) -> Self {
        let url = match kind {
            Kind::Sqlite | Kind::Model => String::new(),
            Kind::Postgres => server::shared().database().await,
        };
        let clock = Clock::system();
        Self { kind, folder: tempfile::tempdir().unwrap(), url, model: Database::new(clock), clock }
    }

    /// The corresponding settings.
    pub(crate) fn settings(&self) -> config::Store {
        match self.kind {
            Kind::Sqlite => config::Store::Sqlite(self.path()),
            Kind::Postgres => {
                config::Store::Postgres(config::Postgres { url: self.url.parse().unwrap(), password: None })
            }
            Kind::Model => panic!("no settings name the model"),
        }
    }

    /// A raw connection to the database, for what no verb does.
    pub(crate) async fn connection(&self) -> sqlx::PgConnection {
        sqlx::PgConnection::connect(&self.url).await.unwrap()
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("postern.db")
    }

    /// Opens the store as a new run.
    pub(crate) async fn open(&self) -> Arc<dyn Store> {
        self.try_open().await.unwrap_or_else(|error| panic!("{:?}: {error}", self.kind))
    }

    pub(crate) async fn try_open(&self) -> Result<Arc<dyn Store>, Error> {
        let run = Run { chain: self.clock.new_id().to_string(), clock: self.clock };
        match self.kind {
            Kind::Sqlite | Kind::Postgres => postern::store::open(&self.settings(), run).await,
            Kind::Model => Ok(Arc::new(self.model.open(run))),
        }
    }

    /// Lets minutes pass for leases and pauses: a store's time cannot be advanced, so they are moved back.
    pub(crate) async fn pass(&self, number: i64) {
        let micros = number * 60_000_000;
        match self.kind {
            Kind::Sqlite => {
                let url = format!("sqlite:{}", self.path().display());
                let mut connection = sqlx::SqliteConnection::connect(&url).await.unwrap();
                sqlx::query(
                    "UPDATE lanes SET lease_until = lease_until - ?1, not_before = not_before - ?1,
                                      replaced_at = replaced_at - ?1",
                )
                .bind(micros)
                .execute(&mut connection)
                .await
                .unwrap();
                sqlx::query("UPDATE operations SET callback_due = callback_due - ?1")
                    .bind(micros)
                    .execute(&mut connection)
                    .await
                    .unwrap();
                connection.close().await.unwrap();
            }
            Kind::Postgres => {
                let mut connection = self.connection().await;
                sqlx::query(
                    "UPDATE lanes SET lease_until = lease_until - $1 * INTERVAL '1 microsecond',
                                      not_before = not_before - $1 * INTERVAL '1 microsecond',
                                      replaced_at = replaced_at - $1 * INTERVAL '1 microsecond'",
                )
                .bind(micros)
                .execute(&mut connection)
                .await
                .unwrap();
                sqlx::query("UPDATE operations SET callback_due = callback_due - $1 * INTERVAL '1 microsecond'")
                    .bind(micros)
                    .execute(&mut connection)
                    .await
                    .unwrap();
                connection.close().await.unwrap();
            }
            Kind::Model => *self.model.passed.lock().unwrap() += minutes(number.unsigned_abs()),
        }
    }

    /// Ends this run and begins the next.
    pub(crate) async fn reopen(&self, store: Arc<dyn Store>) -> Arc<dyn Store> {
        store.close().await;
        drop(store);
        self.open().await
    }
}

/// A duration for leases and pauses. In minutes, so that the test's own running time does not matter.
pub(crate) fn minutes(number: u64) -> Duration {
    Duration::from_mins(number)
}

/// Whether two durations are equal, apart from the test's own running time.
pub(crate) fn is_about(found: Duration, expected: Duration) -> bool {
    found.abs_diff(expected) < Duration::from_mins(1)
}

/// This many seconds after the start of the test's time.
pub(crate) fn at(seconds: i64) -> Timestamp {
    "2026-03-01T08:00:00Z".parse::<Timestamp>().unwrap() + SignedDuration::from_secs(seconds)
}

pub(crate) fn lane(number: u8) -> ConfigurationId {
    format!("9f1c6a4e-8a77-4b8e-9d6e-3a54b2f1c0{number:02}_Limit").parse().unwrap()
}

pub(crate) fn id(number: u128) -> OperationId {
    OperationId::from(Uuid::from_u128(number))
}

pub(crate) fn digest(text: &str) -> Digest {
    Digest::of(text.as_bytes())
}

/// A queued operation with a value in every field.
pub(crate) fn operation(number: u128, lane: &ConfigurationId) -> Operation {
    let group = |number: u128| Target::Group(Uuid::from_u128(number).to_string().parse().unwrap());
    let change =
        Change::amend(vec![DesiredAssignment { target: group(number), filter: None }], vec![group(9_999)], 10).unwrap();
    let submission = Submission {
        configuration: lane.clone(),
        configuration_name: "Sales \"ESP\" \u{e9}".to_owned(),
        change,
        names: BTreeMap::from([(Uuid::from_u128(number).to_string(), "Sales Laptops".to_owned())]),
        caller: "servicenow".to_owned(),
        ticket: Some(format!("RITM{number}")),
        requested_for: Some("jane.doe@contoso.com".to_owned()),
        comment: Some("New sales floor\n'; DROP TABLE operations; --".to_owned()),
        accepted_at: at(0),
        only_on: Some(digest("seen")),
        until: None,
        approval: None,
        callback: None,
        traceparent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned()),
    };
    Operation { id: id(number), submission, state: State::Queued }
}

pub(crate) fn acceptance(operation: Operation) -> Acceptance {
    let Submission { configuration, change, caller, ticket, .. } = &operation.submission;
    let event = Event::Accepted {
        operation: operation.id,
        actor: actor(caller),
        configuration: configuration.to_string(),
        change: RecordedChange::from(change),
        ticket: ticket.clone(),
        requested_for: None,
        comment: None,
        only_on: None,
        until: None,
        policies: vec!["a".to_owned()],
        approvals: vec![],
    };
    let entry = Entry { at: at(0), trace_id: None, event };
    Acceptance { key: None, entry, operation, limits: AMPLE, carries_out_until_of: None, reverted_since: None }
}

fn actor(caller: &str) -> Actor {
    Actor { caller: Some(caller.to_owned()), issuer: "sandbox".to_owned(), subject: "s".to_owned(), token_id: None }
}

/// An operation that awaits approval until then.
pub(crate) fn awaiting(number: u128, lane: &ConfigurationId, until: i64) -> Operation {
    let Operation { id, submission, .. } = operation(number, lane);
    let approval =
        Approval { names: vec!["wide".to_owned()], asker: "s".to_owned(), expires_at: at(until), answer: None };
    Operation { id, submission: Submission { approval: Some(approval), ..submission }, state: State::AwaitingApproval }
}

/// An answer to the approval that this operation awaits.
pub(crate) fn reply(number: u128, word: Decision, now: i64) -> ApprovalReply {
    let (operation, actor, comment, policies) = (id(number), actor("approvers"), None, vec!["a".to_owned()]);
    let configuration = lane(1).to_string();
    let event = match word {
        Decision::Approved => Event::Approved { operation, configuration, actor, comment, policies },
        Decision::Rejected => Event::Rejected { operation, configuration, actor, comment, policies },
        Decision::Expired => Event::ApprovalExpired { operation, configuration },
    };
    let by = (word != Decision::Expired).then(|| "approvers".to_owned());
    let answer = Answer { word, at: at(now), by, comment: Some("Seen.".to_owned()) };
    ApprovalReply { operation, answer, entry: Entry { at: at(now), trace_id: None, event } }
}

/// A cancellation of this operation.
pub(crate) fn cancellation(number: u128, now: i64) -> Cancellation {
    let event = Event::Cancelled {
        operation: id(number),
        configuration: lane(1).to_string(),
        actor: actor("servicenow"),
        policies: vec!["a".to_owned()],
    };
    Cancellation { operation: id(number), at: at(now), entry: Entry { at: at(now), trace_id: None, event } }
}

/// An acceptance with a key, used now and kept for an hour.
pub(crate) fn keyed(operation: Operation, key: &str, asked: &str, now: i64) -> Acceptance {
    Acceptance { key: Some(used(key, asked, now)), ..acceptance(operation) }
}

pub(crate) fn used(key: &str, asked: &str, now: i64) -> IdempotencyKey {
    IdempotencyKey { key: key.to_owned(), fingerprint: digest(asked), used_at: at(now), expires_at: at(now + 3_600) }
}

/// Accepts operations of these numbers, in this order, on one lane.
pub(crate) async fn accept(store: &dyn Store, lane: &ConfigurationId, numbers: impl IntoIterator<Item = u128>) {
    for number in numbers {
        let accepted = store.accept(acceptance(operation(number, lane))).await.unwrap();
        assert!(matches!(accepted, Accepted::New), "{accepted:?}");
    }
}

/// A claim of a whole lane for ten minutes.
pub(crate) fn claim(lane: &ConfigurationId, owner: &str, now: i64) -> Claim {
    Claim {
        configuration: lane.clone(),
        owner: owner.to_owned(),
        at: at(now),
        ttl: minutes(10),
        batch_max: 100,
        trace_id: None,
    }
}

/// Claims a turn, which must be granted.
pub(crate) async fn turn(store: &dyn Store, claim: Claim) -> Turn {
    let lane = claim.configuration.clone();
    store.claim(claim).await.unwrap().turn().unwrap_or_else(|| panic!("no turn on {lane}"))
}

pub(crate) fn ids(operations: &[Operation]) -> Vec<OperationId> {
    operations.iter().map(|operation| operation.id).collect()
}

/// The successful end of a running operation.
pub(crate) fn succeeded(operation: &Operation, now: i64) -> (OperationId, State) {
    let difference = Difference { after: 1, ..Difference::default() };
    let ending =
        SuccessEvidence { at: at(now), difference, before: digest("before"), after: digest("after"), write: None };
    (operation.id, operation.state.clone().succeed(ending).unwrap())
}

/// A settlement that ends these and releases the lane, with an audit record each.
pub(crate) fn settlement(operations: &[Operation], now: i64) -> Settlement {
    let entry = |operation: &Operation| {
        let event = Event::Settled {
            operation: operation.id,
            configuration: operation.submission.configuration.to_string(),
            state: "succeeded",
            effect: Some("changed"),
            added: vec![],
            removed: vec![],
            changed: vec![],
            failure: None,
            request_id: None,
            client_request_id: None,
            graph: None,
        };
        Entry { at: at(now), trace_id: None, event }
    };
    Settlement {
        ended: operations.iter().map(|operation| succeeded(operation, now)).collect(),
        left: Some(digest("left")),
        replaced_sets: Vec::new(),
        entries: operations.iter().map(entry).collect(),
        keep: None,
        part: Part::Last(UnsettledWrites::default()),
    }
}

pub(crate) async fn settle(store: &dyn Store, lease: Lease, operations: &[Operation]) {
    assert!(store.settle(lease, settlement(operations, 5)).await.unwrap().is_none());
}

/// The announcement of a write that carries these, and what an earlier write may have done for each.
pub(crate) fn announced(operations: &[Operation]) -> UnsettledWrites {
    let carried = |it: &Operation| Carried { operation: it.id, difference: Difference::default(), done: None };
    let intent = Intent {
        before: digest("before"),
        after: digest("after"),
        client_request_id: "call-1".to_owned(),
        carried: operations.iter().map(carried).collect(),
        write: None,
    };
    let doubt = Doubt { difference: Difference::default(), write: intent.effect() };
    let doubts = operations.iter().map(|it| (it.id, doubt.clone())).collect();
    UnsettledWrites { intent: Some(intent), doubts }
}

/// The whole trail, with every record verified.
pub(crate) async fn trail(store: &dyn Store) -> Vec<Value> {
    let (mut records, mut verifier, mut after) = (Vec::new(), Verifier::default(), None);
    loop {
        let page = store.audit(after, 100).await.unwrap();
        for text in &page.records {
            verifier.feed(text).unwrap();
            records.push(serde_json::from_str(text).unwrap());
        }
        after = page.next;
        if after.is_none() {
            return records;
        }
    }
}

/// The trail's records with this event.
pub(crate) async fn records_of(store: &dyn Store, event: &str) -> Vec<Value> {
    trail(store).await.into_iter().filter(|record| record["event"] == event).collect()
}

/// All operations, newest first.
pub(crate) async fn all(store: &dyn Store) -> Vec<Operation> {
    store.operations(&Query { limit: 10_000, ..Query::default() }).await.unwrap()
}

pub(crate) async fn state(store: &dyn Store, number: u128) -> &'static str {
    store.operation(id(number)).await.unwrap().unwrap().state.name()
}

/// A pause of this many minutes.
pub(crate) fn parking(number: u64) -> Parking {
    Parking {
        pause: minutes(number),
        because: "Graph is throttling".to_owned(),
        announced: UnsettledWrites::default(),
        left: None,
        replaced_sets: Vec::new(),
        ended: vec![],
        entries: vec![],
    }
}
