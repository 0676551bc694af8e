//! `postern sandbox` and `postern token`.

use std::fs;

use crate::{Program, postern, run};

#[test]
fn a_sandbox_says_where_it_is_gives_tokens_and_stops_when_told() {
    let folder = tempfile::tempdir().unwrap();
    let sandbox = Program::start(postern(folder.path(), &["sandbox", "--listen", "127.0.0.1:0"]));
    let line = sandbox.out.until("the sandbox listens on ");
    let url = line.split_whitespace().find_map(|word| word.strip_suffix(';')).unwrap();
    assert!(url.starts_with("http://127.0.0.1:"), "{line}");

    let token = run(folder.path(), &["token", "--caller", "servicenow", "--sandbox", url]);
    assert_eq!((token.code, token.err.as_str()), (Some(0), ""));
    assert_eq!(token.out.trim_end().split('.').count(), 3, "{}", token.out);
    let unknown = run(folder.path(), &["token", "--caller", "nobody", "--sandbox", url]);
    assert_eq!((unknown.code, unknown.out.as_str()), (Some(1), ""));
    let told = "postern: there is no caller `nobody`; known: servicenow, helpdesk, portal, stranger; \
                choose one of these with --caller\n";
    assert_eq!(unknown.err, told);

    let again = url.trim_start_matches("http://");
    let second = run(folder.path(), &["sandbox", "--listen", again]);
    assert_eq!(second.code, Some(1));
    assert!(second.err.contains(again) && second.err.contains("is another one running there?"), "{}", second.err);

    sandbox.terminate();
    assert_eq!(sandbox.ended().code, Some(0));
}

#[test]
fn without_a_sandbox_there_is_no_token_but_a_hint() {
    let folder = tempfile::tempdir().unwrap();
    // Port 1 of this machine: nothing listens there.
    let ended = run(folder.path(), &["token", "--caller", "servicenow", "--sandbox", "http://127.0.0.1:1"]);
    assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""));
    assert!(ended.err.contains("http://127.0.0.1:1; start one with `postern sandbox`"), "{}", ended.err);
}

#[test]
fn a_bad_seed_is_named_with_what_is_wrong_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let twice = r#"{"tenant_id": "11111111-2222-4333-8444-555555555555", "apps": [], "groups": [
        {"id": "b0000000-0000-4000-8000-000000000001", "displayName": "A"},
        {"id": "b0000000-0000-4000-8000-000000000001", "displayName": "B"}]}"#;
    let cases = [
        (Some("{\"apps\": 1}"), "invalid type"),
        (Some("{"), "EOF"),
        (Some(twice), "groups[1]"),
        (None, "cannot be read"),
    ];
    for (text, what) in cases {
        let path = folder.path().join("bad.json");
        match text {
            Some(text) => fs::write(path, text).unwrap(),
            None => fs::remove_file(path).unwrap(),
        }
        let ended = run(folder.path(), &["sandbox", "--listen", "127.0.0.1:0", "--seed", "bad.json"]);
        assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""), "{text:?}");
        assert!(ended.err.starts_with("postern: the seed bad.json") && ended.err.contains(what), "{}", ended.err);
    }
}
