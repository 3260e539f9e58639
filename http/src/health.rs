//! Health and metrics of a node.

use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::{Router, routing};
use jiff::Timestamp;
use serde::Serialize;
use shop_actors::Error;
use shop_actors::health::{HealthReading, Msg};
use shop_actors::{Metrics, Readings};
use shop_persistence::Database;
use shop_runtime::Addr;
use shop_runtime::registry::{ActorKind, ActorMetrics, ActorRegistry, ActorView, Status};
use tokio::sync::watch;
use tokio::time::Instant;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::body::Json;
use crate::problem::{Failure, Result};

/// How long the database may take to respond before it counts as unavailable.
const DATABASE_TIMEOUT: Duration = Duration::from_secs(2);

/// The maximum age of the reading in a node's state: many clients may ask for it every second, and
/// one query serves them all.
const MAX_READING_AGE: Duration = Duration::from_secs(1);

/// How long a node's state waits for the database.
const READING_TIMEOUT: Duration = Duration::from_millis(250);

/// The sources of a node's health and metrics.
#[derive(Debug, Clone)]
pub struct Health {
    /// The node's name.
    pub node: &'static str,
    /// A random id of the process.
    pub process: Uuid,
    /// When the process started.
    pub started_at: Timestamp,
    /// The node's database.
    pub database: Database,
    /// The actor that reads the outbox and the dead letters.
    pub health_monitor: Addr<Msg>,
    /// Whether the broker is connected.
    pub broker: watch::Receiver<bool>,
    /// The queues that the node consumes.
    pub queues: Vec<&'static str>,
    /// The metrics of its actors.
    pub registry: ActorRegistry,
    /// Its other metrics.
    pub metrics: Metrics,
}

/// The state of a node.
#[derive(Debug, Serialize, ToSchema)]
pub struct NodeState {
    /// The node's name.
    #[schema(example = "order")]
    node: &'static str,
    /// The version of the program.
    version: &'static str,
    /// The id of the process; nodes of one process have the same.
    process: Uuid,
    /// When the process started.
    #[schema(value_type = String, format = DateTime)]
    started_at: Timestamp,
    /// Whether the broker is connected.
    broker: bool,
    /// The events that the broker has not confirmed; null while the database is unavailable.
    outbox: Option<Outbox>,
    /// The number of dead letters; null while the database is unavailable.
    dead_letters: Option<i64>,
}

/// The events that the broker has not confirmed.
#[derive(Debug, Serialize, ToSchema)]
struct Outbox {
    /// The number of events.
    length: i64,
    /// The age of the oldest, in seconds.
    age_seconds: f64,
}

impl Health {
    /// A reading of the database that is at most this old; `None` if there is none within the
    /// timeout.
    async fn reading(&self, max_age: Duration, timeout: Duration) -> Option<HealthReading> {
        let now = Instant::now();
        let since = now.checked_sub(max_age).unwrap_or(now);
        let reading = self.health_monitor.ask((), |reply| Msg::Read(since, reply));
        tokio::time::timeout(timeout, reading).await.ok().and_then(Result::ok)
    }

    /// The current state of the node.
    pub async fn state(&self) -> NodeState {
        let reading = self.reading(MAX_READING_AGE, READING_TIMEOUT).await;
        NodeState {
            node: self.node,
            version: env!("CARGO_PKG_VERSION"),
            process: self.process,
            started_at: self.started_at,
            broker: *self.broker.borrow(),
            outbox: reading.as_ref().map(|reading| Outbox {
                length: reading.outbox_length,
                age_seconds: reading.outbox_age_seconds,
            }),
            dead_letters: reading.map(|reading| reading.dead_letters.values().sum()),
        }
    }
}

/// The routes of health and metrics. Anyone may call them, also while the node is overloaded.
pub fn routes(health: Health) -> Router {
    Router::new()
        .route("/", routing::get(live))
        .route("/health/live", routing::get(live))
        .route("/health/ready", routing::get(ready))
        .route("/metrics", routing::get(metrics))
        .with_state(health)
}

#[derive(Serialize)]
struct HealthResponse {
    status: &'static str,
}

async fn live() -> Json<HealthResponse> {
    Json(HealthResponse { status: "ok" })
}

async fn ready(State(health): State<Health>) -> Result<Json<HealthResponse>> {
    let ping = health.health_monitor.ask((), Msg::Ping);
    let database = tokio::time::timeout(DATABASE_TIMEOUT, ping).await;
    let mut unavailable = vec![];
    if !matches!(database, Ok(Ok(()))) {
        unavailable.push("database");
    }
    if !*health.broker.borrow() {
        unavailable.push("broker");
    }
    if unavailable.is_empty() {
        Ok(live().await)
    } else {
        let detail = format!("unavailable: {}", unavailable.join(", "));
        Err(Failure::new(StatusCode::SERVICE_UNAVAILABLE, detail))
    }
}

async fn metrics(State(health): State<Health>) -> Result<impl IntoResponse> {
    let reading = health.reading(Duration::ZERO, DATABASE_TIMEOUT).await;
    let text = readings(&health, reading)
        .and_then(|readings| health.metrics.render(&readings))
        .map_err(|error| Error::Internal(error.into()))?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text))
}

/// A metric of every actor: name, help and value.
type ActorMetric = (&'static str, &'static str, fn(&ActorView, &ActorMetrics) -> Option<f64>);

const ACTOR_METRICS: [ActorMetric; 20] = [
    ("mailbox_depth", "Messages in the mailbox, including those being handled.", |actor, _| {
        Some(actor.mailbox_depth as f64)
    }),
    ("mailbox_high_water", "Maximum of mailbox_depth since the process started.", |actor, _| {
        Some(actor.mailbox_high_water as f64)
    }),
    ("mailbox_capacity", "Maximum number of messages in the mailbox.", |actor, _| {
        // A service takes only as many items as it can handle, so that its capacity is no alarm.
        let capacity = actor.mailbox_capacity.filter(|_| actor.kind != ActorKind::Service);
        capacity.map(|capacity| capacity as f64)
    }),
    ("mailbox_handled_total", "Messages handled.", |actor, _| Some(actor.handled as f64)),
    ("mailbox_rejected_total", "Messages refused because the mailbox was full.", |actor, _| {
        Some(actor.rejected as f64)
    }),
    ("mailbox_expired_total", "Messages dropped because their deadline had passed.", |actor, _| {
        Some(actor.expired as f64)
    }),
    ("mailbox_lost_total", "Messages lost because the actor ended.", |actor, _| {
        Some(actor.lost as f64)
    }),
    ("mailbox_wait_seconds_total", "Time that messages waited in the mailbox.", |_, metrics| {
        Some(metrics.queue_wait().as_secs_f64())
    }),
    ("mailbox_busy_seconds_total", "Time spent handling messages.", |_, metrics| {
        Some(metrics.busy().as_secs_f64())
    }),
    ("mailbox_wait_p50_seconds", "Median of the recent waits in the mailbox.", |actor, _| {
        actor.mailbox_p50_ms.map(seconds)
    }),
    ("mailbox_wait_p99_seconds", "99th percentile of recent waits in the mailbox.", |actor, _| {
        actor.mailbox_p99_ms.map(seconds)
    }),
    ("handler_p50_seconds", "Median of the recent handling times.", |actor, _| {
        actor.handler_p50_ms.map(seconds)
    }),
    ("handler_p99_seconds", "99th percentile of the recent handling times.", |actor, _| {
        actor.handler_p99_ms.map(seconds)
    }),
    ("handler_max_seconds", "Maximum of the recent handling times.", |actor, _| {
        actor.handler_max_ms.map(seconds)
    }),
    ("actor_restarts_total", "Restarts of the actor.", |actor, _| Some(actor.restarts as f64)),
    ("actor_busy_share", "Share of the last second spent handling messages.", |actor, _| {
        Some(actor.busy_share)
    }),
    ("actor_stuck", "1 if a message has been handled for more than two seconds.", |actor, _| {
        Some(flag(actor.status == Status::Stuck))
    }),
    ("actor_overloaded", "1 if the actor refuses messages.", |actor, _| {
        Some(flag(actor.status == Status::Overloaded))
    }),
    ("actor_restarting", "1 if the actor failed and waits for its restart.", |actor, _| {
        Some(flag(actor.status == Status::Restarting))
    }),
    ("actor_unavailable", "1 if the actor is stopped, paused or draining.", |actor, _| {
        let unavailable = [Status::Stopped, Status::Paused, Status::Draining];
        Some(flag(unavailable.contains(&actor.status)))
    }),
];

fn seconds(milliseconds: f64) -> f64 {
    milliseconds / 1e3
}

fn flag(is_set: bool) -> f64 {
    f64::from(u8::from(is_set))
}

/// The metrics that are computed when they are read. Those of the database are missing while it is
/// unavailable.
fn readings(health: &Health, stored: Option<HealthReading>) -> prometheus::Result<Readings> {
    let readings = Readings::new(health.node)?;
    add_actors(health, &readings)?;
    if let Some(stored) = stored {
        add_stored(health, stored, &readings)?;
    }
    let connections = health.database.connections();
    let connections = connections.map(|(state, count)| (state.to_owned(), f64::from(count)));
    readings.add("pool_connections", "Connections to the database.", "state", connections)?;
    let broker = [("broker".to_owned(), flag(*health.broker.borrow()))];
    readings.add("up", "1 if the node is connected.", "to", broker)?;
    Ok(readings)
}

fn add_actors(health: &Health, readings: &Readings) -> prometheus::Result<()> {
    let all = health.registry.all_metrics();
    let actors: Vec<_> = all.iter().map(|metrics| (ActorView::of(metrics), metrics)).collect();
    for (name, help, value) in ACTOR_METRICS {
        let values = actors
            .iter()
            .filter_map(|(view, metrics)| Some((view.path.clone(), value(view, metrics)?)));
        readings.add(name, help, "actor", values)?;
    }
    Ok(())
}

fn add_stored(
    health: &Health,
    stored: HealthReading,
    readings: &Readings,
) -> prometheus::Result<()> {
    let HealthReading { outbox_length, outbox_age_seconds, dead_letters } = stored;
    let count = |queue: &str| dead_letters.get(queue).map_or(0.0, |count| *count as f64);
    let counts = health.queues.iter().map(|queue| (queue.to_string(), count(queue)));
    readings.add("dead_letters", "Dead letters of the queue.", "queue", counts)?;
    let outbox = |value| [("outbox".to_owned(), value)];
    let help = "Events that the broker has not confirmed.";
    readings.add("outbox_length", help, "table", outbox(outbox_length as f64))?;
    let help = "Age of the oldest event that the broker has not confirmed.";
    readings.add("outbox_age_seconds", help, "table", outbox(outbox_age_seconds))
}
