//! What a node counts, in a registry of its own: many nodes fit in one process.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;

use prometheus::{
    CounterVec, Encoder, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, Opts,
    Registry, TextEncoder,
};

/// A node's counters. Clones count into the same registry; every request has one.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<Counters>);

impl Deref for Metrics {
    type Target = Counters;

    fn deref(&self) -> &Counters {
        &self.0
    }
}

/// What is counted.
#[derive(Debug)]
pub struct Counters {
    registry: Registry,
    /// Whether requests are counted and timed.
    pub counts_requests: bool,
    /// Requests answered, by route, method and status.
    pub requests: IntCounterVec,
    /// How long they took, in seconds, by route and method.
    pub request_seconds: HistogramVec,
    /// Requests being worked on.
    pub in_flight: IntGauge,
    /// Events confirmed by the broker, by name.
    pub published: IntCounterVec,
    /// Events applied, by queue; repeated ones too.
    pub consumed: IntCounterVec,
    /// Messages parked among the dead letters, by queue.
    pub dead_lettered: IntCounterVec,
}

/// Upper bounds in seconds: from a hot list to a bcrypt hash under load.
const SECONDS: [f64; 13] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];

impl Metrics {
    /// Counters of the node of this name, and whether requests are counted too.
    pub fn new(node: &str, counts_requests: bool) -> prometheus::Result<Metrics> {
        let labels = HashMap::from([("node".to_owned(), node.to_owned())]);
        let registry = Registry::new_custom(Some("shop".into()), Some(labels))?;
        let counter = |name, help, labels: &[&str]| {
            let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let requests =
            counter("http_requests_total", "Requests answered.", &["route", "method", "status"])?;
        let published =
            counter("events_published_total", "Events confirmed by the broker.", &["event"])?;
        let consumed =
            counter("events_consumed_total", "Events applied, repeated ones too.", &["queue"])?;
        let dead_lettered = counter(
            "events_dead_lettered_total",
            "Messages parked among the dead letters.",
            &["queue"],
        )?;
        let options = HistogramOpts::new("http_request_seconds", "How long requests took.");
        let request_seconds =
            HistogramVec::new(options.buckets(SECONDS.to_vec()), &["route", "method"])?;
        registry.register(Box::new(request_seconds.clone()))?;
        let in_flight = IntGauge::new("http_requests_in_flight", "Requests being worked on.")?;
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

    /// All figures in Prometheus' text format, with those `read` for the occasion behind what was counted.
    pub fn render(&self, read: &Readings) -> prometheus::Result<String> {
        let mut families = self.registry.gather();
        families.extend(read.registry.gather());
        let mut text = vec![];
        TextEncoder::new().encode(&families, &mut text)?;
        String::from_utf8(text).map_err(|error| prometheus::Error::Msg(error.to_string()))
    }
}

/// Figures that are not counted as things happen but read when somebody looks.
#[derive(Debug)]
pub struct Readings {
    registry: Registry,
}

impl Readings {
    /// No figures yet, of the node of this name.
    pub fn new(node: &str) -> prometheus::Result<Readings> {
        let labels = HashMap::from([("node".to_owned(), node.to_owned())]);
        Ok(Readings { registry: Registry::new_custom(Some("shop".into()), Some(labels))? })
    }

    /// Adds a figure, once for each value of its one label. By Prometheus' naming, one whose name ends in `_total`
    /// only grows.
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
            values
                .into_iter()
                .for_each(|(value, figure)| counter.with_label_values(&[&value]).inc_by(figure));
            return self.registry.register(Box::new(counter));
        }
        let gauge = GaugeVec::new(options, labels)?;
        values
            .into_iter()
            .for_each(|(value, figure)| gauge.with_label_values(&[&value]).set(figure));
        self.registry.register(Box::new(gauge))
    }
}
