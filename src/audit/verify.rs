//! Whether a trail is whole: the check behind `postern audit verify`.
//!
//! Records are fed oldest first; runs may be interleaved, as they are when several wrote at once. The first record that
//! does not fit ends the check and is named.
//!
//! It deliberately trusts nothing but the records: it needs no key, no store and no settings.

use std::{collections::BTreeMap, fmt};

use serde_json::{Map, Value};

use super::chain::{Head, NOTHING_BEFORE, hash_of};
use crate::canonical;

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
        if canonical::text(&Value::Object(record.clone())) != text {
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
    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::*;
    use crate::audit::{Actor, Entry, Event};

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
}
