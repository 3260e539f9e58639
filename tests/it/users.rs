//! Users: registration, login, administration, and what a token is valid for.

mod administration;
mod login;
mod registration;
mod tokens;

use serde_json::{Value, json};
use shop_supervisor::Node;
use shop_tests::{Client, PASSWORD, Response};
use uuid::Uuid;

const REGISTER: &str = "/api/v1/auth/register";
const LOGIN: &str = "/api/v1/auth/login";
const VERIFY: &str = "/api/v1/auth/verify";
const ME: &str = "/api/v1/users/me";
const USERS: &str = "/api/v1/users";

/// A unique email address.
fn address() -> String {
    format!("{}@example.com", Uuid::new_v4().simple())
}

async fn register(
    anonymous: &Client,
    username: impl Into<Value>,
    email: impl Into<Value>,
) -> Response {
    let new = json!({"username": username.into(), "email": email.into(), "password": PASSWORD});
    anonymous.post(Node::Auth, REGISTER, new).await
}

async fn login(anonymous: &Client, username: &str, password: &str) -> Response {
    let login = json!({"username": username, "password": password});
    anonymous.post(Node::Auth, LOGIN, login).await
}

async fn set_role(admin: &Client, user: &Client, role: &str) -> Response {
    let path = format!("{USERS}/{}/role", user.id());
    admin.put(Node::Auth, &path, json!({"role": role})).await
}
