//! Reads a secret from the place that the settings name.
//!
//! Guarantees: a secret is read again at each use, so that a rotated one takes effect; the line break that editors add
//! at the end is removed; an empty secret is an error; no message contains any part of a secret.
//!
//! It deliberately caches nothing and does not check whether a secret is correct: the login service does.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use secrecy::SecretString;

use super::{Fault, SecretRef, SecretSource};

/// Why a secret cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read, or is not text.
    #[error("cannot read the secret in {}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The environment variable is not set, or is not text.
    #[error("the environment variable {name} is not set, or is not valid UTF-8")]
    Variable {
        /// Which variable.
        name: String,
    },
    /// The secret is empty.
    #[error("the secret in {0} is empty")]
    Empty(SecretSource),
}

impl SecretSource {
    /// Reads the secret. This is a short blocking read.
    pub fn read(&self) -> Result<SecretString, SecretError> {
        let mut text = match self {
            Self::File(path) => read_file(path)?,
            Self::Environment(name) => read_variable(name)?,
        };
        text.truncate(text.trim_end_matches(['\r', '\n']).len());
        if text.trim().is_empty() { Err(SecretError::Empty(self.clone())) } else { Ok(text.into()) }
    }
}

/// The place of the secret, for messages.
impl fmt::Display for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Environment(name) => write!(f, "the environment variable {name}"),
        }
    }
}

impl SecretRef {
    /// Tries to read the secret; returns a fault if that fails.
    pub fn check(&self) -> Option<Fault> {
        self.source.read().err().map(|error| self.unreadable(&error))
    }

    /// A fault of a secret that could be read.
    pub fn fault(&self, what: &str, hint: &str) -> Fault {
        Fault { what: format!("{}: {what}", self.at.what), hint: Some(hint.to_owned()), ..self.at.clone() }
    }

    fn unreadable(&self, error: &SecretError) -> Fault {
        let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
        let hint = "it must hold the secret and nothing else, and be readable by the gateway's user";
        let Fault { place, line, what, .. } = self.at.clone();
        Fault { place, line, what: format!("{what}: {error}{cause}"), hint: Some(hint.to_owned()) }
    }
}

fn read_file(path: &Path) -> Result<String, SecretError> {
    fs::read_to_string(path).map_err(|source| SecretError::File { path: path.to_path_buf(), source })
}

#[expect(clippy::disallowed_methods, reason = "config is the one module that reads the environment")]
fn read_variable(name: &str) -> Result<String, SecretError> {
    // The cause is left out: it may hold the variable's content.
    std::env::var(name).ok().ok_or_else(|| SecretError::Variable { name: name.to_owned() })
}
