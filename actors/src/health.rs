//! The health check of a node: whether its database responds, and the backlog in it. The actor has a
//! connection of its own, so that it responds while all others are in use.

use std::collections::HashMap;

use serde_json::{Value, json};
use shop_persistence::{Database, Session, dead_letters, outbox};
use shop_runtime::{Actor, ActorContext, HandlerResult, respond};
use strum::IntoStaticStr;
use tokio::time::Instant;

use crate::{Reply, Result};

/// Messages of the health monitor.
#[derive(Debug, IntoStaticStr)]
pub enum Msg {
    /// Checks whether the database responds.
    Ping(Reply<()>),
    /// Reads the backlog; a reading taken at or after this time may be reused.
    Read(Instant, Reply<HealthReading>),
}

/// The backlog in a database.
#[derive(Debug, Clone, Default)]
pub struct HealthReading {
    /// Events not yet confirmed by the broker.
    pub outbox_length: i64,
    /// The age of the oldest of them, in seconds.
    pub outbox_age_seconds: f64,
    /// The number of dead letters by queue.
    pub dead_letters: HashMap<String, i64>,
}

/// The actor that checks the database.
#[derive(Debug)]
pub struct HealthMonitor {
    session: Session,
    last: Option<(Instant, HealthReading)>,
}

impl HealthMonitor {
    /// The health monitor of this database.
    pub fn new(database: &Database) -> HealthMonitor {
        HealthMonitor { session: database.session(), last: None }
    }

    /// Concurrent callers share one query.
    async fn read(&mut self, since: Instant) -> Result<HealthReading> {
        if let Some((at, reading)) = &self.last
            && *at >= since
        {
            return Ok(reading.clone());
        }
        let started = Instant::now();
        let read = async |connection: &mut _| {
            let (outbox_length, outbox_age_seconds) = outbox::backlog(connection).await?;
            let dead_letters = dead_letters::count(connection).await?.into_iter().collect();
            Ok(HealthReading { outbox_length, outbox_age_seconds, dead_letters })
        };
        let reading = self.session.within(read).await?;
        self.last = Some((started, reading.clone()));
        Ok(reading)
    }
}

impl Actor for HealthMonitor {
    type Msg = Msg;

    fn state(&self) -> Value {
        json!({"connected": self.session.is_open()})
    }

    async fn handle(&mut self, _: &ActorContext<Msg>, message: Msg) -> HandlerResult {
        match message {
            Msg::Ping(reply) => respond(reply, Ok(self.session.ping().await?)),
            Msg::Read(since, reply) => respond(reply, self.read(since).await),
        }
    }
}
