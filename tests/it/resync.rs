//! Resync: copies that were lost, or never there, are made anew from their source, while events keep flowing.

use std::time::Duration;

use serde_json::json;
use shop_supervisor::Node;
use shop_supervisor::commands::{resync, verify};
use shop_tests::api::Product;
use sqlx::Connection;
use uuid::Uuid;

use crate::events::{Stranger, order_for, order_now, user};
use crate::shop::{Over, Settings, TestShop, eventually, same};

/// What `shop resync` prints.
async fn ask(settings: &Settings, nodes: &[Node]) -> Vec<String> {
    let said = std::sync::Mutex::new(vec![]);
    let say = |line| said.lock().unwrap().push(line);
    resync::resync(&settings.config(), nodes, say).await.unwrap();
    said.into_inner().unwrap()
}

async fn run(settings: &Settings, node: Node, statement: &'static str) {
    sqlx::raw_sql(statement).execute(&mut settings.database(node).await).await.unwrap();
}

async fn balanced(settings: &Settings) -> verify::Ledger {
    let ledger = verify::verify(&settings.config(), Duration::from_secs(10)).await.unwrap();
    assert!(ledger.balanced, "{ledger}");
    ledger
}

/// What the order node has left to sell.
async fn for_sale(settings: &Settings, product: &Product) -> Option<i64> {
    let mut database = settings.database(Node::Order).await;
    let quantity = "select quantity from products where id = $1 and version > 0";
    let quantity = sqlx::query_scalar(quantity).bind(product.id);
    quantity.fetch_optional(&mut database).await.unwrap()
}

/// Waits until the resync of the first start is done, so that only what is asked for is seen.
async fn settle(settings: &Settings) {
    for node in [Node::Catalog, Node::Order] {
        let done = "select count(*) from resyncs where done_at is not null";
        let mut database = settings.database(node).await;
        eventually(async || {
            let done: i64 = sqlx::query_scalar(done).fetch_one(&mut database).await.unwrap();
            same(done > 0, true)
        })
        .await;
    }
}

const EMPTY: &str = "truncate customers, products, stock_movements, orders, order_items";

#[tokio::test]
async fn an_emptied_order_database_is_made_anew_on_the_bus() {
    make_anew(Over::Bus).await;
}

#[tokio::test]
async fn an_emptied_order_database_is_made_anew_over_rabbitmq() {
    make_anew(Over::RabbitMq).await;
}

async fn make_anew(over: Over) {
    let shop = TestShop::over(over).await;
    let settings = &shop.settings;
    settle(settings).await;
    let admin = shop.admin().await;
    let (anna, bob) = (shop.user("anna").await, shop.user("bob").await);
    let teapot = admin.product(1990, 10).await;
    let order = anna.order(&[(&teapot, 3)]).await.expect(201);
    let path = format!("/update_order/{}", order["id"]);
    let less = json!({"order_item_id": order["items"][0]["id"], "quantity": 2});
    anna.put(Node::Order, &path, less).await.expect(200);
    eventually(async || same(admin.left(&teapot).await, 8)).await;

    run(settings, Node::Order, EMPTY).await;
    // Who leaves while the news finds nobody is not brought back by what is copied.
    admin.delete(Node::Auth, &format!("/api/v1/users/{}", bob.id())).await.expect(200);
    let meanwhile = async {
        let mut cups = vec![];
        for number in 0..10 {
            let client = shop.user(&format!("customer-{number}")).await;
            let cup = admin.product(300, 5).await;
            eventually(async || same(client.order(&[(&cup, 2)]).await.status.as_u16(), 201)).await;
            cups.push(cup);
        }
        cups
    };
    let (said, cups) = tokio::join!(ask(settings, &[Node::Order]), meanwhile);
    assert_eq!(said.first().map(String::as_str), Some("order: requested"));
    assert!(said.last().unwrap().starts_with("order: done: "), "{said:?}");

    assert_eq!(for_sale(settings, &teapot).await, Some(8));
    anna.order(&[(&teapot, 9)]).await.expect(409);
    let again = anna.order(&[(&teapot, 8)]).await.expect(201);
    assert!(again["id"].as_i64() > order["id"].as_i64(), "a number is given out once");
    for cup in &cups {
        assert_eq!(for_sale(settings, cup).await, Some(3));
        eventually(async || same(admin.left(cup).await, 3)).await;
    }
    eventually(async || same(admin.left(&teapot).await, 0)).await;
    let ledger = balanced(settings).await;
    assert!(ledger.notes[0].starts_with("2 pieces were sold to orders that"), "{ledger}");

    // Once more changes nothing.
    ask(settings, &[Node::Catalog, Node::Order]).await;
    assert_eq!(for_sale(settings, &teapot).await, Some(0));
    assert_eq!(balanced(settings).await.notes, ledger.notes);
    shop.close().await;
}

#[tokio::test]
async fn an_order_node_on_a_new_database_comes_to_the_same_copies_by_itself() {
    let shop = TestShop::start().await;
    let mut settings = shop.settings.clone();
    let admin = shop.admin().await;
    let anna = shop.user("anna").await;
    let teapot = admin.product(1990, 10).await;
    let first = anna.order(&[(&teapot, 3)]).await.expect(201);
    eventually(async || same(admin.left(&teapot).await, 7)).await;
    shop.close().await;

    let name = format!("{}order_new", settings.prefix);
    settings.set("SHOP__ORDER__DATABASE__NAME", &name);
    let shop = TestShop::with(settings).await;
    let anna = anna.at(shop.urls());
    eventually(async || same(for_sale(&shop.settings, &teapot).await, Some(7))).await;
    anna.order(&[(&teapot, 8)]).await.expect(409);
    let second = anna.order(&[(&teapot, 7)]).await.expect(201);
    assert_ne!(second["id"], first["id"], "a number is given out once");
    balanced(&shop.settings).await;
    shop.close().await;
}

#[tokio::test]
async fn whoever_was_heard_of_before_the_first_resync_stays_and_is_gone_after_one_that_was_asked_for()
 {
    let shop = TestShop::start().await;
    let settings = &shop.settings;
    settle(settings).await;
    let admin = shop.admin().await;
    let teapot = admin.product(1990, 10).await.id;
    let id = Uuid::new_v4().to_string(); // of whom the auth node knows nothing
    Stranger::beside(&shop).await.publish("user_created", 1, &user(&id, "stranger")).await;
    order_for(&admin, &id, teapot, 1).await.expect(201);

    run(settings, Node::Order, "truncate resyncs").await; // as if none had been done yet
    settle(settings).await;
    order_now(&admin, &id, teapot).await.expect(201);

    ask(settings, &[Node::Order]).await;
    assert_eq!(order_now(&admin, &id, teapot).await.broken_fields(), ["user_id"]);
    shop.close().await;
}

#[tokio::test]
async fn an_order_database_restored_from_an_old_backup_sells_nothing_again() {
    let shop = TestShop::start().await;
    let admin = shop.admin().await;
    let (anna, bob) = (shop.user("anna").await, shop.user("bob").await);
    let teapot = admin.product(1990, 10).await;
    anna.order(&[(&teapot, 2)]).await.expect(201);
    let settings = shop.settings.clone();
    shop.close().await;

    let backup = copy(&settings, "backup").await;
    let shop = TestShop::with(settings.clone()).await;
    let (admin, anna) = (admin.at(shop.urls()), anna.at(shop.urls()));
    let newest = anna.order(&[(&teapot, 5)]).await.expect(201);
    admin.delete(Node::Auth, &format!("/api/v1/users/{}", bob.id())).await.expect(200);
    let cup = admin.product(300, 5).await;
    anna.order(&[(&cup, 1)]).await.expect(201);
    eventually(async || same(admin.left(&teapot).await, 3)).await;
    eventually(async || same(admin.left(&cup).await, 4)).await;
    shop.close().await;

    let mut settings = settings;
    settings.set("SHOP__ORDER__DATABASE__NAME", &backup);
    assert_eq!(for_sale(&settings, &teapot).await, Some(8), "it is the old one");
    let shop = TestShop::with(settings).await;
    let anna = anna.at(shop.urls());
    // Nobody asks: at its start the node sees that the catalog remembers more.
    eventually(async || same(for_sale(&shop.settings, &teapot).await, Some(3))).await;
    eventually(async || same(for_sale(&shop.settings, &cup).await, Some(4))).await;
    anna.order(&[(&teapot, 4)]).await.expect(409);
    let last = anna.order(&[(&teapot, 3)]).await.expect(201);
    assert!(last["id"].as_i64() > newest["id"].as_i64(), "a number is given out once");
    let ledger = balanced(&shop.settings).await;
    assert!(ledger.notes[0].starts_with("6 pieces were sold to orders that"), "{ledger}");
    shop.close().await;
}

/// Another database with what the order node's holds, which nobody uses now.
async fn copy(settings: &Settings, name: &str) -> String {
    let config = settings.config();
    let (old, new) = (&config.order.database.name, format!("{}{name}", settings.prefix));
    let mut elsewhere = settings.database(Node::Auth).await;
    let copy = format!("create database \"{new}\" template \"{old}\"");
    eventually(async || {
        let copied = sqlx::raw_sql(sqlx::AssertSqlSafe(copy.clone())).execute(&mut elsewhere).await;
        copied.map_err(|error| error.to_string())
    })
    .await;
    elsewhere.close().await.unwrap();
    new
}

#[tokio::test]
async fn what_was_sold_twice_before_the_resync_is_told_and_no_more_is_sold() {
    let shop = TestShop::start().await;
    let settings = &shop.settings;
    settle(settings).await;
    let admin = shop.admin().await;
    let anna = shop.user("anna").await;
    let teapot = admin.product(1990, 10).await;
    anna.order(&[(&teapot, 6)]).await.expect(201);
    eventually(async || same(admin.left(&teapot).await, 4)).await;
    let restored = "
        delete from order_items; delete from orders;
        delete from stock_movements where kind <> 'stocked'; update products set quantity = stocked";
    run(settings, Node::Order, restored).await;
    anna.order(&[(&teapot, 7)]).await.expect(201);
    ask(settings, &[Node::Order]).await;

    assert_eq!(for_sale(settings, &teapot).await, Some(-3));
    anna.order(&[(&teapot, 1)]).await.expect(409);
    eventually(async || same(admin.left(&teapot).await, -3)).await;
    let ledger = verify::verify(&settings.config(), Duration::from_secs(2)).await.unwrap();
    let said = ledger.differences.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(
        said,
        [
            "product 1: the catalog shows -3 left: more was sold than stocked",
            "product 1: the order node shows -3 left: more was sold than stocked"
        ]
    );
    shop.close().await;
}

#[tokio::test]
async fn a_change_of_an_order_that_a_backup_lacks_keeps_its_pieces_and_is_named() {
    let shop = TestShop::start().await;
    let settings = &shop.settings;
    settle(settings).await;
    let admin = shop.admin().await;
    let anna = shop.user("anna").await;
    let teapot = admin.product(1990, 10).await;
    let order = anna.order(&[(&teapot, 2)]).await.expect(201);
    let more = json!({"order_item_id": order["items"][0]["id"], "quantity": 5});
    anna.put(Node::Order, "/update_order/1", more).await.expect(200);
    eventually(async || same(admin.left(&teapot).await, 5)).await;
    let restored = "
        delete from stock_movements where delta = -3; update products set quantity = 8;
        update order_items set product_quantity = 2;
        update orders set total_quantity = 2, total_price = 3980";
    run(settings, Node::Order, restored).await;
    ask(settings, &[Node::Order]).await;
    assert_eq!(for_sale(settings, &teapot).await, Some(5));
    let ledger = verify::verify(&settings.config(), Duration::from_secs(2)).await.unwrap();
    let said = ledger.differences.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(said, ["product 1: orders name 2 pieces, their movements took 5"]);
    shop.close().await;
}

#[tokio::test]
async fn of_two_replicas_one_resyncs_and_both_sell_what_is_left() {
    let settings = Settings::new(Over::RabbitMq).await;
    let shops = [TestShop::with(settings.clone()).await, TestShop::with(settings.clone()).await];
    settle(&settings).await;
    let admin = shops[0].admin().await;
    let teapot = admin.product(1990, 10).await;
    let anna = shops[1].user("anna").await;
    let ids: Vec<i64> = {
        let mut database = settings.database(Node::Order).await;
        sqlx::query_scalar("select id from resyncs").fetch_all(&mut database).await.unwrap()
    };
    assert_eq!(ids.len(), 1, "the first start of two replicas is one");
    eventually(async || same(anna.order(&[(&teapot, 1)]).await.status.as_u16(), 201)).await;
    eventually(async || same(admin.left(&teapot).await, 9)).await;

    run(&settings, Node::Order, EMPTY).await;
    run(&settings, Node::Catalog, "truncate customers").await;
    ask(&settings, &[Node::Catalog, Node::Order]).await;
    let annas = shops.each_ref().map(|shop| anna.at(shop.urls()));
    let tried = futures::future::join_all((0..20).map(|n| {
        let items = [(&teapot, 1)];
        let anna = &annas[n % 2];
        async move { anna.order(&items).await.status.as_u16() }
    }));
    assert_eq!(tried.await.iter().filter(|status| **status == 201).count(), 9);
    balanced(&settings).await;
    for shop in shops {
        shop.close().await;
    }
}

#[tokio::test]
async fn a_resync_waits_for_a_source_that_is_away_and_says_so() {
    let mut settings = Settings::new(Over::Bus).await;
    settings.set("SHOP__CLUSTER__CATALOG_URL", "http://127.0.0.1:9");
    let shop = TestShop::with(settings).await;
    let mut settings = shop.settings.clone();
    let mut database = settings.database(Node::Order).await;
    let anna = shop.user("anna").await;
    let teapot = shop.admin().await.product(1990, 10).await;
    // Meanwhile it serves.
    anna.order(&[(&teapot, 1)]).await.expect(201);
    eventually(async || same(shop.admin().await.left(&teapot).await, 9)).await;
    run(&settings, Node::Order, EMPTY).await;
    eventually(async || {
        let trouble = "select coalesce(max(trouble), '') from resyncs where done_at is null";
        let trouble: String = sqlx::query_scalar(trouble).fetch_one(&mut database).await.unwrap();
        same(trouble, "the catalog node does not respond; try again in a moment".to_owned())
    })
    .await;
    shop.close().await;

    // What was begun is done by whoever starts next.
    settings.set("SHOP__CLUSTER__CATALOG_URL", "");
    let shop = TestShop::with(settings).await;
    eventually(async || same(for_sale(&shop.settings, &teapot).await, Some(9))).await;
    balanced(&shop.settings).await;
    shop.close().await;
}

#[tokio::test]
async fn a_resync_that_no_node_does_is_given_up() {
    let shop = TestShop::start().await;
    let settings = shop.settings.clone();
    shop.close().await;
    let refused = resync::resync(&settings.config(), &[Node::Order], drop).await.unwrap_err();
    assert!(refused.to_string().contains("no running node works on the request"), "{refused}");
}
