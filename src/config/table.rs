//! One table of the file, overridden by the environment.
//!
//! A setting is declared where it is read: [`Table::setting`] and similar methods take the key, the default and the
//! parser, and from then on the key is known. Guarantees: an invalid value is recorded as a fault with its place, and
//! reading continues; the diagnostics then report every key that was set but never read. Values read from a table are used
//! only if the diagnostics have no fault at the end, so a reader may continue with a default in between.
//!
//! It deliberately knows no setting: `sections` and `lists` declare them.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    path::PathBuf,
};

use super::{Fault, source_file::SourceFile, value::Refusal};

/// Variables that Azure's platforms set for their workloads.
pub(super) const PLATFORM_VARIABLES: [&str; 6] = [
    "AZURE_AUTHORITY_HOST",
    "AZURE_CLIENT_ID",
    "AZURE_FEDERATED_TOKEN_FILE",
    "AZURE_TENANT_ID",
    "IDENTITY_ENDPOINT",
    "IDENTITY_HEADER",
];

/// The prefix of the variables that set keys; its two underscores also stand for the dot in a key.
pub(super) const VARIABLE_PREFIX: &str = "POSTERN__";

/// Where a value was written.
#[derive(Clone, Debug)]
pub(super) enum At {
    Line(usize),
    Variable(String),
}

/// A value as written. Of a type that no setting accepts, only the name is kept.
#[derive(Clone, Debug)]
pub(super) enum Raw {
    Text(String),
    Number(i64),
    List(Vec<Cell>),
    Other(&'static str),
}

impl Raw {
    /// The text, or the type that it has instead.
    fn text(self) -> Result<String, &'static str> {
        if let Self::Text(text) = self { Ok(text) } else { Err(self.noun()) }
    }

    pub(super) fn noun(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Number(_) => "a number",
            Self::List(_) => "a list",
            Self::Other(noun) => noun,
        }
    }
}

/// A value and where it was written.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    pub(super) at: At,
    pub(super) raw: Raw,
}

/// A known key.
#[derive(Debug)]
pub(super) struct Declared {
    pub(super) key: &'static str,
    /// The default, as it would be written in the file.
    pub(super) default: Option<String>,
}

/// The name of a table in messages, and its kind (`issuers."entra"` is of the kind `issuers`).
#[derive(Debug, Default)]
pub(super) struct Title {
    pub(super) kind: &'static str,
    pub(super) shown: String,
    pub(super) line: Option<usize>,
}

/// The values of one table: all single settings, or one entry of a list.
#[derive(Debug)]
pub(super) struct Table<'p> {
    place: &'p SourceFile,
    pub(super) title: Title,
    /// Values by dotted key, relative to this table.
    pub(super) cells: BTreeMap<String, Cell>,
    /// Nested tables, and the line on which each first appears.
    pub(super) tables: BTreeMap<String, usize>,
    pub(super) variables: BTreeMap<String, String>,
    /// Those of [`PLATFORM_VARIABLES`] that are set and not empty.
    pub(super) platform: BTreeMap<String, String>,
    taken: BTreeMap<&'static str, At>,
    pub(super) declared: Vec<Declared>,
    pub(super) faults: Vec<Fault>,
}

impl<'p> Table<'p> {
    pub(super) fn new(place: &'p SourceFile, title: Title) -> Self {
        Self {
            place,
            title,
            cells: BTreeMap::new(),
            tables: BTreeMap::new(),
            variables: BTreeMap::new(),
            platform: BTreeMap::new(),
            taken: BTreeMap::new(),
            declared: Vec::new(),
            faults: Vec::new(),
        }
    }

    /// A string with a default.
    pub(super) fn setting<T>(
        &mut self,
        key: &'static str,
        default: &str,
        parse: impl Fn(&str) -> Result<T, Refusal>,
    ) -> Option<T> {
        self.declare(key, Some(format!("{default:?}")));
        match self.text(key) {
            Some(text) => self.fit(key, parse(&text)),
            None => self.fit(key, parse(default)),
        }
    }

    /// A required string.
    pub(super) fn required<T>(&mut self, key: &'static str, parse: impl Fn(&str) -> Result<T, Refusal>) -> Option<T> {
        let value = self.optional(key, parse);
        if value.is_none() && !self.given(key) {
            self.missing(key);
        }
        value
    }

    /// An optional string.
    pub(super) fn optional<T>(&mut self, key: &'static str, parse: impl Fn(&str) -> Result<T, Refusal>) -> Option<T> {
        self.declare(key, None);
        let text = self.text(key)?;
        self.fit(key, parse(&text))
    }

    /// A whole number with a default.
    pub(super) fn number(&mut self, key: &'static str, default: u32, range: RangeInclusive<u32>) -> Option<u32> {
        self.declare(key, Some(default.to_string()));
        let Some(cell) = self.take(key) else { return Some(default) };
        self.whole(key, &cell, &range)
    }

    /// An optional whole number.
    pub(super) fn optional_number(&mut self, key: &'static str, range: RangeInclusive<u32>) -> Option<u32> {
        self.declare(key, None);
        let cell = self.take(key)?;
        self.whole(key, &cell, &range)
    }

    fn whole(&mut self, key: &'static str, cell: &Cell, range: &RangeInclusive<u32>) -> Option<u32> {
        let number = match (&cell.raw, &cell.at) {
            (Raw::Number(number), _) => u32::try_from(*number).ok(),
            // A variable has no type of its own.
            (Raw::Text(text), At::Variable(_)) => text.parse().ok(),
            (other, _) => {
                self.wrong_type(key, "a whole number", other.noun());
                return None;
            }
        };
        let bounds = format!("it must be a whole number from {} to {}", range.start(), range.end());
        let within = number.filter(|number| range.contains(number));
        self.fit(key, within.ok_or_else(|| Refusal::new("out of range").hint(bounds)))
    }

    /// A path. In the file it is relative to the file's folder, in a variable to the working directory.
    pub(super) fn path(&mut self, key: &'static str, default: Option<&str>) -> Option<PathBuf> {
        self.declare(key, default.map(|default| format!("{default:?}")));
        let text = self.text(key).or_else(|| default.map(str::to_owned))?;
        if text.is_empty() {
            self.refuse(key, "the path is empty", None);
            return None;
        }
        Some(if self.is_variable(key) { PathBuf::from(text) } else { self.place.folder.join(text) })
    }

    /// A list of strings. It is required if it has no default; it may be empty only if its default is.
    pub(super) fn list<T: Ord>(
        &mut self,
        key: &'static str,
        default: Option<&[&str]>,
        parse: impl Fn(&str) -> Result<T, Refusal>,
    ) -> BTreeSet<T> {
        self.declare(key, default.map(|default| format!("{default:?}")));
        let Some(cell) = self.take(key) else {
            if default.is_none() {
                self.missing(key);
            }
            return default.unwrap_or_default().iter().filter_map(|text| parse(text).ok()).collect();
        };
        let Raw::List(items) = cell.raw else {
            self.wrong_type(key, "a list of strings", cell.raw.noun());
            return BTreeSet::new();
        };
        if items.is_empty() && default.is_none_or(|default| !default.is_empty()) {
            self.refuse(key, "the list is empty", None);
        }
        items.into_iter().filter_map(|item| self.item(key, item, &parse)).collect()
    }

    /// A list of strings that may be absent, but not empty.
    pub(super) fn optional_list<T: Ord>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, Refusal>,
    ) -> BTreeSet<T> {
        if self.cells.contains_key(key) {
            return self.list(key, None, parse);
        }
        self.declare(key, None);
        BTreeSet::new()
    }

    /// All values, by key, of a table whose keys are chosen by the operator.
    pub(super) fn entries<T>(&mut self, parse: impl Fn(&str, &str) -> Result<T, Refusal>) -> BTreeMap<String, T> {
        let cells = std::mem::take(&mut self.cells);
        cells.into_iter().filter_map(|(key, cell)| self.entry(&key, cell, &parse).map(|value| (key, value))).collect()
    }

    fn entry<T>(&mut self, key: &str, cell: Cell, parse: &impl Fn(&str, &str) -> Result<T, Refusal>) -> Option<T> {
        let refusal = match cell.raw.text() {
            Ok(text) => match parse(key, &text) {
                Ok(value) => return Some(value),
                Err(refusal) => refusal,
            },
            Err(noun) => Refusal::new(format!("takes a string, not {noun}")),
        };
        let line = if let At::Line(line) = cell.at { Some(line) } else { None };
        let what = format!("{}.{key:?}: {}", self.title.shown, refusal.what);
        self.faults.push(self.fault(line, what, refusal.hint));
        None
    }

    /// Uses a platform's variable for a key that is set nowhere else. Must be called before the key is read.
    pub(super) fn fall_back(&mut self, key: &str, name: &str) {
        let written = self.cells.contains_key(key) || self.variables.contains_key(&variable(key));
        if let Some(text) = self.platform.get(name).filter(|_| !written) {
            let cell = Cell { at: At::Variable(name.to_owned()), raw: Raw::Text(text.clone()) };
            self.cells.insert(key.to_owned(), cell);
        }
    }

    /// Whether a platform's variable is set.
    pub(super) fn platform_has(&self, name: &str) -> bool {
        self.platform.contains_key(name)
    }

    /// The value of a platform's variable that sets no key.
    pub(super) fn platform<T>(&mut self, name: &str, parse: impl Fn(&str) -> Result<T, Refusal>) -> Option<T> {
        let parsed = parse(self.platform.get(name)?);
        parsed.map_err(|refusal| self.refuse_platform(name, &refusal.what, &refusal.hint.unwrap_or_default())).ok()
    }

    /// Records a fault in a platform's variable.
    pub(super) fn refuse_platform(&mut self, name: &str, what: &str, hint: &str) {
        let hint = (!hint.is_empty()).then(|| hint.to_owned());
        let what = format!("{name}: {what}");
        self.faults.push(Fault { place: "environment".to_owned(), line: None, what, hint });
    }

    /// The text of a key that has not been read yet.
    pub(super) fn peek(&self, key: &str) -> Option<String> {
        match &self.cells.get(key)?.raw {
            Raw::Text(text) => Some(text.clone()),
            Raw::Number(_) | Raw::List(_) | Raw::Other(_) => None,
        }
    }

    /// Whether the key was set, even to an invalid value.
    pub(super) fn given(&self, key: &str) -> bool {
        self.taken.contains_key(key)
    }

    /// Whether the key was set by a variable.
    pub(super) fn is_variable(&self, key: &str) -> bool {
        matches!(self.taken.get(key), Some(At::Variable(_)))
    }

    /// Records a fault at the place of a key, or of its table if the key was not set.
    pub(super) fn refuse(&mut self, key: &str, what: &str, hint: Option<&str>) {
        let at = self.fault_at(key);
        self.faults.push(Fault { what: format!("{}: {what}", at.what), hint: hint.map(str::to_owned), ..at });
    }

    /// A fault at the place of a key, for faults that are found elsewhere.
    pub(super) fn fault_at(&self, key: &str) -> Fault {
        match self.taken.get(key) {
            Some(At::Variable(name)) => {
                Fault { place: "environment".to_owned(), line: None, what: name.clone(), hint: None }
            }
            Some(At::Line(line)) => self.fault(Some(*line), self.shown(key), None),
            None => self.fault(self.home(key), self.shown(key), None),
        }
    }

    /// Records that a required key is missing.
    pub(super) fn missing(&mut self, key: &str) {
        self.lacking(key, None);
    }

    /// The same, with a hint.
    pub(super) fn lacking(&mut self, key: &str, hint: Option<String>) {
        let fault = self.fault(self.home(key), format!("{:?} is missing", self.shown(key)), hint);
        self.faults.push(fault);
    }

    /// Records a fault of the table as a whole.
    pub(super) fn object(&mut self, what: String, hint: &str) {
        let fault = self.fault(self.title.line, what, Some(hint.to_owned()));
        self.faults.push(fault);
    }

    pub(super) fn declare(&mut self, key: &'static str, default: Option<String>) {
        self.declared.push(Declared { key, default });
    }

    pub(super) fn take(&mut self, key: &'static str) -> Option<Cell> {
        let written = self.cells.remove(key);
        let variable = variable(key);
        let cell = match self.variables.remove(&variable) {
            Some(text) => Some(Cell { at: At::Variable(variable), raw: Raw::Text(text) }),
            None => written,
        }?;
        self.taken.insert(key, cell.at.clone());
        Some(cell)
    }

    fn text(&mut self, key: &'static str) -> Option<String> {
        match self.take(key)?.raw.text() {
            Ok(text) => Some(text),
            Err(noun) => {
                self.wrong_type(key, "a string", noun);
                None
            }
        }
    }

    pub(super) fn item<T>(
        &mut self,
        key: &'static str,
        item: Cell,
        parse: &impl Fn(&str) -> Result<T, Refusal>,
    ) -> Option<T> {
        // A list may have many lines: a fault is reported at the line of its item.
        self.taken.insert(key, item.at);
        match item.raw.text() {
            Ok(text) => self.fit(key, parse(&text)),
            Err(noun) => {
                self.wrong_type(key, "a list of strings", noun);
                None
            }
        }
    }

    fn fit<T>(&mut self, key: &str, parsed: Result<T, Refusal>) -> Option<T> {
        parsed.map_err(|refusal| self.refuse(key, &refusal.what, refusal.hint.as_deref())).ok()
    }

    pub(super) fn wrong_type(&mut self, key: &str, wanted: &str, found: &str) {
        let default = self.declared.iter().rev().find(|declared| declared.key == key).and_then(|it| it.default.clone());
        let hint = default.map(|default| format!("the default is {default}"));
        self.refuse(key, &format!("takes {wanted}, not {found}"), hint.as_deref());
    }

    pub(super) fn shown(&self, key: &str) -> String {
        if self.title.shown.is_empty() { key.to_owned() } else { format!("{}.{key}", self.title.shown) }
    }

    /// The line of the table to which a key belongs.
    fn home(&self, key: &str) -> Option<usize> {
        key.rsplit_once('.').and_then(|(table, _)| self.tables.get(table).copied()).or(self.title.line)
    }

    pub(super) fn fault(&self, line: Option<usize>, what: String, hint: Option<String>) -> Fault {
        Fault { place: self.place.shown.clone(), line, what, hint }
    }
}

/// The variable that sets a key.
pub(super) fn variable(key: &str) -> String {
    format!("{VARIABLE_PREFIX}{}", key.to_ascii_uppercase().replace('.', "__"))
}
