//! What is in the databases before the load: stock and orders, written by SQL, as if the nodes had told each other.

use std::time::Duration;

use anyhow::Context;
use shop_supervisor::Node;
use sqlx::{AssertSqlSafe, PgConnection};
use tokio::time::{Instant, sleep, timeout};

use crate::stand::Stand;

/// How many pieces of every product there are: more than can be sold.
const PIECES: i64 = 1_000_000_000;

const POLL: Duration = Duration::from_millis(20);
const COPY_PATIENCE: Duration = Duration::from_secs(60);
const DRAIN_PATIENCE: Duration = Duration::from_secs(600);

/// How much there is.
#[derive(Clone, Copy, Debug)]
pub struct Stock {
    pub products: i64,
    /// Of the first buyer, two items each.
    pub orders: i64,
}

impl Stock {
    pub const SMALL: Stock = Stock { products: 100, orders: 0 };
}

const CATALOG: &str = "
    truncate products, categories, stock_movements, outbox restart identity cascade;
    insert into categories (name, level) values ('Teapots', 0);
    insert into products (id, name, price, storage_quantity, category_id) overriding system value
    select id, 'Blue teapot number ' || id, 1000 + id % 1000, {pieces}, 1
    from generate_series(1, {products}) as id;
    select setval('products_id_seq', greatest({products}, 1));
    insert into stock_movements (id, product_id, delta, kind)
    select gen_random_uuid(), id, {pieces}, 'stocked' from generate_series(1, {products}) as id;";

const ORDER: &str = "
    truncate products, stock_movements, orders, order_items, outbox restart identity cascade;
    insert into products (id, name, price, category_id, stocked, quantity, version)
    select id, 'Blue teapot number ' || id, 1000 + id % 1000, 1, {pieces}, {pieces}, 1
    from generate_series(1, {products}) as id;
    insert into stock_movements (id, product_id, delta, kind)
    select gen_random_uuid(), id, {pieces}, 'stocked' from generate_series(1, {products}) as id;
    insert into orders (id, user_id, total_quantity, total_price, status, created_at)
    select id, '{buyer}', 3, 3000, 'created', now() from generate_series(1, {orders}) as id;
    insert into order_items
        (order_id, product_id, product_quantity, product_name, product_price)
    select id, 1 + (id + which * 7) % {products}, 1 + which, 'Blue teapot number 7', 1000
    from generate_series(1, {orders}) as id, generate_series(0, 1) as which;
    select setval('orders_id_seq', greatest({orders}, 1));";

/// Leaves nothing but this stock in the databases of catalog and order.
pub async fn restock(stand: &Stand, Stock { products, orders }: Stock) -> anyhow::Result<()> {
    let buyer = stand.people.buyers.first().context("there are buyers")?.id;
    for (node, fill) in [(Node::Catalog, CATALOG), (Node::Order, ORDER)] {
        let fill = fill
            .replace("{pieces}", &PIECES.to_string())
            .replace("{products}", &products.to_string())
            .replace("{orders}", &orders.to_string())
            .replace("{buyer}", &buyer.to_string());
        let mut database = stand.database(node).await?;
        sqlx::raw_sql(AssertSqlSafe(fill)).execute(&mut database).await?;
        sqlx::raw_sql("vacuum analyze").execute(&mut database).await?;
    }
    // What was written is written out now, and not during the measurement.
    sqlx::raw_sql("checkpoint").execute(&mut stand.connect("postgres").await?).await?;
    Ok(())
}

/// Waits until the nodes have made their first copies of each other, which they never make again.
pub async fn copied(stand: &Stand) -> anyhow::Result<()> {
    const COPIED: &str = "
        select exists (select from resyncs) and not exists (select from resyncs where done_at is null)";
    let copied = async {
        for node in [Node::Catalog, Node::Order] {
            let mut database = stand.database(node).await?;
            while !sqlx::query_scalar::<_, bool>(COPIED).fetch_one(&mut database).await? {
                sleep(POLL).await;
            }
        }
        anyhow::Ok(())
    };
    timeout(COPY_PATIENCE, copied).await.context("the nodes do not copy each other")?
}

/// Waits until the catalog knows of all that was sold. Says how many seconds that took.
pub async fn drained(stand: &Stand) -> anyhow::Result<f64> {
    const LEFT: &str = "select coalesce(sum(quantity), 0)::bigint from products";
    const LEFT_IN_CATALOG: &str = "select coalesce(sum(storage_quantity), 0)::bigint from products";
    const WAITING: &str = "select exists (select from outbox)";
    let since = Instant::now();
    let (mut catalog, mut order) =
        (stand.database(Node::Catalog).await?, stand.database(Node::Order).await?);
    let drained = async {
        while sqlx::query_scalar::<_, bool>(WAITING).fetch_one(&mut order).await?
            || number(&mut order, LEFT).await? != number(&mut catalog, LEFT_IN_CATALOG).await?
        {
            sleep(POLL).await;
        }
        anyhow::Ok(())
    };
    timeout(DRAIN_PATIENCE, drained).await.context("the outbox does not drain within 600 s")??;
    Ok(since.elapsed().as_secs_f64())
}

/// The one number that a query comes to.
pub async fn number(database: &mut PgConnection, query: &'static str) -> anyhow::Result<i64> {
    Ok(sqlx::query_scalar(query).fetch_one(database).await?)
}
