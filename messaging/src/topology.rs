//! Every exchange and queue. All nodes declare all of them, so that an event that is published
//! before the first start of its consumer is stored. Events, their routes and their queues are
//! declared in `persistence/src/events.rs`.
//!
//! ```text
//! fanout event E ── exchange E ──────┬─► queue Q, for each queue of the event's route
//! other event E ─── default exchange ┴─► queue E
//!
//! queue Q, over the delivery limit ──┐
//! queue Q, dead-lettered by consumer ┴─► exchange dead_letters ── Q ─► queue Q.dead
//!                                            queue Q.dead, over the limit ─► queue undeliverable
//! ```

use std::sync::LazyLock;

use shop_persistence::events::{EVENTS, Route};

/// The exchange that routes by the name of a queue.
pub const DEFAULT_EXCHANGE: &str = "";
/// The direct exchange from the name of a queue to its dead letters.
pub const DEAD_LETTERS: &str = "dead_letters";
/// The queue of dead letters that no consumer can take: amqprs closes the connection on a message
/// that it cannot decode, and one such message must not hold up the others.
pub const UNDELIVERABLE: &str = "undeliverable";

/// A queue and the fanout exchanges that it is bound to.
#[derive(Debug, PartialEq)]
pub struct Queue {
    /// Its name, without the prefix.
    pub name: &'static str,
    /// The exchanges whose messages it receives, besides those that are sent to it by name.
    pub exchanges: Vec<&'static str>,
}

/// The queues with a consumer. Each has a queue of dead letters, named by [`dead`].
pub static QUEUES: LazyLock<Vec<Queue>> = LazyLock::new(|| {
    let mut queues: Vec<Queue> = vec![];
    for event in EVENTS {
        match event.route {
            Route::Queue => queues.push(Queue { name: event.name, exchanges: vec![] }),
            Route::Fanout(names) => {
                for name in names {
                    match queues.iter_mut().find(|queue| queue.name == *name) {
                        Some(queue) => queue.exchanges.push(event.name),
                        None => queues.push(Queue { name, exchanges: vec![event.name] }),
                    }
                }
            }
        }
    }
    queues
});

/// The fanout exchanges.
pub fn fanout_exchanges() -> impl Iterator<Item = &'static str> {
    let fanout = EVENTS.iter().filter(|event| matches!(event.route, Route::Fanout(_)));
    fanout.map(|event| event.name)
}

/// The queue that holds the dead letters of `queue`.
#[must_use]
pub fn dead(queue: &str) -> String {
    format!("{queue}.dead")
}

/// The exchange and the routing key with which the event is published.
#[must_use]
pub fn route(event: &str) -> (&str, &str) {
    if fanout_exchanges().any(|exchange| exchange == event) {
        (event, "")
    } else {
        (DEFAULT_EXCHANGE, event)
    }
}

/// Whether the routing key of a message to `exchange` is the name of a queue.
#[must_use]
pub fn routes_by_queue(exchange: &str) -> bool {
    matches!(exchange, DEFAULT_EXCHANGE | DEAD_LETTERS)
}

/// The queues that receive a message to `exchange` with `routing_key`. Without any, the message is
/// returned to its publisher.
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
            let bound = QUEUES.iter().filter(|queue| queue.exchanges.contains(&fanout));
            bound.map(|queue| queue.name.to_owned()).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_event_is_routed_to_a_queue() {
        for event in EVENTS {
            let (exchange, routing_key) = route(event.name);
            assert!(!destinations(exchange, routing_key).is_empty(), "{}", event.name);
        }
    }

    #[test]
    fn a_queue_is_listed_once() {
        let names: BTreeSet<_> = QUEUES.iter().map(|queue| queue.name).collect();
        assert_eq!(names.len(), QUEUES.len());
    }
}
