//! Requests with an Idempotency-Key: done once, and answered alike.

use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use shop_supervisor::Node;
use uuid::Uuid;

use crate::dead_letters::dead_letters;
use crate::events::Stranger;
use crate::shop::{Answer, Client, Over, PASSWORD, Settings, TestShop, eventually, same};

impl Client {
    async fn send_as(
        &self,
        key: &str,
        method: Method,
        node: Node,
        path: &str,
        body: Option<&Value>,
    ) -> Answer {
        let request = self.request(method, node, path).header("idempotency-key", key);
        Answer::of(match body {
            Some(body) => request.json(body),
            None => request,
        })
        .await
    }

    async fn order_as(&self, key: &str, product: &Value, quantity: i64) -> Answer {
        let items = json!([{"product_id": product["id"], "quantity": quantity}]);
        let order = json!({"user_id": self.id(), "items": items});
        self.send_as(key, Method::POST, Node::Order, "/order", Some(&order)).await
    }
}

/// The second answer says what the first one said, byte for byte, and that it is a repetition.
#[track_caller]
fn assert_replayed(first: &Answer, again: &Answer) {
    assert!(first.headers.get("idempotency-replayed").is_none(), "{}", first.call);
    assert_eq!(again.header("idempotency-replayed"), "true", "{}: {}", again.call, again.text);
    assert_eq!((again.status, &again.text), (first.status, &first.text), "{}", again.call);
    assert_eq!(again.header("content-type"), first.header("content-type"), "{}", again.call);
}

#[tokio::test]
async fn every_change_is_made_once_and_its_repetition_gets_the_same_answer() {
    let shop = TestShop::start().await;
    let (admin, nobody) = (shop.admin().await, shop.nobody());
    let anna = shop.user("anna").await;
    let bob = shop.user("bob").await;
    let teapot = admin.product(1990, 10).await;
    let order = anna.order(&[(&teapot, 2)]).await.expect(201);
    let kitchen = admin.category("Кухня", Value::Null).await;

    let new_user = json!({"username": "carl", "email": "carl@example.com", "password": PASSWORD});
    let items = json!([{"product_id": teapot["id"], "quantity": 1}]);
    let new_order = json!({"user_id": anna.id(), "items": items});
    let item = json!({"order_item_id": order["items"][0]["id"], "quantity": 3});
    let new_product =
        json!({"name": "Чашка", "price": 5, "quantity": 7, "category_id": kitchen["id"]});
    let role = format!("/api/v1/users/{}/role", bob.id());
    let gone = format!("/api/v1/users/{}", bob.id());
    let update = format!("/update_order/{}", order["id"]);
    let (post, put) = (Method::POST, Method::PUT);
    let changes = [
        (&nobody, &post, Node::Auth, "/api/v1/auth/register", Some(new_user)),
        (&anna, &put, Node::Auth, "/api/v1/users/me", Some(json!({"username": "anna-maria"}))),
        (&admin, &put, Node::Auth, &role, Some(json!({"role": "ADMIN"}))),
        (&admin, &Method::DELETE, Node::Auth, &gone, None),
        (&admin, &post, Node::Catalog, "/api/v1/category", Some(json!({"name": "Сад"}))),
        (&admin, &post, Node::Catalog, "/api/v1/product", Some(new_product)),
        (&anna, &post, Node::Order, "/order", Some(new_order)),
        (&anna, &put, Node::Order, &update, Some(item)),
    ];
    for (who, method, node, path, body) in &changes {
        let key = Uuid::new_v4().to_string();
        let send = || who.send_as(&key, (*method).clone(), *node, path, body.as_ref());
        let first = send().await;
        assert!(first.status.is_success(), "{}: {}", first.call, first.text);
        assert_replayed(&first, &send().await);
        assert_replayed(&first, &send().await);
    }
    // Nothing was made twice.
    let users = admin.get(Node::Auth, "/api/v1/users").await.expect(200);
    assert_eq!(users.as_array().map(Vec::len), Some(3), "admin, anna, carl: {users}");
    let categories = admin.get(Node::Catalog, "/api/v1/categories").await.expect(200);
    assert_eq!(categories.as_array().map(Vec::len), Some(3));
    let products = admin.get(Node::Catalog, "/api/v1/products").await.expect(200);
    assert_eq!(products.as_array().map(Vec::len), Some(2));
    eventually(|| async { same(admin.left(&teapot).await, 10 - 3 - 1) }).await;
    shop.close().await;
}

#[tokio::test]
async fn what_is_done_about_a_dead_letter_is_done_once() {
    let shop = TestShop::start().await;
    let admin = shop.admin().await;
    let mut stranger = Stranger::beside(&shop).await;
    for body in [b"{", b"["] {
        stranger.send("product.created", Some(1), body).await;
    }
    let letters = dead_letters(&admin, Node::Order, 2).await;
    let path = |letter: &Value| format!("/admin/dead-letters/{}", letter["id"].as_str().unwrap());
    let (dropped, kept) = (path(&letters[0]), path(&letters[1]));
    let drop = || admin.send_as("drop", Method::DELETE, Node::Order, &dropped, None);
    let first = drop().await;
    first.expect(200);
    assert_replayed(&first, &drop().await);
    let redrive = format!("{kept}/redrive");
    let redrive = || admin.send_as("redrive", Method::POST, Node::Order, &redrive, None);
    let first = redrive().await;
    first.expect(409);
    assert_replayed(&first, &redrive().await);
    let tries = dead_letters(&admin, Node::Order, 1).await[0]["tries"].clone();
    assert_eq!(
        tries,
        letters[1]["tries"].as_i64().unwrap() + 1,
        "it was tried once more, not twice"
    );
    shop.close().await;
}

#[tokio::test]
async fn of_a_hundred_requests_with_one_key_one_is_done() {
    let shop = TestShop::start().await;
    let admin = shop.admin().await;
    let anna = shop.user("anna").await;
    let teapot = admin.product(1990, 1000).await;
    let tried = join_all((0..100).map(|_| async {
        eventually(async || match anna.order_as("once", &teapot, 1).await {
            answer if answer.status == 409 => {
                assert_eq!(answer.header("retry-after"), "1");
                Err("in flight".to_owned())
            }
            answer => Ok(answer),
        })
        .await
    }));
    let answers = tried.await;
    assert!(answers.iter().all(|answer| answer.status == 201), "{}", answers[0].text);
    assert!(answers.iter().all(|answer| answer.text == answers[0].text));
    let fresh = answers.iter().filter(|one| one.headers.get("idempotency-replayed").is_none());
    assert_eq!(fresh.count(), 1);
    eventually(|| async { same(admin.left(&teapot).await, 999) }).await;
    shop.close().await;
}

#[tokio::test]
async fn many_keys_in_one_batch_are_told_apart() {
    let shop = TestShop::start().await;
    let admin = shop.admin().await;
    let anna = shop.user("anna").await;
    let teapot = admin.product(1990, 1000).await;
    let place = async |n: usize| anna.order_as(&format!("key-{}", n % 10), &teapot, 1).await;
    let answers = join_all((0..60).map(place)).await;
    let placed = answers.iter().filter(|answer| answer.status == 201);
    let mut ids: Vec<_> = placed.map(|answer| answer.json()["id"].as_i64()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 10);
    eventually(|| async { same(admin.left(&teapot).await, 990) }).await;
    shop.close().await;
}

#[tokio::test]
async fn a_key_belongs_to_one_request_of_one_caller() {
    let shop = TestShop::start().await;
    let admin = shop.admin().await;
    let anna = shop.user("anna").await;
    let bob = shop.user("bob").await;
    let teapot = admin.product(1990, 10).await;
    let order = anna.order_as("mine", &teapot, 1).await.expect(201);

    let refused = anna.order_as("mine", &teapot, 2).await;
    let problem = refused.expect(422);
    assert!(problem["detail"].as_str().is_some_and(|it| it.contains("Idempotency-Key")));
    let path = format!("/update_order/{}", order["id"]);
    let item = json!({"order_item_id": order["items"][0]["id"], "quantity": 3});
    anna.send_as("mine", Method::PUT, Node::Order, &path, Some(&item)).await.expect(422);
    // Somebody else's key of the same name is another one.
    let theirs = bob.order_as("mine", &teapot, 1).await.expect(201);
    assert_ne!(theirs["id"], order["id"]);
    // What the other requests tried to do was not done.
    eventually(|| async { same(admin.left(&teapot).await, 8) }).await;
    shop.close().await;
}

#[tokio::test]
async fn a_refusal_is_repeated_as_it_was() {
    let shop = TestShop::start().await;
    let admin = shop.admin().await;
    let anna = shop.user("anna").await;
    let teapot = admin.product(1990, 3).await;
    let placed = anna.order(&[(&teapot, 3)]).await.expect(201);
    let refused = anna.order_as("too-many", &teapot, 2).await;
    refused.expect(409);
    // Two are given back, but the answer stays what it was: whoever wants a new one asks with a new key.
    let item = json!({"order_item_id": placed["items"][0]["id"], "quantity": 1});
    anna.put(Node::Order, &format!("/update_order/{}", placed["id"]), item).await.expect(200);
    assert_replayed(&refused, &anna.order_as("too-many", &teapot, 2).await);
    anna.order_as("another", &teapot, 2).await.expect(201);

    // A refusal that PostgreSQL itself made, by a constraint.
    let taken = json!({"username": "anna", "email": "a@example.com", "password": PASSWORD});
    let register = async || {
        let path = "/api/v1/auth/register";
        shop.nobody().send_as("taken", Method::POST, Node::Auth, path, Some(&taken)).await
    };
    let refused = register().await;
    refused.expect(409);
    assert_replayed(&refused, &register().await);
    // A body that breaks a rule is not a request yet: mended, it is done under the same key.
    anna.order_as("mended", &teapot, 0).await.expect(422);
    admin.product(1, 1).await;
    let nothing = anna.order_as("mended", &teapot, 1).await;
    nothing.expect(409);
    shop.close().await;
}

#[tokio::test]
async fn a_request_in_flight_elsewhere_is_told_to_wait() {
    let shop = TestShop::start().await;
    let admin = shop.admin().await;
    let anna = shop.user("anna").await;
    let teapot = admin.product(1990, 3).await;
    // Another replica would hold this lock while it is at the request.
    let mut elsewhere = shop.settings.database(Node::Order).await;
    let lock = format!("select hashtextextended('{} slow', 0)", anna.id());
    let lock: i64 =
        sqlx::query_scalar(sqlx::AssertSqlSafe(lock)).fetch_one(&mut elsewhere).await.unwrap();
    sqlx::query("select pg_advisory_lock($1)").bind(lock).execute(&mut elsewhere).await.unwrap();
    let waits = anna.order_as("slow", &teapot, 1).await;
    waits.expect(409);
    assert_eq!(waits.header("retry-after"), "1");
    sqlx::query("select pg_advisory_unlock($1)").bind(lock).execute(&mut elsewhere).await.unwrap();
    let first = anna.order_as("slow", &teapot, 1).await;
    first.expect(201);
    assert_replayed(&first, &anna.order_as("slow", &teapot, 1).await);
    shop.close().await;
}

#[tokio::test]
async fn a_bug_is_not_an_answer_to_keep() {
    let shop = TestShop::start().await;
    let admin = shop.admin().await;
    let anna = shop.user("anna").await;
    let teapot = admin.product(1990, 3).await;
    let mut database = shop.settings.database(Node::Order).await;
    let plant = "create function fail() returns trigger language plpgsql as $$ begin raise 'planted'; end $$;
                 create trigger planted before insert on order_items execute function fail()";
    sqlx::raw_sql(plant).execute(&mut database).await.unwrap();
    anna.order_as("later", &teapot, 1).await.expect(503);
    sqlx::raw_sql("drop trigger planted on order_items").execute(&mut database).await.unwrap();
    let first = eventually(async || {
        let answer = anna.order_as("later", &teapot, 1).await;
        // What failed may still be on its way back, and holds the key for so long.
        if answer.headers.contains_key("retry-after") { Err(answer.text) } else { Ok(answer) }
    });
    let first = first.await;
    first.expect(201);
    assert_replayed(&first, &anna.order_as("later", &teapot, 1).await);
    shop.close().await;
}

#[tokio::test]
async fn an_answer_is_forgotten_when_its_time_is_over() {
    let mut settings = Settings::new(Over::Bus).await;
    settings.set("SHOP__IDEMPOTENCY__RETENTION_SECONDS", "1");
    let shop = TestShop::with(settings).await;
    let admin = shop.admin().await;
    let add = async |name: &str| {
        let new = json!({"name": name});
        admin.send_as("short", Method::POST, Node::Catalog, "/api/v1/category", Some(&new)).await
    };
    add("Кухня").await.expect(201);
    eventually(async || same(add("Сад").await.status.as_u16(), 201)).await;
    shop.close().await;
}

#[tokio::test]
async fn a_key_that_cannot_be_one_is_refused() {
    let shop = TestShop::start().await;
    let anna = shop.user("anna").await;
    let change = json!({"username": "other"});
    for bad in ["", "a b", "ключ", &"x".repeat(256)] {
        let path = "/api/v1/users/me";
        anna.send_as(bad, Method::PUT, Node::Auth, path, Some(&change)).await.expect(400);
    }
    let twice = anna.request(Method::PUT, Node::Auth, "/api/v1/users/me").json(&change);
    let twice = twice.header("idempotency-key", "one").header("idempotency-key", "two");
    Answer::of(twice).await.expect(400);
    assert_eq!(anna.get(Node::Auth, "/api/v1/users/me").await.expect(200)["username"], "anna");
    shop.close().await;
}
