//! Asking another node.

use std::fmt::Display;

use reqwest::{RequestBuilder, Response, Result};
use shop_runtime::{Span, SpanContext, SpanKind};

/// Sends it as a step of the trace that the running task works for, which goes on over there.
pub async fn send(request: RequestBuilder, name: impl Display) -> Result<Response> {
    let step = Span::begin(SpanContext::current(), SpanKind::Client, name);
    let answer = request.header("traceparent", step.trace().to_string()).send().await;
    step.settle(&answer);
    answer
}
