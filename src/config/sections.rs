//! The single settings: `server`, `store`, `graph`, `outbound`, `operations`, `executor`, `callbacks`, `policy`,
//! `telemetry`, `audit`.
//!
//! Each setting is declared here once, with its key, default, limits and format; a test checks `config/gateway.toml`
//! against these declarations. Rules between settings follow: each is one check with one message.
//!
//! It deliberately accesses no host, file or variable: settings can be checked on any machine.

use std::{net::SocketAddr, num::NonZeroU32, time::Duration};

use url::Url;

use super::{
    Audit, Callbacks, Clients, Credential, Executor, Graph, Operations, Outbound, Pace, Policy, Postgres, SecretRef,
    SecretSource, Server, Store, Telemetry, Tls, audit, callbacks,
    credential::{self, Kind},
    table::Table,
    value::{self, duration, spell},
};
use crate::domain::{
    TenantId,
    ids::{ApiVersion, Cloud},
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
const MINUTES_5: Duration = Duration::from_mins(5);
const DAY: Duration = Duration::from_hours(24);
/// Sixty days: nobody retries a request for longer.
const DAYS_60: Duration = Duration::from_hours(24 * 60);

/// Longer than any rule on the retention of tickets requires.
const YEARS_10: Duration = Duration::from_hours(24 * 3_653);

/// All single settings; a section with a fault is missing.
#[derive(Debug)]
pub(super) struct Sections {
    /// Also part of `server`; here so that `postern probe` works even if other settings have faults.
    pub(super) admin_listen: Option<SocketAddr>,
    /// Also part of `server`.
    pub(super) tls: Option<Tls>,
    pub(super) server: Option<Server>,
    pub(super) store: Option<Store>,
    pub(super) graph: Option<Graph>,
    /// Also part of other sections; here so that they can be checked even if those sections have faults.
    pub(super) secrets: Vec<SecretRef>,
    pub(super) outbound: Option<Outbound>,
    pub(super) operations: Option<Operations>,
    pub(super) executor: Option<Executor>,
    pub(super) callbacks: Option<Callbacks>,
    pub(super) policy: Option<Policy>,
    pub(super) telemetry: Option<Telemetry>,
    pub(super) audit: Option<Audit>,
}

impl Sections {
    /// How long an operation may wait for approval, and then for Graph.
    pub(super) fn open_max(&self) -> Option<(Duration, Duration)> {
        Some((self.operations.as_ref()?.approval_ttl, self.executor.as_ref()?.deadline))
    }
}

/// Reads every section, then checks the rules between them.
pub(super) fn read(table: &mut Table<'_>) -> Sections {
    let call_timeout = table.setting("graph.call_timeout", "20s", duration(SECOND, MINUTES_5));
    let admin_listen = table.setting("server.admin_listen", "127.0.0.1:9090", value::address);
    let tls = tls(table);
    let server = server(table, admin_listen, tls.clone());
    let (store, password) = store(table);
    let credential::ParsedCredential { kind, credential, named } = credential::read(table);
    let graph = graph(table, call_timeout, kind, credential);
    let deadline = table.setting("operations.deadline", "24h", duration(SECOND, DAYS_60));
    let outbound = outbound(table);
    let operations = operations(table, deadline);
    let executor = executor(table, call_timeout, deadline);
    let callbacks = callbacks::settings(table);
    let policy = policy(table);
    let telemetry = telemetry(table);
    let (audit, key) = audit::read(table, telemetry.as_ref());
    let secrets = password.into_iter().chain(named).chain(key).collect();
    Sections {
        admin_listen,
        tls,
        server,
        store,
        graph,
        secrets,
        outbound,
        operations,
        executor,
        callbacks,
        policy,
        telemetry,
        audit,
    }
}

fn server(table: &mut Table<'_>, admin_listen: Option<SocketAddr>, tls: Option<Tls>) -> Option<Server> {
    let listen = table.setting("server.listen", "127.0.0.1:8080", value::address);
    let body_max = table.setting("server.body_max", "256KiB", value::size);
    let request_timeout = table.setting("server.request_timeout", "10s", duration(SECOND, MINUTES_5));
    let connections_max = table.number("server.connections_max", 400, 1..=1_000_000);
    let calls_max = table.number("server.calls_max", 6_000, 1..=1_000_000);
    let waits_max = table.number("server.waits_max", 256, 1..=100_000);
    let drain_delay = table.setting("server.drain_delay", "0s", duration(Duration::ZERO, MINUTES_5));
    let stop_deadline = table.setting("server.stop_deadline", "20s", duration(SECOND, MINUTES_5));
    let cors_origins = table.list("server.cors_origins", Some(&[]), value::origin);
    // Port 0 is any free port, so two of them are two ports.
    if listen.is_some_and(|listen| listen.port() != 0) && listen == admin_listen {
        table.refuse(
            "server.admin_listen",
            "server.listen is the same address",
            Some("give the probes an address of their own"),
        );
    }
    Some(Server {
        listen: listen?,
        admin_listen: admin_listen?,
        body_max: body_max?,
        request_timeout: request_timeout?,
        connections_max: usize::try_from(connections_max?).ok()?,
        calls_max: NonZeroU32::new(calls_max?)?,
        waits_max: usize::try_from(waits_max?).ok()?,
        cors_origins,
        tls,
        drain_delay: drain_delay?,
        stop_deadline: stop_deadline?,
    })
}

fn tls(table: &mut Table<'_>) -> Option<Tls> {
    let certificate = table.path("server.tls.certificate_file", None);
    let key = table.path("server.tls.key_file", None);
    let authorities = table.path("server.tls.client_ca_file", None);
    let required = table.setting("server.tls.client_certificates", "required", value::obligation);
    for (given, other) in [
        ("server.tls.key_file", "server.tls.certificate_file"),
        ("server.tls.client_ca_file", "server.tls.certificate_file"),
        ("server.tls.client_certificates", "server.tls.client_ca_file"),
    ] {
        if table.given(given) && !table.given(other) {
            // Half of the TLS settings must not result in plain HTTP, or in clients whose certificates nobody checks.
            let hint = format!("give {other} too, or neither");
            table.refuse(given, &format!("given without {other}"), Some(&hint));
        }
    }
    let certificate = certificate?;
    let clients = authorities.zip(required).map(|(authorities, required)| Clients { authorities, required });
    Some(Tls { key: key.unwrap_or_else(|| certificate.clone()), certificate, clients })
}

fn graph(
    table: &mut Table<'_>,
    call_timeout: Option<Duration>,
    kind: Option<Kind>,
    credential: Option<Credential>,
) -> Option<Graph> {
    let cloud = table.required("graph.cloud", value::parsed::<Cloud>);
    if kind == Some(Kind::WorkloadIdentity) {
        table.fall_back("graph.tenant_id", "AZURE_TENANT_ID");
    }
    let roots = roots(table, cloud, kind);
    let api_version = table.setting("graph.api_version", "beta", value::parsed::<ApiVersion>);
    let tenant_id = table.required("graph.tenant_id", value::parsed::<TenantId>);
    let attempts_max = table.number("graph.attempts_max", 4, 1..=10);
    let pace = pace(table);
    let names_ttl = table.setting("graph.names_ttl", "5m", duration(SECOND, DAY));
    let (endpoint, authority) = roots?;
    let cloud = cloud?;
    // The sandbox is its own audience; elsewhere the audience is the cloud's Graph, whatever stands in front of it.
    let audience = if cloud == Cloud::Sandbox { endpoint.as_str() } else { cloud.graph() };
    let scope = format!("{audience}/.default");
    Some(Graph {
        cloud,
        scope,
        endpoint,
        authority,
        api_version: api_version?,
        tenant_id: tenant_id?,
        credential: credential?,
        call_timeout: call_timeout?,
        attempts_max: attempts_max?,
        pace: pace?,
        names_ttl: names_ttl?,
    })
}

fn pace(table: &mut Table<'_>) -> Option<Pace> {
    let writes_max = table.number("graph.writes_max", 80, 1..=1_000);
    let calls_max = table.number("graph.calls_max", 800, 1..=10_000);
    let calls_at_once_max = table.number("graph.calls_at_once_max", 16, 1..=256);
    Some(Pace {
        writes_max: NonZeroU32::new(writes_max?)?,
        calls_max: NonZeroU32::new(calls_max?)?,
        calls_at_once_max: usize::try_from(calls_at_once_max?).ok()?,
    })
}

/// The base URLs of Graph and of the login service.
fn roots(table: &mut Table<'_>, cloud: Option<Cloud>, kind: Option<Kind>) -> Option<(String, String)> {
    let endpoint = table.optional("graph.endpoint", value::root_url);
    let authority = table.optional("graph.authority", value::root_url);
    for (given, other) in [("graph.endpoint", "graph.authority"), ("graph.authority", "graph.endpoint")] {
        if table.given(given) && !table.given(other) {
            // Half an override would send the token of one cloud to the host of another.
            table.refuse(
                given,
                &format!("given without {other}"),
                Some("give both, or neither: then graph.cloud decides"),
            );
        }
    }
    let cloud = cloud?;
    let from_platform = kind == Some(Kind::WorkloadIdentity) && authority.is_none();
    let platform = if from_platform { platform_authority(table, cloud) } else { None };
    Some((
        endpoint.unwrap_or_else(|| cloud.graph().to_owned()),
        authority.or(platform).unwrap_or_else(|| cloud.authority().to_owned()),
    ))
}

/// The login service that the cluster configures for workload identities.
fn platform_authority(table: &mut Table<'_>, cloud: Cloud) -> Option<String> {
    const VARIABLE: &str = "AZURE_AUTHORITY_HOST";
    let authority = table.platform(VARIABLE, value::root_url)?;
    let others = Cloud::all().filter(|other| other.authority() == authority && authority != cloud.authority());
    for other in others.take(1) {
        let what =
            format!("this is the login service of the cloud {}, but graph.cloud is {}", other.name(), cloud.name());
        table.refuse_platform(VARIABLE, &what, "set graph.cloud to the cloud of the tenant");
    }
    Some(authority)
}

fn store(table: &mut Table<'_>) -> (Option<Store>, Option<SecretRef>) {
    let (file_key, variable_key) = ("store.password_file", "store.password_env");
    let store = table.setting("store.url", "sqlite:postern.db", value::store_url);
    let password = secret(table, file_key, variable_key);
    if let Some(Store::Sqlite(_)) = store {
        for key in [file_key, variable_key] {
            if table.given(key) {
                table.refuse(key, "a SQLite store has no password", Some("leave it out, or use postgres://"));
            }
        }
    }
    let store = store.map(|store| match store {
        Store::Postgres(postgres) => {
            Store::Postgres(Postgres { password: password.as_ref().map(|named| named.source.clone()), ..postgres })
        }
        sqlite @ Store::Sqlite(_) => sqlite,
    });
    (store, password)
}

/// Where a secret is, from one of the two keys.
pub(super) fn secret(table: &mut Table<'_>, file_key: &'static str, variable_key: &'static str) -> Option<SecretRef> {
    let file = table.path(file_key, None).map(SecretSource::File);
    let variable = table.optional(variable_key, value::variable).map(SecretSource::Environment);
    // The environment overrides the file: the one that was set there is meant.
    let source = match (table.is_variable(file_key), table.is_variable(variable_key)) {
        _ if !(table.given(file_key) && table.given(variable_key)) => file.or(variable),
        (true, false) => file,
        (false, true) => variable,
        (true, true) | (false, false) => {
            let other = file_key.rsplit('.').next().unwrap_or(file_key);
            table.refuse(variable_key, &format!("given together with {other}"), Some("give one of the two"));
            None
        }
    };
    let source = source?;
    let key = if matches!(source, SecretSource::File(_)) { file_key } else { variable_key };
    Some(SecretRef { at: table.fault_at(key), source })
}

fn outbound(table: &mut Table<'_>) -> Option<Outbound> {
    let proxy = table.optional("outbound.proxy", value::any_url);
    let ca_file = table.path("outbound.ca_file", None);
    // An invalid proxy must not be taken for no proxy.
    (proxy.is_some() || !table.given("outbound.proxy")).then_some(Outbound { proxy, ca_file })
}

fn operations(table: &mut Table<'_>, deadline: Option<Duration>) -> Option<Operations> {
    let wait_default = table.setting("operations.wait_default", "10s", duration(Duration::ZERO, MINUTES_5));
    let wait_max = table.setting("operations.wait_max", "25s", duration(SECOND, MINUTES_5));
    let idempotency_ttl = table.setting("operations.idempotency_ttl", "7d", duration(MINUTE, DAYS_60));
    let approval_ttl = table.setting("operations.approval_ttl", "3d", duration(SECOND, DAYS_60));
    let retention = table.setting("operations.retention", "90d", duration(MINUTE, YEARS_10));
    let targets_max = table.number("operations.targets_max", 100, 1..=1_000);
    let pending_max = table.number("operations.pending_max", 10_000, 1..=1_000_000);
    let per_configuration_max = table.number("operations.pending_per_configuration_max", 1_000, 1..=1_000_000);
    if let (Some(wait_default), Some(wait_max)) = (wait_default, wait_max)
        && wait_max < wait_default
    {
        let what = format!("{} is less than operations.wait_default ({})", spell(wait_max), spell(wait_default));
        table.refuse("operations.wait_max", &what, Some("raise it, or lower operations.wait_default"));
    }
    if let (Some(idempotency_ttl), Some(deadline)) = (idempotency_ttl, deadline)
        && idempotency_ttl < deadline
    {
        // A change that is repeated while its operation still waits for Graph must not become a second operation.
        let what = format!("{} is less than operations.deadline ({})", spell(idempotency_ttl), spell(deadline));
        table.refuse("operations.idempotency_ttl", &what, Some("raise it, or lower operations.deadline"));
    } else if let (Some(idempotency_ttl), Some(deadline), Some(approval_ttl)) =
        (idempotency_ttl, deadline, approval_ttl)
        && idempotency_ttl < deadline.saturating_add(approval_ttl)
    {
        // Nor while it waits for approval, and for Graph after that.
        let (approval, deadline) = (spell(approval_ttl), spell(deadline));
        let what = format!(
            "{approval} and operations.deadline ({deadline}) together are more than operations.idempotency_ttl ({})",
            spell(idempotency_ttl)
        );
        table.refuse("operations.approval_ttl", &what, Some("lower it, or raise operations.idempotency_ttl"));
    }
    if let (Some(retention), Some(idempotency_ttl)) = (retention, idempotency_ttl)
        && retention < idempotency_ttl
    {
        // A repeated key is answered with its operation, so that must still be there.
        let what = format!("{} is less than operations.idempotency_ttl ({})", spell(retention), spell(idempotency_ttl));
        table.refuse("operations.retention", &what, Some("raise it, or lower operations.idempotency_ttl"));
    }
    Some(Operations {
        wait_default: wait_default?,
        wait_max: wait_max?,
        idempotency_ttl: idempotency_ttl?,
        approval_ttl: approval_ttl?,
        retention: retention?,
        targets_max: usize::try_from(targets_max?).ok()?,
        pending_max: usize::try_from(pending_max?).ok()?,
        pending_per_configuration_max: usize::try_from(per_configuration_max?).ok()?,
    })
}

fn executor(table: &mut Table<'_>, call_timeout: Option<Duration>, deadline: Option<Duration>) -> Option<Executor> {
    let lanes_max = table.number("executor.lanes_max", 8, 1..=256);
    let batch_max = table.number("executor.batch_max", 500, 1..=10_000);
    let lease_ttl = table.setting("executor.lease_ttl", "60s", duration(SECOND, Duration::from_hours(1)));
    let sweep_interval =
        table.setting("executor.sweep_interval", "5s", duration(Duration::from_millis(100), MINUTES_5));
    if let (Some(lease), Some(call)) = (lease_ttl, call_timeout)
        && lease <= call.saturating_mul(2)
    {
        // A read and a write must both fit, or a lane would lose its lease in the middle of a turn.
        let what =
            format!("{} is too short: it must be longer than twice graph.call_timeout ({})", spell(lease), spell(call));
        table.refuse("executor.lease_ttl", &what, Some("raise it, or lower graph.call_timeout"));
    }
    Some(Executor {
        lanes_max: usize::try_from(lanes_max?).ok()?,
        batch_max: usize::try_from(batch_max?).ok()?,
        lease_ttl: lease_ttl?,
        sweep_interval: sweep_interval?,
        deadline: deadline?,
    })
}

fn policy(table: &mut Table<'_>) -> Option<Policy> {
    let dir = table.path("policy.dir", Some("policies"));
    let shortest = Duration::from_millis(100);
    let reload_interval = table.setting("policy.reload_interval", "5s", duration(shortest, Duration::from_hours(1)));
    Some(Policy { dir: dir?, reload_interval: reload_interval? })
}

fn telemetry(table: &mut Table<'_>) -> Option<Telemetry> {
    let otlp_endpoint: Option<Url> = table.optional("telemetry.otlp_endpoint", value::any_url);
    let log_format = table.setting("telemetry.log_format", "auto", value::log_format);
    let log_filter = table.setting("telemetry.log_filter", "info,actix_server=warn", value::log_filter);
    let traces_percent = table.number("telemetry.traces_percent", 100, 0..=100);
    Some(Telemetry { otlp_endpoint, traces_percent: traces_percent?, log_format: log_format?, log_filter: log_filter? })
}
