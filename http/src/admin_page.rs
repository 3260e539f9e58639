//! The page that shows the actors of the whole cluster: four files, from the binary.

use axum::http::{HeaderName, header};
use axum::response::IntoResponse;
use axum::{Router, routing};

/// Nothing but what this node serves, and nothing inline (<https://www.w3.org/TR/CSP3/>).
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The page's routes: open to all, for they show nothing before somebody signs in.
pub fn routes() -> Router {
    let html = include_str!("admin/page.html");
    let css = include_str!("admin/page.css");
    let js = include_str!("admin/page.js");
    let icon = include_str!("admin/icon.svg");
    Router::new()
        .route("/admin", routing::get(|| async { file("text/html; charset=utf-8", html) }))
        .route("/admin/icon.svg", routing::get(|| async { file("image/svg+xml", icon) }))
        .route("/admin/page.css", routing::get(|| async { file("text/css; charset=utf-8", css) }))
        .route(
            "/admin/page.js",
            routing::get(|| async { file("text/javascript; charset=utf-8", js) }),
        )
}

fn file(content_type: &'static str, text: &'static str) -> impl IntoResponse {
    let headers = [
        (header::CONTENT_TYPE, content_type),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ];
    (headers, text)
}
