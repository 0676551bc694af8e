//! The targets through which fuzzers reach the parsers: one per parser, each taking any bytes.
//!
//! A target panics if a property of its parser does not hold; the properties are documented beside the parser. The module is
//! compiled for fuzzing and tests only: every test run replays the inputs kept in `fuzz/corpus`.
//!
//! It deliberately exposes nothing else of the parsers, which stay private.

use crate::{api, audit, auth, config, graph, signing};

/// A target: takes an input, and panics if a property does not hold.
pub type FuzzTarget = fn(&[u8]);

/// All targets, by the names of their binaries and corpus folders in `fuzz/`.
pub const FUZZ_TARGETS: [(&str, FuzzTarget); 8] = [
    ("answers", graph::fuzzing::answers),
    ("bodies", api::fuzzing::bodies),
    ("events", api::fuzzing::events),
    ("queries", api::fuzzing::queries),
    ("settings", config::fuzzing::settings),
    ("signatures", signing::fuzzing::signatures),
    ("tokens", auth::fuzzing::tokens),
    ("trails", audit::fuzzing::trails),
];

/// Passes an input to the target of that name.
///
/// # Panics
/// If a property does not hold, or there is no such target.
pub fn run(name: &str, input: &[u8]) {
    let target = FUZZ_TARGETS.iter().find(|row| row.0 == name);
    assert!(target.is_some(), "there is no target {name}");
    if let Some((_, target)) = target {
        target(input);
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;

    fn fuzz() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
    }

    fn names(folder: &Path) -> BTreeSet<String> {
        let name = |entry: std::io::Result<fs::DirEntry>| {
            entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned()
        };
        fs::read_dir(folder).unwrap().map(name).collect()
    }

    #[test]
    fn every_kept_input_is_taken() {
        for (name, target) in FUZZ_TARGETS {
            let mut tried = 0_usize;
            for entry in fs::read_dir(fuzz().join("corpus").join(name)).unwrap() {
                let path = entry.unwrap().path();
                println!("{}", path.display());
                target(&fs::read(path).unwrap());
                tried = tried.saturating_add(1);
            }
            assert!(tried > 0, "{name} has no inputs");
        }
    }

    #[test]
    fn every_fuzz_target_has_a_binary_and_inputs() {
        let targets: BTreeSet<_> = FUZZ_TARGETS.iter().map(|row| row.0.to_owned()).collect();
        assert_eq!(targets, names(&fuzz().join("targets")));
        assert_eq!(targets, names(&fuzz().join("corpus")));
        let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
        for target in targets {
            assert!(manifest.contains(&format!("path = \"targets/{target}.rs\"")), "{target}");
        }
    }
}
