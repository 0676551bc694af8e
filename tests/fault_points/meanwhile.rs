//! Reversals and ends, while somebody else acts between what the gateway reads and what it stores.

use std::{fs, path::Path, sync::Arc, time::Duration};

use postern::{
    audit::{Actor, Entry, Event, RecordedChange},
    clock::{self, Clock},
    config,
    domain::{
        Caller, Change, ConfigurationId, FilterMode, Operation, OperationId, Reversal, State,
        approval::{Answer, Approval, Decision},
        operation::Submission,
        reversal::Cause,
    },
    executor,
    gateway::{
        self, Gateway,
        request::{ChangeRequest, NamedFilter, NamedTarget, RequestedChange, RevertRequest, TargetRef},
    },
    policy::Policies,
    store::{Acceptance, ApprovalReply, PendingLimits, Run, Store},
};
use tokio_util::sync::CancellationToken;

use crate::{
    model_store::Database,
    plan::Faults,
    ports::{Kept, Meanwhile},
    tenant::Tenant,
};

/// A gateway and an executor in virtual time, and what both work with.
struct World {
    clock: Clock,
    store: Arc<Kept>,
    tenant: Arc<Tenant>,
    gateway: Arc<Gateway>,
}

fn configuration() -> ConfigurationId {
    "a0000000-0000-4000-8000-000000000001_Windows10EnrollmentCompletionPageConfiguration".parse().unwrap()
}

fn group() -> String {
    "b0000000-0000-4000-8000-000000000001".to_owned()
}

fn caller() -> Caller {
    Caller {
        name: "servicenow".to_owned(),
        issuer: "sandbox".to_owned(),
        subject: "s".to_owned(),
        token_id: None,
        certificate: None,
        roles: Vec::new(),
    }
}

/// Permits everything: policy is tested elsewhere.
fn policies() -> Policies {
    let folder = tempfile::tempdir().unwrap();
    let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/policies/schema.cedarschema");
    fs::copy(schema, folder.path().join("schema.cedarschema")).unwrap();
    fs::write(folder.path().join("all.cedar"), "@id(\"all\") permit (principal, action, resource);").unwrap();
    Policies::load(folder.path()).unwrap()
}

impl World {
    fn start() -> Self {
        let clock = Clock::simulated("2026-03-01T08:00:00Z".parse().unwrap(), 1);
        let model = Database::new(clock).open(Run { chain: "run".to_owned(), clock });
        let store = Arc::new(Kept {
            store: Arc::new(model),
            faults: Arc::<Faults>::default(),
            meanwhile: Meanwhile::default(),
        });
        let tenant = Arc::<Tenant>::default();
        let executor = executor::Dependencies {
            store: Arc::<Kept>::clone(&store),
            upstream: Arc::<Tenant>::clone(&tenant),
            clock,
            settings: config::Executor {
                lanes_max: 8,
                batch_max: 500,
                lease_ttl: Duration::from_mins(1),
                sweep_interval: Duration::from_millis(100),
                deadline: Duration::from_hours(24),
            },
            owner: "a replica".to_owned(),
        };
        tokio::spawn(executor::run(executor, CancellationToken::new()));
        let gateway = Gateway::new(gateway::Dependencies {
            store: Arc::<Kept>::clone(&store),
            upstream: Arc::<Tenant>::clone(&tenant),
            policies: policies(),
            catalogue: config::Catalogue::default(),
            callback_rules: gateway::CallbackRules::default(),
            settings: config::Operations {
                wait_default: Duration::from_secs(10),
                wait_max: Duration::from_mins(1),
                idempotency_ttl: Duration::from_hours(24 * 7),
                approval_ttl: Duration::from_hours(24 * 3),
                retention: Duration::from_hours(24 * 90),
                pending_max: 100,
                pending_per_configuration_max: 100,
                targets_max: 50,
            },
            names_ttl: Duration::from_hours(24),
            denied_per_minute: 1_000,
            clock,
            stopping: CancellationToken::new(),
        });
        Self { clock, store, tenant, gateway: Arc::new(gateway) }
    }

    /// Adds the group, with this filter, for an hour.
    async fn added(&self, filter: Option<u128>) -> Operation {
        let filter = filter.map(|number| NamedFilter {
            reference: uuid::Uuid::from_u128(number).to_string(),
            mode: FilterMode::Include,
        });
        let request = ChangeRequest {
            configuration: configuration().to_string(),
            change: RequestedChange::Amend {
                add: vec![NamedTarget { target: TargetRef::Group(group()), filter }],
                remove: Vec::new(),
            },
            ticket: Some("RITM0000001".to_owned()),
            requested_for: None,
            comment: None,
            only_on: None,
            until: Some(clock::after(self.clock.now(), Duration::from_hours(1))),
            callback: None,
        };
        let submitted = self.gateway.submit(&caller(), request, None).await.unwrap();
        self.succeeded(submitted.operation.id).await
    }

    async fn reverted(&self, id: OperationId) -> Operation {
        let undoing = self.gateway.revert(&caller(), id, RevertRequest::default(), None).await.unwrap();
        self.succeeded(undoing.operation.id).await
    }

    async fn succeeded(&self, id: OperationId) -> Operation {
        loop {
            let operation = self.store.operation(id).await.unwrap().unwrap();
            match operation.state {
                State::Succeeded(_) => return operation,
                State::AwaitingApproval | State::Queued | State::Running { .. } => {
                    self.clock.sleep(Duration::from_secs(1)).await;
                }
                ref state @ (State::Failed { .. } | State::Cancelled { .. }) => panic!("{state:?}"),
            }
        }
    }

    /// A reversal of this operation that awaits approval.
    async fn waiting_reversal(&self, of: &Operation) -> OperationId {
        let change = Change::Revert(Reversal::of(of, Cause::Asked).unwrap());
        let approval = Approval {
            names: vec!["wide".to_owned()],
            asker: "s".to_owned(),
            expires_at: clock::after(self.clock.now(), Duration::from_hours(99)),
            answer: None,
        };
        let submission = Submission { change, until: None, approval: Some(approval), ..of.submission.clone() };
        let id = OperationId::from(self.clock.new_id());
        let event = Event::Accepted {
            operation: id,
            actor: Actor { caller: None, issuer: "i".to_owned(), subject: "s".to_owned(), token_id: None },
            configuration: configuration().to_string(),
            change: RecordedChange::from(&submission.change),
            ticket: None,
            requested_for: None,
            comment: None,
            only_on: None,
            until: None,
            policies: Vec::new(),
            approvals: Vec::new(),
        };
        let acceptance = Acceptance {
            operation: Operation { id, submission, state: State::AwaitingApproval },
            key: None,
            entry: Entry { at: self.clock.now(), trace_id: None, event },
            limits: PendingLimits { per_configuration: 100, total: 100 },
            carries_out_until_of: None,
            reverted_since: None,
        };
        self.store.accept(acceptance).await.unwrap();
        id
    }

    fn approval(&self, operation: OperationId) -> ApprovalReply {
        let at = self.clock.now();
        let answer = Answer { word: Decision::Approved, at, by: Some("approvers".to_owned()), comment: None };
        let event = Event::ApprovalExpired { operation, configuration: configuration().to_string() };
        ApprovalReply { operation, answer, entry: Entry { at, trace_id: None, event } }
    }
}

/// A change was reverted, and somebody wants it back until its end: that is approved, and begins, just when the end comes.
#[tokio::test(start_paused = true)]
async fn an_end_waits_for_a_reversal_that_is_approved_at_that_moment() {
    let world = World::start();
    let original = world.added(None).await;
    let undoing = world.reverted(original.id).await;
    let redoing = world.waiting_reversal(&undoing).await;
    world.clock.sleep(Duration::from_hours(2)).await;
    let (store, clock, approval) = (Arc::clone(&world.store.store), world.clock, world.approval(redoing));
    world.store.meanwhile.plan(async move {
        store.answer_approval(approval).await.unwrap();
        while store.operation(redoing).await.unwrap().unwrap().state == State::Queued {
            clock.sleep(Duration::from_millis(1)).await;
        }
    });
    world.gateway.carry_out_due_untils().await.unwrap();
    world.succeeded(redoing).await;
    world.gateway.carry_out_due_untils().await.unwrap();
    for reversal in world.store.follow_ups(original.id).await.unwrap().reversals {
        world.succeeded(reversal.id).await;
    }
    assert!(world.tenant.targets(&configuration()).is_empty(), "it does not outlast its end");
}

/// A group was added, and then narrowed by a filter; both are reverted at the same moment.
#[tokio::test(start_paused = true)]
async fn reversals_that_are_requested_at_once_restore_nothing_that_is_undone() {
    let world = World::start();
    let first = world.added(None).await;
    let second = world.added(Some(7)).await;
    let gateway = Arc::clone(&world.gateway);
    let id = first.id;
    world.store.meanwhile.plan(async move {
        gateway.revert(&caller(), id, RevertRequest::default(), None).await.unwrap();
    });
    world.reverted(second.id).await;
    for reversal in world.store.follow_ups(first.id).await.unwrap().reversals {
        world.succeeded(reversal.id).await;
    }
    assert!(world.tenant.targets(&configuration()).is_empty(), "both are undone");
}
