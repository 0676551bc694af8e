//! The audit trail: the catalogue of events, their bytes, the hash chain and its verification. Pure.
//!
//! Every run of a gateway writes one chain. A record names its chain and sequence, repeats the hash of the record before
//! it and carries its own: SHA-256 over the record's canonical JSON (keys sorted, no spaces) without `hash`. The first
//! record of a chain repeats the last hash of the chain before it, so runs hang together too.
//!
//! Guarantees: [`Verifier`] finds any record that was altered, dropped from the middle, put in or reordered, and names
//! the first bad one. No event has a field that could hold a token or a secret.
//!
//! It deliberately cannot tell that the newest records were cut off: for that the newest hash must be kept elsewhere.
//! The store persists what is sealed here, in the same transaction as the state it tells of.

use std::{collections::BTreeMap, fmt};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::domain::{Change, Digest, Filter, OperationId, Target, Wanted};

/// What stands in place of a hash before the very first record.
const NOTHING_BEFORE: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Something that happened, not yet in a chain.
#[derive(Clone, Debug)]
pub struct Entry {
    /// When.
    pub at: Timestamp,
    /// The trace in which it happened.
    pub trace_id: Option<String>,
    /// What.
    pub event: Event,
}

/// Who asked, as the audit trail names them.
#[derive(Clone, Debug, Serialize)]
pub struct Actor {
    /// The caller's configured name; none if no configured caller fits the token.
    pub caller: Option<String>,
    /// The configured name of the issuer.
    pub issuer: String,
    /// The token's subject.
    pub subject: String,
    /// The token's own id.
    pub token_id: Option<String>,
}

/// A target, as the audit trail names it: `group b0…`, and its filter: `include f0…`.
#[derive(Clone, Debug, Serialize)]
pub struct Aim {
    /// The target.
    pub target: String,
    /// Its filter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
}

impl Aim {
    /// A target with its filter.
    pub fn of(target: &Target, filter: Option<Filter>) -> Self {
        Self {
            target: target.to_string(),
            filter: filter.map(|filter| format!("{} {}", filter.mode.name(), filter.id)),
        }
    }
}

impl From<&Wanted> for Aim {
    fn from(wanted: &Wanted) -> Self {
        Self::of(&wanted.target, wanted.filter)
    }
}

/// A change, as the audit trail names it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Aims {
    /// Targets added and removed.
    Amend {
        /// Added.
        add: Vec<Aim>,
        /// Removed.
        remove: Vec<Aim>,
    },
    /// The whole set.
    Replace(Vec<Aim>),
}

impl From<&Change> for Aims {
    fn from(change: &Change) -> Self {
        let wanted = change.wanted().iter().map(Aim::from).collect();
        match change {
            Change::Amend(_) => {
                let remove = change.unwanted().iter().map(|target| Aim::of(target, None)).collect();
                Self::Amend { add: wanted, remove }
            }
            Change::Replace(_) => Self::Replace(wanted),
        }
    }
}

/// The catalogue of events.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A run began, and with it a chain.
    StartedUp {
        /// Version of the program.
        version: String,
        /// The chain before this one.
        previous_chain: Option<String>,
        /// Its last sequence number; 0 if there was none.
        previous_sequence: u64,
    },
    /// The settings and policies that hold from now on.
    ConfigurationLoaded {
        /// Digest of the policies' text.
        policies: Digest,
        /// Names of the callers that are known.
        callers: Vec<String>,
    },
    /// A change was accepted and is durable.
    Accepted {
        /// Its operation.
        operation: OperationId,
        /// Who asked.
        #[serde(flatten)]
        actor: Actor,
        /// Id of the configuration.
        configuration: String,
        /// What is asked.
        change: Aims,
        /// The ticket.
        ticket: Option<String>,
        /// The person for whom it was asked.
        requested_for: Option<String>,
        /// Why it was asked.
        comment: Option<String>,
        /// The policies that permitted it.
        policies: Vec<String>,
    },
    /// A call was not permitted; nothing was changed.
    Denied {
        /// Who asked.
        #[serde(flatten)]
        actor: Actor,
        /// What for (`add`, `plan`, `read`, `authenticate`).
        action: String,
        /// The configuration it was about, where that far was got.
        configuration: Option<String>,
        /// What was asked, where it was a change.
        change: Option<Aims>,
        /// The ticket.
        ticket: Option<String>,
        /// Why not.
        reason: String,
    },
    /// A lane took up operations.
    Started {
        /// The configuration.
        configuration: String,
        /// The operations, in the order in which they are merged.
        operations: Vec<OperationId>,
        /// Fencing number of the lane's lease.
        lease: i64,
    },
    /// Graph was brought from one set to another.
    Written {
        /// The configuration.
        configuration: String,
        /// The operations carried.
        operations: Vec<OperationId>,
        /// Digest of the set before.
        before: Digest,
        /// Digest of the set after.
        after: Digest,
        /// Graph's id of the call; none if its answer was lost.
        request_id: Option<String>,
        /// Our id of the call.
        client_request_id: String,
        /// How it is known: `answered`, or `read-back` after a lost answer.
        known_by: &'static str,
    },
    /// An operation ended.
    Settled {
        /// Which.
        operation: OperationId,
        /// `succeeded` or `failed`.
        state: &'static str,
        /// `changed` or `unchanged`, if it succeeded.
        effect: Option<&'static str>,
        /// What it added.
        added: Vec<Aim>,
        /// What it removed.
        removed: Vec<Aim>,
        /// Whose filter it changed, with the new one.
        changed: Vec<Aim>,
        /// Why, if it failed.
        failure: Option<String>,
        /// Graph's id of the call that failed.
        request_id: Option<String>,
    },
    /// Graph's set is not the one we left: somebody else changed it.
    DriftSeen {
        /// The configuration.
        configuration: String,
        /// Digest of the set we left.
        left: Digest,
        /// Digest of the set we found.
        found: Digest,
    },
}

/// A record in its chain, ready to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its chain.
    pub chain: String,
    /// Its place in the chain, counted from one.
    pub sequence: u64,
    /// Canonical JSON, hash included: the record itself.
    pub text: String,
}

/// The end of a chain, to which the next record is tied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The chain.
    pub chain: String,
    /// Sequence number of its last record; 0 if it has none yet.
    pub sequence: u64,
    /// What the next record repeats.
    pub hash: String,
}

impl Head {
    /// The beginning of a chain that follows `previous`, and the event that opens it.
    pub fn open(chain: String, previous: Option<&Self>, version: &str) -> (Self, Event) {
        let hash = previous.map_or_else(|| NOTHING_BEFORE.to_owned(), |head| head.hash.clone());
        let opening = Event::StartedUp {
            version: version.to_owned(),
            previous_chain: previous.map(|head| head.chain.clone()),
            previous_sequence: previous.map_or(0, |head| head.sequence),
        };
        (Self { chain, sequence: 0, hash }, opening)
    }

    /// Ties an entry to the chain and moves on.
    pub fn append(&mut self, entry: &Entry) -> Record {
        let sequence = self.sequence.saturating_add(1);
        let mut fields = match serde_json::to_value(&entry.event) {
            Ok(Value::Object(fields)) => fields,
            // No event holds a map with keys that are not text, the one thing that cannot be written.
            Ok(_) | Err(_) => Map::new(),
        };
        fields.insert("at".to_owned(), entry.at.to_string().into());
        fields.insert("trace_id".to_owned(), entry.trace_id.clone().into());
        fields.insert("chain".to_owned(), self.chain.clone().into());
        fields.insert("sequence".to_owned(), sequence.into());
        fields.insert("previous_hash".to_owned(), self.hash.clone().into());
        let hash = hash_of(&fields);
        fields.insert("hash".to_owned(), hash.clone().into());
        self.sequence = sequence;
        self.hash = hash;
        Record { chain: self.chain.clone(), sequence, text: canonical(&Value::Object(fields)) }
    }

    /// The head that this record's text leaves behind. None if it is not a record.
    pub fn after(text: &str) -> Option<Self> {
        let record: Value = serde_json::from_str(text).ok()?;
        Some(Self {
            chain: record.get("chain")?.as_str()?.to_owned(),
            sequence: record.get("sequence")?.as_u64()?,
            hash: record.get("hash")?.as_str()?.to_owned(),
        })
    }
}

/// SHA-256 over the canonical text of a record that has no `hash` yet.
fn hash_of(fields: &Map<String, Value>) -> String {
    Digest::of(canonical(&Value::Object(fields.clone())).as_bytes()).as_str().to_owned()
}

/// One text for one value: keys sorted, no spaces. Our records hold no fractions, whose spelling would need more care.
pub fn canonical(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let sorted: BTreeMap<_, _> = fields.iter().collect();
            let field = |(key, value): (&String, &Value)| format!("{}:{}", Value::from(key.as_str()), canonical(value));
            format!("{{{}}}", sorted.into_iter().map(field).collect::<Vec<_>>().join(","))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(",")),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.to_string(),
    }
}

/// The first record that does not fit, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("record {position}{}: {why}", place.as_deref().unwrap_or_default())]
pub struct Broken {
    /// Its place among the records fed, counted from one.
    pub position: u64,
    /// Where it claims to be, if it can be read that far.
    pub place: Option<String>,
    /// What is wrong with it.
    pub why: String,
}

/// What a trail without faults holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// How many records.
    pub records: u64,
    /// How many runs wrote them.
    pub chains: usize,
    /// The newest record's hash, to compare with a copy kept elsewhere.
    pub head: Option<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = self.head.as_deref().unwrap_or("none");
        write!(f, "{} records in {} chains, every hash fits; newest hash {head}", self.records, self.chains)
    }
}

/// Checks a trail, record after record, oldest first.
#[derive(Debug, Default)]
pub struct Verifier {
    heads: BTreeMap<String, Head>,
    newest: Option<String>,
    records: u64,
}

impl Verifier {
    /// Checks the next record's text.
    pub fn feed(&mut self, text: &str) -> Result<(), Broken> {
        self.records = self.records.saturating_add(1);
        let broken = |place: Option<String>, why: String| Broken { position: self.records, place, why };
        let record = Value::as_object(&serde_json::from_str(text).unwrap_or_default()).cloned();
        let (Some(mut record), Some(head)) = (record, Head::after(text)) else {
            return Err(broken(None, "it is not a record: chain, sequence or hash is missing".to_owned()));
        };
        let place = Some(format!(" (chain {}, sequence {})", head.chain, head.sequence));
        if canonical(&Value::Object(record.clone())) != text {
            return Err(broken(place, "its text is not in canonical form: it was rewritten".to_owned()));
        }
        record.remove("hash");
        if hash_of(&record) != head.hash {
            return Err(broken(place, "its content does not fit its hash: it was altered".to_owned()));
        }
        let tie = Tie { head: &head, record: &record };
        let fits = match self.heads.get(&head.chain) {
            Some(before) => tie.follows(before),
            None => tie.opens(self.newest.as_ref().and_then(|chain| self.heads.get(chain))),
        };
        fits.map_err(|why| broken(place, why))?;
        self.newest = Some(head.chain.clone());
        self.heads.insert(head.chain.clone(), head);
        Ok(())
    }

    /// What was checked.
    pub fn finish(self) -> Report {
        let head = self.newest.and_then(|chain| self.heads.get(&chain).map(|head| head.hash.clone()));
        Report { records: self.records, chains: self.heads.len(), head }
    }
}

/// A record's claims about what came before it.
struct Tie<'a> {
    head: &'a Head,
    record: &'a Map<String, Value>,
}

impl Tie<'_> {
    fn claims(&self, key: &str, expected: Option<&str>) -> bool {
        self.record.get(key).and_then(Value::as_str) == expected
    }

    /// Whether the record is the next one of a chain that ends in `before`.
    fn follows(&self, before: &Head) -> Result<(), String> {
        let expected = before.sequence.saturating_add(1);
        if self.head.sequence != expected {
            return Err(format!("sequence {expected} is expected here: a record is missing, doubled or moved"));
        }
        if !self.claims("previous_hash", Some(&before.hash)) {
            return Err("it does not repeat the hash of the record before it".to_owned());
        }
        Ok(())
    }

    /// Whether the record opens a chain after `newest`, the end of the chain before it.
    fn opens(&self, newest: Option<&Head>) -> Result<(), String> {
        if self.head.sequence != 1 || !self.claims("event", Some("started-up")) {
            return Err("the beginning of its chain is missing".to_owned());
        }
        let hash = newest.map_or(NOTHING_BEFORE, |head| &head.hash);
        let sequence = self.record.get("previous_sequence").and_then(Value::as_u64);
        let tied = self.claims("previous_hash", Some(hash))
            && self.claims("previous_chain", newest.map(|head| head.chain.as_str()))
            && sequence == Some(newest.map_or(0, |head| head.sequence));
        if tied { Ok(()) } else { Err("it is not tied to the end of the chain before it".to_owned()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(number: u64) -> Entry {
        let event = Event::Denied {
            actor: Actor {
                caller: Some("portal".to_owned()),
                issuer: "i".to_owned(),
                subject: "s".to_owned(),
                token_id: None,
            },
            action: "add".to_owned(),
            configuration: None,
            change: None,
            ticket: Some(format!("RITM{number} \"quoted\" \u{e9}")),
            reason: "no policy permits it".to_owned(),
        };
        Entry { at: Timestamp::UNIX_EPOCH, trace_id: None, event }
    }

    /// A trail of several runs of several records each.
    fn trail(runs: &[u64]) -> Vec<String> {
        let mut records = Vec::new();
        let mut previous: Option<Head> = None;
        for (run, length) in runs.iter().enumerate() {
            let (mut head, opening) = Head::open(format!("run-{run}"), previous.as_ref(), "1");
            records.push(head.append(&Entry { event: opening, ..entry(0) }).text);
            records.extend((0..*length).map(|number| head.append(&entry(number)).text));
            previous = Some(head);
        }
        records
    }

    fn verify(records: &[String]) -> Result<Report, Broken> {
        let mut verifier = Verifier::default();
        records.iter().try_for_each(|record| verifier.feed(record))?;
        Ok(verifier.finish())
    }

    proptest! {
        #[test]
        fn an_untouched_trail_verifies(runs in prop::collection::vec(0..6_u64, 1..5)) {
            let records = trail(&runs);
            let report = verify(&records).unwrap();
            prop_assert_eq!(report.records, u64::try_from(records.len()).unwrap());
            prop_assert_eq!(report.chains, runs.len());
        }

        #[test]
        fn any_altered_byte_is_found(runs in prop::collection::vec(0..4_u64, 1..4), at: prop::sample::Index, byte: prop::sample::Index, new in 32..127_u8) {
            let mut records = trail(&runs);
            let record = at.index(records.len());
            let mut bytes = records[record].clone().into_bytes();
            let byte = byte.index(bytes.len());
            prop_assume!(bytes[byte].is_ascii() && bytes[byte] != new);
            bytes[byte] = new;
            let Ok(text) = String::from_utf8(bytes) else { return Ok(()) };
            records[record] = text;
            let broken = verify(&records).unwrap_err();
            prop_assert_eq!(broken.position, u64::try_from(record).unwrap().saturating_add(1));
        }

        #[test]
        fn any_record_dropped_before_the_newest_is_found(runs in prop::collection::vec(0..4_u64, 1..4), at: prop::sample::Index) {
            let mut records = trail(&runs);
            prop_assume!(records.len() > 1);
            records.remove(at.index(records.len().saturating_sub(1)));
            prop_assert!(verify(&records).is_err());
        }

        #[test]
        fn any_two_records_swapped_are_found(runs in prop::collection::vec(0..4_u64, 1..4), a: prop::sample::Index, b: prop::sample::Index) {
            let mut records = trail(&runs);
            let (a, b) = (a.index(records.len()), b.index(records.len()));
            prop_assume!(a != b);
            records.swap(a, b);
            prop_assert!(verify(&records).is_err());
        }

        #[test]
        fn any_record_doubled_is_found(runs in prop::collection::vec(0..4_u64, 1..4), from: prop::sample::Index, to: prop::sample::Index) {
            let mut records = trail(&runs);
            let copy = records[from.index(records.len())].clone();
            records.insert(to.index(records.len()), copy);
            prop_assert!(verify(&records).is_err());
        }

        #[test]
        fn a_chain_left_out_is_found(length in 0..4_u64) {
            let records = trail(&[length, length, length]);
            let per_run = usize::try_from(length).unwrap().saturating_add(1);
            let without_middle: Vec<_> = [&records[..per_run], &records[per_run.saturating_mul(2)..]].concat();
            prop_assert!(verify(&without_middle).is_err());
            prop_assert!(verify(&records[per_run..]).is_err());
        }

        #[test]
        fn no_text_makes_the_verifier_panic(text in ".{0,200}") {
            prop_assert!(Verifier::default().feed(&text).is_err());
        }
    }

    #[test]
    fn canonical_text_sorts_keys_and_has_no_spaces() {
        let value: Value = serde_json::from_str(r#"{ "b": [1, {"z": null, "a": "\u00e9"}], "a": true }"#).unwrap();
        assert_eq!(canonical(&value), "{\"a\":true,\"b\":[1,{\"a\":\"\u{e9}\",\"z\":null}]}");
    }
}
