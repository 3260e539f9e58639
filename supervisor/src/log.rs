//! Log lines: readable on a terminal, JSON for collectors. They go to standard error.

use std::fmt;
use std::io::{IsTerminal, stderr};

use serde_json::json;
use shop_persistence::{Cause, trace};
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::{LevelFilter, filter_fn};
use tracing_subscriber::fmt::format::{Format as Shape, Full, Json, JsonFields, Writer, format};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, layer};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, registry};

use crate::config::{Format, Log};
use crate::telemetry::{STATEMENTS, Statements};

/// Starts logging. Once per process.
pub fn start(log: &Log) -> anyhow::Result<()> {
    // What these log themselves, a session or supervisor of ours handles and says in its own words. A statement is
    // logged where that is asked for (`echo`); one that is only traced is of a lower level.
    let filter = format!(
        "{},amqprs=off,ractor=off,sqlx::postgres::notice=off,sqlx_core::pool=off,{STATEMENTS}=info",
        log.level
    );
    let filter = EnvFilter::try_new(filter)?;
    let lines = layer().with_writer(stderr);
    let lines = match log.format {
        Format::Text => {
            let ansi = stderr().is_terminal();
            let text = format().with_ansi(ansi).with_target(false);
            lines.with_ansi(ansi).event_format(Text(text)).boxed()
        }
        Format::Json => {
            let json = format().json().flatten_event(true).with_span_list(false);
            lines.fmt_fields(JsonFields::new()).event_format(Object(json)).boxed()
        }
    };
    let statements = trace::is_collected().then(|| {
        let only = filter_fn(|metadata| metadata.target() == STATEMENTS);
        Statements.with_filter(only.with_max_level_hint(LevelFilter::DEBUG))
    });
    let started = registry().with(statements).with(lines.with_filter(filter)).try_init();
    started.map_err(|error| anyhow::anyhow!("logging cannot start: {error}"))
}

/// A line of text that ends with what it was for.
struct Text(Shape<Full>);

impl<S, N> FormatEvent<S, N> for Text
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let Some(Cause { trace, request }) = Cause::current() else {
            return self.0.format_event(context, writer, event);
        };
        let mut line = String::new();
        self.0.format_event(context, Writer::new(&mut line), event)?;
        write!(writer, "{}", line.trim_end())?;
        if let Some(request) = request {
            write!(writer, " request.id={request}")?;
        }
        writeln!(writer, " trace.id={}", trace.shown_id())
    }
}

/// An object of JSON, what it was for with it.
struct Object(Shape<Json>);

impl<S, N> FormatEvent<S, N> for Object
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let Some(Cause { trace, request }) = Cause::current() else {
            return self.0.format_event(context, writer, event);
        };
        let mut line = String::new();
        self.0.format_event(context, Writer::new(&mut line), event)?;
        let line = line.trim_end();
        let object = line.strip_suffix('}').unwrap_or(line);
        let trace = trace.shown_id().to_string();
        let span = match request {
            Some(request) => json!({"request.id": &*request, "trace.id": trace}),
            None => json!({"trace.id": trace}),
        };
        writeln!(writer, "{object},\"span\":{span}}}")
    }
}
