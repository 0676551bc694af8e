//! A gateway over a store in a file and a Graph that counts its calls.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;

use super::{
    operations::{SEARCH_ROUNDS, SEEN_AT_ONCE},
    request::RequestedChange,
    *,
};
use crate::{
    config::CatalogueEntry,
    domain::{AssignmentSet, ConfigurationId, GroupId, Kind, Role},
    graph::{self, AssignmentFilter, CurrentAssignments, Group, Receipt, WriteGrant},
    store::{Run, Sqlite},
};

const ID: &str = "a0000000-0000-4000-8000-000000000001_Limit";

/// A Graph with one configuration, or one that does not answer.
#[derive(Debug, Default)]
struct Tenant {
    asked: AtomicUsize,
    down: std::sync::atomic::AtomicBool,
    /// The groups that each call asked for.
    groups: std::sync::Mutex<Vec<Vec<GroupId>>>,
}

#[async_trait]
impl Upstream for Tenant {
    async fn configuration(&self, _id: &ConfigurationId) -> Result<Configuration, graph::Error> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if self.down.load(Ordering::SeqCst) {
            return Err(graph::Error::Unavailable("down".to_owned()));
        }
        Ok(Configuration { id: ID.parse().unwrap(), name: "Five".to_owned(), kind: Kind::DeviceLimit, priority: 3 })
    }

    async fn configurations(&self) -> Result<Vec<Configuration>, graph::Error> {
        Ok(vec![self.configuration(&ID.parse().unwrap()).await?])
    }

    async fn groups(&self, ids: &[GroupId]) -> Result<Vec<Group>, graph::Error> {
        self.groups.lock().unwrap().push(ids.to_vec());
        tokio::task::yield_now().await;
        Ok(Vec::new())
    }

    async fn groups_named(&self, _name: &str) -> Result<Vec<Group>, graph::Error> {
        Ok(Vec::new())
    }

    async fn groups_beginning(&self, _with: &str) -> Result<Vec<Group>, graph::Error> {
        Ok(Vec::new())
    }

    async fn filters(&self) -> Result<Vec<AssignmentFilter>, graph::Error> {
        Ok(Vec::new())
    }

    async fn read_assignments(&self, _id: &ConfigurationId) -> Result<CurrentAssignments, graph::Error> {
        Err(graph::Error::Unavailable("down".to_owned()))
    }

    async fn replace_assignments(
        &self,
        _id: &ConfigurationId,
        _set: &AssignmentSet,
        _grant: &WriteGrant,
    ) -> Result<Receipt, graph::Error> {
        Err(graph::Error::Unavailable("down".to_owned()))
    }
}

struct World {
    tenant: Arc<Tenant>,
    gateway: Gateway,
    _dir: tempfile::TempDir,
}

impl World {
    /// The catalogue spells the id with capitals; names are not cached.
    async fn new(policies: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let schema = concat!(env!("CARGO_MANIFEST_DIR"), "/config/policies/schema.cedarschema");
        std::fs::copy(schema, dir.path().join("schema.cedarschema")).unwrap();
        std::fs::write(dir.path().join("a.cedar"), policies).unwrap();
        let run = Run { chain: "a".to_owned(), clock: Clock::system() };
        let id = ID.replace("Limit", "LIMIT").parse().unwrap();
        let catalogued = CatalogueEntry { id, tags: BTreeSet::from(["frozen".to_owned()]) };
        let tenant = Arc::new(Tenant::default());
        let gateway = Gateway::new(Dependencies {
            store: Arc::new(Sqlite::open(&dir.path().join("store"), run).await.unwrap()),
            upstream: Arc::<Tenant>::clone(&tenant),
            policies: Policies::load(dir.path()).unwrap(),
            catalogue: config::Catalogue {
                configurations: BTreeMap::from([("limit".to_owned(), catalogued)]),
                ..config::Catalogue::default()
            },
            callback_rules: CallbackRules::default(),
            settings: config::Operations {
                wait_default: Duration::ZERO,
                wait_max: Duration::from_secs(10),
                idempotency_ttl: Duration::from_hours(1),
                approval_ttl: Duration::from_hours(72),
                retention: Duration::from_hours(1),
                targets_max: 10,
                pending_max: 10_000,
                pending_per_configuration_max: 10_000,
            },
            names_ttl: Duration::ZERO,
            denied_per_minute: 1_000,
            clock: Clock::system(),
            stopping: CancellationToken::new(),
        });
        Self { tenant, gateway, _dir: dir }
    }

    async fn submit(&self, configuration: &str) -> Result<Submitted, Error> {
        let group = "b0000000-0000-4000-8000-000000000001".to_owned();
        let named = request::NamedTarget { target: request::TargetRef::Group(group), filter: None };
        let change = RequestedChange::Amend { add: Vec::new(), remove: vec![named] };
        let configuration = configuration.to_owned();
        let request = ChangeRequest {
            configuration,
            change,
            ticket: None,
            requested_for: None,
            comment: None,
            only_on: None,
            until: None,
            callback: None,
        };
        self.gateway.submit(&caller("writer"), request, None).await
    }

    async fn page(&self, of: &str, limit: usize) -> Page {
        self.gateway.operations(&caller(of), Search { limit, ..Search::default() }).await.unwrap()
    }
}

fn caller(name: &str) -> Caller {
    Caller {
        name: name.to_owned(),
        issuer: "issuer".to_owned(),
        subject: "subject".to_owned(),
        token_id: None,
        certificate: None,
        roles: vec![Role::new("role")],
    }
}

const OPEN: &str = r#"@id("open") permit (principal == Postern::Caller::"writer", action, resource);"#;

#[tokio::test]
async fn a_configuration_has_one_lane_and_one_set_of_tags_however_its_id_is_spelt() {
    let world = World::new(OPEN).await;
    for spelt in [ID, &ID.to_lowercase(), &ID.to_uppercase(), "limit"] {
        assert_eq!(world.submit(spelt).await.unwrap().operation.submission.configuration.as_str(), ID, "{spelt}");
    }
    for spelt in [ID, &ID.to_lowercase(), &ID.to_uppercase(), "limit", "Five"] {
        let search = Search { configuration: Some(spelt.to_owned()), limit: 50, ..Search::default() };
        let found = world.gateway.operations(&caller("writer"), search).await.unwrap();
        assert_eq!(found.operations.len(), 4, "{spelt}");
    }
    let frozen = r#"@id("frozen") forbid (principal, action == Postern::Action::"remove", resource)
        when { resource.tags.contains("frozen") };"#;
    let world = World::new(&format!("{OPEN}\n{frozen}")).await;
    for spelt in [ID, &ID.to_lowercase(), &ID.to_uppercase(), "limit"] {
        assert!(matches!(world.submit(spelt).await, Err(Error::Denied(_))), "{spelt}");
    }
}

#[tokio::test]
async fn groups_that_one_caller_names_by_id_keep_nobody_elses_waiting() {
    let tenant = Arc::new(Tenant::default());
    let (names, shares) =
        (NameLookup::new(Arc::<Tenant>::clone(&tenant), Duration::from_mins(1)), LookupQuotas::default());
    let id = |number: u32| format!("b0000000-0000-4000-8000-{number:012}").parse::<GroupId>().unwrap();
    let (flooding, other) = (shares.of(&caller("flooding")), shares.of(&caller("other")));
    let flood = futures_util::future::join_all((0..100).map(|number| names.group_for(id(number), &flooding)));
    let (_, found) = tokio::join!(flood, names.group_for(id(100), &other));
    assert_eq!(found.unwrap(), None);
    let calls = tenant.groups.lock().unwrap().clone();
    assert_eq!(calls.iter().flatten().collect::<BTreeSet<_>>().len(), 101);
    assert!(calls.iter().take(2).flatten().any(|asked| *asked == id(100)), "{calls:?}");
    assert!(calls.len() <= 8, "and many share a call: {calls:?}");
    // Nobody is asked about what nobody waits for.
    let (hung_up, kept) = (names.group_for(id(200), &flooding), names.group_for(id(201), &other));
    tokio::select! {
        biased;
        _ = hung_up => panic!("answered at once"),
        () = std::future::ready(()) => {}
    }
    kept.await.unwrap();
    assert_eq!(*tenant.groups.lock().unwrap().last().unwrap(), [id(201)]);
}

#[tokio::test]
async fn a_search_asks_graph_once_for_a_configuration_even_if_it_is_down() {
    let world = World::new(OPEN).await;
    for _ in 0..5 {
        world.submit(ID).await.unwrap();
    }
    world.tenant.down.store(true, Ordering::SeqCst);
    let before = world.tenant.asked.load(Ordering::SeqCst);
    assert_eq!(world.page("writer", 50).await.operations.len(), 5);
    assert_eq!(world.tenant.asked.load(Ordering::SeqCst), before + 1);
    let page = world.page("writer", 2).await;
    assert_eq!(page.next, page.operations.get(1).map(|operation| operation.id));
}

#[tokio::test]
async fn a_search_ends_for_a_caller_who_may_read_nothing() {
    let world = World::new(OPEN).await;
    futures_util::future::join_all((0..=SEEN_AT_ONCE * SEARCH_ROUNDS).map(|_| world.submit(ID))).await;
    let page = world.page("stranger", 1).await;
    assert!(page.operations.is_empty() && page.next.is_some());
    let search = Search { limit: 1, after: page.next, ..Search::default() };
    assert!(world.gateway.operations(&caller("stranger"), search).await.unwrap().next.is_none());
}
