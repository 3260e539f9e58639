//! The in-process bus: RabbitMQ's guarantees within one process.
//!
//! It has no disk. It confirms a message when each queue with a copy has settled it; until then the
//! publisher keeps the message, and the publisher's window bounds the bus. A dead letter is settled
//! when the dead-letter consumer has acknowledged it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde_json::json;
use shop_runtime::now;
use tokio::sync::{Notify, mpsc};

use crate::message::{DeadLetterMeta, Delivery, Error, Message, Result, object};
use crate::topology::{self, QUEUES};

const NAME: &str = "the in-process bus";

/// A broker within this process. Clones share the queues.
#[derive(Clone, Debug)]
pub struct Bus {
    queues: Arc<HashMap<String, Arc<Queue>>>,
}

impl Bus {
    /// A bus with empty queues. It redelivers a message at most `delivery_limit` times.
    #[must_use]
    pub fn new(delivery_limit: u32) -> Self {
        let mut queues = HashMap::new();
        for queue in QUEUES.iter() {
            let dead = Arc::new(Queue::default());
            queues.insert(topology::dead(queue.name), dead.clone());
            let limit = Some(Limit { redeliveries: delivery_limit, dead });
            queues.insert(queue.name.to_owned(), Arc::new(Queue { limit, ..Queue::default() }));
        }
        Self { queues: Arc::new(queues) }
    }

    pub(crate) fn publisher(&self) -> Publisher {
        let (confirm, confirmed) = mpsc::unbounded_channel();
        Publisher { bus: self.clone(), confirm, confirmed, error: None }
    }

    pub(crate) fn consume(&self, queue: &str, prefetch: u16) -> Result<Deliveries> {
        let Some(queue) = self.queues.get(queue).cloned() else {
            let cause = format!("there is no queue {queue:?}");
            return Err(Error::Connect { broker: NAME.to_owned(), cause });
        };
        let prefetch = usize::from(prefetch.max(1));
        Ok(Deliveries { queue, prefetch, last_tag: 0, unacked: BTreeMap::new() })
    }
}

#[derive(Debug, Default)]
struct Queue {
    ready: Mutex<Ready>,
    arrived: Notify,
    limit: Option<Limit>, // dead-letter queues have none
}

#[derive(Debug)]
struct Limit {
    redeliveries: u32,
    dead: Arc<Queue>,
}

/// The messages that are ready for delivery.
#[derive(Debug, Default)]
struct Ready {
    entries: VecDeque<Entry>, // in ascending position
    arrivals: u64,
}

/// A message in one queue.
#[derive(Debug)]
struct Entry {
    position: u64,
    delivery_count: u32,
    message: Arc<Message>,
    receipt: Arc<Receipt>,    // shared by the copies in all queues
    failure: Option<Failure>, // of a dead letter
}

/// When a message became a dead letter, and after how many attempts.
#[derive(Clone, Copy, Debug)]
struct Failure {
    at: Timestamp,
    attempts: u32,
}

/// The confirmation that is due when the last copy is settled.
#[derive(Debug)]
struct Receipt {
    id: i64,
    publisher: mpsc::UnboundedSender<i64>,
}

impl Queue {
    fn ready(&self) -> MutexGuard<'_, Ready> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, message: Arc<Message>, receipt: Arc<Receipt>, failure: Option<Failure>) {
        let mut ready = self.ready();
        ready.arrivals += 1;
        let position = ready.arrivals;
        ready.entries.push_back(Entry { position, delivery_count: 0, message, receipt, failure });
        drop(ready);
        self.arrived.notify_waiters();
    }

    /// Returns `entry` to its position, or dead-letters it over the delivery limit.
    fn requeue(&self, mut entry: Entry) {
        if let Some(limit) = &self.limit
            && entry.delivery_count >= limit.redeliveries
        {
            let message_id = entry.message.id.as_deref();
            tracing::error!(message.id = message_id, "a message exceeds the delivery limit");
            return self.dead_letter(entry, "delivery_limit"); // RabbitMQ's term
        }
        entry.delivery_count += 1;
        let mut ready = self.ready();
        let index = ready.entries.partition_point(|other| other.position < entry.position);
        ready.entries.insert(index, entry);
        drop(ready);
        self.arrived.notify_waiters();
    }

    fn dead_letter(&self, entry: Entry, reason: &str) {
        let Some(limit) = &self.limit else { return self.requeue(entry) };
        let reason = Some(reason.to_owned());
        let message = Message { reason, ..Message::clone(&entry.message) };
        let failure = Failure { at: now(), attempts: entry.delivery_count.saturating_add(1) };
        limit.dead.push(Arc::new(message), entry.receipt, Some(failure));
    }
}

/// Drops one copy's share of the receipt. The last one confirms the message.
fn settle(receipt: Arc<Receipt>) {
    if let Some(receipt) = Arc::into_inner(receipt) {
        receipt.publisher.send(receipt.id).ok(); // fails if the publisher was dropped
    }
}

/// A session to publish on.
#[derive(Debug)]
pub struct Publisher {
    bus: Bus,
    confirm: mpsc::UnboundedSender<i64>,
    confirmed: mpsc::UnboundedReceiver<i64>,
    error: Option<Error>,
}

impl Publisher {
    pub(crate) fn publish(&mut self, id: i64, message: Message) -> Result<()> {
        if let Some(error) = &self.error {
            return Err(error.clone());
        }
        let Message { exchange, routing_key, .. } = &message;
        let destinations = topology::destinations(exchange, routing_key);
        if destinations.is_empty() {
            // `confirmed` reports it, as it does when RabbitMQ returns a message.
            let cause = format!("no queue receives {routing_key:?} from exchange {exchange:?}");
            self.error = Some(Error::Closed { broker: NAME.to_owned(), cause });
            return Ok(());
        }
        let message = Arc::new(message);
        let receipt = Arc::new(Receipt { id, publisher: self.confirm.clone() });
        for queue in destinations.iter().filter_map(|name| self.bus.queues.get(name)) {
            queue.push(message.clone(), receipt.clone(), None);
        }
        settle(receipt); // all copies may be acknowledged already
        Ok(())
    }

    pub(crate) async fn confirmed(&mut self) -> Result<Vec<i64>> {
        if let Some(error) = &self.error {
            return Err(error.clone());
        }
        let mut ids = Vec::new();
        self.confirmed.recv_many(&mut ids, usize::MAX).await;
        Ok(ids)
    }
}

/// A session to consume one queue on.
#[derive(Debug)]
pub struct Deliveries {
    queue: Arc<Queue>,
    prefetch: usize,
    last_tag: u64,
    unacked: BTreeMap<u64, Entry>,
}

impl Deliveries {
    pub(crate) async fn next(&mut self) -> Delivery {
        let queue = self.queue.clone();
        loop {
            // Registered before the check, so that no arrival is missed.
            let arrived = queue.arrived.notified();
            if let Some(delivery) = self.try_next() {
                return delivery;
            }
            arrived.await;
        }
    }

    pub(crate) fn try_next(&mut self) -> Option<Delivery> {
        if self.unacked.len() >= self.prefetch {
            return None;
        }
        let entry = self.queue.ready().entries.pop_front()?;
        self.last_tag += 1;
        let tag = self.last_tag;
        let (delivery_count, message) = (entry.delivery_count, Message::clone(&entry.message));
        self.unacked.insert(tag, entry);
        Some(Delivery { tag, delivery_count, message })
    }

    pub(crate) fn dead_letter_meta(&self, tag: u64) -> DeadLetterMeta {
        let Some(Entry { message, failure, .. }) = self.unacked.get(&tag) else {
            return DeadLetterMeta::default();
        };
        let Message { exchange, routing_key, version, traceparent, .. } = &**message;
        let timestamp = message.timestamp.and_then(|seconds| i64::try_from(seconds).ok());
        let timestamp = timestamp.and_then(|seconds| Timestamp::from_second(seconds).ok());
        DeadLetterMeta {
            failed_at: failure.map(|failure| failure.at),
            attempts: failure.map_or(1, |failure| failure.attempts),
            headers: object([
                ("version", json!(version)),
                ("traceparent", json!(traceparent)),
                ("x-original-exchange", json!(exchange)),
                ("x-original-routing-key", json!(routing_key)),
            ]),
            properties: object([
                ("message_id", json!(message.id)),
                ("type", json!(message.kind)),
                ("timestamp", json!(timestamp)),
            ]),
        }
    }

    pub(crate) fn ack(&mut self, tag: u64) {
        if let Some(entry) = self.unacked.remove(&tag) {
            settle(entry.receipt);
        }
    }

    pub(crate) fn ack_up_to(&mut self, tag: u64) {
        let later = self.unacked.split_off(&tag.saturating_add(1));
        for entry in mem::replace(&mut self.unacked, later).into_values() {
            settle(entry.receipt);
        }
    }

    pub(crate) fn retry(&mut self, tag: u64) {
        if let Some(entry) = self.unacked.remove(&tag) {
            self.queue.requeue(entry);
        }
    }

    pub(crate) fn dead_letter(&mut self, tag: u64, reason: &str) {
        if let Some(entry) = self.unacked.remove(&tag) {
            self.queue.dead_letter(entry, reason);
        }
    }
}

impl Drop for Deliveries {
    fn drop(&mut self) {
        for entry in mem::take(&mut self.unacked).into_values() {
            self.queue.requeue(entry);
        }
    }
}
