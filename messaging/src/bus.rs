//! The in-process bus: RabbitMQ's promises within one process.
//!
//! It has no disk, so it confirms a message only when every queue that got a copy is done with it:
//! until then it is the publisher's to keep, and the publisher's window is what bounds the bus. A queue is done with a
//! dead letter when that was acknowledged by whoever keeps it.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use serde_json::json;
use shop_runtime::now;
use tokio::sync::{Notify, mpsc};
use tracing::warn;

use crate::{
    broker::{Delivery, Error, Message, Result},
    dead_letters::{DeadLetterMeta, object},
    topology::{self, QUEUES},
};

const NAME: &str = "the in-process bus";

/// A broker within this process. Clones share the queues.
#[derive(Clone, Debug)]
pub struct Bus {
    queues: Arc<HashMap<String, Arc<Queue>>>,
}

impl Bus {
    /// A bus with empty queues that hands a message out again at most `delivery_limit` times.
    #[must_use]
    pub fn new(delivery_limit: u32) -> Self {
        let mut queues = HashMap::new();
        for queue in QUEUES {
            let dead = Arc::new(Queue::default());
            queues.insert(topology::dead(queue.name), dead.clone());
            let limit = Some(Limit { tries: delivery_limit, dead });
            queues.insert(queue.name.to_owned(), Arc::new(Queue { limit, ..Queue::default() }));
        }
        Self { queues: Arc::new(queues) }
    }

    pub(crate) fn publisher(&self) -> Publisher {
        let (confirm, confirmed) = mpsc::unbounded_channel();
        Publisher { bus: self.clone(), confirm, confirmed, over: None }
    }

    pub(crate) fn consume(&self, queue: &str, prefetch: u16) -> Result<Deliveries> {
        let Some(queue) = self.queues.get(queue).cloned() else {
            let cause = format!("there is no queue {queue:?}");
            return Err(Error::Unopened { broker: NAME.to_owned(), cause });
        };
        let prefetch = usize::from(prefetch.max(1));
        Ok(Deliveries { queue, prefetch, last_tag: 0, unacked: BTreeMap::new() })
    }
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    arrived: Notify,
    limit: Option<Limit>, // dead letters have none
}

#[derive(Debug)]
struct Limit {
    tries: u32,
    dead: Arc<Queue>,
}

#[derive(Debug, Default)]
struct Waiting {
    entries: VecDeque<Entry>, // ascending by position
    arrivals: u64,
}

/// A message in one queue.
#[derive(Debug)]
struct Entry {
    position: u64,
    tries: u32,
    message: Arc<Message>,
    receipt: Arc<Receipt>,    // shared by all copies
    failure: Option<Failure>, // of a dead letter
}

/// When a message became a dead letter, and after how many tries.
#[derive(Clone, Copy, Debug)]
struct Failure {
    at: Timestamp,
    tries: u32,
}

/// Whom to tell when the last copy is settled.
#[derive(Debug)]
struct Receipt {
    guard: i64,
    publisher: mpsc::UnboundedSender<i64>,
}

impl Queue {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, message: Arc<Message>, receipt: Arc<Receipt>, failure: Option<Failure>) {
        let mut waiting = self.waiting();
        waiting.arrivals += 1;
        let position = waiting.arrivals;
        waiting.entries.push_back(Entry { position, tries: 0, message, receipt, failure });
        drop(waiting);
        self.arrived.notify_waiters();
    }

    /// Puts `entry` where it was before it was handed out, or among the dead letters.
    fn give_back(&self, mut entry: Entry) {
        match &self.limit {
            Some(limit) if entry.tries >= limit.tries => {
                warn!(message.id = entry.message.id, "a dead letter: tried too often");
                self.dead_letter(entry, "delivery_limit"); // as RabbitMQ calls it
            }
            _ => {
                entry.tries += 1;
                let mut waiting = self.waiting();
                let place =
                    waiting.entries.partition_point(|other| other.position < entry.position);
                waiting.entries.insert(place, entry);
                drop(waiting);
                self.arrived.notify_waiters();
            }
        }
    }

    fn dead_letter(&self, entry: Entry, reason: &str) {
        let Some(limit) = &self.limit else { return self.give_back(entry) };
        let reason = Some(reason.to_owned());
        let message = Message { reason, ..Message::clone(&entry.message) };
        let failure = Failure { at: now(), tries: entry.tries.saturating_add(1) };
        limit.dead.push(Arc::new(message), entry.receipt, Some(failure));
    }
}

/// One holder of `receipt` is done; the last one confirms the message.
fn settle(receipt: Arc<Receipt>) {
    if let Some(receipt) = Arc::into_inner(receipt) {
        receipt.publisher.send(receipt.guard).ok(); // the publisher may be gone
    }
}

/// A session to publish on.
#[derive(Debug)]
pub struct Publisher {
    bus: Bus,
    confirm: mpsc::UnboundedSender<i64>,
    confirmed: mpsc::UnboundedReceiver<i64>,
    over: Option<Error>,
}

impl Publisher {
    pub(crate) fn publish(&mut self, guard: i64, message: Message) -> Result<()> {
        if let Some(over) = &self.over {
            return Err(over.clone());
        }
        let Message { exchange, routing_key, .. } = &message;
        let destinations = topology::destinations(exchange, routing_key);
        if destinations.is_empty() {
            // `settled` tells, as it does when RabbitMQ returns a message.
            let cause = format!("no queue gets what goes to {exchange:?} with {routing_key:?}");
            self.over = Some(Error::Over { broker: NAME.to_owned(), cause });
            return Ok(());
        }
        let message = Arc::new(message);
        let receipt = Arc::new(Receipt { guard, publisher: self.confirm.clone() });
        for queue in destinations.iter().filter_map(|name| self.bus.queues.get(name)) {
            queue.push(message.clone(), receipt.clone(), None);
        }
        settle(receipt); // all copies may be acknowledged already
        Ok(())
    }

    pub(crate) async fn settled(&mut self) -> Result<Vec<i64>> {
        if let Some(over) = &self.over {
            return Err(over.clone());
        }
        let mut tickets = Vec::new();
        self.confirmed.recv_many(&mut tickets, usize::MAX).await;
        Ok(tickets)
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
            let arrived = queue.arrived.notified(); // from before the look, so nothing is missed
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
        let entry = self.queue.waiting().entries.pop_front()?;
        self.last_tag += 1;
        let tag = self.last_tag;
        let delivery =
            Delivery { tag, tries: entry.tries, message: Message::clone(&entry.message) };
        self.unacked.insert(tag, entry);
        Some(delivery)
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
            tries: failure.map_or(1, |failure| failure.tries),
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
            self.queue.give_back(entry);
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
            self.queue.give_back(entry);
        }
    }
}
