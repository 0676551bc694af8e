//! What the queries of listings have in common: all faults at once, limits, going on after a page.

use std::fmt::Display;

use url::form_urlencoded;

use super::change::is_unseemly;
use crate::gateway::request::Fault;

/// Entries on one page unless asked otherwise.
pub(super) const LIMIT_DEFAULT: usize = 50;
/// Entries on one page at most.
pub(super) const LIMIT_MAX: usize = 200;
/// Faults of a query that are told at once.
pub(super) const FAULTS_MAX: usize = 20;

/// Hands over every pair of a query; what is refused becomes a fault at the key.
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

/// Takes a value that may stand in the query once.
pub(super) fn once<T>(place: &mut Option<T>, value: T) -> Result<(), String> {
    if place.replace(value).is_some() { Err("stands in the query twice".to_owned()) } else { Ok(()) }
}

/// Takes a text that may stand in the query once. With control characters it is in no record, and not every store takes it.
pub(super) fn text(place: &mut Option<String>, value: String) -> Result<(), String> {
    if value.chars().any(is_unseemly) { Err("holds control characters".to_owned()) } else { once(place, value) }
}

/// Takes a value that says itself what it is like.
pub(super) fn parsed<T: std::str::FromStr<Err: Display>>(place: &mut Option<T>, value: &str) -> Result<(), String> {
    value.parse().map_err(|error: T::Err| error.to_string()).and_then(|value| once(place, value))
}

/// Takes how many entries a page shall have.
pub(super) fn limit(place: &mut Option<usize>, value: &str) -> Result<(), String> {
    let limit = value.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit));
    once(place, limit.ok_or_else(|| format!("is a number from 1 to {LIMIT_MAX}"))?)
}

/// The same query, going on after a page's end.
pub(super) fn going_on(path: &str, query: &str, after: &impl Display) -> String {
    let kept = form_urlencoded::parse(query.as_bytes()).filter(|(key, _)| key != "after");
    let next = form_urlencoded::Serializer::new(String::new())
        .extend_pairs(kept)
        .append_pair("after", &after.to_string())
        .finish();
    format!("{path}?{next}")
}
