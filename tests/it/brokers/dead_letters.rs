//! Dead letters of the brokers: their order, reason and metadata.

use std::time::Duration;

use shop_messaging::{Broker, Message, topology};
use shop_persistence::events::{CATALOG_USERS, ORDER_USERS};

use super::{DELIVERY_LIMIT, PRODUCT_CREATED, number, open, product, soon, user_event};

on_each_broker! {
    a_dead_lettered_message_does_not_block_the_queue
    a_dead_letter_records_its_failure_time_and_attempts
    a_message_over_the_delivery_limit_becomes_a_dead_letter
}

async fn a_dead_lettered_message_does_not_block_the_queue(broker: Broker) {
    let (mut publisher, mut consumer) = open(&broker, CATALOG_USERS, 1).await;
    for n in 0..3 {
        soon(publisher.publish(n, user_event("user_created", n))).await.unwrap();
    }
    for n in 0..2 {
        let broken = soon(consumer.next()).await.unwrap();
        assert_eq!(number(&broken), n);
        soon(consumer.dead_letter(broken, "no such role: ЦАРЬ")).await.unwrap();
    }
    let next = soon(consumer.next()).await.unwrap();
    assert_eq!(number(&next), 2);
    soon(consumer.ack(next.tag)).await.unwrap();

    let mut dead = soon(broker.consume(&topology::dead(CATALOG_USERS), 10)).await.unwrap();
    for n in 0..2 {
        let letter = soon(dead.next()).await.unwrap();
        let reason = Some("no such role: ЦАРЬ".to_owned());
        assert_eq!(letter.message, Message { reason, ..user_event("user_created", n) });
    }
}

async fn a_dead_letter_records_its_failure_time_and_attempts(broker: Broker) {
    let (mut publisher, mut consumer) = open(&broker, PRODUCT_CREATED, 1).await;
    let since = shop_runtime::now() - Duration::from_secs(2); // RabbitMQ's times have whole seconds
    for n in 0..3 {
        let traceparent = Some(format!("trace-{n}"));
        soon(publisher.publish(n, Message { traceparent, ..product(n) })).await.unwrap();
    }
    let first = soon(consumer.next()).await.unwrap();
    soon(consumer.dead_letter(first, "at once")).await.unwrap();
    let second = soon(consumer.next()).await.unwrap();
    soon(consumer.retry(second.tag)).await.unwrap();
    let second = soon(consumer.next()).await.unwrap();
    soon(consumer.dead_letter(second, "at the second attempt")).await.unwrap();
    for _ in 0..=DELIVERY_LIMIT {
        let third = soon(consumer.next()).await.unwrap();
        soon(consumer.retry(third.tag)).await.unwrap();
    }
    let mut dead = soon(broker.consume(&topology::dead(PRODUCT_CREATED), 1)).await.unwrap();
    for (n, attempts) in [1, 2, DELIVERY_LIMIT + 1].into_iter().enumerate() {
        let letter = soon(dead.next()).await.unwrap();
        let meta = dead.dead_letter_meta(letter.tag);
        assert_eq!(meta.attempts, attempts, "{meta:?}");
        let failed_at = meta.failed_at.unwrap();
        assert!(failed_at > since && failed_at <= shop_runtime::now(), "{meta:?}");
        assert_eq!(meta.headers["version"], n, "{meta:?}");
        assert_eq!(meta.headers["traceparent"], format!("trace-{n}"), "{meta:?}");
        assert_eq!(meta.properties["message_id"], format!("id-{n}"), "{meta:?}");
        // A redelivery does not change it.
        soon(dead.retry(letter.tag)).await.unwrap();
        let again = soon(dead.next()).await.unwrap();
        assert_eq!(dead.dead_letter_meta(again.tag).failed_at, meta.failed_at);
        assert_eq!(dead.dead_letter_meta(again.tag).attempts, attempts);
        soon(dead.ack(again.tag)).await.unwrap();
    }
}

async fn a_message_over_the_delivery_limit_becomes_a_dead_letter(broker: Broker) {
    let (mut publisher, mut consumer) = open(&broker, ORDER_USERS, 1).await;
    for n in 0..2 {
        soon(publisher.publish(n, user_event("user_deleted", n))).await.unwrap();
    }
    for count in 0..=DELIVERY_LIMIT {
        let delivery = soon(consumer.next()).await.unwrap();
        assert_eq!((number(&delivery), delivery.delivery_count), (0, count));
        soon(consumer.retry(delivery.tag)).await.unwrap();
    }
    assert_eq!(number(&soon(consumer.next()).await.unwrap()), 1);
    let mut dead = soon(broker.consume(&topology::dead(ORDER_USERS), 10)).await.unwrap();
    let reason = Some("delivery_limit".to_owned());
    let letter = soon(dead.next()).await.unwrap().message;
    assert_eq!(letter, Message { reason, ..user_event("user_deleted", 0) });
}
