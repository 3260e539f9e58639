//! What a broker promises, kept by RabbitMQ and by the in-process bus alike.

use std::time::{Duration, Instant};

use amqprs::{
    BasicProperties, FieldTable, FieldValue,
    channel::{BasicPublishArguments, Channel, QueueDeclareArguments},
    connection::{Connection, OpenConnectionArguments},
};
use futures::FutureExt;
use shop_messaging::{
    Broker, Bus, Deliveries, Delivery, Error, Message, Publisher, Rabbit, RabbitConfig,
    topology::{self, UNDELIVERABLE},
};
use shop_persistence::events::{CATALOG_USERS, ORDER_USERS};
use shop_tests::rabbitmq::RabbitMq;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::timeout,
};

use crate::shop::{eventually, same};

const DELIVERY_LIMIT: u32 = 3;

/// Queues without a fanout exchange.
const PRODUCT_CREATED: &str = "product.created";
const STOCK_MOVED: &str = "stock.moved";

/// The fanout exchanges of the queues for users.
const USER_EVENTS: [&str; 3] = ["user_created", "user_updated", "user_deleted"];

macro_rules! promises {
    ($($promise:ident)*) => {
        mod the_bus {
            $(#[tokio::test]
            async fn $promise() {
                super::on_the_bus(super::$promise).await;
            })*
        }
        mod rabbitmq {
            $(#[tokio::test]
            async fn $promise() {
                super::on_rabbitmq(super::$promise).await;
            })*
        }
    };
}

promises! {
    what_is_published_arrives_and_is_confirmed
    a_message_keeps_its_properties
    order_is_kept
    a_consumer_holds_no_more_than_its_prefetch
    a_retried_delivery_comes_again_first_and_counted
    a_closed_consumers_deliveries_come_again
    a_dropped_consumers_deliveries_come_again
    a_parked_delivery_holds_nothing_up
    a_dead_letter_tells_when_and_after_how_many_tries_it_failed
    too_many_tries_end_among_the_dead_letters
    user_events_reach_both_nodes_in_order
    all_up_to_a_tag_are_acknowledged_at_once
    what_is_settled_is_settled
    an_unknown_queue_is_refused
    a_message_that_reaches_nobody_is_an_error
    consumers_share_a_queue
    ten_thousand_pass_through_a_window
}

async fn what_is_published_arrives_and_is_confirmed(broker: Broker) {
    let (mut publisher, mut consumer) = open(&broker, PRODUCT_CREATED, 10).await;
    soon(publisher.publish(7, product(1))).await.unwrap();
    let delivery = soon(consumer.next()).await.unwrap();
    assert_eq!((delivery.delivery_count, &delivery.message), (0, &product(1)));
    soon(consumer.ack(delivery.tag)).await.unwrap();
    assert_eq!(soon(publisher.confirmed()).await.unwrap(), [7]);
    soon(publisher.close()).await;
    soon(consumer.close()).await;
}

async fn a_message_keeps_its_properties(broker: Broker) {
    let (mut publisher, mut consumer) = open(&broker, CATALOG_USERS, 10).await;
    let full = Message {
        exchange: "user_updated".to_owned(),
        routing_key: "anything".to_owned(),
        id: Some("8f0e3d4c-0000-4000-8000-000000000001".to_owned()),
        kind: Some("user_updated".to_owned()),
        version: Some(i64::MAX),
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
        timestamp: Some(1_790_000_000),
        reason: None,
        body: "{\"username\": \"Вася\"}".into(),
    };
    let bare = Message { exchange: "user_deleted".to_owned(), ..Message::default() };
    soon(publisher.publish(1, full.clone())).await.unwrap();
    soon(publisher.publish(2, bare.clone())).await.unwrap();
    assert_eq!(soon(consumer.next()).await.unwrap().message, full);
    assert_eq!(soon(consumer.next()).await.unwrap().message, bare);
}

async fn order_is_kept(broker: Broker) {
    let (mut publisher, mut consumer) = open(&broker, STOCK_MOVED, 200).await;
    for n in 0..100 {
        soon(publisher.publish(n, to_queue(STOCK_MOVED, n))).await.unwrap();
    }
    for n in 0..100 {
        assert_eq!(number(&soon(consumer.next()).await.unwrap()), n);
    }
}

async fn a_consumer_holds_no_more_than_its_prefetch(broker: Broker) {
    let (mut publisher, mut first) = open(&broker, PRODUCT_CREATED, 2).await;
    for n in 0..4 {
        soon(publisher.publish(n, product(n))).await.unwrap();
    }
    let held = soon(first.next()).await.unwrap();
    assert_eq!((number(&held), number(&soon(first.next()).await.unwrap())), (0, 1));
    let mut second = soon(broker.consume(PRODUCT_CREATED, 1)).await.unwrap();
    assert_eq!(number(&soon(second.next()).await.unwrap()), 2); // so the first could not have it
    assert!(first.try_next().is_none());
    soon(first.ack(held.tag)).await.unwrap();
    assert_eq!(number(&soon(first.next()).await.unwrap()), 3);
}

async fn a_retried_delivery_comes_again_first_and_counted(broker: Broker) {
    let (mut publisher, mut consumer) = open(&broker, PRODUCT_CREATED, 1).await;
    for n in 0..2 {
        soon(publisher.publish(n, product(n))).await.unwrap();
    }
    for tries in 0..DELIVERY_LIMIT {
        let delivery = soon(consumer.next()).await.unwrap();
        assert_eq!((number(&delivery), delivery.delivery_count), (0, tries));
        soon(consumer.retry(delivery.tag)).await.unwrap();
    }
    let delivery = soon(consumer.next()).await.unwrap();
    assert_eq!((number(&delivery), delivery.delivery_count), (0, DELIVERY_LIMIT));
    soon(consumer.ack(delivery.tag)).await.unwrap();
    let behind = soon(consumer.next()).await.unwrap();
    assert_eq!((number(&behind), behind.delivery_count), (1, 0));
}

async fn a_closed_consumers_deliveries_come_again(broker: Broker) {
    let (mut publisher, mut consumer) = open(&broker, PRODUCT_CREATED, 10).await;
    for n in 0..3 {
        soon(publisher.publish(n, product(n))).await.unwrap();
        soon(consumer.next()).await.unwrap();
    }
    soon(consumer.close()).await;
    come_again_in_order(&broker).await;
}

async fn a_dropped_consumers_deliveries_come_again(broker: Broker) {
    let (mut publisher, mut consumer) = open(&broker, PRODUCT_CREATED, 10).await;
    for n in 0..3 {
        soon(publisher.publish(n, product(n))).await.unwrap();
        soon(consumer.next()).await.unwrap();
    }
    drop(consumer);
    come_again_in_order(&broker).await;
}

async fn come_again_in_order(broker: &Broker) {
    let mut consumer = soon(broker.consume(PRODUCT_CREATED, 10)).await.unwrap();
    for n in 0..3 {
        let delivery = soon(consumer.next()).await.unwrap();
        assert_eq!((number(&delivery), delivery.delivery_count), (n, 1));
    }
}

async fn a_parked_delivery_holds_nothing_up(broker: Broker) {
    let (mut publisher, mut consumer) = open(&broker, CATALOG_USERS, 1).await;
    for n in 0..3 {
        soon(publisher.publish(n, user_event("user_created", n))).await.unwrap();
    }
    for n in 0..2 {
        let broken = soon(consumer.next()).await.unwrap();
        assert_eq!(number(&broken), n);
        soon(consumer.dead_letter(broken, "no such role: ЦАРЬ")).await.unwrap();
    }
    let behind = soon(consumer.next()).await.unwrap();
    assert_eq!(number(&behind), 2);
    soon(consumer.ack(behind.tag)).await.unwrap();

    let mut dead = soon(broker.consume(&topology::dead(CATALOG_USERS), 10)).await.unwrap();
    for n in 0..2 {
        let letter = soon(dead.next()).await.unwrap();
        let reason = Some("no such role: ЦАРЬ".to_owned());
        assert_eq!(letter.message, Message { reason, ..user_event("user_created", n) });
    }
}

async fn a_dead_letter_tells_when_and_after_how_many_tries_it_failed(broker: Broker) {
    let (mut publisher, mut consumer) = open(&broker, PRODUCT_CREATED, 1).await;
    let since = shop_runtime::now() - Duration::from_secs(2); // RabbitMQ counts seconds
    for n in 0..3 {
        let traceparent = Some(format!("trace-{n}"));
        soon(publisher.publish(n, Message { traceparent, ..product(n) })).await.unwrap();
    }
    let first = soon(consumer.next()).await.unwrap();
    soon(consumer.dead_letter(first, "at once")).await.unwrap();
    let second = soon(consumer.next()).await.unwrap();
    soon(consumer.retry(second.tag)).await.unwrap();
    let second = soon(consumer.next()).await.unwrap();
    soon(consumer.dead_letter(second, "at the second try")).await.unwrap();
    for _ in 0..=DELIVERY_LIMIT {
        let third = soon(consumer.next()).await.unwrap();
        soon(consumer.retry(third.tag)).await.unwrap();
    }
    let mut dead = soon(broker.consume(&topology::dead(PRODUCT_CREATED), 1)).await.unwrap();
    for (n, tries) in [1, 2, DELIVERY_LIMIT + 1].into_iter().enumerate() {
        let letter = soon(dead.next()).await.unwrap();
        let dead_letter_meta = dead.dead_letter_meta(letter.tag);
        assert_eq!(dead_letter_meta.attempts, tries, "{dead_letter_meta:?}");
        let failed_at = dead_letter_meta.failed_at.unwrap();
        assert!(failed_at > since && failed_at <= shop_runtime::now(), "{dead_letter_meta:?}");
        assert_eq!(dead_letter_meta.headers["version"], n, "{dead_letter_meta:?}");
        assert_eq!(
            dead_letter_meta.headers["traceparent"],
            format!("trace-{n}"),
            "{dead_letter_meta:?}"
        );
        assert_eq!(
            dead_letter_meta.properties["message_id"],
            format!("id-{n}"),
            "{dead_letter_meta:?}"
        );
        // Handed out again, it is the same.
        soon(dead.retry(letter.tag)).await.unwrap();
        let again = soon(dead.next()).await.unwrap();
        assert_eq!(dead.dead_letter_meta(again.tag).failed_at, dead_letter_meta.failed_at);
        assert_eq!(dead.dead_letter_meta(again.tag).attempts, tries);
        soon(dead.ack(again.tag)).await.unwrap();
    }
}

async fn too_many_tries_end_among_the_dead_letters(broker: Broker) {
    let (mut publisher, mut consumer) = open(&broker, ORDER_USERS, 1).await;
    for n in 0..2 {
        soon(publisher.publish(n, user_event("user_deleted", n))).await.unwrap();
    }
    for tries in 0..=DELIVERY_LIMIT {
        let delivery = soon(consumer.next()).await.unwrap();
        assert_eq!((number(&delivery), delivery.delivery_count), (0, tries));
        soon(consumer.retry(delivery.tag)).await.unwrap();
    }
    assert_eq!(number(&soon(consumer.next()).await.unwrap()), 1);
    let mut dead = soon(broker.consume(&topology::dead(ORDER_USERS), 10)).await.unwrap();
    let reason = Some("delivery_limit".to_owned());
    let letter = soon(dead.next()).await.unwrap().message;
    assert_eq!(letter, Message { reason, ..user_event("user_deleted", 0) });
}

async fn user_events_reach_both_nodes_in_order(broker: Broker) {
    let (mut publisher, mut catalog) = open(&broker, CATALOG_USERS, 100).await;
    let mut order = soon(broker.consume(ORDER_USERS, 100)).await.unwrap();
    let events: Vec<_> = (0..30).map(|n| user_event(USER_EVENTS[n as usize % 3], n)).collect();
    for (n, event) in (0..).zip(&events) {
        soon(publisher.publish(n, event.clone())).await.unwrap();
    }
    for event in &events {
        assert_eq!(&soon(catalog.next()).await.unwrap().message, event);
        assert_eq!(&soon(order.next()).await.unwrap().message, event);
    }
}

async fn all_up_to_a_tag_are_acknowledged_at_once(broker: Broker) {
    let (mut publisher, mut consumer) = open(&broker, PRODUCT_CREATED, 10).await;
    let mut tags = Vec::new();
    for n in 0..5 {
        soon(publisher.publish(n, product(n))).await.unwrap();
        tags.push(soon(consumer.next()).await.unwrap().tag);
    }
    soon(consumer.ack_up_to(tags[2])).await.unwrap();
    soon(consumer.close()).await;
    let mut next = soon(broker.consume(PRODUCT_CREATED, 10)).await.unwrap();
    assert_eq!(number(&soon(next.next()).await.unwrap()), 3);
    assert_eq!(number(&soon(next.next()).await.unwrap()), 4);
    let tickets = settle(&mut publisher, 3).await;
    assert!([0, 1, 2].iter().all(|guard| tickets.contains(guard)), "{tickets:?}");
}

async fn what_is_settled_is_settled(broker: Broker) {
    let (mut publisher, mut consumer) = open(&broker, PRODUCT_CREATED, 10).await;
    let mut deliveries = Vec::new();
    for n in 0..4 {
        soon(publisher.publish(n, product(n))).await.unwrap();
        deliveries.push(soon(consumer.next()).await.unwrap());
    }
    let tags: Vec<u64> = deliveries.iter().map(|delivery| delivery.tag).collect();
    soon(consumer.ack(tags[1])).await.unwrap();
    soon(consumer.dead_letter(deliveries.remove(3), "broken")).await.unwrap();
    soon(consumer.ack_up_to(tags[3])).await.unwrap(); // settles the first and the third
    soon(consumer.ack_up_to(tags[3])).await.unwrap();
    soon(consumer.ack(tags[0])).await.unwrap();
    soon(consumer.retry(tags[2])).await.unwrap();
    soon(publisher.publish(4, product(4))).await.unwrap();
    assert_eq!(number(&soon(consumer.next()).await.unwrap()), 4);
}

async fn an_unknown_queue_is_refused(broker: Broker) {
    let error = soon(broker.consume("nobody.knows", 1)).await.unwrap_err();
    assert!(matches!(error, Error::Connect { .. }), "{error}");
    assert!(error.to_string().contains("nobody.knows"), "{error}");
}

async fn a_message_that_reaches_nobody_is_an_error(broker: Broker) {
    for lost in [to_queue("nobody.knows", 1), user_event("nobody.cares", 1)] {
        let mut publisher = soon(broker.publisher()).await.unwrap();
        soon(publisher.publish(1, lost)).await.unwrap();
        let error = soon(publisher.confirmed()).await.unwrap_err();
        assert!(error.to_string().contains("nobody."), "{error}");
        assert!(soon(publisher.confirmed()).await.is_err());
        assert!(soon(publisher.publish(2, product(2))).await.is_err());
    }
}

async fn consumers_share_a_queue(broker: Broker) {
    let (mut publisher, mut one) = open(&broker, PRODUCT_CREATED, 1).await;
    let mut other = soon(broker.consume(PRODUCT_CREATED, 1)).await.unwrap();
    for n in 0..2 {
        soon(publisher.publish(n, product(n))).await.unwrap();
    }
    let (a, b) = soon(async { tokio::join!(one.next(), other.next()) }).await;
    let mut numbers = [number(&a.unwrap()), number(&b.unwrap())];
    numbers.sort_unstable();
    assert_eq!(numbers, [0, 1]);
}

#[tokio::test]
async fn a_dropped_publishers_messages_stay_on_the_bus() {
    let broker = Broker::Bus(Bus::new(DELIVERY_LIMIT));
    let (mut publisher, mut consumer) = open(&broker, PRODUCT_CREATED, 10).await;
    soon(publisher.publish(1, product(1))).await.unwrap();
    drop(publisher);
    let delivery = soon(consumer.next()).await.unwrap();
    assert_eq!(number(&delivery), 1);
    soon(consumer.ack(delivery.tag)).await.unwrap();
}

async fn ten_thousand_pass_through_a_window(broker: Broker) {
    const COUNT: i64 = 10_000;
    const WINDOW: usize = 256;
    let (mut publisher, mut consumer) = open(&broker, PRODUCT_CREATED, 256).await;
    let start = Instant::now();
    let publishing = tokio::spawn(async move {
        let (mut next, mut confirmed) = (0, 0);
        while confirmed < COUNT as usize {
            while next < COUNT && next as usize - confirmed < WINDOW {
                publisher.publish(next, product(next)).await.unwrap();
                next += 1;
            }
            confirmed += publisher.confirmed().await.unwrap().len();
        }
        (publisher, start.elapsed())
    });
    let mut expected = 0;
    while expected < COUNT {
        let mut delivery = soon(consumer.next()).await.unwrap();
        loop {
            assert_eq!(number(&delivery), expected);
            expected += 1;
            match consumer.try_next() {
                Some(next) => delivery = next,
                None => break,
            }
        }
        soon(consumer.ack_up_to(delivery.tag)).await.unwrap();
    }
    let consumed = start.elapsed();
    let (_publisher, published) =
        timeout(Duration::from_secs(30), publishing).await.unwrap().unwrap();
    println!("{COUNT} messages: confirmed in {published:?}, consumed in {consumed:?}");
}

#[tokio::test]
async fn the_bus_confirms_what_every_queue_is_done_with() {
    let broker = Broker::Bus(Bus::new(DELIVERY_LIMIT));
    let (mut publisher, mut catalog) = open(&broker, CATALOG_USERS, 10).await;
    let mut order = broker.consume(ORDER_USERS, 10).await.unwrap();
    publisher.publish(1, user_event("user_created", 1)).await.unwrap();
    assert!(publisher.confirmed().now_or_never().is_none());
    let delivery = catalog.next().await.unwrap();
    catalog.ack(delivery.tag).await.unwrap();
    assert!(publisher.confirmed().now_or_never().is_none());
    let delivery = order.next().await.unwrap();
    order.dead_letter(delivery, "broken").await.unwrap();
    assert!(publisher.confirmed().now_or_never().is_none(), "the bus alone has it now");
    let mut dead = broker.consume(&topology::dead(ORDER_USERS), 10).await.unwrap();
    let letter = dead.next().await.unwrap();
    assert_eq!(letter.message.reason.as_deref(), Some("broken"));
    dead.retry(letter.tag).await.unwrap();
    assert!(publisher.confirmed().now_or_never().is_none());
    let letter = dead.next().await.unwrap();
    dead.ack(letter.tag).await.unwrap();
    assert_eq!(publisher.confirmed().await.unwrap(), [1]);
    let mut none = broker.consume(&topology::dead(CATALOG_USERS), 10).await.unwrap();
    assert!(none.try_next().is_none());
}

#[tokio::test]
async fn a_foreign_message_is_read_and_parked() {
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

        // What would be refused, sent on, or soon forgotten if its copy were published as it is.
        let mut difficult = with_header("CC", FieldValue::A(Default::default()));
        difficult.with_user_id("guest").with_expiration("60000").with_correlation_id("c-1");
        publish(difficult, b"{}").await;
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
async fn a_wrong_password_is_said() {
    on_rabbitmq_at(address().await, async |config| {
        let password = "wrong".to_owned().into();
        let broker = Broker::Rabbit(Rabbit::new(RabbitConfig { password, ..config }));
        let error = soon(broker.publisher()).await.unwrap_err();
        assert!(error.to_string().contains("password is wrong"), "{error}");
    })
    .await;
}

#[tokio::test]
async fn a_closed_port_is_said() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let broker = Broker::Rabbit(Rabbit::new(config(&address)));
    let error = soon(broker.consume(PRODUCT_CREATED, 1)).await.unwrap_err();
    assert!(error.to_string().contains(&address), "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn a_cut_connection_ends_its_sessions_and_loses_nothing() {
    let proxy = Proxy::start(address().await).await;
    on_rabbitmq_at(proxy.address.clone(), async |config| {
        let broker = Broker::Rabbit(Rabbit::new(config));
        let (mut publisher, mut consumer) = open(&broker, PRODUCT_CREATED, 10).await;
        let mut idle = soon(broker.publisher()).await.unwrap();
        for n in 0..3 {
            soon(publisher.publish(n, product(n))).await.unwrap();
        }
        settle(&mut publisher, 3).await;
        let delivery = soon(consumer.next()).await.unwrap();
        proxy.cut();
        let start = Instant::now();
        assert!(soon(publisher.confirmed()).await.is_err());
        assert!(soon(idle.confirmed()).await.is_err());
        assert!(soon(consumer.next()).await.is_err());
        assert!(soon(consumer.ack(delivery.tag)).await.is_err());
        assert!(soon(publisher.publish(3, product(3))).await.is_err());
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
        come_again_in_order(&broker).await;
    })
    .await;
}

/// amqprs hangs up on text that is not UTF-8, and all that was handed out with it comes again.
#[tokio::test]
async fn an_unreadable_message_takes_no_other_with_it() {
    let proxy = Proxy::start(address().await).await;
    on_rabbitmq_at(proxy.address.clone(), async |config| {
        let broker = Broker::Rabbit(Rabbit::new(config.clone()));
        let mut publisher = soon(broker.publisher()).await.unwrap();
        for n in 0..20 {
            soon(publisher.publish(n, product(n))).await.unwrap();
            settle(&mut publisher, 1).await;
            if n == 4 {
                let unreadable = Message { kind: Some("unreadable".to_owned()), ..product(-1) };
                soon(publisher.publish(-1, unreadable)).await.unwrap();
                settle(&mut publisher, 1).await;
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
        // Nor among the dead letters.
        soon(publisher.publish(20, product(20))).await.unwrap();
        let mut consumer = soon(broker.consume(PRODUCT_CREATED, 10)).await.unwrap();
        let behind = soon(consumer.next()).await.unwrap();
        soon(consumer.dead_letter(behind, "broken")).await.unwrap();
        let dead = topology::dead(PRODUCT_CREATED);
        let taking = async {
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
        let alone = eventually(async || {
            let lengths = (length(PRODUCT_CREATED).await, length(&dead).await);
            same((lengths, length(UNDELIVERABLE).await), ((0, 0), 1))
        });
        tokio::select! {
            () = taking => {}
            _ = alone => {}
        }
        connection.close().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_dropped_session_leaves_no_connection() {
    let proxy = Proxy::start(address().await).await;
    on_rabbitmq_at(proxy.address.clone(), async |config| {
        let broker = Broker::Rabbit(Rabbit::new(config));
        let (mut publisher, mut consumer) = open(&broker, PRODUCT_CREATED, 10).await;
        soon(publisher.publish(1, product(1))).await.unwrap();
        let delivery = soon(consumer.next()).await.unwrap();
        soon(consumer.dead_letter(delivery, "broken")).await.unwrap();
        assert_eq!(proxy.open(), 3); // dead letters have one of their own
        drop(publisher);
        drop(consumer);
        soon(proxy.closed()).await;
    })
    .await;
}

async fn on_the_bus(promise: impl AsyncFnOnce(Broker)) {
    soon_at_most(60, promise(Broker::Bus(Bus::new(DELIVERY_LIMIT)))).await;
}

async fn on_rabbitmq(promise: impl AsyncFnOnce(Broker)) {
    let with_config = async |config| promise(Broker::Rabbit(Rabbit::new(config))).await;
    on_rabbitmq_at(address().await, with_config).await;
}

/// Runs the test with a prefix of its own.
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

async fn connect(config: &RabbitConfig) -> (Connection, Channel) {
    let arguments = OpenConnectionArguments::new(&config.host, config.port, "guest", "guest");
    let connection = soon(Connection::open(&arguments)).await.unwrap();
    let channel = soon(connection.open_channel(None)).await.unwrap();
    (connection, channel)
}

async fn open(broker: &Broker, queue: &str, prefetch: u16) -> (Publisher, Deliveries) {
    let publisher = soon(broker.publisher()).await.unwrap();
    (publisher, soon(broker.consume(queue, prefetch)).await.unwrap())
}

async fn settle(publisher: &mut Publisher, count: usize) -> Vec<i64> {
    let mut tickets = Vec::new();
    while tickets.len() < count {
        tickets.extend(soon(publisher.confirmed()).await.unwrap());
    }
    tickets
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    soon_at_most(20, future).await
}

async fn soon_at_most<T>(seconds: u64, future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(seconds), future).await.expect("this takes too long")
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

fn number(delivery: &Delivery) -> i64 {
    delivery.message.version.unwrap()
}

fn with_header(name: &str, value: FieldValue) -> BasicProperties {
    let mut headers = FieldTable::new();
    headers.insert(name.try_into().unwrap(), value);
    BasicProperties::default().with_headers(headers).finish()
}

/// Stands between a test and RabbitMQ; its connections can be counted, and cut.
struct Proxy {
    address: String,
    open: watch::Receiver<usize>,
    generation: watch::Sender<usize>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    async fn start(upstream: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (count, open) = watch::channel(0);
        let (generation, cut) = watch::channel(0);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                let (upstream, count, mut cut) = (upstream.clone(), count.clone(), cut.clone());
                cut.mark_unchanged();
                count.send_modify(|open| *open += 1);
                tokio::spawn(async move {
                    let mut server = TcpStream::connect(upstream).await.unwrap();
                    tokio::select! {
                        () = carry(&mut client, &mut server) => {}
                        _ = cut.changed() => {}
                    }
                    count.send_modify(|open| *open -= 1);
                });
            }
        });
        Self { address, open, generation, _tasks: tasks }
    }

    fn cut(&self) {
        self.generation.send_modify(|generation| *generation += 1);
    }

    fn open(&self) -> usize {
        *self.open.borrow()
    }

    async fn closed(&self) {
        self.open.clone().wait_for(|open| *open == 0).await.unwrap();
    }
}

/// Carries bytes both ways, until one side has enough; garbles the text `unreadable` on its way in.
async fn carry(client: &mut TcpStream, server: &mut TcpStream) {
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let garbling = async {
        let mut chunk = vec![0; 65_536];
        while let Ok(length @ 1..) = from_client.read(&mut chunk).await {
            let found = chunk[..length].windows(10).position(|window| window == b"unreadable");
            if let Some(place) = found {
                chunk[place..place + 10].fill(0xff);
            }
            if to_server.write_all(&chunk[..length]).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        () = garbling => {}
        _ = tokio::io::copy(&mut from_server, &mut to_client) => {}
    }
}
