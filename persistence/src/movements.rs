//! Stock movements: rows of the ledger, as they are stored and as nodes send them to each other.

use serde::{Deserialize, Serialize};
use sqlx::FromRow;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::InvalidValue;
use crate::ids::{OrderId, ProductId};

/// A change of a product's stock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, FromRow, ToSchema)]
#[serde(try_from = "Received")]
pub struct Movement {
    /// Unique to the movement, on every node.
    pub id: Uuid,
    /// The product whose stock changed.
    #[schema(example = 7)]
    pub product_id: ProductId,
    /// The number of pieces that were added (positive) or taken (negative).
    #[schema(example = -1)]
    pub delta: i64,
    /// Why the stock changed.
    pub kind: MovementKind,
    /// The order that it belongs to, unless the catalog node is its source.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = 12)]
    pub order_id: Option<OrderId>,
    /// A reason in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub reason: Option<String>,
}

/// Why stock changed. The catalog node is the source of `stocked` and `adjusted`, the order node of
/// the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum MovementKind {
    /// A product was created with this stock.
    Stocked,
    /// An administrator corrected the stock.
    Adjusted,
    /// An order was placed.
    Sold,
    /// The quantity of an order's item changed.
    Changed,
    /// An order was cancelled.
    Cancelled,
    /// An order was not confirmed in time.
    Expired,
    /// An order's items were returned and stocked again.
    Returned,
    /// The catalog node has it from an order that the order node's database does not contain.
    TakenOver,
}

impl Movement {
    /// The stock of a version of a product. Its id follows from both, so that it is the same on
    /// every node.
    pub fn stocked(product_id: ProductId, version: i64, delta: i64) -> Movement {
        Movement {
            id: Movement::stocked_id(product_id, version),
            product_id,
            delta,
            kind: MovementKind::Stocked,
            order_id: None,
            reason: None,
        }
    }

    pub(crate) fn stocked_id(product_id: ProductId, version: i64) -> Uuid {
        let name = format!("product {product_id} version {version}");
        Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes())
    }

    /// The stock that a new order takes: a negative `delta`.
    pub fn sold(product_id: ProductId, delta: i64, order: OrderId) -> Movement {
        Movement::of_order(product_id, delta, order, MovementKind::Sold)
    }

    /// The stock that an order takes or gives back because the quantity of an item changed.
    pub fn changed(product_id: ProductId, delta: i64, order: OrderId) -> Movement {
        Movement::of_order(product_id, delta, order, MovementKind::Changed)
    }

    fn of_order(product_id: ProductId, delta: i64, order: OrderId, kind: MovementKind) -> Movement {
        Movement {
            id: Uuid::now_v7(),
            product_id,
            delta,
            kind,
            order_id: Some(order),
            reason: None,
        }
    }
}

/// A movement as it is received. One that was sent before movements had a kind has a `cause`
/// instead, a sentence.
#[derive(Deserialize)]
struct Received {
    id: Uuid,
    product_id: ProductId,
    delta: i64,
    kind: Option<MovementKind>,
    order_id: Option<OrderId>,
    reason: Option<String>,
    cause: Option<String>,
}

impl TryFrom<Received> for Movement {
    type Error = InvalidValue;

    fn try_from(received: Received) -> Result<Movement, InvalidValue> {
        let Received { id, product_id, delta, kind, order_id, reason, cause } = received;
        let (kind, order_id, reason) = match (kind, cause) {
            (Some(kind), _) => (kind, order_id, reason),
            (None, Some(cause)) => parse_cause(&cause, delta),
            (None, None) => return Err(InvalidValue("missing field `kind`".into())),
        };
        Ok(Movement { id, product_id, delta, kind, order_id, reason })
    }
}

/// Parses the `cause` of an old event. The migration `movement_kinds` translates stored causes
/// alike.
fn parse_cause(cause: &str, delta: i64) -> (MovementKind, Option<OrderId>, Option<String>) {
    if cause == "stocked" {
        return (MovementKind::Stocked, None, None);
    }
    let taken_over = cause.strip_prefix("taken over: ");
    let rest = taken_over.unwrap_or(cause);
    let digits = rest.strip_prefix("order ").filter(|number| number.len() <= 18);
    let digits = digits.filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
    let order_id = digits.and_then(|number| number.parse().ok());
    let kind = if taken_over.is_some() {
        MovementKind::TakenOver
    } else if delta < 0 {
        MovementKind::Sold
    } else {
        MovementKind::Changed
    };
    (kind, order_id, order_id.is_none().then(|| rest.to_owned()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn received(fields: Value) -> Result<Movement, serde_json::Error> {
        let mut movement = json!({"id": Uuid::nil(), "product_id": 7, "delta": -2});
        movement.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        serde_json::from_value(movement)
    }

    #[test]
    fn a_movement_reads_back_as_written() {
        for movement in [
            Movement::stocked(7, 1, 40),
            Movement::sold(7, -2, 12),
            Movement { reason: Some("broken".into()), ..Movement::changed(7, 1, 12) },
        ] {
            let written = serde_json::to_value(&movement).unwrap();
            assert_eq!(serde_json::from_value::<Movement>(written).unwrap(), movement);
        }
        let written = serde_json::to_value(Movement::sold(7, -2, 12)).unwrap();
        assert_eq!((&written["kind"], &written["order_id"]), (&json!("sold"), &json!(12)));
        assert_eq!(written.get("reason"), None);
    }

    #[test]
    fn the_cause_of_an_old_event_becomes_a_kind_an_order_and_a_reason() {
        use MovementKind::{Changed, Sold, Stocked, TakenOver};
        for (cause, delta, kind, order_id, reason) in [
            ("stocked", 5, Stocked, None, None),
            ("order 12", -2, Sold, Some(12), None),
            ("order 12", 2, Changed, Some(12), None),
            ("taken over: order 12", -2, TakenOver, Some(12), None),
            ("taken over: a fair", -2, TakenOver, None, Some("a fair")),
            ("a fair", -2, Sold, None, Some("a fair")),
            ("order -3", -2, Sold, None, Some("order -3")),
            ("order 1234567890123456789", -2, Sold, None, Some("order 1234567890123456789")),
            ("order ", 1, Changed, None, Some("order ")),
        ] {
            let movement = received(json!({"cause": cause, "delta": delta})).unwrap();
            assert_eq!((movement.kind, movement.order_id), (kind, order_id), "{cause}");
            assert_eq!(movement.reason.as_deref(), reason, "{cause}");
        }
    }

    #[test]
    fn a_movement_without_a_kind_or_with_an_unknown_one_is_refused() {
        assert!(received(json!({})).unwrap_err().to_string().contains("kind"));
        assert!(received(json!({"kind": "lost"})).is_err());
    }
}
