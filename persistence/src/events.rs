//! Events: what a node publishes and other nodes apply. Everything about an event except its effect
//! stands here: its name, its route, its body and its validation. Other programs may publish events
//! too, so that each value of a received event is checked.

mod schema;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::InvalidValue;
use crate::catalog::{Offer, price, quantity};
use crate::movements::Movement;
use crate::users::{User, UserId};

/// The body of an event.
pub trait Event: Serialize + DeserializeOwned + ToSchema {
    /// The event's name: its exchange or its queue, its property `type`, and its label in metrics.
    const NAME: &'static str;
    /// Where it is published.
    const ROUTE: Route;

    /// Checks the values of a received body.
    ///
    /// # Errors
    /// Why this event can never be applied.
    fn validate(&self) -> Result<(), InvalidValue>;

    /// Reads a body.
    ///
    /// # Errors
    /// What is wrong with the JSON.
    fn read(body: &[u8]) -> Result<Self, InvalidValue> {
        serde_json::from_slice(body)
            .map_err(|error| invalid(format!("the body cannot be read: {error}")))
    }
}

/// Where an event is published.
#[derive(Debug, Clone, Copy)]
pub enum Route {
    /// The default exchange, to the queue that has the event's name.
    Queue,
    /// The fanout exchange that has the event's name, which copies it to these queues.
    Fanout(&'static [&'static str]),
}

/// What is known of an event without its type.
#[derive(Debug)]
pub struct EventSpec {
    /// See [`Event::NAME`].
    pub name: &'static str,
    /// See [`Event::ROUTE`].
    pub route: Route,
    /// The JSON Schema (2020-12) of the body.
    pub schema: fn() -> serde_json::Value,
}

/// All events. Publishing one that is missing here does not compile.
pub const EVENTS: &[EventSpec] = &[
    EventSpec::of::<UserCreated>(),
    EventSpec::of::<UserUpdated>(),
    EventSpec::of::<UserDeleted>(),
    EventSpec::of::<ProductCreated>(),
    EventSpec::of::<StockMoved>(),
];

/// The catalog node's queue of user events.
pub const CATALOG_USERS: &str = "catalog.users";
/// The order node's queue of user events.
pub const ORDER_USERS: &str = "order.users";

/// One queue for each node, so that the events of a user keep their order.
const USER_EVENTS: Route = Route::Fanout(&[CATALOG_USERS, ORDER_USERS]);

/// A user registered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct UserCreated(pub User);

impl Event for UserCreated {
    const NAME: &'static str = "user_created";
    const ROUTE: Route = USER_EVENTS;

    fn validate(&self) -> Result<(), InvalidValue> {
        texts([&self.0.username, &self.0.email])
    }
}

/// A user's name, email or role changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct UserUpdated(pub User);

impl Event for UserUpdated {
    const NAME: &'static str = "user_updated";
    const ROUTE: Route = USER_EVENTS;

    fn validate(&self) -> Result<(), InvalidValue> {
        texts([&self.0.username, &self.0.email])
    }
}

/// A user was deleted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct UserDeleted {
    /// The user's id.
    #[schema(value_type = uuid::Uuid)]
    pub id: UserId,
}

impl Event for UserDeleted {
    const NAME: &'static str = "user_deleted";
    const ROUTE: Route = USER_EVENTS;

    fn validate(&self) -> Result<(), InvalidValue> {
        Ok(())
    }
}

/// A product was added to the catalog.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct ProductCreated(pub Offer);

impl Event for ProductCreated {
    const NAME: &'static str = "product.created";
    const ROUTE: Route = Route::Queue;

    fn validate(&self) -> Result<(), InvalidValue> {
        price(self.0.price).map_err(|why| invalid(format!("price {why}")))?;
        quantity(self.0.quantity).map_err(|why| invalid(format!("quantity {why}")))?;
        texts([&self.0.name])
    }
}

/// Stock was sold or returned by the order node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StockMoved {
    /// The movements of one or more orders.
    pub movements: Vec<Movement>,
}

impl Event for StockMoved {
    const NAME: &'static str = "stock.moved";
    const ROUTE: Route = Route::Queue;

    fn validate(&self) -> Result<(), InvalidValue> {
        for movement in &self.movements {
            quantity(movement.delta.saturating_abs())
                .map_err(|why| invalid(format!("delta, without its sign, {why}")))?;
        }
        texts(self.movements.iter().filter_map(|movement| movement.reason.as_ref()))
    }

    /// Earlier versions published one movement as the body.
    fn read(body: &[u8]) -> Result<StockMoved, InvalidValue> {
        let all = serde_json::from_slice(body);
        let one = |movement| StockMoved { movements: vec![movement] };
        all.or_else(|error| serde_json::from_slice(body).map(one).map_err(|_| error))
            .map_err(|error| invalid(format!("the body cannot be read: {error}")))
    }
}

impl EventSpec {
    const fn of<E: Event>() -> EventSpec {
        EventSpec { name: E::NAME, route: E::ROUTE, schema: schema::json_schema::<E> }
    }

    /// The event's name as a metric label; an event that is not of the shop is `unknown`.
    pub fn label(name: &str) -> &'static str {
        EVENTS.iter().find(|event| event.name == name).map_or("unknown", |event| event.name)
    }
}

/// Whether an event of this name is in [`EVENTS`].
pub(crate) const fn is_declared(name: &str) -> bool {
    let mut at = 0;
    while at < EVENTS.len() {
        if equal(EVENTS[at].name.as_bytes(), name.as_bytes()) {
            return true;
        }
        at += 1;
    }
    false
}

const fn equal(one: &[u8], other: &[u8]) -> bool {
    let mut at = 0;
    while at < one.len() && at < other.len() && one[at] == other[at] {
        at += 1;
    }
    at == one.len() && at == other.len()
}

/// An event as it was received, from any program.
#[derive(Debug, Clone, Copy)]
pub struct ReceivedEvent<'m> {
    /// Its name.
    pub name: &'m str,
    /// Its header `version`.
    pub version: Option<i64>,
    /// Its body, JSON if it is valid.
    pub body: &'m [u8],
}

impl ReceivedEvent<'_> {
    /// Reads and validates the body of this event.
    ///
    /// # Errors
    /// Why the message can never be applied: it is another event, or its body is invalid.
    pub fn read<E: Event>(&self) -> Result<E, InvalidValue> {
        if self.name != E::NAME {
            return Err(self.unexpected());
        }
        let event = E::read(self.body)?;
        event.validate()?;
        Ok(event)
    }

    /// The version of the row that the event is about.
    ///
    /// # Errors
    /// When it is missing or less than 1.
    pub fn version(&self) -> Result<i64, InvalidValue> {
        match self.version {
            Some(version @ 1..) => Ok(version),
            Some(_) => Err(invalid("header 'version' must be 1 or more")),
            None => Err(invalid("header 'version' (int64) is missing")),
        }
    }

    /// The reason why a subscription to other events refuses this one.
    pub fn unexpected(&self) -> InvalidValue {
        if EVENTS.iter().any(|event| event.name == self.name) {
            invalid("not an event for this queue")
        } else {
            invalid(format!("no event has the name '{}'", self.name))
        }
    }
}

fn invalid(reason: impl Into<std::borrow::Cow<'static, str>>) -> InvalidValue {
    InvalidValue(reason.into())
}

/// PostgreSQL cannot store U+0000.
fn texts<'t>(texts: impl IntoIterator<Item = &'t String>) -> Result<(), InvalidValue> {
    if texts.into_iter().any(|text| text.contains('\0')) {
        return Err(invalid("a text contains U+0000, which cannot be stored"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn event_names_are_unique() {
        let names: BTreeSet<_> = EVENTS.iter().map(|event| event.name).collect();
        assert_eq!(names.len(), EVENTS.len());
    }

    #[test]
    fn only_events_of_the_list_are_declared() {
        assert!(EVENTS.iter().all(|event| is_declared(event.name)));
        assert!(!is_declared("user_create"));
        assert!(!is_declared("user_created_"));
        assert_eq!(EventSpec::label("stock.moved"), "stock.moved");
        assert_eq!(EventSpec::label("made.up"), "unknown");
    }

    #[test]
    fn a_stock_event_of_an_earlier_version_has_one_movement() {
        let body = br#"{"id": "8d8a2f5e-43a5-4a58-8a06-0d9d3a4bbf0a", "product_id": 7,
                        "delta": -1, "cause": "order 12"}"#;
        let read = StockMoved::read(body).map(|event| event.movements.len());
        assert_eq!(read.map_err(|why| why.to_string()), Ok(1));
    }
}
