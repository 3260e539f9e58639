//! The broker as the shop knows it: RabbitMQ or the in-process bus, spoken to in one way.

use crate::{bus, bus::Bus, dead_letters::DeadLetterMeta, rabbit, rabbit::Rabbit};

/// The outcome of speaking to a broker.
pub type Result<T> = std::result::Result<T, Error>;

/// There is no session, or no longer. Whatever is wrong, the way on is to open another one.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The broker is away, or refused us.
    #[error("no session with {broker}: {cause}")]
    Unopened {
        /// Which broker, and where.
        broker: String,
        /// What happened.
        cause: String,
    },
    /// The session ended: what was not confirmed may be lost, what was not acknowledged comes again.
    #[error("the session with {broker} is over: {cause}")]
    Over {
        /// Which broker, and where.
        broker: String,
        /// What happened.
        cause: String,
    },
}

/// A message as it travels: where it was (or will be) published, its properties, its body.
///
/// A dead letter says where it was published at first, so it can be published there again.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Message {
    /// The exchange's name, without the prefix; "" is the default exchange.
    pub exchange: String,
    /// For the default exchange the queue's name, without the prefix.
    pub routing_key: String,
    /// Property `message_id`: unique to the event.
    pub id: Option<String>,
    /// Property `type`: the event's name.
    pub kind: Option<String>,
    /// Header `version`: grows with every change of that one user or product.
    pub version: Option<i64>,
    /// Header `traceparent`, as W3C writes it.
    pub traceparent: Option<String>,
    /// Property `timestamp`, in seconds since the epoch.
    pub timestamp: Option<u64>,
    /// Header `reason`: why it is a dead letter.
    pub reason: Option<String>,
    /// The content, as it is.
    pub body: Vec<u8>,
}

/// A message handed to a consumer, to be acknowledged, retried or parked.
#[derive(Debug)]
pub struct Delivery {
    /// Names the delivery within its session; grows.
    pub tag: u64,
    /// How often it was handed out before.
    pub tries: u32,
    /// What was published.
    pub message: Message,
}

/// Where messages go through.
#[derive(Clone, Debug)]
pub enum Broker {
    /// A RabbitMQ server: durable, for nodes in processes of their own.
    Rabbit(Rabbit),
    /// The bus of this process: what is on it lasts as long as the process.
    Bus(Bus),
}

impl Broker {
    /// What traces call it.
    pub(crate) fn system(&self) -> &'static str {
        match self {
            Self::Rabbit(_) => "rabbitmq",
            Self::Bus(_) => "in_process",
        }
    }

    /// Opens a session to publish on: the whole topology declared, confirms on.
    ///
    /// # Errors
    /// [`Error::Unopened`] when RabbitMQ is away or refuses; the bus always opens.
    pub async fn publisher(&self) -> Result<Publisher> {
        match self {
            Self::Rabbit(rabbit) => rabbit.publisher().await.map(Publisher::Rabbit),
            Self::Bus(bus) => Ok(Publisher::Bus(bus.publisher())),
        }
    }

    /// Opens a session to consume `queue` on, at most `prefetch` (at least 1) unacknowledged
    /// deliveries at a time.
    ///
    /// # Errors
    /// [`Error::Unopened`] when the broker is away or refuses, or there is no such queue.
    pub async fn consume(&self, queue: &str, prefetch: u16) -> Result<Deliveries> {
        match self {
            Self::Rabbit(rabbit) => {
                rabbit.consume(queue, prefetch).await.map(Box::new).map(Deliveries::Rabbit)
            }
            Self::Bus(bus) => bus.consume(queue, prefetch).map(Deliveries::Bus),
        }
    }
}

/// A session to publish on. Dropped, it closes by itself. What it sent is delivered on the bus, and
/// may be on RabbitMQ.
#[derive(Debug)]
pub enum Publisher {
    /// On RabbitMQ.
    Rabbit(rabbit::Publisher),
    /// On the bus.
    Bus(bus::Publisher),
}

impl Publisher {
    /// Sends `message`; its confirmation comes from [`settled`](Self::settled), under `guard`.
    ///
    /// # Errors
    /// [`Error::Over`]: this message and all in flight were not confirmed.
    pub async fn publish(&mut self, guard: i64, message: Message) -> Result<()> {
        match self {
            Self::Rabbit(publisher) => publisher.publish(guard, message).await,
            Self::Bus(publisher) => publisher.publish(guard, message),
        }
    }

    /// The tickets confirmed since the last call, at least one; waits for them. With nothing in
    /// flight it waits until the session fails. Cancel safe.
    ///
    /// # Errors
    /// [`Error::Over`]: all in flight was not confirmed. RabbitMQ refused or returned a message,
    /// closed the session, broke off, or confirmed nothing of what it got 5 s ago.
    pub async fn settled(&mut self) -> Result<Vec<i64>> {
        match self {
            Self::Rabbit(publisher) => publisher.settled().await,
            Self::Bus(publisher) => publisher.settled().await,
        }
    }

    /// Takes leave of the broker, for at most 2 s.
    pub async fn close(self) {
        match self {
            Self::Rabbit(publisher) => publisher.close().await,
            Self::Bus(publisher) => drop(publisher),
        }
    }
}

/// A session to consume one queue on. Dropped, it closes by itself; everything unacknowledged
/// goes back to the front of its queue, one try richer.
///
/// To settle a delivery that is settled already does nothing.
#[derive(Debug)]
pub enum Deliveries {
    /// On RabbitMQ.
    Rabbit(Box<rabbit::Deliveries>),
    /// On the bus.
    Bus(bus::Deliveries),
}

impl Deliveries {
    /// The next delivery; waits for it. Cancel safe.
    ///
    /// # Errors
    /// [`Error::Over`]: everything unacknowledged comes again.
    pub async fn next(&mut self) -> Result<Delivery> {
        match self {
            Self::Rabbit(consumer) => consumer.next().await,
            Self::Bus(consumer) => Ok(consumer.next().await),
        }
    }

    /// The next delivery if it already waits here.
    pub fn try_next(&mut self) -> Option<Delivery> {
        match self {
            Self::Rabbit(consumer) => consumer.try_next(),
            Self::Bus(consumer) => consumer.try_next(),
        }
    }

    /// What an unsettled delivery of a dead-letter queue tells besides its message.
    #[must_use]
    pub fn dead_letter_meta(&self, tag: u64) -> DeadLetterMeta {
        match self {
            Self::Rabbit(consumer) => consumer.dead_letter_meta(tag),
            Self::Bus(consumer) => consumer.dead_letter_meta(tag),
        }
    }

    /// Acknowledges this one delivery: it is dealt with.
    ///
    /// # Errors
    /// [`Error::Over`]: everything unacknowledged comes again, this one too.
    pub async fn ack(&mut self, tag: u64) -> Result<()> {
        match self {
            Self::Rabbit(consumer) => consumer.ack(tag).await,
            Self::Bus(consumer) => {
                consumer.ack(tag);
                Ok(())
            }
        }
    }

    /// Acknowledges this delivery and all before it that are not settled yet.
    ///
    /// # Errors
    /// [`Error::Over`]: everything unacknowledged comes again, these too.
    pub async fn ack_up_to(&mut self, tag: u64) -> Result<()> {
        match self {
            Self::Rabbit(consumer) => consumer.ack_up_to(tag).await,
            Self::Bus(consumer) => {
                consumer.ack_up_to(tag);
                Ok(())
            }
        }
    }

    /// Puts the delivery back to the front of its queue, at once: whoever wants a pause makes it
    /// before. The broker counts the tries, and past the delivery limit makes a dead letter of it.
    ///
    /// # Errors
    /// [`Error::Over`]: everything unacknowledged comes again.
    pub async fn retry(&mut self, tag: u64) -> Result<()> {
        match self {
            Self::Rabbit(consumer) => consumer.retry(tag).await,
            Self::Bus(consumer) => {
                consumer.retry(tag);
                Ok(())
            }
        }
    }

    /// Puts the delivery among the dead letters of its queue with the reason, and only then
    /// acknowledges it.
    ///
    /// # Errors
    /// [`Error::Over`] or [`Error::Unopened`]: it may be among the dead letters, and everything
    /// unacknowledged comes again, this one too.
    pub async fn dead_letter(&mut self, delivery: Delivery, reason: &str) -> Result<()> {
        match self {
            Self::Rabbit(consumer) => consumer.dead_letter(delivery, reason).await,
            Self::Bus(consumer) => {
                consumer.dead_letter(delivery.tag, reason);
                Ok(())
            }
        }
    }

    /// Takes leave of the broker, for at most 2 s; everything unacknowledged comes again.
    pub async fn close(self) {
        match self {
            Self::Rabbit(consumer) => consumer.close().await,
            Self::Bus(consumer) => drop(consumer),
        }
    }
}
