//! What a client does in the shop. Each response is compared with the request, and each acknowledged
//! write is recorded.

use std::collections::BTreeMap;

use rand::RngExt;
use rand::seq::{IndexedRandom, IteratorRandom};
use reqwest::Method;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use shop_supervisor::Node;
use shop_tests::{PASSWORD, api};
use uuid::Uuid;

use super::Client;
use super::requests::{Caller, Request, Response};
use crate::records::{Category, Order, Product, User};

impl Client {
    /// Does one of the things that are possible in a shop.
    pub async fn act(&mut self) {
        let Some(id) = self.user_id else {
            self.user_id = self.register().await;
            return;
        };
        match self.rng.random_range(0..100) {
            0..50 => self.place_order(id).await,
            50..68 => self.change_quantity().await,
            68..85 => self.read().await,
            85..90 => self.change_profile(id).await,
            90..94 => self.register_admin().await,
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
        let body = self.write(Caller::Anonymous, Method::POST, Node::Auth, path, Some(new)).await?;
        let expected = User { username: name, email, role: "USER".to_owned() };
        let registered = user(&body);
        let correct = registered.as_ref().is_some_and(|(_, user)| *user == expected);
        self.records.check(correct, "a registration", &body);
        let (id, user) = registered?;
        self.records.add("user", |all| &mut all.users, [(id, user)]);
        Some(id)
    }

    async fn change_profile(&mut self, id: Uuid) {
        let name = Uuid::new_v4().simple().to_string();
        let changes = if self.rng.random_bool(0.5) {
            json!({"username": name})
        } else {
            json!({"email": format!("{name}@example.org")})
        };
        let path = "/api/v1/users/me".to_owned();
        let body = Some(changes.clone());
        self.next_name = changes["username"].as_str().map(str::to_owned);
        let changed = self.write(Caller::User, Method::PUT, Node::Auth, path, body).await;
        self.next_name = None;
        if let (Some(body), Some(recorded)) = (changed, self.records.users.get_mut(&id)) {
            let change = |field: &str, recorded: &mut String| {
                if let Some(new) = changes[field].as_str() {
                    *recorded = new.to_owned();
                }
            };
            change("username", &mut recorded.username);
            change("email", &mut recorded.email);
            let correct = user(&body) == Some((id, recorded.clone()));
            self.records.check(correct, "a change of a profile", &body);
        }
    }

    /// Registers a user, makes it an administrator, and mostly deletes it.
    async fn register_admin(&mut self) {
        let Some(id) = self.register().await else { return };
        let role = json!({"role": "ADMIN"});
        let path = format!("/api/v1/users/{id}/role");
        let changed = self.write(Caller::Admin, Method::PUT, Node::Auth, path, Some(role)).await;
        if let (Some(body), Some(recorded)) = (changed, self.records.users.get_mut(&id)) {
            recorded.role = "ADMIN".to_owned();
            let correct = user(&body) == Some((id, recorded.clone()));
            self.records.check(correct, "a change of a role", &body);
        }
        if self.rng.random_bool(0.7) {
            let path = format!("/api/v1/users/{id}");
            if self.write(Caller::Admin, Method::DELETE, Node::Auth, path, None).await.is_some() {
                self.records.users.remove(&id);
                self.records.deleted_users.insert(id);
            }
        }
    }

    /// An acknowledged category.
    fn choose_category(&mut self) -> Option<i64> {
        self.load.categories.lock().expect("no panic").choose(&mut self.rng).copied()
    }

    pub async fn add_category(&mut self) {
        let name = Uuid::new_v4().to_string();
        let parent_id = self.choose_category().filter(|_| self.rng.random_bool(0.5));
        let new = json!({"name": name, "parent_id": parent_id});
        let path = "/api/v1/category".to_owned();
        let added = self.write(Caller::Admin, Method::POST, Node::Catalog, path, Some(new)).await;
        let Some(body) = added else { return };
        let category: Option<api::Category> = parse(&body);
        let is_correct =
            |category: &api::Category| category.name == name && category.parent_id == parent_id;
        self.records.check(category.as_ref().is_some_and(is_correct), "a category", &body);
        let Some(api::Category { id, .. }) = category else { return };
        let category = Category { name, parent_id };
        self.records.add("category", |all| &mut all.categories, [(id, category)]);
        self.load.categories.lock().expect("no panic").push(id);
    }

    pub async fn add_product(&mut self, stocked: i64) {
        let name = Uuid::new_v4().to_string();
        let Some(category_id) = self.choose_category() else { return };
        let price = self.rng.random_range(1..10_000);
        let new =
            json!({"name": name, "price": price, "quantity": stocked, "category_id": category_id});
        let path = "/api/v1/product".to_owned();
        let added = self.write(Caller::Admin, Method::POST, Node::Catalog, path, Some(new)).await;
        let Some(body) = added else { return };
        let product: Option<api::Product> = parse(&body);
        let is_correct = |product: &api::Product| {
            product.name == name
                && product.price == price
                && product.storage_quantity == stocked
                && product.category_id == category_id
        };
        self.records.check(product.as_ref().is_some_and(is_correct), "a product", &body);
        let Some(api::Product { id, .. }) = product else { return };
        let product = Product { name, price, stocked, category_id };
        self.records.add("product", |all| &mut all.products, [(id, product)]);
        self.load.products.lock().expect("no panic").push(id);
    }

    async fn place_order(&mut self, user_id: Uuid) {
        let amount = self.rng.random_range(1..=4);
        let products = self.load.choose_products(&mut self.rng, amount);
        let mut quantity = || self.rng.random_range(1..=5);
        let requested: BTreeMap<i64, i64> =
            products.into_iter().map(|product| (product, quantity())).collect();
        let item = |(product, quantity)| json!({"product_id": product, "quantity": quantity});
        let items: Vec<_> = requested.iter().map(item).collect();
        let new = json!({"user_id": user_id, "items": items});
        let path = "/order".to_owned();
        let placed = self.write(Caller::User, Method::POST, Node::Order, path, Some(new)).await;
        let Some(body) = placed else { return };
        let Some(placed) = parse::<api::Order>(&body) else {
            self.records.check(false, "an order", &body);
            return;
        };
        let order = Order { user_id, items: placed.items.iter().map(item_of).collect() };
        let ordered: BTreeMap<i64, i64> = order.items.values().copied().collect();
        self.records.check(ordered == requested, "an order", &body);
        self.records.add("order", |all| &mut all.orders, [(placed.id, order)]);
        self.orders.push(placed.id);
    }

    async fn change_quantity(&mut self) {
        let Some(&id) = self.orders.choose(&mut self.rng) else { return };
        let items = self.records.orders.get(&id).map(|order| &order.items);
        let chosen = items.and_then(|items| items.iter().choose(&mut self.rng));
        let Some((&item, &(product, _))) = chosen else { return };
        let quantity = self.rng.random_range(1..=8);
        let change = json!({"order_item_id": item, "quantity": quantity});
        let path = format!("/update_order/{id}");
        let changed = self.write(Caller::User, Method::PUT, Node::Order, path, Some(change)).await;
        let Some(body) = changed else { return };
        let changed = parse::<api::OrderItem>(&body).as_ref().map(item_of);
        let correct = changed == Some((item, (product, quantity)));
        self.records.check(correct, "a change of an item", &body);
        if let Some(order) = self.records.orders.get_mut(&id) {
            order.items.insert(item, (product, quantity));
        }
    }

    /// Reads something. Acknowledged writes must be visible.
    async fn read(&mut self) {
        let order = self.orders.choose(&mut self.rng).copied();
        let (node, path) = match (self.rng.random_range(0..4), order) {
            (0, Some(id)) => (Node::Order, format!("/order/{id}")),
            (1, _) => (Node::Catalog, "/api/v1/products".to_owned()),
            (2, _) => (Node::Catalog, "/api/v1/categories".to_owned()),
            _ => (Node::Auth, "/api/v1/users/me".to_owned()),
        };
        let caller = Caller::User;
        let request = Request { caller, method: Method::GET, node, path, body: None, key: None };
        let Some(Response { status, body, .. }) = self.resolve(&request).await else { return };
        let recorded = match (node, order) {
            (Node::Order, Some(id)) => {
                let recorded = self.records.orders.get(&id).map(|order| order.items.clone());
                let items = |order: api::Order| order.items.iter().map(item_of).collect();
                recorded.is_some() && parse(&body).map(items) == recorded
            }
            (Node::Auth, _) => {
                let recorded = self.user_id.and_then(|id| Some((id, self.records.users.get(&id)?)));
                let read = user(&body);
                recorded.is_some() && read.as_ref().map(|(id, user)| (*id, user)) == recorded
            }
            _ => true,
        };
        self.records.check(status == 200 && recorded, &format!("GET {}", request.path), &body);
    }
}

fn parse<T: DeserializeOwned>(body: &Value) -> Option<T> {
    T::deserialize(body).ok()
}

/// A user and its id.
fn user(body: &Value) -> Option<(Uuid, User)> {
    let api::User { id, username, email, role } = parse(body)?;
    Some((id, User { username, email, role }))
}

/// The id, product and quantity of an item.
fn item_of(item: &api::OrderItem) -> (i64, (i64, i64)) {
    (item.id, (item.product_id, item.product_quantity))
}
