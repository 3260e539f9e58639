//! Asking another node.

use std::fmt::Display;

use reqwest::{RequestBuilder, Response, Result};
use shop_runtime::{Span, SpanContext, SpanKind};

/// Sends it as a span of the trace that the running task works for, which goes on over there.
pub async fn send(request: RequestBuilder, name: impl Display) -> Result<Response> {
    let span = Span::start(SpanContext::current(), SpanKind::Client, name);
    let answer = request.header("traceparent", span.context().to_string()).send().await;
    span.finish_with(&answer);
    answer
}
