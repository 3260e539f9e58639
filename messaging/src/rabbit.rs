//! RabbitMQ: sessions to publish and to consume on. Each session declares the topology.

mod deliveries;
mod properties;
mod publisher;
mod session;

use std::sync::Arc;

use amqprs::channel::{
    Channel, ExchangeDeclareArguments, QueueBindArguments, QueueDeclareArguments,
};
use amqprs::{FieldName, FieldTable, FieldValue};
use secrecy::SecretString;

use crate::message::{Message, Result};
use crate::topology::{self, DEAD_LETTERS, DEFAULT_EXCHANGE, QUEUES, UNDELIVERABLE};
pub use deliveries::Deliveries;
use deliveries::PoisonIsolation;
pub use publisher::Publisher;
use session::{Outcome, within};

/// The address of RabbitMQ, the credentials, and the names of the shop's objects there.
#[derive(Clone, Debug)]
pub struct RabbitConfig {
    /// Its name or address.
    pub host: String,
    /// Its AMQP port, usually 5672.
    pub port: u16,
    /// The user.
    pub user: String,
    /// The user's password.
    pub password: SecretString,
    /// The virtual host, usually "/".
    pub vhost: String,
    /// The prefix of every exchange and queue, so that shops can share a broker.
    pub prefix: String,
    /// The maximum number of redeliveries; then a message becomes a dead letter. RabbitMQ stores it
    /// when a queue is first declared, and refuses another value afterwards.
    pub delivery_limit: u32,
    /// The name of the connections in RabbitMQ's management tools.
    pub connection_name: String,
}

/// A RabbitMQ server. It is not contacted before a session is opened.
#[derive(Clone, Debug)]
pub struct Rabbit {
    config: Arc<RabbitConfig>,
    poison_isolation: PoisonIsolation,
}

impl Rabbit {
    /// The server of this configuration.
    #[must_use]
    pub fn new(config: RabbitConfig) -> Self {
        Self { config: Arc::new(config), poison_isolation: PoisonIsolation::default() }
    }

    pub(crate) async fn publisher(&self) -> Result<Publisher> {
        Publisher::open(self).await
    }

    pub(crate) async fn consume(&self, queue: &str, prefetch: u16) -> Result<Deliveries> {
        Deliveries::open(self, queue, prefetch).await
    }

    async fn declare(&self, channel: &Channel) -> Outcome<()> {
        for exchange in topology::fanout_exchanges() {
            self.declare_exchange(channel, exchange, "fanout").await?;
        }
        self.declare_exchange(channel, DEAD_LETTERS, "direct").await?;
        self.declare_queue(channel, UNDELIVERABLE, quorum()).await?;
        for queue in QUEUES.iter() {
            let dead = topology::dead(queue.name);
            let limited = self.limited(DEFAULT_EXCHANGE, UNDELIVERABLE);
            self.declare_queue(channel, &dead, limited).await?;
            self.bind(channel, &dead, DEAD_LETTERS, &self.name(queue.name)).await?;
            let limited = self.limited(DEAD_LETTERS, queue.name);
            self.declare_queue(channel, queue.name, limited).await?;
            for exchange in &queue.exchanges {
                self.bind(channel, queue.name, exchange, "").await?;
            }
        }
        Ok(())
    }

    /// The arguments of a queue whose messages go to `exchange` with `key` over the delivery limit.
    fn limited(&self, exchange: &str, key: &str) -> FieldTable {
        let mut arguments = quorum();
        let limit = FieldValue::l(self.config.delivery_limit.into());
        put(&mut arguments, "x-delivery-limit", limit);
        put(&mut arguments, "x-dead-letter-exchange", self.name(exchange).into());
        put(&mut arguments, "x-dead-letter-routing-key", self.name(key).into());
        arguments
    }

    async fn declare_exchange(&self, channel: &Channel, exchange: &str, kind: &str) -> Outcome<()> {
        let arguments =
            ExchangeDeclareArguments::new(&self.name(exchange), kind).durable(true).finish();
        within(channel.exchange_declare(arguments)).await
    }

    async fn declare_queue(
        &self,
        channel: &Channel,
        queue: &str,
        arguments: FieldTable,
    ) -> Outcome<()> {
        let arguments = QueueDeclareArguments::durable_client_named(&self.name(queue))
            .arguments(arguments)
            .finish();
        within(channel.queue_declare(arguments)).await.map(|_| ())
    }

    async fn bind(&self, channel: &Channel, queue: &str, exchange: &str, key: &str) -> Outcome<()> {
        let arguments = QueueBindArguments::new(&self.name(queue), &self.name(exchange), key);
        within(channel.queue_bind(arguments)).await
    }

    /// The name on the server. The default exchange has no prefix.
    fn name(&self, name: &str) -> String {
        if name.is_empty() { String::new() } else { format!("{}{name}", self.config.prefix) }
    }

    fn routing_key(&self, exchange: &str, key: &str) -> String {
        if topology::routes_by_queue(exchange) { self.name(key) } else { key.to_owned() }
    }

    /// The message with its names without the prefix.
    fn without_prefix(&self, mut message: Message) -> Message {
        let strip = |name: &str| name.strip_prefix(&self.config.prefix).map(str::to_owned);
        if let Some(exchange) = strip(&message.exchange) {
            message.exchange = exchange;
        }
        if topology::routes_by_queue(&message.exchange)
            && let Some(routing_key) = strip(&message.routing_key)
        {
            message.routing_key = routing_key;
        }
        message
    }
}

fn quorum() -> FieldTable {
    let mut arguments = FieldTable::new();
    put(&mut arguments, "x-queue-type", "quorum".into());
    arguments
}

fn put(arguments: &mut FieldTable, name: &str, value: FieldValue) {
    if let Ok(name) = FieldName::try_from(name) {
        arguments.insert(name, value);
    }
}
