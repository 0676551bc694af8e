//! The composition root: settings in, running parts out, and the order in which they start and stop.
//!
//! Start: policies, store (its first audit record opens this run's chain), Graph, executor, callbacks, retention, then the
//! servers (API and admin). Nothing answers before everything behind it works.
//!
//! Stop: not ready any more, while requests are accepted as before until whoever routes them has noticed; then, under one
//! deadline: no new connections, and waiting callers get their 202; the executor ends the turns in flight, and callbacks
//! their attempts; counted denials are recorded, a checkpoint ends the audit trail, and the sinks get the rest of it; the
//! store closes. Whatever the deadline cuts off is in the store and is resumed at the next start.
//!
//! It deliberately decides nothing else; every part is built here and knows only what it is given.

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
    audit::{Entry, ExportFormat},
    auth::Authenticator,
    backlog_metrics::BacklogMetrics,
    callbacks,
    checkpoints::{self, Checkpoints},
    clock::Clock,
    config::{self, Config, Fault},
    delivery::{Delivery, SinkWriter},
    executor,
    gateway::{self, Current, Gateway},
    graph::{self, Graph, Upstream},
    outbound::{ClientOptions, Outbound},
    policy::Policies,
    reload::{Content, Reload},
    retention::Retention,
    store::{self, Run, Store},
    webhooks::Webhooks,
};

/// Where callers and probes connect.
#[derive(Debug)]
struct Servers {
    scheme: &'static str,
    address: SocketAddr,
    admin_address: SocketAddr,
    api: ServerHandle,
    admin: ServerHandle,
}

/// A part of the gateway that runs by itself.
type Worker = JoinHandle<()>;

/// A gateway that is running.
#[derive(Debug)]
pub struct Running {
    store: Arc<dyn Store>,
    steps: ShutdownStages,
    servers: Servers,
    tasks: Vec<Worker>,
    executor: Worker,
    reload_requested: Arc<Notify>,
    gateway: Arc<Gateway>,
    checkpoints: Option<Arc<Checkpoints>>,
    streams: SinkStreams,
    clock: Clock,
}

/// The steps of a shutdown, each begun by cancelling its token, and how long they take.
#[derive(Debug)]
struct ShutdownStages {
    /// Not ready any more; requests are still accepted during the delay.
    leaving: CancellationToken,
    delay: Duration,
    /// The servers stop, and waiting callers are answered.
    stopping: CancellationToken,
    /// The executor begins no more turns.
    working: CancellationToken,
    /// For everything after the delay.
    deadline: Duration,
}

impl ShutdownStages {
    fn of(server: &config::Server) -> Self {
        let [leaving, stopping, working] = std::array::from_fn(|_| CancellationToken::new());
        Self { leaving, delay: server.drain_delay, stopping, working, deadline: server.stop_deadline }
    }
}

/// The delivery of the audit trail to its sinks, which stops last.
#[derive(Debug)]
struct SinkStreams {
    stop: CancellationToken,
    tasks: Vec<Worker>,
}

/// Starts a gateway.
pub async fn start(config: Config, clock: Clock) -> anyhow::Result<Running> {
    // Read first: what changes after this is reloaded later.
    let in_force = Content::at_start(&config.origin, &config.policy.dir);
    let policies = Policies::load(&config.policy.dir).map_err(|faults| anyhow!(listed(&faults)))?;
    // Before the store is opened: an address in use must not leave a run in it.
    let listener = listen(config.server.listen, "server.listen")?;
    let admin_listener = listen(config.server.admin_listen, "server.admin_listen")?;
    let certificate = config.server.tls.clone().map(api::Certificate::open).transpose()?;
    let (callers, owner) = (callers(&config), clock.new_id().to_string());
    let loaded = in_force.loaded(callers.clone(), clock);
    let (store, checkpoints) = begin(&config, clock, &owner, loaded).await?;
    let outbound = outbound(&config.outbound, clock)?;
    let upstream: Arc<dyn Upstream> = Arc::new(Graph::new(config.graph.clone(), outbound.clone(), clock));
    let steps = ShutdownStages::of(&config.server);
    let ShutdownStages { leaving, stopping, working, .. } = &steps;
    let ports = (&store, &upstream);
    let executor = tokio::spawn(executor::run(lanes(&config, ports, clock, &owner), working.clone()));
    tokio::spawn(graph::watch(config.graph.clone(), clock, stopping.clone()));

    let retention = Retention { store: Arc::clone(&store), clock, operations: config.operations.retention };
    let streams = streams(&config.audit, &outbound, (&store, clock, &owner));
    let limits = api::Limits::new(&config.callers, &config.webhooks, &config.server, clock);
    let callbacks = callbacks(&config, &store, &outbound, clock)?;
    let gateway = gateway(&config, policies, ports, (clock, stopping));
    let webhooks = Arc::new(Webhooks::new(config.webhooks, &config.catalogue));
    let mut tasks = spawn_background(&gateway, retention, config.executor.sweep_interval, stopping);
    tasks.push(tokio::spawn(callbacks.run(stopping.clone())));
    if let Some(checkpoints) = checkpoints.clone() {
        tasks.push(tokio::spawn(checkpoints.run(stopping.clone())));
    }
    let (current, reload_requested) = (Arc::new(Current::new(Arc::clone(&gateway))), Arc::new(Notify::new()));
    let reload = Reload {
        current: Arc::clone(&current),
        webhooks: Arc::clone(&webhooks),
        store: Arc::clone(&store),
        clock,
        origin: config.origin,
        policy: config.policy,
        requested: Arc::clone(&reload_requested),
        in_force,
        callers,
        unrecorded: Vec::new(),
    };
    tasks.push(tokio::spawn(reload.run(stopping.clone())));
    let state = web::Data::new(api::State {
        gateway: current,
        limits,
        authenticator: Authenticator::new(config.issuers, config.callers, &outbound, clock),
        webhooks,
        settings: config.server.clone(),
        leaving: leaving.clone(),
        stopping: stopping.clone(),
        clock,
    });
    tokio::spawn(state.authenticator.keep_keys_fresh(stopping));
    if let Some(certificate) = &certificate {
        tokio::spawn(Arc::clone(certificate).keep_fresh(clock, stopping.clone()));
    }
    let (servers, serving) = open((listener, admin_listener), state, certificate.as_ref())?;
    tasks.push(serving);
    let Servers { address, admin_address, .. } = &servers;
    tracing::info!(%address, %admin_address, store = store::place(&config.store), "the gateway is ready");
    Ok(Running { store, steps, servers, tasks, executor, reload_requested, gateway, checkpoints, streams, clock })
}

/// The names of all callers.
fn callers(config: &Config) -> Vec<String> {
    let by_token = config.callers.iter().map(|caller| caller.name.clone());
    by_token.chain(config.webhooks.iter().map(|webhook| webhook.caller.clone())).collect()
}

/// What the gateway and the lanes work with.
type Ports<'a> = (&'a Arc<dyn Store>, &'a Arc<dyn Upstream>);

fn lanes(config: &Config, (store, upstream): Ports<'_>, clock: Clock, owner: &str) -> executor::Dependencies {
    executor::Dependencies {
        store: Arc::clone(store),
        upstream: Arc::clone(upstream),
        clock,
        settings: config.executor.clone(),
        owner: owner.to_owned(),
    }
}

fn gateway(
    config: &Config,
    policies: Policies,
    (store, upstream): Ports<'_>,
    (clock, stopping): (Clock, &CancellationToken),
) -> Arc<Gateway> {
    Arc::new(Gateway::new(gateway::Dependencies {
        store: Arc::clone(store),
        upstream: Arc::clone(upstream),
        policies,
        catalogue: config.catalogue.clone(),
        callback_rules: gateway::CallbackRules::new(&config.destinations, &config.callers, &config.webhooks),
        settings: config.operations.clone(),
        names_ttl: config.graph.names_ttl,
        denied_per_minute: config.audit.denied_per_minute,
        clock,
        stopping: stopping.clone(),
    }))
}

/// The sender of callbacks.
fn callbacks(
    config: &Config,
    store: &Arc<dyn Store>,
    outbound: &Outbound,
    clock: Clock,
) -> anyhow::Result<callbacks::Callbacks> {
    let parts = callbacks::Dependencies {
        store: Arc::clone(store),
        outbound: outbound.clone(),
        clock,
        settings: config.callbacks.clone(),
        destinations: config.destinations.clone(),
        message: api::message,
    };
    callbacks::Callbacks::new(&parts).context("callbacks cannot be sent")
}

/// What runs in the background for as long as the gateway.
fn spawn_background(
    gateway: &Arc<Gateway>,
    retention: Retention,
    sweep_interval: Duration,
    stopping: &CancellationToken,
) -> Vec<Worker> {
    let backlog = BacklogMetrics { store: Arc::clone(&retention.store), clock: retention.clock };
    let (keeper, stop) = (Arc::clone(gateway), stopping.clone());
    vec![
        tokio::spawn(retention.run(stopping.clone())),
        tokio::spawn(backlog.run(stopping.clone())),
        tokio::spawn(async move { keeper.run_until_sweep(stop).await }),
        tokio::spawn(Arc::clone(gateway).run_count_flush(stopping.clone())),
        tokio::spawn(Arc::clone(gateway).run_approval_expiry(sweep_interval, stopping.clone())),
    ]
}

/// Opens the servers on their listeners: that of the API, and the internal one.
fn open(
    (listener, admin_listener): (TcpListener, TcpListener),
    state: web::Data<api::State>,
    certificate: Option<&Arc<api::Certificate>>,
) -> anyhow::Result<(Servers, Worker)> {
    let (address, admin_address) = (listener.local_addr()?, admin_listener.local_addr()?);
    let scheme = if certificate.is_some() { "https" } else { "http" };
    let server = api::server(listener, state.clone(), certificate)?;
    let admin_server = api::admin_server(admin_listener, state)?;
    let servers = Servers { scheme, address, admin_address, api: server.handle(), admin: admin_server.handle() };
    tokio::spawn(serve(admin_server));
    Ok((servers, tokio::spawn(serve(server))))
}

async fn serve(server: Server) {
    if let Err(error) = server.await {
        tracing::error!(%error, "an HTTP server ended with an error");
    }
}

/// Opens the store as a new run, whose first records say what is in force from now on.
async fn begin(
    config: &Config,
    clock: Clock,
    owner: &str,
    loaded: Entry,
) -> anyhow::Result<(Arc<dyn Store>, Option<Arc<Checkpoints>>)> {
    let signer = checkpoints::signer(&config.audit).map_err(|why| anyhow!("audit.key_file: {why}"))?;
    let store = store::open(&config.store, Run { chain: owner.to_owned(), clock }).await?;
    store.append_records(vec![loaded]).await?;
    let Some(signer) = signer else { return Ok((store, None)) };
    let checkpoints = Checkpoints::new(Arc::clone(&store), clock, signer, &config.audit);
    checkpoints.sign().await?;
    Ok((store, Some(Arc::new(checkpoints))))
}

impl Running {
    /// The address of the API.
    pub fn url(&self) -> String {
        format!("{}://{}", self.servers.scheme, self.servers.address)
    }

    /// The address of the probes.
    pub fn admin_url(&self) -> String {
        format!("http://{}", self.servers.admin_address)
    }

    /// The store, for reading the audit trail within the process.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Reloads changed policies and catalogue now, without waiting for the next check.
    pub fn reload(&self) {
        self.reload_requested.notify_one();
    }

    /// Shuts down in order. What does not end within the deadline is left to the next start.
    pub async fn stop(self) {
        tracing::info!("stopping");
        self.steps.leaving.cancel();
        self.clock.sleep(self.steps.delay).await;
        let deadline = self.clock.elapsed().saturating_add(self.steps.deadline);
        self.steps.stopping.cancel();
        let left = |clock: Clock| deadline.saturating_sub(clock.elapsed());
        let unfinished = self.executor.abort_handle();
        let drained = async {
            // Concurrently: a client that does not finish its request must not cost a lane the time to end its turn.
            self.steps.working.cancel();
            self.servers.api.stop(true).await;
            for task in self.tasks {
                ended(task.await);
            }
            ended(self.executor.await);
        };
        if tokio::time::timeout(left(self.clock), drained).await.is_err() {
            tracing::warn!("the deadline cuts off unfinished work; it is in the store");
            unfinished.abort();
        }
        self.gateway.flush_counts().await;
        if let Some(checkpoints) = self.checkpoints
            && let Err(error) = checkpoints.sign().await
        {
            tracing::warn!(%error, "the audit trail ends without a checkpoint");
        }
        let SinkStreams { stop, tasks } = self.streams;
        stop.cancel();
        let unfinished: Vec<_> = tasks.iter().map(JoinHandle::abort_handle).collect();
        let delivered = futures_util::future::join_all(tasks);
        if tokio::time::timeout(left(self.clock), delivered).await.is_err() {
            tracing::warn!("the deadline cuts off the delivery of audit records; it continues at the next start");
            unfinished.iter().for_each(tokio::task::AbortHandle::abort);
        }
        // Last, so that a probe hears until the end that this process is not ready, and not that it is gone.
        self.servers.admin.stop(false).await;
        self.store.close().await;
    }
}

/// Streams the audit trail to the configured sinks.
fn streams(
    settings: &config::Audit,
    outbound: &Outbound,
    (store, clock, owner): (&Arc<dyn Store>, Clock, &str),
) -> SinkStreams {
    let stop = CancellationToken::new();
    let form = match settings.format {
        config::AuditFormat::Jsonl => ExportFormat::Jsonl,
        config::AuditFormat::Ocsf => ExportFormat::Ocsf,
        config::AuditFormat::Ecs => ExportFormat::Ecs,
        config::AuditFormat::Asim => ExportFormat::Asim,
    };
    let delivery = |sink| {
        let (store, owner) = (Arc::clone(store), owner.to_owned());
        let delivery = Delivery { store, clock, owner, format: form, sink: SinkWriter::new(sink, outbound) };
        tokio::spawn(delivery.run(stop.clone()))
    };
    let tasks = settings.sinks.iter().map(delivery).collect();
    SinkStreams { stop, tasks }
}

fn ended(outcome: Result<(), tokio::task::JoinError>) {
    if let Err(error) = outcome {
        tracing::error!(%error, "a part of the gateway ended unexpectedly");
    }
}

fn listen(address: SocketAddr, key: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).with_context(|| format!("cannot listen on {address} ({key})"))
}

/// The HTTP client for outgoing calls, by the settings.
pub(crate) fn outbound(settings: &config::Outbound, clock: Clock) -> anyhow::Result<Outbound> {
    let read =
        |path: &Path| std::fs::read(path).with_context(|| format!("outbound.ca_file: cannot read {}", path.display()));
    let authorities = settings.ca_file.as_deref().map(read).transpose()?;
    let options = ClientOptions { proxy: settings.proxy.clone(), authorities };
    Outbound::with_options(&options, clock).context("outbound.proxy or outbound.ca_file cannot be used")
}

/// Faults as text, one after another.
pub(crate) fn listed(faults: &[Fault]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
