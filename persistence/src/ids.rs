//! The keys of rows, which several modules name.

use uuid::Uuid;

/// Identifies a user, on every node.
pub type UserId = Uuid;

/// Identifies a category.
pub type CategoryId = i64;

/// Identifies a product, on every node.
pub type ProductId = i64;

/// Identifies an order.
pub type OrderId = i64;

/// Identifies an item of an order.
pub type ItemId = i64;
