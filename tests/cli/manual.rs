//! `postern completions`, `postern man`, and how faults look on a terminal.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use crate::{faulty, run};

const COMMANDS: [&str; 9] = ["serve", "check", "demo", "sandbox", "token", "audit", "probe", "completions", "man"];

/// What bash completes for the last of these words.
fn offered(folder: &Path, words: &[&str]) -> Vec<String> {
    let (last, before) = words.split_last().unwrap();
    let quoted = words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ");
    let script = format!(
        "source completions.bash; COMP_WORDS=({quoted}); COMP_CWORD={}; _postern postern '{last}' '{}';
         printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        before.len(),
        before.last().unwrap()
    );
    let Output { status, stdout, stderr } =
        Command::new("bash").args(["-euc", &script]).current_dir(folder).output().unwrap();
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn bash_takes_the_completions_and_completes_by_them() {
    let folder = tempfile::tempdir().unwrap();
    let ended = run(folder.path(), &["completions", "bash"]);
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""));
    fs::write(folder.path().join("completions.bash"), &ended.out).unwrap();
    let checked = Command::new("bash").args(["-n", "completions.bash"]).current_dir(folder.path()).status().unwrap();
    assert!(checked.success());
    let all = offered(folder.path(), &["postern", ""]);
    for command in COMMANDS {
        assert!(all.iter().any(|one| one == command), "{command} in {all:?}");
    }
    assert_eq!(offered(folder.path(), &["postern", "prob"]), ["probe"]);
    assert_eq!(offered(folder.path(), &["postern", "audit", "ver"]), ["verify"]);
    assert_eq!(offered(folder.path(), &["postern", "serve", "--con"]), ["--config"]);
    assert_eq!(offered(folder.path(), &["postern", "probe", "li"]), ["live"]);
}

#[test]
fn other_shells_have_completions_too() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        let ended = run(folder.path(), &["completions", shell]);
        assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{shell}");
        assert!(COMMANDS.iter().all(|command| ended.out.contains(command)), "{shell}: {}", ended.out);
    }
    assert_eq!(run(folder.path(), &["completions", "tcsh"]).code, Some(2));
}

#[test]
fn there_is_a_page_about_the_program_and_about_each_command() {
    let folder = tempfile::tempdir().unwrap();
    let page = run(folder.path(), &["man"]);
    assert_eq!((page.code, page.err.as_str()), (Some(0), ""));
    assert!(page.out.contains(".TH postern 1 "), "{}", page.out);
    for command in COMMANDS {
        // The pages that this page refers to exist.
        assert!(page.out.contains(&format!("postern\\-{command}(1)")), "{command} in\n{}", page.out);
        let about = run(folder.path(), &["man", command]);
        assert_eq!((about.code, about.err.as_str()), (Some(0), ""), "{command}");
        assert!(about.out.contains(&format!(".TH postern-{command} 1 ")), "{}", about.out);
    }
    let about = run(folder.path(), &["man", "audit", "verify"]).out;
    assert!(about.contains("\n\\fBpostern audit verify\\fR ["), "{about}");
    let none = run(folder.path(), &["man", "audit", "burn"]);
    assert_eq!((none.code, none.err.as_str()), (Some(1), "postern: there is no command \"audit burn\"\n"));
}

/// What a terminal shows of `postern check` on settings with faults.
fn on_a_terminal(variables: &[(&str, &str)]) -> String {
    let folder = faulty();
    let command = format!("{} check --config faulty.toml", env!("CARGO_BIN_EXE_postern"));
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &command, "/dev/null"]).current_dir(folder.path());
    let Output { status, stdout, .. } = script
        .env_clear()
        .env("TERM", "xterm")
        .env("PATH", "/usr/bin:/bin")
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    assert_eq!(status.code(), Some(1));
    String::from_utf8(stdout).unwrap()
}

#[test]
fn faults_are_coloured_on_terminals_unless_nobody_wants_that() {
    let coloured = on_a_terminal(&[]);
    assert!(coloured.contains("\u{1b}[1m\u{1b}[31mfaulty.toml\u{1b}[0m:2: server.listen"), "{coloured:?}");
    assert!(coloured.contains("\n  \u{1b}[36mhint:\u{1b}[0m "), "{coloured:?}");
    for plain in [[("NO_COLOR", "1")], [("TERM", "dumb")]] {
        let shown = on_a_terminal(&plain);
        assert!(shown.contains("6 faults") && !shown.contains('\u{1b}'), "{plain:?}: {shown:?}");
    }
}
