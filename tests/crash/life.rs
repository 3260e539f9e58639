//! One shop that dies again and again: what is asked of it meanwhile, and what must be true afterwards.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use reqwest::Method;
use serde_json::{Value, json};
use shop_messaging::{Message, Publisher};
use shop_runtime::failpoint::FailAction;
use shop_supervisor::Node;
use shop_tests::fault_proxy::FaultProxy;
use shop_tests::rabbitmq::RabbitMq;
use shop_tests::{Folder, free_port};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::process::Process;
use crate::shop::{Client, Over, PASSWORD, Settings, Urls, eventually};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long something is withheld from the shop, if nobody dies of it sooner.
const HARDSHIP: Duration = Duration::from_secs(3);

/// So many sign up while the order node cannot write down the news of the first: it hears of the others together.
const CROWD: i64 = 3;

/// How many products there are to order.
const PRODUCTS: i64 = 8;

/// A shop and its story.
pub struct Life {
    settings: Settings,
    folder: Folder,
    shop: Process,
    /// Between the shop and RabbitMQ.
    link: FaultProxy,
    admin: Client,
    anna: Client,
    /// Several, so that an order has several items.
    products: Vec<Value>,
    order: Value,
    databases: [PgConnection; 3],
    /// A connection to none of the shop's databases.
    elsewhere: PgConnection,
    stranger: Publisher,
    /// What was asked for and promised: orders, users, products.
    promised: [i64; 3],
    /// Messages that can never be applied, by their ids.
    poison: Vec<Uuid>,
    visits: i64,
    /// The present visit's point was passed.
    passed: bool,
    /// The present visit kills the process.
    kills: bool,
    /// And it has been started again.
    is_reborn: bool,
    /// The process lost its connections to the broker, and takes messages one by one since.
    lost_broker: bool,
}

/// A change that is asked for until it is answered.
#[derive(Clone)]
struct Errand {
    who: Client,
    key: Option<String>,
    method: Method,
    node: Node,
    path: String,
    body: Value,
    /// What the answer must be.
    status: u16,
}

impl Life {
    /// A new shop with a customer, a product and an order.
    pub async fn begin() -> anyhow::Result<Life> {
        let mut settings = Settings::new(Over::RabbitMq).await;
        let rabbit = RabbitMq::shared().await?;
        let link = FaultProxy::open("shop to broker".into(), rabbit.port()).await?;
        settings.set("SHOP__RABBITMQ__PORT", &link.port().to_string());
        let ports = Node::ALL.map(|node| (node, free_port()));
        for (node, port) in ports {
            let key = format!("SHOP__{}__HTTP__PORT", node.name().to_uppercase());
            settings.set(&key, &port.to_string());
        }
        settings.set("SHOP__IDEMPOTENCY__KEPT_FOR_SECONDS", "60"); // longer than a visit
        let folder = Folder::new("shop-crash")?;
        let shop = Process::start(&folder, &settings.variables).await?;
        let port = |node| ports.iter().find(|(other, _)| *other == node).expect("one of three").1;
        let nobody = Client::new(Urls::new(|node| format!("http://127.0.0.1:{}", port(node))));
        let admin = nobody.sign_in("admin").await;
        let anna = nobody.sign_up("anna").await;
        let mut products = vec![];
        for _ in 0..PRODUCTS {
            products.push(admin.product(1990, 1_000_000).await);
        }
        let order = eventually(async || {
            let answer = anna.order(&[(&products[0], 1)]).await; // refused until there is news of her
            if answer.status == 201 { Ok(answer.json()) } else { Err(answer.text) }
        })
        .await;
        let databases = [
            settings.database(Node::Auth).await,
            settings.database(Node::Catalog).await,
            settings.database(Node::Order).await,
        ];
        let elsewhere = settings.connect("postgres").await;
        let stranger = settings.rabbit(rabbit.port()).publisher().await?;
        Ok(Life {
            settings,
            folder,
            shop,
            link,
            admin,
            anna,
            products,
            order,
            databases,
            elsewhere,
            stranger,
            promised: [1, 2, PRODUCTS],
            poison: vec![],
            visits: 0,
            passed: false,
            kills: false,
            is_reborn: false,
            lost_broker: false,
        })
    }

    /// Asks this and that of the shop until somebody has died at `point`, and then looks whether all is well.
    pub async fn visit(&mut self, point: &str, victim: FailAction) -> anyhow::Result<()> {
        let since = Instant::now();
        self.visits += 1;
        self.passed = false;
        self.kills = victim == FailAction::Process;
        self.is_reborn = false;
        if self.lost_broker {
            self.start_afresh().await?;
        }
        self.shop.arm(victim, point).await?;
        let errands = self.errands();
        let visited = self.live(&errands).await.with_context(|| format!("at {point}"));
        if let Err(error) = visited {
            bail!("{error:#}\n{}", self.shop.log());
        }
        ensure!(self.passed, "nobody came by {point}:\n{}", self.shop.log());
        self.restart_if_dead().await?;
        for errand in &errands {
            self.run(errand).await.with_context(|| format!("after {point}"))?;
        }
        for (promised, more) in self.promised.iter_mut().zip([1, 1, 1]) {
            *promised += more;
        }
        self.all_is_well().await.with_context(|| {
            format!("after the {victim:?} died at {point}:\n{}", self.shop.log())
        })?;
        println!("{point}: the {victim:?} died, all is well after {:.1?}", since.elapsed());
        Ok(())
    }

    async fn restart_if_dead(&mut self) -> anyhow::Result<()> {
        if self.has_passed().await && self.kills && !self.is_reborn {
            self.shop.ended().await?; // its ports with it
        }
        if self.shop.is_dead() {
            self.start().await?;
            self.is_reborn = true;
        }
        Ok(())
    }

    async fn start_afresh(&mut self) -> anyhow::Result<()> {
        self.shop.stop().await?;
        self.start().await
    }

    async fn start(&mut self) -> anyhow::Result<()> {
        self.shop = Process::start(&self.folder, &self.settings.variables).await?;
        self.lost_broker = false;
        Ok(())
    }

    /// Ends in good order.
    pub async fn end(mut self) -> anyhow::Result<()> {
        self.shop.stop().await?;
        Ok(())
    }

    /// What is asked for at each visit, each with a key of its own.
    fn errands(&self) -> Vec<Errand> {
        let n = self.visits;
        let key = || Some(Uuid::new_v4().to_string());
        let anna = || self.anna.clone();
        let admin = || self.admin.clone();
        let item = |product: &Value| json!({"product_id": product["id"], "quantity": 1});
        let items: Vec<_> = self.products.iter().map(item).collect();
        let item = &self.order["items"][0]["id"];
        let update = format!("/update_order/{}", self.order["id"]);
        let quantity = |quantity: i64| json!({"order_item_id": item, "quantity": quantity});
        let (post, put) = (Method::POST, Method::PUT);
        let errand = |who, key, method: &Method, node, path: &str, body, status| {
            let (method, path) = (method.clone(), path.to_owned());
            Errand { who, key, method, node, path, body, status }
        };
        let order = json!({"user_id": self.anna.id(), "items": items});
        let product = json!({"name": "Чашка", "price": 5, "quantity": 9, "category_id": self.products[0]["category_id"]});
        let name = format!("user-{n}");
        let user =
            json!({"username": name, "email": format!("{name}@example.com"), "password": PASSWORD});
        let read = format!("/order/{}", self.order["id"]);
        vec![
            errand(anna(), key(), &post, Node::Order, "/order", order, 201),
            errand(anna(), key(), &put, Node::Order, &update, quantity(1 + n % 7), 200),
            errand(anna(), key(), &put, Node::Order, &update, quantity(1_000_000), 409),
            errand(anna(), None, &put, Node::Order, &update, quantity(1 + n % 5), 200),
            errand(admin(), key(), &post, Node::Catalog, "/api/v1/product", product, 201),
            errand(admin(), key(), &post, Node::Auth, "/api/v1/auth/register", user, 201),
            errand(anna(), None, &Method::GET, Node::Order, &read, Value::Null, 200),
            errand(anna(), None, &Method::GET, Node::Order, "/metrics", Value::Null, 200),
        ]
    }

    /// Goes through everything that a change can meet, until somebody has died.
    async fn live(&mut self, errands: &[Errand]) -> anyhow::Result<()> {
        for errand in errands {
            self.run(errand).await?;
            if self.has_passed().await {
                return Ok(());
            }
        }
        self.until(async |life| life.settled().await).await?;
        if self.has_passed().await {
            return Ok(());
        }
        self.poison("not json").await?;
        if self.has_passed().await {
            return Ok(());
        }
        self.poison_that_ends_its_owner().await?;
        if self.has_passed().await {
            return Ok(());
        }
        self.crowd().await?;
        if self.has_passed().await {
            return Ok(());
        }
        self.resync().await?;
        if self.has_passed().await {
            return Ok(());
        }
        self.lose_the_broker().await?;
        if self.has_passed().await {
            return Ok(());
        }
        self.lose_the_lead(&errands[0]).await?;
        if self.has_passed().await {
            return Ok(());
        }
        self.lose_the_database().await?;
        if self.has_passed().await {
            return Ok(());
        }
        self.wait(HARDSHIP).await;
        if self.passed {
            return Ok(());
        }
        self.stop(&errands[0]).await
    }

    async fn has_passed(&mut self) -> bool {
        self.passed = self.passed || self.shop.is_dead() || self.shop.passed().await;
        self.passed
    }

    /// Asks until there is an answer that settles it, or the process is dead.
    async fn run(&mut self, errand: &Errand) -> anyhow::Result<()> {
        let since = Instant::now();
        while !self.shop.is_dead() {
            if let Some((status, text)) = errand.ask().await {
                ensure!(
                    status == errand.status,
                    "{} {}: {status} {text}",
                    errand.method,
                    errand.path
                );
                return Ok(());
            }
            ensure!(since.elapsed() < PATIENCE, "no answer to {} {}", errand.method, errand.path);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Sends the order node a message that it can never apply, and waits until it is parked.
    async fn poison(&mut self, body: &str) -> anyhow::Result<()> {
        let id = Uuid::new_v4();
        let message = Message {
            routing_key: "order.users".into(),
            id: Some(id.to_string()),
            kind: Some("user_created".into()),
            version: Some(1),
            body: body.into(),
            ..Message::default()
        };
        self.stranger.publish(self.visits, message).await?;
        self.stranger.settled().await?;
        self.poison.push(id);
        self.until(async |life| {
            same("dead letters", life.parked().await?, life.poison.len() as i64)
        })
        .await
    }

    /// A message that the database chokes on: nobody foresaw that, so it ends its owner whenever it is tried.
    async fn poison_that_ends_its_owner(&mut self) -> anyhow::Result<()> {
        let plant = "create or replace function choke() returns trigger language plpgsql as
                         $$ begin raise 'it chokes on this'; end $$;
                     create trigger chokes before insert on customers for each row
                         when (new.username = 'choke') execute function choke()";
        sqlx::raw_sql(plant).execute(&mut self.databases[2]).await?;
        let user = json!({"id": Uuid::new_v4(), "username": "choke", "email": "c@example.com", "role": "USER"});
        let parked = self.poison(&user.to_string()).await;
        self.restart_if_dead().await?;
        self.until_parked().await?;
        sqlx::raw_sql("drop trigger chokes on customers").execute(&mut self.databases[2]).await?;
        parked
    }

    async fn until_parked(&mut self) -> anyhow::Result<()> {
        self.until(async |life| {
            same("dead letters", life.parked().await?, life.poison.len() as i64)
        })
        .await
    }

    /// The order node makes its copies anew.
    async fn resync(&mut self) -> anyhow::Result<()> {
        let ask = "insert into resyncs default values";
        sqlx::raw_sql(ask).execute(&mut self.databases[2]).await?;
        let left = "select count(*) from resyncs where done_at is null";
        self.until(async |life| {
            same("resyncs to do", number(&mut life.databases[2], left).await?, 0)
        })
        .await
    }

    /// Every connection to the broker breaks off.
    async fn lose_the_broker(&mut self) -> anyhow::Result<()> {
        self.lost_broker = true;
        self.link.cut(Duration::from_millis(200)).await;
        self.until(async |life| life.settled().await).await
    }

    /// Another replica relays the order node's events, and is told of what is committed here.
    async fn lose_the_lead(&mut self, order: &Errand) -> anyhow::Result<()> {
        self.take_the_lead().await?;
        let another = Errand { key: Some(Uuid::new_v4().to_string()), ..order.clone() };
        let outcome = self.run(&another).await;
        self.wait(HARDSHIP).await;
        self.give_the_lead_back().await?;
        outcome?;
        self.restart_if_dead().await?;
        self.run(&another).await?;
        self.promised[0] += 1;
        self.until(async |life| life.settled().await).await
    }

    async fn take_the_lead(&mut self) -> anyhow::Result<()> {
        let end_leader = "select pg_terminate_backend(pid) from pg_locks
            where locktype = 'advisory' and pid <> pg_backend_pid()
              and database = (select oid from pg_database where datname = current_database())";
        let lead = "select pg_try_advisory_lock(hashtext('shop.outbox'))";
        let database = &mut self.databases[2];
        loop {
            sqlx::raw_sql(end_leader).execute(&mut *database).await?;
            if sqlx::query_scalar(lead).fetch_one(&mut *database).await? {
                return Ok(());
            }
        }
    }

    async fn give_the_lead_back(&mut self) -> anyhow::Result<()> {
        let follow = "select pg_advisory_unlock_all()";
        sqlx::raw_sql(follow).execute(&mut self.databases[2]).await?;
        Ok(())
    }

    /// The order node's database is away while there is news for it.
    async fn lose_the_database(&mut self) -> anyhow::Result<()> {
        let name = format!("{}order", self.settings.prefix);
        let allow =
            |allowed: bool| format!("alter database \"{name}\" allow_connections {allowed}");
        let own: i32 =
            sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut self.databases[2]).await?;
        let terminate = format!(
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name}' and pid <> {own}"
        );
        for statement in [allow(false), terminate] {
            sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut self.elsewhere).await?;
        }
        let late = self.latecomer(0);
        let outcome = self.run(&late).await;
        self.wait(HARDSHIP).await;
        sqlx::raw_sql(sqlx::AssertSqlSafe(allow(true))).execute(&mut self.elsewhere).await?;
        outcome?;
        self.restart_if_dead().await?;
        self.run(&late).await?;
        self.promised[1] += 1;
        self.until(async |life| life.settled().await).await
    }

    /// News piles up behind news that has to wait, so that it is heard of together.
    async fn crowd(&mut self) -> anyhow::Result<()> {
        let hold = "begin; lock table customers in exclusive mode";
        sqlx::raw_sql(hold).execute(&mut self.databases[2]).await?;
        let crowd: Vec<_> = (1..=CROWD).map(|number| self.latecomer(number)).collect();
        let mut outcome = Ok(());
        for errand in &crowd {
            outcome = outcome.and(self.run(errand).await);
        }
        let waits = "select count(*) from outbox";
        let published = async |life: &mut Life| {
            same("events to publish", number(&mut life.databases[0], waits).await?, 0)
        };
        let published = self.until(published).await;
        sqlx::raw_sql("commit").execute(&mut self.databases[2]).await?;
        outcome.and(published)?;
        self.restart_if_dead().await?;
        for errand in &crowd {
            self.run(errand).await?;
        }
        self.promised[1] += CROWD;
        self.until(async |life| life.settled().await).await
    }

    /// Somebody who signs up.
    fn latecomer(&self, number: i64) -> Errand {
        let name = format!("late-{}-{number}", self.visits);
        let email = format!("{name}@example.com");
        Errand {
            who: self.admin.clone(),
            body: json!({"username": name, "email": email, "password": PASSWORD}),
            key: Some(name),
            method: Method::POST,
            node: Node::Auth,
            path: "/api/v1/auth/register".into(),
            status: 201,
        }
    }

    /// Until somebody has died, but not for ever.
    async fn wait(&mut self, most: Duration) {
        let since = Instant::now();
        while !self.has_passed().await && since.elapsed() < most {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The shop is asked to end in good order, while there are events to relay.
    async fn stop(&mut self, order: &Errand) -> anyhow::Result<()> {
        self.take_the_lead().await?;
        self.run(&Errand { key: Some(Uuid::new_v4().to_string()), ..order.clone() }).await?;
        self.promised[0] += 1;
        self.passed = self.shop.stop().await?;
        self.give_the_lead_back().await
    }

    /// Waits until it is so, or the process is dead.
    async fn until(
        &mut self,
        mut so: impl AsyncFnMut(&mut Life) -> anyhow::Result<Result<(), String>>,
    ) -> anyhow::Result<()> {
        let since = Instant::now();
        loop {
            if self.shop.is_dead() {
                return Ok(());
            }
            match so(self).await? {
                Ok(()) => return Ok(()),
                Err(why) if since.elapsed() > PATIENCE => bail!("not within {PATIENCE:?}: {why}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }

    /// Whether everything that was said has been heard.
    async fn settled(&mut self) -> anyhow::Result<Result<(), String>> {
        for database in &mut self.databases {
            let waiting = number(database, "select count(*) from outbox").await?;
            if waiting > 0 {
                return Ok(Err(format!("{waiting} events wait in an outbox")));
            }
        }
        let users = rows(
            &mut self.databases[0],
            "select id::text || username || email || role || version from users order by id",
        )
        .await?;
        for node in [1, 2] {
            let customers = "select id::text || username || email || role || version from customers order by id";
            if rows(&mut self.databases[node], customers).await? != users {
                return Ok(Err("the customers are not the users".into()));
            }
        }
        let sold = "select id || ': ' || storage_quantity from products order by id";
        let left = "select id || ': ' || quantity from products order by id";
        let (catalog, order) =
            (rows(&mut self.databases[1], sold).await?, rows(&mut self.databases[2], left).await?);
        Ok(match catalog == order {
            true => Ok(()),
            false => Err(format!("the stock differs: {catalog:?}, {order:?}")),
        })
    }

    async fn all_is_well(&mut self) -> anyhow::Result<()> {
        self.until(async |life| life.settled().await).await?;
        self.until_parked().await?;
        let counted = [
            number(&mut self.databases[2], "select count(*) from orders").await?,
            number(&mut self.databases[0], "select count(*) from users").await?,
            number(&mut self.databases[1], "select count(*) from products").await?,
        ];
        ensure!(
            counted == self.promised,
            "of {:?} orders, users, products there are {counted:?}",
            self.promised
        );
        for node in [1, 2] {
            let left = if node == 1 { "storage_quantity" } else { "quantity" };
            let wrong = format!(
                "select count(*) from products p where {left} <>
                (select coalesce(sum(delta), 0) from stock_movements m where m.product_id = p.id)"
            );
            let wrong: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(wrong))
                .fetch_one(&mut self.databases[node])
                .await?;
            ensure!(wrong == 0, "{wrong} products are not the sum of their movements");
        }
        let wrong = "select count(*) from orders o where (total_quantity, total_price) <>
            (select sum(product_quantity), sum(product_quantity * product_price) from order_items i where i.order_id = o.id)";
        ensure!(
            number(&mut self.databases[2], wrong).await? == 0,
            "an order's totals are not its items'"
        );
        let sold = "select count(*) from (
            select product_id, sum(product_quantity) as ordered,
                   (select -sum(delta) from stock_movements m where m.product_id = i.product_id and cause <> 'stocked') as moved
            from order_items i group by product_id) sums where ordered <> moved";
        ensure!(
            number(&mut self.databases[2], sold).await? == 0,
            "what was ordered did not leave the stock"
        );
        ensure!(!self.shop.is_dead(), "the shop ended");
        Ok(())
    }

    /// How many of the messages that can never be applied are parked.
    async fn parked(&mut self) -> anyhow::Result<i64> {
        let parked = "select count(distinct message_id) from dead_letters";
        number(&mut self.databases[2], parked).await
    }
}

impl Errand {
    /// The status and the text of an answer that settles it; none when the outcome is unknown.
    async fn ask(&self) -> Option<(u16, String)> {
        let mut request = self.who.request(self.method.clone(), self.node, &self.path);
        if let Some(key) = &self.key {
            request = request.header("idempotency-key", key);
        }
        if !self.body.is_null() {
            request = request.json(&self.body);
        }
        let answer = request.timeout(Duration::from_secs(6)).send().await.ok()?;
        let passing = answer.headers().contains_key("retry-after") || answer.status() == 500;
        let status = answer.status().as_u16();
        let text = answer.text().await.ok()?;
        (!passing).then_some((status, text))
    }
}

fn same(what: &str, are: i64, should: i64) -> anyhow::Result<Result<(), String>> {
    Ok(if are == should { Ok(()) } else { Err(format!("{are} {what}, not {should}")) })
}

async fn number(database: &mut PgConnection, query: &'static str) -> anyhow::Result<i64> {
    Ok(sqlx::query_scalar(query).fetch_one(database).await?)
}

async fn rows(database: &mut PgConnection, query: &'static str) -> anyhow::Result<Vec<String>> {
    Ok(sqlx::query_scalar(query).fetch_all(database).await?)
}
