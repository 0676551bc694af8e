//! Runs the commands of `docs/operations.md` as written there.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

/// Runs the named block in a shell with the program on its path; on failure, panics with its output.
#[track_caller]
pub(crate) fn run_block(block: &str, folder: &Path, variables: &[(&str, &str)]) -> String {
    let handbook = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md");
    let handbook = fs::read_to_string(handbook).unwrap();
    let (_, rest) = handbook.split_once(&format!("\n```sh {block}\n")).unwrap_or_else(|| panic!("no block {block}"));
    let (commands, _) = rest.split_once("\n```\n").unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_postern")).parent().unwrap();
    let ran = Command::new("bash")
        .args(["-euo", "pipefail", "-c", &format!("PATH=\"$PROGRAM:$PATH\"\n{commands}")])
        .current_dir(folder)
        .env("PROGRAM", program)
        .envs(variables.iter().copied())
        .output();
    let Output { status, stdout, stderr } = ran.unwrap();
    let (out, err) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{commands}\n{out}{err}");
    out.into_owned()
}
