//! Dead letters: from the broker's dead-letter queues into the node's database.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use shop_actors::Error;
use shop_actors::dead_letters::Msg;
use shop_persistence::dead_letters::{DeadLetter, Payload};
use shop_runtime::registry::ActorMetrics;
use shop_runtime::{Addr, Backoff, HandlerResult, Service, now};
use tokio_util::sync::CancellationToken;

use crate::{Connection, DeadLetterMeta, Deliveries, Delivery, Result, topology};

/// The maximum number of dead letters that are delivered and not yet stored.
pub const PREFETCH: u16 = 64;

/// The delay after a dead letter crashed the actor that stores it: long enough that the actor does
/// not reach its supervisor's maximum number of restarts.
const CRASH_DELAY: Duration = Duration::from_secs(10);

/// Stores one queue's dead letters in the database, where an administrator sees them.
#[derive(Debug, Clone)]
pub struct DeadLetterConsumer {
    /// The queue that the messages were in, without the prefix.
    pub queue: &'static str,
    /// The actor that stores them.
    pub letters: Addr<Msg>,
    /// The connection to the broker.
    pub connection: Connection,
}

impl Service for DeadLetterConsumer {
    async fn run(self, actor_metrics: Arc<ActorMetrics>, stop: CancellationToken) -> HandlerResult {
        let mut backoff = Backoff::default();
        while let Some(Err(error)) = stop.run_until_cancelled(self.session(&actor_metrics)).await {
            let delay = backoff.next_delay();
            let (queue, retry_ms) = (self.queue, delay.as_millis());
            tracing::warn!(%error, queue, retry_ms, "the dead-letter consumer lost its connection");
            stop.run_until_cancelled(tokio::time::sleep(delay)).await;
        }
        Ok(())
    }
}

impl DeadLetterConsumer {
    /// Consumes over one connection until it breaks. Cancelling this anywhere is harmless: dead
    /// letters without an acknowledgement are redelivered, and each is stored once.
    async fn session(&self, actor_metrics: &Arc<ActorMetrics>) -> Result<()> {
        self.connection.up().await;
        let queue = topology::dead(self.queue);
        let mut deliveries = self.connection.broker().consume(&queue, PREFETCH).await?;
        loop {
            let mut batch = vec![deliveries.next().await?];
            while let Some(delivery) = deliveries.try_next() {
                batch.push(delivery);
            }
            let Some(last) = batch.last().map(|delivery| delivery.tag) else { continue };
            let letters = batch.into_iter().map(|delivery| self.letter(&deliveries, delivery));
            actor_metrics.measure("Store", self.store(letters.collect())).await;
            deliveries.ack_up_to(last).await?;
        }
    }

    fn letter(&self, deliveries: &Deliveries, delivery: Delivery) -> DeadLetter {
        let Delivery { tag, message, .. } = delivery;
        let DeadLetterMeta { failed_at, attempts, headers, properties } =
            deliveries.dead_letter_meta(tag);
        DeadLetter {
            id: DeadLetter::id(self.queue, message.id.as_deref(), message.version, &message.body),
            queue: self.queue.to_owned(),
            event: message.event().name.to_owned(),
            version: message.version,
            reason: message.reason.unwrap_or_else(|| "no reason is given".to_owned()),
            // Other programs write any time; PostgreSQL has a smaller range.
            first_failed_at: failed_at
                .filter(|at| *at >= Timestamp::UNIX_EPOCH)
                .unwrap_or_else(now),
            tries: i32::try_from(attempts).unwrap_or(i32::MAX),
            headers: headers.into(),
            properties: properties.into(),
            message_id: message.id,
            payload: Payload(message.body),
        }
    }

    /// Retries without a limit: meanwhile the broker keeps the dead letters.
    async fn store(&self, letters: Vec<DeadLetter>) {
        let mut backoff = Backoff::default();
        while let Err(error) =
            self.letters.ask((), |reply| Msg::Store(letters.clone(), reply)).await
        {
            let delay = match error {
                Error::Crashed(_) => CRASH_DELAY,
                _ => backoff.next_delay(),
            };
            let (queue, retry_ms) = (self.queue, delay.as_millis());
            tracing::warn!(%error, queue, retry_ms, "the dead-letter consumer waits");
            tokio::time::sleep(delay).await;
        }
    }
}
