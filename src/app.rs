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

use actix_web::{dev::ServerHandle, web};
use anyhow::{Context, anyhow};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    api,
    audit::{Entry, Event},
    auth::Authenticator,
    census::Census,
    clock::Clock,
    config::{self, Config, Fault},
    domain::Digest,
    executor,
    gateway::{self, Gateway},
    graph::{self, Graph, Upstream},
    outbound::{Outbound, Way},
    policy::Policies,
    retention::Retention,
    store::{self, Run, Store},
    webhooks::Webhooks,
};

/// A gateway that is running.
#[derive(Debug)]
pub struct Running {
    scheme: &'static str,
    address: SocketAddr,
    admin_address: SocketAddr,
    store: Arc<dyn Store>,
    stopping: CancellationToken,
    working: CancellationToken,
    doors: Vec<ServerHandle>,
    tasks: Vec<JoinHandle<()>>,
    executor: JoinHandle<()>,
    deadline: Duration,
    clock: Clock,
}

/// Starts a gateway.
pub async fn start(config: Config, clock: Clock) -> anyhow::Result<Running> {
    let policies = Policies::load(&config.policy.dir).map_err(|faults| anyhow!(listed(&faults)))?;
    // Before anything is opened: an address in use must not cost the store a run.
    let listener = listen(config.server.listen, "server.listen")?;
    let admin_listener = listen(config.server.admin_listen, "server.admin_listen")?;
    let certificate = config.server.tls.clone().map(api::Certificate::open).transpose()?;
    let run = Run { chain: clock.identifier().to_string(), clock };
    let owner = run.chain.clone();
    let store = store::open(&config.store, run).await?;
    store.record(vec![loaded(&config, clock)?]).await?;

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
    let retention = tokio::spawn(retention.run(stopping.clone()));
    let census = tokio::spawn(Census { store: Arc::clone(&store), clock }.run(stopping.clone()));

    let limits = api::Limits::new(&config.callers, &config.webhooks, &config.server, clock);
    let webhooks = Webhooks::new(config.webhooks, &config.catalogue);
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
    let (keeper, stop) = (Arc::clone(&gateway), stopping.clone());
    let ends = tokio::spawn(async move { keeper.keep_ends(stop).await });
    let unanswered =
        tokio::spawn(Arc::clone(&gateway).end_unanswered(config.executor.sweep_interval, stopping.clone()));

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
    let (address, admin_address) = (listener.local_addr()?, admin_listener.local_addr()?);
    let deadline = config.server.stop_deadline;
    if let Some(certificate) = &certificate {
        tokio::spawn(Arc::clone(certificate).keep_fresh(clock, stopping.clone()));
    }
    let scheme = if certificate.is_some() { "https" } else { "http" };
    let door = api::server(listener, state.clone(), certificate.as_ref())?;
    let servers = [door, api::admin_server(admin_listener, state)?];
    let doors = servers.iter().map(actix_web::dev::Server::handle).collect();
    let serve = |server: actix_web::dev::Server| {
        tokio::spawn(async move {
            if let Err(error) = server.await {
                tracing::error!(%error, "a server ended badly");
            }
        })
    };
    let tasks = servers.into_iter().map(serve).chain([retention, census, ends, unanswered]).collect();
    tracing::info!(%address, %admin_address, "the gateway is ready");
    Ok(Running { scheme, address, admin_address, store, stopping, working, doors, tasks, executor, deadline, clock })
}

impl Running {
    /// Where the API is.
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// Where the probes are.
    pub fn admin_url(&self) -> String {
        format!("http://{}", self.admin_address)
    }

    /// The store, for those who look at the audit trail from within.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
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
            for door in &self.doors {
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

/// The settings that hold from now on, for the audit trail.
fn loaded(config: &Config, clock: Clock) -> anyhow::Result<Entry> {
    let by_token = config.callers.iter().map(|caller| caller.name.clone());
    let by_webhook = config.webhooks.iter().map(|webhook| webhook.caller.clone());
    let event = Event::ConfigurationLoaded {
        policies: policies_digest(&config.policy.dir)?,
        callers: by_token.chain(by_webhook).collect(),
    };
    Ok(Entry { at: clock.now(), trace_id: None, event })
}

/// A fingerprint of all policy files, by name and content.
fn policies_digest(dir: &Path) -> anyhow::Result<Digest> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "cedar" || extension == "cedarschema") {
            let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            files.push(format!("{name:?} {text:?}\n"));
        }
    }
    files.sort();
    Ok(Digest::of(files.concat().as_bytes()))
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
