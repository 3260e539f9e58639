//! Traces: to an OpenTelemetry collector, in batches, from a thread of its own. The ids are ours; a collector that is
//! away costs nothing but the traces of meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use opentelemetry::trace::{
    Link, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, SpanData, SpanExporter as Exporter, SpanLinks,
    SpanProcessor,
};
use shop_runtime::trace::{
    self, SpanContext as OwnSpanContext, SpanData as OwnSpanData, SpanKind as OwnSpanKind, Value,
};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{self, Context as Spans};

use crate::Node;
use crate::config::Telemetry;

/// At most so many spans wait for the collector; what is more is dropped.
const MOST_THAT_WAIT: usize = 8192;

/// How long the collector may take for a batch; and at the end, for what is left.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long a span waits for others to go with it.
const GATHERING: Duration = Duration::from_millis(500);

/// Exports what is recorded for as long as it lives, and at its end what is left.
#[derive(Debug)]
pub struct Exporting(Option<Arc<BatchSpanProcessor>>);

/// Starts to record traces, if they shall go anywhere. Once per process, before logging and databases.
///
/// # Errors
/// When the collector's address is none.
pub fn start(telemetry: &Telemetry, nodes: &[Node]) -> anyhow::Result<Exporting> {
    let Telemetry { otlp_endpoint, sample_percent, .. } = telemetry;
    if otlp_endpoint.is_empty() {
        return Ok(Exporting(None));
    }
    let exporter = SpanExporter::builder()
        .with_http()
        .with_endpoint(format!("{}/v1/traces", otlp_endpoint.trim_end_matches('/')))
        .with_timeout(PATIENCE)
        .build()
        .context("telemetry.otlp_endpoint")?;
    let batches = BatchConfigBuilder::default()
        .with_max_queue_size(MOST_THAT_WAIT)
        .with_scheduled_delay(GATHERING)
        .build();
    let exporter = Patient { exporter, away: AtomicBool::new(false) };
    let mut processor = BatchSpanProcessor::new(exporter, batches);
    processor.set_resource(&resource(nodes));
    let processor = Arc::new(processor);
    let taking = processor.clone();
    let scope = InstrumentationScope::builder("shop").build();
    trace::set_exporter(f64::from(*sample_percent) / 100.0, move |ended| {
        taking.on_end(span(ended, scope.clone()));
    });
    Ok(Exporting(Some(processor)))
}

impl Drop for Exporting {
    fn drop(&mut self) {
        if let Some(processor) = &self.0 {
            processor.shutdown_with_timeout(PATIENCE).ok(); // it was said that the collector is away
        }
    }
}

/// Who speaks: the shop, or the one node of it that this process is.
fn resource(nodes: &[Node]) -> Resource {
    let name = match nodes {
        [node] => format!("shop-{}", node.name()),
        _ => "shop".to_owned(),
    };
    Resource::builder_empty()
        .with_attribute(KeyValue::new("service.name", name))
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attribute(KeyValue::new("process.pid", i64::from(std::process::id())))
        .build()
}

/// Says once that the collector is away, and once that it is back.
#[derive(Debug)]
struct Patient {
    exporter: SpanExporter,
    away: AtomicBool,
}

impl Exporter for Patient {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let outcome = self.exporter.export(batch).await;
        let was_away = self.away.swap(outcome.is_err(), Relaxed);
        match &outcome {
            Err(error) if !was_away => {
                tracing::warn!(%error, "the collector takes no traces; those of meanwhile are lost");
            }
            Ok(()) if was_away => tracing::info!("the collector takes traces again"),
            _ => {}
        }
        outcome
    }

    fn shutdown_with_timeout(&self, patience: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(patience)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

fn span(ended: OwnSpanData, instrumentation_scope: InstrumentationScope) -> SpanData {
    let start_time = SystemTime::from(ended.start);
    let mut links = SpanLinks::default();
    links.links = ended.links.into_iter().map(|other| Link::with_context(context(other))).collect();
    SpanData {
        span_context: context(ended.context),
        parent_span_id: SpanId::from(ended.parent.unwrap_or_default()),
        parent_span_is_remote: matches!(ended.kind, OwnSpanKind::Server | OwnSpanKind::Consumer),
        span_kind: match ended.kind {
            OwnSpanKind::Server => SpanKind::Server,
            OwnSpanKind::Client => SpanKind::Client,
            OwnSpanKind::Producer => SpanKind::Producer,
            OwnSpanKind::Consumer => SpanKind::Consumer,
            OwnSpanKind::Internal => SpanKind::Internal,
        },
        name: ended.name.into(),
        start_time,
        end_time: start_time + ended.duration,
        attributes: ended.attributes.into_iter().map(attribute).collect(),
        dropped_attributes_count: 0,
        events: Default::default(),
        links,
        status: ended.error.map_or(Status::Unset, Status::error),
        instrumentation_scope,
    }
}

fn context(trace: OwnSpanContext) -> SpanContext {
    let (trace_id, span_id) = (TraceId::from(trace.trace_id()), SpanId::from(trace.span_id()));
    SpanContext::new(trace_id, span_id, TraceFlags::SAMPLED, false, TraceState::NONE)
}

fn attribute((key, value): (&'static str, Value)) -> KeyValue {
    match value {
        Value::Text(text) => KeyValue::new(key, text),
        Value::Number(number) => KeyValue::new(key, number),
    }
}

/// What sqlx calls its log lines of statements.
pub(crate) const STATEMENTS: &str = "sqlx::query";

/// Makes of each SQL statement that sqlx logs a step of the trace that it belongs to.
pub(crate) struct Statements;

impl<S: Subscriber> layer::Layer<S> for Statements {
    fn on_event(&self, event: &Event<'_>, _: Spans<'_, S>) {
        let Some(trace) = OwnSpanContext::current() else { return };
        let mut statement = Statement::default();
        event.record(&mut statement);
        let Statement { summary, text, seconds, rows } = statement;
        let text = if text.is_empty() { summary.clone() } else { text };
        let mut step = trace.child(OwnSpanKind::Client, summary);
        step.set("db.system.name", "postgresql");
        step.set("db.query.text", text.as_str());
        step.set("db.response.returned_rows", rows);
        step.started_before(Duration::try_from_secs_f64(seconds).unwrap_or_default());
        step.finish();
    }
}

/// A statement, as sqlx logs it.
#[derive(Default)]
struct Statement {
    /// Its first words.
    summary: String,
    /// All of it, if that is more.
    text: String,
    seconds: f64,
    rows: i64,
}

impl Visit for Statement {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "summary" => self.summary = value.trim_end_matches(" …").to_owned(),
            "db.statement" => self.text = value.trim().to_owned(),
            _ => {}
        }
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if field.name() == "elapsed_secs" {
            self.seconds = value;
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "rows_returned" {
            self.rows = value.try_into().unwrap_or(i64::MAX);
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}

#[cfg(test)]
mod tests {
    use crate::Config;

    #[test]
    fn a_collector_that_is_no_url_is_refused_by_its_key() {
        let read = |value: &str| {
            let variable = ("SHOP__TELEMETRY__OTLP_ENDPOINT".to_owned(), value.to_owned());
            Config::read(None, [variable]).map(drop).map_err(|error| error.to_string())
        };
        assert_eq!(read("https://collector.internal:4318"), Ok(()));
        assert_eq!(
            read("collector:4318"),
            Err("environment variable SHOP__TELEMETRY__OTLP_ENDPOINT: telemetry.otlp_endpoint \
                 must be a URL, such as http://127.0.0.1:4318, or empty"
                .to_owned())
        );
    }
}
