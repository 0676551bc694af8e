//! Reads that lag behind our own writes.
//!
//! For some seconds after a write, Graph may still show the set from before it. Whoever merges into that set undoes the write,
//! although its changes have been reported as done. Such a read can be recognised: it shows exactly a set that was replaced a
//! moment ago. These are stored with the lane, so every replica knows them, also after a restart.
//!
//! It deliberately does not tell a read that lags from an administrator who restores exactly such a set: that is believed a few
//! seconds later.

use std::time::Duration;

use jiff::Timestamp;

use crate::{domain::Digest, store::ReplacedSet};

/// For how long after a write the set from before it is not believed.
const LAG_MAX: Duration = Duration::from_secs(10);

/// Notes that a write has replaced this set, and drops what is too old to matter.
pub(super) fn note(replaced: &mut Vec<ReplacedSet>, set: &Digest, now: Timestamp) {
    replaced.retain(|it| is_recent(it, now));
    replaced.push(ReplacedSet { set: set.clone(), at: now });
}

/// Whether this set was replaced a moment ago.
pub(super) fn includes(replaced: &[ReplacedSet], found: &Digest, now: Timestamp) -> bool {
    replaced.iter().any(|it| it.set == *found && is_recent(it, now))
}

/// The clock of the replica that replaced it may be a little ahead of ours.
fn is_recent(replaced: &ReplacedSet, now: Timestamp) -> bool {
    now.duration_since(replaced.at).unsigned_abs() < LAG_MAX
}
