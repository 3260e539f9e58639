//! Fills the databases before a load: stock and orders, inserted with SQL into all nodes as if
//! their events had been applied.

use std::time::Duration;

use anyhow::Context;
use shop_supervisor::Node;
use sqlx::{AssertSqlSafe, PgConnection};
use tokio::time::{Instant, sleep, timeout};

use crate::environment::Environment;

/// Quantity of each product: more than a run can sell.
const QUANTITY: i64 = 1_000_000_000;

const POLL: Duration = Duration::from_millis(20);
const REPLICATION_TIMEOUT: Duration = Duration::from_secs(60);
const DRAIN_TIMEOUT: Duration = Duration::from_secs(600);

/// Numbers of rows.
#[derive(Clone, Copy, Debug)]
pub struct Stock {
    pub products: i64,
    /// Orders of the first buyer, with two items each.
    pub orders: i64,
}

impl Stock {
    pub const SMALL: Stock = Stock { products: 100, orders: 0 };
}

const CATALOG: &str = "
    truncate products, categories, stock_movements, outbox restart identity cascade;
    insert into categories (name, level) values ('Teapots', 0);
    insert into products (id, name, price, storage_quantity, category_id) overriding system value
    select id, 'Blue teapot number ' || id, 1000 + id % 1000, {quantity}, 1
    from generate_series(1, {products}) as id;
    select setval('products_id_seq', greatest({products}, 1));
    insert into stock_movements (id, product_id, delta, kind)
    select gen_random_uuid(), id, {quantity}, 'stocked' from generate_series(1, {products}) as id;";

const ORDER: &str = "
    truncate products, stock_movements, orders, order_items, outbox restart identity cascade;
    insert into products (id, name, price, category_id, stocked, quantity, version)
    select id, 'Blue teapot number ' || id, 1000 + id % 1000, 1, {quantity}, {quantity}, 1
    from generate_series(1, {products}) as id;
    insert into stock_movements (id, product_id, delta, kind)
    select gen_random_uuid(), id, {quantity}, 'stocked' from generate_series(1, {products}) as id;
    insert into orders (id, user_id, total_quantity, total_price, status, created_at)
    select id, '{buyer}', 3, 3000, 'created', now() from generate_series(1, {orders}) as id;
    insert into order_items
        (order_id, product_id, product_quantity, product_name, product_price)
    select id, 1 + (id + n * 7) % {products}, 1 + n, 'Blue teapot number 7', 1000
    from generate_series(1, {orders}) as id, generate_series(0, 1) as n;
    select setval('orders_id_seq', greatest({orders}, 1));";

/// Replaces the data of the catalog node and the order node by this stock.
pub async fn insert_stock(
    environment: &Environment,
    Stock { products, orders }: Stock,
) -> anyhow::Result<()> {
    let buyer = environment.users.buyers.first().context("no buyers")?.id;
    for (node, template) in [(Node::Catalog, CATALOG), (Node::Order, ORDER)] {
        let statements = template
            .replace("{quantity}", &QUANTITY.to_string())
            .replace("{products}", &products.to_string())
            .replace("{orders}", &orders.to_string())
            .replace("{buyer}", &buyer.to_string());
        let mut database = environment.database(node).await?;
        sqlx::raw_sql(AssertSqlSafe(statements)).execute(&mut database).await?;
        sqlx::raw_sql("vacuum analyze").execute(&mut database).await?;
    }
    // Otherwise the checkpoint would run during the measurement.
    sqlx::raw_sql("checkpoint").execute(&mut environment.connect("postgres").await?).await?;
    Ok(())
}

/// Waits until the initial resync of the replicated tables is done. It is not repeated later.
pub async fn wait_until_replicated(environment: &Environment) -> anyhow::Result<()> {
    const RESYNCED: &str = "
        select exists (select from resyncs) and not exists (select from resyncs where done_at is null)";
    let replicated = async {
        for node in [Node::Catalog, Node::Order] {
            let mut database = environment.database(node).await?;
            while !sqlx::query_scalar::<_, bool>(RESYNCED).fetch_one(&mut database).await? {
                sleep(POLL).await;
            }
        }
        anyhow::Ok(())
    };
    timeout(REPLICATION_TIMEOUT, replicated)
        .await
        .context("the replicated tables are not complete within 60 s")?
}

/// Waits until the catalog node has applied all events of the order node. Returns the duration in
/// seconds.
pub async fn wait_until_drained(environment: &Environment) -> anyhow::Result<f64> {
    const STOCK: &str = "select coalesce(sum(quantity), 0)::bigint from products";
    const CATALOG_STOCK: &str = "select coalesce(sum(storage_quantity), 0)::bigint from products";
    const HAS_OUTBOX_ROWS: &str = "select exists (select from outbox)";
    let since = Instant::now();
    let (mut catalog, mut order) =
        (environment.database(Node::Catalog).await?, environment.database(Node::Order).await?);
    let drained = async {
        while sqlx::query_scalar::<_, bool>(HAS_OUTBOX_ROWS).fetch_one(&mut order).await?
            || number(&mut order, STOCK).await? != number(&mut catalog, CATALOG_STOCK).await?
        {
            sleep(POLL).await;
        }
        anyhow::Ok(())
    };
    timeout(DRAIN_TIMEOUT, drained).await.context("not all events are applied within 600 s")??;
    Ok(since.elapsed().as_secs_f64())
}

/// The single number that a query returns.
pub async fn number(database: &mut PgConnection, query: &'static str) -> anyhow::Result<i64> {
    Ok(sqlx::query_scalar(query).fetch_one(database).await?)
}
