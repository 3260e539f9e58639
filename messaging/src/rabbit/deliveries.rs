//! A session to consume one queue on RabbitMQ.

use std::collections::{BTreeMap, HashSet};
use std::mem;
use std::sync::{Arc, Mutex, PoisonError};

use amqprs::BasicProperties;
use amqprs::channel::{
    BasicAckArguments, BasicCancelArguments, BasicConsumeArguments, BasicNackArguments,
    BasicQosArguments, Channel, ConsumerMessage,
};
use tokio::select;
use tokio::sync::mpsc::UnboundedReceiver;

use super::session::{Outcome, Session, within};
use super::{Publisher, Rabbit, properties};
use crate::message::{DeadLetterMeta, Delivery, Result};
use crate::topology::DEAD_LETTERS;

/// The queues whose last consumer was disconnected without a reason from the broker.
///
/// The cause may be a message that amqprs cannot decode, such as text that is not UTF-8: it closes
/// the connection, and all deliveries of that session count one more attempt. The next consumer
/// therefore takes messages one by one until it has passed that message, so that only this message
/// reaches the delivery limit.
#[derive(Clone, Debug, Default)]
pub(super) struct PoisonIsolation(Arc<Mutex<HashSet<String>>>);

impl PoisonIsolation {
    /// Isolates the messages of the queue if the session was disconnected.
    fn observe(&self, queue: &str, session: &Session) {
        if session.disconnected() {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(queue.to_owned());
        }
    }

    /// Whether the messages of the queue were isolated. They are no longer.
    fn take(&self, queue: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(queue)
    }
}

/// A session to consume one queue on.
#[derive(Debug)]
pub struct Deliveries {
    rabbit: Rabbit,
    queue: String,
    prefetch: u16,
    one_by_one: Option<u16>, // the number of messages until the prefetch applies again
    session: Session,
    callback: ConsumerCallback,
    early: Option<Delivery>, // arrived before the current AMQP consumer
    unacked: BTreeMap<u64, BasicProperties>,
    dead_letters: Option<Publisher>, // opened for the first one
}

#[derive(Debug)]
struct ConsumerCallback {
    consumer_tag: String,
    deliveries: UnboundedReceiver<ConsumerMessage>, // at most the prefetch
}

impl Deliveries {
    pub(super) async fn open(rabbit: &Rabbit, queue: &str, prefetch: u16) -> Result<Self> {
        let mut session = Session::open(&rabbit.config).await?;
        let prefetch = prefetch.max(1);
        let one_by_one = rabbit.poison_isolation.take(queue).then_some(prefetch);
        let width = if one_by_one.is_some() { 1 } else { prefetch };
        let prepared = async {
            rabbit.declare(&session.channel).await?;
            ConsumerCallback::open(&session.channel, &rabbit.name(queue), width).await
        };
        match prepared.await {
            Ok(callback) => {
                if one_by_one.is_some() {
                    tracing::info!(
                        queue,
                        "the consumer takes messages one by one after a disconnect"
                    );
                }
                Ok(Self {
                    rabbit: rabbit.clone(),
                    queue: queue.to_owned(),
                    prefetch,
                    one_by_one,
                    session,
                    callback,
                    early: None,
                    unacked: BTreeMap::new(),
                    dead_letters: None,
                })
            }
            Err(cause) => {
                let refused = session.refused(cause);
                rabbit.poison_isolation.observe(queue, &session);
                Err(refused)
            }
        }
    }

    pub(crate) async fn next(&mut self) -> Result<Delivery> {
        loop {
            if let Some(early) = self.early.take() {
                return Ok(early);
            }
            let message = select! {
                biased;
                error = self.session.ended() => return Err(error),
                Some(message) = self.callback.deliveries.recv() => message,
            };
            if let Some(delivery) = self.accept(message) {
                return Ok(delivery);
            }
        }
    }

    pub(crate) fn try_next(&mut self) -> Option<Delivery> {
        if let Some(early) = self.early.take() {
            return Some(early);
        }
        let message = self.callback.deliveries.try_recv().ok()?;
        self.accept(message)
    }

    /// amqprs guarantees that no part of `message` is missing.
    fn accept(&mut self, message: ConsumerMessage) -> Option<Delivery> {
        let (deliver, properties) = (message.deliver?, message.basic_properties?);
        let (exchange, routing_key) = (deliver.exchange(), deliver.routing_key());
        let message = properties::read(&properties, exchange, routing_key, message.content?);
        let (tag, delivery_count) =
            (deliver.delivery_tag(), properties::delivery_count(&properties));
        self.unacked.insert(tag, properties);
        Some(Delivery { tag, delivery_count, message: self.rabbit.without_prefix(message) })
    }

    pub(crate) fn dead_letter_meta(&self, tag: u64) -> DeadLetterMeta {
        let properties = self.unacked.get(&tag);
        let limit = self.rabbit.config.delivery_limit;
        properties
            .map(|properties| properties::dead_letter_meta(properties, limit))
            .unwrap_or_default()
    }

    pub(crate) async fn ack(&mut self, tag: u64) -> Result<()> {
        self.session.check()?;
        if self.unacked.contains_key(&tag) {
            let ack = BasicAckArguments::new(tag, false);
            self.session.check_call(within(self.session.channel.basic_ack(ack)).await)?;
            self.unacked.remove(&tag);
            self.leave_isolation().await?;
        }
        Ok(())
    }

    /// Acknowledges up to the last unsettled delivery: RabbitMQ closes the channel for other tags.
    pub(crate) async fn ack_up_to(&mut self, tag: u64) -> Result<()> {
        self.session.check()?;
        if let Some((&last, _)) = self.unacked.range(..=tag).next_back() {
            let ack = BasicAckArguments::new(last, true);
            self.session.check_call(within(self.session.channel.basic_ack(ack)).await)?;
            self.unacked = self.unacked.split_off(&(last + 1));
            self.leave_isolation().await?;
        }
        Ok(())
    }

    pub(crate) async fn retry(&mut self, tag: u64) -> Result<()> {
        self.session.check()?;
        if self.unacked.contains_key(&tag) {
            let nack = BasicNackArguments::new(tag, false, true);
            self.session.check_call(within(self.session.channel.basic_nack(nack)).await)?;
            self.unacked.remove(&tag);
        }
        Ok(())
    }

    /// Publishes the copy on a connection of its own: RabbitMQ stops reading from publishing
    /// connections when it is short of memory or disk, and acknowledgements must not wait for that.
    pub(crate) async fn dead_letter(&mut self, delivery: Delivery, reason: &str) -> Result<()> {
        self.session.check()?;
        let Delivery { tag, delivery_count, message } = delivery;
        let Some(properties) = self.unacked.get(&tag) else { return Ok(()) };
        let exchange = self.rabbit.name(&message.exchange);
        let routing_key = self.rabbit.routing_key(&message.exchange, &message.routing_key);
        let copy =
            properties::dead_letter(properties, &exchange, &routing_key, delivery_count, reason);
        let mut publisher = match self.dead_letters.take() {
            Some(publisher) if publisher.is_open() => publisher,
            _ => Publisher::open(&self.rabbit).await?,
        };
        let (exchange, queue) = (self.rabbit.name(DEAD_LETTERS), self.rabbit.name(&self.queue));
        publisher.send(0, &exchange, &queue, copy, message.body).await?;
        publisher.confirmed().await?;
        self.dead_letters = Some(publisher);
        self.ack(tag).await
    }

    /// Counts an acknowledged message. After enough messages one by one, the prefetch applies
    /// again.
    async fn leave_isolation(&mut self) -> Result<()> {
        self.one_by_one = match self.one_by_one {
            Some(left) if left > 1 => Some(left - 1),
            Some(_) => {
                let channel = &self.session.channel;
                let queue = self.rabbit.name(&self.queue);
                let reopen = async {
                    self.callback.cancel(channel).await?;
                    ConsumerCallback::open(channel, &queue, self.prefetch).await
                };
                let outcome = reopen.await;
                let callback = self.session.check_call(outcome)?;
                let mut isolated = mem::replace(&mut self.callback, callback);
                let early = isolated.deliveries.try_recv().ok(); // one at most
                self.early = early.and_then(|message| self.accept(message));
                None
            }
            None => None,
        };
        Ok(())
    }

    pub(crate) async fn close(mut self) {
        if let Some(publisher) = self.dead_letters.take() {
            publisher.close().await;
        }
        self.session.close().await;
    }
}

impl Drop for Deliveries {
    fn drop(&mut self) {
        self.rabbit.poison_isolation.observe(&self.queue, &self.session);
    }
}

impl ConsumerCallback {
    async fn open(channel: &Channel, queue: &str, prefetch: u16) -> Outcome<Self> {
        within(channel.basic_qos(BasicQosArguments::new(0, prefetch, false))).await?;
        let arguments = BasicConsumeArguments::new(queue, "");
        let (consumer_tag, deliveries) = within(channel.basic_consume_rx(arguments)).await?;
        Ok(Self { consumer_tag, deliveries })
    }

    async fn cancel(&self, channel: &Channel) -> Outcome<()> {
        let arguments = BasicCancelArguments::new(&self.consumer_tag);
        within(channel.basic_cancel(arguments)).await.map(|_| ())
    }
}
