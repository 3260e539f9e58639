//! The bodies of the API, as the contract describes them. They are written down here once more, so
//! that a test fails when the shop's own types change: a body must have exactly these fields.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

/// A user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// Identifies the user.
    pub id: Uuid,
    /// The login name.
    pub username: String,
    /// The email address.
    pub email: String,
    /// `USER` or `ADMIN`.
    pub role: String,
}

/// The response to a login.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// The token.
    pub access_token: String,
    /// `bearer`.
    pub token_type: String,
    /// The token's lifetime in seconds.
    pub expires_in: i64,
}

/// A category.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Category {
    /// Identifies the category.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// The category that contains it; `None` for a root. The field is always present.
    #[serde(deserialize_with = "Option::deserialize")]
    pub parent_id: Option<i64>,
    /// The number of categories above it.
    pub level: i64,
}

/// A product.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Product {
    /// Identifies the product.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// The price of one piece.
    pub price: i64,
    /// The number of pieces in stock.
    pub storage_quantity: i64,
    /// Its category.
    pub category_id: i64,
}

/// An order.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// Identifies the order.
    pub id: i64,
    /// The customer.
    pub user_id: Uuid,
    /// The sum of the items' quantities.
    pub total_quantity: i64,
    /// The sum of the items' prices.
    pub total_price: i64,
    /// `created`.
    pub status: String,
    /// When it was placed, in RFC 3339.
    pub created_at: String,
    /// The items, in the order of the request.
    pub items: Vec<OrderItem>,
    /// The customer's current name and address; only when an order is read.
    pub user: Option<Customer>,
}

impl Order {
    /// The path that shows it.
    pub fn path(&self) -> String {
        format!("/order/{}", self.id)
    }

    /// The path that changes it.
    pub fn update_path(&self) -> String {
        format!("/update_order/{}", self.id)
    }

    /// The body that changes the quantity of an item, given by its index.
    pub fn quantity_change(&self, index: usize, quantity: i64) -> Value {
        json!({"order_item_id": self.items[index].id, "quantity": quantity})
    }
}

/// The customer of an order.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Customer {
    /// Identifies the user.
    pub id: Uuid,
    /// The login name.
    pub username: String,
    /// The email address.
    pub email: String,
}

/// An item of an order.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrderItem {
    /// Identifies the item.
    pub id: i64,
    /// The order that contains it.
    pub order_id: i64,
    /// The product.
    pub product_id: i64,
    /// The number of pieces.
    pub product_quantity: i64,
    /// The product when it was ordered.
    pub product: OrderedProduct,
}

/// A product as it was when it was ordered.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrderedProduct {
    /// Identifies the product.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// The price of one piece.
    pub price: i64,
}

/// An error (RFC 9457).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Problem {
    /// The kind of problem, a URI reference.
    #[serde(rename = "type")]
    pub kind: String,
    /// The status in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong and what to do.
    pub detail: String,
    /// The rejected fields of the body.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
}

/// A rejected field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FieldError {
    /// Its path in the body, such as `items[1].quantity`.
    pub field: String,
    /// The rule that it violates.
    pub detail: String,
}

/// An actor in the inspector. It has more fields than these.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct ActorView {
    /// Its path in the tree.
    pub path: String,
    /// `actor`, `service`, …
    pub kind: String,
    /// `running`, `stuck`, …
    pub status: String,
    /// The number of restarts.
    pub restarts: i64,
    /// The number of waiting messages.
    pub mailbox_depth: i64,
    /// The number of handled messages.
    pub handled: i64,
    /// The number of messages that were lost in a failure.
    pub lost: i64,
    /// The number of handled messages by name.
    #[serde(default)]
    pub messages: HashMap<String, i64>,
    /// What the actor reports of its state.
    #[serde(default)]
    pub state: Value,
    /// The message that is being handled.
    #[serde(default)]
    pub current: Option<CurrentMessage>,
    /// The last failures, latest first.
    #[serde(default)]
    pub failures: Vec<Failure>,
    /// The control actions that are possible now.
    pub actions: Vec<String>,
    /// The last failure.
    #[serde(default)]
    pub last_failure: Option<Failure>,
}

/// The message that an actor is handling.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct CurrentMessage {
    /// Its name.
    pub message: String,
    /// For how long, in milliseconds.
    pub for_ms: f64,
    /// The trace that caused it.
    pub trace_id: Option<String>,
}

/// A failure of an actor.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Failure {
    /// The panic or error.
    pub reason: String,
    /// The trace of the message that caused it.
    pub trace_id: Option<String>,
}
