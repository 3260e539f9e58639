//! RabbitMQ in and out: topology, consumers, dead-letter consumers and the relay; and the
//! in-process bus with the same guarantees. Which events exist is declared in
//! `shop_persistence::events`, which actor applies them in `shop_actors`. The only crate that uses
//! amqprs.

mod broker;
mod bus;
mod connection;
mod consumer;
mod dead_letters;
mod message;
mod rabbit;
mod relay;
mod spans;
pub mod topology;

pub use broker::{Broker, Deliveries, Publisher};
pub use bus::Bus;
pub use connection::Connection;
pub use consumer::Consumer;
pub use dead_letters::{DeadLetterConsumer, PREFETCH};
pub use message::{DeadLetterMeta, Delivery, Error, Message, Result};
pub use rabbit::{Rabbit, RabbitConfig};
pub use relay::{Relay, WINDOW};
