//! The audit records of one transaction: linked into the run's chain, not yet written.
//!
//! It deliberately contains no SQL: each kind of store writes the records its own way, and adopts the new end of the chain
//! only when they are committed.

use crate::audit::{Entry, Head, Record};

/// Records to write, and where the chain ends after them.
#[derive(Debug)]
pub(super) struct AuditBatch {
    pub(super) head: Head,
    pub(super) records: Vec<Record>,
}

impl AuditBatch {
    pub(super) fn new(head: Head) -> Self {
        Self { head, records: Vec::new() }
    }

    pub(super) fn add(&mut self, entry: &Entry) {
        self.records.push(self.head.append(entry));
    }

    pub(super) fn add_all(&mut self, entries: &[Entry]) {
        for entry in entries {
            self.add(entry);
        }
    }
}

/// Where a chain continues, from the text of its newest record.
pub(super) fn head_after(text: &str) -> Result<Head, super::Error> {
    Head::after(text)
        .ok_or_else(|| super::Error::Unreadable("the newest audit record: run `postern audit verify`".to_owned()))
}
