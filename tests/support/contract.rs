//! Checks calls to Graph and their responses against Microsoft's own descriptions, kept in `contract.txt`.
//!
//! [`faults`] checks one call from the sandbox's journal. In three ways it departs from Microsoft's schemas, which
//! would hide mistakes or reject the real service: an object may have only properties that its type declares, a target
//! is checked as the type that it names, and a response may omit `@odata.type` and write times without a zone.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

const TABLE: &str = include_str!("contract.txt");
/// Properties in no contract: invented by the sandbox's tenant and by tests to check that unknown ones are preserved.
const INVENTED: [&str; 1] = ["ownerHint"];

/// The contract of one Graph version.
#[derive(Debug, Default)]
pub(crate) struct Contract {
    pub(crate) calls: Vec<Operation>,
    pub(crate) types: BTreeMap<String, Type>,
    pub(crate) enums: BTreeMap<String, Members>,
    /// Types, enums and calls missing from Microsoft's extract.
    pub(crate) outside: BTreeSet<String>,
}

#[derive(Debug)]
pub(crate) struct Operation {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) options: Vec<String>,
    pub(crate) takes: Option<String>,
    pub(crate) gives: String,
}

#[derive(Debug, Default)]
pub(crate) struct Type {
    pub(crate) base: Option<String>,
    /// The type's own properties and their kinds as written in the table: `string?`, `[group]`.
    pub(crate) properties: BTreeMap<String, String>,
}

#[derive(Debug, Default)]
pub(crate) struct Members {
    pub(crate) flags: String,
    pub(crate) names: Vec<String>,
}

impl Contract {
    /// Reads the table's entries for one Graph version.
    pub(crate) fn of(version: &str) -> Self {
        let mut contract = Self::default();
        let mut outside = false;
        let mut open: Option<String> = None;
        for line in TABLE.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            let mut words: Vec<&str> = line.split_whitespace().collect();
            let only = words.pop_if(|last| ["beta", "v1.0"].contains(last));
            let here = only.is_none_or(|only| only == version);
            if line.starts_with(' ') {
                if let Some(open) = open.as_ref().filter(|_| here) {
                    contract.fill(open, &words);
                }
                continue;
            }
            open = None;
            if words == ["outside"] {
                outside = true;
            } else if here {
                let name = contract.begin(&words);
                if outside {
                    contract.outside.insert(name.clone());
                }
                open = Some(name);
            }
        }
        contract
    }

    /// Parses a line that opens a definition; returns the definition's name.
    fn begin(&mut self, words: &[&str]) -> String {
        match words {
            ["call", method, path, rest @ ..] => {
                let words: Vec<String> = rest.iter().map(|word| (*word).to_owned()).collect();
                let after =
                    |wanted: &str| words.iter().skip_while(|it| *it != wanted).skip(1).cloned().collect::<Vec<_>>();
                self.calls.push(Operation {
                    method: (*method).to_owned(),
                    path: (*path).to_owned(),
                    options: after("options").into_iter().take_while(|it| it.starts_with('$')).collect(),
                    takes: after("takes").into_iter().next(),
                    gives: after("gives").into_iter().next().unwrap(),
                });
                format!("{method} {path}")
            }
            ["enum", name, flags @ ..] => {
                self.enums.insert((*name).to_owned(), Members { flags: flags.join(" "), names: Vec::new() });
                (*name).to_owned()
            }
            ["type", name, base @ ..] => {
                let base = base.get(1).map(|base| (*base).to_owned());
                self.types.insert((*name).to_owned(), Type { base, ..Type::default() });
                (*name).to_owned()
            }
            other => panic!("contract.txt: {other:?}"),
        }
    }

    /// Parses an indented line.
    fn fill(&mut self, open: &str, words: &[&str]) {
        if let Some(members) = self.enums.get_mut(open) {
            members.names.extend(words.iter().map(|word| (*word).to_owned()));
        } else if let (Some(known), [name, kind]) = (self.types.get_mut(open), words) {
            known.properties.insert((*name).to_owned(), (*kind).to_owned());
        } else {
            panic!("contract.txt: {words:?} below {open}");
        }
    }

    /// The type and its base types, nearest first.
    fn line<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        std::iter::successors(Some(name), |name| self.types.get(*name)?.base.as_deref())
    }

    fn derives(&self, name: &str, from: &str) -> bool {
        self.line(name).any(|it| it == from)
    }

    fn property(&self, of: &str, name: &str) -> Option<&str> {
        self.line(of).find_map(|it| self.types.get(it)?.properties.get(name)).map(String::as_str)
    }

    fn required<'a>(&'a self, of: &'a str) -> impl Iterator<Item = &'a str> {
        let own = self.line(of).filter_map(|it| self.types.get(it)).flat_map(|it| &it.properties);
        own.filter(|(_, kind)| kind.ends_with('!')).map(|(name, _)| name.as_str())
    }

    /// The operation that a path (without its version) matches.
    fn operation(&self, method: &str, path: &str) -> Option<&Operation> {
        let fits = |pattern: &str| {
            let (wanted, found): (Vec<_>, Vec<_>) = (pattern.split('/').collect(), path.split('/').collect());
            wanted.len() == found.len() && wanted.iter().zip(&found).all(|(it, part)| *it == "{id}" || it == part)
        };
        self.calls.iter().find(|call| call.method == method && fits(&call.path))
    }
}

/// Whether an object is sent or received.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Request,
    Answer,
}

/// Checks one object and collects its faults.
struct Judge<'c> {
    contract: &'c Contract,
    direction: Direction,
    faults: Vec<String>,
}

/// Faults in a journalled call; none if it did not go to Graph. Requests are checked only if they are the gateway's:
/// other clients send wrong ones on purpose. A response shaped by an injected fault says nothing about the sandbox.
pub(crate) fn faults(call: &Value, ours: Ours) -> Vec<String> {
    let text = |name: &str| call[name].as_str().unwrap_or_default();
    let path = text("path").replace("('", "/").replace("')", "");
    let Some((version, path)) = path.strip_prefix('/').and_then(|path| path.split_once('/')) else { return Vec::new() };
    if !["beta", "v1.0"].contains(&version) {
        return Vec::new();
    }
    let contract = Contract::of(version);
    let operation = contract.operation(text("method"), &format!("/{path}"));
    let mut judge = Judge { contract: &contract, direction: Direction::Request, faults: Vec::new() };
    if ours == Ours::Yes {
        judge.request(call, operation);
    }
    if call["fault"] != "answer" && !call["status"].is_null() {
        judge.direction = Direction::Answer;
        judge.answer(call, operation);
    }
    judge.faults
}

/// Whether the gateway made the call.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ours {
    Yes,
    No,
}

impl Judge<'_> {
    fn fault(&mut self, fault: String) {
        self.faults.push(fault);
    }

    fn request(&mut self, call: &Value, operation: Option<&Operation>) {
        let Some(operation) = operation else {
            return self.fault("Microsoft describes no such call".to_owned());
        };
        for header in ["client-request-id", "user_agent", "prefer"] {
            if call[header].is_null() {
                self.fault(format!("it has no {header}"));
            }
        }
        for (name, value) in url::form_urlencoded::parse(call["query"].as_str().unwrap_or_default().as_bytes()) {
            if !operation.options.iter().any(|known| *known == name) && name != "$skiptoken" {
                self.fault(format!("the option {name} is not described"));
            }
            let row = operation.gives.trim_matches(['[', ']']);
            let unknown = |field: &&str| self.contract.property(row, field).is_none();
            if name == "$select"
                && let Some(field) = value.split(',').find(unknown)
            {
                self.fault(format!("$select names {field}, which {row} does not have"));
            }
        }
        match (&operation.takes, &call["request"]) {
            (None, Value::Null) => {}
            (Some(kind), body @ Value::Object(_)) => self.value("body", body, kind),
            (takes, body) => self.fault(format!("it takes {takes:?}, not {body}")),
        }
    }

    fn answer(&mut self, call: &Value, operation: Option<&Operation>) {
        let (status, body) = (call["status"].as_u64().unwrap_or_default(), &call["answer"]);
        match (status, operation, body) {
            // A proxy in between may answer in another form than Graph's.
            (400.., _, Value::Null | Value::String(_)) => {}
            (400.., _, body) => self.value("error", body, "ODataErrors.ODataError"),
            (200..300, Some(Operation { gives, .. }), body) => match gives.as_str() {
                // Documented as 204. Whether Graph sends 200 with a body is unknown; nobody reads it.
                "nothing" => {}
                list if list.starts_with('[') => self.page(body, list),
                one => self.value("answer", body, one),
            },
            (status, ..) => self.fault(format!("{status} is no answer to this call")),
        }
    }

    fn page(&mut self, page: &Value, list: &str) {
        let known = ["value", "@odata.context", "@odata.nextLink", "@odata.count"];
        for name in page.as_object().into_iter().flat_map(Map::keys).filter(|name| !known.contains(&name.as_str())) {
            self.fault(format!("a page has no {name}"));
        }
        if page.get("@odata.nextLink").is_some_and(|link| !link.is_string()) {
            self.fault("@odata.nextLink is no text".to_owned());
        }
        self.value("value", &page["value"], list);
    }

    fn value(&mut self, place: &str, value: &Value, kind: &str) {
        let kind = kind.trim_end_matches('!');
        let (kind, nullable) = kind.strip_suffix('?').map_or((kind, false), |kind| (kind, true));
        if value.is_null() && nullable {
            return;
        }
        if let Some(item) = kind.strip_prefix('[').and_then(|kind| kind.strip_suffix(']')) {
            match value.as_array() {
                Some(items) => items.iter().for_each(|it| self.value(place, it, item)),
                None => self.fault(format!("{place} is no list: {value}")),
            }
        } else if self.contract.types.contains_key(kind) {
            self.object(place, value, kind);
        } else if !self.fits(value, kind) {
            self.fault(format!("{place} is not {kind}: {value}"));
        }
    }

    fn fits(&self, value: &Value, kind: &str) -> bool {
        let text = value.as_str();
        match kind {
            "string" => text.is_some(),
            "boolean" => value.is_boolean(),
            "int32" => value.as_i64().is_some_and(|number| i32::try_from(number).is_ok()),
            "guid" => text.is_some_and(|text| uuid::Uuid::try_parse(text).is_ok()),
            "date" => text.is_some_and(|text| is_moment(text, self.direction)),
            of => {
                let Members { flags, names } = &self.contract.enums[of];
                let known = |name: &str| names.iter().any(|known| known == name);
                text.is_some_and(|text| if flags.is_empty() { known(text) } else { text.split(',').all(known) })
            }
        }
    }

    fn object(&mut self, place: &str, value: &Value, declared: &str) {
        let Some(fields) = value.as_object() else {
            return self.fault(format!("{place} is no {declared}: {value}"));
        };
        let derived = |contract: &Contract| contract.types.values().any(|it| it.base.as_deref() == Some(declared));
        let is_target = declared == "deviceAndAppManagementAssignmentTarget";
        let named = fields.get("@odata.type").map(|name| name.as_str().unwrap_or_default());
        let kind = match named.map(|name| name.strip_prefix("#microsoft.graph.").unwrap_or_default()) {
            Some(kind) if kind == declared && !is_target => kind,
            Some(kind) if kind != declared && self.contract.derives(kind, declared) => kind,
            Some(_) => return self.fault(format!("{place} cannot be a {named:?}")),
            None if is_target || (self.direction == Direction::Request && !declared.ends_with("Parameters")) => {
                return self.fault(format!("{place} does not name its type: {value}"));
            }
            None => declared,
        };
        for name in self.contract.required(kind).filter(|name| !fields.contains_key(*name)) {
            self.faults.push(format!("{place}: a {kind} must have {name}"));
        }
        for (name, value) in fields.iter().filter(|(name, _)| !name.contains('@') && !INVENTED.contains(&name.as_str()))
        {
            // Some services spell it this way.
            let name = if name == "innererror" { "innerError" } else { name };
            match self.contract.property(kind, name).map(str::to_owned) {
                Some(of) => self.value(&format!("{place}.{name}"), value, &of),
                // Without a type name the object's derived type cannot be determined.
                None if named.is_none() && derived(self.contract) => {}
                None => self.fault(format!("{place}: a {kind} has no {name}")),
            }
        }
    }
}

/// An RFC 3339 timestamp; Graph's errors omit the zone.
fn is_moment(text: &str, direction: Direction) -> bool {
    let zoneless =
        direction == Direction::Answer && text.parse::<jiff::civil::DateTime>().is_ok() && !text.ends_with('Z');
    zoneless || text.parse::<jiff::Timestamp>().is_ok()
}
