//! `postern probe`: gateways that are healthy, that are shutting down, that are not there.

use std::{net::TcpListener, path::Path};

use crate::{
    Ended, Program, faulty, postern,
    serve::{gateway, told},
    shipped,
};

/// Probes an address, with the sandbox's settings.
fn probed(folder: &Path, address: &str, question: &[&str]) -> Ended {
    let settings = shipped("config/sandbox.toml");
    let mut command = postern(folder, &[&["probe", "--config", &settings], question].concat());
    command.env("POSTERN__SERVER__ADMIN_LISTEN", address);
    Program::start(command).ended()
}

#[track_caller]
fn is_well(ended: &Ended, told: &str) {
    assert_eq!((ended.code, ended.out.as_str(), ended.err.as_str()), (Some(0), told, ""));
}

#[track_caller]
fn is_not(ended: &Ended, told: &str) {
    assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""));
    assert!(ended.err.starts_with(&format!("postern: {told}")) && ended.err.lines().count() == 1, "{}", ended.err);
}

#[test]
fn a_running_gateway_is_well_and_one_that_stops_is_alive() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = gateway(folder.path());
    command.env("POSTERN__SERVER__ADMIN_LISTEN", "0.0.0.0:0").env("POSTERN__SERVER__DRAIN_DELAY", "5m");
    let running = Program::start(command);
    let address = told(&running, "admin_address");
    assert!(address.starts_with("0.0.0.0:"), "{address}");
    is_well(&probed(folder.path(), &address, &[]), "ready\n");
    is_well(&probed(folder.path(), &address, &["ready"]), "ready\n");
    is_well(&probed(folder.path(), &address, &["live"]), "alive\n");
    running.terminate();
    running.err.until("\"stopping\"");
    is_not(&probed(folder.path(), &address, &[]), "not ready: stopping");
    is_well(&probed(folder.path(), &address, &["live"]), "alive\n");
}

#[test]
fn settings_that_were_spoilt_meanwhile_say_nothing_about_the_gateway() {
    let folder = faulty();
    let running = Program::start(gateway(folder.path()));
    let address = told(&running, "admin_address");
    let mut command = postern(folder.path(), &["probe", "--config", "faulty.toml"]);
    command.env("POSTERN__SERVER__ADMIN_LISTEN", &address);
    is_well(&Program::start(command).ended(), "ready\n");
}

#[test]
fn probe_fails_for_absent_silent_and_unconfigured_gateways() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = listener.local_addr().unwrap().to_string();
    is_not(&probed(folder.path(), &silent, &["live"]), &format!("no gateway answers at {silent}: no answer: "));
    drop(listener);
    is_not(&probed(folder.path(), &silent, &["live"]), &format!("no gateway answers at {silent}: cannot connect: "));
    is_not(&probed(folder.path(), "127.0.0.1:0", &[]), "server.admin_listen has port 0");
    let unknown = probed(folder.path(), "nowhere", &[]);
    assert_eq!(unknown.code, Some(1));
    assert!(unknown.err.contains("POSTERN__SERVER__ADMIN_LISTEN") && unknown.err.contains("nowhere"), "{unknown:?}");
}
