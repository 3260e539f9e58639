//! The snapshot of a local database.

use std::time::Duration;

use sqlx::FromRow;
use uuid::Uuid;

use super::{Ordered, Snapshot, Stock, Summary, UserRecord};
use crate::ids::{ProductId, UserId};
use crate::movements::Movement;
use crate::users::{Role, User};
use crate::{Database, Error, Result, Schema, Session, Transaction, outbox};

/// The snapshot of a database that this process has open.
#[derive(Debug, Clone)]
pub struct LocalSnapshot {
    database: Database,
    schema: Schema,
}

impl LocalSnapshot {
    /// The snapshot of a database with this schema.
    pub fn new(database: &Database, schema: Schema) -> LocalSnapshot {
        LocalSnapshot { database: database.clone(), schema }
    }
}

/// One state of the database for all statements, more time than a request has, and plans that scan
/// whole tables.
const SNAPSHOT: &str = "
    set transaction isolation level repeatable read, read only; set local statement_timeout = '60s';
    set local enable_seqscan = on; set local plan_cache_mode = auto";

/// Longer than the server's timeout of a statement: it only expires if the network is broken.
const READ_TIMEOUT: Duration = Duration::from_secs(65);

/// Limits the duration of reading a page.
async fn limited<T>(reading: impl Future<Output = Result<T>>) -> Result<T> {
    match tokio::time::timeout(READ_TIMEOUT, reading).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Error::Unavailable("the database did not respond in time".into())),
    }
}

/// Begins a transaction that reads one state of the database.
async fn begin(session: &mut Session) -> Result<Transaction<'_>> {
    let mut tx = session.begin().await?;
    sqlx::raw_sql(SNAPSHOT).execute(&mut *tx).await?;
    Ok(tx)
}

#[derive(FromRow)]
struct UserRow {
    id: UserId,
    version: i64,
    username: Option<String>,
    email: Option<String>,
    role: Option<Role>,
    deleted: bool,
}

impl From<UserRow> for UserRecord {
    fn from(row: UserRow) -> UserRecord {
        let UserRow { id, version, username, email, role, deleted } = row;
        let user = match (username, email, role) {
            (Some(username), Some(email), Some(role)) => Some(User { id, username, email, role }),
            _ => None,
        };
        UserRecord { id, version, user, deleted }
    }
}

const USERS: &str = "
    select id, version, username, email, role, false as deleted
    from users where id > $1 order by id limit $2";

const CUSTOMERS: &str = "
    select id, version, username, email, role, deleted
    from customers where id > $1 order by id limit $2";

const CATALOG_PRODUCTS: &str = "
    with page as (
        select id, name, price, category_id, version, storage_quantity as \"left\"
        from products where id > $1 order by id limit $2
    ),
    moved as (
        select product_id, sum(delta)::bigint as moved,
               sum(delta) filter (where kind in ('stocked', 'adjusted'))::bigint as stocked,
               -sum(delta) filter (where kind not in ('stocked', 'adjusted') and id < $3)::bigint as sold
        from stock_movements where product_id = any(array(select id from page)) group by product_id
    )
    select page.*, coalesce(moved, 0) as moved, coalesce(stocked, 0) as stocked, coalesce(sold, 0) as sold
    from page left join moved on product_id = page.id order by page.id";

/// A product of version 0 is a placeholder.
const ORDER_PRODUCTS: &str = "
    with page as (
        select id, name, price, category_id, version, quantity as \"left\", stocked as announced
        from products where id > $1 and version > 0 order by id limit $2
    ),
    moved as (
        select product_id, sum(delta)::bigint as moved,
               sum(delta) filter (where kind in ('stocked', 'adjusted'))::bigint as stocked,
               -sum(delta) filter (where kind not in ('stocked', 'adjusted') and id < $3)::bigint as sold,
               -sum(delta) filter (where kind not in ('stocked', 'adjusted', 'taken_over'))::bigint as placed,
               -sum(delta) filter (where kind = 'taken_over')::bigint as taken_over
        from stock_movements where product_id = any(array(select id from page)) group by product_id
    ),
    ordered as (
        select product_id, sum(product_quantity)::bigint as ordered
        from order_items where product_id = any(array(select id from page)) group by product_id
    )
    select page.*, coalesce(moved, 0) as moved, coalesce(stocked, 0) as stocked, coalesce(sold, 0) as sold,
           coalesce(placed, 0) as placed, coalesce(taken_over, 0) as taken_over, coalesce(ordered, 0) as ordered
    from page left join moved on moved.product_id = page.id left join ordered on ordered.product_id = page.id
    order by page.id";

/// A row of [`ORDER_PRODUCTS`].
#[derive(FromRow)]
struct StockRow {
    #[sqlx(flatten)]
    stock: Stock,
    #[sqlx(flatten)]
    ordered: Ordered,
}

const MOVEMENTS: &str = "
    select id, product_id, delta, kind, order_id, reason from stock_movements
    where id > $1 and kind not in ('stocked', 'adjusted') order by id limit $2";

const WRONG_TOTALS: &str = "
    with sums as (
        select order_id, sum(product_quantity)::bigint as quantity,
               sum(product_quantity * product_price)::bigint as price
        from order_items group by order_id
    )
    select id, total_quantity, coalesce(quantity, 0) as items_quantity,
           total_price, coalesce(price, 0) as items_price
    from orders left join sums on order_id = id
    where total_quantity <> coalesce(quantity, 0) or total_price <> coalesce(price, 0)
    order by id limit 100";

const NEWEST_PRODUCT: &str = "select max(id) from products";

impl Snapshot for LocalSnapshot {
    async fn users(&self, after: UserId, limit: i64) -> Result<Vec<UserRecord>> {
        limited(async {
            let users = match self.schema {
                Schema::Auth => USERS,
                Schema::Catalog | Schema::Order => CUSTOMERS,
            };
            let mut session = self.database.session();
            let mut tx = begin(&mut session).await?;
            let rows = sqlx::query_as(users).bind(after).bind(limit).fetch_all(&mut *tx);
            let rows: Vec<UserRow> = rows.await?;
            tx.commit().await?;
            Ok(rows.into_iter().map(UserRecord::from).collect())
        })
        .await
    }

    async fn products(&self, after: ProductId, limit: i64, before: Uuid) -> Result<Vec<Stock>> {
        limited(async {
            let mut session = self.database.session();
            let mut tx = begin(&mut session).await?;
            let stock = match self.schema {
                Schema::Auth => vec![],
                Schema::Catalog => {
                    let page =
                        sqlx::query_as(CATALOG_PRODUCTS).bind(after).bind(limit).bind(before);
                    page.fetch_all(&mut *tx).await?
                }
                Schema::Order => {
                    let page = sqlx::query_as(ORDER_PRODUCTS).bind(after).bind(limit).bind(before);
                    let rows: Vec<StockRow> = page.fetch_all(&mut *tx).await?;
                    let stock = |row: StockRow| Stock { orders: Some(row.ordered), ..row.stock };
                    rows.into_iter().map(stock).collect()
                }
            };
            tx.commit().await?;
            Ok(stock)
        })
        .await
    }

    async fn movements(&self, after: Uuid, limit: i64) -> Result<Vec<Movement>> {
        limited(async {
            if self.schema == Schema::Auth {
                return Ok(vec![]);
            }
            let mut session = self.database.session();
            let mut tx = begin(&mut session).await?;
            let page =
                sqlx::query_as(MOVEMENTS).bind(after).bind(limit).fetch_all(&mut *tx).await?;
            tx.commit().await?;
            Ok(page)
        })
        .await
    }

    async fn summary(&self) -> Result<Summary> {
        limited(async {
            let mut session = self.database.session();
            let mut tx = begin(&mut session).await?;
            let (outbox_length, outbox_age_seconds) = outbox::backlog(&mut tx).await?;
            let wrong_totals = match self.schema {
                Schema::Order => sqlx::query_as(WRONG_TOTALS).fetch_all(&mut *tx).await?,
                Schema::Auth | Schema::Catalog => vec![],
            };
            let newest_product = match self.schema {
                Schema::Auth => None,
                _ => sqlx::query_scalar(NEWEST_PRODUCT).fetch_one(&mut *tx).await?,
            };
            tx.commit().await?;
            Ok(Summary { outbox_length, outbox_age_seconds, wrong_totals, newest_product })
        })
        .await
    }
}
