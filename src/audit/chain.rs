//! How records are hash-chained.
//!
//! Guarantees: the same entry at the same place of the same chain gives the same bytes, and no record can be changed without
//! changing every hash after it.
//!
//! It deliberately stores nothing: the store advances its [`Head`] when, and only when, the records are committed.

use std::{fmt, str::FromStr};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{Entry, Event};
use crate::{
    canonical::{self, Object},
    domain::Digest,
};

/// The hash before the very first record.
pub(super) const GENESIS_HASH: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// The member that holds a record's hash. Members are sorted, so it has others before and after it.
const HASH: &str = "hash";

/// A record in its chain, ready to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its chain.
    pub chain: String,
    /// Its place in the chain, from one.
    pub sequence: u64,
    /// The record itself: canonical JSON, with its hash.
    pub text: String,
    /// The fields by which it can be found.
    pub index_fields: IndexFields,
}

/// The fields by which a record can be found, if it has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexFields {
    /// When it happened.
    pub at: Timestamp,
    /// The ticket.
    pub ticket: Option<String>,
    /// The one operation that it is about.
    pub operation: Option<String>,
    /// The caller's name.
    pub caller: Option<String>,
    /// The id of the configuration.
    pub configuration: Option<String>,
}

impl IndexFields {
    fn of(at: Timestamp, text: impl Fn(&str) -> Option<String>) -> Self {
        let (ticket, operation) = (text("ticket"), text("operation"));
        Self { at, ticket, operation, caller: text("caller"), configuration: text("configuration") }
    }

    /// The fields of a record's text; none if it is not a record.
    pub fn read(text: &str) -> Option<Self> {
        let record: Value = serde_json::from_str(text).ok()?;
        let fields = record.as_object()?;
        let text = |key: &str| fields.get(key).and_then(Value::as_str).map(str::to_owned);
        Some(Self::of(text("at")?.parse().ok()?, text))
    }
}

/// The place of a record: `CHAIN/SEQUENCE`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RecordId {
    /// Its chain.
    pub chain: String,
    /// Its place in the chain, from one.
    pub sequence: u64,
}

impl RecordId {
    /// The place that a record's text claims; none if it is not a record.
    pub fn of(text: &str) -> Option<Self> {
        Head::after(text).map(|Head { chain, sequence, .. }| Self { chain, sequence })
    }
}

impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.chain, self.sequence)
    }
}

impl FromStr for RecordId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.rsplit_once('/').and_then(|(chain, sequence)| Some((chain, sequence.parse().ok()?)));
        let (chain, sequence) = parts.ok_or("the place of a record, CHAIN/SEQUENCE")?;
        Ok(Self { chain: chain.to_owned(), sequence })
    }
}

/// The end of a chain, to which the next record is linked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The chain.
    pub chain: String,
    /// Sequence number of its last record; 0 if it has none yet.
    pub sequence: u64,
    /// The hash that the next record repeats.
    pub hash: String,
}

/// The end of a chain, as an opening record or a checkpoint names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct End {
    /// The chain.
    pub chain: String,
    /// Sequence number of its last record.
    pub sequence: u64,
    /// That record's hash.
    pub hash: String,
}

impl From<&Head> for End {
    fn from(head: &Head) -> Self {
        Self { chain: head.chain.clone(), sequence: head.sequence, hash: head.hash.clone() }
    }
}

/// A record without its hash.
#[derive(Serialize)]
struct UnhashedRecord<'a> {
    #[serde(flatten)]
    event: Option<&'a Event>,
    at: Timestamp,
    trace_id: Option<&'a str>,
    chain: &'a str,
    sequence: u64,
    previous_hash: &'a str,
}

impl Head {
    /// The beginning of a chain, and the event that opens it. `ends` are the ends of all chains that no earlier opening has
    /// named, newest first: from here on, none of them can lose a record unnoticed.
    pub fn open(chain: String, ends: &[Self], version: &str) -> (Self, Event) {
        Self::begin(chain, ends, None, version)
    }

    /// The same for a run that continues in a new chain, because its store no longer has the `expected` end of the one before.
    pub fn reopen(chain: String, ends: &[Self], expected: &Self, version: &str) -> (Self, Event) {
        Self::begin(chain, ends, Some(expected), version)
    }

    fn begin(chain: String, ends: &[Self], expected: Option<&Self>, version: &str) -> (Self, Event) {
        let previous = ends.first();
        let hash = previous.map_or_else(|| GENESIS_HASH.to_owned(), |head| head.hash.clone());
        let opening = Event::StartedUp {
            version: version.to_owned(),
            previous_chain: previous.map(|head| head.chain.clone()),
            previous_sequence: previous.map_or(0, |head| head.sequence),
            other_ends: ends.iter().skip(1).map(End::from).collect(),
            expected_end: expected.map(End::from),
        };
        (Self { chain, sequence: 0, hash }, opening)
    }

    /// Links an entry to the chain and advances.
    pub fn append(&mut self, entry: &Entry) -> Record {
        let sequence = self.sequence.saturating_add(1);
        let untied = UnhashedRecord {
            event: Some(&entry.event),
            at: entry.at,
            trace_id: entry.trace_id.as_deref(),
            chain: &self.chain,
            sequence,
            previous_hash: &self.hash,
        };
        // Only a map with keys that are not strings cannot be serialised, and no event has one.
        let record =
            Object::of(&untied).or_else(|_| Object::of(&UnhashedRecord { event: None, ..untied })).unwrap_or_default();
        let hash = Digest::of(record.text().as_bytes()).as_str().to_owned();
        let text = record.with(HASH, &format!("\"{hash}\""));
        let index_fields = IndexFields::of(entry.at, |key| serde_json::from_str(record.get(key)?).ok());
        self.sequence = sequence;
        self.hash = hash;
        Record { chain: self.chain.clone(), sequence, text, index_fields }
    }

    /// The head of the chain after this record; none if the text is not a record.
    pub fn after(text: &str) -> Option<Self> {
        let record: Value = serde_json::from_str(text).ok()?;
        Some(Self {
            chain: record.get("chain")?.as_str()?.to_owned(),
            sequence: record.get("sequence")?.as_u64()?,
            hash: record.get("hash")?.as_str()?.to_owned(),
        })
    }
}

/// SHA-256 over the canonical text of a record without its `hash`.
pub(super) fn hash_of(fields: &Map<String, Value>) -> String {
    Digest::of(canonical::object(fields).as_bytes()).as_str().to_owned()
}
