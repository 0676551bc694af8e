//! Collects from all tables the faults and the known keys.
//!
//! Guarantees: a key or variable that was set but is not known is a fault, with the name that was probably meant; the
//! keys of an unknown section are not reported one by one.
//!
//! It deliberately neither orders the faults nor decides what to do about them: `file` does.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Fault,
    suggestion::nearest,
    table::{At, Table, VARIABLE_PREFIX, variable},
};

/// Faults and known keys of all tables.
#[derive(Debug, Default)]
pub(super) struct Diagnostics {
    pub(super) faults: Vec<Fault>,
    /// Every known key, with its default.
    pub(super) known: BTreeMap<String, Option<String>>,
}

impl Diagnostics {
    /// Takes over the faults of a table and adds one for each key that nothing has read.
    pub(super) fn close(&mut self, mut table: Table<'_>) {
        self.faults.append(&mut table.faults);
        self.unknown(&table);
        for declared in table.declared {
            let dot = if table.title.kind.is_empty() { "" } else { "." };
            self.known.insert(format!("{}{dot}{}", table.title.kind, declared.key), declared.default);
        }
    }

    fn unknown(&mut self, table: &Table<'_>) {
        let keys: BTreeSet<&str> = table.declared.iter().map(|declared| declared.key).collect();
        let sections: BTreeSet<&str> = keys.iter().flat_map(|key| above(key)).collect();
        let mut strangers: BTreeSet<&str> = BTreeSet::new();
        for (path, line) in &table.tables {
            if sections.contains(path.as_str()) || above(path).any(|part| strangers.contains(part)) {
                continue;
            }
            strangers.insert(path);
            self.faults.push(if keys.contains(path.as_str()) {
                table.fault(Some(*line), format!("{}: takes a value, not a table", table.shown(path)), None)
            } else {
                stranger(table, "section", (path, *line), &sections)
            });
        }
        for (key, cell) in &table.cells {
            let At::Line(line) = cell.at else { continue };
            if above(key).any(|part| strangers.contains(part)) {
                continue;
            }
            self.faults.push(if sections.contains(key.as_str()) {
                let what = format!("{}: takes a table, not {}", table.shown(key), cell.raw.noun());
                table.fault(Some(line), what, Some(format!("write [{}]", table.shown(key))))
            } else {
                stranger(table, "key", (key, line), &keys)
            });
        }
        let names: Vec<String> = keys.iter().map(|key| variable(key)).collect();
        let meant =
            |name: &String| name.starts_with(VARIABLE_PREFIX) || names.iter().any(|known| resembles(name, known));
        self.faults
            .extend(table.variables.keys().filter(|name| meant(name)).map(|name| unknown_variable(name, &names)));
    }
}

fn stranger(table: &Table<'_>, noun: &str, (key, line): (&str, usize), known: &BTreeSet<&str>) -> Fault {
    let meant = nearest(key, known.iter().copied());
    let hint = match meant {
        Some(meant) => format!("did you mean {:?}?", table.shown(meant)),
        None => "config/gateway.toml lists every key".to_owned(),
    };
    table.fault(Some(line), format!("unknown {noun} {:?}", table.shown(key)), Some(hint))
}

fn unknown_variable(name: &str, known: &[String]) -> Fault {
    let in_file_only = ["ISSUERS", "CALLERS", "WEBHOOKS", "DESTINATIONS", "CATALOGUE"]
        .iter()
        .any(|list| name.strip_prefix(VARIABLE_PREFIX).is_some_and(|rest| rest.starts_with(list)));
    let hint = if in_file_only {
        "issuers, callers, webhooks, destinations and the catalogue are set in the file only".to_owned()
    } else {
        nearest(name, known.iter().map(String::as_str))
            .map_or_else(|| "config/gateway.toml lists every key".to_owned(), |meant| format!("did you mean {meant}?"))
    };
    Fault {
        place: "environment".to_owned(),
        line: None,
        what: format!("{name}: no setting has this name"),
        hint: Some(hint),
    }
}

/// Whether a variable is a setting's but for its underscores: `POSTERN_SERVER_LISTEN` would be ignored silently.
fn resembles(name: &str, known: &str) -> bool {
    name.split('_').filter(|part| !part.is_empty()).eq(known.split('_').filter(|part| !part.is_empty()))
}

/// The parent paths of a dotted key, shortest first.
fn above(key: &str) -> impl Iterator<Item = &str> {
    key.match_indices('.').filter_map(|(dot, _)| key.get(..dot))
}
