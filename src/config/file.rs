//! Reads the file and the environment, and makes a checked [`Config`] of them.
//!
//! The file overrides the built-in defaults, and the environment overrides the file. [`load`] splits the text into
//! tables that keep their line numbers, has `sections` and `lists` read them, and returns settings only if there is no
//! fault. Guarantees: all faults are reported at once, unless the text is not TOML; no text makes this panic.
//!
//! It deliberately declares no setting and interprets no value. Called once by `cli`, before anything starts.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    Config, ExternalReferences, Fault, LoadReport, callbacks,
    diagnostics::Diagnostics,
    lists::{self, CatalogueTables, References},
    sections,
    source_file::SourceFile,
    table::{At, Cell, PLATFORM_VARIABLES, Raw, Table, Title},
    webhooks::{self, Entry},
};
use crate::domain::Digest;

/// Reads and checks the settings of the process: the file and the environment, with `assumed` as values of variables that the
/// environment does not set.
pub fn load_with(path: &Path, assumed: impl IntoIterator<Item = (String, String)>) -> Result<Config, Vec<Fault>> {
    let variables: BTreeMap<_, _> = assumed.into_iter().chain(process_environment()).collect();
    load(Some(path), variables.into_iter())
}

/// Where settings came from: the file, a digest of its content, and the environment variables, which do not change.
#[derive(Clone)]
pub struct Origin {
    path: Option<PathBuf>,
    variables: BTreeMap<String, String>,
    digest: Digest,
}

impl fmt::Debug for Origin {
    /// Leaves out the variables: platforms put secrets into them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Origin").field("path", &self.path).field("digest", &self.digest).finish_non_exhaustive()
    }
}

impl Origin {
    /// Reads and checks the same file again.
    pub fn load(&self) -> Result<Config, Vec<Fault>> {
        load(self.path.as_deref(), self.variables.clone().into_iter())
    }

    /// Digest of the file's content when it was read.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Digest of the file's present content; of a fixed word if it cannot be read.
    pub fn digest_now(&self) -> Digest {
        let bytes = self.path.as_ref().map_or_else(|| Ok(Vec::new()), std::fs::read);
        Digest::of(&bytes.unwrap_or_else(|_gone| b"unreadable".to_vec()))
    }
}

/// Reads and checks settings: defaults, then the file at `path`, then the `POSTERN__…` variables of `environment`.
pub fn load(path: Option<&Path>, environment: impl Iterator<Item = (String, String)>) -> Result<Config, Vec<Fault>> {
    let text = path.map(read).transpose().map_err(|fault| vec![fault])?.unwrap_or_default();
    let LoadReport { config, faults, .. } = examine_text(path, &text, environment);
    config.filter(|_| faults.is_empty()).ok_or(faults)
}

/// Reads the settings of the process, the file (`path`, or the one named by `POSTERN_CONFIG`) and the environment, as far as
/// possible, so that some can be used or checked even if others have faults.
pub fn examine_process(path: Option<&Path>) -> LoadReport {
    let text = named(path).and_then(|path| Ok((read(&path)?, path)));
    match text {
        Ok((text, path)) => examine_text(Some(&path), &text, process_environment()),
        Err(fault) => LoadReport { faults: vec![fault], ..LoadReport::default() },
    }
}

fn examine_text(path: Option<&Path>, text: &str, environment: impl Iterator<Item = (String, String)>) -> LoadReport {
    let (mut examined, mut diagnostics) = interpret(&SourceFile::new(path, text), text, environment);
    // Faults of the file in the order of its lines, then what is about no line.
    diagnostics.faults.sort_by_key(|fault| fault.line.unwrap_or(usize::MAX));
    examined.faults = diagnostics.faults;
    examined
}

/// The file to read: the one given, or the one that the environment names.
fn named(path: Option<&Path>) -> Result<PathBuf, Fault> {
    let named = std::env::var_os("POSTERN_CONFIG").filter(|name| !name.is_empty()).map(PathBuf::from);
    path.map(Path::to_path_buf).or(named).ok_or_else(|| Fault {
        place: "environment".to_owned(),
        line: None,
        what: "no configuration file is given".to_owned(),
        hint: Some("give one with --config FILE or POSTERN_CONFIG=FILE; config/gateway.toml is a template".to_owned()),
    })
}

fn process_environment() -> impl Iterator<Item = (String, String)> {
    let text = |text: OsString| text.to_string_lossy().into_owned();
    std::env::vars_os().map(move |(name, value)| (text(name), text(value)))
}

/// Reads a text as settings; also returns the faults and the known keys.
pub(super) fn interpret(
    place: &SourceFile,
    text: &str,
    environment: impl Iterator<Item = (String, String)>,
) -> (LoadReport, Diagnostics) {
    let mut diagnostics = Diagnostics::default();
    let document = match DeTable::parse(text) {
        Ok(document) => document,
        Err(error) => {
            diagnostics.faults.push(syntax(place, &error));
            return (LoadReport::default(), diagnostics);
        }
    };
    let of_ours = |(name, value): &(String, String)| {
        name.starts_with("POSTERN_") || PLATFORM_VARIABLES.contains(&name.as_str()) && !value.is_empty()
    };
    let variables: BTreeMap<_, _> = environment.filter(of_ours).collect();
    let mut file = File {
        place,
        origin: Origin { path: place.path.clone(), variables: variables.clone(), digest: Digest::of(text.as_bytes()) },
        diagnostics,
        root: Table::new(place, Title::default()),
        issuers: Vec::new(),
        callers: Vec::new(),
        destinations: Vec::new(),
        webhooks: Vec::new(),
        catalogue_tables: CatalogueTables::default(),
    };
    file.sort(document.get_ref());
    (file.root.variables, file.root.platform) =
        variables.into_iter().partition(|(name, _)| !PLATFORM_VARIABLES.contains(&name.as_str()));
    file.settings()
}

/// The text, split into tables.
struct File<'p> {
    place: &'p SourceFile,
    origin: Origin,
    diagnostics: Diagnostics,
    root: Table<'p>,
    issuers: Vec<Table<'p>>,
    callers: Vec<Table<'p>>,
    destinations: Vec<Table<'p>>,
    webhooks: Vec<Entry<'p>>,
    catalogue_tables: CatalogueTables<'p>,
}

impl<'p> File<'p> {
    fn settings(mut self) -> (LoadReport, Diagnostics) {
        let sections = sections::read(&mut self.root);
        self.diagnostics.close(self.root);
        let names = self.issuers.iter().filter_map(|table| table.peek("name")).collect::<BTreeSet<_>>();
        let issuers = lists::issuers(self.issuers, &mut self.diagnostics);
        let clients = sections.tls.as_ref().and_then(|tls| tls.clients.as_ref());
        let destinations = callbacks::destinations(self.destinations, &mut self.diagnostics);
        let known = References { issuers: names, clients, destinations: &destinations, open_max: sections.open_max() };
        let callers = lists::callers(self.callers, &known, &mut self.diagnostics);
        let webhooks = webhooks::webhooks(self.webhooks, &known, &mut self.diagnostics);
        let catalogue = lists::catalogue(self.catalogue_tables, &mut self.diagnostics);
        let (policy, store) = (sections.policy.clone(), sections.store.clone());
        let senders = webhooks.iter().flat_map(|webhook| webhook.secrets.iter());
        let receivers = destinations.iter().flat_map(|it| it.secrets.iter().chain(it.authentication.secret()));
        let secrets = sections.secrets.into_iter().chain(senders.chain(receivers).cloned()).collect();
        let references = ExternalReferences {
            tls: sections.tls,
            graph: sections.graph.clone(),
            outbound: sections.outbound.clone(),
            audit: sections.audit.clone(),
            webhooks: webhooks.clone(),
            destinations: destinations.clone(),
            catalogue: catalogue.clone(),
        };
        let whole = || {
            Some(Config {
                server: sections.server?,
                store: sections.store?,
                graph: sections.graph?,
                outbound: sections.outbound?,
                operations: sections.operations?,
                executor: sections.executor?,
                callbacks: sections.callbacks?,
                policy: sections.policy?,
                telemetry: sections.telemetry?,
                audit: sections.audit?,
                issuers,
                callers,
                webhooks,
                destinations,
                catalogue,
                origin: self.origin,
            })
        };
        let (admin_listen, faults) = (sections.admin_listen, Vec::new());
        (LoadReport { config: whole(), admin_listen, store, policy, secrets, references, faults }, self.diagnostics)
    }

    /// Sorts the parts of the document by who reads them.
    fn sort(&mut self, document: &DeTable<'_>) {
        for (key, value) in document {
            let line = self.place.line(key.span().start);
            match key.get_ref().as_ref() {
                "issuers" => self.issuers = self.entries("issuers", line, value.get_ref()),
                "callers" => self.callers = self.entries("callers", line, value.get_ref()),
                "destinations" => self.destinations = self.entries("destinations", line, value.get_ref()),
                "webhooks" => self.webhooks = self.sources(line, value.get_ref()),
                "catalogue" => self.catalogue(line, value.get_ref()),
                _ => put(self.place, &mut self.root, "", (key, value)),
            }
        }
    }

    /// The tables of a list.
    fn entries(&mut self, kind: &'static str, line: usize, value: &DeValue<'_>) -> Vec<Table<'p>> {
        let items = self.items(kind, line, value);
        items.into_iter().map(|(line, entry)| self.table(kind, kind.to_owned(), line, entry)).collect()
    }

    /// The entries of a list of tables, each with its line.
    fn items<'v, 'i>(&mut self, kind: &str, line: usize, value: &'v DeValue<'i>) -> Vec<(usize, &'v DeTable<'i>)> {
        let items = value.as_array().filter(|items| items.iter().all(|item| item.get_ref().is_table()));
        let Some(items) = items else {
            self.wrong(line, format!("{kind}: takes a list of tables"), format!("write [[{kind}]] before each entry"));
            return Vec::new();
        };
        let entry =
            |item: &'v Spanned<DeValue<'i>>| Some((self.place.line(item.span().start), item.get_ref().as_table()?));
        items.iter().filter_map(entry).collect()
    }

    /// The sources of webhooks, each with the tables of its rules.
    fn sources(&mut self, line: usize, value: &DeValue<'_>) -> Vec<Entry<'p>> {
        const RULES: &str = "webhooks.rules";
        let mut sources = Vec::new();
        for (line, entry) in self.items("webhooks", line, value) {
            let title = Title { kind: "webhooks", shown: "webhooks".to_owned(), line: Some(line) };
            let mut source = Entry { table: Table::new(self.place, title), rules: Vec::new() };
            for pair in entry {
                if pair.0.get_ref() == "rules" {
                    source.rules = self.entries(RULES, self.place.line(pair.0.span().start), pair.1.get_ref());
                } else {
                    put(self.place, &mut source.table, "", pair);
                }
            }
            sources.push(source);
        }
        sources
    }

    fn catalogue(&mut self, line: usize, value: &DeValue<'_>) {
        let Some(parts) = self.object("catalogue", line, value) else { return };
        for (key, value) in parts {
            let line = self.place.line(key.span().start);
            match key.get_ref().as_ref() {
                "configurations" => self.configurations(line, value.get_ref()),
                "groups" => self.catalogue_tables.groups = self.subtable("catalogue.groups", line, value.get_ref()),
                "filters" => self.catalogue_tables.filters = self.subtable("catalogue.filters", line, value.get_ref()),
                other => self.wrong(
                    line,
                    format!("unknown section {:?}", format!("catalogue.{}", segment(other))),
                    "the catalogue has configurations, groups and filters".to_owned(),
                ),
            }
        }
    }

    fn configurations(&mut self, line: usize, value: &DeValue<'_>) {
        let Some(entries) = self.object("catalogue.configurations", line, value) else { return };
        for (alias, value) in entries {
            let line = self.place.line(alias.span().start);
            let shown = format!("catalogue.configurations.{:?}", alias.get_ref());
            if let Some(entry) = self.object(&shown, line, value.get_ref()) {
                let table = self.table("catalogue.configurations", shown, line, entry);
                self.catalogue_tables.configurations.push((alias.get_ref().to_string(), table));
            }
        }
    }

    /// A table whose keys are chosen by the operator.
    fn subtable(&mut self, kind: &'static str, line: usize, value: &DeValue<'_>) -> Option<Table<'p>> {
        let entries = self.object(kind, line, value)?;
        let mut table = Table::new(self.place, Title { kind, shown: kind.to_owned(), line: Some(line) });
        for (alias, value) in entries {
            let at = At::Line(self.place.line(alias.span().start));
            table.cells.insert(alias.get_ref().to_string(), Cell { at, raw: raw(self.place, value.get_ref()) });
        }
        Some(table)
    }

    fn table(&self, kind: &'static str, shown: String, line: usize, entry: &DeTable<'_>) -> Table<'p> {
        let mut table = Table::new(self.place, Title { kind, shown, line: Some(line) });
        for pair in entry {
            put(self.place, &mut table, "", pair);
        }
        table
    }

    /// The value as a table; records a fault if it is not one.
    fn object<'v, 'i>(&mut self, shown: &str, line: usize, value: &'v DeValue<'i>) -> Option<&'v DeTable<'i>> {
        let table = value.as_table();
        if table.is_none() {
            self.wrong(line, format!("{shown}: takes a table, not {}", noun(value)), format!("write [{shown}]"));
        }
        table
    }

    fn wrong(&mut self, line: usize, what: String, hint: String) {
        let (place, line, hint) = (self.place.shown.clone(), Some(line), Some(hint));
        self.diagnostics.faults.push(Fault { place, line, what, hint });
    }
}

type Pair<'d, 'i> = (&'d Spanned<std::borrow::Cow<'i, str>>, &'d Spanned<DeValue<'i>>);

/// Adds a value and everything nested in it to a table, by dotted key.
fn put(place: &SourceFile, table: &mut Table<'_>, above: &str, (key, value): Pair<'_, '_>) {
    let dot = if above.is_empty() { "" } else { "." };
    let path = format!("{above}{dot}{}", segment(key.get_ref()));
    let line = place.line(key.span().start);
    if let Some(below) = value.get_ref().as_table() {
        for pair in below {
            put(place, table, &path, pair);
        }
        table.tables.insert(path, line);
    } else {
        table.cells.insert(path, Cell { at: At::Line(line), raw: raw(place, value.get_ref()) });
    }
}

/// A key as part of a path; quoted if it contains a dot, so that it is not read as two keys.
fn segment(key: &str) -> String {
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    if !key.is_empty() && key.bytes().all(bare) { key.to_owned() } else { format!("{key:?}") }
}

fn raw(place: &SourceFile, value: &DeValue<'_>) -> Raw {
    match value {
        DeValue::String(text) => Raw::Text(text.to_string()),
        // No setting takes a number that long; its range refuses this one too.
        DeValue::Integer(digits) => {
            Raw::Number(i64::from_str_radix(digits.as_str(), digits.radix()).unwrap_or(i64::MAX))
        }
        DeValue::Array(items) => Raw::List(
            items
                .iter()
                .map(|item| Cell { at: At::Line(place.line(item.span().start)), raw: raw(place, item.get_ref()) })
                .collect(),
        ),
        DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_) | DeValue::Table(_) => Raw::Other(noun(value)),
    }
}

fn noun(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a decimal number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

fn read(path: &Path) -> Result<String, Fault> {
    std::fs::read_to_string(path).map_err(|error| Fault {
        place: path.display().to_string(),
        line: None,
        what: format!("cannot be read: {error}"),
        hint: Some("check the path and the permissions; config/gateway.toml is a template".to_owned()),
    })
}

/// The message of the TOML parser, without the line that it quotes, which could contain a secret.
fn syntax(place: &SourceFile, error: &toml::de::Error) -> Fault {
    Fault {
        place: place.shown.clone(),
        line: error.span().map(|span| place.line(span.start)),
        what: format!("not TOML: {}", error.message()),
        hint: Some("everything else is checked once this is fixed".to_owned()),
    }
}
