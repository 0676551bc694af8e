//! Which web pages may call the API from a browser: those of `server.cors_origins`, compared exactly.
//!
//! A browser asks first (a preflight request, by the Fetch standard) and shows a page only what is shared with its origin.
//!
//! Guarantees: without origins in the settings no response has a CORS header; any other origin, `null` included, gets the
//! response that any program gets, but it is not shared; the browser's credentials (cookies, certificates) are never allowed.
//!
//! It deliberately decides nothing about callers: a page authenticates by its token, like every caller.

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

/// The methods that pages may use.
const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, DELETE");
/// The request headers that they may send, besides those that every page may.
const REQUEST_HEADERS: HeaderValue = HeaderValue::from_static(
    "authorization, content-type, idempotency-key, if-match, if-none-match, prefer, traceparent, tracestate",
);
/// The response headers that they may read, besides those that every page may.
const ANSWER_HEADERS: HeaderValue = HeaderValue::from_static(
    "etag, idempotency-replayed, location, preference-applied, ratelimit, ratelimit-policy, retry-after, www-authenticate",
);
/// How many seconds a browser may cache the response to a preflight; a removed origin can send requests for as long.
const REMEMBERED: HeaderValue = HeaderValue::from_static("600");

/// Answers preflight requests, and shares responses with the pages that may have them.
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
    // For other origins, too: a cache must not serve one origin what was meant for another.
    headers.append(VARY, HeaderValue::from_static("Origin"));
    if let Some(origin) = origin {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, ANSWER_HEADERS);
    }
    Ok(response)
}

/// The origin of a request, if it is sent once and is one of these.
fn shared_with(headers: &HeaderMap, origins: &BTreeSet<String>) -> Option<HeaderValue> {
    let mut given = headers.get_all(ORIGIN);
    let origin = given.next().filter(|_| given.next().is_none())?;
    origins.contains(origin.to_str().ok()?).then(|| origin.clone())
}

/// Warnings about weak settings, for operators.
pub(crate) fn warnings(origins: &BTreeSet<String>) -> impl Iterator<Item = String> {
    let plain = origins.iter().filter(|origin| origin.starts_with("http://"));
    plain.map(|origin| {
        format!(
            "warning: server.cors_origins has {origin:?}: anyone on the network path to that page can replace it with a \
             page of their own, and take its tokens. Serve it over https."
        )
    })
}
