//! Stock: a sum of movements. The catalog node is the source of what is stocked, the order node of
//! what is sold. Each applies the other's movements, each once by its id, so that both reach the
//! same sum, also if events are repeated, late or out of order.

use std::collections::{HashMap, HashSet};

use sqlx::PgConnection;
use uuid::Uuid;

use crate::catalog::Offer;
use crate::events::StockMoved;
use crate::ids::{OrderId, ProductId};
use crate::outbox::{self, OutboxEvent};
use crate::versions::newest;
use crate::{Error, Result, sequences};
use shop_runtime::{Failpoint, SpanContext};

pub use crate::movements::{Movement, MovementKind};

/// The maximum number of movements in one event.
const MAX_MOVEMENTS_PER_EVENT: usize = 500;

/// An offer and its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProductUpdate {
    /// Grows with every change of that product.
    pub version: i64,
    /// The product as of that version.
    pub offer: Offer,
}

/// Movements as arrays, one a column.
struct Columns<'m> {
    ids: Vec<Uuid>,
    products: Vec<ProductId>,
    deltas: Vec<i64>,
    kinds: Vec<MovementKind>,
    orders: Vec<Option<OrderId>>,
    reasons: Vec<Option<&'m str>>,
}

impl<'m> Columns<'m> {
    fn of(movements: impl Iterator<Item = &'m Movement> + Clone) -> Columns<'m> {
        Columns {
            ids: movements.clone().map(|movement| movement.id).collect(),
            products: movements.clone().map(|movement| movement.product_id).collect(),
            deltas: movements.clone().map(|movement| movement.delta).collect(),
            kinds: movements.clone().map(|movement| movement.kind).collect(),
            orders: movements.clone().map(|movement| movement.order_id).collect(),
            reasons: movements.map(|movement| movement.reason.as_deref()).collect(),
        }
    }
}

const LOCK_PRODUCTS: &str =
    "select id from products where id = any($1) order by id for no key update";

/// A movement that is stored already changes nothing. A movement of an unknown product is stored
/// and changes no quantity.
const APPLY: &str = "
    with fresh as (
        insert into stock_movements (id, product_id, delta, kind, order_id, reason)
        select * from unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::text[], $5::bigint[], $6::text[])
        on conflict (id) do nothing
        returning product_id, delta
    ),
    sums as (select product_id, sum(delta)::bigint as delta from fresh group by product_id)
    update products set storage_quantity = storage_quantity + sums.delta
    from sums where products.id = sums.product_id";

/// On the catalog node: stores movements, each once, and changes the products' quantities by them.
pub async fn apply(tx: &mut PgConnection, movements: &[Movement]) -> Result<()> {
    let columns = Columns::of(movements.iter());
    sqlx::query(LOCK_PRODUCTS)
        .bind(&columns.products)
        .execute(&mut *tx)
        .failpoint("stock: lock products")
        .await?;
    sqlx::query(APPLY)
        .bind(columns.ids)
        .bind(columns.products)
        .bind(columns.deltas)
        .bind(columns.kinds)
        .bind(columns.orders)
        .bind(columns.reasons)
        .execute(tx)
        .failpoint("stock: apply")
        .await?;
    Ok(())
}

const RECORD: &str = "
    with moved as (
        insert into stock_movements (id, product_id, delta, kind, order_id, reason)
        select * from unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::text[], $5::bigint[], $6::text[])
        returning product_id, delta
    ),
    sums as (select product_id, sum(delta)::bigint as delta from moved group by product_id)
    update products set quantity = quantity + sums.delta
    from sums where products.id = sums.product_id";

/// On the order node: stores movements of locked products, changes their quantities, and sends the
/// movements to the catalog.
pub async fn record(
    tx: &mut PgConnection,
    movements: Vec<(Movement, Option<SpanContext>)>,
) -> Result<()> {
    let columns = Columns::of(movements.iter().map(|(movement, _)| movement));
    let products = columns.products.iter().collect::<HashSet<_>>().len();
    let moved = sqlx::query(RECORD)
        .bind(columns.ids)
        .bind(columns.products)
        .bind(columns.deltas)
        .bind(columns.kinds)
        .bind(columns.orders)
        .bind(columns.reasons)
        .execute(&mut *tx)
        .failpoint("stock: record")
        .await?;
    check_updated(moved.rows_affected(), products)?;
    outbox::append(tx, &events(&movements)?).await
}

/// Checks that every product existed whose quantity was to change.
pub(crate) fn check_updated(updated: u64, products: usize) -> Result<()> {
    if updated == products as u64 {
        return Ok(());
    }
    Err(Error::Internal("stock of a product that does not exist was sold".into()))
}

/// The events that send movements to the catalog. Movements of one transaction share an event,
/// except those of a recorded trace: their event continues it.
pub(crate) fn events(movements: &[(Movement, Option<SpanContext>)]) -> Result<Vec<OutboxEvent>> {
    let recorded = |trace: Option<SpanContext>| trace.filter(|trace| trace.is_recorded());
    let together = |(_, one): &_, (_, next): &_| recorded(*one) == recorded(*next);
    let parts = movements.chunk_by(together);
    let parts = parts.flat_map(|part| part.chunks(MAX_MOVEMENTS_PER_EVENT));
    let entry = |part: &[(Movement, Option<SpanContext>)]| {
        let movements = part.iter().map(|(movement, _)| movement.clone()).collect();
        let trace = part.first().and_then(|(_, trace)| *trace);
        OutboxEvent::of_trace(&StockMoved { movements }, trace)
    };
    parts.map(entry).collect()
}

/// A product that is not known yet gets version 0, so that every update of it is newer.
const ADD_PLACEHOLDERS: &str = "
    insert into products (id, name, price, category_id, stocked, quantity, version)
    select id, '', 0, 0, 0, 0, 0 from unnest($1::bigint[]) as id order by id
    on conflict (id) do nothing";

/// A movement that is stored already changes nothing. One that the catalog has as taken over
/// belongs to its order again if this database contains the order.
const TAKE_OVER: &str = "
    with missing as (
        insert into stock_movements (id, product_id, delta, kind, order_id, reason)
        select sold.id, product_id, delta,
               case when orders.id is null then 'taken_over'
                    when kind <> 'taken_over' then kind
                    when delta < 0 then 'sold' else 'changed' end,
               order_id, reason
        from unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::text[], $5::bigint[], $6::text[])
             as sold (id, product_id, delta, kind, order_id, reason)
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

/// On the order node: adds sales that the catalog has and this database does not, because it is
/// newer than they are or was restored from an older backup. Returns how many were added. An
/// unknown product is not for sale until its update arrives, so none of the stock is sold twice.
pub async fn take_over(tx: &mut PgConnection, sold: &[Movement]) -> Result<i64> {
    let columns = Columns::of(sold.iter());
    if let Some(newest) = columns.orders.iter().flatten().max() {
        let skip = sequences::skip(tx, "orders_id_seq", *newest);
        skip.failpoint("take over: skip order ids").await?;
    }
    let placeholders = sqlx::query(ADD_PLACEHOLDERS).bind(&columns.products).execute(&mut *tx);
    placeholders.failpoint("take over: add placeholders").await?;
    let lock = sqlx::query(LOCK_VERSIONS).bind(&columns.products).execute(&mut *tx);
    lock.failpoint("take over: lock").await?;
    let missing = sqlx::query_scalar(TAKE_OVER)
        .bind(columns.ids)
        .bind(columns.products)
        .bind(columns.deltas)
        .bind(columns.kinds)
        .bind(columns.orders)
        .bind(columns.reasons);
    Ok(missing.fetch_one(tx).failpoint("take over: move").await?)
}

const LOCK_VERSIONS: &str = "
    select id, version from products where id = any($1) order by id for no key update";

/// An unknown product is added with all that was stocked of it.
const ADD: &str = "
    with updates as (
        select * from unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::uuid[])
            as updates (id, name, price, category_id, stocked, version, movement_id)
    ),
    added as (
        insert into products (id, name, price, category_id, stocked, quantity, version)
        select id, name, price, category_id, stocked, stocked, version from updates order by id
        on conflict (id) do nothing
        returning id
    ),
    moved as (
        insert into stock_movements (id, product_id, delta, kind)
        select movement_id, id, stocked, 'stocked' from updates join added using (id)
    )
    select id from added";

/// A known product is changed; the difference of what was stocked is a movement.
const CHANGE: &str = "
    with updates as (
        select * from unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::uuid[])
            as updates (id, name, price, category_id, stocked, version, movement_id)
    ),
    moved as (
        insert into stock_movements (id, product_id, delta, kind)
        select updates.movement_id, updates.id, updates.stocked - products.stocked, 'stocked'
        from updates join products using (id)
    )
    update products
    set name = updates.name, price = updates.price, category_id = updates.category_id,
        version = updates.version, stocked = updates.stocked,
        quantity = products.quantity + updates.stocked - products.stocked
    from updates where products.id = updates.id
    returning products.id";

/// On the order node: applies the catalog's product updates that are newer than the stored version.
pub async fn offer(tx: &mut PgConnection, updates: &[ProductUpdate]) -> Result<()> {
    let mut newest = newest(updates, |update| (update.offer.id, update.version));
    for id in write(tx, ADD, newest.values().copied()).await? {
        newest.remove(&id);
    }
    if newest.is_empty() {
        return Ok(());
    }
    let known: Vec<_> = newest.keys().copied().collect();
    let lock = sqlx::query_as(LOCK_VERSIONS).bind(&known).fetch_all(&mut *tx);
    let versions: HashMap<ProductId, i64> =
        lock.failpoint("stock: lock offers").await?.into_iter().collect();
    let newer = |update: &&ProductUpdate| {
        versions.get(&update.offer.id).is_some_and(|known| update.version > *known)
    };
    write(tx, CHANGE, newest.into_values().filter(newer)).await?;
    Ok(())
}

/// Runs [`ADD`] or [`CHANGE`]. Returns the products that it wrote.
async fn write<'u>(
    tx: &mut PgConnection,
    statement: &'static str,
    updates: impl Iterator<Item = &'u ProductUpdate>,
) -> Result<Vec<ProductId>> {
    let updates: Vec<&ProductUpdate> = updates.collect();
    if updates.is_empty() {
        return Ok(vec![]);
    }
    let movement = |update: &&ProductUpdate| Movement::stocked_id(update.offer.id, update.version);
    sqlx::query_scalar(statement)
        .bind(updates.iter().map(|update| update.offer.id).collect::<Vec<_>>())
        .bind(updates.iter().map(|update| update.offer.name.as_str()).collect::<Vec<_>>())
        .bind(updates.iter().map(|update| update.offer.price).collect::<Vec<_>>())
        .bind(updates.iter().map(|update| update.offer.category_id).collect::<Vec<_>>())
        .bind(updates.iter().map(|update| update.offer.quantity).collect::<Vec<_>>())
        .bind(updates.iter().map(|update| update.version).collect::<Vec<_>>())
        .bind(updates.iter().map(movement).collect::<Vec<_>>())
        .fetch_all(tx)
        .failpoint("stock: offer")
        .await
        .map_err(|error| {
            Error::on_constraint(error, |constraint| {
                let detail = "the new stock is less than what is already sold".to_owned();
                (constraint == "products_quantity_check").then_some(Error::Conflict(detail))
            })
        })
}
