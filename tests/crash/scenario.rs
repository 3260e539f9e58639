//! One shop that is crashed at a failpoint again and again: the requests it gets, and the checks
//! after each crash.

mod disruptions;

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use disruptions::Disruption;
use reqwest::Method;
use serde_json::{Value, json};
use shop_messaging::Publisher;
use shop_runtime::failpoint::FailAction;
use shop_supervisor::Node;
use shop_tests::api::{Order, Product};
use shop_tests::fault_proxy::FaultProxy;
use shop_tests::rabbitmq::RabbitMq;
use shop_tests::{BrokerKind, Client, Folder, PASSWORD, Settings};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::operation::Operation;
use crate::oracle::{Check, Oracle, Rows};
use crate::process::Process;

/// Timeout of every wait.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Number of products that can be ordered.
const PRODUCTS: i64 = 8;

/// A running shop and the changes that it has acknowledged.
pub struct Scenario {
    settings: Settings,
    folder: Folder,
    shop: Process,
    /// Between the shop and RabbitMQ.
    broker_proxy: FaultProxy,
    admin: Client,
    customer: Client,
    /// Several, so that an order has several items.
    products: Vec<Product>,
    order: Order,
    oracle: Oracle,
    /// A connection to a database that is not the shop's.
    maintenance: PgConnection,
    /// Publishes messages that do not come from the shop.
    publisher: Publisher,
    acknowledged: Rows,
    /// Number of messages published that can never be applied.
    dead_letters: usize,
    visits: i64,
    /// The armed failpoint was reached in this visit.
    reached: bool,
    /// This visit ends the process and not only an actor.
    ends_process: bool,
    /// The process was started again in this visit.
    restarted: bool,
    /// The process reconnected to the broker and consumes messages one by one since.
    lost_broker: bool,
}

impl Scenario {
    /// Starts a shop with a customer, products and an order.
    pub async fn start() -> anyhow::Result<Scenario> {
        let rabbit = RabbitMq::shared().await?;
        let broker_proxy = FaultProxy::open("shop to broker".into(), rabbit.port()).await?;
        let (mut settings, urls) = Settings::with_fixed_ports(BrokerKind::RabbitMq).await;
        settings.set("SHOP__RABBITMQ__PORT", &broker_proxy.port().to_string());
        settings.set("SHOP__IDEMPOTENCY__RETENTION_SECONDS", "60"); // longer than a visit
        let folder = Folder::new("shop-crash")?;
        let shop = Process::start(&folder, &settings.variables).await?;
        let anonymous = Client::new(urls);
        let admin = anonymous.log_in("admin").await;
        let customer = anonymous.register("anna").await;
        let mut products = vec![];
        for _ in 0..PRODUCTS {
            products.push(admin.product(1990, 1_000_000).await);
        }
        let order = customer.order(&[(&products[0], 1)]).await.read(201);
        Ok(Scenario {
            oracle: Oracle::connect(&settings).await,
            maintenance: settings.connect("postgres").await,
            publisher: settings.foreign_broker(rabbit.port()).publisher().await?,
            settings,
            folder,
            shop,
            broker_proxy,
            admin,
            customer,
            products,
            order,
            acknowledged: Rows { orders: 1, users: 2, products: PRODUCTS },
            dead_letters: 0,
            visits: 0,
            reached: false,
            ends_process: false,
            restarted: false,
            lost_broker: false,
        })
    }

    /// Sends requests and causes disruptions until the failpoint is reached, repeats all requests,
    /// and checks the databases.
    pub async fn visit(&mut self, failpoint: &str, action: FailAction) -> anyhow::Result<()> {
        let since = Instant::now();
        self.visits += 1;
        self.reached = false;
        self.ends_process = action == FailAction::Process;
        self.restarted = false;
        if self.lost_broker {
            self.shop.stop().await?;
            self.start_process().await?;
        }
        self.shop.arm(action, failpoint).await?;
        let operations = self.operations();
        let provoked = self.provoke(&operations).await.with_context(|| format!("at {failpoint}"));
        if let Err(error) = provoked {
            bail!("{error:#}\n{}", self.shop.log());
        }
        ensure!(self.reached, "{failpoint} was never reached:\n{}", self.shop.log());
        self.restart_if_ended().await?;
        for operation in &operations {
            self.run(operation).await.with_context(|| format!("after {failpoint}"))?;
        }
        self.acknowledged.orders += 1;
        self.acknowledged.users += 1;
        self.acknowledged.products += 1;
        self.check().await.with_context(|| {
            format!("after {failpoint} ended the {action:?}:\n{}", self.shop.log())
        })?;
        println!("{failpoint}: ended the {action:?}, consistent after {:.1?}", since.elapsed());
        Ok(())
    }

    /// Stops the shop gracefully.
    pub async fn finish(mut self) -> anyhow::Result<()> {
        self.shop.stop().await?;
        Ok(())
    }

    /// The requests of each visit. Those with a key get a new one.
    fn operations(&self) -> Vec<Operation> {
        let n = self.visits;
        let key = || Some(Uuid::new_v4().to_string());
        let customer = || self.customer.clone();
        let admin = || self.admin.clone();
        let items: Vec<_> = self.products.iter().map(|product| (product, 1)).collect();
        let (path, update) = (self.order.path(), self.order.update_path());
        let quantity = |quantity: i64| self.order.quantity_change(0, quantity);
        let (get, post, put) = (Method::GET, Method::POST, Method::PUT);
        let operation = |client, key, method: &Method, node, path: &str, body, status| {
            let (method, path) = (method.clone(), path.to_owned());
            Operation { client, key, method, node, path, body, status }
        };
        let order = self.customer.order_body(&items);
        let category = self.products[0].category_id;
        let product = json!({"name": "Чашка", "price": 5, "quantity": 9, "category_id": category});
        let user = registration(&format!("user-{n}"));
        vec![
            operation(customer(), key(), &post, Node::Order, "/order", order, 201),
            operation(customer(), key(), &put, Node::Order, &update, quantity(1 + n % 7), 200),
            operation(customer(), key(), &put, Node::Order, &update, quantity(1_000_000), 409),
            operation(customer(), None, &put, Node::Order, &update, quantity(1 + n % 5), 200),
            operation(admin(), key(), &post, Node::Catalog, "/api/v1/product", product, 201),
            operation(admin(), key(), &post, Node::Auth, "/api/v1/auth/register", user, 201),
            operation(customer(), None, &get, Node::Order, &path, Value::Null, 200),
            operation(customer(), None, &get, Node::Order, "/metrics", Value::Null, 200),
        ]
    }

    /// Sends the requests, causes one disruption after another, and stops the process, until the
    /// failpoint is reached.
    async fn provoke(&mut self, operations: &[Operation]) -> anyhow::Result<()> {
        for operation in operations {
            self.run(operation).await?;
            if self.has_reached().await {
                return Ok(());
            }
        }
        for disruption in Disruption::ALL {
            self.cause(disruption, &operations[0]).await?;
            if self.has_reached().await {
                return Ok(());
            }
        }
        self.stop_gracefully(&operations[0]).await
    }

    async fn has_reached(&mut self) -> bool {
        self.reached =
            self.reached || self.shop.has_ended() || self.shop.has_reached_failpoint().await;
        self.reached
    }

    /// Repeats a request until its outcome is known or the process has ended.
    async fn run(&mut self, operation: &Operation) -> anyhow::Result<()> {
        let Operation { method, path, .. } = operation;
        let since = Instant::now();
        while !self.shop.has_ended() {
            if let Some((status, text)) = operation.attempt().await {
                ensure!(status == operation.status, "{method} {path}: {status} {text}");
                return Ok(());
            }
            ensure!(since.elapsed() < TIMEOUT, "{method} {path} has no response");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Waits until the check holds or the process has ended.
    async fn until(
        &mut self,
        mut check: impl AsyncFnMut(&mut Oracle) -> anyhow::Result<Check>,
    ) -> anyhow::Result<()> {
        let since = Instant::now();
        loop {
            if self.shop.has_ended() {
                return Ok(());
            }
            match check(&mut self.oracle).await? {
                Ok(()) => return Ok(()),
                Err(why) if since.elapsed() > TIMEOUT => bail!("not within {TIMEOUT:?}: {why}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }

    async fn until_converged(&mut self) -> anyhow::Result<()> {
        self.until(async |oracle| oracle.converged().await).await
    }

    async fn until_dead_lettered(&mut self) -> anyhow::Result<()> {
        let expected = self.dead_letters;
        self.until(async |oracle| oracle.has_dead_letters(expected).await).await
    }

    async fn check(&mut self) -> anyhow::Result<()> {
        self.until_converged().await?;
        self.until_dead_lettered().await?;
        self.oracle.check(self.acknowledged).await?;
        ensure!(!self.shop.has_ended(), "the process ended");
        Ok(())
    }

    async fn restart_if_ended(&mut self) -> anyhow::Result<()> {
        if self.has_reached().await && self.ends_process && !self.restarted {
            self.shop.wait().await?; // the ports are free only then
        }
        if self.shop.has_ended() {
            self.start_process().await?;
            self.restarted = true;
        }
        Ok(())
    }

    async fn start_process(&mut self) -> anyhow::Result<()> {
        self.shop = Process::start(&self.folder, &self.settings.variables).await?;
        self.lost_broker = false;
        Ok(())
    }
}

/// The body of a registration.
fn registration(name: &str) -> Value {
    json!({"username": name, "email": format!("{name}@example.com"), "password": PASSWORD})
}
