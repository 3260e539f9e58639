//! RabbitMQ in and out: the topology, the intake, the relay, the translation between messages and events; and the
//! in-process bus that stands in for RabbitMQ. The only crate that knows amqprs.

mod broker;
mod bus;
mod dead_letters;
mod intake;
mod link;
mod rabbit;
mod relay;
pub mod topology;
mod traced;
mod translate;

pub use broker::{Broker, Consumer, Delivery, Error, Message, Publisher, Result};
pub use bus::Bus;
pub use dead_letters::{Desks, Keeper, PREFETCH, Postmark};
pub use intake::Intake;
pub use link::Link;
pub use rabbit::{Rabbit, RabbitConfig};
pub use relay::{Relay, WINDOW};
pub use translate::{Desk, News, translate};
