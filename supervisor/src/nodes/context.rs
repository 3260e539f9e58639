//! What a node's actors are built from, and the building blocks that nodes have in common.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use shop_actors::audit::{self, Audit};
use shop_actors::change_listener::ChangeListener;
use shop_actors::dead_letters::{self, DeadLetters};
use shop_actors::health::{self, HealthMonitor};
use shop_actors::idempotency::Sweeper;
use shop_actors::subscriptions::AnySubscription;
use shop_actors::{Metrics, customers};
use shop_http::{
    Api, Authenticator, Cluster, Health, HttpServer, Idempotency, Keys, Limits, Peers,
    RemoteVerifier, ReplicatedTables, Resync, Shutdown, SnapshotApi,
};
use shop_messaging::{Broker, Connection};
use shop_persistence::{Database, Schema};
use shop_runtime::registry::ActorKind;
use shop_runtime::{Addr, Child, GRACE, RestartPolicy};
use tokio::sync::broadcast;
use uuid::Uuid;

use super::ActorFactory;
use crate::config::Mailboxes;

/// Number of concurrent requests that the inspector shows individually.
const SERVER_SLOTS: usize = 64;

/// Number of changed users that a slow token cache may lag behind before it forgets all tokens.
const CHANGED_USERS_CAPACITY: usize = 1024;

/// What a node's actors are built from.
#[derive(Debug)]
pub struct NodeContext {
    /// The node's name.
    pub name: &'static str,
    /// Creates its actors.
    pub actors: ActorFactory,
    /// The tables of its database.
    pub schema: Schema,
    /// Random id of the process.
    pub process: Uuid,
    /// Start of the process.
    pub started_at: Timestamp,
    /// When its actors restart.
    pub policy: RestartPolicy,
    /// The broker that connects it to the other nodes.
    pub broker: Broker,
    /// Maximum number of unacknowledged messages per consumer.
    pub prefetch: u16,
    /// Redeliveries of a message that crashes its actor, before it is dead-lettered.
    pub max_attempts: u32,
    /// The bound address of its HTTP server.
    pub listener: TcpListener,
    /// Closes its HTTP server before its actors stop.
    pub shutdown: Shutdown,
    /// Signs and checks tokens, and makes fingerprints.
    pub keys: Keys,
    /// URL of the auth node.
    pub auth_url: String,
    /// Clients of the other nodes' snapshots.
    pub peers: Peers,
    /// The nodes and replicas that administrators see together.
    pub cluster: Cluster,
    /// How long a verified token is cached.
    pub verification_cache_time: Duration,
    /// How long the response to a request with an idempotency key is stored.
    pub idempotency_retention: Duration,
    /// Number of actors that divide the node's main work.
    pub shards: usize,
    /// Capacity of mailboxes, by kind.
    pub mailboxes: Mailboxes,
    /// Limits of its HTTP server.
    pub limits: Limits,
    /// Its metrics.
    pub metrics: Metrics,
}

/// The replica of the auth node's users, and the authentication that falls back on it.
pub struct Customers {
    pub addr: Addr<customers::Msg>,
    pub authenticator: Authenticator,
    pub actors: Vec<Child>,
}

/// What every node has besides its own work.
pub struct Common {
    pub connection: Connection,
    pub subscriptions: Vec<AnySubscription>,
    pub letters: Addr<dead_letters::Msg>,
    pub audit: Addr<audit::Msg>,
    pub health: Addr<health::Msg>,
}

impl NodeContext {
    /// The customers actor of a node that replicates users.
    pub fn customers(&self) -> anyhow::Result<Customers> {
        let (changed, changes) = broadcast::channel(CHANGED_USERS_CAPACITY);
        let make = move |database: &Database| customers::Customers::new(database, changed.clone());
        let (addr, actors) = self.actors.shards("customers", 1, self.mailboxes.customers, make);
        let Keys { user_tokens, node_tokens, .. } = self.keys.clone();
        let verifier = RemoteVerifier::new(
            user_tokens,
            &self.auth_url,
            self.verification_cache_time,
            addr.clone(),
        )?;
        let authenticator = Authenticator::remote(verifier, node_tokens, changes);
        Ok(Customers { addr, authenticator, actors })
    }

    /// The actors that every node has.
    pub fn common(&self, subscriptions: Vec<AnySubscription>) -> (Common, Vec<Child>) {
        let Self { actors, mailboxes, .. } = self;
        let (letters, letter_actors) =
            dead_letter_actor(actors, mailboxes.dead_letters, &subscriptions);
        let (audit, audit_actors) = actors.shards("audit", 1, mailboxes.audit, Audit::new);
        let (health, health_actors) =
            actors.shards("health", 1, mailboxes.health, HealthMonitor::new);
        let connection = Connection::new(&self.broker);
        let children =
            flatten([letter_actors, restart_only(audit_actors), restart_only(health_actors)]);
        (Common { connection, subscriptions, letters, audit, health }, children)
    }

    /// Rebuilds replicated tables from the snapshots of other nodes.
    pub fn resync(&self, tables: ReplicatedTables) -> Child {
        let (database, peers) = (self.actors.database.clone(), self.peers.clone());
        let resync = Resync { database, tables, peers };
        Child::service(&self.actors.service_metrics("resync"), GRACE, resync)
    }

    /// Receives the changes that other replicas commit.
    pub fn change_listener(&self) -> Child {
        let listener = ChangeListener { database: self.actors.database.clone() };
        Child::service(&self.actors.service_metrics("change_listener"), GRACE, listener)
    }

    /// Deletes expired idempotency keys.
    pub fn sweeper(&self) -> Child {
        let database = self.actors.database.clone();
        let sweeper = Sweeper { database, retention: self.idempotency_retention };
        Child::service(&self.actors.service_metrics("sweeper"), GRACE, sweeper)
    }

    /// Serves the node's API.
    pub fn http_server(
        &self,
        api: Api,
        authenticator: Authenticator,
        common: &Common,
    ) -> anyhow::Result<Child> {
        let registry = &self.actors.registry;
        let health = Health {
            node: self.name,
            process: self.process,
            started_at: self.started_at,
            database: self.actors.database.clone(),
            health_monitor: common.health.clone(),
            broker: common.connection.watch(),
            queues: common.subscriptions.iter().map(AnySubscription::queue).collect(),
            registry: registry.clone(),
            metrics: self.metrics.clone(),
        };
        let snapshot = SnapshotApi::new(&self.actors.database, self.schema, self.peers.clone());
        let server = HttpServer {
            listener: Arc::new(self.listener.try_clone()?),
            api,
            letters: common.letters.clone(),
            authenticator,
            idempotency: Idempotency {
                fingerprints: self.keys.fingerprints.clone(),
                retention: self.idempotency_retention,
            },
            snapshot,
            audit: common.audit.clone(),
            cluster: self.cluster.clone(),
            health,
            limits: self.limits,
            shutdown: self.shutdown.clone(),
        };
        let capacity = Some(self.limits.in_flight);
        let metrics =
            registry.branch("http").actor_metrics(ActorKind::HttpServer, capacity, SERVER_SLOTS);
        Ok(Child::service(&metrics, GRACE, server).restart_only())
    }
}

/// The actor that stores dead letters and applies them again through `subscriptions`.
pub fn dead_letter_actor(
    actors: &ActorFactory,
    capacity: usize,
    subscriptions: &[AnySubscription],
) -> (Addr<dead_letters::Msg>, Vec<Child>) {
    let subscriptions = subscriptions.to_vec();
    let make = move |database: &Database| DeadLetters::new(database, subscriptions.clone());
    actors.shards("dead_letters", 1, capacity, make)
}

/// A customers actor for a command, where no token cache observes changed users.
pub fn customer_actor(actors: &ActorFactory) -> (Addr<customers::Msg>, Vec<Child>) {
    let (changed, _) = broadcast::channel(1);
    let make = move |database: &Database| customers::Customers::new(database, changed.clone());
    actors.shards("customers", 1, 16, make)
}

/// Marks actors that must not be paused, because an administrator could then not resume them.
pub fn restart_only(actors: Vec<Child>) -> Vec<Child> {
    actors.into_iter().map(Child::restart_only).collect()
}

/// The items of several lists, in order.
pub fn flatten<T, const N: usize>(lists: [Vec<T>; N]) -> Vec<T> {
    lists.into_iter().flatten().collect()
}
