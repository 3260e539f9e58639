//! Publishing, delivery, acknowledgement and redelivery.

use std::time::{Duration, Instant};

use shop_messaging::{Broker, Error, Message};
use shop_persistence::events::{CATALOG_USERS, ORDER_USERS};
use tokio::time::timeout;

use super::{
    DELIVERY_LIMIT, PRODUCT_CREATED, STOCK_MOVED, USER_EVENTS, assert_redelivered_in_order,
    confirmations, number, open, product, soon, to_queue, user_event,
};

on_each_broker! {
    a_published_message_is_delivered_and_confirmed
    a_message_keeps_its_properties
    messages_are_delivered_in_order
    unacknowledged_deliveries_are_limited_to_the_prefetch
    a_retried_message_is_redelivered_first_and_counted
    deliveries_of_a_closed_consumer_are_redelivered
    deliveries_of_a_dropped_consumer_are_redelivered
    user_events_reach_both_nodes_in_order
    ack_up_to_acknowledges_all_earlier_deliveries
    settling_a_delivery_again_has_no_effect
    consuming_an_unknown_queue_fails
    publishing_an_unroutable_message_fails
    two_consumers_share_a_queue
    ten_thousand_messages_pass_through_a_window
}

async fn a_published_message_is_delivered_and_confirmed(broker: Broker) {
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

async fn messages_are_delivered_in_order(broker: Broker) {
    let (mut publisher, mut consumer) = open(&broker, STOCK_MOVED, 200).await;
    for n in 0..100 {
        soon(publisher.publish(n, to_queue(STOCK_MOVED, n))).await.unwrap();
    }
    for n in 0..100 {
        assert_eq!(number(&soon(consumer.next()).await.unwrap()), n);
    }
}

async fn unacknowledged_deliveries_are_limited_to_the_prefetch(broker: Broker) {
    let (mut publisher, mut first) = open(&broker, PRODUCT_CREATED, 2).await;
    for n in 0..4 {
        soon(publisher.publish(n, product(n))).await.unwrap();
    }
    let held = soon(first.next()).await.unwrap();
    assert_eq!((number(&held), number(&soon(first.next()).await.unwrap())), (0, 1));
    let mut second = soon(broker.consume(PRODUCT_CREATED, 1)).await.unwrap();
    assert_eq!(number(&soon(second.next()).await.unwrap()), 2); // not for the first consumer
    assert!(first.try_next().is_none());
    soon(first.ack(held.tag)).await.unwrap();
    assert_eq!(number(&soon(first.next()).await.unwrap()), 3);
}

async fn a_retried_message_is_redelivered_first_and_counted(broker: Broker) {
    let (mut publisher, mut consumer) = open(&broker, PRODUCT_CREATED, 1).await;
    for n in 0..2 {
        soon(publisher.publish(n, product(n))).await.unwrap();
    }
    for count in 0..DELIVERY_LIMIT {
        let delivery = soon(consumer.next()).await.unwrap();
        assert_eq!((number(&delivery), delivery.delivery_count), (0, count));
        soon(consumer.retry(delivery.tag)).await.unwrap();
    }
    let delivery = soon(consumer.next()).await.unwrap();
    assert_eq!((number(&delivery), delivery.delivery_count), (0, DELIVERY_LIMIT));
    soon(consumer.ack(delivery.tag)).await.unwrap();
    let next = soon(consumer.next()).await.unwrap();
    assert_eq!((number(&next), next.delivery_count), (1, 0));
}

async fn deliveries_of_a_closed_consumer_are_redelivered(broker: Broker) {
    let (mut publisher, mut consumer) = open(&broker, PRODUCT_CREATED, 10).await;
    for n in 0..3 {
        soon(publisher.publish(n, product(n))).await.unwrap();
        soon(consumer.next()).await.unwrap();
    }
    soon(consumer.close()).await;
    assert_redelivered_in_order(&broker).await;
}

async fn deliveries_of_a_dropped_consumer_are_redelivered(broker: Broker) {
    let (mut publisher, mut consumer) = open(&broker, PRODUCT_CREATED, 10).await;
    for n in 0..3 {
        soon(publisher.publish(n, product(n))).await.unwrap();
        soon(consumer.next()).await.unwrap();
    }
    drop(consumer);
    assert_redelivered_in_order(&broker).await;
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

async fn ack_up_to_acknowledges_all_earlier_deliveries(broker: Broker) {
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
    let confirmed = confirmations(&mut publisher, 3).await;
    assert!([0, 1, 2].iter().all(|id| confirmed.contains(id)), "{confirmed:?}");
}

async fn settling_a_delivery_again_has_no_effect(broker: Broker) {
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

async fn consuming_an_unknown_queue_fails(broker: Broker) {
    let error = soon(broker.consume("unknown.queue", 1)).await.unwrap_err();
    assert!(matches!(error, Error::Connect { .. }), "{error}");
    assert!(error.to_string().contains("unknown.queue"), "{error}");
}

async fn publishing_an_unroutable_message_fails(broker: Broker) {
    for unroutable in [to_queue("unknown.queue", 1), user_event("unknown.exchange", 1)] {
        let mut publisher = soon(broker.publisher()).await.unwrap();
        soon(publisher.publish(1, unroutable)).await.unwrap();
        let error = soon(publisher.confirmed()).await.unwrap_err();
        assert!(error.to_string().contains("unknown."), "{error}");
        assert!(soon(publisher.confirmed()).await.is_err());
        assert!(soon(publisher.publish(2, product(2))).await.is_err());
    }
}

async fn two_consumers_share_a_queue(broker: Broker) {
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

async fn ten_thousand_messages_pass_through_a_window(broker: Broker) {
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
