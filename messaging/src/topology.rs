//! Every exchange and queue of the shop, and who listens to what. All nodes declare all of it, so
//! that an event published before its listener's first start waits for it.
//!
//! ```text
//! user_created ─┐                ┌─► catalog.users     the catalog node's copy of the users
//! user_updated ─┼─ (fanout) ─────┤
//! user_deleted ─┘                └─► order.users       the order node's copy of the users
//!
//! default exchange ──────────────┬─► product.created   the order node learns of products
//!                                └─► stock.moved       the catalog node follows the stock
//!
//! any queue Q, tried too often ──┐
//! any queue Q, parked by us ─────┴─ dead_letters ─ Q ─► Q.dead         its node keeps them in its database
//!                                                       └─ taken too often ─► undeliverable
//! ```

/// A user signed up: a fanout exchange.
pub const USER_CREATED: &str = "user_created";
/// A user changed: a fanout exchange.
pub const USER_UPDATED: &str = "user_updated";
/// A user is gone: a fanout exchange.
pub const USER_DELETED: &str = "user_deleted";

/// What the catalog node hears of users.
pub const CATALOG_USERS: &str = "catalog.users";
/// What the order node hears of users.
pub const ORDER_USERS: &str = "order.users";
/// What the order node hears of products.
pub const PRODUCT_CREATED: &str = "product.created";
/// What the catalog node hears of stock.
pub const STOCK_MOVED: &str = "stock.moved";

/// The exchange whose queues are named by their name.
pub const DEFAULT_EXCHANGE: &str = "";
/// The direct exchange that leads from a queue's name to its dead letters.
pub const DEAD_LETTERS: &str = "dead_letters";
/// The queue that holds what nobody could take even from the dead letters: our client hangs up on a message that is
/// not AMQP as it reads it, and one must not hold up the others.
pub const UNDELIVERABLE: &str = "undeliverable";

/// The fanout exchanges. One queue listens to all three, so that a user's events keep their order.
pub const USER_EVENTS: [&str; 3] = [USER_CREATED, USER_UPDATED, USER_DELETED];

/// A queue and the fanout exchanges that it is bound to.
#[derive(Debug)]
pub struct Queue {
    /// Its name, without the prefix.
    pub name: &'static str,
    /// The exchanges whose messages it gets, besides those sent to it by name.
    pub exchanges: &'static [&'static str],
}

/// The queues that the shop listens on; each has its dead letters in [`dead`].
pub const QUEUES: [Queue; 4] = [
    Queue { name: CATALOG_USERS, exchanges: &USER_EVENTS },
    Queue { name: ORDER_USERS, exchanges: &USER_EVENTS },
    Queue { name: PRODUCT_CREATED, exchanges: &[] },
    Queue { name: STOCK_MOVED, exchanges: &[] },
];

/// The queue that holds the dead letters of `queue`.
#[must_use]
pub fn dead(queue: &str) -> String {
    format!("{queue}.dead")
}

/// Where an event of this name is published: the exchange and the routing key.
#[must_use]
pub fn route(event: &str) -> (&str, &str) {
    if USER_EVENTS.contains(&event) { (event, "") } else { (DEFAULT_EXCHANGE, event) }
}

/// Whether `routing_key` means a queue when it is sent to `exchange`.
#[must_use]
pub fn routes_by_queue(exchange: &str) -> bool {
    matches!(exchange, DEFAULT_EXCHANGE | DEAD_LETTERS)
}

/// The queues that get a message published to `exchange` with `routing_key`; none when it would be
/// lost.
#[must_use]
pub fn destinations(exchange: &str, routing_key: &str) -> Vec<String> {
    let named = |queue: &&Queue| queue.name == routing_key;
    match exchange {
        DEFAULT_EXCHANGE => {
            let both = QUEUES.iter().flat_map(|queue| [queue.name.to_owned(), dead(queue.name)]);
            both.filter(|name| name == routing_key).collect()
        }
        DEAD_LETTERS => QUEUES.iter().filter(named).map(|queue| dead(queue.name)).collect(),
        fanout => {
            let listening = QUEUES.iter().filter(|queue| queue.exchanges.contains(&fanout));
            listening.map(|queue| queue.name.to_owned()).collect()
        }
    }
}
