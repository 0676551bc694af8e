//! Whether a trail is intact: the check behind `postern audit verify`.
//!
//! Records are fed oldest first; chains may be interleaved, as when several replicas write at once. Each chain has no gaps,
//! and the record that opens a chain names the ends of all others, except ends that an earlier opening has named. So only
//! records newer than the newest opening can be cut off unnoticed, from however many chains. The check stops at the first
//! bad record and names it.
//!
//! Checkpoints in the trail name ends that must be in it. Given public keys, their signatures are checked, and the report
//! counts the records that no checkpoint covers, and those that only checkpoints of other runs cover: whoever can write the
//! store can add records to the chain of a run that is over, and the next run signs what it finds. A checkpoint that was kept
//! elsewhere ([`Verifier::expect`]) shows whether what it names has been cut off or rewritten since.
//!
//! An opening by which a run continues in a new chain names the end that the run had written of the one before. If the trail
//! has another, the check goes on, and reports that at the end ([`VerificationFailure::BrokenChains`]).
//!
//! It deliberately trusts nothing but the records and the keys it is given: it needs no store and no settings.

use std::collections::{BTreeMap, BTreeSet};

use data_encoding::HEXLOWER_PERMISSIVE;
use serde_json::{Map, Value};

use super::{
    chain::{End, GENESIS_HASH, Head, RecordId, hash_of},
    checkpoint::PublicKey,
    report::{BrokenRecord, ChainBreak, Report, VerificationFailure},
};
use crate::canonical;

/// One chain, as far as it has been fed.
#[derive(Debug)]
struct Chain {
    head: Head,
    /// The hash of each record.
    hashes: Vec<[u8; 32]>,
    /// The ends that its first record had to name.
    opened_on: Vec<End>,
    /// The last sequence number that a checkpoint covers.
    vouched: u64,
    /// The last sequence number that one of its own checkpoints names.
    vouched_by_own: u64,
    /// Where its own checkpoints are; they are signed themselves, so nothing else needs to cover them.
    checkpoints: Vec<u64>,
}

impl Chain {
    /// How many of its records no checkpoint covers.
    fn unvouched(&self) -> u64 {
        self.between(self.vouched, self.head.sequence)
    }

    /// How many of its records only checkpoints of other chains cover.
    fn vouched_by_others(&self) -> u64 {
        self.between(self.vouched_by_own, self.vouched)
    }

    /// How many records there are after one and up to another, without checkpoints.
    fn between(&self, after: u64, to: u64) -> u64 {
        let signed = self.checkpoints.iter().filter(|place| **place > after && **place <= to).count();
        to.saturating_sub(after).saturating_sub(u64::try_from(signed).unwrap_or(0))
    }
}

/// Checks a trail, record after record, oldest first.
#[derive(Debug, Default)]
pub struct Verifier {
    keys: Vec<PublicKey>,
    expected: Vec<End>,
    chains: BTreeMap<String, Chain>,
    /// Chains whose end no opening has named yet.
    loose: BTreeSet<String>,
    newest: Option<String>,
    /// The signatures of all checkpoints.
    signatures: BTreeSet<String>,
    records: u64,
    breaks: Vec<ChainBreak>,
    known_breaks: BTreeSet<RecordId>,
}

impl Verifier {
    /// A verifier that accepts only checkpoints signed with these keys; without keys, it checks no signatures.
    pub fn with_keys(keys: Vec<PublicKey>) -> Self {
        Self { keys, ..Self::default() }
    }

    /// Takes a checkpoint that was kept elsewhere: it, and the records that it names, must be in the trail. Returns false,
    /// without any effect, for a record that is not a checkpoint.
    pub fn expect(&mut self, text: &str) -> Result<bool, String> {
        let record: Value = serde_json::from_str(text).unwrap_or_default();
        let (Some(fields), Some(head)) = (record.as_object(), Head::after(text)) else {
            return Err("it is not a record: chain, sequence or hash is missing".to_owned());
        };
        if !is_checkpoint(fields) {
            return Ok(false);
        }
        let ends = ends_in(fields.get("ends")).ok_or("the ends that it names cannot be read")?;
        self.check_signature(&record)?;
        self.expected.extend(ends);
        self.expected.push(End::from(&head));
        Ok(true)
    }

    /// Takes a break that was examined before: the trail must have it, and does not fail because of it. It is named by the last
    /// record that the run had written.
    pub fn expect_break(&mut self, id: RecordId) {
        self.known_breaks.insert(id);
    }

    /// Checks the next record's text.
    pub fn feed(&mut self, text: &str) -> Result<(), BrokenRecord> {
        self.records = self.records.saturating_add(1);
        let broken = |place: Option<String>, why: String| BrokenRecord { position: self.records, place, why };
        let record = Value::as_object(&serde_json::from_str(text).unwrap_or_default()).cloned();
        let (Some(mut record), Some(head)) = (record, Head::after(text)) else {
            return Err(broken(None, "it is not a record: chain, sequence or hash is missing".to_owned()));
        };
        let place = Some(format!(" (chain {}, sequence {})", head.chain, head.sequence));
        if canonical::object(&record) != text {
            return Err(broken(place, "its text is not in canonical form: it was rewritten".to_owned()));
        }
        record.remove("hash");
        let hash = hash_of(&record);
        let (true, Some(bytes)) = (hash == head.hash, bytes(&hash)) else {
            return Err(broken(place, "its content does not fit its hash: it was altered".to_owned()));
        };
        let tie = ChainLink { head: &head, record: &record };
        let fits = match self.chains.get(&head.chain) {
            Some(before) => tie.follows(&before.head),
            None => tie.opens(&self.open_ends()),
        };
        fits.map_err(|why| broken(place.clone(), why))?;
        let expected = tie.expected_end().map_err(|why| broken(place.clone(), why))?;
        let vouched = self.checkpoint(&record).map_err(|why| broken(place, why))?;
        self.breaks.extend(expected.and_then(|written| self.parted(written)));
        let Head { chain, sequence, .. } = head.clone();
        self.take(head, bytes);
        // A signature says nothing about the chain that it is in, so one that is repeated in another chain does not count.
        if is_checkpoint(&record) && self.signatures.insert(signature(&record).to_owned()) {
            self.credit(&chain, sequence, &vouched);
        }
        for end in vouched {
            self.vouch(&end);
        }
        Ok(())
    }

    /// The break that an opening reports, unless the chain does end where its run had ended it. A run whose opening may not
    /// have been stored reports it again.
    fn parted(&self, written: End) -> Option<ChainBreak> {
        let head = self.chains.get(&written.chain).map(|chain| &chain.head);
        let found = head.map_or(0, |head| head.sequence);
        let is_new = self.breaks.iter().all(|known| known.written != written);
        (is_new && head.is_none_or(|head| End::from(head) != written)).then_some(ChainBreak { written, found })
    }

    /// Adds a record that was checked.
    fn take(&mut self, head: Head, hash: [u8; 32]) {
        let opens = !self.chains.contains_key(&head.chain);
        let opened_on = if opens { self.open_ends() } else { Vec::new() };
        if opens {
            self.loose.clear();
        }
        self.loose.insert(head.chain.clone());
        self.newest = Some(head.chain.clone());
        let opened = || Chain {
            head: head.clone(),
            hashes: Vec::new(),
            opened_on,
            vouched: 0,
            vouched_by_own: 0,
            checkpoints: Vec::new(),
        };
        let chain = self.chains.entry(head.chain.clone()).or_insert_with(opened);
        chain.hashes.push(hash);
        chain.head = head;
    }

    /// Notes that a record of this chain is a checkpoint that names these ends.
    fn credit(&mut self, chain: &str, sequence: u64, ends: &[End]) {
        let Some(known) = self.chains.get_mut(chain) else { return };
        known.checkpoints.push(sequence);
        let own = ends.iter().filter(|end| end.chain == chain).map(|end| end.sequence);
        known.vouched_by_own = own.fold(known.vouched_by_own, u64::max);
    }

    /// The ends that a checkpoint vouches for; empty if the record is not a checkpoint.
    fn checkpoint(&self, record: &Map<String, Value>) -> Result<Vec<End>, String> {
        if !is_checkpoint(record) {
            return Ok(Vec::new());
        }
        let ends = ends_in(record.get("ends")).ok_or("the ends that it names cannot be read")?;
        if let Some(end) = ends.iter().find(|end| !self.holds(end)) {
            let End { chain, sequence, .. } = end;
            return Err(format!("it vouches for record {sequence} of chain {chain}, which is another or not there"));
        }
        self.check_signature(&Value::Object(record.clone()))?;
        Ok(ends)
    }

    /// Checks that one of the keys signed a checkpoint, if there are keys.
    fn check_signature(&self, record: &Value) -> Result<(), String> {
        if self.keys.is_empty() {
            return Ok(());
        }
        let id = record.get("key_id").and_then(Value::as_str).unwrap_or_default();
        match self.keys.iter().find(|key| key.id() == id) {
            Some(key) if key.vouches(record) => Ok(()),
            Some(_) => Err(format!("its signature is not that of key {id}")),
            None => Err(format!("it is signed by key {id}, which was not given")),
        }
    }

    /// Whether the records fed so far include this one.
    fn holds(&self, end: &End) -> bool {
        let place = end.sequence.checked_sub(1).and_then(|place| usize::try_from(place).ok());
        let chain = self.chains.get(&end.chain);
        let found = place.zip(chain).and_then(|(place, chain)| chain.hashes.get(place));
        found.is_some() && found.copied() == bytes(&end.hash)
    }

    /// Notes that a key vouches for a record, and so for all before it: those of its chain, and those that the chain's
    /// opening names.
    fn vouch(&mut self, end: &End) {
        let mut rest = vec![end.clone()];
        while let Some(End { chain, sequence, .. }) = rest.pop() {
            let Some(chain) = self.chains.get_mut(&chain).filter(|chain| chain.vouched < sequence) else { continue };
            if chain.vouched == 0 {
                rest.extend(chain.opened_on.iter().cloned());
            }
            chain.vouched = sequence;
        }
    }

    /// The ends that the next opening must name, the newest record's first.
    fn open_ends(&self) -> Vec<End> {
        let newest = self.newest.iter();
        let others = self.loose.iter().filter(|chain| Some(*chain) != self.newest.as_ref());
        newest.chain(others).filter_map(|chain| self.chains.get(chain).map(|chain| End::from(&chain.head))).collect()
    }

    /// Ends the check, and reports what the trail contains.
    pub fn finish(self) -> Result<Report, VerificationFailure> {
        if let Some(end) = self.expected.iter().find(|end| !self.holds(end)) {
            return Err(VerificationFailure::Truncated(end.clone()));
        }
        let checkpoints = self.chains.values().map(|chain| chain.checkpoints.len()).sum();
        let has_keys = !self.keys.is_empty();
        let unvouched = has_keys.then(|| self.chains.values().map(Chain::unvouched).sum());
        let by_others = self.chains.iter().map(|(name, chain)| (name.clone(), chain.vouched_by_others()));
        let by_others = by_others.filter(|(_, count)| has_keys && *count > 0).collect();
        let newest = self.newest.as_ref().and_then(|chain| self.chains.get(chain));
        let head = newest.map(|chain| chain.head.hash.clone());
        let (known_breaks, breaks): (Vec<_>, Vec<_>) =
            self.breaks.into_iter().partition(|it| self.known_breaks.contains(&it.id()));
        let found: BTreeSet<_> = known_breaks.iter().map(ChainBreak::id).collect();
        let absent = self.known_breaks.difference(&found).next().cloned();
        let (records, chains) = (self.records, self.chains.len());
        let report = Report { records, chains, head, checkpoints, unvouched, by_others, known_breaks };
        if !breaks.is_empty() {
            return Err(VerificationFailure::BrokenChains { breaks, report: Box::new(report) });
        }
        if let Some(absent) = absent {
            return Err(VerificationFailure::NoSuchBreak(absent));
        }
        if has_keys && checkpoints == 0 { Err(VerificationFailure::Unsigned) } else { Ok(report) }
    }
}

fn is_checkpoint(record: &Map<String, Value>) -> bool {
    record.get("event").and_then(Value::as_str) == Some("signed-checkpoint")
}

fn signature(record: &Map<String, Value>) -> &str {
    record.get("signature").and_then(Value::as_str).unwrap_or_default()
}

/// Parses a list of ends.
fn ends_in(value: Option<&Value>) -> Option<Vec<End>> {
    value?.as_array()?.iter().map(end_in).collect()
}

fn end_in(value: &Value) -> Option<End> {
    Some(End {
        chain: value.get("chain")?.as_str()?.to_owned(),
        sequence: value.get("sequence")?.as_u64()?,
        hash: value.get("hash")?.as_str()?.to_owned(),
    })
}

/// Decodes a hash of 64 hexadecimal digits.
fn bytes(hex: &str) -> Option<[u8; 32]> {
    HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).ok()?.try_into().ok()
}

/// A record's claims about what came before it.
struct ChainLink<'a> {
    head: &'a Head,
    record: &'a Map<String, Value>,
}

impl ChainLink<'_> {
    fn claims(&self, key: &str, expected: Option<&str>) -> bool {
        self.record.get(key).and_then(Value::as_str) == expected
    }

    /// Checks that the record is the next one of a chain that ends in `before`.
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

    /// Checks that the record opens a chain and names these ends, the newest record's first.
    fn opens(&self, ends: &[End]) -> Result<(), String> {
        if self.head.sequence != 1 || !self.claims("event", Some("started-up")) {
            return Err("the beginning of its chain is missing".to_owned());
        }
        let newest = ends.first();
        let hash = newest.map_or(GENESIS_HASH, |end| &end.hash);
        let sequence = self.record.get("previous_sequence").and_then(Value::as_u64);
        let tied = self.claims("previous_hash", Some(hash))
            && self.claims("previous_chain", newest.map(|end| end.chain.as_str()))
            && sequence == Some(newest.map_or(0, |end| end.sequence));
        if !tied {
            return Err("it is not tied to the end of the chain before it".to_owned());
        }
        match self.other_ends() {
            Some(named) if named.iter().eq(ends.iter().skip(1)) => Ok(()),
            Some(_) | None => Err("the other chains do not end where it says that they do".to_owned()),
        }
    }

    /// The end of another chain of its run that a record which opens a chain expected, if it names one.
    fn expected_end(&self) -> Result<Option<End>, String> {
        let Some(end) = self.record.get("expected_end").filter(|_| self.head.sequence == 1) else { return Ok(None) };
        end_in(end).map(Some).ok_or_else(|| "the end that its run expected cannot be read".to_owned())
    }

    /// The other ends that the record names, sorted by chain; none if they cannot be parsed.
    fn other_ends(&self) -> Option<Vec<End>> {
        let Some(named) = self.record.get("other_ends") else { return Some(Vec::new()) };
        let mut named = ends_in(Some(named))?;
        named.sort();
        Some(named)
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::*;
    use crate::audit::{Actor, Entry, Event, Signer, checkpoint::tests::PRIVATE};

    fn entry(number: u64) -> Entry {
        let event = Event::Denied {
            actor: Some(Actor {
                caller: Some("portal".to_owned()),
                issuer: "i".to_owned(),
                subject: "s".to_owned(),
                token_id: None,
            }),
            action: "add".to_owned(),
            configuration: None,
            change: None,
            ticket: Some(format!("RITM{number} \"quoted\" \u{e9}")),
            reason: "no policy permits it".to_owned(),
            repeated: None,
        };
        Entry { at: Timestamp::UNIX_EPOCH, trace_id: None, event }
    }

    /// A trail of several runs of several records each.
    fn trail(runs: &[u64]) -> Vec<String> {
        let mut records = Vec::new();
        let mut ends: Vec<Head> = Vec::new();
        for (run, length) in runs.iter().enumerate() {
            let (mut head, opening) = Head::open(format!("run-{run}"), &ends, "1");
            records.push(head.append(&Entry { event: opening, ..entry(0) }).text);
            records.extend((0..*length).map(|number| head.append(&entry(number)).text));
            ends = vec![head];
        }
        records
    }

    /// What concurrent replicas do.
    #[derive(Clone, Debug)]
    enum Beside {
        Start,
        /// One of the started replicas writes a record.
        Write(prop::sample::Index),
    }

    fn beside() -> impl Strategy<Value = Vec<Beside>> {
        let step = prop_oneof![
            1 => Just(Beside::Start),
            4 => any::<prop::sample::Index>().prop_map(Beside::Write),
        ];
        prop::collection::vec(step, 0..30)
    }

    /// A trail of concurrent replicas: the chain and text of each record, and whether it opens a chain.
    fn interleaved(steps: &[Beside]) -> Vec<(usize, String, bool)> {
        let mut records: Vec<(usize, String, bool)> = Vec::new();
        let mut heads: Vec<Head> = Vec::new();
        // As in a store: up to where an opening has named each chain.
        let mut named: Vec<u64> = Vec::new();
        for (number, step) in std::iter::once(&Beside::Start).chain(steps).enumerate() {
            if let Beside::Write(which) = step {
                let chain = which.index(heads.len());
                let text = heads[chain].append(&entry(u64::try_from(number).unwrap())).text;
                records.push((chain, text, false));
                continue;
            }
            let mut ends: Vec<usize> = (0..heads.len()).filter(|it| heads[*it].sequence > named[*it]).collect();
            ends.sort_by_key(|it| std::cmp::Reverse(records.iter().rposition(|record| record.0 == *it)));
            for end in &ends {
                named[*end] = heads[*end].sequence;
            }
            let ends: Vec<_> = ends.into_iter().map(|it| heads[it].clone()).collect();
            let (mut head, opening) = Head::open(format!("run-{}", heads.len()), &ends, "1");
            records.push((heads.len(), head.append(&Entry { event: opening, ..entry(0) }).text, true));
            heads.push(head);
            named.push(0);
        }
        records
    }

    fn texts(records: &[(usize, String, bool)]) -> Vec<String> {
        records.iter().map(|record| record.1.clone()).collect()
    }

    fn verify(records: &[String]) -> Result<Report, BrokenRecord> {
        let mut verifier = Verifier::default();
        records.iter().try_for_each(|record| verifier.feed(record))?;
        Ok(verifier.finish().unwrap())
    }

    #[test]
    fn a_checkpoint_that_is_repeated_in_another_chain_vouches_for_nothing_there() {
        let signer = Signer::from_pem(PRIVATE).unwrap();
        let (mut first, opening) = Head::open("first".to_owned(), &[], "1");
        let mut records = vec![first.append(&Entry { event: opening, ..entry(0) }).text];
        let (mut second, opening) = Head::open("second".to_owned(), &[first.clone()], "1");
        records.push(second.append(&Entry { event: opening, ..entry(0) }).text);
        records.push(first.append(&entry(1)).text);
        let checkpoint = signer.checkpoint(&[first.clone(), second.clone()], entry(0).at);
        records.push(second.append(&Entry { event: checkpoint.clone(), ..entry(0) }).text);
        records.push(first.append(&Entry { event: checkpoint, ..entry(0) }).text);
        let mut verifier = Verifier::with_keys(vec![signer.public().clone()]);
        records.iter().try_for_each(|record| verifier.feed(record)).unwrap();
        let report = verifier.finish().unwrap();
        assert_eq!((report.checkpoints, report.unvouched), (1, Some(1)), "{report}");
        assert_eq!(report.by_others, [("first".to_owned(), 2)], "{report}");
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
        fn replicas_beside_each_other_leave_a_trail_that_verifies(steps in beside()) {
            let records = interleaved(&steps);
            let report = verify(&texts(&records)).unwrap();
            prop_assert_eq!(report.records, u64::try_from(records.len()).unwrap());
            prop_assert_eq!(report.chains, records.iter().filter(|record| record.2).count());
        }

        #[test]
        fn of_replicas_any_record_dropped_before_the_newest_opening_is_found(steps in beside(), at: prop::sample::Index) {
            let mut records = interleaved(&steps);
            let newest_opening = records.iter().rposition(|record| record.2).unwrap();
            prop_assume!(newest_opening > 0);
            records.remove(at.index(newest_opening));
            prop_assert!(verify(&texts(&records)).is_err());
        }

        #[test]
        fn of_replicas_any_record_dropped_before_the_newest_of_its_chain_is_found(steps in beside(), at: prop::sample::Index) {
            let mut records = interleaved(&steps);
            let at = at.index(records.len());
            prop_assume!(records[at.saturating_add(1)..].iter().any(|record| record.0 == records[at].0));
            records.remove(at);
            prop_assert!(verify(&texts(&records)).is_err());
        }

        #[test]
        fn of_replicas_any_end_cut_off_before_the_newest_opening_is_found(steps in beside(), at: prop::sample::Index) {
            let mut records = interleaved(&steps);
            let newest_opening = records.iter().rposition(|record| record.2).unwrap();
            prop_assume!(newest_opening > 0);
            let (from, chain) = (at.index(newest_opening), records[at.index(newest_opening)].0);
            let mut place = 0_usize;
            records.retain(|record| {
                place = place.saturating_add(1);
                record.0 != chain || place <= from
            });
            prop_assert!(verify(&texts(&records)).is_err());
        }

        #[test]
        fn of_replicas_a_record_moved_within_its_chain_or_over_an_opening_is_found(steps in beside(), from: prop::sample::Index, to: prop::sample::Index) {
            let mut records = interleaved(&steps);
            let (from, to) = (from.index(records.len()), to.index(records.len()));
            let (low, high) = (from.min(to), from.max(to));
            let crossed = &records[low..=high];
            let harmless = crossed.iter().enumerate().all(|(place, record)| {
                place.saturating_add(low) == from || (record.0 != records[from].0 && !record.2 && !records[from].2)
            });
            prop_assume!(!harmless);
            let moved = records.remove(from);
            records.insert(to, moved);
            prop_assert!(verify(&texts(&records)).is_err());
        }

        #[test]
        fn of_replicas_any_record_doubled_or_altered_is_found(steps in beside(), at: prop::sample::Index, to: prop::sample::Index) {
            let mut records = texts(&interleaved(&steps));
            let at = at.index(records.len());
            let mut doubled = records.clone();
            doubled.insert(to.index(records.len()), records[at].clone());
            prop_assert!(verify(&doubled).is_err());
            records[at] = records[at].replace("1970-01-01", "1970-01-02");
            prop_assert!(verify(&records).is_err());
        }

        #[test]
        fn no_text_makes_the_verifier_panic(text in ".{0,200}") {
            prop_assert!(Verifier::default().feed(&text).is_err());
        }
    }
}
