//! Changes of an item's quantity.

use futures::future::join_all;
use serde_json::json;
use shop_supervisor::Node;
use shop_tests::TestShop;
use shop_tests::api::{Order, OrderItem};

use super::{check_stock, read, set_quantity};

#[tokio::test]
async fn changing_a_quantity_changes_the_stock_and_the_totals() {
    let shop = TestShop::start().await;
    let (admin, anna) = (shop.admin().await, shop.user("anna").await);
    let (teapot, cup) = (admin.product(1990, 10).await, admin.product(250, 100).await);
    let order: Order = anna.order(&[(&teapot, 3), (&cup, 2)]).await.read(201);
    let mut item = order.items[0].clone();
    for (quantity, left) in [(5, 5), (5, 5), (1, 9), (10, 0), (2, 8)] {
        item.product_quantity = quantity;
        let changed = set_quantity(&anna, &order, 0, quantity).await;
        assert_eq!(changed.read::<OrderItem>(200), item);
        let current = read(&anna, &order).await;
        let totals = (current.total_quantity, current.total_price);
        assert_eq!(totals, (quantity + 2, 1990 * quantity + 500));
        assert_eq!((&current.items[0], &current.items[1]), (&item, &order.items[1]));
        assert_eq!(check_stock(&shop, &admin, &teapot).await, left);
    }
    set_quantity(&anna, &order, 0, 11).await.expect(409);
    set_quantity(&anna, &order, 0, 1_000_000).await.expect(409);

    let other: Order = anna.order(&[(&teapot, 1)]).await.read(201);
    let path = order.update_path();
    anna.put(Node::Order, &path, other.quantity_change(0, 2)).await.expect(404);
    anna.put(Node::Order, &path, json!({"order_item_id": 987_654_321, "quantity": 2}))
        .await
        .expect(404);
    let both = ["order_item_id", "quantity"];
    for (body, fields) in [
        (json!({}), &both[..]),
        (json!({"order_item_id": "x", "quantity": 0}), &both),
        (json!({"order_item_id": 1.5, "quantity": 1_000_001}), &both),
        (json!({"order_item_id": item.id, "quantity": -1}), &both[1..]),
        (json!({"order_item_id": item.id, "quantity": "2"}), &both[1..]),
        (json!({"order_item_id": item.id, "quantity": null}), &both[1..]),
        (json!([]), &["body"]),
    ] {
        let response = anna.put(Node::Order, &path, body).await;
        assert_eq!(response.invalid_fields(), fields, "{}", response.request);
    }
    assert_eq!(read(&anna, &order).await.total_quantity, 4, "a refused change has no effect");
    assert_eq!(check_stock(&shop, &admin, &teapot).await, 7);
    shop.close().await;
}

#[tokio::test]
async fn a_refused_change_delays_no_other_order() {
    let shop = TestShop::start().await;
    let (admin, anna) = (shop.admin().await, shop.user("anna").await);
    let buyers =
        join_all(["vera", "olga", "nina", "lena", "zoya", "yana"].map(|name| shop.user(name)))
            .await;
    let teapot = admin.product(1990, 10).await;
    let order: Order = anna.order(&[(&teapot, 1)]).await.read(201);
    set_quantity(&anna, &order, 0, 11).await.expect(409);
    let orders = buyers.iter().map(|buyer| async { buyer.order(&[(&teapot, 1)]).await });
    join_all(orders).await.iter().for_each(|response| drop(response.expect(201)));
    assert_eq!(check_stock(&shop, &admin, &teapot).await, 3);
    shop.close().await;
}

#[tokio::test]
async fn concurrent_changes_of_an_item_leave_one_of_their_quantities() {
    let shop = TestShop::start().await;
    let (admin, anna) = (shop.admin().await, shop.user("anna").await);
    let teapot = admin.product(10, 100).await;
    let order: Order = anna.order(&[(&teapot, 1)]).await.read(201);
    let changes = (1..=40).map(|number| {
        set_quantity(if number % 2 == 0 { &admin } else { &anna }, &order, 0, number)
    });
    join_all(changes).await.iter().for_each(|response| drop(response.expect(200)));
    let current = read(&anna, &order).await;
    let quantity = current.items[0].product_quantity;
    assert!((1..=40).contains(&quantity), "{current:?}");
    assert_eq!((current.total_quantity, current.total_price), (quantity, 10 * quantity));
    assert_eq!(check_stock(&shop, &admin, &teapot).await, 100 - quantity);
    shop.close().await;
}
