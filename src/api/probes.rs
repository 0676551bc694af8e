//! Liveness, readiness and metrics of the gateway itself, on the internal address.

use actix_web::{HttpResponse, web};

use super::State;
use crate::telemetry;

/// Whether the process runs. Nothing else may fail this: a restart would not help.
pub(super) async fn livez() -> HttpResponse {
    HttpResponse::Ok().content_type("text/plain").body("alive\n")
}

/// Whether changes can be accepted: the store can be written, and no shutdown is under way. An outage of Graph does not
/// matter: changes whose names are cached are still accepted, and applied later.
pub(super) async fn readyz(state: web::Data<State>) -> HttpResponse {
    if state.leaving.is_cancelled() {
        return not_ready("stopping");
    }
    match state.gateway.gateway().ready().await {
        Ok(()) => HttpResponse::Ok().content_type("text/plain").body("ready\n"),
        Err(error) => not_ready(&error.to_string()),
    }
}

fn not_ready(why: &str) -> HttpResponse {
    HttpResponse::ServiceUnavailable().content_type("text/plain").body(format!("not ready: {why}\n"))
}

/// All metrics, for Prometheus.
pub(super) async fn metrics() -> HttpResponse {
    match telemetry::exposition() {
        Ok(text) => HttpResponse::Ok().content_type("text/plain; version=0.0.4; charset=utf-8").body(text),
        Err(error) => {
            tracing::error!(%error, "the figures cannot be shown");
            HttpResponse::InternalServerError().content_type("text/plain").body("the metrics cannot be encoded\n")
        }
    }
}
