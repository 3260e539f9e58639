//! Books: what a node can show of its own database, in pages, for whoever compares or copies it.

use std::future::Future;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sqlx::FromRow;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::catalog::{CategoryId, ProductId};
use crate::orders::OrderId;
use crate::stock::Movement;
use crate::users::{Role, User, UserId};
use crate::{Database, Error, Result, Schema, Session, Transaction};

/// At most so many rows are in a page.
pub const LONGEST_PAGE: i64 = 1000;

/// Stands before every id of a user or movement.
pub const FIRST: Uuid = Uuid::nil();

/// Stands before every product.
pub const FIRST_PRODUCT: ProductId = ProductId::MIN;

/// What a node knows, wherever it is. A page is in ascending order of ids, begins after the id given, and is
/// shorter than its limit only when nothing follows.
pub trait Snapshot: Sync {
    /// Users: on the auth node its own, elsewhere what was heard of them.
    fn users(
        &self,
        after: UserId,
        limit: i64,
    ) -> impl Future<Output = Result<Vec<UserRecord>>> + Send;

    /// Products, with their stock; what was sold counts as far as its movement's id lies before `before`.
    fn products(
        &self,
        after: ProductId,
        limit: i64,
        before: Uuid,
    ) -> impl Future<Output = Result<Vec<Stock>>> + Send;

    /// The movements of sales.
    fn movements(
        &self,
        after: Uuid,
        limit: i64,
    ) -> impl Future<Output = Result<Vec<Movement>>> + Send;

    /// What is not told row by row.
    fn summary(&self) -> impl Future<Output = Result<Summary>> + Send;
}

/// A user as a node knows it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
pub struct UserRecord {
    /// Who.
    #[schema(value_type = Uuid)]
    pub id: UserId,
    /// Grows with every change of that user.
    #[schema(example = 1)]
    pub version: i64,
    /// What the user is like, if that was ever heard.
    pub user: Option<User>,
    /// Whether the account is gone.
    pub deleted: bool,
}

/// A product and its stock as a node knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, FromRow, ToSchema)]
pub struct Stock {
    /// Identifies the product.
    #[schema(example = 7)]
    pub id: ProductId,
    /// Its name.
    #[schema(example = "Blue teapot")]
    pub name: String,
    /// The price of one, in the smallest unit of the shop's currency.
    #[schema(example = 1990)]
    pub price: i64,
    /// The category it belongs to.
    #[schema(example = 2)]
    pub category_id: CategoryId,
    /// Grows with every change of that product.
    #[schema(example = 1)]
    pub version: i64,
    /// How many are left, as the node shows it.
    #[schema(example = 36)]
    pub left: i64,
    /// The sum of all its movements.
    #[schema(example = 36)]
    pub moved: i64,
    /// How many were ever stocked, by its movements.
    #[schema(example = 37)]
    pub stocked: i64,
    /// How many were sold, by its movements before the cut-off.
    #[schema(example = 1)]
    pub sold: i64,
    /// What the order node alone knows.
    #[sqlx(skip)]
    pub orders: Option<Ordered>,
}

/// What the order node alone knows of a product.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, FromRow, ToSchema)]
pub struct Ordered {
    /// How many the catalog said it stocked.
    #[schema(example = 37)]
    pub announced: i64,
    /// How many pieces the items of all orders name.
    #[schema(example = 1)]
    pub ordered: i64,
    /// How many pieces the movements of these orders took.
    #[schema(example = 1)]
    pub placed: i64,
    /// How many pieces went to orders that this database no longer has.
    #[schema(example = 0)]
    pub taken_over: i64,
}

/// What a node's books say in all.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Summary {
    /// How many events the broker has not confirmed yet.
    #[schema(example = 0)]
    pub outbox_length: i64,
    /// How many seconds the oldest of them has waited.
    #[schema(example = 0.0)]
    pub outbox_age_seconds: f64,
    /// Orders whose totals are not the sums of their items: the first hundred.
    pub wrong_totals: Vec<WrongTotal>,
    /// The greatest id of a product.
    pub newest_product: Option<ProductId>,
}

/// An order whose totals are not the sums of its items.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, FromRow, ToSchema)]
pub struct WrongTotal {
    /// Which order.
    #[schema(example = 12)]
    pub id: OrderId,
    /// How many pieces it says it has.
    #[schema(example = 2)]
    pub total_quantity: i64,
    /// How many pieces its items have.
    #[schema(example = 3)]
    pub items_quantity: i64,
    /// What it says it costs.
    #[schema(example = 3980)]
    pub total_price: i64,
    /// What its items cost.
    #[schema(example = 5970)]
    pub items_price: i64,
}

/// The books of a database that this process has open.
#[derive(Debug, Clone)]
pub struct LocalSnapshot {
    database: Database,
    schema: Schema,
}

impl LocalSnapshot {
    /// The books of this database, which holds these tables.
    pub fn new(database: &Database, schema: Schema) -> LocalSnapshot {
        LocalSnapshot { database: database.clone(), schema }
    }
}

/// One state of the database for all that is read, more time than a request has, and plans for reading whole tables.
const SNAPSHOT: &str = "
    set transaction isolation level repeatable read, read only; set local statement_timeout = '60s';
    set local enable_seqscan = on; set local plan_cache_mode = auto";

/// Longer than the database lets a statement run: only met when the network hangs.
const PATIENCE: Duration = Duration::from_secs(65);

async fn patiently<T>(reading: impl Future<Output = Result<T>>) -> Result<T> {
    let away = || Err(Error::Unavailable("the database does not answer".into()));
    tokio::time::timeout(PATIENCE, reading).await.unwrap_or_else(|_| away())
}

async fn snapshot(session: &mut Session) -> Result<Transaction<'_>> {
    let mut tx = session.begin().await?;
    sqlx::raw_sql(SNAPSHOT).execute(&mut *tx).await?;
    Ok(tx)
}

#[derive(FromRow)]
struct PersonRow {
    id: UserId,
    version: i64,
    username: Option<String>,
    email: Option<String>,
    role: Option<Role>,
    deleted: bool,
}

impl From<PersonRow> for UserRecord {
    fn from(row: PersonRow) -> UserRecord {
        let PersonRow { id, version, username, email, role, deleted } = row;
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

/// A product of version 0 is one of which nothing was heard yet.
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
        patiently(async {
            let users = match self.schema {
                Schema::Auth => USERS,
                Schema::Catalog | Schema::Order => CUSTOMERS,
            };
            let mut session = self.database.session();
            let mut tx = snapshot(&mut session).await?;
            let rows = sqlx::query_as(users).bind(after).bind(limit).fetch_all(&mut *tx);
            let rows: Vec<PersonRow> = rows.await?;
            tx.commit().await?;
            Ok(rows.into_iter().map(UserRecord::from).collect())
        })
        .await
    }

    async fn products(&self, after: ProductId, limit: i64, before: Uuid) -> Result<Vec<Stock>> {
        patiently(async {
            let mut session = self.database.session();
            let mut tx = snapshot(&mut session).await?;
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
                    let whole = |row: StockRow| Stock { orders: Some(row.ordered), ..row.stock };
                    rows.into_iter().map(whole).collect()
                }
            };
            tx.commit().await?;
            Ok(stock)
        })
        .await
    }

    async fn movements(&self, after: Uuid, limit: i64) -> Result<Vec<Movement>> {
        patiently(async {
            if self.schema == Schema::Auth {
                return Ok(vec![]);
            }
            let mut session = self.database.session();
            let mut tx = snapshot(&mut session).await?;
            let page =
                sqlx::query_as(MOVEMENTS).bind(after).bind(limit).fetch_all(&mut *tx).await?;
            tx.commit().await?;
            Ok(page)
        })
        .await
    }

    async fn summary(&self) -> Result<Summary> {
        patiently(async {
            let mut session = self.database.session();
            let mut tx = snapshot(&mut session).await?;
            let (outbox_length, outbox_age_seconds) = crate::outbox::backlog(&mut tx).await?;
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
