//! Log lines on standard error: text for terminals, JSON for log collectors.

use std::fmt;
use std::io::{IsTerminal, stderr};

use serde_json::json;
use shop_runtime::{TaskContext, trace};
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::{LevelFilter, filter_fn};
use tracing_subscriber::fmt::format::{Format as Shape, JsonFields, Writer, format};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, layer};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, registry};

use crate::config::{Format, Log};
use crate::telemetry::{STATEMENTS, Statements};

/// Starts logging. Once per process.
pub fn start(log: &Log) -> anyhow::Result<()> {
    // The shop logs failures of these crates itself. sqlx logs statements at `info` if a database
    // has `echo = true`, else below it, where only the trace layer sees them.
    let filter = format!(
        "{},amqprs=off,ractor=off,sqlx::postgres::notice=off,sqlx_core::pool=off,{STATEMENTS}=info",
        log.level
    );
    let filter = EnvFilter::try_new(filter)?;
    let lines = layer().with_writer(stderr);
    let lines = match log.format {
        Format::Text => {
            let ansi = stderr().is_terminal();
            let shape = format().with_ansi(ansi).with_target(false);
            lines.with_ansi(ansi).event_format(WithContext { shape, append: append_text }).boxed()
        }
        Format::Json => {
            let shape = format().json().flatten_event(true).with_span_list(false);
            let lines = lines.fmt_fields(JsonFields::new());
            lines.event_format(WithContext { shape, append: append_json }).boxed()
        }
    };
    let statements = trace::is_exported().then(|| {
        let only = filter_fn(|metadata| metadata.target() == STATEMENTS);
        Statements.with_filter(only.with_max_level_hint(LevelFilter::DEBUG))
    });
    let started = registry().with(statements).with(lines.with_filter(filter)).try_init();
    started.map_err(|error| anyhow::anyhow!("logging cannot start: {error}"))
}

/// Formats a line and appends the request and trace ids of the current task.
struct WithContext<F> {
    shape: Shape<F>,
    append: fn(line: &str, task: &TaskContext) -> String,
}

impl<F, S, N> FormatEvent<S, N> for WithContext<F>
where
    Shape<F>: FormatEvent<S, N>,
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let Some(task) = TaskContext::current() else {
            return self.shape.format_event(context, writer, event);
        };
        let mut line = String::new();
        self.shape.format_event(context, Writer::new(&mut line), event)?;
        writeln!(writer, "{}", (self.append)(line.trim_end(), &task))
    }
}

/// Appends fields to a line of text.
fn append_text(line: &str, TaskContext { span, request_id }: &TaskContext) -> String {
    let request = request_id.as_ref().map(|id| format!(" request.id={id}")).unwrap_or_default();
    format!("{line}{request} trace.id={}", span.trace_id_hex())
}

/// Adds the field `span` to a JSON object.
fn append_json(object: &str, TaskContext { span, request_id }: &TaskContext) -> String {
    let open = object.strip_suffix('}').unwrap_or(object);
    let trace = span.trace_id_hex().to_string();
    let span = match request_id {
        Some(request) => json!({"request.id": &**request, "trace.id": trace}),
        None => json!({"trace.id": trace}),
    };
    format!("{open},\"span\":{span}}}")
}
