//! RabbitMQ: sessions to publish and to consume on, the whole topology declared by each.

mod deliveries;
mod properties;
mod publisher;
mod session;

use std::sync::Arc;

use amqprs::{
    FieldName, FieldTable, FieldValue,
    channel::{Channel, ExchangeDeclareArguments, QueueBindArguments, QueueDeclareArguments},
};
use secrecy::SecretString;

use crate::{
    broker::{Message, Result},
    topology::{self, DEAD_LETTERS, DEFAULT_EXCHANGE, QUEUES, UNDELIVERABLE, USER_EVENTS},
};
pub use deliveries::Deliveries;
use deliveries::PoisonIsolation;
pub use publisher::Publisher;
use session::{Outcome, within};

/// Where RabbitMQ is, who we are there, and what our things are called.
#[derive(Clone, Debug)]
pub struct RabbitConfig {
    /// Its name or address.
    pub host: String,
    /// Its AMQP port, 5672 as a rule.
    pub port: u16,
    /// Who signs in.
    pub user: String,
    /// The user's password.
    pub password: SecretString,
    /// The virtual host, "/" as a rule.
    pub vhost: String,
    /// Goes before the name of every exchange and queue, so that shops can share a broker.
    pub prefix: String,
    /// How often a message is handed out again before it becomes a dead letter. Fixed in a queue
    /// when it is first declared: RabbitMQ refuses another one from then on.
    pub delivery_limit: u32,
    /// What RabbitMQ's own tools call our connections.
    pub connection_name: String,
}

/// A RabbitMQ server. It is not spoken to before a session is opened.
#[derive(Clone, Debug)]
pub struct Rabbit {
    config: Arc<RabbitConfig>,
    poison_isolation: PoisonIsolation,
}

impl Rabbit {
    /// The server that `config` speaks of.
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
        for exchange in USER_EVENTS {
            self.declare_exchange(channel, exchange, "fanout").await?;
        }
        self.declare_exchange(channel, DEAD_LETTERS, "direct").await?;
        self.declare_queue(channel, UNDELIVERABLE, quorum()).await?;
        for queue in QUEUES {
            let dead = topology::dead(queue.name);
            let limited = self.limited(DEFAULT_EXCHANGE, UNDELIVERABLE);
            self.declare_queue(channel, &dead, limited).await?;
            self.bind(channel, &dead, DEAD_LETTERS, &self.name(queue.name)).await?;
            let limited = self.limited(DEAD_LETTERS, queue.name);
            self.declare_queue(channel, queue.name, limited).await?;
            for exchange in queue.exchanges {
                self.bind(channel, queue.name, exchange, "").await?;
            }
        }
        Ok(())
    }

    /// A queue whose messages go to `exchange` with `key` when they were handed out too often.
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

    /// What `name` is called on the server; the default exchange has no name.
    fn name(&self, name: &str) -> String {
        if name.is_empty() { String::new() } else { format!("{}{name}", self.config.prefix) }
    }

    fn routing_key(&self, exchange: &str, key: &str) -> String {
        if topology::routes_by_queue(exchange) { self.name(key) } else { key.to_owned() }
    }

    /// `message` with the names that it has in the shop.
    fn plain(&self, mut message: Message) -> Message {
        let plain = |name: &str| name.strip_prefix(&self.config.prefix).map(str::to_owned);
        if let Some(exchange) = plain(&message.exchange) {
            message.exchange = exchange;
        }
        if topology::routes_by_queue(&message.exchange)
            && let Some(routing_key) = plain(&message.routing_key)
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
