//! Events between the nodes and from other programs: each is applied once, whether it is repeated,
//! late or out of order.

mod external;
mod outages;

use std::collections::BTreeSet;

use serde_json::{Value, json};
use shop_messaging::topology;
use shop_persistence::events::EVENTS;
use shop_supervisor::Node;
use shop_tests::{Client, TestShop, equal, eventually};
use uuid::Uuid;

use crate::dead_letters::{CRASHING, dead_letters};
use crate::event_schemas::violations_of;
pub use external::{ExternalPublisher, message, order_for, order_now, product, user};

on_both_brokers! {
    a_user_of_another_program_can_order
    repeated_and_older_user_events_change_nothing
    an_older_event_does_not_restore_a_deleted_user
    a_product_of_another_program_can_be_ordered
    repeated_and_older_product_events_change_nothing
    an_invalid_message_is_dead_lettered_and_does_not_block_the_queue
    a_crashing_message_is_dead_lettered_and_does_not_block_the_queue
    the_catalogs_stock_follows_sales_and_changes
    a_demoted_or_deleted_user_loses_the_token_on_every_node
}

/// The user that an order shows.
async fn buyer(admin: &Client, order: &Value) -> Value {
    admin.get(Node::Order, &format!("/order/{}", order["id"])).await.expect(200)["user"].clone()
}

async fn a_user_of_another_program_can_order(shop: TestShop) {
    let admin = shop.admin().await;
    let teapot = admin.product(5, 10).await;
    let id = Uuid::new_v4().to_string();
    order_now(&admin, &id, teapot.id).await.expect(422);
    ExternalPublisher::connect(&shop)
        .await
        .publish("user_created", 1, &user(&id, "external"))
        .await;
    let order = order_for(&admin, &id, teapot.id, 1).await.expect(201);
    let shown = json!({"id": id, "username": "external", "email": "external@example.com"});
    assert_eq!(buyer(&admin, &order).await, shown);
    shop.close().await;
}

async fn repeated_and_older_user_events_change_nothing(shop: TestShop) {
    let admin = shop.admin().await;
    let teapot = admin.product(5, 10).await.id;
    let mut external = ExternalPublisher::connect(&shop).await;
    let (id, other) = (Uuid::new_v4().to_string(), Uuid::new_v4().to_string());
    external.publish("user_updated", 3, &user(&id, "third")).await; // before the creation
    external.publish("user_created", 1, &user(&id, "first")).await;
    external.publish("user_updated", 2, &user(&id, "second")).await;
    external.publish("user_updated", 3, &user(&id, "another-third")).await;
    external.publish("user_created", 1, &user(&other, "last")).await;
    // One queue keeps the order: when the last event is applied, so are the others.
    order_for(&admin, &other, teapot, 1).await.expect(201);
    let order = order_for(&admin, &id, teapot, 1).await.expect(201);
    assert_eq!(buyer(&admin, &order).await["username"], "third");
    external.publish("user_updated", 4, &user(&id, "fourth")).await;
    eventually(|| async {
        equal(buyer(&admin, &order).await["username"].clone(), json!("fourth"))
    })
    .await;
    shop.close().await;
}

async fn an_older_event_does_not_restore_a_deleted_user(shop: TestShop) {
    let admin = shop.admin().await;
    let teapot = admin.product(5, 10).await.id;
    let mut external = ExternalPublisher::connect(&shop).await;
    let (id, other) = (Uuid::new_v4().to_string(), Uuid::new_v4().to_string());
    external.publish("user_deleted", 2, &json!({"id": id})).await; // before the creation
    external.publish("user_created", 1, &user(&id, "deleted")).await;
    external.publish("user_created", 1, &user(&other, "last")).await;
    order_for(&admin, &other, teapot, 1).await.expect(201);
    assert_eq!(order_now(&admin, &id, teapot).await.invalid_fields(), ["user_id"]);
    shop.close().await;
}

async fn a_product_of_another_program_can_be_ordered(shop: TestShop) {
    let admin = shop.admin().await;
    ExternalPublisher::connect(&shop)
        .await
        .publish("product.created", 1, &product(1_000_001, 70, 4))
        .await;
    let order = order_for(&admin, admin.id(), 1_000_001, 3).await.expect(201);
    assert_eq!(
        (&order["total_price"], &order["items"][0]["product"]["name"]),
        (&json!(210), &json!("Самовар"))
    );
    order_for(&admin, admin.id(), 1_000_001, 2).await.expect(409);
    shop.close().await;
}

async fn repeated_and_older_product_events_change_nothing(shop: TestShop) {
    let admin = shop.admin().await;
    let mut external = ExternalPublisher::connect(&shop).await;
    for (version, price, quantity) in [(2, 20, 6), (1, 10, 9), (2, 20, 6), (2, 99, 9)] {
        external.publish("product.created", version, &product(1_000_002, price, quantity)).await;
    }
    external.publish("product.created", 1, &product(1_000_003, 1, 1)).await;
    order_for(&admin, admin.id(), 1_000_003, 1).await.expect(201);
    assert_eq!(order_for(&admin, admin.id(), 1_000_002, 5).await.expect(201)["total_price"], 100);
    // The newer version has 8 pieces stocked in total, of which 5 are sold.
    external.publish("product.created", 3, &product(1_000_002, 30, 8)).await;
    let order = eventually(async || {
        let response = order_for(&admin, admin.id(), 1_000_002, 3).await;
        equal(response.status.as_u16(), 201).map(|_| response.json())
    });
    assert_eq!(order.await["total_price"], 90);
    order_for(&admin, admin.id(), 1_000_002, 1).await.expect(409);
    shop.close().await;
}

async fn an_invalid_message_is_dead_lettered_and_does_not_block_the_queue(shop: TestShop) {
    let admin = shop.admin().await;
    let mut external = ExternalPublisher::connect(&shop).await;
    let valid = product(1_000_004, 70, 4).to_string();
    let invalid: [(Option<i64>, &[u8], &str); 8] = [
        (Some(1), b"{", "the body cannot be read"),
        (Some(1), b"", "the body cannot be read"),
        (Some(1), b"\xff\xfe", "the body cannot be read"),
        (Some(1), br#"{"id": "seven"}"#, "the body cannot be read"),
        (None, valid.as_bytes(), "header 'version' (int64) is missing"),
        (Some(0), valid.as_bytes(), "header 'version' must be 1 or more"),
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
    for (version, body, _) in invalid {
        external.send("product.created", version, body).await;
    }
    external.publish("product.created", 1, &product(1_000_005, 1, 1)).await;
    order_for(&admin, admin.id(), 1_000_005, 1).await.expect(201);
    // An event that stocks less than is sold cannot be applied.
    external.publish("product.created", 2, &product(1_000_005, 1, 0)).await;
    let letters = dead_letters(&admin, Node::Order, invalid.len() + 1).await;
    // In any order, because replicas dead-letter concurrently.
    let is_dead_letter = |payload: &Value, reason: &str| {
        letters.iter().any(|letter| {
            let actual = letter["reason"].as_str().unwrap();
            actual.starts_with(reason)
                && (letter["payload"] == *payload || letter["payload_base64"] == *payload)
        })
    };
    for (_, body, reason) in invalid {
        let payload = json!(std::str::from_utf8(body).unwrap_or("//4="));
        assert!(is_dead_letter(&payload, reason), "{payload} without '{reason}': {letters:?}");
    }
    let impossible = json!(product(1_000_005, 1, 0).to_string());
    assert!(
        is_dead_letter(&impossible, "the new stock is less than what is already sold"),
        "{letters:?}"
    );
    shop.close().await;
}

async fn a_crashing_message_is_dead_lettered_and_does_not_block_the_queue(shop: TestShop) {
    let admin = shop.admin().await;
    let mut database = shop.settings.database(Node::Order).await;
    sqlx::raw_sql(CRASHING).execute(&mut database).await.unwrap();
    let mut external = ExternalPublisher::connect(&shop).await;
    for id in 1_000_006..1_000_009 {
        external.publish("product.created", 1, &product(id, 1, 1)).await;
    }
    for id in [1_000_006, 1_000_008] {
        let ordered =
            async || equal(order_for(&admin, admin.id(), id, 1).await.status.as_u16(), 201);
        eventually(ordered).await;
    }
    let letters = dead_letters(&admin, Node::Order, 1).await;
    assert_eq!(letters[0]["payload"], product(1_000_007, 1, 1).to_string());
    assert_eq!(letters[0]["reason"], "it crashed the actor orders at each attempt");
    shop.close().await;
}

async fn the_catalogs_stock_follows_sales_and_changes(shop: TestShop) {
    let (admin, anna) = (shop.admin().await, shop.user("anna").await);
    let (teapot, cup) = (admin.product(1990, 10).await, admin.product(300, 10).await);
    let order = anna.order(&[(&teapot, 4), (&cup, 1)]).await.expect(201);
    let item = json!({"order_item_id": order["items"][0]["id"], "quantity": 1});
    anna.put(Node::Order, &format!("/update_order/{}", order["id"]), item).await.expect(200);
    eventually(|| async { equal((anna.stock(&teapot).await, anna.stock(&cup).await), (9, 9)) })
        .await;
    shop.close().await;
}

async fn a_demoted_or_deleted_user_loses_the_token_on_every_node(shop: TestShop) {
    let (admin, anna) = (shop.admin().await, shop.user("anna").await);
    let role = |role| json!({"role": role});
    let path = format!("/api/v1/users/{}", anna.id());
    admin.put(Node::Auth, &format!("{path}/role"), role("ADMIN")).await.expect(200);
    let anna = anna.log_in("anna").await;
    anna.category("tea", None).await;
    admin.put(Node::Auth, &format!("{path}/role"), role("USER")).await.expect(200);
    anna.get(Node::Auth, "/api/v1/users/me").await.expect(401);
    // The event evicts the cached verification before it expires.
    let since = std::time::Instant::now();
    for (node, path) in [(Node::Catalog, "/api/v1/products"), (Node::Order, "/order/1")] {
        eventually(|| async { equal(anna.get(node, path).await.status.as_u16(), 401) }).await;
    }
    assert!(since.elapsed().as_secs() < 5, "it took {:?}", since.elapsed());
    let anna = anna.log_in("anna").await;
    anna.get(Node::Catalog, "/api/v1/products").await.expect(200);
    admin.delete(Node::Auth, &path).await.expect(200);
    anna.get(Node::Auth, "/api/v1/users/me").await.expect(401);
    eventually(|| async {
        equal(anna.get(Node::Catalog, "/api/v1/products").await.status.as_u16(), 401)
    })
    .await;
    shop.close().await;
}

/// Records each appended event: the relay deletes it from the outbox.
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
        // The bus confirms an event, which the relay then deletes, when it is applied or
        // dead-lettered.
        eventually(async || {
            let waiting = sqlx::query_scalar("select event from outbox").fetch_all(&mut database);
            equal(waiting.await.unwrap(), Vec::<String>::new())
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
