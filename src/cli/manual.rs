//! `postern completions` and `postern man`: completions and manual pages of the commands.
//!
//! It deliberately names no command: everything comes from the declarations that parse the arguments, so nothing can be
//! missing or out of date.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use anyhow::{Context, anyhow};
use clap::Command;
use clap_complete::Shell;

pub(super) fn completions(mut program: Command, shell: Shell) -> anyhow::Result<ExitCode> {
    let name = program.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut program, name, &mut script);
    written(&script)
}

/// The page of the program, or of one of its commands.
pub(super) fn page(mut program: Command, command: &[String]) -> anyhow::Result<ExitCode> {
    // From here on each command knows its full name.
    program.build();
    let mut about = &program;
    for word in command {
        let found = about.find_subcommand(word);
        about = found.ok_or_else(|| anyhow!("there is no command {:?}", command.join(" ")))?;
    }
    let words = std::iter::once(program.get_name()).chain(command.iter().map(String::as_str));
    let name = words.collect::<Vec<_>>().join("-");
    let mut page = Vec::new();
    let source = concat!("postern ", env!("CARGO_PKG_VERSION"));
    clap_mangen::Man::new(about.clone()).title(name).source(source).render(&mut page)?;
    written(&page)
}

fn written(text: &[u8]) -> anyhow::Result<ExitCode> {
    io::stdout().write_all(text).context("cannot write to standard output")?;
    Ok(ExitCode::SUCCESS)
}
