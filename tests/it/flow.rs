//! What a shop is for, from signing up to an order, over both brokers.

use serde_json::json;
use shop_supervisor::Node;

use crate::shop::{Client, Over, TestShop, eventually, same};

#[tokio::test]
async fn somebody_signs_up_and_buys_on_the_bus() {
    let shop = TestShop::over(Over::Bus).await;
    buy(shop.nobody()).await;
    shop.close().await;
}

#[tokio::test]
async fn somebody_signs_up_and_buys_over_rabbitmq() {
    let shop = TestShop::over(Over::RabbitMq).await;
    buy(shop.nobody()).await;
    shop.close().await;
}

/// The whole flow, on any shop whose administrator is `admin`.
pub async fn buy(nobody: Client) {
    let admin = nobody.sign_in("admin").await;
    let anna = nobody.sign_up("Анна-Мария").await;
    assert_eq!(anna.user["role"], "USER");

    let kitchen = admin.category("Кухня", json!(0)).await;
    assert_eq!((&kitchen["parent_id"], &kitchen["level"]), (&json!(null), &json!(0)));
    let teapots = admin.category("Чайники", kitchen["id"].clone()).await;
    assert_eq!((&teapots["parent_id"], &teapots["level"]), (&kitchen["id"], &json!(1)));
    let new = json!({"name": "Синий чайник", "price": 1990, "quantity": 10, "category_id": teapots["id"]});
    let teapot = admin.post(Node::Catalog, "/api/v1/product", new).await.expect(201);
    assert_eq!(teapot["storage_quantity"], 10);

    // At once: neither the news of the customer nor that of the product need have arrived yet.
    let order = anna.order(&[(&teapot, 2), (&teapot, 1)]).await.expect(201);
    assert_eq!((&order["total_quantity"], &order["total_price"]), (&json!(3), &json!(5970)));
    assert_eq!((&order["status"], &order["user_id"]), (&json!("created"), &anna.user["id"]));
    let item = &order["items"][0];
    assert_eq!(order["items"].as_array().map(Vec::len), Some(1), "the same product is one item");
    assert_eq!(item["product"], json!({"id": teapot["id"], "name": "Синий чайник", "price": 1990}));

    let path = format!("/order/{}", order["id"]);
    let read = anna.get(Node::Order, &path).await.expect(200);
    assert_eq!(read["items"], order["items"]);
    assert_eq!(
        read["user"],
        json!({"id": anna.user["id"], "username": "Анна-Мария", "email": anna.user["email"]})
    );

    let more = json!({"order_item_id": item["id"], "quantity": 5});
    let changed =
        anna.put(Node::Order, &format!("/update_order/{}", order["id"]), more).await.expect(200);
    assert_eq!(changed["product_quantity"], 5);
    let read = admin.get(Node::Order, &path).await.expect(200);
    assert_eq!((&read["total_quantity"], &read["total_price"]), (&json!(5), &json!(9950)));
    eventually(|| async { same(anna.left(&teapot).await, 5) }).await;
}
