//! Prometheus metrics of a node. Each node has its own registry, because one process can run several.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;

use prometheus::{
    CounterVec, Encoder, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, Opts,
    Registry, TextEncoder,
};

/// The metrics of a node. Clones share the registry.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<Counters>);

impl Deref for Metrics {
    type Target = Counters;

    fn deref(&self) -> &Counters {
        &self.0
    }
}

/// The counters of a node.
#[derive(Debug)]
pub struct Counters {
    registry: Registry,
    /// Whether requests are counted and timed.
    pub counts_requests: bool,
    /// HTTP responses, by route, method and status.
    pub requests: IntCounterVec,
    /// Request durations in seconds, by route and method.
    pub request_seconds: HistogramVec,
    /// Requests in flight.
    pub in_flight: IntGauge,
    /// Events confirmed by the broker, by name.
    pub published: IntCounterVec,
    /// Events applied, by queue, including redelivered ones.
    pub consumed: IntCounterVec,
    /// Messages dead-lettered, by queue.
    pub dead_lettered: IntCounterVec,
}

/// Upper bounds of the buckets in seconds: from a cached list to a bcrypt hash under load.
const SECONDS: [f64; 13] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];

impl Metrics {
    /// The metrics of the node with this name. With `counts_requests` false, requests are not counted.
    pub fn new(node: &str, counts_requests: bool) -> prometheus::Result<Metrics> {
        let labels = HashMap::from([("node".to_owned(), node.to_owned())]);
        let registry = Registry::new_custom(Some("shop".into()), Some(labels))?;
        let counter = |name, help, labels: &[&str]| {
            let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let requests =
            counter("http_requests_total", "HTTP responses sent.", &["route", "method", "status"])?;
        let published =
            counter("events_published_total", "Events confirmed by the broker.", &["event"])?;
        let consumed = counter(
            "events_consumed_total",
            "Events applied, including redelivered ones.",
            &["queue"],
        )?;
        let dead_lettered =
            counter("events_dead_lettered_total", "Messages dead-lettered.", &["queue"])?;
        let options = HistogramOpts::new("http_request_seconds", "Request duration in seconds.");
        let request_seconds =
            HistogramVec::new(options.buckets(SECONDS.to_vec()), &["route", "method"])?;
        registry.register(Box::new(request_seconds.clone()))?;
        let in_flight = IntGauge::new("http_requests_in_flight", "Requests in flight.")?;
        registry.register(Box::new(in_flight.clone()))?;
        Ok(Metrics(Arc::new(Counters {
            registry,
            counts_requests,
            requests,
            request_seconds,
            in_flight,
            published,
            consumed,
            dead_lettered,
        })))
    }

    /// All metrics in the Prometheus text format, the `readings` after the counters.
    pub fn render(&self, readings: &Readings) -> prometheus::Result<String> {
        let mut families = self.registry.gather();
        families.extend(readings.registry.gather());
        let mut text = vec![];
        TextEncoder::new().encode(&families, &mut text)?;
        String::from_utf8(text).map_err(|error| prometheus::Error::Msg(error.to_string()))
    }
}

/// Metrics that are read at each scrape instead of being counted.
#[derive(Debug)]
pub struct Readings {
    registry: Registry,
}

impl Readings {
    /// No readings yet, of the node with this name.
    pub fn new(node: &str) -> prometheus::Result<Readings> {
        let labels = HashMap::from([("node".to_owned(), node.to_owned())]);
        Ok(Readings { registry: Registry::new_custom(Some("shop".into()), Some(labels))? })
    }

    /// Adds a metric with one value for each value of its label. As in the Prometheus naming convention, a
    /// name that ends in `_total` is a counter.
    pub fn add(
        &self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (String, f64)>,
    ) -> prometheus::Result<()> {
        let (options, labels) = (Opts::new(name, help), &[label]);
        if name.ends_with("_total") {
            let counter = CounterVec::new(options, labels)?;
            for (value, reading) in values {
                counter.with_label_values(&[&value]).inc_by(reading);
            }
            return self.registry.register(Box::new(counter));
        }
        let gauge = GaugeVec::new(options, labels)?;
        for (value, reading) in values {
            gauge.with_label_values(&[&value]).set(reading);
        }
        self.registry.register(Box::new(gauge))
    }
}
