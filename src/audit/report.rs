//! What [`super::Verifier`] reports: what an intact trail contains, or what is wrong.
//!
//! Guarantees: the words claim no more than was checked.
//!
//! It deliberately checks nothing itself. `postern audit verify` prints these texts.

use std::{cmp::Ordering, fmt};

use super::chain::End;

/// The first bad record, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("record {position}{}: {why}", place.as_deref().unwrap_or_default())]
pub struct Broken {
    /// Its place among the records fed, from one.
    pub position: u64,
    /// The place that it claims, if it can be parsed that far.
    pub place: Option<String>,
    /// What is wrong with it.
    pub why: String,
}

/// The records are consistent, but this is not the trail that was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lacking {
    /// A kept checkpoint names a record that is not there.
    #[error(
        "record {} of chain {}, which a kept checkpoint names, is not there: the trail was cut off or written anew",
        .0.sequence, .0.chain
    )]
    Cut(End),
    /// Runs found other ends of their chains in the store than they had written.
    #[error("{}\napart from that: {report}", listed(breaks))]
    Torn {
        /// Where, in the order of the trail.
        breaks: Vec<Break>,
        /// What the trail contains; nothing else is wrong with it.
        report: Box<Report>,
    },
    /// Keys were given, but the trail has no checkpoint.
    #[error("there is no checkpoint in it, so no key vouches for any of its records")]
    Unsigned,
}

/// A run found another end of its chain in the store than it had written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Break {
    /// The end that it had written.
    pub written: End,
    /// The last record that the trail has of that chain; 0 if it has none.
    pub found: u64,
}

impl fmt::Display for Break {
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

fn listed(breaks: &[Break]) -> String {
    breaks.iter().map(Break::to_string).collect::<Vec<_>>().join("\n")
}

/// What an intact trail contains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// How many records.
    pub records: u64,
    /// How many runs wrote them.
    pub chains: usize,
    /// The newest record's hash, to compare with a copy kept elsewhere.
    pub head: Option<String>,
    /// How many checkpoints are among them.
    pub checkpoints: usize,
    /// How many records, other than checkpoints, no checkpoint covers; none if no key was given to check signatures with.
    pub unvouched: Option<u64>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = self.head.as_deref().unwrap_or("none");
        write!(f, "{} records in {} chains, every hash fits; newest hash {head}", self.records, self.chains)?;
        match (self.unvouched, self.checkpoints) {
            (None, 0) => Ok(()),
            (None, count) => {
                write!(f, "\n{count} checkpoints, whose signatures were not checked for want of a public key")
            }
            (Some(0), count) => write!(f, "\n{count} checkpoints, every signature fits; they vouch for every record"),
            (Some(rest), count) => write!(
                f,
                "\n{count} checkpoints, every signature fits; the newest {rest} records are younger than any checkpoint, so \
                 that nothing but their hashes protects them"
            ),
        }
    }
}
