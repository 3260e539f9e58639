//! The oracle: compares the three databases with each other and with the acknowledged changes.

use anyhow::ensure;
use shop_supervisor::Node;
use shop_tests::Settings;
use sqlx::{AssertSqlSafe, PgConnection};

/// `Err` describes what differs.
pub type Check = Result<(), String>;

/// Connections to the databases of the three nodes.
pub struct Oracle {
    pub auth: PgConnection,
    pub catalog: PgConnection,
    pub order: PgConnection,
}

/// Numbers of rows that the acknowledged changes add up to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows {
    pub orders: i64,
    pub users: i64,
    pub products: i64,
}

impl Oracle {
    pub async fn connect(settings: &Settings) -> Oracle {
        Oracle {
            auth: settings.database(Node::Auth).await,
            catalog: settings.database(Node::Catalog).await,
            order: settings.database(Node::Order).await,
        }
    }

    /// Checks that every outbox is empty and that the replicated tables equal their sources.
    pub async fn converged(&mut self) -> anyhow::Result<Check> {
        const USERS: &str =
            "select id::text || username || email || role || version from users order by id";
        const CUSTOMERS: &str =
            "select id::text || username || email || role || version from customers order by id";
        const CATALOG_STOCK: &str =
            "select id || ': ' || storage_quantity from products order by id";
        const ORDER_STOCK: &str = "select id || ': ' || quantity from products order by id";
        for database in [&mut self.auth, &mut self.catalog, &mut self.order] {
            let waiting = number(database, "select count(*) from outbox").await?;
            if waiting > 0 {
                return Ok(Err(format!("{waiting} events are left in an outbox")));
            }
        }
        let users = rows(&mut self.auth, USERS).await?;
        for database in [&mut self.catalog, &mut self.order] {
            if rows(database, CUSTOMERS).await? != users {
                return Ok(Err("a node's customers differ from the users".into()));
            }
        }
        let catalog = rows(&mut self.catalog, CATALOG_STOCK).await?;
        let order = rows(&mut self.order, ORDER_STOCK).await?;
        if catalog == order {
            Ok(Ok(()))
        } else {
            Ok(Err(format!("the stock differs: {catalog:?} in catalog, {order:?} in order")))
        }
    }

    /// Checks that the order node has this number of distinct dead letters.
    pub async fn has_dead_letters(&mut self, expected: usize) -> anyhow::Result<Check> {
        const DEAD_LETTERS: &str = "select count(distinct message_id) from dead_letters";
        let found = number(&mut self.order, DEAD_LETTERS).await?;
        Ok(equal("dead letters", found, i64::try_from(expected)?))
    }

    /// Checks the number of rows, the stock and the totals of orders.
    pub async fn check(&mut self, expected: Rows) -> anyhow::Result<()> {
        let found = Rows {
            orders: number(&mut self.order, "select count(*) from orders").await?,
            users: number(&mut self.auth, "select count(*) from users").await?,
            products: number(&mut self.catalog, "select count(*) from products").await?,
        };
        ensure!(found == expected, "found {found:?}, acknowledged {expected:?}");
        for (column, database) in
            [("storage_quantity", &mut self.catalog), ("quantity", &mut self.order)]
        {
            let query = format!(
                "select count(*) from products p where {column} <>
                (select coalesce(sum(delta), 0) from stock_movements m where m.product_id = p.id)"
            );
            let wrong: i64 = sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(database).await?;
            ensure!(wrong == 0, "the stock of {wrong} products is not the sum of its movements");
        }
        self.check_orders().await
    }

    async fn check_orders(&mut self) -> anyhow::Result<()> {
        const WRONG_TOTALS: &str = "
            select count(*) from orders o where (total_quantity, total_price) <>
            (select sum(product_quantity), sum(product_quantity * product_price)
             from order_items i where i.order_id = o.id)";
        const WRONG_STOCK: &str = "
            select count(*) from (
                select product_id, sum(product_quantity) as ordered,
                       (select -sum(delta) from stock_movements m
                        where m.product_id = i.product_id and kind <> 'stocked') as moved
                from order_items i group by product_id) sums
            where ordered <> moved";
        let wrong = number(&mut self.order, WRONG_TOTALS).await?;
        ensure!(wrong == 0, "the totals of {wrong} orders differ from the sum of their items");
        let wrong = number(&mut self.order, WRONG_STOCK).await?;
        ensure!(wrong == 0, "the stock of {wrong} products does not reflect their orders");
        Ok(())
    }
}

pub fn equal(what: &str, found: i64, expected: i64) -> Check {
    if found == expected { Ok(()) } else { Err(format!("{found} {what} instead of {expected}")) }
}

/// The single number that a query returns.
pub async fn number(database: &mut PgConnection, query: &'static str) -> anyhow::Result<i64> {
    Ok(sqlx::query_scalar(query).fetch_one(database).await?)
}

async fn rows(database: &mut PgConnection, query: &'static str) -> anyhow::Result<Vec<String>> {
    Ok(sqlx::query_scalar(query).fetch_all(database).await?)
}
