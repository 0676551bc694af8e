//! Requests and responses, without the web framework.
//!
//! A [`Request`] is one HTTP request, read completely; a [`Response`] is what is sent. Everything behind the server uses
//! these two, so endpoints are plain functions from a request to a response.
//!
//! Guarantees: a path is split before it is decoded, so an encoded slash stays part of its segment. It deliberately knows
//! nothing of Graph or Entra. `mod.rs` makes the requests; every endpoint reads them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;
use url::form_urlencoded;

/// One HTTP request, read completely.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) at: Timestamp,
    pub(crate) method: String,
    /// As sent, still percent-encoded.
    pub(crate) path: String,
    /// The path's segments, decoded.
    pub(crate) segments: Vec<String>,
    pub(crate) query: String,
    /// Names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
    pub(crate) id: String,
    /// The client's address and port.
    pub(crate) peer: String,
}

impl Request {
    /// The value of a header; the name is in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The caller's own id of this call, or else the sandbox's, as in Graph.
    pub(crate) fn client_request_id(&self) -> &str {
        self.header("client-request-id").unwrap_or(&self.id)
    }

    /// The decoded pairs of the query.
    pub(crate) fn options(&self) -> Vec<(String, String)> {
        form_urlencoded::parse(self.query.as_bytes()).into_owned().collect()
    }

    /// The decoded pairs of a form body.
    pub(crate) fn form(&self) -> BTreeMap<String, String> {
        form_urlencoded::parse(&self.body).into_owned().collect()
    }

    /// Whether the content type is this media type.
    pub(crate) fn carries(&self, media_type: &str) -> bool {
        let said = self.header("content-type").unwrap_or_default();
        said.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case(media_type))
    }

    /// The path's segments as slices, to match on.
    pub(crate) fn parts(&self) -> Vec<&str> {
        self.segments.iter().map(String::as_str).collect()
    }
}

/// A response.
#[derive(Clone, Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Body,
    /// Something that no correct client does; for the journal.
    pub(crate) violation: Option<&'static str>,
}

/// The body of a [`Response`].
#[derive(Clone, Debug)]
pub(crate) enum Body {
    Empty,
    Json(Value),
    Html(&'static str),
}

/// How an answer's body is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// As it is.
    Whole,
    /// Only its first half, as if that were all.
    Truncated,
    /// Followed by this many spaces.
    Swollen(u32),
    /// In two halves, this many milliseconds apart.
    Halting(u32),
}

impl Response {
    /// A JSON response.
    pub(crate) fn json(status: u16, body: Value) -> Self {
        Self { status, headers: Vec::new(), body: Body::Json(body), violation: None }
    }

    /// A response without a body.
    pub(crate) fn empty(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Body::Empty, violation: None }
    }

    /// The same response with one more header.
    #[must_use]
    pub(crate) fn with(mut self, name: &'static str, value: String) -> Self {
        self.headers.push((name, value));
        self
    }
}

/// The decoded segments of a path, without empty ones (a trailing slash).
pub(crate) fn segments(path: &str) -> Vec<String> {
    path.split('/').filter(|part| !part.is_empty()).map(decoded).collect()
}

fn decoded(part: &str) -> String {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let escaped = if first == b'%' { tail.get(..2).and_then(hexadecimal) } else { None };
        bytes.push(escaped.unwrap_or(first));
        rest = if escaped.is_some() { tail.get(2..).unwrap_or_default() } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hexadecimal(pair: &[u8]) -> Option<u8> {
    std::str::from_utf8(pair).ok().and_then(|text| u8::from_str_radix(text, 16).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_encoded_slash_stays_in_its_segment() {
        assert_eq!(segments("/beta/a%2Fb/%5f%zz/"), ["beta", "a/b", "_%zz"]);
    }
}
