//! The intake: from a queue of the broker to an owner. Acknowledged only after the owner's commit.

use shop_actors::{Backoff, Handled, Metrics, Service};
use shop_persistence::Error;
use tokio_util::sync::CancellationToken;

use crate::translate::{Desk, News, translate};
use crate::{Broker, Consumer, Delivery, Result};

/// A message that ended its owner goes to the dead letters when it was handed out so often before.
const MOST_TRIES: u32 = 3;

/// Hands one queue's messages to their owner, in batches of what waits.
#[derive(Debug, Clone)]
pub struct Intake {
    /// The queue, by its logical name.
    pub queue: &'static str,
    /// Whom its messages are for.
    pub desk: Desk,
    /// Where from.
    pub broker: Broker,
    /// At most so many messages are taken and not yet acknowledged.
    pub prefetch: u16,
    /// Counts what was consumed.
    pub metrics: Metrics,
}

impl Service for Intake {
    async fn run(self, stop: CancellationToken) -> Handled {
        let mut backoff = Backoff::default();
        while let Some(Err(error)) = stop.run_until_cancelled(self.session()).await {
            let wait = backoff.pause();
            let queue = self.queue;
            tracing::warn!(%error, queue, retry_ms = wait.as_millis(), "the intake lost its connection");
            stop.run_until_cancelled(tokio::time::sleep(wait)).await;
        }
        Ok(())
    }
}

/// A delivery that an owner can hear.
struct Readable {
    delivery: Delivery,
    news: News,
}

impl Intake {
    /// Consumes over one connection until it breaks. To cut it off anywhere is harmless: what was not
    /// acknowledged comes again, and owners hear everything once.
    async fn session(&self) -> Result<()> {
        let mut consumer = self.broker.consumer(self.queue, self.prefetch).await?;
        loop {
            let mut batch = vec![consumer.next().await?];
            while batch.len() < usize::from(self.prefetch)
                && let Some(delivery) = consumer.try_next()
            {
                batch.push(delivery);
            }
            self.work_off(&mut consumer, batch).await?;
        }
    }

    async fn work_off(&self, consumer: &mut Consumer, batch: Vec<Delivery>) -> Result<()> {
        let mut readable = vec![];
        for delivery in batch {
            match translate(&delivery.message) {
                Ok(news) if self.desk.takes(&news) => readable.push(Readable { delivery, news }),
                Ok(_) => self.park(consumer, delivery, "not an event for this queue").await?,
                Err(why) => self.park(consumer, delivery, &why.to_string()).await?,
            }
        }
        // Whatever comes again may be what ended an owner. It is told by itself, so that it takes nobody with it.
        let (again, fresh): (Vec<_>, Vec<_>) =
            readable.into_iter().partition(|readable| readable.delivery.tries > 0);
        for one in again {
            self.settle(consumer, one).await?;
        }
        let Some(last) = fresh.last().map(|readable| readable.delivery.tag) else {
            return Ok(());
        };
        if self.tell(fresh.iter().map(|readable| readable.news.clone()).collect()).await.is_ok() {
            self.count(fresh.len());
            return consumer.ack_up_to(last).await;
        }
        // One of them is the culprit. Each by itself, so that it holds up nothing behind it.
        for one in fresh {
            self.settle(consumer, one).await?;
        }
        Ok(())
    }

    /// Tells the owner of one message, which then is done, comes again, or never will be done.
    async fn settle(&self, consumer: &mut Consumer, one: Readable) -> Result<()> {
        let Readable { delivery, news } = one;
        match self.tell(vec![news]).await {
            Ok(()) => {
                self.count(1);
                consumer.ack(delivery.tag).await
            }
            Err(Error::Crashed(_)) if delivery.tries < MOST_TRIES => {
                tracing::warn!(
                    queue = self.queue,
                    tries = delivery.tries,
                    "a message ended its owner"
                );
                consumer.retry(delivery.tag).await
            }
            Err(Error::Crashed(owner)) => {
                let reason = format!("it ended the owner of {owner} whenever it was tried");
                self.park(consumer, delivery, &reason).await
            }
            Err(error) => self.park(consumer, delivery, &error.to_string()).await,
        }
    }

    /// Tells the owner. A failure that passes by itself is waited out, however long: meanwhile nothing is
    /// taken from the queue, and no message is counted as having failed.
    async fn tell(&self, news: Vec<News>) -> shop_persistence::Result<()> {
        let mut backoff = Backoff::default();
        loop {
            match self.desk.tell(news.clone()).await {
                Err(error @ (Error::Away(_) | Error::Overloaded(_))) => {
                    let wait = backoff.pause();
                    let retry_ms = wait.as_millis();
                    tracing::warn!(%error, queue = self.queue, retry_ms, "the intake waits");
                    tokio::time::sleep(wait).await;
                }
                outcome => return outcome,
            }
        }
    }

    async fn park(&self, consumer: &mut Consumer, delivery: Delivery, reason: &str) -> Result<()> {
        let id = delivery.message.id.clone();
        tracing::error!(
            queue = self.queue,
            message.id = id,
            reason,
            "a message is parked among the dead letters"
        );
        consumer.park(delivery, reason).await?;
        self.metrics.dead_lettered.with_label_values(&[self.queue]).inc();
        Ok(())
    }

    fn count(&self, consumed: usize) {
        self.metrics.consumed.with_label_values(&[self.queue]).inc_by(consumed as u64);
    }
}
