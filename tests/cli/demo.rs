//! `postern demo --once`.

use crate::{Program, postern, run};

#[test]
fn the_demo_ends_well_in_plain_text_and_leaves_a_trail_that_verifies() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = postern(folder.path(), &["demo", "--once"]);
    // A gateway already running on this machine keeps its ports.
    command.env("POSTERN__SERVER__LISTEN", "127.0.0.1:0").env("POSTERN__SERVER__ADMIN_LISTEN", "127.0.0.1:0");
    let demo = Program::start(command).ended();
    assert_eq!((demo.code, demo.err.as_str()), (Some(0), ""), "{}", demo.out);
    assert!(!demo.out.contains('\u{1b}'), "escape codes in a pipe");
    for part in
        ["\n1. ", "\n7. ", "POST", "/assign → 204", "verified: 6 records", "- Berlin Staff, from a policy set: "]
    {
        assert!(demo.out.contains(part), "{part} in\n{}", demo.out);
    }
    let named = demo.out.lines().find_map(|line| line.strip_prefix("All files of this demo are in ")).unwrap();
    assert!(named.starts_with(folder.path().to_str().unwrap()), "{named}");
    let store = format!("{named}/postern.db");
    let verified = run(folder.path(), &["audit", "verify", "--store", &store]);
    assert_eq!((verified.code, verified.err.as_str()), (Some(0), ""));
    assert!(demo.out.contains(verified.out.trim_end()), "{}", verified.out);
    // The settings it used are kept for further use.
    let settings = format!("{named}/config/sandbox.toml");
    assert_eq!(run(folder.path(), &["check", "--config", &settings]).code, Some(0));
}
