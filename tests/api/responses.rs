//! The gateway's responses, and what every problem must contain.

use std::collections::BTreeMap;

use reqwest::{RequestBuilder, Response};
use serde_json::Value;

use crate::openapi_check::{self, Asked};

/// A response with its whole body.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) text: String,
    pub(crate) body: Value,
}

impl Reply {
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text);
        self
    }

    /// Asserts that the response is an operation that succeeded; returns its id.
    #[track_caller]
    pub(crate) fn succeeded(&self, effect: &str) -> String {
        assert_eq!(self.status, 200, "{}", self.text);
        assert_eq!((&self.body["state"], &self.body["effect"]), (&"succeeded".into(), &effect.into()), "{}", self.text);
        self.id()
    }

    #[track_caller]
    pub(crate) fn id(&self) -> String {
        self.body["id"].as_str().unwrap_or_else(|| panic!("no operation: {}", self.text)).to_owned()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// Asserts that the response is this problem, with everything that a problem must contain.
    #[track_caller]
    pub(crate) fn problem(self, status: u16, code: &str) -> Self {
        assert_eq!((self.status, self.body["code"].as_str()), (status, Some(code)), "{}", self.text);
        assert_eq!(self.header("content-type"), "application/problem+json");
        check_problem(&self.body);
        assert_eq!(self.body["status"], status);
        let waits = matches!(status, 429 | 503);
        assert_eq!(self.headers.contains_key("retry-after"), waits, "{self:?}");
        self
    }

    /// The pointers of a problem's errors, sorted.
    pub(crate) fn pointers(&self) -> Vec<&str> {
        let errors = self.body["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
        let mut pointers: Vec<_> = errors.iter().map(|error| error["pointer"].as_str().unwrap()).collect();
        assert!(errors.iter().all(|error| error["detail"].as_str().unwrap().len() > 5), "{}", self.text);
        pointers.sort_unstable();
        pointers
    }
}

/// RFC 9457's fields and ours.
#[track_caller]
pub(crate) fn check_problem(problem: &Value) {
    let code = problem["code"].as_str().unwrap();
    assert_eq!(problem["type"], format!("/problems/{code}"));
    assert!(problem["title"].as_str().is_some_and(|title| title.len() > 5), "{problem}");
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.len() > 5), "{problem}");
    assert!(problem["retryable"].is_boolean(), "{problem}");
    assert!(is_trace_id(&problem["trace_id"]), "{problem}");
}

pub(crate) fn is_trace_id(value: &Value) -> bool {
    value.as_str().is_some_and(|id| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// The only place that sends requests.
#[expect(clippy::disallowed_methods, reason = "a test's client needs none of what outbound adds")]
pub(crate) async fn sent(request: RequestBuilder) -> reqwest::Result<Response> {
    request.send().await
}

/// Sends a request, reads the response, and checks both against the API's document.
pub(crate) async fn got(request: RequestBuilder) -> Reply {
    let copy = request.try_clone().and_then(|request| request.build().ok());
    let asked = copy.as_ref().and_then(Asked::of);
    let answer = read(request).await;
    let faults = asked.as_ref().map(|asked| openapi_check::faults(asked, &answer)).unwrap_or_default();
    assert!(faults.is_empty(), "{faults:#?} in {asked:?} {answer:?}");
    answer
}

async fn read(request: RequestBuilder) -> Reply {
    let response = sent(request).await.unwrap();
    let status = response.status().as_u16();
    let text_of = |value: &reqwest::header::HeaderValue| value.to_str().unwrap().to_owned();
    let mut headers = BTreeMap::<String, String>::new();
    for (name, value) in response.headers() {
        let known = headers.entry(name.to_string());
        // Repeated headers are joined into one list.
        known.and_modify(|before| *before = format!("{before}, {}", text_of(value))).or_insert_with(|| text_of(value));
    }
    let text = response.text().await.unwrap();
    let body = serde_json::from_str(&text).unwrap_or_default();
    Reply { status, headers, text, body }
}
