//! The whole flow from registration to an order, on both brokers.

use serde_json::json;
use shop_supervisor::Node;

use shop_tests::api::{Customer, Order, OrderItem, Product, User};
use shop_tests::{BrokerKind, Client, TestShop};

#[tokio::test]
async fn a_customer_registers_and_orders_on_the_bus() {
    let shop = TestShop::start_on(BrokerKind::Bus).await;
    buy(shop.anonymous()).await;
    shop.close().await;
}

#[tokio::test]
async fn a_customer_registers_and_orders_on_rabbitmq() {
    let shop = TestShop::start_on(BrokerKind::RabbitMq).await;
    buy(shop.anonymous()).await;
    shop.close().await;
}

/// The whole flow, on any shop that has an administrator `admin`.
pub async fn buy(anonymous: Client) {
    let admin = anonymous.log_in("admin").await;
    let anna = anonymous.register("Анна-Мария").await;
    assert_eq!(anna.user().role, "USER");

    let kitchen = admin.category("Кухня", Some(0)).await;
    assert_eq!((kitchen.parent_id, kitchen.level), (None, 0));
    let teapots = admin.category("Чайники", Some(kitchen.id)).await;
    assert_eq!((teapots.parent_id, teapots.level), (Some(kitchen.id), 1));
    let new = json!({
        "name": "Синий чайник", "price": 1990, "quantity": 10, "category_id": teapots.id
    });
    let teapot: Product = admin.post(Node::Catalog, "/api/v1/product", new).await.read(201);
    assert_eq!(teapot.storage_quantity, 10);

    // At once: the events of the customer and of the product may arrive later.
    let order: Order = anna.order(&[(&teapot, 2), (&teapot, 1)]).await.read(201);
    assert_eq!((order.total_quantity, order.total_price), (3, 5970));
    assert_eq!((order.status.as_str(), order.user_id), ("created", anna.id()));
    assert_eq!(order.items.len(), 1, "the same product is one item");
    let ordered = &order.items[0].product;
    assert_eq!(
        (ordered.id, ordered.name.as_str(), ordered.price),
        (teapot.id, "Синий чайник", 1990)
    );

    let read: Order = anna.get(Node::Order, &order.path()).await.read(200);
    assert_eq!(read.items, order.items);
    let User { id, username, email, .. } = anna.user().clone();
    assert_eq!(read.user, Some(Customer { id, username, email }));

    let change = order.quantity_change(0, 5);
    let changed: OrderItem = anna.put(Node::Order, &order.update_path(), change).await.read(200);
    assert_eq!(changed.product_quantity, 5);
    let read: Order = admin.get(Node::Order, &order.path()).await.read(200);
    assert_eq!((read.total_quantity, read.total_price), (5, 9950));
    anna.until_stock(&teapot, 5).await;
}
