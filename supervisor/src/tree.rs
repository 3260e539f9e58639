//! What runs on each node: its tree of actors, declared so that it reads like the picture above it.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use ractor::SpawnErr;
use shop_actors::catalog::Catalog;
use shop_actors::customers::{self, Customers};
use shop_actors::orders::Orders;
use shop_actors::passwords::Passwords;
use shop_actors::users::Users;
use shop_actors::{Addr, Figures, Mailbox, Metrics, Owner, hire, launch};
use shop_http::{Api, Auth, Doors, Edge, Gate, Limits, Remote, Tokens, Vitals};
use shop_messaging::{Broker, Desk, Intake, Relay};
use shop_persistence::Database;
use tokio::sync::broadcast;

use crate::supervisor::{Child, GRACE};

/// auth
/// ├── relay        outbox → broker
/// ├── users/0..n   owns users
/// └── edge         /api/v1/auth · /api/v1/users
pub fn auth(node: &Node, passwords: &Passwords) -> anyhow::Result<Vec<Child>> {
    let users = node.addr("users", node.owners);
    let tokens = node.tokens.clone();
    let gate = Gate::Own(tokens.clone(), users.clone());
    let figures = figures(&[&users]);
    let owners = owners(&users, &node.database, Users::new);
    let api = Api::Auth(Auth { users, passwords: passwords.clone(), tokens });
    Ok(tree([vec![node.relay()], owners, vec![node.edge(api, gate, figures)?]]))
}

/// catalog
/// ├── relay            outbox → broker
/// ├── customers/0      owns what was heard of auth's users
/// ├── catalog/0..n     owns categories, products and their stock
/// ├── intake/users     catalog.users → customers
/// ├── intake/stock     stock.moved → catalog
/// └── edge             /api/v1/category · /api/v1/product · …
pub fn catalog(node: &Node) -> anyhow::Result<Vec<Child>> {
    let Heard { customers, gate, owner } = node.heard()?;
    let catalog = node.addr("catalog", node.owners);
    let figures = figures(&[&customers, &catalog]);
    Ok(tree([
        vec![node.relay()],
        vec![owner],
        owners(&catalog, &node.database, Catalog::new),
        vec![node.intake("users", "catalog.users", Desk::Customers(customers))],
        vec![node.intake("stock", "stock.moved", Desk::Catalog(catalog.clone()))],
        vec![node.edge(Api::Catalog(catalog), gate, figures)?],
    ]))
}

/// order
/// ├── relay             outbox → broker
/// ├── customers/0       owns what was heard of auth's users
/// ├── orders/0..n       owns orders, and the products for sale
/// ├── intake/users      order.users → customers
/// ├── intake/products   product.created → orders
/// └── edge              POST /order · GET /order/{id} · PUT /update_order/{id}
pub fn order(node: &Node) -> anyhow::Result<Vec<Child>> {
    let Heard { customers, gate, owner } = node.heard()?;
    let orders = node.addr("orders", node.owners);
    let figures = figures(&[&customers, &orders]);
    Ok(tree([
        vec![node.relay()],
        vec![owner],
        owners(&orders, &node.database, Orders::new),
        vec![node.intake("users", "order.users", Desk::Customers(customers))],
        vec![node.intake("products", "product.created", Desk::Orders(orders.clone()))],
        vec![node.edge(Api::Order(orders), gate, figures)?],
    ]))
}

fn tree<const N: usize>(branches: [Vec<Child>; N]) -> Vec<Child> {
    branches.into_iter().flatten().collect()
}

/// What the actors of a node share.
#[derive(Debug)]
pub struct Node {
    /// Its name.
    pub name: &'static str,
    /// Its database.
    pub database: Database,
    /// The broker that joins it to the others.
    pub broker: Broker,
    /// At most so many messages are taken from a queue at once.
    pub prefetch: u16,
    /// Where it listens.
    pub listener: TcpListener,
    /// Closes its edge before the rest.
    pub doors: Doors,
    /// Signs and reads tokens.
    pub tokens: Arc<Tokens>,
    /// Where the auth node verifies tokens.
    pub auth_url: String,
    /// How long a verified token is believed.
    pub verified_for: Duration,
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
            metrics: self.metrics.clone(),
        };
        let name = format!("intake/{name}");
        Child::new(name, move |supervisor| launch(intake.clone(), GRACE, supervisor))
    }

    fn edge(&self, api: Api, gate: Gate, mailboxes: Mailboxes) -> anyhow::Result<Child> {
        let vitals = Vitals {
            node: self.name,
            database: self.database.clone(),
            broker: self.broker_up.clone(),
            mailboxes,
            metrics: self.metrics.clone(),
        };
        let (listener, doors, limits) =
            (self.listener.try_clone()?, self.doors.clone(), self.limits);
        Ok(Child::new("edge", move |supervisor| {
            let listener = listener.try_clone();
            let (api, gate, vitals, doors) =
                (api.clone(), gate.clone(), vitals.clone(), doors.clone());
            async move {
                let listener = listener.map_err(|error| SpawnErr::StartupFailed(error.into()))?;
                launch(Edge { listener, api, gate, vitals, limits, doors }, GRACE, supervisor).await
            }
        }))
    }
}

/// The owners behind an address, each with a share of its keys.
fn owners<O: Owner>(
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
