//! Events from outside and between the nodes: applied once, in order, whatever is repeated, late or broken.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::{Value, json};
use shop_messaging::{Broker, Message, Publisher, topology};
use shop_persistence::events::EVENTS;
use shop_supervisor::Node;
use shop_tests::rabbitmq::RabbitMq;
use uuid::Uuid;

use crate::dead_letters::{POISON, dead_letters};
use crate::event_schemas::violations_of;
use crate::shop::{Client, Over, Settings, TestShop, eventually, same};

on_both_brokers! {
    a_foreign_user_can_be_ordered_for
    a_repeated_late_or_disordered_user_event_changes_nothing
    a_deleted_user_stays_deleted
    a_foreign_product_can_be_ordered
    a_repeated_late_or_disordered_product_changes_nothing
    a_broken_message_goes_to_the_dead_letters_and_holds_nothing_up
    a_message_that_ends_its_owner_goes_to_the_dead_letters_and_holds_nothing_up
    what_is_sold_leaves_the_catalogs_stock
    a_changed_or_deleted_user_loses_the_token_on_every_node
}

/// A client of the broker that is not of the shop.
pub struct Stranger {
    pub publisher: Publisher,
    broker: Broker,
}

impl Stranger {
    pub async fn beside(shop: &TestShop) -> Stranger {
        let broker = match &shop.bus() {
            Some(bus) => Broker::Bus((*bus).clone()),
            None => shop.settings.rabbit(RabbitMq::shared().await.unwrap().port()),
        };
        Stranger { publisher: broker.publisher().await.unwrap(), broker }
    }

    pub async fn publish(&mut self, event: &str, version: i64, body: &Value) {
        self.send(event, Some(version), body.to_string().as_bytes()).await;
    }

    pub async fn send(&mut self, event: &str, version: Option<i64>, body: &[u8]) {
        self.post(message(event, version, body)).await;
    }

    /// Resolves when the broker has it: on the bus, when the shop is done with it.
    pub async fn post(&mut self, message: Message) {
        // A queue that was declared a moment ago may refuse: whoever publishes tries again then.
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

pub fn user(id: &str, name: &str) -> Value {
    json!({"id": id, "username": name, "email": format!("{name}@example.com"), "role": "USER"})
}

pub fn product(id: i64, price: i64, quantity: i64) -> Value {
    json!({"id": id, "name": "Самовар", "price": price, "quantity": quantity, "category_id": 1})
}

/// Orders for somebody, as the administrator.
pub async fn order_for(
    admin: &Client,
    user: impl Serialize,
    product: i64,
    quantity: i64,
) -> crate::shop::Answer {
    let items = json!([{"product_id": product, "quantity": quantity}]);
    admin.place(json!({"user_id": user, "items": items})).await
}

/// The same at once, whatever was heard of.
pub async fn order_now(admin: &Client, user: impl Serialize, product: i64) -> crate::shop::Answer {
    let items = json!([{"product_id": product, "quantity": 1}]);
    admin.post(Node::Order, "/order", json!({"user_id": user, "items": items})).await
}

/// Who an order shows as its user.
async fn buyer(admin: &Client, order: &Value) -> Value {
    admin.get(Node::Order, &format!("/order/{}", order["id"])).await.expect(200)["user"].clone()
}

async fn a_foreign_user_can_be_ordered_for(shop: TestShop) {
    let admin = shop.admin().await;
    let teapot = admin.product(5, 10).await;
    let id = Uuid::new_v4().to_string();
    order_now(&admin, &id, teapot.id).await.expect(422);
    Stranger::beside(&shop).await.publish("user_created", 1, &user(&id, "stranger")).await;
    let order = order_for(&admin, &id, teapot.id, 1).await.expect(201);
    let shown = json!({"id": id, "username": "stranger", "email": "stranger@example.com"});
    assert_eq!(buyer(&admin, &order).await, shown);
    shop.close().await;
}

async fn a_repeated_late_or_disordered_user_event_changes_nothing(shop: TestShop) {
    let admin = shop.admin().await;
    let teapot = admin.product(5, 10).await.id;
    let mut stranger = Stranger::beside(&shop).await;
    let (id, other) = (Uuid::new_v4().to_string(), Uuid::new_v4().to_string());
    stranger.publish("user_updated", 3, &user(&id, "third")).await; // before it was created
    stranger.publish("user_created", 1, &user(&id, "first")).await;
    stranger.publish("user_updated", 2, &user(&id, "second")).await;
    stranger.publish("user_updated", 3, &user(&id, "another-third")).await;
    stranger.publish("user_created", 1, &user(&other, "last")).await;
    // When the last is there, so are those before it: one queue, one order.
    order_for(&admin, &other, teapot, 1).await.expect(201);
    let order = order_for(&admin, &id, teapot, 1).await.expect(201);
    assert_eq!(buyer(&admin, &order).await["username"], "third");
    stranger.publish("user_updated", 4, &user(&id, "fourth")).await;
    eventually(|| async { same(buyer(&admin, &order).await["username"].clone(), json!("fourth")) })
        .await;
    shop.close().await;
}

async fn a_deleted_user_stays_deleted(shop: TestShop) {
    let admin = shop.admin().await;
    let teapot = admin.product(5, 10).await.id;
    let mut stranger = Stranger::beside(&shop).await;
    let (id, other) = (Uuid::new_v4().to_string(), Uuid::new_v4().to_string());
    stranger.publish("user_deleted", 2, &json!({"id": id})).await; // before it was created
    stranger.publish("user_created", 1, &user(&id, "ghost")).await;
    stranger.publish("user_created", 1, &user(&other, "last")).await;
    order_for(&admin, &other, teapot, 1).await.expect(201);
    assert_eq!(order_now(&admin, &id, teapot).await.broken_fields(), ["user_id"]);
    shop.close().await;
}

async fn a_foreign_product_can_be_ordered(shop: TestShop) {
    let admin = shop.admin().await;
    Stranger::beside(&shop).await.publish("product.created", 1, &product(1_000_001, 70, 4)).await;
    let order = order_for(&admin, admin.id(), 1_000_001, 3).await.expect(201);
    assert_eq!(
        (&order["total_price"], &order["items"][0]["product"]["name"]),
        (&json!(210), &json!("Самовар"))
    );
    order_for(&admin, admin.id(), 1_000_001, 2).await.expect(409);
    shop.close().await;
}

async fn a_repeated_late_or_disordered_product_changes_nothing(shop: TestShop) {
    let admin = shop.admin().await;
    let mut stranger = Stranger::beside(&shop).await;
    for (version, price, quantity) in [(2, 20, 6), (1, 10, 9), (2, 20, 6), (2, 99, 9)] {
        stranger.publish("product.created", version, &product(1_000_002, price, quantity)).await;
    }
    stranger.publish("product.created", 1, &product(1_000_003, 1, 1)).await;
    order_for(&admin, admin.id(), 1_000_003, 1).await.expect(201);
    assert_eq!(order_for(&admin, admin.id(), 1_000_002, 5).await.expect(201)["total_price"], 100);
    // A newer version says what was stocked in all: of eight, five are sold.
    stranger.publish("product.created", 3, &product(1_000_002, 30, 8)).await;
    let bought = eventually(|| async {
        let answer = order_for(&admin, admin.id(), 1_000_002, 3).await;
        same(answer.status.as_u16(), 201).map(|_| answer.json())
    });
    assert_eq!(bought.await["total_price"], 90);
    order_for(&admin, admin.id(), 1_000_002, 1).await.expect(409);
    shop.close().await;
}

async fn a_broken_message_goes_to_the_dead_letters_and_holds_nothing_up(shop: TestShop) {
    let admin = shop.admin().await;
    let mut stranger = Stranger::beside(&shop).await;
    let good = product(1_000_004, 70, 4).to_string();
    let broken: [(Option<i64>, &[u8], &str); 8] = [
        (Some(1), b"{", "the body cannot be read"),
        (Some(1), b"", "the body cannot be read"),
        (Some(1), b"\xff\xfe", "the body cannot be read"),
        (Some(1), br#"{"id": "seven"}"#, "the body cannot be read"),
        (None, good.as_bytes(), "header 'version' (int64) is missing"),
        (Some(0), good.as_bytes(), "header 'version' must be 1 or more"),
        (
            Some(1),
            br#"{"id": 5, "name": "x", "price": -1, "quantity": 1, "category_id": 1}"#,
            "price must be from 0",
        ),
        (
            Some(1),
            br#"{"id": 5, "name": "\u0000", "price": 1, "quantity": 1, "category_id": 1}"#,
            "a text contains U+0000",
        ),
    ];
    for (version, body, _) in broken {
        stranger.send("product.created", version, body).await;
    }
    stranger.publish("product.created", 1, &product(1_000_005, 1, 1)).await;
    order_for(&admin, admin.id(), 1_000_005, 1).await.expect(201);
    // Less stocked than is sold already can never be true.
    stranger.publish("product.created", 2, &product(1_000_005, 1, 0)).await;
    let letters = dead_letters(&admin, Node::Order, broken.len() + 1).await;
    // In any order: replicas park side by side.
    let parked = |payload: &Value, reason: &str| {
        letters.iter().any(|letter| {
            let said = letter["reason"].as_str().unwrap();
            said.starts_with(reason)
                && (letter["payload"] == *payload || letter["payload_base64"] == *payload)
        })
    };
    for (_, body, reason) in broken {
        let payload = json!(std::str::from_utf8(body).unwrap_or("//4="));
        assert!(parked(&payload, reason), "{payload} is not parked for '{reason}': {letters:?}");
    }
    let impossible = json!(product(1_000_005, 1, 0).to_string());
    assert!(parked(&impossible, "the new stock is less than what is already sold"), "{letters:?}");
    shop.close().await;
}

async fn a_message_that_ends_its_owner_goes_to_the_dead_letters_and_holds_nothing_up(
    shop: TestShop,
) {
    let admin = shop.admin().await;
    let mut database = shop.settings.database(Node::Order).await;
    sqlx::raw_sql(POISON).execute(&mut database).await.unwrap();
    let mut stranger = Stranger::beside(&shop).await;
    for id in 1_000_006..1_000_009 {
        stranger.publish("product.created", 1, &product(id, 1, 1)).await;
    }
    for id in [1_000_006, 1_000_008] {
        let ordered =
            async || same(order_for(&admin, admin.id(), id, 1).await.status.as_u16(), 201);
        eventually(ordered).await;
    }
    let letters = dead_letters(&admin, Node::Order, 1).await;
    assert_eq!(letters[0]["payload"], product(1_000_007, 1, 1).to_string());
    assert_eq!(letters[0]["reason"], "it crashed the actor orders at each attempt");
    shop.close().await;
}

async fn what_is_sold_leaves_the_catalogs_stock(shop: TestShop) {
    let (admin, anna) = (shop.admin().await, shop.user("anna").await);
    let (teapot, cup) = (admin.product(1990, 10).await, admin.product(300, 10).await);
    let order = anna.order(&[(&teapot, 4), (&cup, 1)]).await.expect(201);
    let item = json!({"order_item_id": order["items"][0]["id"], "quantity": 1});
    anna.put(Node::Order, &format!("/update_order/{}", order["id"]), item).await.expect(200);
    eventually(|| async { same((anna.left(&teapot).await, anna.left(&cup).await), (9, 9)) }).await;
    shop.close().await;
}

async fn a_changed_or_deleted_user_loses_the_token_on_every_node(shop: TestShop) {
    let (admin, anna) = (shop.admin().await, shop.user("anna").await);
    let role = |role| json!({"role": role});
    let path = format!("/api/v1/users/{}", anna.id());
    admin.put(Node::Auth, &format!("{path}/role"), role("ADMIN")).await.expect(200);
    let anna = anna.sign_in("anna").await;
    anna.category("hers", None).await;
    admin.put(Node::Auth, &format!("{path}/role"), role("USER")).await.expect(200);
    anna.get(Node::Auth, "/api/v1/users/me").await.expect(401);
    // Sooner than the verification cache forgets: the news of her makes it.
    let since = std::time::Instant::now();
    for (node, path) in [(Node::Catalog, "/api/v1/products"), (Node::Order, "/order/1")] {
        eventually(|| async { same(anna.get(node, path).await.status.as_u16(), 401) }).await;
    }
    assert!(since.elapsed().as_secs() < 5, "it took {:?}", since.elapsed());
    let anna = anna.sign_in("anna").await;
    anna.get(Node::Catalog, "/api/v1/products").await.expect(200);
    admin.delete(Node::Auth, &path).await.expect(200);
    anna.get(Node::Auth, "/api/v1/users/me").await.expect(401);
    eventually(|| async {
        same(anna.get(Node::Catalog, "/api/v1/products").await.status.as_u16(), 401)
    })
    .await;
    shop.close().await;
}

#[tokio::test]
async fn the_shop_starts_without_its_broker_and_catches_up_when_it_comes_back() {
    let mut broker = RabbitMq::start().await.unwrap();
    let mut settings = Settings::new(Over::RabbitMq).await;
    settings.set("SHOP__RABBITMQ__PORT", &broker.port().to_string());
    // The queues are there before it is killed: RabbitMQ 3.10 itself does not get over kill -9 within seconds of their first
    // declaration.
    let declared = settings.rabbit(broker.port()).publisher().await.unwrap();
    declared.close().await;
    broker.stop().await.unwrap();
    let shop = TestShop::with(settings).await;
    let admin = shop.admin().await;
    let teapot = admin.product(1990, 10).await;
    for node in Node::ALL {
        let detail = admin.get(node, "/health/ready").await.expect(503)["detail"].clone();
        assert_eq!(detail, "unavailable: broker");
        admin.get(node, "/health/live").await.expect(200);
    }
    broker.start_again().await.unwrap();
    for node in Node::ALL {
        eventually(|| async { same(admin.get(node, "/health/ready").await.status.as_u16(), 200) })
            .await;
    }
    let order = eventually(|| async {
        let answer = admin.order(&[(&teapot, 1)]).await;
        same(answer.status.as_u16(), 201).map(|_| answer.json())
    });
    order.await;
    broker.kill().await.unwrap();
    // Meanwhile orders are taken: the order node knows enough by itself.
    for _ in 0..5 {
        admin.order(&[(&teapot, 1)]).await.expect(201);
    }
    broker.start_again().await.unwrap();
    eventually(|| async { same(admin.left(&teapot).await, 4) }).await;
    shop.close().await;
}

#[tokio::test]
async fn an_event_that_is_committed_after_many_later_ones_is_published_all_the_same() {
    let shop = TestShop::start().await;
    let admin = shop.admin().await;
    let anna = shop.user("anna").await;
    let teapot = admin.product(5, 1_000).await;
    let order = anna.order(&[(&teapot, 1)]).await.expect(201);
    // A change of hers takes its place in the outbox and is not committed yet.
    let mut slow = shop.settings.database(Node::Auth).await;
    let begin = format!(
        "begin; update users set username = 'hannah', username_key = 'hannah', version = version + 1
                where id = '{id}';
         insert into outbox (message_id, event, version, body)
         select gen_random_uuid(), 'user_updated', version,
                json_build_object('id', id, 'username', username, 'email', email, 'role', role)
         from users where id = '{id}'",
        id = anna.id()
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(begin)).execute(&mut slow).await.unwrap();
    for name in ["boris", "clara", "dmitri", "emil"] {
        let later = shop.user(name).await;
        order_for(&admin, later.id(), teapot.id, 1).await.expect(201);
    }
    assert_eq!(buyer(&admin, &order).await["username"], "anna");
    sqlx::raw_sql("commit").execute(&mut slow).await.unwrap();
    eventually(|| async { same(buyer(&admin, &order).await["username"].clone(), json!("hannah")) })
        .await;
    shop.close().await;
}

#[tokio::test]
async fn with_auth_away_a_good_token_goes_on_working() {
    let settings = Settings::new(Over::Bus).await;
    let shop = TestShop::with(settings.clone()).await;
    let (admin, anna) = (shop.admin().await, shop.user("anna").await);
    let teapot = admin.product(5, 10).await;
    anna.order(&[(&teapot, 1)]).await.expect(201); // the news of her has arrived
    shop.close().await;
    let mut settings = settings;
    settings.set("SHOP__CATALOG__AUTH_URL", "http://127.0.0.1:9"); // nobody is there
    settings.set("SHOP__ORDER__AUTH_URL", "http://127.0.0.1:9");
    let shop = TestShop::with(settings).await;
    let anna = shop.nobody().with_token(anna.token.as_deref().unwrap());
    anna.get(Node::Catalog, "/api/v1/products").await.expect(200);
    anna.post(Node::Catalog, "/api/v1/category", json!({"name": "x"})).await.expect(403);
    shop.nobody().get(Node::Catalog, "/api/v1/products").await.expect(401);
    shop.close().await;
}

/// Copies each appended event, because the relay deletes it from the outbox.
const RECORD: &str = "
    create table recorded (event text, body text);
    create function record() returns trigger language plpgsql as
        $$begin insert into recorded values (new.event, new.body); return null; end$$;
    create trigger record after insert on outbox for each row execute function record()";

#[tokio::test]
async fn published_events_match_their_schemas() {
    let shop = TestShop::start().await;
    for node in Node::ALL {
        let mut database = shop.settings.database(node).await;
        sqlx::raw_sql(RECORD).execute(&mut database).await.unwrap();
    }
    let (admin, anna) = (shop.admin().await, shop.user("anna").await);
    let teapot = admin.product(1990, 10).await;
    let order = anna.order(&[(&teapot, 4)]).await.expect(201);
    let item = json!({"order_item_id": order["items"][0]["id"], "quantity": 1});
    anna.put(Node::Order, &format!("/update_order/{}", order["id"]), item).await.expect(200);
    let path = format!("/api/v1/users/{}", anna.id());
    let role = json!({"role": "ADMIN"});
    admin.put(Node::Auth, &format!("{path}/role"), role).await.expect(200);
    admin.delete(Node::Auth, &path).await.expect(200);

    let mut published = BTreeSet::new();
    for node in Node::ALL {
        let mut database = shop.settings.database(node).await;
        let recorded = sqlx::query_as("select event, body from recorded").fetch_all(&mut database);
        let recorded: Vec<(String, String)> = recorded.await.unwrap();
        // The bus confirms an event, which the relay then deletes, when it is applied or dead-lettered.
        eventually(async || {
            let waiting = sqlx::query_scalar("select event from outbox").fetch_all(&mut database);
            same(waiting.await.unwrap(), Vec::<String>::new())
        })
        .await;
        for (event, body) in recorded {
            let body: Value = serde_json::from_str(&body).unwrap();
            let violations = violations_of(&event, &body);
            assert!(violations.is_empty(), "{event} {body}: {violations:#?}");
            published.insert(event);
        }
    }
    let declared: BTreeSet<String> = EVENTS.iter().map(|event| event.name.to_owned()).collect();
    assert_eq!(published, declared, "publish each event in this test");
    for node in Node::ALL {
        let letters = admin.get(node, "/admin/dead-letters").await.expect(200);
        assert_eq!(letters, json!([]), "subscribe to each event");
    }
    shop.close().await;
}

#[tokio::test]
async fn every_queue_has_a_consumer_on_one_node() {
    let shop = TestShop::start().await;
    let admin = shop.admin().await;
    for queue in topology::QUEUES.iter() {
        let mut consumers = vec![];
        for node in Node::ALL {
            let path = format!("shop/{}/broker/consumer/{}", node.name(), queue.name);
            if admin.get(node, &format!("/admin/actors/{path}")).await.status.as_u16() == 200 {
                consumers.push(path);
            }
        }
        assert_eq!(consumers.len(), 1, "consumers of {}: {consumers:?}", queue.name);
    }
    shop.close().await;
}
