//! Serves a fixed list: the cost of HTTP alone.

use std::fs;
use std::path::Path;

use axum::Router;
use axum::body::Bytes;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;

/// Serves the bytes of `file` as the list of products.
pub async fn serve(port: u16, file: &Path) -> anyhow::Result<()> {
    let list = Bytes::from(fs::read(file)?);
    let respond = async move || ([(CONTENT_TYPE, "application/json")], list);
    super::serve(port, Router::new().route("/api/v1/products", get(respond))).await
}
