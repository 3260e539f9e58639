//! Stock: a sum of movements. The catalog node is the source of what is stocked, the order node of what is sold;
//! each applies the other's movements, once each by their ids, so both come to the same sum whatever is
//! repeated, late or out of order.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};
use sqlx::{FromRow, PgConnection};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::catalog::{CategoryId, ProductId};
use crate::events::{StockMoved, newest};
use crate::orders::OrderId;
use crate::outbox::{self, OutboxEvent};
use crate::{Error, Result, sequences};
use shop_runtime::{Failpoint, SpanContext};

/// A movement of stock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, FromRow, ToSchema)]
pub struct Movement {
    /// Unique to the movement, on every node.
    pub id: Uuid,
    /// What moved.
    #[schema(example = 7)]
    pub product_id: ProductId,
    /// How many pieces came (positive) or went (negative).
    #[schema(example = -1)]
    pub delta: i64,
    /// Why, for whoever reads the ledger.
    #[schema(example = "order 12")]
    pub cause: String,
}

/// Stands before the cause of a movement whose order this database no longer has.
const TAKEN_OVER: &str = "taken over: ";

impl Movement {
    /// Stock that came with a version of a product; its id follows from both, so it is the same on every node.
    pub fn stocked(product_id: ProductId, version: i64, delta: i64) -> Movement {
        let id = Movement::stocked_id(product_id, version);
        Movement { id, product_id, delta, cause: "stocked".into() }
    }

    fn stocked_id(product_id: ProductId, version: i64) -> Uuid {
        let name = format!("product {product_id} version {version}");
        Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes())
    }

    /// Stock that an order took, or gave back.
    pub fn sold(product_id: ProductId, delta: i64, order: OrderId) -> Movement {
        Movement { id: Uuid::now_v7(), product_id, delta, cause: format!("order {order}") }
    }
}

/// At most so many movements are told of in one event.
const MOST_TOLD: usize = 500;

/// A product as the catalog announces it, with all that was ever stocked of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Offer {
    /// What.
    pub id: ProductId,
    /// Its name.
    pub name: String,
    /// The price of one, in the smallest unit of the shop's currency.
    pub price: i64,
    /// How many were stocked.
    pub quantity: i64,
    /// The category it belongs to.
    pub category_id: CategoryId,
}

/// An offer, and how new it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProductUpdate {
    /// Grows with every change of that product.
    pub version: i64,
    /// What is offered.
    pub offer: Offer,
}

const LOCK_PRODUCTS: &str =
    "select id from products where id = any($1) order by id for no key update";

/// A movement that was written before changes nothing. One of a product that this node does not know
/// stays in the ledger and changes no quantity.
const APPLY: &str = "
    with fresh as (
        insert into stock_movements (id, product_id, delta, cause)
        select * from unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::text[])
        on conflict (id) do nothing
        returning product_id, delta
    ),
    sums as (select product_id, sum(delta)::bigint as delta from fresh group by product_id)
    update products set storage_quantity = storage_quantity + sums.delta
    from sums where products.id = sums.product_id";

/// The catalog node: writes movements into the ledger, each once, and moves the products' quantities with them.
pub async fn apply(tx: &mut PgConnection, movements: &[Movement]) -> Result<()> {
    let products: Vec<_> = movements.iter().map(|movement| movement.product_id).collect();
    sqlx::query(LOCK_PRODUCTS)
        .bind(&products)
        .execute(&mut *tx)
        .failpoint("stock: lock products")
        .await?;
    sqlx::query(APPLY)
        .bind(movements.iter().map(|movement| movement.id).collect::<Vec<_>>())
        .bind(&products)
        .bind(movements.iter().map(|movement| movement.delta).collect::<Vec<_>>())
        .bind(movements.iter().map(|movement| movement.cause.as_str()).collect::<Vec<_>>())
        .execute(tx)
        .failpoint("stock: apply")
        .await?;
    Ok(())
}

const SELL: &str = "
    with moved as (
        insert into stock_movements (id, product_id, delta, cause)
        select * from unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::text[])
        returning product_id, delta
    ),
    sums as (select product_id, sum(delta)::bigint as delta from moved group by product_id)
    update products set quantity = quantity + sums.delta
    from sums where products.id = sums.product_id";

/// The order node: takes sold pieces from products that are locked, and says so to the catalog.
pub async fn sell(tx: &mut PgConnection, sold: Vec<(Movement, Option<SpanContext>)>) -> Result<()> {
    let movements = || sold.iter().map(|(movement, _)| movement);
    let products: HashSet<_> = movements().map(|movement| movement.product_id).collect();
    let moved = sqlx::query(SELL)
        .bind(movements().map(|movement| movement.id).collect::<Vec<_>>())
        .bind(movements().map(|movement| movement.product_id).collect::<Vec<_>>())
        .bind(movements().map(|movement| movement.delta).collect::<Vec<_>>())
        .bind(movements().map(|movement| movement.cause.as_str()).collect::<Vec<_>>())
        .execute(&mut *tx)
        .failpoint("stock: sell")
        .await?;
    must_be_all(moved.rows_affected(), products.len())?;
    outbox::append(tx, &told(&sold)?).await
}

/// That every product was there whose stock was to move.
pub(crate) fn must_be_all(moved: u64, products: usize) -> Result<()> {
    match moved == products as u64 {
        true => Ok(()),
        false => Err(Error::Internal("a product is sold that is not there".into())),
    }
}

/// What the catalog is told of what was sold. What was moved together is told together, but for what belongs to a trace that
/// is recorded: that goes on in it.
pub(crate) fn told(sold: &[(Movement, Option<SpanContext>)]) -> Result<Vec<OutboxEvent>> {
    let recorded = |trace: Option<SpanContext>| trace.filter(|trace| trace.is_recorded());
    let together = |(_, one): &_, (_, next): &_| recorded(*one) == recorded(*next);
    let parts = sold.chunk_by(together).flat_map(|part| part.chunks(MOST_TOLD));
    let entry = |part: &[(Movement, Option<SpanContext>)]| {
        let movements = part.iter().map(|(movement, _)| movement.clone()).collect();
        let trace = part.first().and_then(|(_, trace)| *trace);
        OutboxEvent::of_trace(&StockMoved { movements }, trace)
    };
    parts.map(entry).collect()
}

/// A product of which nothing was heard yet has version 0, so that every news of it is newer.
const MAKE_ROOM: &str = "
    insert into products (id, name, price, category_id, stocked, quantity, version)
    select id, '', 0, 0, 0, 0, 0 from unnest($1::bigint[]) as id order by id
    on conflict (id) do nothing";

/// A movement that this node knows changes nothing.
const TAKE_OVER: &str = "
    with missing as (
        insert into stock_movements (id, product_id, delta, cause)
        select sold.id, product_id, delta, case when orders.id is null then $6 else '' end || cause
        from unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::text[], $5::bigint[])
             as sold (id, product_id, delta, cause, order_id)
        left join orders on orders.id = order_id
        on conflict (id) do nothing
        returning product_id, delta
    ),
    sums as (
        select product_id, sum(delta)::bigint as delta, count(*) from missing group by product_id
    ),
    moved as (
        update products
        set quantity = quantity + sums.delta, taken_over = taken_over - sums.delta
        from sums where products.id = sums.product_id
    )
    select coalesce(sum(count), 0)::bigint from sums";

/// The order node: takes over sales that the catalog remembers and this database does not, because it is younger
/// than they are or was restored from before them. Says how many these were. A product that this node has not heard
/// of is not for sale before it has, so nothing of what is sold is sold again.
pub async fn take_over(tx: &mut PgConnection, sold: &[Movement]) -> Result<i64> {
    let cause = |movement: &Movement| {
        movement.cause.strip_prefix(TAKEN_OVER).unwrap_or(&movement.cause).to_owned()
    };
    let causes: Vec<String> = sold.iter().map(cause).collect();
    let order = |cause: &String| cause.strip_prefix("order ")?.parse().ok();
    let orders: Vec<Option<OrderId>> = causes.iter().map(order).collect();
    let products: Vec<_> = sold.iter().map(|movement| movement.product_id).collect();
    if let Some(newest) = orders.iter().flatten().max() {
        let skip = sequences::skip(tx, "orders_id_seq", *newest);
        skip.failpoint("take over: pass over orders").await?;
    }
    let make_room = sqlx::query(MAKE_ROOM).bind(&products).execute(&mut *tx);
    make_room.failpoint("take over: make room").await?;
    let lock = sqlx::query(LOCK_OFFERS).bind(&products).execute(&mut *tx);
    lock.failpoint("take over: lock").await?;
    let missing = sqlx::query_scalar(TAKE_OVER)
        .bind(sold.iter().map(|movement| movement.id).collect::<Vec<_>>())
        .bind(&products)
        .bind(sold.iter().map(|movement| movement.delta).collect::<Vec<_>>())
        .bind(&causes)
        .bind(&orders)
        .bind(TAKEN_OVER);
    Ok(missing.fetch_one(tx).failpoint("take over: move").await?)
}

const LOCK_OFFERS: &str = "
    select id, version from products where id = any($1) order by id for no key update";

/// What is not known yet is added with all that was stocked of it.
const ADD: &str = "
    with news as (
        select * from unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::uuid[])
            as news (id, name, price, category_id, stocked, version, movement_id)
    ),
    added as (
        insert into products (id, name, price, category_id, stocked, quantity, version)
        select id, name, price, category_id, stocked, stocked, version from news order by id
        on conflict (id) do nothing
        returning id
    ),
    moved as (
        insert into stock_movements (id, product_id, delta, cause)
        select movement_id, id, stocked, 'stocked' from news join added using (id)
    )
    select id from added";

/// What is known is changed, and what was stocked more is a movement.
const CHANGE: &str = "
    with news as (
        select * from unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::uuid[])
            as news (id, name, price, category_id, stocked, version, movement_id)
    ),
    moved as (
        insert into stock_movements (id, product_id, delta, cause)
        select news.movement_id, news.id, news.stocked - products.stocked, 'stocked'
        from news join products using (id)
    )
    update products
    set name = news.name, price = news.price, category_id = news.category_id, version = news.version,
        quantity = products.quantity + news.stocked - products.stocked, stocked = news.stocked
    from news where products.id = news.id
    returning products.id";

/// The order node: takes over what the catalog announced, unless newer is known. What it stocked more than
/// before is a movement.
pub async fn offer(tx: &mut PgConnection, news: &[ProductUpdate]) -> Result<()> {
    let mut newest = newest(news, |news| (news.offer.id, news.version));
    for id in write(tx, ADD, newest.values().copied()).await? {
        newest.remove(&id);
    }
    if newest.is_empty() {
        return Ok(());
    }
    let known: Vec<_> = newest.keys().copied().collect();
    let lock = sqlx::query_as(LOCK_OFFERS).bind(&known).fetch_all(&mut *tx);
    let versions: HashMap<ProductId, i64> =
        lock.failpoint("stock: lock offers").await?.into_iter().collect();
    let newer =
        |news: &&ProductUpdate| versions.get(&news.offer.id).is_some_and(|it| news.version > *it);
    write(tx, CHANGE, newest.into_values().filter(newer)).await?;
    Ok(())
}

/// Writes each of the news, and says of which products it wrote.
async fn write<'n>(
    tx: &mut PgConnection,
    statement: &'static str,
    news: impl Iterator<Item = &'n ProductUpdate>,
) -> Result<Vec<ProductId>> {
    let news: Vec<&ProductUpdate> = news.collect();
    if news.is_empty() {
        return Ok(vec![]);
    }
    let movement = |news: &&ProductUpdate| Movement::stocked_id(news.offer.id, news.version);
    sqlx::query_scalar(statement)
        .bind(news.iter().map(|news| news.offer.id).collect::<Vec<_>>())
        .bind(news.iter().map(|news| news.offer.name.as_str()).collect::<Vec<_>>())
        .bind(news.iter().map(|news| news.offer.price).collect::<Vec<_>>())
        .bind(news.iter().map(|news| news.offer.category_id).collect::<Vec<_>>())
        .bind(news.iter().map(|news| news.offer.quantity).collect::<Vec<_>>())
        .bind(news.iter().map(|news| news.version).collect::<Vec<_>>())
        .bind(news.iter().map(movement).collect::<Vec<_>>())
        .fetch_all(tx)
        .failpoint("stock: offer")
        .await
        .map_err(|error| {
            Error::on_constraint(error, |constraint| {
                let sold = "less would be stocked than is sold already".to_owned();
                (constraint == "products_quantity_check").then_some(Error::Conflict(sold))
            })
        })
}
