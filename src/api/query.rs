//! What the queries of lists have in common: all faults at once, limits, the next page.

use std::fmt::Display;

use url::form_urlencoded;

use super::change::is_forbidden_char;
use crate::gateway::request::Fault;

/// Entries per page by default.
pub(super) const LIMIT_DEFAULT: usize = 50;
/// Entries per page at most.
pub(super) const LIMIT_MAX: usize = 200;
/// Faults of a query that are reported at once.
pub(super) const FAULTS_MAX: usize = 20;

/// Passes every pair of a query to `take`; what it refuses becomes a fault at the key.
pub(super) fn read(query: &str, mut take: impl FnMut(&str, String) -> Result<(), String>) -> Result<(), Vec<Fault>> {
    let mut faults = Vec::new();
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        let outcome = take(&key, value.into_owned());
        let pointer = || format!("/{}", key.replace('~', "~0").replace('/', "~1"));
        faults.extend(outcome.err().map(|detail| Fault { pointer: pointer(), detail }));
        if faults.len() >= FAULTS_MAX {
            break;
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(faults) }
}

/// Stores a value that may occur once.
pub(super) fn once<T>(place: &mut Option<T>, value: T) -> Result<(), String> {
    if place.replace(value).is_some() { Err("occurs more than once".to_owned()) } else { Ok(()) }
}

/// Stores a text that may occur once. Control characters are in no record, and not every store accepts them.
pub(super) fn text(place: &mut Option<String>, value: String) -> Result<(), String> {
    if value.chars().any(is_forbidden_char) {
        Err("contains control characters".to_owned())
    } else {
        once(place, value)
    }
}

/// Stores a value that is parsed, and may occur once.
pub(super) fn parsed<T: std::str::FromStr<Err: Display>>(place: &mut Option<T>, value: &str) -> Result<(), String> {
    value.parse().map_err(|error: T::Err| error.to_string()).and_then(|value| once(place, value))
}

/// Stores how many entries a page is to have.
pub(super) fn limit(place: &mut Option<usize>, value: &str) -> Result<(), String> {
    let limit = value.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit));
    once(place, limit.ok_or_else(|| format!("must be a number from 1 to {LIMIT_MAX}"))?)
}

/// The same query for the next page, which begins after `after`.
pub(super) fn going_on(path: &str, query: &str, after: &impl Display) -> String {
    let kept = form_urlencoded::parse(query.as_bytes()).filter(|(key, _)| key != "after");
    let next = form_urlencoded::Serializer::new(String::new())
        .extend_pairs(kept)
        .append_pair("after", &after.to_string())
        .finish();
    format!("{path}?{next}")
}
