//! What runs on each node: its tree of actors, declared so that it reads like the picture above it.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use shop_actors::Metrics;
use shop_actors::audit::{self, Audit};
use shop_actors::catalog::{self, Catalog};
use shop_actors::change_listener::ChangeListener;
use shop_actors::customers::{self, Customers};
use shop_actors::dead_letters::{self, DeadLetters};
use shop_actors::health::{self, HealthMonitor};
use shop_actors::idempotency::Sweeper;
use shop_actors::orders::{self, Orders};
use shop_actors::passwords::Passwords;
use shop_actors::subscriptions::AnySubscription;
use shop_actors::users::Users;
use shop_http::{
    Api, Auth, Authenticator, Cluster, Copies, Health, HttpServer, Idempotency, Keys, Limits,
    Peers, RemoteVerifier, ResponseCache, Resync, Shutdown, SnapshotApi,
};
use shop_messaging::{Broker, Connection, Consumer, DeadLetterConsumer, PREFETCH, Relay, WINDOW};
use shop_persistence::events::{CATALOG_USERS, ORDER_USERS};
use shop_persistence::{Database, Schema};
use shop_runtime::registry::{ActorKind, ActorMetrics, ActorRegistry};
use shop_runtime::{Actor, Addr, Message};
use tokio::sync::broadcast;
use uuid::Uuid;

use crate::config::Mailboxes;
use shop_runtime::{Child, GRACE, RestartPolicy, Strategy};

/// auth
/// ├── users/0..n       owns users
/// ├── admission/0      the same for those who run the shop, while the others refuse
/// ├── dead_letters/0   owns none: this node listens on no queue
/// ├── audit/0          owns what administrators did
/// ├── pulse/0          owns the look into the database
/// ├── broker           the rest for one
/// │   ├── link         the session that says whether the broker is there
/// │   └── relay        outbox → broker
/// ├── sweeper          forgets kept answers
/// └── edge             /api/v1/auth · /api/v1/users
pub fn auth(node: &Node, passwords: &Passwords) -> anyhow::Result<Vec<Child>> {
    let users = node.addr("users", node.owners, node.mailboxes.users);
    let users_admin = node.addr("admission", 1, node.mailboxes.users);
    let Keys { user_tokens: tokens, node_tokens, .. } = node.keys.clone();
    let authenticator =
        Authenticator::local(tokens.clone(), users.clone(), users_admin.clone(), node_tokens);
    let common = node.common(vec![]);
    let owners = owners(&users, &node.database, Users::new);
    let reserve = needed(self::owners(&users_admin, &node.database, Users::new));
    let api = Api::Auth(Auth { users, passwords: passwords.clone(), tokens });
    let edge = node.edge(api, authenticator, &common)?;
    let broker = node.broker(&common);
    Ok(tree([owners, reserve, common.owners, vec![broker, node.sweeper(), edge]]))
}

/// catalog
/// ├── customers/0            owns what was heard of auth's users
/// ├── catalog/0..n           owns categories, products and their stock
/// ├── dead_letters/0         owns the messages that could not be applied
/// ├── audit/0                owns what administrators did
/// ├── pulse/0                owns the look into the database
/// ├── broker                 the rest for one
/// │   ├── link               the session that says whether the broker is there
/// │   ├── relay              outbox → broker
/// │   ├── keeper/…           catalog.users.dead, stock.moved.dead → dead_letters
/// │   ├── consumer/…         catalog.users → customers
/// │   └── consumer/…         stock.moved → catalog
/// ├── resync                 the other nodes' books → customers, catalog
/// ├── lookout                hears what other replicas change in the lists
/// ├── sweeper                forgets kept answers
/// └── edge                   /api/v1/category · /api/v1/product · …
pub fn catalog(node: &Node) -> anyhow::Result<Vec<Child>> {
    let Heard { customers, authenticator, owner } = node.heard()?;
    let catalog = node.addr("catalog", node.owners, node.mailboxes.catalog);
    let common = node.common(catalog_subscriptions(&customers, &catalog));
    let lists = ResponseCache::new(&catalog, node.database.changes());
    let api = Api::Catalog(shop_http::Catalog { catalog: catalog.clone(), lists });
    let edge = node.edge(api, authenticator, &common)?;
    let copies = Copies::Catalog(customers.clone(), catalog.clone());
    let broker = node.broker(&common);
    let owners = owners(&catalog, &node.database, Catalog::new);
    let last = vec![broker, node.resync(copies), node.change_listener(), node.sweeper(), edge];
    Ok(tree([vec![owner], owners, common.owners, last]))
}

/// What the catalog node's actors apply.
pub fn catalog_subscriptions(
    customers: &Addr<customers::Msg>,
    catalog: &Addr<catalog::Msg>,
) -> Vec<AnySubscription> {
    tree([customers::subscriptions(customers, CATALOG_USERS), catalog::subscriptions(catalog)])
}

/// order
/// ├── customers/0            owns what was heard of auth's users
/// ├── orders/0..n            owns orders, and the products for sale
/// ├── dead_letters/0         owns the messages that could not be applied
/// ├── audit/0                owns what administrators did
/// ├── pulse/0                owns the look into the database
/// ├── broker                 the rest for one
/// │   ├── link               the session that says whether the broker is there
/// │   ├── relay              outbox → broker
/// │   ├── keeper/…           order.users.dead, product.created.dead → dead_letters
/// │   ├── consumer/…         order.users → customers
/// │   └── consumer/…         product.created → orders
/// ├── resync                 the other nodes' books → customers, orders
/// ├── sweeper                forgets kept answers
/// └── edge                   POST /order · GET /order/{id} · PUT /update_order/{id}
pub fn order(node: &Node) -> anyhow::Result<Vec<Child>> {
    let Heard { customers, authenticator, owner } = node.heard()?;
    let orders = node.addr("orders", node.owners, node.mailboxes.orders);
    let common = node.common(order_subscriptions(&customers, &orders));
    let edge = node.edge(Api::Order(orders.clone()), authenticator, &common)?;
    let copies = Copies::Order(customers.clone(), orders.clone());
    let broker = node.broker(&common);
    let owners = owners(&orders, &node.database, Orders::new);
    let last = vec![broker, node.resync(copies), node.sweeper(), edge];
    Ok(tree([vec![owner], owners, common.owners, last]))
}

/// What the order node's actors apply.
pub fn order_subscriptions(
    customers: &Addr<customers::Msg>,
    orders: &Addr<orders::Msg>,
) -> Vec<AnySubscription> {
    tree([customers::subscriptions(customers, ORDER_USERS), orders::subscriptions(orders)])
}

/// Branches, side by side.
pub fn tree<T, const N: usize>(branches: [Vec<T>; N]) -> Vec<T> {
    branches.into_iter().flatten().collect()
}

/// What the actors of a node share.
#[derive(Debug)]
pub struct Node {
    /// Its name.
    pub name: &'static str,
    /// Its process, by a made-up name.
    pub process: Uuid,
    /// Since when that runs.
    pub started_at: Timestamp,
    /// Its place in the tree.
    pub registry: ActorRegistry,
    /// When its actors are started again.
    pub policy: RestartPolicy,
    /// Its database.
    pub database: Database,
    /// Whose tables it holds.
    pub schema: Schema,
    /// The broker that joins it to the others.
    pub broker: Broker,
    /// At most so many messages are taken from a queue at once.
    pub prefetch: u16,
    /// How often what ends its owner is handed out again.
    pub max_attempts: u32,
    /// Where it listens.
    pub listener: TcpListener,
    /// Closes its edge before the rest.
    pub shutdown: Shutdown,
    /// Signs and checks tokens, and makes fingerprints.
    pub keys: Keys,
    /// Where the auth node verifies tokens.
    pub auth_url: String,
    /// Where the other nodes show their books.
    pub peers: Peers,
    /// The nodes and replicas that administrators see together.
    pub cluster: Cluster,
    /// How long a verified token is believed.
    pub verified_for: Duration,
    /// How long the answer to a request with a key is kept.
    pub answer_retention: Duration,
    /// How many owners share the work.
    pub owners: usize,
    /// How many messages wait for one owner of each kind.
    pub mailboxes: Mailboxes,
    /// How long an owner may take to answer.
    pub answer_timeout: Duration,
    /// How much the edge takes on at once.
    pub limits: Limits,
    /// What it counts.
    pub metrics: Metrics,
}

/// What catalog and order know of auth's users: who owns it, and whom it lets in.
struct Heard {
    customers: Addr<customers::Msg>,
    authenticator: Authenticator,
    owner: Child,
}

/// What every node has: the link to its broker, and the owners of what is told of the node itself.
struct Common {
    connection: Connection,
    /// The events that the node's actors apply.
    subscriptions: Vec<AnySubscription>,
    letters: Addr<dead_letters::Msg>,
    audit: Addr<audit::Msg>,
    health_monitor: Addr<health::Msg>,
    owners: Vec<Child>,
}

impl Node {
    /// An address of owners on this node.
    fn addr<M: Message>(&self, name: &'static str, owners: usize, capacity: usize) -> Addr<M> {
        Addr::new(&self.registry, name, owners, capacity, self.answer_timeout)
    }

    /// The measures of a service that is at one thing at a time.
    fn actor_metrics(&self, name: &str, capacity: Option<usize>) -> Arc<ActorMetrics> {
        self.registry.branch(name).actor_metrics(ActorKind::Service, capacity, 1)
    }

    fn heard(&self) -> anyhow::Result<Heard> {
        let customers = self.addr("customers", 1, self.mailboxes.customers);
        let (changed, changes) = broadcast::channel(1024);
        let Keys { user_tokens, node_tokens, .. } = self.keys.clone();
        let remote =
            RemoteVerifier::new(user_tokens, &self.auth_url, self.verified_for, customers.clone())?;
        let authenticator = Authenticator::remote(remote, node_tokens, changes);
        let make = move |database: &Database| Customers::new(database, changed.clone());
        let owner = owners(&customers, &self.database, make).remove(0);
        Ok(Heard { customers, authenticator, owner })
    }

    fn common(&self, subscriptions: Vec<AnySubscription>) -> Common {
        let letters = self.addr("dead_letters", 1, self.mailboxes.dead_letters);
        let audit = self.addr("audit", 1, self.mailboxes.audit);
        let health_monitor = self.addr("pulse", 1, self.mailboxes.health_monitor);
        let redriven = subscriptions.clone();
        let make = move |database: &Database| DeadLetters::new(database, redriven.clone());
        let owners = tree([
            owners(&letters, &self.database, make),
            needed(owners(&audit, &self.database, Audit::new)),
            needed(owners(&health_monitor, &self.database, HealthMonitor::new)),
        ]);
        Common {
            connection: Connection::new(&self.broker),
            subscriptions,
            letters,
            audit,
            health_monitor,
            owners,
        }
    }

    /// The link to the broker, and all that need it.
    fn broker(&self, common: &Common) -> Child {
        let branch = self.registry.branch("broker");
        let (connection, letters) = (common.connection.clone(), common.letters.clone());
        let consumers: Vec<_> =
            common.subscriptions.iter().map(|it| self.consumer(it, &connection)).collect();
        let (database, metrics) = (self.database.clone(), self.metrics.clone());
        let children = {
            let branch = branch.clone();
            move || {
                let actor_metrics = |name: &str, capacity| {
                    branch.branch(name).actor_metrics(ActorKind::Service, capacity, 1)
                };
                let relay = Relay {
                    database: database.clone(),
                    connection: connection.clone(),
                    metrics: metrics.clone(),
                };
                let dead_letters = |consumer: &Consumer| {
                    let queue = consumer.subscription.queue();
                    let actor_metrics =
                        actor_metrics(&format!("keeper/{queue}"), Some(PREFETCH.into()));
                    let (letters, connection) = (letters.clone(), connection.clone());
                    Child::service(
                        &actor_metrics,
                        GRACE,
                        DeadLetterConsumer { queue, letters, connection },
                    )
                };
                let consumer = |consumer: &Consumer| {
                    let queue = consumer.subscription.queue();
                    let capacity = Some(usize::from(consumer.prefetch));
                    let actor_metrics = actor_metrics(&format!("consumer/{queue}"), capacity);
                    Child::service(&actor_metrics, GRACE, consumer.clone())
                };
                Ok(tree([
                    vec![Child::service(&actor_metrics("link", None), GRACE, connection.clone())],
                    vec![Child::service(&actor_metrics("relay", Some(WINDOW)), GRACE, relay)],
                    consumers.iter().map(dead_letters).collect(),
                    consumers.iter().map(consumer).collect(),
                ]))
            }
        };
        Child::supervisor(&branch, Strategy::RestForOne, self.policy, children)
    }

    fn consumer(&self, subscription: &AnySubscription, connection: &Connection) -> Consumer {
        Consumer {
            subscription: subscription.clone(),
            connection: connection.clone(),
            prefetch: self.prefetch,
            max_attempts: self.max_attempts,
            metrics: self.metrics.clone(),
        }
    }

    fn resync(&self, copies: Copies) -> Child {
        let (database, peers) = (self.database.clone(), self.peers.clone());
        let resync = Resync { database, copies, peers };
        Child::service(&self.actor_metrics("resync", None), GRACE, resync)
    }

    fn change_listener(&self) -> Child {
        let change_listener = ChangeListener { database: self.database.clone() };
        Child::service(&self.actor_metrics("lookout", None), GRACE, change_listener)
    }

    fn sweeper(&self) -> Child {
        let database = self.database.clone();
        let sweeper = Sweeper { database, retention: self.answer_retention };
        Child::service(&self.actor_metrics("sweeper", None), GRACE, sweeper)
    }

    fn edge(
        &self,
        api: Api,
        authenticator: Authenticator,
        common: &Common,
    ) -> anyhow::Result<Child> {
        let vitals = Health {
            node: self.name,
            process: self.process,
            started_at: self.started_at,
            database: self.database.clone(),
            health_monitor: common.health_monitor.clone(),
            broker: common.connection.watch(),
            queues: common.subscriptions.iter().map(AnySubscription::queue).collect(),
            registry: self.registry.clone(),
            metrics: self.metrics.clone(),
        };
        let edge = HttpServer {
            listener: Arc::new(self.listener.try_clone()?),
            api,
            letters: common.letters.clone(),
            authenticator,
            idempotency: Idempotency {
                fingerprints: self.keys.fingerprints.clone(),
                retention: self.answer_retention,
            },
            snapshot: SnapshotApi::new(&self.database, self.schema, self.peers.clone()),
            audit: common.audit.clone(),
            cluster: self.cluster.clone(),
            health: vitals,
            limits: self.limits,
            shutdown: self.shutdown.clone(),
        };
        let place = self.registry.branch("edge");
        let actor_metrics =
            place.actor_metrics(ActorKind::HttpServer, Some(self.limits.in_flight), SERVER_SLOTS);
        Ok(Child::service(&actor_metrics, GRACE, edge).restart_only())
    }
}

/// Of so many requests at once the inspector can tell which they are.
const SERVER_SLOTS: usize = 64;

/// Those without whom nobody could be told to go on again: administrators may only have them started afresh.
fn needed(owners: Vec<Child>) -> Vec<Child> {
    owners.into_iter().map(Child::restart_only).collect()
}

/// The owners behind an address, each with a share of its keys.
pub fn owners<O: Actor>(
    addr: &Addr<O::Msg>,
    database: &Database,
    make: impl Fn(&Database) -> O + Clone + Send + Sync + 'static,
) -> Vec<Child> {
    let owner = |mailbox| {
        let (database, make) = (database.clone(), make.clone());
        Child::actor(mailbox, move || make(&database))
    };
    addr.mailboxes().iter().map(owner).collect()
}
