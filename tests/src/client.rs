//! HTTP clients of the shop.

use std::time::{Duration, Instant};

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use shop_supervisor::Node;
use uuid::Uuid;

use crate::api::{Category, Login, Product, User};
use crate::response::Response;
use crate::secrets::{PASSWORD, SECRET};
use crate::urls::Urls;
use crate::wait::{TIMEOUT, equal, eventually};

/// A client with or without a token.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    urls: Urls,
    /// The token of its user.
    pub token: Option<String>,
    user: Option<User>,
}

impl Client {
    /// A client without a token.
    pub fn new(urls: Urls) -> Client {
        rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(30));
        Client { http: http.build().expect("an HTTP client"), urls, token: None, user: None }
    }

    /// The same client with another token.
    pub fn with_token(&self, token: &str) -> Client {
        Client { token: Some(token.to_owned()), ..self.clone() }
    }

    /// The same client at other replicas of the shop.
    pub fn at(&self, urls: &Urls) -> Client {
        Client { urls: urls.clone(), ..self.clone() }
    }

    /// Host and port of a node, which name it in the cluster.
    pub fn peer(&self, node: Node) -> String {
        self.urls.next(node).trim_start_matches("http://").to_owned()
    }

    /// Registers a user with [`PASSWORD`] and logs in.
    pub async fn register(&self, name: &str) -> Client {
        let email = format!("{}@example.com", Uuid::new_v4().simple());
        let new = json!({"username": name, "email": email, "password": PASSWORD});
        self.post(Node::Auth, "/api/v1/auth/register", new).await.expect(201);
        self.log_in(name).await
    }

    /// Logs in with [`PASSWORD`].
    pub async fn log_in(&self, name: &str) -> Client {
        let login = json!({"username": name, "password": PASSWORD});
        let response = self.post(Node::Auth, "/api/v1/auth/login", login).await;
        let mut client = self.with_token(&response.read::<Login>(200).access_token);
        client.user = Some(client.get(Node::Auth, "/api/v1/users/me").await.read(200));
        client
    }

    /// The user as it was at the login.
    ///
    /// # Panics
    /// When no user is logged in.
    pub fn user(&self) -> &User {
        self.user.as_ref().expect("a client that is logged in")
    }

    /// The id of the user.
    ///
    /// # Panics
    /// When no user is logged in.
    pub fn id(&self) -> Uuid {
        self.user().id
    }

    /// Waits until every node is ready.
    pub async fn until_ready(&self) {
        for node in Node::ALL {
            eventually(async || {
                let response = self.request(Method::GET, node, "/health/ready").send().await;
                equal(response.map_err(|error| error.to_string())?.status().as_u16(), 200)
            })
            .await;
        }
    }

    /// Adds a category.
    pub async fn category(&self, name: &str, parent: Option<i64>) -> Category {
        let new = json!({"name": name, "parent_id": parent});
        self.post(Node::Catalog, "/api/v1/category", new).await.read(201)
    }

    /// Adds a product to a category of its own.
    pub async fn product(&self, price: i64, quantity: i64) -> Product {
        let category_id = self.category("Чайники", None).await.id;
        let new = json!({
            "name": "Синий чайник", "price": price, "quantity": quantity, "category_id": category_id
        });
        self.post(Node::Catalog, "/api/v1/product", new).await.read(201)
    }

    /// The body of an order for its user.
    pub fn order_body(&self, items: &[(&Product, i64)]) -> Value {
        let item = |(product, quantity): &(&Product, i64)| json!({"product_id": product.id, "quantity": quantity});
        json!({"user_id": self.id(), "items": items.iter().map(item).collect::<Vec<_>>()})
    }

    /// Places an order for its user. Repeats the request while the order node has not received the
    /// user's or a product's event: on a busy machine that takes longer than an order waits for it.
    pub async fn order(&self, items: &[(&Product, i64)]) -> Response {
        self.place_order(self.order_body(items)).await
    }

    /// Places an order, as [`Self::order`].
    pub async fn place_order(&self, order: Value) -> Response {
        let since = Instant::now();
        loop {
            let response = self.post(Node::Order, "/order", order.clone()).await;
            if !response.awaits_event() || since.elapsed() > TIMEOUT {
                return response;
            }
        }
    }

    /// A product's stock as the catalog lists it.
    ///
    /// # Panics
    /// When the product is not listed.
    pub async fn stock(&self, product: &Product) -> i64 {
        let products = self.get(Node::Catalog, "/api/v1/products").await;
        let products: Vec<Product> = products.read(200);
        let listed = products.into_iter().find(|other| other.id == product.id);
        listed.expect("the product is listed").storage_quantity
    }

    /// Waits until the catalog lists this stock of a product.
    pub async fn until_stock(&self, product: &Product, expected: i64) {
        eventually(async || equal(self.stock(product).await, expected)).await;
    }

    /// Sends a GET request.
    pub async fn get(&self, node: Node, path: &str) -> Response {
        self.send(Method::GET, node, path, None).await
    }

    /// Sends a POST request.
    pub async fn post(&self, node: Node, path: &str, body: Value) -> Response {
        self.send(Method::POST, node, path, Some(body)).await
    }

    /// Sends a PUT request.
    pub async fn put(&self, node: Node, path: &str, body: Value) -> Response {
        self.send(Method::PUT, node, path, Some(body)).await
    }

    /// Sends a DELETE request.
    pub async fn delete(&self, node: Node, path: &str) -> Response {
        self.send(Method::DELETE, node, path, None).await
    }

    /// Sends a request.
    pub async fn send(
        &self,
        method: Method,
        node: Node,
        path: &str,
        body: Option<Value>,
    ) -> Response {
        let request = self.request(method, node, path);
        Response::of(with_body(request, body.as_ref())).await
    }

    /// Sends a request with an idempotency key.
    pub async fn send_with_key(
        &self,
        key: &str,
        method: Method,
        node: Node,
        path: &str,
        body: Option<&Value>,
    ) -> Response {
        let request = self.request(method, node, path).header("idempotency-key", key);
        Response::of(with_body(request, body)).await
    }

    /// Sends a body as it is, with any content type.
    pub async fn send_raw(
        &self,
        method: Method,
        node: Node,
        path: &str,
        content_type: Option<&str>,
        body: impl Into<reqwest::Body>,
    ) -> Response {
        let mut request = self.request(method, node, path).body(body);
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        Response::of(request).await
    }

    /// A request to extend and to send.
    pub fn request(&self, method: Method, node: Node, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.urls.next(node)));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// The claims of its token.
    ///
    /// # Panics
    /// When it has no token or the signature is wrong.
    pub fn claims(&self) -> Value {
        let token = self.token.as_deref().expect("a client that is logged in");
        let key = DecodingKey::from_secret(SECRET.as_bytes());
        let token = jsonwebtoken::decode(token, &key, &Validation::new(Algorithm::HS256));
        token.expect("a token signed with HS256 and the tests' key").claims
    }
}

fn with_body(request: RequestBuilder, body: Option<&Value>) -> RequestBuilder {
    match body {
        Some(body) => request.json(body),
        None => request,
    }
}

/// Signs a token.
///
/// # Panics
/// When the claims cannot be signed.
pub fn sign(claims: &Value, algorithm: Algorithm, secret: &str) -> String {
    let key = EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&Header::new(algorithm), claims, &key).expect("a token")
}
