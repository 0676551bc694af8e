//! The commands: arguments, dispatch, exit codes, and what is printed.
//!
//! Results go to standard output, faults and logs to standard error. Exit codes: 0 success, 1 a fault that was printed,
//! 2 invalid arguments. Colours are used on terminals only, and not if `NO_COLOR` is set.
//!
//! It deliberately does no work of its own: each command calls the module that does.

mod explain;
mod manual;
mod probe;
mod trail;

use std::{
    io::{self, Write},
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, anyhow};
use clap::{
    Args, CommandFactory, Parser, Subcommand,
    builder::styling::{AnsiColor, Style},
};
use clap_complete::Shell;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    api, app,
    audit::counted,
    callbacks, checkpoints,
    clock::Clock,
    config::{self, Audit, Config, ExternalReferences, Fault, LoadReport},
    demo,
    domain::ids::ApiVersion,
    graph::{self, Graph, Trial},
    policy::Policies,
    sandbox::{self, Seed},
    telemetry,
    webhooks::{self, Webhooks},
};

/// Cedar evaluates recursively and denies if the stack is exhausted; the main thread of a static binary has too little.
const STACK: usize = 8 * 1024 * 1024;
/// Highlighted on a terminal: the place of a fault, and the word before its hint.
const FAULT: Style = AnsiColor::Red.on_default().bold();
const HINT: Style = AnsiColor::Cyan.on_default();
/// The default address of the sandbox.
const SANDBOX: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9400);

/// A REST gateway in front of Microsoft Graph's Intune assign action.
#[derive(Debug, Parser)]
#[command(version, about, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway.
    Serve(Settings),
    /// Report all faults in settings, catalogue, policies and secrets at once.
    Check(Check),
    /// Run gateway and sandbox and show one real request, step by step.
    Demo {
        /// Exit after the request; the exit code is 1 if a step failed.
        #[arg(long)]
        once: bool,
    },
    /// Run the simulator of Entra and Graph.
    Sandbox {
        /// The address to listen on.
        #[arg(long, value_name = "ADDRESS", default_value_t = SANDBOX)]
        listen: SocketAddr,
        /// The initial tenant, as JSON; by default the built-in one.
        #[arg(long, value_name = "FILE")]
        seed: Option<PathBuf>,
    },
    /// Print a caller's token, issued by a running sandbox.
    Token {
        /// The name of the caller, for example servicenow.
        #[arg(long, value_name = "NAME")]
        caller: String,
        /// The URL of the sandbox.
        #[arg(long, value_name = "URL", default_value_t = format!("http://{SANDBOX}"))]
        sandbox: String,
    },
    /// Verify or export the audit trail, or print the public key that verifies its checkpoints.
    #[command(subcommand)]
    Audit(trail::Audit),
    /// Check liveness or readiness of the gateway that runs on these settings; exit code 0 or 1.
    Probe(probe::Probe),
    /// Print completions for a shell.
    Completions {
        /// The shell.
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Print a manual page, in roff: `postern man | man -l -`.
    Man {
        /// The command that the page describes; by default the whole program.
        #[arg(value_name = "COMMAND")]
        command: Vec<String>,
    },
}

#[derive(Args, Debug)]
struct Settings {
    /// The configuration file [environment: `POSTERN_CONFIG`].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Args, Debug)]
struct Check {
    #[command(flatten)]
    settings: Settings,
    /// Also show what policies would decide about each target of a change, and which policies; without --caller, for every
    /// caller. The file contains the body of POST /v1/assignments; Graph is not called.
    #[arg(long, value_name = "FILE", conflicts_with = "live")]
    explain: Option<PathBuf>,
    #[command(flatten)]
    asked: explain::ExplainOptions,
    /// Also try out login, permissions and Graph: fetch a token, check its permissions, read one configuration and its
    /// assignments. Nothing is written.
    #[arg(long)]
    live: bool,
    /// Show which changes the rules of a webhook source make of the event in a file. Nothing is sent; no signature is needed.
    #[arg(long, num_args = 2, value_names = ["SOURCE", "FILE"], conflicts_with = "live")]
    explain_webhook: Option<Vec<String>>,
}

/// Runs the command that the process was started with.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let started = std::thread::Builder::new().stack_size(STACK).spawn(move || block_on(cli.command));
    let outcome = match started.map(std::thread::JoinHandle::join) {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_panic)) => Err(anyhow!("internal error: the command panicked")),
        Err(error) => Err(error.into()),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            // If standard error is closed, there is nowhere left to report to.
            drop(writeln!(anstream::stderr(), "{FAULT}postern:{FAULT:#} {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn block_on(command: Command) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(dispatch(command))
}

async fn dispatch(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve(settings) => serve(&settings).await,
        Command::Check(asked) => check(&asked).await,
        Command::Demo { once: true } => demo_once().await,
        Command::Demo { once: false } => demo_staying().await,
        Command::Sandbox { listen, seed } => run_sandbox(listen, seed.as_deref()).await,
        Command::Token { caller, sandbox } => token(&caller, &sandbox).await,
        Command::Audit(asked) => trail::run(asked).await,
        Command::Probe(asked) => probe::run(&asked).await,
        Command::Completions { shell } => manual::completions(Cli::command(), shell),
        Command::Man { command } => manual::page(Cli::command(), &command),
    }
}

fn print(text: &str) -> anyhow::Result<()> {
    writeln!(io::stdout(), "{text}").context("cannot write to standard output")
}

fn print_faults(faults: &[Fault]) -> anyhow::Result<ExitCode> {
    let count = if faults.len() == 1 { "1 fault".to_owned() } else { format!("{} faults", faults.len()) };
    let mut err = anstream::stderr();
    for fault in faults {
        writeln!(err, "{}", styled(fault))?;
    }
    writeln!(err, "{FAULT}{count}{FAULT:#}")?;
    Ok(ExitCode::FAILURE)
}

/// A fault as it is printed, with its place and the word before its hint highlighted if the terminal shows colours.
fn styled(fault: &Fault) -> String {
    let told = fault.to_string();
    let rest = told.strip_prefix(&fault.place).unwrap_or_default();
    let rest = rest.replacen("\n  hint:", &format!("\n  {HINT}hint:{HINT:#}"), 1);
    format!("{FAULT}{}{FAULT:#}{rest}", fault.place)
}

async fn serve(settings: &Settings) -> anyhow::Result<ExitCode> {
    let config = match load_checked(settings) {
        Ok((config, _policies)) => config,
        Err(faults) => return print_faults(&faults),
    };
    let clock = Clock::system();
    let telemetry = telemetry::start(&config.telemetry, &clock.new_id().to_string())?;
    let mut stop = ShutdownSignals::listen()?;
    let mut changed = signal(SignalKind::hangup())?;
    let running = tokio::select! {
        started = app::start(config, clock) => started?,
        // Starting can take minutes. What has begun is dropped, which leaves no more behind than a kill would.
        () = stop.received() => {
            tracing::info!("stopped before the gateway was ready");
            flush(telemetry).await;
            return Ok(ExitCode::SUCCESS);
        }
    };
    let reloads = async {
        while changed.recv().await.is_some() {
            running.reload();
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = stop.received() => {}
        () = reloads => {}
    }
    running.stop().await;
    flush(telemetry).await;
    Ok(ExitCode::SUCCESS)
}

/// Flushes on a thread that may block; the runtime's threads must not.
async fn flush(telemetry: telemetry::Telemetry) {
    // A panic in there has been printed already, and the program is about to exit.
    drop(tokio::task::spawn_blocking(move || telemetry.flush()).await);
}

/// The signals that request a shutdown, caught from [`ShutdownSignals::listen`] on: before that they kill the process.
struct ShutdownSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl ShutdownSignals {
    fn listen() -> anyhow::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for one, or returns at once if one has come since [`ShutdownSignals::listen`].
    async fn received(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// The settings, if they and what they refer to (secrets, policies) have no fault.
fn load_checked(settings: &Settings) -> Result<(Config, Policies), Vec<Fault>> {
    let LoadReport { config, policy, secrets, references, mut faults, .. } =
        config::examine_process(settings.config.as_deref());
    faults.extend(secrets.iter().filter_map(config::SecretRef::check));
    let policies = policy.and_then(|policy| Policies::load(&policy.dir).map_err(|why| faults.extend(why)).ok());
    // A secret that cannot be read is reported once, not again by each check that needs it.
    let at = |fault: &Fault| fault.line.map(|line| (fault.place.clone(), line));
    let told: Vec<_> = faults.iter().filter_map(at).collect();
    let more = check_references(&references).into_iter();
    faults.extend(more.filter(|fault| at(fault).is_none_or(|at| !told.contains(&at))));
    config.zip(policies).filter(|_| faults.is_empty()).ok_or(faults)
}

/// Faults of what settings refer to: certificates, keys, expressions, the form of secrets.
fn check_references(references: &ExternalReferences) -> Vec<Fault> {
    let ExternalReferences { tls, graph, outbound, audit, webhooks, destinations, catalogue } = references;
    let mut faults = Vec::new();
    faults.extend(graph.as_ref().filter(|graph| graph::readable(graph)).and_then(graph::examine));
    let tls = tls.clone().and_then(|tls| api::Certificate::open(tls).err());
    faults.extend(tls.map(|error| no_tls(&error)));
    faults.extend(webhooks::examine(webhooks, catalogue));
    faults.extend(callbacks::examine(destinations));
    let readable = |audit: &&Audit| audit.key.as_ref().is_none_or(|key| key.read().is_ok());
    faults.extend(audit.as_ref().filter(readable).and_then(|audit| checkpoints::signer(audit).err()).map(no_key));
    match outbound.as_ref().map(|outbound| app::outbound(outbound, Clock::system())) {
        Some(Ok(outbound)) => faults.extend(callbacks::unproxied(destinations, &outbound)),
        Some(Err(error)) => faults.push(no_outbound(&error)),
        None => {}
    }
    faults
}

fn no_tls(error: &io::Error) -> Fault {
    let hint = "certificate, unencrypted private key and client authorities must be files in PEM format";
    Fault { place: "server.tls".to_owned(), line: None, what: error.to_string(), hint: Some(hint.to_owned()) }
}

fn no_outbound(error: &anyhow::Error) -> Fault {
    let hint = "outbound.ca_file must be a PEM file of certificates, and outbound.proxy a URL like http://proxy:3128";
    Fault { place: "outbound".to_owned(), line: None, what: format!("{error:#}"), hint: Some(hint.to_owned()) }
}

fn no_key(why: String) -> Fault {
    let hint = "create one with openssl genpkey -algorithm ed25519; see docs/audit.md";
    Fault { place: "audit.key_file".to_owned(), line: None, what: why, hint: Some(hint.to_owned()) }
}

/// What an operator without a signing key goes without.
const NO_KEY: &str = "note: audit.key_file is not set, so no checkpoints are signed: only copies kept elsewhere can show that the \
                      newest audit records were cut off or that the trail was rewritten.";

/// The limits of writing through v1.0, for those who chose it.
const V1_WARNING: &str = "warning: graph.api_version is \"v1.0\", which drops assignment filters: changes that would leave an \
                          assignment with a filter in place are refused. v1.0 supports only status pages, device limits, \
                          Windows Hello and the older platform restrictions; changes to other kinds are refused. \
                          Assignments are read through beta in any case, because v1.0 does not show all of them. \"beta\" \
                          has none of these limits.";

async fn check(asked: &Check) -> anyhow::Result<ExitCode> {
    let (config, policies) = match load_checked(&asked.settings) {
        Ok(settled) => settled,
        Err(faults) => return print_faults(&faults),
    };
    if let Some([source, event]) = asked.explain_webhook.as_deref() {
        return explain_webhook(config, source, Path::new(event));
    }
    print(&format!(
        "no faults: {}, {}, {} and {} in the catalogue, policies in {}",
        counted(config.issuers.len(), "issuer", "issuers"),
        counted(config.callers.len(), "caller", "callers"),
        counted(config.catalogue.configurations.len(), "configuration", "configurations"),
        counted(config.catalogue.groups.len(), "group", "groups"),
        config.policy.dir.display(),
    ))?;
    if config.graph.api_version == ApiVersion::V1 {
        writeln!(io::stderr(), "{V1_WARNING}")?;
    }
    for warning in webhooks::warnings(&config.webhooks).chain(api::warnings(&config.server.cors_origins)) {
        writeln!(io::stderr(), "{warning}")?;
    }
    explain::warn(&config, &policies)?;
    if asked.explain.is_none() && config.audit.key.is_none() {
        print(NO_KEY)?;
    }
    match &asked.explain {
        Some(file) => explain::run(&config, &policies, file, &asked.asked),
        None if asked.live => live_check(config).await,
        None => Ok(ExitCode::SUCCESS),
    }
}

/// Prints what the rules make of an event; exit code 1 if a rule matches it and cannot make a change of it.
fn explain_webhook(config: Config, source: &str, event: &Path) -> anyhow::Result<ExitCode> {
    let webhooks = Webhooks::new(config.webhooks, &config.catalogue);
    let source = webhooks.source(source).with_context(|| format!("no [[webhooks]] entry has the source {source:?}"))?;
    let event = std::fs::read(event).with_context(|| format!("cannot read {}", event.display()))?;
    print(&api::dry_run(source, &event).map_err(|told| anyhow!(told))?)?;
    Ok(ExitCode::SUCCESS)
}

async fn live_check(config: Config) -> anyhow::Result<ExitCode> {
    let clock = Clock::system();
    let graph = Graph::new(config.graph, app::outbound(&config.outbound, clock)?, clock);
    let first = config.catalogue.configurations.values().next();
    let Trial { fine, notes, faults } = graph.try_out(first.map(|catalogued| &catalogued.id)).await;
    for line in fine {
        print(&line)?;
    }
    for note in notes {
        print(&format!("note: {note}"))?;
    }
    if faults.is_empty() { Ok(ExitCode::SUCCESS) } else { print_faults(&faults) }
}

async fn demo_once() -> anyhow::Result<ExitCode> {
    demo::tell(&mut io::stdout()).await?.stop().await;
    Ok(ExitCode::SUCCESS)
}

async fn demo_staying() -> anyhow::Result<ExitCode> {
    let staying = demo::tell(&mut io::stdout()).await?;
    let mut stop = ShutdownSignals::listen()?;
    staying.invite(&mut io::stdout())?;
    stop.received().await;
    staying.stop().await;
    Ok(ExitCode::SUCCESS)
}

async fn run_sandbox(listen: SocketAddr, seed: Option<&Path>) -> anyhow::Result<ExitCode> {
    let seed = seed.map(Seed::load).transpose()?;
    let mut stop = ShutdownSignals::listen()?;
    let mut running = sandbox::start(sandbox::Options { listen, seed, clock: Clock::system() }).await?;
    print(&format!("the sandbox listens on {url}; journal of calls: {url}/_sandbox/journal", url = running.url()))?;
    tokio::select! {
        stopped = running.stopped() => stopped?,
        () = stop.received() => {}
    }
    running.stop().await;
    Ok(ExitCode::SUCCESS)
}

async fn token(caller: &str, sandbox: &str) -> anyhow::Result<ExitCode> {
    print(&demo::token_of(caller, sandbox).await?)?;
    Ok(ExitCode::SUCCESS)
}
