//! `postern audit`: whole trails, and broken ones, in a store and in a file.

use std::{fs, path::Path};

use postern::{
    audit::{Actor, Entry, Event},
    clock::Clock,
    store::{Run, Sqlite, Store},
};
use sqlx::{Connection, SqliteConnection};
use tempfile::TempDir;

use crate::{Ended, run};

/// A folder with a store, `postern.db`, of two runs and six records.
fn store() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    block_on(async {
        let clock = Clock::system();
        for chain in ["first", "second"] {
            let run = Run { chain: chain.to_owned(), clock };
            let store = Sqlite::open(&folder.path().join("postern.db"), run).await.unwrap();
            let actor = Actor { caller: None, issuer: "i".to_owned(), subject: "s".to_owned(), token_id: None };
            let event = Event::Denied {
                actor,
                action: "add".to_owned(),
                configuration: None,
                change: None,
                ticket: Some("RITM0010023".to_owned()),
                reason: "no policy permits it".to_owned(),
            };
            let entry = Entry { at: clock.now(), trace_id: None, event };
            store.record(vec![entry.clone(), entry]).await.unwrap();
            store.close().await;
        }
    });
    folder
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// Does what an intruder with access to the file would.
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
    assert_eq!((exported.code, exported.err.as_str()), (Some(0), ""));
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
        (["--store", "notes.db"], "not a database"),
        (["--file", "none.jsonl"], "cannot read none.jsonl"),
    ] {
        let ended = verify(folder.path(), &arguments);
        assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""), "{arguments:?}");
        assert!(ended.err.contains(what), "{arguments:?}: {}", ended.err);
    }
    assert!(!folder.path().join("none.db").exists());
}
