//! Reading the audit trail: the records that a caller may read, oldest first.
//!
//! Guarantees: each record is decided on, by the configuration that it names; one that names none is about the gateway,
//! which needs a permit of its own. A reader that continues from the end of a page gets every later record that it may
//! read, once, however many were written meanwhile. A cursor that is not a place in this trail is refused.
//!
//! It deliberately does not record reads, and reveals to nobody that there are records they may not read: a page ends with
//! the last record that its reader has seen, except where one call reaches its limit among thousands that it may not read.

use std::{collections::BTreeMap, fmt, str::FromStr, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;

use super::{
    Error, Gateway,
    operations::{SEARCH_ROUNDS, SEEN_AT_ONCE},
};
use crate::{
    audit::{Head, IndexFields},
    domain::{Caller, ConfigurationId, OperationId},
    policy::Action,
    store::{AuditQuery, StoredRecord},
};

/// How long deciding on records waits for Graph to describe their configurations, in total.
const LOOK_UP_MAX: Duration = Duration::from_secs(2);
/// How many digits of a record's hash a cursor repeats.
const HASH_DIGITS: usize = 16;

/// Which records a caller searches for: those that match everything given.
#[derive(Clone, Debug, Default)]
pub struct AuditSearch {
    /// With this ticket.
    pub ticket: Option<String>,
    /// Of this operation.
    pub operation: Option<OperationId>,
    /// Of the caller with this name.
    pub caller: Option<String>,
    /// At this time or later.
    pub from: Option<Timestamp>,
    /// Before this time.
    pub to: Option<Timestamp>,
    /// After this one.
    pub after: Option<Cursor>,
    /// At most this many.
    pub limit: usize,
}

/// A page of the trail, oldest first.
#[derive(Clone, Debug)]
pub struct Records {
    /// The texts of those that the caller may read.
    pub texts: Vec<String>,
    /// Where the page ends; none if it has no record and starts where the trail does.
    pub end: Option<Cursor>,
    /// Whether more records follow that the caller may read, or may follow beyond what one call examines.
    pub more: bool,
}

/// A place in the trail, as callers hold it: a position, and part of the hash of the record there, so that a cursor cannot
/// be made up, and is not valid for another trail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    position: i64,
    hash: String,
}

impl Cursor {
    fn of(record: &StoredRecord) -> Option<Self> {
        let hash = Head::after(&record.text)?.hash.chars().take(HASH_DIGITS).collect();
        Some(Self { position: record.position, hash })
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(format!("{}.{}", self.position, self.hash)))
    }
}

impl FromStr for Cursor {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let read = || {
            let plain = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
            let (position, hash) = plain.split_once('.')?;
            let cursor = Self { position: position.parse().ok()?, hash: hash.to_owned() };
            // Each cursor has exactly one text.
            (cursor.hash.len() == HASH_DIGITS && cursor.to_string() == text).then_some(cursor)
        };
        read().ok_or("is not a cursor: use the cursor of an earlier page")
    }
}

impl Gateway {
    /// Records that match a search and that the caller may read. A page can be short, even empty, with more to come: one
    /// call examines a limited number of records.
    pub async fn records(&self, caller: &Caller, search: AuditSearch) -> Result<Records, Error> {
        self.quotas.of(caller).search(Box::pin(self.records_found(caller, search))).await
    }

    async fn records_found(&self, caller: &Caller, search: AuditSearch) -> Result<Records, Error> {
        let AuditSearch { ticket, operation, caller: of_caller, from, to, after, limit: wanted } = search;
        let position = match &after {
            Some(cursor) => Some(self.position(cursor).await?),
            None => None,
        };
        let mut query =
            AuditQuery { ticket, operation, caller: of_caller, from, to, after: position, limit: SEEN_AT_ONCE };
        let (mut texts, mut seen, mut end) = (Vec::new(), after.clone(), after);
        let mut decided = BTreeMap::new();
        let deadline = self.clock.elapsed().saturating_add(LOOK_UP_MAX);
        for _ in 0..SEARCH_ROUNDS {
            let found = self.store.records(&query).await?;
            let last_page = found.len() < query.limit;
            for record in found {
                query.after = Some(record.position);
                seen = Cursor::of(&record).or(seen);
                let configuration = IndexFields::read(&record.text).and_then(|fields| fields.configuration);
                let readable = if let Some(readable) = decided.get(&configuration) {
                    *readable
                } else {
                    let readable = self.may_audit(caller, configuration.as_deref(), deadline).await?;
                    *decided.entry(configuration).or_insert(readable)
                };
                if !readable {
                    continue;
                }
                if texts.len() == wanted {
                    return Ok(Records { texts, end, more: true });
                }
                end.clone_from(&seen);
                texts.push(record.text);
            }
            if last_page {
                return Ok(Records { texts, end, more: false });
            }
        }
        Ok(Records { texts, end: seen, more: true })
    }

    /// The position that a cursor names, if the record there is the one that it was made from.
    async fn position(&self, cursor: &Cursor) -> Result<i64, Error> {
        let query = AuditQuery { after: cursor.position.checked_sub(1), limit: 1, ..AuditQuery::default() };
        let found = self.store.records(&query).await?;
        let same = found.first().and_then(Cursor::of).is_some_and(|found| found == *cursor);
        if same { Ok(cursor.position) } else { Err(Error::UnknownCursor) }
    }

    /// Whether policy lets the caller read records about this configuration, or about the gateway.
    async fn may_audit(&self, caller: &Caller, configuration: Option<&str>, deadline: Duration) -> Result<bool, Error> {
        let Some(id) = configuration.and_then(|id| id.parse::<ConfigurationId>().ok()) else {
            return Ok(self.policies.decide_audit_of_gateway(caller).is_ok());
        };
        // A deleted configuration is judged by its id and its tags. So is one that Graph cannot describe now, if that is
        // enough: if not, this fails, since a reader that continued from here would never see what it may read.
        let left = deadline.saturating_sub(self.clock.elapsed());
        let (configuration, missing) = self.known_facts(&id, None, left).await;
        self.check_decidable(caller, Action::Audit.name(), &missing)?;
        Ok(self.decide(caller, Action::Audit, &configuration).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_as_it_was_written_and_nothing_else_reads_as_one() {
        let cursor = Cursor { position: 7, hash: "0123456789abcdef".to_owned() };
        let text = cursor.to_string();
        assert_eq!(text.parse(), Ok(cursor));
        let cut = text.split_at(1).1;
        for wrong in ["", "7", "x", cut, &format!("{text}="), &URL_SAFE_NO_PAD.encode("7.0123")] {
            assert!(wrong.parse::<Cursor>().is_err(), "{wrong}");
        }
        let padded = URL_SAFE_NO_PAD.encode("+7.0123456789abcdef");
        assert!(padded.parse::<Cursor>().is_err());
    }
}
