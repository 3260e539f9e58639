//! Whether the databases hold what the clients were told: nothing less, nothing more, and the same on every node.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use amqprs::channel::QueueDeclareArguments;
use amqprs::connection::{Connection as Broker, OpenConnectionArguments};
use anyhow::Context;
use serde::Serialize;
use shop_supervisor::Node;
use sqlx::PgConnection;
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use crate::records::{Category, Order, Product, Records, User};
use crate::shop::{Shop, dead_letter_queues};

/// How long the copies are waited for at most.
const CONVERGENCE_PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(100);
const BROKER_PATIENCE: Duration = Duration::from_secs(10);

/// Everything that is not as it must be, each in words.
#[derive(Debug, Default, Serialize)]
pub struct Verdict {
    /// Acknowledged, and not there as acknowledged.
    pub lost: Vec<String>,
    /// There, and never acknowledged.
    pub duplicated: Vec<String>,
    /// Stock that does not add up.
    pub oversold: Vec<String>,
    /// Messages that were given up.
    pub dead_letters: Vec<String>,
}

/// Connections to the three databases.
struct Databases {
    auth: PgConnection,
    catalog: PgConnection,
    order: PgConnection,
}

impl Databases {
    async fn open(shop: &Shop) -> anyhow::Result<Databases> {
        Ok(Databases {
            auth: shop.database(Node::Auth).await?,
            catalog: shop.database(Node::Catalog).await?,
            order: shop.database(Node::Order).await?,
        })
    }

    fn all(&mut self) -> [(&'static str, &mut PgConnection); 3] {
        [("auth", &mut self.auth), ("catalog", &mut self.catalog), ("order", &mut self.order)]
    }
}

/// Waits until every event has arrived everywhere: the moment, or what still differs after 60 s.
pub async fn converged(shop: &Shop) -> anyhow::Result<Result<Instant, String>> {
    let since = Instant::now();
    if let Err(error) = shop.ready().await {
        return Ok(Err(error.to_string()));
    }
    let mut databases = Databases::open(shop).await?;
    loop {
        match difference(&mut databases).await? {
            None => return Ok(Ok(Instant::now())),
            Some(difference) if since.elapsed() > CONVERGENCE_PATIENCE => {
                return Ok(Err(difference));
            }
            Some(_) => sleep(POLL).await,
        }
    }
}

const OUTBOX: &str = "select count(*) from outbox";
const LEFT_ON_CATALOG: &str = "select id, storage_quantity from products order by id";
const LEFT_ON_ORDER: &str = "select id, quantity from products order by id";
const USERS: &str = "select id, username, email, role, version from users order by id";
const CUSTOMERS: &str = "
    select id, username, email, role, version from customers where not deleted order by id";

/// A user as a node knows it.
type Known = (Uuid, String, String, String, i64);

async fn difference(databases: &mut Databases) -> sqlx::Result<Option<String>> {
    for (node, database) in databases.all() {
        let waiting: i64 = sqlx::query_scalar(OUTBOX).fetch_one(database).await?;
        if waiting > 0 {
            return Ok(Some(format!("{waiting} events wait in the outbox of {node}")));
        }
    }
    let catalog = sqlx::query_as(LEFT_ON_CATALOG).fetch_all(&mut databases.catalog).await?;
    let order = sqlx::query_as(LEFT_ON_ORDER).fetch_all(&mut databases.order).await?;
    if let Some(difference) =
        differs::<(i64, i64)>("products", "catalog", &catalog, "order", &order)
    {
        return Ok(Some(difference));
    }
    let users: Vec<Known> = sqlx::query_as(USERS).fetch_all(&mut databases.auth).await?;
    for (node, database) in databases.all().into_iter().skip(1) {
        let customers = sqlx::query_as(CUSTOMERS).fetch_all(database).await?;
        if let Some(difference) = differs("users", "auth", &users, node, &customers) {
            return Ok(Some(difference));
        }
    }
    Ok(None)
}

/// The first rows in which two lists differ, if they do.
fn differs<T: Ord + std::fmt::Debug>(
    what: &str,
    left: &str,
    lefts: &[T],
    right: &str,
    rights: &[T],
) -> Option<String> {
    let (on_left, on_right): (BTreeSet<_>, BTreeSet<_>) =
        (lefts.iter().collect(), rights.iter().collect());
    if on_left == on_right {
        return None;
    }
    let (only_left, only_right) = (on_left.difference(&on_right), on_right.difference(&on_left));
    Some(format!(
        "{what} differ: {} on {left} only, such as {:?}; {} on {right} only, such as {:?}",
        only_left.clone().count(),
        only_left.clone().next(),
        only_right.clone().count(),
        only_right.clone().next()
    ))
}

/// Compares the databases with what the clients were told. What the catalog's stock should be is known only once
/// all has `converged`.
pub async fn judge(shop: &Shop, records: &Records, converged: bool) -> anyhow::Result<Verdict> {
    let mut databases = Databases::open(shop).await?;
    let mut verdict = Verdict::default();
    verdict.judge_users(&mut databases.auth, records).await?;
    verdict.judge_catalog(&mut databases.catalog, records).await?;
    verdict.judge_orders(&mut databases.order, records).await?;
    verdict.judge_stock(&mut databases, records, converged).await?;
    verdict.judge_dead_letters(&mut databases, shop).await?;
    Ok(verdict)
}

const ALL_USERS: &str = "select id, username, email, role from users where username <> 'admin'";
const ALL_CATEGORIES: &str = "select id, name, parent_id from categories";
const ALL_PRODUCTS: &str = "select id, name, price, category_id from products";
const ALL_ORDERS: &str = "select id, user_id, total_quantity, total_price from orders";
const ALL_ITEMS: &str =
    "select id, order_id, product_id, product_quantity, product_price from order_items";

impl Verdict {
    async fn judge_users(&mut self, auth: &mut PgConnection, records: &Records) -> Outcome {
        let rows: Vec<(Uuid, String, String, String)> =
            sqlx::query_as(ALL_USERS).fetch_all(auth).await?;
        let user = |(id, username, email, role)| (id, User { username, email, role });
        let rows: HashMap<_, _> = rows.into_iter().map(user).collect();
        for id in records.deleted_users.iter().filter(|id| rows.contains_key(id)) {
            self.lost.push(format!("user {id} was deleted, and is there"));
        }
        let known = |id: &Uuid| records.deleted_users.contains(id);
        self.compare("user", &records.users, &rows, known);
        Ok(())
    }

    async fn judge_catalog(&mut self, catalog: &mut PgConnection, records: &Records) -> Outcome {
        let rows: Vec<(i64, String, Option<i64>)> =
            sqlx::query_as(ALL_CATEGORIES).fetch_all(&mut *catalog).await?;
        let category = |(id, name, parent_id)| (id, Category { name, parent_id });
        let rows = rows.into_iter().map(category).collect();
        self.compare("category", &records.categories, &rows, |_| false);

        let rows: Vec<(i64, String, i64, i64)> =
            sqlx::query_as(ALL_PRODUCTS).fetch_all(catalog).await?;
        let stocked = |id: &i64| records.products.get(id).map_or(0, |product| product.stocked);
        let product = |(id, name, price, category_id)| {
            (id, Product { name, price, stocked: stocked(&id), category_id })
        };
        let rows = rows.into_iter().map(product).collect();
        self.compare("product", &records.products, &rows, |_| false);
        Ok(())
    }

    async fn judge_orders(&mut self, database: &mut PgConnection, records: &Records) -> Outcome {
        let rows: Vec<(i64, Uuid, i64, i64)> =
            sqlx::query_as(ALL_ORDERS).fetch_all(&mut *database).await?;
        let items: Vec<(i64, i64, i64, i64, i64)> =
            sqlx::query_as(ALL_ITEMS).fetch_all(database).await?;
        let mut of: HashMap<i64, BTreeMap<i64, (i64, i64)>> = HashMap::new();
        let mut totals: HashMap<i64, (i64, i64)> = HashMap::new();
        for (id, order, product, quantity, price) in items {
            of.entry(order).or_default().insert(id, (product, quantity));
            let total = totals.entry(order).or_default();
            *total = (total.0 + quantity, total.1 + quantity * price);
        }
        for (id, _, quantity, price) in &rows {
            if totals.get(id) != Some(&(*quantity, *price)) {
                let items = totals.get(id);
                self.lost.push(format!("order {id}: {quantity} for {price}; its items: {items:?}"));
            }
        }
        let mut order = |(id, user_id, ..): (i64, Uuid, i64, i64)| {
            (id, Order { user_id, items: of.remove(&id).unwrap_or_default() })
        };
        let rows = rows.into_iter().map(&mut order).collect();
        self.compare("order", &records.orders, &rows, |_| false);
        Ok(())
    }

    /// Rows against what was acknowledged of them.
    fn compare<I, R>(
        &mut self,
        what: &str,
        acknowledged: &HashMap<I, R>,
        rows: &HashMap<I, R>,
        accounted: impl Fn(&I) -> bool,
    ) where
        I: std::hash::Hash + Eq + std::fmt::Display,
        R: PartialEq + std::fmt::Debug,
    {
        for (id, told) in acknowledged {
            match rows.get(id) {
                None => self.lost.push(format!("{what} {id} is not there: {told:?}")),
                Some(row) if row != told => {
                    self.lost.push(format!("{what} {id} is {row:?}, and {told:?} was told"));
                }
                Some(_) => {}
            }
        }
        for (id, row) in rows {
            if !acknowledged.contains_key(id) && !accounted(id) {
                self.duplicated.push(format!("{what} {id} was told to nobody: {row:?}"));
            }
        }
    }

    async fn judge_stock(
        &mut self,
        databases: &mut Databases,
        records: &Records,
        converged: bool,
    ) -> Outcome {
        const MOVED: &str =
            "select product_id, sum(delta)::bigint from stock_movements group by product_id";
        const SOLD: &str = "
            select product_id, sum(product_quantity)::bigint from order_items group by product_id";
        const STOCKED: &str = "select id, stocked from products";
        let stocked: HashMap<i64, i64> = pairs(STOCKED, &mut databases.order).await?;
        let sold = pairs(SOLD, &mut databases.order).await?;
        for (node, left, database) in [
            ("order", LEFT_ON_ORDER, &mut databases.order),
            ("catalog", LEFT_ON_CATALOG, &mut databases.catalog),
        ]
        .into_iter()
        .take(if converged { 2 } else { 1 })
        {
            let moved = pairs(MOVED, database).await?;
            let of = |figures: &HashMap<i64, i64>, id| figures.get(&id).copied().unwrap_or(0);
            for (id, left) in pairs(left, database).await? {
                let (sold, moved) = (of(&sold, id), of(&moved, id));
                // What was told counts; nobody was told of a product that was added twice.
                let told = records.products.get(&id).map(|product| product.stocked);
                let stocked = told.unwrap_or_else(|| of(&stocked, id));
                if left < 0 || sold + left != stocked || moved != left {
                    self.oversold.push(format!(
                        "product {id} on {node}: {stocked} stocked, {sold} sold, {left} left, {moved} by its movements"
                    ));
                }
            }
        }
        Ok(())
    }

    async fn judge_dead_letters(&mut self, databases: &mut Databases, shop: &Shop) -> Outcome {
        const KEPT: &str = "select to_regclass('dead_letters') is not null";
        const COUNT: &str = "select count(*) from dead_letters";
        for (node, database) in databases.all() {
            if sqlx::query_scalar(KEPT).fetch_one(&mut *database).await? {
                let kept: i64 = sqlx::query_scalar(COUNT).fetch_one(database).await?;
                self.dead_letters.extend((0..kept).map(|_| format!("in the database of {node}")));
            }
        }
        let count = timeout(BROKER_PATIENCE, dead_letters(shop.broker_port));
        for (queue, messages) in count.await.context("RabbitMQ does not count")?? {
            self.dead_letters.extend((0..messages).map(|_| format!("in the queue {queue}")));
        }
        Ok(())
    }
}

type Outcome = anyhow::Result<()>;

async fn pairs(
    query: &'static str,
    database: &mut PgConnection,
) -> sqlx::Result<HashMap<i64, i64>> {
    let pairs: Vec<(i64, i64)> = sqlx::query_as(query).fetch_all(database).await?;
    Ok(pairs.into_iter().collect())
}

/// How many messages wait in the queues of dead letters.
async fn dead_letters(port: u16) -> anyhow::Result<Vec<(String, u32)>> {
    let arguments = OpenConnectionArguments::new("127.0.0.1", port, "guest", "guest");
    let broker = Broker::open(&arguments).await?;
    let channel = broker.open_channel(None).await?;
    let mut counts = vec![];
    for queue in dead_letter_queues() {
        let mut ask = QueueDeclareArguments::new(&queue);
        ask.passive(true);
        let (_, messages, _) = channel.queue_declare(ask).await?.context("no answer")?;
        counts.push((queue, messages));
    }
    broker.close().await?;
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_from_what_was_told_is_found() {
        let told = HashMap::from([(1, "as told"), (2, "otherwise"), (3, "gone")]);
        let rows = HashMap::from([(1, "as told"), (2, "changed"), (4, "twice"), (5, "known")]);
        let mut verdict = Verdict::default();
        verdict.compare("order", &told, &rows, |id| *id == 5);
        verdict.lost.sort();
        assert_eq!(
            verdict.lost,
            [
                r#"order 2 is "changed", and "otherwise" was told"#,
                r#"order 3 is not there: "gone""#
            ]
        );
        assert_eq!(verdict.duplicated, [r#"order 4 was told to nobody: "twice""#]);
    }

    #[test]
    fn rows_that_differ_are_counted_and_one_is_named() {
        let (left, right) = ([(1, 5), (2, 5), (3, 5)], [(1, 5), (2, 4)]);
        assert_eq!(differs("products", "catalog", &left, "order", &left), None);
        assert_eq!(
            differs("products", "catalog", &left, "order", &right).as_deref(),
            Some(
                "products differ: 2 on catalog only, such as Some((2, 5)); \
                 1 on order only, such as Some((2, 4))"
            )
        );
    }
}
