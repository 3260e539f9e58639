//! The order node's API: placing, reading and changing orders.

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
use crate::body::{Json, Path, ValidationErrors, uuid};
use crate::context::Authenticated;
use crate::idempotency::{Idempotent, IdempotentResponse, KeyHeader};
use crate::problem::{Problem, Result};

/// The order node's routes.
pub fn routes(orders: Addr<Msg>) -> Routes {
    let user = OpenApiRouter::new()
        .routes(routes!(place_order))
        .routes(routes!(find_order))
        .routes(routes!(set_quantity));
    vec![(Access::User, user.with_state(orders))]
}

/// An order to place.
#[derive(Debug, Deserr, ToSchema)]
#[deserr(error = ValidationErrors)]
struct PlaceOrder {
    /// The customer: the caller, or any user if the caller is an administrator.
    #[deserr(try_from(String) = uuid -> InvalidValue)]
    #[schema(value_type = uuid::Uuid)]
    user_id: UserId,
    /// 1 to 100 items.
    #[deserr(try_from(Vec<OrderItem>) = some_items -> InvalidValue)]
    #[schema(value_type = Vec<OrderItem>, min_items = 1, max_items = 100)]
    items: Vec<OrderItem>,
}

/// An item of an order.
#[derive(Debug, Deserr, ToSchema)]
#[deserr(error = ValidationErrors)]
struct OrderItem {
    /// The product.
    #[schema(example = 7)]
    product_id: ProductId,
    /// How many pieces.
    #[deserr(try_from(i64) = orders::quantity -> InvalidValue)]
    #[schema(minimum = 1, maximum = 1_000_000, example = 2)]
    quantity: i64,
}

fn some_items(items: Vec<OrderItem>) -> Result<Vec<OrderItem>, InvalidValue> {
    orders::length(items.len())?;
    Ok(items)
}

/// Places an order, completely or not at all.
#[utoipa::path(
    post, path = "/order", tag = "orders", params(KeyHeader), request_body = PlaceOrder,
    responses((status = 201, body = Order), (status = "default", response = Problem))
)]
async fn place_order(
    State(orders): State<Addr<Msg>>,
    Authenticated(caller): Authenticated,
    Idempotent(key, Json(PlaceOrder { user_id, items })): Idempotent<Json<PlaceOrder>>,
) -> Result<IdempotentResponse<Order>> {
    let items = items.into_iter().map(|item| (item.product_id, item.quantity)).collect();
    let new = NewOrder::new(user_id, items)?;
    let key = key.with_success(StatusCode::CREATED);
    let place = |reply| Msg::Place(new, caller, key, reply);
    Ok(IdempotentResponse(StatusCode::CREATED, orders.ask_batched(MAX_BATCH, place).await?))
}

/// An order, for its customer or an administrator.
#[utoipa::path(
    get, path = "/order/{order_id}", tag = "orders", params(("order_id" = i64, Path)),
    responses((status = 200, body = Order), (status = "default", response = Problem))
)]
async fn find_order(
    State(orders): State<Addr<Msg>>,
    Authenticated(caller): Authenticated,
    Path(id): Path<OrderId>,
) -> Result<Json<Order>> {
    Ok(Json(orders.ask(id, |reply| Msg::Find(id, caller, reply)).await?))
}

/// A new quantity of an item.
#[derive(Debug, Deserr, ToSchema)]
#[deserr(error = ValidationErrors)]
struct SetQuantity {
    /// The item.
    #[schema(example = 31)]
    order_item_id: ItemId,
    /// How many pieces.
    #[deserr(try_from(i64) = orders::quantity -> InvalidValue)]
    #[schema(minimum = 1, maximum = 1_000_000, example = 3)]
    quantity: i64,
}

/// Changes the quantity of an item, for the order's customer or an administrator.
#[utoipa::path(
    put, path = "/update_order/{order_id}", tag = "orders",
    params(("order_id" = i64, Path), KeyHeader), request_body = SetQuantity,
    responses((status = 200, body = Item), (status = "default", response = Problem))
)]
async fn set_quantity(
    State(orders): State<Addr<Msg>>,
    Authenticated(caller): Authenticated,
    Path(id): Path<OrderId>,
    Idempotent(key, Json(new)): Idempotent<Json<SetQuantity>>,
) -> Result<IdempotentResponse<Item>> {
    let SetQuantity { order_item_id: item, quantity } = new;
    let key = key.with_success(StatusCode::OK);
    let set = |reply| Msg::SetQuantity(id, item, quantity, caller, key, reply);
    Ok(IdempotentResponse(StatusCode::OK, orders.ask(id, set).await?))
}
