//! Orders and their items. The order node decides them on its own copy of the stock.

mod decision;
mod placement;

use jiff::Timestamp;
use serde::Serialize;
use sqlx::{FromRow, PgConnection};
use utoipa::ToSchema;

pub use crate::ids::{ItemId, OrderId};
use crate::ids::{ProductId, UserId};
use crate::stock::{self, Movement};
use crate::{Error, InvalidValue, Result};
use shop_runtime::{Failpoint, SpanContext};

pub use decision::{Inventory, NewOrder, PricedOrder, Refusal, StockedProduct, decide};
pub use placement::{IdPool, place};

/// An order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Order {
    /// Identifies the order.
    #[schema(example = 12)]
    pub id: OrderId,
    /// The user it belongs to.
    #[schema(value_type = uuid::Uuid)]
    pub user_id: UserId,
    /// The sum of its items' quantities.
    #[schema(example = 2)]
    pub total_quantity: i64,
    /// The sum of its items' prices, in the smallest unit of the shop's currency.
    #[schema(example = 3980)]
    pub total_price: i64,
    /// Its state.
    pub status: Status,
    /// When it was placed, in UTC.
    pub created_at: Timestamp,
    /// Its items.
    pub items: Vec<Item>,
    /// The user it belongs to, if one order is read.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub user: Option<Buyer>,
}

/// The state of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "lowercase")]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub enum Status {
    /// It was placed, and its stock is taken.
    Created,
}

/// An item of an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, FromRow, ToSchema)]
pub struct Item {
    /// Identifies the item.
    #[sqlx(rename = "item_id")]
    #[schema(example = 31)]
    pub id: ItemId,
    /// The order it belongs to.
    #[schema(example = 12)]
    pub order_id: OrderId,
    /// The product.
    #[schema(example = 7)]
    pub product_id: ProductId,
    /// The number of pieces.
    #[schema(example = 2)]
    pub product_quantity: i64,
    /// The product as it was when the order was placed.
    #[sqlx(flatten)]
    pub product: OrderedProduct,
}

/// A product as it was when the order was placed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, FromRow, ToSchema)]
pub struct OrderedProduct {
    /// Identifies the product.
    #[sqlx(rename = "product_id")]
    #[schema(example = 7)]
    pub id: ProductId,
    /// Its name then.
    #[sqlx(rename = "product_name")]
    #[schema(example = "Blue teapot")]
    pub name: String,
    /// The price of one then, in the smallest unit of the shop's currency.
    #[sqlx(rename = "product_price")]
    #[schema(example = 1990)]
    pub price: i64,
}

/// The user an order belongs to, as this node knows it. Name and address are empty if it does not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Buyer {
    /// Identifies the user.
    #[schema(value_type = uuid::Uuid)]
    pub id: UserId,
    /// The current name.
    pub username: String,
    /// The current address.
    pub email: String,
}

/// The quantity of a product in an order: 1 to 10^6 pieces.
pub fn quantity(value: i64) -> Result<i64, InvalidValue> {
    InvalidValue::unless_within(value, 1..=1_000_000)
}

/// The number of items of an order: 1 to 100.
pub fn length(items: usize) -> Result<(), InvalidValue> {
    match items {
        1..=100 => Ok(()),
        _ => Err(InvalidValue("must be 1 to 100 items".into())),
    }
}

const FIND: &str = "
    select o.user_id, o.total_quantity, o.total_price, o.status, o.created_at,
           coalesce(c.username, '') as username, coalesce(c.email, '') as email,
           i.id as item_id, i.order_id, i.product_id, i.product_quantity, i.product_name, i.product_price
    from orders o
    join order_items i on i.order_id = o.id
    left join customers c on c.id = o.user_id
    where o.id = $1
    order by i.id";

/// A row of [`FIND`]: an item, and the order it belongs to.
#[derive(FromRow)]
struct Found {
    user_id: UserId,
    total_quantity: i64,
    total_price: i64,
    status: Status,
    #[sqlx(try_from = "jiff_sqlx::Timestamp")]
    created_at: Timestamp,
    username: String,
    email: String,
    #[sqlx(flatten)]
    item: Item,
}

/// Finds an order with its items and its user.
pub async fn find(connection: &mut PgConnection, id: OrderId) -> Result<Order> {
    let mut rows: Vec<Found> =
        sqlx::query_as(FIND).bind(id).fetch_all(connection).failpoint("find: order").await?;
    let items = rows.iter().map(|row| row.item.clone()).collect();
    let order = rows.pop().ok_or(Error::NotFound("order"))?;
    Ok(Order {
        id,
        user_id: order.user_id,
        total_quantity: order.total_quantity,
        total_price: order.total_price,
        status: order.status,
        created_at: order.created_at,
        items,
        user: Some(Buyer { id: order.user_id, username: order.username, email: order.email }),
    })
}

const LOCK: &str = "select user_id from orders where id = $1 for no key update";

/// Locks an order until the transaction ends. Returns the user it belongs to.
pub async fn lock(tx: &mut PgConnection, id: OrderId) -> Result<UserId> {
    let owner = sqlx::query_scalar(LOCK)
        .bind(id)
        .fetch_optional(tx)
        .failpoint("update: lock order")
        .await?;
    owner.ok_or(Error::NotFound("order"))
}

const FIND_ITEM: &str = "
    select i.id as item_id, i.order_id, i.product_id, i.product_quantity, i.product_name, i.product_price,
           o.total_price
    from order_items i join orders o on o.id = i.order_id
    where o.id = $1 and i.id = $2";

/// A row of [`FIND_ITEM`]: an item, and the total price of its order.
#[derive(FromRow)]
struct FoundItem {
    #[sqlx(flatten)]
    item: Item,
    total_price: i64,
}

/// A quantity below zero counts as none: more was taken over than there was.
const LOCK_PRODUCT: &str = "
    select name, greatest(quantity, 0) from products where id = $1 for no key update";

const SET_QUANTITY: &str = "
    with item as (update order_items set product_quantity = $3 where id = $2)
    update orders
    set total_quantity = total_quantity + $4, total_price = total_price + $5
    where id = $1";

/// Changes the quantity of an item of a locked order, and with it the stock and the order's totals.
pub async fn set_quantity(
    tx: &mut PgConnection,
    order: OrderId,
    item: ItemId,
    quantity: i64,
) -> Result<Item> {
    let found = sqlx::query_as(FIND_ITEM)
        .bind(order)
        .bind(item)
        .fetch_optional(&mut *tx)
        .failpoint("update: find item")
        .await?;
    let found: Option<FoundItem> = found;
    let FoundItem { mut item, total_price } = found.ok_or(Error::NotFound("item of this order"))?;
    let more = quantity - item.product_quantity;
    if more == 0 {
        return Ok(item);
    }
    let product = sqlx::query_as(LOCK_PRODUCT).bind(item.product_id).fetch_one(&mut *tx);
    let (name, left): (String, i64) = product.failpoint("update: lock product").await?;
    if left < more {
        let id = item.product_id;
        return Err(Error::Conflict(format!(
            "only {left} more of product {id} ({name}) are left, {more} more were asked for; order fewer"
        )));
    }
    let price = item.product.price.checked_mul(more);
    let Some(price) = price.filter(|price| total_price.checked_add(*price).is_some()) else {
        return Err(Error::invalid_field("quantity", decision::too_expensive()));
    };
    let set =
        sqlx::query(SET_QUANTITY).bind(order).bind(item.id).bind(quantity).bind(more).bind(price);
    set.execute(&mut *tx).failpoint("update: set quantity").await?;
    let movement = Movement::changed(item.product_id, -more, order);
    stock::record(tx, vec![(movement, SpanContext::current())]).await?;
    item.product_quantity = quantity;
    Ok(item)
}
