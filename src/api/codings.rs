//! Which content codings responses may have.
//!
//! Guarantees: no `Accept-Encoding` keeps a response from its reader. The framework answers one that admits no coding that it
//! knows with a 406 of its own, before the caller is authenticated; such a header is disregarded instead, as RFC 9110 allows.
//!
//! It deliberately compresses nothing; the routes whose responses may be long do.

use actix_web::{
    Error, HttpMessage as _,
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
    http::header::{ACCEPT_ENCODING, AcceptEncoding, Encoding},
    middleware::Next,
};

/// Removes an `Accept-Encoding` that admits no coding.
pub(super) async fn always_acceptable(
    mut request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let known = [Encoding::identity(), Encoding::gzip()];
    let accepted = request.get_header::<AcceptEncoding>();
    if accepted.is_some_and(|accepted| accepted.negotiate(known.iter()).is_none()) {
        request.headers_mut().remove(ACCEPT_ENCODING);
    }
    next.call(request).await
}
