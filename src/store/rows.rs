//! Column values to domain types and back, for every kind of store.
//!
//! It deliberately knows no database: each kind of store reads its own rows and passes on their values.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use serde::{Serialize, de::DeserializeOwned};

use super::{Error, ReplacedSet, UnsettledWrites, callbacks::Status};
use crate::domain::{
    CallbackState, Digest, Operation, State,
    callback::Progress,
    operation::{Submission, UntilState},
};

/// The columns that [`operation`] needs.
pub(super) const OPERATION: &str = "id, submission, fate";

/// An operation, from the values of [`OPERATION`].
pub(super) fn operation(id: &str, submission: &str, fate: &str) -> Result<Operation, Error> {
    Ok(Operation {
        id: id.parse().map_err(|error| unreadable("operations.id", &error))?,
        submission: from_json("operations.submission", submission)?,
        state: from_json("operations.fate", fate)?,
    })
}

/// What was announced on a lane, from the values of its two columns.
pub(super) fn announced(intent: Option<&str>, doubts: Option<&str>) -> Result<UnsettledWrites, Error> {
    Ok(UnsettledWrites {
        intent: intent.map(|json| from_json("lanes.intent", json)).transpose()?,
        doubts: doubts.map_or_else(|| Ok(BTreeMap::new()), |json| from_json("lanes.doubts", json))?,
    })
}

/// The values of the two columns for what was announced on a lane.
#[derive(Debug, Default)]
pub(super) struct Announcement {
    pub(super) intent: Option<String>,
    pub(super) doubts: Option<String>,
}

impl Announcement {
    pub(super) fn of(UnsettledWrites { intent, doubts }: &UnsettledWrites) -> Result<Self, Error> {
        let intent = intent.as_ref().map(|intent| to_json("lanes.intent", intent)).transpose()?;
        let doubts = (!doubts.is_empty()).then(|| to_json("lanes.doubts", doubts)).transpose()?;
        Ok(Self { intent, doubts })
    }
}

/// Milliseconds for each set that a lane has replaced lately, as the store keeps them; null if there are none.
pub(super) fn replaced_sets(sets: &[ReplacedSet]) -> Result<Option<String>, Error> {
    let stored = |it: &ReplacedSet| (it.set.as_str().to_owned(), u64::try_from(it.ttl.as_millis()).unwrap_or(u64::MAX));
    let stored: BTreeMap<_, _> = sets.iter().map(stored).collect();
    (!stored.is_empty()).then(|| to_json("lanes.replaced_sets", &stored)).transpose()
}

/// The same, from what was stored these microseconds ago.
pub(super) fn replaced_sets_since(json: Option<&str>, age: Option<i64>) -> Result<Vec<ReplacedSet>, Error> {
    let stored: BTreeMap<String, u64> =
        json.map_or(Ok(BTreeMap::new()), |json| from_json("lanes.replaced_sets", json))?;
    let age = Duration::from_micros(age.and_then(|age| u64::try_from(age).ok()).unwrap_or(0));
    let still = |(set, ttl): (String, u64)| {
        let ttl = Duration::from_millis(ttl).checked_sub(age)?;
        Some(ReplacedSet { set: Digest::from_stored(&set), ttl })
    };
    Ok(stored.into_iter().filter_map(still).collect())
}

/// The assignments from policy sets that were seen.
pub(super) fn seen(json: &str) -> Result<Vec<String>, Error> {
    from_json("policy_sets.seen", json)
}

/// A JSON column's value.
pub(super) fn from_json<T: DeserializeOwned>(what: &str, json: &str) -> Result<T, Error> {
    serde_json::from_str(json).map_err(|error| unreadable(what, &error))
}

/// A JSON column's text.
pub(super) fn to_json<T: Serialize>(what: &str, value: &T) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|error| unreadable(what, &error))
}

/// A time as the store keeps it: in microseconds since 1970.
pub(super) fn micros(moment: Timestamp) -> i64 {
    moment.as_microsecond()
}

/// When an operation ended, as the store keeps it.
pub(super) fn ended_at(state: &State) -> Option<i64> {
    state.ended_at().map(micros)
}

/// When an operation's approval expires, as the store keeps it.
pub(super) fn approval_until(submission: &Submission) -> Option<i64> {
    submission.approval.as_ref().map(|approval| micros(approval.expires_at))
}

/// A time from the store's microseconds.
pub(super) fn moment(micros: i64) -> Result<Timestamp, Error> {
    Timestamp::from_microsecond(micros).map_err(|error| unreadable("a time", &error))
}

/// When an operation's `until` is due, as the store keeps it while that is ahead.
pub(super) fn until_at(submission: &Submission) -> Option<i64> {
    submission.until.as_ref().map(|until| micros(until.at))
}

/// The operation that a reversal undoes, as the store keeps it.
pub(super) fn reverts(submission: &Submission) -> Option<String> {
    submission.change.reversal().map(|reversal| reversal.operation().to_string())
}

/// The state of an operation's `until`, from its columns.
pub(super) fn until_state(at: Option<i64>, state: Option<&str>) -> Result<Option<UntilState>, Error> {
    match (at, state) {
        (Some(_), _) => Ok(Some(UntilState::Ahead)),
        (None, state) => state.map(|json| from_json("operations.until_state", json)).transpose(),
    }
}

/// The destination of an operation's callback, as the store keeps it.
pub(super) fn destination(submission: &Submission) -> Option<&str> {
    submission.callback.as_ref().map(|callback| callback.destination.as_str())
}

/// The columns that [`callback`] needs, besides the due time.
pub(super) const CALLBACK: &str = "callback_state, callback_attempts, callback_under_way, callback_progress";

/// The results of the attempts to deliver a callback.
pub(super) fn progress(json: Option<&str>) -> Result<Progress, Error> {
    json.map_or_else(|| Ok(Progress::default()), |json| from_json("operations.callback_progress", json))
}

/// The state of a callback, from its columns; `due` is none while an attempt is under way.
pub(super) fn callback(
    state: Option<&str>,
    attempts: i64,
    progress: Progress,
    due: Option<Timestamp>,
) -> Result<Option<Status>, Error> {
    let Some(state) = state else { return Ok(None) };
    let unknown = || unreadable("operations.callback_state", &state);
    let state = CallbackState::ALL.into_iter().find(|it| it.name() == state).ok_or_else(unknown)?;
    // A first attempt is due when its operation ends, so there is no time to report.
    let next_attempt_at = due.filter(|_| state == CallbackState::Pending && progress.failures > 0);
    Ok(Some(Status { state, attempts, progress, next_attempt_at }))
}

/// A number as databases take it, capped at the largest that they can.
pub(super) fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn unreadable(what: &str, error: &dyn std::fmt::Display) -> Error {
    Error::Unreadable(format!("{what}: {error}"))
}
