//! Spans: timed operations of a trace, exported when they finish.

use std::fmt::Display;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::{SAMPLED, SpanContext};
use crate::clock::now;

/// The kind of a span, as in OpenTelemetry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanKind {
    /// Handles a request from outside.
    Server,
    /// Waits for another program.
    Client,
    /// Publishes a message.
    Producer,
    /// Handles a message.
    Consumer,
    /// Stays within the node.
    Internal,
}

/// An open span. In a trace that is not exported it consists of its ids only.
///
/// A span that is dropped before it is finished is exported as cancelled: its client disconnected, or
/// its actor or session ended.
#[derive(Debug)]
#[must_use = "a span ends when it is dropped"]
pub struct Span {
    context: SpanContext,
    recorded: Option<Box<Recorded>>,
}

/// The data of a span of an exported trace.
#[derive(Debug)]
struct Recorded {
    data: SpanData,
    since: Instant,
}

/// A finished span.
#[derive(Debug)]
pub struct SpanData {
    /// Its ids.
    pub context: SpanContext,
    /// The id of its parent; the first span of a trace has none.
    pub parent: Option<u64>,
    /// Its kind.
    pub kind: SpanKind,
    /// Its name.
    pub name: String,
    /// When it started.
    pub start: Timestamp,
    /// How long it was open.
    pub duration: Duration,
    /// Its attributes.
    pub attributes: Vec<(&'static str, Value)>,
    /// Other spans that it was done for.
    pub links: Vec<SpanContext>,
    /// The error that it ended with, if any.
    pub error: Option<String>,
}

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A text.
    Text(String),
    /// A number.
    Number(i64),
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Text(text.to_owned())
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Value {
        Value::Number(number)
    }
}

impl Span {
    /// Starts a span: a child of `parent`, which may be on another node, or the first one of a new trace.
    ///
    /// ```
    /// use shop_runtime::{Span, SpanKind};
    ///
    /// let request = Span::start(None, SpanKind::Server, "GET /");
    /// let query = request.context().child(SpanKind::Client, "select");
    /// assert_eq!(query.context().trace_id(), request.context().trace_id());
    /// query.finish();
    /// request.finish();
    /// ```
    pub fn start(parent: Option<SpanContext>, kind: SpanKind, name: impl Display) -> Span {
        let context = match parent {
            Some(parent) => SpanContext { span_id: random_id(), ..parent },
            None => {
                let sampled = EXPORTER.get().is_some_and(|to| rand::random_bool(to.sample_ratio));
                let trace_id = rand::random_range(1..=u128::MAX);
                SpanContext { trace_id, span_id: random_id(), flags: u8::from(sampled) * SAMPLED }
            }
        };
        let parent = parent.map(|parent| parent.span_id);
        let recorded =
            context.is_recorded().then(|| Recorded::new(context, parent, kind, name.to_string()));
        Span { context, recorded }
    }

    /// Its ids, for children and for other nodes.
    pub fn context(&self) -> SpanContext {
        self.context
    }

    /// Adds an attribute.
    pub fn set(&mut self, attribute: &'static str, value: impl Into<Value>) {
        if let Some(recorded) = &mut self.recorded {
            recorded.data.attributes.push((attribute, value.into()));
        }
    }

    /// Links it to another span that it is done for, perhaps of another trace.
    pub fn link(&mut self, other: SpanContext) {
        if let Some(recorded) = &mut self.recorded {
            recorded.data.links.push(other);
        }
    }

    /// Moves its start back by `duration`.
    pub fn started_before(&mut self, duration: Duration) {
        if let Some(recorded) = &mut self.recorded {
            recorded.data.start -= duration;
            recorded.since = recorded.since.checked_sub(duration).unwrap_or(recorded.since);
        }
    }

    /// Finishes it as successful.
    pub fn finish(self) {
        self.end(None);
    }

    /// Finishes it with an error.
    pub fn fail(self, error: impl Display) {
        self.end(Some(&error));
    }

    /// Finishes it with the error of `outcome`, or as successful.
    pub fn finish_with<T>(self, outcome: &Result<T, impl Display>) {
        match outcome {
            Ok(_) => self.finish(),
            Err(error) => self.fail(error),
        }
    }

    fn end(mut self, error: Option<&dyn Display>) {
        if let Some(recorded) = self.recorded.take() {
            recorded.export(error);
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if let Some(recorded) = self.recorded.take() {
            recorded.export(Some(&"cancelled"));
        }
    }
}

impl Recorded {
    fn new(
        context: SpanContext,
        parent: Option<u64>,
        kind: SpanKind,
        name: String,
    ) -> Box<Recorded> {
        let data = SpanData {
            context,
            parent,
            kind,
            name,
            start: now(),
            duration: Duration::ZERO,
            attributes: vec![],
            links: vec![],
            error: None,
        };
        Box::new(Recorded { data, since: Instant::now() })
    }

    fn export(self: Box<Self>, error: Option<&dyn Display>) {
        let Recorded { mut data, since } = *self;
        data.duration = since.elapsed();
        data.error = error.map(ToString::to_string);
        if let Some(exporter) = EXPORTER.get() {
            (exporter.export)(data);
        }
    }
}

/// Any id but 0, which is invalid.
fn random_id() -> u64 {
    rand::random_range(1..=u64::MAX)
}

/// The exporter of this process.
static EXPORTER: OnceLock<Exporter> = OnceLock::new();

struct Exporter {
    sample_ratio: f64,
    export: Box<dyn Fn(SpanData) + Send + Sync>,
}

/// Sets the function that receives every finished span of the sampled traces: this ratio (0 to 1) of the
/// traces that start in this process, and the traces from elsewhere that are sampled there. The function
/// must not block. Only the first call in a process has an effect.
pub fn set_exporter(sample_ratio: f64, export: impl Fn(SpanData) + Send + Sync + 'static) {
    EXPORTER.set(Exporter { sample_ratio, export: Box::new(export) }).ok();
}

/// Whether this process exports spans.
pub fn is_exported() -> bool {
    EXPORTER.get().is_some()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    static FINISHED: Mutex<Vec<SpanData>> = Mutex::new(vec![]);

    /// The exported spans of a trace.
    fn exported(context: SpanContext) -> Vec<SpanData> {
        let mut finished = FINISHED.lock().unwrap();
        finished.extract_if(.., |span| span.context.trace_id == context.trace_id).collect()
    }

    fn first() -> Span {
        set_exporter(1.0, |span| FINISHED.lock().unwrap().push(span));
        Span::start(None, SpanKind::Server, "first")
    }

    #[test]
    fn a_child_span_belongs_to_the_trace_of_its_parent() {
        let first = first();
        let parent = first.context();
        let child = parent.child(SpanKind::Internal, "child").context();
        assert_eq!(child.to_string()[..35], parent.to_string()[..35]);
        assert_ne!(child, parent);
        assert_eq!(format!("00-{}", parent.trace_id_hex()), parent.to_string()[..35]);
    }

    #[test]
    fn finished_spans_are_exported_with_their_parents() {
        let first = first();
        let parent = first.context();
        let mut child = parent.child(SpanKind::Client, format_args!("span {}", 2));
        child.set("rows", 7);
        child.link(parent);
        child.started_before(Duration::from_secs(1));
        child.finish();
        first.fail("no");
        let spans = exported(parent);
        let [child, first] = &spans[..] else { panic!("{spans:?}") };
        assert_eq!((child.name.as_str(), child.kind), ("span 2", SpanKind::Client));
        assert_eq!((child.parent, first.parent), (Some(parent.span_id), None));
        assert_eq!(child.attributes, [("rows", Value::Number(7))]);
        assert_eq!(child.links, [parent]);
        assert!(child.duration >= Duration::from_secs(1) && child.start < first.start);
        assert_eq!((child.error.as_deref(), first.error.as_deref()), (None, Some("no")));
    }

    #[test]
    fn a_dropped_span_is_exported_as_cancelled() {
        let first = first();
        let context = first.context();
        drop(first);
        assert_eq!(exported(context)[0].error.as_deref(), Some("cancelled"));
    }

    #[test]
    fn a_trace_that_its_origin_does_not_sample_is_not_exported() {
        drop(first());
        let header = "00-0af7651916cd43dd8448eb211c80319d-b7ad6b7169203331-00";
        let origin: SpanContext = header.parse().unwrap();
        let server = origin.child(SpanKind::Server, "not sampled");
        server.context().child(SpanKind::Internal, "child").finish();
        server.finish();
        assert!(exported(origin).is_empty());
    }
}
