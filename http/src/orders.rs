//! Orders: placing, reading, changing an item.

use axum::Json as Answer;
use axum::extract::State;
use axum::http::StatusCode;
use deserr::Deserr;
use shop_actors::orders::{MAX_BATCH, Msg};
use shop_persistence::InvalidValue;
use shop_persistence::catalog::ProductId;
use shop_persistence::orders::{self, Item, ItemId, NewOrder, Order, OrderId};
use shop_persistence::users::UserId;
use shop_runtime::Addr;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::{Access, Routes};
use crate::body::{BrokenRules, Json, Path, uuid};
use crate::context::Authenticated;
use crate::idempotency::{Idempotent, IdempotentResponse, KeyHeader};
use crate::problem::{Problem, Result};

/// The order node's routes.
pub fn routes(orders: Addr<Msg>) -> Routes {
    let user = OpenApiRouter::new()
        .routes(routes!(place))
        .routes(routes!(find))
        .routes(routes!(set_quantity));
    vec![(Access::User, user.with_state(orders))]
}

/// An order to place.
#[derive(Debug, Deserr, ToSchema)]
#[deserr(error = BrokenRules)]
struct PlaceOrder {
    /// Whose it shall be: the caller's own, or for an administrator anybody's.
    #[deserr(try_from(String) = uuid -> InvalidValue)]
    #[schema(value_type = uuid::Uuid)]
    user_id: UserId,
    /// 1 to 100 items.
    #[deserr(try_from(Vec<OrderItem>) = some_items -> InvalidValue)]
    #[schema(value_type = Vec<OrderItem>, min_items = 1, max_items = 100)]
    items: Vec<OrderItem>,
}

/// An item to order.
#[derive(Debug, Deserr, ToSchema)]
#[deserr(error = BrokenRules)]
struct OrderItem {
    /// What.
    #[schema(example = 7)]
    product_id: ProductId,
    /// How many of it.
    #[deserr(try_from(i64) = orders::quantity -> InvalidValue)]
    #[schema(minimum = 1, maximum = 1_000_000, example = 2)]
    quantity: i64,
}

fn some_items(items: Vec<OrderItem>) -> Result<Vec<OrderItem>, InvalidValue> {
    orders::length(items.len())?;
    Ok(items)
}

/// Places an order: all of it or none of it.
#[utoipa::path(
    post, path = "/order", tag = "orders", params(KeyHeader), request_body = PlaceOrder,
    responses((status = 201, body = Order), (status = "default", response = Problem))
)]
async fn place(
    State(orders): State<Addr<Msg>>,
    Authenticated(caller): Authenticated,
    Idempotent(named, Json(PlaceOrder { user_id, items })): Idempotent<Json<PlaceOrder>>,
) -> Result<IdempotentResponse<Order>> {
    let items = items.into_iter().map(|item| (item.product_id, item.quantity)).collect();
    let new = NewOrder::new(user_id, items)?;
    let once = named.once(StatusCode::CREATED);
    let place = |reply| Msg::Place(new, caller, once, reply);
    Ok(IdempotentResponse(StatusCode::CREATED, orders.ask_batched(MAX_BATCH, place).await?))
}

/// An order, for its owner or an administrator.
#[utoipa::path(
    get, path = "/order/{order_id}", tag = "orders", params(("order_id" = i64, Path)),
    responses((status = 200, body = Order), (status = "default", response = Problem))
)]
async fn find(
    State(orders): State<Addr<Msg>>,
    Authenticated(caller): Authenticated,
    Path(id): Path<OrderId>,
) -> Result<Answer<Order>> {
    Ok(Answer(orders.ask(id, |reply| Msg::Find(id, caller, reply)).await?))
}

/// How many pieces an item shall have.
#[derive(Debug, Deserr, ToSchema)]
#[deserr(error = BrokenRules)]
struct SetQuantity {
    /// Which item of the order.
    #[schema(example = 31)]
    order_item_id: ItemId,
    /// How many of it.
    #[deserr(try_from(i64) = orders::quantity -> InvalidValue)]
    #[schema(minimum = 1, maximum = 1_000_000, example = 3)]
    quantity: i64,
}

/// Changes how many pieces an item has, for its owner or an administrator.
#[utoipa::path(
    put, path = "/update_order/{order_id}", tag = "orders",
    params(("order_id" = i64, Path), KeyHeader), request_body = SetQuantity,
    responses((status = 200, body = Item), (status = "default", response = Problem))
)]
async fn set_quantity(
    State(orders): State<Addr<Msg>>,
    Authenticated(caller): Authenticated,
    Path(id): Path<OrderId>,
    Idempotent(named, Json(new)): Idempotent<Json<SetQuantity>>,
) -> Result<IdempotentResponse<Item>> {
    let SetQuantity { order_item_id: item, quantity } = new;
    let once = named.once(StatusCode::OK);
    let set = |reply| Msg::SetQuantity(id, item, quantity, caller, once, reply);
    Ok(IdempotentResponse(StatusCode::OK, orders.ask(id, set).await?))
}
