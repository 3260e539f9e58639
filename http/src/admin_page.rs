//! The inspector's page: HTML, CSS and JavaScript modules, compiled into the binary.

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Router, routing};
use uuid::Uuid;

/// Only what this node serves, and nothing inline (<https://www.w3.org/TR/CSP3/>).
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

/// The paths and texts of the JavaScript modules with these names.
macro_rules! modules {
    ($($name:literal),*) => {
        [$((
            concat!("/admin/page/", $name, ".js"),
            include_str!(concat!("admin/page/", $name, ".js")),
        )),*]
    };
}

/// The page's routes. Anyone may load the page; it has no content before an administrator signs in.
pub fn routes() -> Router {
    let html = include_str!("admin/page.html");
    let css = include_str!("admin/page.css");
    let icon = include_str!("admin/icon.svg");
    let main = include_str!("admin/page.js");
    let modules = modules![
        "actions",
        "api",
        "charts",
        "details",
        "dom",
        "format",
        "histogram",
        "history",
        "list",
        "metrics",
        "navigation",
        "poll",
        "rows",
        "session",
        "state",
        "summary",
        "tree"
    ];
    let router = Router::new()
        .route("/admin", asset("text/html; charset=utf-8", html))
        .route("/admin/icon.svg", asset("image/svg+xml", icon))
        .route("/admin/page.css", asset("text/css; charset=utf-8", css))
        .route("/admin/page.js", asset(JAVASCRIPT, main));
    modules
        .into_iter()
        .fold(router, |router, (path, text)| router.route(path, asset(JAVASCRIPT, text)))
}

/// A file of the page.
#[derive(Debug, Clone)]
struct Asset {
    content_type: &'static str,
    text: &'static str,
    etag: HeaderValue,
}

fn asset(content_type: &'static str, text: &'static str) -> routing::MethodRouter {
    let hash = Uuid::new_v5(&Uuid::NAMESPACE_OID, text.as_bytes()).simple();
    let etag =
        HeaderValue::try_from(format!("\"{hash}\"")).unwrap_or(HeaderValue::from_static("*"));
    routing::get(serve).with_state(Asset { content_type, text, etag })
}

async fn serve(State(asset): State<Asset>, request: HeaderMap) -> Response {
    let Asset { content_type, text, etag } = asset;
    let is_current = request.get(header::IF_NONE_MATCH) == Some(&etag);
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(content_type)),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            HeaderValue::from_static("same-origin"),
        ),
        (header::ETAG, etag),
    ];
    if is_current {
        (StatusCode::NOT_MODIFIED, headers).into_response()
    } else {
        (headers, text).into_response()
    }
}
