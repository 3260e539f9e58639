//! Consumers: from a queue of the broker to an actor. A message is acknowledged after the actor's
//! commit.

use std::sync::Arc;
use std::time::Duration;

use shop_actors::Error;
use shop_actors::Metrics;
use shop_actors::subscriptions::{AnySubscription, AnyUpdate};
use shop_persistence::events::EventSpec;
use shop_runtime::registry::{ActorMetrics, ProcessingGuard};
use shop_runtime::{Backoff, Failpoint, HandlerResult, Service};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::spans::TracedDelivery;
use crate::{Connection, Deliveries, Delivery, Result};

/// A transaction costs as much as many messages: after a batch smaller than this, the consumer
/// pauses to let more messages arrive.
const SMALL_BATCH: usize = 16;

/// The pause after a small batch.
const BATCH_PAUSE: Duration = Duration::from_millis(10);

/// A batch ends when its bodies have this many bytes: an event may contain hundreds of movements.
const MAX_BATCH_BYTES: usize = 256 << 10;

/// Applies the messages of one queue, in batches of those that wait.
#[derive(Debug, Clone)]
pub struct Consumer {
    /// The queue and the actor that applies its messages.
    pub subscription: AnySubscription,
    /// The connection to the broker.
    pub connection: Connection,
    /// The maximum number of messages that are delivered and not yet acknowledged.
    pub prefetch: u16,
    /// A message that crashes its actor is redelivered this often before it becomes a dead letter.
    pub max_attempts: u32,
    /// Counts consumed and dead-lettered messages.
    pub metrics: Metrics,
}

impl Service for Consumer {
    async fn run(self, actor_metrics: Arc<ActorMetrics>, stop: CancellationToken) -> HandlerResult {
        let mut backoff = Backoff::default();
        let session = || stop.run_until_cancelled(self.session(&actor_metrics));
        while let Some(Err(error)) = session().failpoint("consumer: session").await {
            let delay = backoff.next_delay();
            let (queue, retry_ms) = (self.queue(), delay.as_millis());
            tracing::warn!(%error, queue, retry_ms, "the consumer lost its connection");
            stop.run_until_cancelled(tokio::time::sleep(delay))
                .failpoint("consumer: backoff")
                .await;
        }
        Ok(())
    }
}

/// A message that is a valid event of the queue.
struct Parsed {
    traced: TracedDelivery,
    update: AnyUpdate,
}

impl Consumer {
    fn queue(&self) -> &'static str {
        self.subscription.queue()
    }

    /// Consumes over one connection until it breaks. Cancelling this anywhere is harmless: messages
    /// without an acknowledgement are redelivered, and actors apply each event once.
    async fn session(&self, actor_metrics: &Arc<ActorMetrics>) -> Result<()> {
        self.connection.up().failpoint("consumer: connection").await;
        let deliveries = self.connection.broker().consume(self.queue(), self.prefetch);
        let mut deliveries = deliveries.failpoint("consumer: open").await?;
        let max_batch = usize::from(self.prefetch).div_ceil(2); // the other half arrives meanwhile
        let mut paused_until = Instant::now();
        loop {
            tokio::time::sleep_until(paused_until).failpoint("consumer: pause").await;
            let mut batch = vec![deliveries.next().failpoint("consumer: next").await?];
            let mut bytes = batch[0].message.body.len();
            while batch.len() < max_batch
                && bytes < MAX_BATCH_BYTES
                && let Some(delivery) = deliveries.try_next()
            {
                bytes += delivery.message.body.len();
                batch.push(delivery);
            }
            if batch.len() < SMALL_BATCH {
                paused_until = Instant::now() + BATCH_PAUSE;
            }
            let measured = measured(actor_metrics, &batch);
            self.process(&mut deliveries, batch).await?;
            measured.into_iter().for_each(ProcessingGuard::done);
        }
    }

    /// Applies a batch. Invalid messages become dead letters.
    async fn process(&self, deliveries: &mut Deliveries, batch: Vec<Delivery>) -> Result<()> {
        let mut valid = vec![];
        for delivery in batch {
            let traced = TracedDelivery::new(delivery, self.queue(), self.connection.broker());
            match self.subscription.parse(&traced.delivery.message.event()) {
                Ok(update) => valid.push(Parsed { traced, update }),
                Err(why) => self.dead_letter(deliveries, traced, &why.to_string()).await?,
            }
        }
        // A redelivered message may be the one that crashed the actor. It is applied by itself, so
        // that it fails alone.
        let (redelivered, fresh): (Vec<_>, Vec<_>) =
            valid.into_iter().partition(|parsed| parsed.traced.delivery.delivery_count > 0);
        for one in redelivered {
            self.settle(deliveries, one).await?;
        }
        self.settle_all(deliveries, fresh).await
    }

    /// Applies all of them in one transaction. If that fails, one message is the cause. It is
    /// isolated by halving, the earlier half first to keep the order. After a crash each message is
    /// applied by itself instead: crashing the actor a few more times costs more than the
    /// transactions.
    async fn settle_all(&self, deliveries: &mut Deliveries, fresh: Vec<Parsed>) -> Result<()> {
        let mut parts = vec![fresh]; // the earliest is last
        while let Some(mut part) = parts.pop() {
            if part.len() < 2 {
                for one in part {
                    self.settle(deliveries, one).await?;
                }
                continue;
            }
            match self.apply(&part).await {
                Ok(()) => {
                    self.count(part.len());
                    let first = part[0].traced.span.context();
                    part[1..].iter_mut().for_each(|one| one.traced.span.link(first));
                    let last = part[part.len() - 1].traced.delivery.tag;
                    // All messages before the part are settled.
                    deliveries.ack_up_to(last).failpoint("consumer: acknowledge all").await?;
                    part.into_iter().for_each(|one| one.traced.span.finish());
                }
                Err(Error::Crashed(_)) => parts.extend(part.into_iter().rev().map(|one| vec![one])),
                Err(_) => {
                    let later = part.split_off(part.len() / 2);
                    parts.extend([later, part]);
                }
            }
        }
        Ok(())
    }

    /// Applies one message. It is then acknowledged, redelivered or dead-lettered.
    async fn settle(&self, deliveries: &mut Deliveries, one: Parsed) -> Result<()> {
        let outcome = self.apply(std::slice::from_ref(&one)).await;
        let Parsed { traced, .. } = one;
        let Delivery { tag, delivery_count, .. } = traced.delivery;
        match outcome {
            Ok(()) => {
                self.count(1);
                deliveries.ack(tag).failpoint("consumer: acknowledge").await?;
                traced.span.finish();
                Ok(())
            }
            Err(error @ Error::Crashed(_)) if delivery_count < self.max_attempts => {
                let queue = self.queue();
                let log = || tracing::warn!(queue, delivery_count, "a message crashed its actor");
                traced.span.context().in_scope(log);
                deliveries.retry(tag).failpoint("consumer: retry").await?;
                traced.span.fail(error);
                Ok(())
            }
            Err(Error::Crashed(actor)) => {
                let reason = format!("it crashed the actor {actor} at each attempt");
                self.dead_letter(deliveries, traced, &reason).await
            }
            Err(error) => self.dead_letter(deliveries, traced, &error.to_string()).await,
        }
    }

    /// Sends the updates to the actor, in the trace of the first message. A temporary failure is
    /// retried without a limit. Meanwhile no further message is taken, and none counts as failed.
    async fn apply(&self, part: &[Parsed]) -> shop_actors::Result<()> {
        let first = &part[0].traced;
        let updates: Vec<&AnyUpdate> = part.iter().map(|parsed| &parsed.update).collect();
        let mut backoff = Backoff::default();
        loop {
            let apply = first.in_scope(self.subscription.apply(&updates));
            match apply.failpoint("consumer: apply").await {
                Err(error @ (Error::Unavailable(_) | Error::Overloaded(_))) => {
                    let delay = backoff.next_delay();
                    let (queue, retry_ms) = (self.queue(), delay.as_millis());
                    let log = || tracing::warn!(%error, queue, retry_ms, "the consumer waits");
                    first.span.context().in_scope(log);
                    tokio::time::sleep(delay).failpoint("consumer: wait").await;
                }
                outcome => return outcome,
            }
        }
    }

    async fn dead_letter(
        &self,
        deliveries: &mut Deliveries,
        traced: TracedDelivery,
        reason: &str,
    ) -> Result<()> {
        let TracedDelivery { delivery, span } = traced;
        let (queue, id) = (self.queue(), delivery.message.id.as_deref());
        span.context().in_scope(|| {
            tracing::error!(queue, message.id = id, reason, "a message is dead-lettered")
        });
        deliveries.dead_letter(delivery, reason).failpoint("consumer: dead-letter").await?;
        span.fail(reason);
        self.metrics.dead_lettered.with_label_values(&[queue]).inc();
        Ok(())
    }

    fn count(&self, consumed: usize) {
        self.metrics.consumed.with_label_values(&[self.queue()]).inc_by(consumed as u64);
    }
}

/// Measures the deliveries of a batch from now on.
fn measured(actor_metrics: &Arc<ActorMetrics>, batch: &[Delivery]) -> Vec<ProcessingGuard> {
    let now = Instant::now();
    let measured = |Delivery { message, .. }: &Delivery| {
        let trace = message.traceparent.as_deref().and_then(|trace| trace.parse().ok());
        let event = EventSpec::label(message.event().name);
        actor_metrics.enqueued(now, None).open(event, trace, now)
    };
    batch.iter().map(measured).collect()
}
