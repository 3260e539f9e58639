//! The oracle: compares the databases with the acknowledged writes and with each other.

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

use crate::environment::{Environment, dead_letter_queues};
use crate::records::{Category, Order, Product, Records, User};

/// The maximum time until the replicated tables equal their sources.
const CONVERGENCE_TIMEOUT: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(100);
const BROKER_TIMEOUT: Duration = Duration::from_secs(10);

/// Descriptions of everything that is wrong.
#[derive(Debug, Default, Serialize)]
pub struct Findings {
    /// Acknowledged rows that are missing or different.
    pub lost: Vec<String>,
    /// Rows that were never acknowledged.
    pub duplicated: Vec<String>,
    /// Inconsistent stock.
    pub oversold: Vec<String>,
    /// Dead-lettered messages.
    pub dead_letters: Vec<String>,
}

/// Connections to the three databases.
struct Databases {
    auth: PgConnection,
    catalog: PgConnection,
    order: PgConnection,
}

impl Databases {
    async fn open(environment: &Environment) -> anyhow::Result<Databases> {
        Ok(Databases {
            auth: environment.database(Node::Auth).await?,
            catalog: environment.database(Node::Catalog).await?,
            order: environment.database(Node::Order).await?,
        })
    }

    fn all(&mut self) -> [(&'static str, &mut PgConnection); 3] {
        [("auth", &mut self.auth), ("catalog", &mut self.catalog), ("order", &mut self.order)]
    }
}

/// Waits until every event is applied on every node. Returns the time, or the difference that is left
/// after 60 s.
pub async fn until_converged(environment: &Environment) -> anyhow::Result<Result<Instant, String>> {
    let since = Instant::now();
    if let Err(error) = environment.until_ready().await {
        return Ok(Err(error.to_string()));
    }
    let mut databases = Databases::open(environment).await?;
    loop {
        match find_difference(&mut databases).await? {
            None => return Ok(Ok(Instant::now())),
            Some(difference) if since.elapsed() > CONVERGENCE_TIMEOUT => {
                return Ok(Err(difference));
            }
            Some(_) => sleep(POLL_INTERVAL).await,
        }
    }
}

const OUTBOX: &str = "select count(*) from outbox";
const CATALOG_STOCK: &str = "select id, storage_quantity from products order by id";
const ORDER_STOCK: &str = "select id, quantity from products order by id";
const USERS: &str = "select id, username, email, role, version from users order by id";
const CUSTOMERS: &str = "
    select id, username, email, role, version from customers where not deleted order by id";

/// A row of a node's copy of the users.
type UserRow = (Uuid, String, String, String, i64);

async fn find_difference(databases: &mut Databases) -> sqlx::Result<Option<String>> {
    for (node, database) in databases.all() {
        let waiting: i64 = sqlx::query_scalar(OUTBOX).fetch_one(database).await?;
        if waiting > 0 {
            return Ok(Some(format!("{waiting} events are in the outbox of {node}")));
        }
    }
    let catalog = sqlx::query_as(CATALOG_STOCK).fetch_all(&mut databases.catalog).await?;
    let order = sqlx::query_as(ORDER_STOCK).fetch_all(&mut databases.order).await?;
    if let Some(difference) =
        compare_lists::<(i64, i64)>("products", "catalog", &catalog, "order", &order)
    {
        return Ok(Some(difference));
    }
    let users: Vec<UserRow> = sqlx::query_as(USERS).fetch_all(&mut databases.auth).await?;
    for (node, database) in databases.all().into_iter().skip(1) {
        let customers = sqlx::query_as(CUSTOMERS).fetch_all(database).await?;
        if let Some(difference) = compare_lists("users", "auth", &users, node, &customers) {
            return Ok(Some(difference));
        }
    }
    Ok(None)
}

/// Describes how two lists differ, with one row as an example.
fn compare_lists<T: Ord + std::fmt::Debug>(
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

/// Compares the databases with the acknowledged writes. The catalog's stock is compared only if the
/// nodes have `converged`.
pub async fn check(
    environment: &Environment,
    records: &Records,
    converged: bool,
) -> anyhow::Result<Findings> {
    let mut databases = Databases::open(environment).await?;
    let mut findings = Findings::default();
    findings.check_users(&mut databases.auth, records).await?;
    findings.check_catalog(&mut databases.catalog, records).await?;
    findings.check_orders(&mut databases.order, records).await?;
    findings.check_stock(&mut databases, records, converged).await?;
    findings.check_dead_letters(&mut databases, environment).await?;
    Ok(findings)
}

const ALL_USERS: &str = "select id, username, email, role from users where username <> 'admin'";
const ALL_CATEGORIES: &str = "select id, name, parent_id from categories";
const ALL_PRODUCTS: &str = "select id, name, price, category_id from products";
const ALL_ORDERS: &str = "select id, user_id, total_quantity, total_price from orders";
const ALL_ITEMS: &str =
    "select id, order_id, product_id, product_quantity, product_price from order_items";

impl Findings {
    async fn check_users(&mut self, auth: &mut PgConnection, records: &Records) -> Outcome {
        let rows: Vec<(Uuid, String, String, String)> =
            sqlx::query_as(ALL_USERS).fetch_all(auth).await?;
        let user = |(id, username, email, role)| (id, User { username, email, role });
        let rows: HashMap<_, _> = rows.into_iter().map(user).collect();
        for id in records.deleted_users.iter().filter(|id| rows.contains_key(id)) {
            self.lost.push(format!("user {id} exists although its deletion was acknowledged"));
        }
        let is_deleted = |id: &Uuid| records.deleted_users.contains(id);
        self.compare("user", &records.users, &rows, is_deleted);
        Ok(())
    }

    async fn check_catalog(&mut self, catalog: &mut PgConnection, records: &Records) -> Outcome {
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

    async fn check_orders(&mut self, database: &mut PgConnection, records: &Records) -> Outcome {
        let rows: Vec<(i64, Uuid, i64, i64)> =
            sqlx::query_as(ALL_ORDERS).fetch_all(&mut *database).await?;
        let items: Vec<(i64, i64, i64, i64, i64)> =
            sqlx::query_as(ALL_ITEMS).fetch_all(database).await?;
        let mut items_of: HashMap<i64, BTreeMap<i64, (i64, i64)>> = HashMap::new();
        let mut totals: HashMap<i64, (i64, i64)> = HashMap::new();
        for (id, order, product, quantity, price) in items {
            items_of.entry(order).or_default().insert(id, (product, quantity));
            let total = totals.entry(order).or_default();
            *total = (total.0 + quantity, total.1 + quantity * price);
        }
        for (id, _, quantity, price) in &rows {
            if totals.get(id) != Some(&(*quantity, *price)) {
                let items = totals.get(id);
                self.lost.push(format!(
                    "order {id} has totals {quantity}, {price}; its items {items:?}"
                ));
            }
        }
        let mut order = |(id, user_id, ..): (i64, Uuid, i64, i64)| {
            (id, Order { user_id, items: items_of.remove(&id).unwrap_or_default() })
        };
        let rows = rows.into_iter().map(&mut order).collect();
        self.compare("order", &records.orders, &rows, |_| false);
        Ok(())
    }

    /// Compares rows with the acknowledged ones. `exempt` rows need no acknowledgement.
    fn compare<I, R>(
        &mut self,
        what: &str,
        acknowledged: &HashMap<I, R>,
        rows: &HashMap<I, R>,
        exempt: impl Fn(&I) -> bool,
    ) where
        I: std::hash::Hash + Eq + std::fmt::Display,
        R: PartialEq + std::fmt::Debug,
    {
        for (id, expected) in acknowledged {
            match rows.get(id) {
                None => self.lost.push(format!("{what} {id} is missing: {expected:?}")),
                Some(row) if row != expected => {
                    self.lost.push(format!("{what} {id} is {row:?}, acknowledged as {expected:?}"));
                }
                Some(_) => {}
            }
        }
        for (id, row) in rows {
            if !acknowledged.contains_key(id) && !exempt(id) {
                self.duplicated.push(format!("{what} {id} was never acknowledged: {row:?}"));
            }
        }
    }

    async fn check_stock(
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
        for (node, stock, database) in [
            ("order", ORDER_STOCK, &mut databases.order),
            ("catalog", CATALOG_STOCK, &mut databases.catalog),
        ]
        .into_iter()
        .take(if converged { 2 } else { 1 })
        {
            let moved = pairs(MOVED, database).await?;
            let of = |numbers: &HashMap<i64, i64>, id| numbers.get(&id).copied().unwrap_or(0);
            for (id, stock) in pairs(stock, database).await? {
                let (sold, moved) = (of(&sold, id), of(&moved, id));
                // The acknowledged number counts. A product that was added twice has none.
                let acknowledged = records.products.get(&id).map(|product| product.stocked);
                let stocked = acknowledged.unwrap_or_else(|| of(&stocked, id));
                if stock < 0 || sold + stock != stocked || moved != stock {
                    self.oversold.push(format!(
                        "product {id} on {node}: {stocked} stocked, {sold} sold, {stock} in stock, \
                         {moved} by its movements"
                    ));
                }
            }
        }
        Ok(())
    }

    async fn check_dead_letters(
        &mut self,
        databases: &mut Databases,
        environment: &Environment,
    ) -> Outcome {
        const EXISTS: &str = "select to_regclass('dead_letters') is not null";
        const COUNT: &str = "select count(*) from dead_letters";
        for (node, database) in databases.all() {
            if sqlx::query_scalar(EXISTS).fetch_one(&mut *database).await? {
                let count: i64 = sqlx::query_scalar(COUNT).fetch_one(database).await?;
                self.dead_letters.extend((0..count).map(|_| format!("in the database of {node}")));
            }
        }
        let count = timeout(BROKER_TIMEOUT, dead_letters(environment.servers.broker_port));
        for (queue, messages) in count.await.context("RabbitMQ does not respond")?? {
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

/// The number of messages in each dead-letter queue.
async fn dead_letters(port: u16) -> anyhow::Result<Vec<(String, u32)>> {
    let arguments = OpenConnectionArguments::new("127.0.0.1", port, "guest", "guest");
    let broker = Broker::open(&arguments).await?;
    let channel = broker.open_channel(None).await?;
    let mut counts = vec![];
    for queue in dead_letter_queues() {
        let mut declare = QueueDeclareArguments::new(&queue);
        declare.passive(true);
        let (_, messages, _) = channel.queue_declare(declare).await?.context("no response")?;
        counts.push((queue, messages));
    }
    broker.close().await?;
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_from_the_acknowledged_rows_are_found() {
        let acknowledged = HashMap::from([(1, "same"), (2, "expected"), (3, "missing")]);
        let rows = HashMap::from([(1, "same"), (2, "changed"), (4, "twice"), (5, "exempt")]);
        let mut findings = Findings::default();
        findings.compare("order", &acknowledged, &rows, |id| *id == 5);
        findings.lost.sort();
        assert_eq!(
            findings.lost,
            [
                r#"order 2 is "changed", acknowledged as "expected""#,
                r#"order 3 is missing: "missing""#
            ]
        );
        assert_eq!(findings.duplicated, [r#"order 4 was never acknowledged: "twice""#]);
    }

    #[test]
    fn different_rows_are_counted_and_one_is_shown() {
        let (left, right) = ([(1, 5), (2, 5), (3, 5)], [(1, 5), (2, 4)]);
        assert_eq!(compare_lists("products", "catalog", &left, "order", &left), None);
        assert_eq!(
            compare_lists("products", "catalog", &left, "order", &right).as_deref(),
            Some(
                "products differ: 2 on catalog only, such as Some((2, 5)); \
                 1 on order only, such as Some((2, 4))"
            )
        );
    }
}
