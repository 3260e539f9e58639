//! The intake: from a queue of the broker to an owner. Acknowledged only after the owner's commit.

use shop_actors::{Backoff, Handled, Metrics, Service};
use shop_persistence::{At, Error};
use tokio_util::sync::CancellationToken;

use crate::translate::{Desk, News, translate};
use crate::{Broker, Consumer, Delivery, Result};

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
    /// A message that ended its owner goes to the dead letters when it was handed out so often before.
    pub most_tries: u32,
    /// Counts what was consumed.
    pub metrics: Metrics,
}

impl Service for Intake {
    async fn run(self, stop: CancellationToken) -> Handled {
        let mut backoff = Backoff::default();
        let session = || stop.run_until_cancelled(self.session());
        while let Some(Err(error)) = session().at("intake: session").await {
            let wait = backoff.pause();
            let queue = self.queue;
            tracing::warn!(%error, queue, retry_ms = wait.as_millis(), "the intake lost its connection");
            stop.run_until_cancelled(tokio::time::sleep(wait)).at("intake: pause").await;
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
        let mut consumer =
            self.broker.consumer(self.queue, self.prefetch).at("intake: open consumer").await?;
        loop {
            let mut batch = vec![consumer.next().at("intake: next").await?];
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
        self.settle_all(consumer, fresh).await
    }

    /// Tells the owner of all of them at once. When that fails, one of them is the culprit, to be found among the many
    /// so that it holds up nothing behind it: by halves, the earlier half first, because order counts. What ends its
    /// owner is found one by one instead: owners are dearer than transactions.
    async fn settle_all(&self, consumer: &mut Consumer, fresh: Vec<Readable>) -> Result<()> {
        let mut parts = vec![fresh]; // the earliest on top
        while let Some(mut part) = parts.pop() {
            if part.len() < 2 {
                for one in part {
                    self.settle(consumer, one).await?;
                }
                continue;
            }
            match self.tell(part.iter().map(|readable| readable.news.clone()).collect()).await {
                Ok(()) => {
                    self.count(part.len());
                    let last = part[part.len() - 1].delivery.tag;
                    consumer.ack_up_to(last).at("intake: acknowledge all").await?; // all before it are settled
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
    async fn settle(&self, consumer: &mut Consumer, one: Readable) -> Result<()> {
        let Readable { delivery, news } = one;
        match self.tell(vec![news]).await {
            Ok(()) => {
                self.count(1);
                consumer.ack(delivery.tag).at("intake: acknowledge").await
            }
            Err(Error::Crashed(_)) if delivery.tries < self.most_tries => {
                tracing::warn!(
                    queue = self.queue,
                    tries = delivery.tries,
                    "a message ended its owner"
                );
                consumer.retry(delivery.tag).at("intake: retry").await
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
            match self.desk.tell(news.clone()).at("intake: tell").await {
                Err(error @ (Error::Away(_) | Error::Overloaded(_))) => {
                    let wait = backoff.pause();
                    let retry_ms = wait.as_millis();
                    tracing::warn!(%error, queue = self.queue, retry_ms, "the intake waits");
                    tokio::time::sleep(wait).at("intake: wait").await;
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
        consumer.park(delivery, reason).at("intake: park").await?;
        self.metrics.dead_lettered.with_label_values(&[self.queue]).inc();
        Ok(())
    }

    fn count(&self, consumed: usize) {
        self.metrics.consumed.with_label_values(&[self.queue]).inc_by(consumed as u64);
    }
}
