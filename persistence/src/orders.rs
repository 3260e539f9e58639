//! Orders and their items, decided against this node's own copy of the stock.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::mem::take;

use jiff::Timestamp;
use serde::Serialize;
use sqlx::{FromRow, PgConnection};
use utoipa::ToSchema;

use crate::ids::ProductId;
pub use crate::ids::{ItemId, OrderId};
use crate::stock::{self, Movement};
use crate::users::UserId;
use crate::{Error, FieldError, InvalidValue, Result, outbox};
use shop_runtime::{Failpoint, SpanContext};

/// An order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Order {
    /// Identifies the order.
    #[schema(example = 12)]
    pub id: OrderId,
    /// Whose it is.
    #[schema(value_type = uuid::Uuid)]
    pub user_id: UserId,
    /// The sum of its items' quantities.
    #[schema(example = 2)]
    pub total_quantity: i64,
    /// What it costs, in the smallest unit of the shop's currency.
    #[schema(example = 3980)]
    pub total_price: i64,
    /// How far it has come.
    pub status: Status,
    /// When it was placed, in UTC.
    pub created_at: Timestamp,
    /// What was ordered.
    pub items: Vec<Item>,
    /// Whose it is, when the order is read.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub user: Option<Buyer>,
}

/// How far an order has come.
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
    /// What was ordered.
    #[schema(example = 7)]
    pub product_id: ProductId,
    /// How many of it.
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

/// Whose an order is, as far as this node has heard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Buyer {
    /// Who.
    #[schema(value_type = uuid::Uuid)]
    pub id: UserId,
    /// The name now.
    pub username: String,
    /// The address now.
    pub email: String,
}

/// How many pieces of one product can be ordered at once: 1 to 10^6.
pub fn quantity(value: i64) -> Result<i64, InvalidValue> {
    InvalidValue::unless_within(value, 1..=1_000_000)
}

/// How many items an order can have: 1 to 100.
pub fn length(items: usize) -> Result<(), InvalidValue> {
    match items {
        1..=100 => Ok(()),
        _ => Err(InvalidValue("must be 1 to 100 items".into())),
    }
}

/// An order to place.
#[derive(Debug, Clone)]
pub struct NewOrder {
    user_id: UserId,
    /// Each product once.
    items: Vec<LineItem>,
}

/// How many pieces of a product are wanted, and which item of the order named it first.
#[derive(Debug, Clone)]
struct LineItem {
    product: ProductId,
    pieces: i64,
    named_at: usize,
}

impl NewOrder {
    /// An order of 1 to 100 items `(product, quantity)`. The same product named twice is one item with the sum.
    pub fn new(user_id: UserId, named: Vec<(ProductId, i64)>) -> Result<NewOrder> {
        length(named.len()).map_err(|why| Error::invalid_field("items", why.to_string()))?;
        let mut items: Vec<LineItem> = Vec::with_capacity(named.len());
        let mut invalid_field = vec![];
        for (index, (product, pieces)) in named.into_iter().enumerate() {
            let sum = match items.iter_mut().find(|item| item.product == product) {
                Some(item) => {
                    item.pieces += pieces;
                    item.pieces
                }
                None => {
                    items.push(LineItem { product, pieces, named_at: index });
                    pieces
                }
            };
            if let Err(why) = quantity(sum) {
                let detail = format!("all of product {product} together {why}");
                invalid_field
                    .push(FieldError { field: format!("items[{index}].quantity").into(), detail });
            }
        }
        match invalid_field.is_empty() {
            true => Ok(NewOrder { user_id, items }),
            false => Err(Error::Invalid(invalid_field)),
        }
    }

    /// Whose it shall be.
    pub fn user_id(&self) -> UserId {
        self.user_id
    }
}

/// Why an order was not placed.
#[derive(Debug)]
pub enum Refusal {
    /// It names a user or products that this node has not heard of; it may yet.
    UnknownReference(Vec<FieldError>),
    /// It cannot be.
    Final(Error),
}

/// The products that are for sale.
pub type Inventory = HashMap<ProductId, OnShelf>;

/// A product on the shelf: what is left of it, and what an order copies of it.
#[derive(Debug, Clone)]
pub struct OnShelf {
    /// Its name now.
    pub name: String,
    /// The price of one now, in the smallest unit of the shop's currency.
    pub price: i64,
    /// How many are left.
    pub quantity: i64,
}

/// An order that can be: its items' products and the totals.
#[derive(Debug)]
pub struct PricedOrder<'n> {
    new: &'n NewOrder,
    items: Vec<(OrderedProduct, i64)>,
    total_quantity: i64,
    total_price: i64,
}

/// Decides one order, and takes what it sells from the shelf.
pub fn decide<'n>(
    new: &'n NewOrder,
    customers: &HashSet<UserId>,
    shelf: &mut Inventory,
) -> Result<PricedOrder<'n>, Refusal> {
    let mut unknown_reference = vec![];
    if !customers.contains(&new.user_id) {
        let detail = "must be the id of a user who exists".to_owned();
        unknown_reference.push(FieldError { field: "user_id".into(), detail });
    }
    for item in new.items.iter().filter(|item| !shelf.contains_key(&item.product)) {
        let field = format!("items[{}].product_id", item.named_at).into();
        unknown_reference
            .push(FieldError { field, detail: "must be the id of a product that exists".into() });
    }
    if !unknown_reference.is_empty() {
        return Err(Refusal::UnknownReference(unknown_reference));
    }

    let mut draft = PricedOrder { new, items: vec![], total_quantity: 0, total_price: 0 };
    let mut short = vec![];
    for LineItem { product: id, pieces, .. } in &new.items {
        let product = &shelf[id];
        if product.quantity < *pieces {
            let OnShelf { name, quantity, .. } = product;
            short.push(format!(
                "only {quantity} of product {id} ({name}) are left, {pieces} were asked for"
            ));
            continue;
        }
        let price =
            product.price.checked_mul(*pieces).and_then(|p| p.checked_add(draft.total_price));
        let Some(price) = price else {
            let detail = format!("the order must not cost more than {}", i64::MAX);
            return Err(Refusal::Final(Error::invalid_field("items", detail)));
        };
        draft.total_price = price;
        draft.total_quantity += pieces;
        let ordered = OrderedProduct { id: *id, name: product.name.clone(), price: product.price };
        draft.items.push((ordered, *pieces));
    }
    if !short.is_empty() {
        return Err(Refusal::Final(Error::Conflict(format!("{}; order fewer", short.join("; ")))));
    }
    for LineItem { product: id, pieces, .. } in &new.items {
        shelf.entry(*id).and_modify(|product| product.quantity -= pieces);
    }
    Ok(draft)
}

/// What was taken over may be more than there is; a product of version 0 is one of which nothing was heard yet.
const LOCK_SHELF: &str = "
    select id, name, price, greatest(quantity, 0) as quantity
    from products where id = any($1) and version > 0 order by id for no key update";

/// Holds products as they are until the transaction ends, and numbers so many orders and items. Customers are not held: whoever
/// is gone before the order is committed was there when it was decided, so it came first.
const PREPARE: &str = "
    with product as (
        select id, name, price, greatest(quantity, 0) as quantity
        from products where id = any($2) and version > 0 order by id for no key update
    )
    select array(select id from customers where id = any($1) and not deleted and role is not null) as customers,
           shelf.*,
           array(select nextval('orders_id_seq') from generate_series(1, $3)) as orders,
           array(select nextval('order_items_id_seq') from generate_series(1, $4)) as items,
           now() as now
    from (select coalesce(array_agg(id), '{}') as products, coalesce(array_agg(name), '{}') as names,
                 coalesce(array_agg(price), '{}') as prices,
                 coalesce(array_agg(quantity), '{}') as quantities
          from product) as shelf";

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
    fn shelf(&mut self) -> Inventory {
        let products = take(&mut self.products).into_iter().zip(take(&mut self.names));
        let products = products.zip(take(&mut self.prices)).zip(take(&mut self.quantities));
        let on_shelf = |(((id, name), price), quantity)| (id, OnShelf { name, price, quantity });
        products.map(on_shelf).collect()
    }
}

/// All of it in one statement: orders, items, the movements of stock, what the catalog is told of them, and what is left of
/// the products.
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
    told as (
        insert into outbox (message_id, event, version, body, traceparent)
        select * from unnest($15::uuid[], $16::text[], $17::bigint[], $18::text[], $19::text[])
    )
    update products set quantity = quantity - sold.pieces
    from unnest($13::bigint[], $14::bigint[]) as sold (id, pieces) where products.id = sold.id";

/// Numbers for orders and items, taken from the database before it is known which can be placed. What is left is for the
/// next ones: an order that is refused, or tried again and again, leaves no gap.
#[derive(Debug, Default)]
pub struct IdPool {
    orders: VecDeque<OrderId>,
    items: VecDeque<ItemId>,
}

/// How many more are needed than there are.
fn missing<T>(needed: usize, there: &VecDeque<T>) -> i64 {
    i64::try_from(needed.saturating_sub(there.len())).unwrap_or_default()
}

/// Places orders in the order given, each decided by itself and as part of its own trace. What the outcome says is true
/// once the transaction is committed.
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
    let mut shelf = prepared.shelf();
    let customers = prepared.customers.into_iter().collect();
    id_pool.orders.extend(prepared.orders);
    id_pool.items.extend(prepared.items);

    let decisions: Vec<_> = new().map(|new| decide(new, &customers, &mut shelf)).collect();
    if decisions.iter().all(Result::is_err) {
        return Ok(decisions.into_iter().filter_map(Result::err).map(Err).collect());
    }
    let mut sold = vec![];
    let mut outcome = vec![];
    for (decision, (_, trace)) in decisions.into_iter().zip(orders) {
        outcome.push(decision.map(|draft| {
            let id = id_pool.orders.pop_front().expect("a number for every order");
            let item = |(product, product_quantity): (OrderedProduct, i64)| {
                sold.push((Movement::sold(product.id, -product_quantity, id), *trace));
                let item_id = id_pool.items.pop_front().expect("a number for every item");
                Item {
                    id: item_id,
                    order_id: id,
                    product_id: product.id,
                    product_quantity,
                    product,
                }
            };
            Order {
                id,
                user_id: draft.new.user_id,
                total_quantity: draft.total_quantity,
                total_price: draft.total_price,
                status: Status::Created,
                created_at: prepared.now,
                items: draft.items.into_iter().map(item).collect(),
                user: None,
            }
        }));
    }
    insert(tx, &outcome.iter().flatten().collect::<Vec<_>>(), &sold).await?;
    Ok(outcome)
}

async fn insert(
    tx: &mut PgConnection,
    orders: &[&Order],
    sold: &[(Movement, Option<SpanContext>)],
) -> Result<()> {
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
        .bind(sold.iter().map(|(movement, _)| movement.id).collect::<Vec<_>>())
        .bind(sold.iter().map(|(movement, _)| movement.delta).collect::<Vec<_>>())
        .bind(pieces.keys().copied().collect::<Vec<_>>())
        .bind(pieces.values().copied().collect::<Vec<_>>());
    let insert = outbox::bind(insert, &stock::events(sold)?);
    let inserted = insert.execute(tx).failpoint("place: insert").await?;
    stock::check_updated(inserted.rows_affected(), pieces.len())
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

/// Whose the order is; it stays as it is until the transaction ends.
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

/// A row of [`FIND_ITEM`]: an item, and what its whole order costs.
#[derive(FromRow)]
struct FoundItem {
    #[sqlx(flatten)]
    item: Item,
    total_price: i64,
}

const SET_QUANTITY: &str = "
    with item as (update order_items set product_quantity = $3 where id = $2)
    update orders
    set total_quantity = total_quantity + $4, total_price = total_price + $5
    where id = $1";

/// Changes how many pieces an item of a locked order has; stock and the order's totals move with it.
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
    let shelf = sqlx::query_as(LOCK_SHELF).bind([item.product_id]).fetch_one(&mut *tx);
    let (_, name, _, left): (ProductId, String, i64, i64) =
        shelf.failpoint("update: lock shelf").await?;
    if left < more {
        let id = item.product_id;
        return Err(Error::Conflict(format!(
            "only {left} more of product {id} ({name}) are left, {more} more were asked for; order fewer"
        )));
    }
    let price = item.product.price.checked_mul(more);
    let Some(price) = price.filter(|price| total_price.checked_add(*price).is_some()) else {
        return Err(Error::invalid_field(
            "quantity",
            format!("the order must not cost more than {}", i64::MAX),
        ));
    };
    let set =
        sqlx::query(SET_QUANTITY).bind(order).bind(item.id).bind(quantity).bind(more).bind(price);
    set.execute(&mut *tx).failpoint("update: set quantity").await?;
    let movement = Movement::changed(item.product_id, -more, order);
    stock::record(tx, vec![(movement, SpanContext::current())]).await?;
    item.product_quantity = quantity;
    Ok(item)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn shelf(left: &[i64]) -> Inventory {
        let on_shelf = |&quantity: &i64| OnShelf { name: "cup".into(), price: 7, quantity };
        (0..).zip(left.iter().map(on_shelf)).collect()
    }

    fn left(shelf: &Inventory) -> i64 {
        shelf.values().map(|product| product.quantity).sum()
    }

    /// Up to 30 orders of up to 5 items each, of products of which there are 0 to 40 pieces.
    fn orders_and_stock() -> impl Strategy<Value = (Vec<Vec<(ProductId, i64)>>, Vec<i64>)> {
        let stock = prop::collection::vec(0..=40_i64, 1..=4);
        stock.prop_flat_map(|stock| {
            let item = (0..stock.len() as ProductId, 1..=15_i64);
            let order = prop::collection::vec(item, 1..=5);
            (prop::collection::vec(order, 0..=30), Just(stock))
        })
    }

    proptest! {
        #[test]
        fn orders_never_sell_more_than_there_is((orders, stock) in orders_and_stock()) {
            let buyer = Uuid::now_v7();
            let customers = HashSet::from([buyer]);
            let mut shelf = shelf(&stock);
            let mut sold = 0;
            for named in orders {
                let before = shelf.clone();
                let fits = before.iter().all(|(id, product)| {
                    let wanted = named.iter().filter(|(named, _)| named == id);
                    wanted.map(|(_, pieces)| pieces).sum::<i64>() <= product.quantity
                });
                let new = NewOrder::new(buyer, named.clone()).expect("an order");
                let decision = decide(&new, &customers, &mut shelf);
                prop_assert_eq!(decision.is_ok(), fits, "what came before decides, and nothing else");
                match decision {
                    Ok(draft) => {
                        let pieces: i64 = named.iter().map(|(_, pieces)| pieces).sum();
                        prop_assert_eq!(draft.total_quantity, pieces);
                        prop_assert_eq!(draft.total_price, 7 * pieces);
                        let products: HashSet<_> = draft.items.iter().map(|(p, _)| p.id).collect();
                        prop_assert_eq!(products.len(), draft.items.len(), "each product once");
                        sold += pieces;
                    }
                    Err(_) => prop_assert_eq!(left(&shelf), left(&before), "all or nothing"),
                }
                prop_assert!(shelf.values().all(|product| product.quantity >= 0));
                prop_assert_eq!(left(&shelf) + sold, stock.iter().sum::<i64>());
            }
        }
    }
}
