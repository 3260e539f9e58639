//! The clients: each writes with a key, and asks again with the same key until the answer is definite.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, IteratorRandom};
use rand::{RngExt, SeedableRng};
use reqwest::Method;
use serde_json::{Value, json};
use shop_runtime::Backoff;
use shop_supervisor::Node;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::records::{Category, Order, Product, Records, User};
use crate::shop::{PASSWORD, Shop};

/// How long a client waits for an answer to one try.
const PATIENCE: Duration = Duration::from_secs(8);
/// How long after the load's end a client still asks for a definite answer.
const RESOLUTION_PATIENCE: Duration = Duration::from_secs(90);
/// Orders go to the newest so many products.
const ON_OFFER: usize = 30;

/// What all clients share.
#[derive(Debug)]
pub struct Load {
    http: reqwest::Client,
    edges: [Vec<String>; 3],
    seed: u64,
    began: Instant,
    until: Instant,
    /// How long a client pauses between two actions, on average.
    pause: Duration,
    /// The administrator's token, while it is good.
    admin: tokio::sync::Mutex<Option<String>>,
    /// Acknowledged products and categories.
    products: Mutex<Vec<i64>>,
    categories: Mutex<Vec<i64>>,
}

/// Who makes a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Nobody,
    ActorContext,
    Admin,
}

/// A request, to be made until its answer is definite.
#[derive(Debug)]
struct Call {
    by: By,
    method: Method,
    node: Node,
    path: String,
    body: Option<Value>,
    /// A write has one.
    key: Option<Uuid>,
}

/// A definite answer.
#[derive(Debug)]
struct Answer {
    status: u16,
    body: Value,
    replayed: bool,
}

/// What one try came to.
enum Try {
    Definite(Answer),
    /// The token is not good (any more).
    Unauthenticated,
    /// To be made again; nobody knows whether it was done.
    Unknown,
    /// To be made again; it was not done, or still is being done.
    NotYet,
}

impl Load {
    /// Prepares clients that together begin about `rate` actions per second, for `length`.
    pub fn new(
        shop: &Shop,
        seed: u64,
        clients: u32,
        rate: f64,
        length: Duration,
    ) -> anyhow::Result<Load> {
        let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build()?;
        let began = Instant::now();
        Ok(Load {
            http,
            edges: Node::ALL.map(|node| shop.edges(node)),
            seed,
            began,
            until: began + length,
            pause: Duration::from_secs_f64(f64::from(clients) / rate),
            admin: tokio::sync::Mutex::default(),
            products: Mutex::default(),
            categories: Mutex::default(),
        })
    }

    /// When the load began.
    pub fn began(&self) -> Instant {
        self.began
    }

    /// Fills the shelves: plenty of most things, little of some.
    pub async fn stock(self: &Arc<Load>) -> Records {
        let mut client = Client::new(Arc::clone(self), 0);
        for _ in 0..4 {
            client.add_category().await;
        }
        for number in 0..20 {
            client.add_product(if number % 4 == 0 { 100 } else { 1_000_000 }).await;
        }
        client.records
    }

    /// One client, until the end of the load and the definite answer to its last request.
    pub async fn client(self: Arc<Load>, number: u64) -> Records {
        let mut client = Client::new(self, number);
        while Instant::now() < client.load.until {
            client.act().await;
            let pause = client.load.pause.mul_f64(client.rng.random_range(0.0..2.0));
            sleep(pause).await;
        }
        client.records
    }

    fn on_offer(&self, rng: &mut StdRng, amount: usize) -> Vec<i64> {
        let products = self.products.lock().expect("no panic");
        let newest = &products[products.len().saturating_sub(ON_OFFER)..];
        newest.iter().copied().sample(rng, amount)
    }
}

/// One client: a user, who is also trusted with the administrator's password.
struct Client {
    load: Arc<Load>,
    rng: StdRng,
    me: Option<Uuid>,
    token: Option<String>,
    /// The name that a change under way gives the user.
    next_name: Option<String>,
    /// Own orders.
    orders: Vec<i64>,
    turn: usize,
    records: Records,
}

impl Client {
    fn new(load: Arc<Load>, number: u64) -> Client {
        let rng = StdRng::seed_from_u64(load.seed.wrapping_add(number << 32));
        let turn = number as usize;
        let records = Records::default();
        Client { load, rng, me: None, token: None, next_name: None, orders: vec![], turn, records }
    }

    /// One of all that can be done in a shop.
    async fn act(&mut self) {
        let Some(me) = self.me else {
            self.me = self.register().await;
            return;
        };
        match self.rng.random_range(0..100) {
            0..50 => self.place(me).await,
            50..68 => self.set_quantity().await,
            68..85 => self.read().await,
            85..90 => self.update_me(me).await,
            90..94 => self.guest().await,
            94..97 => self.add_category().await,
            _ => {
                let scarce = self.rng.random_bool(0.5);
                self.add_product(if scarce { 40 } else { 100_000 }).await;
            }
        }
    }

    async fn register(&mut self) -> Option<Uuid> {
        let name = Uuid::new_v4().simple().to_string();
        let email = format!("{name}@example.com");
        let new = json!({"username": name, "email": email, "password": PASSWORD});
        let path = "/api/v1/auth/register".to_owned();
        let user = self.write(By::Nobody, Method::POST, Node::Auth, path, Some(new)).await?;
        let told = user_of(&user);
        let right = told == User { username: name, email, role: "USER".to_owned() };
        self.records.must_be(right, "signing up", &user);
        let id = user["id"].as_str()?.parse().ok()?;
        self.records.add("user", |all| &mut all.users, [(id, told)]);
        Some(id)
    }

    async fn update_me(&mut self, me: Uuid) {
        let name = Uuid::new_v4().simple().to_string();
        let changes = match self.rng.random_bool(0.5) {
            true => json!({"username": name}),
            false => json!({"email": format!("{name}@example.org")}),
        };
        let path = "/api/v1/users/me".to_owned();
        let body = Some(changes.clone());
        self.next_name = changes["username"].as_str().map(str::to_owned);
        let updated = self.write(By::ActorContext, Method::PUT, Node::Auth, path, body).await;
        self.next_name = None;
        if let (Some(user), Some(known)) = (updated, self.records.users.get_mut(&me)) {
            let change = |field: &str, known: &mut String| {
                if let Some(new) = changes[field].as_str() {
                    *known = new.to_owned();
                }
            };
            change("username", &mut known.username);
            change("email", &mut known.email);
            let right = user_of(&user) == *known;
            self.records.must_be(right, "changing oneself", &user);
        }
    }

    /// Somebody signs up, is made an administrator, and is mostly removed.
    async fn guest(&mut self) {
        let Some(id) = self.register().await else { return };
        let role = json!({"role": "ADMIN"});
        let path = format!("/api/v1/users/{id}/role");
        let changed = self.write(By::Admin, Method::PUT, Node::Auth, path, Some(role)).await;
        if let (Some(user), Some(known)) = (changed, self.records.users.get_mut(&id)) {
            known.role = "ADMIN".to_owned();
            let right = user_of(&user) == *known;
            self.records.must_be(right, "changing a role", &user);
        }
        if self.rng.random_bool(0.7) {
            let path = format!("/api/v1/users/{id}");
            if self.write(By::Admin, Method::DELETE, Node::Auth, path, None).await.is_some() {
                self.records.users.remove(&id);
                self.records.deleted_users.insert(id);
            }
        }
    }

    async fn add_category(&mut self) {
        let name = Uuid::new_v4().to_string();
        let known = self.load.categories.lock().expect("no panic").choose(&mut self.rng).copied();
        let parent_id = known.filter(|_| self.rng.random_bool(0.5));
        let new = json!({"name": name, "parent_id": parent_id});
        let path = "/api/v1/category".to_owned();
        let added = self.write(By::Admin, Method::POST, Node::Catalog, path, Some(new)).await;
        let Some(added) = added else { return };
        let right = added["name"] == name && added["parent_id"].as_i64() == parent_id;
        self.records.must_be(right, "adding a category", &added);
        let Some(id) = added["id"].as_i64() else { return };
        self.records.add(
            "category",
            |all| &mut all.categories,
            [(id, Category { name, parent_id })],
        );
        self.load.categories.lock().expect("no panic").push(id);
    }

    async fn add_product(&mut self, stocked: i64) {
        let name = Uuid::new_v4().to_string();
        let known = self.load.categories.lock().expect("no panic").choose(&mut self.rng).copied();
        let Some(category_id) = known else { return };
        let price = self.rng.random_range(1..10_000);
        let new =
            json!({"name": name, "price": price, "quantity": stocked, "category_id": category_id});
        let path = "/api/v1/product".to_owned();
        let added = self.write(By::Admin, Method::POST, Node::Catalog, path, Some(new)).await;
        let Some(added) = added else { return };
        let right = added["name"] == name
            && added["price"] == price
            && added["storage_quantity"] == stocked
            && added["category_id"] == category_id;
        self.records.must_be(right, "adding a product", &added);
        let Some(id) = added["id"].as_i64() else { return };
        let product = Product { name, price, stocked, category_id };
        self.records.add("product", |all| &mut all.products, [(id, product)]);
        self.load.products.lock().expect("no panic").push(id);
    }

    async fn place(&mut self, me: Uuid) {
        let amount = self.rng.random_range(1..=4);
        let wanted: BTreeMap<i64, i64> = (self.load.on_offer(&mut self.rng, amount).into_iter())
            .map(|product| (product, self.rng.random_range(1..=5)))
            .collect();
        let item = |(product, quantity)| json!({"product_id": product, "quantity": quantity});
        let items: Vec<_> = wanted.iter().map(item).collect();
        let new = json!({"user_id": me, "items": items});
        let placed =
            self.write(By::ActorContext, Method::POST, Node::Order, "/order".to_owned(), Some(new));
        let Some(placed) = placed.await else { return };
        let items = placed["items"].as_array().into_iter().flatten().filter_map(item_of);
        let order = Order { user_id: me, items: items.collect() };
        let ordered: BTreeMap<i64, i64> = order.items.values().copied().collect();
        self.records.must_be(ordered == wanted, "an order", &placed);
        let Some(id) = placed["id"].as_i64() else { return };
        self.records.add("order", |all| &mut all.orders, [(id, order)]);
        self.orders.push(id);
    }

    async fn set_quantity(&mut self) {
        let Some(&id) = self.orders.choose(&mut self.rng) else { return };
        let items = self.records.orders.get(&id).map(|order| &order.items);
        let chosen = items.and_then(|items| items.iter().choose(&mut self.rng));
        let Some((&item, &(product, _))) = chosen else { return };
        let quantity = self.rng.random_range(1..=8);
        let new = json!({"order_item_id": item, "quantity": quantity});
        let path = format!("/update_order/{id}");
        let set = self.write(By::ActorContext, Method::PUT, Node::Order, path, Some(new)).await;
        let Some(set) = set else { return };
        let right = item_of(&set) == Some((item, (product, quantity)));
        self.records.must_be(right, "changing an item", &set);
        if let Some(order) = self.records.orders.get_mut(&id) {
            order.items.insert(item, (product, quantity));
        }
    }

    /// Reads something; what was written must be there.
    async fn read(&mut self) {
        let order = self.orders.choose(&mut self.rng).copied();
        let (node, path) = match (self.rng.random_range(0..4), order) {
            (0, Some(id)) => (Node::Order, format!("/order/{id}")),
            (1, _) => (Node::Catalog, "/api/v1/products".to_owned()),
            (2, _) => (Node::Catalog, "/api/v1/categories".to_owned()),
            _ => (Node::Auth, "/api/v1/users/me".to_owned()),
        };
        let call =
            Call { by: By::ActorContext, method: Method::GET, node, path, body: None, key: None };
        let Some(Answer { status, body, .. }) = self.ask(&call).await else { return };
        let right = match (node, order) {
            (Node::Order, Some(id)) => {
                let items = body["items"].as_array().into_iter().flatten().filter_map(item_of);
                status == 200
                    && self.records.orders.get(&id).map(|order| &order.items)
                        == Some(&items.collect())
            }
            (Node::Auth, _) => self
                .me
                .and_then(|me| self.records.users.get(&me))
                .is_some_and(|known| status == 200 && user_of(&body) == *known),
            _ => status == 200,
        };
        self.records.must_be(right, &format!("GET {}", call.path), &body);
    }

    /// A write: the body of its answer, unless it was refused.
    async fn write(
        &mut self,
        by: By,
        method: Method,
        node: Node,
        path: String,
        body: Option<Value>,
    ) -> Option<Value> {
        let call = Call { by, method, node, path, body, key: Some(Uuid::new_v4()) };
        let answer = self.ask(&call).await?;
        if answer.replayed {
            self.records.writes.replayed += 1;
        }
        if answer.status < 300 {
            self.records.writes.acknowledged += 1;
            return Some(answer.body);
        }
        self.records.writes.refused += 1;
        // Out of stock, or not heard of yet; anything else is no answer to what we ask.
        let expected = matches!((call.node, answer.status), (Node::Order, 409 | 422));
        let what = format!("{} {}", call.method, call.path);
        self.records.must_be(expected, &what, &answer.body);
        None
    }

    /// Makes a request until its answer is definite. Nothing when that took too long.
    async fn ask(&mut self, call: &Call) -> Option<Answer> {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        let (since, mut tries, mut unknown) = (Instant::now(), 0, false);
        let answer = loop {
            if Instant::now() > self.load.until + RESOLUTION_PATIENCE {
                break None;
            }
            let token = match call.by {
                By::Nobody => None,
                By::ActorContext => self.my_token().await,
                By::Admin => self.admins_token().await,
            };
            if token.is_none() && call.by != By::Nobody {
                sleep(backoff.next_delay()).await;
                continue;
            }
            tries += 1;
            match self.attempt(call, token.as_deref()).await {
                Try::Definite(answer) => break Some(answer),
                Try::Unauthenticated => self.forget(token).await,
                Try::Unknown => unknown = true,
                Try::NotYet => {}
            }
            sleep(backoff.next_delay()).await;
        };
        if call.key.is_some() {
            let writes = &mut self.records.writes;
            writes.unknown += u64::from(unknown);
            writes.retried += u64::from(tries > 1);
            self.records.resolutions.push(since.elapsed());
            if answer.is_none() {
                let Call { method, path, body, key, .. } = call;
                let unresolved = format!("{method} {path} {body:?} {key:?} after {tries} tries");
                self.records.unresolved.push(unresolved);
            }
        }
        answer
    }

    async fn attempt(&mut self, call: &Call, token: Option<&str>) -> Try {
        self.turn += 1;
        let place = Node::ALL.iter().position(|node| *node == call.node).expect("one of three");
        let edges = &self.load.edges[place];
        let url = format!("{}{}", edges[self.turn % edges.len()], call.path);
        let mut request = self.load.http.request(call.method.clone(), url);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some(key) = call.key {
            request = request.header("Idempotency-Key", key.to_string());
        }
        if let Some(body) = &call.body {
            request = request.json(body);
        }
        let since = Instant::now();
        let answered = async {
            let response = request.send().await?;
            let status = response.status().as_u16();
            let header = |name: &str| response.headers().contains_key(name);
            let (replayed, later) = (header("idempotency-replayed"), header("retry-after"));
            reqwest::Result::Ok((status, replayed, later, response.bytes().await?))
        };
        let answered = answered.await;
        let failed = !matches!(answered, Ok((..500, ..)));
        self.records.count(self.load.began, !failed);
        match answered {
            Err(error) if error.is_connect() => Try::NotYet,
            Err(_) => Try::Unknown,
            Ok((401, ..)) => Try::Unauthenticated,
            Ok((408 | 429, ..)) | Ok((409, _, true, _)) => Try::NotYet,
            Ok((status @ 500.., _, _, body)) => {
                if status == 500 {
                    let text = String::from_utf8_lossy(&body);
                    self.records.bugs.push(format!("{} {}: {text}", call.method, call.path));
                }
                Try::Unknown
            }
            Ok((status, replayed, _, body)) => {
                self.records.answers.push(since.elapsed());
                let body = serde_json::from_slice(&body).unwrap_or_default();
                Try::Definite(Answer { status, body, replayed })
            }
        }
    }

    async fn my_token(&mut self) -> Option<String> {
        if self.token.is_none() {
            let known = self.me.and_then(|me| self.records.users.get(&me));
            let names = [known.map(|user| user.username.clone()), self.next_name.clone()];
            for name in names.into_iter().flatten() {
                self.token = self.sign_in(name).await;
                if self.token.is_some() {
                    break;
                }
            }
        }
        self.token.clone()
    }

    /// All clients share it; the first to find it missing signs in.
    async fn admins_token(&mut self) -> Option<String> {
        let load = Arc::clone(&self.load);
        let mut token = load.admin.lock().await;
        if token.is_none() {
            *token = self.sign_in("admin".to_owned()).await;
        }
        token.clone()
    }

    /// Whoever's token it was signs in again.
    async fn forget(&mut self, token: Option<String>) {
        if self.token == token {
            self.token = None;
        }
        let mut admins = self.load.admin.lock().await;
        if *admins == token {
            *admins = None;
        }
    }

    /// A token, unless nobody has this name.
    async fn sign_in(&mut self, username: String) -> Option<String> {
        let call = Call {
            by: By::Nobody,
            method: Method::POST,
            node: Node::Auth,
            path: "/api/v1/auth/login".to_owned(),
            body: Some(json!({"username": username, "password": PASSWORD})),
            key: None,
        };
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        while Instant::now() < self.load.until + RESOLUTION_PATIENCE {
            match self.attempt(&call, None).await {
                Try::Definite(answer) => {
                    return answer.body["access_token"].as_str().map(str::to_owned);
                }
                Try::Unauthenticated => return None,
                Try::Unknown | Try::NotYet => sleep(backoff.next_delay()).await,
            }
        }
        None
    }
}

fn user_of(body: &Value) -> User {
    let text = |field: &str| body[field].as_str().unwrap_or_default().to_owned();
    User { username: text("username"), email: text("email"), role: text("role") }
}

/// An item's id, product and quantity.
fn item_of(body: &Value) -> Option<(i64, (i64, i64))> {
    let number = |field: &str| body[field].as_i64();
    Some((number("id")?, (number("product_id")?, number("product_quantity")?)))
}
