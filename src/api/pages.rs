//! Public pages: the API's document, the viewer for it, and what each problem means.
//!
//! Guarantees: the viewer gets all that it needs from the gateway, may load nothing from elsewhere, and may run no inline
//! scripts.

use std::sync::{Arc, LazyLock};

use actix_web::{HttpRequest, HttpResponse, web};
use utoipa_swagger_ui::{Config, SwaggerFile};

use super::{
    nothing_here, openapi,
    operations::header,
    problem::{Code, Problem},
};

/// What the viewer may load and call: the gateway, and images that are inlined in its own style sheet.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The viewer's settings: forms open, no external validator, no token kept.
static SET_UP: LazyLock<Arc<Config<'static>>> = LazyLock::new(|| {
    let config = Config::from("/openapi.json").use_base_layout().validator_url("none").try_it_out_enabled(true);
    Arc::new(config.doc_expansion("list").default_models_expand_depth(0).display_request_duration(true))
});

/// The page behind a problem's `type`.
pub(super) async fn problem(code: web::Path<String>) -> Result<HttpResponse, Problem> {
    let code = Code::named(&code).ok_or_else(|| Problem::new(Code::NotFound, "There is no problem with this code."))?;
    Ok(HttpResponse::Ok().content_type("text/plain; charset=utf-8").body(code.page()))
}

/// The API's document.
pub(super) async fn document() -> HttpResponse {
    HttpResponse::Ok().content_type("application/json").body(openapi::document())
}

/// Redirects to the viewer: it finds its files only with the slash at the end.
pub(super) async fn redirect_to_docs() -> HttpResponse {
    HttpResponse::PermanentRedirect().insert_header(("location", "/docs/")).finish()
}

/// The viewer's page; the files beside it are the library's.
const PAGE: &str = include_str!("docs.html");

/// The viewer's page, and its files.
pub(super) async fn docs(request: HttpRequest) -> Result<HttpResponse, Problem> {
    let name = request.match_info().get("file").unwrap_or_default();
    let mut response = if name.is_empty() {
        HttpResponse::Ok().content_type("text/html; charset=utf-8").body(PAGE)
    } else {
        let file = utoipa_swagger_ui::serve(name, Arc::clone(&SET_UP)).ok().flatten();
        let Some(SwaggerFile { bytes, content_type, gzpipped: is_zipped, .. }) = file else {
            return nothing_here(request).await;
        };
        let mut response = HttpResponse::Ok().content_type(content_type).body(bytes.into_owned());
        if is_zipped {
            header(response.headers_mut(), "content-encoding", "gzip");
        }
        response
    };
    let headers = response.headers_mut();
    header(headers, "content-security-policy", POLICY);
    header(headers, "x-content-type-options", "nosniff");
    header(headers, "referrer-policy", "no-referrer");
    header(headers, "cache-control", "no-cache");
    Ok(response)
}
