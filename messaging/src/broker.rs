//! The interface that both brokers implement: RabbitMQ and the in-process bus.

use crate::bus::{self, Bus};
use crate::message::{DeadLetterMeta, Delivery, Message, Result};
use crate::rabbit::{self, Rabbit};

/// A message broker.
#[derive(Clone, Debug)]
pub enum Broker {
    /// A RabbitMQ server: durable, for nodes in separate processes.
    Rabbit(Rabbit),
    /// The bus of this process: its messages end with the process.
    Bus(Bus),
}

impl Broker {
    /// Its name in traces (`messaging.system`).
    pub(crate) fn system(&self) -> &'static str {
        match self {
            Self::Rabbit(_) => "rabbitmq",
            Self::Bus(_) => "in_process",
        }
    }

    /// Opens a session to publish on, with publisher confirms. Declares the topology.
    ///
    /// # Errors
    /// [`Error::Connect`](crate::Error::Connect) if RabbitMQ is unavailable or refuses the session;
    /// the bus always opens one.
    pub async fn publisher(&self) -> Result<Publisher> {
        match self {
            Self::Rabbit(rabbit) => rabbit.publisher().await.map(Publisher::Rabbit),
            Self::Bus(bus) => Ok(Publisher::Bus(bus.publisher())),
        }
    }

    /// Opens a session to consume `queue`, with at most `prefetch` (at least 1) deliveries that are
    /// not acknowledged.
    ///
    /// # Errors
    /// [`Error::Connect`](crate::Error::Connect) if the broker is unavailable or refuses the
    /// session, or if there is no such queue.
    pub async fn consume(&self, queue: &str, prefetch: u16) -> Result<Deliveries> {
        match self {
            Self::Rabbit(rabbit) => {
                rabbit.consume(queue, prefetch).await.map(Box::new).map(Deliveries::Rabbit)
            }
            Self::Bus(bus) => bus.consume(queue, prefetch).map(Deliveries::Bus),
        }
    }
}

/// A session to publish on. It closes when it is dropped. Its unconfirmed messages are delivered on
/// the bus, and may be delivered on RabbitMQ.
#[derive(Debug)]
pub enum Publisher {
    /// On RabbitMQ.
    Rabbit(rabbit::Publisher),
    /// On the bus.
    Bus(bus::Publisher),
}

impl Publisher {
    /// Sends `message`. [`confirmed`](Self::confirmed) returns `id` when the broker has confirmed
    /// it.
    ///
    /// # Errors
    /// [`Error::Closed`](crate::Error::Closed): this message and all in flight are not confirmed.
    pub async fn publish(&mut self, id: i64, message: Message) -> Result<()> {
        match self {
            Self::Rabbit(publisher) => publisher.publish(id, message).await,
            Self::Bus(publisher) => publisher.publish(id, message),
        }
    }

    /// Waits for confirmations and returns the ids of those messages, at least one. With nothing in
    /// flight, it waits until the session ends. Cancel safe.
    ///
    /// # Errors
    /// [`Error::Closed`](crate::Error::Closed): the messages in flight are not confirmed. RabbitMQ
    /// refused or returned a message, closed the session, disconnected, or did not confirm a
    /// message within 5 s.
    pub async fn confirmed(&mut self) -> Result<Vec<i64>> {
        match self {
            Self::Rabbit(publisher) => publisher.confirmed().await,
            Self::Bus(publisher) => publisher.confirmed().await,
        }
    }

    /// Closes the session, within 2 s.
    pub async fn close(self) {
        match self {
            Self::Rabbit(publisher) => publisher.close().await,
            Self::Bus(publisher) => drop(publisher),
        }
    }
}

/// A session to consume one queue on. It closes when it is dropped. Deliveries without an
/// acknowledgement return to the front of the queue, and their delivery count grows by one.
///
/// Settling a delivery again has no effect.
#[derive(Debug)]
pub enum Deliveries {
    /// On RabbitMQ.
    Rabbit(Box<rabbit::Deliveries>),
    /// On the bus.
    Bus(bus::Deliveries),
}

impl Deliveries {
    /// Waits for the next delivery. Cancel safe.
    ///
    /// # Errors
    /// [`Error::Closed`](crate::Error::Closed): unacknowledged deliveries are redelivered.
    pub async fn next(&mut self) -> Result<Delivery> {
        match self {
            Self::Rabbit(deliveries) => deliveries.next().await,
            Self::Bus(deliveries) => Ok(deliveries.next().await),
        }
    }

    /// The next delivery if it is already in this process.
    pub fn try_next(&mut self) -> Option<Delivery> {
        match self {
            Self::Rabbit(deliveries) => deliveries.try_next(),
            Self::Bus(deliveries) => deliveries.try_next(),
        }
    }

    /// The metadata of an unsettled delivery of a dead-letter queue.
    #[must_use]
    pub fn dead_letter_meta(&self, tag: u64) -> DeadLetterMeta {
        match self {
            Self::Rabbit(deliveries) => deliveries.dead_letter_meta(tag),
            Self::Bus(deliveries) => deliveries.dead_letter_meta(tag),
        }
    }

    /// Acknowledges this delivery.
    ///
    /// # Errors
    /// [`Error::Closed`](crate::Error::Closed): unacknowledged deliveries are redelivered, this one
    /// too.
    pub async fn ack(&mut self, tag: u64) -> Result<()> {
        match self {
            Self::Rabbit(deliveries) => deliveries.ack(tag).await,
            Self::Bus(deliveries) => {
                deliveries.ack(tag);
                Ok(())
            }
        }
    }

    /// Acknowledges this delivery and all unsettled ones before it.
    ///
    /// # Errors
    /// [`Error::Closed`](crate::Error::Closed): unacknowledged deliveries are redelivered, these
    /// too.
    pub async fn ack_up_to(&mut self, tag: u64) -> Result<()> {
        match self {
            Self::Rabbit(deliveries) => deliveries.ack_up_to(tag).await,
            Self::Bus(deliveries) => {
                deliveries.ack_up_to(tag);
                Ok(())
            }
        }
    }

    /// Returns the delivery to the front of its queue, without a delay. The broker counts
    /// deliveries and dead-letters the message over the delivery limit.
    ///
    /// # Errors
    /// [`Error::Closed`](crate::Error::Closed): unacknowledged deliveries are redelivered.
    pub async fn retry(&mut self, tag: u64) -> Result<()> {
        match self {
            Self::Rabbit(deliveries) => deliveries.retry(tag).await,
            Self::Bus(deliveries) => {
                deliveries.retry(tag);
                Ok(())
            }
        }
    }

    /// Publishes the message to the queue's dead letters, with the reason, and then acknowledges
    /// the delivery.
    ///
    /// # Errors
    /// The session or the one for dead letters failed: the message may be among the dead letters,
    /// and unacknowledged deliveries are redelivered, this one too.
    pub async fn dead_letter(&mut self, delivery: Delivery, reason: &str) -> Result<()> {
        match self {
            Self::Rabbit(deliveries) => deliveries.dead_letter(delivery, reason).await,
            Self::Bus(deliveries) => {
                deliveries.dead_letter(delivery.tag, reason);
                Ok(())
            }
        }
    }

    /// Closes the session, within 2 s. Unacknowledged deliveries are redelivered.
    pub async fn close(self) {
        match self {
            Self::Rabbit(deliveries) => deliveries.close().await,
            Self::Bus(deliveries) => drop(deliveries),
        }
    }
}
