//! The guarantees of a broker. RabbitMQ and the in-process bus pass the same tests.

use std::time::Duration;

use shop_messaging::{Broker, Bus, Deliveries, Delivery, Message, Publisher, Rabbit, RabbitConfig};
use shop_tests::rabbitmq::RabbitMq;
use tokio::time::timeout;

/// Runs each test on both brokers.
macro_rules! on_each_broker {
    ($($test:ident)*) => {
        mod on_the_bus {
            $(#[tokio::test]
            async fn $test() {
                crate::brokers::on_the_bus(super::$test).await;
            })*
        }
        mod on_rabbitmq {
            $(#[tokio::test]
            async fn $test() {
                crate::brokers::on_rabbitmq(super::$test).await;
            })*
        }
    };
}

mod bus;
mod dead_letters;
mod delivery;
mod proxy;
mod rabbitmq;

const DELIVERY_LIMIT: u32 = 3;

/// Queues without a fanout exchange.
const PRODUCT_CREATED: &str = "product.created";
const STOCK_MOVED: &str = "stock.moved";

/// The fanout exchanges of the queues for users.
const USER_EVENTS: [&str; 3] = ["user_created", "user_updated", "user_deleted"];

async fn assert_redelivered_in_order(broker: &Broker) {
    let mut consumer = soon(broker.consume(PRODUCT_CREATED, 10)).await.unwrap();
    for n in 0..3 {
        let delivery = soon(consumer.next()).await.unwrap();
        assert_eq!((number(&delivery), delivery.delivery_count), (n, 1));
    }
}

async fn on_the_bus(test: impl AsyncFnOnce(Broker)) {
    soon_at_most(60, test(Broker::Bus(Bus::new(DELIVERY_LIMIT)))).await;
}

async fn on_rabbitmq(test: impl AsyncFnOnce(Broker)) {
    let with_config = async |config| test(Broker::Rabbit(Rabbit::new(config))).await;
    on_rabbitmq_at(address().await, with_config).await;
}

/// Runs the test with its own prefix.
async fn on_rabbitmq_at(address: String, test: impl AsyncFnOnce(RabbitConfig)) {
    soon_at_most(60, test(config(&address))).await;
}

async fn address() -> String {
    format!("127.0.0.1:{}", RabbitMq::shared().await.expect("a RabbitMQ for the tests").port())
}

fn config(address: &str) -> RabbitConfig {
    let (host, port) = address.rsplit_once(':').unwrap();
    RabbitConfig {
        host: host.to_owned(),
        port: port.parse().unwrap(),
        user: "guest".to_owned(),
        password: "guest".to_owned().into(),
        vhost: "/".to_owned(),
        prefix: format!("test-{}.", uuid::Uuid::new_v4()),
        delivery_limit: DELIVERY_LIMIT,
        connection_name: "shop-messaging tests".to_owned(),
    }
}

async fn open(broker: &Broker, queue: &str, prefetch: u16) -> (Publisher, Deliveries) {
    let publisher = soon(broker.publisher()).await.unwrap();
    (publisher, soon(broker.consume(queue, prefetch)).await.unwrap())
}

/// Waits for this number of confirmations.
async fn confirmations(publisher: &mut Publisher, count: usize) -> Vec<i64> {
    let mut ids = Vec::new();
    while ids.len() < count {
        ids.extend(soon(publisher.confirmed()).await.unwrap());
    }
    ids
}

/// Fails after 20 s.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    soon_at_most(20, future).await
}

async fn soon_at_most<T>(seconds: u64, future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(seconds), future).await.expect("an outcome in time")
}

fn to_queue(queue: &str, number: i64) -> Message {
    let id = Some(format!("id-{number}"));
    let body = number.to_string().into();
    Message { routing_key: queue.to_owned(), id, version: Some(number), body, ..Message::default() }
}

fn product(number: i64) -> Message {
    to_queue(PRODUCT_CREATED, number)
}

fn user_event(exchange: &str, number: i64) -> Message {
    let kind = Some(exchange.to_owned());
    Message { exchange: exchange.to_owned(), kind, ..to_queue("", number) }
}

/// The number that the message was made with.
fn number(delivery: &Delivery) -> i64 {
    delivery.message.version.unwrap()
}
