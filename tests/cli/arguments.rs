//! Arguments that are rejected before anything is done.

use crate::run;

#[test]
fn help_names_every_command_and_is_no_fault() {
    let folder = tempfile::tempdir().unwrap();
    let help = run(folder.path(), &["--help"]);
    assert_eq!((help.code, help.err.as_str()), (Some(0), ""));
    for command in ["serve", "check", "demo", "sandbox", "token", "audit", "probe", "completions", "man"] {
        assert!(help.out.contains(&format!("\n  {command} ")), "{command} in\n{}", help.out);
    }
    let version = run(folder.path(), &["--version"]);
    assert_eq!((version.code, version.out), (Some(0), format!("postern {}\n", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn wrong_arguments_end_with_two_and_leave_standard_output_alone() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [&[][..], &["servee"], &["serve", "--port", "1"], &["token"], &["audit"]] {
        let ended = run(folder.path(), arguments);
        assert_eq!((ended.code, ended.out.as_str()), (Some(2), ""), "{arguments:?}");
        assert!(ended.err.contains("Usage: postern"), "{arguments:?}: {}", ended.err);
    }
    let both = run(folder.path(), &["audit", "verify", "--store", "a", "--file", "b"]);
    assert_eq!(both.code, Some(2), "{both:?}");
}

#[test]
fn without_a_configuration_file_it_is_said_how_to_name_one() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [&["serve"][..], &["check"], &["audit", "verify"], &["audit", "export"], &["probe"]] {
        let ended = run(folder.path(), arguments);
        assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""), "{arguments:?}");
        assert!(ended.err.contains("--config FILE or POSTERN_CONFIG=FILE"), "{arguments:?}: {}", ended.err);
    }
}
