//! Which request caused this: the W3C trace context (<https://www.w3.org/TR/trace-context/>), carried from the
//! edge through messages into the outbox, and over the broker to the next node. And what was done for it: steps,
//! each the child of another, recorded if somebody collects them.

use std::fmt::{self, Display};
use std::future::Future;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::now;

tokio::task_local! {
    static CURRENT: TaskContext;
}

/// What a task works for. Log lines say it; it costs nothing where there is nothing to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskContext {
    /// Where it is in its trace.
    pub trace: SpanContext,
    /// The id of the request, if it was one that caused this.
    pub request: Option<Arc<str>>,
}

impl TaskContext {
    /// What the running task works for, if anything in particular.
    pub fn current() -> Option<TaskContext> {
        CURRENT.try_with(TaskContext::clone).ok()
    }

    /// Runs `work` for this.
    pub fn scope<T>(self, work: impl Future<Output = T>) -> impl Future<Output = T> {
        CURRENT.scope(self, work)
    }
}

/// A place in a trace: the trace, and the step in it that is the parent of the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanContext {
    trace_id: u128,
    step_id: u64,
    flags: u8,
}

/// Whoever started the trace wants it recorded.
const SAMPLED: u8 = 1;

impl SpanContext {
    /// Begins the next step of this trace.
    pub fn step(self, kind: SpanKind, name: impl Display) -> Span {
        Span::begin(Some(self), kind, name)
    }

    /// The trace that the running task works for, if any.
    pub fn current() -> Option<SpanContext> {
        CURRENT.try_with(|context| context.trace).ok()
    }

    /// Runs `work` as part of this trace, for whichever request the running task works.
    pub fn scope<T>(self, work: impl Future<Output = T>) -> impl Future<Output = T> {
        self.context().scope(work)
    }

    /// Does `work`, which does not wait, as part of this trace.
    pub fn in_scope<T>(self, work: impl FnOnce() -> T) -> T {
        CURRENT.sync_scope(self.context(), work)
    }

    fn context(self) -> TaskContext {
        let request = TaskContext::current().and_then(|context| context.request);
        TaskContext { trace: self, request }
    }

    /// The trace's id, the same on every node.
    pub fn trace_id(self) -> u128 {
        self.trace_id
    }

    /// The step's id.
    pub fn step_id(self) -> u64 {
        self.step_id
    }

    /// Whether its steps are collected.
    pub fn is_recorded(self) -> bool {
        is_collected() && self.flags & SAMPLED != 0
    }

    /// The trace's id as log lines show it.
    pub fn shown_id(self) -> impl Display {
        fmt::from_fn(move |f| write!(f, "{:032x}", self.trace_id))
    }
}

/// Any but 0, which stands for none.
fn some_id() -> u64 {
    rand::random_range(1..=u64::MAX)
}

/// Shows it as the header `traceparent` does.
impl Display for SpanContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.step_id, self.flags)
    }
}

/// Reads the header `traceparent`; a malformed one is as good as none.
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
        let (high, low) = trace.split_at(16); // a u128 is read much slower than two halves
        let trace_id = u128::from(number(high)?) << 64 | u128::from(number(low)?);
        let step_id = number(parent)?;
        let flags = u8::from_str_radix(flags, 16).map_err(drop)?;
        if trace_id == 0 || step_id == 0 {
            return Err(());
        }
        Ok(SpanContext { trace_id, step_id, flags })
    }
}

/// What kind of step it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanKind {
    /// Answers a request from outside.
    Server,
    /// Asks another program, and waits.
    Client,
    /// Publishes a message.
    Producer,
    /// Takes a message.
    Consumer,
    /// Stays within the node.
    Internal,
}

/// A step of a trace, under way: a span. If nobody collects, or nobody wants this trace, it is its ids and nothing else.
///
/// A step that is dropped before its end was cut off: its client left, its owner or its session is gone.
#[derive(Debug)]
#[must_use = "it ends where it is dropped"]
pub struct Span {
    here: SpanContext,
    recorded: Option<Box<Recorded>>,
}

/// What is known of a recorded step so far.
#[derive(Debug)]
struct Recorded {
    ended: SpanData,
    since: Instant,
}

/// A step that is over.
#[derive(Debug)]
pub struct SpanData {
    /// The step.
    pub here: SpanContext,
    /// The id of the step that it is part of; the first one of a trace has none.
    pub parent: Option<u64>,
    /// What kind of step it was.
    pub kind: SpanKind,
    /// What was done.
    pub name: String,
    /// When it began.
    pub start: Timestamp,
    /// How long it took.
    pub took: Duration,
    /// What else is to be known of it.
    pub attributes: Vec<(&'static str, Value)>,
    /// The steps that it was done for as well.
    pub links: Vec<SpanContext>,
    /// Why it came to nothing, if it did.
    pub failure: Option<String>,
}

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Words.
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
    /// Begins a step after another, perhaps one on another node; or else the first one of a new trace.
    pub fn begin(after: Option<SpanContext>, kind: SpanKind, name: impl Display) -> Span {
        let collected = COLLECTOR.get();
        let here = match after {
            Some(after) => SpanContext { step_id: some_id(), ..after },
            None => {
                let sampled = collected.is_some_and(|to| rand::random_bool(to.share));
                let trace_id = rand::random_range(1..=u128::MAX);
                SpanContext { trace_id, step_id: some_id(), flags: u8::from(sampled) * SAMPLED }
            }
        };
        let parent = after.map(|after| after.step_id);
        let recorded =
            here.is_recorded().then(|| Recorded::new(here, parent, kind, name.to_string()));
        Span { here, recorded }
    }

    /// Where it is in its trace, to go on from.
    pub fn trace(&self) -> SpanContext {
        self.here
    }

    /// Says more of it.
    pub fn set(&mut self, attribute: &'static str, value: impl Into<Value>) {
        if let Some(recorded) = &mut self.recorded {
            recorded.ended.attributes.push((attribute, value.into()));
        }
    }

    /// It is done for this step as well, perhaps of another trace.
    pub fn link(&mut self, other: SpanContext) {
        if let Some(recorded) = &mut self.recorded {
            recorded.ended.links.push(other);
        }
    }

    /// It began so long ago.
    pub fn began_before(&mut self, ago: Duration) {
        if let Some(recorded) = &mut self.recorded {
            recorded.ended.start -= ago;
            recorded.since = recorded.since.checked_sub(ago).unwrap_or(recorded.since);
        }
    }

    /// It is done.
    pub fn done(self) {
        self.end(None);
    }

    /// It came to nothing.
    pub fn fail(self, why: impl Display) {
        self.end(Some(&why));
    }

    /// It is done if this is good, and came to nothing if not.
    pub fn settle<T>(self, outcome: &Result<T, impl Display>) {
        match outcome {
            Ok(_) => self.done(),
            Err(why) => self.fail(why),
        }
    }

    fn end(mut self, why: Option<&dyn Display>) {
        if let Some(recorded) = self.recorded.take() {
            recorded.collect(why);
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if let Some(recorded) = self.recorded.take() {
            recorded.collect(Some(&"cut off"));
        }
    }
}

impl Recorded {
    fn new(here: SpanContext, parent: Option<u64>, kind: SpanKind, name: String) -> Box<Recorded> {
        let (start, took) = (now(), Duration::ZERO);
        let (attributes, links, failure) = (vec![], vec![], None);
        let ended = SpanData { here, parent, kind, name, start, took, attributes, links, failure };
        Box::new(Recorded { ended, since: Instant::now() })
    }

    fn collect(self: Box<Self>, why: Option<&dyn Display>) {
        let Recorded { mut ended, since } = *self;
        ended.took = since.elapsed();
        ended.failure = why.map(ToString::to_string);
        if let Some(collector) = COLLECTOR.get() {
            (collector.take)(ended);
        }
    }
}

/// Who collects the steps of this process.
static COLLECTOR: OnceLock<Collector> = OnceLock::new();

struct Collector {
    share: f64,
    take: Box<dyn Fn(SpanData) + Send + Sync>,
}

/// From now on `take` gets every step that ends, of this share (0 to 1) of the traces that start here, and of those from
/// elsewhere that are recorded there. It must not wait. The first call in a process counts.
pub fn collect(share: f64, take: impl Fn(SpanData) + Send + Sync + 'static) {
    COLLECTOR.set(Collector { share, take: Box::new(take) }).ok();
}

/// Whether anybody collects steps.
pub fn is_collected() -> bool {
    COLLECTOR.get().is_some()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    static ENDED: Mutex<Vec<SpanData>> = Mutex::new(vec![]);

    /// What was collected of this trace.
    fn collected(trace: SpanContext) -> Vec<SpanData> {
        let mut ended = ENDED.lock().unwrap();
        ended.extract_if(.., |ended| ended.here.trace_id == trace.trace_id).collect()
    }

    fn first() -> Span {
        collect(1.0, |ended| ENDED.lock().unwrap().push(ended));
        Span::begin(None, SpanKind::Server, "first")
    }

    #[test]
    fn a_traceparent_reads_back_as_written() {
        let header = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(header.parse::<SpanContext>().unwrap().to_string(), header);
    }

    #[test]
    fn a_step_stays_in_its_trace() {
        let first = first();
        let (here, next) = (first.trace(), first.trace().step(SpanKind::Internal, "next").trace());
        assert_eq!(next.to_string()[..35], here.to_string()[..35]);
        assert_ne!(next, here);
        assert_eq!(format!("00-{}", here.shown_id()), here.to_string()[..35]);
    }

    #[test]
    fn a_malformed_traceparent_is_none() {
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

    #[test]
    fn steps_are_collected_as_they_end_each_with_its_parent() {
        let first = first();
        let here = first.trace();
        let mut next = here.step(SpanKind::Client, format_args!("step {}", 2));
        next.set("rows", 7);
        next.link(here);
        next.began_before(Duration::from_secs(1));
        next.done();
        first.fail("no");
        let steps = collected(here);
        let [next, first] = &steps[..] else { panic!("{steps:?}") };
        assert_eq!((next.name.as_str(), next.kind), ("step 2", SpanKind::Client));
        assert_eq!((next.parent, first.parent), (Some(here.step_id), None));
        assert_eq!(next.attributes, [("rows", Value::Number(7))]);
        assert_eq!(next.links, [here]);
        assert!(next.took >= Duration::from_secs(1) && next.start < first.start);
        assert_eq!((next.failure.as_deref(), first.failure.as_deref()), (None, Some("no")));
    }

    #[test]
    fn a_step_that_is_dropped_was_cut_off() {
        let first = first();
        let here = first.trace();
        drop(first);
        assert_eq!(collected(here)[0].failure.as_deref(), Some("cut off"));
    }

    #[test]
    fn what_its_caller_does_not_record_is_not_recorded_here() {
        drop(first());
        let unwanted = "00-0af7651916cd43dd8448eb211c80319d-b7ad6b7169203331-00";
        let unwanted: SpanContext = unwanted.parse().unwrap();
        unwanted.step(SpanKind::Server, "unwanted").trace().step(SpanKind::Internal, "next").done();
        assert!(collected(unwanted).is_empty());
    }
}
