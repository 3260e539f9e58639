//! Creates actors with their addresses.

use std::sync::Arc;
use std::time::Duration;

use shop_persistence::Database;
use shop_runtime::registry::{ActorKind, ActorMetrics, ActorRegistry};
use shop_runtime::{Actor, Addr, Child};

/// Creates the actors of one node on its database.
#[derive(Clone, Debug)]
pub struct ActorFactory {
    /// The node's branch in the actor tree.
    pub registry: ActorRegistry,
    /// Its database.
    pub database: Database,
    /// Timeout of a request to one of its actors.
    pub reply_timeout: Duration,
}

impl ActorFactory {
    /// `count` actors behind one address. Each handles one shard of the keys and has a mailbox for
    /// `capacity` messages. `make` creates an actor at its start and at each restart.
    pub fn shards<A: Actor>(
        &self,
        name: &'static str,
        count: usize,
        capacity: usize,
        make: impl Fn(&Database) -> A + Clone + Send + Sync + 'static,
    ) -> (Addr<A::Msg>, Vec<Child>) {
        let addr = Addr::new(&self.registry, name, count, capacity, self.reply_timeout);
        let actor = |mailbox| {
            let (database, make) = (self.database.clone(), make.clone());
            Child::actor(mailbox, move || make(&database))
        };
        let children = addr.mailboxes().iter().map(actor).collect();
        (addr, children)
    }

    /// Metrics of a service that does one thing at a time.
    pub fn service_metrics(&self, name: &str) -> Arc<ActorMetrics> {
        self.registry.branch(name).actor_metrics(ActorKind::Service, None, 1)
    }
}
