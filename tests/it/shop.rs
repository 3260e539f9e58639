//! A shop of a test's own, and those who call it.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use reqwest::{Method, StatusCode, header::HeaderMap};
use serde_json::{Value, json};
use shop_messaging::{Broker, Bus, Rabbit, RabbitConfig};
use shop_supervisor::{Config, Node, Shop};
use shop_tests::postgres::PostgresServer;
use shop_tests::rabbitmq::RabbitMq;
use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};
use uuid::Uuid;

/// The password of every administrator and user in the tests.
pub const PASSWORD: &str = "correct horse";

/// What signs the tokens of every shop in the tests.
pub const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// Which broker joins the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    Bus,
    RabbitMq,
}

/// How many replicas of every node a shop has, all on the same databases: each call goes to the next of them. One, unless
/// `SHOP_TESTS_REPLICAS` says otherwise; several are joined by RabbitMQ, always.
fn replicas() -> usize {
    let replicas = std::env::var("SHOP_TESTS_REPLICAS").unwrap_or("1".into());
    replicas.parse().expect("SHOP_TESTS_REPLICAS is a number")
}

/// Three nodes in this process, on three databases and three ports of their own.
pub struct TestShop {
    replicas: Vec<Shop>,
    pub settings: Settings,
    urls: Urls,
}

/// The configuration of one test's shop, as environment variables.
#[derive(Clone, Debug)]
pub struct Settings {
    pub prefix: String,
    pub variables: Vec<(String, String)>,
    replicas: usize,
}

impl Settings {
    /// Databases, names and ports that nobody else has.
    pub async fn new(over: Over) -> Settings {
        match replicas() {
            1 => Settings::alone(over).await,
            replicas => Settings { replicas, ..Settings::alone(Over::RabbitMq).await },
        }
    }

    /// For one replica, whatever else is said: for what is true of a process, not of a shop.
    pub async fn alone(over: Over) -> Settings {
        let cluster = PostgresServer::shared().await.expect("a PostgreSQL for the tests").server();
        let prefix = format!("t{}_", Uuid::new_v4().simple());
        let mut settings = Settings { prefix: prefix.clone(), variables: vec![], replicas: 1 };
        for (key, value) in [
            ("SHOP__EMBEDDED__POSTGRES", "false"),
            ("SHOP__EMBEDDED__BROKER", if over == Over::Bus { "true" } else { "false" }),
            ("SHOP__JWT__SECRET_KEY", SECRET),
            ("SHOP__AUTH__BCRYPT_COST", "4"),
            ("SHOP__AUTH__ADMIN__PASSWORD", PASSWORD),
        ] {
            settings.set(key, value);
        }
        settings.set("SHOP__RABBITMQ__PREFIX", &prefix);
        if over == Over::RabbitMq {
            let port = RabbitMq::shared().await.expect("a RabbitMQ for the tests").port();
            settings.set("SHOP__RABBITMQ__PORT", &port.to_string());
        }
        for node in ["AUTH", "CATALOG", "ORDER"] {
            settings.set(&format!("SHOP__{node}__HTTP__PORT"), "0");
            let database = |key: &str| format!("SHOP__{node}__DATABASE__{key}");
            settings.set(&database("HOST"), "127.0.0.1");
            settings.set(&database("PORT"), &cluster.port().to_string());
            settings.set(&database("USER"), shop_supervisor::embedded::Postgres::USER);
            settings.set(&database("NAME"), &format!("{prefix}{}", node.to_lowercase()));
        }
        settings
    }

    pub fn set(&mut self, variable: &str, value: &str) {
        self.variables.retain(|(known, _)| known != variable);
        self.variables.push((variable.to_owned(), value.to_owned()));
    }

    pub fn config(&self) -> Config {
        Config::read(None, self.variables.clone()).expect("a good configuration")
    }

    /// The RabbitMQ at this port, spoken to as the shop does, by somebody who is not of it.
    pub fn rabbit(&self, port: u16) -> Broker {
        Broker::Rabbit(Rabbit::new(RabbitConfig {
            host: "127.0.0.1".into(),
            port,
            user: "guest".into(),
            password: "guest".to_owned().into(),
            vhost: "/".into(),
            prefix: self.prefix.clone(),
            delivery_limit: self.config().rabbitmq.delivery_limit,
            connection_name: "a stranger".into(),
        }))
    }

    /// A connection of the test's own to a node's database.
    pub async fn database(&self, node: Node) -> PgConnection {
        let name = node.database(&self.config()).name.clone();
        self.connect(&name).await
    }

    /// A connection of the test's own to any database of the server.
    pub async fn connect(&self, name: &str) -> PgConnection {
        let config = self.config();
        let server = Node::Order.database(&config);
        let options = PgConnectOptions::new_without_pgpass()
            .host(&server.host)
            .port(server.port)
            .username(&server.user)
            .database(name);
        PgConnection::connect_with(&options).await.expect("the database")
    }
}

impl TestShop {
    /// A shop on the in-process bus.
    pub async fn start() -> TestShop {
        TestShop::over(Over::Bus).await
    }

    pub async fn over(over: Over) -> TestShop {
        TestShop::with(Settings::new(over).await).await
    }

    pub async fn with(settings: Settings) -> TestShop {
        rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
        let config = settings.config();
        let mut shops = vec![];
        for _ in 0..settings.replicas {
            shops.push(Shop::start(&config, &Node::ALL).await.expect("the shop starts"));
        }
        let url = |shop: &Shop, node| format!("http://{}", shop.address(node).expect("it listens"));
        let urls = Urls::of_replicas(|node| shops.iter().map(|shop| url(shop, node)).collect());
        TestShop { replicas: shops, settings, urls }
    }

    /// The bus, if this shop is on it.
    pub fn bus(&self) -> Option<&Bus> {
        self.replicas[0].bus.as_ref()
    }

    /// What is measured of the actors of the one replica.
    pub fn inspector(&self) -> &shop_runtime::registry::ActorRegistry {
        &self.replicas[0].registry
    }

    /// Somebody without a token.
    pub fn nobody(&self) -> Client {
        Client::new(self.urls.clone())
    }

    /// The first administrator.
    pub async fn admin(&self) -> Client {
        self.nobody().sign_in("admin").await
    }

    /// A user who just signed up.
    pub async fn user(&self, name: &str) -> Client {
        self.nobody().sign_up(name).await
    }

    /// Ends the shop; says whether its outboxes are empty.
    pub async fn stop(self) -> bool {
        let mut relayed = true;
        for shop in self.replicas {
            relayed &= shop.stop().await;
        }
        relayed
    }

    /// Ends the shop; fails if an event is left in an outbox.
    pub async fn close(self) {
        assert!(self.stop().await, "events are left in an outbox");
    }
}

/// Where the nodes are, and whose turn it is.
#[derive(Clone, Debug)]
pub struct Urls(Arc<([Vec<String>; 3], AtomicUsize)>);

impl Urls {
    pub fn new(url: impl Fn(Node) -> String) -> Urls {
        Urls::of_replicas(|node| vec![url(node)])
    }

    fn of_replicas(urls: impl Fn(Node) -> Vec<String>) -> Urls {
        Urls(Arc::new((Node::ALL.map(urls), AtomicUsize::new(0))))
    }

    /// The next replica of this node.
    pub fn of(&self, node: Node) -> &str {
        let (urls, turn) = &*self.0;
        let node = Node::ALL.iter().position(|other| *other == node).expect("one of three");
        &urls[node][turn.fetch_add(1, Relaxed) % urls[node].len()]
    }
}

/// Somebody who calls the shop.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    urls: Urls,
    pub token: Option<String>,
    /// Who it is, once signed up or in.
    pub user: Value,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// What was asked, for whoever reads that a test failed.
    pub call: String,
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Client {
    pub fn new(urls: Urls) -> Client {
        rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(30));
        Client { http: http.build().expect("a client"), urls, token: None, user: Value::Null }
    }

    /// The same one with another token.
    pub fn with_token(&self, token: &str) -> Client {
        Client { token: Some(token.to_owned()), ..self.clone() }
    }

    /// What this node is called in the cluster.
    pub fn peer(&self, node: Node) -> String {
        self.urls.of(node).trim_start_matches("http://").to_owned()
    }

    /// The same one, at another shop.
    pub fn at(&self, shop: &TestShop) -> Client {
        Client { urls: shop.urls.clone(), ..self.clone() }
    }

    pub async fn sign_up(&self, name: &str) -> Client {
        let email = format!("{}@example.com", Uuid::new_v4().simple());
        let new = json!({"username": name, "email": email, "password": PASSWORD});
        self.post(Node::Auth, "/api/v1/auth/register", new).await.expect(201);
        self.sign_in(name).await
    }

    pub async fn sign_in(&self, name: &str) -> Client {
        let login = json!({"username": name, "password": PASSWORD});
        let signed_in = self.post(Node::Auth, "/api/v1/auth/login", login).await.expect(200);
        let mut client = self.with_token(signed_in["access_token"].as_str().expect("a token"));
        client.user = client.get(Node::Auth, "/api/v1/users/me").await.expect(200);
        client
    }

    pub fn id(&self) -> &str {
        self.user["id"].as_str().expect("signed in")
    }

    pub async fn category(&self, name: &str, parent: Value) -> Value {
        let new = json!({"name": name, "parent_id": parent});
        self.post(Node::Catalog, "/api/v1/category", new).await.expect(201)
    }

    /// Adds a product in a category of its own.
    pub async fn product(&self, price: i64, quantity: i64) -> Value {
        let category = self.category("Чайники", Value::Null).await;
        let new = json!({"name": "Синий чайник", "price": price, "quantity": quantity, "category_id": category["id"]});
        self.post(Node::Catalog, "/api/v1/product", new).await.expect(201)
    }

    /// Orders for itself: pairs of product and quantity.
    pub async fn order(&self, items: &[(&Value, i64)]) -> Answer {
        let item = |(product, quantity): &(&Value, i64)| json!({"product_id": product["id"], "quantity": quantity});
        let items: Vec<_> = items.iter().map(item).collect();
        self.place(json!({"user_id": self.id(), "items": items})).await
    }

    /// Orders, again for as long as the order node has not heard of whom or what the order names: on a busy machine
    /// the news may take longer than an order waits for it.
    pub async fn place(&self, order: Value) -> Answer {
        let since = Instant::now();
        loop {
            let answer = self.post(Node::Order, "/order", order.clone()).await;
            if !answer.is_about_news() || since.elapsed() > Duration::from_secs(60) {
                return answer;
            }
        }
    }

    /// What the catalog shows as left of a product.
    pub async fn left(&self, product: &Value) -> i64 {
        let products = self.get(Node::Catalog, "/api/v1/products").await.expect(200);
        let products = products.as_array().expect("an array");
        let found = products.iter().find(|other| other["id"] == product["id"]);
        found.expect("the product is listed")["storage_quantity"].as_i64().expect("a number")
    }

    pub async fn get(&self, node: Node, path: &str) -> Answer {
        self.send(Method::GET, node, path, None).await
    }

    pub async fn post(&self, node: Node, path: &str, body: Value) -> Answer {
        self.send(Method::POST, node, path, Some(body)).await
    }

    pub async fn put(&self, node: Node, path: &str, body: Value) -> Answer {
        self.send(Method::PUT, node, path, Some(body)).await
    }

    pub async fn delete(&self, node: Node, path: &str) -> Answer {
        self.send(Method::DELETE, node, path, None).await
    }

    pub async fn send(
        &self,
        method: Method,
        node: Node,
        path: &str,
        body: Option<Value>,
    ) -> Answer {
        let mut request = self.request(method, node, path);
        if let Some(body) = body {
            request = request.json(&body);
        }
        Answer::of(request).await
    }

    /// Sends a body as it is, under any content type.
    pub async fn send_raw(
        &self,
        method: Method,
        node: Node,
        path: &str,
        content_type: Option<&str>,
        body: impl Into<reqwest::Body>,
    ) -> Answer {
        let mut request = self.request(method, node, path).body(body);
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        Answer::of(request).await
    }

    /// What its token says.
    pub fn claims(&self) -> Value {
        let token = self.token.as_deref().expect("signed in");
        let key = DecodingKey::from_secret(SECRET.as_bytes());
        let token = jsonwebtoken::decode(token, &key, &Validation::new(Algorithm::HS256));
        token.expect("a token signed with our secret by HS256").claims
    }

    /// A request to add to.
    pub fn request(&self, method: Method, node: Node, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.urls.of(node)));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }
}

impl Answer {
    pub async fn of(request: reqwest::RequestBuilder) -> Answer {
        let (client, request) = request.build_split();
        let request = request.expect("a request");
        let body = request.body().and_then(|body| body.as_bytes()).unwrap_or_default();
        let body = String::from_utf8_lossy(&body[..body.len().min(300)]);
        let call = format!("{} {} {body}", request.method(), request.url());
        let response = client.execute(request).await.unwrap_or_else(|e| panic!("{call}: {e}"));
        let (status, headers) = (response.status(), response.headers().clone());
        Answer { call, status, headers, text: response.text().await.expect("a whole answer") }
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("not JSON: {}", self.text))
    }

    /// The body, if this is the status. A failure must keep all that the contract says of failures.
    #[track_caller]
    pub fn expect(&self, status: u16) -> Value {
        let Answer { call, text, .. } = self;
        assert_eq!(self.status.as_u16(), status, "{call}: {text}");
        assert!(!self.header("x-request-id").is_empty(), "{call}");
        let body = self.json();
        if status >= 400 {
            assert_eq!(self.header("content-type"), "application/problem+json", "{call}: {text}");
            assert_eq!(body["status"], status, "{call}: {text}");
            for field in ["type", "title", "detail"] {
                let text = body[field].as_str().unwrap_or_default();
                assert!(!text.is_empty(), "{call}: no {field}: {body}");
            }
            for inside in ["select ", "insert ", "sqlx", ".rs:", SECRET, PASSWORD] {
                assert!(!text.contains(inside), "{call} shows what is inside: {text}");
            }
        }
        match status {
            401 => assert_eq!(self.header("www-authenticate"), "Bearer", "{call}"),
            429 | 503 => {
                let seconds = self.header("retry-after").parse::<u32>();
                assert!(seconds.is_ok(), "{call}: when to try again: {seconds:?}");
            }
            _ => {}
        }
        body
    }

    /// Whether it says that the news of a user or product has not come.
    fn is_about_news(&self) -> bool {
        let about = |error: &Value| {
            let field = error["field"].as_str().unwrap_or_default();
            field == "user_id" || field.ends_with(".product_id")
        };
        match self.status.as_u16() {
            422 => self.json()["errors"].as_array().is_some_and(|errors| errors.iter().all(about)),
            503 => self.text.contains("the news of your account"),
            _ => false,
        }
    }

    /// The fields whose rules the body broke, if it is 422, in alphabetical order.
    #[track_caller]
    pub fn broken_fields(&self) -> Vec<String> {
        let problem = self.expect(422);
        let Some(errors) = problem["errors"].as_array() else {
            panic!("{}: no broken rules: {problem}", self.call)
        };
        for error in errors {
            assert!(error["detail"].as_str().is_some_and(|d| !d.is_empty()), "{problem}");
        }
        let field = |error: &Value| error["field"].as_str().expect("a field").to_owned();
        let mut fields: Vec<_> = errors.iter().map(field).collect();
        fields.sort();
        fields
    }

    #[track_caller]
    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        let value = value.unwrap_or_else(|| panic!("{}: no header {name}", self.call));
        value.to_str().expect("a text")
    }
}

/// A token of the test's own making.
pub fn forge(claims: &Value, algorithm: Algorithm, secret: &str) -> String {
    let key = EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&Header::new(algorithm), claims, &key).expect("a token")
}

/// Tries until it is true, for at most a minute: the machine may be busy.
#[track_caller]
pub fn eventually<T: Debug>(
    mut tried: impl AsyncFnMut() -> Result<T, String>,
) -> impl Future<Output = T> {
    let caller = std::panic::Location::caller();
    async move {
        let since = Instant::now();
        loop {
            match tried().await {
                Ok(value) => return value,
                Err(_) if since.elapsed() < Duration::from_secs(60) => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Err(why) => panic!("not within a minute, at {caller}: {why}"),
            }
        }
    }
}

/// For `eventually`: two values that must become equal.
pub fn same<T: PartialEq + Debug>(left: T, right: T) -> Result<T, String> {
    match left == right {
        true => Ok(left),
        false => Err(format!("{left:?} is not {right:?}")),
    }
}
