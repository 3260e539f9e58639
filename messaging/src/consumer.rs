//! The intake: from a queue of the broker to an owner. Acknowledged only after the owner's commit.

use std::sync::Arc;
use std::time::Duration;

use shop_actors::Metrics;
use shop_persistence::{Error, Event};
use shop_runtime::registry::{ActorMetrics, ProcessingGuard};
use shop_runtime::{Backoff, Failpoint, HandlerResult, Service};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::spans::Taken;
use crate::subscriptions::{News, Subscription, name, translate};
use crate::{Connection, Deliveries, Delivery, Result};

/// After a batch of few, more are let gather for a moment: a transaction costs as much as many messages.
const FEW: usize = 16;
const REST: Duration = Duration::from_millis(10);

/// So many bytes are enough for a batch: an event may hold hundreds of movements.
const MOST_BYTES: usize = 256 << 10;

/// Hands one queue's messages to their owner, in batches of what waits.
#[derive(Debug, Clone)]
pub struct Consumer {
    /// The queue, by its logical name.
    pub queue: &'static str,
    /// Whom its messages are for.
    pub subscription: Subscription,
    /// Where from.
    pub connection: Connection,
    /// At most so many messages are taken and not yet acknowledged.
    pub prefetch: u16,
    /// A message that ended its owner goes to the dead letters when it was handed out so often before.
    pub max_attempts: u32,
    /// Counts what was consumed.
    pub metrics: Metrics,
}

impl Service for Consumer {
    async fn run(self, actor_metrics: Arc<ActorMetrics>, stop: CancellationToken) -> HandlerResult {
        let mut backoff = Backoff::default();
        let session = || stop.run_until_cancelled(self.session(&actor_metrics));
        while let Some(Err(error)) = session().failpoint("intake: session").await {
            let wait = backoff.next_delay();
            let queue = self.queue;
            tracing::warn!(%error, queue, retry_ms = wait.as_millis(), "the intake lost its connection");
            stop.run_until_cancelled(tokio::time::sleep(wait)).failpoint("intake: pause").await;
        }
        Ok(())
    }
}

/// A message that an owner can hear.
struct Readable {
    taken: Taken,
    news: News,
}

impl Consumer {
    /// Consumes over one connection until it breaks. To cut it off anywhere is harmless: what was not
    /// acknowledged comes again, and owners hear everything once.
    async fn session(&self, actor_metrics: &Arc<ActorMetrics>) -> Result<()> {
        self.connection.up().failpoint("intake: link").await;
        let consumer = self.connection.broker().consume(self.queue, self.prefetch);
        let mut consumer = consumer.failpoint("intake: open consumer").await?;
        let most = usize::from(self.prefetch).div_ceil(2); // the other half comes meanwhile
        let mut rested = Instant::now();
        loop {
            tokio::time::sleep_until(rested).failpoint("intake: rest").await;
            let mut batch = vec![consumer.next().failpoint("intake: next").await?];
            let mut bytes = batch[0].message.body.len();
            while batch.len() < most
                && bytes < MOST_BYTES
                && let Some(delivery) = consumer.try_next()
            {
                bytes += delivery.message.body.len();
                batch.push(delivery);
            }
            if batch.len() < FEW {
                rested = Instant::now() + REST;
            }
            let measured = measured(actor_metrics, &batch);
            self.work_off(&mut consumer, batch).await?;
            measured.into_iter().for_each(ProcessingGuard::done);
        }
    }

    async fn work_off(&self, consumer: &mut Deliveries, batch: Vec<Delivery>) -> Result<()> {
        let mut readable = vec![];
        for delivery in batch {
            let taken = Taken::new(delivery, self.queue, self.connection.broker());
            match translate(&taken.delivery.message) {
                Ok(news) if self.subscription.takes(&news) => {
                    readable.push(Readable { taken, news })
                }
                Ok(_) => self.dead_letter(consumer, taken, "not an event for this queue").await?,
                Err(why) => self.dead_letter(consumer, taken, &why.to_string()).await?,
            }
        }
        // Whatever comes again may be what ended an owner. It is told by itself, so that it takes nobody with it.
        let (again, fresh): (Vec<_>, Vec<_>) =
            readable.into_iter().partition(|readable| readable.taken.delivery.tries > 0);
        for one in again {
            self.settle(consumer, one).await?;
        }
        self.settle_all(consumer, fresh).await
    }

    /// Tells the owner of all of them at once. When that fails, one of them is the culprit, to be found among the many
    /// so that it holds up nothing behind it: by halves, the earlier half first, because order counts. What ends its
    /// owner is found one by one instead: owners are dearer than transactions.
    async fn settle_all(&self, consumer: &mut Deliveries, fresh: Vec<Readable>) -> Result<()> {
        let mut parts = vec![fresh]; // the earliest on top
        while let Some(mut part) = parts.pop() {
            if part.len() < 2 {
                for one in part {
                    self.settle(consumer, one).await?;
                }
                continue;
            }
            match self.tell(&part).await {
                Ok(()) => {
                    self.count(part.len());
                    let first = part[0].taken.span.context();
                    part[1..].iter_mut().for_each(|one| one.taken.span.link(first));
                    let last = part[part.len() - 1].taken.delivery.tag;
                    consumer.ack_up_to(last).failpoint("intake: acknowledge all").await?; // all before it are settled
                    part.into_iter().for_each(|one| one.taken.span.finish());
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

    /// Tells the owner of one message, which then is done, comes again, or never will be done.
    async fn settle(&self, consumer: &mut Deliveries, one: Readable) -> Result<()> {
        let outcome = self.tell(std::slice::from_ref(&one)).await;
        let Readable { taken, .. } = one;
        match outcome {
            Ok(()) => {
                self.count(1);
                consumer.ack(taken.delivery.tag).failpoint("intake: acknowledge").await?;
                taken.span.finish();
                Ok(())
            }
            Err(error @ Error::Crashed(_)) if taken.delivery.tries < self.max_attempts => {
                let (queue, tries) = (self.queue, taken.delivery.tries);
                let ended = || tracing::warn!(queue, tries, "a message ended its owner");
                taken.span.context().in_scope(ended);
                consumer.retry(taken.delivery.tag).failpoint("intake: retry").await?;
                taken.span.fail(error);
                Ok(())
            }
            Err(Error::Crashed(owner)) => {
                let reason = format!("it ended the owner of {owner} whenever it was tried");
                self.dead_letter(consumer, taken, &reason).await
            }
            Err(error) => self.dead_letter(consumer, taken, &error.to_string()).await,
        }
    }

    /// Tells the owner, as part of the first message's trace. A failure that passes by itself is waited out, however
    /// long: meanwhile nothing is taken from the queue, and no message is counted as having failed.
    async fn tell(&self, part: &[Readable]) -> shop_persistence::Result<()> {
        let first = &part[0].taken;
        let mut backoff = Backoff::default();
        loop {
            let news = part.iter().map(|readable| readable.news.clone()).collect();
            match first.go_on(self.subscription.tell(news)).failpoint("intake: tell").await {
                Err(error @ (Error::Unavailable(_) | Error::Overloaded(_))) => {
                    let wait = backoff.next_delay();
                    let (queue, retry_ms) = (self.queue, wait.as_millis());
                    let waits = || tracing::warn!(%error, queue, retry_ms, "the intake waits");
                    first.span.context().in_scope(waits);
                    tokio::time::sleep(wait).failpoint("intake: wait").await;
                }
                outcome => return outcome,
            }
        }
    }

    async fn dead_letter(
        &self,
        consumer: &mut Deliveries,
        taken: Taken,
        reason: &str,
    ) -> Result<()> {
        let Taken { delivery, span } = taken;
        let (queue, id) = (self.queue, delivery.message.id.as_deref());
        span.context().in_scope(|| {
            tracing::error!(
                queue,
                message.id = id,
                reason,
                "a message is parked among the dead letters"
            );
        });
        consumer.dead_letter(delivery, reason).failpoint("intake: park").await?;
        span.fail(reason);
        self.metrics.dead_lettered.with_label_values(&[self.queue]).inc();
        Ok(())
    }

    fn count(&self, consumed: usize) {
        self.metrics.consumed.with_label_values(&[self.queue]).inc_by(consumed as u64);
    }
}

/// The measures of the deliveries of a batch.
fn measured(actor_metrics: &Arc<ActorMetrics>, batch: &[Delivery]) -> Vec<ProcessingGuard> {
    let now = Instant::now();
    let measured = |Delivery { message, .. }: &Delivery| {
        let trace = message.traceparent.as_deref().and_then(|trace| trace.parse().ok());
        actor_metrics.enqueued(now, None).open(Event::known(name(message)), trace, now)
    };
    batch.iter().map(measured).collect()
}
