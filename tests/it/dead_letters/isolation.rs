//! A failing message among many: it is isolated, and the others are applied without delay.

use shop_messaging::Message;
use shop_supervisor::Node;
use shop_tests::{BrokerKind, Settings, TestShop, equal, eventually};

use super::{CRASHING, dead_letters, sum};
use crate::events::{ExternalPublisher, message, order_for, product};

on_both_brokers! {
    an_inapplicable_message_does_not_delay_a_thousand_others
    a_crashing_message_does_not_delay_a_thousand_others
}

/// Publishes this message among a thousand valid ones. Waits until the valid ones are applied.
async fn publish_among_a_thousand(
    shop: &TestShop,
    external: &mut ExternalPublisher,
    failing: Message,
) {
    let mut messages: Vec<_> = (0..1000)
        .map(|n| product(2_000_000 + n, 1, 1).to_string())
        .map(|body| message("product.created", Some(1), body.as_bytes()))
        .collect();
    messages.insert(300, failing);
    let count = messages.len();
    for message in messages {
        external.publisher.publish(1, message).await.unwrap();
    }
    let mut confirmed = 0;
    while confirmed < count {
        confirmed += external.publisher.confirmed().await.unwrap().len();
    }
    let mut database = shop.settings.database(Node::Order).await;
    eventually(async || {
        let applied = "select count(*) from products where id >= 2000000 and version = 1";
        let applied = sqlx::query_scalar(applied).fetch_one(&mut database).await.unwrap();
        equal(applied, 1000_i64)
    })
    .await;
}

async fn an_inapplicable_message_does_not_delay_a_thousand_others(shop: TestShop) {
    let admin = shop.admin().await;
    let mut external = ExternalPublisher::connect(&shop).await;
    external.publish("product.created", 1, &product(1_000_001, 70, 5)).await;
    order_for(&admin, admin.id(), 1_000_001, 4).await.expect(201);
    let handled =
        async || sum(&shop, Node::Order, "shop_mailbox_handled_total", "shop/order/orders/").await;
    let before = handled().await;
    let body = product(1_000_001, 70, 2).to_string();
    let failing = message("product.created", Some(2), body.as_bytes());
    publish_among_a_thousand(&shop, &mut external, failing).await;
    let letters = dead_letters(&admin, Node::Order, 1).await;
    assert_eq!(letters[0]["reason"], "the new stock is less than what is already sold");
    if shop.bus().is_some() {
        // On the bus all batches have the maximum size: there are a few, and one is halved 8 times.
        let transactions = handled().await - before;
        assert!(transactions < 40.0, "{transactions} transactions");
    }
    shop.close().await;
}

async fn a_crashing_message_does_not_delay_a_thousand_others(shop: TestShop) {
    let admin = shop.admin().await;
    let mut database = shop.settings.database(Node::Order).await;
    sqlx::raw_sql(CRASHING).execute(&mut database).await.unwrap();
    let mut external = ExternalPublisher::connect(&shop).await;
    external.publish("product.created", 1, &product(1_000_001, 70, 5)).await;
    let body = product(1_000_007, 1, 1).to_string();
    let failing = message("product.created", Some(1), body.as_bytes());
    publish_among_a_thousand(&shop, &mut external, failing).await;
    let letters = dead_letters(&admin, Node::Order, 1).await;
    assert_eq!(letters[0]["reason"], "it crashed the actor orders at each attempt");
    shop.close().await;
}

#[tokio::test]
async fn max_attempts_limits_the_redeliveries_of_a_crashing_message() {
    let mut settings = Settings::new(BrokerKind::Bus).await;
    settings.set("SHOP__RABBITMQ__MAX_ATTEMPTS", "1");
    let shop = TestShop::start_with(settings).await;
    let admin = shop.admin().await;
    let mut database = shop.settings.database(Node::Order).await;
    sqlx::raw_sql(CRASHING).execute(&mut database).await.unwrap();
    let mut external = ExternalPublisher::connect(&shop).await;
    external.publish("product.created", 1, &product(1_000_007, 1, 1)).await;
    assert_eq!(dead_letters(&admin, Node::Order, 1).await[0]["tries"], 2);
    shop.close().await;
}
