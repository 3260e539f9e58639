//! The limits of items, quantities and prices.

use futures::future::join_all;
use serde_json::{Value, json};
use shop_supervisor::Node;
use shop_tests::TestShop;
use shop_tests::api::{Order, Product};

use super::{check_stock, place, read, set_quantity};

#[tokio::test]
async fn an_order_reports_all_invalid_fields_together() {
    let shop = TestShop::start().await;
    let (admin, anna) = (shop.admin().await, shop.user("anna").await);
    let teapot = admin.product(1990, 1000).await;
    anna.order(&[(&teapot, 1)]).await.expect(201);
    let item = |quantity: Value| json!({"product_id": teapot.id, "quantity": quantity});
    let with_items = |items: Value| json!({"user_id": anna.id(), "items": items});
    let too_many: Vec<_> = (0..101).map(|_| item(json!(1))).collect();

    let quantities =
        [json!(0), json!(-1), json!(1_000_001), json!(1.5), json!("5"), json!(null), json!(true)];
    let numbers = ["9223372036854775807", "9223372036854775808", "-9223372036854775809", "1e300"];
    let numbers = numbers.map(|number| number.parse::<Value>().expect("a number"));
    let mut cases: Vec<_> = quantities
        .into_iter()
        .chain(numbers)
        .map(|quantity| {
            (with_items(json!([item(json!(1)), item(quantity)])), vec!["items[1].quantity"])
        })
        .collect();
    cases.extend([
        (with_items(json!([])), vec!["items"]),
        (with_items(json!(too_many)), vec!["items"]),
        (with_items(json!(null)), vec!["items"]),
        (with_items(item(json!(1))), vec!["items"]),
        (with_items(json!([7])), vec!["items[0]"]),
        (with_items(json!([{}])), vec!["items[0].product_id", "items[0].quantity"]),
        (with_items(json!([{"product_id": "1", "quantity": 1}])), vec!["items[0].product_id"]),
        (with_items(json!([{"product_id": 1.5, "quantity": 1}])), vec!["items[0].product_id"]),
        (with_items(json!([item(json!(1_000_000)), item(json!(1))])), vec!["items[1].quantity"]),
        (json!({"user_id": 7, "items": []}), vec!["items", "user_id"]),
        (json!({"user_id": "anna", "items": [item(json!(0)), {"product_id": null, "quantity": "x"}]}),
            vec!["items[0].quantity", "items[1].product_id", "items[1].quantity", "user_id"]),
        (json!({}), vec!["items", "user_id"]),
        (json!([]), vec!["body"]),
        (json!("order"), vec!["body"]),
    ]);
    for (body, fields) in cases {
        let response = place(&anna, body).await;
        assert_eq!(response.invalid_fields(), fields, "{}", response.request);
    }
    assert_eq!(check_stock(&shop, &admin, &teapot).await, 999);
    shop.close().await;
}

#[tokio::test]
async fn an_order_has_up_to_100_items_of_up_to_a_million_pieces() {
    let shop = TestShop::start().await;
    let (admin, anna) = (shop.admin().await, shop.user("anna").await);
    let teapot = admin.product(1, 2_000_000).await;
    anna.order(&[(&teapot, 1_000_000)]).await.expect(201);
    let category =
        json!({"name": "cup", "price": 1, "quantity": 1, "category_id": teapot.category_id});
    let cups = (0..99).map(|_| admin.post(Node::Catalog, "/api/v1/product", category.clone()));
    let cups: Vec<Product> = join_all(cups).await.iter().map(|cup| cup.read(201)).collect();
    let mut items: Vec<_> = cups.iter().map(|cup| (cup, 1)).collect();
    items.push((&teapot, 1));
    let order: Order = anna.order(&items).await.read(201);
    assert_eq!((order.total_quantity, order.items.len()), (100, 100));
    anna.order(&[(&teapot, 10_000); 100][..]).await.expect(409); // 999,999 are in stock
    let order: Order = anna.order(&[(&teapot, 9_999); 100][..]).await.read(201);
    assert_eq!(order.items.len(), 1);
    assert_eq!(check_stock(&shop, &admin, &teapot).await, 99);
    shop.close().await;
}

#[tokio::test]
async fn the_total_price_of_an_order_fits_64_bits() {
    let shop = TestShop::start().await;
    let (admin, anna) = (shop.admin().await, shop.user("anna").await);
    let mut yachts = vec![];
    for _ in 0..10 {
        yachts.push(admin.product(1_000_000_000_000, 1_000_000_000).await);
    }
    let all: Vec<_> = yachts.iter().map(|yacht| (yacht, 1_000_000)).collect();
    assert_eq!(anna.order(&all).await.invalid_fields(), ["items"]);
    let mut most = all[..9].to_vec();
    most.push((&yachts[9], 1));
    let order: Order = anna.order(&most).await.read(201);
    assert_eq!(order.total_price, 9_000_001_000_000_000_000_i64);
    assert_eq!(set_quantity(&anna, &order, 9, 1_000_000).await.invalid_fields(), ["quantity"]);
    assert_eq!(read(&anna, &order).await.total_price, order.total_price);
    assert_eq!(check_stock(&shop, &admin, &yachts[9]).await, 999_999_999);
    shop.close().await;
}
