//! A long outage of the broker while orders continue. `SHOP_TESTS_OUTAGE_SECONDS` sets its duration.

use std::time::{Duration, Instant};

use amqprs::FieldValue;
use amqprs::channel::{BasicGetArguments, QueueBindArguments, QueueDeclareArguments};
use amqprs::connection::{Connection, OpenConnectionArguments};
use serde_json::json;
use shop_supervisor::Node;
use shop_tests::rabbitmq::RabbitMq;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use shop_tests::{BrokerKind, Client, Folder, Process, Settings, equal, eventually};

/// Orders per second.
const RATE: u32 = 200;

/// The maximum time from the broker's return until all events are applied.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(60);

fn outage() -> Duration {
    let seconds = std::env::var("SHOP_TESTS_OUTAGE_SECONDS").unwrap_or("10".into());
    Duration::from_secs(seconds.parse().expect("SHOP_TESTS_OUTAGE_SECONDS is a number"))
}

#[tokio::test]
async fn orders_are_accepted_during_a_broker_outage_and_all_events_follow_in_order() {
    let mut broker = RabbitMq::start().await.unwrap();
    let folder = Folder::new("shop-outage").unwrap();
    let (mut settings, urls) = Settings::with_fixed_ports(BrokerKind::RabbitMq).await;
    settings.set("SHOP__RABBITMQ__PORT", &broker.port().to_string());
    let mut processes = vec![];
    for node in Node::ALL {
        processes.push(Process::start(&folder, &["run", node.name()], &settings.variables).await);
    }
    let anonymous = Client::new(urls);
    anonymous.until_ready().await;
    let admin = anonymous.log_in("admin").await;
    let teapot = admin.product(1990, 100_000_000).await;
    let mut buyers = vec![];
    for name in ["anna", "bob", "carl", "dora"] {
        let buyer = anonymous.register(name).await;
        eventually(async || equal(buyer.order(&[(&teapot, 1)]).await.status.as_u16(), 201)).await;
        buyers.push(buyer);
    }
    let queue = format!("{}recorded", settings.prefix);
    bind_to_user_updates(&broker, &settings.prefix, &queue).await;

    broker.stop().await.unwrap();
    let ended = Instant::now() + outage();
    let mut tick = interval(Duration::from_secs(1) / RATE);
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut orders = JoinSet::new();
    let mut changes = 0;
    while Instant::now() < ended {
        tick.tick().await;
        let number = orders.len();
        let (buyer, teapot) = (buyers[number % buyers.len()].clone(), teapot.clone());
        orders.spawn(async move { buyer.order(&[(&teapot, 1)]).await.status.as_u16() });
        if number.is_multiple_of(RATE as usize) {
            changes += 1;
            let name = json!({"username": format!("anna-{changes}")});
            buyers[0].put(Node::Auth, "/api/v1/users/me", name).await.expect(200);
        }
    }
    let orders = orders.join_all().await;
    let refused = orders.iter().filter(|status| **status != 201).count();
    assert_eq!(refused, 0, "of {} orders", orders.len());

    broker.start_again().await.unwrap();
    let restored = Instant::now();
    let expected = 100_000_000 - (orders.len() + buyers.len()) as i64;
    eventually(async || {
        let stock = admin.stock(&teapot).await;
        assert!(restored.elapsed() < CATCH_UP_TIMEOUT, "{} sales are missing", stock - expected);
        equal(stock, expected)
    })
    .await;
    println!(
        "{} orders in {:?}; all events applied after {:?}",
        orders.len(),
        outage(),
        restored.elapsed()
    );
    let versions = eventually(async || {
        let versions = versions(&broker, &queue).await;
        if versions.len() >= changes { Ok(versions) } else { Err(format!("{versions:?}")) }
    })
    .await;
    assert!(versions.is_sorted(), "the user's changes are published in order: {versions:?}");
    for process in processes {
        assert!(process.stop().await.success());
    }
}

/// Declares a queue that receives every change of a user.
async fn bind_to_user_updates(broker: &RabbitMq, prefix: &str, queue: &str) {
    let (connection, channel) = connect(broker).await;
    let declare = QueueDeclareArguments::durable_client_named(queue);
    channel.queue_declare(declare).await.unwrap();
    let exchange = format!("{prefix}user_updated");
    channel.queue_bind(QueueBindArguments::new(queue, &exchange, "")).await.unwrap();
    connection.close().await.unwrap();
}

/// The versions of all messages in the queue. They stay there.
async fn versions(broker: &RabbitMq, queue: &str) -> Vec<i64> {
    let (connection, channel) = connect(broker).await;
    let mut versions = vec![];
    while let Some((_, properties, _)) =
        channel.basic_get(BasicGetArguments::new(queue)).await.unwrap()
    {
        let version = properties.headers().and_then(|it| it.get(&"version".try_into().unwrap()));
        let Some(FieldValue::l(version)) = version else { panic!("no version: {properties:?}") };
        versions.push(*version);
    }
    connection.close().await.unwrap();
    versions
}

async fn connect(broker: &RabbitMq) -> (Connection, amqprs::channel::Channel) {
    let arguments = OpenConnectionArguments::new("127.0.0.1", broker.port(), "guest", "guest");
    let connection = Connection::open(&arguments).await.unwrap();
    let channel = connection.open_channel(None).await.unwrap();
    (connection, channel)
}
