//! What only the in-process bus guarantees.

use futures::FutureExt;
use shop_messaging::{Broker, Bus, topology};
use shop_persistence::events::{CATALOG_USERS, ORDER_USERS};

use super::{DELIVERY_LIMIT, PRODUCT_CREATED, number, open, product, soon, user_event};

#[tokio::test]
async fn messages_of_a_dropped_publisher_stay_on_the_bus() {
    let broker = Broker::Bus(Bus::new(DELIVERY_LIMIT));
    let (mut publisher, mut consumer) = open(&broker, PRODUCT_CREATED, 10).await;
    soon(publisher.publish(1, product(1))).await.unwrap();
    drop(publisher);
    let delivery = soon(consumer.next()).await.unwrap();
    assert_eq!(number(&delivery), 1);
    soon(consumer.ack(delivery.tag)).await.unwrap();
}

#[tokio::test]
async fn the_bus_confirms_a_message_after_every_queue_has_settled_it() {
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
    assert!(publisher.confirmed().now_or_never().is_none(), "the dead letter is not stored yet");
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
