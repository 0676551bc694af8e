//! The real binary as a child process that never outlives its test.
//!
//! Tests follow the program by the lines it writes; nothing here sleeps. A child that is silent for [`PATIENCE`] fails
//! its test.

use std::{
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::Duration,
};

/// Far longer than anything takes here.
const PATIENCE: Duration = Duration::from_mins(1);

/// The program, not yet started, with an environment that holds only a folder for its output.
pub(crate) fn postern(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_postern"));
    command.args(arguments).current_dir(folder).env_clear().env("TMPDIR", folder);
    command
}

/// A program's exit code and its output that has not been read yet.
#[derive(Debug)]
pub(crate) struct Ended {
    /// None if a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// A started program; dropping it kills it.
#[derive(Debug)]
pub(crate) struct Program {
    child: Child,
    pub(crate) out: Lines,
    pub(crate) err: Lines,
}

/// The lines that a program writes to one of its streams.
#[derive(Debug)]
pub(crate) struct Lines(Receiver<String>);

impl Lines {
    fn of(stream: impl Read + Send + 'static) -> Self {
        let (lines, read) = channel();
        std::thread::spawn(move || {
            let stream = BufReader::new(stream).lines();
            stream.map_while(Result::ok).try_for_each(|line| lines.send(line))
        });
        Self(read)
    }

    /// The next line; none at end of file.
    fn next(&self) -> Option<String> {
        match self.0.recv_timeout(PATIENCE) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("the program says nothing"),
        }
    }

    /// Reads up to and including the line that contains `needle`.
    pub(crate) fn until(&self, needle: &str) -> String {
        let mut seen = String::new();
        while let Some(line) = self.next() {
            if line.contains(needle) {
                return line;
            }
            seen.push_str(&line);
            seen.push('\n');
        }
        panic!("no line with {needle:?} in\n{seen}")
    }

    fn rest(&self) -> String {
        std::iter::from_fn(|| self.next()).map(|line| line + "\n").collect()
    }
}

impl Program {
    pub(crate) fn start(mut command: Command) -> Self {
        let piped = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().unwrap();
        let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        Self { child, out: Lines::of(out), err: Lines::of(err) }
    }

    /// Sends SIGTERM, as an operator would.
    pub(crate) fn terminate(&self) {
        self.signal("TERM");
    }

    /// Sends it this signal.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Kills it at once, as a power cut would, and waits for it to exit.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for it to exit.
    pub(crate) fn ended(mut self) -> Ended {
        let (out, err) = (self.out.rest(), self.err.rest());
        Ended { code: self.child.wait().unwrap().code(), out, err }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.kill();
        }
    }
}
