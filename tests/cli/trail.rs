//! `postern audit`: intact and tampered trails, in a store and in a file.

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        process::CommandExt,
    },
    path::Path,
    process::Command,
};

use postern::{
    audit::{Actor, Entry, Event, Head, Record, Signer},
    clock::Clock,
    domain::Digest,
    store::{Run, Sqlite, Store},
};
use sqlx::{Connection, SqliteConnection};
use tempfile::TempDir;

use crate::{Ended, program::Program, run};

/// A folder with a store, `postern.db`, of two runs and six records.
fn store() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    block_on(async {
        let clock = Clock::system();
        for chain in ["first", "second"] {
            let run = Run { chain: chain.to_owned(), clock };
            let store = Sqlite::open(&folder.path().join("postern.db"), run).await.unwrap();
            let actor = Some(Actor { caller: None, issuer: "i".to_owned(), subject: "s".to_owned(), token_id: None });
            let event = Event::Denied {
                actor,
                action: "add".to_owned(),
                configuration: None,
                change: None,
                ticket: Some("RITM0010023".to_owned()),
                reason: "no policy permits it".to_owned(),
                repeated: None,
            };
            let entry = Entry { at: clock.now(), trace_id: None, event };
            store.append_records(vec![entry.clone(), entry]).await.unwrap();
            store.close().await;
        }
    });
    folder
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// Does what an intruder with access to the file could.
fn alter(folder: &Path, sql: &'static str) {
    let url = format!("sqlite:{}", folder.join("postern.db").display());
    block_on(async {
        let mut connection = SqliteConnection::connect(&url).await.unwrap();
        assert_eq!(sqlx::query(sql).execute(&mut connection).await.unwrap().rows_affected(), 1);
        connection.close().await.unwrap();
    });
}

fn verify(folder: &Path, arguments: &[&str]) -> Ended {
    run(folder, &[&["audit", "verify"], arguments].concat())
}

#[track_caller]
fn is_broken(ended: &Ended, at: &str) {
    assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""), "{ended:?}");
    assert!(ended.err.starts_with(&format!("the audit trail is broken: record {at}")), "{}", ended.err);
}

#[test]
fn a_whole_trail_verifies_in_the_store_and_as_an_exported_file() {
    let folder = store();
    let in_store = verify(folder.path(), &["--store", "postern.db"]);
    assert_eq!((in_store.code, in_store.err.as_str()), (Some(0), ""));
    assert!(in_store.out.starts_with("6 records in 2 chains, every hash fits"), "{}", in_store.out);
    let exported = run(folder.path(), &["audit", "export", "--store", "postern.db"]);
    assert_eq!((exported.code, exported.err.as_str()), (Some(0), "to go on from here: --after second/3\n"));
    assert_eq!(exported.out.lines().count(), 6);
    for line in exported.out.lines() {
        let record: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(["chain", "sequence", "hash", "at", "event"].iter().all(|key| record.get(key).is_some()), "{line}");
    }
    fs::write(folder.path().join("trail.jsonl"), &exported.out).unwrap();
    let in_file = verify(folder.path(), &["--file", "trail.jsonl"]);
    assert_eq!((in_file.code, in_file.out), (Some(0), in_store.out));
}

#[test]
fn a_store_with_one_byte_altered_is_broken_at_that_record() {
    let folder = store();
    alter(folder.path(), "UPDATE audit SET text = replace(text, 'RITM0010023', 'RITM0010024') WHERE position = 3");
    let broken = verify(folder.path(), &["--store", "postern.db"]);
    is_broken(&broken, "3 (chain first, sequence 3): its content does not fit its hash");
}

#[test]
fn a_store_with_a_record_gone_is_broken_at_the_next() {
    let folder = store();
    alter(folder.path(), "DELETE FROM audit WHERE position = 2");
    let broken = verify(folder.path(), &["--store", "postern.db"]);
    is_broken(&broken, "2 (chain first, sequence 3): sequence 2 is expected here");
}

#[test]
fn a_file_is_broken_at_the_line_that_was_touched() {
    let folder = store();
    let exported = run(folder.path(), &["audit", "export", "--store", "postern.db"]).out;
    let lines: Vec<_> = exported.lines().collect();
    let touched = |line: usize, with: &[u8]| {
        let mut bytes: Vec<u8> = Vec::new();
        for (index, text) in lines.iter().enumerate() {
            bytes.extend_from_slice(if index == line { with } else { text.as_bytes() });
            bytes.push(b'\n');
        }
        fs::write(folder.path().join("trail.jsonl"), bytes).unwrap();
        verify(folder.path(), &["--file", "trail.jsonl"])
    };
    is_broken(&touched(3, b""), "4: it is not a record");
    is_broken(&touched(0, b"{}"), "1: it is not a record");
    is_broken(&touched(4, b"no \xff text"), "5: it is not a record");
    is_broken(&touched(1, lines.last().unwrap().as_bytes()), "2 (chain second, sequence 3)");
}

#[test]
fn what_is_no_store_is_said_to_be_none() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("notes.db"), "not a database at all, but somebody's notes".repeat(50)).unwrap();
    for (arguments, what) in [
        (["--store", "none.db"], "there is no store at none.db"),
        (["--store", "notes.db"], "cannot read the trail in notes.db: "),
        (["--store", "notes.db"], "not a database"),
        (["--file", "none.jsonl"], "cannot read none.jsonl"),
    ] {
        let ended = verify(folder.path(), &arguments);
        assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""), "{arguments:?}");
        assert!(ended.err.contains(what), "{arguments:?}: {}", ended.err);
    }
    assert!(!folder.path().join("none.db").exists());
}

/// As on a medium that is mounted read-only.
#[test]
fn a_stopped_store_is_read_where_nothing_can_be_written() {
    let (folder, program) = (store(), tempfile::tempdir().unwrap());
    // Mode bits do not bind root, so another user runs a copy of the program, which it may not reach where it was built.
    let postern = program.path().join("postern");
    fs::copy(env!("CARGO_BIN_EXE_postern"), &postern).unwrap();
    fs::set_permissions(program.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let kept = folder.path().join("kept 100%? #1");
    fs::create_dir(&kept).unwrap();
    let file = kept.join("postern.db");
    fs::rename(folder.path().join("postern.db"), &file).unwrap();
    assert!(!kept.join("postern.db-wal").exists());
    fs::set_permissions(&file, fs::Permissions::from_mode(0o444)).unwrap();
    for folder in [folder.path(), &kept] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o555)).unwrap();
    }
    let mut command = Command::new(&postern);
    command.args(["audit", "verify", "--store"]).arg(&file).current_dir(&kept).env_clear();
    if fs::metadata("/proc/self").unwrap().uid() == 0 {
        command.uid(NOBODY).gid(NOBODY);
    }
    let verified = Program::start(command).ended();
    for folder in [folder.path(), &kept] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    }
    assert_eq!((verified.code, verified.err.as_str()), (Some(0), ""), "{}", verified.out);
    assert!(verified.out.starts_with("6 records in 2 chains, every hash fits"), "{}", verified.out);
}

/// A user that owns nothing here, whether or not it has a name.
const NOBODY: u32 = 65_534;

/// An Ed25519 key as openssl writes it, and another.
const KEY: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";
const OTHER_KEY: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f\n-----END PRIVATE KEY-----\n";

fn denied(ticket: &str) -> Entry {
    let event = Event::Denied {
        actor: None,
        action: "authenticate".to_owned(),
        configuration: None,
        change: None,
        ticket: Some(ticket.to_owned()),
        reason: "the token has expired".to_owned(),
        repeated: None,
    };
    Entry { at: Clock::system().now(), trace_id: None, event }
}

/// Adds runs to the store, each given by the tickets of its records; `*` is a checkpoint signed with this key.
fn write(folder: &Path, key: &str, runs: &[(&str, &[&str])]) {
    let signer = Signer::from_pem(key).unwrap();
    fs::write(folder.join("key.pub"), signer.public().to_string()).unwrap();
    block_on(async {
        for (chain, tickets) in runs {
            let run = Run { chain: (*chain).to_owned(), clock: Clock::system() };
            let store = Sqlite::open(&folder.join("postern.db"), run).await.unwrap();
            for ticket in *tickets {
                let mut entry = denied(ticket);
                if *ticket == "*" {
                    entry.event = signer.checkpoint(&store.chain_heads().await.unwrap(), entry.at);
                }
                store.append_records(vec![entry]).await.unwrap();
            }
            store.close().await;
        }
    });
}

fn export(folder: &Path, arguments: &[&str]) -> Ended {
    run(folder, &[&["audit", "export", "--store", "postern.db"], arguments].concat())
}

#[test]
fn checkpoints_tell_what_a_key_vouches_for() {
    let folder = tempfile::tempdir().unwrap();
    let signed = ["--store", "postern.db", "--public-key", "key.pub"];
    write(folder.path(), KEY, &[("first", &["a", "b"])]);
    let none = verify(folder.path(), &signed);
    assert_eq!(none.code, Some(1));
    assert!(none.err.starts_with("the audit trail is not vouched for: there is no checkpoint in it"), "{}", none.err);
    write(folder.path(), KEY, &[("second", &["c", "*"])]);
    let all = verify(folder.path(), &signed);
    assert_eq!(all.code, Some(0), "{}", all.err);
    assert!(
        all.out.contains("1 checkpoint, every signature fits\n3 records of chain first were vouched for"),
        "{}",
        all.out
    );
    write(folder.path(), KEY, &[("third", &["d", "e"])]);
    let younger = verify(folder.path(), &signed);
    assert_eq!(younger.code, Some(0), "{}", younger.err);
    assert!(younger.out.contains("the newest 3 records are younger than any checkpoint"), "{}", younger.out);
    let unchecked = verify(folder.path(), &["--store", "postern.db"]);
    assert!(unchecked.out.contains("1 checkpoint, whose signatures were not checked"), "{}", unchecked.out);
    fs::write(folder.path().join("no.pub"), KEY).unwrap();
    let no_key = verify(folder.path(), &["--store", "postern.db", "--public-key", "no.pub"]);
    assert_eq!(no_key.code, Some(1));
    assert!(no_key.err.contains("no.pub holds no public key"), "{}", no_key.err);
}

/// Nobody needs the key to add records to the chain of a run that is over; the next run's checkpoint covers them.
#[test]
fn records_added_to_a_chain_that_had_ended_are_not_taken_for_those_of_its_run() {
    let folder = tempfile::tempdir().unwrap();
    let signed = ["--store", "postern.db", "--public-key", "key.pub"];
    write(folder.path(), KEY, &[("first", &["a", "*"]), ("second", &["b", "*"])]);
    let all = verify(folder.path(), &signed);
    assert_eq!(all.code, Some(0), "{}", all.err);
    assert!(all.out.ends_with("2 checkpoints, every signature fits; they vouch for every record\n"), "{}", all.out);
    for (number, next) in [(1, "third"), (2, "fourth")] {
        let whole = export(folder.path(), &[]).out;
        let mut head = Head::after(whole.lines().last().unwrap()).unwrap();
        for _ in 0..number {
            insert(folder.path(), &head.append(&denied("forged")));
        }
        write(folder.path(), KEY, &[(next, &["c", "*"])]);
    }
    let forged = verify(folder.path(), &signed);
    assert_eq!(forged.code, Some(0), "{}", forged.err);
    for told in [
        "4 checkpoints, every signature fits\n",
        "1 record of chain second was vouched for only by another run\n",
        "2 records of chain third were vouched for only by another run\n",
    ] {
        assert!(forged.out.contains(told), "{told}: {}", forged.out);
    }
}

fn insert(folder: &Path, record: &Record) {
    let url = format!("sqlite:{}", folder.join("postern.db").display());
    block_on(async {
        let mut connection = SqliteConnection::connect(&url).await.unwrap();
        let row = sqlx::query("INSERT INTO audit (chain, sequence, text) VALUES (?, ?, ?)");
        let row = row.bind(&record.chain).bind(i64::try_from(record.sequence).unwrap()).bind(&record.text);
        row.execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    });
}

#[test]
fn a_trail_that_was_written_anew_has_no_checkpoint_of_the_key() {
    let (honest, forged) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(honest.path(), KEY, &[("first", &["a", "b", "*", "c", "*"])]);
    // The intruder knows how records are chained and has a key, but not the right one.
    write(forged.path(), OTHER_KEY, &[("first", &["a", "x", "*", "c", "*"])]);
    fs::copy(honest.path().join("key.pub"), forged.path().join("key.pub")).unwrap();
    assert_eq!(verify(forged.path(), &["--store", "postern.db"]).code, Some(0), "every hash fits");
    let broken = verify(forged.path(), &["--store", "postern.db", "--public-key", "key.pub"]);
    is_broken(&broken, "4 (chain first, sequence 4): it is signed by key");
    // Or reuses a signature that the key made.
    let kept = export(honest.path(), &[]).out;
    let kept: serde_json::Value = serde_json::from_str(kept.lines().nth(3).unwrap()).unwrap();
    let lines: Vec<_> = export(forged.path(), &[]).out.lines().map(str::to_owned).collect();
    let mut line: serde_json::Value = serde_json::from_str(&lines[3]).unwrap();
    for field in ["key_id", "signature"] {
        line[field] = kept[field].clone();
    }
    fs::write(forged.path().join("trail.jsonl"), rechained(&lines[..3], line)).unwrap();
    let broken = verify(forged.path(), &["--file", "trail.jsonl", "--public-key", "key.pub"]);
    is_broken(&broken, "4 (chain first, sequence 4): its signature is not that of key");
}

/// These lines and one more, with its hash recomputed.
fn rechained(lines: &[String], mut line: serde_json::Value) -> String {
    line.as_object_mut().unwrap().remove("hash");
    let text = postern::canonical::text(&line);
    let hash = Digest::of(text.as_bytes());
    line.as_object_mut().unwrap().insert("hash".to_owned(), hash.as_str().into());
    format!("{}\n{}\n", lines.join("\n"), postern::canonical::text(&line))
}

#[test]
fn whoever_audits_needs_no_other_settings_than_those_of_the_store() {
    let folder = store();
    let config = "[store]\nurl = \"sqlite:postern.db\"\n[graph.credential]\nkind = \"secret\"\n[graf]\n";
    fs::write(folder.path().join("gateway.toml"), config).unwrap();
    let whole = verify(folder.path(), &["--config", "gateway.toml"]);
    assert_eq!(whole.code, Some(0), "{whole:?}");
    // What is wrong may be where the store is said to be, so which one was read is told.
    assert!(whole.err.contains("graf"), "{}", whole.err);
    assert!(whole.err.ends_with("the store is read nevertheless: postern.db\n"), "{}", whole.err);
    // Without those of the store nothing can be read.
    fs::write(folder.path().join("gateway.toml"), "[store]\nurl = \"mysql://db/postern\"\n").unwrap();
    let none = verify(folder.path(), &["--config", "gateway.toml"]);
    assert_eq!((none.code, none.out.as_str()), (Some(1), ""));
    assert!(none.err.contains("gateway.toml:2: store.url"), "{}", none.err);
}

#[test]
fn a_break_fails_until_it_is_said_to_be_known() {
    let folder = store();
    let lines: Vec<_> = export(folder.path(), &[]).out.lines().map(str::to_owned).collect();
    let mut opening: serde_json::Value = serde_json::from_str(&lines[3]).unwrap();
    opening["expected_end"] = serde_json::json!({"chain": "first", "sequence": 5, "hash": "0".repeat(64)});
    fs::write(folder.path().join("trail.jsonl"), rechained(&lines[..3], opening)).unwrap();
    let unknown = verify(folder.path(), &["--file", "trail.jsonl"]);
    let broken = "the audit trail is broken: the run that wrote chain first had ended it with record 5, ";
    assert_eq!((unknown.code, unknown.out.as_str()), (Some(1), ""));
    assert!(unknown.err.starts_with(broken), "{}", unknown.err);
    assert!(unknown.err.contains("add --known-break first/5\n"), "{}", unknown.err);
    let known = verify(folder.path(), &["--file", "trail.jsonl", "--known-break", "first/5"]);
    assert_eq!(known.code, Some(0), "{}", known.err);
    assert!(known.out.contains("\nknown: the run that wrote chain first had ended it with record 5"), "{}", known.out);
    // Another break than the known one fails, and so does a known one that is not there.
    for other in ["first/4", "second/5"] {
        let both = verify(folder.path(), &["--file", "trail.jsonl", "--known-break", other]);
        assert_eq!((both.code, both.out.as_str()), (Some(1), ""));
        assert!(both.err.starts_with(broken), "{}", both.err);
        let none = verify(folder.path(), &["--store", "postern.db", "--known-break", other]);
        assert_eq!((none.code, none.out.as_str()), (Some(1), ""));
        assert!(none.err.contains(&format!("with record {other}, which was said to be a known break")), "{}", none.err);
    }
    let unclear = verify(folder.path(), &["--file", "trail.jsonl", "--known-break", "5"]);
    assert!(unclear.err.contains("CHAIN/SEQUENCE"), "{}", unclear.err);
}

#[test]
fn an_end_that_was_cut_off_shows_by_a_checkpoint_kept_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), KEY, &[("first", &["a", "*"]), ("second", &["b", "c", "*"])]);
    let exported = export(folder.path(), &[]).out;
    fs::write(folder.path().join("kept.jsonl"), exported.lines().last().unwrap()).unwrap();
    let asked = ["--store", "postern.db", "--public-key", "key.pub", "--checkpoint", "kept.jsonl"];
    assert_eq!(verify(folder.path(), &asked).code, Some(0));
    // The newest checkpoint alone, then more and more: any tail verifies by itself.
    for rest in 4..7 {
        let part: Vec<_> = exported.lines().take(rest).collect();
        fs::write(folder.path().join("part.jsonl"), part.join("\n")).unwrap();
        let alone = verify(folder.path(), &["--file", "part.jsonl", "--public-key", "key.pub"]);
        assert_eq!(alone.code, Some(0), "{rest}: {}", alone.err);
        let cut = verify(folder.path(), &["--file", "part.jsonl", "--checkpoint", "kept.jsonl"]);
        assert_eq!((cut.code, cut.out.as_str()), (Some(1), ""), "{rest}");
        assert!(cut.err.contains("which a kept checkpoint names, is not there"), "{rest}: {}", cut.err);
    }
    fs::write(folder.path().join("none.jsonl"), exported.lines().next().unwrap()).unwrap();
    let none = verify(folder.path(), &["--store", "postern.db", "--checkpoint", "none.jsonl"]);
    assert!(none.err.contains("there is no checkpoint in none.jsonl"), "{}", none.err);
}

#[test]
fn an_export_is_gone_on_with_where_it_ended_in_every_form() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), KEY, &[("first", &["a", "*"]), ("second", &["b", "c"])]);
    for format in ["jsonl", "ocsf", "ecs", "asim"] {
        let whole = export(folder.path(), &["--format", format]);
        assert_eq!(whole.err, "to go on from here: --after second/3\n");
        let part = export(folder.path(), &["--format", format, "--to", "second/1"]);
        assert_eq!(part.err, "to go on from here: --after second/1\n");
        let rest = export(folder.path(), &["--format", format, "--after", "second/1"]);
        assert_eq!(format!("{}{}", part.out, rest.out), whole.out);
        let last = whole.out.lines().last().unwrap();
        assert!(format == "jsonl" || last.contains("\"second/3\""), "{last}");
    }
    let nothing_new = export(folder.path(), &["--after", "second/3"]);
    let told = "no record is in this range\nto go on from here: --after second/3\n";
    assert_eq!((nothing_new.code, nothing_new.out.as_str(), nothing_new.err.as_str()), (Some(0), "", told));
    let unknown = export(folder.path(), &["--after", "second/9"]);
    assert_eq!(unknown.code, Some(1));
    assert!(unknown.err.contains("there is no record second/9 in this trail"), "{}", unknown.err);
}

/// Records are not strictly in order of their times.
#[test]
fn what_an_export_up_to_a_time_leaves_out_comes_with_the_next() {
    let folder = tempfile::tempdir().unwrap();
    block_on(async {
        let clock = Clock::system();
        let run = Run { chain: "first".to_owned(), clock };
        let store = Sqlite::open(&folder.path().join("postern.db"), run).await.unwrap();
        let event =
            Event::ConfigurationLoaded { policies: Digest::of(b"p"), settings: Digest::of(b"s"), callers: vec![] };
        let later = "2100-01-01T00:00:00Z".parse().unwrap();
        let entry = |at| Entry { at, trace_id: None, event: event.clone() };
        store.append_records([clock.now(), later, clock.now()].map(entry).into()).await.unwrap();
        store.close().await;
    });
    let whole = export(folder.path(), &[]).out;
    let lines: Vec<_> = whole.lines().collect();
    let first = export(folder.path(), &["--to", "2099-01-01T00:00:00Z"]);
    assert_eq!(first.out.lines().collect::<Vec<_>>(), [lines[0], lines[1], lines[3]]);
    assert_eq!(first.err, "to go on from here: --after first/2\n");
    let next = export(folder.path(), &["--after", "first/2"]);
    assert_eq!(next.out.lines().collect::<Vec<_>>(), lines[2..]);
}

/// Arguments, and the lines of the whole trail that they select.
type Case<'a> = (&'a [&'a str], &'a [usize]);

#[test]
fn a_part_of_the_trail_is_exported_by_time_or_place_from_a_store_and_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), KEY, &[("first", &["a", "b"]), ("second", &["c"])]);
    let whole = export(folder.path(), &[]).out;
    fs::write(folder.path().join("trail.jsonl"), &whole).unwrap();
    let lines: Vec<_> = whole.lines().collect();
    let at = |line: usize| {
        let record: serde_json::Value = serde_json::from_str(lines[line]).unwrap();
        record["at"].as_str().unwrap().to_owned()
    };
    let cases: [Case<'_>; 6] = [
        (&["--from", "first/2"], &[1, 2, 3, 4]),
        (&["--from", "first/2", "--to", "second/1"], &[1, 2, 3]),
        (&["--after", "first/2", "--to", "first/3"], &[2]),
        (&["--from", &at(0)], &[0, 1, 2, 3, 4]),
        (&["--to", &at(0)], &[]),
        (&["--from", "2100-01-01T00:00:00Z"], &[]),
    ];
    for (arguments, expected) in cases {
        let expected: String = expected.iter().map(|line| lines[*line].to_owned() + "\n").collect();
        let of_store = export(folder.path(), arguments);
        assert_eq!((of_store.code, &of_store.out), (Some(0), &expected), "{arguments:?}: {}", of_store.err);
        let of_file = run(folder.path(), &[&["audit", "export", "--file", "trail.jsonl"], arguments].concat());
        assert_eq!((of_file.code, &of_file.out), (Some(0), &expected), "{arguments:?}: {}", of_file.err);
        for err in [of_store.err, of_file.err] {
            assert_eq!(err.contains("no record is in this range"), expected.is_empty(), "{arguments:?}: {err}");
        }
    }
    let wrong = export(folder.path(), &["--from", "yesterday"]);
    assert_eq!(wrong.code, Some(2));
    let missing = run(folder.path(), &["audit", "export", "--file", "trail.jsonl", "--after", "first/8"]);
    assert!(missing.err.contains("there is no record first/8 in this trail"), "{}", missing.err);
}
