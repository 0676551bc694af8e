//! What [`super::Verifier`] reports: what an intact trail contains, or what is wrong.
//!
//! Guarantees: the words claim no more than was checked.
//!
//! It deliberately checks nothing itself. `postern audit verify` prints these texts.

use std::{cmp::Ordering, fmt};

use super::chain::{End, RecordId};

/// The first bad record, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("record {position}{}: {why}", place.as_deref().unwrap_or_default())]
pub struct BrokenRecord {
    /// Its place among the records fed, from one.
    pub position: u64,
    /// The place that it claims, if it can be parsed that far.
    pub place: Option<String>,
    /// What is wrong with it.
    pub why: String,
}

/// The records are consistent, but this is not the trail that was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerificationFailure {
    /// A kept checkpoint names a record that is not there.
    #[error(
        "record {} of chain {}, which a kept checkpoint names, is not there: the trail was cut off or written anew",
        .0.sequence, .0.chain
    )]
    Truncated(End),
    /// Runs found other ends of their chains in the store than they had written.
    #[error("{}\napart from that: {report}", listed(breaks))]
    BrokenChains {
        /// Where, in the order of the trail.
        breaks: Vec<ChainBreak>,
        /// What the trail contains; nothing else is wrong with it.
        report: Box<Report>,
    },
    /// A break is said to be known, and the trail has none like it.
    #[error("no run reports that it had ended its chain with record {0}, which was said to be a known break")]
    NoSuchBreak(RecordId),
    /// Keys were given, but the trail has no checkpoint.
    #[error(
        "there is no checkpoint in it, so no key vouches for any of its records; if the key is new, verify again once a \
         gateway has run with it"
    )]
    Unsigned,
}

/// A run found another end of its chain in the store than it had written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChainBreak {
    /// The end that it had written.
    pub written: End,
    /// The last record that the trail has of that chain; 0 if it has none.
    pub found: u64,
}

impl ChainBreak {
    /// The last record that the run had written; it names the break.
    pub fn id(&self) -> RecordId {
        let End { chain, sequence, .. } = &self.written;
        RecordId { chain: chain.clone(), sequence: *sequence }
    }
}

impl fmt::Display for ChainBreak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { written: End { chain, sequence, .. }, found } = self;
        write!(f, "the run that wrote chain {chain} had ended it with record {sequence}, ")?;
        match found.cmp(sequence) {
            Ordering::Less => write!(f, "but the last one there is record {found}: the store lost those after it"),
            Ordering::Equal => write!(f, "which was replaced by another"),
            Ordering::Greater => write!(f, "but others follow up to record {found}, which it did not write"),
        }
    }
}

fn listed(breaks: &[ChainBreak]) -> String {
    breaks.iter().map(ChainBreak::to_string).collect::<Vec<_>>().join("\n")
}

/// What an intact trail contains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// How many records.
    pub records: u64,
    /// How many chains they form: one for each run, or more if its store lost the end of one.
    pub chains: usize,
    /// The newest record's hash, to compare with a copy kept elsewhere.
    pub head: Option<String>,
    /// How many checkpoints are among them.
    pub checkpoints: usize,
    /// How many records, other than checkpoints, no checkpoint covers; none if no key was given to check signatures with.
    pub unvouched: Option<u64>,
    /// The chains with records that only checkpoints of other runs cover, and how many; none if no key was given.
    pub by_others: Vec<(String, u64)>,
    /// Breaks that were said to be known, in the order of the trail.
    pub known_breaks: Vec<ChainBreak>,
}

/// How many chains the report names at most.
const NAMED: usize = 10;

/// A number of things, in words.
pub fn counted(count: impl TryInto<u64>, one: &str, several: &str) -> String {
    let count = count.try_into().unwrap_or(u64::MAX);
    format!("{count} {}", if count == 1 { one } else { several })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = self.head.as_deref().unwrap_or("none");
        let (records, chains) = (records(self.records), counted(self.chains, "chain", "chains"));
        write!(f, "{records} in {chains}, every hash fits; newest hash {head}")?;
        let checkpoints = counted(self.checkpoints, "checkpoint", "checkpoints");
        match self.unvouched {
            None if self.checkpoints == 0 => Ok(()),
            None => write!(f, "\n{checkpoints}, whose signatures were not checked for want of a public key"),
            Some(0) if self.by_others.is_empty() => {
                write!(f, "\n{checkpoints}, every signature fits; they vouch for every record")
            }
            Some(0) => write!(f, "\n{checkpoints}, every signature fits"),
            Some(1) => write!(
                f,
                "\n{checkpoints}, every signature fits; the newest record is younger than any checkpoint, so that nothing but \
                 its hash protects it"
            ),
            Some(rest) => write!(
                f,
                "\n{checkpoints}, every signature fits; the newest {rest} records are younger than any checkpoint, so that \
                 nothing but their hashes protects them"
            ),
        }?;
        self.write_by_others(f)?;
        self.known_breaks.iter().try_for_each(|known| write!(f, "\nknown: {known}"))
    }
}

impl Report {
    fn write_by_others(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let vouched = |count| if count == 1 { "was vouched for" } else { "were vouched for" };
        for (chain, count) in self.by_others.iter().take(NAMED) {
            write!(f, "\n{} of chain {chain} {} only by another run", records(*count), vouched(*count))?;
        }
        let rest = self.by_others.get(NAMED..).unwrap_or_default();
        if !rest.is_empty() {
            let count = rest.iter().map(|(_, count)| count).sum();
            let chains = counted(rest.len(), "other chain", "other chains");
            write!(f, "\nand so {} {} of {chains}", if count == 1 { "was" } else { "were" }, records(count))?;
        }
        if self.by_others.is_empty() {
            return Ok(());
        }
        write!(
            f,
            "\nwhether their own run wrote them, no key shows: an orderly stop leaves none of these, a crash a few"
        )
    }
}

fn records(count: u64) -> String {
    counted(count, "record", "records")
}
