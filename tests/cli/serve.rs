//! `postern serve`.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::Command,
};

use crate::{Program, faulty, postern, run, shipped};

/// A gateway with the sandbox's settings, on free ports, with its store in the folder.
pub(crate) fn gateway(folder: &Path) -> Command {
    let mut command = postern(folder, &["serve", "--config", &shipped("config/sandbox.toml")]);
    command
        .env("POSTERN__SERVER__LISTEN", "127.0.0.1:0")
        .env("POSTERN__SERVER__ADMIN_LISTEN", "127.0.0.1:0")
        .env("POSTERN__STORE__URL", "sqlite:postern.db");
    command
}

/// A field of the line that a gateway logs when it is ready.
pub(crate) fn told(running: &Program, key: &str) -> String {
    let ready: serde_json::Value = serde_json::from_str(&running.err.until("the gateway is ready")).unwrap();
    ready.get(key).and_then(|value| value.as_str()).unwrap().to_owned()
}

#[test]
fn with_faults_it_does_not_start_and_says_what_check_says() {
    let folder = faulty();
    let checked = run(folder.path(), &["check", "--config", "faulty.toml"]);
    let served = run(folder.path(), &["serve", "--config", "faulty.toml"]);
    assert_eq!((served.code, served.out, served.err), (Some(1), String::new(), checked.err));
    assert!(!folder.path().join("postern.db").exists());
}

#[test]
fn a_taken_port_is_named_and_costs_the_store_nothing() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for key in ["server.listen", "server.admin_listen"] {
        let folder = tempfile::tempdir().unwrap();
        let mut command = gateway(folder.path());
        command.env(format!("POSTERN__{}", key.replace('.', "__").to_uppercase()), &address);
        let ended = Program::start(command).ended();
        assert_eq!(ended.code, Some(1));
        let told = format!("postern: cannot listen on {address} ({key}): Address already in use");
        assert!(ended.err.contains(&told), "{}", ended.err);
        assert!(!folder.path().join("postern.db").exists());
    }
}

#[test]
fn it_logs_json_says_where_it_is_and_stops_when_told() {
    let folder = tempfile::tempdir().unwrap();
    let running = Program::start(gateway(folder.path()));
    // A wrong working directory shows in both.
    let store = folder.path().canonicalize().unwrap().join("postern.db").display().to_string();
    let new: serde_json::Value = serde_json::from_str(&running.err.until("a new, empty one is created")).unwrap();
    assert_eq!((&new["level"], &new["path"]), (&"INFO".into(), &store.as_str().into()));
    let ready: serde_json::Value = serde_json::from_str(&running.err.until("the gateway is ready")).unwrap();
    let address = ready["address"].as_str().unwrap();
    assert!(address.starts_with("127.0.0.1:") && !address.ends_with(":0"), "{address}");
    assert_eq!(ready["store"], format!("sqlite:{store}"));
    running.terminate();
    let ended = running.ended();
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), ""));
    for line in ended.err.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    }
    // Everything is in the one file, so a copy of that file is a copy of the store.
    assert!(!folder.path().join("postern.db-wal").exists());
    let verified = run(folder.path(), &["audit", "verify", "--store", "postern.db"]);
    assert_eq!((verified.code, verified.err.as_str()), (Some(0), ""));
    assert!(verified.out.starts_with("2 records in 1 chain, every hash fits"), "{}", verified.out);
}

#[test]
fn on_a_hangup_it_takes_up_what_has_changed_and_refuses_what_is_faulty() {
    let folder = tempfile::tempdir().unwrap();
    let policies = folder.path().join("policies");
    std::fs::create_dir(&policies).unwrap();
    for entry in std::fs::read_dir(shipped("config/policies")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), policies.join(entry.file_name())).unwrap();
    }
    let mut command = gateway(folder.path());
    command.env("POSTERN__POLICY__DIR", "policies").env("POSTERN__POLICY__RELOAD_INTERVAL", "1h");
    let running = Program::start(command);
    running.err.until("the gateway is ready");
    std::fs::write(policies.join("own.cedar"), "@id(\"own\") forbid (principal, action, resource);").unwrap();
    running.signal("HUP");
    let line = running.err.until("policies, catalogue and log filter are reloaded");
    assert!(line.contains("\"level\":\"INFO\""), "{line}");
    std::fs::write(policies.join("own.cedar"), "forbid").unwrap();
    running.signal("HUP");
    let line = running.err.until("those in force stay");
    assert!(line.contains("\"level\":\"ERROR\"") && line.contains("own.cedar:1: "), "{line}");
    running.terminate();
    assert_eq!(running.ended().code, Some(0));
    let trail = run(folder.path(), &["audit", "export", "--store", "postern.db"]);
    let of = |event: &str| trail.out.matches(&format!("\"event\":\"{event}\"")).count();
    assert_eq!((of("configuration-loaded"), of("configuration-refused")), (2, 1), "{}", trail.out);
}

#[test]
fn on_a_hangup_other_events_are_logged_if_the_settings_say_so_without_fault() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.toml");
    let shipped_text = std::fs::read_to_string(shipped("config/sandbox.toml")).unwrap();
    std::fs::copy(shipped("config/sandbox.secret"), folder.path().join("sandbox.secret")).unwrap();
    let write = |filter: &str| {
        std::fs::write(&file, format!("{shipped_text}\n[telemetry]\nlog_filter = \"{filter}\"\n")).unwrap();
    };
    for (last, tells_of_the_stop) in [("info", true), ("warn", false)] {
        write("info");
        let mut command = postern(folder.path(), &["serve", "--config", "gateway.toml"]);
        command
            .envs(gateway(folder.path()).get_envs().filter_map(|(name, value)| Some((name, value?))))
            .env("POSTERN__POLICY__DIR", shipped("config/policies"));
        let running = Program::start(command);
        running.err.until("the gateway is ready");
        write(last);
        running.signal("HUP");
        running.err.until("log filter are reloaded");
        write("postern=loud");
        running.signal("HUP");
        let line = running.err.until("those in force stay");
        assert!(line.contains("telemetry.log_filter"), "{line}");
        running.terminate();
        let ended = running.ended();
        assert_eq!((ended.code, ended.err.contains("\"stopping\"")), (Some(0), tells_of_the_stop), "{}", ended.err);
    }
}

#[test]
fn a_second_gateway_on_one_store_is_refused_and_the_first_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let first = Program::start(gateway(folder.path()));
    first.err.until("the gateway is ready");
    let second = Program::start(gateway(folder.path())).ended();
    assert_eq!(second.code, Some(1));
    assert!(second.err.contains("postern.db: another gateway uses it"), "{}", second.err);
    // The trail can be verified meanwhile.
    assert_eq!(run(folder.path(), &["audit", "verify", "--store", "postern.db"]).code, Some(0));
    first.terminate();
    assert_eq!(first.ended().code, Some(0));
    let third = Program::start(gateway(folder.path()));
    third.err.until("the gateway is ready");
}

/// A PostgreSQL server whose tables are always locked, as far as an opening gateway asks.
fn locked_database() -> String {
    const READY: &[u8] = b"Z\0\0\0\x05I";
    fn answer(mut caller: TcpStream) -> std::io::Result<()> {
        let mut size = [0; 4];
        let mut message = |caller: &mut TcpStream, kind: &mut [u8]| {
            caller.read_exact(kind)?;
            caller.read_exact(&mut size)?;
            caller.read_exact(&mut vec![0; usize::try_from(u32::from_be_bytes(size)).unwrap() - size.len()])
        };
        message(&mut caller, &mut [])?;
        caller.write_all(&[b"R\0\0\0\x08\0\0\0\0", READY].concat())?;
        let mut kind = [0];
        while kind != *b"X" {
            message(&mut caller, &mut kind)?;
            // lock_not_available
            caller.write_all(&[b"E\0\0\0\x1bSERROR\0C55P03\0Mlocked\0\0", READY].concat())?;
        }
        Ok(())
    }
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("postgres://postern@{}/postern?sslmode=disable", server.local_addr().unwrap());
    std::thread::spawn(move || server.incoming().flatten().map(answer).for_each(drop));
    url
}

#[test]
fn it_stops_when_told_even_while_it_starts() {
    for signal in ["TERM", "INT"] {
        let folder = tempfile::tempdir().unwrap();
        let mut command = gateway(folder.path());
        command.env("POSTERN__STORE__URL", locked_database());
        let running = Program::start(command);
        running.err.until("the tables are locked by somebody else");
        running.signal(signal);
        let ended = running.ended();
        assert_eq!(ended.code, Some(0), "{}", ended.err);
        assert!(ended.err.contains("stopped before the gateway was ready"), "{}", ended.err);
    }
}
