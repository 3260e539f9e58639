//! Messages, deliveries, and what can go wrong with a broker: the vocabulary of both brokers.

use jiff::Timestamp;
use serde_json::{Map, Value};
use shop_persistence::events::{EVENTS, ReceivedEvent};

/// The outcome of an operation on a broker.
pub type Result<T> = std::result::Result<T, Error>;

/// A session with a broker failed. The remedy is always a new session.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// No session could be opened: the broker is unavailable or refused it.
    #[error("cannot open a session with {broker}: {cause}")]
    Connect {
        /// Which broker, and its address.
        broker: String,
        /// What happened.
        cause: String,
    },
    /// The session ended. Messages without a confirmation may be lost; deliveries without an
    /// acknowledgement are redelivered.
    #[error("the session with {broker} ended: {cause}")]
    Closed {
        /// Which broker, and its address.
        broker: String,
        /// What happened.
        cause: String,
    },
}

/// A message: where it is published, its properties and its body.
///
/// A dead letter has the exchange and routing key of its first publication, so that it can be
/// published there again.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Message {
    /// The exchange's name, without the prefix; "" is the default exchange.
    pub exchange: String,
    /// For the default exchange, the queue's name without the prefix.
    pub routing_key: String,
    /// Property `message_id`: unique to the event.
    pub id: Option<String>,
    /// Property `type`: the event's name.
    pub kind: Option<String>,
    /// Header `version`: grows with every change of the event's subject.
    pub version: Option<i64>,
    /// Header `traceparent` (W3C).
    pub traceparent: Option<String>,
    /// Property `timestamp`, in seconds since 1970.
    pub timestamp: Option<u64>,
    /// Header `reason`: why it is a dead letter.
    pub reason: Option<String>,
    /// The content.
    pub body: Vec<u8>,
}

impl Message {
    /// The event in this message, not validated.
    ///
    /// Its name is that of its exchange, or of its queue on the default exchange. A message that an
    /// operator moved back from a dead-letter queue has neither, and is named by its `type`.
    #[must_use]
    pub fn event(&self) -> ReceivedEvent<'_> {
        let published =
            if self.exchange.is_empty() { &self.routing_key } else { &self.exchange }.as_str();
        let name = if EVENTS.iter().any(|event| event.name == published) {
            published
        } else {
            self.kind.as_deref().unwrap_or(published)
        };
        ReceivedEvent { name, version: self.version, body: &self.body }
    }
}

/// A message that was delivered to a consumer, to be acknowledged, retried or dead-lettered.
#[derive(Debug)]
pub struct Delivery {
    /// Identifies the delivery within its session; grows.
    pub tag: u64,
    /// How often it was delivered before.
    pub delivery_count: u32,
    /// What was published.
    pub message: Message,
}

/// What is known of a dead letter besides its message.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DeadLetterMeta {
    /// When it first failed, if its headers say so.
    pub failed_at: Option<Timestamp>,
    /// How often it was attempted.
    pub attempts: u32,
    /// All headers.
    pub headers: Map<String, Value>,
    /// All properties.
    pub properties: Map<String, Value>,
}

/// An object of the values that are not null, by name.
pub(crate) fn object<const N: usize>(values: [(&str, Value); N]) -> Map<String, Value> {
    let present = values.into_iter().filter(|(_, value)| !value.is_null());
    present.map(|(name, value)| (name.to_owned(), value)).collect()
}
