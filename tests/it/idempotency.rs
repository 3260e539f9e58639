//! Requests with an idempotency key: executed once, with the same response for every repetition.

use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use shop_supervisor::Node;
use shop_tests::api::{Category, Order, Product, User};
use shop_tests::{BrokerKind, Client, PASSWORD, Response, Settings, TestShop, equal, eventually};
use uuid::Uuid;

use crate::dead_letters::dead_letters;
use crate::events::ExternalPublisher;

/// Places an order with an idempotency key.
async fn order(client: &Client, key: &str, product: &Product, quantity: i64) -> Response {
    let order = client.order_body(&[(product, quantity)]);
    client.send_with_key(key, Method::POST, Node::Order, "/order", Some(&order)).await
}

/// Checks that the second response equals the first one byte for byte and is marked as replayed.
#[track_caller]
fn assert_replayed(first: &Response, again: &Response) {
    assert!(first.headers.get("idempotency-replayed").is_none(), "{}", first.request);
    assert_eq!(again.header("idempotency-replayed"), "true", "{}: {}", again.request, again.text);
    assert_eq!((again.status, &again.text), (first.status, &first.text), "{}", again.request);
    assert_eq!(again.header("content-type"), first.header("content-type"), "{}", again.request);
}

#[tokio::test]
async fn every_change_is_executed_once_and_its_repetition_gets_the_same_response() {
    let shop = TestShop::start().await;
    let (admin, anonymous) = (shop.admin().await, shop.anonymous());
    let anna = shop.user("anna").await;
    let bob = shop.user("bob").await;
    let teapot = admin.product(1990, 10).await;
    let placed: Order = anna.order(&[(&teapot, 2)]).await.read(201);
    let kitchen = admin.category("Кухня", None).await;

    let new_user = json!({"username": "carl", "email": "carl@example.com", "password": PASSWORD});
    let new_order = anna.order_body(&[(&teapot, 1)]);
    let (update, change) = (placed.update_path(), placed.quantity_change(0, 3));
    let new_product =
        json!({"name": "Чашка", "price": 5, "quantity": 7, "category_id": kitchen.id});
    let role = format!("/api/v1/users/{}/role", bob.id());
    let user = format!("/api/v1/users/{}", bob.id());
    let (post, put) = (Method::POST, Method::PUT);
    let changes = [
        (&anonymous, &post, Node::Auth, "/api/v1/auth/register", Some(new_user)),
        (&anna, &put, Node::Auth, "/api/v1/users/me", Some(json!({"username": "anna-maria"}))),
        (&admin, &put, Node::Auth, &role, Some(json!({"role": "ADMIN"}))),
        (&admin, &Method::DELETE, Node::Auth, &user, None),
        (&admin, &post, Node::Catalog, "/api/v1/category", Some(json!({"name": "Сад"}))),
        (&admin, &post, Node::Catalog, "/api/v1/product", Some(new_product)),
        (&anna, &post, Node::Order, "/order", Some(new_order)),
        (&anna, &put, Node::Order, &update, Some(change)),
    ];
    for (client, method, node, path, body) in &changes {
        let key = Uuid::new_v4().to_string();
        let send = || client.send_with_key(&key, (*method).clone(), *node, path, body.as_ref());
        let first = send().await;
        assert!(first.status.is_success(), "{}: {}", first.request, first.text);
        assert_replayed(&first, &send().await);
        assert_replayed(&first, &send().await);
    }
    // Nothing was created twice.
    let users: Vec<User> = admin.get(Node::Auth, "/api/v1/users").await.read(200);
    assert_eq!(users.len(), 3, "admin, anna, carl: {users:?}");
    let categories: Vec<Category> = admin.get(Node::Catalog, "/api/v1/categories").await.read(200);
    assert_eq!(categories.len(), 3);
    let products: Vec<Product> = admin.get(Node::Catalog, "/api/v1/products").await.read(200);
    assert_eq!(products.len(), 2);
    admin.until_stock(&teapot, 10 - 3 - 1).await;
    shop.close().await;
}

#[tokio::test]
async fn a_dead_letter_is_dropped_or_redriven_once() {
    let shop = TestShop::start().await;
    let admin = shop.admin().await;
    let mut external = ExternalPublisher::connect(&shop).await;
    for body in [b"{", b"["] {
        external.send("product.created", Some(1), body).await;
    }
    let letters = dead_letters(&admin, Node::Order, 2).await;
    let path = |letter: &Value| format!("/admin/dead-letters/{}", letter["id"].as_str().unwrap());
    let (dropped, kept) = (path(&letters[0]), path(&letters[1]));
    let drop = || admin.send_with_key("drop", Method::DELETE, Node::Order, &dropped, None);
    let first = drop().await;
    first.expect(200);
    assert_replayed(&first, &drop().await);
    let redrive = format!("{kept}/redrive");
    let redrive = || admin.send_with_key("redrive", Method::POST, Node::Order, &redrive, None);
    let first = redrive().await;
    first.expect(409);
    assert_replayed(&first, &redrive().await);
    let tries = dead_letters(&admin, Node::Order, 1).await[0]["tries"].clone();
    assert_eq!(tries, letters[1]["tries"].as_i64().unwrap() + 1, "one more attempt, not two");
    shop.close().await;
}

#[tokio::test]
async fn of_a_hundred_requests_with_one_key_one_is_executed() {
    let shop = TestShop::start().await;
    let admin = shop.admin().await;
    let anna = shop.user("anna").await;
    let teapot = admin.product(1990, 1000).await;
    let tried = join_all((0..100).map(|_| async {
        eventually(async || match order(&anna, "once", &teapot, 1).await {
            response if response.status == 409 => {
                assert_eq!(response.header("retry-after"), "1");
                Err("in flight".to_owned())
            }
            response => Ok(response),
        })
        .await
    }));
    let responses = tried.await;
    assert!(responses.iter().all(|response| response.status == 201), "{}", responses[0].text);
    assert!(responses.iter().all(|response| response.text == responses[0].text));
    let fresh = responses.iter().filter(|one| one.headers.get("idempotency-replayed").is_none());
    assert_eq!(fresh.count(), 1);
    admin.until_stock(&teapot, 999).await;
    shop.close().await;
}

#[tokio::test]
async fn different_keys_in_one_batch_are_different_requests() {
    let shop = TestShop::start().await;
    let admin = shop.admin().await;
    let anna = shop.user("anna").await;
    let teapot = admin.product(1990, 1000).await;
    let place = async |n: usize| order(&anna, &format!("key-{}", n % 10), &teapot, 1).await;
    let responses = join_all((0..60).map(place)).await;
    let placed = responses.iter().filter(|response| response.status == 201);
    let mut ids: Vec<_> = placed.map(|response| response.read::<Order>(201).id).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 10);
    admin.until_stock(&teapot, 990).await;
    shop.close().await;
}

#[tokio::test]
async fn a_key_belongs_to_one_request_of_one_caller() {
    let shop = TestShop::start().await;
    let admin = shop.admin().await;
    let anna = shop.user("anna").await;
    let bob = shop.user("bob").await;
    let teapot = admin.product(1990, 10).await;
    let placed: Order = order(&anna, "mine", &teapot, 1).await.read(201);

    let refused = order(&anna, "mine", &teapot, 2).await.problem(422);
    assert!(refused.detail.contains("Idempotency-Key"), "{refused:?}");
    let (path, change) = (placed.update_path(), placed.quantity_change(0, 3));
    anna.send_with_key("mine", Method::PUT, Node::Order, &path, Some(&change)).await.expect(422);
    // The same key of another user is a different key.
    let other: Order = order(&bob, "mine", &teapot, 1).await.read(201);
    assert_ne!(other.id, placed.id);
    // The refused requests had no effect.
    admin.until_stock(&teapot, 8).await;
    shop.close().await;
}

#[tokio::test]
async fn a_refusal_is_replayed() {
    let shop = TestShop::start().await;
    let admin = shop.admin().await;
    let anna = shop.user("anna").await;
    let teapot = admin.product(1990, 3).await;
    let placed: Order = anna.order(&[(&teapot, 3)]).await.read(201);
    let refused = order(&anna, "too-many", &teapot, 2).await;
    refused.expect(409);
    // Two pieces are back in stock, but the response stays the same: a new attempt needs a new key.
    let change = placed.quantity_change(0, 1);
    anna.put(Node::Order, &placed.update_path(), change).await.expect(200);
    assert_replayed(&refused, &order(&anna, "too-many", &teapot, 2).await);
    order(&anna, "another", &teapot, 2).await.expect(201);

    // A refusal by a constraint of the database is replayed too.
    let taken = json!({"username": "anna", "email": "a@example.com", "password": PASSWORD});
    let register = async || {
        let path = "/api/v1/auth/register";
        shop.anonymous().send_with_key("taken", Method::POST, Node::Auth, path, Some(&taken)).await
    };
    let refused = register().await;
    refused.expect(409);
    assert_replayed(&refused, &register().await);
    // An invalid body does not use up the key: the corrected request is executed.
    order(&anna, "corrected", &teapot, 0).await.expect(422);
    admin.product(1, 1).await;
    order(&anna, "corrected", &teapot, 1).await.expect(409);
    shop.close().await;
}

#[tokio::test]
async fn a_request_in_flight_on_another_replica_gets_409_with_retry_after() {
    let shop = TestShop::start().await;
    let admin = shop.admin().await;
    let anna = shop.user("anna").await;
    let teapot = admin.product(1990, 3).await;
    // Another replica holds this lock while it executes the request.
    let mut replica = shop.settings.database(Node::Order).await;
    let lock = format!("select hashtextextended('{} slow', 0)", anna.id());
    let lock: i64 =
        sqlx::query_scalar(sqlx::AssertSqlSafe(lock)).fetch_one(&mut replica).await.unwrap();
    sqlx::query("select pg_advisory_lock($1)").bind(lock).execute(&mut replica).await.unwrap();
    let refused = order(&anna, "slow", &teapot, 1).await;
    refused.expect(409);
    assert_eq!(refused.header("retry-after"), "1");
    sqlx::query("select pg_advisory_unlock($1)").bind(lock).execute(&mut replica).await.unwrap();
    let first = order(&anna, "slow", &teapot, 1).await;
    first.expect(201);
    assert_replayed(&first, &order(&anna, "slow", &teapot, 1).await);
    shop.close().await;
}

#[tokio::test]
async fn an_internal_error_is_not_replayed() {
    let shop = TestShop::start().await;
    let admin = shop.admin().await;
    let anna = shop.user("anna").await;
    let teapot = admin.product(1990, 3).await;
    let mut database = shop.settings.database(Node::Order).await;
    let create = "
        create function fail() returns trigger language plpgsql as
            $$ begin raise 'a test failure'; end $$;
        create trigger fails before insert on order_items execute function fail()";
    sqlx::raw_sql(create).execute(&mut database).await.unwrap();
    order(&anna, "later", &teapot, 1).await.expect(503);
    sqlx::raw_sql("drop trigger fails on order_items").execute(&mut database).await.unwrap();
    let first = eventually(async || {
        let response = order(&anna, "later", &teapot, 1).await;
        // The failed request may hold the key until its actor has restarted.
        if response.headers.contains_key("retry-after") { Err(response.text) } else { Ok(response) }
    });
    let first = first.await;
    first.expect(201);
    assert_replayed(&first, &order(&anna, "later", &teapot, 1).await);
    shop.close().await;
}

#[tokio::test]
async fn a_key_expires_after_its_retention() {
    let mut settings = Settings::new(BrokerKind::Bus).await;
    settings.set("SHOP__IDEMPOTENCY__RETENTION_SECONDS", "1");
    let shop = TestShop::start_with(settings).await;
    let admin = shop.admin().await;
    let add = async |name: &str| {
        let new = json!({"name": name});
        admin
            .send_with_key("short", Method::POST, Node::Catalog, "/api/v1/category", Some(&new))
            .await
    };
    add("Кухня").await.expect(201);
    eventually(async || equal(add("Сад").await.status.as_u16(), 201)).await;
    shop.close().await;
}

#[tokio::test]
async fn an_invalid_key_is_rejected() {
    let shop = TestShop::start().await;
    let anna = shop.user("anna").await;
    let change = json!({"username": "other"});
    for bad in ["", "a b", "ключ", &"x".repeat(256)] {
        let path = "/api/v1/users/me";
        anna.send_with_key(bad, Method::PUT, Node::Auth, path, Some(&change)).await.expect(400);
    }
    let twice = anna.request(Method::PUT, Node::Auth, "/api/v1/users/me").json(&change);
    let twice = twice.header("idempotency-key", "one").header("idempotency-key", "two");
    Response::of(twice).await.expect(400);
    assert_eq!(anna.get(Node::Auth, "/api/v1/users/me").await.expect(200)["username"], "anna");
    shop.close().await;
}
