//! What operators call: whether a node lives and is ready, and its metrics.

use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::{Json, Router, routing};
use jiff::Timestamp;
use serde::Serialize;
use shop_actors::health::{HealthReading, Msg};
use shop_actors::{Metrics, Readings};
use shop_persistence::{Database, Error};
use shop_runtime::Addr;
use shop_runtime::registry::{ActorKind, ActorMetrics, ActorRegistry, ActorView, Status as Fares};
use tokio::sync::watch;
use tokio::time::Instant;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::problem::{Failure, Result};

/// How long the database may take to answer before it counts as away.
const PATIENCE: Duration = Duration::from_secs(2);

/// Many may look at the node every second; its database is read once for all of them.
const FRESH: Duration = Duration::from_secs(1);

/// How long a look at the node waits for its database.
const GLANCE: Duration = Duration::from_millis(250);

/// What a node's health and metrics are read from.
#[derive(Debug, Clone)]
pub struct Health {
    /// The node's name.
    pub node: &'static str,
    /// Its process, by a made-up name.
    pub process: Uuid,
    /// Since when that runs.
    pub started_at: Timestamp,
    /// Its database.
    pub database: Database,
    /// Who tells what waits in it.
    pub health_monitor: Addr<Msg>,
    /// Whether there is a connection to the broker.
    pub broker: watch::Receiver<bool>,
    /// The queues that it listens on.
    pub queues: Vec<&'static str>,
    /// What is measured of its actors.
    pub registry: ActorRegistry,
    /// What it counts.
    pub metrics: Metrics,
}

/// What a node tells of itself.
#[derive(Debug, Serialize, ToSchema)]
pub struct NodeState {
    /// Which one.
    #[schema(example = "order")]
    node: &'static str,
    /// Of which version.
    version: &'static str,
    /// Nodes of one process give the same.
    process: Uuid,
    /// Since when it runs.
    #[schema(value_type = String, format = DateTime)]
    started_at: Timestamp,
    /// Whether there is a connection to the broker.
    broker: bool,
    /// Events not yet confirmed by the broker; none while the database does not answer.
    outbox: Option<Outbox>,
    /// How many messages could not be applied and wait for a person.
    dead_letters: Option<i64>,
}

/// Events not yet confirmed by the broker.
#[derive(Debug, Serialize, ToSchema)]
struct Outbox {
    /// How many.
    length: i64,
    /// How many seconds the oldest has waited.
    age_seconds: f64,
}

impl Health {
    /// What waits in the database, as it was at most so long ago; none if it does not tell within `patience`.
    async fn reading(&self, oldest: Duration, patience: Duration) -> Option<HealthReading> {
        let now = Instant::now();
        let since = now.checked_sub(oldest).unwrap_or(now);
        let reading = self.health_monitor.ask((), |reply| Msg::Read(since, reply));
        tokio::time::timeout(patience, reading).await.ok().and_then(Result::ok)
    }

    /// What the node tells of itself now.
    pub async fn state(&self) -> NodeState {
        let reading = self.reading(FRESH, GLANCE).await;
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

/// The routes of a node's operation: open to all, and answered also when all else is refused.
pub fn routes(vitals: Health) -> Router {
    Router::new()
        .route("/", routing::get(ok))
        .route("/health/live", routing::get(ok))
        .route("/health/ready", routing::get(ready))
        .route("/metrics", routing::get(metrics))
        .with_state(vitals)
}

#[derive(Serialize)]
struct Status {
    status: &'static str,
}

async fn ok() -> Json<Status> {
    Json(Status { status: "ok" })
}

async fn ready(State(vitals): State<Health>) -> Result<Json<Status>> {
    let database = tokio::time::timeout(PATIENCE, vitals.health_monitor.ask((), Msg::Ping)).await;
    let mut away = vec![];
    if !matches!(database, Ok(Ok(()))) {
        away.push("database");
    }
    if !*vitals.broker.borrow() {
        away.push("broker");
    }
    match away.is_empty() {
        true => Ok(ok().await),
        false => {
            let detail = format!("away: {}", away.join(", "));
            Err(Failure::new(StatusCode::SERVICE_UNAVAILABLE, detail))
        }
    }
}

async fn metrics(State(vitals): State<Health>) -> Result<impl IntoResponse> {
    let reading = vitals.reading(Duration::ZERO, PATIENCE).await;
    let text = read(&vitals, reading)
        .and_then(|readings| vitals.metrics.render(&readings))
        .map_err(|error| Error::Internal(error.into()))?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text))
}

/// A figure of an actor: its name, what it means, and where it is found.
type ActorFigure = (&'static str, &'static str, fn(&ActorView, &ActorMetrics) -> Option<f64>);

const ACTOR: [ActorFigure; 20] = [
    ("mailbox_depth", "Messages that wait or are being handled.", |of, _| {
        Some(of.mailbox_depth as f64)
    }),
    ("mailbox_high_water", "The most messages there ever were.", |of, _| {
        Some(of.mailbox_high_water as f64)
    }),
    ("mailbox_capacity", "At most so many messages wait.", |of, _| {
        // A service takes no more than it can: that is no limit to watch.
        let limit = of.mailbox_capacity.filter(|_| of.kind != ActorKind::Service);
        limit.map(|capacity| capacity as f64)
    }),
    ("mailbox_handled_total", "Messages handled.", |of, _| Some(of.handled as f64)),
    ("mailbox_rejected_total", "Messages refused: too many waited.", |of, _| {
        Some(of.rejected as f64)
    }),
    ("mailbox_expired_total", "Messages whose asker had given up.", |of, _| {
        Some(of.expired as f64)
    }),
    ("mailbox_lost_total", "Messages that ended with their actor.", |of, _| Some(of.lost as f64)),
    ("mailbox_wait_seconds_total", "Time that messages waited.", |_, actor_metrics| {
        Some(actor_metrics.queue_wait().as_secs_f64())
    }),
    ("mailbox_busy_seconds_total", "Time spent on messages.", |_, actor_metrics| {
        Some(actor_metrics.busy().as_secs_f64())
    }),
    ("mailbox_wait_p50_seconds", "Half of the last messages waited at most so long.", |of, _| {
        of.mailbox_p50_ms.map(seconds)
    }),
    ("mailbox_wait_p99_seconds", "99 of 100 waited at most so long.", |of, _| {
        of.mailbox_p99_ms.map(seconds)
    }),
    ("handler_p50_seconds", "Half of the last messages took at most so long.", |of, _| {
        of.handler_p50_ms.map(seconds)
    }),
    ("handler_p99_seconds", "99 of 100 took at most so long.", |of, _| {
        of.handler_p99_ms.map(seconds)
    }),
    ("handler_max_seconds", "The longest of the last messages.", |of, _| {
        of.handler_max_ms.map(seconds)
    }),
    ("actor_restarts_total", "How often the actor was started again.", |of, _| {
        Some(of.restarts as f64)
    }),
    ("actor_busy_share", "The share of the last second that was spent on messages.", |of, _| {
        Some(of.busy_share)
    }),
    ("actor_stuck", "Whether it has been at one message for over two seconds.", |of, _| {
        Some(truth(of.status == Fares::Stuck))
    }),
    ("actor_overloaded", "Whether it refuses messages.", |of, _| {
        Some(truth(of.status == Fares::Overloaded))
    }),
    ("actor_restarting", "Whether it died and waits to be started again.", |of, _| {
        Some(truth(of.status == Fares::Restarting))
    }),
    ("actor_away", "Whether it was stopped or paused.", |of, _| {
        Some(truth(matches!(of.status, Fares::Stopped | Fares::Paused | Fares::Draining)))
    }),
];

fn seconds(milliseconds: f64) -> f64 {
    milliseconds / 1e3
}

fn truth(is_so: bool) -> f64 {
    f64::from(u8::from(is_so))
}

/// Reads the figures that are not counted. Those in the database are left out while it is away.
fn read(vitals: &Health, stored: Option<HealthReading>) -> prometheus::Result<Readings> {
    let readings = Readings::new(vitals.node)?;
    let all_metrics = vitals.registry.all_metrics();
    let actors: Vec<_> = all_metrics
        .iter()
        .map(|actor_metrics| (ActorView::of(actor_metrics), actor_metrics))
        .collect();
    for (name, help, figure) in ACTOR {
        let each = actors.iter();
        let each = each
            .filter_map(|(of, actor_metrics)| Some((of.path.clone(), figure(of, actor_metrics)?)));
        readings.add(name, help, "actor", each)?;
    }
    if let Some(HealthReading { outbox_length, outbox_age_seconds, dead_letters }) = stored {
        let of = |queue: &str| dead_letters.get(queue).map_or(0.0, |count| *count as f64);
        let each = vitals.queues.iter().map(|queue| (queue.to_string(), of(queue)));
        let help = "Messages that could not be applied and wait for a person.";
        readings.add("dead_letters", help, "queue", each)?;
        let outbox = |figure| [("outbox".to_owned(), figure)];
        readings.add(
            "outbox_length",
            "Events not yet confirmed by the broker.",
            "table",
            outbox(outbox_length as f64),
        )?;
        readings.add(
            "outbox_age_seconds",
            "How long the oldest of them has waited.",
            "table",
            outbox(outbox_age_seconds),
        )?;
    }
    let connections = vitals.database.connections();
    let connections = connections.map(|(state, count)| (state.to_owned(), f64::from(count)));
    readings.add("pool_connections", "Connections to the database.", "state", connections)?;
    let broker = [("broker".to_owned(), truth(*vitals.broker.borrow()))];
    readings.add("up", "Whether there is a connection.", "to", broker)?;
    Ok(readings)
}
