//! What operators call: whether a node lives and is ready, and its metrics.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::{Json, Router, routing};
use serde::Serialize;
use shop_actors::{Figures, Metrics, Readings};
use shop_persistence::{Database, Error};

use crate::problem::{Failure, Result};

/// How long the database may take to answer before it counts as away.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a node's health and metrics are read from.
#[derive(Clone)]
pub struct Vitals {
    /// The node's name.
    pub node: &'static str,
    /// Its database.
    pub database: Database,
    /// Whether there is a connection to the broker.
    pub broker: Arc<AtomicBool>,
    /// The queues that it listens on.
    pub queues: Vec<&'static str>,
    /// The figures of its owners' mailboxes.
    pub mailboxes: Arc<dyn Fn() -> Vec<Figures> + Send + Sync>,
    /// What it counts.
    pub metrics: Metrics,
}

impl fmt::Debug for Vitals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vitals").field("node", &self.node).finish_non_exhaustive()
    }
}

/// The routes of a node's operation: open to all, and answered also when all else is refused.
pub fn routes(vitals: Vitals) -> Router {
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

async fn ready(State(vitals): State<Vitals>) -> Result<Json<Status>> {
    let database = tokio::time::timeout(PATIENCE, vitals.database.ping()).await;
    let mut away = vec![];
    if !matches!(database, Ok(Ok(()))) {
        away.push("database");
    }
    if !vitals.broker.load(Relaxed) {
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

async fn metrics(State(vitals): State<Vitals>) -> Result<impl IntoResponse> {
    let stored = async { stored(&vitals.database).await.ok() };
    let stored = tokio::time::timeout(PATIENCE, stored).await.ok().flatten();
    let text = read(&vitals, stored)
        .and_then(|readings| vitals.metrics.render(&readings))
        .map_err(|error| Error::Bug(error.into()))?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text))
}

/// What is read from the database.
struct Stored {
    /// How long the outbox is, and how many seconds its oldest event has waited.
    backlog: (i64, f64),
    /// How many dead letters there are of each queue that has any.
    dead_letters: HashMap<String, i64>,
}

async fn stored(database: &Database) -> shop_persistence::Result<Stored> {
    let backlog = database.backlog().await?;
    let dead_letters = database.dead_letters().await?.into_iter().collect();
    Ok(Stored { backlog, dead_letters })
}

/// A figure of a mailbox: its name, what it means, and where it is found.
type MailboxFigure = (&'static str, &'static str, fn(&Figures) -> f64);

const MAILBOX: [MailboxFigure; 6] = [
    ("mailbox_depth", "Messages that wait or are being handled.", |of| of.depth as f64),
    ("mailbox_capacity", "At most so many messages wait.", |of| of.capacity as f64),
    ("mailbox_handled_total", "Messages handled.", |of| of.handled as f64),
    ("mailbox_rejected_total", "Asks refused: the mailbox was full.", |of| of.rejected as f64),
    ("mailbox_expired_total", "Messages whose asker had given up.", |of| of.expired as f64),
    ("mailbox_busy_seconds_total", "Time spent on messages.", |of| of.busy.as_secs_f64()),
];

/// Reads the figures that are not counted. Those in the database are left out while it is away.
fn read(vitals: &Vitals, stored: Option<Stored>) -> prometheus::Result<Readings> {
    let readings = Readings::new(vitals.node)?;
    let mailboxes = (vitals.mailboxes)();
    for (name, help, figure) in MAILBOX {
        let each = mailboxes.iter().map(|figures| (figures.name.clone(), figure(figures)));
        readings.add(name, help, "owner", each)?;
    }
    if let Some(Stored { backlog: (length, age), dead_letters }) = stored {
        let of = |queue: &str| dead_letters.get(queue).map_or(0.0, |count| *count as f64);
        let each = vitals.queues.iter().map(|queue| (queue.to_string(), of(queue)));
        let help = "Messages that could not be applied and wait for a person.";
        readings.add("dead_letters", help, "queue", each)?;
        let outbox = |figure| [("outbox".to_owned(), figure)];
        readings.add(
            "outbox_length",
            "Events not yet confirmed by the broker.",
            "table",
            outbox(length as f64),
        )?;
        readings.add(
            "outbox_age_seconds",
            "How long the oldest of them has waited.",
            "table",
            outbox(age),
        )?;
    }
    let (open, idle) = vitals.database.connections();
    let connections = [("open".to_owned(), f64::from(open)), ("idle".to_owned(), idle as f64)];
    readings.add("pool_connections", "Connections to the database.", "state", connections)?;
    let broker = [("broker".to_owned(), f64::from(u8::from(vitals.broker.load(Relaxed))))];
    readings.add("up", "Whether there is a connection.", "to", broker)?;
    Ok(readings)
}
