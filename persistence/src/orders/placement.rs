//! Placing a batch of orders: one statement reads and locks, one writes.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::mem::take;

use jiff::Timestamp;
use shop_runtime::{Failpoint, SpanContext};
use sqlx::{FromRow, PgConnection};

use super::{
    Inventory, Item, ItemId, NewOrder, Order, OrderId, PricedOrder, Refusal, Status,
    StockedProduct, decide,
};
use crate::ids::{ProductId, UserId};
use crate::stock::{self, Movement};
use crate::{Result, outbox};

/// Locks the products until the transaction ends, and takes ids for orders and items. Customers are
/// not locked: a user who is deleted before the commit existed when the order was decided. A
/// product of version 0 is a placeholder. A quantity below zero counts as none: more was taken over
/// than there was.
const PREPARE: &str = "
    with product as (
        select id, name, price, greatest(quantity, 0) as quantity
        from products where id = any($2) and version > 0 order by id for no key update
    )
    select array(select id from customers where id = any($1) and not deleted and role is not null) as customers,
           inventory.*,
           array(select nextval('orders_id_seq') from generate_series(1, $3)) as orders,
           array(select nextval('order_items_id_seq') from generate_series(1, $4)) as items,
           now() as now
    from (select coalesce(array_agg(id), '{}') as products, coalesce(array_agg(name), '{}') as names,
                 coalesce(array_agg(price), '{}') as prices,
                 coalesce(array_agg(quantity), '{}') as quantities
          from product) as inventory";

/// The row of [`PREPARE`].
#[derive(FromRow)]
struct Prepared {
    customers: Vec<UserId>,
    products: Vec<ProductId>,
    names: Vec<String>,
    prices: Vec<i64>,
    quantities: Vec<i64>,
    orders: Vec<OrderId>,
    items: Vec<ItemId>,
    #[sqlx(try_from = "jiff_sqlx::Timestamp")]
    now: Timestamp,
}

impl Prepared {
    fn inventory(&mut self) -> Inventory {
        let products = take(&mut self.products).into_iter().zip(take(&mut self.names));
        let products = products.zip(take(&mut self.prices)).zip(take(&mut self.quantities));
        let product =
            |(((id, name), price), quantity)| (id, StockedProduct { name, price, quantity });
        products.map(product).collect()
    }
}

/// Ids for orders and items, taken from the database before it is known which orders can be placed.
/// What is left is used for the next batch: a refused or retried order leaves no gap.
#[derive(Debug, Default)]
pub struct IdPool {
    orders: VecDeque<OrderId>,
    items: VecDeque<ItemId>,
}

/// How many ids to add to a pool so that it has as many as are needed.
fn missing<T>(needed: usize, pool: &VecDeque<T>) -> i64 {
    i64::try_from(needed.saturating_sub(pool.len())).unwrap_or_default()
}

/// A movement and the trace that it belongs to.
type Sale = (Movement, Option<SpanContext>);

/// Decides and places orders in the given order, each in its own trace. The outcome is final once
/// the transaction commits.
pub async fn place(
    tx: &mut PgConnection,
    orders: &[(&NewOrder, Option<SpanContext>)],
    id_pool: &mut IdPool,
) -> Result<Vec<Result<Order, Refusal>>> {
    let new = || orders.iter().map(|(new, _)| *new);
    let products: Vec<_> = new().flat_map(|new| &new.items).map(|item| item.product).collect();
    let mut prepared: Prepared = sqlx::query_as(PREPARE)
        .bind(new().map(|new| new.user_id).collect::<Vec<_>>())
        .bind(&products)
        .bind(missing(orders.len(), &id_pool.orders))
        .bind(missing(products.len(), &id_pool.items))
        .fetch_one(&mut *tx)
        .failpoint("place: prepare")
        .await?;
    let mut inventory = prepared.inventory();
    let customers: HashSet<UserId> = prepared.customers.into_iter().collect();
    id_pool.orders.extend(prepared.orders);
    id_pool.items.extend(prepared.items);

    let mut sales = vec![];
    let mut outcomes = vec![];
    for (new, trace) in orders {
        let decision = decide(new, &customers, &mut inventory);
        outcomes.push(decision.map(|priced| {
            let order = priced.into_order(id_pool, prepared.now);
            let sale = |item: &Item| {
                (Movement::sold(item.product_id, -item.product_quantity, order.id), *trace)
            };
            sales.extend(order.items.iter().map(sale));
            order
        }));
    }
    let placed: Vec<&Order> = outcomes.iter().flatten().collect();
    if !placed.is_empty() {
        insert(tx, &placed, &sales).await?;
    }
    Ok(outcomes)
}

impl PricedOrder<'_> {
    fn into_order(self, id_pool: &mut IdPool, created_at: Timestamp) -> Order {
        let id = id_pool.orders.pop_front().expect("an id for every order");
        let items = self.items.into_iter().map(|(product, product_quantity)| Item {
            id: id_pool.items.pop_front().expect("an id for every item"),
            order_id: id,
            product_id: product.id,
            product_quantity,
            product,
        });
        Order {
            id,
            user_id: self.new.user_id,
            total_quantity: self.total_quantity,
            total_price: self.total_price,
            status: Status::Created,
            created_at,
            items: items.collect(),
            user: None,
        }
    }
}

/// Writes orders, items, stock movements and the events about them, and what is left of the
/// products, in one statement.
const INSERT: &str = "
    with placed as (
        insert into orders (id, user_id, total_quantity, total_price, status, created_at)
        select placed.*, 'created', now()
        from unnest($1::bigint[], $2::uuid[], $3::bigint[], $4::bigint[]) as placed
    ),
    items as (
        insert into order_items (id, order_id, product_id, product_quantity, product_name, product_price)
        select * from unnest($5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[], $9::text[], $10::bigint[])
    ),
    moved as (
        insert into stock_movements (id, product_id, delta, kind, order_id)
        select id, product_id, delta, 'sold', order_id
        from unnest($11::uuid[], $7::bigint[], $12::bigint[], $6::bigint[])
             as sold (id, product_id, delta, order_id)
    ),
    events as (
        insert into outbox (message_id, event, version, body, traceparent)
        select * from unnest($15::uuid[], $16::text[], $17::bigint[], $18::text[], $19::text[])
    )
    update products set quantity = quantity - sold.pieces
    from unnest($13::bigint[], $14::bigint[]) as sold (id, pieces) where products.id = sold.id";

async fn insert(tx: &mut PgConnection, orders: &[&Order], sales: &[Sale]) -> Result<()> {
    let items = || orders.iter().flat_map(|order| &order.items);
    let mut pieces: BTreeMap<ProductId, i64> = BTreeMap::new();
    for item in items() {
        *pieces.entry(item.product_id).or_default() += item.product_quantity;
    }
    let insert = sqlx::query(INSERT)
        .bind(orders.iter().map(|order| order.id).collect::<Vec<_>>())
        .bind(orders.iter().map(|order| order.user_id).collect::<Vec<_>>())
        .bind(orders.iter().map(|order| order.total_quantity).collect::<Vec<_>>())
        .bind(orders.iter().map(|order| order.total_price).collect::<Vec<_>>())
        .bind(items().map(|item| item.id).collect::<Vec<_>>())
        .bind(items().map(|item| item.order_id).collect::<Vec<_>>())
        .bind(items().map(|item| item.product_id).collect::<Vec<_>>())
        .bind(items().map(|item| item.product_quantity).collect::<Vec<_>>())
        .bind(items().map(|item| item.product.name.as_str()).collect::<Vec<_>>())
        .bind(items().map(|item| item.product.price).collect::<Vec<_>>())
        .bind(sales.iter().map(|(movement, _)| movement.id).collect::<Vec<_>>())
        .bind(sales.iter().map(|(movement, _)| movement.delta).collect::<Vec<_>>())
        .bind(pieces.keys().copied().collect::<Vec<_>>())
        .bind(pieces.values().copied().collect::<Vec<_>>());
    let insert = outbox::bind(insert, &stock::events(sales)?);
    let inserted = insert.execute(tx).failpoint("place: insert").await?;
    stock::check_updated(inserted.rows_affected(), pieces.len())
}
