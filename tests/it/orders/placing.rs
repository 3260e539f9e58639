//! What an order shows, who can place and read it, and that it is placed as a whole.

use reqwest::Method;
use serde_json::json;
use shop_supervisor::Node;
use shop_tests::api::{Order, Product};
use shop_tests::{TestShop, eventually};
use uuid::Uuid;

use super::{check_stock, place};

#[tokio::test]
async fn an_order_contains_its_items_prices_and_customer() {
    let shop = TestShop::start().await;
    let (admin, anna) = (shop.admin().await, shop.user("Анна").await);
    let (teapot, cup) = (admin.product(1990, 10).await, admin.product(250, 100).await);

    let order = anna.order(&[(&cup, 6), (&teapot, 1), (&cup, 2)]).await.expect(201);
    let item = |number: usize, product: &Product, quantity: i64| {
        json!({
            "id": order["items"][number]["id"], "order_id": order["id"],
            "product_id": product.id, "product_quantity": quantity,
            "product": {"id": product.id, "name": product.name, "price": product.price},
        })
    };
    let mut expected = json!({
        "id": order["id"], "user_id": anna.id(), "total_quantity": 9, "total_price": 8 * 250 + 1990,
        "status": "created", "created_at": order["created_at"],
        "items": [item(0, &cup, 8), item(1, &teapot, 1)],
    });
    assert_eq!(order, expected);
    assert!(order["id"].is_i64() && order["items"][0]["id"].is_i64(), "{order}");
    assert_ne!(order["items"][0]["id"], order["items"][1]["id"]);
    let placed_at = order["created_at"].as_str().expect("a time");
    assert!(
        placed_at.contains('T') && placed_at.ends_with('Z'),
        "not RFC 3339 in UTC: {placed_at}"
    );

    expected["user"] = json!({"id": anna.id(), "username": "Анна", "email": anna.user().email});
    let path = format!("/order/{}", order["id"]);
    for reader in [&anna, &admin] {
        assert_eq!(reader.get(Node::Order, &path).await.expect(200), expected);
    }
    assert_eq!(check_stock(&shop, &admin, &cup).await, 92);
    assert_eq!(check_stock(&shop, &admin, &teapot).await, 9);
    shop.close().await;
}

#[tokio::test]
async fn only_the_customer_and_administrators_access_an_order() {
    let shop = TestShop::start().await;
    let (anonymous, admin) = (shop.anonymous(), shop.admin().await);
    let (owner, stranger) = (shop.user("owner").await, shop.user("stranger").await);
    let teapot = admin.product(1990, 100).await;
    let order: Order = owner.order(&[(&teapot, 1)]).await.read(201);
    let of_owner = owner.order_body(&[(&teapot, 1)]);
    let (path, update, change) = (order.path(), order.update_path(), order.quantity_change(0, 2));
    let (post, put) = (Method::POST, Method::PUT);
    for (method, path, body, statuses) in [
        (Method::GET, path.as_str(), None, [401, 403, 200, 200]),
        (Method::GET, "/order/987654321", None, [401, 404, 404, 404]),
        (put.clone(), &update, Some(change.clone()), [401, 403, 200, 200]),
        (put, "/update_order/987654321", Some(change), [401, 404, 404, 404]),
        (post, "/order", Some(of_owner), [401, 403, 201, 201]),
    ] {
        for (caller, status) in [&anonymous, &stranger, &owner, &admin].into_iter().zip(statuses) {
            let response = caller.send(method.clone(), Node::Order, path, body.clone()).await;
            if status == 201 {
                assert_eq!(response.read::<Order>(201).user_id, owner.id());
            } else {
                response.expect(status);
            }
        }
    }
    for id in ["x", "1.5", "0x1", "99999999999999999999999", "%00", "%FF", "1%20"] {
        owner.get(Node::Order, &format!("/order/{id}")).await.expect(400);
        owner.put(Node::Order, &format!("/update_order/{id}"), json!({})).await.expect(400);
    }
    for id in ["0", "-1", "9223372036854775807"] {
        owner.get(Node::Order, &format!("/order/{id}")).await.expect(404);
    }
    assert_eq!(check_stock(&shop, &admin, &teapot).await, 100 - 2 - 2);
    shop.close().await;
}

#[tokio::test]
async fn an_order_of_an_unknown_user_or_product_is_rejected() {
    let shop = TestShop::start().await;
    let (admin, anna) = (shop.admin().await, shop.user("anna").await);
    let deleted = shop.user("deleted").await;
    let teapot = admin.product(1990, 10).await;
    deleted.order(&[(&teapot, 1)]).await.expect(201);
    let order = |user: Uuid, products: &[i64]| {
        let item = |product: &i64| json!({"product_id": product, "quantity": 1});
        json!({"user_id": user, "items": products.iter().map(item).collect::<Vec<_>>()})
    };
    let (known, unknown) = (teapot.id, 987_654_321);
    let stranger = Uuid::new_v4();
    for (caller, body, fields) in [
        (&anna, order(anna.id(), &[known, unknown]), &["items[1].product_id"][..]),
        (
            &anna,
            order(anna.id(), &[0, -1, known, 0]),
            &["items[0].product_id", "items[1].product_id"],
        ),
        (&anna, order(anna.id(), &[i64::MAX]), &["items[0].product_id"]),
        (&admin, order(stranger, &[known]), &["user_id"]),
        (&admin, order(stranger, &[unknown]), &["items[0].product_id", "user_id"]),
    ] {
        let response = place(caller, body).await;
        assert_eq!(response.invalid_fields(), fields, "{}", response.request);
    }
    admin.delete(Node::Auth, &format!("/api/v1/users/{}", deleted.id())).await.expect(200);
    let of_deleted = order(deleted.id(), &[known]);
    let refused = eventually(async || {
        let response = place(&admin, of_deleted.clone()).await;
        if response.status == 201 {
            Err("the event has not arrived".to_owned())
        } else {
            Ok(response)
        }
    });
    assert_eq!(refused.await.invalid_fields(), ["user_id"]);
    check_stock(&shop, &admin, &teapot).await;
    shop.close().await;
}

#[tokio::test]
async fn an_order_is_placed_as_a_whole_or_not_at_all() {
    let shop = TestShop::start().await;
    let (admin, anna) = (shop.admin().await, shop.user("anna").await);
    let (many, few) = (admin.product(100, 50).await, admin.product(100, 2).await);
    let none = admin.product(100, 0).await;
    for items in [
        &[(&many, 1), (&few, 3)][..],
        &[(&few, 3), (&many, 1)],
        &[(&few, 2), (&many, 50), (&few, 1)],
        &[(&many, 51)],
        &[(&many, 1), (&none, 1)],
    ] {
        anna.order(items).await.expect(409);
    }
    let unknown = Product { id: 987_654_321, ..many.clone() };
    place(&anna, anna.order_body(&[(&many, 1), (&unknown, 1)])).await.expect(422);
    for product in [&many, &few, &none] {
        assert_eq!(check_stock(&shop, &admin, product).await, product.storage_quantity);
    }
    anna.order(&[(&many, 50), (&few, 2)]).await.expect(201);
    anna.order(&[(&few, 1)]).await.expect(409);
    assert_eq!(check_stock(&shop, &admin, &many).await + check_stock(&shop, &admin, &few).await, 0);
    shop.close().await;
}

#[tokio::test]
async fn caller_gets_503_when_the_actor_fails_and_the_next_request_works() {
    let shop = TestShop::start().await;
    let (admin, anna) = (shop.admin().await, shop.user("anna").await);
    let teapot = admin.product(1990, 10).await;
    let order: Order = anna.order(&[(&teapot, 1)]).await.read(201);
    let new = anna.order_body(&[(&teapot, 2)]);
    let (update, change) = (order.update_path(), order.quantity_change(0, 2));
    let category = json!({"name": "Чайники"});
    for (node, table, method, path, body, status) in [
        (Node::Order, "order_items", Method::POST, "/order", new, 201),
        (Node::Order, "outbox", Method::PUT, &update, change, 200),
        (Node::Catalog, "categories", Method::POST, "/api/v1/category", category, 201),
        (Node::Auth, "outbox", Method::PUT, "/api/v1/users/me", json!({"username": "Нюра"}), 200),
    ] {
        let mut database = shop.settings.database(node).await;
        let mut run = async |sql: String| {
            sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
                .execute(&mut database)
                .await
                .expect("a renamed table");
        };
        run(format!("alter table {table} rename to renamed")).await;
        let caller = if node == Node::Catalog { &admin } else { &anna };
        let response = caller.send(method.clone(), node, path, Some(body.clone())).await;
        run(format!("alter table renamed rename to {table}")).await;
        response.expect(503);
        caller.send(method, node, path, Some(body)).await.expect(status);
    }
    assert_eq!(check_stock(&shop, &admin, &teapot).await, 10 - 2 - 2, "nothing is half done");
    shop.close().await;
}
