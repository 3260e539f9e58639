//! Upgrades: the databases of an older release are migrated in place, and reconcile afterwards.
//! `tests/upgrade` contains a dump of each.

use std::collections::HashMap;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use shop_persistence::stock::Movement;
use shop_persistence::{Database, DatabaseServer, Schema};
use shop_supervisor::Node;
use shop_supervisor::commands::verify;
use shop_tests::api::Product;
use sqlx::{AssertSqlSafe, Connection, FromRow, PgConnection};
use uuid::Uuid;

use shop_tests::{BrokerKind, Response, Settings, TestShop, equal, eventually};

const DUMPS: [(Node, Schema, &str); 3] = [
    (Node::Auth, Schema::Auth, include_str!("../upgrade/auth.sql")),
    (Node::Catalog, Schema::Catalog, include_str!("../upgrade/catalog.sql")),
    (Node::Order, Schema::Order, include_str!("../upgrade/order.sql")),
];

/// The dumped orders whose movements are still in the outbox. They are not multiplied, because the
/// catalog does not have them yet.
const UNPUBLISHED: &str = "(22, 23)";

/// The dump has 20 orders, 18 of which are multiplied: 10,000 in total.
const COPIES: i64 = 555;
const ORDERS: i64 = 20 + 18 * COPIES;

const COPY_ORDERS: &str = "
    insert into orders (id, user_id, total_quantity, total_price, status, created_at)
    select id + n * 100, user_id, total_quantity, total_price, status, created_at
    from orders, generate_series(1, {copies}) as n where id not in {unpublished};
    insert into order_items
        (id, order_id, product_id, product_quantity, product_name, product_price)
    select id + n * 1000, order_id + n * 100, product_id, product_quantity, product_name, product_price
    from order_items, generate_series(1, {copies}) as n where order_id not in {unpublished};
    select setval('orders_id_seq', max(id)) from orders;
    select setval('order_items_id_seq', max(id)) from order_items;";

/// Ids keep the time that they begin with. The copies' stock is stocked as well.
const COPY_MOVEMENTS: &str = "
    create temporary table copies as
    select overlay(id::text placing substr(md5(id::text || n), 1, 12) from 25)::uuid as id,
           product_id, delta, created_at,
           case when cause ~ 'order \\d+$'
                then regexp_replace(cause, '\\d+$', (substring(cause from '\\d+$')::bigint + n * 100)::text)
                else cause end as cause
    from stock_movements, generate_series(1, {copies}) as n
    where cause <> 'stocked' and coalesce(substring(cause from '^order (\\d+)$')::bigint, 0) not in {unpublished};
    insert into stock_movements (id, product_id, delta, cause, created_at)
    select id, product_id, delta, cause, created_at from copies;
    create temporary table sums as
    select product_id, sum(delta) as delta,
           coalesce(sum(delta) filter (where cause like 'taken over: %'), 0) as taken_over
    from copies group by product_id;
    update stock_movements set delta = stock_movements.delta - sums.delta
    from sums where cause = 'stocked' and sums.product_id = stock_movements.product_id;";

const STOCK_COPIES: &str = "
    update products set stocked = stocked - sums.delta, taken_over = products.taken_over - sums.taken_over
    from sums where sums.product_id = id;";

/// The columns, constraints, indexes and options of all tables, in words.
const SCHEMA: &str = "
    select format('%s column %s: %s %s, not null %s, default %s, identity %s, storage %s', relname,
                  row_number() over (partition by c.oid order by attnum), attname,
                  format_type(atttypid, atttypmod), attnotnull, pg_get_expr(adbin, adrelid),
                  attidentity, attstorage)
    from pg_class c join pg_attribute on attrelid = c.oid and attnum > 0 and not attisdropped
    left join pg_attrdef on adrelid = c.oid and adnum = attnum
    where relnamespace = 'public'::regnamespace and relkind = 'r'
    union all
    select format('%s constraint %s: %s, validated %s', conrelid::regclass, conname,
                  pg_get_constraintdef(oid), convalidated)
    from pg_constraint where connamespace = 'public'::regnamespace
    union all
    select indexdef from pg_indexes where schemaname = 'public'
    union all
    select format('%s %s %s', relkind, relname, reloptions)
    from pg_class where relnamespace = 'public'::regnamespace
    union all
    select format('type %s %s', typname, typtype)
    from pg_type where typnamespace = 'public'::regnamespace
    order by 1";

async fn run(database: &mut PgConnection, statements: &str) {
    let statements = statements.replace("{copies}", &COPIES.to_string());
    let statements = statements.replace("{unpublished}", UNPUBLISHED);
    sqlx::raw_sql(AssertSqlSafe(statements)).execute(database).await.unwrap();
}

/// Restores the dumps as the databases that the settings name, with 10,000 orders.
async fn restore(settings: &Settings) {
    let config = settings.config();
    let mut server = settings.connect("postgres").await;
    for (node, _, dump) in DUMPS {
        run(&mut server, &format!("create database \"{}\"", node.database(&config).name)).await;
        let mut database = settings.database(node).await;
        run(&mut database, dump).await;
        database.close().await.unwrap(); // the dump changes the session's settings
    }
    let mut order = settings.database(Node::Order).await;
    run(&mut order, COPY_ORDERS).await;
    run(&mut order, &[COPY_MOVEMENTS, STOCK_COPIES].concat()).await;
    run(&mut settings.database(Node::Catalog).await, COPY_MOVEMENTS).await;
}

#[derive(FromRow)]
struct OldMovement {
    id: Uuid,
    product_id: i64,
    delta: i64,
    cause: String,
}

async fn old_movements(settings: &Settings, node: Node) -> Vec<OldMovement> {
    let old = "select id, product_id, delta, cause from stock_movements";
    sqlx::query_as(old).fetch_all(&mut settings.database(node).await).await.unwrap()
}

async fn movements(settings: &Settings, node: Node) -> HashMap<Uuid, Movement> {
    let movements = "select id, product_id, delta, kind, order_id, reason from stock_movements";
    let movements: Vec<Movement> =
        sqlx::query_as(movements).fetch_all(&mut settings.database(node).await).await.unwrap();
    movements.into_iter().map(|movement| (movement.id, movement)).collect()
}

async fn schema(mut database: PgConnection) -> Vec<String> {
    sqlx::query_scalar(SCHEMA).fetch_all(&mut database).await.unwrap()
}

/// A new database of this node.
async fn new_database(settings: &Settings, node: Node, schema: Schema) -> PgConnection {
    let server = node.database(&settings.config()).clone();
    let name = format!("{}_new", server.name);
    let server = DatabaseServer {
        host: server.host,
        port: server.port,
        user: server.user,
        password: server.password,
        echo: false,
        connections: 1,
    };
    Database::open(&server, &name, schema).await.unwrap().close().await;
    settings.connect(&name).await
}

async fn reconcile(settings: &Settings) {
    let ledger = verify::verify(&settings.config(), Duration::from_secs(30)).await.unwrap();
    assert!(ledger.balanced, "{ledger}");
}

#[tokio::test]
async fn a_database_of_an_older_release_is_upgraded_in_place_and_reconciles() {
    let settings = Settings::new(BrokerKind::Bus).await;
    restore(&settings).await;
    let old = [Node::Catalog, Node::Order].map(|node| old_movements(&settings, node));
    let old = futures::future::join_all(old).await;

    let shop = TestShop::start_with(settings.clone()).await;
    let new = [Node::Catalog, Node::Order].map(|node| movements(&settings, node));
    for (old, new) in old.iter().zip(futures::future::join_all(new).await) {
        assert!(new.len() >= old.len());
        for OldMovement { id, product_id, delta, cause } in old {
            // An event of the older release has the same meaning as the row.
            let event = json!({"id": id, "product_id": product_id, "delta": delta, "cause": cause});
            let movement: Movement = serde_json::from_value(event).unwrap();
            assert_eq!(new[id], movement, "{cause}");
        }
    }
    let orders = "select count(*) from orders";
    let mut order = settings.database(Node::Order).await;
    let orders: i64 = sqlx::query_scalar(orders).fetch_one(&mut order).await.unwrap();
    assert!(orders == ORDERS && ORDERS >= 10_000, "{orders} orders");

    // The outbox contains events of the older release.
    eventually(async || {
        let sold = "select count(*) from stock_movements where order_id in (22, 23)";
        let mut catalog = settings.database(Node::Catalog).await;
        let sold: i64 = sqlx::query_scalar(sold).fetch_one(&mut catalog).await.unwrap();
        equal(sold, 4)
    })
    .await;
    reconcile(&settings).await;

    sell(&shop).await;
    redrive(&shop).await;
    repeat(&shop).await;
    reconcile(&settings).await;
    shop.close().await;
}

/// The upgraded shop takes new orders.
async fn sell(shop: &TestShop) {
    let admin = shop.admin().await;
    let products: Vec<Product> = admin.get(Node::Catalog, "/api/v1/products").await.read(200);
    let teapot = products.iter().find(|product| product.id == 1).unwrap();
    admin.order(&[(teapot, 3)]).await.expect(201);
    admin.until_stock(teapot, teapot.storage_quantity - 3).await;
}

/// A dead letter of the older release is applied. Its movements are known, so it changes nothing.
async fn redrive(shop: &TestShop) {
    let admin = shop.admin().await;
    let letters = admin.get(Node::Catalog, "/admin/dead-letters?queue=stock.moved").await;
    let letters = letters.expect(200);
    let path = format!("/admin/dead-letters/{}/redrive", letters[0]["id"].as_str().unwrap());
    admin.post(Node::Catalog, &path, Value::Null).await.expect(200);
}

/// A response that the older release stored under an idempotency key is replayed.
async fn repeat(shop: &TestShop) {
    let anna = shop.anonymous().log_in("anna").await;
    let order = json!({"user_id": anna.id(), "items": [{"product_id": 1, "quantity": 1}]});
    let request = anna.request(Method::POST, Node::Order, "/order");
    let repeated = Response::of(request.header("idempotency-key", "order-0").json(&order)).await;
    assert_eq!(repeated.expect(201)["id"], 4);
}

#[tokio::test]
async fn an_upgraded_schema_equals_that_of_a_new_database() {
    let settings = Settings::single_replica(BrokerKind::Bus).await;
    restore(&settings).await;
    TestShop::start_with(settings.clone()).await.stop().await;
    for (node, tables, _) in DUMPS {
        let upgraded = schema(settings.database(node).await).await;
        let new = schema(new_database(&settings, node, tables).await).await;
        assert!(upgraded.len() > 40, "{upgraded:?}");
        assert_eq!(upgraded, new, "{node:?}");
    }
}
