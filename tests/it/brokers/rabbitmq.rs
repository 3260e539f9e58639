//! What only RabbitMQ can do: messages of other programs, refused and broken connections.

use std::time::{Duration, Instant};

use amqprs::channel::{BasicPublishArguments, Channel, QueueDeclareArguments};
use amqprs::connection::{Connection, OpenConnectionArguments};
use amqprs::{BasicProperties, FieldTable, FieldValue};
use shop_messaging::topology::{self, UNDELIVERABLE};
use shop_messaging::{Broker, Message, Rabbit, RabbitConfig};
use shop_tests::{equal, eventually};
use tokio::net::TcpListener;

use super::proxy::Proxy;
use super::{
    PRODUCT_CREATED, address, assert_redelivered_in_order, config, confirmations, number,
    on_rabbitmq_at, open, product, soon,
};

#[tokio::test]
async fn a_message_of_another_program_is_read_and_dead_lettered() {
    on_rabbitmq_at(address().await, async |config| {
        let broker = Broker::Rabbit(Rabbit::new(config.clone()));
        let (_publisher, mut consumer) = open(&broker, PRODUCT_CREATED, 10).await;
        let (connection, channel) = connect(&config).await;
        let queue = format!("{}{PRODUCT_CREATED}", config.prefix);
        let publish = async |properties: BasicProperties, body: &[u8]| {
            let arguments = BasicPublishArguments::new("", &queue);
            channel.basic_publish(properties, body.to_vec(), arguments).await.unwrap();
        };

        publish(BasicProperties::default(), b"\xff\xfe").await;
        let bare = soon(consumer.next()).await.unwrap();
        let body = b"\xff\xfe".to_vec();
        let routing_key = PRODUCT_CREATED.to_owned();
        assert_eq!(bare.message, Message { routing_key, body, ..Message::default() });
        soon(consumer.dead_letter(bare, "not JSON")).await.unwrap();

        let integers = [
            (FieldValue::b(-5), -5),
            (FieldValue::B(200), 200),
            (FieldValue::s(-300), -300),
            (FieldValue::u(60_000), 60_000),
            (FieldValue::I(-70_000), -70_000),
            (FieldValue::i(3_000_000_000), 3_000_000_000),
            (FieldValue::l(i64::MIN), i64::MIN),
        ];
        for (value, version) in integers {
            publish(with_header("version", value), b"{}").await;
            assert_eq!(soon(consumer.next()).await.unwrap().message.version, Some(version));
        }
        publish(with_header("version", "seven".into()), b"{}").await;
        assert_eq!(soon(consumer.next()).await.unwrap().message.version, None);

        // With these properties, RabbitMQ would forward, refuse or expire an unchanged copy.
        let mut properties = with_header("CC", FieldValue::A(Default::default()));
        properties.with_user_id("guest").with_expiration("60000").with_correlation_id("c-1");
        publish(properties, b"{}").await;
        let delivery = soon(consumer.next()).await.unwrap();
        soon(consumer.dead_letter(delivery, &"ж".repeat(5_000))).await.unwrap();
        let mut dead = soon(broker.consume(&topology::dead(PRODUCT_CREATED), 10)).await.unwrap();
        let first = soon(dead.next()).await.unwrap().message;
        assert_eq!(first.reason.as_deref(), Some("not JSON"));
        let second = soon(dead.next()).await.unwrap().message;
        assert_eq!(second.reason, Some("ж".repeat(512)));
        connection.close().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_wrong_password_is_reported() {
    on_rabbitmq_at(address().await, async |config| {
        let password = "wrong".to_owned().into();
        let broker = Broker::Rabbit(Rabbit::new(RabbitConfig { password, ..config }));
        let error = soon(broker.publisher()).await.unwrap_err();
        assert!(error.to_string().contains("password is wrong"), "{error}");
    })
    .await;
}

#[tokio::test]
async fn a_closed_port_is_reported() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let broker = Broker::Rabbit(Rabbit::new(config(&address)));
    let error = soon(broker.consume(PRODUCT_CREATED, 1)).await.unwrap_err();
    assert!(error.to_string().contains(&address), "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn a_broken_connection_ends_its_sessions_and_loses_no_message() {
    let proxy = Proxy::start(address().await).await;
    on_rabbitmq_at(proxy.address.clone(), async |config| {
        let broker = Broker::Rabbit(Rabbit::new(config));
        let (mut publisher, mut consumer) = open(&broker, PRODUCT_CREATED, 10).await;
        let mut idle = soon(broker.publisher()).await.unwrap();
        for n in 0..3 {
            soon(publisher.publish(n, product(n))).await.unwrap();
        }
        confirmations(&mut publisher, 3).await;
        let delivery = soon(consumer.next()).await.unwrap();
        proxy.disconnect();
        let start = Instant::now();
        assert!(soon(publisher.confirmed()).await.is_err());
        assert!(soon(idle.confirmed()).await.is_err());
        assert!(soon(consumer.next()).await.is_err());
        assert!(soon(consumer.ack(delivery.tag)).await.is_err());
        assert!(soon(publisher.publish(3, product(3))).await.is_err());
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
        assert_redelivered_in_order(&broker).await;
    })
    .await;
}

/// amqprs closes the connection on text that is not UTF-8, and all unacknowledged deliveries are
/// redelivered.
#[tokio::test]
async fn an_undecodable_message_is_isolated_from_the_others() {
    let proxy = Proxy::start(address().await).await;
    on_rabbitmq_at(proxy.address.clone(), async |config| {
        let broker = Broker::Rabbit(Rabbit::new(config.clone()));
        let mut publisher = soon(broker.publisher()).await.unwrap();
        for n in 0..20 {
            soon(publisher.publish(n, product(n))).await.unwrap();
            confirmations(&mut publisher, 1).await;
            if n == 4 {
                let undecodable = Message { kind: Some("undecodable".to_owned()), ..product(-1) };
                soon(publisher.publish(-1, undecodable)).await.unwrap();
                confirmations(&mut publisher, 1).await;
            }
        }
        let mut expected = 0;
        while expected < 20 {
            let Ok(mut consumer) = soon(broker.consume(PRODUCT_CREATED, 10)).await else {
                continue;
            };
            while let Ok(delivery) = soon(consumer.next()).await {
                assert!(delivery.delivery_count <= 1, "{delivery:?}");
                if number(&delivery) == expected && consumer.ack(delivery.tag).await.is_ok() {
                    expected += 1;
                }
                if expected == 20 {
                    break;
                }
            }
        }
        // The same holds for the dead letters.
        soon(publisher.publish(20, product(20))).await.unwrap();
        let mut consumer = soon(broker.consume(PRODUCT_CREATED, 10)).await.unwrap();
        let last = soon(consumer.next()).await.unwrap();
        soon(consumer.dead_letter(last, "broken")).await.unwrap();
        let dead = topology::dead(PRODUCT_CREATED);
        let consuming = async {
            loop {
                let Ok(mut consumer) = broker.consume(&dead, 10).await else { continue };
                while let Ok(letter) = consumer.next().await {
                    assert_eq!(number(&letter), 20);
                    consumer.ack(letter.tag).await.ok();
                }
            }
        };
        let (connection, channel) = connect(&config).await;
        let length = async |queue: &str| {
            let passive = QueueDeclareArguments::new(&format!("{}{queue}", config.prefix))
                .passive(true)
                .finish();
            channel.queue_declare(passive).await.unwrap().unwrap().1
        };
        let isolated = eventually(async || {
            let lengths = (length(PRODUCT_CREATED).await, length(&dead).await);
            equal((lengths, length(UNDELIVERABLE).await), ((0, 0), 1))
        });
        tokio::select! {
            () = consuming => {}
            _ = isolated => {}
        }
        connection.close().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_dropped_session_closes_its_connections() {
    let proxy = Proxy::start(address().await).await;
    on_rabbitmq_at(proxy.address.clone(), async |config| {
        let broker = Broker::Rabbit(Rabbit::new(config));
        let (mut publisher, mut consumer) = open(&broker, PRODUCT_CREATED, 10).await;
        soon(publisher.publish(1, product(1))).await.unwrap();
        let delivery = soon(consumer.next()).await.unwrap();
        soon(consumer.dead_letter(delivery, "broken")).await.unwrap();
        assert_eq!(proxy.open(), 3); // dead letters have their own connection
        drop(publisher);
        drop(consumer);
        soon(proxy.closed()).await;
    })
    .await;
}

async fn connect(config: &RabbitConfig) -> (Connection, Channel) {
    let arguments = OpenConnectionArguments::new(&config.host, config.port, "guest", "guest");
    let connection = soon(Connection::open(&arguments)).await.unwrap();
    let channel = soon(connection.open_channel(None)).await.unwrap();
    (connection, channel)
}

fn with_header(name: &str, value: FieldValue) -> BasicProperties {
    let mut headers = FieldTable::new();
    headers.insert(name.try_into().unwrap(), value);
    BasicProperties::default().with_headers(headers).finish()
}
