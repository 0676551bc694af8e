//! `postern probe`: checks whether a running gateway is live or ready, for containers without a shell.
//!
//! Guarantees: it ends within seconds, with one line and the exit code that a container's health check uses.
//!
//! It deliberately uses only the internal address from the settings: faults that the file has acquired since say nothing
//! about the gateway that runs.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, anyhow, bail};
use clap::{Args, ValueEnum};

use super::{Settings, print};
use crate::{
    app,
    clock::Clock,
    config::{self, LoadReport},
    outbound::{Method, Outbound, Request},
};

/// Less than container engines and the kubelet commonly allow for a probe.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Longer than any response to a probe, in bytes.
const RESPONSE_MAX: usize = 4096;

#[derive(Args, Debug)]
pub(super) struct Probe {
    /// What to check.
    #[arg(value_enum, default_value_t = Question::Ready)]
    question: Question,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Question {
    /// Whether the process runs; if not, a restart may help.
    Live,
    /// Whether it currently accepts changes.
    Ready,
}

pub(super) async fn run(asked: &Probe) -> anyhow::Result<ExitCode> {
    let LoadReport { admin_listen, faults, .. } = config::examine_process(asked.settings.config.as_deref());
    let address = reachable(admin_listen.ok_or_else(|| anyhow!(app::listed(&faults)))?);
    if address.port() == 0 {
        bail!("server.admin_listen has port 0 (any free port), so the port of the gateway is not known: set a port");
    }
    let path = match asked.question {
        Question::Live => "livez",
        Question::Ready => "readyz",
    };
    let call = Request {
        method: Method::GET,
        url: format!("http://{address}/{path}"),
        headers: Vec::new(),
        body: None,
        timeout: TIMEOUT,
        end_by: None,
        response_max: RESPONSE_MAX,
    };
    let answer = Outbound::new(Clock::system())?.direct()?.send(call).await;
    let answer = answer.with_context(|| format!("no gateway answers at {address}"))?;
    let told = String::from_utf8_lossy(&answer.body).trim().to_owned();
    if !answer.status.is_success() {
        bail!("{told}");
    }
    print(&told)?;
    Ok(ExitCode::SUCCESS)
}

/// The address to call from this machine: loopback for a gateway that listens on every address.
fn reachable(listens: SocketAddr) -> SocketAddr {
    let address = match listens.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        given @ (IpAddr::V4(_) | IpAddr::V6(_)) => given,
    };
    SocketAddr::new(address, listens.port())
}
