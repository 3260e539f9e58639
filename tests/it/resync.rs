//! Resync: replicated tables that are lost or new are rebuilt from their source while events
//! arrive.

use std::time::Duration;

use serde_json::json;
use shop_supervisor::Node;
use shop_supervisor::commands::{resync, verify};
use shop_tests::api::Product;
use shop_tests::{BrokerKind, Settings, TestShop, equal, eventually};
use sqlx::Connection;
use uuid::Uuid;

use crate::events::{ExternalPublisher, order_for, order_now, user};

/// Runs `shop resync` and returns its output.
async fn request_resync(settings: &Settings, nodes: &[Node]) -> Vec<String> {
    let output = std::sync::Mutex::new(vec![]);
    let print = |line| output.lock().unwrap().push(line);
    resync::resync(&settings.config(), nodes, print).await.unwrap();
    output.into_inner().unwrap()
}

/// Executes a statement on a node's database.
async fn execute(settings: &Settings, node: Node, statement: &'static str) {
    sqlx::raw_sql(statement).execute(&mut settings.database(node).await).await.unwrap();
}

/// Waits until the ledger of all nodes is balanced.
async fn balanced(settings: &Settings) -> verify::Ledger {
    let ledger = verify::verify(&settings.config(), Duration::from_secs(10)).await.unwrap();
    assert!(ledger.balanced, "{ledger}");
    ledger
}

/// The order node's quantity of a product; `None` before its event or a resync.
async fn order_stock(settings: &Settings, product: &Product) -> Option<i64> {
    let mut database = settings.database(Node::Order).await;
    let quantity = "select quantity from products where id = $1 and version > 0";
    let quantity = sqlx::query_scalar(quantity).bind(product.id);
    quantity.fetch_optional(&mut database).await.unwrap()
}

/// Waits for the resync of the first start, so that the test observes only the requested ones.
async fn first_resync(settings: &Settings) {
    for node in [Node::Catalog, Node::Order] {
        let done = "select count(*) from resyncs where done_at is not null";
        let mut database = settings.database(node).await;
        eventually(async || {
            let done: i64 = sqlx::query_scalar(done).fetch_one(&mut database).await.unwrap();
            equal(done > 0, true)
        })
        .await;
    }
}

const EMPTY: &str = "truncate customers, products, stock_movements, orders, order_items";

on_both_brokers! {
    an_emptied_order_database_is_rebuilt
}

async fn an_emptied_order_database_is_rebuilt(shop: TestShop) {
    let settings = &shop.settings;
    first_resync(settings).await;
    let admin = shop.admin().await;
    let (anna, bob) = (shop.user("anna").await, shop.user("bob").await);
    let teapot = admin.product(1990, 10).await;
    let order = anna.order(&[(&teapot, 3)]).await.expect(201);
    let path = format!("/update_order/{}", order["id"]);
    let less = json!({"order_item_id": order["items"][0]["id"], "quantity": 2});
    anna.put(Node::Order, &path, less).await.expect(200);
    eventually(async || equal(admin.stock(&teapot).await, 8)).await;

    execute(settings, Node::Order, EMPTY).await;
    // The event of this deletion finds no customer. The resync must not restore the user.
    admin.delete(Node::Auth, &format!("/api/v1/users/{}", bob.id())).await.expect(200);
    let requests = async {
        let mut cups = vec![];
        for number in 0..10 {
            let client = shop.user(&format!("customer-{number}")).await;
            let cup = admin.product(300, 5).await;
            eventually(async || equal(client.order(&[(&cup, 2)]).await.status.as_u16(), 201)).await;
            cups.push(cup);
        }
        cups
    };
    let (output, cups) = tokio::join!(request_resync(settings, &[Node::Order]), requests);
    assert_eq!(output.first().map(String::as_str), Some("order: requested"));
    assert!(output.last().unwrap().starts_with("order: done: "), "{output:?}");

    assert_eq!(order_stock(settings, &teapot).await, Some(8));
    anna.order(&[(&teapot, 9)]).await.expect(409);
    let again = anna.order(&[(&teapot, 8)]).await.expect(201);
    assert!(again["id"].as_i64() > order["id"].as_i64(), "order ids are not reused");
    for cup in &cups {
        assert_eq!(order_stock(settings, cup).await, Some(3));
        eventually(async || equal(admin.stock(cup).await, 3)).await;
    }
    eventually(async || equal(admin.stock(&teapot).await, 0)).await;
    let ledger = balanced(settings).await;
    assert!(ledger.notes[0].starts_with("2 pieces were sold to orders that"), "{ledger}");

    // A second resync changes nothing.
    request_resync(settings, &[Node::Catalog, Node::Order]).await;
    assert_eq!(order_stock(settings, &teapot).await, Some(0));
    assert_eq!(balanced(settings).await.notes, ledger.notes);
    shop.close().await;
}

#[tokio::test]
async fn an_order_node_on_a_new_database_resyncs_at_its_start() {
    let shop = TestShop::start().await;
    let mut settings = shop.settings.clone();
    let admin = shop.admin().await;
    let anna = shop.user("anna").await;
    let teapot = admin.product(1990, 10).await;
    let first = anna.order(&[(&teapot, 3)]).await.expect(201);
    eventually(async || equal(admin.stock(&teapot).await, 7)).await;
    shop.close().await;

    let name = format!("{}order_new", settings.prefix);
    settings.set("SHOP__ORDER__DATABASE__NAME", &name);
    let shop = TestShop::start_with(settings).await;
    let anna = anna.at(shop.urls());
    eventually(async || equal(order_stock(&shop.settings, &teapot).await, Some(7))).await;
    anna.order(&[(&teapot, 8)]).await.expect(409);
    let second = anna.order(&[(&teapot, 7)]).await.expect(201);
    assert_ne!(second["id"], first["id"], "order ids are not reused");
    balanced(&shop.settings).await;
    shop.close().await;
}

#[tokio::test]
async fn a_user_that_the_auth_node_lacks_survives_the_first_resync_but_not_a_requested_one() {
    let shop = TestShop::start().await;
    let settings = &shop.settings;
    first_resync(settings).await;
    let admin = shop.admin().await;
    let teapot = admin.product(1990, 10).await.id;
    let id = Uuid::new_v4().to_string(); // unknown to the auth node
    ExternalPublisher::connect(&shop)
        .await
        .publish("user_created", 1, &user(&id, "external"))
        .await;
    order_for(&admin, &id, teapot, 1).await.expect(201);

    execute(settings, Node::Order, "truncate resyncs").await; // the next resync is the first
    first_resync(settings).await;
    order_now(&admin, &id, teapot).await.expect(201);

    request_resync(settings, &[Node::Order]).await;
    assert_eq!(order_now(&admin, &id, teapot).await.invalid_fields(), ["user_id"]);
    shop.close().await;
}

#[tokio::test]
async fn an_order_database_restored_from_a_backup_does_not_resell_stock() {
    let shop = TestShop::start().await;
    let admin = shop.admin().await;
    let (anna, bob) = (shop.user("anna").await, shop.user("bob").await);
    let teapot = admin.product(1990, 10).await;
    anna.order(&[(&teapot, 2)]).await.expect(201);
    let settings = shop.settings.clone();
    shop.close().await;

    let backup = copy(&settings, "backup").await;
    let shop = TestShop::start_with(settings.clone()).await;
    let (admin, anna) = (admin.at(shop.urls()), anna.at(shop.urls()));
    let newest = anna.order(&[(&teapot, 5)]).await.expect(201);
    admin.delete(Node::Auth, &format!("/api/v1/users/{}", bob.id())).await.expect(200);
    let cup = admin.product(300, 5).await;
    anna.order(&[(&cup, 1)]).await.expect(201);
    eventually(async || equal(admin.stock(&teapot).await, 3)).await;
    eventually(async || equal(admin.stock(&cup).await, 4)).await;
    shop.close().await;

    let mut settings = settings;
    settings.set("SHOP__ORDER__DATABASE__NAME", &backup);
    assert_eq!(
        order_stock(&settings, &teapot).await,
        Some(8),
        "the backup is older than the last orders"
    );
    let shop = TestShop::start_with(settings).await;
    let anna = anna.at(shop.urls());
    // The node resyncs by itself: the catalog has sales that the backup lacks.
    eventually(async || equal(order_stock(&shop.settings, &teapot).await, Some(3))).await;
    eventually(async || equal(order_stock(&shop.settings, &cup).await, Some(4))).await;
    anna.order(&[(&teapot, 4)]).await.expect(409);
    let last = anna.order(&[(&teapot, 3)]).await.expect(201);
    assert!(last["id"].as_i64() > newest["id"].as_i64(), "order ids are not reused");
    let ledger = balanced(&shop.settings).await;
    assert!(ledger.notes[0].starts_with("6 pieces were sold to orders that"), "{ledger}");
    shop.close().await;
}

/// Copies the order node's database. No node may be running.
async fn copy(settings: &Settings, name: &str) -> String {
    let config = settings.config();
    let (old, new) = (&config.order.database.name, format!("{}{name}", settings.prefix));
    let mut connection = settings.database(Node::Auth).await;
    let copy = format!("create database \"{new}\" template \"{old}\"");
    eventually(async || {
        let copied =
            sqlx::raw_sql(sqlx::AssertSqlSafe(copy.clone())).execute(&mut connection).await;
        copied.map_err(|error| error.to_string())
    })
    .await;
    connection.close().await.unwrap();
    new
}

#[tokio::test]
async fn an_oversale_before_the_resync_is_reported_and_stops_further_sales() {
    let shop = TestShop::start().await;
    let settings = &shop.settings;
    first_resync(settings).await;
    let admin = shop.admin().await;
    let anna = shop.user("anna").await;
    let teapot = admin.product(1990, 10).await;
    anna.order(&[(&teapot, 6)]).await.expect(201);
    eventually(async || equal(admin.stock(&teapot).await, 4)).await;
    let restored = "
        delete from order_items; delete from orders;
        delete from stock_movements where kind <> 'stocked'; update products set quantity = stocked";
    execute(settings, Node::Order, restored).await;
    anna.order(&[(&teapot, 7)]).await.expect(201);
    request_resync(settings, &[Node::Order]).await;

    assert_eq!(order_stock(settings, &teapot).await, Some(-3));
    anna.order(&[(&teapot, 1)]).await.expect(409);
    eventually(async || equal(admin.stock(&teapot).await, -3)).await;
    let ledger = verify::verify(&settings.config(), Duration::from_secs(2)).await.unwrap();
    let differences = ledger.differences.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(
        differences,
        [
            "product 1: the catalog shows -3 left: more was sold than stocked",
            "product 1: the order node shows -3 left: more was sold than stocked"
        ]
    );
    shop.close().await;
}

#[tokio::test]
async fn a_change_that_a_backup_lacks_keeps_its_movement_and_is_reported() {
    let shop = TestShop::start().await;
    let settings = &shop.settings;
    first_resync(settings).await;
    let admin = shop.admin().await;
    let anna = shop.user("anna").await;
    let teapot = admin.product(1990, 10).await;
    let order = anna.order(&[(&teapot, 2)]).await.expect(201);
    let more = json!({"order_item_id": order["items"][0]["id"], "quantity": 5});
    anna.put(Node::Order, "/update_order/1", more).await.expect(200);
    eventually(async || equal(admin.stock(&teapot).await, 5)).await;
    let restored = "
        delete from stock_movements where delta = -3; update products set quantity = 8;
        update order_items set product_quantity = 2;
        update orders set total_quantity = 2, total_price = 3980";
    execute(settings, Node::Order, restored).await;
    request_resync(settings, &[Node::Order]).await;
    assert_eq!(order_stock(settings, &teapot).await, Some(5));
    let ledger = verify::verify(&settings.config(), Duration::from_secs(2)).await.unwrap();
    let differences = ledger.differences.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(differences, ["product 1: orders name 2 pieces, their movements took 5"]);
    shop.close().await;
}

#[tokio::test]
async fn one_of_two_replicas_resyncs_and_both_sell_the_remaining_stock() {
    let settings = Settings::new(BrokerKind::RabbitMq).await;
    let shops = [
        TestShop::start_with(settings.clone()).await,
        TestShop::start_with(settings.clone()).await,
    ];
    first_resync(&settings).await;
    let admin = shops[0].admin().await;
    let teapot = admin.product(1990, 10).await;
    let anna = shops[1].user("anna").await;
    let ids: Vec<i64> = {
        let mut database = settings.database(Node::Order).await;
        sqlx::query_scalar("select id from resyncs").fetch_all(&mut database).await.unwrap()
    };
    assert_eq!(ids.len(), 1, "the replicas share the first resync");
    eventually(async || equal(anna.order(&[(&teapot, 1)]).await.status.as_u16(), 201)).await;
    eventually(async || equal(admin.stock(&teapot).await, 9)).await;

    execute(&settings, Node::Order, EMPTY).await;
    execute(&settings, Node::Catalog, "truncate customers").await;
    request_resync(&settings, &[Node::Catalog, Node::Order]).await;
    let clients = shops.each_ref().map(|shop| anna.at(shop.urls()));
    let placed = futures::future::join_all((0..20).map(|n| {
        let items = [(&teapot, 1)];
        let client = &clients[n % 2];
        async move { client.order(&items).await.status.as_u16() }
    }));
    assert_eq!(placed.await.iter().filter(|status| **status == 201).count(), 9);
    balanced(&settings).await;
    for shop in shops {
        shop.close().await;
    }
}

#[tokio::test]
async fn a_resync_waits_for_an_unavailable_source_and_records_the_failure() {
    let mut settings = Settings::new(BrokerKind::Bus).await;
    settings.set("SHOP__CLUSTER__CATALOG_URL", "http://127.0.0.1:9");
    let shop = TestShop::start_with(settings).await;
    let mut settings = shop.settings.clone();
    let mut database = settings.database(Node::Order).await;
    let anna = shop.user("anna").await;
    let teapot = shop.admin().await.product(1990, 10).await;
    // The node serves requests meanwhile.
    anna.order(&[(&teapot, 1)]).await.expect(201);
    eventually(async || equal(shop.admin().await.stock(&teapot).await, 9)).await;
    execute(&settings, Node::Order, EMPTY).await;
    eventually(async || {
        let trouble = "select coalesce(max(trouble), '') from resyncs where done_at is null";
        let trouble: String = sqlx::query_scalar(trouble).fetch_one(&mut database).await.unwrap();
        equal(trouble, "the catalog node does not respond; try again in a moment".to_owned())
    })
    .await;
    shop.close().await;

    // The next start completes the resync.
    settings.set("SHOP__CLUSTER__CATALOG_URL", "");
    let shop = TestShop::start_with(settings).await;
    eventually(async || equal(order_stock(&shop.settings, &teapot).await, Some(9))).await;
    balanced(&shop.settings).await;
    shop.close().await;
}

#[tokio::test]
async fn a_resync_without_a_running_node_fails() {
    let shop = TestShop::start().await;
    let settings = shop.settings.clone();
    shop.close().await;
    let error = resync::resync(&settings.config(), &[Node::Order], drop).await.unwrap_err();
    assert!(error.to_string().contains("no running node works on the request"), "{error}");
}
