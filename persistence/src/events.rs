//! What the nodes tell each other, as it is written into the outbox and read from the broker.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::InvalidValue;
use crate::stock::{Moved, Offer};
use crate::users::{User, UserId};

/// Something that happened, in the past tense.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Event {
    /// Somebody signed up.
    UserCreated(User),
    /// A user's name, email or role changed.
    UserUpdated(User),
    /// A user is gone.
    UserDeleted(Gone),
    /// The catalog has a new product, and stock of it.
    ProductCreated(Offer),
    /// Stock was sold or given back.
    StockMoved(Moved),
}

/// What is left to say about something that is gone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gone {
    /// What it was.
    pub id: UserId,
}

impl Event {
    /// The names of all events.
    pub const NAMES: [&str; 5] =
        ["user_created", "user_updated", "user_deleted", "product.created", "stock.moved"];

    /// An event's name as it stands among [`NAMES`](Self::NAMES); anybody may have made up another.
    pub fn known(name: &str) -> &'static str {
        Event::NAMES.into_iter().find(|known| *known == name).unwrap_or("unknown")
    }

    /// The event's name: its exchange, or its queue on the default exchange, and its property `type`.
    pub fn name(&self) -> &'static str {
        match self {
            Event::UserCreated(_) => "user_created",
            Event::UserUpdated(_) => "user_updated",
            Event::UserDeleted(_) => "user_deleted",
            Event::ProductCreated(_) => "product.created",
            Event::StockMoved(_) => "stock.moved",
        }
    }

    /// Reads an event by its name; anybody may have written it, so whatever cannot be stored is refused with a reason.
    pub fn read(name: &str, body: &[u8]) -> Result<Event, InvalidValue> {
        let event = match name {
            "user_created" => Event::UserCreated(json(body)?),
            "user_updated" => Event::UserUpdated(json(body)?),
            "user_deleted" => Event::UserDeleted(json(body)?),
            "product.created" => Event::ProductCreated(json(body)?),
            "stock.moved" => Event::StockMoved(moved(body)?),
            other => return Err(InvalidValue(format!("no event is named '{other}'").into())),
        };
        event.storable()
    }

    fn storable(self) -> Result<Event, InvalidValue> {
        let texts = match &self {
            Event::UserCreated(user) | Event::UserUpdated(user) => {
                vec![&user.username, &user.email]
            }
            Event::UserDeleted(_) => vec![],
            Event::ProductCreated(offer) => {
                crate::catalog::price(offer.price)
                    .map_err(|why| InvalidValue(format!("price {why}").into()))?;
                crate::catalog::quantity(offer.quantity)
                    .map_err(|why| InvalidValue(format!("quantity {why}").into()))?;
                vec![&offer.name]
            }
            Event::StockMoved(Moved { movements }) => {
                for movement in movements {
                    crate::catalog::quantity(movement.delta.saturating_abs()).map_err(|why| {
                        InvalidValue(format!("delta, without its sign, {why}").into())
                    })?;
                }
                movements.iter().map(|movement| &movement.cause).collect()
            }
        };
        match texts.iter().any(|text| text.contains('\0')) {
            true => Err(InvalidValue("a text holds U+0000, which cannot be stored".into())),
            false => Ok(self),
        }
    }
}

/// Nodes of an earlier version tell of each movement by itself.
fn moved(body: &[u8]) -> Result<Moved, InvalidValue> {
    let alone = |movement| Moved { movements: vec![movement] };
    json(body).or_else(|why| json(body).map(alone).map_err(|_| why))
}

fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, InvalidValue> {
    serde_json::from_slice(body)
        .map_err(|error| InvalidValue(format!("the body cannot be read: {error}").into()))
}

/// The newest news of each subject that `named` tells the name and the version of, in the order of names: what is named twice in
/// one statement cannot be upserted, and whoever locks rows in one order meets nobody in a deadlock.
pub(crate) fn newest<N: Ord, T>(news: &[T], named: impl Fn(&T) -> (N, i64)) -> BTreeMap<N, &T> {
    let mut newest: BTreeMap<N, &T> = BTreeMap::new();
    for item in news {
        let (name, version) = named(item);
        let known = newest.entry(name).or_insert(item);
        if version > named(known).1 {
            *known = item;
        }
    }
    newest
}
