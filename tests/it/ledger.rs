//! The ledger: reconciliation compares the three nodes and names every difference.

use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};
use shop_supervisor::Node;
use shop_supervisor::commands::verify;
use shop_tests::{BrokerKind, Client, Folder, SECRET, Settings, TestShop, sign};

use crate::flow::buy;

/// How long reconciliation waits for events under way.
const EVENT_TIMEOUT: Duration = Duration::from_secs(3);

/// The ledger as a node reports it. Every node reports the same.
async fn ledger(admin: &Client, node: Node) -> Value {
    admin.get(node, "/admin/ledger?timeout_ms=3000").await.expect(200)
}

/// The differences that all nodes and `shop verify` report.
async fn differences(shop: &TestShop, admin: &Client) -> Vec<String> {
    let lines = |ledger: &Value| -> Vec<String> {
        let line = |of: &Value| format!("{}: {}", of["subject"], of["detail"]).replace('"', "");
        let lines: Vec<String> =
            ledger["differences"].as_array().unwrap().iter().map(line).collect();
        assert_eq!(ledger["balanced"], lines.is_empty(), "{ledger}");
        lines
    };
    let verified = verify::verify(&shop.settings.config(), EVENT_TIMEOUT).await.unwrap();
    let verified_lines: Vec<_> = verified.differences.iter().map(ToString::to_string).collect();
    for node in Node::ALL {
        assert_eq!(lines(&ledger(admin, node).await), verified_lines, "{node:?}");
    }
    for line in &verified_lines {
        assert!(verified.to_string().contains(line), "the table contains it: {verified}");
    }
    verified_lines
}

async fn change(shop: &TestShop, node: Node, statement: &'static str) {
    let changed = sqlx::query(statement).execute(&mut shop.settings.database(node).await).await;
    assert_eq!(changed.unwrap().rows_affected(), 1, "{statement}");
}

#[tokio::test]
async fn a_shop_without_differences_is_balanced_on_the_bus() {
    check_balance(BrokerKind::Bus).await;
}

#[tokio::test]
async fn a_shop_without_differences_is_balanced_on_rabbitmq() {
    check_balance(BrokerKind::RabbitMq).await;
}

async fn check_balance(broker: BrokerKind) {
    let shop = TestShop::start_on(broker).await;
    let admin = shop.admin().await;
    assert_eq!(differences(&shop, &admin).await, [""; 0], "there are no orders yet");
    buy(shop.anonymous()).await;
    let bob = shop.user("bob").await;
    admin.delete(Node::Auth, &format!("/api/v1/users/{}", bob.id())).await.expect(200);
    assert_eq!(differences(&shop, &admin).await, [""; 0]);

    let ledger = ledger(&admin, Node::Order).await;
    assert_eq!(ledger["products_in_all"], 1);
    let teapot = &ledger["products"][0];
    assert_eq!(teapot["name"], "Синий чайник");
    for node in ["catalog", "order"] {
        assert_eq!((&teapot[node]["stocked"], &teapot[node]["left"]), (&json!(10), &json!(5)));
    }
    let users: Vec<_> =
        ledger["copies"].as_array().unwrap().iter().filter(|of| of["what"] == "users").collect();
    assert_eq!(users.len(), 3);
    for copy in users {
        assert_eq!(
            (&copy["count"], &copy["checksum"]),
            (&json!(2), &ledger["copies"][2]["checksum"])
        );
    }
    shop.close().await;
}

#[tokio::test]
async fn a_difference_of_one_piece_is_found() {
    let shop = TestShop::start().await;
    let admin = shop.admin().await;
    let teapot = admin.product(1990, 37).await;
    let cup = admin.product(300, 10).await;
    let anna = shop.user("anna").await;
    anna.order(&[(&teapot, 1), (&cup, 2)]).await.expect(201);
    assert_eq!(differences(&shop, &admin).await, [""; 0]);

    for (node, damage, repair, expected) in [
        (
            Node::Catalog,
            "update products set storage_quantity = storage_quantity + 1 where id = 1",
            "update products set storage_quantity = storage_quantity - 1 where id = 1",
            "product 1: the catalog shows 37 left, its movements add up to 36",
        ),
        (
            Node::Order,
            "update products set quantity = quantity - 1 where id = 2",
            "update products set quantity = quantity + 1 where id = 2",
            "product 2: the order node shows 7 left, its movements add up to 8",
        ),
    ] {
        change(&shop, node, damage).await;
        assert_eq!(differences(&shop, &admin).await, [expected]);
        change(&shop, node, repair).await;
    }
    assert_eq!(differences(&shop, &admin).await, [""; 0]);

    // The catalog loses a sale together with its piece.
    change(&shop, Node::Catalog, "update products set storage_quantity = 37 where id = 1").await;
    change(&shop, Node::Catalog, "delete from stock_movements where product_id = 1 and delta < 0")
        .await;
    let found = differences(&shop, &admin).await;
    assert_eq!(
        found,
        ["product 1: 0 sold by the catalog's movements, 1 by the order node's"],
        "the sale's event should have arrived"
    );
    shop.close().await;
}

#[tokio::test]
async fn a_wrong_total_a_wrong_copy_and_a_wrong_item_are_found() {
    let shop = TestShop::start().await;
    let admin = shop.admin().await;
    let anna = shop.user("anna").await;
    let teapot = admin.product(1990, 37).await;
    anna.order(&[(&teapot, 2)]).await.expect(201);
    assert_eq!(differences(&shop, &admin).await, [""; 0]);

    change(&shop, Node::Order, "update orders set total_price = total_price - 1").await;
    change(&shop, Node::Catalog, "update customers set role = 'ADMIN' where username = 'anna'")
        .await;
    change(&shop, Node::Order, "delete from customers where username = 'admin'").await;
    let found = differences(&shop, &admin).await;
    let (email, anna, admin_id) = (&anna.user().email, anna.id(), admin.id());
    assert_eq!(
        found,
        [
            format!("user {admin_id}: the auth node has it, the order node does not"),
            format!(
                "user {anna}: the auth node says anna <{email}> User, the catalog anna <{email}> Admin"
            ),
            "order 1: it says 2 pieces for 3979, its items add up to 2 for 3980".to_owned(),
        ]
    );
    shop.close().await;
}

#[tokio::test]
async fn an_old_event_in_an_outbox_is_found_while_the_shop_is_stopped() {
    let shop = TestShop::start().await;
    let settings = shop.settings.clone();
    shop.close().await;
    let balanced = verify::verify(&settings.config(), EVENT_TIMEOUT).await.unwrap();
    assert!(balanced.balanced, "{balanced}");

    let old = "
        insert into outbox (message_id, event, body, created_at)
        values (gen_random_uuid(), 'stock.moved', '{}', now() - interval '75 seconds')";
    sqlx::query(old).execute(&mut settings.database(Node::Order).await).await.unwrap();
    let ledger = verify::verify(&settings.config(), Duration::ZERO).await.unwrap();
    let said = ledger.differences.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(said.len(), 1, "{ledger}");
    let begin = "outbox of the order node: 1 events wait for the broker, the oldest for 7";
    assert!(said[0].starts_with(begin), "{said:?}");
}

/// The key of node tokens, which is derived from the configured secret.
fn node_key(secret: &str) -> String {
    let key = EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::crypto::sign(b"shop node tokens v1", &key, Algorithm::HS256).expect("a key")
}

#[tokio::test]
async fn only_administrators_and_nodes_read_ledger_and_snapshots() {
    let shop = TestShop::start().await;
    let (admin, anna) = (shop.admin().await, shop.user("anna").await);
    let exp = 4_000_000_000_u64;
    let node = json!({"sub": "order", "aud": "shop-node", "exp": exp});
    let of_node = shop.anonymous().with_token(&sign(&node, Algorithm::HS256, &node_key(SECRET)));
    let other = node_key("another secret that is long enough");
    let of_stranger = shop.anonymous().with_token(&sign(&node, Algorithm::HS256, &other));
    let with_user_key = shop.anonymous().with_token(&sign(&node, Algorithm::HS256, SECRET));
    let mut both = admin.claims();
    both["aud"] = json!("shop-node");
    let of_both = shop.anonymous().with_token(&sign(&both, Algorithm::HS256, SECRET));
    for reader in Node::ALL {
        shop.anonymous().get(reader, "/admin/ledger").await.expect(401);
        anna.get(reader, "/admin/ledger").await.expect(403);
        of_node.get(reader, "/admin/ledger").await.expect(401);
        of_both.get(reader, "/admin/ledger").await.expect(401);
        for table in ["users", "products", "movements", "summary"] {
            let path = format!("/admin/snapshot/{table}");
            shop.anonymous().get(reader, &path).await.expect(401);
            of_stranger.get(reader, &path).await.expect(401);
            with_user_key.get(reader, &path).await.expect(401);
            anna.get(reader, &path).await.expect(403);
            admin.get(reader, &path).await.expect(200);
            of_node.get(reader, &path).await.expect(200);
        }
    }
    let path = "/api/v1/users/me";
    of_node.get(Node::Auth, path).await.expect(401);
    let token = json!({"token": of_node.token});
    let verified =
        shop.anonymous().post(Node::Auth, "/api/v1/auth/verify", token).await.expect(200);
    assert_eq!(verified["valid"], false);
    shop.close().await;
}

#[tokio::test]
async fn snapshots_are_paged() {
    let shop = TestShop::start().await;
    let admin = shop.admin().await;
    for name in ["anna", "bob", "carla"] {
        shop.user(name).await;
    }
    let whole = admin.get(Node::Auth, "/admin/snapshot/users").await.expect(200);
    assert_eq!(whole.as_array().map(Vec::len), Some(4));
    let mut after = String::new();
    for person in whole.as_array().unwrap() {
        let page = format!("/admin/snapshot/users?limit=1{after}");
        let page = admin.get(Node::Auth, &page).await.expect(200);
        assert_eq!(page, json!([person]));
        after = format!("&after={}", person["id"].as_str().unwrap());
    }
    let last = admin.get(Node::Auth, &format!("/admin/snapshot/users?limit=1{after}")).await;
    assert_eq!(last.expect(200), json!([]));
    for bad in ["after=x", "limit=x", "limit="] {
        admin.get(Node::Auth, &format!("/admin/snapshot/users?{bad}")).await.expect(400);
    }
    shop.close().await;
}

#[tokio::test]
async fn an_unreachable_node_is_named() {
    let mut settings = Settings::new(BrokerKind::Bus).await;
    settings.set("SHOP__CLUSTER__ORDER_URL", "http://127.0.0.1:9");
    let shop = TestShop::start_with(settings).await;
    let admin = shop.admin().await;
    let problem = admin.get(Node::Catalog, "/admin/ledger").await.expect(503);
    assert!(
        problem["detail"].as_str().unwrap().contains("the order node does not respond"),
        "{problem}"
    );
    // The order node itself reads its own database.
    admin.get(Node::Order, "/admin/ledger").await.expect(200);
    shop.close().await;
}

#[tokio::test]
async fn verify_creates_no_database_and_names_a_missing_one() {
    let settings = Settings::new(BrokerKind::Bus).await;
    let refused = verify::verify(&settings.config(), EVENT_TIMEOUT).await.unwrap_err().to_string();
    assert!(refused.contains("auth.database") && refused.contains("does not exist"), "{refused}");

    let folder = Folder::new("shop-nothing").unwrap();
    let mut embedded = settings.clone();
    embedded.set("SHOP__EMBEDDED__POSTGRES", "true");
    embedded.set("SHOP__EMBEDDED__DIRECTORY", folder.path().to_str().unwrap());
    let refused = verify::verify(&embedded.config(), EVENT_TIMEOUT).await.unwrap_err().to_string();
    assert!(refused.contains("no shop has run on the data in"), "{refused}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);

    TestShop::start_with(settings.clone()).await.close().await;
    let mut order = settings.database(Node::Order).await;
    sqlx::raw_sql("drop schema public cascade; create schema public")
        .execute(&mut order)
        .await
        .unwrap();
    let refused = verify::verify(&settings.config(), EVENT_TIMEOUT).await.unwrap_err().to_string();
    assert!(refused.contains("does not have the tables of the order node"), "{refused}");
}
