//! What runs on each node: its tree of actors, declared so that it reads like the picture above it.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use ractor::SpawnErr;
use shop_actors::catalog::{self, Catalog};
use shop_actors::customers::{self, Customers};
use shop_actors::dead_letters::{self, DeadLetters};
use shop_actors::idempotency::Sweeper;
use shop_actors::orders::{self, Orders};
use shop_actors::passwords::Passwords;
use shop_actors::users::Users;
use shop_actors::{Addr, Figures, Mailbox, Metrics, Owner, hire, launch};
use shop_http::{
    Api, Auth, Books, Copies, Doors, Edge, Gate, Keys, Limits, Peers, Remote, Resync, Tokens,
    Vitals,
};
use shop_messaging::topology::{CATALOG_USERS, ORDER_USERS, PRODUCT_CREATED, STOCK_MOVED};
use shop_messaging::{Broker, Desk, Desks, Intake, Keeper, Relay};
use shop_persistence::{Database, Schema};
use tokio::sync::broadcast;

use crate::supervisor::{Child, GRACE};

/// auth
/// ├── relay            outbox → broker
/// ├── users/0..n       owns users
/// ├── dead_letters/0   owns none: this node listens on no queue
/// ├── sweeper          forgets kept answers
/// └── edge             /api/v1/auth · /api/v1/users
pub fn auth(node: &Node, passwords: &Passwords) -> anyhow::Result<Vec<Child>> {
    let users = node.addr("users", node.owners);
    let tokens = node.tokens.clone();
    let gate = Gate::Own(tokens.clone(), users.clone());
    let letters = node.letters(Desks::default());
    let figures = figures(&[&users, &letters.addr]);
    let owners = owners(&users, &node.database, Users::new);
    let api = Api::Auth(Auth { users, passwords: passwords.clone(), tokens });
    let edge = node.edge(api, gate, &letters, figures)?;
    let sweeper = node.sweeper();
    Ok(tree([vec![node.relay()], owners, letters.children, vec![sweeper, edge]]))
}

/// catalog
/// ├── relay              outbox → broker
/// ├── customers/0        owns what was heard of auth's users
/// ├── catalog/0..n       owns categories, products and their stock
/// ├── dead_letters/0     owns the messages that could not be applied
/// ├── keeper/…           catalog.users.dead, stock.moved.dead → dead_letters
/// ├── intake/users       catalog.users → customers
/// ├── intake/stock       stock.moved → catalog
/// ├── resync             the other nodes' books → customers, catalog
/// ├── sweeper            forgets kept answers
/// └── edge               /api/v1/category · /api/v1/product · …
pub fn catalog(node: &Node) -> anyhow::Result<Vec<Child>> {
    let Heard { customers, gate, owner } = node.heard()?;
    let catalog = node.addr("catalog", node.owners);
    let letters = node.letters(catalog_desks(&customers, &catalog));
    let figures = figures(&[&customers, &catalog, &letters.addr]);
    let edge = node.edge(Api::Catalog(catalog.clone()), gate, &letters, figures)?;
    let copies = Copies::Catalog(customers.clone(), catalog.clone());
    Ok(tree([
        vec![node.relay()],
        vec![owner],
        owners(&catalog, &node.database, Catalog::new),
        letters.children,
        vec![node.intake("users", CATALOG_USERS, Desk::Customers(customers))],
        vec![node.intake("stock", STOCK_MOVED, Desk::Catalog(catalog))],
        vec![node.resync(copies), node.sweeper(), edge],
    ]))
}

/// Whom the catalog node's messages are for, again when they are redriven.
pub fn catalog_desks(customers: &Addr<customers::Msg>, catalog: &Addr<catalog::Msg>) -> Desks {
    Desks::new([
        (CATALOG_USERS, Desk::Customers(customers.clone())),
        (STOCK_MOVED, Desk::Catalog(catalog.clone())),
    ])
}

/// order
/// ├── relay             outbox → broker
/// ├── customers/0       owns what was heard of auth's users
/// ├── orders/0..n       owns orders, and the products for sale
/// ├── dead_letters/0    owns the messages that could not be applied
/// ├── keeper/…          order.users.dead, product.created.dead → dead_letters
/// ├── intake/users      order.users → customers
/// ├── intake/products   product.created → orders
/// ├── resync            the other nodes' books → customers, orders
/// ├── sweeper           forgets kept answers
/// └── edge              POST /order · GET /order/{id} · PUT /update_order/{id}
pub fn order(node: &Node) -> anyhow::Result<Vec<Child>> {
    let Heard { customers, gate, owner } = node.heard()?;
    let orders = node.addr("orders", node.owners);
    let letters = node.letters(order_desks(&customers, &orders));
    let figures = figures(&[&customers, &orders, &letters.addr]);
    let edge = node.edge(Api::Order(orders.clone()), gate, &letters, figures)?;
    let copies = Copies::Order(customers.clone(), orders.clone());
    Ok(tree([
        vec![node.relay()],
        vec![owner],
        owners(&orders, &node.database, Orders::new),
        letters.children,
        vec![node.intake("users", ORDER_USERS, Desk::Customers(customers))],
        vec![node.intake("products", PRODUCT_CREATED, Desk::Orders(orders))],
        vec![node.resync(copies), node.sweeper(), edge],
    ]))
}

/// Whom the order node's messages are for, again when they are redriven.
pub fn order_desks(customers: &Addr<customers::Msg>, orders: &Addr<orders::Msg>) -> Desks {
    Desks::new([
        (ORDER_USERS, Desk::Customers(customers.clone())),
        (PRODUCT_CREATED, Desk::Orders(orders.clone())),
    ])
}

/// Branches, side by side.
pub fn tree<const N: usize>(branches: [Vec<Child>; N]) -> Vec<Child> {
    branches.into_iter().flatten().collect()
}

/// What the actors of a node share.
#[derive(Debug)]
pub struct Node {
    /// Its name.
    pub name: &'static str,
    /// Its database.
    pub database: Database,
    /// Whose tables it holds.
    pub schema: Schema,
    /// The broker that joins it to the others.
    pub broker: Broker,
    /// At most so many messages are taken from a queue at once.
    pub prefetch: u16,
    /// How often what ends its owner is handed out again.
    pub most_tries: u32,
    /// Where it listens.
    pub listener: TcpListener,
    /// Closes its edge before the rest.
    pub doors: Doors,
    /// Signs and reads tokens.
    pub tokens: Arc<Tokens>,
    /// Where the auth node verifies tokens.
    pub auth_url: String,
    /// Where the other nodes show their books.
    pub peers: Peers,
    /// How long a verified token is believed.
    pub verified_for: Duration,
    /// How long the answer to a request with a key is kept.
    pub answers_kept_for: Duration,
    /// How many owners share the work.
    pub owners: usize,
    /// How many messages wait for one owner.
    pub mailbox_capacity: usize,
    /// How long an owner may take to answer.
    pub answer_timeout: Duration,
    /// How much the edge takes on at once.
    pub limits: Limits,
    /// What it counts.
    pub metrics: Metrics,
    /// Whether there is a connection to the broker.
    pub broker_up: Arc<AtomicBool>,
}

/// What catalog and order know of auth's users: who owns it, and whom it lets in.
struct Heard {
    customers: Addr<customers::Msg>,
    gate: Gate,
    owner: Child,
}

/// A node's dead letters: how to reach their owner, and from which queues they come; it, and who brings them to it.
struct Letters {
    addr: Addr<dead_letters::Msg>,
    queues: Vec<&'static str>,
    children: Vec<Child>,
}

impl Node {
    /// An address whose mailboxes have this node's bounds.
    fn addr<M: Send + 'static>(&self, name: &'static str, owners: usize) -> Addr<M> {
        Addr::new(name, owners, self.mailbox_capacity, self.answer_timeout)
    }

    fn heard(&self) -> anyhow::Result<Heard> {
        let customers = self.addr("customers", 1);
        let (changed, changes) = broadcast::channel(1024);
        let (tokens, verified_for) = (self.tokens.clone(), self.verified_for);
        let remote = Remote::new(tokens, &self.auth_url, verified_for, customers.clone(), changes)?;
        let make = move |database: &Database| Customers::new(database, changed.clone());
        let owner = owners(&customers, &self.database, make).remove(0);
        Ok(Heard { customers, gate: Gate::Remote(remote), owner })
    }

    fn letters(&self, desks: Desks) -> Letters {
        let addr = self.addr("dead_letters", 1);
        let queues: Vec<_> = desks.queues().collect();
        let make = move |database: &Database| DeadLetters::new(database, desks.clone());
        let mut children = owners(&addr, &self.database, make);
        children.extend(queues.iter().map(|queue| {
            let keeper = Keeper { queue, letters: addr.clone(), broker: self.broker.clone() };
            let start = move |supervisor| launch(keeper.clone(), GRACE, supervisor);
            Child::new(format!("keeper/{queue}"), start)
        }));
        Letters { addr, queues, children }
    }

    fn relay(&self) -> Child {
        let relay = Relay {
            database: self.database.clone(),
            broker: self.broker.clone(),
            metrics: self.metrics.clone(),
            up: self.broker_up.clone(),
        };
        Child::new("relay", move |supervisor| launch(relay.clone(), GRACE, supervisor))
    }

    fn intake(&self, name: &str, queue: &'static str, desk: Desk) -> Child {
        let intake = Intake {
            queue,
            desk,
            broker: self.broker.clone(),
            prefetch: self.prefetch,
            most_tries: self.most_tries,
            metrics: self.metrics.clone(),
        };
        let name = format!("intake/{name}");
        Child::new(name, move |supervisor| launch(intake.clone(), GRACE, supervisor))
    }

    fn resync(&self, copies: Copies) -> Child {
        let (database, peers) = (self.database.clone(), self.peers.clone());
        let resync = Resync { database, copies, peers };
        Child::new("resync", move |supervisor| launch(resync.clone(), GRACE, supervisor))
    }

    fn sweeper(&self) -> Child {
        let database = self.database.clone();
        let sweeper = Sweeper { database, kept_for: self.answers_kept_for };
        Child::new("sweeper", move |supervisor| launch(sweeper.clone(), GRACE, supervisor))
    }

    fn edge(
        &self,
        api: Api,
        gate: Gate,
        letters: &Letters,
        mailboxes: Mailboxes,
    ) -> anyhow::Result<Child> {
        let vitals = Vitals {
            node: self.name,
            database: self.database.clone(),
            broker: self.broker_up.clone(),
            queues: letters.queues.clone(),
            mailboxes,
            metrics: self.metrics.clone(),
        };
        let keys = Keys { tokens: self.tokens.clone(), kept_for: self.answers_kept_for };
        let books = Books::new(&self.database, self.schema, self.peers.clone());
        let (listener, doors, limits) =
            (self.listener.try_clone()?, self.doors.clone(), self.limits);
        let letters = letters.addr.clone();
        Ok(Child::new("edge", move |supervisor| {
            let listener = listener.try_clone();
            let (api, letters, gate) = (api.clone(), letters.clone(), gate.clone());
            let (keys, books) = (keys.clone(), books.clone());
            let (vitals, doors) = (vitals.clone(), doors.clone());
            async move {
                let listener = listener.map_err(|error| SpawnErr::StartupFailed(error.into()))?;
                let edge =
                    Edge { listener, api, letters, gate, keys, books, vitals, limits, doors };
                launch(edge, GRACE, supervisor).await
            }
        }))
    }
}

/// The owners behind an address, each with a share of its keys.
pub fn owners<O: Owner>(
    addr: &Addr<O::Msg>,
    database: &Database,
    make: impl Fn(&Database) -> O + Clone + Send + 'static,
) -> Vec<Child> {
    let owner = |mailbox: &Arc<Mailbox<O::Msg>>| {
        let (mailbox, database, make) = (mailbox.clone(), database.clone(), make.clone());
        Child::new(mailbox.name().to_owned(), move |supervisor| {
            let (mailbox, owner) = (mailbox.clone(), make(&database));
            async move { hire(owner, &mailbox, supervisor).await }
        })
    };
    addr.mailboxes().iter().map(owner).collect()
}

type Mailboxes = Arc<dyn Fn() -> Vec<Figures> + Send + Sync>;

/// The figures of these addresses, together.
fn figures(addresses: &[&dyn Measured]) -> Mailboxes {
    let addresses: Vec<_> = addresses.iter().map(|address| address.measure()).collect();
    Arc::new(move || addresses.iter().flat_map(|figures| figures()).collect())
}

/// An address of any kind, for its figures.
trait Measured {
    fn measure(&self) -> Mailboxes;
}

impl<M: Send + 'static> Measured for Addr<M> {
    fn measure(&self) -> Mailboxes {
        let addr = self.clone();
        Arc::new(move || addr.figures())
    }
}
