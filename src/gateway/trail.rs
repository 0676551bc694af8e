//! Reading the audit trail: the records that a caller may read, oldest first.
//!
//! Guarantees: each record is decided on, by the configuration that it names; one that names none is about the gateway,
//! which needs a permit of its own. Whoever goes on from a page's end reads every record after it that it may read, once,
//! however many were written meanwhile. What is no place of this trail is refused as one.
//!
//! It deliberately records no reading, and tells nobody that there are records that it may not read: a page ends with the last
//! record that its reader has seen. Only where one call's work ends among thousands that it may not read does the page end there.

use std::{collections::BTreeMap, fmt, str::FromStr, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;

use super::{
    Error, Gateway,
    reading::{SEARCH_ROUNDS, SEEN_AT_ONCE},
};
use crate::{
    audit::{Head, Marks},
    domain::{Caller, ConfigurationId, OperationId},
    policy::Action,
    store::{AuditQuery, Filed},
};

/// How long deciding on records waits for Graph to say what their configurations are like, all together.
const LOOK_UP_MAX: Duration = Duration::from_secs(2);
/// How much of a record's hash a cursor repeats.
const HASH_DIGITS: usize = 16;

/// Which records a caller looks for: those that fit everything given.
#[derive(Clone, Debug, Default)]
pub struct AuditSearch {
    /// Of this ticket.
    pub ticket: Option<String>,
    /// Of this operation.
    pub operation: Option<OperationId>,
    /// Of the caller of this name.
    pub caller: Option<String>,
    /// Of this time or later.
    pub from: Option<Timestamp>,
    /// Of before this time.
    pub to: Option<Timestamp>,
    /// After this one.
    pub after: Option<Cursor>,
    /// At most so many.
    pub limit: usize,
}

/// A page of the trail, oldest first.
#[derive(Clone, Debug)]
pub struct Records {
    /// The texts of those that the caller may read.
    pub texts: Vec<String>,
    /// Where the page ends; none if it has no record and begins with the trail.
    pub end: Option<Cursor>,
    /// Whether there is more after it at present that the caller may read, as far as one call looks.
    pub more: bool,
}

/// A place in the trail, as callers hold it: a position, and a part of the hash of the record there, so that nobody makes
/// one up and none outlives its trail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    position: i64,
    hash: String,
}

impl Cursor {
    fn of(filed: &Filed) -> Option<Self> {
        let hash = Head::after(&filed.text)?.hash.chars().take(HASH_DIGITS).collect();
        Some(Self { position: filed.position, hash })
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
            // One text for one cursor.
            (cursor.hash.len() == HASH_DIGITS && cursor.to_string() == text).then_some(cursor)
        };
        read().ok_or("is not the end of a page")
    }
}

impl Gateway {
    /// Records that fit a search and that the caller may read. A page can be short, even empty, with more to come: one call
    /// looks at so many records and no more.
    pub async fn records(&self, caller: &Caller, search: AuditSearch) -> Result<Records, Error> {
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
            for filed in found {
                query.after = Some(filed.position);
                seen = Cursor::of(&filed).or(seen);
                let configuration = Marks::read(&filed.text).and_then(|marks| marks.configuration);
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
                texts.push(filed.text);
            }
            if last_page {
                return Ok(Records { texts, end, more: false });
            }
        }
        Ok(Records { texts, end: seen, more: true })
    }

    /// The position that a cursor names, if the record there is the one it was made of.
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
        // One that is gone is judged by its id and its tags. One that Graph cannot tell of now, too, if that is enough: else
        // a reader who goes on from here would never see what it may.
        let left = deadline.saturating_sub(self.clock.elapsed());
        let (configuration, missing) = self.as_known(&id, None, left).await;
        self.decidable(caller, Action::Audit, &missing)?;
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
