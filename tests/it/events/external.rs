//! A program besides the shop that publishes events.

use serde::Serialize;
use serde_json::{Value, json};
use shop_messaging::{Broker, Message, Publisher, topology};
use shop_supervisor::Node;
use shop_tests::rabbitmq::RabbitMq;
use shop_tests::{Client, Response, TestShop, eventually};
use uuid::Uuid;

/// A client of the broker besides the shop.
pub struct ExternalPublisher {
    pub publisher: Publisher,
    broker: Broker,
}

impl ExternalPublisher {
    /// Connects to the shop's broker.
    pub async fn connect(shop: &TestShop) -> ExternalPublisher {
        let broker = match &shop.bus() {
            Some(bus) => Broker::Bus((*bus).clone()),
            None => shop.settings.foreign_broker(RabbitMq::shared().await.unwrap().port()),
        };
        ExternalPublisher { publisher: broker.publisher().await.unwrap(), broker }
    }

    /// Publishes an event, as [`Self::post`].
    pub async fn publish(&mut self, event: &str, version: i64, body: &Value) {
        self.send(event, Some(version), body.to_string().as_bytes()).await;
    }

    /// Publishes any body and version, as [`Self::post`].
    pub async fn send(&mut self, event: &str, version: Option<i64>, body: &[u8]) {
        self.post(message(event, version, body)).await;
    }

    /// Returns after the broker's confirmation: on the bus, when the shop has applied or
    /// dead-lettered the message.
    pub async fn post(&mut self, message: Message) {
        // RabbitMQ may refuse messages for a queue that was declared a moment ago.
        let publisher = &mut self.publisher;
        let broker = &self.broker;
        eventually(async || {
            let sent = match publisher.publish(1, message.clone()).await {
                Ok(()) => publisher.confirmed().await,
                Err(error) => Err(error),
            };
            if sent.is_err() {
                *publisher = broker.publisher().await.unwrap();
            }
            sent.map_err(|error| error.to_string())
        })
        .await;
    }
}

/// An event as the shop publishes it.
pub fn message(event: &str, version: Option<i64>, body: &[u8]) -> Message {
    let (exchange, routing_key) = topology::route(event);
    Message {
        exchange: exchange.into(),
        routing_key: routing_key.into(),
        id: Some(Uuid::new_v4().to_string()),
        kind: Some(event.into()),
        version,
        body: body.into(),
        ..Message::default()
    }
}

/// The body of an event of a user.
pub fn user(id: &str, name: &str) -> Value {
    json!({"id": id, "username": name, "email": format!("{name}@example.com"), "role": "USER"})
}

/// The body of an event of a product.
pub fn product(id: i64, price: i64, quantity: i64) -> Value {
    json!({"id": id, "name": "Самовар", "price": price, "quantity": quantity, "category_id": 1})
}

/// Places an order for a user as the administrator, after the events of both have arrived.
pub async fn order_for(
    admin: &Client,
    user: impl Serialize,
    product: i64,
    quantity: i64,
) -> Response {
    let items = json!([{"product_id": product, "quantity": quantity}]);
    admin.place_order(json!({"user_id": user, "items": items})).await
}

/// Places an order without waiting for events.
pub async fn order_now(admin: &Client, user: impl Serialize, product: i64) -> Response {
    let items = json!([{"product_id": product, "quantity": 1}]);
    admin.post(Node::Order, "/order", json!({"user_id": user, "items": items})).await
}
