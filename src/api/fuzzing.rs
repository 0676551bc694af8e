//! What must hold for any body, any query and any event.

use std::sync::LazyLock;

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;
use url::form_urlencoded;

use super::{audit, change, configurations, event, json, operations, query, webhooks};
use crate::{
    canonical, config,
    gateway::request::{ChangeRequest, Fault},
    webhooks::{ProofScope, Source, Webhooks},
};

/// A source whose rules use every kind of expression.
static SOURCES: LazyLock<Option<Webhooks>> = LazyLock::new(|| {
    let config = config::fuzzing::read(include_str!("../../fuzz/sources.toml")).ok()?;
    Some(Webhooks::new(config.webhooks, &config.catalogue))
});

fn source() -> Option<&'static Source> {
    let source = SOURCES.as_ref().and_then(|sources| sources.source("fuzzing"));
    assert!(source.is_some(), "the settings of the source cannot be read");
    source
}

/// What is parsed as JSON is what any JSON parser reads, and has one canonical text; a change that is read contains no text
/// that is longer than allowed; for a body that is no change at least one fault is reported, each at a place in the body.
pub(crate) fn bodies(input: &[u8]) {
    let Ok(value) = json::parse(input) else { return };
    assert_eq!(serde_json::from_slice::<Value>(input).ok().as_ref(), Some(&value));
    let text = canonical::text(&value);
    let again = json::parse(text.as_bytes()).ok();
    assert_eq!(again.as_ref(), Some(&value), "its canonical text is another value");
    assert_eq!(again.as_ref().map(canonical::text), Some(text));
    match change::read(&value) {
        Ok(request) => is_seemly(&request),
        Err(faults) => are_told(&value, &faults),
    }
    for faults in [change::read_revert(&value).err(), change::read_comment(&value).err()].into_iter().flatten() {
        are_told(&value, &faults);
    }
}

fn is_seemly(request: &ChangeRequest) {
    let texts = [Some(&request.configuration), request.ticket.as_ref(), request.requested_for.as_ref()];
    for text in texts.into_iter().flatten() {
        assert!(!text.trim().is_empty() && text.chars().count() <= 256 && !text.contains(char::is_control));
    }
    assert!(request.comment.as_ref().is_none_or(|comment| comment.chars().count() <= 1_000));
}

fn are_told(body: &Value, faults: &[Fault]) {
    assert!(!faults.is_empty() && faults.len() <= 100);
    for Fault { pointer, .. } in faults {
        // A missing field is reported where it would be.
        let above = pointer.rsplit_once('/').map_or("", |(above, _)| above);
        assert!(body.pointer(above).is_some(), "{pointer} is no place in {body}");
    }
}

/// A query is read, or at least one fault is reported; and the query for the next page differs from it in `after` alone.
pub(crate) fn queries(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    for faults in [operations::search(text).err(), audit::search(text).err(), configurations::search(text).err()]
        .into_iter()
        .flatten()
    {
        assert!(!faults.is_empty() && faults.len() <= query::FAULTS_MAX);
    }
    let pairs = |query: &str| form_urlencoded::parse(query.as_bytes()).into_owned().collect::<Vec<_>>();
    let next = query::going_on("/v1/audit", text, &"a b&c");
    let next = next.strip_prefix("/v1/audit?").unwrap_or_default();
    let mut expected = pairs(text);
    expected.retain(|(key, _)| key != "after");
    expected.push(("after".to_owned(), "a b&c".to_owned()));
    assert_eq!(pairs(next), expected);
}

/// The input is a media type, any number of lines `name: value`, an empty line and a body. The rules make the same number of
/// changes of an event each time, and never more than allowed.
pub(crate) fn events(input: &[u8]) {
    let (head, body) = split(input);
    let mut headers = HeaderMap::new();
    for line in head.lines() {
        let (name, value) = line.split_once(':').unwrap_or(("content-type", line));
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value.trim())) {
            headers.append(name, value);
        }
    }
    drop(event::read(&headers, body, ProofScope::Body));
    let Ok(read) = event::read(&headers, body, ProofScope::Everything) else { return };
    assert!(read.id.as_ref().is_none_or(|id| id.contains(' ')), "an id without its source");
    let Some(source) = source() else { return };
    let drafted = source.draft(&read.value);
    assert_eq!(drafted.as_ref().ok().map(Vec::len), source.draft(&read.value).ok().map(|drafts| drafts.len()));
    if let Ok(drafts) = drafted {
        assert!(drafts.len() <= 40, "two rules make 20 changes each at most");
        assert!(webhooks::requests(&drafts).err().is_none_or(|faults| !faults.is_empty()));
    }
}

fn split(input: &[u8]) -> (&str, &[u8]) {
    let at = input.windows(2).position(|pair| pair == b"\n\n");
    let (head, body) = at.and_then(|at| input.split_at_checked(at)).unwrap_or((&[], input));
    (std::str::from_utf8(head).unwrap_or_default(), body.get(2..).filter(|_| at.is_some()).unwrap_or(body))
}
