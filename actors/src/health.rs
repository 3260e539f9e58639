//! The owner of a node's pulse: whether its database answers, and what waits in there, for whoever watches the node. It
//! has a connection of its own, so that it answers while all others are in use.

use std::collections::HashMap;

use serde_json::{Value, json};
use shop_persistence::{Database, Result, Session, dead_letters, outbox};
use shop_runtime::{Actor, ActorContext, HandlerResult, respond};
use strum::IntoStaticStr;
use tokio::time::Instant;

use crate::Reply;

/// What the owner of the pulse may be asked.
#[derive(Debug, IntoStaticStr)]
pub enum Msg {
    /// Does the database answer?
    Ping(Reply<()>),
    /// What waits there, as it was then or later?
    Read(Instant, Reply<HealthReading>),
}

/// What waits in a database.
#[derive(Debug, Clone, Default)]
pub struct HealthReading {
    /// Events not yet confirmed by the broker.
    pub outbox_length: i64,
    /// How many seconds the oldest of them has waited.
    pub outbox_age_seconds: f64,
    /// How many dead letters there are of each queue that has any.
    pub dead_letters: HashMap<String, i64>,
}

/// Owns the pulse.
#[derive(Debug)]
pub struct HealthMonitor {
    session: Session,
    last: Option<(Instant, HealthReading)>,
}

impl HealthMonitor {
    /// The pulse of this database.
    pub fn new(database: &Database) -> HealthMonitor {
        HealthMonitor { session: database.session(), last: None }
    }

    /// Many who ask at once are told of one look.
    async fn read(&mut self, since: Instant) -> Result<HealthReading> {
        if let Some((at, reading)) = &self.last
            && *at >= since
        {
            return Ok(reading.clone());
        }
        let began = Instant::now();
        let read = async |connection: &mut _| {
            let (outbox_length, outbox_age_seconds) = outbox::backlog(connection).await?;
            let dead_letters = dead_letters::count(connection).await?.into_iter().collect();
            Ok(HealthReading { outbox_length, outbox_age_seconds, dead_letters })
        };
        let reading = self.session.within(read).await?;
        self.last = Some((began, reading.clone()));
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
            Msg::Ping(reply) => respond(reply, self.session.ping().await),
            Msg::Read(since, reply) => respond(reply, self.read(since).await),
        }
    }
}
