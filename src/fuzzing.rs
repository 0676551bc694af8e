//! The doors through which fuzzers reach the parsers: one per parser, each taking any bytes.
//!
//! A door panics if a property of its parser does not hold; the properties are documented beside the parser. The module is
//! compiled for fuzzing and tests only: every test run replays the inputs kept in `fuzz/corpus`.
//!
//! It deliberately exposes nothing else of the parsers, which stay private.

use crate::{api, audit, auth, config, graph, signing};

/// A door: takes an input, and panics if a property does not hold.
pub type Door = fn(&[u8]);

/// All doors, by the names of their fuzz targets and corpus folders in `fuzz/`.
pub const DOORS: [(&str, Door); 8] = [
    ("answers", graph::fuzzing::answers),
    ("bodies", api::fuzzing::bodies),
    ("events", api::fuzzing::events),
    ("queries", api::fuzzing::queries),
    ("settings", config::fuzzing::settings),
    ("signatures", signing::fuzzing::signatures),
    ("tokens", auth::fuzzing::tokens),
    ("trails", audit::fuzzing::trails),
];

/// Passes an input to the door of that name.
///
/// # Panics
/// If a property does not hold, or there is no such door.
pub fn enter(name: &str, input: &[u8]) {
    let door = DOORS.iter().find(|row| row.0 == name);
    assert!(door.is_some(), "there is no door {name}");
    if let Some((_, door)) = door {
        door(input);
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
        for (name, door) in DOORS {
            let mut tried = 0_usize;
            for entry in fs::read_dir(fuzz().join("corpus").join(name)).unwrap() {
                let path = entry.unwrap().path();
                println!("{}", path.display());
                door(&fs::read(path).unwrap());
                tried = tried.saturating_add(1);
            }
            assert!(tried > 0, "{name} has no inputs");
        }
    }

    #[test]
    fn every_door_has_a_target() {
        let doors: BTreeSet<_> = DOORS.iter().map(|row| row.0.to_owned()).collect();
        assert_eq!(doors, names(&fuzz().join("targets")));
        assert_eq!(doors, names(&fuzz().join("corpus")));
        let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
        for door in doors {
            assert!(manifest.contains(&format!("path = \"targets/{door}.rs\"")), "{door}");
        }
    }
}
