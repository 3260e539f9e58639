//! Dead letters: from the broker's dead-letter queues into the node's database, and from there, when a person says
//! so, to their owner once more.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value};
use shop_actors::dead_letters::{Msg, Redrive};
use shop_persistence::Error;
use shop_persistence::dead_letters::{DeadLetter, Payload};
use shop_runtime::registry::ActorMetrics;
use shop_runtime::{Addr, Backoff, HandlerResult, Service, now};
use tokio_util::sync::CancellationToken;

use crate::subscriptions::{Subscription, name, translate};
use crate::{Connection, Deliveries, Delivery, Message, Result, topology};

/// At most so many dead letters are taken and not yet kept.
pub const PREFETCH: u16 = 64;

/// How long to wait when a dead letter ended the owner who should keep it: long enough to not wear out its supervisor.
const AFTER_A_CRASH: Duration = Duration::from_secs(10);

/// What a dead letter tells besides its message.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DeadLetterMeta {
    /// When it became a dead letter, if that was written on it.
    pub failed_at: Option<Timestamp>,
    /// How often it was tried.
    pub tries: u32,
    /// All headers.
    pub headers: Map<String, Value>,
    /// All properties.
    pub properties: Map<String, Value>,
}

/// What is there, by its name.
pub fn object<const N: usize>(values: [(&str, Value); N]) -> Map<String, Value> {
    let there = values.into_iter().filter(|(_, value)| !value.is_null());
    there.map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Keeps one queue's dead letters: in the database, where they wait for a person, whichever the broker.
#[derive(Debug, Clone)]
pub struct DeadLetterConsumer {
    /// The queue whose messages they were, by its logical name.
    pub queue: &'static str,
    /// Who owns them from then on.
    pub letters: Addr<Msg>,
    /// Where from.
    pub connection: Connection,
}

impl Service for DeadLetterConsumer {
    async fn run(self, actor_metrics: Arc<ActorMetrics>, stop: CancellationToken) -> HandlerResult {
        let mut backoff = Backoff::default();
        while let Some(Err(error)) = stop.run_until_cancelled(self.session(&actor_metrics)).await {
            let wait = backoff.next_delay();
            let queue = self.queue;
            tracing::warn!(%error, queue, retry_ms = wait.as_millis(), "the keeper of dead letters lost its connection");
            stop.run_until_cancelled(tokio::time::sleep(wait)).await;
        }
        Ok(())
    }
}

impl DeadLetterConsumer {
    /// Keeps them over one connection until it breaks. To cut it off anywhere is harmless: what was not
    /// acknowledged comes again, and is kept once.
    async fn session(&self, actor_metrics: &Arc<ActorMetrics>) -> Result<()> {
        self.connection.up().await;
        let mut consumer =
            self.connection.broker().consume(&topology::dead(self.queue), PREFETCH).await?;
        loop {
            let mut batch = vec![consumer.next().await?];
            while let Some(delivery) = consumer.try_next() {
                batch.push(delivery);
            }
            let Some(last) = batch.last().map(|delivery| delivery.tag) else { continue };
            let letters = batch.into_iter().map(|delivery| self.letter(&consumer, delivery));
            actor_metrics.measure("Keep", self.keep(letters.collect())).await;
            consumer.ack_up_to(last).await?;
        }
    }

    fn letter(&self, consumer: &Deliveries, delivery: Delivery) -> DeadLetter {
        let Delivery { tag, message, .. } = delivery;
        let DeadLetterMeta { failed_at, tries, headers, properties } =
            consumer.dead_letter_meta(tag);
        let message_id = message.id.as_deref();
        DeadLetter {
            id: DeadLetter::id(self.queue, message_id, message.version, &message.body),
            queue: self.queue.to_owned(),
            event: name(&message).to_owned(),
            version: message.version,
            reason: message.reason.unwrap_or_else(|| "nobody said why".to_owned()),
            // Anybody may have written any time on it; a database knows fewer.
            first_failed_at: failed_at
                .filter(|at| *at >= Timestamp::UNIX_EPOCH)
                .unwrap_or_else(now),
            tries: i32::try_from(tries).unwrap_or(i32::MAX),
            headers: headers.into(),
            properties: properties.into(),
            message_id: message.id,
            payload: Payload(message.body),
        }
    }

    /// Whatever stands in the way is waited out: they are not lost meanwhile.
    async fn keep(&self, letters: Vec<DeadLetter>) {
        let mut backoff = Backoff::default();
        while let Err(error) =
            self.letters.ask((), |reply| Msg::Store(letters.clone(), reply)).await
        {
            let wait = match error {
                Error::Crashed(_) => AFTER_A_CRASH,
                _ => backoff.next_delay(),
            };
            let (queue, retry_ms) = (self.queue, wait.as_millis());
            tracing::warn!(%error, queue, retry_ms, "the keeper of dead letters waits");
            tokio::time::sleep(wait).await;
        }
    }
}

/// Whom the messages of a node's queues are for.
#[derive(Debug, Clone, Default)]
pub struct Subscriptions(Arc<[(&'static str, Subscription)]>);

impl Subscriptions {
    /// These queues are for these desks.
    pub fn new(
        subscriptions: impl IntoIterator<Item = (&'static str, Subscription)>,
    ) -> Subscriptions {
        Subscriptions(subscriptions.into_iter().collect())
    }

    /// The queues.
    pub fn queues(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().map(|(queue, _)| *queue)
    }
}

impl Redrive for Subscriptions {
    async fn redrive(&self, letter: &DeadLetter) -> shop_persistence::Result<()> {
        let subscription = self.0.iter().find(|(queue, _)| *queue == letter.queue);
        let (_, subscription) = subscription.ok_or_else(|| {
            Error::Conflict(format!("this node does not listen on {}", letter.queue))
        })?;
        let message = Message {
            routing_key: letter.event.clone(),
            kind: Some(letter.event.clone()),
            version: letter.version,
            body: letter.payload.0.clone(),
            ..Message::default()
        };
        let news = translate(&message).map_err(|why| Error::Conflict(why.to_string()))?;
        if !subscription.takes(&news) {
            return Err(Error::Conflict("not an event for this queue".to_owned()));
        }
        subscription.tell(vec![news]).await
    }
}
