//! RabbitMQ in and out: the topology, the intake, the relay, the translation between messages and events; and the
//! in-process bus that stands in for RabbitMQ. The only crate that knows amqprs.

mod broker;
mod bus;
mod connection;
mod consumer;
mod dead_letters;
mod rabbit;
mod relay;
mod spans;
mod subscriptions;
pub mod topology;

pub use broker::{Broker, Deliveries, Delivery, Error, Message, Publisher, Result};
pub use bus::Bus;
pub use connection::Connection;
pub use consumer::Consumer;
pub use dead_letters::{DeadLetterConsumer, DeadLetterMeta, PREFETCH, Subscriptions};
pub use rabbit::{Rabbit, RabbitConfig};
pub use relay::{Relay, WINDOW};
pub use subscriptions::{News, Subscription, translate};
