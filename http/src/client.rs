//! Requests to other nodes.

use std::fmt::Display;

use reqwest::{RequestBuilder, Response, Result};
use shop_runtime::{Span, SpanContext, SpanKind};

/// Sends a request as a span of the current trace, which the other node continues.
pub async fn send(request: RequestBuilder, name: impl Display) -> Result<Response> {
    let span = Span::start(SpanContext::current(), SpanKind::Client, name);
    let response = request.header("traceparent", span.context().to_string()).send().await;
    span.finish_with(&response);
    response
}
