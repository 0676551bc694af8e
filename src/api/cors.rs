//! Which web pages may call the API from a browser: those of `server.cors_origins`, each in exactly its letters.
//!
//! A browser asks first (a preflight, by the Fetch standard) and shows a page nothing that is not shared with its origin.
//!
//! Guarantees: without origins in the settings no answer has a header of this kind; another origin, `null` included, gets
//! what any program gets, and shares nothing of it; credentials of the browser (cookies, certificates) are never asked for.
//!
//! It deliberately decides nothing about callers: a page proves itself by its token, as everybody does.

use std::collections::BTreeSet;

use actix_web::{
    Error, HttpResponse,
    body::{EitherBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    http::{
        Method,
        header::{
            ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
            ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, HeaderMap,
            HeaderValue, ORIGIN, VARY,
        },
    },
    middleware::Next,
    web,
};

use super::State;

/// What pages may do.
const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, DELETE");
/// What they may say, besides what every page may.
const REQUEST_HEADERS: HeaderValue = HeaderValue::from_static(
    "authorization, content-type, idempotency-key, if-match, if-none-match, prefer, traceparent, tracestate",
);
/// What they may read, besides what every page may.
const ANSWER_HEADERS: HeaderValue = HeaderValue::from_static(
    "etag, idempotency-replayed, location, preference-applied, ratelimit, ratelimit-policy, retry-after, www-authenticate",
);
/// How many seconds a browser may remember an answer to its question; an origin that is taken out is heard for as long.
const REMEMBERED: HeaderValue = HeaderValue::from_static("600");

/// Answers the questions of browsers, and shares answers with the pages that may have them.
pub(super) async fn share<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    let origins = request.app_data::<web::Data<State>>().map(|state| &state.settings.cors_origins);
    if origins.is_none_or(BTreeSet::is_empty) {
        return Ok(next.call(request).await?.map_into_left_body());
    }
    let origin = origins.and_then(|origins| shared_with(request.headers(), origins));
    let asks = request.method() == Method::OPTIONS && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = if asks && origin.is_some() {
        let mut answer = HttpResponse::NoContent();
        answer.insert_header((ACCESS_CONTROL_ALLOW_METHODS, METHODS));
        answer.insert_header((ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS));
        answer.insert_header((ACCESS_CONTROL_MAX_AGE, REMEMBERED));
        request.into_response(answer.finish()).map_into_right_body()
    } else {
        next.call(request).await?.map_into_left_body()
    };
    let headers = response.headers_mut();
    // Also for others: whoever keeps answers must not show to one origin what was meant for another.
    headers.append(VARY, HeaderValue::from_static("Origin"));
    if let Some(origin) = origin {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, ANSWER_HEADERS);
    }
    Ok(response)
}

/// The origin that a request comes from, if it stands there once and is one of these.
fn shared_with(headers: &HeaderMap, origins: &BTreeSet<String>) -> Option<HeaderValue> {
    let mut given = headers.get_all(ORIGIN);
    let origin = given.next().filter(|_| given.next().is_none())?;
    origins.contains(origin.to_str().ok()?).then(|| origin.clone())
}

/// What is weaker than it could be, for those who set it up.
pub(crate) fn warnings(origins: &BTreeSet<String>) -> impl Iterator<Item = String> {
    let plain = origins.iter().filter(|origin| origin.starts_with("http://"));
    plain.map(|origin| {
        format!(
            "warning: server.cors_origins has {origin:?}: whoever is on the way to that page can put a page of their own in \
             its place, and take its tokens. Serve it by https."
        )
    })
}
