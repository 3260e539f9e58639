//! Snapshots: what a node exports of its own database, in pages, for reconciliation and resync.

mod local;

use std::future::Future;

use serde::{Deserialize, Serialize};
use sqlx::FromRow;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::Result;
use crate::ids::{CategoryId, OrderId, ProductId, UserId};
use crate::movements::Movement;
use crate::users::User;

pub use local::LocalSnapshot;

/// The maximum number of rows of a page.
pub const MAX_PAGE_ROWS: i64 = 1000;

/// Less than the id of any user or movement.
pub const FIRST: Uuid = Uuid::nil();

/// Less than the id of any product.
pub const FIRST_PRODUCT: ProductId = ProductId::MIN;

/// A node's database, local or remote. A page has ascending ids, starts after the given id, and is
/// shorter than its limit only if no row follows.
pub trait Snapshot: Sync {
    /// Users: the auth node's own, the other nodes' copies.
    fn users(
        &self,
        after: UserId,
        limit: i64,
    ) -> impl Future<Output = Result<Vec<UserRecord>>> + Send;

    /// Products with their stock. Sales count if their movement's id is less than `before`.
    fn products(
        &self,
        after: ProductId,
        limit: i64,
        before: Uuid,
    ) -> impl Future<Output = Result<Vec<Stock>>> + Send;

    /// The movements whose source is the order node.
    fn movements(
        &self,
        after: Uuid,
        limit: i64,
    ) -> impl Future<Output = Result<Vec<Movement>>> + Send;

    /// Figures of the whole database.
    fn summary(&self) -> impl Future<Output = Result<Summary>> + Send;
}

/// A user as a node knows it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
pub struct UserRecord {
    /// Identifies the user.
    #[schema(value_type = Uuid)]
    pub id: UserId,
    /// Grows with every change of that user.
    #[schema(example = 1)]
    pub version: i64,
    /// The user, unless only the deletion is known.
    pub user: Option<User>,
    /// Whether the user is deleted.
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
    /// The number of pieces left, as the node shows it.
    #[schema(example = 36)]
    pub left: i64,
    /// The sum of all its movements.
    #[schema(example = 36)]
    pub moved: i64,
    /// The sum of the movements whose source is the catalog node.
    #[schema(example = 37)]
    pub stocked: i64,
    /// The number of pieces sold, by the other movements before the cut-off.
    #[schema(example = 1)]
    pub sold: i64,
    /// The figures that only the order node has.
    #[sqlx(skip)]
    pub orders: Option<Ordered>,
}

/// A product's figures that only the order node has, in pieces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, FromRow, ToSchema)]
pub struct Ordered {
    /// All that was stocked, as the catalog announced it.
    #[schema(example = 37)]
    pub announced: i64,
    /// The sum of the quantities of all orders' items.
    #[schema(example = 1)]
    pub ordered: i64,
    /// What the movements of these orders took.
    #[schema(example = 1)]
    pub placed: i64,
    /// What was sold to orders that this database does not contain.
    #[schema(example = 0)]
    pub taken_over: i64,
}

/// Figures of a whole database.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Summary {
    /// The number of events that the broker has not confirmed.
    #[schema(example = 0)]
    pub outbox_length: i64,
    /// The age of the oldest of them, in seconds.
    #[schema(example = 0.0)]
    pub outbox_age_seconds: f64,
    /// The first hundred orders whose totals differ from the sums of their items.
    pub wrong_totals: Vec<WrongTotal>,
    /// The greatest id of a product.
    pub newest_product: Option<ProductId>,
}

/// An order whose totals differ from the sums of its items.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, FromRow, ToSchema)]
pub struct WrongTotal {
    /// Identifies the order.
    #[schema(example = 12)]
    pub id: OrderId,
    /// Its total quantity.
    #[schema(example = 2)]
    pub total_quantity: i64,
    /// The sum of its items' quantities.
    #[schema(example = 3)]
    pub items_quantity: i64,
    /// Its total price.
    #[schema(example = 3980)]
    pub total_price: i64,
    /// The sum of its items' prices.
    #[schema(example = 5970)]
    pub items_price: i64,
}
