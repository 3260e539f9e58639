//! Trace context: which request a task works for, as in the W3C recommendation
//! (<https://www.w3.org/TR/trace-context/>). Message envelopes, outbox rows and AMQP headers carry it
//! to the next actor or node.

mod span;

use std::fmt::{self, Display};
use std::future::Future;
use std::str::FromStr;
use std::sync::Arc;

pub use span::{Span, SpanData, SpanKind, Value, is_exported, set_exporter};

tokio::task_local! {
    static CURRENT: TaskContext;
}

/// The request that a task works for. Log lines show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskContext {
    /// The current span.
    pub span: SpanContext,
    /// The id of the HTTP request that caused the work, if one did.
    pub request_id: Option<Arc<str>>,
}

impl TaskContext {
    /// The context of the running task, if it has one.
    pub fn current() -> Option<TaskContext> {
        CURRENT.try_with(TaskContext::clone).ok()
    }

    /// Runs a future in this context.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// use shop_runtime::{Span, SpanContext, SpanKind, TaskContext};
    ///
    /// let span = Span::start(None, SpanKind::Server, "GET /").context();
    /// let context = TaskContext { span, request_id: Some("r-1".into()) };
    /// let seen = context.scope(async { SpanContext::current() }).await;
    /// assert_eq!(seen, Some(span));
    /// # }
    /// ```
    pub fn scope<T>(self, work: impl Future<Output = T>) -> impl Future<Output = T> {
        CURRENT.scope(self, work)
    }
}

/// The position in a trace: the trace's id, the current span's id and the flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanContext {
    trace_id: u128,
    span_id: u64,
    flags: u8,
}

/// The flag `sampled`: the node that started the trace records it.
const SAMPLED: u8 = 1;

impl SpanContext {
    /// Starts a span whose parent is this one.
    pub fn child(self, kind: SpanKind, name: impl Display) -> Span {
        Span::start(Some(self), kind, name)
    }

    /// The span of the running task, if it has one.
    pub fn current() -> Option<SpanContext> {
        CURRENT.try_with(|context| context.span).ok()
    }

    /// Runs a future in this span, for the request of the running task.
    pub fn scope<T>(self, work: impl Future<Output = T>) -> impl Future<Output = T> {
        self.task_context().scope(work)
    }

    /// Runs a function in this span, for the request of the running task.
    pub fn in_scope<T>(self, work: impl FnOnce() -> T) -> T {
        CURRENT.sync_scope(self.task_context(), work)
    }

    fn task_context(self) -> TaskContext {
        let request_id = TaskContext::current().and_then(|context| context.request_id);
        TaskContext { span: self, request_id }
    }

    /// The trace's id, the same on every node.
    pub fn trace_id(self) -> u128 {
        self.trace_id
    }

    /// The span's id.
    pub fn span_id(self) -> u64 {
        self.span_id
    }

    /// Whether spans of this trace are exported by this process.
    pub fn is_recorded(self) -> bool {
        is_exported() && self.flags & SAMPLED != 0
    }

    /// The trace's id in 32 hexadecimal digits.
    pub fn trace_id_hex(self) -> impl Display {
        fmt::from_fn(move |f| write!(f, "{:032x}", self.trace_id))
    }
}

/// Formats it as the header `traceparent`.
impl Display for SpanContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, self.flags)
    }
}

/// Parses the header `traceparent`. A malformed header is ignored, as the recommendation requires.
impl FromStr for SpanContext {
    type Err = ();

    fn from_str(text: &str) -> Result<SpanContext, ()> {
        let lower_hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c) || c == b'-';
        let mut parts = text.split('-');
        let (Some(version), Some(trace), Some(parent), Some(flags)) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(());
        };
        let lengths = [version.len(), trace.len(), parent.len(), flags.len()];
        if lengths != [2, 32, 16, 2] || version == "ff" || !text.bytes().all(lower_hex) {
            return Err(());
        }
        let number = |hex| u64::from_str_radix(hex, 16).map_err(drop);
        let (high, low) = trace.split_at(16); // parsing two u64 is much faster than one u128
        let trace_id = u128::from(number(high)?) << 64 | u128::from(number(low)?);
        let span_id = number(parent)?;
        let flags = u8::from_str_radix(flags, 16).map_err(drop)?;
        if trace_id == 0 || span_id == 0 {
            return Err(());
        }
        Ok(SpanContext { trace_id, span_id, flags })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_formatted_as_it_was_parsed() {
        let header = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(header.parse::<SpanContext>().unwrap().to_string(), header);
    }

    #[test]
    fn a_malformed_traceparent_is_rejected() {
        for header in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert_eq!(header.parse::<SpanContext>(), Err(()), "{header}");
        }
    }
}
