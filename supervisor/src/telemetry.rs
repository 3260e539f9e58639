//! Exports spans to an OpenTelemetry collector, in batches, on a thread of its own. While the
//! collector is unavailable, its spans are dropped and nothing else is affected.

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

/// Maximum number of spans that wait for export. Further spans are dropped.
const MAX_QUEUED_SPANS: usize = 8192;

/// Timeout of an export, and of the last one at shutdown.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(2);

/// Maximum delay of a span before its batch is exported.
const BATCH_DELAY: Duration = Duration::from_millis(500);

/// Exports spans while it lives, and those that are left when it is dropped.
#[derive(Debug)]
pub struct ExportGuard(Option<Arc<BatchSpanProcessor>>);

/// Starts to record spans if a collector is configured. Call it once per process, before logging and
/// databases start.
///
/// # Errors
/// When the collector's URL is invalid.
pub fn start(telemetry: &Telemetry, nodes: &[Node]) -> anyhow::Result<ExportGuard> {
    let Telemetry { otlp_endpoint, sample_percent, .. } = telemetry;
    if otlp_endpoint.is_empty() {
        return Ok(ExportGuard(None));
    }
    let exporter = SpanExporter::builder()
        .with_http()
        .with_endpoint(format!("{}/v1/traces", otlp_endpoint.trim_end_matches('/')))
        .with_timeout(EXPORT_TIMEOUT)
        .build()
        .context("telemetry.otlp_endpoint")?;
    let batches = BatchConfigBuilder::default()
        .with_max_queue_size(MAX_QUEUED_SPANS)
        .with_scheduled_delay(BATCH_DELAY)
        .build();
    let exporter = LoggingExporter { exporter, is_failing: AtomicBool::new(false) };
    let mut processor = BatchSpanProcessor::new(exporter, batches);
    processor.set_resource(&resource(nodes));
    let processor = Arc::new(processor);
    let receiver = processor.clone();
    let scope = InstrumentationScope::builder("shop").build();
    trace::set_exporter(f64::from(*sample_percent) / 100.0, move |ended| {
        receiver.on_end(span(ended, scope.clone()));
    });
    Ok(ExportGuard(Some(processor)))
}

impl Drop for ExportGuard {
    fn drop(&mut self) {
        if let Some(processor) = &self.0 {
            processor.shutdown_with_timeout(EXPORT_TIMEOUT).ok(); // the exporter logs failures
        }
    }
}

/// The service that the spans belong to: the shop, or its one node in this process.
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

/// Logs when exports start to fail and when they succeed again.
#[derive(Debug)]
struct LoggingExporter {
    exporter: SpanExporter,
    is_failing: AtomicBool,
}

impl Exporter for LoggingExporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let outcome = self.exporter.export(batch).await;
        let was_failing = self.is_failing.swap(outcome.is_err(), Relaxed);
        match &outcome {
            Err(error) if !was_failing => {
                tracing::warn!(%error, "exporting spans fails; spans are dropped until the collector accepts them again");
            }
            Ok(()) if was_failing => tracing::info!("exporting spans works again"),
            _ => {}
        }
        outcome
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
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

/// Target of the log events that sqlx emits for statements.
pub(crate) const STATEMENTS: &str = "sqlx::query";

/// Turns each statement that sqlx logs into a span of the current trace.
pub(crate) struct Statements;

impl<S: Subscriber> layer::Layer<S> for Statements {
    fn on_event(&self, event: &Event<'_>, _: Spans<'_, S>) {
        let Some(trace) = OwnSpanContext::current() else { return };
        let mut statement = Statement::default();
        event.record(&mut statement);
        let Statement { summary, text, seconds, rows } = statement;
        let text = if text.is_empty() { summary.clone() } else { text };
        let mut span = trace.child(OwnSpanKind::Client, summary);
        span.set("db.system.name", "postgresql");
        span.set("db.query.text", text.as_str());
        span.set("db.response.returned_rows", rows);
        span.started_before(Duration::try_from_secs_f64(seconds).unwrap_or_default());
        span.finish();
    }
}

/// The fields of a statement's log event.
#[derive(Default)]
struct Statement {
    /// The first words of the SQL.
    summary: String,
    /// The whole SQL, if it is longer than the summary.
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
    fn an_endpoint_that_is_not_a_url_is_refused() {
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
