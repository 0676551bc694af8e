//! The composition root: settings in, running parts out, and the order in which they stop.
//!
//! Start: policies, store (its first audit record opens this run's chain), Graph, executor, retention, then the doors. Nothing
//! answers before everything behind it works.
//!
//! Stop, under one deadline: not ready any more; no new connections, and waiting callers get their 202; the executor
//! ends the turns that are under way; the store closes. Whatever the deadline cuts off stands in the store and is taken
//! up at the next start.
//!
//! It deliberately decides nothing else; every part is made here and knows only what it is given.

use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::Arc,
    time::Duration,
};

use actix_web::{
    dev::{Server, ServerHandle},
    web,
};
use anyhow::{Context, anyhow};
use tokio::{sync::Notify, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    api,
    auth::Authenticator,
    census::Census,
    clock::Clock,
    config::{self, Config, Fault},
    executor,
    gateway::{self, Current, Gateway},
    graph::{self, Graph, Upstream},
    outbound::{Outbound, Way},
    policy::Policies,
    reload::{Content, Reload},
    retention::Retention,
    store::{self, Run, Store},
    webhooks::Webhooks,
};

/// Where callers and probes come in.
#[derive(Debug)]
struct Doors {
    scheme: &'static str,
    address: SocketAddr,
    admin_address: SocketAddr,
    handles: Vec<ServerHandle>,
}

/// Something of the gateway that runs by itself.
type Part = JoinHandle<()>;

/// A gateway that is running.
#[derive(Debug)]
pub struct Running {
    store: Arc<dyn Store>,
    stopping: CancellationToken,
    working: CancellationToken,
    doors: Doors,
    tasks: Vec<Part>,
    executor: Part,
    asked: Arc<Notify>,
    deadline: Duration,
    clock: Clock,
}

/// Starts a gateway.
pub async fn start(config: Config, clock: Clock) -> anyhow::Result<Running> {
    // Looked at first: what changes after this is taken up later.
    let in_force = Content::at_start(&config.origin, &config.policy.dir);
    let policies = Policies::load(&config.policy.dir).map_err(|faults| anyhow!(listed(&faults)))?;
    // Before anything is opened: an address in use must not cost the store a run.
    let listener = listen(config.server.listen, "server.listen")?;
    let admin_listener = listen(config.server.admin_listen, "server.admin_listen")?;
    let certificate = config.server.tls.clone().map(api::Certificate::open).transpose()?;
    let run = Run { chain: clock.identifier().to_string(), clock };
    let owner = run.chain.clone();
    let store = store::open(&config.store, run).await?;
    let by_token = config.callers.iter().map(|caller| caller.name.clone());
    let callers: Vec<_> = by_token.chain(config.webhooks.iter().map(|webhook| webhook.caller.clone())).collect();
    store.record(vec![in_force.loaded(callers.clone(), clock)]).await?;

    let outbound = outbound(&config.outbound, clock)?;
    let upstream: Arc<dyn Upstream> = Arc::new(Graph::new(config.graph.clone(), outbound.clone(), clock));
    let (stopping, working) = (CancellationToken::new(), CancellationToken::new());
    let executor = executor::Parts {
        store: Arc::clone(&store),
        upstream: Arc::clone(&upstream),
        clock,
        settings: config.executor.clone(),
        owner,
    };
    let executor = tokio::spawn(executor::run(executor, working.clone()));
    tokio::spawn(graph::watch(config.graph.clone(), clock, stopping.clone()));

    let retention = Retention { store: Arc::clone(&store), clock, operations: config.operations.retention };
    let limits = api::Limits::new(&config.callers, &config.webhooks, &config.server, clock);
    let webhooks = Arc::new(Webhooks::new(config.webhooks, &config.catalogue));
    let gateway = Arc::new(Gateway::new(gateway::Parts {
        store: Arc::clone(&store),
        upstream,
        policies,
        catalogue: config.catalogue,
        settings: config.operations,
        names_ttl: config.graph.names_ttl,
        clock,
        stopping: stopping.clone(),
    }));
    let mut tasks = keepers(&gateway, retention, config.executor.sweep_interval, &stopping);
    let (gateway, asked) = (Arc::new(Current::new(gateway)), Arc::new(Notify::new()));
    let reload = Reload {
        current: Arc::clone(&gateway),
        webhooks: Arc::clone(&webhooks),
        store: Arc::clone(&store),
        clock,
        origin: config.origin,
        policy: config.policy,
        asked: Arc::clone(&asked),
        in_force,
        callers,
    };
    tasks.push(tokio::spawn(reload.run(stopping.clone())));
    let state = web::Data::new(api::State {
        gateway,
        limits,
        authenticator: Authenticator::new(config.issuers, config.callers, &outbound, clock),
        webhooks,
        settings: config.server.clone(),
        stopping: stopping.clone(),
        clock,
    });
    tokio::spawn(state.authenticator.keep_keys_fresh(&stopping));
    if let Some(certificate) = &certificate {
        tokio::spawn(Arc::clone(certificate).keep_fresh(clock, stopping.clone()));
    }
    let deadline = config.server.stop_deadline;
    let (doors, serving) = open((listener, admin_listener), state, certificate.as_ref())?;
    tasks.extend(serving);
    tracing::info!(address = %doors.address, admin_address = %doors.admin_address, "the gateway is ready");
    Ok(Running { store, stopping, working, doors, tasks, executor, asked, deadline, clock })
}

/// What is looked after for as long as the gateway runs.
fn keepers(
    gateway: &Arc<Gateway>,
    retention: Retention,
    sweep_interval: Duration,
    stopping: &CancellationToken,
) -> Vec<Part> {
    let census = Census { store: Arc::clone(&retention.store), clock: retention.clock };
    let (keeper, stop) = (Arc::clone(gateway), stopping.clone());
    vec![
        tokio::spawn(retention.run(stopping.clone())),
        tokio::spawn(census.run(stopping.clone())),
        tokio::spawn(async move { keeper.keep_ends(stop).await }),
        tokio::spawn(Arc::clone(gateway).end_unanswered(sweep_interval, stopping.clone())),
    ]
}

/// Opens the doors on their listeners: that of the API, and the internal one.
fn open(
    (listener, admin_listener): (TcpListener, TcpListener),
    state: web::Data<api::State>,
    certificate: Option<&Arc<api::Certificate>>,
) -> anyhow::Result<(Doors, Vec<Part>)> {
    let (address, admin_address) = (listener.local_addr()?, admin_listener.local_addr()?);
    let scheme = if certificate.is_some() { "https" } else { "http" };
    let servers = [api::server(listener, state.clone(), certificate)?, api::admin_server(admin_listener, state)?];
    let handles = servers.iter().map(Server::handle).collect();
    let serving = servers.into_iter().map(|server| tokio::spawn(serve(server))).collect();
    Ok((Doors { scheme, address, admin_address, handles }, serving))
}

async fn serve(server: Server) {
    if let Err(error) = server.await {
        tracing::error!(%error, "a server ended badly");
    }
}

impl Running {
    /// Where the API is.
    pub fn url(&self) -> String {
        format!("{}://{}", self.doors.scheme, self.doors.address)
    }

    /// Where the probes are.
    pub fn admin_url(&self) -> String {
        format!("http://{}", self.doors.admin_address)
    }

    /// The store, for those who look at the audit trail from within.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Takes up changed policies and catalogue now, without waiting for the next look at them.
    pub fn reload(&self) {
        self.asked.notify_one();
    }

    /// Stops in order. What does not end within the deadline is left to the next start.
    pub async fn stop(self) {
        tracing::info!("stopping");
        let deadline = self.clock.elapsed().saturating_add(self.deadline);
        self.stopping.cancel();
        let left = |clock: Clock| deadline.saturating_sub(clock.elapsed());
        let unfinished = self.executor.abort_handle();
        let drained = async {
            // At the same time: a client that keeps its request to itself must not cost a lane the time to end its turn.
            self.working.cancel();
            for door in &self.doors.handles {
                door.stop(true).await;
            }
            for task in self.tasks {
                ended(task.await);
            }
            ended(self.executor.await);
        };
        if tokio::time::timeout(left(self.clock), drained).await.is_err() {
            tracing::warn!("the deadline cuts off what is under way; it is in the store");
            unfinished.abort();
        }
        self.store.close().await;
    }
}

fn ended(outcome: Result<(), tokio::task::JoinError>) {
    if let Err(error) = outcome {
        tracing::error!(%error, "a part of the gateway ended badly");
    }
}

fn listen(address: SocketAddr, key: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).with_context(|| format!("cannot listen on {address} ({key})"))
}

/// The way out that the settings name.
pub(crate) fn outbound(settings: &config::Outbound, clock: Clock) -> anyhow::Result<Outbound> {
    let read =
        |path: &Path| std::fs::read(path).with_context(|| format!("outbound.ca_file: cannot read {}", path.display()));
    let authorities = settings.ca_file.as_deref().map(read).transpose()?;
    let way = Way { proxy: settings.proxy.clone(), authorities };
    Outbound::by(&way, clock).context("outbound.proxy or outbound.ca_file cannot be used")
}

/// Faults as text, one after another.
pub(crate) fn listed(faults: &[Fault]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
